"""Is this installation sound, and what does it run on: versions, devices, precision, a check of numbers and one of speed."""

import importlib.util
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._jax.compiler import FAULTY_RELEASES
from ._jax.precision import HIGHEST
from ._kinds import checks_kinds
from .denoisers import EmpiricalDenoiser, GaussianDenoiser
from .flows import flow

Verdict = Literal["good", "note", "bad"]

PACKAGES = ("jax", "jaxlib", "equinox", "diffrax", "lineax", "optax", "jaxtyping", "numpy")
# What is there for some tasks only: a module, and what needs it.
OPTIONAL = {
    "matplotlib": "figures (extra `plot`)",
    "xarray": "comparisons, explanations and experiments (extra `experiments`)",
    "sklearn": "mixtures found by k-means and the digits (extra `experiments`)",
    "torch": "networks of PyTorch (extra `torch`)",
}


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        topic: what it is about: versions, devices, precision, numbers, speed, cache.
        text: what was found.
        verdict: "good", "note" (worth knowing), "bad" (numbers are wrong, or a device stands idle).
        advice: what to do about it; empty where there is nothing.
    """

    topic: str
    text: str
    verdict: Verdict = "good"
    advice: str = ""


class Diagnosis(NamedTuple):
    """What `doctor` found; `print` shows it.

    Attributes:
        findings: in the order in which they were looked at.

    Example:
        >>> import smoothjax as sj
        >>> diagnosis = sj.doctor(speed=False)
        >>> diagnosis.is_sound, [finding for finding in diagnosis.findings if finding.verdict == "bad"]
        (True, [])
    """

    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is bad."""
        return all(finding.verdict != "bad" for finding in self.findings)

    def __str__(self) -> str:
        marks = {"good": " ", "note": "?", "bad": "!"}
        lines, before = [], ""
        for topic, text, verdict, advice in self.findings:
            lines.append(f"{marks[verdict]} {'' if topic == before else topic:<10} {text}")
            if advice:
                lines.append(f"{'':<13}-> {advice}")
            before = topic
        bad = sum(finding.verdict == "bad" for finding in self.findings)
        lines.append("Nothing is wrong." if not bad else f"Wrong: {bad}, marked with `!`.")
        return "\n".join(lines)


@checks_kinds
def doctor(*, speed: bool = True) -> Diagnosis:
    """Looks at an installation: versions, devices, precision, numbers beside stored ones, and speed beside plain products.

    For a first look on a new machine, and for reports of faults; `smoothjax doctor` prints it. About ten seconds, most of
    them to compile. Nothing is downloaded, written or configured.

    - *versions*: of the packages, beside those that this release asks for; releases of jaxlib that miscompile.
    - *devices*: what JAX computes on, and whether there is a GPU that it does not see.
    - *precision*: JAX's default dtype, and to how many bits the device rounds products whose precision nobody states.
    - *numbers*: a posterior mean, a log density, a flow of a Gaussian and the program that some releases miscompile, beside
      numbers that are stored here or known in closed form. Bad where one is off by more than its rounding.
    - *speed*: a batch of 64 queries of 10,000 points in 784 dimensions, beside the two plain matrix products of that size in
      the same dtype on the same device, which it cannot be quicker than.

    Args:
        speed: also time; without it, some seconds less.

    Example:
        >>> import smoothjax as sj
        >>> diagnosis = sj.doctor(speed=False)
        >>> [finding.text for finding in diagnosis.findings if finding.topic == "numbers" and finding.verdict == "bad"]
        []
    """
    parts = [_versions, _devices, _precision, _numbers, *([_speed] if speed else []), _cache]
    return Diagnosis(tuple(finding for part in parts for finding in part()))


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _versions() -> Iterator[Finding]:
    found = {name: _version_of(name) for name in ("smoothjax", *PACKAGES)}
    text = ", ".join(f"{name} {number or 'not installed'}" for name, number in found.items())
    yield Finding("versions", f"Python {platform.python_version()}, {text}")
    for line in _unmet(found):
        yield Finding(
            "versions", line, "bad", "Install what is asked for: pip install -U smoothjax."
        )
    release = found["jaxlib"] or ""
    if release in FAULTY_RELEASES:
        text = f"jaxlib {release} miscompiles on the CPU: {FAULTY_RELEASES[release]}"
        yield Finding("versions", text, "bad", "pip install 'jax!=0.10.2,!=0.11.0'")
    missing = [f"{name}, for {use}" for name, use in OPTIONAL.items() if not _has(name)]
    if missing:
        yield Finding("versions", f"not installed: {'; '.join(missing)}")


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _unmet(found: dict[str, str | None]) -> Iterator[str]:
    """The requirements of this release that what is installed does not meet; none where they cannot be read."""
    if found["smoothjax"] is None or not _has("packaging"):
        return
    from packaging.requirements import Requirement

    for line in requires("smoothjax") or []:
        need = Requirement(line)
        if need.marker is not None or need.name not in found:
            continue
        number = found[need.name]
        if number is None or not need.specifier.contains(number, prereleases=True):
            yield f"{need.name} {number or 'is missing'}, where smoothjax asks for {need.specifier}"


