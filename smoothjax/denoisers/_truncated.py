r"""The posterior mean from the few points that matter, with a bound of what the others would change."""

import itertools
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from .._checks import RealScalar, as_points, is_concrete, positive_parameter
from .._precision import HIGHEST
from ._base import AbstractPosteriorDenoiser
from ._batching import batched
from ._certified import CertifiedMean, Concentration
from ._derivatives import differentiated_as
from ._empirical import EmpiricalDenoiser
from ._point_posterior import posterior_summary
from ._screen import Screen, build_screens, inner_products, leading_directions
from ._shared_candidates import (
    largest,
    log_weight_from_below,
    product_is_trusted,
    rounding_of_products,
    shared_candidates,
)
from ._tree import Tree, build_tree
from ._tree_means import tree_means

# Bounds are compared in columns, of every so many points one: whole vector registers, and a few of the candidates.
COLUMN = 32
# Queries that are screened at once, and how many of them when few are left; bounds of all of them.
GROUP, SMALL_GROUP, AT_ONCE = 64, 8, 2**22
# Noise levels, relative to the data's root mean square, at which it is found out which screens pay; and queries there.
PROBED_LEVELS = np.geomspace(1e-3, 1.0, 19)
NUM_PROBES = 32
# Points that are looked at for it.
PROBED_POINTS = 65_536
# Costs in units of one of the dense denoiser's `2 n d` multiplications (measured): of looking at a bound; of a coordinate
# of a point that is weighed.
LOOK, VISIT = 45.0, 90.0
# What a point costs that is gathered and weighed for a group, in units of the dense denoiser's cost for a point.
GATHER = 1.25
# From so many points on, in at most so many dimensions, a tree replaces the screens.
TREE_POINTS, TREE_DIMENSION = 8192, 3


class _Stage(eqx.Module):
    """One attempt: a screen (none: the product itself), and how many points are weighed for each query then.

    Zero: those that matter to any query of the group, for all of them.
    """

    screen: Screen | None
    num_visits: int = eqx.field(static=True)


