"""Laws of trained models against trained models, autodiff and reference values."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import smoothjax as sj
from smoothjax import experiments, variance

PROCESS = sj.VariancePreserving.from_drift_rate(0.1, 20.0)
POINTS = np.array([[-1.0], [0.0], [1.0]])


def problem(prediction="x0", num=4, data=POINTS):
    dim = data.shape[1]
    bumps = [variance.GaussianBumps.evenly(-1.5, 1.5, num)] * dim
    features = variance.ProductFeatures(bumps, variance.GaussianBumps.evenly(0.05, 1.0, 3), PROCESS)
    levels = variance.UniformTimes(PROCESS, 0.05, 1.0)
    denoising = variance.DenoisingProblem(data, levels, prediction=prediction)
    return variance.LinearProblem(denoising, features, ridge=0.1)


# Computed with 50 digits for alpha = sqrt(1 - t), sigma_t^2 = t: x, y, t, tr C / (tr C + |s|^2).
RELATIVE_VARIANCE = {
    "polygon": [
        (0.0, 0.0, 0.05, 1.0),
        (0.0, 0.0, 0.5, 1.0),
        (0.5, 0.25, 0.05, 0.6897695211301248),
        (0.5, 0.25, 0.5, 0.828403829706182),
        (-0.6, 0.8, 0.05, 0.0304068669788682),
        (-0.6, 0.8, 0.5, 0.48727384651110284),
        (-1.0, -0.5, 0.05, 0.5722187514053895),
        (-1.0, -0.5, 0.5, 0.39978675995892143),
        (-2.0, 1.5, 0.05, 0.0010208251481217806),
        (-2.0, 1.5, 0.5, 0.040972264099581775),
    ],
    "blend": [
        (0.0, 0.0, 0.05, 0.5251110863576915),
        (0.0, 0.0, 0.5, 0.761752502325115),
        (0.5, 0.25, 0.05, 0.02540306997061874),
        (0.5, 0.25, 0.5, 0.43954196718306654),
        (-0.6, 0.8, 0.05, 0.012376359432724826),
        (-0.6, 0.8, 0.5, 0.5652412557575898),
        (-1.0, -0.5, 0.05, 0.9878861858326159),
        (-1.0, -0.5, 0.5, 0.5779864941474596),
        (-2.0, 1.5, 0.05, 1.9126408252671375e-09),
        (-2.0, 1.5, 0.5, 0.03466600061557345),
    ],
}
SETS = {
    "polygon": np.stack([np.cos(np.arange(6) * np.pi / 3), np.sin(np.arange(6) * np.pi / 3)], 1),
    "blend": np.array([[-1, -1], [-1, 0], [-1, 1], [0, -1], [0.5, -1], [1, -1]]),
}


@pytest.mark.parametrize("name", SETS)
def test_relative_variance(name, dtype):
    D = sj.EmpiricalDenoiser(SETS[name].astype(dtype))
    evaluate = eqx.filter_jit(jax.vmap(lambda u, s: variance.relative_variance(D, u, s)))
    x, y, t, share = np.array(RELATIVE_VARIANCE[name]).T
    alpha, noise = np.sqrt(1 - t), np.sqrt(t)
    u = np.stack([x / alpha, y / alpha], axis=1)
    found = evaluate(u.astype(dtype), (noise / alpha).astype(dtype))
    # The variance is right to a rounding of the squared spread, of size one; the mean square is at least 0.01.
    np.testing.assert_allclose(found, share, atol=200 * np.finfo(dtype).eps)


def test_relative_variance_of_a_single_point(dtype):
    D = sj.EmpiricalDenoiser(np.ones((1, 2), dtype))
    assert variance.relative_variance(D, np.ones(2, dtype), 0.1) == 0
    assert variance.relative_variance(D, np.zeros(2, dtype), 0.1) == 0


def test_features(x64):
    features = problem(data=np.zeros((1, 2))).features
    u, t = jnp.array([0.3, -0.7]), 0.4
    alpha = float(PROCESS.alpha(t))
    sigma = PROCESS.noise_level(t)
    x = alpha * u
    space = [stats.norm.pdf(x[i], np.linspace(-1.5, 1.5, 4), 0.5) for i in range(2)]
    time = stats.norm.pdf(t, np.linspace(0.05, 1, 3), 0.95 / 4)
    expected = np.einsum("a,b,c->abc", *space, time).ravel()
    np.testing.assert_allclose(features(u, sigma), expected, rtol=1e-12)
    series = variance.FourierSeries(3.0, 2, 1)(jnp.asarray(0.4))
    angle = 2 * np.pi * 0.4 / 3
    expected = [1, np.cos(angle), np.cos(2 * angle), np.sin(angle)]
    np.testing.assert_allclose(series, expected, rtol=1e-14)


@pytest.mark.parametrize("prediction", ["x0", "eps", "score"])
def test_trained_weights_minimise_the_loss(prediction, x64):
    """As the loss is written in the docstring, by autodiff."""
    one, key, P = problem(prediction), jax.random.key(0), 50
    model = eqx.filter_jit(variance.train_linear)(one, P, key)
    x, u, sigma = one.denoising.draw(key, P)

    def loss(weights):
        denoised = jax.vmap(one.denoiser(weights))(u, sigma)
        error = jnp.sum((denoised - x) ** 2, axis=1) / sigma**2
        return jnp.mean(error) + 0.1 * jnp.sum(weights**2)

    gradient = jax.jit(jax.grad(loss))
    scale = jnp.max(jnp.abs(gradient(jnp.zeros_like(model.weights))))
    # Rounding times the condition of the normal equations, at most sup w |phi|^2 / ridge < 1e6.
    assert float(jnp.max(jnp.abs(gradient(model.weights)))) < 1e-9 * float(scale)


def grid_kernel(law, dim=1):
    rng = np.random.default_rng(0)
    u = jnp.asarray(rng.uniform(-1.2, 1.2, (12, dim)))
    sigma = jnp.asarray(np.resize([0.2, 0.6, 2.0], 12))
    rows = jax.vmap(
        lambda v, t: jax.vmap(lambda u, s: variance.v_kernel(law, (u, s), (v, t)))(u, sigma)
    )
    kernel = np.asarray(eqx.filter_jit(rows)(u, sigma))  # (v, u, d, d)
    return kernel.transpose(1, 2, 0, 3).reshape(12 * dim, 12 * dim)


def floor(kernel, num):
    """Relative Frobenius error, root mean square, of the covariance of `num` draws of a Gaussian vector."""
    norm = np.linalg.norm(kernel)
    return np.sqrt((np.trace(kernel) ** 2 + norm**2) / (num - 1)) / norm


def error(kernel, reference):
    return np.linalg.norm(kernel - reference) / np.linalg.norm(reference)


def test_fixed_design_is_exact(x64):
    """Targets drawn again from the posterior at fixed inputs, in the plane."""
    data = np.array([[-1.0, 0.0], [0.0, 0.5], [1.0, 0.0]])
    one, key, P, num = problem(num=3, data=data), jax.random.key(1), 60, 4000
    law = variance.LinearModelLaw.fixed_design(one, P, key)
    _, u, sigma = one.denoising.draw(key, P)
    psi = np.asarray(jax.vmap(one.regressors)(u, sigma))
    square = np.sum((np.asarray(u)[:, None] - data) ** 2, -1)
    logits = -square / (2 * np.asarray(sigma)[:, None] ** 2)
    posterior = np.exp(logits - logits.max(1, keepdims=True))
    posterior /= posterior.sum(1, keepdims=True)
    rng = np.random.default_rng(0)
    chosen = (rng.random((num, P, 1)) > np.cumsum(posterior, 1)).sum(-1).clip(max=2)
    targets = data[chosen] / np.asarray(sigma)[:, None]
    solve = np.linalg.solve(psi.T @ psi / P + 0.1 * np.eye(psi.shape[1]), psi.T / P)
    weights = np.einsum("an,kni->kia", solve, targets)
    mean, spread = weights.mean(0), weights.std(0, ddof=1)
    assert np.all(np.abs(mean - law.mean_weights) < 5 * spread / np.sqrt(num))
    flat = weights.reshape(num, -1)
    drawn = np.cov(flat.T)
    exact = np.asarray(law.factor).reshape(flat.shape[1], -1)
    exact = exact @ exact.T
    # Targets are discrete, with heavier or lighter tails than a Gaussian vector: twice its floor.
    assert error(drawn, exact) < 2 * floor(exact, num)


def test_laws_agree_with_retraining(x64):
    one, P, num = problem(num=5), 200, 2000
    laws = variance.LinearModelLaw
    trained = laws.from_retraining(one, P, jax.random.key(0), num_models=num)
    kernel = grid_kernel(trained)
    averaged = laws.averaged_over_designs(one, P, jax.random.key(1), num_designs=200)
    tolerance = 2 * floor(kernel, num)
    assert error(grid_kernel(averaged), kernel) < tolerance
    # Its mean: the standard error of both.
    spread = np.linalg.norm(np.asarray(trained.factor), axis=-1)
    gap = np.abs(np.asarray(averaged.mean_weights - trained.mean_weights))
    assert np.all(gap < 5 * spread * np.sqrt(1 / num + 1 / 200))
    # Leverages are replaced by their means: an error of order F / P on top.
    equivalent = laws.deterministic_equivalent(one, P, jax.random.key(2))
    assert error(grid_kernel(equivalent), kernel) < tolerance + 15 / P
    # The leading order misses a part of relative size F / P, and without what the design adds still more.
    large = grid_kernel(laws.large_sample(one, P, jax.random.key(2)))
    noise = grid_kernel(laws.large_sample(one, P, jax.random.key(2), noise_only=True))
    assert np.trace(noise) < np.trace(large) < np.trace(kernel)


@pytest.mark.exhaustive
def test_many_samples_a_feature(x64):
    """For large P the leading order and the leave-one-out equivalent become the same."""
    one, laws = problem(), variance.LinearModelLaw
    P, key = 1_000_000, jax.random.key(0)
    first = laws.large_sample(one, P, key, num_nodes=2000)
    second = laws.deterministic_equivalent(one, P, key, num_nodes=2000)
    # Leverages are sup w phi^T R phi < 1e3, over P.
    assert error(grid_kernel(first), grid_kernel(second)) < 1e-3
    np.testing.assert_allclose(first.mean_weights, second.mean_weights, atol=1e-3)


def test_kernel_of_draws(x64):
    law = variance.LinearModelLaw.large_sample(
        problem("eps"), 2000, jax.random.key(0), num_nodes=2000
    )
    places = [(jnp.array([0.4]), 0.5), (jnp.array([-0.3]), 1.2)]
    num = 4000

    @jax.jit
    def draw(key):
        model = law.sample(key)
        return jnp.concatenate([model(u, s) for u, s in places])

    values = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(1), num)))
    kernel = np.array([[variance.v_kernel(law, a, b)[0, 0] for b in places] for a in places])
    assert error(np.cov(values.T), kernel) < 4 * floor(kernel, num)
    mean = np.concatenate([law.mean_denoiser(u, s) for u, s in places])
    assert np.all(np.abs(values.mean(0) - mean) < 4 * np.sqrt(np.diag(kernel) / num))


def test_naive_flow_of_a_gaussian(x64):
    """Its law is Gaussian, with moments that follow linear equations."""
    covariance = np.diag([1.0, 0.04])
    gaussian = sj.GaussianDenoiser(jnp.zeros(2), jnp.asarray(covariance))
    high, low, num, steps = 3.0, 0.1, 4000, 200
    strength = variance.NaiveStrength(PROCESS, 0.3)
    start = jnp.array([2.0, -1.0])
    draw = jax.vmap(
        lambda key: variance.naive_flow(
            gaussian, key, start, high, low, strength=strength, steps=steps
        )
    )
    ends = np.asarray(jax.jit(draw)(jax.random.split(jax.random.key(0), num)))

    def moments(tau, state):  # mean and variance of each coordinate, in tau = -log sigma
        mean, spread = state[:2], state[2:]
        v, noise = np.diag(covariance), np.exp(-2 * tau)
        rate = v / (v + noise) - 1
        t = float(PROCESS.time(np.exp(-tau)))
        beta = 0.1 + 19.9 * t  # of the drift; g^2 = 2 beta
        share = 0.3 * beta / (1 - np.exp(-2 * (0.1 * t + 9.95 * t**2)))
        posterior = v * noise / (v + noise)
        return np.concatenate([rate * mean, 2 * rate * spread + share * posterior])

    solved = integrate.solve_ivp(
        moments, [-np.log(high), -np.log(low)], [2.0, -1.0, 0, 0], rtol=1e-8, atol=1e-12
    ).y[:, -1]
    # Weak order one: steps of 0.017 in log sigma, along which nothing changes by more than a factor e^2 a unit.
    step = np.log(high / low) / steps
    error = np.sqrt(solved[2:] / num)
    assert np.all(np.abs(ends.mean(0) - solved[:2]) < 4 * error + step * np.abs(solved[:2]))
    ratio = ends.var(0, ddof=1) / solved[2:]
    assert np.all(np.abs(ratio - 1) < 4 * np.sqrt(2 / num) + 2 * step), ratio


def test_naive_flow_replays_where_one_point_is_certain(dtype):
    D = sj.EmpiricalDenoiser(POINTS.astype(dtype))
    run = lambda: variance.naive_flow(  # noqa: E731
        D, jax.random.key(0), np.array([0.99], dtype), 0.05, 0.01, strength=1.0, steps=50
    )
    # Without noise u - D falls in proportion to the noise level, up to the scheme's first order.
    np.testing.assert_allclose(run() - 1, -0.01 * 0.2, rtol=0.05)
    with pytest.raises(ValueError, match="knows its covariance"):
        variance.naive_flow(
            lambda u, s: u, jax.random.key(0), np.zeros(1), 0.5, 0.1, strength=1.0, steps=5
        )


def test_bad_input():
    law = variance.LinearModelLaw.fixed_design(problem(), 20, jax.random.key(0))
    with pytest.raises(ValueError, match=r"point of `second` must have shape \(1,\); got \(2,\)"):
        variance.v_kernel(law, (jnp.zeros(1), 0.1), (jnp.zeros(2), 0.1))
    with pytest.raises(ValueError, match="positive"):
        variance.v_kernel(law, (jnp.zeros(1), 0.0), (jnp.zeros(1), 0.1))
    with pytest.raises(ValueError, match="must be one of"):
        problem("v")
    with pytest.raises(ValueError, match="`num_models` must be at least 2; got 1"):
        variance.LinearModelLaw.from_retraining(problem(), 20, jax.random.key(0), num_models=1)
    with pytest.raises(ValueError, match="At least two bumps"):
        variance.GaussianBumps.evenly(0.0, 1.0, 1)
    with pytest.raises(ValueError, match="non-negative integer; got -1"):
        variance.FourierSeries(1.0, -1, 0)


def test_flows_of_many_models(x64):
    law = variance.RetrainedLaw(problem(), 100)
    key, starts = jax.random.key(5), jnp.array([[-1.0], [2.0]])
    found = variance.flow_of_models(law, key, starts, 3.0, 0.2, num_models=2, rtol=1e-8)
    for i in range(2):
        model = variance.train_linear(law.problem, 100, jax.random.fold_in(key, i))
        ends = jax.vmap(lambda u: sj.flow(model, u, 3.0, 0.2, rtol=1e-8))(starts)  # noqa: B023
        # Two integrations to 1e-8 a step.
        np.testing.assert_allclose(found[i], ends, atol=1e-6)
    with pytest.raises(ValueError, match=r"must have shape \(num, d\); got \(2,\)"):
        variance.flow_of_models(law, key, jnp.zeros(2), 3.0, 0.2, num_models=2)


def test_target_noise():
    pytest.importorskip("xarray")
    results = experiments.target_noise(
        sets=("hexagon",), times=(0.05, 0.5), num_nodes=17, extent=1.6
    )
    share = results.share.sel(set="hexagon")
    # As above: at the origin, where the score of the hexagon vanishes, and at (0.5, 0.25) x 1.6 on the grid.
    np.testing.assert_allclose(share.sel(x=0, y=0), 1, atol=1e-5)
    D = sj.EmpiricalDenoiser(sj.datasets.load("hexagon").points)
    x = np.array([0.8, 0.4], np.float32)
    expected = variance.relative_variance(D, x / np.sqrt(np.float32(0.5)), 1.0)
    np.testing.assert_allclose(
        share.sel(t=0.5).sel(x=0.8, y=0.4, method="nearest"), expected, atol=1e-5
    )
    with pytest.raises(ValueError, match="between 0 and 1"):
        experiments.target_noise(times=(1.0,))
    with pytest.raises(ValueError, match="'two-points' has dimension 1"):
        experiments.target_noise(sets=("two-points",))
