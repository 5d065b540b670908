r"""Posterior means from the sums over all points, with bounds of what rounding changes in them.

*A bound for every query.* Logits from a product are off by at most `doubt` nats, which bounds the mean's error by the
points' spread times as much; see `rounding_of_products`. That is cheap, and often far too large: where one point has almost
all weight, as errors of others' weights then hardly matter; where the product is not trusted and `first_pass` takes
differences; and where a few points lie much farther out than most, for which alone the product is so poor.

*Two better ones*, where a certificate is asked for, for the queries whose bound that leaves too large. The points that can
matter are weighed once more, all from differences, if they are few (`OwnCandidates`). And each point is given its own doubt.
With w the weights used, `w e^s` the true ones up to a factor, and D the mean used, `sum w (c - D) = 0` makes of the true
mean D'

    D' - D = sum w (e^s - 1) (c - D) / sum w e^s.

A product of d terms with `c_i` and half the square of `c_i` are off by `eps (d + 8) |c_i| (|v| + |c_i|) / 2 sigma^2` nats at
most, and logits relative to an anchor's by as much for it. Weights, doubts and distances from D come from one more product;
a weight and its doubt meet in one exponent, as the former may underflow where the latter is large. Where neither is enough,
as for clusters that are far apart beside their size, and the set is not too large, all points are weighed from differences.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..._jax.groups import Group, over_flagged
from ..._jax.precision import HIGHEST
from .._posterior.anchored import Anchor
from .._posterior.first_pass import Sums, first_pass
from .._posterior.point_posterior import summarise
from .._posterior.point_set import PointSet, chunk_at, over_chunks
from .._posterior.product_logits import product_logits
from .candidates import OwnCandidates, Truncation, weigh
from .certified import CertifiedMean
from .shared_candidates import ProductRounding, product_is_trusted, rounding_of_products

# A bound of so many roundings of the result is left as it is. That of fewer terms than all points, of so many and one for
# each point: the sums over all cost what was saved, and would not be sure to improve it.
ENOUGH, SAVED = 16.0, 2.0**16
# Points that are weighed once more, of a query; queries at a time, and their bounds for all points.
VISITS, GROUP, AT_ONCE = 64, 64, 2**22
# Coordinates of all points of which differences are taken for one query.
DIFFERENCES = 2**22


def sums_over_all(
    points: PointSet, u: Float[Array, "q d"], sigma: Float[Array, " q"]
) -> tuple[CertifiedMean, ProductRounding, tuple[Anchor, Sums]]:
    """The means of a batch of queries, and what their bounds of rounding come from. Nothing is left out."""
    n = len(points.points)
    anchor, sums = jax.vmap(first_pass, (None, 0, 0))(points, u, sigma)
    summary = jax.vmap(summarise, (None, 0, 0, 0, 0))(points.centre, u, sigma, anchor, sums)
    length = jnp.linalg.norm(u - points.centre[None], axis=1)
    mean_length = jnp.linalg.norm(summary.mean, axis=1)
    bounds = rounding_of_products(
        points, length, sigma, mean_length, summary.variance, _num_summed(points)
    )
    rounding = bounds.by_weights + bounds.by_sums + bounds.of_result
    visited = jnp.full(len(u), n, jnp.int32)
    mean = points.centre[None] + summary.mean
    found = CertifiedMean(mean, jnp.zeros_like(rounding), rounding, visited)
    return found, bounds, (anchor, sums)


def _num_summed(points: PointSet) -> int:
    n = len(points.points)
    # XLA may add the products of a chunk to the sum so far one by one.
    return n + n // points.chunk_size + 8


def refined(
    of: Truncation, u: Float[Array, "q d"], sigma: Float[Array, " q"], found: CertifiedMean
) -> CertifiedMean:
    """Certified means of a batch, with the better of two where the bound of rounding is loose: the other is over all points.

    A few roundings of result, centre and distances from it, which no sum avoids, say what is loose.
    """
    n, d = of.points.points.shape
    centre = jnp.linalg.norm(of.points.centre)
    eps = jnp.finfo(u.dtype).eps
    unavoidable = eps * (jnp.linalg.norm(found.value, axis=1) + centre)
    within = unavoidable + eps * jnp.minimum(sigma, of.farthest)

    def better(loose: Array) -> CertifiedMean:
        other = _certified_sums(of, u, sigma)
        total = lambda x: x.rounding + x.truncation  # noqa: E731
        best = loose & (total(other) < total(found))  # not where that is NaN
        choose = lambda x, y: jnp.where(best.reshape(-1, *[1] * (x.ndim - 1)), x, y)  # noqa: E731
        return jax.tree.map(choose, other, found)

    saved = (found.visited < n) & (found.rounding <= (SAVED + n + 60 * d) * within)
    loose = (found.rounding > ENOUGH * unavoidable) & ~saved
    return lax.cond(jnp.any(loose), lambda: better(loose), lambda: found)


def _certified_sums(
    of: Truncation, u: Float[Array, "q d"], sigma: Float[Array, " q"]
) -> CertifiedMean:
    set_ = of.points
    n, num, eps = len(set_.points), len(u), jnp.finfo(u.dtype).eps
    first, bounds, (anchor, sums) = sums_over_all(set_, u, sigma)
    last, num_summed = bounds.of_result, _num_summed(set_)

    candidates = OwnCandidates(None, VISITS, precise=True)

    def some(group: Group, state):
        taken = group.taken
        at, level, mean = group.tied((u[taken], sigma[taken], state[0][taken]))
        mine = jax.tree.map(lambda x: x[taken], (anchor, sums, mean - set_.centre[None]))
        by_weights, size = jax.vmap(_by_weights, (None, 0, 0, 0))(set_, at, level, mine)
        of_sums = jnp.minimum(bounds.by_sums[taken], eps * num_summed * size)
        own = jnp.minimum(bounds.by_weights[taken], by_weights) + of_sums + last[taken]
        found, _ = candidates.attempt(of, at, level)
        other = found.rounding + found.truncation
        # Not where that is NaN.
        better = other < own
        value = jnp.where(better[:, None], found.value, mean)
        return group.put(state, (value, jnp.where(better, other, own), of_sums))

    waiting = first.rounding > ENOUGH * last
    state = (first.value, first.rounding, bounds.by_sums)
    size = max(16, min(GROUP, AT_ONCE // n))
    value, rounding, by_sums = over_flagged(some, waiting, state, size)

    def one(loop):
        waiting, value, rounding = loop
        k = jnp.argmax(waiting)
        _, at, level = lax.optimization_barrier((waiting, u[k], sigma[k]))
        found = weigh(set_, at, level, jnp.arange(n), precise=True)
        better = found.rounding < rounding[k]
        return (
            waiting.at[k].set(False),
            value.at[k].set(jnp.where(better, found.mean, value[k])),
            rounding.at[k].set(jnp.where(better, found.rounding, rounding[k])),
        )

    # Where rounding of the weights decides, not of the sums.
    waiting = rounding > 1.1 * by_sums + ENOUGH * last
    waiting &= ~product_is_trusted(set_, u, sigma)
    if set_.points.size <= DIFFERENCES:
        state = (waiting, value, rounding)
        _, value, rounding = lax.while_loop(lambda loop: jnp.any(loop[0]), one, state)
    return CertifiedMean(value, jnp.zeros_like(rounding), rounding, jnp.full(num, n, jnp.int32))


def _by_weights(
    points: PointSet, u: Array, sigma: Array, found: tuple[Anchor, Sums, Array]
) -> tuple[Array, Array]:
    """Bounds of the error by the weights, and of their mean of `|c_i|`; infinite where there is none."""
    anchor, sums, mean = found
    d = len(u)
    eps = jnp.finfo(u.dtype).eps
    v = u - points.centre
    length, off = jnp.linalg.norm(v), jnp.linalg.norm(mean)
    log_normaliser = sums.highest + jnp.log(sums.normaliser)

    def doubts(size: Array) -> Array:
        # Twice: of the product that gave the weights used, and of the one here.
        return 1.02 * (d + 8) * eps * size * (length + size) / sigma**2

    with_anchor = anchor.row >= 0
    row = jnp.maximum(anchor.row, 0)
    own = jnp.sqrt(2 * points.half_square[row])
    # Logits relative to the anchor's, where there is one, come from two products, or else from differences to it.
    of_anchor = jnp.where(with_anchor, doubts(own), 0)

    def step(carry, i):
        chunk = chunk_at(points, i)
        size = jnp.sqrt(2 * jnp.where(chunk.valid, chunk.half_square, 0))
        product = product_logits(chunk, v, sigma)
        relative = product - jnp.where(with_anchor, anchor.product_logit, 0) - log_normaliser
        is_anchor = with_anchor & (chunk.rows == row)
        logits = jnp.where(is_anchor, -log_normaliser, relative)
        doubt = jnp.where(is_anchor, 0, doubts(size) + of_anchor)
        inner = jnp.dot(chunk.centred, mean, precision=HIGHEST)
        square = jnp.maximum(size**2 - 2 * inner + off**2, 0)
        distance = jnp.sqrt(square + 2 * (d + 8) * eps * (size + off) ** 2)
        valid = lambda x: jnp.sum(jnp.where(chunk.valid, x, 0))  # noqa: E731
        most = jnp.exp(jnp.minimum(logits + doubt, 80))
        # e^s - 1 with the exponent of the weight.
        changed = jnp.exp(jnp.minimum(logits + 2 * doubt, 80)) * -jnp.expm1(-doubt)
        new = (changed * distance, jnp.exp(logits - 2 * doubt), most * size)
        return tuple(old + valid(x) for old, x in zip(carry, new, strict=True))

    zero = jnp.zeros_like(sigma)
    moved, left, size = over_chunks(points, step, (zero, zero, zero))
    # Weights that underflow, and sums of so many numbers.
    n = len(points.points)
    slack = 1.01 + 2 * n * eps
    tiny = n * jnp.finfo(u.dtype).tiny * (points.radius + off)
    return slack * (moved + tiny) / left, slack * size + tiny
