"""The main job: its numbers, its resumption, its files, its command."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import smoothjax as sj
from smoothjax import cli, measures, mechanisms, report
from smoothjax.experiments import train_and_held_out
from smoothjax.experiments._compare import compare as _job
from smoothjax.experiments._compare import comparison as _outcome
from smoothjax.experiments._compare import effort as _effort
from smoothjax.experiments._compare import parts as _parts
from smoothjax.plots import plot_curves, plot_sample_measures

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
    start = jnp.mean(train.points, axis=0, keepdims=True) + noise
    flow = jax.vmap(lambda u: sj.gaussian_flow(gaussian, u, settings.sigma_max, 0.0))(start)
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


def test_rmse_of_pairs_is_that_of_the_function(finished, data):
    comparison, _ = finished
    train, held_out = data
    key = jax.random.fold_in(jax.random.key(SETTINGS.seed), 3)
    levels = jnp.asarray(comparison.results.level.values)
    mechanisms = denoisers(train)
    pair = mechanisms["empirical"], mechanisms["gaussian"]
    curve = sj.rmse_curve(*pair, held_out.points[:256], levels, key)
    found = comparison.results.sel(mechanism="empirical", other="gaussian")
    tolerance = 100 * float(jnp.finfo(train.points.dtype).eps)
    np.testing.assert_allclose(found.rmse, curve.value, rtol=tolerance)
    np.testing.assert_allclose(found.rmse_se, curve.standard_error, rtol=tolerance)
    np.testing.assert_array_equal(
        comparison.results.rmse, comparison.results.rmse.transpose("other", "mechanism", "level")
    )


def recorded(denoiser, batches):
    """A bare callable in its place, which notes how many points it is called on at a time."""

    def note(u):
        batches.append(u.size // u.shape[-1])
        return np.zeros_like(u)

    def disguised(u, sigma):
        shape = jax.ShapeDtypeStruct(u.shape, u.dtype)
        still = jax.lax.stop_gradient(u)
        return denoiser(u + jax.pure_callback(note, shape, still, vmap_method="expand_dims"), sigma)

    return disguised


@pytest.fixture(scope="module")
def in_nine_dimensions():
    """A Gaussian in disguise, in more dimensions than have an exact trace."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((400, 9)) @ rng.standard_normal((9, 9))
    train = sj.datasets.Dataset("train", points[:100].astype(np.float32))
    held_out = sj.datasets.Dataset("fresh", points[100:].astype(np.float32))
    gaussian, batches = sj.GaussianDenoiser.fit(train.points), []
    members = {"disguised": recorded(gaussian, batches)}
    settings = sj.CompareSettings(num_samples=2, num_levels=2)
    comparison = sj.compare(members, train, held_out, settings=settings, progress=False)
    return comparison, gaussian, tuple(batches)


@pytest.mark.exhaustive
def test_each_denoiser_is_evaluated_once_a_level(in_nine_dimensions):
    comparison, gaussian, _ = in_nine_dimensions
    data, batches = (comparison.train, comparison.held_out), []
    members = {"one": gaussian, "two": gaussian, "recorded": recorded(gaussian, batches)}
    efforts = {name: _effort.Effort(64, 2, 40, 16, ()) for name in members}
    parts, done = _parts.parts_of(members, efforts, *data, comparison.settings), {}
    for name in (*(f"outputs-{name}" for name in members), "rmse"):
        done[name] = parts[name](done)
    # At two levels, for two pairs.
    assert sum(batches) == 2 * 256


@pytest.mark.exhaustive
def test_costly_likelihoods_are_estimated(in_nine_dimensions):
    comparison, gaussian, _ = in_nine_dimensions
    floor = comparison.settings.noise_floor
    found = comparison.results.sel(mechanism="disguised")
    assert (int(found.likelihood_points), int(found.likelihood_probes)) == (64, 2)
    assert int(found.sampler_steps) == 40
    values = found.log_likelihoods.values
    assert len(values) == 256 and np.isnan(values[64:]).all()
    points = comparison.held_out.points[:64]
    key = jax.random.fold_in(jax.random.key(0), 1)
    noisy = points + floor * sj.initial_noise(key, 64, 9, dtype=points.dtype)
    exact = jax.vmap(lambda u: gaussian.log_density(u, floor))(noisy)
    # What differs is the estimate of the trace, whose probes are independent from point to point.
    error = values[:64] - np.asarray(exact)
    assert error.std(ddof=1) > 0.01
    assert abs(error.mean()) < 4 * error.std(ddof=1) / 8
    np.testing.assert_allclose(found.log_likelihood, values[:64].mean(), rtol=1e-6)
    np.testing.assert_allclose(found.log_likelihood_se, values[:64].std(ddof=1) / 8, rtol=1e-6)
    (note,) = (note for note in comparison.notes if note.startswith("Log-likelihood"))
    assert "for disguised at the first 64 of 256 points" in note and "2 probes a point" in note
    (note,) = (note for note in comparison.notes if "initial noises" in note)
    assert "those of disguised, whose calls are costly, by EDM-Heun, 40 steps." in note


