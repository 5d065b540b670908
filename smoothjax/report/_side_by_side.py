"""Several finished comparisons in one page: what each concludes, tables, curves, and what differs in their settings."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import plots
from .._checks import require_one_of, shown
from .._files.output import FIGURE_KINDS, png_of, require_folder, write_figures, write_text
from .._kinds import checks_kinds
from .._page import heading, items, page, paragraph, picture, table
from ..experiments import FinishedComparison, read_comparison
from ._comparison import TELLS_APART

_CAPTIONS = {
    "measures": "Numbers of each mechanism, a mark for each comparison; bars are two standard errors or the interval of the "
    "table, and a number without a bar has no known error. Grey: fresh points of the data's law.",
    "curves": "Curves against the noise level, a panel for each mechanism and a line style for each comparison, so that the "
    "lines of one mechanism lie in one panel. Bands are two standard errors.",
}
# Of a configuration, what fingerprints say is said in words instead.
_IN_WORDS = {"train_sha256": "training points", "held_out_sha256": "held-out points"}


@checks_kinds
def side_by_side(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    figures: tuple[str, ...] = (),
    command: str | None = None,
) -> Path:
    """Writes one page about several finished comparisons: conclusions, tables, curves, and what differs in their settings.

    Args:
        folders: of finished comparisons, as `smoothjax compare --out` or `save` leaves them; of earlier releases too.
        out: the page, a file that ends in `.html`. Its folder is made where there is none.
        figures: kinds of files of each figure, beside the page: "png", "pdf", "svg".
        command: the command line that made it, for the page.

    Returns:
        The path of the page, which needs no other file.

    Raises:
        ValueError: for fewer than two folders, a folder twice, one of no finished comparison, or a page that is none.
        OSError: where a file cannot be written.
    """
    for kind in figures:
        require_one_of(kind, ("png", *FIGURE_KINDS), "figures")
    path = Path(out)
    if path.suffix != ".html" or path.is_dir():
        raise ValueError(f"`out` must be a file that ends in .html; got {shown(str(out))}.")
    require_folder(path.parent, "out")
    if isinstance(folders, str) or len(folders) < 2:
        raise ValueError(f"`folders` must be at least two folders; got {shown(folders)}.")
    runs = named([read_comparison(folder) for folder in folders])
    drawn = plots.figures_of_several(runs)
    pictures = {name: png_of(figure, dpi=150) for name, figure in drawn.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if figures:
        of_files = {f"{path.stem}-{name}": figure for name, figure in drawn.items()}
        write_figures(path.parent, of_files, [kind for kind in figures if kind != "png"], dpi=150)
    write_text(path, _page(runs, pictures, command))
    return path


def named(runs: Sequence[FinishedComparison]) -> dict[str, FinishedComparison]:
    """By the ends of their paths, as long as it takes to tell them apart."""
    parts = [one.folder.absolute().parts for one in runs]
    if len(set(parts)) < len(parts):
        raise ValueError("`folders` must differ; got one twice.")
    num = 1
    while len({part[-num:] for part in parts}) < len(parts):
        num += 1
    names = ["/".join(part[-num:]) for part in parts]
    return dict(zip(names, runs, strict=True))


def _page(
    runs: dict[str, FinishedComparison], pictures: dict[str, bytes], command: str | None
) -> str:
    parts = [heading("What each comes to")]
    for name, run in runs.items():
        parts += [heading(name, 3), items(run.summary().splitlines(), "said")]
    parts += [paragraph(TELLS_APART), heading("What differs in their settings")]
    rows = differences(runs)
    parts.append(
        table(["setting", *runs], rows)
        if rows
        else paragraph("Nothing: the settings are the same.")
    )
    parts += [items(_cautions(runs)), heading("Side by side")]
    for title, cells in by_column(runs).items():
        parts += [heading(title.replace("$", ""), 3), table(["mechanism", *runs], cells)]
    parts += [picture(png, _CAPTIONS[name]) for name, png in pictures.items()]
    parts.append(heading("The comparisons"))
    for name, run in runs.items():
        made = "No command line is known." if run.command is None else f"Made by: {run.command}"
        parts += [heading(name, 3), paragraph(made)]
        parts.append(
            items(run.definitions or ("This folder does not say what its mechanisms are.",))
        )
    manifest = {name: run.manifest for name, run in runs.items()}
    return page("Comparisons side by side", parts, manifest, command)


def by_column(runs: dict[str, FinishedComparison]) -> dict[str, list[list[str]]]:
    """For each number of the summary tables the rows of a table: a mechanism each, with a cell for each comparison."""
    cells = {name: run.cells() for name, run in runs.items()}
    tables = {}
    for title in dict.fromkeys(title for found in cells.values() for title in found):
        columns = [found.get(title, {}) for found in cells.values()]
        rows = dict.fromkeys(row for column in columns for row in column)
        # Fresh points last.
        order = sorted(rows, key=lambda row: row == "held-out data")
        tables[title] = [[row, *(column.get(row, "") for column in columns)] for row in order]
    return tables


def differences(runs: dict[str, FinishedComparison]) -> list[list[str]]:
    """The rows of a table of all settings that are not the same in all comparisons."""
    settings = [_settings(run) for run in runs.values()]
    # Of mechanisms that are in one only, and of those of other training sets, there is nothing to compare.
    common = set.intersection(*(set(one["mechanisms"]) for one in settings))
    if len({one["training points"] for one in settings}) > 1:
        common = set()
    rows = []
    for key in dict.fromkeys(key for one in settings for key in one):
        values = [one.get(key) for one in settings]
        is_mark = key in _IN_WORDS.values() or key in {_as_made(name) for name in common}
        if key.startswith(_AS_MADE) and not is_mark:
            continue
        if any(value != values[0] for value in values):
            rows.append([key, *(_letters(values) if is_mark else map(_text, values))])
    return rows


_AS_MADE = "how it was made: "


def _as_made(name: str) -> str:
    return f"{_AS_MADE}{name}"


def _settings(run: FinishedComparison) -> dict[str, Any]:
    """What decided a comparison's numbers, each under one name."""
    configuration = dict(run.manifest["configuration"])
    denoisers = configuration.pop("denoisers", {})
    configuration.pop("efforts", None)  # follow from the rest
    found: dict[Any, Any] = {"training points": None, "held-out points": None}
    found |= {_IN_WORDS.get(key, key): value for key, value in configuration.items()}
    found["mechanisms"] = list(denoisers)
    found |= {_as_made(name): mark for name, mark in denoisers.items()}
    found["strength"] = run.results.attrs.get("strength")
    environment = run.manifest.get("environment", {})
    return found | {f"version of {key}": value for key, value in environment.items()}


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "-"
    return value if isinstance(value, str) else json.dumps(value)


def _letters(values: Sequence[Any]) -> list[str]:
    """Equal letters for what is equal, and no fingerprints."""
    kinds = list(dict.fromkeys(json.dumps(value) for value in values))
    return ["" if v is None else f"set {_letter(kinds.index(json.dumps(v)))}" for v in values]


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else str(index)


def _cautions(runs: dict[str, FinishedComparison]) -> list[str]:
    """What must not be read from one column to the next."""
    configurations = [run.manifest["configuration"] for run in runs.values()]
    same = lambda *keys: all(  # noqa: E731
        len({json.dumps(one.get(key)) for one in configurations}) == 1 for key in keys
    )
    said = []
    if not same("held_out_sha256", "noise_floor", "seed"):
        said.append(
            "Log-likelihoods are of different points, noises or noise levels: do not compare them from one comparison to "
            "another, only within each."
        )
    else:
        said.append(
            "Log-likelihoods are of the same noisy points in all, so that they can be compared."
        )
    if not same("held_out_sha256", "train_sha256", "num_samples"):
        said.append(
            "Distances of samples from held-out points (Fréchet) have a bias that depends on the points and on how many "
            "there are: hold each against its own last row."
        )
    return said
