"""A strength that is free: outputs at any value, the value that fits best at a noise level, and its interval."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.optimize import minimize_scalar
from scipy.special import stdtrit

from .._calls import as_argument, denoised
from .._checks import shown
from ..denoisers import Denoiser, ScheduledDenoiser
from .interpolated import InterpolatedStrength
from .tests import (
    derivatives_by_place,
    far_behind,
    last_kept,
    span_of,
    squares_of,
    student_statistic,
)

# A search ends where it knows the place to this share of the distance of two grid values.
RESOLUTION = 0.01
# Derivatives by a strength are differences over this share of that distance: their bias is its square, and what single
# precision rounds off, divided by its square, still small.
DIFFERENCE = 0.02
# Discrete strengths are compared at so many points first, which is also how many are denoised at a time; those that are not
# worse there by so many standard errors go on to the others.
FIRST, WORSE = 8, 4.0
# Of the same distance, the first step from a fitted strength to the ends of its interval, at least.
SHORTEST = 1e-6


@eqx.filter_jit
def _batch(denoiser: Denoiser, u: Float[Array, "n d"], sigma: Array) -> Float[Array, "n d"]:
    return jax.vmap(lambda u: denoised(denoiser, u, sigma))(u)


@eqx.filter_jit
def _batch_at(
    make: Callable[[Any], Denoiser], value: Array, u: Float[Array, "n d"], sigma: Array
) -> Float[Array, "n d"]:
    return _batch(make(value), u, sigma)


def in_equal_batches(
    run: Callable[..., Array], arrays: tuple[np.ndarray, ...], sigma: float, batch_size: int
) -> np.ndarray:
    """`run(*batches, sigma)` over the rows of arrays; the last batch repeats its last row."""
    num, outputs = len(arrays[0]), []
    level = jnp.asarray(sigma, arrays[0].dtype)
    for start in range(0, num, batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), num - 1)
        outputs.append(np.asarray(run(*(jnp.asarray(x[rows]) for x in arrays), level)))
    return np.concatenate(outputs)[:num]


def outputs_of(denoiser: Denoiser, u: np.ndarray, sigma: float, batch_size: int) -> np.ndarray:
    """What a denoiser makes of the rows of `u`, (n, d), in batches of one shape: one compilation."""
    run = lambda u, sigma: _batch(as_argument(denoiser), u, sigma)  # noqa: E731
    return in_equal_batches(run, (u,), sigma, batch_size)


class Fit(NamedTuple):
    """A strength fitted to outputs that are wanted at one noise level.

    Attributes:
        value, low, high: the fitted value, and the ends of its interval.
        grid: the values that the search began with; of a discrete strength, those that the first few points left.
        grid_outputs: at the calibration points, for each of them, (values, n, d).
        outputs: at calibration and evaluation points, at the fitted value, (n, d).
    """

    value: float
    low: float
    high: float
    grid: np.ndarray
    grid_outputs: np.ndarray
    outputs: np.ndarray


@runtime_checkable
class AnyStrength(Protocol):
    """What `smoothjax.mechanisms.Strength` says of a strength besides its values."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def is_continuous(self) -> bool: ...
    @property
    def is_logarithmic(self) -> bool: ...
    @property
    def has_one_minimum(self) -> bool: ...