@pytest.mark.exhaustive
def test_costly_denoisers_are_called_on_small_batches(in_nine_dimensions):
    """Each query of a local denoiser, and each of its tangents, takes megabytes."""
    *_, batches = in_nine_dimensions
    assert max(batches) == 16


@pytest.mark.parametrize(
    ("name", "costly"),
    [("smoothed", False), ("tempered", False), ("mixture", False), ("local", True)],
)
def test_wrappers_know_the_trace_that_they_wrap(name, costly):
    points = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    train = sj.datasets.Dataset("images", points, image_shape=(4, 4, 1))
    built = mechanisms.get(name).build(train, 0)
    settings = sj.CompareSettings()
    assert (_effort.effort_of(built, 16, 40, settings).num_probes is not None) == costly
    switched = sj.SwitchedDenoiser(sj.GaussianDenoiser.fit(train.points), built, 1.0)
    assert (_effort.effort_of(switched, 16, 40, settings).num_probes is not None) == costly
    # An exact trace of so few products is as cheap.
    assert _effort.effort_of(built, 8, 40, settings).num_probes is None


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
    get, calls = _job.ResultStore.get, []

    def killed_at_the_sixth_part(store, name, compute):
        calls.append(name)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return get(store, name, compute)

    monkeypatch.setattr(_job.ResultStore, "get", killed_at_the_sixth_part)
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


def test_regimes_of_the_training_set_are_there_and_said(finished, data):
    comparison, _ = finished
    found, (train, _) = comparison.regimes, data
    num = len(np.unique(np.asarray(train.points), axis=0))
    assert float(found.max_information) == pytest.approx(np.log(num), rel=1e-6)
    covariance = np.cov(np.asarray(train.points, np.float64).T, bias=True)
    level = np.linalg.eigvalsh(np.atleast_2d(covariance))[-1] ** 0.5
    assert float(found.speciation) == pytest.approx(level, rel=1e-5)
    assert any(f"below noise level {level:.3g} (speciation)" in note for note in comparison.notes)
    # Even odds are where the information against the other points is log(num - 1).
    order = np.argsort(found.left_out.values)
    crossed = np.interp(
        np.log(num - 1), found.left_out.values[order], np.log(found.sigma.values[order])
    )
    assert float(found.collapse) == pytest.approx(np.exp(crossed), rel=0.05)


def test_files(finished):
    comparison, out = finished
    with xarray.open_dataset(out / "results.nc", engine="h5netcdf") as read:
        xarray.testing.assert_equal(read.load(), comparison.results)
    with xarray.open_dataset(out / "regimes.nc", engine="h5netcdf") as read:
        xarray.testing.assert_equal(read.load(), comparison.regimes)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["configuration"]["seed"] == 3
    assert manifest["environment"]["jax"] == jax.__version__
    page = (out / "report.html").read_text()
    # Self-contained: nothing is fetched.
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert page.count("data:image/png;base64,") == 4
    for name in ("samples.png", "sample-measures.png", "curves.png", "regimes.png"):
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
    with pytest.raises(ValueError, match=r"callables \(u, sigma\); got 1 for 'a'"):
        sj.compare({"a": 1}, train, held_out, progress=False)
    with pytest.raises(ValueError, match="must lie below `sigma_max`"):
        sj.compare(
            denoisers(train),
            train,
            held_out,
            settings=sj.CompareSettings(sigma_max=1e-6),
            progress=False,
        )


