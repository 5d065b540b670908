"""Figures of the experiments on memorization, its emergence, and agreement of networks of disjoint data."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._figure import COLOURS, band, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 10  # samples in a picture
GREY = "#888888"
CENTRAL = 0.5  # the noise level at which data of values in [-1, 1] tell denoisers apart


def plot_memorization(results: Any) -> "Figure":
    """Memorized fractions, samples, and where the networks lie between their references."""
    figure, axes = new_figure(2, 4, (17, 7))
    mean = results.mean("seed")
    of_sizes = results.width.values == max(results.attrs["widths"])
    of_widths = results.num_train.values == results.attrs["widths_num_train"]
    sweeps = (("num_train", "training points", of_sizes), ("width", "width", of_widths))
    for ax, (name, label, chosen) in zip(axes[0], sweeps, strict=False):
        sweep = results.isel(run=chosen).sortby(name)
        _plot_fractions(ax, sweep, name)
        _plot_similarity(ax, sweep, name)
        ax.set(xscale="log", xlabel=label)
        ax.set_xticks(sweep[name].values, [str(value) for value in sweep[name].values])
        ax.minorticks_off()
    points, width = results.attrs["widths_num_train"], max(results.attrs["widths"])
    axes[0, 0].set_title(f"width {width}", fontsize=10)
    axes[0, 1].set_title(f"{points} training points", fontsize=10)
    axes[0, 0].legend(fontsize=7)
    _plot_samples(axes[0, 2], results)

    for run, colour in zip(mean.run.values, COLOURS, strict=False):
        one, deviation = mean.sel(run=run), results.sel(run=run)
        for ax, points in zip(axes[1], ("held-out", "training"), strict=False):
            rmse = one.rmse.sel(points=points)
            ax.plot(one.sigma, rmse.sel(pair="network-gaussian"), ".-", color=colour, label=run)
            ax.plot(one.sigma, rmse.sel(pair="network-memorizing"), ".--", color=colour, lw=0.8)
        _plot_index(axes[1, 2], one, colour)
        axes[1, 3].plot(one.sigma, one.linearity_centred.sel(denoiser="network"), color=colour)
        between = one.rmse.sel(pair="memorizing-gaussian", points="held-out")
        axes[0, 3].plot(one.sigma, between, ".-", color=colour)
        memorizing = deviation.linearity_centred.sel(denoiser="memorizing").mean("seed")
        axes[1, 3].plot(one.sigma, memorizing, ":", color=colour, lw=0.8)
    titles = ("about held-out points", "about training points")
    for ax, title in zip(axes[1], titles, strict=False):
        ax.set(xlabel="noise level", ylim=(0, 0.6))
        ax.set_title(f"RMSE to the Gaussian (dashed: memorizing) one\n{title}", fontsize=9)
    axes[0, 3].set(xlabel="noise level", ylim=(0, 0.6))
    axes[0, 3].set_title("RMSE between both references\nabout held-out points", fontsize=9)
    axes[1, 2].set_title(
        "index, 0 memorizing, 1 Gaussian, held-out\n(faint: says nothing)", fontsize=9
    )
    axes[1, 3].set_title("centred linearity (dotted: memorizing one)", fontsize=9)
    axes[1, 3].set_xlabel("noise level")
    for ax in (*axes[1], axes[0, 3]):
        ax.set_xscale("log")
    axes[1, 0].legend(fontsize=6)
    return figure


def plot_emergence(results: Any) -> "Figure":
    """What was measured against steps: likeness to the Gaussian denoiser first, copies later."""
    figure, axes = new_figure(2, 3, (13, 7))
    _plot_fractions(axes[0, 0], results, "step")
    _plot_similarity(axes[0, 0], results, "step")
    axes[0, 0].legend(fontsize=7)
    axes[0, 0].set_title("samples: copies, and likeness to the Gaussian's", fontsize=9)

    mean, level = results.mean("seed"), _central_level(results)
    for ax, points in zip(axes[0, 1:], ("held-out", "training"), strict=True):
        at = results.sel(points=points, sigma=level)
        names = {
            "network-gaussian": "to the Gaussian one",
            "network-memorizing": "to the memorizing one",
        }
        for (pair, label), colour in zip(names.items(), COLOURS, strict=False):
            for seed in results.seed.values:
                one = at.sel(pair=pair, seed=seed)
                text = label if seed == results.seed.values[0] else "_"
                band(ax, one.step.values, one.rmse.values, one.rmse_se.values, colour, text)
        between = at.rmse.sel(pair="memorizing-gaussian").mean("seed")
        ax.plot(between.step, between, color=GREY, lw=0.8, label="between these")
        ax.set_ylim(0, None)
        ax.set_title(f"RMSE of the network at noise level {level:g}, {points} points", fontsize=9)
    axes[0, 1].legend(fontsize=7)
    for step, colour in zip(mean.step.values, _shades(mean.sizes["step"]), strict=True):
        one = mean.sel(step=step)
        rmse = one.rmse.sel(points="held-out", pair="network-gaussian")
        axes[1, 0].plot(one.sigma, rmse, ".-", color=colour, label=f"step {step}")
        _plot_index(axes[1, 1], one, colour)
        linear = one.linearity_centred.sel(denoiser="network")
        axes[1, 2].plot(one.sigma, linear, ".-", color=colour)
    between = mean.rmse.sel(points="held-out", pair="memorizing-gaussian").isel(step=0)
    axes[1, 0].plot(mean.sigma, between, ":", color=GREY, label="memorizing one")
    memorizing = mean.linearity_centred.sel(denoiser="memorizing").isel(step=0)
    axes[1, 2].plot(mean.sigma, memorizing, ":", color=GREY)
    axes[1, 0].legend(fontsize=6)
    axes[1, 0].set_title("RMSE to the Gaussian denoiser, held-out", fontsize=9)
    axes[1, 1].set_title(
        "index, 0 memorizing, 1 Gaussian, held-out (faint: says nothing)", fontsize=9
    )
    axes[1, 2].set_title("centred linearity (dotted: memorizing one)", fontsize=9)
    for ax in axes[0]:
        ax.set(xscale="log", xlabel="step")
    for ax in axes[1]:
        ax.set(xscale="log", xlabel="noise level")
    axes[1, 0].set_ylim(0, None)
    return figure


def plot_strong_generalization(results: Any) -> "Figure":
    """Agreement of both networks beside that of Gaussians, of neighbours and of different noises; and samples of both."""
    figure, axes = new_figure(1, 3, (16, 4.2), width_ratios=(1, 0.8, 1.4))
    agreement, nearer, pictures = axes[0]
    shown = (
        ("both networks", results.cosine.sel(model="networks"), results.cosine_se.sel(model="networks")),
        ("both Gaussians", results.cosine.sel(model="gaussians"), results.cosine_se.sel(model="gaussians")),
        ("network and its nearest\ntraining point", results.neighbour_cosine.mean("half"), None),
        ("both networks,\ndifferent noises", results.shuffled_cosine.sel(model="networks"), None),
    )  # fmt: skip
    place = np.arange(results.sizes["run"])
    labels = [str(run).replace(", ", ",\n") for run in results.run.values]
    for i, ((label, value, error), colour) in enumerate(zip(shown, COLOURS, strict=False)):
        for s in range(results.sizes["seed"]):
            agreement.errorbar(
                place + 0.12 * (i - 1.5),
                value.isel(seed=s),
                None if error is None else 2 * error.isel(seed=s),
                fmt="o",
                ms=5,
                color=colour,
                label=label if s == 0 else None,
            )
    agreement.axhline(0, color=GREY, lw=0.6)
    agreement.set_title("mean centred cosine of samples", fontsize=10)
    agreement.legend(fontsize=7, loc="lower right", bbox_to_anchor=(1, 0.08))
    fractions = (
        (
            "nearer to the other network's sample\nthan to a training point",
            results.nearer_each_other,
        ),
        ("memorized", results.memorized.mean("half")),
    )
    for i, ((label, value), colour) in enumerate(zip(fractions, COLOURS[4:], strict=False)):
        nearer.bar(place + 0.4 * (i - 0.5), value.mean("seed"), 0.4, color=colour, label=label)
    nearer.set_title("fraction of samples", fontsize=10)
    nearer.set(ylim=(0, 1.35), yticks=(0, 0.25, 0.5, 0.75, 1))
    nearer.legend(fontsize=7)
    for ax in (agreement, nearer):
        ax.set_xticks(place, labels, fontsize=8)
    _plot_pairs(pictures, results)
    return figure


def plot_linear_distillation(results: Any) -> "Figure":
    """Distance of the fitted matrix from the Gaussian one, and what no matrix explains, by inputs and noise level."""
    figure, axes = new_figure(2, results.sizes["inputs"], (13, 7), sharex=True, sharey="row")
    titles = {
        "training": "inputs: noisy training points",
        "held-out": "noisy held-out points",
        "contrast": f"training points of contrast {results.attrs['contrast']:g}",
    }
    for (above, below), inputs in zip(axes.T, results.inputs.values, strict=True):
        for name, colour in zip(results.denoiser.values, COLOURS, strict=False):
            one = results.sel(denoiser=name, inputs=inputs)
            above.plot(one.sigma, one.matrix_error, "o-", ms=4, color=colour, label=name)
            above.plot(one.sigma, one.matrix_noise, ":", color=colour, lw=1)
            below.plot(one.sigma, one.nonlinear_residual, "o-", ms=4, color=colour, label=name)
            below.plot(one.sigma, one.linear_mismatch, "--", color=colour, lw=1)
        above.set_title(titles[inputs], fontsize=10)
        above.set(xscale="log", yscale="log")
        below.set_xlabel("noise level")
    above, below = axes[:, 0]
    # What is zero but for rounding lies below.
    above.set_ylim(3e-3, None)
    below.set_ylim(0, None)
    above.set_ylabel(
        "relative distance of W from the Gaussian W\n(dotted: of the draws)", fontsize=9
    )
    below.set_ylabel(
        "rms of what is not linear (data units)\n(dashed: linear part less the Gaussian)",
        fontsize=9,
    )
    below.legend(fontsize=8)
    return figure


def _plot_fractions(ax: "Axes", results: Any, name: str) -> None:
    """Memorized fractions with their intervals, over the held-out points' own."""
    for i in range(results.sizes["seed"]):
        one = results.isel(seed=i)
        low, high = (one.memorized_interval.sel(bound=bound) for bound in ("lower", "upper"))
        # Rounding takes Wilson's upper end a little below a fraction of one.
        errors = np.maximum([one.memorized - low, high - one.memorized], 0)
        ax.errorbar(
            one[name],
            one.memorized,
            errors,
            fmt="o-",
            ms=4,
            color=COLOURS[1],
            label="_" if i else "memorized",
        )
        null = one.memorized_null_interval
        ax.fill_between(
            one[name],
            *(null.sel(bound=bound) for bound in ("lower", "upper")),
            color=GREY,
            alpha=0.3,
            lw=0,
            label="_" if i else "memorized, held-out points",
        )
    ax.axhline(0.5, color=GREY, lw=0.6, ls=":")


