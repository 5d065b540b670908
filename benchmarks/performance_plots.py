"""The plots of the page about performance."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from performance_rows import CALLS, OURS, Results, is_bound, queries, shape

from smoothjax._figure import COLOURS, new_figure


def draw_efficiency(results: Results) -> Any:
    """Share of the bare products' speed, by number of queries; more than one is work that was not done."""
    groups = []
    for part in CALLS:
        rows = [o for o in results.rows(part) if results.products(o) and not is_bound(o)]
        for n, d, batch in dict.fromkeys((o["n"], o["d"], o["batch"]) for o in rows):
            groups.append([o for o in rows if (o["n"], o["d"], o["batch"]) == (n, d, batch)])
    if not groups:
        return None
    names = list(dict.fromkeys(one["contestant"] for group in groups for one in group))
    names.remove(f"{OURS} certified")
    figure, axes = new_figure(1, 1, (8.0, 3.6))
    ax, width = axes[0, 0], 0.8 / len(names)
    for i, name in enumerate(names):
        middle, low, high = [], [], []
        for group in groups:
            here = [o for o in group if o["contestant"] == name]
            shares = [(results.products(o) or np.nan) / o["seconds"] for o in here]
            quartiles = np.percentile(shares, [0, 50, 100]) if shares else [np.nan] * 3
            low.append(quartiles[1] - quartiles[0])
            middle.append(quartiles[1])
            high.append(quartiles[2] - quartiles[1])
        at = np.arange(len(groups)) + (i - 0.5 * (len(names) - 1)) * width
        style = {"color": COLOURS[i], "label": name}
        ax.bar(at, middle, 0.92 * width, yerr=[low, high], error_kw={"lw": 0.8}, **style)
    ax.axhline(1, color="0.3", lw=1, ls="--")
    labels = [f"{shape(group[0])}\n{queries(group[0]['batch'])}" for group in groups]
    ax.set_xticks(range(len(groups)), labels, fontsize=8)
    ax.set_ylabel("fraction of the speed of\nthe fastest bare products")
    ax.legend(
        frameon=False, fontsize=8, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def draw_certified(results: Results) -> Any:
    """How many times faster than dense the certified denoiser is, against the noise level."""
    parts = [part for part in CALLS if results.rows(part)]
    if not parts:
        return None
    figure, axes = new_figure(1, len(parts), (4.2 * len(parts), 3.2), sharey=True)
    for ax, part in zip(axes[0], parts, strict=True):
        rows = [o for o in results.rows(part) if o["contestant"] == f"{OURS} certified"]
        for i, batch in enumerate(dict.fromkeys(one["batch"] for one in rows)):
            here = sorted((o for o in rows if o["batch"] == batch), key=lambda o: o["noise"])
            noise = [o["noise"] for o in here]
            low, speed, high = zip(*(o["speed_quartiles"] for o in here), strict=True)
            ax.plot(noise, speed, ".-", color=COLOURS[i], label=queries(batch), lw=1.4)
            ax.fill_between(noise, low, high, color=COLOURS[i], alpha=0.2, lw=0)
        ax.axhline(1, color="0.3", lw=1, ls="--")
        ax.set(xscale="log", yscale="log", xlabel="noise level")
        ax.set_title(shape(rows[0]), fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("certified: times faster than dense")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def draw_precision(results: Results) -> Any:
    """Error of samplers against denoiser calls and against time."""
    rows = results.rows("w1s-precision")
    if not rows:
        return None
    figure, axes = new_figure(2, 2, (8.4, 6.0), sharex="col", sharey="row")
    # Where no sample ends elsewhere the logarithm has no place: half a sample.
    least = 0.5 / rows[0]["samples"]
    positive = [one["distance"] for one in rows if one["distance"] > 0]
    floor = 0.5 * min(positive, default=1.0)
    for i, solver in enumerate(dict.fromkeys(one["solver"] for one in rows)):
        here = [one for one in rows if one["solver"] == solver]
        for column, key in enumerate(("evaluations", "seconds")):
            line = sorted(here, key=lambda one: one[key])
            x = [one[key] for one in line]
            style = {"color": COLOURS[i], "label": solver, "lw": 1.4}
            axes[0, column].plot(x, [max(one["error"], least) for one in line], ".-", **style)
            axes[1, column].plot(x, [max(one["distance"], floor) for one in line], ".-", **style)
    axes[0, 0].axhline(least, color="0.3", lw=1, ls=":")
    axes[0, 1].axhline(least, color="0.3", lw=1, ls=":")
    axes[0, 0].set_ylabel("fraction on another image\n(dotted: none)")
    axes[1, 0].set_ylabel("RMS distance from reference")
    axes[1, 0].set_xlabel("denoiser calls a sample, mean")
    axes[1, 1].set_xlabel(f"seconds for {rows[0]['samples']} samples")
    for ax in axes.flat:
        ax.set(xscale="log", yscale="log")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 1].legend(frameon=False, fontsize=8)
    return figure


def draw_scaling(results: Results) -> Any:
    """Time against points, dimensions, queries and devices."""
    sizes, devices = results.rows("w5-size"), results.rows("w5-devices")
    if not sizes and not devices:
        return None
    varied = list(dict.fromkeys(one["varied"] for one in sizes))
    panels = varied + (["devices"] if devices else [])
    figure, axes = new_figure(1, len(panels), (3.0 * len(panels), 3.2))
    labels = {"n": "training points", "d": "dimensions", "batch": "queries"}
    for ax, key in zip(axes[0], varied, strict=False):
        rows = [one for one in sizes if one["varied"] == key]
        for i, name in enumerate(dict.fromkeys(one["contestant"] for one in rows)):
            here = sorted((o for o in rows if o["contestant"] == name), key=lambda o: o[key])
            x = [one[key] for one in here]
            low, high = zip(*(one["seconds_quartiles"] for one in here), strict=True)
            y = [1e3 * one["seconds"] for one in here]
            bare = "products" in name
            style = {"color": "0.4" if bare else COLOURS[i], "ls": "--" if bare else "-"}
            ax.plot(x, y, marker=".", label="bare products" if bare else name, lw=1.4, **style)
            ax.fill_between(
                x,
                1e3 * np.asarray(low),
                1e3 * np.asarray(high),
                color=style["color"],
                alpha=0.2,
                lw=0,
            )
        fixed = [f"{rows[0][k]:,} {labels[k]}" for k in labels if k != key]
        ax.set(xscale="log", yscale="log", xlabel=labels[key])
        ax.set_title(", ".join(fixed), fontsize=8)
    if varied:
        axes[0, 0].set_ylabel("milliseconds a call")
        axes[0, 0].legend(frameon=False, fontsize=8)
    if devices:
        ax = axes[0, -1]
        base = devices[0]["seconds"]
        count = [one["num_devices"] for one in devices]
        ax.plot(count, [base / one["seconds"] for one in devices], ".-", color=COLOURS[0], lw=1.4)
        ax.set_xscale("log", base=2)
        ax.set_xticks(count, [str(c) for c in count])
        ax.set_ylim(bottom=0)
        ax.set(xlabel="devices (on one processor: virtual)", ylabel="times faster than one device")
        ax.set_title(f"sharded, {shape(devices[0])}", fontsize=8)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure


PLOTS: dict[str, tuple[Callable[[Results], Any], str]] = {
    "efficiency": (
        draw_efficiency,
        "Speed of the dense contestants, as a fraction of the bare products'",
    ),
    "certified": (
        draw_certified,
        "Speed-up of the certified denoiser over the dense one, by noise level",
    ),
    "work-precision": (draw_precision, "Error of samplers against denoiser calls and against time"),
    "scaling": (
        draw_scaling,
        "Time against training points, dimensions and queries, and speed-up by devices",
    ),
}


def plots(results: Results, folder: Path, prefix: str) -> dict[str, str]:
    """Draws what there are rows for; the Markdown of each image by the plot's name."""
    found = {}
    for name, (draw, caption) in PLOTS.items():
        figure = draw(results)
        if figure is not None:
            path = folder / f"{prefix}-{name}.png"
            figure.savefig(path, dpi=160)
            found[name] = f"![{caption}]({path.name})"
    return found
