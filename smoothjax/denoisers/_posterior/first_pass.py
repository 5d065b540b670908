"""The sums over all points that the posterior's summaries are read from, in one pass over the chunks.

Chunks are merged by the online soft-max (running maximum, normaliser, weighted sum), so that the memory is one chunk's, and
the chunk size only moves rounding errors.

A *careful pass* weighs what matters in each chunk from differences to an anchor, where the product cannot be trusted. In
many dimensions, where one point mostly outweighs the others by far, a *quick pass* first takes the product for all queries
and keeps the second largest logit, which certifies most of them; only the others are weighed carefully, in groups.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from ..._jax.batching import over_queries
from ..._jax.branches import update_if
from ..._jax.groups import Group, over_flagged
from ..._jax.largest import two_largest
from ..._jax.precision import HIGHEST
from .anchored import Anchor, anchored_weights, log_mass, move_anchor, no_anchor
from .point_set import Chunk, PointSet, chunk_at, num_chunks, over_chunks
from .product_logits import product_error, product_logits, tolerated_log_mass, worst_product_error

# Below so many dimensions all queries are weighed carefully at once: a product costs little there, compiling twice much.
QUICK_DIMENSION = 128
# Queries that are weighed carefully at once: so many, or an eighth of all where that many are doubtful.
SMALL_GROUP = 16


class Sums(NamedTuple):
    highest: Array  # largest logit so far, relative to the anchor; the sums are over exp(logit - highest) times
    normaliser: Array  # one
    point: Array  # the centred point
    logit: Array  # the logit without the log weight
    log_weight: Array  # the log weight
    half_square: Array  # half the square of the centred point


def _careful_pass(
    points: PointSet, u: Array, sigma: Array, matters: Bool[Array, " chunks"] | None = None
) -> tuple[Anchor, Sums]:
    """The weights of every chunk that `matters`, and of these points those that do weighed again, from differences."""
    zero = jnp.zeros((), u.dtype)
    v = u - points.centre
    _, trusted = product_error(points, u, sigma)

    def body(carry, i):
        if matters is None:
            return weigh(carry, (i, v, sigma))
        return update_if(matters[i], weigh, carry, (i, v, sigma))

    def weigh(carry, inputs):
        anchor, sums = carry
        i, v, sigma = inputs
        chunk = chunk_at(points, i)
        product = product_logits(chunk, v, sigma)
        score = product + chunk.log_weights
        largest = jnp.max(score)
        anchor, shift = update_if(
            ~trusted,
            functools.partial(move_anchor, points, u, sigma),
            (anchor, zero),
            (chunk._replace(centred=None), product, score, largest),
        )
        floor = sums.highest + shift
        weighed = anchored_weights(points, chunk, product, largest, u, sigma, anchor, floor)
        own, others = weighed.anchor, weighed.others
        keep = jnp.exp(floor - weighed.highest)
        own_square = 0.5 * jnp.sum((anchor.point - points.centre) ** 2)
        own_log_weight = jnp.where(own > 0, anchor.log_weight, 0)
        return anchor, Sums(
            weighed.highest,
            sums.normaliser * keep + jnp.sum(others) + own,
            sums.point * keep
            + jnp.dot(others, chunk.centred, precision=HIGHEST)
            + own * (anchor.point - points.centre),
            (sums.logit + shift * sums.normaliser) * keep + jnp.sum(others * weighed.logits),
            sums.log_weight * keep + jnp.sum(others * chunk.log_weights) + own * own_log_weight,
            sums.half_square * keep + _mean_square(others, chunk) + own * own_square,
        )

    lowest = jnp.asarray(jnp.finfo(u.dtype).min / 4, u.dtype)
    init = (
        no_anchor(points.centre, u.dtype),
        Sums(lowest, zero, jnp.zeros_like(v), zero, zero, zero),
    )
    return over_chunks(points, body, init)


def _mean_square(weights: Array, chunk: Chunk) -> Array:
    """Sum of the weights times half the points' squares, which are infinite where a weight is zero for being masked."""
    return jnp.dot(weights, jnp.where(chunk.valid, chunk.half_square, 0), precision=HIGHEST)


class _Quick(NamedTuple):
    highest: Array  # largest total so far; the sums are over exp(total - highest) times
    runner_up: Array  # second largest total so far
    row: Array  # of the largest
    normaliser: Array  # one
    point: Array  # the centred point
    total: Array  # the total, relative to the highest
    log_weight: Array  # the log weight
    half_square: Array  # half the square of the centred point


class _Doubts(NamedTuple):
    doubtful: Bool[
        Array, ""
    ]  # whether other weights than the largest matter so much that they must be precise
    matters: Bool[Array, " chunks"]  # whether the chunk has any that is not below rounding


