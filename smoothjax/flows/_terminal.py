"""How far the law of noisy data at the largest noise level is from the Gaussian that stands for it."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import RealScalar, as_points
from .._kinds import checks_kinds
from .._levels import as_level

_REACH = 6.0


@checks_kinds
def terminal_mismatch_bound(
    data: Float[Array, "n d"], sigma_max: RealScalar, distance: RealScalar | None = None
) -> Float[Array, ""]:
    """Bound, in nats, of `|log p(u) - log N(u; m, C + sigma_max^2)|` for all `u` near the data's mean `m`.

    `p` is the law of a training point plus noise of level `sigma_max`, `m` and `C` are the mean and the covariance of the
    training points: the law that `log_likelihood` puts at `sigma_max`, and so a bound of the error that this makes in it.
    Falls as `1 / sigma_max^3` when the distance grows with the noise level.

    Args:
        data: training points, shape (n, d).
        sigma_max: noise level, in data units.
        distance: the bound holds for `|u - m| <= distance`, in data units. By default `R + sigma_max (sqrt(d) + 6)`, with R
            the largest distance of a training point from the mean: noisy data lie there but for a fraction of 2e-8.

    Raises:
        ValueError: for bad data, or a noise level or distance that is not positive.

    Source: ours. With `x = x_0 - m`, `v = u - m` and `s = sigma_max`, `p(u)` is `N(v; 0, s^2)` times the mean of `exp(Y)`,
    `Y = v.x / s^2 - |x|^2 / 2 s^2`. Its logarithm is `E Y + Var Y / 2 + r`. The remainder is a sixth of a third cumulant of
    a tilted law of `Y`, and no variable with values in an interval of length `w` has one above `w^3 / 6 sqrt(3)`. What is
    left of the first two cumulants, and of the Gaussian's logarithm to the same order, is bounded by moments of the data.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> round(float(sj.terminal_mismatch_bound(jnp.array([[-1.0], [1.0]]), 80.0)), 8)
        8.713e-05
    """
    data = as_points(data)
    n, d = data.shape
    s = as_level(sigma_max, "sigma_max", data.dtype)
    # In units of the noise level: its powers would overflow or underflow first.
    x = (data - jnp.mean(data, axis=0, keepdims=True)) / s
    square = jnp.sum(x**2, axis=1)
    radius = jnp.sqrt(jnp.max(square))
    reach = radius + math.sqrt(d) + _REACH
    if distance is not None:
        reach = as_level(distance, "distance", data.dtype) / s
    # The covariance and the Gram matrix have the same Frobenius norm.
    gram = (x.T @ x if d <= n else x @ x.T) / n
    squared_norm = jnp.sum(gram**2)
    width = 2 * reach * radius + radius**2 / 2
    remainder = width**3 / (36 * math.sqrt(3))
    skew = 0.5 * reach * jnp.linalg.norm(jnp.mean(square[:, None] * x, axis=0))
    above = jnp.var(square) / 8 + 0.5 * reach**2 * squared_norm
    return remainder + skew + jnp.maximum(above, 0.25 * squared_norm)
