r"""Partial posteriors over disjoint parts of one training set, and their exact merge.

Each part gives sums over its points, relative to the logit of an anchor `a_i`: one of its points, or the centre where the
matrix product can be trusted. Merging by the parts' log evidences would subtract terms of size `|u - y|^2 / 2 sigma^2`, of
which float32 keeps none of the digits that decide between parts. The anchors' logits differ by

    (u - (a_i + a) / 2) . (a_i - a) / sigma^2,

formed from differences, as precisely as points are weighed within a part (see `_anchored`). The centre is an
anchor like any other there, so that it does not matter whether all parts trust the product.

The parts must have the centre and the radius of the whole set, and prior weights normalised over the whole set (or none at
all). A part may be empty, or have points of weight zero only.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from .anchored import Anchor, anchored_logit, no_anchor
from .first_pass import Sums, first_pass
from .point_posterior import PosteriorSummary, summarise
from .point_set import PointSet


class PartialPosterior(NamedTuple):
    """The posterior weights of a part of a training set, up to a factor that is common to all parts."""

    anchor: Anchor  # `row` counts within the part
    sums: Sums


def partial_posterior(
    part: PointSet, u: Float[Array, " d"], sigma: Float[Array, ""]
) -> PartialPosterior:
    """Weighs one part of the training set. Under `vmap` over `u` and `sigma`, one matrix product a chunk."""
    return PartialPosterior(*first_pass(part, u, sigma))


def empty(centre: Float[Array, " d"], dtype: Any) -> PartialPosterior:
    """The partial posterior of no points, about the centre of the whole set: merging it changes nothing."""
    zero = jnp.zeros((), dtype)
    lowest = jnp.asarray(jnp.finfo(dtype).min / 4, dtype)
    sums = Sums(lowest, zero, jnp.zeros_like(centre, dtype), zero, zero, zero)
    return PartialPosterior(no_anchor(centre, dtype), sums)


def merge(
    parts: PartialPosterior, u: Float[Array, " d"], sigma: Float[Array, ""]
) -> tuple[PartialPosterior, Int[Array, ""]]:
    """The partial posterior of the union of disjoint parts, and whose anchor it has.

    Args:
        parts: stacked along a new first axis of every array. The order changes rounding only.
        u: the noisy point, data units, shape (d,).
        sigma: its noise level, data units.

    **float32**: two parts' weights are off by `4 eps |u - (a + b)/2| |a - b| / sigma^2` against each other, a and b their
    anchors: no more than two points of one part.
    """
    anchors, sums = parts
    some = sums.normaliser > 0
    # The best anchor as the product gives it, as within a part: the others are precise relative to it.
    score = jnp.where(some, anchors.product_logit + anchors.log_weight, -jnp.inf)
    owner = jnp.argmax(score)
    anchor = jax.tree.map(lambda x: x[owner], anchors)
    shift = jnp.where(some, anchored_logit(anchors.point, u, anchor.point, sigma), 0)
    top = jnp.where(some, sums.highest + shift, -jnp.inf)
    # All parts can be empty; what is largest of nothing must stay finite.
    highest = jnp.maximum(jnp.max(top), jnp.finfo(u.dtype).min / 4)
    keep = jnp.where(some, jnp.exp(top - highest), 0)

    def total(values: Array) -> Array:
        # Not a dot product: elementwise sums of few terms have the same order on every device.
        factor = keep.reshape(-1, *(1,) * (values.ndim - 1))
        return jnp.sum(jnp.where(factor > 0, values * factor, 0), axis=0)

    merged = Sums(
        highest,
        total(sums.normaliser),
        total(sums.point),
        total(sums.logit + shift * sums.normaliser),
        total(sums.log_weight),
        total(sums.half_square),
    )
    return PartialPosterior(anchor, merged), owner


def merge_over_devices(
    part: PartialPosterior, u: Float[Array, " d"], sigma: Float[Array, ""], axis_name: str
) -> PartialPosterior:
    """`merge` of what the devices along a mesh axis have, the same to the last bit on each; inside `jax.shard_map`.

    The anchor's `row` counts within this device's part, and is -1 on all devices but its own.
    """
    (anchor, sums), owner = merge(lax.all_gather(part, axis_name), u, sigma)
    here = lax.axis_index(axis_name) == owner.astype(jnp.int32)
    row = jnp.where(here, anchor.row, -1)
    return PartialPosterior(anchor._replace(row=row), sums)


def summary(
    whole: PartialPosterior,
    centre: Float[Array, " d"],
    u: Float[Array, " d"],
    sigma: Float[Array, ""],
) -> PosteriorSummary:
    """What a denoiser reads off the merged posterior, about the centre of the whole set."""
    return summarise(centre, u, sigma, *whole)
