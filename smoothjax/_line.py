"""Points on a line: the gaps between them, the flow through plateaus and ramps, and the law of the points plus noise."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from ._checks import as_float_array, checked, is_concrete, require_finite


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


def require_invertible(gaps: Gaps, start: Any, end: Any) -> Any:
    """`end`, if the flow from `start` to it is one to one."""
    inner = slice(1, gaps.points.shape[0])
    closed = jnp.any(gaps.kappas[inner] * end >= gaps.half_widths[inner])
    upward = "going up to `sigma_to`, every kappa * sigma_to must lie below its half gap"
    return checked(end, closed & (end > start), upward)


@eqx.filter_jit
def transport(gaps: Gaps, u: Array, start: Any, end: Any) -> Array:
    """The flow, elementwise, for checked arguments."""
    point, side, distance, gap = gaps.place(u)
    inside = distance > gaps.plateau(gap, start)  # of the gap, not of a plateau
    ramp = gaps.ramp(gap, start)
    # From the plateau's edge, which moves to the plateau's edge.
    on_ramp = ramp.kappa * end + (distance - ramp.kappa * start) * ramp.slope(start, end)
    return point + side * jnp.where(inside, on_ramp, distance * (end / start))


def apart(points: Array, x: Array) -> Array:
    """`x - y` for every point y, along a last axis."""
    return x[..., None] - lax.broadcast_to_rank(points, jnp.ndim(x) + 1)


def mixture_log_density(points: Array, sigma: Array, x: Array) -> Array:
    logits = -0.5 * (apart(points, x) / sigma) ** 2
    constant = math.log(points.shape[0]) + 0.5 * math.log(2 * math.pi)
    return logsumexp(logits, axis=-1) - constant - jnp.log(sigma)
