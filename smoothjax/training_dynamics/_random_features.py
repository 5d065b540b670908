"""Wide random-feature denoisers in training, in the limit of many dimensions: their spectrum, their errors at any time."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float

from .._checks import RealScalar, as_host_floats, positive_parameter, require_finite
from .._kinds import checks_kinds
from ._activation import parts_of
from ._contour import Contour
from ._resolvent import FeatureCovariance, product_trace
from ._support import Bulk, cumulative_of, support_of

Numbers = ArrayLike | Sequence[float]
# Below, the noise's share of a feature is rounded off, and above it that of the data.
LEAST_NOISE, MOST_NOISE = 1e-6, 1e3


class FeatureErrors(NamedTuple):
    """Mean squares a coordinate, in squared data units, at each training time; all of the same shape.

    Attributes:
        train: `|D(x_0 + sigma z) - x_0|^2` on the training points, the mean over noise.
        test: the same on new points.
        excess: `|D(u) - D_*(u)|^2` on new noisy points, D_* the exact denoiser: `test` less `sigma^2 / (1 + sigma^2)`.
    """

    train: Float[np.ndarray, "*times"]
    test: Float[np.ndarray, "*times"]
    excess: Float[np.ndarray, "*times"]


class RandomFeatureLimit:
    r"""A denoiser of p random features, trained on n points in d dimensions at one noise level, as all three grow together.

    Data are standard normal, `u = x_0 + sigma z`, and the model predicts the noise from random features of the input of
    variance one `x = alpha u`, `alpha^2 = 1 / (1 + sigma^2)`:

        D(u) = u - sigma A phi(u),      phi(u) = act(W alpha u / sqrt(d)),

    W of p rows with standard normal entries, frozen. A follows, from zero, the gradient of half the mean squared error
    `(1 / 2n) sum_i E_z |A phi(x_i + sigma z) - z|^2`, whose mean over the noise is exact. So it relaxes with the eigenvalues
    of the covariance of features over noise and points,

        N = (1/n) sum_i E_z phi(x_i + sigma z) phi(x_i + sigma z)^T.

    In the limit N has a linear part, of which the points share `alpha^2`, a nonlinear part that each point shares among its
    noises, as n random vectors, and one that is new with each noise, a multiple of the identity (Gaussian equivalence). What
    generalises is learned at the rate of the linear part, about `c_1^2 p / d`; what is memorised at that of the n vectors,
    `own + shared p / n` where n is much below p: at small noise in a time that grows like n.

    **Units.** Training time is that of the flow on half the mean squared error in the features phi, not divided by sqrt(p).
    With features divided by sqrt(p), as in the papers, the same takes p times as long. Their time variable t of the
    variance-preserving process has `sigma^2 = exp(2 t) - 1`, `alpha = exp(-t)`, `Delta_t = 1 - alpha^2`; their score is
    `-A phi / sqrt(Delta_t)`, their loss `2 / d` times this one, and so the gradient flow of it in their A for
    tau is this one for `2 Delta_t tau / (d p)`.

    The limit is that of numbers of points and features far below `d^3 / 6`, that of cubic polynomials: among these what is
    independent here has room to be so.

    Even parts of an activation, a mean first of all, add a few eigenvalues far above the others, which no density shows, and
    change no error; odd activations have none.

    Solved in float64 by NumPy, whatever JAX is set to.

    Args:
        activation: elementwise, a callable of an array, smooth but for a kink at zero; not linear.
        sigma: noise level, in units of the data's standard deviation, between 1e-6 and 1e3.
        train_ratio: n / d, positive.
        feature_ratio: p / d, positive.

    Raises:
        ValueError: for numbers that are not positive, a noise level out of range, an activation that is linear or not
            finite.

    Source: Bonnaire, Urfin, Biroli and Mezard, arXiv 2505.17638; George, Veiga and Macris, arXiv 2502.00336. The solution is
    derived here: for given W the points enter as a sample covariance.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax import training_dynamics
        >>> limit = training_dynamics.RandomFeatureLimit(jnp.tanh, 0.1, train_ratio=2.0, feature_ratio=32.0)
        >>> round(sum(bulk.mass for bulk in limit.bulks), 3), round(limit.atom, 3)  # (n + d) / p and the rest
        (0.094, 0.906)
        >>> errors = limit.errors([0.0, 1e9])
        >>> bool(errors.train[1] < errors.train[0]), bool(errors.test[1] > errors.train[1])
        (True, True)
    """

    @checks_kinds
    def __init__(
        self,
        activation: Callable[[Any], Any],
        sigma: RealScalar,
        *,
        train_ratio: RealScalar,
        feature_ratio: RealScalar,
    ):
        self.activation = activation
        self.sigma = float(positive_parameter(sigma, "sigma"))
        if not LEAST_NOISE <= self.sigma <= MOST_NOISE:
            raise ValueError(
                f"`sigma` must lie between {LEAST_NOISE:g} and {MOST_NOISE:g} for double precision; got {sigma}."
            )
        ratios = [
            float(positive_parameter(value, name))
            for value, name in ((train_ratio, "train_ratio"), (feature_ratio, "feature_ratio"))
        ]
        self.train_ratio, self.feature_ratio = ratios
        self.signal = 1 / (1 + self.sigma**2)
        self.parts = parts_of(activation, self.signal)
        nonlinear = self.parts.shared + self.parts.own
        if not nonlinear > 1e-12 * (nonlinear + self.parts.linear**2):
            raise ValueError("`activation` must not be linear; got one whose features are.")
        self.covariance = FeatureCovariance.of(self.parts, self.signal, *ratios)
        self._bulks: tuple[Bulk, ...] | None = None
        self._contours: tuple[Contour, Contour, np.ndarray] | None = None

    @property
    def atom(self) -> float:
        """Share of eigenvalues that are equal, to `own`: of features beyond n points and d directions."""
        return max(0.0, 1 - (self.train_ratio + 1) / self.feature_ratio)

    @property
    def bulks(self) -> tuple[Bulk, ...]:
        """The intervals that the rest of the spectrum fills, ascending, each with its share of the eigenvalues."""
        if self._bulks is None:
            self._bulks = support_of(self.covariance)
        return self._bulks

    @checks_kinds
    def density(self, eigenvalues: Numbers) -> Float[np.ndarray, "..."]:
        """Density of the eigenvalues of N, without the atom."""
        x = _numbers(eigenvalues, "eigenvalues")
        inside = np.any([(bulk.low < x) & (x < bulk.high) for bulk in self.bulks], axis=0)
        trace = self.covariance.equivalent(np.where(inside, x, self.bulks[-1].high)).trace
        return np.where(inside, np.maximum(trace.imag, 0) / np.pi, 0.0)

    @checks_kinds
    def cumulative(self, eigenvalues: Numbers) -> Float[np.ndarray, "..."]:
        """Share of the eigenvalues of N up to each of these, the atom's too.

        What lies nearer to `own` than an interval can be told from it, as at large noise, counts as the atom's.
        """
        x = _numbers(eigenvalues, "eigenvalues")
        rest = 1 - sum(bulk.mass for bulk in self.bulks)
        below = max(rest, self.atom) * (x >= self.covariance.own)
        return below + sum(cumulative_of(bulk, x) for bulk in self.bulks)

    @checks_kinds
    def errors(self, durations: Numbers) -> FeatureErrors:
        """Errors after gradient flow for each training time, non-negative.

        The weights at time tau are `A = V^T f(N)`, `f(x) = (1 - exp(-x tau)) / x`, V the covariance of features and noise;
        all errors are traces of f(N), contour integrals of one resolvent and of two.
        """
        times = _numbers(durations, "durations")
        if np.any(times < 0):
            raise ValueError(f"`durations` must be non-negative; got {times.min():g} among them.")
        first, second, product = self._kernels()
        flat = times.ravel()
        # V V^T = scale K.
        scale = self.signal * self.sigma**2 * self.parts.linear**2
        linear = self.feature_ratio * first.resolvent.linear_trace
        once, twice = (first.integral(_filter(first.z, t), linear) for t in (flat, 2 * flat))
        train = 1 - scale * twice
        both = second.double(first, _filter(first.z, flat), _filter(second.z, flat), product)
        test = 1 - scale * (2 * once - both)
        square = self.sigma**2
        shaped = lambda x: square * x.reshape(times.shape)  # noqa: E731
        return FeatureErrors(shaped(train), shaped(test), shaped(test - self.signal))

    @checks_kinds
    def generalization_time(self, fraction: RealScalar = 0.5) -> float:
        """Training time at which the excess error has first come a fraction of its way down to its least.

        Raises:
            ValueError: for a fraction that is not between 0 and 1; where the excess error does not fall at all.
        """
        share = _share(fraction)
        excess = self.errors(self._times()).excess
        start, least = float(self.errors([0.0]).excess[0]), int(np.argmin(excess))
        if not excess[least] < start * (1 - 1e-9):
            raise ValueError(
                "The excess error never falls below its start: with so few points training only memorises."
            )
        target = start + share * (excess[least] - start)
        return self._crossing(lambda e: -e.excess, -target, least + 1)

    @checks_kinds
    def memorization_time(self, fraction: RealScalar = 0.5) -> float:
        """Training time at which the gap between test and training error has come a fraction of its way to its last.

        Where p is much above n, n above d, and the noise small, so that a point's noises share most of what is nonlinear, it
        is proportional to n: the points' own directions are learned at the rate `shared p / n`.

        Raises:
            ValueError: for a fraction that is not between 0 and 1.
        """
        share = _share(fraction)
        last = self.errors([1e3 / self.covariance.own])
        target = share * float(last.test[0] - last.train[0])
        return self._crossing(lambda e: e.test - e.train, target, None)

    def _times(self) -> np.ndarray:
        """From well before the quickest mode to well after the slowest."""
        return np.geomspace(1e-3 / self.bulks[-1].high, 1e3 / self.covariance.own, 300)

    def _crossing(self, curve: Callable[[FeatureErrors], Any], target: float, stop: Any) -> float:
        """Where a curve first reaches a number, by bisection in the logarithm."""
        times = self._times()[:stop]
        i = int(np.argmax(curve(self.errors(times)) >= target))
        low, high = times[max(i - 1, 0)], times[i]
        for _ in range(40):
            middle = np.sqrt(low * high)
            if curve(self.errors([middle]))[0] >= target:
                high = middle
            else:
                low = middle
        return float(np.sqrt(low * high))

    def _kernels(self) -> tuple[Contour, Contour, np.ndarray]:
        if self._contours is None:
            lowest = min(self.covariance.own, self.bulks[0].low)
            ends = (lowest, self.bulks[-1].high)
            # One inside the other, so that two resolvents are never those of one place.
            first, second = (Contour(self.covariance, *ends, width) for width in (0.8, 0.55))
            product = product_trace(first.resolvent, second.resolvent)
            self._contours = first, second, product
        return self._contours


def _filter(z: np.ndarray, times: np.ndarray) -> np.ndarray:
    """`(1 - exp(-z t)) / z`, shape (times, nodes)."""
    return -np.expm1(-times[:, None] * z[None]) / z[None]


def _share(fraction: Any) -> float:
    share = float(positive_parameter(fraction, "fraction"))
    if not share < 1:
        raise ValueError(f"`fraction` must lie between 0 and 1; got {fraction}.")
    return share


def _numbers(values: Any, name: str) -> np.ndarray:
    array = as_host_floats(values, name, np.float64)
    require_finite(array, name)
    return array
