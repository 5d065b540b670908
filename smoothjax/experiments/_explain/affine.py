"""The best affine denoiser near a network, from as few of its outputs as there are: a reference, not a mechanism."""

import math
from collections.abc import Iterator

import numpy as np

from ...denoisers import GaussianDenoiser

# Ridge penalties, over the mean square of the features; infinity leaves the Gaussian denoiser as it is.
PENALTIES = (*np.geomspace(1e-4, 1e3, 15), math.inf)
# Of the Gaussian denoiser, without which it is far from any network where there are few training points for the dimension.
SHRINKAGES = (0.0, *np.geomspace(1e-3, 1.0, 10))


def affine_outputs(
    gaussian: GaussianDenoiser,
    u: np.ndarray,
    network: np.ndarray,
    sigma: float,
    num_fit: int,
    num_calibration: int,
) -> np.ndarray:
    """Outputs at all points of an affine map fitted to a network by ridge regression towards a Gaussian denoiser.

    What is fitted is the network's difference from the Gaussian denoiser, in coordinates
    `(Sigma + sigma^2)^(-1/2) (u - mu)`, in which noisy points are about standard normal however small the noise. The penalty
    and the shrinkage of Sigma are those of least error at the calibration points.

    Args:
        gaussian: of the training set.
        u: noisy points, (n, d): first those of the fit, then those of the calibration, then others.
        network: its outputs at them.
        sigma: their noise level.
        num_fit, num_calibration: how many are of the first and second kind.
    """
    calibration = slice(num_fit, num_fit + num_calibration)
    least, best = math.inf, np.zeros(0)
    for shrinkage in SHRINKAGES:
        for outputs in _fits(gaussian.shrunk(shrinkage), u, network, sigma, num_fit):
            error = float(np.mean((network[calibration] - outputs[calibration]) ** 2))
            if error < least:
                least, best = error, outputs
    return best


def _fits(
    gaussian: GaussianDenoiser, u: np.ndarray, network: np.ndarray, sigma: float, num_fit: int
) -> Iterator[np.ndarray]:
    """Outputs at all points of the ridge regression towards one Gaussian denoiser, with each penalty."""
    mean, basis = (np.asarray(x, np.float64) for x in (gaussian.mean, gaussian.basis))
    centred = u.astype(np.float64) - mean
    noise = sigma**2
    modes = centred @ basis
    rest = centred - modes @ basis.T if basis.shape[1] < basis.shape[0] else 0 * centred
    variances = np.asarray(gaussian.eigenvalues, np.float64)
    complement = float(gaussian.complement)
    features = (modes / np.sqrt(variances + noise)) @ basis.T + rest / math.sqrt(complement + noise)
    of_gaussian = mean + (modes * (variances / (variances + noise))) @ basis.T
    of_gaussian += complement / (complement + noise) * rest
    excess = network.astype(np.float64) - of_gaussian
    kernel = 1 + features @ features[:num_fit].T / features.shape[1]
    values, vectors = np.linalg.eigh(kernel[:num_fit])
    values = np.maximum(values, 0)
    turned = vectors.T @ excess[:num_fit]
    for penalty in PENALTIES:
        if math.isinf(penalty):
            yield of_gaussian
        else:
            size = penalty * values.mean()
            yield of_gaussian + kernel @ (vectors @ (turned / (values + size)[:, None]))
