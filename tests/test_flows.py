"""Flows against closed forms: the Gaussian flow, quantile maps, exact densities, products of per-mode step factors."""

import functools
import itertools
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

import smoothjax as sj

MEAN = np.array([0.5, -1.0, 0.2, 0.0])
VARIANCES, COMPLEMENT = np.array([2.0, 0.3]), 0.05


def gaussian(dtype):
    """Low rank with a complement: a flow that forgets the orthogonal directions does not get away with it."""
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 2)))[0]
    arrays = (jnp.asarray(x, dtype) for x in (MEAN, basis, VARIANCES, COMPLEMENT))
    return sj.GaussianDenoiser.low_rank(*arrays)


def in_modes(function):
    """`function` of the covariance matrix of `gaussian`, as a matrix: independent of `map_modes`."""
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 2)))[0]
    rest = np.eye(4) - basis @ basis.T
    return basis @ np.diag(function(VARIANCES)) @ basis.T + function(np.array(COMPLEMENT)) * rest


def root_of_noisy_covariance(sigma):
    return in_modes(lambda variance: np.sqrt(variance + sigma**2))


def mixture(d):
    """Weights, means and covariances of three components with correlated coordinates."""
    rng = np.random.default_rng(d)
    factors = rng.standard_normal((3, d, d)) / np.sqrt(d)
    covariances = 0.2 * factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(d)
    return np.array([0.5, 0.3, 0.2]), rng.standard_normal((3, d)), covariances


def moments(weights, means, covariances):
    mean = weights @ means
    between = np.einsum("k,ki,kj->ij", weights, means - mean, means - mean)
    return mean, np.einsum("k,kij->ij", weights, covariances) + between


def is_single():
    return default_float() == jnp.float32


def default_float():
    """float64 or float32, as the suite is run: for what would take too long to compile in both."""
    return jnp.result_type(float)


def within(value, expected, *, atol):
    np.testing.assert_allclose(np.asarray(value), np.asarray(expected), rtol=0, atol=atol)


# The Gaussian flow


def test_gaussian_flow_is_the_square_root_of_the_covariance_ratio(dtype):
    denoiser, u = gaussian(dtype), np.array([3.0, -2.0, 1.0, 0.7])
    run = jax.jit(lambda u, start, end: sj.gaussian_flow(denoiser, u, start, end))
    for start, end in ((2.0, 0.3), (0.3, 2.0), (80.0, 0.0)):
        noisy = lambda sigma: in_modes(lambda v: v) + sigma**2 * np.eye(4)  # noqa: E731
        matrix = scipy.linalg.sqrtm(noisy(end)) @ np.linalg.inv(scipy.linalg.sqrtm(noisy(start)))
        value = run(jnp.asarray(u, dtype), start, end)
        assert value.dtype == dtype
        within(value, MEAN + matrix @ (u - MEAN), atol=64 * jnp.finfo(dtype).eps)


def test_gaussian_flow_solves_the_equation(x64):
    denoiser, u = gaussian(jnp.float64), jnp.array([3.0, -2.0, 1.0, 0.7])
    end = lambda sigma: sj.gaussian_flow(denoiser, u, 2.0, sigma)  # noqa: E731
    value, derivative = jax.jvp(end, (0.4,), (1.0,))
    within(derivative, (value - denoiser(value, 0.4)) / 0.4, atol=1e-14)


def test_gaussian_flow_at_the_edges():
    # Squares of these levels vanish in float32; the gradient at a variance of zero exists.
    flat = sj.GaussianDenoiser(jnp.zeros(1), jnp.zeros((1, 1)))
    u = jnp.array([1e-25])
    assert abs(sj.gaussian_flow(flat, u, 1e-25, 1e-28)[0] / 1e-28 - 1) < 1e-5
    gradient = jax.grad(lambda d: sj.gaussian_flow(d, jnp.array([0.4]), 1.0, 0.5)[0])(flat)
    within(gradient.eigenvalues, [0.4 * 0.75], atol=1e-6)  # u / (2 r) dr^2, r^2 = (v + 1/4)/(v + 1)


# The adaptive flow


def counted(denoiser, calls):
    """`denoiser`, with an entry in `calls` for each call that is really made."""

    def call(u, sigma):
        jax.debug.callback(lambda: calls.append(1))
        return denoiser(u, sigma)

    return call


def count(calls):
    jax.effects_barrier()
    return len(calls)


def test_flow_of_gaussian_data(x64):
    # Mapped over noise levels that are not known at compile time; one of the ends is zero.
    denoiser, z = gaussian(jnp.float64), np.array([0.5, -1.0, 2.0, 0.3])
    starts, ends = np.array([80.0, 0.002, 80.0, 1.0]), np.array([0.002, 80.0, 0.0, 1.0])
    u = jnp.stack([MEAN + root_of_noisy_covariance(start) @ z for start in starts])
    run = jax.jit(jax.vmap(lambda u, a, b: sj.flow(denoiser, u, a, b, rtol=1e-8)))
    value = run(u, starts, ends)
    exact = jax.jit(jax.vmap(functools.partial(sj.gaussian_flow, denoiser)))(u, starts, ends)
    scale = np.maximum(1, ends)[:, None]
    within(value / scale, exact / scale, atol=1e-6)


