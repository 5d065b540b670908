"""The experiment on regimes says what the functions that it calls say, and goes on where it was."""

import jax
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import regimes

SIZES = {"num_train": 200, "num_levels": 6, "num_draws": 40, "num_turns": 8, "num_turn_levels": 2}


@pytest.mark.slow
def test_regimes_of_digits(tmp_path):
    found = sj.experiments.memorization_regimes(**SIZES, seed=3, out=str(tmp_path), progress=False)
    train, held_out = sj.experiments.train_and_held_out(sj.datasets.digits(), num_train=200, seed=3)
    key = jax.random.key(3)
    curve = regimes.information_curve(train, key, found.sigma.values, num_draws=40)
    assert np.allclose(found.information, curve.information.value, rtol=1e-5, atol=1e-5)
    assert np.allclose(
        found.class_information_se, curve.class_information.standard_error, rtol=1e-3
    )
    gaussian = sj.GaussianDenoiser.fit(train.points)
    exact = [float(gaussian.minimum_error(s)) / s**2 for s in found.sigma.values]
    assert np.allclose(found.rate_gaussian, exact, rtol=1e-4)
    collapse = regimes.collapse_level(train, key, num_draws=40)
    assert float(found.collapse) == pytest.approx(float(collapse.sigma.value), rel=1e-5)
    classes = np.asarray(train.labels)[np.asarray(collapse.rows)]
    logs = np.log(np.asarray(collapse.own, np.float64))[classes == 4]
    at = found.sel({"class": 4})
    assert float(at.class_collapse) == pytest.approx(np.exp(logs.mean()), rel=1e-5)
    denoiser, level = sj.EmpiricalDenoiser(train.points), found.sigma.values[3]
    fresh = [float(regimes.intrinsic_dimension(denoiser, x, level)) for x in held_out.points[:256]]
    assert float(found.dimension_held_out[1, 3]) == pytest.approx(np.median(fresh), rel=1e-3)
    assert found.same_point.values[0] > found.same_point.values[-1]
    # A second run reads the parts, whatever they hold.
    part = tmp_path / "parts" / "collapse.npz"
    kept = dict(np.load(part)) | {"collapse": np.float32(7)}
    np.savez(part, **kept)
    again = sj.experiments.memorization_regimes(**SIZES, seed=3, out=str(tmp_path), progress=False)
    assert float(again.collapse) == 7
    assert (
        sj.experiments.get_experiment("regimes").plot(found).axes[0].get_ylabel()
        == "information (nats)"
    )
