"""Flows against closed forms: the Gaussian flow, quantile maps, exact densities, products of per-mode step factors."""

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
POINTS = np.array([-1.0, -0.2, 1.0])


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


def mixture(d):
    """Three components with correlated coordinates, float64."""
    rng = np.random.default_rng(d)
    factors = rng.standard_normal((3, d, d)) / np.sqrt(d)
    covariances = 0.2 * factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(d)
    return sj.MixtureDenoiser(np.array([0.5, 0.3, 0.2]), rng.standard_normal((3, d)), covariances)


def default_float():
    """float64 or float32, as the suite is run: for what would take too long to compile in both."""
    return jnp.result_type(float)


def within(value, expected, *, atol):
    np.testing.assert_allclose(np.asarray(value), np.asarray(expected), rtol=0, atol=atol)


# The Gaussian flow


def test_gaussian_flow_is_the_square_root_of_the_covariance_ratio(dtype):
    denoiser, u = gaussian(dtype), np.array([3.0, -2.0, 1.0, 0.7])
    for start, end in ((2.0, 0.3), (0.3, 2.0), (80.0, 0.0)):
        noisy = lambda sigma: in_modes(lambda v: v) + sigma**2 * np.eye(4)  # noqa: E731
        matrix = scipy.linalg.sqrtm(noisy(end)) @ np.linalg.inv(scipy.linalg.sqrtm(noisy(start)))
        value = sj.flows.gaussian_flow(denoiser, jnp.asarray(u, dtype), start, end)
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


def test_flow_of_gaussian_data(x64):
    denoiser = gaussian(jnp.float64)
    z = jax.random.normal(jax.random.key(0), (4,), jnp.float64)
    for start, end in ((80.0, 0.002), (0.002, 80.0), (80.0, 0.0), (1.0, 1.0)):
        spread = in_modes(lambda v, s=start: np.sqrt(v + s**2))
        u = MEAN + spread @ z
        value = sj.flow(denoiser, u, start, end, rtol=1e-8)
        exact = sj.gaussian_flow(denoiser, u, start, end)
        within(value / max(1, end), exact / max(1, end), atol=1e-6)


def test_flow_in_float32_with_its_default_tolerance():
    # At most the tolerance a step, and this flow does not amplify errors on their way down.
    denoiser = gaussian(jnp.float32)
    u = 80 * jax.random.normal(jax.random.key(1), (4,), jnp.float32)
    solution = sj.flows.flow_solution(denoiser, u, 80.0, 0.01)
    exact = sj.gaussian_flow(denoiser, u, 80.0, 0.01)
    assert solution.value.dtype == jnp.float32
    bound = int(solution.num_steps) * 1e-5 * (1 + float(jnp.max(jnp.abs(u))) / 80)
    assert 0 < np.max(np.abs(solution.value - exact)) < bound < 1e-2


def quantile(p, sigma):
    """The point where `(1/n) sum_k Phi((x - y_k) / sigma) = p`, by bisection with 30 digits."""
    with mpmath.workdps(30):
        low, high = mpmath.mpf(-1 - 10 * sigma), mpmath.mpf(1 + 10 * sigma)
        for _ in range(90):
            middle = (low + high) / 2
            below = sum(mpmath.ncdf((middle - float(y)) / sigma) for y in POINTS) / 3
            low, high = (middle, high) if below < p else (low, middle)
        return float(low)


# Away from the separatrices 1/3 and 2/3, next to which the flow magnifies errors without bound.
LEVELS_OF_P = (0.02, 0.15, 0.25, 0.4, 0.5, 0.62, 0.75, 0.97)


def test_flow_of_points_is_the_quantile_map(x64):
    denoiser = sj.EmpiricalDenoiser(POINTS[:, None])
    for p in LEVELS_OF_P:
        high, low = quantile(p, 2.0), quantile(p, 0.1)
        end = lambda u, a, b: sj.flow(denoiser, jnp.array([u]), a, b, rtol=1e-8)[0]  # noqa: E731
        within(end(high, 2.0, 0.1), low, atol=1e-6)
        within(end(low, 0.1, 2.0), high, atol=1e-6)
        within(end(high, 2.0, 0.0), POINTS[int(3 * p)], atol=1e-6)