def test_flow_in_float32_with_its_default_tolerance():
    # At most the tolerance a step: errors shrink with the state on the way down.
    denoiser, z = gaussian(jnp.float32), jnp.array([0.5, -1.0, 2.0, 0.3], jnp.float32)
    solution = sj.flow_solution(denoiser, 80 * z, 80.0, 0.01)
    exact = sj.gaussian_flow(denoiser, 80 * z, 80.0, 0.01)
    assert solution.value.dtype == jnp.float32
    bound = int(solution.num_steps) * 1e-5 * (1 + 2)
    assert bound < 5e-3
    within(solution.value, exact, atol=bound)


# Four points, with separatrices at the quartiles; flows magnify errors without bound next to one.
@pytest.mark.parametrize("points", [(-1.0, -0.2, 0.4, 1.0), (-1.0, -1.0, 1.0, 1.0)])
def test_flow_of_points_is_the_quantile_map(x64, points):
    denoiser = sj.EmpiricalDenoiser(np.asarray(points)[:, None])
    end = lambda u, a, b: sj.flow(denoiser, jnp.array([u]), a, b, rtol=1e-8)[0]  # noqa: E731
    for p in (0.02, 0.15, 0.35, 0.6, 0.65, 0.85, 0.97):
        high, low = quantile(p, points, 2.0), quantile(p, points, 0.1)
        within(end(high, 2.0, 0.1), low, atol=1e-6)
        within(end(low, 0.1, 2.0), high, atol=1e-6)
        # The last call is of the denoiser: the point itself, and not what is left of the way to it.
        within(end(high, 2.0, 0.0), points[int(4 * p)], atol=1e-14)


def quantile(p, points, sigma):
    """The point where `(1/n) sum_k Phi((x - y_k) / sigma) = p`, by bisection with 30 digits."""
    with mpmath.workdps(30):
        low, high = mpmath.mpf(-1 - 10 * sigma), mpmath.mpf(1 + 10 * sigma)
        for _ in range(70):
            middle = (low + high) / 2
            below = sum(mpmath.ncdf((middle - y) / sigma) for y in points) / len(points)
            low, high = (middle, high) if below < p else (low, middle)
        return float(low)


def test_derivatives_of_the_flow(x64):
    # A monotone map that takes the density at one level to that at the other has the ratio as its derivative; the noise
    # levels enter by the equation itself. Two points: D = tanh(u / sigma^2).
    denoiser = lambda u, sigma: jnp.tanh(u / sigma**2)  # noqa: E731
    settings = {"rtol": 1e-9, "solver": diffrax.Tsit5()}
    end = lambda u, a, b: sj.flow(denoiser, u[None], a, b, **settings)[0]  # noqa: E731
    value, gradients = jax.jit(jax.value_and_grad(end, argnums=(0, 1, 2)))(0.3, 1.0, 0.4)
    pdf = lambda x, s: np.mean(scipy.stats.norm.pdf(x, [-1.0, 1.0], s))  # noqa: E731
    slope = pdf(0.3, 1.0) / pdf(value, 0.4)
    within(gradients[0], slope, atol=1e-6)
    within(gradients[1], -slope * (0.3 - np.tanh(0.3)), atol=1e-6)
    within(gradients[2], (value - np.tanh(value / 0.16)) / 0.4, atol=1e-6)
    forward = lambda u: sj.flow(denoiser, u, 1.0, 0.4, adjoint=diffrax.ForwardMode(), **settings)  # noqa: E731
    assert jax.eval_shape(lambda u: jax.jvp(forward, (u,), (u,)), jnp.ones(1))[1].shape == (1,)


def test_dense_solution_follows_the_flow(x64):
    denoiser, u, calls = gaussian(jnp.float64), jnp.array([3.0, -2.0, 1.0, 0.7]), []
    settings = {"dense": True, "rtol": 1e-8, "solver": diffrax.Tsit5()}
    solution = sj.flow_solution(counted(denoiser, calls), u, 2.0, 0.1, **settings)
    assert solution.num_evaluations == count(calls) > 0
    for sigma in (2.0, 1.3, 0.5, 0.11, 0.1):
        # The interpolant is of a lower order than the steps.
        within(solution.evaluate(sigma), sj.gaussian_flow(denoiser, u, 2.0, sigma), atol=1e-6)
    for sigma in (2.01, 0.09):
        with pytest.raises(ValueError, match=rf"`sigma` must lie .* 0\.1 and 2; got {sigma}"):
            solution.evaluate(sigma)
    run = eqx.filter_jit(lambda s: solution.evaluate(s))
    within(run(jnp.array(0.5)), solution.evaluate(0.5), atol=1e-14)
    assert np.all(np.isnan(run(jnp.array(3.0))))


@pytest.mark.parametrize(
    ("solver", "rtol", "start", "end"),
    [
        (diffrax.Dopri5(), 1e-4, 80.0, 0.0),
        (diffrax.Dopri8(), 1e-4, 80.0, 0.0),
        (diffrax.Heun(), 1e-2, 0.2, 1.0),
    ],
)
def test_number_of_evaluations(solver, rtol, start, end):
    # Tsit5 and the grids are counted where they are used.
    calls, denoiser = [], lambda u, sigma: jnp.tanh(3 * u) / (1 + sigma**2)
    solution = sj.flow_solution(
        counted(denoiser, calls), jnp.array([0.4]), start, end, rtol=rtol, solver=solver
    )
    assert solution.num_evaluations == count(calls) > 0
    assert solution.result == diffrax.RESULTS.successful


