import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import flows
from smoothjax.measures import (
    MemorizationFraction,
    denoiser_rmse,
    gaussianity_index,
    generalization_score,
    linearity_comparison,
    linearity_score,
    mean_denoiser_distance,
    memorization_fraction,
    nearest_neighbours,
    normalised_mse,
    same_noise_similarity,
    strong_generalization,
    wilson_interval,
)
from smoothjax.measures._estimate import mean_estimate, root_of_mean
from smoothjax.measures._linearity import _absolute_cosine

# Statistical tests run at fixed keys and allow this many standard errors.
NUM_SE = 4


def eps(dtype):
    return float(jnp.finfo(dtype).eps)


def close(estimate, expected, rtol):
    np.testing.assert_allclose([estimate.value, estimate.standard_error], expected, rtol=rtol)


# Distances of denoisers


class Affine(eqx.Module):
    matrix: jax.Array
    offset: jax.Array

    def __call__(self, u, sigma):
        return jnp.matmul(self.matrix, u, precision="highest") / (1 + sigma**2) + self.offset

    def exact(self, u, sigma):
        product = np.asarray(u, float) @ np.asarray(self.matrix, float).T
        return product / (1 + sigma**2) + np.asarray(self.offset, float)


def affine_maps(number, d, dtype):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    return [Affine(draw(d, d), draw(d)) for _ in range(number)]


def documented_points(data, sigma, key, num_noises):
    noises = [
        jax.random.normal(jax.random.fold_in(key, i), (num_noises, data.shape[1]), data.dtype)
        for i in range(len(data))
    ]
    return np.asarray(data, float)[:, None] + sigma * np.asarray(jnp.stack(noises), float)


def ratio_and_error(numerators, denominators):
    ratio = numerators.mean() / denominators.mean()
    residuals = (numerators - ratio * denominators) / denominators.mean()
    return ratio, np.std(residuals, ddof=1) / np.sqrt(len(residuals))


def test_measures_are_those_of_the_documented_noises(dtype):
    data = jnp.asarray(np.random.default_rng(1).normal(size=(12, 3)), dtype)
    D, memory, smooth = affine_maps(3, 3, dtype)
    key, sigma, options = jax.random.key(2), 0.7, {"num_noises": 5, "batch_size": 5}
    u = documented_points(data, sigma, key, 5)
    d, m, g = (f.exact(u, sigma) for f in (D, memory, smooth))
    rtol = 100 * eps(dtype)

    def square(x):
        return np.mean(x**2, axis=-1)

    roots = np.mean(np.sqrt(square(d - g)), axis=1)
    found = eqx.filter_jit(mean_denoiser_distance)(D, smooth, data, sigma, key, **options)
    close(found, (roots.mean(), np.std(roots, ddof=1) / np.sqrt(12)), rtol)

    centre = np.array([0.5, -1.0, 2.0])
    for name, mu in ((None, np.mean(np.asarray(data, float), axis=0)), (centre, centre)):
        found = normalised_mse(D, smooth, data, sigma, key, centre=name, num_noises=5)
        close(found, ratio_and_error(square(d - g).mean(1), square(g - mu).mean(1)), rtol)

    found = eqx.filter_jit(gaussianity_index)(D, memory, smooth, data, sigma, key, **options)
    a, b = square(d - m).mean(1), square(d - g).mean(1)
    close(found.index, ratio_and_error(a, a + b), rtol)
    for name, pair in (
        ("to_gaussian", (D, smooth)),
        ("to_empirical", (D, memory)),
        ("between", (memory, smooth)),
    ):
        expected = denoiser_rmse(*pair, data, sigma, key, num_noises=5)
        close(getattr(found, name), (expected.value, expected.standard_error), rtol)


def test_gaussianity_between_and_beyond_the_references(dtype):
    rng = np.random.default_rng(3)
    train, held_out = (jnp.asarray(rng.normal(size=(20, 3)) ** 3, dtype) for _ in range(2))
    memory, smooth = sj.EmpiricalDenoiser(train), sj.GaussianDenoiser.fit(train)

    @eqx.filter_jit
    def index(weights, offset):
        def blend(u, sigma):
            return weights[0] * memory(u, sigma) + weights[1] * smooth(u, sigma) + offset

        return gaussianity_index(blend, memory, smooth, held_out, 0.5, jax.random.key(0))

    for s in (0.0, 0.3, 1.0):
        found = index(jnp.array([1 - s, s], dtype), jnp.zeros((), dtype))
        # The same for every point, but for the rounding of values of size 10 against differences of size 0.1.
        np.testing.assert_allclose(
            found.index.value, s**2 / (s**2 + (1 - s) ** 2), atol=2e3 * eps(dtype)
        )
        assert found.index.standard_error < 2e3 * eps(dtype)
        between = float(found.between.value)
        np.testing.assert_allclose(found.to_empirical.value, s * between, atol=1e3 * eps(dtype))
        assert found.meaningful
    # Far from both: an index of 1/2, of which it says itself that it means nothing.
    found = index(jnp.array([0.5, 0.5], dtype), jnp.asarray(100.0, dtype))
    np.testing.assert_allclose(found.index.value, 0.5, atol=0.01)
    assert not found.meaningful
    # Beyond one reference, but no farther from it than the other is.
    assert index(jnp.array([-0.5, 1.5], dtype), jnp.zeros((), dtype)).meaningful
    assert not index(jnp.array([-1.5, 2.5], dtype), jnp.zeros((), dtype)).meaningful


