"""Figures of tables, the columns of which mean something each: marginals, and correlations of pairs."""

import math
from typing import TYPE_CHECKING

import numpy as np

from .._figure import new_figure
from .._kinds import checks_kinds
from ..experiments import Comparison
from ..mechanisms import looks_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_MARGINALS, NUM_BINS = 12, 30
# Of these all pairs are drawn.
MAX_CORRELATED = 64
GREY = "#777777"


def is_table(comparison: Comparison) -> bool:
    """Whether the data are columns, more than can be drawn as points, and no images."""
    return comparison.train.image_shape is None and comparison.train.dim > 2


def plot_marginals(comparison: Comparison) -> "Figure":
    """A panel for each column: densities of held-out points, filled, and of each mechanism's samples."""
    results, held_out = comparison.results, np.asarray(comparison.held_out.points, np.float64)
    names = [str(name) for name in results.mechanism.values]
    num = min(MAX_MARGINALS, held_out.shape[1])
    columns = min(4, num)
    rows = math.ceil(num / columns)
    figure, axes = new_figure(rows, columns, (3.3 * columns, 2.3 * rows + 0.9))
    for ax in axes.flat[num:]:
        ax.set_axis_off()
    for j, ax in zip(range(num), axes.flat, strict=False):
        samples = {name: results.sel(mechanism=name).samples.values[:, j] for name in names}
        edges = _edges(held_out[:, j], *samples.values())
        ax.stairs(
            density(held_out[:, j], edges), edges, fill=True, color="#DDDDDD", label="held out"
        )
        for name, look in looks_of(tuple(names)).items():
            values = density(samples[name], edges)
            ax.stairs(values, edges, color=look.colour, ls=look.dashes, lw=1.3, label=name)
        ax.set_title(f"column {j}", loc="left", fontsize=9)
        ax.set_yticks([])
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(labelsize=8)
    for ax in axes[:, 0]:
        ax.set_ylabel("density", fontsize=8)
    for ax in axes.flat[max(num - columns, 0) : num]:
        ax.set_xlabel("value (units of the column)", fontsize=8)
    if num < held_out.shape[1]:
        figure.suptitle(f"The first {num} of {held_out.shape[1]} columns", fontsize=10)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(6, len(names) + 1),
        frameon=False,
        fontsize=9,
    )
    return figure


def _edges(held_out: np.ndarray, *samples: np.ndarray) -> np.ndarray:
    """Of bins that hold all held-out points, and of samples what is not far outside."""
    low, high = held_out.min(), held_out.max()
    room = 0.25 * (high - low) or 1.0
    low = max(low - room, min(low, *(one.min() for one in samples)))
    high = min(high + room, max(high, *(one.max() for one in samples)))
    return np.linspace(low, high if high > low else low + 1, NUM_BINS + 1)


def density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """A histogram whose area is the share of the values that lie between its ends."""
    return np.histogram(values, edges)[0] / (len(values) * np.diff(edges))


@checks_kinds
def plot_correlations(comparison: Comparison) -> "Figure":
    """Correlations of pairs of columns, a panel for each mechanism: those of its samples against those of held-out points.

    Crosses are those of the training points. The band is two standard errors of the difference, as it would be of columns
    that are jointly Gaussian. Constant columns have no correlation and are left out; of more
    than 64 columns the first 64 are shown.

    Raises:
        ValueError: for images, and for data of fewer than three dimensions.
    """
    if not is_table(comparison):
        raise ValueError(
            "`comparison` must be of a table with at least three columns, and no images; got "
            f"{comparison.train.dim} dimensions of '{comparison.train.name}'."
        )
    results = comparison.results
    held_out, train = (
        np.asarray(one.points, np.float64) for one in (comparison.held_out, comparison.train)
    )
    names = [str(name) for name in results.mechanism.values]
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = new_figure(rows, columns, (3.5 * columns, 3.5 * rows + 0.5))
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    varying = _varying(held_out) & _varying(train)
    of_held_out, of_train = (correlations(one, varying) for one in (held_out, train))
    line = np.linspace(-1, 1, 101)
    for (name, look), ax in zip(looks_of(tuple(names)).items(), axes.flat, strict=False):
        samples = results.sel(mechanism=name).samples.values
        found = correlations(samples, varying)
        error = (1 - line**2) * math.sqrt(1 / len(held_out) + 1 / len(samples))
        ax.fill_between(line, line - 2 * error, line + 2 * error, color="#EEEEEE", lw=0)
        ax.plot(line, line, color=GREY, lw=0.8)
        ax.plot(of_held_out, of_train, "x", color=GREY, ms=4, label="training points")
        ax.plot(
            *(of_held_out, found, look.marker),
            color=look.colour,
            ms=4,
            mfc="none",
            label="samples",
        )
        off = math.sqrt(np.nanmean((found - of_held_out) ** 2)) if len(found) else math.nan
        ax.set_title(f"{name}: {off:.2f} off (r.m.s.)", loc="left", fontsize=10)
        ax.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal")
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xlabel("correlation of held-out points")
    for ax in axes[:, 0]:
        ax.set_ylabel("of samples")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _varying(points: np.ndarray) -> np.ndarray:
    return np.ptp(points, axis=0) > 0


def correlations(points: np.ndarray, varying: np.ndarray) -> np.ndarray:
    """Of all pairs of some columns, in the order of the upper triangle; NaN where a column of these points is constant."""
    used = np.asarray(points, np.float64)[:, np.flatnonzero(varying)[:MAX_CORRELATED]]
    if used.shape[1] < 2:
        return np.zeros(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_2d(np.corrcoef(used.T))[np.triu_indices(used.shape[1], 1)]
