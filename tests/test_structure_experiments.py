"""Experiments on memorization, emergence and strong generalization: what is known of denoisers that need no training."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import datasets, flows, learning, plots
from smoothjax.experiments._structure import emergence as _emergence
from smoothjax.experiments._structure import figures as figures
from smoothjax.experiments._structure import memorization as _memorization
from smoothjax.experiments._structure import networks as _networks
from smoothjax.experiments._structure import strong_generalization as _strong_generalization

# Compiles for minutes in all: not a second time in the suite at default precision.
pytestmark = pytest.mark.slow

pytest.importorskip("xarray")
pytest.importorskip("sklearn")

NUM_TRAIN, NUM_SAMPLES, LEVELS = 40, 24, (0.1, 0.5, 2.0)
SMALL = learning.MLPArchitecture(width=8, num_layers=3)


class Blend(eqx.Module):
    """On the segment between the memorizing (0) and the Gaussian denoiser (1) of a training set."""

    memorizing: sj.EmpiricalDenoiser
    gaussian: sj.GaussianDenoiser
    share: jax.Array

    def __init__(self, points, share):
        self.memorizing = sj.EmpiricalDenoiser(points)
        self.gaussian = sj.GaussianDenoiser.fit(points)
        self.share = jnp.asarray(share, points.dtype)

    def __call__(self, u, sigma):
        return (1 - self.share) * self.memorizing(u, sigma) + self.share * self.gaussian(u, sigma)


def eps(x):
    return float(jnp.finfo(x.dtype).eps)


@pytest.fixture(scope="module", autouse=True)
def as_many_held_out_points():
    """As many as training points: one compilation serves both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_networks, "MAX_POINTS", NUM_TRAIN)
        yield


@pytest.fixture(scope="module")
def bench():
    return _networks.benches(datasets.load("digits"), NUM_TRAIN, LEVELS, NUM_SAMPLES, [0])[0]


@pytest.fixture(scope="module")
def measured(bench):
    train = bench.pool
    blends = {share: Blend(train, share) for share in (0.0, 0.3, 1.0)}
    yardstick = bench.yardstick
    return {
        share: {**yardstick.samples(one, train), **yardstick.curves(one, train)}
        for share, one in blends.items()
    }


def test_memorizing_denoiser_is_measured_as_such(measured):
    found = measured[0.0]
    assert found["memorized"] == 1 and found["memorizes"]
    # The last call of the denoiser is at noise 0.002; points are 1 or more apart, and of norm 8 at most.
    assert np.max(found["nearest_distance"]) < 8 * 2048 * eps(found["samples"])
    np.testing.assert_allclose(
        found["samples"], found["nearest"], atol=2048 * eps(found["samples"])
    )
    assert found["memorized_null"] == 0
    # The same expression twice: what compilers make of it may differ by rounding.
    np.testing.assert_allclose(found["rmse"][1], 0, atol=10 * eps(found["samples"]))
    np.testing.assert_allclose(found["gaussianity"], 0, atol=1e-6)
    np.testing.assert_allclose(found["linearity"][0], found["linearity"][1], rtol=1e-5)
    np.testing.assert_allclose(
        found["linearity_centred"][0], found["linearity_centred"][1], rtol=1e-5
    )
    assert found["linearity_centred"][1, 0] < 0.95  # of a nearest-neighbour look-up
    assert found["gaussian_cosine"] < 0.9