def test_flow_of_points_in_float32():
    # The density only grows on the way to these ends, up to a factor of two: errors are not magnified more than that.
    denoiser = sj.EmpiricalDenoiser(jnp.asarray(POINTS[:, None], jnp.float32))
    for p in LEVELS_OF_P:
        u = jnp.array([quantile(p, 2.0)], jnp.float32)
        solution = sj.flow_solution(denoiser, u, 2.0, 0.1)
        bound = 2 * int(solution.num_steps) * 1e-5 * (1 + abs(float(u[0])))
        within(solution.value, [quantile(p, 0.1)], atol=bound)
        assert sj.flow(denoiser, u, 2.0, 0.0)[0] == np.float32(POINTS[int(3 * p)])


def test_flow_to_zero_ends_at_one_of_two_points():
    denoiser = sj.EmpiricalDenoiser(jnp.array([[-1.0], [1.0]]))
    for start in (-3.0, -0.01, 0.01, 0.4):
        assert sj.flow(denoiser, jnp.array([start]), 2.0, 0.0)[0] == np.sign(start)


def test_flow_maps_over_noise_levels():
    denoiser = gaussian(default_float())
    u = 1 + jnp.arange(4.0)
    starts, ends = jnp.array([2.0, 0.1, 5.0, 1.0]), jnp.array([0.1, 2.0, 0.0, 1.0])
    run = jax.jit(jax.vmap(lambda a, b: sj.flow(denoiser, u, a, b, solver=diffrax.Tsit5())))
    exact = jax.vmap(lambda a, b: sj.gaussian_flow(denoiser, u, a, b))(starts, ends)
    # Upwards, the smallest standard deviation grows from sqrt(.06) to 2, and errors with it.
    within(run(starts, ends), exact, atol=2e-2 if default_float() == jnp.float32 else 2e-4)


def test_derivatives_of_the_flow(x64):
    # A monotone map that takes the density at one level to that at the other has the ratio as its derivative; the noise
    # levels enter by the equation itself.
    denoiser, u = sj.EmpiricalDenoiser(POINTS[:, None]), jnp.array([quantile(0.25, 1.0)])
    settings = dict(rtol=1e-9, solver=diffrax.Tsit5())
    end = lambda u, a, b: sj.flow(denoiser, u, a, b, **settings)[0]  # noqa: E731
    value, gradients = jax.value_and_grad(end, argnums=(0, 1, 2))(u, 1.0, 0.2)
    slope = jnp.exp(denoiser.log_density(u, 1.0) - denoiser.log_density(value[None], 0.2))
    velocity = lambda u, sigma: (u - denoiser(u, sigma)) / sigma  # noqa: E731
    within(gradients[0][0], slope, atol=1e-6)
    within(gradients[1], -slope * velocity(u, 1.0)[0], atol=1e-6)
    within(gradients[2], velocity(value[None], 0.2)[0], atol=1e-6)
    forward = lambda u: sj.flow(denoiser, u, 1.0, 0.2, adjoint=diffrax.ForwardMode(), **settings)  # noqa: E731
    within(jax.jvp(forward, (u,), (jnp.ones(1),))[1][0], slope, atol=1e-6)


def test_dense_solution_follows_the_flow(x64):
    denoiser, u = gaussian(jnp.float64), jnp.array([3.0, -2.0, 1.0, 0.7])
    tight = dict(dense=True, rtol=1e-8, solver=diffrax.Tsit5())
    solution = sj.flow_solution(denoiser, u, 2.0, 0.1, **tight)
    for sigma in (2.0, 1.3, 0.5, 0.11, 0.1):
        # The interpolant of a fifth-order method is of fourth order: less accurate than the ends.
        within(solution.evaluate(sigma), sj.gaussian_flow(denoiser, u, 2.0, sigma), atol=1e-6)
    inside = jax.jit(lambda s: solution.evaluate(s))(0.5)
    within(inside, solution.evaluate(0.5), atol=1e-14)
    for sigma in (2.01, 0.09):
        with pytest.raises(ValueError, match=rf"`sigma` must lie .* 0\.1 and 2; got {sigma}"):
            solution.evaluate(sigma)
    with pytest.raises(eqx.EquinoxRuntimeError, match="`sigma` must lie on the way"):
        eqx.filter_jit(lambda s: solution.evaluate(s))(3.0)
    grid = sj.flow_solution(denoiser, u, 2.0, 0.1, dense=True, steps=400)
    # Second order: (log 20 / 400)^2 = 6e-5 for a state of size 3.
    within(grid.evaluate(0.5), sj.gaussian_flow(denoiser, u, 2.0, 0.5), atol=2e-4)
    with pytest.raises(ValueError, match="`evaluate` needs the dense solution"):
        sj.flow_solution(denoiser, u, 2.0, 0.1, steps=400).evaluate(0.5)


