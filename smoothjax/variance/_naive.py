"""The naive estimator: the flow that takes a fresh noisy target at every step, a stochastic process."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import RealScalar, as_key, as_positive_integer, checked, require_positive
from .._kinds import checks_kinds
from .._levels import as_level, as_state
from .._ode.linear_part import linear_step
from ..denoisers import AbstractPosteriorDenoiser
from ..processes import AbstractProcess


class NaiveStrength(eqx.Module):
    """Strength over sigma of the naive estimator of a forward process: `kappa g^2 / (2 sigma_t^2)` a unit of log sigma.

    Args:
        process: with diffusion g and noise sigma_t at the time that belongs to sigma.
        kappa: in units of the process's time: each step of length dt takes `kappa / dt` of the target's noise.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.variance.NaiveStrength(sj.EDM(), 0.5)(jnp.array(2.0)))  # of EDM, kappa / sigma
        0.25
    """

    process: AbstractProcess
    kappa: Float[Array, ""]

    @checks_kinds
    def __init__(self, process: AbstractProcess, kappa: RealScalar):
        self.process, self.kappa = process, require_positive(kappa, "kappa")

    def __call__(self, sigma: Float[Array, ""]) -> Float[Array, ""]:
        t = self.process.time(sigma)
        return self.kappa * (self.process.diffusion(t) / self.process.sigma(t)) ** 2 / 2


class NaiveLaw(eqx.Module):
    """The naive estimator as a law: the exact denoiser, disturbed anew at every step by noise of the target's covariance.

    Its V-kernel is white, `strength(sigma) Cov(x_0 | u) delta(log sigma - log tau)` for one trajectory and zero between two:
    a density, not a covariance of functions, so that it has `intensity` in place of `covariance` and `flow` in place of
    `sample`.

    Args:
        mean_denoiser: exact posterior mean, with its covariance.
        strength: dimensionless, a number or a function of sigma; `NaiveStrength(process, kappa)` is the paper's.

    Raises:
        ValueError: for a denoiser without posterior covariance, or a strength that is not positive.

    Source: Vastola, ICLR 2025, Proposition 4.1.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> law = sj.NaiveLaw(sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1)), 0.5)
        >>> print(law.intensity(jnp.array([0.0]), 1.0).round(5))  # half of the posterior variance, 1/2
        [[0.25]]
    """

    mean_denoiser: AbstractPosteriorDenoiser
    strength: Callable[[Float[Array, ""]], Any]

    @checks_kinds
    def __init__(
        self,
        mean_denoiser: AbstractPosteriorDenoiser,
        strength: Callable[[Float[Array, ""]], Any] | RealScalar,
    ):
        self.mean_denoiser = mean_denoiser
        self.strength = _as_function(strength)

    @property
    def dim(self) -> int:
        return self.mean_denoiser.dim

    def intensity(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, "d d"]:
        """What the noise adds to the covariance of u, a unit of log sigma: squared data units."""
        covariance = self.mean_denoiser.posterior_covariance(u, sigma)
        return jnp.asarray(self.strength(jnp.asarray(sigma)), covariance.dtype) * covariance

    def flow(
        self,
        key: PRNGKeyArray,
        u: Float[Array, " d"],
        sigma_from: RealScalar,
        sigma_to: RealScalar,
        *,
        steps: int,
    ) -> Float[Array, " d"]:
        """One path: `naive_flow`."""
        key = as_key(key)
        return naive_flow(
            self.mean_denoiser, key, u, sigma_from, sigma_to, strength=self.strength, steps=steps
        )


@checks_kinds
def naive_flow(
    denoiser: AbstractPosteriorDenoiser,
    key: PRNGKeyArray,
    u: Float[Array, " d"],
    sigma_from: RealScalar,
    sigma_to: RealScalar,
    *,
    strength: Callable[[Float[Array, ""]], Any] | RealScalar,
    steps: int,
) -> Float[Array, " d"]:
    """One path of the flow whose denoiser is disturbed, at every step anew, by noise of the posterior's covariance.

    In `tau = -log sigma`: `du = (D - u) dtau + sqrt(strength) B dW` with `B B^T = Cov(x_0 | u)`, in the sense of Ito, since
    each step draws before it moves. Unlike the reverse SDE its noise vanishes where one training point is certain, and is
    singular in general. A step solves the linear part exactly, with D and the covariance of its start and the strength as
    it goes: of weak order one, and stable however long the step. The noise has no memory: different paths do not share it,
    and there is no kernel between two places.

    Args:
        denoiser: exact posterior mean, with its covariance.
        key: for the noise. For many paths, `jax.vmap` over `key` and `u`.
        u: state at `sigma_from`, shape (d,).
        sigma_from, sigma_to: positive noise levels, decreasing.
        strength: dimensionless, a number or a function of sigma; `NaiveStrength(process, kappa)` is the paper's.
        steps: uniform in log sigma.

    Raises:
        ValueError: for a denoiser without posterior covariance, a bad shape, noise level or number of steps.

    Source: Vastola, ICLR 2025, Proposition 4.1 (in log sigma, where the boundary's noise is resolved).

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianDenoiser(jnp.ones(1), jnp.zeros((1, 1)))  # of one point: its target has no noise
        >>> print(sj.variance.naive_flow(D, jax.random.key(0), jnp.array([3.0]), 2.0, 1.0, strength=1.0, steps=3).round(4))
        [2.]
    """
    key = as_key(key)
    u = as_state(u)
    steps = as_positive_integer(steps, "steps")
    high = as_level(sigma_from, "sigma_from", u.dtype)
    low = as_level(sigma_to, "sigma_to", u.dtype)
    given = f"; got {sigma_from} and {sigma_to}"
    low = checked(low, low >= high, "`sigma_to` must lie below `sigma_from`", given)
    return _solve(denoiser, key, u, high, low, _as_function(strength), steps)


def _as_function(strength: Any) -> Callable[[Array], Any]:
    return strength if callable(strength) else _Constant(require_positive(strength, "strength"))


class _Constant(eqx.Module):
    value: Array

    def __call__(self, sigma: Array) -> Array:
        return self.value


# Of the strength over a step, in log sigma.
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(6)


@eqx.filter_jit
def _solve(denoiser, key, u, high, low, strength, steps):
    levels = jnp.exp(jnp.linspace(jnp.log(high), jnp.log(low), steps + 1, dtype=u.dtype))
    h = (jnp.log(low) - jnp.log(high)).astype(u.dtype) / steps

    def step(u, k):
        sigma = levels[k]
        ahead = linear_step(u, denoiser(u, sigma), h)
        # Singular in general: eigenvalues, not Cholesky.
        values, vectors = jnp.linalg.eigh(denoiser.posterior_covariance(u, sigma))
        scale = jnp.sqrt(_decayed_strength(strength, sigma, h) * jnp.maximum(values, 0))
        noise = jax.random.normal(jax.random.fold_in(key, k), u.shape, u.dtype)
        return ahead + jnp.matmul(vectors, scale * noise, precision="highest"), None

    return jax.lax.scan(step, u, jnp.arange(steps))[0]


def _decayed_strength(strength, sigma, h):
    """What is left, at the end of a step h in log sigma, of the noise on the way: `(end / r)^2 strength(r)`, integrated."""
    way = 0.5 * (1 + jnp.asarray(_NODES, sigma.dtype))
    each = [jnp.asarray(strength(sigma * jnp.exp(h * x)), sigma.dtype) for x in way]
    weights = 0.5 * jnp.asarray(_NODE_WEIGHTS, sigma.dtype) * jnp.exp(2 * h * (1 - way))
    return -h * jnp.sum(weights * jnp.stack(each))
