"""Figures of the experiments on score smoothing."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._figure import COLOURS, band, legend_below, new_figure, plain_signed_ticks, plain_ticks
from ...mechanisms import looks_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_two_points(results: Any) -> "Figure":
    figure, axes = new_figure(1, 3, (13, 3.8))
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


def plot_penalty_sweep(results: Any) -> "Figure":
    figure, ((ax,),) = new_figure(1, 1, (5.5, 4))
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


def plot_optimality(results: Any) -> "Figure":
    figure, ((excess, score),) = new_figure(1, 2, (11, 4.2))
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


def plot_line_in_plane(results: Any) -> "Figure":
    figure, ((tangent, normal),) = new_figure(1, 2, (10, 4), sharex=True, sharey=True)
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


def plot_early_stopping(results: Any) -> "Figure":
    figure, ((smoothed, stopped, spread),) = new_figure(1, 3, (13, 3.8))
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


def plot_circle(results: Any) -> "Figure":
    dims, numbers, steps = (results[name].values for name in ("dim", "num_points", "num_steps"))
    columns = len(numbers) + 1
    figure, axes = new_figure(len(dims), columns, (3.6 * columns, 3.5 * len(dims)))
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


# What strengths are shown as: widths over the data's spread, of mechanisms that have one.
_WIDTHS = ("tempered", "smoothed", "widened")
_MARKS = {"guess": "x", "held-out": "o", "likelihood": "D"}


def plot_optimal_smoothing(results: Any) -> "Figure":
    names = [str(name) for name in results.mechanism.values]
    rows = results.sizes["data"]
    figure, axes = new_figure(rows, 3, (14, 4.7 * rows + 0.2))
    for i, data in enumerate(results.data.values):
        one = results.sel(data=data)
        ratio, width, gain = axes[i]
        for name, look in looks_of(tuple(names)).items():
            of, colour = one.sel(mechanism=name), look.colour
            if name == names[0]:
                ratio.axhline(1, color=colour, lw=1.4, label=name)
            else:
                values = of.level.values, of.ratio.values, of.ratio_se.values
                band(ratio, *values, colour, name, look.dashes, look.marker)
            if name in _WIDTHS:
                _plot_widths(width, of, float(one.spread), name, colour)
            _plot_gains(gain, of, names.index(name), colour)
        ratio.set(
            xscale="log",
            yscale="log",
            xlabel="noise level / spread of the data",
            ylabel=f"held-out loss / that of {names[0]}",
        )
        ratio.set_title(f"{data}: denoising error at the best strengths", loc="left", fontsize=10)
        _cut_off(ratio, one, names)
        width.set(
            xscale="log",
            yscale="log",
            ylim=(0.005, 5),
            xlabel="noise level / spread of the data",
            ylabel="width / spread of the data",
        )
        width.set_title("The best widths, 90 % intervals", loc="left", fontsize=10)
        gain.axvline(0, color="#999999", lw=0.8)
        gain.set_xscale("symlog", linthresh=1)
        gain.set_yticks(range(len(names)), names)
        gain.set_ylim(len(names) - 0.5, -0.5)
        gain.set_xlabel(f"log-likelihood less that of {names[0]}, nats")
        gain.set_title(
            f"Likelihood at a tenth of the spread, d = {int(one.dim)}", loc="left", fontsize=10
        )
        for ax in axes[i]:
            ax.spines[["top", "right"]].set_visible(False)
            legend_below(ax)
        for axis in (ratio.xaxis, ratio.yaxis, width.xaxis, width.yaxis):
            plain_ticks(axis)
        plain_signed_ticks(gain.xaxis)
    return figure


# Ratios above this would flatten all others.
_MOST_SHOWN = 20


def _cut_off(ax: Any, one: Any, names: list[str]) -> None:
    """Limits that keep what is near one apart, and in words what lies beyond."""
    ratio = one.ratio
    ax.set_ylim(min(0.7, 0.8 * float(ratio.min())), min(1.3 * float(ratio.max()), _MOST_SHOWN))
    highest = {name: float(ratio.sel(mechanism=name).max()) for name in names}
    beyond = [f"{name} to {x:.3g}" for name, x in highest.items() if x > _MOST_SHOWN]
    if beyond:
        where = {"transform": ax.transAxes, "ha": "left", "va": "bottom", "fontsize": 8}
        ax.text(0.02, 0.02, "above: " + ", ".join(beyond), color="#666666", **where)


def _plot_widths(ax: Any, of: Any, spread: float, name: str, colour: str) -> None:
    """The width; of a tempered score that of the density estimate which weighs the points alike, `sigma sqrt(T - 1)`."""
    level = of.level.values
    low, middle, high = (of[key].values for key in ("strength_low", "strength", "strength_high"))
    label, shift = name, 1.0
    if name == "tempered":
        low, middle, high = (level * np.sqrt(np.maximum(x - 1, 0)) for x in (low, middle, high))
        label, shift = r"tempered, as $\sigma\sqrt{T-1}$", 1.06
    else:
        low, middle, high = low / spread, middle / spread, high / spread
    shown = middle > 0
    # Side by side, where intervals overlap.
    x = shift * level[shown] / (1.06 if name == "smoothed" else 1)
    middle, low, high = middle[shown], np.maximum(low[shown], 1e-4), high[shown]
    bars = np.stack([np.maximum(middle - low, 0), np.maximum(high - middle, 0)])
    ax.errorbar(x, middle, bars, fmt=".-", color=colour, lw=1.4, elinewidth=1, label=label)


def _plot_gains(ax: Any, of: Any, row: int, colour: str) -> None:
    labels = ("own strength", "best for denoising, by level", "likeliest")
    for k, (how, mark) in enumerate(_MARKS.items()):
        if row == 0:  # the marks, once for all colours
            ax.plot([], [], mark, color="black", ms=6, label=labels[k])
        value, error = float(of.gain.sel(how=how)), float(of.gain_se.sel(how=how))
        if not np.isfinite(value):
            continue
        y = row + 0.22 * (k - 1)
        ax.plot([value - 2 * error, value + 2 * error], [y, y], color=colour, lw=1.4)
        ax.plot(value, y, mark, color=colour, ms=6)
