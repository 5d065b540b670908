"""The mechanism of a kernel density estimate."""

import numpy as np
from jax.tree_util import Partial

from .._units import spread_of
from ..datasets import Dataset
from ..denoisers import EmpiricalDenoiser, WidenedDenoiser
from ._mechanism import Mechanism, Strength, register

# Widths of a density estimate over the data's spread.
KERNEL_WIDTHS = tuple(float(x) for x in np.geomspace(0.01, 2.0, 12))


def _silverman(train: Dataset) -> float:
    """The width of a kernel density estimate that is best in mean square for a Gaussian of the data's spread."""
    n, d = train.points.shape
    return spread_of(train.points) * (4 / ((d + 2) * n)) ** (1 / (d + 4))


def _kernel_widths(train: Dataset) -> tuple[float, ...]:
    spread = spread_of(train.points)
    return tuple(spread * width for width in KERNEL_WIDTHS)


# Beside the smoothed score, the score of a smoothed law.
register(
    Mechanism(
        "widened",
        "exact for the training points' kernel density estimate, of Silverman's width: a flow that stops early",
        lambda train, seed: WidenedDenoiser(train.points, _silverman(train)),
        strength=Strength(
            "width",
            _kernel_widths,
            lambda train, seed: Partial(WidenedDenoiser, EmpiricalDenoiser(train.points)),
            "data units",
            is_continuous=True,
            by_default=False,
            default=_silverman,
            without=lambda train, seed: EmpiricalDenoiser(train.points),
            meaning="the standard deviation a coordinate of the Gaussian that is put on every training point: the larger, "
            "the farther its law reaches beyond them",
        ),
    )
)
