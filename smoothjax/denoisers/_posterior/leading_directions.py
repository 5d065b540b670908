"""Directions in which points spread most."""

import numpy as np

# Points from which the basis is computed. Any basis gives bounds; a better one tighter bounds.
BASIS_POINTS = 8192


def leading_directions(points: np.ndarray, centre: np.ndarray, num: int) -> np.ndarray:
    """An orthonormal basis, shape (d, num), of about the subspace that holds most of the points' variance."""
    n, d = points.shape
    taken = points[:: max(1, n // BASIS_POINTS)].astype(np.float32) - centre.astype(np.float32)
    # Subspace iteration: what it leaves inexact costs tightness only.
    basis = np.random.default_rng(0).standard_normal((d, num), np.float32)
    for _ in range(3):
        basis = taken.T @ (taken @ np.linalg.qr(basis)[0])
    basis = np.linalg.qr(basis)[0]
    # Within the subspace, the leading directions first.
    along = taken @ basis
    rotation = np.linalg.eigh(along.T @ along)[1][:, ::-1]
    return np.linalg.qr((basis @ rotation).astype(np.float64))[0]
