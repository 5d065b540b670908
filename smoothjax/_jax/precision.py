"""The precision of matrix products, of results from arrays of two dtypes, and that of one command."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

# Of float32 products: accelerators otherwise round the factors to fewer digits.
HIGHEST = jax.lax.Precision.HIGHEST


def common_dtype(*of: Any) -> Any:
    """The dtype that holds those of some arrays, or some dtypes, also where JAX is told to promote none by itself."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*of)


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """JAX's default precision within a block, `"float32"` or `"float64"`; as it was afterwards."""
    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_x64", precision == "float64")
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)
