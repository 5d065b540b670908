r"""The posterior mean averaged over perturbations of the noisy point, which share their products.

Weighing all n points for each of M perturbations of one point takes `2 M n d` multiplications, and averaging as many. But

    (u + p_m) . c_i = u . c_i + p_m . c_i,

so that with the same perturbations for all queries one product of the perturbations with the points serves every query,
and one of the queries with the points every perturbation; and the average takes the average weights, once. What is left are
the `M n` exponentials a query.

Rounding is that of products, as in `_point_posterior`, with `|u| + |p_m|` for the noisy point. Where it is too much at a
small noise level, and another point than the nearest has weight, that perturbation is weighed again by itself.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ._derivatives import differentiated_as
from ._point_posterior import HIGHEST, PointSet, _batched, log_tolerated, posterior_summary
from ._screen import inner_products

# Weights of one query that are formed at once, and of the average weights of some queries.
AT_ONCE, ALL_AT_ONCE = 2**22, 2**24
# Perturbed queries that are weighed again at once.
GROUP = 64


class _Perturbed(NamedTuple):
    points: PointSet
    perturbations: Float[Array, "m d"]


def _one_by_one(
    points: PointSet, perturbations: Float[Array, "m d"], u: Array, sigma: Array
) -> Array:
    summaries = jax.vmap(posterior_summary, (None, 0, None))(points, u + perturbations, sigma)
    return jnp.mean(summaries.mean, axis=0)


@jax.jit
@differentiated_as(_one_by_one)
def perturbed_mean(
    points: PointSet,
    perturbations: Float[Array, "m d"],
    u: Float[Array, " d"],
    sigma: Float[Array, ""],
) -> Float[Array, " d"]:
    """The average of the posterior means at `u + p_m`, relative to the points' centre."""
    return _average(_Perturbed(points, perturbations), u, sigma)


@jax.custom_batching.custom_vmap
def _average(set_: _Perturbed, u: Array, sigma: Array) -> Array:
    return _averages(set_, u[None], sigma[None])[0]


@_average.def_vmap
def _average_of_batch(axis_size, in_batched, set_, u, sigma):
    return _batched(
        lambda s, *at: _one_by_one(*s, *at), _averages, axis_size, in_batched, set_, u, sigma
    )


@jax.custom_batching.custom_vmap
def _averages(set_: _Perturbed, u: Array, sigma: Array) -> Array:
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


@_averages.def_vmap
def _averages_of_batch(axis_size, in_batched, set_, u, sigma):
    def flattened(set_, u, sigma):
        flat = _averages(set_, u.reshape(-1, u.shape[-1]), sigma.reshape(-1))
        return flat.reshape(u.shape)

    many = jax.vmap(lambda s, *at: _one_by_one(*s, *at), (None, 0, 0))
    return _batched(many, flattened, axis_size, in_batched, set_, u, sigma)


def _together(set_: _Perturbed, u: Float[Array, "q d"], sigma: Float[Array, " q"]) -> Array:
    points, perturbations = set_
    n, d = points.points.shape
    m = len(perturbations)
    size = max(1, min(m, AT_ONCE // n))
    parts = -(-m // size)
    size = -(-m // parts)
    # The last part repeats the first perturbations, and does not count them.
    index = jnp.arange(parts * size)
    counts = (index < m).reshape(parts, size)
    moves = perturbations[index % m].reshape(parts, size, d)
    centred = points.points - points.centre
    # Infinite for points without weight.
    below = points.half_square
    own = 0.0 if points.log_weights is None else points.log_weights
    products = inner_products(u - points.centre, centred) - below
    length = jnp.linalg.norm(u - points.centre, axis=1)

    def part(total, inputs):
        moves, counts = inputs
        along = inner_products(centred, moves)
        reach = jnp.linalg.norm(moves, axis=1)

        def one(query):
            product, length, sigma = query
            # Roundings relative to the sizes of both products, half a unit each.
            ratio = points.radius * (length + reach + points.radius) / sigma**2
            tolerated = log_tolerated(0.5 * jnp.finfo(u.dtype).eps * ratio, d)
            logits = (product[:, None] + along) / sigma**2 + jnp.reshape(own, (-1, 1))
            return _weights(logits, tolerated, counts)

        weights, doubtful = lax.map(one, (products, length, sigma))
        return total + weights, doubtful

    total, doubtful = lax.scan(part, jnp.zeros_like(products), (moves, counts))
    mean = jnp.dot(total, centred, precision=HIGHEST) / m
    doubtful = jnp.moveaxis(doubtful, 0, 1).reshape(len(u), -1)[:, :m]
    return mean + _again(set_, u, sigma, doubtful) / m


def _weights(
    logits: Float[Array, "n m"], tolerated: Float[Array, " m"], counts: Bool[Array, " m"]
) -> tuple[Float[Array, " n"], Bool[Array, " m"]]:
    """The points' weights, summed over the perturbations that count and are not doubtful; and which are.

    `tolerated` is the logarithm of the other points' mass that the logits are precise enough for.
    """
    highest = jnp.max(logits, axis=0)
    weights = jnp.exp(logits - highest)
    normaliser = jnp.sum(weights, axis=0)
    # Of all but the largest. What underflows is below the tolerated mass in any case; equally large ones are doubtful.
    others = jnp.sum(jnp.where(logits < highest, weights, 0), axis=0)
    equal = jnp.sum((logits == highest).astype(jnp.int32), axis=0)
    known = (tolerated == jnp.inf) | ((equal == 1) & (jnp.log(others) <= tolerated))
    share = jnp.where(counts & known, 1 / normaliser, 0)
    return jnp.dot(weights, share, precision=HIGHEST), counts & ~known


def _again(
    set_: _Perturbed, u: Array, sigma: Array, doubtful: Bool[Array, "q m"]
) -> Float[Array, "q d"]:
    """Sums of the posterior means of the doubtful pairs of a query and a perturbation, each by itself."""
    points, perturbations = set_
    num, m = doubtful.shape
    group = min(num * m, GROUP)

    def some(loop):
        waiting, total = loop
        (pairs,) = jnp.nonzero(waiting, size=group, fill_value=num * m)
        # A group that is not full repeats its first pair, and drops the result.
        query, move = jnp.divmod(jnp.where(pairs < num * m, pairs, pairs[0]), m)
        # Tied to the loop, or XLA computes it whether or not the loop runs.
        _, at, level = lax.optimization_barrier(
            (waiting, u[query] + perturbations[move], sigma[query])
        )
        means = jax.vmap(posterior_summary, (None, 0, 0))(points, at, level).mean
        total = total.at[jnp.where(pairs < num * m, query, num)].add(means, mode="drop")
        return waiting.at[pairs].set(False, mode="drop"), total

    init = (doubtful.ravel(), jnp.zeros_like(u))
    return lax.while_loop(lambda loop: jnp.any(loop[0]), some, init)[1]
