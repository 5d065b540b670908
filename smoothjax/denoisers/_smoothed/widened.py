"""The denoiser of a law with noise of a fixed width added to it: of a training set, its kernel density estimate."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._checks import RealScalar, require_positive_scalar
from ..._kinds import checks_kinds
from .._base import AbstractPosteriorDenoiser, as_vector, in_dtype_of
from .source import as_denoiser


class WidenedDenoiser(AbstractPosteriorDenoiser):
    r"""Exact posterior mean of `x_0 + width e`, for `x_0` of another law and e standard normal.

    Of training points: the posterior mean under their Gaussian kernel density estimate. Its score is the training set's at
    the noise level `s = sqrt(sigma^2 + width^2)`, as for a flow that stops at the level `width`, and so

    `D(u, sigma) = u + (sigma / s)^2 (D_base(u, s) - u)`.

    Unlike other smoothings of a score it is that of a density at every noise level, and where the noise is far below the
    width it leaves points where they are.

    Args:
        source: training points, shape (n, d), or a denoiser that is the posterior mean of a law.
        width: standard deviation of what is added, a coordinate, positive, in data units.

    Raises:
        ValueError: for a width that is not positive, or a denoiser without a law.

    Source: Parzen 1962 (the estimate); Vincent 2011 (its score as a denoiser's).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.WidenedDenoiser(jnp.array([[0.0]]), 1.0)  # N(0, 1)
        >>> print(D(jnp.array([3.0]), 1.0).round(5))
        [1.5]
    """

    base: AbstractPosteriorDenoiser
    width: Float[Array, ""]

    @checks_kinds
    def __init__(self, source: Any, width: RealScalar):
        base = as_denoiser(source)
        if not isinstance(base, AbstractPosteriorDenoiser):
            raise ValueError(
                "`source` must be training points or the posterior mean of a law, such as an EmpiricalDenoiser or a "
                f"GaussianDenoiser; got {type(base).__name__}."
            )
        self.base = base
        self.width = in_dtype_of(base, require_positive_scalar(width, "width"))

    @property
    def dim(self) -> int:
        return self.base.dim

    def _levels(self, u: Any, sigma: Any) -> tuple[Array, Array, Array, Array]:
        """The point; the base's noise level there; and the shares of the noise and of the width in its square."""
        u, sigma = self._point(u, sigma)
        width = self.width.astype(u.dtype)
        level = jnp.hypot(sigma, width)
        return u, level, (sigma / level) ** 2, (width / level) ** 2

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, level, noise, width = self._levels(u, sigma)
        return width * u + noise * self.base(u, level).astype(u.dtype)

    def log_density(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        u, level, _, _ = self._levels(u, sigma)
        return self.base.log_density(u, level)

    def posterior_covariance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, "d d"]:
        sigma = self._point(u, sigma)[1]
        u, level, noise, width = self._levels(u, sigma)
        inner = self.base.posterior_covariance(u, level).astype(u.dtype)
        return noise**2 * inner + width * sigma**2 * jnp.eye(self.dim, dtype=u.dtype)

    def posterior_variance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        return self.mean_and_variance(u, sigma)[1]

    def mean_and_variance(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        sigma = self._point(u, sigma)[1]
        u, level, noise, width = self._levels(u, sigma)
        mean, variance = self.base.mean_and_variance(u, level)
        mean, variance = mean.astype(u.dtype), variance.astype(u.dtype)
        return width * u + noise * mean, noise**2 * variance + width * sigma**2 * self.dim

    def posterior_covariance_product(
        self, u: Float[Array, " d"], sigma: RealScalar, vector: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        sigma = self._point(u, sigma)[1]
        u, level, noise, width = self._levels(u, sigma)
        vector = as_vector(vector, u)
        inner = self.base.posterior_covariance_product(u, level, vector).astype(u.dtype)
        return noise**2 * inner + width * sigma**2 * vector

    def mean_and_covariance(self) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        mean, covariance = self.base.mean_and_covariance()
        added = jnp.eye(self.dim, dtype=covariance.dtype) * self.width.astype(covariance.dtype) ** 2
        return mean, covariance + added
