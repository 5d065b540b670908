"""The small point sets of the papers, in data coordinates."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from .._checks import as_key, as_positive_integer
from .._kinds import checks_kinds
from ._dataset import Dataset, as_float_dtype


@dataclasses.dataclass(frozen=True)
class UniformOnSphere:
    """The uniform distribution on the sphere around the origin in R^dim: a `population`.

    Compares and hashes by value, so that equal data sets share one compilation.
    """

    dim: int
    radius: float
    dtype: np.dtype = dataclasses.field(repr=False)

    def __call__(self, key: PRNGKeyArray, num: int) -> Float[Array, "num d"]:
        shape = (as_positive_integer(num, "num"), self.dim)
        normal = jax.random.normal(key, shape, self.dtype)
        return self.radius * normal / jnp.linalg.norm(normal, axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class UniformOnSegment:
    """The uniform distribution on the segment from `start` to `end`: a `population`."""

    start: tuple[float, ...]
    end: tuple[float, ...]
    dtype: np.dtype = dataclasses.field(repr=False)

    def __call__(self, key: PRNGKeyArray, num: int) -> Float[Array, "num d"]:
        fraction = jax.random.uniform(key, (as_positive_integer(num, "num"), 1), self.dtype)
        start, end = (jnp.asarray(point, self.dtype) for point in (self.start, self.end))
        return start[None] + fraction * (end - start)[None]


@checks_kinds
def two_points(*, dtype: DTypeLike | None = None) -> Dataset:
    """The two points -1 and +1 on the line: `points` of shape (2, 1).

    The simplest case of Chen, "On the interpolation effect of score smoothing in diffusion models"
    (ICLR 2026).

    Args:
        dtype: float32 or float64; by default that of JAX.

    Returns:
        The data set; its population is uniform on [-1, 1], the segment the points lie on.

    Raises:
        ValueError: If `dtype` is not float32 or float64, or float64 without 64-bit mode.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smoothjax import datasets
        >>> data = datasets.two_points()
        >>> print(data.points[:, 0])
        [-1.  1.]
        >>> bool(jnp.all(jnp.abs(data.population(jax.random.key(0), 100)) <= 1))  # the segment between them
        True
    """
    return _on_the_line("two-points", np.array([-1.0, 1.0]), dtype)


@checks_kinds
def three_points(*, dtype: DTypeLike | None = None) -> Dataset:
    """The three points -1, 0 and +1 on the line: `points` of shape (3, 1).

    The 1-D example of Vastola, "Generalization through variance" (ICLR 2025), Fig. 2.

    Args:
        dtype: float32 or float64; by default that of JAX.

    Returns:
        The data set; its population is uniform on [-1, 1], the segment the points lie on.

    Raises:
        ValueError: If `dtype` is not float32 or float64, or float64 without 64-bit mode.

    Example:
        >>> from smoothjax import datasets
        >>> print(datasets.three_points().points[:, 0])
        [-1.  0.  1.]
    """
    return _on_the_line("three-points", np.array([-1.0, 0.0, 1.0]), dtype)


@checks_kinds
def segment(num_points: int, *, dtype: DTypeLike | None = None) -> Dataset:
    """Evenly spaced points on [-1, 1], both ends included: `points` of shape (num_points, 1).

    Args:
        num_points: How many, at least 2. The spacing is `2 / (num_points - 1)`.
        dtype: float32 or float64; by default that of JAX.

    Returns:
        The data set, in increasing order; its population is uniform on [-1, 1].

    Raises:
        ValueError: If there are fewer than two points or `dtype` is not usable.

    Example:
        >>> from smoothjax import datasets
        >>> print(datasets.segment(5).points[:, 0])
        [-1.  -0.5  0.   0.5  1. ]
    """
    num = _at_least(num_points, 2)
    # Odd integers over n - 1: symmetric about 0 to the last bit, which linspace is not.
    positions = np.arange(-(num - 1), num, 2) / (num - 1)
    return _on_the_line("segment", positions, dtype)


@checks_kinds
def polygon(
    num_points: int,
    radius: float = 1.0,
    rotation: float = 0.0,
    *,
    dtype: DTypeLike | None = None,
) -> Dataset:
    """The vertices of a regular polygon around the origin: `points` of shape (num_points, 2).

    Vertex `k` lies at the angle `rotation + 2 pi k / num_points`.

    Args:
        num_points: How many vertices, at least 3.
        radius: Of the circumscribed circle, in data units.
        rotation: Angle of the first vertex, in radians.
        dtype: float32 or float64; by default that of JAX.

    Returns:
        The data set, counterclockwise; its population is uniform on the circumscribed circle.

    Raises:
        ValueError: If there are fewer than three vertices, the radius is not positive and finite,
            the rotation is not finite, or `dtype` is not usable.

    Example:
        >>> from smoothjax import datasets
        >>> print(datasets.polygon(4, radius=2.0).points.round(5) + 0.0)
        [[ 2.  0.]
         [ 0.  2.]
         [-2.  0.]
         [ 0. -2.]]
    """
    num = _at_least(num_points, 3)
    radius, rotation = float(radius), float(rotation)
    if not (math.isfinite(radius) and radius > 0):
        raise ValueError(f"`radius` must be positive and finite; got {radius}.")
    if not math.isfinite(rotation):
        raise ValueError(f"`rotation` must be finite; got {rotation}.")
    angles = rotation + 2 * np.pi * np.arange(num) / num
    vertices = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    dtype = as_float_dtype(dtype)
    population = UniformOnSphere(2, radius, dtype)
    return Dataset("polygon", vertices.astype(dtype), population=population)


@checks_kinds
def circle(num_points: int, key: PRNGKeyArray, *, dtype: DTypeLike | None = None) -> Dataset:
    """Independent uniform points on the unit circle: `points` of shape (num_points, 2).

    Args:
        num_points: How many.
        key: A JAX random key.
        dtype: float32 or float64; by default that of JAX.

    Returns:
        The data set; its population is uniform on the unit circle. Drawing from it
        with the same key does not return the training points.

    Raises:
        ValueError: If `num_points` is not a positive integer or `dtype` is not usable.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smoothjax import datasets
        >>> data = datasets.circle(5, jax.random.key(0))
        >>> print(jnp.linalg.norm(data.points, axis=1).round(5))
        [1. 1. 1. 1. 1.]
    """
    key = as_key(key)
    return _random_sphere("circle", num_points, 2, key, dtype)


@checks_kinds
def sphere(
    num_points: int, dim: int, key: PRNGKeyArray, *, dtype: DTypeLike | None = None
) -> Dataset:
    """Independent uniform points on the unit sphere in R^dim: `points` (num_points, dim).

    Args:
        num_points: How many.
        dim: Dimension of the space around the sphere, which itself has `dim - 1`.
        key: A JAX random key.
        dtype: float32 or float64; by default that of JAX.

    Returns:
        The data set; its population is uniform on the unit sphere. Drawing from it
        with the same key does not return the training points.

    Raises:
        ValueError: If `num_points` or `dim` is not a positive integer or `dtype` is not usable.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smoothjax import datasets
        >>> data = datasets.sphere(2, 10, jax.random.key(0))
        >>> data.points.shape, jnp.linalg.norm(data.points, axis=1).round(5).tolist()
        ((2, 10), [1.0, 1.0])
    """
    key = as_key(key)
    return _random_sphere("sphere", num_points, dim, key, dtype)


# Vastola, "Generalization through variance" (ICLR 2025), Fig. 1.
_HALF_SQRT_3 = 0.8660254037844386
_VARIANCE_PAPER = {
    "polygon": (
        (1.0, 0.0),
        (0.5, _HALF_SQRT_3),
        (-0.5, _HALF_SQRT_3),
        (-1.0, 0.0),
        (-0.5, -_HALF_SQRT_3),
        (0.5, -_HALF_SQRT_3),
    ),
    "line": ((-1.0, -1.0), (-0.6, -0.6), (-0.2, -0.2), (0.2, 0.2), (0.6, 0.6), (1.0, 1.0)),
    "blend": ((-1.0, -1.0), (-1.0, 0.0), (-1.0, 1.0), (0.0, -1.0), (0.5, -1.0), (1.0, -1.0)),
    "random": ((-1.0, -1.0), (-0.9, 1.0), (-0.3, 0.2), (0.1, -0.1), (0.2, -0.1), (0.9, 0.7)),
}


@checks_kinds
def variance_paper_set(
    kind: Literal["polygon", "line", "blend", "random"], *, dtype: DTypeLike | None = None
) -> Dataset:
    """One of the four 2-D sets of six points of the variance paper: `points` of shape (6, 2).

    Args:
        kind: "polygon", the regular hexagon of radius 1; "line", evenly spaced on the diagonal
            from (-1, -1) to (1, 1); "blend", on two sides of a square that meet in a corner;
            "random", in no special position (a fixed set: nothing is drawn).
        dtype: float32 or float64; by default that of JAX.

    Returns:
        The data set. Its population is uniform on the circumscribed circle for "polygon", on the
        diagonal for "line", and None for the other two, which are not a subset of anything
        distinguished.

    Raises:
        ValueError: If `kind` is none of the four or `dtype` is not usable.

    Source: Vastola, ICLR 2025, Figure 1.

    Example:
        >>> from smoothjax import datasets
        >>> print((5 * datasets.variance_paper_set("line").points).round(5)[:3])  # on the diagonal
        [[-5. -5.]
         [-3. -3.]
         [-1. -1.]]
    """
    if kind not in _VARIANCE_PAPER:
        raise ValueError(f"`kind` must be one of {', '.join(_VARIANCE_PAPER)}; got {kind!r}.")
    dtype = as_float_dtype(dtype)
    population = {
        "polygon": UniformOnSphere(2, 1.0, dtype),
        "line": UniformOnSegment((-1.0, -1.0), (1.0, 1.0), dtype),
    }.get(kind)
    points = np.array(_VARIANCE_PAPER[kind], dtype)
    return Dataset("hexagon" if kind == "polygon" else kind, points, population=population)


def _on_the_line(name: str, positions: np.ndarray, dtype: DTypeLike | None) -> Dataset:
    dtype = as_float_dtype(dtype)
    population = UniformOnSegment((-1.0,), (1.0,), dtype)
    return Dataset(name, positions[:, None].astype(dtype), population=population)


def _random_sphere(
    name: str, num_points: int, dim: int, key: PRNGKeyArray, dtype: DTypeLike | None
) -> Dataset:
    num_points = as_positive_integer(num_points, "num_points")
    population = UniformOnSphere(as_positive_integer(dim, "dim"), 1.0, as_float_dtype(dtype))
    # A derived key: whoever draws fresh points with `key` itself must not get these again.
    points = population(jax.random.fold_in(key, 0), num_points)
    return Dataset(name, points, population=population)


def _at_least(num_points: int, minimum: int) -> int:
    if as_positive_integer(num_points, "num_points") < minimum:
        raise ValueError(f"`num_points` must be at least {minimum}; got {num_points}.")
    return int(num_points)
