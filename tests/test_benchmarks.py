"""The benchmark suite at tiny sizes, and its page from rows whose answers are known."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def page_module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import performance_page

    return performance_page


def row(contestant, seconds, **more):
    quartiles = [0.9 * seconds, 1.1 * seconds]
    return {"contestant": contestant, "seconds": seconds, "seconds_quartiles": quartiles, **more}


def part(name, rows, notes=()):
    return {
        "part": name,
        "title": f"Title of {name}",
        "device": "a processor",
        "settings": {"quick": False, "images": None, "stream_gib": 8.0},
        "finished": "2026-01-01T00:00:00+00:00",
        "load_average_before": 0.5,
        "environment": {"cpus": 2, "versions": {"jax": "1"}},
        "notes": list(notes),
        "rows": [{"workload": name, **one} for one in rows],
    }


def results():
    """Products of 1 s; dense takes 2 s, certified 0.5 s at low noise and 4 s at high; NumPy 1 s."""
    case = {"n": 1000, "d": 10, "batch": 64}
    bare = row("XLA", 1.0, kind="products", gigaflops=123.0, **case)
    calls = []
    for noise, certified in ((0.1, 0.5), (5.0, 4.0)):
        shared = case | {"noise": noise, "error": 1e-6, "error_bound": None}
        speed = 2.0 / certified
        calls += [
            row("smoothjax dense", 2.0, **shared | {"error_bound": 1e-5}),
            row(
                "smoothjax certified",
                certified,
                visited=7.0,
                speed_quartiles=[0.9 * speed, speed, 1.1 * speed],
                **shared,
            ),
            row("NumPy", 1.0, **shared),
            row("NumPy products", 1.0, **case | {"noise": noise}),
        ]
    return {"parts": [part("roofline", [bare]), part("w1-images", calls, ["a note"])]}


def test_page_says_what_the_rows_say(page_module, tmp_path):
    page_module.write_page(results(), tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "is 123 Gflop/s (XLA, 1,000 x 10, 64 queries)" in text
    assert "reaches, by number of queries: 64: 50 %." in text
    assert "(over batches, by noise) 4 at 0.1, 0.5 at 5." in text
    assert "against the fastest rival in its own best variant: 0.5 to 2 times as fast." in text
    assert "Certified loses to dense for (queries at noise): 64 at 5." in text
    losses = text.partition("## Where it loses")[2].partition("##")[0]
    assert "| w1-images | n 1,000, d 10, batch 64, noise 5 | NumPy | 2.00 |" in losses
    assert "noise 0.1" not in losses
    assert "| w1-images | smoothjax dense | 1.0e-06 | 0.1 |" in text
    assert "- w1-images: a note" in text
    for name in ("efficiency", "certified"):
        assert f"(page-{name}.png)" in text
        assert (tmp_path / f"page-{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_page_has_a_chapter_for_each_device(page_module, tmp_path):
    both = results()
    other = json.loads(json.dumps(both["parts"]).replace("a processor", "an accelerator"))
    page_module.write_page({"parts": [*both["parts"], *other]}, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert text.index("# On a processor") < text.index("# On an accelerator")
    assert "page-2-certified.png" in text and (tmp_path / "page-2-certified.png").exists()


def suite(*arguments):
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "suite.py"), "--quick", *map(str, arguments)],
        env=os.environ | {"JAX_ENABLE_X64": "0"},
        capture_output=True,
        text=True,
    )


@pytest.mark.exhaustive
@pytest.mark.slow
def test_suite_measures_everything_within_its_bounds_and_goes_on_where_it_was(tmp_path):
    done = suite("--out", tmp_path, "--only", "roofline", "w1", "w2-smoothed")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "parts").iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {path.stem for path in before} == {
        *("roofline", "w1-images", "w1-colour", "w1-search", "w2-smoothed")
    }
    done = suite("--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before

    parts = {p["part"]: p for p in json.loads((tmp_path / "performance.json").read_text())["parts"]}
    assert len(parts) == 15
    empty = {name for name, one in parts.items() if not one["rows"]}
    assert all(parts[name]["notes"] for name in empty)
    assert not empty & {"w1-images", "w1s-runs", "w1s-precision", "w3-ensemble", "w5-stream"}
    bounded = set()
    for name, one in parts.items():
        for found in one["rows"]:
            # Where a workload has another measure of time than seconds, it has that in its own columns.
            assert math.isfinite(found.get("seconds", 0.0)) and found.get("seconds", 1.0) > 0
            assert found["device"]
            if found.get("error_bound") is not None:
                bounded.add(name)
                assert 0 <= found["error"] <= found["error_bound"], found
    assert bounded >= {"w1-images", "w1-colour", "w2-smoothed", "w3-ensemble"}
    assert bounded >= {"w5-size", "w5-devices", "w5-stream"}
    # The reference is converged at this size, and solvers whose tolerance is small end where it does.
    precise = [x for x in parts["w1s-precision"]["rows"] if x["solver"] == "ExponentialMultistep"]
    assert precise and all(x["error"] <= 1 / x["samples"] for x in precise)
    text = (tmp_path / "performance.md").read_text()
    for one in parts.values():
        assert one["title"] in text
    assert "A trial at tiny sizes" in text
    for name in ("efficiency", "certified", "work-precision", "scaling"):
        assert (tmp_path / f"performance-{name}.png").exists()


def test_suite_refuses_an_unknown_part_and_other_settings(page_module, tmp_path, monkeypatch):
    pytest.importorskip("tqdm")
    import suite as module

    monkeypatch.setattr(module, "PARTS", {"roofline": ("A title", lambda job: [])})
    with pytest.raises(SystemExit, match="no part is called 'w9'"):
        module.main(["--out", str(tmp_path), "--only", "w9"])
    assert module.main(["--out", str(tmp_path), "--quick"]) == 0
    with pytest.raises(SystemExit, match="give --again"):
        module.main(["--out", str(tmp_path)])
    assert module.main(["--out", str(tmp_path), "--again"]) == 0


def test_page_keeps_what_another_folder_measured(page_module, tmp_path, monkeypatch):
    pytest.importorskip("tqdm")
    import suite as module

    def titles():
        return [p["title"] for p in json.loads((tmp_path / "page.json").read_text())["parts"]]

    options = ["--page", str(tmp_path / "page.md"), "--out"]
    parts = {name: (f"old {name}", lambda job: []) for name in ("roofline", "w1-images")}
    monkeypatch.setattr(module, "PARTS", parts)
    assert module.main([*options, str(tmp_path / "first")]) == 0
    monkeypatch.setattr(module, "PARTS", parts | {"roofline": ("new", lambda job: [])})
    assert module.main([*options, str(tmp_path / "second"), "--only", "roofline"]) == 0
    assert titles() == ["new", "old w1-images"]
    # A trial is not mixed with measurements.
    assert module.main([*options, str(tmp_path / "third"), "--quick", "--only", "roofline"]) == 0
    assert titles() == ["new"]
