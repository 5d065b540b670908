"""Where the eigenvalues of wide random features lie: edges of their intervals, and the share below any number."""

import dataclasses

import numpy as np

from ._resolvent import FeatureCovariance

SCANNED, HALVINGS, NODES = 3000, 45, 1500
# Of the resolvent's imaginary part over its size: it vanishes outside, and like a square root at an edge.
VISIBLE = 1e-5
# Of `own`: nearer to it nothing is told apart from it.
RESOLVED = 1e-7


@dataclasses.dataclass(frozen=True)
class Bulk:
    """An interval of eigenvalues.

    Attributes:
        low, high: its ends.
        mass: share of all eigenvalues.
        nodes, shares: the share of all eigenvalues between `low` and each node.
    """

    low: float
    high: float
    mass: float
    nodes: np.ndarray = dataclasses.field(repr=False)
    shares: np.ndarray = dataclasses.field(repr=False)


def support_of(covariance: FeatureCovariance) -> tuple[Bulk, ...]:
    """The intervals, found on a grid in the logarithm of the distance from `own`, and their ends by bisection."""
    own, top = covariance.own, covariance.upper_bound()
    # At small noise the lowest interval is as wide as the noise's linear part, at large noise as what points share.
    least = min(1e-9 * top, 1e-3 * covariance.beta, 1e-3 * covariance.shared)
    offsets = np.geomspace(max(least, RESOLVED * own), top - own, SCANNED)
    inside = _is_inside(covariance, own + offsets)
    change = np.flatnonzero(inside[1:] != inside[:-1])
    low, high, rising = offsets[change], offsets[change + 1], inside[change + 1]
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        up = _is_inside(covariance, own + middle) == rising
        low, high = np.where(up, low, middle), np.where(up, middle, high)
    ends = list(own + np.sqrt(low * high))
    if inside[0]:  # down to the atom
        ends.insert(0, own + offsets[0])
    return tuple(_bulk(covariance, a, b) for a, b in zip(ends[::2], ends[1::2], strict=True))


def _is_inside(covariance: FeatureCovariance, x: np.ndarray) -> np.ndarray:
    q = covariance.equivalent(x.astype(complex)).q
    # At large noise the points say little, and q is near one: what differs from one counts, and the size of that.
    least = covariance.per_point * covariance.gamma / covariance.beta
    return -q.imag > VISIBLE * np.minimum(np.abs(q), np.abs(1 - q) + least)


def _bulk(covariance: FeatureCovariance, low: float, high: float) -> Bulk:
    """Gauss-like nodes: evenly spaced angles, in the logarithm, where the roots at both ends are smooth."""
    own = covariance.own
    a, b = np.log(low - own), np.log(high - own)
    angle = np.pi * (np.arange(NODES) + 0.5) / NODES
    place = (a + b) / 2 - (b - a) / 2 * np.cos(angle)
    x = own + np.exp(place)
    density = np.maximum(covariance.equivalent(x.astype(complex)).trace.imag, 0) / np.pi
    steps = density * (x - own) * (b - a) / 2 * np.sin(angle) * (np.pi / NODES)
    ends = np.concatenate(
        [[low], own + np.exp((a + b) / 2 - (b - a) / 2 * np.cos(angle + np.pi / 2 / NODES))]
    )
    shares = np.concatenate([[0.0], np.cumsum(steps)])
    return Bulk(float(low), float(high), float(shares[-1]), ends, shares)


def cumulative_of(bulk: Bulk, x: np.ndarray) -> np.ndarray:
    return np.interp(x, bulk.nodes, bulk.shares)
