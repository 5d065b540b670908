"""Figures of comparisons: what was generated, measures of that, and curves over noise levels."""

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .._figure import DASHES, band, legend_below, new_figure, plain_axes
from .._kinds import checks_kinds
from ..experiments import Comparison
from ..measures import Measure, SampleMeasure
from ..mechanisms import looks_of
from ._tables import is_table, plot_marginals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_COLUMNS = 16


@checks_kinds
def plot_samples(comparison: Comparison) -> "Figure":
    """What each mechanism generated, in the form that suits the data.

    Images: a row of samples from one shared set of noises, the nearest training image under each. One dimension: a histogram
    with the training points. Two: a scatter plot. More: the density of each column; see `plot_correlations`.
    """
    if comparison.train.image_shape is not None:
        return _plot_images(comparison)
    if comparison.train.dim == 1:
        return _plot_line(comparison)
    return plot_marginals(comparison) if is_table(comparison) else _plot_plane(comparison)


def _plot_images(comparison: Comparison) -> "Figure":
    shape = comparison.train.image_shape
    assert shape is not None
    results, train = comparison.results, np.asarray(comparison.train.points)
    names = list(results.mechanism.values)
    columns = min(MAX_COLUMNS, results.sizes["sample"])
    figure, axes = new_figure(
        2 * len(names), columns, (0.62 * columns + 1.2, 1.32 * len(names) + 0.6)
    )
    low, high = train.min(), train.max()
    looks = looks_of(tuple(map(str, names)))
    for i, name in enumerate(names):
        one = results.sel(mechanism=name)
        for j in range(columns):
            sample = one.samples.values[j]
            nearest = train[int(one.nearest.values[j])]
            for row, image in ((2 * i, sample), (2 * i + 1, nearest)):
                ax = axes[row, j]
                pixels = np.clip((image.reshape(shape) - low) / (high - low), 0, 1)
                ax.imshow(
                    pixels.squeeze(-1) if shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1
                )
                ax.set_xticks([])
                ax.set_yticks([])
                for spine in ax.spines.values():
                    spine.set_color(looks[str(name)].colour if row == 2 * i else "#BBBBBB")
                    spine.set_linewidth(1.2)
        axes[2 * i, 0].set_ylabel(str(name), rotation=0, ha="right", va="center", fontweight="bold")
        axes[2 * i + 1, 0].set_ylabel(
            "nearest\ntraining", rotation=0, ha="right", va="center", fontsize=7
        )
    figure.suptitle(
        f"Samples from the same noises, and their nearest training points ({comparison.train.name})"
    )
    return figure


def _plot_line(comparison: Comparison) -> "Figure":
    results, train = comparison.results, np.asarray(comparison.train.points)[:, 0]
    names = list(results.mechanism.values)
    figure, axes = new_figure(len(names), 1, (7, 1.7 * len(names) + 0.8), sharex=True)
    everything = np.concatenate([results.samples.values.ravel(), train])
    margin = 0.05 * (np.ptp(everything) + 1e-12)
    bins = np.linspace(everything.min() - margin, everything.max() + margin, 121)
    looks = looks_of(tuple(map(str, names)))
    for name, ax in zip(names, axes[:, 0], strict=True):
        samples = results.sel(mechanism=name).samples.values[:, 0]
        weights = np.full(len(samples), 1 / len(samples))
        ax.hist(samples, bins=bins, weights=weights, color=looks[str(name)].colour)
        # Beyond a few hundred, marks merge into a bar.
        if len(train) <= 200:
            ax.plot(
                train,
                np.zeros_like(train),
                "k|",
                markersize=12,
                markeredgewidth=1.5,
                label="training points",
            )
        ax.set_ylabel("fraction a bin")
        ax.set_title(str(name), loc="left", fontsize=10)
    axes[-1, 0].set_xlabel("$x$ (data units)")
    legend_below(axes[-1, 0])
    return figure


