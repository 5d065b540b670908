r"""The posterior over a finite set of points, streamed, exact and accurate in either precision.

For `u = y_K + sigma z` with `P(K = k) = pi_k` the posterior is a soft-max over `-|u - y_k|^2 / 2 sigma^2 + log pi_k`.
Three things make the textbook evaluation fail, and this module is about them.

*Cancellation.* With `v = u - c` and `c_k = y_k - c` about the centre c, a matrix product gives `v . c_k - |c_k|^2 / 2` to
an absolute error `eps R (|v| + R)`, R the radius of the set, and the soft-max divides it by `sigma^2`. As long as
`R (|v| + R) <= TRUSTED_RATIO sigma^2` that is harmless. Below, the points that carry weight are weighed again, from
differences to an *anchor* `a` (the nearest point that the product found):

    -(|u - y_k|^2 - |u - a|^2) / 2 sigma^2 = (u - (y_k + a)/2) . (y_k - a) / sigma^2,

whose error is `eps |u - (y_k + a)/2| |y_k - a| / sigma^2`: small when the points compete closely, which is when it
matters. Centring rounds the points by `eps R`, which would decide between two of them for a query midway; the points are
therefore kept as they are given, and centred a chunk at a time. One point after another is taken, largest first, until
what is left over could not change the result; a chunk in which many points compete is weighed as a whole. Both loops run
zero times where the product can be trusted, under `vmap` too, so that nothing is paid there. In many dimensions, where
one point mostly outweighs the others by far, a quick pass first takes the product for all queries and keeps the second
largest logit, which certifies most of them; only the others are weighed carefully, in groups.

*Memory.* Chunks are merged by the online soft-max (running maximum, normaliser, weighted sum), so that the memory is one
chunk's, and the chunk size only moves rounding errors.

*Derivatives.* Differentiating the above would store every chunk and cancel again. The derivatives of the four summaries
are posterior covariances, which a second pass over the points gives in closed form.
"""

import functools
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

HIGHEST = lax.Precision.HIGHEST
# Logits from the product are off by about (unit roundoff) x this; see the module's text.
TRUSTED_RATIO = 4096.0
# Columns in which a largest value is looked for: whole vector registers.
LANES = 16
# Below so many dimensions all queries are weighed carefully at once: a product costs little there, compiling twice much.
QUICK_DIMENSION = 128
# Queries that are weighed carefully at once: so many, or an eighth of all where that many are doubtful.
SMALL_GROUP = 16
# Elements of the differences that one step of weighing a whole chunk again may hold, for one query.
ALL_AT_ONCE = 16384


class PointSet(eqx.Module):
    """Points with what their posterior needs, prepared once. Nothing depends on the centre but rounding errors."""

    points: Float[Array, "n d"]
    log_weights: Float[Array, " n"] | None
    centre: Float[Array, " d"]
    half_square: Float[Array, " n"]  # of the centred points
    radius: Float[Array, ""]  # of the centred points
    chunk_size: int = eqx.field(static=True)


class PosteriorSummary(NamedTuple):
    """What a denoiser reads off the posterior weights `w_k` at one noisy point."""

    log_evidence: Float[Array, ""]  # log sum_k pi_k exp(-|u - y_k|^2 / 2 sigma^2)
    mean: Float[Array, " d"]  # sum_k w_k y_k, relative to the centre
    variance: Float[Array, ""]  # sum_k w_k |y_k - E y|^2
    entropy: Float[Array, ""]  # -sum_k w_k log w_k, in nats


class _Anchor(NamedTuple):
    point: Float[Array, " d"]  # not centred
    row: Int[Array, ""]  # -1 before the first chunk, and where the product is trusted
    product_logit: Float[Array, ""]  # its logit as the matrix product gives it
    log_weight: Float[Array, ""]  # -inf before the first chunk


def _no_anchor(centre: Array, dtype: Any) -> _Anchor:
    logit, log_weight = jnp.zeros((), dtype), jnp.asarray(-jnp.inf, dtype)
    return _Anchor(centre, jnp.asarray(-1), logit, log_weight)


class _Chunk(NamedTuple):
    centred: Any  # Float[Array, "c d"]
    half_square: Float[Array, " c"]
    log_weights: Float[Array, " c"]
    valid: Bool[Array, " c"]  # False for rows of an earlier chunk, and for points of weight zero
    rows: Int[Array, " c"]
    first: Int[Array, ""]  # row of the first point that no earlier chunk had


