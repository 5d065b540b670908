"""Perturbations of a smoothing: independent, antithetic or from scrambled nets."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ..._checks import is_concrete

Draws = Literal["independent", "antithetic", "quasi"]
NUM_NETS = 8


def draw_perturbations(draws: Draws, key: PRNGKeyArray, num: int, d: int, dtype: Any) -> Array:
    """Standard normal draws, shape (num, d)."""
    if draws == "independent":
        return jax.random.normal(key, (num, d), dtype)
    if draws == "antithetic":
        if num % 2:
            raise ValueError(f"`num_samples` must be even for antithetic pairs; got {num}.")
        half = jax.random.normal(key, (num // 2, d), dtype)
        return jnp.concatenate([half, -half])
    if draws == "quasi":
        return jnp.asarray(_scrambled_nets(key, num, d), dtype)
    raise ValueError(f"`draws` must be one of {get_args(Draws)}; got {draws!r}.")


def _scrambled_nets(key: PRNGKeyArray, num: int, d: int) -> np.ndarray:
    """Independently scrambled Sobol nets, one after the other, taken to the normal law."""
    from scipy.special import ndtri
    from scipy.stats import qmc

    if not is_concrete(key):
        raise ValueError(
            '`key` must be concrete for draws="quasi", which SciPy makes; it is traced. Build the '
            "denoiser outside of jax.jit and jax.vmap, and pass it in."
        )
    if num % NUM_NETS:
        raise ValueError(
            f"`num_samples` must be a multiple of {NUM_NETS} for quasi-random nets; got {num}."
        )
    if d > qmc.Sobol.MAXDIM:
        raise ValueError(
            f'draws="quasi" knows Sobol points in at most {qmc.Sobol.MAXDIM} dimensions; got {d}.'
        )
    with jax.ensure_compile_time_eval():
        entropy = np.asarray(jax.random.key_data(key)).ravel().tolist()
    size, bits = num // NUM_NETS, 30
    nets = []
    for seed in np.random.SeedSequence(entropy).spawn(NUM_NETS):
        # The argument's name before SciPy 1.15, which every version takes.
        rng: Any = {"seed": np.random.default_rng(seed)}
        sobol = qmc.Sobol(d, scramble=True, bits=bits, **rng)
        # The first points of a net of 2^k; asked for another number at once, SciPy would warn.
        nets.append(sobol.random_base2((size - 1).bit_length())[:size])
    # From the lower corner of the cells of the scrambled digits to their middle: never 0, where the quantile is infinite.
    return ndtri(np.concatenate(nets) + 0.5 ** (bits + 1))