def test_failures():
    denoiser = lambda u, sigma: jnp.tanh(3 * u) / (1 + sigma**2)  # noqa: E731
    u = jnp.array([0.4])
    settings = {"max_steps": 3, "solver": diffrax.Bosh3()}
    solution = sj.flow_solution(denoiser, u, 1.0, 0.0, throw=False, **settings)
    assert solution.result == diffrax.RESULTS.max_steps_reached
    assert solution.num_steps == 3
    assert solution.num_evaluations == -1  # of this solver not known, and said so
    # Hardly off the start, and not the last call of the denoiser, which would look like an answer: 0.8.
    assert abs(solution.value[0] - 0.4) < 0.1
    with pytest.raises(RuntimeError, match="maximum number of solver steps"):
        sj.flow(denoiser, u, 1.0, 0.0, **settings)
    with pytest.raises(RuntimeError, match="left the finite numbers"):
        sj.flow(lambda u, sigma: u * jnp.nan, u, 80.0, 0.0, levels=[80.0, 0.0])
    # Inside a transformation NaN says so, of the samples that failed alone: 40 steps are enough for the short way.
    settings["max_steps"] = 40
    run = jax.jit(jax.vmap(lambda s: sj.flow(denoiser, u, s, 0.5, **settings)))
    found = run(jnp.array([1e-30, 0.6, -1.0, jnp.nan]))
    np.testing.assert_array_equal(np.isnan(found[:, 0]), [True, False, True, True])
    within(found[1], sj.flow(denoiser, u, 0.6, 0.5, **settings), atol=1e-6)


def test_a_bare_callable_is_not_remembered():
    # Parameters that a closure reads may change between calls.
    parameters = {"scale": 1.0}
    denoiser = lambda u, sigma: parameters["scale"] * u  # noqa: E731
    run = lambda: sj.flow(denoiser, jnp.ones(1), 2.0, 0.0, levels=[2.0, 0.0])  # noqa: E731
    assert run()[0] == 1
    parameters["scale"] = 3.0
    assert run()[0] == 3


# Grids


def step_factors(levels, variance, method):
    """What Euler's or Heun's method makes of a mode of the Gaussian flow, as a product over the steps."""
    product = np.ones_like(variance)
    rate = lambda sigma: sigma / (variance + sigma**2)  # noqa: E731
    for now, following in itertools.pairwise(levels):
        if following == 0:
            return product * variance / (variance + now**2)
        step, euler = following - now, 1 + (following - now) * rate(now)
        heun = 1 + step / 2 * (rate(now) + rate(following) * euler)
        product = product * (euler if method == "euler" else heun)
    return product


def after_steps(u, levels, method):
    matrix = in_modes(lambda variance: step_factors(np.asarray(levels, float), variance, method))
    return MEAN + (np.asarray(u, float) - MEAN) @ matrix


@pytest.mark.parametrize("method", ["heun", "euler"])
def test_grid_multiplies_modes_by_exact_factors(method):
    solver = {"heun": diffrax.Heun(), "euler": diffrax.Euler()}[method]
    dtype, z, down = default_float(), np.array([0.5, -1.0, 2.0, 0.3]), sj.edm_grid(18)
    up = down[:-1][::-1]
    for levels in (up, down) if method == "heun" else (up,):
        u = jnp.asarray(levels[0] * z, dtype)
        value = sj.flow(gaussian(dtype), u, levels[0], levels[-1], levels=levels, solver=solver)
        exact = after_steps(u, levels, method)
        # In float32, each of the 18 steps rounds about ten times, in units of the larger end.
        scale = max(levels[0], levels[-1]) if is_single() else np.max(np.abs(exact))
        within(value, exact, atol=(18 * 10 * 6e-8 if is_single() else 1e-10) * scale)
    # The same levels by their number.
    u = jnp.asarray(up[0] * z, dtype)
    value = sj.flow(gaussian(dtype), u, up[0], up[-1], steps=17, solver=solver)
    exact = after_steps(u, up, method)
    within(value / 80, exact / 80, atol=1e-4 if is_single() else 1e-10)


def test_heun_on_the_grid_is_algorithm_1(x64):
    # Karras et al. 2022, algorithm 1 with S_churn = 0, written out; and DDIM as `D + (sigma'/sigma) (u - D)`.
    def denoiser(u, sigma, xp=jnp):
        return xp.tanh(3 * u[::-1]) / (1 + sigma**2) + u / (1 + sigma)

    levels, start = np.asarray(sj.edm_grid(18)), 80 * np.random.default_rng(0).standard_normal(2)
    heun, ddim = start, start
    for now, following in itertools.pairwise(levels):
        slope = (heun - denoiser(heun, now, np)) / now
        euler = heun + (following - now) * slope
        if following:
            slope = (slope + (euler - denoiser(euler, following, np)) / following) / 2
        heun = heun + (following - now) * slope
        denoised = denoiser(ddim, now, np)
        ddim = denoised + following / now * (ddim - denoised)
    for expected, solver, evaluations in ((heun, None, 2 * 18 - 1), (ddim, diffrax.Euler(), 18)):
        calls = []
        solution = sj.flow_solution(
            counted(denoiser, calls), jnp.asarray(start), 80.0, 0.0, levels=levels, solver=solver
        )
        within(solution.value, expected, atol=1e-11)
        assert solution.num_evaluations == count(calls) == evaluations


