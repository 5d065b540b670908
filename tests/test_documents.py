"""The Python blocks of the README and of the pages in docs run as they stand, and what pages say of the code is so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import smoothjax as sj
from smoothjax.denoisers._truncated import truncated

ROOT = Path(__file__).parent.parent
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{k}")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    for k, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


def test_the_readme_has_a_block():
    assert any(block.id.startswith("README") for block in BLOCKS)


@pytest.mark.doctest
@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "block", "exec"), {})


def test_numbers_of_the_page_of_denoisers_are_measured():
    page = (ROOT / "docs" / "which_denoiser.md").read_text()
    measured = (ROOT / "docs" / "performance.md").read_text()
    ranges = re.findall(r"[\d.]+ to [\d.]+(?= times| at)", page)
    assert len(ranges) >= 3 and all(one in measured for one in ranges), ranges
    for time in re.findall(r"[\d.]+ s(?=, as fast as the disk)", page):
        assert time in measured
    assert f"at most {truncated.TREE_DIMENSION} dimensions (from {truncated.TREE_POINTS})" in page


@pytest.mark.exhaustive
def test_the_program_of_the_cluster_page(tmp_path):
    """In two processes, with the variables that Slurm sets, it draws the samples of one process."""
    points = np.random.default_rng(0).normal(size=(101, 6)).astype(np.float32)
    np.save(tmp_path / "points.npy", points)
    job = {
        "JOB_ID": str(os.getpid()),
        "STEP_NODELIST": "localhost",
        "NTASKS": "2",
        "STEP_NUM_NODES": "1",
    }
    environment = {
        **{key: value for key, value in os.environ.items() if key != "JAX_ENABLE_X64"},
        **{f"SLURM_{key}": value for key, value in job.items()},
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    program = str(ROOT / "docs" / "cluster" / "sample.py")
    running = [
        subprocess.Popen(
            [sys.executable, program, "points.npy", "samples.npy"],
            env={**environment, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outputs = [one.communicate(timeout=300)[0] for one in running]
    finally:
        for one in running:
            one.kill()
    assert [one.returncode for one in running] == [0, 0], outputs
    assert "101 points on 2 devices" in outputs[0]
    expected = sj.sample(sj.EmpiricalDenoiser(points), jax.random.key(0), 64, steps=18)
    # Samples end on training points, which are the same numbers whatever the order of sums.
    np.testing.assert_allclose(np.load(tmp_path / "samples.npy"), expected, atol=1e-5)
