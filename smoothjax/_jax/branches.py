"""Branches whose conditions may differ within a batch: one of several functions, and an update or none."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from .derivatives import differentiated_as


def chosen(
    index: Int[Array, ""] | Bool[Array, ""],
    branches: Sequence[Callable[[Any], Any]],
    operands: Any,
) -> Any:
    """`branches[index](operands)`, whose results have one structure, shapes and dtypes.

    A batch with one index computes one branch; a batch of indices computes all, each for the whole batch. `lax.switch` would
    copy the operands for each element of such a batch: a training set, where denoisers are operands. Derivatives take
    those of all branches.
    """
    if len(branches) == 1:
        return branches[0](operands)
    arrays, static = eqx.partition(operands, eqx.is_array)
    return _chosen(
        index.astype("int32"),
        tuple(lambda a, f=f: f(eqx.combine(a, static)) for f in branches),
        arrays,
    )


def _chosen(index: Array, branches: tuple[Callable[[Any], Any], ...], arrays: Any) -> Any:
    def every(index: Array, arrays: Any) -> Any:
        results = [branch(arrays) for branch in branches]
        return jax.tree.map(lambda *values: lax.select_n(index, *values), *results)

    @jax.custom_batching.custom_vmap
    def one(index: Array, arrays: Any) -> Any:
        return lax.switch(index, branches, arrays)

    @one.def_vmap
    def of_batch(axis_size: int, in_batched: Any, index: Array, arrays: Any) -> Any:
        index_batched, arrays_batched = in_batched
        axes = jax.tree.map(lambda batched: 0 if batched else None, arrays_batched)
        if index_batched:
            result = jax.vmap(every, (0, axes), axis_size=axis_size)(index, arrays)
        else:
            batched = tuple(jax.vmap(branch, (axes,), axis_size=axis_size) for branch in branches)
            result = _chosen(index, batched, arrays)
        return result, jax.tree.map(lambda _: True, result)

    return differentiated_as(every)(one)(index, arrays)


def update_if(condition: Array, update, state, inputs):
    """`update(state, inputs) if condition else state`; stays a branch under `vmap`, taken if any element needs it.

    `inputs` are everything that the expensive part depends on. They are tied to the condition, since XLA otherwise moves
    what does not depend on the loop out of it, and computes it whether or not the loop runs.
    """

    def body(loop):
        again, state = loop
        _, tied = lax.optimization_barrier((again, inputs))
        return jnp.zeros_like(again), update(state, tied)

    return lax.while_loop(lambda loop: loop[0], body, (condition, state))[1]
