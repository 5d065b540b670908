"""Which mechanism explains a network: fits and verdicts against closed forms, planted answers, repeated draws."""

import dataclasses
import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from jax.tree_util import Partial

import smoothjax as sj
from smoothjax import mechanisms
from smoothjax.experiments._explain.affine import affine_outputs
from smoothjax.experiments._explain.candidates import Candidate
from smoothjax.experiments._explain.combinations import nearest_combination
from smoothjax.experiments._explain.figures import plot_image_samples, plot_strengths
from smoothjax.experiments._explain.labelled import Level
from smoothjax.experiments._explain.memorised import (
    memorised_points,
    most_memorised,
    nearest_others,
)
from smoothjax.experiments._explain.verdicts import indistinguishable, judged
from smoothjax.mechanisms import Mechanism, Strength

DIM, LEVEL = 6, 0.5


def _train(num=40, dim=DIM):
    points = np.random.default_rng(0).normal(size=(num, dim))
    return sj.datasets.Dataset("points", points)


class _Scaled(eqx.Module):
    """`value * g(u)`: least squares for the value has a closed form."""

    value: jax.Array
    of: str = eqx.field(static=True)

    def __call__(self, u, sigma):
        return self.value * (jnp.tanh(u) if self.of == "tanh" else jnp.cos(u))


def _scaled(name, values=(0.5, 1.0, 2.0, 4.0), **options):
    strength = Strength(
        "size",
        lambda train: values,
        lambda train, seed: Partial(lambda value: _Scaled(value, name)),
        is_continuous=True,
        **options,
    )
    return Mechanism(name, name, lambda train, seed: _Scaled(jnp.ones(()), name), strength=strength)


def _noisy(num, seed):
    return np.random.default_rng(seed).normal(size=(num, DIM))


@pytest.mark.parametrize("logarithmic", [True, False])
def test_a_strength_is_that_of_least_squares(logarithmic):
    candidate = Candidate(_scaled("tanh", is_logarithmic=logarithmic), _train(), 0, 16)
    u, rng = _noisy(24, 1), np.random.default_rng(2)
    network = 1.37 * np.tanh(u) + 0.2 * rng.normal(size=u.shape)
    found = candidate.fit(network, u, LEVEL, 20, 0.9)
    x, y = np.tanh(u[:20]), network[:20]
    expected = np.sum(x * y) / np.sum(x * x)
    # One step of Newton's from a place that is known to a hundredth of the grid's distance, log 4 or 1.5: what is left is
    # of the order of the square of a hundredth.
    assert found.value == pytest.approx(expected, rel=3e-4)
    np.testing.assert_allclose(found.outputs, found.value * np.tanh(u), rtol=1e-6, atol=1e-6)
    # The strengths at which Student's statistic of the slopes is its quantile: roots of a quadratic, exactly.
    a, b = np.mean(x * x, axis=1), np.mean(x * y, axis=1)
    quantile = 1.729132811521367  # of Student's law with 19 degrees of freedom, at 0.95 (tables)
    values = np.linspace(found.low * 0.9, found.high * 1.1, 200001)
    slopes = a[:, None] * values - b[:, None]
    kept = np.abs(slopes.mean(axis=0)) <= quantile * slopes.std(axis=0, ddof=1) / math.sqrt(20)
    width = found.high - found.low
    assert abs(found.low - values[kept][0]) < 0.03 * width
    assert abs(found.high - values[kept][-1]) < 0.03 * width


def test_intervals_cover_as_often_as_they_say():
    candidate = Candidate(_scaled("tanh"), _train(), 0, 32)
    covered, rng = 0, np.random.default_rng(5)
    for repeat in range(200):
        u = _noisy(20, 100 + repeat)
        # Errors of a size that differs from point to point, as those of networks do.
        error = rng.normal(size=u.shape) * rng.exponential(0.3, size=(20, 1))
        found = candidate.fit(1.7 * np.tanh(u) + error, u, LEVEL, 20, 0.9)
        covered += found.low <= 1.7 <= found.high
    # Three standard deviations of a binomial with 200 draws: .064.
    assert abs(covered / 200 - 0.9) < 0.064


def test_a_strength_at_its_bound():
    candidate = Candidate(_scaled("tanh"), _train(), 0, 16)
    u = _noisy(20, 3)
    found = candidate.fit(9.0 * np.tanh(u), u, LEVEL, 20, 0.9)
    assert (found.value, found.high) == pytest.approx((4.0, 4.0), rel=1e-6)


def test_where_a_strength_does_nothing_its_interval_is_everything():
    # Of two points far apart and little noise: the nearest, at every temperature.
    train = sj.datasets.Dataset("two", np.array([[-100.0], [100.0]]))
    candidate = Candidate(mechanisms.get("empirical"), train, 0, 4)
    u = np.array([[-100.1], [99.9], [100.1], [-99.9]])
    found = candidate.fit(np.sign(u) * 100 + 0.01 * u, u, 0.1, 4, 0.9)
    assert found.low == pytest.approx(candidate.values[0]), found
    assert found.high == pytest.approx(candidate.values[-1])


class _Stepped(eqx.Module):
    """`(value - 1.37) g(u)`, and nothing near 1.37: as rounding makes of it."""

    value: jax.Array

    def __call__(self, u, sigma):
        near = jnp.abs(self.value - 1.37) < 0.03
        return jnp.where(near, 0.0, self.value - 1.37).astype(u.dtype) * u


def test_the_search_for_an_interval_ends_where_no_square_has_a_slope():
    strength = Strength(
        "size",
        lambda train: (0.0, 1.0, 2.0),
        lambda train, seed: Partial(_Stepped),
        is_continuous=True,
        is_logarithmic=False,
    )
    mechanism = Mechanism(
        "stepped", "", lambda train, seed: _Scaled(jnp.ones(()), "tanh"), strength=strength
    )
    candidate = Candidate(mechanism, _train(), 0, 8)
    u = _noisy(8, 1)
    # A first step of the length of the interval in linear approximation would be zero, and so would be its doubles.
    found = candidate.fit(np.zeros_like(u), u, LEVEL, 8, 0.9)
    assert 1.2 < found.low <= found.value <= found.high < 1.5, found


