"""What all figures share: the palette, figures without pyplot, curves with error bands."""

import functools
import io
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
    "#44AA99",
    "#999933",
    "#882255",
    "#332288",
    "#DDCC77",
    "#AA4499",
    "#117733",
    "#661100",
    "#6699CC",
    "#6A3D9A",
)
# By these are curves told apart that lie on each other, and by those who see no colours.
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.6, 1.2, 1.6)))
MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def new_figure(
    rows: int, columns: int, size: tuple[float, float], **options: Any
) -> "tuple[Figure, np.ndarray]":
    # Not pyplot: a figure of one's own needs no backend and leaks into no global list.
    figure = _shown_figure()(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


@functools.cache
def _shown_figure() -> "type[Figure]":
    """A figure that notebooks show as a picture.

    They show matplotlib's own as one only after `%matplotlib inline`, or a first figure of pyplot.
    """
    base = import_optional("matplotlib.figure", extra="plot").Figure

    class ShownFigure(base):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", bbox_inches="tight")
            return buffer.getvalue()

    return ShownFigure


def band(
    ax: "Axes",
    x: np.ndarray,
    y: np.ndarray,
    error: np.ndarray,
    colour: str,
    label: str,
    style: Any = "-",
    marker: str = ".",
    **options: Any,
) -> None:
    """A curve, and a band of two standard errors about it; `options` are of the curve."""
    looks = {"lw": 1.4, "ms": 5 if marker == "." else 3.5, "ls": style, "marker": marker} | options
    ax.plot(x, y, color=colour, label=label, **looks)
    # On a logarithmic axis the lower edge must stay positive.
    low = np.maximum(y - 2 * error, 0.02 * np.abs(y))
    ax.fill_between(x, low, y + 2 * error, color=colour, alpha=0.2, lw=0)


def legend_below(ax: "Axes", columns: int = 2, **options: Any) -> None:
    """The legend of a panel under its axis, where it covers nothing; none where nothing has a label."""
    if not ax.get_legend_handles_labels()[0]:
        return
    translation = import_optional("matplotlib.transforms", extra="plot").ScaledTranslation
    figure = ax.get_figure()
    assert figure is not None
    # In inches, since panels have all heights: the room of tick labels and a label of one line.
    below = ax.transAxes + translation(0, -0.5, figure.dpi_scale_trans)
    ax.legend(
        **{"frameon": False, "fontsize": 8, "ncols": columns} | options,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=below,
        borderaxespad=0,
    )


def plain(x: float) -> str:
    """A number of three digits as one reads it: 1000, and not 1e+03."""
    return np.format_float_positional(x, precision=3, fractional=False, trim="-")


# Of one decade, from many ticks to few.
MANTISSAS = ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))


def plain_ticks(axis: Any, most: int = 5) -> None:
    """Of a logarithmic axis, a few labels as numbers that are read at once, 0.05 and not 5 x 10^-2; after all is drawn."""
    ticker = import_optional("matplotlib.ticker", extra="plot")
    low, high = sorted(axis.get_view_interval())
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks: list[float] = []
    for mantissas in MANTISSAS:
        ticks = [float(f"{m}e{k}") for k in decades for m in mantissas]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    if len(ticks) < 2:  # of much less than a decade
        ticks = [x for x in ticker.MaxNLocator(most - 1).tick_values(low, high) if low <= x <= high]
    ticks = ticks[:: -(-len(ticks) // most)]
    axis.set_major_locator(ticker.FixedLocator(ticks))
    axis.set_major_formatter(ticker.FuncFormatter(lambda x, _: plain(x)))
    axis.set_minor_formatter(ticker.NullFormatter())


# Labels of more decades than this would be numbers of many zeros.
_MOST_DECADES = 5


def plain_axes(ax: "Axes", most: int = 5) -> None:
    """Plain ticks on each axis that is logarithmic and of a few decades."""
    for axis, scale in ((ax.xaxis, ax.get_xscale()), (ax.yaxis, ax.get_yscale())):
        low, high = sorted(axis.get_view_interval())
        if scale == "log" and low > 0 and high < low * 10**_MOST_DECADES:
            plain_ticks(axis, most)


def plain_signed_ticks(axis: Any, most: int = 7, linear: float = 1.0) -> None:
    """Of an axis that is linear up to this size on both sides and logarithmic beyond, numbers that are read at once."""
    ticker = import_optional("matplotlib.ticker", extra="plot")
    low, high = sorted(axis.get_view_interval())
    if max(-low, high) <= linear:
        ticks = ticker.MaxNLocator(most - 2).tick_values(low, high)
    else:
        ticks = np.zeros(1)
        top = int(np.ceil(np.log10(max(-low, high) / linear)))
        for step in range(1, top + 2):
            sizes = linear * 10.0 ** np.arange(0, top + 1, step)
            ticks = np.concatenate([-sizes[::-1], [0.0], sizes])
            ticks = ticks[(low <= ticks) & (ticks <= high)]
            if len(ticks) <= most:
                break
    ticks = [float(x) for x in ticks if low <= x <= high]
    axis.set_major_locator(ticker.FixedLocator(ticks))
    axis.set_major_formatter(ticker.FuncFormatter(lambda x, _: plain(x)))
    axis.set_minor_locator(ticker.NullLocator())
