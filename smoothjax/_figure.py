"""What all figures share: the palette, figures without pyplot, curves with error bands."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ._checks import import_optional

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Tol's muted palette, for what comes after them.
FURTHER = (
    "#332288",
    "#999933",
    "#882255",
    "#44AA99",
    "#DDCC77",
    "#AA4499",
    "#117733",
    "#661100",
    "#6699CC",
)


def new_figure(
    rows: int, columns: int, size: tuple[float, float], **options: Any
) -> "tuple[Figure, np.ndarray]":
    # Not pyplot: a figure of one's own needs no backend, leaks into no global list, and notebooks show it all the same.
    figure = import_optional("matplotlib.figure", extra="plot").Figure(
        figsize=size, layout="constrained"
    )
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def band(
    ax: "Axes",
    x: np.ndarray,
    y: np.ndarray,
    error: np.ndarray,
    colour: str,
    label: str,
    style: str = "-",
) -> None:
    ax.plot(x, y, "." + style, color=colour, label=label, lw=1.4, ms=5)
    # On a logarithmic axis the lower edge must stay positive.
    low = np.maximum(y - 2 * error, 0.02 * np.abs(y))
    ax.fill_between(x, low, y + 2 * error, color=colour, alpha=0.2, lw=0)
