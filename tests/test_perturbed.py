"""The Gaussian-smoothed empirical denoiser, whose perturbations share their products."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax.denoisers._smoothed import perturbed as _perturbed


def by_definition(points, moves, u, sigma, weights=None):
    """In float64: the average of the posterior means, from differences."""
    points, moves, u = (np.asarray(x, np.float64) for x in (points, moves, u))
    square = np.sum((u + moves - points[:, None]) ** 2, axis=-1)
    logits = -square / (2 * np.float64(sigma) ** 2)
    if weights is not None:
        with np.errstate(divide="ignore"):
            logits += np.log(np.asarray(weights, np.float64))[:, None]
    w = np.exp(logits - logits.max(axis=0))
    return np.mean((w / w.sum(axis=0)).T @ points, axis=0)


def tolerance(points, moves, u, sigma):
    """Of the mean: a logit is off by some roundings of radius (3 |v| + |p| + radius) / sigma^2, or 2e-4 nats in float32.

    The products are of points that are not centred, up to three radii from the origin.
    """
    centred = points - np.mean(points, axis=0)
    radius = np.sqrt(np.max(np.sum(np.asarray(centred, np.float64) ** 2, axis=1)))
    eps = np.finfo(points.dtype).eps
    reach = 3 * np.linalg.norm(u - np.mean(points, axis=0)) + np.linalg.norm(moves, axis=1).max()
    logit = min(0.5 * eps * radius * (reach + radius) / sigma**2, 0.5 * eps * 4096)
    worst = (8 + np.sqrt(points.shape[1])) * logit
    return radius * (2 * worst + 64 * eps) + 8 * eps * np.abs(points).max()


@pytest.mark.parametrize("dim", [1, 40])
def test_is_its_definition(dim, dtype, monkeypatch):
    rng = np.random.default_rng(dim)
    points = rng.standard_normal((60, dim)).astype(dtype)
    points[7] = points[3]
    weights = rng.uniform(0.5, 2, 60)
    weights[5] = 0
    D = sj.EmpiricalDenoiser(points, weights=weights)
    G = sj.GaussianSmoothedDenoiser(D, 0.5, 10, jax.random.key(0))
    moves = np.asarray(G.smoothing * G.perturbations)
    cases = []
    for sigma in (1e-3, 0.03, 0.3, 1.0, 30.0):
        u = (points[:9] + sigma * rng.standard_normal((9, dim))).astype(dtype)
        expected = [by_definition(points, moves, x, np.asarray(sigma, dtype), D.weights) for x in u]
        bound = max(tolerance(points, moves, x, sigma) for x in u)
        cases.append((u, np.asarray(sigma, dtype), expected, bound))
    compiled = jax.jit(jax.vmap(G, (0, None)))
    for u, sigma, expected, bound in cases:
        np.testing.assert_allclose(compiled(u, sigma), expected, rtol=0, atol=bound)
        np.testing.assert_allclose(G(u[0], sigma), expected[0], rtol=0, atol=bound)
    # Few at a time: perturbations in parts of which the last is not full, queries in groups.
    monkeypatch.setattr(_perturbed, "AT_ONCE", 4 * 60)
    monkeypatch.setattr(_perturbed, "ALL_AT_ONCE", 4 * 60)
    monkeypatch.setattr(_perturbed, "GROUP", 3)
    jax.clear_caches()
    G = sj.GaussianSmoothedDenoiser(D, 0.5, 10, jax.random.key(0))
    in_parts = jax.jit(jax.vmap(G, (0, None)))
    for u, sigma, expected, bound in cases:
        np.testing.assert_allclose(in_parts(u, sigma), expected, rtol=0, atol=bound)
    jax.clear_caches()


@pytest.mark.usefixtures("mixed_dtypes")
def test_points_that_compete_at_small_noise_are_weighed_precisely():
    """Two points far from the origin and close together: products alone would decide between them by rounding."""
    rng = np.random.default_rng(0)
    points = np.concatenate([100 + 0.01 * np.array([[-1.0], [1.0]]) * np.ones(6), np.zeros((1, 6))])
    points = points.astype(np.float32)
    D = sj.EmpiricalDenoiser(points)
    G = sj.GaussianSmoothedDenoiser(D, 0.01, 8, jax.random.key(1))
    u = (points[:2].mean(axis=0) + 0.002 * rng.standard_normal(6)).astype(np.float32)
    sigma = np.float32(0.02)
    # What is added in float32 is the noisy point of the definition.
    moves = np.asarray(G.smoothing * G.perturbations)
    at = np.asarray(u + np.asarray(moves), np.float64) - np.asarray(u, np.float64)
    expected = by_definition(points, at, u, sigma)
    spread = 0.02 * np.sqrt(6)
    assert np.linalg.norm(G(u, sigma) - expected) < 2e-4 * spread + 100 * 6 * 1.2e-7


def test_derivatives_are_those_of_the_definition(x64):
    rng = np.random.default_rng(3)
    points = rng.standard_normal((20, 4))
    # As many perturbations as dimensions: their products are kept.
    G = sj.GaussianSmoothedDenoiser(points, 0.3, 4, jax.random.key(0))
    moves = G.smoothing * G.perturbations

    def plain(points, u, sigma, moves=moves):
        logits = -jnp.sum((u[None, None] + moves[:, None] - points[None]) ** 2, axis=-1) / (
            2 * sigma**2
        )
        return jnp.mean(jax.nn.softmax(logits, axis=1) @ points, axis=0)

    u = points[0] + 0.5

    def built(points, smoothing):
        return jnp.sum(
            sj.GaussianSmoothedDenoiser(points, smoothing, 4, jax.random.key(0))(u, 0.7) ** 2
        )

    def plainly(points, smoothing):
        return jnp.sum(plain(points, u, 0.7, smoothing * G.perturbations) ** 2)

    @jax.jit
    def got(points, u, sigma, smoothing):
        return (
            (jax.jacfwd(G)(u, sigma), jax.jacrev(G)(u, sigma)),
            jax.jacfwd(G, 1)(u, sigma),
            jax.grad(built, (0, 1))(points, smoothing),
            jax.hessian(lambda u: jnp.sum(G(u, sigma) ** 2))(u),
        )

    @jax.jit
    def wanted(points, u, sigma, smoothing):
        jacobian = jax.jacfwd(plain, 1)(points, u, sigma)
        return (
            (jacobian, jacobian),
            jax.jacfwd(plain, 2)(points, u, sigma),
            jax.grad(plainly, (0, 1))(points, smoothing),
            jax.hessian(lambda u: jnp.sum(plain(points, u, sigma) ** 2))(u),
        )

    *first, second = got(points, u, 0.7, 0.3)
    *first_wanted, second_wanted = wanted(points, u, 0.7, 0.3)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(first_wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(second, second_wanted, rtol=1e-8, atol=1e-10)


def test_every_way_of_mapping(dtype):
    rng = np.random.default_rng(4)
    points = rng.standard_normal((2, 30, 5)).astype(dtype)
    u, levels = rng.standard_normal((3, 4, 5)).astype(dtype), np.array([0.3, 1.0, 4.0], dtype)
    key = jax.random.key(0)
    G = sj.GaussianSmoothedDenoiser(points[0], 0.5, 4, key)
    each = np.array([[G(x, s) for x in row] for row, s in zip(u, levels, strict=True)])
    nested = jax.vmap(jax.vmap(G, (0, None)))(u, levels)
    np.testing.assert_allclose(nested, each, rtol=0, atol=2000 * np.finfo(dtype).eps)
    sets = jax.vmap(lambda p: sj.GaussianSmoothedDenoiser(p, 0.5, 4, key)(u[0, 0], 1.0))(points)
    expected = [sj.GaussianSmoothedDenoiser(p, 0.5, 4, key)(u[0, 0], 1.0) for p in points]
    np.testing.assert_allclose(sets, expected, rtol=0, atol=2000 * np.finfo(dtype).eps)


def matter(points, moves, u, sigma, dtype):
    """How many points have more than a rounding of the largest weight, for any perturbation."""
    square = np.sum((u + moves - points[:, None].astype(np.float64)) ** 2, axis=-1)
    logits = -square / (2 * sigma**2)
    return np.sum(np.any(logits > logits.max(axis=0) + np.log(np.finfo(dtype).eps), axis=1))


def test_however_many_points_matter(dtype):
    """The points that matter fit the smaller share, the larger or none."""
    rng = np.random.default_rng(5)
    n, dim = 1600, 12
    shares = [n // k for k in _perturbed.SHARES]
    points = rng.standard_normal((n, dim)).astype(dtype)
    points[:30] = points[0]  # more copies than are weighed again
    points[30:50] = points[30] + 1e-3 * rng.standard_normal((20, dim))
    D = sj.EmpiricalDenoiser(points)
    G = sj.GaussianSmoothedDenoiser(D, 0.3, 12, jax.random.key(0))
    assert G._shared is not None
    compiled = jax.jit(lambda G, u, sigma: jax.vmap(G, (0, None))(u, sigma))
    moves = np.asarray(G.smoothing * G.perturbations, np.float64)
    numbers = []
    far = 1e3 * np.ones(dim, dtype)
    for sigma in (1e-6, 0.05, 0.2, 0.3, 0.35, 0.45, 0.6, 3.0, 1e4):
        u = (points[[0, 30, 70, 200]] + sigma * rng.standard_normal((4, dim))).astype(dtype)
        if sigma >= 0.6:
            u[3] = far
        got = np.asarray(compiled(G, u, np.asarray(sigma, dtype)))
        for x, mean in zip(u, got, strict=True):
            numbers.append(matter(points, moves, x, sigma, dtype))
            bound = tolerance(points, moves, x, sigma)
            # A noisy point is rounded, too: what the definition is of.
            at = np.asarray(np.asarray(x) + np.asarray(moves.astype(dtype)), np.float64) - x.astype(
                np.float64
            )
            expected = by_definition(points, at, x, np.asarray(sigma, dtype))
            np.testing.assert_allclose(mean, expected, rtol=0, atol=bound)
    assert min(numbers) < shares[0] / 4 and max(numbers) == n
    assert any(shares[0] < k <= shares[1] for k in numbers)


@pytest.mark.usefixtures("mixed_dtypes")
def test_points_that_compete_among_many_are_weighed_precisely():
    """Few, and more than are weighed again at once; with weights of which some are zero; and far from the origin."""
    rng = np.random.default_rng(6)
    n, dim = 800, 16
    tight, sigma = 0.01, np.float32(0.02)
    weights = rng.uniform(0.5, 2, n)
    weights[1] = 0
    cases = [(4, 1.0), (40, 1.0), (4, 30.0)]
    for num, offset in cases:
        points = rng.standard_normal((n, dim)) * 3
        points[:num] = 3 + tight * rng.standard_normal((num, dim))
        points = (points + offset).astype(np.float32)
        D = sj.EmpiricalDenoiser(points, weights=weights)
        G = sj.GaussianSmoothedDenoiser(D, 0.01, 8, jax.random.key(1))
        u = points[:num].mean(axis=0) + np.float32(0.002) * rng.standard_normal((3, dim))
        u = u.astype(np.float32)
        moves = np.asarray(G.smoothing * G.perturbations)
        got = jax.vmap(G, (0, None))(u, sigma)
        for x, mean in zip(u, got, strict=True):
            at = np.asarray(x + np.asarray(moves), np.float64) - np.asarray(x, np.float64)
            expected = by_definition(points, at, x, sigma, D.weights)
            # Logits from differences: some roundings of |u + p - y| |y - a| / sigma^2 each.
            reach = (
                np.linalg.norm(x - points[:num], axis=1).max() + np.linalg.norm(moves, axis=1).max()
            )
            logit = 8 * 1.2e-7 * reach * 2 * tight * np.sqrt(dim) / sigma**2
            bound = (
                2 * tight * np.sqrt(dim) * (2 * logit + 2e-4) + 8 * 1.2e-7 * np.abs(points).max()
            )
            assert np.linalg.norm(mean - expected) < bound


def test_one_point():
    G = sj.GaussianSmoothedDenoiser(np.array([[1.0, 2.0]]), 0.5, 2, jax.random.key(0))
    np.testing.assert_array_equal(G(np.array([3.0, -1.0]), 0.1), [1.0, 2.0])


def test_products_follow_what_they_are_of(dtype):
    """Another base, other perturbations, another smoothing: in place of those that a denoiser was built with."""
    rng = np.random.default_rng(7)
    points = rng.standard_normal((2, 40, 5)).astype(dtype)
    u, sigma = rng.standard_normal(5).astype(dtype), np.asarray(0.7, dtype)
    build = lambda p, s, seed: sj.GaussianSmoothedDenoiser(p, s, 4, jax.random.key(seed))  # noqa: E731
    first = build(points[0], 0.5, 0)
    for name, other in [
        ("base", build(points[1], 0.5, 0)),
        ("perturbations", build(points[0], 0.5, 1)),
        ("smoothing", build(points[0], 1.5, 0)),
    ]:
        changed = eqx.tree_at(lambda G, name=name: getattr(G, name), first, getattr(other, name))
        expected = by_definition(
            np.asarray(other.base.data), np.asarray(other.smoothing * other.perturbations), u, sigma
        )
        np.testing.assert_allclose(
            changed(u, sigma), expected, rtol=0, atol=2000 * np.finfo(dtype).eps
        )
    fewer = eqx.tree_at(lambda G: G.base, first, sj.EmpiricalDenoiser(points[1][:30]))
    moves = np.asarray(first.smoothing * first.perturbations)
    expected = by_definition(points[1][:30], moves, u, sigma)
    np.testing.assert_allclose(fewer(u, sigma), expected, rtol=0, atol=2000 * np.finfo(dtype).eps)


@pytest.mark.usefixtures("mixed_dtypes")
def test_wide_queries_of_narrow_points(x64):
    rng = np.random.default_rng(8)
    points = rng.standard_normal((40, 5)).astype(np.float32)
    G = sj.GaussianSmoothedDenoiser(points, 0.5, 4, jax.random.key(0))
    u = rng.standard_normal(5)
    # The perturbations and the squares are formed in the points' precision.
    moves = np.asarray(G.smoothing * G.perturbations)
    got = G(u, np.float64(0.7))
    assert got.dtype == np.float64
    expected = by_definition(points, moves, u, 0.7)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(points, moves, u, 0.7))


def test_near_duplicates_whose_products_differ_by_more_than_what_underflows():
    """In float32 their weights by products differ by hundreds of nats: a mass that underflows is not one that is nothing."""
    d, sigma, smoothing = 3072, 2e-3, 2e-6
    rng = np.random.default_rng(0)
    base, apart = rng.standard_normal((2, 8, d))
    apart *= 1e-2 / np.linalg.norm(apart, axis=1, keepdims=True)
    points = np.concatenate([base - apart / 2, base + apart / 2]).astype(np.float32)
    G = sj.GaussianSmoothedDenoiser(points, smoothing, 8, jax.random.key(0))
    moves = smoothing * np.asarray(G.perturbations, float)
    queries = ((points[:8].astype(float) + points[8:]) / 2).astype(np.float32)
    for u, first, second in zip(queries, points[:8], points[8:], strict=True):
        step = second.astype(float) - first
        expected = by_definition(points, moves, u, np.float32(sigma))
        difference = np.asarray(G(jnp.asarray(u), sigma), float) - expected
        # The share of the second: a rounding of a moved coordinate of size 1 is off by 2^-24 at random, and moves the logit
        # by |step| / sigma^2 of it at six standard deviations and the share by a quarter of that; the mean has 8.
        bound = 6 * np.linalg.norm(step) / sigma**2 * 2 * 2.0**-24 / 4 / np.sqrt(8)
        assert abs(difference @ step / (step @ step)) < bound + 16 * 2.0**-24 / 1e-2
