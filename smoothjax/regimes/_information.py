"""Information about the clean point for any law with a posterior mean, from its density or from its least error."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import as_key, as_points, as_positive_integer, require_one_of
from .._jax.blocks import in_batches
from .._kinds import checks_kinds
from .._noise import initial_noise
from ..denoisers import (
    AbstractPosteriorDenoiser,
    DualGaussianDenoiser,
    EmpiricalDenoiser,
    FactorGaussianDenoiser,
    GaussianDenoiser,
    MixtureDenoiser,
    TruncatedDenoiser,
    WidenedDenoiser,
)
from ..measures import Estimate
from ._curve import DEFAULT_DRAWS, as_noise_levels, over_draws

ROUTES = ("closed", "density", "error")
# Gauss-Legendre nodes of a stretch of log sigma, and its longest extent: a posterior that settles does so over some tenths.
NODES, WIDEST = 4, 0.3
# Beyond so many extents of the data a law's least error is that of a Gaussian but for the fourth power of their ratio.
FAR = 30.0
BATCH = 64


@checks_kinds
def mutual_information(
    law: AbstractPosteriorDenoiser,
    levels: Any,
    key: PRNGKeyArray | None = None,
    *,
    route: str | None = None,
    points: Any = None,
    num_draws: int = DEFAULT_DRAWS,
) -> Estimate:
    """`I(x_0; x_0 + sigma z)` in nats at each noise level, for x_0 of the law whose posterior mean a denoiser is.

    Three routes, which check each other:

    - "closed": `1/2 sum_i log(1 + lambda_i / sigma^2)`, of Gaussians with covariance eigenvalues lambda;
    - "density": `E log N(u; x_0, sigma^2) / p_sigma(u)` over draws of x_0 and noise, from the law's log density;
    - "error": `int_sigma^inf mmse(s) / s^3 ds` with mmse(s) the mean posterior variance over draws (Guo, Shamai and Verdu).
      What is integrated is the difference from the Gaussian of the same mean and covariance, whose information is known;
      it vanishes quickly at high noise. By Gauss-Legendre, four nodes a stretch of 0.3 in log sigma at most, and nothing
      beyond 30 extents of the law.

    For a training set, `information_curve` averages posterior entropies instead: the least noisy and fastest way. It is
    also right at any level, where the last two routes want noise well above the rounding of the points, their size times
    machine epsilon: less does not move them.

    Args:
        law: denoiser that is the exact posterior mean of a law.
        levels: noise levels, shape (l,), in data units, in any order.
        key: JAX random key; needed for all but "closed".
        route: one of the three; by default "closed" for Gaussians and "density" for others.
        points: draws of the law, shape (m, d), used in turn; by default the law's own (training points; draws of a Gaussian
            or a mixture, or of one of these with a width added).
        num_draws: of a clean point and a noise, the same at all levels.

    Returns:
        Estimate of shape (l,), in nats; its standard error is over draws, zero in closed form.

    Raises:
        ValueError: for levels that are not positive, an unknown route, "closed" for another law than a Gaussian, a missing
            key, or a law that has no draws of its own where no `points` are given.

    Source: Guo, Shamai and Verdu 2005, "Mutual information and minimum mean-square error in Gaussian channels".

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> law = sj.GaussianDenoiser(jnp.zeros(2), jnp.diag(jnp.array([3.0, 1.0])))
        >>> print(sj.regimes.mutual_information(law, [1.0]).value.round(4))  # log(4 * 2) / 2
        [1.0397]
    """
    closed = is_gaussian(law)
    route = ("closed" if closed else "density") if route is None else route
    require_one_of(route, ROUTES, "route")
    dtype = law.mean_and_covariance()[0].dtype
    sigma = as_noise_levels(levels, dtype)
    num_draws = as_positive_integer(num_draws, "num_draws")
    if route == "closed":
        if not closed:
            raise ValueError(
                f'`route="closed"` is for Gaussians; got {type(law).__name__}. Take "density" or "error".'
            )
        value = _gaussian_information(_variances(law), sigma)
        return Estimate(value, jnp.zeros_like(value))
    if key is None:
        raise ValueError(f"`key` is needed for route={route!r}; got None.")
    key = as_key(key)
    clean = (
        draws_of_law(law, key, num_draws) if points is None else _in_turn(law, points, num_draws)
    )
    noise = initial_noise(key, num_draws, law.dim, dtype=dtype)
    if route == "density":
        return over_draws(_by_density(law, clean.astype(dtype), noise, sigma))
    return _by_error(law, clean.astype(dtype), noise, sigma)


def is_gaussian(law: AbstractPosteriorDenoiser) -> bool:
    """Whether the information is in closed form."""
    return isinstance(law, GaussianDenoiser | DualGaussianDenoiser | FactorGaussianDenoiser)


def _in_turn(law: AbstractPosteriorDenoiser, points: Any, num: int) -> Array:
    points = as_points(points, "points")
    if points.shape[1] != law.dim:
        raise ValueError(f"`points` must have shape (m, {law.dim}); got {points.shape}.")
    return points[jnp.arange(num) % points.shape[0]]


def draws_of_law(law: AbstractPosteriorDenoiser, key: PRNGKeyArray, num: int) -> Array:
    """Clean points of a law that is known well enough, shape (num, d); `ValueError` for others."""
    of_place, of_point = jax.random.split(jax.random.fold_in(key, 1))
    if isinstance(law, EmpiricalDenoiser | TruncatedDenoiser):
        rows = jax.random.choice(
            of_place, law.data.shape[0], (num,), p=getattr(law, "weights", None)
        )
        return law.data[rows]
    if isinstance(law, WidenedDenoiser):
        clean = draws_of_law(law.base, of_place, num)
        return clean + law.width * jax.random.normal(of_point, clean.shape, clean.dtype)
    if isinstance(law, MixtureDenoiser):
        which = jax.random.categorical(of_place, law.log_weights, shape=(num,))
        components = jax.tree.map(lambda leaf: leaf[which], law.components)
    elif isinstance(law, GaussianDenoiser):
        components = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num, *leaf.shape)), law)
    elif isinstance(law, DualGaussianDenoiser | FactorGaussianDenoiser):
        return draws_of_law(GaussianDenoiser(*law.mean_and_covariance()), key, num)
    else:
        raise ValueError(
            f"`points` must be given: clean draws of the law of a {type(law).__name__} are not known."
        )
    normal = jax.random.normal(of_point, (num, law.dim), components.mean.dtype)

    def one(gaussian: GaussianDenoiser, z: Array) -> Array:
        gains = jnp.sqrt(gaussian.eigenvalues), jnp.sqrt(gaussian.complement)
        return gaussian.mean + gaussian.map_modes(z, *gains)

    return jax.vmap(one)(components, normal)


def _variances(law: AbstractPosteriorDenoiser) -> Array:
    if isinstance(law, GaussianDenoiser):
        return law.variances
    covariance = law.mean_and_covariance()[1]
    # On the host in float64: small eigenvalues decide at low noise.
    values = np.linalg.eigvalsh(np.asarray(covariance, np.float64))
    return jnp.asarray(np.maximum(values, 0), covariance.dtype)


def _gaussian_information(variances: Array, levels: Array) -> Float[Array, " l"]:
    root = jnp.sqrt(variances)[None] / levels[:, None]
    large = jnp.maximum(root, 1)
    beyond = 2 * jnp.log(large) + jnp.log1p(1 / large**2)  # the square of the ratio may overflow
    return 0.5 * jnp.sum(jnp.where(root > 1, beyond, jnp.log1p(jnp.minimum(root, 1) ** 2)), axis=1)


@jax.jit
def _by_density(
    law: AbstractPosteriorDenoiser, clean: Array, noise: Array, sigma: Array
) -> Float[Array, "m l"]:
    own = -0.5 * jnp.sum(noise**2, axis=1) - law.dim * 0.5 * math.log(2 * math.pi)

    def at(level: Array) -> Array:
        one = lambda i: law.log_density(clean[i] + level * noise[i], level)  # noqa: E731
        return own - law.dim * jnp.log(level) - in_batches(one, clean.shape[0], BATCH)

    return lax.map(at, sigma).T


def _by_error(law: AbstractPosteriorDenoiser, clean: Array, noise: Array, sigma: Array) -> Estimate:
    variances = _variances(law)
    extent = float(jnp.sqrt(jnp.sum(variances)))
    ends = np.unique(np.asarray(sigma, np.float64))
    ends = np.append(ends, max(FAR * extent, 2 * ends[-1]))
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    places, sizes, first = [], [], []
    for low, high in zip(np.log(ends[:-1]), np.log(ends[1:]), strict=True):
        num = max(1, math.ceil((high - low) / WIDEST))
        cuts = np.linspace(low, high, num + 1)
        half = 0.5 * np.diff(cuts)[:, None]
        first.append(sum(map(len, places)))
        places.append((cuts[:-1, None] + half * (1 + nodes[None])).ravel())
        sizes.append((half * weights[None]).ravel())
    levels = jnp.asarray(np.exp(np.concatenate(places)), sigma.dtype)
    sizes = jnp.asarray(np.concatenate(sizes), sigma.dtype)
    excess = _excess_errors(law, variances, clean, noise, levels) * sizes[None]
    # From the top down: what is summed above a level is what is missing there.
    above = jnp.cumsum(excess[:, ::-1], axis=1)[:, ::-1]
    place = np.searchsorted(ends[:-1], np.asarray(sigma, np.float64))
    missing = above[:, np.asarray(first)[place]]
    estimate = over_draws(missing)
    return Estimate(
        _gaussian_information(variances, sigma) - estimate.value, estimate.standard_error
    )


@jax.jit
def _excess_errors(
    law: AbstractPosteriorDenoiser, variances: Array, clean: Array, noise: Array, levels: Array
) -> Float[Array, "m l"]:
    """Least error of the Gaussian less the posterior variance at each draw, over `s^2`."""

    def at(level: Array) -> Array:
        ratios = jnp.sqrt(variances) / level
        gaussian = jnp.sum(ratios**2 / (1 + ratios**2))
        one = lambda i: law.mean_and_variance(clean[i] + level * noise[i], level)[1]  # noqa: E731
        return gaussian - in_batches(one, clean.shape[0], BATCH) / level**2

    return lax.map(at, levels).T