def _chunk(points: PointSet, i: Int[Array, ""] | int) -> _Chunk:
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
    centred = rows(points.points) - points.centre
    return _Chunk(centred, half_square, log_weights, valid, indices, first)


def _num_chunks(points: PointSet) -> int:
    return -(-points.points.shape[0] // points.chunk_size)


def _over_chunks(points: PointSet, body, init):
    """`body(carry, i)` over all chunks."""
    if _num_chunks(points) == 1:
        return body(init, 0)
    return lax.scan(lambda carry, i: (body(carry, i), None), init, jnp.arange(_num_chunks(points)))[
        0
    ]


def _if(condition: Array, update, state, inputs):
    """`update(state, inputs) if condition else state`; stays a branch under `vmap`, taken if any element needs it.

    `inputs` are everything that the expensive part depends on. They are tied to the condition, since XLA otherwise moves
    what does not depend on the loop out of it, and computes it whether or not the loop runs.
    """

    def body(loop):
        again, state = loop
        _, tied = lax.optimization_barrier((again, inputs))
        return jnp.zeros_like(again), update(state, tied)

    return lax.while_loop(lambda loop: loop[0], body, (condition, state))[1]


def _product_logits(chunk: _Chunk, v: Array, sigma: Array) -> Array:
    return (jnp.dot(chunk.centred, v, precision=HIGHEST) - chunk.half_square) / sigma**2


def _difference(a: Array, b: Array) -> tuple[Array, Array]:
    """`a - b` rounded, and what the rounding left out, exactly (Knuth's two-sum)."""
    rounded = a - b
    taken = rounded - a
    return rounded, (a - (rounded - taken)) - (b + taken)


def _anchored_logit(y: Array, u: Array, anchor: Array, sigma: Array) -> Array:
    # 2 u - (y + a), precise relative to itself however nearly it vanishes: the differences are kept exactly.
    from_y, from_y_rest = _difference(u, y)
    from_anchor, from_anchor_rest = _difference(u, anchor)
    both, both_rest = _difference(from_y, -from_anchor)
    twice = both + (both_rest + (from_y_rest + from_anchor_rest))
    return 0.5 * jnp.sum(twice * (y - anchor), axis=-1) / sigma**2


def _index_of_largest(values: Array) -> Array:
    """`jnp.argmax`, many times faster on CPUs, where a reduction of pairs is not vectorised."""
    n = values.shape[0]
    if n % LANES:
        return _first(values)
    columns = values.reshape(-1, LANES)
    j = _first(jnp.max(columns, axis=0))
    return _first(columns[:, j]) * LANES + j


def _two_largest(values: Array) -> tuple[Array, Array]:
    """Where the largest is, and the second largest."""
    best = _index_of_largest(values)
    here = jnp.arange(values.shape[0]) == best
    return best, jnp.max(jnp.where(here, -jnp.inf, values))


def _first(values: Array) -> Array:
    last = values.shape[0] - 1
    return jnp.min(jnp.where(values == jnp.max(values), jnp.arange(last + 1), last))


def _product_error(points: PointSet, u: Array, sigma: Array) -> tuple[Array, Array]:
    """Typical rounding error of a logit from the product, in nats, and whether it can be left as it is."""
    distance = jnp.sqrt(jnp.sum((u - points.centre) ** 2))
    ratio = points.radius * (distance + points.radius) / sigma**2
    return 0.5 * jnp.finfo(u.dtype).eps * ratio, ratio <= TRUSTED_RATIO


def _tolerated(points: PointSet, u: Array, sigma: Array) -> Array:
    """Logarithm of the mass whose weights can be left as the product gives them, by that of the largest."""
    return log_tolerated(_product_error(points, u, sigma)[0], u.shape[0])


def log_tolerated(error: Array, d: int) -> Array:
    """The same, for logits of which a product of d terms leaves that typical error, in nats."""
    trusted = 0.5 * jnp.finfo(error.dtype).eps * TRUSTED_RATIO
    # What is left over has logits that are off by the typical error, and a weight known to a factor e^(2 worst).
    tolerated = jnp.log(trusted) - jnp.log(error) - 2 * _worst(error, d)
    return jnp.where(error <= trusted, jnp.inf, tolerated)


def _worst_product_error(points: PointSet, u: Array, sigma: Array) -> Array:
    return _worst(_product_error(points, u, sigma)[0], u.shape[0])


def _worst(error: Array, d: int) -> Array:
    # With partial sums of d terms, roundings add up to about sqrt(d) of them (measured: 3.4 at d = 784), at most.
    return (8 + math.sqrt(d)) * error


def _move_anchor(points: PointSet, u: Array, sigma: Array, state, inputs):
    """Takes the chunk's best point as anchor if it beats the present one; also by how much logits rise."""
    (anchor, _), (chunk, product, score, largest) = state, inputs
    best = _index_of_largest(score)
    row = chunk.rows[best]
    candidate = _Anchor(points.points[row], row, product[best], chunk.log_weights[best])
    better = largest > anchor.product_logit + anchor.log_weight
    shift = _anchored_logit(anchor.point, u, candidate.point, sigma)
    new = jax.tree.map(lambda new, old: jnp.where(better, new, old), candidate, anchor)
    return new, jnp.where(better, shift, 0)


class _Weighed(NamedTuple):
    """The weights of a chunk's points. The anchor's is kept apart: it is known, and often the only one that matters."""

    highest: Array  # largest total so far
    anchor: Array  # the anchor's exp(total - highest), 0 in other chunks
    others: Array  # exp(total - highest), 0 for the anchor
    logits: Array  # of all, without the log weights, relative to the anchor's


def _weigh(chunk: _Chunk, anchor: _Anchor, total: Array, logits: Array, highest: Array) -> _Weighed:
    here = (anchor.row >= chunk.first) & (anchor.row <= chunk.rows[-1])
    highest = jnp.maximum(highest, jnp.where(here, anchor.log_weight, -jnp.inf))
    others = jnp.exp(jnp.where(chunk.rows == anchor.row, -jnp.inf, total - highest))
    own = jnp.where(here, jnp.exp(anchor.log_weight - highest), 0)
    return _Weighed(highest, own, others, jnp.where(chunk.valid, logits, 0))


def _log_mass(mass: Array, rounding: Array | float, num: int) -> Array:
    """Logarithm of a mass of `num` weights; weights that underflow are taken for e^-80."""
    return jnp.log(jnp.maximum(mass, 0) + rounding + num * math.exp(-80))


def _weighed(
    points: PointSet,
    chunk: _Chunk,
    product: Array,
    largest: Array,
    u: Array,
    sigma: Array,
    anchor: _Anchor,
    floor: Array,
) -> _Weighed:
    """The chunk's weights, with the logits that matter anchored, until the others cannot change the posterior.

    `largest` is the chunk's largest total as the product gives it; `floor` is a total known to occur elsewhere.
    """
    tolerated = _tolerated(points, u, sigma)
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
            return jnp.minimum(_log_mass(mass, rounding, c), most) > tolerated

        def one(state):
            logits, left, mass, count = state
            k = _index_of_largest(left)
            anchored = _anchored_logit(points.points[chunk.rows[k]], u, anchor.point, sigma)
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
                lambda row: _anchored_logit(points.points[row], u, anchor, sigma),
                rows,
                batch_size=max(1, min(c, ALL_AT_ONCE // d)),
            )

        inputs = (chunk.rows, u, anchor.point)
        logits = _if(unfinished(left, mass), all_at_once, logits, inputs)
        totals = jnp.where(chunk.valid, logits + chunk.log_weights, -jnp.inf)
        return _weigh(chunk, anchor, totals, logits, jnp.maximum(jnp.max(totals), floor))

    # The points of the chunk are not among the inputs: a loop would copy them.
    inputs = (chunk._replace(centred=None), product, u, anchor, floor, first.highest, rest)
    return _if(_log_mass(rest, 0.0, c) > tolerated, again, first, inputs)


class _Sums(NamedTuple):
    highest: Array  # largest logit so far, relative to the anchor; the sums are over exp(logit - highest) times
    normaliser: Array  # one
    point: Array  # the centred point
    logit: Array  # the logit without the log weight
    log_weight: Array  # the log weight


def _careful_pass(
    points: PointSet, u: Array, sigma: Array, matters: Bool[Array, " chunks"] | None = None
) -> tuple[_Anchor, _Sums]:
    """The weights of every chunk that `matters`, and of these points those that do weighed again, from differences."""
    zero = jnp.zeros((), u.dtype)
    v = u - points.centre
    _, trusted = _product_error(points, u, sigma)

    def body(carry, i):
        if matters is None:
            return weigh(carry, (i, v, sigma))
        return _if(matters[i], weigh, carry, (i, v, sigma))

    def weigh(carry, inputs):
        anchor, sums = carry
        i, v, sigma = inputs
        chunk = _chunk(points, i)
        product = _product_logits(chunk, v, sigma)
        score = product + chunk.log_weights
        largest = jnp.max(score)
        anchor, shift = _if(
            ~trusted,
            functools.partial(_move_anchor, points, u, sigma),
            (anchor, zero),
            (chunk._replace(centred=None), product, score, largest),
        )
        floor = sums.highest + shift
        weighed = _weighed(points, chunk, product, largest, u, sigma, anchor, floor)
        own, others = weighed.anchor, weighed.others
        keep = jnp.exp(floor - weighed.highest)
        own_log_weight = jnp.where(own > 0, anchor.log_weight, 0)
        return anchor, _Sums(
            weighed.highest,
            sums.normaliser * keep + jnp.sum(others) + own,
            sums.point * keep
            + jnp.dot(others, chunk.centred, precision=HIGHEST)
            + own * (anchor.point - points.centre),
            (sums.logit + shift * sums.normaliser) * keep + jnp.sum(others * weighed.logits),
            sums.log_weight * keep + jnp.sum(others * chunk.log_weights) + own * own_log_weight,
        )

    lowest = jnp.asarray(jnp.finfo(u.dtype).min / 4, u.dtype)
    init = _no_anchor(points.centre, u.dtype), _Sums(lowest, zero, jnp.zeros_like(v), zero, zero)
    return _over_chunks(points, body, init)


class _Quick(NamedTuple):
    highest: Array  # largest total so far; the sums are over exp(total - highest) times
    runner_up: Array  # second largest total so far
    row: Array  # of the largest
    normaliser: Array  # one
    point: Array  # the centred point
    total: Array  # the total, relative to the highest
    log_weight: Array  # the log weight


class _Doubts(NamedTuple):
    doubtful: Bool[
        Array, ""
    ]  # whether other weights than the largest matter so much that they must be precise
    matters: Bool[Array, " chunks"]  # whether the chunk has any that is not below rounding


def _quick_pass(points: PointSet, u: Array, sigma: Array) -> tuple[tuple[_Anchor, _Sums], _Doubts]:
    """The weights as the product gives them, and what is to be done about it."""
    zero = jnp.zeros((), u.dtype)
    v = u - points.centre
    tolerated = _tolerated(points, u, sigma)
    trusted = tolerated == jnp.inf

    def best_two(state, inputs):
        (_, runner_up), (rows, total, largest, highest) = state, inputs
        best, second = _two_largest(total)
        second = jnp.maximum(jnp.maximum(runner_up, second), jnp.minimum(largest, highest))
        return rows[best], second

    def body(carry, i):
        state, all_largest = carry
        chunk = _chunk(points, i)
        total = _product_logits(chunk, v, sigma) + chunk.log_weights
        largest = jnp.max(total)
        best = (state.row, state.runner_up)
        inputs = (chunk.rows, total, largest, state.highest)
        row, runner_up = _if(~trusted, best_two, best, inputs)
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
        )
        return state, all_largest.at[i].set(largest)

    lowest = jnp.asarray(jnp.finfo(u.dtype).min / 4, u.dtype)
    init = _Quick(lowest, lowest, jnp.asarray(-1), zero, jnp.zeros_like(v), zero, zero)
    all_largest = jnp.zeros(_num_chunks(points), u.dtype)
    end, all_largest = _over_chunks(points, body, (init, all_largest))
    own = zero if points.log_weights is None else points.log_weights[end.row]
    best = _Anchor(points.points[end.row], end.row, end.highest - own, own)
    none = _no_anchor(points.centre, u.dtype)
    anchor = jax.tree.map(lambda none, best: jnp.where(trusted, none, best), none, best)
    # From now on relative to the anchor's logit, which leaves its log weight out.
    highest = jnp.where(trusted, end.highest, own)
    logit = end.total + highest * end.normaliser - end.log_weight
    sums = _Sums(highest, end.normaliser, end.point, logit, end.log_weight)
    # Two bounds of the others' mass: the second largest weight times their number, which does not underflow; and, where
    # no other weight exceeds 0.3 < 1/e, the sum of w |log w|, which is precise where the mass itself would cancel.
    num = points.points.shape[0]
    others = end.runner_up - end.highest + math.log(num)
    by_sum = jnp.where(end.normaliser < 1.3, _log_mass(-end.total, 0.0, num), jnp.inf)
    doubtful = jnp.minimum(others, by_sum) > tolerated
    negligible = math.log(jnp.finfo(u.dtype).eps / num) - 2 * _worst_product_error(points, u, sigma)
    return (anchor, sums), _Doubts(doubtful, all_largest - end.highest > negligible)


@jax.custom_batching.custom_vmap
def _first_pass(points: PointSet, u: Array, sigma: Array) -> tuple[_Anchor, _Sums]:
    """The anchor and the sums over all points: quickly, and carefully for the queries that need it.

    `vmap` would run both for all queries as soon as one needs it; hence a rule of its own.
    """
    return jax.tree.map(lambda x: x[0], _first_passes(points, u[None], sigma[None]))


@_first_pass.def_vmap
def _first_pass_of_batch(axis_size, in_batched, points, u, sigma):
    return _batched(_careful_pass, _first_passes, axis_size, in_batched, points, u, sigma)


@jax.custom_batching.custom_vmap
def _first_passes(points: PointSet, u: Array, sigma: Array) -> tuple[_Anchor, _Sums]:
    """`_first_pass` of a batch of queries."""
    if points.points.shape[1] < QUICK_DIMENSION:
        return jax.vmap(_careful_pass, (None, 0, 0))(points, u, sigma)
    num = u.shape[0]

    def careful(group: int, loop):
        doubtful, result, matters = loop
        (queries,) = jnp.nonzero(doubtful, size=group, fill_value=num)
        # A group that is not full repeats its first query, and drops the result.
        taken = jnp.where(queries < num, queries, queries[0])
        # Tied to the loop: of a single query, XLA computes what does not depend on it whether or not the loop runs.
        _, at, level = lax.optimization_barrier((doubtful, u[taken], sigma[taken]))
        again = jax.vmap(_careful_pass, (None, 0, 0, 0))(points, at, level, matters[taken])
        result = jax.tree.map(lambda x, y: x.at[queries].set(y, mode="drop"), result, again)
        return doubtful.at[queries].set(False, mode="drop"), result, matters

    result, doubts = jax.vmap(_quick_pass, (None, 0, 0))(points, u, sigma)
    loop = (doubts.doubtful, result, doubts.matters)
    small, large = min(num, SMALL_GROUP), num // 8
    if large > small:
        # A few doubtful queries should not cost a large product, nor many of them many small ones.
        loop = lax.while_loop(
            lambda loop: jnp.sum(loop[0]) > 2 * small, functools.partial(careful, large), loop
        )
    return lax.while_loop(lambda loop: jnp.any(loop[0]), functools.partial(careful, small), loop)[1]


@_first_passes.def_vmap
def _first_passes_of_batch(axis_size, in_batched, points, u, sigma):
    def flattened(points, u, sigma):
        flat = _first_passes(points, u.reshape(-1, u.shape[-1]), sigma.reshape(-1))
        return jax.tree.map(lambda x: x.reshape(*sigma.shape, *x.shape[1:]), flat)

    careful = jax.vmap(_careful_pass, (None, 0, 0))
    return _batched(careful, flattened, axis_size, in_batched, points, u, sigma)


def _batched(one, many, axis_size, in_batched, points, u, sigma):
    """`many` for a batch of queries; `one` for each element of a batch of training sets."""
    points_batched, *queries_batched = in_batched
    if any(jax.tree.leaves(points_batched)):
        axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(in_batched))
        result = jax.vmap(one, axes)(points, u, sigma)
    else:
        u, sigma = (
            array if batched else jnp.broadcast_to(array, (axis_size, *array.shape))
            for array, batched in zip((u, sigma), queries_batched, strict=True)
        )
        result = many(points, u, sigma)
    return result, jax.tree.map(lambda _: True, result)


