"""An ensemble of linear models, trained and sampled: one full condition of the variance paper's Figure 2 beside NumPy.

    python benchmarks/variance_ensemble.py --rounds 3 --out results.json

100 models, each trained on 256 triples, 100,000 samples of each by 30 Euler steps on a table of 200 nodes, down to t = 0.01.
The NumPy program does the same in float64, in arrays over all models. Both run in one process, in turn.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import smoothjax as sj
from smoothjax import variance
from smoothjax.datasets import three_points
from smoothjax.experiments._variance.samplers import published_samples, published_samples_of_models

CUTOFF, NUM_TRAIN, NUM_BUMPS, RIDGE, STEPS = 0.01, 256, 16, 0.1, 30
CENTRES, TIMES = np.linspace(-1.5, 1.5, NUM_BUMPS), np.linspace(CUTOFF, 1, NUM_BUMPS)
NODES = np.linspace(-1.5, 1.5, 200)
PROCESS = sj.VariancePreserving.from_drift_rate(0.1, 20.0)


def bumps(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    width = 0.5 * (centres[1] - centres[0])
    z = (x[..., None] - centres) / width
    return np.exp(-0.5 * z**2) / (np.sqrt(2 * np.pi) * width)


def alpha(t: np.ndarray) -> np.ndarray:
    return np.exp(-(0.1 * t + 9.95 * t**2))


def variance_of(t: np.ndarray) -> np.ndarray:
    return -np.expm1(-2 * (0.1 * t + 9.95 * t**2))


def train_in_numpy(rng: np.random.Generator, models: int) -> np.ndarray:
    shape = (models, NUM_TRAIN)
    x0, t = rng.choice([-1.0, 0.0, 1.0], shape), rng.uniform(CUTOFF, 1, shape)
    x = alpha(t) * x0 + np.sqrt(variance_of(t)) * rng.standard_normal(shape)
    features = bumps(x, CENTRES)[..., :, None] * bumps(t, TIMES)[..., None, :]
    features = features.reshape(*shape, -1)
    weighted = (alpha(t) ** 2 / variance_of(t))[..., None] * features
    gram = np.swapaxes(weighted, 1, 2) @ features / NUM_TRAIN
    moments = np.einsum("mp,mpf->mf", x0, weighted) / NUM_TRAIN
    ridge = RIDGE * np.eye(NUM_BUMPS**2)
    return np.linalg.solve(gram + ridge, moments[..., None])[..., 0]


def sample_in_numpy(weights: np.ndarray, starts: np.ndarray) -> np.ndarray:
    times = np.linspace(1, CUTOFF, STEPS + 1)
    grid = bumps(NODES, CENTRES)[:, None, :, None] * bumps(times, TIMES)[None, :, None, :]
    table = np.einsum("ntf,mf->mtn", grid.reshape(len(NODES), len(times), -1), weights)
    x, rows = starts, np.arange(len(weights))[:, None]
    for k, (t, dt) in enumerate(zip(times[:-1], np.diff(times), strict=True)):
        rate = 0.1 + 19.9 * t
        # A step's table by itself: the look-up then reads from memory that is close by.
        here = np.ascontiguousarray(table[:, k])
        mean = here[rows, np.clip(np.searchsorted(NODES, x), 0, len(NODES) - 1)]
        x = x + dt * (-rate * x - rate * (alpha(t) * mean - x) / variance_of(t))
    return x


def in_numpy(seed: int, models: int, samples: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = train_in_numpy(rng, models)
    return sample_in_numpy(
        weights, np.sqrt(variance_of(np.ones(()))) * rng.standard_normal((models, samples))
    )


def features() -> variance.ProductFeatures:
    axis = variance.GaussianBumps.evenly(-1.5, 1.5, NUM_BUMPS)
    return variance.ProductFeatures(
        [axis], variance.GaussianBumps.evenly(CUTOFF, 1.0, NUM_BUMPS), PROCESS
    )


def in_smoothjax(seed: int, models: int, samples: int) -> jax.Array:
    times = variance.UniformTimes(PROCESS, CUTOFF, 1.0)
    denoising = variance.DenoisingProblem(three_points().points, times)
    problem = variance.LinearProblem(denoising, features(), ridge=RIDGE)
    train, draw = jax.random.split(jax.random.key(seed))
    law, cutoff = variance.RetrainedLaw(problem, NUM_TRAIN), jnp.asarray(CUTOFF)
    return published_samples_of_models(law, PROCESS, train, draw, cutoff, 1, models, samples)


def masses(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x).reshape(len(x), -1)
    size = np.abs(x)
    gap = np.mean((size > 0.25) & (size < 0.75), axis=1)
    return np.stack([gap, np.mean(size > 1.15, axis=1)], axis=-1)


def disagreement(samples: int) -> float:
    """Share of samples that differ by more than 1e-3 for the same weights and starts."""
    rng = np.random.default_rng(0)
    weights, starts = train_in_numpy(rng, 1), rng.standard_normal((1, samples))
    exact = sample_in_numpy(weights, starts)[0]
    model = variance.LinearDenoiser(features(), jnp.asarray(weights, jnp.float32))
    found = published_samples(model, PROCESS, jnp.asarray(starts.T, jnp.float32), CUTOFF)[:, 0]
    return float(np.mean(np.abs(np.asarray(found) - exact) > 1e-3))


def measure(models: int, samples: int, rounds: int) -> dict[str, Any]:
    """Seconds of each round, the first call's, and masses in the gap and beyond the outer points with standard errors."""
    size = (models, samples)
    start = time.perf_counter()
    jax.block_until_ready(in_smoothjax(0, *size))
    first = time.perf_counter() - start
    seconds: dict[str, list[float]] = {"smoothjax": [], "numpy": []}
    found: dict[str, list[np.ndarray]] = {"smoothjax": [], "numpy": []}
    for seed in range(1, rounds + 1):
        for name, run in (("smoothjax", in_smoothjax), ("numpy", in_numpy)):
            start = time.perf_counter()
            drawn = jax.block_until_ready(run(seed, *size))
            seconds[name].append(time.perf_counter() - start)
            found[name].append(masses(drawn))
    result: dict[str, Any] = {"first": first, "seconds": seconds}
    for name, all_masses in found.items():
        mass = np.concatenate(all_masses)
        error = mass.std(axis=0, ddof=1) / np.sqrt(len(mass))
        result[name] = {"mass": mass.mean(axis=0).tolist(), "standard_error": error.tolist()}
    return result | {"disagreement": disagreement(samples)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = measure(options.models, options.samples, options.rounds)
    ours, theirs = (np.asarray(found["seconds"][name]) for name in ("smoothjax", "numpy"))
    results = {
        "machine": f"{platform.machine()}, {jax.devices()[0].device_kind}",
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "first call, with compilation (s)": found["first"],
        "rounds (s)": found["seconds"],
        "speed-up, median": float(np.median(theirs / ours)),
        "samples that differ by more than 1e-3": found["disagreement"],
    }
    for name in ("smoothjax", "numpy"):
        pairs = zip(found[name]["mass"], found[name]["standard_error"], strict=True)
        results[f"gap and beyond, {name}"] = [f"{m:.4f} +- {e:.4f}" for m, e in pairs]
    print(json.dumps(results, indent=2))
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
