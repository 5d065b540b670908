"""What the best linear model of a denoiser says about it: the Gaussian one, wherever its inputs are the data's."""

import functools
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ... import datasets
from ..._checks import import_optional, require_each, require_positive, require_positive_scalar
from ..._files.checkpoint import fingerprint
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._kinds import checks_kinds
from ...denoisers import Denoiser, GaussianDenoiser
from ...learning import LinearDistillation, distill_linear
from ...mechanisms import get
from .._data import train_and_held_out
from .._registry import experiment, settings_of
from .._sweep import by_cell, cells_of, sweep
from .figures import plot_linear_distillation

if TYPE_CHECKING:
    import xarray

INPUTS: tuple[str, ...] = ("training", "held-out", "contrast")


@experiment(
    "linear-distillation",
    "the best linear model of a denoiser beside the Gaussian one, by the inputs that it is fitted to",
    plot_linear_distillation,
)
@checks_kinds
def linear_distillation(
    *,
    data: str = "digits",
    num_train: int | None = None,
    mechanisms: tuple[str, ...] = ("empirical", "mixture"),
    levels: tuple[float, ...] = (0.02, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
    num_noises: int = 4,
    contrast: float = 0.5,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Denoisers of one training set, each beside its best affine approximation `W u + b`, and both beside the Gaussian one.

    An exact posterior mean has the Gaussian denoiser's W at inputs of its own law, however nonlinear it is: that of a
    network is near it because it was trained, whether or not it is Gaussian. At inputs of another law W is another. What
    tells a denoiser that is Gaussian from one that memorizes is the part of it that no affine model explains.

    Args:
        data: name or path, see `smoothjax.datasets.load`.
        num_train: training points, of which the Gaussian denoiser has mean and covariance; as in `train_and_held_out`.
        mechanisms: names of the denoisers, see `smoothjax list`.
        levels: noise levels.
        num_noises: of each point; even.
        contrast: factor on the training points in the last kind of inputs.
        seed: of the split, of the denoisers and of the noises.
        out: folder in which each finished pair of denoiser and inputs is kept.
        progress: show a progress bar.

    Returns:
        Over (denoiser, inputs, sigma), inputs being noisy "training" points, "held-out" ones, and training points of another
        "contrast":

        - `matrix_error`: `|W - W_G| / |W_G|` in Frobenius norm, W_G that of the Gaussian denoiser, and `matrix_noise`, its
          part that is expected from the draws of points and noises;
        - `unexplained`, `1 - R^2` at fresh noise, with `unexplained_se`;
        - root mean squares in data units: the `difference` from the Gaussian denoiser, and its parts, whose squares add up
          to its own, `nonlinear_residual` and `linear_mismatch`; `fit_noise`, what the draws make of the last.

    Raises:
        ValueError: for a name of no mechanism, or levels, noises or a contrast out of range.

    Source: Li, Dai and Qu 2024, section 3 (linear distillation).

    Example:
        >>> import smoothjax as sj
        >>> found = sj.experiments.linear_distillation(
        ...     data="segment", mechanisms=("gaussian",), levels=(0.5,), progress=False
        ... )
        >>> bool(found.unexplained.max() < 1e-5)  # it is affine
        True
    """
    xarray = import_optional("xarray")
    require_each(mechanisms, "mechanisms")
    builders = {name: get(name).build for name in mechanisms}
    require_each(levels, "levels", require_positive)
    scale = float(require_positive_scalar(contrast, "contrast"))
    dataset = datasets.load(data)
    train, held_out = train_and_held_out(dataset, num_train=num_train, seed=seed)
    configuration = settings_of("linear-distillation", locals()) | {
        "data": str(data),
        "data_sha256": fingerprint(dataset.points),
        "num_train": len(train),
        "contrast": scale,
    }
    store = ResultStore(out, configuration)
    points = dict(zip(INPUTS, (train.points, held_out.points, scale * train.points), strict=True))
    grid, gaussian = jnp.asarray(levels, train.points.dtype), GaussianDenoiser.fit(train.points)
    denoisers = {
        name: functools.cache(functools.partial(build, train, seed))
        for name, build in builders.items()
    }

    def of(name: str, inputs: str) -> Arrays:
        key = jax.random.fold_in(key_of(seed), INPUTS.index(inputs))
        return _measures(denoisers[name](), points[inputs], grid, key, gaussian, num_noises)

    parts = sweep(store, cells_of(of, (mechanisms, INPUTS), "{}-{}", "{}, {}"), progress)
    sizes, dims = (len(mechanisms), len(INPUTS)), ("denoiser", "inputs", "sigma")
    return xarray.Dataset(
        {what: (dims, by_cell(parts, what, *sizes)) for what in parts[0]},
        coords={"denoiser": list(mechanisms), "inputs": list(INPUTS), "sigma": list(levels)},
        attrs=configuration,
    )


@eqx.filter_jit
def _measures(
    denoiser: Denoiser,
    points: Float[Array, "n d"],
    levels: Float[Array, " levels"],
    key: PRNGKeyArray,
    gaussian: GaussianDenoiser,
    num_noises: int,
) -> dict[str, Array]:
    def at(sigma: Array) -> dict[str, Array]:
        found = distill_linear(
            denoiser, points, sigma, key, reference=gaussian, num_noises=num_noises
        )
        return _numbers(found, gaussian)

    return jax.lax.map(at, levels)


def _numbers(found: LinearDistillation, gaussian: GaussianDenoiser) -> dict[str, Array]:
    gains = jax.jacfwd(gaussian)(gaussian.mean, found.sigma)
    relative = lambda x: jnp.linalg.norm(x) / jnp.linalg.norm(gains)  # noqa: E731
    squares = {
        "difference": found.difference.value,
        "nonlinear_residual": found.nonlinear_residual.value,
        "linear_mismatch": found.linear_mismatch.value,
        "fit_noise": found.fit_noise,
    }
    return {
        "matrix_error": relative(found.matrix.value - gains),
        "matrix_noise": relative(found.matrix.standard_error),
        "unexplained": 1 - found.r_squared.value,
        "unexplained_se": found.r_squared.standard_error,
        **{name: jnp.sqrt(square) for name, square in squares.items()},
    }
