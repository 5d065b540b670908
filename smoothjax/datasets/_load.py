"""Data sets by name or by path."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxtyping import DTypeLike

from .._checks import as_seed
from .._files.npy import is_missing, reason
from .._keys import key_of
from .._kinds import checks_kinds
from .._layout import Layout, require_layout
from ._dataset import Dataset, as_float_dtype
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


@checks_kinds
def load(
    source: str | os.PathLike[str],
    *,
    num_points: int | None = None,
    dim: int | None = None,
    seed: int = 0,
    dtype: DTypeLike | None = None,
    layout: Layout | None = None,
) -> Dataset:
    """A data set by name, or from a file or a folder of images.

    **Names** (`names()` lists them): "digits" (`digits`); "two-points", "three-points"; "segment"
    (8 points by default); "polygon" (6); "circle" (100); "sphere" (100, in 3 dimensions); and the
    four 2-D sets of the variance paper (`variance_paper_set`): "hexagon", "line", "blend" and
    "random". A name wins over a file that is called the same; write "./digits" for the file.

    **Files.** `.npy`; `.npz`, with the points in the array called points, data, images or x, or
    else in the only array there is, and labels (integers or names) in labels or y if there is one; the idx format of
    MNIST, `...idx`, `...idx3-ubyte` and the like, plain or `.gz`, with labels from the file next
    to it whose name has `labels-idx1` in place of `images-idx3`, plain or `.gz`, if it exists.
    Python objects (pickles) are never loaded.

    An array has shape (n,) for points on a line, (n, d), (n, height, width) or
    (n, height, width, channels); with `layout="chw"`, (n, channels, height, width), as PyTorch has
    images. Without `layout`, a shape that looks so is refused or warned of. What is stored decides about scale and dtype:

    - uint8 is scaled to [-1, 1] as `x / 127.5 - 1`, in the default float dtype;
    - floating point is kept as it is, **not rescaled**: float32 stays float32, float64 stays
      float64 in JAX's 64-bit mode, else it is rounded to float32, float16 is widened;
    - other integers are refused, since their scale is unknown, and so are numbers whose squared
      distances overflow.

    **Folders** of images (PNG, JPEG, BMP, TIFF, WebP, PGM, PPM; other files and hidden ones are
    skipped), read through Pillow as 8-bit grey or colour, with or without alpha, upright as their
    EXIF data say; all must have one size and one mode. Files of several pages (TIFF, animations)
    and channels of more than 8 bits are refused. The order is that of the sorted file names. If the
    images lie in sub-folders (one level), these are the classes: label `i` is the i-th, in sorted
    order, of the sub-folders that hold images, and `label_names` has their names.

    Args:
        source: A name or a path.
        num_points: Size of the set, where the name leaves it open.
        dim: Dimension of the space, for "sphere".
        seed: For "circle" and "sphere", which are drawn with `jax.random.key(seed)`; no effect on
            the others.
        dtype: float32 or float64; by default as described.
        layout: "hwc" or "chw": where the channels stand in a file of an array with four axes.

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

        Latents of a network of PyTorch, channels first:

        >>> import numpy as np
        >>> np.save("latents.npy", np.zeros((5, 4, 8, 8), np.float32))
        >>> load("latents.npy", layout="chw").image_shape
        (8, 8, 4)
    """
    seed = as_seed(seed)
    sizes = {"num_points": num_points, "dim": dim}
    given: dict[str, Any] = {key: size for key, size in sizes.items() if size is not None}
    require_layout(layout)
    if isinstance(source, str) and source in _NAMED:
        build, defaults = _NAMED[source]
        what = f"the data set '{source}'"
        _refuse(given if layout is None else given | {"layout": layout}, set(defaults), what)
        options: dict[str, Any] = defaults | given
        if source in _NEEDS_KEY:
            options["key"] = key_of(seed)
        return build(**options, dtype=dtype)
    path = _existing(source)
    _refuse(given, set(), f"the path '{path}'")
    return read(path, None if dtype is None else as_float_dtype(dtype), layout)


def _existing(source: str | os.PathLike[str]) -> Path:
    """The path, of something that is there."""
    typed = os.fspath(source)
    try:
        # Not `Path.exists`: it forgets a slash at the end, by which a file is no file.
        os.stat(typed)
        return Path(source)
    except ValueError as error:  # a null character
        raise ValueError(f"Cannot load {typed!r}: no path is called so ({error}).") from error
    except OSError as error:
        if not is_missing(error):
            raise ValueError(f"Cannot load '{_short(typed)}': {reason(error)}.") from error
    if isinstance(source, str) and not _looks_like_path(source):
        raise ValueError(
            f"There is no data set called '{source}', and no such path exists. The names are: "
            f"{', '.join(_NAMED)}."
        )
    raise FileNotFoundError(f"No such file or folder: '{source}'.")


def _short(text: str) -> str:
    return text if len(text) < 200 else f"{text[:150]}...{text[-30:]}"


def _refuse(given: dict[str, Any], allowed: set[str], what: str) -> None:
    for option in given:
        if option not in allowed:
            raise ValueError(
                f"`{option}` is not an option of {what}; got {option}={given[option]!r}."
            )


def _looks_like_path(source: str) -> bool:
    separators = [os.sep, *([os.altsep] if os.altsep else [])]
    return any(s in source for s in separators) or "." in source or is_supported_name(source)
