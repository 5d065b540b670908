"""`replay`: which training point a noise ends on; and the grid that it steps through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax.denoisers import _truncated
from smoothjax.denoisers._certified import Concentration
from smoothjax.denoisers._truncated import certified_batch
from smoothjax.flows._replay import _stays


@pytest.fixture(scope="module")
def images():
    """Points near a low-dimensional set in many dimensions, as images are, a few of them near others."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((400, 12)) @ rng.standard_normal((12, 96)) / 4
    points += 0.1 * rng.standard_normal(points.shape)
    points[200:210] = points[:10] + 0.3 * rng.standard_normal((10, 96))
    return points


def every_stage(of, stages, scale):
    """Every stage is tried, whether or not it pays."""
    return np.ones((2, len(_truncated.PROBED_LEVELS), len(stages)), bool)


def weights_at(points, u, sigma):
    logits = -np.sum((u - points) ** 2, axis=1) / (2 * sigma**2)
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def followed(points, u, start, end, steps=4000):
    """The flow by the classical Runge-Kutta method in log sigma, in float64, and its denoiser's outputs."""
    grid = np.linspace(np.log(start), np.log(end), steps + 1)
    h, outputs = grid[1] - grid[0], []
    velocity = lambda u, t: u - weights_at(points, u, np.exp(t)) @ points  # noqa: E731
    for t in grid[:-1]:
        a = velocity(u, t)
        b = velocity(u + h / 2 * a, t + h / 2)
        c = velocity(u + h / 2 * b, t + h / 2)
        d = velocity(u + h * c, t + h)
        u = u + h / 6 * (a + 2 * b + 2 * c + d)
        outputs.append(weights_at(points, u, np.exp(t + h)) @ points)
    return np.exp(grid[1:]), np.array(outputs)


LONG = pytest.mark.exhaustive


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=LONG)])
def test_concentration_bounds_all_other_weights(images, dtype, monkeypatch, x64):
    monkeypatch.setattr(_truncated, "worth_entering", every_stage)
    D = sj.TruncatedDenoiser(images.astype(dtype))
    rng, seen, compiled = np.random.default_rng(1), 0, jax.jit(certified_batch)
    for sigma in (0.05, 0.2, 0.4, 0.6):
        rows = rng.integers(0, 400, 40)
        u = (images[rows] + sigma * rng.standard_normal((40, 96))).astype(dtype)
        _, found = compiled(D, jnp.asarray(u), jnp.full(40, sigma, dtype), jnp.ones(40, bool))
        for query, row, others, gap in zip(u, *map(np.asarray, found), strict=True):
            if row >= 0:
                weights = weights_at(images.astype(dtype).astype(np.float64), query, sigma)
                relative = np.delete(weights, row) / weights[row]
                assert relative.sum() <= others
                # In float32 the sum of terms below the smallest number is bounded by it.
                assert relative.max() <= np.exp(-gap) + 1e-30
                seen += 1
    assert seen >= 40


def test_what_stays_is_where_the_flow_ends(images, x64):
    """States at which points still compete, near the boundary of what is claimed."""
    D = sj.TruncatedDenoiser(images)
    rng, claims, refusals = np.random.default_rng(2), 0, 0
    reach = 2 * float(D._farthest)
    for k in range(24):
        sigma = 0.35 + 0.04 * k
        row = 200 + k % 10
        u = images[row] + sigma * rng.standard_normal(96)
        weights = weights_at(images, u, sigma)
        best = np.argmax(weights)
        relative = np.delete(weights, best) / weights[best]
        others, gap = relative.sum(), -np.log(relative.max())
        found = Concentration(*map(jnp.asarray, ([best], [others], [gap])))
        if not bool(_stays(D, found, jnp.asarray(sigma), jnp.asarray(0.01))[0]):
            refusals += 1
            continue
        claims += 1
        levels, outputs = followed(images, u, sigma, 0.01, 1000)
        moved = np.linalg.norm(outputs - images[best], axis=1)
        bound = 2 * reach * others * np.exp(-(sigma / levels - 1) * gap)
        assert np.all(moved <= bound * (1 + 1e-9) + 1e-9), (sigma, best)
    assert claims >= 5 and refusals >= 3


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=LONG), "float64"])
def test_replay_ends_where_the_flow_does(images, dtype, monkeypatch, x64):
    monkeypatch.setattr(_truncated, "worth_entering", every_stage)
    D = sj.TruncatedDenoiser(images.astype(dtype))
    key = jax.random.key(3)
    found = sj.replay(
        D, key, 12, levels=sj.adapted_grid(D.exact, key, 60, 80.0, 0.002), batch_size=5
    )
    noise = np.asarray(sj.initial_noise(key, 12, 96, dtype=dtype), np.float64)
    for z, point, row, settled in zip(noise, *map(np.asarray, found[:3]), strict=True):
        _, outputs = followed(images, 80 * z, 80.0, 0.02, 2000)
        assert np.linalg.norm(outputs[-1] - images[row]) < 1e-6
        np.testing.assert_array_equal(point, images[row].astype(dtype))
        assert settled > 0.05
    assert np.all(found.evaluations < 60)
    # Whatever the batches, and for more samples.
    again = sj.replay(D, key, 14, levels=sj.adapted_grid(D.exact, key, 60, 80.0, 0.002))
    np.testing.assert_array_equal(again.rows[:12], found.rows)


