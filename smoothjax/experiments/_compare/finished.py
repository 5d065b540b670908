"""Comparisons that are files: what a folder of one says, to be put beside others."""

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import measures
from ..._checks import import_optional
from ..._files.store import MANIFEST
from ..._kinds import checks_kinds
from ...measures import Measure, SampleMeasure
from .comparison import cell, nearest_level
from .summary import conclusions

if TYPE_CHECKING:
    import xarray

RESULTS, WORDS = "results.nc", "report.json"
# What every comparison of every release has.
_NEEDED = ("samples", "log_likelihood", "rmse", "noise_floor")


@dataclasses.dataclass(frozen=True)
class FinishedComparison:
    """What the folder of a finished comparison says, without its data.

    Attributes:
        folder: where it is.
        results: every number, as in `Comparison`.
        manifest: configuration, versions and data fingerprints.
        command: the command line that made it, or None.
        notes, definitions: as in `Comparison`; empty where the folder does not say.
    """

    folder: Path
    results: "xarray.Dataset"
    manifest: dict[str, Any]
    command: str | None
    notes: tuple[str, ...]
    definitions: tuple[str, ...]

    def summary(self) -> str:
        """As `Comparison.summary`."""
        return "\n".join(conclusions(self.results))

    def measures(self) -> tuple[Measure, ...]:
        """The measures that were taken at each noise level, of those that are registered."""
        return tuple(one for one in self._taken("measures") if isinstance(one, Measure))

    def sample_measures(self) -> tuple[SampleMeasure, ...]:
        """The measures that were taken of the samples, of those that are registered."""
        return tuple(
            one for one in self._taken("sample_measures") if isinstance(one, SampleMeasure)
        )

    def _taken(self, kind: str) -> list[Measure | SampleMeasure]:
        named = str(self.results.attrs.get(kind, "")).split()
        found = [measures.get(name) for name in named if name in measures.names()]
        return [one for one in found if one.shown in self.results]

    def cells(self) -> dict[str, dict[str, str]]:
        """The summary table as text: by column without the noise levels of this comparison, and by row."""
        r = self.results
        names = [str(name) for name in r.mechanism.values]
        columns = {one.label: (one.shown, r) for one in self.sample_measures()}
        columns["log-likelihood (nats)"] = ("log_likelihood", r)
        level = nearest_level(r)
        columns |= {one.name: (one.shown, r.sel(level=level)) for one in self.measures()}
        found = {}
        for title, (key, at) in columns.items():
            rows = {name: cell(at.sel(mechanism=name), key) for name in names}
            null = cell(r, f"{key}_null")
            found[title] = rows | ({"held-out data": null} if null else {})
        return found


@checks_kinds
def read_comparison(folder: str | os.PathLike[str]) -> FinishedComparison:
    """What the folder of a finished comparison says: what `smoothjax compare --out` or `report.save` left there.

    Folders of earlier releases are read too; what they do not say is left out.

    Raises:
        ValueError: for what is no folder of a comparison, or of one that did not end.

    Example:
        >>> import smoothjax as sj
        >>> sj.experiments.read_comparison("nowhere")
        Traceback (most recent call last):
        ValueError: `folder` must be that of a finished comparison; nowhere holds no results.nc.
    """
    xarray = import_optional("xarray")
    import_optional("h5netcdf")
    place = Path(folder)
    wanted = "`folder` must be that of a finished comparison"
    for name in (RESULTS, MANIFEST):
        if not (place / name).is_file():
            raise ValueError(f"{wanted}; {place} holds no {name}.")
    try:
        with xarray.open_dataset(place / RESULTS, engine="h5netcdf") as stored:
            results = stored.load()
        manifest = json.loads((place / MANIFEST).read_text())
        words = json.loads((place / WORDS).read_text()) if (place / WORDS).is_file() else {}
        dict(manifest["configuration"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{wanted}; the files in {place} cannot be read: {error}.") from error
    missing = [name for name in _NEEDED if name not in results]
    if missing or "mechanism" not in results.dims:
        kind = "an explanation" if "candidate" in results.dims else "something else"
        raise ValueError(f"{wanted}; {place} holds the results of {kind}.")
    return FinishedComparison(
        place,
        results,
        manifest,
        words.get("command"),
        tuple(words.get("notes", ())),
        tuple(words.get("definitions", ())),
    )
