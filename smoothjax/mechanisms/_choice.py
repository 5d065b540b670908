"""The strength of a mechanism that denoises points held back from it best, or makes them likeliest."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import stdtr

from .._checks import as_host_floats, as_positive_integer, require_one_of, shown
from .._jax.blocks import DEFAULT_BATCH_SIZE
from .._keys import key_of
from .._kinds import checks_kinds
from .._noise import initial_noise
from .._strengths.free import FreeStrength, outputs_of
from .._strengths.likeliest import likeliest
from .._strengths.likelihoods import log_likelihoods
from .._strengths.tests import squares_of
from .._units import spread_of
from ..datasets import Dataset
from ..denoisers import Denoiser
from ._mechanism import Mechanism, Strength, get

Criterion = Literal["denoising", "likelihood"]
# Of the data's spread: from where nothing but the nearest points counts to where little but their mean does.
LOWEST, HIGHEST, NUM_LEVELS = 0.02, 10.0, 6
# A likelihood is meant at a tenth of the spread, and its flow begins where a comparison's does.
FLOOR, START = 0.1, 160.0
# Held back: a fifth of the points, at most so many, and never fewer than tests of a mean mean anything with.
SHARE, MOST, FEWEST = 0.2, 96, 8
FEWEST_TO_CHOOSE = math.ceil(FEWEST / SHARE)
"""Training points of which enough can be held back to choose a strength by."""


@dataclasses.dataclass(frozen=True)
class StrengthChoice:
    """A strength that was chosen on points held back from the training set, with what is known of the choice.

    A loss is, by the criterion, the mean square error a coordinate of what the denoiser makes of noisy held-back points, in
    squared data units, one for each level; or minus the log-likelihood of such points, in nats, one at the noise floor.

    Attributes:
        mechanism, strength, unit: the names of the mechanism and of its strength, and the strength's unit.
        criterion: "denoising" or "likelihood".
        levels: noise levels, shape (k,); one, at which the likelihood is meant.
        values, low, high: the strength at each, and the ends of its interval: not the strength's spread, but where the best
            one for the population of points lies with the probability `coverage`, given the points that were kept.
        loss, loss_guess, loss_without: at the chosen strength, at the mechanism's own, and without any, or NaN.
        gain, gain_error: by how much the loss is less than without, and its standard error: the best of the grid on one half
            of the held-back points is taken on the other, and the other way round, so that no point chose what it judges.
        p_value: of the hypothesis that it is not less, by Student's test, one-sided.
        guess: the mechanism's own value, or NaN where it is none of the strength's.
        num_kept, num_held_back: points of the training set that the mechanism was made of for the choice, and the others.
        coverage: of the intervals.
    """

    mechanism: str
    strength: str
    unit: str
    criterion: Criterion
    levels: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    loss: np.ndarray
    loss_guess: np.ndarray
    loss_without: np.ndarray
    gain: np.ndarray
    gain_error: np.ndarray
    p_value: np.ndarray
    guess: float
    num_kept: int
    num_held_back: int
    coverage: float

    @checks_kinds
    def denoiser(self, train: Dataset, seed: int = 0) -> Denoiser:
        """The mechanism of all training points at the chosen strength, which depends on the noise level if it was chosen so.

        Between the levels a continuous strength is interpolated, smoothly in the logarithm of the noise level; a discrete
        one is that of the nearest. Beyond them it is constant.
        """
        free = _free(get(self.mechanism), train, seed)
        if np.all(self.values == self.values[0]):
            return free.denoiser(float(self.values[0]))
        return free.scheduled(self.levels, self.values)


def _strength_of(mechanism: Mechanism) -> Strength:
    if mechanism.strength is None:
        raise ValueError(
            f"`name` must be of a mechanism with a strength; {mechanism.name!r} has none."
        )
    return mechanism.strength


class _Free(FreeStrength):
    """One of which a tenth of its interval's width more or less is not worth a call."""

    argument = "name"
    resolution, share = 0.05, 0.05


