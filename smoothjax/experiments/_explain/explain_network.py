"""Which analytic denoiser explains a network: by their outputs at each noise level, and by samples from the same noises."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ... import mechanisms
from ..._checks import as_positive_integer, import_optional
from ..._files.checkpoint import fingerprint
from ..._files.store import Arrays, ResultStore
from ..._jax.blocks import in_batches
from ..._keys import key_of
from ..._kinds import checks_kinds
from ...datasets import Dataset, load
from ...denoisers import (
    Boundary,
    Denoiser,
    EquivariantLocalDenoiser,
    LocalDenoiser,
    PatchCompositeDenoiser,
    WienerMaskDenoiser,
)
from ...flows import initial_noise, sample
from ...learning import ConvolutionalArchitecture, MLPArchitecture, train_denoiser
from ...measures import (
    Estimate,
    PatchCalibration,
    calibrate_patch_size,
    determination_r2,
    pearson_r2,
    ratio_of_means,
    root_of_mean,
)
from .._data import train_and_held_out
from .._registry import experiment
from .figures import plot_explain_network
from .statistics import mean_interval

if TYPE_CHECKING:
    import xarray

NETWORK = "network"
CALIBRATED = ("local", "equivariant", "composite")
ANALYTIC = ("empirical", "gaussian", "mixture", *CALIBRATED, "wiener-mask")
MEASURES = {"determination": determination_r2, "pearson": pearson_r2}
CONFIDENCE = 0.95
# Queries of a local denoiser at a time: memory grows with it, and from here on time hardly falls.
BATCH_SIZE = 16


@experiment(
    "explain-network",
    "which analytic denoiser of the training set a trained network resembles, by noise level and by samples",
    plot_explain_network,
)
@checks_kinds
def explain_network(
    *,
    architecture: ConvolutionalArchitecture | MLPArchitecture = ConvolutionalArchitecture(32, 4),  # noqa: B008
    data: str = "digits",
    num_train: int = 1500,
    num_steps: int = 4000,
    levels: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
    patch_sizes: tuple[int, ...] = (1, 3, 5, 7),
    num_calibration: int = 32,
    num_evaluation: int = 128,
    num_noises: int = 1,
    num_samples: int = 64,
    equivariant_images: int = 1500,
    steps: int = 10,
    sigma_max: float = 20.0,
    sigma_min: float = 0.02,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Trains a network on images, and asks of seven analytic denoisers of its training set which one it resembles.

    The denoisers: `empirical` (memorizing), `gaussian`, `mixture` (a Gaussian for every class), `local`, `equivariant` and
    `composite` (patches), `wiener-mask`. Patch sizes are chosen at every noise level to match the network, on some of the
    held-out images; what is reported comes from others. Windows end at the border as the network's padding says: they wrap
    around for a circular one, and are clipped else.

    Two comparisons. Denoisers, at one noise level: root mean square difference from the network at held-out images plus
    noise. And samples, from the same initial noises by the same few deterministic steps: R squared of each pair of images.
    All samples have the mean image in common, which alone gives a large R squared, and so does the covariance: the Gaussian
    denoiser is the bar, and a denoiser clears it where the paired difference does.

    As it stands, about two and a half minutes of two cores, and the network has learned enough of the digits for the
    denoisers of patches to clear the bar: R squared of .90, .94 and .91 for `local`, `equivariant` and `composite`, .86 for
    `gaussian`. Denoiser by denoiser, `composite` is nearest at noise levels from 0.2 to 2, and `equivariant` above.

    The equivariant denoiser costs most: with n images of s x s pixels and patches of size P, `2 n s^4 P^2` operations for
    each query. On images of 28 x 28 pixels show it a hundred, and take few levels, images and samples: with `data` such a
    file, `architecture=ConvolutionalArchitecture(32, 5)`, `num_train=2000`, `num_steps=2500`, `levels=(0.1, 0.3, 1.0, 3.0)`,
    `patch_sizes=(3, 5, 9, 15)`, `num_calibration=8`, `num_evaluation=24`, `num_samples=16`, `equivariant_images=100`, ten
    minutes of processor time. On MNIST's test images R squared of the equivariant denoiser's samples is then 0.88 (0.84 to
    0.92), of the Gaussian's 0.34 (0.26 to 0.41), and of the others no larger.

    Args:
        architecture: of the network.
        data: a data set of images, by name or path, see `smoothjax.datasets.load`.
        num_train: training images, drawn at random.
        num_steps: of training; what the network has learned depends on it.
        levels: noise levels at which denoisers are compared, increasing, in the units of the data.
        patch_sizes: candidates, increasing; at most the side of the images.
        num_calibration, num_evaluation: held-out images, for the choice of patch sizes and for what is reported.
        num_noises: noises of each image of the evaluation; they count as one observation.
        num_samples: of each denoiser.
        equivariant_images: the first so many training images are all that the equivariant denoiser sees.
        steps, sigma_max, sigma_min: of the sampler, `steps` calls of the denoiser (DDIM) on EDM's grid, the last at
            `sigma_min`; see `smoothjax.sample`.
        seed: of the split, the training, and all noises.
        out: folder in which the training and each finished part are kept.
        progress: show a progress bar.

    Returns:
        Over (denoiser, sigma), at held-out images:

        - `rmse` from the network, a coordinate, in the units of the data (over sigma^2: of scores), and `rmse_se`;
        - `nmse`: mean square difference over that of the network from the training mean, and `nmse_se`;
        - `squared_difference` (denoiser, sigma, image): of which `rmse` is the root of the mean, for comparisons in pairs.

        Over sigma:

        - `closest`, the denoiser of least `rmse`, and `closest_is_clear`, whether each other one is farther by a paired 95 %
          interval of the mean square difference (each at 95 %: not adjusted for their number). For patches of one pixel
          `local` and `composite` are the same denoiser, and neither is clear;
        - `reference_rmse`, between `empirical` and `gaussian`, and `reference_rmse_se`. Where the network is farther from
          both than they are from each other, nearness to either says nothing.

        `patch_size` (calibrated, sigma), of least `calibration_rmse` (calibrated, sigma, candidate).

        `samples` (model, sample, coordinate), of the network and the denoisers. Over (measure, denoiser), the measure being
        the coefficient of `determination` or the squared `pearson` correlation of an image with the network's:

        - `r2` (..., sample), `mean_r2`, and `r2_interval` (..., end), 95 % for the mean over images;
        - `difference`, mean of the differences from the Gaussian denoiser's, and `difference_interval`, paired by noise;
        - `clears_gaussian`, whether that interval lies above zero.

        `loss` (step) of the training. Standard errors and intervals (Student's t) are over images and noises, for the
        network, the training set and the patch sizes at hand.

    Raises:
        ValueError: for data that are no images, too few held-out ones, or sizes and levels out of range.

    Source: Li, Dai and Qu 2024 (difference of score fields; 10 Euler steps); Kamb and Ganguli 2025 (patch sizes calibrated
    against the network, R squared of samples); Niedoba et al. 2024; Lukoianov et al. 2025 (R squared, with the Gaussian
    denoiser to beat).
    """
    dataset = load(data)
    if dataset.image_shape is None:
        raise ValueError(f"`data` must be images; {dataset.name!r} holds points.")
    train, held_out = train_and_held_out(dataset, num_train=num_train, seed=seed)
    measurement: dict[str, Any] = {
        "levels": levels,
        "patch_sizes": patch_sizes,
        "num_calibration": num_calibration,
        "num_evaluation": num_evaluation,
        "num_noises": num_noises,
        "num_samples": num_samples,
        "equivariant_images": equivariant_images,
        "steps": steps,
        "sigma_max": sigma_max,
        "sigma_min": sigma_min,
        "seed": seed,
    }
    configuration = {
        "experiment": "explain-network",
        "architecture": repr(architecture),
        "data": dataset.name,
        "fingerprint": fingerprint(dataset.points),
        "num_train": num_train,
        "num_steps": num_steps,
        **measurement,
    }
    store = ResultStore(out, configuration)
    circular = getattr(architecture, "padding", None) == "circular"
    _check(train, held_out, **measurement)
    run = train_denoiser(
        train.points,
        architecture,
        jax.random.fold_in(key_of(seed), 0),
        num_steps=num_steps,
        image_shape=train.image_shape,
        out=None if out is None else os.fspath(Path(out) / NETWORK),
        progress=progress,
    )
    results = explain_denoiser(
        run.model,
        train,
        held_out,
        boundary="circular" if circular else "clipped",
        store=store,
        progress=progress,
        **measurement,
    )
    return results.assign(loss=("step", np.asarray(run.losses))).assign_attrs(configuration)


