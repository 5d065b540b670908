"""What a certified approximation of a posterior mean returns."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class CertifiedMean(NamedTuple):
    """A posterior mean, and bounds of its error in Euclidean norm, data units."""

    value: Float[Array, " d"]
    """The posterior mean of the points that were visited."""
    truncation: Float[Array, ""]
    """Bound of what the points that were left out would change; zero where none was."""
    rounding: Float[Array, ""]
    """Bound of what rounding changes. A worst case over all orders of summation: typically a hundred times too large."""
    visited: Int[Array, ""]
    """Points that were weighed exactly."""
