"""Where a flow with a constant smoothing ends: the stable fixed points of its denoiser at zero noise."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import as_positive_integer, require_ascending
from .._kinds import checks_kinds
from .._levels import as_level
from .._numerics import bisect


@checks_kinds
def stable_fixed_points(
    denoiser: Callable[..., Float[Array, " d"]],
    low: float,
    high: float,
    *,
    sigma: float = 1e-6,
    num: int = 2001,
) -> np.ndarray:
    """Stable fixed points `D(z) = z`, `dD/dz < 1`, of a 1-D denoiser between `low` and `high`, in ascending order.

    Near zero noise the flow moves states to where D takes them; if D tends to a smooth map there, trajectories end on
    its stable fixed points. They are bracketed by the changes of sign of `D(z) - z`, from plus to minus, on `num` evenly
    spaced points, and bisected.

    Args:
        denoiser: any callable `(u, sigma) -> (1,)`.
        low, high: the interval searched.
        sigma: noise level that stands for zero.
        num: points of the grid; two fixed points closer than its spacing are missed.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianSmoothedLineDenoiser(jnp.array([-1.0, 1.0]), 0.6)
        >>> print(sj.smoothing.stable_fixed_points(D, -2.0, 2.0).round(3))
        [-0.837  0.837]
    """
    require_ascending(low, high)
    grid = jnp.linspace(float(low), float(high), as_positive_integer(num, "num") + 1)
    level = as_level(sigma, "sigma", grid.dtype)
    gain: Any = jax.jit(jax.vmap(lambda z: denoiser(z[None], level)[0] - z))
    up = np.asarray(gain(grid))
    (at,) = np.nonzero((up[:-1] > 0) & (up[1:] <= 0))
    return np.asarray(bisect(lambda z: gain(z) > 0, grid[at], grid[at + 1]))
