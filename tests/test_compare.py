"""The main job: its numbers, its resumption, its files, its command."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import smoothjax as sj
from smoothjax import cli, mechanisms, report
from smoothjax.experiments import _store, train_and_held_out

xarray = pytest.importorskip("xarray")
SETTINGS = sj.CompareSettings(num_samples=24, num_levels=3, seed=3)


@pytest.fixture(scope="module")
def data():
    return train_and_held_out(sj.datasets.load("circle", num_points=12), seed=1)


def denoisers(train):
    empirical = sj.EmpiricalDenoiser(train.points)
    # The bare callable is the Gaussian in disguise, so that what is known of the one holds for the other.
    gaussian = sj.GaussianDenoiser.fit(train.points)
    return {
        "empirical": empirical,
        "gaussian": gaussian,
        "callable": lambda u, sigma: gaussian(u, sigma),
    }


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    train, held_out = data
    comparison = sj.compare(
        denoisers(train), train, held_out, settings=SETTINGS, out=out, progress=False
    )
    report.save(comparison, out)
    return comparison, out


def test_numbers_are_those_of_the_functions(finished, data):
    comparison, _ = finished
    train, held_out = data
    results, settings = comparison.results, comparison.settings
    empirical = results.sel(mechanism="empirical")
    assert float(empirical.memorized) == 1.0
    np.testing.assert_array_equal(
        train.points[empirical.nearest.values],
        np.asarray(train.points)[
            np.argmin(
                np.linalg.norm(
                    empirical.samples.values[:, None] - np.asarray(train.points), axis=-1
                ),
                axis=1,
            )
        ],
    )
    null = sj.memorization_fraction(
        jnp.asarray(empirical.samples.values), train.points, null=held_out.points
    )
    assert float(results.memorized_null) == float(null.null_fraction)
    # The Gaussian's samples are those of the closed-form flow, up to the tolerance of the solver.
    gaussian = sj.GaussianDenoiser.fit(train.points)
    key = jax.random.fold_in(jax.random.key(SETTINGS.seed), 0)
    noise = settings.sigma_max * sj.initial_noise(key, 24, 2, dtype=train.points.dtype)
    flow = jax.vmap(lambda u: sj.gaussian_flow(gaussian, u, settings.sigma_max, 0.0))(noise)
    samples = results.sel(mechanism="gaussian").samples.values
    np.testing.assert_allclose(samples, flow, atol=2e-4)
    # A denoiser that hides its closed forms gets the same likelihood through the probability flow. What differs is the
    # solver's tolerance: 1e-5 in float32, over some tens of steps and a density of order one.
    likelihood = results.log_likelihood
    np.testing.assert_allclose(
        likelihood.sel(mechanism="callable"), likelihood.sel(mechanism="gaussian"), atol=2e-3
    )
    # The mismatch of the terminal law, at the noisy points that likelihoods use, moved to the highest level.
    high, points = settings.sigma_max, np.asarray(held_out.points[:256], np.float64)
    noise = sj.initial_noise(
        jax.random.fold_in(jax.random.key(SETTINGS.seed), 1), 256, 2, dtype=train.points.dtype
    )
    noisy = points + high * np.asarray(noise, np.float64)
    logits = -np.sum((noisy[:, None] - np.asarray(train.points, np.float64)) ** 2, -1) / (
        2 * high**2
    )
    exact = scipy.special.logsumexp(logits, axis=1) - np.log(len(train) * 2 * np.pi * high**2)
    moments = np.mean(train.points, axis=0), np.cov(train.points.T, bias=True)
    normal = scipy.stats.multivariate_normal(moments[0], moments[1] + high**2 * np.eye(2))
    largest = np.max(np.abs(exact - normal.logpdf(noisy)))
    eps = float(jnp.finfo(train.points.dtype).eps)
    np.testing.assert_allclose(results.terminal_mismatch, largest, rtol=1e-3, atol=100 * eps)
    bound = sj.terminal_mismatch_bound(train.points, high)
    np.testing.assert_allclose(results.terminal_mismatch_bound, bound, rtol=10 * eps)
    assert largest < bound
    # 4 standard errors of the RMSE of a denoiser and itself are zero.
    assert float(np.abs(results.rmse.sel(mechanism="gaussian", other="callable")).max()) < 1e-6
    np.testing.assert_allclose(results.linearity_centred.sel(mechanism="gaussian"), 1, atol=1e-6)
    number = results.effective_neighbours.values
    # Far above the data's scale all points count: their weights differ by (radius / 40 scale)^2 and less.
    np.testing.assert_allclose(number[-1], len(train), rtol=1e-2)
    assert number[0] < 2


def test_table_and_notes(finished):
    comparison, _ = finished
    lines = comparison.table().splitlines()
    assert [line.split()[0] for line in lines[2:]] == [
        "empirical",
        "gaussian",
        "callable",
        "held-out",
    ]
    assert "1.00 [0.86, 1.00]" in lines[2]
    assert any("by the probability flow for callable" in note for note in comparison.notes)


def test_killed_job_ends_with_identical_numbers(finished, data, tmp_path, monkeypatch):
    whole, _ = finished
    train, held_out = data
    get, calls = _store.ResultStore.get, []

    def killed_at_the_sixth_part(store, name, compute):
        calls.append(name)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return get(store, name, compute)

    monkeypatch.setattr(_store.ResultStore, "get", killed_at_the_sixth_part)
    arguments = {"settings": SETTINGS, "out": tmp_path, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        sj.compare(denoisers(train), train, held_out, **arguments)
    monkeypatch.undo()
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    assert len(done) == 5
    # A file cut short by the kill of a less careful program is computed again.
    damaged = tmp_path / "parts" / f"{calls[0]}.npz"
    damaged.write_bytes(damaged.read_bytes()[:50])
    resumed = sj.compare(denoisers(train), train, held_out, **arguments)
    xarray.testing.assert_identical(resumed.results, whole.results)
    for name, time in done.items():
        if name != damaged.name:
            assert (tmp_path / "parts" / name).stat().st_mtime_ns == time


def test_folder_of_another_configuration_is_refused(finished, data):
    _, out = finished
    train, held_out = data
    other = sj.CompareSettings(num_samples=24, num_levels=3, seed=4)
    with pytest.raises(ValueError, match=r"another configuration \(seed: 3 there, 4 now\)"):
        sj.compare(denoisers(train), train, held_out, settings=other, out=out, progress=False)
    moved = sj.datasets.Dataset(train.name, train.points + 1)
    with pytest.raises(ValueError, match="train_sha256"):
        sj.compare(denoisers(train), moved, held_out, settings=SETTINGS, out=out, progress=False)


def test_files(finished):
    comparison, out = finished
    with xarray.open_dataset(out / "results.nc", engine="h5netcdf") as read:
        xarray.testing.assert_equal(read.load(), comparison.results)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["configuration"]["seed"] == 3
    assert manifest["environment"]["jax"] == jax.__version__
    page = (out / "report.html").read_text()
    # Self-contained: nothing is fetched.
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert page.count("data:image/png;base64,") == 2
    for name in ("samples.png", "curves.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert (out / "table.txt").read_text().strip() == comparison.table()
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_samples": 1}, "at least 2"),
        ({"num_levels": 0}, "`num_levels` must be a positive integer"),
        ({"sigma_min": -1.0}, "`sigma_min` must be positive"),
        ({"steps": 1}, "`steps` must be at least 2"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        sj.CompareSettings(**change)


def test_bad_input(data):
    train, held_out = data
    one = sj.datasets.Dataset("one", jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match="at least two different training points"):
        sj.compare(denoisers(train), one, held_out, progress=False)
    with pytest.raises(ValueError, match="one dimension; got 2 and 1"):
        sj.compare(denoisers(train), train, sj.datasets.two_points(), progress=False)
    with pytest.raises(ValueError, match="at least one denoiser"):
        sj.compare({}, train, held_out, progress=False)
    with pytest.raises(ValueError, match="must lie below `sigma_max`"):
        sj.compare(
            denoisers(train),
            train,
            held_out,
            settings=sj.CompareSettings(sigma_max=1e-6),
            progress=False,
        )


def test_registry():
    with pytest.raises(ValueError, match="no mechanism called 'nonsense'; there are: empirical"):
        mechanisms.get("nonsense")
    with pytest.raises(ValueError, match="registered already"):
        mechanisms.register(mechanisms.get("gaussian"))
    train = sj.datasets.load("two-points")
    built = mechanisms.get("mixture").build(train, 0)
    # Too few points for two clusters: one Gaussian.
    np.testing.assert_allclose(
        built(jnp.array([0.5]), 1.0),
        sj.GaussianDenoiser.fit(train.points)(jnp.array([0.5]), 1.0),
        rtol=1e-6,
    )


def test_held_out_points_suit_the_data():
    digits = sj.datasets.Dataset("d", np.random.default_rng(0).normal(size=(60, 3)))
    train, held_out = train_and_held_out(digits, seed=2)
    assert (len(train), len(held_out)) == (50, 10)
    points, fresh = train_and_held_out(sj.datasets.load("circle", num_points=12))
    assert len(points) == 12
    np.testing.assert_allclose(np.linalg.norm(fresh.points, axis=1), 1, rtol=1e-6)
    points, fresh = train_and_held_out(sj.datasets.load("blend"))
    assert len(points) == 6
    assert float(fresh.points.min()) >= -1
    assert float(fresh.points.max()) <= 1
    with pytest.raises(ValueError, match="all 6 points of 'blend' are trained on"):
        train_and_held_out(sj.datasets.load("blend"), num_train=3)


def test_command(tmp_path, capsys):
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    arguments = ["compare", "two-points", "--out", str(tmp_path)]
    arguments += ["--denoisers", "empirical", "gaussian"]
    arguments += ["--num-samples", "8", "--num-levels", "2", "--steps", "18"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "1.00 [0.68, 1.00]" in printed
    assert str(tmp_path / "report.html") in printed
    assert cli.main([*arguments, "--seed", "1"]) == 2
    assert "seed: 0 there, 1 now" in capsys.readouterr().err
    # The precision of a command is its own.
    assert jax.config.jax_enable_x64 == x64  # pyright: ignore[reportAttributeAccessIssue]


def test_command_errors(capsys):
    assert cli.main(["compare", "nonsense"]) == 2
    assert "no data set called 'nonsense'" in capsys.readouterr().err
    assert cli.main(["list"]) == 0
    assert "digits" in capsys.readouterr().out
