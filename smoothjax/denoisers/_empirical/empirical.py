"""The exact posterior mean over a training set: what a network that learned its target perfectly would compute."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._checks import RealScalar, as_points, as_positive_integer, require_finite
from ..._jax.largest import LANES
from ..._kinds import checks_kinds
from ..._numerics import as_log_weights
from .._posterior.point_posterior import (
    PosteriorSummary,
    WeightedChunk,
    over_posterior,
    posterior_summary,
)
from .._posterior.point_set import PointSet
from .over_points import AbstractPointsDenoiser

# A chunk of 2,048 float32 points of 784 numbers is 6 MB: in cache, and large enough for the matrix product (measured, for 64
# queries and for 512: from 1000 to 2500 equally fast; faster than 500, and than 5000). Of 3,072 numbers 512 points are as
# many bytes: as fast for 64 queries and 512, and 1.8 times as fast for one, which reads a chunk twice.
DEFAULT_CHUNK_SIZE, CHUNK_BYTES, LEAST_CHUNK_SIZE = 2048, 2048 * 784 * 4, 128


def equal_chunks(n: int, row_bytes: int, most: int | None) -> int:
    """The size of equal chunks of n points, at most `most`: the last one repeats few points of the one before it."""
    if most is None:
        # Down to whole vector registers.
        rows = CHUNK_BYTES // row_bytes // LANES * LANES
        most = min(max(rows, LEAST_CHUNK_SIZE), DEFAULT_CHUNK_SIZE)
    most = as_positive_integer(most, "chunk_size")
    num_chunks = -(-n // most)
    size = -(-n // num_chunks)
    # Whole vector registers, where that is allowed.
    return size if num_chunks == 1 else min(-(-size // LANES) * LANES, most)


@jax.jit  # One program, where each operation would be one of its own.
def _centred(data: Float[Array, "n d"]) -> tuple[Array, Array, Array]:
    """The mean, half the squared distances from it, and the largest distance.

    Constants to differentiation: the posterior does not depend on them.
    """
    centre = jnp.mean(data, axis=0)
    half_square = 0.5 * jnp.sum((data - centre[None]) ** 2, axis=-1)
    return jax.lax.stop_gradient((centre, half_square, jnp.sqrt(2 * jnp.max(half_square))))


class EmpiricalDenoiser(AbstractPointsDenoiser):
    """Exact posterior mean `E[x_0 | u]` when `x_0` is drawn from a finite training set.

    This is the denoiser that minimises the denoising loss over all functions; its flow replays the training set.
    Cost: two products of `n d` a call, one matrix product each when vmapped. Memory: one chunk's logits. The training
    set is a leaf of the pytree, so it is an argument of compiled functions and never a constant in them.

    **Accuracy.** Below `sigma^2 = R (|u - c| + R) / 4096` (centre c, radius R of the data) the weights of points that
    compete are computed from exact differences, not from the expanded square. With `eps` the machine epsilon and r the
    largest distance between two points that carry weight, the error of the mean is at most about the sum of

        eps (|c| + R)       from rounding the points and the result,
        2048 eps r          from what the product is trusted with,
        r min(1, 4 eps max |u - (y_j + y_k)/2| |y_j - y_k| / sigma^2)     from the differences, over those points.

    The second is a worst case; a tenth of it is typical at that noise level, and far less elsewhere. The third is small
    for a query between points, midway too. It is large where u is `sigma^2 / (eps r)` or more away from all of them, and
    rounding `u` itself has the same effect there. `posterior_variance` is correct to a few `eps R^2`, in absolute
    terms, and r times the error of the mean.

    **Domain.** Any noise level, and any point for which the dtype holds `R (|u - c| + R)`: |u| up to 1e30 in float32
    for data of size one. Noise levels at which exponents would overflow (`1e-16 sqrt(R (|u - c| + R))` in float32) are
    raised to the lowest that does not: the posterior is one-hot there. A log density below all numbers is minus infinity.

    Args:
        data: training points, shape (n, d), in data units.
        weights: positive prior weights, shape (n,), normalised here. Uniform by default. Zero removes a point.
        chunk_size: training points visited at a time. Changes memory and speed only.

    Raises:
        ValueError: for a wrong shape, a training set that is empty, not finite or too large for its dtype to be squared,
            weights that are negative or all zero, a chunk size that is not a positive integer.

    Source: Karras et al. 2022, eq. (57) (appendix B.3).

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> D = sj.EmpiricalDenoiser(jnp.array([[-1.0], [1.0]]))
        >>> print(D(jnp.array([0.3]), 1.0).round(4))  # tanh(u / sigma^2)
        [0.2913]
        >>> jax.vmap(D, in_axes=(0, None))(jnp.zeros((5, 1)), 0.1).shape
        (5, 1)
    """

    _points: PointSet

    @checks_kinds
    def __init__(self, data: Any, weights: Any = None, chunk_size: int | None = None):
        data = as_points(data)
        n, _ = data.shape
        log_weights = None
        if weights is not None:
            log_weights = as_log_weights(weights, n, "point", data.dtype)
        size = equal_chunks(n, data.shape[1] * data.dtype.itemsize, chunk_size)
        centre, half_square, radius = _centred(data)
        require_finite(half_square, "|data - mean|^2 / 2")
        self._points = PointSet(data, log_weights, centre, half_square, radius, size)

    @property
    def data(self) -> Float[Array, "n d"]:
        """The training points."""
        return self._points.points

    @property
    def weights(self) -> Float[Array, " n"]:
        """The prior weights, which sum to one."""
        if self._points.log_weights is None:
            n = self.data.shape[0]
            return jnp.full(n, 1 / n, self.data.dtype)
        return jnp.exp(self._points.log_weights)

    @property
    def chunk_size(self) -> int:
        """Training points visited at a time."""
        return self._points.chunk_size

    @property
    def _log_prior_mass(self) -> float:
        # Uniform weights are kept as ones, which rounds nothing.
        return 0.0 if self._points.log_weights is not None else math.log(self.data.shape[0])

    def _summary_of(self, u: Array, sigma: Array) -> PosteriorSummary:
        return posterior_summary(self._points, u, sigma)

    def posterior_covariance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, "d d"]:
        u, sigma = self._query(u, sigma)
        mean = posterior_summary(self._points, u, sigma).mean
        init = mean, jnp.zeros((u.size, u.size), u.dtype)
        return over_posterior(self._points, u, sigma, add_scatter, init)[1]

    def mean_and_covariance(self) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        # Of a denoiser that is a constant of a user's program, XLA would compute this when it compiles, for minutes.
        weights, data = jax.lax.optimization_barrier((self.weights, self.data))
        centred = data - self._points.centre[None]
        mean = jnp.dot(weights, centred, precision=jax.lax.Precision.HIGHEST)
        difference = centred - mean[None]
        covariance = jnp.dot(
            (weights[:, None] * difference).T, difference, precision=jax.lax.Precision.HIGHEST
        )
        return self._points.centre + mean, covariance


def add_scatter(carry: tuple[Array, Array], chunk: WeightedChunk) -> tuple[Array, Array]:
    mean, total = carry
    difference = chunk.points - mean[None]
    weighted = chunk.weights[:, None] * difference
    return mean, total + jnp.dot(weighted.T, difference, precision=jax.lax.Precision.HIGHEST)
