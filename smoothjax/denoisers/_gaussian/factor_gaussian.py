"""The Gaussian denoiser of factor analysis: a variance of its own for every coordinate, and a few common factors."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int

from ..._checks import (
    RealScalar,
    as_float_array,
    as_host_floats,
    as_non_negative_integer,
    as_points,
    is_concrete,
    nan_where,
    require_finite,
    require_positive_scalar,
)
from ..._jax.precision import HIGHEST, common_dtype
from ..._kinds import checks_kinds
from ..._numerics import norm, square_of_level
from .._base import AbstractPosteriorDenoiser, as_vector
from .._compiled import one_program
from .gaussian import mean_and_rest, resolvent

# Of the mean log-likelihood by the logarithm of a variance, where a fit ends.
GRADIENT = 1e-6


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, precision=HIGHEST)


class FactorGaussianDenoiser(AbstractPosteriorDenoiser):
    r"""Posterior mean for Gaussian data with covariance `Psi + W W^T`: Psi diagonal, W of k columns.

    The law of factor analysis, `x_0 = mu + W f + e` with k standard normal factors f and independent e of variances Psi.
    Where `GaussianDenoiser.low_rank` gives all directions off its columns one variance, here each coordinate has its own.
    With `A = Psi + sigma^2`,

        D(u) = mu + (Psi / A) (u - mu) + (sigma^2 / A) W g,   g = (1 + W^T A^-1 W)^-1 W^T A^-1 (u - mu),

    between the point itself and what the factors' posterior mean g predicts for it. The two parts are matrix products of
    O(d k), for any number of points at a noise level, once its O(d k^2) are done.

    Args:
        mean: shape (d,), in data units.
        diagonal: Psi, the variances of the coordinates' own, shape (d,), in squared data units; zero or more.
        factors: W, shape (d, k), in data units. k may be zero, or exceed d.

    Raises:
        ValueError: for wrong shapes, values that are not finite, or a negative variance.

    **Precision.** `A^-1/2 W` over the identity is reduced by Householder reflections, rows sorted and columns pivoted:
    rounding changes no row of W by more than a few `eps` of the largest entry in it, whatever the sizes of the rows, so that
    coordinates without variance of their own may stand beside others at any noise level. No squares are subtracted.

    Source: Bishop 2006, section 12.2.4; Woodbury 1950; Cox and Higham 1998.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> W = jnp.array([[1.0], [1.0], [0.0]])
        >>> D = sj.denoisers.FactorGaussianDenoiser(jnp.zeros(3), jnp.array([0.0, 0.0, 1.0]), W)
        >>> print(D(jnp.array([3.0, 0.0, 1.0]), 1.0).round(4))  # two coordinates that are one, and one alone
        [1.  1.  0.5]
    """

    mean: Float[Array, " d"]
    diagonal: Float[Array, " d"]
    factors: Float[Array, "d k"]

    @checks_kinds
    def __init__(self, mean: Any, diagonal: Any, factors: Any):
        mean, diagonal, factors = (
            as_float_array(value, name)
            for value, name in ((mean, "mean"), (diagonal, "diagonal"), (factors, "factors"))
        )
        d = mean.shape[0] if mean.ndim == 1 else 0
        if d == 0 or diagonal.shape != (d,) or factors.ndim != 2 or factors.shape[0] != d:
            raise ValueError(
                "`mean` must have shape (d,), `diagonal` (d,) and `factors` (d, k); "
                f"got {mean.shape}, {diagonal.shape} and {factors.shape}."
            )
        for name, value in (("mean", mean), ("diagonal", diagonal), ("factors", factors)):
            require_finite(value, name)
        dtype = common_dtype(mean, diagonal, factors)
        if not is_concrete(diagonal):
            diagonal = nan_where(diagonal < 0, diagonal)
        elif np.any(np.asarray(diagonal) < 0):
            raise ValueError(
                f"`diagonal` must be non-negative; got values down to {np.min(diagonal)}."
            )
        self.mean = mean.astype(dtype)
        self.diagonal = diagonal.astype(dtype)
        self.factors = factors.astype(dtype)

    @classmethod
    @checks_kinds
    def fit(cls, data: Any, num_factors: int, *, floor: float = 1e-6) -> "FactorGaussianDenoiser":
        """Factor analysis: the largest likelihood of a training set, whose values are known.

        L-BFGS in the logarithms of the variances, in float64 on the host; the factors that go with them are known in closed
        form, and rescaled coordinates give a rescaled law. It ends where no derivative of the mean log-likelihood, in nats a
        point, exceeds 1e-6: at a local maximum. There the law has the data's variance in every coordinate above the floor.

        Args:
            data: training points, shape (n, d).
            num_factors: k, from 0 (independent coordinates) to d.
            floor: the least share of a coordinate's variance that is its own. Without one the likelihood of some data has
                no maximum: of two coordinates that agree, or of fewer points than coordinates.

        Raises:
            ValueError: for a wrong shape or non-finite data, a number of factors outside 0..d, a floor outside (0, 1).
            RuntimeError: where the search ends elsewhere.

        Source: Jöreskog 1967, "Some contributions to maximum likelihood factor analysis".

        Example:
            >>> import jax.numpy as jnp, smoothjax as sj
            >>> data = jnp.array([[1.0, 1.0, 1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]])
            >>> D = sj.denoisers.FactorGaussianDenoiser.fit(data, 1)
            >>> print(jnp.abs(D.factors[:, 0]).round(3), D.diagonal.round(3))  # two coordinates that are one
            [1. 1. 0.] [0. 0. 1.]
        """
        data = as_points(data)
        d = data.shape[1]
        num_factors = as_non_negative_integer(num_factors, "num_factors")
        if num_factors > d:
            raise ValueError(f"`num_factors` must not exceed d = {d}; got {num_factors}.")
        floor = float(require_positive_scalar(floor, "floor"))
        if floor >= 1:
            raise ValueError(f"`floor` must lie below 1; got {floor}.")
        mean, centred = mean_and_rest(np, as_host_floats(data, "data", np.float64))
        size = np.sqrt(np.mean(centred**2, axis=0))
        varies = size > 0
        own, factors = np.zeros(d), np.zeros((d, num_factors))
        if np.any(varies):
            standard = centred[:, varies] / size[varies]
            own[varies], factors[varies] = _most_likely(standard, num_factors, floor)
        mean, diagonal, factors = (
            jnp.asarray(x, data.dtype) for x in (mean, size**2 * own, size[:, None] * factors)
        )
        return cls(mean, diagonal, factors)

    @property
    def dim(self) -> int:
        return self.mean.shape[0]

    @one_program
    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        return self.mean + _posterior_shift(self.diagonal, self.factors, sigma, u - self.mean)

    @one_program
    def log_density(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        u, sigma = self._point(u, sigma)
        root = jnp.sqrt(resolvent(self.diagonal, sigma))
        reflections = _reflections(self.factors * root[:, None])
        # Of all factors g those of the posterior mean minimise |A^-1/2 (v - W g)|^2 + |g|^2: what is left is the square.
        square = jnp.sum(reflections.rest((u - self.mean) * root) ** 2)
        log_determinant = jnp.sum(jnp.log(self.diagonal + square_of_level(sigma)))
        log_determinant += 2 * jnp.sum(jnp.log(reflections.sizes))
        return -0.5 * (square + log_determinant + self.dim * math.log(2 * math.pi))

    def _posterior(self, sigma: Array) -> tuple[Float[Array, " d"], Float[Array, "d k"]]:
        own = self.diagonal / (1 + self.diagonal / square_of_level(sigma))
        return own, sigma * _gains(self.diagonal, self.factors, sigma)[1]

    @one_program
    def posterior_covariance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, "d d"]:
        _, sigma = self._point(u, sigma)
        own, common = self._posterior(sigma)
        return jnp.diag(own) + _dot(common, common.T)

    @one_program
    def posterior_variance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        _, sigma = self._point(u, sigma)
        own, common = self._posterior(sigma)
        return jnp.sum(own) + jnp.sum(common**2)

    @one_program
    def posterior_covariance_product(
        self, u: Float[Array, " d"], sigma: RealScalar, vector: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        own, common = self._posterior(sigma)
        vector = as_vector(vector, u)
        return own * vector + _dot(common, _dot(common.T, vector))

    def mean_and_covariance(self) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        return self.mean, jnp.diag(self.diagonal) + _dot(self.factors, self.factors.T)


def _gains(diagonal: Array, factors: Array, sigma: Array) -> tuple[Array, Array]:
    """`dD/du` as a diagonal and a matrix G that adds `G G^T`, of entries up to one."""
    inverse = resolvent(diagonal, sigma)
    root = jnp.sqrt(inverse)
    columns = _reflections(factors * root[:, None]).range()[: len(diagonal)]
    return diagonal * inverse, (sigma * root)[:, None] * columns


def _noise_share(diagonal: Array, factors: Array, sigma: Array, v: Array) -> Array:
    """`sigma^2 (Psi + W W^T + sigma^2)^-1 v`, without the difference from `v` of what is kept of it."""
    root = jnp.sqrt(resolvent(diagonal, sigma))
    reflections = _reflections(factors * root[:, None])
    return sigma * root * reflections.orthogonal(sigma * root * v)


@jax.custom_jvp
def _posterior_shift(diagonal: Array, factors: Array, sigma: Array, v: Array) -> Array:
    """`D(mean + v) - mean`."""
    own, common = _gains(diagonal, factors, sigma)
    return own * v + _dot(common, _dot(common.T, v))


@functools.partial(_posterior_shift.defjvp, symbolic_zeros=True)
def _posterior_shift_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Not through the reflections: where nearly all of a point is kept, the noise level's share is a small difference."""
    (diagonal, factors, sigma, v), dots = primals, tangents
    shift = _posterior_shift(*primals)
    known = [None if isinstance(dot, SymbolicZero) else dot for dot in dots]
    diagonal_dot, factors_dot, sigma_dot, v_dot = known
    law = diagonal, factors, sigma
    change = jnp.zeros_like(shift)
    if v_dot is not None:
        change += _posterior_shift(*law, v_dot)
    if sigma_dot is not None:
        change -= 2 * (sigma_dot / sigma) * _noise_share(*law, shift)
    if diagonal_dot is not None or factors_dot is not None:
        direction = _noise_share(*law, v) / sigma / sigma
        forced = jnp.zeros_like(shift)
        if diagonal_dot is not None:
            forced += diagonal_dot * direction
        if factors_dot is not None:
            forced += _dot(factors_dot, _dot(factors.T, direction))
            forced += _dot(factors, _dot(factors_dot.T, direction))
        change += _noise_share(*law, forced)
    return shift, change


