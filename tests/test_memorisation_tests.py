"""Tests of memorisation: p-values that are uniform where nothing was memorised, and small where it was."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import smoothjax as sj


def test_the_rank_test_counts_pairs_and_arrangements():
    first, second = np.array([0.3, 1.0, 2.5]), np.array([0.7, 1.5, 3.0, 4.0])
    below = np.mean([(a < b) + 0.5 * (a == b) for a, b in itertools.product(first, second)])
    pooled = np.concatenate([first, second])
    counts = []
    for chosen in itertools.combinations(range(7), 3):
        rest = [pooled[i] for i in range(7) if i not in chosen]
        counts.append(np.mean([a < b for a, b in itertools.product(pooled[list(chosen)], rest)]))
    found = sj.measures.rank_test(jnp.asarray(first), jnp.asarray(second))
    assert float(found.share_below.value) == pytest.approx(below, rel=1e-6)
    assert float(found.p_value) == pytest.approx(np.mean(np.array(counts) >= below), rel=1e-6)


def test_the_share_s_error_is_its_scatter():
    rng = np.random.default_rng(0)
    shares, errors = [], []
    for _ in range(300):
        found = sj.measures.rank_test(
            jnp.asarray(rng.normal(size=30) - 1), jnp.asarray(rng.normal(size=50))
        )
        shares.append(float(found.share_below.value))
        errors.append(float(found.share_below.standard_error))
    assert np.mean(shares) == pytest.approx(
        stats.norm.cdf(np.sqrt(0.5)), abs=4 * np.std(shares) / 300**0.5
    )
    # A standard deviation of 300 values is known to 4 %.
    assert np.mean(np.square(errors)) ** 0.5 == pytest.approx(np.std(shares), rel=0.17)


def test_equal_values_say_nothing():
    found = sj.measures.rank_test(jnp.ones(4), jnp.ones(6))
    assert float(found.p_value) == 1 and float(found.share_below.value) == 0.5


def _is_uniform(p_values):
    """Kolmogorov and Smirnov's distance within its 99.9 % point, a test's size among 300 within four standard errors."""
    p_values = np.asarray(p_values)
    distance = stats.kstest(p_values, "uniform").statistic
    size = np.mean(p_values < 0.05)
    return (
        distance < 1.95 / len(p_values) ** 0.5
        and abs(size - 0.05) < 4 * (0.05 * 0.95 / len(p_values)) ** 0.5
    )


def test_copying_is_uniform_for_fresh_points_and_finds_copies():
    rng, p_values = np.random.default_rng(1), []
    for _ in range(300):
        points = np.exp(rng.normal(size=(140, 3)))  # of heavy tails, so that points are isolated
        samples, train, held_out = points[:40], points[40:100], points[100:]
        p_values.append(float(sj.measures.copying_test(samples, train, held_out).p_value))
    assert _is_uniform(p_values)
    near = train[:40] + 0.05 * (samples - train[:40])
    found = sj.measures.copying_test(near, train, held_out)
    assert float(found.p_value) < 1e-3 and float(found.share_below.value) > 0.7
    far = sj.measures.copying_test(10 * samples, train, held_out)
    assert float(far.p_value) > 0.999


def test_dimensions_are_uniform_for_a_denoiser_of_other_points_and_find_what_was_memorised():
    rng, level = np.random.default_rng(2), 0.3
    other = sj.EmpiricalDenoiser(jnp.asarray(rng.normal(size=(30, 3))))

    def test(train, held_out, **options):
        return sj.regimes.dimension_test(other, train, held_out, level, **options)

    found = [test(rng.normal(size=(20, 3)), rng.normal(size=(40, 3))) for _ in range(300)]
    assert _is_uniform([float(x.test.p_value) for x in found])
    # Conformal: a share of at most alpha lies below alpha, here in steps of 1 / 41.
    single = np.concatenate([x.p_values for x in found])
    for alpha in (2 / 41, 10 / 41):
        # The 20 of a draw share its held-out points: their scatter is that of a beta variable.
        error = np.sqrt(alpha * (1 - alpha) / 41 / 300 + alpha / 6000)
        assert abs(np.mean(single <= alpha + 1e-6) - alpha) < 4 * error
    train, held_out = rng.normal(size=(30, 3)), rng.normal(size=(40, 3))
    half = jnp.asarray(train[:15])
    memorised = sj.regimes.dimension_test(sj.EmpiricalDenoiser(half), half, held_out, 0.05)
    assert float(memorised.test.p_value) < 1e-4
    assert np.allclose(memorised.train, 0, atol=0.01)
    by_hand = [
        float(sj.regimes.intrinsic_dimension(other, jnp.asarray(x), level)) for x in held_out[:3]
    ]
    known = test(train, held_out)
    as_low = np.sum(np.asarray(known.held_out)[None] <= np.asarray(known.train)[:, None], axis=1)
    assert np.allclose(known.p_values, (1 + as_low) / 41)
    assert np.allclose(known.held_out[:3], by_hand, rtol=1e-5)
    assert np.allclose(test(train, held_out, reference=other).train, 0, atol=1e-6)


def test_what_is_refused():
    with pytest.raises(ValueError, match="held_out"):
        sj.regimes.dimension_test(lambda u, s: u, np.ones((3, 2)), np.ones((3, 4)), 1.0)
    with pytest.raises(ValueError, match="`denoiser` must see finite dimensions"):
        sj.regimes.dimension_test(lambda u, s: u * np.nan, np.ones((3, 2)), np.ones((3, 2)), 1.0)
    with pytest.raises(ValueError, match="second"):
        sj.measures.rank_test(jnp.ones(3), jnp.array([1.0, jnp.inf]))


def test_the_measure_of_samples():
    measure = sj.measures.get("copying")
    points = jax.random.normal(jax.random.key(0), (60, 2))
    found = measure.numbers(points[:20], points[:40], points[40:], jax.random.key(1))
    assert float(found["copying"].value) == 1 and float(found["copying_p_value"]) < 1e-6
