"""Deterministic samplers with few calls of the denoiser on given work, beside public ones with as many calls."""

import argparse
import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from empirical_denoiser import environment
from machine import Row, device
from tqdm import tqdm

import smoothjax as sj

try:
    import diffusers
    import torch
except ImportError:
    diffusers = torch = None

PART = "w1s-calls"
CALLS = 8, 12, 18, 24
SIGMA_MAX, SIGMA_MIN = 80.0, 0.002
REFERENCE_LEVELS = 400
Denoise = Callable[[np.ndarray, float], np.ndarray]
"""Of states of shape (batch, d) at one noise level."""


def gaussian_of(images: np.ndarray) -> Denoise:
    """The Gaussian with the images' covariance, in its own axes, where a sampler does the same."""
    variances = np.clip(np.linalg.eigvalsh(np.cov(images.T, bias=True)), 0, None)
    return lambda u, s: variances / (variances + s**2) * u


def classes_of(images: np.ndarray, labels: np.ndarray) -> Denoise:
    """A Gaussian for every class, with its covariance and 1e-4."""
    kinds = np.unique(labels)
    means = np.array([images[labels == k].mean(0) for k in kinds])
    parts = [np.cov(images[labels == k].T, bias=True) for k in kinds]
    found = [np.linalg.eigh(part + 1e-4 * np.eye(len(part))) for part in parts]
    variances = np.array([np.maximum(values, 1e-4) for values, _ in found])
    axes = np.concatenate([vectors for _, vectors in found], axis=1)
    shift = np.einsum("kd,kde->ke", means, np.array([vectors for _, vectors in found]))
    weights = np.array([np.mean(labels == k) for k in kinds])

    def denoise(u: np.ndarray, s: float) -> np.ndarray:
        along = (u @ axes).reshape(len(u), len(kinds), -1) - shift
        noisy = variances + s**2
        logits = np.log(weights) - 0.5 * np.sum(np.log(noisy), -1)
        logits = logits - 0.5 * np.sum(along**2 / noisy, -1)
        mass = np.exp(logits - logits.max(1, keepdims=True))
        mass /= mass.sum(1, keepdims=True)
        pulled = along * (variances / noisy) * mass[..., None]
        return pulled.reshape(len(u), -1) @ axes.T + mass @ means

    return denoise


def ours(denoise: Denoise, z: np.ndarray, levels: np.ndarray, order: int) -> np.ndarray:
    """The library's, through its public function, with the denoiser on the host."""
    host = sj.interop.from_numpy(lambda x, t: denoise(x, float(t[0])), prediction="x0", dim=z.shape[1])  # fmt: skip
    solver = sj.ExponentialMultistep(order=order)
    ends = jnp.append(jnp.asarray(levels), 0.0)
    solve = lambda u: sj.flow(host, u, ends[0], 0.0, levels=np.asarray(ends), solver=solver)  # noqa: E731
    return np.asarray(jax.vmap(solve)(jnp.asarray(levels[0] * z)))