@pytest.mark.parametrize(("solver", "order"), [(diffrax.Euler(), 1), (diffrax.Heun(), 2)])
def test_orders_of_convergence(x64, solver, order):
    denoiser, start = gaussian(jnp.float64), jnp.array([3.0, -2.0, 1.0, 0.7])
    exact = sj.gaussian_flow(denoiser, start, 2.0, 0.1)

    def error(pieces):
        # Seventeen steps a piece: one compiled function for every number of steps.
        u = start
        for high, low in itertools.pairwise(np.geomspace(2.0, 0.1, pieces + 1)):
            u = sj.flow(denoiser, u, high, low, steps=17, solver=solver)
        return np.linalg.norm(u - exact)

    assert abs(np.log2(error(8) / error(16)) - order) < 0.1


def test_levels_inside_jit():
    # Levels that are computed inside have no known values there; the zero at their end is still one call.
    denoiser, u = gaussian(default_float()), jnp.array([0.5, -1.0, 2.0, 0.3])
    run = eqx.filter_jit(lambda s: sj.flow(denoiser, u, s, 0.0, levels=jnp.array([1.0, 0.0]) * 80))
    within(run(jnp.array(80.0)), denoiser(u, 80.0), atol=1e-6)
    for wrong in (50.0, -1.0):  # not where the levels start; not a noise level
        assert np.all(np.isnan(run(jnp.array(wrong))))
    known = eqx.filter_jit(lambda u: sj.flow(denoiser, u, 80.0, -0.5))
    with pytest.raises(ValueError, match=r"`sigma_to` must be non-negative and finite; got -0\.5"):
        known(u)


# The digits, EDM's 18 levels, `default_rng(2)` noise: computed once with NumPy, independently of this library.
DIGITS = {
    "distinct_memorised": 241,
    "distinct_gaussian": 216,
    "median_ratio": 0.9773934023385977,
    "nearest": 0.4640042462857128,  # root mean square distance to the nearest neighbour, a dimension
    "from_flow": 0.025380534843132158,  # root mean square difference to the exact flow
}


def test_samples_of_the_digits(x64):
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits().data / 8 - 1
    train = data[np.random.default_rng(0).permutation(1797)[:1500]]
    start = jnp.asarray(80 * np.random.default_rng(2).standard_normal((256, 64)))
    levels = sj.edm_grid(18)
    one = lambda d, u: sj.flow(d, u, 80.0, 0.0, levels=levels)  # noqa: E731
    run = eqx.filter_jit(lambda d: jax.vmap(lambda u: one(d, u))(start))

    def neighbours(samples):
        squares = np.sum(samples**2, 1)[:, None] - 2 * samples @ train.T + np.sum(train**2, 1)
        nearest = np.argsort(squares, axis=1)[:, :2]
        distances = np.linalg.norm(samples[:, None] - train[nearest], axis=-1)
        return distances[:, 0], distances[:, 0] / distances[:, 1], len(set(nearest[:, 0]))

    _, ratio, distinct = neighbours(np.asarray(run(sj.EmpiricalDenoiser(train))))
    assert np.mean(ratio < 1 / 3) == 1.0
    assert distinct == DIGITS["distinct_memorised"]
    fitted = sj.GaussianDenoiser.fit(train)
    samples = np.asarray(run(fitted))
    distance, ratio, distinct = neighbours(samples)
    assert np.mean(ratio < 1 / 3) == 0.0
    assert distinct == DIGITS["distinct_gaussian"]
    exact = jax.vmap(lambda u: sj.gaussian_flow(fitted, u, 80.0, 0.0))(start)
    measured = [np.median(ratio), np.sqrt(np.mean(distance**2) / 64)]
    measured.append(np.sqrt(np.mean((samples - exact) ** 2)))
    expected = [DIGITS[name] for name in ("median_ratio", "nearest", "from_flow")]
    np.testing.assert_allclose(measured, expected, rtol=1e-9)


# Likelihoods


@pytest.mark.parametrize("d", [1, 2, 8])
def test_log_likelihood_is_the_density_of_the_mixture(x64, d):
    law, floor = sj.MixtureDenoiser(*mixture(d)), 0.05
    mean, covariance = moments(*mixture(d))
    density = jax.jit(lambda u, sigma: law.log_density(u, sigma))
    for high in (80.0, 2.5):
        normal = scipy.stats.multivariate_normal(mean, covariance + high**2 * np.eye(d))
        mismatches = []
        for u in np.random.default_rng(d).standard_normal((4, d)):
            solution = sj.likelihood_solution(law, u, sigma_min=floor, sigma_max=high, rtol=1e-8)
            exact = density(u, floor)
            if high == 80:
                within(solution.value, exact, atol=1e-4)
            # What the Gaussian leaves out is what is reported, and explains the rest of the difference.
            mismatch = density(solution.latent, high) - normal.logpdf(solution.latent)
            within(solution.terminal_mismatch, mismatch, atol=1e-10)
            within(solution.value + mismatch, exact, atol=1e-6)
            mismatches.append(abs(mismatch))
            assert solution.standard_error == 0
        assert max(mismatches) > 1e-3 or high == 80