def _summarise(
    centre: Array, u: Array, sigma: Array, anchor: _Anchor, sums: _Sums
) -> PosteriorSummary:
    to_anchor = u - anchor.point
    log_normaliser = sums.highest + jnp.log(sums.normaliser)
    mean = sums.point / sums.normaliser
    logit = sums.logit / sums.normaliser
    # |u - anchor|^2 - |u - E y|^2 plus what the posterior's distances exceed the anchor's by: no large terms.
    excess = mean - (anchor.point - centre)
    variance = jnp.dot(excess, 2 * to_anchor - excess, precision=HIGHEST) - 2 * sigma**2 * logit
    return PosteriorSummary(
        log_evidence=log_normaliser - jnp.sum(to_anchor**2) / (2 * sigma**2),
        mean=mean,
        variance=jnp.maximum(variance, 0),
        entropy=jnp.maximum(log_normaliser - logit - sums.log_weight / sums.normaliser, 0),
    )


@jax.custom_jvp
def _posterior(points: PointSet, u: Array, sigma: Array) -> tuple[PosteriorSummary, _Anchor, _Sums]:
    anchor, sums = _first_pass(points, u, sigma)
    return _summarise(points.centre, u, sigma, anchor, sums), anchor, sums


# Compiled as a whole, so that a second call outside `jax.jit` finds it so: loops would be compiled anew at every call.
@jax.jit
def posterior_summary(
    points: PointSet, u: Float[Array, " d"], sigma: Float[Array, ""]
) -> PosteriorSummary:
    """Summary of the posterior over `points` at the noisy point `u`. Differentiable to any order."""
    return _posterior(points, u, sigma)[0]


