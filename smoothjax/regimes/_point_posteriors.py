"""Which training point was noised? The posterior over all of them, at any number of noise levels from two products.

For `u = y_k + sigma z` the logit of point j less that of the noised point k is `-|y_k - y_j|^2 / 2 sigma^2 -
z.(y_k - y_j) / sigma`: two numbers a pair, whatever the noise level. Both are small where they matter, at points that are as
near as the noise is large, so that nothing large is subtracted.
"""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from .._checks import as_points
from .._jax.blocks import over_batches
from .._jax.largest import largest
from .._jax.precision import HIGHEST

# Pairs at a time: two arrays of so many numbers, which caches hold, and with them the passes over all levels.
PAIRS = 2**21
# Up to this dimension all differences are formed; beyond it a matrix product, and the nearest points are measured again.
FEW_DIMENSIONS, MEASURED_AGAIN = 64, 16


class DistinctPoints(eqx.Module):
    """The locations of a training set, with the share of the points at each: equal points cannot be told apart."""

    points: Float[
        Array, "n d"
    ]  # in units of their extent, whose squares are in the range of the dtype
    log_weights: Float[Array, " n"]
    row_of: Int[Array, " N"]  # location of each training point
    unit: Float[Array, ""]  # a power of two, which rounds nothing

    @property
    def entropy(self) -> Float[Array, ""]:
        """Of the locations' shares, in nats: `log N` where all points differ."""
        return -jnp.sum(jnp.exp(self.log_weights) * self.log_weights)


def distinct_points(data: Any) -> DistinctPoints:
    """That of points of shape (N, d), found on the host."""
    points = as_points(data)
    rows = np.ascontiguousarray(np.asarray(points)) + 0.0  # one zero, not two
    # Whole rows as bytes sort in a fraction of the time that columns take.
    as_bytes = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, row_of, counts = np.unique(
        as_bytes, return_index=True, return_inverse=True, return_counts=True
    )
    shares = np.log(counts / len(rows))
    extent = float(np.ptp(rows[first].astype(np.float64), axis=0).max())
    unit = 2.0 ** np.floor(np.log2(extent)) if extent > 0 else 1.0
    # In float64: units of the smallest numbers have no inverse in the dtype.
    scaled = (rows[first].astype(np.float64) / unit).astype(rows.dtype)
    return DistinctPoints(
        jnp.asarray(scaled),
        jnp.asarray(shares, points.dtype),
        jnp.asarray(row_of.ravel()),
        jnp.asarray(unit, points.dtype),
    )


class Pairs(NamedTuple):
    """Of noised points and all points: what their logits are made of at every noise level."""

    squares: Float[Array, "b n"]  # |y_k - y_j|^2, exactly zero at the noised point itself
    slopes: Float[Array, "b n"]  # z.(y_k - y_j)
    own: Int[Array, " b"]  # k

    def is_own(self) -> Array:
        return jnp.arange(self.squares.shape[1])[None] == self.own[:, None]


def pairs_of(points: Float[Array, "n d"], own: Array, noise: Float[Array, "b d"]) -> Pairs:
    """Squared distances to a few roundings where points are near, and slopes to a rounding of `|z| |y_k - y_j|`."""
    n, d = points.shape
    if d <= FEW_DIMENSIONS:
        difference = points[own][:, None] - points[None]
        squares = jnp.sum(difference**2, axis=-1)
        slopes = jnp.sum(difference * noise[:, None], axis=-1)
        return Pairs(squares, slopes, own)
    centred = points - jnp.mean(points, axis=0)[None]
    norms = jnp.sum(centred**2, axis=-1)
    at = centred[own]
    product = functools.partial(jnp.dot, precision=HIGHEST)
    squares = jnp.maximum(norms[own][:, None] + norms[None] - 2 * product(at, centred.T), 0)
    slopes = jnp.sum(noise * at, axis=-1)[:, None] - product(noise, centred.T)
    # The product errs by roundings of |y|^2: more than the noise's square where points nearly coincide.
    rows = jnp.arange(len(own))[:, None]
    squares = squares.at[rows[:, 0], own].set(0)
    nearest = largest(-squares, min(n, MEASURED_AGAIN))[1]
    again = points[own][:, None] - points[nearest]
    squares = squares.at[rows, nearest].set(jnp.sum(again**2, axis=-1))
    slopes = slopes.at[rows, nearest].set(jnp.sum(again * noise[:, None], axis=-1))
    return Pairs(squares, slopes, own)


