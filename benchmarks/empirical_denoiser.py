"""Speed and accuracy of the exact empirical denoiser, beside NumPy and PyTorch on the same formula.

    python benchmarks/empirical_denoiser.py --images train-images-idx3-ubyte.gz --out results.json

All contestants run in one process, in turn, three calls each a round of which the last is timed, in an order drawn anew
every round. What is reported first is therefore the ratio of times within a round, which a busy machine changes less than
the times. See README.md.
"""

import argparse
import functools
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smoothjax import EmpiricalDenoiser
from smoothjax.datasets import load

try:
    import torch
except ImportError:
    torch: Any = None

NOISE_LEVELS = (0.02, 0.1, 0.3, 0.5, 1.0, 5.0, 80.0)
# exp(-80) = 2e-35 is a normal number in float32. Below exp(-87) NumPy and PyTorch would compute with subnormal ones,
# many times slower; a weight of 2e-35 changes nothing.
LOWEST_LOGIT = -80.0
JITTER = 0.05  # of the copies, where a set of images is repeated to reach a size
CHECKED_QUERIES = 4
MEMORY_QUERIES, MEMORY_POINTS = 1000, 10_000
UNTIMED = 2  # calls before each that is timed
LONG = 0.2  # seconds of a call beside which waking threads does not count
GIB = 2**30

Call = Callable[[], Any]


# ---------------------------------------------------------------------------------------------- data


