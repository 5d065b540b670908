"""Strengths: the best one at a noise level and over all, its interval, and denoisers in which it depends on the level."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.interpolate
import scipy.optimize
import scipy.stats
from jax.tree_util import Partial

import smoothjax as sj
from smoothjax._strengths.free import FreeStrength
from smoothjax._strengths.interpolated import InterpolatedStrength, monotone
from smoothjax._strengths.likeliest import likeliest

NODES, VALUES = np.array([-2.0, -0.5, 0.0, 1.5, 2.0]), np.array([0.3, 0.5, 2.0, 1.0, 0.9])
# Centres of a mixture of Gaussians of the planted width.
CENTRES = np.random.default_rng(1).normal(size=(8, 2))
WIDTH = 0.4


def test_between_levels_a_strength_is_monotone_and_smooth():
    at = jax.jit(lambda x: monotone(x, jnp.asarray(NODES), jnp.asarray(VALUES)))
    places = np.linspace(-3, 3, 601)
    found = np.asarray(jax.vmap(at)(jnp.asarray(places)))
    eps = float(jnp.finfo(found.dtype).eps)
    # SciPy's interpolant has the same derivatives at inner nodes; at the ends zero, here.
    inner = scipy.interpolate.PchipInterpolator(NODES, VALUES).derivative()(NODES)
    inner[[0, -1]] = 0
    spline = scipy.interpolate.CubicHermiteSpline(NODES, VALUES, inner)
    # A few sums of numbers up to 2.
    np.testing.assert_allclose(found, spline(np.clip(places, -2, 2)), atol=20 * eps)
    slopes = jax.vmap(jax.grad(at))
    before, after = (slopes(jnp.asarray(NODES + side * 1e-4)) for side in (-1, 1))
    # What a bounded second derivative, of at most 20 here, changes over such a distance.
    np.testing.assert_allclose(before, after, atol=20 * 2e-4)
    for x in (-9.0, 9.0):
        assert float(at(jnp.asarray(x))) == float(jnp.asarray(VALUES[0 if x < 0 else -1]))


def widths():
    """N(0, w^2) of one coordinate, the width by level 0.2, 0.5, 0.3."""
    levels = np.log(np.array([0.1, 1.0, 10.0]))
    make = Partial(sj.WidenedDenoiser, sj.EmpiricalDenoiser(jnp.zeros((1, 1))))
    places = np.log(np.array([0.2, 0.5, 0.3]))
    return InterpolatedStrength(make, jnp.asarray(levels), jnp.asarray(places), True, 1)


def test_flow_and_likelihood_of_a_strength_that_depends_on_the_level():
    """Beside quadrature: `d log u / d log sigma = sigma^2 / (w^2 + sigma^2)`, and the density follows u."""
    D = widths()
    low, high = 0.05, 20.0
    dtype = jnp.result_type(float)
    float32 = dtype == jnp.float32

    def rate(log_sigma):
        # In SciPy, apart from the code.
        nodes, places = np.asarray(D.log_levels, float), np.asarray(D.places, float)
        slopes = scipy.interpolate.PchipInterpolator(nodes, places).derivative()(nodes)
        slopes[[0, -1]] = 0
        spline = scipy.interpolate.CubicHermiteSpline(nodes, places, slopes)
        width = np.exp(spline(np.clip(log_sigma, nodes[0], nodes[-1])))
        return 1 / (1 + (width / np.exp(log_sigma)) ** 2)

    grow = scipy.integrate.quad(rate, np.log(low), np.log(high), epsabs=1e-10, limit=400)[0]
    u = jnp.array([0.3])
    found = sj.flow(D, u, low, high)
    tolerance = 2e-3 if float32 else 1e-4  # the solver's, over some tens of steps
    np.testing.assert_allclose(np.log(found[0] / u[0]), grow, atol=tolerance)
    prior = sj.GaussianDenoiser(jnp.zeros(1), jnp.full((1, 1), 0.09))
    value = sj.log_likelihood(D, u, sigma_min=low, sigma_max=high, prior=prior)
    end = 0.3 * np.exp(grow)
    exact = scipy.stats.norm.logpdf(end, scale=np.hypot(0.3, high)) + grow
    np.testing.assert_allclose(value, exact, atol=tolerance)
    samples = sj.sample(D, jax.random.key(0), 4, shape_or_dim=1, sigma_max=high, sigma_min=low)
    start = high * np.asarray(sj.initial_noise(jax.random.key(0), 4, 1))
    # And then the mean, at the last level.
    last = np.exp(-grow) * (1 - rate(np.log(low)))
    np.testing.assert_allclose(samples / start, np.full((4, 1), last), rtol=2 * tolerance)


def test_trace_is_that_of_the_member():
    D = widths()
    u, sigma = jnp.array([0.7]), jnp.asarray(0.8)
    mean, variance = eqx.filter_jit(lambda D: D.mean_and_variance(u, sigma))(D)
    jacobian = jax.jacfwd(lambda u: D(u, sigma))(u)
    eps = float(jnp.finfo(mean.dtype).eps)
    np.testing.assert_allclose(variance, sigma**2 * jnp.trace(jacobian), rtol=20 * eps)
    np.testing.assert_allclose(mean, D(u, sigma), rtol=4 * eps)
    np.testing.assert_allclose(D.strength_at(1.0), 0.5, rtol=8 * eps)
    batch = jax.vmap(D)(jnp.full((3, 1), 0.7), jnp.array([0.1, 1.0, 10.0]))
    shares = np.array([0.2, 0.5, 0.3]) ** 2 / (
        np.array([0.2, 0.5, 0.3]) ** 2 + np.array([0.1, 1.0, 10.0]) ** 2
    )
    np.testing.assert_allclose(batch[:, 0], 0.7 * shares, rtol=100 * eps)


def free(points, values):
    strength = sj.mechanisms.get("widened").strength
    base = sj.EmpiricalDenoiser(jnp.asarray(points))
    make = lambda: Partial(sj.WidenedDenoiser, base)  # noqa: E731
    return FreeStrength("widened", strength, values, make, base.data, 512)


def posterior_mean(u, centres, width, sigma):
    """Of a mixture of Gaussians of one width, in NumPy."""
    level = np.hypot(width, sigma)
    logits = -np.sum((u[:, None] - centres[None]) ** 2, axis=2) / (2 * level**2)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    mean = weights @ centres / weights.sum(axis=1, keepdims=True)
    return mean + (width / level) ** 2 * (u - mean)


def test_strength_of_least_held_out_loss():
    """As good as the best of a fine grid in NumPy; and a planted strength, the best at every level, lies in the interval."""
    rng = np.random.default_rng(0)
    one = free(CENTRES, np.geomspace(0.05, 3.0, 8))
    dtype = one.make(jnp.asarray(1.0, one._dtype)).base.data.dtype
    num, trials, covered = 100, 60, 0
    fine = np.geomspace(0.05, 3.0, 400)
    for sigma in (0.1, 0.3, 0.8):
        for i in range(trials):
            clean = CENTRES[rng.integers(8, size=num)] + WIDTH * rng.normal(size=(num, 2))
            u = (clean + sigma * rng.normal(size=(num, 2))).astype(dtype)
            fit = one.fit(clean, u, sigma, num, 0.9)
            covered += fit.low <= WIDTH <= fit.high
            if i:
                continue
            losses = [np.mean((posterior_mean(u, CENTRES, w, sigma) - clean) ** 2) for w in fine]
            found = np.mean((posterior_mean(u, CENTRES, fit.value, sigma) - clean) ** 2)
            # A hundredth of a grid step off the minimum costs a ten thousandth of what a step does.
            step = np.min(losses) * 1e-4 + 1e-6 * (dtype == np.float32)
            assert found <= np.min(losses) + step
    low, high = scipy.stats.binom.ppf([1e-4, 1 - 1e-4], 3 * trials, 0.9)
    assert low <= covered <= high, covered / (3 * trials)


def kullback_leibler(width, points, grid, density, floor):
    """Minus the mean of the log density estimate at a noise level, by the trapezoidal rule."""
    level = np.hypot(width, floor)
    logits = -((grid[:, None] - points[None]) ** 2) / (2 * level**2)
    log_density = scipy.special.logsumexp(logits, axis=1) - np.log(
        len(points) * level * np.sqrt(2 * np.pi)
    )
    return -np.sum(density * log_density) * (grid[1] - grid[0])


def test_width_of_greatest_likelihood_is_that_of_least_divergence():
    """Of Gaussian data on a line: not Silverman's, which is for squares; the likelihood dreads the tails, and is wider."""
    rng = np.random.default_rng(0)
    points, floor = rng.normal(size=(200, 1)), 0.05
    grid = np.linspace(-9, 9, 2001)
    density = scipy.stats.norm.pdf(grid, scale=np.hypot(1, floor))
    loss = lambda place: kullback_leibler(np.exp(place), points[:, 0], grid, density, floor)  # noqa: E731
    best = scipy.optimize.minimize_scalar(loss, bounds=(-3, 1), method="bounded")
    best = float(np.exp(best.x))
    assert (4 / (3 * 200)) ** 0.2 < best < 1.3 * (4 / (3 * 200)) ** 0.2
    one = free(points, np.geomspace(0.05, 2.0, 8))
    run = jax.jit(lambda D, u: jax.vmap(lambda u: D.log_density(u, floor))(u))
    trials, num, covered, places = 80, 1000, 0, []
    for _ in range(trials):
        u = jnp.asarray(np.hypot(1, floor) * rng.normal(size=(num, 1)), one._dtype)
        at = lambda value, u=u: np.asarray(run(one.denoiser(value), u))  # noqa: E731
        found = likeliest(one, at, 0.9)
        covered += found.low <= best <= found.high
        places.append(np.log(found.value))
    low, high = scipy.stats.binom.ppf([1e-4, 1 - 1e-4], trials, 0.9)
    assert low <= covered <= high, covered / trials
    # The mean of a minimiser is off by its variance times a ratio of derivatives of order one.
    error = np.std(places) / np.sqrt(trials) + np.var(places)
    assert abs(np.mean(places) - np.log(best)) < 4 * error


