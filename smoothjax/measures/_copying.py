"""Whether samples lie nearer to the training points than fresh points do."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import as_points
from .._kinds import checks_kinds
from ._neighbours import nearest_neighbours
from ._rank_test import RankTest, rank_test
from ._registry import SampleMeasure, register


@checks_kinds
def copying_test(
    samples: Float[Array, "m d"], train: Float[Array, "n d"], held_out: Float[Array, "k d"]
) -> RankTest:
    """Are samples nearer to the training set than held-out points are? A test of the distances' ranks.

    If samples were drawn from the law of the data, their distances to the nearest training point and those of held-out
    points would be exchangeable, whatever that law and however many training points there are: the p-value is uniform then.
    Small p-values mean copies. A p-value near one means samples that are farther than fresh data: underfitting.

    Args:
        samples: what a model generated, shape (m, d), in data units.
        train: training points, shape (n, d).
        held_out: points of the data's law that the model has not seen, shape (k, d).

    Raises:
        ValueError: for bad shapes or values.

    Source: Meehan, Chaudhuri and Dasgupta 2020, "A non-parametric test to detect data-copying in generative models".

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> points = jax.random.normal(jax.random.key(0), (200, 3))
        >>> train, held_out = points[:100], points[100:]
        >>> bool(sj.measures.copying_test(train[:50], train, held_out).p_value < 1e-6)
        True
    """
    samples, train = as_points(samples, "samples"), as_points(train, "train")
    held_out = as_points(held_out, "held_out")
    for name, points in (("samples", samples), ("held_out", held_out)):
        if points.shape[1] != train.shape[1]:
            raise ValueError(
                f"`{name}` must have dimension {train.shape[1]}, as `train` has; got {points.shape[1]}."
            )
    return rank_test(
        nearest_neighbours(samples, train, 1)[0][:, 0],
        nearest_neighbours(held_out, train, 1)[0][:, 0],
    )


def _of_samples(
    samples: Float[Array, "m d"],
    train: Float[Array, "n d"],
    held_out: Float[Array, "k d"],
    key: PRNGKeyArray,
) -> Mapping[str, Any]:
    found = copying_test(samples, train, held_out)
    return {"copying": found.share_below, "copying_p_value": found.p_value}


register(
    SampleMeasure(
        "copying",
        "Whether samples lie nearer to training points than fresh points do",
        "nearer than fresh",
        "Nearer than fresh: probability that a sample is nearer to its nearest training point than a held-out point is to "
        "its own, one half if samples are like fresh data; with the p-value of Mann and Whitney's test that they are no "
        "nearer.",
        _of_samples,
        unit="probability",
        limits=(-0.02, 1.02),
    )
)
