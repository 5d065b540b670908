"""Functions on the host: what is refused when a denoiser is built, what is raised when it runs, and what is counted."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import interop
from smoothjax.interop import DDPMSchedule, HostFunction, PredictionDenoiser, as_network, from_numpy


def shrink(x, t):
    """The denoiser of N(0, 1)."""
    return x / (1 + t[:, None] ** 2)


def shrink_jvp(x, t, dx, dt):
    gain = 1 / (1 + t[:, None] ** 2)
    return gain * dx - 2 * t[:, None] * gain**2 * x * dt[:, None]


class Failing:
    """`shrink`, until it is told to raise."""

    error: BaseException | None = None

    def __call__(self, x, t):
        if self.error is not None:
            raise self.error
        return shrink(x, t)


def one_line(call):
    """The text of the `ValueError` that a call raises."""
    with pytest.raises(ValueError) as caught:
        call()
    text = str(caught.value)
    assert len(text.splitlines()) == 1 and len(text) < 600
    return text


def test_only_denoised_points_need_no_process():
    for prediction in ("eps", "score", "v", "velocity", "epsilon", "v_prediction"):
        for build in (
            lambda p: PredictionDenoiser(lambda x, t: x, 2, prediction=p),
            lambda p: from_numpy(shrink, 2, prediction=p),
            lambda p: as_network(shrink, p),
        ):
            text = one_line(lambda build=build, p=prediction: build(p))
            assert "`process` is needed for the prediction" in text and "got None" in text
    u = jnp.array([3.0, 1.0])
    for prediction in ("x0", "sample"):
        D = from_numpy(shrink, 2, prediction=prediction)
        np.testing.assert_allclose(D(u, 2.0), u / 5, rtol=1e-6)
        network = as_network(lambda u, sigma: u / (1 + sigma**2), prediction)
        np.testing.assert_allclose(network(u, 2.0), u / 5, rtol=1e-6)


def test_wrong_functions_are_refused_when_built():
    wrong = {
        "got None": lambda x, t: None,
        "got shape (2,)": lambda x, t: x[:, 0],
        "got shape (2, 2) in complex": lambda x, t: x + 1j,
        "got shape (2, 2) in <U": lambda x, t: x.astype(str),
        "got shape (1, 2)": lambda x, t: x[:1],
        "IndexError (index 7": lambda x, t: x[:, 7],
        "takes 1 positional argument": lambda x: x,
    }
    for message, function in wrong.items():
        assert message in one_line(lambda f=function: from_numpy(f, 2))
    text = one_line(lambda: PredictionDenoiser(lambda x, t: x.astype(complex), 2)(jnp.ones(2), 1.0))
    assert "real numbers" in text
    complex_denoiser = lambda u, sigma: u.astype(complex)  # noqa: E731
    text = one_line(lambda: sj.flow(complex_denoiser, jnp.ones(2), 2.0, 1.0, steps=2))
    assert "must be real; got dtype complex" in text


def test_dtypes_that_numpy_does_not_know_are_taken():
    D = from_numpy(lambda x, t: shrink(x, t).astype(jnp.bfloat16), 2)
    np.testing.assert_allclose(D(jnp.array([4.0, 1.0]), 1.0), [2.0, 0.5])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), RuntimeError("bad net")])
def test_what_a_network_raises_stays_what_it_is(error):
    function = Failing()
    D, u = from_numpy(function, 2, jvp=shrink_jvp), jnp.ones(2)
    prior = sj.GaussianDenoiser(jnp.zeros(2), jnp.eye(2))
    calls = {
        "call": lambda: D(u, 1.0),
        "vmap": lambda: jax.vmap(D, (0, None))(jnp.ones((3, 2)), 1.0),
        "sample": lambda: sj.sample(D, jax.random.key(0), 2, steps=3),
        "sample of a callable": lambda: sj.sample(
            lambda u, s: D(u, s), jax.random.key(0), 2, steps=3, shape_or_dim=2
        ),
        "flow": lambda: sj.flow(D, u, 2.0, 1.0, steps=2),
        "sde": lambda: sj.reverse_sde(D, jax.random.key(0), u, 2.0, 1.0, steps=2),
        "likelihood": lambda: sj.log_likelihood(D, u, sigma_min=1.0, sigma_max=2.0, prior=prior),
        "covariance": lambda: sj.posterior_covariance(D, u, 1.0),
        "rmse": lambda: sj.denoiser_rmse(D, prior, jnp.ones((3, 2)), 1.0, jax.random.key(0)),
    }
    # Half of them for each: they are compiled anew.
    first = ("call", "vmap", "sample", "likelihood")
    names = set(calls) - {*first[1:]} if isinstance(error, RuntimeError) else first
    for call in [calls[name] for name in (first[:1] if isinstance(error, SystemExit) else names)]:
        function.error = error
        with pytest.raises(type(error)) as caught:
            call()
        assert caught.value is error
        (note, *_) = error.__notes__
        assert note.startswith("In call ") and ", 2) float" in note
        error.__notes__.clear()
        # Nothing is left behind for the next call.
        function.error = None
        jax.block_until_ready(call())


def test_errors_in_the_users_own_jit_end_with_one_line(caplog):
    function = Failing()
    D = jax.jit(from_numpy(function, 2))
    D(jnp.ones(2), 1.0)
    function.error = RuntimeError("bad\nnet")
    # A `JaxRuntimeError`, or a `ValueError` with the same text where JAX dispatches a compiled function by itself.
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError)) as caught:
        jax.block_until_ready(D(jnp.ones(2), 1.0))
    last = str(caught.value).strip().splitlines()[-1]
    assert "RuntimeError: bad net In call 3 of the network on the host, with x (1, 2) float" in last
    assert not caplog.records  # JAX does not log the stack as well
    # An exception of something else is not taken for it.
    with pytest.raises(ValueError, match="`u` must have shape"):
        from_numpy(shrink, 2)(jnp.ones(3), 1.0)


def test_known_arguments_inside_jit_are_no_constants():
    factor = [1.0]
    host = HostFunction(lambda x, t: factor[0] * x)
    x, t = jnp.ones(2), jnp.asarray(1.0)
    compiled = jax.jit(lambda: host(x, t))
    for value in (1.0, 5.0):
        factor[0] = value
        np.testing.assert_array_equal(compiled(), [value, value])


def test_calls_are_counted():
    D = from_numpy(shrink, 2, jvp=shrink_jvp)
    host = D.network
    assert host.calls == (1, 2, 0, 0)  # the trial
    jax.vmap(D, (0, None))(jnp.ones((5, 2)), 1.0)
    assert host.calls == (2, 7, 0, 0)
    host.reset_calls()
    copy = jax.tree.map(lambda x: x, D)
    jax.jit(copy)(jnp.ones(2), 1.0).block_until_ready()
    assert host.calls == (1, 1, 0, 0) == copy.network.calls
    jax.jacfwd(D)(jnp.ones(2), 1.0)
    # Tested with four moved pairs, and two columns at a point.
    assert host.calls.derivative_batches == 2 and host.calls.derivative_rows == 2 + 2
    before = host.calls
    jax.jacfwd(D)(jnp.ones(2), 1.0)
    assert host.calls.derivative_batches == before.derivative_batches + 1  # tested once


def test_wrong_derivatives_are_refused_and_values_served():
    zero = lambda x, t, dx, dt: 0 * dx  # noqa: E731
    no_time = lambda x, t, dx, dt: shrink_jvp(x, t, dx, 0 * dt)  # noqa: E731
    u = jnp.array([1.0, 2.0])
    D = from_numpy(shrink, 2, jvp=zero)
    for _ in range(2):
        text = one_line(lambda: jax.jacfwd(D)(u, 1.0))
        assert "by x is not that of its values" in text
    np.testing.assert_allclose(D(u, 1.0), u / 2)
    D = from_numpy(shrink, 2, jvp=no_time)
    np.testing.assert_allclose(jax.jacfwd(D)(u, 1.0), np.eye(2) / 2, atol=1e-6)
    text = one_line(lambda: jax.jacfwd(D, argnums=1)(u, 1.0))
    assert "by t is not that of its values" in text
    # Right ones pass, of steep, kinked, large and constant functions too.
    functions = {
        "steep": (
            lambda x, t: np.tanh(30 * x),
            lambda x, t, dx, dt: 30 * dx * (1 - np.tanh(30 * x) ** 2),
        ),
        "kinked": (lambda x, t: np.maximum(x, 0), lambda x, t, dx, dt: (x > 0) * dx),
        "large": (lambda x, t: 1e4 + x, lambda x, t, dx, dt: dx),
        "constant": (lambda x, t: np.ones_like(x), lambda x, t, dx, dt: 0 * dx),
    }
    for function, jvp in functions.values():
        jax.jacfwd(from_numpy(function, 2, jvp=jvp))(u, 1.0)


def test_nearest_indices_are_for_grids_without_a_derivative():
    eps = lambda x, t: x * 0.5  # noqa: E731
    nearest, between = (
        from_numpy(
            eps,
            1,
            prediction="epsilon",
            process=DDPMSchedule.linear(index=index),
            jvp=lambda x, t, dx, dt: dx * 0.5,
        )
        for index in ("nearest", "interpolated")
    )
    assert nearest.is_step_function_of_sigma and not between.is_step_function_of_sigma
    assert DDPMSchedule.linear().index == "interpolated" == DDPMSchedule([0.1, 0.2]).index
    u, key = jnp.ones(1), jax.random.key(0)
    prior = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
    switched = sj.SwitchedDenoiser(nearest, between, 1.0)
    for denoiser in (nearest, switched):
        for adaptive in (
            lambda D: sj.flow(D, u, 2.0, 1.0),
            lambda D: sj.sample(D, key, 2),
            lambda D: jax.jit(lambda u: sj.flow(D, u, 2.0, 1.0))(u),
        ):
            text = one_line(lambda f=adaptive, D=denoiser: f(D))
            assert "step function" in text and "index='interpolated'" in text
    text = one_line(lambda: sj.log_likelihood(nearest, u, prior=prior))
    assert "index='interpolated'" in text
    assert sj.sample(nearest, key, 2, steps=3).shape == (2, 1)
    text = one_line(lambda: jax.jacfwd(nearest, argnums=1)(u, 1.0))
    assert "no derivative by sigma" in text and "interpolated" in text
    # By the point it has one, along a flow too: D = (1 - sigma alpha / 2) u.
    slope = 1 - 0.5 / np.sqrt(2)
    np.testing.assert_allclose(jax.jacfwd(nearest)(u, 1.0), [[slope]], rtol=1e-6)
    follow = lambda u: sj.flow(nearest, u, 2.0, 1.0, steps=3, solver=sj.ExponentialMultistep())  # noqa: E731
    linear = float(follow(u)[0])
    np.testing.assert_allclose(jax.jacfwd(follow)(u), [[linear]], rtol=1e-5)
    # The interpolated index moves with sigma.
    by_index = from_numpy(
        lambda x, t: t[:, None] + 0 * x,
        1,
        process=DDPMSchedule.linear(),
        jvp=lambda x, t, dx, dt: dt[:, None] + 0 * dx,
    )
    sigma, h = 1.0, 1e-2
    schedule = DDPMSchedule.linear()
    slope = jax.grad(schedule.time)(sigma)
    np.testing.assert_allclose(jax.jacfwd(by_index, argnums=1)(u, sigma), [slope], rtol=1e-5)
    between_levels = (schedule.time(sigma + h) - schedule.time(sigma - h)) / (2 * h)
    # Pieces a hundredth wide in log sigma, of slopes that differ by a percent.
    np.testing.assert_allclose(slope, between_levels, rtol=0.02)


def test_adaptive_samples_through_interpolated_indices():
    """The exact noise of N(0, 1) at every index: adaptive samples are the noise they start from, in few calls."""
    schedule = DDPMSchedule.linear()
    levels = np.exp(np.asarray(schedule.log_levels, np.float64))

    def eps(x, t):
        level = np.exp(np.interp(t, np.arange(1000), np.log(levels)))[:, None]
        return x * level / np.sqrt(1 + level**2)

    D = from_numpy(eps, 2, prediction="eps", process=schedule)
    got = sj.sample(D, jax.random.key(0), 4, sigma_min=0.02, sigma_max=50.0)
    z = sj.initial_noise(jax.random.key(0), 4, 2)
    # u / sqrt(1 + sigma^2) stays; the last call divides by 1 + 0.02^2. Some tens of steps of 1e-5 each.
    want = np.asarray(z) * 50 / np.sqrt(1 + 50**2) / np.sqrt(1 + 0.02**2)
    np.testing.assert_allclose(got, want, atol=5e-3)
    assert D.network.calls.batches < 500


def test_zero_terminal_ratio():
    betas = [0.1, 0.3, 0.5, 1.0]
    levels = np.sqrt(1 / np.cumprod([0.9, 0.7, 0.5]) - 1)
    for index in ("nearest", "interpolated"):
        schedule = DDPMSchedule(betas, index)
        got = [float(schedule.noise_level(k)) for k in range(4)]
        np.testing.assert_allclose(got, [*levels, np.inf], rtol=1e-6)
        assert float(schedule.time(levels[1])) == pytest.approx(1, abs=1e-5)
        assert float(schedule.time(1e6)) == 2  # no finite level has the last index
        x, t = schedule.from_noise_coordinates(jnp.ones(1), 1e3)
        assert np.isfinite(x).all() and float(t) == 2


CONFIG = {"num_train_timesteps": 6, "beta_start": 0.01, "beta_end": 0.4}


def test_configurations_of_schedulers():
    linear = np.linspace(0.01, 0.4, 6)
    cosine = lambda s: np.cos((s / 6 + 0.008) / 1.008 * np.pi / 2) ** 2  # noqa: E731
    expected = {
        "linear": linear,
        "scaled_linear": np.linspace(0.1, 0.4**0.5, 6) ** 2,
        "squaredcos_cap_v2": [min(1 - cosine(k + 1) / cosine(k), 0.999) for k in range(6)],
    }
    for name, betas in expected.items():
        levels = np.sqrt(1 / np.cumprod(1 - np.asarray(betas)) - 1)
        for schedule in (
            DDPMSchedule({**CONFIG, "beta_schedule": name}),
            DDPMSchedule.from_diffusers({**CONFIG, "beta_schedule": name}, "nearest"),
            DDPMSchedule.from_diffusers({"trained_betas": list(betas)}),
        ):
            np.testing.assert_allclose(np.exp(schedule.log_levels), levels, rtol=1e-5)
    # The first level stays, the last becomes infinite.
    rescaled = DDPMSchedule({**CONFIG, "beta_schedule": "linear", "rescale_betas_zero_snr": True})
    assert np.isinf(rescaled.noise_level(5))
    np.testing.assert_allclose(rescaled.noise_level(0), np.sqrt(0.01 / 0.99), rtol=1e-5)
    alphas = np.sqrt(np.cumprod(1 - linear))
    second = (alphas[1] - alphas[5]) / (alphas[0] - alphas[5]) * alphas[0]
    np.testing.assert_allclose(rescaled.noise_level(1), np.sqrt(1 / second**2 - 1), rtol=1e-5)
    assert "got 'cubic'" in one_line(lambda: DDPMSchedule({**CONFIG, "beta_schedule": "cubic"}))
    assert "must have betas" in one_line(lambda: DDPMSchedule.from_diffusers({"shift": 3.0}))
    assert "must have betas" in one_line(lambda: DDPMSchedule.from_diffusers("scheduler.json"))


def test_predictions_by_the_names_of_diffusers():
    schedule, u = DDPMSchedule.linear(), jnp.array([2.0])
    level = 1.5
    # For N(0, 1): eps = sigma_t x_t, v = 0, x0 = alpha x_t.
    alpha, sigma = 1 / np.sqrt(1 + level**2), level / np.sqrt(1 + level**2)
    networks = {
        "epsilon": lambda x, t: sigma * x,
        "v_prediction": lambda x, t: 0 * x,
        "sample": lambda x, t: alpha * x,
    }
    for prediction, network in networks.items():
        D = from_numpy(network, 1, prediction=prediction, process=schedule)
        np.testing.assert_allclose(D(u, level), u / (1 + level**2), atol=1e-6)


def test_host_functions_are_pickled_with_their_functions():
    D = from_numpy(shrink, 2, jvp=shrink_jvp)
    again = pickle.loads(pickle.dumps(D))
    u = jnp.array([1.0, 3.0])
    np.testing.assert_array_equal(again(u, 1.0), D(u, 1.0))
    assert again.network.calls.batches == 1
    jax.jacfwd(again)(u, 1.0)


def test_other_denoisers_are_not_slowed_by_a_trial():
    """A network in JAX is not called when it is built."""
    called = []
    PredictionDenoiser(lambda x, t: called.append(1) or x, 2)
    HostFunction(lambda x, t: called.append(1) or x)
    assert not called
    assert "calls" in vars(interop.HostFunction)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, t: np.ma.masked_array(x, x > -9), "must return no masked numbers"),
        (lambda x, t: x > 0, r"real numbers of shape \(2, 2\).* in bool"),
    ],
    ids=["masked", "booleans"],
)
def test_results_that_are_no_numbers(function, message):
    with pytest.raises(ValueError, match=message):
        sj.interop.from_numpy(function, 2)
    # Masked nowhere, an array is one like others.
    D = sj.interop.from_numpy(lambda x, t: np.ma.masked_array(x / 2), 2)
    np.testing.assert_array_equal(D(jnp.ones(2), 1.0), 0.5 * np.ones(2))
