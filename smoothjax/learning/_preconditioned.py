"""EDM's preconditioning, which makes a denoiser of a network, and its loss."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import (
    RealScalar,
    as_float_array,
    as_key,
    as_points,
    as_positive_integer,
    require_positive,
)
from .._kinds import checks_kinds
from .._levels import as_level
from ..denoisers import AbstractDenoiser

P_MEAN = -0.6
"""Mean of `log sigma` in training, for data in [-1, 1]; EDM's is -1.2."""
P_STD = 1.6
"""Standard deviation of `log sigma` in training, for data in [-1, 1]; EDM's is 1.2."""


class Preconditioning(NamedTuple):
    """Coefficients of `D(u, sigma) = c_skip u + c_out F(c_in u, c_noise)` at one noise level.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.learning.PreconditionedDenoiser(lambda x, noise: 0 * x, 1, 1.0)
        >>> [round(float(c), 4) for c in D.preconditioning(jnp.array(1.0))]
        [0.5, 0.7071, 0.7071, 0.0]
    """

    c_skip: Float[Array, ""]
    c_out: Float[Array, ""]
    c_in: Float[Array, ""]
    c_noise: Float[Array, ""]


class PreconditionedDenoiser(AbstractDenoiser):
    r"""A network F read as the denoiser `D(u, sigma) = c_skip u + c_out F(c_in u, c_noise)`.

    With `s^2 = sigma^2 + sigma_data^2`: `c_skip = sigma_data^2 / s^2`, `c_out = sigma sigma_data / s`, `c_in = 1 / s`,
    `c_noise = log(sigma) / 4`. Then F's input and the target of its output have unit mean square at every noise level, and
    `F = 0` is the best denoiser that is a multiple of u.

    Args:
        network: F, a callable of a point of shape (d,) and a scalar, e.g. a `ResidualMLP`.
        dim: dimension d of the data.
        sigma_data: root mean square of the data's entries, about zero. Not trained: no gradient reaches it.

    Source: Karras et al. 2022, section 5 and table 1.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.learning.PreconditionedDenoiser(lambda x, noise: 0 * x, 1, 2.0)
        >>> print(D(jnp.array([5.0]), 1.0).round(5))  # c_skip u = 4 / (1 + 4) u
        [4.]
    """

    network: Callable[[Float[Array, " d"], Float[Array, ""]], Float[Array, " d"]]
    _dim: int = eqx.field(static=True)
    sigma_data: Float[Array, ""]

    @checks_kinds
    def __init__(
        self,
        network: Callable[[Float[Array, " d"], Float[Array, ""]], Float[Array, " d"]],
        dim: int,
        sigma_data: RealScalar,
    ):
        self.network, self._dim = network, as_positive_integer(dim, "dim")
        self.sigma_data = require_positive(sigma_data, "sigma_data")
        if self.sigma_data.shape != ():
            raise ValueError(f"`sigma_data` must be a scalar; got shape {self.sigma_data.shape}.")

    @property
    def dim(self) -> int:
        return self._dim

    def preconditioning(self, sigma: Float[Array, ""]) -> Preconditioning:
        """The coefficients at a noise level."""
        data = jax.lax.stop_gradient(self.sigma_data).astype(sigma.dtype)
        s = jnp.hypot(sigma, data)
        return Preconditioning((data / s) ** 2, sigma * (data / s), 1 / s, jnp.log(sigma) / 4)

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        return self.denoise(*self._point(u, sigma))

    def denoise(self, u: Float[Array, " d"], sigma: Float[Array, ""]) -> Float[Array, " d"]:
        """The same without checks, for losses."""
        c = self.preconditioning(sigma)
        return c.c_skip * u + c.c_out * self.network(c.c_in * u, c.c_noise)


@checks_kinds
def edm_loss(
    model: PreconditionedDenoiser,
    data: Float[Array, "n d"],
    key: PRNGKeyArray,
    *,
    batch_size: int,
    p_mean: RealScalar = P_MEAN,
    p_std: RealScalar = P_STD,
) -> Float[Array, ""]:
    """Monte Carlo estimate of `E |D(u, sigma) - x_0|^2 / (d c_out^2)`, with `log sigma ~ N(p_mean, p_std^2)`.

    That is EDM's loss, whose weight makes every noise level count alike at the start: it is about one for `F = 0`.

    Args:
        model: the denoiser.
        data: training points, shape (n, d).
        key: of the batch.
        batch_size: draws, each of a training point (with replacement), a noise level and a noise.
        p_mean, p_std: of the log noise level. The defaults suit small images with values in [-1, 1]: EDM's own, -1.2 and
            1.2, hardly ever reach the noise levels from which such data are sampled.

    Source: Karras et al. 2022, section 5, equation 8 and table 1.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> D = sj.learning.PreconditionedDenoiser(lambda x, noise: 0 * x, 100, 1.0)  # F = 0
        >>> data = jax.random.normal(jax.random.key(0), (50, 100))
        >>> bool(abs(sj.learning.edm_loss(D, data, jax.random.key(1), batch_size=200) - 1) < 0.1)
        True
    """
    key = as_key(key)
    data = as_points(data)
    if data.shape[1] != model.dim:
        raise ValueError(
            f"`data` must have dimension {model.dim}, the model's; got {data.shape[1]}."
        )
    batch_size = as_positive_integer(batch_size, "batch_size")
    mean = as_float_array(p_mean, "p_mean").astype(data.dtype)
    std = jnp.asarray(as_level(p_std, "p_std", data.dtype, or_zero=True))
    pick, level, noise = jax.random.split(key, 3)
    x = data[jax.random.randint(pick, (batch_size,), 0, data.shape[0])]
    sigma = jnp.exp(mean + std * jax.random.normal(level, (batch_size,), data.dtype))
    z = jax.random.normal(noise, x.shape, data.dtype)

    def error(x: Array, z: Array, sigma: Array) -> Array:
        c = model.preconditioning(sigma)
        output = model.network(c.c_in * (x + sigma * z), c.c_noise)
        # (x - c_skip u) / c_out, which would cancel at small noise levels.
        scale = jax.lax.stop_gradient(model.sigma_data).astype(sigma.dtype)
        target = c.c_in * (sigma / scale * x - scale * z)
        return jnp.mean((output - target) ** 2)

    return jnp.mean(jax.vmap(error)(x, z, sigma))
