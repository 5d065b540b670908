"""What every flow asks of its input: one point, scalar noise levels, a denoiser that returns one point."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import RealScalar, as_float_array, checked, is_concrete, require_finite
from ..denoisers import Denoiser


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


def denoised(denoiser: Denoiser, u: Float[Array, " d"], sigma: Any) -> Float[Array, " d"]:
    """`denoiser(u, sigma)` in the dtype of `u`; `ValueError` for another shape, which would broadcast unnoticed."""
    value = jnp.asarray(denoiser(u, sigma))
    if value.shape != u.shape:
        raise ValueError(
            f"The denoiser must return one point of shape {u.shape}, like `u`; got {value.shape}."
        )
    if jnp.iscomplexobj(value):
        raise ValueError(f"The denoiser must return real numbers; got {value.dtype}.")
    return value.astype(u.dtype)


def require_continuous(denoiser: Denoiser, advice: str) -> None:
    """Raises for a denoiser that jumps at many noise levels, at each of which an adaptive solver would look for the jump.

    Denoisers say so by an attribute `is_step_function_of_sigma`, and those that are made of one need not.
    """
    steps = lambda node: getattr(node, "is_step_function_of_sigma", False) is True  # noqa: E731
    if any(map(steps, jax.tree.leaves(denoiser, is_leaf=steps))):
        raise ValueError(
            "An adaptive solver needs a denoiser that is continuous in sigma; got a step function of it, such as one with "
            f"index='nearest'. {advice}"
        )


def as_argument(denoiser: Denoiser) -> Denoiser:
    """The denoiser as an argument of a compiled function that outlives this call.

    Modules are pytrees: their arrays are arguments. What a bare callable reads (parameters, a model that is trained in
    place) would be remembered with it, so that it is passed as a function that no earlier call has seen.
    """
    if isinstance(denoiser, eqx.Module):
        return denoiser  # pyright: ignore[reportReturnType]
    return lambda u, sigma: denoiser(u, sigma)
