"""What `explain` measures of a network and of the candidates besides their distances, against closed forms."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj

DIM = 5
_RNG = np.random.default_rng(0)
TRAIN = sj.datasets.Dataset("points", _RNG.normal(size=(80, DIM)) * np.linspace(0.3, 1.5, DIM))
HELD_OUT = sj.datasets.Dataset("fresh", _RNG.normal(size=(300, DIM)) * np.linspace(0.3, 1.5, DIM))
NAMES = ("curl", "degrees-of-freedom", "effective-rank")
SETTINGS = sj.ExplainSettings(
    levels=(0.3, 1.0),
    candidates=("gaussian", "empirical"),
    num_calibration=32,
    num_evaluation=256,
    num_samples=0,
    measures=NAMES,
)
TURN = np.triu(np.ones((DIM, DIM)), 1) - np.tril(np.ones((DIM, DIM)), -1)


def _gain(sigma):
    """Of a Gaussian denoiser, and a part that is antisymmetric."""
    covariance = np.cov(np.asarray(TRAIN.points).T, bias=True)
    return covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(DIM)) + 0.02 * TURN


def _network(u, sigma):
    covariance = jnp.cov(TRAIN.points.T, bias=True)
    gain = jnp.linalg.solve(covariance + sigma**2 * jnp.eye(DIM), covariance).T
    return (gain + 0.02 * jnp.asarray(TURN, u.dtype)) @ u


@pytest.fixture(scope="module")
def found():
    return sj.explain(_network, TRAIN, HELD_OUT, SETTINGS, progress=False)


def _exact(jacobian):
    size = np.linalg.norm(jacobian)
    return {
        "curl": np.linalg.norm(jacobian - jacobian.T) / size,
        "degrees-of-freedom": np.trace(jacobian),
        "effective-rank": np.trace(jacobian) ** 2 / size**2,
    }


@pytest.mark.parametrize("name", NAMES)
def test_measures_of_jacobians(found, name):
    data = found.dataset
    assert list(data.model.values) == ["network", "gaussian", "empirical"]
    u = jnp.zeros(DIM)
    for i, sigma in enumerate(SETTINGS.levels):
        # Both are affine: one matrix at all points.
        of_candidate = np.asarray(jax.jacfwd(found.denoisers["gaussian"])(u, sigma))
        for model, jacobian in (("network", _gain(sigma)), ("gaussian", of_candidate)):
            at = data.sel(model=model).isel(sigma=i)
            error = 4 * float(at[f"{name}_se"]) + 1e-6
            assert error < 0.3
            assert abs(float(at[name]) - _exact(jacobian)[name]) < error, (model, sigma)
    assert (data.curl.sel(model="empirical") < 1e-6).all()


def test_of_a_candidate_it_is_the_fitted_strength(found):
    # At the last of the two noise levels, whose strength is another one than that of the first.
    data = found.dataset
    made = sj.mechanisms.get("empirical").strength.at(TRAIN, 0)
    for i, sigma in enumerate(SETTINGS.levels):
        strength = float(data.strength.sel(candidate="empirical")[i])
        expected = sj.measures.degrees_of_freedom(
            made(strength),
            HELD_OUT.points[32:288],
            sigma,
            jax.random.fold_in(jax.random.key(0), 4),
            batch_size=32,
        )
        at = data.sel(model="empirical").isel(sigma=i)
        np.testing.assert_allclose(at["degrees-of-freedom"], expected.value, rtol=1e-4)
        np.testing.assert_allclose(at["degrees-of-freedom_se"], expected.standard_error, rtol=1e-4)


def test_tables_and_figures(found, tmp_path):
    text = found.report(tmp_path).read_text()
    assert found.dataset.attrs["measures"] == " ".join(NAMES)
    assert "Measures of each" in text and "Left out" not in text
    curl = found.dataset.isel(sigma=0).sel(model="network")
    # Digits that only keep numbers under one another are not seen.
    seen = re.sub(r"<span[^>]*>[^<]*</span>", "", text)
    assert f"{float(curl.curl):.3g} ± {float(curl.curl_se):.1g}" in seen
    assert (tmp_path / "measures.png").stat().st_size > 1000


def test_a_network_without_derivatives_is_left_out(found, tmp_path):
    host = lambda x, t: np.stack([_gain(float(s)) @ row for row, s in zip(x, t, strict=True)])  # noqa: E731
    network = sj.interop.from_numpy(host, DIM)
    again = sj.explain(network, TRAIN, HELD_OUT, SETTINGS, out=tmp_path, progress=False)
    data = again.dataset
    for name in NAMES:
        assert np.isnan(data[name].sel(model="network")).all()
        np.testing.assert_allclose(
            data[name].sel(model="gaussian"), found.dataset[name].sel(model="gaussian"), rtol=1e-3
        )
    assert [v.best for v in again.verdicts] == [v.best for v in found.verdicts]
    assert "curl of network (" in data.attrs["not_measured"]
    assert "Left out: curl of network (" in again.report(tmp_path).read_text()
    # What was kept says so again.
    twice = sj.explain(network, TRAIN, HELD_OUT, SETTINGS, out=tmp_path, progress=False)
    assert twice.dataset.attrs["not_measured"] == data.attrs["not_measured"]


def test_a_network_with_derivatives_forwards_only_is_left_out_in_words():
    shrinks = lambda x, t: x / (1 + t[:, None] ** 2)  # noqa: E731
    slope = lambda x, t, dx, dt: (  # noqa: E731
        dx / (1 + t[:, None] ** 2) - 2 * x * (t * dt / (1 + t**2) ** 2)[:, None]
    )
    network = sj.interop.from_numpy(shrinks, DIM, jvp=slope)
    data = sj.explain(network, TRAIN, HELD_OUT, SETTINGS, progress=False).dataset
    assert data.attrs["not_measured"] == (
        "curl of network (a network on the host has derivatives forwards only, if any)"
    )


def test_one_class():
    labels = np.arange(80) % 2
    train = sj.datasets.Dataset("classes", TRAIN.points, labels)
    held_out = sj.datasets.Dataset("classes", HELD_OUT.points, np.arange(300) % 2)
    settings = dataclasses.replace(
        SETTINGS,
        label=1,
        candidates=("gaussian-by-class",),
        measures=("degrees-of-freedom",),
        levels=(1.0,),
        num_evaluation=64,
    )
    data = sj.explain(_network, train, held_out, settings, progress=False).dataset
    at = data.sel(model="gaussian-by-class").isel(sigma=0)
    one = sj.GaussianDenoiser.fit(train.of_class(1).points).shrunk(float(data.strength[0, 0]))
    expected = np.trace(np.asarray(jax.jacfwd(one)(jnp.zeros(DIM), 1.0)))
    assert abs(float(at["degrees-of-freedom"]) - expected) < 4 * float(at["degrees-of-freedom_se"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measures": ("none-such",)}, "no measure called 'none-such'"),
        ({"measures": ("curl", "curl")}, "`measures` must differ"),
        ({"measures": "curl"}, "`measures` must be"),
        ({"measures": ("frechet",)}, "at a noise level; 'frechet' is of samples"),
        ({"label": "each"}, "`measures` are of one denoiser, not of one for each point"),
    ],
)
def test_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **change)


def test_estimates_of_other_names_only(own_measures):
    taken = dataclasses.replace(
        sj.measures.get("curl"),
        name="mine",
        shown="rmse",
        compute=lambda *_, **__: {"rmse": sj.Estimate(jnp.ones(()), jnp.ones(()))},
    )
    sj.measures.register(taken)
    settings = dataclasses.replace(SETTINGS, measures=("mine",), candidates=("gaussian",))
    with pytest.raises(ValueError, match="`measures`: an estimate called 'rmse' is in every"):
        sj.explain(_network, TRAIN, HELD_OUT, settings, progress=False)
