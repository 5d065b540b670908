"""A mechanism whose strength depends on the noise level."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...denoisers import AbstractDenoiser, Denoiser


class InterpolatedStrength(AbstractDenoiser):
    """A mechanism whose strength is interpolated between noise levels, and constant beyond them.

    Attributes:
        make: `value -> denoiser`.
        log_levels: of the noise levels, increasing, shape (k,).
        places: the strength at them, shape (k,), or its logarithm.
        is_logarithmic: which of the two.
    """

    make: Callable[[Any], Denoiser]
    log_levels: Float[Array, " k"]
    places: Float[Array, " k"]
    is_logarithmic: bool = eqx.field(static=True)
    _dim: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self._dim

    def __call__(self, u: Float[Array, " d"], sigma: Any) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        place = jnp.interp(jnp.log(sigma), self.log_levels, self.places)
        return self.make(jnp.exp(place) if self.is_logarithmic else place)(u, sigma)
