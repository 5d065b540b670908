"""An exponential integrator for probability flows: exact where the denoiser is constant, one call of it a step."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import as_positive_integer
from .._kinds import checks_kinds
from .._ode.linear_part import linear_step, slope_weight


class History(eqx.Module):
    """What a step needs of the one before it; before the first, the slope is zero."""

    latest: Float[Array, "*shape"]  # output of the denoiser where the last step ended
    slope: Float[Array, "*shape"]  # of the denoiser along the last step, by log sigma


class Step(NamedTuple):
    """One step: where it ends, where the denoiser was called for it, and what the next one needs."""

    corrected: Float[Array, "*shape"]
    predicted: Float[Array, "*shape"]
    history: History
    extra: Any


def multistep(
    denoise: Callable[[Array], tuple[Array, Any]],
    u: Float[Array, "*shape"],
    history: History,
    h: Array,
) -> Step:
    """A step over h in `log sigma`; see `ExponentialMultistep`.

    `denoise` is called once, at the predicted end, for the denoiser's output and whatever else the caller wants from there.
    """
    weight = slope_weight(h)
    predicted = linear_step(u, history.latest + weight * history.slope, h)
    end, extra = denoise(predicted)
    # A step over nothing has no slope.
    slope = jnp.where(h == 0, 0, (end - history.latest) / jnp.where(h == 0, 1, h))
    corrected = linear_step(u, history.latest + weight * slope, h)
    return Step(corrected, predicted, History(end, slope), extra)


class ExponentialMultistep(diffrax.AbstractAdaptiveSolver):
    r"""Exponential predictor and corrector, one call of the denoiser a step: `solver` of `flow`, `sample` and `reverse_sde`.

    In `t = log sigma` the flow is `du/dt = u - D`. Its linear part is solved exactly, and D taken for a polynomial through
    its last outputs. The predictor's end is where the denoiser is called next; with that output the corrector takes the step
    again. Where the posterior has concentrated, D is constant and every step exact; a Runge-Kutta method follows the decay
    of `u - D` with steps of order one however little D changes.

    **On a grid** (`steps` or `levels`): order one is DDIM; two and three take as many outputs, the corrector one more.
    The polynomials are in powers of sigma that depend on the step, such that on a grid with a constant ratio (the default
    for `steps`) the flow of *every* Gaussian is exact to `4 exp(-pi^2 / h)`, h the step in log sigma, whatever its
    covariance. On other grids they are in log sigma. Order three moves each output to the corrected state, with an assumed
    derivative of D. On grids of many step sizes, as those of `adapted_grid` for a training set, take order two, whose
    corrector then has two outputs: the trajectories are those of `replay`.
    With noise (`stochasticity`) each step draws it exactly for its length, and the same is made true of the
    variance; the order is then that of the multistep, two, whatever is given.

    **With error control** (otherwise): of second order, with D linear in log sigma along a step,

        u(t + h) = e^h u - (e^h - 1) D(t) - (e^h - 1 - h) (slope of D).

    The predictor takes the slope of the last step, the corrector that of this one; their difference is the error estimate.

    Args:
        order: 1, 2 or 3. By default 3 on a grid, and 2 with error control, which has no other.

    Raises:
        ValueError: for another order; in `flow`, for error control with another order than two.

    Source: exponential multistep methods; for diffusion models DPM-Solver++ (2M) of Lu et al. 2022, and with a corrector
    UniPC of Zhao et al. 2023. The powers are ours.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.EmpiricalDenoiser(jnp.array([[-1.0], [1.0]]))
        >>> solver = sj.ExponentialMultistep()
        >>> found = sj.flow_solution(D, jnp.array([40.0]), 80.0, 0.002, solver=solver, rtol=1e-3)
        >>> int(found.num_evaluations) < 50
        True
        >>> found = sj.flow_solution(D, jnp.array([40.0]), 80.0, 0.002, solver=solver, steps=12)
        >>> int(found.num_evaluations)
        12
    """

    grid_order: int | None = eqx.field(static=True)

    @checks_kinds
    def __init__(self, order: int | None = None):
        if order is not None and as_positive_integer(order, "order") > 3:
            raise ValueError(f"`order` must be 1, 2 or 3; got {order}.")
        self.grid_order = order

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable[..., Any]] = (
        diffrax.ThirdOrderHermitePolynomialInterpolation
    )

    def order(self, terms: Any) -> int:
        return 2

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> History:
        denoised = y0 - terms.vf(t0, y0, args)
        return History(denoised, jnp.zeros_like(denoised))

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Any,
        args: Any,
        solver_state: History,
        made_jump: Any,
    ) -> tuple[Any, Any, dict[str, Any], History, diffrax.RESULTS]:
        # Signed: diffrax lets time run forwards, whatever the direction.
        h = terms.contr(t0, t1)
        step = multistep(lambda u: (u - terms.vf(t1, u, args), None), y0, solver_state, h)
        end, corrected = step.history.latest, step.corrected
        start = solver_state.latest
        dense = {"y0": y0, "y1": corrected, "k0": h * (y0 - start), "k1": h * (corrected - end)}
        # Steps downwards may be long. The controller compares with the larger end of a step, which is the first; what
        # matters is the error relative to the last.
        error = jnp.exp(jnp.maximum(-h, 0)) * (corrected - step.predicted)
        return corrected, error, dense, step.history, diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        return terms.vf(t0, y0, args)
