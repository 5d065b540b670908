"""Exact targets, and the experiments that test the laws of linear models."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from smoothjax import variance
from smoothjax.experiments._variance import linear_models as shared

pytest.importorskip("xarray")

from smoothjax.experiments._variance.gap_emptying import (
    _features,
    _second_order,
    _semiclassical,
    _summary,
    gap_emptying,
)
from smoothjax.experiments._variance.gaussian_closure import (
    _draws,
    gaussian_closure,
    ks_null,
    shape_statistics,
)
from smoothjax.experiments._variance.law_accuracy import compare_kernels, law_accuracy
from smoothjax.experiments._variance.target_ablation import target_ablation

# Compiles for minutes in all: not a second time in the suite at default precision.
pytestmark = pytest.mark.slow

PLANE = np.array([[-1.0, 0.0], [0.0, 0.5], [1.0, 0.0]])
CUTOFF = 0.05


def problem(exact_targets=None, prediction="x0", data=PLANE, dtype="float64"):
    data = np.asarray(data, dtype)
    process = shared.paper_process()
    bumps = [variance.GaussianBumps.evenly(-1.5, 1.5, 3)] * data.shape[1]
    times = variance.GaussianBumps.evenly(CUTOFF, 1.0, 3)
    features = variance.ProductFeatures(bumps, times, process)
    levels = variance.UniformTimes(process, CUTOFF, 1.0)
    denoising = variance.DenoisingProblem(
        data, levels, prediction=prediction, exact_targets=exact_targets
    )
    return variance.LinearProblem(denoising, features, ridge=0.1)


def line_problem(exact_targets=None):
    features = shared.bump_features(CUTOFF, 4)
    return shared.three_point_problem(features, CUTOFF, 0.1, exact_targets)


def weight_covariance(law):
    factor = np.asarray(law.factor).reshape(-1, law.factor.shape[-1])
    return factor @ factor.T


# Exact targets


@pytest.mark.parametrize("prediction", ["x0", "eps", "score"])
def test_exact_targets_are_posterior_means(prediction, dtype):
    low, high = 0.3, 1.0
    hybrid = problem((low, high), prediction, dtype=dtype).denoising
    noisy = problem(None, prediction, dtype=dtype).denoising
    triples = hybrid.draw(jax.random.key(0), 200)
    for found, expected in zip(triples, noisy.draw(jax.random.key(0), 200), strict=True):
        np.testing.assert_array_equal(found, expected)
    targets = np.asarray(jax.vmap(hybrid.target)(*triples))
    roots = np.asarray(jax.vmap(hybrid.target_noise)(*triples[1:]))
    x, u, sigma = (np.asarray(part, float) for part in triples)
    inside = (low <= sigma) & (sigma <= high)
    assert 20 < inside.sum() < 180
    logits = -np.sum((u[:, None] - PLANE) ** 2, -1) / (2 * sigma[:, None] ** 2)
    posterior = np.exp(logits - logits.max(1, keepdims=True))
    posterior /= posterior.sum(1, keepdims=True)
    y = np.where(inside[:, None], posterior @ PLANE, x)
    base = 0 if prediction == "x0" else u
    # Rounding of the noisy point, over sigma^2 in the posterior and over sigma in the target: sigma > 0.2.
    tolerance = 200 * np.finfo(dtype).eps * (1 + np.abs(u).max(1) / sigma)
    assert np.all(np.abs(targets - (y - base) / sigma[:, None]) < tolerance[:, None])
    assert targets.dtype == dtype and roots.dtype == dtype
    assert np.all(roots[inside] == 0)
    spread = np.einsum("nk,kd->nkd", np.sqrt(posterior), PLANE) - np.einsum(
        "nk,nd->nkd", np.sqrt(posterior), posterior @ PLANE
    )
    covariance = np.einsum("nkd,nke->nde", spread, spread) / sigma[:, None, None] ** 2
    found = np.einsum("nik,njk->nij", roots, roots)
    assert np.all(np.abs(found - covariance)[~inside] < tolerance[~inside][:, None, None] * 10)


@pytest.mark.exhaustive
def test_exact_targets_leave_the_design(x64):
    """Given the inputs nothing is random; over inputs only what they leave unexplained."""
    exact, noisy, laws = problem((0.0, jnp.inf)), problem(), variance.LinearModelLaw
    key, P = jax.random.key(1), 80
    fixed, reference = (laws.fixed_design(one, P, key) for one in (exact, noisy))
    assert not np.any(fixed.factor)
    np.testing.assert_array_equal(fixed.mean_weights, reference.mean_weights)
    # Trained on the same inputs, it is the mean of the models trained on noisy targets.
    trained = variance.train_linear(exact, P, key)
    # Two orders of the same sums: rounding times the condition, below 1e5.
    np.testing.assert_allclose(trained.weights, reference.mean_weights, atol=1e-10)

    @eqx.filter_jit
    def large(noisy, exact):
        law = lambda one, only=False: laws.large_sample(  # noqa: E731
            one, P, key, num_nodes=500, noise_only=only
        )
        return law(noisy), law(noisy, True), law(exact)

    both, noise, rest = map(weight_covariance, large(noisy, exact))
    np.testing.assert_allclose(both - noise, rest, atol=1e-10 * np.abs(both).max())
    assert np.abs(rest).max() > 0.01 * np.abs(both).max()


def test_a_switch_divides_the_noise(x64):
    """The fixed-design covariance is a sum over inputs: those below the switch and those above make up the whole."""
    key, P, switch = jax.random.key(2), 80, 0.6
    below, above, whole = (
        weight_covariance(variance.LinearModelLaw.fixed_design(problem(exact), P, key))
        for exact in ((switch, jnp.inf), (0.0, switch), None)
    )
    np.testing.assert_allclose(below + above, whole, atol=1e-12 * np.abs(whole).max())
    assert min(np.trace(below), np.trace(above)) > 0.01 * np.trace(whole)


@pytest.mark.exhaustive
def test_exact_targets_in_other_laws(x64):
    exact, P = problem((0.0, jnp.inf), data=np.array([[-1.0], [0.0], [1.0]])), 60
    kernel = lambda u, s, v, t: exact.features(u, s) @ exact.features(v, t)  # noqa: E731

    @eqx.filter_jit
    def coefficients(denoising):
        law = variance.KernelLaw.ridge(denoising, kernel, P, jax.random.key(0), ridge=0.1)
        return law.sample(jax.random.key(1)).coefficients, law.mean_denoiser.coefficients

    np.testing.assert_allclose(*coefficients(exact.denoising), rtol=1e-12)
    num, laws = 1000, variance.LinearModelLaw
    trained = laws.from_retraining(exact, P, jax.random.key(0), num_models=num)
    averaged = laws.averaged_over_designs(exact, P, jax.random.key(1), num_designs=num)
    # Both are covariances of as many draws of the same vector: root two times the floor, twice.
    kernels = weight_covariance(averaged)[None]
    deviations = np.asarray(trained.factor).reshape(-1, num).T * np.sqrt(num - 1)
    error, floor, *_ = compare_kernels(kernels, deviations)
    assert error < 2 * np.sqrt(2) * floor


def test_bad_exact_targets():
    for levels in ((1.0, 0.5), (-0.1, 1.0), (0.0, float("nan")), (0.5, 0.5)):
        with pytest.raises(ValueError, match="noise levels 0 <= low < high; got"):
            problem(levels)
    build = eqx.filter_jit(lambda low: problem((low, 1.0), dtype="float32").denoising.exact_targets)
    assert np.any(np.isnan(build(jnp.asarray(2.0))[1]))


# What the experiments share


def test_masses_of_known_flows(x64):
    """Without weights the flow shrinks all starts in proportion to the noise level: it ends in a Gaussian."""
    one, num = line_problem(), 500
    weights = jnp.zeros((2, 1, 16))
    found = shared.masses_of_flows(one, weights, 0.3, num)
    process = shared.paper_process()
    scale = float(process.sigma(0.3))
    x = np.abs(scale * stats.norm.ppf((np.arange(num) + 0.5) / num))
    gap, beyond = np.mean((x > 0.25) & (x < 0.75)), np.mean(x > 1.15)
    # A sample on an edge may fall on either side.
    np.testing.assert_allclose(found, [[1 - gap - beyond, gap, beyond]] * 2, atol=2.1 / num)


def test_models_and_places(x64):
    one, key, P = line_problem(), jax.random.key(3), 50
    found = shared.trained_weights(one, P, key, 3)
    expected = variance.train_linear(one, P, jax.random.fold_in(key, 2)).weights
    np.testing.assert_allclose(found[2], expected, atol=1e-11)
    t, x = np.array([0.1, 0.4]), np.array([-0.5, 0.0, 1.0])
    places = shared.features_on_grid(one, t, x)
    process = shared.paper_process()
    u, sigma = process.to_noise_coordinates(jnp.array([-0.5]), jnp.asarray(0.4))
    np.testing.assert_allclose(places[3], one.features(u, sigma), rtol=1e-12)
    series = _features("fourier", 0.1, 4)(u, sigma)
    parts = [
        [1, np.cos(angle), np.cos(2 * angle), np.sin(angle)]
        for angle in (2 * np.pi * -0.5 / 3, 2 * np.pi * 0.4 / 0.9)
    ]
    np.testing.assert_allclose(series, np.outer(*parts).ravel(), atol=1e-12)
    wide, narrow = (shared.bump_features(0.1, 5, width).coordinates[0].width for width in (1, 0.5))
    assert wide == 2 * narrow == 0.75


# The laws


def test_comparison_of_kernels():
    """Gaussian vectors, for which floor and standard error of the trace have closed forms."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((4, 4))
    kernel, num, repeats = root @ root.T, 400, 400
    rows = np.array(
        [
            compare_kernels(kernel[None], rng.standard_normal((num, 4)) @ root.T)
            for _ in range(repeats)
        ]
    )
    error, floor, own, ratio, trace_error = rows.T
    norm, trace = np.linalg.norm(kernel), np.trace(kernel)
    expected = np.sqrt((trace**2 + norm**2) / (num - 1)) / norm
    # The floor is a root of fourth moments of 400 vectors, to about 10 % each; their mean over 400 repeats to 1 %, and a
    # relative bias of the order of the floor's square.
    assert abs(floor.mean() / expected - 1) < 0.03
    square = error**2
    assert abs(square.mean() - expected**2) < 4 * square.std() / repeats**0.5 + 0.03 * expected**2
    assert np.all(own == 0)
    expected = np.sqrt(2 / num) * norm / trace
    assert abs(trace_error.mean() / expected - 1) < 0.03
    assert abs(ratio.std() / expected - 1) < 4 / np.sqrt(2 * repeats)
    other = np.diag([1.0, 2.0, 0.0, 0.0])
    values = rng.standard_normal((num, 4))
    own = compare_kernels(np.stack([kernel + other, kernel - other]), values)[2]
    reference = np.cov(values.T)
    # Of two, half the difference is the standard error of the mean.
    np.testing.assert_allclose(own, np.sqrt(5) / np.linalg.norm(reference), rtol=1e-12)


