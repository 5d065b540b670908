"""What is certified of a posterior: its mean, and how far one point outweighs the others."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class CertifiedMean(NamedTuple):
    """A posterior mean, and bounds of its error in Euclidean norm, data units.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.TruncatedDenoiser(jnp.array([[-1.0], [1.0]]))
        >>> found = D.certified(jnp.array([0.5]), 1.0)
        >>> bool(abs(found.value[0] - jnp.tanh(0.5)) <= found.truncation + found.rounding)
        True
    """

    value: Float[Array, " d"]
    """The posterior mean of the points that were visited."""
    truncation: Float[Array, ""]
    """Bound of what the points that were left out would change; zero where none was."""
    rounding: Float[Array, ""]
    """Bound of what rounding changes, never exceeded. A worst case over all orders of summation: typically a hundred times
    what a relative rounding of points, result and query does, and up to about n times in sums over n points, whose errors
    cancel. Larger yet, by up to `60 d`, where d-dimensional products weigh points that nearly tie; and, where a tree is used
    (very many points in at most three dimensions), at noise levels far above the spread of most points and below that of
    all, as the points within reach are then taken to be as far apart as that."""
    visited: Int[Array, ""]
    """Points that were weighed exactly."""
