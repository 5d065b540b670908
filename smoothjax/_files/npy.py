"""Regular files, and the arrays that NumPy's format keeps in them: nothing is allocated because a header claims it."""

import errno
import io
import math
import os
import stat
from typing import IO, Any

import numpy as np

_MAGIC = b"\x93NUMPY"
_ZIP = b"PK"
# What NumPy reads by default; plain arrays need a hundred.
_LONGEST_HEADER = 10_000


class Unreadable(Exception):
    """Says what is wrong with a file; whoever knows its name makes a `ValueError` of it."""


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """The file, opened for reading, or `Unreadable` where it is none: a pipe, say, would be waited for.

    Where there is nothing, `FileNotFoundError`.
    """
    try:
        # As it was typed: a `Path` forgets a slash at the end.
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise Unreadable("it is a folder; expected a file")
        if not stat.S_ISREG(mode):
            raise Unreadable("it is not a regular file but a pipe, a socket or a device")
        return open(path, "rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable(f"it cannot be opened ({reason(error)})") from error


def reason(error: OSError) -> str:
    """The system's words for an error, without the path."""
    return error.strerror or str(error)


def is_missing(error: OSError) -> bool:
    """Whether an error says that there is no such file."""
    return error.errno in (errno.ENOENT, errno.ELOOP)


def read_array(file: IO[bytes], size: int) -> np.ndarray:
    """The array of a stream in NumPy's format that holds `size` bytes from where it is, or `Unreadable`."""
    shape, is_fortran, dtype, start = _read_header(file, size)
    claimed = _claimed(shape, dtype, size - start)
    return as_array(read_exactly(file, claimed), shape, dtype, is_fortran=is_fortran)


def _claimed(shape: tuple[int, ...], dtype: np.dtype, there: int) -> int:
    """Bytes that a header asks for, of which so many must be there."""
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > there:
        raise Unreadable(
            f"it is damaged or cut short (shape {shape} of {dtype} needs {claimed} bytes after the header; got {there})"
        )
    return claimed


def map_array(path: str | os.PathLike[str]) -> np.memmap:
    """The array of a `.npy` file as a memory map, or `Unreadable`."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        shape, is_fortran, dtype, start = _read_header(file, size)
        claimed = _claimed(shape, dtype, size - start)
        if claimed == 0:
            raise Unreadable(f"it holds no points; the shape is {shape}")
        try:
            order = "F" if is_fortran else "C"
            return np.memmap(file, dtype, "r", offset=start, shape=shape, order=order)
        except (ValueError, OSError, OverflowError, MemoryError) as error:
            raise Unreadable(f"it cannot be mapped into memory ({error})") from error


def read_exactly(file: IO[bytes], num: int) -> np.ndarray:
    """As many bytes of a stream, of which it has been made sure that they may be there."""
    try:
        content = np.empty(num, np.uint8)
    except MemoryError as error:
        raise Unreadable(f"its {num} bytes are more than there is memory for") from error
    view, got = memoryview(content), 0  # pyright: ignore[reportArgumentType]
    while got < num:
        more = file.readinto(view[got:])  # pyright: ignore[reportAttributeAccessIssue]
        if not more:
            raise Unreadable(f"it is damaged or cut short (it ends {num - got} bytes early)")
        got += more
    return content


def as_array(
    content: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, *, is_fortran: bool = False
) -> np.ndarray:
    """Bytes as an array, or `Unreadable` for a shape that no array has."""
    try:
        return np.ndarray(shape, dtype, content, order="F" if is_fortran else "C")  # pyright: ignore
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise Unreadable(f"it is damaged: no array has the shape {shape} ({error})") from error


def _read_header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether columns come first, dtype, and where the numbers start."""
    head = file.read(12)
    if head.startswith(_ZIP):
        raise Unreadable("it is a .npz archive; rename it")
    if not head:
        raise Unreadable("it is damaged or cut short (it is empty)")
    if not head.startswith(_MAGIC):
        raise Unreadable(
            "it is not an array of numbers (Python objects and pickles are never loaded)"
        )
    wide = head[6:7] in (b"\x02", b"\x03")
    start = 12 if wide else 10
    if len(head) < start:
        raise Unreadable("it is damaged or cut short (no room for a header)")
    length = int.from_bytes(head[8:start], "little")
    if length > min(size - start, _LONGEST_HEADER):
        raise Unreadable(f"it is damaged or cut short (a header of {length} bytes)")
    # Too short a header would leave the stream behind its end.
    if length + start < len(head):
        raise Unreadable(f"it is damaged or cut short (a header of {length} bytes)")
    header = head[8:] + file.read(length + start - len(head))
    shape, is_fortran, dtype = _parse_header(head[6:7], header)
    if dtype.hasobject:
        raise Unreadable(
            "it is not an array of numbers (Python objects and pickles are never loaded)"
        )
    return shape, is_fortran, dtype, start + length


def _parse_header(version: bytes, header: bytes) -> tuple[tuple[int, ...], bool, Any]:
    read = np.lib.format.read_array_header_1_0
    if version in (b"\x02", b"\x03"):  # the third differs for names of fields only
        read = np.lib.format.read_array_header_2_0
    elif version != b"\x01":
        raise Unreadable(
            f"it is damaged, or of a version of the format that is not known: {version[0]}"
        )
    try:
        shape, is_fortran, dtype = read(io.BytesIO(header))
    except Exception as error:
        # The header is a Python literal, and what reading a damaged one raises is anybody's guess: ValueError, SyntaxError,
        # TokenError, OverflowError, MemoryError, RecursionError.
        raise Unreadable(f"it is damaged or cut short ({first_line(error)})") from error
    if any(length < 0 for length in shape):
        raise Unreadable(f"it is damaged: the shape is {shape}")
    return shape, is_fortran, dtype


def first_line(error: Exception) -> str:
    """What an error says, on one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200].rstrip(".")
