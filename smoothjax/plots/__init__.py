"""Figures of comparisons and experiments. matplotlib is imported when one is drawn; no global state of it is changed."""

from typing import TYPE_CHECKING, Any

from .._checks import shown as _shown
from .._kinds import checks_kinds as _checks_kinds
from ..experiments import Comparison, get_experiment
from ._comparison import plot_curves as plot_curves
from ._comparison import plot_sample_measures as plot_sample_measures
from ._comparison import plot_samples as plot_samples
from ._several import figures_of_several as figures_of_several
from ._show import show as show
from ._tables import is_table as _is_table
from ._tables import plot_correlations as plot_correlations

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@_checks_kinds
def figures(comparison: Comparison) -> "dict[str, Figure]":
    """All figures of a comparison by name: what was generated, measures of that, curves over noise levels, and regimes;
    of a table the correlations of its columns too."""
    found = {
        "samples": plot_samples(comparison),
        "sample-measures": plot_sample_measures(comparison),
        "curves": plot_curves(comparison),
    }
    if _is_table(comparison):
        found["correlations"] = plot_correlations(comparison)
    if comparison.regimes is not None:
        found["regimes"] = plot_experiment("regimes", comparison.regimes)
    return found


@_checks_kinds
def plot_experiment(name: str, results: Any) -> "Figure":
    """The figure of a named experiment (`smoothjax.experiments.EXPERIMENTS`) from its labelled results.

    Example:
        >>> from smoothjax import experiments, plots
        >>> found = experiments.target_noise(sets=("line",), times=(0.5,), num_nodes=3)
        >>> figure = plots.plot_experiment("target-noise", found)
        >>> [ax.get_title() or ax.get_ylabel() for ax in figure.axes]  # a map and its bar
        ['t = 0.5', 'share of noise in the target']
    """
    experiment = get_experiment(name)
    if not hasattr(results, "data_vars"):
        raise ValueError(
            f"`results` must be the labelled results of an experiment, an xarray.Dataset; got {_shown(results)}."
        )
    return experiment.plot(results)
