"""What all forward processes share: their two coordinate systems, and the domain of their arguments."""

import abc
import math
import sys
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from .._checks import as_float_array, is_concrete, require_positive
from .._jax.precision import common_dtype

LARGEST = sys.float_info.max


def argument(
    value: ArrayLike, name: str, lower: float = 0.0, upper: float = math.inf
) -> Float[Array, "..."]:
    """`value` as a float array, checked to lie in [lower, upper] if it is concrete."""
    if isinstance(value, float):
        value = float(value)  # NumPy's too is weakly typed: a number never widens a float32 partner
    array = as_float_array(value, name)
    if is_concrete(value):
        host = np.asarray(value, np.float64)  # the bounds may not be representable in its dtype
        bad = ~((host >= lower) & (host <= upper))  # written so that NaN is bad
        if bad.any():
            interval = f"[{lower:g}, {'inf)' if upper == LARGEST else f'{upper:g}]'}"
            raise ValueError(f"`{name}` must lie in {interval}; got {host[bad].flat[0]}.")
    return array


class AbstractProcess(eqx.Module):
    """A Gaussian forward process `x_t = alpha_t x_0 + sigma_t z`, z ~ N(0, I).

    Equivalently the linear SDE `dx = drift(x, t) dt + diffusion(t) dB`, whose moments obey
    `alpha' = a alpha` and `(sigma^2)' = 2 a sigma^2 + g^2` with `drift(x, t) = a(t) x` and
    `g = diffusion(t)`.

    Attributes:
        max_time: where the schedule ends, so that `noise_level(max_time)` is the largest noise
            level of the process. Infinite for `EDM` and `Brownian`, which have no end. The noise
            level is infinite for these two and for `FlowMatching`: choose where to start.
    """

    max_time: ClassVar[float]
    _domain: ClassVar[tuple[float, float]]

    @abc.abstractmethod
    def alpha(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        """The factor `alpha_t` on the data."""

    @abc.abstractmethod
    def sigma(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        """The standard deviation `sigma_t` of the noise in `x_t`."""

    @abc.abstractmethod
    def noise_level(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        """The noise level `sigma_t / alpha_t`, increasing in `t`."""

    @abc.abstractmethod
    def time(self, noise_level: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        """The time at which the process has this noise level: the inverse of `noise_level`."""

    @abc.abstractmethod
    def drift(self, x: Float[ArrayLike, "..."], t: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
        """The drift `f(x, t)` of `dx = f dt + g dB`. `t` broadcasts against `x`."""

    @abc.abstractmethod
    def diffusion(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        """The scalar `g(t)` of `dx = f dt + g dB`."""

    @abc.abstractmethod
    def _alpha_at_level(self, noise_level: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """`alpha(time(noise_level))`, without the rounding of the time in between."""

    def to_noise_coordinates(
        self, x: Float[ArrayLike, "..."], t: Real[ArrayLike, "..."]
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """`(x_t, t)` in the coordinates of denoisers and flows.

        Args:
            x: state of the process; `t` broadcasts against it.
            t: time.

        Returns:
            `(x / alpha_t, noise_level(t))`.

        Raises:
            ValueError: if `t` is outside the domain or `alpha_t` is zero (`FlowMatching` at t = 1).
                Inside jit, a zero `alpha_t` is a runtime error.
        """
        alpha = require_positive(self.alpha(t), "alpha(t)")
        return as_float_array(x, "x") / alpha, self.noise_level(t)

    def from_noise_coordinates(
        self, u: Float[ArrayLike, "..."], noise_level: Real[ArrayLike, "..."]
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """The inverse of `to_noise_coordinates`: what a network trained on `(x_t, t)` expects.

        Args:
            u: rescaled state `x_t / alpha_t`; `noise_level` broadcasts against it.
            noise_level: finite noise level.

        Returns:
            `(alpha_t u, t)` with `t = time(noise_level)`.

        Raises:
            ValueError: if `noise_level` is negative or not finite.

        Example:
            A network `eps(x, t)` that predicts the noise, as a denoiser:

            >>> import smoothjax as sj
            >>> process, eps = sj.VariancePreserving(), lambda x, t: x
            >>> def denoiser(u, noise_level):
            ...     return u - noise_level * eps(*process.from_noise_coordinates(u, noise_level))
        """
        level = argument(noise_level, "noise_level", upper=LARGEST)
        return self._alpha_at_level(level) * as_float_array(u, "u"), self.time(noise_level)

    def _checked(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return argument(t, "t", *self._domain)


class AbstractUnscaledProcess(AbstractProcess):
    """A process with `alpha_t = 1`: no drift, and the noise level is `sigma_t`."""

    def alpha(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return jnp.ones_like(self._checked(t))

    def noise_level(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return self.sigma(t)

    def drift(self, x: Float[ArrayLike, "..."], t: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
        x, t = as_float_array(x, "x"), self._checked(t)
        return jnp.zeros(jnp.broadcast_shapes(x.shape, t.shape), common_dtype(x, t))

    def _alpha_at_level(self, noise_level: Float[Array, "*t"]) -> Float[Array, "*t"]:
        return jnp.ones_like(noise_level)