class _Recording(Candidate):
    """Remembers at how many points each value was asked."""

    def outputs(self, value, u, sigma):
        self.__dict__.setdefault("asked", []).append((value, len(u)))
        return super().outputs(value, u, sigma)


def _discrete(name, **options):
    values = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
    strength = Strength(
        "size",
        lambda train: values,
        lambda train, seed: lambda value: _Scaled(jnp.asarray(value), name),
        **options,
    )
    return Mechanism(name, name, lambda train, seed: _Scaled(jnp.ones(()), name), strength=strength)


@pytest.mark.parametrize("has_one_minimum", [True, False])
def test_values_far_behind_at_the_first_points_are_left_there(has_one_minimum):
    mechanism = _discrete("tanh", has_one_minimum=has_one_minimum)
    candidate = _Recording(mechanism, _train(), 0, 16)
    u, rng = _noisy(40, 1), np.random.default_rng(2)
    network = 2.6 * np.tanh(u) + 0.1 * rng.normal(size=u.shape)
    found = candidate.fit(network, u, LEVEL, 32, 0.9)
    squares = np.array([np.mean((v * np.tanh(u[:32]) - network[:32]) ** 2) for v in range(1, 8)])
    assert found.value == 1 + np.argmin(squares) == 3
    np.testing.assert_allclose(found.outputs, 3 * np.tanh(u), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.grid_outputs[found.grid == 3][0], found.outputs[:32])
    # At eight points all, or, where distances fall and rise once, all up to the second that is far behind; then 24 for those
    # that are left, and the best at the points after the calibration.
    last = 5 if has_one_minimum else 7
    assert candidate.asked[:last] == [(float(v), 8) for v in range(1, last + 1)]
    assert candidate.asked[last:] == [*((float(v), 24) for v in found.grid), (3.0, 8)]
    assert 3.0 in found.grid and len(found.grid) <= 3


@pytest.mark.parametrize(
    ("near", "order"),
    [(3.0, [3, 4, 5, 2, 1]), (1.0, [1, 2, 3, 4, 5]), (6.0, [6, 7, 5, 4, 3, 2, 1])],
)
def test_values_are_tried_from_that_of_a_noise_level_nearby(near, order):
    mechanism = _discrete("tanh", has_one_minimum=True)
    u, rng = _noisy(40, 1), np.random.default_rng(2)
    network = 2.6 * np.tanh(u) + 0.1 * rng.normal(size=u.shape)
    candidate = _Recording(mechanism, _train(), 0, 16)
    found = candidate.fit(network, u, LEVEL, 32, 0.9, near)
    # Up until two in a row are far behind 3, which is the best, then down as far.
    assert candidate.asked[: len(order)] == [(float(v), 8) for v in order]
    assert all(num > 8 or value == 3 for value, num in candidate.asked[len(order) :])
    # The same, wherever it began.
    want = Candidate(mechanism, _train(), 0, 16).fit(network, u, LEVEL, 32, 0.9)
    for name, got in found._asdict().items():
        np.testing.assert_array_equal(got, getattr(want, name), err_msg=name)


def test_a_combination_with_a_discrete_strength():
    candidates = [
        Candidate(_scaled("tanh"), _train(), 0, 32),
        _Recording(_discrete("cos"), _train(), 0, 32),
    ]
    u, rng = _noisy(40, 4), np.random.default_rng(6)
    network = 0.4 * 1.5 * np.tanh(u) + 0.6 * 3 * np.cos(u) + 0.05 * rng.normal(size=u.shape)
    fits = [one.fit(network, u, LEVEL, 32, 0.9) for one in candidates]
    fits[1] = fits[1]._replace(
        grid=np.array(candidates[1].values),
        grid_outputs=np.stack([v * np.cos(u[:32]) for v in candidates[1].values]),
    )
    asked = len(candidates[1].asked)
    found = nearest_combination(candidates, fits, network, u, LEVEL, 32, 0.9)
    # Of the discrete strength and the products of weight and strength, the last two by least squares.
    columns = np.stack([np.tanh(u[:32]).ravel(), np.cos(u[:32]).ravel()], axis=1)
    first, second = np.linalg.lstsq(columns, network[:32].ravel(), rcond=None)[0]
    assert found.names == ("tanh", "cos") and found.strengths[1] in candidates[1].values
    assert found.weight == pytest.approx(1 - second / found.strengths[1], rel=2e-3)
    assert found.weight * found.strengths[0] == pytest.approx(first, rel=2e-3)
    # Nothing is computed again but at the eight points that were not of the calibration, if at all.
    assert candidates[1].asked[asked:] in ([], [(found.strengths[1], 8)])


def _pair(network, u, coverage=0.9):
    train = _train()
    candidates = [Candidate(_scaled(name), train, 0, 32) for name in ("tanh", "cos")]
    fits = [c.fit(network, u, LEVEL, len(u), coverage) for c in candidates]
    return nearest_combination(candidates, fits, network, u, LEVEL, len(u), coverage)


def test_a_combination_is_that_of_least_squares():
    u, rng = _noisy(40, 4), np.random.default_rng(6)
    # Both strengths and the weight: three numbers for two products, so that one strength is at its bound.
    network = 0.3 * 2.0 * np.tanh(u) + 0.7 * 4.0 * np.cos(u) + 0.05 * rng.normal(size=u.shape)
    found = _pair(network, u)
    assert found is not None and found.names == ("tanh", "cos")
    columns = np.stack([np.tanh(u).ravel(), np.cos(u).ravel()], axis=1)
    first, second = np.linalg.lstsq(columns, network.ravel(), rcond=None)[0]
    assert found.weight * found.strengths[0] == pytest.approx(first, rel=2e-3)
    assert (1 - found.weight) * found.strengths[1] == pytest.approx(second, rel=2e-3)


