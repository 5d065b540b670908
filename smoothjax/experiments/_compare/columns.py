"""Tables: columns whose scales or values a comparison cannot take as they are, and their standardization."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from ..._kinds import checks_kinds
from ...datasets import Dataset
from .comparison import Comparison

# Beyond this ratio of standard deviations the smaller columns are noise in every distance.
_RATIO = 30
# So few values, each taken by so many points on average, are categories or counts.
_MOST_VALUES, _POINTS_A_VALUE = 10, 10
_MOST_SHOWN = 8


def column_warnings(train: Dataset) -> tuple[str, ...]:
    """What a reader of a comparison must know of the columns of a table: sentences, none if all is well."""
    if train.image_shape is not None or train.dim < 2:
        return ()
    values = np.asarray(train.points, np.float64)
    spread = values.std(axis=0)
    # A constant column has none, but for rounding.
    eps = float(jnp.finfo(train.points.dtype).eps)
    varying = np.flatnonzero(np.ptp(values, axis=0) > 8 * eps * np.max(np.abs(values), axis=0))
    found = []
    if len(varying) > 1:
        large = varying[np.argmax(spread[varying])]
        small = varying[np.argmin(spread[varying])]
        if spread[large] > _RATIO * spread[small]:
            found.append(
                f"Columns of incommensurable scale: the standard deviation of column {large} is "
                f"{spread[large]:.3g}, of column {small} {spread[small]:.3g}. Distances and noise levels see the "
                "largest columns alone; --standardize (`standardized` in Python) divides each by its own."
            )
    counts = {i: len(np.unique(values[:, i])) for i in varying}
    few = [
        i
        for i, count in counts.items()
        if count <= _MOST_VALUES and len(values) >= _POINTS_A_VALUE * count
    ]
    if few:
        found.append(
            f"Columns of few values: {_shown([str(i) for i in few])} of the {train.dim} take at most "
            f"{max(counts[i] for i in few)}. They look like categories or counts, of which there is no density: at "
            "small noise the likelihoods measure how sharply these values are known."
        )
    return tuple(found)


def _shown(entries: list[str]) -> str:
    more = len(entries) - _MOST_SHOWN
    return ", ".join(entries[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


@dataclasses.dataclass(frozen=True)
class Standardization:
    """Columns in units of their own: `(x - mean) / scale`, those of the training points.

    Attributes:
        mean, scale: shape (d,), in the units of the file. A constant column has scale 1.

    Example:
        >>> from smoothjax import datasets
        >>> from smoothjax.experiments import standardized
        >>> table = datasets.Dataset("table", [[30_000.0, 0.0], [50_000.0, 1.0]])
        >>> train, _, standardization = standardized(table, table)
        >>> print(train.points, standardization.scale)
        [[-1. -1.]
         [ 1.  1.]] [1.e+04 5.e-01]
    """

    mean: np.ndarray
    scale: np.ndarray

    def into(self, dataset: Dataset) -> Dataset:
        """A data set of the file's units in those of the columns."""
        # A column of large numbers and little spread keeps no digits of float32 otherwise.
        values = (np.asarray(dataset.points, np.float64) - self.mean) / self.scale
        return Dataset(
            f"{dataset.name}, standardized",
            values.astype(dataset.points.dtype),
            dataset.labels,
            label_names=dataset.label_names,
        )

    def back(self, points: ArrayLike) -> np.ndarray:
        """Points, such as samples, in the units of the file."""
        return self.mean + self.scale * np.asarray(points, np.float64)

    def explain(self, comparison: Comparison) -> Comparison:
        """A comparison of standardized data that says so: in its notes, its results and their units.

        Its samples and its data, of which figures are made, are in the units of the file again.
        """
        samples = comparison.results.samples
        results = comparison.results.assign(
            samples=(samples.dims, self.back(samples.values), {"units": "units of the file"}),
            column_mean=("coordinate", self.mean, {"units": "units of the file"}),
            column_scale=("coordinate", self.scale, {"units": "units of the file"}),
        )
        for variable in results.variables.values():
            if "data units" in variable.attrs.get("units", ""):
                variable.attrs["units"] = variable.attrs["units"].replace(
                    "data units", "standardized units"
                )
        results["level"].attrs["long_name"] = "noise level in standardized units"
        results.attrs["standardized"] = "(x - column_mean) / column_scale"
        pairs = zip(self.mean, self.scale, strict=True)
        each = [f"{i}: (x - {mean:.4g}) / {scale:.4g}" for i, (mean, scale) in enumerate(pairs)]
        note = (
            "Standardized: each column less its mean over the training points, divided by its standard deviation there "
            f"(constant ones by 1): {_shown(each)}; all in results.nc as column_mean and column_scale. Every noise level "
            "and distance is in these units, where the notes say data units. Samples, and the figures of them, are in the "
            "units of the file; a log-likelihood in those is the one given here "
            f"{-np.sum(np.log(self.scale)):+.4g} nats."
        )
        return dataclasses.replace(
            comparison,
            results=results,
            notes=(note, *comparison.notes),
            train=self._out_of(comparison.train),
            held_out=self._out_of(comparison.held_out),
        )

    def _out_of(self, dataset: Dataset) -> Dataset:
        return Dataset(
            dataset.name,
            self.back(dataset.points).astype(dataset.points.dtype),
            dataset.labels,
            label_names=dataset.label_names,
        )


@checks_kinds
def standardized(train: Dataset, held_out: Dataset) -> tuple[Dataset, Dataset, Standardization]:
    """A table with every column in units of its own standard deviation, and how it was made.

    Mean and standard deviation are those of the training points, for both sets. Give the two to `compare`, and its result to
    `Standardization.explain`, as `smoothjax compare --standardize` does.

    Raises:
        ValueError: for images, whose pixels have one unit, and for sets of different dimensions.

    Example:
        >>> import smoothjax as sj
        >>> table = sj.datasets.Dataset("table", [[30_000.0, 0.0], [50_000.0, 1.0], [40_000.0, 1.0]])
        >>> train, held_out, standardization = sj.experiments.standardized(*table.split(2))
        >>> bool(abs(train.points).max() < 1.5)
        True
        >>> standardization.back(train.points)[:, 0].round().tolist() == table.split(2)[0].points[:, 0].tolist()
        True
    """
    if train.image_shape is not None:
        raise ValueError(
            f"`standardize` is for tables; '{train.name}' holds images, whose pixels have one unit."
        )
    if train.dim != held_out.dim:
        raise ValueError(
            f"`train` and `held_out` must have one dimension; got {train.dim} and {held_out.dim}."
        )
    values = np.asarray(train.points, np.float64)
    is_constant = np.all(values == values[:1], axis=0)
    scale = np.where(is_constant, 1.0, values.std(axis=0))
    standardization = Standardization(np.where(is_constant, values[0], values.mean(axis=0)), scale)
    return standardization.into(train), standardization.into(held_out), standardization
