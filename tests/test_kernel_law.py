"""Kernel smoothers against explicit training in function space, and tangent kernels against networks."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, linalg

from smoothjax import variance

# Compiles for minutes in all: not a second time in the suite at default precision.
pytestmark = pytest.mark.slow

DATA = np.array([[-1.0, 0.0], [0.0, 0.5], [1.0, 0.2]])


class Waves(eqx.Module):
    """Features `amplitude cos(W (u, log sigma) + b)`, and as `kernel` their inner products."""

    directions: jax.Array
    phases: jax.Array

    def __init__(self, num, seed):
        rng = np.random.default_rng(seed)
        self.directions = jnp.asarray(rng.normal(size=(num, 3)))
        self.phases = jnp.asarray(rng.uniform(0, 2 * np.pi, num))

    def __call__(self, u, sigma):
        place = jnp.append(u, jnp.log(sigma))
        return jnp.cos(self.directions @ place + self.phases) / len(self.phases) ** 0.5

    def kernel(self, u, sigma, v, tau):
        return self(u, sigma) @ self(v, tau)


class Combination(eqx.Module):
    """`weights phi`: a function of the features' span."""

    features: Waves
    weights: jax.Array

    def __call__(self, u, sigma):
        return self.weights @ self.features(u, sigma)


class Normal(eqx.Module):
    """Combinations with standard normal weights, a draw a key."""

    features: Waves

    def __call__(self, key):
        shape = (2, len(self.features.phases))
        return Combination(self.features, jax.random.normal(key, shape))


FEATURES, INITIAL = Waves(9, 0), Waves(5, 1)
P, DURATION = 12, 40.0
PLACES = np.random.default_rng(2).uniform(-1.2, 1.2, (4, 2))
PLACE_LEVELS = np.array([0.3, 0.6, 1.0, 2.0])


def score_problem():
    """Weights sigma^2, over two decades; its scale c = sigma^2 at a place tells places apart."""
    levels = variance.LogUniformLevels(0.3, 3.0)
    return variance.DenoisingProblem(DATA, levels, prediction="score")


def posterior(u, sigma):
    """Means and covariances of x_0 given inputs, in NumPy."""
    logits = -np.sum((u[:, None] - DATA) ** 2, -1) / (2 * sigma[:, None] ** 2)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    mean = shares @ DATA
    gap = DATA - mean[:, None]
    return mean, np.einsum("nk,nki,nkj->nij", shares, gap, gap)


def values(features, u, sigma):
    """In NumPy."""
    place = np.concatenate([u, np.log(sigma)[:, None]], axis=1)
    waves = np.cos(place @ np.asarray(features.directions).T + np.asarray(features.phases))
    return waves / len(features.phases) ** 0.5


@eqx.filter_jit
def on_places(law, u, sigma):
    """Means and covariances at places, shapes (n, d) and (n, d, n, d)."""
    mean = jax.vmap(law.mean_denoiser)(u, sigma)
    row = lambda u, s: jax.vmap(lambda v, t: variance.v_kernel(law, (u, s), (v, t)))  # noqa: E731
    kernel = jax.vmap(lambda a, s: row(a, s)(u, sigma))(u, sigma)
    return mean, jnp.swapaxes(kernel, 1, 2)


