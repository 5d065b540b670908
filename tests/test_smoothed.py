"""Smoothed denoisers against 40-digit values, quadrature, limits in closed form and Monte Carlo."""

import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

import smoothjax as sj
from smoothjax import smoothing

REFERENCE = json.loads((Path(__file__).parent / "score_smoothing_reference.json").read_text())
POINTS = {
    "n2": np.array([[-1.0], [1.0]]),
    "n3nu": np.array([[-1.0], [-0.2], [1.0]]),
    "n4": np.linspace(-1, 1, 4)[:, None],
}
UNEVEN = np.array([[0.4], [-1.0], [1.3], [-0.2]])


@eqx.filter_jit
def evaluate(D, x, sigma):
    return jax.vmap(lambda x: D(x[None], sigma)[0])(x)


def on(D, x, sigma):
    return np.asarray(evaluate(D, jnp.asarray(x), jnp.asarray(sigma)))


def test_reference(x64):
    for case in REFERENCE["box_score"]:
        sigma, x = float(case["t"]) ** 0.5, np.array([float(case["x"])])
        D = sj.BoxSmoothedDenoiser(POINTS[case["points"]], float(case["w"]))
        # The score is a difference of numbers of size one over t.
        got = sj.score(D, x, sigma)[0]
        np.testing.assert_allclose(got, case["value"], rtol=1e-9, atol=1e-14 / sigma**2)
    for case in REFERENCE["gauss_denoiser"]:
        sigma, x = float(case["t"]) ** 0.5, np.array([float(case["x"])])
        D = sj.GaussianSmoothedLineDenoiser(POINTS[case["points"]], float(case["sigma"]))
        np.testing.assert_allclose(D(x, sigma)[0], case["value"], rtol=1e-9)


@pytest.mark.parametrize("sigma", [0.1, 2.0])
@pytest.mark.parametrize("width", [1e-3, 0.05, 0.4, 2.0])
def test_averages_by_quadrature(x64, sigma, width):
    # Trapezoids over a hundred points a bend (sigma^2 / 2h) and a width: spectrally accurate under the Gaussian.
    exact = sj.EmpiricalDenoiser(UNEVEN)
    x = np.array([-1.5, -0.63, -0.6, 0.1, 0.25, 0.86, 1.4])
    num = int(max(400, 16 * width / (sigma**2 / 1.2) * 20))
    e = np.linspace(-8, 8, num)
    weights = np.exp(-0.5 * e**2) / np.sum(np.exp(-0.5 * e**2))
    expected = [weights @ on(exact, x0 + width * e, sigma) for x0 in x]
    got = on(sj.GaussianSmoothedLineDenoiser(UNEVEN, width), x, sigma)
    np.testing.assert_allclose(got, expected, atol=3e-9)
    nodes, weights = np.polynomial.legendre.leggauss(100)
    parts = np.linspace(-1, 1, 41)
    z = (0.5 * (parts[1:] + parts[:-1])[:, None] + 0.5 * 0.05 * nodes).ravel()
    weights = np.tile(0.5 * 0.05 * weights, 40) / 2
    expected = [weights @ on(exact, x0 + width * z, sigma) for x0 in x]
    got = on(sj.BoxSmoothedDenoiser(UNEVEN, width), x, sigma)
    # Rounding of a log density of size |x|^2 / 2 sigma^2 times sigma^2 / width; or of the quadrature.
    np.testing.assert_allclose(got, expected, atol=1e-12 + 1e-15 / width)


def test_box_is_piecewise_linear_at_small_noise(x64):
    sigma, delta = 0.02, 0.3
    x = np.linspace(-1.4, 1.4, 29)
    box = on(sj.BoxSmoothedDenoiser(POINTS["n2"], 1 - delta), x, sigma)
    line = on(sj.PiecewiseLinearDenoiser(POINTS["n2"], delta / sigma), x, sigma)
    # They differ by at most sigma^2 log 2 / 2w, at the kinks.
    assert np.max(np.abs(box - line)) <= sigma**2 * np.log(2) / (2 * (1 - delta)) + 1e-12


def test_gaussian_limits(x64):
    x = np.linspace(-2, 2, 21)
    for s in (0.2, 0.6):
        got = on(sj.GaussianSmoothedLineDenoiser(POINTS["n2"], s), x, 1e-4)
        np.testing.assert_allclose(got, scipy.special.erf(x / (s * np.sqrt(2))), atol=1e-7)
    # At zero noise, to (sigma^2 / h)^2: sum_k y_k P(the perturbed x is nearest to y_k).
    y = np.sort(UNEVEN[:, 0])
    edges = np.concatenate([[-np.inf], 0.5 * (y[1:] + y[:-1]), [np.inf]])
    cdf = scipy.special.ndtr((edges - x[:, None]) / 0.3)
    got = on(sj.GaussianSmoothedLineDenoiser(UNEVEN, 0.3), x, 1e-4)
    np.testing.assert_allclose(got, np.diff(cdf, axis=1) @ y, atol=1e-9)
    np.testing.assert_allclose(on(sj.GaussianSmoothedLineDenoiser(UNEVEN[:1], 0.3), x, 0.1), 0.4)


