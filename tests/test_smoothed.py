"""Smoothed denoisers against 40-digit values, quadrature, limits in closed form and Monte Carlo."""

import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

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
        got = (on(D, x, sigma)[0] - x[0]) / sigma**2
        np.testing.assert_allclose(got, case["value"], rtol=1e-9, atol=1e-14 / sigma**2)
    for case in REFERENCE["gauss_denoiser"]:
        sigma, x = float(case["t"]) ** 0.5, np.array([float(case["x"])])
        D = sj.GaussianSmoothedLineDenoiser(POINTS[case["points"]], float(case["sigma"]))
        np.testing.assert_allclose(on(D, x, sigma)[0], case["value"], rtol=1e-12, atol=1e-13)


CLUSTERED = np.array([-1.0, -0.98, 0.7, 1.0, 1.05])


def average_by_trapezoids(y, x, s, sigma):
    """`E D(x + s e, sigma)` in NumPy.

    D has no pole within pi sigma^2 / range of the line: steps of a sixth of that, in units of s, leave exp(-2 pi 6) = 4e-17;
    steps of 0.2 leave exp(-2 pi^2 / 0.2^2) of the Gaussian.
    """
    step = min(np.pi * sigma**2 / np.ptp(y) / s / 6, 0.2)
    e = np.arange(-9, 9, step)
    weights = np.exp(-0.5 * e**2)
    z = x[:, None, None] + s * e[:, None]
    posterior = scipy.special.softmax((z - 0.5 * y) * y / sigma**2, axis=-1)
    return (posterior @ y) @ weights / weights.sum()


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.0, 2.0, 5.0])
def test_gaussian_averages_by_trapezoids(x64, sigma):
    # Perturbations that D is smooth on, those it is not, and some that reach far beyond the data.
    for y in (CLUSTERED, np.linspace(-1, 1, 10), np.sort(UNEVEN[:, 0])):
        x = np.array([-1.5, -0.63, -0.6, 0.1, 0.25, 0.86, 1.4])
        for s in (0.01, 0.2, 1.0, 4.0):
            got = on(sj.GaussianSmoothedLineDenoiser(y, s), x, sigma)
            np.testing.assert_allclose(
                got, average_by_trapezoids(y, x, s, sigma), atol=1e-12 * np.ptp(y)
            )


@pytest.mark.parametrize("sigma", [0.1, 2.0])
@pytest.mark.parametrize("width", [1e-3, 0.05, 0.4, 2.0])
def test_box_averages_by_quadrature(x64, sigma, width):
    exact = sj.EmpiricalDenoiser(UNEVEN)
    x = np.array([-1.5, -0.63, -0.6, 0.1, 0.25, 0.86, 1.4])
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
        # D differs from a step within sigma^2 of it, symmetrically: 1e-16 of the curvature of the normal distribution.
        np.testing.assert_allclose(got, scipy.special.erf(x / (s * np.sqrt(2))), atol=1e-12)
    # At zero noise, to (sigma^2 / h)^2: sum_k y_k P(the perturbed x is nearest to y_k).
    y = np.sort(UNEVEN[:, 0])
    edges = np.concatenate([[-np.inf], 0.5 * (y[1:] + y[:-1]), [np.inf]])
    cdf = scipy.special.ndtr((edges - x[:, None]) / 0.3)
    got = on(sj.GaussianSmoothedLineDenoiser(UNEVEN, 0.3), x, 1e-4)
    np.testing.assert_allclose(got, np.diff(cdf, axis=1) @ y, atol=1e-12)
    np.testing.assert_allclose(on(sj.GaussianSmoothedLineDenoiser(UNEVEN[:1], 0.3), x, 0.1), 0.4)


@pytest.mark.exhaustive
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


