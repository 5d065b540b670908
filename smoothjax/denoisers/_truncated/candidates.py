r"""Attempts to find a posterior mean from few points, and bounds of what the others would change.

Upper bounds of every point's logit come from a product with few columns (a *screen*) or from the product itself. Either
each query weighs the points with its largest bounds, from differences, and adds up the bounds of all others; or all points
that matter to any query of a group are weighed for the whole group, by a product.
"""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ..._jax.largest import COLUMN, largest, leading_columns
from ..._jax.precision import HIGHEST
from .._posterior.anchored import anchored_terms
from .._posterior.concentration import Concentration
from .._posterior.point_set import PointSet
from .._posterior.product_logits import inner_products
from .certified import CertifiedMean
from .screen import Screen
from .shared_candidates import log_weight_from_below, shared_candidates


class Truncation(eqx.Module):
    """The points, and what may be left out of their posterior mean."""

    points: PointSet  # without weights
    farthest: Float[Array, ""]  # bound of the distances of the points from their centre
    tolerance: Float[Array, ""]  # of the mean, in Euclidean norm


class OwnCandidates(eqx.Module):
    """Each query of a group weighs the points with its own largest bounds."""

    screen: Screen | None  # None: the product itself
    num_visits: int = eqx.field(static=True)
    precise: bool = eqx.field(static=True, default=False)  # see `weigh`

    def attempt(
        self, of: Truncation, u: Float[Array, "q d"], sigma: Float[Array, " q"]
    ) -> tuple[CertifiedMean, Concentration]:
        """The means from as many points as are visited, and what the others may change."""
        n, eps = len(of.points.points), jnp.finfo(u.dtype).eps
        v = u - of.points.centre[None]
        bounds = self.screen.bounds(v) if self.screen is not None else _of_product(of, v)
        # Of few points all can be visited, and all columns opened.
        num, many = min(self.num_visits, bounds.shape[1]), bounds.shape[1] // COLUMN
        bounds, columns, best, members = leading_columns(bounds, min(num, many))
        members = members.reshape(len(u), -1)
        of_members = jnp.take_along_axis(bounds, members, axis=1)
        of_visited, place = largest(of_members, num)
        visited = jnp.take_along_axis(members, place, axis=1)
        at = jax.vmap(functools.partial(weigh, precise=self.precise), (None, 0, 0, 0))
        weighed = at(of.points, u, sigma, visited)

        def mass(values: Array, end: Array) -> Array:
            """Sum of the exponentials of all up to `end`; of those that equal it, some may have been visited."""
            exponent = values.astype(sigma.dtype) - weighed.lowest[:, None]
            exponent /= sigma[:, None] ** 2
            return jnp.sum(jnp.where(values > end, 0, jnp.exp(exponent)), axis=1)

        # Columns that were not opened, as if full of their largest; and members that were not visited.
        unopened = mass(columns, best[:, -1:]) if num < many else 0.0
        rest = COLUMN * unopened + mass(of_members, of_visited[:, -1:])
        rest = (1.01 + n * eps) * rest + 2 * n * jnp.finfo(u.dtype).tiny
        # Far from an anchor that is not the nearest, both may overflow.
        mass_of_visited = jnp.minimum(weighed.mass, jnp.finfo(u.dtype).max)
        truncation = 1.01 / (1 + mass_of_visited / rest) * (of.farthest + weighed.distance)
        count = jnp.full(len(u), min(num, n), jnp.int32)
        mean = CertifiedMean(weighed.mean, truncation, weighed.rounding, count)
        most = of_visited[:, -1].astype(sigma.dtype)
        if num < many:
            most = jnp.maximum(best[:, -1].astype(sigma.dtype), most)
        gap = jnp.minimum(weighed.gap, 0.999 * (weighed.lowest - most) / sigma**2 - 0.01)
        row = weighed.anchor.astype(jnp.int32)
        return mean, Concentration(row, weighed.others + rest, gap)


class SharedCandidates(eqx.Module):
    """All queries of a group weigh the points that matter to any of them."""

    screen: Screen

    def attempt(
        self, of: Truncation, u: Float[Array, "q d"], sigma: Float[Array, " q"]
    ) -> tuple[CertifiedMean, Concentration]:
        """The means; an infinite truncation error where too many points matter."""
        bounds = lax.optimization_barrier(self.screen.bounds(u - of.points.centre[None]))
        return shared_candidates(of.points, of.farthest, of.tolerance, bounds, u, sigma)


def _of_product(of: Truncation, v: Float[Array, "q d"]) -> Float[Array, "q padded"]:
    """Upper bounds of `v . c_i - |c_i|^2 / 2`, rounding included; as low as can be in the padding."""
    set_, eps = of.points, jnp.finfo(v.dtype).eps
    n, d = set_.points.shape
    # v . (y - c) from v . y: d roundings of terms as large as |v| |y|.
    offset = jnp.sum(v * set_.centre[None], axis=1)
    distances = jnp.sqrt(2 * set_.half_square)
    size = 2.02 * (d + 8) * eps * (distances + jnp.linalg.norm(set_.centre))
    slack = size[None] * (jnp.linalg.norm(v, axis=1)[:, None] + distances[None])
    products = inner_products(v, set_.points)
    bounds = products - set_.half_square[None] + (slack - offset[:, None])
    return jnp.pad(bounds, ((0, 0), (0, -n % COLUMN)), constant_values=-jnp.inf)


