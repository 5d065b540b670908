"""Affine denoisers in training against explicit descent, exponentials of Hessians, flows, and exponential integrals."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, special

import smoothjax as sj
from smoothjax import training_dynamics
from smoothjax.training_dynamics import _generated

LEVELS = (0.1, 0.7, 3.0)
# Anisotropic, with a mean.
POINTS = np.array(
    [[2.0, 0.3, 0.0], [-1.0, 0.1, 0.2], [0.5, -0.6, 0.1], [3.0, 0.4, -0.2], [-2.0, 0.7, 0.1]]
)
MATRIX = np.array([[0.5, -0.2, 0.1], [0.3, 1.5, 0.0], [-0.4, 0.2, -0.7]])
BIAS = np.array([0.4, -1.0, 2.0])


def eps(dtype):
    return float(jnp.finfo(dtype).eps)


def explicit_loss(parameters, sigma, centred, points=POINTS):
    """Half the mean squared error over points, and over the noise: E |W z|^2 = |W|^2."""
    matrix, bias = parameters
    x = jnp.asarray(points, matrix.dtype)
    inputs = x - jnp.mean(x, axis=0)[None] if centred else x
    off = jnp.matmul(inputs, matrix.T, precision="highest") + bias[None] - x
    return 0.5 * (jnp.mean(jnp.sum(off**2, axis=1)) + sigma**2 * jnp.sum(matrix**2))


def shown(parameters, centred):
    """As a matrix and what is added to `W u`."""
    matrix, bias = (np.asarray(x, np.float64) for x in parameters)
    return matrix, bias - matrix @ POINTS.mean(0) * centred


def start(dtype, random):
    if random:
        return jnp.asarray(MATRIX, dtype), jnp.asarray(BIAS, dtype)
    return jnp.zeros((3, 3), dtype), jnp.zeros(3, dtype)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("random", [False, True])
def test_explicit_gradient_descent(dtype, centred, random):
    """At every one of 150 steps, also of a step size that overshoots in the largest mode."""
    gaussian = sj.GaussianDenoiser.fit(jnp.asarray(POINTS, dtype))
    gradient = jax.jit(jax.grad(explicit_loss), static_argnums=2)
    initial = {"initial_matrix": start(dtype, random)[0], "initial_bias": start(dtype, random)[1]}
    made = functools.partial(
        sj.TrainedLinearDenoiser.gradient_descent, gaussian, centred=centred, **initial
    )
    steps = jnp.arange(151)

    @eqx.filter_jit
    def closed(sigma, step):
        return jax.vmap(lambda n: made(step_size=step, num_steps=n).matrix_and_bias(sigma))(steps)

    for level in LEVELS:
        sigma = jnp.asarray(level, dtype)
        moment = np.cov(POINTS.T, bias=True) + level**2 * np.eye(3)
        if not centred:
            moment = moment + np.outer(POINTS.mean(0), POINTS.mean(0)) + np.eye(3)
        step = jnp.asarray(1.3 / np.linalg.eigvalsh(moment)[-1], dtype)
        found = closed(sigma, step)
        parameters = start(dtype, random)
        for n in range(151):
            expected = shown(parameters, centred)
            # Every step adds some roundings of numbers of order one, and so do a sum of modes and a power.
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one[n], other, atol=(60 + 4 * n) * eps(dtype), rtol=0)
            slopes = gradient(parameters, sigma, centred)
            parameters = jax.tree.map(
                lambda x, g: x - step * g,  # noqa: B023
                parameters,
                slopes,
            )


@pytest.mark.parametrize("sigma", [1e3, 1e6, 1e12])
def test_at_much_noise_the_bias_learns_the_mean(dtype, sigma):
    """At the rate one, beside rates of `sigma^2`: but for `|mean|^2 / sigma^2` nothing else is learned."""
    mean = np.array([1.0, 2.0, 0.5])
    gaussian = sj.GaussianDenoiser(
        jnp.asarray(mean, dtype), jnp.asarray(np.diag([1.0, 0.1, 0.5]), dtype)
    )
    D = sj.TrainedLinearDenoiser.gradient_flow(gaussian, duration=0.7)
    found = np.asarray(D(gaussian.mean, sigma), np.float64)
    rounding = 20 * eps(dtype) + 2 * mean @ mean / sigma**2
    np.testing.assert_allclose(found, -np.expm1(-0.7) * mean, rtol=rounding)


@pytest.mark.parametrize("centred", [False, True])
def test_gradient_flow_is_the_exponential_of_the_hessian(x64, centred):
    gaussian = sj.GaussianDenoiser.fit(jnp.asarray(POINTS))
    begin = start(np.float64, True)
    flat, unravel = jax.flatten_util.ravel_pytree(begin)
    for level in LEVELS:
        loss = lambda x: explicit_loss(unravel(x), level, centred)  # noqa: B023, E731
        hessian, slope = (np.asarray(f(loss)(flat)) for f in (jax.hessian, jax.grad))
        optimum = np.asarray(flat) - np.linalg.solve(hessian, slope)
        for duration in (0.0, 0.03, 1.0, 7.0):
            for weight in (None, lambda sigma: 1 / sigma**2):
                time = duration * (1 if weight is None else level**-2)
                there = optimum + linalg.expm(-hessian * time) @ (np.asarray(flat) - optimum)
                D = sj.TrainedLinearDenoiser.gradient_flow(
                    gaussian,
                    duration=duration,
                    initial_matrix=begin[0],
                    initial_bias=begin[1],
                    centred=centred,
                    weight=weight,
                )
                expected = shown(unravel(jnp.asarray(there)), centred)
                for one, other in zip(D.matrix_and_bias(level), expected, strict=True):
                    np.testing.assert_allclose(one, other, atol=1e-12)
                u = jnp.array([1.0, -2.0, 0.5])
                value = expected[0] @ np.asarray(u) + expected[1]
                np.testing.assert_allclose(D(u, level), value, atol=1e-11)


def test_low_rank_and_full_covariance_agree(dtype):
    """Three directions outside of two modes, in which the mean lies too."""
    rng = np.random.default_rng(0)
    basis = jnp.asarray(np.linalg.qr(rng.normal(size=(5, 2)))[0], dtype)
    mean = jnp.asarray(rng.normal(size=5), dtype)
    thin = sj.GaussianDenoiser.low_rank(mean, basis, jnp.array([2.0, 0.5], dtype), 0.1)
    full = sj.GaussianDenoiser(mean, thin.covariance())
    for centred in (False, True):
        pair = [
            sj.TrainedLinearDenoiser.gradient_flow(
                x, duration=0.6, initial_matrix=0.3, centred=centred
            ).matrix_and_bias(0.5)
            for x in (thin, full)
        ]
        for one, other in zip(*pair, strict=True):
            np.testing.assert_allclose(one, other, atol=100 * eps(dtype))


def test_losses_along_training(dtype):
    """The training loss is that of the points, the population's that of its moments; it falls as fast as its slope says."""
    gaussian = sj.GaussianDenoiser.fit(jnp.asarray(POINTS, dtype))
    other = np.roll(POINTS, 1, axis=1) + 0.3
    population = sj.GaussianDenoiser.fit(jnp.asarray(other, dtype))
    begin, sigma = start(dtype, True), jnp.asarray(0.7, dtype)

    def model(duration):
        return sj.TrainedLinearDenoiser.gradient_flow(
            gaussian, duration=duration, initial_matrix=begin[0], initial_bias=begin[1]
        )

    both = jax.jit(jax.value_and_grad(lambda t: model(t).loss(sigma)))
    for duration in (0.0, 0.2, 2.0):
        D = model(jnp.asarray(duration, dtype))
        parameters = D.matrix_and_bias(sigma)
        loss, slope = both(jnp.asarray(duration, dtype))
        slack = 200 * eps(dtype)
        np.testing.assert_allclose(loss, explicit_loss(parameters, sigma, False), rtol=slack)
        expected = explicit_loss(parameters, sigma, False, other)
        np.testing.assert_allclose(D.loss(sigma, population), expected, rtol=slack)
        descent = jax.grad(explicit_loss)(parameters, sigma, False)
        square = sum(jnp.sum(x**2) for x in descent)
        np.testing.assert_allclose(slope, -square, rtol=slack, atol=200 * slack)