def test_gaussianity_where_all_agree():
    data = jnp.asarray(np.random.default_rng(4).normal(size=(5, 2)), jnp.float32)
    D = affine_maps(1, 2, jnp.float32)[0]
    found = gaussianity_index(D, D, D, data, 1.0, jax.random.key(0))
    assert (found.index.value, found.index.standard_error) == (0.5, 0)
    assert not found.meaningful


def test_standard_errors_of_ratios_are_the_spread_over_repetitions():
    D, memory, smooth = affine_maps(3, 2, jnp.float32)

    @eqx.filter_jit
    def run(keys):
        def one(key):
            first, second = jax.random.split(key)
            data = jax.random.normal(first, (100, 2), jnp.float32)
            # Noises of a point that are no independent observations: most of the spread is the data's.
            options = {"num_noises": 4}
            index = gaussianity_index(D, memory, smooth, data, 0.3, second, **options).index
            centre = jnp.zeros(2, jnp.float32)
            return index, normalised_mse(D, smooth, data, 0.3, second, centre=centre, **options)

        return jax.lax.map(one, keys, batch_size=50)

    for found in run(jax.random.split(jax.random.key(5), 400)):
        spread = np.std(found.value, ddof=1)
        # A standard deviation from 400 repetitions is known to 3.5 %; leading order leaves out 1/100.
        np.testing.assert_allclose(
            np.mean(found.standard_error), spread, rtol=NUM_SE * 0.035 + 0.01
        )


def test_mse_gap_is_the_distance_to_the_gaussian(x64):
    """For a posterior mean at noisy points of its own law, E|D - D_G|^2 = mse(D_G) - mse(D)."""
    rng = np.random.default_rng(6)
    train = jnp.asarray(rng.normal(size=(10, 2)) ** 3)
    # Draws of the law, which is the training set.
    data = train[rng.integers(0, 10, 4000)]
    memory, smooth = sj.EmpiricalDenoiser(train), sj.GaussianDenoiser.fit(train)
    key, sigma = jax.random.key(0), 0.8
    found = eqx.filter_jit(denoiser_rmse)(memory, smooth, data, sigma, key, batch_size=4000)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(data)))
    u = data + sigma * jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
    d, g = eqx.filter_jit(jax.vmap(lambda u: (memory(u, sigma), smooth(u, sigma))))(u)
    square = np.mean((d - g) ** 2, axis=1)
    np.testing.assert_allclose(found.value**2, square.mean(), rtol=1e-12)
    gap = np.mean((g - data) ** 2, axis=1) - np.mean((d - data) ** 2, axis=1)
    error = np.std(square - gap) / np.sqrt(len(data))
    assert error < 0.05 * square.mean()
    assert abs(np.mean(square - gap)) < NUM_SE * error


def test_linearity_beside_the_references():
    rng = np.random.default_rng(7)
    train, data = (jnp.asarray(2 + rng.normal(size=(16, 3)) ** 3, jnp.float32) for _ in range(2))
    memory, smooth = sj.EmpiricalDenoiser(train), sj.GaussianDenoiser.fit(train)
    key, D = jax.random.key(0), affine_maps(1, 3, jnp.float32)[0]
    members = D, memory, smooth

    @eqx.filter_jit
    def run(members, data):
        one = lambda member: linearity_score(  # noqa: E731
            member, data, 0.5, key, centre=smooth.mean, num_noises=2
        )
        together = linearity_comparison(*members, data, 0.5, key, num_noises=2)
        return together, [one(member) for member in members]

    found, alone = run(members, data)
    together = found.denoiser, found.empirical, found.gaussian
    for got, expected in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(got, expected, rtol=20 * eps(jnp.float32), atol=1e-6)
    np.testing.assert_allclose(found.gaussian.centred.value, 1, rtol=10 * eps(jnp.float32))
    assert found.empirical.centred.value < 0.99


