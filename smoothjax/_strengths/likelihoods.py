"""Log-likelihoods of many points at a noise level: in closed form where a denoiser has them, else by its flow."""

import math

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from .._jax.blocks import in_batches
from .._units import Units
from ..denoisers import AbstractPosteriorDenoiser, Denoiser, GaussianDenoiser
from ..flows import likelihood_solution

# On 8 x 8 digits it moves the log density of a point by some 0.1 nats, where the mean over points is off by some units; it
# saves a third to two thirds of the steps of the default tolerance.
TOLERANCE = 1e-4


def log_likelihoods(
    denoiser: Denoiser,
    points: Float[Array, "n d"],
    noisy: Float[Array, "m d"],
    floor: float,
    high: float,
    *,
    num_probes: int | None = None,
    key: PRNGKeyArray,
    batch_size: int | None,
) -> Float[Array, " m"]:
    """Of each noisy point at the noise level `floor`, in nats, shape (m,).

    Args:
        denoiser: of the training points.
        points: the training points, whose Gaussian stands for the law at the noise level `high` in a flow.
        noisy: where the density is meant.
        num_probes: of Hutchinson's estimate of the trace, each point's of its own by `key`; None for the exact one.
        batch_size: points at a time.
    """
    units = Units.of(points)
    prior = GaussianDenoiser.fit(units.into(points))
    return _run(
        denoiser, units, prior, noisy, key, float(units.scale), floor, high, num_probes, batch_size
    )


# One of the module: numbers that are not arrays are constants of its programs, and a second strength finds it compiled.
@eqx.filter_jit
def _run(
    denoiser: Denoiser,
    units: Units,
    prior: GaussianDenoiser,
    noisy: Array,
    key: PRNGKeyArray,
    scale: float,
    floor: float,
    high: float,
    num_probes: int | None,
    batch_size: int | None,
) -> Array:
    def one(i: Array) -> Array:
        u = noisy[i]
        if isinstance(denoiser, AbstractPosteriorDenoiser):
            return denoiser.log_density(u, floor)
        # The density of the flow in the data's own units, whose volume element makes it one in theirs.
        solution = likelihood_solution(
            units.denoiser(denoiser),
            units.into(u),
            sigma_min=floor / scale,
            sigma_max=high / scale,
            prior=prior,
            num_probes=num_probes,
            # Probes of its own for each point: what they leave uncertain is part of the spread over points.
            key=jax.random.fold_in(key, i),
            rtol=TOLERANCE,
            atol=TOLERANCE,
            estimate_error=False,
        )
        return solution.value - noisy.shape[1] * math.log(scale)

    return in_batches(one, len(noisy), batch_size)
