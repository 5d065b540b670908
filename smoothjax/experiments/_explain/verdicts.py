"""Which candidates can be told apart by their distances from a network, and whether any of them is near it."""

import dataclasses
import math

import numpy as np

# Many, as each of some dozens of pairs has its own quantile, far out.
BOOTSTRAPS = 4000
# Of a network's departure from an untrained one, what a mechanism explains at least. Of networks that were trained for fifty
# steps some candidate of free strength explains up to .64, of those that were trained for thousands about .8.
LEARNED = 2 / 3


def indistinguishable(squares: np.ndarray, confidence: float, seed: int) -> np.ndarray:
    """Which candidates may be the best: a set that holds it with this probability, over the draw of the points.

    A candidate leaves the set where some other one is nearer by more than chance allows, by the paired differences of
    their squared distances in units of their standard errors. What chance allows is a quantile of that statistic from a
    bootstrap over points, each pair's own and all at the same level, which is such that with this probability no pair
    exceeds its quantile: two candidates that are nearly one, whose difference rests on few points, do not raise the bar of
    others.

    Args:
        squares: squared distances, (candidates, points).
        confidence: simultaneous over candidates.
        seed: of the bootstrap.

    Returns:
        shape (candidates,), bool.

    Source: Hsu, "Multiple Comparisons", 1996 (comparisons with the best); Beran, "Balanced simultaneous confidence sets",
    1988; Hansen, Lunde and Nason, "The model confidence set", 2011, without its sequence of steps.
    """
    num_candidates, n = squares.shape
    if num_candidates == 1:
        return np.ones(1, bool)
    scale = np.mean(squares) or 1.0
    pairs = [(i, j) for i in range(num_candidates) for j in range(num_candidates) if i != j]
    first, second = np.array(pairs).T
    differences = (squares[first] - squares[second]) / scale
    mean, error = differences.mean(axis=1), differences.std(axis=1, ddof=1) / math.sqrt(n)
    # Equal candidates have no difference to test.
    varies = error > 1e-9 * np.abs(squares[first] + squares[second]).mean(axis=1) / scale
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), BOOTSTRAPS) / n
    centred = differences[varies] - mean[varies, None]
    again = weights @ centred.T
    spread = np.sqrt(np.maximum(weights @ (centred**2).T - again**2, 0) / (n - 1))
    # A draw of one point only, as most are of two or three points, has no spread: its statistic has no bound.
    unbounded = np.where(again > 0, math.inf, 0.0)
    statistic = np.divide(again, spread, out=unbounded, where=spread > 1e-6 * centred.std(axis=1))
    worse = mean > 0
    if np.any(varies):
        worse[varies] = mean[varies] > _balanced(statistic, confidence) * error[varies]
    leaves = np.zeros(num_candidates, bool)
    np.logical_or.at(leaves, first, worse)
    leaves[np.argmin(squares.mean(axis=1))] = False
    return ~leaves


def _balanced(statistics: np.ndarray, confidence: float) -> np.ndarray:
    """Of draws of several statistics, (draws, k), a quantile of each, (k,), of one level: none exceeds its own so often."""
    ordered = np.sort(statistics, axis=0)
    below = np.stack(
        [
            np.searchsorted(one, drawn, side="right")
            for one, drawn in zip(ordered.T, statistics.T, strict=True)
        ]
    )
    level = int(np.quantile(below.max(axis=0), confidence, method="higher"))
    return ordered[level - 1]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Which mechanism explains a network at one noise level.

    Attributes:
        sigma: the noise level, in data units.
        best: the nearest candidate, or None where none of them is near: see `reason`.
        indistinguishable: those that cannot be told from the nearest, itself included.
        strength: fitted strength of the nearest.
        interval: of that strength.
        rmse: distance of the nearest from the network, root mean square a coordinate, in data units.
        reason: in words, what the verdict rests on.

    Example:
        >>> import smoothjax as sj
        >>> said = ("gaussian", "mixture")
        >>> one = sj.experiments.Verdict(0.5, "gaussian", said, 0.1, (0.0, 0.2), 0.03, "0.03 away")
        >>> one.best in one.indistinguishable
        True
    """

    sigma: float
    best: str | None
    indistinguishable: tuple[str, ...]
    strength: float
    interval: tuple[float, float]
    rmse: float
    reason: str


def judged(
    rmse: np.ndarray,
    rmse_se: np.ndarray,
    between: np.ndarray,
    own_error: float,
    learned: np.ndarray,
    learned_se: np.ndarray,
) -> dict[str, object]:
    """Whether the nearest candidate is near at all, and in words what that rests on.

    Args:
        rmse, rmse_se: distances of the candidates from the network, (candidates,).
        between: of the candidates from one another, (candidates, candidates).
        own_error: of the network from the clean points.
        learned, learned_se: the share of the network's departure from an untrained one that each candidate explains.
    """
    best = int(np.argmin(rmse))
    others = np.delete(between[best], best)
    spread = float(np.median(others)) if len(others) else math.inf
    least = float(rmse[best] - 2 * rmse_se[best])
    away = f"the nearest is {rmse[best]:.3g} away"
    if least > spread:
        reason = f"{away}, and other mechanisms are {spread:.3g} from it by the median"
    elif least > own_error:
        reason = f"{away}, and the network is {own_error:.3g} from the clean points"
    elif learned[best] + 2 * learned_se[best] < LEARNED:
        reason = f"the nearest explains {max(learned[best], 0):.0%} of its departure from an untrained network"
    else:
        than = f"other mechanisms are {spread:.3g} from it by the median"
        reason = f"{rmse[best]:.3g} away, and {than if len(others) else 'no other was asked'}"
        return {"is_explained": True, "reason": reason, "spread": spread}
    return {"is_explained": False, "reason": reason, "spread": spread}
