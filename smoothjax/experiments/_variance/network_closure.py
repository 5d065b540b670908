"""How Gaussian the law of trained networks is, and what they generate with and without noise in their targets."""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..._checks import import_optional
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._kinds import checks_kinds
from ...datasets import three_points
from ...denoisers import Denoiser, EmpiricalDenoiser
from ...flows import flow
from ...learning import NetworkDenoiser, train
from ...variance import DenoisingProblem, LogUniformLevels
from .._ensembles import noisy_points
from .._registry import experiment, settings_of
from .._sweep import by_cell, cells_of, sweep
from .gaussian_closure import STATISTICS, shape_statistics
from .network_figures import plot_network_closure

if TYPE_CHECKING:
    import xarray

TARGETS = ("noisy", "exact")
REGIONS = ("near", "gap", "beyond")
RADIUS = 0.25  # of what counts as near a point; neighbours are 1 apart
POSITIONS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
LEVELS = (0.1, 0.3, 1.0)
QUANTILES = (0.025, 0.5, 0.975)
NULL_DRAWS = 4000


@experiment(
    "network-closure",
    "how Gaussian networks are over retrainings, and what they generate from noisy and exact targets",
    plot_network_closure,
)
@checks_kinds
def network_closure(
    *,
    num_train: tuple[int, ...] = (64, 256),
    num_models: int = 256,
    num_steps: int = 1500,
    width: int = 32,
    num_layers: int = 3,
    levels: tuple[float, float] = (0.05, 3.0),
    num_samples: int = 200,
    learning_rate: float = 3e-3,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Three points on a line: the distribution of a network's denoiser over retrainings, and what the networks generate.

    Each model has its own initial weights and its own training set of P triples, fixed while Adam (all P in every step)
    trains it. Where its denoiser is close to normal over models, a law with two cumulants describes it. The same initial
    weights and inputs are trained twice: on noisy targets, the training points (denoising score matching, the paper's J_1),
    and on their posterior means (J_0). The difference is what the noise in the targets does; models are pairs.

    Samples start at `levels[1]`, at noisy training points that are common to all models, and follow the probability flow to
    `levels[0]`. A sample within a quarter of a training point counts as `near`; elsewhere between -1 and 1 it is in the
    `gap`, and outside `beyond`.

    Args:
        num_train: triples P that a model is trained on.
        num_models: retrainings a condition, in one compiled call.
        num_steps, learning_rate: of Adam, see `smoothjax.learning.train`.
        width, num_layers: of the networks, which predict the noise.
        levels: smallest and largest noise level, of training and sampling.
        num_samples: of each model.
        seed: of weights, training sets and samples.
        out: folder in which each finished condition is kept.
        progress: show a progress bar.

    Returns:
        Over targets and num_train: `denoised` (model, sigma, u) at several places; its `mean`, `std`, `skewness`,
        `excess_kurtosis` and `ks_distance` (Kolmogorov-Smirnov, from the normal law of its own mean and deviation) over
        models; `null` (statistic, quantile), what the last three are for as many normal numbers; `mass` (model, region) with
        `mean_mass` and `mass_se` over models; `exact_mass` (region), of the exact score from the same starts; `loss` (model)
        at the end: of the training set itself, so that it may fall below what is possible for fresh triples.

    Source: Vastola, ICLR 2025, Proposition 3.1 (two cumulants), and its objectives J_0 and J_1.
    """
    import_optional("xarray")
    configuration = settings_of("network-closure", locals())
    store = ResultStore(out, configuration)
    data = three_points().points
    problem = DenoisingProblem(data, LogUniformLevels(*levels), prediction="eps")
    model_key, start_key = jax.random.split(key_of(seed))
    starts = noisy_points(data, levels[1], start_key, num_samples)
    low, high = jnp.asarray(levels, data.dtype)
    sigma, u = (jnp.asarray(grid, data.dtype) for grid in (LEVELS, POSITIONS))

    @eqx.filter_jit
    def ends(denoiser: Denoiser) -> Array:
        return jax.vmap(lambda u: flow(denoiser, u, high, low, rtol=1e-3))(starts)[:, 0]

    @eqx.filter_jit
    def observe(models: NetworkDenoiser) -> dict[str, Array]:
        arrays, static = eqx.partition(models, eqx.is_array)

        def one(arrays: NetworkDenoiser) -> dict[str, Array]:
            model = eqx.combine(arrays, static)
            at_level = jax.vmap(lambda u, sigma: model(u[None], sigma)[0], (0, None))
            denoised = jax.vmap(at_level, (None, 0))(u, sigma)
            return {"denoised": denoised, "mass": region_masses(ends(model), data[:, 0])}

        return jax.lax.map(one, arrays)

    def run(targets: str, P: int) -> Arrays:
        # The same keys for both kinds of targets: pairs of models.
        keys = jax.random.split(jax.random.fold_in(model_key, P), num_models)
        models, loss = train_on_triples(
            problem,
            keys,
            jnp.asarray(learning_rate),
            num_train=P,
            exact=targets == "exact",
            width=width,
            num_layers=num_layers,
            num_steps=num_steps,
        )
        observed = observe(models)
        denoised = np.asarray(observed["denoised"], np.float64)
        shapes = shape_statistics(denoised.reshape(num_models, -1))
        by_place = [values.reshape(denoised.shape[1:]) for values in shapes]
        return {**observed, **dict(zip(STATISTICS, by_place, strict=True)), "loss": loss}

    cells = cells_of(run, (TARGETS, num_train), "{}-{}", "{} targets, {} triples")
    parts = sweep(store, cells, progress)
    control = store.get(
        "control",
        lambda: {
            "exact_mass": region_masses(ends(EmpiricalDenoiser(data)), data[:, 0]),
            "null": normal_shapes(num_models, seed),
        },
    )
    return _labelled(parts, control, num_train, num_models, configuration)


def _labelled(
    parts: list[Arrays],
    control: Arrays,
    num_train: tuple[int, ...],
    num_models: int,
    configuration: dict[str, Any],
) -> "xarray.Dataset":
    """The parts, with mean and spread over models, as one labelled result."""
    xarray = import_optional("xarray")
    places = ("sigma", "u")
    dims = {
        "denoised": ("model", *places),
        "mass": ("model", "region"),
        "loss": ("model",),
        **dict.fromkeys(STATISTICS, places),
    }
    cell_dims = ("targets", "num_train")
    results = {
        name: ((*cell_dims, *own), by_cell(parts, name, len(TARGETS), len(num_train)))
        for name, own in dims.items()
    }
    denoised, mass = results["denoised"][1], results["mass"][1]
    return xarray.Dataset(
        results
        | {
            "mean": ((*cell_dims, *places), denoised.mean(2)),
            "std": ((*cell_dims, *places), denoised.std(2, ddof=1)),
            "mean_mass": ((*cell_dims, "region"), mass.mean(2)),
            "mass_se": ((*cell_dims, "region"), mass.std(2, ddof=1) / num_models**0.5),
            "exact_mass": ("region", control["exact_mass"]),
            "null": (("statistic", "quantile"), control["null"]),
        },
        coords={
            "targets": list(TARGETS),
            "num_train": list(num_train),
            "sigma": list(LEVELS),
            "u": list(POSITIONS),
            "region": list(REGIONS),
            "statistic": list(STATISTICS),
            "quantile": list(QUANTILES),
        },
        attrs=configuration,
    )


@eqx.filter_jit
def train_on_triples(
    problem: DenoisingProblem,
    keys: PRNGKeyArray,
    learning_rate: Array,
    *,
    num_train: int,
    exact: bool,
    width: int,
    num_layers: int,
    num_steps: int,
) -> tuple[NetworkDenoiser, Float[Array, " models"]]:
    """Networks of fresh initial weights, each trained by Adam on its own fixed triples, and their final losses."""
    dim, dtype = problem.data.dim, problem.data.data.dtype

    def one(key: PRNGKeyArray) -> tuple[NetworkDenoiser, Array]:
        init, draw, unused = jax.random.split(key, 3)
        x, u, sigma = problem.draw(draw, num_train)
        x = jax.vmap(problem.data)(u, sigma) if exact else x
        model = NetworkDenoiser.relu(
            dim, width, num_layers, key=init, prediction=problem.prediction
        )
        model = jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, model)

        def loss(model: NetworkDenoiser, _: PRNGKeyArray) -> Array:
            error = jnp.sum((jax.vmap(model.denoise)(u, sigma) - x) ** 2, axis=1)
            return jnp.mean(jax.vmap(model.loss_weight)(sigma) * error)

        trained = train(loss, model, unused, num_steps=num_steps, learning_rate=learning_rate)
        return trained.model, trained.losses[-1]

    return eqx.filter_vmap(one)(keys)


def region_masses(
    samples: Float[Array, " samples"], points: Float[Array, " n"]
) -> Float[Array, " regions"]:
    """Fractions of samples near a point, in the gaps between points, and beyond the outermost."""
    near = jnp.min(jnp.abs(samples[:, None] - points[None]), axis=1) < RADIUS
    between = (jnp.min(points) < samples) & (samples < jnp.max(points))
    return jnp.stack([jnp.mean(k) for k in (near, ~near & between, ~near & ~between)])


def normal_shapes(num: int, seed: int) -> Float[np.ndarray, "statistics quantiles"]:
    """Quantiles of the statistics of `num` normal numbers, by drawing them."""
    draws = np.random.default_rng(seed).standard_normal((num, NULL_DRAWS))
    return np.quantile(shape_statistics(draws), QUANTILES, axis=1).T