class _Reflections(NamedTuple):
    """Householder reflections that bring a matrix B of shape (d, k), over the identity, to k rows: `1 - Y T Y^T`."""

    vectors: Float[Array, "m k"]  # Y, of m = d + k sorted rows and unit columns
    inverse: Float[Array, "k k"]  # of the upper triangular T
    order: Int[Array, " m"]
    sizes: Float[Array, " k"]  # of the columns reflected, whose product squared is det(1 + B^T B)

    def range(self) -> Float[Array, "m k"]:
        """Orthonormal columns that span those of B over the identity."""
        m, k = self.vectors.shape
        inner = solve_triangular(self.inverse, self.vectors[:k].T)
        sorted_rows = jnp.eye(m, k, dtype=inner.dtype) - _dot(self.vectors, inner)
        return sorted_rows[jnp.argsort(self.order)]

    def rest(self, top: Float[Array, " d"]) -> Float[Array, " d"]:
        """A vector over zeros, in orthonormal coordinates of what is orthogonal to these columns."""
        k = self.vectors.shape[1]
        vector = jnp.concatenate([top, jnp.zeros(k, top.dtype)])[self.order]
        inner = solve_triangular(self.inverse, _dot(self.vectors.T, vector), trans=1)
        return (vector - _dot(self.vectors, inner))[k:]

    def orthogonal(self, top: Float[Array, " d"]) -> Float[Array, " d"]:
        """The part of a vector over zeros that is orthogonal to these columns, its first d coordinates."""
        k = self.vectors.shape[1]
        vector = jnp.concatenate([jnp.zeros(k, top.dtype), self.rest(top)])
        inner = solve_triangular(self.inverse, _dot(self.vectors.T, vector))
        sorted_rows = vector - _dot(self.vectors, inner)
        return sorted_rows[jnp.argsort(self.order)][: len(top)]


