"""The variance paper's figures: samplers against plain NumPy, masses against independent computations."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import smoothjax as sj
from smoothjax import experiments, plots, variance
from smoothjax.experiments._variance import gap_filling as gaps
from smoothjax.experiments._variance import samplers as samplers
from smoothjax.experiments._variance.gap_geometry import _Distances
from smoothjax.experiments._variance.samplers import tabulated_flow

# Compiles for minutes in all: not a second time in the suite at default precision.
pytestmark = pytest.mark.slow

PROCESS = sj.VariancePreserving.from_drift_rate(0.1, 20.0)


def linear_model(dim):
    axes = [variance.GaussianBumps.evenly(-1.5, 1.5, 4 + i) for i in range(dim)]
    features = variance.ProductFeatures(axes, variance.FourierSeries(1.0, 2, 1), PROCESS)
    size = 4 * int(np.prod([4 + i for i in range(dim)]))
    weights = jax.random.normal(jax.random.key(dim), (dim, size))
    return variance.LinearDenoiser(features, weights)


@pytest.mark.parametrize("dim", [1, 2])
def test_models_of_product_features_sum_over_them(dim, x64):
    model = linear_model(dim)
    u, sigma = jnp.linspace(-0.7, 0.4, dim), jnp.asarray(0.8)
    expected = model.weights @ model.features(u, sigma)
    # Sums of some 80 terms of size one.
    np.testing.assert_allclose(model(u, sigma), expected, atol=1e-13)


@pytest.mark.parametrize("dim", [1, 2])
def test_tabulated_flow(dim, x64):
    model, rng = linear_model(dim), np.random.default_rng(0)
    nodes, times = np.linspace(-1.5, 1.5, 9), np.linspace(1.0, 0.05, 6)
    starts = rng.normal(size=(40, dim))
    found = tabulated_flow(
        model, PROCESS, jnp.asarray(starts), jnp.asarray(times), jnp.asarray(nodes)
    )
    x = starts.copy()
    for t, dt in zip(times[:-1], np.diff(times), strict=True):
        exponent = 0.1 * t + 9.95 * t**2
        alpha, variance_, beta = np.exp(-exponent), -np.expm1(-2 * exponent), 0.1 + 19.9 * t
        for i in range(len(x)):
            above = nodes[np.clip(np.searchsorted(nodes, x[i]), 0, len(nodes) - 1)]
            mean = model(jnp.asarray(above / alpha), np.sqrt(variance_) / alpha)
            x[i] += dt * (-beta * x[i] - beta * (alpha * np.asarray(mean) - x[i]) / variance_)
    # Five steps that each amplify rounding by at most 1 + beta dt / variance, below 20.
    np.testing.assert_allclose(found, x, atol=1e-9)


class RandomGaussians(eqx.Module):
    """In place of trained models: centred Gaussians of random variance, whose flow is a factor."""

    def sample(self, key):
        return sj.GaussianDenoiser(jnp.zeros(1), self.variance(key)[None, None])

    def variance(self, key):
        return jax.random.uniform(key, minval=0.1, maxval=0.5)


def test_samplers_of_gaussians(x64):
    """Both samplers in the setting of the figures, their schedules written out; starts at quantiles."""
    law, cutoff, process = RandomGaussians(), 0.02, samplers.paper_process()
    noise = np.asarray(samplers.stratified_normal(9))
    np.testing.assert_allclose(noise[:, 0], stats.norm.ppf(np.arange(1, 18, 2) / 18), atol=1e-12)
    schedule = lambda t: (0.1 * t + 9.95 * t**2, 0.1 + 19.9 * t)  # noqa: E731
    train, draw = jax.random.split(jax.random.key(0))
    levels = [np.sqrt(np.expm1(2 * schedule(t)[0])) for t in (1.0, cutoff)]
    found = samplers.converged_samples_of_models(law, process, train, noise, cutoff, 3)
    for i in range(3):
        key = jax.random.fold_in(train, i)
        v = float(law.variance(key))
        shrinkage = np.sqrt((v + levels[1] ** 2) / (v + levels[0] ** 2))
        expected = np.exp(-schedule(cutoff)[0]) * levels[0] * noise * shrinkage
        # Of 120 fifth-order steps, up to 0.76 in log sigma, of a linear equation.
        np.testing.assert_allclose(found[i], expected, atol=1e-4)
        one = samplers.converged_samples(law.sample(key), process, noise, cutoff)
        np.testing.assert_allclose(one, found[i], atol=1e-9)

    nodes = -1.5 + 3 * np.arange(200) / 199
    found = samplers.published_samples_of_models(law, process, train, draw, cutoff, 1, 3, 20)
    for i in range(3):
        v = float(law.variance(jax.random.fold_in(train, i)))
        x = np.asarray(jax.random.normal(jax.random.fold_in(draw, i), (20, 1)))[:, 0].copy()
        dt = (1 - cutoff) / 30
        for t in 1 - dt * np.arange(30):
            exponent, beta = schedule(t)
            alpha, share = np.exp(-exponent), -np.expm1(-2 * exponent)
            above = nodes[np.clip(np.searchsorted(nodes, x), 0, 199)]
            mean = alpha * v * above / (alpha**2 * v + share)
            x += dt * (beta * x + beta * (alpha * mean - x) / share)
        # sigma_t at 1, the scale of the starts, is 1 to 1e-9; thirty steps amplify by up to 1 + beta dt / share < 4 at the
        # end and shrink before.
        np.testing.assert_allclose(found[i][:, 0], x, atol=1e-7)


def test_distance_to_three_points():
    x = np.random.default_rng(0).normal(size=(3, 500))
    below = np.stack([np.searchsorted(np.sort(row), gaps.CDF_NODES) for row in x]) / 500
    expected = [stats.wasserstein_distance(row, gaps.POINTS) for row in x]
    # Distribution functions differ by at most one, and are read on nodes 0.0025 apart: at most their spacing for each of the
    # few crossings.
    np.testing.assert_allclose(gaps._wasserstein(below), expected, atol=4 * 0.0025)


# Masses by NumPy programs of their own: 100 models a condition, with standard errors over these. Published: 30 Euler steps
# and a table of 200 nodes; converged: fourth-order steps in log t. Of (64, 1024) samples, down to t = 0.01.
PUBLISHED = {
    "gap": ([0.2667, 0.0932], [0.0217, 0.0093]),
    "beyond": ([0.0075, 0.0486], [0.0026, 0.0055]),
    "near": ([0.4761, 0.7186], [0.0267, 0.0155]),
}
CONVERGED = {
    "gap": ([0.1987, 0.0103], [0.0223, 0.0039]),
    "beyond": ([0.0030, 0.0135], [0.0016, 0.0031]),
}


@pytest.mark.exhaustive
def test_gap_filling(tmp_path):
    pytest.importorskip("xarray")
    settings = {
        "num_train": (64, 1024),
        "cutoffs": (0.01,),
        "num_samples": 2000,
        "num_starts": 101,
        "progress": False,
    }
    results = experiments.gap_filling(out=str(tmp_path), **settings)
    one = results.sel(cutoff=0.01)
    # Stratified starts: another 1 / 101 may fall on either side of each edge of a region that a model's map crosses.
    for sampler, reference, slack in (("published", PUBLISHED, 0), ("converged", CONVERGED, 0.01)):
        for region, (expected, error) in reference.items():
            mass = one.mass.sel(sampler=sampler, region=region)
            combined = np.hypot(mass.std("model", ddof=1) / 10, np.array(error))
            assert np.all(np.abs(mass.mean("model") - np.array(expected)) < 4 * combined + slack), (
                region
            )
    # The exact score by the published steps, from a million starts; and the flow's own map of quantiles.
    np.testing.assert_allclose(
        one.exact_mass.sel(sampler="published"), [0.0675, 0.0142, 0.7226], atol=2 / 2000
    )
    np.testing.assert_allclose(
        one.exact_mass.sel(sampler="converged"), [0.0001, 0.0053, 0.8868], atol=6 / 101
    )
    gap = one.mass.sel(region="gap").mean("model")
    np.testing.assert_allclose(one.split.sum("part"), gap.sel(sampler="published"), atol=1e-12)
    width = results.bin[1] - results.bin[0]
    total = (one.density * width).sum("bin")
    assert np.all(total <= 1 + 1e-9) and np.all(total.mean("model") > 0.95)
    # The average of laws is no farther from the data than the laws are on average.
    assert np.all(one.average_wasserstein <= one.wasserstein.mean("model") + 1e-12)
    assert results.identical(experiments.gap_filling(out=str(tmp_path), **settings))
    plots.plot_experiment("gap-filling", results).savefig(tmp_path / "figure.png")


def test_regions_of_the_plane():
    points = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    far = _Distances(points, np.array([[0.5, 0.5], [0.5, 0.0], [0.0, 0.0], [2.0, 0.0]]))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(far.edge, [0, 0.5 * half, half, 1], atol=1e-15)
    np.testing.assert_allclose(far.diagonal, [0.5, 0, 0, 1], atol=1e-15)
    np.testing.assert_allclose(far.point, [half, 0.5, 1, 1], atol=1e-15)
    np.testing.assert_allclose(far.centre, [half, 0.5, 0, 2], atol=1e-15)


@pytest.mark.exhaustive
def test_gap_geometry(tmp_path):
    """Masses by a NumPy program of its own, over 36 models a condition, with its standard errors."""
    pytest.importorskip("xarray")
    num = 12
    results = experiments.gap_geometry(
        rotations=(0.0,),
        num_models=num,
        num_samples=2000,
        num_starts=200,
        progress=False,
        out=str(tmp_path),
    )
    expected = {
        ("published", "bumps"): [(0.0648, 0.0068), (0.029, 0.0073), (0.0084, 0.0034)],
        ("published", "fourier"): [(0.0285, 0.0036), (0.1489, 0.0106), (0.176, 0.0128)],
        ("converged", "bumps"): [(0.0257, 0.0059), (0.0236, 0.0072), (0.0062, 0.0036)],
        ("converged", "fourier"): [(0.0078, 0.002), (0.1162, 0.015), (0.2553, 0.0243)],
    }
    for (sampler, kind), pairs in expected.items():
        mass = results.mass.sel(sampler=sampler, features=kind, rotation=0)
        mass = mass.sel(region=["edge gaps", "diagonal gaps", "centre"])
        mean, error = np.transpose(pairs)
        combined = np.hypot(mass.std("model", ddof=1) / num**0.5, np.array(error))
        assert np.all(np.abs(mass.mean("model") - mean) < 4 * combined), (sampler, kind)
    plots.plot_experiment("gap-geometry", results).savefig(tmp_path / "figure.png")
    with pytest.raises(ValueError, match="got 5"):
        experiments.gap_geometry(num_features=5)
    with pytest.raises(ValueError, match=r"got \['wavelets'\]"):
        experiments.gap_geometry(features=("wavelets",))


class EndsEarly(sj.VariancePreserving):
    max_time: ClassVar[float] = 0.5


def test_short_form_of_training(x64):
    axis = variance.GaussianBumps.evenly(-1.5, 1.5, 5)
    features = variance.ProductFeatures([axis], variance.FourierSeries(1.0, 1, 1), PROCESS)
    points, key = jnp.array([[-1.0], [0.0], [1.0]]), jax.random.key(0)
    found = sj.fit_linear(features, PROCESS, points, 50, 0.1, key, cutoff=0.05)
    times = variance.UniformTimes(PROCESS, 0.05, 1.0)
    problem = variance.LinearProblem(variance.DenoisingProblem(points, times), features, ridge=0.1)
    expected = variance.train_linear(problem, 50, key)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-9, atol=1e-12)
    # Of a process that ends before time 1, and another prediction.
    process = EndsEarly.from_drift_rate(0.1, 20.0)
    found = sj.fit_linear(features, process, points, 50, 0.1, key, cutoff=0.05, prediction="score")
    times = variance.UniformTimes(PROCESS, 0.05, 0.5)
    denoising = variance.DenoisingProblem(points, times, prediction="score")
    problem = variance.LinearProblem(denoising, features, ridge=0.1)
    expected = variance.train_linear(problem, 50, key)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-9, atol=1e-12)
    u = jnp.array([0.3])
    score = found.weights @ features(u, jnp.asarray(0.5))
    np.testing.assert_allclose(found(u, 0.5), u + 0.25 * score, rtol=1e-12)
    with pytest.raises(ValueError, match="EDM has none"):
        sj.fit_linear(features, sj.EDM(), points, 50, 0.1, key)
    with pytest.raises(ValueError, match="`cutoff` must lie below 1"):
        sj.fit_linear(features, PROCESS, points, 50, 0.1, key, cutoff=1.5)


def test_naive_law(x64):
    """The covariance that one small step adds, by the paths themselves."""
    D = sj.EmpiricalDenoiser(jnp.array([[-1.0, 0.0], [1.0, 0.5], [0.0, 1.0]]))
    law = sj.NaiveLaw(D, variance.NaiveStrength(PROCESS, 0.02))
    u, sigma, ratio, num = jnp.array([0.1, 0.2]), 0.7, 0.999, 4000
    run = jax.jit(jax.vmap(lambda k: law.flow(k, u, sigma, ratio * sigma, steps=1)))
    ends = np.asarray(run(jax.random.split(jax.random.key(0), num)))
    t = float(PROCESS.time(sigma))
    beta, share = 0.1 + 19.9 * t, 1 - np.exp(-2 * (0.1 * t + 9.95 * t**2))
    expected = 0.02 * beta / share * np.asarray(D.posterior_covariance(u, sigma))
    np.testing.assert_allclose(law.intensity(u, sigma), expected, rtol=1e-10)
    found = np.cov(ends.T) / -np.log(ratio)
    error = np.sqrt((expected**2 + np.outer(np.diag(expected), np.diag(expected))) / num)
    assert np.all(np.abs(found - expected) < 4 * error)
    with pytest.raises(ValueError, match="`mean_denoiser` must be an AbstractPosteriorDenoiser"):
        sj.NaiveLaw(lambda u, s: u, 1.0)


@pytest.mark.parametrize("name", ["three-points", "hexagon"])
def test_linear_model_mechanism(name):
    """The paper's model in units in which the data reach from -1 to 1."""
    data = sj.datasets.load(name)
    moved = sj.datasets.Dataset("moved", 10 + 4 * np.asarray(data.points))
    mechanism = sj.mechanisms.get("linear-model")
    here, there = mechanism.build(data, 0), mechanism.build(moved, 0)
    num, size = {1: (16, 256), 2: (10, 500)}[data.dim]
    axes = [variance.GaussianBumps.evenly(-1.5, 1.5, num)] * data.dim
    times = variance.GaussianBumps.evenly(0.01, 1.0, num)
    features = variance.ProductFeatures(axes, times, PROCESS)
    expected = sj.fit_linear(features, PROCESS, data.points, size, 0.1, jax.random.key(0))
    u = data.points[0] + 0.1
    # Normal equations of condition below 1e6, in the data's precision.
    rounding = 1e6 * float(np.finfo(data.points.dtype).eps)
    np.testing.assert_allclose(here(u, 0.5), expected(u, 0.5), atol=rounding)
    np.testing.assert_allclose(there(10 + 4 * u, 2.0), 10 + 4 * here(u, 0.5), atol=4 * rounding)
    with pytest.raises(ValueError, match="got dimension 3"):
        mechanism.build(sj.datasets.Dataset("space", np.eye(3, dtype=np.float32)), 0)
