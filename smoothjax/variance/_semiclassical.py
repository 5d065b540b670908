"""Endpoint of the flow of a random model, to second order in the randomness of the model."""

import warnings
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._checks import RealScalar, as_points, as_positive_integer, is_concrete
from ..flows._inputs import as_level, as_state, checked
from ..flows._probability_flow import default_solver, tolerances
from ._dynamics import flow_of_models
from ._kernel_law import KernelLaw
from ._linear_law import LinearModelLaw

# Beyond this ratio of shift to standard deviation the endpoint is no longer nearly Gaussian (seen in retrained models).
VALID_RATIO = 0.3


class Semiclassical(eqx.Module):
    """Law of the endpoint over trained models, to second order."""

    mean_flow: Float[Array, " d"]
    """Endpoint of the mean model's flow."""
    shift: Float[Array, " d"]
    """What the second order adds to the mean."""
    factor: Float[Array, "d r"]
    """J, with the covariance `J J^T`."""

    @property
    def mean(self) -> Float[Array, " d"]:
        """Mean of the endpoint over trained models."""
        return self.mean_flow + self.shift

    @property
    def covariance(self) -> Float[Array, "d d"]:
        """Covariance of the endpoint over trained models."""
        return self.covariance_with(self)

    def covariance_with(self, other: "Semiclassical") -> Float[Array, "d d"]:
        """Covariance, over trained models, of this endpoint with that of another start of the same models (two replicas).

        A trained model is shared by all that it generates: `J_1 J_2^T`, transposed if the starts are exchanged. Both must
        come from the same law; the other may end at another noise level.

        Example:
            >>> import jax, jax.numpy as jnp, smoothjax as sj
            >>> levels = sj.variance.LogUniformLevels(0.1, 10.0)
            >>> problem = sj.variance.DenoisingProblem(jnp.array([[-1.0], [1.0]]), levels)
            >>> kernel = sj.variance.ReLUTangentKernel(2)
            >>> law = sj.variance.KernelLaw.ridge(problem, kernel, 200, jax.random.key(0), ridge=0.1)
            >>> ends = jax.vmap(lambda u: sj.variance.semiclassical(law, u, 5.0, 0.5))(jnp.array([[4.0], [6.0]]))
            >>> first, second = (jax.tree.map(lambda leaf: leaf[i], ends) for i in (0, 1))
            >>> first.covariance_with(second).shape
            (1, 1)
        """
        return jnp.matmul(self.factor, other.factor.T, precision="highest")

    @property
    def chi(self) -> Float[Array, ""]:
        """Length of the shift over the root of the covariance's trace; 0 where models do not differ.

        Above 0.3 do not use this law: the trajectory passes the boundary of a basin, and the endpoint is multimodal. Draw
        models instead and follow their flows: `endpoint_moments` does where it is needed, `flow_of_models` for all starts.
        """
        length, spread = jnp.linalg.norm(self.shift), jnp.linalg.norm(self.factor)
        return jnp.where(length == 0, 0, length / jnp.where(length == 0, 1, spread))

    @property
    def is_valid(self) -> Bool[Array, ""]:
        """Whether `chi` is at most 0.3."""
        return self.chi <= VALID_RATIO


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
        A `Semiclassical`. Look at `.chi` before use.

    Warns:
        Where `chi` exceeds 0.3, if its value is known: outside of `jax.jit` and `jax.vmap`.

    Raises:
        ValueError: for a bad shape or noise level, or a law without directions.

    Source: Vastola, ICLR 2025, the semiclassical expansion of the path integral, carried to the second-order mean.
    """
    u = as_state(u)
    _require_dim(law, u, "u")
    start, end = _levels(sigma_from, sigma_to, u.dtype)
    rtol, atol = tolerances(u.dtype, rtol, atol)
    max_steps = as_positive_integer(max_steps, "max_steps")
    found = _integrate(law, u, start, end, rtol, atol, max_steps, True)[0]
    warn_of_large_shifts(found)
    return found


class EndpointMoments(eqx.Module):
    """Mean and covariance of endpoints over trained models, and how each was found; see `endpoint_moments`."""

    mean: Float[Array, "num d"]
    covariance: Float[Array, "num d d"]
    is_semiclassical: Bool[Array, " num"]
    """Whether the start's moments are the semiclassical ones; elsewhere models were drawn."""
    mean_error: Float[Array, "num d"]
    """Standard errors over models. Zero where nothing was drawn: there the error is that of the expansion."""
    covariance_error: Float[Array, "num d d"]
    """As `mean_error`."""


