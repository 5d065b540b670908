"""Functions of random matrices as contour integrals of their resolvents."""

import numpy as np

from ._resolvent import FeatureCovariance

# Nodes a unit of the interval's logarithm, over the width of the contour: the rule converges geometrically.
NODES_PER_UNIT, LEAST_NODES = 24, 96


class Contour:
    """An ellipse about an interval of positive numbers, in the logarithm, where it may span many orders of magnitude.

    Away from zero, whose singularity is none of the functions that are integrated.
    """

    def __init__(self, covariance: FeatureCovariance, low: float, high: float, width: float):
        middle, half = np.log(low * high) / 2, np.log(high / low) / 2
        # The half axes of an ellipse with the ends as foci, and the given height.
        along = np.sqrt(half**2 + width**2)
        num = max(LEAST_NODES, 2 * int(np.ceil(NODES_PER_UNIT * along / width)))
        angle = 2 * np.pi * (np.arange(num) + 0.5) / num
        place = middle + along * np.cos(angle) + 1j * width * np.sin(angle)
        tangent = -along * np.sin(angle) + 1j * width * np.cos(angle)
        self.z = np.exp(place)
        # `f(N) = -(1 / 2 pi i) int f(z) (N - z)^-1 dz`, anticlockwise.
        self.weights = -self.z * tangent * (2 * np.pi / num) / (2j * np.pi)
        self.resolvent = covariance.equivalent(self.z)

    def integral(self, function: np.ndarray, trace: np.ndarray) -> np.ndarray:
        """Trace of a function of the matrix, given at the nodes, shape (..., nodes), from that of its resolvent."""
        return (function @ (self.weights * trace)).real

    def double(
        self, first: "Contour", f: np.ndarray, g: np.ndarray, product: np.ndarray
    ) -> np.ndarray:
        """Trace of the product of two functions with what is between, from that of two resolvents (first, this one)."""
        inner = (f * first.weights) @ product
        return np.sum(inner * (g * self.weights), axis=-1).real
