"""Collapse: the noise level below which a noisy training point is known to come from its own point."""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import as_integer, as_key, as_positive_integer, shown
from .._kinds import checks_kinds
from .._noise import initial_noise
from ..denoisers import AbstractPosteriorDenoiser
from ..measures import Estimate
from ._curve import (
    DEFAULT_DRAWS,
    DEFAULT_LEVELS,
    as_training_set,
    draws_of,
    over_draws,
    several_points,
    spread_of_levels,
)
from ._information import is_gaussian, mutual_information
from ._point_posteriors import DistinctPoints, posteriors_of

# A search looks at 24 levels at once and goes on between two of them: steps of some 0.3, 0.01 and 0.0005 in log sigma.
ROUNDS = 3
# Roundings of the points, which noise of a law's draws is well above.
MOVES = 32


class Collapse(eqx.Module):
    """Where trajectories of an exactly learned score belong to one training point: made by `collapse_level`.

    Attributes:
        sigma: the noise level at which a noised point's posterior odds against all others are even, on average of their
            logarithm over draws; its standard error is over draws.
        own: shape (m,); the level at which each draw's own odds are even.
        rows: shape (m,); which training point each draw noised.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> points = jax.random.normal(jax.random.key(0), (200, 16))
        >>> collapse = sj.regimes.collapse_level(points, jax.random.key(1))
        >>> 0.8 < float(collapse.sigma.value) < 1.2, collapse.own.shape  # 1.03 for 200 points of that law
        (True, (256,))
    """

    sigma: Estimate
    own: Float[Array, " m"]
    rows: Int[Array, " m"]


@checks_kinds
def collapse_level(data: Any, key: PRNGKeyArray, *, num_draws: int = DEFAULT_DRAWS) -> Collapse:
    """The noise level of collapse of a training set, from the posterior odds of its own points.

    Collapse is where the information `I(x_0; u)` of the law that N points were drawn from reaches `log N` (Biroli et al.).
    That law is not known. With the density of the other points in its place the information is
    `log(N - 1) + E log odds(noised point : all others)`, so that the condition says: even odds. Above that level the others
    outweigh the point that was noised, and the score hardly differs from one of other points; below, it leads back.

    Args:
        data: training points, shape (n, d), in data units, or a `Dataset`. Equal points count as one location.
        key: JAX random key.
        num_draws: of a point and a noise.

    Raises:
        ValueError: for bad shapes or values, and fewer than three different points: the odds of two are never even.

    Source: Biroli, Bonnaire, de Bortoli and Mezard 2024, "Dynamical regimes of diffusion models"; the form for a given set
    of points is ours.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> pair_and_far = jnp.array([[-1.0], [-0.9], [1.0]])
        >>> sigma = sj.regimes.collapse_level(pair_and_far, jax.random.key(0), num_draws=3000).sigma.value
        >>> 0.2 < float(sigma) < 2.0
        True
    """
    key, num_draws = as_key(key), as_positive_integer(num_draws, "num_draws")
    points = _three_points(as_training_set(data)[0])
    own, noise, rows = draws_of(points, key, num_draws)
    odds = lambda levels: posteriors_of(points, own, noise, levels).log_odds  # noqa: E731
    levels = spread_of_levels(points, DEFAULT_LEVELS)
    while float(jnp.mean(found := odds(levels), axis=0)[0]) <= 0:  # pairs far nearer than most
        levels = levels * 0.1
    return Collapse(
        _zero(lambda levels: over_draws(odds(levels)), levels, over_draws(found)),
        _each_zero(found, levels),
        rows,
    )


@checks_kinds
def population_collapse_level(
    law: AbstractPosteriorDenoiser,
    num_points: int,
    key: PRNGKeyArray | None = None,
    *,
    points: Any = None,
    num_draws: int = 4096,
) -> Estimate:
    """The noise level at which the information of a law reaches `log N`: where a set of N of its points collapses.

    For `N(0, v)` in d dimensions it is `sigma^2 = v / (N^(2/d) - 1)`.

    Args:
        law: Gaussian, in closed form; or another denoiser that is the posterior mean of a law, by its density.
        num_points: N, at least two.
        key, points, num_draws: of `mutual_information`, for laws other than Gaussians.

    Returns:
        Estimate of the level, in data units.

    Raises:
        ValueError: as `mutual_information`; for fewer than two points; for a law without extent; and where the
            information never passes log N, as that of a law of N points or fewer does not.

    Source: Biroli, Bonnaire, de Bortoli and Mezard 2024.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> law = sj.GaussianDenoiser(jnp.zeros(4), jnp.eye(4))
        >>> print(f"{sj.regimes.population_collapse_level(law, 100).value:.4f}")  # 1 / 3
        0.3333
    """
    num_points = as_integer(num_points, "num_points", least=2)
    extent = float(jnp.sqrt(jnp.trace(law.mean_and_covariance()[1])))
    if not extent > 0:
        raise ValueError("`law` must have an extent; got one whose covariance is zero.")
    target = math.log(num_points)
    at = functools.partial(mutual_information, law, key=key, points=points, num_draws=num_draws)
    excess = lambda levels: _less(at(levels), target)  # noqa: E731
    dtype = law.mean_and_covariance()[0].dtype
    # Of as many points as N the information is log N but for rounding.
    rounding = target * float(jnp.finfo(dtype).eps) ** 0.5
    levels = jnp.geomspace(1e-3 * extent, 5 * extent, DEFAULT_LEVELS, dtype=dtype)
    # Noise that hardly moves the points is not tried, but where information is in closed form.
    size = extent + float(jnp.linalg.norm(law.mean_and_covariance()[0]))
    least = 0.0 if is_gaussian(law) else MOVES * float(jnp.finfo(dtype).eps) * size
    for _ in range(8):
        if float(levels[0]) < least:
            break
        if float((found := excess(levels)).value[0]) > rounding:
            return _zero(excess, levels, found)
        levels = levels * 0.01
    raise ValueError(
        f"`num_points` must be fewer than the law tells apart; its information does not pass log {num_points}."
    )


