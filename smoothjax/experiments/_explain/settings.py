"""What decides the numbers of an explanation besides the network and the data."""

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Literal

import numpy as np

from ... import mechanisms
from ..._checks import as_integer, as_positive_integer, require_positive, shown
from ..._kinds import require_kinds_of_fields
from ..._units import spread_of
from ...datasets import Dataset
from ...mechanisms import Mechanism
from .._compare.settings import require_different_points
from .classes import BY_CLASS, EACH, classes_of, of_labels, require_labels, values_of_classes
from .measured import measure_at_level

# What samples and parts of the two networks are called.
NETWORK, OTHER = "network", "other"
# From where a network sees its single training images to where it sees little but their mean, in units of their spread.
LOWEST, HIGHEST, NUM_LEVELS = 0.05, 10.0, 8


@dataclasses.dataclass(frozen=True)
class ExplainSettings:
    """What decides the numbers of `smoothjax.explain` besides the network and the data.

    Attributes:
        levels: noise levels, increasing, in data units. By default eight from a twentieth to ten times the data's standard
            deviation a coordinate.
        candidates: mechanisms by name (`smoothjax.mechanisms.names()`). By default all that have a strength and suit the
            data. With the ending "-by-class" a mechanism is made of the training points of each class, with one strength for
            all; where there is a `label`, the default is that form of each.
        strengths: values of a candidate's strength in place of its mechanism's own, increasing: `{"local": (1, 3, 5)}`. The
            first and the last are bounds; a strength that is not continuous takes these only.
        label: for a network of classes. A class: all points are of it, held-out and training ones, and so is the network,
            or is called as `network(u, sigma, label)` where it takes three arguments, or is a dictionary of denoisers by
            class. "each": every point has its own label.
        measures: of the network and of each candidate, at its fitted strength, at each noise level, by name
            (`smoothjax.measures.names()`): curl, degrees-of-freedom and effective-rank are of Jacobians, and say how a
            network that is near to a candidate still differs from it. None by default: each takes `measures.get(name).calls`
            calls for each point of the evaluation and noise level. Not with `label="each"`.
        num_calibration: held-out points on which strengths are fitted.
        num_evaluation: other held-out points, on which what is reported is measured.
        num_training: training points at which the network's loss is held against that at held-out points.
        num_samples: samples of the network and of each candidate, from the same noises; 0 for none.
        steps: denoiser calls of each sample.
        sigma_max, sigma_min: noise levels of its first and last call; by default ten times the highest of `levels`, and a
            hundredth of the data's spread.
        confidence: of verdicts: the probability that the best candidate is among those that cannot be told from it.
        coverage: of the intervals of strengths and weights.
        batch_size: points at a time: memory grows with it, numbers do not depend on it.
        seed: of every random number.

    Raises:
        ValueError: for numbers out of range, levels that do not increase, or a candidate that is no mechanism or has no
            strength.

    Example:
        >>> import smoothjax as sj
        >>> settings = sj.ExplainSettings(levels=(0.1, 0.5, 2.0), candidates=("empirical", "gaussian"), num_samples=0)
        >>> settings.num_calibration, settings.coverage
        (32, 0.9)
    """

    levels: tuple[float, ...] = ()
    candidates: tuple[str, ...] = ()
    strengths: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    label: int | Literal["each"] | None = None
    measures: tuple[str, ...] = ()
    num_calibration: int = 32
    num_evaluation: int = 64
    num_training: int = 64
    num_samples: int = 32
    steps: int = 18
    sigma_max: float | None = None
    sigma_min: float | None = None
    confidence: float = 0.95
    coverage: float = 0.9
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self):
        require_kinds_of_fields(self)
        for name, kind in (("levels", numbers.Real), ("candidates", str), ("measures", str)):
            given = getattr(self, name)
            if not isinstance(given, tuple | list) or not all(isinstance(x, kind) for x in given):
                what = {"levels": "numbers", "candidates": "names of mechanisms"}.get(
                    name, "names of measures"
                )
                raise ValueError(f"`{name}` must be a tuple of {what}; got {shown(given)}.")
            object.__setattr__(self, name, tuple(given))
        levels = np.asarray(self.levels, float)
        if not (np.all((levels > 0) & np.isfinite(levels)) and np.all(np.diff(levels) > 0)):
            raise ValueError(
                f"`levels` must be positive, finite and increase strictly; got {shown(self.levels)}."
            )
        for name in self.candidates:
            if mechanism_of(name)[1] and self.label is None:
                raise ValueError(
                    f"`candidates` by class are for a network of classes, with `label`; got {name!r}."
                )
            if name in (NETWORK, OTHER):
                raise ValueError(
                    f"`candidates` must not be called {NETWORK!r} or {OTHER!r}, as samples of networks are; got {name!r}."
                )
        if len(set(self.candidates)) < len(self.candidates):
            raise ValueError(f"`candidates` must differ; got {shown(self.candidates)}.")
        self._require_strengths()
        if isinstance(self.label, str) and self.label != EACH:
            raise ValueError(f"`label` must be a class, {EACH!r} or None; got {self.label!r}.")
        if isinstance(self.label, int | np.integer):
            object.__setattr__(self, "label", as_integer(self.label, "label"))
        for name in self.measures:
            measure_at_level(name)
        if len(set(self.measures)) < len(self.measures):
            raise ValueError(f"`measures` must differ; got {shown(self.measures)}.")
        if self.measures and self.label == EACH:
            raise ValueError(
                f"`measures` are of one denoiser, not of one for each point: give a class as `label`; got {self.label!r}."
            )
        # One observation has no standard error.
        for name in ("num_calibration", "num_evaluation", "num_training"):
            if as_positive_integer(getattr(self, name), name) < 2:
                raise ValueError(f"`{name}` must be at least 2; got {getattr(self, name)}.")
        if as_integer(self.num_samples, "num_samples") < 0 or self.num_samples == 1:
            raise ValueError(
                f"`num_samples` must be at least 2, or 0 for none; got {self.num_samples}."
            )
        for name in ("steps", "batch_size"):
            as_positive_integer(getattr(self, name), name)
        as_integer(self.seed, "seed")
        for name in ("sigma_max", "sigma_min"):
            if getattr(self, name) is not None:
                require_positive(getattr(self, name), name)
        for name in ("confidence", "coverage"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"`{name}` must lie between 0 and 1; got {getattr(self, name)}.")

    def _require_strengths(self) -> None:
        for name, values in self.strengths.items():
            mechanism_of(name)
            if self.candidates and name not in self.candidates:
                raise ValueError(f"`strengths` must be of candidates; {name!r} is none of them.")
            if not (
                isinstance(values, tuple | list)
                and len(values)
                and all(isinstance(x, numbers.Real) and np.isfinite(x) for x in values)
                and np.all(np.diff(values) > 0)
            ):
                raise ValueError(
                    f"`strengths` of {name!r} must be one or more numbers, finite and increasing; got {shown(values)}."
                )
        object.__setattr__(
            self, "strengths", {name: tuple(values) for name, values in self.strengths.items()}
        )

    def suited_to(self, train: Dataset, held_out: Dataset) -> "ExplainSettings":
        """The same with what is left open filled in for these data, or `ValueError` where they do not suffice."""
        require_different_points(train.points)
        if train.dim != held_out.dim:
            raise ValueError(
                f"`train` and `held_out` must have one dimension; got {train.dim} and {held_out.dim}."
            )
        if self.label is not None:
            require_labels(train, held_out)
        known, fresh = (of_labels(data, self.label) for data in (train, held_out))
        if self.num_calibration + self.num_evaluation > len(fresh):
            of_class = f" of class {self.label}" if isinstance(self.label, int) else ""
            raise ValueError(
                f"`num_calibration` and `num_evaluation` must not exceed the held-out points{of_class} together; got "
                f"{self.num_calibration} and {self.num_evaluation} of {len(fresh)}. Give smaller ones."
            )
        spread = spread_of(train.points)
        levels = self.levels or tuple(
            float(x) for x in np.geomspace(LOWEST * spread, HIGHEST * spread, NUM_LEVELS)
        )
        high = 10 * levels[-1] if self.sigma_max is None else self.sigma_max
        low = min(0.01 * spread, levels[0]) if self.sigma_min is None else self.sigma_min
        if not low < high:
            raise ValueError(f"`sigma_min` must lie below `sigma_max`; got {low} and {high}.")
        names = self.candidates or _suited(train, self.label)
        return dataclasses.replace(
            self,
            levels=levels,
            candidates=names,
            num_training=min(self.num_training, len(known)),
            sigma_max=high,
            sigma_min=low,
        )


