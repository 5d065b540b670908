"""Speciation: the noise level at which a trajectory commits to the gross structure of the data, or to a class."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._kinds import checks_kinds
from ..denoisers import AbstractPosteriorDenoiser, GaussianDenoiser
from ..measures import Estimate
from ._curve import InformationCurve, as_training_set


@checks_kinds
def speciation_level(data: Any) -> Float[Array, ""]:
    """`sigma = sqrt(lambda_1)`, with lambda_1 the largest eigenvalue of the data's covariance: the spectral criterion.

    There the noise is as wide as the data are in their widest direction. Above, the law of noisy points is nearly Gaussian;
    below, the largest separation shows. In a variance-preserving process it is the time at which `lambda_1 exp(-2 t)` is of
    the noise's size.

    Args:
        data: points, shape (n, d), a `Dataset`, or a denoiser that knows its law's covariance; in data units.

    Raises:
        ValueError: for bad shapes or values.

    Source: Biroli, Bonnaire, de Bortoli and Mezard 2024.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.regimes.speciation_level(jnp.array([[-3.0, 0.0], [3.0, 0.0]])).round(4))
        3.0
    """
    if isinstance(data, GaussianDenoiser):
        return jnp.sqrt(jnp.max(data.variances))
    if isinstance(data, AbstractPosteriorDenoiser):
        covariance = data.mean_and_covariance()[1]
        dtype, matrix = covariance.dtype, np.asarray(covariance, np.float64)
    elif callable(data):
        raise ValueError(
            "`data` must be points or a denoiser that knows its law's covariance; got "
            f"{type(data).__name__}."
        )
    else:
        points = as_training_set(data)[0]
        dtype, centred = points.dtype, np.asarray(points, np.float64)
        centred = centred - centred.mean(axis=0)
        # The smaller of the two products has the same largest eigenvalue.
        flat = centred if centred.shape[0] >= centred.shape[1] else centred.T
        matrix = flat.T @ flat / len(centred)
    return jnp.asarray(np.sqrt(max(np.linalg.eigvalsh(matrix)[-1], 0)), dtype)


@checks_kinds
def class_level(curve: InformationCurve, share: float = 0.5) -> Estimate:
    """The noise level at which a noisy point gives that share of what there is to know about its class.

    Args:
        curve: made with labels.
        share: of the classes' entropy, between 0 and 1.

    Returns:
        Estimate of the level, in data units, interpolated in log sigma between the curve's levels.

    Raises:
        ValueError: for a curve without classes, or with one class; a share outside (0, 1); and a curve whose levels do not
            reach from more to less than it.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> points, labels = jnp.array([[-1.0], [-0.9], [0.9], [1.0]]), [0, 0, 1, 1]
        >>> levels = jnp.geomspace(0.05, 10.0, 24)
        >>> curve = sj.regimes.information_curve(points, jax.random.key(0), levels, labels=labels)
        >>> 0.5 < float(sj.regimes.class_level(curve).value) < 2.0
        True
    """
    if curve.class_information is None or curve.max_class_information is None:
        raise ValueError("`curve` must be made with labels; got one without classes.")
    if not 0 < share < 1:
        raise ValueError(f"`share` must lie between 0 and 1; got {share}.")
    most = float(curve.max_class_information)
    if not most > 0:
        raise ValueError("`curve` must know at least two classes; got one.")
    order = np.argsort(np.asarray(curve.sigma))
    times = np.log(np.asarray(curve.sigma, np.float64)[order])
    known = np.asarray(curve.class_information.value, np.float64)[order] / most
    errors = np.asarray(curve.class_information.standard_error, np.float64)[order] / most
    falls = np.flatnonzero((known[:-1] >= share) & (known[1:] < share))
    if len(falls) == 0:
        raise ValueError(
            f"`curve` must reach from more to less than a share of {share}; got {known.max():.3g} to {known.min():.3g}."
        )
    place = falls[0]
    fall, step = known[place] - known[place + 1], times[place + 1] - times[place]
    level = np.exp(times[place] + (known[place] - share) / fall * step)
    error = level * max(errors[place], errors[place + 1]) * step / fall
    dtype = curve.sigma.dtype
    return Estimate(jnp.asarray(level, dtype), jnp.asarray(error, dtype))