def _reflections(top: Float[Array, "d k"]) -> _Reflections:
    k = top.shape[1]
    matrix = jnp.concatenate([top, jnp.eye(k, dtype=top.dtype)])
    order = jnp.argsort(-jnp.max(jnp.abs(lax.stop_gradient(matrix)), axis=1, initial=0))
    rows, columns = jnp.arange(matrix.shape[0]), jnp.arange(k)

    def step(matrix: Array, j: Array) -> tuple[Array, tuple[Array, Array]]:
        below = jnp.where((rows >= j)[:, None], matrix, 0)
        sizes = norm(below.T)
        largest = jnp.argmax(sizes)
        column, size = below[:, largest], sizes[largest]
        # Away from zero, so that nothing cancels.
        vector = column + jnp.where(rows == j, jnp.where(column[j] < 0, -size, size), 0)
        vector = vector / norm(vector)
        matrix = below - 2 * jnp.outer(vector, _dot(vector, below))
        return jnp.where((columns == largest)[None], 0, matrix), (vector, size)

    if k == 0:
        vectors, sizes = matrix.T, jnp.zeros(0, top.dtype)
    else:
        _, (vectors, sizes) = lax.scan(step, matrix[order], jnp.arange(k))
    products = jnp.triu(_dot(vectors, vectors.T), 1)
    return _Reflections(vectors.T, products + 0.5 * jnp.eye(k, dtype=top.dtype), order, sizes)


