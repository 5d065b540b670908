"""Strengths chosen on points held back: their numbers beside NumPy's, what is made of them, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import smoothjax as sj
from smoothjax import mechanisms
from smoothjax.mechanisms import _choice

LEVELS = (0.2, 1.0)


@pytest.fixture(scope="module")
def train():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 2))
    points = centres[rng.integers(6, size=200)] + 0.3 * rng.normal(size=(200, 2))
    return sj.datasets.Dataset("six", points.astype(jnp.result_type(float)))


def posterior_mean(u, points, width, sigma):
    """Of a density estimate of a width, in NumPy; of the points themselves at width zero."""
    level = np.hypot(width, sigma)
    logits = -np.sum((u[:, None] - points[None]) ** 2, axis=2) / (2 * level**2)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    mean = weights @ points / weights.sum(axis=1, keepdims=True)
    return mean + (width / level) ** 2 * (u - mean)


def test_numbers_of_a_choice(train):
    chosen = mechanisms.choose_strength("widened", train, levels=LEVELS, num_held_back=60, seed=3)
    assert (chosen.num_kept, chosen.num_held_back, chosen.criterion) == (140, 60, "denoising")
    kept, held_back = (np.asarray(x.points, float) for x in train.split(140, seed=3))
    noise = np.asarray(
        sj.initial_noise(jax.random.fold_in(jax.random.key(3), 7), 60, 2, dtype=train.points.dtype)
    )
    strength = mechanisms.get("widened").strength
    grid = strength.values(train.split(140, seed=3)[0])
    tolerance = 2e4 * float(jnp.finfo(train.points.dtype).eps)
    for i, sigma in enumerate(LEVELS):
        u = held_back + sigma * noise
        loss = lambda w, u=u, sigma=sigma: np.mean(  # noqa: E731
            (posterior_mean(u, kept, w, sigma) - held_back) ** 2, axis=1
        )
        for name, width in (("loss", chosen.values[i]), ("loss_without", 0.0)):
            np.testing.assert_allclose(getattr(chosen, name)[i], loss(width).mean(), rtol=tolerance)
        fine = np.geomspace(grid[0], grid[-1], 300)
        assert chosen.loss[i] <= min(loss(w).mean() for w in fine) * (1 + 1e-3)
        assert chosen.low[i] < chosen.values[i] < chosen.high[i]
        # Each half of the points is judged by the grid value that is best for the other.
        on_grid = np.stack([loss(w) for w in grid])
        gains = loss(0.0)
        for half in (0, 1):
            best = np.argmin(on_grid[:, 1 - half :: 2].mean(axis=1))
            gains[half::2] -= on_grid[best, half::2]
        test = scipy.stats.ttest_1samp(gains, 0, alternative="greater")
        np.testing.assert_allclose(chosen.gain[i], gains.mean(), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(chosen.gain_error[i], scipy.stats.sem(gains), rtol=tolerance)
        np.testing.assert_allclose(chosen.p_value[i], test.pvalue, rtol=2e-3, atol=1e-12)
    # Silverman's rule for two dimensions: n^(-1/6) times the spread.
    spread = np.sqrt(np.mean(np.var(np.asarray(train.points, float), axis=0)))
    np.testing.assert_allclose(chosen.guess, spread * 200 ** (-1 / 6), rtol=1e-5)
    # Made of all points, at the chosen strength at each level.
    D = chosen.denoiser(train)
    u = jnp.array([0.3, -0.2], train.points.dtype)
    for value, sigma in zip(chosen.values, LEVELS, strict=True):
        np.testing.assert_allclose(
            D(u, sigma),
            posterior_mean(np.asarray(u)[None], np.asarray(train.points), value, sigma)[0],
            rtol=tolerance,
        )


def test_no_smoothing_is_not_beaten_where_it_is_best():
    """Held-back points are training points again: the exact posterior mean is that of their law."""
    rng = np.random.default_rng(1)
    points = np.repeat(rng.normal(size=(12, 2)), 40, axis=0).astype(jnp.result_type(float))
    train = sj.datasets.Dataset("atoms", points)
    found = [
        mechanisms.choose_strength("widened", train, levels=(0.3, 1.0), seed=seed).p_value
        for seed in range(12)
    ]
    small = np.sum(np.concatenate(found) < 0.05)
    assert small <= scipy.stats.binom.ppf(1 - 1e-4, 24, 0.05)


@pytest.mark.exhaustive
def test_number_of_clusters_of_greatest_likelihood():
    rng = np.random.default_rng(0)
    centres = np.array([[-4.0, 0.0], [4.0, 0.0], [0.0, 5.0]])
    points = centres[np.arange(240) % 3] + 0.5 * rng.normal(size=(240, 2))
    train = sj.datasets.Dataset("three", points.astype(jnp.result_type(float)))
    chosen = mechanisms.choose_strength("mixture", train, criterion="likelihood")
    assert chosen.low[0] <= 3 <= chosen.high[0] and chosen.p_value[0] < 1e-3
    assert chosen.denoiser(train).weights.shape == (int(chosen.values[0]),)
    np.testing.assert_allclose(chosen.levels, 0.1 * np.sqrt(np.mean(np.var(points, axis=0))))
    # By level: a schedule of mixtures, with a known trace.
    by_level = mechanisms.choose_strength("mixture", train, levels=(0.3, 30.0)).denoiser(train)
    u = jnp.asarray(points[0], train.points.dtype)
    _, variance = by_level.mean_and_variance(u, 0.3)
    trace = jnp.trace(jax.jacfwd(lambda u: by_level(u, 0.3))(u))
    np.testing.assert_allclose(variance, 0.09 * trace, rtol=1e-3)


def test_built_at_a_strength(train):
    points = np.asarray(train.points)
    u = jnp.array([0.3, -0.2], train.points.dtype)
    build = lambda **how: mechanisms.build("widened", train, **how)  # noqa: E731
    exact = lambda width: posterior_mean(np.asarray(u)[None], points, width, 0.5)[0]  # noqa: E731
    tolerance = 1e3 * float(jnp.finfo(train.points.dtype).eps)
    np.testing.assert_allclose(build(strength=0.7)(u, 0.5), exact(0.7), rtol=tolerance)
    guess = mechanisms.get("widened").strength.default(train)
    np.testing.assert_allclose(build()(u, 0.5), exact(guess), rtol=tolerance)
    likely = mechanisms.choose_strength("widened", train, criterion="likelihood", seed=1)
    np.testing.assert_allclose(
        build(seed=1, strength="likelihood")(u, 0.5), exact(likely.values[0]), rtol=tolerance
    )
    # The mixture has a law, of which less than this lies beyond its interval.
    assert likely.low[0] < 0.3 * 1.5 and likely.high[0] > 0.3 / 1.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: mechanisms.build("gaussian", t, strength="best"), "`strength` must be a number"),
        (
            lambda t: mechanisms.build("gaussian", t, strength=np.inf),
            "`strength` must be finite, a shrinkage",
        ),
        (
            lambda t: mechanisms.build("gaussian", t, strength=2.0),
            "`strength` must be a shrinkage that 'gaussian' can have; got 2.0",
        ),
        (lambda t: mechanisms.build("ledoit-wolf", t, strength=1.0), "with a strength"),
        (
            lambda t: mechanisms.choose_strength("widened", t, levels=0.5),
            r"`levels` must have shape \(k,\); got \(\)",
        ),
        (
            lambda t: mechanisms.choose_strength(
                "widened", sj.datasets.Dataset("one", jnp.ones((50, 2))), levels=LEVELS
            ),
            "`train` must hold at least two different points",
        ),
        (lambda t: mechanisms.choose_strength("widened", t, levels=(1.0, 0.5)), "`levels` must be"),
        (
            lambda t: mechanisms.choose_strength(
                "widened", t, levels=LEVELS, criterion="likelihood"
            ),
            "`levels` must be one",
        ),
        (lambda t: mechanisms.choose_strength("widened", t, coverage=1.0), "`coverage` must lie"),
        (lambda t: mechanisms.choose_strength("widened", t, num_held_back=3), "`num_held_back`"),
        (lambda t: mechanisms.choose_strength("widened", t, num_held_back=199), "`num_held_back`"),
        (
            lambda t: mechanisms.choose_strength("widened", sj.datasets.polygon(6)),
            f"at least {mechanisms.FEWEST_TO_CHOOSE} points",
        ),
    ],
)
def test_what_is_refused(train, call, message):
    with pytest.raises(ValueError, match=message):
        call(train)


def test_every_default_strength_is_the_mechanism_itself(train):
    """At its default a strength gives what `build` does; where it draws, with as many draws."""
    u = jnp.array([0.3, -0.2], train.points.dtype)
    for name in ("empirical", "gaussian", "smoothed", "tempered", "widened", "factor-gaussian"):
        mechanism = mechanisms.get(name)
        made = _choice._free(mechanism, train, 5).denoiser(mechanism.strength.default(train))
        expected = mechanism.build(train, 5)(u, 0.4)
        eps = float(jnp.finfo(expected.dtype).eps)
        np.testing.assert_allclose(made(u, 0.4), expected, rtol=1e3 * eps, err_msg=name)
