"""The page about performance and its plots, from the results of `suite.py` alone.

    python benchmarks/performance_page.py docs/performance.json docs/performance.md

Every number on the page is computed here from measured rows; the text around them says what bounds a workload.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from performance_plots import plots
from performance_rows import (
    CALLS,
    CASE,
    MARGIN,
    OURS,
    Results,
    Row,
    cases,
    duration,
    fastest,
    is_ours,
    named,
    number,
    percent,
    queries,
    rival,
    scientific,
    shape,
    short,
    spread,
    table,
    timing,
)

# ------------------------------------------------------------------------------------------- sections


def roofline_section(results: Results) -> list[str]:
    rows = results.rows("roofline")
    if not rows:
        return []
    bare = [one for one in rows if one["kind"] == "products"]
    others = [one for one in rows if one["kind"] != "products"]
    names = list(dict.fromkeys(one["contestant"] for one in bare))
    lines = []
    for _, group in cases(bare).items():
        rates = {one["contestant"]: one["gigaflops"] for one in group}
        cells = [number(rates[name]) if name in rates else "-" for name in names]
        lines.append([shape(group[0]), str(group[0]["batch"]), *cells])
    best = max(bare, key=lambda one: one["gigaflops"])
    text = (
        "What no implementation of these formulas on this machine can beat: the two matrix products of the dense denoiser, "
        "bare, in float32; copies of arrays that no cache holds; reading a file. "
        f"The highest rate of products is {number(best['gigaflops'])} Gflop/s ({best['contestant']}, "
        f"{shape(best)}, {queries(best['batch'])}). One query alone is bound by reading the points, not by arithmetic."
    )
    rates = [
        [one["contestant"], one["kind"], number(one["gigabytes_per_second"])] for one in others
    ]
    return [
        "## What the machine can do",
        text,
        "Gflop/s of the two products:",
        table(["points", "queries", *names], lines),
        "Read plus written, or read:",
        table(["", "what", "GB/s"], rates),
    ]


def call_section(results: Results, part: str) -> list[str]:
    rows = results.rows(part)
    if not rows:
        return []
    lines, reached, ahead, certified_gain, lost = [], [], [], {}, []
    for group in cases(rows).values():
        dense, certified = named(group, f"{OURS} dense"), named(group, f"{OURS} certified")
        other, bare = rival(group), results.products(group[0])
        if dense is None or certified is None:
            continue
        one = dense
        cell = [f"{one['batch']}", f"{one['noise']:g}", timing(dense), timing(certified)]
        gain = dense["seconds"] / certified["seconds"]
        certified_gain.setdefault(one["noise"], []).append(gain)
        cell += [f"{certified['visited']:.0f}"]
        best = min(dense, certified, key=lambda x: x["seconds"])
        if other is None:
            cell += ["-", "-"]
        else:
            ratio = other["seconds"] / best["seconds"]
            ahead.append(ratio)
            cell += [f"{duration(other['seconds'])}, {other['contestant']}", f"{ratio:.2f}"]
        if bare is not None:
            share = bare / dense["seconds"]
            reached.append((one["batch"], share))
            cell += [percent(share)]
        else:
            cell += ["-"]
        cell += [scientific(dense["error"]), scientific(other["error"] if other else None)]
        lines.append(cell)
        if gain < 1 / MARGIN:
            lost.append(f"{one['batch']} at {one['noise']:g}")
    one = rows[0]
    text = [
        f"{shape(one)} training points; queries are training points plus noise. Two products, 4 n d operations a query, "
        "bound the dense denoiser and every dense rival; the certified one weighs only the points that can matter, with a "
        "proof, so that it is not bound by them where few do: at low noise."
    ]
    if reached:
        by_batch = {b: [s for k, s in reached if k == b] for b, _ in reached}
        said = "; ".join(f"{b}: {spread(s, percent)}" for b, s in by_batch.items())
        text.append(
            "Of the speed of the fastest bare products, timed in turn with it, the dense denoiser reaches, "
            f"by number of queries: {said}."
        )
    copied = [o["gigabytes_per_second"] for o in results.rows("roofline") if o["kind"] == "copy"]
    single = [o for o in rows if o["contestant"] == f"{OURS} dense" and o["batch"] == 1]
    if copied and single:
        rates = [4e-9 * o["n"] * o["d"] / o["seconds"] for o in single]
        text.append(
            f"For one query it reads the points at {spread(rates)} GB/s, where copies read and write {number(max(copied))}."
        )
    gains = ", ".join(f"{spread(g)} at {s:g}" for s, g in certified_gain.items())
    text.append(
        f"The certified one is faster than dense by a factor of (over batches, by noise) {gains}."
    )
    if ahead:
        text.append(
            f"The faster of the two against the fastest rival in its own best variant: {spread(ahead)} times as fast."
        )
    if lost:
        text.append(f"Certified loses to dense for (queries at noise): {', '.join(lost)}.")
    header = ["queries", "noise", "dense (quartiles)", "certified (quartiles)", "points weighed"]
    header += ["fastest rival", "ratio", "dense, of bare products", "error, dense", "error, rival"]
    return [f"## {results.parts[part]['title']}", " ".join(text), table(header, lines)]


def contest_section(
    results: Results, part: str, text: str, figures: Iterable[str] = ()
) -> list[str]:
    """Every contestant's time in every case, and the library's best against the fastest other."""
    rows = results.rows(part)
    if not rows:
        return _missing(results, part)
    if not all("contestant" in one and "seconds" in one for one in rows):
        return [f"## {results.parts[part]['title']}", text, plain_table(rows)]
    lines, ratios = [], []
    keys = [key for key in CASE if any(one.get(key) is not None for one in rows)]
    more = [
        key for key in ("error", "error_bound") if any(one.get(key) is not None for one in rows)
    ]
    for group in cases(rows).values():
        ours, other = fastest(one for one in group if is_ours(one)), rival(group)
        if ours is not None and other is not None:
            ratios.append((other["seconds"] / ours["seconds"], ours, other))
        for one in group:
            quartiles = timing(one) if "seconds_quartiles" in one else duration(one["seconds"])
            cell = [one["contestant"], *(_plain(one.get(key)) for key in keys), quartiles]
            cell += [duration(one.get("compile_seconds")), *(scientific(one.get(k)) for k in more)]
            lines.append(cell)
    if ratios:
        text += f" {_against(ratios)}"
    told = sorted({one["error_of"] for one in rows if one.get("error_of")})
    if told:
        text += f" Errors are: {'; '.join(told)}."
    header = [
        "contestant",
        *keys,
        "time (quartiles)",
        "compile",
        *(k.replace("_", " ") for k in more),
    ]
    return [f"## {results.parts[part]['title']}", text, *figures, table(header, lines)]


def _against(ratios: list[tuple[float, Row, Row]]) -> str:
    others = ", ".join(dict.fromkeys(other["contestant"] for _, _, other in ratios))
    said = f"The library's fastest is {spread(r for r, _, _ in ratios)} times as fast as the fastest other ({others})."
    lost = [r for r, _, _ in ratios if r < 1 / MARGIN]
    return f"{said} It loses in {len(lost)} of {len(ratios)} cases." if lost else said


def _missing(results: Results, part: str) -> list[str]:
    """A part that ran without rows says why; one that did not run is not mentioned."""
    if part not in results.parts:
        return []
    notes = results.parts[part]["notes"]
    return [f"## {results.parts[part]['title']}", "Nothing was measured: " + "; ".join(notes) + "."]


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:.3g}"
        if isinstance(value, float)
        else str(value)
    )


def plain_table(rows: list[Row]) -> str:
    """Whatever numbers and words the rows hold."""
    dull = ("workload", "device", "rounds")
    keys = list(
        dict.fromkeys(k for one in rows for k, v in one.items() if not isinstance(v, list | dict))
    )
    keys = [k for k in keys if k not in dull and any(one.get(k) is not None for one in rows)]
    lines = [[_plain(one.get(k)) for k in keys] for one in rows]
    return table([k.replace("_", " ") for k in keys], lines)


def precision_section(results: Results, figures: list[str]) -> list[str]:
    rows = results.rows("w1s-precision")
    if not rows:
        return []
    lines = [
        [
            short(one),
            f"{one['evaluations']:.1f}",
            str(one["most_evaluations"]),
            timing(one),
            percent(one["error"]),
            number(one["distance"]),
        ]
        for one in rows
    ]
    doubt = rows[0]["doubt"]
    text = (
        f"{rows[0]['samples']} noises followed to the images they end on, {shape(rows[0])} training points. A batch takes "
        "as long as its slowest sample, so that time follows the most calls of the denoiser, not their mean. The reference "
        f"with half its levels puts {percent(doubt)} of the noises on another image: errors below that say nothing."
    )
    right = [one for one in rows if one["error"] <= doubt]
    best = fastest(right)
    if best is not None:
        few = min(right, key=lambda one: one["evaluations"])
        text += (
            f" Of those that err no more than the reference, {short(best)} takes least time "
            f"({duration(best['seconds'])}), {short(few)} fewest calls ({few['evaluations']:.1f})."
        )
    header = [
        "solver",
        "calls, mean",
        "most",
        "time (quartiles)",
        "on another image",
        "RMS distance",
    ]
    return [f"## {results.parts['w1s-precision']['title']}", text, *figures, table(header, lines)]


def below_section(results: Results) -> list[str]:
    rows = results.rows("w1s-below")
    if not rows:
        return []
    lines = []
    for group in cases(rows).values():
        dense, ours = (
            next(o for o in group if o["contestant"] == f"{OURS} {name}")
            for name in ("dense", "certified")
        )
        lines.append(
            [
                *(str(dense["samples"]), timing(dense), timing(ours)),
                *(number(dense["seconds"] / ours["seconds"]), percent(ours["open"])),
            ]
        )
    text = (
        f"The {rows[0]['levels']} of EDM's 18 noise levels that lie below one, {shape(rows[0])} training points: the dense "
        "denoiser is called for all samples at each of them, `replay` calls the certified one for those whose training "
        "point is not proved to be settled."
    )
    header = ["samples", "dense (quartiles)", "certified (quartiles)", "ratio", "calls left"]
    return [f"## {results.parts['w1s-below']['title']}", text, table(header, lines)]


def stream_section(results: Results) -> list[str]:
    rows = results.rows("w5-stream")
    if not rows:
        return []
    text, lines = [], []
    for batch in dict.fromkeys(one["batch"] for one in rows):
        group = {one["contestant"]: one for one in rows if one["batch"] == batch}
        call, warm = group[f"{OURS} streamed"], group[f"{OURS} streamed, cached"]
        reading, bare = group["disk, reading alone"], group["XLA products"]
        bound = "the disk" if reading["seconds"] > bare["seconds"] else "the matrix products"
        slowest = max(reading["seconds"], bare["seconds"])
        memory = (call["peak_bytes"] - call["import_bytes"]) / 2**20
        text.append(
            f"{queries(batch)} on {call['bytes'] / 2**30:.3g} GiB ({shape(call)}): {bound} bound it; a call takes "
            f"{call['seconds'] / slowest:.2f} times as long as the slower of the two alone, "
            f"with {memory:.0f} MiB of memory beyond the libraries' own."
        )
        for one in (call, warm, reading, bare):
            rate = number(one["gigabytes_per_second"])
            lines.append([f"{one['contestant']}, {queries(batch)}", timing(one), rate])
    title = results.parts["w5-stream"]["title"]
    return [
        f"## {title}",
        " ".join(text),
        table(["", "time (quartiles)", "GB/s of the file"], lines),
    ]


def losses(results: Results) -> list[str]:
    """Where another contestant is faster than all of the library's, from every part."""
    lines = []
    for name, part in results.parts.items():
        rows = [one for one in part["rows"] if "contestant" in one and "seconds" in one]
        # FAISS finds the nearest points and stops there.
        for group in cases(rows).values():
            ours, other = fastest(one for one in group if is_ours(one)), rival(group)
            if ours is None or other is None or ours["seconds"] < MARGIN * other["seconds"]:
                continue
            keys = [f"{key} {_plain(ours[key])}" for key in CASE if ours.get(key) is not None]
            ratio = ours["seconds"] / other["seconds"]
            lines.append([name, ", ".join(keys), other["contestant"], f"{ratio:.2f}"])
    if not lines:
        return ["## Where it loses", f"In no measured case by more than {MARGIN - 1:.0%}."]
    text = f"All cases in which the library's fastest takes more than {MARGIN:g} times as long as another."
    return ["## Where it loses", text, table(["part", "case", "faster", "by a factor of"], lines)]


