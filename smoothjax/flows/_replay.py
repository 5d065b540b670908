r"""Which training points each noise ends on, at the cost of the noise levels where that is open."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._checks import as_key, as_positive_integer, checked
from .._jax.blocks import over_batches
from .._kinds import checks_kinds
from .._levels import as_levels
from ..denoisers import EmpiricalDenoiser, GaussianSmoothedDenoiser, TruncatedDenoiser
from ..denoisers._truncated.certified import Concentration
from ..denoisers._truncated.screen import inner_products
from ..denoisers._truncated.truncated import certified_batch
from ._adapted_grid import adapted_grid
from ._exponential import History, multistep
from ._sampling import initial_state, noise_of
from ._settling import barycentres, heaviest_point, stays_on_point

DEFAULT_LEVELS = 20
# Samples of a smoothing that are followed at once: many, and few.
GROUPS = 64, 8
# Where the denoiser's output moved no more than this between two levels, relative to the points' radius, it is found out
# whether it will move at all.
SLOW = 0.05


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
    if not isinstance(denoiser, TruncatedDenoiser | GaussianSmoothedDenoiser):
        raise ValueError(
            "`denoiser` must be a TruncatedDenoiser or a GaussianSmoothedDenoiser of the training set; got "
            f"{type(denoiser).__name__}."
        )
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
        levels = adapted_grid(bends, jax.random.key(0), DEFAULT_LEVELS)
    given = as_levels(levels, base.data.dtype)
    bad = (given[-1] >= given[0]) | (given[-1] <= 0)
    given = checked(
        given, bad, "`levels` must decrease to a positive noise level", f"; got {given}"
    )
    return _replay(denoiser, base, key, given, num_samples, batch_size)


class _Followed(NamedTuple):
    """What a kind of denoiser knows of the samples that are still open."""

    call: Callable[[Array, Array, Array], tuple[Array, Any]]
    """`(u, sigma, open) -> (mean, found)`; anything for the others."""
    ends: Callable[[Any, Array, Array, Array, Array], tuple[Array, Array, Array]]
    """`(found, u, sigma, previous mean, open) -> (certain, points, rows)`."""
    rows_of: Callable[[Array], Array]
    """Rows of outputs at the last noise level of which nothing was certain."""


def _follow_points(denoiser: TruncatedDenoiser, end: Array) -> _Followed:
    data = denoiser.data
    # Screens say how far the point outweighs the others; small sets have none, and a product with all points is cheap.
    screened = bool(denoiser._stages) or denoiser._tree is not None

    def call(u: Array, sigma: Array, open_: Array) -> tuple[Array, Concentration]:
        mean, found = certified_batch(denoiser, u, jnp.full(len(u), sigma), open_)
        if not screened:
            weigh = lambda u: heaviest_point(denoiser.exact._points, u, sigma)  # noqa: E731
            found = _of_some(weigh, u, open_, found)
        return mean.value, found

    def ends(found: Concentration, u: Array, sigma: Array, previous: Array, open_: Array):
        return stays_on_point(denoiser, found, sigma, end), data[found.row], found.row

    def row_of(point: Array) -> Array:
        nearest = jnp.argmin(jnp.sum((data - point[None]) ** 2, axis=1)).astype(jnp.int32)
        distance = jnp.linalg.norm(data[nearest] - point)
        return jnp.where(distance <= denoiser.tolerance, nearest, -1)

    return _Followed(call, ends, lambda points: lax.map(row_of, points))


def _follow_barycentres(
    denoiser: GaussianSmoothedDenoiser, base: EmpiricalDenoiser, end: Array
) -> _Followed:
    set_ = base._points
    moves = (denoiser.smoothing * denoiser.perturbations).astype(base.data.dtype)
    along = inner_products(set_.points - set_.centre[None], moves)

    def call(u: Array, sigma: Array, open_: Array) -> tuple[Array, Array]:
        mean = _of_some(jax.vmap(lambda u: denoiser(u, sigma)), u, open_, jnp.zeros_like(u))
        return mean, mean

    def ends(mean: Array, u: Array, sigma: Array, previous: Array, open_: Array):
        moved = jnp.linalg.norm(mean - previous, axis=1)
        slow = open_ & (moved <= SLOW * set_.radius)
        rows = jnp.full((len(u), len(moves)), -1, jnp.int32)
        nothing = (jnp.zeros_like(open_), jnp.zeros_like(u), rows)

        def of_group(u: Array) -> tuple[Array, Array, Array]:
            found = barycentres(set_, moves, along, u, sigma, end)
            return found.stays, found.point, found.rows

        return _of_some(of_group, u, slow, nothing)

    return _Followed(call, ends, lambda points: jnp.full((len(points), len(moves)), -1, jnp.int32))


def _of_some(
    function: Callable[[Array], Any],
    u: Float[Array, "batch d"],
    wanted: Bool[Array, " batch"],
    nothing: Any,
) -> Any:
    """`function` of a batch, of those that are wanted, in groups; `nothing` for the others."""
    num = len(wanted)

    def some(size: int, loop: tuple[Array, Any]) -> tuple[Array, Any]:
        todo, result = loop
        (these,) = jnp.nonzero(todo, size=size, fill_value=num)
        taken = jnp.where(these < num, these, these[0])
        # Tied to the loop, or XLA computes what does not change in it whether or not it runs.
        _, group = lax.optimization_barrier((todo, u[taken]))
        put = lambda old, new: old.at[these].set(new, mode="drop")  # noqa: E731
        return todo.at[these].set(False, mode="drop"), jax.tree.map(put, result, function(group))

    loop = (wanted, nothing)
    for size in sorted({min(num, size) for size in GROUPS}, reverse=True):
        least = 2 * min(GROUPS) if size > min(GROUPS) else 0
        loop = lax.while_loop(
            lambda loop, least=least: jnp.sum(loop[0]) > least, functools.partial(some, size), loop
        )
    return loop[1]


@eqx.filter_jit
def _replay(
    denoiser: TruncatedDenoiser | GaussianSmoothedDenoiser,
    base: EmpiricalDenoiser,
    key: PRNGKeyArray,
    levels: Array,
    num_samples: int,
    batch_size: int | None,
) -> Replay:
    levels, dtype = jnp.asarray(levels), base.data.dtype
    smooth = denoiser if isinstance(denoiser, GaussianSmoothedDenoiser) else base
    if isinstance(denoiser, TruncatedDenoiser):
        followed = _follow_points(denoiser, levels[-1])
    else:
        followed = _follow_barycentres(denoiser, base, levels[-1])

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
            lambda state: (state[0] < len(ends)) & jnp.any(state[5] == 0), step, state
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
