"""Samples that are followed until their end is certain: what a denoiser knows of those that are still open."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float

from ..._jax.groups import Group, over_flagged

# Samples of a smoothing that are followed at once: many, and few.
GROUPS = 64, 8


class Followed(NamedTuple):
    """What a kind of denoiser knows of the samples that are still open."""

    call: Callable[[Array, Array, Array], tuple[Array, Any]]
    """`(u, sigma, open) -> (mean, found)`; anything for the others."""
    ends: Callable[[Any, Array, Array, Array, Array], tuple[Array, Array, Array]]
    """`(found, u, sigma, previous mean, open) -> (certain, points, rows)`."""
    rows_of: Callable[[Array], Array]
    """Rows of outputs at the last noise level of which nothing was certain."""


def of_some(
    function: Callable[[Array], Any],
    u: Float[Array, "batch d"],
    wanted: Bool[Array, " batch"],
    nothing: Any,
) -> Any:
    """`function` of a batch, of those that are wanted, in groups; `nothing` for the others."""

    def some(group: Group, result: Any) -> Any:
        return group.put(result, function(group.tied(u[group.taken])))

    return over_flagged(some, wanted, nothing, *GROUPS)
