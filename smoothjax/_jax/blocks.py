"""Maps over many indices in blocks of bounded memory: one compilation."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .._checks import as_positive_integer

DEFAULT_BATCH_SIZE = 512


def in_batches(function: Callable[[Array], Any], num: int, batch_size: int | None) -> Any:
    """`jax.vmap(function)(arange(num))`, at most `batch_size` at a time, compiled once."""
    return over_batches(jax.vmap(function), num, batch_size)


def over_batches(function: Callable[[Array], Any], num: int, batch_size: int | None) -> Any:
    """`function(arange(num))` of a function of a batch of indices, at most `batch_size` at a time, compiled once."""
    batch_size = (
        DEFAULT_BATCH_SIZE if batch_size is None else as_positive_integer(batch_size, "batch_size")
    )
    count, block = blocks_of(num, batch_size)
    if count == 1:
        # Without a loop nothing needs to be compiled anew when this is called outside of jax.jit.
        return function(jnp.arange(num))
    # Equal batches: the last indices repeat, rather than a remainder that compiles a second time.
    indices = jnp.minimum(jnp.arange(count * block), num - 1).reshape(count, block)
    outputs = lax.map(function, indices)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:num], outputs)


def blocks_of(size: int, batch_size: int) -> tuple[int, int]:
    """The number of blocks and the block size: as even a split as `batch_size` allows."""
    count = math.ceil(size / batch_size)
    return count, math.ceil(size / count)