def test_weights_are_covered_as_often_as_intervals_say():
    train, rng = _train(), np.random.default_rng(8)
    # Strengths with one value each: the weight alone is free.
    candidates = [Candidate(_scaled(n, values=(1.0,)), train, 0, 32) for n in ("tanh", "cos")]
    covered = 0
    for repeat in range(200):
        u = _noisy(30, 500 + repeat)
        network = 0.3 * np.tanh(u) + 0.7 * np.cos(u) + 0.5 * rng.normal(size=u.shape)
        fits = [c.fit(network, u, LEVEL, 30, 0.9) for c in candidates]
        found = nearest_combination(candidates, fits, network, u, LEVEL, 30, 0.9)
        assert found is not None
        covered += found.low <= 0.3 <= found.high
    assert abs(covered / 200 - 0.9) < 0.064  # three standard deviations


def test_of_one_candidate_there_is_no_combination():
    assert (
        nearest_combination([Candidate(_scaled("tanh"), _train(), 0, 8)], [], *[None] * 5) is None
    )


def test_the_best_is_kept_as_often_as_it_should_be():
    kept, alone = 0, 0
    rng = np.random.default_rng(0)
    for repeat in range(300):
        common = rng.exponential(size=30)
        squares = (
            common + 0.3 * rng.normal(size=(5, 30)) + np.array([1.0, 1.0, 1.05, 1.1, 3.0])[:, None]
        )
        found = indistinguishable(squares, 0.95, repeat)
        kept += found[0]
        alone += not found[4]
    # The first and the second are equally good: each may leave in one of twenty, at most.
    assert kept / 300 > 0.95 - 3 * math.sqrt(0.05 * 0.95 / 300)
    # The last is two away, twenty-five standard errors.
    assert alone == 300


def test_equal_candidates_are_told_apart_by_nothing():
    squares = np.random.default_rng(0).exponential(size=(1, 20))
    assert indistinguishable(np.concatenate([squares, squares, 2 * squares]), 0.95, 0).tolist() == [
        *(True, True, False)
    ]


@pytest.mark.parametrize("num", [2, 3, 4])
def test_few_points_tell_nothing_apart_by_themselves(num):
    # Two equal candidates: each leaves in one of forty draws, at most.
    rng, left = np.random.default_rng(0), 0
    for repeat in range(100):
        left += not indistinguishable(rng.exponential(size=(2, num)), 0.95, repeat).all()
    assert left / 100 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 100)


def test_two_that_are_nearly_one_do_not_hide_a_third():
    """Their difference is rounding at a few of the points, whose statistic has a long tail; the third is far away."""
    rng = np.random.default_rng(0)
    left = 0
    for repeat in range(20):
        near = rng.exponential(size=64)
        almost = near + 1e-6 * (rng.uniform(size=64) < 0.05) * rng.exponential(size=64)
        far = 2 * rng.exponential(size=64) + 1
        left += not indistinguishable(np.stack([near, almost, far]), 0.95, repeat)[2]
    # The third is two away, seven standard errors.
    assert left == 20


def test_of_one_candidate_no_other_is_spoken_of():
    one, ones = np.array([0.1]), np.ones(1)
    found = judged(one, 0.1 * one, np.zeros((1, 1)), 1.0, ones, 0 * ones)
    assert found["is_explained"] and found["reason"] == "0.1 away, and no other was asked"


@pytest.mark.parametrize(("weight", "shown"), [(0.001, False), (0.2, True), (0.998, False)])
def test_a_combination_of_one_is_not_shown(weight, shown):
    level = Level.__new__(Level)
    rng = np.random.default_rng(0)
    level._settings, level._network = QUICK, rng.normal(size=(20, 3))
    interval = {"low": weight - 1e-4, "high": weight + 1e-4, "weight": weight}
    outputs = np.concatenate([np.zeros((QUICK.num_calibration, 3)), level._network])
    level._pair = {"outputs": outputs, "names": ("a", "b"), "strengths": (1.0, 1.0), **interval}
    # Rounding: the combination is the network, and the best single candidate about 1e-7 away, at every point.
    squares = 1e-14 * rng.uniform(1, 2, size=(2, 20))
    assert level._combined(squares)["combination_is_nearer"] == shown


def test_no_share_is_negative_in_words():
    one, ones = np.array([0.1]), np.ones(1)
    found = judged(one, 0 * one, np.zeros((1, 1)), 1.0, -0.001 * ones, 0 * ones)
    assert "explains 0% of its departure" in str(found["reason"])


def test_an_affine_network_is_its_own_affine_reference():
    rng, train = np.random.default_rng(0), _train(200)
    matrix, offset = rng.normal(size=(DIM, DIM)), rng.normal(size=DIM)
    u = rng.normal(size=(150, DIM))
    gaussian = sj.GaussianDenoiser.fit(train.points)
    network = u @ matrix.T + offset
    found = affine_outputs(gaussian, u, network, LEVEL, 100, 20)
    # The least penalty of the search is 1e-4 of the mean eigenvalue of the kernel, 1 / 100 of its trace: of the directions
    # of least variance it leaves at most some per cent.
    assert np.sqrt(np.mean((found - network) ** 2)) < 0.03 * np.sqrt(np.mean(network**2))
    # A network that is the Gaussian denoiser itself leaves nothing to fit.
    exact = np.asarray(jax.vmap(lambda x: gaussian(x, LEVEL))(jnp.asarray(u)))
    np.testing.assert_allclose(affine_outputs(gaussian, u, exact, LEVEL, 100, 20), exact, atol=2e-6)