def _check(
    train: Dataset,
    held_out: Dataset,
    levels: Sequence[float],
    patch_sizes: Sequence[int],
    num_calibration: int,
    num_evaluation: int,
    num_samples: int,
    **others: Any,
) -> None:
    """What would be noticed only after the training, or not at all."""
    if train.image_shape is None:
        raise ValueError(f"The training points must be images; {train.name!r} holds points.")
    for name, sizes in (("levels", levels), ("patch_sizes", patch_sizes)):
        if not (len(sizes) and sizes[0] > 0 and np.all(np.diff(sizes) > 0)):
            raise ValueError(f"`{name}` must be positive and increase strictly; got {sizes}.")
    side = min(train.image_shape[:2])
    if patch_sizes[-1] > side:
        raise ValueError(
            f"`patch_sizes` must not exceed the images' side {side}; got {patch_sizes}."
        )
    # One observation has no standard error.
    few = {"num_calibration": num_calibration, "num_evaluation": num_evaluation}
    for name, num in (few | {"num_samples": num_samples}).items():
        if as_positive_integer(num, name) < 2:
            raise ValueError(f"`{name}` must be at least 2; got {num}.")
    if num_calibration + num_evaluation > len(held_out):
        raise ValueError(
            "`num_calibration` and `num_evaluation` must not exceed the held-out images together; "
            f"got {num_calibration} and {num_evaluation} of {len(held_out)}."
        )
    for name in ("num_noises", "equivariant_images"):
        as_positive_integer(others[name], name)


