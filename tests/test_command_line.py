"""The command line as it is typed: what is wrong is said in one line, before any work, and nothing finished is lost."""

import contextlib
import errno
import gc
import inspect
import io
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import cli, experiments, report
from smoothjax._commands import commands as _commands
from smoothjax._commands import experiment as experiment_command
from smoothjax._files import output as _output
from smoothjax._files import store as _store
from smoothjax.experiments import EXPERIMENTS, Experiment

xarray = pytest.importorskip("xarray")
pytest.importorskip("tyro")


def one_line(capsys, *parts):
    """What was said, which is one line."""
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("smoothjax: ") and len(said) < 1000
    for part in parts:
        assert part in said
    return said


@pytest.fixture
def quick(monkeypatch):
    """A named experiment that takes no time, in two parts; the numbers of its runs are kept."""
    computed = []

    def run(*, first: float = 1.0, num: int = 3, out=None, progress=True):
        """Two numbers, one after the other.

        They mean nothing.

        Args:
            first: the first of them.
            num: how many there might be.
            out: folder in which parts are kept.

        Returns:
            Both.
        """
        store = _store.ResultStore(out, {"experiment": "quick"})

        def compute(name):
            computed.append(name)
            return {"value": np.asarray(jnp.arange(num, dtype=float) * first)}

        parts = [store.get(name, lambda name=name: compute(name)) for name in ("one", "two")]
        return xarray.Dataset({"café": ("x", parts[0]["value"] + parts[1]["value"])})

    def draw(results):
        pyplot = pytest.importorskip("matplotlib.figure")
        figure = pyplot.Figure((1, 1))
        figure.subplots().plot(results["café"].values)
        return figure

    monkeypatch.setitem(EXPERIMENTS, "quick", Experiment("quick", "two numbers", run, draw))
    return computed


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


DONE = {"manifest.json", "parts/one.npz", "parts/two.npz", "results.nc", "quick.png"}


def test_experiment_leaves_its_files_only(quick, tmp_path):
    out = tmp_path / "a" / "b"
    assert cli.main(["experiment", "quick", "--out", str(out)]) == 0
    assert files(out) == DONE
    with xarray.open_dataset(out / "results.nc", engine="h5netcdf") as results:
        np.testing.assert_array_equal(results["café"], [0, 2, 4])


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["compare", "circle"], ["train", "circle"], ["experiment", "quick"]]
)
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file/sub", "a file is in its way"),
        ("file", "is a file"),
        ("new/" + "x" * 300, "File name too long"),
        ("x" * 300, "File name too long"),
        ("y/" * 3000, "File name too long"),
        ("null\0", "null character"),
    ],
)
def test_folders_that_cannot_be(quick, tmp_path, capsys, monkeypatch, command, out, message):
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command, "--out", out]) == 2
    one_line(capsys, message, "Choose another" if "null" not in out else "folder")
    assert not quick and files(tmp_path) == {"file"}


def test_folder_without_permission(quick, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert cli.main(["experiment", "quick", "--out", str(tmp_path / "a")]) == 2
    one_line(capsys, "can be written to", "no permission")
    assert not quick


@pytest.mark.parametrize("command", ["compare", "train"])
@pytest.mark.parametrize(
    ("seed", "message"),
    [(str(2**63), "below 2^63"), (str(2**70), "below 2^63"), ("-1", "non-negative")],
)
def test_seeds(tmp_path, capsys, command, seed, message):
    arguments = [command, "circle", "--out", str(tmp_path / "a"), "--seed", seed]
    assert cli.main(arguments) == 2
    one_line(capsys, "`seed`", message)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("command", ["compare", "train"])
@pytest.mark.parametrize("seed", ["1.5", "a", ""])
def test_seed_that_is_no_integer(tmp_path, capsys, command, seed):
    """In one box, which names the option, what was given, and what is expected."""
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "circle", "--out", str(tmp_path / "a"), "--seed", seed])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("Error parsing --seed") == 1 and "--seed INT" in said and repr(seed) in said
    assert said.count("\n") < 12 and "Traceback" not in said and not (tmp_path / "a").exists()


