"""Figure of the experiment that asks which analytic denoiser explains a network."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._figure import COLOURS, band, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_COLUMNS = 12


def plot_explain_network(results: Any) -> "Figure":
    """Errors against the noise level, patch sizes, R squared of samples, and the samples themselves."""
    figure, axes = new_figure(2, 2, (13, 9.5))
    colours: dict[str, str] = dict(zip(results.denoiser.values, COLOURS, strict=False))
    (rmse, nmse), (r2, images) = axes
    sigma = results.sigma.values
    for name, colour in colours.items():
        one = results.sel(denoiser=name)
        band(rmse, sigma, one.rmse.values, one.rmse_se.values, colour, str(name))
        band(nmse, sigma, one.nmse.values, one.nmse_se.values, colour, str(name))
    rmse.plot(sigma, results.reference_rmse, "--", color="#999999", label="empirical to gaussian")
    rmse.set_title("RMSE from the network, a coordinate (data units)", loc="left", fontsize=10)
    nmse.set_title("Mean square difference over the network's own", loc="left", fontsize=10)
    _write_patch_sizes(nmse, results, colours)
    for ax in (rmse, nmse):
        ax.set(xscale="log", yscale="log", xlabel="noise level $\\sigma$ (data units)")
        ax.spines[["top", "right"]].set_visible(False)
    rmse.legend(frameon=False, fontsize=8)
    _plot_r2(r2, results, colours)
    _plot_samples(images, results)
    return figure


def _write_patch_sizes(ax: "Axes", results: Any, colours: dict[str, str]) -> None:
    """Calibrated patch sizes in rows below the curves."""
    for i, name in enumerate(results.calibrated.values):
        height, colour = -0.16 - 0.045 * i, colours[name]
        style = {"transform": ax.get_xaxis_transform(), "color": colour, "fontsize": 8}
        ax.text(results.sigma.values[0] / 1.7, height, f"P, {name}", ha="right", **style)
        for sigma, size in zip(
            results.sigma.values, results.patch_size.sel(calibrated=name).values, strict=True
        ):
            ax.text(sigma, height, str(size), ha="center", **style)


def _plot_r2(ax: "Axes", results: Any, colours: dict[str, str]) -> None:
    """Means with intervals; a filled mark clears the Gaussian denoiser's."""
    place = np.arange(len(colours))
    for shift, marker, measure in zip((-0.12, 0.12), "os", results.measure.values, strict=True):
        one = results.sel(measure=measure)
        low, high = one.r2_interval.values.T
        for i, colour in enumerate(colours.values()):
            mean = one.mean_r2.values[i]
            ax.errorbar(
                i + shift,
                mean,
                [[mean - low[i]], [high[i] - mean]],
                fmt=marker,
                color=colour,
                mfc=colour if one.clears_gaussian.values[i] else "white",
            )
        ax.plot([], [], marker, color="#444444", mfc="white", label=str(measure))
        bar = float(one.mean_r2.sel(denoiser="gaussian"))
        ax.axhline(bar, color="#999999", lw=0.8, ls="-" if marker == "o" else ":")
    ax.set_xticks(place, list(colours), rotation=20, fontsize=8)
    ax.set_title(
        "R² with the network's samples, same noises (filled: clears the Gaussian; 95 %)",
        loc="left",
        fontsize=10,
    )
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)


def _plot_samples(ax: "Axes", results: Any) -> None:
    shape = tuple(int(n) for n in results.attrs["image_shape"])
    names, values = list(results.model.values), results.samples.values
    _draw_samples(ax, names, values, shape, results.attrs["pixel_range"])


