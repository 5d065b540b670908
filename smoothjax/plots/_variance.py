"""Figures of the experiments on generalisation through variance."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ._figure import COLOURS, new_figure

if TYPE_CHECKING:
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
    cutoffs, sizes = results.cutoff.values, results.num_train.values
    figure, axes = new_figure(
        len(cutoffs),
        len(sizes) + 1,
        (2.4 * (len(sizes) + 1), 2.1 * len(cutoffs)),
    )
    num_models = results.sizes["model"]
    for row, cutoff in zip(axes, cutoffs, strict=True):
        for ax, size in zip(row, sizes, strict=False):
            density = results.density.sel(cutoff=cutoff, num_train=size)
            mean, spread = density.mean("model"), density.std("model", ddof=1)
            for single in density.values[:3]:
                ax.plot(results.bin, single, color=COLOURS[5], lw=0.5)
            ax.plot(results.bin, mean, color=COLOURS[0], lw=1.2)
            error = 2 * spread / np.sqrt(num_models)
            ax.fill_between(results.bin, mean - error, mean + error, color=COLOURS[0], alpha=0.3)
            ax.set(ylim=(0, 4), yticks=())
            ax.plot([-1, 0, 1], [0.1] * 3, "k^", ms=4)
            if cutoff == cutoffs[0]:
                ax.set_title(f"P = {size}", fontsize=10)
        row[0].set_ylabel(f"density, t = {cutoff:g}", fontsize=9)
        mass = results.mass.sel(cutoff=cutoff)
        for colour, region in zip(COLOURS, results.region.values, strict=False):
            one = mass.sel(region=region)
            error = 2 * one.std("model", ddof=1) / np.sqrt(num_models)
            row[-1].errorbar(
                sizes, one.mean("model"), error, fmt="o-", ms=3, color=colour, label=region
            )
        row[-1].set(xscale="log", ylim=(0, None))
    axes[0, -1].set_title("mass", fontsize=10)
    axes[0, -1].legend(fontsize=7)
    axes[-1, -1].set_xlabel("training samples P", fontsize=9)
    return figure
