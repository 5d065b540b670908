"""What is true of every denoiser that is the posterior mean of a known law, and closed forms of each."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj


def low_rank_gaussian(rng, d, r, complement):
    basis = np.linalg.qr(rng.standard_normal((d, r)))[0]
    return sj.GaussianDenoiser.low_rank(
        rng.standard_normal(d), basis, rng.uniform(0.2, 2, r), complement
    )


@functools.cache
def denoisers():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((30, 3))
    weights = rng.uniform(0.1, 1, 30)
    weights[3] = 0
    parts = [low_rank_gaussian(rng, 3, r, c) for r, c in ((0, 0.5), (1, 0.0), (2, 0.3))]
    return {
        "empirical": sj.EmpiricalDenoiser(points, chunk_size=7),
        "empirical, weighted": sj.EmpiricalDenoiser(points, weights, chunk_size=11),
        "gaussian": sj.GaussianDenoiser.fit(points),
        "gaussian, low rank": low_rank_gaussian(rng, 3, 2, 0.0),
        "gaussian, complement": low_rank_gaussian(rng, 3, 1, 0.4),
        "gaussian, shrinkage": sj.GaussianDenoiser.fit(points[:3], shrinkage=0.3),
        "gaussian, rank 0": sj.GaussianDenoiser.fit(points, rank=0),
        "mixture": sj.MixtureDenoiser.fit(points, np.arange(30) % 3),
        "mixture, low rank": sj.MixtureDenoiser.of([0.2, 0.5, 0.3], parts),
    }


@pytest.mark.parametrize("name", list(denoisers()) if jax.config.jax_enable_x64 else [])  # pyright: ignore
def test_identities(name):
    D = denoisers()[name]
    rng = np.random.default_rng(1)

    @jax.jit
    def everything(D, u, sigma, vector):
        gradient, by_sigma = jax.grad(D.log_density, (0, 1))(u, sigma)
        laplacian = jnp.trace(jax.hessian(D.log_density)(u, sigma))
        forward, reverse = jax.jacfwd(D)(u, sigma), jax.jacrev(D)(u, sigma)
        covariance = sj.posterior_covariance(D, u, sigma)
        mean, variance = D.mean_and_variance(u, sigma)
        return (
            (sj.score(D, u, sigma), gradient),
            (covariance, sigma**2 * forward),
            (covariance, sigma**2 * reverse),
            (sj.posterior_variance(D, u, sigma), jnp.trace(covariance)),
            (variance, jnp.trace(covariance)),
            (mean, D(u, sigma)),
            (sj.posterior_covariance_product(D, u, sigma, vector), covariance @ vector),
            (sj.proxy_score_covariance(D, u, sigma), covariance / sigma**4),
            # The heat equation, which couples the noise level to everything else.
            (by_sigma, sigma * (laplacian + gradient @ gradient)),
        )

    for sigma in (0.2, 0.7, 3.0):
        u, vector = jnp.asarray(rng.standard_normal((2, 3)))
        for i, (one, other) in enumerate(everything(D, u, sigma, vector)):
            scale = max(float(jnp.max(jnp.abs(one))), 1e-3)
            np.testing.assert_allclose(
                one, other, rtol=0, atol=1e-9 * scale, err_msg=f"{i}, {sigma}"
            )


@pytest.mark.parametrize("name", list(denoisers()) if jax.config.jax_enable_x64 else [])  # pyright: ignore
def test_own_moments(name):
    """The law's mean and covariance are what the posterior tends to when the noise covers everything."""
    D = denoisers()[name]
    mean, covariance = map(np.asarray, D.mean_and_covariance())
    sigma = 1e5
    u = mean + sigma * np.array([0.1, -0.2, 0.3])
    both = eqx.filter_jit(lambda D, u, s: (D(u, s), D.posterior_covariance(u, s)))
    found = both(D, u, jnp.asarray(sigma))
    # Corrections are of relative order |x| |z| / sigma.
    np.testing.assert_allclose(found[0], mean, atol=1e-4)
    np.testing.assert_allclose(found[1], covariance, atol=1e-4)


