"""The denoiser protocol, and what follows from any denoiser: score, posterior covariance, proxy-score covariance."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._calls import Denoiser
from .._checks import RealScalar, as_float_array, require_finite, require_positive
from .._jax.host_errors import raising_host_errors
from .._jax.precision import common_dtype
from .._kinds import checks_kinds
from ._compiled import one_program


class AbstractDenoiser(eqx.Module):
    """A denoiser `D(u, sigma)`: the mean of `x_0` given `u = x_0 + sigma z`, for one point `u`.

    Batches are `jax.vmap`. Anything callable as `(u, sigma) -> (d,)` is accepted wherever a denoiser is; this class
    is what the closed-form ones share. Subclasses are final and have these:
    """

    # By identity, so that `jax.jit(denoiser)` works; its arrays are then constants of the compiled program.
    __hash__ = object.__hash__

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """Dimension d of the data."""

    @abc.abstractmethod
    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        """Posterior mean of `x_0` given `u`, in data units."""

    def _point(self, u: Any, sigma: Any) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """Checks `u` and `sigma`, and brings the noise level to the point's dtype."""
        u = as_float_array(u, "u")
        require_finite(u, "u")
        if u.shape != (self.dim,):
            hint = " For a batch, use jax.vmap." if u.ndim > 1 else ""
            raise ValueError(f"`u` must have shape ({self.dim},); got {u.shape}.{hint}")
        sigma = require_positive(sigma, "sigma")
        if sigma.shape != ():
            raise ValueError(
                f"`sigma` must be a scalar; got shape {sigma.shape}. Use jax.vmap for several."
            )
        return u, sigma.astype(u.dtype)

    @one_program
    def mean_and_variance(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """`D(u, sigma)` and `sigma^2 tr dD/du`: for an exact posterior mean, the trace of the posterior covariance.

        The trace of the exact Jacobian (d products) where nothing cheaper is known.
        """
        u, sigma = self._point(u, sigma)
        return _mean_and_variance_by_jacobian(self, u, sigma)


def _mean_and_variance_by_jacobian(denoiser: Denoiser, u: Array, sigma: Array):
    value, product = jax.linearize(lambda u: denoiser(u, sigma), u)
    trace = jnp.trace(jax.vmap(product)(jnp.eye(u.shape[0], dtype=u.dtype)))
    return value, sigma**2 * trace


@checks_kinds
@raising_host_errors
def mean_and_variance(
    denoiser: Denoiser, u: Float[Array, " d"], sigma: RealScalar
) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    """`D(u, sigma)`, shape (d,), and `sigma^2 tr dD/du`, in squared data units, of any denoiser, a bare callable included.

    The second is the trace of the posterior covariance where D is an exact posterior mean (Tweedie). Denoisers that know it
    give both from one pass over their points; of all others it takes the trace of the exact Jacobian, d products.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.EmpiricalDenoiser(jnp.array([[-1.0], [1.0]]))
        >>> mean, variance = sj.denoisers.mean_and_variance(D, jnp.zeros(1), 1.0)
        >>> print(mean, variance)
        [0.] 1.0
    """
    if isinstance(denoiser, AbstractDenoiser):
        return denoiser.mean_and_variance(u, sigma)
    sigma, u = require_positive(sigma, "sigma"), as_float_array(u, "u")
    return _mean_and_variance_by_jacobian(denoiser, u, sigma.astype(u.dtype))


def as_vector(vector: Any, u: Array) -> Float[Array, " d"]:
    """A vector to be multiplied at the point `u`, of its shape and dtype, or `ValueError`."""
    vector = as_float_array(vector, "vector").astype(u.dtype)
    if vector.shape != u.shape:
        raise ValueError(f"`vector` must have shape {u.shape}, like the point; got {vector.shape}.")
    return vector


def in_dtype_of(base: Any, value: Array) -> Array:
    """A parameter in the dtype of the base's arrays: a wider one would make samples wider than the data."""
    arrays = [x for x in jax.tree.leaves(base) if eqx.is_inexact_array(x)]
    if not isinstance(base, AbstractDenoiser) or not arrays:
        return value
    return value.astype(common_dtype(*arrays))


def representable_noise_level(radius: Array, distance: Array, sigma: Array) -> Array:
    """`sigma`, or the lowest noise level at which no logit overflows: 1e-16 in float32, for distances of size one.

    There the posterior has long been one-hot, for any two points that the dtype tells apart.

    Args:
        radius: of the points about their centre.
        distance: of the noisy point from that centre, or more.
        sigma: the noise level.
    """
    tiny = float(jnp.finfo(sigma.dtype).tiny)
    radius, distance = jax.lax.stop_gradient((radius, distance))
    # What is formed are 1 / sigma^2 and logits of size radius (distance + radius) / sigma^2: up to 1e32 in float32.
    by_logits = tiny**0.425 * jnp.sqrt(radius) * jnp.sqrt(distance + radius)
    return jnp.maximum(sigma, jnp.maximum(by_logits, 10 * tiny**0.5).astype(sigma.dtype))


def level_for_slopes(radius: Array, distance: Array, sigma: Array) -> Array:
    """`representable_noise_level` at which the logits' slopes in the noise level do not overflow either."""
    radius, distance = jax.lax.stop_gradient((radius, distance))
    tiny = float(jnp.finfo(sigma.dtype).tiny)
    by_slopes = 10 * tiny ** (1 / 3) * jnp.cbrt(radius) * jnp.cbrt(distance + radius)
    sigma = jnp.maximum(sigma, by_slopes.astype(sigma.dtype))
    return representable_noise_level(radius, distance, sigma)


def length(vector: Float[Array, " d"]) -> Float[Array, ""]:
    """Euclidean norm, for numbers whose squares the dtype cannot hold too."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(vector)))
    unit = jnp.where(largest > 0, largest, 1)
    return unit * jnp.sqrt(jnp.sum((vector / unit) ** 2))


class AbstractPosteriorDenoiser(AbstractDenoiser):
    """A denoiser that is the exact posterior mean of a known law, with that law's other moments in closed form."""

    @abc.abstractmethod
    def log_density(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        """Log density, in nats, of `x_0 + sigma z` at `u`."""

    @abc.abstractmethod
    def posterior_covariance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, "d d"]:
        """Covariance of `x_0` given `u`, in squared data units."""

    @abc.abstractmethod
    def posterior_variance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        """Trace of the posterior covariance, without forming it."""

    @abc.abstractmethod
    def posterior_covariance_product(
        self, u: Float[Array, " d"], sigma: RealScalar, vector: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        """Posterior covariance times `vector`, without forming it."""

    def mean_and_variance(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The posterior mean and the trace of the posterior covariance, together where that is cheaper."""
        return self(u, sigma), self.posterior_variance(u, sigma)

    @abc.abstractmethod
    def mean_and_covariance(self) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        """Mean and covariance of the law of `x_0` itself."""


@checks_kinds
@raising_host_errors
def score(denoiser: Denoiser, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
    """Score `grad log p_sigma(u) = (D(u, sigma) - u) / sigma^2`, in inverse data units.

    **float32**: the error is that of the denoiser (about 1e-7 of the data scale) divided by `sigma^2`. Compare and
    integrate denoisers, and take the score at the end.

    Source: Vincent 2011.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> gaussian = sj.GaussianDenoiser(jnp.zeros(2), jnp.eye(2))
        >>> print(sj.score(gaussian, jnp.array([1.0, 2.0]), 1.0))
        [-0.5 -1. ]
    """
    sigma = require_positive(sigma, "sigma")
    u = as_float_array(u, "u")
    sigma = sigma.astype(u.dtype)
    # One division after the other: the square of a small noise level underflows in float32.
    return (denoiser(u, sigma) - u) / sigma / sigma


@checks_kinds
@raising_host_errors
def posterior_covariance(
    denoiser: Denoiser, u: Float[Array, " d"], sigma: RealScalar
) -> Float[Array, "d d"]:
    """Covariance of `x_0` given `u`: in closed form where the denoiser has it, else `sigma^2 dD/du`.

    The second form is Tweedie's second-order formula; for a network it is its Jacobian, which need not be symmetric.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> law = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
        >>> shrink = lambda u, sigma: u / (1 + sigma**2)  # the same, by Tweedie's formula
        >>> [sj.posterior_covariance(D, jnp.array([3.0]), 1.0).round(5).tolist() for D in (law, shrink)]
        [[[0.5]], [[0.5]]]
    """
    if isinstance(denoiser, AbstractPosteriorDenoiser):
        return denoiser.posterior_covariance(u, sigma)
    sigma = require_positive(sigma, "sigma")
    u = as_float_array(u, "u")
    return sigma.astype(u.dtype) ** 2 * jax.jacfwd(denoiser)(u, sigma)


@checks_kinds
@raising_host_errors
def posterior_variance(
    denoiser: Denoiser, u: Float[Array, " d"], sigma: RealScalar
) -> Float[Array, ""]:
    """Trace of the posterior covariance: in closed form where there is one, else from the exact Jacobian.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.EmpiricalDenoiser(jnp.array([[-1.0, 0.0], [1.0, 0.0]]))
        >>> [round(float(sj.posterior_variance(D, jnp.array([x, 0.0]), 0.1)), 5) for x in (0.0, 1.0)]
        [1.0, 0.0]
    """
    if isinstance(denoiser, AbstractPosteriorDenoiser):
        return denoiser.posterior_variance(u, sigma)
    return mean_and_variance(denoiser, u, sigma)[1]


@checks_kinds
@raising_host_errors
def posterior_covariance_product(
    denoiser: Denoiser, u: Float[Array, " d"], sigma: RealScalar, vector: Float[Array, " d"]
) -> Float[Array, " d"]:
    """Posterior covariance times a vector, without forming a (d, d) matrix.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> law = sj.GaussianDenoiser(jnp.zeros(2), jnp.diag(jnp.array([1.0, 0.0])))
        >>> print(sj.posterior_covariance_product(law, jnp.ones(2), 1.0, jnp.array([4.0, 4.0])).round(5))
        [2. 0.]
    """
    if isinstance(denoiser, AbstractPosteriorDenoiser):
        return denoiser.posterior_covariance_product(u, sigma, vector)
    sigma = require_positive(sigma, "sigma")
    u = as_float_array(u, "u")
    product = jax.jvp(lambda u: denoiser(u, sigma), (u,), (as_vector(vector, u),))[1]
    return sigma.astype(u.dtype) ** 2 * product


@checks_kinds
@raising_host_errors
def proxy_score_covariance(
    denoiser: Denoiser, u: Float[Array, " d"], sigma: RealScalar
) -> Float[Array, "d d"]:
    """Covariance of the denoising target `(x_0 - u) / sigma^2` given `u`: the posterior covariance over `sigma^4`.

    Source: Vastola, "Generalization through variance", ICLR 2025 (the proxy score and its covariance).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
        >>> print(sj.proxy_score_covariance(D, jnp.array([0.0]), 2.0).round(5))  # variance 4 / 5, over 2^4
        [[0.05]]
    """
    sigma = require_positive(sigma, "sigma")
    u = as_float_array(u, "u")
    sigma = sigma.astype(u.dtype)
    return posterior_covariance(denoiser, u, sigma) / sigma / sigma / sigma / sigma
