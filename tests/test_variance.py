"""Laws of trained models against trained models, autodiff and reference values."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import smoothjax as sj
from smoothjax import experiments, variance
from smoothjax.variance._training_set import spread_nodes

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


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_nodes_have_the_law_of_inputs(dim, dtype):
    """Moments in closed form, of points with weights."""
    points, shares = np.arange(3.0 * dim).reshape(3, dim) / dim - 1, np.array([0.2, 0.7, 0.1])
    data = sj.EmpiricalDenoiser(points.astype(dtype), shares.astype(dtype))
    low, high, num = 0.2, 3.0, 1000
    denoising = variance.DenoisingProblem(data, variance.LogUniformLevels(low, high))
    draw = jax.jit(jax.vmap(lambda key: spread_nodes(denoising, key, num)))
    u, sigma, share = (np.asarray(x) for x in draw(jax.random.split(jax.random.key(0), 16)))
    assert u.dtype == sigma.dtype == share.dtype == dtype
    np.testing.assert_allclose(share.mean(1), 1, atol=num * np.finfo(dtype).eps)
    assert share.max() < 4.1  # four, but for the normalisation
    square, width = shares @ np.sum(points**2, 1), np.log(high / low)
    inverse = (low**-2 - high**-2) / (2 * width)  # E sigma^-2
    expected = {
        "u": (u.sum(-1), shares @ points.sum(1)),
        "u^2": (np.sum(u**2, -1), square + dim * (high**2 - low**2) / (2 * width)),
        "(u / sigma)^2": (np.sum(u**2, -1) / sigma**2, square * inverse + dim),
        "1 / sigma^2": (sigma**-2.0, inverse),
    }
    for name, (value, mean) in expected.items():
        means = np.mean(share * value, axis=1)
        # Sixteen independent sequences. Dividing by the mean share is a bias of the order of one in num.
        error = 4 * means.std(ddof=1) / 4 + 2 * abs(mean) / num
        assert abs(means.mean() - mean) < error, name
        draws = np.sqrt(np.mean(share * (value - mean) ** 2) / num)
        assert dim > 2 or np.sqrt(np.mean((means - mean) ** 2)) < 0.5 * draws, name


def test_expectations_are_better_than_by_draws(x64):
    """The leading order's kernel against a product of quadratures: over points, t and z."""
    cutoff, num = 0.02, 4096
    axes = [variance.GaussianBumps.evenly(a, b, 8) for a, b in ((-1.5, 1.5), (cutoff, 1.0))]
    features = variance.ProductFeatures(axes[:1], axes[1], PROCESS)
    levels = variance.UniformTimes(PROCESS, cutoff, 1.0)
    one = variance.LinearProblem(variance.DenoisingProblem(POINTS, levels), features, ridge=0.1)
    # Smooth in log t; trapezoids in z converge geometrically.
    nodes, weights = np.polynomial.legendre.leggauss(80)
    half = -0.5 * np.log(cutoff)
    t, z = np.exp(half * (nodes - 1)), np.linspace(-8, 8, 161)
    share = (half * weights * t / (1 - cutoff))[:, None, None] * stats.norm.pdf(z) * 0.1 / 3
    share = np.broadcast_to(share, (80, 3, 161)).ravel()
    sigma = np.asarray(PROCESS.noise_level(jnp.asarray(t)))
    u = (POINTS + sigma[:, None, None] * z).ravel()
    sigma = np.broadcast_to(sigma[:, None, None], (80, 3, 161)).ravel()
    psi = np.asarray(jax.jit(jax.vmap(one.regressors))(u[:, None], sigma))
    square = (u[:, None] - POINTS[:, 0]) ** 2
    posterior = np.exp(-(square - square.min(1, keepdims=True)) / (2 * sigma[:, None] ** 2))
    posterior /= posterior.sum(1, keepdims=True)
    mean = posterior @ POINTS[:, 0]
    noise = (posterior @ POINTS[:, 0] ** 2 - mean**2) / sigma**2
    R = np.linalg.inv(psi.T @ (share[:, None] * psi) + 0.1 * np.eye(64))
    W = R @ psi.T @ (share * mean / sigma)
    size = noise + (mean / sigma - psi @ W) ** 2
    M = psi.T @ ((share * size)[:, None] * psi) - 0.01 * np.outer(W, W)
    expected = R @ M @ R
    # What a mean of as many draws would be off by, of the trace: by the second moment of what it is a mean of.
    term = size * np.sum((psi @ R) ** 2, 1)
    by_draws = np.sqrt((share @ term**2 / (share @ term) ** 2 - 1) / num)
    make = eqx.filter_jit(
        lambda key: variance.LinearModelLaw.large_sample(one, 1, key, num_nodes=num)
    )
    laws = [make(key) for key in jax.random.split(jax.random.key(0), 8)]
    found = [np.asarray(law.factor[0] @ law.factor[0].T) for law in laws]
    errors = [np.trace(kernel) / np.trace(expected) - 1 for kernel in found]
    assert np.sqrt(np.mean(np.square(errors))) < by_draws / 3
    # The same expectations. Of R, a factor on either side, the error is that of the leverages' mean and comes on top.
    assert error(np.mean(found, 0), expected) < by_draws
    spread = np.std([law.mean_weights[0] for law in laws], axis=0, ddof=1) / np.sqrt(8)
    gap = np.abs(np.mean([law.mean_weights[0] for law in laws], axis=0) - W)
    assert np.linalg.norm(gap) < 4 * np.linalg.norm(spread)


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


