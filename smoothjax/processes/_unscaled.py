"""Processes that add noise and scale nothing."""

import math
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from .._checks import positive_parameter, require_larger
from .._kinds import checks_kinds
from ._abstract import AbstractUnscaledProcess, argument


class VarianceExploding(AbstractUnscaledProcess):
    """Variance exploding: `alpha_t = 1`, `sigma_t = sigma_min (sigma_max / sigma_min)^t`.

    As in Song et al., t = 0 already has noise `sigma_min`, not zero: the state at t = 0 is the
    clean point plus noise of size `sigma_min`. The SDE `dx = sigma_t sqrt(2 R) dB`, with
    `R = log(sigma_max / sigma_min)`, gives `sigma_t` when it is started from *that* state; started
    from the clean point at t = 0 it would reach the variance `sigma_t^2 - sigma_min^2`.

    The formulas hold for every real `t`: a noise level below `sigma_min` is a negative time (the
    clean point itself is t = -inf, `time(0)`), one above `sigma_max` a time above one.

    Args:
        sigma_min: noise at t = 0, positive.
        sigma_max: noise at t = 1, larger than `sigma_min`.

    Raises:
        ValueError: if one is not a positive finite scalar, or `sigma_max <= sigma_min`.

    Source: Song et al. 2021, appendix C.

    Example:
        >>> import smoothjax as sj
        >>> process = sj.VarianceExploding(0.01, 100.0)
        >>> float(process.sigma(0.5).round(5))  # the geometric mean
        1.0
    """

    sigma_min: float | Float[Array, ""]
    sigma_max: float | Float[Array, ""]

    max_time: ClassVar[float] = 1.0
    _domain: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    @checks_kinds
    def __init__(
        self, sigma_min: Real[ArrayLike, ""] = 0.01, sigma_max: Real[ArrayLike, ""] = 50.0
    ) -> None:
        self.sigma_min = positive_parameter(sigma_min, "sigma_min")
        self.sigma_max = positive_parameter(sigma_max, "sigma_max")
        require_larger(self.sigma_max, self.sigma_min, "sigma", strict=True)

    def _log_ratio(self) -> Float[Array, ""]:
        return jnp.log(self.sigma_max / self.sigma_min)

    def sigma(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return self.sigma_min * jnp.exp(self._checked(t) * self._log_ratio())

    def time(self, noise_level: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        level = argument(noise_level, "noise_level")
        # Next to sigma_min the difference is exact, and t keeps its relative accuracy through zero.
        # Not further out: XLA's float64 log1p loses two digits close to -0.4.
        difference = level - self.sigma_min
        is_near = jnp.abs(difference) < 0.25 * self.sigma_min
        near = jnp.log1p(jnp.where(is_near, difference, 0.0) / self.sigma_min)
        # Square roots, because level / sigma_min can overflow.
        far = 2 * jnp.log(jnp.sqrt(level) / jnp.sqrt(self.sigma_min))
        return jnp.where(is_near, near, far) / self._log_ratio()

    def diffusion(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return self.sigma(t) * jnp.sqrt(2 * self._log_ratio())


class EDM(AbstractUnscaledProcess):
    """`alpha_t = 1`, `sigma_t = t`: time is the noise level. `dx = sqrt(2 t) dB` on t >= 0.

    Source: Karras et al. 2022.

    Example:
        >>> import smoothjax as sj
        >>> float(sj.EDM().noise_level(3.0)), float(sj.EDM().alpha(3.0))
        (3.0, 1.0)
    """

    max_time: ClassVar[float] = math.inf
    _domain: ClassVar[tuple[float, float]] = (0.0, math.inf)

    def sigma(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return self._checked(t)

    def time(self, noise_level: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return argument(noise_level, "noise_level")

    def diffusion(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return jnp.sqrt(2 * self._checked(t))


class Brownian(AbstractUnscaledProcess):
    """`alpha_t = 1`, `sigma_t = sqrt(t)`: time is the variance of the noise. `dx = dB` on t >= 0.

    `time` is the square of the noise level, so it leaves the range of float32 for noise levels
    above 1e19 and below 1e-19.

    Example:
        >>> import smoothjax as sj
        >>> float(sj.Brownian().noise_level(4.0)), float(sj.Brownian().time(2.0))
        (2.0, 4.0)
    """

    max_time: ClassVar[float] = math.inf
    _domain: ClassVar[tuple[float, float]] = (0.0, math.inf)

    def sigma(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return jnp.sqrt(self._checked(t))

    def time(self, noise_level: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return argument(noise_level, "noise_level") ** 2

    def diffusion(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return jnp.ones_like(self._checked(t))
