"""What importing the package costs and does."""

import pathlib
import re
import subprocess
import sys
import tomllib

import pytest


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_import_brings_in_no_optional_package():
    optional = [
        "torch",
        "cvxpy",
        "matplotlib",
        "xarray",
        "sklearn",
        "scipy.stats",
        "tqdm",
        "tyro",
        "PIL",
        "h5py",
        "h5netcdf",
        "pandas",
    ]
    code = f"""
import diffrax, sys
before = set(sys.modules)
import smoothjax
print([name for name in {optional} if name in sys.modules and name not in before])
"""
    assert _run(code).strip() == "[]"


def test_import_does_not_configure_jax():
    code = """
import jax
before = dict(jax.config.values)  # importing its parts registers new options with their defaults
import smoothjax
print({name for name, value in jax.config.values.items() if name in before and before[name] != value})
"""
    assert _run(code).strip() == "set()"


def test_public_names_have_docstrings():
    import smoothjax

    missing = [
        name
        for name, value in vars(smoothjax).items()
        if not name.startswith("_") and callable(value) and not (value.__doc__ or "").strip()
    ]
    assert missing == []


def test_faulty_releases_are_excluded_and_warned_of():
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    from smoothjax._jax.compiler import FAULTY_RELEASES, warn_of_faulty_release

    every = [Requirement(text) for text in requires("smoothjax") or []]
    needed = {needs.name: needs for needs in every if needs.marker is None}  # not those of extras
    for release in ("0.10.2", "0.11.0"):
        assert release in FAULTY_RELEASES
        assert all(not needed[name].specifier.contains(release) for name in ("jax", "jaxlib"))
        with pytest.warns(UserWarning, match=f"jaxlib {release} computes wrong numbers on the CPU"):
            warn_of_faulty_release(release)
    for release in ("0.10.1", "0.11.2", "0.12.0"):
        warn_of_faulty_release(release)  # a warning is an error here


def test_the_command_alone_silences_what_xla_logs():
    """Of programs in its cache on the disk; in other programs JAX's own setting stays."""
    code = """
import os, sys
sys.argv = [{!r}]
os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)  # JAX has set it in this process
import smoothjax
print(os.environ.get("TF_CPP_MIN_LOG_LEVEL"))
"""
    assert _run(code.format("/usr/bin/smoothjax")).strip() == "3"
    assert _run(code.format("/usr/bin/other")).strip() != "3"


def test_oldest_versions_are_those_declared():
    """The versions of the tests' second environment are the lower bounds of the package's dependencies."""
    root = pathlib.Path(__file__).parent.parent
    with open(root / "pyproject.toml", "rb") as file:
        declared = tomllib.load(file)["project"]["dependencies"]
    oldest = root / ".ci" / "oldest.txt"
    if not oldest.exists():
        pytest.skip("no part of a source distribution")
    lines = oldest.read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    lower = dict(re.findall(r"^([a-z]+)>=([0-9.]+)", "\n".join(declared), re.MULTILINE))
    assert pinned == lower


def test_the_version_is_said_once():
    """In `smoothjax/_version.py`; what cannot read it there agrees."""
    import smoothjax

    root = pathlib.Path(__file__).parent.parent
    number = smoothjax.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(rc\d+|\.dev\d+)?", number)
    with open(root / "pyproject.toml", "rb") as file:
        settings = tomllib.load(file)
    assert "version" not in settings["project"] and "version" in settings["project"]["dynamic"]
    assert settings["tool"]["hatch"]["version"] == {"path": "smoothjax/_version.py"}
    citation = (root / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [number]
    newest = re.search(r"^## (\S+) \((.*)\)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None and newest[1] == number
    released = re.findall(r"^date-released: (.*)$", citation, re.MULTILINE)
    assert released == ([] if newest[2] == "unreleased" else [newest[2]])