def test_gradient_flow(x64):
    """Means, target noise and initialisation against the explicit flow of functions, integrated to 1e-11.

    The flow is linear: from f_0 = 0 with one target of one and the others zero it gives the smoother's weights, from each
    feature of f_0 with zero targets what it leaves of that feature. All draws of f_0 at once, and no Monte Carlo.
    """
    problem, key = score_problem(), jax.random.key(0)
    law = variance.KernelLaw.gradient_flow(
        problem,
        FEATURES.kernel,
        P,
        key,
        duration=DURATION,
        initial_covariance=INITIAL.kernel,
        initial_model=Normal(INITIAL),
    )
    without = variance.KernelLaw.gradient_flow(problem, FEATURES.kernel, P, key, duration=DURATION)
    _, u, sigma = (np.asarray(x) for x in problem.draw(key, P))
    everywhere, levels = np.concatenate([u, PLACES]), np.concatenate([sigma, PLACE_LEVELS])
    phi = values(FEATURES, everywhere, levels)
    kernel = phi @ phi[:P].T  # (P + places, P)
    start = np.concatenate([np.zeros((P + 4, P)), values(INITIAL, everywhere, levels)], axis=1)
    targets = np.concatenate([np.eye(P), np.zeros((P, 5))], axis=1)

    def velocity(_, state):
        f = state.reshape(start.shape)
        return -(kernel @ (sigma[:, None] ** 2 * (f[:P] - targets)) / P).ravel()

    ends = integrate.solve_ivp(
        velocity, [0, DURATION], start.ravel(), method="DOP853", rtol=1e-11, atol=1e-12
    ).y[:, -1]
    smoother, rest = np.split(ends.reshape(start.shape)[P:], [P], axis=1)
    mean, covariance = posterior(u, sigma)
    scale = PLACE_LEVELS[:, None] ** 2
    score = (mean - u) / sigma[:, None] ** 2
    expected = PLACES + scale * (smoother @ score)
    of_targets = np.einsum(
        "an,bn,nij->aibj",
        scale * smoother,
        scale * smoother,
        covariance / sigma[:, None, None] ** 4,
    )
    of_start = np.einsum("af,bf,ij->aibj", scale * rest, scale * rest, np.eye(2))
    # Both parts are there to be seen: neither is small beside the other.
    assert 0.1 < np.trace(of_start.reshape(8, 8)) / np.trace(of_targets.reshape(8, 8)) < 10
    found, kernel = on_places(law, PLACES, PLACE_LEVELS)
    # The integrator's tolerance times its steps, some hundred, of numbers up to 10.
    np.testing.assert_allclose(found, expected, atol=1e-8)
    np.testing.assert_allclose(kernel, of_targets + of_start, atol=1e-8)
    found, kernel = on_places(without, PLACES, PLACE_LEVELS)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    np.testing.assert_allclose(kernel, of_targets, atol=1e-8)
    # The factor of it.
    columns = jax.jit(jax.vmap(without.directions))(PLACES, PLACE_LEVELS)
    assert columns.shape == (4, 2, 2 * P)
    np.testing.assert_allclose(np.einsum("air,bjr->aibj", columns, columns), kernel, atol=1e-12)
    with pytest.raises(ValueError, match="no finite factor"):
        law.directions(jnp.zeros(2), 1.0)

    # Draws: targets, and initial functions that the model's own draws must be.
    num = 4000
    draw = lambda key: jax.vmap(law.sample(key))(PLACES, PLACE_LEVELS)  # noqa: E731
    drawn = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), num)).reshape(num, 8)
    total = (of_targets + of_start).reshape(8, 8)
    error = np.sqrt(np.diag(total) / num)
    assert np.all(np.abs(drawn.mean(0) - expected.ravel()) < 4 * error)
    # Of normal numbers; sums of bounded targets spread less.
    error = np.sqrt((np.outer(np.diag(total), np.diag(total)) + total**2) / num)
    assert np.all(np.abs(np.cov(drawn.T) - total) < 4 * error)
    # Started from the same function, with exact targets, a model is what the flow makes of that function.
    exact = variance.DenoisingProblem(
        DATA, problem.levels, prediction="score", exact_targets=(0.0, jnp.inf)
    )
    same = eqx.tree_at(lambda law: law.problem, law, exact)
    model = same.sample(jax.random.key(2))
    found = jax.vmap(model)(PLACES, PLACE_LEVELS)
    leftover = rest @ np.asarray(model.initial.weights).T
    np.testing.assert_allclose(found, expected + scale * leftover, atol=1e-8)


def test_initialisation_in_weight_space(x64):
    """Functions of the kernel's own features: their weights decay as exp(-A tau), A the weighted mean of phi phi^T."""
    problem, key = score_problem(), jax.random.key(0)
    make = lambda initial: variance.KernelLaw.gradient_flow(  # noqa: E731
        problem, FEATURES.kernel, P, key, duration=DURATION, initial_covariance=initial
    )
    # A law without targets' noise, that what is left is initialisation.
    law = make(FEATURES.kernel)
    law = eqx.tree_at(lambda law: law.noise_covariance, law, jnp.zeros((P, 2, 2)))
    _, u, sigma = (np.asarray(x) for x in problem.draw(key, P))
    phi = values(FEATURES, u, sigma)
    left = linalg.expm(-DURATION * phi.T @ (sigma[:, None] ** 2 * phi) / P)
    rest = PLACE_LEVELS[:, None] ** 2 * (values(FEATURES, PLACES, PLACE_LEVELS) @ left)
    expected = np.einsum("af,bf,ij->aibj", rest, rest, np.eye(2))
    # Differences of numbers up to sigma^4 = 16.
    np.testing.assert_allclose(on_places(law, PLACES, PLACE_LEVELS)[1], expected, atol=1e-12)
    with pytest.raises(ValueError, match="`initial_model`, which was not given"):
        law.sample(key)


class Laplace(eqx.Module):
    length: float = eqx.field(static=True)

    def __call__(self, u, sigma, v, tau):
        return jnp.exp(-jnp.sqrt(jnp.sum((u - v) ** 2) + 1e-12) / self.length)


