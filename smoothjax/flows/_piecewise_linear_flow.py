"""The flow of the piecewise-linear denoiser, in closed form."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import RealScalar, as_float_array, checked, require_finite
from .._levels import as_level
from ..denoisers._smoothed.piecewise_linear import Gaps, as_gaps


def piecewise_linear_flow(
    points: Float[Array, " n"],
    kappa: RealScalar | Float[Array, " gaps"],
    u: Float[Array, "*shape"],
    sigma_from: RealScalar,
    sigma_to: RealScalar,
) -> Float[Array, "*shape"]:
    r"""Where the probability flow of `PiecewiseLinearDenoiser(points, kappa)` takes `u`, in closed form.

    Every trajectory is a straight line in the noise level: with `s = sigma_to`, `r = sigma_from`, a point of a plateau
    moves to `y_k + (u - y_k) s / r`, a point of gap k with middle `m_k` to `m_k + (u - m_k) (h_k - kappa_k s) / (h_k -
    kappa_k r)`. Upwards it is the inverse; at `s = 0` it is the denoiser.

    Args:
        points, kappa: as for `PiecewiseLinearDenoiser`.
        u: states at `sigma_from`, any shape; elementwise.
        sigma_from: positive.
        sigma_to: not negative. Above `sigma_from`, every `kappa_k sigma_to` must lie below the half gap `h_k`: there the
            flow squeezes the gap's interior into its middle, and has no inverse.

    Raises:
        ValueError: as `PiecewiseLinearDenoiser`, and for noise levels out of these ranges.

    Source: Chen, ICLR 2026, section 4 (two points, uniform spacing); the general case by the same substitution.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.piecewise_linear_flow(jnp.array([-1.0, 1.0]), 0.5, jnp.array([0.25, 1.5]), 1.0, 0.0))
        [0.5 1. ]
    """
    gaps = as_gaps(points, kappa)
    u = as_float_array(u, "u")
    require_finite(u, "u")
    start = as_level(sigma_from, "sigma_from", u.dtype)
    end = as_level(sigma_to, "sigma_to", u.dtype, or_zero=True)
    return transport(gaps, u, start, require_invertible(gaps, start, end))


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