def test_kernel_regression_on_affine_features_is_the_same(x64):
    """The law of kernel smoothers with the kernel `u v + 1` at one level, by many samples: its loss has weight 1/sigma^2."""
    points, level, duration = jnp.array([[-1.0], [2.0]]), 0.7, 0.4
    problem = sj.variance.DenoisingProblem(points, lambda key, num: jnp.full(num, level))
    kernel = lambda u, s, v, t: jnp.sum(u * v) + 1  # noqa: E731
    places = jnp.array([[-2.0], [0.3], [3.0]])
    num, draws = 500, 8
    found = []
    for seed in range(draws):
        law = sj.KernelLaw.gradient_flow(
            problem, kernel, num, jax.random.key(seed), duration=duration
        )
        found.append(jax.vmap(lambda u: law.mean_denoiser(u, level))(places))  # noqa: B023
    found = np.asarray(found)
    D = sj.TrainedLinearDenoiser.gradient_flow(
        sj.GaussianDenoiser.fit(points), duration=duration, weight=lambda sigma: 1 / sigma**2
    )
    expected = jax.vmap(lambda u: D(u, level))(places)
    error = found.std(0, ddof=1) / draws**0.5
    # A nonlinear function of moments of `num` samples is off by some 1/num.
    assert np.all(np.abs(found.mean(0) - expected) < 4 * error + 5 / num)


