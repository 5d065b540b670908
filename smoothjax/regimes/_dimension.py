"""The local intrinsic dimension that a denoiser sees, and what it says of memorisation."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._calls import Denoiser
from .._checks import RealScalar
from .._jax.blocks import over_batches
from .._jax.host_errors import raising_host_errors
from .._kinds import checks_kinds
from .._levels import as_level, as_state
from ..denoisers import mean_and_variance, posterior_covariance
from ._collapse import as_rows
from ._curve import as_noise_levels, as_training_set
from ._point_posteriors import PAIRS, DistinctPoints, distinct_points, pairs_of


@checks_kinds
@raising_host_errors
def intrinsic_dimension(
    denoiser: Denoiser, u: Float[Array, " d"], sigma: RealScalar
) -> Float[Array, ""]:
    """Local intrinsic dimension `d + d log p_sigma(u) / d log sigma` at a point, as a denoiser sees it.

    A law of dimension k near u has log density `(k - d) log sigma` plus what does not depend on sigma, so that this is k at
    small noise. With D it is `tr dD/du + |D(u) - u|^2 / sigma^2`: for a training set, how many directions the posterior
    leaves open, plus how far off u lies. It falls to zero at points that a denoiser has memorised; off the data it is
    large, not small.

    The trace is in closed form where a denoiser knows its posterior variance, else by d products (`mean_and_variance`). The
    noise level must lie well above the rounding of u, its size times machine epsilon, which counts over sigma, squared.

    Args:
        denoiser: any callable `(u, sigma) -> (d,)`.
        u: one clean point, shape (d,), in data units. For a batch, `jax.vmap`.
        sigma: noise level, positive.

    Raises:
        ValueError: for a point or level of another shape, or a level that is not positive.

    Source: Kamkari et al. 2024, "A geometric view of data complexity" (FLIPD).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> plane = sj.GaussianDenoiser(jnp.zeros(3), jnp.diag(jnp.array([1.0, 1.0, 0.0])))
        >>> print(sj.regimes.intrinsic_dimension(plane, jnp.zeros(3), 0.01).round(3))
        2.0
    """
    u = as_state(u)
    sigma = jnp.asarray(as_level(sigma, "sigma", u.dtype))
    mean, variance = mean_and_variance(denoiser, u, sigma)
    # One division after the other: the square of a small noise level underflows in float32.
    return variance / sigma / sigma + jnp.sum(((mean - u) / sigma) ** 2)


@checks_kinds
@raising_host_errors
def curvature_spectrum(
    denoiser: Denoiser, u: Float[Array, " d"], sigma: RealScalar
) -> Float[Array, " d"]:
    """Eigenvalues, decreasing, of the symmetric part of `dD/du = 1 + sigma^2 d^2 log p / du^2`: which directions are open.

    For an exact posterior mean they are those of the posterior covariance over `sigma^2`: near 1 along directions in which
    the law extends beyond the noise, 0 along those that are decided, and beyond 1 between two clusters. Their sum is the
    first part of `intrinsic_dimension`. In closed form where a denoiser knows its posterior covariance, else by d products.

    Args, and what is raised: as for `intrinsic_dimension`.

    Source: Stanczuk et al. 2024 and Ventura et al. 2024 (spectra of a diffusion model's Jacobian).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> plane = sj.GaussianDenoiser(jnp.zeros(3), jnp.diag(jnp.array([1.0, 3.0, 0.0])))
        >>> [round(float(x), 3) for x in sj.regimes.curvature_spectrum(plane, jnp.zeros(3), 1.0)[:2]]
        [0.75, 0.5]
    """
    u = as_state(u)
    sigma = jnp.asarray(as_level(sigma, "sigma", u.dtype))
    jacobian = posterior_covariance(denoiser, u, sigma) / sigma / sigma
    return jnp.linalg.eigvalsh((jacobian + jacobian.T) / 2)[::-1]


@checks_kinds
def dimension_of_training_points(
    data: Any, levels: Any, *, rows: Any = None
) -> Float[Array, "k l"]:
    """`intrinsic_dimension` of the exact score of a training set at its own points, at all noise levels at once.

    `sum_j w_j |x - y_j|^2 / sigma^2` with w the posterior weights at x: zero below the spacing of points, where each
    has been memorised. One product a pair of points for all levels.

    Args:
        data: training points, shape (n, d), or a `Dataset`.
        levels: noise levels, shape (l,), positive, in data units.
        rows: which training points, shape (k,); all by default.

    Returns:
        Shape (k, l).

    Raises:
        ValueError: for bad shapes, levels or rows.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> points = jnp.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
        >>> print(sj.regimes.dimension_of_training_points(points, [0.01]).round(3).ravel())
        [0. 0. 0.]
    """
    array = as_training_set(data)[0]
    points = distinct_points(array)
    sigma = as_noise_levels(levels, points.points.dtype)
    own = points.row_of if rows is None else points.row_of[as_rows(rows, len(array))]
    return _dimensions(points, own, sigma / points.unit)


@jax.jit
def _dimensions(points: DistinctPoints, own: Array, levels: Array) -> Array:
    def some(i: Array) -> Array:
        none = jnp.zeros((i.shape[0], points.points.shape[1]), points.points.dtype)
        squares = pairs_of(points.points, own[i], none).squares

        def at(sigma: Array) -> Array:
            ratios = squares / sigma / sigma
            weights = jax.nn.softmax(points.log_weights[None] - 0.5 * ratios, axis=1)
            return jnp.sum(jnp.where(weights > 0, weights * ratios, 0), axis=1)

        return lax.map(at, levels).T

    return over_batches(some, own.shape[0], max(1, PAIRS // points.points.shape[0]))
