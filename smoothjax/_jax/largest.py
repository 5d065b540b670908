"""Where the largest of many values is."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# Columns in which a largest value is looked for: whole vector registers.
LANES = 16
# Values in a column where the leading columns are looked for: enough that the columns are few beside the values.
COLUMN = 32


def index_of_largest(values: Array) -> Array:
    """`jnp.argmax`, many times faster on CPUs, where a reduction of pairs is not vectorised."""
    n = values.shape[0]
    if n % LANES:
        return _first(values)
    columns = values.reshape(-1, LANES)
    j = _first(jnp.max(columns, axis=0))
    return _first(columns[:, j]) * LANES + j


def two_largest(values: Array) -> tuple[Array, Array]:
    """Where the largest is, and the second largest."""
    best = index_of_largest(values)
    here = jnp.arange(values.shape[0]) == best
    return best, jnp.max(jnp.where(here, -jnp.inf, values))


def _first(values: Array) -> Array:
    last = values.shape[0] - 1
    return jnp.min(jnp.where(values == jnp.max(values), jnp.arange(last + 1), last))


def largest(values: Float[Array, "q m"], num: int) -> tuple[Array, Array]:
    """`lax.top_k`; without the barrier XLA sorts all values where only some of the result is read, ten times slower."""
    # Not the result's own tuple: on several devices a pass of XLA's expects its parts to be read one by one.
    found = lax.optimization_barrier((*lax.top_k(values, num), jnp.zeros((), values.dtype)))
    return found[0], found[1]


def leading_columns(
    values: Float[Array, "q m"], num: int
) -> tuple[
    Float[Array, "q m"],
    Float[Array, "q columns"],
    Float[Array, "q num"],
    Int[Array, "q member num"],
]:
    """The columns, of every so many values one, that hold the largest: one pass finds them.

    Args:
        values: of which `COLUMN` divides the number.
        num: of columns.

    Returns:
        The values, which are kept; the largest value of every column; those of the leading columns; and where the values of
        these columns are.
    """
    many = values.shape[1] // COLUMN
    columns = jnp.max(values.reshape(-1, COLUMN, many), axis=1)
    # Kept, or the largest would be looked for again for every sum.
    values, columns = lax.optimization_barrier((values, columns))
    best, where = largest(columns, num)
    return (
        values,
        columns,
        best,
        where[:, None, :] + many * jnp.arange(COLUMN, dtype=where.dtype)[None, :, None],
    )
