"""The Gaussian (Wiener) denoiser: optimal for a law that has the data's mean and covariance and nothing else."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ..._checks import RealScalar, as_float_array, as_points, is_concrete, require_finite
from ..._jax.precision import common_dtype
from ..._kinds import checks_kinds
from ..._numerics import square_of_level
from .._base import AbstractPosteriorDenoiser, as_vector
from .._compiled import one_program


class GaussianDenoiser(AbstractPosteriorDenoiser):
    r"""Posterior mean for Gaussian data: `D(u) = mu + Sigma (Sigma + sigma^2)^-1 (u - mu)`.

    The covariance is kept as `Sigma = U diag(lambda) U^T + lambda_0 (1 - U U^T)`, so that a call costs O(d r) with r the
    number of columns of U, and the orthogonal complement is exact. It is the best *affine* denoiser for every data law
    with this mean and covariance, and the one that networks resemble when they generalise.

    Args:
        mean: shape (d,), in data units.
        covariance: shape (d, d), symmetric and positive semi-definite, in squared data units.

    Raises:
        ValueError: for wrong shapes, values that are not finite, or a covariance that is not symmetric or has a negative
            eigenvalue beyond rounding.

    **Precision.** The eigen-decomposition of concrete arrays is done once, in float64, on the host; a call has relative
    error of a few `eps` in either precision. Traced arrays are decomposed in their own precision, and derivatives
    through degenerate eigenvalues are not defined.

    Source: Li, Dai and Qu 2024, section 3; Wiener 1949.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianDenoiser(jnp.zeros(2), jnp.diag(jnp.array([3.0, 1.0])))
        >>> print(D(jnp.array([1.0, 1.0]), 1.0))
        [0.75 0.5 ]
    """

    mean: Float[Array, " d"]
    basis: Float[Array, "d r"]
    eigenvalues: Float[Array, " r"]
    complement: Float[Array, ""]

    @checks_kinds
    def __init__(self, mean: Any, covariance: Any):
        mean, covariance = _as_mean(mean), as_float_array(covariance, "covariance")
        d = mean.shape[0]
        if covariance.shape != (d, d):
            raise ValueError(
                f"`covariance` must have shape ({d}, {d}), as `mean` has ({d},); got {covariance.shape}."
            )
        require_finite(covariance, "covariance")
        dtype = common_dtype(mean, covariance)
        xp = host_if_concrete(mean, covariance)
        matrix = xp.asarray(covariance, np.float64 if xp is np else dtype)
        eigenvalues, basis = xp.linalg.eigh((matrix + matrix.T) / 2)
        if xp is np:
            rounding = 100 * d * float(jnp.finfo(dtype).eps) * np.max(np.abs(matrix))
            asymmetry = np.max(np.abs(matrix - matrix.T))
            if asymmetry > rounding:
                raise ValueError(
                    f"`covariance` must be symmetric; got an asymmetry of {asymmetry:.3g}."
                )
            if eigenvalues[0] < -rounding:
                raise ValueError(
                    "`covariance` must be positive semi-definite; "
                    f"got an eigenvalue of {eigenvalues[0]:.3g}."
                )
        self.mean = mean.astype(dtype)
        self.basis = jnp.asarray(basis, dtype)
        # Rounding leaves eigenvalues a little below zero, where lambda / (lambda + sigma^2) has its pole.
        self.eigenvalues = jnp.maximum(jnp.asarray(eigenvalues, dtype), 0)
        self.complement = jnp.zeros((), dtype)

    @classmethod
    @checks_kinds
    def low_rank(
        cls, mean: Any, basis: Any, eigenvalues: Any, complement: Any = 0.0
    ) -> "GaussianDenoiser":
        """From `U diag(eigenvalues) U^T + complement (1 - U U^T)`, U of shape (d, r) with orthonormal columns.

        Raises:
            ValueError: for wrong shapes, negative eigenvalues or complement, or columns that are not orthonormal.

        Example:
            >>> import jax.numpy as jnp, smoothjax as sj
            >>> D = sj.GaussianDenoiser.low_rank(jnp.zeros(3), jnp.eye(3)[:, :1], jnp.array([1.0]))
            >>> print(D(jnp.array([2.0, 2.0, 2.0]), 1.0))  # off the line there are no data
            [1. 0. 0.]
        """
        mean = _as_mean(mean)
        basis, eigenvalues = (
            as_float_array(basis, "basis"),
            as_float_array(eigenvalues, "eigenvalues"),
        )
        complement = as_float_array(complement, "complement")
        d, r = mean.shape[0], eigenvalues.shape[0] if eigenvalues.ndim == 1 else -1
        if basis.shape != (d, r):
            raise ValueError(
                f"`basis` must have shape (d, r) and `eigenvalues` (r,), with d = {d} as in `mean`; "
                f"got {basis.shape} and {eigenvalues.shape}."
            )
        for name, array in (
            ("basis", basis),
            ("eigenvalues", eigenvalues),
            ("complement", complement),
        ):
            require_finite(array, name)
        if is_concrete(basis, eigenvalues, complement):
            if np.any(np.asarray(eigenvalues) < 0) or np.any(np.asarray(complement) < 0):
                raise ValueError(
                    f"`eigenvalues` and `complement` must be non-negative; got {eigenvalues} and {complement}."
                )
            columns = np.asarray(basis, np.float64)
            error = float(np.max(np.abs(columns.T @ columns - np.eye(r)), initial=0))
            if error > 100 * d * float(jnp.finfo(basis.dtype).eps):
                raise ValueError(
                    f"`basis` must have orthonormal columns; got U^T U off by {error:.3g}."
                )
        self = object.__new__(cls)
        dtype = common_dtype(mean, basis, eigenvalues)
        for name, value in (
            ("mean", mean),
            ("basis", basis),
            ("eigenvalues", eigenvalues),
            ("complement", complement),
        ):
            object.__setattr__(self, name, value.astype(dtype))
        return self

    @classmethod
    @checks_kinds
    def fit(
        cls,
        data: Any,
        rank: int | None = None,
        shrinkage: float | Literal["ledoit-wolf"] = 0.0,
    ) -> "GaussianDenoiser":
        """Mean and (1/n) covariance of a training set: what denoising score matching with an affine model learns.

        Costs O(n d min(n, d)) once; with n <= d the covariance is never formed.

        Args:
            data: training points, shape (n, d).
            rank: number of leading eigenvectors to keep. The variance along all others is replaced by its average, which
                is the maximum-likelihood choice (probabilistic PCA). All by default.
            shrinkage: theta in [0, 1]; the covariance becomes `(1 - theta) Sigma + theta tr(Sigma)/d`. "ledoit-wolf"
                estimates, from the sample covariance of full rank, the theta that brings it closest to the covariance of
                the law that the points were drawn from, in mean square.

        Raises:
            ValueError: for a wrong shape or non-finite data, a rank outside 0..d, a shrinkage outside [0, 1].

        Source: Tipping and Bishop 1999 (`rank`); Ledoit and Wolf 2004, section 3.3 (`shrinkage`).

        Example:
            >>> import jax.numpy as jnp, smoothjax as sj
            >>> D = sj.GaussianDenoiser.fit(jnp.array([[0.0], [2.0]]))  # mean 1, variance 1
            >>> print(D(jnp.array([5.0]), 1.0).round(5))
            [3.]
        """
        data = as_points(data)
        n, d = data.shape
        require_rank_and_shrinkage(rank, shrinkage, d)
        xp = host_if_concrete(data)
        points = xp.asarray(data, np.float64 if xp is np else data.dtype)
        mean, centred = mean_and_rest(xp, points)
        if n <= d:
            _, singular, vectors = xp.linalg.svd(centred, full_matrices=False)
            # Centring leaves at most n - 1 directions; the last singular value is rounding.
            kept = max(n - 1, 0)
            eigenvalues, basis = singular[:kept] ** 2 / n, vectors[:kept].T
        else:
            eigenvalues, basis = xp.linalg.eigh(centred.T @ centred / n)
            eigenvalues, basis = xp.maximum(eigenvalues[::-1], 0), basis[:, ::-1]
        if isinstance(shrinkage, str):
            shrinkage = _ledoit_wolf(xp, xp.sum(centred**2, axis=1), eigenvalues, d)
        return from_sample_spectrum(mean, basis, eigenvalues, rank, shrinkage, data.dtype)

    @property
    def dim(self) -> int:
        return self.mean.shape[0]

    @property
    def variances(self) -> Float[Array, " d"]:
        """All d eigenvalues of the covariance, in squared data units, with that of the complement as often as it occurs."""
        missing = self.dim - self.eigenvalues.shape[0]
        return jnp.concatenate([self.eigenvalues, jnp.broadcast_to(self.complement, (missing,))])

    def shrunk(self, shrinkage: RealScalar) -> "GaussianDenoiser":
        """The same with the covariance `(1 - theta) Sigma + theta tr(Sigma)/d`, theta in [0, 1]; derivatives by it too.

        Raises:
            ValueError: for a shrinkage outside [0, 1].

        Example:
            >>> import jax.numpy as jnp, smoothjax as sj
            >>> D = sj.GaussianDenoiser(jnp.zeros(2), jnp.diag(jnp.array([3.0, 1.0])))
            >>> print(D.shrunk(0.5).covariance())
            [[2.5 0. ]
             [0.  1.5]]
        """
        require_rank_and_shrinkage(None, shrinkage, self.dim)
        theta = jnp.asarray(shrinkage, self.mean.dtype)
        average = jnp.mean(self.variances)
        values = self._spectrum(lambda variance: (1 - theta) * variance + theta * average)
        return eqx.tree_at(lambda d: (d.eigenvalues, d.complement), self, values)

    def map_modes(self, vector: Float[Array, " d"], gains: Array, complement_gain: Array) -> Array:
        """`U diag(gains) U^T vector + complement_gain (1 - U U^T) vector`, for any function of the covariance."""
        modes, rest = self._split(vector)
        return (
            jnp.dot(self.basis, gains * modes, precision=lax.Precision.HIGHEST)
            + complement_gain * rest
        )

    def _split(self, vector: Array) -> tuple[Array, Array]:
        modes = jnp.dot(self.basis.T, vector, precision=lax.Precision.HIGHEST)
        if self.basis.shape[1] == self.dim:
            return modes, jnp.zeros_like(vector)
        return modes, vector - jnp.dot(self.basis, modes, precision=lax.Precision.HIGHEST)

    def _spectrum(self, function) -> tuple[Array, Array]:
        return function(self.eigenvalues), function(self.complement)

    @one_program
    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        gains = self._spectrum(lambda variance: variance * resolvent(variance, sigma))
        return self.mean + self.map_modes(u - self.mean, *gains)

    @one_program
    def log_density(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        u, sigma = self._point(u, sigma)
        modes, rest = self._split(u - self.mean)
        noise = square_of_level(sigma)
        variances, complement = self._spectrum(lambda variance: variance + noise)
        missing = self.dim - self.eigenvalues.shape[0]
        # The root first: a square may overflow.
        square = jnp.sum((modes / jnp.sqrt(variances)) ** 2)
        square += jnp.sum((rest / jnp.sqrt(complement)) ** 2)
        log_determinant = jnp.sum(jnp.log(variances)) + missing * jnp.log(complement)
        return -0.5 * (square + log_determinant + self.dim * math.log(2 * math.pi))

    def _posterior_spectrum(self, sigma: Array) -> tuple[Array, Array]:
        noise = square_of_level(sigma)
        return self._spectrum(lambda variance: variance / (1 + variance / noise))

    @one_program
    def posterior_covariance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, "d d"]:
        _, sigma = self._point(u, sigma)
        modes, complement = self._posterior_spectrum(sigma)
        return self._matrix(modes, complement)

    @one_program
    def posterior_variance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        _, sigma = self._point(u, sigma)
        return self.minimum_error(sigma)

    def minimum_error(self, sigma: RealScalar) -> Float[Array, ""]:
        """Least mean square error of any denoiser of this law (MMSE): `sum_i lambda_i sigma^2 / (lambda_i + sigma^2)`.

        Summed over the d coordinates. It is the posterior variance, which for a Gaussian is the same at every point.

        Raises:
            ValueError: for a noise level that is not positive.
        """
        _, sigma = self._point(self.mean, sigma)
        modes, complement = self._posterior_spectrum(sigma)
        return jnp.sum(modes) + (self.dim - modes.shape[0]) * complement

    @one_program
    def posterior_covariance_product(
        self, u: Float[Array, " d"], sigma: RealScalar, vector: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        return self.map_modes(as_vector(vector, u), *self._posterior_spectrum(sigma))

    def covariance(self) -> Float[Array, "d d"]:
        """The covariance Sigma as a (d, d) matrix."""
        return self._matrix(self.eigenvalues, self.complement)

    def _matrix(self, modes: Array, complement: Array) -> Float[Array, "d d"]:
        return _with_spectrum(self.basis, modes, complement)

    def mean_and_covariance(self) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        return self.mean, self.covariance()


@jax.jit  # One program, where each operation would be one of its own.
def _with_spectrum(basis: Array, modes: Array, complement: Array) -> Float[Array, "d d"]:
    columns = basis * (modes - complement)[None]
    excess = jnp.dot(columns, basis.T, precision=lax.Precision.HIGHEST)
    return excess + complement * jnp.eye(basis.shape[0], dtype=columns.dtype)


@jax.custom_jvp
def resolvent(variance: Array, sigma: Array) -> Array:
    """`1 / (variance + sigma^2)`, whose derivatives hold no square of it, which would vanish at large noise."""
    return 1 / (variance + square_of_level(sigma))


@resolvent.defjvp
def _resolvent_jvp(primals, tangents):
    (variance, sigma), (variance_dot, sigma_dot) = primals, tangents
    value = resolvent(variance, sigma)
    noise_share = 1 / (1 + variance / square_of_level(sigma))
    return value, -value * (value * variance_dot + 2 * noise_share * (sigma_dot / sigma))


def from_sample_spectrum(
    mean: Any, basis: Any, eigenvalues: Any, rank: int | None, shrinkage: Any, dtype: Any
) -> GaussianDenoiser:
    """`GaussianDenoiser.fit` from the eigenvectors and eigenvalues of a sample covariance, largest first, zeros optional."""
    d = basis.shape[0]
    average = eigenvalues.sum() / d
    complement = 0.0
    if rank is not None and rank < eigenvalues.shape[0]:
        complement = eigenvalues[rank:].sum() / (d - rank)
        eigenvalues, basis = eigenvalues[:rank], basis[:, :rank]
    shrink = lambda value: (1 - shrinkage) * value + shrinkage * average  # noqa: E731
    return GaussianDenoiser.low_rank(
        jnp.asarray(mean, dtype),
        jnp.asarray(basis, dtype),
        jnp.asarray(shrink(eigenvalues), dtype),
        jnp.asarray(shrink(complement), dtype),
    )


def require_rank_and_shrinkage(rank: Any, shrinkage: Any, d: int) -> None:
    if rank is not None and (isinstance(rank, bool) or rank != int(rank) or not 0 <= rank <= d):
        raise ValueError(f"`rank` must be an integer from 0 to d = {d}; got {rank!r}.")
    if isinstance(shrinkage, str):
        if shrinkage != "ledoit-wolf":
            raise ValueError(
                f'`shrinkage` must be a number in [0, 1] or "ledoit-wolf"; got {shrinkage!r}.'
            )
    elif is_concrete(shrinkage) and not 0 <= shrinkage <= 1:
        raise ValueError(f"`shrinkage` must lie in [0, 1]; got {shrinkage}.")


def _ledoit_wolf(xp: Any, squared_norms: Any, eigenvalues: Any, d: int) -> Any:
    """Ledoit and Wolf's shrinkage, from the squared norms of the centred points and the spectrum of their covariance."""
    n = squared_norms.shape[0]
    # Nothing is lost by a common factor, without which the fourth powers could overflow or underflow.
    unit = xp.maximum(xp.max(squared_norms), np.finfo(squared_norms.dtype).tiny)
    squared_norms, eigenvalues = squared_norms / unit, eigenvalues / unit
    average = xp.sum(eigenvalues) / d
    # |Sigma - average|_F^2: the eigenvalues that are not listed are zero.
    dispersion = xp.sum((eigenvalues - average) ** 2) + (d - eigenvalues.shape[0]) * average**2
    # |x x^T - Sigma|_F^2, averaged over the points and divided by their number.
    error = (xp.sum(squared_norms**2) / n - xp.sum(eigenvalues**2)) / n
    # Where nothing is dispersed (d = 1, a single point) shrinking changes nothing.
    known = dispersion > 0
    return xp.where(known, xp.clip(error / xp.where(known, dispersion, 1), 0, 1), 0)


def _as_mean(mean: Any) -> Array:
    mean = as_float_array(mean, "mean")
    if mean.ndim != 1 or mean.shape[0] == 0:
        raise ValueError(f"`mean` must have shape (d,); got {mean.shape}.")
    require_finite(mean, "mean")
    return mean


def mean_and_rest(xp: Any, points: Any) -> tuple[Any, Any]:
    """The mean, and the points less it. Coordinates that are the same in all points have no variance, not even rounding."""
    varies = xp.any(points != points[:1], axis=0)
    mean = xp.where(varies, xp.mean(points, axis=0), points[0])
    return mean, points - mean[None]


def host_if_concrete(*arrays: Array) -> Any:
    """NumPy, in float64 whatever JAX is set to, for arrays whose values are known; else `jax.numpy`."""
    return np if is_concrete(*arrays) else jnp
