"""The experiments' own measures against independent ones, and their results at reduced size."""

import inspect
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import smoothjax as sj
from smoothjax import experiments, mechanisms
from smoothjax.datasets import Dataset
from smoothjax.experiments._ensembles import noisy_points, states_at
from smoothjax.experiments._smoothing.circle import KINDS, count_kinds, distances

pytest.importorskip("xarray")
pytest.importorskip("tqdm")


class Kept(Exception):
    """What an experiment hands to its store before it computes anything."""


# Keeps what `train_denoiser` and `explain` keep: see its own tests.
OF_OTHERS = "explain-network"


@pytest.mark.parametrize("name", [x for x in experiments.EXPERIMENTS if x != OF_OTHERS])
def test_every_setting_is_kept(monkeypatch, name):
    """So that a folder of other settings is not taken up."""

    def keep(out, configuration):
        raise Kept(configuration)

    run = experiments.EXPERIMENTS[name].run
    monkeypatch.setattr(sys.modules[run.__module__], "ResultStore", keep)
    with pytest.raises(Kept) as caught:
        run()
    (kept,) = caught.value.args
    settings = inspect.signature(run).parameters.keys() - {"out", "progress"}
    assert kept["experiment"] == name and settings <= kept.keys()


def test_places_of_samples_around_a_polygon():
    vertices = np.asarray(sj.datasets.polygon(6).points, np.float64)
    apothem = np.sqrt(3) / 2  # of the hexagon of radius one
    samples = np.array(
        [
            [1.0, 0.0],  # a vertex
            [0.0, apothem],  # the middle of an edge
            [0.0, 1.0],  # the circle above it
            [0.0, 0.0],  # off everything
            [0.25, apothem - 0.03],  # near an edge
            [np.cos(0.3), np.sin(0.3)],  # on the circle, 0.3 from a vertex
        ]
    )
    found = distances(samples, vertices)
    np.testing.assert_allclose(found.edge[:5], [0, 0, 1 - apothem, apothem, 0.03], atol=1e-7)
    # The edge from (1, 0) to the next vertex is the line through both: its distance from a point of the circle.
    normal = np.array([np.cos(np.pi / 6), np.sin(np.pi / 6)])
    np.testing.assert_allclose(found.edge[5], abs(samples[5] @ normal - apothem), atol=1e-7)
    np.testing.assert_allclose(
        found.circle, [0, 1 - apothem, 0, 1, abs(np.hypot(0.25, apothem - 0.03) - 1), 0], atol=1e-7
    )
    np.testing.assert_allclose(found.vertex[[0, 3]], [0, 1], atol=1e-7)
    np.testing.assert_allclose(found.vertex[5], 2 * np.sin(0.15), atol=1e-7)
    counts = dict(zip(KINDS, count_kinds(found), strict=True))
    assert counts == {"vertex": 1, "edge": 2, "circle": 2, "off": 1}


def test_states_at_several_levels_follow_the_flow(dtype):
    """Of the Gaussian denoiser, whose flow is known."""
    gaussian = sj.GaussianDenoiser(jnp.zeros(2, dtype), jnp.diag(jnp.array([1.0, 0.01], dtype)))
    starts = jax.random.normal(jax.random.key(0), (5, 2), dtype)
    levels = jnp.array([2.0, 0.7, 0.1], dtype)
    states = states_at(gaussian, starts, levels)
    for level, found in zip(levels, states, strict=True):
        exact = jax.vmap(lambda u: sj.gaussian_flow(gaussian, u, levels[0], level))(starts)  # noqa: B023
        # Two adaptive pieces at a relative and absolute tolerance of 1e-4 a step.
        np.testing.assert_allclose(found, exact, atol=2e-3)


def test_noisy_points_have_the_law_of_the_level():
    data, sigma, num = jnp.array([[-1.0], [2.0]]), 0.5, 20_000
    draws = np.asarray(noisy_points(data, sigma, jax.random.key(1), num))[:, 0]
    cdf = lambda x: 0.5 * (stats.norm.cdf(x, -1, sigma) + stats.norm.cdf(x, 2, sigma))  # noqa: E731
    # Kolmogorov's distance exceeds 1.95 / sqrt(num) with probability 1e-3.
    assert stats.kstest(draws, cdf).statistic < 1.95 / num**0.5


