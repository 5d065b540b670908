"""When trained networks copy their training set: against its size, and against their own."""

import functools
import itertools
from typing import TYPE_CHECKING

from ..._checks import as_positive_integer
from ..._files.store import Arrays, ResultStore
from ..._kinds import checks_kinds
from ...learning import MLPArchitecture
from .._registry import experiment, settings_of
from .._sweep import sweep
from .figures import plot_memorization
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
    "memorization",
    "networks between copying and the Gaussian denoiser, by training points and by width",
    plot_memorization,
)
@checks_kinds
def memorization(
    *,
    data: str = "digits",
    num_train: tuple[int, ...] = (50, 200, 1000),
    widths: tuple[int, ...] = (32, 96, 384),
    widths_num_train: int = 200,
    num_layers: int = 4,
    num_steps: int = 20_000,
    levels: tuple[float, ...] = LEVELS,
    num_samples: int = 200,
    num_seeds: int = 1,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Networks between memorizing their training set and knowing its mean and covariance: by number of points, and by width.

    Every network is compared with the two closed forms of its own training set: the memorizing denoiser (the exact posterior
    mean, whose samples are training points) and the Gaussian one. That a network was trained on few points does not make it
    a memorizing one: look at `memorizes` before saying so. The number of steps is fixed, so that fewer points are seen more
    often (`epochs`), and what holds for this budget need not for a longer one.

    Meant for values in [-1, 1], which the noise levels of training and sampling suit.

    Args:
        data: name or path, see `smoothjax.datasets.load`.
        num_train: training points of the widest network. The sets of one seed are nested.
        widths: of the hidden layers, for networks trained on `widths_num_train` points.
        widths_num_train: see `widths`.
        num_layers: linear maps of every network.
        num_steps: gradient steps of every network.
        levels: noise levels at which denoisers are compared.
        num_samples: of each network, from noises common to all.
        num_seeds: replicates, each with its own split of the data, initial weights and training noise.
        seed: of the first one, and of the common noises.
        out: folder in which each finished network and its measures are kept.
        progress: show a progress bar.

    Returns:
        Over (run, seed), with coordinates `num_train`, `width`, `num_parameters` and `epochs` of the runs:

        - `memorized`: fraction of samples with a ratio below one third of the distances to the nearest and second nearest
          training point, `memorized_interval` (Wilson, 95%), the same of held-out points (`memorized_null`), and
          `memorizes`, whether more than half were;
        - `rmse` (pair, points, sigma) between the network and both references, and between these, a coordinate, about
          held-out and about training points; `gaussianity`, its index between the memorizing (0) and the Gaussian denoiser
          (1), which says nothing where not `gaussianity_meaningful`;
        - `linearity` and `linearity_centred` (denoiser, sigma), about held-out points;
        - `gaussian_cosine`: mean centred cosine of samples with those of the Gaussian denoiser from the same noise,
          `gaussian_cosine_shuffled` from different ones, and `gaussian_cosine_normalised` by that;
        - `samples`, `gaussian_samples`, and of each sample the `nearest` training point and its distance.

        Standard errors (`_se`) are over points or noises, for the given networks.

    Raises:
        ValueError: for sizes out of range, or too few data to hold some out.

    Source: Li, Dai and Qu 2024 (training-set size and capacity of the model); the ratio from Yoon et al. 2023.
    """
    dataset, description = load_with_description(data)
    require_sizes("num_train", num_train, 2)
    require_sizes("widths", widths)
    require_sizes("widths_num_train", (widths_num_train,), 2)
    seeds, largest = as_seeds(seed, num_seeds), max(widths)
    num_steps = as_positive_integer(num_steps, "num_steps")
    configuration = settings_of("memorization", locals()) | description
    runs = dict.fromkeys(
        [(n, largest) for n in num_train] + [(widths_num_train, width) for width in widths]
    )
    pool = max(n for n, _ in runs)
    replicates = benches(dataset, pool, levels, num_samples, seeds)
    store = ResultStore(out, configuration)

    def run(name: str, bench: Bench, n: int, width: int) -> Arrays:
        points = bench.pool[:n]
        architecture = MLPArchitecture(width, num_layers)
        folder = network_folder(out, name)
        network = train_network(points, architecture, bench.key, num_steps, folder)
        return {
            **bench.yardstick.samples(network, points),
            **bench.yardstick.curves(network, points),
        }

    cells = []
    for (n, width), i in itertools.product(runs, range(num_seeds)):
        name = f"points-{n}-width-{width}-seed-{seeds[i]}"
        compute = functools.partial(run, name, replicates[i], n, width)
        cells.append((name, f"{n} points, width {width}", compute))
    parts = sweep(store, cells, progress)
    sizes, sides = zip(*runs, strict=True)
    budget = num_steps * description["batch_size"]
    count = [num_parameters(MLPArchitecture(width, num_layers), dataset.dim) for width in sides]
    coords = {
        "run": [f"{n} points, width {width}" for n, width in runs],
        "num_train": ("run", list(sizes)),
        "width": ("run", list(sides)),
        "num_parameters": ("run", count),
        "epochs": ("run", [budget / n for n in sizes]),
        "seed": seeds,
        "sigma": list(levels),
    }
    shape = (len(runs), num_seeds)
    dims = SAMPLE_DIMS | CURVE_DIMS
    return labelled(parts, dims, ("run", "seed"), shape, coords, configuration)
