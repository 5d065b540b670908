"""Arrays in files: NumPy's two formats and idx. Nothing is allocated because a header claims it."""

import contextlib
import gzip
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np

from .._files.npy import (
    Unreadable,
    as_array,
    first_line,
    open_regular,
    read_array,
    read_exactly,
    reason,
)
from ._dataset import as_labels

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_POINTS_NAMES = ("points", "data", "images", "x")
_LABELS_NAMES = ("labels", "y")
# Deflate makes at most 1,032 bytes of one.
_DEFLATE_RATIO = 1100
# Beyond both, what comes out is refused: data of different points do not compress so well.
_BOMB_BYTES, _BOMB_RATIO = 1 << 26, 500


def bad(path: Path, what: str) -> ValueError:
    return ValueError(f"Cannot load '{path}': {what}.")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A regular file; whatever turns out to be wrong with it becomes a `ValueError` that names it."""
    try:
        with open_regular(path) as file:
            yield file
    except Unreadable as error:
        raise bad(path, str(error)) from error
    except OSError as error:
        raise bad(path, f"reading it failed ({reason(error)})") from error


def read_npy(path: Path) -> np.ndarray:
    with _opened(path) as file:
        return read_array(file, _size(file))


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
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


def read_idx(path: Path) -> np.ndarray:
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


def read_sibling_labels(path: Path, num: int) -> np.ndarray | None:
    name = re.sub(r"images([.\-])idx3", r"labels\1idx1", path.name)
    if name == path.name:
        return None
    # Either may be compressed; first as the images are.
    other = name[:-3] if name.lower().endswith(".gz") else f"{name}.gz"
    siblings = [path.with_name(one) for one in (name, other) if path.with_name(one).exists()]
    if not siblings:
        return None
    labels = read_idx(siblings[0])
    try:
        as_labels(labels, num)
    except ValueError as error:
        raise bad(siblings[0], f"next to '{path.name}', {str(error).rstrip('.')}") from error
    return labels