# Same-noise similarity


def brute_similarity(first, second, centre):
    n = len(first)

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    squares = np.mean((first[:, None] - second) ** 2, axis=2)
    cosines = unit(first - centre) @ unit(second - centre).T

    def statistics(kept):
        square, cosine = squares[np.ix_(kept, kept)], cosines[np.ix_(kept, kept)]
        other = ~np.eye(len(kept), dtype=bool)
        shuffled = cosine[other].mean()
        normalised = (np.trace(cosine) / len(kept) - shuffled) / (1 - shuffled)
        return np.array([np.sqrt(square[other].mean()), shuffled, normalised])

    value = statistics(np.arange(n))
    left_out = np.stack([statistics(np.delete(np.arange(n), i)) for i in range(n)])
    error = np.sqrt((n - 1) / n * np.sum((left_out - left_out.mean(0)) ** 2, axis=0))
    matching = np.diag(squares)
    rms = np.sqrt(matching.mean())
    return {
        "rms": (rms, np.std(matching, ddof=1) / np.sqrt(n) / (2 * rms)),
        "cosine": (np.diag(cosines).mean(), np.std(np.diag(cosines), ddof=1) / np.sqrt(n)),
        "shuffled_rms": (value[0], error[0]),
        "shuffled_cosine": (value[1], error[1]),
        "normalised_cosine": (value[2], error[2]),
    }


def endpoints(n, d, dtype, seed=0, likeness=0.8):
    rng = np.random.default_rng(seed)
    shared, own = rng.normal(size=(n, d)), rng.normal(size=(2, n, d))
    sets = 3 + likeness * shared + math.sqrt(1 - likeness**2) * own
    return [jnp.asarray(points, dtype) for points in sets]


def test_similarity_over_all_pairs(dtype):
    first, second = endpoints(15, 4, dtype)
    centre = jnp.asarray([3.0, 2.5, 3.5, 3.0], dtype)
    found = same_noise_similarity(first, second, centre=centre)
    expected = brute_similarity(*(np.asarray(x, float) for x in (first, second, centre)))
    for name, value in expected.items():
        # Errors are differences of leave-one-out values, smaller by some 100 than what they come from.
        close(getattr(found, name), value, 2000 * eps(dtype))
        assert getattr(found, name).value.dtype == dtype


def test_similarity_errors_are_the_spread_over_noises():
    @eqx.filter_jit
    def run(keys):
        def one(key):
            shared, own = jnp.split(jax.random.normal(key, (3, 50, 4), jnp.float32), [1])
            first, second = 0.8 * shared + 0.6 * own
            # About another point than the mean: about the mean the baseline has no first-order error.
            return same_noise_similarity(first, second, centre=jnp.full(4, 0.7, jnp.float32))

        return jax.lax.map(one, keys, batch_size=100)

    found = run(jax.random.split(jax.random.key(1), 400))
    for name in ("rms", "cosine", "shuffled_rms", "shuffled_cosine", "normalised_cosine"):
        estimate = getattr(found, name)
        spread = np.std(estimate.value, ddof=1)
        np.testing.assert_allclose(
            np.mean(estimate.standard_error), spread, rtol=NUM_SE * 0.035 + 0.02, err_msg=name
        )


def test_similarity_about_the_mean_is_not_too_sure_of_its_baseline():
    """There the baseline fluctuates to second order, and the jackknife bounds its spread from above, by about sqrt(2)."""

    @eqx.filter_jit
    def run(keys):
        def one(key):
            first, second = jax.random.normal(key, (2, 30, 4), jnp.float32)
            return same_noise_similarity(first, second, centre=jnp.zeros(4, jnp.float32))

        return jax.lax.map(one, keys, batch_size=100).shuffled_cosine

    found = run(jax.random.split(jax.random.key(2), 400))
    size, spread = np.sqrt(np.mean(found.standard_error**2)), np.std(found.value)
    assert abs(np.mean(found.value)) < NUM_SE * spread / 20
    assert 1.2 < size / spread < 1.7


def test_similarity_of_equal_and_of_constant_sets(dtype):
    first = endpoints(10, 3, dtype)[0]
    found = same_noise_similarity(first, first, centre=jnp.full(3, 3.0, dtype))
    assert (found.rms.value, found.rms.standard_error) == (0, 0)
    for estimate in (found.cosine, found.normalised_cosine):
        np.testing.assert_allclose(estimate.value, 1, rtol=10 * eps(dtype))
        assert estimate.standard_error < 10 * eps(dtype)
    # Whatever the noise, one endpoint: alike to the full, and no more than by chance.
    same = jnp.broadcast_to(jnp.asarray([1.0, 0.0, 0.0], dtype), (4, 3))
    found = same_noise_similarity(same, same, centre=jnp.zeros(3, dtype))
    assert (found.shuffled_cosine.value, found.normalised_cosine.value) == (1, 0)
    assert found.shuffled_rms.value == found.normalised_cosine.standard_error == 0
    # At the centre there is no direction.
    found = same_noise_similarity(same, same, centre=same[0])
    assert found.cosine.value == found.shuffled_cosine.value == 0


