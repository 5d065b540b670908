"""Points on a circle: where a network that learned their score puts what is new, and where the exact score does."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..._checks import import_optional
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._kinds import checks_kinds
from ...datasets import polygon
from ...denoisers import EmpiricalDenoiser
from ...measures import wilson_interval
from .._ensembles import member, noisy_points, states_at, train_ensemble
from .._registry import experiment, settings_of
from .._sweep import by_cell, cells_of, sweep
from .figures import plot_circle

if TYPE_CHECKING:
    import xarray

# In units of the circle's radius.
NEAR_VERTEX, NEAR_SET = 0.1, 0.05
KINDS = ("vertex", "edge", "circle", "off")
KEPT_SAMPLES = 1000


class Distances(NamedTuple):
    """Distances in the plane of the polygon."""

    vertex: Float[np.ndarray, " samples"]
    """From the nearest training point."""
    edge: Float[np.ndarray, " samples"]
    """From the nearest edge between neighbouring training points."""
    circle: Float[np.ndarray, " samples"]
    """From the circle through all of them."""


@experiment(
    "circle",
    "networks trained on points of a circle, in the plane and in R^20: where the new samples lie",
    plot_circle,
)
@checks_kinds
def circle(
    *,
    num_points: tuple[int, ...] = (6, 8),
    dims: tuple[int, ...] = (2, 20),
    num_steps: tuple[int, ...] = (1000, 3000, 9000),
    num_seeds: int = 3,
    width: int = 128,
    num_layers: int = 3,
    batch_size: int = 1024,
    num_samples: int = 2000,
    variances: tuple[float, float] = (1e-4, 0.06),
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Regular polygons in a plane of R^d: samples of networks trained without weight penalty, by where they lie.

    Noise-conditioned ReLU networks predict the posterior mean from denoising targets with fresh noise. All seeds are trained
    in one compiled call. Samples start at noisy training points of the largest noise level, that is exactly, and follow the
    probability flow. In the plane of the polygon, a sample within 0.1 of a vertex counts as `vertex`; any other as `edge`
    or as `circle`, whichever is nearer, if that is within 0.05; the rest as `off`. The exact score is the control.

    Args:
        num_points: vertices.
        dims: dimensions d of the space; the plane in it is drawn at random.
        num_steps: gradient steps. What is new becomes rarer with more of them.
        num_seeds, width, num_layers, batch_size: of the networks.
        num_samples: of each network.
        variances: smallest and largest `sigma^2` of training; sampling starts at the largest and ends at the smallest.
        seed: of planes, weights, training and samples.
        out: folder in which each finished training is kept.
        progress: show a progress bar.

    Returns:
        `count` (dim, num_points, num_steps, seed, kind), where `num_steps = 0` is the exact score; `fraction` and its 95 %
        Wilson `interval` (the samples' own; seeds differ by more), over all seeds; `among_new`, the same among samples
        that are not at a vertex, with `among_new_interval`; `normal_variance`, a direction normal to the plane, over the
        last `sigma^2`; `samples`, in the plane, of the first seed.

    Source: Chen, ICLR 2026, section 6 (points on a circle).
    """
    xarray = import_optional("xarray")
    configuration = settings_of("circle", locals())
    store = ResultStore(out, configuration)
    low, high = (float(variance) ** 0.5 for variance in variances)

    def run(d: int, n: int, steps: int) -> Arrays:
        key = jax.random.fold_in(jax.random.fold_in(key_of(seed), d), n)
        frame_key, fit_key, start_key = jax.random.split(key, 3)
        vertices = polygon(n).points
        frame = jnp.linalg.qr(jax.random.normal(frame_key, (d, 2), vertices.dtype))[0]
        data = vertices @ frame.T
        denoisers: list[Any] = [EmpiricalDenoiser(data)] * num_seeds
        if steps:
            ensemble = train_ensemble(
                data,
                fit_key,
                num_seeds=num_seeds,
                num_steps=steps,
                sigma_min=low,
                sigma_max=high,
                width=width,
                num_layers=num_layers,
                batch_size=batch_size,
                prediction="x0",
            ).model
            denoisers = [member(ensemble, i) for i in range(num_seeds)]
        levels = jnp.asarray([high, low], data.dtype)
        counts, normal, in_plane = [], [], []
        for i, denoiser in enumerate(denoisers):
            starts = noisy_points(data, high, jax.random.fold_in(start_key, i), num_samples)
            end = states_at(denoiser, starts, levels)[-1]
            in_plane.append(end @ frame)
            counts.append(count_kinds(distances(np.asarray(in_plane[-1]), np.asarray(vertices))))
            outside = jnp.sum((end - in_plane[-1] @ frame.T) ** 2, axis=1)
            normal.append(jnp.mean(outside) / (d - 2) / low**2 if d > 2 else np.nan)
        return {
            "count": np.stack(counts),
            "normal_variance": np.stack(normal),
            "samples": in_plane[0][:KEPT_SAMPLES],
        }

    steps_and_control = (0, *num_steps)
    settings = (dims, num_points, steps_and_control)
    cells = cells_of(run, settings, "dim-{}-points-{}-steps-{}", "{1} points in R^{0}, {2} steps")
    parts = sweep(store, cells, progress)
    dims_of = ("dim", "num_points", "num_steps")
    arrays = {name: by_cell(parts, name, *map(len, settings)) for name in parts[0]}
    total = arrays["count"].sum(axis=3)
    new = np.where(np.asarray(KINDS) == "vertex", 0, total)
    results = {
        "count": ((*dims_of, "seed", "kind"), arrays["count"]),
        "normal_variance": ((*dims_of, "seed"), arrays["normal_variance"]),
        "samples": ((*dims_of, "sample", "coordinate"), arrays["samples"]),
    }
    for name, counts in (("fraction", total), ("among_new", new)):
        share, interval = shares(counts)
        results[name] = ((*dims_of, "kind"), share)
        results[f"{name}_interval"] = ((*dims_of, "kind", "end"), interval)
    return xarray.Dataset(
        results,
        coords={
            "dim": list(dims),
            "num_points": list(num_points),
            "num_steps": list(steps_and_control),
            "kind": list(KINDS),
            "end": ["lower", "upper"],
        },
        attrs=configuration,
    )


