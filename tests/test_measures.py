import functools
import math
from statistics import NormalDist

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats

from smoothjax.measures import (
    Estimate,
    denoiser_rmse,
    determination_r2,
    frechet_distance,
    linearity_score,
    memorization_fraction,
    nearest_neighbours,
    pearson_r2,
    rmse_curve,
    same_noise_similarity,
    sliced_wasserstein,
    wasserstein_1d,
    wilson_interval,
)

# Statistical tests run at fixed keys and allow this many standard errors.
NUM_SE = 4


def eps(dtype):
    return float(jnp.finfo(dtype).eps)


# Estimate


def test_estimate_prints_the_digits_that_the_error_supports():
    cases = {
        (0.1234, 0.0041): "0.123 ± 0.004",
        (0.1234, 0.0141): "0.123 ± 0.014",
        (12.3, 0.0096): "12.300 ± 0.010",
        (1234.0, 5.6): "1234 ± 6",
        (-1.5, 0.0): "-1.5 ± 0",
        (2.342e-8, 4e-10): "(2.34 ± 0.04)e-08",
        (1e-9, 3e-8): "(0 ± 3)e-08",
        (1.0, 1e-17): "1 ± 1e-17",
        (2.5e7, 3e5): "(2.50 ± 0.03)e+07",
    }
    for (value, error), shown in cases.items():
        assert str(Estimate(np.asarray(value), np.asarray(error))) == shown  # pyright: ignore
    several = Estimate(jnp.array([0.5, 0.25]), jnp.array([0.1, 0.03]))
    assert repr(several) == "[0.50 ± 0.10, 0.25 ± 0.03]"
    assert "of shape (100,)" in repr(Estimate(jnp.ones(100), jnp.ones(100)))


def test_estimate_is_a_pytree_that_prints_while_traced():
    seen = []

    def scaled(x):
        result = Estimate(x, 2 * x)
        seen.append(str(result))
        return result

    result = jax.jit(jax.vmap(scaled))(jnp.arange(3.0))
    np.testing.assert_array_equal(result.standard_error, [0, 2, 4])
    assert "Estimate" in seen[0]


# Wilson interval


def test_wilson_interval_against_published_values():
    # Newcombe (1998), Stat. Med. 17, 857-872, table I, score method without continuity correction.
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (count, num), interval in published.items():
        # Half a unit of the last printed digit.
        np.testing.assert_allclose(wilson_interval(count, num), interval, atol=5.001e-5)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_wilson_ends_solve_the_score_equation(x64, confidence):
    count, num = np.array([0, 1, 3, 50, 99, 100, 0]), np.array([100, 100, 10, 100, 100, 100, 1])
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    interval = np.asarray(wilson_interval(count, num, confidence))
    p_hat = (count / num)[:, None]
    distance = z * np.sqrt(interval * (1 - interval) / num[:, None])
    np.testing.assert_allclose(np.abs(interval - p_hat), distance, rtol=1e-12, atol=1e-14)
    assert np.all(interval[:, 0] <= p_hat[:, 0]) and np.all(interval[:, 1] >= p_hat[:, 0])
    assert interval[0, 0] == 0 and interval[5, 1] == 1


def test_wilson_interval_refuses():
    with pytest.raises(ValueError, match="between 0 and"):
        wilson_interval(3, 2)
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 2, 1.0)


# Nearest neighbours


def brute_force(points, data, k):
    """Distances in float64, of the values as they are stored; and all of them."""
    differences = np.asarray(points, np.float64)[:, None] - np.asarray(data, np.float64)
    every = np.sqrt(np.sum(differences**2, axis=-1))
    return np.sort(every, axis=1)[:, :k], every


def check_neighbours(points, data, k, **options):
    distances, indices = nearest_neighbours(points, data, k, **options)
    expected, every = brute_force(points, data, k)
    # A sum of d squares of rounded differences: relative error below (d + 4) eps.
    rtol = (data.shape[1] + 4) * eps(distances.dtype)
    np.testing.assert_allclose(distances, expected, rtol=rtol)
    # The indices are those of points at these distances, and are all different.
    np.testing.assert_allclose(
        np.take_along_axis(every, np.asarray(indices), axis=1), expected, rtol=rtol
    )
    assert all(len(set(row)) == k for row in np.asarray(indices).tolist())
    return distances, indices


def test_neighbours_are_those_of_brute_force(dtype):
    rng = np.random.default_rng(0)
    points, data = (jnp.asarray(rng.normal(size=(size, 3)), dtype) for size in (7, 40))
    distances, _ = check_neighbours(points, data, 5)
    assert distances.dtype == dtype
    assert np.all(np.diff(distances, axis=1) >= 0)


