"""Log-likelihoods by the change of variables along the probability flow."""

import functools
import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._calls import as_argument, denoised, require_continuous
from .._checks import RealScalar, as_positive_integer, checked
from .._jax.host_errors import raising_host_errors
from .._kinds import checks_kinds
from .._levels import as_level, as_state
from .._ode.outcome import raised_or_nan
from .._ode.tolerances import default_solver, largest, tolerances
from ..denoisers import (
    AbstractDenoiser,
    AbstractPosteriorDenoiser,
    Denoiser,
    GaussianDenoiser,
    mean_and_variance,
)
from ._multistep_grid import multistep_path

COARSER = 10  # tolerances of the integration that the error is estimated by
# Noise levels of a grid: half of them must be as many as the ends of the quadrature take.
FEWEST_STEPS = 12
# The trapezoidal rule's weights at either end for an error of the fourth order (Gregory). Where the trace is level there,
# as it is far above and far below the data's scales, the rule itself converges exponentially.
_ENDS = (3 / 8, 7 / 6, 23 / 24)


class LikelihoodSolution(eqx.Module):
    """A log-likelihood with what is known of its error.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
        >>> found = sj.likelihood_solution(D, jnp.array([1.0]), sigma_min=0.1, sigma_max=100.0)
        >>> print(found.latent.round())  # at sigma_max: 1 times sqrt(1 + 100^2) / sqrt(1 + 0.1^2)
        [100.]
    """

    value: Float[Array, ""]
    """Log density, in nats, at noise level `sigma_min`."""
    standard_error: Float[Array, ""]
    """Of the trace estimate, over `degrees_of_freedom + 1` probes; zero where the trace is exact."""
    integration_error: Float[Array, ""] | None
    """Estimate, in nats, of the error of the integration and of rounding: what ten times looser tolerances change, a step's
    tolerance, and the size of rounding. None where it was not asked for."""
    terminal_mismatch: Float[Array, ""] | None
    """What the Gaussian at `sigma_max` leaves out: the exact log density there minus the Gaussian's, in nats. None where
    the denoiser has no exact log density; `terminal_mismatch_bound` bounds it for training data."""
    latent: Float[Array, " d"]
    """The state at `sigma_max`."""
    result: diffrax.RESULTS
    num_steps: Int[Array, ""]
    """Of all integrations, rejected ones included."""
    degrees_of_freedom: int = eqx.field(static=True)
    """Of the standard error: an interval takes the quantile of Student's t, not 1.96. Zero where the trace is exact."""