def _fixed(*trees: Any) -> Any:
    """The same, as constants to differentiation."""
    return jax.tree.map(lax.stop_gradient, trees)


def _as(value: Array, differentiable: Array) -> Array:
    """`value`, with the derivatives of a mathematically equal but numerically worse expression."""
    return lax.stop_gradient(value) + (differentiable - lax.stop_gradient(differentiable))


class WeightedChunk(NamedTuple):
    """A chunk of points with their posterior weights."""

    points: Float[Array, "c d"]  # centred
    weights: Float[Array, " c"]  # posterior weights; zero for masked rows
    logits: Float[Array, " c"]  # -|u - y_k|^2 / 2 sigma^2 minus its posterior mean
    log_weights: Float[Array, " c"]  # prior log weights minus their posterior mean
    rows: Int[Array, " c"]


@functools.partial(jax.jit, static_argnums=3)
def over_posterior(points: PointSet, u: Array, sigma: Array, body, init):
    """A second pass, now that the weights are known: `body(carry, weighted_chunk)` over all chunks."""
    return _over_posterior(_posterior(points, u, sigma), points, u, sigma, body, init)


def _over_posterior(posterior, points: PointSet, u: Array, sigma: Array, body, init):
    summary, anchor, sums = posterior
    v = u - points.centre
    anchor, sums = _fixed(anchor, sums)
    log_normaliser = sums.highest + jnp.log(sums.normaliser)
    mean_logit, mean_log_weight = sums.logit / sums.normaliser, sums.log_weight / sums.normaliser
    half_square = (summary.variance + jnp.sum((v - summary.mean) ** 2)) / (2 * sigma**2)

    @jax.checkpoint  # the backward pass weighs each chunk again instead of storing all of them
    def step(carry, i):
        chunk = _chunk(points, i)
        product = _product_logits(chunk, v, sigma)
        largest = jnp.max(product + chunk.log_weights)
        inputs = (points, chunk, product, largest, u, sigma, anchor, log_normaliser)
        highest, own, others, logits = _fixed(*_weighed(*_fixed(*inputs)))
        weights = jnp.where(chunk.valid & (chunk.rows == anchor.row), own, others)
        weights *= jnp.exp(highest - log_normaliser)
        # The derivatives: d log w_k = d(log pi_k - |u - y_k|^2 / 2 sigma^2 - log evidence).
        inner = jnp.dot(chunk.centred, v, precision=HIGHEST)
        logit = (inner - 0.5 * jnp.sum(chunk.centred**2, -1) - 0.5 * jnp.sum(v**2)) / sigma**2
        log_weight = logit + chunk.log_weights - summary.log_evidence
        weights *= jnp.exp(_as(jnp.zeros_like(log_weight), log_weight))
        logit = _as(logits - mean_logit, logit + half_square)
        prior = chunk.log_weights
        if points.log_weights is not None:
            # entropy = log evidence + half_square - mean log weight
            mean = summary.log_evidence + half_square - summary.entropy
            prior = _as(prior - mean_log_weight, prior - mean)
        return body(carry, WeightedChunk(chunk.centred, weights, logit, prior, chunk.rows))

    return _over_chunks(points, step, init)


