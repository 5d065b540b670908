"""The house holds: arrows between rooms point down, nothing private crosses packages, nothing goes round."""

import ast
import builtins
import dis
import graphlib
import importlib
import types
from pathlib import Path

import pytest

import smoothjax

ROOT = Path(smoothjax.__file__).parent
# From the ground up; rooms of one floor do not know of each other.
FLOORS = (
    {"_command_start", "_checks", "_columns", "_files", "_registry", "_version"},
    {"_kinds"},
    {"_citation", "_jax", "_figure", "_numerics", "_keys", "_layout", "_page", "_progress"},
    {"_levels", "_line", "_noise", "_calls", "_ode"},
    {"processes", "grids", "datasets", "parametrization"},
    {"denoisers"},
    {"flows", "interop", "_units"},
    {"measures", "_strengths", "_doctor"},
    {"smoothing", "variance", "regimes", "training_dynamics"},
    {"learning", "gaussian"},
    {"mechanisms"},
    {"experiments"},
    {"plots"},
    {"report"},
    {"_commands"},
    {"cli"},
    {"__main__"},
)
# Inside `denoisers`.
DENOISER_FLOORS = (
    {"_compiled"},
    {"_base"},
    {"_posterior"},
    {"_empirical", "_gaussian", "_combined"},
    {"_smoothed", "_images", "_truncated"},
)


def _modules():
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = ("smoothjax", *path.relative_to(ROOT).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


MODULES = _modules()


def _package(module):
    return module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]


def _imports(module):
    """`(module, name)` of all that a module imports from this package, but for the eyes of type checkers."""
    tree = ast.parse(MODULES[module].read_text())
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in unseen:
            base = node.module or ""
            if node.level:
                parts = _package(module).split(".")
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            if base.partition(".")[0] != "smoothjax":
                continue
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner, None) if inner in MODULES else (base, alias.name)
        elif isinstance(node, ast.Import) and id(node) not in unseen:
            for alias in node.names:
                assert alias.name.partition(".")[0] != "smoothjax", f"{module}: import {alias.name}"


ARROWS = [(module, *found) for module in MODULES for found in _imports(module)]


def test_the_walk_sees_imports_of_each_kind():
    assert ("smoothjax.flows._replay", "smoothjax.denoisers", "TruncatedDenoiser") in ARROWS
    assert ("smoothjax.mechanisms._built_in", "smoothjax.measures", None) in ARROWS
    assert ("smoothjax.denoisers._gaussian.mixture", "smoothjax._checks", "as_points") in ARROWS
    assert len(ARROWS) > 1000


def test_nothing_private_is_taken_from_another_package():
    """What begins with an underscore is known below its own folder only."""
    wrong = []
    for module, target, name in ARROWS:
        parts = [*target.split("."), *([name] if name else [])]
        private = next((i for i, part in enumerate(parts) if part.startswith("_")), None)
        if private is None:
            continue
        owner = ".".join(parts[:private])
        if name is not None and name.startswith("_") and private == len(parts) - 1:
            inside = module == target
        else:
            inside = f"{_package(module)}.".startswith(f"{owner}.")
        if not inside:
            wrong.append(f"{module}: {'.'.join(parts)}")
    assert not wrong, "\n".join(wrong)


# Tests of several: what they take of each. No other may come, and what is mended leaves the list.
OF_SEVERAL = {"test_command_line": {"_commands", "_files"}}


def _private_rooms(path):
    """The rooms of the package that a file takes private names or modules from."""
    for node in ast.walk(ast.parse(path.read_text())):
        taken = []
        if isinstance(node, ast.ImportFrom):
            taken = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            taken = [alias.name for alias in node.names]
        for name in taken:
            package, *parts = name.split(".")
            if package == "smoothjax" and any(part.startswith("_") for part in parts):
                yield parts[0]


def test_tests_look_inside_one_room():
    """A test file is about one package: what is private of others may change without it."""
    paths = sorted(Path(__file__).parent.glob("*.py"))
    rooms = {path.stem: set(_private_rooms(path)) for path in paths}
    assert rooms["test_compare"] == {"experiments"} and len(rooms) > 50
    assert {name: found for name, found in rooms.items() if len(found) > 1} == OF_SEVERAL


def _floor(rooms, name):
    return next((i for i, floor in enumerate(rooms) if name in floor), None)


@pytest.mark.parametrize(
    ("folder", "rooms"), [("smoothjax", FLOORS), ("smoothjax.denoisers", DENOISER_FLOORS)]
)
def test_arrows_point_down(folder, rooms):
    wrong = set()
    depth = folder.count(".") + 1
    for module, target, _ in ARROWS:
        if not (module.startswith(f"{folder}.") and target.startswith(f"{folder}.")):
            continue
        here, there = module.split(".")[depth], target.split(".")[depth]
        if here == there:
            continue
        above, below = _floor(rooms, here), _floor(rooms, there)
        assert above is not None and below is not None, (here, there)
        if below >= above:
            wrong.add(f"{module}: {target}")
    assert not wrong, "\n".join(sorted(wrong))


def test_every_room_has_a_floor():
    rooms = {path.stem for path in ROOT.glob("*.py")} | {
        path.parent.name for path in ROOT.glob("*/__init__.py")
    }
    assert rooms - {"__init__"} == set().union(*FLOORS)


def test_nothing_goes_round():
    graph = {module: set() for module in MODULES}
    for module, target, name in ARROWS:
        # A package that is asked for one of its names has run all that it imports.
        if target != module and not f"{module}.".startswith(f"{target}."):
            graph[module].add(target)
        assert not (name and f"{module}.".startswith(f"{target}.") and module != target), (
            f"{module} takes {name} from the package that it is part of"
        )
    list(graphlib.TopologicalSorter(graph).static_order())


def test_rooms_say_what_lives_there():
    for module, path in MODULES.items():
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert text, module


def _unknown_globals(code, known):
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL" and instruction.argval not in known:
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _unknown_globals(constant, known)


def test_every_name_is_defined():
    """Shapes in annotations look like undefined names to linters, which are told not to look for any."""
    for module, path in MODULES.items():
        known = {*vars(importlib.import_module(module)), *dir(builtins)}
        code = compile(path.read_text(), str(path), "exec")
        assert not set(_unknown_globals(code, known)), module
