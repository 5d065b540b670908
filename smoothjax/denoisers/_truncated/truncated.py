r"""The posterior mean from the few points that matter, with a bound of what the others would change."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Bool, Float

from ..._checks import (
    RealScalar,
    as_points,
    is_concrete,
    positive_parameter,
)
from ..._jax.batching import over_queries
from ..._jax.derivatives import differentiated_as
from ..._jax.groups import Group, over_flagged
from ..._kinds import checks_kinds
from .._base import AbstractPosteriorDenoiser
from .._empirical.empirical import EmpiricalDenoiser
from .._posterior.concentration import Concentration, heaviest_point
from .._posterior.following import Followed, of_some
from .candidates import Truncation
from .certified import CertifiedMean
from .dense_certificate import refined, sums_over_all
from .screening_plan import GROUP, PROBED_LEVELS, Stage, candidate_stages, worth_entering
from .shared_candidates import product_is_trusted
from .tree import Tree, build_tree
from .tree_means import tree_means

# Queries that are screened at once when few are left; bounds of all queries of a group.
SMALL_GROUP, AT_ONCE = 8, 2**22
# From so many points on, in at most so many dimensions, a tree replaces the screens.
TREE_POINTS, TREE_DIMENSION = 8192, 3


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
            mean square distance of the points from their mean. Below the distance of the farthest point from their mean,
            beyond which it asks for nothing.
        screening_dtype: of the products that only bound: `jnp.bfloat16` or, for float64 data, `jnp.float32`. By default
            the data's. Faster where the machine multiplies narrower numbers faster, with half the memory for screens. Wider
            bounds make up for the rounding; what is weighed is weighed in the data's dtype.

    Raises:
        ValueError: as `EmpiricalDenoiser`; for a tolerance that is not positive or asks for nothing, data that are being
            traced, or a dtype for screening that is none of these.

    **float32**: rounding is added to the bounds, so that they hold; at noise levels below 1e-4 of the data's scale this
    can leave more than needed to visit. The tolerance is for truncation: what rounding changes is bounded beside it.

    Source: Karras et al. 2022, eq. (57) (appendix B.3), for the posterior mean; the certificates are ours.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> points = jax.random.normal(jax.random.key(0), (10_000, 2))
        >>> D = sj.TruncatedDenoiser(points, tolerance=1e-3)
        >>> found = D.certified(points[0] + 0.1, 0.1)
        >>> int(found.visited) < 10_000, bool(found.truncation <= 1e-3)
        (True, True)
    """

    exact: EmpiricalDenoiser
    tolerance: Float[Array, ""]
    _farthest: Float[Array, ""]  # bound of |y_i - centre|
    _tree: Tree | None
    _stages: tuple[Stage, ...]
    _levels: Float[Array, " levels"]
    _enter: Bool[Array, "2 levels stages"]  # first where the product cannot be trusted

    @checks_kinds
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
        tolerance, farthest = positive_parameter(tolerance, "tolerance"), math.sqrt(np.max(squares))
        # Equal points are as far from their mean as rounding puts it.
        rounded = 8 * float(np.finfo(points.dtype).eps) * float(np.max(np.abs(points)))
        if rounded * math.sqrt(points.shape[1]) < farthest <= float(tolerance):
            raise ValueError(
                f"`tolerance` must lie below {farthest:.3g}, the distance of the farthest point from their mean, or any "
                f"point would do; got {float(tolerance):g}."
            )
        self.tolerance = jnp.asarray(tolerance, data.dtype)
        slack = 1 + 4 * (points.shape[1] + 4) * float(np.finfo(points.dtype).eps)
        self._farthest = jnp.asarray(farthest * slack, data.dtype)
        with_tree = len(points) >= TREE_POINTS and points.shape[1] <= TREE_DIMENSION
        self._tree = build_tree(points) if with_tree else None
        self._stages = () if with_tree else candidate_stages(points, centre, dtype)
        self._levels = jnp.asarray(np.log(PROBED_LEVELS * max(scale, 1e-30)), data.dtype)
        num = len(self._stages)
        self._enter = jnp.zeros((2, len(PROBED_LEVELS), num), bool)
        if num and scale > 0:
            self._enter = jnp.asarray(worth_entering(self._truncation, self._stages, scale))
            # A stage that is never entered is not compiled.
            used = np.flatnonzero(np.any(np.asarray(self._enter), axis=(0, 1)))
            self._stages = tuple(self._stages[i] for i in used)
            self._enter = self._enter[:, :, used]

    @property
    def dim(self) -> int:
        return self.exact.dim

    @property
    def _truncation(self) -> Truncation:
        return Truncation(self.exact._points, self._farthest, self.tolerance)

    @property
    def data(self) -> Float[Array, "n d"]:
        """The training points."""
        return self.exact.data

    def certified(self, u: Float[Array, " d"], sigma: RealScalar) -> CertifiedMean:
        """The posterior mean with bounds of its error, and how many points were visited.

        Where the bound of rounding is loose, the sums are taken once more, with a doubt for every point, and the better
        mean is returned; a call of the denoiser itself does not take that time.
        """
        return _compiled_refined(self, *self.exact._query(u, sigma))

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

    def followed_to(self, end: Array) -> Followed:
        """What `smoothjax.replay` asks of samples on their way to noise level `end`: means, and when an end is certain."""
        data = self.data
        # Screens say how far the point outweighs the others; small sets have none, and a product with all points is cheap.
        screened = bool(self._stages) or self._tree is not None

        def call(u: Array, sigma: Array, open_: Array) -> tuple[Array, Concentration]:
            mean, found = certified_batch(self, u, jnp.full(len(u), sigma), open_)
            if not screened:
                weigh = lambda u: heaviest_point(self.exact._points, u, sigma)  # noqa: E731
                found = of_some(weigh, u, open_, found)
            return mean.value, found

        def ends(found: Concentration, u: Array, sigma: Array, previous: Array, open_: Array):
            return stays_on_point(self, found, sigma, end), data[found.row], found.row

        def row_of(point: Array) -> Array:
            nearest = jnp.argmin(jnp.sum((data - point[None]) ** 2, axis=1)).astype(jnp.int32)
            distance = jnp.linalg.norm(data[nearest] - point)
            return jnp.where(distance <= self.tolerance, nearest, -1)

        return Followed(call, ends, lambda points: lax.map(row_of, points))


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


