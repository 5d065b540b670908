"""A comparison whose mechanisms have strengths chosen on points held back: what it says, keeps and takes up again."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import mechanisms, report
from smoothjax.experiments._compare import effort as _effort

xarray = pytest.importorskip("xarray")
SETTINGS = sj.CompareSettings(num_samples=8, num_levels=2, steps=6, noise_floor=0.25)
NAMES = ("gaussian", "widened")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 2))
    points = centres[rng.integers(6, size=150)] + 0.3 * rng.normal(size=(150, 2))
    whole = sj.datasets.Dataset("six", points.astype(jnp.result_type(float)))
    return whole.split(120, seed=0)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("strengths")
    found = sj.compare_mechanisms(NAMES, *data, settings=SETTINGS, out=out, progress=False)
    page = report.save(found, out)
    return found, out, page.read_text()


def test_comparison_says_what_was_chosen(finished, data):
    found, _, page = finished
    train, _ = data
    levels = mechanisms.default_levels(train)
    nearest = np.argmin(np.abs(np.log(levels / 0.25)))
    levels[nearest] = 0.25
    chosen = mechanisms.choose_strength("widened", train, levels=levels)
    one = found.results.sel(mechanism="widened")
    np.testing.assert_array_equal(found.results.strength_level, levels)
    np.testing.assert_array_equal(one.strength, chosen.values)
    np.testing.assert_array_equal(one.strength_interval[:, 0], chosen.low)
    np.testing.assert_array_equal(one.strength_interval[:, 1], chosen.high)
    np.testing.assert_array_equal(one.strength_loss, chosen.loss)
    np.testing.assert_array_equal(one.strength_p_value, chosen.p_value)
    assert float(one.strength_guess) == chosen.guess
    # What a Gaussian means by itself is no guess.
    assert np.all(np.isnan(found.results.strength.sel(mechanism="gaussian")))
    i = int(nearest)
    note = found.notes[-1]
    for text in (
        "Strength of widened: its width, chosen on 24 training points that were held back while it was made of the other 96",
        "held-out points of this comparison took no part",
        f"At noise level 0.25 the width is {chosen.values[i]:.3g} data units (90 % interval {chosen.low[i]:.3g} to",
        f"The guess would have been {chosen.guess:.3g}, with {np.sqrt(chosen.loss_guess[i]):.4f}",
    ):
        assert text in note
    header, rows = found.rows()
    assert header[-1] == "strength at 0.25 [90 %]"
    assert rows[1][-1].startswith(f"{chosen.values[i]:.3g} [{chosen.low[i]:.3g}, ")
    assert rows[1][-1].endswith(f", not {chosen.guess:.3g}") and rows[0][-1] == rows[2][-1] == ""
    assert "Strengths, chosen on points held back from the training set" in page
    assert "widened: width (data units)" in page and note.split(":")[0] in page


def test_choice_is_taken_up_again(finished, data, monkeypatch):
    found, out, _ = finished

    def again(*args, **kwargs):
        raise AssertionError("chosen twice")

    monkeypatch.setattr(mechanisms, "choose_strength", again)
    second = sj.compare_mechanisms(NAMES, *data, settings=SETTINGS, out=out, progress=False)
    xarray.testing.assert_identical(second.results, found.results)
    assert second.notes == found.notes
    kept = json.loads((out / "strengths" / "manifest.json").read_text())
    assert kept["configuration"]["strength"] == "held-out"
    with pytest.raises(ValueError, match=r"another configuration.*strength: 'held-out' there"):
        sj.compare_mechanisms(
            NAMES, *data, strength="likelihood", settings=SETTINGS, out=out, progress=False
        )


def test_points_that_are_compared_on_choose_nothing(finished, data):
    found, _, _ = finished
    train, held_out = data
    other = sj.datasets.Dataset("moved", held_out.points + 5)
    moved = sj.compare_mechanisms(NAMES, train, other, settings=SETTINGS, progress=False)
    np.testing.assert_array_equal(moved.results.strength, found.results.strength)


@pytest.mark.exhaustive
def test_guess_where_it_is_asked_for_or_nothing_can_be_held_back(data):
    train, held_out = data
    found = sj.compare_mechanisms(
        ("widened",), train, held_out, strength="default", settings=SETTINGS, progress=False
    )
    by_hand = sj.compare(
        {"widened": mechanisms.get("widened").build(train, 0)},
        train,
        held_out,
        settings=SETTINGS,
        progress=False,
    )
    xarray.testing.assert_identical(found.results, by_hand.results)
    assert found.notes[-1] == "The strength of widened is a guess, as asked for."
    few = sj.datasets.Dataset("few", train.points[:30])
    found = sj.compare_mechanisms(("widened",), few, held_out, settings=SETTINGS, progress=False)
    assert "of 30 training points too few can be held back" in found.notes[-1]
    with pytest.raises(ValueError, match="`strength` must be one of"):
        sj.compare_mechanisms(("widened",), few, held_out, strength="best", progress=False)


def test_a_strength_by_level_knows_the_trace_that_its_members_know():
    points = np.random.default_rng(0).normal(size=(60, 16)).astype(jnp.result_type(float))
    train = sj.datasets.Dataset("sixteen", points, image_shape=(4, 4, 1))
    settings = sj.CompareSettings()
    for name, values, known in (
        ("widened", (0.3, 0.6), True),
        ("tempered", (1.5, 2.0), True),
        ("local", (1.0, 3.0), False),
    ):
        found = mechanisms.choose_strength("gaussian", train, levels=(0.5, 5.0))
        found = dataclasses.replace(found, mechanism=name, values=np.array(values))
        effort = _effort.effort_of(found.denoiser(train), 16, 40, settings)
        assert (effort.num_probes is None) == known, name
