"""Figures of several finished comparisons: the same numbers side by side."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import shown
from .._figure import DASHES, MARKERS, band, new_figure, plain_axes, plain_signed_ticks
from .._kinds import checks_kinds
from ..experiments import FinishedComparison
from ..mechanisms import looks_of
from ._comparison import ends_of, unit_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#777777"
REFERENCES = ("empirical", "gaussian")


@checks_kinds
def figures_of_several(runs: Mapping[str, FinishedComparison]) -> "dict[str, Figure]":
    """Figures of several comparisons by name: `measures` with their bars, and `curves` against the noise level.

    A mechanism has its colour, a comparison its marks and line style.

    Args:
        runs: comparisons by the names that legends show.

    Raises:
        ValueError: for no comparison, or what is none.
    """
    if not runs or not all(isinstance(one, FinishedComparison) for one in runs.values()):
        raise ValueError(f"`runs` must be finished comparisons by name; got {shown(runs)}.")
    names = list(
        dict.fromkeys(str(n) for one in runs.values() for n in one.results.mechanism.values)
    )
    return {"measures": _plot_measures(runs, names), "curves": _plot_curves(runs, names)}


def _plot_measures(runs: Mapping[str, FinishedComparison], names: list[str]) -> "Figure":
    """A panel for each measure of samples, and one for the likelihood; a row for each mechanism, a mark for each run."""
    measures = {one.shown: one for run in runs.values() for one in run.sample_measures()}
    keys = [*measures, "log_likelihood"]
    size = (3.4 * len(keys) + 1, (0.25 + 0.2 * len(runs)) * len(names) + 1.9)
    figure, axes = new_figure(1, len(keys), size, sharey=True)
    looks = looks_of(tuple(names))
    shifts = np.linspace(-0.28, 0.28, len(runs)) if len(runs) > 1 else np.zeros(1)
    for key, ax in zip(keys, axes[0], strict=True):
        for k, run in enumerate(runs.values()):
            _draw_run(ax, run, key, names, float(shifts[k]), k)
        measure = measures.get(key)
        if measure is None:
            ax.set_title("How likely held-out points are", loc="left", fontsize=9)
            ax.set_xlabel("log-likelihood\n(nats a point, each at its noise level)")
            _spread_out(ax)
        else:
            ax.set_title(measure.description, loc="left", fontsize=9)
            ax.set_xlabel(unit_of(measure))
            ax.set_xlim(*measure.limits)
            if measure.is_logarithmic:
                ax.set_xscale("log")
        ax.spines[["top", "right"]].set_visible(False)
        plain_axes(ax)
    axes[0, 0].set_yticks(range(len(names)), names)
    for label, name in zip(axes[0, 0].get_yticklabels(), names, strict=True):
        label.set_color(looks[name].colour)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    for k, name in enumerate(runs):
        axes[0, 0].plot([], [], color="black", marker=_mark(k), ls=_dashes(k), ms=5, label=name)
    _legend(figure, axes[0, 0], len(runs))
    return figure


def _draw_run(
    ax: "Axes", run: FinishedComparison, key: str, names: list[str], shift: float, k: int
) -> None:
    r, looks = run.results, looks_of(tuple(names))
    if key not in r:
        return
    low, high = ends_of(r, key)
    for i, name in enumerate(map(str, r.mechanism.values)):
        y, colour = names.index(name) + shift, looks[name].colour
        ax.plot([low[i], high[i]], [y, y], color=colour, lw=1.4)
        ax.plot(float(r[key].values[i]), y, _mark(k), color=colour, ms=5)
    if f"{key}_null" in r:
        ax.axvline(float(r[f"{key}_null"]), color=GREY, ls=_dashes(k), lw=1, zorder=0)


def _spread_out(ax: "Axes") -> None:
    """A likelihood that is hundreds below the others would hide how these differ."""
    ax.set_xscale("symlog", linthresh=10)
    plain_signed_ticks(ax.xaxis, 5, 10.0)


def _plot_curves(runs: Mapping[str, FinishedComparison], names: list[str]) -> "Figure":
    """Rows: the distance from a reference, each measure. Columns: mechanisms. And how many training points are seen."""
    measures = {
        one.shown: one
        for run in runs.values()
        for one in run.measures()
        if np.any(np.isfinite(run.results[one.shown].values))  # linearity is not, on a line
    }
    reference = next((one for one in REFERENCES if one in names), names[0])
    rows, columns = 1 + len(measures), len(names) + 1
    size = (2.4 * columns, 2.6 * rows + 0.8)
    figure, axes = new_figure(rows, columns, size, sharey=False)
    looks = looks_of(tuple(names))
    for j, name in enumerate(names):
        for k, run in enumerate(runs.values()):
            r = run.results
            if name not in r.mechanism.values:
                continue
            one, look, how = r.sel(mechanism=name), looks[name], (_dashes(k), _mark(k))
            level = r.level.values
            if reference in r.mechanism.values and name != reference:
                pair = one.sel(other=reference)
                band(
                    axes[0, j], level, pair.rmse.values, pair.rmse_se.values, look.colour, "", *how
                )
            for i, key in enumerate(measures):
                if key in r and np.any(np.isfinite(one[key].values)):
                    numbers = one[key].values, one[f"{key}_se"].values
                    band(axes[1 + i, j], level, *numbers, look.colour, "", *how)
        axes[0, j].set_title(name, loc="left", fontsize=10, color=looks[name].colour)
    _share_rows(axes[:, :-1], [None, *measures.values()])
    axes[0, 0].set_ylabel(f"RMSE from {reference}\n(data units a coordinate)")
    for i, measure in enumerate(measures.values()):
        axes[1 + i, 0].set_ylabel(measure.label)
    last = axes[0, -1]
    for k, (name, run) in enumerate(runs.items()):
        r = run.results
        numbers = r.effective_neighbours.values, r.effective_neighbours_se.values
        band(last, r.level.values, *numbers, "black", name, _dashes(k), _mark(k))
    last.set_ylabel("training points seen\n(exp of the entropy)")
    last.set_yscale("log")
    for ax in axes[1:, -1]:
        ax.set_axis_off()
    for ax in axes.flat:
        ax.set_xscale("log")
        ax.spines[["top", "right"]].set_visible(False)
        if ax.lines:
            plain_axes(ax, 4)
        elif ax.axison:
            ax.spines[:].set_visible(False)
            ax.set(xticks=[], yticks=[], xlabel="")
            ax.minorticks_off()
            if ax is axes[0, names.index(reference)]:
                where = {"transform": ax.transAxes, "ha": "center", "va": "center", "fontsize": 8}
                ax.text(0.5, 0.5, "the reference", color=GREY, **where)
    for j in range(columns):
        lowest = max((i for i in range(rows) if axes[i, j].lines), default=rows - 1)
        axes[lowest, j].set_xlabel("noise level $\\sigma$ (data units)", fontsize=8)
    _legend(figure, last, len(runs))
    return figure


def _share_rows(axes: np.ndarray, measures: list[Any]) -> None:
    """One axis for the panels of a row, so that mechanisms can be compared too."""
    for row, measure in zip(axes, measures, strict=True):
        is_logarithmic = measure is None or measure.is_logarithmic
        used = [ax for ax in row if ax.lines]
        heights = np.concatenate([line.get_ydata() for ax in used for line in ax.lines] or [[]])
        is_logarithmic = is_logarithmic and bool(np.any(heights > 0))
        for ax in used:
            ax.set_yscale("log" if is_logarithmic else "linear")
        if measure is not None and used:
            for ax in used:
                ax.set_ylim(*measure.limits)
        limits = [ax.get_ylim() for ax in used]
        for ax in used:
            ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _mark(k: int) -> str:
    return MARKERS[k % len(MARKERS)]


def _dashes(k: int) -> Any:
    return DASHES[k % len(DASHES)]


def _legend(figure: "Figure", ax: "Axes", num: int) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(4, num), frameon=False, fontsize=9
    )
