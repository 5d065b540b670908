"""Networks, their losses and training: against closed forms, and the strengths of smoothing that theory predicts."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import cli, experiments, learning, smoothing

POINTS = np.array([-1.0, 1.0])


def test_predictions(x64):
    u, sigma = jnp.array([0.3, -0.2]), jnp.asarray(0.5)
    output = lambda x: jnp.array([x[0] * x[-1], 2.0])  # noqa: E731
    told = np.array([0.3 * np.log(0.5), 2.0])
    expected = {
        "eps": np.asarray(u) - 0.5 * told,
        "score": np.asarray(u) + 0.25 * told,
        "x0": told,
        "v": np.asarray(u) / 1.25 - 0.5 / np.sqrt(1.25) * told,
        "velocity": (np.asarray(u) - 0.5 * told) / 1.5,
    }
    for name, value in expected.items():
        D = learning.NetworkDenoiser(output, 2, prediction=name)
        np.testing.assert_allclose(D(u, sigma), value, rtol=1e-12)
        np.testing.assert_allclose(D.loss_weight(sigma), 4)
    unweighted = learning.NetworkDenoiser(output, 2, prediction="sample", weighted=False)
    assert float(unweighted.loss_weight(sigma)) == 1 and unweighted.prediction == "x0"
    blind = learning.NetworkDenoiser(lambda x: x, 2, conditioned=False)
    np.testing.assert_allclose(sj.score(blind, u, 0.5), -u / 0.5, rtol=1e-12)


def test_network_and_penalty_written_out(x64):
    network = learning.ReLUNetwork(2, 1, 5, 3, key=jax.random.key(0))
    x = np.array([0.4, -1.0])
    value = x
    for i, layer in enumerate(network.layers):
        value = np.asarray(layer.weight) @ value + np.asarray(layer.bias)
        value = np.maximum(value, 0) if i < 2 else value
    np.testing.assert_allclose(network(jnp.asarray(x)), value, rtol=1e-6)
    squares = sum(np.sum(np.asarray(layer.weight, np.float64) ** 2) for layer in network.layers)
    np.testing.assert_allclose(learning.weight_penalty(network), squares / 2, rtol=1e-6)


def test_denoising_loss_is_its_expectation(x64):
    # D = a u for points of mean square m: E |D - x_0|^2 = ((a - 1)^2 m + a^2 d sigma^2).
    data = np.random.default_rng(0).standard_normal((7, 3))
    mean_square = np.mean(np.sum(data**2, axis=1))
    sigma, a = 0.6, 0.7
    model = learning.NetworkDenoiser(lambda x: a * x, 3, prediction="x0", conditioned=False)

    def losses(target):
        one = lambda key: learning.denoising_loss(  # noqa: E731
            model, data, key, batch_size=256, sigma_min=sigma, sigma_max=sigma, target=target
        )
        return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 200)))

    noisy, exact = losses("denoising"), losses("exact")
    expected = ((a - 1) ** 2 * mean_square + a**2 * 3 * sigma**2) / sigma**2
    assert abs(noisy.mean() - expected) < 4 * noisy.std() / np.sqrt(200)
    # The two differ by the least possible error, whatever the model; its value from the same law by Monte Carlo.
    D = sj.EmpiricalDenoiser(data)
    rng = np.random.default_rng(1)
    u = data[rng.integers(7, size=20000)] + sigma * rng.standard_normal((20000, 3))
    variance = jax.vmap(lambda u: D.posterior_variance(u, sigma))(jnp.asarray(u)) / sigma**2
    error = np.sqrt(np.var(variance) / 20000 + (noisy.var() + exact.var()) / 200)
    assert abs(noisy.mean() - exact.mean() - np.mean(variance)) < 4 * error


def test_line_regression_loss_is_the_smoothing_loss(x64):
    kappa, sigma = 0.8, 0.15
    D = sj.PiecewiseLinearDenoiser(POINTS, kappa)
    model = learning.NetworkDenoiser(lambda u: (u - D(u, sigma)) / sigma, 1, conditioned=False)
    got = learning.line_regression_loss(model, POINTS, sigma, num_nodes=4001)
    # The trapezoid rule's error at the bends: a step of 12/4000 noise levels, squared.
    np.testing.assert_allclose(got, smoothing.smoothing_loss(POINTS, kappa, sigma), rtol=1e-5)
    u = jnp.linspace(-1.5, 1.5, 11)
    np.testing.assert_allclose(
        learning._losses.exact_on_line(jnp.asarray(POINTS), jnp.asarray(sigma), u),
        np.tanh(np.asarray(u) / sigma**2),
        atol=1e-12,
    )


def test_training_finds_a_minimum(x64):
    # A quadratic: Adam with a cosine schedule ends at its minimum, and records the loss at the steps it says.
    run = learning.train(
        lambda model, key: jnp.sum((model - jnp.arange(3.0)) ** 2) + 1.0,
        jnp.full(3, 5.0),
        jax.random.key(0),
        num_steps=2003,
        learning_rate=0.05,
        num_records=10,
    )
    np.testing.assert_allclose(run.model, np.arange(3.0), atol=1e-4)
    assert run.losses.shape == (10,)
    np.testing.assert_allclose(run.losses[-1], 1.0, atol=1e-6)
    with pytest.raises(ValueError, match="`num_steps` must be a positive integer"):
        learning.train(lambda m, k: m, 0.0, jax.random.key(0), num_steps=0)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_networks_smooth_as_predicted():
    penalties, sigma = np.array([3e-4, 1e-3, 3e-3, 1e-2, 2e-2]), 0.02**0.5
    points = jnp.asarray(POINTS, jnp.float32)
    run = learning.train_on_line(
        points,
        jnp.float32(sigma),
        jnp.asarray(penalties, jnp.float32),
        jax.random.key(0),
        num_seeds=8,
    )
    measure = eqx.filter_vmap(
        eqx.filter_vmap(
            lambda m: smoothing.effective_kappa(m.denoise, points, jnp.float32(sigma))[0]
        )
    )
    kappa = np.asarray(measure(run.model))
    predicted = np.array([smoothing.kappa_for_penalty(points, float(p))[0] for p in penalties])
    ratio = kappa / predicted[:, None]
    # G(kappa) = lambda holds for lambda << sigma, up to 4 %, and less well for the largest.
    assert np.all(np.abs(ratio[1:4] - 1) < 0.05), ratio
    # The same convex problem, whatever the seed.
    assert np.all(kappa.std(axis=1) < 0.01 * kappa.mean(axis=1))
    # Half the squared weights is the sum of |a_i w_i| over the neurons, and half the squares of |a_i| - |w_i|, which vanish
    # at the optimum. The sum is the non-smoothness of what the network computes, sigma * score, if no two kinks cancel.
    grid = jnp.linspace(-2, 2, 4001, dtype=jnp.float32)
    model = jax.tree.map(lambda x: x[2, 0] if eqx.is_array(x) else x, run.model)
    R = sigma * smoothing.non_smoothness(model.denoise, grid, jnp.float32(sigma))
    first, second = (np.asarray(layer.weight, np.float64).ravel() for layer in model.network.layers)
    imbalance = 0.5 * np.sum((np.abs(first) - np.abs(second)) ** 2)
    penalty = np.asarray(learning.weight_penalty(model), np.float64)
    # A slope is a sum of 256 float32 numbers, with a rounding of 16 eps R, and changes in some 60 cells of the grid.
    np.testing.assert_allclose(penalty - imbalance, R, rtol=60 * 16 * 1.2e-7)
    # What training leaves: the steps shrink to nothing before the last of it.
    assert imbalance < 1e-3 * R


@pytest.mark.exhaustive
def test_experiments(tmp_path, capsys):
    pytest.importorskip("xarray")
    first = experiments.two_points(out=str(tmp_path / "a"))
    again = experiments.two_points(out=str(tmp_path / "a"))
    assert first.identical(again)
    np.testing.assert_allclose(first.interpolated_mass.sel(kappa=0.5), 0.3085375, rtol=1e-5)
    # KL values at variance 0.02, computed to 40 digits.
    np.testing.assert_allclose(
        first.divergence_from_uniform[1:], [7.5588572, 7.9916673, 8.7843359], rtol=1e-5
    )
    ends = np.asarray(first.trajectory.sel(kappa=np.inf).isel(sigma=-1))
    np.testing.assert_array_equal(ends, np.sign(first.start))
    small = experiments.penalty_sweep(
        penalties=(1e-3, 1e-2),
        variances=(0.02,),
        num_seeds=2,
        width=16,
        num_steps=20,
        progress=False,
    )
    assert dict(small.sizes) == {"sigma": 1, "penalty": 2, "seed": 2}
    np.testing.assert_allclose(small.predicted, [2.7178, 1.9384], rtol=1e-4)
    assert cli.main(["experiment", "two-points", "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / "two-points.png").read_bytes().startswith(b"\x89PNG")
    assert "two-points" in capsys.readouterr().out
    assert cli.main(["experiment", "nonsense", "--out", str(tmp_path / "c")]) == 2
    said = capsys.readouterr().err
    assert "there are: " in said and "two-points" in said and "penalty-sweep" in said


def test_bad_input():
    model = learning.NetworkDenoiser.relu(1, 4, key=jax.random.key(0))
    draw = {"batch_size": 4, "sigma_min": 0.1, "sigma_max": 1.0}
    data, key = jnp.zeros((3, 1)), jax.random.key(1)
    for change, message in (
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"sigma_min": 2.0}, "must not exceed `sigma_max`; got 2.0 and 1.0"),
        ({"target": "x"}, "must be 'denoising' or 'exact'; got 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            learning.denoising_loss(model, data, key, **{**draw, **change})
    with pytest.raises(ValueError, match="dimension 1, the model's; got 2"):
        learning.denoising_loss(model, jnp.zeros((3, 2)), key, **draw)
    with pytest.raises(ValueError, match="`num_nodes` must be at least 2; got 1"):
        learning.line_regression_loss(model, jnp.array([0.0, 1.0]), 0.1, num_nodes=1)
    with pytest.raises(ValueError, match=r"shape \(penalties,\); got \(\)"):
        learning.train_on_line(jnp.array([0.0, 1.0]), 0.1, jnp.asarray(0.1), key, num_seeds=1)
    with pytest.raises(ValueError, match="at least 2; got 1"):
        learning.ReLUNetwork(1, 1, 4, 1, key=jax.random.key(0))
    with pytest.raises(ValueError, match="must be one of"):
        learning.NetworkDenoiser(lambda x: x, 1, prediction="flow")  # pyright: ignore


@pytest.mark.parametrize("points", [[[0.7, -0.3]] * 4, [[0.7, -0.3]]])
def test_equal_points_and_one_point_are_learned(points):
    """The posterior mean is that point, whatever is seen."""
    sizes, key = learning.MLPArchitecture(width=16, num_layers=3), jax.random.key(0)
    run = learning.train_denoiser(jnp.asarray(points), sizes, key, num_steps=1500)
    point, (near, far) = jnp.asarray(points[0]), jax.random.normal(key, (2, 2))
    for sigma, noise in ((0.2, near), (0.7, far)):
        np.testing.assert_allclose(run.model(point + sigma * noise, sigma), point, atol=0.1)


def test_points_that_are_all_zero_have_no_scale():
    sizes, key, zeros = learning.MLPArchitecture(4, 2), jax.random.key(0), jnp.zeros((4, 2))
    with pytest.raises(ValueError, match=r"`data` must not be all zeros.*Give `sigma_data`"):
        learning.train_denoiser(zeros, sizes, key, num_steps=2)
    run = learning.train_denoiser(zeros, sizes, key, num_steps=2, sigma_data=0.5)
    # The network starts at zero: D = c_skip u, with 0.25 / (1 + 0.25) at noise level one.
    np.testing.assert_allclose(run.model(jnp.ones(2), 1.0), 0.2, atol=0.05)


@pytest.mark.parametrize("points", [[0.7], [0.7, 0.7, 0.7]])
def test_equal_points_on_a_line_are_one(points):
    sizes = {"num_seeds": 1, "width": 8, "num_steps": 1000, "learning_rate": 0.02}
    run = learning.train_on_line(jnp.asarray(points), 0.5, jnp.zeros(1), jax.random.key(0), **sizes)
    model = jax.tree.map(lambda x: x[0, 0] if eqx.is_array(x) else x, run.model)
    u = jnp.array([0.3, 0.7, 1.1])
    found = jax.vmap(lambda u: model(u[None], 0.5))(u)[:, 0]
    np.testing.assert_allclose(found, 0.7, atol=0.05)


def test_weight_penalty_has_the_dtype_of_the_weights(dtype):
    """Whatever JAX's default is: nothing is left to its promotion."""
    arrays = {"a": np.full((2, 3), 2.0, np.float32), "b": np.full((1, 4), 0.5, dtype)}
    found = learning.weight_penalty(jax.tree.map(jnp.asarray, arrays))
    assert found.dtype == np.promote_types(np.float32, dtype) and float(found) == 12.5
    single = learning.weight_penalty([jnp.ones((2, 2), jnp.float32), jnp.ones(3, jnp.float32)])
    assert single.dtype == jnp.float32 and float(single) == 2.0