def _plot_similarity(ax: "Axes", results: Any, name: str) -> None:
    """Likeness of samples with the Gaussian denoiser's."""
    for i in range(results.sizes["seed"]):
        one = results.isel(seed=i)
        error = 2 * one.gaussian_cosine_se
        style = {"fmt": "s-", "ms": 4, "color": COLOURS[0]}
        label = "_" if i else "cosine with the Gaussian's samples"
        ax.errorbar(one[name], one.gaussian_cosine, error, **style, label=label)
    ax.set_ylim(-0.02, 1.02)


def _plot_index(ax: "Axes", one: Any, colour: Any) -> None:
    """The index over noise levels, faint where it says nothing."""
    index = one.gaussianity.sel(points="held-out")
    known = one.gaussianity_meaningful.sel(points="held-out") > 0.5
    ax.plot(one.sigma, index, "-", color=colour, alpha=0.25, lw=0.8)
    ax.plot(one.sigma, index.where(known), ".-", color=colour)
    ax.set_ylim(0, 1)


def _central_level(results: Any) -> float:
    levels = results.sigma.values
    return float(levels[np.argmin(np.abs(np.log(levels / CENTRAL)))])


def _shades(num: int) -> list[tuple[float, float, float]]:
    """From light to dark blue."""
    dark = np.array([0.0, 0.15, 0.4])
    return [tuple(1 - (1 - dark) * share) for share in np.linspace(0.25, 1, num)]


