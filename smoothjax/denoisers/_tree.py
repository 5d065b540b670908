r"""The posterior mean of very many points in few dimensions, from a k-d tree, with bounds of its error.

A node of the tree holds a contiguous range of the sorted points. A group of neighbouring queries treats each node in one
of four ways: its points are left out; they are summed by an expansion about the node's centre; they are weighed one by one;
or its two halves are looked at instead. With `t = (u - c) / sigma` and `z = (y - c) / sigma` a weight is

    exp(-|t - z|^2 / 2) = exp(-|t|^2 / 2) sum_a He_a(t) z^a / a!,

so that a node's sums over all terms of degree at most p need its moments `sum z^a` only, which know nothing of the query.

*Remainder.* Along the ray from c to y the derivative of order k of the weight is `|z|^k He_k(x . z/|z|) exp(-|x|^2 / 2)`
up to sign, x on the segment from t to t - z. As `|He_k(s)| exp(-s^2 / 2)` with `|s| <= |x|` has the envelope of
`_log_envelope`, the terms of degree k and more are at most `|z|^k / k! envelope_k(|t| - |z|)`. The moment of `|z|^k` is kept
for every node, so no point is taken to be as far away as the farthest.

*The mean.* Let w be the weights and w' those used, `N' / S' = D'` the value returned. Then
`D - D' = sum (w - w') (y - D') / S`, whose terms a node bounds by `e_0 |o - D'| + e_1`: e_0 bounds the sum of `|w - w'|` and
e_1 that of `|w - w'| |y - o|`, o a point near the group. Both are summed over the nodes of a group, relative to a lower
bound of S for all of its queries: by Jensen's inequality a node's points weigh at least
`count exp(-(|u - c|^2 + spread^2) / 2 sigma^2)`.

*Rounding.* A weight comes from differences to an anchor, a point near the query, as in `_anchored`; what matters has
a weight of at least `exp(-CUT) / n` of the largest, which bounds its distance from the query, and so the rounding of its
logit. Every bound below that decides about a node is a sum of terms that are known to a few roundings, and is moved by
these to the safe side.
"""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from numpy.polynomial import hermite_e

from .._precision import HIGHEST
from ._certified import CertifiedMean

# Most points of a leaf.
LEAF = 64
# Degree of the expansions in one, two and three dimensions: more terms, fewer nodes.
DEGREES = {1: 11, 2: 9, 3: 7}
# Queries of a group; nodes that are expanded at once; leaves that are weighed at once.
GROUP, NODES, LEAVES = 64, 128, 16
# The level of the tree whose nodes bound every query's normaliser from below.
COARSE = 8
# Rates of decay of the bounds in `_log_envelope`.
RATES = (0.0, 0.25, 0.4)
# Largest radius of an expanded node in noise levels, and that times its distance in noise levels.
WIDEST, FARTHEST = 2.0, 6.0
# Weights below exp(-CUT) / n of the largest do not matter.
CUT = 32.0
# Nodes among which the tolerance is divided at first, in one, two and three dimensions; and how often it is divided anew.
SHARES = {1: 16.0, 2: 64.0, 3: 256.0}
DIVISIONS = 12


class Tree(eqx.Module):
    """A balanced k-d tree over points, with what bounds and expands the sums over its nodes.

    Nodes are numbered level by level; the children of i are 2 i + 1 and 2 i + 2. Points that fill up the leaves count zero.
    """

    points: Float[Array, "rows leaves size"]  # coordinates; then 1, or 0 for one that fills up
    lower: Float[Array, "d nodes"]
    upper: Float[Array, "d nodes"]
    centre: Float[Array, "d nodes"]
    radius: Float[Array, " nodes"]  # bound of the distances from the centre
    log_count: Float[Array, " nodes"]
    shift: Float[Array, " nodes"]  # bound of the distance of the mean from the centre
    spread: Float[Array, " nodes"]  # bound of the root mean square distance from the centre
    log_tail: Float[Array, " nodes"]  # bound of log sum (|y - c| / radius)^(degree + 1)
    moments: Float[Array, "nodes terms"]  # sum ((y - c) / radius)^a / a!
    diameter: Float[Array, ""]
    degree: int = eqx.field(static=True)
    num_points: int = eqx.field(static=True)

    @property
    def depth(self) -> int:
        """Levels below the root."""
        return (self.points.shape[1] - 1).bit_length()


