"""The exponential multistep method on a grid of noise levels, with one call of the denoiser a level."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .._ode.linear_part import linear_step, noise_scale
from ._multistep_weights import grid_weights, increment_shares

Denoise = Callable[[Float[Array, " d"], Array], Float[Array, " d"]]


def multistep_flow(
    denoise: Denoise, u: Float[Array, " d"], levels: Float[Array, " m"], order: int
) -> Float[Array, " d"]:
    """The probability flow from the first to the last level; called at every level but the last."""
    # The last step is not corrected: that would take a call at its end.
    last = len(levels) - 2
    alone = lambda u, level: (denoise(u, level), None)  # noqa: E731
    (u, past), _, predicted = _corrected(alone, u, levels, order, last)
    return predicted(u, past, jnp.asarray(last))


def multistep_path(
    denoise: Callable[[Float[Array, " d"], Array], tuple[Float[Array, " d"], Any]],
    u: Float[Array, " d"],
    levels: Float[Array, " m"],
    order: int,
) -> tuple[Float[Array, " d"], Any]:
    """The state at the last level, and what `denoise` returns beside the denoiser's output at each, stacked.

    Called at every level, upwards or downwards.
    """
    (u, _), extras, _ = _corrected(denoise, u, levels, order, len(levels) - 1)
    return u, extras


def _corrected(denoise: Any, u: Array, levels: Any, order: int, num: int) -> Any:
    """The first steps, each corrected: the state and the outputs so far, what else came with them, and the predictor."""
    levels = jnp.asarray(levels)
    weights = grid_weights(levels, order)
    h = jnp.log(levels[1:] / levels[:-1])
    first, extra = denoise(u, levels[0])
    # The outputs so far, newest first.
    past = jnp.zeros((order, *u.shape), u.dtype).at[0].set(first)

    def predicted(u: Array, past: Array, k: Array) -> Array:
        return linear_step(u, _mean(past, weights.predictor[k]), h[k])

    def step(carried: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], Any]:
        u, past = carried
        ahead = predicted(u, past, k)
        latest, more = denoise(ahead, levels[k + 1])
        known = jnp.concatenate([latest[None], past])
        if order > 1:
            moved = linear_step(u, _mean(known, weights.corrector[k]), h[k]) - ahead
            # The corrector weighs the output at the state that it leads to: `latest + slope (corrected - ahead)`.
            moved /= 1 + jnp.expm1(h[k]) * weights.corrector[k, 0] * weights.slope
            ahead, known = ahead + moved, known.at[0].add(weights.slope * moved)
        return (ahead, known[:-1]), more

    end, extras = lax.scan(step, (u, past), jnp.arange(num))
    extras = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), extra, extras)
    return end, extras, predicted


def multistep_sde(
    denoise: Denoise,
    key: PRNGKeyArray,
    u: Float[Array, " d"],
    levels: Float[Array, " m"],
    eta: Array,
) -> Float[Array, " d"]:
    """The reverse SDE of stochasticity eta, the noise of each step drawn exactly; called at every level but the last."""
    levels = jnp.asarray(levels)
    shares, h = increment_shares(levels, eta), jnp.log(levels[1:] / levels[:-1])

    def step(carried: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], None]:
        u, before = carried
        latest = denoise(u, levels[k])
        noise = jax.random.normal(jax.random.fold_in(key, k), u.shape, u.dtype)
        ahead = linear_step(u, latest + shares[k] * (latest - before), h[k], eta)
        return (ahead + noise_scale(levels[k + 1], h[k], eta) * noise, latest), None

    (u, _), _ = lax.scan(step, (u, jnp.zeros_like(u)), jnp.arange(len(levels) - 1))
    return u


def _mean(past: Float[Array, "k d"], weights: Float[Array, " k"]) -> Float[Array, " d"]:
    """The weighted mean as a departure from the first: exact where all outputs are equal."""
    return past[0] + jnp.sum(weights[1:, None] * (past[1:] - past[:1]), axis=0)
