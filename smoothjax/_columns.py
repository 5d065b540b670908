"""Columns of tables whose numbers stand under one another, as text and as pages."""

import re
from collections.abc import Sequence
from typing import NamedTuple

_NUMBER = re.compile(r"(-?)(\d[\d,]*)((?:\.\d+)?(?:e[+-]?\d+)?)(.*)", re.DOTALL)
_ERROR = " ± "
# What stands where a number is not known.
_NONE = ("", "-", "not defined")


class Piece(NamedTuple):
    """A part of a cell: text, or what is as wide and is not seen."""

    text: str
    is_seen: bool = True


def aligned(cells: Sequence[str]) -> list[list[Piece]]:
    """The cells of a column in pieces, such that decimal points, and signs before errors, stand under one another.

    Nothing is added where a cell is no number.
    """
    found = [_NUMBER.fullmatch(cell) for cell in cells]
    numbers = [one for one in found if one is not None]
    is_text = any(m is None and c not in _NONE for c, m in zip(cells, found, strict=True))
    if is_text or not numbers:
        return [[Piece(cell)] for cell in cells]
    has_minus = any(one[1] for one in numbers)
    whole, fraction = (max(len(one[i]) for one in numbers) for i in (2, 3))
    errors = iter(
        aligned([one[4].removeprefix(_ERROR) for one in numbers if one[4].startswith(_ERROR)])
    )
    pieces = []
    for cell, one in zip(cells, found, strict=True):
        if one is None:
            pieces.append([Piece(cell)])
            continue
        before = "-" * (has_minus and not one[1]) + "0" * (whole - len(one[2]))
        missing = fraction - len(one[3])
        after = "." * (missing > 0 and not one[3]) + "0" * (missing - (not one[3]))
        rest = [Piece(_ERROR), *next(errors)] if one[4].startswith(_ERROR) else [Piece(one[4])]
        pieces.append(
            [Piece(before, False), Piece("".join(one.groups()[:3])), Piece(after, False), *rest]
        )
    return [[piece for piece in row if piece.text] for row in pieces]


def text_table(header: list[str], rows: list[list[str]]) -> str:
    """A table as text: a line for the header, a rule, and a line for each row."""
    columns = [
        ["".join(text if seen else " " * len(text) for text, seen in cell) for cell in aligned(c)]
        for c in zip(*rows, strict=True)
    ]
    widths = [max(map(len, (head, *cells))) for head, cells in zip(header, columns, strict=True)]
    lines = [header, ["-" * width for width in widths], *zip(*columns, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
