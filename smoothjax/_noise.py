"""Noise: standard normal draws by index, the same for every sampler."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._checks import as_key, as_positive_integer
from ._jax.precision import common_dtype
from ._kinds import checks_kinds


@checks_kinds
def initial_noise(
    key: PRNGKeyArray, num_samples: int, dim: int, *, dtype: Any = None
) -> Float[Array, "num_samples dim"]:
    """Standard normal draws, row i from `fold_in(key, i)`: more samples keep the first ones as they are.

    Example:
        >>> import jax, smoothjax as sj
        >>> few, many = (sj.initial_noise(jax.random.key(0), num, 3) for num in (2, 10))
        >>> bool((many[:2] == few).all())
        True
    """
    key = as_key(key)
    num_samples = as_positive_integer(num_samples, "num_samples")
    dim = as_positive_integer(dim, "dim")
    dtype = jnp.result_type(float) if dtype is None else dtype
    draw = lambda i: noise_of(jax.random.fold_in(key, i), dim, dtype)  # noqa: E731
    return jax.vmap(draw)(jnp.arange(num_samples))


def noise_of(key: PRNGKeyArray, dim: int, dtype: Any) -> Float[Array, " dim"]:
    """Initial noise of the sample whose key this is, the same for every sampler."""
    # In half precision the draws would have a few hundred values, and a mean.
    return jax.random.normal(key, (dim,), common_dtype(dtype, jnp.float32)).astype(dtype)
