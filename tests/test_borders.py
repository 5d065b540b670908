"""What users pass for keys, sizes, seeds and priors: taken where its meaning is plain, else refused in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import variance

POINTS = np.array([[-1.0, 0.5], [1.0, 0.0], [0.2, -2.0]])
KEY_USERS = {
    "sample": lambda key: sj.sample(sj.EmpiricalDenoiser(POINTS), key, 2, steps=3),
    "initial_noise": lambda key: sj.initial_noise(key, 2, 3),
    "adapted_grid": lambda key: sj.adapted_grid(sj.EmpiricalDenoiser(POINTS), key, 8),
    "reverse_sde": lambda key: sj.reverse_sde(
        lambda u, s: u / (1 + s**2), key, POINTS[0], 1.0, 0.1, steps=3
    ),
    "replay": lambda key: sj.replay(sj.TruncatedDenoiser(POINTS), key, 2),
    "smoothed": lambda key: sj.GaussianSmoothedDenoiser(POINTS, 0.5, 4, key),
    "rmse_curve": lambda key: sj.rmse_curve(
        sj.EmpiricalDenoiser(POINTS), sj.GaussianDenoiser.fit(POINTS), POINTS, [0.1, 1.0], key
    ),
    "linearity_score": lambda key: sj.linearity_score(
        sj.GaussianDenoiser.fit(POINTS), np.concatenate([POINTS, 2 * POINTS]), 0.5, key
    ),
    "sliced_wasserstein": lambda key: sj.sliced_wasserstein(POINTS, POINTS, key),
    "law": lambda key: variance.LinearModelLaw(
        lambda u, s: u, jnp.eye(2), jnp.zeros((2, 2, 1))
    ).sample(key)(jnp.ones(2), 0.5),
    "circle": lambda key: sj.datasets.circle(5, key=key),
}


@pytest.mark.parametrize("use", KEY_USERS.values(), ids=KEY_USERS.keys())
def test_keys(use):
    """A key of either kind, and nothing that JAX would answer for from its inside."""
    longer = jax.random.key_data(jax.random.key(0, impl="rbg"))
    for bad in (None, 0, "k", np.array([1.0, 2.0]), jax.random.split(jax.random.key(0), 3), longer):
        with pytest.raises(ValueError, match="`key` must be") as caught:
            use(bad)
        assert "\n" not in str(caught.value)
    typed, raw = (jax.tree.leaves(use(key)) for key in (jax.random.key(3), jax.random.PRNGKey(3)))
    for a, b in zip(typed, raw, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_sizes_and_seeds():
    """Integers of every type, an array of no axes too; shapes as lists; no boolean and no fraction."""
    law, key = sj.GaussianDenoiser.fit(POINTS), jax.random.key(0)
    expected = sj.sample(law, key, 3, steps=3)
    for num in (np.array(3), np.int8(3), jnp.asarray(3)):
        np.testing.assert_array_equal(sj.sample(law, key, num, steps=3), expected)
    images = sj.sample(law, key, 3, shape_or_dim=[1, 2, 1], steps=3)
    np.testing.assert_array_equal(images.reshape(3, 2), expected)
    for num in (True, 3.0, np.array([3]), "3", 0, None):
        with pytest.raises(ValueError, match=r"`num_samples` must be (an|a positive) integer"):
            sj.sample(law, key, num, steps=3)
    for num in (2.0, True, "2"):
        with pytest.raises(ValueError, match="`num_components` must be an integer"):
            sj.MixtureDenoiser.fit(POINTS, num_components=num)  # pyright: ignore
    for seed in (1.5, None, "a", True):
        with pytest.raises(ValueError, match="`seed` must be an integer"):
            sj.MixtureDenoiser.fit(POINTS, num_components=2, seed=seed)


@pytest.mark.parametrize("seed", [1, 2**32 - 1, 2**32 + 1, 2**62 + 3])
def test_all_bits_of_a_seed_count(seed):
    """In 32-bit mode too, where JAX itself makes one key of seeds that are 2^32 apart."""
    with jax.enable_x64(True):
        expected = sj.datasets.circle(5, key=jax.random.key(seed), dtype=jnp.float32).points
    with jax.enable_x64(False):
        found = sj.datasets.load("circle", num_points=5, seed=seed, dtype=jnp.float32).points
        other = sj.datasets.load("circle", num_points=5, seed=seed % 2**32, dtype=jnp.float32)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert (seed < 2**32) == np.array_equal(found, other.points)


@pytest.mark.parametrize("options", [{}, {"method": "em"}])
def test_mixtures_of_large_seeds(options):
    pytest.importorskip("sklearn")
    fit = lambda seed: sj.MixtureDenoiser.fit(  # noqa: E731
        np.concatenate([POINTS, POINTS + 10, -POINTS]), num_components=2, seed=seed, **options
    ).log_density(jnp.ones(2), 1.0)
    # Of three points far from the others, one component, whatever the seed.
    for seed in (2**32 + 5, 2**63 - 1):
        np.testing.assert_allclose(fit(seed), fit(5), rtol=1e-4)


def test_large_numbers_on_the_line():
    """Taken together to a common value before they are rounded: exact whatever the dtype that JAX computes in."""
    large = np.array([2**31 - 1, 2**31 + 1])
    assert sj.wasserstein_1d(large, np.array([2**31])) == 1
    assert sj.wasserstein_1d(large, large + 5, order=1) == 5
    milliseconds = 1.7e12 + np.arange(4.0)
    assert sj.wasserstein_1d(milliseconds, milliseconds[::-1] + 2) == 2
    given = jnp.asarray([0.5, -1.5], jnp.float32)
    assert sj.wasserstein_1d(given, given + 1).dtype == jnp.float32
    with pytest.raises(ValueError, match="`second` must be finite; got nan"):
        sj.wasserstein_1d(large, [np.nan])


def test_prior_of_another_kind():
    with pytest.raises(ValueError, match="`prior` must be a GaussianDenoiser"):
        sj.log_likelihood(sj.EmpiricalDenoiser(POINTS), POINTS[0], prior="normal")


def test_denoisers_and_their_methods_are_jitted_as_they_are():
    denoiser, u = sj.EmpiricalDenoiser(POINTS), jnp.asarray(POINTS[1])
    for method in (denoiser, denoiser.log_density, denoiser.posterior_variance):
        # Compiled as one program, sums may be rounded in another order: some units of the last place of the points' size.
        atol = 8 * float(jnp.finfo(u.dtype).eps) * np.abs(POINTS).max()
        np.testing.assert_allclose(jax.jit(method)(u, 0.7), method(u, 0.7), rtol=1e-6, atol=atol)
    assert hash(denoiser) == hash(denoiser) != hash(sj.EmpiricalDenoiser(POINTS))


def test_forward_derivatives_of_a_flow(x64):
    """Of a standard normal law `u(t) = u sqrt((1 + t^2) / (1 + s^2))`; by default the error names the way."""
    import diffrax

    law, u = sj.GaussianDenoiser(np.zeros(1), np.eye(1)), jnp.array([3.0])
    with pytest.raises(TypeError, match=r"adjoint=diffrax.ForwardMode\(\)"):
        jax.jacfwd(lambda u: sj.flow(law, u, 2.0, 0.5))(u)
    # On a grid both modes: linear in u here, so that the derivative along u is the value.
    value, slope = jax.jvp(lambda u: sj.flow(law, u, 2.0, 0.5, steps=4), (u,), (u,))
    np.testing.assert_allclose(value, slope, rtol=1e-12)
    forward = lambda u: sj.flow(law, u, 2.0, 0.5, adjoint=diffrax.ForwardMode())  # noqa: E731
    # Tolerances of 1e-7 a step, some tens of steps.
    np.testing.assert_allclose(jax.jacfwd(forward)(u), [[np.sqrt(1.25 / 5)]], rtol=1e-5)
