"""How noisy the target of denoising score matching is, beside what it is a target of."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import RealScalar, as_float_array
from .._kinds import checks_kinds
from ..denoisers import Denoiser, mean_and_variance


@checks_kinds
def relative_variance(
    denoiser: Denoiser, u: Float[Array, " d"], sigma: RealScalar
) -> Float[Array, ""]:
    """Share of noise in the mean square of the denoising target: `tr C / (tr C + |s|^2)`, between 0 and 1.

    With C the covariance of the proxy score `(x_0 - u) / sigma^2` given u, and s its mean, the score. One on the boundary
    between basins of attraction, where the score vanishes and the target does not; zero where one training point is
    certain. The same in any parametrisation of time, since both terms scale alike.

    Args:
        denoiser: exact posterior mean; for any other callable the variance is `sigma^2 tr dD/du`.
        u: noisy point, shape (d,).
        sigma: noise level.

    Source: Vastola, ICLR 2025, Figure 1.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.EmpiricalDenoiser(jnp.array([[-1.0], [1.0]]))
        >>> print(sj.variance.relative_variance(D, jnp.zeros(1), 0.5))
        1.0
    """
    u = as_float_array(u, "u")
    mean, variance = mean_and_variance(denoiser, u, sigma)
    square = jnp.sum((mean - u.astype(mean.dtype)) ** 2)
    # Both over sigma^4. Exactly on a single training point nothing is left of either.
    total = variance + square
    return jnp.where(total <= 0, 0, variance / jnp.where(total <= 0, 1, total))
