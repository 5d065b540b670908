"""How far a denoiser is from the gradient of anything: the antisymmetric part of its Jacobian."""

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
def curl(
    denoiser: Denoiser,
    data: Float[Array, "n d"],
    sigma: RealScalar,
    key: PRNGKeyArray,
    *,
    batch_size: int = 64,
) -> Estimate:
    """`|J - J^T| / |J|` of a denoiser's Jacobian J, root mean square over noisy points: zero for a posterior mean.

    The exact posterior mean of any law is `u + sigma^2 grad log p`, whose Jacobian is symmetric. That of a network need not
    be: what is antisymmetric belongs to no law, and its flow to no density. The largest value is 2, of rotations; a matrix
    of independent entries has sqrt(2).

    One noise and one Gaussian probe v for each point: `E |(J - J^T) v|^2 = |J - J^T|_F^2`, of a product from the left and
    one from the right. The ratio of the means, its root and the standard error by the delta method. Zero comes out as
    some roundings, more where J is small: in float32 up to some 1e-6.

    Args:
        denoiser: callable `(u: (d,), sigma: ()) -> (d,)`, differentiable in both modes.
        data: clean points, shape (n, d), n >= 2.
        sigma: noise level, positive, in data units.
        key: JAX random key.
        batch_size: points at a time.

    Raises:
        ValueError: on fewer than two points, a noise level that is not positive, or an output of another shape.

    Source: Horvat and Pfister 2024, "On gauge freedom, conservativity and intrinsic dimensionality estimation in diffusion
    models" (asymmetry of a score's Jacobian); the probes are Hutchinson's, 1989.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> data = jax.random.normal(jax.random.key(0), (20, 2))
        >>> rotation = jnp.array([[0.0, -1.0], [1.0, 0.0]])
        >>> print(sj.measures.curl(lambda u, s: rotation @ u, data, 1.0, jax.random.key(1)))
        2 ± 0
    """
    key = as_key(key)
    data = as_data(data, 2, "for a standard error")
    level = jnp.asarray(as_level(sigma, "sigma", data.dtype))
    batch_size = as_positive_integer(batch_size, "batch_size")
    keys = keys_by_index(key, data.shape[0])

    def at(i: Array) -> tuple[Array, Array]:
        noise, probe = noises(keys[i], 2, data[i])

        def output(u: Array) -> Array:
            return denoised(denoiser, u, level)

        u = data[i] + level * noise
        forward = jax.jvp(output, (u,), (probe,))[1]
        (backward,) = jax.vjp(output, u)[1](probe)
        return jnp.sum((forward - backward) ** 2), jnp.sum(forward**2)

    square = ratio_of_means(*in_batches(at, data.shape[0], batch_size))
    is_zero = square.value <= 0
    root = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, square.value)))
    return Estimate(root, square.standard_error / jnp.where(is_zero, 1, 2 * root))


register(
    Measure(
        "curl",
        "How far each denoiser is from a gradient",
        "$|J - J^T| / |J|$",
        "Curl: the Jacobian's antisymmetric part over the Jacobian, zero for the posterior mean of any law.",
        computing("curl", curl),
        calls=6,
        limits=(0, None),
    )
)
