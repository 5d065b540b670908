r"""The posterior mean averaged over perturbations of the noisy point, which share their products.

Weighing all n points for each of M perturbations of one point takes `2 M n d` multiplications, and averaging as many. But

    (u + p_m) . c_i = u . c_i + p_m . c_i,

so that with the same perturbations for all queries one product of the perturbations with the points serves every query,
now and later, and one of the queries with the points every perturbation; and the average takes the average weights, once.

*Screening.* What is left are the `M n` exponentials a query, of which few matter at small noise. With `L_im` the logit of
point i for perturbation m, and `high_i` and `low_i` its largest and smallest value, from those of `p_m . c_i`, which do not
depend on the query, point i is left out if

    high_i < max_j low_j - T.

The right-hand side is at most `max_j L_jm - T` for every m, so that all which is left out has less than `n e^-T` of the
largest weight, for every perturbation. With `T >= log(n / eps)` that is less than a rounding of the normaliser. All is
compared before the division by `sigma^2`: sums round in the same way wherever they are formed, quotients not, as compilers
turn them into products and contract these with additions. So the bounds hold as computed.

*Rounding* is that of products, as in `_product_logits`, with `|u| + |p_m|` for the noisy point. Where the products cannot
be trusted for all points, a perturbation is known if the mass of all points but the largest is tolerated, left-out ones
included: `T` is then as much larger. Of the others, which are *doubtful*, the few largest points are weighed again, from
differences to the largest, until what is left over is tolerated; and a perturbation for which that is not enough is weighed
by itself.
"""

import functools
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ..._jax.batching import over_queries
from ..._jax.derivatives import differentiated_as
from ..._jax.groups import Group, over_flagged
from ..._jax.largest import largest
from ..._jax.precision import HIGHEST
from .._posterior.anchored import anchored_logit
from .._posterior.point_posterior import posterior_summary
from .._posterior.point_set import PointSet
from .._posterior.product_logits import inner_products, is_near, log_tolerated, products_with

# Weights of one query that are formed at once, and of the average weights of some queries.
AT_ONCE, ALL_AT_ONCE = 2**22, 2**24
# Shares of the points that are weighed instead of all, where no more matter; a share of fewer points is not tried.
SHARES, FEWEST = (32, 8), 16
# Flags that are counted together.
BLOCK = 16
# Doubtful perturbations of a query that are weighed again at once, and points of each.
TOGETHER, LARGEST = 8, 16
# Weights that are smaller than the exponential of this are summed by a bound: some of the sum may have underflown.
UNDERFLOWN = -60.0
# Perturbed queries that are weighed by themselves at once.
GROUP = 16


class SharedProducts(eqx.Module):
    """Inner products of the perturbations with the centred points, in parts; and what they were computed from.

    In the last part the first perturbations follow once more.
    """

    products: Float[Array, "parts n size"]
    highest: Float[Array, "parts n"]
    lowest: Float[Array, "parts n"]
    perturbations: Float[Array, "m d"]
    centre: Float[Array, " d"]
    half_square: Float[Array, " n"]

    @property
    def shapes(self) -> tuple[Any, ...]:
        """Of the perturbations; how many points; and the dtype."""
        return self.perturbations.shape, len(self.half_square), self.products.dtype


def shared_products(
    points: PointSet, perturbations: Float[Array, "m d"], parts: int | None = None
) -> SharedProducts:
    """Of all perturbations with all points. Constants to differentiation, which goes another way."""
    points, perturbations = lax.stop_gradient((points, perturbations))
    centred = points.points - points.centre[None]
    parts = _num_parts(perturbations, len(centred)) if parts is None else parts
    moves = _in_parts(perturbations, parts)
    # One product, as one for each part would copy the points.
    flat = inner_products(centred, moves.reshape(-1, moves.shape[-1]))
    products = jnp.moveaxis(flat.reshape(len(centred), *moves.shape[:2]), 1, 0)
    highest, lowest = jnp.max(products, axis=2), jnp.min(products, axis=2)
    return SharedProducts(
        products, highest, lowest, perturbations, points.centre, points.half_square
    )


