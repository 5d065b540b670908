"""Figures where one looks: in place in a notebook, in a file otherwise."""

import sys
from pathlib import Path
from typing import Any

from .._checks import shown
from .._files.output import png_of, write_bytes
from .._kinds import checks_kinds


@checks_kinds
def show(figure: Any, name: str, dpi: int = 100) -> None:
    """Shows a figure: in place in a notebook; from a script as the file `NAME.png` in the current folder, and says so.

    Figures of this library and those of pyplot look the same in both, and a pyplot figure that was shown is closed, so that
    notebooks do not show it twice.

    Args:
        figure: of matplotlib.
        name: of the file, without its ending.
        dpi: pixels an inch.

    Raises:
        ValueError: for what is no figure, or a name that is empty or holds a separator of folders.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from smoothjax import plots
        >>> plots.show(Figure(figsize=(2, 1)), "nothing")
        nothing.png
    """
    if not callable(getattr(figure, "savefig", None)):
        raise ValueError(f"`figure` must be a figure of matplotlib; got {shown(figure)}.")
    if not name or set(name) & {"/", "\\", "\0"}:
        raise ValueError(f"`name` must be a name of a file without its ending; got {name!r}.")
    if dpi < 1:
        raise ValueError(f"`dpi` must be positive; got {dpi}.")
    content = png_of(figure, dpi)
    if _is_notebook():
        from IPython.display import Image, display

        display(Image(data=content, format="png"))
    else:
        path = Path(f"{name}.png")
        write_bytes(path, content)
        print(path)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(figure)


def _is_notebook() -> bool:
    """Whether this is a kernel of Jupyter, which shows pictures; IPython in a terminal shows none."""
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    return hasattr(running, "kernel")