@checks_kinds
@raising_host_errors
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
    steps: int | None = None,
) -> Float[Array, ""]:
    """Log density, in nats, that the probability flow of `denoiser` gives to `u` at noise level `sigma_min`.

    With the exact trace of the Jacobian; see `likelihood_solution` for the arguments, for a stochastic estimate of the
    trace, and for what is known of the error. Divided by `-d log 2` it is in bits a dimension, of data in these units and at
    this noise: not the bits per dimension of bytes that papers print (see the comparison's report). A density at a noise
    level is that of `x_0 + sigma_min z`: a finite training set has none at zero.

    Source: Song et al. 2021, appendix D.2.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
        >>> found = sj.log_likelihood(D, jnp.array([0.0]), sigma_max=1000.0)
        >>> round(float(found), 3)  # -log(2 pi) / 2
        -0.919
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
        steps=steps,
        estimate_error=False,
    ).value


@checks_kinds
@raising_host_errors
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
    steps: int | None = None,
    max_steps: int = 4096,
    throw: bool = True,
    estimate_error: bool = True,
) -> LikelihoodSolution:
    """Log-likelihood of `u` at noise level `sigma_min`, with its errors.

    Along the flow `d log p / d log sigma = tr(dD/du) - d`. It is followed in `1 / sigma`, in which the state in units of
    the noise level, `y = u / sigma`, has the velocity D: where the denoiser is constant every step is exact, however small
    the noise. From a point that lies many `sigma_min` off the training points of an exact memoriser the way up is stiff, and
    ends at `max_steps`.

    With `steps`, for networks whose calls are dear, the flow is followed on so many noise levels of a constant ratio by
    `ExponentialMultistep(order=3)`, one call of the denoiser and its trace a level: 64 of them give a smooth denoiser's
    log-likelihood to far less than .01 nats a dimension. `.integration_error` is then what half as many levels change. Where
    the trace has a narrow peak, as for a point between two clusters that belongs to neither, both grids may miss it.

    The trace is the posterior variance over `sigma^2` where the denoiser knows that in closed form, else that of the
    Jacobian, formed exactly (d products); or, on request, Hutchinson's estimate with Rademacher probes, held fixed along the
    trajectory so that their spread gives the standard error of the result.

    Args:
        denoiser: any callable `(u, sigma) -> (d,)`.
        u: state at `sigma_min`, shape (d,). For a batch, `jax.vmap`.
        sigma_min: noise level at which the density is meant, in data units.
        sigma_max: noise level at which the law is replaced by `prior` plus noise.
        prior: Gaussian of the data. By default that with the mean and covariance of the denoiser's own law.
        num_probes: at least two, for Hutchinson's estimate; needs `key`.
        steps: noise levels, at least 12, both ends among them: no error control. Excludes `rtol`, `atol` and `solver`.
        rtol, atol, solver, max_steps, throw: as in `flow_solution`. The tolerances hold for each step's error of the state
            in units of the noise level, and `atol` for that of the log density, in nats.
        estimate_error: integrate a second time, ten times more loosely, for `.integration_error`: two thirds more work, or
            half as many calls again with `steps`.

    Raises:
        ValueError: for a bad shape or noise level; a bare callable without `prior`; `num_probes` without `key`; fewer than
            12 `steps`, or tolerances or a solver beside them; a denoiser that is a step function of sigma.
        RuntimeError: where the solver fails, unless `throw=False`. Inside `jax.jit` or `jax.vmap` the value is NaN instead.

    Source: Song et al. 2021, appendix D.2; Grathwohl et al. 2019 (the estimate).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.EmpiricalDenoiser(jnp.array([[-1.0], [1.0]]))
        >>> found = sj.likelihood_solution(D, jnp.array([0.99]), sigma_min=0.01)
        >>> exact = D.log_density(jnp.array([0.99]), 0.01)
        >>> bool(abs(found.value + found.terminal_mismatch - exact) < found.integration_error)
        True
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
    if steps is not None:
        steps = as_positive_integer(steps, "steps")
        if steps < FEWEST_STEPS:
            raise ValueError(f"`steps` must be at least {FEWEST_STEPS}; got {steps}.")
        if not (rtol is None and atol is None and solver is None):
            raise ValueError(
                "`steps` takes no tolerances and no `solver`; leave one or the other out."
            )
    rtol, atol = tolerances(u.dtype, rtol, atol)
    solver = default_solver(rtol) if solver is None else solver
    max_steps = as_positive_integer(max_steps, "max_steps")
    tolerance = np.asarray([rtol, atol], u.dtype)
    require_continuous(denoiser, "Give its network index='interpolated'.")
    denoiser = as_argument(denoiser)

    def run(coarser: int) -> tuple[Array, Array | None, Array, diffrax.RESULTS, Array]:
        if steps is not None:
            num = steps if coarser == 1 else (steps + 1) // 2
            return _on_grid(denoiser, u, low, high, prior, probes, num)
        given = (coarser * tolerance, solver, max_steps)
        return _integrate(denoiser, u, low, high, prior, probes, *given)

    values, mismatch, latent, result, num_steps = run(1)
    if throw:
        values = raised_or_nan(
            result, jnp.isfinite(values), values, "The log density is not finite."
        )
    standard_error = jnp.zeros((), u.dtype)
    if probes is not None:
        standard_error = jnp.std(values, ddof=1) / math.sqrt(probes.shape[0])
    integration_error = None
    if estimate_error:
        # Looser tolerances err more: what they change bounds what is left.
        coarse = run(COARSER)
        rounding = _rounding(denoiser, u, low, high, latent, values)
        changed = jnp.abs(jnp.mean(values) - jnp.mean(coarse[0]))
        integration_error = changed + rounding + (tolerance[1] if steps is None else 0)
        num_steps += coarse[-1]
    return LikelihoodSolution(
        jnp.mean(values),
        standard_error,
        integration_error,
        mismatch,
        latent,
        result,
        num_steps,
        0 if num_probes is None else num_probes - 1,
    )