def test_values_that_are_none_are_refused():
    with pytest.raises(ValueError, match="`values` of the strength of 'widened' must be positive"):
        free(CENTRES, (0.0, 1.0))
    with pytest.raises(ValueError, match="must be one or more, finite and increase"):
        free(CENTRES, (1.0, 1.0))


def test_moments_of_a_widened_law_are_derivatives_of_its_mean():
    if not jax.config.jax_enable_x64:
        pytest.skip("derivatives to many digits")
    points = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)))
    widened = sj.denoisers.WidenedDenoiser(points, 0.4)
    u, sigma, vector = jnp.array([0.2, -0.3, 0.1]), jnp.asarray(0.6), jnp.array([1.0, -2.0, 0.5])
    # Tweedie: the posterior covariance is sigma^2 dD/du, whatever the width.
    exact = sigma**2 * jax.jacfwd(widened)(u, sigma)
    mean, variance = widened.mean_and_variance(u, sigma)
    assert np.allclose(mean, widened(u, sigma), rtol=1e-12)
    assert float(variance) == pytest.approx(float(jnp.trace(exact)), rel=1e-10)
    assert float(widened.posterior_variance(u, sigma)) == pytest.approx(float(variance), rel=1e-10)
    assert np.allclose(widened.posterior_covariance(u, sigma), exact, rtol=1e-10, atol=1e-12)
    product = widened.posterior_covariance_product(u, sigma, vector)
    assert np.allclose(product, exact @ vector, rtol=1e-10, atol=1e-12)