def naive(points, weights, u, sigma):
    logits = jnp.log(weights / weights.sum()) - jnp.sum((u[None] - points) ** 2, 1) / (2 * sigma**2)
    evidence = jax.nn.logsumexp(logits)
    w = jnp.exp(logits - evidence)
    mean = w @ points
    log_density = evidence - points.shape[1] / 2 * jnp.log(2 * jnp.pi * sigma**2)
    return mean, log_density, w @ jnp.sum((points - mean[None]) ** 2, 1), -w @ (logits - evidence)


def test_derivatives_of_the_empirical_denoiser(x64):
    rng = np.random.default_rng(2)
    points, weights = (
        jnp.asarray(rng.standard_normal((20, 2))),
        jnp.asarray(rng.uniform(0.5, 1, 20)),
    )
    direction = jnp.asarray(rng.standard_normal(5))

    def total(values):
        return direction[:2] @ values[0] + direction[2:] @ jnp.stack(values[1:])

    def ours(points, weights, u, sigma):
        D = sj.EmpiricalDenoiser(points, weights, chunk_size=7)
        return total(
            (
                D(u, sigma),
                D.log_density(u, sigma),
                D.posterior_variance(u, sigma),
                D.posterior_entropy(u, sigma),
            )
        )

    def reference(points, weights, u, sigma):
        return total(naive(points, weights, u, sigma))

    u = jnp.array([0.3, -0.4])
    value = jax.jit(jax.value_and_grad(ours, (0, 1, 2, 3)))
    curvature = jax.jit(
        jax.hessian(
            lambda u, sigma: sj.EmpiricalDenoiser(points, weights, chunk_size=7).log_density(
                u, sigma
            )
        )
    )
    value_expected = jax.jit(jax.value_and_grad(reference, (0, 1, 2, 3)))
    curvature_expected = jax.jit(jax.hessian(lambda u, sigma: naive(points, weights, u, sigma)[1]))
    # The second level is one at which logits are weighed again: the derivatives must not notice.
    for sigma in (0.6, 0.05):
        arguments = (points, weights, u, sigma)
        got, gradients = value(*arguments)
        expected, gradients_expected = value_expected(*arguments)
        np.testing.assert_allclose(got, expected, rtol=1e-11)
        for got, expected in zip(gradients, gradients_expected, strict=True):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9 * np.max(np.abs(expected)))
        expected = curvature_expected(u, sigma)
        got = curvature(u, sigma)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8 * np.max(np.abs(expected)))


def test_construction_inside_jit_from_known_arrays():
    # What is checked is known there, but JAX operations on it are traced.
    points = jnp.asarray(np.random.default_rng(9).standard_normal((8, 2)))
    parts = [sj.GaussianDenoiser.fit(points), sj.GaussianDenoiser.fit(points, rank=1)]
    weights = jnp.arange(1.0, 9.0)

    def all_of_them(u):
        laws = [
            sj.EmpiricalDenoiser(points, weights),
            sj.GaussianDenoiser.fit(points),
            sj.GaussianDenoiser.low_rank(parts[0].mean, parts[0].basis, parts[0].eigenvalues),
            sj.MixtureDenoiser.of(weights[:2], parts),
        ]
        return [D(u, 0.5) for D in laws]

    tolerance = 100 * float(jnp.finfo(points.dtype).eps)
    for traced, plain in zip(jax.jit(all_of_them)(points[0]), all_of_them(points[0]), strict=True):
        np.testing.assert_allclose(traced, plain, atol=tolerance)


def test_dtype_follows_the_input(dtype):
    # In float32 under x64 too, where a NumPy constant would widen the result.
    points = jnp.asarray(np.random.default_rng(8).standard_normal((9, 2)), dtype)
    laws = [
        sj.EmpiricalDenoiser(points),
        sj.GaussianDenoiser.fit(points),
        sj.MixtureDenoiser.fit(points, np.arange(9) % 2),
    ]
    for D in laws:
        values = jax.eval_shape(
            lambda u, D=D: (D(u, 0.01), D.log_density(u, 0.01), D.posterior_variance(u, 0.01)),
            points[0],
        )
        assert {value.dtype for value in values} == {jnp.dtype(dtype)}, type(D)


