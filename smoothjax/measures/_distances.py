"""Distances between two clouds of points: Fréchet, and Wasserstein on lines."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import (
    as_float_array,
    as_host_floats,
    as_key,
    as_points,
    as_positive_integer,
    is_concrete,
    require_finite,
)
from .._jax.blocks import in_batches
from .._jax.precision import common_dtype
from .._kinds import checks_kinds
from .._numerics import done_now, keys_by_index, norm
from ._estimate import Estimate, root_of_mean

_PROJECTIONS_AT_ONCE = 16


def _same_width(first: Array, second: Array) -> tuple[Array, Array]:
    """Both sets of points in their common dtype, of one dimension."""
    first = done_now(as_points, first, "first")
    second = done_now(as_points, second, "second")
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            "`first` and `second` must have the same dimension; "
            f"got shapes {first.shape} and {second.shape}."
        )
    dtype = common_dtype(first.dtype, second.dtype)
    return first.astype(dtype), second.astype(dtype)


@checks_kinds
def frechet_distance(first: Float[Array, "m p"], second: Float[Array, "n p"]) -> Float[Array, ""]:
    """Squared Wasserstein-2 distance between Gaussians fitted to two sets of features.

    |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1^(1/2) S2 S1^(1/2))^(1/2)), the number that is called FID when
    the features are those of an Inception network: *squared*, summed over the p coordinates. Its
    square root is the distance in feature units. Covariances are normalised by 1/m and 1/n; most
    FID code divides by m - 1 and n - 1.

    No covariance or product of covariances is formed, nor its square root. With factors S1 = A A^T
    and S2 = B B^T, taken from the QR decomposition of the centred features, the covariance part is
    the least of |A - B Q|_F^2 over orthogonal Q, which one singular value decomposition of B^T A
    attains. Evaluated as that sum of squares the result is non-negative and suffers no
    cancellation. The small modes of B^T A, whose rotation single precision would lose, can hold all
    of the distance: decompositions and sums are done in float64 by NumPy on the host, whatever the
    dtype of the features (inside of `jax.jit` by a callback). So the distance is that of the
    features as given, to a few roundings of float64 times |A| / distance. Singular covariances, as
    with fewer points than features, are no special case.

    The fit to finitely many points biases it upwards, by order p^2 (1/m + 1/n) times a variance:
    compare only values at equal sizes. Gradients through it are not supported (those of the
    decompositions are infinite for repeated singular values).

    Args:
        first: features, shape (m, p).
        second: features, shape (n, p).

    Raises:
        ValueError: on mismatching or empty arrays, or non-finite entries.

    Source: Dowson and Landau 1982.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> features = jnp.array([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]])
        >>> print(sj.frechet_distance(features, features + jnp.array([[3.0, 4.0]])).round(4))  # squared
        25.0
    """
    first, second = _same_width(first, second)
    if is_concrete(first) and is_concrete(second):
        with jax.ensure_compile_time_eval():
            return jnp.asarray(_frechet(np.asarray(first), np.asarray(second)))
    result = jax.ShapeDtypeStruct((), first.dtype)
    return jax.pure_callback(_frechet, result, first, second, vmap_method="sequential")


def _frechet(first: Any, second: Any) -> np.ndarray:
    """In float64 on the host, returned in the dtype of the features."""
    means, factors = [], []
    for points in (first, second):
        wide = np.asarray(points, np.float64)
        means.append(wide.mean(axis=0))
        # A with A A^T the covariance, of shape (p, min(n, p)).
        rows = (wide - means[-1]) / math.sqrt(wide.shape[0])
        factors.append(np.asarray(np.linalg.qr(rows, mode="r")).T)
    rank = max(factor.shape[1] for factor in factors)
    one, two = (np.pad(factor, ((0, 0), (0, rank - factor.shape[1]))) for factor in factors)
    left, _, right = np.linalg.svd(two.T @ one)
    total = np.sum((means[0] - means[1]) ** 2) + np.sum((one - two @ (left @ right)) ** 2)
    return np.asarray(total, np.asarray(first).dtype)


@checks_kinds
def wasserstein_1d(
    first: Float[Array, " m"], second: Float[Array, " n"], *, order: float = 2
) -> Float[Array, ""]:
    """Exact Wasserstein distance between two empirical laws on the line, in units of the values.

    (int_0^1 |F1^-1(q) - F2^-1(q)|^order dq)^(1/order), with each value of a set carrying the same
    mass. The two quantile functions are steps; the integral is a finite sum over their merged
    steps, and exact for sets of different sizes too.

    Args:
        first: values, shape (m,).
        second: values, shape (n,).
        order: p of the distance W_p, at least 1.

    Raises:
        ValueError: on empty or non-finite values, or an order below 1.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.wasserstein_1d(jnp.array([0.0, 2.0]), jnp.array([1.0])))
        1.0
    """
    order = _checked_order(order)
    if is_concrete(first) and is_concrete(second):
        # About a common value, which changes no distance, before numbers are rounded to JAX's dtype.
        first, second = _about_a_common_value(first, second)
    arrays = []
    for values, name in ((first, "first"), (second, "second")):
        arrays.append(done_now(_as_values, values, name))
    dtype = common_dtype(arrays[0].dtype, arrays[1].dtype)
    return _wasserstein(arrays[0].astype(dtype), arrays[1].astype(dtype), order)


@checks_kinds
def sliced_wasserstein(
    first: Float[Array, "m d"],
    second: Float[Array, "n d"],
    key: PRNGKeyArray,
    *,
    num_projections: int = 128,
    order: float = 2,
) -> Estimate:
    """Sliced Wasserstein distance between two clouds of points, in their units.

    (E_theta W_p(theta . first, theta . second)^p)^(1/p) over directions theta uniform on the unit
    sphere. It is smaller than the Wasserstein distance itself: a shift by s alone gives |s|/sqrt(d)
    for p = 2.

    The standard error is that over the random directions, by the delta method, with both clouds
    taken as given. It says nothing of the bias that finite clouds have: two samples of one law are
    not at distance zero. Direction j depends on `key` and j alone.

    Args:
        first: points, shape (m, d).
        second: points, shape (n, d).
        key: JAX random key.
        num_projections: number of directions, at least two.
        order: p, at least 1.

    Raises:
        ValueError: on mismatching or empty arrays, non-finite entries, fewer than two projections,
            or an order below 1.

    Source: Bonneel et al. 2015.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> points = jax.random.normal(jax.random.key(0), (20, 2))
        >>> found = sj.sliced_wasserstein(points, points + jnp.array([[3.0, 4.0]]), jax.random.key(1))
        >>> bool(abs(found.value - 5 / 2**0.5) < 4 * found.standard_error)  # |shift| / sqrt(d)
        True
    """
    key = as_key(key)
    order = _checked_order(order)
    num_projections = as_positive_integer(num_projections, "num_projections")
    if num_projections < 2:
        raise ValueError("`num_projections` must be at least 2, for a standard error; got 1.")
    return _sliced(*_same_width(first, second), key, num_projections, order)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _sliced(
    first: Array, second: Array, key: PRNGKeyArray, num_projections: int, order: float
) -> Estimate:
    # A common shift changes no distance, but the rounding of the projections.
    origin = jnp.mean(first, axis=0)
    first, second = first - origin[None], second - origin[None]

    keys = keys_by_index(key, num_projections)

    def one_direction(j: Array) -> Array:
        gaussian = jax.random.normal(keys[j], origin.shape, origin.dtype)
        direction = gaussian / norm(gaussian)
        project = lambda x: jnp.matmul(x, direction, precision=lax.Precision.HIGHEST)  # noqa: E731
        return _wasserstein(project(first), project(second), order)

    distances = in_batches(one_direction, num_projections, _PROJECTIONS_AT_ONCE)
    scale = lax.stop_gradient(jnp.max(distances))
    scale = jnp.where(scale > 0, scale, 1)
    root = root_of_mean((distances / scale) ** order, order)
    return Estimate(scale * root.value, scale * root.standard_error)


def _about_a_common_value(first: Any, second: Any) -> tuple[Any, Any]:
    """Both less the first's first value, in float64, then in their own dtypes; as they are where that has no meaning."""
    names = ("first", "second")
    wide = [as_host_floats(x, n, np.float64) for x, n in zip((first, second), names, strict=True)]
    if any(x.ndim != 1 or x.size == 0 or not np.all(np.isfinite(x)) for x in wide):
        return first, second
    own = [as_host_floats(x, n).dtype for x, n in zip((first, second), names, strict=True)]
    shifted, other = ((x - wide[0][0]).astype(t) for x, t in zip(wide, own, strict=True))
    return shifted, other


