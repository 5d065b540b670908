"""The units in which a comparison computes: the data's mean and spread, wherever they lie and however large they are."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ._checks import RealScalar
from .denoisers import AbstractDenoiser, Denoiser, mean_and_variance


def spread_of(points: Float[Array, "n d"]) -> float:
    """Root mean square of the data's standard deviations, computed in float64: the noise levels' unit."""
    values = np.asarray(points, np.float64)
    return float(np.sqrt(np.mean(np.var(values, axis=0))))


class Units(eqx.Module):
    """Coordinates `v = (u - mean) / scale` about the data's mean, of about its spread.

    The flow of a denoiser is the same in any such coordinates; its start, which knows no mean, and the solver's absolute
    tolerance are not. The scale is a power of two: dividing by it rounds nothing.

    Attributes:
        mean: shape (d,), data units.
        scale: data units.
    """

    mean: Float[Array, " d"]
    scale: Float[Array, ""]

    @classmethod
    def of(cls, points: Float[Array, "n d"]) -> "Units":
        """Those of a training set of at least two different points."""
        values = np.asarray(points, np.float64)
        scale = 2.0 ** round(math.log2(spread_of(points)))
        return cls(
            jnp.asarray(np.mean(values, axis=0), points.dtype), jnp.asarray(scale, points.dtype)
        )

    def into(self, points: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Points in these coordinates."""
        return (points - lax.broadcast_to_rank(self.mean, points.ndim)) / self.scale

    def back(self, points: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Points in the data's coordinates."""
        return lax.broadcast_to_rank(self.mean, points.ndim) + self.scale * points

    def denoiser(self, denoiser: Denoiser) -> Denoiser:
        """A denoiser of the data as one of points in these coordinates."""
        return _InUnits(denoiser, self)


class _InUnits(AbstractDenoiser):
    inner: Denoiser
    units: Units

    @property
    def dim(self) -> int:
        return self.units.mean.shape[0]

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        return self.units.into(self.inner(*self._outside(u, sigma)))

    def mean_and_variance(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        u, sigma = self._point(u, sigma)
        mean, variance = mean_and_variance(self.inner, *self._outside(u, sigma))
        return self.units.into(mean), variance / self.units.scale / self.units.scale

    def _outside(self, u: Array, sigma: Array) -> tuple[Array, Array]:
        return self.units.back(u), self.units.scale.astype(u.dtype) * sigma
