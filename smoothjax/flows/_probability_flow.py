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
from jaxtyping import Array, Float, Int

from .._calls import as_argument, denoised, require_continuous
from .._checks import RealScalar, as_positive_integer, checked, is_concrete, nan_where
from .._jax.host_errors import raising_host_errors
from .._kinds import checks_kinds
from .._levels import as_level, as_state, levels_between
from .._ode.outcome import raised_or_nan
from .._ode.tolerances import default_solver, largest, tolerances
from ..denoisers import Denoiser
from ._exponential import ExponentialMultistep
from ._multistep_grid import multistep_flow

# Evaluations a step of the solvers that this package picks or documents, and whether the last one is reused.
_STAGES = {
    diffrax.Euler: (1, False),
    diffrax.Heun: (2, False),
    diffrax.Tsit5: (7, True),
    diffrax.Dopri5: (7, True),
    diffrax.Dopri8: (14, True),
    ExponentialMultistep: (2, True),  # with error control
}

_FIRST_STEP = 0.01  # of the adaptive solver, in `log sigma`
DEFAULT_MAX_STEPS = 4096
DEFAULT_DENSE_STEPS = 1024  # as many states and slopes are kept
DEFAULT_GRID_ORDER = 3  # of `ExponentialMultistep`


class FlowSolution(eqx.Module):
    """The end of a probability flow and how it was reached.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
        >>> found = sj.flow_solution(D, jnp.array([3.0]), 3.0, 1.0, levels=[3.0, 2.0, 1.0])
        >>> int(found.num_steps), int(found.num_evaluations)  # Heun takes two a step
        (2, 4)
    """

    value: Float[Array, " d"]
    """The state at the end; where the solver failed, the state that it had reached."""
    result: diffrax.RESULTS
    """`diffrax.RESULTS.successful`, or what went wrong."""
    num_steps: Int[Array, ""]
    """Steps taken, rejected ones included."""
    num_evaluations: Int[Array, ""]
    """Denoiser calls; -1 for a solver whose calls a step this package does not know."""
    _interpolation: diffrax.DenseInterpolation | None
    _logarithmic: bool = eqx.field(static=True)

    def evaluate(self, sigma: RealScalar) -> Float[Array, " d"]:
        """The state at a noise level on the way, from the solver's own interpolant. Needs `dense=True`.

        A flow to zero has one down to the noise level from which the last call of the denoiser was made.

        Raises:
            ValueError: without `dense=True`, or for a noise level that is not on the way.
        """
        interpolation = self._interpolation
        if interpolation is None:
            raise ValueError(
                "`evaluate` needs the dense solution: call `flow_solution(..., dense=True)`."
            )
        level = as_level(sigma, "sigma", self.value.dtype)
        time = jnp.log(level) if self._logarithmic else jnp.asarray(level)
        low, high = jnp.sort(jnp.stack([interpolation.t0, interpolation.t1]))
        # The ends themselves, whose logarithm may be rounded differently inside jit, are on the way.
        slack = 8 * jnp.finfo(time.dtype).eps * (1 + jnp.maximum(abs(low), abs(high)))
        message = "`sigma` must lie on the way that the flow took"
        given = ""
        if is_concrete(time, low, high):
            ends = np.exp([low, high]) if self._logarithmic else (low, high)
            given = f", between {ends[0]:.4g} and {ends[1]:.4g}; got {sigma}"
        time = checked(time, (time < low - slack) | (time > high + slack), message, given)
        return interpolation.evaluate(jnp.clip(time, low, high))


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
        solver = diffrax.Heun() if solver is None else require_ode_solver(solver)
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
            return _delivered(_by_multistep(denoiser, u, grid, to_zero, order), throw)
        with _advice_on_forward_mode():
            found = _on_grid(denoiser, u, grid, to_zero, solver, dense, adjoint)
            return _delivered(found, throw)
    rtol, atol = tolerances(u.dtype, rtol, atol)
    solver = default_solver(rtol, dense) if solver is None else require_ode_solver(solver)
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
        found = _adaptive(
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


def require_ode_solver(solver: Any) -> Any:
    """`solver`, or `ValueError` if it is not one for a single ordinary differential equation."""
    if (
        not isinstance(solver, diffrax.AbstractSolver)
        or getattr(solver, "term_structure", None) is not diffrax.AbstractTerm
    ):
        raise ValueError(
            "`solver` must be a diffrax solver of ordinary differential equations, such as diffrax.Tsit5() or "
            f"smoothjax.ExponentialMultistep(); got {solver!r}."
        )
    return solver


# What is compiled consists of functions of the module, not of closures: a second call finds it compiled.


class _FromFirstStep(diffrax.PIDController):
    """Begins with a step of known size: the calls that diffrax makes to choose one depend on its release.

    Given to `diffeqsolve` itself, its sign would be checked when it runs, by a call to the host.
    """

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        first = jnp.asarray(_FIRST_STEP, jnp.result_type(t0))
        return super().init(terms, t0, t1, y0, first, args, func, error_order)


def _velocity(log_sigma, u, denoiser):
    return u - denoised(denoiser, u, jnp.exp(log_sigma))


def _velocity_in_sigma(sigma, u, denoiser):
    return (u - denoised(denoiser, u, sigma)) / sigma


@eqx.filter_jit
def _adaptive(denoiser, u, start, end, may_be_zero, tolerance, solver, dense, max_steps, adjoint):
    rtol, atol = tolerance
    # What remains below the floor is one call of the denoiser, whose error is of second order in the floor.
    last = jnp.where(end > 0, end, jnp.minimum(0.1 * atol, start)) if may_be_zero else end
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_velocity),
        solver,
        t0=jnp.log(start),
        t1=jnp.log(last),
        dt0=None,
        y0=u,
        args=denoiser,
        stepsize_controller=_FromFirstStep(rtol=rtol, atol=atol, norm=largest),
        saveat=diffrax.SaveAt(t1=True, dense=dense),
        adjoint=adjoint,
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ys is not None
    # A noise level that is none leaves diffrax where it began.
    value = nan_where(jnp.isnan(start) | jnp.isnan(end), solution.ys[0])
    num_steps = solution.stats["num_steps"]
    evaluations = _evaluations(solver, num_steps)
    if may_be_zero:
        to_zero = (end == 0) & diffrax.is_okay(solution.result)
        # Not a `cond`, which under `vmap` copies the denoiser, a training set, for every sample.
        value = jnp.where(to_zero, denoised(denoiser, value, last), value)
        evaluations += jnp.where(to_zero & (evaluations >= 0), 1, 0)
    return FlowSolution(
        value, solution.result, num_steps, evaluations, solution.interpolation, True
    )


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


