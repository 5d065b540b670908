"""Which training points a network has memorised most, held against what chance makes of fresh points."""

from typing import Any

import numpy as np

from ...datasets import Dataset
from ...measures import nearest_neighbours

# How many are listed.
MOST = 10
# A p of which it is said how many points have it.
FEW = 0.05


def memorised_points(
    loss: np.ndarray, easy: np.ndarray, fresh_loss: np.ndarray, fresh_easy: np.ndarray
) -> dict[str, Any]:
    """How far a network's loss at each training point lies below those at held-out points, as images of that ease have it.

    What is compared is the logarithm of the loss over that of a Gaussian denoiser at the same noisy point, which takes out
    most of what makes an image easy or hard, and of what its noise does. `memorized_z` is in standard deviations of the
    held-out points'; `memorized_p` is one more than the number of held-out points with as low a value, over one more than
    their number: for a training point that is no more than a fresh one it is at most p with probability p.

    Args:
        loss, easy: of the network and of the Gaussian denoiser at training points, (n,).
        fresh_loss, fresh_easy: at held-out points, (m,).
    """
    tiny = np.finfo(np.float64).tiny
    ratio = lambda a, b: np.log(np.maximum(a, tiny)) - np.log(np.maximum(b, tiny))  # noqa: E731
    values, null = ratio(loss, easy), ratio(fresh_loss, fresh_easy)
    spread = np.std(null, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (np.mean(null) - values) / spread
    as_low = np.sum(null[None] <= values[:, None], axis=1)
    return {
        "training_loss": loss,
        "memorized_z": z,
        "memorized_p": (1 + as_low) / (1 + len(null)),
    }


def most_memorised(p: np.ndarray, z: np.ndarray, has_share: bool) -> np.ndarray:
    """The training points that are memorised most, first the one that is most, (`MOST`,) or as many as there are.

    -1 at a noise level at which a memoriser is no better than the network, and nothing can be said.
    """
    order = np.lexsort((-np.nan_to_num(z), p))[:MOST]
    return order if has_share else np.full_like(order, -1)


def nearest_others(train: Dataset, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of some training points the nearest other one, and its distance; points that are there twice are each other's.

    Args:
        train: the training set.
        index: which of its points, (n,).
    """
    distances, rows = (
        np.asarray(x) for x in nearest_neighbours(train.points[index], train.points, 2)
    )
    # Of two equal points either may come first.
    column = np.where(rows[:, 0] == index, 1, 0)
    at = np.arange(len(index)), column
    return rows[at], distances[at]


def clearest_level(data: Any) -> int | None:
    """The noise level at which training and held-out loss differ most in standard errors; None where there is no share."""
    with np.errstate(divide="ignore", invalid="ignore"):
        clear = np.where(
            np.isfinite(data.memorized_share.values), data.gap.values / data.gap_se.values, np.nan
        )
    return None if np.all(np.isnan(clear)) else int(np.nanargmax(clear))
