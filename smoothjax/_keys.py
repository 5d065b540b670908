"""What a seed of up to 63 bits stands for, where JAX and scikit-learn take 32."""

from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ._checks import as_seed


def key_of(seed: Any) -> PRNGKeyArray:
    """`jax.random.key(seed)` of all 64 bits of the seed, of which JAX takes the lower 32 in its 32-bit mode."""
    seed = as_seed(seed)
    if seed < 2**32:
        return jax.random.key(seed)
    with jax.enable_x64(True):
        return jax.random.key(seed)


def seed_of_32_bits(seed: Any) -> int:
    """The seed itself where it has no more; else one that all of its bits are mixed into."""
    seed = as_seed(seed)
    return seed if seed < 2**32 else int(np.random.SeedSequence(seed).generate_state(1)[0])
