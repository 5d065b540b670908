"""Reading arrays and images from files. Whatever is wrong, the message names the file."""

import contextlib
import gzip
import math
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import import_optional, require_finite
from .._files.npy import (
    Unreadable,
    as_array,
    first_line,
    open_regular,
    read_array,
    read_exactly,
    reason,
)
from .._layout import Layout, channels_last, stacklevel_of_caller
from ._dataset import Dataset, as_float_dtype, as_labels, as_named_labels

_IDX_NAME = re.compile(r"(^|[.\-_])idx\d?(-[a-z]+)?(\.gz)?$", re.IGNORECASE)
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_POINTS_NAMES = ("points", "data", "images", "x")
_LABELS_NAMES = ("labels", "y")
_IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
)
# Rows of a file that are looked at for what rounding loses, and the part that may be lost.
_ROUNDED_ROWS, _LOST = 10_000, 0.01
# Deflate makes at most 1,032 bytes of one.
_DEFLATE_RATIO = 1100
# Beyond both, what comes out is refused: data of different points do not compress so well.
_BOMB_BYTES, _BOMB_RATIO = 1 << 26, 500
_MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def is_supported_name(name: str) -> bool:
    """Whether `read` knows files called so."""
    return name.lower().endswith((".npy", ".npz")) or _IDX_NAME.search(name) is not None


