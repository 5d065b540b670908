"""What the rules of `jax.custom_batching.custom_vmap` for queries of a training set have in common."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def batched(one, many, axis_size, in_batched, points, u, sigma):
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


def flattened(many):
    """`many` for batches of batches of queries, which it sees as one."""

    def of_batches(points, u, sigma):
        flat = many(points, u.reshape(-1, *u.shape[2:]), sigma.reshape(-1))
        return jax.tree.map(lambda x: x.reshape(*sigma.shape, *x.shape[1:]), flat)

    return of_batches


def over_queries(group: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one query, all of a batch of which are computed at once, by `group(points, u, sigma)`.

    Batches of batches are one to it; of a batch of training sets each has its own.
    """

    def alone(points, u, sigma):
        return jax.tree.map(lambda x: x[0], group(points, u[None], sigma[None]))

    @jax.custom_batching.custom_vmap
    def many(points, u, sigma):
        return group(points, u, sigma)

    @many.def_vmap
    def _of_batches(axis_size, in_batched, points, u, sigma):
        return batched(group, flattened(many), axis_size, in_batched, points, u, sigma)

    @jax.custom_batching.custom_vmap
    def one(points, u, sigma):
        return jax.tree.map(lambda x: x[0], many(points, u[None], sigma[None]))

    @one.def_vmap
    def _of_batch(axis_size, in_batched, points, u, sigma):
        return batched(alone, many, axis_size, in_batched, points, u, sigma)

    return one
