"""The command that trains a network on N points for a fixed budget, samples it, and says how much it copies."""

import dataclasses
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import Positional

from .. import datasets, learning
from .._checks import as_positive_integer, require_positive
from .._figure import COLOURS, new_figure
from .._files.output import held, require_folder, write_bytes, write_figures
from .._files.store import MANIFEST
from .._jax.precision import computing_in
from .._keys import key_of
from ..datasets import Dataset
from ..experiments import train_and_held_out
from ..flows import sample
from ..measures import memorization_fraction, nearest_neighbours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_COLUMNS, MAX_ROWS = 16, 8
SAMPLES = "samples.npz"


def refuse_data_in(data: str, out: Path) -> None:
    """Raises `ValueError` where results would land among the data, or in their place."""
    if not data or data in datasets.names():
        return
    try:
        source, folder = Path(data).resolve(), out.resolve()
        is_folder = source.is_dir()
    except (OSError, RuntimeError, ValueError):  # what is wrong with it, loading it says
        return
    if is_folder and (folder == source or source in folder.parents):
        raise ValueError(
            f"`out` must not lie in the folder of the data, whose images its figures would join; got '{out}' for "
            f"'{data}'. Choose another folder."
        )
    if source == folder / SAMPLES or source.parent == folder / "parts":
        raise ValueError(
            f"`out` must not be where the data are, a file that results would replace; got '{out}' for '{data}'. "
            "Choose another folder."
        )


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a network on a data set, sample it, and measure how much of the training set it copies."""

    data: Positional[str] = "digits"
    """A named set (see `smoothjax list`), or a path: .npy, .npz, idx(.gz) or a folder of images."""
    out: Path = Path("runs/train")
    """Folder for checkpoint, samples and figures. A job that was killed goes on where it was."""
    num_train: int | None = None
    """Training points, drawn at random; the others are held out. Five sixths by default."""
    network: Literal["mlp", "convolutional"] = "mlp"
    """A residual MLP, or 3 x 3 convolutions (of images)."""
    width: int | None = None
    """Units of the MLP's hidden layers (default 384), or channels of the convolutions (32)."""
    num_layers: int | None = None
    """Linear maps of the MLP (default 4), or convolutions (6)."""
    padding: Literal["zeros", "circular"] = "zeros"
    """Beyond the border of images: zeros show where the border is, circular padding is translation-equivariant."""
    steps: int = 10_000
    """Gradient steps: the training budget."""
    batch_size: int = 64
    """Of each step."""
    learning_rate: float = 2e-3
    """At the start; falls to zero as a cosine."""
    ema_decay: float = 0.998
    """Of the moving average of the parameters that is sampled."""
    p_mean: float = learning.P_MEAN
    """Mean of the log noise level in training."""
    p_std: float = learning.P_STD
    """Its standard deviation."""
    num_samples: int = 200
    """Samples of the trained network."""
    sampler_steps: int = 40
    """Noise levels of EDM's Heun sampler."""
    sigma_max: float | None = None
    """Its first noise level; by default 2.25 standard deviations above the mean of training: 20."""
    sigma_min: float = 0.002
    """Its last noise level."""
    seed: int = 0
    """Of the split and of every random number."""
    layout: Literal["hwc", "chw"] | None = None
    """Of an array with four axes: channels last (hwc, the default) or first (chw, as PyTorch has images)."""
    precision: Literal["float32", "float64"] = "float32"
    """Of the data and all computations."""
    quiet: bool = False
    """Say nothing of how far the job is: no bar on a terminal, no lines elsewhere."""

    def run(self) -> int:
        """Trains, samples, saves and prints; returns the exit status."""
        # The module of all commands imports this one.
        with computing_in(self.precision):
            return self._run()

    def _architecture(self) -> learning.MLPArchitecture | learning.ConvolutionalArchitecture:
        if self.network == "mlp":
            if self.padding != "zeros":
                raise ValueError(f"`padding` is for convolutions; got {self.padding!r} for an MLP.")
            default = learning.MLPArchitecture()
            width = default.width if self.width is None else self.width
        else:
            default = learning.ConvolutionalArchitecture()
            width = default.channels if self.width is None else self.width
        num_layers = default.num_layers if self.num_layers is None else self.num_layers
        if self.network == "mlp":
            return learning.MLPArchitecture(width, num_layers)
        return learning.ConvolutionalArchitecture(width, num_layers, self.padding)

    def _first_level(self) -> float:
        if self.sigma_max is None:
            return math.exp(self.p_mean + 2.25 * self.p_std)
        return self.sigma_max

    def _check(self) -> None:
        """What would be noticed only after the training, or not at all."""
        require_folder(self.out)
        refuse_data_in(self.data, self.out)
        for name in ("steps", "num_samples", "sampler_steps", "width"):
            if getattr(self, name) is not None:
                as_positive_integer(getattr(self, name), name)
        if self.sampler_steps < 2:
            raise ValueError(f"`sampler_steps` must be at least 2; got {self.sampler_steps}.")
        high = self._first_level()
        for name, level in (("sigma_max", high), ("sigma_min", self.sigma_min)):
            require_positive(level, name)
        if self.sigma_min >= high:
            raise ValueError(
                f"`sigma_min` must lie below `sigma_max`; got {self.sigma_min} and {high}."
            )
        if (self.out / MANIFEST).exists():
            raise ValueError(
                f"{self.out} holds a comparison or an experiment, whose files a training would replace. "
                "Choose another folder."
            )

    def _run(self) -> int:
        self._check()
        dataset = datasets.load(self.data, seed=self.seed, dtype=self.precision, layout=self.layout)
        train, held_out = train_and_held_out(dataset, num_train=self.num_train, seed=self.seed)
        if len(train) < 2:
            raise ValueError(
                f"`data` must hold at least two training points, to tell copies by; '{train.name}' holds one."
            )
        with held(self.out):
            return self._train(train, held_out)

    def _train(self, train: Dataset, held_out: Dataset) -> int:
        fit, draw = jax.random.split(key_of(self.seed))
        run = learning.train_denoiser(
            train.points,
            self._architecture(),
            fit,
            num_steps=self.steps,
            image_shape=train.image_shape,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            ema_decay=self.ema_decay,
            p_mean=self.p_mean,
            p_std=self.p_std,
            out=self.out,
            progress=not self.quiet,
        )
        samples = sample(
            run.model,
            draw,
            self.num_samples,
            sigma_max=self._first_level(),
            sigma_min=self.sigma_min,
            steps=self.sampler_steps,
        )
        copied = memorization_fraction(samples, train.points, null=held_out.points)
        buffer = io.BytesIO()
        np.savez(buffer, samples=np.asarray(samples), losses=np.asarray(run.losses))
        write_bytes(self.out / SAMPLES, buffer.getvalue())
        figures = {"loss": plot_losses(np.asarray(run.losses))}
        if train.image_shape is not None:
            figures["samples"] = plot_grid(np.asarray(samples), train)
        write_figures(self.out, figures, dpi=160)
        print(
            f"{len(train)} training points of '{train.name}', {self.steps} steps of batch {self.batch_size}",
            f"Loss, mean of the last tenth: {float(np.mean(run.losses[-max(1, self.steps // 10) :])):.4f}",
            f"Memorised: {copied} (samples, then held-out points)",
            f"Denoiser: smoothjax.learning.load_denoiser({str(self.out)!r})",
            sep="\n",
        )
        return 0


