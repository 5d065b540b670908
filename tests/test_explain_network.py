"""Which analytic denoiser explains a network: known answers, statistics written out, and resumed runs."""

import inspect
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import smoothjax as sj
from smoothjax import learning
from smoothjax.datasets import load
from smoothjax.experiments import train_and_held_out
from smoothjax.experiments._explain import explain_network as explain
from smoothjax.experiments._explain.explain_network import ANALYTIC, NETWORK, explain_network
from smoothjax.experiments._explain.figures import plot_explain_network

# Compiles for minutes in all: not a second time in the suite at default precision.
pytestmark = pytest.mark.slow

pytest.importorskip("xarray")
pytest.importorskip("tqdm")

SMALL = {
    "architecture": learning.MLPArchitecture(8, 2),
    "num_train": 24,
    "num_steps": 2,
    "levels": (0.3, 2.0),
    "patch_sizes": (1, 3),
    "num_calibration": 3,
    "num_evaluation": 5,
    "num_noises": 2,
    "num_samples": 6,
    "equivariant_images": 10,
    "steps": 4,
    "sigma_max": 5.0,
    "sigma_min": 0.1,
    "progress": False,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A file of 34 smooth images of 4 x 4 pixels."""
    x = np.random.default_rng(0).standard_normal((34, 4, 4))
    path = tmp_path_factory.mktemp("images") / "smooth.npy"
    np.save(path, x + np.roll(x, 1, 1) + np.roll(x, 1, 2))
    return str(path)


def local_in_place_of_a_network(data, architecture, key, **options):
    """What `train_denoiser` returns, with a local denoiser for the network."""
    denoiser = sj.LocalDenoiser(data.reshape(-1, *options["image_shape"]), 3)
    return learning.TrainingRun(denoiser, jnp.zeros(options["num_steps"]))


FEW = ("empirical", "gaussian", "local")


def without_training(patch):
    """A local denoiser for the network, and three analytic ones of seven: most of the time is compilation."""
    patch.setattr(explain, "train_denoiser", local_in_place_of_a_network)
    patch.setattr(explain, "ANALYTIC", FEW)
    patch.setattr(explain, "CALIBRATED", ("local",))


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """Results for a network that is the local denoiser of patches of 3 x 3, and the folder that they are kept in."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        without_training(patch)
        results = explain_network(data=images, out=str(out), **SMALL)
    return results, out


@eqx.filter_jit
def denoise(denoiser, u, sigma):
    return jax.vmap(denoiser, (0, None))(u, sigma)


def splits(images):
    train, held_out = train_and_held_out(load(images), num_train=24, seed=0)
    return train, held_out.points[:3], held_out.points[3:8]


@pytest.mark.exhaustive
def test_a_denoiser_explains_itself(run):
    results, _ = run
    np.testing.assert_array_equal(results.patch_size.sel(calibrated="local"), 3)
    own = results.sel(denoiser="local")
    # The same sums in other programs: rounding of numbers of size one.
    small = 100 * np.finfo(results.rmse.dtype).eps
    np.testing.assert_allclose(own.rmse, 0, atol=small)
    np.testing.assert_allclose(own.nmse, 0, atol=small)
    np.testing.assert_allclose(own.r2, 1, atol=small)
    np.testing.assert_allclose(own.mean_r2, 1, atol=small)
    assert list(results.closest) == ["local", "local"]
    assert (results.rmse.sel(denoiser=["empirical", "gaussian"]) > 0.01).all()
    # Above a Gaussian whose R squared is below one on every image, if not by the same amount.
    assert (results.r2.sel(denoiser="gaussian") < 0.999).all()
    assert own.difference.values == pytest.approx(1 - results.mean_r2.sel(denoiser="gaussian"))


@pytest.mark.exhaustive
def test_errors_are_at_other_held_out_images(run, images):
    """Of the Gaussian denoiser, written out, at the images after those that patch sizes were chosen on."""
    results, _ = run
    train, calibration, clean = splits(images)
    key = jax.random.key(0)
    noise = sj.flows.initial_noise(jax.random.fold_in(key, 2), 10, 16, dtype=clean.dtype)
    x, z = np.asarray(clean, np.float64), np.asarray(noise, np.float64).reshape(5, 2, 16)
    data = np.asarray(train.points, np.float64)
    mean, covariance = data.mean(axis=0), np.cov(data.T, bias=True)
    network = sj.LocalDenoiser(train.points.reshape(-1, 4, 4), 3)
    tolerance = (
        2e4 * np.finfo(clean.dtype).eps
    )  # a dozen roundings, and 16 x 16 inverses of condition 100
    for sigma in (0.3, 2.0):
        u = x[:, None] + sigma * z
        gain = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(16))
        linear = mean + (u - mean) @ gain.T
        flat = jnp.asarray(u.reshape(10, 16), clean.dtype)
        learned = denoise(network, flat, jnp.asarray(sigma, flat.dtype)).reshape(5, 2, 16)
        squares = np.mean((linear - learned) ** 2, axis=(1, 2))
        found = results.sel(denoiser="gaussian", sigma=sigma)
        np.testing.assert_allclose(found.squared_difference, squares, rtol=tolerance)
        np.testing.assert_allclose(found.rmse, np.sqrt(squares.mean()), rtol=tolerance)
        size = np.mean((learned - mean) ** 2)
        np.testing.assert_allclose(found.nmse, squares.mean() / size, rtol=tolerance)
    rmse = sj.measures.denoiser_rmse(
        sj.LocalDenoiser(train.points.reshape(-1, 4, 4), 1),
        network,
        calibration,
        2.0,
        jax.random.fold_in(key, 1),
    )
    found = results.calibration_rmse.sel(calibrated="local", sigma=2.0, candidate=1)
    np.testing.assert_allclose(found, rmse.value, rtol=tolerance)


