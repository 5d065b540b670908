"""Certified truncation: bounds that hold on adversarial data, and values that are the exact denoiser's to the tolerance."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import smoothjax as sj
from smoothjax.denoisers._posterior.leading_directions import leading_directions
from smoothjax.denoisers._truncated import screen as _screen
from smoothjax.denoisers._truncated import truncated as _truncated

QUERIES = 40


def data_set(kind: str, n: int, d: int, generator: np.random.Generator) -> np.ndarray:
    if kind == "spectrum":  # most of the variance in few directions
        return generator.standard_normal((n, d)) * np.arange(1, d + 1) ** -1.0
    if kind == "clusters":
        centres = 10 * generator.standard_normal((5, d))
        return centres[generator.integers(0, 5, n)] + 0.01 * generator.standard_normal((n, d))
    if kind == "duplicates":
        return generator.standard_normal((n // 8 + 1, d))[generator.integers(0, n // 8 + 1, n)]
    if kind == "heavy tails":
        return generator.standard_t(1.5, (n, d)).clip(-1e4, 1e4)
    if kind == "far from zero":
        return 1e3 + generator.standard_normal((n, d))
    if kind == "one and a crowd":  # all but one are copies of another
        return np.concatenate([np.zeros((1, d)), np.ones((n - 1, d))]) / np.sqrt(d)
    return np.sign(generator.standard_normal((n, d)))  # corners of a cube: many equal distances


KINDS = (
    "spectrum",
    "clusters",
    "duplicates",
    "heavy tails",
    "far from zero",
    "one and a crowd",
    "corners",
)


def queries(points: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Noisy points, midpoints, the points themselves and far ones, at noise levels from tiny to huge."""
    n, d = points.shape
    scale = np.sqrt(np.mean((points - points.mean(0)) ** 2)) + 1e-3
    sigma = scale * 10 ** generator.uniform(-3, 1.5, QUERIES)
    base = points[np.where(generator.random(QUERIES) < 0.3, 0, generator.integers(0, n, QUERIES))]
    other = points[generator.integers(0, n, QUERIES)]
    noise = sigma[:, None] * generator.standard_normal((QUERIES, d))
    which = generator.integers(0, 4, QUERIES)[:, None]
    far = base + 100 * scale * generator.standard_normal((QUERIES, d))
    u = np.select(
        [which == 0, which == 1, which == 2], [base + noise, 0.5 * (base + other), far], base
    )
    return u, sigma


def reference(points, u, sigma) -> np.ndarray:
    """Posterior means of the given numbers in extended precision, from differences to the nearest point."""
    points, u, sigma = (np.asarray(x).astype(np.longdouble) for x in (points, u, sigma))
    means = []
    for x, s in zip(u, sigma, strict=True):
        # Not from squares, whose rounding decides between two points that are as near.
        nearest = points[np.argmin(np.sum((x - points) ** 2, axis=1))]
        terms = ((x - points) + (x - nearest)) * (points - nearest)
        logits = np.sum(terms, axis=1) / (2 * s**2)
        weights = np.exp(logits - logits.max())
        means.append(weights @ points / weights.sum())
    return np.stack(means)


@functools.cache
def compiled(stage_index: int):
    if stage_index < 0:
        return jax.jit(_truncated._exactly)
    return jax.jit(
        lambda denoiser, u, sigma: denoiser._stages[stage_index].attempt(
            denoiser._truncation, u, sigma
        )[0]
    )


def every_stage(monkeypatch):
    monkeypatch.setattr(
        _truncated,
        "worth_entering",
        lambda of, stages, scale: np.ones((2, 19, len(stages)), bool),
    )


def check_certificates(seed: int, kind: str, n: int, d: int, dtype, screening=None) -> None:
    generator = np.random.default_rng(seed)
    points = jnp.asarray(data_set(kind, n, d, generator), dtype)
    denoiser = sj.TruncatedDenoiser(points, screening_dtype=screening)
    u, sigma = (jnp.asarray(x, dtype) for x in queries(np.asarray(points), generator))
    expected = reference(points, u, sigma)
    for stage in range(-1, len(denoiser._stages)):
        found = compiled(stage)(denoiser, u, sigma)
        error = np.linalg.norm((np.asarray(found.value) - expected).astype(np.float64), axis=1)
        bound = np.asarray(found.truncation, np.float64) + np.asarray(found.rounding, np.float64)
        worst = np.argmax(error - bound)
        assert np.all(error <= bound), (stage, kind, seed, error[worst], bound[worst])


