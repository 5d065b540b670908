"""What the experiments on linear models of three points share: the setting of the variance paper's Figure 2, and masses."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from ..._checks import RealScalar
from ...datasets import three_points
from ...flows import flow
from ...variance import (
    DenoisingProblem,
    Features,
    GaussianBumps,
    LinearProblem,
    ProductFeatures,
    UniformTimes,
    train_linear,
)
from .samplers import converged_levels, paper_process, stratified_normal

# Of |x|; the points are -1, 0 and 1.
OUTER_REGIONS = {"gap": (0.25, 0.75), "beyond": (1.15, np.inf)}
# The parts of the line: around the points, between them, outside. They add up to one.
REGIONS = ("near", *OUTER_REGIONS)


def bump_features(cutoff: float, num_bumps: int, width: float = 0.5) -> ProductFeatures:
    """Products of bumps along x and along t, `width` times their spacing wide (0.5 in the paper)."""
    axes = []
    for low, high in ((-1.5, 1.5), (cutoff, 1.0)):
        evenly = GaussianBumps.evenly(low, high, num_bumps)
        axes.append(GaussianBumps(evenly.centres, 2 * width * evenly.width))
    return ProductFeatures(axes[:1], axes[1], paper_process())


def three_point_problem(
    features: Features,
    cutoff: RealScalar,
    ridge: RealScalar,
    exact_targets: tuple[RealScalar, RealScalar] | None = None,
) -> LinearProblem:
    """Points -1, 0 and 1, times uniform between the cutoff and one."""
    levels = UniformTimes(paper_process(), cutoff, 1.0)
    denoising = DenoisingProblem(three_points().points, levels, exact_targets=exact_targets)
    return LinearProblem(denoising, features, ridge=ridge)


def features_on_grid(
    problem: LinearProblem, t: Float[np.ndarray, " T"], x: Float[np.ndarray, " X"]
) -> Float[Array, "T*X F"]:
    """Features at all places of a grid of times and x: a denoiser there is their product with its weights."""
    process, dtype = paper_process(), problem.denoising.data.data.dtype
    times, states = (jnp.asarray(a.ravel()) for a in np.meshgrid(t, x, indexing="ij"))
    u = (states / process.alpha(times)).astype(dtype)
    sigma = process.noise_level(times).astype(dtype)
    evaluate = eqx.filter_jit(lambda features, u, s: jax.vmap(features)(u, s))
    return evaluate(problem.features, u[:, None], sigma)


@eqx.filter_jit
def trained_weights(
    problem: LinearProblem, num_train: int, key: PRNGKeyArray, num_models: int
) -> Float[Array, "models d F"]:
    """Weights of models trained on fresh training sets; model i on that of `fold_in(key, i)`."""
    return jax.lax.map(
        lambda i: train_linear(problem, num_train, jax.random.fold_in(key, i)).weights,
        jnp.arange(num_models),
    )


def stratified_starts(num: int, dtype: DTypeLike) -> Float[Array, "num 1"]:
    """Starts of flows, in noise coordinates: N(0, sigma_t^2) at t = 1 in x, as in the paper, at the quantiles."""
    return (paper_process().noise_level(1.0) * stratified_normal(num)).astype(dtype)


def levels_of_flow(cutoff: float) -> tuple[Array, Array]:
    """Noise levels from which and to which flows are followed."""
    process = paper_process()
    return process.noise_level(1.0), process.noise_level(cutoff)


def regions_of_flows(
    problem: LinearProblem, weights: Float[Array, "models 1 F"], cutoff: float, num_samples: int
) -> np.ndarray:
    """In which of the `REGIONS` each sample of each model lies, one-hot, shape (models, samples, regions).

    Starts are stratified and the same for all models; as in the paper, the end is read off in x.
    """
    process = paper_process()
    starts = stratified_starts(num_samples, weights.dtype)
    levels = converged_levels(process, cutoff)
    ends = _ends(problem, weights, starts, levels)
    size = np.abs(np.asarray(process.alpha(cutoff) * ends[..., 0]))
    outer = [(low < size) & (size < high) for low, high in OUTER_REGIONS.values()]
    return np.stack([~np.logical_or.reduce(outer), *outer], axis=-1)


def masses_of_flows(
    problem: LinearProblem, weights: Float[Array, "models 1 F"], cutoff: float, num_samples: int
) -> np.ndarray:
    """What share of each model's samples lies in each of the `REGIONS`, shape (models, regions)."""
    return regions_of_flows(problem, weights, cutoff, num_samples).mean(axis=1)


@eqx.filter_jit
def _ends(problem, weights, starts, levels):
    def of(one: Array) -> Array:
        model = problem.denoiser(one)
        # On a grid all starts are at one time at once, and share the model's sum over the features of time.
        solve = lambda u: flow(  # noqa: E731
            model, u, levels[0], levels[-1], levels=levels, solver=diffrax.Tsit5()
        )
        return jax.vmap(solve)(starts)

    return jax.lax.map(of, weights)
