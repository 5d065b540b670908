"""Checks a built site: `python docs/check_site.py build/site`. Prints what is wrong, and fails if anything is.

That every link inside leads to a page, and to a place in it that is there; that every public name has an entry; that every
page is within three clicks of the first by links in the text, and the commonest questions within two; that nothing is asked
of a network. Names are read from the sources, not from what wrote the site.
"""

import ast
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

PACKAGE = Path(__file__).parent.parent / "smoothjax"
# Where each is answered, and words of the answer.
QUESTIONS = {
    "which denoiser": ("which_denoiser.html", "By question"),
    "does my network memorise": ("which_measure.html", "Does my network memorise?"),
    "how do I run this on 4 GPUs": ("gpu.html", "How do I run this on 4 GPUs?"),
    "what does chi mean": ("papers/generalization_through_variance.html", "What does chi mean?"),
    "why do my float32 numbers differ": ("precision.html", "Why do my float32 numbers differ?"),
}
# Made by Sphinx beside the pages, and the sources of the library, which entries lead to.
NOT_PAGES = ("genindex.html", "py-modindex.html", "search.html", "_modules/", "_tests/")


class Page(HTMLParser):
    """Links of a page, those of its text apart, places in it, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.links, self.of_text, self.places, self.loads, self.words = [], [], set(), [], []
        self._depth = 0
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places.update(filter(None, (found.get("id"), found.get("name"))))
        # The text is between <article> and its end; what is around it is the same on all pages.
        self._depth += tag == "article"
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
            if self._depth:
                self.of_text.append(found["href"])
        elif tag in ("img", "script", "iframe", "source") and found.get("src"):
            self.loads.append(found["src"])
        elif tag == "link" and found.get("href") and found.get("rel") in ("stylesheet", "preload"):
            self.loads.append(found["href"])

    def handle_endtag(self, tag):
        self._depth -= tag == "article"

    def handle_data(self, data):
        self.words.append(data)


def public_names():
    """`smoothjax.module.name` of all that public modules offer, and the short names of `smoothjax` itself."""
    for path in sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("*/__init__.py")]):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        if any(part.startswith("_") for part in module.split(".")):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and path.name == "__init__.py":
                for alias in node.names:
                    is_public = alias.asname == alias.name and alias.name[0] != "_"
                    if is_public and node.module is not None:  # not a module itself
                        yield f"{module}.{alias.name}"
            elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                yield f"{module}.{node.name}"


def names_of_inventory(site):
    """The names that the site has entries of."""
    content = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    for line in zlib.decompress(content).decode().splitlines():
        name, kind = line.split()[:2]
        if kind.startswith("py:"):
            yield name


def target(site, path, link):
    """The file and the place that a link leads to; None for other sites."""
    if urlsplit(link).scheme:
        return None
    address, place = urldefrag(link)
    address = address.partition("?")[0]
    file = (path.parent / unquote(address)).resolve() if address else path
    return (file / "index.html" if file.is_dir() else file), unquote(place)


def clicks(site, pages):
    """How many clicks each page is from the first, by links in the text."""
    start = site / "index.html"
    found, reached = {start: 0}, [start]
    for path in reached:
        for link in pages[path].of_text:
            there = target(site, path, link)
            if there and there[0] in pages and there[0] not in found:
                found[there[0]] = found[path] + 1
                reached.append(there[0])
    return found


def problems(site):
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(site)
        for link in page.loads:
            if urlsplit(link).scheme or link.startswith("//"):
                yield f"{name}: loads {link} from the network"
        for link in {*page.links, *page.loads}:
            there = target(site, path, link)
            if there is None:
                continue
            file, place = there
            if not file.is_file():
                yield f"{name}: no file {link}"
            elif place and file in pages and place not in pages[file].places:
                yield f"{name}: no place {link}"
    entries = set(names_of_inventory(site))
    names = set(public_names())
    if len(names) < 300:
        yield f"only {len(names)} public names were found"
    for name in sorted(names - entries):
        yield f"no entry of {name}"
    near = clicks(site, pages)
    for path in pages:
        name = str(path.relative_to(site))
        if not name.startswith(NOT_PAGES) and near.get(path, 9) > 3:
            yield f"{name}: {near.get(path, 'no way')} clicks from the first page"
    for question, (name, words) in QUESTIONS.items():
        path = site / name
        if near.get(path, 9) > 2 or words not in "".join(pages[path].words):
            yield f"{question!r} is not answered by {name} within two clicks"


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1]).resolve()))
    print(*found, sep="\n")
    sys.exit(bool(found))