# Grids


def step_factors(levels, variance, method):
    """What Euler's or Heun's method makes of a mode of the Gaussian flow, as a product over the steps."""
    product = np.ones_like(variance)
    for now, following in zip(levels[:-1], levels[1:], strict=True):
        if following == 0:
            return product * variance / (variance + now**2)
        rate = lambda sigma: sigma / (variance + sigma**2)  # noqa: E731
        step, euler = following - now, 1 + (following - now) * rate(now)
        heun = 1 + step / 2 * (rate(now) + rate(following) * euler)
        product = product * (euler if method == "euler" else heun)
    return product


@pytest.mark.parametrize("method", ["heun", "euler"])
def test_grid_multiplies_modes_by_exact_factors(dtype, method):
    denoiser, solver = gaussian(dtype), {"heun": diffrax.Heun(), "euler": diffrax.Euler()}[method]
    z = jax.random.normal(jax.random.key(2), (4,), dtype)
    levels = np.asarray(sj.edm_grid(18), float)
    for grid in (levels, levels[:-1][::-1]):
        u = grid[0] * z
        value = sj.flow(denoiser, u, grid[0], grid[-1], levels=grid, solver=solver)
        matrix = in_modes(lambda v, g=grid: step_factors(g, v, method))
        exact = MEAN + matrix @ (np.asarray(u) - MEAN)
        assert value.dtype == dtype
        # Rounding: a few operations a stage on a state that is at most the size of the larger end.
        unit = max(1, grid[-1], grid[0]) if dtype == jnp.float32 else np.max(np.abs(exact))
        within(value, exact, atol=1e-10 * unit if dtype == jnp.float64 else 20 * 18 * 6e-8 * unit)


def test_heun_on_the_grid_is_algorithm_1(x64):
    # Karras et al. 2022, algorithm 1 with S_churn = 0, written out; and DDIM as `D + (sigma'/sigma) (u - D)`.
    denoiser, levels = mixture(2), np.asarray(sj.edm_grid(18))
    start = 80 * np.random.default_rng(0).standard_normal(2)
    call = jax.jit(lambda u, sigma: denoiser(u, sigma))
    heun, ddim = start, start
    for now, following in zip(levels[:-1], levels[1:], strict=True):
        slope = (heun - call(heun, now)) / now
        euler = heun + (following - now) * slope
        if following:
            slope = (slope + (euler - call(euler, following)) / following) / 2
        heun = heun + (following - now) * slope
        denoised = call(ddim, now)
        ddim = denoised + following / now * (ddim - denoised)
    run = lambda **kw: sj.flow(denoiser, jnp.asarray(start), 80.0, 0.0, levels=levels, **kw)  # noqa: E731
    within(run(), heun, atol=1e-12)
    within(run(solver=diffrax.Euler()), ddim, atol=1e-12)


@pytest.mark.parametrize(("solver", "order"), [(diffrax.Euler(), 1), (diffrax.Heun(), 2)])
def test_orders_of_convergence(x64, solver, order):
    denoiser, u = gaussian(jnp.float64), jnp.array([3.0, -2.0, 1.0, 0.7])
    exact = sj.gaussian_flow(denoiser, u, 2.0, 0.1)
    errors = [
        np.linalg.norm(sj.flow(denoiser, u, 2.0, 0.1, steps=n, solver=solver) - exact)
        for n in (128, 256)
    ]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.1


