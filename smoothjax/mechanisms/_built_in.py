"""The mechanisms that are there from the start."""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from .. import measures
from .._keys import key_of
from ..datasets import Dataset
from ..denoisers import (
    Denoiser,
    EmpiricalDenoiser,
    FactorGaussianDenoiser,
    GaussianDenoiser,
    GaussianSmoothedDenoiser,
    MixtureDenoiser,
    NoiseUnconditionedDenoiser,
    PiecewiseLinearDenoiser,
    RescaledDenoiser,
    SwitchedDenoiser,
    TemperedDenoiser,
)
from ..processes import VariancePreserving
from ..variance import (
    DenoisingProblem,
    GaussianBumps,
    LinearProblem,
    ProductFeatures,
    UniformTimes,
    train_linear,
)
from ._mechanism import Mechanism, Strength, register

# Beyond the first few dozen, the directions of a class of small images are noise of its small sample.
MIXTURE_RANK = 32
# A cluster needs some points for its covariance to mean anything.
POINTS_A_CLUSTER = 20


def _num_clusters(train: Dataset) -> int:
    return max(1, min(10, len(train) // POINTS_A_CLUSTER))


def _build_mixture(train: Dataset, seed: int) -> MixtureDenoiser:
    return MixtureDenoiser.fit(
        train.points,
        train.labels,
        num_components=_num_clusters(train),
        rank=min(MIXTURE_RANK, train.dim),
        seed=seed,
    )


# In few dimensions fewer, which the covariance determines.
NUM_FACTORS = 10


def _build_factor_gaussian(train: Dataset, seed: int) -> FactorGaussianDenoiser:
    return FactorGaussianDenoiser.fit(train.points, min(NUM_FACTORS, train.dim // 2))


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


def _num_draws(train: Dataset) -> int:
    return int(np.clip(CHEAP_ELEMENTS // train.points.size // 2 * 2, FEWEST_DRAWS, MOST_DRAWS))


def _build_smoothed(train: Dataset, seed: int) -> GaussianSmoothedDenoiser:
    # With this strength the projection of a perturbation on the line from a point to its nearest neighbour reaches their
    # bisector with probability 0.16: neighbours mix, and others hardly.
    return _smoothed_by(
        _num_draws(train),
        train.points,
        key_of(seed),
        jnp.asarray(_half_spacing(train), train.points.dtype),
    )


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


# By dimension, as in the variance paper: bumps along every axis and time, and triples that a model is trained on.
LINEAR_MODELS = {1: (16, 256), 2: (10, 500)}


def _build_linear_model(train: Dataset, seed: int) -> RescaledDenoiser:
    if train.dim not in LINEAR_MODELS:
        raise ValueError(
            f"`linear-model` needs data of dimension 1 or 2; got dimension {train.dim}."
        )
    num_bumps, num_train = LINEAR_MODELS[train.dim]
    low, high = jnp.min(train.points, axis=0), jnp.max(train.points, axis=0)
    # The paper's data reach from -1 to 1, its bumps from -1.5 to 1.5.
    centre, scale = 0.5 * (low + high), 0.5 * jnp.max(high - low)
    process, cutoff = VariancePreserving.from_drift_rate(0.1, 20.0), 0.01
    bumps = [GaussianBumps.evenly(-1.5, 1.5, num_bumps)] * train.dim
    times = GaussianBumps.evenly(cutoff, 1.0, num_bumps)
    denoising = DenoisingProblem(
        (train.points - centre[None]) / scale, UniformTimes(process, cutoff, 1.0)
    )
    problem = LinearProblem(denoising, ProductFeatures(bumps, times, process), ridge=0.1)
    return RescaledDenoiser(train_linear(problem, num_train, key_of(seed)), centre, scale)


# What strengths search: as far from what a mechanism is by default as it is still of its kind.
TEMPERATURES = tuple(float(x) for x in np.geomspace(0.1, 100.0, 10))
SHRINKAGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
COMPONENTS = (2, 3, 5, 8, 12, 20, 32)
FACTORS = (1, 2, 4, 8, 16, 32)
# Smoothing widths over half the median spacing, and the draws that they are averaged over.
WIDTHS, WIDTH_DRAWS = tuple(float(x) for x in np.geomspace(0.1, 5.0, 9)), 32


def _widths(train: Dataset) -> tuple[float, ...]:
    spacing = _half_spacing(train)
    return tuple(spacing * width for width in WIDTHS)


def _smoothed_by(num: int, points: Array, key: Array, width: Any) -> GaussianSmoothedDenoiser:
    return GaussianSmoothedDenoiser(points, width, num, key, draws="antithetic")


def _smoothed(train: Dataset, num: int, seed: int) -> Callable[[Any], Denoiser]:
    return Partial(_smoother(num), train.points, key_of(seed))


@cache
def _smoother(num: int) -> Callable[..., Denoiser]:
    """One for each number, which is no argument of compiled programs: they are found again by the function itself."""
    return partial(_smoothed_by, num)


def _exact(train: Dataset, seed: int) -> EmpiricalDenoiser:
    return EmpiricalDenoiser(train.points)


def _tempered(train: Dataset, seed: int) -> Callable[[Any], Denoiser]:
    return Partial(TemperedDenoiser, EmpiricalDenoiser(train.points))


register(
    Mechanism(
        "empirical",
        "exact posterior mean over the training set: a perfectly learned score, which memorises",
        lambda train, seed: EmpiricalDenoiser(train.points),
        strength=Strength(
            "temperature",
            lambda train: TEMPERATURES,
            _tempered,
            is_continuous=True,
            default=lambda train: 1.0,
            without=_exact,
            is_guess=False,
            meaning="the squared noise level that the weights of the training points are those of, over the true one: the "
            "larger, the more points are averaged",
        ),
    )
)
register(
    Mechanism(
        "gaussian",
        "optimal for a Gaussian with the data's mean and covariance: the hidden Gaussian structure",
        lambda train, seed: GaussianDenoiser.fit(train.points),
        strength=Strength(
            "shrinkage",
            lambda train: SHRINKAGES,
            lambda train, seed: Partial(
                GaussianDenoiser.shrunk, GaussianDenoiser.fit(train.points)
            ),
            is_continuous=True,
            is_logarithmic=False,
            default=lambda train: 0.0,
            without=lambda train, seed: GaussianDenoiser.fit(train.points),
            is_guess=False,
            meaning="the share of the covariance that is made isotropic: 0 leaves it, 1 keeps its trace alone",
            has_least=True,
        ),
    )
)
register(
    Mechanism(
        "mixture",
        f"a Gaussian (rank {MIXTURE_RANK} plus a constant) for every class, or k-means cluster",
        _build_mixture,
        strength=Strength(
            "components",
            lambda train: (
                tuple(k for k in COMPONENTS if k * POINTS_A_CLUSTER <= len(train)) or (1,)
            ),
            lambda train, seed: (
                lambda number: MixtureDenoiser.fit(
                    train.points,
                    num_components=int(number),
                    rank=min(MIXTURE_RANK, train.dim),
                    seed=seed,
                )
            ),
            default=lambda train: math.nan if train.labels is not None else _num_clusters(train),
            without=lambda train, seed: GaussianDenoiser.fit(train.points),
            is_guess=False,
            meaning="the number of Gaussians, one for each cluster of training points",
        ),
    )
)
register(
    Mechanism(
        "smoothed",
        "exact score averaged over Gaussian perturbations of half the median nearest-neighbour distance",
        _build_smoothed,
        strength=Strength(
            "width",
            _widths,
            lambda train, seed: _smoothed(train, WIDTH_DRAWS, seed),
            "data units",
            is_continuous=True,
            lighter=lambda train, seed: _smoothed(train, _num_draws(train), seed),
            default=_half_spacing,
            without=_exact,
            meaning="the standard deviation a coordinate of the perturbations that the exact score is averaged over: the "
            "larger, the more neighbouring training points it mixes",
        ),
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
register(
    Mechanism(
        "linear-model",
        "Gaussian bumps of x and t fitted to a few hundred noisy samples: one draw of its law; for dimension 1 or 2",
        _build_linear_model,
        by_default=lambda train: train.dim in LINEAR_MODELS,
    )
)
# These two do not generalise on their own, and are there to see just that.
register(
    Mechanism(
        "tempered",
        "exact posterior mean at four times the squared noise level: relabels time, and memorises",
        lambda train, seed: TemperedDenoiser(train.points, 4.0),
        by_default=lambda train: False,
        strength=Strength(
            "temperature",
            lambda train: TEMPERATURES,
            _tempered,
            is_continuous=True,
            by_default=False,
            default=lambda train: 4.0,
            without=_exact,
            meaning="the squared noise level that the weights of the training points are those of, over the true one: the "
            "larger, the more points are averaged",
        ),
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
register(
    Mechanism(
        "ledoit-wolf",
        "Gaussian with Ledoit and Wolf's shrinkage of the covariance: for few points",
        lambda train, seed: GaussianDenoiser.fit(train.points, shrinkage="ledoit-wolf"),
        by_default=lambda train: False,
    )
)
# Slower than the others; ask for them.
register(
    Mechanism(
        "factor-gaussian",
        f"Gaussian of factor analysis: {NUM_FACTORS} common factors, and a variance of its own for every coordinate",
        _build_factor_gaussian,
        by_default=lambda train: False,
        strength=Strength(
            "factors",
            lambda train: tuple(k for k in FACTORS if k < min(train.dim, len(train))),
            lambda train, seed: lambda num: FactorGaussianDenoiser.fit(train.points, int(num)),
            default=lambda train: min(NUM_FACTORS, train.dim // 2),
            meaning="the number of directions that coordinates share; beside them each varies on its own",
            has_least=True,
        ),
    )
)
