"""The probability flow of Gaussian data, in closed form."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._checks import RealScalar
from ..denoisers import GaussianDenoiser
from ._inputs import as_level, as_state


def gaussian_flow(
    denoiser: GaussianDenoiser,
    u: Float[Array, " d"],
    sigma_from: RealScalar,
    sigma_to: RealScalar,
) -> Float[Array, " d"]:
    """Exact end of the probability flow of a `GaussianDenoiser`.

    A linear flow that keeps each mode Gaussian keeps each mode's distance from the mean, in standard deviations: the mode
    of variance lambda is multiplied by `sqrt((lambda + sigma_to^2) / (lambda + sigma_from^2))`, and so is the orthogonal
    complement with its own variance.

    Args:
        denoiser: the Gaussian.
        u: state at `sigma_from`, shape (d,).
        sigma_from: positive noise level.
        sigma_to: non-negative noise level.

    Raises:
        ValueError: for a bad shape or noise level.
    """
    u = as_state(u)
    if u.shape != (denoiser.dim,):
        raise ValueError(f"`u` must have shape ({denoiser.dim},); got {u.shape}.")
    start = as_level(sigma_from, "sigma_from", u.dtype)
    end = as_level(sigma_to, "sigma_to", u.dtype, or_zero=True)

    largest = jnp.maximum(start, end)

    def factor(variance: Array) -> Array:
        # Squares relative to the largest, or float32 would lose those of tiny noise levels.
        unit = jnp.maximum(jnp.sqrt(lax.stop_gradient(variance)), lax.stop_gradient(largest))
        scaled = variance / unit / unit
        return jnp.sqrt((scaled + (end / unit) ** 2) / (scaled + (start / unit) ** 2))

    gains = factor(denoiser.eigenvalues), factor(denoiser.complement)
    return (denoiser.mean + denoiser.map_modes(u - denoiser.mean, *gains)).astype(u.dtype)
