"""How much better than a Gaussian, and than a mixture of them, a score can be that is smoothed as well as it can be."""

import functools
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ... import datasets, mechanisms
from ..._checks import as_positive_integer, import_optional, require_each
from ..._files.store import Arrays, ResultStore
from ..._jax.blocks import DEFAULT_BATCH_SIZE
from ..._keys import key_of
from ..._kinds import checks_kinds
from ..._noise import initial_noise
from ..._strengths.free import outputs_of
from ..._strengths.likelihoods import log_likelihoods
from ..._strengths.tests import squares_of
from ..._units import spread_of
from ...denoisers import AbstractPosteriorDenoiser, Denoiser
from .._data import train_and_held_out
from .._registry import experiment, settings_of
from .._statistics import error_of_mean, ratio_of
from .._sweep import by_cell, sweep
from .figures import plot_optimal_smoothing

if TYPE_CHECKING:
    import xarray

MECHANISMS = ("gaussian", "mixture", "tempered", "smoothed", "widened")
HOW = ("guess", "held-out", "likelihood")
# Of the data's spread: where likelihoods are meant, and where their flows begin.
FLOOR, START = 0.1, 160.0


@experiment(
    "optimal-smoothing",
    "held-out error and likelihood of smoothed scores, each as good as its strength can make it, beside Gaussians",
    plot_optimal_smoothing,
)
@checks_kinds
def optimal_smoothing(
    *,
    data: tuple[str, ...] = ("digits", "circle"),
    names: tuple[str, ...] = MECHANISMS,
    num_train: int = 1500,
    num_test: int = 256,
    num_likelihood: int = 64,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Smoothed scores at their best beside a Gaussian and a mixture of Gaussians at theirs, on points that chose nothing.

    The strength of each mechanism is chosen on points held back from its training set, see
    `smoothjax.mechanisms.choose_strength`: at each noise level that of least denoising loss; and, for mechanisms that are
    the posterior mean of a law, one of greatest likelihood. What is reported is measured at other held-out points.

    Args:
        data: names or paths, see `smoothjax.datasets.load`. All must be read with their own image shape.
        names: of mechanisms with a strength; the first is what the others are held against.
        num_train: training points of sets that are split; the others are trained on as a whole, and tested at fresh draws.
        num_test: held-out points at which losses are measured, at most.
        num_likelihood: of these, the points at which likelihoods are.
        seed: of splits, noises and mechanisms.
        out: folder in which each finished mechanism of a data set is kept.
        progress: show a progress bar.

    Returns:
        Over (data, mechanism, level), with `level` the noise level over the data's spread: `strength` with its interval
        (`strength_low`, `strength_high`), `loss`, the mean square error a coordinate over the data's variance, and `ratio`,
        the loss over that of the first mechanism, from the same points. Over (data, mechanism, how), with how the strength
        was chosen ("guess" is the mechanism's own): `log_likelihood` of held-out points at a tenth of the spread, in nats,
        and `gain` over the first mechanism's own. Each with a standard error over points (`_se`); NaN where there is no such
        choice. `spread` and `dim` of the data.

    Raises:
        ValueError: for a mechanism without a strength, numbers that are not positive, or a set that is too small.

    Example:
        >>> import smoothjax as sj
        >>> found = sj.experiments.optimal_smoothing(
        ...     data=("circle",), names=("gaussian", "widened"), num_test=64, num_likelihood=8, progress=False
        ... )
        >>> bool((found.gain.sel(mechanism="widened") > 0).all())  # on a circle a Gaussian is less likely
        True
    """
    xarray = import_optional("xarray")
    for name, value in (("data", data), ("names", names)):
        require_each(value, name)
    for name in names:
        if mechanisms.get(name).strength is None:
            raise ValueError(f"`names` must be of mechanisms with a strength; {name!r} has none.")
    for name, value in (("num_test", num_test), ("num_likelihood", num_likelihood)):
        if as_positive_integer(value, name) < 2:
            raise ValueError(f"`{name}` must be at least 2; got {value}.")
    configuration = settings_of("optimal-smoothing", locals())
    store = ResultStore(out, configuration)
    benches = {source: _Bench(source, num_train, num_test, num_likelihood, seed) for source in data}
    cells = [
        (
            f"{i}-{name}",
            f"{source}, {name}",
            functools.partial(benches[source].measured, name),
        )
        for i, source in enumerate(data)
        for name in names
    ]
    parts = sweep(store, cells, progress)
    shape = (len(data), len(names))
    num = min(part["losses"].shape[1] for part in parts)
    losses = np.stack([part["losses"][:, :num] for part in parts]).reshape(*shape, -1, num)
    least = min(part["log_likelihoods"].shape[1] for part in parts)
    likely = np.stack([part["log_likelihoods"][:, :least] for part in parts])
    likely = likely.reshape(*shape, len(HOW), least)
    ratio, ratio_se = ratio_of(losses, losses[:, :1])
    gains = likely - likely[:, :1, :1]
    over_levels, over_how = ("data", "mechanism", "level"), ("data", "mechanism", "how")
    variables = {
        **{
            f"strength{end}": (over_levels, by_cell(parts, f"strength{end}", *shape))
            for end in ("", "_low", "_high")
        },
        "loss": (over_levels, losses.mean(axis=-1)),
        "loss_se": (over_levels, error_of_mean(losses)),
        "ratio": (over_levels, ratio),
        "ratio_se": (over_levels, ratio_se),
        "log_likelihood": (over_how, likely.mean(axis=-1)),
        "log_likelihood_se": (over_how, error_of_mean(likely)),
        "gain": (over_how, gains.mean(axis=-1)),
        "gain_se": (over_how, error_of_mean(gains)),
        "spread": ("data", [bench.spread for bench in benches.values()]),
        "dim": ("data", [bench.train.dim for bench in benches.values()]),
    }
    coords = {
        "data": [bench.train.name for bench in benches.values()],
        "mechanism": list(names),
        "level": benches[data[0]].levels / benches[data[0]].spread,
        "how": list(HOW),
    }
    return xarray.Dataset(variables, coords=coords, attrs=configuration)


class _Bench:
    """One data set, split, with the points and noises that every mechanism is measured at."""

    def __init__(self, source: str, num_train: int, num_test: int, num_likelihood: int, seed: int):
        dataset = datasets.load(source, seed=seed)
        is_split = dataset.population is None
        self.train, held_out = train_and_held_out(
            dataset, num_train=min(num_train, len(dataset) - 2) if is_split else None, seed=seed
        )
        self.levels, self.spread = (
            mechanisms.default_levels(self.train),
            spread_of(self.train.points),
        )
        self._seed, self._key = seed, jax.random.fold_in(key_of(seed), 11)
        self._clean = np.asarray(held_out.points[:num_test])
        dtype = self.train.points.dtype
        self._noise = np.asarray(
            initial_noise(self._key, len(self._clean), self.train.dim, dtype=dtype)
        )
        self._num_likelihood = num_likelihood

    def measured(self, name: str) -> Arrays:
        """Of one mechanism: strengths, the loss of each test point at each level, and their log-likelihoods."""
        train, seed = self.train, self._seed
        chosen = mechanisms.choose_strength(name, train, seed=seed)
        by_level, guess = chosen.denoiser(train, seed), mechanisms.build(name, train, seed)
        likely = [self._log_likelihoods(guess), self._log_likelihoods(by_level)]
        if isinstance(guess, AbstractPosteriorDenoiser):
            one = mechanisms.choose_strength(name, train, criterion="likelihood", seed=seed)
            likely.append(self._log_likelihoods(one.denoiser(train, seed)))
        else:
            likely.append(np.full_like(likely[0], math.nan))
        return {
            "strength": chosen.values,
            "strength_low": chosen.low,
            "strength_high": chosen.high,
            "losses": np.stack([self._losses(by_level, level) for level in self.levels]),
            "log_likelihoods": np.stack(likely),
        }

    def _noisy(self, level: float) -> np.ndarray:
        return self._clean + np.asarray(level, self._noise.dtype) * self._noise

    def _losses(self, denoiser: Denoiser, level: float) -> np.ndarray:
        outputs = outputs_of(denoiser, self._noisy(level), level, DEFAULT_BATCH_SIZE)
        return squares_of(outputs[None], self._clean)[0] / self.spread**2

    def _log_likelihoods(self, denoiser: Denoiser) -> np.ndarray:
        floor = FLOOR * self.spread
        noisy = jnp.asarray(self._noisy(floor)[: self._num_likelihood])
        found = log_likelihoods(
            denoiser,
            self.train.points,
            noisy,
            floor,
            START * self.spread,
            key=self._key,
            batch_size=DEFAULT_BATCH_SIZE,
        )
        return np.asarray(found, np.float64)
