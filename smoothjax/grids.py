"""Grids of noise levels."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from ._checks import as_float_array, as_positive_integer, positive_parameter, require_larger
from ._jax.precision import common_dtype
from ._kinds import checks_kinds


@checks_kinds
def edm_grid(
    num_levels: int,
    sigma_max: Real[ArrayLike, ""] = 80.0,
    sigma_min: Real[ArrayLike, ""] = 0.002,
    rho: Real[ArrayLike, ""] = 7.0,
    *,
    final_zero: bool = True,
) -> Float[Array, " levels"]:
    """The noise levels of Karras et al., eq. (5): evenly spaced in `sigma^(1/rho)`, decreasing.

    Args:
        num_levels: number of positive levels, at least two.
        sigma_max: first level, exactly.
        sigma_min: last positive level, exactly; smaller than `sigma_max`.
        rho: positive. Larger values put more levels at small noise; 1 is a linear grid, and the
            limit of large `rho` is `log_uniform_grid`.
        final_zero: append a final 0, as Karras et al. do.

    Returns:
        `num_levels + 1` noise levels, or `num_levels` without the final zero, in the dtype of
        `sigma_max` and `sigma_min` (the default float dtype for Python numbers).

    Raises:
        ValueError: if `num_levels` is not an integer of at least two, another argument is not a
            positive finite scalar, or `sigma_max <= sigma_min`.

    Example:
        >>> import smoothjax as sj
        >>> levels = sj.edm_grid(18)  # 80, 57.6, 40.8, ..., 0.0075, 0.002, 0

    Source: Karras et al. 2022, eq. (5).
    """
    high, low, fraction = _grid_arguments(num_levels, sigma_max, sigma_min)
    rho = positive_parameter(rho, "rho")
    return _edm_levels(high, low, rho, fraction, bool(final_zero))


@partial(jax.jit, static_argnums=4)  # One program, where each operation would be one of its own.
def _edm_levels(high, low, rho, fraction, final_zero):
    # fraction[::-1] and not 1 - fraction, whose rounding would show at the small end.
    levels = (fraction[::-1] * high ** (1 / rho) + fraction * low ** (1 / rho)) ** rho
    levels = levels.at[0].set(high).at[-1].set(low)
    return jnp.append(levels, jnp.zeros((), levels.dtype)) if final_zero else levels


@checks_kinds
def log_uniform_grid(
    num_levels: int, sigma_max: Real[ArrayLike, ""], sigma_min: Real[ArrayLike, ""]
) -> Float[Array, " num_levels"]:
    """Noise levels with a constant ratio, decreasing from `sigma_max` to `sigma_min` exactly.

    Args:
        num_levels: number of levels, at least two.
        sigma_max: first level.
        sigma_min: last level, positive and smaller than `sigma_max`.

    Returns:
        The noise levels, of dtype as in `edm_grid`.

    Raises:
        ValueError: as `edm_grid`.

    Example:
        >>> import smoothjax as sj
        >>> print(sj.log_uniform_grid(3, 100.0, 1.0).round(4))
        [100.  10.   1.]
    """
    high, low, fraction = _grid_arguments(num_levels, sigma_max, sigma_min)
    return _log_uniform_levels(high, low, fraction)


@jax.jit
def _log_uniform_levels(high, low, fraction):
    levels = jnp.exp(fraction[::-1] * jnp.log(high) + fraction * jnp.log(low))
    return levels.at[0].set(high).at[-1].set(low)


def _grid_arguments(
    num_levels: int, sigma_max: Real[ArrayLike, ""], sigma_min: Real[ArrayLike, ""]
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, " num_levels"]]:
    """Both ends as arrays of one (strong) dtype, and the fractions 0 ... 1 between them."""
    if as_positive_integer(num_levels, "num_levels") < 2:
        raise ValueError(f"`num_levels` must be at least 2, one for each end; got {num_levels}.")
    high, low = (
        positive_parameter(sigma_max, "sigma_max"),
        positive_parameter(sigma_min, "sigma_min"),
    )
    require_larger(high, low, "sigma", strict=True)
    dtype = common_dtype(*map(_weakly_typed, (sigma_max, sigma_min)))
    fraction = jnp.linspace(0, 1, num_levels, dtype=dtype)
    return jnp.asarray(high, dtype), jnp.asarray(low, dtype), fraction


def _weakly_typed(value: Real[ArrayLike, ""]) -> Array:
    # A Python number never widens a float32 partner.
    return as_float_array(float(value) if isinstance(value, float) else value, "sigma")
