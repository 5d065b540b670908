"""Means over points with what their draw leaves uncertain, in NumPy: of arrays whose last axis is that of the points."""

import math
from typing import Any

import numpy as np
from scipy.special import stdtrit


def error_of_mean(values: np.ndarray) -> Any:
    """Standard error of the mean over the last axis."""
    return np.std(values, axis=-1, ddof=1) / math.sqrt(values.shape[-1])


def root_of(squares: np.ndarray) -> tuple[Any, Any]:
    """Root mean square over the last axis, and its standard error."""
    root = np.sqrt(squares.mean(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return root, np.where(root > 0, error_of_mean(squares) / (2 * root), 0.0)


def ratio_of(numerators: np.ndarray, denominators: np.ndarray) -> tuple[Any, Any]:
    """Ratio of means over the last axis, and its standard error from the paired values."""
    below = denominators.mean(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = numerators.mean(axis=-1) / below
        return ratio, error_of_mean(numerators - ratio[..., None] * denominators) / below


def mean_interval(values: np.ndarray, confidence: float) -> np.ndarray:
    """Student's interval for the mean over the last axis, with an axis of its two ends."""
    num = values.shape[-1]
    half = stdtrit(num - 1, (1 + confidence) / 2) * error_of_mean(values)
    mean = values.mean(axis=-1)
    return np.stack([mean - half, mean + half], axis=-1)
