"""Workloads of scale: training points, dimensions, queries, devices, and training sets that are read from the disk."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from denoiser_workloads import (
    CHECKED,
    compile_seconds,
    noisy,
    norm_errors,
    smooth_images,
    stated_error,
)
from empirical_denoiser import direct, in_turn, jax_products, smoothjax_call
from machine import Row, forget, in_process, peak_bytes, read_through, rng, row, write_file
from truncated_denoiser import certified

import smoothjax as sj

NOISE = 0.3


def size_rows(quick: bool, bar: Any) -> Iterator[Row]:
    """Dense, certified and the bare products, one of n, d and the batch varied at a time."""
    if quick:
        n, d, batch, rounds = 400, 16, 8, 2
        cases = [("n", 200, d, batch), ("n", n, d, batch), ("d", n, 64, batch), ("batch", n, d, 1)]
    else:
        n, d, batch, rounds = 20_000, 784, 64, 5
        cases = [("n", m, d, batch) for m in (1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)]
        cases += [("d", n, m * m, batch) for m in (4, 8, 16, 28, 40, 56)]
        cases += [("batch", n, d, m) for m in (1, 4, 16, 64, 256, 1024)]
    bar.reset(total=len(cases))
    for varied, n, d, batch in cases:
        data = smooth_images(n, round(d**0.5), 1, rng())
        truncated = sj.TruncatedDenoiser(data)
        dense = truncated.exact
        u = noisy(data, batch, NOISE, rng())
        queries, level = jnp.asarray(u), jnp.float32(NOISE)
        calls = {
            "smoothjax dense": lambda D=dense, q=queries, s=level: jax.block_until_ready(
                smoothjax_call(D, q, s)
            ),
            "smoothjax certified": lambda D=truncated, q=queries, s=level: jax.block_until_ready(
                certified(D, q, s)
            ),
            "XLA products": lambda x=dense.data, q=queries: jax.block_until_ready(
                jax_products(x, q)
            ),
        }
        compiling = {
            "smoothjax dense": compile_seconds(smoothjax_call, dense, queries, level),
            "smoothjax certified": compile_seconds(certified, truncated, queries, level),
        }
        exact = direct(data, u[:CHECKED], NOISE)
        found = certified(truncated, queries, level)
        bounds = np.asarray(found.truncation + found.rounding, np.float64)[:CHECKED]
        allowed = {
            "smoothjax dense": stated_error(data, u[:CHECKED], NOISE),
            "smoothjax certified": float(np.max(bounds)),
        }
        values = {"smoothjax dense": smoothjax_call(dense, queries, level)}
        values["smoothjax certified"] = found.value
        for name, seconds in in_turn(calls, rounds, rng()).items():
            error = float(np.max(norm_errors(values[name], exact))) if name in values else None
            yield row(
                name,
                seconds,
                kind="size",
                varied=varied,
                n=n,
                d=d,
                batch=batch,
                noise=NOISE,
                flop=4.0 * n * d * batch,
                compile_seconds=compiling.get(name),
                error=error,
                error_bound=allowed.get(name),
            )
        bar.update()


# -------------------------------------------------------------------------------------------- devices


def on_devices(n: int, d: int, batch: int, rounds: int) -> dict[str, Any]:
    """`ShardedDenoiser` over all devices of this process: times, and its difference from one device."""
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    data = smooth_images(n, round(d**0.5), 1, rng())
    denoiser: Any = sj.ShardedDenoiser(data, mesh)
    u = noisy(data, batch, NOISE, rng())
    queries, level = jnp.asarray(u), jnp.float32(NOISE)
    seconds = compile_seconds(smoothjax_call, denoiser, queries, level)
    run = lambda: smoothjax_call(denoiser, queries, level).block_until_ready()  # noqa: E731
    times = in_turn({"": run}, rounds, rng())[""]
    exact = direct(data, u[:CHECKED], NOISE)
    return {
        "seconds": times.tolist(),
        "compile_seconds": seconds,
        "error": float(np.max(norm_errors(run(), exact))),
        "error_bound": stated_error(data, u[:CHECKED], NOISE),
        "peak_bytes": peak_bytes(),
    }


def device_rows(quick: bool, bar: Any) -> Iterator[Row]:
    """One process a number of devices: virtual ones on a processor, and on accelerators those that there are."""
    n, d, batch, rounds = (400, 16, 8, 2) if quick else (60_000, 784, 64, 5)
    virtual = jax.devices()[0].platform == "cpu"
    counts = ((1, 2) if quick else (1, 2, 4, 8)) if virtual else (jax.device_count(),)
    bar.reset(total=len(counts))
    for count in counts:
        variables = {}
        if virtual:
            variables["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count}"
        given = {"n": n, "d": d, "batch": batch}
        found = in_process("scaling_workloads.on_devices", variables, rounds=rounds, **given)
        times = found.pop("seconds")
        yield (
            row(
                "smoothjax sharded",
                times,
                kind="devices",
                num_devices=count,
                noise=NOISE,
                flop=4.0 * n * d * batch,
                **given,
            )
            | found
        )
        bar.update()


# --------------------------------------------------------------------------------------------- stream


def streamed(path: str, batch: int, rounds: int) -> dict[str, Any]:
    """Calls of a `StreamedDenoiser`, the system asked to forget the file before each; peak memory of the process."""
    denoiser = sj.StreamedDenoiser(path)
    u = jnp.asarray(rng().standard_normal((batch, denoiser.dim), np.float32))
    import_bytes = peak_bytes()  # libraries and JAX's own
    start = time.perf_counter()
    denoiser.denoise(u, 1.0).block_until_ready()
    first = time.perf_counter() - start
    times: dict[str, list[float]] = {"calls": [], "cached": [], "reading": []}
    for _ in range(rounds):
        forget(Path(path))
        for name in ("calls", "cached"):
            start = time.perf_counter()
            denoiser.denoise(u, 1.0).block_until_ready()
            times[name].append(time.perf_counter() - start)
    streaming_bytes = peak_bytes()
    for _ in range(rounds):
        forget(Path(path))
        start = time.perf_counter()
        read_through(Path(path))
        times["reading"].append(time.perf_counter() - start)
    # The bare products of as many points, in the same chunks.
    chunk = jnp.asarray(np.load(path, mmap_mode="r")[: denoiser.chunk_size])
    product = in_turn({"": lambda: jax_products(chunk, u).block_until_ready()}, 5, rng())[""]
    scale = denoiser.num_points / denoiser.chunk_size
    return {
        **times,
        "products": [float(np.median(product)) * scale],
        "first_seconds": first,
        "n": denoiser.num_points,
        "d": denoiser.dim,
        "bytes": Path(path).stat().st_size,
        "import_bytes": import_bytes,
        "peak_bytes": streaming_bytes,
    }


def streamed_difference(n: int, d: int, batch: int) -> tuple[float, float]:
    """A small streamed training set against float64: the largest error, and the one that is stated."""
    data = smooth_images(n, round(d**0.5), 1, rng())
    u = noisy(data, batch, NOISE, rng())
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "rows.npy", data)
        denoiser = sj.StreamedDenoiser(Path(folder) / "rows.npy", chunk_size=max(1, n // 3))
        found = denoiser.denoise(u, NOISE)
    error = float(np.max(norm_errors(found, direct(data, u, NOISE))))
    return error, stated_error(data, u, NOISE)


def stream_rows(quick: bool, gibibytes: float) -> Iterator[Row]:
    """Reading the training set at every call, beside only reading it and beside the bare products."""
    n, d, batches, rounds = (300, 16, (4,), 2) if quick else (5000, 784, (64, 512), 2)
    error, bound = streamed_difference(n, d, 4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        write_file(path, gibibytes, d)
        for batch in batches:
            found = in_process(
                "scaling_workloads.streamed", path=str(path), batch=batch, rounds=rounds
            )
            keys = ("n", "d", "bytes", "first_seconds", "peak_bytes", "import_bytes")
            case = {key: found[key] for key in keys} | {"batch": batch, "kind": "stream"}
            flop = 4.0 * found["n"] * found["d"] * batch
            names = {
                "smoothjax streamed": "calls",
                "smoothjax streamed, cached": "cached",
                "disk, reading alone": "reading",
                "XLA products": "products",
            }
            for name, key in names.items():
                rate = found["bytes"] / float(np.median(found[key])) / 1e9
                one = row(name, found[key], flop=flop, gigabytes_per_second=rate, **case)
                if name.startswith("smoothjax"):
                    one |= {"error": error, "error_bound": bound}
                yield one | ({"device": "disk"} if name.startswith("disk") else {})
