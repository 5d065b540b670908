"""Entries of all public names, from the package itself, so that none can be left out.

`.. public-names:: smoothjax.flows` writes an entry for everything that this module offers. Each can be referred to by its
place (`smoothjax.flows.sample`), by its short name where it has one (`smoothjax.sample`), and by where it is defined, as
annotations do. Code in docstrings and in pages becomes a link where it is the name of one; a name of a package in a page,
`smoothing.line_spread`, must be one.
"""

import ast
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
ROOT = "smoothjax"
# Endings of files that are called as packages are.
FILES = {"html", "nc", "png", "py", "md"}


def modules() -> list[str]:
    """The public modules; that of the command line is a page of its own."""
    package = importlib.import_module(ROOT)
    return [f"{ROOT}.{m.name}" for m in pkgutil.iter_modules(package.__path__) if m.name[0] != "_"]


@functools.cache
def public_names(module_name: str) -> dict[str, object]:
    """What a module offers: of a package what its `__init__` gives on, of a module what is written in it."""
    module = importlib.import_module(module_name)
    tree = ast.parse(Path(module.__file__).read_text())
    names = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            names += [alias.asname for alias in node.names if alias.asname == alias.name]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    found = {name: getattr(module, name) for name in names if not name.startswith("_")}
    return {name: value for name, value in found.items() if not inspect.ismodule(value)}


def _kind(value: object) -> str:
    if inspect.isclass(value):
        return "class"
    return (
        "function"
        if (callable(value) and hasattr(value, "__wrapped__")) or inspect.isroutine(value)
        else "data"
    )


class PublicNames(SphinxDirective):
    """An entry for everything that a module offers, in the order of its `__init__`."""

    required_arguments = 1

    def run(self):
        (module,) = self.arguments
        lines = self._overview(module)
        names = public_names(module)
        if module == ROOT:  # those that have an entry on the page of a package need no other
            names = {name: value for name, value in names.items() if not _place_of(name, value)}
        for name, value in names.items():
            kind = _kind(value)
            lines += [f".. auto{kind}:: {module}.{name}"]
            if kind == "class":
                lines += ["   :members:", "   :show-inheritance:"]
            if kind == "data":
                lines += ["   :no-value:"]
            lines += [""]
        holder = nodes.container()
        self.state.nested_parse(StringList(lines, module), self.content_offset, holder)
        self._note_other_names(module)
        return holder.children

    def _overview(self, module):
        """A table of the names, each with the first sentence of its docstring."""
        lines = [".. list-table::", "   :widths: 35 65", "   :class: overview", ""]
        for name, value in public_names(module).items():
            is_data = _kind(value) == "data"
            doc = _words_of_data(module, name) if is_data else inspect.getdoc(value)
            sentence = re.match(r"(.*?[.:])(\s|$)", (doc or "").replace("\n", " "))
            lines += [f"   * - :py:obj:`{name} <{module}.{name}>`"]
            text = sentence[1].removesuffix(":").removesuffix(".") + "." if sentence else ""
            lines += [f"     - {_plain(text, _literal)}"]
        return [*lines, ""]

    def _note_other_names(self, module):
        domain = self.env.domains.python_domain
        short = public_names(ROOT)
        for name, value in public_names(module).items():
            if module == ROOT and _place_of(name, value):
                continue
            entry = domain.objects[f"{module}.{name}"]
            others = [f"{ROOT}.{key}" for key, other in short.items() if other is value]
            if hasattr(value, "__qualname__"):
                others.append(f"{value.__module__}.{value.__qualname__}")
            for other in others:
                if other not in domain.objects:
                    domain.note_object(other, entry.objtype, entry.node_id, aliased=True)


def _place_of(name: str, value: object) -> str | None:
    """The public module that offers what `smoothjax` offers under this name, if another does."""
    return next((m for m in modules() if public_names(m).get(name) is value), None)


