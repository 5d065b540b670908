"""How strongly networks smooth under a weight penalty, against what the theory of the penalised fit predicts."""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..._checks import import_optional
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._kinds import checks_kinds
from ...learning import TrainingRun, train_on_line
from ...smoothing import effective_kappa, kappa_for_penalty, non_smoothness
from .._registry import experiment, settings_of
from .._sweep import by_cell, cells_of, sweep
from .figures import plot_penalty_sweep

if TYPE_CHECKING:
    import xarray

POINTS = np.array([-1.0, 1.0])


@experiment(
    "penalty-sweep",
    "smoothing strength of networks against the penalty on their weights",
    plot_penalty_sweep,
)
@checks_kinds
def penalty_sweep(
    *,
    penalties: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 2e-2),
    variances: tuple[float, ...] = (0.02, 0.005),
    num_seeds: int = 8,
    width: int = 256,
    num_steps: int = 6000,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Two-layer ReLU networks fitted to the exact score of {-1, 1} with a weight penalty in the loss: their effective kappa.

    One compiled call a noise level trains every penalty and seed. The prediction is `G(kappa) = penalty`, for penalties
    well below the noise level.

    Args:
        penalties: on the squared weights, halved, of networks `sigma * score`.
        variances: `sigma^2` of each noise level.
        num_seeds, width, num_steps: networks a penalty, their hidden units, gradient steps.
        seed: of the initial weights.
        out: folder in which each finished noise level is kept.
        progress: show a progress bar.

    Returns:
        `kappa` and `non_smoothness` (penalty, sigma, seed), `predicted` (penalty), final `loss`.

    Source: Chen, ICLR 2026, section 6; the relation of kappa and penalty as in `kappa_for_penalty`.
    """
    xarray = import_optional("xarray")
    configuration = settings_of("penalty-sweep", locals())
    store = ResultStore(out, configuration)

    def fit(variance: float) -> Arrays:
        sigma = variance**0.5
        key = key_of(seed)
        run = train_on_line(
            jnp.asarray(POINTS),
            sigma,
            jnp.asarray(penalties),
            key,
            num_seeds=num_seeds,
            width=width,
            num_steps=num_steps,
        )
        return {**_measure(run, sigma), "loss": run.losses[..., -1]}

    cells = cells_of(fit, (variances,), "variance-{:g}", "variance {:g}")
    parts = sweep(store, cells, progress)
    dims = ("sigma", "penalty", "seed")
    results = xarray.Dataset(
        {key: (dims, by_cell(parts, key, len(variances))) for key in parts[0]},
        coords={
            "sigma": np.sqrt(variances),
            "penalty": list(penalties),
            "seed": np.arange(num_seeds),
        },
        attrs=configuration,
    )
    results["predicted"] = (
        "penalty",
        [float(kappa_for_penalty(jnp.asarray(POINTS), penalty)[0]) for penalty in penalties],
    )
    return results


@eqx.filter_jit
def _measure(run: TrainingRun, sigma: float) -> dict[str, jax.Array]:
    grid = jnp.linspace(-2.0, 2.0, 2001)

    def one(model):
        kappa = effective_kappa(model.denoise, jnp.asarray(POINTS), sigma)[0]
        return {"kappa": kappa, "non_smoothness": non_smoothness(model.denoise, grid, sigma)}

    return eqx.filter_vmap(eqx.filter_vmap(one))(run.model)
