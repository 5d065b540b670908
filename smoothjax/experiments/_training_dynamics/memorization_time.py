"""How long random features take to generalise and to memorise: in the limit of many dimensions, beside drawn models."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ..._checks import (
    as_positive_integer,
    as_seed,
    import_optional,
    require_each,
    require_one_of,
    require_positive,
)
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._kinds import checks_kinds
from ...training_dynamics import DrawnRandomFeatures, RandomFeatureLimit
from .._registry import experiment, settings_of
from .._sweep import by_cell, cells_of, sweep
from .figures import plot_memorization_time

if TYPE_CHECKING:
    import xarray

ACTIVATIONS = {"tanh": jnp.tanh, "erf": jax.scipy.special.erf, "sin": jnp.sin}
NUM_DURATIONS, NUM_EIGENVALUES = 61, 801
# Largest term of the mean over the noise that drawn models have, in powers of the cosine of two weights.
MAX_ORDER = 10


@experiment(
    "memorization-time",
    "random features generalise after a time that is the same for all numbers of points, and memorise in proportion to it",
    plot_memorization_time,
)
@checks_kinds
def memorization_time(
    *,
    num_train: tuple[int, ...] = (200, 400, 800, 1600),
    num_features: tuple[int, ...] = (2000, 50_000),
    dim: int = 100,
    sigma: float = 0.3,
    activation: str = "tanh",
    num_models: int = 2,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Errors of a random-feature denoiser against training time, its spectrum, and when it generalises and memorises.

    Standard normal data and one noise level. In the limit of many dimensions, at the ratios of these numbers; and of models
    of the first number of features, drawn at this size with rows of W scaled to their length in the limit, and trained by
    gradient flow with exact means over the noise.

    Args:
        num_train: training points, n.
        num_features: p.
        dim: d.
        sigma: noise level, in standard deviations of the data.
        activation: of the features: "tanh", "erf" or "sin".
        num_models: drawn for each number of points, each with its own points and weights.
        seed: of the models.
        out: folder in which each finished pair of numbers is kept.
        progress: show a progress bar.

    Returns:
        Over numbers of points and features and the training times `duration`:

        - `error` of the limit and `model_error` of drawn models, on "training" and "new" points, mean squares a coordinate
          over the exact denoiser's;
        - `generalization_time`, half of the way of the excess error to its least, and `memorization_time`, half of the way
          of the gap between both errors;
        - `density` of the limit's `eigenvalue`, without the share `atom` at `atom_place`; `model_eigenvalues`.

    Raises:
        ValueError: for sizes, a noise level or an activation that cannot be.

    Source: Bonnaire, Urfin, Biroli and Mezard, arXiv 2505.17638.

    Example:
        >>> import smoothjax as sj
        >>> found = sj.experiments.memorization_time(
        ...     num_train=(100, 200), num_features=(400,), num_models=1, progress=False
        ... )
        >>> times = found.memorization_time.isel(num_features=0)
        >>> bool(1.5 < times[1] / times[0] < 2.5)  # of twice as many points
        True
    """
    xarray = import_optional("xarray")
    for sizes, name in ((num_train, "num_train"), (num_features, "num_features")):
        require_each(sizes, name, as_positive_integer)
    for size, name in ((dim, "dim"), (num_models, "num_models")):
        as_positive_integer(size, name)
    require_positive(sigma, "sigma")
    require_one_of(activation, ACTIVATIONS, "activation")
    as_seed(seed)
    configuration = settings_of("memorization-time", locals())
    store = ResultStore(out, configuration)
    function, least = ACTIVATIONS[activation], sigma**2 / (1 + sigma**2)

    def limit_of(n: int, p: int) -> RandomFeatureLimit:
        return RandomFeatureLimit(function, sigma, train_ratio=n / dim, feature_ratio=p / dim)

    # From before the quickest mode of all to after the slowest.
    corners = [limit_of(n, p) for n in (min(num_train), max(num_train)) for p in num_features]
    lowest = min(min(x.covariance.own, x.bulks[0].low) for x in corners)
    highest = max(x.bulks[-1].high for x in corners)
    durations = np.geomspace(0.03 / highest, 30 / lowest, NUM_DURATIONS)
    eigenvalues = np.geomspace(0.5 * lowest, 1.5 * highest, NUM_EIGENVALUES)

    def limit(n: int, p: int) -> Arrays:
        found = limit_of(n, p)
        errors = found.errors(durations)
        return {
            "error": np.stack([errors.train, errors.test]) / least,
            "generalization_time": found.generalization_time(),
            "memorization_time": found.memorization_time(),
            "density": found.density(eigenvalues),
            "atom": found.atom,
            "atom_place": found.covariance.own,
        }

    def models(n: int) -> Arrays:
        errors, values = [], []
        for i in range(num_models):
            key = jax.random.fold_in(jax.random.fold_in(key_of(seed), n), i)
            of_points, of_weights = jax.random.split(key)
            model = DrawnRandomFeatures(
                jax.random.normal(of_points, (n, dim)),
                function,
                sigma,
                num_features=num_features[0],
                key=of_weights,
                normalized=True,
                max_order=MAX_ORDER,
            )
            found = model.errors(durations)
            errors.append(np.stack([found.train, found.test]) / least)
            values.append(model.eigenvalues)
        return {"model_error": np.stack(errors), "model_eigenvalues": np.stack(values)}

    sizes = (num_train, num_features)
    limits = sweep(store, cells_of(limit, sizes, "limit-{}-{}", "n {}, p {}"), progress)
    drawn = sweep(store, cells_of(models, (num_train,), "models-{}", "models, n {}"), progress)
    both = ("num_train", "num_features")
    dims = {
        "error": (*both, "points", "duration"),
        "density": (*both, "eigenvalue"),
        "model_error": ("num_train", "model", "points", "duration"),
        "model_eigenvalues": ("num_train", "model", "feature"),
    }
    shape = tuple(map(len, sizes))
    table = {name: (dims.get(name, both), by_cell(limits, name, *shape)) for name in limits[0]}
    table |= {name: (dims[name], by_cell(drawn, name, len(num_train))) for name in drawn[0]}
    coords = {
        "num_train": list(num_train),
        "num_features": list(num_features),
        "points": ["training", "new"],
        "duration": durations,
        "eigenvalue": eigenvalues,
    }
    return xarray.Dataset(table, coords=coords, attrs=configuration)
