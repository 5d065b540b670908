"""Figures of an explanation, from its labelled numbers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._figure import COLOURS, band, legend_below, new_figure, plain_ticks
from ...mechanisms import colour_of, looks_of
from .classes import BY_CLASS
from .generated import bar_of
from .measured import measure_at_level, shown_names
from .memorised import clearest_level
from .settings import NETWORK, mechanism_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_COLUMNS = 12


# Of a mechanism's colour, in a candidate of each class: its lightness.
DARKER = 0.6


def _colour_of(name: str) -> str:
    """That of the mechanism, darker where it is made of each class's points."""
    mechanism, by_class = mechanism_of(name) if name.endswith(BY_CLASS) else (None, False)
    if mechanism is None or not by_class:
        return colour_of(name)
    colour = colour_of(mechanism.name)
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(DARKER * part):02x}" for part in parts)


def _line_of(name: str) -> tuple[Any, str]:
    """Dashes and marks of the mechanism, as in every figure."""
    mechanism = mechanism_of(name)[0].name if name.endswith(BY_CLASS) else name
    look = looks_of((mechanism,))[mechanism]
    return look.dashes, look.marker


def plot_explanation(data: Any) -> "Figure":
    """The verdicts as a map, distances by noise level, and R squared of samples over the samples, where there are any."""
    with_samples = "mean_r2" in data
    pictured = with_samples and "image_shape" in data.attrs
    rows = 1 + with_samples
    figure, axes = new_figure(rows, 2, (14, 5.2 * rows))
    _draw_map(figure, axes[0, 0], data)
    title = "Dots: cannot be told from the nearest. Crosses: nearest, but none is near"
    axes[0, 0].set_title(title, loc="left", fontsize=9)
    _draw_distances(axes[0, 1], data)
    if with_samples:
        _draw_agreement(axes[1, 0], data)
    if pictured:
        names = [str(name) for name in data.model.values]
        shape = tuple(int(n) for n in data.attrs["image_shape"])
        _draw_samples(axes[1, 1], names, data.samples.values, shape, data.attrs["pixel_range"])
    elif with_samples:
        axes[1, 1].set_axis_off()
    return figure


def plot_distances(data: Any) -> "Figure":
    """Distance of each candidate from the network against the noise level, beside what distances mean."""
    figure, axes = new_figure(1, 1, (7.5, 4.2))
    _draw_distances(axes[0, 0], data)
    return figure


# What a distance from the network is held against.
REFERENCES = {
    "own_error": ("clean points", "--"),
    "affine_rmse": ("best affine denoiser", ":"),
    "untrained_rmse": ("untrained network", "-."),
    "other_rmse": ("second network", "-"),
}


def _draw_distances(ax: "Axes", data: Any) -> None:
    sigma = data.sigma.values
    for name in data.candidate.values:
        one = data.sel(candidate=name)
        values, name = (one.rmse.values, one.rmse_se.values), str(name)
        band(ax, sigma, *values, _colour_of(name), name, *_line_of(name))
    for name, (label, style) in REFERENCES.items():
        if name in data:
            ax.plot(sigma, data[name].values, style, color="#999999", lw=1, label=label)
    ax.set(xscale="log", yscale="log", xlabel="noise level $\\sigma$ (data units)")
    plain_ticks(ax.xaxis)
    plain_ticks(ax.yaxis)
    ax.set_title(
        "RMSE from the network, a coordinate (data units)\nBands: two standard errors",
        loc="left",
        fontsize=9,
    )
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def plot_agreement(data: Any) -> "Figure":
    """R squared of each candidate's samples with the network's from the same noises."""
    figure, axes = new_figure(1, 1, (2.5 + 0.8 * data.sizes["candidate"], 3.6))
    _draw_agreement(axes[0, 0], data)
    return figure


