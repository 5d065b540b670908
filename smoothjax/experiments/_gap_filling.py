"""Three points on a line: how much mass linear models put into the gaps, against the size of their training set."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import import_optional
from ..datasets import three_points
from ..processes import VariancePreserving
from ..variance import (
    DenoisingProblem,
    GaussianBumps,
    LinearProblem,
    ProductFeatures,
    RetrainedLaw,
    UniformTimes,
    flow_of_models,
)
from ._store import Arrays, ResultStore

if TYPE_CHECKING:
    import xarray

# Of |x|; the points are -1, 0 and 1.
REGIONS = {"gap": (0.25, 0.75), "beyond": (1.15, np.inf)}
BIN_EDGES = np.linspace(-2, 2, 161)


def gap_filling(
    *,
    num_train: tuple[int, ...] = (64, 256, 512, 1024, 4096),
    cutoffs: tuple[float, ...] = (1e-4, 1e-3, 1e-2),
    num_bumps: int = 16,
    ridge: float = 0.1,
    num_models: int = 100,
    num_samples: int = 2000,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Models linear in products of Gaussian bumps of x and t, trained anew many times: the law of what they generate.

    The setting of the variance paper's Figure 2, with a converged solver and features evaluated everywhere (the published
    figure's 30 Euler steps put a few per cent into the gaps by themselves). Starts are stratified and common to all models.

    Args:
        num_train: triples P that a model is trained on.
        cutoffs: smallest times, of training and of sampling.
        num_bumps: centres along x, and along t.
        ridge: relative to the mean over samples.
        num_models: trained models a condition.
        num_samples: of each model.
        seed: of training sets.
        out: folder in which each finished condition is kept.
        progress: show a progress bar.

    Returns:
        `density` (cutoff, num_train, model, bin) over the bins' `centre`; `mass` (cutoff, num_train, model, region) of
        `gap`, 0.25 < |x| < 0.75, and `beyond`, |x| > 1.15.

    Source: Vastola, ICLR 2025, Figure 2.
    """
    xarray = import_optional("xarray")
    configuration = {
        "experiment": "gap-filling",
        "num_train": num_train,
        "cutoffs": cutoffs,
        "num_bumps": num_bumps,
        "ridge": ridge,
        "num_models": num_models,
        "num_samples": num_samples,
        "seed": seed,
    }
    store = ResultStore(out, configuration)
    process = VariancePreserving.from_drift_rate(0.1, 20.0)
    data = three_points().points

    def run(cutoff: float, P: int) -> Arrays:
        bumps = GaussianBumps.evenly(-1.5, 1.5, num_bumps)
        times = GaussianBumps.evenly(cutoff, 1.0, num_bumps)
        denoising = DenoisingProblem(data, UniformTimes(process, cutoff, 1.0))
        problem = LinearProblem(denoising, ProductFeatures([bumps], times, process), ridge=ridge)
        quantiles = jax.scipy.stats.norm.ppf((jnp.arange(num_samples) + 0.5) / num_samples)
        # The paper starts at N(0, sigma_t^2) in x, and reads the end off in x.
        starts = process.noise_level(1.0) * quantiles[:, None]
        ends = flow_of_models(
            RetrainedLaw(problem, P),
            jax.random.fold_in(jax.random.key(seed), P),
            starts.astype(data.dtype),
            process.noise_level(1.0),
            process.noise_level(cutoff),
            num_models=num_models,
            rtol=1e-4,
        )
        x = np.asarray(process.alpha(cutoff) * ends[..., 0])
        counts = [np.histogram(row, BIN_EDGES)[0] for row in x]
        size = np.abs(x)[..., None]
        low, high = np.array(list(REGIONS.values())).T
        return {
            "density": np.stack(counts) / num_samples / np.diff(BIN_EDGES),
            "mass": np.mean((low < size) & (size < high), axis=1),
        }

    cells = [(cutoff, P) for cutoff in cutoffs for P in num_train]
    bar = import_optional("tqdm").tqdm(cells, disable=None if progress else True)
    parts = []
    for cutoff, P in bar:
        bar.set_description(f"{P} samples, down to t = {cutoff:g}")
        parts.append(store.get(f"cutoff-{cutoff:g}-train-{P}", lambda c=cutoff, P=P: run(c, P)))
    shape = (len(cutoffs), len(num_train))
    dims = {"density": "bin", "mass": "region"}
    return xarray.Dataset(
        {
            name: (
                ("cutoff", "num_train", "model", dim),
                np.stack([part[name] for part in parts]).reshape(*shape, num_models, -1),
            )
            for name, dim in dims.items()
        },
        coords={
            "cutoff": list(cutoffs),
            "num_train": list(num_train),
            "bin": 0.5 * (BIN_EDGES[:-1] + BIN_EDGES[1:]),
            "region": list(REGIONS),
        },
        attrs=configuration,
    )
