"""The experiments that have a name: what they compute, and how it is drawn."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from ._circle import circle
from ._early_stopping import early_stopping
from ._gap_filling import gap_filling
from ._line_in_plane import line_in_plane
from ._optimality import optimality
from ._penalty_sweep import penalty_sweep
from ._target_noise import target_noise
from ._two_points import two_points

if TYPE_CHECKING:
    import xarray


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A named experiment.

    Attributes:
        name: what users type; `smoothjax.plots` draws it under this name.
        description: one line.
        run: `run(out=folder)` computes it with its default settings and returns labelled results.
    """

    name: str
    description: str
    run: Callable[..., "xarray.Dataset"]


EXPERIMENTS = {
    one.name: one
    for one in (
        Experiment(
            "two-points", "score, flow and law of the smoothed score of two points", two_points
        ),
        Experiment(
            "penalty-sweep",
            "smoothing strength of networks against the penalty on their weights",
            penalty_sweep,
        ),
        Experiment(
            "optimality",
            "non-smoothness of the smoothed score over the least that its loss allows",
            optimality,
        ),
        Experiment(
            "line-in-plane",
            "spread along a line of four points and normal to it: exact, smoothed and learned score",
            line_in_plane,
        ),
        Experiment(
            "early-stopping",
            "the smoothed flow beside the exact one stopped where it spreads as far along the data",
            early_stopping,
        ),
        Experiment(
            "circle",
            "networks trained on points of a circle, in the plane and in R^20: where the new samples lie",
            circle,
        ),
        Experiment(
            "target-noise",
            "where the targets of denoising score matching are noise, over the plane",
            target_noise,
        ),
        Experiment(
            "gap-filling",
            "what linear models trained anew on three points generate, against the number of samples",
            gap_filling,
        ),
    )
}


def get_experiment(name: str) -> Experiment:
    """The experiment of that name, or `ValueError` with the names there are."""
    if name not in EXPERIMENTS:
        raise ValueError(
            f"There is no experiment called {name!r}; there are: {', '.join(EXPERIMENTS)}."
        )
    return EXPERIMENTS[name]
