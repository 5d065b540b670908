"""The posterior mean over training points, and what else its summary holds, wherever the points are."""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._checks import RealScalar
from ..._jax.precision import common_dtype
from .._base import AbstractPosteriorDenoiser, as_vector, representable_noise_level
from .._posterior.point_posterior import PosteriorSummary, at_own_level
from .._posterior.point_set import PointSet


class AbstractPointsDenoiser(AbstractPosteriorDenoiser):
    """The exact posterior mean over a set of points. Subclasses say how the posterior is summarised."""

    _points: eqx.AbstractVar[PointSet]

    @property
    @abc.abstractmethod
    def _log_prior_mass(self) -> float:
        """Logarithm of the sum of the prior weights, as they are kept."""

    @abc.abstractmethod
    def _summary_of(self, u: Array, sigma: Array) -> PosteriorSummary:
        """The posterior's summary at a query that was checked."""

    @property
    def dim(self) -> int:
        return self._points.points.shape[1]

    def _query(self, u: Any, sigma: Any) -> tuple[Array, Array]:
        u, sigma = self._point(u, sigma)
        dtype = common_dtype(u.dtype, self._points.points.dtype)
        u, sigma = u.astype(dtype), sigma.astype(dtype)
        distance = jnp.sum(jnp.abs(u - self._points.centre))
        return u, representable_noise_level(self._points.radius, distance, sigma)

    def _summary(self, u: Any, sigma: Any) -> PosteriorSummary:
        return self._summary_of(*self._query(u, sigma))

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        return self._points.centre + self._summary(u, sigma).mean

    def log_density(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        """Log density, in nats, of a training point plus noise.

        Correct to about `eps (|u - y|^2 / sigma^2 + d |log sigma| + 4096)`, with y the points that carry weight.
        """
        (u, level), sigma = self._query(u, sigma), self._point(u, sigma)[1].astype(u.dtype)
        log_density = at_own_level(self._summary_of(u, level).log_evidence, level, sigma)
        log_density -= self.dim * (jnp.log(sigma) + 0.5 * math.log(2 * math.pi))
        return log_density - self._log_prior_mass

    def posterior_variance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        return self._summary(u, sigma).variance

    def mean_and_variance(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        summary = self._summary(u, sigma)
        return self._points.centre + summary.mean, summary.variance

    def posterior_entropy(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        """Entropy, in nats, of the posterior over the training points. Its exponential counts effective neighbours."""
        return self._summary(u, sigma).entropy

    def posterior_covariance_product(
        self, u: Float[Array, " d"], sigma: RealScalar, vector: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        u, sigma = self._query(u, sigma)
        # The rule of differentiation of the posterior mean is the covariance, in closed form.
        mean = lambda u: self._summary_of(u, sigma).mean  # noqa: E731
        return sigma**2 * jax.jvp(mean, (u,), (as_vector(vector, u),))[1]