@eqx.filter_jit
def _rounding(denoiser, u, low, high, latent, values):
    """What rounding can do, in nats: of the state in units of the noise level, by the score; and of the sums."""
    off = jnp.linalg.norm(u - denoised(denoiser, u, low)) / low
    sums = u.size * jnp.log(high / low) + jnp.sum(latent**2) / high**2 + jnp.max(jnp.abs(values))
    return 2 * jnp.finfo(u.dtype).eps * (jnp.linalg.norm(u) / low * off + sums)


class _AbsoluteInNats(diffrax.PIDController):
    """Takes the tolerance of the log density for what it says: relative to a sum of hundreds of nats it would be none."""

    def adapt_step_size(
        self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
    ):
        of_state = lambda y: (y[0], jnp.zeros_like(y[1]))  # noqa: E731
        before, after = of_state(y0), of_state(y1_candidate)
        return super().adapt_step_size(
            t0, t1, before, after, args, y_error, error_order, controller_state
        )


# Like the functions it calls, one of the module: a second call finds it compiled.
@eqx.filter_jit
def _integrate(denoiser, u, low, high, prior, probes, tolerance, solver, max_steps):
    rtol, atol = tolerance
    traces = jnp.zeros((), u.dtype) if probes is None else jnp.zeros(probes.shape[0], u.dtype)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_velocity_and_trace),
        solver,
        t0=1 / low,
        t1=1 / high,
        dt0=None,
        y0=(u / low, traces),
        args=(denoiser, probes),
        stepsize_controller=_AbsoluteInNats(rtol=rtol, atol=atol, norm=largest),
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ys is not None
    latent, traces = high * solution.ys[0][0], solution.ys[1][0]
    values, mismatch = _values(denoiser, latent, low, high, prior, traces)
    return values, mismatch, latent, solution.result, solution.stats["num_steps"]


@eqx.filter_jit
def _on_grid(denoiser, u, low, high, prior, probes, steps: int):
    """The same on a grid: the trace by `log sigma` at its levels, and the rule with corrected ends."""
    h = jnp.log(high / low) / (steps - 1)
    levels = (low * jnp.exp(h * jnp.arange(steps, dtype=u.dtype))).at[-1].set(high)
    denoise = lambda u, sigma: _denoised_and_trace(denoiser, u, sigma, probes)  # noqa: E731
    latent, traces = multistep_path(denoise, u, levels, 3)
    ends = np.array(_ENDS)
    weights = np.ones(steps)
    weights[: len(ends)], weights[-len(ends) :] = ends, ends[::-1]
    total = h * jnp.sum(
        jnp.asarray(weights, u.dtype).reshape(-1, *(1,) * (traces.ndim - 1)) * traces, 0
    )
    values, mismatch = _values(denoiser, latent, low, high, prior, total)
    return values, mismatch, latent, diffrax.RESULTS.successful, jnp.asarray(steps)


def _values(denoiser, latent, low, high, prior, traces):
    """Log densities from the integrals of the trace by `log sigma`; and what the Gaussian leaves out."""
    if prior is None:
        mean, covariance = denoiser.mean_and_covariance()
        terminal = _gaussian_log_density(latent, mean, covariance, high)
    else:
        terminal = prior.log_density(latent, high)
    terminal = terminal.astype(latent.dtype)
    # The d log sigma that the flow would spend its steps on is known.
    values = terminal + latent.size * jnp.log(high / low) - traces
    mismatch = None
    if isinstance(denoiser, AbstractPosteriorDenoiser):
        mismatch = denoiser.log_density(latent, high).astype(latent.dtype) - terminal
    return values, mismatch


def _velocity_and_trace(inverse, state, args):
    """In `w = 1 / sigma`, with `y = u / sigma`: `dy/dw = D`, of which every Runge-Kutta method is an exponential integrator.

    An error of y is one of u in units of the noise level, which is what the log density feels; and where D is constant, on
    most of the way at small noise, there is none.
    """
    (scaled, _), (denoiser, probes) = state, args
    value, trace = _denoised_and_trace(denoiser, scaled / inverse, 1 / inverse, probes)
    return value, -trace / inverse


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