def test_gaussian_denoiser_is_measured_as_such(measured, bench):
    found = measured[1.0]
    assert found["memorized"] == 0 and not found["memorizes"]
    np.testing.assert_allclose(found["rmse"][0], 0, atol=10 * eps(found["samples"]))
    np.testing.assert_allclose(found["gaussianity"], 1, atol=1e-6)
    # Cosines: errors of second order, and sums of 64 terms.
    slack = 100 * eps(found["samples"])
    np.testing.assert_allclose(found["gaussian_cosine"], 1, atol=slack)
    np.testing.assert_allclose(found["gaussian_cosine_normalised"], 1, atol=slack)
    np.testing.assert_allclose(found["linearity_centred"][0], 1, atol=slack)
    np.testing.assert_allclose(found["linearity_centred"][2], 1, atol=slack)
    assert np.all(found["linearity"][2] < 1 - slack)  # affine, not linear
    # In closed form, from the noises that all share.
    train = bench.pool
    noises = flows.initial_noise(
        jax.random.fold_in(jax.random.key(0), 0), NUM_SAMPLES, 64, dtype=train.dtype
    )
    grid = sj.edm_grid(18, 20.0, 0.002)
    one = sj.GaussianDenoiser.fit(train)
    sampler = lambda z: flows.gaussian_sampler(one, one.mean + 20 * z, grid)  # noqa: E731
    expected = jax.jit(jax.vmap(sampler))(noises)
    # 35 calls, each with a few roundings of states that start at norm 200.
    np.testing.assert_allclose(
        found["gaussian_samples"], expected, atol=35 * 20 * eps(found["samples"])
    )
    np.testing.assert_allclose(found["samples"], expected, atol=35 * 20 * eps(found["samples"]))


def test_between_the_references(measured, bench):
    share, found = 0.3, measured[0.3]
    to_gaussian, to_memorizing, between = found["rmse"]
    # Differences of numbers of order one.
    slack = 100 * eps(found["samples"])
    np.testing.assert_allclose(to_gaussian, (1 - share) * between, atol=slack)
    np.testing.assert_allclose(to_memorizing, share * between, atol=slack)
    expected = share**2 / (share**2 + (1 - share) ** 2)
    np.testing.assert_allclose(found["gaussianity"], expected, rtol=1e-3)
    assert np.all(found["gaussianity_meaningful"])
    # About its own training points at little noise the memorizing denoiser is right, and at the others it guesses: a plain
    # average over noises of one's own.
    train, held_out = bench.pool, bench.yardstick.held_out[:NUM_TRAIN]
    three = Blend(train, share)
    for row, points in zip(between, (held_out, train), strict=True):
        u = points + 0.5 * jax.random.normal(jax.random.key(9), points.shape, points.dtype)
        apart = lambda u: three.memorizing(u, 0.5) - three.gaussian(u, 0.5)  # noqa: E731
        gap = jax.jit(jax.vmap(apart))(u)
        squares = np.mean(np.asarray(gap) ** 2, axis=1)
        value = np.sqrt(np.mean(squares))
        error = np.std(squares) / np.sqrt(len(squares)) / (2 * value)
        # Two averages over points, this one with the larger error: four times their common one at most.
        assert abs(row[1] - value) < 4 * np.sqrt(2) * error


def blends(monkeypatch, module, share):
    """Untrained stand-ins for networks; returns what was asked to be trained."""
    asked = []

    def train(points, architecture, key, num_steps, folder):
        asked.append((np.asarray(points), architecture, jax.random.key_data(key), num_steps))
        return Blend(points, share(architecture, num_steps))

    monkeypatch.setattr(module, "train_network", train)
    return asked