def shares(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each kind, along the last axis, with their 95 % Wilson intervals; NaN where there is nothing to divide by."""
    trials = counts.sum(axis=-1, keepdims=True)
    some = np.maximum(trials, 1)
    interval = np.asarray(wilson_interval(counts.astype(float), some.astype(float)))
    return (
        np.where(trials > 0, counts / some, np.nan),
        np.where(trials[..., None] > 0, interval, np.nan),
    )


def distances(
    samples: Float[np.ndarray, "samples 2"], vertices: Float[np.ndarray, "n 2"]
) -> Distances:
    """Distances of points in a plane from a polygon of radius one around the origin."""
    from_vertex = samples[:, None] - vertices
    edge = np.roll(vertices, -1, axis=0) - vertices
    along = np.clip(np.sum(from_vertex * edge, -1) / np.sum(edge**2, -1), 0, 1)
    from_edge = from_vertex - along[..., None] * edge
    return Distances(
        np.min(np.linalg.norm(from_vertex, axis=-1), axis=1),
        np.min(np.linalg.norm(from_edge, axis=-1), axis=1),
        np.abs(np.linalg.norm(samples, axis=-1) - 1),
    )


def count_kinds(found: Distances) -> np.ndarray:
    """How many samples lie at a vertex, on an edge, on the circle, and off all of them."""
    nearest = np.where(found.edge <= found.circle, 1, 2)
    kind = np.where(np.minimum(found.edge, found.circle) < NEAR_SET, nearest, 3)
    kind = np.where(found.vertex < NEAR_VERTEX, 0, kind)
    return np.bincount(kind, minlength=len(KINDS))
