"""Which points are trained on, and which fresh ones they are held against."""

import jax
import jax.numpy as jnp

from .._keys import key_of
from .._kinds import checks_kinds
from ..datasets import Dataset

# Below this many points a split leaves nothing worth calling a training set.
SMALLEST_SPLIT = 20
NUM_FRESH = 1000
TRAIN_FRACTION = 5 / 6


@checks_kinds
def train_and_held_out(
    dataset: Dataset, *, num_train: int | None = None, seed: int = 0, condition: int | None = None
) -> tuple[Dataset, Dataset]:
    """A training set and fresh points of the same population, in the way that suits the data set.

    A set whose population is known (points on a circle, say) is trained on as a whole and held against 1,000 fresh
    draws; so is a set of fewer than 20 points of an unknown population, with fresh points uniform on its bounding box.
    Any other set is split at random.

    Args:
        dataset: the data.
        num_train: training points, for a set that is split; five sixths of it by default.
        seed: of the split or the draws.
        condition: a class; both sets are then its points alone, those of the same split for all classes. What analytic
            denoisers of them are is the exact answer given that class.

    Raises:
        ValueError: for `num_train` where nothing is split, or where it leaves one of the two sets empty; for a condition
            where there are no labels, or no points of that class in one of the two.

    Example:
        >>> import smoothjax as sj
        >>> train, held_out = sj.experiments.train_and_held_out(sj.datasets.two_points())
        >>> len(train), len(held_out)  # fresh draws of the segment between the points
        (2, 1000)
    """
    if condition is not None:
        both = train_and_held_out(dataset, num_train=num_train, seed=seed)
        train, held_out = (one.of_class(condition) for one in both)
        return train.renamed(_name(train, condition)), held_out.renamed(_name(held_out, condition))
    key = key_of(seed)
    if dataset.population is None and len(dataset) >= SMALLEST_SPLIT:
        return dataset.split(
            int(TRAIN_FRACTION * len(dataset)) if num_train is None else num_train, seed=seed
        )
    if num_train is not None and num_train != len(dataset):
        raise ValueError(
            f"`num_train` is for data sets that are split; all {len(dataset)} points of {dataset.name!r} are trained on."
        )
    if dataset.population is not None:
        return dataset, Dataset(f"{dataset.name}, fresh draws", dataset.population(key, NUM_FRESH))
    low, high = jnp.min(dataset.points, axis=0), jnp.max(dataset.points, axis=0)
    fresh = jax.random.uniform(key, (NUM_FRESH, dataset.dim), dataset.points.dtype)
    return dataset, Dataset("uniform on the bounding box", low[None] + fresh * (high - low)[None])


def _name(dataset: Dataset, label: int) -> str:
    known = dataset.label_names
    return f"{dataset.name}, class {label if known is None else known[label]}"