def test_no_mechanisms_after_the_option(tmp_path, capsys):
    assert cli.main(["compare", "circle", "--out", str(tmp_path / "a"), "--denoisers"]) == 2
    one_line(capsys, "`--denoisers` must be followed by")
    arguments = ["compare", "circle", "--denoisers", "--out", str(tmp_path / "a")]
    assert cli.main(arguments) == 2
    one_line(capsys, "`--denoisers` must be followed by")
    assert cli.main([*arguments[:3], "nonsense", *arguments[3:]]) == 2
    one_line(capsys, "nonsense")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("command", ["compare", "train"])
@pytest.mark.parametrize("out", ["imgs", "imgs/results", "./imgs/../imgs", "link"])
def test_results_do_not_land_among_the_data(tmp_path, capsys, monkeypatch, command, out):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    os.mkdir("imgs")
    os.symlink("imgs", "link")
    for i in range(3):
        image.new("L", (4, 4), 50 * i).save(f"imgs/{i}.png")
    assert cli.main([command, "imgs", "--out", out]) == 2
    one_line(capsys, "`out` must not lie in the folder of the data")
    assert files(tmp_path / "imgs") == {"0.png", "1.png", "2.png"}


def test_data_without_a_name(tmp_path, capsys, monkeypatch):
    """An empty variable of a shell: not the folder that one is in."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "", "--out", "a"]) == 2
    one_line(capsys, "There is no data set called ''", "two-points")


def test_results_do_not_replace_the_data(tmp_path, capsys):
    path = tmp_path / "samples.npz"
    np.savez(path, samples=np.eye(3))
    assert cli.main(["train", str(path), "--out", str(tmp_path)]) == 2
    one_line(capsys, "a file that results would replace")


@pytest.mark.parametrize(
    "points", [[[0.1, 0.7]], [[0.1, 0.7]] * 2, [[0.1, 0.7]] * 3, [[0.1, 0.7]] * 31]
)
def test_equal_points(tmp_path, capsys, points):
    np.save(tmp_path / "a.npy", np.array(points))
    assert len(sj.datasets.load(tmp_path / "a.npy")) == len(points)
    for precision in ("float32", "float64"):
        arguments = ["compare", str(tmp_path / "a.npy"), "--out", str(tmp_path / "out")]
        assert cli.main([*arguments, "--precision", precision]) == 2
        one_line(
            capsys,
            "at least two different training points",
            "all are equal" if len(points) > 1 else "there is one",
        )
    assert not (tmp_path / "out").exists()


def test_one_point_is_not_trained_on(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.array([[0.1, 0.7]]))
    assert cli.main(["train", str(tmp_path / "a.npy"), "--out", str(tmp_path / "out")]) == 2
    one_line(capsys, "at least two training points")


# --- options ---------------------------------------------------------------------------------


class Reached(Exception):
    pass


@pytest.fixture
def compared(monkeypatch):
    """What `compare` would have been given."""
    given = {}

    def compare(names, train, held_out, *, strength, settings, out, progress):
        given.update(train=train, held_out=held_out, settings=settings, strength=strength)
        _store.ResultStore(out, {"dtype": str(train.points.dtype)})
        raise Reached

    monkeypatch.setattr(_commands, "compare_mechanisms", compare)
    return given


@pytest.mark.parametrize("stored", ["float32", "float64"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_precision_is_that_of_the_option(tmp_path, compared, stored, precision):
    path, out = tmp_path / "d.npy", tmp_path / "out"
    np.save(path, np.random.default_rng(0).normal(size=(30, 2)).astype(stored))
    with pytest.raises(Reached):
        cli.main(["compare", str(path), "--out", str(out), "--precision", precision])
    assert str(compared["train"].points.dtype) == precision
    configuration = json.loads((out / "manifest.json").read_text())["configuration"]
    assert configuration["precision"] == precision


def test_a_condition_is_one_class_of_the_same_split(tmp_path, compared, capsys):
    arguments = ["compare", "digits", "--out", str(tmp_path)]
    with pytest.raises(Reached):
        cli.main([*arguments, "--condition", "3"])
    train, held_out = compared["train"], compared["held_out"]
    assert train.name == held_out.name == "digits, class 3"
    everything, others = sj.experiments.train_and_held_out(sj.datasets.digits())
    for part, whole in ((train, everything), (held_out, others)):
        assert np.array_equal(part.points, whole.points[np.asarray(whole.labels) == 3])
    assert cli.main([*arguments, "--condition", "12"]) == 2
    one_line(capsys, "must be a class of 'digits'")


def test_another_precision_into_the_same_folder(quick, tmp_path, capsys):
    arguments = ["experiment", "quick", "--out", str(tmp_path), "--precision"]
    assert cli.main([*arguments, "float32"]) == 0
    assert cli.main([*arguments, "float64"]) == 2
    one_line(capsys, "precision: 'float32' there, 'float64' now")
    # What was written before manifests said so is taken up.
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["configuration"]["precision"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main([*arguments, "float32"]) == 0
    assert quick == ["one", "two"]


def test_layout(tmp_path, compared, capsys):
    images = np.random.default_rng(0).normal(size=(30, 4, 8, 8)).astype(np.float32)
    np.save(tmp_path / "d.npy", images)
    arguments = ["compare", str(tmp_path / "d.npy"), "--out", str(tmp_path / "out")]
    with pytest.raises(Reached):
        cli.main([*arguments, "--layout", "chw"])
    assert compared["train"].image_shape == (8, 8, 4)
    assert capsys.readouterr().err == ""
    with warnings.catch_warnings(), pytest.raises(Reached):
        warnings.simplefilter("always")
        # As Python shows them, and not as the test recorder keeps them.
        warnings.showwarning = lambda *w: sys.stderr.write(warnings.formatwarning(*w[:4]))
        cli.main(arguments)
    one_line(capsys, "looks like channels first", "--layout")


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("smoothjax ")


def help_of(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["experiment", *arguments])
    assert stop.value.code == 0
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


def test_help_of_an_experiment(quick, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    for flag in ("--help", "-h"):
        said = help_of(capsys, "quick", flag)
        for part in ("Two numbers, one after the other.", "They mean nothing.", "--first", "1.0"):
            assert part in said
        assert "how many there might be" in said and "Both." not in said
    assert cli.main(["experiment", "nonsense", "--help"]) == 2
    one_line(capsys, "no experiment called 'nonsense'")
    assert "--out" in help_of(capsys, "--help")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_parameter_of_an_experiment_is_an_option_with_its_meaning(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    said = help_of(capsys, name, "--help")
    for parameter in inspect.signature(EXPERIMENTS[name].run).parameters.values():
        if parameter.name in ("out", "progress", "architecture"):
            continue
        option = f"--{parameter.name.replace('_', '-')}"
        assert option in said
        assert experiment_command._meanings(inspect.getdoc(EXPERIMENTS[name].run))[parameter.name]
    words = (EXPERIMENTS[name].run.__doc__ or "").strip().splitlines()[0]
    assert words in said and "Returns" not in said


def test_settings_of_an_experiment_are_passed_on(tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--sets", "line", "--times", "0.5", "0.75", "--num-nodes", "3", "--extent", "2.0"]
    command = ["experiment", "target-noise", "--out", str(out)]
    assert cli.main([*command, *options, "--precision", "float64"]) == 0
    with _commands.computing_in("float64"):
        own = experiments.target_noise(sets=("line",), times=(0.5, 0.75), num_nodes=3, extent=2.0)
    with xarray.open_dataset(out / "results.nc") as found:
        xarray.testing.assert_equal(found.load(), own)
    capsys.readouterr()
    assert cli.main([*command, "--times", "--num-nodes", "3"]) == 2
    one_line(capsys, "`--times` must be followed by values")
    with pytest.raises(SystemExit):
        cli.main(["experiment", "target-noise", "--out", str(out), "--num-nodes", "three"])
    assert "--num-nodes" in capsys.readouterr().err


def test_no_values_are_a_default_only_where_they_are_not_asked_for(capsys):
    command = ["experiment", "explain-network", "--out", "x"]
    assert _commands.parse(command).settings["levels"] == ()
    assert cli.main([*command, "--levels", "--num-samples", "4"]) == 2
    one_line(capsys, "`--levels` must be followed by values")


# --- a computer that fails -------------------------------------------------------------------


def test_full_disk(quick, tmp_path, capsys, monkeypatch):
    write, written = pathlib.Path.write_bytes, []

    def full(self, content):
        if len(written) == left:
            write(self, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        written.append(self)
        return write(self, content)

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    arguments = ["experiment", "quick", "--out", str(tmp_path)]
    for expected in range(5):
        # Room for one file more than there is; results and figure are written anew each time.
        left = min(expected, 1)
        written.clear()
        before = files(tmp_path)
        assert cli.main(arguments) == 1
        said = one_line(capsys, "No space left on device", "What is finished is kept")
        names = ["manifest.json", "one.npz", "two.npz", "results.nc", "quick.png"]
        assert f"{names[expected]}': " in said
        assert before <= files(tmp_path) <= DONE and len(files(tmp_path)) == expected


def test_writer_of_results_that_fails(quick, tmp_path, capsys, monkeypatch):
    def broken(self, *_args, **_kwargs):
        raise OSError("Can't write data (file write failed)\nlong\nstory")

    monkeypatch.setattr(xarray.Dataset, "to_netcdf", broken)
    assert cli.main(["experiment", "quick", "--out", str(tmp_path)]) == 1
    one_line(capsys, "Can't write data (file write failed). What is finished is kept")
    assert files(tmp_path) == DONE - {"results.nc", "quick.png"}


def test_results_reach_the_disk_by_way_of_memory(quick, tmp_path, monkeypatch):
    """HDF5 crashes where the disk is full: it never sees one."""
    to_netcdf, targets = xarray.Dataset.to_netcdf, []

    def recorded(self, path=None, *args, **kwargs):
        targets.append(path)
        return to_netcdf(self, path, *args, **kwargs)

    monkeypatch.setattr(xarray.Dataset, "to_netcdf", recorded)
    assert cli.main(["experiment", "quick", "--out", str(tmp_path)]) == 0
    assert len(targets) == 1 and isinstance(targets[0], io.BytesIO)


def test_releases_of_xarray_that_write_to_paths_only(monkeypatch, tmp_path):
    to_netcdf = xarray.Dataset.to_netcdf

    def old(self, path=None, *args, **kwargs):
        if not isinstance(path, str | os.PathLike):
            raise ValueError("can only write to file-like objects with scipy")
        return to_netcdf(self, path, *args, **kwargs)

    monkeypatch.setattr(xarray.Dataset, "to_netcdf", old)
    content = _output.netcdf_of(xarray.Dataset({"a": ("x", np.arange(3.0))}))
    (tmp_path / "a.nc").write_bytes(content)
    with xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as results:
        np.testing.assert_array_equal(results["a"], [0, 1, 2])


@pytest.mark.parametrize("part", ["one", "two", "results.nc", "quick.png"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupted_at_any_file(quick, tmp_path, capsys, monkeypatch, part, when):
    replace = os.replace

    def interrupted(source, target):
        if part in str(target):
            if when == "after":
                replace(source, target)
            raise KeyboardInterrupt
        replace(source, target)

    arguments = ["experiment", "quick", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        assert cli.main(arguments) == 130
    one_line(capsys, "stopped")
    assert files(tmp_path) <= DONE
    assert cli.main(arguments) == 0
    assert files(tmp_path) == DONE
    # Nothing that was finished is computed again.
    assert quick == ["one", "two"] if when == "after" or "." in part else len(quick) == 3


def test_interrupted_inside_a_compiled_program(monkeypatch, capsys):
    def run(_arguments):
        raise jax.errors.JaxRuntimeError(
            "INTERNAL: CpuCallback error: KeyboardInterrupt: \nAt: ..."
        )

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main([]) == 130
    one_line(capsys, "stopped")


def test_interrupt_that_a_callback_swallows(monkeypatch, capsys):
    """As if Ctrl-C came while the garbage collector calls JAX."""

    def interrupted(_phase, _info):
        gc.callbacks.remove(interrupted)
        raise KeyboardInterrupt

    def run(_arguments):
        gc.callbacks.append(interrupted)
        gc.collect()
        for _ in range(200):
            time.sleep(0.05)
        return 0

    monkeypatch.setattr(cli, "_run", run)
    before = sys.unraisablehook
    # A process in the background is started with the signal ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert cli.main([]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    one_line(capsys, "stopped")
    assert sys.unraisablehook is before


def test_interrupted_process_ends_with_its_status():
    code = """