def test_mixed_dtypes_are_promoted(x64):
    points = np.random.default_rng(8).standard_normal((9, 2))
    for of_points, of_u in ((jnp.float64, jnp.float32), (jnp.float32, jnp.float64)):
        D = sj.EmpiricalDenoiser(jnp.asarray(points, of_points))
        u = jnp.asarray(points[0] + 0.125, of_u)
        exact = sj.EmpiricalDenoiser(jnp.asarray(D.data, jnp.float64))(u.astype(jnp.float64), 0.5)
        with jax.numpy_dtype_promotion("standard"):
            found = D(u, 0.5)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, exact, atol=1e-14)


def test_a_second_call_finds_everything_compiled(dtype):
    D = sj.EmpiricalDenoiser(np.random.default_rng(0).standard_normal((11, 2)).astype(dtype))
    u, batch = jnp.ones(2, dtype), jnp.ones((3, 2), dtype)

    def calls():
        D(u, 0.5), D.log_density(u, 0.5), D.posterior_covariance(u, 0.5)
        D.posterior_covariance_product(u, 0.5, u)
        jax.vmap(D, in_axes=(0, None))(batch, 0.5)

    compilations = []

    def listener(event, duration, **_):
        if event.endswith("backend_compile_duration"):
            compilations.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        calls()
        assert compilations
        compilations.clear()
        calls()
        assert not compilations
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)


def test_two_points(dtype):
    D = sj.EmpiricalDenoiser(jnp.array([[-1.0], [1.0]], dtype))
    u = jnp.linspace(-2, 2, 41, dtype=dtype)
    got = jax.vmap(lambda u: D(u[None], 0.5)[0])(u)
    np.testing.assert_allclose(got, jnp.tanh(u / 0.25), atol=8 * float(jnp.finfo(dtype).eps))


def test_gaussian_against_solves(x64):
    rng = np.random.default_rng(3)
    a = rng.standard_normal((6, 6))
    mean, covariance, u = rng.standard_normal(6), a @ a.T, rng.standard_normal(6)
    D = sj.GaussianDenoiser(mean, covariance)
    for sigma in (1e-3, 0.5, 1e3):
        expected = mean + covariance @ np.linalg.solve(covariance + sigma**2 * np.eye(6), u - mean)
        np.testing.assert_allclose(D(jnp.asarray(u), sigma), expected, rtol=1e-9)
    np.testing.assert_allclose(D.covariance(), covariance, atol=1e-12)


@pytest.mark.parametrize(("n", "d"), [(5, 12), (12, 12), (40, 12), (1, 3)])
def test_fit(x64, n, d):
    rng = np.random.default_rng(4)
    points = rng.standard_normal((n, d)) @ np.diag(np.linspace(0.2, 2, d)) + 3
    mean = points.mean(0)
    covariance = (points - mean).T @ (points - mean) / n
    np.testing.assert_allclose(sj.GaussianDenoiser.fit(points).covariance(), covariance, atol=1e-12)
    shrunk = 0.7 * covariance + 0.3 * np.trace(covariance) / d * np.eye(d)
    np.testing.assert_allclose(
        sj.GaussianDenoiser.fit(points, shrinkage=0.3).covariance(), shrunk, atol=1e-12
    )
    values = np.linalg.eigvalsh(covariance)[::-1]
    fitted = sj.GaussianDenoiser.fit(points, rank=min(2, d - 1, max(n - 1, 0)))
    r = fitted.eigenvalues.shape[0]
    np.testing.assert_allclose(np.sort(fitted.eigenvalues)[::-1], values[:r], atol=1e-12)
    # The rest keeps its total: probabilistic PCA.
    np.testing.assert_allclose(fitted.complement, values[r:].mean(), atol=1e-12)
    np.testing.assert_allclose(np.trace(fitted.covariance()), np.trace(covariance), rtol=1e-12)


