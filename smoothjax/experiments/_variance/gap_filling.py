"""Three points on a line: how much mass linear models put into the gaps, against the size of their training set."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._checks import import_optional
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._kinds import checks_kinds
from ...datasets import three_points
from ...denoisers import EmpiricalDenoiser
from ...variance import RetrainedLaw
from .._registry import experiment, settings_of
from .._sweep import by_cell, cells_of, sweep
from .figures import plot_gap_filling
from .linear_models import OUTER_REGIONS, bump_features, three_point_problem
from .samplers import (
    SAMPLERS,
    converged_samples,
    converged_samples_of_models,
    paper_process,
    published_samples,
    published_samples_of_models,
    stratified_normal,
)

if TYPE_CHECKING:
    import xarray

POINTS = np.array([-1.0, 0.0, 1.0])
REGIONS = {
    **{
        name: lambda x, low=low, high=high: (np.abs(x) > low) & (np.abs(x) < high)
        for name, (low, high) in OUTER_REGIONS.items()
    },
    "near": lambda x: np.min(np.abs(x[..., None] - POINTS), axis=-1) < 0.1,
}
BIN_EDGES = np.linspace(-2, 2, 161)
# Of the distribution functions that distances are read from: fine against the distances, wide enough for every sample.
CDF_NODES = np.linspace(-6, 6, 4801)


@experiment(
    "gap-filling",
    "what linear models trained anew on three points generate, against the number of samples",
    plot_gap_filling,
)
@checks_kinds
def gap_filling(
    *,
    num_train: tuple[int, ...] = (64, 128, 256, 512, 1024),
    cutoffs: tuple[float, ...] = (1e-4, 1e-3, 1e-2),
    num_bumps: int = 16,
    ridge: float = 0.1,
    num_models: int = 100,
    num_samples: int = 100_000,
    num_starts: int = 2000,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Models linear in products of Gaussian bumps of x and t, trained anew many times: the law of what they generate.

    Every model is sampled twice: as in the published figure, that is tabulated on 200 nodes, by 30 Euler steps and from a
    fresh start for every sample, and with a converged solver and features evaluated everywhere. The published steps put some
    per cent into the gaps even with the exact score; `split` says how much of the gap mass is whose.

    Args:
        num_train: triples P that a model is trained on.
        cutoffs: smallest times, of training and of sampling.
        num_bumps: centres along x, and along t.
        ridge: relative to the mean over samples.
        num_models: trained models a condition.
        num_samples: of each model by the published steps, from independent starts.
        num_starts: of each model's converged flow; stratified and common to all models, so that their error is of the order
            of `1 / num_starts`, not of its root.
        seed: of training sets and starts; the same at every cutoff, whose conditions are therefore not independent.
        out: folder in which each finished condition is kept.
        progress: show a progress bar.

    Returns:
        Over (sampler, cutoff, num_train, model), in x: `mass` of each `region` (`gap`: 0.25 < |x| < 0.75, `beyond`: |x| >
        1.15, `near`: within 0.1 of a point), `density` over bins, and `wasserstein`, the 1-Wasserstein distance to the data;
        `average_wasserstein` is that of the average law, `_se` its jackknife over models. `exact_*`: the same of the exact
        score. `split` (cutoff, num_train, part) of the published gap mass: `exact`, of the exact flow, `models`, what the
        trained models' converged flows add, `sampler`, what the published steps add to these; with `split_se`.

    Source: Vastola, ICLR 2025, Figure 2.
    """
    xarray = import_optional("xarray")
    configuration = settings_of("gap-filling", locals())
    store = ResultStore(out, configuration)
    process = paper_process()
    starts = stratified_normal(num_starts)

    def exact(cutoff: float) -> Arrays:
        denoiser = EmpiricalDenoiser(three_points().points)
        noise = process.sigma(1.0) * stratified_normal(num_samples)
        published = published_samples(denoiser, process, noise, cutoff)
        converged = converged_samples(denoiser, process, starts, cutoff)
        return _summary({"published": published[None], "converged": converged[None]})

    def run(cutoff: float, P: int) -> Arrays:
        # An array, so that every cutoff finds the same program compiled.
        level = jnp.asarray(cutoff)
        law = RetrainedLaw(three_point_problem(bump_features(cutoff, num_bumps), level, ridge), P)
        train, draw = jax.random.split(jax.random.fold_in(key_of(seed), P))
        published = published_samples_of_models(
            law, process, train, draw, level, 1, num_models, num_samples
        )
        converged = converged_samples_of_models(law, process, train, starts, cutoff, num_models)
        return _summary({"published": published, "converged": converged})

    exacts = [store.get(f"cutoff-{c:g}-exact", lambda c=c: exact(c)) for c in cutoffs]
    words = "{1} samples, down to t = {0:g}"
    cells = cells_of(run, (cutoffs, num_train), "cutoff-{:g}-train-{}", words)
    parts = sweep(store, cells, progress)

    def table(name: str, *dims: str) -> tuple[tuple[str, ...], np.ndarray]:
        values = by_cell(parts, name, len(cutoffs), len(num_train))
        return ("sampler", "cutoff", "num_train", *dims), np.moveaxis(values, 2, 0)

    def exact_table(name: str, *dims: str) -> tuple[tuple[str, ...], np.ndarray]:
        values = np.stack([part[name][:, 0] for part in exacts], axis=1)
        return ("sampler", "cutoff", *dims), values

    results = xarray.Dataset(
        {
            "mass": table("mass", "model", "region"),
            "density": table("density", "model", "bin"),
            "wasserstein": table("wasserstein", "model"),
            "average_wasserstein": table("average_wasserstein"),
            "average_wasserstein_se": table("average_wasserstein_se"),
            "exact_mass": exact_table("mass", "region"),
            "exact_density": exact_table("density", "bin"),
            "exact_wasserstein": exact_table("wasserstein"),
        },
        coords={
            "sampler": list(SAMPLERS),
            "cutoff": list(cutoffs),
            "num_train": list(num_train),
            "bin": 0.5 * (BIN_EDGES[:-1] + BIN_EDGES[1:]),
            "region": list(REGIONS),
        },
        attrs=configuration,
    )
    return results.merge(_split(results))


