"""Posterior means from a k-d tree over the points, with bounds of their errors.

Queries are taken in groups of neighbours. What `_tree_plan` does not leave out of a group's sums is added to them: by
expansions about the nodes' centres, or point by point.

*Rounding.* A weight comes from differences to an anchor, a point near the query, as in `_anchored`; what matters has a
weight of at least `exp(-CUT) / n` of the largest, which bounds its distance from the query, and so the rounding of its
logit.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ..._jax.precision import HIGHEST
from .certified import CertifiedMean
from .tree import Tree, exponents
from .tree_plan import WIDEST, Query, plan_group, prepare

# Queries of a group; nodes that are expanded at once; leaves that are weighed at once.
GROUP, NODES, LEAVES = 64, 128, 16
# Weights below exp(-CUT) / n of the largest do not matter.
CUT = 32.0


class _Sums(eqx.Module):
    """Sums over weights relative to exp(highest) of the anchor's."""

    highest: Float[Array, " q"]
    mass: Float[Array, " q"]
    moment: Float[Array, "d q"]  # about the group's origin
    size: Float[Array, " q"]  # of the absolute terms of expansions
    steps: Int[Array, ""]


def _logits(group: Query, coordinates: list[Array]) -> Array:
    """Of places, given coordinate by coordinate, relative to the anchors: (places, queries)."""
    to_anchor = group.u - group.anchor
    total = 0.0
    for i, y in enumerate(coordinates):
        difference = y[:, None] - group.anchor[None, :, i]
        total = total + difference * (to_anchor[None, :, i] - 0.5 * difference)
    return lax.optimization_barrier(total / group.sigma[None] ** 2)


def _raised(sums: _Sums, logits: Array) -> tuple[_Sums, Array]:
    """The sums relative to the largest logit so far, and the weights relative to it."""
    highest = jnp.maximum(sums.highest, jnp.max(logits, axis=0))
    keep = jnp.exp(sums.highest - highest)
    moment = sums.moment * keep[None]
    kept = _Sums(highest, sums.mass * keep, moment, sums.size * keep, sums.steps + 1)
    # Compiled code may round a logit in two ways, by more than exp could stand.
    return kept, jnp.exp(jnp.minimum(logits - highest[None], 0))


def _add_points(tree: Tree, group: Query, origin: Array, sums: _Sums, leaves: Array) -> _Sums:
    """Adds the points of some leaves; -1 for none."""
    d = len(origin)
    block = tree.points[:, jnp.maximum(leaves, 0)]  # (d + 1, leaves, size)
    counts = jnp.where(leaves[:, None] >= 0, block[d], 0).reshape(1, -1)
    places, counts = lax.optimization_barrier((block[:d].reshape(d, -1), counts))
    sums, weights = _raised(sums, _logits(group, [places[i] for i in range(d)]))
    rows = jnp.concatenate([counts, counts * (places - origin[:, None])])
    found = jnp.dot(rows, weights, precision=HIGHEST)
    return _Sums(sums.highest, sums.mass + found[0], sums.moment + found[1:], sums.size, sums.steps)


def expansion(
    differences: list[Array], ratio: Array, moments: Array, degree: int
) -> tuple[Array, list[Array]]:
    """Sums over a node's points of the weights, relative to that of the centre, and of these times (y - c) / radius.

    Args:
        differences: `radius (u - c) / sigma^2`, coordinate by coordinate, (nodes, queries) each.
        ratio: `(radius / sigma)^2`, (nodes, queries).
        moments: those of the nodes, (nodes, terms), of all degrees up to `degree`; the second sums need one
            for the factor, so that their weights are exact to one degree less.
    """
    d = len(differences)
    where = {a: i for i, a in enumerate(exponents(d, degree))}
    # radius^k / sigma^k He_k(t).
    powers = []
    for x in differences:
        column = [jnp.ones_like(x), x]
        for k in range(1, degree):
            column.append(x * column[k] - (k * ratio) * column[k - 1])
        powers.append(column)

    def nested(axis: int, prefix: tuple[int, ...], lowered: int | None) -> Array | None:
        if axis == d:
            return moments[:, where[prefix], None]
        total = None
        for k in range(degree - sum(prefix) + 1):
            down = axis == lowered
            if down and k == 0:
                continue
            inner = nested(axis + 1, (*prefix, k), lowered)
            if inner is None:
                continue
            power = k - 1 if down else k
            term = inner if power == 0 else powers[axis][power] * inner
            term = k * term if down and k > 1 else term
            total = term if total is None else total + term
        return total

    mass = nested(0, (), None)
    first = [nested(0, (), axis) for axis in range(d)]
    assert mass is not None
    return mass, [x if x is not None else jnp.zeros_like(mass) for x in first]


