"""The process that keeps the variance of standardised data."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from .._checks import as_float_array, positive_parameter, require_larger
from .._kinds import checks_kinds
from ._abstract import LARGEST, AbstractProcess, argument


class VariancePreserving(AbstractProcess):
    """Variance preserving: `dx = -beta(t) x / 2 dt + sqrt(beta(t)) dB`, `alpha^2 + sigma^2 = 1`.

    The rate is linear, `beta(t) = beta_min + t (beta_max - beta_min)` on t in [0, 1], as in Song et
    al. With `B(t) = int_0^t beta`, `alpha_t = exp(-B/2)` and `noise_level(t) = sqrt(exp(B) - 1)`.

    **A factor of two.** `beta` is Song et al.'s: the drift is *half* of `beta`. Vastola writes
    `dx = -beta(t) x dt + sqrt(2 beta(t)) dB`; his `beta` is half of the one here. Use
    `VariancePreserving.from_drift_rate` for numbers in his convention.

    The formulas hold beyond t = 1 with the same linear rate, so that `time` is defined for every
    noise level: one above `noise_level(1)` (152 by default) gives a time above one.

    The relative rounding error of `noise_level` is about `1 + B` units, mostly the conditioning of
    `exp(B/2)`; nothing is lost at small `t`, where `sigma` does not go through `1 - alpha^2`. The
    derivatives of `sigma` and `noise_level`, which start like `sqrt(t)`, are infinite at t = 0.

    Args:
        beta_min: rate at t = 0, positive.
        beta_max: rate at t = 1, at least `beta_min` (equal: a constant rate).

    Raises:
        ValueError: if a rate is not a positive finite scalar, or `beta_max < beta_min`.

    Source: Song et al. 2021, appendix C.

    Example:
        >>> import smoothjax as sj
        >>> process = sj.VariancePreserving()
        >>> float((process.alpha(0.3) ** 2 + process.sigma(0.3) ** 2).round(5))
        1.0
        >>> float(process.noise_level(1.0).round(0))
        152.0
    """

    beta_min: float | Float[Array, ""]
    beta_max: float | Float[Array, ""]

    max_time: ClassVar[float] = 1.0
    _domain: ClassVar[tuple[float, float]] = (0.0, LARGEST)

    @checks_kinds
    def __init__(
        self, beta_min: Real[ArrayLike, ""] = 0.1, beta_max: Real[ArrayLike, ""] = 20.0
    ) -> None:
        self.beta_min = positive_parameter(beta_min, "beta_min")
        self.beta_max = positive_parameter(beta_max, "beta_max")
        require_larger(self.beta_max, self.beta_min, "beta", strict=False)

    @classmethod
    @checks_kinds
    def from_drift_rate(
        cls, beta_min: Real[ArrayLike, ""] = 0.1, beta_max: Real[ArrayLike, ""] = 20.0
    ) -> "VariancePreserving":
        """The process `dx = -b(t) x dt + sqrt(2 b(t)) dB`: Vastola's convention.

        `b(t) = beta_min + t (beta_max - beta_min)` is the drift rate itself: the result has *twice*
        these numbers as its `beta_min` and `beta_max`. The defaults are Vastola's `0.1 + 19.9 t`,
        given here by the values at both ends, 0.1 and 20 (19.9 is the slope); they end at
        `alpha_1 = exp(-10.05)`, where Song et al.'s end at `exp(-5.025)`.

        Args:
            beta_min: drift rate at t = 0, positive.
            beta_max: drift rate at t = 1, at least `beta_min`.

        Raises:
            ValueError: as the constructor.

        Source: Vastola, ICLR 2025 (the convention).

        Example:
            >>> import smoothjax as sj
            >>> process = sj.VariancePreserving.from_drift_rate(0.1, 20.0)
            >>> float(process.beta_max), round(float(process.drift(1.0, 0.0)), 5)  # -b(0) x
            (40.0, -0.1)
        """
        # Checked before doubling, so that an error quotes the number the user wrote.
        low, high = (
            positive_parameter(beta_min, "beta_min"),
            positive_parameter(beta_max, "beta_max"),
        )
        require_larger(high, low, "beta", strict=False)
        return cls(2 * low, 2 * high)

    def _rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def _integrated_rate(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        t = self._checked(t)
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def alpha(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return jnp.exp(-0.5 * self._integrated_rate(t))

    def sigma(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return jnp.sqrt(-jnp.expm1(-self._integrated_rate(t)))

    def noise_level(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        # sqrt(expm1(B)) would overflow at half of the exponents that are representable.
        integral = self._integrated_rate(t)
        return jnp.exp(0.5 * integral) * jnp.sqrt(-jnp.expm1(-integral))

    def time(self, noise_level: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        level = argument(noise_level, "noise_level")
        # B = log(1 + level^2), without forming level^2 where it could overflow.
        is_large = level > 1
        small, large = jnp.where(is_large, 1.0, level), jnp.where(is_large, level, 1.0)
        integral = jnp.where(
            is_large, 2 * jnp.log(large) + jnp.log1p((1 / large) ** 2), jnp.log1p(small**2)
        )
        # The root of slope/2 t^2 + beta_min t = B, in the form that neither cancels nor divides by
        # the slope, which is zero for a constant rate.
        slope = self.beta_max - self.beta_min
        root = 2 * integral / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * integral))
        return jnp.where(jnp.isinf(integral), integral, root)

    def drift(self, x: Float[ArrayLike, "..."], t: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
        return -0.5 * self._rate(self._checked(t)) * as_float_array(x, "x")

    def diffusion(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return jnp.sqrt(self._rate(self._checked(t)))

    def _alpha_at_level(self, noise_level: Float[Array, "*t"]) -> Float[Array, "*t"]:
        return 1 / jnp.hypot(1.0, noise_level)