def _draw_agreement(ax: "Axes", data: Any) -> None:
    """Means with intervals; a filled mark clears the Gaussian denoiser's."""
    names = [str(name) for name in data.candidate.values]
    for shift, marker, measure in zip((-0.12, 0.12), "os", data.measure.values, strict=True):
        one = data.sel(measure=measure)
        bar_name = bar_of(names)
        low, high = one.r2_interval.transpose("candidate", "end").values.T
        for i, name in enumerate(names):
            mean, colour = one.mean_r2.values[i], _colour_of(name)
            clears = (
                bar_name is not None and one.r2_over_gaussian_interval.sel(end="low").values[i] > 0
            )
            ax.errorbar(
                i + shift,
                mean,
                [[mean - low[i]], [high[i] - mean]],
                fmt=marker,
                color=colour,
                mfc=colour if clears else "white",
            )
        ax.plot([], [], marker, color="#444444", mfc="white", label=str(measure))
        if bar_name is not None:
            bar = float(one.mean_r2.sel(candidate=bar_name))
            ax.axhline(bar, color="#999999", lw=0.8, ls="-" if marker == "o" else ":")
    ax.set_xticks(range(len(names)), names, rotation=25, ha="right", fontsize=8)
    ax.set_title(
        "R² with the network's samples, same noises (filled: clears the Gaussian; 95 %)",
        loc="left",
        fontsize=9,
    )
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _figure_of_samples(names: Sequence[str], columns: int) -> "tuple[Figure, Axes]":
    """For one row of images a name, with room for the longest name beside them."""
    size = 0.4 + 0.09 * max(map(len, names)) + 0.6 * columns, 0.45 + 0.6 * len(names)
    figure, axes = new_figure(1, 1, size)
    # The layout is found in one step, and images, which keep their shape, are then up to a tenth of an inch elsewhere.
    figure.set_layout_engine("constrained", w_pad=0.1)
    return figure, axes[0, 0]


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
    columns = min(MAX_COLUMNS, values.shape[1])
    figure, ax = _figure_of_samples(names, columns)
    _draw_samples(ax, names, values, image_shape, (float(points.min()), float(points.max())))
    return figure


CAPTIONS = {
    "map": "Distance of each candidate from the network over the network's own error, at its fitted strength. Dots: cannot "
    "be told from the nearest; crosses: nearest, but none is near.",
    "distances": "Distance of each candidate from the network, beside that of the clean points (the network's own error), "
    "of the best affine denoiser, and of a network that has learned nothing.",
    "strengths": "Fitted strengths against the noise level, with their intervals; filled where a candidate may be best.",
    "memory": "Denoising loss of the network at training and held-out points, and the share of memorised points that would "
    "explain the difference. Bars are two standard errors.",
    "memorised": "The training images whose losses lie lowest beside those of held-out ones, from the left, and the nearest "
    "other training image of each. Whether that is more than chance would have is in the table of them.",
    "agreement": "R squared of each candidate's samples with the network's from the same noises; the lines are the "
    "Gaussian's, which all should exceed that know more than mean and covariance.",
    "measures": "Measures of the network (black) and of each candidate at its fitted strength, against the noise level. "
    "Bands are two standard errors.",
    "samples": "Samples from the same noises, one for each column: the network, the training images that they are nearest "
    "to, and candidates at their fitted strengths.",
}


def figures_of(explanation: Any) -> "dict[str, Figure]":
    """All figures of an explanation, by name."""
    data = explanation.dataset
    figures = {
        "map": plot_map(data),
        "distances": plot_distances(data),
        "strengths": plot_strengths(data),
        "memory": plot_memory(data),
    }
    level = clearest_level(data)
    if level is not None and explanation.train.image_shape is not None:
        points = np.asarray(explanation.train.points)
        figures["memorised"] = plot_memorised(
            data.isel(sigma=level), points, explanation.train.image_shape
        )
    if "mean_r2" in data:
        figures["agreement"] = plot_agreement(data)
    if explanation.settings.measures:
        figures["measures"] = plot_measures(data, explanation.settings.measures)
    if "samples" in data and explanation.train.image_shape is not None:
        points = np.asarray(explanation.train.points)
        figures["samples"] = plot_image_samples(data, points, explanation.train.image_shape)
    return figures


def plot_map(data: Any) -> "Figure":
    """Noise level against candidate: the distance from the network, and which may be the best."""
    names, levels = data.candidate.values, data.sigma.values
    figure, axes = new_figure(1, 1, (1.6 + 0.62 * len(levels), 1.3 + 0.38 * len(names)))
    _draw_map(figure, axes[0, 0], data)
    return figure