def test_fixed_points_of_constant_smoothing(x64):
    # z = erf(z / (s sqrt 2)) has solutions away from 0 only below s = sqrt(2 / pi); z = tanh(z / tau) below tau = 1.
    for s, expected in ((0.4, 0.98633), (0.6, 0.83697), (0.75, 0.46288)):
        D = sj.GaussianSmoothedLineDenoiser(POINTS["n2"], s)
        found = smoothing.stable_fixed_points(D, -2.0, 2.0, sigma=1e-4)
        np.testing.assert_allclose(found, [-expected, expected], atol=1e-5)
        np.testing.assert_allclose(scipy.special.erf(found / (s * np.sqrt(2))), found, atol=1e-6)
    D = sj.GaussianSmoothedLineDenoiser(POINTS["n2"], 0.82)
    np.testing.assert_allclose(
        smoothing.stable_fixed_points(D, -2.0, 2.1, sigma=1e-4), [0], atol=1e-5
    )
    for tau, expected in ((0.2, 0.99991), (0.5, 0.95750), (0.8, 0.71041)):
        blurred = lambda u, s, tau=tau: sj.EmpiricalDenoiser(POINTS["n2"])(u, tau**0.5)  # noqa: E731
        found = smoothing.stable_fixed_points(blurred, -2.0, 2.0)
        np.testing.assert_allclose(found, [-expected, expected], atol=1e-5)


def test_temperature_relabels_time(x64):
    data, T = np.random.default_rng(0).standard_normal((7, 2)), 3.0
    D, exact = sj.TemperedDenoiser(data, T), sj.EmpiricalDenoiser(data)
    u = jnp.array([0.3, -0.2])
    # exp(-|u - y|^2 / 2 T sigma^2), written out.
    logits = -np.sum((np.asarray(u) - data) ** 2, axis=1) / (2 * T * 0.5**2)
    np.testing.assert_allclose(D(u, 0.5), scipy.special.softmax(logits) @ data, rtol=1e-12)
    end = sj.flow(D, u, 2.0, 0.3, rtol=1e-10)
    np.testing.assert_allclose(
        end, sj.flow(exact, u, 2 * T**0.5, 0.3 * T**0.5, rtol=1e-10), atol=1e-8
    )


def test_gaussian_draws_estimate_the_average(x64):
    s, sigma, u = 0.5, 0.4, jnp.array([0.3])
    exact = sj.GaussianSmoothedLineDenoiser(UNEVEN, s)(u, sigma)
    estimate = eqx.filter_jit(lambda D, u, sigma: D.mean_and_standard_error(u, sigma))
    for antithetic in (False, True):
        scores = []
        for seed in range(40):
            D = sj.GaussianSmoothedDenoiser(
                UNEVEN, s, 256, jax.random.key(seed), antithetic=antithetic
            )
            mean, error = estimate(D, u, sigma)
            np.testing.assert_allclose(mean, on(D, u, sigma), rtol=1e-12)
            scores.append(float(((mean - exact) / error)[0]))
        # 40 nearly normal scores: the largest below 4, their mean square 1 within 4 sqrt(2 / 40).
        assert np.max(np.abs(scores)) < 4
        assert abs(np.mean(np.square(scores)) - 1) < 4 * np.sqrt(2 / 40)
    # Pairs are exact for an affine denoiser.
    gaussian = sj.GaussianDenoiser(np.array([1.0, 2.0]), np.diag([1.0, 3.0]))
    D = sj.GaussianSmoothedDenoiser(gaussian, s, 4, jax.random.key(0), antithetic=True)
    u = jnp.array([0.2, -3.0])
    np.testing.assert_allclose(D(u, sigma), gaussian(u, sigma), rtol=1e-13)
    np.testing.assert_allclose(D.mean_and_standard_error(u, sigma)[1], 0, atol=1e-15)


def test_trajectories_end_on_barycentres(x64):
    data = np.random.default_rng(3).standard_normal((7, 2))
    D = sj.GaussianSmoothedDenoiser(data, 0.4, 3, jax.random.key(1))
    starts = 3 * jax.random.normal(jax.random.key(2), (64, 2))
    ends = jax.jit(jax.vmap(lambda u: sj.flow(D, u, 3.0, 1e-5, rtol=1e-6)))(starts)
    means, indices = jax.vmap(D.barycentre)(ends)
    np.testing.assert_allclose(
        means, np.asarray(data)[np.asarray(indices)].mean(axis=1), rtol=1e-13
    )
    # Apart from those that sit on an edge between cells, of which generic starts give none, ends are fixed points; the
    # flow stops at 1e-5 of them.
    np.testing.assert_allclose(ends, means, atol=1e-3)
    distinct = np.unique(np.sort(np.asarray(indices), axis=1), axis=0)
    assert 2 <= len(distinct) <= 20  # far fewer than starts: no continuum
    with pytest.raises(ValueError, match="needs the training points"):
        sj.GaussianSmoothedDenoiser(lambda u, s: u, 0.1, 2, jax.random.key(0), dim=2).barycentre(
            starts[0]
        )


