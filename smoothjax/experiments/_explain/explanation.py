"""The outcome of an explanation: verdicts, labelled numbers, samples, and a table."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._checks import import_optional
from ..._kinds import checks_kinds
from ...datasets import Dataset
from ...denoisers import Denoiser
from .candidates import Candidate, Fit
from .generated import AGREEMENT, sample_numbers
from .measured import measured_numbers
from .memorised import memorised_points, most_memorised, nearest_others
from .settings import ExplainSettings
from .statistics import error_of_mean, mean_interval, ratio_of, root_of
from .verdicts import Verdict, indistinguishable, judged

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

# What is said of a combination has two decimals.
LEAST_WEIGHT = 0.005


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The outcome of `explain`.

    Attributes:
        dataset: every number, labelled by noise level and candidate, with standard errors (an `xarray.Dataset`).
        train: the training set.
        settings: with everything filled in that was left open.
        manifest: configuration, versions, fingerprints of data and network.
        denoisers: each candidate as one denoiser, whose strength at each noise level is the fitted one; of a candidate by
            class a dictionary of them.

    Example:
        >>> import smoothjax as sj
        >>> train, held_out = sj.datasets.digits().split(1500, seed=0)
        >>> network = sj.GaussianDenoiser.fit(train.points).shrunk(0.3)
        >>> settings = sj.ExplainSettings(levels=(1.0,), candidates=("empirical", "gaussian"), num_samples=0)
        >>> found = sj.explain(network, train, held_out, settings, progress=False)
        >>> print(found.summary())
        At noise level 1 it is gaussian, and nothing else.
        >>> print(found.dataset.strength.sel(candidate="gaussian").values.round(3))
        [0.3]
    """

    dataset: "xarray.Dataset"
    train: Dataset
    settings: ExplainSettings
    manifest: dict[str, Any]
    denoisers: Mapping[str, Denoiser | Mapping[int, Denoiser]]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One for each noise level, in increasing order."""
        return tuple(
            _verdict(self.dataset.isel(sigma=i)) for i in range(self.dataset.sizes["sigma"])
        )

    @property
    def samples(self) -> "xarray.DataArray":
        """Samples (model, sample, coordinate) of the network and all candidates from the same noises."""
        if "samples" not in self.dataset:
            raise ValueError("No samples were drawn: `num_samples` of the settings was 0.")
        return self.dataset["samples"]

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table of verdicts, as text."""
        header = [
            "noise level",
            "best",
            "strength",
            "cannot be told from it",
            "distance",
            "combination",
        ]
        units = dict(
            zip(self.dataset.candidate.values, self.dataset.strength_unit.values, strict=True)
        )
        rows = []
        for one, at in zip(self.verdicts, self.dataset.transpose("sigma", ...).sigma, strict=True):
            nearest = one.indistinguishable[0]
            unit = "" if units[nearest] == "1" else f" {units[nearest]}"
            low, high = one.interval
            others = ", ".join(one.indistinguishable[1:]) or "-"
            rows.append(
                [
                    f"{one.sigma:.3g}",
                    one.best or f"none (nearest: {nearest})",
                    f"{one.strength:.3g} [{low:.3g}, {high:.3g}]{unit}",
                    others,
                    f"{one.rmse:.3g}",
                    _combination(self.dataset.sel(sigma=at)),
                ]
            )
        return header, rows

    def table(self) -> str:
        """The verdicts as text."""
        header, rows = self.rows()
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [header, ["-" * width for width in widths], *rows]
        ]
        return "\n".join(lines)

    def summary(self) -> str:
        """The verdicts in a sentence for each range of noise levels that share one."""
        return "\n".join([*_sentences(self.verdicts), *_combinations(self.dataset)])

    def __repr__(self) -> str:
        return f"{self.summary()}\n\n{self.table()}"

    def figures(self) -> "dict[str, Figure]":
        """By name: `map` of the verdicts, `distances`, `strengths`, `memory`, `measures` where any were asked for; of
        samples `agreement`; of images `memorised`, where a share of them can be had, and `samples`."""
        from .figures import figures_of

        return figures_of(self)

    @checks_kinds
    def report(self, folder: str | os.PathLike[str]) -> Path:
        """Writes `report.html`, `results.nc`, `table.txt` and the figures, as PNG and PDF, into a folder.

        Each file is replaced whole. The page needs no other file.

        Returns:
            The path of the page.

        Raises:
            ValueError: for a path that is no folder and cannot be made one.
            OSError: where a file cannot be written.
        """
        from .page import write

        return write(self, folder)