class Links:
    """What code in docstrings is a name of."""

    def __init__(self):
        self.targets = {}
        for module in modules():
            for name, value in public_names(module).items():
                target = f"{module}.{name}"
                inner = module.removeprefix(f"{ROOT}.")
                for key in (target, f"{inner}.{name}", f"sj.{inner}.{name}"):
                    self.targets[key] = target
                self._note(name, target)
                if inspect.isclass(value):
                    for part, method in vars(value).items():
                        # The default of a field has the docstring of its type.
                        is_default = isinstance(method, str | float | tuple | list | dict | int)
                        has_words = bool((method.__doc__ or "").strip()) and not is_default
                        if not part.startswith("_") and has_words:
                            self._note(f"{name}.{part}", f"{target}.{part}")
                            self.targets[f"{inner}.{name}.{part}"] = f"{target}.{part}"
        # A short name is that one, whatever else is called so.
        for name, value in public_names(ROOT).items():
            for key in (name, f"sj.{name}", f"{ROOT}.{name}"):
                self.targets[key] = f"{_place_of(name, value) or ROOT}.{name}"

    def _note(self, name, target):
        # A word that two modules use is a link in neither.
        self.targets[name] = "" if name in self.targets and self.targets[name] != target else target

    def target(self, code: str) -> str | None:
        """The entry of a name; a lone word in small letters may mean anything, and is none."""
        name = code.removesuffix("(...)").removesuffix("()")
        is_word = re.fullmatch(r"[a-z]+", name) and name == code
        return None if is_word else self.targets.get(name)

    def __call__(self, code: str) -> str:
        target = self.target(code)
        return f":py:obj:`{code} <{target}>`" if target else f"``{code}``"


class NamesInPages(SphinxTransform):
    """Links from code in pages, and a warning of a name that is none."""

    default_priority = 220

    def apply(self, **kwargs):
        docname = self.env.docname
        # Docstrings and the changelog may speak of what is not public, or not any more.
        is_checked = docname != "changelog" and not docname.startswith("api/")
        for code in list(self.document.findall(nodes.literal)):
            text = code.astext()
            if "xref" in code["classes"] or isinstance(code.parent, nodes.title):
                continue
            target = LINKS.target(text)
            if target:
                reference = addnodes.pending_xref(
                    "", code.deepcopy(), refdomain="py", reftype="obj", reftarget=target
                )
                reference["refdoc"] = docname
                code.replace_self(reference)
            elif is_checked and not _exists(text):
                logger.warning("no public name %s", text, location=code)


def _exists(code: str) -> bool:
    """Whether code that looks like a name of a package is one; other code is nobody's business."""
    parts = code.removeprefix("sj.").removeprefix(f"{ROOT}.").split(".")
    places = {name.removeprefix(f"{ROOT}.") for name in modules()}
    is_own = code.startswith(("sj.", f"{ROOT}.")) or (len(parts) > 1 and parts[0] in places)
    if not is_own or not re.fullmatch(r"\w+(\.\w+)*", code) or parts[-1] in FILES:
        return True
    try:
        functools.reduce(getattr, parts, importlib.import_module(ROOT))
    except AttributeError:
        return len(parts) == 1 and parts[0] in places
    return True


def _words_of_data(module: str, name: str) -> str:
    """What the source says below a value: the values themselves do not know."""
    path = Path(importlib.import_module(module).__file__)
    tree = ast.parse(path.read_text())
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.ImportFrom) and any(alias.asname == name for alias in node.names):
            level = "." * node.level
            return _words_of_data(importlib.util.resolve_name(level + node.module, module), name)
        target = getattr(node, "target", None) or getattr(node, "targets", [None])[0]
        if isinstance(target, ast.Name) and target.id == name and isinstance(after, ast.Expr):
            return inspect.cleandoc(after.value.value)
    return ""


LINKS = Links()


def _literal(code):
    return f"``{code}``"


CODE = re.compile(r"(?<![`:\w])`([^`]+)`(?!`)")
COLON = "\ue000"