@pytest.mark.parametrize("level", [0.05, 0.5])
def test_the_affine_reference_is_no_farther_than_shrunken_gaussians(level):
    """With no more training points than coordinates, the Gaussian denoiser is far from any network that generalises."""
    rng, dim = np.random.default_rng(0), 60
    draw = lambda num: rng.normal(size=(num, dim)) / np.sqrt(1 + np.arange(dim))  # noqa: E731
    gaussian = sj.GaussianDenoiser.fit(jnp.asarray(draw(60)))
    u = draw(90) + level * rng.normal(size=(90, dim))
    at = lambda one: np.asarray(jax.vmap(lambda x: one(x, level))(jnp.asarray(u)))  # noqa: E731
    truth = sj.GaussianDenoiser(jnp.zeros(dim), jnp.asarray(np.diag(1 / (1.0 + np.arange(dim)))))
    network = at(truth)
    rmse = lambda found: np.sqrt(np.mean((found - network)[60:] ** 2))  # noqa: E731
    found = rmse(affine_outputs(gaussian, u, network, level, 40, 20))
    others = [rmse(at(gaussian.shrunk(theta))) for theta in (0.0, 0.05, 0.2, 0.5, 1.0)]
    # What is left is the choice by 20 points and a grid whose values lie a factor of two apart.
    assert found < 1.05 * min(others) and found < 0.8 * others[0]


DIGITS = sj.datasets.digits().split(600, seed=0)
QUICK = sj.ExplainSettings(
    levels=(0.3, 1.0), candidates=("empirical", "gaussian"), num_samples=0, num_training=32
)


class _Counted:
    """A network that counts its calls, on the host."""

    def __init__(self, inner):
        self.inner, self.calls = inner, 0

    def __call__(self, u, sigma):
        jax.debug.callback(self._count)
        return self.inner(u, sigma)

    def _count(self):
        self.calls += 1


def _smooth(dim, spread, seed):
    """A random map whose values at points of a set are about independent: cosines of short waves."""
    rng = np.random.default_rng(seed)
    waves, phases = rng.normal(size=(dim, 4 * dim)), rng.uniform(0, 2 * np.pi, 4 * dim)
    out = rng.normal(size=(4 * dim, dim)) / math.sqrt(2 * dim)
    arrays = [jnp.asarray(x, DIGITS[0].points.dtype) for x in (waves, phases, out)]

    def map_(u, sigma):
        length = 0.25 * jnp.sqrt(dim * (spread**2 + sigma**2)).astype(u.dtype)
        return jnp.cos(u @ arrays[0] / length + arrays[1]) @ arrays[2]

    return map_


@pytest.mark.parametrize(
    ("family", "strength"), [("empirical", 3.3), ("gaussian", 0.27), ("mixture", 5.0)]
)
def test_a_planted_mechanism_is_found(family, strength):
    train, held_out = DIGITS
    made = mechanisms.get(family).strength.at(train, 0)(strength)
    disturb = _smooth(train.dim, 0.5, 3)
    network = lambda u, sigma: made(u, sigma) + 0.015 * disturb(u, sigma)  # noqa: E731
    settings = dataclasses.replace(QUICK, candidates=("empirical", "gaussian", "mixture"))
    found = sj.explain(network, train, held_out, settings, progress=False)
    for verdict in found.verdicts:
        assert verdict.best == family and verdict.indistinguishable == (family,), verdict
        low, high = verdict.interval
        # Half a width beyond the 90 % interval: 99 %, twice.
        slack = 0.5 * (high - low)
        assert low - slack <= strength <= high + slack, verdict
        # All that is left is what disturbs, of root mean square .015 but for the draw of its amplitudes (a part in ten).
        assert verdict.rmse == pytest.approx(0.015, rel=0.3)
    assert found.dataset.explained.sel(candidate=family).min() > 0.5 or family == "gaussian"


def test_a_planted_combination_is_found():
    train, held_out = DIGITS
    first, second = sj.TemperedDenoiser(train.points, 2.0), sj.GaussianDenoiser.fit(train.points)
    network = lambda u, s: 0.4 * first(u, s) + 0.6 * second(u, s)  # noqa: E731
    settings = dataclasses.replace(QUICK, levels=(1.0,))
    found = sj.explain(network, train, held_out, settings, progress=False)
    one = found.dataset.isel(sigma=0)
    assert [str(name) for name in one.combination.values] == ["empirical", "gaussian"]
    # The search ends where a step gains less than 1e-4 of the square that is left.
    np.testing.assert_allclose(one.combination_weight, 0.4, rtol=0.01)
    np.testing.assert_allclose(one.combination_strength[0], 2.0, rtol=0.02)
    assert "At noise level 1 a combination of empirical and gaussian is nearer" in found.summary()


def test_a_random_map_is_none_of_them():
    train, held_out = DIGITS
    map_, mean = _smooth(train.dim, 0.5, 0), jnp.mean(train.points, axis=0)
    found = sj.explain(lambda u, s: mean + 0.5 * map_(u, s), train, held_out, QUICK, progress=False)
    assert [verdict.best for verdict in found.verdicts] == [None, None]
    assert "no mechanism explains the network" in found.summary()


def test_an_untrained_network_is_none_of_them():
    train, held_out = DIGITS
    spread = float(np.sqrt(np.mean(np.var(np.asarray(train.points), axis=0))))
    mean = jnp.mean(train.points, axis=0)
    network = lambda u, s: mean + (u - mean) / (1 + (s / spread) ** 2).astype(u.dtype)  # noqa: E731
    found = sj.explain(network, train, held_out, QUICK, progress=False)
    # It is the Gaussian one of shrinkage 1 to rounding, and nothing of its training is explained by that.
    np.testing.assert_allclose(found.dataset.strength.sel(candidate="gaussian"), 1.0, atol=2e-3)
    assert float(found.dataset.untrained_rmse.max()) < 1e-6
    assert [verdict.best for verdict in found.verdicts] == [None, None]


