"""Log-likelihoods at small noise against the closed form, with the error that they report; the naive flow from far off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import variance


@pytest.mark.usefixtures("mixed_dtypes")
@pytest.mark.parametrize("sigma", [0.1, 0.002, 1e-4])
def test_error_is_small_and_covered(sigma):
    """Of noisy training points, in float32, whatever the noise; the start at `sigma_max` is put right by its mismatch."""
    train = sj.datasets.digits().points[:200].astype(np.float32)
    D = sj.EmpiricalDenoiser(train)
    noise = np.random.default_rng(0).standard_normal((30, 64))
    u = jnp.asarray(train[:30] + sigma * noise, jnp.float32)
    exact = np.asarray(jax.vmap(lambda u: D.log_density(u, sigma))(u), float)
    found = jax.jit(jax.vmap(lambda u: sj.likelihood_solution(D, u, sigma_min=sigma)))(u)
    error = np.asarray(found.value, float) + np.asarray(found.terminal_mismatch, float) - exact
    assert abs(np.mean(error)) < 0.01
    assert np.all(np.abs(error) <= found.integration_error)


def test_naive_flow_from_the_process_at_its_end(x64):
    """Three points, from noise level 23,156: the mean is .5585 by many steps, and explicit steps gave .146 with 150."""
    process = sj.VariancePreserving.from_drift_rate(0.1, 20.0)
    D = sj.EmpiricalDenoiser(np.array([[-1.0], [0.0], [1.0]]))
    strength = variance.NaiveStrength(process, 2e-3)
    high, low = process.noise_level(1.0), process.noise_level(0.02)
    u, num = jnp.array([0.45 / process.alpha(1.0)]), 2000
    run = jax.jit(jax.vmap(lambda key: variance.naive_flow(D, key, u, high, low, strength=strength, steps=150)))  # fmt: skip
    ends = np.asarray(run(jax.random.split(jax.random.key(0), num)))
    # Steps of a twelfth in log sigma, of weak order one, and four standard errors.
    assert abs(ends.mean() - 0.5585) < np.log(high / low) / 150 + 4 * ends.std() / np.sqrt(num)