import sys
from smoothjax import cli
def run(_):
    raise KeyboardInterrupt
cli._run = run
import atexit; atexit.register(lambda: print("Python was taken down"))
sys.exit(cli.main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=pathlib.Path(sj.__file__).parents[1],
    )
    assert done.returncode == 130 and done.stdout == ""
    assert done.stderr == "smoothjax: stopped; the same command goes on from here.\n"


@pytest.mark.parametrize("when", ["import", "run"])
def test_interrupted_at_any_time_from_the_first_import_on(tmp_path, when):
    """While JAX is imported, and once it is, when Ctrl-C raises again."""
    interrupt = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(20)"
    if when == "import":
        # As packages do that try what is installed.
        (tmp_path / "jax.py").write_text(f"try:\n    {interrupt}\nexcept BaseException: pass\n")
    code = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["/usr/bin/smoothjax"]
from smoothjax import cli
def run(_):
    try:
        {interrupt}
    except KeyboardInterrupt:
        print("saved", flush=True)
        raise
cli._run = run
sys.exit(cli.main())
"""
    package = str(pathlib.Path(sj.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), package])},
        cwd=tmp_path,
    )
    assert done.returncode == 130 and done.stdout == ("" if when == "import" else "saved\n")
    assert done.stderr == "smoothjax: stopped; the same command goes on from here.\n"


def test_damaged_parts_are_computed_again(quick, tmp_path):
    arguments = ["experiment", "quick", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    path = tmp_path / "parts" / "one.npz"
    whole = path.read_bytes()
    at = whole.index(b"PK\x01\x02") + 10
    unknown_method = whole[:at] + b"\x4d\0" + whole[at + 2 :]
    for damaged in (b"", whole[:50], whole.replace(b"NUMPY", b"LUMPY"), unknown_method):
        path.write_bytes(damaged)
        quick.clear()
        assert cli.main(arguments) == 0
        assert quick == ["one"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminals_without_the_characters(quick, tmp_path, monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["experiment", "quick", "--out", str(tmp_path)]) == 0
    stream.flush()
    said = stream.buffer.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert b"caf?" in said if encoding == "ascii" else b"caf\xe9" in said


# --- one process at a time -------------------------------------------------------------------

HOLDER = """
import pathlib, sys
from smoothjax._files.output import held
with held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(sj.__file__).parents[1],
    )
    with process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_second_process_is_refused(quick, tmp_path, capsys):
    arguments = ["experiment", "quick", "--out", str(tmp_path)]
    with holder(tmp_path) as process:
        assert (tmp_path / ".lock").read_text().split() == [socket.gethostname(), str(process.pid)]
        assert cli.main(arguments) == 2
        one_line(capsys, "is in use by process", str(process.pid), socket.gethostname())
        assert not quick
    # Killed: its lock is there, and holds nobody.
    assert (tmp_path / ".lock").exists()
    assert cli.main(arguments) == 0
    assert files(tmp_path) == DONE


