"""Which pixels of an image are matched with each other, and the windows of each."""

import numpy as np

from .distinct_windows import Classes
from .patches import Boundary, window_indices


def groups_of(
    shape: tuple[int, int], patch_size: int, boundary: Boundary
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of all pixels, in arrays (classes, members): pixels of a class are matched with each other."""
    every = [np.arange(side) for side in shape]
    if boundary == "circular":
        inner = every
    else:
        up, down = patch_size // 2, (patch_size - 1) // 2
        inner = [x[(x >= up) & (x < len(x) - down)] for x in every]
    (rows, cols), (top, left) = inner, map(np.setdiff1d, every, inner)
    grid = lambda a, b: np.meshgrid(a, b, indexing="ij")  # noqa: E731
    # Inner pixels are one class. A row near an edge is clipped in its own way, and so is a column.
    groups = [
        [x.reshape(1, -1) for x in grid(rows, cols)],
        grid(top, cols),
        [x.T for x in grid(rows, left)],
        [x.reshape(-1, 1) for x in grid(top, left)],
    ]
    return [(r, c) for r, c in groups if r.size]


def classes_of(shape: tuple[int, int], patch_size: int, boundary: Boundary) -> Classes:
    """The same, and the windows, pixel by pixel."""
    windows, pixels, labels, first = [], [], [], 0
    for rows, cols in groups_of(shape, patch_size, boundary):
        found = window_indices(shape, patch_size, boundary, rows, cols)
        windows.append(found.reshape(rows.size, -1))
        pixels.append((rows * shape[1] + cols).ravel())
        labels.append(np.repeat(first + np.arange(len(rows)), rows.shape[1]))
        first += len(rows)
    return Classes(*map(np.concatenate, (windows, pixels, labels)))
