"""Speed of the certified truncated denoiser beside the exact dense one, and what its certificates say.

    python benchmarks/truncated_denoiser.py --images train-images-idx3-ubyte.gz

Queries are training images plus noise, as the states of a sampler, or held-out images plus noise. Both contestants run in
one process, in turn. A file with too few images is filled up with the same images moved by a pixel or two. See README.md.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from empirical_denoiser import environment, in_turn, milliseconds, summary, synthetic_images, table

from smoothjax import TruncatedDenoiser
from smoothjax.datasets import load
from smoothjax.denoisers import CertifiedMean

NUM_HELD_OUT = 512
NOISE_LEVELS = (0.02, 0.1, 0.3, 0.5, 1.0, 2.0, 10.0)


@jax.jit
def certified(denoiser: TruncatedDenoiser, u: jax.Array, sigma: jax.Array) -> CertifiedMean:
    return jax.vmap(denoiser.certified, in_axes=(0, None))(u, sigma)


@jax.jit
def dense(denoiser: TruncatedDenoiser, u: jax.Array, sigma: jax.Array) -> jax.Array:
    return jax.vmap(denoiser.exact, in_axes=(0, None))(u, sigma)


def moved_images(path: str, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`num` images of a file, and held-out ones; if it holds fewer, moved copies of the former follow."""
    dataset = load(path)
    assert dataset.image_shape is not None, f"{path} holds no images."
    images = rng.permutation(np.array(dataset.points, np.float32))
    held_out, images = images[:NUM_HELD_OUT], images[NUM_HELD_OUT:]
    square = images.reshape(-1, *dataset.image_shape)
    moves = sorted(itertools.product((0, 1, -1, 2, -2), repeat=2), key=lambda move: np.hypot(*move))
    copies = [np.roll(square, move, (1, 2)).reshape(images.shape) for move in moves]
    if len(copies) * len(images) < num:
        raise SystemExit(f"{path} holds too few images for {num}.")
    return np.concatenate(copies[: -(-num // len(images))])[:num], held_out


def measure_cell(
    denoiser: TruncatedDenoiser, u: np.ndarray, sigma: float, rounds: int, rng: np.random.Generator
) -> dict[str, Any]:
    queries, level = jnp.asarray(u), jnp.float32(sigma)
    times = in_turn(
        {
            "truncated": lambda: jax.block_until_ready(certified(denoiser, queries, level)),
            "dense": lambda: dense(denoiser, queries, level).block_until_ready(),
        },
        rounds,
        rng,
    )
    found = certified(denoiser, queries, level)
    difference = jnp.linalg.norm(found.value - dense(denoiser, queries, level), axis=1)
    return {
        "queries": len(u),
        "noise": sigma,
        "seconds": {name: summary(seconds) for name, seconds in times.items()},
        "speed": summary(times["dense"] / times["truncated"]),
        "speed_of_minima": times["dense"].min() / times["truncated"].min(),
        "visited": float(jnp.mean(found.visited)),
        "by_all": float(jnp.mean(found.visited == len(denoiser.data))),
        "truncation": float(jnp.max(found.truncation)),
        "rounding": float(jnp.median(found.rounding)),
        "difference": float(jnp.max(difference)),
    }


HEADER = [
    *("queries", "plus noise", "truncated (ms)", "dense (ms)", "times faster (quartiles)"),
    *("of least", "mean visited", "dense after all", "truncation bound", "rounding bound"),
    "difference",
]


def row(cell: dict[str, Any]) -> list[str]:
    low, high = cell["speed"]["quartiles"]
    return [
        *(f"{cell['queries']} {cell['kind']}", f"{cell['noise']:g}"),
        *(milliseconds(cell["seconds"], name) for name in ("truncated", "dense")),
        f"{cell['speed']['median']:.2f} ({low:.2f}-{high:.2f})",
        *(f"{cell['speed_of_minima']:.2f}", f"{cell['visited']:.0f}", f"{cell['by_all']:.0%}"),
        *(f"{cell[name]:.1e}" for name in ("truncation", "rounding", "difference")),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--points", type=int, nargs="+", default=[60_000])
    parser.add_argument("--dim", type=int, default=784, help="of the synthetic images")
    parser.add_argument("--noise", type=float, nargs="+", default=list(NOISE_LEVELS))
    parser.add_argument("--repeats", type=int, default=7, help="rounds for each row of the table")
    parser.add_argument("--images", help="a file of images (.npy, .npz, idx) in place of synthetic")
    parser.add_argument("--out", type=Path, help="JSON with everything that was measured")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    most, cells = max(options.points), []
    if options.images:
        images, held_out = moved_images(options.images, most, rng)
    else:
        both = synthetic_images(most + NUM_HELD_OUT, options.dim, rng).astype(np.float32)
        images, held_out = both[:most], both[most:]
    for num in options.points:
        start = time.perf_counter()
        denoiser = TruncatedDenoiser(images[:num])
        built = time.perf_counter() - start
        tolerance = float(denoiser.tolerance)
        print(f"\n{num:,} points, tolerance {tolerance:.2g}, constructed in {built:.1f} s\n")
        print(table(HEADER, []), flush=True)
        for queries, kind in itertools.product(options.queries, ("training", "held-out")):
            taken = images[:num] if kind == "training" else held_out
            clean = taken[rng.choice(len(taken), queries)]
            for sigma in options.noise:
                u = clean + np.float32(sigma) * rng.standard_normal(clean.shape, np.float32)
                cell = measure_cell(denoiser, u, sigma, options.repeats, rng)
                cell |= {"points": num, "kind": kind, "tolerance": tolerance}
                cells.append(cell)
                print("| " + " | ".join(row(cell)) + " |", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps({"environment": environment(), "cells": cells}, indent=1))


if __name__ == "__main__":
    main()
