"""How the empirical denoiser becomes Gaussian at large noise: at a rate that the data's third cumulant sets."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._checks import RealScalar, as_points, as_positive_integer
from .._jax.blocks import blocks_of
from .._kinds import checks_kinds
from .._levels import as_level
from .._numerics import centred

# Entries of a block of the Gram matrix: 64 MB in float32.
BLOCK_ENTRIES = 2**24


@checks_kinds
def third_cumulant_norm(
    data: Float[Array, "n d"], *, block_size: int | None = None
) -> Float[Array, ""]:
    r"""Frobenius norm of the third cumulant of a set of points, in cubed data units.

    `|kappa_3|_F^2 = n^-2 sum_ij ((y_i - mu) . (y_j - mu))^3`, so that no tensor is formed: O(n^2 d), with one block of the
    Gram matrix in memory. Zero for data symmetric about their mean; of such data, what is returned is the root of a
    rounding error, about `sqrt(eps)` times the cubed spread.

    Args:
        data: points, shape (n, d).
        block_size: rows of the Gram matrix at a time. Changes memory and speed only.

    Raises:
        ValueError: for a bad shape, or data that are not finite.

    Source: the tensor is the mean of `y (x) y (x) y`, and the inner product of two such products is a cubed inner product.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax import gaussian
        >>> print(gaussian.third_cumulant_norm(jnp.array([[0.0], [0.0], [3.0]])))  # (-1 - 1 + 8) / 3
        2.0
    """
    data = as_points(data)
    n = data.shape[0]
    size = max(1, BLOCK_ENTRIES // n) if block_size is None else block_size
    size = min(as_positive_integer(size, "block_size"), n)
    return _third_cumulant_norm(data, *blocks_of(n, size))


def _third_cumulant_norm(data: Array, count: int, size: int) -> Array:
    rows = centred(data)[2]
    unit = jnp.max(jnp.abs(rows))
    unit = lax.stop_gradient(jnp.where(unit > 0, unit, 1))
    rows = rows / unit
    n, d = rows.shape
    blocks = jnp.pad(rows, ((0, count * size - n), (0, 0))).reshape(count, size, d)

    def block_sum(block: Array) -> Array:
        gram = jnp.matmul(block, rows.T, precision=lax.Precision.HIGHEST)
        return jnp.sum(jnp.mean(gram**3, axis=1))

    square = jnp.sum(lax.map(block_sum, blocks)) / n
    return unit**3 * jnp.sqrt(jnp.maximum(square, 0))


_third_cumulant_norm = jax.jit(_third_cumulant_norm, static_argnums=(1, 2))


@checks_kinds
def far_field_rmse(
    data: Float[Array, "n d"], sigma: RealScalar, *, block_size: int | None = None
) -> Float[Array, ""]:
    r"""RMSE between the empirical and the Gaussian denoiser of a training set at large noise, per coordinate.

    `|kappa_3|_F / (sqrt(2 d) sigma^2)`, the leading order as sigma grows beyond the spread of the data: at
    `u = mu + sigma z` the two differ by `(kappa_3(z, z, .) - tr kappa_3) / (2 sigma^2)`. That every denoiser is Gaussian at
    large noise is therefore no bias of networks, and this is its rate. Corrections are of relative order
    `(spread / sigma)^2`.

    Args:
        data: training points, shape (n, d); noisy points are drawn from them, or from N(mu, sigma^2), which is the same to
            this order.
        sigma: noise level, in data units.
        block_size: as for `third_cumulant_norm`.

    Raises:
        ValueError: for bad data, or a noise level that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax import gaussian
        >>> data = jnp.array([[0.0], [0.0], [3.0]])  # of third cumulant 2
        >>> round(float(gaussian.far_field_rmse(data, 10.0)), 5)  # 2 / (sqrt(2) 10^2)
        0.01414
    """
    norm = third_cumulant_norm(data, block_size=block_size)
    sigma = as_level(sigma, "sigma", norm.dtype)
    return norm / jnp.sqrt(2.0 * data.shape[1]) / sigma / sigma