@pytest.mark.exhaustive
def test_law_accuracy(tmp_path, x64):
    settings = {
        "num_train": (64,),
        "num_designs": (64,),
        "num_bumps": 4,
        "num_models": 1000,
        "num_nodes": 1024,
        "out": str(tmp_path),
        "progress": False,
    }
    results = law_accuracy(**settings)
    one = results.sel(num_train=64)
    fixed = one.sel(route="fixed_design")
    assert fixed.error < 1.3 * fixed.floor
    assert abs(fixed.trace_ratio - 1) < 4 * fixed.trace_error
    # The other routes are off by the models' Monte Carlo and their own.
    good = one.sel(route="averaged_over_designs")
    assert good.error < 2.5 * np.hypot(good.floor, good.own_error)
    # At four samples a feature the equivalent is off by itself: by 0.39, with 400,000 independent nodes.
    equivalent = one.sel(route="deterministic_equivalent")
    slack = 2.5 * np.hypot(equivalent.floor, equivalent.own_error)
    assert abs(equivalent.error - 0.39) < slack
    # Four samples a feature: the leading order misses much.
    ratio = one.trace_ratio
    assert ratio.sel(route="noise_only") < ratio.sel(route="large_sample") < 0.8
    np.testing.assert_allclose(results.features_per_sample, [1 / 4])
    parts = sorted(path.stem for path in tmp_path.glob("parts/*.npz"))
    assert len(parts) == 6
    assert results.identical(law_accuracy(**settings))
    draw("law_accuracy", results)


