"""Networks of classes explained: labels of single points, mechanisms of each class, against the same without labels."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import smoothjax as sj
from smoothjax import mechanisms
from smoothjax.experiments._explain import figures
from smoothjax.experiments._explain.candidates import Candidate, ClassCandidate, outputs_of
from smoothjax.experiments._explain.classes import LabelledPoints, classes_of, num_calls

DIM, EACH, CLASSES = 4, 40, 3


def _data(num, seed):
    """Three overlapping clouds of other shapes, in an order that mixes them."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num * CLASSES) % CLASSES)
    scales = np.random.default_rng(0).uniform(0.2, 1.0, (CLASSES, DIM))
    points = labels[:, None] * 0.7 + scales[labels] * rng.normal(size=(num * CLASSES, DIM))
    return sj.datasets.Dataset("clouds", points, labels)


TRAIN, HELD_OUT = _data(EACH, 1), _data(30, 2)
SETTINGS = sj.ExplainSettings(
    levels=(0.3, 1.0),
    candidates=("empirical-by-class", "gaussian-by-class", "empirical"),
    label="each",
    num_calibration=16,
    num_evaluation=48,
    num_training=32,
    num_samples=0,
)
STACKED = jnp.stack([TRAIN.of_class(c).points for c in range(CLASSES)])


def _network(u, sigma, label):
    """A memoriser of the points of a class, at 2.2 times its temperature."""
    return sj.TemperedDenoiser(STACKED[label], 2.2)(u, sigma)


DENOISERS = {c: sj.TemperedDenoiser(TRAIN.of_class(c).points, 2.2) for c in range(CLASSES)}


@pytest.fixture(scope="module")
def found():
    return sj.explain(_network, TRAIN, HELD_OUT, SETTINGS, progress=False)


def test_a_mechanism_of_each_class_is_found(found):
    for verdict in found.verdicts:
        assert verdict.best == "empirical-by-class", verdict
        assert verdict.indistinguishable == ("empirical-by-class",)
        assert verdict.strength == pytest.approx(2.2, rel=1e-3)
    assert "it is empirical-by-class, and nothing else; temperature " in found.summary()
    shown = float(found.summary().partition("; temperature ")[2].split()[0].rstrip("."))
    assert shown == pytest.approx(min(one.strength for one in found.verdicts), rel=0.01)
    # Of all points, a memoriser makes something else.
    assert (found.dataset.rmse.sel(candidate="empirical") > 0.05).all()
    forms = dict(zip(found.dataset.candidate.values, found.dataset.form.values, strict=True))
    assert forms["empirical"] == "of all training points"
    assert "of each class" in str(forms["empirical-by-class"])


def test_points_are_shown_with_their_own_labels(found):
    first = SETTINGS.num_calibration
    kept = slice(first, first + SETTINGS.num_evaluation)
    labels = np.asarray(HELD_OUT.labels)[kept]
    np.testing.assert_array_equal(found.dataset.point_label, labels)
    clean = np.asarray(HELD_OUT.points)[kept]
    key = jax.random.fold_in(jax.random.key(0), 0)
    noise = np.asarray(sj.initial_noise(key, kept.stop, DIM, dtype=clean.dtype))[kept]
    for i, sigma in enumerate(SETTINGS.levels):
        each = [
            np.asarray(DENOISERS[int(c)](x + sigma * z, sigma))
            for x, z, c in zip(clean, noise, labels, strict=True)
        ]
        loss = np.mean((np.stack(each) - clean) ** 2)
        np.testing.assert_allclose(found.dataset.network_loss[i], loss, rtol=1e-6)


