"""Certificates of rounding on sets that are hard for it: never exceeded, and not much too large."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax.denoisers._truncated import candidates as _candidates
from smoothjax.denoisers._truncated import truncated as _truncated

QUERIES = 32


def data_set(kind: str, n: int, d: int, generator: np.random.Generator) -> np.ndarray:
    x = generator.standard_normal((n, d))
    if kind == "isolated clusters":
        num = max(n // 50, 2)
        return x + 1e4 * generator.standard_normal((num, d))[np.arange(n) % num]
    if kind in ("duplicates", "near-duplicates"):
        few = x[generator.integers(0, n // 8, n)]
        return few if kind == "duplicates" else few + 1e-5 * x
    if kind == "one far away":
        x[-1] *= 1e6
    if kind == "a line":
        return np.outer(x[:, 0], np.ones(d) / np.sqrt(d))
    return x + 1e5 * (kind == "far from zero")


KINDS = (
    "isolated clusters",
    "duplicates",
    "near-duplicates",
    "one far away",
    "a line",
    "far from zero",
    "a cloud",
)


def queries(points: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Noisy points, midpoints and points, at noise levels from 1e-4 to 1e3 of the spread of most points."""
    n, d = points.shape
    apart = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    sigma = (np.median(apart) / np.sqrt(d)) * 10 ** generator.uniform(-4, 3, QUERIES)
    base, other = (points[generator.integers(0, n, QUERIES)] for _ in range(2))
    noisy = base + sigma[:, None] * generator.standard_normal((QUERIES, d))
    which = generator.integers(0, 4, QUERIES)[:, None]
    return np.select([which <= 1, which == 2], [noisy, 0.5 * (base + other)], base), sigma


