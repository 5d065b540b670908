"""The law of points on a line plus noise: the exact marginal of a diffusion process in one dimension."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float

from .._checks import RealScalar, as_float_array
from .._kinds import checks_kinds
from .._levels import as_level
from .._line import apart, as_gaps
from .._numerics import bisect


def mixture_cdf(points: Array, sigma: Array, x: Array) -> Array:
    return jnp.mean(ndtr(apart(points, x) / sigma), axis=-1)


def mixture_quantile(points: Array, sigma: Array, q: Array) -> Array:
    """Inverse of `mixture_cdf` for `points` in ascending order."""
    # Below the median by the distribution function, above by its complement: each is precise where it is small.
    lower = q <= 0.5
    tail = jnp.where(lower, q, 1 - q)
    sign = jnp.where(lower, 1, -1)

    def above(x):  # whether the quantile lies above x
        mass = jnp.mean(ndtr(sign[..., None] * apart(points, x) / sigma), axis=-1)
        return jnp.where(lower, mass < tail, mass > tail)

    # Between the quantiles of the outermost components.
    shift = sigma * ndtri(q)
    return bisect(above, points[0] + shift, points[-1] + shift)


def _beyond(points: Array, sigma: Array, x: Array, k: Array) -> Array:
    """`P(x) - k / n`, precise where it is tiny.

    What of the points from k on lies left of x, less what of the first k does not.
    """
    z = apart(points, x) / sigma
    index = jnp.arange(points.shape[0], dtype=k.dtype)
    first = lax.broadcast_to_rank(index, z.ndim) < k[..., None]
    return jnp.mean(jnp.where(first, -ndtr(-z), ndtr(z)), axis=-1)


@checks_kinds
def quantile_flow(
    points: Float[Array, " n"],
    u: Float[Array, "*shape"],
    sigma_from: RealScalar,
    sigma_to: RealScalar,
) -> Float[Array, "*shape"]:
    """Where the exact probability flow of points on a line takes `u`: `P_s^{-1}(P_r(u))`, P the distribution functions.

    In one dimension trajectories cannot cross, so that the flow is the monotone map between its marginals. At
    `sigma_to = 0` it ends on the points, whose basins are separated by the k/n quantiles at `sigma_from`.

    Args:
        points: distinct training points, shape (n,), in any order.
        u: states at `sigma_from`, any shape.
        sigma_from, sigma_to: noise levels; the second may be 0.

    Raises:
        ValueError: for points or noise levels out of range.

    **Accuracy**: masses are measured from the nearest k/n, so that the voids between points, where P hardly changes, do not
    lose their side. There the map still stretches rounding errors of u by `p_r(u) / p_s(phi)`.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.smoothing.quantile_flow(jnp.array([-1.0, 1.0]), jnp.array([-3.0, 0.1]), 5.0, 0.0))
        [-1.  1.]
    """
    points = as_gaps(points, 0.0).points
    u = as_float_array(u, "u")
    start = as_level(sigma_from, "sigma_from", u.dtype)
    end = as_level(sigma_to, "sigma_to", u.dtype, or_zero=True)
    return _quantile_flow(points, u, jnp.asarray(start), jnp.asarray(end))


@jax.jit
def _quantile_flow(points: Array, u: Array, start: Array, end: Array) -> Array:
    n = points.shape[0]
    k = jnp.searchsorted(points, u)
    beyond = _beyond(points, start, u, k)
    # At zero noise the point whose cell of mass 1/n holds it.
    cell = k.astype(beyond.dtype) + jnp.where(
        beyond > 0, jnp.floor(n * beyond), -jnp.ceil(-n * beyond)
    )
    point = points[jnp.clip(cell, 0, n - 1).astype(int)]
    level = jnp.where(end > 0, end, start)
    # Between what the outermost components would do.
    low, high = (
        points[0] + level * (u - points[-1]) / start,
        points[-1] + level * (u - points[0]) / start,
    )
    moved = bisect(lambda z: _beyond(points, level, z, k) < beyond, low, high)
    return jnp.where(end > 0, moved, point)