def test_float64_parameters_leave_float32_data_alone(x64):
    data = np.random.default_rng(0).standard_normal((5, 1)).astype(np.float32)
    key, u, half = jax.random.key(0), jnp.float32([0.3]), np.float64(0.5)
    tempered = sj.TemperedDenoiser(data, np.float64(3))
    for D in (
        tempered,
        sj.BoxSmoothedDenoiser(data, half),
        sj.GaussianSmoothedDenoiser(data, half, 8, key),
        sj.GaussianSmoothedDenoiser(tempered, half, 8, key, draws="quasi"),
        sj.GaussianSmoothedLineDenoiser(data, half),
        sj.NoiseUnconditionedDenoiser(data, np.array([0.25, 2.0]), np.array([0.5, 0.5])),
        sj.SwitchedDenoiser(tempered, lambda u, sigma: u, half),
        sj.LineDenoiser(tempered, np.array([2.0]), np.array([0.1])),
    ):
        found = jax.eval_shape(
            lambda u, D=D: (
                D(u, half),
                D.mean_and_variance(u, half),
                sj.flow(D, u, np.float64(2), half),
                sj.sample(D, key, 2),
            ),
            u,
        )
        assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}, D
    np.testing.assert_array_equal(
        tempered(u, half), sj.TemperedDenoiser(data, np.float32(3))(u, np.float32(0.5))
    )


NUM_KEYS, NUM_DRAWS, NUM_CELLS = 200, 128, 16  # eight nets of sixteen points


@eqx.filter_jit
def estimates(D, perturbations, u, sigma):
    def one(e):
        return eqx.tree_at(lambda D: D.perturbations, D, e).mean_and_standard_error(u, sigma)

    return jax.vmap(one)(perturbations)


def assert_estimates(base, u, s, sigma, draws, expected, variance):
    """That over many keys the mean is unbiased, with the variance that it has in theory, and that it reports: each to four
    of its own standard errors."""
    build = lambda key: sj.GaussianSmoothedDenoiser(base, s, NUM_DRAWS, key, draws=draws)  # noqa: E731
    drawn = lambda key: build(key).perturbations  # noqa: E731
    keys = jax.random.split(jax.random.key(0), NUM_KEYS)
    # The keys of nets cannot be traced.
    many = jax.vmap(drawn) if draws != "quasi" else lambda keys: jnp.stack([*map(drawn, keys)])
    perturbations = many(keys)
    mean, reported = estimates(build(keys[0]), perturbations, u, sigma)
    error = np.asarray(mean) - np.asarray(expected)
    reported = np.asarray(reported)
    for values, true in ((error, 0 * error[0]), (error**2, variance), (reported**2, variance)):
        standard_error = values.std(axis=0, ddof=1) / np.sqrt(NUM_KEYS)
        assert np.all(np.abs(values.mean(axis=0) - true) < 4 * standard_error)
        # Squares of normal variables would give sqrt(2 / 200) = 0.1; those of nets have heavier tails.
        assert np.all(standard_error < (np.sqrt(variance) if values is error else 0.25 * variance))


@pytest.mark.exhaustive
def test_draws_estimate_the_average(x64):
    # In one dimension, by quadrature over quantiles. The points of a scrambled net are uniform on one cell each and pairwise
    # independent, so that the variance of their mean is that within cells.
    s, sigma, u = 0.5, 0.4, jnp.array([0.3])
    base, exact = sj.EmpiricalDenoiser(UNEVEN), sj.GaussianSmoothedLineDenoiser(UNEVEN, s)
    quantiles = scipy.special.ndtri((np.arange(2**13) + 0.5) / 2**13)
    values = on(base, np.asarray(u) + s * quantiles, sigma)
    variance = {
        "independent": np.var(values) / NUM_DRAWS,
        "antithetic": np.var(0.5 * (values + values[::-1])) / (NUM_DRAWS / 2),
        "quasi": np.mean(np.var(values.reshape(NUM_CELLS, -1), axis=1)) / NUM_DRAWS,
    }
    for draws, value in variance.items():
        assert_estimates(base, u, s, sigma, draws, exact(u, sigma), value)
    # Cells of a sixteenth leave 1/256 of the variance of a function that is linear in the quantile's level; steeper parts
    # more, and D rises mostly within a third of the levels: 9/256.
    assert variance["quasi"] < 9 / 256 * variance["independent"]