def accuracy_section(results: Results) -> list[str]:
    lines = []
    for name, part in results.parts.items():
        rows = [
            o
            for o in part["rows"]
            if o.get("error") is not None and o.get("error_bound") is not None
        ]
        for contestant in dict.fromkeys(one["contestant"] for one in rows):
            group = [one for one in rows if one["contestant"] == contestant]
            worst = max(group, key=lambda one: one["error"] / one["error_bound"])
            lines.append(
                [
                    *(name, contestant, scientific(max(o["error"] for o in group))),
                    f"{worst['error'] / worst['error_bound']:.2g}",
                ]
            )
    if not lines:
        return []
    text = "The largest error against float64 of each contestant that states a bound, and the largest share of its bound."
    return ["## Accuracy", text, table(["part", "contestant", "error", "of its bound"], lines)]


def environment_section(results: Results) -> list[str]:
    first = next(iter(results.parts.values()))
    known, settings = first["environment"], first["settings"]
    versions = ", ".join(f"{k} {v}" for k, v in known["versions"].items())
    loads = [
        p["load_average_before"]
        for p in results.parts.values()
        if p["load_average_before"] is not None
    ]
    days = sorted(part["finished"][:10] for part in results.parts.values())
    text = (
        f"{first['device']}, {known['cpus']} cores; {versions}; measured {_span(days)}"
        + (f"; load average before the parts {spread(loads)}" if loads else "")
        + (f"; images from {settings['images']}." if settings["images"] else "; synthetic images.")
    )
    how = (
        "Contestants run in one process, in an order drawn anew each round; times are medians (and quartiles) over rounds, "
        "compilation is apart. Compare ratios rather than times: other work on a machine changes these less."
    )
    trial = ["**A trial at tiny sizes (`--quick`): these numbers say nothing about speed.**"]
    return [text, how, *(trial if settings["quick"] else [])]