def by_diffusers(name: str, order: int, denoise: Denoise, z: np.ndarray, levels: np.ndarray) -> Any:
    """A scheduler of diffusers, on these levels in place of its own, told the denoised state."""
    assert diffusers is not None and torch is not None
    scheduler = getattr(diffusers, name)(
        solver_order=order,
        prediction_type="sample",
        thresholding=False,
        lower_order_final=False,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(len(levels))
    scheduler.sigmas = torch.from_numpy(np.append(levels, 0.0))
    scheduler.timesteps = torch.arange(len(levels))
    alpha = 1 / np.hypot(1, levels)
    x = torch.from_numpy(levels[0] * z * alpha[0])
    for k, t in enumerate(scheduler.timesteps):
        found = torch.from_numpy(denoise(x.numpy() / alpha[k], levels[k]))
        if k == len(levels) - 1:
            return found.numpy()  # the step to zero
        x = scheduler.step(found, t, x).prev_sample


def contestants() -> dict[str, Callable[[Denoise, np.ndarray, int], Any]]:
    karras = lambda n: np.asarray(sj.edm_grid(n, SIGMA_MAX, SIGMA_MIN, final_zero=False), float)  # noqa: E731
    constant = lambda n: np.geomspace(SIGMA_MAX, SIGMA_MIN, n)  # noqa: E731
    found = {
        f"smoothjax ExponentialMultistep, order {p}": lambda d, z, n, p=p: ours(
            d, z, constant(n), p
        )
        for p in (2, 3)
    }
    grids = {"EDM's grid": karras, "constant ratio": constant}
    for grid, levels in grids.items():
        if diffusers is not None:
            for label, name, order in (
                ("DPM-Solver++ 2M", "DPMSolverMultistepScheduler", 2),
                ("DPM-Solver++ 3M", "DPMSolverMultistepScheduler", 3),
                ("UniPC 2", "UniPCMultistepScheduler", 2),
                ("UniPC 3", "UniPCMultistepScheduler", 3),
            ):
                found[f"diffusers {label}, {grid}"] = (
                    lambda d, z, n, name=name, order=order, levels=levels: by_diffusers(name, order, d, z, levels(n))
                )  # fmt: skip
    return found


def few_calls_rows(
    images: np.ndarray, labels: np.ndarray, num: int, notes: list[str], bar: Any
) -> Iterator[Row]:
    """Relative rms of the ends, by work and sampler, at each number of calls; needs float64."""
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError("Errors down to 1e-5 need float64: set JAX_ENABLE_X64=1.")
    if diffusers is None:
        notes.append("diffusers is not installed: no rows of it.")
    images = np.asarray(images, float)
    z = np.random.default_rng(0).standard_normal((num, images.shape[1]))
    works = {"Gaussian": gaussian_of(images), "ten classes": classes_of(images, labels)}
    runs = contestants()
    bar.reset(total=len(works) * (1 + len(runs)))
    for work, denoise in works.items():
        reference = ours(denoise, z, np.geomspace(SIGMA_MAX, SIGMA_MIN, REFERENCE_LEVELS), 3)
        bar.update()
        for name, run in runs.items():
            errors = {}
            for calls in CALLS:
                off = run(denoise, z, calls) - reference
                errors[f"{calls}_calls"] = float(np.sqrt(np.sum(off**2) / np.sum(reference**2)))
                each = np.sqrt(np.sum(off**2, 1) / np.sum(reference**2, 1))
                errors[f"{calls}_calls,_median"] = float(np.median(each))
            yield {"work": work, "contestant": name, **errors}
            bar.update()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", help="idx file or folder, with labels; JAX_ENABLE_X64=1 in front")
    parser.add_argument("--noises", type=int, default=64)
    parser.add_argument("--results", type=Path, help="JSON of suite.py whose part is replaced")
    options = parser.parse_args()
    data, notes, rows = sj.datasets.load(options.images), [], []
    with tqdm() as bar:
        for one in few_calls_rows(data.points, np.asarray(data.labels), options.noises, notes, bar):
            rows.append(one)
            numbers = [f"{v:9.2g}" for v in one.values() if isinstance(v, float)]
            bar.write(f"{one['work']:12} {one['contestant']:45} " + " ".join(numbers))
    print("\n".join(notes))
    if options.results is not None:
        results = json.loads(options.results.read_text())
        part = {
            "part": PART,
            "title": "Few calls of the denoiser",
            "device": device(),
            "settings": {
                "quick": False,
                "images": Path(options.images).name,
                "noises": options.noises,
            },
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "load_average_before": None,
            "environment": environment(),
            "notes": notes,
            "rows": rows,
        }
        others = [one for one in results["parts"] if one["part"] != PART]
        options.results.write_text(json.dumps({"parts": [*others, part]}, indent=1))


if __name__ == "__main__":
    main()
