"""The posterior over a finite set of points, streamed, exact and accurate in either precision.

For `u = y_K + sigma z` with `P(K = k) = pi_k` the posterior is a soft-max over `-|u - y_k|^2 / 2 sigma^2 + log pi_k`.
Three things make the textbook evaluation fail: cancellation, as the logits are small differences of large terms
(`_product_logits`, `_anchored`); memory, as there are as many weights as points (`_first_pass`); and derivatives.

*Derivatives.* Differentiating the evaluation would store every chunk and cancel again. The derivatives of the four
summaries are posterior covariances, which a second pass over the points gives in closed form.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from ..._jax.derivatives import is_zero
from ..._jax.precision import HIGHEST
from .._base import length
from .anchored import Anchor, anchored_weights
from .first_pass import Sums, first_pass
from .point_set import PointSet, chunk_at, over_chunks
from .product_logits import product_logits


class PosteriorSummary(NamedTuple):
    """What a denoiser reads off the posterior weights `w_k` at one noisy point."""

    log_evidence: Float[Array, ""]  # log sum_k pi_k exp(-|u - y_k|^2 / 2 sigma^2)
    mean: Float[Array, " d"]  # sum_k w_k y_k, relative to the centre
    variance: Float[Array, ""]  # sum_k w_k |y_k - E y|^2
    entropy: Float[Array, ""]  # -sum_k w_k log w_k, in nats


def at_own_level(log_evidence: Array, level: Array, sigma: Array) -> Array:
    """The log evidence at `sigma` from that at the lowest representable level: there all of it is a square.

    No lower than a millionth of the dtype's range, so that slopes are numbers of it too.
    """
    size = lax.stop_gradient(jnp.abs(log_evidence))
    largest = 1e-6 * jnp.finfo(sigma.dtype).max
    most = largest * jnp.minimum(1 / jnp.maximum(size, 1), lax.stop_gradient(level) ** 2)
    most = jnp.maximum(most, 1)
    is_beyond = lax.stop_gradient((level / sigma) ** 2 > most)
    ratio = jnp.where(is_beyond, most, (level / jnp.where(is_beyond, level, sigma)) ** 2)
    ratio = jnp.where((level > sigma) & (size < jnp.inf), ratio, 1)
    return log_evidence * ratio


def summarise(
    centre: Array, u: Array, sigma: Array, anchor: Anchor, sums: Sums
) -> PosteriorSummary:
    to_anchor = u - anchor.point
    log_normaliser = sums.highest + jnp.log(sums.normaliser)
    mean = sums.point / sums.normaliser
    logit = sums.logit / sums.normaliser
    # |u - anchor|^2 - |u - E y|^2 plus what the posterior's distances exceed the anchor's by: no large terms.
    excess = mean - (anchor.point - centre)
    variance = jnp.dot(excess, 2 * to_anchor - excess, precision=HIGHEST) - 2 * sigma**2 * logit
    # Far from the points that carry weight these terms are large, and the points' own squares are not.
    own, square = anchor.point - centre, sums.half_square / sums.normaliser
    of_squares = 2 * square - jnp.sum(own**2) - jnp.dot(excess, mean + own, precision=HIGHEST)
    is_far = length(u - centre) > 4 * jnp.sqrt(2 * square)
    variance = jnp.where(is_far, of_squares, variance)
    return PosteriorSummary(
        log_evidence=log_normaliser - 0.5 * jnp.sum((to_anchor / sigma) ** 2),
        mean=mean,
        variance=jnp.maximum(variance, 0),
        entropy=jnp.maximum(log_normaliser - logit - sums.log_weight / sums.normaliser, 0),
    )


@jax.custom_jvp
def _posterior(points: PointSet, u: Array, sigma: Array) -> tuple[PosteriorSummary, Anchor, Sums]:
    anchor, sums = first_pass(points, u, sigma)
    return summarise(points.centre, u, sigma, anchor, sums), anchor, sums


# Compiled as a whole, so that a second call outside `jax.jit` finds it so: loops would be compiled anew at every call.
@jax.jit
def posterior_summary(
    points: PointSet, u: Float[Array, " d"], sigma: Float[Array, ""]
) -> PosteriorSummary:
    """Summary of the posterior over `points` at the noisy point `u`. Differentiable to any order."""
    return _posterior(points, u, sigma)[0]


def _fixed(*trees: Any) -> Any:
    """The same, as constants to differentiation."""
    return jax.tree.map(lax.stop_gradient, trees)


def _as(value: Array, differentiable: Array) -> Array:
    """`value`, with the derivatives of an equal but numerically worse expression, or none where that overflows."""
    differentiable = jnp.where(jnp.isfinite(differentiable), differentiable, 0)
    return lax.stop_gradient(value) + (differentiable - lax.stop_gradient(differentiable))


class WeightedChunk(NamedTuple):
    """A chunk of points with their posterior weights."""

    points: Float[Array, "c d"]  # centred
    weights: Float[Array, " c"]  # posterior weights; zero for masked rows
    logits: Float[Array, " c"]  # -|u - y_k|^2 / 2 sigma^2 minus its posterior mean
    log_weights: Float[Array, " c"]  # prior log weights minus their posterior mean
    rows: Int[Array, " c"]


@functools.partial(jax.jit, static_argnums=3)
def over_posterior(points: PointSet, u: Array, sigma: Array, body, init):
    """A second pass, now that the weights are known: `body(carry, weighted_chunk)` over all chunks."""
    return over_weighted_chunks(_posterior(points, u, sigma), points, u, sigma, body, init)


def over_weighted_chunks(posterior, points: PointSet, u: Array, sigma: Array, body, init):
    summary, anchor, sums = posterior
    v = u - points.centre
    anchor, sums = _fixed(anchor, sums)
    log_normaliser = sums.highest + jnp.log(sums.normaliser)
    mean_logit, mean_log_weight = sums.logit / sums.normaliser, sums.log_weight / sums.normaliser
    half_square = 0.5 * (summary.variance / sigma**2 + jnp.sum(((v - summary.mean) / sigma) ** 2))

    @jax.checkpoint  # the backward pass weighs each chunk again instead of storing all of them
    def step(carry, i):
        chunk = chunk_at(points, i)
        product = product_logits(chunk, v, sigma)
        largest = jnp.max(product + chunk.log_weights)
        inputs = (points, chunk, product, largest, u, sigma, anchor, log_normaliser)
        highest, own, others, logits = _fixed(*anchored_weights(*_fixed(*inputs)))
        weights = jnp.where(chunk.valid & (chunk.rows == anchor.row), own, others)
        weights *= jnp.exp(highest - log_normaliser)
        # The derivatives: d log w_k = d(log pi_k - |u - y_k|^2 / 2 sigma^2 - log evidence).
        inner = jnp.dot(chunk.centred, v, precision=HIGHEST)
        logit = (inner - 0.5 * jnp.sum(chunk.centred**2, -1)) / sigma**2
        logit -= 0.5 * jnp.sum((v / sigma) ** 2)
        # Where the square overflows, so does the log evidence: infinity less infinity is none of the numbers.
        evidence = jnp.where(summary.log_evidence > -jnp.inf, summary.log_evidence, 0)
        log_weight = logit + chunk.log_weights - evidence
        weights *= jnp.exp(_as(jnp.zeros_like(log_weight), log_weight))
        logit = _as(logits - mean_logit, logit + half_square)
        prior = chunk.log_weights
        if points.log_weights is not None:
            # entropy = log evidence + half_square - mean log weight
            mean = summary.log_evidence + half_square - summary.entropy
            prior = _as(prior - mean_log_weight, prior - mean)
        return body(carry, WeightedChunk(chunk.centred, weights, logit, prior, chunk.rows))

    return over_chunks(points, step, init)


def _posterior_jvp(primals, tangents):
    posterior = _posterior(*primals)
    sums = tangent_sums(posterior, primals, tangents)
    return posterior, posterior_tangents(posterior, sums, primals, tangents)


def tangent_sums(posterior, primals, tangents) -> tuple[Array, ...]:
    """What the derivatives take from a second pass: plain sums over the points, so that parts of a set add up."""
    points, u, sigma = primals
    points_dot, u_dot, sigma_dot = tangents
    v = u - points.centre
    moves = not is_zero(points_dot.points)
    anchor, (is_anchored, middle) = posterior[1], _middle(points, posterior)

    # With c_k = d log(weight_k) up to a common constant, each derivative is a posterior covariance with c_k.
    def body(carry, chunk: WeightedChunk):
        change = jnp.zeros_like(chunk.weights)
        counts = (chunk.weights > 0) & ~(is_anchored & (chunk.rows == anchor.row))
        if not is_zero(u_dot):
            along = jnp.dot(chunk.points, u_dot, precision=HIGHEST)
            along -= jnp.dot(middle, u_dot, precision=HIGHEST)
            change += jnp.where(counts, along, 0) / sigma**2
        if not is_zero(sigma_dot):
            # Those of points without weight may be as large as the dtype holds.
            change -= (2 * sigma_dot / sigma) * jnp.where(chunk.weights > 0, chunk.logits, 0)
        if not is_zero(points_dot.log_weights) and points_dot.log_weights is not None:
            log_weights_dot = jnp.take(points_dot.log_weights, chunk.rows)
            change += jnp.where(chunk.weights > 0, log_weights_dot, 0)
        stretch, drag = jnp.zeros_like(sigma), jnp.zeros_like(v)
        if moves:
            move = jnp.take(points_dot.points, chunk.rows, axis=0)
            towards = jnp.dot(move, v, precision=HIGHEST) - jnp.sum(move * chunk.points, -1)
            change += towards / sigma**2
            stretch = jnp.dot(chunk.weights, towards, precision=HIGHEST)
            drag = jnp.dot(chunk.weights, move, precision=HIGHEST)
        weighted = chunk.weights * change
        sums = (
            jnp.sum(weighted),
            jnp.dot(weighted, chunk.points, precision=HIGHEST),
            jnp.dot(weighted, chunk.logits, precision=HIGHEST),
            jnp.dot(weighted, chunk.log_weights, precision=HIGHEST),
            stretch,
            drag,
        )
        return jax.tree.map(jnp.add, carry, sums)

    zero = jnp.zeros((), v.dtype)
    init = (zero, jnp.zeros_like(v), zero, zero, zero, jnp.zeros_like(v))
    return over_weighted_chunks(posterior, points, u, sigma, body, init)


def _middle(points: PointSet, posterior) -> tuple[Array, Array]:
    """Whether there is an anchor; and the point, relative to the centre, of which the logit's change is subtracted from all.

    The anchor: where it outweighs the others, its own change is then no rounding error.
    """
    summary, anchor, _ = posterior
    is_anchored = anchor.log_weight > -jnp.inf
    return is_anchored, jnp.where(is_anchored, anchor.point - points.centre, summary.mean)


def posterior_tangents(posterior, sums: tuple[Array, ...], primals, tangents):
    """The derivatives of the posterior from the sums over all points."""
    points, u, sigma = primals
    _, u_dot, sigma_dot = tangents
    total, point, logit, log_weight, stretch, drag = sums
    summary = posterior[0]
    v = u - points.centre
    residual = v - summary.mean
    mean_dot = point - total * summary.mean + drag
    along_residual = jnp.dot(residual, mean_dot, precision=HIGHEST)
    log_evidence_dot = total
    if not is_zero(u_dot):
        _, middle = _middle(points, posterior)
        log_evidence_dot -= jnp.dot((v - middle) / sigma**2, u_dot, precision=HIGHEST)
    if not is_zero(sigma_dot):
        mean_square = summary.variance / sigma**2 + jnp.sum((residual / sigma) ** 2)
        log_evidence_dot += sigma_dot * mean_square / sigma
    summary_dot = PosteriorSummary(
        log_evidence=log_evidence_dot,
        mean=mean_dot,
        variance=2 * (along_residual - sigma**2 * logit - stretch),
        entropy=-(logit + log_weight),
    )
    # Nobody differentiates the anchor and the sums: they are read through `stop_gradient` only.
    return summary_dot, *jax.tree.map(_no_tangent, posterior[1:])


def _no_tangent(value: Array) -> Any:
    if jnp.issubdtype(value.dtype, jnp.inexact):
        return jnp.zeros_like(value)
    return np.zeros(value.shape, jax.dtypes.float0)


_posterior.defjvp(_posterior_jvp, symbolic_zeros=True)
