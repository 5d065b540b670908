"""Information about the clean point, its training point and its class, by noise level: of a training set."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import (
    as_float_array,
    as_integer,
    as_key,
    as_points,
    as_positive_integer,
    require_positive,
)
from .._kinds import checks_kinds
from .._noise import initial_noise
from ..datasets import Dataset
from ..measures import Estimate, nearest_neighbours
from ._point_posteriors import DistinctPoints, Posteriors, distinct_points, posteriors_of

DEFAULT_LEVELS, DEFAULT_DRAWS = 24, 256
# Of the points whose spacing decides where the default levels begin.
SPACED_POINTS = 256


class InformationCurve(eqx.Module):
    """What a noisy point of a training set says about where it came from, at each noise level sigma; in nats.

    Made by `information_curve`. Every estimate has one entry a level; its standard error is over the draws of training point
    and noise, which are the same at all levels, so that curves are smooth and their errors move together.

    Attributes:
        sigma: noise levels, in data units, as given.
        information: `I(x_0; x_0 + sigma z)` of the training set itself: from 0 at high noise to `max_information`.
        left_out: the same against the other training points, `E log N(u; x_0, sigma^2) / p(u)` with the density p of all but
            the noised one. On average it is at least the information of the law that the points were drawn from, as
            `information` is at most that; it leaves `log N` behind where copies begin.
        log_odds: log posterior odds of the noised point against all others together. Zero at the collapse.
        rate: entropy production `-dI / dlog sigma`, which is the least mean square error over `sigma^2`.
        class_information: `I(class; x_0 + sigma z)`, or None without labels.
        max_information: entropy of the training points, `log N` where all differ.
        max_class_information: entropy of the classes' shares, or None.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> pair = jnp.array([[-1.0], [1.0]])
        >>> curve = sj.regimes.information_curve(pair, jax.random.key(0), [0.01, 100.0])
        >>> print(curve.information.value.round(3), f"{curve.max_information:.3f}")  # log 2
        [0.693 0.   ] 0.693
    """

    sigma: Float[Array, " l"]
    information: Estimate
    left_out: Estimate
    log_odds: Estimate
    rate: Estimate
    class_information: Estimate | None
    max_information: Float[Array, ""]
    max_class_information: Float[Array, ""] | None

    def grid(self, num_levels: int) -> Float[Array, " num_levels"]:
        """Noise levels, decreasing, between which equal amounts of information arrive, from the curve's ends.

        Source: Stancevic, Handke and Ambrogioni 2025, "Entropic time schedulers for generative diffusion models" (steps of
        equal entropy of the clean point).

        Raises:
            ValueError: for fewer than two levels, or a curve of less than two.
        """
        num_levels = as_positive_integer(num_levels, "num_levels")
        if num_levels < 2 or self.sigma.shape[0] < 2:
            raise ValueError(
                f"`num_levels` and the curve's levels must be at least two; got {num_levels} and {self.sigma.shape[0]}."
            )
        order = jnp.argsort(-self.sigma)
        sigma = self.sigma[order]
        # An estimate need not rise at every level, as information does.
        reached = jax.lax.cummax(self.information.value[order])
        shares = jnp.linspace(reached[0], reached[-1], num_levels)
        levels = jnp.exp(jnp.interp(shares, reached, jnp.log(sigma)))
        return levels.at[0].set(sigma[0]).at[-1].set(sigma[-1])


def as_training_set(data: Any) -> tuple[Float[Array, "n d"], Any]:
    """Points and labels of a data set, or points without labels."""
    if isinstance(data, Dataset):
        return data.points, data.labels
    return as_points(data), None


def several_points(data: Any) -> DistinctPoints:
    """At least two locations."""
    points = distinct_points(data)
    if points.points.shape[0] < 2:
        raise ValueError(
            f"`data` must hold at least two different points; got {len(points.row_of)} at one location."
        )
    return points


def as_noise_levels(levels: Any, dtype: Any) -> Float[Array, " l"]:
    """Positive levels in any order, of shape (l,)."""
    levels = require_positive(as_float_array(levels, "levels"), "levels")
    if levels.ndim != 1 or levels.shape[0] == 0:
        raise ValueError(f"`levels` must have shape (l,) with l >= 1; got {levels.shape}.")
    return levels.astype(dtype)


def draws_of(
    points: DistinctPoints, key: PRNGKeyArray, num_draws: int
) -> tuple[Int[Array, " m"], Float[Array, "m d"], Int[Array, " m"]]:
    """Locations, noises and rows of training points: each point as often as any other, but for one."""
    num, dim = points.row_of.shape[0], points.points.shape[1]
    order = jax.random.permutation(jax.random.fold_in(key, 1), num)
    rows = order[jnp.arange(num_draws) % num]
    noise = initial_noise(key, num_draws, dim, dtype=points.points.dtype)
    return points.row_of[rows], noise, rows


@checks_kinds
def noise_levels(data: Any, num_levels: int = DEFAULT_LEVELS) -> Float[Array, " num_levels"]:
    """Levels at a constant ratio from a tenth of the points' spacing, where all is known, to five extents, where nothing is.

    The spacing is the median distance of a training point to the nearest other one; the extent is the root of the
    covariance's trace.

    Args:
        data: training points, shape (n, d), in data units, or a `Dataset`.
        num_levels: at least two.

    Raises:
        ValueError: for bad shapes or values, and for fewer than two different points.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.regimes.noise_levels(jnp.array([[0.0], [2.0]]), 2).round(3))
        [0.2 5. ]
    """
    num_levels = as_integer(num_levels, "num_levels", least=2)
    return spread_of_levels(several_points(as_training_set(data)[0]), num_levels)


def spread_of_levels(points: DistinctPoints, num_levels: int) -> Float[Array, " l"]:
    """`noise_levels` of points that were found different."""
    locations = points.points
    # On the host, where a few sums and logarithms need no program of their own.
    extent = math.sqrt(np.sum(np.var(np.asarray(locations, np.float64), axis=0)))
    some = locations[:: max(1, locations.shape[0] // SPACED_POINTS)]
    spacing = float(np.median(np.asarray(nearest_neighbours(some, locations, 2)[0])[:, 1]))
    levels = np.geomspace(0.1 * spacing, 5 * extent, num_levels) * float(points.unit)
    return jnp.asarray(levels, locations.dtype)


@checks_kinds
def information_curve(
    data: Any,
    key: PRNGKeyArray,
    levels: Any = None,
    *,
    labels: Any = None,
    num_draws: int = DEFAULT_DRAWS,
) -> InformationCurve:
    """Information about the clean point, the odds of its training point, and its class, at all noise levels at once.

    The posterior over a training set is over its points, so that `I = H(points) - E H(point | u)`: the posterior entropy,
    exact at every draw, is averaged over draws of point and noise. A pair of a draw and a training point takes two products
    whatever the number of levels, and an exponential at each level. Where all points are drawn equally often, the average
    over points has no error but the noise's.

    Args:
        data: training points, shape (n, d), in data units, or a `Dataset`. Equal points count as one location with as large
            a share.
        key: JAX random key.
        levels: noise levels, shape (l,), in any order; by default 24 of `noise_levels`.
        labels: classes, shape (n,); by default those of the data set, if it has some.
        num_draws: of a point and a noise.

    Raises:
        ValueError: for bad shapes or values, and for fewer than two different points: there is nothing to tell.

    Source: the information of the Gaussian channel; Biroli, Bonnaire, de Bortoli and Mezard 2024 (its part in collapse).

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> points = sj.datasets.load("digits").points[:200]
        >>> curve = sj.regimes.information_curve(points, jax.random.key(0), [0.05, 50.0], num_draws=32)
        >>> [round(float(x), 2) for x in curve.information.value], round(float(curve.max_information), 2)
        ([5.3, 0.0], 5.3)
    """
    key, num_draws = as_key(key), as_positive_integer(num_draws, "num_draws")
    array, of_set = as_training_set(data)
    points = several_points(array)
    labels = of_set if labels is None else labels
    members, max_class = None, None
    if labels is not None:
        members, max_class = _members(points, Dataset("training set", array, labels).labels)
    levels = spread_of_levels(points, DEFAULT_LEVELS) if levels is None else levels
    sigma = as_noise_levels(levels, points.points.dtype)
    own, noise, _ = draws_of(points, key, num_draws)
    found = posteriors_of(points, own, noise, sigma, members)
    return _curve(points, own, sigma, found, max_class)


def _members(points: DistinctPoints, labels: Any) -> tuple[Array, Array]:
    """Shares of the classes at each location, and the entropy of the classes."""
    _, classes = np.unique(np.asarray(labels), return_inverse=True)
    counts = np.zeros((points.points.shape[0], classes.max() + 1))
    np.add.at(counts, (np.asarray(points.row_of), classes), 1)
    shares = counts.sum(axis=0) / len(classes)
    dtype = points.points.dtype
    entropy = -np.sum(shares * np.log(shares))
    return jnp.asarray(counts / counts.sum(axis=1, keepdims=True), dtype), jnp.asarray(
        entropy, dtype
    )


@jax.jit
def over_draws(values: Float[Array, "m l"]) -> Estimate:
    """Mean over draws with its standard error, level by level."""
    num = values.shape[0]
    mean = jnp.mean(values, axis=0)
    rest = values - mean[None]
    # In units of the largest: of log odds at tiny noise the square overflows.
    size = jnp.maximum(jnp.max(jnp.abs(rest), axis=0), jnp.finfo(values.dtype).tiny)
    square = jnp.sum((rest / size[None]) ** 2, axis=0) / (num * max(num - 1, 1))
    error = size * jnp.sqrt(square) if num > 1 else jnp.full_like(mean, jnp.nan)
    return Estimate(mean, error)


@jax.jit
def _curve(
    points: DistinctPoints, own: Array, sigma: Array, found: Posteriors, max_class: Array | None
) -> InformationCurve:
    log_share = points.log_weights[own][:, None]
    rest = jnp.log(-jnp.expm1(log_share))  # of the others
    return InformationCurve(
        sigma=sigma,
        information=over_draws(points.entropy - found.entropy),
        left_out=over_draws(found.log_odds + rest - log_share),
        log_odds=over_draws(found.log_odds),
        rate=over_draws(found.entropy_slope),
        class_information=None
        if max_class is None
        else over_draws(max_class - found.class_entropy),
        max_information=points.entropy,
        max_class_information=max_class,
    )
