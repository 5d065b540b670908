"""Moments of endpoints over drawn models with a control variate: unbiased, errors that cover, in closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from smoothjax import variance
from smoothjax.variance._endpoint_moments import controlled_moments

REPEATS, MODELS = 1000, 40


def endpoints(z):
    """From two starts in two dimensions: a coin of two points beside a wide, nearly linear coordinate; all of it linear."""
    coin = np.where(z[..., 0] > -0.3, 1.0, -1.0) + 0.1 * z[..., 0]
    wide = 3 * z[..., 1] + 0.1 * (z[..., 1] ** 2 - 1)
    first = np.stack([coin, wide], axis=-1)
    second = np.stack([0.2 * z[..., 0] - z[..., 2], z[..., 2]], axis=-1) + np.array([5.0, 0.0])
    return np.stack([first, second], axis=-2)


def exact():
    share, density = stats.norm.cdf(0.3), stats.norm.pdf(0.3)
    mean = np.array([[2 * share - 1, 0.0], [5.0, 0.0]])
    coin = 4 * share * (1 - share) + 0.01 + 2 * 0.1 * 2 * density
    covariance = np.array([np.diag([coin, 9.02]), [[1.04, -1.0], [-1.0, 1.0]]])
    return mean, covariance


# As an expansion about the separatrix has it: the coin's response is far too large.
FACTOR = np.array([[[16.4, 0, 0], [0, 3, 0]], [[0.2, 0, -1], [0, 0, 1]]])


@pytest.fixture(scope="module")
def repeated():
    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(REPEATS, MODELS, 3))
        x = endpoints(z)
        every = jax.vmap(controlled_moments, (0, None, 0))(
            jnp.asarray(x), jnp.asarray(FACTOR), jnp.asarray(z)
        )
        interval = jax.vmap(lambda found: (found.mean_interval(), found.covariance_interval()))
        return x, every, *(np.asarray(i) for i in interval(every))


def test_unbiased(repeated):
    """A mean over repeats within four of its standard errors; a covariance over n in place of n - 1 is ten away."""
    _, found, *_ = repeated
    for value, truth in zip((found.mean, found.covariance), exact(), strict=True):
        value = np.asarray(value)
        error = value.std(0, ddof=1) / REPEATS**0.5
        # What is linear has no error but rounding.
        assert np.all(np.abs(value.mean(0) - truth) < 4 * error + 1e-12)


def test_intervals_cover(repeated):
    """Between 90 and 98 percent, up to 3.3 standard deviations of a binomial count (one in a thousand each)."""
    *_, mean, covariance = repeated
    means, covariances = exact()
    low, high = stats.binom.ppf([5e-4, 1 - 5e-4], REPEATS, [0.90, 0.98])
    # The coin's; the wide coordinate's; their covariance.
    for interval, truth, place in (
        (mean, means, (0, 0)),
        (mean, means, (0, 1)),
        (covariance, covariances, (0, 0, 0)),
        (covariance, covariances, (0, 1, 1)),
        (covariance, covariances, (0, 0, 1)),
        (covariance, covariances, (1, 0, 0)),
        (covariance, covariances, (1, 0, 1)),
    ):
        ends, value = interval[:, *place], truth[place]
        count = np.sum((ends[:, 0] <= value) & (value <= ends[:, 1]))
        assert low <= count <= high, (place, count)


def test_reduction(repeated):
    """Reported as it is over repeats; never much worse than the plain moments; large where the expansion holds."""
    x, found, *_ = repeated
    plain = x.mean(1).var(0), np.var([[np.cov(k.T) for k in r.swapaxes(0, 1)] for r in x], axis=0)
    for values, before, reported in zip(
        (found.mean, found.covariance),
        plain,
        (found.mean_reduction, found.covariance_reduction),
        strict=True,
    ):
        reduction = before / np.maximum(np.asarray(values).var(0), 1e-20)
        # Coefficients of 36 draws: what is left is 1 / 34 larger for a control, and ratios of variances over a thousand
        # repeats have a relative error of about 2 / sqrt(1000).
        assert np.all(reduction > 1 - 1 / 34 - 4 * 2 / REPEATS**0.5)
        known = np.median(np.asarray(reported), axis=0)
        seen = reduction[0] < 1e6
        assert np.all(np.abs(np.log(known[0][seen] / reduction[0][seen])) < 0.7)
    # The quadratic rest of the wide coordinate: 9 against 0.02.
    assert np.median(found.mean_reduction[:, 0, 1]) > 200
    assert np.all(found.mean_reduction[:, 1] > 1e6)


@pytest.mark.parametrize("num", [2, 3, 100])
def test_errors_where_models_differ(num, dtype):
    """Of two points with equal shares the fourth moment says nothing, and the control fits nothing: not zero."""
    x = jnp.where(jnp.arange(num) % 2, 1.0, -1.0).astype(dtype)[:, None, None]
    z = jnp.asarray(np.random.default_rng(0).normal(size=(num, 2)), dtype)
    for factor in (jnp.ones((1, 1, 2), dtype), jnp.full((1, 1, 2), jnp.nan, dtype)):
        found = controlled_moments(x, factor, z)
        assert found.mean.dtype == dtype
        assert np.all(found.mean_error > 0) and np.all(found.covariance_error > 0)
    np.testing.assert_allclose(found.mean, x.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.covariance[0, 0, 0], jnp.var(x, ddof=1), rtol=1e-5)
    # Exactly linear: rounding is left of an error.
    linear = controlled_moments(z[:, :1, None], jnp.asarray([[[1.0, 0.0]]], dtype), z)
    assert np.all(linear.mean_error > 0) and np.all(linear.covariance_error > 0)


def test_scale_and_shift(dtype):
    z = np.random.default_rng(1).normal(size=(50, 3))
    x, factor = endpoints(z), jnp.asarray(FACTOR, dtype)
    one = controlled_moments(jnp.asarray(x, dtype), factor, jnp.asarray(z, dtype))
    for scale in (1e-6, 1e6):
        other = controlled_moments(
            jnp.asarray(scale * x, dtype), scale * factor, jnp.asarray(z, dtype)
        )
        # Rounding of the endpoints, 5 against a spread of one, in sums of fifty; the second start has no other error.
        near = 1e3 * np.finfo(dtype).eps
        np.testing.assert_allclose(other.mean / scale, one.mean, atol=5 * near)
        np.testing.assert_allclose(other.covariance / scale**2, one.covariance, atol=20 * near)
        np.testing.assert_allclose(other.mean_error[0] / scale, one.mean_error[0], atol=near)


def test_intervals(x64):
    found = controlled_moments(
        *(jnp.asarray(a) for a in (np.ones((4, 1, 1)), FACTOR[:1, :1])), jnp.zeros((4, 3))
    )
    symmetric = eqx.tree_at(
        lambda f: (f.mean, f.mean_error), found, (jnp.zeros((1, 1)), jnp.ones((1, 1)))
    )
    quantile = stats.t.ppf(0.95, 3)
    np.testing.assert_allclose(
        symmetric.mean_interval(0.9)[0, 0], [-quantile, quantile], rtol=1e-12
    )
    # Hall's cubic of the studentised distance to either end is the quantile.
    skewed = eqx.tree_at(lambda f: f.mean_skewness, symmetric, jnp.full((1, 1), 1.5))
    T, a = -skewed.mean_interval(0.9)[0, 0], 1.5 / 2
    np.testing.assert_allclose(
        T + a * T**2 / 3 + a**2 * T**3 / 27 + a / 6, [quantile, -quantile], rtol=1e-12
    )
    # A share q of models is missed by all draws with probability (1 - q)^n.
    wide = symmetric.mean_interval(0.9, reach=2.0)[0, 0]
    share = (wide[1] - quantile) / 2
    np.testing.assert_allclose((1 - share) ** 4, 0.05, rtol=1e-12)
    np.testing.assert_allclose(found.covariance_interval(0.9, reach=2.0)[0, 0, 0], [0, 4 * share])
    with pytest.raises(ValueError, match="between 0 and 1; got 1"):
        found.mean_interval(1.0)
    with pytest.raises(ValueError, match="must not be negative; got -1"):
        found.covariance_interval(reach=-1.0)


def test_coordinates(x64):
    """A drawn model is the mean model with the directions times its coordinates: to rounding, of targets u / sigma."""
    levels = variance.LogUniformLevels(0.3, 3.0)
    data = np.array([[-1.0, 0.0], [0.0, 0.5], [1.0, 0.3]])
    problem = variance.DenoisingProblem(data, levels, prediction="score")
    kernel = lambda u, s, v, t: jnp.exp(-jnp.sum((u - v) ** 2) / 8 - jnp.log(s / t) ** 2 / 2)  # noqa: E731
    laws = [variance.KernelLaw.ridge(problem, kernel, 20, jax.random.key(0), ridge=0.1)]
    laws.append(variance.LinearModelLaw(lambda u, s: u, jnp.eye(2), jnp.asarray(FACTOR)))
    u, sigma = jnp.array([0.4, -0.2]), jnp.asarray(1.3)

    @eqx.filter_jit
    def both(law, key):
        linear = law.mean_denoiser(u, sigma) + law.directions(u, sigma) @ law.coordinates(key)
        return law.sample(key)(u, sigma), linear

    for law in laws:
        for i in range(3):
            np.testing.assert_allclose(*both(law, jax.random.key(i)), atol=1e-10)
    # Of mean zero and covariance one, of targets with three values each.
    draw = eqx.filter_jit(lambda law, keys: jax.vmap(law.coordinates)(keys))
    z = np.asarray(draw(laws[0], jax.random.split(jax.random.key(9), 1000)))
    noisy = np.asarray(jnp.sum(laws[0].noise ** 2, axis=1)).ravel() > 1e-2
    assert np.all(np.abs(z.mean(0))[noisy] < 5 / 1000**0.5)
    np.testing.assert_allclose(z.var(0)[noisy].mean(), 1, atol=0.1)


@pytest.mark.slow
def test_of_random_slopes_and_a_separatrix(x64):
    """One coordinate `D = g u`: lognormal moments in closed form. The other ends at -1 or 1, `D = sign(u + h)`-like."""

    def features(u, sigma):
        return jnp.stack([u[0], jnp.tanh(u[1] / sigma**2), 1.0])

    weights = jnp.array([[0.0, 0, 0], [0, 1, 0]])
    factor = np.zeros((2, 3, 2))
    factor[0, 0, 0], factor[1, 2, 1] = 0.1, 0.3
    law = variance.LinearModelLaw(features, weights, jnp.asarray(factor))
    high, L, num = 2.0, 2.0, 200
    low, starts = high * np.exp(-L), np.array([[2.0, 0.0], [2.0, 3.0]])
    key = jax.random.key(0)
    settings = {"num_models": num, "rtol": 1e-6}
    found = variance.endpoint_moments(law, starts, high, low, key, **settings)
    S, end = (0.1 * L) ** 2, 2 * np.exp(-L)
    mean, spread = end * np.exp(S / 2), end**2 * np.exp(S) * np.expm1(S)
    assert np.all(np.abs(found.mean[:, 0] - mean) < 4 * found.mean_error[:, 0])
    assert np.all(np.abs(found.covariance[:, 0, 0] - spread) < 4 * found.covariance_error[:, 0, 0])
    # The plain error of the mean is the spread over the root of n; the quadratic rest is 4 S / 2 of it.
    assert np.all(found.mean_reduction[:, 0] > 20)
    # On the separatrix, by symmetry: no shift, chi zero, and a response several times the spread of two points.
    point = variance.semiclassical(law, starts[0], high, low)
    assert point.chi[1] < 1e-6 and point.covariance[1, 1] > 4 * found.covariance[0, 1, 1]
    ends = variance.flow_of_models(law, key, starts, high, low, **settings)
    apart = np.asarray(ends[:, 0, 1])
    assert abs(found.mean[0, 1]) < 4 * found.mean_error[0, 1]
    other = variance.flow_of_models(
        law,
        jax.random.key(1),
        starts[:1],
        high,
        low,
        num_models=2000,
        levels=np.geomspace(high, low, 20),
    )[:, 0, 1]
    spread, square = np.var(other, ddof=1), (other - np.mean(other)) ** 2
    error = np.hypot(np.std(square) / 2000**0.5, found.covariance_error[0, 1, 1])
    assert abs(found.covariance[0, 1, 1] - spread) < 4 * error
    assert found.covariance_error[0, 1, 1] > 0 and np.var(apart) > 0.5

    density = variance.DrawnEndpointDensity(ends[:, :, 1:])
    mass = density.mass(0.0, jnp.inf)
    shares = np.mean(np.asarray(ends[:, :, 1]) > 0, axis=1)
    np.testing.assert_allclose(mass.value, shares.mean(), rtol=1e-12)
    np.testing.assert_allclose(mass.standard_error, shares.std(ddof=1) / num**0.5, rtol=1e-12)
    assert abs(mass.value - 0.75) < 4 * mass.standard_error
    # Half of the starts is a fair coin: 1 / 16, of an error of second order.
    variation = density.mass_variance(0.0, jnp.inf)
    assert 0 < variation.standard_error < 0.01
    assert abs(variation.value - 1 / 16) < 4 * variation.standard_error


def test_drawn_density(x64):
    rng = np.random.default_rng(0)
    ends, weights = rng.normal(size=(300, 2, 3)), np.array([1.0, 3.0])
    found = variance.DrawnEndpointDensity(ends, weights)
    x, width = np.array([0.3, -0.2, 0.1]), 0.5
    each = stats.multivariate_normal.pdf(x - ends, np.zeros(3), width**2 * np.eye(3)) @ weights / 4
    density = found.log_density(x, width)
    np.testing.assert_allclose(density.value, np.log(each.mean()), rtol=1e-12)
    error = each.std(ddof=1) / 300**0.5 / each.mean()
    np.testing.assert_allclose(density.standard_error, error, rtol=1e-12)
    # The law itself is normal, with the noise's variance added.
    exact = stats.multivariate_normal.logpdf(x, np.zeros(3), (1 + width**2) * np.eye(3))
    assert abs(density.value - exact) < 4 * density.standard_error
    with pytest.raises(ValueError, match="need d = 1; got d = 3"):
        found.mass(0.0, 1.0)
    with pytest.raises(ValueError, match=r"at least 2 models; got \(1, 2, 3\)"):
        variance.DrawnEndpointDensity(ends[:1])
    with pytest.raises(ValueError, match=r"`x` must have shape \(3,\); got \(1,\)"):
        found.log_density(x[:1], width)


def test_bad_input():
    law = variance.LinearModelLaw(lambda u, s: u, jnp.eye(2), jnp.asarray(FACTOR))
    with pytest.raises(ValueError, match="`num_models` must be at least 2; got 1"):
        variance.endpoint_moments(law, jnp.zeros((3, 2)), 3.0, 0.3, jax.random.key(0), num_models=1)
    with pytest.raises(ValueError, match=r"points of `starts` must have shape \(2,\); got \(1,\)"):
        variance.endpoint_moments(law, jnp.zeros((3, 1)), 3.0, 0.3, jax.random.key(0), num_models=2)
