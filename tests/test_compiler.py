"""What is mapped over more points than a compiler's fused loops hold at once is what it is point by point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj

NUM, DIM, LEVEL = 32_769, 3, 0.7


def denoisers():
    points = jax.random.normal(jax.random.key(1), (60, DIM), jnp.float64)
    gaussian = sj.GaussianDenoiser.fit(points)
    return {
        "empirical": sj.EmpiricalDenoiser(points),
        "weighted": sj.EmpiricalDenoiser(points, weights=np.arange(1.0, 61.0)),
        "gaussian": gaussian,
        "low rank": sj.GaussianDenoiser.fit(points, rank=1),
        "dual": sj.DualGaussianDenoiser(points[:2]),
        "mixture": sj.MixtureDenoiser.from_classes(points, np.arange(60) % 2),
        "tempered": sj.TemperedDenoiser(points, 2.0),
    }


QUANTITIES = {
    "value": lambda D, u: D(u, LEVEL),
    "log density": lambda D, u: D.log_density(u, LEVEL),
    "posterior variance": lambda D, u: sj.posterior_variance(D, u, LEVEL),
    "posterior covariance": lambda D, u: sj.posterior_covariance(D, u, LEVEL),
    "covariance product": lambda D, u: sj.posterior_covariance_product(D, u, LEVEL, u),
    "score": lambda D, u: sj.score(D, u, LEVEL),
    "few steps": lambda D, u: sj.flow(D, u, LEVEL, 0.1, steps=2, solver=sj.ExponentialMultistep()),
}


@pytest.mark.parametrize("name", ["empirical", "weighted", "gaussian", "low rank", "dual", "mixture", "tempered"])  # fmt: skip
def test_many_points_jitted_and_not(name, x64):
    """Some releases return log densities that are wrong by nats beyond 32,768 points of three numbers, only if jitted."""
    D = denoisers()[name]
    u = jax.random.normal(jax.random.key(0), (NUM, DIM), jnp.float64)
    for what, quantity in QUANTITIES.items():
        if what == "log density" and not hasattr(D, "log_density"):
            continue
        each = jax.vmap(lambda u, quantity=quantity: quantity(D, u))
        # The same sums in another order: some tens of roundings of numbers of size one to a hundred.
        np.testing.assert_allclose(jax.jit(each)(u), each(u), rtol=1e-12, atol=1e-12, err_msg=what)
