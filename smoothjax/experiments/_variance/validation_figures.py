"""Figures of the experiments that put the theory of generalisation through variance to the test."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._figure import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_law_accuracy(results: Any) -> "Figure":
    sizes = results.num_train.values
    figure, ((errors, traces),) = new_figure(1, 2, (10, 4.2), sharex=True)
    for colour, route in zip(COLOURS, results.route.values, strict=False):
        one, label = results.sel(route=route), route.replace("_", " ")
        style = {"fmt": "o-", "ms": 4, "color": colour, "label": label, "capsize": 2}
        errors.errorbar(sizes, one.error, one.own_error, **style)
        traces.errorbar(sizes, one.trace_ratio, 2 * one.trace_error, **style)
    floors = results.floor
    errors.plot(
        sizes,
        floors.sel(route="fixed_design"),
        ":",
        color=COLOURS[0],
        label="floor: redrawn targets",
    )
    errors.plot(sizes, floors.isel(route=-1), "k:", label="floor: retrained models")
    errors.set(xscale="log", yscale="log", ylabel="relative Frobenius error of the kernel")
    traces.axhline(1, color="k", lw=0.6)
    traces.set(xscale="log", ylabel="trace over that of the models")
    for ax in (errors, traces):
        ax.set_xticks(sizes, [f"{size}" for size in sizes])
        ax.minorticks_off()
        ax.set_xlabel("training samples P")
    errors.minorticks_on()
    errors.tick_params(axis="x", which="minor", bottom=False)
    errors.legend(fontsize=7)
    return figure


def plot_gaussian_closure(results: Any) -> "Figure":
    sizes = results.num_train.values
    figure, (axes,) = new_figure(1, 4, (15, 3.8))
    num = int(results.attrs["num_models"])
    null = {
        "skewness": 2 * np.sqrt(6 / num),
        "excess_kurtosis": 2 * np.sqrt(24 / num),
        "ks_distance": float(results.ks_null.sel(quantile=0.95)),
    }
    rng = np.random.default_rng(0)
    jitter = np.exp(0.15 * rng.uniform(-1, 1, results.t.size * results.x.size))
    early = np.repeat(np.log(results.t.values), results.x.size)
    for ax, (name, bound) in zip(axes, null.items(), strict=False):
        values = results[name].values.reshape(len(sizes), -1)
        picture = ax.scatter(
            sizes[:, None] * jitter, values, c=np.tile(early, (len(sizes), 1)), s=10, cmap="viridis"
        )
        if ax is axes[2]:
            colours = figure.colorbar(picture, ax=ax, label="t")
            colours.set_ticks(
                list(np.log(results.t.values)), labels=[f"{t:.2g}" for t in results.t.values]
            )
        ax.plot(sizes, np.median(np.abs(values), axis=1), "k-", lw=1, label="median size")
        for sign in (-1, 1) if name != "ks_distance" else (1,):
            ax.axhline(sign * bound, color=COLOURS[1], lw=0.8, ls="--")
        ax.set(xscale="log", title=name.replace("_", " "), xlabel="training samples P")
    axes[0].set_yscale("symlog", linthresh=0.5)
    axes[1].set_yscale("symlog", linthresh=1)
    axes[2].set_yscale("log")
    axes[0].legend(fontsize=7)
    for colour, region in zip(COLOURS, ("gap", "beyond"), strict=False):
        for law, style in zip(results.law.values, ("o-", "s--"), strict=True):
            mass = results.mass.sel(law=law, region=region)
            axes[3].errorbar(
                sizes,
                mass.mean("model"),
                2 * mass.std("model", ddof=1) / np.sqrt(mass.sizes["model"]),
                fmt=style,
                ms=4,
                color=colour,
                mfc=colour if law == "retrained" else "none",
                capsize=2,
                label=f"{region}, {law}",
            )
    axes[3].set(xscale="log", title="mass", xlabel="training samples P", ylim=(0, None))
    axes[3].legend(fontsize=7)
    return figure


def plot_target_ablation(results: Any) -> "Figure":
    levels = results.exact_below.values
    figure, axes = new_figure(1, 3, (12, 3.8))
    places = np.arange(len(levels))
    noisy = results.mass.sel(exact_below=0) if 0 in levels else results.mass.isel(exact_below=0)
    for colour, size in zip(COLOURS, results.num_train.values, strict=False):
        mass = results.mass.sel(num_train=size)
        difference = mass - noisy.sel(num_train=size)
        shown = (mass.sel(region="gap"), difference.sel(region="gap"), mass.sel(region="beyond"))
        for ax, values in zip(axes[0], shown, strict=True):
            error = 2 * values.std("model", ddof=1) / np.sqrt(values.sizes["model"])
            label = f"P = {size}"
            ax.errorbar(
                places,
                values.mean("model"),
                error,
                fmt="o-",
                ms=4,
                color=colour,
                label=label,
                capsize=2,
            )
    titles = ("mass of the gap", "its difference from noisy targets, paired", "mass beyond")
    for ax, title in zip(axes[0], titles, strict=True):
        names = {0.0: "none", np.inf: "all"}
        ax.set_xticks(places, [names.get(level, f"< {level:g}") for level in levels])
        ax.set(title=title, xlabel="noise levels with exact targets")
        ax.axhline(0, color="k", lw=0.6)
    axes[0, 0].legend(fontsize=7)
    return figure


def plot_gap_emptying(results: Any) -> "Figure":
    names, spreads = results.features.values, results.spread.values
    figure, axes = new_figure(2, len(names), (4 * len(names), 7))
    for column, name in zip(axes.T, names, strict=True):
        gap = results.sel(features=name, region="gap")
        for colour, size in zip(COLOURS, results.num_train.values, strict=False):
            one = gap.sel(num_train=size)
            last = one.isel(spread=-1)
            column[0].plot(
                results.ridge, one.mass.isel(spread=0), "o:", color=colour, mfc="none", ms=4
            )
            column[0].errorbar(
                results.ridge,
                last.mass,
                2 * last.change_error,
                fmt="o-",
                ms=4,
                color=colour,
                capsize=2,
                label=f"P = {size}",
            )
        column[0].set(xscale="log", title=name, xlabel="ridge", ylim=(0, None))
        emptied = gap.change.isel(spread=-1)
        ridge, size = (
            emptied[d].values[i] for d, i in emptied.argmin(("ridge", "num_train")).items()
        )
        one = results.sel(features=name, ridge=ridge, num_train=size)
        for colour, region in zip(COLOURS, results.region.values, strict=False):
            of = one.sel(region=region)
            column[1].errorbar(
                spreads, of.change, 2 * of.change_error, fmt="o-", ms=4, color=colour, label=region
            )
            for kind, style in (("predicted", "--"), ("predicted_without_shift", ":")):
                # Where the second order fails it fails by much.
                expected = of[kind] - of[kind].isel(spread=0)
                column[1].plot(spreads, expected, style, color=colour, lw=1)
        column[1].axhline(0, color="k", lw=0.6)
        column[1].set(
            title=f"ridge {ridge:g}, P = {size}: small shift at {float(one.small_shift):.0%}",
            xlabel="spread of the models",
        )
        column[1].title.set_fontsize(9)
    axes[0, 0].set_ylabel("mass of the gap (open: mean model)", fontsize=9)
    axes[1, 0].set_ylabel("change (dashed: second order, dotted: no shift)", fontsize=9)
    axes[0, 0].legend(fontsize=7)
    axes[1, 0].legend(fontsize=7)
    return figure