@pytest.mark.parametrize(("n", "d"), [(1, 2), (2, 1), (19, 1), (5, 3), (50, 2)])
@pytest.mark.parametrize("sigma", [1.0, 3.0, 10.0, 1000.0])
def test_terminal_mismatch_is_bounded(x64, n, d, sigma):
    # Nineteen points in two places, 4 against 15: the third cumulant of a variable in an interval is the largest there.
    rng = np.random.default_rng(n)
    data = rng.standard_normal((n, d)) if n != 19 else np.repeat([[0.0], [1.0]], [4, 15], axis=0)
    centre = data.mean(axis=0)
    covariance = np.cov(data.T, bias=True).reshape(d, d) + sigma**2 * np.eye(d)
    for distance in (0.1, 1.0, sigma, 50 * sigma):
        bound = float(sj.terminal_mismatch_bound(data, sigma, distance))
        v = rng.standard_normal((2000, d))
        v *= distance * (rng.uniform(size=2000) ** 0.1 / np.linalg.norm(v, axis=1))[:, None]
        logits = -0.5 * np.sum((v[:, None] + centre - data) ** 2, axis=-1) / sigma**2
        exact = scipy.special.logsumexp(logits, axis=1) - np.log(n)
        exact -= 0.5 * d * np.log(2 * np.pi * sigma**2)
        mismatch = exact - scipy.stats.multivariate_normal(np.zeros(d), covariance).logpdf(v)
        rounding = 1e-14 * d * (1 + abs(exact).max())
        assert np.max(np.abs(mismatch)) <= bound + rounding
        if n == 19 and distance == 50 * sigma and sigma == 1000:
            # Only the cubic term counts here. It takes the interval from the farthest point, 30/19 times too long.
            assert bound < 1.02 * (30 / 19) ** 3 * np.max(np.abs(mismatch))


def test_terminal_mismatch_bound_in_the_squared_distance(x64):
    # Two points at +-r: Y of the docstring has values in an interval of length 2 v r / s^2 for every v, and the expansion to
    # its variance leaves E Y + Var Y / 2 less the Gaussian's logarithm. Far out that is close to v^2 r^4 / 2 s^6, which the
    # bound must cover besides what it says of the remainder.
    r, s = 1.0, 100.0
    for distance in (1e3, 1e4):
        v, c, radius = distance / s, (r / s) ** 2, r / s
        expansion = -c / 2 + v**2 * c / 2
        gaussian = 0.5 * v**2 * c / (1 + c) - 0.5 * np.log1p(c)
        remainder = (2 * v * radius + radius**2 / 2) ** 3 / (36 * 3**0.5)
        rest = float(sj.terminal_mismatch_bound([[-r], [r]], s, distance)) - remainder
        # The two sides differ by a factor 1 + c, by c^2 / 4 of the determinants, and by rounding of the remainder.
        rounding = 10 * 2.2e-16 * remainder
        slack = (expansion - gaussian) * c + c**2 / 4
        assert -rounding <= rest - (expansion - gaussian) <= 1.01 * slack + rounding


def test_terminal_mismatch_bound_by_default(dtype):
    data = np.asarray(np.random.default_rng(0).uniform(-1, 1, (30, 64)), dtype)
    radius = np.linalg.norm(data - data.mean(axis=0), axis=1).max()
    reach = radius + 80 * (8 + 6)
    within(
        sj.terminal_mismatch_bound(data, 80.0) / sj.terminal_mismatch_bound(data, 80.0, reach),
        1.0,
        atol=100 * float(jnp.finfo(dtype).eps),
    )
    # Wide data under the same noise, in other units: the bound has none.
    scaled = sj.terminal_mismatch_bound(1e9 * data, 8e10)
    within(scaled / sj.terminal_mismatch_bound(data, 80.0), 1.0, atol=1e-5)
    assert scaled.dtype == dtype
    with pytest.raises(ValueError, match="`distance` must be positive"):
        sj.terminal_mismatch_bound(data, 80.0, -1.0)


def test_log_likelihood_of_a_bare_callable(x64):
    # Its Jacobian is formed, where the mixture knows the trace in closed form.
    law, u = sj.MixtureDenoiser(*mixture(2)), jnp.array([0.3, -0.5])
    settings: Any = {"sigma_min": 0.05, "rtol": 1e-8}
    prior = sj.GaussianDenoiser(*moments(*mixture(2)))
    bare = sj.likelihood_solution(lambda u, s: law(u, s), u, prior=prior, **settings)
    within(bare.value, sj.log_likelihood(law, u, **settings), atol=1e-6)
    assert bare.terminal_mismatch is None


def test_hutchinson_within_its_standard_error(x64):
    law, u, probes = sj.GaussianDenoiser(*moments(*mixture(2))), jnp.array([0.3, -0.5]), 16
    one = lambda key: sj.likelihood_solution(  # noqa: E731
        law, u, sigma_min=0.2, sigma_max=20.0, rtol=1e-5, num_probes=probes, key=key
    )
    estimates = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 50))
    exact = law.log_density(u, 0.2) - estimates.terminal_mismatch
    # With 16 probes the score is Student's, with 15 degrees of freedom: one in 900 passes 4.
    assert np.max(np.abs((estimates.value - exact) / estimates.standard_error)) < 4
    spread = np.std(estimates.value, ddof=1)
    assert np.abs(np.mean(estimates.value - exact)) < 4 * spread / np.sqrt(50)
    # A variance from 50 values has a relative standard error of sqrt(2 / 49).
    ratio = np.mean(estimates.standard_error**2) / spread**2
    assert abs(np.log(ratio)) < 4 * np.sqrt(2 / 49)