def test_single_precision_keeps_small_eigenvalues():
    # Formed in float32, a covariance with these variances would lose the smallest, and its sign with it.
    rng = np.random.default_rng(5)
    points = (rng.standard_normal((500, 4)) * np.array([100.0, 1.0, 0.1, 0.01]) + 5).astype(
        np.float32
    )
    variances = np.linalg.eigvalsh(np.cov(points.astype(np.float64).T, bias=True))
    np.testing.assert_allclose(
        np.sort(sj.GaussianDenoiser.fit(points).eigenvalues), variances, rtol=1e-5
    )


def test_mixture_limits(x64):
    rng = np.random.default_rng(6)
    points, u = rng.standard_normal((9, 4)), jnp.asarray(rng.standard_normal(4))
    empirical = sj.EmpiricalDenoiser(points)
    zero = np.zeros((9, 4, 4))
    rank_zero = sj.MixtureDenoiser.low_rank(
        np.ones(9), points, np.zeros((9, 4, 0)), np.zeros((9, 0))
    )
    single = sj.GaussianDenoiser.fit(points)
    point_masses, one = (
        sj.MixtureDenoiser(np.ones(9), points, zero),
        sj.MixtureDenoiser.of([2.0], [single]),
    )
    both = eqx.filter_jit(lambda D, u, s: (D(u, s), D.log_density(u, s)))
    for sigma in np.array([0.3, 2.0]):
        for mixture, limit, rtol in (
            (point_masses, empirical, 1e-11),
            (rank_zero, empirical, 1e-11),
            (one, single, 1e-12),
        ):
            found, expected = both(mixture, u, sigma), both(limit, u, sigma)
            np.testing.assert_allclose(found[0], expected[0], rtol=rtol)
            np.testing.assert_allclose(found[1], expected[1], rtol=rtol)


# scikit-learn's digits over 8 minus 1, np.random.default_rng(0).permutation(1797): 1500 to train, 297 held out; noise
# np.random.default_rng(1).standard_normal((2, 297, 64)). Computed in float64 by independent NumPy code.
DIGITS = {
    0.1: (
        [-1.0, -0.9778138554445707, -0.7249275821776875, 0.8241760966505676],
        1.0403270263060342,
        0.0069220751521631395,
    ),
    0.5: (
        [-1.0, -0.9970142729755571, -0.793924439255583, 0.33977726896005467],
        2.586987811591079,
        0.07577220027659866,
    ),
    5.0: (
        [-1.0, -0.973036914584213, -0.4905991813138319, 0.35530321882268406],
        1061.6150334221238,
        0.2805790922121276,
    ),
}
DIGITS_EMPIRICAL = {
    0.5: [-0.9999999999999994, -0.9999999999999879, -0.650312710773164, 0.8912716546026955],
    5.0: [-0.9999999999999999, -0.9769515368618094, -0.5070640565069486, 0.3352046984657692],
}


def test_digits_reference(x64):
    sklearn = pytest.importorskip("sklearn.datasets")
    data = sklearn.load_digits().data / 8 - 1
    order = np.random.default_rng(0).permutation(1797)
    train, test = data[order[:1500]], data[order[1500:]]
    noise = np.random.default_rng(1).standard_normal((2, 297, 64))
    gaussian, empirical = sj.GaussianDenoiser.fit(train), sj.EmpiricalDenoiser(train)
    np.testing.assert_allclose(jnp.sum(gaussian.eigenvalues), 18.722430076388886, rtol=1e-12)
    assert int(jnp.sum(gaussian.eigenvalues > 1e-12)) == 61

    @jax.jit
    def run(gaussian, empirical, u, sigma):
        call = jax.vmap(
            lambda u: (
                gaussian(u, sigma),
                empirical(u, sigma),
                sj.effective_neighbours(empirical, u, sigma),
            )
        )
        return call(u)

    for sigma, (golden, number, error) in DIGITS.items():
        u = (test + sigma * noise).reshape(-1, 64)
        by_gaussian, by_empirical, neighbours = run(gaussian, empirical, jnp.asarray(u), sigma)
        np.testing.assert_allclose(by_gaussian[0, :4], golden, rtol=1e-9)
        np.testing.assert_allclose(np.mean(neighbours), number, rtol=1e-6)
        np.testing.assert_allclose(
            np.mean((by_gaussian - np.tile(test, (2, 1))) ** 2), error, rtol=1e-6
        )
        if sigma in DIGITS_EMPIRICAL:
            np.testing.assert_allclose(by_empirical[0, :4], DIGITS_EMPIRICAL[sigma], rtol=1e-9)


