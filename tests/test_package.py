"""What importing the package costs and does."""

import subprocess
import sys

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
before = dict(jax.config.values)
import smoothjax
print({name for name, value in jax.config.values.items() if before.get(name) != value})
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


def test_missing_optional_package_says_how_to_install_it():
    from smoothjax._checks import import_optional

    with pytest.raises(ImportError, match=r"pip install 'smoothjax\[plot\]'"):
        import_optional("a_package_that_does_not_exist", extra="plot")
