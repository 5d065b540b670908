"""Workloads of single denoising calls: exact and certified empirical denoisers, their search part, smoothed denoisers."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from empirical_denoiser import (
    LOWEST_LOGIT,
    Call,
    NumPy,
    PyTorch,
    direct,
    in_turn,
    jax_products,
    smoothjax_call,
    torch,
)
from machine import Row, on_torch, rng, row, torch_device
from truncated_denoiser import certified, moved_images

from smoothjax import EmpiricalDenoiser, GaussianSmoothedDenoiser, TruncatedDenoiser

try:
    import faiss
except ImportError:
    faiss: Any = None

NOISE_LEVELS = (0.01, 0.1, 0.3, 0.5, 1.0, 5.0, 80.0)
# Where a call takes seconds.
FEW_LEVELS = (0.01, 0.3, 1.0, 80.0)
CHECKED = 4  # queries that are compared with float64


# ---------------------------------------------------------------------------------------------- data


def smooth_images(num: int, side: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Synthetic images of (side, side, channels), whose spectrum falls as that of photographs, values about in [-1, 1]."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    envelope = 1 / (frequency + 1 / side) ** 1.5
    images = np.empty((num, side * side * channels), np.float32)
    for start in range(0, num, 1000):
        shape = (min(1000, num - start), channels, side, side)
        spectrum = np.fft.rfft2(rng.standard_normal(shape, np.float32)) * envelope
        pixels = np.fft.irfft2(spectrum, (side, side)).transpose(0, 2, 3, 1)
        images[start : start + shape[0]] = pixels.reshape(shape[0], -1)
    return images / np.float32(3 * images.std())


def images_for(path: str | None, num: int, rng: np.random.Generator) -> np.ndarray:
    """`num` images of a file, filled up with moved copies; without a file, synthetic ones of 28 x 28."""
    return smooth_images(num, 28, 1, rng) if path is None else moved_images(path, num, rng)[0]


def noisy(data: np.ndarray, num: int, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Training points plus noise, as the states of a sampler."""
    clean = data[rng.choice(len(data), num)]
    return clean + np.float32(sigma) * rng.standard_normal(clean.shape, np.float32)


# -------------------------------------------------------------------------------------------- errors


def norm_errors(found: Any, exact: np.ndarray) -> np.ndarray:
    """Euclidean norms of the errors of the first rows, as many as `exact` has."""
    return np.linalg.norm(np.asarray(found, np.float64)[: len(exact)] - exact, axis=1)


def stated_error(data: np.ndarray, u: np.ndarray, sigma: float) -> float:
    """The error that `EmpiricalDenoiser` states for these queries, an upper bound, from float64."""
    eps = float(np.finfo(data.dtype).eps)
    centre = data.mean(0, dtype=np.float64)
    radius = np.sqrt(max(np.max(np.sum((part - centre) ** 2, 1)) for part in _parts(data)))
    bounds = []
    for query in u.astype(np.float64):
        squares = _squares(data, query)
        carries = squares - squares.min() < 2 * sigma**2 * np.log(len(data) / eps)
        middle = data[carries].mean(0, dtype=np.float64)
        apart = 2 * np.sqrt(
            max(np.max(np.sum((p - middle) ** 2, 1)) for p in _parts(data[carries]))
        )
        away = np.sqrt(np.max(squares[carries]))
        bound = eps * (np.linalg.norm(centre) + radius) + 2048 * eps * apart
        bounds.append(bound + apart * min(1, 4 * eps * away * apart / sigma**2))
    return float(max(bounds))