# Strong generalization


def test_strong_generalization_by_brute_force(x64):
    rng = np.random.default_rng(9)
    first, second = endpoints(12, 3, jnp.float64)
    gaussians = endpoints(12, 3, jnp.float64, seed=1, likeness=0.95)
    halves = 3 + rng.normal(size=(2, 40, 3))
    found = strong_generalization(
        first, second, *gaussians, first_data=halves[0], second_data=halves[1]
    )
    mu = np.concatenate(halves).mean(0)
    for got, sets in ((found.models, (first, second)), (found.gaussians, gaussians)):
        for name, value in brute_similarity(*map(np.asarray, sets), mu).items():
            close(getattr(got, name), value, 1e-11)

    def cosine(x, y):
        x, y = np.asarray(x) - mu, np.asarray(y) - mu
        return np.sum(x * y, 1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)

    def mean_and_error(x):
        return np.mean(x), np.std(x, ddof=1) / np.sqrt(len(x))

    close(found.excess_cosine, mean_and_error(cosine(first, second) - cosine(*gaussians)), 1e-11)
    apart, nearer = np.linalg.norm(first - second, axis=1), []
    for points, half, got in (
        (first, halves[0], found.first_neighbour_cosine),
        (second, halves[1], found.second_neighbour_cosine),
    ):
        distances = np.linalg.norm(np.asarray(points)[:, None] - half, axis=2)
        close(got, mean_and_error(cosine(points, half[np.argmin(distances, axis=1)])), 1e-11)
        nearer.append(apart < distances.min(1))
    # Both endpoints of a noise are one observation; some are nearer and some are not.
    nearer = np.mean(nearer, axis=0)
    assert 0 < nearer.mean() < 1
    close(found.nearer_each_other, mean_and_error(nearer), 1e-12)


def test_memorizing_halves_do_not_generalize():
    """Each generates its own half: nothing in common but what the nearest points of the halves have."""
    rng = np.random.default_rng(10)
    halves = jnp.asarray(rng.normal(size=(2, 60, 20)), jnp.float32)
    first, second = halves[0][:30], halves[1][:30]
    found = strong_generalization(
        first, second, first, first, first_data=halves[0], second_data=halves[1]
    )
    assert found.nearer_each_other.value == 0
    np.testing.assert_allclose(found.first_neighbour_cosine.value, 1, rtol=1e-6)
    np.testing.assert_allclose(found.second_neighbour_cosine.value, 1, rtol=1e-6)
    # Independent endpoints have cosine 0, and the stand-in for the Gaussians agrees with itself.
    assert abs(found.models.cosine.value) < NUM_SE * found.models.cosine.standard_error
    excess = found.excess_cosine
    assert abs(excess.value + 1) < NUM_SE * excess.standard_error


# Memorization and generalization of samples


def test_generalization_score_by_brute_force(dtype):
    rng = np.random.default_rng(11)
    data, samples, null = (jnp.asarray(rng.normal(size=(n, 4)), dtype) for n in (30, 20, 20))
    samples = samples.at[0].set(data[3])
    found = generalization_score(samples, data, null=null)
    for points, estimate in ((samples, found.score), (null, found.null)):
        x, y = np.asarray(points, float), np.asarray(data, float)
        scores = np.linalg.norm(x[:, None] - y, axis=2).min(1) / np.linalg.norm(x, axis=1)
        error = np.std(scores, ddof=1) / np.sqrt(len(scores))
        close(estimate, (scores.mean(), error), 20 * eps(dtype))
    copies = generalization_score(data[:20], data, null=null)
    assert (copies.score.value, copies.score.standard_error) == (0, 0)


def fraction_of(count, num, null_count, num_null, dtype):
    """The result for so many copies among samples and null points."""
    as_dtype = lambda x: jnp.asarray(x, dtype)  # noqa: E731
    none = jnp.zeros(0, dtype)
    return MemorizationFraction(
        fraction=as_dtype(count / num),
        interval=wilson_interval(as_dtype(count), as_dtype(num)),
        count=jnp.asarray(count),
        num_samples=num,
        null_fraction=as_dtype(null_count / num_null),
        null_interval=wilson_interval(as_dtype(null_count), as_dtype(num_null)),
        null_count=jnp.asarray(null_count),
        num_null=num_null,
        ratio=1 / 3,
        confidence=0.95,
        ratios=none,
        null_ratios=none,
        distances=none,
        null_distances=none,
    )


