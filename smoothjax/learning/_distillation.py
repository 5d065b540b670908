r"""The best affine approximation of a denoiser at one noise level, in closed form, and what it leaves unexplained.

The fit is least squares with an intercept, of the denoiser's values at noisy data points on those points. In coordinates
`v = (Sigma + sigma^2)^(-1/2) (u - mu)` with moments of a Gaussian reference the normal equations are close to the identity
however small the noise is, where those of u itself have the square of the condition number of the data. What is fitted is
the difference to the Gaussian reference, which is affine, so that only this difference is subject to sampling and rounding.
"""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .._calls import as_argument, denoised
from .._checks import (
    RealScalar,
    as_float_array,
    as_key,
    as_positive_integer,
    checked,
    is_concrete,
    require_finite,
)
from .._jax.blocks import blocks_of
from .._jax.precision import common_dtype
from .._kinds import checks_kinds
from .._levels import as_level
from .._numerics import as_data, keys_by_index, noises, square_of_level
from ..denoisers import AbstractDenoiser, Denoiser, GaussianDenoiser
from ..measures import Estimate, mean_estimate, ratio_of_means
from ._regression import HIGHEST, Fit, Moments


class AffineDenoiser(AbstractDenoiser):
    """`D(u) = W u + b` at one noise level; it refuses others.

    Args:
        matrix: W, shape (d, d).
        offset: b, shape (d,), in data units.
        sigma: the noise level that it belongs to.

    Raises:
        ValueError: for wrong shapes, values that are not finite, or a level that is not positive. Called at another level
            than its own, an error (`ValueError` where both are known, else when it runs).

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax.learning import AffineDenoiser
        >>> D = AffineDenoiser(0.5 * jnp.eye(2), jnp.array([1.0, 0.0]), 1.0)
        >>> print(D(jnp.array([2.0, 4.0]), 1.0))
        [2. 2.]
    """

    matrix: Float[Array, "d d"]
    offset: Float[Array, " d"]
    sigma: Float[Array, ""]

    @checks_kinds
    def __init__(self, matrix: Any, offset: Any, sigma: RealScalar):
        matrix, offset = as_float_array(matrix, "matrix"), as_float_array(offset, "offset")
        if offset.ndim != 1 or matrix.shape != offset.shape * 2:
            raise ValueError(
                "`matrix` must have shape (d, d) and `offset` (d,); "
                f"got {matrix.shape} and {offset.shape}."
            )
        require_finite(matrix, "matrix")
        require_finite(offset, "offset")
        dtype = common_dtype(matrix, offset)
        self.matrix, self.offset = matrix.astype(dtype), offset.astype(dtype)
        self.sigma = jnp.asarray(as_level(sigma, "sigma", dtype))

    @property
    def dim(self) -> int:
        return self.offset.shape[0]

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        # The two may come from float32 and from float64.
        tolerance = 4 * float(jnp.finfo(jnp.float32).eps)
        other = jnp.abs(sigma - self.sigma) > tolerance * self.sigma
        message = "`sigma` must be the noise level that this affine denoiser belongs to"
        u = checked(u, other, message, f", {self.sigma}; got {sigma}")
        return jnp.matmul(self.matrix, u, precision=HIGHEST) + self.offset


class LinearDistillation(eqx.Module):
    """The best affine approximation D_L of a denoiser D at one noise level; see `distill_linear`.

    `difference = nonlinear_residual + linear_mismatch` holds but for rounding where there is no ridge. The three are mean
    squares per coordinate, in squared data units, over the noisy points of the fit.

    Attributes:
        matrix: W of `D_L(u) = W u + b`, shape (d, d).
        offset: b, shape (d,).
        sigma: the noise level.
        r_squared: fraction of the variance of D that D_L explains at fresh noise, `1 - E|D - D_L|^2 / E|D - E D|^2`. 1 for
            a constant, which is affine.
        difference: `E |D - D_G|^2 / d`, with D_G the Gaussian reference.
        nonlinear_residual: `E |D - D_L|^2 / d`. The fit has taken `fit_noise` out of it.
        linear_mismatch: `E |D_L - D_G|^2 / d`. It contains `fit_noise`, and is significant only beyond it.
        fit_noise: expected `E |D_L - D_L*|^2 / d`, with D_L* the fit to infinitely many points, from the same sandwich as
            the standard errors; with a ridge an upper bound.
    """

    matrix: Estimate
    offset: Estimate
    sigma: Float[Array, "..."]
    r_squared: Estimate
    difference: Estimate
    nonlinear_residual: Estimate
    linear_mismatch: Estimate
    fit_noise: Float[Array, "..."]

    @property
    def denoiser(self) -> AffineDenoiser:
        """D_L as a denoiser for this noise level."""
        return AffineDenoiser(self.matrix.value, self.offset.value, self.sigma)