SHAPES = [(130, 1), (3000, 6), (200, 200)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_certificates_hold(shape, dtype, monkeypatch):
    if dtype == np.float64 and not jax.config.jax_enable_x64:
        pytest.skip("needs float64")
    every_stage(monkeypatch)

    @settings(max_examples=7, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**31), st.sampled_from(KINDS))
    def run(seed, kind):
        check_certificates(seed, kind, *shape, dtype)

    run()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "screening"), [(np.float32, jnp.bfloat16), (np.float64, jnp.float32)]
)
def test_certificates_hold_with_narrow_screens(dtype, screening, monkeypatch, x64):
    every_stage(monkeypatch)
    for seed, kind in enumerate(KINDS[:3]):
        check_certificates(seed, kind, 300, 96, dtype, screening)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [*SHAPES, (1000, 3), (400, 784)])
def test_certificates_hold_in_ten_thousand_cases(shape, dtype, monkeypatch, x64):
    every_stage(monkeypatch)
    for seed in range(25):
        check_certificates(seed, KINDS[seed % len(KINDS)], *shape, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("narrow", [False, True])
def test_screens_bound_inner_products_from_above(dtype, narrow, monkeypatch):
    """Also where Cauchy and Schwarz are equalities, for multiples of the points: only the slack for rounding helps."""
    every_stage(monkeypatch)
    n, d = 150, 400
    points = data_set("far from zero", n, d, np.random.default_rng(0)).astype(dtype)
    screening = jnp.bfloat16 if narrow else dtype
    denoiser = sj.TruncatedDenoiser(points, screening_dtype=screening)
    centre = np.asarray(denoiser.exact._points.centre).astype(np.longdouble)
    screens = {id(s.screen): s.screen for s in denoiser._stages if s.screen is not None}.values()
    assert len(screens) == 4
    for screen, factor in [(s, f) for s in screens for f in (1.0, -3.0, 1e4, 1e-6)]:
        v = ((points.astype(np.longdouble) - centre) * factor).astype(dtype)
        bounds = np.asarray(screen.bounds(v))[:, :n]
        c = points.astype(np.longdouble) - centre
        exact = v.astype(np.longdouble) @ c.T - 0.5 * np.sum(c**2, axis=1)
        assert np.all(bounds >= exact)
        # And not by much, in directions that the screen keeps: what is added is rounding.
        tight = np.diagonal(bounds - exact) if factor > 0 else np.zeros(n)
        size = np.linalg.norm(v, axis=1) * np.linalg.norm(c, axis=1)
        # In float64 mostly of the screen's own construction.
        relative = 4 * np.sqrt(d) * (d + 100) * np.finfo(dtype).eps + 2e-10
        size = np.maximum(size, np.sum(c**2, axis=1))
        if narrow:  # rounding, its slack, and the square
            relative += 2.1 * float(jnp.finfo(jnp.bfloat16).eps) + 4 * d * np.finfo(np.float32).eps
        assert np.all(tight <= relative * size)


@pytest.fixture(scope="module")
def digits():
    return np.asarray(sj.datasets.digits().points)


@pytest.mark.exhaustive
def test_tolerance_is_kept_and_few_points_are_visited(x64):
    dtype = np.float64
    tolerance, generator, (n, d) = 1e-3, np.random.default_rng(0), (6000, 128)
    every = data_set("spectrum", n + 80, d, generator)
    points = jnp.asarray(every[:n], dtype)
    denoiser = sj.TruncatedDenoiser(points, tolerance)
    sigma = jnp.asarray(np.geomspace(1e-3, 10, 80), dtype)
    noise = jax.random.normal(jax.random.key(0), (80, d), dtype)
    u = jnp.asarray(every[n:], dtype) + sigma[:, None] * noise
    found = jax.vmap(denoiser.certified)(u, sigma)
    assert np.all(found.truncation <= tolerance)
    expected = reference(points, u, sigma).astype(np.float64)
    error = np.linalg.norm(np.asarray(found.value) - expected, axis=1)
    assert np.all(error <= np.asarray(found.truncation) + np.asarray(found.rounding))
    # Few where one point has all the weight, all where none can be left out; whatever the neighbours in the batch.
    visited = np.asarray(found.visited)
    assert np.all(visited[sigma < 0.02] < n / 50) and np.all(visited[sigma > 2] == n)
    assert np.all(np.asarray(found.truncation)[visited == n] == 0)
    for i in (0, 40, 79):
        alone = denoiser.certified(u[i], sigma[i])
        slack = 2 * (alone.rounding + alone.truncation)
        np.testing.assert_allclose(alone.value, found.value[i], atol=float(slack), rtol=0)
        assert alone.visited == visited[i]
    np.testing.assert_array_equal(jax.vmap(denoiser)(u, sigma), found.value)
    # Batches of batches.
    twice = jax.vmap(jax.vmap(denoiser))(u.reshape(2, 40, d), sigma.reshape(2, 40))
    np.testing.assert_array_equal(twice.reshape(80, d), found.value)


def test_derivatives_and_moments_are_those_of_the_exact_denoiser(digits, x64):
    points = jnp.asarray(digits[:300])
    denoiser, exact = sj.TruncatedDenoiser(points), sj.EmpiricalDenoiser(points)
    u, sigma = points[3] + 0.2, jnp.asarray(0.4)

    @eqx.filter_jit
    def numbers(d):
        slopes = [jax.jacfwd(d, argument)(u, sigma) for argument in (0, 1)]
        return slopes, jax.grad(lambda u: d(u, sigma) @ points[0])(u)

    (found, along), (expected, _) = numbers(denoiser), numbers(exact)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(along, np.asarray(expected[0]).T @ digits[0], atol=1e-13)
    for name in ("log_density", "posterior_variance", "posterior_covariance"):
        got, expected = (getattr(d, name)(u, sigma) for d in (denoiser, exact))
        np.testing.assert_array_equal(got, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "points",
    [
        np.array([[2.0, 3.0]]),
        np.full((500, 3), 7.0),
        np.linspace(-1, 1, 1000)[:, None],
        np.repeat(np.linspace(-1, 1, 50)[:, None], 20, axis=0),
    ],
    ids=["one point", "all equal", "a line", "copies"],
)
def test_few_points_copies_and_one_dimension(points, dtype):
    points = jnp.asarray(points, dtype)
    denoiser = sj.TruncatedDenoiser(points)
    sigma = jnp.asarray(np.geomspace(1e-3, 1e3, 20), dtype)
    u = points[-1:] + sigma[:, None]
    found = jax.vmap(denoiser.certified)(u, sigma)
    error = np.linalg.norm(
        np.asarray(found.value) - reference(points, u, sigma).astype(float), axis=1
    )
    assert np.all(error <= np.asarray(found.truncation) + np.asarray(found.rounding))
    assert np.all(found.truncation <= denoiser.tolerance)


@pytest.mark.exhaustive
def test_plans_change_no_value(digits, monkeypatch):
    points = jnp.asarray(digits[:600])
    u = points[:70] + 0.3 * jax.random.normal(jax.random.key(0), (70, 64), points.dtype)
    sigma = jnp.full(70, 0.3, points.dtype)
    planned = jax.vmap(sj.TruncatedDenoiser(points).certified)(u, sigma)
    every_stage(monkeypatch)
    tried = jax.vmap(sj.TruncatedDenoiser(points).certified)(u, sigma)
    slack = sum(x.truncation + x.rounding for x in (planned, tried))
    assert np.all(np.linalg.norm(planned.value - tried.value, axis=1) <= slack)


def test_compiled_once_and_products_at_highest_precision(digits):
    denoiser = sj.TruncatedDenoiser(jnp.asarray(digits, jnp.float32))
    u, sigma = jnp.ones((5, 64), jnp.float32), jnp.full(5, 0.1, jnp.float32)
    jaxpr = jax.make_jaxpr(lambda d, u, s: jax.vmap(d)(u, s))(denoiser, u, sigma)

    def products(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                yield equation
            for inner in jax.tree.leaves(
                list(equation.params.values()),
                is_leaf=lambda x: isinstance(
                    x, (jax.extend.core.Jaxpr, jax.extend.core.ClosedJaxpr)
                ),
            ):
                if isinstance(inner, jax.extend.core.ClosedJaxpr):
                    yield from products(inner.jaxpr)
                elif isinstance(inner, jax.extend.core.Jaxpr):
                    yield from products(inner)

    found = list(products(jaxpr.jaxpr))
    assert len(found) > 4
    highest = jax.lax.Precision.HIGHEST
    assert all(e.params["precision"] == (highest, highest) for e in found)


def test_bad_input():
    points = np.random.default_rng(0).standard_normal((200, 3))
    with pytest.raises(ValueError, match="`tolerance` must be positive"):
        sj.TruncatedDenoiser(points, 0.0)
    farthest = float(np.max(np.linalg.norm(points - points.mean(0), axis=1)))
    for meaningless in (1e30, 1.001 * farthest):
        with pytest.raises(
            ValueError, match=f"`tolerance` must lie below {farthest:.3g}, the distance"
        ):
            sj.TruncatedDenoiser(points, meaningless)
    assert float(sj.TruncatedDenoiser(points, 0.99 * farthest).tolerance) == pytest.approx(
        0.99 * farthest
    )
    # Of equal points nothing is left out, whatever the tolerance.
    equal = sj.TruncatedDenoiser(np.full((7, 3), 0.1, np.float32), 10.0)
    np.testing.assert_allclose(equal(points[0].astype(np.float32), 0.5), 0.1, rtol=1e-6)
    with pytest.raises(ValueError, match="`screening_dtype` must be one of bfloat16, float32"):
        sj.TruncatedDenoiser(points, screening_dtype=np.float16)
    with pytest.raises(ValueError, match="`screening_dtype` must be one of bfloat16, float32; got"):
        sj.TruncatedDenoiser(points.astype(np.float32), screening_dtype=np.float64)
    with pytest.raises(ValueError, match=r"`data` must have shape \(n, d\)"):
        sj.TruncatedDenoiser(points[0])
    with pytest.raises(ValueError, match=r"outside of jax\.jit"):
        jax.jit(lambda points: sj.TruncatedDenoiser(points)(points[0], 0.1))(points)
    denoiser = sj.TruncatedDenoiser(points)
    with pytest.raises(ValueError, match=r"`u` must have shape \(3,\)"):
        denoiser(np.zeros(2), 0.1)
    with pytest.raises(ValueError, match="`sigma` must be positive"):
        denoiser(np.zeros(3), 0.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_screens_built_together_bound_by_cauchy_and_schwarz(dtype, x64):
    """Each is the bound of its own directions, formed in float64, and no lower; what others have beyond counts as rest."""
    rng = np.random.default_rng(0)
    points = (rng.standard_normal((300, 96)) * np.linspace(2, 0.05, 96)).astype(dtype)
    centre = points.mean(0)
    basis = leading_directions(points, centre, 48)
    edges = [(8, 12, 16), (16, 32), (32, 48)]
    screens = _screen.build_screens(points, centre, basis, edges, 320, np.dtype(dtype))
    c = points.astype(np.float64) - centre.astype(np.float64)
    for edge, screen in zip(edges, screens, strict=True):
        for sigma in (0.0, 0.1, 10.0):
            v = (c + sigma * rng.standard_normal(c.shape)).astype(dtype)
            found = np.asarray(screen.bounds(jnp.asarray(v)), np.float64)[:, :300]
            parts = np.split(basis, edge, axis=1)
            rest = np.eye(96) - basis[:, : edge[-1]] @ basis[:, : edge[-1]].T
            expected = (v @ parts[0]) @ (c @ parts[0]).T - 0.5 * np.sum(c**2, 1)
            for block in [*parts[1:-1], rest]:
                expected += np.outer(*(np.linalg.norm(x @ block, axis=1) for x in (v, c)))
            size = np.outer(*(np.linalg.norm(x, axis=1) for x in (v, c)))
            assert np.all(found >= expected - 1e-12 * size)
            # Slack for rounding: a few hundred roundings, and the root of the basis' own.
            assert np.all(found <= expected + (2000 * np.finfo(dtype).eps + 1e-9) * (size + size.T))
