"""What a mechanism is, and the registry of those that have a name."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from .._kinds import checks_kinds, require_kinds_of_fields
from .._registry import Registry
from ..datasets import Dataset
from ..denoisers import Denoiser


@dataclasses.dataclass(frozen=True)
class Strength:
    """The one number of a mechanism that says how strongly it acts, and the values that it may take.

    Attributes:
        name: what it is called in tables and figures: "temperature".
        unit: of it; "1" for none.
        values: `values(train)`, increasing. The first and the last are its bounds. A strength that is not continuous takes
            these values only; of a continuous one they are where a search begins.
        at: `at(train, seed)`, once for a training set, gives `value -> denoiser`. For a continuous strength that function is
            traced by JAX: make it a `jax.tree_util.Partial`, so that its arrays are arguments of compiled programs.
        is_continuous: whether every value between the bounds is one of it.
        is_logarithmic: whether a search and a figure step in its logarithm.
        has_one_minimum: of a discrete strength, whether distances from a network fall along the values and then rise, as far
            as is known: a search then ends where they have risen.
        by_default: whether an explanation that names no candidates fits this one, where it suits the data.
        lighter: as `at`, with less work for each call: what a strength is chosen of that samples and likelihoods are then
            made with, thousands of calls, where a fit to a network makes a few; None where that is `at`.
        default: `default(train)`, the value that the mechanism has where none is chosen; None where it is at none of them.
        without: `without(train, seed)`, the denoiser left where the mechanism does not act: what a chosen
            strength is tested against.
        is_guess: whether `default` is a guess, which a comparison replaces by a value chosen on points held back; not if
            it is what the mechanism means, as temperature 1 is of the exact posterior mean.
        meaning: what it is in plain words, and what more of it does, for reports: a clause without a full stop.
        has_least: whether nothing lies below the first of the values, as a patch of one pixel: a choice at any other end of
            them is reported as "or beyond".

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> temperature = sj.mechanisms.get("empirical").strength
        >>> temperature.name, temperature.is_continuous
        ('temperature', True)
        >>> D = temperature.at(sj.datasets.two_points(), 0)(2.0)
        >>> print(D(jnp.array([1.0]), 1.0).round(4))  # tanh(1 / 2)
        [0.4621]
    """

    name: str
    values: Callable[[Dataset], Sequence[float]]
    at: Callable[[Dataset, int], Callable[[Any], Denoiser]]
    unit: str = "1"
    is_continuous: bool = False
    is_logarithmic: bool = True
    has_one_minimum: bool = False
    by_default: bool = True
    lighter: Callable[[Dataset, int], Callable[[Any], Denoiser]] | None = None
    default: Callable[[Dataset], float] | None = None
    without: Callable[[Dataset, int], Denoiser] | None = None
    is_guess: bool = True
    meaning: str = ""
    has_least: bool = False

    def __post_init__(self):
        require_kinds_of_fields(self)


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """A named way from a training set to a denoiser.

    Attributes:
        name: what users type.
        description: one line for tables and reports.
        build: `build(train, seed) -> denoiser`; deterministic given both.
        by_default: `by_default(train)`, whether a comparison that names no mechanisms takes this one.
        strength: the number that `smoothjax.explain` fits to a network, or None for a mechanism without.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> wiener = sj.mechanisms.Mechanism(
        ...     "isotropic", "N(0, 1)", lambda train, seed: sj.GaussianDenoiser(jnp.zeros(train.dim), jnp.eye(train.dim))
        ... )
        >>> print(wiener.build(sj.datasets.two_points(), 0)(jnp.array([3.0]), 1.0).round(5))
        [1.5]
    """

    name: str
    description: str
    build: Callable[[Dataset, int], Denoiser]
    by_default: Callable[[Dataset], bool] = lambda train: True
    strength: Strength | None = None

    def __post_init__(self):
        require_kinds_of_fields(self)


_REGISTRY: Registry[Mechanism] = Registry("mechanism")


@checks_kinds
def register(mechanism: Mechanism, *, replace: bool = False) -> Mechanism:
    """Makes a mechanism available by name to sampling, comparison, report and command line.

    Args:
        mechanism: what to register.
        replace: take the place of a mechanism of the same name, as when a notebook's cell runs again.

    Raises:
        ValueError: where the name is taken and nothing is to be replaced.

    Example:
        >>> import smoothjax as sj
        >>> from smoothjax.mechanisms import Mechanism, register
        >>> shrunk = Mechanism(
        ...     "shrunk-gaussian",
        ...     "Gaussian with a tenth of its covariance made isotropic",
        ...     lambda train, seed: sj.GaussianDenoiser.fit(train.points, shrinkage=0.1),
        ... )
        >>> register(shrunk, replace=True).name
        'shrunk-gaussian'
    """
    return _REGISTRY.register(mechanism, replace=replace)


def names() -> tuple[str, ...]:
    """Names of the registered mechanisms, in the order of registration.

    Example:
        >>> import smoothjax as sj
        >>> {"empirical", "gaussian"} <= set(sj.mechanisms.names())
        True
    """
    return _REGISTRY.names()


@checks_kinds
def defaults(train: Dataset) -> tuple[str, ...]:
    """Names of the mechanisms that a comparison of this training set takes if it names none.

    Example:
        >>> import smoothjax as sj
        >>> chosen = sj.mechanisms.defaults(sj.datasets.two_points())
        >>> "empirical" in chosen, set(chosen) <= set(sj.mechanisms.names())
        (True, True)
    """
    return tuple(
        name for name, mechanism in _REGISTRY.entries.items() if mechanism.by_default(train)
    )


@checks_kinds
def get(name: str) -> Mechanism:
    """The mechanism of that name, or `ValueError` with the names there are.

    Example:
        >>> import smoothjax as sj
        >>> build = sj.mechanisms.get("empirical").build
        >>> type(build(sj.datasets.two_points(), 0)).__name__
        'EmpiricalDenoiser'
    """
    return _REGISTRY.get(name)
