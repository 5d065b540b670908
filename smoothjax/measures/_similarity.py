"""How alike two models generate from the same noise."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._checks import as_points
from .._jax.precision import common_dtype
from .._kinds import checks_kinds
from .._numerics import as_centre, done_now, norm, safe_sqrt
from ._estimate import Estimate, jackknife_error, mean_estimate, root_of_mean
from ._neighbours import nearest_neighbours


class SameNoiseSimilarity(eqx.Module):
    """Likeness of endpoints from the same noises, and of endpoints from different ones; see `same_noise_similarity`.

    Attributes:
        rms: root mean square difference per coordinate of endpoints from the same noise.
        cosine: mean centred cosine of endpoints from the same noise.
        shuffled_rms: `rms` over all pairs of endpoints from different noises.
        shuffled_cosine: `cosine` over all pairs of endpoints from different noises.
        normalised_cosine: `(cosine - shuffled_cosine) / (1 - shuffled_cosine)`: 0 if the noise does not matter, 1 if both
            models are the same.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> found = sj.same_noise_similarity(x, x + 3.0, centre=jnp.zeros(2))
        >>> round(float(found.rms.value), 5)
        3.0
    """

    rms: Estimate
    cosine: Estimate
    shuffled_rms: Estimate
    shuffled_cosine: Estimate
    normalised_cosine: Estimate


@checks_kinds
def same_noise_similarity(
    first: Float[Array, "n d"], second: Float[Array, "n d"], *, centre: Float[Array, " d"]
) -> SameNoiseSimilarity:
    """Likeness of what two models generate from the same n noises, with the baseline of different noises.

    The cosine is that of `x - centre` and `x' - centre`: without a common centre it would mostly be that of the mean image
    with itself. Any two models of the same data agree to some extent for different noises too; the baseline is that over all
    n (n - 1) pairs of different noises, not over one shuffle, at a cost of O(n d).

    Standard errors are over noises, for the baselines and the normalised cosine by the jackknife that leaves one noise out
    of both sets. (Where the baseline fluctuates to second order only, as about the set's own mean, that is an upper bound.)
    Endpoints are compared as they are: both models need the same sampler, grid and largest noise level. For a similarity of
    features give those. An endpoint exactly at the centre has cosine 0 with everything.

    Args:
        first: endpoints of one model, shape (n, d), n >= 3.
        second: endpoints of the other, row i from the same noise as row i of `first`.
        centre: a common centre, shape (d,): the mean of the training data of both, say.

    Raises:
        ValueError: on shapes that do not match, fewer than three rows, or non-finite entries.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> found = sj.same_noise_similarity(x, 2 * x, centre=jnp.zeros(2))
        >>> round(float(found.cosine.value), 6), round(float(found.shuffled_cosine.value), 6)
        (1.0, -0.333333)
    """
    first, second = _endpoints((first, "first"), (second, "second"))
    return _similarity(first, second, as_centre(centre, first))


@jax.jit
def _similarity(first: Array, second: Array, centre: Array) -> SameNoiseSimilarity:
    n, d = first.shape
    x, y = first - centre[None], second - centre[None]
    squares = jnp.mean((first - second) ** 2, axis=1)
    cosines = _cosine(x, y)

    # |x_i - y_j|^2 is a sum of inner products of these rows.
    # From the middle of all endpoints: the given centre may be far from them, and squares from it would cancel.
    middle = jnp.mean(0.5 * (x + y), axis=0, keepdims=True)
    of_x, of_y = x - middle, y - middle
    size_x = jnp.sum(of_x**2, axis=1, keepdims=True) / d
    size_y = jnp.sum(of_y**2, axis=1, keepdims=True) / d
    one = jnp.ones_like(size_x)
    rows_x = jnp.concatenate([size_x, one, -2 / d * of_x], axis=1)
    rows_y = jnp.concatenate([one, size_y, of_y], axis=1)
    shuffled_square, squares_left_out = _over_pairs(rows_x, rows_y, squares)
    shuffled_cosine, cosines_left_out = _over_pairs(_unit(x), _unit(y), cosines)

    def normalised(cosine: Array, shuffled: Array) -> Array:
        # Endpoints that are all alike leave nothing to normalise.
        rest = 1 - shuffled
        return jnp.where(rest <= 0, 0, (cosine - shuffled) / jnp.where(rest <= 0, 1, rest))

    without_each = (jnp.sum(cosines) - cosines) / (n - 1)
    return SameNoiseSimilarity(
        rms=root_of_mean(squares, 2),
        cosine=mean_estimate(cosines),
        shuffled_rms=Estimate(
            safe_sqrt(shuffled_square),
            jackknife_error(safe_sqrt(squares_left_out)),
        ),
        shuffled_cosine=Estimate(shuffled_cosine, jackknife_error(cosines_left_out)),
        normalised_cosine=Estimate(
            normalised(jnp.mean(cosines), shuffled_cosine),
            jackknife_error(normalised(without_each, cosines_left_out)),
        ),
    )


def _over_pairs(a: Array, b: Array, matching: Float[Array, " n"]) -> tuple[Array, Array]:
    """Mean of a_i . b_j over i != j, with `matching` the terms i = j; and the same with each index left out."""
    n = a.shape[0]
    sum_a, sum_b = jnp.sum(a, axis=0), jnp.sum(b, axis=0)
    product = lambda x, y: jnp.matmul(x, y, precision=lax.Precision.HIGHEST)  # noqa: E731
    total = product(sum_a, sum_b) - jnp.sum(matching)
    # Pairs that hold i: all of row i and of column i but the matching one.
    of_each = product(a, sum_b) + product(b, sum_a) - 2 * matching
    return total / (n * (n - 1)), (total - of_each) / ((n - 1) * (n - 2))


class StrongGeneralization(eqx.Module):
    """Whether models of disjoint data generate the same, by several yardsticks; see `strong_generalization`.

    Attributes:
        models: similarity of the two models' endpoints.
        gaussians: similarity of the endpoints of the Gaussian models of the same two halves, from the same noises.
        excess_cosine: mean centred cosine of the models less that of the Gaussians, paired by noise. Negative if the models
            agree less than the halves' means and covariances do.
        first_neighbour_cosine: mean centred cosine of the first model's endpoints with their nearest point of its own half.
        second_neighbour_cosine: the same for the second model.
        nearer_each_other: fraction of endpoints, of both models, that are nearer to the other model's endpoint from the same
            noise than to the nearest training point of their own.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> x, far = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), jnp.array([[9.0, 9.0], [9.0, 8.0]])
        >>> found = sj.strong_generalization(x, x, x, x, first_data=far, second_data=-far)
        >>> float(found.nearer_each_other.value), round(abs(float(found.excess_cosine.value)), 5)
        (1.0, 0.0)
    """

    models: SameNoiseSimilarity
    gaussians: SameNoiseSimilarity
    excess_cosine: Estimate
    first_neighbour_cosine: Estimate
    second_neighbour_cosine: Estimate
    nearer_each_other: Estimate


@checks_kinds
def strong_generalization(
    first: Float[Array, "n d"],
    second: Float[Array, "n d"],
    first_gaussian: Float[Array, "n d"],
    second_gaussian: Float[Array, "n d"],
    *,
    first_data: Float[Array, "n1 d"],
    second_data: Float[Array, "n2 d"],
    centre: Float[Array, " d"] | None = None,
) -> StrongGeneralization:
    """Compares what models of disjoint halves of a data set generate: with each other, with the halves, and with Gaussians.

    Two models that had learned the law, and not their halves, would generate the same from the same noise. Short of that,
    three yardsticks: endpoints from different noises (in the similarities); the Gaussian models of the two halves, which
    know no more than mean and covariance and already agree well, better the larger the halves are; and each endpoint's
    nearest training point, to which a memorizing model is nearer than to the other model.

    The endpoints are the caller's: all four from the same noises with the same sampler, grid and largest noise level. Train
    the two models from different initialisations and on different noises as well as on different data, or what these have
    in common counts as generalization. Standard errors are over noises, with models and halves given; the two models'
    endpoints of one noise are one observation.

    Args:
        first: endpoints of the model of the first half, shape (n, d), n >= 3.
        second: endpoints of the model of the second half.
        first_gaussian: endpoints of the first half's Gaussian denoiser, such as `GaussianDenoiser.fit(first_data)`.
        second_gaussian: endpoints of the second half's Gaussian denoiser.
        first_data: the first half, shape (n1, d).
        second_data: the second half, shape (n2, d).
        centre: common centre of the cosines, shape (d,); by default the mean of both halves together.

    Raises:
        ValueError: on shapes that do not match, fewer than three endpoints, or non-finite entries.

    Source: Kadkhodaie, Guth, Simoncelli and Mallat 2024 (models of disjoint halves).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> first, second = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), jnp.ones((3, 2))
        >>> found = sj.strong_generalization(
        ...     first, second, first, first, first_data=first, second_data=second, centre=jnp.zeros(2)
        ... )
        >>> round(float(found.first_neighbour_cosine.value), 5), round(float(found.gaussians.cosine.value), 5)  # both copy
        (1.0, 1.0)
    """
    first, second, first_gaussian, second_gaussian = _endpoints(
        (first, "first"),
        (second, "second"),
        (first_gaussian, "first_gaussian"),
        (second_gaussian, "second_gaussian"),
    )
    halves = [
        done_now(as_points, half, name).astype(first.dtype)
        for half, name in ((first_data, "first_data"), (second_data, "second_data"))
    ]
    for half, name in zip(halves, ("first_data", "second_data"), strict=True):
        if half.shape[1] != first.shape[1]:
            raise ValueError(
                f"`{name}` must have dimension {first.shape[1]}, like the endpoints; got {half.shape}."
            )
    mu = as_centre(centre, jnp.concatenate(halves))

    found = [
        nearest_neighbours(points, half, 1)
        for points, half in zip((first, second), halves, strict=True)
    ]
    nearest = [half[index[:, 0]] for half, (_, index) in zip(halves, found, strict=True)]
    distances = jnp.stack([distance[:, 0] for distance, _ in found])
    nearer = jnp.mean((norm(first - second)[None] < distances).astype(first.dtype), axis=0)
    of_models = _cosine(first - mu[None], second - mu[None])
    of_gaussians = _cosine(first_gaussian - mu[None], second_gaussian - mu[None])
    return StrongGeneralization(
        models=_similarity(first, second, mu),
        gaussians=_similarity(first_gaussian, second_gaussian, mu),
        excess_cosine=mean_estimate(of_models - of_gaussians),
        first_neighbour_cosine=mean_estimate(_cosine(first - mu[None], nearest[0] - mu[None])),
        second_neighbour_cosine=mean_estimate(_cosine(second - mu[None], nearest[1] - mu[None])),
        nearer_each_other=mean_estimate(nearer),
    )


def _unit(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    length = norm(x)[:, None]
    return x / jnp.where(length > 0, length, 1)


def _cosine(x: Float[Array, "n d"], y: Float[Array, "n d"]) -> Float[Array, " n"]:
    return jnp.sum(_unit(x) * _unit(y), axis=1)


def _endpoints(*named: tuple[Any, str]) -> list[Array]:
    """Sets of endpoints of one shape (n, d), n >= 3, in their common dtype."""
    sets = [done_now(as_points, points, name) for points, name in named]
    shape = sets[0].shape
    for points, (_, name) in zip(sets, named, strict=True):
        if points.shape != shape or shape[0] < 3:
            raise ValueError(
                "Endpoints must have one shape (n, d), a row for each noise, and n >= 3; "
                f"got {shape} for `{named[0][1]}` and {points.shape} for `{name}`."
            )
    dtype = common_dtype(*sets)
    return [points.astype(dtype) for points in sets]