def _free(mechanism: Mechanism, train: Dataset, seed: int) -> FreeStrength:
    strength = _strength_of(mechanism)
    at = functools.partial(strength.lighter or strength.at, train, seed)
    return _Free(
        mechanism.name, strength, strength.values(train), at, train.points, DEFAULT_BATCH_SIZE
    )


@checks_kinds
def choose_strength(
    name: str,
    train: Dataset,
    *,
    criterion: Criterion = "denoising",
    levels: Any = None,
    num_held_back: int | None = None,
    coverage: float = 0.9,
    seed: int = 0,
) -> StrengthChoice:
    """The strength of a mechanism of least held-out loss, chosen on points held back from the training set.

    Some training points are held back, the mechanism is made of the others, and the strength is searched at which its loss
    at the held-back points is least: at each noise level that of least `E|D_s(x0 + sigma z, sigma) - x0|^2`; or, over all
    levels, that of greatest mean log-likelihood of `x0 + sigma z` at the noise floor `sigma`, in closed form where the
    mechanism is the posterior mean of a law and else by its probability flow. `StrengthChoice.denoiser` then makes the
    mechanism of all points. Which strength is best depends on how many points there are, weakly: the width of a density
    estimate as `n^(-1 / (d + 4))`, so that a fifth of the points more moves it by less than 5 % on a line, and not
    noticeably in many dimensions. It is kept as it is, in its unit.

    A score that was smoothed is that of no density: its likelihood is that of its flow, and the strength that is best for
    denoising at every level need not be best for it.

    Args:
        name: of a mechanism with a strength.
        train: the training set.
        criterion: "denoising" or "likelihood".
        levels: noise levels, increasing, in data units; by default six from a fiftieth to ten times the data's standard
            deviation a coordinate. Of the likelihood, one: a tenth of it.
        num_held_back: points held back, drawn at random; by default a fifth of all, and no more than 96.
        coverage: of the intervals.
        seed: of the draw of these points, of their noises and of the mechanism.

    Raises:
        ValueError: for a mechanism without a strength or one that does not suit the data, another criterion, too few points,
            points that are all one, levels that do not increase or are more than one for the likelihood, or a coverage that
            is not between 0 and 1.

    Source: Vincent 2011 (the held-out loss); Habbema, Hermans and van den Broek 1974 (the width of greatest held-out
    likelihood).

    Example:
        >>> import jax, smoothjax as sj
        >>> points = jax.random.normal(jax.random.key(0), (400, 1))
        >>> train = sj.datasets.Dataset("normal", points)
        >>> chosen = sj.mechanisms.choose_strength("widened", train, criterion="likelihood")
        >>> bool(chosen.low[0] < 1.06 * 400 ** -0.2 < chosen.high[0])  # Silverman's width
        True
    """
    mechanism = get(name)
    strength = _strength_of(mechanism)
    require_one_of(criterion, CRITERIA.values(), "criterion")
    if not 0 < coverage < 1:
        raise ValueError(f"`coverage` must lie between 0 and 1; got {coverage}.")
    num = _num_held_back(num_held_back, len(train))
    at = _levels(levels, train, criterion)
    kept, held_back = train.split(len(train) - num, seed=seed)
    free = _free(mechanism, kept, seed)
    bench = _Bench(mechanism, strength, free, kept, held_back, seed, coverage)
    found = [
        bench.denoising(level) if criterion == "denoising" else bench.likelihood(level)
        for level in at
    ]
    columns = {field: np.array([row[field] for row in found]) for field in found[0]}
    return StrengthChoice(
        mechanism=mechanism.name,
        strength=strength.name,
        unit=strength.unit,
        criterion=criterion,
        levels=at,
        **columns,
        guess=math.nan if strength.default is None else float(strength.default(train)),
        num_kept=len(kept),
        num_held_back=num,
        coverage=coverage,
    )


