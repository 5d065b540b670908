"""What trained models generate: its density and masses, averaged over models, and how masses vary between models."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from .._checks import RealScalar, as_float_array, is_concrete, require_positive
from .._kinds import checks_kinds
from .._numerics import as_log_weights
from ..denoisers import GaussianDenoiser
from ._semiclassical import Semiclassical, warn_of_large_shifts

HIGHEST = jax.lax.Precision.HIGHEST
# Correlations up to here by quadrature in the angle, beyond by the expansion about one. Genz's choice: 20 nodes then give
# either to rounding.
LARGE_CORRELATION = 0.925


class EndpointDensity(eqx.Module):
    """Law of what is generated from many starts, from the semiclassical law of each endpoint.

    Averaged over models, a start x_T with weight w ends in a normal law of its own: `q = sum w N(mean(x_T), Sigma(x_T))`. A
    single model generates less than that, each start going to one place; `mass_variance` says how models differ.

    That holds as far as models differ little against the distance to the boundary of a basin, which nothing in `ends` shows.
    `DrawnEndpointDensity` gives the same of drawn models, without that assumption and with standard errors.

    Args:
        ends: of K starts, every leaf with a leading axis: `jax.vmap` of `semiclassical`.
        weights: of the starts, shape (K,), normalised here: of quadrature nodes for the law of the starts, or equal (the
            default) for samples or quantiles of it. The spacing of the endpoints must be below their standard deviations
            (or the bandwidth's) for q to be smooth.

    Warns:
        Of starts with `chi > 0.3`, if values are known: what they add to q is wrong. No warning says nothing.

    Raises:
        ValueError: for one start without a leading axis, or weights of another length, negative or all zero.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> levels = sj.variance.LogUniformLevels(0.1, 10.0)
        >>> problem = sj.variance.DenoisingProblem(jnp.array([[-1.0], [1.0]]), levels)
        >>> kernel = lambda u, s, v, t: jnp.exp(-jnp.sum((u - v) ** 2) / 8 - jnp.log(s / t) ** 2 / 2)
        >>> law = sj.variance.KernelLaw.ridge(problem, kernel, 200, jax.random.key(0), ridge=0.1)
        >>> starts = jnp.linspace(2.0, 6.0, 50)[:, None]  # equally weighted, on one side
        >>> ends = jax.vmap(lambda u: sj.variance.semiclassical(law, u, 5.0, 0.5))(starts)
        >>> q = sj.variance.EndpointDensity(ends)
        >>> bool(q.mass(0.0, jnp.inf) > 0.99)
        True

    Source: Vastola, ICLR 2025, the second cumulant of the path integral; with the second-order mean of `semiclassical`.
    """

    ends: Semiclassical
    log_weights: Float[Array, " K"]

    @checks_kinds
    def __init__(self, ends: Semiclassical, weights: Any = None):
        if ends.mean_flow.ndim != 2 or ends.factor.ndim != 3:
            raise ValueError(
                "`ends` must be those of many starts, every leaf with a leading axis; got a mean flow of shape "
                f"{ends.mean_flow.shape}. Use jax.vmap of `semiclassical`."
            )
        num, dtype = ends.mean_flow.shape[0], ends.mean_flow.dtype
        weights = jnp.ones(num, dtype) if weights is None else weights
        self.ends, self.log_weights = ends, as_log_weights(weights, num, "start", dtype)
        warn_of_large_shifts(ends)

    @property
    def dim(self) -> int:
        """Dimension d of the data."""
        return self.ends.mean_flow.shape[1]

    def log_density(self, x: Float[Array, " d"], bandwidth: RealScalar) -> Float[Array, ""]:
        """Log density, in nats, of an endpoint plus independent noise `bandwidth z`.

        An endpoint's covariance may be singular: where all models agree, or differ in fewer directions than there are
        dimensions. The noise gives every term a density. Small against the endpoints' standard deviations it changes
        nothing: q is then right to the order of the square of their ratio.

        Args:
            x: shape (d,). For many, `jax.vmap`.
            bandwidth: standard deviation in data units, positive.

        Raises:
            ValueError: for a bad shape or bandwidth.
        """

        def component(end: Semiclassical) -> GaussianDenoiser:
            # Of J, not of J J^T: nothing is squared.
            basis, singular, _ = jnp.linalg.svd(end.factor, full_matrices=False)
            return GaussianDenoiser.low_rank(end.mean, basis, singular**2)

        x = as_float_array(x, "x")
        if x.shape != (self.dim,):
            raise ValueError(f"`x` must have shape ({self.dim},); got {x.shape}. Use jax.vmap.")
        width = require_positive(bandwidth, "bandwidth")
        terms = jax.vmap(lambda end: component(end).log_density(x, width))(self.ends)
        return jax.nn.logsumexp(self.log_weights + terms)

    def mass(self, low: RealScalar, high: RealScalar) -> Float[Array, ""]:
        """Share of what is generated that lies between `low` and `high`, averaged over models. On a line (d = 1).

        Args:
            low, high: in data units, `low < high`; both may be infinite. For many bins, `jax.vmap`.

        Raises:
            ValueError: where d is not 1, or the bounds do not increase.
        """
        edges = self._edges(low, high)
        inside = ndtr(edges[:, 1]) - ndtr(edges[:, 0])
        # In the upper tail from the other side, whose numbers are small.
        inside = jnp.where(edges[:, 0] > 0, ndtr(-edges[:, 0]) - ndtr(-edges[:, 1]), inside)
        return jnp.dot(jnp.exp(self.log_weights), inside, precision=HIGHEST)

    def mass_variance(self, low: RealScalar, high: RealScalar) -> Float[Array, ""]:
        """Variance, over models, of the share that one model puts between `low` and `high`. On a line (d = 1).

        `sum_kl w_k w_l (N_kl(B x B) - N_k(B) N_l(B))` over all pairs of starts, with the bivariate normal law of two
        endpoints of one model: O(K^2) probabilities. Exactly the share of these K weighted starts; for K independent samples
        of a law of starts, where the law's own share is meant, the pairs k = l add about `mass / K`. There is no variance of
        the density at a point: it diverges, from pairs of starts next to each other. Use bins.

        Correlations are known to rounding; near one, probabilities only to its root (1e-4 in float32).

        Args:
            low, high: as for `mass`.

        Raises:
            ValueError: as for `mass`.
        """
        edges, factor = self._edges(low, high), self.ends.factor[:, 0, :]
        spread = jnp.linalg.norm(factor, axis=1, keepdims=True)
        directions = factor / jnp.where(spread > 0, spread, 1)
        correlation = jnp.matmul(directions, directions.T, precision=HIGHEST)
        return _variance_of_mass(edges, jnp.exp(self.log_weights), correlation)

    def _edges(self, low: RealScalar, high: RealScalar) -> Float[Array, "K 2"]:
        """Both bounds in the units of each endpoint's normal law."""
        require_interval(self.dim, low, high)
        mean, dtype = self.ends.mean, self.ends.mean_flow.dtype
        spread = jnp.linalg.norm(self.ends.factor[:, 0, :], axis=1, keepdims=True)
        # Without spread the endpoint is on one side of a bound, far in these units.
        spread = jnp.maximum(spread, jnp.finfo(dtype).tiny)
        bounds = jnp.stack([as_float_array(low, "low"), as_float_array(high, "high")])
        return (bounds.astype(dtype)[None] - mean) / spread


def require_interval(dim: int, low: RealScalar, high: RealScalar) -> None:
    if dim != 1:
        raise ValueError(f"Masses of intervals need d = 1; got d = {dim}.")
    if is_concrete(low, high) and not np.all(np.asarray(low) < np.asarray(high)):
        raise ValueError(f"`low` must lie below `high`; got {low} and {high}.")


@eqx.filter_jit
def _variance_of_mass(edges: Array, weights: Array, correlation: Array) -> Array:
    low, high = edges[:, 0], edges[:, 1]

    def row(one: tuple[Array, Array, Array]) -> Array:
        below, above, rho = one
        covariance = (
            orthant_covariance(above, high, rho)
            - orthant_covariance(above, low, rho)
            - orthant_covariance(below, high, rho)
            + orthant_covariance(below, low, rho)
        )
        return jnp.dot(weights, covariance, precision=HIGHEST)

    rows = jax.lax.map(row, (low, high, correlation))
    return jnp.dot(weights, rows, precision=HIGHEST)


def orthant_covariance(
    h: Float[Array, "..."], k: Float[Array, "..."], correlation: Float[Array, "..."]
) -> Float[Array, "..."]:
    """`P(x > h, y > k) - P(x > h) P(y > k)` of standard normal x and y with the given correlation; arrays broadcast.

    The derivative by the correlation is the joint density (Plackett), which is integrated over the angle whose sine is the
    correlation; close to one over what is missing to one instead, the singular part in closed form.

    Source: Drezner and Wesolowsky 1990; Genz 2004 (Statistics and Computing 14, 251).
    """
    h, k, correlation = jnp.broadcast_arrays(h, k, correlation)
    # Beyond 40 standard deviations nothing is left, in either precision; infinite bounds end there.
    h, k = jnp.clip(h, -40, 40), jnp.clip(k, -40, 40)
    # Exchanging an orthant for its neighbour, y for -y, changes the sign.
    sign = jnp.where(correlation < 0, -1, 1).astype(h.dtype)
    rho, k = jnp.minimum(jnp.abs(correlation), 1), sign * k
    rule = np.polynomial.legendre.leggauss(20)
    # Along a last axis of their own.
    nodes, weights = (jnp.asarray(x, h.dtype).reshape(*[1] * h.ndim, -1) for x in rule)
    moderate = _by_angle(h, k, jnp.minimum(rho, LARGE_CORRELATION), nodes, weights)
    large = _from_one(h, k, jnp.maximum(rho, LARGE_CORRELATION), nodes, weights)
    return sign * jnp.where(rho < LARGE_CORRELATION, moderate, large)


def _by_angle(h: Array, k: Array, rho: Array, nodes: Array, weights: Array) -> Array:
    half = jnp.arcsin(rho) / 2
    sine = jnp.sin(half[..., None] * (1 + nodes))
    h, k = h[..., None], k[..., None]
    exponent = (sine * h * k - 0.5 * (h**2 + k**2)) / (1 - sine**2)
    return half * jnp.sum(weights * jnp.exp(exponent), axis=-1) / (2 * jnp.pi)


def _from_one(h: Array, k: Array, rho: Array, nodes: Array, weights: Array) -> Array:
    # With s^2 = 1 - r^2 the density times dr is exp(-(h - k)^2 / (2 s^2) - h k / (1 + r)) ds / (2 pi r) from 0 to a. The
    # second factor is exp(-h k / 2) (1 + c s^2 + c d s^4) to sixth order: those terms in closed form, the rest by nodes.
    tiny = jnp.finfo(h.dtype).eps ** 4
    square = jnp.maximum((1 - rho) * (1 + rho), tiny)
    a, gap, product = jnp.sqrt(square), (h - k) ** 2, h * k
    c, d = (4 - product) / 8, (12 - product) / 16
    distance = jnp.abs(h - k)
    # Where h k < -100 the gap's exponential is below exp(-200): zero, though the other factor overflows.
    seen = product > -100
    known = jnp.where(seen, product, 0)
    closed = (
        a
        * jnp.exp(-0.5 * (gap / square + known))
        * (1 - c * (gap - square) * (1 - d * gap / 5) / 3 + c * d * square**2 / 5)
    )
    tail = jnp.sqrt(2 * jnp.pi) * ndtr(-distance / a)
    closed -= jnp.exp(-0.5 * known) * tail * distance * (1 - c * gap * (1 - d * gap / 5) / 3)
    s2 = (0.5 * a[..., None] * (1 + nodes)) ** 2
    r = jnp.sqrt(1 - s2)
    known, c, d = known[..., None], c[..., None], d[..., None]
    expansion = 1 + c * s2 * (1 + d * s2)
    rest = expansion - jnp.exp(-0.5 * known * s2 / (1 + r) ** 2) / r
    gaussian = jnp.exp(-0.5 * (gap[..., None] / s2 + known))
    remainder = 0.5 * a * jnp.sum(weights * gaussian * rest, axis=-1)
    missing = jnp.where(seen, closed - remainder, 0) / (2 * jnp.pi)
    # P(x > max(h, k)) P(x < min(h, k)) at correlation one, less what is missing.
    return ndtr(-jnp.maximum(h, k)) * ndtr(jnp.minimum(h, k)) - missing
