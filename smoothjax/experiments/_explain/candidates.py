"""Candidates: a mechanism at any strength, its outputs at noisy points, and the strength that fits a network best."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..._strengths.free import FreeStrength, in_equal_batches
from ..._strengths.free import outputs_of as outputs_at
from ...datasets import Dataset
from ...denoisers import Denoiser
from ...mechanisms import Mechanism, Strength
from .classes import (
    BY_CLASS,
    LabelledPoints,
    Model,
    Points,
    as_class_argument,
    labelled_batch,
    points_of,
    values_of_classes,
)
from .settings import require_strength


def outputs_of(denoiser: Model, u: Points, sigma: float, batch_size: int) -> np.ndarray:
    """What a denoiser makes of the rows of `u`, (n, d), in batches of one shape: one compilation.

    Of labelled points, what a dictionary of denoisers by class makes of them, or a function of three arguments.
    """
    if isinstance(denoiser, Mapping):
        assert isinstance(u, LabelledPoints)
        of_class = lambda label, rows, size: outputs_of(denoiser[label], rows, sigma, size)  # noqa: E731
        return u.by_class(of_class, batch_size)
    if isinstance(u, LabelledPoints):
        network = as_class_argument(denoiser)
        labelled = lambda u, labels, sigma: labelled_batch(network, u, labels, sigma)  # noqa: E731
        return in_equal_batches(labelled, (u.points, u.labels), sigma, batch_size)
    one: Any = denoiser
    return outputs_at(one, u, sigma, batch_size)


class Candidate(FreeStrength):
    """A mechanism of a training set whose strength is free, among `values` where they are not its own."""

    argument = "candidates"

    def __init__(
        self,
        mechanism: Mechanism,
        train: Dataset,
        seed: int,
        batch_size: int,
        values: Sequence[float] | None = None,
    ):
        strength = require_strength(mechanism).strength
        assert strength is not None
        self.mechanism = mechanism
        self.form = "of all training points"
        given = self._given_values(strength, train) if values is None else values
        at = functools.partial(strength.at, train, seed)
        super().__init__(mechanism.name, strength, given, at, train.points, batch_size)

    def _given_values(self, strength: Strength, train: Dataset) -> Any:
        """What the strength may be, as its mechanism says."""
        return strength.values(train)

    def _outputs(self, value: float, u: Points, sigma: float, batch_size: int) -> np.ndarray:
        return super()._outputs(value, points_of(u), sigma, batch_size)


class ClassCandidate(Candidate):
    """A mechanism of the training points of each class, with one strength for all of them: for labelled points.

    A continuous strength is searched between the bounds that the whole training set has; a discrete one takes the values
    that every class has.
    """

    def __init__(
        self,
        mechanism: Mechanism,
        train: Dataset,
        classes: Mapping[int, Dataset],
        seed: int,
        batch_size: int,
        values: Sequence[float] | None = None,
    ):
        self._classes = classes
        super().__init__(mechanism, train, seed, batch_size, values)
        self.name = f"{mechanism.name}{BY_CLASS}"
        self.form = (
            "of the training points of each class, with one strength for all"
            if len(classes) > 1
            else f"of the training points of class {next(iter(classes))}"
        )
        self._parts = {
            label: Candidate(mechanism, part, seed, batch_size, self.values)
            for label, part in classes.items()
        }

    def _given_values(self, strength: Strength, train: Dataset) -> Any:
        return values_of_classes(self.mechanism, train, self._classes)

    def denoiser(self, value: float) -> dict[int, Denoiser]:
        """The denoisers of all classes at one strength."""
        return {label: part.denoiser(value) for label, part in self._parts.items()}

    def _outputs(self, value: float, u: Points, sigma: float, batch_size: int) -> np.ndarray:
        assert isinstance(u, LabelledPoints)
        of_class = lambda label, rows, size: self._parts[label]._outputs(value, rows, sigma, size)  # noqa: E731
        return u.by_class(of_class, batch_size)

    def scheduled(self, levels: np.ndarray, fitted: np.ndarray) -> dict[int, Denoiser]:
        """The denoiser of each class, whose strength at each noise level is the fitted one."""
        return {label: part.scheduled(levels, fitted) for label, part in self._parts.items()}
