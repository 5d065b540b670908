"""The experiment on smoothed scores at their best: its numbers beside NumPy's, its resumption and its figure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import smoothjax as sj
from smoothjax import experiments, plots
from smoothjax.experiments import train_and_held_out

pytest.importorskip("xarray")


def test_numbers_are_those_of_the_laws(tmp_path, monkeypatch):
    run = lambda: experiments.optimal_smoothing(  # noqa: E731
        data=("circle",),
        names=("gaussian", "widened"),
        num_test=48,
        num_likelihood=16,
        seed=2,
        out=str(tmp_path),
        progress=False,
    )
    found = run().isel(data=0)
    dtype = jnp.result_type(float)
    train, held_out = train_and_held_out(sj.datasets.load("circle", seed=2), seed=2)
    points, clean = np.asarray(train.points, float), np.asarray(held_out.points[:48], float)
    key = jax.random.fold_in(jax.random.key(2), 11)
    noise = np.asarray(sj.initial_noise(key, 48, 2, dtype=dtype), float)
    spread = np.sqrt(np.mean(np.var(points, axis=0)))
    np.testing.assert_allclose(found.spread, spread, rtol=1e-5)
    tolerance = 1e5 * float(jnp.finfo(dtype).eps)
    covariance = np.cov(points.T, bias=True)
    losses = np.empty((2, found.sizes["level"], 48))
    for i, level in enumerate(found.level.values * spread):
        u = clean + level * noise
        shrinkage, width = found.strength.values[:, i]
        shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / 2 * np.eye(2)
        gain = shrunk @ np.linalg.inv(shrunk + level**2 * np.eye(2))
        gaussian = points.mean(axis=0) + (u - points.mean(axis=0)) @ gain.T
        s = np.hypot(width, level)
        logits = -np.sum((u[:, None] - points[None]) ** 2, axis=2) / (2 * s**2)
        mean = scipy.special.softmax(logits, axis=1) @ points
        widened = mean + (width / s) ** 2 * (u - mean)
        for k, outputs in enumerate((gaussian, widened)):
            losses[k, i] = np.mean((outputs - clean) ** 2, axis=1) / spread**2
    np.testing.assert_allclose(found.loss, losses.mean(axis=-1), rtol=tolerance)
    ratio = losses[1].mean(axis=-1) / losses[0].mean(axis=-1)
    np.testing.assert_allclose(found.ratio[1], ratio, rtol=2 * tolerance)
    residual = losses[1] - ratio[:, None] * losses[0]
    error = scipy.stats.sem(residual, axis=1) / losses[0].mean(axis=-1)
    np.testing.assert_allclose(found.ratio_se[1], error, rtol=2 * tolerance, atol=tolerance)
    # Likelihoods of both at their own strengths, at a tenth of the spread.
    floor = 0.1 * spread
    u = (clean + floor * noise)[:16]
    normal = scipy.stats.multivariate_normal(points.mean(axis=0), covariance + floor**2 * np.eye(2))
    level = np.hypot(spread * len(points) ** (-1 / 6), floor)
    squares = np.sum((u[:, None] - points[None]) ** 2, axis=2)
    kernel = scipy.special.logsumexp(-squares / (2 * level**2), axis=1) - np.log(
        len(points) * 2 * np.pi * level**2
    )
    own = found.log_likelihood.sel(how="guess")
    np.testing.assert_allclose(own, [normal.logpdf(u).mean(), kernel.mean()], atol=tolerance)
    gains = kernel - normal.logpdf(u)
    gain = found.sel(how="guess", mechanism="widened")
    np.testing.assert_allclose(gain.gain, gains.mean(), atol=2 * tolerance)
    np.testing.assert_allclose(gain.gain_se, scipy.stats.sem(gains), rtol=1e-2)

    def again(*args, **kwargs):
        raise AssertionError("computed twice")

    monkeypatch.setattr(sj.mechanisms, "choose_strength", again)
    results = run()
    assert results.isel(data=0).equals(found)
    figure = plots.plot_experiment("optimal-smoothing", results)
    figure.savefig(tmp_path / "figure.png")
    with pytest.raises(ValueError, match="`names` must be of mechanisms with a strength"):
        experiments.optimal_smoothing(names=("ledoit-wolf",))
