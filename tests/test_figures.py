"""What all figures share."""

import itertools

import pytest

from smoothjax._figure import new_figure, plain, plain_signed_ticks, plain_ticks

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("span", [(0.02, 0.15), (0.05, 8.0), (1e-4, 90.0), (0.11, 0.13)])
def test_noise_levels_are_labelled_legibly(span):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure, axes = new_figure(1, 1, (2.7, 2.2))
    ax = axes[0, 0]
    ax.plot(span, span)
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        plain_ticks(axis)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    labels = [label for label in ax.get_xticklabels(which="both") if label.get_text()]
    # Numbers, in order, and the room of one is not that of the next.
    assert 2 <= len(labels) <= 5
    values = [float(label.get_text()) for label in labels]
    assert values == sorted(values) and span[0] / 1.5 < values[0] and values[-1] < span[1] * 1.5
    boxes = [label.get_window_extent(renderer) for label in labels]
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def test_notebooks_show_a_figure_without_pyplot():
    formatters = pytest.importorskip("IPython.core.formatters")
    figure, _ = new_figure(1, 1, (2, 1))
    shown, _ = formatters.DisplayFormatter().format(figure)
    width, height = (int.from_bytes(shown["image/png"][k : k + 4], "big") for k in (16, 20))
    assert width > height > 50  # of the header of a PNG


def test_show_writes_the_pixels_of_the_figure_and_closes_it(tmp_path, monkeypatch, capsys):
    from matplotlib import pyplot

    from smoothjax import plots

    monkeypatch.chdir(tmp_path)
    for figure in (new_figure(1, 1, (2, 1))[0], pyplot.figure(figsize=(2, 1))):
        plots.show(figure, "a figure", dpi=50)
        header = (tmp_path / "a figure.png").read_bytes()[16:24]
        assert (int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")) == (100, 50)
    assert capsys.readouterr().out == 2 * "a figure.png\n" and not pyplot.get_fignums()


def test_show_is_a_picture_in_a_kernel(tmp_path, monkeypatch):
    display = pytest.importorskip("IPython.display")
    from types import SimpleNamespace

    from smoothjax import plots

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=None))
    shown = []
    monkeypatch.setattr(display, "display", shown.append)
    plots.show(new_figure(1, 1, (2, 1))[0], "a figure")
    (picture,) = shown
    assert picture.data.startswith(b"\x89PNG") and not list(tmp_path.iterdir())


def test_show_refuses_what_is_no_figure_and_no_name():
    from smoothjax import plots

    with pytest.raises(ValueError, match="`figure` must be a figure of matplotlib"):
        plots.show([], "name")
    for name in ("", "a/b", "a\\b"):
        with pytest.raises(ValueError, match="`name` must be a name of a file"):
            plots.show(new_figure(1, 1, (2, 1))[0], name)


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((-0.8, 0.4), {"-0.5", "0"}),  # linear: where 10^0 would be the only tick
        ((-300.0, 40.0), {"-100", "-10", "-1", "0", "1", "10"}),
        ((-1e7, 3.0), {"-1000000", "0"}),
    ],
)
def test_signed_axes_have_numbers_as_ticks(span, expected):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure, axes = new_figure(1, 1, (4, 2))
    ax = axes[0, 0]
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xlim(*span)
    plain_signed_ticks(ax.xaxis)
    figure.draw(FigureCanvasAgg(figure).get_renderer())
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert expected <= set(labels) and 3 <= len(labels) <= 7
    assert [float(label) for label in labels] == sorted(float(label) for label in labels)


def test_numbers_of_ticks_are_read_at_once():
    assert [plain(x) for x in (1000.0, 0.05, 1.0, 123456.0, 0.3)] == [
        *("1000", "0.05", "1", "123000", "0.3")
    ]


def test_figures_are_written_in_the_kinds_asked_for(tmp_path):
    from smoothjax import cli

    arguments = ["experiment", "target-noise", "--sets", "line", "--times", "0.5"]
    arguments += ["--num-nodes", "3", "--out", str(tmp_path), "--figures", "pdf", "svg"]
    assert cli.main(arguments) == 0
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    for kind, start in starts.items():
        assert (tmp_path / f"target-noise.{kind}").read_bytes().startswith(start)
