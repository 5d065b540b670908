"""Rules of `jax.custom_batching.custom_vmap` for queries of a training set."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


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


def _flattened(many):
    """`many` for batches of batches of queries, which it sees as one."""

    def of_batches(points, u, sigma):
        flat = many(points, u.reshape(-1, *u.shape[2:]), sigma.reshape(-1))
        return jax.tree.map(lambda x: x.reshape(*sigma.shape, *x.shape[1:]), flat)

    return of_batches


def over_queries(
    group: Callable[..., Any],
    each: Callable[..., Any] | None = None,
    alone: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """A function of one query, all of a batch of which are computed at once, by `group(points, u, sigma)`.

    Batches of batches are one to it; of a batch of training sets each has its own.

    Args:
        group: of a batch of queries, which `vmap` may not see through.
        each: the same of one query, by other means: for batches of training sets. By default by `group`.
        alone: the same of one query that comes without others. By default by `group`.
    """

    def first(points, u, sigma):
        return jax.tree.map(lambda x: x[0], group(points, u[None], sigma[None]))

    many = jax.custom_batching.custom_vmap(group)
    one = jax.custom_batching.custom_vmap(first if alone is None else alone)
    one_of_a_set = first if each is None else each
    many_of_a_set = group if each is None else jax.vmap(each, (None, 0, 0))

    @one.def_vmap
    def _of_batch(axis_size, in_batched, points, u, sigma):
        return _batched(one_of_a_set, many, axis_size, in_batched, points, u, sigma)

    @many.def_vmap
    def _of_batches(axis_size, in_batched, points, u, sigma):
        return _batched(many_of_a_set, _flattened(many), axis_size, in_batched, points, u, sigma)

    return one