def test_registry(own_registry):
    with pytest.raises(ValueError, match="no mechanism called 'nonsense'; there are: empirical"):
        mechanisms.get("nonsense")
    with pytest.raises(ValueError, match="registered already"):
        mechanisms.register(mechanisms.get("gaussian"))
    again = dataclasses.replace(mechanisms.get("gaussian"), description="another")
    mechanisms.register(again, replace=True)
    assert mechanisms.get("gaussian") is again
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


def test_figure_of_many_mechanisms(finished):
    pytest.importorskip("matplotlib")
    comparison, _ = finished
    legends = [ax.get_legend() for ax in plot_curves(comparison).axes]
    assert len(legends[0].get_texts()) == 3
    references = ("empirical", "gaussian")
    many = with_mechanisms(comparison, [*references, *"abcdef"])
    figure = plot_curves(many)
    figure.draw_without_rendering()
    curves = {line.get_label(): line for line in figure.axes[0].lines}
    # Thirteen of 28 pairs: with either reference, of which there are two.
    own = [f"{name} – {reference}" for name in "abcdef" for reference in references]
    assert set(curves) == {"gaussian – empirical", *own}
    for name in "abcdef":
        first, second = (curves[f"{name} – {reference}"] for reference in references)
        assert first.get_color() == second.get_color()
        assert first.get_linestyle() != second.get_linestyle()
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[1].lines}
    assert len(looks) == 8
    for ax in figure.axes:
        # Below the axes: legends hide no curve.
        assert ax.get_legend().get_window_extent().y1 < ax.get_window_extent().y0
    # Without references: the first of them is one.
    alone = plot_curves(with_mechanisms(comparison, list("abcde"))).axes[0]
    assert [line.get_label() for line in alone.lines] == [f"{name} – a" for name in "bcde"]


def with_mechanisms(comparison, names):
    """The results of the first mechanism, and its distances from the second, under other names."""
    at = [0] * len(names)
    results = comparison.results.isel(mechanism=at, other=[1] * len(names))
    return dataclasses.replace(
        comparison, results=results.assign_coords(mechanism=names, other=names)
    )


def test_tables_of_levels_have_a_column_for_each(finished):
    comparison, _ = finished
    names = ["empirical", "gaussian", *"abcdef"]
    tables = report._comparison._level_tables(with_mechanisms(comparison, names))
    rmse, linearity, _ = tables.values()
    for header, rows in tables.values():
        assert len(header) == 4 and all(len(row) == 4 for row in rows)
    assert len(rmse[1]) == 28 and len(linearity[1]) == 8
    header, rows = report._comparison._level_tables(comparison)[
        "RMSE a coordinate between mechanisms"
    ]
    found = comparison.results.rmse.sel(mechanism="empirical", other="callable").values
    assert rows[1] == ["empirical – callable", *(f"{value:.3g}" for value in found)]
    assert header[1:] == [f"{value:.3g}" for value in comparison.results.level.values]


def test_folder_of_a_training_is_refused(data, tmp_path, capsys):
    train, held_out = data
    (tmp_path / "configuration.json").write_text('{"kind": "mlp"}')
    (tmp_path / "samples.png").write_bytes(b"of the training")
    with pytest.raises(ValueError, match="holds the training of a network"):
        sj.compare(denoisers(train), train, held_out, out=tmp_path, progress=False)
    for command in (["compare", "two-points"], ["experiment", "two-points"]):
        assert cli.main([*command, "--out", str(tmp_path)]) == 2
        assert "holds the training of a network" in capsys.readouterr().err
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"configuration.json", "samples.png"}
    assert (tmp_path / "samples.png").read_bytes() == b"of the training"


def test_command_errors(capsys):
    assert cli.main(["compare", "nonsense"]) == 2
    assert "no data set called 'nonsense'" in capsys.readouterr().err
    assert cli.main(["list"]) == 0
    assert "digits" in capsys.readouterr().out


def test_entropy_names_what_it_is(finished):
    """Differential entropy in data units, with that of the noise beside it, in the table and in words."""
    comparison, _ = finished
    results = comparison.results
    level = float(results.noise_floor)
    floor = scipy.stats.norm(scale=level).entropy() / np.log(2)
    np.testing.assert_allclose(results.noise_entropy, floor, rtol=1e-6)
    np.testing.assert_allclose(
        results.entropy_bits, -results.log_likelihood / (2 * np.log(2)), rtol=1e-12
    )
    assert f"(noise alone {floor:.2f})" in comparison.table().splitlines()[0]
    words = next(note for note in comparison.notes if note.startswith("Entropy"))
    assert f"{floor:.3f}" in words and "log2(127.5) = 6.99" in words
    assert "bits/dim" not in comparison.table()


