"""The Gaussian denoiser in its dual form: a combination of the training points, by way of their Gram matrix."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ..._checks import RealScalar, as_points
from ..._kinds import checks_kinds
from ..._numerics import square_of_level
from .._base import AbstractPosteriorDenoiser, as_vector
from .._compiled import one_program
from .gaussian import host_if_concrete, mean_and_rest, resolvent


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)


class DualGaussianDenoiser(AbstractPosteriorDenoiser):
    r"""Gaussian posterior mean as a combination of training points: `D(u) = mu + X^T (X X^T + n sigma^2)^-1 X (u - mu)`.

    X are the n centred training points, so this is `GaussianDenoiser.fit(data)` by the matrix inversion lemma: mean and
    (1/n) covariance of the data, by way of the (n, n) Gram matrix. For n much smaller than d; and for the
    `coefficients`, which say how much of each training point the Gaussian denoiser puts into its output, where the
    empirical denoiser has its posterior weights.

    Building costs O(n^2 d + n^3), a call O(n d + n^2) for any noise level. Memory: the data and one (n, n) matrix.

    Args:
        data: training points, shape (n, d), in data units.

    Raises:
        ValueError: for a wrong shape, or an empty or non-finite training set.

    **Precision.** The Gram matrix of concrete data is formed and decomposed once, in float64, on the host. A call has a
    relative error of a few `eps (1 + sqrt(lambda_1) min(1 / sigma, 1 / sqrt(lambda_k)))`, lambda_1 the largest and lambda_k
    the smallest of the k eigenvalues of the covariance, where `GaussianDenoiser` has a few `eps`: prefer that in float32 at
    small noise where they differ much. Traced data are decomposed in their own precision, and derivatives with respect to
    the data are not defined where eigenvalues of the Gram matrix coincide, as they do for n > d + 1.

    Source: Woodbury 1950; Saunders, Gammerman and Vovk 1998 (ridge regression in dual variables).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.denoisers.DualGaussianDenoiser(jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
        >>> print(D(jnp.array([1.0, 1.0]), 1.0).round(3))
        [0.5 0. ]
        >>> print(D.coefficients(jnp.array([1.0, 1.0]), 1.0).round(3))
        [ 0.25 -0.25]
    """

    mean: Float[Array, " d"]
    centred: Float[Array, "n d"]
    eigenvectors: Float[
        Array, "n k"
    ]  # k = min(n - 1, d), of the directions that n centred points can span
    eigenvalues: Float[Array, " k"]  # of the Gram matrix over n: those of the covariance

    @checks_kinds
    def __init__(self, data: Any):
        data = as_points(data)
        n = data.shape[0]
        xp = host_if_concrete(data)
        points = xp.asarray(data, np.float64 if xp is np else data.dtype)
        mean, centred = mean_and_rest(xp, points)
        gram = centred @ centred.T if xp is np else _dot(centred, centred.T)
        eigenvalues, eigenvectors = xp.linalg.eigh(gram / n)
        # Centred points span no more directions. In the others the coefficients vanish, and rounding, over the square of a
        # small noise level, would not.
        kept = n - min(n - 1, data.shape[1])
        eigenvalues, eigenvectors = eigenvalues[kept:], eigenvectors[:, kept:]
        self.mean = jnp.asarray(mean, data.dtype)
        self.centred = jnp.asarray(centred, data.dtype)
        self.eigenvectors = jnp.asarray(eigenvectors, data.dtype)
        self.eigenvalues = jnp.maximum(jnp.asarray(eigenvalues, data.dtype), 0)

    @property
    def dim(self) -> int:
        return self.mean.shape[0]

    def _solve(self, vector: Array, sigma: Array) -> Array:
        """`(X X^T + n sigma^2)^-1 X vector`."""
        n = self.centred.shape[0]
        modes = _dot(self.eigenvectors.T, _dot(self.centred, vector))
        return _dot(self.eigenvectors, modes * resolvent(self.eigenvalues, sigma)) / n

    @one_program
    def coefficients(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " n"]:
        """The weights `c`, of either sign and with sum zero, of `D(u) = mu + sum_n c_n (y_n - mu)`.

        Of all combinations these minimise `|u - mu - sum_n c_n (y_n - mu)|^2 / sigma^2 + n |c|^2`.
        """
        u, sigma = self._point(u, sigma)
        return self._solve(u - self.mean, sigma)

    @one_program
    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        return self.mean + _dot(self.coefficients(u, sigma), self.centred)

    @one_program
    def log_density(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        u, sigma = self._point(u, sigma)
        noise, n, v = square_of_level(sigma), self.centred.shape[0], u - self.mean
        coefficients = self.coefficients(u, sigma)
        rest = v - _dot(coefficients, self.centred)
        # The minimum that the coefficients attain, of two terms without cancellation; their errors are of second order.
        square = jnp.sum((rest / jnp.sqrt(noise)) ** 2) + n * jnp.sum(coefficients**2)
        if self.eigenvalues.shape[0] == self.dim:
            # Nothing lies off the span of the points, where rounding would be divided by the noise level.
            rounding = 100 * self.dim * jnp.finfo(v.dtype).eps
            span = jnp.all(self.eigenvalues > rounding * jnp.max(self.eigenvalues))
            size = jnp.where(span, jnp.sqrt(n * self.eigenvalues), 1)
            modes = _dot(self.eigenvectors.T, _dot(self.centred, v)) / size
            of_modes = jnp.sum((modes / jnp.sqrt(self.eigenvalues + noise)) ** 2)
            square = jnp.where(span, of_modes, square)
        log_determinant = jnp.sum(jnp.log1p(self.eigenvalues / noise)) + self.dim * jnp.log(noise)
        return -0.5 * (square + log_determinant + self.dim * math.log(2 * math.pi))

    @one_program
    def posterior_covariance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, "d d"]:
        _, sigma = self._point(u, sigma)
        noise, n = square_of_level(sigma), self.centred.shape[0]
        rows = _dot(self.eigenvectors.T, self.centred)
        return _dot(rows.T * (1 / (1 + self.eigenvalues / noise) / n)[None], rows)

    @one_program
    def posterior_variance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        _, sigma = self._point(u, sigma)
        noise = square_of_level(sigma)
        return jnp.sum(self.eigenvalues / (1 + self.eigenvalues / noise))

    @one_program
    def posterior_covariance_product(
        self, u: Float[Array, " d"], sigma: RealScalar, vector: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        noise = square_of_level(sigma)
        return noise * _dot(self._solve(as_vector(vector, u), sigma), self.centred)

    def mean_and_covariance(self) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        return self.mean, _dot(self.centred.T, self.centred) / self.centred.shape[0]