def test_a_dictionary_is_the_same_network(found):
    again = sj.explain(DENOISERS, TRAIN, HELD_OUT, SETTINGS, progress=False)
    np.testing.assert_allclose(again.dataset.rmse, found.dataset.rmse, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(again.dataset.gap, found.dataset.gap, rtol=1e-6)


def test_what_is_found_is_a_dictionary_too(found):
    parts = found.denoisers["empirical-by-class"]
    u = jnp.linspace(-1.0, 1.0, DIM)
    for label, one in DENOISERS.items():
        np.testing.assert_allclose(parts[label](u, 0.3), one(u, 0.3), atol=1e-3)


@pytest.mark.parametrize("network", [_network, DENOISERS, DENOISERS[1]])
def test_one_class_is_a_run_of_its_points(network):
    settings = dataclasses.replace(SETTINGS, label=1, num_calibration=10, num_evaluation=20)
    names = ("empirical-by-class", "gaussian-by-class")
    found = sj.explain(
        network, TRAIN, HELD_OUT, dataclasses.replace(settings, candidates=names), progress=False
    ).dataset
    alone = sj.explain(
        DENOISERS[1],
        TRAIN.of_class(1),
        HELD_OUT.of_class(1),
        dataclasses.replace(settings, label=None, candidates=("empirical", "gaussian")),
        progress=False,
    ).dataset
    assert found.form.values[0] == "of the training points of class 1"
    # The same points, noises, training points: only what an untrained network is remembers the other classes.
    for name in ("strength", "rmse", "network_loss", "network_training_loss", "affine_rmse"):
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-5, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(found.memorized_share, alone.memorized_share, rtol=1e-5)


def test_samples_are_those_of_each_class():
    settings = dataclasses.replace(
        SETTINGS, levels=(0.3,), num_samples=24, steps=6, candidates=("empirical-by-class",)
    )
    found = sj.explain(_network, TRAIN, HELD_OUT, settings, progress=False)
    labels, drawn = found.dataset.sample_label.values, found.samples
    high, low = found.settings.sigma_max, found.settings.sigma_min
    for label in range(CLASSES):
        alone = sj.sample(
            DENOISERS[label],
            jax.random.fold_in(jax.random.key(0), 2),
            24,
            sigma_max=high,
            sigma_min=low,
            solver=__import__("diffrax").Euler(),
            steps=6,
            mean=jnp.mean(TRAIN.points, axis=0),
        )
        rows = labels == label
        np.testing.assert_allclose(drawn.sel(model="network")[rows], alone[rows], atol=1e-5)
        # A strength that is known to some 1e-4.
        candidate = drawn.sel(model="empirical-by-class")[rows]
        np.testing.assert_allclose(candidate, alone[rows], atol=2e-2)


def test_labels_of_samples_are_as_frequent_as_in_training():
    train = sj.datasets.Dataset(
        "uneven", np.random.default_rng(0).normal(size=(400, 1)), [0] * 300 + [1] * 100
    )
    settings = dataclasses.replace(
        SETTINGS, levels=(0.3,), num_samples=400, steps=2, candidates=("gaussian",)
    )
    network = lambda u, sigma, label: u / (1 + sigma**2)  # noqa: E731
    found = sj.explain(network, train, train, settings, progress=False).dataset
    # Three standard deviations of a binomial of 400.
    assert abs(np.mean(found.sample_label == 1) - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 400)


def test_labelled_points_go_through_each_class_in_their_order():
    rng = np.random.default_rng(4)
    u = LabelledPoints(rng.normal(size=(21, DIM)), rng.integers(0, CLASSES, 21))
    classes = classes_of(TRAIN, "each")
    expected = np.stack(
        [
            np.asarray(sj.GaussianDenoiser.fit(TRAIN.of_class(int(c)).points).shrunk(0.4)(x, 0.5))
            for x, c in zip(u.points, u.labels, strict=True)
        ]
    )
    candidate = ClassCandidate(mechanisms.get("gaussian"), TRAIN, classes, 0, 16)
    np.testing.assert_allclose(candidate.outputs(0.4, u, 0.5), expected, atol=1e-6)
    # A candidate of all points does not see labels.
    plain = Candidate(mechanisms.get("gaussian"), TRAIN, 0, 16)
    np.testing.assert_array_equal(plain.outputs(0.4, u, 0.5), plain.outputs(0.4, u.points, 0.5))


def test_one_strength_is_fitted_for_all_classes():
    rng = np.random.default_rng(5)
    u = LabelledPoints(rng.normal(size=(24, DIM)), np.arange(24) % CLASSES)
    candidate = ClassCandidate(mechanisms.get("gaussian"), TRAIN, classes_of(TRAIN, "each"), 0, 16)
    # Classes shrunk by other strengths: what is fitted is least over all of them.
    parts = [candidate.outputs(value, u, 0.5) for value in (0.1, 0.3, 0.6)]
    network = np.choose(u.labels[:, None], parts)
    found = candidate.fit(network, u, 0.5, 24, 0.9)
    fine = np.linspace(0, 1, 401)
    squares = [np.mean((candidate.outputs(v, u, 0.5) - network) ** 2) for v in fine]
    # Between two values of the fine grid.
    assert abs(found.value - fine[int(np.argmin(squares))]) < 2 / 400


def test_a_discrete_strength_suits_every_class():
    classes = classes_of(TRAIN, "each") | {9: sj.datasets.Dataset("few", np.eye(25, DIM))}
    mixture = mechanisms.get("mixture")
    # Of 20 points each: 40 points have two components, 25 one only.
    assert ClassCandidate(mixture, TRAIN, classes_of(TRAIN, "each"), 0, 8).values == (2.0,)
    with pytest.raises(ValueError, match="'mixture' must have a components that suits every class"):
        ClassCandidate(mixture, TRAIN, classes, 0, 8)
    one = {0: TRAIN.of_class(0), 1: sj.datasets.Dataset("one", np.ones((1, DIM)))}
    with pytest.raises(ValueError, match="'smoothed' cannot be made of class 1: Smoothing needs"):
        ClassCandidate(mechanisms.get("smoothed"), TRAIN, one, 0, 8)


def test_candidates_by_default_are_of_each_class():
    settings = sj.ExplainSettings(label="each", num_calibration=16, num_evaluation=48)
    names = settings.suited_to(TRAIN, HELD_OUT).candidates
    assert "gaussian-by-class" in names and all(name.endswith("-by-class") for name in names)
    plain = dataclasses.replace(settings, label=None).suited_to(TRAIN, HELD_OUT).candidates
    assert names == tuple(f"{name}-by-class" for name in plain)


class _Layer(eqx.Module):
    shift: jax.Array

    def __call__(self, u, sigma, label):
        return (u + self.shift[label]) / (1 + sigma**2)


def test_a_module_of_classes_and_its_calls():
    layer = _Layer(jnp.arange(3.0))
    u = LabelledPoints(np.zeros((5, 2)), np.array([2, 0, 1, 1, 2]))
    found = outputs_of(layer, u, 1.0, 4)
    np.testing.assert_allclose(found, np.repeat(u.labels[:, None] / 2, 2, axis=1))
    # In batches of four; by class in batches of four for each, of which no class fills one.
    assert num_calls(layer, u, 4) == 8
    assert num_calls(dict.fromkeys(range(3), layer), u, 4) == 12


def test_the_report_says_what_candidates_are_of(found, tmp_path):
    text = found.report(tmp_path).read_text()
    assert "empirical-by-class" in text and "with one strength for all" in text
    assert "each with its own label" in text
    with xarray.open_dataset(tmp_path / "results.nc") as stored:
        assert stored.attrs["label"] == "each"


@pytest.mark.parametrize(
    ("network", "change", "message"),
    [
        (_network, {"label": None}, "by class are for a network of classes, with `label`"),
        (lambda u, s: u, {}, "must be a function of three arguments"),
        ({0: DENOISERS[0]}, {}, "there is none of 1"),
        (DENOISERS, {"label": None, "candidates": ("gaussian",)}, "got a dictionary, which is for"),
        (lambda u, s, c: DENOISERS[c](u, s), {}, "give a dictionary of functions"),
        (lambda u, s, c: u[:2], {}, r"`network` must map one point of shape \(4,\)"),
        (_network, {"label": 7}, "`label` must be a class of 'clouds'; got 7. There are: 0, 1, 2"),
        (_network, {"label": "odd"}, "`label` must be a class, 'each' or None; got 'odd'"),
        (_network, {"label": 1}, "must not exceed the held-out points of class 1 together"),
        (_network, {"label": None, "candidates": ("gaussian",)}, "see `label` of"),
        (_network, {"candidates": ("none-such-by-class",)}, "no mechanism called 'none-such'"),
    ],
)
def test_what_is_no_network_of_classes_is_refused(network, change, message):
    with pytest.raises(ValueError, match=message):
        settings = dataclasses.replace(SETTINGS, **change)
        sj.explain(network, TRAIN, HELD_OUT, settings, progress=False)


def test_data_without_labels_are_refused():
    bare = sj.datasets.Dataset("bare", TRAIN.points)
    with pytest.raises(ValueError, match="`label` is for data with labels; `train` has none"):
        sj.explain(_network, bare, HELD_OUT, SETTINGS, progress=False)
    other = sj.datasets.Dataset("other", HELD_OUT.points, np.asarray(HELD_OUT.labels) + 1)
    with pytest.raises(ValueError, match="`held_out` must have classes of `train`; got 3"):
        sj.explain(_network, TRAIN, other, SETTINGS, progress=False)


def test_values_of_ones_own_and_colours():
    name = "mixture-by-class"
    settings = dataclasses.replace(
        SETTINGS, levels=(0.5,), candidates=(name, "gaussian"), strengths={name: (1,)}
    )
    found = sj.explain(_network, TRAIN, HELD_OUT, settings, progress=False)
    # Of its own it would have two components.
    assert found.dataset.strength.sel(candidate=name).values.tolist() == [1.0]
    with pytest.raises(ValueError, match="`strengths` must be of candidates; 'mixture' is none"):
        dataclasses.replace(settings, strengths={"mixture": (1, 2)})
    plain = mechanisms.colour_of("mixture")
    own = figures._colour_of(name)
    # The same, darker.
    for i in (1, 3, 5):
        assert abs(int(own[i : i + 2], 16) - 0.6 * int(plain[i : i + 2], 16)) <= 0.5
    assert figures._colour_of("gaussian") == mechanisms.colour_of("gaussian")
