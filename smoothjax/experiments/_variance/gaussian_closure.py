"""How nearly Gaussian trained linear models are, place by place, and what taking them for Gaussian does to their samples."""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scipy import special

from ..._checks import as_positive_integer, import_optional
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._kinds import checks_kinds
from ...variance import LinearModelLaw
from .._registry import experiment, settings_of
from .._sweep import by_cell, cells_of, sweep
from .linear_models import (
    REGIONS,
    bump_features,
    features_on_grid,
    masses_of_flows,
    three_point_problem,
    trained_weights,
)
from .validation_figures import plot_gaussian_closure

if TYPE_CHECKING:
    import xarray

LAWS = ("retrained", "gaussian")
X = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.25])
NUM_TIMES = 6
STATISTICS = ("skewness", "excess_kurtosis", "ks_distance")
# Samples of the null law of the Kolmogorov-Smirnov distance.
NULL_REPEATS = 2000


@experiment(
    "gaussian-closure",
    "how Gaussian linear models are over retrainings, and what it matters to what they generate",
    plot_gaussian_closure,
)
@checks_kinds
def gaussian_closure(
    *,
    num_train: tuple[int, ...] = (64, 256, 1024, 4096),
    cutoff: float = 1e-2,
    num_bumps: int = 16,
    ridge: float = 0.1,
    num_models: int = 1000,
    num_flows: int = 200,
    num_designs: int = 128,
    num_samples: int = 200,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """The law of the trained denoiser at single places against a Gaussian, and the samples of models against the closure.

    The setting of the variance paper's Figure 2. Effective dynamics with two cumulants take the trained denoiser for a
    Gaussian field. At each place of a grid (6 x, 6 times evenly in log t) the values over retrained models are standardised
    by their own mean and deviation and compared with a normal variable. Then flows of retrained models are compared with
    flows of models drawn from `LinearModelLaw.averaged_over_designs`, whose mean and covariance are the same.

    Args:
        num_train: triples P that a model is trained on.
        cutoff: smallest time, of training and of sampling.
        num_bumps: centres along x, and along t.
        ridge: relative to the mean over samples.
        num_models: trained models whose values are taken.
        num_flows: models of either law whose flows are followed; of the trained ones, the first.
        num_designs: of the Gaussian law.
        num_samples: of each model.
        seed: of everything.
        out: folder in which each finished part is kept.
        progress: show a progress bar.

    Returns:
        Over (num_train, t, x): `skewness`, `excess_kurtosis`, `ks_distance` (Kolmogorov-Smirnov, from the normal
        distribution). Over `quantile` (0.5, 0.95, 0.99): `ks_null`, the distance of as many normal numbers. For these the
        standard errors of the first two are `sqrt(6 / num_models)` and `sqrt(24 / num_models)`. `mass` (num_train, law,
        model, region) of the laws `retrained` and `gaussian`: `near` the points, in the `gap`, 0.25 < |x| < 0.75, and
        `beyond`, |x| > 1.15.

    Raises:
        ValueError: for more flows than trained models, or sizes that are not positive.

    Source: Vastola, ICLR 2025, Proposition 3.1 (the closure) and Figure 2 (the setting).
    """
    xarray = import_optional("xarray")
    if as_positive_integer(num_flows, "num_flows") > as_positive_integer(num_models, "num_models"):
        raise ValueError(
            f"`num_flows` must be at most `num_models`; got {num_flows} of {num_models}."
        )
    configuration = settings_of("gaussian-closure", locals())
    store = ResultStore(out, configuration)
    problem = three_point_problem(bump_features(cutoff, num_bumps), cutoff, ridge)
    times = np.geomspace(cutoff, 1.0, NUM_TIMES)
    places = features_on_grid(problem, times, X)

    def run(P: int) -> Arrays:
        trained_key, law_key, draw_key = jax.random.split(jax.random.fold_in(key_of(seed), P), 3)
        trained = trained_weights(problem, P, trained_key, num_models)
        law = LinearModelLaw.averaged_over_designs(problem, P, law_key, num_designs=num_designs)
        drawn = _draws(law, draw_key, num_flows)
        return {
            "statistics": np.stack(shape_statistics(np.asarray(trained[:, 0] @ places.T))),
            "mass": np.stack(
                [
                    masses_of_flows(problem, weights, cutoff, num_samples)
                    for weights in (trained[:num_flows], drawn)
                ]
            ),
        }

    parts = sweep(store, cells_of(run, (num_train,), "train-{}", "{} samples"), progress)
    levels = (0.5, 0.95, 0.99)
    null = store.get("null", lambda: {"quantiles": ks_null(num_models, levels, seed)})
    statistics = np.stack([part["statistics"] for part in parts], axis=1)
    shape = (len(num_train), len(times), len(X))
    return xarray.Dataset(
        {
            name: (("num_train", "t", "x"), values.reshape(shape))
            for name, values in zip(STATISTICS, statistics, strict=True)
        }
        | {
            "ks_null": ("quantile", null["quantiles"]),
            "mass": (
                ("num_train", "law", "model", "region"),
                by_cell(parts, "mass", len(num_train)),
            ),
        },
        coords={
            "num_train": list(num_train),
            "t": times,
            "x": X,
            "quantile": list(levels),
            "law": list(LAWS),
            "region": list(REGIONS),
        },
        attrs=configuration,
    )


def shape_statistics(
    values: Float[np.ndarray, "num places"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Skewness, excess kurtosis, and Kolmogorov-Smirnov distance from the normal distribution, of each column.

    Standardised by the column's own mean and standard deviation, so that the distance of normal numbers is smaller than
    that of a test against a given law (Lilliefors).
    """
    num = len(values)
    z = np.sort((values - values.mean(axis=0)) / values.std(axis=0), axis=0)
    below, above = (np.arange(num) + shift for shift in (0, 1))
    cumulative = special.ndtr(z)
    distance = np.maximum(above[:, None] / num - cumulative, cumulative - below[:, None] / num).max(
        axis=0
    )
    return np.mean(z**3, axis=0), np.mean(z**4, axis=0) - 3, distance


def ks_null(num: int, levels: tuple[float, ...], seed: int) -> np.ndarray:
    """Quantiles of the distance of `num` normal numbers, standardised by their own moments. By simulation."""
    rng = np.random.default_rng(seed)
    # One column at a time needs no memory to speak of, all at once a gigabyte.
    distances = [
        shape_statistics(rng.standard_normal((num, 50)))[2] for _ in range(NULL_REPEATS // 50)
    ]
    return np.quantile(np.concatenate(distances), levels)


@eqx.filter_jit
def _draws(law: LinearModelLaw, key: PRNGKeyArray, num: int) -> Float[Array, "num d F"]:
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num))
    return jax.vmap(lambda k: law.sample(k).weights)(keys)
