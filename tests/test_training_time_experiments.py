"""Experiments on training time at reduced size, beside closed forms."""

import numpy as np
import pytest

import smoothjax as sj
from smoothjax import experiments, plots, training_dynamics

pytest.importorskip("xarray")
pytest.importorskip("tqdm")


def test_spectral_bias(tmp_path):
    """Of 200 points in three dimensions, of variances some factors apart."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(260, 3)) * np.array([2.0, 1.0, 0.3]) + 0.5
    np.save(tmp_path / "points.npy", points)
    settings = {
        "data": str(tmp_path / "points.npy"),
        "num_train": 200,
        "levels": (0.2, 0.7),
        "num_steps": 3000,
        "progress": False,
        "out": str(tmp_path / "out"),
    }
    found = experiments.spectral_bias(**settings)
    order = np.random.default_rng(0).permutation(260)
    train, held_out = points[order[:200]], points[order[200:]]
    variances = np.linalg.eigvalsh(np.cov(train.T, bias=True))[::-1]
    np.testing.assert_allclose(found.variance, variances, rtol=1e-4)
    for level in settings["levels"]:
        one = found.sel(sigma=level)
        np.testing.assert_allclose(one.emergence, np.log(2) / (variances + level**2), rtol=1e-4)
        # Steps of 1/20 of the quickest mode are 1 / 40 late; gains carry the noise of steps, a per cent or two.
        np.testing.assert_allclose(one.trained_emergence, one.emergence, rtol=0.1)
        # At the last time, what the best affine denoiser leaves.
        left = level**2 * np.sum(variances / (variances + level**2)) / 6
        np.testing.assert_allclose(one.loss.sel(points="training")[-1], left, rtol=1e-3)
        start = np.mean(held_out**2) / 2  # D = 0 but for a little time
        np.testing.assert_allclose(one.loss.sel(points="held-out")[0], start, rtol=0.15)
        assert np.all(np.diff(one.loss.sel(points="training")) < 1e-6)
    expected = training_dynamics.generated_variances(
        variances, 80.0, 0.02, duration=float(found.duration[30])
    )
    np.testing.assert_allclose(found.generated_variance[30], expected, rtol=1e-3)
    (tmp_path / "out" / "parts" / "sigma-0.2.npz").unlink()
    assert found.identical(experiments.spectral_bias(**settings))
    plots.plot_experiment("spectral-bias", found).savefig(tmp_path / "figure.png")
    for wrong, message in (
        ({"levels": (0.0,)}, "`levels` must be positive"),
        ({"num_steps": 0}, "`num_steps` must be a positive integer"),
        ({"fraction": 1.0}, "`fraction` must lie between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            sj.experiments.spectral_bias(progress=False, **wrong)


@pytest.mark.exhaustive
def test_memorization_time(tmp_path):
    settings = {
        "num_train": (40, 80),
        "num_features": (200, 3000),
        "dim": 20,
        "sigma": 0.5,
        "num_models": 3,
        "progress": False,
        "out": str(tmp_path / "out"),
    }
    found = experiments.memorization_time(**settings)
    limit = training_dynamics.RandomFeatureLimit(np.tanh, 0.5, train_ratio=4.0, feature_ratio=10.0)
    one = found.sel(num_train=80, num_features=200)
    errors, least = limit.errors(found.duration.values), 0.25 / 1.25
    np.testing.assert_allclose(one.error.sel(points="new"), errors.test / least, rtol=1e-5)
    np.testing.assert_allclose(one.error.sel(points="training"), errors.train / least, rtol=1e-5)
    np.testing.assert_allclose(one.memorization_time, limit.memorization_time(), rtol=1e-5)
    # The trace of a drawn covariance is p times the mean square of the activation, but for some 1 / sqrt(p n).
    total = np.sum(one.model_eigenvalues, axis=1) / 200
    mean = float(
        one.atom * one.atom_place + np.trapezoid(one.density * found.eigenvalue, found.eigenvalue)
    )
    np.testing.assert_allclose(total, mean, rtol=0.1)
    # Finite models are off by some 1/d, which is a share of what has been learned.
    drawn = one.model_error.mean("model")
    np.testing.assert_allclose(
        drawn.sel(points="training"), one.error.sel(points="training"), atol=0.1
    )
    times = found.memorization_time.sel(num_features=3000)
    assert 1.7 < times[1] / times[0] < 2.5
    (tmp_path / "out" / "parts" / "models-40.npz").unlink()
    assert found.identical(experiments.memorization_time(**settings))
    plots.plot_experiment("memorization-time", found).savefig(tmp_path / "figure.png")
    for wrong, message in (
        ({"num_train": (0,)}, "`num_train` must be a positive integer"),
        ({"sigma": 0.0}, "`sigma` must be positive"),
        ({"activation": "relu"}, "`activation` must be one of tanh, erf, sin"),
    ):
        with pytest.raises(ValueError, match=message):
            experiments.memorization_time(progress=False, **wrong)