def test_early_stopping_matches_the_spread():
    results = experiments.early_stopping(kappas=(0.5, 1.5))
    points = np.linspace(-1, 1, 4)

    def tangent(sigma):  # of the exact law of the noisy points, by quadrature between the midpoints
        def density(x):
            return np.mean(stats.norm.pdf(x, points, sigma))

        edges = [-1 - 12 * sigma, *(points[1:] + points[:-1]) / 2, 1 + 12 * sigma]
        pieces = zip(edges[:-1], edges[1:], points, strict=True)
        return sum(
            integrate.quad(lambda x: density(x) * (x - y) ** 2, a, b, points=[y], epsabs=1e-12)[0]  # noqa: B023
            for a, b, y in pieces
        )

    for kappa in (0.5, 1.5):
        one = results.sel(kappa=kappa)
        # Reduced to float32, the spread is known to a few roundings.
        np.testing.assert_allclose(tangent(float(one.stop)), one.tangent, rtol=1e-4)
        np.testing.assert_allclose(one.normal_stopped, float(one.stop) ** 2, rtol=1e-6)
    assert np.all(results.normal_smoothed == 0)
    smoothed = results.samples.sel(law="smoothed").values
    assert np.all(smoothed[:, 1] == 0) and np.abs(smoothed[:, 0]).max() <= 1 + 1e-6
    with pytest.raises(ValueError, match="`kappas` must hold at least one entry"):
        experiments.early_stopping(kappas=())


@pytest.mark.slow
@pytest.mark.exhaustive
def test_networks_in_the_plane_and_on_the_circle(tmp_path):
    """At a size at which nothing is learned: what is labelled, kept and resumed, and what needs no network."""
    settings = {"num_steps": 3, "num_seeds": 2, "num_samples": 200, "width": 8, "progress": False}
    line = experiments.line_in_plane(
        penalties=(0.0, 1e-3), num_levels=3, kappas=(1.0,), out=str(tmp_path / "line"), **settings
    )
    spread = sj.smoothing.line_spread(jnp.linspace(-1, 1, 4), 1.0, 0.02**0.5, line.sigma.values)
    np.testing.assert_allclose(line.tangent.sel(kappa=1.0), spread.tangent, rtol=2e-5)
    # The starts are the exact law: the variance normal to the line is that of the noise.
    start = line.isel(sigma=0)
    np.testing.assert_array_less(
        np.abs(start.network_normal - 0.02), 4 * start.network_normal_se.values
    )
    np.testing.assert_array_less(
        np.abs(start.network_tangent - line.tangent.isel(sigma=0, kappa=0)),
        4 * start.network_tangent_se.values,
    )
    again = experiments.line_in_plane(
        penalties=(0.0, 1e-3), num_levels=3, kappas=(1.0,), out=str(tmp_path / "line"), **settings
    )
    assert line.identical(again)

    found = experiments.circle(num_points=(6,), dims=(5,), **{**settings, "num_steps": (3,)})
    exact = found.sel(num_steps=0)
    # The exact flow ends at training points plus the last noise, of 0.01: ten standard deviations from being new.
    assert np.all(exact.fraction.sel(kind="vertex") == 1) and np.all(np.isnan(exact.among_new))
    # A chi-squared variable of (d - 2) x 200 degrees of freedom, over them.
    normal = exact.normal_variance.sel(dim=5)
    assert np.all(np.abs(normal - 1) < 5 * np.sqrt(2 / (3 * 200)))
    assert np.all(found["count"].sum("kind") == 200)
    np.testing.assert_allclose(found.fraction.sum("kind"), 1)


def as_dataset(points):
    return Dataset("points", np.asarray(points, np.float32))


def test_smoothing_mechanisms():
    line = as_dataset([[-1.0], [0.0], [0.0], [4.0]])
    plane = as_dataset([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])
    assert "piecewise-linear" in mechanisms.defaults(line)
    assert "piecewise-linear" not in mechanisms.defaults(plane)
    assert not {"tempered", "noise-blind"} & set(mechanisms.defaults(line))

    # Nearest neighbours of the distinct points -1, 0, 4 at 1, 1, 4; in the plane at 5, 1, 1.
    for train in (line, plane):
        smoothed = mechanisms.get("smoothed").build(train, 0)
        assert float(smoothed.smoothing) == 0.5
    switched = mechanisms.get("piecewise-linear").build(line, 0)
    assert float(switched.level) == 0.125  # an eighth of the smallest gap
    u = np.array([0.05], np.float32)
    np.testing.assert_allclose(switched(u, 0.13), sj.EmpiricalDenoiser(line.points)(u, 0.13))
    exact = sj.PiecewiseLinearDenoiser(np.array([-1.0, 0.0, 4.0], np.float32), 1.0)
    np.testing.assert_allclose(switched(u, 0.03), exact(u, 0.03))
    tempered = mechanisms.get("tempered").build(plane, 0)
    np.testing.assert_allclose(
        tempered(plane.points[0], 1.0), sj.EmpiricalDenoiser(plane.points)(plane.points[0], 2.0)
    )
    blind = mechanisms.get("noise-blind").build(plane, 0)
    scale = np.sqrt(np.var(np.asarray(plane.points), axis=0).mean())
    np.testing.assert_allclose(
        blind.levels[jnp.array([0, -1])], [0.004 * scale, 160 * scale], rtol=1e-5
    )

    with pytest.raises(ValueError, match="got dimension 2"):
        mechanisms.get("piecewise-linear").build(plane, 0)
    with pytest.raises(ValueError, match="two different training points"):
        mechanisms.get("smoothed").build(as_dataset([[1.0, 2.0]] * 3), 0)
