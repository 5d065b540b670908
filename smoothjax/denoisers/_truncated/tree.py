"""A k-d tree over very many points in few dimensions, with what bounds and expands sums over its nodes.

A node of the tree holds a contiguous range of the sorted points. With `t = (u - c) / sigma` and `z = (y - c) / sigma`, c the
node's centre, the weight of a point y at a query u is

    exp(-|t - z|^2 / 2) = exp(-|t|^2 / 2) sum_a He_a(t) z^a / a!,

so that a node's sums over all terms of degree at most p need its moments `sum z^a` only, which know nothing of the query.
For the remainder the moment of `|z|^(p + 1)` is kept for every node, so no point is taken to be as far away as the farthest.
"""

import itertools
import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Most points of a leaf.
LEAF = 64
# Degree of the expansions in one, two and three dimensions: more terms, fewer nodes.
DEGREES = {1: 11, 2: 9, 3: 7}


class Tree(eqx.Module):
    """A balanced k-d tree over points, with what bounds and expands the sums over its nodes.

    Nodes are numbered level by level; the children of i are 2 i + 1 and 2 i + 2. Points that fill up the leaves count zero.
    """

    points: Float[Array, "rows leaves size"]  # coordinates; then 1, or 0 for one that fills up
    lower: Float[Array, "d nodes"]
    upper: Float[Array, "d nodes"]
    centre: Float[Array, "d nodes"]
    radius: Float[Array, " nodes"]  # bound of the distances from the centre
    log_count: Float[Array, " nodes"]
    shift: Float[Array, " nodes"]  # bound of the distance of the mean from the centre
    spread: Float[Array, " nodes"]  # bound of the root mean square distance from the centre
    log_tail: Float[Array, " nodes"]  # bound of log sum (|y - c| / radius)^(degree + 1)
    moments: Float[Array, "nodes terms"]  # sum ((y - c) / radius)^a / a!
    diameter: Float[Array, ""]
    degree: int = eqx.field(static=True)
    num_points: int = eqx.field(static=True)

    @property
    def depth(self) -> int:
        """Levels below the root."""
        return (self.points.shape[1] - 1).bit_length()


def exponents(d: int, degree: int) -> list[tuple[int, ...]]:
    """All exponents of d variables up to the degree, in the order of `Tree.moments`."""
    every = itertools.product(range(degree + 1), repeat=d)
    return [a for a in every if sum(a) <= degree]


