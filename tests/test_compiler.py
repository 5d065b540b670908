"""What is mapped over more points than a compiler's fused loops hold at once is what it is point by point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj

NUM, DIM, LEVEL = 32_769, 3, 0.7


def denoiser(name):
    points = jax.random.normal(jax.random.key(1), (20, DIM), jnp.float64)
    return {
        "empirical": lambda: sj.EmpiricalDenoiser(points, weights=np.arange(1.0, 21.0)),
        "gaussian": lambda: sj.GaussianDenoiser.fit(points),
        "low rank": lambda: sj.GaussianDenoiser.fit(points, rank=1),
        "dual": lambda: sj.DualGaussianDenoiser(points[:2]),
        "mixture": lambda: sj.MixtureDenoiser.fit(points, labels=np.arange(20) % 2),
    }[name]()


QUANTITIES = {
    "value": lambda D, u: D(u, LEVEL),
    "log density": lambda D, u: D.log_density(u, LEVEL),
    "variance": lambda D, u: sj.posterior_variance(D, u, LEVEL),
    "covariance": lambda D, u: sj.posterior_covariance(D, u, LEVEL),
    "product": lambda D, u: sj.posterior_covariance_product(D, u, LEVEL, u),
    "score": lambda D, u: sj.score(D, u, LEVEL),
    "flow": lambda D, u: sj.flow(D, u, LEVEL, 0.1, steps=2, solver=sj.ExponentialMultistep()),
}
# Of the denoisers that sum over points and components, whose passes take long when they are not compiled.
FEW = ("value", "log density", "variance")


@pytest.mark.parametrize("name", ["empirical", "gaussian", "low rank", "dual", "mixture"])
def test_many_points_jitted_and_not(name, x64):
    """Some releases return log densities that are wrong by nats beyond 32,768 points of three numbers, only if jitted."""
    D = denoiser(name)
    u = jax.random.normal(jax.random.key(0), (NUM, DIM), jnp.float64)
    for what in FEW if name in ("empirical", "mixture") else QUANTITIES:
        each = jax.vmap(lambda u, quantity=QUANTITIES[what]: quantity(D, u))
        # The same sums in another order: some tens of roundings of numbers of size one to a hundred.
        np.testing.assert_allclose(jax.jit(each)(u), each(u), rtol=1e-12, atol=1e-12, err_msg=what)
