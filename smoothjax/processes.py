"""Forward processes `x_t = alpha_t x_0 + sigma_t z`.

Dividing by `alpha_t` turns every process into `u = x_t / alpha_t = x_0 + noise_level z`, with
`noise_level = sigma_t / alpha_t`. Denoisers and flows work in `(u, noise_level)` only; a process
translates between its own time `t` and these coordinates.

| process              | drift          | diffusion           | alpha_t   | noise level       |
|----------------------|----------------|---------------------|-----------|-------------------|
| `VariancePreserving` | -beta(t) x / 2 | sqrt(beta(t))       | e^{-B/2}  | sqrt(e^B - 1)     |
| `VarianceExploding`  | 0              | sigma_t sqrt(2 R)   | 1         | sigma_min e^{R t} |
| `EDM`                | 0              | sqrt(2 t)           | 1         | t                 |
| `Brownian`           | 0              | 1                   | 1         | sqrt(t)           |
| `FlowMatching`       | -x / (1 - t)   | sqrt(2 t / (1 - t)) | 1 - t     | t / (1 - t)       |

with `B(t) = int_0^t beta` and `R = log(sigma_max / sigma_min)`. Small `t` is data, large `t` noise.

Methods take a scalar `t` (or an array, elementwise) and return the dtype of their argument.
Concrete arguments outside the domain raise `ValueError`; traced ones are not checked, so that the
methods cost nothing extra in a compiled loop.
"""

import abc
import math
import sys
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from ._checks import (
    as_float_array,
    is_concrete,
    positive_parameter,
    require_larger,
    require_positive,
)
from ._jax.precision import common_dtype
from ._kinds import checks_kinds

_LARGEST = sys.float_info.max


def _argument(
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
            interval = f"[{lower:g}, {'inf)' if upper == _LARGEST else f'{upper:g}]'}"
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
        level = _argument(noise_level, "noise_level", upper=_LARGEST)
        return self._alpha_at_level(level) * as_float_array(u, "u"), self.time(noise_level)

    def _checked(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return _argument(t, "t", *self._domain)


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

    Reference:
        Song et al., Score-based generative modeling through stochastic differential equations,
        ICLR 2021, Appendix C.

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
    _domain: ClassVar[tuple[float, float]] = (0.0, _LARGEST)

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

        Reference:
            Vastola, Generalization through variance: how noise shapes inductive biases in diffusion
            models, ICLR 2025.

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
        level = _argument(noise_level, "noise_level")
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

    Reference:
        Song et al., Score-based generative modeling through stochastic differential equations,
        ICLR 2021, Appendix C.

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
        level = _argument(noise_level, "noise_level")
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

    Reference:
        Karras et al., Elucidating the design space of diffusion-based generative models,
        NeurIPS 2022.

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
        return _argument(noise_level, "noise_level")

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
        return _argument(noise_level, "noise_level") ** 2

    def diffusion(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return jnp.ones_like(self._checked(t))


class FlowMatching(AbstractProcess):
    """Linear interpolation `x_t = (1 - t) x_0 + t z` on t in [0, 1], data at 0 and noise at 1.

    (Some papers run time the other way: theirs is `1 - t`.) As an SDE it is
    `dx = -x / (1 - t) dt + sqrt(2 t / (1 - t)) dB`.

    At t = 1 nothing of the data is left: `noise_level(1)` is infinite, `time(inf)` is 1, and
    `drift` and `diffusion` are singular and raise (inside jit as well). A time next to 1 cannot
    hold a large noise level, because `1 - t` is a difference of rounded numbers:
    `noise_level(time(s))` has a relative error of about `1 + s` rounding units (5e-6 at s = 80 in
    float32). Where that matters keep the noise level itself.

    Reference:
        Lipman et al., Flow matching for generative modeling, ICLR 2023; Liu et al., Flow straight
        and fast: learning to generate and transfer data with rectified flow, ICLR 2023.

    Example:
        >>> import smoothjax as sj
        >>> float(sj.FlowMatching().noise_level(0.5)), float(sj.FlowMatching().time(1.0))  # t / (1 - t)
        (1.0, 0.5)
    """

    max_time: ClassVar[float] = 1.0
    _domain: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def alpha(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return 1 - self._checked(t)

    def sigma(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return self._checked(t)

    def noise_level(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return self.sigma(t) / self.alpha(t)

    def time(self, noise_level: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        level = _argument(noise_level, "noise_level")
        is_large = level > 1
        small, large = jnp.where(is_large, 1.0, level), jnp.where(is_large, level, 1.0)
        return jnp.where(is_large, 1 / (1 + 1 / large), small / (1 + small))

    def drift(self, x: Float[ArrayLike, "..."], t: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
        return -as_float_array(x, "x") / require_positive(self.alpha(t), "1 - t")

    def diffusion(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return jnp.sqrt(2 * self.sigma(t) / require_positive(self.alpha(t), "1 - t"))

    def _alpha_at_level(self, noise_level: Float[Array, "*t"]) -> Float[Array, "*t"]:
        return 1 / (1 + noise_level)
