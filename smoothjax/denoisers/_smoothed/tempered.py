"""The denoiser of a training set whose posterior weights are softened."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._calls import Denoiser
from ..._checks import RealScalar, require_positive_scalar
from ..._kinds import checks_kinds
from .._base import AbstractDenoiser, in_dtype_of, mean_and_variance
from .source import as_denoiser, dim_of


class TemperedDenoiser(AbstractDenoiser):
    r"""The base denoiser at another temperature: `D(u, sigma sqrt(temperature))`.

    For a training set, posterior weights `exp(-|u - y_k|^2 / 2 T sigma^2)`. The score is T times that of the higher
    noise level.
    A constant temperature only relabels time: the flow from `r` to `s` is the base's from `r sqrt(T)` to `s sqrt(T)`,
    and memorises as exactly.

    Args:
        source: training points, shape (n, d), or any denoiser.
        temperature: positive; above one smooths.
        dim: dimension of a bare callable.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.TemperedDenoiser(jnp.array([[-1.0], [1.0]]), 2.0)(jnp.array([1.0]), 1.0).round(4))  # tanh(1 / 2)
        [0.4621]
    """

    base: Denoiser
    temperature: Float[Array, ""]
    _dim: int = eqx.field(static=True)

    @checks_kinds
    def __init__(self, source: Any, temperature: RealScalar, *, dim: int | None = None):
        self.base = as_denoiser(source)
        self.temperature = in_dtype_of(
            self.base, require_positive_scalar(temperature, "temperature")
        )
        self._dim = dim_of(self.base, dim)

    @property
    def dim(self) -> int:
        return self._dim

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        return self.base(u, sigma * jnp.sqrt(self.temperature).astype(u.dtype))

    def mean_and_variance(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        u, sigma = self._point(u, sigma)
        temperature = self.temperature.astype(u.dtype)
        mean, variance = mean_and_variance(self.base, u, sigma * jnp.sqrt(temperature))
        return mean, variance / temperature
