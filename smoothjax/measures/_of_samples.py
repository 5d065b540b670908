"""The measures of samples that every comparison takes, in the order of their columns."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray

from ._distances import frechet_distance
from ._estimate import IntervalEstimate
from ._memorization import memorization_fraction
from ._registry import SampleMeasure, register


def _memorization(
    samples: Float[Array, "m d"],
    train: Float[Array, "n d"],
    held_out: Float[Array, "k d"],
    key: PRNGKeyArray,
) -> Mapping[str, Any]:
    found = memorization_fraction(samples, train, null=held_out)
    return {
        "memorized": IntervalEstimate(found.fraction, found.interval),
        "memorized_null": IntervalEstimate(found.null_fraction, found.null_interval),
    }


register(
    SampleMeasure(
        "memorization",
        "How many samples are copies of training points",
        "memorised [95 %]",
        "Memorised: fraction of samples with d1/d2 < 1/3 (distances to the first and second nearest training point), with "
        "its 95 % Wilson interval; the last row is the same for held-out points.",
        _memorization,
        shown="memorized",
        unit="fraction of samples with d1/d2 < 1/3",
        limits=(-0.02, 1.02),
        always=True,
    )
)


def _frechet(
    samples: Float[Array, "m d"],
    train: Float[Array, "n d"],
    held_out: Float[Array, "k d"],
    key: PRNGKeyArray,
) -> Mapping[str, Any]:
    # As many training points as samples: the distance has a bias that depends on both numbers.
    null = train[: len(samples)]
    return {
        "frechet": frechet_distance(samples, held_out),
        "frechet_null": frechet_distance(null, held_out),
    }


register(
    SampleMeasure(
        "frechet",
        "How far samples are from held-out points",
        "Fréchet",
        "Fréchet: squared 2-Wasserstein distance between Gaussians fitted to samples and held-out points, in data "
        "coordinates; the last row is that of as many training points.",
        _frechet,
        unit="squared data units",
        is_logarithmic=True,
        always=True,
    )
)