def _draw_map(figure: "Figure", ax: "Axes", data: Any) -> None:
    names, levels = data.candidate.values, data.sigma.values
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
    beyond = "max" if shown.max() > 0.5 else "neither"
    bar = figure.colorbar(picture, ax=ax, shrink=0.9, extend=beyond)
    bar.set_label("distance / network's error", fontsize=8)
    ticks = [-1.5, -1, -0.5, 0, 0.5]
    bar.set_ticks(ticks, labels=[f"{10**tick:.2g}" for tick in ticks], fontsize=7)


def plot_strengths(data: Any) -> "Figure":
    """One panel a candidate: the fitted strength at each noise level, and its interval."""
    names = [str(name) for name in data.candidate.values]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = new_figure(rows, columns, (2.7 * columns, 2.2 * rows), sharex=True)
    sigma = data.sigma.values
    for ax, name in zip(axes.flat, names, strict=False):
        one, colour = data.sel(candidate=name), _colour_of(name)
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
        plain_ticks(ax.xaxis, 4)
        if logarithmic:
            plain_ticks(ax.yaxis)
        elif np.all(value == np.round(value)):  # pixels and numbers of things
            ax.locator_params("y", integer=True)
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
    figure, axes = new_figure(1, 2, (8, 3.5), sharex=True)
    loss, share = axes[0]
    sigma = data.sigma.values
    for name, label, colour in (
        ("network_training_loss", "training points", COLOURS[1]),
        ("network_loss", "held-out points", COLOURS[0]),
    ):
        band(loss, sigma, data[name].values, data[f"{name}_se"].values, colour, label)
    loss.set(xscale="log", yscale="log", ylabel="denoising loss (squared data units)")
    error = 2 * data.memorized_share_se.values
    share.errorbar(sigma, data.memorized_share.values, error, fmt="o-", color=COLOURS[2], ms=4)
    share.axhline(0, color="#999999", lw=0.8)
    share.axhline(1, color="#999999", lw=0.8)
    share.set(xscale="log", ylabel="memorised share")
    plain_ticks(loss.yaxis)
    plain_ticks(loss.xaxis)
    legend_below(loss)
    for ax in (loss, share):
        ax.set_xlabel("noise level $\\sigma$ (data units)")
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def plot_memorised(at: Any, points: np.ndarray, image_shape: tuple[int, ...]) -> "Figure":
    """The training images that are memorised most at one noise level, and the nearest other one of each."""
    index = at.most_memorized.values
    others = at.nearest_training.sel(training_point=index).values
    names = ["training", "nearest other"]
    figure, ax = _figure_of_samples(names, len(index))
    limits = float(points.min()), float(points.max())
    images = np.stack([points[index], points[others]])
    _draw_samples(ax, names, images, image_shape, limits)
    ax.set_title(f"Noise level {float(at.sigma):.3g}", loc="left", fontsize=10)
    return figure


def plot_measures(data: Any, names: Sequence[str]) -> "Figure":
    """One panel a measure: the network and all candidates against the noise level."""
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, axes = new_figure(rows, columns, (4 * columns, 3.2 * rows + 0.5))
    sigma = data.sigma.values
    for ax, name in zip(axes.flat, names, strict=False):
        one = measure_at_level(name)
        for model in (str(value) for value in data.model.values):
            values, errors = (
                data[key].sel(model=model).transpose("sigma").values for key in shown_names(one)
            )
            is_network = model == NETWORK
            colour = "black" if is_network else _colour_of(model)
            line = ("-", ".") if is_network else _line_of(model)
            if not np.all(np.isnan(values)):
                band(ax, sigma, values, errors, colour, model, *line)
        low, high = one.limits
        ax.set(xscale="log", yscale="log" if one.is_logarithmic else "linear", ylabel=one.label)
        ax.set_ylim(low, high)
        plain_ticks(ax.xaxis)
        if one.is_logarithmic:
            plain_ticks(ax.yaxis)
        ax.set_title(name, loc="left", fontsize=9)
        ax.set_xlabel("noise level $\\sigma$ (data units)", fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure
