"""The experiments that have a name: what they compute, and how it is drawn."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from .._kinds import checks_kinds
from .._registry import Registry

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

_Run = TypeVar("_Run", bound="Callable[..., xarray.Dataset]")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A named experiment.

    Attributes:
        name: what users type.
        description: one line.
        run: `run(out=folder)` computes it with its default settings and returns labelled results.
        plot: `plot(results)`, their figure.

    Example:
        >>> from smoothjax import experiments
        >>> [e.name for e in experiments.EXPERIMENTS.values() if e.run is experiments.two_points]
        ['two-points']
    """

    name: str
    description: str
    run: "Callable[..., xarray.Dataset]"
    plot: "Callable[[xarray.Dataset], Figure]"


_REGISTRY: Registry[Experiment] = Registry("experiment", taken="is there already")
EXPERIMENTS: dict[str, Experiment] = _REGISTRY.entries
"""All experiments by name."""


def experiment(
    name: str, description: str, plot: "Callable[[xarray.Dataset], Figure]"
) -> Callable[[_Run], _Run]:
    """Makes the function below it an experiment with a name: for the command line, documentation, figures and tests."""

    def named(run: _Run) -> _Run:
        _REGISTRY.register(Experiment(name, description, run, plot))
        return run

    return named


# Arguments that decide no number.
_NO_SETTINGS = ("out", "progress")


def settings_of(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What an experiment keeps beside its results: its name and settings, from its `locals()`."""
    parameters = inspect.signature(EXPERIMENTS[name].run).parameters
    settings = {key: arguments[key] for key in parameters if key not in _NO_SETTINGS}
    return {"experiment": name, **settings}


@checks_kinds
def get_experiment(name: str) -> Experiment:
    """The experiment of that name, or `ValueError` with the names there are.

    Example:
        >>> import smoothjax as sj
        >>> sj.experiments.get_experiment("target-noise").run is sj.experiments.target_noise
        True
    """
    return _REGISTRY.get(name)
