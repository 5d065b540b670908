"""What `doctor` says of an installation: that it is sound, and what is wrong where something is."""

import re
import sys

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import _doctor, cli


def test_stored_numbers_are_those_of_forty_digits():
    points, query = _doctor._lattice()
    assert np.all(points * 16 == np.round(points * 16)) and len(np.unique(points, axis=0)) > 200
    with mpmath.workdps(40):
        level = mpmath.mpf(_doctor._LEVEL)
        squares = [sum(mpmath.mpf(float(x)) ** 2 for x in query - row) for row in points]
        weights = [mpmath.exp(-square / (2 * level**2)) for square in squares]
        total = sum(weights)
        mean = [
            sum(w * mpmath.mpf(float(row[k])) for w, row in zip(weights, points, strict=True))
            / total
            for k in range(4)
        ]
        density = mpmath.log(total / len(points)) - 8 * mpmath.log(2 * mpmath.pi * level**2)
    np.testing.assert_allclose(_doctor._MEAN, np.array(mean, float), rtol=1e-15)
    np.testing.assert_allclose(_doctor._LOG_DENSITY, float(density), rtol=1e-15)
    # Several points have a part in it.
    assert float(max(weights) / total) < 0.5


def test_this_installation_is_sound():
    diagnosis = sj.doctor(speed=False)
    assert diagnosis.is_sound, diagnosis
    numbers = [finding for finding in diagnosis.findings if finding.topic == "numbers"]
    assert len(numbers) == 4 and all(finding.verdict == "good" for finding in numbers)
    text = str(diagnosis)
    assert text.endswith("Nothing is wrong.") and f"default dtype {jnp.result_type(float)}" in text
    assert re.search(r"float32 products keep (1[89]|2[0-4]) bits", text)


def test_wrong_numbers_are_found(monkeypatch):
    wrong = list(_doctor._MEAN)
    wrong[2] *= 1 + 1e-3
    monkeypatch.setattr(_doctor, "_MEAN", tuple(wrong))
    diagnosis = sj.doctor(speed=False)
    (bad,) = (finding for finding in diagnosis.findings if finding.verdict == "bad")
    assert "a posterior mean" in bad.text and "another release" in bad.advice
    assert not diagnosis.is_sound and "! numbers" in str(diagnosis)
    assert str(diagnosis).endswith("Wrong: 1, marked with `!`.")


def test_what_versions_are_wrong(monkeypatch):
    pytest.importorskip("packaging")
    known = _doctor._version_of
    old = {"jaxlib": "0.10.2", "diffrax": "0.6.0", "optax": None}
    monkeypatch.setattr(_doctor, "_version_of", lambda name: old.get(name, known(name)))
    lines = [finding.text for finding in _doctor._versions() if finding.verdict == "bad"]
    assert any("jaxlib 0.10.2 miscompiles" in line for line in lines)
    assert any(re.search(r"diffrax 0.6.0, where smoothjax asks for >=", line) for line in lines)
    assert any(re.search(r"optax is missing, where smoothjax asks for >=", line) for line in lines)


def test_an_idle_gpu_is_found(monkeypatch):
    monkeypatch.setattr(_doctor, "_sees_nvidia", lambda: True)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    (bad,) = (finding for finding in _doctor._devices() if finding.verdict == "bad")
    assert "does not use it" in bad.text and bad.advice == "Unset JAX_PLATFORMS, which is 'cpu'."
    monkeypatch.delenv("JAX_PLATFORMS")
    (bad,) = (finding for finding in _doctor._devices() if finding.verdict == "bad")
    assert "jax[cuda13]" in bad.advice


def test_the_command_says_so_by_its_status(monkeypatch, capsys):
    for verdict, status in (("note", 0), ("bad", 1)):
        found = sj.Diagnosis((_doctor.Finding("numbers", "two and two", verdict, "count"),))
        monkeypatch.setattr(_doctor, "doctor", lambda found=found: found)
        assert cli.main(["doctor"]) == status
        assert "two and two" in capsys.readouterr().out


def test_the_command_needs_no_extra(monkeypatch, capsys):
    """It is the first thing that one runs; the other commands say which extra they need."""
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.setattr(_doctor, "doctor", lambda: sj.Diagnosis(()))
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out == "Nothing is wrong.\n"
    assert cli.main(["list"]) == 2
    assert "pip install 'smoothjax[experiments]'" in capsys.readouterr().err
