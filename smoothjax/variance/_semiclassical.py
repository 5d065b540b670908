"""Endpoint of the flow of a random model, to second order in the randomness of the model."""

import warnings
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import RealScalar, as_positive_integer, checked, is_concrete, nan_where
from .._kinds import checks_kinds
from .._levels import as_level, as_state
from .._ode.outcome import raised_or_nan
from .._ode.tolerances import default_solver, largest, tolerances
from ._kernel_law import KernelLaw
from ._linear_law import LinearModelLaw

# Beyond this ratio of shift to standard deviation the second order is not small. Below, it may fail all the same.
LARGE_RATIO = 0.3


class Semiclassical(eqx.Module):
    """Law of the endpoint over trained models, to second order.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> found = sj.variance.Semiclassical(jnp.array([2.0]), jnp.array([0.25]), jnp.array([[3.0, 4.0]]))
        >>> print(found.mean, found.covariance, found.chi)
        [2.25] [[25.]] [0.05]
    """

    mean_flow: Float[Array, " d"]
    """Endpoint of the mean model's flow."""
    shift: Float[Array, " d"]
    """What the second order adds to the mean."""
    factor: Float[Array, "d r"]
    """J, with the covariance `J J^T`."""

    @property
    def mean(self) -> Float[Array, "*starts d"]:
        """Mean of the endpoint over trained models."""
        return self.mean_flow + self.shift

    @property
    def covariance(self) -> Float[Array, "*starts d d"]:
        """Covariance of the endpoint over trained models."""
        return self.covariance_with(self)

    def covariance_with(self, other: "Semiclassical") -> Float[Array, "d d"]:
        """Covariance, over trained models, of this endpoint with that of another start of the same models (two replicas).

        A trained model is shared by all that it generates: `J_1 J_2^T`, transposed if the starts are exchanged. Both must
        come from the same law; the other may end at another noise level.

        Example:
            >>> import jax.numpy as jnp, smoothjax as sj
            >>> law = sj.LinearModelLaw(lambda u, sigma: u, jnp.array([[0.0]]), jnp.array([[[0.1]]]))
            >>> first, second = (sj.semiclassical(law, jnp.array([u]), 2.0, 1.0) for u in (4.0, 8.0))
            >>> ratio = first.covariance_with(second) / first.covariance  # D = w u: twice as far ends twice as far
            >>> round(float(ratio[0, 0]), 4)
            2.0
        """
        return jnp.matmul(self.factor, other.factor.T, precision="highest")

    @property
    def chi(self) -> Float[Array, " d"]:
        """Size of the shift over the standard deviation, of each component; 0 where there is no shift.

        No test of validity. Where it is large, the expansion cannot be trusted: the trajectory passes near the boundary of
        a basin, and models end on either side. Where it is small, it may fail as much: on the boundary itself the shift
        vanishes by symmetry, and rare models that end elsewhere do not show in it. `endpoint_moments` draws models.
        """
        size, spread = jnp.abs(self.shift), jnp.linalg.norm(self.factor, axis=1)
        # Not `size == 0`, which would hide NaN; a shift without spread is infinitely many of them.
        return jnp.where(size == 0, 0, size / jnp.where(size == 0, 1, spread))


@checks_kinds
def semiclassical(
    law: LinearModelLaw | KernelLaw,
    u: Float[Array, " d"],
    sigma_from: RealScalar,
    sigma_to: RealScalar,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 4096,
) -> Semiclassical:
    """Mean and covariance, over trained models, of the endpoint of the probability flow from one start.

    Along the mean model's flow `u' = u - D` (in log sigma) two linear equations are carried: for the response J to each of
    the r random directions g of the models, `J' = (1 - dD/du) J - g`, and for the second-order shift m,
    `m' = (1 - dD/du) m - D''[J J^T] / 2 - sum_r dg_r/du J_r`. A step costs 3 d derivatives of the mean denoiser and d of the
    directions; no kernel between times is formed. Nothing is assumed of the directions' laws but mean and covariance.

    Args:
        law: models linear in what is random, with `law.directions`.
        u: state at `sigma_from`, shape (d,). For many starts, `jax.vmap`.
        sigma_from, sigma_to: noise levels, both positive.
        rtol, atol, max_steps: of the adaptive solver, as in `flow_solution`; `atol` is also that of J and m, in data units.

    Returns:
        A `Semiclassical`, right as far as models differ little against the distance to the boundary of a basin, which
        nothing in it shows. `endpoint_moments` needs no such assumption.

    Warns:
        Where `chi` exceeds 0.3, if its value is known: outside of `jax.jit` and `jax.vmap`. No warning says nothing.

    Raises:
        ValueError: for a bad shape or noise level, or a law without directions.

    Source: Vastola, ICLR 2025, the semiclassical expansion of the path integral, carried to the second-order mean.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> law = sj.LinearModelLaw(lambda u, sigma: u, jnp.array([[0.0]]), jnp.array([[[0.1]]]))
        >>> found = sj.semiclassical(law, jnp.array([4.0]), 2.0, 1.0)  # D = w u ends at 2 * 2^w
        >>> [round(float(x[0]), 4) for x in (found.mean_flow, found.factor[:, 0] / (0.2 * jnp.log(2.0)))]
        [2.0, 1.0]
    """
    u = as_state(u)
    require_dim(law, u, "u")
    start, end = as_levels(sigma_from, sigma_to, u.dtype)
    rtol, atol = tolerances(u.dtype, rtol, atol)
    max_steps = as_positive_integer(max_steps, "max_steps")
    found, result = _integrate(law, u, start, end, rtol, atol, max_steps)
    factor = raised_or_nan(
        result, jnp.isfinite(found.factor), found.factor, "The expansion left the finite numbers."
    )
    found = eqx.tree_at(lambda x: x.factor, found, factor)
    warn_of_large_shifts(found)
    return found


