"""The one strength, over all noise levels, that makes points likeliest, and its interval."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import stdtrit

from .free import FreeStrength
from .tests import last_kept, skewed_statistic, span_of

# Shares of the distance of two grid values: to which the place is known, and over which slopes are differences.
RESOLUTION, DIFFERENCE = 0.02, 0.1


class Likeliest(NamedTuple):
    """A strength of greatest mean log-likelihood.

    Attributes:
        value, low, high: the strength, and the ends of its interval.
        grid, on_grid: the values that were tried first, and the log-likelihood of each point there, (values, n).
        found: of each point at `value`, (n,).
    """

    value: float
    low: float
    high: float
    grid: np.ndarray
    on_grid: np.ndarray
    found: np.ndarray


def likeliest(
    free: FreeStrength, log_likelihoods: Callable[[float], np.ndarray], coverage: float
) -> Likeliest:
    """The best, and what a test of the points' derivatives does not rule out; of a discrete one, of paired differences."""
    known: dict[float, np.ndarray] = {}

    def at(value: float) -> np.ndarray:
        if value not in known:
            known[value] = np.asarray(log_likelihoods(value), np.float64)
        return known[value]

    grid = np.array(free.values)
    on_grid = np.stack([at(value) for value in free.values])
    best = int(np.argmax(on_grid.mean(axis=1)))
    if len(grid) == 1 or not free.strength.is_continuous:
        low, high = span_of(grid, -on_grid, coverage)
        return Likeliest(float(grid[best]), low, high, grid, on_grid, on_grid[best])
    places = free.place(grid)
    left, right = places[max(best - 1, 0)], places[min(best + 1, len(places) - 1)]
    step = right - left
    of_place = lambda place: at(float(free.value_at(place)))  # noqa: E731
    found = minimize_scalar(
        lambda place: -np.mean(of_place(place)),
        bounds=(left, right),
        method="bounded",
        options={"xatol": RESOLUTION * step},
    )
    place = float(found.x)  # pyright: ignore[reportAttributeAccessIssue]
    if np.mean(of_place(place)) < np.mean(on_grid[best]):
        place = float(places[best])
    h = DIFFERENCE * step

    def statistic(place: float) -> float:
        middle = min(max(place, places[0] + h), places[-1] - h)
        return skewed_statistic(of_place(middle - h) - of_place(middle + h))

    bound = float(stdtrit(on_grid.shape[1] - 1, (1 + coverage) / 2))
    low = last_kept(statistic, place, -h, places[0], bound, free.share)
    high = last_kept(statistic, place, h, places[-1], bound, free.share)
    value, low, high = (float(x) for x in free.value_at(np.array([place, low, high])))
    return Likeliest(value, low, high, grid, on_grid, at(value))
