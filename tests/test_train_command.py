"""`smoothjax train`: what it leaves in its folder, what it refuses before it trains, and its picture of samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import learning

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("tqdm")

import tyro

from smoothjax._commands.train import Train, plot_grid

# Compiles for minutes in all: not a second time in the suite at default precision.
pytestmark = pytest.mark.slow


@pytest.mark.exhaustive
def test_train_command(tmp_path, capsys):
    small = {"num_train": 60, "steps": 12, "num_samples": 20, "sampler_steps": 3}
    mlp = Train("digits", out=tmp_path / "mlp", width=16, num_layers=2, **small)
    line = "digits --num-train 60 --steps 12 --num-samples 20 --sampler-steps 3 --width 16 --num-layers 2"
    assert tyro.cli(Train, args=[*line.split(), "--out", str(tmp_path / "mlp")]) == mlp
    convolutional = Train(
        "digits", tmp_path / "conv", network="convolutional", width=2, padding="circular", **small
    )
    for command in (mlp, convolutional):
        assert command.run() == 0
        printed = capsys.readouterr().out
        assert "60 training points of 'digits', 12 steps of batch 64" in printed
        assert "Memorised: 0.00" in printed and "null 0.00" in printed
        for name in ("loss.png", "samples.png"):
            assert (command.out / name).read_bytes().startswith(b"\x89PNG")
        run = learning.load_denoiser(command.out)
        stored = np.load(command.out / "samples.npz")
        np.testing.assert_array_equal(stored["losses"], run.losses)
        assert stored["samples"].shape == (20, 64) and stored["samples"].dtype == np.float32
    assert isinstance(run.model.network, learning.ConvolutionalNetwork)
    assert run.model.network.padding == "circular" and run.model.network.receptive_field == 13
    # The samples are those of the stored denoiser, from where training still reached: e^3.
    again = sj.sample(
        run.model,
        jax.random.split(jax.random.key(0))[1],
        20,
        sigma_max=float(np.exp(-0.6 + 2.25 * 1.6)),
        steps=3,
        dtype=jnp.float32,
    )
    # The precision of the process may differ, and with it the compiled program.
    np.testing.assert_allclose(again, stored["samples"], atol=1e-4)
    with pytest.raises(ValueError, match="for convolutions; got 'circular' for an MLP"):
        Train("digits", tmp_path / "mlp", padding="circular").run()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` must be a positive integer; got 0"),
        ({"num_samples": 0}, "`num_samples` must be a positive integer; got 0"),
        ({"sampler_steps": 1}, "`sampler_steps` must be at least 2; got 1"),
        ({"sigma_min": -1.0}, "`sigma_min` must be positive"),
        ({"sigma_max": 0.0}, "`sigma_max` must be positive"),
        ({"sigma_min": 3.0, "sigma_max": 2.0}, "`sigma_min` must lie below `sigma_max`; got 3.0"),
        ({"width": 0}, "`width` must be a positive integer; got 0"),
        ({"width": 0, "network": "convolutional"}, "`width` must be a positive integer; got 0"),
        ({"num_layers": 0}, "`num_layers` must be a positive integer; got 0"),
    ],
)
def test_train_command_refuses_before_it_trains(options, message, tmp_path):
    # As many steps as would take minutes.
    command = Train("digits", tmp_path / "a", **{"steps": 10**6, **options})
    with pytest.raises(ValueError, match=message):
        command.run()
    assert not (tmp_path / "a").exists()


def test_train_command_keeps_other_results(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a comparison or an experiment"):
        Train("digits", tmp_path, steps=1).run()
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_picture_of_samples_and_neighbours():
    points = np.stack([np.full(4, -1.0), np.array([1.0, -1, -1, 1]), np.full(4, 1.0)])
    train = sj.datasets.Dataset("three", points, image_shape=(2, 2, 1))
    samples = points[[2, 1, 0, 1]] * 0.8
    image = plot_grid(samples, train).axes[0].images[0].get_array()
    assert image is not None
    # Columns of two pixels and a white line: samples over their neighbours, values scaled from [-1, 1] to [0, 1].
    tiles = np.asarray(image)[:6].reshape(2, 3, 4, 3)[:, :2, :, :2].transpose(0, 2, 1, 3)
    np.testing.assert_allclose(tiles[0].reshape(4, 4), (samples + 1) / 2, atol=1e-6)
    np.testing.assert_allclose(tiles[1].reshape(4, 4), (points[[2, 1, 0, 1]] + 1) / 2, atol=1e-6)
    # No white band under the last of few rows.
    wide = plot_grid(np.tile(samples, (4, 1)), train)
    wide.draw_without_rendering()
    assert wide.axes[0].get_window_extent().y0 < 0.1 * wide.dpi
    assert wide.axes[0].images[0].get_array().shape[0] == 6
