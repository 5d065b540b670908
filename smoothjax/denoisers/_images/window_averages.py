r"""Soft-max averages over all windows of a set of images, from the distinct ones and, of these, the blocks that matter.

`distinct_windows` has the blocks, and what is known of each.

*Bounds.* With `D_qb` the distance of V^T x_q from the box, the weight of a block is between

    M_b exp(-(|x_q - c_b|^2 + v_b) / 2 sigma^2)  and  U_qb = M_b exp(-D_qb^2 / 2 sigma^2),

by Jensen's inequality, and since V^T shortens every difference. The sum over blocks of the left side, or what was summed of
the blocks around the query, is a lower bound N_q of the normaliser. A block is left out for q while the sum of U_qb over all
blocks left out stays below `tolerance / range` times N_q: with e the ratio of the sum left out to the sum of the others, the
average changes by `e / (1 + e)` times a difference of two values at most, which is no larger than their range.

*Rounding.* Let u = eps / 2 be the unit roundoff, w the numbers of a window, m the directions, and vectors relative to the
centre, whose subtraction adds 2 u |x|. A coordinate of x is off by (w + 2) u |x|, all of them by root(m) times that, and the
norm of the rest by root(m) (m + w + 4) u |x| + (w + 8) u |x|; the same holds for windows y, which are at most R long. `D_qb`
is made smaller by twice the sum of these, and by the factor by which V, rounded, may lengthen a vector. Exponents are off by
(w + 8) eps (|x| + R)^2 / 2 sigma^2 at most, from a product about a block's mean and from differences alike, and the sums of
their exponentials by the number of terms added one after another, times eps. Lower bounds of the normaliser are made smaller
by twice the first and by 0.01 and more for the second, upper bounds by M_b and v_b rounded outwards.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ..._jax.precision import HIGHEST
from .._base import length
from .._posterior.product_logits import TRUSTED_RATIO, inner_products
from .distinct_windows import DistinctWindows, coordinates_of

# Queries that are weighed together with a block: many, and few.
CHUNKS = 512, 64
# Blocks of a query that may come close to the limit: each may use this part of what is left of the tolerance.
SHARES = 128
# Nats by which an exponent may exceed the lower bound of the normaliser, so that float32 holds sums of exponentials.
NEAR = 60.0
# Ratio of a query's distance from the range of values to their size, from which on it counts as far.
FAR = 1e4


class Averages(NamedTuple):
    """Averages of the queries, what bounds their error, and how many distinct windows were weighed."""

    sums: Float[Array, "queries columns"]  # weighted sums of the columns, over that of the weights
    truncation: Float[Array, " queries"]  # bound of e / (1 + e), see the module's text
    visited: Int[Array, " queries"]


def averages(
    merged: DistinctWindows,
    windows_of: Callable[[Int[Array, " block"]], Float[Array, "block window"]],
    columns_of: Callable[[Float[Array, "block window"]], Float[Array, "block columns"]],
    x: Float[Array, "queries window"],
    label: Int[Array, " queries"],
    sigma: Float[Array, " queries"],
    tolerance: float,
    about: Float[Array, "queries c"] | None = None,
) -> Averages:
    """Soft-max averages over the training windows of each query's class.

    Of `columns_of(windows)`; with `about` of these, and then of each `value - about` times these.

    Args:
        merged: the training windows.
        windows_of: numbers of the windows at some places.
        columns_of: what is averaged, of some windows.
        x: windows of the queries.
        label: their classes.
        sigma: their noise levels.
        tolerance: largest part of a query's weights that may be left out.
        about: for each query, what is subtracted from the windows' values, which `columns_of` gives first. Where one window
            has all the weight but for a rounding, what is averaged of the differences is zero.
    """
    (num, width), dtype, eps = x.shape, x.dtype, jnp.finfo(x.dtype).eps
    merged = jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, merged)
    num_blocks, block = merged.place.shape
    # What lies outside of an image is zero, of training windows and of queries.
    values = jnp.minimum(jnp.min(merged.images), 0), jnp.maximum(jnp.max(merged.images), 0)
    queries = _queries(merged, x, label, sigma, values)
    # Noise and the width of a block together decide whether a product is accurate enough for it.
    noise = jnp.min(sigma)
    ratio = merged.reach + width**0.5 * noise
    trusted = ratio * (ratio + merged.reach) <= TRUSTED_RATIO * noise**2
    some = jax.ShapeDtypeStruct((block, width), dtype)
    num_columns = jax.eval_shape(columns_of, some).shape[1]
    num_values = 0 if about is None else about.shape[1]
    # Highest exponent, weights and weighted columns; with `about`, the largest weight, and those of each difference.
    num_sums = num_columns + 2 + (num_values > 0) + num_values * (num_columns + 1)

    lower = _lower(merged, windows_of, queries, sigma)
    rows = [x, queries.inverse[:, None], lower[:, None]]
    rows = jnp.concatenate(rows if about is None else [*rows, about], -1)
    # One more, for chunks that are not full.
    rows = jnp.pad(rows, ((0, 1), (0, 0)))
    visit = _Visit(merged, windows_of, columns_of, values, trusted, rows, num_values)

    def every(b, loop):
        sums, used, visited = loop
        excess = _upper(merged, queries, b) - lower
        part = jnp.exp(excess)
        # Where nothing is known this is not a number, and the block is visited.
        small = part * jnp.minimum(num_blocks - b, SHARES) <= tolerance - used
        used += jnp.where(small, part, 0)
        near = jnp.max(excess) < NEAR
        return visit(b, ~small, near, sums), used, visited + jnp.where(small, 0, block)

    sums = jnp.zeros((num + 1, num_sums), dtype).at[:, 0].set(jnp.finfo(dtype).min / 4)
    loop = sums, jnp.zeros(num, dtype), jnp.zeros(num, jnp.int32)
    sums, used, visited = lax.fori_loop(0, num_blocks, every, loop)
    sums = sums[:num]
    # What was summed may be a better bound of the normaliser.
    rounding = 0.01 + (num_blocks + block) * eps
    total = sums[:, 0] + jnp.log(sums[:, 1]) - 2 * queries.doubt - rounding
    used = (1 + rounding) * used * jnp.minimum(jnp.exp(lower - total), 1)
    found = sums[:, 2:] / sums[:, 1:2]
    if num_values:
        alone = sums[:, 1] <= sums[:, -1] * (1 + eps)
        differences = jnp.where(alone[:, None], 0, found[:, num_columns:-1])
        found = jnp.concatenate([found[:, :num_columns], differences], -1)
    return Averages(found, used, visited)


class _Queries(NamedTuple):
    """The queries' windows as the bounds of blocks take them."""

    label: Int[Array, " queries"]
    inverse: Float[Array, " queries"]  # 1 / 2 sigma^2
    inside: Float[Array, "queries window"]  # what lies in the range of the images' values
    beyond: Float[Array, "queries window"]  # twice the rest
    middle: Float[Array, "queries window"]  # what lies inside, about the centre
    doubt: Float[Array, " queries"]  # of exponents, nats
    coordinates: Float[Array, "coordinates queries"]
    slack: Float[Array, " queries"]  # of distances from boxes
    square_out: Float[Array, " queries"]  # by which squares of these distances may be too large