def test_bad_law_accuracy():
    with pytest.raises(ValueError, match="a multiple of 4, at least 8, for each"):
        law_accuracy(num_train=(64,), num_designs=(8, 8))
    with pytest.raises(ValueError, match="a multiple of 4, at least 8, for each"):
        law_accuracy(num_train=(64,), num_designs=(4,))
    with pytest.raises(ValueError, match="`num_models` must be at least 2; got 1"):
        law_accuracy(num_models=1)


# The closure


def test_shape_statistics():
    rng = np.random.default_rng(1)
    values = np.stack([rng.exponential(size=300), rng.standard_normal(300)], axis=1)
    skewness, kurtosis, distance = shape_statistics(values)
    np.testing.assert_allclose(skewness, stats.skew(values), rtol=1e-12)
    np.testing.assert_allclose(kurtosis, stats.kurtosis(values), rtol=1e-12)
    z = (values - values.mean(0)) / values.std(0)
    expected = [stats.kstest(column, "norm").statistic for column in z.T]
    np.testing.assert_allclose(distance, expected, rtol=1e-12)


def test_null_of_the_distance():
    """Stephens (1974): with both moments estimated, 5 % of distances exceed 0.895 / (sqrt n - 0.01 + 0.85 / sqrt n)."""
    median, high = ks_null(100, (0.5, 0.95), seed=0)
    # 2000 simulated distances give the quantile to 1.3 %, his three digits and deviations by n - 1 another 0.5 %.
    assert abs(high * (10 - 0.01 + 0.085) / 0.895 - 1) < 0.05
    assert median < high