def test_draws_are_exact_or_precise_for_an_affine_denoiser(x64):
    s, sigma, u = 0.5, 0.4, jnp.array([0.2, -3.0, 1.0])
    covariance = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 0.5]])
    base = sj.GaussianDenoiser(np.array([1.0, 2.0, 0.0]), covariance)
    D = sj.GaussianSmoothedDenoiser(base, s, 4, jax.random.key(0), draws="antithetic")
    np.testing.assert_allclose(D(u, sigma), base(u, sigma), rtol=1e-13)
    np.testing.assert_allclose(D.mean_and_standard_error(u, sigma)[1], 0, atol=1e-15)
    # The variance of a normal variable within cells of mass 1/16: 1 less that of the cells' means. Coordinates are scrambled
    # independently.
    edges = scipy.stats.norm.pdf(scipy.special.ndtri(np.linspace(0, 1, NUM_CELLS + 1)))
    within = 1 - NUM_CELLS * np.sum(np.diff(edges) ** 2)
    slope = s * covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(3))
    variance = np.sum(slope**2, axis=1) / NUM_DRAWS
    assert within < 0.03
    for draws, factor in (("independent", 1), ("quasi", within)):
        assert_estimates(base, u, s, sigma, draws, base(u, sigma), factor * variance)


def test_quasi_random_draws_are_scrambled_nets(x64):
    build = lambda seed, num=NUM_DRAWS, **kw: sj.GaussianSmoothedDenoiser(  # noqa: E731
        lambda u, s: u, 0.5, num, jax.random.key(seed), draws="quasi", dim=3, **kw
    )
    draws = np.asarray(build(0).perturbations)
    np.testing.assert_array_equal(draws, build(0).perturbations)
    nets = np.floor(NUM_CELLS * scipy.special.ndtr(draws)).reshape(8, NUM_CELLS, 3)
    np.testing.assert_array_equal(
        np.sort(nets, axis=1), np.broadcast_to(np.arange(NUM_CELLS)[:, None], nets.shape)
    )
    # Neither two nets nor two keys share a scrambling.
    assert len(np.unique(np.concatenate([draws, build(1).perturbations])[:, 0])) == 2 * NUM_DRAWS
    # Other sizes than powers of two are the beginnings of nets.
    np.testing.assert_array_equal(
        np.asarray(build(0, 8 * 13).perturbations).reshape(8, 13, 3),
        draws.reshape(8, 16, 3)[:, :13],
    )
    D = build(0, 8)
    np.testing.assert_allclose(
        D.mean_and_standard_error(jnp.zeros(3), 1.0)[1],
        0.5 * np.std(D.perturbations, axis=0, ddof=1) / np.sqrt(8),
        rtol=1e-12,
    )
    with pytest.raises(ValueError, match="multiple of 8 for quasi-random nets; got 12"):
        build(0, 12)
    with pytest.raises(ValueError, match="at most 21201 dimensions; got 21202"):
        sj.GaussianSmoothedDenoiser(
            lambda u, s: u, 0.5, 8, jax.random.key(0), draws="quasi", dim=21202
        )
    with pytest.raises(ValueError, match="must be concrete"):
        jax.jit(
            lambda key: sj.GaussianSmoothedDenoiser(UNEVEN, 0.5, 8, key, draws="quasi")(
                jnp.zeros(1), 1.0
            )
        )(jax.random.key(0))


def test_trajectories_end_on_barycentres(x64):
    data = np.random.default_rng(3).standard_normal((7, 2))
    D = sj.GaussianSmoothedDenoiser(data, 0.4, 3, jax.random.key(1))
    starts = 3 * jax.random.normal(jax.random.key(2), (64, 2))
    go = jax.jit(jax.vmap(lambda u, r, s: sj.flow(D, u, r, s, rtol=1e-6), (0, None, None)))
    before = go(starts, 3.0, 1e-4)
    ends = go(before, 1e-4, 1e-5)
    means, indices = jax.vmap(D.barycentre)(ends)
    np.testing.assert_allclose(
        means, np.asarray(data)[np.asarray(indices)].mean(axis=1), rtol=1e-13
    )
    # Apart from those that sit on an edge between cells, of which generic starts give none, the field is constant here, so
    # that what is left to go falls like the noise level: to the flow's tolerance, 1e-6 of a number below 3 a step, for some
    # ten steps.
    left = np.asarray(before - means)
    np.testing.assert_allclose(ends - means, 0.1 * left, atol=10 * 3e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda u: D(u, 1e-5)))(ends), means, atol=1e-12)
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

    def of_targets(name, alpha):
        # From the definitions: z = (u - x0) / s; v = a z - a s x0, velocity = z - x0. Both are zero in D's own place.
        noise = [-towards / s for s in levels]
        targets = [
            alpha(s) * (z - s * data) if name == "v" else z - data
            for s, z in zip(levels, noise, strict=True)
        ]
        output, s = mean(levels**0, np.stack(targets)), 0.7
        solve = alpha(s) * (1 / s + s) if name == "v" else 1 / s + 1
        return ((alpha(s) if name == "v" else 1) * np.asarray(u) / s - output) / solve

    expected = {
        "x0": np.asarray(u) + mean(levels**0, scaled[0]),
        "eps": np.asarray(u) + 0.7 * mean(levels**0, scaled[1]),
        "score": np.asarray(u) + 0.7**2 * mean(levels**2, scaled[2]),
        "v": of_targets("v", lambda s: 1 / np.sqrt(1 + s**2)),
        "velocity": of_targets("velocity", lambda s: 1 / (1 + s)),
    }
    for prediction, value in expected.items():
        D = sj.NoiseUnconditionedDenoiser(data, levels, prior, prediction=prediction)
        np.testing.assert_allclose(D(u, 0.7), value, rtol=1e-12)
    one = sj.NoiseUnconditionedDenoiser(data, levels[:1])
    np.testing.assert_allclose(one(u, 0.2), sj.EmpiricalDenoiser(data)(u, 0.2), rtol=1e-12)