def _add_nodes(
    tree: Tree, group: Query, origin: Array, largest: Array, sums: _Sums, nodes: Array
) -> _Sums:
    """Adds the expansions of some nodes; -1 for none."""
    d = len(origin)
    which = jnp.maximum(nodes, 0)
    valid = nodes >= 0
    centre = [tree.centre[i][which] for i in range(d)]
    # Of size zero where there is none, or its powers might overflow.
    radius = jnp.where(valid, tree.radius[which], 0)
    moments = jnp.where(valid[:, None], tree.moments[which], 0)
    sizes = jnp.where(valid, largest[which], 0)
    inputs = lax.optimization_barrier((centre, radius, moments, sizes))
    centre, radius, moments, sizes = inputs
    logits = jnp.where(valid[:, None], _logits(group, centre), -jnp.inf)
    sums, weights = _raised(sums, logits)
    weights = lax.optimization_barrier(weights)
    scale = radius[:, None] / group.sigma[None] ** 2
    differences = [(group.u[None, :, i] - centre[i][:, None]) * scale for i in range(d)]
    ratio = (radius[:, None] / group.sigma[None]) ** 2
    mass, first = expansion(differences, ratio, moments, tree.degree)
    mass, *first = lax.optimization_barrier([weights * mass, *(weights * x for x in first)])
    rows = jnp.stack([jnp.ones_like(radius), *(c - origin[i] for i, c in enumerate(centre))])
    found = jnp.dot(rows, mass, precision=HIGHEST)
    moment = jnp.stack([jnp.dot(radius, x, precision=HIGHEST) for x in first])
    return _Sums(
        sums.highest,
        sums.mass + found[0],
        sums.moment + found[1:] + moment,
        sums.size + jnp.dot(sizes, weights, precision=HIGHEST),
        sums.steps,
    )


def _in_chunks(chosen: Bool[Array, " m"], size: int, add, sums):
    """`add(sums, indices)` over the chosen, so many at a time; -1 fills up the last."""
    num = len(chosen)
    count = jnp.cumsum(chosen)
    places = jnp.where(chosen, count - 1, num + size)
    indices = jnp.full(num + size, -1, jnp.int32)
    indices = indices.at[places].set(jnp.arange(num, dtype=jnp.int32), mode="drop")

    def some(state):
        start, sums = state
        return start + size, add(sums, lax.dynamic_slice_in_dim(indices, start, size))

    start = jnp.zeros((), count.dtype)
    return lax.while_loop(lambda s: s[0] < count[-1], some, (start, sums))[1]


