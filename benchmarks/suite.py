"""All benchmarks of speed: one command, one JSON, a page and its plots.

    python benchmarks/suite.py --images train-images-idx3-ubyte.gz --out runs/performance --page docs/performance.md

Every part is written as it finishes: the same command goes on where it was stopped, and a run on another device in the same
folder adds that device's rows. The JSON beside the page keeps its parts that the folder does not have. What is not
installed is left out, with a note: `pip install -e ".[bench]"`. See README.md.
"""

import argparse
import dataclasses
import datetime
import json
import os
import re
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from denoiser_workloads import (
    FEW_LEVELS,
    dense_rows,
    images_for,
    search_rows,
    smooth_images,
    smoothed_rows,
)
from empirical_denoiser import environment
from local_denoisers import measure as measure_local
from machine import Row, device, rng, roofline, row
from performance_page import write_page
from sampling_workloads import (
    below_rows,
    precision_rows,
    sampling_rows,
    smoothed_sampling_rows,
)
from scaling_workloads import device_rows, size_rows, stream_rows
from tqdm import tqdm
from variance_ensemble import measure as measure_ensemble

# PyTorch reads the memory of JAX's arrays, and writes nothing there.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
# Both families of masses lie within so many standard errors of each other but for one run in a million.
STANDARD_ERRORS = 5.0


@dataclasses.dataclass
class Job:
    """What a part is given: the options, where its notes go, and a bar for its cells."""

    quick: bool
    images: str | None
    stream_gib: float
    notes: list[str]
    bar: Any

    def digits(self, num: int) -> np.ndarray:
        """Images of 28 x 28 (or of the file); few and small ones for a trial."""
        if self.quick:
            return smooth_images(300, 6, 1, rng())
        return images_for(self.images, num, rng())


def of_colour(job: Job) -> np.ndarray:
    return smooth_images(*((200, 5, 3) if job.quick else (50_000, 32, 3)), rng())


def ensemble_rows(job: Job) -> Iterable[Row]:
    """W3: an ensemble of linear models, trained and sampled, beside NumPy."""
    sizes = (3, 200, 2) if job.quick else (100, 100_000, 3)
    found = measure_ensemble(*sizes)
    ours, theirs = found["smoothjax"], found["numpy"]
    difference = np.abs(np.subtract(ours["mass"], theirs["mass"]))
    error = np.hypot(ours["standard_error"], theirs["standard_error"])
    worst = int(np.argmax(difference / np.maximum(error, 1e-12)))
    case = {"models": sizes[0], "samples": sizes[1], "disagreement": found["disagreement"]}
    yield row(
        "smoothjax",
        found["seconds"]["smoothjax"],
        **case,
        first_seconds=found["first"],
        compile_seconds=max(0.0, found["first"] - float(np.median(found["seconds"]["smoothjax"]))),
        error=float(difference[worst]),
        error_bound=STANDARD_ERRORS * float(error[worst]),
        error_of="mass, beside NumPy",
    )
    yield row("NumPy", found["seconds"]["numpy"], **case)


def local_rows(job: Job) -> Iterable[Row]:
    """W2: the local denoisers, 16 queries; the equivariant one beside its dense form."""
    images, size = job.digits(10_000), (6, 6, 1) if job.quick else (28, 28, 1)
    trial = {"noise": (0.5,), "queries": 2, "held_out": 20, "dense_images": 50, "repeats": 1}
    found = measure_local(images.reshape(-1, *size), **(trial if job.quick else {}))
    for cell in found:
        case = {"n": cell["images"], "d": int(np.prod(size)), "batch": cell["queries"]}
        more = {name: cell[name] for name in ("processor_seconds", "construction_seconds")}
        name = f"smoothjax {cell['kind']}"
        yield row(name, cell["seconds"], **case, noise=cell["noise"], **more)


def low_rows(job: Job) -> Iterable[Row]:
    """W4: few dimensions, beside KeOps and the 50 nearest points of SciPy's tree (which are no certificate)."""
    from low_dimension import LazyTensor, measured

    if LazyTensor is None:
        job.notes.append("KeOps is not installed: no rows of it.")
    names = {"truncated": "smoothjax certified", "dense": "smoothjax dense", "keops": "KeOps"}
    points, queries = ((2_000,), 100) if job.quick else ((100_000, 1_000_000), 10_000)
    clouds = ("spiral", "mixture")
    levels, rounds = ((0.1,), 1) if job.quick else ((1e-3, 0.1, 1.0, 10.0), 2)
    for cell in measured(clouds, points, queries, levels, rounds, 2e9):
        case = {"n": cell["points"], "d": cell["dim"], "batch": queries, "noise": cell["sigma"]}
        for name, seconds in cell["seconds"].items():
            label = names.get(name, "SciPy k-d tree, 50 nearest")
            more: Row = {"error_of": "posterior mean"}
            if name in cell["errors"]:
                more["error"] = cell["errors"][name]
            if name == "truncated":
                more["error_bound"] = cell["truncation"] + cell["rounding"]
            yield row(label, seconds["all"], **case, **more)


