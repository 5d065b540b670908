"""What an affine denoiser generates at any time of its training: the law of its samples, mode by mode."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import (
    RealScalar,
    as_float_array,
    checked,
    is_concrete,
    require_finite,
    require_larger,
    shown,
)
from .._jax.precision import HIGHEST
from .._kinds import checks_kinds
from .._levels import as_level
from .._numerics import bisect, square_of_level
from ..denoisers import GaussianDenoiser
from ..flows import flow
from ._levels_integral import integral, log_nodes, running_integral
from ._linear import TrainedLinearDenoiser, Weight, weight_at
from ._relaxation import Flow, Relaxation, flow_for

# Of the flow of a model whose modes are coupled.
COUPLED_TOLERANCE = {"float32": 1e-6, "float64": 1e-11}


@checks_kinds
def generated_law(
    denoiser: TrainedLinearDenoiser, sigma_max: RealScalar, sigma_min: RealScalar
) -> GaussianDenoiser:
    r"""The law of the samples of a linear denoiser in training: of its probability flow from `N(0, sigma_max^2)`.

    A mode of variance lambda whose gain is `g(sigma)` ends at sigma_min with the variance

        sigma_max^2 exp(-2 int (1 - g) dlog sigma),

    over the noise levels between, and the mean is such an integral too. Both are evaluated to rounding by Gauss's rule. With
    weight one and `g = lambda / (lambda + s) + (g_0 - lambda / (lambda + s)) exp(-(lambda + s) tau)`, `s = sigma^2`, the
    integral is in exponential integrals,

        (lambda + s_min) exp{E((lambda + s_min) tau) - E((lambda + s_max) tau)
            + (g_0 - 1) exp(-lambda tau) [E(s_min tau) - E(s_max tau)]} s_max / (lambda + s_max),

    `E = E_1`. At a finite time the variance vanishes with sigma_min, as `sigma_min^(2 (1 - g_0) exp(-lambda tau))`.

    Where the mean couples the modes, or the initial matrix is no multiple of the identity, the flow is one of a matrix, and
    is integrated numerically, to a relative 1e-11 a step (1e-6 in float32), from d + 1 points.

    Args:
        denoiser: linear, at one time of its training.
        sigma_max: noise level that samples start from, with mean zero.
        sigma_min: positive noise level at which they end, with what noise is left there.

    Returns:
        A `GaussianDenoiser` whose `mean`, `covariance()` and `variances` are those of the samples.

    Raises:
        ValueError: for noise levels that are not positive, or `sigma_max` not above `sigma_min`.

    Source: Wang and Pehlevan, arXiv 2503.03206.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> from smoothjax import training_dynamics
        >>> data = sj.GaussianDenoiser(jnp.zeros(2), jnp.diag(jnp.array([1.0, 0.01])))
        >>> early = sj.TrainedLinearDenoiser.gradient_flow(data, duration=10.0)
        >>> print(training_dynamics.generated_law(early, 80.0, 0.01).covariance().round(3))  # the first mode is there
        [[1. 0.]
         [0. 0.]]
    """
    dtype = denoiser.gaussian.mean.dtype
    high, low = _ends(sigma_max, sigma_min, dtype)
    if not _is_uncoupled(denoiser):
        return _coupled_law(denoiser, high, low)
    return _uncoupled_law(denoiser, jnp.asarray(high, dtype), jnp.asarray(low, dtype))


@checks_kinds
def generated_variances(
    variances: Float[Array, "*modes"],
    sigma_max: RealScalar,
    sigma_min: RealScalar,
    *,
    duration: RealScalar,
    initial_gain: RealScalar = 0.0,
    weight: Weight | None = None,
) -> Float[Array, "*modes"]:
    """Variance of samples in each mode of a linear denoiser after gradient flow for a time `duration`: see `generated_law`.

    For data of mean zero or a centred model.

    Args:
        variances: eigenvalues of the covariance of the data, of any shape, non-negative.
        sigma_max, sigma_min: noise levels at which samples start and end.
        duration: training time, non-negative.
        initial_gain: of every mode at the start: 1 where a model of noise starts from zero.
        weight: of the loss, a callable `sigma -> ()`; one by default.

    Raises:
        ValueError: for negative variances or a negative duration, or noise levels as for `generated_law`.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax import training_dynamics
        >>> found = training_dynamics.generated_variances(jnp.array([1.0]), 100.0, 0.1, duration=0.0)
        >>> print(found.round(4))  # D = 0 takes all there is away but the last noise
        [0.01]
    """
    values = _variances(variances)
    high, low = _ends(sigma_max, sigma_min, values.dtype)
    gain = _scalar(initial_gain, "initial_gain").astype(values.dtype)
    return _generated(values, high, low, flow_for(duration), gain, weight)


@checks_kinds
def emergence_time(
    variances: Float[Array, "*modes"], sigma: RealScalar, *, fraction: RealScalar = 0.5
) -> Float[Array, "*modes"]:
    r"""Training time at which the gain of each mode has gone a fraction of its way, at one noise level, under gradient flow.

    `log(1 / (1 - fraction)) / (lambda + sigma^2)`, whatever the gain started from: that of the model with its mean at zero,
    or centred, and of a loss of weight one (divide by the weight for another). Its slope in a log-log plot against lambda is
    `-lambda / (lambda + sigma^2)`: -1 for variances well above sigma^2, to 1 % from `100 sigma^2` on, and 0 well below,
    where all modes come at the same time.

    Args:
        variances: eigenvalues of the covariance of the data, of any shape, non-negative.
        sigma: noise level.
        fraction: of the way from the initial to the optimal gain, between 0 and 1; half by default.

    Raises:
        ValueError: for negative variances, a noise level that is not positive, a fraction out of range.

    Source: Wang and Pehlevan, arXiv 2503.03206.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.training_dynamics.emergence_time(jnp.array([3.0, 0.0]), 1.0, fraction=0.75).round(4))  # log 4 / rate
        [0.3466 1.3863]
    """
    values = _variances(variances)
    level = as_level(sigma, "sigma", values.dtype)
    share = _fraction(fraction).astype(values.dtype)
    return -jnp.log1p(-share) / (values + square_of_level(jnp.asarray(level)))


@checks_kinds
def generated_emergence_time(
    variances: Float[Array, "*modes"],
    sigma_max: RealScalar,
    sigma_min: RealScalar,
    *,
    fraction: RealScalar = 0.5,
    initial_gain: RealScalar = 0.0,
) -> Float[Array, "*modes"]:
    r"""Training time at which the variance of samples in each mode has gone a fraction of its way, under gradient flow.

    From what is generated at time zero to what the trained model generates, `generated_variances` of a loss of weight one,
    by bisection. Between sigma_min^2 and sigma_max^2 the time is `x / lambda` with x a slow function of lambda: from zero
    weights half the variance is there at `exp(-x) [log(lambda / (sigma_min^2 x)) - 0.577] - E_1(x) = log 2`, so that x grows
    like the logarithm of `log(lambda / sigma_min^2)`, and the slope in a log-log plot is some per cent short of -1.

    Args:
        variances: eigenvalues of the covariance of the data, of any shape, positive.
        sigma_max, sigma_min: noise levels at which samples start and end.
        fraction: of the way, between 0 and 1; half by default.
        initial_gain: of every mode at the start, at most 0 or at least 1: between, variances do not change monotonically.

    Raises:
        ValueError: for variances that are not positive, a fraction or an initial gain out of range, or noise levels as for
            `generated_law`.

    Source: Wang and Pehlevan, arXiv 2503.03206.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax import training_dynamics
        >>> found = training_dynamics.generated_emergence_time(jnp.array([1.0, 0.1]), 80.0, 0.002)
        >>> print(round(float(found[1] / found[0]), 1))  # a tenth of the variance comes nine times as late
        9.1
    """
    values = _variances(variances)
    values = checked(
        values, values == 0, "`variances` must be positive", f"; got {shown(variances)}"
    )
    high, low = _ends(sigma_max, sigma_min, values.dtype)
    gain = _scalar(initial_gain, "initial_gain").astype(values.dtype)
    gain = checked(
        gain,
        (gain > 0) & (gain < 1),
        "`initial_gain` must be at most 0 or at least 1",
        f"; got {initial_gain}",
    )
    return _first_passage(values, high, low, _fraction(fraction).astype(values.dtype), gain)


@eqx.filter_jit
def _generated(
    values: Array, high: Any, low: Any, relaxation: Relaxation, gain: Array, weight: Weight | None
) -> Array:
    nodes, half = _nodes(high, low, values.dtype)
    # The weight of the loss is evaluated by the denoiser alone.
    factor = _factors(weight, jnp.exp(nodes))
    loss = _contraction(values.ravel(), jnp.exp(nodes), factor, relaxation, gain)
    ends = jnp.asarray(high, values.dtype) * jnp.exp(-integral(loss, half))
    return (ends**2).reshape(values.shape)


@eqx.filter_jit
def _first_passage(values: Array, high: Any, low: Any, fraction: Array, gain: Array) -> Array:
    def variance(log_duration: Array) -> Array:
        one = lambda v, t: _generated(v, high, low, Flow(jnp.exp(t)), gain, None)  # noqa: E731
        return jax.vmap(one)(values.ravel(), log_duration.ravel()).reshape(values.shape)

    level = jnp.asarray(low, values.dtype)
    # Nothing is learned before one over the largest rate, and all after a hundred over the variance.
    first = jnp.log(1e-6 / (values + square_of_level(jnp.asarray(high, values.dtype))))
    last = jnp.log(100 / values)
    start = _generated(values, high, low, Flow(jnp.zeros((), values.dtype)), gain, None)
    noise = square_of_level(level), square_of_level(jnp.asarray(high, values.dtype))
    end = noise[1] * (values + noise[0]) / (values + noise[1])
    target = start + fraction * (end - start)
    rising = end > start
    return jnp.exp(bisect(lambda t: (variance(t) < target) == rising, first, last))


@eqx.filter_jit
def _uncoupled_law(denoiser: TrainedLinearDenoiser, high: Array, low: Array) -> GaussianDenoiser:
    data, gain = denoiser.gaussian, denoiser.initial_matrix
    nodes, half = _nodes(high, low, high.dtype)
    levels = jnp.exp(nodes)
    factor = jax.vmap(denoiser.rate_factor)(levels)
    variances = jnp.append(data.eigenvalues, data.complement)
    loss = _contraction(variances, levels, factor, denoiser.relaxation, gain)
    whole, running = integral(loss, half), running_integral(loss, half)
    variance = (high * jnp.exp(-whole)) ** 2
    # Of the state less the mean, from minus the mean; the bias is still off by what is left of its own start.
    bias = denoiser.relaxation.remaining(factor)
    pulled = integral(jnp.exp(-running) * bias[None], half)
    of_mean = data.map_modes(data.mean, jnp.exp(-whole[:-1]), jnp.exp(-whole[-1]))
    off = denoiser.initial_bias - data.mean
    if denoiser.centred:
        off = data.map_modes(off, pulled[:-1], pulled[-1])
    else:  # of mean zero
        off = data.map_modes(denoiser.initial_bias, pulled[:-1], pulled[-1])
    return GaussianDenoiser.low_rank(
        data.mean - of_mean + off, data.basis, variance[:-1], variance[-1]
    )


def _coupled_law(denoiser: TrainedLinearDenoiser, high: Any, low: Any) -> GaussianDenoiser:
    d, dtype = denoiser.dim, denoiser.gaussian.mean.dtype
    tolerance = COUPLED_TOLERANCE[str(dtype)]
    start = jnp.concatenate([jnp.zeros((1, d), dtype), high * jnp.eye(d, dtype=dtype)])
    run = lambda u: flow(denoiser, u, high, low, rtol=tolerance, atol=tolerance)  # noqa: E731
    ends = eqx.filter_jit(jax.vmap(run))(start)
    columns = ends[1:] - ends[:1]
    return GaussianDenoiser(ends[0], jnp.matmul(columns.T, columns, precision=HIGHEST))


def _contraction(
    variances: Array, levels: Array, factor: Array, relaxation: Relaxation, gain: Array
) -> Float[Array, "modes nodes"]:
    """`1 - g(sigma)`, without cancellation."""
    noise = square_of_level(levels)[None]
    total = variances[:, None] + noise
    rates, rest = factor[None] * total, noise / total
    return relaxation.remaining(rates) * (1 - gain) + relaxation.covered(rates) * rest


def _factors(weight: Weight | None, levels: Array) -> Array:
    if weight is None:
        return jnp.ones_like(levels)
    return jax.vmap(lambda sigma: weight_at(weight, sigma))(levels)


def _nodes(high: Any, low: Any, dtype: Any) -> tuple[Array, Array]:
    return log_nodes(jnp.log(jnp.asarray(low, dtype)), jnp.log(jnp.asarray(high, dtype)))


def _is_uncoupled(denoiser: TrainedLinearDenoiser) -> bool:
    mean = denoiser.gaussian.mean
    zero = is_concrete(mean) and not np.any(np.asarray(mean))
    return denoiser.initial_matrix.ndim == 0 and (denoiser.centred or zero)


def _ends(sigma_max: Any, sigma_min: Any, dtype: Any) -> tuple[Any, Any]:
    high = as_level(sigma_max, "sigma_max", dtype)
    low = as_level(sigma_min, "sigma_min", dtype)
    require_larger(high, low, "sigma", strict=True)
    return high, low


def _variances(variances: Any) -> Array:
    values = as_float_array(variances, "variances")
    require_finite(values, "variances")
    return checked(
        values, values < 0, "`variances` must be non-negative", f"; got {shown(variances)}"
    )


def _scalar(value: Any, name: str) -> Array:
    array = as_float_array(value, name)
    if array.shape != ():
        raise ValueError(f"`{name}` must be a scalar; got shape {array.shape}. Use jax.vmap.")
    require_finite(array, name)
    return array


def _fraction(fraction: Any) -> Array:
    share = _scalar(fraction, "fraction")
    bad = ~((share > 0) & (share < 1))
    return checked(share, bad, "`fraction` must lie between 0 and 1", f"; got {fraction}")