def warn_of_large_shifts(ends: Semiclassical) -> None:
    """Warns, where values are known, of starts whose `chi` exceeds 0.3. `ends` of one start or of many."""
    if not is_concrete(ends):
        return
    each = lambda end: jnp.max(end.chi)  # noqa: E731
    chi = np.asarray(each(ends) if ends.mean_flow.ndim == 1 else jax.vmap(each)(ends)).ravel()
    # Not `chi > 0.3`, which would let NaN pass.
    num = int(np.sum(~(chi <= LARGE_RATIO)))
    if num:
        warnings.warn(
            f"The second-order shift is more than {LARGE_RATIO} standard deviations at {num} of {chi.size} starts (up to "
            f"{np.max(chi):.3g}): the expansion cannot be trusted there, nor at starts near them, whose shift may be small "
            "where it fails. Draw models: `endpoint_moments`, or `DrawnEndpointDensity` of `flow_of_models`.",
            stacklevel=3,
        )


def require_dim(law: Any, u: Array, name: str) -> None:
    if u.shape != (law.dim,):
        each = "points of " if name == "starts" else ""
        raise ValueError(f"{each}`{name}` must have shape ({law.dim},); got {u.shape}.")


def as_levels(sigma_from: RealScalar, sigma_to: RealScalar, dtype: Any) -> tuple[Any, Any]:
    start = as_level(sigma_from, "sigma_from", dtype)
    end = as_level(sigma_to, "sigma_to", dtype)
    return start, checked(
        end, start == end, "`sigma_from` and `sigma_to` must differ", f"; got {end}"
    )


@eqx.filter_jit
def expand_all(law, starts, start, end, rtol, atol, max_steps) -> Semiclassical:
    """The expansions from many starts. Where the equations are not solved, the factor is not finite."""

    def one(u: Array) -> Semiclassical:
        found, result = _integrate(law, u, start, end, rtol, atol, max_steps)
        factor = nan_where(~diffrax.is_okay(result), found.factor)
        return eqx.tree_at(lambda x: x.factor, found, factor)

    return jax.vmap(one)(starts)


@eqx.filter_jit
def _integrate(law, u, start, end, rtol, atol, max_steps):
    start, end = jnp.asarray(start), jnp.asarray(end)
    rank = jax.eval_shape(law.directions, u, start).shape[1]
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_velocities),
        default_solver(rtol),
        t0=jnp.log(start),
        t1=jnp.log(end),
        dt0=None,
        y0=(u, jnp.zeros((u.size, rank), u.dtype), jnp.zeros_like(u)),
        args=law,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, norm=largest),
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ys is not None
    # A noise level that is none leaves diffrax where it began.
    unknown = jnp.isnan(start) | jnp.isnan(end)
    state, response, shift = (nan_where(unknown, y[0]) for y in solution.ys)
    return Semiclassical(state, shift, response), solution.result


def _velocities(log_sigma, carried, law):
    u, response, shift = carried
    sigma = jnp.exp(log_sigma)
    mean_denoiser = law.mean_denoiser

    def denoise(u: Array) -> Array:
        return mean_denoiser(u, sigma)

    def bend(first: Array, second: Array) -> Array:
        along = lambda u: jax.jvp(denoise, (u,), (first,))[1]  # noqa: E731
        return jax.jvp(along, (u,), (second,))[1]

    def directions(u: Array) -> Array:
        return law.directions(u, sigma)

    slope = jax.jacfwd(denoise)(u)
    spread = jnp.matmul(response, response.T, precision="highest")
    bends = jnp.sum(jax.vmap(bend)(jnp.eye(u.size, dtype=u.dtype), spread), axis=0)
    # (d, r, d): the directions' own derivative, along the response to each.
    mixed = jnp.einsum("irj,jr->i", jax.jacfwd(directions)(u), response, precision="highest")
    return (
        u - denoise(u),
        response - jnp.matmul(slope, response, precision="highest") - directions(u),
        shift - jnp.matmul(slope, shift, precision="highest") - 0.5 * bends - mixed,
    )
