"""Two numbers that are both called R squared."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import as_float_array, is_concrete, nan_where, require_finite
from .._jax.precision import common_dtype
from .._kinds import checks_kinds
from .._numerics import done_now


@checks_kinds
def determination_r2(
    prediction: Float[Array, "..."], target: Float[Array, "..."]
) -> Float[Array, ""]:
    """Coefficient of determination: 1 - sum (target - prediction)^2 / sum (target - mean target)^2.

    Over all entries of the arrays together, about one mean; for one number a row use `jax.vmap`. At
    most 1, attained only where prediction and target are equal. Zero for the best constant and
    negative for anything worse. Not symmetric, and not the squared correlation: compare
    `pearson_r2`.

    Args:
        prediction: any shape.
        target: the same shape, not constant.

    Raises:
        ValueError: on shapes that differ, empty or non-finite arrays, or a constant target, for
            which it is undefined. (Inside `jax.jit` a constant target raises when the function
            runs.)

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.determination_r2(jnp.array([0.0, 2.0]), jnp.array([0.0, 1.0])))
        -1.0
    """
    prediction, target = _checked_pair(prediction, target)
    target = _require_varying(target, "target")
    deviations, scale = _deviations(target)
    return 1 - jnp.sum(((target - prediction) / scale) ** 2) / jnp.sum(deviations**2)


@checks_kinds
def pearson_r2(prediction: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, ""]:
    """Squared Pearson correlation of all entries of two arrays, in [0, 1].

    The `determination_r2` that the prediction would have after the best affine map a x + b: it does
    not see a wrong scale, offset or even sign. Symmetric. For one number a row use `jax.vmap`.

    Args:
        prediction: any shape, not constant.
        target: the same shape, not constant.

    Raises:
        ValueError: on shapes that differ, empty or non-finite arrays, or a constant array, for
            which it is undefined. (Inside `jax.jit` a constant array raises when the function
            runs.)

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.pearson_r2(jnp.array([0.0, 2.0]), jnp.array([0.0, 1.0])))
        1.0
    """
    prediction, target = _checked_pair(prediction, target)
    x, _ = _deviations(_require_varying(prediction, "prediction"))
    y, _ = _deviations(_require_varying(target, "target"))
    return jnp.minimum(jnp.sum(x * y) ** 2 / (jnp.sum(x**2) * jnp.sum(y**2)), 1)


def _checked_pair(prediction: Any, target: Any) -> tuple[Array, Array]:
    """Both arrays flattened, in their common dtype."""
    prediction = done_now(_as_finite, prediction, "prediction")
    target = done_now(_as_finite, target, "target")
    if prediction.shape != target.shape or target.size == 0:
        raise ValueError(
            "`prediction` and `target` must be non-empty and of one shape; "
            f"got shapes {prediction.shape} and {target.shape}."
        )
    dtype = common_dtype(prediction.dtype, target.dtype)
    return prediction.astype(dtype).ravel(), target.astype(dtype).ravel()


def _as_finite(value: Any, name: str) -> Array:
    array = as_float_array(value, name)
    require_finite(array, name)
    return array


def _require_varying(x: Float[Array, " n"], name: str) -> Float[Array, " n"]:
    # Not from the mean: the deviations of a constant from its rounded mean need not be zero.
    message = f"`{name}` must not be constant: R squared is then undefined"
    if is_concrete(x):
        if np.ptp(np.asarray(x)) == 0:
            raise ValueError(f"{message}; got {x.size} entries equal to {np.asarray(x)[0]}.")
        return x
    return nan_where(jnp.max(x) - jnp.min(x) == 0, x)


def _deviations(x: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """x minus its mean, in units of the largest deviation to keep squares in range; and that."""
    x = x - jnp.mean(x)
    # The second pass removes the rounding error of the first mean.
    x = x - jnp.mean(x)
    scale = jnp.max(jnp.abs(x))
    return x / scale, scale