def _queries(
    merged: DistinctWindows, x: Array, label: Array, sigma: Array, values: tuple[Array, Array]
) -> _Queries:
    width, eps = x.shape[1], jnp.finfo(x.dtype).eps
    inverse = 0.5 / sigma / sigma
    inside, beyond = _divided(x, *values)
    middle = inside - merged.centre[None]
    reach = jnp.sqrt(jnp.sum(middle**2, -1)) * (1 + width * eps) + merged.radius
    doubt = 2 * (width + 8) * eps * reach * (reach + jax.vmap(length)(beyond)) * inverse
    # Queries so far beyond the values that squares might overflow are bounded by what does not depend on that.
    is_far = jnp.max(jnp.abs(beyond), -1) > FAR * reach
    out = jnp.where(is_far[:, None], 0, 0.5 * beyond)
    square_out = jnp.where(is_far, jnp.inf, jnp.sum(out**2, -1) * (1 + (width + 8) * eps))
    v = middle + out
    reach = jnp.sqrt(jnp.sum(v**2, -1)) * (1 + width * eps) + merged.radius
    directions = merged.basis.shape[1]
    coordinates = jnp.transpose(coordinates_of(v, merged.basis))
    slack = 2 * eps * (math.sqrt(directions) * (2 * width + directions + 8) + width + 12) * reach
    return _Queries(label, inverse, inside, beyond, middle, doubt, coordinates, slack, square_out)


def _upper(merged: DistinctWindows, queries: _Queries, b: Array) -> Float[Array, " queries"]:
    """Logarithms of bounds U_qb of the block's weight."""
    low, high = merged.low[b], merged.high[b]
    outside = (
        jnp.maximum(jnp.maximum(low[j] - q, q - high[j]), 0)
        for j, q in enumerate(queries.coordinates)
    )
    square = functools.reduce(jnp.add, (x**2 for x in outside))
    distance = jnp.maximum(jnp.sqrt(square / merged.stretch) - queries.slack, 0)
    eps = jnp.finfo(distance.dtype).eps
    least = jnp.maximum(distance**2 * (1 - 8 * eps) - queries.square_out, 0)
    bound = merged.log_mass[b] - least * queries.inverse
    return jnp.where(queries.label == merged.label[b], bound, -jnp.inf)


