"""Information, collapse, speciation, U-turns and intrinsic dimension by noise level, against sums and integrals by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

import smoothjax as sj
from smoothjax import regimes

KEY = jax.random.key(0)
X64 = jax.config.jax_enable_x64
DTYPES = [np.float32, np.float64] if X64 else [np.float32]
needs_float64 = pytest.mark.skipif(not X64, reason="differences are lost in float32")


def _points(num=40, dim=3, seed=0, copies=True):
    points = np.random.default_rng(seed).normal(size=(num, dim))
    if copies:
        points[7] = points[5]
    return points


def _host(estimate):
    """Value and standard error in float64, which mix with what is computed by hand."""
    return np.asarray(estimate.value, np.float64), np.asarray(estimate.standard_error, np.float64)


def _posteriors(points, own, noise, levels):
    """Weights over distinct points, shape (m, l, n), from squares that are formed one by one."""
    distinct, counts = np.unique(points, axis=0, return_counts=True)
    place = [int(np.flatnonzero((distinct == points[k]).all(axis=1))[0]) for k in own]
    u = points[own][:, None] + levels[None, :, None] * noise[:, None]
    logits = -np.sum((u[:, :, None] - distinct) ** 2, axis=-1) / (2 * levels[None, :, None] ** 2)
    logits += np.log(counts / len(points))
    return logits, np.array(place)


def _draws(points, num, dtype):
    """The draws of point and noise that a curve takes: rows in turn of a random order, and the noises of a sampler."""
    order = np.asarray(jax.random.permutation(jax.random.fold_in(KEY, 1), len(points)))
    noise = sj.initial_noise(KEY, num, points.shape[1], dtype=dtype)
    return order[np.arange(num) % len(points)], np.asarray(noise, np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [3, 100])
def test_curves_are_averages_over_posteriors_formed_one_by_one(dim, dtype):
    points = _points(dim=dim).astype(dtype)
    levels = np.geomspace(0.1, 30, 5)
    labels = np.arange(40) % 3
    labels[5] = labels[7]
    curve = regimes.information_curve(points, KEY, levels, labels=labels, num_draws=60)
    own, noise = _draws(points, 60, dtype)
    exact = points.astype(np.float64)
    logits, place = _posteriors(exact, own, noise, levels)
    total = np.logaddexp.reduce(logits, axis=-1)
    weights = np.exp(logits - total[..., None])
    entropy = -np.sum(weights * (logits - total[..., None]), axis=-1)
    rows = np.arange(60)
    own_logit = logits[rows, :, place]
    others = logits.copy()
    others[rows, :, place] = -np.inf
    odds = own_logit - np.logaddexp.reduce(others, axis=-1)
    _, first, counts = np.unique(exact, axis=0, return_index=True, return_counts=True)
    shares = counts / 40
    of_class = np.stack([weights[..., labels[first] == c].sum(-1) for c in range(3)], axis=-1)
    class_entropy = -np.sum(of_class * np.log(np.maximum(of_class, 1e-300)), axis=-1)
    class_shares = np.bincount(labels) / 40
    own_share = shares[place][:, None]
    # A logit's terms are rounded; where they are as large as 1 / sigma^2 the posterior is known.
    tolerance = 2e-5 if dtype == np.float32 else 1e-11
    expected = {
        "information": -np.sum(shares * np.log(shares)) - entropy,
        "log_odds": odds,
        "left_out": odds + np.log((1 - own_share) / own_share),
        "class_information": -np.sum(class_shares * np.log(class_shares)) - class_entropy,
    }
    for name, values in expected.items():
        found, error = _host(getattr(curve, name))
        scale = np.maximum(np.abs(values).mean(axis=0), 1)
        assert np.all(np.abs(found - values.mean(axis=0)) < tolerance * scale), name
        expected_error = values.std(axis=0, ddof=1) / np.sqrt(60)
        assert np.all(np.abs(error - expected_error) < tolerance * scale), name
    assert float(curve.max_information) == pytest.approx(np.log(40) - 2 / 40 * np.log(2), rel=1e-6)


@needs_float64
def test_the_rate_is_the_slope_of_the_information_at_the_same_draws():
    points, levels, step = _points(), np.geomspace(0.1, 10, 6), 1e-4
    high, low = (
        regimes.information_curve(points, KEY, levels * np.exp(s), num_draws=40).information.value
        for s in (step, -step)
    )
    rate = regimes.information_curve(points, KEY, levels, num_draws=40).rate.value
    # A central difference errs by step^2 / 6 times a third derivative, which is of the size of logits' powers here.
    assert np.allclose(rate, (low - high) / (2 * step), atol=1e-5)


def test_the_rate_is_the_least_error_over_the_noise_s_square():
    points = jnp.asarray(_points(copies=False))
    denoiser = sj.EmpiricalDenoiser(points)
    rate, of_rate = _host(regimes.information_curve(points, KEY, [0.4, 1.0], num_draws=2000).rate)
    own = np.random.default_rng(1).integers(40, size=2000)
    noise = sj.initial_noise(jax.random.key(1), 2000, 3, dtype=points.dtype)
    for i, level in enumerate((0.4, 1.0)):
        variance = jax.vmap(
            lambda x, z, s=level: denoiser.mean_and_variance(x + s * z, jnp.asarray(s, x.dtype))[1]
        )(points[own], noise)
        least, of_least = _host(sj.measures.mean_estimate(variance / level**2))
        assert abs(least - rate[i]) < 4 * np.hypot(of_least, of_rate[i])


def _of_pair(level):
    """Information of one of two points at -1 and 1, equally likely, by quadrature over the noise."""
    z, w = np.polynomial.hermite_e.hermegauss(120)
    odds = 2 * (1 + level * z) / level**2
    entropy = np.logaddexp(0, odds) - odds / (1 + np.exp(-odds))
    return np.log(2) - np.sum(w * entropy) / np.sum(w)


def _of_lattice(level):
    return _of_places(np.arange(9), level)


def _of_places(places, level):
    """The same of points on a line, by quadrature over u."""
    u = np.linspace(places[0] - 8 * level, places[-1] + 8 * level, 20_001)
    density = np.mean(stats.norm.pdf(u[:, None], places, level), axis=1)
    entropy = np.trapezoid(-density * np.log(np.maximum(density, 1e-300)), u)
    return entropy - 0.5 * np.log(2 * np.pi * np.e * level**2)


PLACES = np.sort(np.random.default_rng(7).normal(size=11))


def _of_random_points(level):
    return _of_places(PLACES, level)


@pytest.mark.parametrize(
    "points, exact",
    [
        ([[-1.0], [1.0]], _of_pair),
        (np.arange(9.0)[:, None], _of_lattice),
        (PLACES[:, None], _of_random_points),
    ],
)
def test_information_of_points_on_a_line(points, exact):
    levels = [0.5, 0.8, 2.0, 6.0]  # below, only rare noises count
    law = sj.EmpiricalDenoiser(jnp.asarray(points))
    found = {
        "entropy": regimes.information_curve(points, KEY, levels, num_draws=1800).information,
        "density": regimes.mutual_information(law, levels, KEY, num_draws=4000),
        "error": regimes.mutual_information(law, levels, KEY, route="error", num_draws=4000),
    }
    for name, estimate in found.items():
        value, error = _host(estimate)
        for i, level in enumerate(levels):
            # Beside the draws' error that of sums of roundings.
            assert abs(value[i] - exact(level)) < 4 * error[i] + 1e-6, (name, level)


def test_information_of_a_gaussian_in_closed_form_and_from_its_least_error():
    variances = jnp.array([4.0, 1.0, 0.01, 0.0])
    law = sj.GaussianDenoiser(jnp.arange(4.0), jnp.diag(variances))
    levels = np.array([1e-3, 0.1, 1.0, 1e3])
    exact = 0.5 * np.sum(np.log1p(np.asarray(variances, np.float64) / levels[:, None] ** 2), axis=1)
    tolerance = 1e-12 if X64 else 1e-6
    assert np.allclose(regimes.mutual_information(law, levels).value, exact, rtol=tolerance)
    value, error = _host(
        regimes.mutual_information(law, levels, KEY, num_draws=1000, route="density")
    )
    rounding = 1e-12 if X64 else 1e-4  # of logarithms of a few tens
    assert np.all(np.abs(value - exact) <= 4 * error + rounding)


def test_information_of_an_affine_law_by_its_error_is_that_of_the_gaussian_it_is():
    covariance = np.array([[2.0, 0.3], [0.3, 0.5]])
    one = sj.GaussianDenoiser(jnp.zeros(2), jnp.asarray(covariance))
    # A mixture of two equal Gaussians: nothing to integrate but roundings.
    law = sj.MixtureDenoiser.of([0.4, 0.6], [one, one])
    levels = [0.05, 1.0, 7.0]
    found = regimes.mutual_information(law, levels, KEY, route="error", num_draws=8)
    assert np.allclose(
        found.value, regimes.mutual_information(one, levels).value, atol=1e-9 if X64 else 1e-4
    )


def _mixture_information(level):
    """That of .3 N(-1, .1) + .7 N(2, .5) by quadrature."""
    u = np.linspace(-3 - 9 * level, 5 + 9 * level, 20_001)
    density = 0.3 * stats.norm.pdf(u, -1, np.sqrt(0.1 + level**2))
    density += 0.7 * stats.norm.pdf(u, 2, np.sqrt(0.5 + level**2))
    entropy = np.trapezoid(-density * np.log(np.maximum(density, 1e-300)), u)
    return entropy - 0.5 * np.log(2 * np.pi * np.e * level**2)


@pytest.mark.parametrize("route", ["density", "error"])
def test_information_of_a_mixture(route):
    law = sj.MixtureDenoiser([0.3, 0.7], jnp.array([[-1.0], [2.0]]), jnp.array([[[0.1]], [[0.5]]]))
    levels = [0.1, 0.6, 3.0]
    value, error = _host(regimes.mutual_information(law, levels, KEY, route=route, num_draws=4000))
    exact = np.array([_mixture_information(level) for level in levels])
    assert np.all(np.abs(value - exact) < 4 * error + 1e-5)
    elsewhere = np.array([[-1.0], [-1.0]])
    value, error = _host(
        regimes.mutual_information(law, levels, KEY, route=route, num_draws=500, points=elsewhere)
    )
    assert abs(value[0] - exact[0]) > 8 * error[0]  # of another law


def test_information_of_a_law_with_a_width_added():
    gaussian = sj.GaussianDenoiser(jnp.zeros(2), jnp.diag(jnp.array([1.0, 0.0])))
    law = sj.WidenedDenoiser(gaussian, 0.5)
    value, error = _host(regimes.mutual_information(law, [0.1, 1.0], KEY, num_draws=4000))
    exact = [0.5 * np.sum(np.log1p(np.array([1.25, 0.25]) / s**2)) for s in (0.1, 1.0)]
    assert np.all(np.abs(value - exact) < 4 * error)
    assert np.abs(value[0] - exact[1]) > 8 * error[0]
    # (1.25 / s + 1) (0.25 / s + 1) = 10^2 for s the square of the level.
    square = max(np.roots([99.0, -1.5, -0.3125]))
    level = regimes.population_collapse_level(law, 10, KEY)
    assert abs(float(level.value) - square**0.5) < 4 * float(level.standard_error)
    found = regimes.population_collapse_level(law, 10, KEY, points=jnp.zeros((1, 2)))
    assert abs(float(found.value) - square**0.5) > 8 * float(level.standard_error)  # other draws


def test_errors_of_odds_at_tiny_noise_are_finite(dtype):
    curve = regimes.information_curve(
        jnp.asarray(_points(copies=False), dtype), KEY, [1e-10], num_draws=8
    )
    there = regimes.information_curve(
        jnp.asarray(_points(copies=False), dtype), KEY, [1e-4], num_draws=8
    )
    ratio = curve.log_odds.standard_error / there.log_odds.standard_error
    # Odds are as the inverse square of the noise but for its cross term, a thousandth there.
    assert np.allclose(ratio, 1e12, rtol=1e-2)


def test_steps_of_a_grid_bring_equal_information():
    points = _points(copies=False)
    curve = regimes.information_curve(points, KEY, np.geomspace(0.05, 20, 60), num_draws=400)
    grid = curve.grid(9)
    assert np.all(np.diff(grid) < 0) and np.allclose(grid[jnp.array([0, -1])], [20, 0.05])
    there = regimes.information_curve(points, KEY, grid, num_draws=400).information.value
    # Between levels that are 10 % apart a curve bends by less than a hundredth of a step.
    assert np.allclose(np.diff(there), (there[-1] - there[0]) / 8, rtol=0.02)


def test_information_of_the_law_lies_between_that_of_its_points_and_that_against_the_others():
    law = sj.GaussianDenoiser(jnp.zeros(4), jnp.eye(4))
    points = np.random.default_rng(3).normal(size=(800, 4))
    levels = [0.3, 0.6, 1.2]
    curve = regimes.information_curve(points, KEY, levels, num_draws=800)
    exact, _ = _host(regimes.mutual_information(law, levels))
    (low, low_error), (high, high_error) = _host(curve.information), _host(curve.left_out)
    for i in range(3):
        # The points' own law is random too: its information errs by as much as that of other 800 draws.
        assert low[i] < exact[i] + 4 * np.sqrt(2) * low_error[i]
        assert high[i] > exact[i] - 4 * np.sqrt(2) * high_error[i]
    assert low[0] < exact[0] - 6 * low_error[0] and high[0] > exact[0] + 4 * high_error[0]


@pytest.mark.parametrize("dim, num", [(8, 100), (64, 100_000)])
def test_collapse_of_a_gaussian_population(dim, num):
    law = sj.GaussianDenoiser(jnp.zeros(dim), 4 * jnp.eye(dim))
    exact = 2 / np.sqrt(num ** (2 / dim) - 1)
    # Linear between levels that are .0005 apart in their logarithm.
    assert float(regimes.population_collapse_level(law, num).value) == pytest.approx(
        exact, rel=2e-6
    )


def test_collapse_of_points_tends_to_that_of_their_law():
    excesses = []
    for dim, num in ((8, 10), (16, 100), (24, 1_000)):  # log N / d is the same
        points = np.random.default_rng(5).normal(size=(num, dim)).astype(np.float32)
        found = regimes.collapse_level(points, KEY, num_draws=1024).sigma
        exact = 1 / np.sqrt(num ** (2 / dim) - 1)
        excess = float(found.value) / exact - 1
        # Against N - 1 other points the information is larger than against the law, so that even odds come at more noise.
        assert excess > -4 * float(found.standard_error) / exact
        excesses.append(excess)
    assert excesses[0] > excesses[1] > excesses[2] and excesses[2] < 0.1


def test_even_odds_of_single_points():
    points = np.concatenate([_points(20, 2, copies=False), [[6.0, 0.0]]])
    noise = np.asarray(sj.initial_noise(KEY, 2, 2, dtype=jnp.result_type(float)), np.float64)
    found = regimes.collapse_levels_of_points(points, KEY, num_noises=2, rows=[0, 3, 20])

    def odds(time, k):
        level = np.array([np.exp(time)])
        logits, place = _posteriors(points, [k, k], noise, level)
        own = logits[[0, 1], 0, place]
        others = logits[:, 0].copy()
        others[[0, 1], place] = -np.inf
        return np.mean(own - np.logaddexp.reduce(others, axis=-1))

    for level, k in zip(found, (0, 3, 20), strict=True):
        exact = np.exp(optimize.brentq(odds, np.log(0.02), np.log(50), (k,)))
        # Interpolated over steps of a quarter in log sigma, in which odds bend.
        assert float(level) == pytest.approx(exact, rel=0.03), k
    assert jnp.argmax(regimes.collapse_levels_of_points(points, KEY)) == 20


def test_copies_are_one_location():
    once = np.random.default_rng(0).normal(size=(30, 4))
    levels = regimes.collapse_levels_of_points(np.concatenate([once, once]), KEY)
    assert np.array_equal(levels[:30], levels[30:])
    alone = regimes.collapse_levels_of_points(once, KEY)
    assert np.allclose(levels[:30], alone, rtol=1e-5)
    assert regimes.collapse_level(np.concatenate([once, once]), KEY).sigma.value > 0.1


def test_speciation_is_the_width_of_the_widest_direction():
    direction = np.array([2.0, 1.0, -2.0]) / 3
    mixture = sj.MixtureDenoiser(
        [0.5, 0.5], np.stack([5 * direction, -5 * direction]), 2 * np.stack([np.eye(3)] * 2)
    )
    assert float(regimes.speciation_level(mixture)) == pytest.approx(np.sqrt(27), rel=1e-6)
    for shape in ((50, 4), (4, 50)):
        points = np.random.default_rng(0).normal(size=shape)
        exact = np.sqrt(np.linalg.eigvalsh(np.cov(points.T, bias=True))[-1])
        assert float(regimes.speciation_level(points)) == pytest.approx(exact, rel=1e-5)


def test_the_level_at_which_half_of_a_class_is_known():
    levels = np.geomspace(0.2, 5, 30)
    curve = regimes.information_curve(
        np.array([[-1.0], [1.0]]), KEY, levels, labels=[3, 8], num_draws=4000
    )
    exact = optimize.brentq(lambda s: _of_pair(s) - 0.5 * np.log(2), 0.3, 3)
    found = regimes.class_level(curve)
    assert abs(float(found.value) - exact) < 4 * float(found.standard_error) + 1e-3
    quarter = optimize.brentq(lambda s: _of_pair(s) - 0.25 * np.log(2), 0.3, 5)
    found = regimes.class_level(curve, 0.25)
    assert abs(float(found.value) - quarter) < 4 * float(found.standard_error) + 1e-3


def test_dimension_of_a_gaussian_of_five_directions():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(20, 5)))[0]
    law = sj.GaussianDenoiser.low_rank(np.zeros(20), basis, np.ones(5))
    x = jnp.asarray(basis @ rng.normal(size=5))
    assert float(regimes.intrinsic_dimension(law, x, 0.01)) == pytest.approx(5, abs=0.02)
    bare = regimes.intrinsic_dimension(lambda u, s: law(u, s), x, 0.01)
    # The trace's terms are near one, and their sum is divided by nothing.
    assert float(bare) == pytest.approx(5, abs=0.02)


@needs_float64
def test_dimension_is_the_slope_of_the_log_density():
    law = sj.MixtureDenoiser(
        [0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], np.stack([0.2 * np.eye(2), np.diag([1.0, 0.1])])
    )
    x = jnp.array([0.3, -0.2])
    for level in (0.2, 1.0, 5.0):
        slope = jax.grad(lambda t: law.log_density(x, jnp.exp(t)))(jnp.log(jnp.asarray(level)))
        found = regimes.intrinsic_dimension(law, x, level)
        assert float(found) == pytest.approx(2 + float(slope), abs=1e-10)


@pytest.mark.parametrize("dim", [3, 100])
def test_dimension_at_training_points_for_all_levels_at_once(dim):
    points = jnp.asarray(_points(dim=dim))
    levels = np.array([0.01, 0.5, 2.0, 20.0])
    found = regimes.dimension_of_training_points(points, levels, rows=[5, 9, 11])
    assert np.all(np.abs(found[:, 0]) < 0.01)  # memorised
    denoiser = sj.EmpiricalDenoiser(points)
    for i, k in enumerate((5, 9, 11)):
        for j, level in enumerate(levels):
            expected = float(regimes.intrinsic_dimension(denoiser, points[k], level))
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-9 if X64 else 2e-3)


def test_curvature_of_a_mixture_and_of_a_rotation():
    law = sj.MixtureDenoiser([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], np.stack([0.1 * np.eye(2)] * 2))
    u, level = jnp.array([0.2, 0.4]), 0.5
    found = np.asarray(regimes.curvature_spectrum(law, u, level))
    # Across the two the variance of their means adds to a component's gain, along them nothing does.
    spread, weight = 0.1 + 0.25, 1 / (1 + np.exp(-2 * 0.2 / 0.35))
    between = (0.25 / spread) ** 2 * 4 * weight * (1 - weight) / 0.25
    assert np.allclose(found, [0.1 / spread + between, 0.1 / spread], rtol=1e-5)
    bare = regimes.curvature_spectrum(lambda u, s: law(u, s), u, level)
    assert np.allclose(bare, found, rtol=1e-4)
    turn = jnp.array(
        [[0.5, -1.0], [1.0, 0.5]]
    )  # what is antisymmetric has no eigenvalue of its own
    assert np.allclose(regimes.curvature_spectrum(lambda u, s: turn @ u, u, level), 0.5, rtol=1e-5)


@pytest.mark.parametrize("stochasticity", [0.0, 1.0])
def test_a_u_turn_between_two_points(stochasticity):
    pair, level = np.array([[-1.0], [1.0]], np.float32), 1.3
    denoiser = sj.EmpiricalDenoiser(jnp.asarray(pair))
    turn = regimes.u_turn(
        denoiser, pair, [level], KEY, labels=[1, 1], num_draws=1000, stochasticity=stochasticity
    )
    if stochasticity:  # the posterior of the noised point
        z, w = np.polynomial.hermite_e.hermegauss(120)
        exact = np.sum(w / (1 + np.exp(-2 * (1 + level * z) / level**2))) / np.sum(w)
    else:  # the flow keeps its sign
        exact = stats.norm.cdf(1 / level)
    error = np.sqrt(exact * (1 - exact) / 1000)
    # Steps of a seventh in log sigma move the paths by less than a tenth of that error at the sign's change.
    assert abs(float(turn.same_point[0]) - exact) < 4 * error + 0.01
    assert float(turn.same_class[0]) == 1
    assert np.allclose(np.abs(turn.outputs), 1, atol=1e-5)
    assert turn.same_point.dtype == turn.same_point_interval.dtype == turn.sigma.dtype
    away = np.asarray(pair)[turn.ends[0], 0] != np.asarray(pair)[turn.rows, 0]
    assert float(turn.distance[0]) == pytest.approx(2 * np.sqrt(away.mean()), rel=1e-4)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: regimes.information_curve([[1.0], [1.0]], KEY, [1.0]), "two different points"),
        (lambda: regimes.information_curve([[1.0], [2.0]], KEY, [0.0]), "`levels`"),
        (lambda: regimes.information_curve([[1.0], [2.0]], KEY, [[1.0]]), "shape"),
        (lambda: regimes.information_curve([[1.0], [2.0]], KEY, labels=[1]), "labels"),
        (lambda: regimes.collapse_level([[1.0], [2.0]], KEY), "three different points"),
        (lambda: regimes.collapse_levels_of_points(_points(), KEY, rows=[40]), "0..39"),
        (lambda: regimes.collapse_levels_of_points(_points(), KEY, rows=[0.5]), "`rows`"),
        (lambda: regimes.u_turn(lambda u, s: u, _points(), [1.0], KEY, sigma_min=2.0), "sigma_min"),
        (
            lambda: regimes.u_turn(lambda u, s: u, _points(), [1.0], KEY, stochasticity=-1.0),
            "`stochasticity` must be non-negative",
        ),
        (
            lambda: regimes.u_turn(lambda u, s: u * np.nan, _points(), [1.0], KEY, num_draws=2),
            "`denoiser` must lead to finite points",
        ),
        (
            lambda: regimes.speciation_level(sj.TemperedDenoiser(_points(), 2.0)),
            "a denoiser that knows its law's covariance; got TemperedDenoiser",
        ),
        (
            lambda: regimes.mutual_information(
                sj.EmpiricalDenoiser(_points()),
                [1.0],
                KEY,
                points=sj.datasets.Dataset("points", _points()),
            ),
            "must be an array of numbers; got Dataset.*Give its `points`",
        ),
        (lambda: regimes.noise_levels([[1.0], [2.0]], 1), "an integer of at least 2; got 1"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_laws_and_curves_that_cannot_answer_say_so():
    law = sj.EmpiricalDenoiser(jnp.asarray(_points()))
    with pytest.raises(ValueError, match="key"):
        regimes.mutual_information(law, [1.0])
    with pytest.raises(ValueError, match="closed"):
        regimes.mutual_information(law, [1.0], KEY, route="closed")
    with pytest.raises(ValueError, match="points"):
        regimes.mutual_information(sj.TemperedDenoiser(_points(), 2.0), [1.0], KEY)
    num = len(np.unique(_points(), axis=0))
    for more in (num, 100):  # of N points themselves it is log N at most
        with pytest.raises(ValueError, match=f"log {more}"):
            regimes.population_collapse_level(law, more, KEY, num_draws=64)
    curve = regimes.information_curve(_points(), KEY, [1.0, 2.0], num_draws=8)
    with pytest.raises(ValueError, match="labels"):
        regimes.class_level(curve)
    with pytest.raises(ValueError, match="num_levels"):
        curve.grid(1)


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_units_of_the_data_decide_nothing_but_levels(unit):
    points, levels = _points(copies=False), np.array([0.1, 1.0, 10.0])
    here = regimes.information_curve(points, KEY, levels, num_draws=40)
    there = regimes.information_curve(points * unit, KEY, levels * unit, num_draws=40)
    for name in ("information", "left_out", "rate"):
        one, other = (_host(getattr(curve, name))[0] for curve in (here, there))
        # Rounding the points in another unit moves them by a rounding.
        assert np.allclose(one, other, rtol=1e-3, atol=1e-5), name
    collapse = regimes.collapse_level(points, KEY, num_draws=40).sigma
    scaled = regimes.collapse_level(points * unit, KEY, num_draws=40).sigma
    assert float(scaled.value) / unit == pytest.approx(float(collapse.value), rel=1e-4)
    dimension = regimes.dimension_of_training_points(points * unit, levels * unit, rows=[3])
    expected = regimes.dimension_of_training_points(points, levels, rows=[3])
    assert np.allclose(dimension, expected, rtol=1e-3, atol=1e-5)
