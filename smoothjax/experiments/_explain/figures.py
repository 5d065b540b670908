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
    """One row a model, one column a noise: all images in one picture, with a gap between them."""
    height, width, channels = (int(n) for n in results.attrs["image_shape"])
    samples = results.samples.values[:, :MAX_COLUMNS]
    rows, columns = samples.shape[:2]
    pixels = samples.reshape(rows, columns, height, width, channels)
    low, high = results.attrs["pixel_range"]
    pixels = np.clip((pixels - low) / (high - low), 0, 1)
    gap = max(1, height // 8)
    padded = np.pad(pixels, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=1)
    picture = padded.transpose(0, 2, 1, 3, 4).reshape(
        rows * (height + gap), columns * (width + gap), channels
    )
    ax.imshow(picture.squeeze(-1) if channels == 1 else picture, cmap="gray", vmin=0, vmax=1)
    place = np.arange(rows) * (height + gap) + height / 2
    ax.set_yticks(place, list(results.model.values), fontsize=9)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("Samples, a noise for each column", loc="left", fontsize=10)
