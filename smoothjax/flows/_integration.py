"""Solvers of the probability flow, compiled: adaptive, step by step on a grid, and by several steps' values."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._calls import denoised
from .._checks import RealScalar, checked, is_concrete, nan_where
from .._levels import as_level
from .._ode.tolerances import largest
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


# What is compiled consists of functions of the module, not of closures: a second call finds it compiled.


class _FromFirstStep(diffrax.PIDController):
    """Begins with a step of known size: the calls that diffrax makes to choose one depend on its release.

    Given to `diffeqsolve` itself, its sign would be checked when it runs, by a call to the host.
    """

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        first = jnp.asarray(_FIRST_STEP, jnp.result_type(t0))
        return super().init(terms, t0, t1, y0, first, args, func, error_order)


def velocity(log_sigma, u, denoiser):
    return u - denoised(denoiser, u, jnp.exp(log_sigma))


def _velocity_in_sigma(sigma, u, denoiser):
    return (u - denoised(denoiser, u, sigma)) / sigma


@eqx.filter_jit
def adaptive(denoiser, u, start, end, may_be_zero, tolerance, solver, dense, max_steps, adjoint):
    rtol, atol = tolerance
    # What remains below the floor is one call of the denoiser, whose error is of second order in the floor.
    last = jnp.where(end > 0, end, jnp.minimum(0.1 * atol, start)) if may_be_zero else end
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
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


@eqx.filter_jit
def on_grid(denoiser, u, grid, to_zero, solver, dense, adjoint):
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
def by_multistep(denoiser, u, grid, to_zero, order):
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
