"""What the experiments on trained networks share: a budget, one way of measuring a denoiser."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..._checks import as_positive_integer, import_optional, require_positive
from ..._files.checkpoint import fingerprint
from ..._files.store import Arrays
from ..._keys import key_of
from ...datasets import Dataset, load
from ...denoisers import Denoiser, EmpiricalDenoiser, GaussianDenoiser
from ...flows import sample
from ...learning import P_MEAN, P_STD, MLPArchitecture, PreconditionedDenoiser, train_denoiser
from ...measures import (
    GaussianityIndex,
    LinearityScore,
    gaussianity_index,
    linearity_score,
    memorization_fraction,
    nearest_neighbours,
    same_noise_similarity,
)
from .._sweep import by_cell

if TYPE_CHECKING:
    import xarray

# What a step of training is; how many there are is for the experiments to say.
BUDGET: dict[str, Any] = {
    "batch_size": 64,
    "learning_rate": 2e-3,
    "ema_decay": 0.998,
    "p_mean": P_MEAN,
    "p_std": P_STD,
}
# EDM's Heun sampler, from the largest noise level that this law of training levels reaches often enough.
SAMPLER = {"sigma_max": 20.0, "sigma_min": 0.002, "steps": 18}
LEVELS = (0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0)

# Noises a point at which denoisers are compared, points of each set, and held-out points for the null of memorization.
NUM_NOISES, MAX_POINTS, MAX_NULL = 4, 256, 1000
# Above this fraction of memorized samples a network counts as one that memorizes.
MEMORIZES = 0.5

POINT_SETS = ("held-out", "training")
DENOISERS = ("network", "memorizing", "gaussian")
PAIRS = ("network-gaussian", "network-memorizing", "memorizing-gaussian")

# Own dimensions of what is measured of one network.
SAMPLE_DIMS = {
    "samples": ("sample", "coordinate"),
    "gaussian_samples": ("sample", "coordinate"),
    "nearest": ("sample", "coordinate"),
    "nearest_distance": ("sample",),
    "memorized": (),
    "memorized_interval": ("bound",),
    "memorized_null": (),
    "memorized_null_interval": ("bound",),
    "memorizes": (),
    "gaussian_cosine": (),
    "gaussian_cosine_se": (),
    "gaussian_cosine_shuffled": (),
    "gaussian_cosine_normalised": (),
    "gaussian_cosine_normalised_se": (),
}
CURVE_DIMS = {
    "rmse": ("pair", "points", "sigma"),
    "rmse_se": ("pair", "points", "sigma"),
    "gaussianity": ("points", "sigma"),
    "gaussianity_se": ("points", "sigma"),
    "gaussianity_meaningful": ("points", "sigma"),
    "linearity": ("denoiser", "sigma"),
    "linearity_se": ("denoiser", "sigma"),
    "linearity_centred": ("denoiser", "sigma"),
    "linearity_centred_se": ("denoiser", "sigma"),
}


@dataclasses.dataclass(frozen=True)
class Yardstick:
    """How networks are measured: on which held-out points, at which noise levels, and from which noises.

    Attributes:
        held_out: points that no network was trained on.
        centre: of the cosines between samples, common to all networks.
        levels: noise levels.
        num_samples: of each network, from noises that are common to all.
        key: of all noises.
    """

    held_out: Float[Array, "n d"]
    centre: Float[Array, " d"]
    levels: Float[Array, " levels"]
    num_samples: int
    key: PRNGKeyArray

    def samples(self, denoiser: Denoiser, train: Float[Array, "n d"]) -> Arrays:
        """Samples, how many are copies, and how like those of the training set's Gaussian denoiser they are.

        Both denoisers take the same steps from the same noises, so that the steps' own error is common to both.
        """
        samples, smooth = (
            self.generate(one, train) for one in (denoiser, GaussianDenoiser.fit(train))
        )
        distance, index = nearest_neighbours(samples, train, 1)
        copied = memorization_fraction(samples, train, null=self.held_out[:MAX_NULL])
        alike = same_noise_similarity(samples, smooth, centre=self.centre)
        return {
            "samples": samples,
            "gaussian_samples": smooth,
            "nearest": train[index[:, 0]],
            "nearest_distance": distance[:, 0],
            "memorized": copied.fraction,
            "memorized_interval": copied.interval,
            "memorized_null": copied.null_fraction,
            "memorized_null_interval": copied.null_interval,
            "memorizes": copied.fraction > MEMORIZES,
            "gaussian_cosine": alike.cosine.value,
            "gaussian_cosine_se": alike.cosine.standard_error,
            "gaussian_cosine_shuffled": alike.shuffled_cosine.value,
            "gaussian_cosine_normalised": alike.normalised_cosine.value,
            "gaussian_cosine_normalised_se": alike.normalised_cosine.standard_error,
        }

    def generate(self, denoiser: Denoiser, train: Float[Array, "n d"]) -> Float[Array, "samples d"]:
        """What the denoiser generates from the common noises about the training mean, the same states for all."""
        key, dim = jax.random.fold_in(self.key, 0), train.shape[1]
        common = {"mean": jnp.mean(train, axis=0), "dtype": train.dtype, **SAMPLER}
        return sample(denoiser, key, self.num_samples, shape_or_dim=dim, **common)

    def curves(self, denoiser: Denoiser, train: Float[Array, "n d"]) -> Arrays:
        """Distances to the references, the index between them, and linearity, at every noise level."""
        empirical, gaussian = EmpiricalDenoiser(train), GaussianDenoiser.fit(train)
        three, key = (denoiser, empirical, gaussian), jax.random.fold_in(self.key, 1)
        held_out = self.held_out[:MAX_POINTS]
        # Apart, so that what was compiled for one training set or network serves the next.
        placed = [_place(*three, x, self.levels, key) for x in (held_out, train[:MAX_POINTS])]
        scores = [_linearity(one, held_out, gaussian.mean, self.levels, key) for one in three]
        distances = [(one.to_gaussian, one.to_empirical, one.between) for one in placed]
        pairs = list(zip(*distances, strict=True))
        return {
            "rmse": np.stack([[e.value for e in pair] for pair in pairs]),
            "rmse_se": np.stack([[e.standard_error for e in pair] for pair in pairs]),
            "gaussianity": np.stack([one.index.value for one in placed]),
            "gaussianity_se": np.stack([one.index.standard_error for one in placed]),
            "gaussianity_meaningful": np.stack([one.meaningful for one in placed]),
            "linearity": np.stack([one.raw.value for one in scores]),
            "linearity_se": np.stack([one.raw.standard_error for one in scores]),
            "linearity_centred": np.stack([one.centred.value for one in scores]),
            "linearity_centred_se": np.stack([one.centred.standard_error for one in scores]),
        }


@eqx.filter_jit
def _place(
    denoiser: Denoiser,
    empirical: EmpiricalDenoiser,
    gaussian: GaussianDenoiser,
    points: Float[Array, "n d"],
    levels: Float[Array, " levels"],
    key: PRNGKeyArray,
) -> GaussianityIndex:
    def at(sigma: Array) -> GaussianityIndex:
        three = denoiser, empirical, gaussian
        return gaussianity_index(*three, points, sigma, key, num_noises=NUM_NOISES)

    return jax.lax.map(at, levels)


@eqx.filter_jit
def _linearity(
    denoiser: Denoiser,
    points: Float[Array, "n d"],
    centre: Float[Array, " d"],
    levels: Float[Array, " levels"],
    key: PRNGKeyArray,
) -> LinearityScore:
    def at(sigma: Array) -> LinearityScore:
        return linearity_score(denoiser, points, sigma, key, centre=centre, num_noises=NUM_NOISES)

    return jax.lax.map(at, levels)


@dataclasses.dataclass(frozen=True)
class Bench:
    """One replicate of an experiment: the points that may be trained on, the measures of it, and the key of training."""

    pool: Float[Array, "n d"]
    yardstick: Yardstick
    key: PRNGKeyArray


def benches(
    dataset: Dataset, pool: int, levels: tuple[float, ...], num_samples: int, seeds: list[int]
) -> list[Bench]:
    """Replicates that differ in split, initial weights and training noise, and share the noises of the measures."""
    if len(dataset) < pool + 4:
        raise ValueError(
            f"`data` must hold {pool} points to train on and at least 4 more; got {len(dataset)} of {dataset.name!r}."
        )
    if as_positive_integer(num_samples, "num_samples") < 3:
        raise ValueError(f"`num_samples` must be at least 3; got {num_samples}.")
    noise = key_of(seeds[0])
    grid = jnp.asarray(require_positive(levels, "levels"), dataset.points.dtype)
    centre = jnp.mean(dataset.points, axis=0)
    found = []
    for seed in seeds:
        train, held_out = dataset.split(pool, seed=seed)
        yardstick = Yardstick(held_out.points, centre, grid, num_samples, noise)
        found.append(Bench(train.points, yardstick, jax.random.fold_in(key_of(seed), 2)))
    return found


def load_with_description(data: str) -> tuple[Dataset, dict[str, Any]]:
    """The data set, and what of it, of the budget and of the sampler is to be written down."""
    dataset = load(data)
    description: dict[str, Any] = {"data": str(data), "data_sha256": fingerprint(dataset.points)}
    if dataset.image_shape is not None:
        description["image_shape"] = dataset.image_shape
    sampler = {f"sampler_{name}": value for name, value in SAMPLER.items()}
    return dataset, {**description, **BUDGET, **sampler}


def as_seeds(seed: int, num_seeds: int) -> list[int]:
    """Consecutive seeds, one a replicate."""
    return [seed + i for i in range(as_positive_integer(num_seeds, "num_seeds"))]


def require_sizes(name: str, values: tuple[int, ...], least: int = 1) -> None:
    """`ValueError` unless the values are different integers, `least` or more, and there are some."""
    sizes = [as_positive_integer(value, name) for value in values]
    if not sizes or min(sizes) < least or len(set(sizes)) < len(sizes):
        raise ValueError(f"`{name}` must be different integers from {least} on; got {values}.")


def network_folder(out: str | None, name: str) -> Path | None:
    """Where the network of a part is kept."""
    return None if out is None else Path(out) / "networks" / name


def train_network(
    points: Float[Array, "n d"],
    architecture: MLPArchitecture,
    key: PRNGKeyArray,
    num_steps: int,
    folder: Path | None,
    stop: int | None = None,
) -> PreconditionedDenoiser:
    """A network with averaged parameters, trained on the common budget; or what it is after `stop` of the steps."""
    steps = {"num_steps": num_steps, "stop": stop}
    return train_denoiser(points, architecture, key, **steps, out=folder, **BUDGET).model


def num_parameters(architecture: MLPArchitecture, dim: int) -> int:
    """Numbers that are trained."""
    network = eqx.filter_eval_shape(lambda: architecture.build(dim, None, jax.random.key(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(network))


def labelled(
    parts: list[Arrays],
    dims: dict[str, tuple[str, ...]],
    cell_dims: tuple[str, ...],
    shape: tuple[int, ...],
    coords: dict[str, Any],
    attrs: dict[str, Any],
) -> "xarray.Dataset":
    """The parts, cell by cell in C order, as one labelled result."""
    xarray = import_optional("xarray")
    variables = {
        name: ((*cell_dims, *own), by_cell(parts, name, *shape)) for name, own in dims.items()
    }
    named = {
        "points": list(POINT_SETS),
        "denoiser": list(DENOISERS),
        "pair": list(PAIRS),
        "bound": ["lower", "upper"],
    }
    used = {dim for own, _ in variables.values() for dim in own}
    common = {name: values for name, values in named.items() if name in used}
    return xarray.Dataset(variables, coords={**common, **coords}, attrs=attrs)
