"""Two candidates at once: the convex combination of both, at strengths of their own, that is nearest to a network."""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from ..._strengths.free import DIFFERENCE, Fit
from .candidates import Candidate
from .classes import Points

# Rounds of the joint search; each halves its step at most so often until the mean square falls.
ROUNDS, HALVINGS = 8, 6
# Directions of less than this share of the largest curvature are rounding of the differences that derivatives are taken by.
SINGULAR = 1e-5


class Combination(NamedTuple):
    """`weight first + (1 - weight) second` at one noise level.

    Attributes:
        names: of the two candidates.
        strengths: of each.
        weight, low, high: of the first, and the ends of its interval.
        outputs: at calibration and evaluation points, (n, d).
    """

    names: tuple[str, str]
    strengths: tuple[float, float]
    weight: float
    low: float
    high: float
    outputs: np.ndarray


def nearest_combination(
    candidates: list[Candidate],
    fits: list[Fit],
    network: np.ndarray,
    u: Points,
    sigma: float,
    num_calibration: int,
    coverage: float,
) -> Combination | None:
    """The best of all pairs, by the values that searches begin with; its strengths and weight are then fitted together.

    Weights are those of posterior means: they are not negative and sum to one, so that the difference from the network is
    the same combination of the two differences, and nothing cancels.

    Args:
        candidates: two or more; of fewer there is no pair, and None comes.
        fits: of each alone, at this noise level.
        network: outputs at all points, (n, d).
        u: the noisy points, the first `num_calibration` of them for calibration.
        sigma: their noise level.
        num_calibration, coverage: as in `Candidate.fit`.
    """
    if len(candidates) < 2:
        return None
    target = np.asarray(network[:num_calibration], np.float64)
    differences = [
        (np.asarray(fit.grid_outputs, np.float64) - target).reshape(len(fit.grid), -1)
        for fit in fits
    ]
    best = (math.inf, 0, 0, 0, 0)
    for first, second in itertools.combinations(range(len(candidates)), 2):
        a, b = differences[first], differences[second]
        aa, bb, ab = (a**2).mean(axis=1)[:, None], (b**2).mean(axis=1)[None], a @ b.T / a.shape[1]
        weight = _best_weight(aa, bb, ab)
        left = 1 - weight
        squares = weight**2 * aa + left**2 * bb + 2 * weight * left * ab
        i, j = np.unravel_index(np.argmin(squares), squares.shape)
        best = min(best, (float(squares[i, j]), first, second, int(i), int(j)))
    _, first, second, i, j = best
    pair = (
        _Member(candidates[first], fits[first], i),
        _Member(candidates[second], fits[second], j),
    )
    return _Search(pair, target, u, sigma, num_calibration).run(coverage)


def _best_weight(aa: Any, bb: Any, ab: Any) -> Any:
    """Of the first difference, from the mean products of both: least squares, between zero and one."""
    curvature = aa + bb - 2 * ab
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(curvature > 0, (bb - ab) / curvature, 0.5)
    return np.clip(weight, 0, 1)


class _Member:
    """One of two candidates, from one of the values that its own search began with; a discrete strength stays there."""

    def __init__(self, candidate: Candidate, fit: Fit, index: int):
        self.candidate, self.start = candidate, float(fit.grid[index])
        self.place = float(candidate.place(self.start))
        self.places = candidate.place(np.array(candidate.values))
        self.is_free = candidate.strength.is_continuous and len(candidate.values) > 1
        self._fit, self._grid = fit, fit.grid_outputs[index]

    def at_calibration(self, place: float, u: Points, sigma: float) -> np.ndarray:
        if not self.is_free:
            return np.asarray(self._grid, np.float64)
        value = float(self.candidate.value_at(place))
        return np.asarray(self.candidate.outputs(value, u, sigma), np.float64)

    def value_at(self, place: float) -> float:
        return float(self.candidate.value_at(place)) if self.is_free else self.start

    def outputs(self, place: float, u: Points, sigma: float) -> np.ndarray:
        """At all points; those of the candidate alone where its strength is the same."""
        value = self.value_at(place)
        if value == self._fit.value:
            return self._fit.outputs
        if self.is_free:
            return self.candidate.outputs(value, u, sigma)
        known = len(self._grid)
        return np.concatenate([self._grid, self.candidate.outputs(value, u[known:], sigma)])