def test_levels_inside_jit():
    # A grid that is made inside the compiled function has no known values there; the zero at its end is still one call.
    denoiser, outside = gaussian(default_float()), sj.edm_grid(5)
    u = 80 * jnp.array([1.0, -1.0, 0.5, 0.2])
    known = sj.flow(denoiser, u, 80.0, 0.0, levels=outside)
    traced = jax.jit(lambda u: sj.flow(denoiser, u, 80.0, 0.0, levels=sj.edm_grid(5)))(u)
    within(traced, known, atol=1e-4 if default_float() == jnp.float32 else 1e-12)
    steps = sj.flow(denoiser, u, 80.0, 0.002, steps=4)
    exact = sj.flow(denoiser, u, 80.0, 0.002, levels=sj.edm_grid(5, final_zero=False))
    within(steps, exact, atol=1e-4 if default_float() == jnp.float32 else 1e-12)
    with pytest.raises(eqx.EquinoxRuntimeError, match="must run from"):
        eqx.filter_jit(lambda s: sj.flow(denoiser, u, s, 0.0, levels=outside))(50.0)


# The digits: numbers computed with NumPy, independently of this library, for `default_rng(2)` noise and EDM's 18 levels.
DIGITS = dict(distinct_memorised=241, ratio=0.9773934023385977, nearest=0.4640042462857128)
DIGITS |= dict(distinct_gaussian=216, rms_vs_flow=0.025380534843132158)


def test_samples_of_the_digits(x64):
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits().data / 8 - 1
    train = data[np.random.default_rng(0).permutation(1797)[:1500]]
    start = jnp.asarray(80 * np.random.default_rng(2).standard_normal((256, 64)))
    levels = sj.edm_grid(18)
    run = eqx.filter_jit(
        lambda d: jax.vmap(lambda u: sj.flow(d, u, 80.0, 0.0, levels=levels))(start)
    )

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
    expected = [DIGITS[name] for name in ("ratio", "nearest", "rms_vs_flow")]
    np.testing.assert_allclose(measured, expected, rtol=1e-9)


# Statistics and failures


@pytest.mark.parametrize(
    ("settings", "start", "end"),
    [
        (dict(solver=diffrax.Tsit5()), 1.0, 0.2),
        (dict(solver=diffrax.Dopri5(), rtol=1e-4), 80.0, 0.0),
        (dict(solver=diffrax.Dopri8(), rtol=1e-4), 80.0, 0.0),
        (dict(solver=diffrax.Heun(), rtol=1e-2), 0.2, 1.0),
        (dict(solver=diffrax.Tsit5(), max_steps=3, throw=False), 1.0, 0.0),
        (dict(steps=5), 1.0, 0.2),
        (dict(levels=sj.edm_grid(9)), 80.0, 0.0),
        (dict(levels=sj.edm_grid(9), solver=diffrax.Euler()), 80.0, 0.0),
        (dict(levels=[80.0, 0.0]), 80.0, 0.0),
        (dict(steps=3, solver=diffrax.Bosh3()), 1.0, 0.2),
    ],
)
def test_number_of_evaluations(settings, start, end):
    calls = []

    def denoiser(u, sigma):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.tanh(3 * u) / (1 + sigma**2)

    solution = sj.flow_solution(denoiser, jnp.array([0.4]), start, end, **settings)
    jax.effects_barrier()
    if isinstance(settings.get("solver"), diffrax.Bosh3):
        assert solution.num_evaluations == -1  # not known, and said so
        return
    assert solution.num_evaluations == len(calls) > 0
    if "levels" in settings and "solver" not in settings:
        assert len(calls) == 2 * (len(settings["levels"]) - 1) - 1  # Karras et al.: 2N - 1
    if "max_steps" in settings:
        assert solution.num_steps == 3
        assert solution.result == diffrax.RESULTS.max_steps_reached
        # Not the last call of the denoiser, which would look like an answer.
        assert 0.1 < abs(solution.value[0] - denoiser(solution.value, 1e-6)[0])
    else:
        assert solution.result == diffrax.RESULTS.successful


def test_failures_raise():
    denoiser, u = gaussian(default_float()), jnp.ones(4)
    with pytest.raises(eqx.EquinoxRuntimeError, match="maximum number of solver steps"):
        sj.flow(denoiser, u, 80.0, 0.1, max_steps=3)
    with pytest.raises(eqx.EquinoxRuntimeError, match="left the finite numbers"):
        sj.flow(lambda u, sigma: u * jnp.nan, u, 80.0, 0.1, steps=2)
    with pytest.raises(eqx.EquinoxRuntimeError, match="`sigma_to` must be non-negative"):
        eqx.filter_jit(lambda s: sj.gaussian_flow(denoiser, u, 1.0, s))(-0.1)


