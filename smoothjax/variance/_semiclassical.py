"""Endpoint of the flow of a random model, to second order in the randomness of the model."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import RealScalar, as_positive_integer
from ..flows._inputs import as_level, as_state, checked
from ..flows._probability_flow import default_solver, tolerances
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
    """J, with the covariance `J J^T`. For two starts the covariance between endpoints is `J_1 J_2^T`."""

    @property
    def mean(self) -> Float[Array, " d"]:
        """Mean of the endpoint over trained models."""
        return self.mean_flow + self.shift

    @property
    def covariance(self) -> Float[Array, "d d"]:
        """Covariance of the endpoint over trained models."""
        return jnp.matmul(self.factor, self.factor.T, precision="highest")

    @property
    def chi(self) -> Float[Array, ""]:
        """Length of the shift over the root of the covariance's trace.

        Above 0.3 do not use this law: the trajectory passes the boundary of a basin, and the endpoint is multimodal. Draw
        models instead (`law.sample`) and follow their flows.
        """
        return jnp.linalg.norm(self.shift) / jnp.linalg.norm(self.factor)

    @property
    def is_valid(self) -> Array:
        """Whether `chi` is at most 0.3."""
        return self.chi <= VALID_RATIO


def semiclassical(
    law: LinearModelLaw,
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
    the r random directions g of the weights, `J' = (1 - dD/du) J - g`, and for the second-order shift m,
    `m' = (1 - dD/du) m - sum_r (D''[J_r, J_r] / 2 + dg_r/du J_r)`. A step costs O(r); no kernel between times is formed.

    Args:
        law: models linear in random weights.
        u: state at `sigma_from`, shape (d,). For many starts, `jax.vmap`.
        sigma_from, sigma_to: noise levels, both positive.
        rtol, atol, max_steps: of the adaptive solver, as in `flow_solution`.

    Returns:
        A `Semiclassical`; look at `.chi` before use.

    Raises:
        ValueError: for a bad shape or noise level.

    Source: Vastola, ICLR 2025, the semiclassical expansion of the path integral, carried to the second-order mean.
    """
    u = as_state(u)
    start = as_level(sigma_from, "sigma_from", u.dtype)
    end = as_level(sigma_to, "sigma_to", u.dtype)
    if u.shape != (law.dim,):
        raise ValueError(f"`u` must have shape ({law.dim},); got {u.shape}.")
    end = checked(end, start == end, "`sigma_from` and `sigma_to` must differ", f"; got {end}")
    rtol, atol = tolerances(u.dtype, rtol, atol)
    max_steps = as_positive_integer(max_steps, "max_steps")
    return _integrate(law, u, start, end, rtol, atol, max_steps)


@eqx.filter_jit
def _integrate(law, u, start, end, rtol, atol, max_steps):
    start, end = jnp.asarray(start), jnp.asarray(end)
    rank = law.factor.shape[-1]
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_velocities),
        default_solver(rtol),
        t0=jnp.log(start),
        t1=jnp.log(end),
        dt0=None,
        y0=(u, jnp.zeros((u.size, rank), u.dtype), jnp.zeros_like(u)),
        args=law,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
    )
    assert solution.ys is not None
    state, response, shift = (y[0] for y in solution.ys)
    return Semiclassical(state, shift, response)


def _velocities(log_sigma, carried, law):
    u, response, shift = carried
    sigma = jnp.exp(log_sigma)
    mean_denoiser = law.mean_denoiser

    def denoise(u: Array) -> Array:
        return mean_denoiser(u, sigma)

    def along(vector: Array) -> Array:
        return jax.jvp(denoise, (u,), (vector,))[1]

    def bend(vector: Array) -> Array:
        first = lambda u: jax.jvp(denoise, (u,), (vector,))[1]  # noqa: E731
        return jax.jvp(first, (u,), (vector,))[1]

    def directions(u: Array) -> Array:
        return law.directions(u, sigma)

    columns = response.T
    turned = jax.vmap(along)(columns).T
    bends = jnp.sum(jax.vmap(bend)(columns), axis=0)
    # (d, r, d): the directions' own derivative, along the response to each.
    mixed = jnp.einsum("irj,jr->i", jax.jacfwd(directions)(u), response, precision="highest")
    return (
        u - denoise(u),
        response - turned - directions(u),
        shift - along(shift) - 0.5 * bends - mixed,
    )
