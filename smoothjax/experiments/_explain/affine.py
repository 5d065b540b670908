"""The best affine denoiser near a network, from as few of its outputs as there are: a reference, not a mechanism."""

import math

import numpy as np

from ...denoisers import GaussianDenoiser

# Ridge penalties, over the mean square of the features; infinity leaves the Gaussian denoiser as it is.
PENALTIES = (*np.geomspace(1e-4, 1e3, 15), math.inf)


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
    is the one of least error at the
    calibration points.

    Args:
        gaussian: of the training set.
        u: noisy points, (n, d): first those of the fit, then those of the calibration, then others.
        network: its outputs at them.
        sigma: their noise level.
        num_fit, num_calibration: how many are of the first and second kind.
    """
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
    calibration = slice(num_fit, num_fit + num_calibration)

    def predicted(penalty: float, rows: slice) -> np.ndarray:
        if math.isinf(penalty):
            return np.zeros_like(excess[rows])
        size = penalty * values.mean()
        return kernel[rows] @ (vectors @ (turned / (values + size)[:, None]))

    errors = [np.mean((excess[calibration] - predicted(p, calibration)) ** 2) for p in PENALTIES]
    best = PENALTIES[int(np.argmin(errors))]
    return of_gaussian + predicted(best, slice(None))