def test_gaussian_models_pass(x64):
    law = variance.LinearModelLaw.fixed_design(line_problem(), 200, jax.random.key(0))
    num = 2000
    places = shared.features_on_grid(line_problem(), np.array([0.1, 0.3]), np.array([0.0, 0.5]))
    weights = _draws(law, jax.random.key(1), num)
    values = np.asarray(weights[:, 0] @ places.T)
    skewness, kurtosis, distance = shape_statistics(values)
    assert np.all(np.abs(skewness) < 4 * np.sqrt(6 / num))
    assert np.all(np.abs(kurtosis) < 4 * np.sqrt(24 / num))
    assert np.all(distance < ks_null(num, (0.999,), seed=0))
    deviation = np.linalg.norm(places @ law.factor[0], axis=1)
    assert np.all(np.abs(values.std(0) / deviation - 1) < 4 / np.sqrt(2 * num))
    again = law.sample(jax.random.fold_in(jax.random.key(1), 5)).weights
    np.testing.assert_allclose(weights[5], again, rtol=1e-12)


@pytest.mark.exhaustive
def test_gaussian_closure(tmp_path, x64):
    settings = {
        "num_train": (8, 4096),
        "cutoff": CUTOFF,
        "num_bumps": 4,
        "num_models": 400,
        "num_flows": 40,
        "num_designs": 64,
        "num_samples": 100,
        "out": str(tmp_path),
        "progress": False,
    }
    results = gaussian_closure(**settings)
    # Cumulants of sums fall with their number, by 512 here.
    few, many = (results.sel(num_train=P) for P in (8, 4096))
    assert few.ks_distance.median() > results.ks_null.sel(quantile=0.99)
    assert many.ks_distance.median() < results.ks_null.sel(quantile=0.95)
    assert abs(many.excess_kurtosis).median() < 2 * np.sqrt(24 / 400)
    assert abs(many.skewness).median() < 2 * np.sqrt(6 / 400)
    np.testing.assert_allclose(results.mass.sum("region"), 1, atol=1e-12)
    mean, spread = many.mass.mean("model"), many.mass.std("model", ddof=1)
    error = np.hypot(*(spread.sel(law=law) for law in ("retrained", "gaussian"))) / 40**0.5
    difference = mean.sel(law="retrained") - mean.sel(law="gaussian")
    # One in a hundred samples may fall on either side of an edge.
    assert np.all(np.abs(difference) < 4 * error + 0.01)
    (tmp_path / "parts" / "null.npz").unlink()
    assert results.identical(gaussian_closure(**settings))
    draw("gaussian_closure", results)
    with pytest.raises(ValueError, match="at most `num_models`; got 5 of 4"):
        gaussian_closure(num_flows=5, num_models=4)


# Noise of the targets, and of the models