@pytest.mark.parametrize(("m", "n", "d", "k"), [(30, 20, 1, 1), (3, 5, 200, 5)])
def test_neighbours_on_a_line_and_all_of_them(m, n, d, k):
    rng = np.random.default_rng(0)
    points, data = (jnp.asarray(rng.normal(size=(size, d)), jnp.float32) for size in (m, n))
    check_neighbours(points, data, k)


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-5])
@pytest.mark.parametrize("crowd", [5, 60])
def test_neighbours_among_near_duplicates_far_from_the_origin(spread, crowd):
    # Crowds around 240/crowd centres, offset by 30, where a float32 matrix product gives squared
    # distances with errors of about 1e-2. Crowds of 60 exceed the candidates kept.
    rng = np.random.default_rng(1)
    centres = np.repeat(30 + rng.uniform(-1, 1, size=(240 // crowd, 50)), crowd, axis=0)
    data = (centres + spread * rng.normal(size=(240, 50))).astype(np.float32)
    points = (centres[::20] + spread * rng.normal(size=(12, 50))).astype(np.float32)
    points = np.concatenate([points, data[::10]])
    distances, indices = check_neighbours(jnp.asarray(points), jnp.asarray(data), 3, batch_size=100)
    np.testing.assert_array_equal(indices[12:, 0], np.arange(0, 240, 10))
    np.testing.assert_array_equal(distances[12:, 0], 0)


def test_neighbours_do_not_depend_on_the_batch_size():
    rng = np.random.default_rng(2)
    points, data = (jnp.asarray(rng.normal(size=(size, 3)), jnp.float32) for size in (7, 40))
    reference = nearest_neighbours(points, data, 5)
    # Three blocks of queries and fourteen of data, the last of each filled up.
    distances, indices = nearest_neighbours(points, data, 5, batch_size=3)
    np.testing.assert_array_equal(indices, reference[1])
    np.testing.assert_allclose(distances, reference[0], rtol=10 * eps(jnp.float32))


def test_ties_go_to_the_lower_index():
    # 20 copies of each of two points: more ties than candidates.
    data = jnp.tile(jnp.array([[0.0, 3.0, 0.0], [1.0, 0.0, 0.0]]), (20, 1))
    _, indices = nearest_neighbours(jnp.zeros((7, 3)), data, 5)
    np.testing.assert_array_equal(indices[0], [1, 3, 5, 7, 9])


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_squares_neither_overflow_nor_underflow(scale):
    rng = np.random.default_rng(3)
    points, data = (scale * rng.normal(size=(size, 3)).astype(np.float32) for size in (7, 40))
    check_neighbours(jnp.asarray(points), jnp.asarray(data), 5)
    # One distant query does not spoil the others.
    points[0] = 1e30
    check_neighbours(jnp.asarray(points), jnp.asarray(data), 5)


def test_neighbours_under_transformations():
    rng = np.random.default_rng(4)
    points, data = (jnp.asarray(rng.normal(size=(size, 3)), jnp.float32) for size in (7, 40))
    # The last query is a data point: at distance zero the derivative is zero, not NaN.
    points = points.at[-1].set(data[3])
    distances, indices = nearest_neighbours(points, data, 5)
    one_by_one = jax.jit(jax.vmap(lambda x: nearest_neighbours(x[None], data, 5)))(points)
    np.testing.assert_array_equal(one_by_one[1][:, 0], indices)

    def total(points, data):
        return jnp.sum(nearest_neighbours(points, data, 5)[0])

    by_points, by_data = jax.jit(jax.grad(total, (0, 1)))(points, data)
    assert distances[-1, 0] == 0
    distances = jnp.where(distances > 0, distances, 1)
    unit = (points[:, None] - data[indices]) / distances[..., None]
    np.testing.assert_allclose(by_points, unit.sum(1), atol=10 * eps(jnp.float32))
    scattered = jnp.zeros_like(data).at[indices].add(-unit)
    np.testing.assert_allclose(by_data, scattered, atol=10 * eps(jnp.float32))
    assert "HIGHEST" in str(jax.make_jaxpr(total)(points, data))


def test_neighbours_refuse():
    ones = jnp.ones((3, 2))
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3, 4\)"):
        nearest_neighbours(ones, jnp.ones((3, 4)))
    with pytest.raises(ValueError, match="at most the number of data points, 3; got 4"):
        nearest_neighbours(ones, ones, 4)
    with pytest.raises(ValueError, match="`k` must be a positive integer"):
        nearest_neighbours(ones, ones, 0)
    with pytest.raises(ValueError, match="`points` must have shape"):
        nearest_neighbours(jnp.ones(2), ones)
    with pytest.raises(ValueError, match="finite"):
        nearest_neighbours(ones, ones.at[0, 0].set(jnp.nan))


# Memorization


def test_memorization_counts_as_brute_force_does(dtype):
    rng = np.random.default_rng(5)
    data = jnp.asarray(rng.normal(size=(50, 4)), dtype)
    copies = data[:20] + 0.2 * jnp.asarray(rng.normal(size=(20, 4)), dtype)
    samples = jnp.concatenate([copies, jnp.asarray(rng.normal(size=(30, 4)), dtype)])
    null = jnp.asarray(rng.normal(size=(200, 4)), dtype)
    result = memorization_fraction(samples, data, null=null, ratio=0.4)
    for points, ratios, count, fraction, interval, nearest in (
        (samples, result.ratios, result.count, result.fraction, result.interval, result.distances),
        (
            null,
            result.null_ratios,
            result.null_count,
            result.null_fraction,
            result.null_interval,
            result.null_distances,
        ),
    ):
        first, second = brute_force(points, data, 2)[0].T
        np.testing.assert_allclose(ratios, first / second, rtol=20 * eps(dtype))
        np.testing.assert_allclose(nearest, first, rtol=10 * eps(dtype))
        expected = int(np.sum(first / second < 0.4))
        assert int(count) == expected and 0 < expected < len(points)
        assert float(fraction) == pytest.approx(expected / len(points), rel=4 * eps(dtype))
        np.testing.assert_allclose(
            interval, wilson_interval(expected, len(points)), rtol=20 * eps(jnp.float32)
        )
    assert (result.num_samples, result.num_null, result.ratio) == (50, 200, 0.4)
    assert result.ratios.dtype == result.fraction.dtype == result.interval.dtype == dtype


def test_duplicates_are_merged_and_copies_have_ratio_zero():
    # Without merging, the first sample has d1 = d2 (ratio 1), and the second d1 = d2 = 0 (0/0).
    # -0 and 0 are the same number.
    data = jnp.array([[0.0, 0.0], [3.0, 0.0], [-0.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    samples = jnp.array([[0.3, 0.0], [0.0, 0.0], [1.5, 2.0], [3.0, 0.0]])
    result = memorization_fraction(samples, data, null=jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(result.ratios, [0.3 / 2.7, 0, 1, 0], rtol=10 * eps(jnp.float32))
    assert int(result.count) == 3
    # (1, 0): d1 = 1, d2 = 2; the threshold is on distances, not on their squares (1/4 < 1/3).
    assert float(result.null_ratios[0]) == 0.5 and int(result.null_count) == 0
    # And it is strict.
    result = memorization_fraction(samples, data, null=jnp.array([[1.0, 0.0]]), ratio=0.5)
    assert int(result.null_count) == 0
    result = memorization_fraction(samples, data, null=jnp.array([[1.0, 0.0]]), ratio=0.51)
    assert int(result.null_count) == 1


def test_memorization_prints_fraction_interval_and_null():
    rng = np.random.default_rng(5)
    data = jnp.asarray(rng.normal(size=(50, 4)), jnp.float32)
    result = memorization_fraction(100 + data, data, null=jnp.full((200, 4), -50.0, jnp.float32))
    # Wilson: upper end z^2/(n + z^2) at count 0: 0.0714 and 0.0188.
    assert str(result) == "0.00 [0.00, 0.07], null 0.00 [0.00, 0.02]"
    # Narrow intervals get more decimals.
    result = eqx.tree_at(lambda r: r.interval, result, wilson_interval(0, 12_000))
    assert str(result) == "0.0000 [0.0000, 0.0003], null 0.00 [0.00, 0.02]"


def test_memorization_refuses():
    data, points = jnp.array([[0.0], [1.0]]), jnp.array([[0.3]])
    with pytest.raises(ValueError, match=r"at least two distinct points.*got 1 distinct of 1"):
        memorization_fraction(points, data[:1], null=points)
    with pytest.raises(ValueError, match="got 1 distinct of 3"):
        memorization_fraction(points, jnp.ones((3, 1)), null=points)
    with pytest.raises(ValueError, match="same dimension"):
        memorization_fraction(points, data, null=jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="`null` must hold at least one"):
        memorization_fraction(points, data, null=jnp.ones((0, 1)))
    with pytest.raises(ValueError, match="ratio"):
        memorization_fraction(points, data, null=points, ratio=0)
    with pytest.raises(ValueError, match="outside of"):
        jax.jit(lambda x: memorization_fraction(x, data, null=points))(points)
    with pytest.raises(TypeError, match="null"):
        memorization_fraction(points, data)  # pyright: ignore


# Difference of denoisers


class Affine(eqx.Module):
    matrix: jax.Array
    offset: jax.Array

    def __call__(self, u, sigma):
        return jnp.matmul(self.matrix, u, precision="highest") / (1 + sigma**2) + self.offset


def two_affine_maps(d, dtype):
    rng = np.random.default_rng(6)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    return Affine(draw(d, d), draw(d)), Affine(draw(d, d), draw(d))


def test_rmse_is_that_of_the_documented_noises(dtype):
    data = jnp.asarray(np.random.default_rng(7).normal(size=(12, 3)), dtype)
    first, second = two_affine_maps(3, dtype)
    key, sigma, num_noises = jax.random.key(8), 0.7, 5
    squares = []
    for i in range(12):
        z = jax.random.normal(jax.random.fold_in(key, i), (num_noises, 3), dtype)
        u = data[i][None] + jnp.asarray(sigma, dtype) * z
        matrix, offset = first.matrix - second.matrix, first.offset - second.offset
        difference = np.asarray(u, float) @ np.asarray(matrix, float).T / (1 + sigma**2)
        difference = difference + np.asarray(offset, float)
        squares.append(np.mean(np.sum(difference**2, axis=1)) / 3)
    value = np.sqrt(np.mean(squares))
    standard_error = np.std(squares, ddof=1) / np.sqrt(12) / (2 * value)
    for batch_size in (5, 1024) if dtype == jnp.float32 else (1024,):
        result = denoiser_rmse(
            first, second, data, sigma, key, num_noises=num_noises, batch_size=batch_size
        )
        assert result.value.dtype == result.standard_error.dtype == dtype
        np.testing.assert_allclose(result.value, value, rtol=50 * eps(dtype))
        np.testing.assert_allclose(result.standard_error, standard_error, rtol=50 * eps(dtype))


def test_rmse_of_affine_maps_has_the_closed_form():
    # u ~ N(mu, S + sigma^2): E|M u + c|^2 = |M mu + c|^2 + tr(M (S + sigma^2) M^T).
    d, sigma = 3, 0.8
    first, second = two_affine_maps(d, jnp.float32)
    rng = np.random.default_rng(9)
    mu, root = rng.normal(size=d), rng.normal(size=(d, d))
    data = jnp.asarray(mu + rng.normal(size=(4000, d)) @ root.T, jnp.float32)
    m = np.asarray(first.matrix - second.matrix, float) / (1 + sigma**2)
    c = np.asarray(first.offset - second.offset, float)
    covariance = root @ root.T + sigma**2 * np.eye(d)
    expected = np.sqrt((np.sum((m @ mu + c) ** 2) + np.trace(m @ covariance @ m.T)) / d)
    result = denoiser_rmse(first, second, data, sigma, jax.random.key(10), num_noises=2)
    assert 0 < float(result.standard_error) < 0.03 * expected
    assert abs(float(result.value) - expected) < NUM_SE * float(result.standard_error)


def repeat(function, seed, repeats):
    # Not vmapped, which takes longer to compile than to run.
    keys = jax.random.split(jax.random.key(seed), repeats)
    return jax.jit(lambda keys: jax.lax.map(function, keys))(keys)


def check_standard_error(estimate, repeats, slack):
    """The mean squared standard error against the variance over repetitions."""
    variance = np.var(np.asarray(estimate.value, float), ddof=1)
    # The variance of nearly normal values over R repetitions has relative error sqrt(2/R).
    tolerance = NUM_SE * math.sqrt(2 / repeats) + slack
    claimed = np.mean(np.asarray(estimate.standard_error, float) ** 2)
    assert claimed == pytest.approx(variance, rel=tolerance)


def test_rmse_standard_error_is_the_spread_over_repetitions():
    # The points vary much more than the noises, so unclustered errors would be sqrt(6) too small.
    repeats, n, num_noises = 2000, 100, 6
    first, second = two_affine_maps(2, jnp.float32)

    def repetition(key):
        data_key, noise_key = jax.random.split(key)
        data = jax.random.normal(data_key, (n, 2), jnp.float32)
        return denoiser_rmse(first, second, data, 0.2, noise_key, num_noises=num_noises)

    # The delta method neglects terms of relative order 1/n.
    check_standard_error(repeat(repetition, 11, repeats), repeats, 5 / n)


def test_rmse_levels_share_their_noises():
    data = jnp.asarray(np.random.default_rng(12).normal(size=(12, 3)), jnp.float32)
    first, second = two_affine_maps(3, jnp.float32)
    key, levels = jax.random.key(13), jnp.array([0.1, 1.0, 7.0])
    single = [denoiser_rmse(first, second, data, s, key) for s in levels]
    mapped = jax.jit(jax.vmap(lambda s: denoiser_rmse(first, second, data, s, key)))(levels)
    curve = rmse_curve(first, second, data, levels, key, batch_size=3)
    for i, expected in enumerate(single):
        for result in (mapped, curve):
            np.testing.assert_allclose(result.value[i], expected.value, rtol=1e-5)
            np.testing.assert_allclose(result.standard_error[i], expected.standard_error, rtol=1e-5)


def test_rmse_zero_has_error_zero_and_finite_derivatives():
    dtype = jnp.float32
    data = jnp.asarray(np.random.default_rng(14).normal(size=(12, 3)), dtype)

    def both(scale, shift):
        result = denoiser_rmse(
            lambda u, s: scale * u + shift, lambda u, s: u, data, 0.5, jax.random.key(15)
        )
        return result.value, result.standard_error

    one, zero = jnp.ones((), dtype), jnp.zeros((), dtype)
    assert both(one, zero) == (0, 0)
    np.testing.assert_array_equal(jax.jacobian(both, (0, 1))(one, zero), np.zeros((2, 2)))
    # A constant difference has no spread: only the root in the standard error is at zero.
    by_shift = jax.jacobian(lambda shift: both(one, shift))(jnp.asarray(0.25, dtype))
    assert float(by_shift[0]) == pytest.approx(1, abs=20 * eps(dtype))
    assert np.isfinite(float(by_shift[1]))


def test_rmse_refuses():
    data, key = jnp.ones((12, 3)), jax.random.key(0)
    identity = lambda u, sigma: u  # noqa: E731
    with pytest.raises(ValueError, match="at least 2 points, for a standard error; got 1"):
        denoiser_rmse(identity, identity, data[:1], 1.0, key)
    with pytest.raises(ValueError, match="positive"):
        denoiser_rmse(identity, identity, data, 0.0, key)
    with pytest.raises(ValueError, match=r"`sigma` must be a scalar; got shape \(2,\)"):
        denoiser_rmse(identity, identity, data, jnp.ones(2), key)
    with pytest.raises(ValueError, match=r"`second` must map .* shape \(1,\)"):
        denoiser_rmse(identity, lambda u, sigma: u[:1], data, 1.0, key)
    with pytest.raises(ValueError, match="`num_noises`"):
        denoiser_rmse(identity, identity, data, 1.0, key, num_noises=0)
    with pytest.raises(ValueError, match="non-empty vector"):
        rmse_curve(identity, identity, data, jnp.ones((2, 2)), key)
    inside = jax.jit(lambda s: denoiser_rmse(identity, lambda u, s: s * u, data, s, key))(-1.0)
    assert np.isnan(inside.value)


# Linearity


def test_linear_maps_score_one_and_affine_maps_about_their_fixed_point(dtype):
    rng = np.random.default_rng(16)
    d, n = 3, 12
    data = jnp.asarray(3 + rng.normal(size=(n, d)), dtype)
    matrix = jnp.asarray(rng.normal(size=(d, d)), dtype)
    mu = jnp.mean(data, axis=0)
    linear, affine = Affine(matrix, jnp.zeros(d, dtype)), lambda u, s: mu + matrix @ (u - mu)
    # 1 - |cos| is of second order in a rounding error of the vectors, so only |cos| itself rounds.
    tolerance = 10 * eps(dtype)
    key = jax.random.key(17)
    score = linearity_score(linear, data, 0.5, key)
    assert float(score.raw.value) == pytest.approx(1, abs=tolerance)
    assert float(score.raw.standard_error) <= tolerance
    assert score.raw.value.dtype == score.centred.standard_error.dtype == dtype
    score = linearity_score(affine, data, 0.5, key)
    assert float(score.centred.value) == pytest.approx(1, abs=tolerance)
    assert float(score.raw.value) < 0.99
    assert repr(score) == f"LinearityScore(raw={score.raw}, centred={score.centred})"
    # About another centre it is not linear.
    score = linearity_score(affine, data, 0.5, key, centre=mu + 1)
    assert float(score.centred.value) < 0.99


def test_linearity_of_a_nonlinear_map_against_plain_monte_carlo():
    sigma, mean, n = 0.6, np.array([0.5, -1.0, 0.3]), 6000
    rng = np.random.default_rng(18)
    u1, u2 = (mean + rng.normal(size=(n, 3)) * np.hypot(1, sigma) for _ in range(2))

    def cosine(x, y):
        return np.abs(np.sum(x * y, -1)) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)

    folded = lambda u: np.abs(u + 0.3)  # noqa: E731
    a = 1 / np.sqrt(2)
    raw = cosine(folded(a * (u1 + u2)), a * (folded(u1) + folded(u2)))
    about = lambda v: folded(v + mean) - mean  # noqa: E731
    centred = cosine(about(a * (u1 + u2 - 2 * mean)), a * (about(u1 - mean) + about(u2 - mean)))
    data = jnp.asarray(mean + rng.normal(size=(n, 3)), jnp.float32)
    score = linearity_score(
        lambda u, s: jnp.abs(u + 0.3), data, sigma, jax.random.key(19), centre=jnp.asarray(mean)
    )
    for result, expected in ((score.raw, raw), (score.centred, centred)):
        error = np.hypot(float(result.standard_error), np.std(expected) / np.sqrt(n))
        assert 0 < error < 0.02
        assert abs(float(result.value) - np.mean(expected)) < NUM_SE * error


def test_linearity_standard_error_is_the_spread_over_repetitions():
    repeats, n, num_noises = 2000, 61, 4

    def repetition(key):
        data_key, key = jax.random.split(key)
        data = 2 * jax.random.normal(data_key, (n, 2))
        return linearity_score(
            lambda u, s: jnp.abs(u), data, 0.3, key, centre=jnp.zeros(2), num_noises=num_noises
        )

    score = repeat(repetition, 20, repeats)
    # With disjoint pairs s^2/n is unbiased, so there is no slack.
    check_standard_error(score.raw, repeats, 0)
    check_standard_error(score.centred, repeats, 0)


def test_linearity_pairs_are_disjoint():
    # With almost no noise the inputs of the denoiser show which points were combined.
    rng = np.random.default_rng(16)
    x = 3 + rng.normal(size=(12, 3))
    i, j = np.triu_indices(12, 1)
    combinations = np.concatenate([x, (x[i] + x[j]) / np.sqrt(2)])
    for seed in range(3):
        seen = []

        def record(u, sigma, seen=seen):
            jax.debug.callback(lambda u: seen.append(np.array(u)), u)
            return u

        data = jnp.asarray(x, jnp.float32)
        linearity_score(record, data, 1e-5, jax.random.key(seed), centre=jnp.zeros(3))
        jax.effects_barrier()
        distances = np.linalg.norm(np.reshape(seen, (-1, 1, 3)) - combinations, axis=-1)
        assert np.all(np.min(distances, axis=1) < 1e-4)
        which = np.argmin(distances, axis=1)
        assert sorted(which[which < 12]) == list(range(12))
        pairs = {(i[p], j[p]) for p in which[which >= 12] - 12}
        assert len(pairs) == 6 and sorted(sum(pairs, ())) == list(range(12))


def test_linearity_does_not_see_signs():
    # All images are multiples of one vector, with either sign.
    data = jnp.asarray(np.random.default_rng(21).normal(size=(12, 3)), jnp.float32)
    score = linearity_score(
        lambda u, s: jnp.cos(3 * u[0]) * jnp.arange(1, 4, dtype=u.dtype),
        data,
        1.0,
        jax.random.key(22),
        centre=jnp.zeros(3),
    )
    assert float(score.raw.value) == pytest.approx(1, abs=10 * eps(jnp.float32))


def test_linearity_of_zero_vectors():
    data, key = (
        jnp.asarray(np.random.default_rng(21).normal(size=(12, 3)), jnp.float32),
        jax.random.key(22),
    )
    # In one dimension the cosine of two numbers says nothing.
    bent = linearity_score(lambda u, s: jnp.tanh(u), data[:, :1], 1.0, key)
    for part in (bent.raw, bent.centred):
        assert np.isnan(float(part.value)) and np.isnan(float(part.standard_error))
    with pytest.raises(ValueError, match="shape"):
        linearity_score(lambda u, s: jnp.ones(2), data[:, :1], 1.0, key)
    score = linearity_score(lambda u, s: 0 * u, data, 1.0, key, centre=jnp.zeros(3))
    assert float(score.raw.value) == float(score.centred.value) == 1
    # Zero beyond radius 2: where only the combination vanishes the cosine counts as 0, not NaN.
    clipped = lambda u, s: jnp.where(jnp.sum(u**2) < 4, u, 0)  # noqa: E731
    score = linearity_score(clipped, data, 0.1, key)
    assert 0 < float(score.raw.value) < 1
    gradient = jax.grad(lambda a: linearity_score(lambda u, s: a * u, data, 1.0, key).raw.value)
    assert np.isfinite(float(gradient(0.0)))


def test_linearity_refuses():
    data, key = jnp.ones((12, 3)), jax.random.key(0)
    identity = lambda u, sigma: u  # noqa: E731
    with pytest.raises(ValueError, match="at least 4 points"):
        linearity_score(identity, data[:3], 1.0, key)
    with pytest.raises(ValueError, match=r"`centre` must have shape \(3,\); got \(2,\)"):
        linearity_score(identity, data, 1.0, key, centre=jnp.ones(2))
    with pytest.raises(ValueError, match="`denoiser` must map"):
        linearity_score(lambda u, s: u[:1], data, 1.0, key)
    with pytest.raises(ValueError, match="positive"):
        linearity_score(identity, data, -1.0, key)


# Fréchet distance


def frechet_reference(first, second):
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    s1, s2 = (np.atleast_2d(np.cov(x.T, bias=True)) for x in (first, second))
    root = scipy.linalg.sqrtm(s1)
    cross = scipy.linalg.sqrtm(root @ s2 @ root)
    shift = np.sum((first.mean(0) - second.mean(0)) ** 2)
    return shift + np.trace(s1 + s2 - 2 * np.real(cross))


@pytest.mark.parametrize(("m", "n", "p"), [(60, 80, 5), (40, 30, 1), (200, 20, 7)])
@pytest.mark.parametrize("offset", [0, 30])
def test_frechet_distance_is_that_of_matrix_square_roots(dtype, m, n, p, offset):
    rng = np.random.default_rng(23)
    first = jnp.asarray(offset + rng.normal(size=(m, p)) @ rng.normal(size=(p, p)), dtype)
    second = jnp.asarray(offset + 0.5 + rng.normal(size=(n, p)), dtype)
    result = frechet_distance(first, second)
    assert result.dtype == dtype
    # Mean and factor have errors of p eps times the size of the centred features, and of eps times
    # the offset for the mean's last rounding.
    expected = frechet_reference(first, second)
    size = np.linalg.norm(np.std(first, 0)) + np.linalg.norm(np.std(second, 0)) + offset * 0.1
    tolerance = 4 * p * eps(dtype) * size * np.sqrt(expected)
    assert float(result) == pytest.approx(expected, abs=tolerance + 1e-12)


def test_frechet_distance_of_nearby_sets_in_float32():
    # W2^2 is 1e-6 of the trace here, ten times eps: a difference of traces would keep one digit.
    rng = np.random.default_rng(24)
    first = rng.normal(size=(300, 5)).astype(np.float32)
    second = (1.001 * first).astype(np.float32)
    expected = frechet_reference(first, second)
    assert expected == pytest.approx(1e-6 * np.sum(np.var(first, 0)), rel=0.05)
    result = float(frechet_distance(jnp.asarray(first), jnp.asarray(second)))
    assert result == pytest.approx(expected, rel=2 * 5 * eps(jnp.float32) / 1e-3)
    same = float(frechet_distance(jnp.asarray(first), jnp.asarray(first)))
    assert 0 <= same < (20 * eps(jnp.float32)) ** 2 * np.sum(np.var(first, 0))


@functools.cache
def data_whose_small_modes_hold_the_distance(amplitude):
    """Two sets, their distance, and the reference's rounding."""
    rng = np.random.default_rng(0)
    spread = 3 * np.arange(1, 501.0)[rng.permutation(500)] ** -1.5
    mix = np.linalg.qr(rng.standard_normal((500, 500)))[0]
    first = (rng.standard_normal((600, 500)) * spread) @ mix
    second = first + amplitude * rng.standard_normal(first.shape)
    first, second = first.astype(np.float32), second.astype(np.float32)
    # The dual form tr S1 + tr S2 - 2 |A^T B|_*, with A and B the centred rows: it cancels, but in float64.
    a, b = ((x - x.mean(0)) / np.sqrt(600) for x in (first.astype(float), second.astype(float)))
    fidelity = np.sum(np.linalg.svd(a @ b.T, compute_uv=False))
    cancelled = np.sum(a**2) + np.sum(b**2) - 2 * fidelity
    expected = np.sum((first.mean(0, float) - second.mean(0, float)) ** 2) + cancelled
    # Of the reference 600 roundings of the trace at most.
    return first, second, expected, 600 * np.finfo(float).eps * np.sum(a**2)


@pytest.mark.parametrize("amplitude", [1e-3, 1e-4])
@pytest.mark.parametrize("traced", [False, True])
def test_frechet_distance_whose_small_modes_hold_it(amplitude, traced):
    """Spectra over four decades in float32, with modes in no order: below the root of epsilon a mode needs its rotation."""
    first, second, expected, rounding = data_whose_small_modes_hold_the_distance(amplitude)
    function = jax.jit(frechet_distance) if traced else frechet_distance
    result = function(jnp.asarray(first), jnp.asarray(second))
    assert result.dtype == np.float32
    # And one rounding of the result, in float32.
    np.testing.assert_allclose(result, expected, rtol=1e-7, atol=rounding)


@pytest.mark.parametrize(("shift", "scale"), [(1e5, 1.0), (0.0, 1e-6), (0.0, 1e6)])
def test_distances_of_data_far_from_the_origin_and_in_other_units(dtype, shift, scale):
    """In units of the data they are those of centred data, up to the rounding of the data as given."""
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((2, 300, 8))
    second = 1.5 * second + 0.3

    def measured(shift, scale):
        x, y = (jnp.asarray(scale * (points + shift), dtype) for points in (first, second))
        sliced = sliced_wasserstein(x, y, jax.random.key(0), num_projections=16)
        numbers = [
            jnp.sqrt(frechet_distance(x, y)) / scale,
            wasserstein_1d(x[:, 0], y[:, 0]) / scale,
            sliced.value / scale,
            determination_r2(x[:, 0], 0.8 * x[:, 0] + 0.2 * x[:1, 0] + 0.5 * (y[:, 0] - y[:1, 0])),
            pearson_r2(x[:, 0], x[:, 0] + y[:, 0]),
            same_noise_similarity(x, y, centre=jnp.zeros(8)).shuffled_rms.value / scale,
        ]
        return np.array(numbers, float)

    # A rounding of the shifted data moves each value by at most eps shift / 2, and these means over 300 by less.
    rounding = 4 * eps(dtype) * shift + 200 * eps(dtype)
    np.testing.assert_allclose(measured(shift, scale), measured(0, 1), rtol=rounding, atol=rounding)
    assert rounding < 0.06


def test_frechet_distance_with_fewer_points_than_features(dtype):
    # On the coordinate planes (0, 1) and (2, 3) of R^6: S1 S2 = 0, so W2^2 = tr S1 + tr S2.
    rng = np.random.default_rng(25)
    first, second = np.zeros((4, 6)), np.zeros((9, 6))
    first[:, :2], second[:, 2:4] = rng.normal(size=(4, 2)), rng.normal(size=(9, 2))
    first, second = first - first.mean(0), second - second.mean(0)
    expected = np.sum(first**2) / 4 + np.sum(second**2) / 9
    result = frechet_distance(jnp.asarray(first, dtype), jnp.asarray(second, dtype))
    assert float(result) == pytest.approx(expected, rel=20 * eps(dtype))
    # Diagonal covariances: sum of (sqrt(l1) - sqrt(l2))^2. A point has covariance zero.
    first = np.concatenate([np.diag([1.0, 2.0, 3.0]), -np.diag([1.0, 2.0, 3.0])])
    second = np.concatenate([np.diag([2.0, 2.0, 0.5]), -np.diag([2.0, 2.0, 0.5])])
    result = frechet_distance(jnp.asarray(first, dtype), jnp.asarray(second, dtype))
    assert float(result) == pytest.approx((1 + 0 + 2.5**2) / 3, rel=20 * eps(dtype))
    point = jnp.asarray([[1.0, 0.0, 0.0]], dtype)
    result = frechet_distance(jnp.asarray(first, dtype), point)
    assert float(result) == pytest.approx(1 + 14 / 3, rel=20 * eps(dtype))


def test_frechet_distance_refuses():
    with pytest.raises(ValueError, match="same dimension"):
        frechet_distance(jnp.ones((3, 2)), jnp.ones((3, 3)))
    with pytest.raises(ValueError, match="`second` must be finite"):
        frechet_distance(jnp.ones((3, 2)), jnp.full((3, 2), jnp.inf))


# Wasserstein distances


@pytest.mark.parametrize(
    ("m", "n", "order"), [(5, 5, 2), (3, 4, 1), (3, 4, 2), (6, 4, 3.5), (1, 7, 2)]
)
def test_wasserstein_1d_is_optimal_transport(dtype, m, n, order):
    rng = np.random.default_rng(26)
    first, second = rng.normal(size=m), 0.5 + 2 * rng.normal(size=n)
    first, second = first.astype(dtype), second.astype(dtype)
    result = wasserstein_1d(jnp.asarray(first), jnp.asarray(second), order=order)
    assert result.dtype == dtype
    # Equal masses by repetition; then an optimal assignment, which knows nothing of quantiles.
    common = math.lcm(m, n)
    x = np.repeat(first.astype(float), common // m)
    y = np.repeat(second.astype(float), common // n)
    cost = np.abs(x[:, None] - y) ** order
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    expected = np.mean(cost[rows, columns]) ** (1 / order)
    assert float(result) == pytest.approx(expected, rel=20 * eps(dtype))


def test_wasserstein_1d_of_large_sets_against_scipy(dtype):
    # The number of common quantiles exceeds what 32 bits hold.
    rng = np.random.default_rng(27)
    first, second = rng.normal(size=50_021).astype(dtype), rng.normal(size=49_999).astype(dtype)
    expected = scipy.stats.wasserstein_distance(first.astype(float), second.astype(float))
    result = wasserstein_1d(jnp.asarray(first), jnp.asarray(second), order=1)
    # Masses and gaps have relative errors eps; gaps are differences of values of size up to 4.
    assert float(result) == pytest.approx(expected, abs=8 * eps(dtype))


def test_wasserstein_1d_range_and_derivatives():
    x = jnp.asarray(np.random.default_rng(28).normal(size=9), jnp.float32)
    for scale in (1e-25, 1e25):
        result = wasserstein_1d(scale * x, scale * (x + 2))
        assert float(result) / scale == pytest.approx(2, rel=1e-6)
    for order in (1, 2):
        shifted = jax.jit(
            jax.value_and_grad(lambda s, order=order: wasserstein_1d(x + s, x, order=order))
        )
        np.testing.assert_allclose(shifted(0.5), (0.5, 1), rtol=1e-6)
        assert shifted(0.0)[0] == 0 and np.isfinite(float(shifted(0.0)[1]))
    with pytest.raises(ValueError, match="order"):
        wasserstein_1d(x, x, order=0.5)
    with pytest.raises(ValueError, match="`second` must be a non-empty vector"):
        wasserstein_1d(x, x[:, None])


def test_sliced_wasserstein_of_a_shift():
    # Along theta the distance is |theta.s|, and E (theta.s)^2 = |s|^2/d.
    d = 6
    x = jnp.asarray(np.random.default_rng(29).normal(size=(20, d)), jnp.float32)
    shift = jnp.arange(1.0, d + 1, dtype=jnp.float32)
    expected = float(jnp.linalg.norm(shift)) / math.sqrt(d)
    result = sliced_wasserstein(x, x + shift[None], jax.random.key(30), num_projections=2000)
    assert 0 < float(result.standard_error) < 0.03 * expected
    assert abs(float(result.value) - expected) < NUM_SE * float(result.standard_error)


def test_sliced_wasserstein_error_is_the_spread_over_directions():
    rng = np.random.default_rng(31)
    x, y = rng.normal(size=(10, 4)), 1 + rng.normal(size=(15, 4)) * [1, 2, 3, 4]
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    repeats, num = 1000, 100
    estimate = repeat(lambda k: sliced_wasserstein(x, y, k, num_projections=num), 32, repeats)
    check_standard_error(estimate, repeats, 5 / num)


def test_sliced_wasserstein_in_one_dimension_and_at_zero(dtype):
    rng = np.random.default_rng(33)
    x, y = jnp.asarray(rng.normal(size=(2, 7, 1)), dtype)
    key = jax.random.key(34)
    result = sliced_wasserstein(x, y, key, num_projections=20, order=3)
    expected = wasserstein_1d(x[:, 0], y[:, 0], order=3)
    np.testing.assert_allclose(result.value, expected, rtol=20 * eps(dtype))
    assert result.value.dtype == dtype and float(result.standard_error) < 20 * eps(dtype)
    same = sliced_wasserstein(x, x[::-1], key, num_projections=20, order=3)
    assert float(same.value) == float(same.standard_error) == 0
    with pytest.raises(ValueError, match="at least 2"):
        sliced_wasserstein(x, y, key, num_projections=1)
    with pytest.raises(ValueError, match="same dimension"):
        sliced_wasserstein(x, jnp.ones((3, 2)), key)


# Agreement


def test_the_two_r_squared(dtype):
    rng = np.random.default_rng(35)
    target = rng.normal(size=(6, 7)).astype(dtype)
    prediction = (target + 0.5 * rng.normal(size=(6, 7))).astype(dtype)
    t, p = target.astype(float), prediction.astype(float)
    determination = determination_r2(jnp.asarray(prediction), jnp.asarray(target))
    pearson = pearson_r2(jnp.asarray(prediction), jnp.asarray(target))
    assert determination.dtype == pearson.dtype == dtype
    tolerance = 42 * eps(dtype)
    expected = 1 - np.sum((t - p) ** 2) / np.sum((t - t.mean()) ** 2)
    assert float(determination) == pytest.approx(expected, abs=tolerance)
    expected = np.corrcoef(t.ravel(), p.ravel())[0, 1] ** 2
    assert float(pearson) == pytest.approx(expected, abs=tolerance)
    # An affine map of the target correlates perfectly and can predict worse than a constant.
    wrong = jnp.asarray(-3 * target + 1, dtype)
    assert float(pearson_r2(wrong, jnp.asarray(target))) == pytest.approx(1, abs=tolerance)
    assert float(determination_r2(wrong, jnp.asarray(target))) < -10
    constant = jnp.full_like(jnp.asarray(target), float(np.mean(t)))
    assert float(determination_r2(constant, jnp.asarray(target))) == pytest.approx(0, abs=tolerance)


def test_r_squared_far_from_the_origin_and_in_small_units():
    rng = np.random.default_rng(36)
    # At 1e6 the mean itself is rounded by up to 0.03, 3 % of the spread.
    target = (1e6 + rng.normal(size=500)).astype(np.float32)
    prediction = (target + rng.normal(size=500)).astype(np.float32)
    t, p = target.astype(float), prediction.astype(float)
    tolerance = 50 * eps(jnp.float32)
    expected = np.corrcoef(t, p)[0, 1] ** 2
    assert float(pearson_r2(jnp.asarray(prediction), jnp.asarray(target))) == pytest.approx(
        expected, abs=tolerance
    )
    small = [jnp.asarray(1e-25 * (x - 1e6), jnp.float32) for x in (p, t)]
    expected = 1 - np.sum((t - p) ** 2) / np.sum((t - t.mean()) ** 2)
    assert float(determination_r2(*small)) == pytest.approx(expected, abs=tolerance)
    assert float(pearson_r2(*small)) > 0.1


@pytest.mark.parametrize("function", [determination_r2, pearson_r2])
def test_r_squared_refuses_constants_and_shapes(function):
    varying, constant = jnp.arange(10.0), jnp.full(10, 0.1)
    with pytest.raises(ValueError, match="`target` must not be constant"):
        function(varying, constant)
    assert np.isnan(jax.jit(function)(varying, constant))
    with pytest.raises(ValueError, match=r"shapes \(10,\) and \(1,\)"):
        function(varying, varying[:1])
    with pytest.raises(ValueError, match="non-empty"):
        function(jnp.ones((0, 2)), jnp.ones((0, 2)))
    if function is pearson_r2:
        with pytest.raises(ValueError, match="`prediction` must not be constant"):
            function(constant, varying)
