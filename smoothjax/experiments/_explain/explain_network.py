"""Which analytic denoiser explains a network that the library trains: `explain`, from the data alone."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from ..._keys import key_of
from ..._kinds import checks_kinds
from ...datasets import load
from ...learning import ConvolutionalArchitecture, MLPArchitecture, train_denoiser
from .._data import train_and_held_out
from .._registry import experiment
from .explain import explain
from .figures import plot_explanation
from .settings import NETWORK, ExplainSettings

if TYPE_CHECKING:
    import xarray

# Of patches, and whose windows end at the border as the network's padding says.
WITH_BORDERS = ("local", "equivariant-local")


@experiment(
    "explain-network",
    "which analytic denoiser of the training set a trained network resembles, by noise level and by samples",
    plot_explanation,
)
@checks_kinds
def explain_network(
    *,
    architecture: ConvolutionalArchitecture | MLPArchitecture = ConvolutionalArchitecture(32, 4),  # noqa: B008
    data: str = "digits",
    num_train: int = 1500,
    num_steps: int = 4000,
    levels: tuple[float, ...] = (),
    patch_sizes: tuple[int, ...] = (1, 3, 5, 7),
    num_calibration: int = 32,
    num_evaluation: int = 128,
    num_samples: int = 64,
    steps: int = 10,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Trains a network on images, and asks of seven analytic denoisers of its training set which one it resembles.

    A use of `smoothjax.explain`, which says what is measured, with a network of `smoothjax.train_denoiser`. The denoisers:
    `empirical` (memorising), `gaussian`, `mixture`, `local`, `equivariant-local` and `patch-composite` (patches),
    `wiener-mask`, each at the strength that fits at a noise level. Windows end at the border as the network's padding says:
    for a circular one they wrap around (`local-circular`, `equivariant-local-circular`), and they are clipped else.

    As it stands, some four minutes of processor time, and the network has learned enough of the digits for the denoisers of
    patches to clear the bar: R squared of its samples is .91, .93 and .93 for `local`, `equivariant-local` and
    `patch-composite`, .88 for `gaussian`. Nearest at a noise level is `patch-composite` alone from 0.26 to 2.5, and
    `equivariant-local` at 5.4; at the lowest, none.

    The equivariant denoiser costs most: with n images of s x s pixels and patches of size P, up to `2 n s^4 P^2` operations
    for each query. On images of 28 x 28 pixels take few levels, images and samples: with `data` such a file,
    `num_train=2000`, `num_steps=2500`, `levels=(0.1, 0.3, 1.0, 3.0)`, `patch_sizes=(3, 5, 9, 15)`, `num_calibration=8`,
    `num_evaluation=24`, `num_samples=16`, twenty minutes of processor time and 3.4 GB. On MNIST's test images the network
    is then `equivariant-local` alone at all four levels, and R squared of its samples is .84, of the others' at most .15.

    Args:
        architecture: of the network.
        data: a data set of images, by name or path, see `smoothjax.datasets.load`.
        num_train: training images, drawn at random.
        num_steps: of training; what the network has learned depends on it.
        levels: noise levels at which denoisers are compared, increasing, in the units of the data. By default eight from a
            twentieth to ten times the data's standard deviation a coordinate.
        patch_sizes: candidates, increasing; at most the side of the images.
        num_calibration, num_evaluation: held-out images, for the choice of strengths and for what is reported.
        num_samples: of each denoiser.
        steps: denoiser calls of each sample.
        seed: of the split, the training, and all noises.
        out: folder in which the training and each finished part are kept.
        progress: show how far it is: a bar on a terminal, lines elsewhere.

    Returns:
        `smoothjax.Explanation.dataset`, and `loss` (step) of the training.

    Raises:
        ValueError: for data that are no images, too few held-out ones, or sizes and levels out of range.

    Source: Li, Dai and Qu 2024 (difference of score fields; 10 Euler steps); Kamb and Ganguli 2025 (patch sizes calibrated
    against the network, R squared of samples); Niedoba et al. 2024; Lukoianov et al. 2025 (R squared, with the Gaussian
    denoiser to beat).
    """
    dataset = load(data)
    if dataset.image_shape is None:
        raise ValueError(f"`data` must be images; {dataset.name!r} holds points.")
    side = min(dataset.image_shape[:2])
    if not (len(patch_sizes) and patch_sizes[0] >= 1 and patch_sizes[-1] <= side):
        raise ValueError(
            f"`patch_sizes` must lie between 1 and the images' side {side}; got {patch_sizes}."
        )
    tail = "-circular" if getattr(architecture, "padding", None) == "circular" else ""
    of_patches = (*(f"{name}{tail}" for name in WITH_BORDERS), "patch-composite")
    settings = ExplainSettings(
        levels=levels,
        candidates=("empirical", "gaussian", "mixture", *of_patches, "wiener-mask"),
        strengths=dict.fromkeys(of_patches, patch_sizes),
        num_calibration=num_calibration,
        num_evaluation=num_evaluation,
        num_samples=num_samples,
        steps=steps,
        seed=seed,
    )
    train, held_out = train_and_held_out(dataset, num_train=num_train, seed=seed)
    # What would be noticed only after the training.
    settings.suited_to(train, held_out)
    run = train_denoiser(
        train.points,
        architecture,
        jax.random.fold_in(key_of(seed), 0),
        num_steps=num_steps,
        image_shape=train.image_shape,
        out=None if out is None else os.fspath(Path(out) / NETWORK),
        progress=progress,
    )
    found = explain(run.model, train, held_out, settings, out=out, progress=progress)
    return found.dataset.assign(loss=("step", np.asarray(run.losses)))
