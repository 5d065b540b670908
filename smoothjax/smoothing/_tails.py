"""Tails of the normal law, which price how far a score is bent between two training points."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import erfcx
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from .._checks import RealScalar, as_float_array
from .._numerics import bisect


def first_tail(kappa: RealScalar | Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`G(kappa)`: the integral of `(x - kappa) phi(x)` from `kappa` to infinity, phi the standard normal density.

    The derivative of the smoothing loss. **Accuracy**: relative 1e-14 (1e-6 in float32) times `kappa^2`.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> round(float(sj.smoothing.first_tail(0.0)), 4)  # 1 / sqrt(2 pi)
        0.3989
    """
    return _first_tail(as_float_array(kappa, "kappa"))


@jax.jit
def _first_tail(kappa: Array) -> Array:
    return norm.pdf(kappa) * (1 - kappa * _mills(kappa))


def second_tail(kappa: RealScalar | Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`F(kappa)`: the integral of `(x - kappa)^2 phi(x)` from `kappa` to infinity: the smoothing loss of one side of a gap.

    `F' = -2 G`, `F(0) = 1/2`. **Accuracy**: relative 1e-14 (1e-6 in float32) times `kappa^4`.

    Example:
        >>> import smoothjax as sj
        >>> print(sj.smoothing.second_tail(0.0).round(5))
        0.5
    """
    return _second_tail(as_float_array(kappa, "kappa"))


@jax.jit
def _second_tail(kappa: Array) -> Array:
    return norm.pdf(kappa) * ((1 + kappa**2) * _mills(kappa) - kappa)


def inverse_first_tail(value: RealScalar | Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The non-negative `kappa` with `G(kappa) = value`; 0 for values above `G(0) = 0.3989`, at most 12. Differentiable.

    Example:
        >>> import smoothjax as sj
        >>> round(float(sj.smoothing.inverse_first_tail(sj.smoothing.first_tail(1.5))), 4)
        1.5
    """
    return _inverse(_first_tail, as_float_array(value, "value"))


def inverse_second_tail(value: RealScalar | Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The non-negative `kappa` with `F(kappa) = value`; 0 for values above `F(0) = 1/2`, at most 12. Differentiable.

    Example:
        >>> import smoothjax as sj
        >>> round(float(sj.smoothing.inverse_second_tail(sj.smoothing.second_tail(1.5))), 4)
        1.5
    """
    return _inverse(_second_tail, as_float_array(value, "value"))


_LARGEST = 12.0  # beyond, tails are below 1e-33


@functools.partial(jax.jit, static_argnums=0)
def _inverse(tail: Callable[[Array], Array], value: Array) -> Array:
    low, high = jnp.zeros_like(value), jnp.full_like(value, _LARGEST)
    fixed = jax.lax.stop_gradient(value)
    kappa = bisect(lambda kappa: tail(kappa) > fixed, low, high)
    # Bisection has no derivative; the root has that of the inverse function.
    _, slope = jax.jvp(tail, (kappa,), (jnp.ones_like(kappa),))
    kappa += jax.lax.stop_gradient(1 / slope) * (value - fixed)
    # Outside of the range the end is meant, exactly; NaN stays NaN.
    kappa = jnp.where(value < tail(low), kappa, 0)
    return jnp.where(jnp.isnan(value), value, kappa)


def _mills(kappa: Array) -> Array:
    """`(1 - Phi) / phi`."""
    return math.sqrt(math.pi / 2) * erfcx(kappa / math.sqrt(2))