def mechanism_of(name: str) -> tuple[Mechanism, bool]:
    """The mechanism that a candidate's name means, and whether it is made of each class's points; or `ValueError`."""
    by_class = name.endswith(BY_CLASS) and name not in mechanisms.names()
    return require_strength(
        mechanisms.get(name.removesuffix(BY_CLASS) if by_class else name)
    ), by_class


def _suited(train: Dataset, label: int | str | None) -> tuple[str, ...]:
    """The candidates of an explanation that names none."""
    suited = [name for name in mechanisms.names() if _suits(mechanisms.get(name), train)]
    if label is None:
        return tuple(suited)
    classes = classes_of(train, label)
    return tuple(
        f"{name}{BY_CLASS}" for name in suited if _suits(mechanisms.get(name), train, classes)
    )


def require_strength(mechanism: Mechanism) -> Mechanism:
    """The mechanism, or `ValueError` where it has no strength to fit."""
    if mechanism.strength is None:
        having = [name for name in mechanisms.names() if mechanisms.get(name).strength is not None]
        raise ValueError(
            f"`candidates` must have a strength; {mechanism.name!r} has none. There are: {', '.join(having)}."
        )
    return mechanism


def _suits(
    mechanism: Mechanism, train: Dataset, classes: Mapping[int, Dataset] | None = None
) -> bool:
    if mechanism.strength is None or not mechanism.strength.by_default:
        return False
    try:
        if classes is not None:
            return len(values_of_classes(mechanism, train, classes)) > 0
        return len(mechanism.strength.values(train)) > 0
    except ValueError:  # no images, say
        return False