def _plot_plane(comparison: Comparison) -> "Figure":
    results, train = comparison.results, np.asarray(comparison.train.points)
    names = list(results.mechanism.values)
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = new_figure(
        rows, columns, (3.3 * columns, 3.3 * rows + 0.3), sharex=True, sharey=True
    )
    fresh, looks = np.asarray(comparison.held_out.points), looks_of(tuple(map(str, names)))
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    for name, ax in zip(names, axes.flat, strict=False):
        samples = results.sel(mechanism=name).samples.values
        ax.scatter(*fresh.T, s=3, color="#CCCCCC", label="held out", zorder=1, linewidths=0)
        ax.scatter(
            *samples.T,
            s=8,
            color=looks[str(name)].colour,
            alpha=0.6,
            label="samples",
            zorder=2,
            linewidths=0,
        )
        if len(train) <= 2000:
            ax.scatter(
                *train.T,
                s=22,
                facecolors="none",
                edgecolors="k",
                linewidths=0.7,
                label="training",
                zorder=3,
            )
        ax.set_title(str(name), loc="left", fontsize=10)
        # Columns of units of their own have no common scale.
        if "standardized" not in results.attrs:
            ax.set_aspect("equal", adjustable="box")
        ax.set_xlabel("$x_1$ (data units)")
    for ax in axes[:, 0]:
        ax.set_ylabel("$x_2$ (data units)")
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


@checks_kinds
def plot_sample_measures(comparison: Comparison) -> "Figure":
    """A panel for each measure of samples: a point for each mechanism, and a dashed line for fresh points of the data's law.

    Bars are two standard errors, or the interval that the measure gives.
    """
    results, taken = comparison.results, comparison.sample_measures()
    names = [str(name) for name in results.mechanism.values]
    size = (3.4 * len(taken) + 1, 0.35 * len(names) + 1.9)
    figure, axes = new_figure(1, len(taken), size, sharey=True)
    for measure, ax in zip(taken, axes[0], strict=True):
        values = results[measure.shown].values
        low, high = ends_of(results, measure.shown)
        for i, (value, look) in enumerate(
            zip(values, looks_of(tuple(names)).values(), strict=True)
        ):
            ax.plot([low[i], high[i]], [i, i], color=look.colour, lw=1.4)
            ax.plot(value, i, look.marker, color=look.colour, ms=5)
        null = f"{measure.shown}_null"
        if null in results:
            ax.axvspan(*map(float, ends_of(results, null)), color="#999999", alpha=0.2, lw=0)
            label = "fresh points of the data's law, with their error where it is known"
            ax.axvline(float(results[null]), color="#666666", ls="--", lw=1, label=label)
        ax.set_title(measure.description, loc="left", fontsize=9, wrap=True)
        ax.set_xlabel(unit_of(measure))
        if measure.is_logarithmic:
            ax.set_xscale("log")
        ax.set_xlim(*measure.limits)
        plain_axes(ax)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    explained = next((ax for ax in axes[0] if ax.get_legend_handles_labels()[0]), None)
    if explained is not None:
        figure.legend(
            *explained.get_legend_handles_labels(),
            loc="outside lower center",
            frameon=False,
            fontsize=8,
        )
    return figure


def unit_of(measure: SampleMeasure) -> str:
    """The label of an axis of it, with its unit."""
    return measure.label if measure.unit == "1" else f"{measure.label}\n({measure.unit})"


def ends_of(results: Any, name: str) -> tuple[Any, Any]:
    """Of the interval of a number, or two standard errors about it; the number itself where neither is known."""
    value = results[name].values
    if f"{name}_interval" in results:
        interval = results[f"{name}_interval"]
        return interval.sel(bound="low").values, interval.sel(bound="high").values
    error = results[f"{name}_se"].values if f"{name}_se" in results else 0
    return value - 2 * error, value + 2 * error