def test_memorised_share():
    train, held_out = DIGITS
    settings = dataclasses.replace(
        QUICK, levels=(0.3,), candidates=("gaussian",), num_evaluation=200, num_training=200
    )
    memoriser = sj.EmpiricalDenoiser(train.points)
    one = sj.explain(memoriser, train, held_out, settings, progress=False).dataset
    # The memoriser itself has memorised all, whatever the points.
    np.testing.assert_allclose(one.memorized_share, 1.0, rtol=1e-6)
    known = held_out.points[300:]  # neither trained on nor measured at
    other = sj.GaussianDenoiser.fit(known)
    one = sj.explain(other, train, held_out, settings, progress=False).dataset
    assert abs(float(one.memorized_share[0])) < 4 * float(one.memorized_share_se[0])
    assert float(one.memorized_share_se[0]) < 0.2
    # Half of the training points: the memoriser of those, and elsewhere the other one.
    half = sj.EmpiricalDenoiser(train.points[:300])

    def mixed(u, sigma):
        near = (
            jnp.min(jnp.sum((train.points[:300] - u[None]) ** 2, axis=1))
            < 1.5 * train.dim * sigma**2
        )
        return jnp.where(near, half(u, sigma), other(u, sigma))

    settings = dataclasses.replace(settings, num_training=600)
    one = sj.explain(mixed, train, held_out, settings, progress=False).dataset
    assert float(one.memorized_share[0]) == pytest.approx(
        0.5, abs=4 * float(one.memorized_share_se[0]) + 0.05
    )


def test_losses_and_distances_are_those_of_the_functions():
    train, held_out = DIGITS
    network = sj.TemperedDenoiser(train.points, 2.0)
    one = sj.explain(network, train, held_out, QUICK, progress=False).dataset
    clean = np.asarray(held_out.points[32:96], np.float64)
    key = jax.random.fold_in(jax.random.key(0), 0)
    noise = np.asarray(sj.initial_noise(key, 96, train.dim, dtype=train.points.dtype))[32:]
    for i, sigma in enumerate(QUICK.levels):
        u = jnp.asarray(clean + sigma * noise, train.points.dtype)
        outputs = np.asarray(jax.vmap(network, (0, None))(u, sigma), np.float64)
        loss = np.mean((outputs - clean) ** 2)
        np.testing.assert_allclose(one.network_loss[i], loss, rtol=1e-5)
        gaussian = sj.GaussianDenoiser.fit(train.points).shrunk(
            float(one.strength.sel(candidate="gaussian")[i])
        )
        other = np.asarray(jax.vmap(gaussian, (0, None))(u, sigma), np.float64)
        rmse = np.sqrt(np.mean((outputs - other) ** 2))
        at = one.sel(candidate="gaussian").isel(sigma=i)
        np.testing.assert_allclose(at.rmse, rmse, rtol=1e-4)
        np.testing.assert_allclose(at.rmse_noise, rmse / sigma, rtol=1e-4)
        np.testing.assert_allclose(at.rmse_score, rmse / sigma**2, rtol=1e-4)


def test_the_floor_of_a_second_network():
    train, held_out = DIGITS
    made = mechanisms.get("gaussian").strength.at(train, 0)(0.2)
    first, second = (_smooth(train.dim, 0.5, seed) for seed in (1, 2))
    network, other = ((lambda u, s, d=d: made(u, s) + 0.02 * d(u, s)) for d in (first, second))
    one = sj.explain(network, train, held_out, QUICK, other=other, progress=False).dataset
    # The other one differs by both disturbances.
    np.testing.assert_allclose(one.other_rmse, 0.02 * math.sqrt(2), rtol=0.2)
    assert one.is_at_floor.sel(candidate="gaussian").values.all()
    assert not one.is_at_floor.sel(candidate="empirical").values.any()


def test_samples_from_the_same_noises_and_the_report(tmp_path):
    train, held_out = DIGITS
    network = sj.GaussianDenoiser.fit(train.points).shrunk(0.1)
    settings = dataclasses.replace(QUICK, num_samples=4, steps=8)
    found = sj.explain(network, train, held_out, settings, out=tmp_path, progress=False)
    # Where the candidate is the network, so are its samples; a fitted strength is known to some 1e-4.
    drawn = found.samples
    np.testing.assert_allclose(
        drawn.sel(model="gaussian"), drawn.sel(model="network"), atol=5e-3 * float(drawn.std())
    )
    assert float(found.dataset.mean_r2.sel(measure="pearson", candidate="gaussian")) > 0.999
    one = found.dataset.sel(candidate="gaussian")
    squares = np.mean((drawn.sel(model="gaussian") - drawn.sel(model="network")).values ** 2)
    np.testing.assert_allclose(one.map_distance, np.sqrt(squares), rtol=1e-4)
    apart = np.linalg.norm(np.asarray(train.points) - drawn.sel(model="network")[0].values, axis=1)
    assert int(found.dataset.nearest.sel(model="network")[0]) == int(np.argmin(apart))
    # A Gaussian's samples copy nothing.
    assert float(found.dataset.memorized.sel(model="network")) == 0
    page = found.report(tmp_path)
    text = page.read_text()
    assert "At noise levels 0.3 to 1 it is gaussian, and nothing else; shrinkage " in text
    assert "After ± stands one standard error" in text
    assert "other candidates from the nearest, by the median" in text
    for name in ("map", "strengths", "memory", "samples"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
        assert (tmp_path / f"{name}.pdf").read_bytes()[:4] == b"%PDF"
    with xarray.open_dataset(tmp_path / "results.nc") as stored:
        np.testing.assert_allclose(stored.rmse, found.dataset.rmse)
    assert (tmp_path / "table.txt").read_text() == f"{found!r}\n"


def test_what_was_finished_is_not_computed_again(tmp_path):
    train, held_out = DIGITS
    network = _Counted(sj.TemperedDenoiser(train.points, 2.0))
    first = sj.explain(network, train, held_out, QUICK, out=tmp_path, progress=False)
    jax.effects_barrier()
    calls = network.calls
    # Two levels of 96 held-out and 32 training points, in batches of 32; and two points by which it is recognised.
    assert calls == 2 * (3 + 1) + 1
    (tmp_path / "parts" / "fit-gaussian-1.npz").unlink()
    again = sj.explain(network, train, held_out, QUICK, out=tmp_path, progress=False)
    jax.effects_barrier()
    assert network.calls == calls + 1
    assert first.dataset.equals(again.dataset) and first.table() == again.table()


def test_another_function_is_refused(tmp_path):
    # Functions have no arrays to be told by, and these two are of one name.
    networks = [lambda u, sigma, a=a: a * u / (1 + sigma**2) for a in (1.0, 0.9)]
    settings = dataclasses.replace(QUICK, levels=(1.0,), candidates=("gaussian",))
    sj.explain(networks[0], *DIGITS, settings, out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="`out` holds results of another `network`"):
        sj.explain(networks[1], *DIGITS, settings, out=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda u: u, r"`network` must be a function of two arguments \(u, sigma\)"),
        (lambda u, sigma, label: u, "function of two arguments .*'label'"),
        (lambda u, sigma: np.asarray(u) / 2, "must be a function of JAX arrays.*from_numpy"),
        (lambda u, sigma: u / float(sigma), "must be a function of JAX arrays"),
        (lambda u, sigma: u[:3], r"`network` must map one point of shape \(64,\)"),
    ],
)
def test_what_is_no_function_of_u_and_sigma_is_refused(network, message):
    with pytest.raises(ValueError, match=message) as found:
        sj.explain(network, *DIGITS, QUICK, progress=False)
    assert "\n" not in str(found.value)


