"""The reverse-time stochastic differential equation."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import RealScalar, as_positive_integer
from ..denoisers import Denoiser
from ._inputs import as_argument, as_level, as_state, checked, denoised


def reverse_sde(
    denoiser: Denoiser,
    key: PRNGKeyArray,
    u: Float[Array, " d"],
    sigma_from: RealScalar,
    sigma_to: RealScalar,
    *,
    steps: int,
    stochasticity: RealScalar = 1.0,
    solver: diffrax.AbstractSolver | None = None,
) -> Float[Array, " d"]:
    """One draw of the reverse SDE from `sigma_from` down to `sigma_to`.

    In `tau = -log sigma` it reads `du = (1 + eta) (D - u) dtau + sqrt(2 eta) sigma dB`, with `eta = stochasticity`: 1 is
    the time reversal of the forward process, 0 the probability flow, and for an exact denoiser every eta has the same
    marginals. The noise is additive, so that a stochastic Runge-Kutta method of strong order 1.5 applies. The Brownian path
    belongs to the key and the two noise levels: more steps follow the same path more closely.

    Args:
        denoiser: any callable `(u, sigma) -> (d,)`.
        key: for the Brownian path.
        u: state at `sigma_from`, shape (d,). For a batch, `jax.vmap` over `u` and `key`.
        sigma_from, sigma_to: positive noise levels, decreasing.
        steps: number of steps, uniform in `log sigma`.
        stochasticity: eta, non-negative.
        solver: a diffrax SDE solver for additive noise. `diffrax.ShARK()` by default; `diffrax.Euler()` is Euler-Maruyama.

    Raises:
        ValueError: for a bad shape, noise level, number of steps or stochasticity.

    Source: Anderson 1982; Karras et al. 2022, eq. (6).
    """
    u = as_state(u)
    steps = as_positive_integer(steps, "steps")
    eta = as_level(stochasticity, "stochasticity", u.dtype, or_zero=True)
    high = as_level(sigma_from, "sigma_from", u.dtype)
    low = as_level(sigma_to, "sigma_to", u.dtype)
    given = f"; got {sigma_from} and {sigma_to}"
    low = checked(low, low >= high, "`sigma_to` must lie below `sigma_from`", given)
    solver = diffrax.ShARK() if solver is None else solver
    return _solve(as_argument(denoiser), key, u, high, low, eta, steps, solver)


# What is compiled consists of functions of the module, not of closures: a second call finds it compiled.


@eqx.filter_jit
def _solve(denoiser, key, u, high, low, eta, steps, solver):
    start, end = -jnp.log(high), -jnp.log(low)
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
        stepsize_controller=diffrax.StepTo(ts=jnp.linspace(start, end, steps + 1)),
        max_steps=steps,
    )
    assert solution.ys is not None
    value = solution.ys[0]
    return eqx.error_if(value, ~jnp.isfinite(value), "The trajectory left the finite numbers.")


def _drift(tau, u, args):
    denoiser, eta = args
    return (1 + eta) * (denoised(denoiser, u, jnp.exp(-tau)) - u)


def _diffusion(tau, u, args):
    _, eta = args
    return lx.DiagonalLinearOperator(jnp.full_like(u, jnp.sqrt(2 * eta) * jnp.exp(-tau)))
