"""`ShardedDenoiser` on virtual devices and in two processes, each set up before JAX starts."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj

HERE = pathlib.Path(__file__).parent
LONG = pytest.mark.exhaustive
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"}


def passes(program, part):
    """Runs a program of checks, which sets up its devices before JAX starts."""
    run = subprocess.run(
        [sys.executable, str(HERE / program), part],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all checks passed" in run.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", ["two", *(pytest.param(part, marks=LONG) for part in ("values", "derivatives"))]
)
def test_virtual_devices(part):
    passes("sharded_checks.py", part)


@pytest.mark.exhaustive
def test_two_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(HERE / "sharded_process.py"), str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(i)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, "\n".join(outputs)
        assert "samples agree" in output
    assert "Process 1 raised" in outputs[0] and "inf at index (2, 5)" in outputs[1]


def test_one_device(dtype):
    """A mesh of the one device that this process has."""
    points = np.random.default_rng(0).standard_normal((7, 3)).astype(dtype)
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
    u = jnp.asarray(points[:2] + 0.1, dtype)
    D, whole = sj.ShardedDenoiser(points, mesh), sj.EmpiricalDenoiser(points)
    expected = jax.vmap(whole, (0, None))(u, 0.3)
    np.testing.assert_allclose(jax.vmap(D, (0, None))(u, 0.3), expected, rtol=1e-6)
    np.testing.assert_allclose(D.log_density(u[0], 0.3), whole.log_density(u[0], 0.3), rtol=1e-5)
    np.testing.assert_allclose(
        D.posterior_entropy(u[0], 0.3), whole.posterior_entropy(u[0], 0.3), rtol=1e-4
    )


def test_errors():
    points = np.zeros((4, 2), np.float32)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("a", "b"))
    for match, call in (
        ("`axis_name` is needed", lambda: sj.ShardedDenoiser(points, mesh)),
        ("`axis_name` must be an axis", lambda: sj.ShardedDenoiser(points, mesh, "c")),
        ("`query_axis` must be an axis", lambda: sj.ShardedDenoiser(points, mesh, "a", "c")),
        ("must differ", lambda: sj.ShardedDenoiser(points, mesh, "a", "a")),
        ("`mesh` must be", lambda: sj.ShardedDenoiser(points, jax.devices(), "a")),  # pyright: ignore
        (r"shape \(n, d\)", lambda: sj.ShardedDenoiser(points[0], mesh, "a")),
        ("at least one", lambda: sj.ShardedDenoiser(points[:0], mesh, "a")),
        (r"nan at index \(0, 0\)", lambda: sj.ShardedDenoiser(points * np.nan, mesh, "a")),
        (
            r"\|data - mean\|",
            lambda: sj.ShardedDenoiser(1e30 * np.eye(2, dtype=np.float32), mesh, "a"),
        ),
        ("`weights`", lambda: sj.ShardedDenoiser(points, mesh, "a", weights=np.ones(3))),
        ("chunk_size", lambda: sj.ShardedDenoiser(points, mesh, "a", chunk_size=0)),
        (
            "known at construction",
            lambda: jax.jit(lambda x: sj.ShardedDenoiser(x, mesh, "a").dim)(points),
        ),
        ("must be real", lambda: sj.ShardedDenoiser(points.astype(complex), mesh, "a")),
        (r"`u` must have shape \(2,\)", lambda: sj.ShardedDenoiser(points, mesh, "a")(points, 1.0)),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_path_of_a_file(tmp_path):
    points = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    path, mesh = tmp_path / "points.npy", jax.sharding.Mesh(jax.devices(), ("data",))
    np.save(path, points)
    u = jnp.asarray(points[0] + 0.1)
    expected = sj.ShardedDenoiser(points, mesh)(u, 0.5)
    for given in (path, str(path)):
        np.testing.assert_array_equal(sj.ShardedDenoiser(given, mesh)(u, 0.5), expected)
    path.write_bytes(path.read_bytes()[:-1])
    for build in (lambda: sj.ShardedDenoiser(path, mesh), lambda: sj.StreamedDenoiser(path)):
        with pytest.raises(
            ValueError, match=r"\.npy file of numbers; .*points\.npy': it is damaged"
        ):
            build()
    with pytest.raises(FileNotFoundError, match="nothing"):
        sj.ShardedDenoiser(tmp_path / "nothing.npy", mesh)
    os.mkfifo(tmp_path / "pipe.npy")
    for build in (sj.StreamedDenoiser, lambda path: sj.ShardedDenoiser(path, mesh)):
        with pytest.raises(ValueError, match="not a regular file but a pipe"):
            build(tmp_path / "pipe.npy")