# The reverse SDE


NUM, HIGH, LOW = 1024, 3.0, 0.3


def assert_law(ends, z, eta):
    """The mean and covariance of the noisy data at LOW, and the correlation with the start, within 4 standard errors.

    Each mode is an Ornstein-Uhlenbeck process: its correlation with the start decays as the (1 + eta)-th power of what
    the probability flow multiplies it by, while its variance is that of the noisy data for every eta.
    """
    centred, z = np.asarray(ends, float) - MEAN, np.asarray(z, float)
    covariance = in_modes(lambda v: v + LOW**2)
    variances = np.diag(covariance)
    assert np.all(np.abs(centred.mean(0)) < 4 * np.sqrt(variances / NUM))
    # For a Gaussian, Var(x_i x_j) = S_ii S_jj + S_ij^2; likewise for the products of end and start.
    measured = centred.T @ centred / NUM
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / NUM)
    assert np.all(np.abs(measured - covariance) < 4 * error)
    decay = lambda v: ((v + LOW**2) / (v + HIGH**2)) ** ((1 + eta) / 2)  # noqa: E731
    cross = in_modes(lambda v: decay(v) * np.sqrt(v + HIGH**2))
    error = np.sqrt((variances[:, None] + cross**2) / NUM)
    assert np.all(np.abs(centred.T @ z / NUM - cross) < 4 * error)


@functools.cache
def reverse():
    """Compiled once for several tests: slow to compile."""
    denoiser = gaussian(default_float())

    def one(key, u, eta):
        return sj.reverse_sde(denoiser, key, u, HIGH, LOW, steps=64, stochasticity=eta)

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None)))


@pytest.mark.slow
def test_reverse_sde_keeps_the_marginals_and_forgets_at_its_rate():
    key, dtype = jax.random.key(0), default_float()
    z, keys = sj.initial_noise(key, NUM, 4), jax.random.split(jax.random.key(1), NUM)
    starts = jnp.asarray(MEAN + np.asarray(z) @ root_of_noisy_covariance(HIGH), dtype)
    for eta in (0.5, 1.0, 2.0):
        ends = reverse()(keys, starts, eta)
        assert_law(ends, z, eta)
    np.testing.assert_array_equal(ends, reverse()(keys, starts, 2.0))
    assert np.all(ends != reverse()(keys[::-1], starts, 2.0))
    flow = jax.vmap(lambda u: sj.gaussian_flow(gaussian(dtype), u, HIGH, LOW))(starts)
    # Without noise, a method of second order: (log 10 / 64)^2 = 1.3e-3 of a state of some 3.
    within(reverse()(keys, starts, 0.0), flow, atol=1e-2)


@pytest.mark.exhaustive
def test_stochastic_samples_have_the_law_of_the_reverse_sde():
    denoiser, key = gaussian(default_float()), jax.random.key(2)
    settings = {"sigma_max": HIGH, "sigma_min": LOW, "stochasticity": 1.0, "denoise": False}
    samples = sj.sample(denoiser, key, NUM, steps=32, batch_size=NUM, **settings)
    # Half the steps, on the same Brownian paths: strong order 1.5 leaves a small part of the spread, which is above 0.3.
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), 1))(jnp.arange(NUM))
    finer = reverse()(keys, HIGH * sj.initial_noise(key, NUM, 4), 1.0)
    assert np.sqrt(np.mean((samples - finer) ** 2)) < 0.03
    # Paths that repeated the initial noise would leave a correlation with it.
    start = np.asarray(sj.initial_noise(key, NUM, 4))
    decay = lambda v: (v + LOW**2) / (v + HIGH**2) * HIGH  # noqa: E731
    measured = (np.asarray(samples) - np.mean(samples, axis=0)).T @ start / NUM
    assert np.all(np.abs(measured - in_modes(decay)) < 4 * np.sqrt(2 * 2.1 / NUM))


# Samples


def test_samples_on_a_grid_are_those_of_the_initial_noise():
    denoiser, key = gaussian(default_float()), jax.random.key(3)
    samples = sj.sample(denoiser, key, 5, steps=18, batch_size=2)
    noise = sj.initial_noise(key, 5, 4)
    # The start has the mean of the denoiser's law and, to first order, its covariance: C z / 2 sigma, by a call of it.
    m = np.asarray(denoiser.mean)
    start = m + 80 * np.asarray(noise)
    start += (np.asarray(jax.vmap(lambda u: denoiser(u, 80.0))(start)) - m) / 2
    tolerance = 18 * 10 * 6e-8 * 160 if is_single() else 1e-10
    # Sample i depends on its noise, which more samples or another batch size do not change.
    within(samples, after_steps(start, sj.edm_grid(18), "heun"), atol=tolerance)
    np.testing.assert_array_equal(noise[:2], sj.initial_noise(key, 2, 4))
    noisy = sj.sample(denoiser, key, 2, steps=18, denoise=False, solver=diffrax.Euler())
    grid = sj.edm_grid(18, final_zero=False)
    within(noisy, after_steps(start[:2], grid, "euler"), atol=tolerance)


