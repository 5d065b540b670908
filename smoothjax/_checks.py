"""Checks of what users pass in: concrete values raise `ValueError`, traced ones an Equinox error."""

import importlib
import math
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

RealScalar = float | np.ndarray | Float[Array, ""]


def is_concrete(*values: Any) -> bool:
    """Whether none of the values is being traced by a JAX transformation."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def as_float_array(value: Any, name: str) -> Array:
    """`value` as a JAX array of floating dtype; integers become the default float dtype."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be an array of numbers; got {type(value).__name__}: {error}."
        ) from error
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"`{name}` must be real; got dtype {array.dtype}.")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.result_type(float))
    return array


def require_finite(array: Any, name: str) -> None:
    """Raise `ValueError` if a concrete array holds NaN or infinity. Traced arrays pass unchecked."""
    if not is_concrete(array):
        return
    # NumPy, whose results are values even while JAX traces the function around.
    values = np.asarray(array)
    if not np.all(np.isfinite(values)):
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"`{name}` must be finite; got {values[where]} at index {where}.")


def require_finite_rows(rows: np.ndarray, name: str, first: int = 0) -> None:
    """Raise `ValueError` that names the first row that holds NaN or infinity. `first` is the index of `rows[0]`.

    A few megabytes at a time: the rows may be a memory map.
    """
    step = max(1, 2**20 // max(1, math.prod(rows.shape[1:])))
    for start in range(0, len(rows), step):
        block = np.asarray(rows[start : start + step])
        finite = np.isfinite(block)
        if not finite.all():
            where = tuple(int(i) for i in np.argwhere(~finite)[0])
            index = (first + start + where[0], *where[1:])
            raise ValueError(f"`{name}` must be finite; got {block[where]} at index {index}.")


def as_points(data: Any, name: str = "data") -> Float[Array, "n d"]:
    """`data` as a finite float array of shape (n, d) with n, d >= 1, or `ValueError`."""
    array = as_float_array(data, name)
    if array.ndim != 2:
        hint = ""
        if array.ndim == 1:
            hint = f" For points on a line, {name}[:, None]."
        elif array.ndim > 2:
            hint = f" Flatten each point first, e.g. {name}.reshape(len({name}), -1)."
        raise ValueError(f"`{name}` must have shape (n, d); got {array.shape}.{hint}")
    if 0 in array.shape:
        raise ValueError(f"`{name}` must hold at least one point; got shape {array.shape}.")
    require_finite(array, name)
    return array


def as_positive_integer(value: Any, name: str) -> int:
    """`value` as an `int` of at least one, or `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer; got {value!r}.")
    return int(value)


def require_positive(value: Any, name: str) -> Array:
    """`value` as a float array, checked to be positive and finite: now if concrete, else when it runs."""
    array = as_float_array(value, name)
    if is_concrete(value):
        values = np.asarray(value)
        if not np.all((values > 0) & np.isfinite(values)):
            raise ValueError(f"`{name}` must be positive and finite; got {value}.")
        return array
    return eqx.error_if(
        array, ~((array > 0) & jnp.isfinite(array)), f"`{name}` must be positive and finite."
    )


def positive_parameter(value: Real[ArrayLike, ""], name: str) -> float | Float[Array, ""]:
    """A positive scalar: a Python float (so that dtype follows `t`), or the array being traced."""
    array = require_positive(value, name)
    if array.ndim != 0:
        raise ValueError(f"`{name}` must be a scalar; got shape {array.shape}.")
    return float(value) if is_concrete(value) else array  # pyright: ignore[reportArgumentType]


def require_larger(
    larger: float | Array, smaller: float | Array, name: str, *, strict: bool
) -> None:
    """Raise unless `{name}_max > {name}_min` (`>=` if not strict). Traced values pass."""
    if is_concrete(larger, smaller) and (larger < smaller or (strict and larger == smaller)):
        relation = "larger than" if strict else "at least"
        raise ValueError(
            f"`{name}_max` must be {relation} `{name}_min`; got {name}_max={larger} and "
            f"{name}_min={smaller}."
        )


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


def import_optional(module: str, *, extra: str = "experiments") -> ModuleType:
    """Import an optional dependency, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This needs `{module.partition('.')[0]}`, which is not installed. "
            f"Install it with: pip install 'smoothjax[{extra}]'."
        ) from error
