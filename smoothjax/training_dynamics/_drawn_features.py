"""Random features that are drawn and trained, with exact means over the noise: what the limit is the limit of."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import (
    RealScalar,
    as_float_array,
    as_host_floats,
    as_key,
    as_points,
    as_positive_integer,
    positive_parameter,
    require_finite,
)
from .._jax.precision import HIGHEST
from .._kinds import checks_kinds, require_kinds_of_fields
from .._numerics import flow_filter, square_of_level
from ..denoisers import AbstractDenoiser
from ._activation import hermite_functions, values_of
from ._random_features import FeatureErrors, Numbers

# Of Gauss-Hermite's rule for a feature's mean over the noise, and points at a time.
NODES, VALUES_AT_ONCE = 40, 2**24


class RandomFeatureDenoiser(AbstractDenoiser):
    """`D(u) = u - sigma A act(W alpha u / sqrt(d))`, `alpha^2 = 1 / (1 + sigma^2)`: good where it was trained, at one level.

    Args:
        weights: W, shape (p, d).
        readout: A, shape (d, p).
        activation: elementwise.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax import training_dynamics
        >>> D = training_dynamics.RandomFeatureDenoiser(jnp.ones((2, 1)), jnp.array([[0.5, 0.5]]), lambda x: 3 * x)
        >>> print(D(jnp.array([2.0]), 1.0).round(4))  # 2 - 3 sqrt(2)
        [-2.2426]
    """

    weights: Float[Array, "p d"] = eqx.field(converter=lambda x: as_float_array(x, "weights"))
    readout: Float[Array, "d p"] = eqx.field(converter=lambda x: as_float_array(x, "readout"))
    activation: Callable[[Array], Array]

    def __check_init__(self):
        require_kinds_of_fields(self)

    @property
    def dim(self) -> int:
        return self.readout.shape[0]

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        scale = 1 / jnp.sqrt((1 + square_of_level(sigma)) * self.dim)
        inputs = jnp.dot(self.weights.astype(u.dtype), scale * u, precision=HIGHEST)
        noise = jnp.dot(self.readout.astype(u.dtype), self.activation(inputs), precision=HIGHEST)
        return u - sigma * noise


class DrawnRandomFeatures:
    r"""The model of `RandomFeatureLimit` at finite size: weights drawn, trained on points, with exact means over the noise.

    The mean over the noise of a product of two features is a series in the cosine of their weights, with the Hermite
    coefficients of both, which ends where the largest cosine's power is below rounding, or after `max_order`; test errors
    are of standard normal data, by such a series too. Costs O(p^2 n) a term and O(p^3) once, in float64 by NumPy.

    Args:
        points: training points, shape (n, d), of standard normal data for the test errors.
        activation: elementwise, a callable of an array, smooth.
        sigma: noise level.
        num_features: p.
        key: of the weights.
        normalized: whether rows of W are scaled to the length sqrt(d) that they have in the limit: what is each noise's own
            grows with the length's sixth power or so, and would differ by some `4 / sqrt(d)` from feature to feature.
        max_order: of the series, at most; what is left out is of the order of the largest cosine to this power.

    Attributes:
        weights: W, shape (p, d).

    Raises:
        ValueError: for bad points, sizes or noise level, or an activation that is not finite.

    Source: Bonnaire, Urfin, Biroli and Mezard, arXiv 2505.17638.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smoothjax import training_dynamics
        >>> points = jax.random.normal(jax.random.key(0), (10, 5))
        >>> model = training_dynamics.DrawnRandomFeatures(points, jnp.tanh, 0.5, num_features=40, key=jax.random.key(1))
        >>> errors = model.errors([0.0, 1e6])
        >>> round(float(errors.train[0]), 4), bool(errors.train[1] < errors.test[1])  # untrained, it leaves all of the noise
        (0.25, True)
    """

    @checks_kinds
    def __init__(
        self,
        points: Float[Array, "n d"],
        activation: Callable[[Any], Any],
        sigma: RealScalar,
        *,
        num_features: int,
        key: PRNGKeyArray,
        normalized: bool = False,
        max_order: int = 30,
    ):
        x = np.asarray(as_points(points, "points"), np.float64)
        p, order = (
            as_positive_integer(value, name)
            for value, name in ((num_features, "num_features"), (max_order, "max_order"))
        )
        self.activation, self.sigma = activation, float(positive_parameter(sigma, "sigma"))
        d = x.shape[1]
        self.weights = np.asarray(jax.random.normal(as_key(key), (p, d)), np.float64)
        lengths = np.linalg.norm(self.weights, axis=1)
        directions = self.weights / lengths[:, None]
        if normalized:
            lengths = np.full_like(lengths, np.sqrt(d))
            self.weights = lengths[:, None] * directions
        self._cosines = directions @ directions.T
        np.fill_diagonal(self._cosines, 0)
        order = self._needed(order)
        alpha = 1 / np.sqrt(1 + self.sigma**2)
        spread = lengths / np.sqrt(d)
        # Over the points, and over the whole law at the mean of zero.
        seen = self._over_noise(
            alpha * x @ self.weights.T / np.sqrt(d), alpha * self.sigma * spread, order
        )
        new = self._over_noise(np.zeros((1, p)), spread, order)
        self._covariance, slopes = seen
        self._of_new, slopes_of_new = new
        self._cross = slopes[:, None] * directions
        self._cross_of_new = alpha * self.sigma * slopes_of_new[:, None] * directions

    @functools.cached_property
    def eigenvalues(self) -> Float[np.ndarray, " p"]:
        """Of the covariance N of features over noise and points, ascending."""
        if "_modes" in self.__dict__:
            return self._modes[0]
        return np.maximum(np.linalg.eigvalsh(self._covariance), 0)

    @functools.cached_property
    def _modes(self) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = np.linalg.eigh(self._covariance)
        return np.maximum(values, 0), vectors

    def _needed(self, order: int) -> int:
        largest = np.max(np.abs(self._cosines), initial=0)
        if 0 < largest < 1:
            order = min(order, int(np.ceil(np.log(1e-17) / np.log(largest))))
        return max(order, 1)

    def _over_noise(
        self, means: np.ndarray, spread: np.ndarray, order: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means over b of products of features `act(mean + spread b)`, and of features with b; over the rows of `means`."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        weights = weights / weights.sum()
        basis = hermite_functions(nodes, order).T * weights[:, None]
        num, p = means.shape
        total, slopes, squares = np.zeros((p, p)), np.zeros(p), np.zeros(p)
        rows = max(1, VALUES_AT_ONCE // (p * NODES))
        for start in range(0, num, rows):
            inputs = means[start : start + rows, :, None] + spread[None, :, None] * nodes
            values = values_of(self.activation, inputs)
            squares += np.sum(values**2 @ weights, axis=0)
            coefficients = np.moveaxis(values @ basis, -1, 0)
            slopes += coefficients[1].sum(axis=0)
            power = np.ones((p, p))
            for one in coefficients:
                total += power * (one.T @ one)
                power = power * self._cosines
        np.fill_diagonal(total, squares)
        return total / num, slopes / num

    @checks_kinds
    def errors(self, durations: Numbers) -> FeatureErrors:
        """As `RandomFeatureLimit.errors`, of this model on its own points and on standard normal ones."""
        times = _times(durations, "durations")
        d, (values, vectors) = self.weights.shape[1], self._modes
        ours, new = vectors.T @ self._cross, vectors.T @ self._cross_of_new
        of_new = vectors.T @ self._of_new @ vectors
        train, test = [], []
        for time in times.ravel():
            readout = flow_filter(values, time)[:, None] * ours
            train.append(np.sum(readout * (values[:, None] * readout - 2 * ours)))
            test.append(np.sum(readout * (of_new @ readout - 2 * new)))
        square = self.sigma**2
        train, test = (
            square * (1 + np.reshape(values, times.shape) / d) for values in (train, test)
        )
        return FeatureErrors(train, test, test - square / (1 + square))

    @checks_kinds
    def denoiser(self, duration: RealScalar) -> RandomFeatureDenoiser:
        """The denoiser after gradient flow for a time `duration`, non-negative."""
        time = _times(duration, "duration")
        if time.shape != ():
            raise ValueError(f"`duration` must be a scalar; got shape {time.shape}.")
        values, vectors = self._modes
        readout = vectors @ (flow_filter(values, time)[:, None] * (vectors.T @ self._cross))
        return RandomFeatureDenoiser(
            jnp.asarray(self.weights), jnp.asarray(readout.T), self.activation
        )


def _times(durations: Any, name: str) -> np.ndarray:
    times = as_host_floats(durations, name, np.float64)
    require_finite(times, name)
    if np.any(times < 0):
        raise ValueError(f"`{name}` must be non-negative; got {times.min():g}.")
    return times
