"""The measures that have a name, of a denoiser at a noise level and of samples: what they compute, and in which unit."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._calls import Denoiser
from .._checks import as_positive_integer, shown
from .._kinds import checks_kinds, require_kinds_of_fields
from .._registry import Registry
from ._estimate import Estimate, IntervalEstimate


@dataclasses.dataclass(frozen=True)
class Measure:
    """A named number of a denoiser at a noise level, for comparisons: `smoothjax.compare(..., measures=("linearity",))`.

    Attributes:
        name: what users type.
        description: one line for lists and figures.
        label: of an axis or a column, with the unit.
        note: what a reader of the number must know.
        compute: `compute(denoiser, points, sigma, key, centre=..., batch_size=...)`, estimates by
            name; `points` are held out and clean, shape (n, d), in data units, `centre` the training set's mean.
        shown: the estimate that tables and figures show; by default that of the measure's name.
        unit: of it; "1" for none.
        calls: of the denoiser for one point at one noise level; a derivative counts as three.
        limits: of its axis in figures; None leaves an end to the data.
        is_logarithmic: whether that axis is.
        by_default: whether a comparison that names no measures takes this one.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> def norm(denoiser, points, sigma, key, *, centre, batch_size):
        ...     sizes = jnp.stack([jnp.linalg.norm(denoiser(x, sigma)) for x in points])
        ...     return {"norm": sj.measures.mean_estimate(sizes)}
        >>> size = sj.measures.Measure("norm", "How large outputs are", "|D|", "Norm: of outputs.", norm, calls=1)
        >>> found = size.compute(lambda u, s: u, jnp.ones((2, 4)), 1.0, None, centre=None, batch_size=1)
        >>> print(found["norm"])
        2 ± 0
    """

    name: str
    description: str
    label: str
    note: str
    compute: Callable[..., Mapping[str, Estimate]]
    shown: str = ""
    unit: str = "1"
    calls: int = 1
    limits: tuple[float | None, float | None] = (None, None)
    is_logarithmic: bool = False
    by_default: bool = False

    def __post_init__(self):
        require_kinds_of_fields(self)
        as_positive_integer(self.calls, "calls")
        if not self.shown:
            object.__setattr__(self, "shown", self.name)

    def estimates(
        self,
        denoiser: Denoiser,
        points: Float[Array, "n d"],
        sigma: Any,
        key: PRNGKeyArray,
        *,
        centre: Float[Array, " d"],
        batch_size: int,
    ) -> dict[str, Estimate]:
        """What `compute` returns, or `ValueError` where that is no dictionary of estimates."""
        found = self.compute(denoiser, points, sigma, key, centre=centre, batch_size=batch_size)
        if not isinstance(found, Mapping) or self.shown not in found:
            raise ValueError(
                f"`compute` of the measure {self.name!r} must return estimates by name, {self.shown!r} among them; "
                f"got {shown(found)}."
            )
        for each, value in found.items():
            if not isinstance(value, Estimate):
                raise ValueError(
                    f"`compute` of the measure {self.name!r} must return an Estimate for {each!r}; got {shown(value)}."
                )
        return dict(found)


def computing(name: str, function: Callable[..., Estimate]) -> Callable[..., dict[str, Estimate]]:
    """The `compute` of a measure that is one estimate: `function(denoiser, points, sigma, key, batch_size=...)`."""

    def compute(
        denoiser: Denoiser,
        points: Array,
        sigma: Any,
        key: PRNGKeyArray,
        *,
        centre: Array,
        batch_size: int,
    ) -> dict[str, Estimate]:
        return {name: function(denoiser, points, sigma, key, batch_size=batch_size)}

    return compute


@dataclasses.dataclass(frozen=True)
class SampleMeasure:
    """A named number of what a denoiser generates, for comparisons: `smoothjax.compare(..., measures=("frechet",))`.

    The samples are there already, so that it costs no calls of a denoiser, and no comparison leaves it out.

    Attributes:
        name: what users type.
        description: one line for lists and figures.
        label: of an axis or a column, with the unit.
        note: what a reader of the number must know.
        compute: `compute(samples, train, held_out, key)`, arrays of shape (m, d), (n, d) and (k, d) in data units; returns
            numbers by name, each an `Estimate`, an `IntervalEstimate` or a scalar. A name with `_null` at its end is of
            that number for fresh points of the data's law, which depends on the samples by how many they are only; it
            stands in a row of its own in tables.
        shown: the number that tables and figures show; by default that of the measure's name.
        unit: of it; "1" for none.
        limits: of its axis in figures; None leaves an end to the data.
        is_logarithmic: whether that axis is.
        always: whether every comparison takes it, whichever measures it names.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> def spread(samples, train, held_out, key):
        ...     return {"spread": jnp.std(samples), "spread_null": jnp.std(held_out)}
        >>> one = sj.measures.SampleMeasure("spread", "How wide samples lie", "spread", "Spread: of all entries.", spread)
        >>> points, key = jnp.array([[-1.0], [1.0]]), jax.random.key(0)
        >>> found = one.numbers(2 * points, jnp.ones((3, 1)), points, key)
        >>> {name: float(value) for name, value in found.items()}
        {'spread': 2.0, 'spread_null': 1.0}
    """

    name: str
    description: str
    label: str
    note: str
    compute: Callable[..., Mapping[str, Any]]
    shown: str = ""
    unit: str = "1"
    limits: tuple[float | None, float | None] = (None, None)
    is_logarithmic: bool = False
    always: bool = False

    def __post_init__(self):
        require_kinds_of_fields(self)
        if not self.shown:
            object.__setattr__(self, "shown", self.name)

    def numbers(
        self,
        samples: Float[Array, "m d"],
        train: Float[Array, "n d"],
        held_out: Float[Array, "k d"],
        key: PRNGKeyArray,
    ) -> dict[str, Any]:
        """What `compute` returns, or `ValueError` where that is no dictionary of numbers."""
        found = self.compute(samples, train, held_out, key)
        if not isinstance(found, Mapping) or self.shown not in found:
            raise ValueError(
                f"`compute` of the measure {self.name!r} must return numbers by name, {self.shown!r} among them; "
                f"got {shown(found)}."
            )
        for each, value in found.items():
            if not _is_one_number(value):
                raise ValueError(
                    f"`compute` of the measure {self.name!r} must return an Estimate, an IntervalEstimate or a number for "
                    f"{each!r}; got {shown(value)}."
                )
        return dict(found)


def _is_one_number(value: Any) -> bool:
    """Whether it is a scalar, known or with its standard error or interval."""
    if isinstance(value, Estimate):
        return _is_one_number(value.value) and _is_one_number(value.standard_error)
    if isinstance(value, IntervalEstimate):
        return _is_one_number(value.value) and np.shape(value.interval) == (2,)
    array = np.asarray(value)
    return array.ndim == 0 and np.issubdtype(array.dtype, np.number)


_REGISTRY: Registry[Measure | SampleMeasure] = Registry("measure")
_Kind = TypeVar("_Kind", Measure, SampleMeasure)


@checks_kinds
def register(measure: _Kind, *, replace: bool = False) -> _Kind:
    """Makes a measure available by name to comparison, table, figures, report and command line.

    Args:
        measure: what to register: of a denoiser at a noise level, or of samples.
        replace: take the place of a measure of the same name, as when a notebook's cell runs again.

    Raises:
        ValueError: where the name is taken and nothing is to be replaced.

    Example:
        >>> import smoothjax as sj
        >>> sj.measures.register(sj.measures.get("curl"), replace=True).name
        'curl'
    """
    if not isinstance(measure, Measure | SampleMeasure):
        raise ValueError(f"`measure` must be a Measure or a SampleMeasure; got {shown(measure)}.")
    _REGISTRY.register(measure, replace=replace)
    return measure


@checks_kinds
def get(name: str) -> Measure | SampleMeasure:
    """The measure of that name, or `ValueError` with the names there are.

    Example:
        >>> import smoothjax as sj
        >>> sj.measures.get("curl").calls
        6
    """
    return _REGISTRY.get(name)


def names() -> tuple[str, ...]:
    """Names of the registered measures of either kind, in the order of registration.

    Example:
        >>> import smoothjax as sj
        >>> {"linearity", "curl"} <= set(sj.measures.names())
        True
    """
    return _REGISTRY.names()


def defaults() -> tuple[str, ...]:
    """Names of the measures at a noise level that a comparison takes if it names none.

    Example:
        >>> import smoothjax as sj
        >>> "linearity" in sj.measures.defaults()
        True
    """
    return tuple(
        name
        for name, measure in _REGISTRY.entries.items()
        if isinstance(measure, Measure) and measure.by_default
    )


def always() -> tuple[str, ...]:
    """Names of the measures of samples that every comparison takes.

    Example:
        >>> import smoothjax as sj
        >>> sj.measures.always()
        ('memorization', 'frechet')
    """
    return tuple(
        name
        for name, measure in _REGISTRY.entries.items()
        if isinstance(measure, SampleMeasure) and measure.always
    )