def test_every_column_of_panels_has_its_noise_levels():
    names = ("empirical", "gaussian", "mixture", "smoothed", "wiener-mask")
    data = xarray.Dataset(
        {
            **{n: (("sigma", "candidate"), np.ones((2, 5))) for n in ("strength", "strength_low")},
            "strength_high": (("sigma", "candidate"), np.ones((2, 5))),
            "may_be_best": (("sigma", "candidate"), np.ones((2, 5), bool)),
            "is_explained": ("sigma", np.ones(2, bool)),
        },
        {
            "sigma": [0.1, 1.0],
            "candidate": list(names),
            "strength_unit": ("candidate", ["1"] * 5),
            "strength_name": ("candidate", ["s"] * 5),
        },
    )
    figure = plot_strengths(data)
    labelled = [ax.get_title(loc="left") for ax in figure.axes if ax.get_xlabel()]
    assert labelled == list(names[1:])
    shown = [ax.xaxis.get_tick_params()["labelbottom"] for ax in figure.axes[:5]]
    assert shown == [False, True, True, True, True]


def test_another_configuration_is_refused(tmp_path):
    train, held_out = DIGITS
    network = sj.GaussianDenoiser.fit(train.points)
    sj.explain(network, train, held_out, QUICK, out=tmp_path, progress=False)
    other = dataclasses.replace(QUICK, seed=1)
    with pytest.raises(ValueError, match="another configuration"):
        sj.explain(network, train, held_out, other, out=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": (1.0, 0.5)}, "`levels` must be positive, finite and increase"),
        ({"levels": (0.0, 1.0)}, "`levels` must be positive"),
        ({"candidates": ("none-such",)}, "no mechanism called 'none-such'"),
        ({"candidates": ("ledoit-wolf",)}, "must have a strength; 'ledoit-wolf' has none"),
        ({"candidates": ("empirical", "empirical")}, "`candidates` must differ; got"),
        ({"num_calibration": 1}, "`num_calibration` must be at least 2"),
        ({"num_samples": 1}, "`num_samples` must be at least 2, or 0 for none"),
        ({"confidence": 1.0}, "`confidence` must lie between 0 and 1"),
        ({"strengths": {"none-such": (1.0,)}}, "no mechanism called 'none-such'"),
        (
            {"strengths": {"empirical": (2.0, 1.0)}},
            "`strengths` of 'empirical' must be one or more",
        ),
        ({"strengths": {"empirical": ()}}, "`strengths` of 'empirical' must be one or more"),
        ({"strengths": ("empirical",)}, "`strengths` must be a dictionary"),
        (
            {"candidates": ("gaussian",), "strengths": {"empirical": (1.0, 2.0)}},
            "`strengths` must be of candidates; 'empirical' is none of them",
        ),
    ],
)
def test_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sj.ExplainSettings(**change)


def test_data_are_refused():
    train, held_out = DIGITS
    network = sj.GaussianDenoiser.fit(train.points)
    many = dataclasses.replace(QUICK, num_evaluation=5000)
    with pytest.raises(ValueError, match="must not exceed the held-out points together"):
        sj.explain(network, train, held_out, many)
    with pytest.raises(ValueError, match="must have one dimension"):
        sj.explain(network, train, _train(), QUICK)
    one = sj.datasets.Dataset("one", np.ones((3, train.dim)))
    with pytest.raises(ValueError, match="two different training points"):
        sj.explain(network, one, held_out, QUICK)
    with pytest.raises(ValueError, match="`network` must be finite"):
        sj.explain(lambda u, sigma: u / 0.0 * 0.0, train, held_out, QUICK, progress=False)
    with pytest.raises(ValueError, match=r"one point of shape \(64,\)"):
        sj.explain(lambda u, sigma: u[:3], train, held_out, QUICK, progress=False)


def test_strengths_in_place_of_a_mechanisms_own():
    """A temperature of 3 between 1 and 2 is at the upper bound, and a patch size is one of those given."""
    train, held_out = DIGITS
    settings = dataclasses.replace(
        QUICK, candidates=("empirical",), strengths={"empirical": [1.0, 2.0]}
    )
    network = sj.TemperedDenoiser(train.points, 3.0)
    found = sj.explain(network, train, held_out, settings, progress=False).dataset
    np.testing.assert_allclose(found.strength, 2.0)
    assert settings.strengths == {"empirical": (1.0, 2.0)}


