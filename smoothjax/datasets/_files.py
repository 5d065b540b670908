"""Reading arrays and images from files. Whatever is wrong, the message names the file."""

import math
import os
import re
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import require_finite
from .._layout import Layout, channels_last, stacklevel_of_caller
from ._array_files import bad, read_idx, read_npy, read_npz, read_sibling_labels
from ._dataset import Dataset, as_float_dtype, as_named_labels
from ._image_folder import is_folder, read_folder

_IDX_NAME = re.compile(r"(^|[.\-_])idx\d?(-[a-z]+)?(\.gz)?$", re.IGNORECASE)
# Rows of a file that are looked at for what rounding loses, and the part that may be lost.
_ROUNDED_ROWS, _LOST = 10_000, 0.01


def is_supported_name(name: str) -> bool:
    """Whether `read` knows files called so."""
    return name.lower().endswith((".npy", ".npz")) or _IDX_NAME.search(name) is not None


def read(path: Path, dtype: np.dtype | None, layout: Layout | None = None) -> Dataset:
    """The data set in an existing file or folder; see `load`."""
    names = None
    if is_folder(path):
        array, labels, names = read_folder(path)
        if layout is not None:
            raise bad(path, "`layout` is for files of arrays; images of a folder need none")
    elif path.name.lower().endswith(".npy"):
        array, labels = read_npy(path), None
    elif path.name.lower().endswith(".npz"):
        array, labels = read_npz(path)
    elif _IDX_NAME.search(path.name):
        array = read_idx(path)
        labels = read_sibling_labels(path, len(array))
    else:
        raise bad(
            path,
            "its suffix is not one of .npy, .npz, .idx, ...-idx3-ubyte (or those of idx with .gz), "
            "and it is not a folder of images",
        )
    return _as_dataset(path, array, labels, dtype, layout, names)


def _as_dataset(
    path: Path,
    array: np.ndarray,
    labels: np.ndarray | None,
    dtype: np.dtype | None,
    layout: Layout | None,
    label_names: tuple[str, ...] | None,
) -> Dataset:
    if array.ndim not in (1, 2, 3, 4):
        raise bad(
            path,
            "the shape must be (n,), (n, d), (n, height, width) or (n, height, width, channels); "
            f"got {array.shape}",
        )
    if 0 in array.shape:
        raise bad(path, f"it holds no points; the shape is {array.shape}")
    if array.ndim == 4:
        option = "; on the command line, --layout"
        try:
            array = channels_last(array, layout, f"'{path}': the array", option)
        except ValueError as error:
            raise ValueError(f"Cannot load {error}") from None
    elif layout is not None:
        raise bad(
            path, f"`layout` is for arrays of four axes, images with channels; got {array.shape}"
        )
    image_shape = None
    if array.ndim > 2:
        height, width, channels = (*array.shape[1:], 1)[:3]
        image_shape = (height, width, channels)
    values = _as_floats(path, array, dtype).reshape(array.shape[0], -1)
    # Nobody else holds this memory, so JAX may use it in place (the constructor of a data set
    # would copy a NumPy array).
    points = jnp.asarray(values)
    try:
        require_finite(points, "points")
        classes, label_names = as_named_labels(labels, len(values), label_names)
    except ValueError as error:
        raise bad(path, str(error).rstrip(".")) from error
    _refuse_overflow(path, points)
    name = os.path.basename(os.path.abspath(path))
    known: Layout | None = None if image_shape is None else "hwc"
    return Dataset(name, points, classes, image_shape, label_names=label_names, layout=known)


def _refuse_overflow(path: Path, points: Array) -> None:
    # |x - y|^2 of any two of them must be a number.
    largest = max(-float(jnp.min(points)), float(jnp.max(points)))
    limit = math.sqrt(float(jnp.finfo(points.dtype).max) / (4 * points.shape[1]))
    if largest > limit:
        raise bad(
            path,
            f"its numbers reach {largest:.3g}, and beyond {limit:.3g} squared distances overflow "
            f"{points.dtype}; divide the data by a constant"
            + (", or compute in float64" if points.dtype == jnp.float32 else ""),
        )


def _as_floats(path: Path, array: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    if array.dtype == np.uint8:
        if array.ndim == 1:
            raise bad(path, f"one byte a point, shape {array.shape}: these are labels, not points")
        # (2 x - 255) / 255: the numerator is exact, so the values are correctly rounded, and black
        # and white are exact negatives of each other. In place: the only array made.
        values = np.multiply(array, 2, dtype=as_float_dtype(dtype))
        values -= 255
        values /= 255
        return values
    if not np.issubdtype(array.dtype, np.floating):
        # NumPy keeps no name for it.
        narrow = ", as which bfloat16 is saved: save it as float32" if array.dtype == "V2" else ""
        raise bad(
            path,
            f"the dtype must be uint8 (scaled to [-1, 1]) or floating; got {array.dtype}{narrow}",
        )
    if dtype is None:
        dtype = np.dtype(np.float32) if array.dtype.itemsize == 4 else as_float_dtype(None)
    with np.errstate(over="ignore"):  # becomes infinite, which the check for finite values reports
        values = array.astype(dtype, copy=False)
    if values.dtype.itemsize < array.dtype.itemsize:
        _warn_of_rounding(path, array, values)
    return values


def _warn_of_rounding(path: Path, array: np.ndarray, values: np.ndarray) -> None:
    """Says where a column, such as one of times in seconds, loses in the dtype of the computation what it varies by."""
    rows = slice(None, _ROUNDED_ROWS)
    wide, narrow = (x[rows].reshape(len(x[rows]), -1).astype(np.float64) for x in (array, values))
    with np.errstate(all="ignore"):  # what is not finite is refused later
        lost = np.max(np.abs(wide - narrow), axis=0) > _LOST * np.std(wide, axis=0)
        lost &= (np.ptp(wide, axis=0) > 0) & np.isfinite(narrow).all(axis=0)
    if np.any(lost):
        columns = np.flatnonzero(lost)
        shown = ", ".join(map(str, columns[:5])) + (", ..." if len(columns) > 5 else "")
        warnings.warn(
            f"'{path}': in {values.dtype} rounding moves numbers by more than {_LOST:.0%} of what they vary by, in column "
            f"{shown} (from 0); subtract their mean, or compute in float64 (on the command line, --precision float64).",
            UserWarning,
            stacklevel=stacklevel_of_caller(),
        )
