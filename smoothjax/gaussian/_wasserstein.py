"""The Wasserstein distance between two Gaussian models."""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._jax.precision import common_dtype
from .._kinds import checks_kinds
from .._numerics import safe_sqrt
from ..denoisers import GaussianDenoiser
from ..measures import frechet_distance


@checks_kinds
def wasserstein_2(first: GaussianDenoiser, second: GaussianDenoiser) -> Float[Array, ""]:
    """Wasserstein-2 distance between the laws of two Gaussian denoisers, in data units.

    The root of `|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1^(1/2) S_2 S_1^(1/2))^(1/2))`, which for covariances that commute is
    `sum_i (sqrt(lambda_1i) - sqrt(lambda_2i))^2`. It is `frechet_distance` between models, not between samples of them, so
    without its bias: of what a sampler generates (`gaussian_sampler_law`) to the data's law, say.

    Exact for any ranks and complements, O(d r^2 + r^3) for bases of r columns together: off both bases the covariances are
    multiples of the identity. No covariance is formed, nor a difference of traces. Gradients through it are not supported.

    Raises:
        ValueError: where the dimensions differ.

    Source: Dowson and Landau 1982.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> from smoothjax import gaussian
        >>> wide = sj.GaussianDenoiser(jnp.zeros(2), jnp.diag(jnp.array([4.0, 1.0])))
        >>> print(gaussian.wasserstein_2(wide, sj.GaussianDenoiser(jnp.zeros(2), jnp.eye(2))).round(5))
        1.0
    """
    if first.dim != second.dim:
        raise ValueError(
            f"The models must have the same dimension; got {first.dim} and {second.dim}."
        )
    points = _sigma_points(first, second)
    shift = first.mean - second.mean
    missing = first.dim - points[0].shape[1]
    rest = missing * (safe_sqrt(first.complement) - safe_sqrt(second.complement)) ** 2
    return safe_sqrt(frechet_distance(*points) + jnp.sum(shift**2) + rest)


@eqx.filter_jit
def _sigma_points(first: GaussianDenoiser, second: GaussianDenoiser) -> tuple[Array, Array]:
    """Points of mean zero whose covariances are those of the models, in coordinates of the span of both bases."""
    d = first.dim
    if first.basis.shape[1] + second.basis.shape[1] < d:
        span = jnp.linalg.qr(jnp.concatenate([first.basis, second.basis], axis=1))[0]
    else:
        span = jnp.eye(d, dtype=common_dtype(first.basis, second.basis))

    def points(model: GaussianDenoiser) -> Array:
        inside = jnp.matmul(span.T, model.basis, precision=lax.Precision.HIGHEST)
        base = jnp.sqrt(model.complement)
        # The symmetric root of the covariance: its columns, of both signs, are the points.
        columns = inside * (jnp.sqrt(model.eigenvalues) - base)[None]
        root = jnp.matmul(columns, inside.T, precision=lax.Precision.HIGHEST)
        root = root + base * jnp.eye(span.shape[1], dtype=root.dtype)
        rows = jnp.sqrt(jnp.asarray(span.shape[1], root.dtype)) * root
        return jnp.concatenate([rows, -rows])

    return points(first), points(second)