def test_the_border_of_a_local_network_is_recovered():
    """Windows of 5 x 5 pixels that wrap around: the other border and the other sizes are farther."""
    train, held_out = DIGITS
    images = train.points.reshape(-1, *train.image_shape)
    network = sj.LocalDenoiser(images, 5, "circular")
    names = ("local", "local-circular")
    settings = dataclasses.replace(
        QUICK, candidates=names, strengths=dict.fromkeys(names, (3, 5, 7))
    )
    found = sj.explain(network, train, held_out, settings, progress=False)
    own = found.dataset.sel(candidate="local-circular")
    np.testing.assert_array_equal(own.strength, 5)
    assert all(one.indistinguishable == ("local-circular",) for one in found.verdicts)
    assert names[1] not in sj.ExplainSettings().suited_to(train, held_out).candidates


def test_on_a_line():
    train, held_out = sj.experiments.train_and_held_out(sj.datasets.load("two-points"))
    settings = sj.ExplainSettings(
        candidates=("empirical", "gaussian"), num_samples=4, num_calibration=16, num_evaluation=32
    )
    assert "local" not in sj.ExplainSettings().suited_to(train, held_out).candidates
    network = sj.TemperedDenoiser(train.points, 2.0)
    found = sj.explain(network, train, held_out, settings, progress=False)
    # At noise of a third to thrice of half the gap, where a temperature is seen.
    seen = [v for v in found.verdicts if 0.3 < v.sigma < 3]
    assert seen and all("empirical" in v.indistinguishable for v in seen)
    assert all(v.strength == pytest.approx(2.0, rel=1e-2) for v in seen if v.best == "empirical")


def _failing(value):
    if value == 2:
        raise ValueError("no two")
    return _Scaled(jnp.asarray(math.nan if value == 3 else value), "tanh")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, 2), "'mine' of size 2 cannot be made: no two"),
        ((1, 3), "'mine' of size 3 must be finite; at noise level 0.5 it is not"),
        ((1, math.inf), "must be one or more, finite and increase"),
        (None, "must give numbers; got None"),
    ],
)
def test_a_mechanism_that_fails_is_named(values, message):
    strength = Strength("size", lambda train: values, lambda train, seed: _failing)
    mechanism = Mechanism(
        "mine", "", lambda train, seed: _Scaled(jnp.ones(()), "tanh"), strength=strength
    )
    u = _noisy(4, 0)
    with pytest.raises(ValueError, match=message):
        Candidate(mechanism, _train(), 0, 4).fit(u, u, LEVEL, 4, 0.9)


def test_a_mechanism_called_as_the_network_is_refused(own_registry):
    mechanisms.register(dataclasses.replace(_scaled("tanh"), name="network"))
    with pytest.raises(ValueError, match="must not be called 'network' or 'other'"):
        sj.ExplainSettings(candidates=("network", "gaussian"))


def test_a_report_without_a_memorised_share(tmp_path):
    # Far above the spread of the data a memoriser is no better than the network: no share at any level.
    settings = dataclasses.replace(QUICK, levels=(5.0,), candidates=("gaussian",))
    network = sj.GaussianDenoiser.fit(DIGITS[0].points)
    found = sj.explain(network, *DIGITS, settings, progress=False)
    assert np.isnan(found.dataset.memorized_share).all()
    assert found.report(tmp_path).exists()


def test_a_mechanism_of_ones_own(own_registry):
    mechanisms.register(_scaled("tanh"))
    settings = dataclasses.replace(QUICK, candidates=("tanh", "gaussian"))
    network = lambda u, sigma: 1.5 * jnp.tanh(u)  # noqa: E731
    found = sj.explain(network, *DIGITS, settings, progress=False)
    np.testing.assert_allclose(found.dataset.strength.sel(candidate="tanh"), 1.5, rtol=1e-3)
    assert json.dumps(found.manifest)


@pytest.mark.parametrize("label", [None, "each", 1])
def test_the_number_of_calls_is_known_before(label, capsys):
    rng = np.random.default_rng(0)
    train, held_out = (
        sj.datasets.Dataset("points", rng.normal(size=(num, 3)), np.arange(num) % 3)
        for num in (60, 150)
    )
    counted = [sj.interop.from_numpy(lambda x, t: x / 2, 3) for _ in range(3)]
    for one in counted:
        one.network.reset_calls()  # that of the trial
    settings = sj.ExplainSettings(
        levels=(0.3, 1.0),
        candidates=("gaussian",),
        label=label,
        num_calibration=9,
        num_evaluation=30,
        num_training=17,
        num_samples=11,
        steps=3,
        batch_size=10,
    )
    network = counted[0] if label is None else dict(enumerate(counted))
    found = sj.explain(network, train, held_out, settings, progress=True)
    calls = sum(one.network.calls.rows for one in counted)
    assert found.dataset.attrs["network_calls"] == calls
    said = capsys.readouterr().err
    assert f"Calls of the network, of one point each: {calls:,} (" in said
    if label is None:
        # In tens: one ten for two points, two levels of 40 and 20, and eleven samples in two batches of six.
        assert calls == 10 + 2 * (40 + 20) + 3 * 12
        assert (
            "10 to know it by, 80 at held-out points, 40 at training points, 36 for samples" in said
        )
    assert f"{calls:,}" in str(found.dataset.attrs["network_calls"])