def _posterior_jvp(primals, tangents):
    posterior = _posterior(*primals)
    sums = _tangent_sums(posterior, primals, tangents)
    return posterior, _posterior_tangents(posterior, sums, primals, tangents)


def _tangent_sums(posterior, primals, tangents) -> tuple[Array, ...]:
    """What the derivatives take from a second pass: plain sums over the points, so that parts of a set add up."""
    points, u, sigma = primals
    points_dot, u_dot, sigma_dot = tangents
    summary = posterior[0]
    v = u - points.centre
    moves = not _is_zero(points_dot.points)

    # With c_k = d log(weight_k) up to a common constant, each derivative is a posterior covariance with c_k.
    def body(carry, chunk: WeightedChunk):
        change = jnp.zeros_like(chunk.weights)
        if not _is_zero(u_dot):
            along = jnp.dot(chunk.points, u_dot, precision=HIGHEST)
            change += (along - jnp.dot(summary.mean, u_dot, precision=HIGHEST)) / sigma**2
        if not _is_zero(sigma_dot):
            change -= (2 * sigma_dot / sigma) * chunk.logits
        if not _is_zero(points_dot.log_weights) and points_dot.log_weights is not None:
            log_weights_dot = jnp.take(points_dot.log_weights, chunk.rows)
            change += jnp.where(chunk.weights > 0, log_weights_dot, 0)
        stretch, drag = jnp.zeros_like(sigma), jnp.zeros_like(v)
        if moves:
            move = jnp.take(points_dot.points, chunk.rows, axis=0)
            towards = jnp.dot(move, v, precision=HIGHEST) - jnp.sum(move * chunk.points, -1)
            change += towards / sigma**2
            stretch = jnp.dot(chunk.weights, towards, precision=HIGHEST)
            drag = jnp.dot(chunk.weights, move, precision=HIGHEST)
        weighted = chunk.weights * change
        sums = (
            jnp.sum(weighted),
            jnp.dot(weighted, chunk.points, precision=HIGHEST),
            jnp.dot(weighted, chunk.logits, precision=HIGHEST),
            jnp.dot(weighted, chunk.log_weights, precision=HIGHEST),
            stretch,
            drag,
        )
        return jax.tree.map(jnp.add, carry, sums)

    zero = jnp.zeros((), v.dtype)
    init = (zero, jnp.zeros_like(v), zero, zero, zero, jnp.zeros_like(v))
    return _over_posterior(posterior, points, u, sigma, body, init)