@pytest.mark.parametrize("power", [0, 1, 2], ids=["x0", "eps", "score"])
def test_without_the_noise_level_in_forty_digits(x64, power):
    # Levels and distances whose densities underflow: the posterior is a ratio of numbers like exp(-1e6).
    data = np.array([[0.3, -1.0], [2.0, 0.5], [-0.7, 0.1]])
    levels, prior, u = [1e-3, 0.02, 0.3, 5.0], [0.7, 0.1, 0.15, 0.05], np.array([0.4, -0.95])
    prediction, sigma = ("x0", "eps", "score")[power], 0.25
    with mpmath.workdps(40):
        joint = [
            [
                p * mpmath.exp(-sum((mpmath.mpf(a) - b) ** 2 for a, b in zip(u, y, strict=True)) / (2 * s**2))
                / s**2 * (s**2 if prediction == "score" else 1)
                for y in data
            ]
            for s, p in zip(map(mpmath.mpf, levels), prior, strict=True)
        ]  # fmt: skip
        total = sum(map(sum, joint))
        expected = [
            u[i]
            + mpmath.mpf(sigma) ** power
            * sum(
                w / total * (mpmath.mpf(y[i]) - u[i]) / mpmath.mpf(s) ** power
                for row, s in zip(joint, levels, strict=True)
                for w, y in zip(row, data, strict=True)
            )
            for i in range(2)
        ]
        of_levels = [float(sum(row) / total) for row in joint]
    D = sj.NoiseUnconditionedDenoiser(
        data, np.array(levels), np.array(prior), prediction=prediction
    )
    # The levels that carry weight have logits below 20: each to that many roundings.
    np.testing.assert_allclose(D(jnp.asarray(u), sigma), np.array(expected, float), rtol=1e-13)
    np.testing.assert_allclose(D.posterior(jnp.asarray(u)), of_levels, rtol=1e-13, atol=1e-300)


TRIANGLE = np.array([[0.3, -1.0], [2.0, 0.5], [-0.7, 0.1]])


def jacobian_cases():
    tempered, key = sj.TemperedDenoiser(TRIANGLE, 2.0), jax.random.key(0)
    exact = sj.EmpiricalDenoiser(TRIANGLE)
    bare = lambda u, s: jnp.sin(u[::-1] * u) * s  # noqa: E731
    along = sj.EmpiricalDenoiser(UNEVEN)
    return {
        "tempered": tempered,
        "tempered-bare": sj.TemperedDenoiser(bare, 2.0, dim=2),
        "gaussian": sj.GaussianSmoothedDenoiser(tempered, 0.5, 4, key),
        "gaussian-quasi": sj.GaussianSmoothedDenoiser(TRIANGLE, 0.5, 16, key, draws="quasi"),
        "line": sj.LineDenoiser(along, [1.0, -2.0], [0.5, 0.0]),
        "line-bare": sj.LineDenoiser(lambda u, s: jnp.sin(u) * s, [1.0, -2.0]),
        "switched": sj.SwitchedDenoiser(exact, tempered, 0.9),
        "switched-bare": sj.SwitchedDenoiser(exact, bare, 0.9),
    }