class TruncatedDenoiser(AbstractPosteriorDenoiser):
    r"""The posterior mean of `EmpiricalDenoiser`, to a certified tolerance, from as few training points as that takes.

    A product with few columns bounds every point's posterior weight from above (leading directions of the data, and
    Cauchy-Schwarz block by block in the others); the points with the largest bounds are weighed exactly, from differences.
    With `e` the sum of the others' bounds over the weights of those visited, leaving them out changes the mean by at most
    `e / (1 + e)` times the distance from it to the farthest point. Where more points matter, those that matter to any
    query of a group are weighed for all of it, by a product. Where the error exceeds the tolerance, a wider screen is tried,
    and at last the sum over all points. So the result never misses the tolerance; noise levels decide the cost. Which
    screens are worth trying at which noise level is measured at construction, on training points plus noise; it changes
    nothing else. The screens take about as much memory as the points.

    Very many points in at most three dimensions are searched by a k-d tree instead, whose nodes are left out, summed by
    Taylor expansions with bounded remainders, or opened; what the tree cannot certify is summed over all points.

    Under `vmap` queries are screened up to 64 at a time, and regrouped between screens: what a query gets depends on the
    others of its batch, within its certificate. Derivatives, and everything but the mean, are those of the exact denoiser,
    at its cost.

    Args:
        data: training points, shape (n, d), in data units.
        tolerance: largest error of the mean by truncation, in Euclidean norm and data units. By default 1e-4 of the root
            mean square distance of the points from their mean.
        screening_dtype: of the products that only bound: `jnp.bfloat16` or, for float64 data, `jnp.float32`. By default
            the data's. Faster where the machine multiplies narrower numbers faster, with half the memory for screens. Wider
            bounds make up for the rounding; what is weighed is weighed in the data's dtype.

    Raises:
        ValueError: as `EmpiricalDenoiser`; for a tolerance that is not positive, data that are being traced, or a dtype for
            screening that is none of these.

    **float32**: rounding is added to the bounds, so that they hold; at noise levels below 1e-4 of the data's scale this
    can leave more than needed to visit. The tolerance is for truncation: what rounding changes is bounded beside it.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> points = jax.random.normal(jax.random.key(0), (1000, 100))
        >>> D = sj.TruncatedDenoiser(points, tolerance=1e-3)
        >>> found = D.certified(points[0] + 0.1, 0.5)
        >>> int(found.visited) < 1000, bool(found.truncation <= 1e-3)
        (True, True)
    """

    exact: EmpiricalDenoiser
    tolerance: Float[Array, ""]
    _farthest: Float[Array, ""]  # bound of |y_i - centre|
    _tree: Tree | None
    _stages: tuple[_Stage, ...]
    _levels: Float[Array, " levels"]
    _enter: Bool[Array, "2 levels stages"]  # first where the product cannot be trusted

    def __init__(
        self,
        data: Any,
        tolerance: ArrayLike | None = None,
        screening_dtype: DTypeLike | None = None,
    ):
        if not is_concrete(data, tolerance):
            raise ValueError("`data` must be known at construction, outside of jax.jit and vmap.")
        data = as_points(data)
        dtype = _screening_dtype(screening_dtype, data.dtype)
        self.exact = EmpiricalDenoiser(data)
        points = np.asarray(data)
        centre = np.asarray(self.exact._points.centre)
        squares = 2 * np.asarray(self.exact._points.half_square, np.float64)
        scale = math.sqrt(float(np.mean(squares)))
        if tolerance is None:
            # Points that are all equal have no scale, and nothing to leave out.
            tolerance = 1e-4 * scale if scale > 0 else float(np.finfo(points.dtype).tiny)
        self.tolerance = jnp.asarray(positive_parameter(tolerance, "tolerance"), data.dtype)
        slack = 1 + 4 * (points.shape[1] + 4) * float(np.finfo(points.dtype).eps)
        self._farthest = jnp.asarray(math.sqrt(float(np.max(squares))) * slack, data.dtype)
        with_tree = len(points) >= TREE_POINTS and points.shape[1] <= TREE_DIMENSION
        self._tree = build_tree(points) if with_tree else None
        self._stages = () if with_tree else _stages(points, centre, dtype)
        self._levels = jnp.asarray(np.log(PROBED_LEVELS * max(scale, 1e-30)), data.dtype)
        num = len(self._stages)
        self._enter = jnp.zeros((2, len(PROBED_LEVELS), num), bool)
        if num and scale > 0:
            self._enter = jnp.asarray(_worth_entering(self, scale))
            # A stage that is never entered is not compiled.
            used = np.flatnonzero(np.any(np.asarray(self._enter), axis=(0, 1)))
            self._stages = tuple(self._stages[i] for i in used)
            self._enter = self._enter[:, :, used]

    @property
    def dim(self) -> int:
        return self.exact.dim

    @property
    def data(self) -> Float[Array, "n d"]:
        """The training points."""
        return self.exact.data

    def certified(self, u: Float[Array, " d"], sigma: RealScalar) -> CertifiedMean:
        """The posterior mean with bounds of its error, and how many points were visited."""
        return _compiled(self, *self.exact._query(u, sigma))

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        return _mean(self, *self.exact._query(u, sigma))

    def log_density(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        return self.exact.log_density(u, sigma)

    def posterior_variance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        return self.exact.posterior_variance(u, sigma)

    def posterior_covariance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, "d d"]:
        return self.exact.posterior_covariance(u, sigma)

    def posterior_covariance_product(
        self, u: Float[Array, " d"], sigma: RealScalar, vector: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        return self.exact.posterior_covariance_product(u, sigma, vector)

    def mean_and_variance(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        return self.exact.mean_and_variance(u, sigma)

    def mean_and_covariance(self) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        return self.exact.mean_and_covariance()


def _screening_dtype(given: DTypeLike | None, dtype: Any) -> Any:
    allowed = [
        x for x in (jnp.bfloat16, jnp.float32, dtype) if jnp.finfo(x).bits <= jnp.finfo(dtype).bits
    ]
    if given is None:
        return dtype
    if given not in allowed:
        names = ", ".join(sorted({jnp.dtype(x).name for x in allowed}))
        raise ValueError(f"`screening_dtype` must be one of {names}; got {given!r}.")
    return jnp.dtype(given)


def _stages(points: np.ndarray, centre: np.ndarray, dtype: Any) -> tuple[_Stage, ...]:
    """Screens of growing width, of numbers of that dtype. All bounds are those of the same posterior."""
    n, d = points.shape
    num_rows = -(-n // COLUMN) * COLUMN
    if n < 4 * COLUMN:
        return ()
    # They cost as much as a twentieth of the dense denoiser, from so many points on.
    num_visits = min(max(16, n // 1000), 128)
    widths = [w for w in (d // 12, d // 6, d // 3, d // 2) if w >= COLUMN]
    screens = []
    if widths:
        basis = leading_directions(points, centre, min(d, 3 * widths[-1] // 2, n))
        edges = [
            tuple(sorted({min(e, basis.shape[1]) for e in (w, 3 * w // 2, 2 * w)})) for w in widths
        ]
        screens = build_screens(points, centre, basis, edges, num_rows, dtype)
    num_visits = min(num_visits, num_rows // COLUMN)
    return (
        *(_Stage(screen, num_visits) for screen in screens[:3]),
        *(_Stage(screen, 0) for screen in screens[2:]),
        _Stage(None, num_visits),
    )


def _worth_entering(denoiser: TruncatedDenoiser, scale: float) -> np.ndarray:
    """Which stages a query should try at each level: by what they cost, and how many points they would leave for probes.

    The probes are training points plus noise, as the states of a sampler are, half of them as if their own point were not in
    the set, as held-out ones would be: a stage must pay on average, and cost next to nothing where only these are asked for.
    """
    set_ = denoiser.exact._points
    n, d = set_.points.shape
    stride = -(-n // PROBED_POINTS)
    points, half_square = (np.asarray(x)[::stride] for x in (set_.points, set_.half_square))
    centre, dtype = np.asarray(set_.centre), points.dtype
    generator = np.random.default_rng(0)
    own = generator.integers(0, len(points), NUM_PROBES)
    held_out = np.arange(NUM_PROBES) < NUM_PROBES // 2
    noise = generator.standard_normal((len(PROBED_LEVELS), NUM_PROBES, d)).astype(dtype)
    sigmas = (PROBED_LEVELS * scale).astype(dtype)[:, None]
    v = (points[own] - centre + sigmas[:, :, None] * noise).reshape(-1, d)
    # A point matters if as many like it as there are would miss the tolerance.
    margin = math.log(2.1 * n * float(denoiser._farthest) / float(denoiser.tolerance))

    def bounds(stage: _Stage) -> np.ndarray:
        if stage.screen is None:
            found = v @ points.T - half_square - (v @ centre)[:, None]
        else:
            columns = np.asarray(stage.screen.columns)[:, ::stride].astype(dtype)
            found = np.asarray(stage.screen.rows(jnp.asarray(v)), dtype) @ columns
        found = found.reshape(len(sigmas), NUM_PROBES, -1)
        found[:, held_out, own[held_out]] = -np.inf
        return found

    enter = np.zeros((2, len(PROBED_LEVELS), len(denoiser._stages)), bool)
    certified, costs = [], []
    exact = bounds(denoiser._stages[-1])
    least = np.max(exact, axis=-1) - sigmas**2 * max(margin, 0.0)
    for stage in denoiser._stages:
        found = exact if stage.screen is None else bounds(stage)
        width = d if stage.screen is None else len(stage.screen.columns)
        matters = found > least[..., None]
        chance, cost = [], []
        for kind in (held_out, ~held_out):
            if stage.num_visits:
                count = stride * np.sum(matters[:, kind], axis=-1)
                chance.append(np.mean(count < stage.num_visits, axis=1))
                cost.append(VISIT * stage.num_visits / (2 * n) * np.ones(len(sigmas)))
            else:
                # At most so many in a whole group.
                union = stride * np.sum(np.any(matters[:, kind], axis=1), axis=-1)
                share = np.minimum(union * (GROUP / np.sum(kind)) / n, 1.0)
                chance.append(share < 0.25)
                cost.append(GATHER * share)
        certified.append(np.stack(chance))
        costs.append((width + LOOK) / (2 * d) + np.stack(cost))
    for trusted, i in itertools.product(range(2), range(len(PROBED_LEVELS))):
        rest = np.ones(2)
        for k, stage in reversed(list(enumerate(denoiser._stages))):
            if stage.num_visits == 0 and not trusted:
                continue
            cost = costs[k][:, i] + (1 - certified[k][:, i]) * rest
            if np.mean(cost) < 0.95 * np.mean(rest) and np.all(cost < 1.05 * rest):
                enter[trusted, i, k], rest = True, cost
    return enter


def _bounds(
    denoiser: TruncatedDenoiser, stage: _Stage, v: Float[Array, "q d"]
) -> Float[Array, "q padded"]:
    """Upper bounds of `v . c_i - |c_i|^2 / 2`, rounding included; as low as can be in the padding."""
    if stage.screen is not None:
        return stage.screen.bounds(v)
    set_, eps = denoiser.exact._points, jnp.finfo(v.dtype).eps
    n, d = set_.points.shape
    # v . (y - c) from v . y: d roundings of terms as large as |v| |y|.
    offset = jnp.sum(v * set_.centre, axis=1)
    size = denoiser._farthest + jnp.linalg.norm(set_.centre)
    slack = 2 * (d + 8) * eps * size * (jnp.linalg.norm(v, axis=1) + denoiser._farthest)
    products = inner_products(v, set_.points)
    bounds = products - set_.half_square + (slack - offset)[:, None]
    return jnp.pad(bounds, ((0, 0), (0, -n % COLUMN)), constant_values=-jnp.inf)


def _attempt(
    denoiser: TruncatedDenoiser, stage: _Stage, u: Array, sigma: Array
) -> tuple[CertifiedMean, Concentration]:
    """The means of a group of queries from as many points as the stage visits, and what the others may change."""
    set_, eps = denoiser.exact._points, jnp.finfo(u.dtype).eps
    n, _ = set_.points.shape
    bounds = _bounds(denoiser, stage, u - set_.centre)
    if stage.num_visits == 0:
        bounds = lax.optimization_barrier(bounds)
        return shared_candidates(set_, denoiser._farthest, denoiser.tolerance, bounds, u, sigma)
    num, many = stage.num_visits, bounds.shape[1] // COLUMN
    columns = jnp.max(bounds.reshape(-1, COLUMN, many), axis=1)
    # Kept, or the largest would be looked for again for every sum.
    bounds, columns = lax.optimization_barrier((bounds, columns))
    best, where = largest(columns, num)
    members = (where[:, None, :] + many * jnp.arange(COLUMN)[:, None]).reshape(len(u), -1)
    of_members = jnp.take_along_axis(bounds, members, axis=1)
    of_visited, place = largest(of_members, num)
    visited = jnp.take_along_axis(members, place, axis=1)
    weighed = jax.vmap(_weigh, (None, 0, 0, 0))(denoiser, u, sigma, visited)

    def mass(values: Array, end: Array) -> Array:
        """Sum of the exponentials of all up to `end`; of those that equal it, some may have been visited."""
        exponent = (values - weighed.lowest[:, None]) / sigma[:, None] ** 2
        return jnp.sum(jnp.where(values > end, 0, jnp.exp(exponent)), axis=1)

    # Columns that were not opened, as if full of their largest; and members that were not visited.
    rest = COLUMN * mass(columns, best[:, -1:]) + mass(of_members, of_visited[:, -1:])
    rest = (1.01 + n * eps) * rest + 2 * n * jnp.finfo(u.dtype).tiny
    truncation = 1.01 / (1 + weighed.mass / rest) * (denoiser._farthest + weighed.distance)
    count = jnp.full(len(u), min(num, n), jnp.int32)
    mean = CertifiedMean(weighed.mean, truncation, weighed.rounding, count)
    most = jnp.maximum(best[:, -1], of_visited[:, -1])
    gap = jnp.minimum(weighed.gap, 0.999 * (weighed.lowest - most) / sigma**2 - 0.01)
    row = weighed.anchor.astype(jnp.int32)
    return mean, Concentration(row, weighed.others + rest, gap)


class _Weighed(NamedTuple):
    mean: Float[Array, " d"]
    lowest: Float[Array, ""]  # of v . c - |c|^2 / 2 of the anchor, rounding taken off
    mass: Float[Array, ""]  # of the visited weights relative to the anchor's, rounding taken off
    distance: Float[Array, ""]  # of the mean from the centre
    rounding: Float[Array, ""]  # bound of the mean's error
    anchor: Int[Array, ""]  # row
    others: Float[Array, ""]  # bound of the other visited weights, by the anchor's
    gap: Float[Array, ""]  # bound of how far the largest of their logits lies below the anchor's


def _weigh(
    denoiser: TruncatedDenoiser, u: Array, sigma: Array, visited: Int[Array, " m"]
) -> _Weighed:
    """The posterior mean over the visited points, from differences to the nearest of them, the anchor."""
    set_, eps = denoiser.exact._points, jnp.finfo(u.dtype).eps
    n, d = set_.points.shape
    valid = visited < n
    rows = lax.optimization_barrier(set_.points[jnp.minimum(visited, n - 1)])
    # The nearest, up to rounding, which no other weight depends on.
    products = jnp.dot(rows, u - set_.centre, precision=HIGHEST)
    products -= set_.half_square[jnp.minimum(visited, n - 1)]
    best = jnp.argmax(jnp.where(valid, products, -jnp.inf))
    anchor = rows[best]
    difference, to_anchor = rows - anchor, u - anchor
    logits = _sum(difference * (to_anchor - 0.5 * difference)) / sigma**2
    logits = jnp.where(valid, logits, -jnp.inf)
    relative = logits - jnp.max(logits)
    weights = jnp.exp(relative)
    normaliser = jnp.sum(weights)
    mean = anchor + jnp.dot(weights / normaliser, difference, precision=HIGHEST)

    # Error of a logit: a rounding of its terms for each that is added, and those of its exponential.
    apart = jnp.sqrt(jnp.sum(difference**2, axis=1))
    size = apart * (jnp.linalg.norm(to_anchor) + 0.5 * apart) / sigma**2
    doubt = eps * ((_depth(d) + 8) * size + jnp.abs(jnp.where(valid, logits, 0)) + 8)
    doubt = jnp.where(apart > 0, doubt, 0)
    most = jnp.exp(jnp.minimum(relative + doubt, 80))
    grown = jnp.where(doubt < 1, weights * jnp.expm1(jnp.minimum(doubt, 1)), most)
    changed = jnp.where(valid, grown, 0) / normaliser
    length = jnp.linalg.norm(mean - anchor)
    whole, moved = jnp.sum(changed), jnp.sum(changed * (apart + length))
    diameter = 2 * jnp.max(jnp.where(valid, apart, 0))
    by_weights = jnp.where(whole < 0.5, moved / (1 - jnp.minimum(whole, 0.5)), diameter)
    magnitude = jnp.sum(weights * apart) / normaliser
    rounding = 1.01 * by_weights + eps * ((len(rows) + 8) * magnitude + jnp.linalg.norm(mean))

    lowest = log_weight_from_below((u - set_.centre)[None], (anchor - set_.centre)[None])[0]
    mass = jnp.maximum(jnp.sum(jnp.where(valid, jnp.exp(logits - doubt), 0)) * 0.999, 1)
    distance = jnp.linalg.norm(mean - set_.centre) * (1 + 2 * (d + 4) * eps)
    highest = jnp.where(jnp.arange(len(rows)) == best, -jnp.inf, logits + doubt)
    others, gap = 1.01 * jnp.sum(jnp.exp(highest)), -jnp.max(highest)
    return _Weighed(mean, lowest, mass, distance, rounding, visited[best], others, gap)


def _sum(values: Float[Array, "m d"]) -> Float[Array, " m"]:
    """Sums over the last axis, with so few additions one after another that their rounding is well bounded."""
    m, d = values.shape
    padded = jnp.pad(values, ((0, 0), (0, -d % COLUMN))).reshape(m, -1, COLUMN)
    # The barrier keeps XLA from making one sum of the two.
    return jnp.sum(lax.optimization_barrier(jnp.sum(padded, axis=1)), axis=-1)


def _depth(d: int) -> int:
    """Additions that a number goes through in `_sum`."""
    return -(-d // COLUMN) + COLUMN


def _exactly(denoiser: TruncatedDenoiser, u: Array, sigma: Array) -> CertifiedMean:
    """The sums over all points."""
    set_ = denoiser.exact._points
    n = len(set_.points)
    summary = jax.vmap(posterior_summary, (None, 0, 0))(set_, u, sigma)
    length = jnp.linalg.norm(u - set_.centre, axis=1)
    summed = min(set_.chunk_size, n) + n // set_.chunk_size + 8
    _, by_weights, by_sums = rounding_of_products(set_, length, sigma, summary.variance, summed)
    mean, rounding = set_.centre + summary.mean, by_weights + by_sums
    return CertifiedMean(mean, jnp.zeros_like(rounding), rounding, jnp.full(len(u), n, jnp.int32))


def _unknown(num: int, dtype: Any) -> Concentration:
    infinite = jnp.full(num, jnp.inf, dtype)
    return Concentration(jnp.full(num, -1, jnp.int32), infinite, -infinite)


@jax.custom_batching.custom_vmap
def _certified_one(denoiser: TruncatedDenoiser, u: Array, sigma: Array) -> CertifiedMean:
    return jax.tree.map(lambda x: x[0], _certified(denoiser, u[None], sigma[None]))


# As a whole, so that a second call outside `jax.jit` finds it compiled.
_compiled = jax.jit(_certified_one)


@_certified_one.def_vmap
def _certified_one_of_batch(axis_size, in_batched, denoiser, u, sigma):
    return batched(_alone, _certified, axis_size, in_batched, denoiser, u, sigma)


def _alone(denoiser: TruncatedDenoiser, u: Array, sigma: Array) -> CertifiedMean:
    return jax.tree.map(lambda x: x[0], _certified_group(denoiser, u[None], sigma[None]))


@jax.custom_batching.custom_vmap
def _certified(denoiser: TruncatedDenoiser, u: Array, sigma: Array) -> CertifiedMean:
    return _certified_group(denoiser, u, sigma)


@_certified.def_vmap
def _certified_of_batch(axis_size, in_batched, denoiser, u, sigma):
    def flattened(denoiser, u, sigma):
        flat = _certified(denoiser, u.reshape(-1, u.shape[-1]), sigma.reshape(-1))
        return jax.tree.map(lambda x: x.reshape(*sigma.shape, *x.shape[1:]), flat)

    return batched(_certified_group, flattened, axis_size, in_batched, denoiser, u, sigma)


def _certified_group(denoiser: TruncatedDenoiser, u: Array, sigma: Array) -> CertifiedMean:
    return certified_batch(denoiser, u, sigma, jnp.ones(len(u), bool))[0]


def certified_batch(
    denoiser: TruncatedDenoiser,
    u: Float[Array, "batch d"],
    sigma: Float[Array, " batch"],
    wanted: Bool[Array, " batch"],
) -> tuple[CertifiedMean, Concentration]:
    """The means of those queries of a batch that are `wanted`, and where one point was seen to outweigh the others."""
    num = len(u)
    levels = jnp.searchsorted(denoiser._levels, jnp.log(sigma))
    above = levels == len(denoiser._levels)
    trusted = product_is_trusted(denoiser.exact._points, u, sigma).astype(jnp.int32)
    enter = denoiser._enter[trusted, jnp.minimum(levels, len(denoiser._levels) - 1)]
    enter &= ~above[:, None]

    def in_groups(group: int, compute, waiting, todo, result, tolerance):
        """The waiting queries, a group at a time; a result that exceeds the tolerance is not kept."""

        def some(loop):
            waiting, todo, result = loop
            (queries,) = jnp.nonzero(waiting, size=group, fill_value=num)
            # A group that is not full repeats its first query, and drops the result.
            taken = jnp.where(queries < num, queries, queries[0])
            # Tied to the loop: where it is the same for every group, XLA computes it whether or not the loop runs.
            _, *group_of = lax.optimization_barrier((waiting, u[taken], sigma[taken]))
            found = compute(*group_of)
            kept = jnp.where(found[0].truncation <= tolerance, queries, num)
            result = jax.tree.map(lambda x, y: x.at[kept].set(y, mode="drop"), result, found)
            drop = lambda mask, which: mask.at[which].set(False, mode="drop")  # noqa: E731
            return drop(waiting, queries), drop(todo, kept), result

        least = 2 * SMALL_GROUP if group > SMALL_GROUP else 0
        return lax.while_loop(lambda loop: jnp.sum(loop[0]) > least, some, (waiting, todo, result))

    zero = jnp.zeros(num, u.dtype)
    result = CertifiedMean(jnp.zeros_like(u), zero, zero, jnp.zeros(num, jnp.int32))
    todo = wanted
    if denoiser._tree is not None:
        result = tree_means(denoiser._tree, u, sigma, denoiser.tolerance)
        todo = wanted & ~(result.truncation <= denoiser.tolerance)
    result = (result, _unknown(num, u.dtype))
    # More memory than 32 MiB would be given back to the system and asked for anew at each call, at a tenth of its time.
    group = max(2 * SMALL_GROUP, min(GROUP, AT_ONCE // len(denoiser.data)))
    sizes = sorted({min(num, group), min(num, SMALL_GROUP)}, reverse=True)

    def staged(loop):
        todo, result = loop
        for i, stage in enumerate(denoiser._stages):
            waiting = todo & enter[:, i]
            for size in sizes:
                compute = lambda u, sigma, stage=stage: _attempt(denoiser, stage, u, sigma)  # noqa: E731
                waiting, todo, result = in_groups(
                    size, compute, waiting, todo, result, denoiser.tolerance
                )
        return todo, result

    # Not even loops that do not run, where no stage is to be entered.
    any_stage = jnp.any(todo & jnp.any(enter, axis=1))
    todo, result = lax.cond(any_stage, staged, lambda loop: loop, (todo, result))

    def everything(loop):
        # At once, whether or not a few of them are known; what a query gets does not depend on the others.
        todo, result = loop
        exactly = _exactly(denoiser, u, sigma), _unknown(num, u.dtype)
        choose = lambda new, old: jnp.where(todo.reshape(-1, *[1] * (new.ndim - 1)), new, old)  # noqa: E731
        return jax.tree.map(choose, exactly, result)

    def remaining(loop):
        todo, result = loop
        for size in sizes:
            compute = lambda u, sigma: (  # noqa: E731
                _exactly(denoiser, u, sigma),
                _unknown(len(u), u.dtype),
            )
            _, todo, result = in_groups(size, compute, todo, todo, result, jnp.inf)
        return result

    return lax.cond(jnp.sum(todo) > num // 2, everything, remaining, (todo, result))


def _exact_mean(denoiser: TruncatedDenoiser, u: Array, sigma: Array) -> Array:
    return denoiser.exact(u, sigma)


@differentiated_as(_exact_mean)
def _mean(denoiser: TruncatedDenoiser, u: Array, sigma: Array) -> Array:
    return _compiled(denoiser, u, sigma).value
