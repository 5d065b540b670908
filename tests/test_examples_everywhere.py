"""Every public name shows in its docstring how it is called and what it gives."""

import importlib
import inspect
import pkgutil

import pytest

import smoothjax

_ABSTRACT = "abstract: its concrete classes have examples"
_RESULT = "a plain result: the function that returns it has the example"
_COMPARISON = "makes or takes a comparison, which needs half a minute: see `tests/test_compare.py`"
_NETWORKS = "trains networks, for minutes: its test runs it small"
_MANY_MODELS = "trains hundreds of models, for minutes: its test runs it with few"

# Public names that have no example, and why not.
WITHOUT = {
    "AbstractDenoiser": _ABSTRACT,
    "AbstractPosteriorDenoiser": _ABSTRACT,
    "AbstractProcess": _ABSTRACT,
    "processes.AbstractUnscaledProcess": _ABSTRACT,
    "variance.AbstractLaw": _ABSTRACT,
    "Replay": _RESULT,
    "learning.LinearDistillation": _RESULT,
    "training_dynamics.FeatureErrors": _RESULT,
    "variance.TrainingSet": _RESULT,
    "measures.GaussianityIndex": _RESULT,
    "measures.LinearityComparison": _RESULT,
    "measures.LinearityScore": _RESULT,
    "mechanisms.StrengthChoice": _RESULT,
    "Comparison": _COMPARISON,
    "compare_mechanisms": _COMPARISON,
    "plots.figures": _COMPARISON,
    "plots.plot_curves": _COMPARISON,
    "plots.plot_sample_measures": _COMPARISON,
    "plots.plot_samples": _COMPARISON,
    "report.save": _COMPARISON,
    "report.side_by_side": _COMPARISON,
    "plots.figures_of_several": _COMPARISON,
    "plots.plot_correlations": _COMPARISON,
    "experiments.FinishedComparison": _COMPARISON,
    "experiments.circle": _NETWORKS,
    "experiments.emergence": _NETWORKS,
    "experiments.explain_network": _NETWORKS,
    "experiments.line_in_plane": _NETWORKS,
    "experiments.memorization": _NETWORKS,
    "experiments.network_closure": _NETWORKS,
    "experiments.penalty_sweep": _NETWORKS,
    "experiments.strong_generalization": _NETWORKS,
    "experiments.tangent_kernel_networks": _NETWORKS,
    "experiments.gap_emptying": _MANY_MODELS,
    "experiments.gap_filling": _MANY_MODELS,
    "experiments.gap_geometry": _MANY_MODELS,
    "experiments.gaussian_closure": _MANY_MODELS,
    "experiments.law_accuracy": _MANY_MODELS,
    "experiments.target_ablation": _MANY_MODELS,
    "cli.main": "a command of the shell: `tests/test_compare.py` runs it",
}

# Public names whose example is still to be written.
MISSING: dict[str, str] = {}


def _public_modules():
    """The package and all its public modules."""
    yield smoothjax
    for found in pkgutil.iter_modules(smoothjax.__path__):
        if not found.name.startswith("_"):
            yield importlib.import_module(f"smoothjax.{found.name}")


def _own_names(module):
    """The functions and classes of the package that a module offers."""
    is_package = hasattr(module, "__path__")
    for name, value in vars(module).items():
        if name.startswith("_") or not callable(value):
            continue
        origin = getattr(value, "__module__", None) or ""  # also of what `jax.jit` wraps
        # A module's imports are no names of its own; a package's `__init__` has nothing else.
        if origin == module.__name__ or (is_package and origin.startswith("smoothjax.")):
            yield name, value


def _public_names():
    """Every public function, class and constructor of a class, by its shortest name in `smoothjax`."""
    found, seen = {}, set()
    for module in _public_modules():
        prefix = module.__name__.removeprefix("smoothjax").lstrip(".")
        for name, value in _own_names(module):
            if id(value) in seen:
                continue
            seen.add(id(value))
            path = f"{prefix}.{name}" if prefix else name
            found[path] = value
            if inspect.isclass(value):
                for part, method in vars(value).items():
                    if isinstance(method, classmethod) and not part.startswith("_"):
                        found[f"{path}.{part}"] = method.__func__
    return found


NAMES = _public_names()


def _has_example(value) -> bool:
    own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    return ">>>" in (own or "")


def test_the_walk_finds_names_of_each_kind():
    compiled, of_a_module = "learning.train_on_line", "mechanisms.register"
    assert {"flow", "variance.KernelDenoiser", "GaussianDenoiser.fit", compiled, of_a_module} <= {
        *NAMES
    }
    assert "grids.edm_grid" not in NAMES  # known by its shorter name
    assert len(NAMES) > 200


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(WITHOUT) - set(MISSING)))
def test_has_an_example(name):
    assert _has_example(NAMES[name])


@pytest.mark.parametrize("name", sorted({**WITHOUT, **MISSING}))
def test_listed_name_exists_and_has_no_example(name):
    """The lists can only shrink."""
    assert name in NAMES
    assert not _has_example(NAMES[name])


def test_nothing_is_missing():
    assert not MISSING
    assert all(reason.strip() for reason in WITHOUT.values())
