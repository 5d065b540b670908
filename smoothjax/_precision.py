"""The precision of matrix products, and that of one command."""

import contextlib
from collections.abc import Iterator

import jax

# Of float32 products: accelerators otherwise round the factors to fewer digits.
HIGHEST = jax.lax.Precision.HIGHEST


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """JAX's default precision within a block, `"float32"` or `"float64"`; as it was afterwards."""
    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_x64", precision == "float64")
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)
