"""U-turns: noise a training point, flow back, and see where it comes out."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._calls import Denoiser, as_argument, denoised
from .._checks import (
    RealScalar,
    as_key,
    as_positive_integer,
    require_ascending,
    require_positive_scalar,
)
from .._jax.blocks import in_batches
from .._jax.host_errors import raising_host_errors
from .._kinds import checks_kinds
from .._levels import as_level
from ..datasets import Dataset
from ..flows import reverse_sde
from ..grids import log_uniform_grid
from ..measures import nearest_neighbours, wilson_interval
from ._curve import as_noise_levels, as_training_set, draws_of, several_points

BATCH = 64


class UTurn(eqx.Module):
    """Where noised training points come out: made by `u_turn`.

    Attributes:
        sigma: shape (l,); noise levels of the turns, as given.
        same_point: shape (l,); share of the draws whose nearest training point is the one that was noised.
        same_point_interval: shape (l, 2); its Wilson interval at 95 %.
        same_class: share whose nearest training point has its class, or None without labels.
        same_class_interval: its Wilson interval, or None.
        distance: shape (l,); root mean square distance from the noised point, in data units.
        rows: shape (m,); the training points that were noised.
        ends: shape (l, m); the nearest training point of each end.
        outputs: shape (l, m, d); the ends, denoised.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> points = jnp.array([[-1.0], [1.0]])
        >>> turn = sj.regimes.u_turn(sj.EmpiricalDenoiser(points), points, [0.1], jax.random.key(0), num_draws=8)
        >>> bool(jnp.all(turn.ends[0] == turn.rows)), turn.outputs.shape
        (True, (1, 8, 1))
    """

    sigma: Float[Array, " l"]
    same_point: Float[Array, " l"]
    same_point_interval: Float[Array, "l 2"]
    same_class: Float[Array, " l"] | None
    same_class_interval: Float[Array, "l 2"] | None
    distance: Float[Array, " l"]
    rows: Int[Array, " m"]
    ends: Int[Array, "l m"]
    outputs: Float[Array, "l m d"]


@checks_kinds
@raising_host_errors
def u_turn(
    denoiser: Denoiser,
    data: Any,
    levels: Any,
    key: PRNGKeyArray,
    *,
    labels: Any = None,
    num_draws: int = 64,
    steps: int = 32,
    sigma_min: RealScalar | None = None,
    stochasticity: float = 0.0,
) -> UTurn:
    """Noises training points to each level and follows the denoiser's flow back: same point, same class, or neither?

    A trajectory that returns to its point from a level had committed to it above that level. For the exact score of a
    training set the share falls at the collapse; for a network that generalises it is small at every level at which an image
    is not plain to see. The share that keep their class falls at speciation.

    Args:
        denoiser: any callable `(u, sigma) -> (d,)`.
        data: training points, shape (n, d), or a `Dataset`.
        levels: noise levels of the turns, shape (l,), in data units.
        key: JAX random key.
        labels: classes, shape (n,); by default those of the data set.
        num_draws: of a point and a noise, the same at all levels.
        steps: of the way back, at a constant ratio of noise levels.
        sigma_min: where it ends, below all `levels`; by default a hundredth of the lowest.
        stochasticity: 0 for the probability flow, 1 for the reverse equation, which draws noise anew on its way.

    Raises:
        ValueError: for bad shapes or values, fewer than two different points, `sigma_min` above a level, or a denoiser that
            leads to points that are not finite.

    Source: Sclocchi, Favero and Wyart 2024, "A phase transition in diffusion models reveals the hierarchical nature of
    data"; Biroli et al. 2024.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> points = jnp.array([[-1.0], [0.0], [1.0]])
        >>> turn = sj.regimes.u_turn(sj.EmpiricalDenoiser(points), points, [0.05, 20.0], jax.random.key(0))
        >>> float(turn.same_point[0]), bool(turn.same_point[1] < 0.7)
        (1.0, True)
    """
    key, num_draws = as_key(key), as_positive_integer(num_draws, "num_draws")
    steps = as_positive_integer(steps, "steps")
    array, of_set = as_training_set(data)
    points = several_points(array)
    labels = of_set if labels is None else labels
    if labels is not None:
        labels = np.asarray(Dataset("training set", array, labels).labels)
    sigma = as_noise_levels(levels, array.dtype)
    lowest = jnp.min(sigma)
    if sigma_min is None:
        sigma_min = 0.01 * lowest
    end = require_positive_scalar(sigma_min, "sigma_min").astype(array.dtype)
    require_ascending(end, lowest, "sigma_min", "levels")
    _, noise, rows = draws_of(points, key, num_draws)
    clean = array[rows]
    eta = jnp.asarray(as_level(stochasticity, "stochasticity", array.dtype, or_zero=True))
    function = as_argument(denoiser)
    paths = [log_uniform_grid(steps + 1, level, end) for level in sigma]
    outputs = jnp.stack([_back(function, key, clean, noise, path, eta) for path in paths])
    if not bool(jnp.all(jnp.isfinite(outputs))):
        raise ValueError("`denoiser` must lead to finite points; got some that are not.")
    ends = jnp.stack([nearest_neighbours(x, array, 1)[1][:, 0] for x in outputs])
    # Copies of a point are one.
    same = points.row_of[ends] == points.row_of[rows][None]
    share, interval = _share(same, array.dtype)
    class_share, class_interval = None, None
    if labels is not None:
        kept = jnp.asarray(labels[np.asarray(ends)] == labels[np.asarray(rows)][None])
        class_share, class_interval = _share(kept, array.dtype)
    distance = jnp.sqrt(jnp.mean(jnp.sum((outputs - clean[None]) ** 2, axis=-1), axis=1))
    return UTurn(
        *(sigma, share, interval, class_share, class_interval), distance, rows, ends, outputs
    )


def _share(same: Bool[Array, "l m"], dtype: Any) -> tuple[Array, Array]:
    count = jnp.sum(same, axis=1).astype(dtype)
    interval = wilson_interval(count, jnp.asarray(same.shape[1], dtype))
    return count / same.shape[1], interval


@eqx.filter_jit
def _back(
    denoiser: Denoiser,
    key: PRNGKeyArray,
    clean: Array,
    noise: Array,
    levels: Array,
    stochasticity: Array,
) -> Float[Array, "m d"]:
    def one(i: Array) -> Array:
        u = clean[i] + levels[0] * noise[i]
        of_draw = jax.random.fold_in(jax.random.fold_in(key, 2), i)
        u = reverse_sde(
            denoiser, of_draw, u, levels[0], levels[-1], levels=levels, stochasticity=stochasticity
        )
        return denoised(denoiser, u, levels[-1])

    return in_batches(one, clean.shape[0], BATCH)