def test_infinite_time_memorises(dtype):
    """At one noise level all weights are equal: every mode is fitted, and models differ as their targets do."""
    level, prediction = 0.7, "x0" if dtype == np.float32 else "eps"
    problem = variance.DenoisingProblem(
        DATA.astype(dtype), variance.LogUniformLevels(level, level), prediction=prediction
    )
    kernel = Laplace(1.0)
    law = variance.KernelLaw.gradient_flow(
        problem, kernel, P, jax.random.key(3), duration=1e12, initial_covariance=Laplace(2.0)
    )
    # To 1e-10 in float64: rounding times the condition of the Gram matrix, twice in a covariance.
    gram = np.asarray(jax.vmap(lambda v: jax.vmap(lambda u: kernel(u, 1, v, 1))(law.u))(law.u))
    atol = 10 * P * np.finfo(dtype).eps * np.linalg.cond(gram.astype(float))
    assert atol < (1e-10 if dtype == np.float64 else 0.05)
    u, sigma = np.asarray(law.u, float), np.full(P, level)
    mean, covariance = posterior(u, sigma)
    found, kernel = on_places(law, law.u, law.sigma)
    assert found.dtype == kernel.dtype == dtype
    np.testing.assert_allclose(found, mean, atol=atol)
    expected = np.einsum("nij,nm->nimj", covariance, np.eye(P))
    np.testing.assert_allclose(kernel, expected, atol=atol)


def test_kernel_ridge_is_the_fixed_design(x64):
    """With the kernel of finitely many features: another formula for the same law."""
    problem, key = score_problem(), jax.random.key(1)
    linear = variance.LinearProblem(problem, FEATURES, ridge=0.1)
    expected = variance.LinearModelLaw.fixed_design(linear, 40, key)
    law = variance.KernelLaw.ridge(problem, FEATURES.kernel, 40, key, ridge=0.1)
    found, kernel = on_places(law, PLACES, PLACE_LEVELS)
    mean, reference = on_places(expected, PLACES, PLACE_LEVELS)
    # Condition of the weighted Gram matrix, at most sup w |phi|^2 / ridge = 90, times rounding of numbers up to 10.
    np.testing.assert_allclose(found, mean, atol=1e-11)
    np.testing.assert_allclose(kernel, reference, atol=1e-11)


def test_covariances_of_a_grid_are_cheap(x64):
    """G places cost G P^2 + G^2 P d^2, and nothing of shape (G, G, P) is stored."""
    G, P, d = 48, 64, 2
    law = variance.KernelLaw.gradient_flow(
        score_problem(),
        Laplace(1.0),
        P,
        jax.random.key(0),
        duration=1.0,
        initial_covariance=Laplace(1.0),
    )
    places, levels = jnp.zeros((G, d)), jnp.ones(G)
    arrays, static = eqx.partition(law, eqx.is_array)
    run = jax.jit(lambda arrays: on_places(eqx.combine(arrays, static), places, levels)[1])
    compiled = run.lower(arrays).compile()
    # Two operations a multiplication, four products of either kind at most. Pairs of places times P^2 would be 6 times that.
    assert compiled.cost_analysis()["flops"] < 8 * (G * P**2 + G**2 * P * d**2)
    assert compiled.memory_analysis().temp_size_in_bytes < 0.5 * 8 * G * G * P


class WideNetwork(eqx.Module):
    """The network of `ReLUTangentKernel`, of finite width."""

    weights: list
    biases: list
    bias_scale: float = eqx.field(static=True)

    def __init__(self, sizes, bias_scale, key):
        keys = jax.random.split(key, 2 * len(sizes))
        pairs = list(itertools.pairwise(sizes))
        self.weights = [
            jax.random.normal(k, (b, a)) for k, (a, b) in zip(keys, pairs, strict=False)
        ]
        self.biases = [
            jax.random.normal(k, (b,)) for k, (_, b) in zip(keys[len(sizes) :], pairs, strict=False)
        ]
        self.bias_scale = bias_scale

    def __call__(self, u, sigma):
        x = jnp.append(u, jnp.log(sigma))
        last = len(self.weights) - 1
        for i, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            gain = 1 if i in (0, last) else 2
            x = jnp.sqrt(gain / x.size) * W @ x + self.bias_scale * b
            x = x if i == last else jax.nn.relu(x)
        return x


