"""How far samples are from the training set, in units of their own size."""

import equinox as eqx
from jaxtyping import Array, Float

from .._checks import as_points, checked
from .._kinds import checks_kinds
from .._numerics import done_now, norm
from ._estimate import Estimate, mean_estimate
from ._neighbours import nearest_neighbours


class GeneralizationScore(eqx.Module):
    """The generalization score of samples, next to that of held-out points; see `generalization_score`.

    Attributes:
        score: of the samples.
        null: of the held-out points.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> data, null = jnp.array([[1.0], [3.0]]), jnp.array([[2.0], [4.0]])
        >>> found = sj.generalization_score(data, data, null=null)
        >>> found.score.value.tolist(), bool(found.null.value > 0)  # copies are at no distance
        (0.0, True)
    """

    score: Estimate
    null: Estimate


@checks_kinds
def generalization_score(
    samples: Float[Array, "m d"], data: Float[Array, "n d"], *, null: Float[Array, "m0 d"]
) -> GeneralizationScore:
    """Mean distance to the nearest training point, relative to the sample's norm: the mean of |x - NN(x)| / |x|.

    0 for copies of training points. Larger is not better: noise scores high. What novel points of the data law score is what
    `null` scores, fresh points of the law that were held out from training, and the score is to be read next to theirs. It
    depends on where the origin is and on the number of training points; Euclidean distances between images see brightness
    first and shifts hardly at all. For another distance give features in place of points.

    The standard errors are over samples and over held-out points, with the training set given.

    Args:
        samples: generated points, none of them at the origin, shape (m, d), m >= 2.
        data: training points, shape (n, d).
        null: held-out points, none of them at the origin, shape (m0, d), m0 >= 2.

    Raises:
        ValueError: on mismatching or empty arrays, non-finite entries, fewer than two samples or null points, or one at the
            origin. (Inside `jax.jit` the last raises when the function runs.)

    Source: Li, Dai and Qu 2024.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> data, null = jnp.array([[1.0], [3.0]]), jnp.array([[2.0], [4.0]])
        >>> print(sj.generalization_score(jnp.array([[1.0], [2.0]]), data, null=null).score.value)  # (0 + 1/2) / 2
        0.25
    """
    data = done_now(as_points, data)

    def score(points: Array, name: str) -> Estimate:
        points = done_now(as_points, points, name)
        if points.shape[0] < 2 or points.shape[1] != data.shape[1]:
            raise ValueError(
                f"`{name}` must have shape (m, {data.shape[1]}) with m >= 2, the dimension of `data`; "
                f"got {points.shape}."
            )
        sizes = norm(points)
        sizes = checked(sizes, sizes == 0, f"`{name}` must not hold the origin, whose norm is zero")
        return mean_estimate(nearest_neighbours(points, data, 1)[0][:, 0] / sizes)

    return GeneralizationScore(score(samples, "samples"), score(null, "null"))