def _less(estimate: Estimate, value: float) -> Estimate:
    return Estimate(estimate.value - value, estimate.standard_error)


def _three_points(data: Any) -> DistinctPoints:
    """At least three locations."""
    points = several_points(data)
    if points.points.shape[0] < 3:
        raise ValueError(
            "`data` must hold at least three different points: the odds of one against one other are never even; got 2."
        )
    return points


def _zero(values_at: Callable[[Array], Estimate], levels: Array, values: Estimate) -> Estimate:
    """Where a falling function of the noise level is zero, and its standard error by the slope there."""
    place = _last_positive(values)
    for _ in range(ROUNDS - 1):
        ends = levels[place], levels[place + 1]
        levels = jnp.geomspace(*ends, len(levels), dtype=levels.dtype)
        values = values_at(levels)
        place = _last_positive(values)
    low, high = levels[place], levels[place + 1]
    fall = values.value[place] - values.value[place + 1]
    step = jnp.log(high / low)
    level = low * jnp.exp(jnp.clip(values.value[place] / fall, 0, 1) * step)
    return Estimate(level, level * values.standard_error[place] * step / fall)


def _last_positive(values: Estimate) -> int:
    """The place after which a falling function is no longer positive, on the host; not the last."""
    falls = np.append(np.asarray(values.value)[1:] <= 0, True)
    return min(int(np.argmax(falls)), len(falls) - 2)


def _each_zero(values: Float[Array, "m l"], levels: Array) -> Float[Array, " m"]:
    """The highest level at which each row's interpolation is zero; the lowest level where it is negative throughout."""
    times = jnp.log(levels)
    falls = (values[:, :-1] > 0) & (values[:, 1:] <= 0)
    last = falls.shape[1] - 1 - jnp.argmax(falls[:, ::-1], axis=1)
    rows = jnp.arange(len(values))
    above, below = values[rows, last], values[rows, last + 1]
    share = jnp.where(above > below, above / jnp.where(above > below, above - below, 1), 0)
    zero = times[last] + share * (times[last + 1] - times[last])
    return jnp.where(jnp.any(falls, axis=1), jnp.exp(zero), levels[0])


@checks_kinds
def collapse_levels_of_points(
    data: Any, key: PRNGKeyArray, *, num_noises: int = 1, rows: Any = None
) -> Float[Array, " n"]:
    """The level of even odds of every training point: the largest are the first to which trajectories commit.

    Each is where the mean over noises of the point's log odds against all others falls through zero; an isolated point's
    level is high, one in a crowd has a low one. Copies of a point share a level.

    Args:
        data: training points, shape (n, d), or a `Dataset`.
        key: JAX random key.
        num_noises: noises of each point; the same for all, so that points differ by their places alone.
        rows: which training points, shape (k,); all by default.

    Returns:
        Noise levels, shape (n,) or (k,), in data units, interpolated between 24 levels.

    Raises:
        ValueError: as `collapse_level`.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> points = jnp.array([[0.0], [0.1], [0.2], [5.0]])
        >>> levels = sj.regimes.collapse_levels_of_points(points, jax.random.key(0), num_noises=64)
        >>> int(jnp.argmax(levels))  # the one apart
        3
    """
    key, num_noises = as_key(key), as_positive_integer(num_noises, "num_noises")
    array = as_training_set(data)[0]
    points = _three_points(array)
    own = points.row_of if rows is None else points.row_of[as_rows(rows, len(array))]
    noise = initial_noise(key, num_noises, array.shape[1], dtype=points.points.dtype)
    levels = spread_of_levels(points, DEFAULT_LEVELS)

    def of_noise(z: Array) -> Array:
        each = jnp.broadcast_to(z[None], (own.shape[0], z.shape[0]))
        return posteriors_of(points, own, each, levels).log_odds

    total = of_noise(noise[0])
    for z in noise[1:]:
        total = total + of_noise(z)
    return _each_zero(total / num_noises, levels)


def as_rows(rows: Any, num: int) -> Int[Array, " k"]:
    """Indices of training points, or `ValueError`."""
    rows = np.asarray(rows)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer) or rows.size == 0:
        raise ValueError(f"`rows` must be integers of shape (k,); got {shown(rows)}.")
    if rows.min() < 0 or rows.max() >= num:
        raise ValueError(f"`rows` must lie in 0..{num - 1}; got {rows.min()} to {rows.max()}.")
    return jnp.asarray(rows)