def _devices() -> Iterator[Finding]:
    devices = jax.devices()
    for device in devices:
        limit = (
            (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
        )
        memory = f", {limit / 2**30:.1f} GiB for JAX" if limit else ""
        yield Finding("devices", f"{device.platform} {device.id}: {device.device_kind}{memory}")
    cores = _cores()
    if devices[0].platform == "cpu":
        yield Finding("devices", f"{cores} processor cores")
        if _sees_nvidia():
            wanted = os.environ.get("JAX_PLATFORMS")
            advice = (
                f"Unset JAX_PLATFORMS, which is {wanted!r}."
                if wanted
                else "pip install 'jax[cuda13]', or 'jax[cuda12]' for drivers before 580; see `nvidia-smi` for the driver."
            )
            yield Finding(
                "devices", "there is an NVIDIA GPU, and JAX does not use it", "bad", advice
            )
    elif _has("torch"):
        share = os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "true").lower() not in (
            "false",
            "0",
        )
        if share:
            yield Finding(
                "devices",
                "JAX takes three quarters of the GPU's memory at its first use, and PyTorch is installed too",
                "note",
                "Where both use one GPU: XLA_PYTHON_CLIENT_PREALLOCATE=false, or XLA_PYTHON_CLIENT_MEM_FRACTION=.4.",
            )
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 1.5 * cores:
        text = f"other work: a load of {os.getloadavg()[0]:.1f} on {cores} cores"
        advice = "Times mean little now. Where processes share cores, OPENBLAS_NUM_THREADS=1 keeps NumPy's from waiting."
        yield Finding("devices", text, "note", advice)


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _sees_nvidia() -> bool:
    return Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists()


def _precision() -> Iterator[Finding]:
    dtype = jnp.result_type(float)
    yield Finding(
        "precision",
        f"default dtype {dtype}"
        + (
            ""
            if dtype == jnp.float64
            else "; jax.config.update('jax_enable_x64', True) for float64"
        ),
    )
    bits = _bits_of_products()
    if bits < 16:  # TF32 keeps 11, bfloat16 8, and sums of 128 terms lose some
        yield Finding(
            "precision",
            f"float32 products whose precision nobody states keep {bits} bits on this device",
            "note",
            "smoothjax states it in its own. For networks: jax.config.update('jax_default_matmul_precision', 'highest').",
        )
    else:
        yield Finding("precision", f"float32 products keep {bits} bits")


def _bits_of_products() -> int:
    """Of the numbers of a product in float32, as rounded by the device on its own."""
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(1, 2, (128, 128)).astype(np.float32) for _ in range(2))
    found = np.asarray(jnp.asarray(a) @ jnp.asarray(b), np.float64)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    return round(-math.log2(max(float(np.max(np.abs(found / exact - 1))), 2.0**-24)))


# Stored: the posterior mean's first coordinates and log density of the points below at `_LEVEL`, in 30 digits by mpmath.
_LEVEL = 1.25
_MEAN = (1.3802041751562542, -1.5094680112735961, 0.47122323929802479, 0.17970876855489394)
_LOG_DENSITY = -23.695154071177181