@pytest.mark.exhaustive
def test_samples_start_from_the_same_noises(run, images):
    """The Gaussian denoiser's and the local one's, by Euler steps written out."""
    results, _ = run
    train, _, _ = splits(images)
    key = jax.random.fold_in(jax.random.key(0), 3)
    noise = sj.flows.initial_noise(key, 6, 16, dtype=train.points.dtype)
    levels = np.asarray(sj.edm_grid(4, 5.0, 0.1))
    denoisers = {
        "gaussian": sj.GaussianDenoiser.fit(train.points),
        NETWORK: sj.LocalDenoiser(train.points.reshape(-1, 4, 4), 3),
    }
    for name, denoiser in denoisers.items():
        u = np.mean(train.points, axis=0) + levels[0] * noise
        for now, after in itertools.pairwise(levels):
            denoised = denoise(denoiser, u, jnp.asarray(now, u.dtype))
            u = denoised + after / now * (u - denoised)
        # Four steps of contractions and of soft-maxes with exponents up to 100.
        small = 1e4 * np.finfo(u.dtype).eps
        np.testing.assert_allclose(results.samples.sel(model=name), u, atol=small)


@pytest.mark.exhaustive
def test_resumed_run_is_identical(run, images, monkeypatch):
    results, out = run
    without_training(monkeypatch)
    lost = ["calibration-local", "field-gaussian", "samples-gaussian"]
    for name in lost:
        (out / "parts" / f"{name}.npz").unlink()
    again = explain_network(data=images, out=str(out), **SMALL)
    assert again.identical(results)
    assert all((out / "parts" / f"{name}.npz").exists() for name in lost)
    # Nothing is left to do but to read.
    for name in ("_outputs", "sample", "calibrate_patch_size"):
        monkeypatch.setattr(explain, name, None)
    assert explain_network(data=images, out=str(out), **SMALL).identical(results)
    with pytest.raises(ValueError, match=r"another configuration.*num_samples"):
        explain_network(data=images, out=str(out), **SMALL | {"num_samples": 7})


