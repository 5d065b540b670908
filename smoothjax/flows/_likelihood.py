"""Log-likelihoods by the change of variables along the probability flow."""

import functools
import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import RealScalar, as_positive_integer
from ..denoisers import AbstractDenoiser, AbstractPosteriorDenoiser, Denoiser, GaussianDenoiser
from ..denoisers._base import mean_and_variance
from ._inputs import as_argument, as_level, as_state, checked, denoised
from ._probability_flow import default_solver, tolerances


class LikelihoodSolution(eqx.Module):
    """A log-likelihood with what is known of its error."""

    value: Float[Array, ""]
    """Log density, in nats, at noise level `sigma_min`."""
    standard_error: Float[Array, ""]
    """Of the trace estimate; zero where the trace is exact."""
    terminal_mismatch: Float[Array, ""]
    """What the Gaussian at `sigma_max` leaves out: the exact log density there minus the Gaussian's, in nats. NaN where
    the denoiser has no exact log density; `terminal_mismatch_bound` bounds it for training data."""
    latent: Float[Array, " d"]
    """The state at `sigma_max`."""
    result: diffrax.RESULTS
    num_steps: Int[Array, ""]


def log_likelihood(
    denoiser: Denoiser,
    u: Float[Array, " d"],
    *,
    sigma_min: RealScalar = 0.002,
    sigma_max: RealScalar = 80.0,
    prior: GaussianDenoiser | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    solver: diffrax.AbstractSolver | None = None,
) -> Float[Array, ""]:
    """Log density, in nats, that the probability flow of `denoiser` gives to `u` at noise level `sigma_min`.

    With the exact trace of the Jacobian; see `likelihood_solution` for the arguments, for a stochastic estimate of the
    trace, and for what is known of the error. Divide by `-d log 2` for bits a dimension. A density at a noise level is that
    of `x_0 + sigma_min z`: a finite training set has none at zero.
    """
    return likelihood_solution(
        denoiser,
        u,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        prior=prior,
        rtol=rtol,
        atol=atol,
        solver=solver,
    ).value


def likelihood_solution(
    denoiser: Denoiser,
    u: Float[Array, " d"],
    *,
    sigma_min: RealScalar = 0.002,
    sigma_max: RealScalar = 80.0,
    prior: GaussianDenoiser | None = None,
    num_probes: int | None = None,
    key: PRNGKeyArray | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    solver: diffrax.AbstractSolver | None = None,
    max_steps: int = 4096,
    throw: bool = True,
) -> LikelihoodSolution:
    """Log-likelihood of `u` at noise level `sigma_min`, with its errors.

    Along the flow `d log p / d log sigma = tr(dD/du) - d`. The trace is the posterior variance over `sigma^2` where the
    denoiser knows that in closed form, else that of the Jacobian, formed exactly (d products); or, on request,
    Hutchinson's estimate with Rademacher probes, held fixed along the trajectory so that their spread gives the standard
    error of the result.

    Args:
        denoiser: any callable `(u, sigma) -> (d,)`.
        u: state at `sigma_min`, shape (d,). For a batch, `jax.vmap`.
        sigma_min: noise level at which the density is meant, in data units.
        sigma_max: noise level at which the law is replaced by `prior` plus noise.
        prior: Gaussian of the data. By default that with the mean and covariance of the denoiser's own law.
        num_probes: at least two, for Hutchinson's estimate; needs `key`.
        rtol, atol, solver, max_steps, throw: as in `flow_solution`; the tolerances hold for the log-density too.

    Raises:
        ValueError: for a bad shape or noise level; a bare callable without `prior`; `num_probes` without `key`.

    Source: Song et al. 2021, appendix D.2; Grathwohl et al. 2019 (the estimate).
    """
    u = as_state(u)
    low = as_level(sigma_min, "sigma_min", u.dtype)
    high = as_level(sigma_max, "sigma_max", u.dtype)
    given = f"; got {sigma_min} and {sigma_max}"
    low = checked(low, low >= high, "`sigma_min` must lie below `sigma_max`", given)
    if prior is None and not isinstance(denoiser, AbstractPosteriorDenoiser):
        raise ValueError(
            "`prior` is needed for a denoiser whose law has no moments in closed form, "
            "e.g. prior=GaussianDenoiser.fit(data)."
        )
    if num_probes is None:
        probes = None
    elif as_positive_integer(num_probes, "num_probes") < 2 or key is None:
        raise ValueError(
            f"`num_probes` must be at least 2, with a `key`; got {num_probes} and key={key}."
        )
    else:
        probes = jax.random.rademacher(key, (num_probes, u.size), u.dtype)
    rtol, atol = tolerances(u.dtype, rtol, atol)
    solver = default_solver(rtol) if solver is None else solver
    max_steps = as_positive_integer(max_steps, "max_steps")
    tolerance = np.asarray([rtol, atol], u.dtype)
    denoiser = as_argument(denoiser)
    return _integrate(denoiser, u, low, high, prior, probes, tolerance, solver, max_steps, throw)