def _as_values(values: Any, name: str) -> Float[Array, " n"]:
    array = as_float_array(values, name)
    if array.ndim != 1 or array.shape[0] == 0:
        raise ValueError(f"`{name}` must be a non-empty vector; got shape {array.shape}.")
    require_finite(array, name)
    return array


def _checked_order(order: float) -> float:
    if not (1 <= order < math.inf):
        raise ValueError(f"`order` must be a finite number of at least 1; got {order}.")
    return float(order)


@functools.partial(jax.jit, static_argnums=2)
def _wasserstein(x: Float[Array, " m"], y: Float[Array, " n"], order: float) -> Float[Array, ""]:
    first, second, masses = _merged_steps(x.shape[0], y.shape[0])
    gaps = jnp.abs(jnp.sort(x)[first] - jnp.sort(y)[second])
    # The largest gap is taken out so that powers neither overflow nor underflow.
    scale = lax.stop_gradient(jnp.max(gaps))
    scale = jnp.where(scale > 0, scale, 1)
    mean = jnp.sum(jnp.asarray(masses, gaps.dtype) * (gaps / scale) ** order)
    positive = mean > 0
    return jnp.where(positive, scale * jnp.where(positive, mean, 1) ** (1 / order), 0)


def _merged_steps(m: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The steps common to two quantile functions: rank in each sorted set, and mass.

    From the sizes alone, so in exact integer arithmetic: quantiles in units of 1/lcm(m, n).
    """
    common = math.gcd(m, n)
    ends1 = np.arange(1, m + 1, dtype=np.int64) * (n // common)
    ends2 = np.arange(1, n + 1, dtype=np.int64) * (m // common)
    ends = np.union1d(ends1, ends2)
    masses = np.diff(ends, prepend=0) / ends[-1]
    return np.searchsorted(ends1, ends), np.searchsorted(ends2, ends), masses
