"""`replay`: which training point a noise ends on; and the grid that it steps through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax.denoisers._posterior.concentration import Concentration, barycentres, heaviest_point
from smoothjax.denoisers._truncated import truncated as _truncated
from smoothjax.denoisers._truncated.truncated import certified_batch, stays_on_point


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
    logits = -np.sum((u[..., None, :] - points) ** 2, axis=-1) / (2 * sigma**2)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def followed(points, u, start, end, steps=4000, moves=None):
    """The flow by the classical Runge-Kutta method in log sigma, in float64, and its denoiser's outputs.

    Of one start or of several, (..., d). With `moves`, of the denoiser averaged over these perturbations.
    """
    grid = np.linspace(np.log(start), np.log(end), steps + 1)
    h, outputs = grid[1] - grid[0], []
    moves = np.zeros((1, u.shape[-1])) if moves is None else moves
    # One product: |u|^2 is common to the logits of a query, and left out.
    half = 0.5 * np.sum(points**2, axis=1)

    def denoised(u, sigma):
        logits = ((u[..., None, :] + moves) @ points.T - half) / sigma**2
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return np.mean(weights @ points / weights.sum(-1, keepdims=True), axis=-2)

    velocity = lambda u, t: u - denoised(u, np.exp(t))  # noqa: E731
    for t in grid[:-1]:
        a = velocity(u, t)
        b = velocity(u + h / 2 * a, t + h / 2)
        c = velocity(u + h / 2 * b, t + h / 2)
        d = velocity(u + h * c, t + h)
        u = u + h / 6 * (a + 2 * b + 2 * c + d)
        outputs.append(denoised(u, np.exp(t + h)))
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


@pytest.mark.parametrize("of", ["float32", "float64"])
def test_concentration_from_all_products_bounds_all_other_weights(images, of, x64):
    """Whether or not it could serve the proof; in float64 nearly as tight as can be."""
    points, rng = images.astype(of), np.random.default_rng(1)
    exact = points.astype(np.float64)
    for sigma in (0.05, 0.2, 0.4, 0.6, 5.0):
        u = (points[rng.integers(0, 400, 40)] + sigma * rng.standard_normal((40, 96))).astype(of)
        found = heaviest_point(sj.EmpiricalDenoiser(points)._points, jnp.asarray(u), sigma)
        for query, row, others, gap in zip(u, *map(np.asarray, found), strict=True):
            weights = weights_at(exact, query.astype(np.float64), sigma)
            relative = np.delete(weights, row) / weights[row]
            assert relative.sum() <= others
            assert relative.max() <= np.exp(-gap) + 1e-30
            if of == "float64":
                assert row == np.argmax(weights) and others <= 1.02 * relative.sum() + 1e-290
                assert gap >= -0.998 * np.log(max(relative.max(), 1e-290)) - 1e-6


def test_replay_of_a_small_set_settles_where_the_flow_ends(images, x64):
    """Small sets have no screens: the products with all points must serve the proof."""
    D, key = sj.TruncatedDenoiser(images), jax.random.key(7)
    assert not D._stages
    levels = sj.log_uniform_grid(60, 40.0, 0.002)
    found = sj.replay(D, key, 8, levels=levels)
    noise = np.asarray(sj.initial_noise(key, 8, 96, dtype=np.float64))
    ends = followed(images, 40 * noise, 40.0, 0.02, 1000)[1][-1]
    for end, point, row, settled in zip(ends, *map(np.asarray, found[:3]), strict=True):
        assert np.linalg.norm(end - images[row]) < 1e-6
        np.testing.assert_array_equal(point, images[row])
        assert settled > 0.05
    assert np.all(found.evaluations < 50)


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
        if not bool(stays_on_point(D, found, jnp.asarray(sigma), jnp.asarray(0.01))[0]):
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
    ends = followed(images, 80 * noise, 80.0, 0.02, 2000)[1][-1]
    for end, point, row, settled in zip(ends, *map(np.asarray, found[:3]), strict=True):
        assert np.linalg.norm(end - images[row]) < 1e-6
        np.testing.assert_array_equal(point, images[row].astype(dtype))
        assert settled > 0.05
    assert np.all(found.evaluations < 60)
    # Whatever the batches, and for more samples.
    again = sj.replay(D, key, 14, levels=sj.adapted_grid(D.exact, key, 60, 80.0, 0.002))
    np.testing.assert_array_equal(again.rows[:12], found.rows)


def smoothed(dtype, seed=4):
    """Few points near a curve in the plane, and perturbations so wide that barycentres have several of them."""
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 5, 25)
    points = angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    points += 0.1 * rng.standard_normal(points.shape)
    return sj.GaussianSmoothedDenoiser(points.astype(dtype), 0.6, 6, jax.random.key(seed))


def test_what_stays_is_a_barycentre_where_the_flow_ends(x64):
    """States near where points still compete, followed in float64: outputs within the bound, in the end there."""
    D = smoothed(np.float64)
    set_ = D.base._points
    points, moves = np.asarray(D.base.data), np.asarray(D.smoothing * D.perturbations)
    along = jnp.asarray((points - np.asarray(set_.centre)) @ moves.T)
    diameter = 2 * float(set_.radius)
    compiled, at_zero = jax.jit(barycentres), jax.jit(lambda u: D.barycentre(u))
    rng, claims, refusals, mixed = np.random.default_rng(5), 0, 0, 0
    for k in range(80):
        sigma = 0.02 * 1.04**k
        u = points[rng.integers(25)] + sigma * rng.standard_normal(2)
        if k % 2:
            # Near the end of a flow, where barycentres of several points are.
            u = followed(points, u, 2.0, sigma, 60, moves)[1][-1] + sigma * rng.standard_normal(2)
        found = compiled(set_, jnp.asarray(moves), along, jnp.asarray(u)[None], sigma, 1e-4)
        expected, rows = at_zero(u)
        np.testing.assert_array_equal(found.rows[0], rows)
        np.testing.assert_allclose(found.point[0], expected, atol=1e-14)
        if not bool(found.stays[0]):
            refusals += 1
            continue
        claims += 1
        mixed += len(set(np.asarray(rows).tolist())) > 1
        levels, outputs = followed(points, u, sigma, sigma / 30, 300, moves)
        weights = weights_at(points, u + moves, sigma)
        relative = weights / weights[np.arange(6), rows][:, None]
        relative[np.arange(6), rows] = 0
        falls = np.exp((sigma / levels - 1)[:, None] * np.log(np.maximum(relative.max(1), 1e-300)))
        bound = diameter * np.mean(relative.sum(1) * falls, axis=1)
        moved = np.linalg.norm(np.asarray(outputs) - np.asarray(expected), axis=1)
        assert np.all(moved <= bound * (1 + 1e-9) + 1e-12), (k, sigma)
        # A flow that stops soon may stop before it is there.
        soon = compiled(set_, jnp.asarray(moves), along, jnp.asarray(u)[None], sigma, 0.7 * sigma)
        assert not bool(soon.stays[0]) or moved[levels < 0.7 * sigma][0] < 1e-12
    assert claims >= 15 and refusals >= 15 and mixed >= 5, (claims, refusals, mixed)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_replay_of_a_smoothing_ends_where_its_flow_does(dtype, x64):
    D, key = smoothed(dtype), jax.random.key(6)
    found = sj.replay(D, key, 20, levels=sj.log_uniform_grid(400, 40.0, 0.002), batch_size=7)
    points, moves = (np.asarray(x, np.float64) for x in (D.base.data, D.perturbations))
    noise = np.asarray(sj.initial_noise(key, 20, 2, dtype=dtype), np.float64)
    seen = 0
    ends = followed(points, 40 * noise, 40.0, 0.002, 2000, 0.6 * moves)[1][-1]
    for end, point, rows, settled in zip(ends, *map(np.asarray, found[:3]), strict=True):
        # The integrator errs by less than what any barycentre differs by; some still go from one to the next.
        np.testing.assert_allclose(point, end, atol=1e-6 if settled > 0.005 else 0.02)
        if settled > 0:
            seen += 1
            np.testing.assert_allclose(point, points[rows].mean(0), atol=1e-6)
            np.testing.assert_array_equal(D.barycentre(jnp.asarray(point))[1], rows)
        else:
            assert np.all(rows == -1)
    assert seen >= 12
    evaluations = np.asarray(found.evaluations)
    assert np.all((evaluations < 400) == (np.asarray(found.settled) > 0.002))
    assert np.any(np.ptp(found.rows, axis=1) > 0)


@pytest.mark.usefixtures("mixed_dtypes")
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


def test_smoothings_that_settle_at_once_or_never():
    key = jax.random.key(0)
    one = sj.GaussianSmoothedDenoiser(np.ones((1, 3), np.float32), 0.5, 4, key)
    found = sj.replay(one, key, 5, levels=[80.0, 1.0, 0.5, 0.002])
    np.testing.assert_array_equal(found.points, 1)
    np.testing.assert_array_equal(found.rows, 0)
    assert np.all(found.settled > 0.002)
    twice = sj.GaussianSmoothedDenoiser(np.ones((2, 3), np.float32), 0.5, 4, key)
    found = sj.replay(twice, key, 5, levels=[80.0, 1.0, 0.5, 0.002])
    np.testing.assert_array_equal(found.points, 1)
    np.testing.assert_array_equal(found.rows, -1)
    np.testing.assert_array_equal(found.settled, 0)


def test_replay_bad_input():
    D, key = sj.TruncatedDenoiser(np.zeros((3, 2), np.float32)), jax.random.key(0)
    of_gaussian = sj.GaussianSmoothedDenoiser(sj.GaussianDenoiser.fit(np.eye(3)), 0.5, 2, key)
    weighted = sj.EmpiricalDenoiser(np.eye(3, dtype=np.float32), weights=np.array([1.0, 2.0, 1.0]))
    weighted = sj.GaussianSmoothedDenoiser(weighted, 0.5, 2, key)
    for match, call in (
        ("must be a TruncatedDenoiser", lambda: sj.replay(D.exact, key, 2)),
        ("got one of GaussianDenoiser", lambda: sj.replay(of_gaussian, key, 2)),
        ("without weights; got weights", lambda: sj.replay(weighted, key, 2)),
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


@pytest.mark.usefixtures("mixed_dtypes")
def test_adapted_grid_of_what_never_bends():
    D = sj.EmpiricalDenoiser(np.ones((1, 2), np.float32))
    levels = sj.adapted_grid(D, jax.random.key(0), 9, 80.0, 0.002)
    np.testing.assert_allclose(levels, sj.log_uniform_grid(9, 80.0, 0.002), rtol=1e-5)


def test_default_levels_of_float32_data_in_64_bit_mode(x64):
    """Nothing is left to JAX's promotion, which the tests forbid."""
    data = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
    found = sj.replay(sj.TruncatedDenoiser(data), jax.random.key(0), 4)
    assert found.points.dtype == np.float32
    np.testing.assert_array_equal(found.points, data[found.rows])