def _combination(at: "xarray.Dataset") -> str:
    """In words, where a combination is nearer than every single candidate."""
    if "combination_is_nearer" not in at or not bool(at.combination_is_nearer):
        return "-"
    first, second = (str(name) for name in at.combination.values)
    low, high = at.combination_weight_interval.values
    return f"{float(at.combination_weight):.2f} [{low:.2f}, {high:.2f}] {first}, the rest {second}"


def _combinations(data: "xarray.Dataset") -> list[str]:
    """A sentence for each range of noise levels at which one combination is nearer than every single candidate."""
    runs: list[tuple[str, list[float]]] = []
    last = -2
    for i in range(data.sizes["sigma"]):
        at = data.isel(sigma=i)
        if _combination(at) == "-":
            continue
        pair = " and ".join(str(name) for name in at.combination.values)
        if runs and runs[-1][0] == pair and last == i - 1:
            runs[-1][1].append(float(at.sigma))
        else:
            runs.append((pair, [float(at.sigma)]))
        last = i
    return [
        f"{_where(levels[0], levels[-1])} a combination of {pair} is nearer than each alone."
        for pair, levels in runs
    ]


def _where(first: float, last: float) -> str:
    return (
        f"At noise level {first:.3g}"
        if first == last
        else f"At noise levels {first:.3g} to {last:.3g}"
    )


def _sentences(verdicts: Sequence[Verdict]) -> list[str]:
    """Neighbouring levels of one verdict together."""
    runs: list[list[Verdict]] = []
    for one in verdicts:
        if runs and (runs[-1][0].best, set(runs[-1][0].indistinguishable)) == (
            one.best,
            set(one.indistinguishable),
        ):
            runs[-1].append(one)
        else:
            runs.append([one])
    sentences = []
    for run in runs:
        first, last = run[0], run[-1]
        where = _where(first.sigma, last.sigma)
        if first.best is None:
            at = "" if len(run) == 1 else f"at {first.sigma:.3g} "
            sentences.append(f"{where} no mechanism explains the network: {at}{first.reason}.")
            continue
        others = first.indistinguishable[1:]
        tail = f"; {', '.join(others)} cannot be told from it" if others else ", and nothing else"
        sentences.append(f"{where} it is {first.best}{tail}.")
    return sentences


def _verdict(at: "xarray.Dataset") -> Verdict:
    names = [str(name) for name in at.candidate.values]
    order = np.argsort(at.rmse.values, kind="stable")
    kept = tuple(names[i] for i in order if bool(at.may_be_best.values[i]))
    nearest = at.sel(candidate=kept[0])
    return Verdict(
        float(at.sigma),
        kept[0] if bool(at.is_explained) else None,
        kept,
        float(nearest.strength),
        (float(nearest.strength_low), float(nearest.strength_high)),
        float(nearest.rmse),
        str(at.reason.values),
    )


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
    at_level = [_Level(found, [fit[i] for fit in fits], i, settings) for i in range(len(levels))]
    columns = [level.numbers() for level in at_level]
    dims = {
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
    per_candidate = {
        *("rmse", "rmse_se", "loss", "loss_se", "may_be_best", "explained", "explained_se"),
        *("is_at_floor", "relative", "learned_share", "learned_share_se"),
    }
    variables: dict[str, Any] = {}
    for name in columns[0]:
        names = dims.get(name, ("sigma", "candidate") if name in per_candidate else ("sigma",))
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


class _Level:
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