@pytest.mark.slow
@pytest.mark.exhaustive
def test_target_ablation(tmp_path, x64):
    settings = {
        "num_train": (40,),
        "exact_below": (0.0, 0.01, 0.5, 1e5, np.inf),
        "cutoff": CUTOFF,
        "num_bumps": 4,
        "num_models": 6,
        "num_samples": 50,
        "out": str(tmp_path),
        "progress": False,
    }
    results = target_ablation(**settings)
    mass = results.mass.sel(num_train=40)
    # No input has a noise level below that of the cutoff, 0.2, or above that of t = 1, 3e4.
    np.testing.assert_array_equal(mass.sel(exact_below=0.01), mass.sel(exact_below=0))
    np.testing.assert_array_equal(mass.sel(exact_below=1e5), mass.sel(exact_below=np.inf))
    assert np.any(mass.sel(exact_below=0.5) != mass.sel(exact_below=0))
    assert np.any(mass.sel(exact_below=0.5) != mass.sel(exact_below=np.inf))
    # The means, given the inputs, of models on noisy targets: no exact target is drawn.
    one, key = line_problem(), jax.random.fold_in(jax.random.key(0), 40)
    means = [
        variance.LinearModelLaw.fixed_design(one, 40, jax.random.fold_in(key, i)).mean_weights
        for i in range(6)
    ]
    expected = shared.masses_of_flows(one, jnp.stack(means), CUTOFF, 50)
    # A sample on an edge may fall on either side.
    np.testing.assert_allclose(mass.sel(exact_below=np.inf), expected, atol=0.021)
    assert results.identical(target_ablation(**settings))
    draw("target_ablation", results)
    with pytest.raises(ValueError, match="at least 0; got"):
        target_ablation(exact_below=(-1.0,))


def test_jackknife():
    """Of single models around a mean model that does not move: the standard error of a mean."""
    rng = np.random.default_rng(0)
    mass = rng.random((2, 10, 3))
    mass /= mass.sum(2, keepdims=True)
    mass[0] = central = np.array([0.6, 0.3, 0.1])
    # The mean model's ends are split in proportion; only sums over them enter.
    split = np.array([0.5, 0.2, 0.3])
    part = {
        "moved": mass[:, :, None] * split[:, None],
        "central": np.broadcast_to(central, (11, 3)),
        "predicted": mass[:, 0],
        "predicted_without_shift": mass[:, 0],
        "small_shift": 1.0,
    }
    found = _summary(part, (0.0, 1.0))
    np.testing.assert_allclose(found["mass"], mass.mean(1))
    np.testing.assert_allclose(found["moved"], mass.mean(1)[:, None] * split[:, None])
    np.testing.assert_allclose(found["change"], mass.mean(1) - central, atol=1e-15)
    expected = mass.std(1, ddof=1) / np.sqrt(10)
    np.testing.assert_allclose(found["change_error"], expected, atol=1e-15)
    # A mean model that moves as the average does leaves no error, and neither does the mean model by itself.
    without = (mass[1].sum(0) - mass[1]) / 9
    part["central"] = np.concatenate([mass[1].mean(0)[None], without])
    np.testing.assert_allclose(_summary(part, (0.0, 1.0))["change_error"], 0, atol=1e-15)


