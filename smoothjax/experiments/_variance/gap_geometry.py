"""Four points in the plane: which gaps linear models fill, edges or diagonals, depends on their features."""

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._checks import import_optional
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._kinds import checks_kinds
from ...datasets import polygon
from ...denoisers import EmpiricalDenoiser
from ...processes import VariancePreserving
from ...variance import (
    DenoisingProblem,
    FourierSeries,
    GaussianBumps,
    LinearProblem,
    ProductFeatures,
    RetrainedLaw,
    UniformTimes,
)
from .._registry import experiment, settings_of
from .._sweep import by_cell, sweep
from .figures import plot_gap_geometry
from .samplers import (
    SAMPLERS,
    converged_samples,
    converged_samples_of_models,
    paper_process,
    published_samples,
    published_samples_of_models,
)

if TYPE_CHECKING:
    import xarray

CUTOFF, RIDGE, EXTENT = 0.01, 0.1, 1.5
BAND, FAR, NEAR, CENTRE = 0.1, 0.3, 0.15, 0.3
BIN_EDGES = np.linspace(-EXTENT, EXTENT, 101)


@experiment(
    "gap-geometry",
    "which gaps between four points linear models fill, by their features and the points' rotation",
    plot_gap_geometry,
)
@checks_kinds
def gap_geometry(
    *,
    features: tuple[str, ...] = ("bumps", "fourier"),
    rotations: tuple[float, ...] = (0.0, math.pi / 8, math.pi / 4),
    num_train: int = 500,
    num_features: int = 10,
    num_models: int = 100,
    num_samples: int = 100_000,
    num_starts: int = 2000,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Linear models trained anew on four points of the unit circle: where in the plane their samples lie.

    Features are products of `num_features` Gaussian bumps, or of a Fourier series, in each of x, y and t. As in
    `gap_filling`, every model is sampled as the published figure was (200 x 200 nodes, 30 Euler steps) and converged.

    Args:
        features: `"bumps"` or `"fourier"`.
        rotations: angles of the first point, in radians.
        num_train: triples P.
        num_features: along each axis; even.
        num_models: trained models a condition.
        num_samples: of each model by the published steps.
        num_starts: of each model's converged flow, common to all models.
        seed: of training sets and starts.
        out: folder in which each finished condition is kept.
        progress: show a progress bar.

    Returns:
        Over (sampler, features, rotation): `mass` (model, region) of `edges` and `diagonals`, bands of half width 0.1; of
        `edge gaps` and `diagonal gaps`, what of these is farther than 0.3 from every point (and from the centre, for the
        diagonals); `centre`, r < 0.3; `near`, within 0.15 of a point; `outside` the square of half width 1.5. `density`
        (y, x), averaged over models. `exact_mass`: with the exact score.

    Raises:
        ValueError: for unknown features or an odd number of them.

    Source: Vastola, ICLR 2025, Figure 3 (whose maps are normalised slice by slice in y; these are densities).
    """
    xarray = import_optional("xarray")
    if unknown := set(features) - {"bumps", "fourier"}:
        raise ValueError(f"`features` must be 'bumps' or 'fourier'; got {sorted(unknown)}.")
    if num_features % 2 or num_features < 4:
        raise ValueError(f"`num_features` must be even and at least 4; got {num_features}.")
    configuration = settings_of("gap-geometry", locals())
    store = ResultStore(out, configuration)
    process = paper_process()
    train, draw, start = jax.random.split(key_of(seed), 3)
    noise = jax.random.normal(start, (num_starts, 2))

    def summary(points: np.ndarray, published: Any, converged: Any) -> Arrays:
        samples = {"published": np.asarray(published), "converged": np.asarray(converged)}
        masses = [_masses(points, samples[name]) for name in SAMPLERS]
        return {
            "mass": np.stack(masses),
            "density": np.stack([_density(samples[name].reshape(-1, 2)) for name in SAMPLERS]),
        }

    def exact(points: np.ndarray) -> Arrays:
        denoiser = EmpiricalDenoiser(points)
        starts = process.sigma(1.0) * jax.random.normal(draw, (num_samples, 2))
        published = published_samples(denoiser, process, starts, CUTOFF)
        converged = converged_samples(denoiser, process, noise, CUTOFF)
        return summary(points, published[None], converged[None])

    def run(kind: str, points: np.ndarray) -> Arrays:
        times = UniformTimes(process, CUTOFF, 1.0)
        map_ = _feature_map(kind, num_features, process)
        law = RetrainedLaw(
            LinearProblem(DenoisingProblem(points, times), map_, ridge=RIDGE), num_train
        )
        published = published_samples_of_models(
            law, process, train, draw, jnp.asarray(CUTOFF), 2, num_models, num_samples
        )
        converged = converged_samples_of_models(law, process, train, noise, CUTOFF, num_models)
        return summary(points, published, converged)

    sets = [np.asarray(polygon(4, rotation=angle).points) for angle in rotations]
    exacts = [
        store.get(f"exact-{i}", lambda points=points: exact(points))
        for i, points in enumerate(sets)
    ]
    cells = [
        (f"{kind}-{i}", f"{kind}, rotated by {angle:.3g}", functools.partial(run, kind, sets[i]))
        for kind in features
        for i, angle in enumerate(rotations)
    ]
    parts = sweep(store, cells, progress)

    def table(name: str) -> np.ndarray:
        return np.moveaxis(by_cell(parts, name, len(features), len(rotations)), 2, 0)

    dims = ("sampler", "features", "rotation")
    centres = 0.5 * (BIN_EDGES[:-1] + BIN_EDGES[1:])
    return xarray.Dataset(
        {
            "mass": ((*dims, "model", "region"), table("mass")),
            "density": ((*dims, "y", "x"), table("density")),
            "exact_mass": (
                ("sampler", "rotation", "region"),
                np.stack([part["mass"][:, 0] for part in exacts], axis=1),
            ),
            "points": (("rotation", "point", "axis"), np.stack(sets)),
        },
        coords={
            "sampler": list(SAMPLERS),
            "features": list(features),
            "rotation": list(rotations),
            "region": list(REGIONS),
            "axis": ["x", "y"],
            "x": centres,
            "y": centres,
        },
        attrs=configuration,
    )


def _feature_map(kind: str, num: int, process: VariancePreserving) -> ProductFeatures:
    if kind == "bumps":
        space = GaussianBumps.evenly(-EXTENT, EXTENT, num)
        return ProductFeatures([space] * 2, GaussianBumps.evenly(CUTOFF, 1.0, num), process)
    # One constant, as many cosines as make up half, one sine less.
    pair = (num // 2, num // 2 - 1)
    space = FourierSeries(2 * EXTENT, *pair)
    return ProductFeatures([space] * 2, FourierSeries(1.0 - CUTOFF, *pair), process)


def _distance_to_segment(x: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    along = end - start
    share = np.clip((x - start) @ along / (along @ along), 0, 1)
    return np.linalg.norm(x - start - share[..., None] * along, axis=-1)


class _Distances:
    """Of samples (..., 2) from the points, the edges between neighbours, the diagonals and the centre."""

    def __init__(self, points: np.ndarray, x: np.ndarray):
        self.x = x
        self.point = np.min([np.linalg.norm(x - p, axis=-1) for p in points], axis=0)
        pairs = [(points[i], points[(i + 1) % 4]) for i in range(4)]
        self.edge = np.min([_distance_to_segment(x, *pair) for pair in pairs], axis=0)
        pairs = [(points[0], points[2]), (points[1], points[3])]
        self.diagonal = np.min([_distance_to_segment(x, *pair) for pair in pairs], axis=0)
        self.centre = np.linalg.norm(x, axis=-1)


REGIONS: dict[str, Callable[[_Distances], np.ndarray]] = {
    "edges": lambda far: far.edge < BAND,
    "diagonals": lambda far: far.diagonal < BAND,
    "edge gaps": lambda far: (far.edge < BAND) & (far.point > FAR),
    "diagonal gaps": lambda far: (far.diagonal < BAND) & (far.point > FAR) & (far.centre > CENTRE),
    "centre": lambda far: far.centre < CENTRE,
    "near": lambda far: far.point < NEAR,
    "outside": lambda far: np.any(np.abs(far.x) > EXTENT, axis=-1),
}


def _masses(points: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Of samples (models, num, 2): (models, regions)."""
    # A model at a time: the distances of all of them would take gigabytes.
    far = (_Distances(points, one) for one in samples)
    return np.stack([[np.mean(inside(one)) for inside in REGIONS.values()] for one in far])


def _density(samples: np.ndarray) -> np.ndarray:
    """(y, x), a unit area; what lies outside the bins counts as samples."""
    counts = np.histogram2d(samples[:, 1], samples[:, 0], [BIN_EDGES, BIN_EDGES])[0]
    return (counts / len(samples) / (BIN_EDGES[1] - BIN_EDGES[0]) ** 2).astype(np.float32)