def test_registered_measures_appear_everywhere(data, own_measures, capsys):
    """In results, table, figure, report and lists, without an edit anywhere."""

    def size(denoiser, points, sigma, key, *, centre, batch_size):
        norms = jax.vmap(lambda x: jnp.linalg.norm(denoiser(x, sigma)))(points)
        return {"size": measures.mean_estimate(norms)}

    one = measures.Measure("size", "How large outputs are", "|D|", "Size: of outputs.", size)
    with pytest.raises(ValueError, match="no measure called 'size'; there are: "):
        sj.CompareSettings(measures=("size",))
    measures.register(one)
    with pytest.raises(ValueError, match="registered already"):
        measures.register(one)
    train, held_out = data
    gaussian = sj.GaussianDenoiser.fit(train.points)
    settings = sj.CompareSettings(
        num_samples=4, num_levels=2, steps=2, measures=("linearity", "size", "curl")
    )
    comparison = sj.compare({"a": gaussian}, train, held_out, settings=settings, progress=False)
    results = comparison.results
    for j, level in enumerate(results.level.values):
        own = np.mean([np.linalg.norm(gaussian(x, level)) for x in held_out.points[:256]])
        np.testing.assert_allclose(results["size"].values[0, j], own, rtol=1e-5)
    assert float(results.curl.max()) < 1e-5
    header, rows = comparison.rows()
    assert [cell.partition(" at ")[0] for cell in header[-3:]] == ["linearity", "size", "curl"]
    assert " ± " in rows[0][-2] and rows[1][-3:] == ["", "", ""]
    assert "Size: of outputs." in comparison.notes
    assert [ax.get_title(loc="left") for ax in plot_curves(comparison).axes][2] == one.description
    assert report._comparison._level_tables(comparison)["|D|"][1][0][0] == "a"
    assert cli.main(["list"]) == 0
    assert one.description in capsys.readouterr().out


def test_registered_measures_of_samples_appear_everywhere(data, own_measures, capsys):
    """In results, table, figure, report and lists, without an edit anywhere, beside those of every comparison."""

    def width(samples, train, held_out, key):
        reach = jnp.abs(samples[:, 0])
        of = lambda points: jnp.max(jnp.abs(points))  # noqa: E731
        return {
            "width": measures.mean_estimate(reach),
            "width_null": measures.mean_estimate(jnp.abs(held_out[: len(samples), 0])),
            "reach": of(samples),
            "draw": jax.random.uniform(key, dtype=samples.dtype),
        }

    one = measures.SampleMeasure(
        "width", "How wide samples lie", "E|x|", "Width: of samples.", width, unit="data units"
    )
    measures.register(one)
    with pytest.raises(ValueError, match="A measure called 'width' is registered already"):
        measures.register(one)
    train, held_out = data
    gaussian = sj.GaussianDenoiser.fit(train.points)
    settings = sj.CompareSettings(
        num_samples=5, num_levels=2, steps=2, measures=("width", "curl", "frechet")
    )
    both = {"a": gaussian, "b": sj.EmpiricalDenoiser(train.points)}
    comparison = sj.compare(both, train, held_out, settings=settings, progress=False)
    results = comparison.results
    for name in both:
        samples = results.samples.sel(mechanism=name).values
        found = results.sel(mechanism=name)
        np.testing.assert_allclose(found.width, np.mean(np.abs(samples[:, 0])), rtol=1e-6)
        error = scipy.stats.sem(np.abs(samples[:, 0]))
        np.testing.assert_allclose(found.width_se, error, rtol=1e-5)
        assert float(found.reach) == np.max(np.abs(samples))
    np.testing.assert_allclose(
        results.width_null, np.mean(np.abs(held_out.points[:5, 0])), rtol=1e-6
    )
    assert results.width_null.dims == () and results.width.attrs["units"] == "data units"
    # One key for all, so that what is drawn is no difference between mechanisms.
    assert float(results.draw[0]) == float(results.draw[1])
    assert [one.name for one in comparison.measures()] == ["curl"]
    header, rows = comparison.rows()
    assert header[1] == "memorised [95 %]" and header[4:6] == ["Fréchet", "E|x|"]
    assert len(header) == 7 and all(len(row) == 7 for row in rows)
    assert all(" ± " in row[5] for row in rows)
    assert comparison.notes.count("Width: of samples.") == 1
    axes = plot_sample_measures(comparison).axes
    assert [ax.get_xlabel() for ax in axes] == [
        "memorised [95 %]\n(fraction of samples with d1/d2 < 1/3)",
        "Fréchet\n(squared data units)",
        "E|x|\n(data units)",
    ]
    last = axes[-1].lines
    means = results.width.values
    ends = [means - 2 * results.width_se.values, means + 2 * results.width_se.values]
    for i in (0, 1):
        np.testing.assert_allclose(last[2 * i].get_xdata(), [end[i] for end in ends])
        np.testing.assert_allclose(last[2 * i + 1].get_xdata(), means[i])
    np.testing.assert_allclose(last[4].get_xdata(), results.width_null)
    assert "E|x|" in report._comparison._page(comparison, {})
    assert cli.main(["list"]) == 0
    assert "How wide samples lie" in capsys.readouterr().out.partition("Measures of samples:")[2]


