"""Tolerances, and the solver that suits them."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def tolerances(dtype: Any, rtol: float | None, atol: float | None) -> tuple[float, float]:
    """The tolerances asked for, or the dtype's defaults; `ValueError` below what the dtype resolves."""
    default = 1e-5 if jnp.finfo(dtype).bits == 32 else 1e-7
    rtol = default if rtol is None else rtol
    atol = rtol if atol is None else atol
    resolved = 8 * float(jnp.finfo(dtype).eps)
    if not resolved <= rtol < 1:
        advice = (
            ' Pass float64 arrays (jax.config.update("jax_enable_x64", True)) or a larger rtol.'
        )
        raise ValueError(
            f"rtol={rtol:g} must lie between what {jnp.dtype(dtype).name} resolves (about {resolved:.0e}) and 1."
            + (advice if jnp.finfo(dtype).bits == 32 and rtol < resolved else "")
        )
    # The flow to zero ends at a level of `atol / 10`.
    if not float(jnp.finfo(dtype).tiny) <= 0.1 * atol < np.inf:
        raise ValueError(f"`atol` must be positive, finite and representable; got {atol}.")
    return rtol, atol


def default_solver(rtol: float, dense: bool = False) -> diffrax.AbstractSolver:
    """Fifth order for loose tolerances and for interpolation, at which Dopri8 is far worse than at its ends; else eighth."""
    return diffrax.Tsit5() if rtol >= 1e-6 or dense else diffrax.Dopri8()


def largest(errors: Any) -> Array:
    """Norm of a step's error over its tolerance: every component counts by itself, however many rest."""
    return jnp.max(jnp.stack([jnp.max(jnp.abs(error)) for error in jax.tree.leaves(errors)]))
