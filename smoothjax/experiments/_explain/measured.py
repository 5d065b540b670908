"""Registered measures of a network and of the candidates: how they differ beside their outputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ... import measures
from ..._files.store import Arrays
from ...denoisers import Denoiser
from ...measures import Estimate, Measure

# Under which name a part says why a measure could not be taken.
REASON = "reason"
_TEXT = 160  # characters of it


def measure_at_level(name: str) -> Measure:
    """The measure of that name, or `ValueError` where it is one of samples, which an explanation judges in its own way."""
    measure = measures.get(name)
    if not isinstance(measure, Measure):
        raise ValueError(
            f"`measures` must be of a denoiser at a noise level; {name!r} is of samples."
        )
    return measure


def measured(
    measure: Measure,
    denoisers: Sequence[Denoiser],
    points: Float[Array, "n d"],
    levels: Sequence[float],
    key: PRNGKeyArray,
    centre: Float[Array, " d"],
    batch_size: int,
) -> Arrays:
    """The estimates of a measure of one denoiser for each noise level, (levels,); or a reason, where it cannot be taken.

    A network on the host has derivatives in one mode or in none.
    """
    found = []
    for denoiser, sigma in zip(denoisers, levels, strict=True):
        level = jnp.asarray(sigma, points.dtype)
        try:
            found.append(_estimates(measure, denoiser, points, level, key, centre, batch_size))
        except (ValueError, TypeError, NotImplementedError) as error:
            text = " ".join(str(error).split()).rstrip(".")
            if (
                "callbacks do not support" in text
            ):  # JAX's own words, which advise those who write one
                text = "a network on the host has derivatives forwards only, if any"
            return {REASON: text if len(text) <= _TEXT else text[: _TEXT - 3] + "..."}
    return {
        key: np.array([np.asarray(value) for value in values])
        for name in found[0]
        for key, values in (
            (name, [one[name].value for one in found]),
            (f"{name}_se", [one[name].standard_error for one in found]),
        )
    }


@eqx.filter_jit
def _estimates(
    measure: Measure,
    denoiser: Denoiser,
    points: Float[Array, "n d"],
    sigma: Float[Array, ""],
    key: PRNGKeyArray,
    centre: Float[Array, " d"],
    batch_size: int,
) -> dict[str, Estimate]:
    return measure.estimates(denoiser, points, sigma, key, centre=centre, batch_size=batch_size)


def shown_names(measure: Measure) -> tuple[str, str]:
    """Of the estimate that tables show, and of its standard error."""
    return measure.shown, f"{measure.shown}_se"


def measured_numbers(
    found: Mapping[str, Mapping[str, Arrays]],
) -> tuple[dict[str, Any], list[str]]:
    """By the names of the labelled data set, with their dimensions; and what is left out, in words.

    Args:
        found: of each measure, of each model, what `measured` gave.
    """
    numbers, reasons = {}, []
    for measure, models in found.items():
        taken = [one for one in models.values() if REASON not in one]
        reasons += [
            f"{measure} of {name} ({one[REASON]})" for name, one in models.items() if REASON in one
        ]
        if not taken:
            raise ValueError(f"`measures`: there is none of {'; '.join(reasons)}.")
        for key, value in taken[0].items():
            nothing = np.full(np.shape(value), np.nan)
            columns = [np.asarray(one.get(key, nothing), np.float64) for one in models.values()]
            numbers[key] = (("model", "sigma"), np.stack(columns))
    return numbers, reasons
