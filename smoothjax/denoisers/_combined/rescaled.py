"""A denoiser of data in other units."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._calls import Denoiser
from ..._checks import RealScalar, as_float_array, require_finite, require_positive
from ..._kinds import checks_kinds
from .._base import AbstractDenoiser


class RescaledDenoiser(AbstractDenoiser):
    """The denoiser of `centre + scale x` for data x that another denoiser is for.

    `D(u, sigma) = centre + scale D_x((u - centre) / scale, sigma / scale)`: exact for exact ones.

    Args:
        denoiser: of x.
        centre: shape (d,), in units of u.
        scale: positive, units of u a unit of x.

    Raises:
        ValueError: for a centre that is no finite vector, or a scale that is not positive.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> standard = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
        >>> D = sj.RescaledDenoiser(standard, jnp.array([3.0]), 2.0)  # of N(3, 4)
        >>> print(D(jnp.array([7.0]), 2.0).round(5))  # halfway to the mean
        [5.]
    """

    denoiser: Denoiser
    centre: Float[Array, " d"]
    scale: Float[Array, ""]

    @checks_kinds
    def __init__(self, denoiser: Denoiser, centre: Any, scale: RealScalar):
        self.centre = as_float_array(centre, "centre")
        if self.centre.ndim != 1 or self.centre.shape[0] == 0:
            raise ValueError(f"`centre` must have shape (d,); got {self.centre.shape}.")
        require_finite(self.centre, "centre")
        self.denoiser = denoiser
        self.scale = require_positive(scale, "scale").astype(self.centre.dtype)

    @property
    def dim(self) -> int:
        return self.centre.shape[0]

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        inner = self.denoiser((u - self.centre) / self.scale, sigma / self.scale)
        return self.centre + self.scale * jnp.asarray(inner, u.dtype)
