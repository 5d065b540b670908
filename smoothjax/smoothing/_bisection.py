"""Bisection: for monotone functions of one variable known only through inequalities, to the last bit."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


def bisect(
    above: Callable[[Float[Array, "*s"]], Bool[Array, "*s"]],
    low: Float[Array, "*s"],
    high: Float[Array, "*s"],
) -> Float[Array, "*s"]:
    """Where `above` turns from True, at `low`, to False, at `high`; elementwise."""

    def step(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        still = above(middle)
        return jnp.where(still, middle, low), jnp.where(still, high, middle)

    # Every step gains a bit; a few more than the mantissa has, for brackets that reach across zero.
    low, high = lax.fori_loop(0, jnp.finfo(low.dtype).nmant + 12, step, (low, high))
    return 0.5 * (low + high)
