"""How many directions a denoiser lets through: the trace of its Jacobian."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._calls import Denoiser, denoised
from .._checks import RealScalar, as_key, as_positive_integer
from .._jax.blocks import in_batches
from .._jax.host_errors import raising_host_errors
from .._kinds import checks_kinds
from .._levels import as_level
from .._numerics import as_data, keys_by_index, noises
from ._estimate import Estimate, mean_estimate
from ._registry import Measure, computing, register


@checks_kinds
@raising_host_errors
def degrees_of_freedom(
    denoiser: Denoiser,
    data: Float[Array, "n d"],
    sigma: RealScalar,
    key: PRNGKeyArray,
    *,
    batch_size: int = 64,
) -> Estimate:
    """`E tr dD/du` at noisy points: how many directions the denoiser lets through, of d.

    By Stein's lemma it is also `E D . z / sigma`, how far the output follows the noise z. A Gaussian denoiser has
    `sum_i lambda_i / (lambda_i + sigma^2)`, the effective degrees of freedom of ridge regression. For the posterior mean of
    any law it is the mean of the posterior variance (summed over coordinates) over sigma squared; none are left where one
    training point has all of the weight.

    One noise and one probe of random signs v for each point, `v . J v` (Hutchinson). The standard error is over points,
    noises and probes.

    Args:
        denoiser: callable `(u: (d,), sigma: ()) -> (d,)`, differentiable forwards.
        data: clean points, shape (n, d), n >= 2.
        sigma: noise level, positive, in data units.
        key: JAX random key.
        batch_size: points at a time.

    Raises:
        ValueError: on fewer than two points, a noise level that is not positive, or an output of another shape.

    Source: Efron 2004, "The estimation of prediction error" (degrees of freedom as a divergence); Mohan et al. 2020, "Robust
    and interpretable blind image denoising via bias-free convolutional neural networks" (those of a denoising network).

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> data = jax.random.normal(jax.random.key(0), (20, 3))
        >>> D = sj.GaussianDenoiser(jnp.zeros(3), jnp.diag(jnp.array([1.0, 1.0, 0.0])))
        >>> print(sj.measures.degrees_of_freedom(D, data, 1.0, jax.random.key(1)))  # 1/2 + 1/2 + 0
        1 ± 0
    """
    key = as_key(key)
    data = as_data(data, 2, "for a standard error")
    level = jnp.asarray(as_level(sigma, "sigma", data.dtype))
    batch_size = as_positive_integer(batch_size, "batch_size")
    keys = keys_by_index(key, data.shape[0])

    def at(i: Array) -> Array:
        noise, other = noises(keys[i], 2, data[i])
        signs = jnp.where(other < 0, -1, 1).astype(data.dtype)
        output = lambda u: denoised(denoiser, u, level)  # noqa: E731
        return jnp.vdot(signs, jax.jvp(output, (data[i] + level * noise,), (signs,))[1])

    return mean_estimate(in_batches(at, data.shape[0], batch_size))


register(
    Measure(
        "degrees-of-freedom",
        "How many directions each denoiser lets through",
        "tr dD/du",
        "Degrees of freedom: the mean trace of the Jacobian at noisy held-out points, of as many as there are coordinates.",
        computing("degrees-of-freedom", degrees_of_freedom),
        calls=3,
        limits=(0, None),
    )
)