def _num_parts(perturbations: Float[Array, "m d"], n: int) -> int:
    m = len(perturbations)
    return -(-m // max(1, min(m, AT_ONCE // n)))


def _in_parts(perturbations: Float[Array, "m d"], parts: int) -> Float[Array, "parts size d"]:
    m, d = perturbations.shape
    size = -(-m // parts)
    return perturbations[jnp.arange(parts * size) % m].reshape(parts, size, d)


class Perturbed(NamedTuple):
    """The points, the perturbations, and the products of both where they are known."""

    points: PointSet
    perturbations: Float[Array, "m d"]
    shared: SharedProducts | None


def _one_by_one(set_: Perturbed, u: Array, sigma: Array) -> Array:
    moved = u[None] + set_.perturbations
    summaries = jax.vmap(posterior_summary, (None, 0, None))(set_.points, moved, sigma)
    return jnp.mean(summaries.mean, axis=0)


def _averages(set_: Perturbed, u: Array, sigma: Array) -> Array:
    num, n = len(u), len(set_.points.points)
    together = max(1, min(num, ALL_AT_ONCE // n))
    if together == num:
        return _together(set_, u, sigma)
    pad = -num % together
    groups = [
        jnp.concatenate([x, jnp.broadcast_to(x[:1], (pad, *x.shape[1:]))]).reshape(
            -1, together, *x.shape[1:]
        )
        for x in (u, sigma)
    ]
    means = lax.map(lambda group: _together(set_, *group), tuple(groups))
    return means.reshape(-1, u.shape[-1])[:num]


_average = over_queries(_averages, each=_one_by_one)


@jax.jit
@differentiated_as(_one_by_one)
def perturbed_mean(set_: Perturbed, u: Float[Array, " d"], sigma: Float[Array, ""]) -> Array:
    """The average of the posterior means at `u + p_m`, relative to the points' centre, shape (d,)."""
    return _average(set_, u, sigma)


class _Part(NamedTuple):
    """Some of the perturbations, and their products with the points."""

    moves: Float[Array, "m d"]
    counts: Bool[Array, " m"]
    products: Float[Array, "n m"]
    highest: Float[Array, " n"]
    lowest: Float[Array, " n"]


class _Query(NamedTuple):
    u: Float[Array, " d"]
    sigma: Float[Array, ""]
    product: Float[
        Array, " n"
    ]  # u . c_i - |c_i|^2 / 2, up to a constant; -inf for points without weight
    size: Float[Array, ""]  # of the terms that it rounds


def _together(set_: Perturbed, u: Float[Array, "q d"], sigma: Float[Array, " q"]) -> Array:
    points, shared = set_.points, set_.shared
    n, m = len(points.points), len(set_.perturbations)
    num_parts = _num_parts(set_.perturbations, n) if shared is None else len(shared.products)
    moves = _in_parts(set_.perturbations, num_parts)
    counts = (jnp.arange(moves.shape[0] * moves.shape[1]) < m).reshape(moves.shape[:2])
    queries = _Query(u, sigma, *products_with(points, u))

    def of_part(part: _Part):
        return lax.map(lambda query: _of_query(points, part, query), queries)

    def step(total, part):
        if shared is None:
            along = inner_products(points.points - points.centre[None], part[0])
            bounds = jnp.max(along, axis=1), jnp.min(along, axis=1)
            part = (*part, along, *bounds)
        *found, doubtful = of_part(_Part(*part))
        return jax.tree.map(jnp.add, total, found), doubtful

    parts = (moves, counts)
    if shared is not None:
        # Another base or other perturbations may have been put in the place of those that the products are of.
        now = (set_.perturbations, points.centre, points.half_square)
        then = (shared.perturbations, shared.centre, shared.half_square)
        other = jnp.stack([~jnp.array_equal(a, b) for a, b in zip(now, then, strict=True)])
        anew = lambda: shared_products(points, set_.perturbations, num_parts)  # noqa: E731
        # In this order: XLA copies what any branch but the first passes on.
        fresh = lax.cond(jnp.any(other), anew, lambda: shared)
        parts = (*parts, fresh.products, fresh.highest, fresh.lowest)
    total = [jnp.zeros_like(u), jnp.zeros_like(queries.product)]
    if len(moves) == 1:
        total, doubtful = step(total, jax.tree.map(lambda x: x[0], parts))
        doubtful = doubtful[None]
    else:
        total, doubtful = lax.scan(step, total, parts)
    mean, weights = total
    mean += lax.cond(
        jnp.any(weights != 0), lambda: _weighted_sum(points, weights), lambda: jnp.zeros_like(u)
    )
    doubtful = jnp.moveaxis(doubtful, 0, 1).reshape(len(u), -1)[:, :m]
    return (mean + _again(set_, u, sigma, doubtful)) / m


def _weighted_sum(points: PointSet, weights: Float[Array, "q n"]) -> Float[Array, "q d"]:
    """Of the centred points."""

    def plain():
        total = jnp.sum(weights, axis=1, keepdims=True)
        return jnp.dot(weights, points.points, precision=HIGHEST) - total * points.centre[None]

    def centred():
        return jnp.dot(weights, points.points - points.centre[None], precision=HIGHEST)

    return lax.cond(is_near(points), plain, centred)


def _of_query(points: PointSet, part: _Part, query: _Query) -> tuple[Array, Array, Array]:
    """The sum of the posterior means of the perturbations that are not doubtful, as a point and as weights of points.

    That is, it is the first and the weights' sum of the points, relative to the centre; and which are doubtful.
    """
    n, d = points.points.shape
    sigma, eps, radius = query.sigma, jnp.finfo(query.u.dtype).eps, points.radius
    # Roundings relative to the sizes of the products, half a unit each.
    reach = jnp.linalg.norm(part.moves, axis=1)
    error = 0.5 * eps * (query.size + radius * (reach + radius)) / sigma**2
    tolerated = log_tolerated(error, d)
    # Logarithm of the mass, relative to the largest weight, that may be left out.
    left_out = jnp.minimum(math.log(eps), jnp.min(tolerated)) - 1
    threshold = math.log(n) - left_out

    # Logits times sigma^2.
    product = query.product
    if points.log_weights is not None:
        own = jnp.where(points.log_weights > -jnp.inf, points.log_weights, 0)
        product = lax.optimization_barrier(product + sigma**2 * own)
    least = jnp.max(product + part.lowest) - threshold * sigma**2
    matters = product + part.highest >= least
    sizes = [n // share for share in SHARES if n // share >= FEWEST]

    def of_all():
        total = product[:, None] + part.products
        weights, doubtful = _weights(points, part, query, None, total, tolerated, left_out)
        return jnp.zeros_like(query.u), weights, doubtful

    def of_some(size: int):
        index = _indices(matters, size)
        rows = jnp.minimum(index, n - 1)
        of_rows = jnp.where(index < n, product[rows], -jnp.inf)
        total = of_rows[:, None] + part.products[rows]
        weights, doubtful = _weights(points, part, query, rows, total, tolerated, left_out)
        zeros = jnp.zeros_like(query.product)
        # A product with all points reads all of them.
        if size > sizes[0]:
            return jnp.zeros_like(query.u), zeros.at[index].set(weights, mode="drop"), doubtful
        centred = points.points[rows] - points.centre[None]
        return jnp.dot(weights, centred, precision=HIGHEST), zeros, doubtful

    branches = [lambda size=size: of_some(size) for size in sizes]
    if not sizes:
        return of_all()
    count = jnp.sum(matters)
    return lax.switch(jnp.sum(count > jnp.array(sizes)), [*branches, of_all])


def _indices(flags: Bool[Array, " n"], size: int) -> Int[Array, " size"]:
    """`jnp.nonzero` of at most `size` flags, n beyond: without a running sum over all."""
    n = len(flags)
    blocks = jnp.pad(flags, (0, -n % BLOCK)).reshape(-1, BLOCK).astype(jnp.int32)
    # NumPy's rules would count in 64 bits where JAX may.
    count = functools.partial(jnp.sum, axis=1, dtype=jnp.int32)
    ends = jnp.cumsum(count(blocks), dtype=jnp.int32)
    wanted = jnp.arange(size, dtype=jnp.int32)
    block = jnp.searchsorted(ends, wanted, side="right")
    inside = blocks[jnp.minimum(block, len(blocks) - 1)]
    before = ends[jnp.minimum(block, len(blocks) - 1)] - count(inside)
    # Flags up to and with each, of the block.
    running = jnp.cumsum(inside, axis=1, dtype=jnp.int32)
    place = count(running <= (wanted - before)[:, None])
    return jnp.where(block < len(blocks), block * BLOCK + place, n)


def _weights(
    points: PointSet,
    part: _Part,
    query: _Query,
    rows: Int[Array, " k"] | None,
    logits: Float[Array, "k m"],
    tolerated: Float[Array, " m"],
    left_out: Float[Array, ""],
) -> tuple[Float[Array, " k"], Bool[Array, " m"]]:
    """The weights of the points of these rows, summed over the perturbations that are not doubtful; and which are.

    `logits` are times sigma^2. `tolerated` is the logarithm of the other points' mass that they are precise enough for,
    `left_out` that of the mass of the points that are not among the rows.
    """
    highest = jnp.max(logits, axis=0)
    # Kept, or formed anew for every sum.
    weights = lax.optimization_barrier(jnp.exp((logits - highest[None]) / query.sigma**2))
    normaliser = jnp.sum(weights, axis=0)
    share = jnp.where(part.counts, 1 / normaliser, 0)

    def trusted():
        return jnp.dot(weights, share, precision=HIGHEST), jnp.zeros_like(part.counts)

    def careful():
        # Of all but the largest; equally large ones are doubtful.
        below = logits < highest[None]
        largest_below = jnp.max(jnp.where(below, logits, -jnp.inf), axis=0)
        others = _log_mass(
            jnp.sum(jnp.where(below, weights, 0), axis=0),
            (largest_below - highest) / query.sigma**2,
            len(logits),
            left_out,
        )
        equal = jnp.sum((logits == highest[None]).astype(jnp.int32), axis=0)
        known = (tolerated == jnp.inf) | ((equal == 1) & (others <= tolerated))
        total = jnp.dot(weights, jnp.where(known, share, 0), precision=HIGHEST)
        waiting = part.counts & ~known
        return _weigh_again(points, part, query, rows, logits, tolerated, left_out, waiting, total)

    return lax.cond(jnp.all(tolerated == jnp.inf), trusted, careful)


def _log_mass(
    mass: Float[Array, " m"], largest: Float[Array, " m"], num: int, left_out: Float[Array, ""]
) -> Float[Array, " m"]:
    """Logarithm of the mass of `num` weights and of what was left out: a bound where the sum of the weights underflows.

    `largest` is the logarithm of the largest of the weights. What is tolerated may be far below the smallest number.
    """
    bound = largest + math.log(num)
    summed = jnp.log(jnp.where(largest > UNDERFLOWN, mass, 1))
    return jnp.logaddexp(jnp.where(largest > UNDERFLOWN, summed, bound), left_out)


def _weigh_again(points, part, query, rows, logits, tolerated, left_out, waiting, total):
    """Adds the weights of the waiting perturbations, their largest logits from differences; and which stay doubtful."""
    k, m = logits.shape
    num_largest = min(LARGEST, k)

    def some(group: Group, state):
        doubtful, total = state
        these = group.these
        taken = jnp.minimum(these, m - 1)
        columns = logits[:, taken].T
        values, where = largest(columns, num_largest)
        relative = (columns - values[:, :1]) / query.sigma**2
        left = jnp.full(len(these), left_out)
        if num_largest < k:
            rest = jnp.sum(jnp.where(columns <= values[:, -1:], jnp.exp(relative), 0), axis=1)
            most = (values[:, -1] - values[:, 0]) / query.sigma**2
            left = _log_mass(rest, most, k, left_out)
        precise = (these < m) & (left <= tolerated[taken])

        visited = where if rows is None else rows[where]
        at = query.u[None] + part.moves[taken]
        near = points.points[visited]
        anchored = anchored_logit(near, at[:, None], near[:, :1], query.sigma)
        if points.log_weights is not None:
            own = points.log_weights[visited]
            anchored += own - own[:, :1]
        anchored = jnp.where(values > -jnp.inf, anchored, -jnp.inf)
        relative = relative.at[jnp.arange(len(these))[:, None], where].set(anchored)
        weights = jnp.exp(relative - jnp.max(relative, axis=1, keepdims=True))
        share = jnp.where(precise, 1 / jnp.sum(weights, axis=1), 0)
        total += jnp.dot(share, weights, precision=HIGHEST)
        return group.put(doubtful, ~precise), total

    state = (jnp.zeros_like(waiting), total)
    doubtful, total = over_flagged(some, waiting, state, TOGETHER)
    return total, doubtful


def _again(
    set_: Perturbed, u: Array, sigma: Array, doubtful: Bool[Array, "q m"]
) -> Float[Array, "q d"]:
    """Sums of the posterior means of the doubtful pairs of a query and a perturbation, each by itself."""
    num, m = doubtful.shape

    def some(group: Group, total):
        query, move = jnp.divmod(group.taken, m)
        at, level = group.tied((u[query] + set_.perturbations[move], sigma[query]))
        means = jax.vmap(posterior_summary, (None, 0, 0))(set_.points, at, level).mean
        return total.at[jnp.where(group.these < num * m, query, num)].add(means, mode="drop")

    return over_flagged(some, doubtful.ravel(), jnp.zeros_like(u), GROUP)
