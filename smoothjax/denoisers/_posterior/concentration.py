r"""When the rest of a probability flow is known, because training points outweigh all others for good.

*One training point.* At noise level sigma let the point a have most weight, `w = u - a`, and let the others have weights
`e^(l_i)` relative to that of a, with sum W and every `l_i <= -T < 0`. With `g_i = y_i - a` they are
`sigma^2 l_i = w . g_i - |g_i|^2 / 2`. Later, at `sigma / r`, the state is `a + w / r + e`, and since
`e . g - (1 - 1/r) |g|^2 / 2 <= |e|^2 / (2 (1 - 1/r))`,

    l_i(r) <= r l_i + r q^2 / (2 (r - 1)),        q = |e| r / sigma.

The flow gives `q <= (R / sigma) int_1^r (sum of e^(l_i)) dr`, with R the largest `|g_i|`. As long as the second term stays
below log 2, the sum is at most `2 W e^(-(r - 1) T)`, so that `q <= 2 A min(r - 1, 1 / T)` with `A = R W / sigma`; and then
the second term is at most `2 A^2 (1 + T) / T^2`. So it stays below log 2 for good once this number is, by continuity, and
the denoiser's output at noise level s is within `2 R W exp(-(sigma / s - 1) T)` of a.

*A barycentre.* Averaged over perturbations p_m, the denoiser tends to the mean b of the points a_m that have most weight at
`u + p_m`. The others' weights there are `e^(l)` with

    -2 sigma^2 l = |u + p_m - y|^2 - |u + p_m - a_m|^2,

which is affine in u. Later the state is `b + (u - b) / r + e`, so that the right-hand side is `(1 - 1/r)` times its value at
b, 1/r times its value at u, and `-2 e . (y - a_m)`. Its value at b is `d^2 - d_m^2`, with distances d and d_m of y and a_m
from `b + p_m`, and `|y - a_m| <= d + d_m`. So, with c the least `d - d_m` over all y and m,

    l(r) <= r l + (r |y - a_m| / sigma^2) (r |e| - (r - 1) c / 2).

The flow gives `r |e| <= int_1^r |D - b| dr`, and `|D - b|` is at most R times the mean over m of the others' weights: W at
first. If `R W < c / 2` the bracket is negative, and the weights only fall, for good and by continuity: at noise level s the
output is within `R exp(-(sigma / s - 1) T_m) W_m`, averaged over m, of b.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .point_set import PointSet
from .product_logits import products_with


class Concentration(NamedTuple):
    """How far one training point outweighs all others, with rounding."""

    row: Int[Array, ""]
    """Of that point; -1 where it is not known."""
    others: Float[Array, ""]
    """Bound of the sum of all other posterior weights, relative to its own."""
    gap: Float[Array, ""]
    """No other weight, relative to its own, exceeds `exp(-gap)`."""


def concentrations(
    points: PointSet,
    moves: Float[Array, "m d"],
    along: Float[Array, "n m"],
    u: Float[Array, "batch d"],
    sigma: Array,
) -> Concentration:
    """How far one training point outweighs all others at each perturbed state: arrays of shape (batch, m).

    From the products with all points, in one pass, rounding included. Arguments as in `barycentres`.
    """
    n = len(points.points)

    def at_state(inputs: tuple[Array, Array]) -> Concentration:
        product, error = inputs
        best, largest, second, others = _two_largest(product[:, None] + along)
        doubt = 2 * error / sigma**2
        gap = 0.999 * (largest - second) / sigma**2 - doubt
        # Two bounds of the others' weights: their sum, as precise as the logits, and their number times the largest.
        total = jnp.sum(jnp.exp((others - largest[None]) / sigma**2), axis=0)
        by_sum = jnp.log(1.01 * total + n * jnp.finfo(u.dtype).tiny) + doubt
        mass = jnp.exp(jnp.minimum(by_sum, math.log(n) - gap)) + jnp.finfo(u.dtype).tiny
        return Concentration(best.astype(jnp.int32), mass, gap)

    return lax.map(at_state, _logits(points, moves, u))


def heaviest_point(points: PointSet, u: Float[Array, "batch d"], sigma: Array) -> Concentration:
    """How far one training point outweighs all others at each state, from the products with all of them."""
    n, d = points.points.shape
    none = jnp.zeros((1, d), u.dtype), jnp.zeros((n, 1), u.dtype)
    return Concentration(*(x[:, 0] for x in concentrations(points, *none, u, sigma)))


def _logits(points: PointSet, moves: Array, u: Array) -> tuple[Array, Array]:
    """Of the points, times sigma squared and up to what they have in common; and bounds of their errors."""
    d, reach = u.shape[1], jnp.linalg.norm(moves, axis=1)
    products, size = products_with(points, u)
    terms = size[:, None] + (points.radius * (reach + points.radius))[None]
    return products, 0.51 * (d + 10) * jnp.finfo(u.dtype).eps * terms


def _two_largest(values: Float[Array, "n m"]) -> tuple[Array, Array, Array, Array]:
    """Of each column: the row of the largest, it, the second largest, and all others."""
    n = len(values)
    row = jnp.arange(n)[:, None]
    largest = jnp.max(values, axis=0)
    # The first: `jnp.argmax` is not vectorised.
    best = jnp.min(jnp.where(values == largest[None], row, n - 1), axis=0)
    others = jnp.where(row == best[None], -jnp.inf, values)
    return best, largest, jnp.max(others, axis=0), others


class Barycentre(NamedTuple):
    """The mean of the training points that have most weight at the perturbed points."""

    point: Float[Array, "batch d"]
    rows: Int[Array, "batch m"]
    stays: Bool[Array, " batch"]
    """Whether the flow can be proved to end there."""


def barycentres(
    points: PointSet,
    moves: Float[Array, "m d"],
    along: Float[Array, "n m"],
    u: Float[Array, "batch d"],
    sigma: Array,
    end: Array,
) -> Barycentre:
    """Barycentres of a batch at one noise level, and whether the flow ends on them, to a rounding of the points' radius.

    Args:
        points: the training set, without weights.
        moves: the perturbations, in data units.
        along: their inner products with the centred points.
        u: states of the flow.
        sigma: their noise level.
        end: the flow's last noise level.
    """
    eps = jnp.finfo(u.dtype).eps
    radius, diameter = points.radius, 2.001 * points.radius
    rows, mass, gap = concentrations(points, moves, along, u, sigma)
    nearest = points.points[rows]
    offsets = nearest - points.centre[None, None]
    point = points.centre[None] + jnp.mean(offsets, axis=1)

    def at_end(inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        product, error = inputs
        best, largest, second, _ = _two_largest(product[:, None] + along)
        return best, jnp.stack([largest - second - 2 * error, largest - second + 2 * error])

    best, difference = lax.map(at_end, _logits(points, moves, point))
    # Squares of distances differ by twice as much as logits.
    own = jnp.linalg.norm(point[:, None] + moves[None] - nearest, axis=2)
    other = jnp.sqrt(own**2 + 2 * jnp.maximum(difference[:, 1], 0))
    # The largest of one point has no second.
    margin = jnp.where(
        difference[:, 0] == jnp.inf, jnp.inf, 1.99 * difference[:, 0] / (own + other)
    )
    stays = jnp.all((best.astype(rows.dtype) == rows) & (gap > 0) & (difference[:, 0] > 0), axis=1)
    stays &= 2.01 * diameter * jnp.mean(mass, axis=1) < jnp.min(margin, axis=1)
    left = diameter * jnp.mean(mass * jnp.exp(-(sigma / end - 1) * jnp.maximum(gap, 0)), axis=1)
    return Barycentre(point, rows, stays & (left <= eps * radius))
