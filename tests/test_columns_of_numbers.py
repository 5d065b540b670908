"""Numbers of tables stand under one another."""

import pytest

from smoothjax._columns import aligned, text_table


def seen(pieces):
    return "".join(piece.text for piece in pieces if piece.is_seen)


def test_decimal_points_and_errors_stand_under_one_another():
    cells = ["-668 ± 21", "-2.34 ± 0.89", "2.7 ± 1.6", "not defined", ""]
    table = text_table(["", "likelihood"], [[f"{i}", cell] for i, cell in enumerate(cells)])
    assert table.splitlines()[2:] == [
        "0  -668    ± 21",
        "1    -2.34 ±  0.89",
        "2     2.7  ±  1.6",
        "3  not defined",
        "4",
    ]


@pytest.mark.parametrize(
    "cells",
    [
        ["1.00 [0.99, 1.00]", "0.5 [0, 1]", "-"],
        ["1e-07", "0.25", "12"],
        ["1,497", "3", "0.5 or beyond"],
        ["gaussian", "12", "3.5"],
    ],
)
def test_what_is_seen_is_what_was_given(cells):
    found = aligned(cells)
    assert [seen(pieces) for pieces in found] == cells
    if "gaussian" in cells:
        assert all(piece.is_seen for pieces in found for piece in pieces)
    # The whole part of each number ends in the same column.
    else:
        ends = set()
        for cell, pieces in zip(cells, found, strict=True):
            if cell != "-":
                before = 0 if pieces[0].is_seen else len(pieces[0].text)
                whole = len(cell.split(".")[0].split("e")[0].split(" ")[0])
                ends.add(before + whole)
        assert len(ends) == 1