def test_samples_of_points_are_those_of_the_quantile_map():
    points = np.array([-1.0, -0.2, 0.4, 1.0])
    denoiser, key = sj.EmpiricalDenoiser(jnp.asarray(points[:, None])), jax.random.key(4)
    samples = np.asarray(sj.sample(denoiser, key, 64, sigma_max=20.0))[:, 0]
    start = 20 * np.asarray(sj.initial_noise(key, 64, 1), float)
    p = np.mean(scipy.stats.norm.cdf(start - points, scale=20.0), axis=1)
    clear = np.min(np.abs(p[:, None] - [0.25, 0.5, 0.75]), axis=1) > 1e-3  # of the separatrices
    assert np.sum(clear) > 50
    expected = points[(4 * p).astype(int)]
    within(samples[clear], expected[clear], atol=4e-7 if is_single() else 1e-14)


def bare(u, sigma):
    return u / (1 + sigma**2)


def test_shapes_and_dtypes_follow_the_input():
    # Traced only. Under x64, float32 must come through without a promotion that the solvers would refuse.
    dtype, key = jnp.float32, jax.random.key(0)
    u, law = jnp.ones(2, dtype), gaussian_2d(dtype)
    half = lambda u, s: (u / 2).astype(jnp.float16)  # noqa: E731
    double = gaussian_2d(default_float())
    levels = np.array([80.0, 1.0, 0.0])
    for function, shape in (
        (lambda u: sj.flow(law, u, 1.0, 0.5), (2,)),
        (lambda u: sj.flow(law, u, 1.0, 0.0), (2,)),
        (lambda u: sj.flow(law, u, 80.0, 0.0, levels=levels), (2,)),
        (lambda u: sj.flow(double, u, np.float64(1.0), 0.5, steps=2), (2,)),
        (lambda u: sj.flow(half, u, 1.0, 0.5, steps=2), (2,)),
        (lambda u: sj.gaussian_flow(double, u, 1.0, 0.5), (2,)),
        (lambda u: sj.reverse_sde(double, key, u, 1.0, 0.5, steps=2), (2,)),
        (lambda u: sj.log_likelihood(law, u, prior=double), ()),
        (lambda u: sj.likelihood_solution(law, u, num_probes=2, key=key).standard_error, ()),
        (lambda u: sj.sample(law, key, 3, steps=2, sigma_max=np.float64(80)), (3, 2)),
        (lambda u: sj.sample(double, key, 3, dtype=u.dtype, batch_size=2), (3, 2)),
        (lambda u: sj.sample(bare, key, 3, shape_or_dim=(2, 2), dtype=u.dtype), (3, 2, 2)),
        (lambda u: sj.initial_noise(key, 3, 2, dtype=u.dtype), (3, 2)),
    ):
        with jax.numpy_dtype_promotion("standard"):  # two dtypes in one call
            result = jax.eval_shape(function, u)
        assert (result.dtype, result.shape) == (dtype, shape)
    plain = jax.eval_shape(lambda: sj.sample(bare, key, 3, shape_or_dim=2, steps=2))
    assert (plain.dtype, plain.shape) == (default_float(), (3, 2))


def gaussian_2d(dtype):
    return sj.GaussianDenoiser(jnp.zeros(2, dtype), jnp.eye(2, dtype=dtype))


# Input


U: Any = np.array([0.1, 0.2, 0.3, 0.4])
KEY = jax.random.key(0)