@eqx.filter_jit
def _on_grid(denoiser, u, grid, to_zero, solver, dense, adjoint):
    grid = jnp.asarray(grid)
    value, result, interpolation = u, diffrax.RESULTS.successful, None
    steps = jnp.asarray(len(grid) - 1)
    if dense:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(_velocity_in_sigma),
            solver,
            t0=grid[0],
            t1=grid[-1],
            dt0=None,
            y0=u,
            args=denoiser,
            stepsize_controller=diffrax.StepTo(ts=grid),
            saveat=diffrax.SaveAt(t1=True, dense=True),
            adjoint=adjoint,
            max_steps=len(grid) - 1,
            throw=False,
        )
        assert solution.ys is not None
        value, result, interpolation = solution.ys[0], solution.result, solution.interpolation
    elif len(grid) > 1:
        value, result = _stepped(denoiser, u, grid, solver)
    # Without a step the whole grid is one to zero.
    evaluations = _evaluations(solver, steps) if len(grid) > 1 else jnp.zeros_like(steps)
    if to_zero:
        value = denoised(denoiser, value, grid[-1])
        steps += 1
        evaluations = jnp.where(evaluations >= 0, evaluations + 1, evaluations)
    return FlowSolution(value, result, steps, evaluations, interpolation, False)


def _stepped(denoiser, u, grid, solver) -> tuple[Array, diffrax.RESULTS]:
    """A diffrax solver, step by step. By itself `diffeqsolve` checks its grid when it runs, by calls to the host."""
    term = diffrax.ODETerm(_velocity_in_sigma)
    if isinstance(solver, diffrax.AbstractRungeKutta) and solver.scan_kind is None:
        # A loop over the stages that both modes of differentiation know.
        solver = eqx.tree_at(lambda x: x.scan_kind, solver, "bounded", is_leaf=lambda x: x is None)

    @jax.checkpoint
    def step(carried, ends):
        value, state, result = carried
        value, _, _, state, latest = solver.step(
            term, ends[0], ends[1], value, denoiser, state, made_jump=False
        )
        result = diffrax.RESULTS.where(diffrax.is_okay(result), latest, result)
        return (value, state, result), None

    state = solver.init(term, grid[0], grid[1], u, denoiser)
    carried = (u, state, diffrax.RESULTS.successful)
    ends = jnp.stack([grid[:-1], grid[1:]], axis=1)
    (value, _, result), _ = jax.lax.scan(step, carried, ends)
    return value, result


@eqx.filter_jit
def _by_multistep(denoiser, u, grid, to_zero, order):
    grid = jnp.asarray(grid, u.dtype)
    value, num_steps = u, len(grid) - 1
    if num_steps:
        value = multistep_flow(lambda u, s: denoised(denoiser, u, s), u, grid, order)
    if to_zero:
        value = denoised(denoiser, value, grid[-1])
        num_steps += 1
    count = jnp.asarray(num_steps)  # a call a level
    return FlowSolution(value, diffrax.RESULTS.successful, count, count, None, True)


def _evaluations(solver, num_steps: Array) -> Array:
    if type(solver) not in _STAGES:
        return jnp.full_like(num_steps, -1)
    stages, reuses = _STAGES[type(solver)]
    return num_steps * (stages - reuses) + int(reuses)
