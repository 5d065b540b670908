"""Small ReLU networks trained many times, against what their tangent kernel says of the spread of what they learn."""

from typing import TYPE_CHECKING, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..._checks import import_optional
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._kinds import checks_kinds
from ...datasets import variance_paper_set
from ...variance import (
    DenoisingProblem,
    KernelDenoiser,
    KernelLaw,
    LogUniformLevels,
    OutputDenoiser,
    ReLUTangentKernel,
    TangentNetwork,
    TrainingSet,
    gradient_descent,
)
from .._registry import experiment, settings_of
from .._sweep import by_cell, cells_of, sweep
from .network_figures import plot_tangent_kernel_networks

if TYPE_CHECKING:
    import xarray

SOURCES = ("targets", "initialisations", "training sets")
# The middle of the polygon, of an edge, a vertex, and a point outside.
POSITIONS = ((0.0, 0.0), (0.75, 0.4330127018922193), (1.0, 0.0), (-0.5, 1.5))
LEVELS = (0.5, 1.0, 2.0)


@experiment(
    "tangent-kernel-networks",
    "spread of small ReLU networks over targets, initial weights and training sets, against their tangent kernel",
    plot_tangent_kernel_networks,
)
@checks_kinds
def tangent_kernel_networks(
    *,
    widths: tuple[int, ...] = (16, 64, 256),
    num_steps: tuple[int, ...] = (10, 100, 500),
    step_size: float = 0.1,
    num_layers: int = 2,
    bias_scale: float = 1.0,
    num_train: int = 128,
    num_models: int = 256,
    num_designs: int = 256,
    levels: tuple[float, float] = (0.3, 3.0),
    kind: Literal["polygon", "line", "blend", "random"] = "polygon",
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Covariance of trained ReLU networks over what training draws at random, against that of their infinitely wide limit.

    Networks in the tangent parametrisation predict the noise and are trained by full-batch gradient descent on P triples,
    for a duration `step_size * num_steps`. Each source of randomness is varied by itself, all else fixed: the targets, drawn
    from their posterior at fixed inputs; the initial weights; the whole training set, inputs and targets. The denoiser's
    covariance at 12 places, all in one matrix, is compared with that of gradient flow on the tangent kernel: of smoothed
    target noise; of what is left of the random initial function; and, over independent draws of the inputs, by the law of
    total covariance.

    The kernel is exact for infinite width. Initial weights that are held fixed are those of one network a width, whose own
    kernel differs from the limit by some `width**-0.5`; and the kernel moves as the network trains, the more the narrower it
    is and the longer it trains. All widths share their draws of targets and training sets: what they have in common of an
    error is mostly sampling.

    Args:
        widths: of the hidden layers.
        num_steps: of gradient descent, increasing; the networks are looked at after each.
        step_size: small against the inverse of the largest eigenvalue, about 2 for the default kernel and points.
        num_layers, bias_scale: of networks and kernel. Three layers cost some ten times the two of the default.
        num_train: triples P.
        num_models: trained networks a width and source.
        num_designs: training inputs that the prediction for training sets is averaged over.
        levels: noise levels of training, drawn log-uniformly between these.
        kind: set of six points in the plane.
        seed: of weights and training sets.
        out: folder in which each finished width and source is kept.
        progress: show a progress bar.

    Returns:
        Over width, source and time (the duration): `covariance` and `predicted` (row, column), the places' coordinates one
        after the other; `error`, the Frobenius norm of their difference over that of the prediction, and `floor`, the root
        mean square that the finite numbers of models and designs alone would leave; `trace_ratio` of covariance and
        prediction, with `trace_ratio_se`. `place_u`, `place_sigma` list the places.

    Source: Vastola, ICLR 2025, Proposition 5.2 (networks in the tangent kernel regime), here against networks.
    """
    xarray = import_optional("xarray")
    configuration = settings_of("tangent-kernel-networks", locals())
    store = ResultStore(out, configuration)
    data = variance_paper_set(kind).points
    problem = DenoisingProblem(data, LogUniformLevels(*levels), prediction="eps")
    kernel = ReLUTangentKernel(num_layers, bias_scale=bias_scale)
    place_u = jnp.repeat(jnp.asarray(POSITIONS, data.dtype), len(LEVELS), axis=0)
    place_sigma = jnp.tile(jnp.asarray(LEVELS, data.dtype), len(POSITIONS))
    places = (place_u, place_sigma)
    init_key, design_key, prediction_key, *member_keys = jax.random.split(key_of(seed), 6)
    durations = step_size * np.asarray(num_steps)

    def run(width: int, source: str) -> Arrays:
        split = [jax.random.split(key, num_models) for key in member_keys]
        init_keys, triples = random_parts(problem, source, num_train, init_key, design_key, split)
        outputs = train_networks(
            problem,
            kernel,
            width,
            init_keys,
            triples,
            places,
            jnp.asarray(step_size),
            tuple(num_steps),
        )
        network, key = None, design_key
        if source == "training sets":
            network = TangentNetwork(kernel, data.shape[1], width, key=init_key, dtype=data.dtype)
            key = jax.random.split(prediction_key, num_designs)
        results = []
        for i, duration in enumerate(jnp.asarray(durations, data.dtype)):
            predicted = predicted_parts(
                problem, kernel, source, num_train, key, network, places, duration
            )
            results.append(compare_covariances(scatter(np.asarray(outputs[:, i])), predicted))
        return {name: np.stack([one[name] for one in results]) for name in results[0]}

    cells = cells_of(run, (widths, SOURCES), "width-{}-{}", "width {}, {}")
    parts = sweep(store, cells, progress)
    dims = ("width", "source", "time")
    results = {}
    for name in parts[0]:
        values = by_cell(parts, name, len(widths), len(SOURCES))
        results[name] = ((*dims, *("row", "column")[: values.ndim - 3]), values)
    return xarray.Dataset(
        results
        | {
            "place_u": (("place", "coordinate"), np.asarray(place_u)),
            "place_sigma": ("place", np.asarray(place_sigma)),
        },
        coords={"width": list(widths), "source": list(SOURCES), "time": durations},
        attrs=configuration,
    )


@eqx.filter_jit
def random_parts(
    problem: DenoisingProblem,
    source: str,
    P: int,
    init_key: PRNGKeyArray,
    design_key: PRNGKeyArray,
    member_keys: list[PRNGKeyArray],
) -> tuple[PRNGKeyArray, TrainingSet]:
    """Keys of initial weights and training sets of all members: one source of randomness differs, the others are shared."""
    target_keys, init_keys, set_keys = member_keys
    num = target_keys.shape[0]
    if source == "training sets":
        return jnp.broadcast_to(init_key, num), jax.vmap(lambda k: problem.draw(k, P))(set_keys)
    one = problem.draw(design_key, P)
    triples = TrainingSet(*(jnp.broadcast_to(a, (num, *a.shape)) for a in one))
    if source == "initialisations":
        return init_keys, triples
    points, prior = problem.data.data, jnp.log(problem.data.weights)

    def redraw(key: PRNGKeyArray) -> Array:
        distances = jnp.sum((points[None] - one.u[:, None]) ** 2, axis=2)
        logits = prior[None] - distances / (2 * one.sigma[:, None] ** 2)
        return points[jax.random.categorical(key, logits)]

    return jnp.broadcast_to(init_key, num), triples._replace(x=jax.vmap(redraw)(target_keys))


@eqx.filter_jit
def train_networks(
    problem: DenoisingProblem,
    kernel: ReLUTangentKernel,
    width: int,
    init_keys: PRNGKeyArray,
    triples: TrainingSet,
    places: tuple[Array, Array],
    step_size: Array,
    num_steps: tuple[int, ...],
) -> Float[Array, "models times size"]:
    """Denoisers of many networks, each on its own triples, at all places: coordinates of a place side by side."""
    dim, dtype = problem.data.dim, problem.data.data.dtype

    def at_places(model: TangentNetwork) -> Array:
        denoiser = OutputDenoiser(model, dim, prediction=problem.prediction)
        return jax.vmap(denoiser)(*places).ravel()

    def one(member: tuple[PRNGKeyArray, TrainingSet]) -> Array:
        network = TangentNetwork(kernel, dim, width, key=member[0], dtype=dtype)
        return gradient_descent(
            problem,
            network,
            member[1],
            step_size=step_size,
            num_steps=num_steps,
            observe=at_places,
        )

    # One after the other: a network and its activations stay in the cache.
    return jax.lax.map(one, (init_keys, triples))


@eqx.filter_jit
def predicted_parts(
    problem: DenoisingProblem,
    kernel: ReLUTangentKernel,
    source: str,
    P: int,
    key: PRNGKeyArray,
    network: TangentNetwork | None,
    places: tuple[Array, Array],
    duration: Array,
) -> Float[Array, "designs size size"]:
    """Covariances whose mean over the first axis is the prediction for a source.

    Of the targets and of initial weights given the training inputs of `key`: a single one. Of training sets for a network to
    start from: one a design, of several keys.
    """

    def law_of(key: PRNGKeyArray, **initial: Any) -> KernelLaw:
        return KernelLaw.gradient_flow(problem, kernel, P, key, duration=duration, **initial)

    def covariance(law: KernelLaw) -> Array:
        over = jax.vmap(law.covariance, (None, None, 0, 0))
        blocks = jax.vmap(over, (0, 0, None, None))(*places, *places)
        size = blocks.shape[0] * blocks.shape[2]
        return blocks.transpose(0, 2, 1, 3).reshape(size, size)

    if source == "targets":
        return covariance(law_of(key))[None]
    if source == "initialisations":
        both = law_of(key, initial_covariance=kernel.initial_covariance)
        return (covariance(both) - covariance(law_of(key)))[None]
    assert network is not None

    def given_design(key: PRNGKeyArray) -> tuple[Array, Array]:
        law = law_of(key)
        # What is learned is the target less what the network says to begin with.
        roots = jax.vmap(problem.root_weight)(law.u, law.sigma)
        said = roots[:, None] * jax.vmap(network)(law.u, law.sigma)
        coefficients = law.mean_coefficients - jnp.matmul(law.smoother, said, precision="highest")
        mean = KernelDenoiser(
            kernel, law.u, law.sigma, coefficients, problem.prediction, initial=network
        )
        return covariance(law), jax.vmap(mean)(*places).ravel()

    noise, means = jax.lax.map(given_design, key)
    return noise + scatter(means)


def scatter(values: Any) -> Any:
    """Products of deviations from the mean, shape (num, size, size), whose mean is the unbiased covariance."""
    num = values.shape[0]
    deviations = values - values.mean(0, keepdims=True)
    return deviations[:, :, None] * deviations[:, None, :] * (num / (num - 1))


def compare_covariances(parts: Any, expected_parts: Any) -> Arrays:
    """Means of two samples of matrices, their relative distance, and how far apart sampling alone would put them.

    Args:
        parts: shape (num, size, size), independent.
        expected_parts: the same, or a single one without error.
    """
    samples = [np.asarray(sample, np.float64) for sample in (parts, expected_parts)]
    found, expected = (sample.mean(0) for sample in samples)
    # Squared standard errors of the means: of the trace, and summed over all entries.
    of_trace, of_all = np.zeros(2)
    for sample in samples:
        num = len(sample)
        if num > 1:
            traces = np.trace(sample, axis1=1, axis2=2)
            of_trace += traces.var(ddof=1) / num
            of_all += np.sum(sample.var(0, ddof=1)) / num
    size, trace = np.linalg.norm(expected), np.trace(expected)
    return {
        "covariance": found,
        "predicted": expected,
        "error": np.linalg.norm(found - expected) / size,
        "floor": np.sqrt(of_all) / size,
        "trace_ratio": np.trace(found) / trace,
        "trace_ratio_se": np.sqrt(of_trace) / trace,
    }
