"""Steps of `du/dlog sigma = u - D`, with and without noise, with the linear part exact: the one place that takes them."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def linear_step(
    u: Float[Array, "*shape"], denoised: Float[Array, "*shape"], h: Array, eta: Array | float = 0.0
) -> Float[Array, "*shape"]:
    """The state after a step over h in `log sigma`, negative downwards, in which the denoiser returns `denoised`.

    `a u + (1 - a) D` with `a = exp((1 + eta) h)`: for eta = 0 the probability flow, and with `noise_scale` the reverse SDE
    of that stochasticity. No small differences of large numbers: where u is D, the state stays.
    """
    return u - jnp.expm1((1 + eta) * h) * (denoised - u)


def noise_scale(level: Array, h: Array, eta: Array | float) -> Array:
    """Standard deviation of what the reverse SDE's noise adds over a step to `level`: `level sqrt(1 - exp(2 eta h))`.

    The noise `sqrt(2 eta) sigma dB` of each moment on the way, decayed since then by the linear part: exact for any step.
    """
    return level * jnp.sqrt(-jnp.expm1(2 * eta * h))


def slope_weight(h: Array) -> Array:
    """How much of the denoiser's slope by `log sigma` belongs to its mean over a step, in units of h.

    `(e^h - 1 - h) / (e^h - 1)`: exact for a denoiser that is linear in `log sigma` along the step. About `h / 2`.
    """
    first = jnp.expm1(h)
    # e^h - 1 - h would cancel.
    second = jnp.where(jnp.abs(h) < 0.1, _series(h), first - h)
    return jnp.where(h == 0, 0, second / jnp.where(h == 0, 1, first))


def _series(h: Array) -> Array:
    """`e^h - 1 - h` for |h| < 0.1, to 1e-16 of it: eight terms."""
    total = jnp.ones_like(h)
    for k in range(9, 2, -1):
        total = 1 + total * h / k
    return 0.5 * h**2 * total
