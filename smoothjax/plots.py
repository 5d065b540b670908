"""Figures of comparisons. matplotlib is imported when a figure is drawn; no global state of it is changed."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ._checks import import_optional
from .experiments import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MAX_COLUMNS = 16


def figures(comparison: Comparison) -> "dict[str, Figure]":
    """All figures of a comparison by name: what was generated, and the curves over noise levels."""
    return {"samples": plot_samples(comparison), "curves": plot_curves(comparison)}


def plot_samples(comparison: Comparison) -> "Figure":
    """What each mechanism generated, in the form that suits the data.

    Images: a row of samples from one shared set of noises, the nearest training image under each. One dimension: a histogram
    with the training points. Two: a scatter plot. More: the plane of the two leading principal components.
    """
    if comparison.train.image_shape is not None:
        return _plot_images(comparison)
    if comparison.train.dim == 1:
        return _plot_line(comparison)
    return _plot_plane(comparison)


def _new_figure(
    rows: int, columns: int, size: tuple[float, float], **options: Any
) -> "tuple[Figure, np.ndarray]":
    # Not pyplot: a figure of one's own needs no backend, leaks into no global list, and notebooks show it all the same.
    figure = import_optional("matplotlib.figure", extra="plot").Figure(
        figsize=size, layout="constrained"
    )
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _plot_images(comparison: Comparison) -> "Figure":
    shape = comparison.train.image_shape
    assert shape is not None
    results, train = comparison.results, np.asarray(comparison.train.points)
    names = list(results.mechanism.values)
    columns = min(MAX_COLUMNS, results.sizes["sample"])
    figure, axes = _new_figure(
        2 * len(names), columns, (0.62 * columns + 1.2, 1.32 * len(names) + 0.6)
    )
    low, high = train.min(), train.max()
    for i, name in enumerate(names):
        one = results.sel(mechanism=name)
        for j in range(columns):
            sample = one.samples.values[j]
            nearest = train[int(one.nearest.values[j])]
            for row, image in ((2 * i, sample), (2 * i + 1, nearest)):
                ax = axes[row, j]
                pixels = np.clip((image.reshape(shape) - low) / (high - low), 0, 1)
                ax.imshow(
                    pixels.squeeze(-1) if shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1
                )
                ax.set_xticks([])
                ax.set_yticks([])
                for spine in ax.spines.values():
                    spine.set_color(COLOURS[i % len(COLOURS)] if row == 2 * i else "#BBBBBB")
                    spine.set_linewidth(1.2)
        axes[2 * i, 0].set_ylabel(str(name), rotation=0, ha="right", va="center", fontweight="bold")
        axes[2 * i + 1, 0].set_ylabel(
            "nearest\ntraining", rotation=0, ha="right", va="center", fontsize=7
        )
    figure.suptitle(
        f"Samples from the same noises, and their nearest training points ({comparison.train.name})"
    )
    return figure


def _plot_line(comparison: Comparison) -> "Figure":
    results, train = comparison.results, np.asarray(comparison.train.points)[:, 0]
    names = list(results.mechanism.values)
    figure, axes = _new_figure(len(names), 1, (7, 1.7 * len(names) + 0.8), sharex=True)
    everything = np.concatenate([results.samples.values.ravel(), train])
    margin = 0.05 * (np.ptp(everything) + 1e-12)
    bins = np.linspace(everything.min() - margin, everything.max() + margin, 121)
    for i, (name, ax) in enumerate(zip(names, axes[:, 0], strict=True)):
        samples = results.sel(mechanism=name).samples.values[:, 0]
        weights = np.full(len(samples), 1 / len(samples))
        ax.hist(samples, bins=bins, weights=weights, color=COLOURS[i % len(COLOURS)])
        # Beyond a few hundred, marks merge into a bar.
        if len(train) <= 200:
            ax.plot(
                train,
                np.zeros_like(train),
                "k|",
                markersize=12,
                markeredgewidth=1.5,
                label="training points",
            )
        ax.set_ylabel("fraction a bin")
        ax.set_title(str(name), loc="left", fontsize=10)
    axes[0, 0].legend(frameon=False, fontsize=8)
    axes[-1, 0].set_xlabel("$x$")
    return figure


def _plot_plane(comparison: Comparison) -> "Figure":
    results, train = comparison.results, np.asarray(comparison.train.points)
    names = list(results.mechanism.values)
    labels = ("$x_1$", "$x_2$")
    centre, plane = np.zeros(2), np.eye(2)
    if train.shape[1] > 2:
        centre = train.mean(axis=0)
        plane = np.linalg.svd(train - centre, full_matrices=False)[2][:2].T
        labels = ("first principal component", "second")
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = _new_figure(
        rows, columns, (3.3 * columns, 3.3 * rows + 0.3), sharex=True, sharey=True
    )
    fresh = (np.asarray(comparison.held_out.points) - centre) @ plane
    known = (train - centre) @ plane
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    for i, (name, ax) in enumerate(zip(names, axes.flat, strict=False)):
        samples = (results.sel(mechanism=name).samples.values - centre) @ plane
        ax.scatter(*fresh.T, s=3, color="#CCCCCC", label="held out", zorder=1, linewidths=0)
        ax.scatter(
            *samples.T,
            s=8,
            color=COLOURS[i % len(COLOURS)],
            alpha=0.6,
            label="samples",
            zorder=2,
            linewidths=0,
        )
        if len(known) <= 2000:
            ax.scatter(
                *known.T,
                s=22,
                facecolors="none",
                edgecolors="k",
                linewidths=0.7,
                label="training",
                zorder=3,
            )
        ax.set_title(str(name), loc="left", fontsize=10)
        ax.set_aspect("equal", adjustable="box")
        ax.set_xlabel(labels[0])
    axes[0, 0].set_ylabel(labels[1])
    axes[0, 0].legend(frameon=False, fontsize=7, loc="upper left")
    return figure


def plot_curves(comparison: Comparison) -> "Figure":
    """Against the noise level: RMSE between mechanisms, centred linearity, effective number of training points.

    Bands and bars are two standard errors.
    """
    results = comparison.results
    names = list(results.mechanism.values)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    figure, axes = _new_figure(1, 3, (12, 3.6))
    rmse, linearity, neighbours = axes[0]
    level = results.level.values
    for i, (first, second) in enumerate(pairs):
        one = results.sel(mechanism=first, other=second)
        _band(
            rmse,
            level,
            one.rmse.values,
            one.rmse_se.values,
            COLOURS[(i + 3) % len(COLOURS)],
            f"{first} – {second}",
        )
    rmse.set_title("How far apart the denoisers are", loc="left", fontsize=10)
    rmse.set_ylabel("RMSE a coordinate (data units)")
    rmse.set_yscale("log")
    for i, name in enumerate(names):
        one = results.sel(mechanism=name)
        _band(
            linearity,
            level,
            one.linearity_centred.values,
            one.linearity_centred_se.values,
            COLOURS[i % len(COLOURS)],
            str(name),
        )
    linearity.set_title("How affine each denoiser is", loc="left", fontsize=10)
    linearity.set_ylabel("linearity score, centred")
    linearity.set_ylim(top=1.02)
    number = results.effective_neighbours.values
    _band(neighbours, level, number, results.effective_neighbours_se.values, COLOURS[-1], "mean")
    neighbours.plot(
        level,
        results.effective_neighbours_median.values,
        "--",
        color=COLOURS[-1],
        lw=1,
        label="median",
    )
    total = results.attrs["num_train"]
    neighbours.axhline(total, color="#999999", lw=0.8)
    neighbours.annotate(f"all {total}", (level[0], total), va="top", fontsize=8, color="#666666")
    neighbours.set_title("How many training points a noisy point sees", loc="left", fontsize=10)
    neighbours.set_ylabel("effective number, exp(entropy)")
    neighbours.set_yscale("log")
    for ax in (rmse, linearity, neighbours):
        ax.set_xscale("log")
        ax.set_xlabel("noise level $\\sigma$ (data units)")
        ax.spines[["top", "right"]].set_visible(False)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize=8)
    return figure


def _band(
    ax: "Axes", x: np.ndarray, y: np.ndarray, error: np.ndarray, colour: str, label: str
) -> None:
    ax.plot(x, y, ".-", color=colour, label=label, lw=1.4, ms=5)
    # On a logarithmic axis the lower edge must stay positive.
    low = np.maximum(y - 2 * error, 0.02 * np.abs(y))
    ax.fill_between(x, low, y + 2 * error, color=colour, alpha=0.2, lw=0)


def plot_experiment(name: str, results: Any) -> "Figure":
    """The figure of a named experiment (`smoothjax.experiments.EXPERIMENTS`) from its labelled results."""
    return {
        "two-points": _plot_two_points,
        "penalty-sweep": _plot_penalty_sweep,
        "optimality": _plot_optimality,
        "line-in-plane": _plot_line_in_plane,
        "early-stopping": _plot_early_stopping,
        "circle": _plot_circle,
        "target-noise": _plot_target_noise,
        "gap-filling": _plot_gap_filling,
    }[name](results)


def _plot_two_points(results: Any) -> "Figure":
    figure, axes = _new_figure(1, 3, (13, 3.8))
    score, flow, law = axes[0]
    sigma = results.attrs["sigma_from"]
    for colour, kappa in zip(COLOURS, results.kappa.values, strict=False):
        one = results.sel(kappa=kappa)
        label = "exact" if np.isinf(kappa) else rf"$\kappa$ = {kappa:g}"
        score.plot(results.u, one.score * sigma, color=colour, label=label)
        law.plot(results.u, one.cdf, color=colour, label=label)
    for colour, kappa in (
        (COLOURS[0], results.kappa.values[0]),
        (COLOURS[2], results.kappa.values[2]),
    ):
        lines = results.trajectory.sel(kappa=kappa)
        flow.plot(lines.values, results.sigma.values, color=colour, linewidth=0.8)
    score.set(
        xlabel="u (data units)", ylabel=r"$\sigma$ score", title=f"Score at $\\sigma$ = {sigma:.3g}"
    )
    flow.set(
        xlabel="u (data units)",
        ylabel=r"noise level $\sigma$ (data units)",
        title=rf"Flow: exact, and $\kappa$ = {results.kappa.values[2]:g}",
    )
    law.set(xlabel="u (data units)", ylabel="distribution function", title="What is generated")
    for ax in (score, law):
        ax.legend(fontsize=8)
    return figure


def _plot_penalty_sweep(results: Any) -> "Figure":
    figure, ((ax,),) = _new_figure(1, 1, (5.5, 4))
    ax.plot(
        results.penalty, results.predicted, color="black", label=r"predicted: $G(\kappa)=\lambda$"
    )
    for colour, sigma in zip(COLOURS, results.sigma.values, strict=False):
        kappa = results.kappa.sel(sigma=sigma)
        mean, spread = kappa.mean("seed"), kappa.std("seed")
        ax.errorbar(
            results.penalty,
            mean,
            2 * spread,
            fmt="o",
            markersize=4,
            color=colour,
            label=rf"networks, $\sigma$ = {sigma:.3g}",
        )
    ax.set(xscale="log", xlabel=r"penalty $\lambda$ on the weights", ylabel=r"effective $\kappa$")
    ax.set_title("Smoothing strength of two-layer networks", fontsize=10)
    ax.legend(fontsize=8)
    return figure


def _plot_optimality(results: Any) -> "Figure":
    figure, ((excess, score),) = _new_figure(1, 2, (11, 4.2))
    least = int(np.argmin(results.variance.values))
    nearest = results.isel(variance=least)
    score.plot(
        results.offset, nearest.exact_score[0], color="#BBBBBB", linewidth=3, label="exact score"
    )
    for colour, loss in zip(COLOURS, results.loss.values, strict=False):
        one, curves = results.sel(loss=loss), nearest.sel(loss=loss)
        label = rf"$L$ = {loss:g}"
        excess.plot(one.variance, one.ratio - 1, "o-", color=colour, label=label, markersize=5)
        excess.axhline(one.limit.item() - 1, color=colour, linestyle=":", linewidth=1)
        excess.axhline(one.bound.item() - 1, color=colour, linestyle="--", linewidth=1)
        for line, mark, kink, curve in (
            ("-", "o", curves.kink, curves.optimal_score),
            ("--", "s", curves.kappa, curves.piecewise_linear_score),
        ):
            score.plot(curves.offset, curve, line, color=colour, linewidth=1.3)
            height = np.interp(-kink, curves.offset, curve)
            score.plot(-kink, height, mark, color=colour, markersize=5)
    # The styles, once for all colours.
    excess.plot([], [], "--", color="black", linewidth=1, label=r"bound, $8\sqrt{L}$")
    excess.plot([], [], ":", color="black", linewidth=1, label=r"$\sigma\to0$: $1/(1-\sqrt{L})-1$")
    score.plot([], [], "o-", color="black", linewidth=1.3, markersize=5, label="least $R$")
    score.plot(
        [], [], "s--", color="black", linewidth=1.3, markersize=5, label="piecewise-linear smoother"
    )
    excess.set(
        xscale="log",
        yscale="log",
        xlabel=r"variance $\sigma^2$ (squared data units)",
        ylim=(0.008, 4),
        ylabel="$R$ over the least, minus 1",
        title="What the smoother gives away at the same loss",
    )
    sigma = results.variance.values[least] ** 0.5
    score.set(
        xlabel=r"$(u - 1) / \sigma$",
        ylim=(-3.2, 4),
        ylabel=r"$\sigma$ score",
        title=f"Scores near a point at $\\sigma$ = {sigma:.3g}, kinks marked",
    )
    excess.legend(fontsize=8, loc="lower left", ncols=2)
    score.legend(fontsize=8)
    return figure


def _plot_line_in_plane(results: Any) -> "Figure":
    figure, ((tangent, normal),) = _new_figure(1, 2, (10, 4), sharex=True, sharey=True)
    sigma = results.sigma.values
    for i, kappa in enumerate(results.kappa.values):
        label = "exact" if np.isinf(kappa) else rf"smoothed, $\kappa$ = {kappa:g}"
        one = results.sel(kappa=kappa)
        colour = COLOURS[-1] if i == 0 else COLOURS[i - 1]
        tangent.plot(sigma, one.tangent, "-", color=colour, lw=1.4, label=label)
        normal.plot(sigma, one.normal, "-", color=colour, lw=1.4)
    for i, penalty in enumerate(results.penalty.values):
        colour = COLOURS[len(results.kappa) - 1 + i]
        for j in range(results.sizes["seed"]):
            one = results.sel(penalty=penalty).isel(seed=j)
            label = rf"networks, penalty {penalty:g}" if j == 0 else None
            for ax, name in ((tangent, "tangent"), (normal, "normal")):
                value, error = one[f"network_{name}"], one[f"network_{name}_se"]
                ax.errorbar(
                    sigma, value, 2 * error, fmt=".", ms=4, lw=0.8, color=colour, label=label
                )
    tangent.set(
        ylabel="squared data units", title="Along the line: mean squared distance from a datum"
    )
    normal.set(title="Normal to the line: variance")
    for ax in (tangent, normal):
        ax.set(xscale="log", yscale="log", xlabel=r"noise level $\sigma$ (data units)")
        ax.title.set_fontsize(10)
    tangent.legend(fontsize=8)
    return figure


def _plot_early_stopping(results: Any) -> "Figure":
    figure, ((smoothed, stopped, spread),) = _new_figure(1, 3, (13, 3.8))
    kappa = results.attrs["kappa_shown"]
    stop = float(results.stop.sel(kappa=kappa))
    titles = {
        "smoothed": rf"Smoothed, $\kappa$ = {kappa:g}, to $\sigma$ = 0",
        "stopped": rf"Exact, stopped at $\sigma$ = {stop:.3g}",
    }
    for ax, law, colour in zip((smoothed, stopped), titles, COLOURS, strict=False):
        samples = results.samples.sel(law=law).values
        ax.plot(samples[:, 0], samples[:, 1], ".", ms=2, color=colour, alpha=0.5)
        ax.plot(results.point, np.zeros(results.sizes["point"]), "k+", ms=9)
        ax.set(title=titles[law], xlabel="along the line", xlim=(-1.5, 1.5), ylim=(-0.5, 0.5))
    smoothed.set_ylabel("normal to it (data units)")
    tangent = np.sqrt(results.tangent)
    spread.plot(tangent, np.sqrt(results.normal_smoothed), "o-", color=COLOURS[0], label="smoothed")
    spread.plot(tangent, np.sqrt(results.normal_stopped), "s-", color=COLOURS[1], label="stopped")
    spread.set(
        title="At the same spread along the line",
        xlabel="rms distance from a datum along the line",
        ylabel="standard deviation normal to it",
    )
    spread.legend(fontsize=8)
    for ax in (smoothed, stopped, spread):
        ax.title.set_fontsize(10)
    return figure


def _plot_circle(results: Any) -> "Figure":
    dims, numbers, steps = (results[name].values for name in ("dim", "num_points", "num_steps"))
    columns = len(numbers) + 1
    figure, axes = _new_figure(len(dims), columns, (3.6 * columns, 3.5 * len(dims)))
    angle = np.linspace(0, 2 * np.pi, 400)
    kinds = [kind for kind in results.kind.values if kind != "vertex"]
    for row, dim in zip(axes, dims, strict=True):
        for ax, number in zip(row, numbers, strict=False):
            corners = 2 * np.pi * np.arange(number + 1) / number
            ax.plot(np.cos(angle), np.sin(angle), color="#bbbbbb", lw=0.8)
            ax.plot(np.cos(corners), np.sin(corners), color="#888888", lw=0.8)
            # The shortest training and the next: what is new thins out, and moves from the circle to the edges.
            for colour, step in zip(COLOURS[4:], steps[1:3], strict=False):
                samples = results.samples.sel(dim=dim, num_points=number, num_steps=step).values
                ax.plot(
                    samples[:, 0], samples[:, 1], ".", ms=3, color=colour, label=f"{step} steps"
                )
            ax.set(aspect="equal", title=f"{number} points in R^{dim}")
            ax.legend(fontsize=7, loc="center")
        bars = row[-1]
        labels = [(number, step) for number in numbers for step in steps]
        bottom = np.zeros(len(labels))
        for colour, kind in zip(COLOURS, kinds, strict=False):
            height = np.array(
                [
                    float(results.fraction.sel(dim=dim, num_points=n, num_steps=s, kind=kind))
                    for n, s in labels
                ]
            )
            bars.bar(range(len(labels)), height, bottom=bottom, color=colour, label=kind)
            bottom += height
        bars.set_xticks(
            range(len(labels)),
            [f"n={n}\n{s or 'exact'}" for n, s in labels],
            fontsize=7,
        )
        bars.set(title="Samples that are not at a vertex", ylabel="fraction of all")
        bars.legend(fontsize=8)
        for ax in row:
            ax.title.set_fontsize(10)
    return figure


def _plot_target_noise(results: Any) -> "Figure":
    sets, times = results["set"].values, results.t.values
    figure, axes = _new_figure(
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


def _plot_gap_filling(results: Any) -> "Figure":
    cutoffs, sizes = results.cutoff.values, results.num_train.values
    figure, axes = _new_figure(
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
