"""How near the piecewise-linear smoother of two points comes to the smoothest score of the same loss."""

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from ..._checks import import_optional, require_each, require_positive
from ..._files.store import Arrays, ResultStore
from ..._kinds import checks_kinds
from ...smoothing import kappa_for_loss, piecewise_linear_non_smoothness, smoothest_score
from .._registry import experiment, settings_of
from .._sweep import by_cell, cells_of, sweep
from .figures import plot_optimality

if TYPE_CHECKING:
    import xarray

POINTS = np.array([-1.0, 1.0])
# From the right-hand point, in noise levels.
OFFSETS = np.linspace(-6, 3, 451)


@experiment(
    "optimality",
    "non-smoothness of the smoothed score over the least that its loss allows",
    plot_optimality,
)
@checks_kinds
def optimality(
    *,
    losses: tuple[float, ...] = (0.1, 0.03, 0.01),
    variances: tuple[float, ...] = (1e-2, 1e-3, 1e-4, 1e-5),
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Non-smoothness of the piecewise-linear score of {-1, 1} over the least that its loss allows, found numerically.

    Args:
        losses: `L`, the paper's epsilon, each below 1/2.
        variances: `sigma^2` of each noise level, the paper's `t`; small beside the squared gap.
        out: folder in which each finished pair of loss and noise level is kept.
        progress: show a progress bar.

    Returns:
        Over loss and variance: `ratio` of the two `R`, the `piecewise_linear_non_smoothness` and the least
        `non_smoothness`; `kappa` of the smoother and `effective_kappa` of the minimiser; how far the minimiser's `kink` is
        from the points in noise levels, how many there are, `num_kinks`, and its `slope` at the points (`sigma^2 s'`). Over
        `offset` from the right-hand point in noise levels: `sigma` times each score. Over loss: the `bound` of
        Proposition 1, `1 + 8 sqrt(loss)`, and the `limit` of the ratio as `sigma -> 0`, `1 / (1 - sqrt(loss))`.

    Source: Chen, ICLR 2026, Proposition 1; for the limit see `smoothest_score`.

    Example:
        >>> import smoothjax as sj
        >>> found = sj.experiments.optimality(losses=(0.1,), variances=(1e-2,), progress=False)
        >>> 1 < float(found.ratio[0, 0]) < float(found.bound[0])  # the smoother bends a little more than the optimum
        True
    """
    xarray = import_optional("xarray")
    require_each(losses, "losses", require_positive)
    require_each(variances, "variances", require_positive)
    configuration = settings_of("optimality", locals())
    store = ResultStore(out, configuration)
    cells = cells_of(
        _cell, (losses, variances), "loss-{:g}-variance-{:g}", "loss {:g}, variance {:g}"
    )
    parts = sweep(store, cells, progress)
    dims = ("loss", "variance", "offset")
    tables = {name: by_cell(parts, name, len(losses), len(variances)) for name in parts[0]}
    results = xarray.Dataset(
        {name: (dims[: table.ndim], table) for name, table in tables.items()},
        coords={"loss": list(losses), "variance": list(variances), "offset": OFFSETS},
        attrs=configuration,
    )
    results["bound"] = 1 + 8 * results.loss**0.5
    results["limit"] = 1 / (1 - results.loss**0.5)
    return results


def _cell(loss: float, variance: float) -> Arrays:
    sigma, points = variance**0.5, jnp.asarray(POINTS)
    best = smoothest_score(POINTS, loss, sigma)
    kappa = float(kappa_for_loss(points, loss, sigma)[0])
    R = float(piecewise_linear_non_smoothness(points, kappa, sigma))
    u = POINTS[-1] + sigma * OFFSETS
    edge = 1 - kappa * sigma
    return {
        "ratio": R / best.non_smoothness,
        "piecewise_linear_non_smoothness": R,
        "non_smoothness": best.non_smoothness,
        "kappa": kappa,
        "effective_kappa": best.kappas[0],
        "kink": np.max((POINTS[-1] - best.kinks) / sigma, where=best.kinks > 0, initial=0),
        "num_kinks": len(best.kinks),
        "slope": best.slopes[-1],
        "optimal_score": sigma * best(u),
        "piecewise_linear_score": (np.interp(u, [-edge, edge], POINTS) - u) / sigma,
        "exact_score": (np.tanh(u / variance) - u) / sigma,
    }
