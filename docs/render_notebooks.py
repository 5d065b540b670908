"""Runs the notebooks and writes them, with what they show, to docs/notebooks: `python docs/render_notebooks.py [NAME ...]`.

What is shown is kept small: pictures have a palette, progress bars and times are left out.
"""

import base64
import io
import os
import re
import sys
import time
from pathlib import Path

import jupytext
import nbclient
import nbformat
from PIL import Image

ROOT = Path(__file__).parent.parent
SCRIPTS, RENDERED = ROOT / "notebooks", Path(__file__).parent / "notebooks"


def render(script: Path) -> None:
    """One notebook, from its script, with JAX's default precision as users have it."""
    notebook = jupytext.read(script)
    os.environ.pop("JAX_ENABLE_X64", None)
    began = time.monotonic()
    nbclient.NotebookClient(notebook, timeout=3600, kernel_name="python3").execute(
        cwd=str(RENDERED)
    )
    for k, cell in enumerate(notebook.cells):
        cell.id = f"cell-{k}"
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [_small(one) for one in cell.outputs if one.get("name") != "stderr"]
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "python"}
    path = RENDERED / f"{script.stem}.ipynb"
    nbformat.write(notebook, path)
    seconds = time.monotonic() - began
    print(f"{path.name}: {seconds:.0f} s, {path.stat().st_size / 2**10:.0f} KiB")


def _small(output):
    picture = output.get("data", {}).get("image/png")
    if picture is not None:
        image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
        buffer = io.BytesIO()
        image.quantize(128).save(buffer, format="png", optimize=True)
        output["data"] = {"image/png": base64.b64encode(buffer.getvalue()).decode()}
    # Addresses of objects differ from run to run.
    text = output.get("data", {}).get("text/plain")
    if text is not None:
        output["data"]["text/plain"] = re.sub(r" at 0x[0-9a-f]+", "", text)
    return output


if __name__ == "__main__":
    RENDERED.mkdir(exist_ok=True)
    for script in sorted(SCRIPTS.glob("*.py")):
        if not sys.argv[1:] or script.stem in sys.argv[1:]:
            render(script)
