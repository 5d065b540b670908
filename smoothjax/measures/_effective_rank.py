"""In how many directions a denoiser's Jacobian is large: the participation ratio of its eigenvalues."""

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
from ._estimate import Estimate, ratio_of_means
from ._registry import Measure, computing, register


@checks_kinds
@raising_host_errors
def effective_rank(
    denoiser: Denoiser,
    data: Float[Array, "n d"],
    sigma: RealScalar,
    key: PRNGKeyArray,
    *,
    batch_size: int = 64,
) -> Estimate:
    """`E (tr J)^2 / E |J|^2` of a denoiser's Jacobian J at noisy points: among how many directions what passes is spread.

    Of a symmetric J with eigenvalues `lambda_i` it is `(sum_i lambda_i)^2 / sum_i lambda_i^2`: where those that are not zero
    are equal, their number, else less. How much passes is `degrees_of_freedom`. Of a J that is not symmetric, part of |J|
    has no trace, and the number is lower.

    One noise and two probes v, w of random signs for each point: `(v . J v) (w . J w)` and the mean of `|J v|^2` and
    `|J w|^2`, both without bias. The ratio of their means, and the standard error by the delta method, over points, noises
    and probes.

    Args:
        denoiser: callable `(u: (d,), sigma: ()) -> (d,)`, differentiable forwards.
        data: clean points, shape (n, d), n >= 2.
        sigma: noise level, positive, in data units.
        key: JAX random key.
        batch_size: points at a time.

    Raises:
        ValueError: on fewer than two points, a noise level that is not positive, or an output of another shape.

    Source: Bartlett, Long, Lugosi and Tsigler 2020, "Benign overfitting in linear regression" (the effective rank R_0 of
    their definition 3, there of a covariance). Roy and Vetterli 2007 call the exponential of an entropy by this name.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> data = jax.random.normal(jax.random.key(0), (20, 3))
        >>> D = sj.GaussianDenoiser(jnp.zeros(3), jnp.diag(jnp.array([1.0, 1.0, 0.0])))
        >>> print(sj.measures.effective_rank(D, data, 1.0, jax.random.key(1)))  # (1/2 + 1/2)^2 / (1/4 + 1/4)
        2 ± 0
    """
    key = as_key(key)
    data = as_data(data, 2, "for a standard error")
    level = jnp.asarray(as_level(sigma, "sigma", data.dtype))
    batch_size = as_positive_integer(batch_size, "batch_size")
    keys = keys_by_index(key, data.shape[0])

    def at(i: Array) -> tuple[Array, Array]:
        noise, *others = noises(keys[i], 3, data[i])
        signs = jnp.where(jnp.stack(others) < 0, -1, 1).astype(data.dtype)
        output = lambda u: denoised(denoiser, u, level)  # noqa: E731
        along = jax.linearize(output, data[i] + level * noise)[1]
        products = jax.vmap(along)(signs)
        traces = jnp.sum(signs * products, axis=1)
        return traces[0] * traces[1], jnp.sum(products**2) / 2

    return ratio_of_means(*in_batches(at, data.shape[0], batch_size))


register(
    Measure(
        "effective-rank",
        "Among how many directions what passes is spread",
        "$(\\mathrm{tr} J)^2 / |J|^2$",
        "Effective rank: the squared trace of the Jacobian over its squared size, the number of directions where all that "
        "pass are equal.",
        computing("effective-rank", effective_rank),
        calls=5,
        limits=(0, None),
    )
)
