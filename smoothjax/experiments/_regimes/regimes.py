"""At which noise levels a training set is told apart: information, collapse, speciation, dimension and U-turns."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ... import datasets, regimes
from ..._checks import as_integer, as_non_negative_integer, as_positive_integer, import_optional
from ..._files.checkpoint import fingerprint
from ..._files.store import Arrays, ResultStore
from ..._jax.blocks import in_batches
from ..._keys import key_of
from ..._kinds import checks_kinds
from ...datasets import Dataset
from ...denoisers import EmpiricalDenoiser, GaussianDenoiser, TruncatedDenoiser
from .._data import train_and_held_out
from .._registry import experiment, settings_of
from .._sweep import Cell, sweep
from .figures import plot_regimes

if TYPE_CHECKING:
    import xarray

# Points at which dimensions are taken: medians and quartiles need no more.
DIMENSION_POINTS = 256
QUARTILES = (0.25, 0.5, 0.75)
BATCH = 64


@experiment(
    "regimes",
    "at which noise levels a training set is told apart: information, collapse, speciation, dimension, U-turns",
    plot_regimes,
)
@checks_kinds
def memorization_regimes(
    *,
    data: str = "digits",
    num_train: int | None = None,
    num_levels: int = 24,
    num_draws: int = 256,
    num_turns: int = 64,
    num_turn_levels: int = 8,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """When the exact score of a training set commits, by noise level: to the gross structure, to a class, to one point.

    Args:
        data: name or path, see `smoothjax.datasets.load`.
        num_train: training points; as in `train_and_held_out`.
        num_levels: noise levels of the curves, from a tenth of the points' spacing to five times their extent.
        num_draws: of a training point and a noise.
        num_turns: training points of the U-turns; 0 leaves them out.
        num_turn_levels: noise levels of the U-turns, among those of the curves.
        seed: of the split and of all draws.
        out: folder in which each finished part is kept.
        progress: show a progress bar.

    Returns:
        Over sigma, in nats where nothing else is said, each with its standard error `_se`: `information` of the training
        set, `left_out` (against the other points), `information_gaussian` (of the Gaussian with its mean and covariance),
        `class_information` (where there are labels), `rate` (entropy production), `rate_gaussian`;
        `effective_neighbours`, the exponential of the mean posterior entropy; `dimension_train` and `dimension_held_out`
        over (quartile, sigma); over turn_sigma `same_point` and `same_class` with `_interval`. Scalars: `collapse` and
        `collapse_gaussian`, `speciation`, `class_level` in data units, `max_information`, `max_class_information`;
        `point_collapse` over (draw), the level of even odds of each draw, and `point_row`, its training point;
        `class_collapse` over (class), the geometric mean of those of a class: which are memorised first.

    Raises:
        ValueError: for sizes out of range, or fewer than three different points.

    Source: Biroli et al. 2024 (collapse, speciation); see `smoothjax.regimes` for each quantity.

    Example:
        >>> import smoothjax as sj
        >>> found = sj.experiments.memorization_regimes(num_train=300, num_draws=32, num_turns=0, progress=False)
        >>> bool(found.collapse < found.speciation), list(found.information.dims)
        (True, ['sigma'])
    """
    as_positive_integer(num_turn_levels, "num_turn_levels")
    as_non_negative_integer(num_turns, "num_turns")
    num_levels = as_integer(num_levels, "num_levels", least=2)
    dataset = datasets.load(data)
    train, held_out = train_and_held_out(dataset, num_train=num_train, seed=seed)
    configuration = settings_of("regimes", locals()) | {
        "data": str(data),
        "data_sha256": fingerprint(dataset.points),
        "num_train": len(train),
    }
    store = ResultStore(out, configuration)
    key, levels = key_of(seed), regimes.noise_levels(train, num_levels)
    cells = regime_cells(train, held_out, key, levels, num_draws)
    if num_turns:
        places = np.unique(np.linspace(0, num_levels - 1, num_turn_levels).round().astype(int))
        turns = functools.partial(_turns, train, key, levels[places], num_turns)
        cells.append(("u-turns", "U-turns", turns))
    parts = sweep(store, cells, progress)
    return labelled_regimes(parts).assign_attrs(configuration)


def regime_cells(
    train: Dataset, held_out: Dataset, key: PRNGKeyArray, levels: Array, num_draws: int
) -> list[Cell]:
    """The parts that every figure of regimes has."""
    return [
        (
            "information",
            "information",
            functools.partial(_information, train, key, levels, num_draws),
        ),
        ("collapse", "collapse", functools.partial(_collapse, train, key, num_draws)),
        ("dimension", "dimension", functools.partial(_dimension, train, held_out, levels)),
    ]


def _information(train: Dataset, key: PRNGKeyArray, levels: Array, num_draws: int) -> Arrays:
    curve = regimes.information_curve(train, key, levels, num_draws=num_draws)
    gaussian = GaussianDenoiser.fit(train.points)
    found: dict[str, Any] = {"sigma": levels, "max_information": curve.max_information}
    of_curve = {
        "information": curve.information,
        "left_out": curve.left_out,
        "rate": curve.rate,
        "class_information": curve.class_information,
    }
    for name, estimate in of_curve.items():
        if estimate is not None:
            found |= {name: estimate.value, f"{name}_se": estimate.standard_error}
    neighbours = jnp.exp(curve.max_information - curve.information.value)
    found |= {
        "effective_neighbours": neighbours,
        "effective_neighbours_se": neighbours * curve.information.standard_error,
        "information_gaussian": regimes.mutual_information(gaussian, levels).value,
        "rate_gaussian": jax.vmap(gaussian.minimum_error)(levels) / levels**2,
        "speciation": regimes.speciation_level(train),
    }
    if curve.max_class_information is not None and float(curve.max_class_information) > 0:
        level = regimes.class_level(curve)
        found |= {
            "max_class_information": curve.max_class_information,
            "class_level": level.value,
            "class_level_se": level.standard_error,
        }
    return found


def _collapse(train: Dataset, key: PRNGKeyArray, num_draws: int) -> Arrays:
    collapse = regimes.collapse_level(train, key, num_draws=num_draws)
    gaussian = GaussianDenoiser.fit(train.points)
    found = {} if train.labels is None else _collapse_of_classes(train, collapse)
    return found | {
        "collapse": collapse.sigma.value,
        "collapse_se": collapse.sigma.standard_error,
        "collapse_gaussian": regimes.population_collapse_level(gaussian, len(train)).value,
        "point_collapse": collapse.own,
        "point_row": collapse.rows,
    }


def _collapse_of_classes(train: Dataset, collapse: regimes.Collapse) -> dict[str, Any]:
    """The geometric mean of the levels of even odds of each class's draws, with its standard error; NaN for too few."""
    labels = np.asarray(train.labels)
    of_draws, logs = labels[np.asarray(collapse.rows)], np.log(np.asarray(collapse.own, np.float64))
    classes = np.unique(labels)
    means, errors = np.full((2, len(classes)), np.nan)
    for i, one in enumerate(classes):
        if np.sum(of_draws == one) > 1:
            values = logs[of_draws == one]
            means[i] = np.exp(values.mean())
            errors[i] = means[i] * values.std(ddof=1) / len(values) ** 0.5
    return {"class": classes, "class_collapse": means, "class_collapse_se": errors}