def test_sets_that_never_settle():
    key = jax.random.key(0)
    few = sj.TruncatedDenoiser(np.array([[-1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], np.float32))
    found = sj.replay(few, key, 20)
    np.testing.assert_array_equal(np.abs(found.points[:, 0]), 1)
    np.testing.assert_array_equal(np.where(found.points[:, 0] < 0, 0, 1), found.rows)
    one = sj.TruncatedDenoiser(np.ones((1, 3), np.float32))
    np.testing.assert_array_equal(sj.replay(one, key, 4).points, 1)
    # Stopped where the points are still mixed.
    early = sj.replay(few, key, 4, levels=[80.0, 20.0, 5.0])
    np.testing.assert_array_equal(early.rows, -1)
    np.testing.assert_array_equal(early.settled, 0)
    np.testing.assert_array_equal(early.evaluations, 4)


def test_replay_bad_input():
    D, key = sj.TruncatedDenoiser(np.zeros((3, 2), np.float32)), jax.random.key(0)
    for match, call in (
        ("must be a TruncatedDenoiser", lambda: sj.replay(D.exact, key, 2)),
        ("`num_samples`", lambda: sj.replay(D, key, 0)),
        ("`batch_size`", lambda: sj.replay(D, key, 2, batch_size=0)),
        ("must decrease to a positive", lambda: sj.replay(D, key, 2, levels=[1.0, 2.0])),
        ("must decrease to a positive", lambda: sj.replay(D, key, 2, levels=[2.0, 0.0])),
        ("strictly monotone", lambda: sj.replay(D, key, 2, levels=[2.0, 2.0])),
        ("`dim`", lambda: sj.adapted_grid(lambda u, sigma: u, key, 5)),
        ("at least 2", lambda: sj.adapted_grid(D, key, 1)),
        ("sigma_min", lambda: sj.adapted_grid(D, key, 5, 1.0, 2.0)),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_adapted_grid_of_a_gaussian():
    """A standard normal in one dimension: along its flow D is proportional to 1 / sqrt(1 + sigma^2), whose bend is known."""
    D = sj.GaussianDenoiser(jnp.zeros(1), jnp.ones((1, 1)))
    levels = np.asarray(sj.adapted_grid(D, jax.random.key(0), 33, 100.0, 0.01), np.float64)
    assert levels[0] == 100 and abs(levels[-1] / 0.01 - 1) < 1e-6
    fine = np.exp(np.linspace(np.log(100), np.log(0.01), 4001))
    # D = u / (1 + s^2), u along the flow in proportion to sqrt(1 + s^2); twice s d/ds.
    bend = np.abs(fine**2 * (fine**2 - 2)) / (1 + fine**2) ** 2.5
    density = np.cbrt(bend / fine)
    density = np.maximum(density, 0.05 * density.max())
    step = -np.diff(np.log(fine))
    shares = np.append(0, np.cumsum(0.5 * (density[1:] + density[:-1]) * step))
    expected = np.exp(np.interp(np.linspace(0, shares[-1], 33), shares, np.log(fine)))
    # The pilots' steps are 0.29 wide in log sigma; a share of the levels moves by less than half of one.
    assert np.max(np.abs(np.log(levels / expected))) < 0.15
    assert np.all(np.diff(levels) < 0)


def test_adapted_grid_of_what_never_bends():
    D = sj.EmpiricalDenoiser(np.ones((1, 2), np.float32))
    levels = sj.adapted_grid(D, jax.random.key(0), 9, 80.0, 0.002)
    np.testing.assert_allclose(levels, sj.log_uniform_grid(9, 80.0, 0.002), rtol=1e-5)
