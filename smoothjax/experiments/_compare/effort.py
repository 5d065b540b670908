"""How much a comparison spends on a denoiser: everything where traces are cheap, estimates in small batches where not."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..._jax.blocks import DEFAULT_BATCH_SIZE
from ..._strengths.interpolated import InterpolatedStrength
from ...denoisers import AbstractDenoiser, AbstractPosteriorDenoiser, Denoiser
from ...measures import Measure
from .settings import CompareSettings

# Held-out points at which denoisers are compared and likelihoods taken: standard errors of a few per cent.
MAX_EVALUATION_POINTS = 256
# Up to this dimension the exact trace of a Jacobian costs no more than a good estimate.
MAX_EXACT_DIM = 8
# Points differ by more than the estimates of one: many points with few probes, of which a standard error needs two.
ESTIMATED_POINTS, NUM_PROBES = 64, 2
# On 8 x 8 digits samples are a twentieth of the data's scale from those of the adaptive flow, with far fewer calls.
HEUN_STEPS = 40
# Of a measure that nobody asked for, a point and a noise level.
MAX_CALLS = 4
# Queries at a time. Local denoisers hold some arrays of 2^17 numbers for each and for each of its tangents, whatever the
# images: below a gigabyte in float32. Larger batches are not faster.
BATCH_SIZE = 16


class Effort(NamedTuple):
    """What a comparison spends on one denoiser.

    Attributes:
        likelihood_points: held-out points at which the likelihood is taken.
        num_probes: of Hutchinson's estimate of the trace; None for the exact trace, or a closed form.
        steps: noise levels of EDM's Heun sampler; None for the adaptive flow.
        batch_size: queries at a time.
        measures: by name, those taken of it at each noise level.
    """

    likelihood_points: int
    num_probes: int | None
    steps: int | None
    batch_size: int
    measures: tuple[str, ...]


def effort_of(denoiser: Denoiser, dim: int, num_points: int, settings: CompareSettings) -> Effort:
    """Everything for denoisers that know the trace of their Jacobian; for others in high dimension, what is affordable."""
    num = min(num_points, MAX_EVALUATION_POINTS)
    chosen = settings.at_levels()
    if dim <= MAX_EXACT_DIM or _knows_trace(denoiser):
        return Effort(num, None, settings.steps, DEFAULT_BATCH_SIZE, _names(chosen))
    steps = HEUN_STEPS if settings.steps is None else settings.steps
    if not settings.measures:
        chosen = tuple(one for one in chosen if one.calls <= MAX_CALLS)
    return Effort(min(num, ESTIMATED_POINTS), NUM_PROBES, steps, BATCH_SIZE, _names(chosen))


def _names(chosen: tuple[Measure, ...]) -> tuple[str, ...]:
    return tuple(one.name for one in chosen)


def _knows_trace(denoiser: Denoiser) -> bool:
    """Whether `mean_and_variance` is cheaper than the Jacobian: for a wrapper, if that of all it wraps is."""
    if isinstance(denoiser, AbstractPosteriorDenoiser):
        return True
    if isinstance(denoiser, InterpolatedStrength):
        return _knows_trace(denoiser.member(jnp.exp(denoiser.log_levels[0])))
    if not isinstance(denoiser, AbstractDenoiser):
        return False
    if type(denoiser).mean_and_variance is AbstractDenoiser.mean_and_variance:
        return False
    is_inner = lambda x: x is not denoiser and callable(x)  # noqa: E731
    return all(map(_knows_trace, filter(is_inner, jax.tree.leaves(denoiser, is_leaf=is_inner))))