def test_excess_of_memorization(dtype):
    # Newcombe (1998), table II, method 10: 56/70 against 48/80, and 9/10 against 3/10; 5/56 against 0/29; 10/10 and 0/20.
    for counts, interval in {
        (56, 70, 48, 80): (0.0524, 0.3339),
        (9, 10, 3, 10): (0.1705, 0.8090),
        (5, 56, 0, 29): (-0.0381, 0.1926),
        (10, 10, 0, 20): (0.6791, 1.0),
    }.items():
        found = fraction_of(*counts, dtype=dtype)
        np.testing.assert_allclose(found.excess_interval, interval, atol=6e-5)
        difference = counts[0] / counts[1] - counts[2] / counts[3]
        np.testing.assert_allclose(found.excess.value, difference, rtol=10 * eps(dtype))
        centres = [np.mean(wilson_interval(*counts[i : i + 2])) for i in (0, 2)]
        variance = sum(
            p * (1 - p) / n for p, n in zip(centres, (counts[1], counts[3]), strict=True)
        )
        np.testing.assert_allclose(found.excess.standard_error, np.sqrt(variance), rtol=1e-5)
        assert found.excess.value.dtype == dtype


def test_threshold_of_the_null():
    rng = np.random.default_rng(12)
    data, samples, null = (jnp.asarray(rng.normal(size=(n, 2))) for n in (40, 30, 25))
    found = memorization_fraction(samples, data, null=null)
    ratios = np.asarray(found.null_ratios)
    for level in (0.0, 0.03, 0.04, 0.28, 0.5, 0.99):
        threshold = float(found.calibrated_ratio(level))
        # The largest of all candidates that keeps to the level: the next larger ratio does not.
        allowed = round(level * 25 * 1e6) / 1e6
        assert np.sum(ratios < threshold) <= allowed
        larger = ratios[ratios > threshold]
        assert larger.size == 0 or np.sum(ratios < larger.min()) > allowed
    again = memorization_fraction(
        samples, data, null=null, ratio=float(found.calibrated_ratio(0.2))
    )
    assert again.null_count == 5
    for level in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"`level` must be in \[0, 1\)"):
            found.calibrated_ratio(level)


# Digits: scikit-learn's over 8 minus 1, np.random.default_rng(0).permutation(1797), 1500 to train and 297 held out. Computed
# in float64 by independent NumPy code. Points and noises as here; the columns: RMSE between the empirical and the Gaussian
# denoiser with its standard error; raw and centred linearity of the empirical one with theirs, as if pairs were independent.
DIGITS = {
    0.02: (
        [0.2636668750337768, 0.003348855957861726],
        [0.8988481921035946, 0.002095249613525411],
        [0.7040240369956945, 0.00744016738393742],
    ),
    1.0: (
        [0.2594295117522962, 0.0027595492317294213],
        [0.9465931080423909, 0.0015422578960577506],
        [0.7883082363675614, 0.007268475581816121],
    ),
    5.0: (
        [0.02954396015154756, 0.0006904335128432554],
        [0.9980846245837114, 4.5240108872722944e-05],
        [0.9788451185186839, 0.0010904196202030927],
    ),
}


def digits():
    data = pytest.importorskip("sklearn.datasets").load_digits().data / 8 - 1
    order = np.random.default_rng(0).permutation(1797)
    return data[order[:1500]], data[order[1500:]]


@pytest.mark.exhaustive
def test_standard_errors_on_the_digits(x64):
    train, test = digits()
    noise = np.random.default_rng(1).standard_normal((2, 2, 297, 64))
    laws, mean = (sj.EmpiricalDenoiser(train), sj.GaussianDenoiser.fit(train)), train.mean(0)
    both = eqx.filter_jit(jax.vmap(lambda laws, u, s: [D(u, s) for D in laws], (None, 0, None)))
    a = math.sqrt(0.5)
    cosines = jax.jit(jax.vmap(_absolute_cosine))
    for sigma, (rmse, raw, centred) in DIGITS.items():
        u1, u2 = test + sigma * noise[0], np.roll(test, 1, 0) + sigma * noise[1]
        about_mean = mean + a * (u1 + u2 - 2 * mean)
        queries = np.stack([u1, u2, a * (u1 + u2), about_mean]).reshape(-1, 64)
        memory, smooth = both(laws, queries, jnp.asarray(sigma))
        memory, smooth = memory.reshape(4, 2, 297, 64), smooth.reshape(4, 2, 297, 64)
        close(root_of_mean(jnp.mean((memory[0] - smooth[0]) ** 2, axis=(0, 2)), 2), rmse, 1e-6)
        images = a * (memory[0] + memory[1])
        for of_sum, shift, expected in ((2, 0.0, raw), (3, mean, centred)):
            x = (memory[of_sum] - shift).reshape(-1, 64)
            y = (images - 2 * a * shift).reshape(-1, 64)
            scores = cosines(x, y).reshape(2, 297).mean(0)
            close(mean_estimate(scores), expected, 1e-6)