def _dimension(train: Dataset, held_out: Dataset, levels: Array) -> Arrays:
    rows = np.linspace(0, len(train) - 1, min(len(train), DIMENSION_POINTS)).astype(int)
    known = regimes.dimension_of_training_points(train, levels, rows=rows)
    fresh = _dimensions(EmpiricalDenoiser(train.points), held_out.points[:DIMENSION_POINTS], levels)
    return {
        "dimension_train": np.quantile(np.asarray(known), QUARTILES, axis=0),
        "dimension_held_out": np.quantile(np.asarray(fresh), QUARTILES, axis=0),
    }


@eqx.filter_jit
def _dimensions(denoiser: EmpiricalDenoiser, points: Array, levels: Array) -> Array:
    def at(sigma: Array) -> Array:
        one = lambda i: regimes.intrinsic_dimension(denoiser, points[i], sigma)  # noqa: E731
        return in_batches(one, points.shape[0], BATCH)

    return jax.lax.map(at, levels).T


def _turns(train: Dataset, key: PRNGKeyArray, levels: Array, num_turns: int) -> Arrays:
    turn = regimes.u_turn(TruncatedDenoiser(train.points), train, levels, key, num_draws=num_turns)
    found: dict[str, Any] = {
        "turn_sigma": levels,
        "same_point": turn.same_point,
        "same_point_interval": turn.same_point_interval,
    }
    if turn.same_class is not None:
        found |= {"same_class": turn.same_class, "same_class_interval": turn.same_class_interval}
    return found


_DIMS = {
    "dimension_train": ("quartile", "sigma"),
    "dimension_held_out": ("quartile", "sigma"),
    "point_collapse": ("draw",),
    "point_row": ("draw",),
    "same_point": ("turn_sigma",),
    "same_point_interval": ("turn_sigma", "bound"),
    "same_class": ("turn_sigma",),
    "same_class_interval": ("turn_sigma", "bound"),
    "class_collapse": ("class",),
    "class_collapse_se": ("class",),
}
_NATS = ("information", "left_out", "information_gaussian", "class_information")


def labelled_regimes(parts: Sequence[Arrays]) -> "xarray.Dataset":
    """The parts as one labelled data set."""
    xarray = import_optional("xarray")
    found = {name: np.asarray(value) for part in parts for name, value in part.items()}
    coords: dict[str, Any] = {"sigma": found.pop("sigma"), "quartile": list(QUARTILES)}
    if "turn_sigma" in found:
        coords |= {"turn_sigma": found.pop("turn_sigma"), "bound": ["low", "high"]}
    if "class" in found:
        coords["class"] = found.pop("class")
    variables = {
        name: (_DIMS.get(name, ("sigma",) if value.ndim else ()), value)
        for name, value in found.items()
    }
    results = xarray.Dataset(variables, coords=coords)
    for name in variables:
        base = name.removesuffix("_se").removeprefix("max_")
        if base in _NATS:
            results[name].attrs["units"] = "nats"
        elif "collapse" in base or base in ("speciation", "class_level"):
            results[name].attrs["units"] = "data units"
    results["sigma"].attrs["units"] = "data units"
    return results
