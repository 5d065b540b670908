"""The reverse-time stochastic differential equation."""

from collections.abc import Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._calls import as_argument, denoised
from .._checks import RealScalar, as_key, as_positive_integer, checked, nan_where
from .._jax.host_errors import raising_host_errors
from .._kinds import checks_kinds
from .._levels import as_level, as_state, levels_between
from .._ode.outcome import raised_or_nan
from ..denoisers import Denoiser
from ._exponential import ExponentialMultistep
from ._multistep_grid import multistep_sde


@checks_kinds
@raising_host_errors
def reverse_sde(
    denoiser: Denoiser,
    key: PRNGKeyArray,
    u: Float[Array, " d"],
    sigma_from: RealScalar,
    sigma_to: RealScalar,
    *,
    steps: int | None = None,
    levels: Float[Array, " m"] | np.ndarray | Sequence[float] | None = None,
    stochasticity: RealScalar = 1.0,
    solver: diffrax.AbstractSolver | None = None,
) -> Float[Array, " d"]:
    """One draw of the reverse SDE from `sigma_from` down to `sigma_to`.

    In `tau = -log sigma` it reads `du = (1 + eta) (D - u) dtau + sqrt(2 eta) sigma dB`, with `eta = stochasticity`: 1 is
    the time reversal of the forward process, 0 the probability flow, and for an exact denoiser every eta has the same
    marginals. By default the linear part is solved exactly, the noise of each step drawn exactly for its length, and D's
    last increment taken along such that the variance of every Gaussian comes out right on a grid with a constant ratio (see
    `ExponentialMultistep`): stable for any number of steps, one call of the denoiser each.

    Args:
        denoiser: any callable `(u, sigma) -> (d,)`.
        key: for the noise.
        u: state at `sigma_from`, shape (d,). For a batch, `jax.vmap` over `u` and `key`.
        sigma_from, sigma_to: positive noise levels, decreasing.
        steps: number of steps, uniform in `log sigma`.
        levels: instead, the noise levels to step through, from `sigma_from` to `sigma_to`.
        stochasticity: eta, non-negative.
        solver: `ExponentialMultistep()` by default; or a diffrax SDE solver, such as `diffrax.ShARK()` (strong order 1.5 for
            this additive noise) or `diffrax.Euler()` (Euler-Maruyama). With those the Brownian path belongs to the key and
            the two noise levels, and more steps follow the same path more closely; with few they are unstable.

    Raises:
        ValueError: for a bad shape, noise level, number of steps or stochasticity, both or neither of `steps` and `levels`,
            or a solver that is none of stochastic differential equations.
        RuntimeError: where the solver fails or leaves the finite numbers; the result is NaN instead inside `jax.jit` or
            `jax.vmap`.

    Source: Anderson 1982; Karras et al. 2022, eq. (6); with the linear part exact, Lu et al. 2022 (SDE-DPM-Solver++).

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> D = sj.EmpiricalDenoiser(jnp.array([[-1.0], [1.0]]))
        >>> end = sj.reverse_sde(D, jax.random.key(0), jnp.array([10.0]), 80.0, 0.002, steps=20)
        >>> bool(abs(abs(end[0]) - 1) < 0.02)
        True
    """
    key = as_key(key)
    u = as_state(u)
    eta = as_level(stochasticity, "stochasticity", u.dtype, or_zero=True)
    high = as_level(sigma_from, "sigma_from", u.dtype)
    low = as_level(sigma_to, "sigma_to", u.dtype)
    given = f"; got {sigma_from} and {sigma_to}"
    low = checked(low, low >= high, "`sigma_to` must lie below `sigma_from`", given)
    if (steps is None) == (levels is None):
        raise ValueError("Give `steps` or `levels`, one of them.")
    if levels is None:
        steps = as_positive_integer(steps, "steps")
        grid = jnp.exp(jnp.linspace(jnp.log(high), jnp.log(low), steps + 1, dtype=u.dtype))
        grid = grid.at[0].set(high).at[-1].set(low)
    else:
        grid = levels_between(levels, high, low)
        grid = checked(grid, grid[-1] == 0, "`levels` must end at a positive noise level")
    solver = ExponentialMultistep() if solver is None else _require_sde_solver(solver)
    denoiser = as_argument(denoiser)
    if isinstance(solver, ExponentialMultistep):
        value, result = _by_multistep(denoiser, key, u, grid, eta)
    else:
        value, result = _solve(denoiser, key, u, grid, eta, solver)
    message = "The trajectory left the finite numbers."
    return raised_or_nan(result, jnp.isfinite(value), value, message)


def _require_sde_solver(solver: Any) -> Any:
    kinds = (
        ExponentialMultistep,
        diffrax.AbstractItoSolver,
        diffrax.AbstractStratonovichSolver,
    )
    if not isinstance(solver, kinds):
        raise ValueError(
            "`solver` must be one of stochastic differential equations, such as smoothjax.ExponentialMultistep() or "
            f"diffrax.ShARK(); got {solver!r}."
        )
    return solver


# What is compiled consists of functions of the module, not of closures: a second call finds it compiled.


@eqx.filter_jit
def _by_multistep(denoiser, key, u, grid, eta):
    value = multistep_sde(lambda u, s: denoised(denoiser, u, s), key, u, grid, eta)
    return value, diffrax.RESULTS.successful


@eqx.filter_jit
def _solve(denoiser, key, u, grid, eta, solver):
    times = -jnp.log(jnp.asarray(grid))
    start, end, steps = times[0], times[-1], len(times) - 1
    path = diffrax.VirtualBrownianTree(
        start,
        end,
        (end - start) / (2 * steps),
        jax.ShapeDtypeStruct(u.shape, u.dtype),
        key,
        levy_area=diffrax.SpaceTimeLevyArea,
    )
    solution = diffrax.diffeqsolve(
        diffrax.MultiTerm(diffrax.ODETerm(_drift), diffrax.ControlTerm(_diffusion, path)),
        solver,
        t0=start,
        t1=end,
        dt0=None,
        y0=u,
        args=(denoiser, eta),
        stepsize_controller=diffrax.StepTo(ts=times),
        max_steps=steps,
        throw=False,
    )
    assert solution.ys is not None
    # A noise level that is none leaves diffrax where it began.
    return nan_where(jnp.isnan(times), solution.ys[0]), solution.result


def _drift(tau, u, args):
    denoiser, eta = args
    return (1 + eta) * (denoised(denoiser, u, jnp.exp(-tau)) - u)


def _diffusion(tau, u, args):
    _, eta = args
    return lx.DiagonalLinearOperator(jnp.full_like(u, jnp.sqrt(2 * eta) * jnp.exp(-tau)))