def endpoint_moments(
    law: LinearModelLaw | KernelLaw,
    starts: Float[Array, "num d"],
    sigma_from: RealScalar,
    sigma_to: RealScalar,
    key: PRNGKeyArray,
    *,
    num_models: int,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 4096,
) -> EndpointMoments:
    """Mean and covariance of many endpoints over trained models: semiclassical where that is valid, else from drawn models.

    Where `chi` exceeds 0.3, or the expansion's equations cannot be solved, the flows of `num_models` models are followed,
    the same for all starts. Endpoints are then often multimodal: mean and covariance are right, but no longer the whole law.

    Args:
        law: models, as for `semiclassical`.
        starts: states at `sigma_from`, shape (num, d).
        sigma_from, sigma_to: noise levels, both positive.
        key: of the drawn models, as in `flow_of_models`.
        num_models: at least 2; the standard errors are over models, and fall as its root.
        rtol, atol, max_steps: as for `semiclassical`; the drawn models' flows take `rtol`.

    Raises:
        ValueError: for bad shapes, noise levels or numbers; under `jax.jit`, which starts need models must be known.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> levels = sj.variance.LogUniformLevels(0.1, 10.0)
        >>> problem = sj.variance.DenoisingProblem(jnp.array([[-1.0], [1.0]]), levels)
        >>> kernel = sj.variance.ReLUTangentKernel(2)
        >>> law = sj.variance.KernelLaw.ridge(problem, kernel, 200, jax.random.key(0), ridge=0.1)
        >>> starts = jnp.array([[-4.0], [0.0], [6.0]])
        >>> ends = sj.variance.endpoint_moments(law, starts, 5.0, 0.2, jax.random.key(1), num_models=100)
        >>> ends.mean.shape, ends.covariance.shape
        ((3, 1), (3, 1, 1))
    """
    starts = as_points(starts, "starts")
    _require_dim(law, starts[0], "starts")
    start, end = _levels(sigma_from, sigma_to, starts.dtype)
    if as_positive_integer(num_models, "num_models") < 2:
        raise ValueError(f"`num_models` must be at least 2; got {num_models}.")
    if not is_concrete(law, starts, start, end):
        raise ValueError(
            "`endpoint_moments` picks the starts that need models by their values: call it outside of `jax.jit`."
        )
    steps = as_positive_integer(max_steps, "max_steps")
    tolerance = tolerances(starts.dtype, rtol, atol)
    found, solved = _integrate_all(law, starts, start, end, *tolerance, steps)
    covariance = jax.vmap(lambda end: end.covariance)(found)
    valid = np.asarray(solved & jax.vmap(lambda end: end.is_valid)(found))
    moments = EndpointMoments(
        found.mean,
        covariance,
        jnp.asarray(valid),
        jnp.zeros_like(found.mean),
        jnp.zeros_like(covariance),
    )
    if np.all(valid):
        return moments
    drawn = flow_of_models(
        law, key, starts[~valid], start, end, num_models=num_models, rtol=tolerance[0]
    )
    sampled = _moments_of(drawn)
    pick = lambda all, some: all.at[~valid].set(some.astype(all.dtype))  # noqa: E731
    return EndpointMoments(
        pick(moments.mean, sampled[0]),
        pick(moments.covariance, sampled[1]),
        moments.is_semiclassical,
        pick(moments.mean_error, sampled[2]),
        pick(moments.covariance_error, sampled[3]),
    )


@jax.jit
def _moments_of(drawn: Float[Array, "models num d"]) -> tuple[Array, Array, Array, Array]:
    """Mean and covariance over models, and the standard errors of both."""
    num = drawn.shape[0]
    mean = jnp.mean(drawn, axis=0)
    centred = drawn - mean
    products = centred[..., :, None] * centred[..., None, :]
    covariance = jnp.sum(products, axis=0) / (num - 1)
    return (
        mean,
        covariance,
        jnp.std(drawn, axis=0, ddof=1) / num**0.5,
        jnp.std(products, axis=0, ddof=1) / num**0.5,
    )


def warn_of_large_shifts(ends: Semiclassical) -> None:
    """Warns, where values are known, of starts whose `chi` exceeds 0.3. `ends` of one start or of many."""
    if not is_concrete(ends):
        return
    each = lambda end: end.chi  # noqa: E731
    chi = np.asarray(each(ends) if ends.mean_flow.ndim == 1 else jax.vmap(each)(ends)).ravel()
    # Not `chi > 0.3`, which would let NaN pass.
    num = int(np.sum(~(chi <= VALID_RATIO)))
    if num:
        warnings.warn(
            f"chi exceeds {VALID_RATIO} at {num} of {chi.size} starts (up to {np.max(chi):.3g}): the expansion does not "
            "hold there, as trajectories that pass the boundary of a basin may end on either side. Draw models instead: "
            "`endpoint_moments` does for such starts, `flow_of_models` for all.",
            stacklevel=3,
        )


def _require_dim(law: Any, u: Array, name: str) -> None:
    if u.shape != (law.dim,):
        each = "points of " if name == "starts" else ""
        raise ValueError(f"{each}`{name}` must have shape ({law.dim},); got {u.shape}.")


def _levels(sigma_from: RealScalar, sigma_to: RealScalar, dtype: Any) -> tuple[Any, Any]:
    start = as_level(sigma_from, "sigma_from", dtype)
    end = as_level(sigma_to, "sigma_to", dtype)
    return start, checked(
        end, start == end, "`sigma_from` and `sigma_to` must differ", f"; got {end}"
    )


@eqx.filter_jit
def _integrate_all(law, starts, start, end, rtol, atol, max_steps):
    one = lambda u: _integrate(law, u, start, end, rtol, atol, max_steps, False)  # noqa: E731
    return jax.vmap(one)(starts)


@eqx.filter_jit
def _integrate(law, u, start, end, rtol, atol, max_steps, throw):
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
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, norm=_largest),
        max_steps=max_steps,
        throw=throw,
    )
    assert solution.ys is not None
    state, response, shift = (y[0] for y in solution.ys)
    return Semiclassical(state, shift, response), diffrax.is_okay(solution.result)


def _largest(errors: Any) -> Array:
    """Every component within the tolerance: a mean would hide the state's error behind those of many directions."""
    return jnp.max(jnp.stack([jnp.max(jnp.abs(error)) for error in jax.tree.leaves(errors)]))


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