PARTS: dict[str, tuple[str, Callable[[Job], Iterable[Row]]]] = {
    "roofline": ("What the machine can do", lambda job: roofline(job.quick)),
    "w1-images": (
        "One denoising call, 28 x 28",
        lambda job: dense_rows(job.digits(60_000), job.quick, job.notes, job.bar),
    ),
    "w1-colour": (
        "One denoising call, 32 x 32 x 3",
        lambda job: dense_rows(of_colour(job), job.quick, job.notes, job.bar, FEW_LEVELS, 3),
    ),
    "w1-search": (
        "The search for points that matter",
        lambda job: search_rows(job.digits(60_000), job.quick, job.notes),
    ),
    "w1s-runs": (
        "Whole sampling runs",
        lambda job: sampling_rows(job.digits(10_000), job.quick, job.notes),
    ),
    "w1s-below": (
        "Below noise level one",
        lambda job: below_rows(job.digits(60_000), job.quick),
    ),
    "w1s-smoothed": (
        "Whole sampling runs, smoothed",
        lambda job: smoothed_sampling_rows(job.digits(10_000), job.quick, job.notes),
    ),
    "w1s-precision": (
        "Work and precision of samplers",
        lambda job: precision_rows(job.digits(10_000), job.quick, job.notes, job.bar),
    ),
    "w2-smoothed": (
        "A denoiser averaged over 64 perturbations",
        lambda job: smoothed_rows(job.digits(10_000), job.quick, job.notes, job.bar),
    ),
    "w2-local": ("Local denoisers", local_rows),
    "w3-ensemble": ("An ensemble of linear models", ensemble_rows),
    "w4-low": ("Few dimensions", low_rows),
    "w5-size": ("Points, dimensions, queries", lambda job: size_rows(job.quick, job.bar)),
    "w5-devices": ("Devices", lambda job: device_rows(job.quick, job.bar)),
    "w5-stream": (
        "Training sets on the disk",
        lambda job: stream_rows(job.quick, job.stream_gib),
    ),
}


def replace(path: Path, text: str) -> None:
    """Writes a file at once: a run that is stopped leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def plain(value: Any) -> Any:
    """NumPy's and JAX's numbers as Python's."""
    return value.item() if hasattr(value, "item") else str(value)


def collected(out: Path, page: Path, quick: bool) -> dict[str, Any]:
    """Everything that the folder holds and, of what it does not, what the page has; parts in the order of `PARTS`."""
    found = [json.loads(path.read_text()) for path in sorted((out / "parts").glob("*/*.json"))]
    if page.exists():
        found = json.loads(page.read_text())["parts"] + found
    order = list(PARTS)
    parts = {(part["part"], part["device"]): part for part in found if part["part"] in order}
    kept = [part for part in parts.values() if part["settings"]["quick"] == quick]
    return {"parts": sorted(kept, key=lambda part: (order.index(part["part"]), part["device"]))}


def chosen(only: list[str] | None) -> list[str]:
    """The parts whose names begin with one of the words, all if there are none; `w1` is not `w1s`."""
    if only is None:
        return list(PARTS)
    names = [n for n in PARTS if any(n == word or n.startswith(f"{word}-") for word in only)]
    unknown = [w for w in only if not any(n == w or n.startswith(f"{w}-") for n in PARTS)]
    if unknown:
        raise SystemExit(f"--only: no part is called {unknown[0]!r}; there are {', '.join(PARTS)}.")
    return names


def run(options: argparse.Namespace) -> list[str]:
    """Runs what is not there yet; returns the parts that failed."""
    where, failed = device(), []
    slug = re.sub(r"\W+", "-", where).strip("-").lower()
    settings = {"quick": options.quick, "stream_gib": options.stream_gib}
    settings["images"] = Path(options.images).name if options.images else None
    bar = tqdm(chosen(options.only), disable=None)
    for name in bar:
        path = options.out / "parts" / slug / f"{name}.json"
        if path.exists() and not options.again:
            old = json.loads(path.read_text())["settings"]
            if old != settings:
                raise SystemExit(f"{path} was measured with {old}; give --again or another --out.")
            continue
        title, rows = PARTS[name]
        bar.set_description(title)
        notes: list[str] = []
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        with tqdm(leave=False, disable=None, desc="cells") as cells:
            try:
                found = list(
                    rows(Job(options.quick, options.images, options.stream_gib, notes, cells))
                )
            except Exception:  # The other parts do not depend on it.
                traceback.print_exc()
                failed.append(name)
                continue
        part = {
            "part": name,
            "title": title,
            "device": where,
            "settings": settings,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "load_average_before": load,
            "environment": environment(),
            "notes": list(dict.fromkeys(notes)),
            "rows": [{"workload": name, "device": where, **one} for one in found],
        }
        replace(path, json.dumps(part, indent=1, default=plain) + "\n")
    return failed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of parts, JSON and page")
    parser.add_argument("--page", type=Path, help="the page; by default performance.md in --out")
    parser.add_argument("--images", help="a file of images (.npy, .npz, idx) in place of synthetic")
    parser.add_argument("--only", nargs="+", metavar="PART", help="e.g. roofline w1 w1s w5-stream")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a trial, no measurement")
    parser.add_argument("--again", action="store_true", help="run parts that are there already")
    parser.add_argument("--stream-gib", type=float, help="training set on the disk (default 8)")
    options = parser.parse_args(arguments)
    if options.stream_gib is None:
        options.stream_gib = 0.02 if options.quick else 8.0
    failed = run(options)
    page = options.page or options.out / "performance.md"
    results = collected(options.out, page.with_suffix(".json"), options.quick)
    replace(page.with_suffix(".json"), json.dumps(results, indent=1) + "\n")
    write_page(results, page)
    if failed:
        print("Failed:", ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
