"""Where a denoiser lies between memorizing its training set and knowing no more than mean and covariance."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._calls import evaluate, mean_over_noises
from .._checks import RealScalar, as_key, as_positive_integer
from .._jax.host_errors import raising_host_errors
from .._kinds import checks_kinds
from .._levels import as_level
from .._numerics import as_data
from ._estimate import Estimate, ratio_of_means, root_of_mean

_Denoiser = Callable[[Array, Array], Array]


class GaussianityIndex(eqx.Module):
    """The index of a denoiser between two references, and the three distances it comes from; see `gaussianity_index`.

    Attributes:
        index: 0 at the memorizing denoiser, 1 at the Gaussian one.
        to_gaussian: `denoiser_rmse` to the Gaussian denoiser.
        to_empirical: `denoiser_rmse` to the memorizing denoiser.
        between: `denoiser_rmse` between the two references.
        meaningful: false where the denoiser is farther from both references than they are from each other, or where all
            three agree: the index then says nothing of the denoiser, and tends to 1/2.
    """

    index: Estimate
    to_gaussian: Estimate
    to_empirical: Estimate
    between: Estimate
    meaningful: Bool[Array, ""]


@checks_kinds
@raising_host_errors
def gaussianity_index(
    denoiser: _Denoiser,
    empirical: _Denoiser,
    gaussian: _Denoiser,
    data: Float[Array, "n d"],
    sigma: RealScalar,
    key: PRNGKeyArray,
    *,
    num_noises: int = 1,
    batch_size: int = 1024,
) -> GaussianityIndex:
    """Index in [0, 1] that places a denoiser between the memorizing (0) and the Gaussian one (1), at one noise level.

    `E|D - D_M|^2 / (E|D - D_M|^2 + E|D - D_G|^2)`, all at the same noisy points. On the segment `(1 - s) D_M + s D_G` it is
    `s^2 / (s^2 + (1 - s)^2)`. Off the segment it compares two distances that can both be large: a network's optimisation
    error at noise levels where the references nearly agree gives 1/2, which is why the distances come along and the result
    says whether it is meaningful.

    Standard errors are over points, with the noises of a point averaged first, by the delta method; the distances and the
    index come from the same points, and are correlated. On training points and on held-out ones the index differs: on
    training points at low noise the memorizing denoiser is right. If the three denoisers agree exactly the index is 1/2 with
    error 0, and not meaningful.

    Args:
        denoiser: callable `(u: (d,), sigma: ()) -> (d,)`.
        empirical: the memorizing reference, such as `EmpiricalDenoiser(train)`.
        gaussian: the Gaussian reference, such as `GaussianDenoiser.fit(train)`.
        data: clean points, shape (n, d), n >= 2. The dtype of the computation is theirs.
        sigma: noise level, positive, in the units of the data. For several, `jax.lax.map`.
        key: JAX random key.
        num_noises: independent noises for each point, the same as those of `denoiser_rmse` at this key.
        batch_size: points evaluated at a time; the result does not depend on it.

    Raises:
        ValueError: on fewer than two points, a non-positive sigma, or a denoiser whose output does not have shape (d,).

    Example:
        >>> import jax, smoothjax as sj
        >>> train, held_out = jax.random.normal(jax.random.key(0), (2, 50, 3))
        >>> memory, gaussian = sj.EmpiricalDenoiser(train), sj.GaussianDenoiser.fit(train)
        >>> found = sj.gaussianity_index(gaussian, memory, gaussian, held_out, 0.5, jax.random.key(1))
        >>> found.index, bool(found.meaningful)
        (1 ± 0, True)
    """
    key = as_key(key)
    data = as_data(data, 2, "for a standard error")
    sigma = jnp.asarray(as_level(sigma, "sigma", data.dtype))
    num_noises = as_positive_integer(num_noises, "num_noises")
    batch_size = as_positive_integer(batch_size, "batch_size")

    def squares(u: Array) -> tuple[Array, Array, Array]:
        value = evaluate(denoiser, u, sigma, "denoiser")
        memory = evaluate(empirical, u, sigma, "empirical")
        smooth = evaluate(gaussian, u, sigma, "gaussian")
        pairs = (value, smooth), (value, memory), (memory, smooth)
        to_gaussian, to_empirical, between = (jnp.mean((a - b) ** 2) for a, b in pairs)
        return to_gaussian, to_empirical, between

    squared = mean_over_noises(squares, data, sigma, key, num_noises, batch_size)
    to_gaussian, to_empirical, between = (root_of_mean(square, 2) for square in squared)
    index = ratio_of_means(squared[1], squared[0] + squared[1])
    nearest = jnp.minimum(to_gaussian.value, to_empirical.value)
    apart = jnp.maximum(to_gaussian.value, to_empirical.value) > 0
    index = Estimate(jnp.where(apart, index.value, 0.5), index.standard_error)
    meaningful = apart & (nearest <= between.value)
    return GaussianityIndex(index, to_gaussian, to_empirical, between, meaningful)
