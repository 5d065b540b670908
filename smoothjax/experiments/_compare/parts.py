"""The pieces of a comparison, each a function of its inputs alone, so that it can be kept and taken up again."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ... import measures
from ..._calls import evaluate, mean_over_noises
from ..._files.store import Arrays
from ..._jax.blocks import in_batches
from ..._keys import key_of
from ..._strengths.likelihoods import log_likelihoods
from ..._units import Units
from ...datasets import Dataset
from ...denoisers import Denoiser, EmpiricalDenoiser, GaussianDenoiser
from ...flows import sample, terminal_mismatch_bound
from ...measures import root_of_mean
from ...regimes import noise_levels
from .._regimes.regimes import regime_cells
from .effort import MAX_EVALUATION_POINTS, Effort
from .settings import CompareSettings, curve_levels

_Part = Callable[[dict[str, Arrays]], Arrays]


def parts_of(
    denoisers: dict[str, Denoiser],
    efforts: dict[str, Effort],
    train: Dataset,
    held_out: Dataset,
    settings: CompareSettings,
) -> dict[str, _Part]:
    """The job in pieces: each gets the pieces before it, and is a function of its inputs alone."""
    for measure in (*settings.at_levels(), *settings.of_samples()):
        if measure.name in _OWN:
            raise ValueError(
                f"A measure cannot be called {measure.name!r}, as a part of every comparison is; call it otherwise."
            )
    # A key for each use, so that no part's numbers depend on which parts were computed before.
    key = key_of(settings.seed)
    keys = {use: jax.random.fold_in(key, i) for i, use in enumerate(_USES)}
    levels = curve_levels(settings, train)
    points = held_out.points[:MAX_EVALUATION_POINTS]
    parts: dict[str, _Part] = {}
    for name, denoiser in denoisers.items():
        effort = efforts[name]
        parts[f"samples-{name}"] = functools.partial(
            _samples, denoiser, train, settings, effort, keys["noise"]
        )
        for measure in settings.of_samples():
            parts[f"{measure.name}-{name}"] = functools.partial(
                _of_samples, measure, name, train, held_out, keys["of samples"]
            )
        parts[f"likelihood-{name}"] = functools.partial(
            _likelihood, denoiser, train, points, settings, effort, keys["likelihood"]
        )
        for measure in settings.at_levels():
            if measure.name not in effort.measures:
                continue
            parts[f"{measure.name}-{name}"] = functools.partial(
                _measure,
                measure,
                denoiser,
                train,
                points,
                levels,
                effort,
                # The same for all: numbers do not depend on which other measures are asked for.
                keys["measures"],
            )
        parts[f"outputs-{name}"] = functools.partial(
            _outputs, denoiser, points, levels, effort, keys["rmse"]
        )
    parts["rmse"] = functools.partial(_rmse, list(denoisers))
    parts["terminal"] = functools.partial(_terminal, train, points, settings, keys["likelihood"])
    parts["neighbours"] = functools.partial(_neighbours, train, points, levels, keys["rmse"])
    return parts | regime_parts(train, held_out, keys["regimes"])


def regime_parts(train: Dataset, held_out: Dataset, key: PRNGKeyArray) -> dict[str, _Part]:
    """When the training set is told apart, which is of no denoiser; nothing for fewer than three different points."""
    if len(np.unique(np.asarray(train.points), axis=0)) < FEWEST_POINTS:
        return {}
    cells = regime_cells(train, held_out, key, noise_levels(train), NUM_DRAWS)
    return {
        f"{REGIMES}{name}": functools.partial(_without_others, compute)
        for name, _, compute in cells
    }


def _without_others(compute: Callable[[], Arrays], _: dict[str, Arrays]) -> Arrays:
    return compute()


_USES = ("noise", "likelihood", "measures", "rmse", "of samples", "regimes")
# How the parts on regimes begin, the training points that they need, and their draws.
REGIMES, FEWEST_POINTS, NUM_DRAWS = "regimes-", 3, 256
# Of each denoiser, beside its measures.
_OWN = ("samples", "likelihood", "outputs")


def _samples(
    denoiser: Denoiser,
    train: Dataset,
    settings: CompareSettings,
    effort: Effort,
    key: PRNGKeyArray,
    _: dict[str, Arrays],
) -> Arrays:
    assert settings.sigma_max is not None and settings.sigma_min is not None
    units = Units.of(train.points)
    scale = float(units.scale)
    samples = sample(
        units.denoiser(denoiser),
        key,
        settings.num_samples,
        shape_or_dim=train.dim,
        sigma_max=settings.sigma_max / scale,
        sigma_min=settings.sigma_min / scale,
        steps=effort.steps,
        solver=None if effort.steps is None else diffrax.Heun(),
        batch_size=effort.batch_size,
        dtype=train.points.dtype,
    )
    samples = units.back(samples)
    distance, index = measures.nearest_neighbours(samples, train.points, 1)
    return {"samples": samples, "nearest": index[:, 0], "nearest_distance": distance[:, 0]}


def _of_samples(
    measure: measures.SampleMeasure,
    name: str,
    train: Dataset,
    held_out: Dataset,
    key: PRNGKeyArray,
    done: dict[str, Arrays],
) -> Arrays:
    samples = jnp.asarray(done[f"samples-{name}"]["samples"])
    return _arrays(measure.numbers(samples, train.points, held_out.points, key))


def _arrays(found: Mapping[str, Any]) -> Arrays:
    """Estimates by name as arrays, those of standard errors and intervals under names of their own."""
    arrays: dict[str, Any] = {}
    for name, one in found.items():
        if isinstance(one, measures.Estimate):
            arrays |= {name: one.value, f"{name}_se": one.standard_error}
        elif isinstance(one, measures.IntervalEstimate):
            arrays |= {name: one.value, f"{name}_interval": one.interval}
        else:
            arrays[name] = one
    return arrays


def _likelihood(
    denoiser: Denoiser,
    train: Dataset,
    points: Array,
    settings: CompareSettings,
    effort: Effort,
    key: PRNGKeyArray,
    _: dict[str, Arrays],
) -> Arrays:
    floor, high = settings.noise_floor, settings.sigma_max
    assert floor is not None and high is not None
    noisy = (points + floor * _noise(key, points))[: effort.likelihood_points]
    probe_key = jax.random.fold_in(key, len(points))  # the points' noises take those below
    found = log_likelihoods(
        denoiser,
        train.points,
        noisy,
        floor,
        high,
        num_probes=effort.num_probes,
        key=probe_key,
        batch_size=effort.batch_size,
    )
    values = np.asarray(found, np.float64)
    mean, error = values.mean(), values.std(ddof=1) / math.sqrt(len(values))
    bits = -mean / (train.dim * math.log(2))
    # As long for all mechanisms: NaN at the points that were left out.
    unknown = np.full(len(points) - len(values), np.nan)
    return {
        "log_likelihood": mean,
        "log_likelihood_se": error,
        "entropy_bits": bits,
        "log_likelihoods": np.concatenate([values, unknown]),
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
    assert settings.sigma_max is not None
    units = Units.of(train.points)
    high, data = settings.sigma_max / float(units.scale), units.into(train.points)
    noisy = units.into(points) + high * _noise(key, points)

    @eqx.filter_jit
    def run(empirical: EmpiricalDenoiser, gaussian: GaussianDenoiser, u: Array) -> Array:
        def one(i: Array) -> Array:
            return empirical.log_density(u[i], high) - gaussian.log_density(u[i], high)

        return in_batches(one, len(u), None)

    laws = EmpiricalDenoiser(data), GaussianDenoiser.fit(data)
    return {
        "terminal_mismatch": jnp.max(jnp.abs(run(*laws, noisy))),
        "terminal_mismatch_bound": terminal_mismatch_bound(data, high),
    }


def _measure(
    measure: measures.Measure,
    denoiser: Denoiser,
    train: Dataset,
    points: Array,
    levels: Array,
    effort: Effort,
    key: PRNGKeyArray,
    _: dict[str, Arrays],
) -> Arrays:
    centre = jnp.mean(train.points, axis=0)

    def at(denoiser: Denoiser, sigma: Array) -> dict[str, measures.Estimate]:
        return measure.estimates(
            denoiser, points, sigma, key, centre=centre, batch_size=effort.batch_size
        )

    run = eqx.filter_jit(lambda d, levels: jax.lax.map(functools.partial(at, d), levels))
    return _arrays(run(denoiser, levels))


def _outputs(
    denoiser: Denoiser,
    points: Array,
    levels: Array,
    effort: Effort,
    key: PRNGKeyArray,
    _: dict[str, Arrays],
) -> Arrays:
    """What the denoiser makes of the noisy points of `denoiser_rmse`, (levels, n, d): once for all pairs that it is in."""

    def at(denoiser: Denoiser, sigma: Array) -> Array:
        output = lambda u: evaluate(denoiser, u, sigma, "denoiser")  # noqa: E731
        return mean_over_noises(output, points, sigma, key, 1, effort.batch_size)

    run = eqx.filter_jit(lambda d, levels: jax.lax.map(functools.partial(at, d), levels))
    return {"outputs": run(denoiser, levels)}


def _rmse(names: list[str], done: dict[str, Arrays]) -> Arrays:
    """Of every pair, (mechanism, other, level), with the standard error over points: that of `denoiser_rmse`."""
    outputs = [jnp.asarray(done[f"outputs-{name}"]["outputs"]) for name in names]
    root = jax.jit(jax.vmap(lambda a, b: root_of_mean(jnp.mean((a - b) ** 2, axis=-1), 2)))
    shape = (len(names), len(names), len(outputs[0]))
    value, error = np.zeros(shape), np.zeros(shape)
    for i, first in enumerate(outputs):
        for j, second in enumerate(outputs[:i]):
            estimate = root(first, second)
            value[i, j] = value[j, i] = estimate.value
            error[i, j] = error[j, i] = estimate.standard_error
    return {"rmse": value, "rmse_se": error}


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