def _num_held_back(num: int | None, total: int) -> int:
    if num is None:
        num = min(int(SHARE * total), MOST)
        if num < FEWEST:
            raise ValueError(
                f"`train` must hold at least {FEWEST_TO_CHOOSE} points for a strength to be chosen on a fifth of them; "
                f"got {total}."
            )
    num = as_positive_integer(num, "num_held_back")
    # Halves, each of two points for a standard error; and a training set.
    if not 4 <= num <= total - 2:
        raise ValueError(
            f"`num_held_back` must lie between 4 and {total - 2}, two fewer than there are points; got {num}."
        )
    return num


@checks_kinds
def default_levels(train: Dataset) -> np.ndarray:
    """The noise levels at which a strength is chosen for denoising: six, from a fiftieth to ten times the data's spread.

    Raises:
        ValueError: for points that are all one.

    Example:
        >>> import smoothjax as sj
        >>> print(sj.mechanisms.default_levels(sj.datasets.two_points()).round(3))
        [ 0.02   0.069  0.24   0.833  2.885 10.   ]
    """
    spread = spread_of(train.points)
    if spread == 0:
        raise ValueError("`train` must hold at least two different points.")
    return np.geomspace(LOWEST * spread, HIGHEST * spread, NUM_LEVELS)


def _levels(levels: Any, train: Dataset, criterion: str) -> np.ndarray:
    default = default_levels(train)
    if levels is None:
        return default if criterion == "denoising" else FLOOR / LOWEST * default[:1]
    given = as_host_floats(levels, "levels", np.float64)
    if given.ndim != 1:
        raise ValueError(f"`levels` must have shape (k,); got {given.shape}.")
    if not (
        len(given) and np.all(np.isfinite(given)) and given[0] > 0 and np.all(np.diff(given) > 0)
    ):
        raise ValueError(
            f"`levels` must be positive, finite and increase strictly; got {shown(levels)}."
        )
    if criterion == "likelihood" and len(given) > 1:
        raise ValueError(f"`levels` must be one for the likelihood; got {len(given)}.")
    return given


class _Bench:
    """A mechanism of the points that were kept, and the held-back ones with their noises, the same at every level."""

    def __init__(
        self,
        mechanism: Mechanism,
        strength: Strength,
        free: FreeStrength,
        kept: Dataset,
        held_back: Dataset,
        seed: int,
        coverage: float,
    ):
        self._free, self._kept, self._coverage = free, kept, coverage
        self._clean = np.asarray(held_back.points)
        dtype = kept.points.dtype
        # Apart from the seeds that mechanisms draw by.
        self._key = jax.random.fold_in(key_of(seed), 7)
        self._noise = np.asarray(initial_noise(self._key, len(self._clean), kept.dim, dtype=dtype))
        # What is made at a value needs no program of its own.
        self._guess = (
            mechanism.build(kept, seed)
            if strength.default is None or math.isnan(strength.default(kept))
            else float(strength.default(kept))
        )
        self._without = None if strength.without is None else strength.without(kept, seed)

    def _noisy(self, level: float) -> np.ndarray:
        return self._clean + np.asarray(level, self._noise.dtype) * self._noise

    def denoising(self, level: float) -> dict[str, float]:
        u, clean = self._noisy(level), self._clean
        fit = self._free.fit(clean, u, level, len(u), self._coverage)

        def losses(made: Denoiser | float) -> np.ndarray:
            if isinstance(made, float | int):
                outputs = self._free.outputs(made, u, level)
            else:
                outputs = outputs_of(made, u, level, DEFAULT_BATCH_SIZE)
            return squares_of(outputs[None], clean)[0]

        found = squares_of(fit.outputs[None], clean)[0]
        on_grid = squares_of(fit.grid_outputs, clean)
        return self._row((fit.value, fit.low, fit.high), found, on_grid, losses)

    def likelihood(self, level: float) -> dict[str, float]:
        u, points = jnp.asarray(self._noisy(level)), self._kept.points
        high = START * spread_of(points)

        def losses(made: Denoiser | float) -> np.ndarray:
            denoiser = self._free.denoiser(made) if isinstance(made, float | int) else made
            found = log_likelihoods(
                denoiser, points, u, level, high, key=self._key, batch_size=DEFAULT_BATCH_SIZE
            )
            return -np.asarray(found, np.float64)

        fit = likeliest(self._free, lambda value: -losses(value), self._coverage)
        return self._row((fit.value, fit.low, fit.high), -fit.found, -fit.on_grid, losses)

    def _row(
        self,
        strength: tuple[float, float, float],
        found: np.ndarray,
        on_grid: np.ndarray,
        losses: Callable[[Denoiser | float], np.ndarray],
    ) -> dict[str, float]:
        guess = losses(self._guess)
        without = np.full(len(found), np.nan) if self._without is None else losses(self._without)
        gains = without - _judged_by_others(on_grid)
        gain, error = float(np.mean(gains)), float(np.std(gains, ddof=1)) / math.sqrt(len(gains))
        p_value = math.nan
        if not math.isnan(gain):
            p_value = float(stdtr(len(gains) - 1, -gain / error)) if error > 0 else 0.5
        value, low, high = strength
        return {
            "values": value,
            "low": low,
            "high": high,
            "loss": float(np.mean(found)),
            "loss_guess": float(np.mean(guess)),
            "loss_without": float(np.mean(without)),
            "gain": gain,
            "gain_error": error,
            "p_value": p_value,
        }


