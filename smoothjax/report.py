"""A comparison as files: labelled results, figures, and one HTML page that holds everything."""

import base64
import html
import itertools
import json
import math
import os
from pathlib import Path

import numpy as np

from . import plots
from ._checks import import_optional
from ._files.output import netcdf_of, png_of, require_folder, write_bytes, write_text
from ._kinds import checks_kinds
from .experiments import Comparison

_CAPTIONS = {
    "samples": "What each mechanism generates from the same initial noises.",
    "curves": "Denoisers against the noise level, at noisy held-out points; bands are two standard errors.",
}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
h3 {{ font-size: 1rem; margin-bottom: .3rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }}
th, td {{ text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid #ddd; }}
th {{ border-bottom: 2px solid #222; }} .summary tr:last-child td {{ color: #666; }}
.levels table {{ font-size: .85rem; }} .levels th, .levels td {{ padding-right: .7rem; }}
.scroll {{ overflow-x: auto; }} figure {{ margin: 1rem 0; }} img {{ max-width: 100%; height: auto; }}
figcaption, footer, li {{ color: #444; font-size: .93rem; }}
pre {{ background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .82rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<div class="scroll summary">{table}</div>
<ul>{notes}</ul>
{figures}
<h2>Noise levels</h2>
{levels}
<h2>How this was made</h2>
<details><summary>Configuration and versions</summary><pre>{manifest}</pre></details>
<footer>Every number of this page is in <code>results.nc</code>, labelled.</footer>
</body>
</html>
"""


@checks_kinds
def save(comparison: Comparison, folder: str | os.PathLike[str]) -> Path:
    """Writes `results.nc`, `samples.png`, `curves.png`, `table.txt` and `report.html` into a folder.

    Each file is replaced whole. The page needs no other file.

    Returns:
        The path of the page.

    Raises:
        ValueError: for a path that is no folder and cannot be made one.
        OSError: where a file cannot be written, on a full disk, say: those written before stay, and no half of one.
    """
    import_optional("h5netcdf")
    import_optional("h5py")
    folder = require_folder(folder, "folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "results.nc", netcdf_of(comparison.results))
    write_text(folder / "table.txt", comparison.table() + "\n")
    pictures = {name: png_of(figure, dpi=150) for name, figure in plots.figures(comparison).items()}
    for name, png in pictures.items():
        write_bytes(folder / f"{name}.png", png)
    path = folder / "report.html"
    write_text(path, _page(comparison, pictures))
    return path


def _page(comparison: Comparison, pictures: dict[str, bytes]) -> str:
    figures = "\n".join(
        f'<figure><img alt="{html.escape(_CAPTIONS[name])}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{html.escape(_CAPTIONS[name])}</figcaption></figure>"
        for name, png in pictures.items()
    )
    return _PAGE.format(
        title=html.escape(f"What models trained on {comparison.train.name} would generate"),
        table=_html_table(*comparison.rows()),
        notes="".join(f"<li>{html.escape(note)}</li>" for note in comparison.notes),
        figures=figures,
        levels="\n".join(
            f'<h3>{html.escape(title)}</h3>\n<div class="scroll levels">{_html_table(*table)}</div>'
            for title, table in _level_tables(comparison).items()
        ),
        manifest=html.escape(json.dumps(comparison.manifest, indent=2)),
    )


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


def _html_table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
