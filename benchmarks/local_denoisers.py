"""Time and memory of the local denoisers on a set of images, and of the equivariant one beside its dense form.

    python benchmarks/local_denoisers.py --images t10k-images-idx3-ubyte.gz --out results.json

Queries are the first images of the file plus noise; they are held out. The dense form of `EquivariantLocalDenoiser` weighs
all windows of the images, equal ones too, in matrix products (above some noise level; from differences below). It is timed
on a part of the images and scaled up: it is proportional to their number. See README.md.
"""

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smoothjax.datasets import load
from smoothjax.denoisers import (
    Denoiser,
    EquivariantLocalDenoiser,
    LocalDenoiser,
    PatchCompositeDenoiser,
    WienerMaskDenoiser,
)
from smoothjax.denoisers._images.equivariant_local import _dense

GIB = 2**30
KINDS = ("local", "composite", "wiener-mask", "equivariant", "equivariant-dense")
NOISE = (0.02, 0.1, 0.5, 2.0, 10.0, 80.0)


def images_from(path: str | None, num: int) -> np.ndarray:
    """`num` images of a file (all if there are fewer), or noise that is smooth."""
    if path is not None:
        data = load(path)
        if data.image_shape is None:
            raise SystemExit(f"{path} does not hold images.")
        return np.asarray(data.points, np.float32).reshape(-1, *data.image_shape)[:num]
    noise = np.random.default_rng(0).standard_normal((num, 28, 28, 1), np.float32)
    for axis in (1, 2):
        noise = noise + np.roll(noise, 1, axis) + np.roll(noise, 2, axis)
    return noise / np.abs(noise).max()


@jax.jit
def denoise(denoiser: Denoiser, u: jax.Array, sigma: jax.Array) -> jax.Array:
    return jax.vmap(denoiser, (0, None))(u, sigma)


@jax.jit
def denoise_densely(
    denoiser: EquivariantLocalDenoiser, u: jax.Array, sigma: jax.Array
) -> jax.Array:
    images = u.reshape(-1, *denoiser.image_shape)
    return jax.vmap(lambda x: _dense(denoiser, x, sigma))(images)


def peak_bytes() -> int:
    """Largest memory of this process so far. Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def measure(
    images: np.ndarray,
    *,
    noise: Sequence[float] = NOISE,
    kinds: Sequence[str] = KINDS,
    queries: int = 16,
    held_out: int = 512,
    patch_size: int = 5,
    boundary: Any = "clipped",
    repeats: int = 3,
    dense_images: int = 500,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Rows of wall and processor seconds of compiled calls, the kinds in turn, noise level by noise level.

    Args:
        images: shape (n, h, w, c); the first `held_out` are not trained on.
        noise: noise levels.
        kinds: of `KINDS`.
        queries: of one call.
        held_out: images that queries are taken from.
        patch_size: side of the windows.
        boundary: of the local and the equivariant denoiser.
        repeats: timed calls, after two that are not (one where a call takes longer than 10 s).
        dense_images: training images on which the dense form is timed; its times are scaled up.
        report: called with each row.
    """
    clean, train = images[:queries].reshape(queries, -1), images[held_out:]
    part = train[:dense_images]
    make: dict[str, Callable[[], Any]] = {
        "local": lambda: LocalDenoiser(train, patch_size, boundary),
        "composite": lambda: PatchCompositeDenoiser(train, patch_size),
        "wiener-mask": lambda: WienerMaskDenoiser(train),
        "equivariant": lambda: EquivariantLocalDenoiser(train, patch_size, boundary),
        # Images that are being traced are not merged.
        "equivariant-dense": lambda: jax.jit(
            lambda images: EquivariantLocalDenoiser(images, patch_size, boundary)
        )(part),
    }
    denoisers, built = {}, {}
    for kind in kinds:
        start = time.perf_counter()
        denoisers[kind] = jax.block_until_ready(make[kind]())
        built[kind] = time.perf_counter() - start
    z = np.random.default_rng(0).standard_normal(clean.shape, np.float32)
    rows = []
    for sigma in noise:
        u, level = jnp.asarray(clean + np.float32(sigma) * z), jnp.float32(sigma)
        wall: dict[str, list[float]] = {kind: [] for kind in kinds}
        processor: dict[str, list[float]] = {kind: [] for kind in kinds}
        peak = dict.fromkeys(kinds, 0)
        for i in range(-2, repeats):
            for kind in kinds:
                if i == -1 and wall[kind][-1] > 10:
                    continue
                call = denoise_densely if kind == "equivariant-dense" else denoise
                start, used = time.perf_counter(), time.process_time()
                call(denoisers[kind], u, level).block_until_ready()
                wall[kind].append(time.perf_counter() - start)
                processor[kind].append(time.process_time() - used)
                peak[kind] = peak_bytes()
        for kind in kinds:
            scale = len(train) / len(part) if kind == "equivariant-dense" else 1.0
            times = [scale * t for t in wall[kind][-repeats:]]
            row = {
                "kind": kind,
                "images": len(train),
                "queries": queries,
                "patch_size": patch_size,
                "boundary": boundary,
                "noise": float(sigma),
                "construction_seconds": built[kind],
                "seconds": times,
                "median_seconds": float(np.median(times)),
                "processor_seconds": scale * float(np.median(processor[kind][-repeats:])),
                "peak_bytes": peak[kind],
                "load": os.getloadavg()[0],
            }
            rows.append(row)
            report(row)
    return rows


def print_row(row: dict[str, Any]) -> None:
    print(
        f"| {row['kind']} | {row['images']:,} | {row['noise']:g} | {row['median_seconds']:.3g} "
        f"({min(row['seconds']):.3g}) | {row['processor_seconds']:.3g} "
        f"| {row['peak_bytes'] / GIB:.2f} GiB | {row['load']:.1f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", help="a file of images (.npy, .npz, idx) in place of noise")
    parser.add_argument("--points", type=int, default=10_000, help="images, held out ones too")
    parser.add_argument("--held-out", type=int, default=512)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--patch-size", type=int, default=5)
    parser.add_argument("--noise", type=float, nargs="+", default=list(NOISE))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--boundary", choices=("clipped", "circular"), default="clipped")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dense-images", type=int, default=500)
    parser.add_argument("--out", type=Path, help="JSON with everything that was measured")
    options = parser.parse_args()
    settings = {k: v for k, v in vars(options).items() if k not in ("images", "points", "out")}
    print("| denoiser | images | noise | wall: median (least) | processor | peak so far | load |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    rows = measure(images_from(options.images, options.points), report=print_row, **settings)
    if options.out:
        result = {"machine": platform.machine(), "cpus": os.cpu_count(), "jax": jax.__version__}
        options.out.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