def test_a_bare_callable_is_not_remembered():
    # Parameters that a closure reads may change between calls.
    parameters = {"scale": 1.0}
    denoiser = lambda u, sigma: parameters["scale"] * u  # noqa: E731
    first = sj.flow(denoiser, jnp.ones(1), 2.0, 1.0, steps=2)
    parameters["scale"] = 0.0
    second = sj.flow(denoiser, jnp.ones(1), 2.0, 1.0, steps=2)
    assert first[0] == 1 and abs(second[0] - 0.5) < 0.1


# Likelihoods


@pytest.mark.parametrize("d", [1, 2, 8])
def test_log_likelihood_is_the_density_of_the_mixture(x64, d):
    law, floor = mixture(d), 0.05
    points = np.random.default_rng(d).standard_normal((3, d))
    mean, covariance = moments(law)
    for high, smallest_mismatch in ((80.0, 0.0), (2.5, 1e-3)):
        for u in points:
            solution = sj.likelihood_solution(law, u, sigma_min=floor, sigma_max=high, rtol=1e-8)
            exact = law.log_density(u, floor)
            if high == 80:
                within(solution.value, exact, atol=1e-4)
            # What the Gaussian leaves out is exactly what is reported.
            normal = scipy.stats.multivariate_normal(mean, covariance + high**2 * np.eye(d))
            mismatch = law.log_density(solution.latent, high) - normal.logpdf(solution.latent)
            within(solution.terminal_mismatch, mismatch, atol=1e-10)
            within(solution.value + solution.terminal_mismatch, exact, atol=1e-6)
            assert abs(mismatch) > smallest_mismatch
            assert solution.standard_error == 0


def moments(law):
    weights, means = np.asarray(law.weights), np.asarray(law.components.mean)
    mean = weights @ means
    within_components = np.asarray(jax.vmap(lambda c: c.covariance())(law.components))
    difference = means - mean
    between = np.einsum("k,ki,kj->ij", weights, difference, difference)
    return mean, np.einsum("k,kij->ij", weights, within_components) + between


def test_log_likelihood_of_a_bare_callable(x64):
    # Its Jacobian is formed, where the mixture knows the trace in closed form.
    law, u = mixture(2), jnp.array([0.3, -0.5])
    settings = dict(sigma_min=0.05, rtol=1e-8, solver=diffrax.Tsit5())
    prior = sj.GaussianDenoiser(*moments(law))
    bare = sj.likelihood_solution(lambda u, s: law(u, s), u, prior=prior, **settings)
    within(bare.value, sj.log_likelihood(law, u, **settings), atol=1e-6)
    assert np.isnan(bare.terminal_mismatch)


def test_hutchinson_within_its_standard_error(x64):
    law, u = mixture(2), jnp.array([0.3, -0.5])
    settings = dict(sigma_min=0.2, sigma_max=20.0, rtol=1e-5)
    exact = sj.log_likelihood(law, u, **settings)
    keys = jax.random.split(jax.random.key(0), 50)
    run = jax.jit(
        jax.vmap(lambda k: sj.likelihood_solution(law, u, num_probes=16, key=k, **settings))
    )
    estimates = run(keys)
    scores = (estimates.value - exact) / estimates.standard_error
    # With 16 probes the score is Student's, with 15 degrees of freedom: 4 is passed once in 900.
    assert np.max(np.abs(scores)) < 4
    spread = np.std(estimates.value, ddof=1)
    assert abs(np.mean(estimates.value) - exact) < 4 * spread / np.sqrt(50)
    # A variance from 50 values has a relative standard error of sqrt(2 / 49).
    ratio = np.mean(estimates.standard_error**2) / spread**2
    assert abs(np.log(ratio)) < 4 * np.sqrt(2 / 49)


def test_log_likelihood_far_off_the_data(x64):
    # Twelve noise levels from both points: stiff, and the density is exp(-70).
    law = sj.EmpiricalDenoiser(POINTS[:, None])
    value = sj.log_likelihood(law, jnp.array([0.4]), sigma_min=0.05, solver=diffrax.Kvaerno5())
    within(value, law.log_density(jnp.array([0.4]), 0.05), atol=1e-3)