def exponents(d: int, degree: int) -> list[tuple[int, ...]]:
    """All exponents of d variables up to the degree, in the order of `Tree.moments`."""
    every = itertools.product(range(degree + 1), repeat=d)
    return [a for a in every if sum(a) <= degree]


def build_tree(points: np.ndarray) -> Tree:
    """The tree over points, shape (n, d), d <= 3. Takes a second or two for a million points."""
    n, d = points.shape
    degree, dtype = DEGREES[d], points.dtype
    depth = max(0, math.ceil(math.log2(n / LEAF)))
    size = -(-n // 2**depth)
    # Those that fill up lie where other points do, so that no box grows; taken from all over the set.
    extra = size * 2**depth - n
    filled = np.concatenate([np.arange(n), np.arange(extra) * (n // max(extra, 1))])
    real = np.arange(len(filled)) < n
    order = np.arange(len(filled))[None]
    for _ in range(depth):
        at = points[filled[order]]
        axis = np.argmax(np.max(at, axis=1) - np.min(at, axis=1), axis=1)
        keys = np.take_along_axis(at, axis[:, None, None], axis=2)[:, :, 0]
        half = order.shape[1] // 2
        order = np.take_along_axis(order, np.argpartition(keys, half - 1, axis=1), axis=1)
        order = order.reshape(-1, half)
    order = order.ravel()
    sorted_, real = points[filled[order]], real[order]

    parts, below = [], None
    for level in range(depth, -1, -1):
        below = _level(sorted_.reshape(2**level, -1, d), real.reshape(2**level, -1), degree, below)
        parts.append(below)
    joined = {k: np.concatenate([part[k] for part in reversed(parts)]) for k in parts[0]}
    eps = float(np.finfo(dtype).eps)
    diameter = math.sqrt(float(np.sum((joined["upper"][0] - joined["lower"][0]) ** 2)))
    # A node without points has a mass that nothing bounds from below.
    joined["spread"][joined["count"] == 0] = np.inf
    logs = {k: np.log(np.maximum(joined[k], 1e-300)) for k in ("count", "tail")}
    up = lambda x: jnp.asarray(x * (1 + 4 * eps) + 4 * np.finfo(dtype).tiny, dtype)  # noqa: E731
    moved_up = lambda x: jnp.asarray(x + 4 * eps * (1 + np.abs(x)), dtype)  # noqa: E731
    rows = np.concatenate([sorted_.T, real[None].astype(dtype)])
    return Tree(
        points=jnp.asarray(rows.reshape(d + 1, 2**depth, size)),
        lower=jnp.asarray(joined["lower"].T, dtype),
        upper=jnp.asarray(joined["upper"].T, dtype),
        centre=jnp.asarray(joined["centre"].T, dtype),
        radius=jnp.asarray(joined["radius"], dtype),
        log_count=moved_up(logs["count"]),
        shift=up(joined["shift"]),
        spread=up(joined["spread"]),
        log_tail=moved_up(logs["tail"]),
        moments=jnp.asarray(joined["moments"], dtype),
        diameter=up(diameter),
        degree=degree,
        num_points=n,
    )


def _level(points: np.ndarray, real: np.ndarray, degree: int, below: dict | None) -> dict:
    """What a level of the tree stores; the moments from those of the level below, if there is one."""
    dtype, d = points.dtype, points.shape[-1]
    y = points.astype(np.float64)
    count = np.sum(real, axis=1)
    mean = np.sum(y * real[:, :, None], axis=1) / np.maximum(count, 1)[:, None]
    # As the queries see it; where nothing but copies fill the node, one of them.
    centre = np.where(count[:, None] > 0, mean, y[:, 0]).astype(dtype)
    moved = y - centre.astype(np.float64)[:, None]
    distance = np.sqrt(np.sum(moved**2, axis=2)) * real
    # Rounded up, and then as the queries see it.
    eps = float(np.finfo(dtype).eps)
    radius = (np.max(distance, axis=1) * (1 + 4 * eps)).astype(dtype).astype(np.float64)
    safe = np.where(radius > 0, radius, 1)
    terms = exponents(d, degree)
    where = {a: i for i, a in enumerate(terms)}
    if below is None:
        moments = np.empty((len(y), len(terms)))
        scaled = moved / safe[:, None, None]
        single = [np.ones_like(scaled)]
        for k in range(1, degree + 1):
            single.append(single[-1] * scaled / k)
        for i, a in enumerate(terms):
            product = real.astype(np.float64)
            for axis, k in enumerate(a):
                product = product * single[k][:, :, axis] if k else product
            moments[:, i] = np.sum(product, axis=1)
    else:
        parent = np.repeat(safe, 2)
        step = (
            below["centre"].astype(np.float64) - np.repeat(centre.astype(np.float64), 2, axis=0)
        ) / parent[:, None]
        ratio = below["radius"] / parent
        child = below["moments"] * ratio[:, None] ** np.array([sum(a) for a in terms])
        for axis in range(d):
            shifted = child.copy()
            for i, a in enumerate(terms):
                for k in range(1, a[axis] + 1):
                    lower = where[(*a[:axis], a[axis] - k, *a[axis + 1 :])]
                    shifted[:, i] += child[:, lower] * step[:, axis] ** k / math.factorial(k)
            child = shifted
        moments = child.reshape(-1, 2, len(terms)).sum(axis=1)
    relative = distance / safe[:, None]
    square = np.sum(relative**2, axis=1) / np.maximum(count, 1)
    return {
        "lower": np.min(points, axis=1),
        "upper": np.max(points, axis=1),
        "centre": centre,
        "radius": radius,
        "count": count.astype(np.float64),
        "shift": np.sqrt(np.sum((mean - centre) ** 2, axis=1)) * (count > 0),
        "spread": safe * np.sqrt(square),
        "tail": np.sum(relative ** (degree + 1), axis=1),
        "moments": moments,
    }


def _constants(k: int) -> tuple[list[float], float]:
    """Logarithms of `sup |He_k(x)| exp((a - 1/2) x^2)` for the rates a, and `(E Z^k)^(2/k)` for Z standard normal."""
    he, found = np.eye(k + 1)[k], []
    for a in RATES:
        # Where the derivative vanishes; He_k' = k He_(k-1).
        slope = -(1 - 2 * a) * hermite_e.hermemulx(he)
        slope[:k] += k * np.eye(k)[k - 1]
        roots = hermite_e.hermeroots(slope)
        x = np.concatenate([[0.0], np.real(roots[np.abs(np.imag(roots)) < 1e-6])])
        with np.errstate(divide="ignore"):
            logs = np.log(np.abs(hermite_e.hermeval(x, he))) + (a - 0.5) * x**2
        found.append(float(np.max(logs)) + 1e-6)
    moment = math.lgamma((k + 1) / 2) - 0.5 * math.log(math.pi) + 0.5 * k * math.log(2)
    return found, math.exp(2 * moment / k) * (1 + 1e-6)


def _log_envelope(k: int, square: Array) -> Array:
    """Bound of `log |He_k(s)| - |x|^2 / 2` for all `|s| <= |x|` with `|x|^2 >= square`, k >= 2.

    Each rate a gives `sup |He_k(s)| exp((a - 1/2) s^2)` times `exp(-a |x|^2)`. Far out, Minkowski's inequality does better:
    `|He_k(s)| = |E (s + i Z)^k| <= (s^2 + m)^(k/2)` with m from `_constants`, which times `exp(-|x|^2 / 2)` falls beyond
    `|x|^2 = k - m`.
    """
    logs, m = _constants(k)
    outer = jnp.maximum(square, max(k - m, 0.0))
    bound = 0.5 * (k * jnp.log(outer + m) - outer)
    for log, a in zip(logs, RATES, strict=True):
        bound = jnp.minimum(bound, log - a * square)
    return bound


class _Query(eqx.Module):
    """Queries, and what is known of each before any node is looked at."""

    u: Float[Array, "q d"]
    sigma: Float[Array, " q"]
    anchor: Float[Array, "q d"]  # a point near it
    half_square: Float[Array, " q"]  # |u - anchor|^2 / 2 sigma^2
    log_mass: Float[Array, " q"]  # lower bound of the logarithm of the normaliser


def _prepared(tree: Tree, u: Array, sigma: Array) -> _Query:
    """Finds a near point by walking down to the nearer box, and bounds the normaliser by the nodes on the way."""
    eps = jnp.finfo(u.dtype).eps
    q, d = u.shape

    def jensen(nodes):
        """Lower bounds of the logarithms of the nodes' masses."""
        square = sum((u[:, i] - tree.centre[i][nodes]) ** 2 for i in range(d))
        exponent = (jnp.sqrt(square) + tree.shift[nodes]) ** 2 + tree.spread[nodes] ** 2
        exponent = exponent * (1 + (d + 12) * eps) / (2 * sigma**2)
        return tree.log_count[nodes] - exponent - 16 * eps * (1 + tree.log_count[nodes])

    def box_distance(nodes):
        gaps = (
            jnp.maximum(tree.lower[i][nodes] - u[:, i], u[:, i] - tree.upper[i][nodes])
            for i in range(d)
        )
        return sum(jnp.maximum(gap, 0) ** 2 for gap in gaps)

    def down(_, state):
        node, best = state
        left, right = 2 * node + 1, 2 * node + 2
        node = jnp.where(box_distance(left) <= box_distance(right), left, right)
        return node, jnp.maximum(best, jensen(node))

    root = jnp.zeros(q, jnp.int32)
    node, best = lax.fori_loop(0, tree.depth, down, (root, jensen(root)))
    level = min(COARSE, tree.depth)
    coarse = slice(2**level - 1, 2 ** (level + 1) - 1)
    square = sum((u[:, i] - tree.centre[i][coarse, None]) ** 2 for i in range(d))
    exponent = (jnp.sqrt(square) + tree.shift[coarse, None]) ** 2 + tree.spread[coarse, None] ** 2
    exponent = exponent * (1 + (d + 12) * eps) / (2 * sigma**2)
    logs = lax.optimization_barrier(tree.log_count[coarse, None] - exponent)
    highest = jnp.max(logs, axis=0)
    total = highest + jnp.log(jnp.sum(jnp.exp(logs - highest), axis=0))
    best = jnp.maximum(best, total - 1e-3 - 16 * eps * (1 + jnp.abs(highest)))

    leaf = node - (2**tree.depth - 1)
    square = sum((tree.points[i][leaf] - u[:, i, None]) ** 2 for i in range(d))
    square = jnp.where(tree.points[d][leaf] > 0, square, jnp.inf)
    anchor = tree.points[:d, leaf, jnp.argmin(square, axis=1)].T
    half_square = jnp.sum((u - anchor) ** 2, axis=1) / (2 * sigma**2)
    best = jnp.maximum(best, -half_square * (1 + (d + 8) * eps))
    return _Query(u, sigma, anchor, half_square, best)


class _Plan(eqx.Module):
    """What a group does with the nodes, and what that can change, relative to exp(log_mass)."""

    expanded: Bool[Array, " nodes"]
    weighed: Bool[Array, " leaves"]
    largest: Float[
        Array, " nodes"
    ]  # bound of the terms of an expansion, by the node's weight at its centre
    error: Float[Array, ""]  # e_0 of the module's text
    moved: Float[Array, ""]  # e_1
    log_mass: Float[Array, ""]


def _plan(tree: Tree, group: _Query, origin: Array, log_mass: Array, tolerance: Array) -> _Plan:
    eps, tiny = jnp.finfo(origin.dtype).eps, jnp.finfo(origin.dtype).tiny
    d, k = len(origin), tree.degree + 1
    low, high = jnp.min(group.u, axis=0), jnp.max(group.u, axis=0)
    least, most = jnp.min(group.sigma), jnp.max(group.sigma)

    def squares(gap):
        return sum(gap(i) ** 2 for i in range(d))

    box = squares(
        lambda i: jnp.maximum(jnp.maximum(tree.lower[i] - high[i], low[i] - tree.upper[i]), 0)
    )
    nearest = squares(
        lambda i: jnp.maximum(jnp.maximum(tree.centre[i] - high[i], low[i] - tree.centre[i]), 0)
    )
    farthest = squares(
        lambda i: jnp.maximum(jnp.abs(tree.centre[i] - low[i]), jnp.abs(tree.centre[i] - high[i]))
    )
    to_origin = jnp.sqrt(squares(lambda i: tree.centre[i] - origin[i])) * (1 + (d + 4) * eps)

    def relative(exponent, added):
        """`exp(added - exponent - log_mass)`, larger by what rounding may take."""
        doubt = jnp.abs(exponent) + jnp.abs(log_mass) + jnp.abs(added) + 64
        doubt = (d + 16) * eps * doubt
        return jnp.exp(added - exponent - log_mass + doubt)

    left_out = relative(box / (2 * most**2), tree.log_count)
    left_out_moved = left_out * (to_origin + tree.radius)

    size = tree.radius / least
    apart = jnp.maximum(jnp.sqrt(nearest) * (1 - (d + 4) * eps) - tree.radius, 0) / most

    def remainder(k, degree):
        """Bound of the sum of |z|^degree / k! times the envelope of order k."""
        added = tree.log_tail + degree * jnp.log(jnp.maximum(size, tiny)) - math.lgamma(k + 1)
        # The parts of both that grow without bound meet in the exponent.
        return relative(-_log_envelope(k, apart**2), added)

    in_sum = jnp.where(size > 0, remainder(k, k), 0)
    in_moment = jnp.where(size > 0, remainder(k - 1, k), 0) * most
    expanded_moved = in_sum * to_origin + in_moment
    reach = size * jnp.sqrt(farthest) / least
    allowed = (size <= WIDEST) & (reach <= FARTHEST)
    largest = jnp.exp(tree.log_count + jnp.minimum(1.01 * (reach + size**2), 4 * FARTHEST))

    # How far the mean may be from the origin; the certificate does not rely on it.
    typical = jnp.sqrt(2 * jnp.max(group.half_square * group.sigma**2) + 4 * most**2)
    lever = jnp.minimum(2 * (jnp.linalg.norm(high - low) + typical), tree.diameter)
    out = left_out_moved + left_out * lever
    by_terms = jnp.where(allowed, expanded_moved + in_sum * lever, jnp.inf)
    first_leaf = 2**tree.depth - 1

    def divide(state):
        share, *_ = state
        finished = (out <= share) | (by_terms <= share)
        alive, levels = jnp.ones(1, bool), []
        for level in range(tree.depth + 1):
            levels.append(alive)
            if level < tree.depth:
                here = slice(2**level - 1, 2 ** (level + 1) - 1)
                alive = jnp.repeat(alive & ~finished[here], 2)
        alive = jnp.concatenate(levels)
        is_out = alive & (out <= share)
        is_expanded = alive & finished & ~is_out
        total = jnp.sum(jnp.where(is_out, out, 0)) + jnp.sum(jnp.where(is_expanded, by_terms, 0))
        return total, is_out, is_expanded, alive[first_leaf:] & ~finished[first_leaf:]

    def again(state):
        share, count, (total, *_) = state
        share = share * jnp.clip(0.7 * tolerance / total, 0.05, 0.7)
        return share, count + 1, divide((share,))

    share = tolerance / SHARES[d]
    state = (share, 0, divide((share,)))
    state = lax.while_loop(lambda s: (s[2][0] > tolerance) & (s[1] < DIVISIONS), again, state)
    _, is_out, is_expanded, is_weighed = state[2]

    def summed(of_out, of_expanded):
        parts = jnp.where(is_out, of_out, jnp.where(is_expanded, of_expanded, 0))
        return 1.001 * (jnp.sum(parts) + len(parts) * tiny)

    return _Plan(
        is_expanded,
        is_weighed,
        largest,
        summed(left_out, in_sum),
        summed(left_out_moved, expanded_moved),
        log_mass,
    )


class _Sums(eqx.Module):
    """Sums over weights relative to exp(highest) of the anchor's."""

    highest: Float[Array, " q"]
    mass: Float[Array, " q"]
    moment: Float[Array, "d q"]  # about the group's origin
    size: Float[Array, " q"]  # of the absolute terms of expansions
    steps: Int[Array, ""]


def _logits(group: _Query, coordinates: list[Array]) -> Array:
    """Of places, given coordinate by coordinate, relative to the anchors: (places, queries)."""
    to_anchor = group.u - group.anchor
    total = 0.0
    for i, y in enumerate(coordinates):
        difference = y[:, None] - group.anchor[:, i]
        total = total + difference * (to_anchor[:, i] - 0.5 * difference)
    return lax.optimization_barrier(total / group.sigma**2)


def _raised(sums: _Sums, logits: Array) -> tuple[_Sums, Array]:
    """The sums relative to the largest logit so far, and the weights relative to it."""
    highest = jnp.maximum(sums.highest, jnp.max(logits, axis=0))
    keep = jnp.exp(sums.highest - highest)
    kept = _Sums(highest, sums.mass * keep, sums.moment * keep, sums.size * keep, sums.steps + 1)
    # Compiled code may round a logit in two ways, by more than exp could stand.
    return kept, jnp.exp(jnp.minimum(logits - highest, 0))


def _add_points(tree: Tree, group: _Query, origin: Array, sums: _Sums, leaves: Array) -> _Sums:
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
    tree: Tree, group: _Query, origin: Array, largest: Array, sums: _Sums, nodes: Array
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
    scale = radius[:, None] / group.sigma**2
    differences = [(group.u[:, i] - centre[i][:, None]) * scale for i in range(d)]
    ratio = (radius[:, None] / group.sigma) ** 2
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


def _group_means(tree: Tree, group: _Query, tolerance: Array) -> CertifiedMean:
    """The means of a group of neighbouring queries."""
    u, sigma = group.u, group.sigma
    q, d = u.shape
    dtype = u.dtype
    eps = float(jnp.finfo(dtype).eps)
    tiny = float(jnp.finfo(dtype).tiny)
    origin = group.anchor[q // 2]
    # The bound of the normaliser is lowered by what its value is found to be off by below, or somewhat more.
    before = _doubt(group, jnp.zeros(q, dtype), tree.num_points)
    plan = _plan(tree, group, origin, jnp.min(group.log_mass - before), 0.5 * tolerance)

    zero = jnp.zeros(q, dtype)
    sums = _Sums(
        jnp.full(q, -1e30, dtype), zero, jnp.zeros_like(u.T), zero, jnp.zeros((), jnp.int32)
    )
    add_nodes = lambda sums, nodes: _add_nodes(tree, group, origin, plan.largest, sums, nodes)  # noqa: E731
    add_points = lambda sums, leaves: _add_points(tree, group, origin, sums, leaves)  # noqa: E731
    sums = _in_chunks(plan.expanded, min(NODES, len(plan.expanded)), add_nodes, sums)
    sums = _in_chunks(plan.weighed, min(LEAVES, len(plan.weighed)), add_points, sums)

    offset = (sums.moment / sums.mass).T
    value = origin + offset
    length = jnp.linalg.norm(offset, axis=1) * (1 + (d + 4) * eps)

    # Relative errors of the normaliser: of the weights, by which factor; of the expansions; of the sums.
    doubt = _doubt(group, sums.highest, tree.num_points)
    terms = (5 * tree.degree * d + 24) * eps * sums.size / sums.mass
    depth = (max(NODES, LEAVES * tree.points.shape[2]) + 8) * eps + 8 * eps * sums.steps
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


def _reach(group: _Query, highest: Array, num: int) -> Array:
    """Distance from the query beyond which weights do not matter, given the largest logit relative to the anchor's."""
    cut = CUT + math.log(num)
    square = 2 * group.sigma**2 * (group.half_square + jnp.maximum(cut - highest, 0))
    return 1.01 * jnp.sqrt(square)


def _doubt(group: _Query, highest: Array, num: int) -> Array:
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
    prepared = _prepared(tree, u, sigma)
    found = lax.map(
        lambda which: _group_means(tree, jax.tree.map(lambda x: x[which], prepared), tolerance),
        taken,
    )
    return jax.tree.map(
        lambda x: jnp.zeros((num, *x.shape[2:]), x.dtype).at[order].set(x, mode="drop"), found
    )
