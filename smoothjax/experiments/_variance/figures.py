"""Figures of the experiments on generalisation through variance."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._figure import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_target_noise(results: Any) -> "Figure":
    sets, times = results["set"].values, results.t.values
    figure, axes = new_figure(
        len(sets), len(times), (2.3 * len(times) + 1, 2.3 * len(sets)), sharex=True, sharey=True
    )
    edge = float(results.attrs["extent"])
    pictures = []
    for row, name in zip(axes, sets, strict=True):
        points = np.asarray(results.attrs[f"points {name}"]).reshape(-1, 2)
        for ax, t in zip(row, times, strict=True):
            pictures.append(
                ax.imshow(
                    results.share.sel(set=name, t=t),
                    origin="lower",
                    extent=(-edge, edge, -edge, edge),
                    vmin=0,
                    vmax=1,
                    cmap="magma",
                )
            )
            # The points as far as the process has shrunk them.
            ax.plot(*(np.sqrt(1 - t) * points.T), "o", ms=3, color=COLOURS[5])
            ax.set(xticks=(), yticks=())
        row[0].set_ylabel(name)
    for ax, t in zip(axes[0], times, strict=True):
        ax.set_title(f"t = {t:g}", fontsize=10)
    figure.colorbar(pictures[0], ax=axes, shrink=0.6, label="share of noise in the target")
    return figure


def plot_gap_filling(results: Any) -> "Figure":
    """Densities by both samplers, condition by condition, and whose the gap mass is."""
    cutoffs, sizes = results.cutoff.values, results.num_train.values
    figure, axes = new_figure(
        len(cutoffs), len(sizes) + 1, (2.5 * (len(sizes) + 1), 2.2 * len(cutoffs))
    )
    colours = dict(zip(results.sampler.values, (COLOURS[1], COLOURS[0]), strict=True))
    for row, cutoff in zip(axes, cutoffs, strict=True):
        for ax, size in zip(row, sizes, strict=False):
            one = results.sel(cutoff=cutoff, num_train=size)
            for single in one.density.sel(sampler="converged").values[:3]:
                ax.plot(results.bin, single, color=COLOURS[5], lw=0.5)
            for sampler, colour in colours.items():
                density = one.density.sel(sampler=sampler)
                low, high = density.quantile([0.25, 0.75], "model").values
                ax.fill_between(results.bin, low, high, color=colour, alpha=0.2, lw=0)
                ax.plot(
                    results.bin, density.mean("model"), color=colour, lw=1.2, label=str(sampler)
                )
            exact = results.exact_density.sel(cutoff=cutoff, sampler="published")
            ax.plot(results.bin, exact, color="#999999", lw=0.8, label="published, exact score")
            ax.plot([-1, 0, 1], [0.1] * 3, "k^", ms=4)
            ax.set(ylim=(0, 4), xlim=(-1.6, 1.6), yticks=())
            if cutoff == cutoffs[0]:
                ax.set_title(f"P = {size}", fontsize=10)
        row[0].set_ylabel(f"density, t = {cutoff:g}", fontsize=9)
        _plot_split(row[-1], results.sel(cutoff=cutoff))
    axes[0, 0].legend(fontsize=6, frameon=False, loc="upper left")
    axes[0, -1].set_title("gap mass of the\npublished sampler", fontsize=9)
    axes[0, -1].legend(fontsize=7)
    axes[-1, -1].set_xlabel("training samples P", fontsize=9)
    return figure


def _plot_split(ax: "Axes", results: Any) -> None:
    labels = {
        "models": "variance of models",
        "sampler": "its discretisation",
        "exact": "exact flow",
    }
    place, bottom = np.arange(results.sizes["num_train"]), 0
    for (part, label), colour in zip(
        labels.items(), (COLOURS[0], COLOURS[1], "#999999"), strict=True
    ):
        height = results.split.sel(part=part)
        error = 2 * results.split_se.sel(part=part)
        ax.bar(
            place, height, bottom=bottom, yerr=error, color=colour, label=label, ecolor="#444444"
        )
        bottom = bottom + height
    ax.set_xticks(place, results.num_train.values, fontsize=7)


def plot_gap_geometry(results: Any) -> "Figure":
    """Where samples lie, by features and rotation, and the masses of edges, diagonals and centre."""
    kinds, angles = results.features.values, results.rotation.values
    rows = [(sampler, kind) for sampler in results.sampler.values for kind in kinds]
    figure, axes = new_figure(
        len(rows), len(angles) + 1, (2.6 * (len(angles) + 1) + 1, 2.6 * len(rows))
    )
    edge = 1.5
    shown = ("edge gaps", "diagonal gaps", "centre")
    for row, (sampler, kind) in zip(axes, rows, strict=True):
        one = results.sel(sampler=sampler, features=kind)
        for ax, angle in zip(row, angles, strict=False):
            ax.imshow(
                np.sqrt(one.density.sel(rotation=angle)),
                origin="lower",
                extent=(-edge, edge, -edge, edge),
                cmap="magma",
            )
            ax.plot(*results.points.sel(rotation=angle).values.T, "o", ms=3, color=COLOURS[5])
            ax.set(xticks=(), yticks=())
        row[0].set_ylabel(f"{kind}, {sampler}")
        bars, width = row[-1], 0.8 / len(shown)
        place = np.arange(len(angles))
        for i, (region, colour) in enumerate(zip(shown, COLOURS, strict=False)):
            mass = one.mass.sel(region=region)
            error = 2 * mass.std("model", ddof=1) / np.sqrt(mass.sizes["model"])
            bars.bar(
                place + i * width, mass.mean("model"), width, yerr=error, color=colour, label=region
            )
            exact = results.exact_mass.sel(sampler=sampler, region=region)
            bars.plot(place + i * width, exact, "k_", ms=8)
        bars.set_xticks(place + width, [f"{angle:.2g}" for angle in angles])
        bars.set(ylim=(0, None), xlabel="rotation")
    for ax, angle in zip(axes[0], angles, strict=False):
        ax.set_title(f"rotated by {angle:.3g}", fontsize=10)
    axes[0, -1].set_title("mass (black: exact score)", fontsize=10)
    axes[0, -1].legend(fontsize=7)
    return figure