def test_what_is_done_need_not_be_called_again(tmp_path, caplog):
    network = sj.GaussianDenoiser.fit(DIGITS[0].points)
    settings = dataclasses.replace(QUICK, candidates=("gaussian",), measures=("curl",))
    with caplog.at_level("INFO", "smoothjax"):
        sj.explain(network, *DIGITS, settings, out=tmp_path, progress=False)
        assert "done already" not in caplog.text
        # Two levels of 96 + 32, and of six calls at 64 points; two points are known by one batch of 32.
        assert "1,056 (32 to know it by, 192 at held-out points, 64 at" in caplog.text
        assert "768 for curl)" in caplog.text
        sj.explain(network, *DIGITS, settings, out=tmp_path, progress=False)
    assert "1,024 of them are done already" in caplog.text


def _partly(train, memorised, level):
    """A Gaussian denoiser that is the memoriser near some of the training points."""
    gaussian = sj.GaussianDenoiser.fit(train.points)
    empirical = sj.EmpiricalDenoiser(train.points)
    some = train.points[jnp.asarray(memorised)]

    def network(u, sigma):
        near = jnp.min(jnp.sum((some - u[None]) ** 2, axis=1)) < 1.3 * train.dim * level**2
        return jnp.where(near, empirical(u, sigma), gaussian(u, sigma))

    return network


def test_the_most_memorised_points_are_those_that_were_memorised(tmp_path):
    train, held_out = DIGITS
    memorised = np.array([3, 8, 21, 30])
    settings = dataclasses.replace(QUICK, levels=(0.3, 5.0), candidates=("gaussian",))
    network = _partly(train, memorised, 0.3)
    found = sj.explain(network, train, held_out, settings, progress=False)
    data = found.dataset
    assert set(data.most_memorized.values[0, :4].tolist()) == set(memorised.tolist())
    at = data.isel(sigma=0)
    # Held-out points are 64, of which none is as low.
    np.testing.assert_allclose(at.memorized_p.sel(training_point=memorised), 1 / 65)
    others = np.setdiff1d(np.arange(32), memorised)
    assert (at.memorized_p.sel(training_point=others) > 1 / 65).mean() > 0.8
    # Far above the spread of the data a memoriser is no better, and nothing is named.
    assert np.isnan(data.memorized_share[1]) and (data.most_memorized[1] == -1).all()
    points = np.asarray(train.points, np.float64)
    for index in memorised:
        apart = np.linalg.norm(points - points[index], axis=1)
        apart[index] = np.inf
        one = data.sel(training_point=index)
        assert int(one.nearest_training) == int(np.argmin(apart))
        np.testing.assert_allclose(one.nearest_training_distance, apart.min(), rtol=1e-5)
    text = found.report(tmp_path).read_text()
    assert "Which training points most" in text and "where 1.6 would of fresh ones" in text
    assert (tmp_path / "memorised.png").stat().st_size > 1000


def test_of_points_that_are_as_fresh_ones_ranks_are_uniform():
    # Points of two kinds, easy and hard: the ratio to a Gaussian denoiser's loss knows which is which.
    rng, low, names = np.random.default_rng(0), [], []
    for _ in range(200):
        easy = np.where(rng.random(60) < 0.2, 0.01, 1.0) * rng.uniform(0.8, 1.2, 60)
        loss = easy * rng.lognormal(sigma=0.3, size=60)
        found = memorised_points(loss[:20], easy[:20], loss[20:], easy[20:])
        low.append(np.mean(found["memorized_p"] <= 0.1))
        chosen = most_memorised(found["memorized_p"], found["memorized_z"], True)[0]
        names.append(easy[chosen] < 0.1)
        assert np.min(found["memorized_p"]) >= 1 / 41
    # At most a tenth, of values of which 41 are possible: four of 41. Twenty points of one null: errors of about 0.09 each.
    assert abs(np.mean(low) - 4 / 41) < 3 * 0.09 / np.sqrt(200)
    # As often an easy one as there are of them.
    assert abs(np.mean(names) - 0.2) < 3 * np.sqrt(0.2 * 0.8 / 200)


def test_points_that_are_there_twice_are_nearest_to_each_other():
    points = np.array([[0.0], [5.0], [0.0], [7.0]])
    others, apart = nearest_others(sj.datasets.Dataset("twice", points), np.arange(4))
    assert others.tolist() == [2, 3, 0, 1] and apart.tolist() == [0, 2, 0, 2]
    every = nearest_others(sj.datasets.Dataset("thrice", np.zeros((3, 1))), np.arange(3))[0]
    assert all(other != i for i, other in enumerate(every))


def test_points_of_a_class_are_named_by_their_place_in_the_training_set():
    train, held_out = (
        sj.datasets.Dataset("digits", data.points, np.asarray(data.labels) % 2) for data in DIGITS
    )
    settings = dataclasses.replace(QUICK, levels=(0.3,), candidates=("gaussian",), label=1)
    found = sj.explain(
        sj.EmpiricalDenoiser(train.points), train, held_out, settings, progress=False
    )
    odd = np.flatnonzero(np.asarray(train.labels) == 1)[:32]
    np.testing.assert_array_equal(found.dataset.training_point, odd)
    assert set(found.dataset.most_memorized.values.ravel().tolist()) <= set(odd.tolist())


@pytest.mark.parametrize(
    "candidates",
    [("a",), ("patch-composite", *"bcdefg"), ("equivariant-local-circular-by-class", "b")],
)
@pytest.mark.parametrize("num", [2, 12])
def test_names_beside_samples_are_whole(candidates, num):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    models = ["network", *candidates]
    samples = np.random.default_rng(0).uniform(-1, 1, (len(models), num, 64))
    data = xarray.Dataset(
        {
            "samples": (("model", "sample", "coordinate"), samples),
            "nearest": (("model", "sample"), np.zeros((len(models), num), int)),
        },
        {"model": models},
    )
    figure = plot_image_samples(data, samples[0], (8, 8, 1))
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (ax,) = figure.axes
    boxes = [label.get_window_extent(renderer) for label in ax.get_yticklabels()]
    assert len(boxes) == len(models) + 1
    assert min(box.x0 for box in boxes) >= 2 and max(box.x1 for box in boxes) < ax.bbox.x0
