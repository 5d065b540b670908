"""The order in which an affine denoiser learns the modes of data: in closed form, beside training with drawn noise."""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ... import datasets
from ..._checks import (
    as_positive_integer,
    as_seed,
    import_optional,
    require_each,
    require_positive,
)
from ..._files.checkpoint import fingerprint
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._kinds import checks_kinds
from ...denoisers import GaussianDenoiser
from ...training_dynamics import (
    TrainedLinearDenoiser,
    emergence_time,
    generated_emergence_time,
    generated_law,
)
from .._data import train_and_held_out
from .._registry import experiment, settings_of
from .._sweep import by_cell, cells_of, sweep
from .figures import plot_spectral_bias

if TYPE_CHECKING:
    import xarray

# Modes whose variance is below this share of the largest are rounding of the data, and left out.
LEAST_SHARE = 1e-6
# Largest share of its distance that a step of the explicit training takes the quickest mode.
STEP = 0.05
# Scatters of a gain from which on its time is told.
LEAST_SIGNAL = 30.0
# Of training times, from the first mode's to the last's.
NUM_DURATIONS = 61


@experiment(
    "spectral-bias",
    "an affine denoiser learns modes in the order of their variances, in closed form and trained",
    plot_spectral_bias,
)
@checks_kinds
def spectral_bias(
    *,
    data: str = "digits",
    num_train: int = 300,
    levels: tuple[float, ...] = (0.02, 0.1, 0.5),
    fraction: float = 0.5,
    num_steps: int = 40_000,
    sigma_max: float = 80.0,
    sigma_min: float = 0.02,
    num_samples: int = 6,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """When each mode of the data emerges in an affine denoiser `W (u - mu) + c` in training, and in what it generates.

    In closed form for gradient flow, beside stochastic descent on the training points with fresh noise for each of them at
    every step. All from zero weights. Training time is that of the flow on half the mean squared error.

    Args:
        data: name or path, see `smoothjax.datasets.load`.
        num_train: training points.
        levels: noise levels at which weights are looked at.
        fraction: of its way that a mode has gone when it emerges, between 0 and 1.
        num_steps: of the descent.
        sigma_max, sigma_min: noise levels at which samples start and end.
        num_samples: drawn at each training time, from the same noises.
        seed: of the split, of the descent and of the samples.
        out: folder in which each finished noise level is kept.
        progress: show a progress bar.

    Returns:
        Over the modes, by their `variance`, and the training times `duration`:

        - `emergence` (sigma, mode) of weights, `trained_emergence` that of the descent, NaN where it did not come so far, or
          is too small beside the noise of the descent;
          `sample_emergence` (mode), that of the variance of samples;
        - `generated_variance` (duration, mode);
        - `loss` (points, sigma, duration): half the mean squared error a coordinate on "training" and "held-out" points;
        - `samples` (duration, sample, coordinate).

    Raises:
        ValueError: for sizes, levels or a fraction out of range.

    Source: Wang and Pehlevan, arXiv 2503.03206.

    Example:
        >>> import smoothjax as sj
        >>> found = sj.experiments.spectral_bias(levels=(0.1,), num_steps=100, progress=False)
        >>> times = found.trained_emergence.isel(sigma=0) / found.emergence.isel(sigma=0)
        >>> round(float(times[0]), 1)  # of the first mode: as the closed form says, but for the size of steps
        1.0
    """
    xarray = import_optional("xarray")
    require_each(levels, "levels", require_positive)
    as_positive_integer(num_steps, "num_steps")
    as_positive_integer(num_samples, "num_samples")
    as_seed(seed)
    dataset = datasets.load(data)
    train, held_out = train_and_held_out(dataset, num_train=num_train, seed=seed)
    fit = GaussianDenoiser.fit(train.points)
    kept = int(np.sum(fit.eigenvalues > LEAST_SHARE * fit.eigenvalues[0]))
    variances = fit.eigenvalues[:kept]
    configuration = settings_of("spectral-bias", locals()) | {
        "data": str(data),
        "data_sha256": fingerprint(dataset.points),
        "num_train": len(train),
    }
    if dataset.image_shape is not None:
        configuration["image_shape"] = list(dataset.image_shape)
    ends = (sigma_max, sigma_min)
    sample_emergence = generated_emergence_time(variances, *ends, fraction=fraction)
    first, last = float(sample_emergence[0]), float(sample_emergence[-1])
    durations = np.geomspace(first / 30, last * 3, NUM_DURATIONS)
    store = ResultStore(out, configuration)
    points, other = jnp.asarray(train.points), GaussianDenoiser.fit(held_out.points)

    def at(sigma: float) -> Arrays:
        level = jnp.asarray(sigma, points.dtype)
        key = jax.random.fold_in(key_of(seed), levels.index(sigma))
        curves = _losses(fit, other, level, jnp.asarray(durations, points.dtype))
        step = STEP / (variances[0] + level**2)
        gains = _descent(points, fit, level, step, num_steps, key)[:, :kept]
        return {
            "loss": curves / dataset.dim,
            "emergence": emergence_time(variances, sigma, fraction=fraction),
            "trained_emergence": _first_passage(gains, variances, sigma, fraction, float(step)),
        }

    parts = sweep(store, cells_of(at, (levels,), "sigma-{:g}", "noise level {:g}"), progress)
    laws = _laws(fit, jnp.asarray(durations, points.dtype), *ends)
    noises = jax.random.normal(key_of(seed), (num_samples, fit.dim), points.dtype)
    by_level = {name: by_cell(parts, name, len(levels)) for name in parts[0]}
    coords = {"sigma": list(levels), "duration": durations, "points": ["training", "held-out"]}
    return xarray.Dataset(
        {
            "variance": ("mode", np.asarray(variances)),
            "emergence": (("sigma", "mode"), by_level["emergence"]),
            "trained_emergence": (("sigma", "mode"), by_level["trained_emergence"]),
            "sample_emergence": ("mode", np.asarray(sample_emergence)),
            "generated_variance": (("duration", "mode"), laws.eigenvalues[:, :kept]),
            "loss": (("points", "sigma", "duration"), by_level["loss"].swapaxes(0, 1)),
            "samples": (("duration", "sample", "coordinate"), _samples(laws, noises)),
        },
        coords=coords,
        attrs=configuration,
    )


@eqx.filter_jit
def _losses(
    fit: GaussianDenoiser, other: GaussianDenoiser, level: Array, durations: Array
) -> Float[Array, "2 durations"]:
    def of(duration: Array) -> Array:
        D = TrainedLinearDenoiser.gradient_flow(fit, duration=duration, centred=True)
        return jnp.stack([D.loss(level), D.loss(level, other)])

    return jax.lax.map(of, durations).T


@eqx.filter_jit
def _laws(
    fit: GaussianDenoiser, durations: Array, sigma_max: float, sigma_min: float
) -> GaussianDenoiser:
    def of(duration: Array) -> GaussianDenoiser:
        D = TrainedLinearDenoiser.gradient_flow(fit, duration=duration, centred=True)
        return generated_law(D, sigma_max, sigma_min)

    return jax.vmap(of)(durations)


@eqx.filter_jit
def _samples(laws: GaussianDenoiser, noises: Float[Array, "k d"]) -> Float[Array, "times k d"]:
    """Of Gaussians with the same eigenvectors, which the flow takes the same noises to."""

    def of(law: GaussianDenoiser, noise: Array) -> Array:
        return law.mean + law.map_modes(noise, jnp.sqrt(law.eigenvalues), jnp.sqrt(law.complement))

    return jax.vmap(lambda law: jax.vmap(lambda noise: of(law, noise))(noises))(laws)


@eqx.filter_jit
def _descent(
    points: Float[Array, "n d"],
    fit: GaussianDenoiser,
    level: Array,
    step: Array,
    num_steps: int,
    key: PRNGKeyArray,
) -> Float[Array, "steps d"]:
    """Gains of the modes, after each step of descent with noise drawn anew, from zero."""
    x = points - fit.mean[None]

    def loss(parameters: tuple[Array, Array], noise: Array) -> Array:
        matrix, bias = parameters
        off = jnp.matmul(x + level * noise, matrix.T) + (bias + fit.mean)[None] - points
        return 0.5 * jnp.mean(jnp.sum(off**2, axis=1))

    def one(parameters, i):
        noise = jax.random.normal(jax.random.fold_in(key, i), points.shape, points.dtype)
        slopes = jax.grad(loss)(parameters, noise)
        parameters = jax.tree.map(lambda p, g: p - step * g, parameters, slopes)
        along = jnp.matmul(parameters[0], fit.basis)
        return parameters, jnp.sum(fit.basis * along, axis=0)

    start = (jnp.zeros((fit.dim, fit.dim), points.dtype), -fit.mean)
    return jax.lax.scan(one, start, jnp.arange(num_steps))[1]


def _first_passage(
    gains: Array, variances: Array, sigma: float, fraction: float, step: float
) -> np.ndarray:
    """Training time at which each mode first has the gain, between steps by a straight line.

    Of modes whose gain stands out of its own noise, the scatter about a line through the last quarter of the steps.
    """
    values = np.concatenate([np.zeros((1, gains.shape[1])), np.asarray(gains)])
    v = np.asarray(variances, np.float64)
    goal = fraction * v / (v + sigma**2)
    above = values >= goal[None]
    after, modes = np.argmax(above, axis=0), np.arange(len(goal))
    before = np.maximum(after - 1, 0)
    low, high = values[before, modes], values[after, modes]
    rise = np.where(high > low, high - low, 1)
    steps = before + np.clip((goal - low) / rise, 0, 1)
    late = values[len(values) * 3 // 4 :]
    place = np.linspace(-1, 1, len(late))
    scatter = np.std(late - np.polyval(np.polyfit(place, late, 1), place[:, None]), axis=0)
    known = above.any(axis=0) & (goal > LEAST_SIGNAL * scatter)
    return np.where(known, step * steps, np.nan)
