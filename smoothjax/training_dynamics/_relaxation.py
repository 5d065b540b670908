"""How a linear mode relaxes to its optimum: under gradient flow for a time, and under steps of gradient descent."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import as_float_array, checked, require_finite, require_positive_scalar


class Relaxation(eqx.Module):
    """What training leaves of the distance from the optimum, and what it has covered, for modes of given rates."""

    @abc.abstractmethod
    def remaining(self, rates: Float[Array, "*modes"]) -> Float[Array, "*modes"]:
        """What is left of the distance from the optimum: one at the start."""

    @abc.abstractmethod
    def covered(self, rates: Float[Array, "*modes"]) -> Float[Array, "*modes"]:
        """One less than that, without cancellation at short times."""


class Flow(Relaxation):
    """`exp(-rate duration)`."""

    duration: Float[Array, ""]

    def remaining(self, rates: Array) -> Array:
        return jnp.exp(-rates * self.duration.astype(rates.dtype))

    def covered(self, rates: Array) -> Array:
        return -jnp.expm1(-rates * self.duration.astype(rates.dtype))


class Descent(Relaxation):
    """`(1 - rate step_size)^num_steps`."""

    step_size: Float[Array, ""]
    num_steps: Float[Array, ""]

    def _log(self, rates: Array) -> tuple[Array, Array]:
        """Step by step what a mode moves by, and the logarithm of what all steps leave of it."""
        moved = rates * self.step_size.astype(rates.dtype)
        short = moved < 1
        left = jnp.log(jnp.abs(jnp.where(short, 1, moved - 1)))
        number = self.num_steps.astype(rates.dtype)
        # 0 steps of a mode that one step brings to its optimum leave it where it is.
        log = jnp.where(short, jnp.log1p(-jnp.where(short, moved, 0)), left)
        return moved, jnp.where(number > 0, number * log, 0)

    def remaining(self, rates: Array) -> Array:
        moved, log = self._log(rates)
        odd = jnp.mod(self.num_steps, 2) == 1
        return jnp.where((moved > 1) & odd, -1, 1) * jnp.exp(log)

    def covered(self, rates: Array) -> Array:
        moved, log = self._log(rates)
        return jnp.where(moved < 1, -jnp.expm1(log), 1 - self.remaining(rates))


def flow_for(duration: Any) -> Flow:
    duration = as_float_array(duration, "duration")
    return Flow(_non_negative_scalar(duration, "duration"))


def descent_of(step_size: Any, num_steps: Any) -> Descent:
    step = require_positive_scalar(step_size, "step_size")
    steps = _non_negative_scalar(as_float_array(num_steps, "num_steps"), "num_steps")
    steps = checked(
        steps, steps != jnp.round(steps), "`num_steps` must be a whole number", f"; got {num_steps}"
    )
    return Descent(step, steps)


def _non_negative_scalar(value: Array, name: str) -> Array:
    if value.shape != ():
        raise ValueError(f"`{name}` must be a scalar; got shape {value.shape}. Use jax.vmap.")
    require_finite(value, name)
    return checked(value, ~(value >= 0), f"`{name}` must be non-negative", f"; got {value}")
