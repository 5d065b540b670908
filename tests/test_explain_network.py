"""The experiment that trains a network and explains it: a use of `explain`, with the settings that it says."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import learning
from smoothjax.datasets import load
from smoothjax.experiments import explain_network, train_and_held_out
from smoothjax.experiments._explain import explain_network as module
from smoothjax.experiments._explain.figures import plot_explanation

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
    "num_samples": 0,
    "steps": 4,
    "progress": False,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A file of 34 smooth images of 4 x 4 pixels."""
    x = np.random.default_rng(0).standard_normal((34, 4, 4))
    path = tmp_path_factory.mktemp("images") / "smooth.npy"
    np.save(path, x + np.roll(x, 1, 1) + np.roll(x, 1, 2))
    return str(path)


@pytest.fixture(scope="module")
def kept(images, tmp_path_factory):
    """A folder of results; of few candidates, as all of its settings are refused alike."""
    out = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WITH_BORDERS", ("local",))
        explain_network(data=images, out=str(out), **SMALL)
        yield images, out


class Reached(Exception):
    """Carries the settings with which `explain` was called."""


@pytest.mark.parametrize(
    ("architecture", "tail"),
    [
        (learning.MLPArchitecture(8, 2), ""),
        (learning.ConvolutionalArchitecture(2, 2), ""),
        (learning.ConvolutionalArchitecture(2, 2, "circular"), "-circular"),
    ],
)
def test_settings_are_those_of_explain(architecture, tail, images, tmp_path, monkeypatch):
    """The network is the one that is trained and kept, and windows end as its padding says."""

    def stop(network, train, held_out, settings, **others):
        raise Reached(network, train, held_out, settings, others)

    monkeypatch.setattr(module, "explain", stop)
    with pytest.raises(Reached) as reached:
        explain_network(data=images, out=str(tmp_path), **SMALL | {"architecture": architecture})
    network, train, held_out, settings, others = reached.value.args
    kept = learning.load_denoiser(tmp_path / "network").model
    u = jnp.asarray(train.points[0])
    level = jnp.asarray(0.5, u.dtype)
    np.testing.assert_array_equal(network(u, level), kept(u, level))
    expected = train_and_held_out(load(images), num_train=24, seed=0)
    for found, other in zip((train, held_out), expected, strict=True):
        np.testing.assert_array_equal(found.points, other.points)
    of_patches = (f"local{tail}", f"equivariant-local{tail}", "patch-composite")
    assert set(settings.candidates) == {
        *("empirical", "gaussian", "mixture", "wiener-mask"),
        *of_patches,
    }
    assert settings.strengths == dict.fromkeys(of_patches, (1, 3))
    assert (settings.levels, settings.num_evaluation, settings.steps) == ((0.3, 2.0), 5, 4)
    assert others == {"out": str(tmp_path), "progress": False}


def test_results_and_figure(images, tmp_path, monkeypatch):
    """A network that is a local denoiser is found to be one, and drawn so."""
    monkeypatch.setattr(
        module,
        "train_denoiser",
        lambda data, *_, **options: learning.TrainingRun(
            sj.LocalDenoiser(data.reshape(-1, *options["image_shape"]), 3),
            jnp.zeros(options["num_steps"]),
        ),
    )
    monkeypatch.setattr(module, "WITH_BORDERS", ("local",))
    options = SMALL | {"num_samples": 4}
    results = explain_network(data=images, out=str(tmp_path), **options)
    own = results.sel(candidate="local")
    np.testing.assert_array_equal(own.strength, 3)
    # The same sums in other programs: rounding of numbers of size one.
    small = 100 * np.finfo(results.samples.dtype).eps
    np.testing.assert_allclose(own.rmse, 0, atol=small)
    np.testing.assert_allclose(own.mean_r2, 1, atol=small)
    assert (results.rmse.sel(candidate=["empirical", "gaussian"]) > 0.01).all()
    assert results.sizes["step"] == 2
    # Nothing is left to do but to read.
    assert explain_network(data=images, out=str(tmp_path), **options).identical(results)

    pytest.importorskip("matplotlib")
    figure = plot_explanation(results)
    figure.draw_without_rendering()
    _, distances, agreement, picture, _ = figure.axes
    lines = {line.get_label(): line for line in distances.lines}
    np.testing.assert_array_equal(
        lines["gaussian"].get_ydata(), results.rmse.sel(candidate="gaussian")
    )
    names = [str(name) for name in results.candidate.values]
    assert [label.get_text() for label in agreement.get_xticklabels()] == names
    # The second sample of the Gaussian, in its row of pictures of 4 x 4 pixels with gaps of one.
    low, high = results.attrs["pixel_range"]
    sample = results.samples.sel(model="gaussian").values[1].reshape(4, 4)
    top = 5 * list(results.model.values).index("gaussian")
    shown = picture.images[0].get_array()[top : top + 4, 5:9]
    np.testing.assert_allclose(shown, np.clip((sample - low) / (high - low), 0, 1), rtol=1e-6)


@pytest.mark.parametrize(
    "changed",
    [
        {"architecture": learning.MLPArchitecture(9, 2)},
        {"num_train": 23},
        {"num_steps": 3},
        {"levels": (0.3, 1.0)},
        {"patch_sizes": (1,)},
        {"num_calibration": 4},
        {"num_evaluation": 6},
        {"num_samples": 2},
        {"steps": 5},
        {"seed": 1},
    ],
    ids=lambda changed: "-".join(changed),
)
def test_a_folder_of_other_settings_is_not_taken_up(changed, kept):
    images, out = kept
    with pytest.raises(ValueError, match=r"another|differs|other"):
        explain_network(data=images, out=str(out), **SMALL | changed)


def test_default_network_is_trained_for_long_enough():
    """After fewer steps the Gaussian denoiser explains the digits' samples as well as the patches do."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(explain_network).parameters.items()
    }
    assert defaults["architecture"] == learning.ConvolutionalArchitecture(32, 4)
    assert defaults["num_steps"] == 4000


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"data": "circle"}, "must be images; 'circle'"),
        ({"levels": (1.0, 0.5)}, "`levels` must be positive, finite and increase"),
        ({"patch_sizes": (0, 3)}, "`patch_sizes` must lie between 1 and the images' side 4"),
        ({"patch_sizes": (3, 5)}, "`patch_sizes` must lie between 1 and the images' side 4"),
        ({"patch_sizes": (3, 1)}, "`strengths` of 'local' must be one or more numbers"),
        ({"num_calibration": 1}, "`num_calibration` must be at least 2; got 1"),
        ({"num_samples": 1}, "`num_samples` must be at least 2"),
        ({"num_evaluation": 8}, "got 3 and 8 of 10"),
    ],
)
def test_bad_settings(bad, message, images, monkeypatch):
    monkeypatch.setattr(module, "train_denoiser", None)  # not reached
    with pytest.raises(ValueError, match=message):
        explain_network(**{"data": images} | SMALL | bad)
