"""Speed of the certified truncated denoiser in two and three dimensions, beside dense sums, KeOps and nearest neighbours.

    python benchmarks/low_dimension.py --points 100000 1000000 --out results.json

Queries are fresh data plus noise, 10,000 at a time at one noise level, in float32. The contestants run in turn.
KeOps sums over all pairs with its own soft-max reduction. SciPy's k-d tree weighs the 50 nearest points of each query, which
bounds nothing: its error is reported beside. Contestants that are not installed are left out. See README.md.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from empirical_denoiser import Call, environment, milliseconds, settle, summary, table
from truncated_denoiser import certified, dense

from smoothjax import TruncatedDenoiser

try:
    import torch
    from pykeops.torch import LazyTensor
except ImportError:
    torch: Any = None
    LazyTensor: Any = None
try:
    from scipy.spatial import cKDTree
except ImportError:
    cKDTree: Any = None

# Relative to the root mean square distance of the points from their mean.
NOISE_LEVELS = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
NEIGHBOURS = 50
LONG = 20.0  # seconds of a call that is not repeated
# Queries whose means are compared with sums over all points in float64.
CHECKED = 50


def spiral(num: int, rng: np.random.Generator) -> np.ndarray:
    """A noisy spiral in the plane."""
    angle = np.pi * rng.uniform(0.5, 3.5, num)
    curve = 0.1 * angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (curve + 0.02 * rng.standard_normal((num, 2))).astype(np.float32)


def mixture(num: int, rng: np.random.Generator) -> np.ndarray:
    """Eight Gaussian clusters in space, which overlap."""
    centres = np.random.default_rng(5).standard_normal((8, 3))
    noise = 0.3 * rng.standard_normal((num, 3))
    return (centres[rng.integers(0, 8, num)] + noise).astype(np.float32)


CLOUDS = {"spiral": spiral, "mixture": mixture}


def keops(points: np.ndarray, u: np.ndarray, sigma: float) -> Call:
    y, x = torch.from_numpy(points), torch.from_numpy(u)
    level = torch.tensor([1 / (2 * sigma**2)], dtype=torch.float32)

    def call(x: Any = x, y: Any = y) -> np.ndarray:
        rows, columns = LazyTensor(x[:, None]), LazyTensor(y[None])
        logits = -((rows - columns) ** 2).sum(-1) * level
        return logits.sumsoftmaxweight(columns, axis=1).numpy()

    call(x[:2], y[:2])  # compiles for this dimension
    return call


def nearest(index: Any, points: np.ndarray, u: np.ndarray, sigma: float) -> Call:
    """The posterior mean over the nearest points, not certified."""

    def call() -> np.ndarray:
        distance, where = index.query(u, k=min(NEIGHBOURS, len(points)), workers=-1)
        weights = np.exp((distance[:, :1] ** 2 - distance**2) / (2 * sigma**2))
        weights /= weights.sum(axis=1, keepdims=True)
        return np.einsum("qk,qkd->qd", weights, points[where])

    return call


def exact(points: np.ndarray, u: np.ndarray, sigma: float) -> np.ndarray:
    """Posterior means of some queries, in float64."""
    means = []
    for x in u.astype(np.float64):
        logits = -np.sum((x - points) ** 2, axis=1) / (2 * sigma**2)
        weights = np.exp(logits - logits.max())
        means.append(weights @ points / weights.sum())
    return np.stack(means)


def timed(
    calls: dict[str, Call], rounds: int, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Seconds of each call in each round, in an order drawn anew, and what the calls returned.

    Calls take seconds: one to warm up is enough, and where that took longer than `LONG` it is the only one.
    """

    def call(name: str) -> float:
        settle()
        start = time.perf_counter()
        values[name] = calls[name]()
        return time.perf_counter() - start

    values: dict[str, Any] = {}
    first = {name: call(name) for name in calls}
    names = [name for name in calls if first[name] < LONG]
    times = {name: [seconds] for name, seconds in first.items() if seconds >= LONG}
    times |= {name: [] for name in names}
    for _ in range(rounds):
        for j in rng.permutation(len(names)):
            times[names[j]].append(call(names[j]))
    return {name: np.asarray(times[name]) for name in calls}, values


