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


def _mixture(dtype):
    rng = np.random.default_rng(3)
    means = jnp.asarray(rng.standard_normal((4, 6)), dtype)
    spreads = jnp.asarray(rng.uniform(0.02, 0.3, (4, 6)), dtype)
    D = sj.MixtureDenoiser(jnp.full(4, 0.25, dtype), means, jax.vmap(jnp.diag)(spreads))
    u = means[1] + jnp.sqrt(spreads[1] + 0.01) * jnp.asarray(rng.standard_normal(6), dtype)
    return D, u


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_grid_is_of_third_order_and_its_error_is_less_than_it_says(name, x64):
    if name == "mixture":
        D, u = _mixture(jnp.float64)
    else:
        D = sj.GaussianDenoiser(jnp.zeros(6), jnp.diag(jnp.geomspace(1e-3, 4, 6)))
        u = jnp.sqrt(jnp.geomspace(1e-3, 4, 6) + 0.01) * jnp.array([1.0, -1, 0.5, 2, -0.3, 1])
    errors = []
    for steps in (24, 48):
        found = sj.likelihood_solution(D, u, sigma_min=0.1, steps=steps)
        errors.append(abs(found.value + found.terminal_mismatch - D.log_density(u, 0.1)))
        assert errors[-1] < found.integration_error
        assert found.num_steps == steps + steps // 2
    # Eight times less for half the steps; a margin for the terms beyond the leading one.
    assert errors[1] < errors[0] / 5
    assert errors[1] < 1e-2 * 6


def test_dear_denoisers_are_called_at_most_a_hundred_times():
    D, u = _mixture(jnp.float32)
    calls = []

    def counted(u, sigma):
        jax.debug.callback(lambda: calls.append(1))
        return D(u, sigma)

    prior = sj.GaussianDenoiser(*D.mean_and_covariance())
    arguments = {"sigma_min": 0.1, "prior": prior, "steps": 64}
    one = sj.likelihood_solution(counted, u, num_probes=8, key=jax.random.key(0), **arguments)
    jax.effects_barrier()
    # One a level, of both grids, with all probes; and one for the size of rounding.
    assert len(calls) == 64 + 32 + 1
    whole = sj.likelihood_solution(D, u, **arguments)
    # Student's t of seven degrees of freedom exceeds 6 once in two thousand times; .01 nats a dimension beside the probes.
    assert abs(one.value - whole.value) < 6 * one.standard_error
    exact = D.log_density(u, 0.1)
    assert abs(whole.value + whole.terminal_mismatch - exact) < 1e-2 * 6
    assert whole.value == sj.log_likelihood(D, u, **arguments)


def test_grids_are_refused_in_words():
    D, u = _mixture(jnp.float32)
    with pytest.raises(ValueError, match="`steps` must be at least 12; got 8"):
        sj.log_likelihood(D, u, steps=8)
    with pytest.raises(ValueError, match="`steps` takes no tolerances"):
        sj.log_likelihood(D, u, steps=64, rtol=1e-3)
