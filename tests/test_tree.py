"""The k-d tree's means: certificates that hold on adversarial clouds, and expansions with remainders within their bounds."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_truncated import reference

import smoothjax as sj
from smoothjax.denoisers._truncated import tree as _tree
from smoothjax.denoisers._truncated import tree_means as _tree_means
from smoothjax.denoisers._truncated import tree_plan as _tree_plan
from smoothjax.denoisers._truncated import truncated as _truncated

QUERIES = 48
KINDS = (
    "normal",
    "clusters",
    "duplicates",
    "all equal",
    "cauchy",
    "far from zero",
    "lattice",
    "one and a crowd",
)


def cloud(kind: str, n: int, d: int, generator: np.random.Generator) -> np.ndarray:
    if kind == "clusters":
        centres = 10 * generator.standard_normal((5, d))
        return centres[generator.integers(0, 5, n)] + 0.01 * generator.standard_normal((n, d))
    if kind == "duplicates":
        return generator.standard_normal((n // 8 + 1, d))[generator.integers(0, n // 8 + 1, n)]
    if kind == "all equal":
        return np.full((n, d), 0.7)
    if kind == "cauchy":
        return generator.standard_cauchy((n, d)).clip(-1e6, 1e6)
    if kind == "far from zero":
        return 1e3 + generator.standard_normal((n, d))
    if kind == "lattice":
        return generator.integers(0, math.ceil(n ** (1 / d)) + 1, (n, d)).astype(float)
    if kind == "one and a crowd":
        return np.concatenate([np.zeros((1, d)), np.ones((n - 1, d))])
    return generator.standard_normal((n, d))


def queries(points: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A point's neighbours at one noise level; or noisy points, midpoints, points and far ones, each at its own."""
    n, d = points.shape
    scale = np.sqrt(np.mean((points - points.mean(0)) ** 2)) + 1e-3
    if generator.random() < 0.6:
        sigma = np.full(QUERIES, scale * 10 ** generator.uniform(-3, 1.5))
        noise = min(sigma[0], 0.1 * scale) * generator.standard_normal((QUERIES, d))
        return points[generator.integers(0, n)] + noise, sigma
    sigma = scale * 10 ** generator.uniform(-5, 1.5, QUERIES)
    base = points[generator.integers(0, n, QUERIES)]
    other = points[generator.integers(0, n, QUERIES)]
    noise = sigma[:, None] * generator.standard_normal((QUERIES, d))
    which = generator.integers(0, 5, QUERIES)[:, None]
    far = base + 100 * scale * generator.standard_normal((QUERIES, d))
    kinds = [which <= 1, which == 2, which == 3]
    return np.select(kinds, [base + noise, 0.5 * (base + other), far], base), sigma


means = jax.jit(_tree_means.tree_means)


def check(points, u, sigma, note, relative=1e-4) -> np.ndarray:
    """That the certificates hold; returns which queries are certified to the tolerance."""
    tree = _tree.build_tree(points)
    scale = np.sqrt(np.mean(np.sum((points - points.mean(0, np.float64)) ** 2, axis=1)))
    tolerance = jnp.asarray(relative * max(scale, 1e-3), points.dtype)
    found = means(tree, jnp.asarray(u, points.dtype), jnp.asarray(sigma, points.dtype), tolerance)
    expected = reference(points, u.astype(points.dtype), sigma.astype(points.dtype))
    error = np.linalg.norm((np.asarray(found.value) - expected).astype(np.float64), axis=1)
    truncation = np.asarray(found.truncation, np.float64)
    bound = truncation + np.asarray(found.rounding, np.float64)
    # A query that is not certified at all makes no claim.
    claimed = np.isfinite(truncation)
    assert np.all(error[claimed] <= bound[claimed]), (note, error, bound)
    return np.asarray(found.truncation <= tolerance)


@pytest.mark.parametrize("shape", [(3001, 1), (5000, 2), (4099, 3)])
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_certificates_hold(shape, precision):
    if precision == np.float64 and not jax.config.jax_enable_x64:  # pyright: ignore
        pytest.skip("needs float64")
    certified = []

    @settings(max_examples=10, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**31), st.sampled_from(KINDS))
    def run(seed, kind):
        generator = np.random.default_rng(seed)
        points = cloud(kind, *shape, generator).astype(precision)
        u, sigma = queries(points, generator)
        relative = 10 ** generator.uniform(-5, -0.5)
        certified.append(check(points, u, sigma, (kind, seed), relative))

    run()
    # The rest falls back to all points: correct, and slow. In float32 those are queries at 1e5 noise levels from all points,
    # whose weights rounding decides.
    assert np.mean(certified) > 0.95


