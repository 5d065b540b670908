"""The process whose states lie on straight lines from data to noise."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from .._checks import as_float_array, require_positive
from ._abstract import AbstractProcess, argument


class FlowMatching(AbstractProcess):
    """Linear interpolation `x_t = (1 - t) x_0 + t z` on t in [0, 1], data at 0 and noise at 1.

    (Some papers run time the other way: theirs is `1 - t`.) As an SDE it is
    `dx = -x / (1 - t) dt + sqrt(2 t / (1 - t)) dB`.

    At t = 1 nothing of the data is left: `noise_level(1)` is infinite, `time(inf)` is 1, and
    `drift` and `diffusion` are singular and raise (inside jit as well). A time next to 1 cannot
    hold a large noise level, because `1 - t` is a difference of rounded numbers:
    `noise_level(time(s))` has a relative error of about `1 + s` rounding units (5e-6 at s = 80 in
    float32). Where that matters keep the noise level itself.

    Source: Lipman et al. 2023; Liu et al. 2023.

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
        level = argument(noise_level, "noise_level")
        is_large = level > 1
        small, large = jnp.where(is_large, 1.0, level), jnp.where(is_large, level, 1.0)
        return jnp.where(is_large, 1 / (1 + 1 / large), small / (1 + small))

    def drift(self, x: Float[ArrayLike, "..."], t: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
        return -as_float_array(x, "x") / require_positive(self.alpha(t), "1 - t")

    def diffusion(self, t: Real[ArrayLike, "*t"]) -> Float[Array, "*t"]:
        return jnp.sqrt(2 * self.sigma(t) / require_positive(self.alpha(t), "1 - t"))

    def _alpha_at_level(self, noise_level: Float[Array, "*t"]) -> Float[Array, "*t"]:
        return 1 / (1 + noise_level)