def _span(days: list[str]) -> str:
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


# ----------------------------------------------------------------------------------------------- page


def device_page(results: Results, images: dict[str, str]) -> list[str]:
    def figure(name: str) -> list[str]:
        return [images[name]] if name in images else []

    sections = [
        environment_section(results),
        roofline_section(results),
        *(call_section(results, part) for part in CALLS),
        figure("efficiency") + figure("certified"),
        contest_section(
            results,
            "w1-search",
            "The certified denoiser finds the points that matter, proves that no others do, and returns their mean; FAISS "
            "returns the 16 nearest points of each query and no more. A flat index is bound by one of the two products; an "
            "inverted one looks into some of its lists and may miss points.",
        ),
        contest_section(
            results,
            "w1s-runs",
            "Whole runs from noise to images: the time is the number of denoiser calls, of the slowest sample of a batch, "
            "times the time of a call, which the products bound. Compilation of the library is apart.",
        ),
        below_section(results),
        contest_section(
            results,
            "w1s-smoothed",
            "The denoiser averaged over 64 perturbations. Where its output hardly moves, `replay` looks for the barycentre "
            "that the flow can be proved to end on.",
        ),
        precision_section(results, figure("work-precision")),
        contest_section(
            results,
            "w1s-calls",
            "Relative rms of the ends, over 64 noises and as a median, of deterministic samplers on noise levels, each "
            "with one call a level, in float64; from noise 80 to 0.002. The Gaussian has the covariance of 10,000 images of "
            "28 x 28, and no sampler is told it; the mixture has one Gaussian for each of their ten classes, and its rms is "
            "that of the few noises that end in another class. Public methods step through EDM's grid or, as ours, a "
            "constant ratio.",
        ),
        contest_section(
            results,
            "w2-smoothed",
            "The definition is a mean of as many dense calls as there are draws: their products bound it.",
        ),
        contest_section(
            results, "w2-local", "What bounds each kind is in its row, where it was measured."
        ),
        contest_section(
            results,
            "w3-ensemble",
            "Models are trained and sampled by tables: random look-ups bound NumPy's program over all models at once; here "
            "a model's table stays in cache.",
        ),
        contest_section(
            results,
            "w4-low",
            "In few dimensions a pair of points costs one exponential rather than a product, which bounds every contestant.",
        ),
        contest_section(
            results,
            "w5-size",
            "One of the sizes is varied at a time. Dense times grow as their products; what is flat at small sizes is the "
            "cost of a call.",
            figure("scaling"),
        ),
        contest_section(
            results,
            "w5-devices",
            "The points are spread over devices. Virtual devices share the processor's cores, which bound them together: "
            "more than there are cores can gain nothing.",
        ),
        stream_section(results),
        losses(results),
        accuracy_section(results),
    ]
    notes = [
        f"- {part['part']}: {note}" for part in results.parts.values() for note in part["notes"]
    ]
    if notes:
        sections.append(["## Notes", "\n".join(notes)])
    return [paragraph for section in sections for paragraph in section]


def write_page(results: dict[str, Any], page: Path) -> None:
    """Writes the page, and its plots beside it."""
    page.parent.mkdir(parents=True, exist_ok=True)
    devices = list(dict.fromkeys(part["device"] for part in results["parts"]))
    text = [
        "# Performance",
        "Written by `benchmarks/performance_page.py` from measured rows; do not edit.",
    ]
    for i, device in enumerate(devices):
        mine = Results([part for part in results["parts"] if part["device"] == device])
        prefix = page.stem if i == 0 else f"{page.stem}-{i + 1}"
        if len(devices) > 1:
            text.append(f"# On {device}")
        text += device_page(mine, plots(mine, page.parent, prefix))
    page.write_text("\n\n".join(text) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="JSON of suite.py")
    parser.add_argument("page", type=Path, help="Markdown to write; plots go beside it")
    options = parser.parse_args()
    write_page(json.loads(options.results.read_text()), options.page)


if __name__ == "__main__":
    main()
