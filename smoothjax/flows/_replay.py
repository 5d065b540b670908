r"""Which training points each noise ends on, at the cost of the noise levels where that is open."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import as_key, as_positive_integer, checked
from .._jax.blocks import over_batches
from .._kinds import checks_kinds
from .._levels import as_levels
from .._noise import noise_of
from ..denoisers import EmpiricalDenoiser, GaussianSmoothedDenoiser, TruncatedDenoiser
from ._adapted_grid import adapted_grid
from ._exponential import History, multistep
from ._sampling import initial_state

DEFAULT_LEVELS = 20
# Noise levels that there is room for without compiling anew; twice as many beyond, and so on.
ROOM = 64


class Replay(NamedTuple):
    """What an exactly learned training set generates, sample by sample."""

    points: Float[Array, "num_samples d"]
    """Outputs of the denoiser at the last noise level."""
    rows: Int[Array, "num_samples *m"]
    """Rows of the training points that they are, to the denoiser's tolerance, or that they are the means of, one for each
    perturbation; -1 where they are none."""
    settled: Float[Array, " num_samples"]
    """Noise levels from which on that was certain; 0 where it was at none."""
    evaluations: Int[Array, " num_samples"]
    """Calls of the denoiser."""


@checks_kinds
def replay(
    denoiser: TruncatedDenoiser | GaussianSmoothedDenoiser,
    key: PRNGKeyArray,
    num_samples: int,
    *,
    levels: Float[Array, " m"] | np.ndarray | Sequence[float] | None = None,
    batch_size: int | None = None,
) -> Replay:
    """Samples of an empirical denoiser's probability flow, or of its smoothing's, and the training points they come from.

    The same noises as `sample`, row by row, followed by the exponential integrator of order two on given noise levels, one
    call of the denoiser for each. Once a training point outweighs all others by so much that the rest of the flow cannot
    leave it, which is proved and not guessed, the sample is done, and the noise levels below cost nothing. A
    `GaussianSmoothedDenoiser` ends on the mean of as many training points as it has perturbations: on
    `denoiser.barycentre` of that mean.

    Args:
        denoiser: the training set, or the training set smoothed.
        key: for the initial noise, as in `sample`.
        num_samples: how many.
        levels: the noise levels to step through, decreasing, in data units. By default 20 of `adapted_grid` from 80 to
            0.002, whose pilots have a key of their own: they depend on the training set and not on `key`.
        batch_size: samples computed at a time (default 512).

    Raises:
        ValueError: for another denoiser, or a smoothing of anything but an `EmpiricalDenoiser` without weights; bad sizes or
            noise levels.

    What the integrator errs is not bounded: with 20 levels, one or two of 256 noises ended on another one of 10,000 images
    than by a converged solution (EDM's sampler with 18 steps and 35 calls: eight to thirteen). Training points that are
    equal are never certain: a sample between them takes all noise levels.

    Source: ours. Posterior concentration: Biroli, Bonnaire, de Bortoli and Mezard 2024, "Dynamical regimes of diffusion
    models"; barycentres: Scarvelis, Borde and Solomon 2023, "Closed-form diffusion models".

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> D = sj.TruncatedDenoiser(jax.random.normal(jax.random.key(0), (20, 100)))
        >>> found = sj.replay(D, jax.random.key(1), 4, levels=sj.log_uniform_grid(24, 80.0, 0.002))
        >>> bool(jnp.all(found.points == D.data[found.rows])), bool(jnp.all(found.settled > 0.1))
        (True, True)
    """
    key = as_key(key)
    base = denoiser.exact if isinstance(denoiser, TruncatedDenoiser) else denoiser.base
    if not isinstance(base, EmpiricalDenoiser):
        raise ValueError(
            f"`denoiser` must smooth an EmpiricalDenoiser; got one of {type(base).__name__}."
        )
    if base._points.log_weights is not None:
        raise ValueError("`denoiser` must smooth a training set without weights; got weights.")
    num_samples = as_positive_integer(num_samples, "num_samples")
    if batch_size is not None:
        batch_size = as_positive_integer(batch_size, "batch_size")
    if levels is None:
        bends = denoiser if isinstance(denoiser, GaussianSmoothedDenoiser) else base
        # In the dtype of the data: in 64-bit mode numbers of Python's would make another.
        ends = (jnp.asarray(level, base.data.dtype) for level in (80.0, 0.002))
        levels = adapted_grid(bends, jax.random.key(0), DEFAULT_LEVELS, *ends)
    given = as_levels(levels, base.data.dtype)
    bad = (given[-1] >= given[0]) | (given[-1] <= 0)
    given = checked(
        given, bad, "`levels` must decrease to a positive noise level", f"; got {given}"
    )
    # Filled up with the last level, which is not called for: one program for all numbers of levels.
    room = max(ROOM, 2 ** math.ceil(math.log2(len(given))))
    levels = jnp.full(room, given[-1]).at[: len(given)].set(given)
    count = jnp.asarray(len(given), jnp.int32)
    return _replay(denoiser, base, key, levels, count, num_samples, batch_size)


@eqx.filter_jit
def _replay(
    denoiser: TruncatedDenoiser | GaussianSmoothedDenoiser,
    base: EmpiricalDenoiser,
    key: PRNGKeyArray,
    levels: Array,
    count: Array,
    num_samples: int,
    batch_size: int | None,
) -> Replay:
    levels, dtype = jnp.asarray(levels), base.data.dtype
    smooth = denoiser if isinstance(denoiser, GaussianSmoothedDenoiser) else base
    followed = denoiser.followed_to(levels[-1])

    def start(i: Array) -> Array:
        z = noise_of(jax.random.fold_in(key, i), base.dim, dtype)
        return initial_state(smooth, z, levels[0])

    def batch(indices: Array) -> Replay:
        num = len(indices)
        # A call at the start, one for each step, and a last one where the last step is corrected: steps over nothing at
        # both ends, so that the denoiser is compiled once.
        ends = jnp.concatenate([levels[:1], levels, levels[-1:]])

        def step(state):
            k, u, history, points, rows, settled, calls = state
            sigma, open_ = ends[k], settled == 0

            def denoise(u: Array) -> tuple[Array, tuple[Any, Array]]:
                mean, found = followed.call(u, sigma, open_)
                return jnp.where(open_[:, None], mean, points), (found, u)

            done = multistep(denoise, u, history, jnp.log(sigma / ends[k - 1]))
            found, at = done.extra
            certain, there, whose = followed.ends(found, at, sigma, history.latest, open_)
            certain &= open_
            points = jnp.where(certain[:, None], there, points)
            rows = jnp.where(certain.reshape(-1, *[1] * (rows.ndim - 1)), whose, rows)
            settled = jnp.where(certain, sigma, settled)
            calls += open_.astype(calls.dtype)
            return k + 1, done.corrected, done.history, points, rows, settled, calls

        u = jax.vmap(start)(indices)
        rows = jax.eval_shape(followed.rows_of, u)
        nothing = jnp.zeros_like(u), jnp.full(rows.shape, -1, rows.dtype)
        settled, calls = jnp.zeros(num, dtype), jnp.zeros(num, jnp.int32)
        state = (jnp.asarray(1), u, History(u, jnp.zeros_like(u)), *nothing, settled, calls)
        _, _, history, points, rows, settled, calls = lax.while_loop(
            lambda state: (state[0] < count + 2) & jnp.any(state[5] == 0), step, state
        )
        open_ = settled == 0
        points = jnp.where(open_[:, None], history.latest, points)

        def found_at_last() -> Array:
            return jnp.where(
                open_.reshape(-1, *[1] * (rows.ndim - 1)), followed.rows_of(points), rows
            )

        rows = lax.cond(jnp.any(open_), found_at_last, lambda: rows)
        return Replay(points, rows, settled, calls)

    return over_batches(batch, num_samples, batch_size)
