"""Sweeps: the parts of an experiment, cell by cell behind a progress bar, and their numbers by setting."""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .._files.store import Arrays, ResultStore
from .._progress import progress_bar

# The name of a part, what the progress bar says of it, and what computes it.
Cell = tuple[str, str, Callable[[], Arrays]]


def cells_of(
    run: Callable[..., Arrays], settings: Sequence[Sequence[Any]], name: str, words: str
) -> list[Cell]:
    """A cell for each combination of settings, the last of them fastest, which name and words have in their braces."""
    return [
        (name.format(*cell).replace(" ", "-"), words.format(*cell), functools.partial(run, *cell))
        for cell in itertools.product(*settings)
    ]


def sweep(store: ResultStore, cells: Iterable[Cell], progress: bool) -> list[Arrays]:
    """The part of each cell: as it was kept, or computed and kept."""
    parts = []
    with progress_bar(list(cells), shown=progress) as bar:
        for name, words, compute in bar:
            bar.set_description(words)
            parts.append(store.get(name, compute))
    return parts


def by_cell(parts: list[Arrays], name: str, *sizes: int) -> np.ndarray:
    """One array of all parts, with an axis of each size, for the settings of their cells, before its own."""
    values = np.stack([part[name] for part in parts])
    return values.reshape(*sizes, *values.shape[1:])