def in_exponential_integrals(variance, high, low, duration, gain):
    low, high = low**2, high**2
    E = special.exp1
    exponent = E((variance + low) * duration) - E((variance + high) * duration)
    exponent += (gain - 1) * np.exp(-variance * duration) * (E(low * duration) - E(high * duration))
    return high * (variance + low) / (variance + high) * np.exp(exponent)


@pytest.mark.parametrize("gain", [0.0, 1.0, 0.4])
def test_generated_variances_in_exponential_integrals(dtype, gain):
    variances = jnp.array([10.0, 1.0, 1e-2, 1e-5, 0.0], dtype)
    for duration in (1e-4, 0.1, 3.0, 100.0, 1e4):
        found = training_dynamics.generated_variances(
            variances, 80.0, 0.002, duration=duration, initial_gain=gain
        )
        expected = in_exponential_integrals(
            np.asarray(variances, np.float64), 80.0, 0.002, duration, gain
        )
        # An exponent of up to 2 log(sigma_max / sigma_min) = 21, of which both sides round each of several parts.
        np.testing.assert_allclose(found, expected, rtol=10 * 21 * eps(dtype))


def test_generated_variances_at_both_ends_of_time(dtype):
    variances = jnp.array([4.0, 0.1], dtype)
    start = training_dynamics.generated_variances(
        variances, 50.0, 0.1, duration=0.0, initial_gain=0.5
    )
    np.testing.assert_allclose(start, 250 * 0.1 * 0.2, rtol=100 * eps(dtype))
    # Trained to the end it is the exact flow of the Gaussian.
    end = training_dynamics.generated_variances(variances, 50.0, 0.1, duration=1e6)
    exact = 2500 * (variances + 0.01) / (variances + 2500)
    np.testing.assert_allclose(end, exact, rtol=100 * eps(dtype))


@pytest.mark.parametrize("descent", [False, True])
def test_law_of_samples_is_that_of_the_flow(x64, descent):
    """Of a centred model mode by mode, against numerical flows of its calls; and of a coupled one."""
    gaussian = sj.GaussianDenoiser.fit(jnp.asarray(POINTS))
    settings = {"duration": 0.8}
    made = sj.TrainedLinearDenoiser.gradient_flow
    if descent:
        settings = {"step_size": 0.01, "num_steps": 30}
        made = sj.TrainedLinearDenoiser.gradient_descent
    bias = jnp.asarray(BIAS)
    D = made(gaussian, initial_matrix=0.2, initial_bias=bias, centred=True, **settings)
    law = training_dynamics.generated_law(D, 5.0, 0.05)
    by_flows = _generated._coupled_law(D, 5.0, 0.05)
    # Steps of 1e-11 each.
    np.testing.assert_allclose(law.mean, by_flows.mean, atol=1e-8)
    np.testing.assert_allclose(law.covariance(), by_flows.covariance(), atol=1e-7)
    # A mean of zero couples nothing.
    centre = sj.GaussianDenoiser.fit(jnp.asarray(POINTS - POINTS.mean(0)))
    centre = eqx.tree_at(lambda g: g.mean, centre, jnp.zeros(3))
    pair = [
        training_dynamics.generated_law(
            made(centre, initial_bias=bias, centred=centred, **settings), 5.0, 0.05
        )
        for centred in (True, False)
    ]
    np.testing.assert_allclose(pair[0].mean, pair[1].mean, atol=1e-14)
    np.testing.assert_allclose(pair[0].covariance(), pair[1].covariance(), atol=1e-14)


def test_law_of_samples_of_a_coupled_model(x64):
    """At late times that of the exact Gaussian flow; before, an affine map of one draw of noise."""
    gaussian = sj.GaussianDenoiser.fit(jnp.asarray(POINTS))
    late = sj.TrainedLinearDenoiser.gradient_flow(gaussian, duration=1e7)
    law = training_dynamics.generated_law(late, 5.0, 0.05)
    exact = [np.asarray(sj.gaussian_flow(gaussian, u, 5.0, 0.05)) for u in jnp.eye(4, 3, k=-1)]
    columns = 5.0 * (np.stack(exact)[1:] - exact[0])
    np.testing.assert_allclose(law.mean, exact[0], atol=1e-8)
    np.testing.assert_allclose(law.covariance(), columns.T @ columns, atol=1e-7)
    early = sj.TrainedLinearDenoiser.gradient_flow(
        gaussian, duration=0.3, initial_matrix=jnp.asarray(MATRIX)
    )
    law = training_dynamics.generated_law(early, 5.0, 0.05)
    along = jnp.array([1.0, 2.0, -1.0])
    ends = [sj.flow(early, s * along, 5.0, 0.05, rtol=1e-11, atol=1e-11) for s in (1.0, -1.0)]
    np.testing.assert_allclose(law.mean, (ends[0] + ends[1]) / 2, atol=1e-8)


