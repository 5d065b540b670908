"""Figures of the experiments that retrain networks many times."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._figure import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_tangent_kernel_networks(results: Any) -> "Figure":
    sources, times, widths = (results[name].values for name in ("source", "time", "width"))
    figure, axes = new_figure(2, len(sources), (3.4 * len(sources), 5.6), sharex=True, sharey="row")
    for column, source in zip(axes.T, sources, strict=True):
        one = results.sel(source=source)
        for i, (time, colour) in enumerate(zip(times, COLOURS, strict=False)):
            # Side by side, or the error bars hide each other.
            x = widths * 1.08 ** (i - (len(times) - 1) / 2)
            at = one.sel(time=time)
            column[0].plot(x, at.error, "o-", ms=4, color=colour, label=f"time {time:g}")
            column[0].plot(x, at.floor, "_", ms=12, color=colour)
            column[1].errorbar(
                x, at.trace_ratio, 2 * at.trace_ratio_se, fmt="o-", ms=4, color=colour
            )
        column[1].axhline(1, color="#888888", lw=0.8)
        column[0].set_title(source, fontsize=10)
        column[1].set(xscale="log", xlabel="width")
        column[1].set_xticks(widths, [str(width) for width in widths])
        column[1].minorticks_off()
    axes[0, 0].set_ylim(0, None)  # the axis of all three: not before the last is drawn
    axes[0, 0].set_ylabel("relative error of the covariance\n(dashes: sampling alone)", fontsize=9)
    axes[1, 0].set_ylabel("its trace over that predicted", fontsize=9)
    axes[0, 0].legend(fontsize=8)
    return figure


def plot_network_closure(results: Any) -> "Figure":
    figure, axes = new_figure(2, 3, (11, 6))
    sizes, levels = results.num_train.values, results.sigma.values
    shown = sizes[-1]
    styles = {"noisy": ("o", "-"), "exact": ("s", ":")}
    titles = {
        "skewness": "skewness",
        "excess_kurtosis": "excess kurtosis",
        "ks_distance": "distance from the fitted normal law",
    }
    for ax, (name, title) in zip(axes[0], titles.items(), strict=True):
        null = results.null.sel(statistic=name).values
        ax.axhspan(null[0], null[-1], color="#dddddd", lw=0)
        for targets, (marker, line) in styles.items():
            for level, colour in zip(levels, COLOURS, strict=False):
                values = results[name].sel(targets=targets, num_train=shown, sigma=level)
                ax.plot(results.u, values, marker + line, ms=4, lw=1, color=colour)
        if name == "excess_kurtosis":  # of single outlying models: tens
            ax.set_yscale("symlog", linthresh=1)
        ax.set_title(f"{title}, P = {shown}", fontsize=10)
        ax.set_xlabel("u")
    spread, picture, mass = axes[1]
    for targets, (marker, line) in styles.items():
        for level, colour in zip(levels, COLOURS, strict=False):
            values = results["std"].sel(targets=targets, num_train=shown, sigma=level)
            label = f"noise level {level:g}, {targets} targets"
            spread.plot(results.u, values, marker + line, ms=4, lw=1, color=colour, label=label)
    spread.set(xlabel="u", ylim=(0, 1.5 * spread.get_ylim()[1]))  # room for the legend
    spread.set_title("standard deviation over models", fontsize=10)
    spread.legend(fontsize=6, ncols=2, loc="upper center")

    # Where the law is least normal, it should be seen.
    noisy = results.sel(targets="noisy", num_train=shown)
    place = noisy.ks_distance.stack(place=("sigma", "u")).idxmax("place").item()
    values = noisy.denoised.sel(sigma=place[0], u=place[1]).values
    deviations = (values - values.mean()) / values.std(ddof=1)
    x = np.linspace(-4, 4, 201)
    picture.hist(deviations, np.linspace(-4, 4, 33), density=True, color=COLOURS[5])
    picture.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color=COLOURS[6], lw=1)
    picture.set(xlabel="deviation over its standard deviation", yticks=())
    picture.set_title(
        f"farthest from normal, noisy: u = {place[1]:g}, noise level {place[0]:g}", fontsize=9
    )

    # What is not near a point: the rest adds up to one with it.
    for region, colour in zip(("gap", "beyond"), COLOURS, strict=False):
        for targets, (marker, line) in styles.items():
            one = results.sel(targets=targets, region=region)
            mass.errorbar(
                sizes,
                one.mean_mass,
                2 * one.mass_se,
                fmt=marker + line,
                ms=4,
                color=colour,
                label=f"{region}, {targets} targets",
            )
    mass.set(xscale="log", xlabel="training triples P", ylim=(0, None))
    mass.set_xticks(sizes, [str(size) for size in sizes])
    mass.minorticks_off()
    mass.set_title("mass generated away from the points", fontsize=10)
    mass.legend(fontsize=7)
    return figure
