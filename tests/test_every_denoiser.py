"""What every public denoiser promises by its type, whatever it computes: methods that work."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj

POINTS = np.random.default_rng(0).standard_normal((24, 4))
LINE = np.unique(POINTS[:, :1], axis=0)
QUERY, SIGMA = np.array([0.25, -0.5, 0.75, 0.125]), 0.7


def images(points):
    return points.reshape(-1, 2, 2, 1)


MAKERS = {
    "EmpiricalDenoiser": sj.EmpiricalDenoiser,
    "TruncatedDenoiser": sj.TruncatedDenoiser,
    "ShardedDenoiser": lambda x: sj.ShardedDenoiser(
        x, jax.sharding.Mesh(jax.devices()[:1], "data")
    ),
    "StreamedDenoiser": lambda x: sj.StreamedDenoiser(x, 7),
    "GaussianDenoiser": sj.GaussianDenoiser.fit,
    "DualGaussianDenoiser": sj.DualGaussianDenoiser,
    "MixtureDenoiser": lambda x: sj.MixtureDenoiser.fit(x, num_components=2),
    "TemperedDenoiser": lambda x: sj.TemperedDenoiser(x, 4.0),
    "GaussianSmoothedDenoiser": lambda x: sj.GaussianSmoothedDenoiser(x, 0.3, 8, jax.random.key(0)),
    "NoiseUnconditionedDenoiser": lambda x: sj.NoiseUnconditionedDenoiser(x, np.array([0.3, 1.0])),
    "LocalDenoiser": lambda x: sj.LocalDenoiser(images(x), 1),
    "EquivariantLocalDenoiser": lambda x: sj.EquivariantLocalDenoiser(images(x), 1),
    "PatchCompositeDenoiser": lambda x: sj.PatchCompositeDenoiser(images(x), 1),
    "WienerMaskDenoiser": lambda x: sj.WienerMaskDenoiser(images(x)),
    "SwitchedDenoiser": lambda x: sj.SwitchedDenoiser(
        sj.GaussianDenoiser.fit(x), sj.EmpiricalDenoiser(x), 1.0
    ),
    "ScheduledDenoiser": lambda x: sj.ScheduledDenoiser(
        [sj.EmpiricalDenoiser(x), sj.GaussianDenoiser.fit(x)], np.array([0.5])
    ),
    "RescaledDenoiser": lambda x: sj.RescaledDenoiser(
        sj.EmpiricalDenoiser((x - x.mean(0)) / 2), x.mean(0), 2.0
    ),
    "LineDenoiser": lambda x: sj.LineDenoiser(
        # Points along the direction, about the offset: where the data lie is the offset's.
        sj.PiecewiseLinearDenoiser(LINE[:, 0].astype(x.dtype), 0.5),
        np.eye(4)[0],
        x[0],
    ),
    # On a line.
    "PiecewiseLinearDenoiser": lambda x: sj.PiecewiseLinearDenoiser(x[:, 0], 0.5),
    "BoxSmoothedDenoiser": lambda x: sj.BoxSmoothedDenoiser(x, 0.3),
    "GaussianSmoothedLineDenoiser": lambda x: sj.GaussianSmoothedLineDenoiser(x[:, 0], 0.3),
}
ON_A_LINE = {"PiecewiseLinearDenoiser", "BoxSmoothedDenoiser", "GaussianSmoothedLineDenoiser"}


def made(name, dtype):
    points, u = (LINE, QUERY[:1]) if name in ON_A_LINE else (POINTS, QUERY)
    return MAKERS[name](points.astype(dtype)), jnp.asarray(u, dtype)


def test_none_is_left_out():
    public = {
        name
        for name, kind in vars(sj).items()
        if inspect.isclass(kind)
        and issubclass(kind, sj.AbstractDenoiser)
        and not inspect.isabstract(kind)
    }
    assert public == set(MAKERS)


@pytest.mark.parametrize("name", MAKERS)
def test_methods_of_its_type_work(name, dtype):
    D, u = made(name, dtype)
    sigma = jnp.asarray(SIGMA, dtype)
    assert D.dim == u.shape[0]
    value = D(u, sigma)
    mean, variance = D.mean_and_variance(u, sigma)
    np.testing.assert_allclose(mean, value, atol=100 * np.finfo(dtype).eps)
    assert np.isfinite(float(variance)) and variance.shape == ()
    if isinstance(D, sj.AbstractPosteriorDenoiser):
        assert D.log_density(u, sigma).shape == ()
        covariance = D.posterior_covariance(u, sigma)
        tolerance = 1e-4 if dtype == np.float32 else 1e-10
        np.testing.assert_allclose(np.trace(covariance), variance, rtol=tolerance)
        np.testing.assert_allclose(D.posterior_variance(u, sigma), variance, rtol=tolerance)
        product = D.posterior_covariance_product(u, sigma, jnp.ones_like(u))
        np.testing.assert_allclose(product, covariance.sum(axis=1), atol=tolerance)
        moments = D.mean_and_covariance()
        assert moments[0].shape == u.shape and moments[1].shape == 2 * u.shape