def _most_likely(
    standard: np.ndarray, num_factors: int, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Own variances and factors of coordinates of mean zero and variance one."""
    from scipy.optimize import minimize  # half a second, which others need not wait for

    n, d = standard.shape
    # As good as the points, of whose products the square of the condition number would be lost.
    triangle = np.asarray(np.linalg.qr(standard, mode="r")) / math.sqrt(n)

    def factors_of(own: np.ndarray) -> tuple[np.ndarray, float]:
        """The likeliest factors for given own variances, and twice the negative log-likelihood but for constants."""
        root = np.sqrt(own)
        _, singular, vectors = np.linalg.svd(triangle / root, full_matrices=False)
        kept, left = singular[:num_factors] ** 2, singular[num_factors:] ** 2
        more = kept > 1
        deviance = np.sum(np.log(own)) + np.sum(left)
        deviance += np.sum(np.where(more, 1 + np.log(np.maximum(kept, 1)), kept))
        factors = np.zeros((d, num_factors))
        factors[:, : len(kept)] = root[:, None] * vectors[:num_factors].T
        factors[:, : len(kept)] *= np.sqrt(np.where(more, kept - 1, 0))
        return factors, float(deviance)

    def objective(log_own: np.ndarray) -> tuple[float, np.ndarray]:
        own = np.exp(log_own)
        factors, deviance = factors_of(own)
        # Of the likeliest factors the derivative vanishes.
        return 0.5 * deviance, 0.5 * (np.sum(factors**2, axis=1) + own - 1) / own

    bounds = [(math.log(floor), 0.0)] * d
    options = {"maxiter": 10_000, "maxfun": 100_000, "gtol": GRADIENT, "ftol": 0.0, "maxcor": 30}
    start = np.full(d, math.log(max(0.5, floor)))
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    slope = found.x - np.clip(found.x - objective(found.x)[1], *np.array(bounds).T)
    if np.max(np.abs(slope)) > GRADIENT:
        raise RuntimeError(
            f"Factor analysis did not converge: a derivative of {np.max(np.abs(slope)):.3g} is left after {found.nit} steps."
        )
    factors = factors_of(np.exp(found.x))[0]
    # A step of expectation-maximisation, which raises the likelihood if anything: the variances are then exact.
    return np.maximum(1 - np.sum(factors**2, axis=1), floor), factors
