"""Figures of comparisons and experiments. matplotlib is imported when one is drawn; no global state of it is changed."""

from typing import TYPE_CHECKING, Any

from .._checks import require_one_of as _require_one_of
from .._checks import shown as _shown
from .._kinds import checks_kinds as _checks_kinds
from ..experiments import Comparison
from ..experiments._explain import figures as _explain_network
from ..experiments._smoothing import figures as _smoothing
from ..experiments._structure import figures as _gaussian_structure
from ..experiments._variance import figures as _variance
from ..experiments._variance import network_figures as _networks_variance
from ..experiments._variance import validation_figures as _variance_validation
from ._comparison import plot_curves as plot_curves
from ._comparison import plot_samples as plot_samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXPERIMENTS = {
    "two-points": _smoothing.plot_two_points,
    "penalty-sweep": _smoothing.plot_penalty_sweep,
    "optimality": _smoothing.plot_optimality,
    "line-in-plane": _smoothing.plot_line_in_plane,
    "early-stopping": _smoothing.plot_early_stopping,
    "circle": _smoothing.plot_circle,
    "target-noise": _variance.plot_target_noise,
    "gap-filling": _variance.plot_gap_filling,
    "gap-geometry": _variance.plot_gap_geometry,
    "law-accuracy": _variance_validation.plot_law_accuracy,
    "gaussian-closure": _variance_validation.plot_gaussian_closure,
    "target-ablation": _variance_validation.plot_target_ablation,
    "gap-emptying": _variance_validation.plot_gap_emptying,
    "tangent-kernel-networks": _networks_variance.plot_tangent_kernel_networks,
    "memorization": _gaussian_structure.plot_memorization,
    "emergence": _gaussian_structure.plot_emergence,
    "strong-generalization": _gaussian_structure.plot_strong_generalization,
    "explain-network": _explain_network.plot_explain_network,
    "network-closure": _networks_variance.plot_network_closure,
}


@_checks_kinds
def figures(comparison: Comparison) -> "dict[str, Figure]":
    """All figures of a comparison by name: what was generated, and the curves over noise levels."""
    return {"samples": plot_samples(comparison), "curves": plot_curves(comparison)}


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
    _require_one_of(name, _EXPERIMENTS, "name")
    if not hasattr(results, "data_vars"):
        raise ValueError(
            f"`results` must be the labelled results of an experiment, an xarray.Dataset; got {_shown(results)}."
        )
    return _EXPERIMENTS[name](results)
