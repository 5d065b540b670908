"""How far a job is, on terminals, in pipes and in notebooks."""

import os
import re
import subprocess
import sys

import pytest

from smoothjax import _progress
from smoothjax._progress import progress_bar

JOB = """
from smoothjax._progress import progress_bar
with progress_bar(["a", "b", "c"]) as bar:
    for name in bar:
        bar.set_description(f"part {name}")
"""


class Clock:
    """Seconds as a test says."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        import tqdm.std

        monkeypatch.setattr(_progress.time, "monotonic", lambda: self.now)
        # tqdm takes the time from its module's own name.
        monkeypatch.setattr(tqdm.std, "time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def lines(capsys):
    return lambda: capsys.readouterr().err.splitlines()


def test_line_a_part_with_the_time_so_far_and_the_rest_of_it(clock, lines):
    with progress_bar(["a", "b", "c"]) as bar:
        for name in bar:
            bar.set_description(name)
            clock.now += 20
    # Three parts of 20 seconds: after one, 40 are left; after two, 20.
    assert lines() == [
        "0 of 3 parts, 00:00 elapsed, about ? left",
        "a: 1 of 3 parts, 00:20 elapsed, about 00:40 left",
        "b: 2 of 3 parts, 00:40 elapsed, about 00:20 left",
        "c: 3 of 3 parts, 01:00 elapsed, about 00:00 left",
    ]


def test_what_is_done_already_does_not_count_in_what_is_left(clock, lines):
    with progress_bar(total=10, initial=6) as bar:
        clock.now += 30
        bar.update()
    assert lines()[-1] == "7 of 10 parts, 00:30 elapsed, about 01:30 left"


def test_short_parts_are_few_lines_and_the_last_is_there(clock, lines):
    with progress_bar(range(1024)) as bar:
        for _ in bar:
            clock.now += 1 / 128
    found = lines()
    # Eight seconds: at most a line each, the first and the last.
    assert 3 <= len(found) <= 10
    assert found[-1] == "1024 of 1024 parts, 00:08 elapsed, about 00:00 left"


def test_steps_become_rarer(clock, lines):
    with progress_bar(total=3600, what="training", unit="step") as bar:
        for _ in range(3600):
            clock.now += 1
            bar.update()
    found = lines()
    # Every second until 20, then a twentieth of the time so far until 600, then 30 seconds: 20 + 20 log 30 + 100.
    assert 160 <= len(found) <= 200
    assert found[-1] == "training: 3600 of 3600 steps, 1:00:00 elapsed, about 00:00 left"


def test_nothing_where_nothing_is_asked_for_or_there_is_no_console(monkeypatch, lines):
    assert list(progress_bar([1, 2], shown=False)) == [1, 2]
    assert lines() == []
    monkeypatch.setattr(sys, "stderr", None)
    assert list(progress_bar([1, 2])) == [1, 2]


def on_terminal(columns):
    """What the job writes on a terminal of that width."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    job = subprocess.Popen([sys.executable, "-c", JOB], stderr=theirs, stdout=theirs)
    os.close(theirs)
    found = b""
    while True:
        try:
            more = os.read(ours, 4096)
        except OSError:  # how Linux says that the other end is closed
            more = b""
        if not more:
            break
        found += more
    os.close(ours)
    assert job.wait() == 0, found.decode()
    return found.decode()


@pytest.mark.parametrize("columns", [0, 20, 80])
def test_bar_on_a_terminal(columns):
    found = on_terminal(columns)
    # Drawn anew in one line, which no drawing exceeds.
    assert found.count("\n") == 1
    drawn = [line for line in re.split(r"[\r\n]+", found.replace("\x1b[A", "")) if line]
    assert "part c" in drawn[-1]
    assert columns == 0 or max(map(len, drawn)) <= columns
    assert columns < 80 or "3/3" in drawn[-1]


def test_lines_in_a_pipe():
    done = subprocess.run([sys.executable, "-c", JOB], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("part c: 3 of 3 parts, 00:00 elapsed")
    assert "\r" not in done.stderr


def test_quiet_commands_say_nothing_of_how_far_they_are(capsys, tmp_path, own_registry):
    from smoothjax.cli import main

    command = ["compare", "two-points", "--denoisers", "gaussian", "--num-samples", "4"]
    command += ["--strength", "default", "--num-levels", "2", "--out"]
    assert main([*command, str(tmp_path / "said")]) == 0
    assert " parts, " in capsys.readouterr().err
    assert main([*command, str(tmp_path / "quiet"), "--quiet"]) == 0
    assert " parts, " not in capsys.readouterr().err
