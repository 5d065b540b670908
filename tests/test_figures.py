"""What all figures share."""

import itertools

import pytest

from smoothjax._figure import new_figure, plain_ticks

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
