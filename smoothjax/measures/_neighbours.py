"""Exact Euclidean nearest neighbours at the speed of a matrix product."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from .._checks import as_points, as_positive_integer
from .._jax.blocks import blocks_of, in_batches
from .._jax.precision import common_dtype
from .._kinds import checks_kinds
from .._numerics import done_now, norm

# Candidates beyond the k asked for. More of them make the certificate fail less often for data with
# many near-duplicates, and each costs one exact distance a query.
_SPARE = 14
# Queries whose candidates are gathered at once.
_GATHERED = 64


@checks_kinds
def nearest_neighbours(
    points: Float[Array, "m d"],
    data: Float[Array, "n d"],
    k: int = 2,
    *,
    batch_size: int = 1024,
) -> tuple[Float[Array, "m k"], Int[Array, "m k"]]:
    """The k nearest data points of each point, with their Euclidean distances, ascending.

    Exact in the sense that matters in float32. The usual |x|^2 - 2 x.y + |y|^2 loses all digits of
    the distance between near-duplicates far from the origin, so here it only preselects, on centred
    data and at the highest matmul precision: data points are ranked by that value minus twice a
    bound on its rounding error, which is a lower bound on the squared distance, and a few more than
    k of them are kept. Distances and their order then come from the differences of the coordinates.
    If the k-th of these is not below every lower bound that was left out, the query is searched
    again by differences over all data; so crowds of near-duplicates cost time and never accuracy.

    Args:
        points: queries, shape (m, d).
        data: the set that is searched, shape (n, d). Both are taken to their common dtype.
        k: how many neighbours, 1 <= k <= n.
        batch_size: queries and data points a block. Memory beyond the arrays themselves is a few
            times `batch_size * max(batch_size, d)` numbers; the result does not depend on it.

    Returns:
        Distances (m, k), not squared, and indices (m, k) into `data`. Of data points at the same
        computed distance the lower index comes first. A point of `points` that is also in `data` is
        its own neighbour at distance zero. The distances can be differentiated (at distance zero
        the derivative is set to zero); the indices are held fixed.

    Raises:
        ValueError: on shapes that do not match, non-finite entries, or k > n.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> distances, rows = sj.nearest_neighbours(jnp.array([[0.2]]), jnp.array([[1.0], [0.0], [5.0]]), k=2)
        >>> print(distances, rows)
        [[0.2 0.8]] [[1 0]]
    """
    points, data = done_now(as_points, points, "points"), done_now(as_points, data)
    k, batch_size = as_positive_integer(k, "k"), as_positive_integer(batch_size, "batch_size")
    if points.shape[1] != data.shape[1]:
        raise ValueError(
            "`points` and `data` must have the same dimension; "
            f"got shapes {points.shape} and {data.shape}."
        )
    if k > data.shape[0]:
        raise ValueError(
            f"`k` must be at most the number of data points, {data.shape[0]}; got {k}."
        )
    dtype = common_dtype(points.dtype, data.dtype)
    return _search(points.astype(dtype), data.astype(dtype), k, batch_size)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _search(points: Array, data: Array, k: int, batch_size: int) -> tuple[Array, Array]:
    m = points.shape[0]
    count, block = blocks_of(m, batch_size)
    queries = jnp.pad(points, ((0, count * block - m), (0, 0)), mode="edge")
    # The search is piecewise constant; only the distances at the end carry a derivative.
    frozen_points, frozen_data = lax.stop_gradient((points, data))
    centre = jnp.mean(frozen_data, axis=0, keepdims=True)
    # Dividing by the largest entry keeps the squares of very large or small data in range.
    scale = jnp.maximum(
        jnp.max(jnp.abs(frozen_data - centre)), jnp.max(jnp.abs(frozen_points - centre))
    )
    scale = jnp.where(scale > 0, scale, 1)
    n, d = data.shape
    num_blocks, data_block = blocks_of(n, batch_size)
    padded = jnp.pad(frozen_data, ((0, num_blocks * data_block - n), (0, 0)))
    data_blocks = padded.reshape(num_blocks, data_block, d)

    def one_block(queries: Array) -> tuple[Array, Array]:
        frozen = lax.stop_gradient(queries)
        candidates, excluded = _preselect(frozen, data_blocks, n, k, centre, scale)
        indices, certified = _refine(frozen, frozen_data, candidates, excluded, k, scale)
        indices = _search_uncertified(frozen, data_blocks, n, indices, certified)
        distances = norm(queries[:, None] - data[indices])
        distances, indices = lax.sort((distances, indices), num_keys=2)
        return distances, indices

    distances, indices = lax.map(one_block, queries.reshape(count, block, d))
    return distances.reshape(-1, k)[:m], indices.reshape(-1, k)[:m]


def _preselect(
    queries: Array, data_blocks: Array, n: int, k: int, centre: Array, scale: Array
) -> tuple[Array, Array]:
    """The data points of smallest lower bound, and what bounds the rest; both in scaled units."""
    num_blocks, data_block, d = data_blocks.shape
    kept = min(n, k + _SPARE)
    info = jnp.finfo(queries.dtype)
    x = (queries - centre) / scale
    x_squared = jnp.sum(x**2, axis=1)

    def add_block(carry: tuple[Array, Array], inputs: tuple[Array, Array]):
        bounds, indices = carry
        start, rows = inputs
        y = (rows - centre) / scale
        y_squared = jnp.sum(y**2, axis=1)
        product = jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST)
        squared = x_squared[:, None] - 2 * product + y_squared[None]
        # Sums of d products in any order, whose terms have sum at most (|x| + |y|)^2 =: S in size:
        # error at most d u S with u = eps/2; centring, scaling and the additions add less than 10 u
        # S; # products below the smallest normal number may be flushed to zero. All this, twice.
        size = (jnp.sqrt(x_squared)[:, None] + jnp.sqrt(y_squared)[None]) ** 2
        lower = squared - ((d + 10) * info.eps * size + 8 * (d + 2) * info.tiny)
        index = start + jnp.arange(data_block)
        lower = jnp.where(index[None] < n, lower, jnp.inf)
        bounds = jnp.concatenate([bounds, lower], axis=1)
        indices = jnp.concatenate([indices, jnp.broadcast_to(index, lower.shape)], axis=1)
        negative, order = lax.top_k(-bounds, kept)
        return (-negative, jnp.take_along_axis(indices, order, axis=1)), None

    empty = (
        jnp.full((queries.shape[0], kept), jnp.inf, queries.dtype),
        jnp.full((queries.shape[0], kept), n),
    )
    starts = jnp.arange(num_blocks) * data_block
    (bounds, candidates), _ = lax.scan(add_block, empty, (starts, data_blocks))
    # With every data point a candidate nothing was left out.
    excluded = bounds[:, -1] if kept < n else jnp.full_like(bounds[:, -1], jnp.inf)
    return candidates, excluded


def _refine(
    queries: Array, data: Array, candidates: Array, excluded: Array, k: int, scale: Array
) -> tuple[Array, Array]:
    """The k nearest candidates by differences, and whether no other data point can be nearer."""
    dtype, d = queries.dtype, queries.shape[1]

    def one_query(i: Array) -> tuple[Array, Array]:
        distances = norm(queries[i][None] - data[candidates[i]])
        distances, indices = lax.sort((distances, candidates[i]), num_keys=2)
        # Strictly below, so that a tie with a point left out is decided by the full search.
        upper = (distances[k - 1] / scale) ** 2 * (1 + (d + 10) * jnp.finfo(dtype).eps)
        return indices[:k], upper < excluded[i]

    return in_batches(one_query, queries.shape[0], _GATHERED)


def _search_uncertified(
    queries: Array, data_blocks: Array, n: int, indices: Array, certified: Array
) -> Array:
    """Replaces the neighbours of uncertified queries by those of a search by differences."""
    k = indices.shape[1]
    num_blocks, data_block, _ = data_blocks.shape
    starts = jnp.arange(num_blocks) * data_block

    def search(query: Array) -> Array:
        def add_block(carry: tuple[Array, Array], inputs: tuple[Array, Array]):
            start, rows = inputs
            index = start + jnp.arange(data_block)
            distances = jnp.where(index < n, norm(query[None] - rows), jnp.inf)
            distances = jnp.concatenate([carry[0], distances])
            index = jnp.concatenate([carry[1], index])
            # Ties go to the earlier position, which is the lower index: blocks come in order.
            negative, order = lax.top_k(-distances, k)
            return (-negative, index[order]), None

        empty = (jnp.full(k, jnp.inf, query.dtype), jnp.full(k, n))
        return lax.scan(add_block, empty, (starts, data_blocks))[0][1]

    def replace_one(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        certified, indices = carry
        i = jnp.argmin(certified)
        return certified.at[i].set(True), indices.at[i].set(search(queries[i]))

    # Certified queries cost nothing here.
    return lax.while_loop(lambda carry: ~jnp.all(carry[0]), replace_one, (certified, indices))[1]