def build_tree(points: np.ndarray) -> Tree:
    """The tree over points, shape (n, d), d <= 3. Takes a second or two for a million points."""
    n, d = points.shape
    degree, dtype = DEGREES[d], points.dtype
    depth = max(0, math.ceil(math.log2(n / LEAF)))
    size = -(-n // 2**depth)
    # Those that fill up lie where other points do, so that no box grows; taken from all over the set.
    extra = size * 2**depth - n
    filled = np.concatenate([np.arange(n), np.arange(extra) * (n // max(extra, 1))])
    real = np.arange(len(filled)) < n
    order = np.arange(len(filled))[None]
    for _ in range(depth):
        at = points[filled[order]]
        axis = np.argmax(np.max(at, axis=1) - np.min(at, axis=1), axis=1)
        keys = np.take_along_axis(at, axis[:, None, None], axis=2)[:, :, 0]
        half = order.shape[1] // 2
        order = np.take_along_axis(order, np.argpartition(keys, half - 1, axis=1), axis=1)
        order = order.reshape(-1, half)
    order = order.ravel()
    sorted_, real = points[filled[order]], real[order]

    parts, below = [], None
    for level in range(depth, -1, -1):
        below = _level(sorted_.reshape(2**level, -1, d), real.reshape(2**level, -1), degree, below)
        parts.append(below)
    joined = {k: np.concatenate([part[k] for part in reversed(parts)]) for k in parts[0]}
    eps = float(np.finfo(dtype).eps)
    diameter = math.sqrt(float(np.sum((joined["upper"][0] - joined["lower"][0]) ** 2)))
    # A node without points has a mass that nothing bounds from below.
    joined["spread"][joined["count"] == 0] = np.inf
    logs = {k: np.log(np.maximum(joined[k], 1e-300)) for k in ("count", "tail")}
    up = lambda x: jnp.asarray(x * (1 + 4 * eps) + 4 * np.finfo(dtype).tiny, dtype)  # noqa: E731
    moved_up = lambda x: jnp.asarray(x + 4 * eps * (1 + np.abs(x)), dtype)  # noqa: E731
    rows = np.concatenate([sorted_.T, real[None].astype(dtype)])
    return Tree(
        points=jnp.asarray(rows.reshape(d + 1, 2**depth, size)),
        lower=jnp.asarray(joined["lower"].T, dtype),
        upper=jnp.asarray(joined["upper"].T, dtype),
        centre=jnp.asarray(joined["centre"].T, dtype),
        radius=jnp.asarray(joined["radius"], dtype),
        log_count=moved_up(logs["count"]),
        shift=up(joined["shift"]),
        spread=up(joined["spread"]),
        log_tail=moved_up(logs["tail"]),
        moments=jnp.asarray(joined["moments"], dtype),
        diameter=up(diameter),
        degree=degree,
        num_points=n,
    )


def _level(points: np.ndarray, real: np.ndarray, degree: int, below: dict | None) -> dict:
    """What a level of the tree stores; the moments from those of the level below, if there is one."""
    dtype, d = points.dtype, points.shape[-1]
    y = points.astype(np.float64)
    count = np.sum(real, axis=1)
    mean = np.sum(y * real[:, :, None], axis=1) / np.maximum(count, 1)[:, None]
    # As the queries see it; where nothing but copies fill the node, one of them.
    centre = np.where(count[:, None] > 0, mean, y[:, 0]).astype(dtype)
    moved = y - centre.astype(np.float64)[:, None]
    distance = np.sqrt(np.sum(moved**2, axis=2)) * real
    # Rounded up, and then as the queries see it.
    eps = float(np.finfo(dtype).eps)
    radius = (np.max(distance, axis=1) * (1 + 4 * eps)).astype(dtype).astype(np.float64)
    safe = np.where(radius > 0, radius, 1)
    terms = exponents(d, degree)
    where = {a: i for i, a in enumerate(terms)}
    if below is None:
        moments = np.empty((len(y), len(terms)))
        scaled = moved / safe[:, None, None]
        single = [np.ones_like(scaled)]
        for k in range(1, degree + 1):
            single.append(single[-1] * scaled / k)
        for i, a in enumerate(terms):
            product = real.astype(np.float64)
            for axis, k in enumerate(a):
                product = product * single[k][:, :, axis] if k else product
            moments[:, i] = np.sum(product, axis=1)
    else:
        parent = np.repeat(safe, 2)
        step = (
            below["centre"].astype(np.float64) - np.repeat(centre.astype(np.float64), 2, axis=0)
        ) / parent[:, None]
        ratio = below["radius"] / parent
        child = below["moments"] * ratio[:, None] ** np.array([sum(a) for a in terms])
        for axis in range(d):
            shifted = child.copy()
            for i, a in enumerate(terms):
                for k in range(1, a[axis] + 1):
                    lower = where[(*a[:axis], a[axis] - k, *a[axis + 1 :])]
                    shifted[:, i] += child[:, lower] * step[:, axis] ** k / math.factorial(k)
            child = shifted
        moments = child.reshape(-1, 2, len(terms)).sum(axis=1)
    relative = distance / safe[:, None]
    square = np.sum(relative**2, axis=1) / np.maximum(count, 1)
    return {
        "lower": np.min(points, axis=1),
        "upper": np.max(points, axis=1),
        "centre": centre,
        "radius": radius,
        "count": count.astype(np.float64),
        "shift": np.sqrt(np.sum((mean - centre) ** 2, axis=1)) * (count > 0),
        "spread": safe * np.sqrt(square),
        "tail": np.sum(relative ** (degree + 1), axis=1),
        "moments": moments,
    }
