r"""The distinct windows of a set of images, in compact blocks.

*Merging.* Windows that are equal in every number have equal weights and equal values: one of them stands for all, with the
logarithm of their number added to its exponent. Nothing is approximated.

*Blocks.* The distinct windows are split at medians of their leading coordinates until each part is a block of a few
hundred; a block holds windows of one class only. Of each block b are known a box that contains the coordinates V^T y of its
windows (V orthonormal; where it has fewer columns than windows have numbers, the norm of the rest is one more coordinate),
the number M_b of training windows in it, their mean c_b and their mean squared distance v_b from it.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..._jax.precision import HIGHEST
from .._posterior.leading_directions import leading_directions
from .._posterior.product_logits import inner_products

# Windows in a block, at most. Fewer: tighter boxes, more of them.
BLOCK = 512
# Directions of the boxes, at most, and of the splits.
DIRECTIONS, SPLIT_DIRECTIONS = 32, 10
# Windows whose numbers are looked at together at construction.
PIECE = 2**18
# Stands for a logarithm of zero where infinity times zero may be formed.
LOWEST = -1e30


class Classes(NamedTuple):
    """Pixels of an image, class by class: those of a class are compared with each other."""

    windows: (
        np.ndarray
    )  # (pixels, window): pixels of the window of each, h w for one outside the image
    pixel: np.ndarray  # (pixels,)
    label: np.ndarray  # (pixels,)


class DistinctWindows(eqx.Module):
    """The distinct windows of a set of images in blocks, and what bounds a block's weight."""

    images: Float[Array, "n h w c"]  # the images that were merged
    place: Int[Array, "blocks block"]  # image * (h w) + pixel of a window
    log_count: Float[Array, "blocks block"]  # of the training windows it stands for
    label: Int[Array, " blocks"]  # class
    basis: Float[Array, "window directions"]
    low: Float[Array, "blocks coordinates"]
    high: Float[Array, "blocks coordinates"]
    mean: Float[Array, "blocks window"]
    spread: Float[Array, " blocks"]
    reach: Float[Array, " blocks"]  # farthest window from the mean
    log_mass: Float[Array, " blocks"]
    centre: Float[Array, " window"]
    radius: Float[Array, ""]  # of all windows about the centre
    stretch: Float[Array, ""]  # how much the basis may lengthen a vector