@pytest.mark.parametrize("n", [1, 2, 65, 130])
def test_few_points(n, dtype):
    generator = np.random.default_rng(n)
    for kind in ("normal", "all equal", "lattice"):
        points = cloud(kind, n, 2, generator).astype(dtype)
        u, sigma = queries(points, generator)
        check(points, u, sigma, (kind, n))


@functools.cache
def nodes_of(d: int, degree_of_dtype):
    points = np.random.default_rng(d).standard_normal((700, d)).astype(degree_of_dtype)
    return points, _tree.build_tree(points)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_expansions_are_within_their_remainders(d, x64):
    """Against the sums themselves, for every node, near and far, at radii of up to two noise levels."""
    _, tree = nodes_of(d, np.float64)
    k, generator = tree.degree + 1, np.random.default_rng(0)
    block = np.asarray(tree.points)
    for level in range(tree.depth + 1):
        y = block.reshape(d + 1, 2**level, -1)
        for j in range(min(2**level, 4)):
            node, real = 2**level - 1 + j, y[d, j] > 0
            centre, radius = np.asarray(tree.centre[:, node]), float(tree.radius[node])
            from_centre = y[:d, j, real].T - centre
            distance = np.linalg.norm(from_centre, axis=1)
            assert distance.max() <= radius
            for size in (0.05, 0.5, 1.0, 2.0):
                sigma = radius / size
                u = centre + sigma * generator.uniform(0, 6, (50, 1)) * unit(generator, 50, d)
                differences = [
                    jnp.asarray(radius / sigma**2 * (u - centre)[None, :, i]) for i in range(d)
                ]
                mass, first = _tree_means.expansion(
                    differences, jnp.full((1, 50), size**2), tree.moments[node : node + 1], k - 1
                )
                at_centre = np.exp(-np.sum((u - centre) ** 2, axis=1) / (2 * sigma**2))
                mass = np.asarray(mass)[0] * at_centre
                first = np.stack([np.asarray(x)[0] for x in first], axis=1) * at_centre[:, None]
                apart = u[:, None] - y[:d, j, real].T
                weights = np.exp(-np.sum(apart**2, axis=2) / (2 * sigma**2))
                tail = np.sum((distance / sigma) ** k)
                near = np.maximum(np.linalg.norm(u - centre, axis=1) / sigma - size, 0) ** 2

                def bound(order, tail=tail, near=near):
                    envelope = np.asarray(_tree_plan.log_envelope(order, jnp.asarray(near)))
                    return tail * np.exp(envelope) / math.factorial(order)

                rounding = 1e-12 * np.sum(weights, axis=1).max() + 1e-13 * len(distance) * math.exp(
                    8
                )
                off = np.abs(np.sum(weights, axis=1) - mass)
                assert np.all(off <= bound(k) + rounding)
                moment = np.einsum("qm,md->qd", weights, from_centre) / sigma
                off = np.linalg.norm(moment - first * size, axis=1)
                assert np.all(off <= bound(k - 1) + rounding)
                # A bound that is of no use would pass as well.
                assert np.max(bound(k)) < 50 * len(distance) * size**k