def explain_denoiser(
    network: Denoiser,
    train: Dataset,
    held_out: Dataset,
    *,
    levels: Sequence[float],
    patch_sizes: Sequence[int],
    num_calibration: int,
    num_evaluation: int,
    num_noises: int,
    num_samples: int,
    equivariant_images: int,
    steps: int,
    sigma_max: float,
    sigma_min: float,
    seed: int,
    boundary: Boundary,
    store: ResultStore,
    progress: bool,
) -> "xarray.Dataset":
    """The comparisons of `explain_network` for any denoiser of images; arguments and results as there."""
    xarray = import_optional("xarray")
    assert train.image_shape is not None
    images, dtype = train.points.reshape(-1, *train.image_shape), train.points.dtype
    grid = jnp.asarray(levels, dtype)
    # A key for each use, so that no part's numbers depend on which parts were computed before.
    calibration_key, field_key, sample_key = (
        jax.random.fold_in(key_of(seed), i) for i in (1, 2, 3)
    )
    clean = held_out.points[num_calibration : num_calibration + num_evaluation]
    noise = initial_noise(field_key, num_evaluation * num_noises, train.dim, dtype=dtype)
    noise = noise.reshape(num_evaluation, num_noises, train.dim)
    build: dict[str, Callable[[int], Denoiser]] = {
        "local": lambda size: LocalDenoiser(images, size, boundary, layout="hwc"),
        "equivariant": lambda size: EquivariantLocalDenoiser(
            images[:equivariant_images], size, boundary
        ),
        "composite": lambda size: PatchCompositeDenoiser(images, size, layout="hwc"),
    }

    def calibrated(name: str) -> PatchCalibration:
        def compute() -> Arrays:
            points = held_out.points[:num_calibration]
            found = calibrate_patch_size(
                *(build[name], network, points, grid, patch_sizes, calibration_key),
                batch_size=BATCH_SIZE,
            )
            return {"rmse": found.errors.value, "rmse_se": found.errors.standard_error}

        part = store.get(f"calibration-{name}", compute)
        return PatchCalibration(tuple(patch_sizes), grid, Estimate(part["rmse"], part["rmse_se"]))

    def denoiser(name: str) -> Denoiser:
        if name == NETWORK:
            return network
        if name in build:
            return calibrated(name).schedule(build[name])
        if name == "wiener-mask":
            return WienerMaskDenoiser(images, layout="hwc")
        return mechanisms.get(name).build(train, seed)

    def field(name: str) -> Arrays:
        return {"outputs": _outputs(denoiser(name), clean, noise, grid)}

    # The same starting states for all.
    common_mean = jnp.mean(jnp.asarray(train.points), axis=0)

    def samples(name: str) -> Arrays:
        drawn = sample(
            denoiser(name),
            sample_key,
            num_samples,
            shape_or_dim=train.dim,
            sigma_max=sigma_max,
            sigma_min=sigma_min,
            solver=diffrax.Euler(),
            steps=steps,
            mean=common_mean,
            batch_size=BATCH_SIZE,
            dtype=dtype,
        )
        return {"samples": drawn}

    jobs: list[tuple[str, Callable[[], Any]]] = [
        (f"calibration-{name}", lambda name=name: calibrated(name)) for name in CALIBRATED
    ]
    for stage, compute in (("field", field), ("samples", samples)):
        for name in (NETWORK, *ANALYTIC):
            part = f"{stage}-{name}"
            job = lambda part=part, compute=compute, name=name: store.get(  # noqa: E731
                part, lambda: compute(name)
            )
            jobs.append((part, job))
    bar = import_optional("tqdm").tqdm(jobs, disable=None if progress else True)
    found: dict[str, Any] = {}
    for part, job in bar:
        bar.set_description(part)
        found[part] = job()

    calibrations = [found[f"calibration-{name}"] for name in CALIBRATED]
    drawn = np.stack([found[f"samples-{name}"]["samples"] for name in (NETWORK, *ANALYTIC)])
    outputs = {
        name: jnp.asarray(found[f"field-{name}"]["outputs"]) for name in (NETWORK, *ANALYTIC)
    }
    variables = {
        **_field_errors(outputs, jnp.mean(train.points, axis=0)),
        **_sample_agreement(jnp.asarray(drawn[0]), jnp.asarray(drawn[1:])),
        "samples": (("model", "sample", "coordinate"), drawn),
        "patch_size": (("calibrated", "sigma"), np.array([c.best for c in calibrations])),
        "calibration_rmse": (
            ("calibrated", "sigma", "candidate"),
            np.stack([np.asarray(c.errors.value) for c in calibrations]),
        ),
    }
    return xarray.Dataset(
        variables,
        coords={
            "denoiser": list(ANALYTIC),
            "model": [NETWORK, *ANALYTIC],
            "calibrated": list(CALIBRATED),
            "sigma": list(levels),
            "candidate": list(patch_sizes),
            "measure": list(MEASURES),
            "end": ["low", "high"],
        },
        attrs={
            "image_shape": train.image_shape,
            "pixel_range": (float(images.min()), float(images.max())),
        },
    )