def synthetic_images(num: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Ten classes, each a Gaussian of rank 16, and faint noise on every pixel; scaled to [-1, 1]."""
    classes, rank = 10, min(16, dim)
    means = rng.standard_normal((classes, dim))
    factors = rng.standard_normal((classes, rank, dim)) / np.sqrt(rank)
    label = rng.integers(classes, size=num)
    images = 0.05 * rng.standard_normal((num, dim)).astype(np.float32)
    for k in range(classes):
        here = label == k
        images[here] += means[k] + rng.standard_normal((here.sum(), rank)) @ factors[k]
    return images / np.abs(images).max()


def images_from(path: str, num: int, rng: np.random.Generator) -> np.ndarray:
    """`num` images of a file; if it holds fewer, copies with a little noise follow."""
    images = np.array(load(path).points, np.float32)
    copies: list[np.ndarray] = [images]
    while sum(map(len, copies)) < num:
        copies.append(images + np.float32(JITTER) * rng.standard_normal(images.shape, np.float32))
    return np.concatenate(copies)[:num]


# ----------------------------------------------------------------------------------------- baselines


class NumPy:
    """Two matrix products, everything else in place; nothing is allocated but the result."""

    def __init__(self, data: np.ndarray, num_queries: int):
        self.data = data
        self.half_square = 0.5 * np.sum(data.astype(np.float64) ** 2, 1).astype(data.dtype)
        self.logits = np.empty((num_queries, len(data)), data.dtype)

    def __call__(self, u: np.ndarray, sigma: float) -> np.ndarray:
        logits = np.matmul(u, self.data.T, out=self.logits)
        logits -= self.half_square
        logits *= np.float32(1 / sigma**2)
        logits -= logits.max(1, keepdims=True)
        np.maximum(logits, LOWEST_LOGIT, out=logits)
        np.exp(logits, out=logits)
        mean = logits @ self.data
        mean /= logits.sum(1, keepdims=True)
        return mean

    def products(self, u: np.ndarray) -> np.ndarray:
        return np.matmul(u, self.data.T, out=self.logits) @ self.data


class PyTorch:
    """The same in PyTorch: `__call__` in place, `softmax` through `torch.softmax`."""

    def __init__(self, data: np.ndarray, num_queries: int, device: str = "cpu"):
        self.data = torch.from_numpy(data).to(device)
        self.half_square = 0.5 * (self.data.double() ** 2).sum(1).float()
        self.logits = torch.empty((num_queries, len(data)), device=device)
        self.weights = torch.empty_like(self.logits)

    def _logits(self, u: Any, sigma: float) -> Any:
        scale = 1 / sigma**2
        return torch.addmm(
            self.half_square, u, self.data.T, beta=-scale, alpha=scale, out=self.logits
        )

    def __call__(self, u: Any, sigma: float) -> Any:
        with torch.inference_mode():
            logits = self._logits(u, sigma)
            logits -= logits.amax(1, keepdim=True)
            logits.clamp_(min=LOWEST_LOGIT).exp_()
            return (logits @ self.data).div_(logits.sum(1, keepdim=True))

    def softmax(self, u: Any, sigma: float) -> Any:
        with torch.inference_mode():
            logits = self._logits(u, sigma)
            logits -= logits.amax(1, keepdim=True)
            logits.clamp_(min=LOWEST_LOGIT)
            return torch.softmax(logits, 1, out=self.weights) @ self.data

    def products(self, u: Any) -> Any:
        with torch.inference_mode():
            return torch.mm(u, self.data.T, out=self.logits) @ self.data


@jax.jit
def smoothjax_call(denoiser: EmpiricalDenoiser, u: jax.Array, sigma: jax.Array) -> jax.Array:
    return jax.vmap(denoiser, in_axes=(0, None))(u, sigma)


@jax.jit
def jax_products(data: jax.Array, u: jax.Array) -> jax.Array:
    exact = functools.partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
    return exact(exact(u, data.T), data)


def direct(data: np.ndarray, u: np.ndarray, sigma: float) -> np.ndarray:
    """The denoiser from differences, in float64."""

    def half_squares(query: np.ndarray) -> Iterator[np.ndarray]:
        for rows in np.array_split(data, -(-len(data) // 4096)):
            yield 0.5 * np.sum((query - rows.astype(np.float64)) ** 2, 1)

    means = []
    for query in u.astype(np.float64):
        logits = -np.concatenate(list(half_squares(query))) / sigma**2
        weights = np.exp(logits - logits.max())
        near = weights > 1e-30 * weights.max()  # the others are below the rounding of the sum
        means.append(weights[near] @ data[near].astype(np.float64) / weights[near].sum())
    return np.stack(means)


# ----------------------------------------------------------------------------------------- measuring


def settle(limit: float = 0.5) -> None:
    """Waits until this process is idle.

    OpenBLAS and OpenMP threads wait for more work at full speed for up to tens of milliseconds after a call, and would
    take a core from the next contestant.
    """
    end = time.perf_counter() + limit
    idle = 0
    while idle < 3 and time.perf_counter() < end:
        before = time.process_time()
        time.sleep(0.002)
        idle = idle + 1 if time.process_time() - before < 0.0004 else 0


def in_turn(
    calls: dict[str, Call], rounds: int, rng: np.random.Generator, untimed: int = UNTIMED
) -> dict[str, np.ndarray]:
    """Seconds of each call in each round."""
    names = list(calls)
    for name in names:
        calls[name]()  # compiles, and allocates workspace
    times = {name: np.empty(rounds) for name in names}
    for i in range(rounds):
        for j in rng.permutation(len(names)):
            settle()
            # Threads that slept through the others' turns take milliseconds to come back; a sampler's do not sleep.
            if i == 0 or times[names[j]][i - 1] < LONG:
                for _ in range(untimed):
                    calls[names[j]]()
            start = time.perf_counter()
            calls[names[j]]()
            times[names[j]][i] = time.perf_counter() - start
    return times


def summary(seconds: np.ndarray) -> dict[str, Any]:
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return {
        "median": median,
        "min": seconds.min(),
        "quartiles": [low, high],
        "all": seconds.tolist(),
    }


def weighed_again(data: np.ndarray, u: np.ndarray, sigma: float) -> float:
    """Fraction of queries for which EmpiricalDenoiser weighs competing points by differences."""
    centre = data.mean(0, dtype=np.float64)
    radius = np.sqrt(np.max(np.sum((data - centre) ** 2, 1)))
    distance = np.sqrt(np.sum((u - centre) ** 2, 1))
    return float(np.mean(radius * (distance + radius) > 4096 * sigma**2))


def measure_cell(
    data: np.ndarray,
    denoiser: EmpiricalDenoiser,
    num_queries: int,
    sigma: float,
    rounds: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    u = data[rng.choice(len(data), num_queries)]
    u = u + np.float32(sigma) * rng.standard_normal(u.shape, np.float32)
    # One copy of the points for all contestants, so that nobody finds more of his own in the cache than the others.
    data = np.asarray(denoiser.data)
    numpy_one = NumPy(data, num_queries)
    device_u, device_sigma = jnp.array(u), jnp.float32(sigma)
    device_data = denoiser.data
    calls: dict[str, Call] = {
        "smoothjax": lambda: smoothjax_call(denoiser, device_u, device_sigma).block_until_ready(),
        "numpy": lambda: numpy_one(u, sigma),
        "jax products": lambda: jax_products(device_data, device_u).block_until_ready(),
        "numpy products": lambda: numpy_one.products(u),
    }
    if torch is not None:
        torch_one, torch_u = PyTorch(data, num_queries), torch.from_numpy(u)
        calls["torch"] = lambda: torch_one(torch_u, sigma)
        calls["torch softmax"] = lambda: torch_one.softmax(torch_u, sigma)
        calls["torch products"] = lambda: torch_one.products(torch_u)
    times = in_turn(calls, rounds, rng)

    exact = direct(data, u[:CHECKED_QUERIES], sigma)
    formulas = [name for name in calls if "products" not in name]
    errors = {
        name: float(np.max(np.abs(np.asarray(calls[name]())[:CHECKED_QUERIES] - exact)))
        for name in formulas
    }
    # The faster baseline within each round; PyTorch in the variant that is faster over all rounds.
    rivals = [times["numpy"]]
    variants = [name for name in formulas if name.startswith("torch")]
    best = min(variants, key=lambda name: float(np.median(times[name])), default=None)
    if best is not None:
        rivals.append(times[best])
    ratio = times["smoothjax"] / np.min(rivals, axis=0)
    bare = {name: seconds.min() for name, seconds in times.items() if "products" in name}
    flops = 4 * data.size * num_queries
    return {
        "points": len(data),
        "dim": data.shape[1],
        "queries": num_queries,
        "noise": sigma,
        "chunk_size": denoiser.chunk_size,
        "weighed_again": weighed_again(data, u, sigma),
        "seconds": {name: summary(seconds) for name, seconds in times.items()},
        "torch_variant": best,
        "ratio": summary(ratio),
        "ratio_of_minima": times["smoothjax"].min() / np.min(rivals),
        "gigaflops_of_products": {name: flops / least / 1e9 for name, least in bare.items()},
        "fraction_of_own_products": bare["jax products"] / times["smoothjax"].min(),
        "fraction_of_fastest_products": min(bare.values()) / times["smoothjax"].min(),
        "largest_error": errors,
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def compiled(denoiser: EmpiricalDenoiser, num_queries: int) -> dict[str, float]:
    """Seconds to trace and compile, and the temporary memory of the compiled call."""
    start = time.perf_counter()
    u = jax.ShapeDtypeStruct((num_queries, denoiser.dim), denoiser.data.dtype)
    lowered = smoothjax_call.lower(denoiser, u, jax.ShapeDtypeStruct((), u.dtype))
    traced = time.perf_counter()
    memory: Any = lowered.compile().memory_analysis()
    return {
        "points": len(denoiser.data),
        "queries": num_queries,
        "seconds_to_trace": traced - start,
        "seconds_to_compile": time.perf_counter() - traced,
        "temporary_bytes": memory.temp_size_in_bytes,
    }


def sweep(
    data: np.ndarray,
    num_queries: int,
    sigma: float,
    sizes: list[int],
    rounds: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """One call for each chunk size, in turn."""
    u = data[rng.choice(len(data), num_queries)]
    u = jnp.array(u + np.float32(sigma) * rng.standard_normal(u.shape, np.float32))

    def call(denoiser: EmpiricalDenoiser) -> Any:
        return smoothjax_call(denoiser, u, jnp.float32(sigma)).block_until_ready()

    points = jnp.array(data)  # shared by all
    sizes = sorted({EmpiricalDenoiser(points, chunk_size=size).chunk_size for size in sizes})
    denoisers = {str(size): EmpiricalDenoiser(points, chunk_size=size) for size in sizes}
    times = in_turn({s: functools.partial(call, d) for s, d in denoisers.items()}, rounds, rng)
    return {
        "points": len(data),
        "queries": num_queries,
        "noise": sigma,
        "seconds": {size: summary(seconds) for size, seconds in times.items()},
    }


# ----------------------------------------------------------------------------------------- reporting


def environment() -> dict[str, Any]:
    affinity = getattr(os, "sched_getaffinity", None)
    versions = {"python": platform.python_version(), "jax": jax.__version__}
    versions |= {"numpy": np.__version__, "torch": getattr(torch, "__version__", "not installed")}
    blas = dict(np.show_config(mode="dicts")["Build Dependencies"]["blas"])
    blas = {key: blas.get(key) for key in ("name", "version", "openblas configuration")}
    try:  # what runs, rather than what was built
        from threadpoolctl import threadpool_info

        keys = ("internal_api", "version", "architecture", "num_threads")
        pools = [{key: pool.get(key) for key in keys} for pool in threadpool_info()]
    except ImportError:
        pools = []
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": len(affinity(0)) if affinity else os.cpu_count(),
        "jax_device": str(jax.devices()[0]),
        "versions": versions,
        "numpy_blas": blas,
        "thread_pools": pools,
        "torch_threads": torch.get_num_threads() if torch is not None else None,
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("OPENBLAS_", "OMP_", "MKL_", "XLA_", "JAX_"))
        },
    }


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---:"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def milliseconds(times: dict[str, Any], name: str | None) -> str:
    if name is None:
        return "-"
    return f"{1e3 * times[name]['median']:.3g} ({1e3 * times[name]['min']:.3g})"


CELL_HEADER = [
    *("points", "queries", "noise", "weighed again", "smoothjax", "NumPy", "PyTorch"),
    *("ratio (quartiles)", "of minima", "of own products", "of fastest"),
    *("error: smoothjax", "NumPy", "PyTorch"),
]


def cell_row(cell: dict[str, Any]) -> list[str]:
    times, errors, variant = cell["seconds"], cell["largest_error"], cell["torch_variant"]
    low, high = cell["ratio"]["quartiles"]
    return [
        *(f"{cell['points']:,}", str(cell["queries"]), f"{cell['noise']:g}"),
        f"{cell['weighed_again']:.0%}",
        *(milliseconds(times, "smoothjax"), milliseconds(times, "numpy")),
        milliseconds(times, variant),
        f"{cell['ratio']['median']:.2f} ({low:.2f}-{high:.2f})",
        f"{cell['ratio_of_minima']:.2f}",
        f"{cell['fraction_of_own_products']:.0%}",
        f"{cell['fraction_of_fastest_products']:.0%}",
        *(f"{errors['smoothjax']:.1e}", f"{errors['numpy']:.1e}"),
        "-" if variant is None else f"{errors[variant]:.1e}",
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--queries", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--points", type=int, nargs="+", default=[10_000, 60_000])
    parser.add_argument("--dim", type=int, default=784, help="of the synthetic images")
    parser.add_argument("--noise", type=float, nargs="+", default=list(NOISE_LEVELS))
    parser.add_argument("--repeats", type=int, default=11, help="rounds for each row of the table")
    parser.add_argument("--images", help="a file of images (.npy, .npz, idx) in place of synthetic")
    parser.add_argument("--chunk-sizes", type=int, nargs="*", default=[], help="also compare these")
    parser.add_argument("--out", type=Path, help="JSON with everything that was measured")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    rng = np.random.default_rng(0)
    result: dict[str, Any] = {"environment": environment(), "images": bool(options.images)}
    print(json.dumps(result["environment"], indent=1))
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        if name in os.environ:
            print(
                f"**{name}={os.environ[name]} is set, which can slow NumPy down: compare without it.**"
            )
    sizes = [*options.points, MEMORY_POINTS]
    data = (
        images_from(options.images, max(sizes), rng)
        if options.images
        else synthetic_images(max(sizes), options.dim, rng)
    )

    print(f"\nCompilation, apart from the times below (dimension {data.shape[1]}):\n")
    result["compiled"] = [
        compiled(EmpiricalDenoiser(data[:points]), queries)
        for points, queries in [
            *((points, queries) for points in options.points for queries in options.queries),
            (MEMORY_POINTS, MEMORY_QUERIES),
        ]
    ]
    rows = [
        [
            *(f"{one['points']:,}", f"{one['queries']:,}"),
            *(f"{one['seconds_to_trace']:.2f} s", f"{one['seconds_to_compile']:.2f} s"),
            f"{one['temporary_bytes'] / 2**20:.1f} MiB",
        ]
        for one in result["compiled"]
    ]
    print(table(["points", "queries", "trace", "compile", "temporary memory"], rows))
    if result["compiled"][-1]["temporary_bytes"] >= GIB:
        sys.exit("The last row must need less than 1 GiB.")

    print("\nMilliseconds: median (least). Ratio: smoothjax / the faster of NumPy and PyTorch.\n")
    print(table(CELL_HEADER, []), flush=True)
    result["cells"] = []
    for points in options.points:
        denoiser = EmpiricalDenoiser(data[:points])
        for queries in options.queries:
            for sigma in options.noise:
                cell = measure_cell(data[:points], denoiser, queries, sigma, options.repeats, rng)
                result["cells"].append(cell)
                print("| " + " | ".join(cell_row(cell)) + " |", flush=True)

    rates: dict[str, float] = {}
    for cell in result["cells"]:
        for name, rate in cell["gigaflops_of_products"].items():
            rates[name] = max(rate, rates.get(name, 0.0))
    text = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    print(f"\nHighest rate of the two bare products, in Gflop/s: {text}.")

    result["chunk_sizes"] = []
    if options.chunk_sizes:
        print("\nChunk sizes, milliseconds: median (least).\n")
        header = ["points", "queries", "noise", *map(str, options.chunk_sizes)]
        print(table(header, []), flush=True)
        for points in options.points:
            for queries in options.queries:
                for sigma in (min(options.noise), max(options.noise)):
                    part = sweep(
                        *(data[:points], queries, sigma, options.chunk_sizes, options.repeats, rng)
                    )
                    result["chunk_sizes"].append(part)
                    row = [f"{points:,}", str(queries), f"{sigma:g}"]
                    row += [f"{s}: {milliseconds(part['seconds'], s)}" for s in part["seconds"]]
                    print("| " + " | ".join(row) + " |", flush=True)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