def _code_of_docstrings(links):
    def process(app, what, name, obj, options, lines):
        """Docstrings in plain words, with code and tables as in Markdown, as reStructuredText."""
        if what == "data" and "\n".join(lines).strip() == inspect.cleandoc(type(obj).__doc__ or ""):
            lines[:] = _words_of_data(*name.rpartition(".")[::2]).split("\n")
        before, paragraphs = "", []
        for paragraph in "\n".join(lines).split("\n\n"):
            if _is_formula(paragraph, before):
                paragraphs.append(" " * _indent(before) + "::")
                paragraphs.append(paragraph)
            elif re.match(r" *\|.*\n *\|[-|: ]+\|(\n|$)", paragraph):
                paragraphs.append(_table(paragraph, links))
            else:
                paragraphs.append(_plain(paragraph, links))
            before = paragraph
        text = "\n\n".join(paragraphs)
        if what in ("attribute", "property", "data"):
            # What stands before a colon in the first line would be read as a type.
            head, newline, rest = text.partition("\n")
            text = head.replace(": ", f"{COLON} ") + newline + rest
        lines[:] = text.split("\n")

    return process


# Aliases that Python has resolved by the time annotations are read.
SPELLINGS = {
    "Key[Array, ''] | UInt32[Array, '2'] | UInt32[Array, '4']": "PRNGKeyArray",
    "float | ndarray | Float[Array, '']": "RealScalar",
    "Callable[[Float[Array, 'd'], Any], Float[Array, 'd']]": "Denoiser",
}
# Of types of others their name says enough.
MODULES = re.compile(r"~?(jaxlib\._jax|jaxtyping|numpy|collections\.abc|typing)\.")


def _spelled(app, what, name, obj, options, signature, returned):
    """Signatures with the names that the sources use."""

    def short(text):
        text = MODULES.sub("", text or "")
        for long, alias in SPELLINGS.items():
            text = text.replace(long, alias)
        return text or None

    return short(signature), short(returned)


def _colons(app, what, name, obj, options, lines):
    lines[:] = [line.replace(COLON, ":") for line in lines]


def _plain(paragraph, links):
    text, prompt, example = paragraph.partition(">>>")
    parts = CODE.split(text)
    for k, part in enumerate(parts):
        if k % 2:
            # Letters that follow at once, as of a plural, must be set apart.
            apart = r"\ " if re.match(r"\w", parts[k + 1]) else ""
            parts[k] = links(re.sub(r"\s*\n\s*", " ", part)) + apart
        else:
            # Bars, and stars that emphasise nothing, mean themselves.
            part = re.sub(r"(?<=\w)_(?!\w)", r"\_", part.replace("|", r"\|"))
            parts[k] = part if re.search(r"\*\S[^*]*\*", part) else part.replace("*", r"\*")
    return "".join(parts) + prompt + example


def _indent(paragraph):
    last = paragraph.rstrip().rpartition("\n")[2]
    return len(last) - len(last.lstrip())


def _is_formula(paragraph, before):
    """Whether a paragraph is set in, after a sentence and not after the name of a section."""
    lines = [line for line in paragraph.split("\n") if line.strip()]
    if (
        not lines
        or not before.strip()
        or ">>>" in before + paragraph
        or lines[0].lstrip()[:2] in ("- ", "* ")
    ):
        return False
    return min(len(line) - len(line.lstrip()) for line in lines) >= _indent(before) + 4


def _table(paragraph, links):
    indent = " " * _indent(paragraph)
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for k, line in enumerate(paragraph.strip("\n").split("\n"))
        if k != 1
    ]
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        for k, cell in enumerate(row):
            lines.append(("   * - " if k == 0 else "     - ") + _plain(cell, links))
    return "\n".join(indent + line for line in lines)


def setup(app):
    app.add_directive("public-names", PublicNames)
    app.add_transform(NamesInPages)
    # Before and after the sections of the docstring are read.
    app.connect("autodoc-process-docstring", _code_of_docstrings(LINKS), priority=400)
    app.connect("autodoc-process-docstring", _colons, priority=600)
    app.connect("autodoc-process-signature", _spelled)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