@pytest.mark.exhaustive
def test_samples_of_the_digits(x64):
    """Endpoints of default_rng(2).standard_normal((256, 64)) from noise level 80; the same source."""
    train, test = digits()
    start = 80 * np.random.default_rng(2).standard_normal((256, 64))
    D, levels = sj.GaussianDenoiser.fit(train), sj.edm_grid(18)

    @eqx.filter_jit
    def run(memory, D, u):
        return (
            jax.vmap(lambda u: sj.flow(memory, u, 80.0, 0.0, levels=levels))(u),
            jax.vmap(lambda u: flows.gaussian_sampler(D, u, levels))(u),
            jax.vmap(lambda u: sj.gaussian_flow(D, u, 80.0, 0.0))(u),
        )

    memorised, smooth, exact = run(sj.EmpiricalDenoiser(train), D, start)
    found = same_noise_similarity(memorised, smooth, centre=D.mean)
    np.testing.assert_allclose(found.rms.value, 0.4874709620646394, rtol=1e-6)
    np.testing.assert_allclose(found.cosine.value, 0.6152950320389847, rtol=1e-6)
    # Over all pairs of different noises: none, which one shuffle of 256 knows to 0.02 only.
    assert abs(found.shuffled_cosine.value) < 0.005
    assert found.shuffled_cosine.standard_error < 0.005

    for samples, median, nearest in (
        (smooth, 0.9773934023385977, 0.4640042462857128),
        (exact, 0.9765723045533894, 0.45014965939686585),
    ):
        fraction = memorization_fraction(samples, train, null=test)
        assert fraction.count == fraction.null_count == 0
        np.testing.assert_allclose(np.median(fraction.ratios), median, rtol=1e-6)
        rms = np.sqrt(np.mean(fraction.distances**2) / 64)
        np.testing.assert_allclose(rms, nearest, rtol=1e-6)
        assert (
            len(set(np.asarray(nearest_neighbours(samples, train, 1)[1][:, 0]))) == 216
            or samples is exact
        )
    quantiles = np.quantile(fraction.null_ratios, [0.01, 0.05, 0.5])
    np.testing.assert_allclose(
        quantiles, [0.6002436949714393, 0.7006317697176564, 0.9090987191167175], rtol=1e-6
    )
    # All of the empirical denoiser's samples are copies, and it is the excess that says so.
    copies = memorization_fraction(memorised, train, null=test)
    assert copies.fraction == copies.excess.value == 1
    assert np.median(copies.ratios) < 1e-12
    assert len(set(np.asarray(nearest_neighbours(memorised, train, 1)[1][:, 0]))) == 241
    # Held-out digits are as far from the training set as novel ones; the Gaussian's samples are blurred, and farther.
    scores = generalization_score(smooth, train, null=test)
    assert generalization_score(memorised, train, null=test).score.value < 1e-12
    assert 0.2 < scores.null.value < 1
    assert scores.score.value > scores.null.value


POINTS = np.random.default_rng(13).normal(size=(6, 2))