class _Weighed(NamedTuple):
    mean: Float[Array, " d"]
    lowest: Float[Array, ""]  # of v . c - |c|^2 / 2 of the anchor, rounding taken off
    mass: Float[Array, ""]  # of the visited weights relative to the anchor's, rounding taken off
    distance: Float[Array, ""]  # of the mean from the centre
    rounding: Float[Array, ""]  # bound of the mean's error
    anchor: Int[Array, ""]  # row
    others: Float[Array, ""]  # bound of the other visited weights, by the anchor's
    gap: Float[Array, ""]  # bound of how far the largest of their logits lies below the anchor's


def weigh(
    set_: PointSet, u: Array, sigma: Array, visited: Int[Array, " m"], *, precise: bool
) -> _Weighed:
    """The posterior mean over the visited points, from differences to the nearest of them, the anchor.

    Where `precise`, a logit's terms are right relative to themselves, however nearly two points are equally near, at some
    three times the time.
    """
    eps = jnp.finfo(u.dtype).eps
    n, d = set_.points.shape
    valid = visited < n
    rows = lax.optimization_barrier(set_.points[jnp.minimum(visited, n - 1)])
    # The nearest, up to rounding, which no other weight depends on.
    products = jnp.dot(rows, u - set_.centre, precision=HIGHEST)
    products -= set_.half_square[jnp.minimum(visited, n - 1)]
    if precise:  # with a wrong one the bound grows
        products = -jnp.sum((rows - u[None]) ** 2, axis=1)
    best = jnp.argmax(jnp.where(valid, products, -jnp.inf))
    anchor = rows[best]
    difference, to_anchor = rows - anchor[None], u - anchor
    terms = difference * (to_anchor[None] - 0.5 * difference)
    if precise:
        terms = 0.5 * anchored_terms(rows, u, anchor)
    logits = _sum(terms) / sigma**2
    logits = jnp.where(valid, logits, -jnp.inf)
    relative = logits - jnp.max(logits)
    weights = jnp.exp(relative)
    normaliser = jnp.sum(weights)
    # Divided after the product, which XLA would otherwise add to the anchor term by term, each with a rounding of its size.
    mean = anchor + jnp.dot(weights, difference, precision=HIGHEST) / normaliser

    # Error of a logit: a rounding of its terms for each that is added, and those of its exponential. Of precise terms it is
    # their own sizes that are rounded, and those of the differences that they consist of twice over.
    apart = jnp.sqrt(jnp.sum(difference**2, axis=1))
    size = apart * (jnp.linalg.norm(to_anchor) + 0.5 * apart) / sigma**2
    summed = (_depth(d) + 8) * size
    if precise:
        summed = (_depth(d) + 8) * _sum(jnp.abs(terms)) / sigma**2 + eps * size
    doubt = eps * (summed + jnp.abs(jnp.where(valid, logits, 0)) + 8)
    doubt = jnp.where(apart > 0, doubt, 0)
    most = jnp.exp(jnp.minimum(relative + doubt, 80))
    grown = jnp.where(doubt < 1, weights * jnp.expm1(jnp.minimum(doubt, 1)), most)
    changed = jnp.where(valid, grown, 0) / normaliser
    length = jnp.linalg.norm(mean - anchor)
    whole, moved = jnp.sum(changed), jnp.sum(changed * (apart + length))
    diameter = 2 * jnp.max(jnp.where(valid, apart, 0))
    by_weights = jnp.where(whole < 0.5, moved / (1 - jnp.minimum(whole, 0.5)), diameter)
    magnitude = jnp.sum(weights * apart) / normaliser
    rounding = 1.01 * by_weights + eps * ((len(rows) + 8) * magnitude + jnp.linalg.norm(mean))

    lowest = log_weight_from_below((u - set_.centre)[None], (anchor - set_.centre)[None])[0]
    mass = jnp.maximum(jnp.sum(jnp.where(valid, jnp.exp(logits - doubt), 0)) * 0.999, 1)
    distance = jnp.linalg.norm(mean - set_.centre) * (1 + 2 * (d + 4) * eps)
    highest = jnp.where(jnp.arange(len(rows)) == best, -jnp.inf, logits + doubt)
    others, gap = 1.01 * jnp.sum(jnp.exp(highest)), -jnp.max(highest)
    return _Weighed(mean, lowest, mass, distance, rounding, visited[best], others, gap)


def _sum(values: Float[Array, "m d"]) -> Float[Array, " m"]:
    """Sums over the last axis, with so few additions one after another that their rounding is well bounded."""
    m, d = values.shape
    padded = jnp.pad(values, ((0, 0), (0, -d % COLUMN))).reshape(m, -1, COLUMN)
    # The barrier keeps XLA from making one sum of the two.
    return jnp.sum(lax.optimization_barrier(jnp.sum(padded, axis=1)), axis=-1)


def _depth(d: int) -> int:
    """Additions that a number goes through in `_sum`."""
    return -(-d // COLUMN) + COLUMN
