"""Logits from differences to an anchor, for the points whose weights must be more precise than a matrix product makes them.

The points that carry weight are weighed again, from differences to an *anchor* `a` (the nearest point that the product
found):

    -(|u - y_k|^2 - |u - a|^2) / 2 sigma^2 = (u - (y_k + a)/2) . (y_k - a) / sigma^2,

whose error is `eps |u - (y_k + a)/2| |y_k - a| / sigma^2`: small when the points compete closely, which is when it
matters. One point after another is taken, largest first, until what is left over could not change the result; a chunk in
which many points compete is weighed as a whole. Both loops run zero times where the product can be trusted, under `vmap`
too, so that nothing is paid there.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ..._jax.branches import update_if
from ..._jax.largest import index_of_largest
from .point_set import Chunk, PointSet
from .product_logits import tolerated_log_mass

# Elements of the differences that one step of weighing a whole chunk again may hold, for one query.
ALL_AT_ONCE = 16384


class Anchor(NamedTuple):
    point: Float[Array, " d"]  # not centred
    row: Int[Array, ""]  # -1 before the first chunk, and where the product is trusted
    product_logit: Float[Array, ""]  # its logit as the matrix product gives it
    log_weight: Float[Array, ""]  # -inf before the first chunk


def no_anchor(centre: Array, dtype: Any) -> Anchor:
    logit, log_weight = jnp.zeros((), dtype), jnp.asarray(-jnp.inf, dtype)
    return Anchor(centre, jnp.asarray(-1), logit, log_weight)


def _difference(a: Array, b: Array) -> tuple[Array, Array]:
    """`a - b` rounded, and what the rounding left out, exactly (Knuth's two-sum)."""
    rounded = a - b
    taken = rounded - a
    return rounded, (a - (rounded - taken)) - (b + taken)


def anchored_logit(y: Array, u: Array, anchor: Array, sigma: Array) -> Array:
    return 0.5 * jnp.sum(anchored_terms(y, u, anchor), axis=-1) / sigma**2


def anchored_terms(y: Array, u: Array, anchor: Array) -> Array:
    """`(2 u - (y + a)) (y - a)`, coordinate by coordinate."""
    u, anchor = lax.broadcast_to_rank(u, y.ndim), lax.broadcast_to_rank(anchor, y.ndim)
    # 2 u - (y + a), precise relative to itself however nearly it vanishes: the differences are kept exactly.
    from_y, from_y_rest = _difference(u, y)
    from_anchor, from_anchor_rest = _difference(u, anchor)
    both, both_rest = _difference(from_y, -from_anchor)
    twice = both + (both_rest + (from_y_rest + from_anchor_rest))
    return twice * (y - anchor)


def move_anchor(points: PointSet, u: Array, sigma: Array, state, inputs):
    """Takes the chunk's best point as anchor if it beats the present one; also by how much logits rise."""
    (anchor, _), (chunk, product, score, largest) = state, inputs
    best = index_of_largest(score)
    row = chunk.rows[best]
    candidate = Anchor(points.points[row], row, product[best], chunk.log_weights[best])
    better = largest > anchor.product_logit + anchor.log_weight
    shift = anchored_logit(anchor.point, u, candidate.point, sigma)
    new = jax.tree.map(lambda new, old: jnp.where(better, new, old), candidate, anchor)
    return new, jnp.where(better, shift, 0)


class Weighed(NamedTuple):
    """The weights of a chunk's points. The anchor's is kept apart: it is known, and often the only one that matters."""

    highest: Array  # largest total so far
    anchor: Array  # the anchor's exp(total - highest), 0 in other chunks
    others: Array  # exp(total - highest), 0 for the anchor
    logits: Array  # of all, without the log weights, relative to the anchor's


def _weigh(chunk: Chunk, anchor: Anchor, total: Array, logits: Array, highest: Array) -> Weighed:
    here = (anchor.row >= chunk.first) & (anchor.row <= chunk.rows[-1])
    highest = jnp.maximum(highest, jnp.where(here, anchor.log_weight, -jnp.inf))
    others = jnp.exp(jnp.where(chunk.rows == anchor.row, -jnp.inf, total - highest))
    own = jnp.where(here, jnp.exp(anchor.log_weight - highest), 0)
    return Weighed(highest, own, others, jnp.where(chunk.valid, logits, 0))


def log_mass(mass: Array, rounding: Array | float, num: int) -> Array:
    """Logarithm of a mass of `num` weights; weights that underflow are taken for e^-80."""
    return jnp.log(jnp.maximum(mass, 0) + rounding + num * math.exp(-80))


def anchored_weights(
    points: PointSet,
    chunk: Chunk,
    product: Array,
    largest: Array,
    u: Array,
    sigma: Array,
    anchor: Anchor,
    floor: Array,
) -> Weighed:
    """The chunk's weights, with the logits that matter anchored, until the others cannot change the posterior.

    `largest` is the chunk's largest total as the product gives it; `floor` is a total known to occur elsewhere.
    """
    tolerated = tolerated_log_mass(points, u, sigma)
    c, d = chunk.centred.shape

    # The anchor is known to be the largest if it is here.
    first = _weigh(
        chunk,
        anchor,
        product + chunk.log_weights - anchor.product_logit,
        jnp.where(chunk.rows == anchor.row, 0, product - anchor.product_logit),
        jnp.maximum(largest - anchor.product_logit, floor),
    )
    rest = jnp.sum(first.others)

    def again(_, inputs):
        chunk, product, u, anchor, floor, highest, rest = inputs
        is_anchor = chunk.rows == anchor.row
        logits = jnp.where(is_anchor, 0, product - anchor.product_logit)
        left = jnp.where(is_anchor, -jnp.inf, logits + chunk.log_weights)
        rounding = c * jnp.finfo(u.dtype).eps * rest

        def unfinished(left, mass):
            # Two bounds of what is left: the running difference, good to its rounding, and the largest times c.
            most = jnp.max(left) - highest + math.log(c)
            return jnp.minimum(log_mass(mass, rounding, c), most) > tolerated

        def one(state):
            logits, left, mass, count = state
            k = index_of_largest(left)
            anchored = anchored_logit(points.points[chunk.rows[k]], u, anchor.point, sigma)
            mass -= jnp.exp(left[k] - highest)
            here = jnp.arange(c) == k
            logits, left = jnp.where(here, anchored, logits), jnp.where(here, -jnp.inf, left)
            return logits, left, mass, count + 1

        state = (logits, left, rest, jnp.zeros((), jnp.int32))
        # One after another costs a look at the whole chunk each: beyond d/4 points, all at once is cheaper.
        if d >= 4:
            state = lax.while_loop(lambda s: unfinished(s[1], s[2]) & (s[3] < d // 4), one, state)
        logits, left, mass, _ = state

        def all_at_once(_, inputs):
            rows, u, anchor = inputs
            return lax.map(
                lambda row: anchored_logit(points.points[row], u, anchor, sigma),
                rows,
                batch_size=max(1, min(c, ALL_AT_ONCE // d)),
            )

        inputs = (chunk.rows, u, anchor.point)
        logits = update_if(unfinished(left, mass), all_at_once, logits, inputs)
        totals = jnp.where(chunk.valid, logits + chunk.log_weights, -jnp.inf)
        return _weigh(chunk, anchor, totals, logits, jnp.maximum(jnp.max(totals), floor))

    # The points of the chunk are not among the inputs: a loop would copy them.
    inputs = (chunk._replace(centred=None), product, u, anchor, floor, first.highest, rest)
    return update_if(log_mass(rest, 0.0, c) > tolerated, again, first, inputs)
