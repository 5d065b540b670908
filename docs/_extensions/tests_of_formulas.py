"""Code in pages that names a test, `test_smoothed.py::test_name`, is a link to it in a page that shows its file.

A page cannot name a test that was renamed or removed: that is a warning, and so an error of the build.
"""

import ast
import re
from pathlib import Path

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

logger = logging.getLogger(__name__)
TESTS = Path(__file__).parents[2] / "tests"


class test_link(nodes.inline, nodes.Element):
    """Becomes a link when the page is written."""


class NamesOfTests(SphinxTransform):
    default_priority = 210

    def apply(self, **kwargs):
        for code in list(self.document.findall(nodes.literal)):
            found = re.fullmatch(r"(test_\w+\.py)::(test_\w+)", code.astext())
            if found is None:
                continue
            path, function = TESTS / found[1], found[2]
            if function not in _lines(path):
                logger.warning("no test %s", code.astext(), location=code)
            shown = nodes.literal("", function)
            code.replace_self(test_link("", "", shown, page=_page(path), anchor=function))


class Resolve(SphinxPostTransform):
    default_priority = 20

    def run(self, **kwargs):
        for node in list(self.document.findall(test_link)):
            uri = self.app.builder.get_relative_uri(self.env.docname, node["page"])
            link = nodes.reference(
                "", "", *node.children, internal=True, refuri=f"{uri}#{node['anchor']}"
            )
            link["classes"].append("test")
            node.replace_self(link)


def _page(path: Path) -> str:
    return f"_tests/{path.stem}"


def _lines(path: Path) -> dict[str, int]:
    """The line of each test of a file."""
    if not path.is_file():
        return {}
    tree = ast.parse(path.read_text())
    return {
        n.name: n.lineno
        for n in tree.body
        if isinstance(n, ast.FunctionDef) and n.name[:5] == "test_"
    }


def _html_pages(app):
    """The files of tests that pages link to, highlighted; an anchor at each test."""
    wanted = {name for docname in app.env.found_docs for name in _named(app.env, docname)}
    for name in sorted(wanted):
        path = TESTS / name
        lines = highlight(path.read_text(), PythonLexer(), HtmlFormatter(nowrap=True)).splitlines()
        for function, line in _lines(path).items():
            lines[line - 1] = f'<span id="{function}">{lines[line - 1]}</span>'
        source = "\n".join(lines)
        body = f'<h1>{name}</h1>\n<div class="highlight"><pre>{source}\n</pre></div>'
        yield _page(path), {"title": name, "body": body, "parents": []}, "page.html"


def _named(env, docname):
    for node in env.get_doctree(docname).findall(test_link):
        yield f"{node['page'].removeprefix('_tests/')}.py"


def setup(app):
    app.add_node(test_link)
    app.add_transform(NamesOfTests)
    app.add_post_transform(Resolve)
    app.connect("html-collect-pages", _html_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
