"""Has a denoiser memorised its training points? By the dimension that it sees at them and at others."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._calls import Denoiser, as_argument
from .._checks import RealScalar, as_points
from .._jax.blocks import in_batches
from .._jax.host_errors import raising_host_errors
from .._kinds import checks_kinds
from .._levels import as_level
from ..datasets import Dataset
from ..measures import RankTest, rank_test
from ._dimension import intrinsic_dimension

BATCH = 64


class DimensionTest(eqx.Module):
    """Dimensions that a denoiser sees at training points and at held-out points: made by `dimension_test`.

    Attributes:
        test: whether those at training points are lower, one-sided.
        p_values: shape (n,); for each training point the share of held-out points, and itself, whose dimension is as low:
            uniform or larger for a point that the denoiser treats as one it has not seen.
        train: shape (n,); dimensions at training points, less those of the reference if there is one.
        held_out: shape (m,); the same at held-out points.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> train, held_out = jnp.array([[0.0], [5.0]]), jnp.array([[1.0], [3.0], [4.0]])
        >>> found = sj.regimes.dimension_test(sj.EmpiricalDenoiser(train), train, held_out, 0.1)
        >>> print(found.train.round(3), found.p_values)
        [0. 0.] [0.25 0.25]
    """

    test: RankTest
    p_values: Float[Array, " n"]
    train: Float[Array, " n"]
    held_out: Float[Array, " m"]


@checks_kinds
@raising_host_errors
def dimension_test(
    denoiser: Denoiser,
    train: Any,
    held_out: Any,
    sigma: RealScalar,
    *,
    reference: Denoiser | None = None,
) -> DimensionTest:
    """Tests whether a denoiser sees a lower intrinsic dimension at its training points than at points it has not seen.

    A score that leads back to a point leaves no direction open there. If the denoiser does not depend on which points are
    the training points, dimensions at both are exchangeable, and all p-values are uniform but for their steps, whatever the
    law of the data and however the denoiser errs. With a reference, such as a denoiser of other points of the same law, the
    difference of dimensions is tested: what makes an image simple is then no sign of memorisation.

    Args:
        denoiser: any callable `(u, sigma) -> (d,)`; its derivatives are needed where it does not know its posterior variance
            (d products a point).
        train: training points, shape (n, d), or a `Dataset`; or as many of them as one cares to test.
        held_out: points of the same law, shape (m, d), or a `Dataset`.
        sigma: noise level, in data units: memorisation shows below that of collapse.
        reference: a denoiser that depends on neither.

    Raises:
        ValueError: for bad shapes or values, and a denoiser whose dimensions are not finite.

    Source: Ross et al. 2025, "A geometric framework for understanding memorization in generative models" (a model's
    dimension below the data's); the conformal p-values are ours.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> points = jax.random.normal(jax.random.key(0), (100, 3))
        >>> train, held_out = points[:50], points[50:]
        >>> found = sj.regimes.dimension_test(sj.EmpiricalDenoiser(train), train, held_out, 0.01)
        >>> bool(found.test.p_value < 1e-6), float(found.p_values.max()) < 0.1
        (True, True)
    """
    train, held_out = (
        as_points(data.points if isinstance(data, Dataset) else data, name)
        for data, name in ((train, "train"), (held_out, "held_out"))
    )
    if train.shape[1] != held_out.shape[1]:
        raise ValueError(
            f"`held_out` must have dimension {train.shape[1]}, as `train` has; got {held_out.shape[1]}."
        )
    level = jnp.asarray(as_level(sigma, "sigma", train.dtype))
    functions = [as_argument(denoiser)] + ([] if reference is None else [as_argument(reference)])
    values = [
        [_dimensions(function, points, level) for points in (train, held_out.astype(train.dtype))]
        for function in functions
    ]
    for name, found in zip(("denoiser", "reference"), values, strict=False):
        if not all(np.all(np.isfinite(np.asarray(x))) for x in found):
            raise ValueError(f"`{name}` must see finite dimensions; got some that are not.")
    at_train, at_others = values[0]
    if reference is not None:
        at_train, at_others = at_train - values[1][0], at_others - values[1][1]
    as_low = np.searchsorted(np.sort(np.asarray(at_others)), np.asarray(at_train), "right")
    p_values = jnp.asarray((1 + as_low) / (1 + len(at_others)), train.dtype)
    return DimensionTest(rank_test(at_train, at_others), p_values, at_train, at_others)


@eqx.filter_jit
def _dimensions(denoiser: Denoiser, points: Array, level: Array) -> Float[Array, " n"]:
    at = lambda i: intrinsic_dimension(denoiser, points[i], level)  # noqa: E731
    return in_batches(at, points.shape[0], BATCH)