def identity(u, sigma):
    return u


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: normalised_mse(
                identity,
                lambda u, s: jnp.zeros(2),
                POINTS,
                1.0,
                jax.random.key(0),
                centre=np.zeros(2),
            ),
            "`second` must not be the constant `centre`",
        ),
        (
            lambda: normalised_mse(
                identity, identity, POINTS, 1.0, jax.random.key(0), centre=np.zeros(3)
            ),
            r"`centre` must have shape \(2,\); got \(3,\)",
        ),
        (
            lambda: mean_denoiser_distance(identity, identity, POINTS, 0.0, jax.random.key(0)),
            "`sigma` must be positive",
        ),
        (
            lambda: gaussianity_index(
                identity, lambda u, s: u[:1], identity, POINTS, 1.0, jax.random.key(0)
            ),
            "`empirical` must map one point",
        ),
        (
            lambda: gaussianity_index(
                identity, identity, identity, POINTS[:1], 1.0, jax.random.key(0)
            ),
            "at least 2 points",
        ),
        (
            lambda: same_noise_similarity(POINTS, POINTS[:5], centre=np.zeros(2)),
            r"one shape \(n, d\), .* got \(6, 2\) for `first` and \(5, 2\) for `second`",
        ),
        (
            lambda: same_noise_similarity(POINTS[:2], POINTS[:2], centre=np.zeros(2)),
            "n >= 3",
        ),
        (
            lambda: same_noise_similarity(POINTS, POINTS, centre=np.array([0.0, np.nan])),
            "`centre` must be finite",
        ),
        (
            lambda: strong_generalization(
                POINTS, POINTS, POINTS, POINTS, first_data=POINTS, second_data=np.zeros((4, 3))
            ),
            "`second_data` must have dimension 2, like the endpoints",
        ),
        (
            lambda: generalization_score(POINTS, POINTS, null=np.zeros((2, 2))),
            "`null` must not hold the origin",
        ),
        (
            lambda: generalization_score(POINTS[:1], POINTS, null=POINTS),
            r"`samples` must have shape \(m, 2\) with m >= 2",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- curl ------------------------------------------------------------------------------------


def test_curl_of_linear_maps(dtype):
    data = jnp.asarray(np.random.default_rng(0).normal(size=(40, 5)), dtype)
    key = jax.random.key(0)
    random = np.random.default_rng(1).normal(size=(5, 5))
    of = lambda matrix: sj.measures.curl(  # noqa: E731
        lambda u, s: jnp.asarray(matrix, u.dtype) @ u / (1 + s), data, 0.7, key
    )
    eps = float(jnp.finfo(dtype).eps)
    # Every probe sees the whole of an antisymmetric matrix, and nothing of a symmetric one.
    antisymmetric, symmetric = of(random - random.T), of(random + random.T)
    np.testing.assert_allclose(antisymmetric.value, 2, rtol=20 * eps)
    assert float(antisymmetric.standard_error) < 1e-3
    assert float(symmetric.value) < 20 * eps
    exact = np.linalg.norm(random - random.T) / np.linalg.norm(random)
    found = of(random)
    assert abs(float(found.value) - exact) < 4 * float(found.standard_error)
    # By the delta method from the forty probes' own spread: some per cent.
    assert 0.01 < float(found.standard_error) < 0.2


def test_curl_errs_as_it_says(dtype):
    data = jnp.asarray(np.random.default_rng(0).normal(size=(40, 5)), dtype)
    matrix = jnp.asarray(np.random.default_rng(1).normal(size=(5, 5)), dtype)
    keys = jax.random.split(jax.random.key(0), 200)
    found = jax.vmap(lambda key: sj.measures.curl(lambda u, s: matrix @ u, data, 0.7, key))(keys)
    # The spread of 200 draws is known to 1 / sqrt(400), the delta method errs by the order of 1 / 40.
    spread, said = np.std(found.value, ddof=1), np.mean(found.standard_error)
    assert abs(spread / said - 1) < 4 / 20 + 1 / 40


def test_curl_of_posterior_means_is_rounding(dtype):
    data = jnp.asarray(np.random.default_rng(0).normal(size=(30, 3)), dtype)
    curl = eqx.filter_jit(sj.measures.curl)
    for denoiser in (sj.EmpiricalDenoiser(data), sj.MixtureDenoiser.fit(data, num_components=2)):
        found = curl(denoiser, data, 0.5, jax.random.key(0))
        assert float(found.value) < 100 * float(jnp.finfo(dtype).eps)
    # A local denoiser is the posterior mean of no law.
    images = jnp.asarray(np.random.default_rng(0).normal(size=(20, 4, 4)), dtype)
    local = curl(sj.LocalDenoiser(images, 3), images.reshape(20, 16), 0.5, jax.random.key(0))
    assert float(local.value) > 4 * float(local.standard_error)


def test_curl_refuses():
    data = jnp.ones((3, 2))
    with pytest.raises(ValueError, match="at least 2 points"):
        sj.measures.curl(lambda u, s: u, data[:1], 1.0, jax.random.key(0))
    with pytest.raises(ValueError, match="`sigma` must be positive"):
        sj.measures.curl(lambda u, s: u, data, 0.0, jax.random.key(0))
    with pytest.raises(ValueError, match="one point of shape"):
        sj.measures.curl(lambda u, s: u[:1], data, 1.0, jax.random.key(0))


# --- degrees of freedom ----------------------------------------------------------------------


def test_degrees_of_freedom_of_a_gaussian(dtype):
    variances = np.array([4.0, 1.0, 0.25, 0.0])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    covariance = jnp.asarray(rotation @ np.diag(variances) @ rotation.T, dtype)
    D = sj.GaussianDenoiser(jnp.zeros(4, dtype), covariance)
    data = jax.random.normal(jax.random.key(0), (400, 4), dtype)
    found = sj.measures.degrees_of_freedom(D, data, 0.5, jax.random.key(1), batch_size=100)
    expected = np.sum(variances / (variances + 0.25))
    assert abs(found.value - expected) < 4 * found.standard_error
    # Of random signs: twice the sum of the squares off the diagonal.
    jacobian = rotation @ np.diag(variances / (variances + 0.25)) @ rotation.T
    off = jacobian - np.diag(np.diag(jacobian))
    np.testing.assert_allclose(found.standard_error, np.sqrt(2 * np.sum(off**2) / 400), rtol=0.15)


def test_degrees_of_freedom_are_the_posterior_variance(dtype):
    data = jax.random.normal(jax.random.key(0), (30, 3), dtype)
    D, sigma = sj.EmpiricalDenoiser(data), 0.7
    fresh = jax.random.normal(jax.random.key(1), (300, 3), dtype)
    found = sj.measures.degrees_of_freedom(D, fresh, sigma, jax.random.key(2))
    noise = jax.random.normal(jax.random.key(3), (4000, 3), dtype)
    u = jnp.tile(fresh, (14, 1))[:4000] + sigma * noise
    level = jnp.asarray(sigma, dtype)
    variance = jax.vmap(lambda u: sj.posterior_variance(D, u, level))(u) / level**2
    error = np.hypot(found.standard_error, np.std(variance) / np.sqrt(300))  # 300 clean points
    assert abs(found.value - jnp.mean(variance)) < 4 * error


def test_degrees_of_freedom_refuses():
    data = jnp.zeros((3, 2))
    with pytest.raises(ValueError, match="`sigma` must be positive"):
        sj.measures.degrees_of_freedom(lambda u, s: u, data, 0.0, jax.random.key(0))
    with pytest.raises(ValueError, match="one point of shape"):
        sj.measures.degrees_of_freedom(lambda u, s: u[:1], data, 1.0, jax.random.key(0))


# --- effective rank --------------------------------------------------------------------------


def test_effective_rank_of_a_gaussian(dtype):
    variances = np.array([4.0, 1.0, 0.25, 0.0])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    covariance = jnp.asarray(rotation @ np.diag(variances) @ rotation.T, dtype)
    D = sj.GaussianDenoiser(jnp.zeros(4, dtype), covariance)
    data = jax.random.normal(jax.random.key(0), (2000, 4), dtype)
    found = sj.measures.effective_rank(D, data, 0.5, jax.random.key(1), batch_size=100)
    gains = variances / (variances + 0.25)
    expected = np.sum(gains) ** 2 / np.sum(gains**2)
    assert 0 < found.standard_error < 0.05
    assert abs(found.value - expected) < 4 * found.standard_error


def test_effective_rank_of_a_jacobian_that_varies(dtype):
    # Of a memoriser, whose Jacobian depends on the point: autodiff's matrices at other noisy points of the same law.
    points = jax.random.normal(jax.random.key(0), (30, 3), dtype)
    D, level = sj.EmpiricalDenoiser(points), jnp.asarray(0.7, dtype)
    fresh = jax.random.normal(jax.random.key(1), (600, 3), dtype)
    found = sj.measures.effective_rank(D, fresh, 0.7, jax.random.key(2))
    u = jnp.tile(fresh, (6, 1)) + level * jax.random.normal(jax.random.key(3), (3600, 3), dtype)
    jacobians = np.asarray(jax.vmap(lambda u: jax.jacfwd(D)(u, level))(u), np.float64)
    squares = np.trace(jacobians, axis1=1, axis2=2) ** 2
    sizes = np.sum(jacobians**2, axis=(1, 2))
    ratio = squares.mean() / sizes.mean()
    error = np.std(squares - ratio * sizes) / np.sqrt(600) / sizes.mean()  # 600 clean points
    assert abs(found.value - ratio) < 4 * np.hypot(found.standard_error, error)


def test_effective_rank_of_a_rotation_is_zero(dtype):
    rotation = jnp.asarray([[0.0, -1.0], [1.0, 0.0]], dtype)
    data = jnp.zeros((50, 2), dtype)
    found = sj.measures.effective_rank(lambda u, s: rotation @ u, data, 1.0, jax.random.key(0))
    assert float(found.value) == 0
    with pytest.raises(ValueError, match="`sigma` must be positive"):
        sj.measures.effective_rank(lambda u, s: u, data, 0.0, jax.random.key(0))
