"""What guidance generates from Gaussians, and how far the maps of independent fits differ, against flows and draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj

X64 = jax.config.jax_enable_x64


def _fitted_map(rng, variances, num, high, low):
    """What a Gaussian fitted to fresh points makes of noise, as a matrix and an offset."""
    points = rng.normal(size=(num, len(variances))) * np.sqrt(variances)
    mean = points.mean(axis=0)
    values, basis = np.linalg.eigh((points - mean).T @ (points - mean) / num)
    values = np.maximum(values, 0)
    matrix = (basis * np.sqrt((values + low**2) / (values + high**2))) @ basis.T
    return matrix, mean - matrix @ mean


@pytest.mark.parametrize("dim, num", [(1, 20), (20, 30), (40, 25), (20, 2000)])
@pytest.mark.parametrize("high, low", [(80.0, 0.002), (3.0, 0.2)])
def test_maps_of_independent_fits_differ_as_predicted(dim, num, high, low):
    variances, rng = np.geomspace(4, 0.05, dim) if dim > 1 else np.ones(1), np.random.default_rng(0)
    squares = []
    for _ in range(2000 if dim == 1 else 150):
        (a, b), (c, d) = (_fitted_map(rng, variances, num, high, low) for _ in range(2))
        squares.append((high**2 * np.sum((a - c) ** 2) + np.sum((b - d) ** 2)) / dim)
    error = np.std(squares) / len(squares) ** 0.5
    predicted = sj.gaussian.independent_maps_rmse(jnp.asarray(variances), num, high, low)
    # What the expansion drops is smaller by 1 / num; float32 subtracts squares that agree to 1 / num.
    slack = 1 / num**2 + (0 if X64 else 2e-6 * num)
    assert (
        abs(float(predicted) ** 2 / np.mean(squares) - 1) < 4 * error / np.mean(squares) + 2 * slack
    )


def _gaussians():
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    make = lambda mean, values: sj.GaussianDenoiser(jnp.asarray(mean), (basis * values) @ basis.T)  # noqa: E731
    return make([0.5, -1.0, 0.0], np.array([4.0, 1.0, 0.3])), make(
        [1.5, 0.0, 0.3], np.array([1.0, 1.0, 0.1])
    )


@pytest.mark.skipif(not X64, reason="compared to 1e-6")
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5, 5.0])
def test_guided_samples_have_the_law_in_closed_form(weight):
    every, one = _gaussians()
    high, low = 20.0, 0.05
    guided = sj.GuidedDenoiser(every, one, weight)
    # The flow is affine: where four states end decides where all do.
    states = jnp.concatenate([jnp.zeros((1, 3)), jnp.eye(3)])
    flow = jax.jit(jax.vmap(lambda u: sj.flow(guided, u, high, low, rtol=1e-10, atol=1e-10)))
    ends = np.asarray(flow(states))
    matrix = (ends[1:] - ends[0]).T
    start = np.asarray(every.covariance()) + high**2 * np.eye(3)
    law = sj.gaussian.guided_gaussian_law(every, one, weight, high, low)
    assert np.allclose(law.mean, ends[0] + matrix @ np.asarray(every.mean), atol=1e-6)
    assert np.allclose(law.covariance(), matrix @ start @ matrix.T, atol=1e-6)


def test_guidance_loses_variance_and_overshoots():
    every, one = _gaussians()
    laws = [sj.gaussian.guided_gaussian_law(every, one, w, 1e4, 1e-3) for w in (0.0, 1.0, 3.0)]
    for law, reference in zip(laws, (every, one), strict=False):
        assert np.allclose(law.mean, reference.mean, atol=1e-3)
        # The start has the unconditional variance, of 1e8, and the end a noise of 1e-6.
        assert np.allclose(law.covariance(), reference.covariance(), atol=1e-5)
    modes = np.sort(np.asarray(laws[2].variances))
    expected = np.sort([1.0 / 4**2, 1.0, 0.1 / 3**2])  # c (c / v)^(w - 1)
    assert np.allclose(modes, expected, rtol=2e-4)
    # The other way round, of a wider conditional law, it gains.
    wider = sj.gaussian.guided_gaussian_law(one, every, 3.0, 1e4, 1e-3).variances
    assert np.allclose(np.sort(wider), np.sort([4.0 * 4**2, 1.0, 0.3 * 3**2]), rtol=2e-4)
    moved, meant = np.asarray(laws[2].mean - every.mean), np.asarray(one.mean - every.mean)
    assert moved @ meant > 1.2 * meant @ meant


def test_what_is_refused():
    every, _ = _gaussians()
    with pytest.raises(ValueError, match="eigenvectors"):
        sj.gaussian.guided_gaussian_law(
            every, sj.GaussianDenoiser(jnp.zeros(3), jnp.diag(jnp.arange(3.0))), 2.0
        )
    with pytest.raises(ValueError, match="dimension 3"):
        sj.gaussian.guided_gaussian_law(every, sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1)), 2.0)
    with pytest.raises(ValueError, match="sigma_to"):
        sj.gaussian.independent_maps_rmse(jnp.ones(2), 10, 1.0, 2.0)
    with pytest.raises(ValueError, match="num_train"):
        sj.gaussian.independent_maps_rmse(jnp.ones(2), 1)
    with pytest.raises(ValueError, match="`num_train` must be one finite number"):
        sj.gaussian.independent_maps_rmse(jnp.ones(2), jnp.inf)
