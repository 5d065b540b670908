"""Posterior means of a group of queries from the points that matter to any of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_truncated import reference

import smoothjax as sj
from smoothjax.denoisers._truncated import shared_candidates as _shared_candidates
from smoothjax.denoisers._truncated.shared_candidates import shared_candidates

N, D = 1500, 40


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, D)) / np.sqrt(1 + np.arange(D))


def exact_bounds(points, u, slack):
    """Upper bounds of `v . c - |c|^2 / 2`: the exact values and up to `slack` more, in no order."""
    centre = points.mean(axis=0)
    v, c = u - centre, points - centre
    above = slack * np.random.default_rng(1).uniform(size=(len(u), len(points)))
    return v @ c.T - 0.5 * np.sum(c**2, axis=1) + above


@pytest.mark.parametrize("sigma", [0.1, 0.2])
@pytest.mark.parametrize("block", [16, 512])
def test_means_weights_and_visits(points, sigma, block, dtype, monkeypatch):
    monkeypatch.setattr(_shared_candidates, "BLOCK", block)
    points = points.astype(dtype)
    denoiser = sj.TruncatedDenoiser(points, 1e-3)
    rng, num = np.random.default_rng(2), 7
    rows = np.linspace(0, N - 1, num).astype(int)  # the first and the last block
    u = (points[rows] + sigma * rng.standard_normal((num, D))).astype(dtype)
    u[-1] = points[-1]
    u[1:3] = 0.49 * points[rows[1:3]] + 0.51 * points[-2]  # two compete, of different blocks
    u[3] = 0.51 * points[3] + 0.49 * points[-3]
    level = np.full(num, sigma, dtype)
    slack = 0.1 * sigma**2
    bounds = exact_bounds(points.astype(np.float64), u.astype(np.float64), slack)
    bounds = (bounds + 1e-4 * slack).astype(dtype)
    set_ = denoiser.exact._points
    found, concentration = jax.jit(shared_candidates)(
        set_, denoiser._farthest, denoiser.tolerance, bounds, u, level
    )
    expected = reference(points, u, level).astype(np.float64)
    error = np.linalg.norm(np.asarray(found.value, np.float64) - expected, axis=1)
    assert np.all(found.truncation <= denoiser.tolerance)
    assert np.all(error <= np.asarray(found.truncation) + np.asarray(found.rounding))
    if dtype == np.float64:
        assert np.all(np.asarray(found.rounding) < 1e-6)

    exact = exact_bounds(points.astype(np.float64), u.astype(np.float64), 0.0) / sigma**2
    relative = exact - exact.max(axis=1, keepdims=True)
    weights = np.exp(relative)
    np.testing.assert_array_equal(concentration.row, np.argmax(exact, axis=1))
    others = weights.sum(axis=1) - 1
    assert np.all(others <= np.asarray(concentration.others))
    second = np.sort(relative, axis=1)[:, -2]
    assert np.all(-second >= np.asarray(concentration.gap) - 1e-9)
    # And not by much: what is left out, the doubt of logits, and what is taken off for good measure.
    left = float(denoiser.tolerance) / (2.1 * float(denoiser._farthest))
    reach = float(set_.radius) * (np.linalg.norm(u - np.asarray(set_.centre), axis=1).max() + 10)
    doubt = 0.51 * (D + 8) * np.finfo(dtype).eps * reach / sigma**2
    assert np.all(concentration.others <= 1.02 * np.exp(2 * doubt) * others + 1.03 * left)
    known = np.minimum(-second - 4 * doubt, np.log(N / left))
    assert np.all(concentration.gap >= 0.99 * known - 0.02)

    # Visited: all within the margin of the largest for some query; none that is farther, slack and a worse anchor allowed.
    margin = np.log(N / left)
    assert np.sum(np.any(relative > -margin, axis=0)) <= int(found.visited[0])
    most = np.sum(np.any(relative > -1.001 * margin - 0.5, axis=0))
    assert int(found.visited[0]) <= most < N / 4


def test_gives_up_where_many_points_matter(points):
    denoiser = sj.TruncatedDenoiser(points.astype(np.float32))
    u, sigma = points[:3].astype(np.float32), np.full(3, 5.0, np.float32)
    bounds = exact_bounds(points, u, 1.0).astype(np.float32)
    found, _ = jax.jit(shared_candidates)(
        denoiser.exact._points, denoiser._farthest, denoiser.tolerance, bounds, u, sigma
    )
    assert np.all(np.isinf(found.truncation))


def test_bounds_of_a_pair_hold(dtype):
    """Where a product cancels: long vectors that are nearly orthogonal, or nearly equal."""
    rng = np.random.default_rng(3)
    v, c = (1e3 * rng.standard_normal((200, D)).astype(dtype) for _ in range(2))
    v[:100] = c[:100] + rng.standard_normal((100, D)).astype(dtype)
    found = np.asarray(_shared_candidates.log_weight_from_below(jnp.asarray(v), jnp.asarray(c)))
    v, c = v.astype(np.longdouble), c.astype(np.longdouble)
    exact = np.sum(v * c, axis=1) - 0.5 * np.sum(c**2, axis=1)
    assert np.all(found <= exact)
    size = np.linalg.norm(v, axis=1) * np.linalg.norm(c, axis=1) + np.sum(c**2, axis=1)
    assert np.all(exact - found <= 4 * (D + 8) * np.finfo(dtype).eps * size)
