"""The experiments that have a name: what they compute, and how it is drawn."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from .._kinds import checks_kinds
from ._explain.explain_network import explain_network
from ._smoothing.circle import circle
from ._smoothing.early_stopping import early_stopping
from ._smoothing.line_in_plane import line_in_plane
from ._smoothing.optimality import optimality
from ._smoothing.penalty_sweep import penalty_sweep
from ._smoothing.two_points import two_points
from ._structure.emergence import emergence
from ._structure.memorization import memorization
from ._structure.strong_generalization import strong_generalization
from ._variance.gap_emptying import gap_emptying
from ._variance.gap_filling import gap_filling
from ._variance.gap_geometry import gap_geometry
from ._variance.gaussian_closure import gaussian_closure
from ._variance.law_accuracy import law_accuracy
from ._variance.network_closure import network_closure
from ._variance.tangent_kernel_networks import tangent_kernel_networks
from ._variance.target_ablation import target_ablation
from ._variance.target_noise import target_noise

if TYPE_CHECKING:
    import xarray


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A named experiment.

    Attributes:
        name: what users type; `smoothjax.plots` draws it under this name.
        description: one line.
        run: `run(out=folder)` computes it with its default settings and returns labelled results.

    Example:
        >>> from smoothjax import experiments
        >>> [e.name for e in experiments.EXPERIMENTS.values() if e.run is experiments.two_points]
        ['two-points']
    """

    name: str
    description: str
    run: Callable[..., "xarray.Dataset"]


EXPERIMENTS = {
    one.name: one
    for one in (
        Experiment(
            "two-points", "score, flow and law of the smoothed score of two points", two_points
        ),
        Experiment(
            "penalty-sweep",
            "smoothing strength of networks against the penalty on their weights",
            penalty_sweep,
        ),
        Experiment(
            "optimality",
            "non-smoothness of the smoothed score over the least that its loss allows",
            optimality,
        ),
        Experiment(
            "line-in-plane",
            "spread along a line of four points and normal to it: exact, smoothed and learned score",
            line_in_plane,
        ),
        Experiment(
            "early-stopping",
            "the smoothed flow beside the exact one stopped where it spreads as far along the data",
            early_stopping,
        ),
        Experiment(
            "circle",
            "networks trained on points of a circle, in the plane and in R^20: where the new samples lie",
            circle,
        ),
        Experiment(
            "target-noise",
            "where the targets of denoising score matching are noise, over the plane",
            target_noise,
        ),
        Experiment(
            "gap-filling",
            "what linear models trained anew on three points generate, against the number of samples",
            gap_filling,
        ),
        Experiment(
            "gap-geometry",
            "which gaps between four points linear models fill, by their features and the points' rotation",
            gap_geometry,
        ),
        Experiment(
            "law-accuracy",
            "every route to the law of linear models against retrained ones, with the Monte Carlo floor",
            law_accuracy,
        ),
        Experiment(
            "gaussian-closure",
            "how Gaussian linear models are over retrainings, and what it matters to what they generate",
            gaussian_closure,
        ),
        Experiment(
            "target-ablation",
            "linear models trained on the same inputs with exact targets: how much of a gap noise fills",
            target_ablation,
        ),
        Experiment(
            "gap-emptying",
            "where the variance of linear models takes mass out of a gap",
            gap_emptying,
        ),
        Experiment(
            "tangent-kernel-networks",
            "spread of small ReLU networks over targets, initial weights and training sets, against their tangent kernel",
            tangent_kernel_networks,
        ),
        Experiment(
            "network-closure",
            "how Gaussian networks are over retrainings, and what they generate from noisy and exact targets",
            network_closure,
        ),
        Experiment(
            "memorization",
            "networks between copying and the Gaussian denoiser, by training points and by width",
            memorization,
        ),
        Experiment(
            "emergence",
            "a network on few points while it trains: the Gaussian denoiser first, copies later",
            emergence,
        ),
        Experiment(
            "strong-generalization",
            "whether networks of disjoint data generate the same, beside their Gaussians",
            strong_generalization,
        ),
        Experiment(
            "explain-network",
            "which analytic denoiser of the training set a trained network resembles, by noise level and by samples",
            explain_network,
        ),
    )
}


@checks_kinds
def get_experiment(name: str) -> Experiment:
    """The experiment of that name, or `ValueError` with the names there are.

    Example:
        >>> import smoothjax as sj
        >>> sj.experiments.get_experiment("target-noise").run is sj.experiments.target_noise
        True
    """
    if name not in EXPERIMENTS:
        raise ValueError(
            f"There is no experiment called {name!r}; there are: {', '.join(EXPERIMENTS)}."
        )
    return EXPERIMENTS[name]
