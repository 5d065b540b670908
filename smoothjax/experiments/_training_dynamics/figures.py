"""Figures of the experiments on training time."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._checks import import_optional
from ..._figure import COLOURS, new_figure, plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#888888"
TIME = "training time (1 / squared data units)"
SHOWN_MODES = 7
SHOWN_TIMES = 8


def plot_spectral_bias(results: Any) -> "Figure":
    """Variances that grow one after the other, when modes emerge, losses, and samples at some of the times."""
    figure = import_optional("matplotlib.figure", extra="plot").Figure(
        figsize=(14, 6.6), layout="constrained"
    )
    grid = figure.add_gridspec(2, 3, height_ratios=(1, 0.42))
    growth, emergence, losses = (figure.add_subplot(grid[0, i]) for i in range(3))
    _plot_growth(growth, results)
    _plot_emergence(emergence, results)
    _plot_losses(losses, results)
    _plot_samples(figure.add_subplot(grid[1, :]), results)
    return figure


def _plot_growth(ax: "Axes", results: Any) -> None:
    """Generated over true variance of some modes that stand out of the last noise."""
    noise = results.attrs["sigma_min"] ** 2
    visible = max(1, int((results.variance > noise).sum()))
    modes = np.unique(np.geomspace(1, visible, SHOWN_MODES).round().astype(int)) - 1
    colours = import_optional("matplotlib", extra="plot").colormaps["viridis"]
    for i, mode in enumerate(modes):
        one, variance = results.isel(mode=mode), float(results.variance[mode])
        share = one.generated_variance / (variance + noise)
        colour = colours(0.92 * i / max(len(modes) - 1, 1))
        ax.plot(results.duration, share, color=colour, label=f"{variance:.2g}")
        ax.plot(float(one.sample_emergence), _at(share, one.sample_emergence), "o", color=colour)
    ax.axhline(1, color=GREY, lw=0.6, ls=":")
    ax.set(xscale="log", ylim=(0, 1.3), xlabel=TIME)
    ax.set_title(
        "variance of samples by mode, over the data's\n(and the last noise's)", fontsize=10
    )
    ax.legend(title="variance of the mode", fontsize=7, title_fontsize=7, loc="upper left", ncols=2)


def _plot_emergence(ax: "Axes", results: Any) -> None:
    variance = results.variance.values
    ax.plot(variance, results.sample_emergence, color="black", label="samples")
    for sigma, colour in zip(results.sigma.values, COLOURS, strict=False):
        one = results.sel(sigma=sigma)
        ax.plot(variance, one.emergence, color=colour, label=f"weights at noise level {sigma:g}")
        ax.plot(variance, one.trained_emergence, "o", ms=4, color=colour, alpha=0.7, mew=0)
        ax.axvline(sigma**2, color=colour, lw=0.6, ls=":")
    ax.plot([], [], "o", ms=4, color=GREY, label="trained with drawn noise")
    top = float(max(results.emergence.max(), results.sample_emergence.max()))
    law = 3 * float(results.sample_emergence[0]) * variance[0] / variance
    shown = law < 3 * top
    ax.plot(variance[shown], law[shown], "--", color=GREY, lw=1)
    end = int(shown.sum()) - 1
    ax.text(variance[end], law[end], "slope -1 ", color=GREY, fontsize=8, ha="right", va="center")
    ax.set(xscale="log", yscale="log", xlabel="variance of the mode (squared data units)")
    ax.set_ylim(0.4 * float(results.emergence.min()), 6 * top)
    share = results.attrs["fraction"]
    title = (
        "training time at half of the way, 1 / squared data units"
        if share == 0.5
        else f"training time at {share:g} of the way, 1 / squared data units"
    )
    ax.set_title(f"{title}\n(vertical: square of the noise level)", fontsize=10)
    ax.legend(fontsize=7)


def _plot_losses(ax: "Axes", results: Any) -> None:
    for sigma, colour in zip(results.sigma.values, COLOURS, strict=False):
        one = results.loss.sel(sigma=sigma)
        held_out = one.sel(points="held-out")
        ax.plot(one.duration, held_out, color=colour, label=f"noise level {sigma:g}")
        ax.plot(one.duration, one.sel(points="training"), "--", color=colour, lw=1)
    ax.set(xscale="log", yscale="log", xlabel=TIME, ylabel="squared data units")
    points = results.attrs["num_train"]
    ax.set_title(
        f"half the mean squared error a coordinate, held-out\n(dashed: on the {points} training points)",
        fontsize=10,
    )
    ax.legend(fontsize=7)


def _plot_samples(ax: "Axes", results: Any) -> None:
    """Samples of the same noises at some training times, images below each other."""
    first, last = float(results.sample_emergence.min()), float(results.sample_emergence.max())
    wanted = np.geomspace(first / 3, last, SHOWN_TIMES)
    shown = results.sel(duration=wanted, method="nearest")
    labels = [f"{float(f'{time:.2g}'):g}" for time in shown.duration.values]
    if "image_shape" not in results.attrs:
        for sample in range(results.sizes["sample"]):
            first, second = (
                results.samples.isel(sample=sample, coordinate=c)
                for c in (0, min(1, results.sizes["coordinate"] - 1))
            )
            ax.plot(first, second, "-", color=COLOURS[sample % len(COLOURS)])
        ax.set_title(
            "samples of the same noises as training goes on, first coordinates", fontsize=10
        )
        return
    height, width, channels = (int(n) for n in results.attrs["image_shape"])
    pixels = shown.samples.values.reshape(SHOWN_TIMES, -1, height, width, channels)
    last = pixels[-1]
    pixels = np.clip((pixels - last.min()) / (last.max() - last.min()), 0, 1)
    pixels = np.pad(pixels, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1.0)
    # Times lie side by side, each with its samples in two rows.
    rows = 2 if pixels.shape[1] % 2 == 0 else 1
    blocks = pixels.reshape(SHOWN_TIMES, rows, -1, *pixels.shape[2:])
    picture = blocks.transpose(1, 3, 0, 2, 4, 5).reshape(
        rows * (height + 1), SHOWN_TIMES, -1, channels
    )
    picture = np.pad(picture, ((0, 0), (0, 0), (0, 2), (0, 0)), constant_values=1.0)
    block = picture.shape[2]
    picture = picture.reshape(picture.shape[0], -1, channels)
    ax.imshow(picture.squeeze(-1) if channels == 1 else picture, cmap="gray", vmin=0, vmax=1)
    ax.set_xticks([(i + 0.5) * block for i in range(SHOWN_TIMES)], labels)
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_xlabel(TIME)
    ax.set_title("samples of the same noises", fontsize=10)


def plot_memorization_time(results: Any) -> "Figure":
    """The spectrum, errors against training time, and both times against the number of points."""
    figure, axes = new_figure(1, 3, (15, 4.8), width_ratios=(1.1, 1.2, 0.9))
    spectrum, errors, times = axes[0]
    first = results.isel(num_features=0)
    colours = import_optional("matplotlib", extra="plot").colormaps["viridis"]
    shades = [
        colours(0.85 * i / max(results.sizes["num_train"] - 1, 1))
        for i in range(results.sizes["num_train"])
    ]
    _plot_spectrum(spectrum, first, shades)
    _plot_errors(errors, first, shades)
    _plot_times(times, results)
    dim, sigma = results.attrs["dim"], results.attrs["sigma"]
    spectrum.set_title(
        f"eigenvalues of {int(first.num_features)} features in {dim} dimensions, noise level {sigma:g}\n"
        "(lines: the limit, dotted for equal ones; bars: drawn)",
        fontsize=10,
    )
    errors.set_title(
        "error on new points over the exact denoiser's\n(dashed: on training points; dots: drawn in this dimension)",
        fontsize=10,
    )
    times.set_title("training times against the number of points", fontsize=10)
    return figure


def _plot_spectrum(ax: "Axes", first: Any, shades: list[Any]) -> None:
    """Densities in the logarithm, each above the one before."""
    values, x = first.model_eigenvalues.values, first.eigenvalue.values
    x = x[x < 1.5 * values.max()]
    density = first.density.sel(eigenvalue=x) * x
    edges = np.geomspace(x[0], x[-1], 71)
    unit = 1.2 * float(density.max())
    for i, colour in enumerate(shades):
        one, base = first.isel(num_train=i), i * unit
        share = np.histogram(values[i], edges)[0] / values[i].size / np.diff(np.log(edges))
        # Bars of equal eigenvalues would reach far beyond the others.
        share = np.minimum(share, 0.95 * unit)
        ax.stairs(base + share, edges, baseline=base, fill=True, color=colour, alpha=0.3)
        ax.plot(x, base + density[i], color=colour, lw=1.3)
        place, atom = float(one.atom_place), float(one.atom)
        label = f"n = {int(one.num_train)}"
        if atom > 0:
            ax.plot([place] * 2, [base, base + 0.95 * unit], ":", color=colour, lw=1.2)
            label = f"{label}\n({atom:.0%} equal)"
        ax.text(x[-1], base + 0.6 * unit, label, color=colour, fontsize=8, ha="right", va="center")
    ax.set(xscale="log", yticks=[], xlabel="eigenvalue", ylim=(0, len(shades) * unit))
    ax.set_ylabel("density of the logarithm")


def _plot_errors(ax: "Axes", first: Any, shades: list[Any]) -> None:
    num = first.sizes["model"]
    for i, colour in enumerate(shades):
        one = first.isel(num_train=i)
        for points, style in (("new", "-"), ("training", "--")):
            curve, drawn = one.error.sel(points=points), one.model_error.sel(points=points)
            label = f"{int(one.num_train)} training points" if points == "new" else None
            ax.plot(one.duration, curve, style, color=colour, lw=1.3, label=label)
            some = slice(None, None, 4)
            error = 2 * drawn.std("model", ddof=1) / num**0.5 if num > 1 else 0 * drawn[0]
            ax.errorbar(
                one.duration[some],
                drawn.mean("model")[some],
                error[some],
                fmt=".",
                ms=4,
                color=colour,
                lw=0.8,
            )
        at = float(one.memorization_time)
        ax.plot(at, _at(one.error.sel(points="new"), at), "v", ms=7, color=colour, mec="white")
    ax.plot([], [], "v", ms=7, color=GREY, mec="white", label="memorisation time")
    at = first.generalization_time
    ax.axvspan(float(at.min()), float(at.max()), color=GREY, alpha=0.35, lw=0)
    ax.plot([], [], color=GREY, alpha=0.35, lw=6, label="generalisation times")
    ax.axhline(1, color=GREY, lw=0.6, ls=":")
    ax.set(xscale="log", yscale="log", xlabel="training time")
    plain_ticks(ax.yaxis, most=7)
    ax.legend(fontsize=7)


def _plot_times(ax: "Axes", results: Any) -> None:
    names = (
        ("memorization_time", "memorisation", COLOURS[1]),
        ("generalization_time", "generalisation", COLOURS[0]),
    )
    styles = ("o-", "s--", "^:", "d-.")
    n = results.num_train.values
    for name, label, colour in names:
        for p, style in zip(results.num_features.values, styles, strict=False):
            one = results[name].sel(num_features=p)
            ax.plot(n, one, style, ms=5, color=colour, label=f"{label}, {p} features")
            if name == "memorization_time" and p == results.num_features.max():
                line = np.exp(np.mean(np.log(one.values / n))) * n
                ax.plot(n, line, color=GREY, lw=0.8)
    ax.plot([], [], color=GREY, lw=0.8, label="in proportion to n")
    ax.set(xscale="log", yscale="log", xlabel="training points")
    top = ax.get_ylim()[1]
    ax.set_ylim(None, 12 * top)
    ax.set_xticks(n, [str(value) for value in n])
    ax.minorticks_off()
    ax.legend(fontsize=7, loc="upper left")


def _at(curve: Any, duration: Any) -> float:
    """The value of a curve over training times, between them by a straight line in the logarithm."""
    return float(np.interp(np.log(float(duration)), np.log(curve.duration.values), curve.values))