def _group_means(tree: Tree, group: Query, tolerance: Array) -> CertifiedMean:
    """The means of a group of neighbouring queries."""
    u, sigma = group.u, group.sigma
    q, d = u.shape
    dtype = u.dtype
    eps = float(jnp.finfo(dtype).eps)
    tiny = float(jnp.finfo(dtype).tiny)
    origin = group.anchor[q // 2]
    # The bound of the normaliser is lowered by what its value is found to be off by below, or somewhat more.
    before = _doubt(group, jnp.zeros(q, dtype), tree.num_points)
    plan = plan_group(tree, group, origin, jnp.min(group.log_mass - before), 0.5 * tolerance)

    zero = jnp.zeros(q, dtype)
    sums = _Sums(
        jnp.full(q, -1e30, dtype), zero, jnp.zeros_like(u.T), zero, jnp.zeros((), jnp.int32)
    )
    add_nodes = lambda sums, nodes: _add_nodes(tree, group, origin, plan.largest, sums, nodes)  # noqa: E731
    add_points = lambda sums, leaves: _add_points(tree, group, origin, sums, leaves)  # noqa: E731
    sums = _in_chunks(plan.expanded, min(NODES, len(plan.expanded)), add_nodes, sums)
    sums = _in_chunks(plan.weighed, min(LEAVES, len(plan.weighed)), add_points, sums)

    offset = (sums.moment / sums.mass[None]).T
    value = origin[None] + offset
    length = jnp.linalg.norm(offset, axis=1) * (1 + (d + 4) * eps)

    # Relative errors of the normaliser: of the weights, by which factor; of the expansions; of the sums.
    doubt = _doubt(group, sums.highest, tree.num_points)
    terms = (5 * tree.degree * d + 24) * eps * sums.size / sums.mass
    depth = (max(NODES, LEAVES * tree.points.shape[2]) + 8) * eps + 8 * eps * sums.steps.astype(
        dtype
    )
    inexact = terms + depth + 1e-3
    log_mass = jnp.log(sums.mass) + sums.highest - group.half_square
    log_mass -= doubt + (d + 8) * eps * (group.half_square + jnp.abs(sums.highest) + 1)
    scale = jnp.exp(plan.log_mass - log_mass)
    lost = plan.error * scale + tiny
    whole = 1 - lost - inexact

    # The distance from the mean of what matters; the rest weighs exp(-CUT) in all.
    reach = _reach(group, sums.highest, tree.num_points) + WIDEST * sigma
    lever = jnp.minimum(reach + jnp.linalg.norm(u - value, axis=1), tree.diameter)
    by_weights = jnp.minimum(jnp.expm1(jnp.minimum(2 * doubt, 40)), 2) * lever
    by_weights += 4 * math.exp(-CUT) * jnp.exp(jnp.minimum(2 * doubt, 40)) * tree.diameter
    rounding = by_weights + (depth + terms) * (lever + length) / jnp.maximum(whole, 0.25)
    rounding = 1.01 * rounding + eps * jnp.linalg.norm(value, axis=1)
    truncation = (plan.moved * scale + tiny + lost * (length + rounding)) * 1.01 / whole
    truncation = jnp.where(whole > 0.25, truncation, jnp.inf)
    counts = tree.log_count[-len(plan.weighed) :]
    visited = jnp.sum(jnp.where(plan.weighed, jnp.round(jnp.exp(counts)), 0)).astype(jnp.int32)
    return CertifiedMean(value, truncation, rounding, jnp.full(q, visited))


def _reach(group: Query, highest: Array, num: int) -> Array:
    """Distance from the query beyond which weights do not matter, given the largest logit relative to the anchor's."""
    cut = CUT + math.log(num)
    square = 2 * group.sigma**2 * (group.half_square + jnp.maximum(cut - highest, 0))
    return 1.01 * jnp.sqrt(square)


def _doubt(group: Query, highest: Array, num: int) -> Array:
    """Bound of the rounding errors of logits that matter, and of their exponentials; of the others it does not matter."""
    eps = float(jnp.finfo(highest.dtype).eps)
    d = group.u.shape[1]
    from_anchor = jnp.sqrt(2 * group.half_square) * group.sigma
    apart = from_anchor + _reach(group, highest, num)
    terms = (d + 8) * apart * (from_anchor + 0.5 * apart) / group.sigma**2
    return 1.01 * eps * (terms + 4 * (jnp.abs(highest) + CUT + math.log(num)) + 24)


def _in_groups(u: Array, sigma: Array, size: int) -> Int[Array, "groups size"]:
    """Indices of neighbouring queries with similar noise levels; the number of all fills up."""
    num = len(u)
    halvings = max(0, math.ceil(math.log2(num / size)))
    each = -(-num // 2**halvings)
    order = jnp.minimum(jnp.arange(each * 2**halvings), num)[None]
    extent = jnp.max(jnp.max(u, axis=0) - jnp.min(u, axis=0))
    level = 4 * extent * jnp.log(sigma)
    places = jnp.concatenate([u, level[:, None]], axis=1)
    for _ in range(halvings):
        at = places[jnp.minimum(order, num - 1)]
        axis = jnp.argmax(jnp.max(at, axis=1) - jnp.min(at, axis=1), axis=1)
        keys = jnp.take_along_axis(at, axis[:, None, None], axis=2)[:, :, 0]
        order = jnp.take_along_axis(order, jnp.argsort(keys, axis=1), axis=1)
        order = order.reshape(-1, order.shape[1] // 2)
    return order


def tree_means(
    tree: Tree, u: Float[Array, "q d"], sigma: Float[Array, " q"], tolerance: Float[Array, ""]
) -> CertifiedMean:
    """Posterior means of a batch of queries. Few may exceed the tolerance, which their certificates then say."""
    num = len(u)
    order = _in_groups(u, sigma, min(GROUP, num))
    taken = jnp.minimum(order, num - 1)
    prepared = prepare(tree, u, sigma)
    found = lax.map(
        lambda which: _group_means(tree, jax.tree.map(lambda x: x[which], prepared), tolerance),
        taken,
    )
    return jax.tree.map(
        lambda x: jnp.zeros((num, *x.shape[2:]), x.dtype).at[order].set(x, mode="drop"), found
    )