def _judged_by_others(on_grid: np.ndarray) -> np.ndarray:
    """Of each point the loss of the grid value that is best for the other half of the points, from (values, n) losses."""
    judged = np.empty(on_grid.shape[1])
    for half in (0, 1):
        best = int(np.argmin(on_grid[:, 1 - half :: 2].mean(axis=1)))
        judged[half::2] = on_grid[best, half::2]
    return judged


@checks_kinds
def build(
    name: str, train: Dataset, seed: int = 0, *, strength: float | str = "default"
) -> Denoiser:
    """A mechanism of a training set, by name: as it is by default, at a given strength, or at one that is chosen.

    Args:
        name: of the mechanism.
        train: the training set.
        seed: of whatever it draws.
        strength: "default", the mechanism's own; a number; "held-out", at each noise level that of least held-out denoising
            loss; or "likelihood", one for all, of greatest held-out likelihood: see `choose_strength`.

    Raises:
        ValueError: for a mechanism that does not suit the data, or one without a strength where one is asked for; for a
            strength that is none of these, not finite, or not positive where it must be.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.mechanisms.build("empirical", sj.datasets.two_points(), strength=2.0)
        >>> print(D(jnp.array([1.0]), 1.0).round(4))  # at temperature 2: tanh(1 / 2)
        [0.4621]
    """
    mechanism = get(name)
    if isinstance(strength, str):
        if strength == "default":
            return mechanism.build(train, seed)
        if strength not in CRITERIA:
            raise ValueError(
                f"`strength` must be a number, 'default', {' or '.join(map(repr, CRITERIA))}; got {strength!r}."
            )
        chosen = choose_strength(name, train, criterion=CRITERIA[strength], seed=seed)
        return chosen.denoiser(train, seed)
    known = _strength_of(mechanism)
    if not math.isfinite(strength) or (known.is_logarithmic and strength <= 0):
        positive = "positive and " if known.is_logarithmic else ""
        raise ValueError(
            f"`strength` must be {positive}finite, a {known.name} of {name!r}; got {strength}."
        )
    try:
        return _free(mechanism, train, seed).denoiser(float(strength))
    except ValueError as error:
        raise ValueError(
            f"`strength` must be a {known.name} that {name!r} can have; got {strength}: {error}"
        ) from error


CRITERIA: dict[str, Criterion] = {"held-out": "denoising", "likelihood": "likelihood"}
"""What `--strength` and `build(strength=)` call the criteria of `choose_strength`."""
