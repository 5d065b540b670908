"""How wide what is generated lies along a line of data, and normal to it, as the noise level falls."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import RealScalar, as_float_array, checked, require_finite
from .._kinds import checks_kinds
from .._levels import as_level
from .._line import as_gaps
from ._law import PiecewiseLinearLaw


class LineSpread(NamedTuple):
    """Spread at every noise level, in squared data units.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> found = sj.smoothing.line_spread(jnp.array([-1.0, 1.0]), 0.5, 0.5, jnp.array([0.5, 0.0]))
        >>> print(found.normal)  # the squared noise level
        [0.25 0.  ]
    """

    tangent: Float[Array, " levels"]
    """Mean squared distance along the line to the nearest training point. (The variance along the line does not vanish: it
    tends to that of the data.)"""
    normal: Float[Array, " levels"]
    """Variance in every single direction normal to the line."""


@checks_kinds
def line_spread(
    points: Float[Array, " n"],
    kappa: RealScalar | Float[Array, " gaps"] | None,
    sigma_from: RealScalar,
    levels: Float[Array, " levels"],
) -> LineSpread:
    """Tangent and normal spread of points on a line in R^d that start exact at `sigma_from`, as they flow to each of
    `levels`.

    Normal to the line every denoiser of `LineDenoiser` projects, so that the variance is the squared noise level. Along
    it, the exact score collapses the states on the training points at the same rate; the piecewise-linear score leaves a
    spread.

    Args:
        points: coordinates along the line, shape (n,).
        kappa: as for `PiecewiseLinearDenoiser`; None for the exact score.
        sigma_from: noise level of the start.
        levels: noise levels not above `sigma_from`; zero is allowed. Shape (levels,).

    Raises:
        ValueError: for points, strengths or levels out of range.

    Source: Chen, ICLR 2026, section 5.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> exact = sj.smoothing.line_spread(jnp.array([-1.0, 1.0]), None, 0.5, jnp.array([0.0]))
        >>> smooth = sj.smoothing.line_spread(jnp.array([-1.0, 1.0]), 0.5, 0.5, jnp.array([0.0]))
        >>> float(exact.tangent[0]), bool(smooth.tangent[0] > 0)  # the exact score ends on the points
        (0.0, True)
    """
    gaps = as_gaps(points, 0.0 if kappa is None else kappa)
    dtype = gaps.points.dtype
    start = as_level(sigma_from, "sigma_from", dtype)
    levels = as_float_array(levels, "levels").astype(dtype)
    if levels.ndim != 1:
        raise ValueError(f"`levels` must have shape (levels,); got {levels.shape}.")
    require_finite(levels, "levels")
    outside = jnp.any((levels < 0) | (levels > start))
    levels = checked(levels, outside, "`levels` must lie between 0 and `sigma_from`")

    def exact(level: Array) -> Array:
        # The exact flow carries the exact law of one level to that of another.
        positive = jnp.where(level > 0, level, start)
        law = PiecewiseLinearLaw(gaps.points, 0.0, positive, positive)
        return jnp.where(level == 0, 0, law.mean_square_distance())

    def smoothed(level: Array) -> Array:
        return PiecewiseLinearLaw(
            gaps.points, gaps.kappas[1:-1], start, level
        ).mean_square_distance()

    return LineSpread(jax.lax.map(exact if kappa is None else smoothed, levels), levels**2)
