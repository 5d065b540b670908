"""Four points on a line in the plane: how the spread along the line and normal to it fall with the noise."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ..._checks import import_optional
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._kinds import checks_kinds
from ...datasets import segment
from ...smoothing import line_spread
from .._ensembles import member, noisy_points, states_at, train_ensemble
from .._registry import experiment, settings_of
from .._sweep import by_cell, cells_of, sweep
from .figures import plot_line_in_plane

if TYPE_CHECKING:
    import xarray

DIRECTION = np.array([np.cos(0.5), np.sin(0.5)])


@experiment(
    "line-in-plane",
    "spread along a line of four points and normal to it: exact, smoothed and learned score",
    plot_line_in_plane,
)
@checks_kinds
def line_in_plane(
    *,
    num_points: int = 4,
    kappas: tuple[float, ...] = (0.5, 1.0, 2.0),
    penalties: tuple[float, ...] = (0.0, 1e-3),
    variances: tuple[float, float] = (1e-4, 0.02),
    num_levels: int = 15,
    num_seeds: int = 3,
    width: int = 128,
    num_layers: int = 2,
    num_steps: int = 4000,
    batch_size: int = 512,
    num_samples: int = 4000,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Evenly spaced points of [-1, 1] on a slanted line in R^2: tangent and normal spread against the noise level.

    In closed form for the exact score and the piecewise-linear one, and of samples of noise-conditioned ReLU networks
    `sigma * score`, which start at the exact law of the largest noise level.

    Args:
        num_points: on the line.
        kappas: strengths of the piecewise-linear score.
        penalties: on the squared weights, halved, of the networks.
        variances: smallest and largest `sigma^2`.
        num_levels: noise levels.
        num_seeds, width, num_layers, num_steps, batch_size: of the networks and their training.
        num_samples: of each network.
        seed: of weights, training and samples.
        out: folder in which each finished part is kept.
        progress: show a progress bar.

    Returns:
        `tangent` (score, sigma), the mean squared distance along the line from the nearest training point, and `normal`, the
        variance normal to it, of the exact and the piecewise-linear score (`kappa`, infinite for the exact one);
        `network_tangent`, `network_normal` (penalty, seed, sigma) with standard errors `..._se` over samples, and
        `network_far`, the fraction of samples farther than 0.1 from all training points along the line.

    Source: Chen, ICLR 2026, section 5 and its experiment with four points in the plane.
    """
    xarray = import_optional("xarray")
    configuration = settings_of("line-in-plane", locals())
    store = ResultStore(out, configuration)
    points = segment(num_points).points[:, 0]
    direction = jnp.asarray(DIRECTION, points.dtype)
    data = jnp.outer(points, direction)
    low, high = (float(variance) ** 0.5 for variance in variances)
    levels = jnp.geomspace(high, low, num_levels).astype(points.dtype).at[0].set(high)

    def closed_forms() -> Arrays:
        spreads = [line_spread(points, kappa, levels[0], levels) for kappa in (None, *kappas)]
        return {
            "tangent": np.stack([spread.tangent for spread in spreads]),
            "normal": np.stack([spread.normal for spread in spreads]),
        }

    def networks(penalty: float) -> Arrays:
        fit_key, start_key = jax.random.split(key_of(seed))
        ensemble = train_ensemble(
            data,
            fit_key,
            num_seeds=num_seeds,
            num_steps=num_steps,
            sigma_min=low,
            sigma_max=high,
            width=width,
            num_layers=num_layers,
            batch_size=batch_size,
            prediction="eps",
            penalty=jnp.asarray(penalty, data.dtype),  # an array: one compilation for all
        ).model
        measured = []
        for i in range(num_seeds):
            starts = noisy_points(data, high, jax.random.fold_in(start_key, i), num_samples)
            states = np.asarray(states_at(member(ensemble, i), starts, levels))
            along = states @ DIRECTION
            square = np.min((along[..., None] - np.asarray(points)) ** 2, axis=-1)
            normal = np.sum((states - along[..., None] * DIRECTION) ** 2, axis=-1)
            root = np.sqrt(num_samples)
            measured.append(
                {
                    "network_tangent": square.mean(-1),
                    "network_tangent_se": square.std(-1, ddof=1) / root,
                    "network_normal": normal.mean(-1),
                    "network_normal_se": normal.std(-1, ddof=1) / root,
                    "network_far": (square > 0.01).mean(-1),
                }
            )
        return {name: np.stack([one[name] for one in measured]) for name in measured[0]}

    closed = store.get("closed-forms", closed_forms)
    cells = cells_of(networks, (penalties,), "penalty-{:g}", "networks, penalty {:g}")
    parts = sweep(store, cells, progress)
    return xarray.Dataset(
        {name: (("kappa", "sigma"), value) for name, value in closed.items()}
        | {
            name: (("penalty", "seed", "sigma"), by_cell(parts, name, len(penalties)))
            for name in parts[0]
        },
        coords={"kappa": [np.inf, *kappas], "penalty": list(penalties), "sigma": levels},
        attrs=configuration,
    )
