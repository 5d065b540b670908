"""Compiled programs on the disk."""

import os
import stat
import subprocess
import sys

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import smoothjax as sj
from smoothjax._jax import compilation as _compilation

NAMES = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_enable_compilation_cache",
)

PROCESS = """
import sys, jax, jax.numpy as jnp, numpy as np
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.split("/")[-1]))
import smoothjax as sj
jnp.zeros(3) + 1  # compiled before: JAX asks about its cache once, at the first compilation
print(sj.enable_compilation_cache(*sys.argv[1:]))
events.clear()
x = jnp.linspace(0, 1, 9).reshape(3, 3)
y = jax.jit(lambda x: jnp.sin(x @ x) / jnp.sum(x))(x)
print(np.asarray(y).tobytes().hex(), events.count("cache_hits"), events.count("cache_misses"))
"""


def process(*arguments: str, **variables: str) -> list[str]:
    ours = ("JAX_COMPILATION", "JAX_PERSISTENT", "JAX_ENABLE_COMPILATION")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=clean | variables,
    )
    return done.stdout.split()


@pytest.fixture
def unchanged():
    """The cache switched on, and JAX's settings as they were after the test."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_enable_compilation_cache", True)
    yield
    compilation_cache.reset_cache()
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_second_process_compiles_nothing(tmp_path):
    folder = tmp_path / "a" / "b"
    first, second = process(str(folder)), process(str(folder))
    assert first[0] == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    hits, misses = int(first[2]), int(first[3])
    assert hits == 0 and misses > 0
    # Every program of the first, small ones too, and the same numbers from it.
    assert (int(second[2]), int(second[3])) == (misses, 0)
    assert second[1] == first[1]


def test_a_folder_and_a_threshold_that_jax_knows_are_kept(tmp_path):
    told = process(
        JAX_COMPILATION_CACHE_DIR=str(tmp_path / "told"),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="1000",
        XDG_CACHE_HOME=str(tmp_path),
    )
    assert told[0] == str(tmp_path / "told")
    assert told[2:] == ["0", "0"]
    assert os.listdir(tmp_path) == ["told"]


def test_switched_off_by_jax_s_own_variable(tmp_path):
    off = process(str(tmp_path), JAX_ENABLE_COMPILATION_CACHE="0")
    assert off[2:] == ["0", "0"] and os.listdir(tmp_path) == []


def test_default_folder(tmp_path, monkeypatch, unchanged):
    jax.config.update(NAMES[0], None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = sj.enable_compilation_cache()
    assert folder.parent == tmp_path / "smoothjax" and folder.is_dir()
    assert getattr(jax.config, NAMES[0]) == str(folder)
    # Another processor has another folder, and a relative XDG_CACHE_HOME is ignored.
    jax.config.update(NAMES[0], None)
    monkeypatch.setattr(_compilation.platform, "machine", lambda: "another")
    assert sj.enable_compilation_cache() != folder
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    jax.config.update(NAMES[0], None)
    assert sj.enable_compilation_cache().parent == tmp_path / ".cache" / "smoothjax"


def test_a_second_call_changes_the_folder(tmp_path, unchanged):
    for name in ("one", "two"):
        sj.enable_compilation_cache(tmp_path / name)
        jax.jit(lambda x: x + 1)(jax.numpy.zeros(3))
        assert list((tmp_path / name).iterdir())


@pytest.mark.parametrize("bad", ["file", "file/below", 3, "zero\0byte"])
def test_bad_path(tmp_path, monkeypatch, bad, unchanged):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    before = getattr(jax.config, NAMES[0])
    with pytest.raises(ValueError, match=r"`path` must be (a folder|text or a path)"):
        sj.enable_compilation_cache(bad)
    assert getattr(jax.config, NAMES[0]) == before


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch, unchanged):
    # What the system says, since some users may write everywhere.
    monkeypatch.setattr(_compilation.os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="can be written to"):
        sj.enable_compilation_cache(tmp_path)


def test_a_command_without_a_place_for_its_programs_runs(tmp_path, monkeypatch, capsys, unchanged):
    from smoothjax.cli import main

    jax.config.update(NAMES[0], None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    assert main(["list"]) == 0
    printed = capsys.readouterr()
    assert "Mechanisms:" in printed.out and "not kept" in printed.err
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["list"]) == 0
    assert getattr(jax.config, NAMES[0]).startswith(str(tmp_path / "cache"))


def test_a_command_makes_no_folder_where_the_cache_is_switched_off(
    tmp_path, monkeypatch, unchanged
):
    from smoothjax.cli import main

    jax.config.update(NAMES[0], None)
    jax.config.update("jax_enable_compilation_cache", False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["list"]) == 0
    assert list(tmp_path.iterdir()) == []