@pytest.mark.exhaustive
def test_memorization_labels_and_resuming(monkeypatch, tmp_path, measured):
    wide = lambda architecture, _: 0.0 if architecture.width == 16 else 1.0  # noqa: E731
    asked = blends(monkeypatch, _memorization, wide)
    settings: dict[str, Any] = {
        "num_train": (NUM_TRAIN,),
        "widths": (8, 16),
        "widths_num_train": NUM_TRAIN,
        "num_layers": 3,
        "num_steps": 100,
        "levels": LEVELS,
        "num_samples": NUM_SAMPLES,
        "num_seeds": 2,
        "progress": False,
        "out": str(tmp_path),
    }
    results = _memorization.memorization(**settings)
    # The widest on that many points serves both comparisons.
    assert list(results.run.values) == ["40 points, width 16", "40 points, width 8"]
    assert len(asked) == 4 and all(points.shape == (NUM_TRAIN, 64) for points, *_ in asked)
    assert len({tuple(key.tolist()) for _, _, key, _ in asked}) == 2  # one a seed
    # First layer with 16 features of the noise level, one residual layer, last layer.
    count = [(64 + 16 + 1) * w + (w + 1) * w + (w + 1) * 64 for w in (16, 8)]
    assert list(results.num_parameters.values) == count
    assert list(results.epochs.values) == [100 * 64 / NUM_TRAIN] * 2
    np.testing.assert_array_equal(results.memorized, [[1, 1], [0, 0]])
    np.testing.assert_array_equal(results.memorizes, [[True, True], [False, False]])
    first = results.sel(seed=0, run="40 points, width 16")
    between = first.rmse.sel(pair="memorizing-gaussian")
    np.testing.assert_array_equal(between.sel(points="held-out"), measured[0.0]["rmse"][2][0])
    np.testing.assert_array_equal(between.sel(points="training"), measured[0.0]["rmse"][2][1])
    np.testing.assert_allclose(first.rmse.sel(pair="network-memorizing"), 0, atol=1e-5)
    np.testing.assert_allclose(first.rmse.sel(pair="network-gaussian"), between, atol=1e-5)
    linear = first.linearity_centred
    np.testing.assert_allclose(
        linear.sel(denoiser="network"), linear.sel(denoiser="memorizing"), atol=1e-5
    )
    index = results.gaussianity.sel(seed=1).values
    np.testing.assert_allclose(index, np.array([0, 1])[:, None, None] + 0 * index, atol=1e-6)
    linear = results.linearity_centred.sel(denoiser="gaussian")
    np.testing.assert_allclose(linear, 1, atol=1e-5)
    # Seeds differ in their points, and share the noises.
    assert not np.array_equal(asked[0][0], asked[1][0])
    # What is there is not computed again, and what is missing comes out the same.
    (tmp_path / "parts" / "points-40-width-8-seed-1.npz").unlink()
    asked.clear()
    again = _memorization.memorization(**settings)
    assert len(asked) == 1 and results.identical(again)
    figures.plot_memorization(results).savefig(tmp_path / "figure.png")
    with pytest.raises(ValueError, match="another configuration"):
        _memorization.memorization(**{**settings, "num_steps": 101})


@pytest.mark.exhaustive
def test_strong_generalization_of_known_denoisers(monkeypatch, tmp_path):
    asked = blends(monkeypatch, _strong_generalization, lambda _, steps: float(steps == 100))
    settings: dict[str, Any] = {
        "num_train": (NUM_TRAIN,),
        "early_steps": (7,),
        "num_steps": 100,
        "num_samples": NUM_SAMPLES,
        "progress": False,
        "out": str(tmp_path),
    }
    results = _strong_generalization.strong_generalization(**settings)
    assert list(results.run.values) == ["40 points, 100 steps", "40 points, 7 steps"]
    assert [steps for *_, steps in asked] == [100, 100, 7, 7]
    # Disjoint points and other random numbers for each half.
    (first, _, key, _), (second, _, other, _) = asked[:2]
    both = np.concatenate([first, second])
    assert len(np.unique(both, axis=0)) == 2 * NUM_TRAIN
    assert not np.array_equal(key, other)
    assert not np.array_equal(asked[0][2], asked[2][2]) or asked[0][3] != asked[2][3]
    gaussian, copies = (results.isel(run=i, seed=0) for i in (0, 1))
    slack = 1000 * eps(jnp.asarray(results.samples.values))
    # Gaussians for networks: the yardstick itself.
    np.testing.assert_allclose(gaussian.samples, gaussian.gaussian_samples, atol=slack)
    np.testing.assert_allclose(gaussian.excess_cosine, 0, atol=slack)
    cosines = gaussian.cosine.values
    np.testing.assert_allclose(cosines[0], cosines[1], atol=slack)
    centre = np.asarray(datasets.load("digits").points).mean(0)
    x, y = (gaussian.samples.sel(half=half).values - centre for half in ("first", "second"))
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    table = unit(x) @ unit(y).T
    np.testing.assert_allclose(cosines[0], np.diag(table).mean(), atol=slack)
    off = table[~np.eye(NUM_SAMPLES, dtype=bool)].mean()
    np.testing.assert_allclose(gaussian.shuffled_cosine[0], off, atol=slack)
    np.testing.assert_allclose(gaussian.normalised_cosine[0], (cosines[0] - off) / (1 - off), atol=slack)  # fmt: skip
    assert gaussian.memorized.values.tolist() == [0, 0]
    # Copies for networks.
    np.testing.assert_allclose(copies.neighbour_cosine, 1, atol=slack)
    assert copies.nearer_each_other == 0 and copies.memorized.values.tolist() == [1, 1]
    np.testing.assert_array_equal(copies.gaussian_samples, gaussian.gaussian_samples)
    for half, points in zip(("first", "second"), (first, second), strict=True):
        gap = copies.samples.sel(half=half).values[:, None] - points
        assert np.all(np.min(np.abs(gap).max(-1), axis=1) < slack)
    asked.clear()
    again = _strong_generalization.strong_generalization(**settings)
    assert not asked and results.identical(again)
    figures.plot_strong_generalization(results).savefig(tmp_path / "figure.png")


