r"""The posterior means of a group of queries from all points that matter to any of them.

Given upper bounds of `l_i = v . c_i - |c_i|^2 / 2`, and from a few points with large bounds a lower bound `l` of their
maximum, a point matters unless its bound is below `l - sigma^2 m`. The others have at most `n e^(-m)` of the weight of one
of those few, so that m follows from the tolerance, and nothing need be summed over them. Queries at one noise level share
most of what matters to them: the union is gathered once, in blocks, and one product for each block serves the group. Its
cost is that of the dense denoiser for so many points, however many each query needs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ..._jax.largest import COLUMN, index_of_largest, leading_columns
from ..._jax.precision import HIGHEST
from .._posterior.concentration import Concentration
from .._posterior.point_set import PointSet
from .._posterior.product_logits import inner_products, product_error
from .certified import CertifiedMean

# Points that are gathered and weighed at a time: in cache, and enough for the product.
BLOCK = 512
# Points with large bounds that each query tries.
TRIED = 16


def shared_candidates(
    points: PointSet,
    farthest: Float[Array, ""],
    tolerance: Float[Array, ""],
    bounds: Float[Array, "q padded"],
    u: Float[Array, "q d"],
    sigma: Float[Array, " q"],
) -> tuple[CertifiedMean, Concentration]:
    """The means and what is known of the weights; an infinite truncation error where too many points matter.

    Args:
        points: the training set, without weights.
        farthest: bound of the distances of the points from their centre.
        tolerance: of the means, by truncation.
        bounds: of `v . c_i - |c_i|^2 / 2`, rounding included; columns beyond the points are ignored.
        u: noisy points, data units.
        sigma: their noise levels.
    """
    n = len(points.points)
    eps = jnp.finfo(u.dtype).eps
    v = u - points.centre[None]
    length = jnp.linalg.norm(v, axis=1)
    lowest = _largest_from_below(points, bounds, v)
    left = jnp.minimum(tolerance / (2.1 * farthest), 0.1)
    margin = 1.001 * (jnp.log(n / left) + 0.01)
    threshold = lowest - sigma**2 * margin - 4 * eps * jnp.abs(lowest)
    # The largest over the queries: a maximum of floats is vectorised, "any" is not.
    wanted = jnp.max(bounds[:, :n] - threshold[:, None], axis=0) > 0
    count = jnp.sum(wanted)
    most = BLOCK * -(-n // (4 * BLOCK))
    (rows,) = jnp.nonzero(wanted, size=most, fill_value=n)

    def block(state):
        k, sums = state
        these = lax.dynamic_slice_in_dim(rows, k * BLOCK, BLOCK)
        taken = jnp.minimum(these, n - 1)
        c = lax.optimization_barrier(points.points[taken]) - points.centre[None]
        below = jnp.where(these < n, points.half_square[taken], jnp.inf)
        logits = (inner_products(v, c) - below[None]) / sigma[:, None] ** 2
        best = jax.vmap(index_of_largest)(logits)
        is_best = jnp.arange(BLOCK)[None] == best[:, None]
        largest = jnp.max(logits, axis=1)
        next_largest = jnp.max(jnp.where(is_best, -jnp.inf, logits), axis=1)
        highest, second, row, others, point, square = sums
        better = largest > highest
        new = jnp.maximum(largest, highest)
        keep = jnp.exp(highest - new)
        weights = jnp.exp(logits - new[:, None])
        # Apart from the largest of all, whose weight is one: their sum must not cancel.
        apart = jnp.sum(jnp.where(is_best & better[:, None], 0, weights), axis=1)
        second = jnp.maximum(jnp.maximum(next_largest, second), jnp.where(better, highest, largest))
        return k + 1, (
            new,
            second,
            jnp.where(better, these[best], row),
            (others + better.astype(u.dtype)) * keep + apart,
            point * keep[:, None] + jnp.dot(weights, c, precision=HIGHEST),
            square * keep + jnp.dot(weights, jnp.where(these < n, below, 0), precision=HIGHEST),
        )

    zero = jnp.zeros_like(sigma)
    lowest_of_all = jnp.full_like(sigma, jnp.finfo(u.dtype).min / 4)
    init = (lowest_of_all, lowest_of_all, jnp.full(len(u), n), zero, jnp.zeros_like(v), zero)
    num_blocks = jnp.where(count > most, 0, -(-count // BLOCK))
    _, sums = lax.while_loop(lambda s: s[0] < num_blocks, block, (jnp.zeros_like(count), init))
    highest, second, row, others, point, square = sums
    mean = point / (1 + others)[:, None]
    variance = 2 * square / (1 + others) - jnp.sum(mean**2, axis=1)
    mean_length = jnp.linalg.norm(mean, axis=1)
    # XLA may add the products to the sum so far one by one.
    num_summed = (num_blocks * BLOCK + 8).astype(u.dtype)
    doubt, by_weights, by_sums, of_result = rounding_of_products(
        points, length, sigma, mean_length, variance, num_summed
    )
    # Of the others' weights there are two bounds: their sum, as precise as the logits, and their number times the largest,
    # which does not underflow before the doubt is added to its logarithm.
    underflown = n * jnp.finfo(u.dtype).tiny
    weighed = 1.01 * jnp.exp(jnp.minimum(2 * doubt, 40)) * (others + underflown)
    weighed = jnp.where(doubt < 20, weighed, jnp.inf)
    by_number = 1.01 * jnp.exp(jnp.minimum(second - highest + 2 * doubt + jnp.log(n), 40))
    weighed = jnp.minimum(weighed, by_number + jnp.finfo(u.dtype).tiny)
    # Where one point has almost all weight, the others can move the mean by no more than they have. Nor can summing them:
    # adding a small number to a large one is off by at most the small one, and by a rounding of it before they meet.
    rounding = jnp.minimum(by_weights + by_sums, 4.04 * farthest * weighed) + of_result
    truncation = jnp.where(count <= most, 2.05 * farthest * left, jnp.inf)
    visited = jnp.full(len(u), jnp.minimum(count, n), jnp.int32)
    value = CertifiedMean(points.centre[None] + mean, truncation, rounding, visited)
    gap = jnp.minimum(highest - second - 2 * doubt, margin)
    concentration = Concentration(row.astype(jnp.int32), weighed + 1.01 * left, 0.999 * gap - 0.01)
    return value, concentration


def _largest_from_below(
    points: PointSet, bounds: Float[Array, "q padded"], v: Float[Array, "q d"]
) -> Float[Array, " q"]:
    """Lower bounds of the largest `v . c_i - |c_i|^2 / 2`, from the points with the largest bounds of each query."""
    n, num = len(points.points), len(v)
    padded = jnp.pad(bounds, ((0, 0), (0, -bounds.shape[1] % COLUMN)), constant_values=-jnp.inf)
    padded, _, _, members = leading_columns(padded, min(TRIED, padded.shape[1] // COLUMN))
    of_members = jnp.take_along_axis(padded, members.reshape(num, -1), axis=1)
    of_members = of_members.reshape(members.shape)
    best = jnp.argmax(of_members, axis=1, keepdims=True)
    rows = jnp.take_along_axis(members, best, axis=1)
    # Each query tries those of all.
    tried = jnp.minimum(rows.ravel(), n - 1)
    c = lax.optimization_barrier(points.points[tried]) - points.centre[None]
    products = inner_products(v, c) - points.half_square[None, tried]
    best = jax.vmap(index_of_largest)(products)
    return log_weight_from_below(v, c[best])


def log_weight_from_below(v: Float[Array, "q d"], c: Float[Array, "q d"]) -> Float[Array, " q"]:
    """Lower bounds of `v . c - |c|^2 / 2`, for pairs of a query and a point, both relative to the centre."""
    own = 0.5 * jnp.sum(c**2, axis=1)
    lengths = jnp.linalg.norm(v, axis=1) * jnp.linalg.norm(c, axis=1)
    taken_off = 2 * (v.shape[1] + 8) * jnp.finfo(v.dtype).eps * (lengths + own)
    return jnp.sum(v * c, axis=1) - own - taken_off


def product_is_trusted(
    points: PointSet, u: Float[Array, "q d"], sigma: Float[Array, " q"]
) -> Bool[Array, " q"]:
    """Whether logits from a product can be left as they are; below, differences are needed."""
    return jax.vmap(product_error, (None, 0, 0))(points, u, sigma)[1]


class ProductRounding(NamedTuple):
    """What rounding does to logits from a product, and to means by these."""

    doubt: Float[Array, " q"]
    """Bound of the errors of logits, in nats."""
    by_weights: Float[Array, " q"]
    """Bound of the error of the mean by these."""
    by_sums: Float[Array, " q"]
    """That by summing over points."""
    of_result: Float[Array, " q"]
    """That of the operations on single points and on the result."""


def rounding_of_products(
    points: PointSet,
    length: Float[Array, " q"],
    sigma: Float[Array, " q"],
    mean_length: Float[Array, " q"],
    variance: Float[Array, " q"],
    num_summed: int | Float[Array, ""],
) -> ProductRounding:
    """Bounds of what rounding changes, whatever the order of summation.

    Args:
        points: the training set.
        length: distances of the queries from its centre.
        sigma: their noise levels.
        mean_length: distances of the means from the centre, as computed.
        variance: of the posteriors, as computed.
        num_summed: additions that a number goes through in the sums over points.
    """
    d = points.points.shape[1]
    eps = jnp.finfo(length.dtype).eps
    # With u = eps / 2, a product of d terms is off by `d u |v| |c|` in any order; centring both adds two of these, half the
    # square is off by `(d + 4) u |c|^2 / 2`, the difference and the quotient by u each.
    terms = points.radius * (length + points.radius)
    doubt = 0.51 * (d + 8) * eps * terms / sigma**2
    # The points' root mean square distance from the mean, by weights that are known to a factor e^(2 doubt); its square is a
    # difference of terms that are off by a few times as much as logits, and by their own sums over points.
    square = jnp.maximum(variance, 0) + 16 * sigma**2 * doubt + 4 * num_summed * eps * terms
    spread = jnp.minimum(jnp.sqrt(square), 1.01 * points.radius)
    most = jnp.minimum(doubt, 20)
    by_weights = jnp.minimum(jnp.expm1(2 * most) * jnp.exp(most) * spread, 2 * points.radius)
    # Sums of `w c` over n points and of w are off by `n u sum w |c|` each, relative to the sum of w. By Cauchy and Schwarz
    # the mean of |c| is at most the root of that of its square, which is the mean's square and the variance.
    size = jnp.minimum(jnp.sqrt(mean_length**2 + square), 1.01 * points.radius)
    of_result = eps * (8 * mean_length + jnp.linalg.norm(points.centre))
    return ProductRounding(doubt, by_weights, eps * num_summed * size, of_result)
