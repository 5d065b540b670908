"""The notebooks run, top to bottom, at reduced size; those that are shown in docs are these, with what they gave."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))


# Half a minute to a minute each; this one represents the others.
REPRESENTATIVE = {"what_would_it_generate"}
PARAMETERS = [
    pytest.param(
        path,
        id=path.stem,
        marks=() if path.stem in REPRESENTATIVE else pytest.mark.exhaustive,
    )
    for path in NOTEBOOKS
]


RENDERED = Path(__file__).parent.parent / "docs" / "notebooks"


def test_every_notebook_is_shown_and_no_other():
    shown = sorted(path.stem for path in RENDERED.glob("*.ipynb"))
    assert shown == [path.stem for path in NOTEBOOKS]
    index = (RENDERED / "index.md").read_text()
    assert all(f"]({name}.ipynb)" in index for name in shown)
    assert sum(path.stat().st_size for path in RENDERED.glob("*.ipynb")) < 4 * 2**20


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_shown_is_the_script_and_was_run(path):
    """`python docs/render_notebooks.py NAME` after a change."""
    jupytext = pytest.importorskip("jupytext")
    script, shown = jupytext.read(path), jupytext.read(RENDERED / f"{path.stem}.ipynb")
    assert [(c.cell_type, c.source) for c in shown.cells] == [
        (c.cell_type, c.source) for c in script.cells
    ]
    code = [cell for cell in shown.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell.outputs]
    assert all(output.output_type != "error" for output in outputs)
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == script_pictures(script) > 0


def script_pictures(script):
    """How many figures a notebook shows."""
    return sum(
        cell.source.count("plots.show(") for cell in script.cells if cell.cell_type == "code"
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", PARAMETERS)
def test_notebook_runs(path, tmp_path):
    # As users run them, with JAX's default precision; through Jupyter's own machinery, which keeps what is shown.
    jupytext = pytest.importorskip("jupytext")
    notebook = tmp_path / f"{path.stem}.ipynb"
    jupytext.write(jupytext.read(path), notebook)
    environment = {**os.environ, "SMOOTHJAX_FAST": "1", "MPLBACKEND": "agg"}
    environment.pop("JAX_ENABLE_X64", None)
    script = (
        "import nbformat, nbclient, sys;"
        "n = nbformat.read(sys.argv[1], 4);"
        "nbclient.NotebookClient(n, timeout=600, kernel_name='python3').execute()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(notebook)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
