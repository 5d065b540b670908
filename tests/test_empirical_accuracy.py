"""The empirical denoiser against arithmetic with more digits than it can show."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import smoothjax as sj

BITS = 200  # fixed point with 2^-200: 60 digits after the point
as_fixed = np.frompyfunc(lambda x: int(math.ldexp(x, BITS)), 1, 1)


def exact(points, u, sigma, weights=None, fixed=None):
    """Posterior mean and log density in 60-digit fixed point and 60-digit exponentials; `fixed` are the points in it."""
    with mpmath.workdps(60):
        fixed = as_fixed(np.asarray(points, np.float64)) if fixed is None else fixed
        difference = fixed - as_fixed(np.asarray(u, np.float64))
        square = [
            mpmath.ldexp(mpmath.mpf(int(q)), -2 * BITS)
            for q in np.sum(difference * difference, axis=1)
        ]
        nearest, sigma = min(square), mpmath.mpf(float(sigma))
        prior = [mpmath.mpf(1) / len(points)] * len(points) if weights is None else weights
        terms = [
            w * mpmath.exp(-(q - nearest) / (2 * sigma**2))
            for w, q in zip(prior, square, strict=True)
        ]
        total = mpmath.fsum(terms)
        log_density = mpmath.log(total) - nearest / (2 * sigma**2)
        log_density -= mpmath.mpf(len(u)) / 2 * mpmath.log(2 * mpmath.pi * sigma**2)
        integers = np.asarray([int(mpmath.ldexp(term / total, BITS)) for term in terms], object)
        sums = np.sum(integers[:, None] * fixed, axis=0)
        # Dividing by the integers' own sum makes their truncation harmless.
        scale = int(np.sum(integers)) << BITS
        return np.array([float(Fraction(int(s), scale)) for s in sums]), float(log_density)


def make(n, d, sigma, seed):
    """Points of scale one with duplicates and near-duplicates at distances like `sigma`, and queries of every kind.

    All in float32, so that both precisions have the same inputs.
    """
    rng = np.random.default_rng([n, d, seed])
    points = rng.standard_normal((n, d)).astype(np.float32)
    if n >= 7:
        points[1] = points[0]
        # Of the size of the noise as a vector and as a coordinate; not beyond the scale of the data.
        near = min(sigma, 1.0)
        points[2] = points[0] + near / np.sqrt(d) * rng.standard_normal(d)
        points[3] = points[0] + near / np.sqrt(d) * rng.standard_normal(d)
        points[4] = points[0] + near * rng.standard_normal(d)
    if n >= 1000:
        # A cluster of more near-duplicates than are weighed one after another.
        points[10:400] = points[10] + near / np.sqrt(d) * rng.standard_normal((390, d))
    queries = [
        points[0] + sigma * rng.standard_normal(d),
        points[-1] + sigma * rng.standard_normal(d),
        rng.standard_normal(d) + sigma * rng.standard_normal(d),
        points[min(10, n - 1)] + sigma / np.sqrt(d) * rng.standard_normal(d),
    ]
    return points, np.asarray(queries, np.float32)


SHAPES = [
    (1, 1),
    (1, 784),
    (2, 1),
    (2, 64),
    (7, 2),
    (7, 64),
    (7, 784),
    (1000, 1),
    (1000, 2),
    (1000, 64),
    (1000, 784),
]
LEVELS = [1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e3]


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_against_exact_arithmetic(n, d):
    levels = [1e-3, 1e-1, 1.0, 1e3] if n * d > 1e5 else LEVELS
    calls = {}
    for level in levels:
        sigma = np.float32(level)
        points, queries = make(n, d, sigma, seed=0)
        fixed = as_fixed(np.asarray(points, np.float64))
        reference = [exact(points, u, sigma, fixed=fixed) for u in queries]
        mean = np.stack([r[0] for r in reference])
        for dtype, chunk_size in (
            ("float32", None),
            ("float64", None),
            ("float64", 3 if n < 100 else 333),
        ):
            if dtype == "float64" and not jax.config.jax_enable_x64:  # pyright: ignore
                continue
            denoiser = sj.EmpiricalDenoiser(points.astype(dtype), chunk_size=chunk_size)
            run = calls.setdefault(
                (dtype, chunk_size),
                jax.jit(lambda D, u, s: jax.vmap(lambda u: (D(u, s), D.log_density(u, s)))(u)),
            )
            found = run(denoiser, queries.astype(dtype), jnp.asarray(sigma, dtype))
            result, log_density = map(np.asarray, found)
            # What was promised, of the data's scale, which is one.
            bound = 1e-4 if dtype == "float32" else 1e-11
            assert float(np.max(np.abs(result - mean))) <= bound, (dtype, chunk_size, level)
            eps = float(np.finfo(dtype).eps)
            for u, value, (_, log_exact) in zip(
                queries, np.asarray(log_density), reference, strict=True
            ):
                radius = np.linalg.norm(points - points.mean(0), axis=1).max()
                size = np.linalg.norm(u - points.mean(0)) + radius
                nearest = np.min(np.sum((points.astype(float) - u) ** 2, axis=1)) / (2 * level**2)
                # Sums of d terms in the exponent and the normaliser, and a product trusted to 2048 eps.
                trusted = eps * min(2048.0, radius * size / level**2)
                terms = nearest + d * (1 + abs(math.log(level))) + abs(log_exact) + math.log(n)
                assert abs(value - log_exact) <= 4 * eps * terms + trusted, (dtype, level)


def test_chunks_change_rounding_only(dtype):
    points, queries = make(1000, 64, 0.1, seed=1)
    points = points.astype(dtype)
    results = []
    for chunk_size in (1000, 999, 64, 17):
        D = sj.EmpiricalDenoiser(points, chunk_size=chunk_size)
        results.append(np.asarray(jax.jit(jax.vmap(D, (0, None)))(queries.astype(dtype), 0.3)))
    spread = np.max(np.abs(np.stack(results) - results[0]))
    # Rounding of a normalised sum, and of trusted logits.
    assert spread <= 2100 * np.finfo(dtype).eps


@pytest.mark.parametrize(
    "dtype",
    ["float32", pytest.param("float64", marks=pytest.mark.exhaustive)],
    indirect=True,
)
def test_batches_of_certain_and_doubtful_queries(dtype):
    """More doubtful queries than are weighed at once, between others, in one batch and in batches of batches."""
    n, d, sigma, rng = 200, 128, 1e-3, np.random.default_rng(0)
    points = rng.standard_normal((n, d)).astype(np.float32)
    points[n // 2 :] = points[: n // 2]  # each query of every second one is between two points
    points[n // 2 :: 2] += sigma / np.sqrt(d) * rng.standard_normal((n // 4, d), np.float32)
    points[n // 2 + 1 :: 2] += 1
    queries = (points[:48] + sigma * rng.standard_normal((48, d))).astype(np.float32)
    D = sj.EmpiricalDenoiser(points.astype(dtype), chunk_size=77)
    queries_as, sigma_as = jnp.asarray(queries, dtype), np.asarray(sigma, dtype)
    fixed = as_fixed(np.asarray(points, np.float64))
    exactly = [exact(points, u, float(sigma_as), fixed=fixed) for u in queries]
    mean = np.stack([one[0] for one in exactly])
    bound = 1e-4 if dtype == np.float32 else 1e-11

    batch = jax.jit(jax.vmap(D, (0, None)))
    np.testing.assert_allclose(batch(queries_as, sigma_as), mean, rtol=0, atol=bound)
    # Many times more, in large groups first.
    many = batch(jnp.tile(queries_as, (7, 1)), sigma_as)
    np.testing.assert_allclose(many, np.tile(mean, (7, 1)), rtol=0, atol=bound)
    nested = jax.jit(jax.vmap(jax.vmap(D, (0, None)), (0, 0)))
    shaped = nested(queries_as.reshape(4, 12, d), jnp.full(4, sigma_as))
    np.testing.assert_allclose(shaped.reshape(-1, d), mean, rtol=0, atol=bound)
    # Noise levels and training sets as the batch.
    over_sets = jax.jit(jax.vmap(lambda data, u: sj.EmpiricalDenoiser(data)(u, sigma_as)))
    both = over_sets(jnp.stack([D.data, D.data[::-1]]), queries_as[2:4])
    np.testing.assert_allclose(both, mean[2:4], rtol=0, atol=bound)
    levels = jax.jit(jax.vmap(D, (None, 0)))(queries_as[2], jnp.asarray([sigma_as, 10.0], dtype))
    np.testing.assert_allclose(levels[0], mean[2], rtol=0, atol=bound)
    np.testing.assert_allclose(levels[1], exact(points, queries[2], 10.0)[0], rtol=0, atol=bound)


@pytest.mark.parametrize(("d", "sigma"), [(2, 0.3), (128, 0.3), (128, 1e-3)])
@pytest.mark.parametrize("order", [1, -1])  # the largest weight in the first chunk, and in the last
def test_weights(x64, d, sigma, order):
    points, queries = make(7, d, sigma, seed=2)
    points, queries = points.astype(float)[::order], queries.astype(float)
    weights = np.array([0.0, 1.0, 2.0, 0.5, 1e-3, 4.0, 1.0])
    D = sj.EmpiricalDenoiser(points, weights, chunk_size=3)
    for u in queries:
        mean, log_density = exact(
            points, u, sigma, [mpmath.mpf(w) / mpmath.mpf(float(weights.sum())) for w in weights]
        )
        np.testing.assert_allclose(D(u, sigma), mean, rtol=0, atol=1e-13)
        np.testing.assert_allclose(D.log_density(u, sigma), log_density, rtol=1e-12)
        square = np.sum((points - u) ** 2, 1) / (2 * sigma**2)
        square[weights == 0] = np.inf
        posterior = weights * np.exp(square.min() - square)
        posterior /= posterior.sum()
        variance = posterior @ np.sum((points - posterior @ points) ** 2, 1)
        # Rounding of sums of d squares, by which the competing logits and the variance are off.
        rounding = 8 * 2.0**-52 * (d + square.min())
        np.testing.assert_allclose(
            D.posterior_variance(u, sigma), variance, rtol=rounding, atol=8 * 2.0**-52 * d
        )
        entropy = -np.sum(posterior[posterior > 0] * np.log(posterior[posterior > 0]))
        np.testing.assert_allclose(
            D.posterior_entropy(u, sigma), entropy, atol=4 * rounding, rtol=0
        )
    np.testing.assert_allclose(D.weights, weights / weights.sum(), rtol=1e-14)


@pytest.mark.parametrize("d", [1, 64])
def test_far_queries(dtype, d):
    points, _ = make(7, d, 0.1, seed=3)
    rng = np.random.default_rng(4)
    direction = rng.standard_normal(d)
    u = (1e4 * direction / np.linalg.norm(direction)).astype(np.float32)
    D = sj.EmpiricalDenoiser(points.astype(dtype))
    eps = float(np.finfo(dtype).eps)
    for sigma in (1e-3, 1.0, 30.0, 1e3):
        sigma = np.float32(sigma)
        mean, _ = exact(points, u, sigma)
        result = np.asarray(D(jnp.asarray(u, dtype), jnp.asarray(sigma, dtype)))
        assert np.all(np.isfinite(result))
        spread = np.max(np.linalg.norm(points[:, None] - points[None], axis=-1))
        # A logit, a product of lengths over sigma^2, is known to a few eps of it; the mean moves by that times the spread.
        logit_error = 4 * eps * np.linalg.norm(u) * spread / float(sigma) ** 2
        assert (
            np.linalg.norm(result - mean)
            <= spread * min(1, logit_error + 2048 * eps) + 4 * eps * spread
        )


def test_nothing_overflows():
    points, _ = make(7, 2, 1e-3, seed=5)
    D = sj.EmpiricalDenoiser(points)

    def values(u, sigma):
        return (
            D(u, sigma),
            D.log_density(u, sigma),
            D.posterior_variance(u, sigma),
            D.posterior_entropy(u, sigma),
        )

    run = jax.jit(lambda u, s: (values(u, s), jax.jacrev(values)(u, s), jax.jacfwd(values)(u, s)))
    for sigma in np.asarray([1e-30, 1e-12, 1e-6, 1e-3, 1.0, 1e3, 1e15], np.float32):
        for u in (points[0], points[0] + 0.3, 1e4 * points[0], points[:2].mean(0)):
            leaves = jax.tree.leaves(run(jnp.asarray(u), sigma))
            assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves), (sigma, u)
        if sigma < 1e-6:
            # The nearest neighbour, up to the rounding of a centred point.
            u = jnp.asarray(points[5]) + 1e-3
            np.testing.assert_allclose(D(u, sigma), points[5], atol=2e-7)


def test_training_set_is_an_argument():
    points = np.random.default_rng(0).standard_normal((3000, 5)).astype(np.float32)
    D = sj.EmpiricalDenoiser(points)
    jaxpr = jax.make_jaxpr(lambda D, u: jax.vmap(lambda u: D(u, 1.0))(u))(D, points[:4])
    assert all(np.size(constant) < 100 for constant in jaxpr.consts)


def test_products_ask_for_full_precision():
    D = sj.EmpiricalDenoiser(np.random.default_rng(0).standard_normal((3000, 5)).astype(np.float32))
    u = jnp.zeros((4, 5), jnp.float32)
    run = jax.vmap(
        lambda u: (D(u, 1.0), D.log_density(u, 1.0), jax.jvp(lambda u: D(u, 1.0), (u,), (u,)))
    )
    text = str(jax.make_jaxpr(run)(u))
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) >= 4
    count = text.count("dot_general[")
    assert (
        text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
        + text.count("precision=HIGHEST")
        >= count
    )


def test_memory_of_a_thousand_queries():
    points = jax.ShapeDtypeStruct((10_000, 784), jnp.float32)

    def run(points, u):
        return jax.vmap(lambda u: sj.EmpiricalDenoiser(points)(u, 0.5))(u)

    queries = jax.ShapeDtypeStruct((1000, 784), jnp.float32)
    memory = jax.jit(run).lower(points, queries).compile().memory_analysis()
    assert memory is not None
    # Includes the centred copy of the training set that is made inside this function.
    assert memory.temp_size_in_bytes < 2**30


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (
            lambda: sj.EmpiricalDenoiser(np.zeros((5, 8, 8))),
            r"must have shape \(n, d\); got \(5, 8, 8\). Flatten",
        ),
        (lambda: sj.EmpiricalDenoiser(np.zeros(5)), r"data\[:, None\]"),
        (lambda: sj.EmpiricalDenoiser(np.zeros((0, 2))), "at least one point"),
        (lambda: sj.EmpiricalDenoiser([[0.0, np.nan]]), "must be finite"),
        (
            lambda: sj.EmpiricalDenoiser(np.zeros((2, 1)), [1.0]),
            r"`weights` must have shape \(2,\)",
        ),
        (
            lambda: sj.EmpiricalDenoiser(np.zeros((2, 1)), [-1.0, 1.0]),
            "non-negative and not all zero",
        ),
        (
            lambda: sj.EmpiricalDenoiser(np.zeros((2, 1)), chunk_size=0),
            "`chunk_size` must be a positive integer",
        ),
        (
            lambda: sj.EmpiricalDenoiser(np.zeros((2, 1)))(jnp.zeros(2), 1.0),
            r"must have shape \(1,\); got \(2,\)",
        ),
        (
            lambda: sj.EmpiricalDenoiser(np.zeros((2, 1)))(jnp.zeros(1), 0.0),
            "`sigma` must be positive",
        ),
        (
            lambda: sj.EmpiricalDenoiser(np.zeros((2, 1)))(jnp.zeros(1), -1.0),
            "`sigma` must be positive",
        ),
    ],
)
def test_bad_input(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()


def test_traced_noise_level_is_checked():
    D = sj.EmpiricalDenoiser(np.zeros((2, 1), np.float32))
    assert np.isnan(jax.jit(lambda s: D(jnp.zeros(1, jnp.float32), s))(-1.0))


@pytest.mark.parametrize(("d", "rows"), [(2, 2048), (784, 2048), (3072, 512), (20_000, 128)])
def test_chunks_are_of_a_size_that_a_cache_holds(d, rows):
    """Six megabytes, at least 128 points and at most 2,048."""
    points = np.random.default_rng(0).standard_normal((2 * rows, d), np.float32)
    assert sj.EmpiricalDenoiser(points).chunk_size == rows