def test_field_errors_written_out():
    rng = np.random.default_rng(1)
    shape = (3, 7, 2, 5)  # levels, images, noises, coordinates
    outputs = {name: rng.standard_normal(shape) for name in (NETWORK, *ANALYTIC)}
    network = outputs[NETWORK]
    # Near the network: clearly at the first level, with "gaussian" as near at the second.
    outputs["composite"] = network + 0.01 * rng.standard_normal(shape)
    outputs["gaussian"][1] = network[1] + 0.01 * rng.standard_normal(shape[1:])
    centre = rng.standard_normal(5)
    found = explain._field_errors(
        {name: jnp.asarray(value) for name, value in outputs.items()}, jnp.asarray(centre)
    )
    tolerance = 1e4 * float(jnp.finfo(jnp.result_type(float)).eps)
    for level in range(3):
        squares = {}
        for name in ANALYTIC:
            difference = outputs[name][level] - network[level]
            squares[name] = [np.mean(difference[image] ** 2) for image in range(7)]
        size = [np.mean((network[level, image] - centre) ** 2) for image in range(7)]
        for row, name in enumerate(ANALYTIC):
            mean, error = np.mean(squares[name]), stats.sem(squares[name])
            at = (row, level)
            np.testing.assert_allclose(found["rmse"][1][at], np.sqrt(mean), rtol=tolerance)
            expected = error / (2 * np.sqrt(mean))
            np.testing.assert_allclose(found["rmse_se"][1][at], expected, rtol=tolerance)
            ratio = mean / np.mean(size)
            np.testing.assert_allclose(found["nmse"][1][at], ratio, rtol=tolerance)
            residual = (np.array(squares[name]) - ratio * np.array(size)) / np.mean(size)
            expected = stats.sem(residual)
            np.testing.assert_allclose(found["nmse_se"][1][at], expected, rtol=tolerance)
        best = min(ANALYTIC, key=lambda name: np.mean(squares[name]))
        assert found["closest"][1][level] == best
        clear = all(
            stats.ttest_rel(squares[name], squares[best]).confidence_interval().low > 0
            for name in ANALYTIC
            if name != best
        )
        assert found["closest_is_clear"][1][level] == clear
        between = np.sqrt(np.mean((outputs["empirical"] - outputs["gaussian"])[level] ** 2))
        np.testing.assert_allclose(found["reference_rmse"][1][level], between, rtol=tolerance)
    # Both cases were there.
    assert list(found["closest_is_clear"][1][:2]) == [True, False]


def test_sample_agreement_written_out():
    rng = np.random.default_rng(3)
    network = rng.standard_normal((9, 6))
    scale = np.array([0.2, *[0.5] * 5, 1.5])
    analytic = network + scale[:, None, None] * rng.standard_normal((len(ANALYTIC), 9, 6))
    found = explain._sample_agreement(jnp.asarray(network), jnp.asarray(analytic))
    pearson = [
        [stats.pearsonr(*pair)[0] ** 2 for pair in zip(a, network, strict=True)] for a in analytic
    ]
    residual = np.sum((analytic - network) ** 2, axis=-1)
    determination = 1 - residual / (6 * np.var(network, axis=-1))
    tolerance = (
        {"rtol": 1e-4, "atol": 1e-5}
        if network.dtype != jnp.asarray(network).dtype
        else {"atol": 1e-12}
    )
    gaussian = ANALYTIC.index("gaussian")
    for i, r2 in enumerate((determination, np.array(pearson))):
        np.testing.assert_allclose(found["r2"][1][i], r2, **tolerance)
        np.testing.assert_allclose(found["mean_r2"][1][i], r2.mean(axis=1), **tolerance)
        for row in range(len(ANALYTIC)):
            interval = stats.t.interval(0.95, 8, r2[row].mean(), stats.sem(r2[row]))
            np.testing.assert_allclose(found["r2_interval"][1][i, row], interval, **tolerance)
            if row == gaussian:
                assert not found["clears_gaussian"][1][i, row]
                continue
            paired = stats.ttest_rel(r2[row], r2[gaussian]).confidence_interval()
            np.testing.assert_allclose(found["difference_interval"][1][i, row], paired, **tolerance)
            assert found["clears_gaussian"][1][i, row] == (paired.low > 0)
    # Nearer to the network than the Gaussian; nearer in these nine, which may be chance; and farther.
    three = [0, ANALYTIC.index("local"), -1]
    assert (found["difference"][1][:, three] > 0).tolist() == [[True, True, False]] * 2
    assert found["clears_gaussian"][1][:, three].tolist() == [[True, False, False]] * 2


