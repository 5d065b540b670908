"""The flow of the piecewise-linear denoiser, in closed form."""

from jaxtyping import Array, Float

from .._checks import RealScalar, as_float_array, require_finite
from .._kinds import checks_kinds
from .._levels import as_level
from .._line import as_gaps, require_invertible, transport


@checks_kinds
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