def test_emergence_times(dtype):
    variances = jnp.asarray(np.logspace(-3, 3, 25), dtype)
    sigma = 0.1
    for fraction in (0.5, 0.9):
        times = training_dynamics.emergence_time(variances, sigma, fraction=fraction)
        for variance, time in zip(variances[::6], times[::6], strict=True):
            data = sj.GaussianDenoiser(jnp.zeros(1, dtype), variance[None, None])
            D = sj.TrainedLinearDenoiser.gradient_flow(data, duration=time, initial_matrix=-1.0)
            optimal = variance / (variance + sigma**2)
            found = D.matrix_and_bias(sigma)[0][0, 0]
            np.testing.assert_allclose(found, -1 + fraction * (optimal + 1), atol=50 * eps(dtype))
    logs = np.log(np.asarray([variances, times], np.float64))
    slopes = np.diff(logs[1]) / np.diff(logs[0])
    far = np.asarray(variances[:-1]) >= 100 * sigma**2
    assert far.sum() >= 10 and np.all(np.abs(slopes[far] + 1) < 0.01)
    assert np.all(np.abs(slopes[np.asarray(variances[1:]) < 0.5 * sigma**2]) < 0.4)


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_emergence_times_of_samples(dtype, gain):
    variances = jnp.array([20.0, 1.0, 0.02], dtype)
    times = training_dynamics.generated_emergence_time(
        variances, 80.0, 0.002, fraction=0.5, initial_gain=gain
    )
    exact = np.asarray(variances, np.float64)
    start = 80.0**2 if gain else 0.002**2
    end = 80.0**2 * (exact + 0.002**2) / (exact + 80.0**2)
    found = in_exponential_integrals(exact, 80.0, 0.002, np.asarray(times, np.float64), gain)
    # The slope of the variance in log time is of the order of the variance.
    np.testing.assert_allclose(found, (start + end) / 2, rtol=500 * eps(dtype))
    if not gain:
        x = np.asarray(variances * times, np.float64)
        left = np.exp(-x) * (np.log(exact / (0.002**2 * x)) - np.euler_gamma) - special.exp1(x)
        # Left out are the noise and what is above sigma_max, relative to the variance.
        np.testing.assert_allclose(left, np.log(2), rtol=0.02)
        slope = np.polyfit(np.log(exact), np.log(np.asarray(times, np.float64)), 1)[0]
        assert -1 < slope < -0.93


def test_refused():
    gaussian = sj.GaussianDenoiser(jnp.ones(2), jnp.eye(2))
    made = sj.TrainedLinearDenoiser
    for call, message in (
        (lambda: made.gradient_flow(gaussian, duration=-1.0), "`duration` must be non-negative"),
        (
            lambda: made.gradient_descent(gaussian, step_size=0.1, num_steps=1.5),
            "`num_steps` must be a whole number",
        ),
        (
            lambda: made.gradient_flow(gaussian, duration=1.0, initial_matrix=jnp.eye(3)),
            r"`initial_matrix` must have shape \(\) or \(2, 2\)",
        ),
        (
            lambda: made.gradient_flow(gaussian, duration=1.0, initial_bias=jnp.zeros(3)),
            r"`initial_bias` must have shape \(2,\)",
        ),
        (
            lambda: training_dynamics.emergence_time(jnp.ones(2), 1.0, fraction=1.0),
            "`fraction` must lie between 0 and 1",
        ),
        (
            lambda: training_dynamics.generated_variances(jnp.ones(2), 1.0, 2.0, duration=1.0),
            "`sigma_max` must be larger than `sigma_min`",
        ),
        (
            lambda: training_dynamics.generated_emergence_time(
                jnp.ones(2), 2.0, 1.0, initial_gain=0.5
            ),
            "`initial_gain` must be at most 0 or at least 1",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    weighed = made.gradient_flow(gaussian, duration=1.0, weight=lambda sigma: jnp.ones(2))
    with pytest.raises(ValueError, match=r"`weight` must give a scalar.*got shape \(2,\)"):
        weighed(jnp.zeros(2), 1.0)
    with pytest.raises(ValueError, match=r"`weight` must give a scalar.*got shape \(2,\)"):
        training_dynamics.generated_variances(
            jnp.ones(2), 2.0, 1.0, duration=1.0, weight=lambda sigma: jnp.ones(2)
        )
    one = made.gradient_flow(gaussian, duration=1.0)
    with pytest.raises(ValueError, match="`gaussian` must have dimension 2; got 3"):
        one.loss(1.0, sj.GaussianDenoiser(jnp.zeros(3), jnp.eye(3)))
