"""What drawn models generate: its density and masses, averaged over models, with standard errors over models."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import RealScalar, as_float_array, require_positive
from .._kinds import checks_kinds
from .._numerics import as_log_weights
from ..measures import Estimate
from ._endpoint_density import require_interval
from ._endpoint_moments import variance_of

HIGHEST = jax.lax.Precision.HIGHEST


class DrawnEndpointDensity(eqx.Module):
    """Law of what is generated from many starts, from endpoints of drawn models: `EndpointDensity` without its expansion.

    Nothing is assumed of the endpoints: they may have several modes. Models are independent, and share their starts: errors
    are standard errors over models. An error is zero where all drawn models agree; then up to about `3 / num_models` of all
    models may do otherwise (at 95 % confidence).

    Args:
        endpoints: of M models from K starts, shape (M, K, d), of `flow_of_models`.
        weights: of the starts, shape (K,), as for `EndpointDensity`.

    Raises:
        ValueError: for another shape, fewer than two models, or bad weights.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> levels = sj.variance.LogUniformLevels(0.1, 10.0)
        >>> problem = sj.variance.DenoisingProblem(jnp.array([[-1.0], [1.0]]), levels)
        >>> kernel = lambda u, s, v, t: jnp.exp(-jnp.sum((u - v) ** 2) / 8 - jnp.log(s / t) ** 2 / 2)
        >>> law = sj.variance.KernelLaw.ridge(problem, kernel, 200, jax.random.key(0), ridge=0.1)
        >>> starts = jnp.linspace(-6.0, 6.0, 24)[:, None]  # on both sides, and between them
        >>> ends = sj.variance.flow_of_models(law, jax.random.key(1), starts, 5.0, 0.5, num_models=50)
        >>> q = sj.variance.DrawnEndpointDensity(ends)
        >>> right, left = q.mass(0.0, jnp.inf), q.mass(-jnp.inf, 0.0)
        >>> bool(abs(right.value + left.value - 1) < 1e-5)
        True
    """

    endpoints: Float[Array, "M K d"]
    log_weights: Float[Array, " K"]

    @checks_kinds
    def __init__(self, endpoints: Float[Array, "M K d"], weights: Any = None):
        endpoints = as_float_array(endpoints, "endpoints")
        if endpoints.ndim != 3 or endpoints.shape[0] < 2:
            raise ValueError(
                "`endpoints` must have shape (models, starts, d) with at least 2 models; got "
                f"{endpoints.shape}."
            )
        num, dtype = endpoints.shape[1], endpoints.dtype
        weights = jnp.ones(num, dtype) if weights is None else weights
        self.endpoints = endpoints
        self.log_weights = as_log_weights(weights, num, "start", dtype)

    @property
    def dim(self) -> int:
        """Dimension d of the data."""
        return self.endpoints.shape[2]

    def log_density(self, x: Float[Array, " d"], bandwidth: RealScalar) -> Estimate:
        """Log density, in nats, of an endpoint plus independent noise `bandwidth z`, averaged over models.

        An average of densities under the logarithm: low by half the squared error. Where few models contribute, so that the
        error is of the order of one, it means little; widen the bandwidth or draw more models.

        Args:
            x: shape (d,). For many, `jax.vmap`.
            bandwidth: standard deviation in data units, positive.

        Raises:
            ValueError: for a bad shape or bandwidth.
        """
        x = as_float_array(x, "x")
        if x.shape != (self.dim,):
            raise ValueError(f"`x` must have shape ({self.dim},); got {x.shape}. Use jax.vmap.")
        width = require_positive(bandwidth, "bandwidth")
        squares = jnp.sum(((x[None, None] - self.endpoints) / width) ** 2, axis=-1)
        scale = self.dim * (jnp.log(width) + 0.5 * jnp.log(2 * jnp.pi))
        each = jax.nn.logsumexp(self.log_weights[None] - 0.5 * squares, axis=1) - scale
        num = each.shape[0]
        value = jax.nn.logsumexp(each) - jnp.log(num)
        # Of mean one; where no density is left in this precision, nothing is known.
        relative = jnp.exp(each - value)
        return Estimate(value, jnp.std(relative, ddof=1) / num**0.5)

    def mass(self, low: RealScalar, high: RealScalar) -> Estimate:
        """Share of what is generated that lies between `low` and `high`, averaged over models. On a line (d = 1).

        Args:
            low, high: in data units, `low < high`; both may be infinite. An endpoint at `low` is outside, at `high` inside.

        Raises:
            ValueError: where d is not 1, or the bounds do not increase.
        """
        shares = self._shares(low, high)
        return Estimate(jnp.mean(shares), jnp.std(shares, ddof=1) / shares.size**0.5)

    def mass_variance(self, low: RealScalar, high: RealScalar) -> Estimate:
        """Variance, over models, of the share that one model puts between `low` and `high`. On a line (d = 1).

        Of the K weighted starts that were followed, as in `EndpointDensity`. Unbiased.

        Args:
            low, high: as for `mass`.

        Raises:
            ValueError: as for `mass`.
        """
        shares = self._shares(low, high)
        return Estimate(*variance_of(shares))

    def _shares(self, low: RealScalar, high: RealScalar) -> Float[Array, " M"]:
        require_interval(self.dim, low, high)
        x = self.endpoints[..., 0]
        inside = ((x > jnp.asarray(low)) & (x <= jnp.asarray(high))).astype(x.dtype)
        return jnp.matmul(inside, jnp.exp(self.log_weights), precision=HIGHEST)
