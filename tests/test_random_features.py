"""Wide random features against quadrature, drawn matrices and models that are trained explicitly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from smoothjax import training_dynamics
from smoothjax.training_dynamics import _activation, _resolvent

RandomFeatureLimit, Drawn = (
    training_dynamics.RandomFeatureLimit,
    training_dynamics.DrawnRandomFeatures,
)


def erf(x):
    return jax.scipy.special.erf(x / jnp.sqrt(jnp.asarray(2, x.dtype)))


def test_parts_of_activations():
    """Of the error function, whose kernel is an arcsine; of a ReLU, whose first coefficients are known."""
    # The activation is evaluated in JAX's default precision.
    slack = 100 * float(jnp.finfo(jnp.result_type(float)).eps)
    for signal in (0.3, 0.99):
        parts = _activation.parts_of(erf, signal)
        whole = 2 / np.pi * np.arcsin(signal / 2)
        np.testing.assert_allclose(parts.linear**2, 1 / np.pi, rtol=slack)
        np.testing.assert_allclose(parts.shared, whole - signal / np.pi, atol=slack)
        np.testing.assert_allclose(parts.own, 1 / 3 - whole - (1 - signal) / np.pi, atol=slack)
        assert abs(parts.mean) < slack
    relu = _activation.parts_of(jax.nn.relu, 0.5)
    np.testing.assert_allclose(relu.mean, 1 / np.sqrt(2 * np.pi), rtol=slack)
    np.testing.assert_allclose(relu.linear, 0.5, rtol=slack)
    # (1/2 pi) [sqrt(1 - r^2) + r (pi - arccos r)], at the correlation r = 1/2.
    whole = (np.sqrt(0.75) + 0.5 * (np.pi - np.arccos(0.5))) / (2 * np.pi)
    shared = whole - relu.mean**2 - relu.linear**2 / 2
    # What is beyond the last coefficient is all of order k^(-5/2).
    np.testing.assert_allclose(relu.shared, shared, rtol=1e-4)


@pytest.mark.parametrize("ratio", [0.4, 1.0, 3.0])
def test_marchenko_pastur(ratio):
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    for z in (-0.5 + 0j, 0.7 + 0.3j, 3 - 0.2j, 20 + 1j):

        def part(k, function, z=z):
            density = np.sqrt((high - k) * (k - low)) / (2 * np.pi * ratio * k)
            return function(density / (k - z))

        value = sum(
            unit * integrate.quad(part, low, high, args=(f,), epsabs=1e-12, limit=400)[0]
            for unit, f in ((1, np.real), (1j, np.imag))
        )
        value += max(0, 1 - 1 / ratio) / -z
        found, slope = _resolvent.marchenko_pastur(np.asarray(z), ratio)
        np.testing.assert_allclose(found, value, atol=1e-8)
        near = [_resolvent.marchenko_pastur(np.asarray(z + h), ratio)[0] for h in (1e-5, -1e-5)]
        np.testing.assert_allclose(slope, (near[0] - near[1]) / 2e-5, rtol=1e-6)


def gaussian_features(covariance, d, rng):
    """The Gaussian matrix that features are equivalent to, and K."""
    n, p = int(covariance.train_ratio * d), int(covariance.feature_ratio * d)
    W, X, omega = (rng.normal(size=shape) for shape in ((p, d), (d, n), (p, n)))
    G = np.sqrt(covariance.gamma / d) * W @ X + np.sqrt(covariance.shared) * omega
    K = W @ W.T / d
    return G @ G.T / n + covariance.beta * K + covariance.own * np.eye(p), K


def test_resolvents_of_gaussian_features():
    """One and two of them, on both sides of the real axis, against means over drawn matrices."""
    rng, d = np.random.default_rng(0), 60
    limit = RandomFeatureLimit(jnp.tanh, 0.5, train_ratio=1.5, feature_ratio=3.0)
    c = limit.covariance
    places = [np.array(z) for z in ([0.5 + 0.3j, -1 + 0.01j, 2 - 0.4j], [0.4 - 0.25j, 3 + 0.5j])]
    first, second = (c.equivalent(z) for z in places)
    product = _resolvent.product_trace(first, second)
    drawn = []
    for _ in range(12):
        N, K = gaussian_features(c, d, rng)
        values, vectors = np.linalg.eigh(N)
        K = vectors.T @ K @ vectors
        new = (c.gamma + c.beta) * K + (c.shared + c.own) * np.eye(len(K))
        R, S = (1 / (values[None] - z[:, None]) for z in places)
        both = np.array([[np.sum(K.T * (r[:, None] * new * s[None])) / d for s in S] for r in R])
        drawn.append(np.concatenate([R.mean(1), (R * np.diag(K)).mean(1), both.ravel()]))
    drawn = np.array(drawn)
    expected = np.concatenate([first.trace, first.linear_trace, product.ravel()])
    error = np.abs(drawn.std(0, ddof=1)) / 12**0.5
    # Traces are off by 1/d^2 of their size, and by less than they scatter.
    assert np.all(np.abs(drawn.mean(0) - expected) < 4 * error + 3 * np.abs(expected) / d**2)


@pytest.mark.parametrize(
    ("sigma", "train_ratio", "feature_ratio"),
    [(1e-3, 2.0, 32.0), (0.1, 2.0, 32.0), (0.3, 4.0, 2.0), (1.0, 0.5, 0.8)],
)
def test_density_has_its_moments(sigma, train_ratio, feature_ratio):
    """All of the mass, and the mean of the eigenvalues: the mean square of the activation."""
    limit = RandomFeatureLimit(
        jnp.tanh, sigma, train_ratio=train_ratio, feature_ratio=feature_ratio
    )
    c, masses = limit.covariance, sum(bulk.mass for bulk in limit.bulks)
    np.testing.assert_allclose(masses + limit.atom, 1, atol=1e-8)
    np.testing.assert_allclose(limit.cumulative([0.0, limit.bulks[-1].high]), [0, 1], atol=1e-8)
    mean, counted = limit.atom * c.own, 0.0
    for bulk in limit.bulks:
        inside = functools.partial(np.clip, a_min=bulk.low, a_max=bulk.high)
        angle = np.pi * (np.arange(4000) + 0.5) / 4000
        x = inside((bulk.low + bulk.high) / 2 - (bulk.high - bulk.low) / 2 * np.cos(angle))
        steps = limit.density(x) * (bulk.high - bulk.low) / 2 * np.sin(angle) * np.pi / 4000
        mean, counted = mean + np.sum(x * steps), counted + steps.sum()
    # Next to a hard edge, close to zero, midpoints in x are not those of the roots at both ends.
    np.testing.assert_allclose(counted, masses, rtol=2e-3)
    x, weights = _activation.gauss_nodes()
    np.testing.assert_allclose(mean, weights @ np.tanh(x) ** 2, rtol=2e-3)
    outside = [0.5 * limit.bulks[0].low, 2 * limit.bulks[-1].high]
    assert np.all(limit.density(outside) == 0)


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_spectrum_of_drawn_features(sigma):
    """400 features of tanh: eigenvalues keep their places to about one, and features their law to some 1/d."""
    d, n, p = 200, 800, 400
    points = jax.random.normal(jax.random.key(0), (n, d))
    drawn = Drawn(
        points,
        jnp.tanh,
        sigma,
        num_features=p,
        key=jax.random.key(1),
        normalized=True,
        max_order=8,
    )
    limit = RandomFeatureLimit(jnp.tanh, sigma, train_ratio=n / d, feature_ratio=p / d)
    share = limit.cumulative(drawn.eigenvalues)
    steps = np.arange(p)
    distance = max(np.max(np.abs(share - steps / p)), np.max(np.abs(share - (steps + 1) / p)))
    assert distance < 2 / p + 2 / d
    # Another noise level is not taken for this one.
    other = RandomFeatureLimit(jnp.tanh, 2 * sigma, train_ratio=n / d, feature_ratio=p / d)
    assert np.max(np.abs(other.cumulative(drawn.eigenvalues) - steps / p)) > 0.03


@pytest.mark.parametrize("sigma", [1e-6, 30.0, 1e3])
def test_no_eigenvalue_is_lost_at_little_or_much_noise(sigma):
    """At much noise what n = 2 d points share is not told from the atom, and the d linear directions alone are apart."""
    limit = RandomFeatureLimit(jnp.tanh, sigma, train_ratio=2.0, feature_ratio=32.0)
    masses = [1 / 32] * (3 if sigma < 1 else 1)
    np.testing.assert_allclose([bulk.mass for bulk in limit.bulks], masses, rtol=1e-8)
    own, top = limit.covariance.own, limit.bulks[-1]
    np.testing.assert_allclose(
        limit.cumulative([own, 0.99 * top.low, top.high]),
        [1 - sum(masses), 1 - 1 / 32, 1],
        atol=1e-8,
    )


TIMES = np.array([0.1, 1.0, 10.0, 100.0, 1e6])


@pytest.mark.parametrize(
    ("sigma", "train_ratio", "feature_ratio", "shift"),
    [(0.3, 4.0, 2.0, 0.0), (1.0, 4.0, 2.0, 0.0), (0.3, 2.0, 4.0, 0.0), (0.5, 4.0, 2.0, 0.7)],
)
def test_errors_of_drawn_models(sigma, train_ratio, feature_ratio, shift):
    """Of 16 models at each of two sizes, whose difference tells what is of order 1/d; also of an activation with a mean."""
    activation = lambda x: jnp.tanh(x + shift)  # noqa: E731
    found = {}
    for d in (24, 48):
        rows = []
        for k in range(16):
            points = jax.random.normal(jax.random.key(k), (int(train_ratio * d), d))
            key, num = jax.random.key(1000 + k), int(feature_ratio * d)
            model = Drawn(points, activation, sigma, num_features=num, key=key, max_order=12)
            errors = model.errors(TIMES)
            rows.append([errors.train, errors.test])
        found[d] = np.array(rows)
    limit = RandomFeatureLimit(
        activation, sigma, train_ratio=train_ratio, feature_ratio=feature_ratio
    )
    expected = limit.errors(TIMES)
    mean = 2 * found[48].mean(0) - found[24].mean(0)
    error = np.sqrt((4 * found[48].var(0, ddof=1) + found[24].var(0, ddof=1)) / 16)
    target = np.stack([expected.train, expected.test])
    assert np.all(np.abs(mean - target) < 4 * error), np.abs(mean - target) / error
    assert np.all(error < 0.02 * target)
    np.testing.assert_allclose(
        expected.excess, expected.test - sigma**2 / (1 + sigma**2), atol=1e-12
    )


def test_errors_at_the_start():
    limit = RandomFeatureLimit(jnp.tanh, 0.7, train_ratio=2.0, feature_ratio=5.0)
    errors = limit.errors([[0.0], [1e-12]])
    np.testing.assert_allclose([errors.train, errors.test], 0.49, rtol=1e-11)


def test_memorization_takes_a_time_that_grows_like_the_number_of_points():
    """From 100 to 800 points in 40 dimensions, with 512 features for each: generalising takes as long for all."""
    limits = [
        RandomFeatureLimit(jnp.tanh, 0.3, train_ratio=n / 40, feature_ratio=512.0)
        for n in (100, 200, 400, 800)
    ]
    memorising = np.array([x.memorization_time() for x in limits]) / [100, 200, 400, 800]
    generalising = np.array([x.generalization_time() for x in limits])
    assert np.max(np.abs(memorising / memorising.mean() - 1)) < 0.1
    assert np.max(np.abs(generalising / generalising.mean() - 1)) < 0.1
    assert np.all(np.diff(generalising) > 0)
    one, last = limits[0], limits[0].errors([1e9])
    half = one.errors([one.memorization_time()])
    np.testing.assert_allclose(2 * (half.test - half.train), last.test - last.train, rtol=1e-6)


def test_a_drawn_model_is_trained_with_exact_means(x64):
    """In the plane, against gradient flow on a loss whose mean over the noise is a product of Gauss-Hermite rules."""
    rng = np.random.default_rng(0)
    points, sigma, p, num = rng.normal(size=(3, 2)), 0.8, 5, 40
    drawn = Drawn(points, jnp.tanh, sigma, num_features=p, key=jax.random.key(3), max_order=39)
    nodes, weights = np.polynomial.hermite_e.hermegauss(num)
    weights = weights / weights.sum()
    grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    share = np.outer(weights, weights).ravel()

    def features(u):
        return np.tanh(u @ drawn.weights.T / np.sqrt(2 * (1 + sigma**2)))

    def loss(readout, x):
        """Twice it: mean squares a coordinate, of the noise."""
        u = x[:, None] + sigma * grid[None]
        off = jnp.matmul(features(u), readout.T) - grid[None]
        return jnp.mean(jnp.sum(off**2, axis=2) @ share) / 2

    slope = jax.jit(jax.grad(lambda flat: loss(flat.reshape(2, p), points)))
    flow = integrate.solve_ivp(
        lambda t, flat: -np.asarray(slope(flat)),
        (0, 30),
        np.zeros(2 * p),
        t_eval=[0.5, 5.0, 30.0],
        rtol=1e-9,
        atol=1e-11,
    )
    errors = drawn.errors(flow.t)
    # Data of the whole law are a third Gaussian: as the noise's, but of variance one.
    law = grid
    for time, flat, train, test in zip(flow.t, flow.y.T, errors.train, errors.test, strict=True):
        readout = flat.reshape(2, p)
        # Cosines near one leave some terms of the series out.
        np.testing.assert_allclose(train, sigma**2 * loss(readout, points), rtol=1e-5)
        of_new = jnp.stack([loss(readout, x[None]) for x in law[share > 1e-12]])
        mean = of_new @ share[share > 1e-12]
        np.testing.assert_allclose(test, sigma**2 * mean, rtol=1e-5)
        D, u = drawn.denoiser(time), np.array([0.3, -1.2])
        noise = features(u) @ readout.T
        np.testing.assert_allclose(D(jnp.asarray(u), sigma), u - sigma * noise, atol=1e-5)


def test_refused():
    make = functools.partial(RandomFeatureLimit, train_ratio=2.0, feature_ratio=3.0)
    limit = make(jnp.tanh, 0.5)
    for call, message in (
        (lambda: make(lambda x: 2 * x, 0.5), "`activation` must not be linear"),
        (lambda: make(jnp.tanh, 1e-7), "`sigma` must lie between 1e-06 and 1000"),
        (lambda: make(jnp.tanh, 1e12), "`sigma` must lie between 1e-06 and 1000"),
        (lambda: make(lambda x: x[:2], 0.5), "`activation` must turn an array of numbers"),
        (lambda: make(jnp.log, 0.5), "`activation` must turn an array of numbers"),
        (lambda: limit.errors([-1.0]), "`durations` must be non-negative"),
        (lambda: limit.memorization_time(1.0), "`fraction` must lie between 0 and 1"),
        (
            lambda: RandomFeatureLimit(jnp.tanh, 0.5, train_ratio=0.0, feature_ratio=3.0),
            "`train_ratio` must be positive",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