def _exactly(denoiser: TruncatedDenoiser, u: Array, sigma: Array) -> CertifiedMean:
    """The sums over all points."""
    return sums_over_all(denoiser.exact._points, u, sigma)[0]


def _unknown(num: int, dtype: Any) -> Concentration:
    infinite = jnp.full(num, jnp.inf, dtype)
    return Concentration(jnp.full(num, -1, jnp.int32), infinite, -infinite)


def _certified_group(denoiser: TruncatedDenoiser, u: Array, sigma: Array) -> CertifiedMean:
    return certified_batch(denoiser, u, sigma, jnp.ones(len(u), bool))[0]


def _refined_group(denoiser: TruncatedDenoiser, u: Array, sigma: Array) -> CertifiedMean:
    return refined(denoiser._truncation, u, sigma, _certified_group(denoiser, u, sigma))


# As a whole, so that a second call outside `jax.jit` finds it compiled.
_compiled = jax.jit(over_queries(_certified_group))
_compiled_refined = jax.jit(over_queries(_refined_group))


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

    def attempt(compute, tolerance):
        """An update by what is computed; a result that exceeds the tolerance is not kept."""

        def some(group: Group, state):
            todo, result = state
            taken = group.taken
            found = compute(*group.tied((u[taken], sigma[taken])))
            kept = group.only(found[0].truncation <= tolerance)
            result = kept.put(result, found)
            return kept.put(todo, False), result

        return some

    zero = jnp.zeros(num, u.dtype)
    result = CertifiedMean(jnp.zeros_like(u), zero, zero, jnp.zeros(num, jnp.int32))
    todo = wanted
    if denoiser._tree is not None:
        result = tree_means(denoiser._tree, u, sigma, denoiser.tolerance)
        todo = wanted & ~(result.truncation <= denoiser.tolerance)
    result = (result, _unknown(num, u.dtype))
    # More memory than 32 MiB would be given back to the system and asked for anew at each call, at a tenth of its time.
    sizes = SMALL_GROUP, max(2 * SMALL_GROUP, min(GROUP, AT_ONCE // len(denoiser.data)))

    def staged(loop):
        todo, result = loop
        for i, stage in enumerate(denoiser._stages):
            waiting = todo & enter[:, i]
            compute = functools.partial(stage.attempt, denoiser._truncation)
            some = attempt(compute, denoiser.tolerance)
            todo, result = over_flagged(some, waiting, (todo, result), *sizes)
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
        compute = lambda u, sigma: (_exactly(denoiser, u, sigma), _unknown(len(u), u.dtype))  # noqa: E731
        return over_flagged(attempt(compute, jnp.inf), todo, (todo, result), *sizes)[1]

    return lax.cond(jnp.sum(todo) > num // 2, everything, remaining, (todo, result))


def _exact_mean(denoiser: TruncatedDenoiser, u: Array, sigma: Array) -> Array:
    return denoiser.exact(u, sigma)


@differentiated_as(_exact_mean)
def _mean(denoiser: TruncatedDenoiser, u: Array, sigma: Array) -> Array:
    return _compiled(denoiser, u, sigma).value


def stays_on_point(
    denoiser: TruncatedDenoiser, found: Concentration, sigma: Array, end: Array
) -> Bool[Array, " batch"]:
    """Whether the flow can be proved to end, at noise level `end`, on the point that has most weight at `sigma`."""
    reach, gap = 2 * denoiser._farthest, found.gap
    relative = reach * found.others / sigma
    stays = 2 * relative**2 * (1 + gap) < 0.99 * math.log(2) * gap**2
    moved = 2 * reach * found.others * jnp.exp(-(sigma / end - 1) * gap)
    return (gap > 0) & stays & (moved <= denoiser.tolerance)