@pytest.mark.exhaustive
def test_emergence(tmp_path):
    settings: dict[str, Any] = {
        "num_train": NUM_TRAIN,
        "steps": (2, 200),
        "width": 32,
        "num_layers": 3,
        "levels": LEVELS,
        "num_samples": NUM_SAMPLES,
        "num_seeds": 1,
        "progress": False,
        "out": str(tmp_path),
    }
    results = _emergence.emergence(**settings)
    assert results.memorized.dims == ("seed", "step") and list(results.step.values) == [2, 200]
    np.testing.assert_allclose(results.epochs, [2 * 64 / NUM_TRAIN, 200 * 64 / NUM_TRAIN])
    early, late = (results.isel(seed=0, step=i) for i in (0, 1))
    # After two steps a network is about `sigma_data^2 / (sigma_data^2 + sigma^2) u`.
    points, held_out = (part.points for part in datasets.load("digits").split(NUM_TRAIN, seed=0))
    square = float(np.mean(np.asarray(points) ** 2))
    multiple = lambda u, sigma: square / (square + sigma**2) * u  # noqa: E731
    gaussian = sj.GaussianDenoiser.fit(points)
    key = jax.random.fold_in(jax.random.key(0), 1)

    @eqx.filter_jit
    def distance(one):
        return sj.denoiser_rmse(one, gaussian, held_out[:NUM_TRAIN], 0.5, key, num_noises=4)

    place = {"pair": "network-gaussian", "points": "held-out", "sigma": 0.5}
    # Adam moves a weight by 0.002 a step, in each of two layers of some hundred weights a unit: below a tenth.
    assert abs(early.rmse.sel(place) - distance(multiple).value) < 0.1
    # At the end it is what the public function trains.
    replicate = _networks.benches(datasets.load("digits"), NUM_TRAIN, LEVELS, NUM_SAMPLES, [0])[0]
    architecture = learning.MLPArchitecture(width=32, num_layers=3)
    model = learning.train_denoiser(points, architecture, replicate.key, num_steps=200).model
    slack = 100 * eps(points)  # other programs of the same expressions, with values of order one
    np.testing.assert_allclose(late.rmse.sel(place), distance(model).value, atol=slack)
    start = jax.random.fold_in(jax.random.key(0), 0)
    settings = {"sigma_max": 20.0, "sigma_min": 0.002, "steps": 18, "mean": jnp.mean(points, 0)}
    samples = sj.sample(model, start, NUM_SAMPLES, **settings)
    np.testing.assert_array_equal(late.samples, samples)
    # Towards the Gaussian first, and no copies yet.
    assert late.rmse.sel(place) < early.rmse.sel(place)
    assert early.memorized == 0 and late.memorized == 0
    (tmp_path / "parts" / "seed-0-step-200.npz").unlink()
    assert results.identical(_emergence.emergence(**settings))
    figures.plot_emergence(results).savefig(tmp_path / "figure.png")


