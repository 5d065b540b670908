"""Feature maps `phi(u, sigma)` of models that are linear in their weights."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import (
    RealScalar,
    as_float_array,
    as_non_negative_integer,
    as_positive_integer,
    require_ascending,
    require_each,
    require_positive,
)
from .._kinds import checks_kinds
from ..processes import AbstractProcess

Features = Callable[[Float[Array, " d"], Float[Array, ""]], Float[Array, " F"]]
"""Any callable `(u, sigma) -> (F,)`."""


class GaussianBumps(eqx.Module):
    """Normal densities of one variable around given centres: shape () -> (F,).

    Args:
        centres: shape (F,).
        width: standard deviation, in units of the variable.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> bumps = sj.variance.GaussianBumps([0.0, 9.0], 1.0)
        >>> [round(float(phi), 4) for phi in bumps(jnp.array(0.0))]  # 1 / sqrt(2 pi) at its centre
        [0.3989, 0.0]
    """

    centres: Float[Array, " F"]
    width: Float[Array, ""]

    @checks_kinds
    def __init__(self, centres: Any, width: RealScalar):
        self.centres = as_float_array(centres, "centres")
        if self.centres.ndim != 1 or self.centres.shape[0] == 0:
            raise ValueError(f"`centres` must have shape (F,); got {self.centres.shape}.")
        self.width = require_positive(width, "width").astype(self.centres.dtype)

    @classmethod
    @checks_kinds
    def evenly(cls, low: float, high: float, num: int) -> "GaussianBumps":
        """`num` bumps evenly from `low` to `high`, both included, half their spacing wide.

        Example:
            >>> import smoothjax as sj
            >>> bumps = sj.variance.GaussianBumps.evenly(-1.0, 1.0, 5)
            >>> print(bumps.centres, bumps.width)
            [-1.  -0.5  0.   0.5  1. ] 0.25
        """
        require_ascending(low, high)
        if as_positive_integer(num, "num") < 2:
            raise ValueError(f"`num` must be at least 2, one for each end; got {num}.")
        return cls(jnp.linspace(float(low), float(high), num), 0.5 * (high - low) / (num - 1))

    def __call__(self, x: Float[Array, ""]) -> Float[Array, " F"]:
        z = (x - self.centres) / self.width
        return jnp.exp(-0.5 * z**2) / (math.sqrt(2 * math.pi) * self.width)


class FourierSeries(eqx.Module):
    """`1`, cosines and sines of a period: shape () -> (1 + num_cosines + num_sines,).

    Args:
        period: of the lowest pair.
        num_cosines, num_sines: harmonics, from the lowest.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.variance.FourierSeries(4.0, 1, 1)(jnp.array(1.0)).round(5) + 0.0)  # 1, cos(pi / 2), sin(pi / 2)
        [1. 0. 1.]
    """

    period: Float[Array, ""]
    num_cosines: int = eqx.field(static=True)
    num_sines: int = eqx.field(static=True)

    @checks_kinds
    def __init__(self, period: RealScalar, num_cosines: int, num_sines: int):
        self.period = require_positive(period, "period")
        for name, num in (("num_cosines", num_cosines), ("num_sines", num_sines)):
            as_non_negative_integer(num, name)
        self.num_cosines, self.num_sines = int(num_cosines), int(num_sines)

    def __call__(self, x: Float[Array, ""]) -> Float[Array, " F"]:
        angle = 2 * math.pi * x / self.period.astype(jnp.result_type(x))
        cosines = jnp.cos(angle * jnp.arange(1, self.num_cosines + 1, dtype=angle.dtype))
        sines = jnp.sin(angle * jnp.arange(1, self.num_sines + 1, dtype=angle.dtype))
        return jnp.concatenate([jnp.ones(1, cosines.dtype), cosines, sines])


class ProductFeatures(eqx.Module):
    """All products of features of each coordinate and of time, of the noisy state of a forward process.

    `phi(u, sigma)` with `x = alpha u` and `t` the time at which the process has that noise level: the features of the
    variance paper are functions of `(x_t, t)`.

    Args:
        coordinates: one map `() -> (F_i,)` a coordinate of x.
        time: a map `() -> (F_t,)` of t.
        process: the forward process that relates (x, t) to (u, sigma).

    Returns, when called with u (d,) and sigma (), shape (F_1 ... F_d F_t,), the index of time running fastest.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> powers, times = lambda x: jnp.array([1.0, x, x**2]), lambda t: jnp.array([1.0, t])
        >>> features = sj.variance.ProductFeatures([powers], times, sj.EDM())
        >>> print(features(jnp.array([3.0]), jnp.array(2.0)))  # x = 3, t = 2
        [ 1.  2.  3.  6.  9. 18.]
    """

    coordinates: tuple[Callable[[Array], Array], ...]
    time: Callable[[Array], Array]
    process: AbstractProcess

    @checks_kinds
    def __init__(
        self,
        coordinates: Sequence[Callable[[Array], Array]],
        time: Callable[[Array], Array],
        process: AbstractProcess,
    ):
        self.coordinates = tuple(coordinates)
        require_each(self.coordinates, "coordinates")
        self.time, self.process = time, process

    def __call__(self, u: Float[Array, " d"], sigma: Float[Array, ""]) -> Float[Array, " F"]:
        product = jnp.ones(1, u.dtype)
        for one in self._factors(u, sigma):
            product = jnp.outer(product, one).ravel()
        return product

    def combine(
        self, weights: Float[Array, "k F"], u: Float[Array, " d"], sigma: Float[Array, ""]
    ) -> Float[Array, " k"]:
        """`weights @ self(u, sigma)`, summed over one factor after the other, time first.

        A batch of states at one noise level shares the sum over time, and each state then costs `k F_1 ... F_d`.
        """
        *space, time = self._factors(u, sigma)
        for one in (time, *reversed(space)):
            weights = jnp.matmul(weights.reshape(-1, one.shape[0]), one, precision="highest")
        return weights

    def _factors(self, u: Array, sigma: Array) -> list[Array]:
        if u.shape != (len(self.coordinates),):
            raise ValueError(f"`u` must have shape ({len(self.coordinates)},); got {u.shape}.")
        x, t = self.process.from_noise_coordinates(u, sigma)
        pairs = zip((*self.coordinates, self.time), (*x, t), strict=True)
        return [one(coordinate).astype(u.dtype) for one, coordinate in pairs]


def combine_features(
    features: Features,
    weights: Float[Array, "k F"],
    u: Float[Array, " d"],
    sigma: Float[Array, ""],
) -> Float[Array, " k"]:
    """`weights @ features(u, sigma)`, the cheapest way there is."""
    if isinstance(features, ProductFeatures):
        return features.combine(weights, u, sigma)
    return jnp.matmul(weights, features(u, sigma), precision="highest")
