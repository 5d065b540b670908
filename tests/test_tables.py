"""Tables: columns of scales far apart and of few values are noticed, and standardized where one asks for it."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import cli
from smoothjax.experiments import standardized
from smoothjax.experiments._compare.columns import column_warnings

xarray = pytest.importorskip("xarray")
pytest.importorskip("tyro")


def table(num=300):
    """Incomes from a hundred to a million, and three categories as columns of zeros and ones."""
    rng = np.random.default_rng(0)
    income = 10 ** rng.uniform(2, 6, num)
    return np.column_stack([income, np.eye(3)[rng.integers(0, 3, num)]])


def test_columns_of_a_table_are_noticed():
    scales, values = column_warnings(sj.datasets.Dataset("t", table(3000)))
    assert "standard deviation of column 0 is 2." in scales and "--standardize" in scales
    assert values.startswith("Columns of few values: 1, 2, 3 of the 4 take at most 2.")
    data = np.random.default_rng(0).normal(size=(300, 5))
    assert column_warnings(sj.datasets.Dataset("t", data)) == ()
    assert column_warnings(sj.datasets.Dataset("t", data * [1, 1, 1, 1, 25])) == ()
    assert len(column_warnings(sj.datasets.Dataset("t", data * [1, 1, 1, 1, 35]))) == 1
    # Constant columns have no scale, images one for all pixels, and few points few values.
    assert column_warnings(sj.datasets.Dataset("t", data * [1, 1, 1, 1, 0] + 0.1)) == ()
    images = sj.datasets.Dataset("t", table(), image_shape=(2, 2, 1))
    assert column_warnings(images) == ()
    assert column_warnings(sj.datasets.polygon(6)) == ()


def test_standardized_columns():
    values = np.column_stack([table(), np.full(300, 0.1)])
    data = sj.datasets.Dataset("t", values, labels=np.arange(300))
    train, held_out, standardization = standardized(*data.split(200))
    points = np.asarray(train.points, np.float64)
    eps = float(jnp.finfo(train.points.dtype).eps)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=100 * eps)
    np.testing.assert_allclose(points.std(axis=0), [1, 1, 1, 1, 0], atol=100 * eps)
    back = standardization.back(held_out.points)
    original = data.split(200)[1]
    # Rounded in units of a column's spread, about its mean.
    tolerance = 10 * eps * standardization.scale
    assert np.all(np.abs(back - np.asarray(original.points)) <= tolerance)
    np.testing.assert_array_equal(held_out.labels, original.labels)
    with pytest.raises(ValueError, match="is for tables; 'digits' holds images"):
        standardized(sj.datasets.digits(), sj.datasets.digits())


def test_standardized_comparison_says_its_units(tmp_path):
    np.save(tmp_path / "t.npy", table(60).astype(np.float32))
    arguments = ["compare", str(tmp_path / "t.npy"), "--denoisers", "gaussian", "--steps", "4"]
    arguments += ["--num-samples", "4", "--num-levels", "2", "--out", str(tmp_path / "out")]
    with pytest.warns(UserWarning, match="Columns of few values"):
        assert cli.main([*arguments, "--standardize"]) == 0
    with xarray.open_dataset(tmp_path / "out" / "results.nc", engine="h5netcdf") as results:
        values = np.load(tmp_path / "t.npy")
        train = np.asarray(sj.datasets.Dataset("t", values).split(50)[0].points, np.float64)
        np.testing.assert_allclose(results.column_mean, np.mean(train, axis=0), rtol=1e-5)
        np.testing.assert_allclose(results.column_scale, np.std(train, axis=0), rtol=1e-5)
        assert "standardized units" in results.rmse.units
        # Samples are in the units of the file, those that were drawn in units of the columns.
        with np.load(tmp_path / "out" / "parts" / "samples-gaussian.npz") as part:
            own = part["samples"].astype(np.float64)
        back = np.mean(train, axis=0) + np.std(train, axis=0) * own
        np.testing.assert_allclose(results.samples[0], back, rtol=1e-4, atol=1e-4 * np.std(train))
        assert results.samples.units == "units of the file"
        # The spread of the training points is one.
        np.testing.assert_allclose(results.data_scale, 1, rtol=1e-5)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Standardized: each column less its mean" in page and "Columns of few values" in page
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["configuration"]["data"] == "t.npy, standardized"


def test_figures_of_a_table_are_of_its_columns():
    """The densities and correlations that NumPy finds, in the units of the data, for a table of five columns."""
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(1)
    values = np.column_stack([rng.normal(size=(80, 4)) @ rng.normal(size=(4, 4)), np.ones(80)])
    train, held_out = sj.datasets.Dataset("t", values).split(50)
    own = {"gaussian": sj.GaussianDenoiser.fit(train.points)}
    settings = sj.CompareSettings(num_samples=8, num_levels=2, steps=4)
    found = sj.compare(own, train, held_out, settings=settings, progress=False)
    figures = sj.plots.figures(found)
    assert "correlations" in figures
    fresh, samples = np.asarray(held_out.points), found.results.samples.values[0]
    panels = [ax for ax in figures["samples"].axes if ax.axison]
    assert [ax.get_title(loc="left") for ax in panels] == [f"column {j}" for j in range(5)]
    for j, ax in enumerate(panels):
        filled, line = (one.get_data() for one in ax.patches)
        width = np.diff(filled.edges)
        for step, points in ((filled, fresh), (line, samples)):
            inside = np.histogram(points[:, j], step.edges)[0]
            np.testing.assert_allclose(step.values, inside / (len(points) * width), rtol=1e-12)
        assert np.sum(filled.values * width) == pytest.approx(1)
    # The constant column has no correlations: six pairs of four.
    pairs = np.triu_indices(4, 1)
    of_fresh, of_samples, of_train = (
        np.corrcoef(np.asarray(one, np.float64)[:, :4].T)[pairs]
        for one in (fresh, samples, train.points)
    )
    crosses, marks = figures["correlations"].axes[0].lines[1:]
    np.testing.assert_allclose(crosses.get_xydata(), np.stack([of_fresh, of_train], 1), rtol=1e-6)
    np.testing.assert_allclose(marks.get_xydata(), np.stack([of_fresh, of_samples], 1), rtol=1e-6)
    off = np.sqrt(np.mean((of_samples - of_fresh) ** 2))
    assert (
        figures["correlations"].axes[0].get_title(loc="left") == f"gaussian: {off:.2f} off (r.m.s.)"
    )
    with pytest.raises(
        ValueError, match="`comparison` must be of a table with at least three columns"
    ):
        sj.plots.plot_correlations(dataclasses.replace(found, train=sj.datasets.two_points()))