# The reverse SDE


def test_reverse_sde_keeps_the_marginals_and_forgets_at_its_rate():
    # Each mode is an Ornstein-Uhlenbeck process: its correlation with the start decays as the (1 + eta)-th power of what
    # the probability flow multiplies it by, while its variance is that of the noisy data for every eta.
    dtype, num, high, low = default_float(), 4096, 3.0, 0.3
    denoiser = gaussian(dtype)
    z, keys = sj.initial_noise(jax.random.key(0), num, 4, dtype=dtype), keys_of(num)
    starts = jnp.asarray(MEAN + z @ in_modes(lambda v: np.sqrt(v + high**2)), dtype)
    run = sde(denoiser, high, low, steps=64)
    sigma = in_modes(lambda v: v + low**2)
    for eta in (0.5, 1.0, 2.0):
        ends = np.asarray(run(keys, starts, eta), float)
        centred = ends - MEAN
        assert np.all(np.abs(centred.mean(0)) < 4 * np.sqrt(np.diag(sigma) / num))
        # Var(x_i x_j) = S_ii S_jj + S_ij^2 for a Gaussian; so for the product of end and start.
        products = centred[:, :, None] * centred[:, None]
        error = np.sqrt((np.outer(np.diag(sigma), np.diag(sigma)) + sigma**2) / num)
        assert np.all(np.abs(products.mean(0) - sigma) < 4 * error)
        decay = lambda v, e=eta: ((v + low**2) / (v + high**2)) ** ((1 + e) / 2)  # noqa: E731
        cross = in_modes(lambda v: decay(v) * np.sqrt(v + high**2))
        products = centred[:, :, None] * np.asarray(z, float)[:, None]
        error = np.sqrt((np.diag(sigma)[:, None] + cross**2) / num)
        assert np.all(np.abs(products.mean(0) - cross) < 4 * error)
    flow = jax.vmap(lambda u: sj.gaussian_flow(denoiser, u, high, low))(starts[:8])
    # Without noise a method of second order: (log 10 / 64)^2 = 1.3e-3 of the state.
    within(run(keys[:8], starts[:8], 0.0) / 3, flow / 3, atol=2e-3)


def keys_of(num):
    return jax.random.split(jax.random.key(1), num)


def sde(denoiser, high, low, **settings):
    one = lambda k, u, eta: sj.reverse_sde(denoiser, k, u, high, low, stochasticity=eta, **settings)  # noqa: E731
    return jax.jit(jax.vmap(one, in_axes=(0, 0, None)))


def test_the_brownian_path_belongs_to_the_key():
    denoiser, u = gaussian(default_float()), jnp.ones((64, 4))
    coarse, fine = (sde(denoiser, 3.0, 0.3, steps=n) for n in (16, 32))
    ends = coarse(keys_of(64), u, 1.0)
    np.testing.assert_array_equal(ends, coarse(keys_of(64), u, 1.0))
    # More steps resolve the same path; strong order 1.5 leaves less than a tenth of the spread over keys.
    spread = np.std(ends, axis=0)
    change = np.sqrt(np.mean((fine(keys_of(64), u, 1.0) - ends) ** 2, axis=0))
    assert np.all(change < 0.1 * spread)


# Samples


def test_samples_end_the_flow_of_the_initial_noise(dtype):
    denoiser, key = gaussian(dtype), jax.random.key(3)
    samples = sj.sample(denoiser, key, 5)
    noise = sj.initial_noise(key, 5, 4, dtype=dtype)
    assert samples.dtype == noise.dtype == dtype and samples.shape == (5, 4)
    ends = jax.vmap(lambda z: sj.gaussian_flow(denoiser, 80 * z, 80.0, 0.002))(noise)
    exact = jax.vmap(lambda u: denoiser(u, 0.002))(ends)
    # Some hundred steps, each at the default tolerance.
    within(samples, exact, atol=100 * (1e-5 if dtype == jnp.float32 else 1e-7))
    np.testing.assert_array_equal(noise[:2], sj.initial_noise(key, 2, 4, dtype=dtype))