def _plot_samples(ax: "Axes", results: Any) -> None:
    """Samples of each run over their nearest training images."""
    rows, labels = [], []
    for run in results.run.values:
        one = results.sel(run=run).isel(seed=0, sample=slice(SHOWN))
        rows += [one.samples.values, one.nearest.values]
        labels += [str(run), "nearest"]
    title = "samples, and below each its nearest training image"
    _show(ax, rows, labels, results, title)


def _plot_pairs(ax: "Axes", results: Any) -> None:
    """Samples of both networks from the same noises, run by run."""
    rows, labels = [], []
    for run in results.run.values:
        one = results.sel(run=run).isel(seed=0, sample=slice(SHOWN))
        rows += [one.samples.sel(half=half).values for half in results.half.values]
        labels += [str(run), "other half"]
    _show(ax, rows, labels, results, "samples of both networks from the same noises")


def _show(ax: "Axes", rows: list[np.ndarray], labels: list[str], results: Any, title: str) -> None:
    ax.set_axis_off()
    if "image_shape" not in results.attrs:
        return
    height, width, channels = (int(n) for n in results.attrs["image_shape"])
    low, high = float(results.nearest.min()), float(results.nearest.max())
    pixels = np.clip((np.stack(rows) - low) / (high - low), 0, 1)
    pixels = pixels.reshape(len(rows), -1, height, width, channels)
    # White lines between pictures, and a wider one below each pair of rows.
    pixels = np.pad(pixels, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1.0)
    picture = pixels.transpose(0, 2, 1, 3, 4).reshape(len(rows) // 2, -1, *_wide(pixels))
    picture = np.pad(picture, ((0, 0), (0, 2), (0, 0), (0, 0)), constant_values=1.0)
    picture = picture.reshape(-1, *picture.shape[2:])
    ax.imshow(picture.squeeze(-1) if channels == 1 else picture, cmap="gray", vmin=0, vmax=1)
    for i, label in enumerate(labels):
        y = (i + 0.5) * (height + 1) + (i // 2) * 2
        ax.text(-1, y, label, ha="right", va="center", fontsize=6)
    ax.set_title(title, fontsize=9)


def _wide(pixels: np.ndarray) -> tuple[int, int]:
    """Width of a row of pictures, and channels."""
    return pixels.shape[1] * pixels.shape[3], pixels.shape[4]