def _posterior_tangents(posterior, sums: tuple[Array, ...], primals, tangents):
    """The derivatives of the posterior from the sums over all points."""
    points, u, sigma = primals
    _, u_dot, sigma_dot = tangents
    total, point, logit, log_weight, stretch, drag = sums
    summary = posterior[0]
    v = u - points.centre
    residual = v - summary.mean
    mean_dot = point - total * summary.mean + drag
    along_residual = jnp.dot(residual, mean_dot, precision=HIGHEST)
    log_evidence_dot = total
    if not _is_zero(u_dot):
        log_evidence_dot -= jnp.dot(residual, u_dot, precision=HIGHEST) / sigma**2
    if not _is_zero(sigma_dot):
        mean_square = summary.variance + jnp.sum(residual**2)
        log_evidence_dot += sigma_dot * (mean_square / sigma**2) / sigma
    summary_dot = PosteriorSummary(
        log_evidence=log_evidence_dot,
        mean=mean_dot,
        variance=2 * (along_residual - sigma**2 * logit - stretch),
        entropy=-(logit + log_weight),
    )
    # Nobody differentiates the anchor and the sums: they are read through `stop_gradient` only.
    return summary_dot, *jax.tree.map(_no_tangent, posterior[1:])


def _no_tangent(value: Array) -> Any:
    if jnp.issubdtype(value.dtype, jnp.inexact):
        return jnp.zeros_like(value)
    return np.zeros(value.shape, jax.dtypes.float0)


def _is_zero(tangent) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


_posterior.defjvp(_posterior_jvp, symbolic_zeros=True)
