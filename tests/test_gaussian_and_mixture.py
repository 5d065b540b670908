"""Gaussian and mixture denoisers against dense formulas, identities, limits and reference numbers."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal

from smoothjax.denoisers import (
    EmpiricalDenoiser,
    GaussianDenoiser,
    MixtureDenoiser,
    posterior_covariance,
    posterior_covariance_product,
    posterior_variance,
    proxy_score_covariance,
    score,
)


def eps(dtype):
    return float(jnp.finfo(dtype).eps)


def pairs(function):
    """`function(denoiser, u, sigma)`, compiled, at every one of some pairs of a query and a noise level."""
    return eqx.filter_jit(lambda D, us, ss: jax.vmap(lambda u, s: function(D, u, s))(us, ss))


moments = pairs(
    lambda D, u, s: (
        D(u, s),
        D.log_density(u, s),
        D.posterior_covariance(u, s),
        D.posterior_variance(u, s),
    )
)

DIM = 6


def queries(dtype=np.float64):
    rng = np.random.default_rng(7)
    us = np.repeat(2 * rng.standard_normal((4, DIM)), 4, axis=0)
    return us.astype(dtype), np.tile(np.array([0.1, 0.5, 2.0, 50.0]), 4).astype(dtype)


def random_basis(rng, rank):
    return np.linalg.qr(rng.standard_normal((DIM, DIM)))[0][:, :rank]


def compose(basis, eigenvalues, complement):
    return (basis * (eigenvalues - complement)) @ basis.T + complement * np.eye(DIM)


def sample(n, seed=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, DIM)) @ rng.standard_normal((DIM, DIM)) / 2 + np.arange(DIM)


def sample_moments(data):
    return data.mean(axis=0), np.atleast_2d(np.cov(data.T, ddof=0))


# Gaussians, each with its mean and covariance from NumPy alone.


def gaussians(dtype=np.float64):
    rng = np.random.default_rng(5)
    mean = rng.standard_normal(DIM)
    low, spectrum = random_basis(rng, 2), np.array([3.0, 0.2])
    factor = rng.standard_normal((DIM, DIM))
    full, singular = factor @ factor.T, factor[:, :2] @ factor[:, :2].T
    cast = lambda *arrays: [np.asarray(a, dtype) for a in arrays]  # noqa: E731
    many, few = sample(40).astype(dtype), sample(4).astype(dtype)
    (m, s), (m_few, s_few) = map(sample_moments, (np.float64(many), np.float64(few)))
    tau, tau_few = np.trace(s) / DIM, np.trace(s_few) / DIM
    eigenvalues, vectors = np.linalg.eigh(s)
    # Probabilistic PCA: the discarded eigenvalues are replaced by their mean, zeros included.
    left, rest = vectors[:, -2:], eigenvalues[:-2].mean()
    ppca = compose(left, eigenvalues[-2:], rest)
    e_few, v_few = np.linalg.eigh(s_few)
    ppca_few = compose(v_few[:, -1:], e_few[-1:], e_few[:-1].mean())
    zero = np.zeros((DIM, DIM))
    fit = GaussianDenoiser.fit
    return {
        "full": (GaussianDenoiser(*cast(mean, full)), mean, full),
        "singular": (GaussianDenoiser(*cast(mean, singular)), mean, singular),
        "low rank": (
            GaussianDenoiser.low_rank(*cast(mean, low, spectrum)),
            mean,
            compose(low, spectrum, 0),
        ),
        "low rank with complement": (
            GaussianDenoiser.low_rank(*cast(mean, low, spectrum, 0.7)),
            mean,
            compose(low, spectrum, 0.7),
        ),
        "rank 0": (
            GaussianDenoiser.low_rank(*cast(mean, low[:, :0], spectrum[:0], 0.7)),
            mean,
            0.7 * np.eye(DIM),
        ),
        "a point": (
            GaussianDenoiser.low_rank(*cast(mean, low[:, :0], spectrum[:0])),
            mean,
            zero,
        ),
        "fit": (fit(many), m, s),
        "fit to fewer points than coordinates": (fit(few), m_few, s_few),
        "fit to one point": (fit(few[:1]), np.float64(few[0]), zero),
        "fit of rank 2": (fit(many, rank=2), m, ppca),
        "fit of rank 0": (fit(many, rank=0), m, tau * np.eye(DIM)),
        "fit of rank d": (fit(many, rank=DIM), m, s),
        "fit of rank 1 to few": (fit(few, rank=1), m_few, ppca_few),
        "fit of rank above n": (fit(few, rank=5), m_few, s_few),
        "fit, shrunk": (fit(many, shrinkage=0.3), m, 0.7 * s + 0.3 * tau * np.eye(DIM)),
        "fit to few, shrunk": (
            fit(few, shrinkage=0.3),
            m_few,
            0.7 * s_few + 0.3 * tau_few * np.eye(DIM),
        ),
        "fit, shrunk all the way": (fit(few, shrinkage=1.0), m_few, tau_few * np.eye(DIM)),
        "fit of rank 2, shrunk": (
            fit(many, rank=2, shrinkage=0.3),
            m,
            0.7 * ppca + 0.3 * tau * np.eye(DIM),
        ),
    }


def dense(mean, covariance, u, s):
    """Mean, log density and covariance of the posterior, by a solve with Sigma + sigma^2."""
    noisy = covariance + s**2 * np.eye(DIM)
    gain = np.linalg.solve(noisy, covariance).T
    log_density = multivariate_normal(mean, noisy).logpdf(u)
    return mean + gain @ (u - mean), log_density, s**2 * gain


@pytest.mark.parametrize("name", gaussians() if jax.config.jax_enable_x64 else gaussians(np.float32))  # pyright: ignore
def test_gaussian_agrees_with_the_dense_formula(name, dtype):
    D, mean, covariance = gaussians(dtype)[name]
    us, ss = queries(dtype)
    got = [np.float64(value) for value in moments(D, us, ss)]
    assert all(value.dtype == dtype for value in moments(D, us, ss))
    smallest = max(np.linalg.eigvalsh(covariance)[0], 0)
    largest = np.linalg.eigvalsh(covariance)[-1]
    for i, (u, s) in enumerate(zip(np.float64(us), np.float64(ss), strict=True)):
        m, log_density, c = dense(mean, covariance, u, s)
        size = np.linalg.norm(u - mean)
        # A basis and eigenvalues rounded once, and products of d terms; eigenvalues matter relative to lambda + sigma^2.
        few = 20 * eps(dtype) * max(1, largest / (smallest + s**2) * (dtype == np.float64))
        assert np.max(np.abs(got[0][i] - m)) <= few * (size + np.linalg.norm(mean))
        assert np.max(np.abs(got[2][i] - c)) <= few * min(s**2, largest + s**2)
        assert abs(got[3][i] - np.trace(c)) <= few * DIM * s**2
        square = size**2 / (smallest + s**2)
        bound = few * (square + DIM * (1 + abs(math.log(smallest + s**2))))
        assert abs(got[1][i] - log_density) <= bound
    m, c = D.mean_and_covariance()
    np.testing.assert_allclose(m, mean, atol=20 * eps(dtype) * np.max(np.abs(mean)))
    np.testing.assert_allclose(c, covariance, atol=20 * eps(dtype) * max(largest, 1e-30))
    np.testing.assert_array_equal(D.covariance(), c)
    assert D.dim == DIM
