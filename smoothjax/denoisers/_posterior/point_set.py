"""A finite set of points, prepared once and read a chunk at a time.

Centring rounds the points by an epsilon of their radius, which would decide between two of them for a query midway; the
points are therefore kept as they are given, and centred a chunk at a time.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class PointSet(eqx.Module):
    """Points with what their posterior needs, prepared once. Nothing depends on the centre but rounding errors."""

    points: Float[Array, "n d"]
    log_weights: Float[Array, " n"] | None
    centre: Float[Array, " d"]
    half_square: Float[Array, " n"]  # of the centred points
    radius: Float[Array, ""]  # of the centred points
    chunk_size: int = eqx.field(static=True)


class Chunk(NamedTuple):
    centred: Any  # Float[Array, "c d"]
    half_square: Float[Array, " c"]
    log_weights: Float[Array, " c"]
    valid: Bool[Array, " c"]  # False for rows of an earlier chunk, and for points of weight zero
    rows: Int[Array, " c"]
    first: Int[Array, ""]  # row of the first point that no earlier chunk had


def chunk_at(points: PointSet, i: Int[Array, ""] | int) -> Chunk:
    n = points.points.shape[0]
    c = min(points.chunk_size, n)
    # The last chunk is moved back to end at the last point; what it repeats is masked. Nothing is padded or copied.
    first = jnp.asarray(i) * c
    start = jnp.minimum(first, n - c)

    def rows(array: Array) -> Array:
        return lax.dynamic_slice_in_dim(array, start, c) if c < n else array

    indices = start + jnp.arange(c)
    valid = indices >= first
    if points.log_weights is None:
        log_weights = jnp.zeros(c, points.points.dtype)
    else:
        log_weights = rows(points.log_weights)
        valid &= log_weights > -jnp.inf
        log_weights = jnp.where(valid, log_weights, 0)
    # An infinite square takes a point out of every sum without a look at a mask.
    half_square = jnp.where(valid, rows(points.half_square), jnp.inf)
    # Only the centred points are formed: those as given are read from the whole set, by the few that need them.
    centred = rows(points.points) - points.centre[None]
    return Chunk(centred, half_square, log_weights, valid, indices, first)


def num_chunks(points: PointSet) -> int:
    return -(-points.points.shape[0] // points.chunk_size)


def over_chunks(points: PointSet, body, init):
    """`body(carry, i)` over all chunks."""
    if num_chunks(points) == 1:
        return body(init, 0)
    return lax.scan(lambda carry, i: (body(carry, i), None), init, jnp.arange(num_chunks(points)))[
        0
    ]
