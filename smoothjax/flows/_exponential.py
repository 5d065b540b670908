"""An exponential integrator for probability flows: exact where the denoiser is constant, one call of it a step."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


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
    first = jnp.expm1(h)
    # e^h - 1 - h, which would cancel.
    second = jnp.where(jnp.abs(h) < 0.1, _series(h), first - h)
    # u + (e^h - 1) (u - D): e^h u - (e^h - 1) D without the loss of small differences.
    linear = u + first * (u - history.latest)
    predicted = linear - second * history.slope
    end, extra = denoise(predicted)
    # A step over nothing has no slope.
    slope = jnp.where(h == 0, 0, (end - history.latest) / jnp.where(h == 0, 1, h))
    return Step(linear - second * slope, predicted, History(end, slope), extra)


class ExponentialMultistep(diffrax.AbstractAdaptiveSolver):
    r"""Second-order exponential predictor and corrector with error control, for `flow` and `sample` as `solver`.

    In `t = log sigma` the flow is `du/dt = u - D`. Its linear part is solved exactly, and D taken for linear over a step h:

        u(t + h) = e^h u - (e^h - 1) D(t) - (e^h - 1 - h) (slope of D).

    The predictor takes the slope of the last step; D at what it predicts gives the slope of this one, and the corrected
    state; their difference is the error estimate. So a step costs one call of the denoiser, which the next one uses
    again. Where the posterior has concentrated, D is constant, every step exact, and the rest of the flow costs a few
    calls; a Runge-Kutta method follows the decay of `u - D` with steps of order one however little D changes.

    Like the adaptive flow's default it works in `log sigma`: give it with `rtol` and `atol`, not with a grid in sigma.

    Source: exponential multistep methods; for diffusion models DPM-Solver++ (2M) of Lu et al. 2022, and with a corrector
    UniPC of Zhao et al. 2023, both on given grids.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.EmpiricalDenoiser(jnp.array([[-1.0], [1.0]]))
        >>> solver = sj.ExponentialMultistep()
        >>> found = sj.flow_solution(D, jnp.array([40.0]), 80.0, 0.002, solver=solver, rtol=1e-3)
        >>> int(found.num_evaluations) < 50
        True
    """

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


def _series(h: Array) -> Array:
    """`e^h - 1 - h` for |h| < 0.1, to 1e-16 of it: eight terms."""
    total = jnp.ones_like(h)
    for k in range(9, 2, -1):
        total = 1 + total * h / k
    return 0.5 * h**2 * total