@pytest.mark.parametrize(("num_layers", "width", "num"), [(2, 4, 4000), (3, 256, 64)])
def test_tangent_kernels(num_layers, width, num, x64):
    """The mean over initialisations of the finite network's kernel: exact at any width for two layers."""
    places = [(jnp.array([0.5]), 0.7), (jnp.array([-1.0]), 2.0), (jnp.array([0.4]), 0.7)]
    places = [(u, jnp.asarray(s)) for u, s in places]
    closed = variance.ReLUTangentKernel(num_layers, bias_scale=0.6)
    pairs = [(a, b) for i, a in enumerate(places) for b in places[i:]]

    @jax.jit
    def of_network(key):
        network = WideNetwork([2, *[width] * (num_layers - 1), 1], 0.6, key)
        kernel = variance.EmpiricalTangentKernel(network)
        tangent = jnp.stack([kernel(*a, *b) for a, b in pairs])
        outputs = jnp.stack([network(*a)[0] * network(*b)[0] for a, b in pairs])
        return tangent, outputs

    tangent, outputs = jax.lax.map(of_network, jax.random.split(jax.random.key(0), num))
    # Three layers: the next order in the inverse width, whose factor is the number of layers to the second power, at most.
    slack = 0 if num_layers == 2 else num_layers**2 / width
    for drawn, kernel in ((tangent, closed), (outputs, closed.initial_covariance)):
        expected = np.array([kernel(*a, *b) for a, b in pairs])
        error = np.asarray(drawn).std(0, ddof=1) / np.sqrt(num)
        assert np.all(np.abs(np.mean(drawn, 0) - expected) < 4 * error + slack * np.abs(expected))


def arc_cosine_recursion(num_layers, bias_scale, x, y):
    """The tangent kernel from covariances, in float64, whose determinant cancels like the square of the angle."""
    bias = bias_scale**2
    xx, xy, yy = (np.dot(a, b) / len(x) + bias for a, b in ((x, x), (x, y), (y, y)))
    tangent = xy
    for layer in range(2, num_layers + 1):
        gain = 0.5 if layer == num_layers else 1.0
        angle = 0.0 if np.array_equal(x, y) else np.arccos(xy / np.sqrt(xx * yy))
        falls = (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi
        xy = gain * np.sqrt(xx * yy) * falls + bias
        xx, yy = gain * xx + bias, gain * yy + bias
        tangent = tangent * gain * (1 - angle / np.pi) + xy
    return tangent


@pytest.mark.parametrize("num_layers", [2, 3, 5])
@pytest.mark.parametrize("bias_scale", [0.0, 0.3])
def test_tangent_kernel_at_and_near_identical_inputs(num_layers, bias_scale, dtype):
    rng = np.random.default_rng(num_layers)
    eps = np.finfo(dtype).eps
    kernel = variance.ReLUTangentKernel(num_layers, lambda u, _: u, bias_scale=bias_scale)
    of_points = lambda x, y: kernel(x, jnp.ones((), dtype), y, jnp.ones((), dtype))  # noqa: E731
    both = jax.jit(lambda x, y: (of_points(x, y), jax.grad(of_points)(x, y)))
    for apart in (0.0, 1e-4, 1e-2, 1.0):
        x = rng.standard_normal(6).astype(dtype)
        y = (x + apart * rng.standard_normal(6)).astype(dtype)
        wide, other = x.astype(float), y.astype(float)
        expected = arc_cosine_recursion(num_layers, bias_scale, wide, other)
        # An angle is off by some roundings; that of the reference by one of float64 over the angle.
        cancelled = 0 if apart == 0 else np.finfo(float).eps / apart
        value, slope = map(np.asarray, both(x, y))
        assert abs(float(value) / expected - 1) < num_layers * (4 * eps + 8 * cancelled)
        assert np.all(np.isfinite(slope))
        if apart >= 1e-2:
            step = 1e-3 * apart
            differences = [
                arc_cosine_recursion(num_layers, bias_scale, wide + side * step * e, other)
                for e in np.eye(6)
                for side in (1, -1)
            ]
            expected = (np.array(differences[::2]) - differences[1::2]) / (2 * step)
            # Errors relative to the angle; of the quotient, its step squared.
            bound = 32 * num_layers * (eps + cancelled / step * apart) / apart + 1e-5
            assert np.max(np.abs(slope - expected)) < bound * np.max(np.abs(expected))


def test_bad_input():
    problem, key = score_problem(), jax.random.key(0)
    make = variance.KernelLaw.gradient_flow
    with pytest.raises(ValueError, match="`duration` must be positive"):
        make(problem, FEATURES.kernel, 5, key, duration=0.0)
    with pytest.raises(ValueError, match="`ridge` must be positive"):
        variance.KernelLaw.ridge(problem, FEATURES.kernel, 5, key, ridge=-1.0)
    with pytest.raises(ValueError, match="`initial_model` needs `initial_covariance`"):
        make(problem, FEATURES.kernel, 5, key, duration=1.0, initial_model=Normal(INITIAL))
    with pytest.raises(ValueError, match="at least 2; got 1"):
        variance.ReLUTangentKernel(1)
