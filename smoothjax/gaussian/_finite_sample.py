r"""The Gaussian denoiser that is fitted to N points, when they are drawn from a Gaussian: its mean, its scatter, its risk.

`GaussianDenoiser.fit` on N points of `N(mu, Sigma)` gives a random denoiser. Its matrix of gains W, and with `R = 1 - W`
its residual, are functions of a Wishart matrix with `n = N - 1` degrees of freedom, as the mean is fitted too. In units in
which that matrix is unbiased, its noise variance is `s = sigma^2 N / n`. The *deterministic equivalent* replaces s by the
root kappa > s of

    kappa = s + (kappa / n) sum_i lambda_i / (lambda_i + kappa),

so that on average `R = kappa (Sigma + kappa)^-1`: the population's denoiser at a larger noise level. Its scatter follows
from the equivalent of two resolvents,

    E[R B R] = Q B Q + Q Sigma Q tr(B Sigma Q^2) / (kappa^2 (n - tr W^2)),     Q = kappa (Sigma + kappa)^-1, W = 1 - Q.

Both are exact in the limit of large N and d, at any ratio; what is dropped is smaller by about 1/N and, in single modes, by
one over the effective dimension `tr W`. One such term is kept, so that the scatter's expansion in 1/N at fixed d is right
to leading order as well: it doubles the variance of a covariance's diagonal.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._checks import RealScalar, as_float_array, checked, require_finite
from .._kinds import checks_kinds
from .._levels import as_level
from .._numerics import square_of_level

# Newton's method halves the root's distance to zero at worst: enough for the range of the dtype, and some more.
MAX_ITERATIONS = 1100


@checks_kinds
def effective_noise_level(
    variances: Float[Array, " d"], sigma: RealScalar, num_train: int | RealScalar
) -> Float[Array, ""]:
    """The noise level at which the population's Gaussian denoiser is the mean of those fitted to `num_train` points.

    `sqrt(kappa)` with `kappa = s + (kappa/n) sum_i lambda_i / (lambda_i + kappa)`, `n = N - 1`, `s = sigma^2 N / n`. It
    tends to sigma for many points. With fewer points than directions it has a positive limit as sigma vanishes: a fitted
    model treats the directions that it has no points for as noise.

    It is the deterministic equivalent for Gaussian data, exact for large N and d; gains in single modes are off by about
    1/N. The solver is Newton's method from above, on a convex function: any spectrum converges, zeros included.
    Differentiable.

    Args:
        variances: all eigenvalues of the population's covariance, such as `GaussianDenoiser.variances`, shape (d,).
        sigma: noise level, in data units, positive.
        num_train: number N of training points, at least 2.

    Raises:
        ValueError: for negative or non-finite variances, a noise level that is not positive, fewer than two points.

    Source: Silverstein 1995; see e.g. Bach 2024, "High-dimensional analysis of double descent for linear regression".

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax import gaussian
        >>> print(gaussian.effective_noise_level(jnp.ones(100), 0.1, 51).round(3))  # half as many points as directions
        1.01
    """
    return _of_fit(_Fit.level, *_checked(variances, sigma, num_train))


@checks_kinds
def expected_gains(
    variances: Float[Array, " d"], sigma: RealScalar, num_train: int | RealScalar
) -> Float[Array, " d"]:
    """Mean gain of fitted Gaussian denoisers along each mode: `lambda / (lambda + kappa)`, below the population's.

    Args and what is raised: as for `effective_noise_level`, whose square is kappa.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax import gaussian
        >>> print(gaussian.expected_gains(jnp.array([1.0, 3.0]), 1.0, 10**6).round(4))  # many points: the population's
        [0.5  0.75]
    """
    return _of_fit(_Fit.gains, *_checked(variances, sigma, num_train))


@checks_kinds
def fluctuation(
    variances: Float[Array, " d"],
    sigma: RealScalar,
    num_train: int | RealScalar,
    *,
    elliptical_kurtosis: RealScalar = 0.0,
) -> Float[Array, ""]:
    r"""Scatter of fitted Gaussian denoisers about their mean: `E |D_fit(u) - E D_fit(u)|^2`, summed over coordinates.

    The mean over training sets of N points and over fresh noisy points u, by the deterministic equivalent:

        sum_i q_i^2 lambda_i [sum_j g_j h_j + g_i h_i + n/N] / (n - sum_j g_j^2)

    with `q = kappa/(lambda + kappa)`, `g = lambda/(lambda + kappa)`, `h = (lambda + sigma^2)/(lambda + kappa)`. The
    first two terms in brackets are from the fitted covariance, the last from the fitted mean.

    For elliptical data of kurtosis k (see `leading_order_excess_risk`, and `elliptical_kurtosis` for an estimate), the first
    two are replaced by `(1 + k) (sum_j g_j h_j + g_i h_i) + k g_i h_i`: right to leading order in 1/N. What heavy tails do
    to kappa is left out, so the correction is good for `(1 + k) tr W << N`, and no more than a guide beyond.

    Args and what is raised: as for `leading_order_excess_risk`.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax import gaussian
        >>> variances = jnp.ones(3)
        >>> found = gaussian.fluctuation(variances, 1.0, 10**5) / gaussian.excess_risk(variances, 1.0, 10**5)
        >>> round(float(found), 3)  # with many points all risk is scatter
        1.0
    """
    kurtosis = _as_kurtosis(elliptical_kurtosis)
    return _of_fit(_Fit.fluctuation, *_checked(variances, sigma, num_train), kurtosis)


@checks_kinds
def excess_risk(
    variances: Float[Array, " d"],
    sigma: RealScalar,
    num_train: int | RealScalar,
    *,
    elliptical_kurtosis: RealScalar = 0.0,
) -> Float[Array, ""]:
    """Expected excess mean square error of a fitted Gaussian denoiser over the population's, summed over coordinates.

    For Gaussian data, `E |D_fit(u) - D(u)|^2` at fresh noisy points u: `fluctuation`, and the squared bias
    `sum_i g_i^2 (kappa - sigma^2)^2 / (lambda_i + sigma^2)` of the gains. By the deterministic equivalent, so also where
    there are fewer points than directions. The error itself is `GaussianDenoiser.minimum_error` more.

    With `elliptical_kurtosis`, for elliptical data, to leading order in 1/N: see `fluctuation`.

    Args and what is raised: as for `leading_order_excess_risk`.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax import gaussian
        >>> variances = jnp.ones(3)
        >>> risk = gaussian.excess_risk(variances, 1.0, 100_000)  # many: (1/N) d (1/4) (1 + d/2 + 1/2)
        >>> round(float(risk) * 100_000, 2)
        2.25
    """
    kurtosis = _as_kurtosis(elliptical_kurtosis)
    return _of_fit(_Fit.excess_risk, *_checked(variances, sigma, num_train), kurtosis)


@checks_kinds
def leading_order_excess_risk(
    variances: Float[Array, " d"],
    sigma: RealScalar,
    num_train: int | RealScalar,
    *,
    elliptical_kurtosis: RealScalar = 0.0,
) -> Float[Array, ""]:
    r"""`excess_risk` to leading order in 1/N, exact as N grows at fixed d: `(1/N) sum_i r_i^2 lambda_i (1 + tr W + g_i)`.

    With heavier tails fitted covariances scatter more. For elliptical data, a Gaussian vector times an independent random
    radius, with `k = E z^4 / 3 (E z^2)^2 - 1` for every centred coordinate z (2 / (nu - 4) for Student's t), the covariance
    of two entries of the fitted covariance makes of `tr W + g_i` here `(1 + k) (tr W + g_i) + k g_i`. So with Student's t of
    5 degrees, k = 2, the risk is up to 4 times and an RMSE up to 2 times that of Gaussian data.

    `g = lambda / (lambda + sigma^2)`, `r = 1 - g`, `tr W = sum_i g_i`; the 1 is from the fitted mean. Valid for
    `tr W << N`. Beyond it is too small, by half at `tr W = N/3`, say, and by any factor at small noise with no more points
    than directions: see `excess_risk`.

    Args and what is raised: as for `effective_noise_level`; and

        elliptical_kurtosis: k above, more than -1; 0 for Gaussian data.

    Source of the covariance of fitted covariances: Muirhead, "Aspects of multivariate statistical theory", 1982.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax import gaussian
        >>> risk = gaussian.leading_order_excess_risk(jnp.ones(1), 1.0, 100)
        >>> round(100 * float(risk), 5)  # (1/4) (1 + 1/2 + 1/2)
        0.5
    """
    kurtosis = _as_kurtosis(elliptical_kurtosis)
    return _leading_order_excess_risk(*_checked(variances, sigma, num_train), kurtosis)


@checks_kinds
def independent_fits_rmse(
    variances: Float[Array, " d"],
    sigma: RealScalar,
    num_train: int | RealScalar,
    *,
    elliptical_kurtosis: RealScalar = 0.0,
) -> Float[Array, ""]:
    """Predicted RMSE between Gaussian denoisers fitted to two independent sets of `num_train` points each, per coordinate.

    `sqrt(2 fluctuation / d)`: the baseline for models trained on disjoint halves of a data set, which differ by as much
    even if each is no more than Gaussian. Compare with `denoiser_rmse` on points that are in neither half.

    **For Gaussian data.** Heavier tails raise it, up to 2 times for elliptical data of Student's t with 5 degrees. Give
    their `elliptical_kurtosis`, which is estimated by the function of that name: to leading order in 1/N, see `fluctuation`.

    Args and what is raised: as for `leading_order_excess_risk`.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax import gaussian
        >>> fluctuation = gaussian.fluctuation(jnp.ones(8), 1.0, 100)
        >>> round(float(gaussian.independent_fits_rmse(jnp.ones(8), 1.0, 100) ** 2 / fluctuation), 5)  # 2 / d
        0.25
    """
    kurtosis = _as_kurtosis(elliptical_kurtosis)
    return _of_fit(_Fit.independent_fits_rmse, *_checked(variances, sigma, num_train), kurtosis)


def _as_kurtosis(value: RealScalar) -> Array:
    kurtosis = as_float_array(value, "elliptical_kurtosis")
    message = "`elliptical_kurtosis` must be one number of more than -1"
    if kurtosis.ndim != 0:
        raise ValueError(f"{message}; got shape {kurtosis.shape}.")
    return checked(kurtosis, ~(kurtosis > -1), message, f"; got {kurtosis}")


class _Fit(NamedTuple):
    """The deterministic equivalent, with variances in units of `unit^2`."""

    variances: Array
    noise: Array
    num_train: Array
    unit: Array
    kappa: Array
    kurtosis: Array

    def level(self) -> Array:
        return self.unit * jnp.sqrt(self.kappa)

    def gains(self) -> Array:
        return self.variances / (self.variances + self.kappa)

    def fluctuation(self) -> Array:
        gains, rest = self.gains(), self.kappa / (self.variances + self.kappa)
        spread = gains * (self.variances + self.noise) / (self.variances + self.kappa)
        degrees = self.num_train - 1
        of_covariance = (1 + self.kurtosis) * (jnp.sum(spread) + spread) + self.kurtosis * spread
        terms = of_covariance + degrees / self.num_train
        _, free = _equation(self.kappa, self.variances, degrees)
        return self.unit**2 * jnp.sum(rest**2 * self.variances * terms) / (degrees * free)

    def excess_risk(self) -> Array:
        excess = self.gains() * (self.kappa - self.noise)
        bias = jnp.sum(excess**2 / (self.variances + self.noise))
        return self.fluctuation() + self.unit**2 * bias

    def independent_fits_rmse(self) -> Array:
        return jnp.sqrt(2 * self.fluctuation() / self.variances.shape[0])


def _checked(variances: Any, sigma: Any, num_train: Any) -> tuple[Array, Array, Array, Array]:
    """The arguments in units of the largest of them, so that squares and products stay in range, and that unit."""
    variances = as_float_array(variances, "variances")
    if variances.ndim != 1 or variances.shape[0] == 0:
        raise ValueError(f"`variances` must have shape (d,); got {variances.shape}.")
    require_finite(variances, "variances")
    variances = checked(
        variances, variances < 0, "`variances` must be non-negative", f"; got {variances}"
    )
    sigma = as_level(sigma, "sigma", variances.dtype)
    num_train = as_float_array(num_train, "num_train").astype(variances.dtype)
    message = "`num_train` must be one finite number of at least 2"
    if num_train.ndim != 0:
        raise ValueError(f"{message}; got shape {num_train.shape}.")
    bad = ~((num_train >= 2) & (num_train < jnp.inf))
    num_train = checked(num_train, bad, message, f"; got {num_train}")
    unit = jnp.maximum(jnp.sqrt(jnp.max(lax.stop_gradient(variances))), lax.stop_gradient(sigma))
    # Not two quotients, which the compiler would merge into one by a square out of range.
    inverse = 1 / unit
    return variances * inverse * inverse, sigma * inverse, num_train, unit


@eqx.filter_jit
def _of_fit(quantity: Callable[["_Fit"], Array], *arguments: Array) -> Array:
    return quantity(_fit(*arguments))


@eqx.filter_jit
def _leading_order_excess_risk(
    variances: Array, sigma: Array, num_train: Array, unit: Array, kurtosis: Array
) -> Array:
    noise, kurtosis = square_of_level(sigma), kurtosis.astype(variances.dtype)
    gains, rest = variances / (variances + noise), noise / (variances + noise)
    of_covariance = (1 + kurtosis) * (jnp.sum(gains) + gains) + kurtosis * gains
    terms = rest**2 * variances * (1 + of_covariance)
    return unit**2 * jnp.sum(terms) / num_train


def _fit(
    variances: Array, sigma: Array, num_train: Array, unit: Array, kurtosis: Array | float = 0.0
) -> _Fit:
    noise, degrees = square_of_level(sigma), num_train - 1
    target = noise * (num_train / degrees)

    def newton(kappa, variances, target):
        free, slope = _equation(kappa, variances, degrees)
        return kappa - (kappa * free - target) / lax.stop_gradient(slope)

    def unfinished(state):
        i, kappa, previous = state
        return (kappa < previous * (1 - 4 * jnp.finfo(kappa.dtype).eps)) & (i < MAX_ITERATIONS)

    def step(state):
        i, kappa, _ = state
        # From above the iterates decrease; the next cannot but by rounding fall below `target`, which kappa exceeds.
        return i + 1, jnp.maximum(newton(kappa, *constants), target), kappa

    constants = lax.stop_gradient((variances, target))
    start = constants[1] + jnp.sum(constants[0]) / degrees
    first = jnp.maximum(newton(start, *constants), constants[1])
    kappa = lax.while_loop(unfinished, step, (0, first, start))[1]
    # One more step, which carries the derivatives of the root.
    kappa = newton(lax.stop_gradient(kappa), variances, target)
    return _Fit(variances, noise, num_train, unit, kappa, jnp.asarray(kurtosis, variances.dtype))


def _equation(kappa: Array, variances: Array, degrees: Array) -> tuple[Array, Array]:
    """`b = 1 - (1/n) sum lambda / (lambda + kappa)`, and `1 - (1/n) sum (lambda / (lambda + kappa))^2`, both positive.

    kappa solves `kappa b(kappa) = s`; the second is the derivative of the left-hand side.
    """
    gains, rest = variances / (variances + kappa), kappa / (variances + kappa)
    positive = variances > 0
    number = jnp.sum(positive).astype(degrees.dtype)
    # With fewer directions than degrees of freedom nothing is subtracted: b may be as small as rounding.
    few = (degrees - number) / degrees + jnp.sum(jnp.where(positive, rest, 0)) / degrees
    b = jnp.where(number <= degrees, few, 1 - jnp.sum(gains) / degrees)
    return b, b + jnp.sum(gains * rest) / degrees
