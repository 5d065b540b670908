"""The probability-flow ODE `du/dsigma = (u - D) / sigma`, adaptive and on published grids."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._calls import as_argument, require_continuous
from .._checks import RealScalar, as_positive_integer, checked, is_concrete
from .._jax.host_errors import raising_host_errors
from .._kinds import checks_kinds
from .._levels import as_level, as_state, levels_between
from .._ode.outcome import raised_or_nan
from .._ode.tolerances import default_solver, tolerances
from ..denoisers import Denoiser
from ._exponential import ExponentialMultistep
from ._integration import FlowSolution, adaptive, by_multistep, on_grid

DEFAULT_MAX_STEPS = 4096
DEFAULT_DENSE_STEPS = 1024  # as many states and slopes are kept
DEFAULT_GRID_ORDER = 3  # of `ExponentialMultistep`


@checks_kinds
@raising_host_errors
def flow(
    denoiser: Denoiser,
    u: Float[Array, " d"],
    sigma_from: RealScalar,
    sigma_to: RealScalar,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    solver: diffrax.AbstractSolver | None = None,
    steps: int | None = None,
    levels: Float[Array, " m"] | np.ndarray | Sequence[float] | None = None,
    max_steps: int | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
) -> Float[Array, " d"]:
    """End of the probability flow that starts at `u` at noise level `sigma_from`.

    See `flow_solution` for the arguments; this is its `.value`. Raises where the solver fails.

    Source: Song et al. 2021 (probability flow); Karras et al. 2022, eq. (1).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.EmpiricalDenoiser(jnp.array([[-1.0], [1.0]]))
        >>> print(sj.flow(D, jnp.array([0.4]), 2.0, 0.0).round(5))  # replays a training point
        [1.]
    """
    return flow_solution(
        denoiser,
        u,
        sigma_from,
        sigma_to,
        rtol=rtol,
        atol=atol,
        solver=solver,
        steps=steps,
        levels=levels,
        max_steps=max_steps,
        adjoint=adjoint,
    ).value


@checks_kinds
@raising_host_errors
def flow_solution(
    denoiser: Denoiser,
    u: Float[Array, " d"],
    sigma_from: RealScalar,
    sigma_to: RealScalar,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    solver: diffrax.AbstractSolver | None = None,
    steps: int | None = None,
    levels: Float[Array, " m"] | np.ndarray | Sequence[float] | None = None,
    dense: bool = False,
    max_steps: int | None = None,
    throw: bool = True,
    adjoint: diffrax.AbstractAdjoint | None = None,
) -> FlowSolution:
    """Solves `du/dsigma = (u - D(u, sigma)) / sigma` from `sigma_from` to `sigma_to`, in either direction.

    The flow is the same for every forward process once the state is divided by alpha. By default the solver is adaptive,
    in `log sigma`, where the equation `du/dlog sigma = u - D` has no small divisor. `sigma_to = 0` is allowed: the flow
    is then followed down to a noise level of a tenth of `atol` and ends with a call of the denoiser.

    Args:
        denoiser: any callable `(u, sigma) -> (d,)`.
        u: state at `sigma_from`, shape (d,). For a batch, `jax.vmap`.
        sigma_from, sigma_to: noise levels, in data units. `sigma_from` is positive, `sigma_to` non-negative.
        rtol, atol: tolerances of the adaptive solver, `atol` in data units. By default 1e-5 in float32, 1e-7 in float64.
            They hold for the error that each step adds to each coordinate, whatever the dimension: the largest counts.
            An `atol` above what coordinates move by controls nothing; from `10 sigma_from` on, a flow to zero is that one
            call of the denoiser.
        solver: a diffrax solver, or `ExponentialMultistep`, which needs fewest calls of the denoiser: on a grid, and with
            error control at tolerances of 1e-2 to 1e-4. By default Tsit5, or Dopri8 for `rtol < 1e-6` (without `dense`, as
            its interpolation is worse than its ends); Heun on a grid.
        steps: instead of adaptive steps, that many between two positive noise levels: of a constant ratio for an
            `ExponentialMultistep`, else on the EDM grid (rho = 7).
        levels: instead, the noise levels to step through, from `sigma_from` to `sigma_to`, monotone. A final 0 is a call of
            the denoiser. A diffrax solver steps in sigma: `diffrax.Heun()` is EDM's sampler, `diffrax.Euler()` DDIM. With
            few levels Heun's spread is too wide (`gaussian_sampler_bias`).
        dense: keep the interpolant for `FlowSolution.evaluate`; the memory grows with `max_steps`.
        max_steps: most steps of the adaptive solver, 4096 by default, 1024 with `dense`.
        throw: raise where the solver fails, rather than report it in `.result` and return the state that it had reached.
        adjoint: how diffrax differentiates. By default in reverse mode; `diffrax.ForwardMode()` for `jax.jvp`. A grid
            without `dense` is differentiated in both.

    Raises:
        ValueError: for a bad shape or noise level, a tolerance below what the dtype resolves, `steps` with `levels`, a
            solver that is not one of ordinary differential equations, or of no use on a grid, and for adaptive steps with a
            denoiser that is a step function of sigma (`is_step_function_of_sigma`).
        RuntimeError: where the solver fails, unless `throw=False`. Inside `jax.jit` or `jax.vmap` nothing can be raised: the
            value is NaN then, of that sample alone, and where a traced noise level is not one.

    **Stiffness.** Upwards in noise, from a point that lies many `sigma_from` off the data, the flow contracts at a rate of
    about `(gap / sigma)^2`, which an explicit solver follows in as many steps: pass `diffrax.Kvaerno5()`.

    Source: Song et al. 2021 (probability flow); Karras et al. 2022, eq. (1) and algorithm 1 (grids).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
        >>> found = sj.flow_solution(D, jnp.array([4.0]), 15**0.5, 0.0)
        >>> print(found.value.round(4))  # in standard deviations u stays the same: 4 / sqrt(1 + 15)
        [1.]
    """
    u = as_state(u)
    start = as_level(sigma_from, "sigma_from", u.dtype)
    end = as_level(sigma_to, "sigma_to", u.dtype, or_zero=True)
    adjoint = diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint
    if steps is None and levels is None:
        require_continuous(denoiser, "Give `steps` or `levels`, or a network index='interpolated'.")
    denoiser = as_argument(denoiser)
    if steps is not None or levels is not None:
        if rtol is not None or atol is not None:
            raise ValueError(
                "`rtol` and `atol` belong to the adaptive solver; a grid (`steps`, `levels`) has none."
            )
        solver = diffrax.Heun() if solver is None else _require_ode_solver(solver)
        multistep = isinstance(solver, ExponentialMultistep)
        grid, to_zero = _grid(start, end, steps, levels, multistep)
        if dense and multistep:
            raise ValueError(
                "`dense` on a grid needs a Runge-Kutta method: an ExponentialMultistep has no interpolant there."
            )
        if dense and len(grid) == 1:
            raise ValueError("`dense` needs at least two positive noise levels.")
        if multistep:
            order = solver.grid_order or DEFAULT_GRID_ORDER
            return _delivered(by_multistep(denoiser, u, grid, to_zero, order), throw)
        with _advice_on_forward_mode():
            found = on_grid(denoiser, u, grid, to_zero, solver, dense, adjoint)
            return _delivered(found, throw)
    rtol, atol = tolerances(u.dtype, rtol, atol)
    solver = default_solver(rtol, dense) if solver is None else _require_ode_solver(solver)
    if isinstance(solver, ExponentialMultistep) and solver.grid_order not in (None, 2):
        raise ValueError(
            f"An ExponentialMultistep with error control is of order 2; got order={solver.grid_order}. "
            "Give `steps` or `levels` for a grid, or no order."
        )
    if max_steps is None:
        max_steps = DEFAULT_DENSE_STEPS if dense else DEFAULT_MAX_STEPS
    max_steps = as_positive_integer(max_steps, "max_steps")
    # Known at compile time, or not at all.
    may_be_zero = not is_concrete(end) or bool(end == 0)
    tolerance = np.asarray([rtol, atol], u.dtype)
    with _advice_on_forward_mode():
        found = adaptive(
            denoiser, u, start, end, may_be_zero, tolerance, solver, dense, max_steps, adjoint
        )
        return _delivered(found, throw)


def _delivered(found: FlowSolution, throw: bool) -> FlowSolution:
    """The solution, which raises where the solver failed; inside a transformation its value is NaN then."""
    if not throw:
        return found
    value = raised_or_nan(
        found.result, jnp.isfinite(found.value), found.value, "The flow left the finite numbers."
    )
    return eqx.tree_at(lambda x: x.value, found, value)


@contextlib.contextmanager
def _advice_on_forward_mode() -> Iterator[None]:
    """JAX's error for forward derivatives of what is made for reverse ones, with the way out."""
    try:
        yield
    except TypeError as error:
        if "forward-mode autodiff" not in str(error):
            raise
        raise TypeError(
            "This flow has derivatives in reverse mode (jax.grad, jax.jacrev). For forward mode (jax.jvp, jax.jacfwd) give "
            "adjoint=diffrax.ForwardMode(), or a grid (`steps` or `levels`) without `dense`."
        ) from error


