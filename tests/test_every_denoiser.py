"""What every public denoiser promises by its type, whatever it computes: methods that work."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from zoo import MAKERS, SIGMA, made

import smoothjax as sj


def test_none_is_left_out():
    public = {
        name
        for name, kind in vars(sj.denoisers).items()
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
