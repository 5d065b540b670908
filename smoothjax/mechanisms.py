"""The mechanisms that can be compared by name: each says how a training set becomes a denoiser."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from . import measures
from .datasets import Dataset
from .denoisers import (
    Denoiser,
    EmpiricalDenoiser,
    GaussianDenoiser,
    GaussianSmoothedDenoiser,
    MixtureDenoiser,
    NoiseUnconditionedDenoiser,
    PiecewiseLinearDenoiser,
    SwitchedDenoiser,
    TemperedDenoiser,
)


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """A named way from a training set to a denoiser.

    Attributes:
        name: what users type.
        description: one line for tables and reports.
        build: `build(train, seed) -> denoiser`; deterministic given both.
        by_default: `by_default(train)`, whether a comparison that names no mechanisms takes this one.
    """

    name: str
    description: str
    build: Callable[[Dataset, int], Denoiser]
    by_default: Callable[[Dataset], bool] = lambda train: True


_REGISTRY: dict[str, Mechanism] = {}


def register(mechanism: Mechanism) -> Mechanism:
    """Makes a mechanism available by name to sampling, comparison, report and command line.

    Raises:
        ValueError: where the name is taken.

    Example:
        >>> import smoothjax as sj
        >>> from smoothjax.mechanisms import Mechanism, register
        >>> shrunk = Mechanism(
        ...     "shrunk-gaussian",
        ...     "Gaussian with a tenth of its covariance made isotropic",
        ...     lambda train, seed: sj.GaussianDenoiser.fit(train.points, shrinkage=0.1),
        ... )
        >>> register(shrunk).name
        'shrunk-gaussian'
    """
    if mechanism.name in _REGISTRY:
        raise ValueError(f"A mechanism called {mechanism.name!r} is registered already.")
    _REGISTRY[mechanism.name] = mechanism
    return mechanism


def names() -> tuple[str, ...]:
    """Names of the registered mechanisms, in the order of registration."""
    return tuple(_REGISTRY)


def defaults(train: Dataset) -> tuple[str, ...]:
    """Names of the mechanisms that a comparison of this training set takes if it names none."""
    return tuple(name for name, mechanism in _REGISTRY.items() if mechanism.by_default(train))


def get(name: str) -> Mechanism:
    """The mechanism of that name, or `ValueError` with the names there are."""
    if name not in _REGISTRY:
        raise ValueError(f"There is no mechanism called {name!r}; there are: {', '.join(names())}.")
    return _REGISTRY[name]


# Beyond the first few dozen, the directions of a class of small images are noise of its small sample.
MIXTURE_RANK = 32
# A cluster needs some points for its covariance to mean anything.
POINTS_A_CLUSTER = 20


def _build_mixture(train: Dataset, seed: int) -> MixtureDenoiser:
    return MixtureDenoiser.fit(
        train.points,
        train.labels,
        num_components=max(1, min(10, len(train) // POINTS_A_CLUSTER)),
        rank=min(MIXTURE_RANK, train.dim),
        seed=seed,
    )


def _distinct(train: Dataset) -> np.ndarray:
    points = np.unique(np.asarray(train.points), axis=0)
    if len(points) < 2:
        raise ValueError("Smoothing needs at least two different training points.")
    return points


def _half_spacing(train: Dataset) -> float:
    """Half the median distance of a training point to the nearest other one."""
    points = jnp.asarray(_distinct(train))
    return 0.5 * float(jnp.median(measures.nearest_neighbours(points, points, 2)[0][:, 1]))


# Draws of the perturbation: as many as are cheap, and at least these.
FEWEST_DRAWS, MOST_DRAWS, CHEAP_ELEMENTS = 4, 64, 2**18


def _build_smoothed(train: Dataset, seed: int) -> GaussianSmoothedDenoiser:
    # With this strength the projection of a perturbation on the line from a point to its nearest neighbour reaches their
    # bisector with probability 0.16: neighbours mix, and others hardly.
    num = int(np.clip(CHEAP_ELEMENTS // train.points.size // 2 * 2, FEWEST_DRAWS, MOST_DRAWS))
    key = jax.random.key(seed)
    strength = jnp.asarray(_half_spacing(train), train.points.dtype)
    return GaussianSmoothedDenoiser(train.points, strength, num, key, draws="antithetic")


def _build_piecewise_linear(train: Dataset, seed: int) -> SwitchedDenoiser:
    if train.dim != 1:
        raise ValueError(f"`piecewise-linear` needs data on a line; got dimension {train.dim}.")
    points = _distinct(train)[:, 0]
    # Smoothing sets in where plateaus of one noise level fill a quarter of the narrowest half gap.
    level = 0.25 * 0.5 * float(np.min(np.diff(points)))
    smoothed = PiecewiseLinearDenoiser(jnp.asarray(points), 1.0)
    return SwitchedDenoiser(EmpiricalDenoiser(train.points), smoothed, level)


def _build_noise_blind(train: Dataset, seed: int) -> NoiseUnconditionedDenoiser:
    scale = float(jnp.sqrt(jnp.mean(jnp.var(train.points, axis=0))))
    levels = jnp.geomspace(0.004 * scale, 160 * scale, 32).astype(train.points.dtype)
    return NoiseUnconditionedDenoiser(train.points, levels)


register(
    Mechanism(
        "empirical",
        "exact posterior mean over the training set: a perfectly learned score, which memorises",
        lambda train, seed: EmpiricalDenoiser(train.points),
    )
)
register(
    Mechanism(
        "gaussian",
        "optimal for a Gaussian with the data's mean and covariance: the hidden Gaussian structure",
        lambda train, seed: GaussianDenoiser.fit(train.points),
    )
)
register(
    Mechanism(
        "mixture",
        f"a Gaussian (rank {MIXTURE_RANK} plus a constant) for every class, or k-means cluster",
        _build_mixture,
    )
)
register(
    Mechanism(
        "smoothed",
        "exact score averaged over Gaussian perturbations of half the median nearest-neighbour distance",
        _build_smoothed,
    )
)
register(
    Mechanism(
        "piecewise-linear",
        "exact score, smoothed piecewise linearly (kappa = 1) below an eighth of the smallest gap; for data on a line",
        _build_piecewise_linear,
        by_default=lambda train: train.dim == 1,
    )
)
# These two do not generalise on their own, and are there to see just that.
register(
    Mechanism(
        "tempered",
        "exact posterior mean at four times the squared noise level: relabels time, and memorises",
        lambda train, seed: TemperedDenoiser(train.points, 4.0),
        by_default=lambda train: False,
    )
)
register(
    Mechanism(
        "noise-blind",
        "best network that is not told the noise level: exact scores averaged over 32 levels",
        _build_noise_blind,
        by_default=lambda train: False,
    )
)