def _require_ode_solver(solver: diffrax.AbstractSolver) -> Any:
    """`solver`, or `ValueError` if it is not one for a single ordinary differential equation."""
    if getattr(solver, "term_structure", None) is not diffrax.AbstractTerm:
        raise ValueError(
            "`solver` must be a diffrax solver of ordinary differential equations, such as diffrax.Tsit5() or "
            f"smoothjax.ExponentialMultistep(); got {solver!r}."
        )
    return solver


def _grid(start, end, steps, levels, constant_ratio) -> tuple[Any, bool]:
    """The positive noise levels of the grid, and whether a last step goes to zero."""
    if steps is not None and levels is not None:
        raise ValueError("Give `steps` or `levels`, not both.")
    if levels is None:
        steps = as_positive_integer(steps, "steps")
        end = checked(
            end,
            end == 0,
            "`steps` needs a positive `sigma_to`. For a grid that ends at zero give its lowest positive level, "
            f"e.g. levels=edm_grid({max(steps, 2)}, sigma_from, 0.002)",
        )
        end = checked(end, end == start, "`steps` needs two different noise levels", f"; got {end}")
        return _even_grid(start, end, steps, constant_ratio), False
    levels = levels_between(levels, start, end)
    if is_concrete(levels) or is_concrete(end):
        to_zero = bool((levels if is_concrete(levels) else end[None])[-1] == 0)
    else:
        to_zero = False
        levels = checked(
            levels,
            levels[-1] == 0,
            "Where `levels` end at zero, they or `sigma_to` must be known when the function is compiled",
        )
    return (levels[:-1], True) if to_zero else (levels, False)


@partial(jax.jit, static_argnums=(2, 3))
def _even_grid(start, end, steps: int, constant_ratio: bool):
    ramp, rho = jnp.linspace(0, 1, steps + 1, dtype=start.dtype), 7
    if constant_ratio:
        grid = jnp.exp(ramp[::-1] * jnp.log(start) + ramp * jnp.log(end))
    else:
        grid = (ramp[::-1] * start ** (1 / rho) + ramp * end ** (1 / rho)) ** rho
    return grid.at[0].set(start).at[-1].set(end)
