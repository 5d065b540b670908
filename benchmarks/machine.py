"""What the machine can do: its matrix products, its copies, its disk. And what all workloads of the suite share.

A workload returns rows: flat dicts with the keys of `row`. Seconds are wall time; `error` is in Euclidean norm and data
units unless the row's `error_of` says otherwise, and `error_bound` is what the error must not exceed, derived, or None.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from empirical_denoiser import Call, NumPy, PyTorch, in_turn, jax_products, summary, torch

Row = dict[str, Any]
HERE = Path(__file__).parent
GIB = 2**30


def processor() -> str:
    """The name of the processor, as far as the system knows it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device() -> str:
    """The name of the device that JAX computes on."""
    first = jax.devices()[0]
    return processor() if first.platform == "cpu" else first.device_kind


def torch_device() -> str:
    """PyTorch's own name of the best device it has."""
    return "cuda" if torch is not None and torch.cuda.is_available() else "cpu"


def device_of(contestant: str) -> str:
    """The name of the device that a contestant computes on, by the first word of its name."""
    word = contestant.split()[0]
    if word in ("NumPy", "SciPy", "FAISS"):
        return processor()
    if word == "PyTorch":
        return torch.cuda.get_device_name() if torch_device() == "cuda" else processor()
    return device()


def on_torch(call: Callable[[], Any]) -> Call:
    """The call, done when it returns."""
    if torch_device() == "cpu":
        return call

    def synchronised() -> Any:
        value = call()
        torch.cuda.synchronize()
        return value

    return synchronised


def row(contestant: str, seconds: Any, **more: Any) -> Row:
    """A row of the results: who, on what, how long (median and quartiles of the rounds), and more."""
    seconds = np.atleast_1d(np.asarray(seconds, float))
    found = summary(seconds)
    return {
        "contestant": contestant,
        "device": device_of(contestant),
        "seconds": float(found["median"]),
        "seconds_quartiles": [float(x) for x in found["quartiles"]],
        "rounds": len(seconds),
        "first_seconds": None,
        "compile_seconds": None,
        "error": None,
        "error_bound": None,
        **more,
    }


def peak_bytes() -> int:
    """The most memory this process has had."""
    try:
        # Of this program. What getrusage says counts the parent's memory from before this program was started.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024  # bytes on macOS, else KiB


def in_process(function: str, variables: dict[str, str] | None = None, **arguments: Any) -> Any:
    """The result of `module.function(**arguments)` of this folder, computed in a process of its own."""
    module, _, name = function.rpartition(".")
    code = (
        f"import json, sys; sys.path.insert(0, {str(HERE)!r}); import {module}; "
        f"json.dump({module}.{name}(**json.loads(sys.argv[1])), open(sys.argv[2], 'w'))"
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, "-c", code, json.dumps(arguments), str(out)]
        done = subprocess.run(command, env=os.environ | (variables or {}), capture_output=True)
        if done.returncode:
            raise RuntimeError(f"{function} failed in its process:\n{done.stderr.decode()[-2000:]}")
        return json.loads(out.read_text())


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# ------------------------------------------------------------------------------------------ roofline


def products(shapes: list[tuple[int, int, int]], rounds: int) -> Iterator[Row]:
    """The two products of the empirical denoiser, (batch, d) x (d, n) and (batch, n) x (n, d), bare."""
    for n, d, batch in shapes:
        data, u = (rng().standard_normal((k, d), np.float32) for k in (n, batch))
        numpy_one, device_data, device_u = NumPy(data, batch), jnp.asarray(data), jnp.asarray(u)
        calls: dict[str, Call] = {
            "XLA": lambda x=device_data, u=device_u: jax_products(x, u).block_until_ready(),
            "NumPy": lambda one=numpy_one, u=u: one.products(u),
        }
        if torch is not None:
            one = PyTorch(data, batch, torch_device())
            torch_u = torch.from_numpy(u).to(torch_device())
            calls["PyTorch"] = on_torch(lambda one=one, u=torch_u: one.products(u))
        flop = 4.0 * n * d * batch
        for name, seconds in in_turn(calls, rounds, rng()).items():
            case = {"n": n, "d": d, "batch": batch, "flop": flop}
            gigaflops = flop / float(np.median(seconds)) / 1e9
            yield row(name, seconds, kind="products", gigaflops=gigaflops, **case)


def copies(mebibytes: int, rounds: int) -> Iterator[Row]:
    """Copies of an array that no cache holds; a rate counts what is read and what is written."""
    x = rng().standard_normal(mebibytes * 2**18, np.float32)
    target, device_x = np.empty_like(x), jnp.asarray(x)
    copy = jax.jit(lambda x: x + 1)
    calls: dict[str, Call] = {
        "XLA": lambda: copy(device_x).block_until_ready(),
        "NumPy": lambda: np.copyto(target, x),
    }
    for name, seconds in in_turn(calls, rounds, rng()).items():
        rate = 2 * x.nbytes / float(np.median(seconds)) / 1e9
        yield row(name, seconds, kind="copy", bytes=2 * x.nbytes, gigabytes_per_second=rate)


def write_file(path: Path, gibibytes: float, d: int) -> int:
    """A .npy file of standard normal rows of dimension d, the same 64 MiB again and again; returns their number."""
    block = rng().standard_normal((max(1, 2**26 // (4 * d)), d), np.float32)
    n = max(len(block), int(gibibytes * GIB) // (4 * d))
    header = {"descr": "<f4", "fortran_order": False, "shape": (n, d)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n, len(block)):
            file.write(block[: n - start].tobytes())
        file.flush()
        os.fsync(file.fileno())
    return n


def forget(path: Path) -> None:
    """Asks the system to drop the file from its cache, where it can be asked."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(path: Path) -> None:
    """Reads a file from its beginning to its end, 16 MiB at a time into the same memory."""
    buffer = memoryview(bytearray(2**24))
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def disk(gibibytes: float, rounds: int) -> Iterator[Row]:
    """Reading a file in order, after the system was asked to forget it and again, when it may be in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        write_file(path, gibibytes, 784)
        size = path.stat().st_size
        seconds: dict[str, list[float]] = {"disk": [], "disk, cached": []}
        for _ in range(rounds):
            forget(path)
            for times in seconds.values():
                start = time.perf_counter()
                read_through(path)
                times.append(time.perf_counter() - start)
        for name, times in seconds.items():
            rate = size / float(np.median(times)) / 1e9
            more = {"bytes": size, "gigabytes_per_second": rate, "device": "disk"}
            yield row(name, times, kind="read", **more)


def roofline(quick: bool) -> Iterator[Row]:
    """The rates that bound the workloads."""
    if quick:
        shapes = [(n, d, b) for n, d in ((300, 36), (200, 75)) for b in (1, 8)]
        mebibytes, gibibytes, rounds = 8, 0.02, 3
    else:
        shapes = [(n, d, b) for n, d in ((60_000, 784), (50_000, 3072)) for b in (1, 64, 512)]
        mebibytes, gibibytes, rounds = 512, 1.0, 7
    yield from products(shapes, rounds)
    yield from copies(mebibytes, rounds)
    yield from disk(gibibytes, 3)
