"""Rows of a file, read straight to the memory in which they are computed with.

There are two ways to read. Through the system's cache of files, pages are found, filled and copied, which costs processor
time (measured: 1.6 to 4.7 s for 4 GiB that were not in memory, .4 s for 4 GiB that were), and finds the rows in memory the
next time. Past it (`O_DIRECT`), the disk writes to the memory that is given: a tenth of the processor time (.2 to .3 s),
and nothing is kept. The second is for readers that are ahead of a computation on the same processor: they gain nothing
from speed, and take from it what it needs.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# Bytes: a multiple of what any disk reads at least. Past the cache whole pages are read, to whole pages of memory.
PAGE = 4096
# Bytes: JAX copies arrays at addresses that are not multiples of this.
ALIGNMENT = 64


def memory_for(count: int) -> np.ndarray:
    """Memory for `count` bytes of a file, wherever in a page they start, and for the rest of their pages."""
    memory = np.empty(count + 3 * PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE
    return memory[start : start + count + 2 * PAGE]


def place_of(first: int) -> int:
    """Where in memory the bytes of a file from `first` on are read to.

    As far into a page as in the file, unless JAX would have to copy them from there.
    """
    return first % PAGE if first % ALIGNMENT == 0 else 0


class RowFile:
    """A file that must not change; `path` is absolute."""

    def __init__(self, path: Path):
        self.path = path
        self.identity = _identity(path)

    @contextlib.contextmanager
    def opened(self) -> "Iterator[OpenRowFile]":
        """The file, open for one reader.

        Raises:
            ValueError: if it is another file than it was, or has another size.
        """
        with contextlib.ExitStack() as stack:
            cached = stack.enter_context(self.path.open("rb", buffering=0))
            if _identity(cached.fileno()) != self.identity:
                raise ValueError(
                    f"`source` must not change; {self.path} is another file than it was."
                )
            direct = None
            if hasattr(os, "O_DIRECT") and hasattr(os, "preadv"):
                with contextlib.suppress(OSError):  # Not every file system can.
                    direct = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
                    stack.callback(os.close, direct)
            yield OpenRowFile(self.path, cached, direct)


class OpenRowFile:
    """Both ways to read a file; the second is not there everywhere."""

    def __init__(self, path: Path, cached: io.FileIO, direct: int | None):
        self._path, self._cached, self._direct = path, cached, direct

    def read(self, first: int, count: int, memory: np.ndarray, past_cache: bool) -> None:
        """Reads `count` bytes from `first` on to `memory[place_of(first):]`.

        Args:
            first: where to start in the file.
            count: how many.
            memory: of `memory_for(count)`, or more.
            past_cache: whether to read past the system's cache where that can be.

        Raises:
            ValueError: if the file ends before.
        """
        place = place_of(first)
        done = self._read_past(first, count, memory) if past_cache else 0
        self._cached.seek(first + done)
        rest = memory[place + done : place + count].data
        while rest:
            read = self._cached.readinto(rest)
            if not read:
                ends = first + count - len(rest)
                raise ValueError(f"{self._path} ends after {ends} bytes, before {first + count}.")
            rest = rest[read:]

    def _read_past(self, first: int, count: int, memory: np.ndarray) -> int:
        """How many of the bytes were read past the cache."""
        place = place_of(first)
        if self._direct is None or place != first % PAGE:
            return 0
        needed = place + count
        pages = memory[: -(-needed // PAGE) * PAGE].data
        done = 0
        while done < needed and done % PAGE == 0:
            try:
                read = os.preadv(self._direct, [pages[done:]], first - place + done)
            except OSError:  # Its pages may be larger than ours.
                break
            if not read:
                break
            done += read
        return min(max(done - place, 0), count)


def _identity(file: Path | int) -> tuple[int, int, int]:
    """What tells a file, named or open, from another one."""
    found = os.stat(file)
    return found.st_dev, found.st_ino, found.st_size
