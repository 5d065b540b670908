"""Data sets by name or by path."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jaxtyping import DTypeLike

from ._dataset import Dataset, as_float_dtype, as_seed
from ._digits import digits
from ._files import is_supported_name, read
from ._point_sets import (
    circle,
    polygon,
    segment,
    sphere,
    three_points,
    two_points,
    variance_paper_set,
)

# Name: how to build it, and the sizes that may be chosen with what they are otherwise.
_NAMED: dict[str, tuple[Callable[..., Dataset], dict[str, int]]] = {
    "digits": (digits, {}),
    "two-points": (two_points, {}),
    "three-points": (three_points, {}),
    "segment": (segment, {"num_points": 8}),
    "polygon": (polygon, {"num_points": 6}),
    "circle": (circle, {"num_points": 100}),
    "sphere": (sphere, {"num_points": 100, "dim": 3}),
    "hexagon": (functools.partial(variance_paper_set, "polygon"), {}),
    "line": (functools.partial(variance_paper_set, "line"), {}),
    "blend": (functools.partial(variance_paper_set, "blend"), {}),
    "random": (functools.partial(variance_paper_set, "random"), {}),
}
_NEEDS_KEY = ("circle", "sphere")


def names() -> tuple[str, ...]:
    """The names that `load` knows.

    Example:
        >>> from smoothjax import datasets
        >>> "two-points" in datasets.names(), len(datasets.load("two-points"))
        (True, 2)
    """
    return tuple(_NAMED)


def load(
    source: str | os.PathLike[str],
    *,
    num_points: int | None = None,
    dim: int | None = None,
    seed: int = 0,
    dtype: DTypeLike | None = None,
) -> Dataset:
    """A data set by name, or from a file or a folder of images.

    **Names** (`names()` lists them): "digits" (`digits`); "two-points", "three-points"; "segment"
    (8 points by default); "polygon" (6); "circle" (100); "sphere" (100, in 3 dimensions); and the
    four 2-D sets of the variance paper (`variance_paper_set`): "hexagon", "line", "blend" and
    "random". A name wins over a file that is called the same; write "./digits" for the file.

    **Files.** `.npy`; `.npz`, with the points in the array called points, data, images or x, or
    else in the only array there is, and labels in labels or y if there is one; the idx format of
    MNIST, `...idx`, `...idx3-ubyte` and the like, plain or `.gz`, with labels from the file next
    to it whose name has `labels-idx1` in place of `images-idx3`, if it exists. Python objects
    (pickles) are never loaded.

    An array has shape (n,) for points on a line, (n, d), (n, height, width) or
    (n, height, width, channels). What is stored decides about scale and dtype:

    - uint8 is scaled to [-1, 1] as `x / 127.5 - 1`, in the default float dtype;
    - floating point is kept as it is, **not rescaled**: float32 stays float32, float64 stays
      float64 in JAX's 64-bit mode, else it is rounded to float32, float16 is widened;
    - other integers are refused, since their scale is unknown.

    **Folders** of images (PNG, JPEG, BMP, TIFF, WebP, PGM, PPM; other files and hidden ones are
    skipped), read through Pillow as 8-bit grey or colour, with or without alpha; all must have one
    size and one mode. The order is that of the sorted file names. If the images lie in
    sub-folders (one level), these are the classes: label `i` is the i-th, in sorted order, of the
    sub-folders that hold images.

    Args:
        source: A name or a path.
        num_points: Size of the set, where the name leaves it open.
        dim: Dimension of the space, for "sphere".
        seed: For "circle" and "sphere", which are drawn with `jax.random.key(seed)`; no effect on
            the others.
        dtype: float32 or float64; by default as described.

    Returns:
        The data set. Read from a path, it is called by the name of the file or folder, and its
        population is None.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a name is unknown; if a file or folder cannot be read as described (the
            message names the file and what is wrong with it); if an option is given that the
            source does not have.
        ImportError: If scikit-learn (digits) or Pillow (folders) is needed and not installed.

    Example:
        >>> from smoothjax.datasets import load
        >>> load("sphere", num_points=50, dim=10, seed=1).points.shape
        (50, 10)
    """
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"`source` must be a name or a path; got {source!r}.")
    seed = as_seed(seed)
    sizes = {"num_points": num_points, "dim": dim}
    given: dict[str, Any] = {key: size for key, size in sizes.items() if size is not None}
    if isinstance(source, str) and source in _NAMED:
        build, defaults = _NAMED[source]
        _refuse(given, set(defaults), f"the data set '{source}'")
        options: dict[str, Any] = defaults | given
        if source in _NEEDS_KEY:
            options["key"] = jax.random.key(seed)
        return build(**options, dtype=dtype)
    path = Path(source)
    if not os.fspath(source) or not path.exists():  # Path("") is the current folder
        if isinstance(source, str) and not _looks_like_path(source):
            raise ValueError(
                f"There is no data set called '{source}', and no such path exists. The names are: "
                f"{', '.join(_NAMED)}."
            )
        raise FileNotFoundError(f"No such file or folder: '{path}'.")
    _refuse(given, set(), f"the path '{path}'")
    return read(path, None if dtype is None else as_float_dtype(dtype))


def _refuse(given: dict[str, Any], allowed: set[str], what: str) -> None:
    for option in given:
        if option not in allowed:
            raise ValueError(
                f"`{option}` is not an option of {what}; got {option}={given[option]!r}."
            )


def _looks_like_path(source: str) -> bool:
    separators = [os.sep, *([os.altsep] if os.altsep else [])]
    return any(s in source for s in separators) or "." in source or is_supported_name(source)
