"""Is one sample smaller than another? By ranks, whatever their law."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import as_float_array, require_finite
from .._kinds import checks_kinds
from ._estimate import Estimate


class RankTest(eqx.Module):
    """Whether values of one sample tend to lie below those of another: made by `rank_test`.

    Attributes:
        p_value: probability of ranks as low as these, or lower, if both samples were drawn alike; one-sided, shape ().
        share_below: probability that a value of the first lies below one of the second, ties counting half: 1/2 if drawn
            alike. Its standard error holds whether they are or not; it is NaN for a sample of one value.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> found = sj.measures.rank_test(jnp.arange(5.0), 10 + jnp.arange(5.0))
        >>> print(found.share_below.value, f"{found.p_value:.3f}")  # 1 in 252
        1.0 0.004
    """

    p_value: Float[Array, ""]
    share_below: Estimate


@checks_kinds
def rank_test(first: Float[Array, " m"], second: Float[Array, " n"]) -> RankTest:
    """Mann and Whitney's test that `first` is not drawn from smaller values than `second`, one-sided.

    Under the null, that all m + n values are exchangeable, the p-value is uniform but for its steps: exact for small samples
    without ties, by the normal approximation with correction for ties otherwise, whose error is of the order 1/m + 1/n.

    Args:
        first, second: finite numbers, shapes (m,) and (n,), at least one each.

    Raises:
        ValueError: for other shapes or values that are not finite.

    Source: Mann and Whitney 1947; the standard error of the share is that of DeLong et al. 1988.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.measures.rank_test(jnp.array([1.0, 2.0]), jnp.array([1.0, 2.0])).share_below.value)
        0.5
    """
    dtype = as_float_array(first, "first").dtype
    low, high = _sample(first, "first"), _sample(second, "second")
    from scipy import stats

    if np.ptp(np.concatenate([low, high])) == 0:
        p_value = 1.0  # all ties: nothing is below anything
    else:
        p_value = float(stats.mannwhitneyu(low, high, alternative="less").pvalue)
    ordered, other = np.sort(high), np.sort(low)

    def below(values: np.ndarray, sorted_: np.ndarray) -> np.ndarray:
        """For each value the share of the sorted ones that lie below, ties counting half."""
        left = np.searchsorted(sorted_, values, "left")
        return 0.5 * (left + np.searchsorted(sorted_, values, "right")) / len(sorted_)

    of_first, of_second = 1 - below(low, ordered), below(high, other)
    parts = [np.var(x, ddof=1) / len(x) if len(x) > 1 else np.nan for x in (of_first, of_second)]
    share = Estimate(jnp.asarray(of_first.mean(), dtype), jnp.asarray(np.sqrt(sum(parts)), dtype))
    return RankTest(jnp.asarray(p_value, dtype), share)


def _sample(values: Any, name: str) -> np.ndarray:
    values = as_float_array(values, name)
    if values.ndim != 1 or values.shape[0] == 0:
        raise ValueError(f"`{name}` must have shape (m,) with m >= 1; got {values.shape}.")
    require_finite(values, name)
    return np.asarray(values, np.float64)