def test_lock_of_another_computer(quick, tmp_path, capsys):
    (tmp_path / ".lock").write_text("elsewhere 17\n")
    assert cli.main(["experiment", "quick", "--out", str(tmp_path)]) == 2
    one_line(capsys, "process 17 on elsewhere", "if that has ended, delete")
    assert files(tmp_path) == {".lock"}
    # A file that was cut short, by a full disk, says nothing.
    (tmp_path / ".lock").write_text("")
    assert cli.main(["experiment", "quick", "--out", str(tmp_path)]) == 0


def test_where_files_cannot_be_locked(quick, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_output, "_lock", lambda _: None)
    arguments = ["experiment", "quick", "--out", str(tmp_path)]
    with holder(tmp_path) as process:
        assert cli.main(arguments) == 2
        one_line(capsys, f"in use by process {process.pid}")
    assert cli.main(arguments) == 0
    (tmp_path / ".lock").write_text(f"{socket.gethostname()} {os.getpid()}\n")
    assert cli.main(arguments) == 0


def test_folder_is_let_go_and_leaves_no_trace(tmp_path, capsys):
    with pytest.raises(ValueError, match="hello"), _output.held(tmp_path / "new"):
        raise ValueError("hello")
    assert not (tmp_path / "new").exists()
    with _output.held(tmp_path), pytest.raises(ValueError, match="in use"), _output.held(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


def test_report_refuses_what_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be a folder"):
        report.save(object.__new__(sj.Comparison), tmp_path / "file")