def test_default_network_is_trained_for_long_enough():
    """After fewer steps the Gaussian denoiser explains the digits' samples as well as the patches do."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(explain_network).parameters.items()
    }
    assert defaults["architecture"] == learning.ConvolutionalArchitecture(32, 4)
    assert defaults["num_steps"] == 4000


@pytest.mark.parametrize(
    ("architecture", "boundary"),
    [
        (learning.MLPArchitecture(8, 2), "clipped"),
        (learning.ConvolutionalArchitecture(2, 2), "clipped"),
        (learning.ConvolutionalArchitecture(2, 2, "circular"), "circular"),
    ],
)
def test_windows_end_as_the_padding_says(architecture, boundary, images, monkeypatch):
    monkeypatch.setattr(explain, "train_denoiser", local_in_place_of_a_network)

    class Reached(Exception):
        pass

    def stop(*_, **options):
        raise Reached(options["boundary"])

    monkeypatch.setattr(explain, "explain_denoiser", stop)
    with pytest.raises(Reached, match=boundary):
        explain_network(data=images, **SMALL | {"architecture": architecture})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"data": "circle"}, "must be images; 'circle'"),
        ({"levels": (1.0, 0.5)}, "`levels` must be positive and increase"),
        ({"levels": ()}, "`levels` must be positive and increase"),
        ({"patch_sizes": (0, 3)}, "`patch_sizes` must be positive and increase"),
        ({"patch_sizes": (3, 5)}, "side 4; got .3, 5."),
        ({"num_calibration": 1}, "`num_calibration` must be at least 2; got 1"),
        ({"num_samples": 1}, "`num_samples` must be at least 2; got 1"),
        ({"num_evaluation": 8}, "got 3 and 8 of 10"),
        ({"num_noises": 0}, "`num_noises` must be a positive integer; got 0"),
        ({"equivariant_images": 0}, "`equivariant_images` must be a positive integer; got 0"),
    ],
)
def test_bad_settings(bad, message, images):
    with pytest.raises(ValueError, match=message):
        explain_network(**{"data": images} | SMALL | bad)


@pytest.mark.exhaustive
def test_figure_shows_the_results(run):
    pytest.importorskip("matplotlib")
    results, _ = run
    figure = plot_explain_network(results)
    figure.draw_without_rendering()
    rmse, nmse, r2, picture = figure.axes
    lines = {line.get_label(): line for line in rmse.lines}
    np.testing.assert_array_equal(
        lines["empirical"].get_ydata(), results.rmse.sel(denoiser="empirical")
    )
    texts = [text.get_text() for text in nmse.texts]
    sizes = results.patch_size.values[0]
    assert texts[-3:] == ["P, local", *map(str, sizes)]
    assert [label.get_text() for label in r2.get_xticklabels()] == list(FEW)
    # The second sample of the Gaussian, in the third row of pictures of 4 x 4 pixels with gaps of one.
    low, high = results.attrs["pixel_range"]
    sample = results.samples.sel(model="gaussian").values[1].reshape(4, 4)
    shown = picture.images[0].get_array()[10:14, 5:9]
    np.testing.assert_allclose(shown, np.clip((sample - low) / (high - low), 0, 1), rtol=1e-6)


@pytest.mark.exhaustive
def test_trained_network(images, tmp_path):
    """All denoisers, and a training of two steps."""
    results = explain_network(data=images, out=str(tmp_path), **SMALL)
    run = learning.load_denoiser(tmp_path / NETWORK)
    np.testing.assert_array_equal(results.loss, run.losses)
    train, _, clean = splits(images)
    noise = sj.flows.initial_noise(
        jax.random.fold_in(jax.random.key(0), 2), 10, 16, dtype=clean.dtype
    )
    few = train.points[:10].reshape(-1, 4, 4)
    every = train.points.reshape(-1, 4, 4)
    tolerance = 1e4 * np.finfo(clean.dtype).eps
    for j, sigma in enumerate((0.3, 2.0)):
        size = {str(k): int(results.patch_size.sel(calibrated=k)[j]) for k in explain.CALIBRATED}
        expected = {
            "equivariant": sj.EquivariantLocalDenoiser(few, size["equivariant"]),
            "composite": sj.PatchCompositeDenoiser(every, size["composite"]),
            "wiener-mask": sj.WienerMaskDenoiser(every),
            "empirical": sj.EmpiricalDenoiser(train.points),
        }
        u = jnp.repeat(clean, 2, axis=0) + sigma * noise
        level = jnp.asarray(sigma, u.dtype)
        learned = denoise(run.model, u, level)
        for name, denoiser in expected.items():
            difference = denoise(denoiser, u, level) - learned
            rmse = jnp.sqrt(jnp.mean(difference**2))
            np.testing.assert_allclose(
                results.rmse.sel(denoiser=name)[j], rmse, rtol=tolerance, err_msg=name
            )
    assert results.samples.sizes["model"] == 8
    assert np.isfinite(results.r2).all()