@pytest.mark.parametrize("settings", [dict(steps=6), dict(steps=6, stochasticity=1.0)])
def test_samples_do_not_depend_on_their_number_or_batch(settings):
    denoiser, key = gaussian(default_float()), jax.random.key(4)
    few = sj.sample(denoiser, key, 3, sigma_max=5.0, sigma_min=0.1, **settings)
    many = sj.sample(denoiser, key, 5, sigma_max=5.0, sigma_min=0.1, batch_size=2, **settings)
    assert many.shape == (5, 4)
    within(many[:3], few, atol=1e-4 if default_float() == jnp.float32 else 1e-12)
    assert np.min(np.abs(np.diff(many, axis=0))) > 0


def test_samples_on_a_grid_are_those_of_the_flow():
    denoiser, key = gaussian(default_float()), jax.random.key(5)
    levels = sj.edm_grid(6)
    starts = 80 * sj.initial_noise(key, 2, 4)
    for settings in (dict(), dict(solver=diffrax.Euler())):
        expected = jnp.stack(
            [sj.flow(denoiser, u, 80.0, 0.0, levels=levels, **settings) for u in starts]
        )
        samples = sj.sample(denoiser, key, 2, steps=6, **settings)
        within(samples, expected, atol=1e-3 if default_float() == jnp.float32 else 1e-11)
    noisy = sj.sample(denoiser, key, 2, steps=6, denoise=False)
    finished = jax.vmap(lambda u: denoiser(u, 0.002))(noisy)
    within(finished, sj.sample(denoiser, key, 2, steps=6), atol=1e-5)


def test_sample_shapes_and_dtypes():
    bare = lambda u, sigma: u / (1 + sigma**2)  # noqa: E731
    samples = sj.sample(bare, jax.random.key(0), 3, shape_or_dim=(2, 2), steps=2)
    assert samples.shape == (3, 2, 2) and samples.dtype == default_float()
    halves = sj.sample(bare, jax.random.key(0), 3, shape_or_dim=4, steps=2, dtype=jnp.float32)
    assert halves.shape == (3, 4) and halves.dtype == jnp.float32
    within(halves.reshape(3, 2, 2), samples, atol=1e-4) if default_float() == jnp.float32 else None


def test_samples_of_points_are_those_points():
    denoiser = sj.EmpiricalDenoiser(jnp.asarray(POINTS[:, None]))
    samples = np.asarray(sj.sample(denoiser, jax.random.key(0), 64)).ravel()
    nearest = POINTS[np.argmin(np.abs(samples[:, None] - POINTS), axis=1)]
    within(samples, nearest, atol=4e-7 if default_float() == jnp.float32 else 1e-14)
    assert set(nearest) == set(POINTS)


# Input


U = np.array([0.1, 0.2, 0.3, 0.4])
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
            r"must return one point of shape \(4,\), like `u`; got \(1,\)",
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
        (lambda d: sj.reverse_sde(d, KEY, U, 1.0, 0.5, steps=1.5), "`steps` must be a positive"),
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


def test_known_levels_are_checked_inside_jit():
    denoiser = gaussian(default_float())
    with pytest.raises(ValueError, match="`sigma_to` must be non-negative and finite; got -0.5"):
        jax.jit(lambda u: sj.flow(denoiser, u, 1.0, -0.5))(jnp.ones(4))


def test_tolerances_that_float32_cannot_resolve():
    denoiser = sj.EmpiricalDenoiser(jnp.array([[-1.0], [1.0]], jnp.float32))
    message = "rtol=1e-14 must lie between what float32 resolves .*jax_enable_x64"
    with pytest.raises(ValueError, match=message):
        sj.flow(denoiser, jnp.array([0.5], jnp.float32), 0.2, 80.0, rtol=1e-14)


def test_the_state_sets_the_dtype(x64):
    # A float64 denoiser, or a network that computes in float16, on a float32 state.
    u = jnp.ones(4, jnp.float32)
    for denoiser in (gaussian(jnp.float64), lambda u, s: (u / 2).astype(jnp.float16)):
        assert sj.flow(denoiser, u, 1.0, 0.5, steps=2).dtype == jnp.float32
    samples = sj.sample(gaussian(jnp.float64), KEY, 2, steps=2, dtype=jnp.float32)
    assert samples.dtype == jnp.float32