def _draw_samples(
    ax: "Axes",
    names: list[str],
    samples: np.ndarray,
    image_shape: tuple[int, ...],
    limits: tuple[float, float],
) -> None:
    """One row a model, one column a noise: all images in one picture, with a gap between them."""
    height, width, channels = image_shape
    values = samples[:, :MAX_COLUMNS]
    rows, columns = values.shape[:2]
    low, high = limits
    pixels = np.clip((values - low) / (high - low), 0, 1)
    pixels = pixels.reshape(rows, columns, height, width, channels)
    gap = max(1, height // 8)
    padded = np.pad(pixels, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=1)
    picture = padded.transpose(0, 2, 1, 3, 4).reshape(
        rows * (height + gap), columns * (width + gap), channels
    )
    ax.imshow(picture.squeeze(-1) if channels == 1 else picture, cmap="gray", vmin=0, vmax=1)
    place = np.arange(rows) * (height + gap) + height / 2
    ax.set_yticks(place, names, fontsize=9)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("Samples, a noise for each column", loc="left", fontsize=10)


def plot_image_samples(data: Any, points: np.ndarray, image_shape: tuple[int, ...]) -> "Figure":
    """Samples as pictures, those of the network over the training images that they are nearest to."""
    names, values = [str(name) for name in data.model.values], data.samples.values
    nearest = points[data.nearest.sel(model="network").values]
    after = names.index("network") + 1
    values = np.insert(values, after, nearest, axis=0)
    names.insert(after, "its nearest")
    rows, columns = len(names), min(MAX_COLUMNS, values.shape[1])
    figure, axes = new_figure(1, 1, (1.6 + 0.6 * columns, 0.5 + 0.6 * rows))
    _draw_samples(
        axes[0, 0], names, values, image_shape, (float(points.min()), float(points.max()))
    )
    return figure


CAPTIONS = {
    "map": "Distance of each candidate from the network over the network's own error, at its fitted strength. Dots: cannot "
    "be told from the nearest; crosses: nearest, but none is near.",
    "strengths": "Fitted strengths against the noise level, with their intervals; filled where a candidate may be best.",
    "memory": "Denoising loss of the network at training and held-out points, and the share of memorised points that would "
    "explain the difference. Bars are two standard errors.",
    "samples": "Samples from the same noises, one for each column: the network, the training images that they are nearest "
    "to, and candidates at their fitted strengths.",
}


def figures_of(explanation: Any) -> "dict[str, Figure]":
    """All figures of an explanation, by name."""
    data = explanation.dataset
    figures = {
        "map": plot_map(data),
        "strengths": plot_strengths(data),
        "memory": plot_memory(data),
    }
    if "samples" in data and explanation.train.image_shape is not None:
        points = np.asarray(explanation.train.points)
        figures["samples"] = plot_image_samples(data, points, explanation.train.image_shape)
    return figures


def plot_map(data: Any) -> "Figure":
    """Noise level against candidate: the distance from the network, and which may be the best."""
    names, levels = data.candidate.values, data.sigma.values
    figure, axes = new_figure(1, 1, (1.6 + 0.62 * len(levels), 1.3 + 0.38 * len(names)))
    ax = axes[0, 0]
    relative = data.relative.transpose("candidate", "sigma").values
    shown = np.log10(np.maximum(relative, 1e-3))
    picture = ax.imshow(
        shown, cmap="viridis_r", vmin=min(-1.5, shown.min()), vmax=0.5, aspect="auto"
    )
    kept = data.may_be_best.transpose("candidate", "sigma").values
    explained = data.is_explained.values
    for i, j in np.argwhere(kept):
        ax.plot(j, i, "o" if explained[j] else "x", color="white", mec="black", ms=6)
    for i, j in np.ndindex(relative.shape):
        dark = shown[i, j] > -0.6
        ax.text(
            *(j, i + 0.32, f"{relative[i, j]:.2g}"),
            ha="center",
            va="center",
            fontsize=6,
            color="white" if dark else "black",
        )
    ax.set_xticks(range(len(levels)), [f"{level:.2g}" for level in levels], fontsize=8)
    ax.set_yticks(range(len(names)), list(names), fontsize=8)
    ax.set_xlabel("noise level $\\sigma$ (data units)")
    bar = figure.colorbar(picture, ax=ax, shrink=0.9)
    bar.set_label("distance / network's error", fontsize=8)
    ticks = [-1.5, -1, -0.5, 0, 0.5]
    bar.set_ticks(ticks, labels=[f"{10**tick:.2g}" for tick in ticks], fontsize=7)
    return figure


def plot_strengths(data: Any) -> "Figure":
    """One panel a candidate: the fitted strength at each noise level, and its interval."""
    names = [str(name) for name in data.candidate.values]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = new_figure(rows, columns, (2.7 * columns, 2.2 * rows), sharex=True)
    sigma = data.sigma.values
    for k, (ax, name) in enumerate(zip(axes.flat, names, strict=False)):
        one, colour = data.sel(candidate=name), COLOURS[k % len(COLOURS)]
        value, low, high = (one[n].values for n in ("strength", "strength_low", "strength_high"))
        ax.fill_between(sigma, low, high, color=colour, alpha=0.2, lw=0)
        ax.plot(sigma, value, color=colour, lw=1)
        kept = one.may_be_best.values & data.is_explained.values
        ax.plot(sigma[~kept], value[~kept], "o", color=colour, mfc="white", ms=4)
        ax.plot(sigma[kept], value[kept], "o", color=colour, ms=4)
        unit = str(one.strength_unit.values)
        label = str(one.strength_name.values) + ("" if unit == "1" else f" ({unit})")
        logarithmic = bool(value.min() > 0 and high.max() > 8 * low.min())
        ax.set(xscale="log", yscale="log" if logarithmic else "linear")
        ax.set_ylabel(label, fontsize=8)
        ax.set_title(name, loc="left", fontsize=9)
        ax.tick_params(which="both", labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    # The lowest panel of each column: others share its axis.
    for ax in axes.flat[max(len(names) - columns, 0) : len(names)]:
        ax.set_xlabel("noise level $\\sigma$ (data units)", fontsize=8)
        ax.tick_params(labelbottom=True)
    return figure


def plot_memory(data: Any) -> "Figure":
    """Losses on training and held-out points, and the share of memorised points, against the noise level."""
    # Noise levels for both: where there is no share at all, its own axis would not know them.
    figure, axes = new_figure(1, 2, (8, 3.2), sharex=True)
    loss, share = axes[0]
    sigma = data.sigma.values
    for name, label, colour in (
        ("network_training_loss", "training points", COLOURS[1]),
        ("network_loss", "held-out points", COLOURS[0]),
    ):
        band(loss, sigma, data[name].values, data[f"{name}_se"].values, colour, label)
    loss.set(xscale="log", yscale="log", ylabel="denoising loss (squared data units)")
    loss.legend(frameon=False, fontsize=8)
    error = 2 * data.memorized_share_se.values
    share.errorbar(sigma, data.memorized_share.values, error, fmt="o-", color=COLOURS[2], ms=4)
    share.axhline(0, color="#999999", lw=0.8)
    share.axhline(1, color="#999999", lw=0.8)
    share.set(xscale="log", ylabel="memorised share")
    for ax in (loss, share):
        ax.set_xlabel("noise level $\\sigma$ (data units)")
        ax.spines[["top", "right"]].set_visible(False)
    return figure
