"""Arrays spread over devices, with axes of both kinds, beside one device; and `shard_map`."""

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    "axes", [pytest.param("automatic", marks=pytest.mark.exhaustive), "explicit"]
)
def test_four_devices_give_what_one_gives(axes):
    run = subprocess.run(
        [sys.executable, str(HERE / "mesh_checks.py"), axes],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all checks passed" in run.stdout
