"""The notebooks run, top to bottom, at reduced size."""

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