def merge_windows(images: np.ndarray, classes: Classes) -> DistinctWindows:
    """Merges and sorts: a few seconds for some million windows."""
    n, h, w, c = images.shape
    pixels = np.concatenate([images.reshape(n, h * w, c), np.zeros((n, 1, c), images.dtype)], 1)
    pixels = pixels + 0.0  # one zero, not two
    width = classes.windows.shape[1] * c

    where = np.empty(h * w, np.intp)  # of a pixel, in `classes`
    where[classes.pixel] = np.arange(h * w)

    def gather(place: np.ndarray) -> np.ndarray:
        image, pixel = np.divmod(place, h * w)
        return pixels[image[:, None], classes.windows[where[pixel]]].reshape(len(place), width)

    merged = []
    for label in np.unique(classes.label):
        members = np.flatnonzero(classes.label == label)
        place = np.arange(n)[:, None] * (h * w) + classes.pixel[members]
        merged.append(_merge(pixels, classes.windows[members], place.ravel()))
    some = np.concatenate([place for place, _ in merged])
    centre = np.tile(images.mean((0, 1, 2), dtype=np.float64).astype(images.dtype), width // c)
    sample = gather(some[:: max(1, len(some) // 8192)])
    basis = leading_directions(sample, centre, min(DIRECTIONS, width, len(sample)))
    basis = basis.astype(images.dtype)

    block = min(BLOCK, 2 ** math.ceil(math.log2(max(len(place) for place, _ in merged))))
    places, counts, labels = [], [], []
    for label, (place, count) in enumerate(merged):
        leading = np.empty((len(place), min(SPLIT_DIRECTIONS, basis.shape[1])), np.float32)
        for a in range(0, len(place), PIECE):
            part = gather(place[a : a + PIECE]) - centre
            leading[a : a + PIECE] = part @ basis[:, : leading.shape[1]]
        order = _split(leading, block)
        # A last block that is not full repeats a window, with no weight.
        pad = -len(order) % block
        places.append(np.pad(place[order], (0, pad), mode="edge").reshape(-1, block))
        counts.append(np.pad(count[order], (0, pad)).reshape(-1, block))
        labels += [label] * len(places[-1])
    place, count = np.concatenate(places), np.concatenate(counts)

    coordinates = basis.shape[1] + (basis.shape[1] < width)
    low, high = np.empty((2, len(place), coordinates))
    mean, (spread, far) = np.empty((len(place), width)), np.empty((2, len(place)))
    radius = 0.0
    step = max(1, PIECE // block)
    for a in range(0, len(place), step):
        y = gather(place[a : a + step].ravel()).astype(np.float64) - centre
        found = coordinates_of(y, basis.astype(np.float64)).reshape(-1, block, coordinates)
        low[a : a + step], high[a : a + step] = found.min(1), found.max(1)
        y, m = y.reshape(-1, block, width), count[a : a + step]
        m = m / m.sum(1, keepdims=True)
        mean[a : a + step] = np.einsum("bi,biw->bw", m, y)
        rest = np.sum((y - mean[a : a + step, None]) ** 2, -1)
        far[a : a + step] = np.sqrt(np.max(rest, 1))
        spread[a : a + step] = np.einsum("bi,bi->b", m, rest)
        radius = max(radius, float(np.sqrt(np.max(np.sum(y**2, -1)))))

    dtype, eps = images.dtype, float(np.finfo(images.dtype).eps)
    double = basis.astype(np.float64)
    skew = float(np.linalg.norm(double.T @ double - np.eye(basis.shape[1])))
    with np.errstate(divide="ignore"):
        log_count = np.maximum(np.log(count), LOWEST)
    asarray = lambda x: jnp.asarray(x, dtype)  # noqa: E731
    return DistinctWindows(
        images=jnp.asarray(images),
        place=jnp.asarray(place, jnp.int32),
        log_count=asarray(log_count),
        label=jnp.asarray(labels, jnp.int32),
        basis=asarray(basis),
        low=asarray(low - eps * np.abs(low)),
        high=asarray(high + eps * np.abs(high)),
        mean=asarray(mean),
        # The mean was rounded: by less than eps R.
        spread=asarray(spread * (1 + 2 * eps) + (2 * eps * radius) ** 2),
        reach=asarray(far * (1 + 2 * eps) + 2 * eps * radius),
        log_mass=asarray(np.log(count.sum(1)) * (1 + 2 * eps)),
        centre=asarray(centre),
        radius=asarray(radius * (1 + 2 * eps)),
        stretch=asarray(1 + 4 * skew + 16 * width * eps),
    )


def _merge(
    pixels: np.ndarray, windows: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places of distinct windows of a class, and how many training windows each stands for."""
    c = pixels.shape[-1]
    bits = pixels.view(f"u{pixels.dtype.itemsize}").astype(np.uint64)
    columns = [(k, j) for k in range(windows.shape[1]) for j in range(c)]
    # Equal windows have equal hashes; sorting these is what finds them.
    key = np.zeros(len(place), np.uint64)
    for k, j in columns:
        key += bits[:, windows[:, k], j].ravel()
        key ^= key >> np.uint64(29)
        key *= np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(32)
    _, first, inverse, count = np.unique(
        key, return_index=True, return_inverse=True, return_counts=True
    )
    stands_for = first[inverse]
    # Windows that share a hash and are not equal stay by themselves.
    other = np.zeros(len(place), bool)
    for k, j in columns:
        column = bits[:, windows[:, k], j].ravel()
        other |= column != column[stands_for]
    alone = np.flatnonzero(other)
    np.subtract.at(count, inverse[alone], 1)
    chosen = np.concatenate([first, alone])
    return place[chosen], np.concatenate([count, np.ones(len(alone), count.dtype)])


def _split(coordinates: np.ndarray, block: int) -> np.ndarray:
    """An order in which every run of `block` rows is compact."""
    order = np.arange(len(coordinates))
    parts = [(0, len(order))]
    while parts:
        start, end = parts.pop()
        if end - start <= block:
            continue
        rows = order[start:end]
        # Along the coordinate of largest variance, as some of the rows have it.
        some = coordinates[rows[:: max(1, len(rows) // 2048)]]
        values = coordinates[rows, np.argmax(np.var(some, axis=0))]
        middle = -(-(end - start) // block) // 2 * block
        order[start:end] = rows[np.argpartition(values, middle)]
        parts += [(start, start + middle), (start + middle, end)]
    return order


def coordinates_of(x, basis):
    """Along the directions, and the length of the rest if there is one. Arrays of NumPy or JAX."""
    jax_ = isinstance(x, jax.Array)
    numpy = jnp if jax_ else np
    along = jnp.dot(x, basis, precision=HIGHEST) if jax_ else x @ basis
    if basis.shape[1] == basis.shape[0]:
        return along
    rest = x - (inner_products(along, basis) if jax_ else along @ basis.T)
    length = numpy.sqrt(numpy.sum(rest**2, -1, keepdims=True))
    return numpy.concatenate([along, length], -1)