def read(path: Path, dtype: np.dtype | None, layout: Layout | None = None) -> Dataset:
    """The data set in an existing file or folder; see `load`."""
    names = None
    if _is_folder(path):
        array, labels, names = _read_folder(path)
        if layout is not None:
            raise _bad(path, "`layout` is for files of arrays; images of a folder need none")
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
        raise _bad(
            path,
            "the shape must be (n,), (n, d), (n, height, width) or (n, height, width, channels); "
            f"got {array.shape}",
        )
    if 0 in array.shape:
        raise _bad(path, f"it holds no points; the shape is {array.shape}")
    if array.ndim == 4:
        option = "; on the command line, --layout"
        try:
            array = channels_last(array, layout, f"'{path}': the array", option)
        except ValueError as error:
            raise ValueError(f"Cannot load {error}") from None
    elif layout is not None:
        raise _bad(
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
        raise _bad(path, str(error).rstrip(".")) from error
    _refuse_overflow(path, points)
    name = os.path.basename(os.path.abspath(path))
    known: Layout | None = None if image_shape is None else "hwc"
    return Dataset(name, points, classes, image_shape, label_names=label_names, layout=known)


def _refuse_overflow(path: Path, points: Array) -> None:
    # |x - y|^2 of any two of them must be a number.
    largest = max(-float(jnp.min(points)), float(jnp.max(points)))
    limit = math.sqrt(float(jnp.finfo(points.dtype).max) / (4 * points.shape[1]))
    if largest > limit:
        raise _bad(
            path,
            f"its numbers reach {largest:.3g}, and beyond {limit:.3g} squared distances overflow "
            f"{points.dtype}; divide the data by a constant"
            + (", or compute in float64" if points.dtype == jnp.float32 else ""),
        )


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
        # NumPy keeps no name for it.
        narrow = ", as which bfloat16 is saved: save it as float32" if array.dtype == "V2" else ""
        raise _bad(
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


def _bad(path: Path, what: str) -> ValueError:
    return ValueError(f"Cannot load '{path}': {what}.")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A regular file; whatever turns out to be wrong with it becomes a `ValueError` that names it."""
    try:
        with open_regular(path) as file:
            yield file
    except Unreadable as error:
        raise _bad(path, str(error)) from error
    except OSError as error:
        raise _bad(path, f"reading it failed ({reason(error)})") from error


def _read_npy(path: Path) -> np.ndarray:
    with _opened(path) as file:
        return read_array(file, _size(file))


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with _opened(path) as file:
        start = file.read(6)
        if start.startswith(b"\x93NUMPY"):
            raise Unreadable("it is a single array; rename it to .npy")
        if start and not start.startswith(b"PK"):
            raise Unreadable(
                "it is not an array of numbers (Python objects and pickles are never loaded)"
            )
        file.seek(0)
        try:
            archive = zipfile.ZipFile(file)
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        except Exception as error:  # see `_member`
            raise Unreadable(f"it is damaged or cut short ({first_line(error)})") from error
        with archive:
            found = list(members)
            points = [name for name in found if name in _POINTS_NAMES]
            if not points:
                points = [name for name in found if name not in _LABELS_NAMES] or found
            if len(points) != 1:
                raise Unreadable(
                    f"expected one array of points, called {', '.join(_POINTS_NAMES[:-1])} or "
                    f"{_POINTS_NAMES[-1]}, or a single array; got {found}"
                )
            labels = [name for name in found if name in _LABELS_NAMES and name not in points]
            if len(labels) > 1:
                raise Unreadable(f"expected labels in one array; got {labels}")
            names = points + labels
            arrays = [_member(archive, members[name], name, _size(file)) for name in names]
    return arrays[0], arrays[1] if labels else None


def _member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, archive_size: int
) -> np.ndarray:
    if info.flag_bits & 1:
        raise Unreadable(f"array '{name}' is encrypted; save it without a password")
    if info.compress_size > archive_size:
        raise Unreadable(f"array '{name}': it is damaged or cut short")
    refuse_bomb(f"array '{name}'", info.file_size, info.compress_size)
    try:
        with archive.open(info) as stream:
            array = read_array(stream, info.file_size)
            if stream.read(1):
                raise Unreadable("it is damaged: more bytes than its shape needs")
        return array
    except Unreadable as error:
        raise Unreadable(f"array '{name}': {error}") from error
    except NotImplementedError as error:
        raise Unreadable(
            f"array '{name}' is compressed by a method that is not known here "
            f"({first_line(error)}); save it with numpy.savez_compressed"
        ) from error
    except Exception as error:
        # zipfile and the decompressors behind it raise BadZipFile, zlib.error, LZMAError, OSError, EOFError, ValueError,
        # RuntimeError, OverflowError, struct.error, depending on where the damage is.
        raise Unreadable(
            f"array '{name}': it is damaged or cut short ({first_line(error)})"
        ) from error


def refuse_bomb(what: str, size: int, packed: int) -> None:
    """Raises where a few bytes unpack to so many that they can only be one value over and over."""
    if size > _BOMB_BYTES and size > _BOMB_RATIO * packed:
        raise Unreadable(
            f"{what} unpacks to {size / 1e6:.0f} MB from {packed / 1e3:.0f} kB, which can only be one "
            "value over and over; if that is meant, save it uncompressed"
        )


def _read_idx(path: Path) -> np.ndarray:
    is_packed = path.name.lower().endswith(".gz")
    with _opened(path) as file:
        size = _size(file)
        if not is_packed:
            return _idx_array(file, size, size)
        try:
            with gzip.open(file) as stream:
                return _idx_array(cast(IO[bytes], stream), None, size)
        except EOFError as error:
            raise Unreadable("the gzip stream is truncated") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise Unreadable(f"it is not a gzip file, or damaged ({error})") from error


def _idx_array(file: IO[bytes], size: int | None, stored: int) -> np.ndarray:
    """The array of an idx stream of that size, unknown (None) where it is compressed to `stored` bytes."""
    head = file.read(4)
    if len(head) < 4:
        raise Unreadable(f"truncated: {len(head)} bytes, fewer than the 4 of the magic number")
    zeros, code, ndim = struct.unpack(">HBB", head)
    if zeros != 0 or code not in _IDX_DTYPES or ndim == 0:
        raise Unreadable(
            f"wrong magic number 0x{head.hex()}; an idx file starts with 0x0000, a type "
            "(0x08 for bytes) and the number of axes"
        )
    start = 4 + 4 * ndim
    lengths = file.read(4 * ndim)
    if len(lengths) < 4 * ndim:
        raise Unreadable(
            f"truncated: {4 + len(lengths)} bytes, fewer than the {start} of its header"
        )
    shape = struct.unpack(f">{ndim}I", lengths)
    dtype = np.dtype(_IDX_DTYPES[code])
    expected = math.prod(shape) * dtype.itemsize
    needs = f"shape {shape} needs {expected} bytes after the header"
    if size is None:
        if expected > _DEFLATE_RATIO * stored:
            raise Unreadable(f"truncated: {needs}; got {stored} compressed bytes in all")
        refuse_bomb("it", expected, stored)
        # Not more than is there: memory grows with what comes.
        content = file.read(expected)
        further = file.read(_DEFLATE_RATIO) if len(content) == expected else b""
        got = len(content) + len(further)
    else:
        got = size - start
        content = read_exactly(file, expected) if got == expected else b""
    if got != expected:
        problem = "truncated" if got < expected else "too long"
        raise Unreadable(f"{problem}: {needs}; got {got}")
    return as_array(np.frombuffer(content, np.uint8), shape, dtype)


def _read_sibling_labels(path: Path, num: int) -> np.ndarray | None:
    name = re.sub(r"images([.\-])idx3", r"labels\1idx1", path.name)
    if name == path.name:
        return None
    # Either may be compressed; first as the images are.
    other = name[:-3] if name.lower().endswith(".gz") else f"{name}.gz"
    siblings = [path.with_name(one) for one in (name, other) if path.with_name(one).exists()]
    if not siblings:
        return None
    labels = _read_idx(siblings[0])
    try:
        as_labels(labels, num)
    except ValueError as error:
        raise _bad(siblings[0], f"next to '{path.name}', {str(error).rstrip('.')}") from error
    return labels


def _read_folder(path: Path) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]:
    """Images, labels and the names of the classes."""
    visible = [entry for entry in _entries(path) if not entry.name.startswith(".")]
    here = _images_of(visible)
    classes = {entry.name: _images_of(_entries(entry)) for entry in visible if _is_folder(entry)}
    classes = {name: files for name, files in classes.items() if files}
    if here and classes:
        raise _bad(path, "there are images both in it and in its sub-folders")
    files = here or [file for group in classes.values() for file in group]
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
        return images, None, None
    sizes = [len(group) for group in classes.values()]
    return images, np.repeat(np.arange(len(classes)), sizes), tuple(classes)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise _bad(folder, f"it cannot be opened ({reason(error)})") from error


def _is_folder(entry: Path) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _images_of(entries: list[Path]) -> list[Path]:
    return [
        entry
        for entry in entries
        if entry.suffix.lower() in _IMAGE_SUFFIXES
        and not entry.name.startswith(".")
        and entry.is_file()
    ]


def _read_image(path: Path) -> np.ndarray:
    pil, ops = import_optional("PIL.Image"), import_optional("PIL.ImageOps")
    try:
        # Pillow warns of damaged notes beside the pixels, which many a camera leaves, and which are not read here.
        with warnings.catch_warnings(action="ignore"), pil.open(path) as image:
            # Before there is memory for them.
            size = image.width * image.height * len(image.getbands())
            refuse_bomb("it", size, os.path.getsize(path))
            mode, pages = image.mode, getattr(image, "n_frames", 1)
            # Cameras hide previews and depths behind the one picture of a JPEG.
            pages = 1 if image.format == "MPO" else pages
            is_deep = mode in _MODES and _is_deep(image)
            # As viewers show it: cameras store pictures lying on their side.
            ops.exif_transpose(image, in_place=True)
            pixels = np.asarray(image)
    except Unreadable as error:
        raise _bad(path, str(error)) from error
    except Exception as error:
        # What Pillow raises on damaged files depends on the format and on where the damage is: OSError, SyntaxError,
        # ValueError, EOFError, DecompressionBombError, TypeError, KeyError, struct.error and more.
        raise _bad(path, f"it is not an image, or damaged ({first_line(error)})") from error
    if pages > 1:
        raise _bad(
            path,
            f"it holds {pages} pages; expected one image a file: save the pages of a TIFF or the "
            "frames of an animation as files of their own",
        )
    if mode not in _MODES or pixels.ndim not in (2, 3):
        # A palette index or a 16-bit value must not pass for a shade of grey.
        raise _bad(
            path, f"its mode is {mode!r}; expected one of {', '.join(_MODES)} (8 bits a channel)"
        )
    if is_deep:
        raise _bad(
            path,
            f"it has more than 8 bits a channel (mode {mode!r}), which would be cut to 8; save the "
            "numbers as a .npy file",
        )
    return pixels.reshape(*pixels.shape[:2], _MODES[mode])


def _is_deep(image: Any) -> bool:
    """Whether Pillow is about to cut wider channels to 8 bits."""
    if not image.tile:
        return False
    arguments = image.tile[0][3]
    raw, *more = arguments if isinstance(arguments, tuple) else (arguments,)
    if image.format == "PPM":
        return any(isinstance(largest, int) and largest > 255 for largest in more)
    # "BGR;16" is five or six bits of each of three colours.
    return ";16" in str(raw) and not str(raw).startswith("BGR")
