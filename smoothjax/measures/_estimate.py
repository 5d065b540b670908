"""A number with its standard error or interval, and the interval of a binomial fraction."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from .._checks import as_float_array, is_concrete, positive_parameter, shown
from .._kinds import checks_kinds
from .._numerics import safe_sqrt

_SHOWN = 12  # entries that a printed array of estimates shows


class Estimate(eqx.Module):
    """A Monte Carlo estimate with its standard error; both arrays, of one shape.

    It is a pytree, so functions that return one can be jitted, vmapped and differentiated.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> sj.Estimate(jnp.array(0.1234), jnp.array(0.0041))
        0.123 ± 0.004

    Attributes:
        value: the estimate.
        standard_error: one standard deviation of the estimate over repetitions of what was drawn at
            random; the function that made it says what that is.
    """

    value: Float[Array, "..."]
    standard_error: Float[Array, "..."]

    def __repr__(self) -> str:
        leaves = (self.value, self.standard_error)
        if not is_concrete(leaves) or not all(
            isinstance(leaf, Array | np.ndarray) for leaf in leaves
        ):
            return f"Estimate(value={self.value}, standard_error={self.standard_error})"
        values, errors = np.broadcast_arrays(*(np.asarray(leaf, float) for leaf in leaves))
        if values.ndim == 0:
            return _format(float(values), float(errors))
        shown = [_format(v, e) for v, e in zip(values.flat, errors.flat, strict=True)][:_SHOWN]
        more = ", ..." if values.size > _SHOWN else ""
        shape = f" of shape {values.shape}" if values.ndim > 1 or more else ""
        return f"[{', '.join(shown)}{more}]{shape}"

    __str__ = __repr__


def _format(value: float, error: float) -> str:
    """`value ± error` with the error to one significant digit, to two if that digit is a 1."""
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return f"{value:.6g} ± {error:.6g}"
    # Printing to one digit first settles cases such as 0.0096, which becomes 0.01.
    mantissa, exponent = f"{error:.0e}".split("e")
    decimals = -int(exponent) + (mantissa == "1")
    if -3 <= decimals <= 6:
        decimals = max(decimals, 0)
        return f"{value:.{decimals}f} ± {error:.{decimals}f}"
    power = math.floor(math.log10(max(abs(value), error)))
    decimals = max(decimals + power, 0)
    if decimals > 9:
        return f"{value:.10g} ± {error:.0e}"
    unit = 10.0**power
    return f"({value / unit:.{decimals}f} ± {error / unit:.{decimals}f})e{power:+03d}"


class IntervalEstimate(eqx.Module):
    """An estimate with a confidence interval, where a standard error would say too little: a fraction near zero, say.

    Attributes:
        value: the estimate, shape ().
        interval: its lower and upper end, shape (2,); the function that made it says of which coverage.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> share = sj.measures.IntervalEstimate(jnp.array(0.0), sj.measures.wilson_interval(0, 10))
        >>> print(share.interval.round(2))
        [0.   0.28]
    """

    value: Float[Array, ""]
    interval: Float[Array, "2"]


def _as_sample(values: Any, name: str) -> Float[Array, " n"]:
    values = as_float_array(values, name)
    if values.ndim != 1 or values.shape[0] == 0:
        raise ValueError(
            f"`{name}` must be numbers of shape (n,), n > 0; got shape {values.shape}."
        )
    return values


@checks_kinds
def mean_estimate(values: Float[Array, " n"]) -> Estimate:
    """The mean of independent values, with the standard error s/sqrt(n): NaN for one value.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax.measures import mean_estimate
        >>> print(mean_estimate(jnp.array([1.0, 2.0, 3.0])))
        2.0 ± 0.6
    """
    return _mean_estimate(_as_sample(values, "values"))


@jax.jit
def _mean_estimate(values: Float[Array, " n"]) -> Estimate:
    n = values.shape[0]
    mean = jnp.mean(values)
    return Estimate(mean, safe_sqrt(jnp.sum((values - mean) ** 2) / (n * (n - 1))))


@checks_kinds
def root_of_mean(values: Float[Array, " n"], order: float) -> Estimate:
    """(mean of non-negative values)^(1/order), its error by the delta method; 0 ± 0 at zero.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax.measures import root_of_mean
        >>> print(root_of_mean(jnp.array([1.0, 7.0, 4.0]), 2))  # of squared errors: their root mean square
        2.0 ± 0.4
    """
    return _root_of_mean(_as_sample(values, "values"), positive_parameter(order, "order"))


@functools.partial(jax.jit, static_argnums=1)
def _root_of_mean(values: Float[Array, " n"], order: Any) -> Estimate:
    power = _mean_estimate(values)
    positive = ~(power.value <= 0)  # NaN stays NaN
    mean = jnp.where(positive, power.value, 1)
    root = safe_sqrt(mean) if order == 2 else mean ** (1 / order)
    slope = root / (order * mean)
    return Estimate(
        jnp.where(positive, root, 0), jnp.where(positive, slope * power.standard_error, 0)
    )


@checks_kinds
def ratio_of_means(numerators: Float[Array, " n"], denominators: Float[Array, " n"]) -> Estimate:
    """mean(numerators) / mean(denominators >= 0) of independent pairs, by the delta method; 0 ± 0 over zero.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax.measures import ratio_of_means
        >>> print(ratio_of_means(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])))
        2.0 ± 1.0
    """
    top, bottom = _as_sample(numerators, "numerators"), _as_sample(denominators, "denominators")
    if top.shape != bottom.shape:
        raise ValueError(
            f"`denominators` must have the shape of `numerators`, {top.shape}; got {bottom.shape}."
        )
    return _ratio_of_means(top, bottom)


@jax.jit
def _ratio_of_means(numerators: Float[Array, " n"], denominators: Float[Array, " n"]) -> Estimate:
    mean = jnp.mean(denominators)
    positive = ~(mean <= 0)
    mean = jnp.where(positive, mean, 1)
    ratio = jnp.where(positive, jnp.mean(numerators) / mean, 0)
    # To first order the ratio moves with the mean of these, which is zero.
    residuals = jnp.where(positive, (numerators - ratio * denominators) / mean, 0)
    return Estimate(ratio, _mean_estimate(residuals).standard_error)


def jackknife_error(left_out: Float[Array, " n"]) -> Float[Array, ""]:
    """Standard error of a statistic from its n values with one observation left out each: at least it, on average."""
    n = left_out.shape[0]
    return safe_sqrt((n - 1) / n * jnp.sum((left_out - jnp.mean(left_out)) ** 2))


@checks_kinds
def wilson_interval(count: Any, num: Any, confidence: float = 0.95) -> Float[Array, "*batch 2"]:
    """Wilson's score interval for a binomial fraction.

    The fractions p whose score test does not reject `count` successes in `num` independent trials:
    |count/num - p| <= z sqrt(p (1 - p) / num). Unlike the fraction plus or minus its standard error
    it has a positive width at 0 and at `num` successes, and stays within [0, 1].

    Args:
        count: number of successes, 0 <= count <= num.
        num: number of trials, at least one; broadcasts against `count`.
        confidence: two-sided coverage, in (0, 1).

    Returns:
        The lower and the upper end, along a new last axis.

    Raises:
        ValueError: if a concrete count or number is out of range, or the confidence is.

    Source: Wilson 1927.

    Example:
        >>> from smoothjax.measures import wilson_interval
        >>> [round(float(end), 3) for end in wilson_interval(0, 10)]  # wider than a point
        [0.0, 0.278]
        >>> [round(float(end), 3) for end in wilson_interval(5, 10)]
        [0.237, 0.763]
    """
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be in (0, 1); got {confidence}.")
    count, num = as_float_array(count, "count"), as_float_array(num, "num")
    if is_concrete(count, num):
        successes, trials = np.asarray(count), np.asarray(num)
        if not np.all((successes >= 0) & (successes <= trials) & (trials >= 1)):
            raise ValueError(
                f"`count` must be between 0 and `num`, and `num` at least 1; got {shown(successes)} of "
                f"{shown(trials)}."
            )
    z = ndtri(jnp.asarray((1 + confidence) / 2, num.dtype))

    def lower_end(successes: Array) -> Array:
        # Smaller root of (n + z^2) p^2 - (2 c + z^2) p + c^2/n = 0, written without
        # cancellation.
        spread = z * jnp.sqrt(z**2 + 4 * successes * (num - successes) / num)
        return 2 * successes**2 / (num * (2 * successes + z**2 + spread))

    return jnp.stack([lower_end(count), 1 - lower_end(num - count)], axis=-1)
