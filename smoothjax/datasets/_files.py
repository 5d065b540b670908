"""Reading arrays and images from files. Whatever is wrong, the message names the file."""

import gzip
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

import jax.numpy as jnp
import numpy as np

from .._checks import import_optional, require_finite
from ._dataset import Dataset, as_float_dtype, as_labels

_IDX_NAME = re.compile(r"(^|[.\-_])idx\d?(-[a-z]+)?(\.gz)?$", re.IGNORECASE)
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_POINTS_NAMES = ("points", "data", "images", "x")
_LABELS_NAMES = ("labels", "y")
_IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
)
_MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def is_supported_name(name: str) -> bool:
    """Whether `read` knows files called so."""
    return name.lower().endswith((".npy", ".npz")) or _IDX_NAME.search(name) is not None


def read(path: Path, dtype: np.dtype | None) -> Dataset:
    """The data set in an existing file or folder; see `load`."""
    if path.is_dir():
        array, labels = _read_folder(path)
    elif path.name.lower().endswith(".npy"):
        array, labels = _read_npy(path), None
    elif path.name.lower().endswith(".npz"):
        array, labels = _read_npz(path)
    elif _IDX_NAME.search(path.name):
        array = _read_idx(path)
        labels = _read_sibling_labels(path, len(array))
    else:
        raise _bad(
            path,
            "its suffix is not one of .npy, .npz, .idx, ...-idx3-ubyte (or those of idx with .gz), "
            "and it is not a folder of images",
        )
    return _as_dataset(path, array, labels, dtype)