def test_linear_distillation_of_two_places(tmp_path):
    """A thousand points at -1 and 1, each denoised in closed form: slopes and residuals on three laws by quadrature."""
    levels, contrast = (0.3, 1.0), 0.5
    places = np.random.default_rng(0).choice([-1.0, 1.0], (1200, 1), p=[0.4, 0.6])
    np.save(tmp_path / "places.npy", places)
    run = lambda: sj.experiments.linear_distillation(  # noqa: E731
        data=str(tmp_path / "places.npy"),
        mechanisms=("empirical", "gaussian"),
        levels=levels,
        contrast=contrast,
        out=str(tmp_path / "out"),
        progress=False,
    )
    found = run()
    train, held_out = (
        places[x] for x in np.split(np.random.default_rng(0).permutation(1200), [1000])
    )
    nodes, weights = np.polynomial.hermite_e.hermegauss(300)
    weights, share = weights / weights.sum(), np.mean(train > 0)
    for sigma in levels:
        variance = 4 * share * (1 - share)
        gain = variance / (variance + sigma**2)
        for inputs, points, scale in (
            ("training", train, 1.0),
            ("held-out", held_out, 1.0),
            ("contrast", train, contrast),
        ):
            up = np.mean(points > 0)
            u = scale * np.array([[-1.0], [1.0]]) + sigma * nodes
            mean = lambda x, up=up: np.array([1 - up, up]) @ (x @ weights)  # noqa: E731
            D = np.tanh(u / sigma**2 + np.arctanh(2 * share - 1))
            v = u - mean(u)
            slope = mean(D * v) / mean(v**2)
            residual = D - mean(D) - slope * v
            left, total = mean(residual**2), mean((D - mean(D)) ** 2)
            if inputs == "training":  # the Gaussian's slope, whatever the denoiser is
                np.testing.assert_allclose(slope, gain, rtol=1e-6)
            # As if a point's noises were one.
            error = np.sqrt(mean((residual * v) ** 2) / len(points)) / mean(v**2)
            at = found.sel(denoiser="empirical", inputs=inputs, sigma=sigma)
            assert abs(at.matrix_error - abs(slope / gain - 1)) < 4 * error / gain, (inputs, sigma)
            error = np.sqrt(mean((residual**2 - left) ** 2) / len(points))
            assert abs(at.nonlinear_residual**2 - left) < 4 * error
            assert abs(at.unexplained - left / total) < 4 * at.unexplained_se + 0.01 * left / total
            parts = at.nonlinear_residual**2 + at.linear_mismatch**2
            np.testing.assert_allclose(parts, at.difference**2, rtol=1e-4)
    # The other law's slope is another, and the Gaussian is its own linear model.
    far = found.sel(denoiser="empirical", inputs="contrast", sigma=0.3)
    assert far.matrix_error > 0.3 > 1e-5 > found.matrix_error.sel(denoiser="gaussian").max()
    assert found.unexplained.sel(denoiser="gaussian").max() < 1e-5
    (tmp_path / "out" / "parts" / "empirical-contrast.npz").unlink()
    assert found.identical(run())
    plots.plot_experiment("linear-distillation", found).savefig(tmp_path / "figure.png")
    for wrong, message in (
        ({"mechanisms": ("nothing",)}, "no mechanism called 'nothing'"),
        ({"levels": (0.0,)}, "`levels` must be positive"),
        ({"contrast": -1.0}, "`contrast` must be positive"),
        ({"num_noises": 3}, "`num_noises` must be even"),
    ):
        with pytest.raises(ValueError, match=message):
            sj.experiments.linear_distillation(data="two-points", progress=False, **wrong)


def test_errors(tmp_path):
    run = _memorization.memorization
    with pytest.raises(ValueError, match=r"`num_train` must be .* got \(50, 50\)"):
        run(num_train=(50, 50))
    with pytest.raises(ValueError, match=r"`num_train` must be .* got \(1,\)"):
        _strong_generalization.strong_generalization(num_train=(1,))
    with pytest.raises(ValueError, match=r"`widths` must be .* got \(\)"):
        run(widths=())
    with pytest.raises(ValueError, match="1998 points to train on and at least 4 more; got 1797"):
        _strong_generalization.strong_generalization(num_train=(999,))
    with pytest.raises(ValueError, match="`num_samples` must be at least 3; got 2"):
        run(num_samples=2)
    with pytest.raises(ValueError, match=r"`early_steps` must differ from `num_steps`; got \(9,\)"):
        _strong_generalization.strong_generalization(num_steps=9, early_steps=(9,))
    with pytest.raises(ValueError, match=r"`steps` must ascend; got \(3, 2\)"):
        _emergence.emergence(steps=(3, 2))
    with pytest.raises(ValueError, match="`levels` must be positive"):
        run(levels=(0.1, -1.0))
    with pytest.raises(ValueError, match="`num_seeds` must be a positive integer; got 0"):
        run(num_seeds=0)
    with pytest.raises(ValueError, match="no data set called 'nothing'"):
        run(data="nothing")
