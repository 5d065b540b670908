"""Time and memory of the local denoisers on a set of images, beside the bare matrix product of the equivariant one.

    python benchmarks/local_denoisers.py --images train-images-idx3-ubyte.gz --points 10000 --out results.json

The floor of `EquivariantLocalDenoiser` is the product of all windows of the queries with all windows of the images that they
are matched with, in the same chunks, and a maximum over each chunk. It is timed on a part of the images and scaled up: it
is proportional to their number. See README.md.
"""

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from smoothjax.datasets import load
from smoothjax.denoisers import (
    Denoiser,
    EquivariantLocalDenoiser,
    LocalDenoiser,
    PatchCompositeDenoiser,
    WienerMaskDenoiser,
)
from smoothjax.denoisers._equivariant_local import default_chunk_size

GIB = 2**30
KINDS = ("local", "composite", "wiener-mask", "equivariant")


def images_from(path: str | None, num: int) -> np.ndarray:
    """`num` images of a file (all if there are fewer), or noise that is smooth: the times do not depend on it."""
    if path is not None:
        data = load(path)
        if data.image_shape is None:
            raise SystemExit(f"{path} does not hold images.")
        return np.asarray(data.points, np.float32).reshape(-1, *data.image_shape)[:num]
    noise = np.random.default_rng(0).standard_normal((num, 28, 28, 1), np.float32)
    for axis in (1, 2):
        noise = noise + np.roll(noise, 1, axis) + np.roll(noise, 2, axis)
    return noise / np.abs(noise).max()


def seconds(call: Callable[[], Any], repeats: int) -> list[float]:
    """Wall-clock times of compiled calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


@jax.jit
def denoise(denoiser: Denoiser, u: jax.Array, sigma: jax.Array) -> jax.Array:
    return jax.vmap(denoiser, (0, None))(u, sigma)


def floor(rows: int, width: int, chunk: int, columns: int) -> tuple[float, float]:
    """Wall-clock and processor seconds of `columns / chunk` float32 products (rows, width) x (width, chunk)."""
    num = max(1, min(columns // chunk, 2**17 // chunk))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((rows, width), np.float32))
    y = jnp.asarray(rng.standard_normal((num, chunk, width), np.float32))

    @jax.jit
    def products(x: jax.Array, y: jax.Array) -> jax.Array:
        def step(highest: jax.Array, y: jax.Array):
            product = jnp.dot(x, y.T, precision=lax.Precision.HIGHEST)
            return jnp.maximum(highest, jnp.max(product, axis=1)), None

        return lax.scan(step, jnp.full(rows, -jnp.inf, jnp.float32), y)[0]

    compiled = products.lower(x, y).compile()
    start = time.process_time()
    times = seconds(lambda: compiled(x, y).block_until_ready(), 3)
    parts = columns / (num * chunk)
    return min(times) * parts, (time.process_time() - start) / 3 * parts


def floor_of(denoiser: EquivariantLocalDenoiser, queries: int) -> tuple[float, float, float]:
    """Seconds and operations of the products; clipped: of the inner pixels, which are almost all of the work."""
    h, w, c = denoiser.image_shape
    size = denoiser.patch_size
    inner = h * w if denoiser.boundary == "circular" else (h - size + 1) * (w - size + 1)
    rows, width, columns = queries * inner, size**2 * c, len(denoiser.images) * inner
    chunk = denoiser.chunk_size or default_chunk_size(inner)
    return *floor(rows, width, chunk, columns), 2.0 * rows * width * columns


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", help="a file of images (.npy, .npz, idx) in place of noise")
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--patch-size", type=int, default=5)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.5])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--boundary", choices=("clipped", "circular"), default="clipped")
    parser.add_argument("--chunk-size", type=int, help="by default each denoiser's own")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON with everything that was measured")
    options = parser.parse_args()

    images = images_from(options.images, options.points)
    size, chunk = options.patch_size, options.chunk_size
    make: dict[str, Callable[[], Denoiser]] = {
        "local": lambda: LocalDenoiser(images, size, options.boundary, chunk),
        "composite": lambda: PatchCompositeDenoiser(images, size, chunk),
        "wiener-mask": lambda: WienerMaskDenoiser(images, chunk_size=chunk),
        "equivariant": lambda: EquivariantLocalDenoiser(images, size, options.boundary, chunk),
    }
    rng = np.random.default_rng(0)
    clean = images[rng.integers(len(images), size=options.queries)].reshape(options.queries, -1)
    z = rng.standard_normal(clean.shape, np.float32)
    result: dict[str, Any] = {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "jax": jax.__version__,
        "settings": {k: str(v) for k, v in vars(options).items()},
        "cells": [],
    }
    print(
        "| denoiser | images | noise | seconds: median (least) | floor | peak memory so far | load |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for kind in options.kinds:
        denoiser: Any = make[kind]()
        for sigma in options.noise:
            u, level = jnp.asarray(clean + np.float32(sigma) * z), jnp.float32(sigma)
            compiled = denoise.lower(denoiser, u, level).compile()
            run = lambda c=compiled, d=denoiser, u=u, s=level: c(d, u, s).block_until_ready()  # noqa: E731
            processor = time.process_time()
            times = seconds(run, options.repeats)
            processor = (time.process_time() - processor) / options.repeats
            # Linux counts in KiB, macOS in bytes.
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            peak *= 1 if platform.system() == "Darwin" else 1024
            bare, bare_processor, text = None, None, "-"
            if kind == "equivariant":
                bare, bare_processor, operations = floor_of(denoiser, options.queries)
                text = f"{bare:.3g}, {bare_processor:.3g} ({operations / bare / 1e9:.0f} Gflop/s)"
            cell = {"kind": kind, "noise": sigma, "seconds": times, "processor_seconds": processor}
            cell |= {"floor": bare, "floor_processor": bare_processor, "peak_bytes": peak}
            result["cells"].append(cell)
            print(
                f"| {kind} | {len(images):,} | {sigma:g} "
                f"| {np.median(times):.3g} ({min(times):.3g}), {processor:.3g} | {text} "
                f"| {peak / GIB:.2f} GiB | {os.getloadavg()[0]:.1f} |",
                flush=True,
            )
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
