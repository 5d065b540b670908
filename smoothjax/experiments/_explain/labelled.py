"""All numbers of an explanation under their names, with dimensions, coordinates and units."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._checks import import_optional
from ..._strengths.free import Fit
from ...datasets import Dataset
from .._statistics import error_of_mean, mean_interval, ratio_of, root_of
from .candidates import Candidate
from .generated import AGREEMENT, sample_numbers
from .measured import measured_numbers
from .memorised import memorised_points, most_memorised, nearest_others
from .settings import ExplainSettings
from .verdicts import indistinguishable, judged

if TYPE_CHECKING:
    import xarray

# What is said of a combination has two decimals.
LEAST_WEIGHT = 0.005
# Dimensions of what is not a number of a noise level alone, or of a candidate at it.
_DIMENSIONS = {
    "squared_difference": ("sigma", "candidate", "point"),
    "between_candidates": ("sigma", "candidate", "candidate_again"),
    "combination": ("sigma", "member"),
    "combination_strength": ("sigma", "member"),
    "combination_weight_interval": ("sigma", "end"),
    "training_loss": ("sigma", "training_point"),
    "memorized_z": ("sigma", "training_point"),
    "memorized_p": ("sigma", "training_point"),
    "most_memorized": ("sigma", "most"),
}
_OF_CANDIDATES = {
    *("rmse", "rmse_se", "loss", "loss_se", "may_be_best", "explained", "explained_se"),
    *("is_at_floor", "relative", "learned_share", "learned_share_se"),
}


def labelled(
    found: Mapping[str, Any],
    candidates: Sequence[Candidate],
    train: Dataset,
    settings: ExplainSettings,
) -> "xarray.Dataset":
    """Everything as one labelled data set."""
    xarray = import_optional("xarray")
    fits: list[list[Fit]] = found["fits"]
    levels = np.array(settings.levels)
    at_level = [Level(found, [fit[i] for fit in fits], i, settings) for i in range(len(levels))]
    columns = [level.numbers() for level in at_level]
    variables: dict[str, Any] = {}
    for name in columns[0]:
        names = _DIMENSIONS.get(
            name, ("sigma", "candidate") if name in _OF_CANDIDATES else ("sigma",)
        )
        variables[name] = (names, np.stack([column[name] for column in columns]))
    for name, field in (("strength", "value"), ("strength_low", "low"), ("strength_high", "high")):
        values = np.array([[getattr(fit, field) for fit in row] for row in fits]).T
        variables[name] = (("sigma", "candidate"), values)
    index = np.asarray(found["known_index"])
    others, apart = nearest_others(train, index)
    variables["nearest_training"] = (("training_point",), others)
    variables["nearest_training_distance"] = (("training_point",), apart)
    names = [candidate.name for candidate in candidates]
    coordinates: dict[str, Any] = {
        "sigma": levels,
        "candidate": names,
        "candidate_again": names,
        "strength_name": ("candidate", [one.strength.name for one in candidates]),
        "strength_unit": ("candidate", [one.strength.unit for one in candidates]),
        "form": ("candidate", [one.form for one in candidates]),
        "end": ["low", "high"],
        "training_point": index,
    }
    taken, reasons = measured_numbers(found["measures"])
    if settings.measures:
        coordinates["model"] = [*found["networks"], *names]
    clash = next((name for name in taken if name in variables), None)
    if clash is not None:
        raise ValueError(f"`measures`: an estimate called {clash!r} is in every explanation.")
    variables |= taken
    if settings.label is not None:
        labels, known = found["labels"], found["known_labels"]
        first, num = settings.num_calibration, settings.num_calibration + settings.num_evaluation
        coordinates["point_label"] = ("point", labels[first:num])
        coordinates["training_label"] = ("training_point", known[: settings.num_training])
    if found["samples"] and found["sample_labels"] is not None:
        coordinates["sample_label"] = ("sample", found["sample_labels"])
    if found["samples"]:
        models = list(found["samples"])
        coordinates["model"], coordinates["measure"] = models, list(AGREEMENT)
        variables |= sample_numbers(found["samples"], names, train, found["held_out"])
    results = xarray.Dataset(
        variables,
        coords=coordinates,
        attrs={
            "data": train.name,
            "num_train": len(train),
            "confidence": settings.confidence,
            "coverage": settings.coverage,
            "measures": " ".join(settings.measures),
            "not_measured": "; ".join(reasons),
            "label": "none" if settings.label is None else str(settings.label),
        },
    )
    if train.image_shape is not None:
        results.attrs["image_shape"] = train.image_shape
        results.attrs["pixel_range"] = (float(train.points.min()), float(train.points.max()))
    for name, unit in _UNITS.items():
        if name in results:
            results[name].attrs["units"] = unit
    results["rmse_noise"] = (results.rmse / results.sigma).assign_attrs(
        units="1", long_name="distance of the predicted noises"
    )
    results["rmse_score"] = (results.rmse / results.sigma**2).assign_attrs(
        units="1 / data units", long_name="distance of the scores"
    )
    return results


_UNITS = {
    "sigma": "data units",
    "rmse": "data units a coordinate (root mean square)",
    "spread": "data units a coordinate (root mean square)",
    "own_error": "data units a coordinate (root mean square)",
    "between_candidates": "data units a coordinate (root mean square)",
    "loss": "squared data units a coordinate",
    "network_loss": "squared data units a coordinate",
    "network_training_loss": "squared data units a coordinate",
    "training_loss": "squared data units a coordinate",
    "nearest_training_distance": "data units",
    "memorized_z": "standard deviations of held-out points",
    "gap": "squared data units a coordinate",
    "memorized_share": "share of the training points",
}


class Level:
    """The numbers of one noise level, from the outputs at its points."""

    def __init__(self, found: Mapping[str, Any], fits: Sequence[Fit], index: int, settings: Any):
        self._settings, self._index = settings, index
        first = settings.num_calibration
        as_float = lambda values: np.asarray(values[first:], np.float64)  # noqa: E731
        self._network = as_float(found["networks"]["network"][index]["outputs"])
        other = found["networks"].get("other")
        self._other = None if other is None else as_float(other[index]["outputs"])
        self._candidates = np.stack([as_float(fit.outputs) for fit in fits])
        self._clean = as_float(found["clean"])
        sigma = settings.levels[index]
        mean, spread = found["mean"], found["spread"]
        noisy = self._clean + sigma * as_float(found["noise"])
        self._untrained = mean + (noisy - mean) / (1 + (sigma / spread) ** 2)
        self._known = np.asarray(found["known"], np.float64)
        self._on_known = np.asarray(
            found["networks"]["network"][index]["training_outputs"], np.float64
        )
        reference = found["references"][index]
        self._affine = as_float(reference["affine_outputs"])
        self._easy = _squares(as_float(reference["gaussian"]), self._clean)
        on_known = np.asarray(reference["gaussian_training"], np.float64)
        self._known_easy = _squares(on_known, self._known)
        self._points = np.asarray(found["known_index"])
        self._memoriser = np.asarray(reference["training_outputs"], np.float64)
        self._pair = found["pairs"][index]

    def numbers(self) -> dict[str, Any]:
        """By the names of the labelled data set."""
        squares = _squares(self._candidates, self._network[None])
        rmse, rmse_se = root_of(squares)
        seed = self._settings.seed + self._index
        kept = indistinguishable(squares, self._settings.confidence, seed)
        between = np.sqrt(_squares(self._candidates[:, None], self._candidates[None]).mean(axis=-1))
        own = _squares(self._network, self._clean)
        affine = _squares(self._affine, self._network)
        share, share_se = ratio_of(squares, affine[None])
        untrained = _squares(self._untrained, self._network)
        left, left_se = ratio_of(squares, untrained[None])
        loss = _squares(self._candidates, self._clean[None])
        numbers: dict[str, Any] = {
            "squared_difference": squares,
            "rmse": rmse,
            "rmse_se": rmse_se,
            "relative": rmse / math.sqrt(own.mean()),
            "may_be_best": kept,
            "between_candidates": between,
            "own_error": math.sqrt(own.mean()),
            "affine_rmse": math.sqrt(affine.mean()),
            "explained": 1 - share,
            "explained_se": share_se,
            "untrained_rmse": math.sqrt(untrained.mean()),
            "learned_share": 1 - left,
            "learned_share_se": left_se,
            "loss": loss.mean(axis=-1),
            "loss_se": error_of_mean(loss),
            "network_loss": own.mean(),
            "network_loss_se": error_of_mean(own),
        }
        numbers |= judged(
            rmse, rmse_se, between, numbers["own_error"], numbers["learned_share"], left_se
        )
        numbers |= self._memorised(own)
        if self._other is not None:
            floor = _squares(self._other, self._network)
            numbers["other_rmse"], numbers["other_rmse_se"] = root_of(floor)
            numbers["is_at_floor"] = mean_interval(squares - floor[None], 0.9)[..., 0] <= 0
        if self._pair:
            numbers |= self._combined(squares)
        return numbers

    def _memorised(self, held_out: np.ndarray) -> dict[str, Any]:
        """The generalisation gap, and the share of the training points whose memorisation makes as large a one.

        A model that is a perfect memoriser at M of N points, and elsewhere as good as the network is at held-out ones, has a
        training loss of `M/N` times the memoriser's plus `1 - M/N` times the network's held-out one.
        """
        known = _squares(self._on_known, self._known)
        memoriser = _squares(self._memoriser, self._known)
        gap = held_out.mean() - known.mean()
        gap_se = math.hypot(error_of_mean(held_out), error_of_mean(known))
        whole = held_out.mean() - memoriser.mean()
        whole_se = math.hypot(error_of_mean(held_out), error_of_mean(memoriser))
        share = share_se = math.nan
        if whole > 3 * whole_se:  # else a memoriser is no better than the network
            share = gap / whole
            of_known = error_of_mean(known - share * memoriser)
            share_se = math.hypot((1 - share) * error_of_mean(held_out), of_known) / whole
        points = memorised_points(known, self._known_easy, held_out, self._easy)
        order = most_memorised(points["memorized_p"], points["memorized_z"], math.isfinite(share))
        return {
            **points,
            "most_memorized": np.where(order < 0, -1, self._points[order]),
            "network_training_loss": known.mean(),
            "network_training_loss_se": error_of_mean(known),
            "gap": gap,
            "gap_se": gap_se,
            "memorized_share": share,
            "memorized_share_se": share_se,
        }

    def _combined(self, squares: np.ndarray) -> dict[str, Any]:
        pair = self._pair
        outputs = np.asarray(pair["outputs"], np.float64)[self._settings.num_calibration :]
        combined = _squares(outputs, self._network)
        nearest = squares[np.argmin(squares.mean(axis=1))]
        low = mean_interval(nearest - combined, self._settings.confidence)[..., 0]
        return {
            "combination": np.asarray(pair["names"], str),
            "combination_strength": np.asarray(pair["strengths"], float),
            "combination_weight": float(pair["weight"]),
            "combination_weight_interval": np.array([pair["low"], pair["high"]], float),
            "combination_rmse": math.sqrt(combined.mean()),
            # Not where all of the weight is on one of them, and what is nearer is rounding.
            "combination_is_nearer": bool(
                low > 0
                and pair["low"] > 0
                and pair["high"] < 1
                and LEAST_WEIGHT < pair["weight"] < 1 - LEAST_WEIGHT
            ),
        }


def _squares(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.mean((first - second) ** 2, axis=-1)