def test_without_the_noise_level(x64):
    data, levels = np.random.default_rng(0).standard_normal((5, 2)), np.array([0.2, 0.5, 1.5])
    prior = np.array([0.5, 0.3, 0.2])
    u = jnp.array([0.3, -0.2])
    # The joint posterior of point and level, one number each.
    joint = np.array(
        [
            [p * np.exp(-np.sum((np.asarray(u) - y) ** 2) / (2 * s**2)) / s**2 for y in data]
            for s, p in zip(levels, prior, strict=True)
        ]
    )
    towards = data - np.asarray(u)

    def mean(weight, target):
        w = joint * weight[:, None]
        return np.einsum("ik,ikd->d", w / w.sum(), target)

    scaled = [np.stack([towards / s**power for s in levels]) for power in range(3)]
    expected = {
        "x0": np.asarray(u) + mean(levels**0, scaled[0]),
        "eps": np.asarray(u) + 0.7 * mean(levels**0, scaled[1]),
        "score": np.asarray(u) + 0.7**2 * mean(levels**2, scaled[2]),
    }
    for prediction, value in expected.items():
        D = sj.NoiseUnconditionedDenoiser(data, levels, prior, prediction=prediction)
        np.testing.assert_allclose(D(u, 0.7), value, rtol=1e-12)
    one = sj.NoiseUnconditionedDenoiser(data, levels[:1])
    np.testing.assert_allclose(one(u, 0.2), sj.EmpiricalDenoiser(data)(u, 0.2), rtol=1e-12)


def test_a_line_in_space(x64):
    rng = np.random.default_rng(0)
    direction, offset = rng.standard_normal(3), rng.standard_normal(3)
    unit = direction / np.linalg.norm(direction)
    data = offset + UNEVEN * unit
    D = sj.LineDenoiser(sj.EmpiricalDenoiser(UNEVEN), direction, offset)
    u = jnp.asarray(rng.standard_normal((20, 3)))
    for sigma in (0.1, 1.0):
        exact = jax.vmap(lambda u, s=sigma: sj.EmpiricalDenoiser(data)(u, s))(u)
        np.testing.assert_allclose(jax.vmap(lambda u, s=sigma: D(u, s))(u), exact, atol=1e-13)
    smoothed = sj.LineDenoiser(sj.PiecewiseLinearDenoiser(UNEVEN, 0.5), direction, offset)
    end = sj.flow(smoothed, u[0], 0.2, 0.02, rtol=1e-10)
    (tau, normal), (tau_end, normal_end) = smoothed.decompose(u[0]), smoothed.decompose(end)
    np.testing.assert_allclose(
        tau_end, sj.piecewise_linear_flow(UNEVEN, 0.5, tau, 0.2, 0.02), atol=1e-8
    )
    np.testing.assert_allclose(normal_end, 0.1 * normal, atol=1e-8)
    np.testing.assert_allclose(tau * unit + normal, u[0] - offset, atol=1e-14)


def test_composition(dtype):
    data = np.random.default_rng(0).standard_normal((30, 3)).astype(dtype)
    tempered = sj.TemperedDenoiser(data[:10], np.asarray(2.0, dtype))
    both = sj.GaussianSmoothedDenoiser(tempered, np.asarray(0.3, dtype), 4, jax.random.key(0))
    u = jnp.asarray(data[0] + 1)
    expected = np.mean([tempered(u + 0.3 * e, 0.5) for e in both.draws], axis=0)
    np.testing.assert_allclose(both(u, 0.5), expected, rtol=100 * float(jnp.finfo(dtype).eps))
    assert both(u, 0.5).dtype == dtype
    samples = sj.sample(both, jax.random.key(1), 4)
    assert samples.shape == (4, 3)


def test_bad_input():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        sj.TemperedDenoiser(np.zeros((2, 1)), 0.0)
    with pytest.raises(ValueError, match="of dimension 2"):
        sj.BoxSmoothedDenoiser(np.zeros((2, 2)), 0.1)
    with pytest.raises(ValueError, match="must be even"):
        sj.GaussianSmoothedDenoiser(np.zeros((2, 1)), 0.1, 3, key, antithetic=True)
    with pytest.raises(ValueError, match="`dim` is needed"):
        sj.TemperedDenoiser(lambda u, s: u, 1.0)
    with pytest.raises(ValueError, match="must be one of"):
        sj.NoiseUnconditionedDenoiser(np.zeros((2, 1)), np.ones(2), prediction="v")
    with pytest.raises(ValueError, match="must not be zero"):
        sj.LineDenoiser(sj.PiecewiseLinearDenoiser([0.0, 1.0], 1.0), np.zeros(3))
    with pytest.raises(ValueError, match="must have one dimension; got 2"):
        sj.LineDenoiser(sj.EmpiricalDenoiser(np.zeros((1, 2))), np.ones(3))