class _Search:
    """Gauss and Newton's method for the places of two strengths and the weight of the first candidate."""

    def __init__(
        self,
        pair: tuple[_Member, _Member],
        target: np.ndarray,
        u: Points,
        sigma: float,
        num_calibration: int,
    ):
        self._pair, self._target, self._all, self._sigma = pair, target, u, sigma
        self._u = u[:num_calibration]
        self._steps = [
            DIFFERENCE * float(np.mean(np.diff(one.places))) if one.is_free else 0.0 for one in pair
        ]

    def run(self, coverage: float) -> Combination:
        """The fitted combination."""
        places = [one.place for one in self._pair]
        first, second = (self._difference(k, places[k]) for k in range(2))
        aa, bb, ab = np.mean(first**2), np.mean(second**2), np.mean(first * second)
        point = np.array([float(_best_weight(aa, bb, ab)), *places])
        square, jacobian = np.mean(self._residual(point) ** 2), self._jacobian(point)
        for _ in range(ROUNDS):
            step = self._newton_step(point, jacobian)
            for _ in range(HALVINGS):
                ahead = self._within(point + step)
                lower = np.mean(self._residual(ahead) ** 2)
                if lower < square:
                    break
                step = step / 2
            else:
                break
            gain, point, square = (square - lower) / square, ahead, lower
            jacobian = self._jacobian(point)
            if gain < 1e-4:
                break
        half = self._half_width(point, jacobian, coverage)
        weight = float(point[0])
        first, second = self._pair
        outputs = [
            one.outputs(place, self._all, self._sigma)
            for one, place in zip(self._pair, point[1:], strict=True)
        ]
        return Combination(
            (first.candidate.name, second.candidate.name),
            (first.value_at(point[1]), second.value_at(point[2])),
            weight,
            max(weight - half, 0.0),
            min(weight + half, 1.0),
            weight * outputs[0] + (1 - weight) * outputs[1],
        )

    def _difference(self, k: int, place: float) -> np.ndarray:
        return self._pair[k].at_calibration(place, self._u, self._sigma) - self._target

    def _residual(self, point: np.ndarray) -> np.ndarray:
        weight, first, second = point
        return weight * self._difference(0, first) + (1 - weight) * self._difference(1, second)

    def _jacobian(self, point: np.ndarray) -> np.ndarray:
        """Derivatives of the residual by weight and places, (3, n, d); zero by the strength of a discrete candidate."""
        weights = (point[0], 1 - point[0])
        columns = [self._difference(0, point[1]) - self._difference(1, point[2])]
        for k, one in enumerate(self._pair):
            h, places = self._steps[k], one.places
            if not one.is_free:
                columns.append(np.zeros_like(self._target))
                continue
            middle = min(max(point[1 + k], places[0] + h), places[-1] - h)
            ahead, behind = self._difference(k, middle + h), self._difference(k, middle - h)
            columns.append(weights[k] * (ahead - behind) / (2 * h))
        return np.stack(columns)

    def _newton_step(self, point: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
        rows = jacobian.reshape(3, -1)
        return -_inverse(rows) @ (rows @ self._residual(point).ravel())

    def _within(self, point: np.ndarray) -> np.ndarray:
        low = [0.0, *(one.places[0] for one in self._pair)]
        high = [1.0, *(one.places[-1] for one in self._pair)]
        return np.clip(point, low, high)

    def _half_width(self, point: np.ndarray, jacobian: np.ndarray, coverage: float) -> float:
        """Of Student's interval for the weight, by the sandwich formula over points."""
        num = len(self._u)
        slopes = np.einsum("pnd,nd->np", jacobian, self._residual(point))
        rows = jacobian.reshape(3, -1)
        inverse = _inverse(rows)
        covariance = inverse @ (slopes.T @ slopes) @ inverse * num / (num - 1)
        return float(stdtrit(num - 1, (1 + coverage) / 2)) * math.sqrt(max(covariance[0, 0], 0.0))


def _inverse(rows: np.ndarray) -> np.ndarray:
    """Of the products of the derivatives; a direction in which nothing changes is left alone."""
    products = rows @ rows.T
    scale = np.sqrt(np.diag(products))
    scale = np.where(scale > 0, scale, 1.0)
    inverse = np.linalg.pinv(products / np.outer(scale, scale), rcond=SINGULAR, hermitian=True)
    return inverse / np.outer(scale, scale)
