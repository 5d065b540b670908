"""The Gaussian smoothing of points on a line, by quadrature."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._checks import (
    RealScalar,
    require_positive_scalar,
)
from ..._kinds import checks_kinds
from ..._line import as_gaps
from .._base import (
    AbstractDenoiser,
    level_for_slopes,
)
from .._compiled import one_program

WEIGHTS_AT_ONCE = 2**22


class GaussianSmoothedLineDenoiser(AbstractDenoiser):
    r"""The exact denoiser of points on a line, averaged over all Gaussian perturbations: `E D(u + s e, sigma)`, no draws.

    By Gauss-Legendre quadrature on panels graded towards the middles of the gaps; by Gauss-Hermite quadrature where D is
    smooth on the scale of the perturbation. Error in float64, measured over perturbations and unequal gaps: below 1e-12 of
    the data's range at noise levels down to 1e-4 of it, 1e-10 down to 1e-6; and a rounding of `u / s` for very small s.

    Args:
        points: distinct training points, shape (n,) or (n, 1). A call costs O(n^2): for thousands, take
            `GaussianSmoothedDenoiser`.
        smoothing: standard deviation s of the perturbation, in data units.

    Source: Scarvelis, Borde and Solomon 2023 (sigma-CFDM), with infinitely many draws; for two points at small noise,
    `erf(u / (s sqrt(2)))`.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianSmoothedLineDenoiser(jnp.array([-1.0, 1.0]), 0.5)
        >>> print(D(jnp.array([0.5]), 1e-3).round(3))  # erf(1 / sqrt(2))
        [0.683]
    """

    points: Float[Array, " n"]
    smoothing: Float[Array, ""]

    @checks_kinds
    def __init__(self, points: Any, smoothing: RealScalar):
        self.points = as_gaps(points, 0.0).points
        smoothing = require_positive_scalar(smoothing, "smoothing")
        self.smoothing = smoothing.astype(self.points.dtype)

    @property
    def dim(self) -> int:
        return 1

    @one_program
    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        points = self.points.astype(u.dtype)
        smoothing = self.smoothing.astype(u.dtype)
        half = 0.5 * jnp.diff(points)
        if half.shape[0] == 0:
            return jnp.broadcast_to(points, u.shape)
        nodes, weights = (jnp.asarray(x, u.dtype) for x in np.polynomial.hermite_e.hermegauss(60))
        # Averaged from a training point on: weights that sum to one to rounding would move data far from the origin.
        origin = points[points.shape[0] // 2]
        reach = 2 * jnp.max(jnp.abs(u)) + 16 * smoothing
        level = level_for_slopes(points[-1] - points[0], reach + jnp.max(jnp.abs(points)), sigma)
        values = _mean_on_line(points, u + smoothing * nodes, level) - origin
        by_hermite = origin + (weights @ values / math.sqrt(2 * math.pi))[None]
        # Where no perturbation that matters reaches the points there is no bend, and no panels are needed.
        first, last = points[0] - 9 * smoothing, points[-1] + 9 * smoothing
        is_beyond = (u < first) | (u > last)
        u = jnp.clip(u, first, last)

        # The poles of D lie about pi `bend` above and below the middles of the gaps. Panels end where they are nearest, and
        # nodes crowd there: in the inner half of a gap at its middle, as narrowly as D bends; in the outer quarters, and
        # beyond the ends, at the middle of the next gap, as narrowly as that is wide.
        # Which panels they are does not change the integral: no derivatives of theirs.
        middle, noise = 0.5 * (points[1:] + points[:-1]), jax.lax.stop_gradient(sigma)
        bend = 0.5 * noise**2 / half
        # At small noise the crowd reaches over many powers of ten: two panels share them.
        between = jnp.minimum(jnp.sqrt(bend * jnp.minimum(half, smoothing)), 0.25 * half)
        offsets = jnp.stack([-half, -0.5 * half, -between, 0 * half, between, 0.5 * half], axis=1)
        edges = jnp.append((middle[:, None] + offsets).ravel(), points[-1])
        centre = _of_panels(middle, middle)
        scale = _of_panels(half, bend)
        breaks = jnp.array([-8.0, -4.0, 0.0, 4.0, 8.0], u.dtype)  # of the perturbation
        ends = u + smoothing * breaks
        ends = jnp.sort(jnp.concatenate([jnp.clip(edges, ends[0], ends[-1]), ends]))
        panel = jnp.searchsorted(edges, 0.5 * (ends[1:] + ends[:-1]))
        centre, scale = centre[panel], scale[panel]
        low, high = (jnp.arcsinh((z - centre) / scale) for z in (ends[:-1], ends[1:]))
        nodes, weights = (jnp.asarray(x, u.dtype) for x in np.polynomial.legendre.leggauss(32))
        v = (0.5 * (high + low))[None] + (0.5 * (high - low))[None] * nodes[:, None]
        z = centre[None] + scale[None] * jnp.sinh(v)
        measure = (0.5 * (high - low))[None] * weights[:, None] * scale[None] * jnp.cosh(v)
        measure *= jnp.exp(-0.5 * ((z - u[None]) / smoothing) ** 2)
        total = jnp.sum(measure)
        resolved = total > 0  # else the perturbation is below a rounding of u
        values = _mean_on_line(points, z, level) - origin
        by_panels = (origin + jnp.sum(measure * values) / jnp.where(resolved, total, 1))[None]
        is_smooth = smoothing < 0.25 * jnp.min(bend)
        return jnp.where(is_smooth | is_beyond | ~resolved, by_hermite, by_panels)


def _mean_on_line(points: Array, z: Array, sigma: Array) -> Array:
    """Posterior mean of sorted points on a line at the numbers `z`, from differences to the nearest point."""

    def at(z: Array) -> Array:
        nearest = points[jnp.searchsorted(0.5 * (points[1:] + points[:-1]), z)]
        difference = points - nearest
        logits = (z - 0.5 * (points + nearest)) * difference / sigma / sigma
        return nearest + jnp.sum(jax.nn.softmax(logits) * difference)

    # Many points have many panels: some megabytes of weights at a time.
    batch_size = max(1, WEIGHTS_AT_ONCE // points.shape[0])
    if z.size <= batch_size:
        return jax.vmap(at)(z.ravel()).reshape(z.shape)
    return jax.lax.map(at, z.ravel(), batch_size=batch_size).reshape(z.shape)


def _of_panels(outer: Array, inner: Array) -> Array:
    """What panels take from gaps: the inner half from its own, the outer quarters and the ends from the next."""
    left, right = jnp.append(outer[:1], outer[:-1]), jnp.append(outer[1:], outer[-1:])
    inside = jnp.stack([left, *4 * [inner], right], axis=1).ravel()
    return jnp.concatenate([outer[:1], inside, outer[-1:]])
