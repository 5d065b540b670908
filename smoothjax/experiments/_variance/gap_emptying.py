"""Where the variance of trained models empties a gap instead of filling it: flows of models beside that of their mean."""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from ..._checks import as_positive_integer, import_optional
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._kinds import checks_kinds
from ...variance import FourierSeries, LinearModelLaw, ProductFeatures, semiclassical
from .._registry import experiment, settings_of
from .._sweep import by_cell, cells_of, sweep
from .linear_models import (
    OUTER_REGIONS,
    REGIONS,
    bump_features,
    levels_of_flow,
    regions_of_flows,
    stratified_starts,
    three_point_problem,
    trained_weights,
)
from .samplers import paper_process
from .validation_figures import plot_gap_emptying

if TYPE_CHECKING:
    import xarray

FEATURES = ("bumps", "wide-bumps", "fourier")
# Of the jackknife, each without its share of the models.
NUM_GROUPS = 10


@experiment(
    "gap-emptying",
    "where the variance of linear models takes mass out of a gap",
    plot_gap_emptying,
)
@checks_kinds
def gap_emptying(
    *,
    num_train: tuple[int, ...] = (64, 256, 1024),
    ridges: tuple[float, ...] = (0.1, 1.0, 10.0),
    features: tuple[str, ...] = FEATURES,
    spreads: tuple[float, ...] = (0.0, 0.5, 1.0),
    cutoff: float = 1e-2,
    num_bumps: int = 16,
    num_models: int = 100,
    num_samples: int = 100,
    num_starts: int = 50,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Masses of flows of models `mean + spread * (trained - mean)`, from the mean model alone to the trained models.

    Averaging over models differs from the flow of their mean by what their variance does: it takes samples out of a gap as
    well as into it. With shares `out` of the samples that the mean model leaves in the gap, and `into` of the others, it
    empties gaps of more than `into / (into + out)` and fills emptier ones. Wide features, a large ridge and few samples bias
    the mean model into the gaps, and there variance empties them.

    The mean is that of models trained on the same inputs with exact targets: given the inputs its expectation is the same,
    with less noise. Beside it what the second order in the spread predicts: starts end in a Gaussian of mean
    `x + spread^2 m` and covariance `spread^2 J J^T`, of `semiclassical`. Where variance empties a gap, chi is not small for
    most starts, and this prediction fails.

    Args:
        num_train: triples P that a model is trained on.
        ridges: relative to the mean over samples.
        features: of `bumps` (half their spacing wide), `wide-bumps` (their spacing wide) and `fourier` (as many, of period 3
            in x).
        spreads: factors on the deviations of models from their mean; 0 is the mean model, 1 the models as trained.
        cutoff: smallest time, of training and of sampling.
        num_bumps: features along x, and along t.
        num_models: trained models a condition, a multiple of 10.
        num_samples: of each model.
        num_starts: of the prediction.
        seed: of training sets.
        out: folder in which each finished condition is kept.
        progress: show a progress bar.

    Returns:
        Over (features, ridge, num_train, spread, region): `mass`, the mean over models; `change`, from spread zero, and its
        standard error `change_error` by a jackknife over models, the mean model included (between spreads 0 and 1 to first
        order in what that changes of the mean model); `predicted`, to second order; `predicted_without_shift`, by the
        covariance alone. Over (features, ridge, num_train): `small_shift`, the share of starts whose second-order
        shift at spread 1 is at most 0.3 standard deviations; at the others the prediction fails, at these it may. Over
        (..., spread, start_region, region): `moved`, the share of starts that the mean model takes to the one region and a
        model to the other. Regions: `near` the points, in the `gap`,
        0.25 < |x| < 0.75, and `beyond`, |x| > 1.15.

    Raises:
        ValueError: for unknown features, or models that do not make ten groups.

    Source: Vastola, ICLR 2025, Figure 2 (the setting) and its semiclassical expansion.
    """
    xarray = import_optional("xarray")
    if unknown := set(features) - set(FEATURES):
        raise ValueError(f"`features` must be of {FEATURES}; got {sorted(unknown)}.")
    if as_positive_integer(num_models, "num_models") % NUM_GROUPS:
        raise ValueError(f"`num_models` must be a multiple of {NUM_GROUPS}; got {num_models}.")
    configuration = settings_of("gap-emptying", locals())
    store = ResultStore(out, configuration)

    def run(name: str, ridge: float, P: int) -> Arrays:
        noisy, exact = (
            three_point_problem(
                _features(name, cutoff, num_bumps), cutoff, jnp.asarray(ridge), targets
            )
            for targets in (None, (0.0, jnp.inf))
        )
        key = jax.random.fold_in(key_of(seed), P)
        trained, bare = (trained_weights(p, P, key, num_models) for p in (noisy, exact))
        mean = bare.mean(axis=0)
        groups = bare.reshape(NUM_GROUPS, -1, *mean.shape)
        without = bare.sum(axis=0) - groups.sum(axis=1)
        others = without / (num_models - num_models // NUM_GROUPS)
        centres = jnp.concatenate([mean[None], others])
        central = regions_of_flows(noisy, centres, cutoff, num_samples)
        moved = []
        for spread in spreads:
            models = mean + spread * (trained - mean)
            ends = regions_of_flows(noisy, models, cutoff, num_samples)
            moved.append(np.einsum("sa,msb->mab", central[0], ends, dtype=float) / num_samples)
        law = LinearModelLaw(
            noisy.features,
            mean,
            jnp.moveaxis(trained - mean, 0, -1) / jnp.sqrt(num_models),
        )
        return {
            "moved": np.stack(moved),
            "central": central.mean(axis=1),
            **_second_order(law, spreads, cutoff, num_starts),
        }

    settings = (features, ridges, num_train)
    cells = cells_of(run, settings, "{}-ridge-{:g}-train-{}", "{}, ridge {:g}, {} samples")
    parts = [_summary(found, spreads) for found in sweep(store, cells, progress)]
    dims = ("features", "ridge", "num_train")
    inner = dict.fromkeys(parts[0], ("spread", "region"))
    inner |= {"moved": ("spread", "start_region", "region"), "small_shift": ()}
    return xarray.Dataset(
        {
            name: (dims + inner[name], by_cell(parts, name, *map(len, settings)))
            for name in parts[0]
        },
        coords={
            "features": list(features),
            "ridge": list(ridges),
            "num_train": list(num_train),
            "spread": list(spreads),
            "start_region": list(REGIONS),
            "region": list(REGIONS),
        },
        attrs=configuration,
    )


def _features(name: str, cutoff: float, num: int) -> ProductFeatures:
    if name == "fourier":
        pairs = num // 2, num - 1 - num // 2
        x, time = FourierSeries(3.0, *pairs), FourierSeries(1 - cutoff, *pairs)
        return ProductFeatures([x], time, paper_process())
    return bump_features(cutoff, num, {"bumps": 0.5, "wide-bumps": 1.0}[name])


def _second_order(
    law: LinearModelLaw, spreads: tuple[float, ...], cutoff: float, num_starts: int
) -> Arrays:
    """Masses of Gaussians around the ends of the mean model's flow."""
    starts = stratified_starts(num_starts, law.mean_weights.dtype)
    ends = _semiclassical(law, starts, *levels_of_flow(cutoff))
    alpha = float(paper_process().alpha(cutoff))
    mean, shift = (alpha * np.asarray(part)[:, 0] for part in (ends.mean_flow, ends.shift))
    deviation = alpha * np.linalg.norm(ends.factor[:, 0], axis=-1)

    def masses(spread: float, shift: np.ndarray | float) -> np.ndarray:
        # Without spread, the point itself.
        centre, width = mean + spread**2 * shift, np.maximum(spread * deviation, 1e-12)
        below = lambda x: special.ndtr((x - centre) / width)  # noqa: E731
        outer = [
            below(high) - below(low) + below(-low) - below(-high)
            for low, high in OUTER_REGIONS.values()
        ]
        return np.mean([1 - sum(outer), *outer], axis=1)

    return {
        "predicted": np.stack([masses(spread, shift) for spread in spreads]),
        "predicted_without_shift": np.stack([masses(spread, 0.0) for spread in spreads]),
        "small_shift": np.mean(jax.vmap(lambda end: end.chi)(ends) <= 0.3),
    }


@eqx.filter_jit
def _semiclassical(law, starts, high, low):
    return jax.vmap(lambda u: semiclassical(law, u, high, low, rtol=1e-4))(starts)


def _summary(part: Arrays, spreads: tuple[float, ...]) -> Arrays:
    """Means over models, and what averaging over models changes."""
    moved, central = part["moved"], part["central"]
    mass = moved.sum(axis=2)
    mean = mass.mean(axis=1)
    num_models = mass.shape[1]
    groups = mass.reshape(len(mass), NUM_GROUPS, -1, mass.shape[-1])
    without = (mass.sum(axis=1)[:, None] - groups.sum(axis=2)) / (
        num_models - num_models // NUM_GROUPS
    )
    # Where the mean model moves, models move with it by what it counts in them, 1 - spread.
    strength = np.array(spreads)[:, None, None]
    changes = without - central[0] - strength * (central[1:] - central[0])
    scatter = np.sum((changes - changes.mean(axis=1, keepdims=True)) ** 2, axis=1)
    return {
        "mass": mean,
        "change": mean - central[0],
        "moved": moved.mean(axis=1),
        "change_error": np.sqrt((NUM_GROUPS - 1) / NUM_GROUPS * scatter),
        **{name: part[name] for name in ("predicted", "predicted_without_shift", "small_shift")},
    }