def plot_losses(losses: np.ndarray) -> "Figure":
    """The loss of every step, and its mean over runs of a fiftieth of them."""
    figure, axes = new_figure(1, 1, (7, 3.6))
    ax, steps = axes[0, 0], np.arange(1, len(losses) + 1)
    ax.plot(steps, losses, color="#BBBBBB", lw=0.6, label="one batch")
    blocks = np.array_split(np.arange(len(losses)), min(50, len(losses)))
    ends = [block[-1] + 1 for block in blocks]
    means = [losses[block].mean() for block in blocks]
    ax.plot(ends, means, color=COLOURS[0], label="mean since the last dot", marker=".")
    ax.set_yscale("log")
    ax.set_xlabel("step")
    ax.set_ylabel("loss (1: no better than a multiple of u)")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    return figure


def plot_grid(samples: np.ndarray, train: Dataset) -> "Figure":
    """Rows of samples, each over a row of their nearest training images."""
    assert train.image_shape is not None
    height, width, channels = train.image_shape
    columns = min(MAX_COLUMNS, len(samples))
    rows = min(MAX_ROWS, len(samples) // columns)
    shown, known = samples[: rows * columns], np.asarray(train.points)
    neighbours = nearest_neighbours(jnp.asarray(shown), train.points, 1)[1][:, 0]
    nearest = known[np.asarray(neighbours)]
    low, high = known.min(), known.max()
    # One picture: hundreds of axes take longer to draw than the network to sample.
    tiles = np.ones((rows, 2, columns, height + 1, width + 1, channels))
    for i, images in enumerate((shown, nearest)):
        pixels = np.clip((images - low) / (high - low), 0, 1)
        tiles[:, i, :, :height, :width] = pixels.reshape(rows, columns, *train.image_shape)
    # White lines between pictures, and a wider one between pairs of rows.
    picture = tiles.transpose(0, 1, 3, 2, 4, 5).reshape(rows, 2 * (height + 1), -1, channels)
    picture = np.pad(picture, ((0, 0), (0, 2), (0, 0), (0, 0)), constant_values=1.0)
    picture = picture.reshape(-1, *picture.shape[2:])[:-2]
    # Few pictures need not fill the width, of which the title takes six inches.
    inches = min(9, 1.2 * columns)
    size = (max(6, inches), 0.3 + inches * picture.shape[0] / picture.shape[1])
    figure, axes = new_figure(1, 1, size)
    ax = axes[0, 0]
    ax.imshow(picture.squeeze(-1) if channels == 1 else picture, cmap="gray", vmin=0, vmax=1)
    ax.set_axis_off()
    ax.set_title(
        f"Samples, and below each row the nearest of {len(train)} training images ({train.name})",
        fontsize=9,
    )
    return figure