@eqx.filter_jit
def _outputs(
    denoiser: Denoiser,
    clean: Float[Array, "n d"],
    noise: Float[Array, "n noises d"],
    levels: Float[Array, " levels"],
) -> Float[Array, "levels n noises d"]:
    """What the denoiser makes of noisy images. One level at a time, which the local denoisers are told to expect."""

    def at(sigma: Array) -> Array:
        u = (clean[:, None] + sigma * noise).reshape(-1, clean.shape[1])
        values = in_batches(lambda i: denoiser(u[i], sigma), len(u), BATCH_SIZE)
        return values.reshape(noise.shape)

    return jax.lax.map(at, levels)


@eqx.filter_jit
def _differences(
    outputs: dict[str, Array], centre: Float[Array, " d"]
) -> tuple[Float[Array, "denoisers levels n"], Estimate, Estimate, Estimate]:
    """Of arrays (levels, n, noises, d): mean squares for each image, and root mean squares, normalised and of reference."""
    network = outputs[NETWORK]

    def squares(a: Array, b: Array) -> Float[Array, "levels n"]:
        return jnp.mean((a - b) ** 2, axis=(-2, -1))

    from_network = jnp.stack([squares(outputs[name], network) for name in ANALYTIC])
    root = jax.vmap(lambda values: root_of_mean(values, 2))
    normalised = jax.vmap(jax.vmap(ratio_of_means), (0, None))
    return (
        from_network,
        jax.vmap(root)(from_network),
        normalised(from_network, squares(network, centre[None, None, None])),
        root(squares(outputs["empirical"], outputs["gaussian"])),
    )


