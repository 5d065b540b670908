"""What a network passes through on its way to memorizing: first the Gaussian denoiser, then copies."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..._checks import as_positive_integer
from ..._files.store import Arrays, ResultStore
from ..._kinds import checks_kinds
from ..._progress import progress_bar
from ...learning import MLPArchitecture
from .._registry import experiment, settings_of
from .figures import plot_emergence
from .networks import (
    CURVE_DIMS,
    LEVELS,
    SAMPLE_DIMS,
    Bench,
    as_seeds,
    benches,
    labelled,
    load_with_description,
    network_folder,
    num_parameters,
    require_sizes,
    train_network,
)

if TYPE_CHECKING:
    import xarray


@experiment(
    "emergence",
    "a network on few points while it trains: the Gaussian denoiser first, copies later",
    plot_emergence,
)
@checks_kinds
def emergence(
    *,
    data: str = "digits",
    num_train: int = 50,
    steps: tuple[int, ...] = (100, 300, 1000, 2000, 5000, 10_000, 20_000),
    width: int = 384,
    num_layers: int = 4,
    levels: tuple[float, ...] = LEVELS,
    num_samples: int = 200,
    num_seeds: int = 2,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """A network on few points, looked at while it trains: how near to the Gaussian denoiser it comes before it memorizes.

    The steps are of one training, whose learning rate falls to zero as a cosine at the last of them; a network that is
    trained for as many steps in all has another schedule. The networks are those of averaged parameters.

    Meant for values in [-1, 1], which the noise levels of training and sampling suit.

    Args:
        data: name or path, see `smoothjax.datasets.load`.
        num_train: training points.
        steps: at which the network is measured, ascending; the last ends the training.
        width, num_layers: of the network.
        levels: noise levels at which denoisers are compared.
        num_samples: at each step, from noises common to all.
        num_seeds: replicates, each with its own split of the data, initial weights and training noise.
        seed: of the first one, and of the common noises.
        out: folder in which every step's network and measures are kept.
        progress: show a progress bar.

    Returns:
        Over (seed, step), what `memorization` returns over its runs: the memorized fraction beside its null, distances to
        the Gaussian and the memorizing denoiser of the training set, the index between these, linearity, and similarity
        of samples with those of the Gaussian denoiser. `epochs` is a coordinate of the steps.

    Raises:
        ValueError: for sizes out of range, steps that do not ascend, or too few data to hold some out.

    Source: Li, Dai and Qu 2024 (early stopping).
    """
    dataset, description = load_with_description(data)
    require_sizes("num_train", (num_train,), 2)
    require_sizes("steps", steps)
    if list(steps) != sorted(steps):
        raise ValueError(f"`steps` must ascend; got {steps}.")
    architecture = MLPArchitecture(as_positive_integer(width, "width"), num_layers)
    seeds = as_seeds(seed, num_seeds)
    configuration = settings_of("emergence", locals()) | description
    configuration["num_parameters"] = num_parameters(architecture, dataset.dim)
    replicates = benches(dataset, num_train, levels, num_samples, seeds)
    store = ResultStore(out, configuration)
    bar = progress_bar(shown=progress, total=num_seeds * len(steps))

    def measure(bench: Bench, step: int, folder: Path | None) -> Arrays:
        # One training, under the schedule of all steps, that goes on from where it was last looked at.
        training = (bench.pool, architecture, bench.key, steps[-1])
        network = train_network(*training, folder, stop=step)
        return {
            **bench.yardstick.samples(network, bench.pool),
            **bench.yardstick.curves(network, bench.pool),
        }

    parts = []
    with tempfile.TemporaryDirectory() as scratch:
        for bench, s in zip(replicates, seeds, strict=True):
            folder = network_folder(scratch if out is None else out, f"seed-{s}")
            for step in steps:
                bar.set_description(f"seed {s}, step {step}")
                cell = (bench, step, folder)
                parts.append(store.get(f"seed-{s}-step-{step}", lambda cell=cell: measure(*cell)))
                bar.update()
    bar.close()
    epochs = [step * description["batch_size"] / num_train for step in steps]
    coords = {
        "seed": seeds,
        "step": list(steps),
        "epochs": ("step", epochs),
        "sigma": list(levels),
    }
    shape = (num_seeds, len(steps))
    dims = SAMPLE_DIMS | CURVE_DIMS
    return labelled(parts, dims, ("seed", "step"), shape, coords, configuration)
