"""A mechanism whose strength depends on the noise level."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import RealScalar
from ..denoisers import AbstractDenoiser, Denoiser, mean_and_variance


class InterpolatedStrength(AbstractDenoiser):
    """A mechanism whose strength is interpolated between noise levels, and constant beyond them.

    Interpolated in the logarithm of the noise level, by cubics with a continuous derivative that rise and fall where the
    given values do (Fritsch and Carlson 1980; their derivatives at inner levels by Butland's harmonic mean, at the first and
    the last one zero): a strength never passes those of its neighbours, and the flow has no bend for a solver to look for.

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

    def strength_at(self, sigma: RealScalar) -> Float[Array, ""]:
        """The strength at a noise level."""
        place = monotone(jnp.log(sigma), self.log_levels, self.places)
        return jnp.exp(place) if self.is_logarithmic else place

    def member(self, sigma: RealScalar) -> Denoiser:
        """The denoiser of the strength at a noise level."""
        return self.make(self.strength_at(sigma))

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        return self.member(sigma)(u, sigma)

    def mean_and_variance(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        u, sigma = self._point(u, sigma)
        return mean_and_variance(self.member(sigma), u, sigma)


def monotone(x: Array, nodes: Float[Array, " k"], values: Float[Array, " k"]) -> Array:
    """The cubic interpolant of `values` at increasing `nodes` that is monotone where they are; constant beyond the nodes."""
    if len(nodes) == 1:
        return values[0]
    step = jnp.diff(nodes)
    slope = jnp.diff(values) / step
    before, after = slope[:-1], slope[1:]
    # Butland's mean of the slopes on both sides, with Fritsch's weights of the steps; zero at extrema.
    first, second = 2 * step[1:] + step[:-1], step[1:] + 2 * step[:-1]
    same = before * after > 0
    divided = first / jnp.where(same, before, 1) + second / jnp.where(same, after, 1)
    inner = jnp.where(same, (first + second) / jnp.where(same, divided, 1), 0)
    derivative = jnp.concatenate([jnp.zeros_like(slope[:1]), inner, jnp.zeros_like(slope[:1])])
    i = jnp.clip(jnp.searchsorted(nodes, x, side="right") - 1, 0, len(nodes) - 2)
    width = step[i]
    t = jnp.clip((x - nodes[i]) / width, 0, 1)
    rise = t * t * (3 - 2 * t)
    return (
        values[i] * (1 - rise)
        + values[i + 1] * rise
        + width * t * (1 - t) * (derivative[i] * (1 - t) - derivative[i + 1] * t)
    )