class Posteriors(NamedTuple):
    """Of draws `u = y_k + sigma z`, numbers of the posterior over all points; leading axes: draws, noise levels."""

    log_odds: Float[
        Array, "m l"
    ]  # of the noised point against all others together, prior odds included
    entropy: Float[Array, "m l"]  # in nats
    entropy_slope: Float[Array, "m l"]  # by log sigma, at the same noise z
    class_entropy: Float[Array, "m l"]  # of the posterior over classes; zero where there are none


def _at_level(pairs: Pairs, log_weights: Array, members: Array, sigma: Array) -> Posteriors:
    is_own = pairs.is_own()
    own_weight = log_weights[pairs.own][:, None]
    # Of each point, less that of the noised one: minus infinity where squares overflow, and the weight is none.
    exponent = -(0.5 * pairs.squares / sigma + pairs.slopes) / sigma
    logits = jnp.where(is_own, -jnp.inf, exponent + log_weights[None] - own_weight)
    top = jnp.max(logits, axis=1, keepdims=True)
    top = jnp.where(top > -jnp.inf, top, 0)
    relative = jnp.exp(logits - top)
    others = top + jnp.log(jnp.sum(relative, axis=1, keepdims=True))  # -inf where there are none
    normaliser = jax.nn.softplus(others)
    weights = relative * jnp.exp(
        top - normaliser
    )  # of the others; the noised point's logit is zero
    finite = jnp.where(weights > 0, logits, 0)
    entropy = normaliser[:, 0] - jnp.sum(weights * finite, axis=1)
    by_level = jnp.where(weights > 0, (pairs.squares / sigma + pairs.slopes) / sigma, 0)
    slope_mean = jnp.sum(weights * by_level, axis=1)
    covariance = jnp.sum(weights * finite * by_level, axis=1)
    covariance -= slope_mean * jnp.sum(weights * finite, axis=1)
    own_share = jnp.exp(-normaliser[:, 0])
    of_classes = _class_entropy(weights, own_share, members, pairs.own)
    return Posteriors(-others[:, 0], entropy, -covariance, of_classes)


def _class_entropy(others: Array, own_share: Array, members: Array, own: Array) -> Array:
    """Of the posterior over classes, precise where one of them has nearly all of it."""
    shares = jnp.dot(others, members, precision=HIGHEST) + own_share[:, None] * members[own]
    is_first = jnp.arange(members.shape[1])[None] == jnp.argmax(shares, axis=1)[:, None]
    shares = jnp.where(is_first, 0, shares)
    rest = jnp.sum(shares, axis=1)
    first = (1 - rest) * jnp.log1p(-rest)
    return -jnp.sum(jax.scipy.special.xlogy(shares, shares), axis=1) - first


def posteriors_of(
    points: DistinctPoints,
    own: Int[Array, " m"],
    noise: Float[Array, "m d"],
    levels: Float[Array, " l"],
    members: Float[Array, "n c"] | None = None,
) -> Posteriors:
    """Those of the locations `own`, each with its noise, at all levels, in data units.

    `members` are shares of the classes at locations; without them all are of one class, whose entropy is zero.
    """
    if members is None:
        members = jnp.ones((points.points.shape[0], 1), points.points.dtype)
    return _posteriors_of(points, own, noise, levels, members)


@jax.jit
def _posteriors_of(
    points: DistinctPoints, own: Array, noise: Array, levels: Array, members: Array
) -> Posteriors:
    levels = levels / points.unit

    def some(i: Array) -> Posteriors:
        pairs = pairs_of(points.points, own[i], noise[i])
        at = lambda sigma: _at_level(pairs, points.log_weights, members, sigma)  # noqa: E731
        return jax.tree.map(lambda x: x.T, lax.map(at, levels))

    return over_batches(some, own.shape[0], max(1, PAIRS // points.points.shape[0]))
