"""Samples that are followed until their end is certain: what a denoiser knows of those that are still open."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

# Samples of a smoothing that are followed at once: many, and few.
GROUPS = 64, 8


class Followed(NamedTuple):
    """What a kind of denoiser knows of the samples that are still open."""

    call: Callable[[Array, Array, Array], tuple[Array, Any]]
    """`(u, sigma, open) -> (mean, found)`; anything for the others."""
    ends: Callable[[Any, Array, Array, Array, Array], tuple[Array, Array, Array]]
    """`(found, u, sigma, previous mean, open) -> (certain, points, rows)`."""
    rows_of: Callable[[Array], Array]
    """Rows of outputs at the last noise level of which nothing was certain."""


def of_some(
    function: Callable[[Array], Any],
    u: Float[Array, "batch d"],
    wanted: Bool[Array, " batch"],
    nothing: Any,
) -> Any:
    """`function` of a batch, of those that are wanted, in groups; `nothing` for the others."""
    num = len(wanted)

    def some(size: int, loop: tuple[Array, Any]) -> tuple[Array, Any]:
        todo, result = loop
        (these,) = jnp.nonzero(todo, size=size, fill_value=num)
        taken = jnp.where(these < num, these, these[0])
        # Tied to the loop, or XLA computes what does not change in it whether or not it runs.
        _, group = lax.optimization_barrier((todo, u[taken]))
        put = lambda old, new: old.at[these].set(new, mode="drop")  # noqa: E731
        return todo.at[these].set(False, mode="drop"), jax.tree.map(put, result, function(group))

    loop = (wanted, nothing)
    for size in sorted({min(num, size) for size in GROUPS}, reverse=True):
        least = 2 * min(GROUPS) if size > min(GROUPS) else 0
        loop = lax.while_loop(
            lambda loop, least=least: jnp.sum(loop[0]) > least, functools.partial(some, size), loop
        )
    return loop[1]