@pytest.mark.parametrize("name", jacobian_cases())
def test_variance_is_the_trace_of_the_jacobian(x64, name):
    D, u = jacobian_cases()[name], jnp.array([0.4, -0.3])

    @eqx.filter_jit
    def both(D, sigma):
        trace = jnp.trace(jax.jacfwd(lambda u: D(u, sigma))(u))
        return D.mean_and_variance(u, sigma), (D(u, sigma), sigma**2 * trace)

    for sigma in (0.6, 1.2):  # below and above the switch
        got, expected = both(D, jnp.asarray(sigma))
        # Roundings of sums of a few numbers of size one.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14), got, expected
        )


def test_likelihood_of_a_smoothed_denoiser(x64):
    D = sj.GaussianSmoothedDenoiser(TRIANGLE, 0.5, 4, jax.random.key(0))
    settings = {"prior": sj.GaussianDenoiser.fit(TRIANGLE), "sigma_min": 0.1, "rtol": 1e-6}
    u = jnp.array([0.4, -0.3])
    known = sj.likelihood_solution(D, u, **settings)
    formed = sj.likelihood_solution(lambda u, s: D(u, s), u, **settings)
    # The same right-hand side but for rounding, 1e-15 of a trace of size 2, and so the same steps.
    assert known.num_steps == formed.num_steps
    np.testing.assert_allclose(known.value, formed.value, rtol=1e-12)
    np.testing.assert_allclose(known.latent, formed.latent, rtol=1e-12)


def test_switched_denoiser():
    high, low = sj.EmpiricalDenoiser(TRIANGLE), sj.TemperedDenoiser(TRIANGLE, 2.0)
    D, u = sj.SwitchedDenoiser(high, low, 0.5), jnp.array([0.4, -0.3])
    compiled = eqx.filter_jit(lambda D, sigma: D(u, sigma))
    call = lambda D, sigma: compiled(D, jnp.asarray(sigma, u.dtype))  # noqa: E731
    for sigma, one in ((0.75, high), (0.5, low), (0.25, low)):  # at the switch, what is below
        rtol = 4 * float(jnp.finfo(u.dtype).eps)
        np.testing.assert_allclose(call(D, sigma), call(one, sigma), rtol=rtol)
        assert np.max(np.abs(call(high, sigma) - call(low, sigma))) > 0.01
    assert D.dim == sj.SwitchedDenoiser(lambda u, s: u, low, 0.5).dim == 2
    for pair in ((high, sj.EmpiricalDenoiser(UNEVEN)), (lambda u, s: u, lambda u, s: u)):
        with pytest.raises(ValueError, match="known to one of them"):
            sj.SwitchedDenoiser(*pair, 0.5)
    with pytest.raises(ValueError, match="`level` must be positive"):
        sj.SwitchedDenoiser(high, low, 0.0)
    with pytest.raises(ValueError, match="`level` must be a scalar"):
        sj.SwitchedDenoiser(high, low, np.ones(2))


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
    expected = np.mean([tempered(u + 0.3 * e, 0.5) for e in both.perturbations], axis=0)
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
        sj.GaussianSmoothedDenoiser(np.zeros((2, 1)), 0.1, 3, key, draws="antithetic")
    with pytest.raises(ValueError, match="`draws` must be one of"):
        sj.GaussianSmoothedDenoiser(np.zeros((2, 1)), 0.1, 3, key, draws="sobol")
    with pytest.raises(ValueError, match="`dim` is needed"):
        sj.TemperedDenoiser(lambda u, s: u, 1.0)
    with pytest.raises(ValueError, match="must be one of"):
        sj.NoiseUnconditionedDenoiser(np.zeros((2, 1)), np.ones(2), prediction="flow")
    with pytest.raises(ValueError, match="must not be zero"):
        sj.LineDenoiser(sj.PiecewiseLinearDenoiser([0.0, 1.0], 1.0), np.zeros(3))
    with pytest.raises(ValueError, match="must have one dimension; got 2"):
        sj.LineDenoiser(sj.EmpiricalDenoiser(np.zeros((1, 2))), np.ones(3))
