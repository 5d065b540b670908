r"""How far the maps from noise to data of two Gaussian models differ that are fitted to independent sets of points.

The probability flow of a fitted Gaussian multiplies what it starts from by `A = ((S + a) / (S + b))^(1/2)`, with S the
fitted covariance and a, b the squares of the last and the first noise level. Two independent fits differ by
`E |A_1 - A_2|^2 = 2 (E tr A^2 - tr (E A)^2)`, and both terms are resolvents: `A^2 = 1 - (b - a) (S + b)^-1`, and

    A = (1/pi) int_a^b (S + a) (S + t)^-1 dt / sqrt((t - a) (b - t)).

The mean of a resolvent is its deterministic equivalent with one more term, as in `_finite_sample`, so that the difference is
exact for many points in any number of dimensions, and to leading order in 1/N at fixed dimension.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import RealScalar, as_float_array, require_ascending
from .._kinds import checks_kinds
from .._levels import as_level
from ._finite_sample import effective_noise_level

# Of the logarithm of the tangent of an angle: the integrand falls by exp(-|s|) at both ends, and the trapezoidal rule
# converges exponentially.
REACH, STEP = 40.0, 0.2


@checks_kinds
def independent_maps_rmse(
    variances: Float[Array, " d"],
    num_train: int | RealScalar,
    sigma_from: RealScalar = 80.0,
    sigma_to: RealScalar = 0.002,
) -> Float[Array, ""]:
    """Predicted RMSE, a coordinate, between samples from one noise of Gaussians fitted to two independent sets of points.

    The sampling half of `independent_fits_rmse`: what is compared are the maps from noise at `sigma_from` to data, by the
    probability flow, of models of `num_train` points each. The baseline for networks trained on disjoint halves of a data
    set, whose samples from one noise are compared by `strong_generalization`.

    Args:
        variances: all eigenvalues of the population's covariance, shape (d,), in squared data units.
        num_train: number N of training points of each, at least 2.
        sigma_from: noise level of the start, in data units, where both start from the same point.
        sigma_to: noise level of the end, positive and smaller.

    Raises:
        ValueError: for negative or non-finite variances, fewer than two points, or levels that are not positive and
            decreasing.

    Source: Wang et al. 2026, arXiv 2602.02908, for the question; the equivalent of the square root is ours.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax import gaussian
        >>> rmse = gaussian.independent_maps_rmse(jnp.ones(1), 3000)  # 2 (1 / 2N + 1 / N), of the spread and of the mean
        >>> print(round(float(rmse), 3))
        0.031
    """
    variances = as_float_array(variances, "variances")
    high = as_level(sigma_from, "sigma_from", variances.dtype)
    low = as_level(sigma_to, "sigma_to", variances.dtype)
    require_ascending(low, high, "sigma_to", "sigma_from")
    num_train = as_float_array(num_train, "num_train").astype(variances.dtype)
    # The first call checks; those inside are of what was checked.
    effective_noise_level(variances, high, num_train)
    return _rmse(variances, num_train, jnp.asarray(high), jnp.asarray(low))


@jax.jit
def _rmse(variances: Array, num_train: Array, high: Array, low: Array) -> Float[Array, ""]:
    degrees = num_train - 1

    def ratio(level: Array) -> Float[Array, " d"]:
        """`E (S + a) (S + t)^-1`, mode by mode, at `t = level^2`."""
        kappa = effective_noise_level(variances, level, num_train) ** 2
        rest = variances + kappa
        mean = (variances + kappa * (low / level) ** 2) / rest
        # Of the covariance's own fluctuation in a mode, which the equivalent leaves out.
        single = (variances / rest) ** 2 * (kappa / rest) / degrees
        return mean - single * (1 - (low / level) ** 2)

    places = jnp.linspace(-REACH, REACH, round(2 * REACH / STEP) + 1, dtype=variances.dtype)
    cosine, sine = jax.nn.sigmoid(-2 * places) ** 0.5, jax.nn.sigmoid(2 * places) ** 0.5
    levels = jnp.sqrt((low * cosine) ** 2 + (high * sine) ** 2)
    weights = (2 / jnp.pi) * STEP * cosine * sine
    gains = jnp.sum(weights[:, None] * jax.lax.map(ratio, levels), axis=0)
    spread = jnp.maximum(ratio(high) - gains**2, 0)
    of_means = (1 - gains) ** 2 * variances / num_train
    return jnp.sqrt(2 * jnp.mean(high**2 * spread + of_means))
