"""How many samples are copies of training points."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._checks import as_points, is_concrete
from .._jax.precision import common_dtype
from .._kinds import checks_kinds
from ._estimate import Estimate, wilson_interval
from ._neighbours import nearest_neighbours


class MemorizationFraction(eqx.Module):
    """The fraction of samples that copy a training point, next to the same for held-out points.

    `str` of it is, for example, `0.00 [0.00, 0.06], null 0.00 [0.00, 0.01]`.

    Attributes:
        fraction: fraction of the samples with d1/d2 < `ratio`.
        interval: its Wilson interval, lower and upper end.
        count: number of those samples.
        num_samples: number of samples.
        null_fraction: the same fraction for the null points.
        null_interval: its Wilson interval.
        null_count: number of null points with d1/d2 < `ratio`.
        num_null: number of null points.
        ratio: the threshold.
        confidence: coverage of the intervals.
        ratios: d1/d2 of each sample.
        null_ratios: d1/d2 of each null point.
        distances: d1 of each sample, in the units of the data: a small ratio at a distance like
            that of null points is an isolated training point rather than a copy.
        null_distances: d1 of each null point.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> data, null = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[0.4], [1.6]])
        >>> found = sj.memorization_fraction(data, data, null=null)
        >>> int(found.count), float(found.fraction), found.distances.tolist()  # copies
        (3, 1.0, [0.0, 0.0, 0.0])
    """

    fraction: Float[Array, ""]
    interval: Float[Array, "2"]
    count: Int[Array, ""]
    num_samples: int
    null_fraction: Float[Array, ""]
    null_interval: Float[Array, "2"]
    null_count: Int[Array, ""]
    num_null: int
    ratio: float
    confidence: float
    ratios: Float[Array, " m"]
    null_ratios: Float[Array, " m0"]
    distances: Float[Array, " m"]
    null_distances: Float[Array, " m0"]

    @property
    def excess(self) -> Estimate:
        """Fraction of the samples less that of the null points, with the standard error of two independent fractions.

        Both fractions' binomial variances are taken at Wilson's centre of their interval, not at the fraction, so that the
        error is positive where no sample or every sample passes.
        """
        variance = 0.0
        for interval, num in (
            (self.interval, self.num_samples),
            (self.null_interval, self.num_null),
        ):
            centre = jnp.mean(interval)
            variance = variance + centre * (1 - centre) / num
        return Estimate(self.fraction - self.null_fraction, jnp.sqrt(variance))

    @property
    def excess_interval(self) -> Float[Array, "2"]:
        """Interval of the excess, from the two Wilson intervals; it lies within [-1, 1].

        Source: Newcombe 1998 (method 10).
        """
        (low, high), (null_low, null_high) = self.interval, self.null_interval
        p, null = self.fraction, self.null_fraction
        below = jnp.hypot(p - low, null_high - null)
        above = jnp.hypot(high - p, null - null_low)
        return jnp.stack([p - null - below, p - null + above])

    def calibrated_ratio(self, level: float) -> Float[Array, ""]:
        """The largest threshold that at most a fraction `level` of the null points pass, and at most 1.

        The null's own quantile, for data whose held-out points pass one third, or for a test of given size in place of the
        customary threshold. It is only as sharp as the null is large: below `1/num_null` it is the least null ratio.

        Args:
            level: in [0, 1).

        Raises:
            ValueError: on a level out of range.
        """
        if not 0 <= level < 1:
            raise ValueError(f"`level` must be in [0, 1); got {level}.")
        # A product such as 0.07 * 100 falls short of the integer by a rounding.
        return jnp.sort(self.null_ratios)[math.floor(level * self.num_null * (1 + 1e-12))]

    def __str__(self) -> str:
        if not is_concrete(self):
            return repr(self)
        samples = _format(self.fraction, self.interval)
        return f"{samples}, null {_format(self.null_fraction, self.null_interval)}"


def _format(fraction: Array, interval: Array) -> str:
    """`0.12 [0.08, 0.17]`, with more decimals where the interval is narrower than 0.01."""
    low, high = (float(end) for end in interval)
    decimals = max(2, math.ceil(-math.log10(high - low)))
    return f"{float(fraction):.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


@checks_kinds
def memorization_fraction(
    samples: Float[Array, "m d"],
    data: Float[Array, "n d"],
    *,
    null: Float[Array, "m0 d"],
    ratio: float = 1 / 3,
    confidence: float = 0.95,
) -> MemorizationFraction:
    """Fraction of samples much nearer to one training point than to any other.

    A sample counts as memorized if d1 / d2 < `ratio`, with d1 and d2 the Euclidean distances (not
    squared) to its nearest and second nearest training points, and distinct ones: training points
    equal in every entry are merged before the search. A sample equal to a training point has ratio
    0. Near-duplicates are not merged, and they hide copies, since both distances are then alike;
    remove them first if there are any.

    The same is always done for `null`: fresh points of the data law, held out from training. In few
    dimensions, or with isolated training points, held-out points pass the threshold too, and a
    fraction means memorization only where it exceeds theirs.

    Both fractions come with Wilson intervals, which treat the samples as independent and the
    training set as given. Not for use inside `jax.jit`: the number of distinct points decides
    shapes.

    Args:
        samples: generated points, shape (m, d).
        data: training points, shape (n, d), at least two of them distinct.
        null: held-out points, shape (m0, d).
        ratio: threshold in (0, 1]. One third is the usual choice.
        confidence: coverage of the intervals, in (0, 1).

    Raises:
        ValueError: on mismatching or empty arrays, non-finite entries, fewer than two distinct
            training points (the second distance would be infinite), or parameters out of range.

    Source: Yoon et al. 2023 (the ratio 1/3).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> data, null = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[0.4], [1.6], [0.1]])
        >>> print(sj.memorization_fraction(jnp.array([[0.01], [1.5]]), data, null=null))
        0.50 [0.09, 0.91], null 0.33 [0.06, 0.79]
    """
    if not is_concrete(samples, data, null):
        raise ValueError(
            "`memorization_fraction` merges duplicate training points, so the shapes depend on the "
            "values: call it outside of jax.jit and jax.vmap."
        )
    if not 0 < ratio <= 1:
        raise ValueError(f"`ratio` must be in (0, 1]; got {ratio}.")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be in (0, 1); got {confidence}.")
    samples, data, null = as_points(samples, "samples"), as_points(data), as_points(null, "null")
    if not samples.shape[1] == data.shape[1] == null.shape[1]:
        raise ValueError(
            "`samples`, `data` and `null` must have the same dimension; "
            f"got shapes {samples.shape}, {data.shape} and {null.shape}."
        )
    distinct = _distinct(data)
    if distinct.shape[0] < 2:
        raise ValueError(
            "`data` must hold at least two distinct points, since the distance to the second "
            f"nearest is needed; got {distinct.shape[0]} distinct of {data.shape[0]}."
        )

    m, m0 = samples.shape[0], null.shape[0]
    dtype = common_dtype(samples.dtype, null.dtype)
    both = jnp.concatenate([samples.astype(dtype), null.astype(dtype)])
    first, second = nearest_neighbours(both, distinct, 2)[0].T
    # A point on a training point has ratio 0 even where the second distance underflows to 0.
    ratios = jnp.where(first <= 0, 0, first / jnp.where(second <= 0, 1, second))

    def fraction(ratios: Array, num: int) -> tuple[Array, Array, Array]:
        count = jnp.sum(ratios < ratio)
        successes, trials = (jnp.asarray(x, ratios.dtype) for x in (count, num))
        return successes / trials, wilson_interval(successes, trials, confidence), count

    sample_fraction, interval, count = fraction(ratios[:m], m)
    null_fraction, null_interval, null_count = fraction(ratios[m:], m0)
    return MemorizationFraction(
        fraction=sample_fraction,
        interval=interval,
        count=count,
        num_samples=m,
        null_fraction=null_fraction,
        null_interval=null_interval,
        null_count=null_count,
        num_null=m0,
        ratio=ratio,
        confidence=confidence,
        ratios=ratios[:m],
        null_ratios=ratios[m:],
        distances=first[:m],
        null_distances=first[m:],
    )


def _distinct(data: Float[Array, "n d"]) -> Float[Array, "distinct d"]:
    """The rows without exact duplicates, in order of first occurrence."""
    # Adding zero turns -0 into +0, so that equal numbers have equal bytes, which sort as one item.
    rows = np.ascontiguousarray(np.asarray(data) + 0)
    as_bytes = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]
    return jnp.asarray(rows[np.sort(np.unique(as_bytes, return_index=True)[1])])
