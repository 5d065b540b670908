"""Training sets of different sizes in arrays of one shape."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._checks import as_points, as_positive_integer
from ..._kinds import checks_kinds


@checks_kinds
def padded_to(data: Any, num: int) -> tuple[Float[Array, "num d"], Float[Array, " num"]]:
    """A training set filled up to `num` points, and weights: one for its points, zero for those that fill up.

    For `EmpiricalDenoiser(*padded_to(data, num))` and others that take weights: the law, and the denoiser to rounding, is
    that of `data` alone, but the arrays have one shape for training sets of all sizes up to `num`. So a sweep over sizes
    compiles once. Each call costs as much as with `num` points: it pays where compiling takes longer than that.

    Args:
        data: training points, shape (n, d), in data units.
        num: points in the result, n or more.

    Returns:
        The points of `data`, then the same again in order, shape (num, d); and the weights, shape (num,).

    Raises:
        ValueError: for a wrong shape, a training set that is empty or not finite, or a `num` below n.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> denoise = jax.jit(lambda denoiser, u: denoiser(u, 1.0))  # compiled once for both:
        >>> for n in (10, 20):
        ...     points = jax.random.normal(jax.random.key(n), (n, 2))
        ...     x = denoise(sj.EmpiricalDenoiser(*sj.padded_to(points, 20)), points[0])
    """
    data = as_points(data)
    num, n = as_positive_integer(num, "num"), data.shape[0]
    if num < n:
        raise ValueError(f"`num` must be at least the number of points, {n}; got {num}.")
    # Points of the set itself: others would move the centre and widen the radius, on which rounding depends.
    rows = jnp.arange(num)
    return data[rows % n], (rows < n).astype(data.dtype)