def of_flow(*args, **settings):
    return lambda d: sj.flow(d, *args, **settings)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (of_flow(U[None], 1.0, 0.5), r"one point of shape \(d,\); got \(1, 4\).*jax.vmap"),
        (of_flow(U[:3], 1.0, 0.5), r"`u` must have shape \(4,\); got \(3,\)"),
        (of_flow(U * np.nan, 1.0, 0.5), "`u` must be finite; got nan at index"),
        (of_flow(U, 0.0, 0.5), "`sigma_from` must be positive and finite; got 0.0"),
        (of_flow(U, np.inf, 0.5), "`sigma_from` must be positive and finite; got inf"),
        (of_flow(U, 1.0, -0.5), "`sigma_to` must be non-negative and finite; got -0.5"),
        (of_flow(U, 1.0, U), r"`sigma_to` must be a scalar; got shape \(4,\)"),
        (of_flow(U, 1.0, 0.5, rtol=0.0), "rtol=0 must lie between what float"),
        (of_flow(U, 1.0, 0.5, rtol=1.0), "rtol=1 must lie between .* and 1"),
        (of_flow(U, 1.0, 0.5, atol=-1.0), "`atol` must be positive.*got -1.0"),
        (of_flow(U, 1.0, 0.5, max_steps=0), "`max_steps` must be a positive integer; got 0"),
        (of_flow(U, 1.0, 0.5, steps=0), "`steps` must be a positive integer; got 0"),
        (of_flow(U, 1.0, 0.5, steps=4, rtol=1e-3), "`rtol` and `atol` belong to the adaptive"),
        (of_flow(U, 1.0, 0.0, steps=4), r"`steps` needs a positive .*edm_grid\(4, sigma_from"),
        (of_flow(U, 1.0, 1.0, steps=4), "`steps` needs two different noise levels; got 1.0"),
        (of_flow(U, 1.0, 0.5, steps=4, levels=[1.0, 0.5]), "`steps` or `levels`, not both"),
        (of_flow(U, 1.0, 0.5, levels=[1.0]), r"`levels` must have shape \(m,\) with m >= 2"),
        (of_flow(U, 1.0, 0.5, levels=[1.0, 1.0, 0.5]), "strictly monotone; got"),
        (of_flow(U, 1.0, 0.5, levels=[1.0, -0.1]), "non-negative and strictly monotone"),
        (of_flow(U, 1.0, 0.5, levels=[0.0, 0.5]), "start at a positive noise level"),
        (of_flow(U, 1.0, 0.5, levels=[2.0, 0.5]), "sigma_from=1.0, but it has 2.0"),
        (of_flow(U, 1.0, 0.5, levels=[1.0, 0.0]), "sigma_to=0.5, but it has 0.0"),
        (
            lambda d: sj.flow_solution(d, U, 1.0, 0.0, levels=[1.0, 0.0], dense=True),
            "at least two positive noise levels",
        ),
        (
            lambda d: sj.flow(lambda u, s: u[:1], U, 1.0, 0.5, steps=2),
            r"must map one point of shape \(4,\) .*; got an output of shape \(1,\)",
        ),
        (lambda d: sj.gaussian_flow(d, U[:3], 1.0, 0.5), r"shape \(4,\); got \(3,\)"),
        (lambda d: sj.gaussian_flow(d, U, -1.0, 0.5), "`sigma_from` must be positive"),
        (lambda d: sj.gaussian_flow(d, U, 1.0, -0.5), "`sigma_to` must be non-negative"),
        (lambda d: sj.log_likelihood(d, U[None]), "one point of shape"),
        (lambda d: sj.log_likelihood(d, U, sigma_min=0.0), "`sigma_min` must be positive"),
        (
            lambda d: sj.log_likelihood(d, U, sigma_min=2.0, sigma_max=1.0),
            "`sigma_min` must lie below `sigma_max`; got 2.0 and 1.0",
        ),
        (lambda d: sj.log_likelihood(lambda u, s: u, U), "`prior` is needed for a denoiser"),
        (
            lambda d: sj.likelihood_solution(d, U, num_probes=1, key=KEY),
            "`num_probes` must be at least 2, with a `key`; got 1",
        ),
        (lambda d: sj.likelihood_solution(d, U, num_probes=4), "with a `key`; got 4 and key=None"),
        (lambda d: sj.reverse_sde(d, KEY, U[None], 1.0, 0.5, steps=4), "one point of shape"),
        (
            lambda d: sj.reverse_sde(d, KEY, U, 0.5, 1.0, steps=4),
            "`sigma_to` must lie below `sigma_from`; got 0.5 and 1.0",
        ),
        (lambda d: sj.reverse_sde(d, KEY, U, 1.0, 0.0, steps=4), "`sigma_to` must be positive"),
        (lambda d: sj.reverse_sde(d, KEY, U, 1.0, 0.5, steps=0), "`steps` must be a positive"),
        (
            lambda d: sj.reverse_sde(d, KEY, U, 1.0, 0.5, steps=4, stochasticity=-1.0),
            "`stochasticity` must be non-negative and finite; got -1.0",
        ),
        (lambda d: sj.sample(d, KEY, 0), "`num_samples` must be a positive integer; got 0"),
        (lambda d: sj.sample(d, KEY, 2, batch_size=0), "`batch_size` must be a positive integer"),
        (
            lambda d: sj.sample(d, KEY, 2, sigma_max=0.001),
            "`sigma_min` must lie below `sigma_max`; got 0.002 and 0.001",
        ),
        (lambda d: sj.sample(d, KEY, 2, sigma_max=np.inf), "`sigma_max` must be positive and fin"),
        (lambda d: sj.sample(d, KEY, 2, steps=1), "`steps` must be at least 2"),
        (lambda d: sj.sample(d, KEY, 2, steps=4, rtol=1e-3), "`rtol` and `atol` belong to"),
        (lambda d: sj.sample(d, KEY, 2, stochasticity=-1.0), "`stochasticity` must be non-neg"),
        (lambda d: sj.sample(d, KEY, 2, shape_or_dim=(2, 3)), "must have 4 entries.*got"),
        (lambda d: sj.sample(lambda u, s: u, KEY, 2), "`shape_or_dim` is needed"),
        (lambda d: sj.initial_noise(KEY, 2, 0), "`dim` must be a positive integer; got 0"),
    ],
)
def test_bad_input_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call(gaussian(default_float()))


def test_tolerance_above_everything_leaves_one_call(x64):
    law, u = sj.GaussianDenoiser(np.zeros(2), np.eye(2)), np.array([1.0, -2.0])
    for atol in (20.5, 1e30):
        found = sj.flow_solution(law, u, 2.0, 0.0, atol=atol)
        np.testing.assert_allclose(found.value, u / 5, rtol=1e-12)


def test_tolerances_that_float32_cannot_resolve():
    denoiser = sj.EmpiricalDenoiser(jnp.array([[-1.0], [1.0]], jnp.float32))
    message = "rtol=1e-14 must lie between what float32 resolves .*jax_enable_x64"
    with pytest.raises(ValueError, match=message):
        sj.flow(denoiser, jnp.array([0.5], jnp.float32), 0.2, 80.0, rtol=1e-14)