@checks_kinds
def distill_linear(
    denoiser: Denoiser,
    data: Float[Array, "n d"],
    sigma: RealScalar,
    key: PRNGKeyArray,
    *,
    reference: GaussianDenoiser | None = None,
    num_noises: int = 2,
    ridge: RealScalar = 0.0,
    control: Literal["gaussian"] | None = "gaussian",
    batch_size: int = 1024,
) -> LinearDistillation:
    r"""Best affine approximation `W u + b` of any denoiser over noisy data at one noise level, by least squares.

    The law of the inputs is that of `data` plus noise, and the result depends on it. If the denoiser is the exact posterior
    mean of a law and `data` are that law, W is the Gaussian denoiser's exactly, however nonlinear the denoiser is: the
    projection of a projection. That W resembles it is therefore weak evidence that a denoiser is Gaussian. Strong evidence
    is a small nonlinear residual; the result has both, and R squared at fresh noise.

    With n points, K noises each and N = nK, C the covariance of these inputs and y the denoiser's value or, with the control
    variate, its difference to the Gaussian reference, `W - W_control = Cov(y, u) (C + ridge)^-1`. The ridge shrinks W
    towards the Gaussian's matrix (without control, towards zero). Without ridge both controls are the same estimator but for
    rounding: where the denoiser is the Gaussian reference, the controlled one is exact. Noises come in pairs z, -z, which
    takes the noise out of all means and the products of noise and data out of C. Those of point i depend on `key` and i
    alone.

    Standard errors are those of fresh draws of points and noises: a sandwich, with the N residuals taken at fresh noises and
    clustered by point, heteroscedasticity and dependence among a point's noises included. They need many more points than d.
    (They take the points for a sample of their law; if they are the law, as a whole training set, they err upwards.) Errors
    of the mean squares include that of the fit, to first order. Those of W and b include no bias from the ridge.

    Costs three evaluations of the denoiser a noisy point, and O(N K d^2 + d^3). Memory is that of a batch and of some (d, d)
    matrices, and the result depends on the batches by rounding only. For several noise levels, `jax.lax.map`.

    Args:
        denoiser: callable `(u: (d,), sigma: ()) -> (d,)`.
        data: clean points, shape (n, d), n >= 2. The dtype of the computation is theirs.
        sigma: noise level, positive, in the units of the data.
        key: JAX random key.
        reference: the Gaussian denoiser D_G; by default `GaussianDenoiser.fit(data)`. For points held out from training,
            give that of the training set.
        num_noises: K, noises for each point; even.
        ridge: added to the covariance of the inputs, in squared data units, not negative. Without it more directions than
            the points and noises span are an error.
        control: `"gaussian"` to fit the difference to the reference, None to fit the denoiser's values.
        batch_size: noisy points evaluated at a time.

    Raises:
        ValueError: for fewer than two points, a level that is not positive, an odd number of noises, a negative ridge, none
            where one is needed, a reference of another dimension, or a denoiser whose output does not have shape (d,).

    Source: Li, Dai and Qu 2024, section 3 (linear distillation, there by gradient descent); White 1980 and Liang and Zeger
    1986 (sandwich, clustered).

    Example:
        >>> import jax, smoothjax as sj
        >>> from smoothjax.learning import distill_linear
        >>> data = jax.random.normal(jax.random.key(0), (500, 3)) ** 3
        >>> fit = distill_linear(sj.EmpiricalDenoiser(data), data, 1.0, jax.random.key(1))
        >>> bool(fit.linear_mismatch.value < 0.05 * fit.nonlinear_residual.value)
        True
    """
    key = as_key(key)
    data = as_data(data, 2, "for a standard error")
    n, d = data.shape
    sigma = jnp.asarray(as_level(sigma, "sigma", data.dtype))
    ridge = as_level(ridge, "ridge", data.dtype, or_zero=True)
    num_noises = as_positive_integer(num_noises, "num_noises")
    if num_noises % 2:
        raise ValueError(
            f"`num_noises` must be even, as noises come in pairs z, -z; got {num_noises}."
        )
    if control not in ("gaussian", None):
        raise ValueError(f'`control` must be "gaussian" or None; got {control!r}.')
    spanned = n - 1 + n * num_noises // 2
    if is_concrete(ridge) and not ridge > 0 and spanned < d:
        raise ValueError(
            f"`ridge` must be positive where {n} points with {num_noises} noises each span no more "
            f"than {spanned} of {d} directions; got {ridge}. Or give more points or noises."
        )
    if reference is None:
        reference = GaussianDenoiser.fit(data)
    if reference.dim != d:
        raise ValueError(f"`reference` must have dimension {d}, like `data`; got {reference.dim}.")
    points_at_once = max(1, as_positive_integer(batch_size, "batch_size") // num_noises)
    gaussian: Any = jax.tree.map(lambda leaf: leaf.astype(data.dtype), reference)
    problem = _Problem(as_argument(denoiser), gaussian, data, sigma, jnp.asarray(ridge))
    settings = num_noises, min(points_at_once, n), control == "gaussian"
    return _distill(problem, key, *settings)


class _Problem(eqx.Module):
    denoiser: Denoiser
    reference: GaussianDenoiser
    data: Float[Array, "n d"]
    sigma: Float[Array, ""]
    ridge: Float[Array, ""]

    def whitening(self) -> Float[Array, "d d"]:
        """T = (Sigma + sigma^2)^(-1/2)."""
        return self.function_of_covariance(lambda total, _: 1 / jnp.sqrt(total))

    def gains(self) -> Float[Array, "d d"]:
        """The matrix of the Gaussian reference."""
        return self.function_of_covariance(lambda total, variance: variance / total)

    def function_of_covariance(self, function: Any) -> Float[Array, "d d"]:
        # Along each mode, of `lambda + sigma^2` and `lambda`; symmetric.
        noise = square_of_level(self.sigma)
        of = lambda variance: function(variance + noise, variance)  # noqa: E731
        modes, rest = of(self.reference.eigenvalues), of(self.reference.complement)
        identity = jnp.eye(self.data.shape[1], dtype=self.data.dtype)
        return jax.vmap(lambda row: self.reference.map_modes(row, modes, rest))(identity)

    def noisy(self, keys: PRNGKeyArray, index: Array, num_noises: int) -> Float[Array, "p K d"]:
        """The noisy points of some data points, in pairs on both sides of them."""
        x = self.data[index]
        z = jax.vmap(lambda key, x: noises(key, num_noises // 2, x))(keys[index], x)
        return x[:, None] + self.sigma * jnp.concatenate([z, -z], axis=1)

    def values(self, u: Float[Array, "p K d"]) -> tuple[Array, Array]:
        """D and D_G at noisy points."""
        flat = u.reshape(-1, u.shape[-1])
        values = jax.vmap(lambda u: denoised(self.denoiser, u, self.sigma))(flat)
        smooth = jax.vmap(lambda u: denoised(self.reference, u, self.sigma))(flat)
        return values.reshape(u.shape), smooth.reshape(u.shape)


@eqx.filter_jit
def _distill(
    problem: _Problem, key: PRNGKeyArray, num_noises: int, points_at_once: int, control: bool
) -> LinearDistillation:
    n, d = problem.data.shape
    mean, dtype = problem.reference.mean, problem.data.dtype
    whitening = problem.whitening()
    count, size = blocks_of(n, points_at_once)
    indices = jnp.arange(count * size).reshape(count, size)
    keys = jax.vmap(lambda key: keys_by_index(key, n))(jax.random.split(key))

    def rows(keys: PRNGKeyArray, index: Array) -> tuple[Array, Array, Array, Array]:
        # Indices beyond the last point fill up the last block, at weight zero.
        weights = (index < n).astype(dtype)
        u = problem.noisy(keys, jnp.minimum(index, n - 1), num_noises)
        values, smooth = problem.values(u)
        v = jnp.matmul(u - mean[None, None], whitening, precision=HIGHEST)
        return weights, v, values, smooth

    def fitted(values: Array, smooth: Array) -> Array:
        return values - smooth if control else values

    def add_block(moments: Moments, index: Array) -> tuple[Moments, None]:
        weights, v, values, smooth = rows(keys[0], index)
        y = fitted(values, smooth)
        flat = (v.reshape(-1, d), y.reshape(-1, d), jnp.repeat(weights, num_noises))
        return moments.merged(Moments.of(*flat)), None

    none, zero = jnp.zeros((), dtype), jnp.zeros(d, dtype)
    empty = Moments(none, zero, zero, jnp.zeros((d, d), dtype), jnp.zeros((d, d), dtype))
    moments, _ = lax.scan(add_block, empty, indices)

    fit = Fit.of(moments, whitening, problem.ridge)
    matrix = jnp.matmul(fit.slopes, whitening, precision=HIGHEST)
    at_zero = jnp.matmul(
        fit.slopes, jnp.matmul(whitening, mean) + moments.mean_v, precision=HIGHEST
    )
    offset = moments.mean_y - at_zero
    if control:
        gains = problem.gains()
        matrix = gains + matrix
        offset = mean - jnp.matmul(gains, mean, precision=HIGHEST) + offset
    centre = jnp.mean(problem.data, axis=0)
    mean_value = jnp.matmul(matrix, centre, precision=HIGHEST) + offset

    def evaluate(keys: PRNGKeyArray) -> tuple[Array, Array]:
        """Mean squares of each point, and sums of squared influences of points on W and b."""

        def one_block(total: tuple[Array, Array], index: Array):
            weights, v, values, smooth = rows(keys, index)
            v = v - moments.mean_v[None, None]
            predicted = moments.mean_y[None, None] + jnp.matmul(v, fit.slopes.T, precision=HIGHEST)
            residual = fitted(values, smooth) - predicted
            difference = values - smooth
            squares = [difference, residual, difference - residual, values - mean_value[None, None]]
            means = jnp.stack([jnp.mean(x**2, axis=(1, 2)) for x in squares])
            sums, sums_of_squares, noise = fit.influences(v, residual, weights, whitening, centre)
            total = total[0] + sums, total[1] + sums_of_squares
            return total, jnp.concatenate([means, noise[None]])

        start = jnp.zeros((d, d + 1), dtype), jnp.zeros((d, d + 1), dtype)
        (sums, sums_of_squares), by_point = lax.scan(one_block, start, indices)
        by_point = jnp.moveaxis(by_point, 1, 0).reshape(5, -1)[:, :n]
        # n/(n - 1) for the mean that is taken out, and 1/n^2 as influences are on a mean over points.
        spread = (sums_of_squares - sums**2 / n) / (n * (n - 1))
        return by_point, jnp.sqrt(jnp.maximum(spread, 0))

    by_point, errors = lax.map(evaluate, keys)
    difference, residual, mismatch = by_point[0, :3]
    unexplained = ratio_of_means(by_point[1, 1], by_point[1, 3])
    return LinearDistillation(
        matrix=Estimate(matrix, errors[1, :, :d]),
        offset=Estimate(offset, errors[1, :, d]),
        sigma=problem.sigma,
        r_squared=Estimate(1 - unexplained.value, unexplained.standard_error),
        difference=mean_estimate(difference),
        nonlinear_residual=mean_estimate(residual),
        # Its first-order error is that of the other two's difference: the residual does not move with the fit.
        linear_mismatch=Estimate(
            jnp.mean(mismatch), mean_estimate(difference - residual).standard_error
        ),
        fit_noise=jnp.mean(by_point[1, 4]) / n,
    )