class FreeStrength:
    """A mechanism of some training points whose strength is free.

    Args:
        owner: the mechanism's name.
        strength: what is known of its strength.
        given: the values that it may take, or those between whose first and last it may lie.
        make: called once, gives `value -> denoiser`.
        points: the training points, for their dtype and dimension.
        batch_size: points at a time.

    Raises:
        ValueError: for values that are not finite, do not increase, or have no logarithm where that is used.
    """

    # What messages call the argument that this comes from.
    argument = "mechanism"
    # How exactly a continuous strength is searched, of the distance of two grid values, before Newton's step; and the ends
    # of its interval, of their distances from it.
    resolution, share = RESOLUTION, 0.005

    def __init__(
        self,
        owner: str,
        strength: AnyStrength,
        given: Any,
        make: Callable[[], Callable[[Any], Denoiser]],
        points: Float[Array, "n d"],
        batch_size: int,
    ):
        self.strength, self.name = strength, owner
        try:
            self.values = tuple(float(value) for value in given)
        except (TypeError, ValueError):
            raise ValueError(
                f"`values` of the strength of {owner!r} must give numbers; got {shown(given)}."
            ) from None
        if not (
            self.values and np.all(np.isfinite(self.values)) and np.all(np.diff(self.values) > 0)
        ):
            raise ValueError(
                f"`values` of the strength of {owner!r} must be one or more, finite and increase; "
                f"got {self.values}."
            )
        if strength.is_logarithmic and self.values[0] <= 0:
            raise ValueError(
                f"`values` of the strength of {owner!r} must be positive, as its logarithm is used; "
                f"got {self.values}."
            )
        self._maker = make
        # Those of discrete strengths, of patches above all, hold the most for each point.
        self.batch_size = batch_size if strength.is_continuous else min(FIRST, batch_size)
        self._dtype, self._dim = points.dtype, points.shape[1]
        self._make: Callable[[Any], Denoiser] | None = None
        self._built: dict[float, Denoiser] = {}

    @property
    def make(self) -> Callable[[Any], Denoiser]:
        """`value -> denoiser`; what it needs for all values is computed when it is asked for first."""
        if self._make is None:
            self._make = self._maker()
        return self._make

    def denoiser(self, value: float) -> Any:
        """The denoiser at one strength. Those of a discrete strength are kept."""
        if self.strength.is_continuous:
            return self.make(jnp.asarray(value, self._dtype))
        if value not in self._built:
            try:
                self._built[value] = self.make(value)
            except ValueError as error:
                raise ValueError(f"{self._at(value)} cannot be made: {error}") from error
        return self._built[value]

    def outputs(self, value: float, u: Any, sigma: float) -> np.ndarray:
        """At the rows of `u`, (n, d), or `ValueError` where they are not finite: nothing could be fitted."""
        outputs = self._outputs(value, u, sigma, self.batch_size)
        if not np.all(np.isfinite(outputs)):
            raise ValueError(
                f"{self._at(value)} must be finite; at noise level {sigma:.4g} it is not."
            )
        return outputs

    def _outputs(self, value: float, u: Any, sigma: float, batch_size: int) -> np.ndarray:
        if not self.strength.is_continuous:
            return outputs_of(self.denoiser(value), u, sigma, batch_size)
        at = jnp.asarray(value, self._dtype)
        run = lambda u, sigma: _batch_at(self.make, at, u, sigma)  # noqa: E731
        return in_equal_batches(run, (u,), sigma, batch_size)

    def _at(self, value: float) -> str:
        return f"`{self.argument}`: {self.name!r} of {self.strength.name} {value:.4g}"

    def place(self, value: Any) -> Any:
        """Where a value lies on the axis in which searches and intervals are even."""
        return np.log(value) if self.strength.is_logarithmic else np.asarray(value, float)

    def value_at(self, place: Any) -> Any:
        """The value there, within the bounds."""
        value = np.exp(place) if self.strength.is_logarithmic else np.asarray(place, float)
        return np.clip(value, self.values[0], self.values[-1])

    def scheduled(self, levels: np.ndarray, fitted: np.ndarray) -> Any:
        """The denoiser whose strength at each noise level is the fitted one; between them interpolated, or the nearest."""
        if self.strength.is_continuous:
            dtype = self._dtype
            return InterpolatedStrength(
                self.make,
                jnp.asarray(np.log(levels), dtype),
                jnp.asarray(self.place(fitted), dtype),
                self.strength.is_logarithmic,
                self._dim,
            )
        starts = [0, *(i for i in range(1, len(fitted)) if fitted[i] != fitted[i - 1])]
        switches = [math.sqrt(levels[i - 1] * levels[i]) for i in starts[1:]]
        denoisers = [self.denoiser(float(fitted[i])) for i in starts]
        return denoisers[0] if not switches else ScheduledDenoiser(denoisers, np.array(switches))

    def fit(
        self,
        network: np.ndarray,
        u: Any,
        sigma: float,
        num_calibration: int,
        coverage: float,
        near: float | None = None,
    ) -> Fit:
        """The strength of least mean square difference from the network's outputs at the first `num_calibration` points.

        The interval is for the strength at which the mean over the population of points is least. It holds the strengths at
        which Student's test of the single points' derivatives does not rule out that their mean is zero, as far as they join
        the fitted one: no linear approximation, and the same on any axis. For a discrete strength it is the span of the
        values that a paired test does not tell from the best; values that are far behind at a few points are left there.
        Where there is one minimum, they are tried from `near` on, the fitted value of a noise level nearby, up and down
        until two in a row are far behind.
        """
        noisy, target = u[:num_calibration], network[:num_calibration]
        if not self.strength.is_continuous:
            return self._race(target, u, sigma, coverage, near)
        grid = np.stack([self.outputs(value, noisy, sigma) for value in self.values])
        squares = squares_of(grid, target)
        best = int(np.argmin(squares.mean(axis=1)))
        value = low = high = self.values[0]
        if len(self.values) > 1:
            value, low, high = self._search(best, target, noisy, sigma, coverage)
        outputs = self.outputs(value, u, sigma)
        return Fit(value, low, high, np.array(self.values), grid, outputs)

    def _race(
        self, target: np.ndarray, u: Any, sigma: float, coverage: float, near: float | None
    ) -> Fit:
        """The best of a few values: those that are far behind at the first points do not go on to the others."""
        num, first = len(target), min(FIRST, len(target))
        at_first = self._started(target[:first], u[:first], sigma, near)
        tried = np.array(sorted(at_first))
        squares = squares_of(np.stack([at_first[i] for i in tried]), target[:first])
        kept = tried[~far_behind(squares, WORSE)]
        ahead = [at_first[i] for i in kept]
        if num > first:
            ahead = [
                np.concatenate([at, self.outputs(self.values[i], u[first:num], sigma)])
                for at, i in zip(ahead, kept, strict=True)
            ]
        grid, values = np.stack(ahead), np.array(self.values)[kept]
        squares = squares_of(grid, target)
        best = int(np.argmin(squares.mean(axis=1)))
        low, high = span_of(values, squares, coverage)
        value = float(values[best])
        outputs = grid[best]
        if len(u) > num:
            outputs = np.concatenate([outputs, self.outputs(value, u[num:], sigma)])
        return Fit(value, low, high, values, grid, outputs)

    def _started(
        self, target: np.ndarray, u: Any, sigma: float, near: float | None
    ) -> dict[int, np.ndarray]:
        """Outputs at the first few points, by the index of the value, of all values that are tried."""
        found: dict[int, np.ndarray] = {}
        if not self.strength.has_one_minimum:
            return {i: self.outputs(value, u, sigma) for i, value in enumerate(self.values)}
        start = 0 if near is None else self.values.index(near)
        for direction in (range(start, len(self.values)), range(start, -1, -1)):
            for num, i in enumerate(direction):
                if i not in found:
                    found[i] = self.outputs(self.values[i], u, sigma)
                tried = sorted(found)
                behind = far_behind(squares_of(np.stack([found[k] for k in tried]), target), WORSE)
                last = [tried.index(k) for k in direction[max(num - 1, 0) : num + 1]]
                if len(last) == 2 and np.all(behind[last]):
                    break
        return found

    def _search(
        self, best: int, target: np.ndarray, u: Any, sigma: float, coverage: float
    ) -> tuple[float, float, float]:
        places = self.place(np.array(self.values))
        left, right = places[max(best - 1, 0)], places[min(best + 1, len(places) - 1)]
        step = right - left

        def differences(place: float) -> np.ndarray:
            outputs = self.outputs(float(self.value_at(place)), u, sigma)
            return np.asarray(outputs, np.float64) - target

        found = minimize_scalar(
            lambda place: np.mean(differences(place) ** 2),
            bounds=(left, right),
            method="bounded",
            options={"xatol": self.resolution * step},
        )
        place = float(found.x)  # pyright: ignore[reportAttributeAccessIssue]
        # One step of Newton's method from there.
        h = DIFFERENCE * step
        inside = lambda place: min(max(place, places[0] + h), places[-1] - h)  # noqa: E731
        middle = inside(place)
        before, at, after = (differences(middle + k * h) for k in (-1, 0, 1))
        slopes, curvature = derivatives_by_place(before, at, after, h)
        half = math.inf
        if curvature > 0:
            newton = middle - np.mean(slopes) / curvature
            place = float(
                np.clip(newton, max(left, place - step / 4), min(right, place + step / 4))
            )
            half = float(np.std(slopes, ddof=1)) / math.sqrt(len(slopes)) / curvature

        # At a bound, or where Newton's method went wrong.
        if np.mean(differences(places[best]) ** 2) <= np.mean(differences(place) ** 2):
            place = float(places[best])

        def statistic(place: float) -> float:
            middle = inside(place)
            before, after = (np.mean(differences(middle + k * h) ** 2, axis=1) for k in (-1, 1))
            return student_statistic(after - before)

        bound = float(stdtrit(len(slopes) - 1, (1 + coverage) / 2))
        # Not zero, where all differences are: no number of doublings leaves the place.
        first = min(max(bound * half, SHORTEST * step), step)
        low = last_kept(statistic, place, -first, places[0], bound, self.share)
        high = last_kept(statistic, place, first, places[-1], bound, self.share)
        value, low, high = (float(x) for x in self.value_at(np.array([place, low, high])))
        return value, low, high