def _lower(
    merged: DistinctWindows, windows_of: Callable, queries: _Queries, sigma: Array
) -> Float[Array, " queries"]:
    """Lower bounds of the logarithm of the normaliser."""
    _, inverse, inside, beyond, middle, doubt, *_ = queries
    lower, nearest = _by_jensen(merged, middle, beyond, queries.label, inverse, doubt)
    # Where the spread within blocks makes it loose, a bound from the windows of one block.
    loose = jnp.mean(merged.spread) > 4 * jnp.min(sigma) ** 2
    of_block = lax.cond(
        loose,
        lambda: _by_one_block(merged, windows_of, inside, beyond, inverse, nearest),
        lambda: jnp.full(len(lower), -jnp.inf, lower.dtype),
    )
    return jnp.maximum(lower, of_block)


@dataclasses.dataclass(frozen=True)
class _Visit:
    """Adds a block to the sums of the active queries: highest exponent, weights, weighted columns."""

    merged: DistinctWindows
    windows_of: Callable[[Array], Array]
    columns_of: Callable[[Array], Array]
    values: tuple[Array, Array]  # the range of the images' values
    trusted: Bool[Array, " blocks"]  # whether a product is accurate enough
    rows: Float[Array, "queries row"]  # window, 1 / 2 sigma^2, lower bound, and `about`
    num_values: int

    def __call__(
        self, b: Array, active: Bool[Array, " queries"], near: Array, sums: Array
    ) -> Array:
        rank = _cumulative(active)
        windows, count = self.windows_of(self.merged.place[b]), self.merged.log_count[b]
        columns = jnp.concatenate([jnp.ones_like(windows[:, :1]), self.columns_of(windows)], -1)
        exponents = self._exponents(b, windows, count)
        chunk = functools.partial(self._chunk, exponents, columns, rank, near)
        # Many at a time, and what is left over in small chunks.
        loop = jnp.zeros((), rank.dtype), sums
        for size, least in zip(CHUNKS, (CHUNKS[0] // 2, 0), strict=True):
            loop = lax.while_loop(
                lambda loop, least=least: rank[-1] - loop[0] > least,
                functools.partial(chunk, size),
                loop,
            )
        return loop[1]

    def _exponents(self, b: Array, windows: Float[Array, "block window"], count: Array):
        """`(x, 1 / 2 sigma^2) -> exponents` of some queries and the windows of a block."""
        (block, width), dtype = windows.shape, windows.dtype
        middle = self.merged.centre + self.merged.mean[b]
        # About the block's mean: short vectors, and a small error.
        y = windows - middle[None]
        half_square = 0.5 * jnp.sum(y**2, -1)
        y = jnp.stack([*y.T, half_square, jnp.ones_like(count), count], -1)

        def by_product(x: Array, inverse: Array) -> Float[Array, "chunk block"]:
            inside, beyond = _divided(x, *self.values)
            inside = inside - middle[None]
            x = x - middle[None]
            squares = inside * (inside + beyond)
            far = jnp.dot(squares, jnp.full((width, 1), -1, dtype), precision=HIGHEST)
            # Of windows that are all zero, not infinity times that.
            along = jnp.clip(2 * inverse * x, jnp.finfo(dtype).min, jnp.finfo(dtype).max)
            factors = [along, -2 * inverse, far * inverse, jnp.ones_like(far)]
            return inner_products(jnp.concatenate(factors, -1), y)

        def by_differences(x: Array, inverse: Array) -> Float[Array, "chunk block"]:
            inside, beyond = (a.T for a in _divided(x, *self.values))
            y = windows.T

            def add(k: Array, squares: Array) -> Array:
                difference = inside[k][:, None] - y[k][None]
                return squares + difference * (difference + beyond[k][:, None])

            squares = jnp.zeros((inside.shape[1], block), dtype)
            return count[None] - inverse * lax.fori_loop(0, width, add, squares)

        return lambda x, inverse: lax.cond(self.trusted[b], by_product, by_differences, x, inverse)

    def _chunk(
        self, exponents: Callable, columns: Array, rank: Array, near: Array, size: int, loop
    ):
        """The next active queries, so many."""
        width = self.merged.mean.shape[1]
        first, sums = loop
        which = jnp.searchsorted(
            rank, first + 1 + jnp.arange(size, dtype=rank.dtype), method="scan_unrolled"
        )
        # Once, not for every number that is gathered.
        which = lax.optimization_barrier(which)
        row, old = self.rows[which], sums[which]
        x, inverse = row[:, :width], row[:, width : width + 1]
        lowest = row[:, width + 1 : width + 2]
        logits = exponents(x, inverse)
        # Any number will do that is neither far above the highest nor below what must not overflow.
        shift = lax.cond(near, lambda _: lowest, lambda x: jnp.max(x, 1, keepdims=True), logits)
        weights = jnp.exp(logits - shift)
        found = [jnp.dot(weights, columns, precision=HIGHEST)]
        for k in range(self.num_values):
            rest = columns[None, :, 1 + k] - row[:, width + 2 + k, None]
            found.append(jnp.dot(weights * rest, columns, precision=HIGHEST))
        if self.num_values:
            found.append(jnp.max(weights, 1, keepdims=True))
        found = jnp.concatenate(found, -1)
        highest = jnp.maximum(old[:, :1], shift)
        before, now = old[:, 1:] * jnp.exp(old[:, :1] - highest), found * jnp.exp(shift - highest)
        total = before + now
        if self.num_values:
            total = total.at[:, -1].set(jnp.maximum(before[:, -1], now[:, -1]))
        new = jnp.concatenate([highest, total], -1)
        return first + size, sums.at[which].set(new, mode="promise_in_bounds")


def _divided(x: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """What of the queries lies in the range of the images' values, and twice the rest: see `_patches.split`."""
    inside = jnp.clip(x, low, high)
    return inside, 2 * (x - inside)


def _cumulative(mask: Bool[Array, " n"]) -> Int[Array, " n"]:
    """Cumulative sums: `jnp.cumsum` takes several times longer. Exact below 2^24."""
    n, step = len(mask), 128
    rows = jnp.pad(mask, (0, -n % step)).reshape(-1, step).astype(jnp.float32)
    within = jnp.dot(rows, jnp.triu(jnp.ones((step, step), jnp.float32)))
    before = jnp.cumsum(within[:, -1]) - within[:, -1]
    return (within + before[:, None]).astype(jnp.int32).ravel()[:n]


def _by_one_block(
    merged: DistinctWindows,
    windows_of: Callable,
    inside: Array,
    beyond: Array,
    inverse: Array,
    nearest: Array,
) -> Float[Array, " queries"]:
    """Lower bounds of the logarithm of the normaliser: the windows of the block that is given for each query."""

    def one(query):
        inside, beyond, inverse, b = query
        y = windows_of(merged.place[b])
        difference = inside[None] - y
        squares = difference * (difference + beyond[None])
        logits = merged.log_count[b] - inverse * jnp.sum(squares, -1)
        total = jax.nn.logsumexp(logits)
        # Squares are right to a few roundings each, however large.
        return total - (len(y[0]) + 8) * jnp.finfo(y.dtype).eps * (jnp.abs(total) + 64) - 0.01

    return lax.map(one, (inside, beyond, inverse, nearest), batch_size=min(16, len(inside)))


def _by_jensen(
    merged: DistinctWindows,
    middle: Array,
    beyond: Array,
    label: Array,
    inverse: Array,
    doubt: Array,
) -> tuple[Float[Array, " queries"], Int[Array, " queries"]]:
    """Lower bounds of the logarithm of the normaliser, and the block with the largest share in it."""
    num_blocks, num = len(merged.label), len(middle)
    twice = 2 * middle + beyond
    step = min(256, num_blocks)

    def body(i, carry):
        highest, total, best = carry
        start = jnp.minimum(i * step, num_blocks - step)
        part = lambda a: lax.dynamic_slice_in_dim(a, start, step)  # noqa: E731
        mean, index = part(merged.mean), start + jnp.arange(step)
        square = jnp.sum(mean**2, -1) + part(merged.spread)
        exponent = (inner_products(mean, twice) - square[:, None]) * inverse[None]
        counts = (part(merged.label)[:, None] == label[None]) & (index >= i * step)[:, None]
        bound = jnp.where(counts, part(merged.log_mass)[:, None] + exponent, -jnp.inf)
        new = jnp.maximum(highest, jnp.max(bound, 0))
        best = jnp.where(new > highest, start + jnp.argmax(bound, 0), best)
        total = total * jnp.exp(highest - new) + jnp.sum(jnp.exp(bound - new[None]), 0)
        return new, total, best

    dtype = middle.dtype
    carry = jnp.full(num, jnp.finfo(dtype).min / 4), jnp.zeros(num, dtype), jnp.zeros(num, int)
    highest, total, best = lax.fori_loop(0, -(-num_blocks // step), body, carry)
    own = jnp.sum(middle * (middle + beyond), -1) * inverse
    rounding = 0.01 + num_blocks * jnp.finfo(dtype).eps
    return highest + jnp.log(total) - own - 2 * doubt - rounding, best
