"""Which papers something is from, in BibTeX: what docstrings name as their source, found in the one bibliography."""

import dataclasses
import functools
import inspect
import re
import unicodedata
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, NamedTuple

from ._checks import shown
from ._kinds import checks_kinds
from ._version import __version__

_LIBRARY = "smoothjax"  # the key of its own entry


class _Entry(NamedTuple):
    """An entry of the bibliography: its text, its fields, and how the source of a docstring names it."""

    text: str
    fields: dict[str, str]
    named: re.Pattern[str]


@checks_kinds
def citation(subject: Any = None) -> str:
    """BibTeX entries of the papers that something of this library is from; of the library itself without an argument.

    They are those that the docstring names as its `Source`, in that order. A class without a source has that of the class
    that it extends, a method that of its class. An object has those of its class and of the objects that it is made of: a
    line through space cites the smoother along it too. Cite what you use, and the library.

    Args:
        subject: a class, a function, a method, or an object such as a denoiser; None for the library.

    Returns:
        Entries with a blank line between them, as text to print or to append to a `.bib` file.

    Raises:
        ValueError: for what has no paper as its source.

    Example:
        >>> import smoothjax as sj
        >>> print(sj.citation(sj.WidenedDenoiser).splitlines()[0])
        @article{parzen1962,
    """
    entries = _bibliography()
    if subject is None:
        text = entries[_LIBRARY].text
        return f"{text.removesuffix('}').rstrip()},\n  note = {{Version {__version__}}}\n}}"
    found = [key for source in _sources(subject) for key in _keys(source)]
    if not found:
        raise ValueError(
            "`subject` must be something of this library whose docstring names a paper as its source; "
            f"got {getattr(subject, '__name__', None) or shown(subject)}, which has none."
        )
    return "\n\n".join(entries[key].text for key in dict.fromkeys(found))


def _sources(subject: Any) -> Iterator[str]:
    """The sections `Source` of what something is, and of what it is made of."""
    if inspect.isclass(subject):
        found = (_section(vars(one).get("__doc__")) for one in subject.__mro__)
        yield from [source for source in found if source][:1]
    elif isinstance(subject, list | tuple) and not hasattr(subject, "_fields"):
        for part in subject:
            yield from _sources(part)
    elif inspect.isroutine(subject) or hasattr(subject, "__wrapped__"):
        own = _section(inspect.getdoc(subject))
        owner = getattr(subject, "__self__", None)
        if own:
            yield own
        elif owner is not None and not inspect.ismodule(owner):
            yield from _sources(owner if inspect.isclass(owner) else type(owner))
    else:
        yield from _sources(type(subject))
        if dataclasses.is_dataclass(subject):
            for field in dataclasses.fields(subject):
                part = getattr(subject, field.name, None)
                if dataclasses.is_dataclass(part) or isinstance(part, list | tuple):
                    yield from _sources(part)


def _section(text: str | None) -> str:
    """The section `Source` of a docstring, in one line; empty where there is none."""
    match = re.search(r"^ *Source: (.*?)(?:\n\s*\n|\Z)", text or "", re.MULTILINE | re.DOTALL)
    return " ".join(match[1].split()) if match else ""


def _keys(source: str) -> list[str]:
    """The keys of what a source names, in its order; of two readings that overlap the longer, as that of all authors."""
    text = _plain(source)
    found = {
        match.span(): key
        for key, entry in _bibliography().items()
        for match in entry.named.finditer(text)
    }
    return [
        key
        for (start, end), key in sorted(found.items())
        if not any(a <= start and end <= b and (a, b) != (start, end) for a, b in found)
    ]


@functools.cache
def _bibliography() -> dict[str, _Entry]:
    """The entries by their keys."""
    text = files("smoothjax").joinpath("references.bib").read_text(encoding="utf-8")
    entries = {}
    for match in re.finditer(r"^@\w+\{([^,]+),\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", match[2], re.MULTILINE))
        entries[match[1]] = _Entry(match[0], fields, _named(fields))
    return entries


def _named(fields: dict[str, str]) -> re.Pattern[str]:
    """How docstrings name a paper: "Li, Dai and Qu 2024", "Karras et al. 2022", 'Chen, "Title", ICLR 2026', "..., arXiv 1".

    Up to two authors are both named; of more, all or the first.
    """
    families = [re.escape(_plain(one.partition(",")[0])) for one in fields["author"].split(" and ")]
    *others, last = families
    names = f"{', '.join(others)} and {last}" if others else last
    if len(others) > 1:
        names = rf"(?:{names}|{families[0]} et al\.)"
    number = re.search(r"arXiv:(\S+)", fields.get("note", ""))
    preprint = rf", arXiv {re.escape(number[1])}" if number else "(?!)"
    title, venue = r"(?:, \"[^\"]*\")?", "(?:, [A-Z]+)?"
    year = rf"(?:'s)?{title}{venue},? {fields.get('year', '(?!)')}\b"
    return re.compile(rf"(?<![\w-]){names}(?:{year}(?:{preprint})?|{preprint})")


def _plain(text: str) -> str:
    """Without accents and braces, be they TeX's or those of Unicode."""
    text = re.sub(r"\\[a-zA-Z](?=\{)|\\[^a-zA-Z]|[\\{}]", "", text)
    return "".join(
        one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one)
    )
