"""The pieces of a comparison, each a function of its inputs alone, so that it can be kept and taken up again."""

import functools
import math
from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from .. import measures
from ..datasets import Dataset
from ..denoisers import AbstractPosteriorDenoiser, Denoiser, EmpiricalDenoiser, GaussianDenoiser
from ..flows import likelihood_solution, sample, terminal_mismatch_bound
from ..flows._sampling import in_batches
from ._settings import CompareSettings, curve_levels
from ._store import Arrays

# Held-out points at which denoisers are compared and likelihoods taken: standard errors of a few per cent.
MAX_EVALUATION_POINTS = 256
_Part = Callable[[dict[str, Arrays]], Arrays]


def parts_of(
    denoisers: dict[str, Denoiser], train: Dataset, held_out: Dataset, settings: CompareSettings
) -> dict[str, _Part]:
    """The job in pieces: each gets the pieces before it, and is a function of its inputs alone."""
    # A key for each use, so that no part's numbers depend on which parts were computed before.
    key = jax.random.key(settings.seed)
    keys = {use: jax.random.fold_in(key, i) for i, use in enumerate(_USES)}
    levels = curve_levels(settings, train)
    points = held_out.points[:MAX_EVALUATION_POINTS]
    parts: dict[str, _Part] = {}
    for name, denoiser in denoisers.items():
        parts[f"samples-{name}"] = functools.partial(
            _samples, denoiser, train, settings, keys["noise"]
        )
        parts[f"memorization-{name}"] = functools.partial(_memorization, name, train, held_out)
        parts[f"likelihood-{name}"] = functools.partial(
            _likelihood, denoiser, train, points, settings, keys["likelihood"]
        )
        parts[f"linearity-{name}"] = functools.partial(
            _linearity, denoiser, train, points, levels, keys["linearity"]
        )
    names = list(denoisers)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            parts[f"rmse-{first}-{second}"] = functools.partial(
                _rmse, denoisers[first], denoisers[second], points, levels, keys["rmse"]
            )
    parts["terminal"] = functools.partial(_terminal, train, points, settings, keys["likelihood"])
    parts["neighbours"] = functools.partial(_neighbours, train, points, levels, keys["rmse"])
    return parts


_USES = ("noise", "likelihood", "linearity", "rmse")


def _samples(
    denoiser: Denoiser,
    train: Dataset,
    settings: CompareSettings,
    key: PRNGKeyArray,
    _: dict[str, Arrays],
) -> Arrays:
    assert settings.sigma_max is not None and settings.sigma_min is not None
    samples = sample(
        denoiser,
        key,
        settings.num_samples,
        shape_or_dim=train.dim,
        sigma_max=settings.sigma_max,
        sigma_min=settings.sigma_min,
        steps=settings.steps,
        solver=None if settings.steps is None else diffrax.Heun(),
        dtype=train.points.dtype,
    )
    distance, index = measures.nearest_neighbours(samples, train.points, 1)
    return {"samples": samples, "nearest": index[:, 0], "nearest_distance": distance[:, 0]}


def _memorization(name: str, train: Dataset, held_out: Dataset, done: dict[str, Arrays]) -> Arrays:
    samples = jnp.asarray(done[f"samples-{name}"]["samples"])
    memorized = measures.memorization_fraction(samples, train.points, null=held_out.points)
    # As many training points as samples: the distance has a bias that depends on both numbers.
    null = train.points[: len(samples)]
    return {
        "memorized": memorized.fraction,
        "memorized_interval": memorized.interval,
        "memorized_null": memorized.null_fraction,
        "memorized_null_interval": memorized.null_interval,
        "frechet": measures.frechet_distance(samples, held_out.points),
        "frechet_null": measures.frechet_distance(null, held_out.points),
    }