# Like the functions it calls, one of the module: a second call finds it compiled.
@eqx.filter_jit
def _integrate(denoiser, u, low, high, prior, probes, tolerance, solver, max_steps, throw):
    rtol, atol = tolerance
    traces = jnp.zeros((), u.dtype) if probes is None else jnp.zeros(probes.shape[0], u.dtype)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_velocity_and_trace),
        solver,
        t0=jnp.log(low),
        t1=jnp.log(high),
        dt0=None,
        y0=(u, traces),
        args=(denoiser, probes),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=throw,
    )
    assert solution.ys is not None
    latent, traces = solution.ys[0][0], solution.ys[1][0]
    if prior is None:
        mean, covariance = denoiser.mean_and_covariance()
        terminal = _gaussian_log_density(latent, mean, covariance, high)
    else:
        terminal = prior.log_density(latent, high)
    terminal = terminal.astype(u.dtype)
    # The d log sigma that the flow would spend its steps on is known.
    values = terminal + u.size * jnp.log(high / low) - traces
    error = jnp.zeros((), u.dtype)
    if probes is not None:
        error = jnp.std(values, ddof=1) / math.sqrt(probes.shape[0])
    mismatch = jnp.full((), jnp.nan, u.dtype)
    if isinstance(denoiser, AbstractPosteriorDenoiser):
        mismatch = denoiser.log_density(latent, high).astype(u.dtype) - terminal
    return LikelihoodSolution(
        jnp.mean(values), error, mismatch, latent, solution.result, solution.stats["num_steps"]
    )


def _velocity_and_trace(log_sigma, state, args):
    (u, _), (denoiser, probes) = state, args
    value, trace = _denoised_and_trace(denoiser, u, jnp.exp(log_sigma), probes)
    return u - value, trace


def _denoised_and_trace(denoiser: Denoiser, u: Array, sigma: Array, probes: Array | None):
    """`D` and `tr dD/du`, or one unbiased estimate of the trace a probe."""
    if probes is None:
        if not isinstance(denoiser, AbstractDenoiser):
            denoiser = functools.partial(denoised, denoiser)  # checks the shape
        value, variance = mean_and_variance(denoiser, u, sigma)
        return value.astype(u.dtype), (variance / sigma**2).astype(u.dtype)
    value, product = jax.linearize(lambda u: denoised(denoiser, u, sigma), u)
    return value, jax.vmap(lambda probe: probe @ product(probe))(probes)


def _gaussian_log_density(u: Array, mean: Array, covariance: Array, sigma: Array) -> Array:
    noisy = covariance + sigma**2 * jnp.eye(u.shape[0], dtype=u.dtype)
    factor = jnp.linalg.cholesky(noisy)
    whitened = jax.scipy.linalg.solve_triangular(factor, u - mean, lower=True)
    log_determinant = 2 * jnp.sum(jnp.log(jnp.diag(factor)))
    return -0.5 * (jnp.sum(whitened**2) + log_determinant + u.size * math.log(2 * math.pi))
