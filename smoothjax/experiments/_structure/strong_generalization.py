"""Whether networks of disjoint data generate the same, and how much of that two Gaussians would explain."""

import functools
import itertools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ..._checks import as_positive_integer
from ..._files.store import Arrays, ResultStore
from ..._kinds import checks_kinds
from ...learning import MLPArchitecture
from ...measures import strong_generalization as compare_halves
from .._registry import experiment, settings_of
from .._sweep import sweep
from .figures import plot_strong_generalization
from .networks import (
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

HALVES = ("first", "second")
MODELS = ("networks", "gaussians")
_DIMS = {
    **{name: ("half", *own) for name, own in SAMPLE_DIMS.items()},
    **dict.fromkeys(
        [
            f"{name}{suffix}"
            for name in ("cosine", "shuffled_cosine", "normalised_cosine", "rms", "shuffled_rms")
            for suffix in ("", "_se")
        ],
        ("model",),
    ),
    "excess_cosine": (),
    "excess_cosine_se": (),
    "neighbour_cosine": ("half",),
    "neighbour_cosine_se": ("half",),
    "nearer_each_other": (),
    "nearer_each_other_se": (),
}


@experiment(
    "strong-generalization",
    "whether networks of disjoint data generate the same, beside their Gaussians",
    plot_strong_generalization,
)
@checks_kinds
def strong_generalization(
    *,
    data: str = "digits",
    num_train: tuple[int, ...] = (50, 200, 800),
    early_steps: tuple[int, ...] = (300, 1000),
    width: int = 384,
    num_layers: int = 4,
    num_steps: int = 10_000,
    num_samples: int = 200,
    num_seeds: int = 1,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Pairs of networks, of disjoint training sets and different seeds: do they generate the same from the same noise?

    Agreement by itself is not yet learning of more than a Gaussian: the Gaussian denoisers of the two sets agree as well,
    and more. Every pair is shown beside these, beside samples of different noises, and beside each network's likeness with
    its own nearest training points. Pairs of the smallest sets are also trained for `early_steps` only, on a schedule of
    that length.

    Meant for values in [-1, 1], which the noise levels of training and sampling suit.

    Args:
        data: name or path, see `smoothjax.datasets.load`.
        num_train: training points of each half of a pair. The halves of one seed are nested.
        early_steps: of the pairs that are stopped early.
        width, num_layers: of the networks.
        num_steps: gradient steps of the others.
        num_samples: of each network, from noises common to all.
        num_seeds: replicates, each with its own split of the data, initial weights and training noise.
        seed: of the first one, and of the common noises.
        out: folder in which each finished network and its samples are kept.
        progress: show a progress bar.

    Returns:
        Over (run, seed), with coordinates `num_train`, `num_steps` and `epochs` of the runs:

        - `cosine` (model): mean centred cosine of the two networks' samples from the same noise, and of their Gaussian
          denoisers'; `shuffled_cosine` from different noises, `normalised_cosine` by that; `rms` and `shuffled_rms`,
          differences a coordinate;
        - `excess_cosine`: of the networks over the Gaussians, paired by noise;
        - `neighbour_cosine` (half): of a network's samples with their nearest training points;
        - `nearer_each_other`: fraction of samples nearer to the other network's than to the nearest training point;
        - over half: the samples and what `memorization` says of them.

        Standard errors (`_se`) are over noises, for the given networks: they hold nothing of how networks differ.

    Raises:
        ValueError: for sizes out of range, or too few data to hold some out.

    Source: Kadkhodaie, Guth, Simoncelli and Mallat 2024 (models of disjoint sets).
    """
    dataset, description = load_with_description(data)
    require_sizes("num_train", num_train, 2)
    require_sizes("early_steps", early_steps)
    if num_steps in early_steps:
        raise ValueError(f"`early_steps` must differ from `num_steps`; got {early_steps}.")
    seeds, largest = as_seeds(seed, num_seeds), max(num_train)
    architecture = MLPArchitecture(as_positive_integer(width, "width"), num_layers)
    num_steps = as_positive_integer(num_steps, "num_steps")
    configuration = settings_of("strong-generalization", locals()) | description
    configuration["num_parameters"] = num_parameters(architecture, dataset.dim)
    runs = [(n, num_steps) for n in num_train]
    runs += [(min(num_train), steps) for steps in early_steps]
    replicates = benches(dataset, 2 * largest, (1.0,), num_samples, seeds)
    store = ResultStore(out, configuration)

    def run(name: str, bench: Bench, points: jax.Array, steps: int, half: int) -> Arrays:
        key, folder = jax.random.fold_in(bench.key, half), network_folder(out, name)
        network = train_network(points, architecture, key, steps, folder)
        return bench.yardstick.samples(network, points)

    cells, sets = [], []
    for (n, steps), i, half in itertools.product(runs, range(num_seeds), (0, 1)):
        name = f"points-{n}-steps-{steps}-seed-{seeds[i]}-{HALVES[half]}"
        points = replicates[i].pool[half * largest :][:n]
        compute = functools.partial(run, name, replicates[i], points, steps, half)
        cells.append((name, f"{n} points, {steps} steps, {HALVES[half]} half", compute))
        sets.append(points)
    parts = sweep(store, cells, progress)

    centre = replicates[0].yardstick.centre
    pairs = []
    for i in range(0, len(cells), 2):
        two = {name: jnp.stack([part[name] for part in parts[i : i + 2]]) for name in SAMPLE_DIMS}
        pairs.append({**two, **compared(two, sets[i], sets[i + 1], centre)})
    coords = {
        "run": [f"{n} points, {steps} steps" for n, steps in runs],
        "num_train": ("run", [n for n, _ in runs]),
        "num_steps": ("run", [steps for _, steps in runs]),
        "epochs": ("run", [steps * description["batch_size"] / n for n, steps in runs]),
        "seed": seeds,
        "half": list(HALVES),
        "model": list(MODELS),
    }
    shape = (len(runs), num_seeds)
    return labelled(pairs, _DIMS, ("run", "seed"), shape, coords, configuration)


def compared(two: Arrays, first: jax.Array, second: jax.Array, centre: jax.Array) -> Arrays:
    """`smoothjax.measures.strong_generalization` of the samples of two halves, as arrays."""
    found = compare_halves(
        *two["samples"],
        *two["gaussian_samples"],
        first_data=first,
        second_data=second,
        centre=centre,
    )
    named = {
        name: [getattr(one, name) for one in (found.models, found.gaussians)]
        for name in ("cosine", "shuffled_cosine", "normalised_cosine", "rms", "shuffled_rms")
    }
    named["neighbour_cosine"] = [found.first_neighbour_cosine, found.second_neighbour_cosine]
    arrays = {}
    for name, estimates in named.items():
        arrays[name] = jnp.stack([one.value for one in estimates])
        arrays[f"{name}_se"] = jnp.stack([one.standard_error for one in estimates])
    for name in ("excess_cosine", "nearer_each_other"):
        arrays[name] = getattr(found, name).value
        arrays[f"{name}_se"] = getattr(found, name).standard_error
    return arrays