def test_batches_are_vmap(dtype):
    rng = np.random.default_rng(7)
    D = sj.EmpiricalDenoiser(rng.standard_normal((50, 6)).astype(dtype), chunk_size=16)
    u, levels = rng.standard_normal((4, 6)).astype(dtype), np.array([0.01, 0.1, 1, 10], dtype)
    together = jax.vmap(D)(jnp.asarray(u), jnp.asarray(levels))
    alone = jnp.stack([D(jnp.asarray(a), jnp.asarray(b)) for a, b in zip(u, levels, strict=True)])
    assert together.dtype == dtype
    # Rounding of normalised sums and of logits that the product is trusted with.
    np.testing.assert_allclose(together, alone, atol=2100 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sj.GaussianDenoiser(np.zeros(2), np.eye(3)),
            r"`covariance` must have shape \(2, 2\)",
        ),
        (
            lambda: sj.GaussianDenoiser(np.zeros((2, 2)), np.eye(2)),
            r"`mean` must have shape \(d,\)",
        ),
        (lambda: sj.GaussianDenoiser(np.zeros(2), [[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (lambda: sj.GaussianDenoiser(np.zeros(2), np.diag([1.0, -1.0])), "positive semi-definite"),
        (lambda: sj.GaussianDenoiser(np.zeros(1), [[np.inf]]), "finite"),
        (
            lambda: sj.GaussianDenoiser.fit(np.zeros((3, 2)), rank=3),
            "`rank` must be an integer from 0 to d = 2",
        ),
        (
            lambda: sj.GaussianDenoiser.fit(np.zeros((3, 2)), shrinkage=2),
            r"`shrinkage` must lie in \[0, 1\]",
        ),
        (lambda: sj.GaussianDenoiser.low_rank(np.zeros(2), np.ones((2, 1)), [1.0]), "orthonormal"),
        (
            lambda: sj.GaussianDenoiser.low_rank(np.zeros(2), np.eye(2), [1.0]),
            r"`basis` must have shape \(d, r\)",
        ),
        (lambda: sj.GaussianDenoiser.low_rank(np.zeros(2), np.eye(2), [1.0, -1.0]), "non-negative"),
        (
            lambda: sj.MixtureDenoiser([1.0], np.zeros((2, 1)), np.zeros((2, 1, 1))),
            r"`weights` must have shape \(2,\)",
        ),
        (
            lambda: sj.MixtureDenoiser([1.0], np.zeros((1, 2)), np.zeros((1, 1, 1))),
            "`covariances` must have shape",
        ),
        (lambda: sj.MixtureDenoiser.of([], []), "Gaussians of one dimension"),
        (
            lambda: sj.MixtureDenoiser.fit(np.zeros((3, 2)), [0, 1]),
            r"`labels` must have shape \(3,\)",
        ),
        (
            lambda: sj.MixtureDenoiser.fit(np.zeros((3, 2)), num_components=4),
            "`num_components` must lie in",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_rescaled(dtype):
    points = np.array([[-1.0, 0.5], [2.0, 1.0], [0.0, -3.0]], dtype)
    centre, scale = np.array([1.0, -2.0], dtype), dtype.type(2.5)
    D = sj.RescaledDenoiser(sj.EmpiricalDenoiser((points - centre) / scale), centre, scale)
    u = np.array([0.3, 0.2], dtype)
    for sigma in (0.5, 3.0):
        expected = sj.EmpiricalDenoiser(points)(u, sigma)
        # Weights of three points: logits of size ten, each to a rounding.
        np.testing.assert_allclose(D(u, sigma), expected, atol=100 * np.finfo(dtype).eps)
    with pytest.raises(ValueError, match="`scale` must be positive"):
        sj.RescaledDenoiser(D, centre, 0.0)
    with pytest.raises(ValueError, match=r"must have shape \(d,\); got \(\)"):
        sj.RescaledDenoiser(D, 1.0, 2.0)


def test_guided(dtype):
    rng = np.random.default_rng(3)
    means = rng.normal(size=(2, 3)).astype(dtype)
    roots = rng.normal(size=(2, 3, 3)).astype(dtype)
    covariances = roots @ roots.transpose(0, 2, 1)
    every, one = (sj.GaussianDenoiser(m, c) for m, c in zip(means, covariances, strict=True))
    u, sigma = rng.normal(size=3).astype(dtype), 0.8
    # Of a Gaussian D is m + C (C + sigma^2)^(-1) (u - m): the guided one is an affine map, whose matrix is the combination.
    exact = [np.float64(x) for x in covariances]
    gains = [c @ np.linalg.inv(c + sigma**2 * np.eye(3)) for c in exact]
    parts = [m + gain @ (u - m) for m, gain in zip(np.float64(means), gains, strict=True)]
    # Covariances of size ten, of condition some hundred, and weights up to 3.
    atol = 3000 * np.finfo(dtype).eps
    for weight in (-1.0, 0.0, 0.3, 1.0, 3.0):
        D = sj.GuidedDenoiser(every, one, weight)
        expected = (1 - weight) * parts[0] + weight * parts[1]
        np.testing.assert_allclose(D(u, sigma), expected, atol=atol)
        matrix = (1 - weight) * gains[0] + weight * gains[1]
        np.testing.assert_allclose(jax.jacfwd(D)(u, sigma), matrix, atol=atol)
        mean, variance = D.mean_and_variance(u, sigma)
        np.testing.assert_allclose(mean, expected, atol=atol)
        np.testing.assert_allclose(variance, sigma**2 * np.trace(matrix), atol=atol)
    # Scores and predicted noises combine with the same weight, and so does the papers' 1 + w.
    scores = [np.asarray(sj.score(d, u, sigma), np.float64) for d in (every, one)]
    guided = sj.GuidedDenoiser(every, one, 1 + 2.0)
    expected = (1 + 2.0) * scores[1] - 2.0 * scores[0]
    np.testing.assert_allclose(sj.score(guided, u, sigma), expected, atol=atol)


def test_guided_takes_a_function_beside_a_denoiser():
    every = sj.EmpiricalDenoiser(np.random.default_rng(0).normal(size=(5, 3)))
    D = sj.GuidedDenoiser(lambda u, s: 2 * u, every, 2.0)
    u = jnp.ones(every.dim)
    np.testing.assert_allclose(D(u, 1.0), 2 * every(u, 1.0) - 2 * u, rtol=1e-5)
    short = sj.GuidedDenoiser(every, lambda u, s: u[:1], 2.0)
    with pytest.raises(ValueError, match=r"must map one point of shape"):
        short(u, 1.0)
    with pytest.raises(ValueError, match="must have one dimension, known to one of them; got"):
        sj.GuidedDenoiser(lambda u, s: u, lambda u, s: u, 1.0)
    with pytest.raises(ValueError, match="must have one dimension"):
        sj.GuidedDenoiser(every, sj.EmpiricalDenoiser(np.zeros((2, 7))), 1.0)
    with pytest.raises(ValueError, match="`weight` must be finite"):
        sj.GuidedDenoiser(every, every, np.nan)
