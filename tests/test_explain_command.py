"""`smoothjax explain`: the networks that a specification can name, and what it refuses."""

import re

import numpy as np
import pytest

import smoothjax as sj
from smoothjax._commands.commands import parse
from smoothjax._commands.explain import Explain
from smoothjax._commands.network import NetworkOptions, _by_class, _of_object, load_network
from smoothjax.cli import main

TRAIN = sj.datasets.digits().split(300, seed=0)[0]
QUICK = ["--levels", "1.0", "--candidates", "empirical", "gaussian", "--num-samples", "0"]

SOURCE = """
import numpy as np
import smoothjax as sj

train, _ = sj.experiments.train_and_held_out(sj.datasets.digits(dtype="float32"))

def network():
    return sj.TemperedDenoiser(train.points, 3.0)

def shrinks(x, t):
    return x / (1 + t[:, None] ** 2)

def noise():
    return lambda x, t: x * (t / (1 + t**2))[:, None]

def denoiser(u, sigma):
    return u / (1 + sigma**2)

def classes(u, sigma, label):
    return (u - label) / (1 + sigma**2)

def by_class():
    return {c: lambda u, sigma, c=c: (u - c) / (1 + sigma**2) for c in range(10)}

def nothing():
    return 3

def broken():
    raise RuntimeError("no weights")

not_a_function = 1
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def _at(network):
    u, sigma = np.linspace(-1, 1, TRAIN.dim).astype(TRAIN.points.dtype), 0.7
    return u, sigma, np.asarray(network(u, np.asarray(sigma, u.dtype)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("denoiser", NetworkOptions()),
        ("shrinks", NetworkOptions(prediction="x0")),
        ("noise", NetworkOptions(prediction="eps", process="edm")),
    ],
)
def test_functions_in_a_file(file, name, options):
    # All three are the posterior mean of N(0, 1).
    u, sigma, found = _at(load_network(f"{file}:{name}", TRAIN, options))
    np.testing.assert_allclose(found, u / (1 + sigma**2), rtol=1e-5, atol=1e-6)


def test_a_function_in_a_package(file, monkeypatch):
    monkeypatch.syspath_prepend(str(file.parent))
    u, sigma, found = _at(load_network("mine:denoiser", TRAIN, NetworkOptions()))
    np.testing.assert_allclose(found, u / (1 + sigma**2), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"must return a denoiser.* got tuple"):
        load_network("smoothjax.mechanisms:names", TRAIN, NetworkOptions())


def test_a_folder_of_a_training(tmp_path):
    run = sj.learning.train_denoiser(
        TRAIN.points,
        sj.learning.MLPArchitecture(8, 2),
        __import__("jax").random.key(0),
        num_steps=2,
        out=str(tmp_path),
        progress=False,
    )
    network = load_network(str(tmp_path), TRAIN, NetworkOptions())
    u, sigma, found = _at(network)
    np.testing.assert_array_equal(found, run.model(u, np.asarray(sigma, u.dtype)))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("mine.py", "Name a function in it"),
        ("mine.py:other", "must have a function called 'other'; it has: "),
        ("mine.py:not_a_function", "must have a function called 'not_a_function'"),
        ("mine.py:nothing", "must return a denoiser"),
        ("mine.py:broken", "raised RuntimeError: no weights"),
        ("theirs.py:network", "must name a file that is there"),
        ("no.such.package:network", "cannot be imported"),
        ("no-such-folder", "there is no 'no-such-folder'"),
        (".", "the folder '.' is neither"),
    ],
)
def test_what_is_no_network_is_refused(file, monkeypatch, place, message):
    monkeypatch.chdir(file.parent)
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        load_network(place, TRAIN, NetworkOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (NetworkOptions(process="none-such"), "`process` must be one of edm"),
        (NetworkOptions(prediction="eps"), "process"),
        (NetworkOptions(label=3), "`label` is for a module of PyTorch or a folder of diffusers"),
        (NetworkOptions(weights="w.pt"), "`weights` are for a module of PyTorch"),
    ],
)
def test_options_that_do_not_fit_are_refused(file, options, message):
    with pytest.raises(ValueError, match=message):
        load_network(f"{file}:noise", TRAIN, options)


@pytest.mark.parametrize("label", [4, "each"])
def test_networks_of_classes_in_a_file(file, label):
    options = NetworkOptions(label=label)
    u, sigma = np.linspace(-1, 1, TRAIN.dim).astype(TRAIN.points.dtype), 0.7
    function = load_network(f"{file}:classes", TRAIN, options)
    dictionary = load_network(f"{file}:by_class", TRAIN, options)
    expected = (u - 4) / (1 + sigma**2)
    np.testing.assert_allclose(function(u, sigma, 4), expected, rtol=1e-6)
    np.testing.assert_allclose(dictionary[4](u, sigma), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"a function \(u, sigma, label\), or a dictionary"):
        load_network(f"{file}:denoiser", TRAIN, options)


def test_a_module_of_classes_is_one_denoiser_for_each(file):
    torch = pytest.importorskip("torch")

    class Shifted(torch.nn.Module):
        def forward(self, x, t, labels):
            return (x - labels[:, None]) / (1 + t[:, None] ** 2)

    found = _of_object(Shifted(), _points(), NetworkOptions(label="each"))
    assert sorted(found) == [0, 2, 5]
    u = np.linspace(-1, 1, 6).astype(np.float32)
    for label, one in found.items():
        np.testing.assert_allclose(one(u, 0.7), (u - label) / (1 + 0.7**2), rtol=1e-5)
    with pytest.raises(ValueError, match="`label` is for data with labels"):
        bare = sj.datasets.Dataset("bare", np.ones((3, 6)))
        _of_object(Shifted(), bare, NetworkOptions(label="each"))


def test_one_denoiser_is_made_for_each_class():
    made = _by_class(lambda label: label, _points(), "each")  # pyright: ignore[reportArgumentType]
    assert made == {0: 0, 2: 2, 5: 5}
    for label in (3, None):
        assert _by_class(lambda label: label, _points(), label) == label  # pyright: ignore


def _points():
    return sj.datasets.Dataset(
        "points", np.random.default_rng(0).normal(size=(6, 6)), [0, 2, 5] * 2
    )


def test_command_with_labels(file, tmp_path, capsys):
    arguments = ["explain", "digits", "--network", f"{file}:classes", "--levels", "1.0"]
    arguments += ["--candidates", "gaussian-by-class", "--num-samples", "0", "--label", "4"]
    arguments += [
        "--num-calibration",
        "8",
        "--num-evaluation",
        "16",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 0
    assert "gaussian-by-class" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "with labels, all of class 4" in page and "of the training points of class 4" in page


def test_command(file, tmp_path, capsys):
    arguments = ["explain", "digits", "--network", f"{file}:network", *QUICK]
    arguments += ["--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "At noise level 1 it is empirical, and nothing else; temperature " in printed
    # The strength that was planted, and an interval of rounding's width.
    assert re.search(r"1 +empirical +3 \[3, 3\]", printed), printed
    assert (tmp_path / "out" / "report.html").exists()
    assert main([*arguments, "--seed", "1"]) == 2
    assert "another configuration" in capsys.readouterr().err


def test_strengths_as_typed():
    command = parse(
        ["explain", "digits", "--network", "x", "--strengths", "local=1,3", "gaussian=0,.5"]
    )
    assert command.settings().strengths == {"local": (1.0, 3.0), "gaussian": (0.0, 0.5)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("local",), "`--strengths` must be given as name=value,value; got 'local'"),
        (("local=a",), "must be given as name=value,value; got 'local=a'"),
        (("local=1", "local=3"), "must give each candidate once; got 'local' again"),
    ],
)
def test_strengths_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Explain("digits", "x", strengths=given).settings()


def test_command_refuses_before_it_works(tmp_path, capsys):
    arguments = ["explain", "digits", "--network", "x.py:f", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--candidates", "none-such"]) == 2
    assert "no mechanism called 'none-such'" in capsys.readouterr().err
    assert main(arguments) == 2
    assert "must name a file that is there; got 'x.py'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
