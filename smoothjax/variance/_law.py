"""Laws of trained models: the distribution over denoisers that the randomness of a training set induces."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import RealScalar, as_float_array, require_positive
from .._kinds import checks_kinds
from ..denoisers import Denoiser


class AbstractLaw(eqx.Module):
    """A distribution over denoisers."""

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """Dimension d of the data."""

    @property
    @abc.abstractmethod
    def mean_denoiser(self) -> Denoiser:
        """The mean of the denoiser over trained models. Not the exact posterior mean: training is biased."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray) -> Denoiser:
        """One trained model."""

    @abc.abstractmethod
    def covariance(
        self, u: Float[Array, " d"], sigma: RealScalar, v: Float[Array, " d"], tau: RealScalar
    ) -> Float[Array, "d d"]:
        """Covariance of the model's denoised `u` at noise level `sigma` with its denoised `v` at `tau`."""


@checks_kinds
def v_kernel(
    law: AbstractLaw,
    first: tuple[Float[Array, " d"], RealScalar],
    second: tuple[Float[Array, " d"], RealScalar],
) -> Float[Array, "d d"]:
    """V-kernel of a law: covariance, over trained models, of the velocity `du/dlog sigma = u - D` at two places.

    The paper's kernel is that of `dx/dt` along the flow of a forward process with diffusion g: this one times
    `(g^2 / 2) alpha / sigma_t^2` at either place, with `sigma_t = alpha sigma`.

    Args:
        law: of trained models.
        first, second: `(u, sigma)` and `(v, tau)`. For grids, `jax.vmap`.

    Returns:
        Shape (d, d), squared data units; transposed if the places are exchanged.

    Source: Vastola, ICLR 2025, Proposition 3.1, in noise-level coordinates.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> law = sj.LinearModelLaw(lambda u, sigma: u, jnp.array([[0.5]]), jnp.array([[[0.1]]]))
        >>> first, second = (jnp.array([10.0]), 1.0), (jnp.array([20.0]), 3.0)
        >>> print(sj.v_kernel(law, first, second).round(5))  # D = w u: 10 * 20 * 0.1^2
        [[2.]]
    """
    (u, sigma), (v, tau) = first, second
    return law.covariance(*_place(law, u, sigma, "first"), *_place(law, v, tau, "second"))


def _place(law: AbstractLaw, u: Any, sigma: Any, name: str) -> tuple[Array, Array]:
    u = as_float_array(u, name)
    if u.shape != (law.dim,):
        raise ValueError(f"The point of `{name}` must have shape ({law.dim},); got {u.shape}.")
    sigma = require_positive(sigma, f"noise level of `{name}`")
    if sigma.shape != ():
        raise ValueError(f"The noise level of `{name}` must be a scalar; got shape {sigma.shape}.")
    return u, sigma.astype(u.dtype)