def test_only_the_asked_measures_of_samples_are_taken(own_measures):
    other = dataclasses.replace(measures.get("frechet"), name="other", always=False)
    measures.register(other)
    names = lambda *asked: [one.name for one in sj.CompareSettings(measures=asked).of_samples()]  # noqa: E731
    assert names() == names("linearity") == ["memorization", "frechet"]
    assert names("other", "memorization") == ["memorization", "frechet", "other"]
    # Those at noise levels are still replaced by what is asked for.
    assert [one.name for one in sj.CompareSettings().at_levels()] == ["linearity"]
    assert sj.CompareSettings(measures=("other",)).at_levels() == ()


@pytest.mark.parametrize("found", [{}, 1, {"bad": "text"}, {"bad": np.ones(2)}])
def test_measures_of_samples_give_numbers(found):
    one = measures.SampleMeasure("bad", "d", "l", "n", lambda *_: found)
    points = jnp.ones((2, 1))
    with pytest.raises(ValueError, match="`compute` of the measure 'bad' must return"):
        one.numbers(points, points, points, jax.random.key(0))


def test_measures_take_no_name_of_the_comparison(data, own_measures):
    train, held_out = data
    gaussian = {"a": sj.GaussianDenoiser.fit(train.points)}
    for name, message in (("samples", "cannot be called 'samples'"), ("rmse", "gives 'rmse'")):
        measures.register(
            measures.SampleMeasure(name, "d", "l", "n", lambda *_, name=name: {name: 1.0})
        )
        settings = sj.CompareSettings(num_samples=4, num_levels=2, steps=2, measures=(name,))
        with pytest.raises(ValueError, match=message):
            sj.compare(gaussian, train, held_out, settings=settings, progress=False)


def test_folders_of_before_go_on(finished, data, tmp_path):
    """Copies and distance were one part once."""
    whole, out = finished
    train, held_out = data
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    parts = tmp_path / "parts"
    for name in denoisers(train):
        with np.load(parts / f"memorization-{name}.npz") as one:
            together = {**one, **np.load(parts / f"frechet-{name}.npz")}
        (parts / f"frechet-{name}.npz").unlink()
        if name != "callable":
            np.savez(parts / f"memorization-{name}.npz", **together)
    again = sj.compare(
        denoisers(train), train, held_out, settings=SETTINGS, out=tmp_path, progress=False
    )
    xarray.testing.assert_identical(again.results, whole.results)


def test_costly_measures_are_left_out_of_costly_denoisers():
    network = lambda u, sigma: u / (1 + sigma**2)  # noqa: E731
    asked = sj.CompareSettings(measures=("curl",))
    by_default = measures.get("linearity").name
    assert _effort.effort_of(network, 16, 100, sj.CompareSettings()).measures == (by_default,)
    assert _effort.effort_of(network, 16, 100, asked).measures == ("curl",)


def test_costly_measures_that_are_left_out_are_named(data, own_measures):
    measures.register(dataclasses.replace(measures.get("curl"), by_default=True), replace=True)
    network = lambda u, sigma: u / (1 + sigma**2)  # noqa: E731
    settings = sj.CompareSettings()
    efforts = {"network": _effort.effort_of(network, 16, 100, settings)}
    assert efforts["network"].measures == ("linearity",)
    assert _outcome._skipped(efforts, settings) == {"network": ["curl"]}
