"""What a network and the candidates generate from the same noises, beside one another and the training set."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...datasets import Dataset
from ...measures import (
    determination_r2,
    memorization_fraction,
    nearest_neighbours,
    pearson_r2,
)
from .._statistics import error_of_mean, mean_interval, root_of

AGREEMENT = {"determination": determination_r2, "pearson": pearson_r2}
# All samples have the mean of the data in common, and its covariance: this one's agreement is the bar.
BARS = "gaussian-by-class", "gaussian"
CONFIDENCE = 0.95


def bar_of(candidates: Sequence[str]) -> str | None:
    """The Gaussian candidate, that of each class where there is one."""
    return next((name for name in BARS if name in candidates), None)


def sample_numbers(
    samples: Mapping[str, np.ndarray], candidates: Sequence[str], train: Dataset, held_out: Any
) -> dict[str, Any]:
    """By the names of the labelled data set, with their dimensions.

    Args:
        samples: of each model, (samples, d), the network's as "network".
        candidates: the models among them that are compared with it.
        train, held_out: the training set, and fresh points for the null of memorisation.
    """
    drawn = np.stack(list(samples.values()))
    network = np.asarray(samples["network"], np.float64)
    others = np.stack([samples[name] for name in candidates]).astype(np.float64)
    distance, distance_se = root_of(np.mean((others - network[None]) ** 2, axis=-1))
    numbers: dict[str, Any] = {
        "samples": (("model", "sample", "coordinate"), drawn),
        "map_distance": (("candidate",), distance),
        "map_distance_se": (("candidate",), distance_se),
    }
    if train.dim > 1:  # of one coordinate there is no correlation
        numbers |= _agreement(samples, candidates)
    return numbers | _memorised(samples, train, jnp.asarray(held_out))


def _agreement(samples: Mapping[str, np.ndarray], candidates: Sequence[str]) -> dict[str, Any]:
    """R squared of each image with the network's from the same noise."""
    network = jnp.asarray(samples["network"])
    r2 = np.stack(
        [
            np.stack(
                [
                    np.asarray(jax.vmap(one)(jnp.asarray(samples[name]), network))
                    for name in candidates
                ]
            )
            for one in AGREEMENT.values()
        ]
    ).astype(np.float64)
    dims = ("measure", "candidate")
    numbers = {
        "r2": ((*dims, "sample"), r2),
        "mean_r2": (dims, r2.mean(axis=-1)),
        "r2_interval": ((*dims, "end"), mean_interval(r2, CONFIDENCE)),
    }
    bar = bar_of(candidates)
    if bar is not None:
        excess = r2 - r2[:, list(candidates).index(bar), None]
        numbers |= {
            "r2_over_gaussian": (dims, excess.mean(axis=-1)),
            "r2_over_gaussian_se": (dims, error_of_mean(excess)),
            "r2_over_gaussian_interval": ((*dims, "end"), mean_interval(excess, CONFIDENCE)),
        }
    return numbers


def _memorised(
    samples: Mapping[str, np.ndarray], train: Dataset, held_out: jax.Array
) -> dict[str, Any]:
    """Which training point each sample is nearest to, and the fraction that is a copy, with its null."""
    found = [
        memorization_fraction(jnp.asarray(one), train.points, null=held_out)
        for one in samples.values()
    ]
    near = [nearest_neighbours(jnp.asarray(one), train.points, 1) for one in samples.values()]
    return {
        "memorized": (("model",), np.array([float(one.fraction) for one in found])),
        "memorized_interval": (
            ("model", "end"),
            np.stack([np.asarray(one.interval) for one in found]),
        ),
        "memorized_null": ((), float(found[0].null_fraction)),
        "nearest": (("model", "sample"), np.stack([np.asarray(index)[:, 0] for _, index in near])),
        "nearest_distance": (
            ("model", "sample"),
            np.stack([np.asarray(distance)[:, 0] for distance, _ in near]),
        ),
    }