def _field_errors(outputs: dict[str, Array], centre: Float[Array, " d"]) -> dict[str, Any]:
    """Differences from the network, and which denoiser is closest to it."""
    from_network, rmse, nmse, reference = _differences(outputs, centre)
    best = np.argmin(np.asarray(rmse.value), axis=0)
    excess = from_network - from_network[best, jnp.arange(len(best))][None]
    others = np.arange(len(ANALYTIC))[:, None] != best
    low = mean_interval(np.asarray(excess, np.float64), CONFIDENCE)[..., 0]
    dims = ("denoiser", "sigma")
    return {
        "rmse": (dims, rmse.value),
        "rmse_se": (dims, rmse.standard_error),
        "nmse": (dims, nmse.value),
        "nmse_se": (dims, nmse.standard_error),
        "squared_difference": ((*dims, "image"), from_network),
        "reference_rmse": ("sigma", reference.value),
        "reference_rmse_se": ("sigma", reference.standard_error),
        "closest": ("sigma", np.array(ANALYTIC)[best]),
        "closest_is_clear": ("sigma", np.all((low > 0) | ~others, axis=0)),
    }


@eqx.filter_jit
def _r2(
    network: Float[Array, "samples d"], analytic: Float[Array, "denoisers samples d"]
) -> Float[Array, "measures denoisers samples"]:
    each = [
        jax.vmap(jax.vmap(measure), (0, None))(analytic, network) for measure in MEASURES.values()
    ]
    return jnp.stack(each)


def _sample_agreement(
    network: Float[Array, "samples d"], analytic: Float[Array, "denoisers samples d"]
) -> dict[str, Any]:
    """R squared of images from the same noise, image by image, its means, and their differences from the Gaussian's."""
    r2 = np.asarray(_r2(network, analytic), np.float64)
    gaussian = ANALYTIC.index("gaussian")
    difference = r2 - r2[:, gaussian, None]
    difference_interval = mean_interval(difference, CONFIDENCE)
    dims = ("measure", "denoiser")
    return {
        "r2": ((*dims, "sample"), r2),
        "mean_r2": (dims, r2.mean(axis=-1)),
        "r2_interval": ((*dims, "end"), mean_interval(r2, CONFIDENCE)),
        "difference": (dims, difference.mean(axis=-1)),
        "difference_interval": ((*dims, "end"), difference_interval),
        "clears_gaussian": (dims, difference_interval[..., 0] > 0),
    }
