"""What every public denoiser promises by its type, whatever it computes: methods that work."""

import inspect

import equinox as eqx
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


def promised(D, u, sigma):
    """What the methods of a denoiser's type give."""
    found = {"value": D(u, sigma), "both": D.mean_and_variance(u, sigma)}
    if isinstance(D, sj.AbstractPosteriorDenoiser):
        found["density"] = D.log_density(u, sigma)
        found["covariance"] = D.posterior_covariance(u, sigma)
        found["variance"] = D.posterior_variance(u, sigma)
        found["product"] = D.posterior_covariance_product(u, sigma, jnp.ones_like(u))
        found["moments"] = D.mean_and_covariance()
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_methods_of_its_type_work(name, dtype):
    D, u = made(name, dtype)
    sigma = jnp.asarray(SIGMA, dtype)
    assert D.dim == u.shape[0]
    # One program; the points of a stream stay on the host.
    found = (promised if name == "StreamedDenoiser" else eqx.filter_jit(promised))(D, u, sigma)
    mean, variance = found["both"]
    np.testing.assert_allclose(mean, found["value"], atol=100 * np.finfo(dtype).eps)
    assert np.isfinite(float(variance)) and variance.shape == ()
    if isinstance(D, sj.AbstractPosteriorDenoiser):
        assert found["density"].shape == ()
        covariance = np.asarray(found["covariance"])
        tolerance = 1e-4 if dtype == np.float32 else 1e-10
        np.testing.assert_allclose(np.trace(covariance), variance, rtol=tolerance)
        np.testing.assert_allclose(found["variance"], variance, rtol=tolerance)
        np.testing.assert_allclose(found["product"], covariance.sum(axis=1), atol=tolerance)
        mean, covariance = found["moments"]
        assert mean.shape == u.shape and covariance.shape == 2 * u.shape