def _quick_pass(points: PointSet, u: Array, sigma: Array) -> tuple[tuple[Anchor, Sums], _Doubts]:
    """The weights as the product gives them, and what is to be done about it."""
    zero = jnp.zeros((), u.dtype)
    v = u - points.centre
    tolerated = tolerated_log_mass(points, u, sigma)
    trusted = tolerated == jnp.inf

    def best_two(state, inputs):
        (_, runner_up), (rows, total, largest, highest) = state, inputs
        best, second = two_largest(total)
        second = jnp.maximum(jnp.maximum(runner_up, second), jnp.minimum(largest, highest))
        return rows[best], second

    def body(carry, i):
        state, all_largest = carry
        chunk = chunk_at(points, i)
        total = product_logits(chunk, v, sigma) + chunk.log_weights
        largest = jnp.max(total)
        best = (state.row, state.runner_up)
        inputs = (chunk.rows, total, largest, state.highest)
        row, runner_up = update_if(~trusted, best_two, best, inputs)
        row = jnp.where(largest > state.highest, row, state.row)
        highest = jnp.maximum(state.highest, largest)
        # Compiled code may round the same total in two ways, which must not show in the largest.
        is_best = chunk.rows == jnp.where(row >= chunk.first, row, -1)
        weights = jnp.where(is_best, 1, jnp.exp(total - highest))
        excess = jnp.where(chunk.valid & ~is_best, total - highest, 0)
        drop = state.highest - highest
        keep = jnp.exp(drop)
        state = _Quick(
            highest,
            runner_up,
            row,
            state.normaliser * keep + jnp.sum(weights),
            state.point * keep + jnp.dot(weights, chunk.centred, precision=HIGHEST),
            (state.total + drop * state.normaliser) * keep + jnp.sum(weights * excess),
            state.log_weight * keep + jnp.sum(weights * chunk.log_weights),
            state.half_square * keep + _mean_square(weights, chunk),
        )
        return state, all_largest.at[i].set(largest)

    lowest = jnp.asarray(jnp.finfo(u.dtype).min / 4, u.dtype)
    init = _Quick(lowest, lowest, jnp.asarray(-1), zero, jnp.zeros_like(v), zero, zero, zero)
    all_largest = jnp.zeros(num_chunks(points), u.dtype)
    end, all_largest = over_chunks(points, body, (init, all_largest))
    own = zero if points.log_weights is None else points.log_weights[end.row]
    best = Anchor(points.points[end.row], end.row, end.highest - own, own)
    none = no_anchor(points.centre, u.dtype)
    anchor = jax.tree.map(lambda none, best: jnp.where(trusted, none, best), none, best)
    # From now on relative to the anchor's logit, which leaves its log weight out.
    highest = jnp.where(trusted, end.highest, own)
    logit = end.total + highest * end.normaliser - end.log_weight
    sums = Sums(highest, end.normaliser, end.point, logit, end.log_weight, end.half_square)
    # Two bounds of the others' mass: the second largest weight times their number, which does not underflow; and, where
    # no other weight exceeds 0.3 < 1/e, the sum of w |log w|, which is precise where the mass itself would cancel.
    num = points.points.shape[0]
    others = end.runner_up - end.highest + math.log(num)
    by_sum = jnp.where(end.normaliser < 1.3, log_mass(-end.total, 0.0, num), jnp.inf)
    doubtful = jnp.minimum(others, by_sum) > tolerated
    negligible = math.log(jnp.finfo(u.dtype).eps / num) - 2 * worst_product_error(points, u, sigma)
    return (anchor, sums), _Doubts(doubtful, all_largest - end.highest > negligible)


def _first_passes(points: PointSet, u: Array, sigma: Array) -> tuple[Anchor, Sums]:
    """`first_pass` of a batch of queries."""
    if points.points.shape[1] < QUICK_DIMENSION:
        return jax.vmap(_careful_pass, (None, 0, 0))(points, u, sigma)

    def careful(group: Group, state):
        result, matters = state
        taken = group.taken
        at, level = group.tied((u[taken], sigma[taken]))
        again = jax.vmap(_careful_pass, (None, 0, 0, 0))(points, at, level, matters[taken])
        return group.put(result, again), matters

    result, doubts = jax.vmap(_quick_pass, (None, 0, 0))(points, u, sigma)
    state, sizes = (result, doubts.matters), (SMALL_GROUP, max(SMALL_GROUP, len(u) // 8))
    return over_flagged(careful, doubts.doubtful, state, *sizes)[0]


first_pass: Callable[[PointSet, Array, Array], tuple[Anchor, Sums]]
first_pass = over_queries(_first_passes, each=_careful_pass)
"""The anchor and the sums over all points: quickly, and carefully for the queries that need it.

`vmap` would run both for all queries as soon as one needs it; hence a rule of its own.
"""
