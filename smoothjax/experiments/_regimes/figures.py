"""The figure of regimes: what is known of a noisy point, and when, against the noise level."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._figure import COLOURS, band, legend_below, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINT, OTHERS, GAUSSIAN, CLASS = COLOURS[0], COLOURS[4], COLOURS[1], COLOURS[2]
GREY = "#777777"


def plot_regimes(results: Any) -> "Figure":
    """Information, its arrival, effective neighbours, dimension and U-turns, with the levels of collapse and speciation."""
    figure, axes = new_figure(2, 3, (13, 9))
    (information, rate, neighbours), (dimension, points, turns) = axes
    sigma = results.sigma.values
    _plot_information(information, results)
    band(rate, sigma, results.rate.values, results.rate_se.values, POINT, "training set")
    rate.plot(sigma, results.rate_gaussian, color=GAUSSIAN, lw=1.4, ls="--", label="Gaussian")
    rate.set(yscale="log", ylabel="$-dI / d\\log\\sigma$ = least error / $\\sigma^2$ (nats)")
    low = max(1e-4 * float(results.rate.max()), 1e-3)
    rate.set_ylim(low, 2 * float(max(results.rate.max(), results.rate_gaussian.max())))
    rate.set_title("Entropy production", loc="left", fontsize=10)
    number, error = results.effective_neighbours.values, results.effective_neighbours_se.values
    band(neighbours, sigma, number, error, POINT, "exp of the mean posterior entropy")
    neighbours.axhline(np.exp(float(results.max_information)), color=GREY, lw=0.8)
    neighbours.set(yscale="log", ylabel="training points")
    neighbours.set_title("Effective neighbours", loc="left", fontsize=10)
    _plot_dimension(dimension, results)
    points.hist(results.point_collapse, bins=np.geomspace(sigma[0], sigma[-1], 49), color=POINT)
    points.set(ylabel="draws", ylim=(0, None))
    points.set_title("Even odds of single points", loc="left", fontsize=10)
    if "same_point" in results:
        _plot_turns(turns, results)
    else:
        turns.set_axis_off()
    marks: dict[str, Artist] = {}
    for ax in axes.flat:
        if not ax.axison:
            continue
        ax.set_xscale("log")
        ax.set_xlim(sigma[0], sigma[-1])
        ax.set_xlabel("noise level $\\sigma$ (data units)")
        ax.spines[["top", "right"]].set_visible(False)
        marks = _mark(ax, results)
        if ax.get_legend_handles_labels()[0]:
            legend_below(ax, 1)
        plain_axes(ax)
    if turns.axison:
        where: dict[str, Any] = {"loc": "outside lower center", "ncols": len(marks)}
        figure.legend(list(marks.values()), list(marks), frameon=False, fontsize=9, **where)
    else:  # where there would be an empty panel
        turns.legend(
            list(marks.values()),
            [f"{words}: {_level(results, words)}" for words in marks],
            title="The lines, and their noise levels (data units)",
            loc="center",
            frameon=False,
            fontsize=10,
        )
    return figure


def _plot_information(ax: "Axes", results: Any) -> None:
    sigma, most = results.sigma.values, float(results.max_information)
    for name, colour, words in (
        ("information", POINT, "about the clean point: training set"),
        ("left_out", OTHERS, "the same, against the other points"),
        ("class_information", CLASS, "about the class"),
    ):
        if name in results:
            band(ax, sigma, results[name].values, results[f"{name}_se"].values, colour, words)
    ax.plot(sigma, results.information_gaussian, color=GAUSSIAN, ls="--", lw=1.4, label="Gaussian")
    ax.axhline(most, color=GREY, lw=0.8)
    ax.annotate("$\\log N$", (sigma[-1], most), ha="right", va="bottom", fontsize=8, color=GREY)
    ax.set(ylim=(0, 1.8 * most), ylabel="information (nats)")
    ax.set_title("What a noisy point tells", loc="left", fontsize=10)


def _plot_dimension(ax: "Axes", results: Any) -> None:
    for name, colour, words in (
        ("dimension_train", POINT, "at training points"),
        ("dimension_held_out", OTHERS, "at held-out points"),
    ):
        quartiles = np.maximum(results[name].values, 1e-3)
        ax.plot(results.sigma, quartiles[1], color=colour, lw=1.6, label=f"{words} (median)")
        ax.fill_between(results.sigma, quartiles[0], quartiles[2], color=colour, alpha=0.2, lw=0)
    top = 3 * float(results.dimension_train.max()) + 1
    ax.set(yscale="log", ylim=(0.05, top), ylabel="$d + d\\log p / d\\log\\sigma$")
    ax.set_title("Local dimension that the exact score sees", loc="left", fontsize=10)


def _plot_turns(ax: "Axes", results: Any) -> None:
    turns = results.turn_sigma.values
    for name, colour, words in (
        ("same_point", POINT, "same point"),
        ("same_class", CLASS, "same class"),
    ):
        if name in results:
            ends = results[f"{name}_interval"].values
            ax.plot(turns, results[name], "o-", color=colour, ms=4, lw=1.4, label=words)
            ax.fill_between(turns, ends[:, 0], ends[:, 1], color=colour, alpha=0.2, lw=0)
    ax.set(ylim=(-0.02, 1.08), ylabel="share of training points")
    ax.set_title("Noised to $\\sigma$ and back: comes out at the", loc="left", fontsize=10)


# The levels at which trajectories commit, by name: in words, and how they are drawn.
_MARKS = {
    "collapse": ("collapse", POINT, "--"),
    "speciation": ("speciation", "#000000", ":"),
    "class_level": ("half of the class known", CLASS, "-."),
}


def _mark(ax: "Axes", results: Any) -> "dict[str, Artist]":
    """Lines at these levels, by their words; where its error is known, with a band of two standard errors."""
    lines = {}
    for name, (words, colour, style) in _MARKS.items():
        if name not in results:
            continue
        level = float(results[name])
        lines[words] = ax.axvline(level, color=colour, lw=1.1, ls=style, zorder=1)
        if f"{name}_se" in results:
            error = 2 * float(results[f"{name}_se"])
            ax.axvspan(level - error, level + error, color=colour, alpha=0.12, lw=0, zorder=0)
    return lines


def _level(results: Any, words: str) -> str:
    name = next(name for name, mark in _MARKS.items() if mark[0] == words)
    error = f" ± {float(results[f'{name}_se']):.2g}" if f"{name}_se" in results else ""
    return f"{float(results[name]):.3g}{error}"
