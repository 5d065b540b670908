"""Numerical pieces that many share: roots and norms that survive zero, blockwise maps, weights as logarithms."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ._checks import (
    as_float_array,
    as_points,
    is_concrete,
    require_finite,
)


def done_now(check: Callable[..., Array], value: Any, *args: Any) -> Array:
    """`check(value, *args)`, done now for a concrete value even while something else is traced.

    Inside `jax.jit` the operations of a check on a closed-over array would be traced as well.
    """
    concrete = is_concrete(value)
    with jax.ensure_compile_time_eval() if concrete else contextlib.nullcontext():
        return check(value, *args)


def safe_sqrt(x: Array) -> Array:
    """Square root whose derivative at zero is zero, not infinite. NaN stays NaN."""
    positive = ~(x <= 0)
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def norm(x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Euclidean norm over the last axis: no overflow or underflow, derivative zero at zero."""
    # The norm is homogeneous, so holding the scale fixed leaves the derivative exact.
    scale = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    scale = jnp.where(scale > 0, scale, 1)
    return scale[..., 0] * safe_sqrt(jnp.sum((x / scale) ** 2, axis=-1))


def centred(x: Float[Array, "n p"]) -> tuple[Float[Array, " p"], Float[Array, " p"], Array]:
    """The mean of the rows as an unevaluated sum of two parts, and the centred rows.

    The second pass takes out the rounding error of the first mean, which a large common offset
    makes as large as the spread in float32.
    """
    coarse = jnp.mean(x, axis=0)
    rows = x - coarse[None]
    fine = jnp.mean(rows, axis=0)
    return coarse, fine, rows - fine[None]


def as_centre(centre: Any, data: Float[Array, "n d"], default: Any = None) -> Float[Array, " d"]:
    """`centre` as a point in the dtype of `data`; by default `default`, and the mean of `data` if there is none."""
    if centre is None and default is None:
        return jnp.mean(data, axis=0)
    centre = done_now(_as_finite, default if centre is None else centre).astype(data.dtype)
    if centre.shape != data.shape[1:]:
        raise ValueError(f"`centre` must have shape {data.shape[1:]}; got {centre.shape}.")
    return centre


def _as_finite(centre: Any) -> Array:
    centre = as_float_array(centre, "centre")
    require_finite(centre, "centre")
    return centre


def as_data(data: Any, minimum: int, why: str) -> Float[Array, "n d"]:
    """`data` as (n, d) points, at least `minimum` of them."""
    data = done_now(as_points, data)
    if data.shape[0] < minimum:
        raise ValueError(f"`data` must hold at least {minimum} points, {why}; got {data.shape[0]}.")
    return data


@functools.partial(jax.jit, static_argnums=1)
def keys_by_index(key: PRNGKeyArray, size: int) -> Array:
    """One key for each index; that of index i depends on nothing else."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(size))


@functools.partial(jax.jit, static_argnums=1)
def noises(key: PRNGKeyArray, num_noises: int, point: Array) -> Float[Array, "k d"]:
    """Standard normal draws of the shape and dtype of `point`."""
    # Drawn as a vector, which gives the same numbers and compiles in half the time.
    draws = jax.random.normal(key, (num_noises * point.size,), point.dtype)
    return draws.reshape(num_noises, *point.shape)


def bisect(
    above: Callable[[Float[Array, "*s"]], Bool[Array, "*s"]],
    low: Float[Array, "*s"],
    high: Float[Array, "*s"],
) -> Float[Array, "*s"]:
    """Where `above` turns from True, at `low`, to False, at `high`; elementwise."""

    def step(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        still = above(middle)
        return jnp.where(still, middle, low), jnp.where(still, high, middle)

    # Every step gains a bit; a few more than the mantissa has, for brackets that reach across zero.
    low, high = lax.fori_loop(0, jnp.finfo(low.dtype).nmant + 12, step, (low, high))
    return 0.5 * (low + high)


def square_of_level(sigma: Array) -> Array:
    # A square that underflows would make 0 / 0 of directions without variance.
    return jnp.maximum(sigma**2, jnp.finfo(sigma.dtype).tiny)


def gram_factor(regressors: Float[Array, "P F"], ridge: Array) -> Any:
    """Cholesky factor of `Sigma + ridge`, with Sigma the mean of `w phi phi^T`."""
    P, F = regressors.shape
    gram = jnp.matmul(regressors.T, regressors, precision="highest") / P
    return jax.scipy.linalg.cho_factor(gram + ridge * jnp.eye(F, dtype=gram.dtype))


def as_log_weights(weights: Any, num: int, each: str, dtype: Any) -> Float[Array, " n"]:
    """Logarithms of non-negative weights, one for `each` of `num` things, normalised to sum to one."""
    weights = as_float_array(weights, "weights").astype(dtype)
    if weights.shape != (num,):
        raise ValueError(f"`weights` must have shape ({num},), one a {each}; got {weights.shape}.")
    require_finite(weights, "weights")
    if is_concrete(weights):
        values = np.asarray(weights)
        if np.any(values < 0) or not np.any(values > 0):
            raise ValueError(
                "`weights` must be non-negative and not all zero; "
                f"got values from {values.min()} to {values.max()}."
            )
    # Not through a division by the sum, which overflows or vanishes for weights of extreme size.
    return jax.nn.log_softmax(jnp.log(weights))


def flow_filter(values: np.ndarray, time: Any) -> np.ndarray:
    """`(1 - exp(-omega t)) / omega` in NumPy: what gradient flow for a time t makes of a mode of rate omega; t where omega
    vanishes."""
    large = values * time > np.finfo(values.dtype).eps
    return np.where(large, -np.expm1(-values * time) / np.where(large, values, 1), time)
