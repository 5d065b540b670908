"""The piecewise-linear smoothing of the exact 1-D score: flat near the training points, straight in between."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._checks import RealScalar, as_float_array, checked, is_concrete, require_finite
from ..._kinds import checks_kinds
from .._base import AbstractDenoiser


class Gaps(eqx.Module):
    """Sorted distinct points on a line, the half widths of the gaps between them, and how wide each gap's plateaus are.

    Gap k lies left of point k: gaps 0 and n are the two infinite ends, and have no interior.
    """

    points: Float[Array, " n"]
    half_widths: Float[Array, " n+1"]
    kappas: Float[Array, " n+1"]

    def plateau(self, gap: Any, sigma: Any) -> Float[Array, "*s"]:
        """Half width of the plateaus in the gaps of these indices (or this slice): `min(kappa sigma, h)`."""
        half, kappa = self.half_widths[gap], self.kappas[gap]
        # Infinity times the noise level would have no slope in it.
        finite = kappa < jnp.inf
        return jnp.where(finite, jnp.minimum(jnp.where(finite, kappa, 0) * sigma, half), half)

    def ramp(self, gap: Any, sigma: Any) -> "Ramp":
        """What lies between these plateaus."""
        half, kappa = self.half_widths[gap], self.kappas[gap]
        is_open = kappa * sigma < half
        return Ramp(is_open, jnp.where(is_open, half, 1), jnp.where(is_open, kappa, 0))

    def place(self, u: Float[Array, "*s"]) -> "Place":
        """Nearest point, and the gap on the side of it where `u` lies."""
        middle = 0.5 * (self.points[:-1] + self.points[1:])
        k = jnp.searchsorted(middle, u)
        difference = u - self.points[k]
        right = difference > 0
        return Place(
            self.points[k], jnp.where(right, 1, -1), jnp.abs(difference), k + jnp.where(right, 1, 0)
        )


class Ramp(NamedTuple):
    """The straight part of gaps. Where plateaus fill a gap there is none, and numbers stand in that divide safely."""

    is_open: Array  # whether there is one
    half: Array  # half width of the gap; 1 where closed
    kappa: Array  # 0 where closed

    def slope(self, start: Any, end: Any) -> Array:
        """Of the flow from noise level `start` to `end`; 1 where closed."""
        return (self.half - self.kappa * end) / (self.half - self.kappa * start)


class Place(NamedTuple):
    """Where numbers lie between sorted points."""

    point: Array  # nearest point
    side: Array  # +1 to the right of it, -1 to the left
    distance: Array  # to it
    gap: Array  # index of the gap on that side


def as_gaps(points: Any, kappa: Any) -> Gaps:
    """Checks points and smoothing strengths. Takes the points in any order; one `kappa`, or one a gap from left to right.

    Raises:
        ValueError: for points that are not finite or distinct or not of shape (n,), (n, 1); `kappa` that is negative,
            NaN, or of another number than one or n - 1.
    """
    points = as_float_array(points, "points")
    if points.ndim == 2 and points.shape[1] == 1:
        points = points[:, 0]
    if points.ndim != 1 or points.shape[0] == 0:
        raise ValueError(
            f"`points` must be numbers on a line, of shape (n,) or (n, 1); got {points.shape}."
        )
    require_finite(points, "points")
    points = jnp.sort(points)
    n = points.shape[0]
    half_widths = 0.5 * jnp.diff(points)
    if is_concrete(points) and np.any(np.diff(np.asarray(points)) == 0):
        twice = np.asarray(points)[1:][np.diff(np.asarray(points)) == 0]
        raise ValueError(
            f"`points` must be distinct, or gaps have no width; {float(twice[0])} occurs twice. "
            "Pass jnp.unique(points)."
        )
    kappa = as_float_array(kappa, "kappa").astype(points.dtype)
    if kappa.shape not in ((), (n - 1,)):
        raise ValueError(
            f"`kappa` must be a scalar or one number a gap, of shape ({n - 1},); got {kappa.shape}."
        )
    message = "`kappa` must not be negative or NaN"
    kappa = checked(kappa, ~(kappa >= 0), message, f"; got {kappa}")
    end = jnp.full(1, jnp.inf, points.dtype)
    inner = jnp.broadcast_to(kappa, (n - 1,))
    return Gaps(
        points,
        jnp.concatenate([end, half_widths, end]),
        # At the ends the plateaus never stop, whatever kappa.
        jnp.concatenate([end, inner, end]),
    )


class PiecewiseLinearDenoiser(AbstractDenoiser):
    r"""Denoiser of the piecewise-linear smoothed score of points on a line.

    `D(u, sigma)` is the nearest training point on plateaus that reach `delta_k = min(kappa_k sigma, h_k)` from the
    points into gap k of half width `h_k`, and linear in between. A *smaller* `kappa` smooths more: `kappa = 0` is `D =
    u` between the outer points, `kappa = inf` the nearest point (the small-noise form of the exact denoiser, no
    smoothing), to which a gap also returns where `kappa_k sigma >= h_k`. With `delta_k` proportional to the noise level
    the flow is straight in it, and `D(u, sigma)` is where it ends: see `piecewise_linear_flow`.

    Args:
        points: training points, shape (n,) or (n, 1), distinct, in any order.
        kappa: smoothing strength, a scalar, or shape (n - 1,) from the leftmost gap to the rightmost.

    Raises:
        ValueError: for points that are not distinct or finite, or a negative or misshapen `kappa`.

    The noise level is the square root of the paper's `t`. **float32**: `D` is right to a rounding of the point; a score,
    `(D - u) / sigma^2`, to that over `sigma^2`: 3e-5 relative at `sigma = 1e-3` for points of size one.

    Source: Chen, "On the interpolation effect of score smoothing", ICLR 2026, sections 3 and 4 (uniform spacing); for
    unequal gaps the same with a plateau a gap.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.PiecewiseLinearDenoiser(jnp.array([-1.0, 1.0]), kappa=0.5)
        >>> print(D(jnp.array([0.25]), 1.0))  # delta = 1/2: 0.25 / (1 - 1/2)
        [0.5]
    """

    gaps: Gaps

    @checks_kinds
    def __init__(self, points: Any, kappa: Any):
        self.gaps = as_gaps(points, kappa)

    @property
    def dim(self) -> int:
        return 1

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        return interpolate(self.gaps, u, sigma)


def interpolate(gaps: Gaps, u: Float[Array, "*s"], sigma: Array) -> Float[Array, "*s"]:
    """The piecewise-linear denoiser, elementwise."""
    point, side, distance, gap = gaps.place(u)
    delta, ramp = gaps.plateau(gap, sigma), gaps.ramp(gap, sigma)
    # What lies beyond the plateau, stretched so that the middle of the gap stays where it is.
    moved = jnp.maximum(distance - delta, 0) * ramp.slope(sigma, 0.0)
    # Two plateaus that meet: their common edge, in the middle, stays by symmetry.
    on_edge = ~ramp.is_open & (distance >= gaps.half_widths[gap])
    return point + side * jnp.where(on_edge, distance, moved)