def measure(
    clouds: tuple[str, ...] = tuple(CLOUDS),
    points: tuple[int, ...] = (100_000,),
    queries: int = 10_000,
    noise: tuple[float, ...] = NOISE_LEVELS,
    rounds: int = 3,
    most_pairs: float = 1e11,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row for each cloud, number of points and noise level; the dense denoiser up to `most_pairs` of these."""
    return list(measured(clouds, points, queries, noise, rounds, most_pairs, seed))


def measured(
    clouds: tuple[str, ...],
    points: tuple[int, ...],
    queries: int,
    noise: tuple[float, ...],
    rounds: int,
    most_pairs: float,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """The rows of `measure`, each as soon as it is known."""
    rng = np.random.default_rng(seed)
    for cloud in clouds:
        for num in points:
            data = CLOUDS[cloud](num, rng)
            start = time.perf_counter()
            denoiser = TruncatedDenoiser(data)
            built = time.perf_counter() - start
            scale = float(np.sqrt(np.mean(np.sum((data - data.mean(0)) ** 2, axis=1))))
            index = None if cKDTree is None else cKDTree(data)
            for level in noise:
                sigma = float(np.float32(level * scale))
                u = CLOUDS[cloud](queries, rng)
                u += np.float32(sigma) * rng.standard_normal(u.shape, np.float32)
                row = _measured(denoiser, data, index, u, sigma, rounds, most_pairs, rng)
                row |= {"cloud": cloud, "dim": data.shape[1], "points": num, "queries": queries}
                row |= {"noise": level, "scale": scale, "built": built}
                yield row


def _measured(
    denoiser: TruncatedDenoiser,
    data: np.ndarray,
    index: Any,
    u: np.ndarray,
    sigma: float,
    rounds: int,
    most_pairs: float,
    rng: np.random.Generator,
) -> dict[str, Any]:
    queries, level = jnp.asarray(u), jnp.float32(sigma)
    calls: dict[str, Call] = {
        "truncated": lambda: jax.block_until_ready(certified(denoiser, queries, level))
    }
    if len(u) * len(data) <= most_pairs:
        calls["dense"] = lambda: dense(denoiser, queries, level).block_until_ready()
    if LazyTensor is not None:
        calls["keops"] = keops(data, u, sigma)
    if index is not None:
        calls["nearest"] = nearest(index, data, u, sigma)
    times, values = timed(calls, rounds, rng)
    found = values["truncated"]
    expected = exact(data, u[:CHECKED], sigma)
    off = lambda x: float(np.max(np.linalg.norm(np.asarray(x)[:CHECKED] - expected, axis=1)))  # noqa: E731
    errors = {"truncated": off(found.value)}
    errors |= {name: off(values[name]) for name in ("keops", "nearest") if name in calls}
    return {
        "sigma": sigma,
        "tolerance": float(denoiser.tolerance),
        "seconds": {name: summary(seconds) for name, seconds in times.items()},
        "speed": {
            name: summary(seconds / np.median(times["truncated"]))
            for name, seconds in times.items()
            if name != "truncated"
        },
        "errors": errors,
        "visited": float(jnp.mean(found.visited)),
        "by_all": float(jnp.mean(found.visited == len(data))),
        "truncation": float(jnp.max(found.truncation)),
        "rounding": float(jnp.median(found.rounding)),
    }


HEADER = [
    *("points", "noise / scale", "truncated (ms)", "dense (ms)", "KeOps (ms)", "50 nearest (ms)"),
    *("times faster than dense", "than KeOps", "mean visited", "dense after all"),
    *("truncation bound / scale", "error / scale", "error of 50 nearest / scale"),
]


def line(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    seconds, errors = row["seconds"], row["errors"]
    ratio = lambda name: f"{row['speed'][name]['median']:.1f}" if name in row["speed"] else "-"  # noqa: E731
    error = lambda name: f"{errors[name] / row['scale']:.1e}" if name in errors else "-"  # noqa: E731
    names = ("truncated", "dense", "keops", "nearest")
    return [
        *(f"{row['points']:,} {row['cloud']}", f"{row['noise']:g}"),
        *(milliseconds(seconds, name if name in seconds else None) for name in names),
        *(ratio("dense"), ratio("keops"), f"{row['visited']:.0f}", f"{row['by_all']:.1%}"),
        *(f"{row['truncation'] / row['scale']:.1e}", error("truncated"), error("nearest")),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clouds", nargs="+", default=list(CLOUDS), choices=list(CLOUDS))
    parser.add_argument("--points", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--noise", type=float, nargs="+", default=list(NOISE_LEVELS))
    parser.add_argument("--repeats", type=int, default=3, help="rounds for each row of the table")
    parser.add_argument("--most-pairs", type=float, default=1e11, help="beyond, no dense denoiser")
    parser.add_argument("--out", type=Path, help="JSON with everything that was measured")
    options = parser.parse_args()
    rows = []
    print(table(HEADER, []), flush=True)
    settings = (options.queries, tuple(options.noise), options.repeats, options.most_pairs)
    for row in measured(tuple(options.clouds), tuple(options.points), *settings):
        rows.append(row)
        print("| " + " | ".join(line(row)) + " |", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps({"environment": environment(), "cells": rows}, indent=1))


if __name__ == "__main__":
    main()
