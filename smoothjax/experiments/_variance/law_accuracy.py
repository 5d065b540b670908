"""How far each route to the law of linear models is from the law itself, against the size of the training set."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..._checks import import_optional
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._kinds import checks_kinds
from ..._numerics import gram_factor
from ...variance import LinearModelLaw, LinearProblem
from .._registry import experiment, settings_of
from .._sweep import sweep
from .linear_models import bump_features, features_on_grid, three_point_problem, trained_weights
from .validation_figures import plot_law_accuracy

if TYPE_CHECKING:
    import xarray

ROUTES = (
    "fixed_design",
    "averaged_over_designs",
    "large_sample",
    "noise_only",
    "deterministic_equivalent",
)
# Of each route that is Monte Carlo itself, to know its error.
REPEATS = 4


@experiment(
    "law-accuracy",
    "every route to the law of linear models against retrained ones, with the Monte Carlo floor",
    plot_law_accuracy,
)
@checks_kinds
def law_accuracy(
    *,
    num_train: tuple[int, ...] = (256, 1024, 4096, 16_384),
    num_designs: tuple[int, ...] = (256, 256, 128, 32),
    cutoff: float = 1e-2,
    num_bumps: int = 16,
    ridge: float = 0.1,
    num_models: int = 1000,
    num_nodes: int = 8192,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Covariance kernels of the routes of `LinearModelLaw` against those of models that were trained.

    The setting of the variance paper's Figure 2. A kernel is the covariance of the denoiser between all places of a grid of
    9 x, from -1.2 to 1.2, and 7 times, evenly in log t from the cutoff to 1. `fixed_design` is compared with models whose
    targets were drawn anew for the same inputs, the others with models trained on fresh training sets. All routes but the
    first are Monte Carlo themselves, over designs or nodes: each is computed four times, and the mean kernel compared.
    Inputs of small noise level near a boundary weigh so much that this error is worth a look. Use float64.

    Args:
        num_train: triples P that a model is trained on.
        num_designs: of `averaged_over_designs` in all, for each of `num_train`; a multiple of four, at least 8.
        cutoff: smallest time.
        num_bumps: centres along x, and along t.
        ridge: relative to the mean over samples.
        num_models: trained models, and target sets of the one design.
        num_nodes: of each computation of `deterministic_equivalent`; `large_sample`, which is computed once for all sizes,
            has eight times as many.
        seed: of everything.
        out: folder in which each finished part is kept.
        progress: show a progress bar.

    Returns:
        Over (num_train, route): `error`, the relative Frobenius distance of the route's kernel from that of the models;
        `floor`, its root mean square for a route without error, by the number of models alone; `own_error`, the relative
        standard error of the route's own Monte Carlo; `trace_ratio`, of the route's kernel to that of the models, and its
        standard error `trace_error` by the number of models. Over num_train: `features_per_sample`, F / P.

    Raises:
        ValueError: unless there is a multiple of four designs for each size of training set, and a second model.

    Source: Vastola, ICLR 2025, Figure 2 (the setting) and Proposition 5.1 (`noise_only`).
    """
    xarray = import_optional("xarray")
    if len(num_designs) != len(num_train) or any(
        num < 2 * REPEATS or num % REPEATS for num in num_designs
    ):
        raise ValueError(
            f"`num_designs` must hold a multiple of {REPEATS}, at least {2 * REPEATS}, for each of `num_train`; "
            f"got {num_designs} for {num_train}."
        )
    if num_models < 2:
        raise ValueError(f"`num_models` must be at least 2; got {num_models}.")
    configuration = settings_of("law-accuracy", locals())
    store = ResultStore(out, configuration)
    problem = three_point_problem(bump_features(cutoff, num_bumps), cutoff, ridge)
    times, x = np.geomspace(cutoff, 1.0, 7), np.linspace(-1.2, 1.2, 9)
    places = features_on_grid(problem, times, x)
    cells = _of_all_sizes(problem, places, 8 * num_nodes, jax.random.fold_in(key_of(seed), 0))
    for P, designs in zip(num_train, num_designs, strict=True):
        key = jax.random.fold_in(key_of(seed), P)
        cells |= _of_size(problem, places, P, designs // REPEATS, num_models, num_nodes, key)
    parts = sweep(store, [(name, name, compute) for name, compute in cells.items()], progress)
    found = dict(zip(cells, parts, strict=True))
    rows = []
    for P in num_train:
        own, retrained = found[f"fixed-design-{P}"], found[f"retrained-{P}"]
        kernels = {
            "fixed_design": own["kernels"],
            "averaged_over_designs": found[f"averaged-{P}"]["kernels"],
            "large_sample": found["large_sample"]["kernels"] / P,
            "noise_only": found["noise_only"]["kernels"] / P,
            "deterministic_equivalent": found[f"equivalent-{P}"]["kernels"],
        }
        rows.append(
            [
                compare_kernels(
                    kernels[route], (own if route == ROUTES[0] else retrained)["values"]
                )
                for route in ROUTES
            ]
        )
    names = ("error", "floor", "own_error", "trace_ratio", "trace_error")
    table = np.array(rows)
    return xarray.Dataset(
        {name: (("num_train", "route"), table[..., i]) for i, name in enumerate(names)}
        | {"features_per_sample": ("num_train", places.shape[1] / np.array(num_train))},
        coords={"num_train": list(num_train), "route": list(ROUTES)},
        attrs=configuration,
    )


def _kernel(law: LinearModelLaw, places: Array) -> np.ndarray:
    factor = np.asarray(places @ law.factor[0])
    return factor @ factor.T


def _repeated(
    route: Callable[[PRNGKeyArray], LinearModelLaw], places: Array, key: PRNGKeyArray
) -> Arrays:
    """The kernels of a route that draws, `REPEATS` times."""
    kernels = [_kernel(route(k), places) for k in jax.random.split(key, REPEATS)]
    return {"kernels": np.stack(kernels)}


def _of_all_sizes(
    problem: LinearProblem, places: Array, num_nodes: int, key: PRNGKeyArray
) -> dict[str, Callable[[], Arrays]]:
    """What is of order 1 / P by construction: once for all sizes P."""

    def leading(noise_only: bool) -> Arrays:
        route = lambda k: LinearModelLaw.large_sample(  # noqa: E731
            problem, 1, k, num_nodes=num_nodes, noise_only=noise_only
        )
        return _repeated(route, places, key)

    return {
        name: functools.partial(leading, name == "noise_only")
        for name in ("large_sample", "noise_only")
    }


def _of_size(
    problem: LinearProblem,
    places: Array,
    P: int,
    num_designs: int,
    num_models: int,
    num_nodes: int,
    key: PRNGKeyArray,
) -> dict[str, Callable[[], Arrays]]:
    """Kernels of P samples by the other routes, and models trained on as many."""
    keys = jax.random.split(key, 4)

    def of_models(weights: Float[Array, "models 1 F"]) -> Arrays:
        return {"values": weights[:, 0] @ places.T}

    def fixed() -> Arrays:
        weights = _redrawn_targets(problem, P, keys[0], num_models)
        law = LinearModelLaw.fixed_design(problem, P, keys[0])
        return {"kernels": _kernel(law, places)[None], **of_models(weights)}

    def averaged(key: PRNGKeyArray) -> LinearModelLaw:
        return LinearModelLaw.averaged_over_designs(problem, P, key, num_designs=num_designs)

    def equivalent(key: PRNGKeyArray) -> LinearModelLaw:
        return LinearModelLaw.deterministic_equivalent(problem, P, key, num_nodes=num_nodes)

    return {
        f"fixed-design-{P}": fixed,
        f"averaged-{P}": lambda: _repeated(averaged, places, keys[1]),
        f"equivalent-{P}": lambda: _repeated(equivalent, places, keys[2]),
        f"retrained-{P}": lambda: of_models(trained_weights(problem, P, keys[3], num_models)),
    }


def compare_kernels(
    kernels: Float[np.ndarray, "repeats places places"], values: Float[np.ndarray, "models places"]
) -> tuple[float, float, float, float, float]:
    """Error, floor, own error, trace ratio and its standard error of kernels against the covariance of values.

    The floor is estimated from the models without assuming that they are Gaussian, which they are not: targets are
    bounded and rare inputs weigh much. Of one kernel alone the own error is zero: it is taken for exact.
    """
    num = len(values)
    deviations = values - values.mean(axis=0)
    reference = deviations.T @ deviations / (num - 1)
    norm, trace = np.linalg.norm(reference), np.trace(reference)
    squares = np.sum(deviations**2, axis=1)
    # Of a mean of independent outer products, |x x^T - K|^2 / num.
    variance = (np.mean(squares**2) - norm**2) / (num - 1)
    kernel = kernels.mean(axis=0)
    scatter = np.sum((kernels - kernel) ** 2) / max(len(kernels) * (len(kernels) - 1), 1)
    ratio = np.trace(kernel) / trace
    return (
        float(np.linalg.norm(kernel - reference) / norm),
        float(np.sqrt(variance) / norm),
        float(np.sqrt(scatter) / norm),
        float(ratio),
        float(ratio * squares.std(ddof=1) / np.sqrt(num) / trace),
    )


@eqx.filter_jit
def _redrawn_targets(
    problem: LinearProblem, num_train: int, key: PRNGKeyArray, num: int
) -> Float[Array, "num d F"]:
    """Weights of models trained on the inputs that `fixed_design` draws with this key, their targets drawn anew."""
    denoising = problem.denoising
    _, u, sigma = denoising.draw(key, num_train)
    points = denoising.data.data
    square = jnp.sum((u[:, None] - points) ** 2, axis=-1)
    logits = jnp.log(denoising.data.weights) - square / (2 * sigma[:, None] ** 2)
    regressors = jax.vmap(problem.regressors)(u, sigma)
    factor = gram_factor(regressors, problem.ridge)

    def one(i: Array) -> Array:
        chosen = jax.random.categorical(jax.random.fold_in(key, i), logits)
        targets = jax.vmap(denoising.target)(points[chosen], u, sigma)
        moments = jnp.matmul(regressors.T, targets, precision="highest") / num_train
        return jax.scipy.linalg.cho_solve(factor, moments).T

    return jax.lax.map(one, jnp.arange(num))