def test_second_order(x64):
    """Integrals, by quadrature, of the Gaussians around the ends."""
    law = variance.LinearModelLaw.fixed_design(line_problem(), 400, jax.random.key(0))
    spread = 0.5
    found = _second_order(law, (0.0, spread), CUTOFF, 8)
    starts = shared.stratified_starts(8, law.mean_weights.dtype)
    high, low = shared.levels_of_flow(CUTOFF)
    ends = _semiclassical(law, starts, high, low)
    alpha = float(shared.paper_process().alpha(CUTOFF))
    nodes, weights = np.polynomial.legendre.leggauss(2000)

    def mass(mean, deviation, low, high):
        x = 0.5 * (low + high) + 0.5 * (high - low) * nodes
        square = ((x[:, None] - mean) / deviation) ** 2
        density = np.exp(-square / 2) / (np.sqrt(2 * np.pi) * deviation)
        return 0.5 * (high - low) * density.T @ weights

    deviation = (
        alpha * spread * np.sqrt(np.asarray(jax.vmap(lambda e: e.covariance)(ends)))[:, 0, 0]
    )
    for name, weight in (("predicted", spread**2), ("predicted_without_shift", 0)):
        mean = alpha * np.asarray(ends.mean_flow + weight * ends.shift)[:, 0]
        gap = mass(mean, deviation, 0.25, 0.75) + mass(mean, deviation, -0.75, -0.25)
        inside = mass(mean, deviation, -1.15, 1.15)
        expected = np.mean([inside - gap, gap, 1 - inside], axis=1)
        # Twice the same flow; the narrowest Gaussian, of deviation 0.01, is far wider than a spacing of nodes.
        assert deviation.min() > 0.01
        np.testing.assert_allclose(found[name][1], expected, atol=1e-9)
        x = np.abs(alpha * np.asarray(ends.mean_flow))[:, 0]
        gap, beyond = np.mean((x > 0.25) & (x < 0.75)), np.mean(x > 1.15)
        np.testing.assert_allclose(found[name][0], [1 - gap - beyond, gap, beyond], atol=1e-9)
    chi = np.abs(ends.shift[:, 0]) / np.linalg.norm(ends.factor[:, 0], axis=1)
    np.testing.assert_allclose(found["small_shift"], np.mean(chi <= 0.3))


@pytest.mark.exhaustive
def test_gap_emptying(tmp_path, x64):
    settings = {
        "num_train": (60,),
        "ridges": (0.1, 1.0),
        "features": ("bumps",),
        "spreads": (0.0, 0.5, 1.0),
        "cutoff": CUTOFF,
        "num_bumps": 4,
        "num_models": 10,
        "num_samples": 100,
        "num_starts": 20,
        "out": str(tmp_path),
        "progress": False,
    }
    results = gap_emptying(**settings)
    one = results.sel(features="bumps", ridge=0.1, num_train=60)
    key = jax.random.fold_in(jax.random.key(0), 60)
    law = variance.RetrainedLaw(line_problem(), 60)
    starts = shared.stratified_starts(100, jnp.float64)
    levels = shared.levels_of_flow(CUTOFF)
    # By adaptive steps, to check the grid's.
    ends = variance.flow_of_models(law, key, starts, *levels, num_models=10, rtol=1e-4)
    x = np.abs(np.asarray(shared.paper_process().alpha(CUTOFF) * ends))
    # A sample of a model on an edge may fall on either side.
    gap = np.mean((x > 0.25) & (x < 0.75))
    assert abs(one.mass.sel(spread=1, region="gap") - gap) < 0.0041
    np.testing.assert_allclose(results.change.sel(spread=0), 0, atol=1e-12)
    np.testing.assert_allclose(results.mass.sum("region"), 1, atol=1e-12)
    np.testing.assert_allclose(results.moved.sum("start_region"), results.mass, atol=1e-12)
    start = results.moved.sum("region").values
    first = results.mass.sel(spread=0).values[..., None, :]
    np.testing.assert_allclose(start, np.broadcast_to(first, start.shape), atol=1e-12)
    # At spread 0 the prediction is the mean model's flow itself, from fewer starts.
    assert np.all(np.abs(results.predicted - results.mass).sel(spread=0) < 3 / 20)
    assert results.identical(gap_emptying(**settings))
    draw("gap_emptying", results)
    with pytest.raises(ValueError, match=r"got \['sawtooth'\]"):
        gap_emptying(features=("sawtooth",))
    with pytest.raises(ValueError, match="a multiple of 10; got 15"):
        gap_emptying(num_models=15)


def draw(name, results):
    """The figure shows the numbers."""
    pytest.importorskip("matplotlib")
    from smoothjax.experiments._variance import validation_figures as plots

    figure = getattr(plots, f"plot_{name}")(results)
    figure.canvas.draw()
    shown = np.concatenate([line.get_ydata() for ax in figure.axes for line in ax.lines])
    expected = {
        "law_accuracy": lambda r: r.error.values,
        "gaussian_closure": lambda r: r.mass.mean("model").sel(region="gap").values,
        "target_ablation": lambda r: r.mass.mean("model").sel(region="gap").values,
        "gap_emptying": lambda r: r.mass.sel(region="gap", spread=[0, 1]).values,
    }[name](results)
    # Means are summed in another order.
    assert np.all(np.abs(expected.ravel()[:, None] - shown).min(axis=1) < 1e-9)