def _as_dataset(
    path: Path, array: np.ndarray, labels: np.ndarray | None, dtype: np.dtype | None
) -> Dataset:
    if array.ndim not in (1, 2, 3, 4):
        raise _bad(
            path,
            "the shape must be (n,), (n, d), (n, height, width) or (n, height, width, channels); "
            f"got {array.shape}",
        )
    if 0 in array.shape:
        raise _bad(path, f"it holds no points; the shape is {array.shape}")
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[2] == array.shape[3] > 4:
        raise _bad(
            path,
            f"the shape {array.shape} looks like channels first; expected (n, height, width, "
            "channels): transpose(0, 2, 3, 1)",
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
        classes = None if labels is None else as_labels(labels, len(values))
    except ValueError as error:
        raise _bad(path, str(error).rstrip(".")) from error
    name = os.path.basename(os.path.abspath(path))
    return Dataset(name, points, classes, image_shape)


def _as_floats(path: Path, array: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    if array.dtype == np.uint8:
        if array.ndim == 1:
            raise _bad(path, f"one byte a point, shape {array.shape}: these are labels, not points")
        # (2 x - 255) / 255: the numerator is exact, so the values are correctly rounded, and black
        # and white are exact negatives of each other. In place: the only array made.
        values = np.multiply(array, 2, dtype=as_float_dtype(dtype))
        values -= 255
        values /= 255
        return values
    if not np.issubdtype(array.dtype, np.floating):
        raise _bad(
            path, f"the dtype must be uint8 (scaled to [-1, 1]) or floating; got {array.dtype}"
        )
    if dtype is None:
        dtype = np.dtype(np.float32) if array.dtype.itemsize == 4 else as_float_dtype(None)
    with np.errstate(over="ignore"):  # becomes infinite, which the check for finite values reports
        return array.astype(dtype, copy=False)


def _bad(path: Path, what: str) -> ValueError:
    return ValueError(f"Cannot load '{path}': {what}.")


def _read_npy(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        array = _numpy_load(path, file)
    if not isinstance(array, np.ndarray):
        raise _bad(path, "it is a .npz archive; rename it")
    return array


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with open(path, "rb") as file:
        archive = _numpy_load(path, file)
        if isinstance(archive, np.ndarray):
            raise _bad(path, "it is a single array; rename it to .npy")
        found = list(archive.files)
        points = [name for name in found if name in _POINTS_NAMES]
        if not points:
            points = [name for name in found if name not in _LABELS_NAMES] or found
        if len(points) != 1:
            raise _bad(
                path,
                f"expected one array of points, called {', '.join(_POINTS_NAMES[:-1])} or "
                f"{_POINTS_NAMES[-1]}, or a single array; got {found}",
            )
        labels = [name for name in found if name in _LABELS_NAMES and name not in points]
        if len(labels) > 1:
            raise _bad(path, f"expected labels in one array; got {labels}")
        array = _member(path, archive, points[0])
        return array, _member(path, archive, labels[0]) if labels else None


def _numpy_load(path: Path, file: IO[bytes]) -> np.ndarray | np.lib.npyio.NpzFile:
    # From an open file: given a path, NumPy leaves it open when it fails.
    try:
        return np.load(file, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _bad(path, _why_numpy_refused(error)) from error


def _member(path: Path, archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        array = archive[name]
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _bad(path, f"array '{name}': {_why_numpy_refused(error)}") from error
    if not isinstance(array, np.ndarray):
        raise _bad(path, f"'{name}' in it is not an array")
    return array


def _why_numpy_refused(error: Exception) -> str:
    if "pickle" in str(error).lower():
        # NumPy says so of object arrays, and of any file that does not begin like its own.
        return "it is not an array of numbers (Python objects and pickles are never loaded)"
    return f"it is damaged or cut short ({str(error).rstrip('.')})"


def _read_idx(path: Path) -> np.ndarray:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            content = file.read()
    except EOFError as error:
        raise _bad(path, "the gzip stream is truncated") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _bad(path, f"it is not a gzip file, or damaged ({error})") from error
    if len(content) < 4:
        raise _bad(path, f"truncated: {len(content)} bytes, fewer than the 4 of the magic number")
    zeros, code, ndim = struct.unpack(">HBB", content[:4])
    if zeros != 0 or code not in _IDX_DTYPES or ndim == 0:
        raise _bad(
            path,
            f"wrong magic number 0x{content[:4].hex()}; an idx file starts with 0x0000, a type "
            "(0x08 for bytes) and the number of axes",
        )
    start = 4 + 4 * ndim
    if len(content) < start:
        raise _bad(path, f"truncated: {len(content)} bytes, fewer than the {start} of its header")
    shape = struct.unpack(f">{ndim}I", content[4:start])
    dtype = np.dtype(_IDX_DTYPES[code])
    expected = dtype.itemsize
    for size in shape:
        expected *= size
    if len(content) - start != expected:
        problem = "truncated" if len(content) - start < expected else "too long"
        raise _bad(
            path,
            f"{problem}: shape {shape} needs {expected} bytes after the header; "
            f"got {len(content) - start}",
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def _read_sibling_labels(path: Path, num: int) -> np.ndarray | None:
    name = re.sub(r"images([.\-])idx3", r"labels\1idx1", path.name)
    sibling = path.with_name(name)
    if name == path.name or not sibling.exists():
        return None
    labels = _read_idx(sibling)
    try:
        as_labels(labels, num)
    except ValueError as error:
        raise _bad(sibling, f"next to '{path.name}', {str(error).rstrip('.')}") from error
    return labels


def _read_folder(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    visible = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    here = _images_of(visible)
    classes = [_images_of(sorted(entry.iterdir())) for entry in visible if entry.is_dir()]
    classes = [files for files in classes if files]
    if here and classes:
        raise _bad(path, "there are images both in it and in its sub-folders")
    files = here or [file for group in classes for file in group]
    if not files:
        raise _bad(
            path,
            "there are no images in it or directly in its sub-folders; looked for "
            f"{', '.join(sorted(_IMAGE_SUFFIXES))}",
        )
    first = _read_image(files[0])
    images = np.empty((len(files), *first.shape), np.uint8)
    for i, file in enumerate(files):
        image = first if i == 0 else _read_image(file)
        if image.shape != first.shape:
            raise _bad(
                file,
                f"(height, width, channels) is {image.shape}, but {first.shape} in "
                f"'{files[0]}'; all images of a folder must agree",
            )
        images[i] = image
    if here:
        return images, None
    return images, np.repeat(np.arange(len(classes)), [len(group) for group in classes])


def _images_of(entries: list[Path]) -> list[Path]:
    return [
        entry
        for entry in entries
        if entry.suffix.lower() in _IMAGE_SUFFIXES
        and not entry.name.startswith(".")
        and entry.is_file()
    ]


def _read_image(path: Path) -> np.ndarray:
    pil = import_optional("PIL.Image")
    try:
        with pil.open(path) as image:
            mode, pixels = image.mode, np.asarray(image)
    # What Pillow raises on damaged files, depending on the format.
    except (OSError, SyntaxError, ValueError, EOFError, pil.DecompressionBombError) as error:
        raise _bad(path, f"it is not an image, or damaged ({error})") from error
    if mode not in _MODES:
        # A palette index or a 16-bit value must not pass for a shade of grey.
        raise _bad(
            path, f"its mode is {mode!r}; expected one of {', '.join(_MODES)} (8 bits a channel)"
        )
    return pixels.reshape(*pixels.shape[:2], _MODES[mode])
