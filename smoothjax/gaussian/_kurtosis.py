"""The kurtosis that elliptical data share along all directions."""

from typing import Any, NamedTuple

import numpy as np

from .._checks import as_points
from .._kinds import checks_kinds


class EllipticalKurtosis(NamedTuple):
    """An estimate of `k = E z^4 / 3 (E z^2)^2 - 1`, the same for every centred coordinate z of elliptical data.

    Example:
        >>> from smoothjax import gaussian
        >>> points = [[-1.0], [1.0], [-1.0], [1.0]]  # E z^4 = (E z^2)^2, times (N + 1) / (N - 1)
        >>> round(gaussian.elliptical_kurtosis(points).value, 5)
        -0.44444
    """

    value: float
    """0 for Gaussian data, `2 / (nu - 4)` for Student's t with nu degrees of freedom."""
    standard_error: float
    """To leading order in 1/N; without meaning for laws that have no eighth moments."""


@checks_kinds
def elliptical_kurtosis(data: Any) -> EllipticalKurtosis:
    r"""Mardia's kurtosis as the `elliptical_kurtosis` that the theory of fitted Gaussian denoisers takes, from data.

    `k = (N + 1) / (N - 1) b / (d (d + 2)) - 1` with `b` the mean of `r_i^2`, `r_i = (x_i - m)^T S^-1 (x_i - m)`, `S` the
    sample covariance with 1/N: unbiased for Gaussian data. Where the value is within some three standard errors of zero, or
    far below one, the theory of Gaussian data needs no correction.

    With few points a direction the estimate of heavy tails is too low: `b` cannot exceed N d, and S takes up part of what is
    far out. Use some ten points a direction or more.

    For data that are not elliptical it is the average over directions, which theory for elliptical data takes for the same
    everywhere. Points of images are not elliptical; mixtures of few clusters have a negative value.

    The standard error is the root of the variance of `r^2 - 2 (b / d) r` over N, relative to `d (d + 2)`: the second term is
    what fitting the covariance takes off.

    Args:
        data: points, shape (N, d), of more points than directions.

    Raises:
        ValueError: for no more points than directions, or points in a subspace: there no S^-1 is.

    Source: Mardia, "Measures of multivariate skewness and kurtosis with applications", 1970.

    Example:
        >>> import numpy as np
        >>> from smoothjax import gaussian
        >>> found = gaussian.elliptical_kurtosis(np.random.default_rng(0).standard_normal((1000, 5)))
        >>> abs(found.value) < 3 * found.standard_error
        True
    """
    points = np.asarray(as_points(data)).astype(np.float64)
    num, dim = points.shape
    # The second pass removes the rounding error of the first mean.
    points = points - points.mean(axis=0)
    points -= points.mean(axis=0)
    scale = np.sqrt(np.mean(points**2, axis=0))
    message = "`data` must have more points than directions, and no direction without variance"
    if num <= dim or not np.all(scale > 0):
        raise ValueError(f"{message}; got shape {points.shape}.")
    # r are N times squares of left singular vectors: no covariance is formed, or inverted.
    vectors, singular, _ = np.linalg.svd(points / scale, full_matrices=False)
    if not singular[-1] > max(num, dim) * np.finfo(np.float64).eps * singular[0]:
        raise ValueError(f"{message}; got points in a subspace.")
    r = num * np.sum(vectors**2, axis=1)
    b = np.mean(r**2)
    normal = dim * (dim + 2)
    factor = (num + 1) / (num - 1)
    error = np.std(r**2 - 2 * (b / dim) * r) / np.sqrt(num)
    return EllipticalKurtosis(float(factor * b / normal - 1), float(factor * error / normal))