@checks_kinds
def plot_curves(comparison: Comparison) -> "Figure":
    """Against the noise level: RMSE between mechanisms, each measure taken, effective number of training points.

    Of many mechanisms, the RMSE from the empirical and the Gaussian denoiser only. Bands and bars are two standard errors.
    """
    results = comparison.results
    names = [str(name) for name in results.mechanism.values]
    curves = _curves_of_pairs(names)
    legend_rows = math.ceil(max(len(curves), len(names)) / 2)
    taken = comparison.measures()
    num = 2 + len(taken)
    figure, axes = new_figure(1, num, (4 * num, 3.7 + 0.19 * legend_rows))
    rmse, *of_measures, neighbours = axes[0]
    level = results.level.values
    looks = looks_of(tuple(names))
    for first, second, style in curves:
        one = results.sel(mechanism=first, other=second)
        numbers, marker = (one.rmse.values, one.rmse_se.values), looks[first].marker
        # The line is of the one mechanism, its marks are filled with the other's colour.
        filled = {"mfc": looks[second].colour}
        label = f"{first} – {second}"
        band(rmse, level, *numbers, looks[first].colour, label, style, marker, **filled)
    rmse.set_title("How far apart the denoisers are", loc="left", fontsize=10)
    rmse.set_ylabel("RMSE a coordinate (data units)")
    rmse.set_yscale("log")
    for measure, ax in zip(taken, of_measures, strict=True):
        _plot_measure(ax, measure, results, names)
    number = results.effective_neighbours.values
    band(neighbours, level, number, results.effective_neighbours_se.values, "black", "mean")
    neighbours.plot(
        level,
        results.effective_neighbours_median.values,
        "--",
        color="black",
        lw=1,
        label="median",
    )
    total = results.attrs["num_train"]
    neighbours.axhline(total, color="#999999", lw=0.8)
    neighbours.annotate(
        f"all {total}",
        (level[0], total),
        (0, 2),
        textcoords="offset points",
        va="bottom",
        fontsize=8,
        color="#666666",
    )
    neighbours.set_title("How many training points a noisy point sees", loc="left", fontsize=10)
    neighbours.set_ylabel("effective number, exp(entropy)")
    neighbours.set_yscale("log")
    neighbours.set_ylim(top=2 * total)
    for ax in axes[0]:
        ax.set_xscale("log")
        ax.set_xlabel("noise level $\\sigma$ (data units)")
        ax.spines[["top", "right"]].set_visible(False)
        plain_axes(ax)
        # Curves may be anywhere inside.
        legend_below(ax)
    return figure


def _plot_measure(ax: Any, measure: Measure, results: Any, names: list[str]) -> None:
    """A curve for each mechanism."""
    values = results[measure.shown]
    for name, look in looks_of(tuple(names)).items():
        band(
            ax,
            results.level.values,
            values.sel(mechanism=name).values,
            results[f"{measure.shown}_se"].sel(mechanism=name).values,
            look.colour,
            name,
            look.dashes,
            look.marker,
        )
    ax.set_title(measure.description, loc="left", fontsize=10)
    ax.set_ylabel(measure.label)
    ax.set_ylim(*measure.limits)
    if measure.is_logarithmic:
        ax.set_yscale("log")
    if not np.any(np.isfinite(values.values)):
        ax.set_xlim(results.level.values[0], results.level.values[-1])
        where = {"transform": ax.transAxes, "ha": "center", "va": "center"}
        why = "not defined in one dimension" if results.sizes["coordinate"] == 1 else "not defined"
        ax.text(0.5, 0.5, why, color="#666666", **where)


# More curves than this cannot be told apart.
MAX_PAIRS = 6
REFERENCES = ("empirical", "gaussian")


def _curves_of_pairs(names: list[str]) -> list[tuple[str, str, Any]]:
    """Which pairs are drawn, each with a line style: all if they are few, else those with a reference.

    The style tells apart the curves of one mechanism. Where neither reference is there, the first mechanism is one.
    """
    pairs = list(itertools.combinations(names, 2))
    if len(pairs) > MAX_PAIRS:
        references = [name for name in REFERENCES if name in names] or names[:1]
        # Of the two references, one curve.
        pairs = [
            (name, reference)
            for name in names
            for i, reference in enumerate(references)
            if name not in references[: i + 1]
        ]
    drawn: dict[str, int] = {}
    curves = []
    for first, second in pairs:
        curves.append((first, second, DASHES[drawn.get(first, 0) % len(DASHES)]))
        drawn[first] = drawn.get(first, 0) + 1
    return curves