def _lattice() -> tuple[np.ndarray, np.ndarray]:
    """512 points in 16 dimensions and a query, of sixteenths: the same numbers in every dtype."""
    i, j = np.arange(512)[:, None], np.arange(16)[None]
    points = ((37 * i + 11 * j * j + i * i // 7 * (j + 3)) % 61 - 30) / 16
    return points, points[3] + ((5 * np.arange(16)) % 7 - 3) / 8


def _numbers() -> Iterator[Finding]:
    dtype = jnp.result_type(float)
    eps = float(jnp.finfo(dtype).eps)
    points, query = (jnp.asarray(x, dtype) for x in _lattice())
    denoiser = EmpiricalDenoiser(points)
    mean = jax.jit(denoiser)(query, _LEVEL)
    yield _compared("a posterior mean", mean[:4], _MEAN, 500 * eps)
    log_density = jax.jit(denoiser.log_density)(query, _LEVEL)
    yield _compared("a log density", log_density, _LOG_DENSITY, 500 * eps)
    # A coordinate of variance l moves by sqrt((l + a^2) / (l + b^2)) from noise level b to a.
    variances = jnp.asarray([0.25, 1.0, 4.0], dtype)
    gaussian = GaussianDenoiser(jnp.zeros(3, dtype), jnp.diag(variances))
    end = flow(gaussian, jnp.ones(3, dtype), 10.0, 0.1, rtol=1e-5, atol=1e-5)
    exact = np.sqrt((np.array([0.25, 1.0, 4.0]) + 0.01) / (np.array([0.25, 1.0, 4.0]) + 100))
    yield _compared("a flow of a Gaussian", end, exact, 1e-3)
    matrix = jnp.asarray((np.arange(6 * 5).reshape(6, 5) % 7) - 3, dtype)
    vectors = jnp.asarray((np.arange(40 * 5).reshape(40, 5) % 11) - 5, dtype)
    squares = jax.jit(jax.vmap(lambda v: jnp.sum((matrix @ v) ** 2)))(vectors)
    exact = np.sum((np.asarray(matrix) @ np.asarray(vectors).T) ** 2, axis=0)
    yield _compared("mapped products, squared and summed", squares, exact, 0.0)


def _compared(what: str, found: Any, stored: Any, tolerance: float) -> Finding:
    found, stored = np.asarray(found, np.float64), np.asarray(stored, np.float64)
    error = float(np.max(np.abs(found - stored)) / np.max(np.abs(stored)))
    text = f"{what}: off by {error:.1e} of its size, where rounding allows {tolerance:.1e}"
    if error <= tolerance:
        return Finding("numbers", text)
    return Finding(
        "numbers", text, "bad", "Numbers are wrong here: install another release of jax and jaxlib."
    )


def _speed() -> Iterator[Finding]:
    n, d, batch = 10_000, 784, 64
    rng = np.random.default_rng(0)
    points = jnp.asarray(rng.standard_normal((n, d)), jnp.float32)
    queries = points[:batch] + jnp.float32(0.5)
    denoiser = EmpiricalDenoiser(points)
    run = jax.jit(jax.vmap(denoiser, (0, None)))
    products = jax.jit(
        lambda q: jnp.matmul(jnp.matmul(q, points.T, precision=HIGHEST), points, precision=HIGHEST)
    )
    start = time.perf_counter()
    jax.block_until_ready(run(queries, 0.5))
    first = time.perf_counter() - start
    jax.block_until_ready(products(queries))
    ours, plain = _least_times(lambda: run(queries, 0.5), lambda: products(queries))
    rate = 4 * n * d * batch / plain / 1e9
    yield Finding("speed", f"matrix products: {rate:.3g} billion operations a second")
    text = f"64 posterior means of 10,000 points in 784 dimensions: {1e3 * ours:.3g} ms, {ours / plain:.2g} times these"
    if ours < 4 * plain:
        yield Finding("speed", text)
    else:
        yield Finding(
            "speed",
            text,
            "note",
            "More than is usual. Is other work on this device? Run it again alone.",
        )
    yield Finding("speed", f"its first call, with compilation: {first:.2g} s")


def _least_times(*runs: Callable[[], Any]) -> list[float]:
    """The least seconds of each, in turn, over a second or so."""
    least, end = [math.inf] * len(runs), time.perf_counter() + 1.5
    while time.perf_counter() < end:
        for i, run in enumerate(runs):
            start = time.perf_counter()
            jax.block_until_ready(run())
            least[i] = min(least[i], time.perf_counter() - start)
    return least


def _cache() -> Iterator[Finding]:
    folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if folder:
        yield Finding("cache", f"compiled programs are kept in {folder}")
    else:
        yield Finding(
            "cache",
            "compiled programs are not kept for later processes",
            "note",
            "smoothjax.enable_compilation_cache() keeps them; the command line does.",
        )