@pytest.mark.exhaustive
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


def test_kernel_of_two_places_in_the_plane(x64):
    """By autodiff of a model in its random numbers: rows of a block are of the first place, columns of the second."""
    one, rng = problem("score", 3, np.array([[-1.0, 0.0], [0.0, 0.5]])), np.random.default_rng(0)
    # Weights of both outputs vary together, but differently.
    mean, factor = jnp.zeros((2, 27)), jnp.asarray(rng.normal(size=(2, 27, 4)))
    law = variance.LinearModelLaw(one.features, mean, factor, "score")
    first, second = (jnp.array([0.4, -0.2]), 0.5), (jnp.array([-0.3, 0.6]), 1.2)

    def response(u, sigma):
        return jax.jacfwd(lambda z: one.denoiser(mean + factor @ z)(u, sigma))(jnp.zeros(4))

    expected = response(*first) @ response(*second).T
    assert np.max(np.abs(expected - expected.T)) > 0.01 * np.max(np.abs(expected))
    # The same sums of some hundred terms in another order.
    found = variance.v_kernel(law, first, second)
    np.testing.assert_allclose(found, expected, atol=1e-13 * np.max(np.abs(expected)))


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


def test_naive_noise_does_not_drift(x64):
    """Ito: noise whose size depends on the place adds nothing to the mean of a small step; Stratonovich's would.

    Of the points -1 and 1 in closed form, `D = tanh(u / sigma^2)` with the posterior variance `C = 1 - D^2`.
    """
    D = sj.EmpiricalDenoiser(np.array([[-1.0], [1.0]]))
    u, sigma, h, num = 0.25, 0.7, 0.05, 20_000
    run = jax.jit(
        jax.vmap(
            lambda key: variance.naive_flow(
                D, key, jnp.array([u]), sigma, sigma * np.exp(-h), strength=1.0, steps=1
            )
        )
    )
    ends = np.asarray(run(jax.random.split(jax.random.key(0), num)))[:, 0]
    mean = np.tanh(u / sigma**2)
    spread = 1 - mean**2
    # Four standard errors, and the second order in h of the mean: of size one (D and its derivatives).
    tolerance = 4 * np.sqrt(spread * h / num) + h**2
    assert abs(ends.mean() - u - h * (mean - u)) < tolerance
    # The drift of Stratonovich, C' / 4, is there to be seen.
    assert 0.5 * mean * spread / sigma**2 * h > 2 * tolerance


def test_naive_flow_replays_where_one_point_is_certain(dtype):
    D = sj.EmpiricalDenoiser(POINTS.astype(dtype))
    run = lambda: variance.naive_flow(  # noqa: E731
        D, jax.random.key(0), np.array([0.99], dtype), 0.05, 0.01, strength=1.0, steps=50
    )
    # Without noise u - D falls in proportion to the noise level, up to the scheme's first order.
    np.testing.assert_allclose(run() - 1, -0.01 * 0.2, rtol=0.05)
    with pytest.raises(ValueError, match="`denoiser` must be an AbstractPosteriorDenoiser"):
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
        problem("flow")
    with pytest.raises(ValueError, match="`num_models` must be at least 2; got 1"):
        variance.LinearModelLaw.from_retraining(problem(), 20, jax.random.key(0), num_models=1)
    with pytest.raises(ValueError, match="`num` must be at least 2"):
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
