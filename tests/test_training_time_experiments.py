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
