"""What a group of neighbouring queries does with each node of a tree, with bounds of what that changes in their means.

A group treats each node in one of four ways: its points are left out; they are summed by an expansion about the node's
centre (see `_tree`, also for the notation); they are weighed one by one; or its two halves are looked at instead.

*Remainder.* Along the ray from c to y the derivative of order k of the weight is `|z|^k He_k(x . z/|z|) exp(-|x|^2 / 2)`
up to sign, x on the segment from t to t - z. As `|He_k(s)| exp(-s^2 / 2)` with `|s| <= |x|` has the envelope of
`log_envelope`, the terms of degree k and more are at most `|z|^k / k! envelope_k(|t| - |z|)`.

*The mean.* Let w be the weights and w' those used, `N' / S' = D'` the value returned. Then
`D - D' = sum (w - w') (y - D') / S`, whose terms a node bounds by `e_0 |o - D'| + e_1`: e_0 bounds the sum of `|w - w'|` and
e_1 that of `|w - w'| |y - o|`, o a point near the group. Both are summed over the nodes of a group, relative to a lower
bound of S for all of its queries: by Jensen's inequality a node's points weigh at least
`count exp(-(|u - c|^2 + spread^2) / 2 sigma^2)`.

*Rounding.* Every bound below that decides about a node is a sum of terms that are known to a few roundings, and is moved by
these to the safe side.
"""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float
from numpy.polynomial import hermite_e

from .tree import Tree

# The level of the tree whose nodes bound every query's normaliser from below.
COARSE = 8
# Rates of decay of the bounds in `log_envelope`.
RATES = (0.0, 0.25, 0.4)
# Largest radius of an expanded node in noise levels, and that times its distance in noise levels.
WIDEST, FARTHEST = 2.0, 6.0
# Nodes among which the tolerance is divided at first, in one, two and three dimensions; and how often it is divided anew.
SHARES = {1: 16.0, 2: 64.0, 3: 256.0}
DIVISIONS = 12


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


def log_envelope(k: int, square: Array) -> Array:
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


class Query(eqx.Module):
    """Queries, and what is known of each before any node is looked at."""

    u: Float[Array, "q d"]
    sigma: Float[Array, " q"]
    anchor: Float[Array, "q d"]  # a point near it
    half_square: Float[Array, " q"]  # |u - anchor|^2 / 2 sigma^2
    log_mass: Float[Array, " q"]  # lower bound of the logarithm of the normaliser


def prepare(tree: Tree, u: Array, sigma: Array) -> Query:
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
    square = sum((u[None, :, i] - tree.centre[i][coarse, None]) ** 2 for i in range(d))
    exponent = (jnp.sqrt(square) + tree.shift[coarse, None]) ** 2 + tree.spread[coarse, None] ** 2
    exponent = exponent * (1 + (d + 12) * eps) / (2 * sigma**2)[None]
    logs = lax.optimization_barrier(tree.log_count[coarse, None] - exponent)
    highest = jnp.max(logs, axis=0)
    total = highest + jnp.log(jnp.sum(jnp.exp(logs - highest[None]), axis=0))
    best = jnp.maximum(best, total - 1e-3 - 16 * eps * (1 + jnp.abs(highest)))

    leaf = node - (2**tree.depth - 1)
    square = sum((tree.points[i][leaf] - u[:, i, None]) ** 2 for i in range(d))
    square = jnp.where(tree.points[d][leaf] > 0, square, jnp.inf)
    anchor = tree.points[:d, leaf, jnp.argmin(square, axis=1)].T
    half_square = jnp.sum((u - anchor) ** 2, axis=1) / (2 * sigma**2)
    best = jnp.maximum(best, -half_square * (1 + (d + 8) * eps))
    return Query(u, sigma, anchor, half_square, best)


class Plan(eqx.Module):
    """What a group does with the nodes, and what that can change, relative to exp(log_mass)."""

    expanded: Bool[Array, " nodes"]
    weighed: Bool[Array, " leaves"]
    largest: Float[
        Array, " nodes"
    ]  # bound of the terms of an expansion, by the node's weight at its centre
    error: Float[Array, ""]  # e_0 of the module's text
    moved: Float[Array, ""]  # e_1
    log_mass: Float[Array, ""]


def plan_group(tree: Tree, group: Query, origin: Array, log_mass: Array, tolerance: Array) -> Plan:
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
        return relative(-log_envelope(k, apart**2), added)

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
    is_out, is_expanded, is_weighed = _treatments(tree, out, by_terms, tolerance)

    def summed(of_out, of_expanded):
        parts = jnp.where(is_out, of_out, jnp.where(is_expanded, of_expanded, 0))
        return 1.001 * (jnp.sum(parts) + len(parts) * tiny)

    return Plan(
        is_expanded,
        is_weighed,
        largest,
        summed(left_out, in_sum),
        summed(left_out_moved, expanded_moved),
        log_mass,
    )


def _treatments(
    tree: Tree, out: Array, by_terms: Array, tolerance: Array
) -> tuple[Bool[Array, " nodes"], Bool[Array, " nodes"], Bool[Array, " leaves"]]:
    """Which nodes are left out and which expanded, and which leaves are weighed, so that the bounds sum to the tolerance.

    `out` and `by_terms` bound what the first two change. A node whose bound is above a share of the tolerance is divided,
    and the share is lowered until all of them stay within it, or `DIVISIONS` times.
    """
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

    share = tolerance / SHARES[len(tree.centre)]
    state = (share, 0, divide((share,)))
    state = lax.while_loop(lambda s: (s[2][0] > tolerance) & (s[1] < DIVISIONS), again, state)
    return state[2][1:]
