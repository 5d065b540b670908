"""Rows of a training set on the disk, a chunk at a time, and what is known about them."""

import math
import mmap
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..._checks import (
    as_positive_integer,
    refuse_masked,
    require_finite_rows,
    working_dtype,
)
from ..._files.npy import Unreadable, map_array
from ..._numerics import as_log_weights
from ..._progress import progress_bar
from .row_file import ALIGNMENT, OpenRowFile, RowFile, memory_for, place_of

# Bytes of a chunk: large enough that reading from a disk is sequential, small beside any memory (measured: from 8 MiB to
# 64 MiB a call takes the same processor time, to a tenth).
CHUNK_BYTES = 32 * 2**20
# Chunks in memory: one is weighed, and the others are read meanwhile.
BUFFERS = 3
# Elements that are brought to float64 at a time, to find the centre and the radius.
BLOCK = 2**20


class RowSource:
    """Rows on the disk, and what is known about them. Equal to itself only: two denoisers share nothing."""

    def __init__(self, source: Any, chunk_size: int | None, progress: bool, weights: Any):
        path = None
        if isinstance(source, str | os.PathLike):
            path = Path(source).absolute()
            try:
                source = map_array(source)
            except Unreadable as error:
                raise ValueError(
                    f"`source` must be a .npy file of numbers; '{source}': {error}."
                ) from error
        if not (hasattr(source, "shape") and hasattr(source, "dtype")):
            raise ValueError(
                "`source` must be a path, or have `shape`, `dtype` and slices of rows; "
                f"got {type(source).__name__}."
            )
        shape = tuple(int(length) for length in source.shape)
        if len(shape) != 2 or 0 in shape:
            raise ValueError(
                f"`source` must have shape (n, d) and hold at least one point; got {shape}."
            )
        refuse_masked(source, "source")
        self.rows, self.progress = source, bool(progress)
        self.num_points, self.dim = shape
        self.dtype = working_dtype(source.dtype, len(shape), "source")
        # Rows that stand in the file as they are computed with are read from there, past the memory map, whose pages
        # would each be mapped first. A map that was passed in may be of a file that its path no longer names.
        self.file, self.offset = None, 0
        as_stored = source.dtype == self.dtype
        if path and as_stored and isinstance(source, np.memmap) and source.flags.c_contiguous:
            self.file, self.offset = RowFile(path), source.offset
        self.row_bytes = self.dim * self.dtype.itemsize
        if chunk_size is None:
            # A multiple of ALIGNMENT rows, so that all chunks start where JAX need not copy them.
            chunk_size = max(1, CHUNK_BYTES // self.row_bytes)
            chunk_size -= chunk_size % ALIGNMENT if chunk_size > ALIGNMENT else 0
        self.chunk_size = min(as_positive_integer(chunk_size, "chunk_size"), self.num_points)
        self.num_chunks = -(-self.num_points // self.chunk_size)
        self._log_weights, self.weighted = None, weights is not None
        if weights is not None:
            log_weights = as_log_weights(weights, self.num_points, "point", self.dtype)
            fill = self.num_chunks * self.chunk_size - self.num_points
            self._log_weights = np.pad(log_weights, (0, fill), constant_values=-np.inf)
        self._centre_and_radius: tuple[np.ndarray, float] | None = None

    def bar(self, num_sweeps: int, what: str) -> Any:
        if not self.progress:
            return nullcontext()
        return progress_bar(total=num_sweeps * self.num_chunks, what=what, unit="chunk")

    def _read(
        self, i: int, memory: np.ndarray, file: OpenRowFile | None, past_cache: bool
    ) -> tuple[np.ndarray, int]:
        """Chunk i in the memory, filled up with zeros, and how many rows it has."""
        start = i * self.chunk_size
        count = min(self.chunk_size, self.num_points - start)
        first = self.offset + start * self.row_bytes
        place = place_of(first)
        rows = memory[place : place + self.chunk_size * self.row_bytes]
        chunk = rows.view(self.dtype).reshape(self.chunk_size, self.dim)
        if file is None:
            self._copy(start, chunk[:count])
        else:
            file.read(first, count * self.row_bytes, memory, past_cache)
        chunk[count:] = 0
        return chunk, count

    def _copy(self, start: int, target: np.ndarray) -> None:
        mapped = getattr(self.rows, "_mmap", None)
        advise = getattr(mmap, "MADV_DONTNEED", None)
        # Pages of a file that were read count as this process's memory until they are given back: a few megabytes at a
        # time, and only where nothing could have been written to them.
        gives_back = None not in (mapped, advise) and getattr(self.rows, "mode", None) == "r"
        count = len(target)
        step = max(1, BLOCK // self.dim) if gives_back else count
        for first in range(0, count, step):
            last = min(first + step, count)
            rows = self.rows[start + first : start + last]
            if rows.shape != (last - first, self.dim):
                raise ValueError(
                    f"Rows {start + first} to {start + last} of `source` must have shape "
                    f"{(last - first, self.dim)}; got {rows.shape}."
                )
            if np.ma.is_masked(rows):  # Slices of a netCDF variable are masked arrays, gaps or not.
                refuse_masked(rows, "source")
            with np.errstate(over="ignore"):  # becomes infinite, which is refused
                target[first:last] = rows
            if mapped is not None and gives_back:
                mapped.madvise(advise)

    def log_weights(self, i: int) -> np.ndarray | None:
        """Those of chunk i, filled up; nothing where all are equal."""
        if self._log_weights is None:
            return None
        return self._log_weights[i * self.chunk_size : (i + 1) * self.chunk_size]

    def chunks(self) -> Iterator[tuple[np.ndarray, int]]:
        """All chunks in order; a thread reads the next ones meanwhile.

        A chunk is overwritten as soon as the next one is asked for: nothing may read it any more, a device neither.
        """
        opened = nullcontext() if self.file is None else self.file.opened()
        with opened as file, ThreadPoolExecutor(1) as thread:
            coming = deque()
            for i in range(min(BUFFERS, self.num_chunks)):
                memory = memory_for(self.chunk_size * self.row_bytes)
                coming.append((memory, thread.submit(self._read, i, memory, file, False)))
            for i in range(BUFFERS, self.num_chunks + BUFFERS):
                memory, reading = coming.popleft()
                # Where nobody waits for the reader, it is what the processor does besides that counts.
                ahead = reading.done()
                yield reading.result()
                if i < self.num_chunks:
                    coming.append((memory, thread.submit(self._read, i, memory, file, ahead)))

    def _blocks(self, bar: Any) -> Iterator[np.ndarray]:
        step = max(1, BLOCK // self.dim)
        for i, (chunk, count) in enumerate(self.chunks()):
            require_finite_rows(chunk[:count], "source", i * self.chunk_size)
            for start in range(0, count, step):
                yield chunk[start : min(start + step, count)].astype(np.float64)
            if bar is not None:
                bar.update()

    def centre_and_radius(self) -> tuple[Float[np.ndarray, " d"], float]:
        """The mean and the largest distance from it, in float64; from the source at the first call only."""
        if self._centre_and_radius is None:
            with self.bar(2, "mean and radius") as bar:
                centre = sum(np.sum(block, axis=0) for block in self._blocks(bar))
                centre = np.asarray(centre) / self.num_points
                squares = (np.max(np.sum((b - centre) ** 2, axis=1)) for b in self._blocks(bar))
                square = max(float(value) for value in squares)
            if not square / 2 <= float(jnp.finfo(self.dtype).max):
                raise ValueError(
                    f"The squares of the points' distances from their mean, up to {square}, must be finite in {self.dtype}."
                )
            self._centre_and_radius = centre, math.sqrt(square)
        return self._centre_and_radius