def _summary(samples: dict[str, Any]) -> Arrays:
    """Of samples (models, num, 1) by each sampler: stacked over samplers, the arrays that are kept."""
    kept = [_summary_of(np.asarray(samples[name])[..., 0]) for name in SAMPLERS]
    return {name: np.stack([one[name] for one in kept]) for name in kept[0]}


def _summary_of(x: np.ndarray) -> Arrays:
    counts = np.stack([np.histogram(row, BIN_EDGES)[0] for row in x])
    below = np.stack([np.searchsorted(np.sort(row), CDF_NODES) for row in x]) / x.shape[1]
    distances, count = _wasserstein(below), len(x)
    average = below.mean(axis=0)
    # The average of the others, for the jackknife; of a single law there is none.
    rest = (count * average - below) / max(count - 1, 1)
    left_out = _wasserstein(rest)
    spread = np.sqrt(max(count - 1, 0) * np.mean((left_out - left_out.mean()) ** 2))
    return {
        "mass": np.stack([inside(x).mean(axis=1) for inside in REGIONS.values()], axis=-1),
        "density": counts / x.shape[1] / np.diff(BIN_EDGES),
        "wasserstein": distances,
        "average_wasserstein": _wasserstein(average),
        "average_wasserstein_se": spread if count > 1 else np.nan,
    }


def _wasserstein(below: np.ndarray) -> np.ndarray:
    """1-Wasserstein distance to the data, from distribution functions at `CDF_NODES`, to a spacing of these."""
    data = np.searchsorted(POINTS, CDF_NODES) / len(POINTS)
    return np.sum(np.abs(below - data), axis=-1) * (CDF_NODES[1] - CDF_NODES[0])


def _split(results: "xarray.Dataset") -> "xarray.Dataset":
    xarray = import_optional("xarray")
    gap = results.mass.sel(region="gap", drop=True)
    exact = results.exact_mass.sel(region="gap", sampler="converged", drop=True)
    published, converged = (gap.sel(sampler=name, drop=True) for name in SAMPLERS)
    pieces = {
        "exact": exact.broadcast_like(converged),
        "models": converged - exact,
        "sampler": published - converged,
    }
    stacked = xarray.concat(list(pieces.values()), dim="part").assign_coords(part=list(pieces))
    error = stacked.std("model", ddof=1) / np.sqrt(stacked.sizes["model"])
    dims = ("cutoff", "num_train", "part")
    return xarray.Dataset(
        {
            "split": stacked.mean("model").transpose(*dims),
            "split_se": error.transpose(*dims),
        }
    )