def unit(generator: np.random.Generator, num: int, d: int) -> np.ndarray:
    x = generator.standard_normal((num, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [5, 7, 8, 10, 12])
def test_envelope_bounds_hermite_functions(k):
    x = np.linspace(0, 40, 20_001)
    with np.errstate(divide="ignore"):
        hermite = np.log(np.abs(np.polynomial.hermite_e.hermeval(x, np.eye(k + 1)[k])))
    # Largest over |s| <= |x|, then over all longer x.
    largest = np.maximum.accumulate(hermite) - x**2 / 2
    exact = np.maximum.accumulate(largest[::-1])[::-1]
    bound = np.asarray(_tree_plan.log_envelope(k, jnp.asarray(x**2)), np.float64)
    rounding = 64 * float(jnp.finfo(jnp.asarray(x).dtype).eps) * (1 + np.abs(exact))
    assert np.all(bound >= exact - rounding)
    # Nowhere more than a few times too large.
    assert np.all(bound <= exact + 1.6 + rounding)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_tree_describes_its_points(d):
    points, tree = nodes_of(d, np.float32)
    block = np.asarray(tree.points, np.float64)
    kept = block[:d, block[d] > 0].T
    order = lambda x: x[np.lexsort(x.T)]  # noqa: E731
    np.testing.assert_array_equal(order(kept), order(points.astype(np.float64)))
    terms = np.array(_tree.exponents(d, tree.degree))
    factorials = np.prod([[math.factorial(k) for k in a] for a in terms], axis=1)
    node = 0
    for level in range(tree.depth + 1):
        y = block.reshape(d + 1, 2**level, -1)
        for j in range(2**level):
            place = y[:d, j, y[d, j] > 0].T
            assert np.all(place >= np.asarray(tree.lower)[:, node]) and np.all(
                place <= np.asarray(tree.upper)[:, node]
            )
            scaled = (place - np.asarray(tree.centre[:, node], np.float64)) / float(
                tree.radius[node]
            )
            moments = np.sum(np.prod(scaled[:, None] ** terms, axis=2), axis=0) / factorials
            np.testing.assert_allclose(tree.moments[node], moments, rtol=0, atol=3e-7 * len(place))
            length = np.linalg.norm(scaled, axis=1)
            tail = np.sum(length ** (tree.degree + 1))
            assert tail <= np.exp(float(tree.log_tail[node])) * (1 + 1e-5)
            square = np.mean(length**2) * float(tree.radius[node]) ** 2
            assert square <= (float(tree.spread[node])) ** 2 * (1 + 1e-6)
            node += 1


def test_denoiser_uses_the_tree_and_meets_its_tolerance(dtype, monkeypatch):
    monkeypatch.setattr(_truncated, "TREE_POINTS", 1000)
    generator = np.random.default_rng(0)
    points = jnp.asarray(generator.standard_normal((2000, 2)), dtype)
    denoiser = sj.TruncatedDenoiser(points)
    assert denoiser._tree is not None
    u = points[:1] + jnp.asarray(0.05 * generator.standard_normal((40, 2)), dtype)
    sigma = jnp.full(40, 0.01, dtype)
    found = jax.vmap(denoiser.certified)(u, sigma)
    assert np.all(found.truncation <= denoiser.tolerance)
    expected = reference(points, u, sigma)
    error = np.linalg.norm((np.asarray(found.value) - expected).astype(np.float64), axis=1)
    assert np.all(error <= np.asarray(found.truncation + found.rounding))
    assert np.max(found.visited) < 2000
    alone = denoiser.certified(u[0], sigma[0])
    off = np.linalg.norm((np.asarray(alone.value) - expected[0]).astype(np.float64))
    assert off <= float(alone.truncation + alone.rounding)
    jacobian = jax.jacfwd(denoiser)(u[0], jnp.asarray(0.3, dtype))
    np.testing.assert_array_equal(
        jacobian, jax.jacfwd(denoiser.exact)(u[0], jnp.asarray(0.3, dtype))
    )


def test_what_the_tree_cannot_certify_is_summed_over_all_points(dtype, monkeypatch):
    monkeypatch.setattr(_truncated, "TREE_POINTS", 1000)
    means = _truncated.tree_means

    def uncertain(tree, u, sigma, tolerance):
        found = means(tree, u, sigma, tolerance)
        return found._replace(
            value=found.value + 1, truncation=found.truncation.at[::3].set(jnp.inf)
        )

    monkeypatch.setattr(_truncated, "tree_means", uncertain)
    points = jnp.asarray(np.random.default_rng(0).standard_normal((1500, 1)), dtype)
    denoiser = sj.TruncatedDenoiser(points)
    found = jax.vmap(denoiser.certified, (0, None))(points[:9], jnp.asarray(0.1, dtype))
    expected = reference(points, points[:9], np.full(9, 0.1))
    np.testing.assert_allclose(found.value[::3], expected[::3], atol=1e-4)
    assert np.all(found.visited[::3] == 1500) and np.all(found.truncation[::3] == 0)
    np.testing.assert_allclose(found.value[1::3], expected[1::3] + 1, atol=1e-3)
