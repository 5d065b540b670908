import gc
import os
import re

# The suite runs in several processes: with threads of their own, their LAPACK calls wait for each other by spinning.
# Read when SciPy's OpenBLAS is loaded, so set before JAX is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Commands keep what they compile in the user's home: not those of the tests. Read when JAX is imported.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"

import jax
import jax.numpy as jnp
import pytest

# Float64 is tested here, and with JAX_ENABLE_X64=0, as users with JAX's defaults have it, float32: what needs the other
# precision then skips.
jax.config.update("jax_enable_x64", os.environ.get("JAX_ENABLE_X64", "1") not in ("0", "false"))
# Tracing makes many small objects that live on. Looked through after every 700, as by default, it takes half as long again.
gc.set_threshold(20_000, 20, 20)
# As in programs that leave no promotion to JAX.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


# Programs of their own, which switch float64 on: not to be imported for their examples.
collect_ignore = ["tests/sharded_checks.py", "tests/sharded_process.py", "tests/mesh_checks.py"]


def pytest_addoption(parser):
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="also run the longest tests, which others represent",
    )


def pytest_collection_modifyitems(config, items):
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker("doctest")
    if not config.getoption("--exhaustive"):
        skip = pytest.mark.skip(reason="long, and represented by others; pytest --exhaustive")
        for item in items:
            if "exhaustive" in item.keywords:
                item.add_marker(skip)
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        skip = pytest.mark.skip(reason="prints no fractions; runs in float64")
        for item in items:
            if isinstance(item, pytest.DoctestItem) and not _prints_fractions(item):
                item.add_marker(skip)


def _prints_fractions(item) -> bool:
    """Whether an example shows numbers that could differ between float32 and float64, rather than counts and names."""
    return any(re.search(r"\d\.|\.\d|\de[+-]?\d|nan|inf\b", x.want) for x in item.dtest.examples)


def _memory_is_in_many_pieces() -> bool:
    """Every compiled program maps memory, of which a process may have some 65,000 pieces: beyond, XLA crashes."""
    try:
        with open("/proc/self/maps", "rb") as maps:
            return sum(1 for _ in maps) > 10_000
    except OSError:
        return True


@pytest.fixture(scope="module", autouse=True)
def _few_compiled_programs():
    """Compiled programs are kept for the modules that follow, which call many of them again, while memory allows."""
    yield
    if _memory_is_in_many_pieces():
        jax.clear_caches()


@pytest.fixture(autouse=True)
def _examples_leave_nothing(request):
    """Examples in docstrings write files in a folder of their own, and what they register is gone after them."""
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))
        request.getfixturevalue("own_registry")
        request.getfixturevalue("own_measures")


@pytest.fixture
def own_measures(monkeypatch):
    """Measures that a test registers are not there for others."""
    from smoothjax.measures import _registry

    monkeypatch.setattr(_registry._REGISTRY, "entries", dict(_registry._REGISTRY.entries))


@pytest.fixture
def own_registry(monkeypatch):
    """Mechanisms that a test registers are not there for others."""
    from smoothjax.mechanisms import _mechanism

    monkeypatch.setattr(_mechanism._REGISTRY, "entries", dict(_mechanism._REGISTRY.entries))


@pytest.fixture
def mixed_dtypes():
    """Lets JAX promote dtypes: for tests of points in one and queries in another."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def x64():
    """Skips the test where float64 is switched off."""
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        pytest.skip("needs float64")


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Each floating dtype, in the mode of JAX that has it by default; those of slow tests in one process."""
    is_long = {"slow", "exhaustive"} & set(request.keywords)
    if request.param == "float64" and not jax.config.jax_enable_x64:  # pyright: ignore
        pytest.skip("needs float64")
    if request.param == "float32" and jax.config.jax_enable_x64 and not is_long:  # pyright: ignore
        pytest.skip("runs with JAX_ENABLE_X64=0")
    return jnp.dtype(request.param)
