"""The outcome of an explanation: verdicts, labelled numbers, samples, and a table."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._columns import text_table
from ..._kinds import checks_kinds
from ...datasets import Dataset
from ...denoisers import Denoiser
from .settings import ExplainSettings
from .verdicts import Verdict

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


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
        At noise level 1 it is gaussian, and nothing else; shrinkage 0.3.
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
        return text_table(*self.rows())

    def summary(self) -> str:
        """The verdicts in a sentence for each range of noise levels that share one."""
        return "\n".join([*_sentences(self.verdicts, self.dataset), *_combinations(self.dataset)])

    def __repr__(self) -> str:
        return f"{self.summary()}\n\n{self.table()}"

    def figures(self) -> "dict[str, Figure]":
        """By name: `map` of the verdicts, `distances`, `strengths`, `memory`, `measures` where any were asked for; of
        samples `agreement`; of images `memorised`, where a share of them can be had, and `samples`."""
        from .figures import figures_of

        return figures_of(self)

    @checks_kinds
    def report(
        self,
        folder: str | os.PathLike[str],
        *,
        figures: tuple[str, ...] = ("pdf",),
        command: str | None = None,
    ) -> Path:
        """Writes `report.html`, `results.nc`, `table.txt` and the figures into a folder.

        Each file is replaced whole. The page needs no other file.

        Args:
            folder: is made where there is none.
            figures: kinds of files of each figure, beside PNG: "pdf", "svg".
            command: the command line that made it, for the page.

        Returns:
            The path of the page.

        Raises:
            ValueError: for a path that is no folder and cannot be made one, or another kind of figures.
            OSError: where a file cannot be written.
        """
        from .page import write

        return write(self, folder, figures, command)


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


def _sentences(verdicts: Sequence[Verdict], data: "xarray.Dataset") -> list[str]:
    """Neighbouring levels of one verdict together, with the strengths of the nearest."""
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
        sentences.append(f"{where} it is {first.best}{tail}{_strengths(run, data)}.")
    return sentences


def _strengths(run: Sequence[Verdict], data: "xarray.Dataset") -> str:
    """The fitted strengths of levels that share a verdict, with their name and unit."""
    at = data.sel(candidate=run[0].best)
    values = [one.strength for one in run]
    if not np.all(np.isfinite(values)):
        return ""
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    unit = "" if str(at.strength_unit.values) == "1" else f" {at.strength_unit.values}"
    return f"; {at.strength_name.values} {low if low == high else f'{low} to {high}'}{unit}"


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
