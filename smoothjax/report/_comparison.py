"""One comparison as files, and its page."""

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np

from .. import plots
from .._checks import import_optional, require_one_of
from .._files.output import (
    FIGURE_KINDS,
    netcdf_of,
    require_folder,
    write_bytes,
    write_figures,
    write_text,
)
from .._kinds import checks_kinds
from .._page import heading, items, page, paragraph, picture, table
from ..experiments import Comparison

_CAPTIONS = {
    "samples": "What each mechanism generates from the same initial noises.",
    "marginals": "Each column by itself: the distribution of the held-out points (grey) and of each mechanism's samples "
    "(lines), as histograms of density.",
    "correlations": "Correlations of pairs of columns: those of each mechanism's samples against those of held-out points; "
    "on the line they agree. Crosses are those of the training points.",
    "sample-measures": "Measures of these samples; bars are two standard errors or the interval of the table, the dashed "
    "line with its band is for fresh points of the data's law. A number without a bar has no known error.",
    "curves": "Denoisers against the noise level, at noisy held-out points; bands are two standard errors.",
    "regimes": "When the exact score of the training set commits, by noise level: what a noisy point tells of the clean "
    "one, its class and its point; entropy production; effective neighbours; the local dimension at training and at "
    "held-out points; and the levels at which single points have even odds. Bands are two standard errors, or quartiles.",
}


@checks_kinds
def save(
    comparison: Comparison,
    folder: str | os.PathLike[str],
    *,
    figures: tuple[str, ...] = (),
    command: str | None = None,
) -> Path:
    """Writes `results.nc`, `regimes.nc`, `table.txt`, a picture for each figure and `report.html` into a folder.

    Each file is replaced whole. The page needs no other file; it begins with what the comparison comes to, in words. What is
    said in words is in `report.json` too, for `side_by_side`.

    Args:
        comparison: what to write.
        folder: is made where there is none.
        figures: other kinds of files of each figure, beside PNG: "pdf", "svg".
        command: the command line that made it, for the page.

    Returns:
        The path of the page.

    Raises:
        ValueError: for a path that is no folder and cannot be made one, or another kind of figures.
        OSError: where a file cannot be written, on a full disk, say: those written before stay, and no half of one.
    """
    import_optional("h5netcdf")
    import_optional("h5py")
    for kind in figures:
        require_one_of(kind, FIGURE_KINDS, "figures")
    folder = require_folder(folder, "folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "results.nc", netcdf_of(comparison.results))
    if comparison.regimes is not None:
        write_bytes(folder / "regimes.nc", netcdf_of(comparison.regimes))
    write_text(folder / "table.txt", comparison.table() + "\n")
    words = {
        "command": command,
        "summary": comparison.summary().splitlines(),
        "definitions": comparison.definitions,
        "notes": comparison.notes,
    }
    write_text(folder / "report.json", json.dumps(words, indent=2, ensure_ascii=False) + "\n")
    pictures = write_figures(folder, plots.figures(comparison), figures, dpi=150)
    path = folder / "report.html"
    write_text(path, _page(comparison, pictures, command))
    return path


def _page(comparison: Comparison, pictures: dict[str, bytes], command: str | None = None) -> str:
    captions = dict(_CAPTIONS)
    if "correlations" in pictures:  # of a table
        captions["samples"] = captions["marginals"]
    parts = [
        heading("What it comes to"),
        items(comparison.summary().splitlines(), "said"),
        paragraph(TELLS_APART),
        table(*comparison.rows(), kind="summary"),
        heading("What the mechanisms are"),
        items(comparison.definitions),
        *(picture(png, captions[name]) for name, png in pictures.items()),
        heading("What a reader of the numbers must know"),
        items(comparison.notes),
        *_strength_parts(comparison),
        heading("Noise levels"),
    ]
    for title, rows in _level_tables(comparison).items():
        parts += [heading(title, 3), table(*rows)]
    title = f"What models trained on {comparison.train.name} would generate"
    return page(title, parts, comparison.manifest, command)


# Under every list of conclusions.
TELLS_APART = (
    "Shares are told apart by 95 % intervals that do not overlap, likelihoods by paired differences over held-out points, "
    "simultaneously at 95 %; what these do not tell apart is called tied. After ± stands one standard error. All of it is "
    "of this training set, these held-out points and these samples; another split has other numbers."
)


def _strength_parts(comparison: Comparison) -> list[str]:
    """The chosen strengths by noise level, a table for each mechanism; nothing where none was chosen."""
    r = comparison.results
    if "strength" not in r:
        return []
    parts = [heading("Strengths, chosen on points held back from the training set")]
    if "strength_end" in r and bool((r.strength_end != 0).any()):
        parts.append(
            paragraph(
                '"Or beyond": the outermost value that was tried was best, and a better one may lie outside.'
            )
        )
    header = ["noise level", *(f"{float(level):.3g}" for level in r.strength_level.values)]
    for title in r.attrs["strength_names"].split("; "):
        one = r.sel(mechanism=title.partition(":")[0])
        low, high = one.strength_interval.values.T

        def row(name: str, values: np.ndarray, form: str = ".3g") -> list[str]:
            return [name, *("" if math.isnan(x) else format(float(x), form) for x in values)]

        strengths = row("strength", one.strength.values)
        if "strength_end" in one:
            ends = one.strength_end.values
            strengths[1:] = [
                f"{cell} or beyond" if end else cell
                for cell, end in zip(strengths[1:], ends, strict=True)
            ]
        rows = [
            strengths,
            row("from (90 % interval)", low),
            row("to", high),
            row("the guess", np.full(len(low), float(one.strength_guess))),
            row(f"loss ({one.strength_loss.attrs['units']})", one.strength_loss.values, ".4g"),
            row("loss at the guess", one.strength_loss_guess.values, ".4g"),
            row("loss without", one.strength_loss_without.values, ".4g"),
            row("p of no gain", one.strength_p_value.values, ".2g"),
        ]
        parts += [heading(title, 3), table(header, rows)]
    return parts


def _level_tables(comparison: Comparison) -> dict[str, tuple[list[str], list[list[str]]]]:
    """A table for each measure: a column for each noise level, a row for each mechanism or pair, which may be many."""
    results = comparison.results
    names = [str(name) for name in results.mechanism.values]
    header = ["noise level", *(f"{float(level):.3g}" for level in results.level.values)]

    def row(name: str, values: np.ndarray, form: str) -> list[str]:
        cells = (float(value) for value in values)
        return [name, *("not defined" if math.isnan(x) else format(x, form) for x in cells)]

    rmse = results.rmse
    rows = {
        "RMSE a coordinate between mechanisms": [
            row(f"{a} – {b}", rmse.sel(mechanism=a, other=b).values, ".3g")
            for a, b in itertools.combinations(names, 2)
        ],
        **{
            one.label.replace("$", ""): [
                row(name, results[one.shown].sel(mechanism=name).values, ".3f") for name in names
            ]
            for one in comparison.measures()
        },
        "Effective number of training points": [
            row("mean", results.effective_neighbours.values, ".4g"),
            row("median", results.effective_neighbours_median.values, ".4g"),
        ],
    }
    return {title: (header, body) for title, body in rows.items() if body}
