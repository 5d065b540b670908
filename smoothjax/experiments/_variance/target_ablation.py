"""How much of the gap filling of linear models is due to the noise of their targets: the same inputs, with exact targets."""

from typing import TYPE_CHECKING

import jax
import numpy as np

from ..._checks import import_optional
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._kinds import checks_kinds
from .._registry import experiment, settings_of
from .._sweep import by_cell, cells_of, sweep
from .linear_models import (
    REGIONS,
    bump_features,
    masses_of_flows,
    three_point_problem,
    trained_weights,
)
from .validation_figures import plot_target_ablation

if TYPE_CHECKING:
    import xarray


@experiment(
    "target-ablation",
    "linear models trained on the same inputs with exact targets: how much of a gap noise fills",
    plot_target_ablation,
)
@checks_kinds
def target_ablation(
    *,
    num_train: tuple[int, ...] = (64, 256, 1024),
    exact_below: tuple[float, ...] = (0.0, 0.2, 0.5, 1.0, np.inf),
    cutoff: float = 1e-2,
    num_bumps: int = 16,
    ridge: float = 0.1,
    num_models: int = 200,
    num_samples: int = 200,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Masses of models trained on noisy targets, on exact ones, and on targets that are exact below a noise level.

    The setting of the variance paper's Figure 2. Model i is trained on the same inputs in every column, so that differences
    between columns are paired: take them model by model before their standard error.

    Args:
        num_train: triples P that a model is trained on.
        exact_below: noise levels below which the target is the posterior mean; 0: nowhere, as in denoising score matching;
            `inf`: everywhere, as in score matching with the exact score.
        cutoff: smallest time, of training and of sampling.
        num_bumps: centres along x, and along t.
        ridge: relative to the mean over samples.
        num_models: trained models a condition.
        num_samples: of each model.
        seed: of training sets.
        out: folder in which each finished condition is kept.
        progress: show a progress bar.

    Returns:
        `mass` (num_train, exact_below, model, region): `near` the points, in the `gap`, 0.25 < |x| < 0.75, and `beyond`,
        |x| > 1.15.

    Raises:
        ValueError: for a negative noise level.

    Source: Vastola, ICLR 2025, section 2 (the two objectives) and Figure 2 (the setting).
    """
    xarray = import_optional("xarray")
    if not all(level >= 0 for level in exact_below):
        raise ValueError(f"`exact_below` must be noise levels of at least 0; got {exact_below}.")
    configuration = settings_of("target-ablation", locals())
    store = ResultStore(out, configuration)
    features = bump_features(cutoff, num_bumps)

    def run(P: int, below: float) -> Arrays:
        problem = three_point_problem(features, cutoff, ridge, (0.0, below) if below > 0 else None)
        key = jax.random.fold_in(key_of(seed), P)
        weights = trained_weights(problem, P, key, num_models)
        return {"mass": masses_of_flows(problem, weights, cutoff, num_samples)}

    words = "{} samples, exact targets below {:g}"
    cells = cells_of(run, (num_train, exact_below), "train-{}-exact-below-{:g}", words)
    parts = sweep(store, cells, progress)
    mass = by_cell(parts, "mass", len(num_train), len(exact_below))
    return xarray.Dataset(
        {"mass": (("num_train", "exact_below", "model", "region"), mass)},
        coords={
            "num_train": list(num_train),
            "exact_below": list(exact_below),
            "region": list(REGIONS),
        },
        attrs=configuration,
    )
