"""Checks of what users pass in: known values raise `ValueError`; of traced ones nothing is known, and bad ones become NaN.

So nothing that is compiled calls back to the host: it can be kept by JAX's cache on disk, and exported.
"""

import contextlib
import importlib
import math
import numbers
import operator
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

RealScalar = float | np.ndarray | Float[Array, ""]


def is_concrete(*values: Any) -> bool:
    """Whether none of the values is being traced by a JAX transformation."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def as_float_array(value: Any, name: str) -> Array:
    """`value` as a JAX array of floating dtype, float32 or wider: where all numbers enter, in whatever form they come.

    Narrower floats are widened to float32, so that nothing is computed in them. Everything else that JAX would cut to 32
    bits or refuses (wide integers, longdouble, another byte order, Python integers of any size) becomes a float in NumPy,
    before JAX sees it: integers and booleans the default float dtype, by way of float64. A Python number stays weakly
    typed.

    Raises:
        ValueError: for what is no array of real numbers: complex or masked arrays, text, dates, a boolean in place of a
            number.
    """
    if isinstance(value, jax.Array):
        return _widen(_with_automatic_axes(value), name)
    if is_concrete(value) and not hasattr(value, "__jax_array__"):
        if type(value) in (int, float):
            return jnp.asarray(_as_python_float(value, name))
        array = as_host_floats(value, name)
        # With its dtype given, JAX compiles nothing for a new shape; but may use memory in place, so that of a copy.
        return jnp.asarray(array.copy(), array.dtype)
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise _not_numbers(value, name, str(error)) from error
    return _widen(array, name)


def _with_automatic_axes(array: Array) -> Array:
    """A known array as it lies on its devices, on a mesh of which JAX itself says how results are laid out.

    With explicit axes it would ask the program for the layout of every result that has more than one.
    """
    sharding = None if isinstance(array, jax.core.Tracer) else array.sharding
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return array
    mesh = sharding.mesh
    devices = mesh.devices
    if devices is None or all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types):
        return array
    automatic = jax.sharding.Mesh(devices, mesh.axis_names)
    return jax.device_put(array, jax.sharding.NamedSharding(automatic, sharding.spec))


def _widen(array: Array, name: str) -> Array:
    dtype = working_dtype(array.dtype, array.ndim, name)
    if dtype == array.dtype:
        return array
    # Known values stay known while a transformation traces what is around.
    known = is_concrete(array)
    with jax.ensure_compile_time_eval() if known else contextlib.nullcontext():
        return array.astype(dtype)


def as_host_floats(value: Any, name: str, dtype: Any = None) -> np.ndarray:
    """`as_float_array` in NumPy, for known values: in its dtype, or the one given; without a copy where possible."""
    refuse_masked(value, name)
    try:
        if isinstance(value, list | tuple) and _holds_jax_arrays(value):
            # NumPy cannot make one array of several in bfloat16.
            with jax.ensure_compile_time_eval():
                value = jnp.asarray(value)
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _not_numbers(value, name, str(error)) from error
    if array.dtype == object:
        array = _of_objects(array, value, name)
    own = working_dtype(array.dtype, array.ndim, name)
    with np.errstate(over="ignore"):  # becomes infinite, which checks for finite values report
        return array.astype(own if dtype is None else dtype, copy=False)


def refuse_masked(value: Any, name: str) -> None:
    """Raise `ValueError` for a masked array, whose mask would be lost."""
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            f"`{name}` must not be a masked array, whose mask would be lost; give `.filled(...)`, or the rows without gaps."
        )


def _holds_jax_arrays(value: Any) -> bool:
    return any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value))


def _of_objects(array: np.ndarray, value: Any, name: str) -> np.ndarray:
    """Numbers that NumPy has no dtype for, such as large integers, as float64. No text, though NumPy would read it."""
    for entry in array.flat:
        if isinstance(entry, bool) or not isinstance(entry, numbers.Real):
            raise _not_numbers(value, name, f"it holds {type(entry).__name__}")
    try:
        return array.astype(np.float64)
    except OverflowError as error:
        raise _not_numbers(value, name, str(error)) from error


def working_dtype(dtype: Any, ndim: int, name: str) -> np.dtype:
    """The dtype in which numbers of another one are computed with, or `ValueError` where they are no real numbers."""
    if jnp.issubdtype(dtype, jnp.floating):
        # A longdouble is wider than anything JAX knows.
        wide = np.float64 if np.dtype(dtype).itemsize >= 8 else np.float32
        return jax.dtypes.canonicalize_dtype(wide)
    is_boolean = jnp.issubdtype(dtype, jnp.bool_)
    if (jnp.issubdtype(dtype, jnp.integer) and dtype.kind != "m") or (is_boolean and ndim > 0):
        return np.dtype(jnp.result_type(float))
    if is_boolean:
        raise ValueError(f"`{name}` must be a number; got a boolean.")
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"`{name}` must be real; got dtype {dtype}.")
    raise ValueError(f"`{name}` must be an array of numbers; got dtype {dtype}.")


def _as_python_float(value: int | float, name: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(
            f"`{name}` must be finite; got an integer too large for a float."
        ) from error


def _not_numbers(value: Any, name: str, why: str) -> ValueError:
    hint = " Give its `points`." if hasattr(value, "points") else ""
    return ValueError(
        f"`{name}` must be an array of numbers; got {type(value).__name__}: {why.rstrip('.')}.{hint}"
    )


def shown(value: Any) -> str:
    """What came instead of what was asked for, cut to part of a line."""
    if isinstance(value, np.ndarray | jax.Array) and value.ndim > 0:
        return f"{value.dtype} of shape {value.shape}"
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return str(value)
    text = repr(value).replace("\n", " ")
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return (
        text
        if value is None or type(value) in _SAY_THEIR_TYPE
        else f"{type(value).__name__}: {text}"
    )


_SAY_THEIR_TYPE = (bool, int, float, complex, str, list, tuple, dict)


def require_numbers(value: Any, name: str) -> None:
    """Raise `ValueError` for what is no number and no array of them. Arrays are not looked at, but for their dtype."""
    if type(value) in (int, float):
        _as_python_float(value, name)
    elif isinstance(value, np.ndarray | np.generic | jax.Array):
        refuse_masked(value, name)
        if value.dtype != object:
            working_dtype(value.dtype, value.ndim, name)
    elif (
        is_concrete(value)
        and not hasattr(value, "__jax_array__")
        and not hasattr(value, "__array__")
    ):
        as_host_floats(value, name)


def require_scalar(value: Any, name: str) -> None:
    """Raise `ValueError` for what is not one real number."""
    require_numbers(value, name)
    shape = () if type(value) in (int, float) else np.shape(value)
    if shape != ():
        raise ValueError(f"`{name}` must be a scalar; got shape {shape}. Use jax.vmap for several.")


def require_number(value: Any, name: str) -> None:
    """Raise `ValueError` for what is not one real number, or NaN."""
    require_scalar(value, name)
    if is_concrete(value) and value != value:
        raise ValueError(f"`{name}` must be finite; got {value}.")


def require_finite(array: Any, name: str) -> None:
    """Raise `ValueError` if a concrete array holds NaN or infinity. Traced arrays pass unchecked."""
    if not is_concrete(array):
        return
    # NumPy, whose results are values even while JAX traces the function around.
    values = np.asarray(array)
    if not np.all(np.isfinite(values)):
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        place = f" at index {where}" if where else ""
        raise ValueError(f"`{name}` must be finite; got {values[where]}{place}.")


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


def as_integer(value: Any, name: str, *, kind: str | None = None, least: int | None = None) -> int:
    """`value` as an `int`, or `ValueError`: of any integer type, an array of no axes too, but no boolean and no float."""
    if kind is None:
        kind = "an integer" if least is None else f"an integer of at least {least}"
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
        if least is not None and number < least:
            raise TypeError
    except TypeError as error:
        raise ValueError(f"`{name}` must be {kind}; got {shown(value)}.") from error
    if abs(number) >= 2**63:
        raise ValueError(f"`{name}` must lie below 2^63; got {number}.")
    return number


def as_positive_integer(value: Any, name: str) -> int:
    """`value` as an `int` of at least one, or `ValueError`; see `as_integer`."""
    return as_integer(value, name, kind="a positive integer", least=1)


def as_non_negative_integer(value: Any, name: str) -> int:
    """`value` as an `int` of at least zero, or `ValueError`; see `as_integer`."""
    return as_integer(value, name, kind="a non-negative integer", least=0)


def as_seed(seed: Any) -> int:
    """`seed` as an `int` that JAX takes: no None, which would make NumPy draw a fresh one."""
    value = as_integer(seed, "seed")
    if value < 0:
        raise ValueError(f"`seed` must be non-negative; got {value}.")
    return value


def as_key(key: Any, name: str = "key") -> PRNGKeyArray:
    """One JAX random key, of the new type or raw, or `ValueError`."""
    advice = "Make one of a seed, jax.random.key(0), and others of it by jax.random.split."
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype is not None and shape is not None:
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            if shape == ():
                return key
            raise ValueError(f"`{name}` must be one key; got {shape} of them. Use jax.vmap.")
        if dtype == np.uint32 and shape == jax.eval_shape(jax.random.PRNGKey, 0).shape:
            return jnp.asarray(key)
        raise ValueError(
            f"`{name}` must be a JAX random key; got an array of dtype {dtype} and shape {shape}. {advice}"
        )
    raise ValueError(f"`{name}` must be a JAX random key; got {shown(key)}. {advice}")


def require_positive(value: Any, name: str) -> Array:
    """`value` as a float array, checked to be positive and finite: now if concrete, else when it runs."""
    array = as_float_array(value, name)
    if is_concrete(value):
        values = as_host_floats(value, name)
        if not np.all((values > 0) & np.isfinite(values)):
            raise ValueError(f"`{name}` must be positive and finite; got {shown(value)}.")
        return array
    return nan_where(~((array > 0) & jnp.isfinite(array)), array)


def require_positive_scalar(value: Any, name: str) -> Array:
    """`require_positive` of one number."""
    array = require_positive(value, name)
    if array.ndim != 0:
        raise ValueError(
            f"`{name}` must be a scalar; got shape {array.shape}. Use jax.vmap for several."
        )
    return array


def nan_where(bad: Any, value: Any) -> Array:
    """`value`, NaN where it is bad, or as a whole for verdicts of another shape: how traced values are refused."""
    value = jnp.asarray(value)
    bad = jnp.asarray(bad)
    if bad.shape != value.shape:
        bad = jnp.broadcast_to(jnp.any(bad), value.shape)
    return jnp.where(bad, jnp.asarray(jnp.nan, value.dtype), value)


def checked(value: Any, bad: Any, message: str, given: str = "") -> Any:
    """`value`, with a `ValueError` where `bad` is known to hold, and NaN where it turns out to when it runs."""
    if is_concrete(bad):
        if bool(np.any(bad)):
            raise ValueError(f"{message}{given}.")
        return value
    return nan_where(bad, value)


def positive_parameter(value: Real[ArrayLike, ""], name: str) -> float | Float[Array, ""]:
    """A positive scalar: a Python float (so that dtype follows `t`), or the array being traced."""
    array = require_positive_scalar(value, name)
    return float(value) if is_concrete(value) else array  # pyright: ignore[reportArgumentType]


def require_larger(larger: Any, smaller: Any, name: str, *, strict: bool) -> None:
    """Raise unless `{name}_max > {name}_min` (`>=` if not strict). Traced values pass."""
    if is_concrete(larger, smaller) and (larger < smaller or (strict and larger == smaller)):
        relation = "larger than" if strict else "at least"
        raise ValueError(
            f"`{name}_max` must be {relation} `{name}_min`; got {name}_max={larger} and "
            f"{name}_min={smaller}."
        )


def require_ascending(
    low: Any, high: Any, low_name: str = "low", high_name: str = "high", *, or_equal: bool = False
) -> None:
    """Raise `ValueError` unless one known number lies below another, or is as large. Traced values pass."""
    if is_concrete(low, high) and not (low < high or (or_equal and low == high)):
        rule = "must not lie above" if or_equal else "must lie below"
        raise ValueError(f"`{low_name}` {rule} `{high_name}`; got {low} and {high}.")


def require_each(values: Any, name: str, check: Callable[[Any, str], Any] | None = None) -> None:
    """Raise `ValueError` for a sequence of nothing, or where the check of an entry does."""
    if len(values) == 0:
        raise ValueError(f"`{name}` must hold at least one entry; got {shown(values)}.")
    for value in values:
        if check is not None:
            check(value, name)


def require_one_of(value: Any, choices: Iterable[str], name: str) -> None:
    """Raise `ValueError` for a text that is none of some."""
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}; got {shown(value)}.")


def require_parameters(model: Any) -> list[Array]:
    """What of a model is trained, or `ValueError` for one of which nothing is."""
    arrays = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    if not arrays:
        raise ValueError(
            f"`model` must hold arrays of floating dtype, which are trained; got {shown(model)}."
        )
    return arrays


def import_optional(module: str, *, extra: str = "experiments") -> ModuleType:
    """Import an optional dependency, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This needs `{module.partition('.')[0]}`, which is not installed. "
            f"Install it with: pip install 'smoothjax[{extra}]'."
        ) from error
