"""States and noise levels as users pass them: one point, scalar levels, levels in order."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from ._checks import RealScalar, as_float_array, checked, is_concrete, require_finite


def as_state(u: Any) -> Float[Array, " d"]:
    """`u` as one finite point of shape (d,), or `ValueError`."""
    u = as_float_array(u, "u")
    if u.ndim != 1 or u.shape[0] == 0:
        hint = " For a batch, use jax.vmap." if u.ndim > 1 else ""
        raise ValueError(f"`u` must be one point of shape (d,); got {u.shape}.{hint}")
    require_finite(u, "u")
    return u


def as_level(value: RealScalar, name: str, dtype: Any, *, or_zero: bool = False) -> Any:
    """A finite scalar of the given dtype, positive or at least not negative, or `ValueError`.

    Known values come back as NumPy scalars: a JAX array would turn into a tracer inside `jax.jit`, and with it every
    question that is asked at compile time (is this level zero?).
    """
    if is_concrete(value):
        with jax.ensure_compile_time_eval():
            level = np.asarray(as_float_array(value, name).astype(dtype))
    else:
        level = as_float_array(value, name).astype(dtype)
    if level.shape != ():
        raise ValueError(f"`{name}` must be a scalar; got shape {level.shape}. Use jax.vmap.")
    kind = "non-negative" if or_zero else "positive"
    bad = ~(((level >= 0) if or_zero else (level > 0)) & (abs(level) < np.inf))
    return checked(level, bad, f"`{name}` must be {kind} and finite", f"; got {value}")


def as_levels(levels: Any, dtype: Any) -> Any:
    """Strictly monotone noise levels, at least two, of which the last may be zero, or `ValueError`."""
    if is_concrete(levels):
        with jax.ensure_compile_time_eval():  # see `as_level`
            levels = np.asarray(as_float_array(levels, "levels").astype(dtype))
    else:
        levels = as_float_array(levels, "levels").astype(dtype)
    if levels.ndim != 1 or levels.shape[0] < 2:
        raise ValueError(f"`levels` must have shape (m,) with m >= 2; got {levels.shape}.")
    step = levels[1:] - levels[:-1]
    bad = ~((step < 0).all() | (step > 0).all()) | ~((levels >= 0) & (levels < np.inf)).all()
    rule = "`levels` must be finite, non-negative and strictly monotone"
    levels = checked(levels, bad, rule, f"; got {levels}")
    return checked(
        levels, levels[0] == 0, "`levels` must start at a positive noise level", "; got 0"
    )


def levels_between(levels: Any, start: Any, end: Any) -> Any:
    """`levels` as in `as_levels`, which must run from `start` to `end` but for rounding."""
    levels = as_levels(levels, start.dtype)
    for name, given, used in (("sigma_from", start, levels[0]), ("sigma_to", end, levels[-1])):
        levels = checked(
            levels,
            ~(abs(given - used) <= 1e-5 * used),
            "`levels` must run from `sigma_from` to `sigma_to`",
            f"; {name}={given}, but it has {used}",
        )
    return levels