def _squares(data: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Squared distances from every point, in float64."""
    query = query.astype(np.float64)
    return np.concatenate([np.sum((query - part) ** 2, 1) for part in _parts(data)])


def _parts(data: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(data), 4096):
        yield data[start : start + 4096].astype(np.float64)


# --------------------------------------------------------------------------------------- contestants


def compiled_torch() -> Callable[..., Any]:
    """The dense formula as one function, compiled by PyTorch."""

    # The scale as a tensor: a number would compile the function anew for every noise level.
    def dense(data: Any, half_square: Any, u: Any, scale: Any) -> Any:
        logits = (u @ data.T - half_square) * scale
        # Weights below exp(-80) change nothing, and would be subnormal numbers, many times slower.
        logits = (logits - logits.amax(1, keepdim=True)).clamp(min=LOWEST_LOGIT)
        return torch.softmax(logits, 1) @ data

    return torch.compile(dense, dynamic=False)


def first_call(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compile_seconds(function: Any, *arguments: Any) -> float:
    """Seconds to trace and compile a jitted function."""
    start = time.perf_counter()
    function.lower(*arguments).compile()
    return time.perf_counter() - start


class Dense:
    """All contestants on one training set, the points shared where they can be, and the bare products in turn with them."""

    def __init__(self, data: np.ndarray):
        self.exact = EmpiricalDenoiser(data)
        start = time.perf_counter()
        self.truncated = TruncatedDenoiser(self.exact.data)
        self.truncated_built = time.perf_counter() - start
        # Where NumPy can read JAX's own copy: nobody finds more of his own in the cache than the others.
        self.data = np.asarray(self.exact.data)
        self.compiled: Any = compiled_torch() if torch is not None else None
        self.compiling: dict[int, dict[str, Any]] = {}  # by batch

    def rows(self, batch: int, sigma: float, rounds: int, notes: list[str]) -> Iterator[Row]:
        u = noisy(self.data, batch, sigma, rng())
        queries, level = jnp.asarray(u), jnp.float32(sigma)
        numpy_one = NumPy(self.data, batch)
        calls: dict[str, Call] = {
            "smoothjax dense": lambda: smoothjax_call(self.exact, queries, level),
            "smoothjax certified": lambda: certified(self.truncated, queries, level),
            "XLA products": lambda: jax_products(self.exact.data, queries),
        }
        calls = {
            name: (lambda call=call: jax.block_until_ready(call())) for name, call in calls.items()
        }
        calls["NumPy"] = lambda: numpy_one(u, sigma)
        calls["NumPy products"] = lambda: numpy_one.products(u)
        if torch is not None:
            one = PyTorch(self.data, batch, torch_device())
            torch_u = torch.from_numpy(u).to(torch_device())
            scale = torch.tensor(1 / sigma**2, device=torch_device())
            calls["PyTorch eager"] = on_torch(lambda: one(torch_u, sigma))
            calls["PyTorch softmax"] = on_torch(lambda: one.softmax(torch_u, sigma))

            def compiled() -> Any:
                with torch.inference_mode():
                    return self.compiled(one.data, one.half_square, torch_u, scale)

            calls["PyTorch compiled"] = on_torch(compiled)
        if batch not in self.compiling:
            # What later noise levels find compiled is reported with them too.
            self.compiling[batch] = {
                "smoothjax dense": compile_seconds(smoothjax_call, self.exact, queries, level),
                "smoothjax certified": compile_seconds(certified, self.truncated, queries, level),
            }
        compiling = self.compiling[batch]
        # Apart from the others: what cannot compile here must not end the run.
        first = {}
        for name in list(calls):
            try:
                first[name] = first_call(calls[name])
                if name == "PyTorch compiled":
                    compiling.setdefault(name, first[name])
            except Exception as error:
                notes.append(f"{name} failed: {type(error).__name__}: {str(error)[:200]}")
                del calls[name]
        times = in_turn(calls, rounds, rng())
        exact = direct(self.data, u[:CHECKED], sigma)
        found = certified(self.truncated, queries, level)
        bounds = np.asarray(found.truncation + found.rounding, np.float64)[:CHECKED]
        allowed = {
            "smoothjax dense": stated_error(self.data, u[:CHECKED], sigma),
            "smoothjax certified": float(np.max(bounds)),
        }
        n, d = self.data.shape
        case = {"n": n, "d": d, "batch": batch, "noise": sigma, "flop": 4.0 * n * d * batch}
        for name, seconds in times.items():
            if "products" in name:
                yield row(name, seconds, **case, first_seconds=first[name])
                continue
            value = calls[name]()
            value = value.value if name == "smoothjax certified" else value
            value = value.cpu() if "PyTorch" in name else value
            more: Row = {}
            if name == "smoothjax certified":
                more = {
                    "visited": float(jnp.mean(found.visited)),
                    "by_all": float(jnp.mean(found.visited == n)),
                    "speed_quartiles": _quartiles(times["smoothjax dense"] / seconds),
                    "construction_seconds": self.truncated_built,
                }
            yield row(
                name,
                seconds,
                **case,
                first_seconds=first[name],
                compile_seconds=compiling.get(name),
                error=float(np.max(norm_errors(value, exact))),
                **more,
            ) | {"error_bound": allowed.get(name)}


def _quartiles(x: np.ndarray) -> list[float]:
    return [float(q) for q in np.percentile(x, [25, 50, 75])]


def dense_rows(
    data: np.ndarray,
    quick: bool,
    notes: list[str],
    bar: Any,
    levels: tuple[float, ...] = NOISE_LEVELS,
    rounds: int = 5,
) -> Iterator[Row]:
    """All contestants at batches of 1, 64 and 512, and noise levels from 0.01 to 80."""
    one = Dense(data)
    if torch is None:
        notes.append("PyTorch is not installed: no rows of it.")
    batches = (1, 64, 512)
    if quick:
        batches, levels, rounds = (1, 8), (0.1, 80.0), 2
    bar.reset(total=len(batches) * len(levels))
    for batch in batches:
        for sigma in levels:
            yield from one.rows(batch, sigma, rounds, notes)
            bar.update()


# ---------------------------------------------------------------------------------------- the search


def search_rows(data: np.ndarray, quick: bool, notes: list[str]) -> Iterator[Row]:
    """FAISS finds the nearest points only; the certified denoiser finds those that matter, and their mean."""
    if faiss is None:
        notes.append("FAISS is not installed: no search rows.")
        return
    n, d = data.shape
    batches, lists, probes, rounds = (
        ((8,), 8, (2,), 2) if quick else ((1, 64, 512), 1024, (8, 64), 5)
    )
    flat = faiss.IndexFlatL2(d)
    flat.add(data)
    start = time.perf_counter()
    inverted = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, lists)
    inverted.train(data)
    inverted.add(data)
    built = time.perf_counter() - start
    truncated = TruncatedDenoiser(data)
    k = min(16, n)
    for batch in batches:
        for sigma in (0.1, 0.5):
            u = noisy(data, batch, sigma, rng())
            queries, level = jnp.asarray(u), jnp.float32(sigma)

            def search(index: Any, probe: int | None = None, u: np.ndarray = u) -> np.ndarray:
                if probe is not None:
                    index.nprobe = probe
                return index.search(u, k)[1]

            calls: dict[str, Call] = {
                "smoothjax certified": lambda q=queries, s=level: jax.block_until_ready(
                    certified(truncated, q, s)
                ),
                "FAISS flat": lambda f=search: f(flat),
            }
            for probe in probes:
                calls[f"FAISS IVF, {probe} of {lists} lists"] = lambda f=search, p=probe: f(
                    inverted, p
                )
            nearest = np.asarray([_squares(data, query).argmin() for query in u[:CHECKED]])
            for name, seconds in in_turn(calls, rounds, rng()).items():
                more: Row = {"construction_seconds": built if "IVF" in name else None}
                if name.startswith("FAISS"):
                    missed = np.mean(calls[name]()[: len(nearest), 0] != nearest)
                    more |= {"error": float(missed), "error_of": "nearest points missed"}
                case = {"n": n, "d": d, "batch": batch, "noise": sigma, "neighbours": k}
                yield row(name, seconds, kind="search", **case, **more)


# ----------------------------------------------------------------------------------------- smoothing


def smoothed_rows(data: np.ndarray, quick: bool, notes: list[str], bar: Any) -> Iterator[Row]:
    """`GaussianSmoothedDenoiser` with 64 draws beside its definition, a mean of dense calls, in NumPy and PyTorch."""
    draws, smoothing = (4, 0.2) if quick else (64, 0.2)
    batches, levels, rounds = ((1, 2), (0.3,), 2) if quick else ((1, 8), (0.1, 0.5, 5.0), 5)
    denoiser = GaussianSmoothedDenoiser(data, smoothing, draws, jax.random.key(0))
    base: Any = denoiser.base
    points = np.asarray(base.data)
    n, d = points.shape
    shifts = np.float32(smoothing) * np.asarray(denoiser.perturbations)
    call = jax.jit(lambda D, u, sigma: jax.vmap(D, (0, None))(u, sigma))
    bar.reset(total=len(batches) * len(levels))
    for batch in batches:
        numpy_one = NumPy(points, batch * draws)
        torch_one = PyTorch(points, batch * draws, torch_device()) if torch is not None else None
        for sigma in levels:
            u = noisy(points, batch, sigma, rng())
            at = (u[:, None] + shifts).reshape(-1, d)
            queries, level = jnp.asarray(u), jnp.float32(sigma)
            calls: dict[str, Call] = {
                "smoothjax": lambda q=queries, s=level: call(denoiser, q, s).block_until_ready(),
                "NumPy": lambda one=numpy_one, at=at, s=sigma: (
                    one(at, s).reshape(-1, draws, d).mean(1)
                ),
            }
            if torch_one is not None:
                there = torch.from_numpy(at).to(torch_device())
                calls["PyTorch eager"] = on_torch(
                    lambda one=torch_one, at=there, s=sigma: (
                        one(at, s).reshape(-1, draws, d).mean(1).cpu()
                    )
                )
            seconds = compile_seconds(call, denoiser, queries, level)
            # The points that the definition averages over, in float64 and all of one query.
            checked = at[:draws].reshape(draws, d)
            exact = direct(points, checked, sigma).mean(0, keepdims=True)
            # Rounding the perturbed point moves it: at most by the law's spread over sigma squared times as far.
            eps = float(np.finfo(np.float32).eps)
            radius = 2 * float(np.max(np.linalg.norm(points - points.mean(0), axis=1)))
            moved = 2 * eps * float(np.max(np.linalg.norm(checked, axis=1)))
            bound = stated_error(points, checked, sigma) + radius * min(
                1.0, radius * moved / sigma**2
            )
            for name, times in in_turn(calls, rounds, rng()).items():
                error = float(np.max(norm_errors(calls[name](), exact)))
                yield row(
                    name,
                    times,
                    n=n,
                    d=d,
                    batch=batch,
                    noise=sigma,
                    draws=draws,
                    flop=4.0 * n * d * batch * draws,
                    compile_seconds=seconds if name == "smoothjax" else None,
                    error=error,
                ) | {"error_bound": bound if name == "smoothjax" else None}
            bar.update()