def reference(points, u, sigma, centre) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means in extended precision, and what a rounding of the arguments and of the result does to them.

    The latter: a rounding of the result, of the centre, of the points' distances from it where they have weight, and of the
    query, whose effect is the posterior covariance over the squared noise level, or at most the points' spread.
    """
    points, u, sigma, centre = (
        np.asarray(x).astype(np.longdouble) for x in (points, u, sigma, centre)
    )
    means, roundings = [], []
    for x, s in zip(u, sigma, strict=True):
        nearest = points[np.argmin(np.sum((x - points) ** 2, axis=1))]
        # Not from squares, whose rounding decides between two points that are as near.
        logits = np.sum(((x - points) + (x - nearest)) * (points - nearest), axis=1) / (2 * s**2)
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        mean = weights @ points
        variance = weights @ np.sum((points - mean) ** 2, axis=1)
        size = np.sqrt(weights @ np.sum((points - centre) ** 2, axis=1))
        moved = np.minimum(np.linalg.norm(x - centre) * variance / s**2, np.sqrt(variance))
        means.append(mean)
        roundings.append(np.maximum(np.linalg.norm(mean), np.linalg.norm(centre)) + size + moved)
    return np.stack(means), np.array(roundings, float)


def without_tree(points):
    whole = sj.TruncatedDenoiser(points)
    return eqx.tree_at(lambda d: d._tree, whole, None, is_leaf=lambda x: x is None)


@functools.cache
def compiled():
    return jax.jit(
        lambda denoiser, u, sigma: jax.vmap(denoiser.certified)(u, sigma),
    )


def allowed(kind: str, n: int, d: int) -> float:
    """How much too large a bound may be: a thousand times, and more where rounding errors cancel.

    The bounds hold for all orders of summation. Errors of a sum over n points are n roundings at worst, of random signs
    about the root of that, and fewer still in a sum by blocks. Those of a product of d terms likewise; among points that
    nearly tie, the largest product's bound stands for all.
    """
    return 1000 + n + 60 * d


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "shape", [(40, 1), (2000, 3), pytest.param((300, 784), marks=pytest.mark.exhaustive)]
)
def test_sums_over_all_points(kind, shape, dtype):
    generator = np.random.default_rng(KINDS.index(kind))
    points = data_set(kind, *shape, generator).astype(dtype)
    # Without the tree that few dimensions have: the sums over all points.
    denoiser = without_tree(points)
    u, sigma = (x.astype(dtype) for x in queries(points.astype(float), generator))
    found = compiled()(denoiser, u, sigma)
    centre = denoiser.exact._points.centre
    expected, unavoidable = reference(points, u, sigma, centre)
    unavoidable *= np.finfo(dtype).eps
    error = np.linalg.norm((np.asarray(found.value) - expected).astype(float), axis=1)
    bound = np.asarray(found.rounding, float)
    assert np.all(found.truncation == 0)
    assert np.all(error <= bound)
    ratio = bound / np.maximum(error, unavoidable)
    assert np.max(ratio) < allowed(kind, *shape), (np.max(ratio), sigma[np.argmax(ratio)])
    assert np.median(ratio) < 1000


@pytest.mark.parametrize("num", [100, 700])
def test_sums_do_not_gather_roundings_of_the_anchor(num, dtype):
    """A point with nearly all weight, and many others whose sum is far below it, each an addition."""
    generator = np.random.default_rng(0)
    points = data_set("one far away", num, 30, generator).astype(dtype)
    denoiser = sj.TruncatedDenoiser(points)
    set_ = denoiser.exact._points
    sigma = np.geomspace(0.8, 2, QUERIES).astype(dtype)
    noise = 0.5 * generator.standard_normal((QUERIES, 30))
    u = (points[:QUERIES] + sigma[:, None] * noise).astype(dtype)
    rows = jnp.arange(num)
    weigh = jax.jit(lambda u, s: _candidates.weigh(set_, u, s, rows, precise=True))
    found = jax.lax.map(lambda x: weigh(*x), (jnp.asarray(u), jnp.asarray(sigma)))
    expected, _ = reference(points, u, sigma, set_.centre)
    error = np.linalg.norm((np.asarray(found.mean) - expected).astype(float), axis=1)
    assert np.all(error <= np.asarray(found.rounding))


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_tree(kind, dtype):
    """Those of the tree are bounded as the sums over all points are, which take its place where its own are worse."""
    generator = np.random.default_rng(KINDS.index(kind))
    shape = _truncated.TREE_POINTS, 2
    points = data_set(kind, *shape, generator).astype(dtype)
    denoiser = sj.TruncatedDenoiser(points)
    assert denoiser._tree is not None
    u, sigma = (x.astype(dtype) for x in queries(points.astype(float), generator))
    found = compiled()(denoiser, u, sigma)
    expected, unavoidable = reference(points, u, sigma, denoiser.exact._points.centre)
    unavoidable *= np.finfo(dtype).eps
    error = np.linalg.norm((np.asarray(found.value) - expected).astype(float), axis=1)
    truncation, bound = (np.asarray(x, float) for x in (found.truncation, found.rounding))
    assert np.all(error <= truncation + bound)
    ratio = bound / np.maximum(error - truncation, unavoidable)
    assert np.max(ratio) < allowed(kind, *shape), (np.max(ratio), sigma[np.argmax(ratio)])


def test_of_a_tree_far_from_all_points(dtype, monkeypatch):
    """Where the farthest of two places, with all points but one, is certain, and a worst case over a whole tree is not."""
    monkeypatch.setattr(_truncated, "TREE_POINTS", 1000)
    generator, d = np.random.default_rng(0), 2
    points = np.concatenate([np.zeros((1, d)), np.ones((1999, d))]).astype(dtype)
    denoiser = sj.TruncatedDenoiser(points, tolerance=0.1)
    assert denoiser._tree is not None
    sigma = np.geomspace(1e-3, 0.05, QUERIES).astype(dtype)
    u = (1 + generator.uniform(1, 100, (QUERIES, d))).astype(dtype)
    found = compiled()(denoiser, u, sigma)
    bound = np.asarray(found.rounding + found.truncation, float)
    # The other's weight is below exp(-1e5).
    error = np.linalg.norm(np.asarray(found.value, float) - 1, axis=1)
    assert np.all(error <= bound)
    assert np.all(bound <= 1e4 * np.finfo(dtype).eps)