def _likelihood(
    denoiser: Denoiser,
    train: Dataset,
    points: Array,
    settings: CompareSettings,
    key: PRNGKeyArray,
    _: dict[str, Arrays],
) -> Arrays:
    floor, high = settings.noise_floor, settings.sigma_max
    assert floor is not None and high is not None
    noisy = points + floor * _noise(key, points)
    prior = GaussianDenoiser.fit(train.points)

    def one(denoiser: Denoiser, u: Array) -> Array:
        if isinstance(denoiser, AbstractPosteriorDenoiser):
            return denoiser.log_density(u, floor)
        return likelihood_solution(denoiser, u, sigma_min=floor, sigma_max=high, prior=prior).value

    run = eqx.filter_jit(lambda d, u: in_batches(lambda i: one(d, u[i]), len(points), None))
    values = np.asarray(run(denoiser, noisy), np.float64)
    mean, error = values.mean(), values.std(ddof=1) / math.sqrt(len(values))
    bits = -mean / (train.dim * math.log(2))
    return {
        "log_likelihood": mean,
        "log_likelihood_se": error,
        "bits_per_dim": bits,
        "log_likelihoods": values,
    }


def _noise(key: PRNGKeyArray, points: Array) -> Array:
    draw = lambda i: jax.random.normal(jax.random.fold_in(key, i), points.shape[1:], points.dtype)  # noqa: E731
    return jax.vmap(draw)(jnp.arange(len(points)))


def _terminal(
    train: Dataset,
    points: Array,
    settings: CompareSettings,
    key: PRNGKeyArray,
    _: dict[str, Arrays],
) -> Arrays:
    """What the Gaussian at the largest noise level leaves out of the law of noisy training points."""
    high = settings.sigma_max
    assert high is not None
    noisy = points + high * _noise(key, points)

    @eqx.filter_jit
    def run(empirical: EmpiricalDenoiser, gaussian: GaussianDenoiser, u: Array) -> Array:
        def one(i: Array) -> Array:
            return empirical.log_density(u[i], high) - gaussian.log_density(u[i], high)

        return in_batches(one, len(u), None)

    laws = EmpiricalDenoiser(train.points), GaussianDenoiser.fit(train.points)
    return {
        "terminal_mismatch": jnp.max(jnp.abs(run(*laws, noisy))),
        "terminal_mismatch_bound": terminal_mismatch_bound(train.points, high),
    }


def _linearity(
    denoiser: Denoiser,
    train: Dataset,
    points: Array,
    levels: Array,
    key: PRNGKeyArray,
    _: dict[str, Arrays],
) -> Arrays:
    centre = jnp.mean(train.points, axis=0)

    def at(denoiser: Denoiser, sigma: Array) -> measures.LinearityScore:
        return measures.linearity_score(denoiser, points, sigma, key, centre=centre)

    run = eqx.filter_jit(lambda d, levels: jax.lax.map(functools.partial(at, d), levels))
    score = run(denoiser, levels)
    return {
        "linearity": score.raw.value,
        "linearity_se": score.raw.standard_error,
        "linearity_centred": score.centred.value,
        "linearity_centred_se": score.centred.standard_error,
    }


def _rmse(
    first: Denoiser,
    second: Denoiser,
    points: Array,
    levels: Array,
    key: PRNGKeyArray,
    _: dict[str, Arrays],
) -> Arrays:
    curve = measures.rmse_curve(first, second, points, levels, key)
    return {"rmse": curve.value, "rmse_se": curve.standard_error}


def _neighbours(
    train: Dataset, points: Array, levels: Array, key: PRNGKeyArray, _: dict[str, Arrays]
) -> Arrays:
    denoiser, noise = EmpiricalDenoiser(train.points), _noise(key, points)

    @eqx.filter_jit
    def run(denoiser: EmpiricalDenoiser, levels: Array) -> Array:
        def at(sigma: Array) -> Array:
            def one(i: Array) -> Array:
                return measures.effective_neighbours(denoiser, points[i] + sigma * noise[i], sigma)

            return in_batches(one, len(points), None)

        return jax.lax.map(at, levels)

    number = np.asarray(run(denoiser, levels), np.float64)
    return {
        "effective_neighbours": number.mean(axis=1),
        "effective_neighbours_se": number.std(axis=1, ddof=1) / math.sqrt(number.shape[1]),
        "effective_neighbours_median": np.median(number, axis=1),
    }
