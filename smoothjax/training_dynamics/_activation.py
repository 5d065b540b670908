"""What of an activation matters for wide random features: Hermite coefficients of it, by quadrature."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._checks import shown

# Panels of Gauss's rule on the line, with one end at zero for activations that have a kink there.
REACH, PANELS, NODES = 13.0, 64, 16
ORDER = 200


def gauss_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for means over a standard normal variable."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    edges = np.linspace(-REACH, REACH, PANELS + 1)
    half = (edges[1] - edges[0]) / 2
    nodes = (edges[:-1, None] + half * (1 + x[None])).ravel()
    weights = np.tile(half * w, PANELS) * np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi)
    return nodes, weights / weights.sum()


def hermite_functions(nodes: np.ndarray, order: int) -> np.ndarray:
    """`He_k / sqrt(k!)`, orthonormal under the normal law, for k up to `order`: shape (order + 1, ...)."""
    found = [np.ones_like(nodes), nodes]
    for k in range(1, order):
        found.append((nodes * found[k] - np.sqrt(k) * found[k - 1]) / np.sqrt(k + 1))
    return np.stack(found[: order + 1])


def values_of(activation: Callable[[Any], Any], nodes: np.ndarray) -> np.ndarray:
    """The activation at some nodes, in float64, or `ValueError` for what is no function of numbers to finite numbers."""
    found = np.asarray(activation(jnp.asarray(nodes)), np.float64)
    if found.shape != nodes.shape or not np.all(np.isfinite(found)):
        raise ValueError(
            f"`activation` must turn an array of numbers into finite ones of its shape; got {shown(found)}."
        )
    return found


@dataclasses.dataclass(frozen=True)
class ActivationParts:
    """Mean squares of an activation of a standard normal variable, of which a share `alpha^2` is the data's.

    Attributes:
        mean: the constant part.
        linear: the coefficient of the linear part.
        shared: mean square of the nonlinear part that the data point fixes.
        own: mean square of the nonlinear part that differs from noise to noise.
    """

    mean: float
    linear: float
    shared: float
    own: float


def parts_of(activation: Callable[[Any], Any], signal: float) -> ActivationParts:
    """With `signal = alpha^2`: the k-th Hermite coefficient's square is shared to the share `alpha^(2k)`."""
    nodes, weights = gauss_nodes()
    values = values_of(activation, nodes)
    coefficients = hermite_functions(nodes, ORDER) @ (weights * values)
    squares = coefficients**2
    orders = np.arange(2, ORDER + 1)
    # What is beyond the last coefficient counts as noise's own: of smooth activations nothing is.
    beyond = max(float(weights @ values**2 - squares.sum()), 0.0)
    shared = float(np.sum(squares[2:] * signal**orders))
    own = float(-np.sum(squares[2:] * np.expm1(orders * np.log(signal)))) + beyond
    return ActivationParts(float(coefficients[0]), float(coefficients[1]), shared, own)
