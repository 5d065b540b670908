"""How many training points a noisy point could have come from."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import RealScalar
from .._kinds import checks_kinds
from ..denoisers import EmpiricalDenoiser


@checks_kinds
def effective_neighbours(data: Any, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
    """Effective number of training points at `u`: `exp(entropy)` of the posterior over them, between 1 and n.

    One at noise levels far below the spacing of the data, where the posterior mean is a nearest-neighbour look-up, and n far
    above its extent. (The inverse of the sum of squared weights is another number, and a smaller one.)

    Args:
        data: training points, shape (n, d), or an `EmpiricalDenoiser` of them, which saves preparing them again.
        u: one noisy point, shape (d,). For a batch, `jax.vmap`.
        sigma: its noise level.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.effective_neighbours(jnp.array([[-1.0], [1.0]]), jnp.array([0.0]), 0.1).round(3))
        2.0
    """
    denoiser = data if isinstance(data, EmpiricalDenoiser) else EmpiricalDenoiser(data)
    return jnp.exp(denoiser.posterior_entropy(u, sigma))
