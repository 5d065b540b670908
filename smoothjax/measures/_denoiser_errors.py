"""How far two denoisers are apart."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .._calls import evaluate, mean_over_noises
from .._checks import RealScalar, as_key, as_positive_integer, checked, require_positive
from .._jax.host_errors import raising_host_errors
from .._kinds import checks_kinds
from .._levels import as_level
from .._numerics import as_centre, as_data, done_now, norm
from ._estimate import Estimate, mean_estimate, ratio_of_means, root_of_mean

_Denoiser = Callable[[Array, Array], Array]


@checks_kinds
@raising_host_errors
def denoiser_rmse(
    first: _Denoiser,
    second: _Denoiser,
    data: Float[Array, "n d"],
    sigma: RealScalar,
    key: PRNGKeyArray,
    *,
    num_noises: int = 1,
    batch_size: int = 1024,
) -> Estimate:
    """Root mean square difference of two denoisers, per coordinate, at one noise level.

    sqrt(E |D1(u, sigma) - D2(u, sigma)|^2 / d) at u = x0 + sigma z, with x0 running over `data`
    once each and z standard normal, in the units of the data. The mean is inside the root; the mean
    of roots is another and smaller number. Divide by sigma^2 for scores. All denoisers agree as
    sigma grows, so compare with the value between two references, such as the empirical and the
    Gaussian denoiser; and whether `data` are training or held-out points makes a difference.

    The standard error is that over fresh draws of the points and their noises: the noises of one
    point are averaged first, and the error of the root follows by the delta method. (It takes the
    points for a sample of their law; if they are the law, as for a whole training set, it errs
    upwards.) Where the denoisers agree exactly both numbers are 0, and so are their derivatives.

    The noise of point i depends on `key` and i alone, so levels and pairs of denoisers can be
    compared under common random numbers. Nothing is cached between calls, so that a denoiser may
    close over parameters that change; for repeated calls wrap it in `jax.jit`, for many levels see
    `rmse_curve`.

    Args:
        first, second: callables `(u: (d,), sigma: ()) -> (d,)`.
        data: clean points, shape (n, d), n >= 2. The dtype of the computation is theirs.
        sigma: noise level, positive, in the units of the data.
        key: JAX random key.
        num_noises: independent noises for each point.
        batch_size: points evaluated at a time; the result does not depend on it.

    Raises:
        ValueError: on fewer than two points, a non-positive sigma, or a denoiser whose output does
            not have shape (d,).

    Example:
        >>> import jax, smoothjax as sj
        >>> shrink = lambda u, sigma: u / (1 + sigma**2)
        >>> data = jax.random.normal(jax.random.key(0), (500, 3))
        >>> found = sj.denoiser_rmse(shrink, lambda u, sigma: u, data, 1.0, jax.random.key(1))
        >>> bool(abs(found.value - 0.5**0.5) < 4 * found.standard_error)  # of u / 2, with u of variance 2
        True
    """
    key = as_key(key)
    data = as_data(data, 2, "for a standard error")
    sigma = jnp.asarray(as_level(sigma, "sigma", data.dtype))
    num_noises = as_positive_integer(num_noises, "num_noises")
    batch_size = as_positive_integer(batch_size, "batch_size")

    def squared_difference(u: Array) -> Array:
        difference = evaluate(first, u, sigma, "first") - evaluate(second, u, sigma, "second")
        return jnp.mean(difference**2)

    squares = mean_over_noises(squared_difference, data, sigma, key, num_noises, batch_size)
    return root_of_mean(squares, 2)


@checks_kinds
@raising_host_errors
def mean_denoiser_distance(
    first: _Denoiser,
    second: _Denoiser,
    data: Float[Array, "n d"],
    sigma: RealScalar,
    key: PRNGKeyArray,
    *,
    num_noises: int = 1,
    batch_size: int = 1024,
) -> Estimate:
    """Mean of the roots, E sqrt(|D1(u, sigma) - D2(u, sigma)|^2 / d), where `denoiser_rmse` has the root of the mean.

    In the units of the data; by Jensen's inequality never the larger of the two. Both are called score field or denoiser
    error in print, so that the one must not be compared with the other. The same noises, and the same standard error over
    points.

    Args and what is raised: as for `denoiser_rmse`.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> shrink = lambda u, sigma: u / (1 + sigma**2)
        >>> data = jax.random.normal(jax.random.key(0), (500, 3))
        >>> found = sj.measures.mean_denoiser_distance(shrink, lambda u, sigma: u, data, 1.0, jax.random.key(1))
        >>> bool(abs(found.value - 2 / (3 * jnp.pi) ** 0.5) < 4 * found.standard_error)  # the mean length in 3-D
        True
    """
    key = as_key(key)
    data = as_data(data, 2, "for a standard error")
    sigma = jnp.asarray(as_level(sigma, "sigma", data.dtype))
    num_noises = as_positive_integer(num_noises, "num_noises")
    batch_size = as_positive_integer(batch_size, "batch_size")

    def distance(u: Array) -> Array:
        difference = evaluate(first, u, sigma, "first") - evaluate(second, u, sigma, "second")
        return norm(difference) / math.sqrt(u.size)

    return mean_estimate(mean_over_noises(distance, data, sigma, key, num_noises, batch_size))


@checks_kinds
@raising_host_errors
def normalised_mse(
    first: _Denoiser,
    second: _Denoiser,
    data: Float[Array, "n d"],
    sigma: RealScalar,
    key: PRNGKeyArray,
    *,
    centre: Float[Array, " d"] | None = None,
    num_noises: int = 1,
    batch_size: int = 1024,
) -> Estimate:
    """Mean square difference of two denoisers, in units of what the second does: E |D1 - D2|^2 / E |D2 - centre|^2.

    Without units: 0 where the denoisers agree, 1 if the first is the constant `centre`. Unlike `denoiser_rmse` it does not
    vanish with growing noise only because both denoisers tend to the data mean. Not symmetric: the second is the reference.
    Points, noises and batches as in `denoiser_rmse`; the standard error is that of a ratio of two means over points, by the
    delta method.

    Args:
        first, second: callables `(u: (d,), sigma: ()) -> (d,)`.
        data: clean points, shape (n, d), n >= 2. The dtype of the computation is theirs.
        sigma: noise level, positive, in the units of the data.
        key: JAX random key.
        centre: shape (d,); by default the mean of `data`. For a reference fitted to other data give the mean of those.
        num_noises: independent noises for each point.
        batch_size: points evaluated at a time; the result does not depend on it.

    Raises:
        ValueError: as `denoiser_rmse` does, on a centre of the wrong shape, and where the reference is the constant
            `centre`. (Inside `jax.jit` the last raises when the function runs.)

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> data = jax.random.normal(jax.random.key(0), (500, 3))
        >>> shrink, half = lambda u, sigma: u / (1 + sigma**2), lambda u, sigma: 0.5 * u / (1 + sigma**2)
        >>> sj.normalised_mse(half, shrink, data, 1.0, jax.random.key(1), centre=jnp.zeros(3))
        0.25 ± 0
    """
    key = as_key(key)
    data = as_data(data, 2, "for a standard error")
    sigma = jnp.asarray(as_level(sigma, "sigma", data.dtype))
    num_noises = as_positive_integer(num_noises, "num_noises")
    batch_size = as_positive_integer(batch_size, "batch_size")
    mu = as_centre(centre, data)

    def squares(u: Array) -> tuple[Array, Array]:
        reference = evaluate(second, u, sigma, "second")
        difference = evaluate(first, u, sigma, "first") - reference
        return jnp.mean(difference**2), jnp.mean((reference - mu) ** 2)

    differences, sizes = mean_over_noises(squares, data, sigma, key, num_noises, batch_size)
    message = (
        "`second` must not be the constant `centre`, in whose spread the difference is measured"
    )
    sizes = checked(sizes, jnp.sum(sizes) == 0, message)
    return ratio_of_means(differences, sizes)


@checks_kinds
@raising_host_errors
def rmse_curve(
    first: _Denoiser,
    second: _Denoiser,
    data: Float[Array, "n d"],
    levels: Float[Array, " levels"],
    key: PRNGKeyArray,
    *,
    num_noises: int = 1,
    batch_size: int = 1024,
) -> Estimate:
    """`denoiser_rmse` at several noise levels, under common random numbers.

    Compiled once and looped over the levels, so that memory is that of one level. With the same
    noises at each level the curve is smooth, and its errors are correlated from level to level.

    Args:
        first, second, data, key, num_noises, batch_size: as for `denoiser_rmse`.
        levels: noise levels, positive, shape (levels,).

    Returns:
        The estimates, with a leading axis of levels.

    Raises:
        ValueError: as `denoiser_rmse` does, and on levels that are not a non-empty vector.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> zero, level = lambda u, sigma: 0 * u, lambda u, sigma: sigma + 0 * u
        >>> data, levels = jnp.ones((5, 3)), jnp.array([0.5, 2.0])
        >>> print(sj.rmse_curve(zero, level, data, levels, jax.random.key(0)).value)
        [0.5 2. ]
    """
    key = as_key(key)
    data = as_data(data, 2, "for a standard error")
    levels = done_now(require_positive, levels, "levels").astype(data.dtype)
    if levels.ndim != 1 or levels.shape[0] == 0:
        raise ValueError(f"`levels` must be a non-empty vector; got shape {levels.shape}.")

    def at_level(sigma: Array) -> Estimate:
        return denoiser_rmse(
            first, second, data, sigma, key, num_noises=num_noises, batch_size=batch_size
        )

    return lax.map(at_level, levels)
