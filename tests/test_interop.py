"""Denoisers from NumPy and PyTorch, and in other parametrisations: against closed forms and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax.interop import (
    DDPMSchedule,
    HostFunction,
    PredictionDenoiser,
    as_network,
    from_numpy,
    from_torch,
)

POINTS = np.random.default_rng(0).standard_normal((5, 2))
PROCESSES = {
    "vp": sj.VariancePreserving(),
    "ve": sj.VarianceExploding(),
    "edm": sj.EDM(),
    "brownian": sj.Brownian(),
    "flow": sj.FlowMatching(),
    "ddpm": DDPMSchedule.linear(index="interpolated"),
}


def kinds(name):
    own = {"vp": ("v",), "ddpm": ("v",), "flow": ("velocity",)}
    return ("x0", "eps", "score", *own.get(name, ()))


def coefficients(name, t):
    """`alpha_t` and `sigma_t`, by the process's own formulas in t, or by the products of the betas."""
    if name != "ddpm":
        return np.asarray(PROCESSES[name].alpha(t)), np.asarray(PROCESSES[name].sigma(t))
    product = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000, dtype=np.longdouble))
    level = np.log(np.sqrt((1 - product) / product)).astype(np.float64)
    level = np.exp(np.interp(t, np.arange(1000), level))
    return 1 / np.sqrt(1 + level**2), level / np.sqrt(1 + level**2)


def posterior_mean(name, prediction, x, t):
    """The mean of what is predicted given `x_t`, over the posterior of the training points in the process's coordinates."""
    alpha, sigma = (c[:, None] for c in coefficients(name, t))
    z = (x[:, None] - alpha[..., None] * POINTS) / sigma[..., None]
    logits = -0.5 * np.sum(z**2, axis=-1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    quantity = {
        "x0": np.broadcast_to(POINTS, z.shape),
        "eps": z,
        "v": alpha[..., None] * z - sigma[..., None] * POINTS,
        "velocity": z - POINTS,
        "score": -z / sigma[..., None],
    }[prediction]
    return np.einsum("bn,bnd->bd", weights, quantity)


@pytest.mark.parametrize("name", PROCESSES)
def test_predictions_are_their_posterior_means(name, x64):
    exact, process = sj.EmpiricalDenoiser(POINTS), PROCESSES[name]
    rng = np.random.default_rng(1)
    sigma = jnp.array([0.05, 0.3, 0.9, 4.0])
    u = jnp.asarray(POINTS[:4] + np.asarray(sigma)[:, None] * rng.standard_normal((4, 2)))
    expected = jax.vmap(exact)(u, sigma)
    x, t = jax.vmap(process.from_noise_coordinates)(u, sigma)
    for prediction in kinds(name):
        truth = posterior_mean(name, prediction, np.asarray(x), np.asarray(t))
        # The logits of points with weight are below 100; sigma(t(sigma)) is good to some 10 eps, which 1 / sigma_t^2 < 400
        # multiplies for the score.
        network = as_network(exact, prediction, process)
        np.testing.assert_allclose(jax.vmap(network)(x, t), truth, rtol=1e-10, atol=1e-10)
        # From the brute force, on the host, back to the denoiser: nothing is divided by a noise level.
        D = from_numpy(
            lambda x, t, p=prediction: posterior_mean(name, p, x, t),
            2,
            prediction=prediction,
            process=process,
        )
        np.testing.assert_allclose(jax.vmap(D)(u, sigma), expected, rtol=0, atol=1e-12)
        there_and_back = PredictionDenoiser(network, 2, prediction=prediction, process=process)
        np.testing.assert_allclose(jax.vmap(there_and_back)(u, sigma), expected, atol=1e-12)


def test_ddpm_schedule(dtype):
    betas = np.linspace(1e-4, 0.02, 1000, dtype=np.longdouble)
    product = np.cumprod(1 - betas)
    levels = np.sqrt((1 - product) / product).astype(np.float64)
    nearest, between = DDPMSchedule.linear(index="nearest"), DDPMSchedule(betas)
    index = jnp.arange(1000)
    # Logarithms up to 5 in size, rounded.
    eps = float(jnp.finfo(dtype).eps)
    got = jax.vmap(nearest.noise_level)(index.astype(dtype))
    np.testing.assert_allclose(got, levels, rtol=20 * eps)
    # Every level of the schedule has its own index, whatever the rounding.
    found = jax.vmap(nearest.time)(jnp.asarray(levels, dtype))
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, index)
    # In between, the nearest in log sigma by brute force; beyond the ends, the ends.
    other = np.exp(np.random.default_rng(0).uniform(np.log(0.003), np.log(400), 500))
    distance = np.abs(np.log(other)[:, None] - np.log(levels))
    best, second = np.sort(distance, axis=1)[:, :2].T
    clear = second - best > 50 * eps
    assert clear.mean() > 0.9
    got = np.asarray(jax.vmap(nearest.time)(jnp.asarray(other, dtype)))
    np.testing.assert_array_equal(got[clear], np.argmin(distance, axis=1)[clear])
    assert int(nearest.time(1e-4)) == 0 and int(nearest.time(1e4)) == 999
    # Levels 1/3 and 3.18, whose middle is 1.03 by logarithms and 1.76 without.
    coarse = DDPMSchedule([0.1, 0.9], "nearest")
    assert int(coarse.time(0.9)) == 0 and int(coarse.time(1.4)) == 1
    # So do interpolated indices, which are these integers exactly; a hundredth from one is no integer. The derivative
    # is that of the interpolation there: one over the mean slope of neighbours, or one of theirs.
    for these in (jnp.asarray(levels, dtype), jax.vmap(between.noise_level)(index.astype(dtype))):
        np.testing.assert_array_equal(jax.vmap(between.time)(these), index)
    off = jax.vmap(between.time)(
        jnp.asarray(levels[:-1] * (levels[1:] / levels[:-1]) ** 0.01, dtype)
    )
    np.testing.assert_allclose(off, np.arange(999) + 0.01, atol=20 * eps / 0.004)
    slopes = jax.vmap(jax.grad(between.time))(jnp.asarray(levels[1:-1], dtype)) * levels[1:-1]
    steps = 1 / np.diff(np.log(levels))
    lowest, highest = (np.array(f(steps[:-1], steps[1:])) for f in (np.minimum, np.maximum))
    assert np.all((slopes >= (1 - 1e-3) * lowest) & (slopes <= (1 + 1e-3) * highest))
    # The interpolation is inverse to that of the noise level. Neighbouring logarithms are 0.004 or more apart.
    t = jnp.linspace(0, 999, 300, dtype=dtype)
    levels = jax.vmap(between.noise_level)(t)
    np.testing.assert_allclose(jax.vmap(between.time)(levels), t, atol=20 * eps / 0.004, rtol=eps)
    # The input is scaled for the true noise level, also where the index is not its own.
    x, t = nearest.from_noise_coordinates(jnp.asarray([3.0], dtype), jnp.asarray(0.75, dtype))
    np.testing.assert_allclose(x, 3 / 1.25, rtol=4 * eps)
    assert x.dtype == dtype and abs(float(nearest.noise_level(float(t))) - 0.75) < 0.003


def test_host_functions_get_the_whole_batch():
    shapes = []

    def function(x, t):
        shapes.append((x.shape, t.shape))
        return x * t[:, None]

    host = HostFunction(function)
    x, t = jnp.arange(6.0).reshape(3, 2), jnp.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(host(x[0], 2.0), 2 * x[0])
    np.testing.assert_array_equal(jax.vmap(host, (0, None))(x, 2.0), 2 * x)
    np.testing.assert_array_equal(jax.vmap(host, (None, 0))(x[1], t), t[:, None] * x[1][None])
    nested = jax.jit(jax.vmap(jax.vmap(host, (0, None)), (None, 0)))
    np.testing.assert_array_equal(nested(x, t), t[:, None, None] * x[None])
    assert shapes == [((n, 2), (n,)) for n in (1, 3, 4, 12)]
    shapes.clear()
    D = from_numpy(function, 2)
    assert shapes == [((2, 2), (2,))]  # tried once
    shapes.clear()
    D.network.reset_calls()
    sj.sample(D, jax.random.key(0), 7, sigma_max=0.5, sigma_min=0.1, steps=4)
    # Heun: two calls a step but one for the last, and the last step's own call.
    assert set(shapes) == {((7, 2), (7,))} and len(shapes) <= 8
    assert D.network.calls == (len(shapes), 7 * len(shapes), 0, 0)


def gaussian_on_host(mean, scale):
    """The denoiser of N(mean, diag(scale^2)) in NumPy, and its derivative."""

    def gain(sigma):
        return scale**2 / (scale**2 + sigma[:, None] ** 2)

    def function(u, sigma):
        return mean + gain(sigma) * (u - mean)

    def jvp(u, sigma, du, dsigma):
        slope = -2 * sigma[:, None] * gain(sigma) ** 2 / scale**2
        return gain(sigma) * du + slope * (u - mean) * dsigma[:, None]

    return function, jvp


def test_samples_and_likelihoods_through_the_host(x64):
    mean, scale = np.array([0.3, -0.2]), np.array([1.0, 0.4])
    function, jvp = gaussian_on_host(mean, scale)
    exact = sj.GaussianDenoiser(mean, np.diag(scale**2))
    D = from_numpy(function, 2, jvp=jvp)
    options = {"sigma_max": 10.0, "sigma_min": 0.01, "steps": 8}
    options["mean"] = mean
    got = sj.sample(D, jax.random.key(0), 5, dtype=jnp.float64, **options)
    want = sj.sample(exact, jax.random.key(0), 5, **options)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    u = jnp.array([0.5, 0.1])
    np.testing.assert_allclose(
        sj.posterior_covariance(D, u, 0.3), exact.posterior_covariance(u, 0.3), atol=1e-14
    )
    by_sigma = jax.jvp(lambda s: D(u, s), (0.3,), (1.0,))[1]
    np.testing.assert_allclose(
        by_sigma, jax.jvp(lambda s: exact(u, s), (0.3,), (1.0,))[1], rtol=1e-12
    )
    likelihood = sj.log_likelihood(
        D, u, sigma_min=0.1, sigma_max=10.0, prior=exact, rtol=1e-9, atol=1e-9
    )
    # The solver's tolerance a step, times some tens of steps.
    np.testing.assert_allclose(likelihood, exact.log_density(u, 0.1), atol=1e-7)


def test_host_functions_without_derivatives_say_so():
    host = HostFunction(lambda x, t: x)
    for differentiate in (jax.grad, jax.jacfwd):
        with pytest.raises(ValueError, match="cannot be differentiated by JAX; give its"):
            differentiate(lambda x: host(x, 1.0).sum())(jnp.ones(2))
    with pytest.raises(Exception, match="do not support transpose"):
        given = HostFunction(lambda x, t: x, lambda x, t, dx, dt: dx)
        jax.grad(lambda x: given(x, 1.0).sum())(jnp.ones(2))


def test_bad_input():
    with pytest.raises(ValueError, match=r"\(1, 2\), as its first argument; got shape \(1, 1\)"):
        jax.block_until_ready(HostFunction(lambda x, t: x[:, :1])(jnp.ones(2), 1.0))
    with pytest.raises(ValueError, match=r"For a batch, use jax\.vmap"):
        HostFunction(lambda x, t: x)(jnp.ones((3, 2)), 1.0)
    with pytest.raises(ValueError, match="`jvp` must be a callable or None; got 3"):
        HostFunction(lambda x, t: x, 3)  # pyright: ignore
    for prediction, process, message in (
        ("v", sj.EDM(), "'v' is for VariancePreserving or DDPMSchedule; got EDM"),
        ("v", sj.FlowMatching(), "got FlowMatching"),
        ("velocity", sj.VariancePreserving(), "'velocity' is for FlowMatching"),
        ("flow", sj.EDM(), "must be one of"),
        ("eps", 3, "must be an AbstractProcess or a DDPMSchedule or None; got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            PredictionDenoiser(lambda x, t: x, 2, prediction=prediction, process=process)
        with pytest.raises(ValueError, match=message):
            as_network(lambda u, s: u, prediction, process)
    with pytest.raises(ValueError, match=r"shape \(2,\) in real numbers; got \(1,\)"):
        PredictionDenoiser(lambda x, t: x[:1], 2)(jnp.ones(2), 1.0)
    for betas in ([0.1], [0.1, 1.0], [[0.1, 0.2]], [0.0, 0.1], [0.1, np.nan], [0.1, 1.0, 0.1]):
        with pytest.raises(ValueError, match="two numbers in"):
            DDPMSchedule(betas)
    with pytest.raises(ValueError, match="'nearest' or 'interpolated'; got 'round'"):
        DDPMSchedule.linear(index="round")  # pyright: ignore


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def small_network(torch, dtype, dim=3):
    """A noise-conditioned module, and the same function and its Jacobian in NumPy."""
    torch.manual_seed(0)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(dim + 1, 8, dtype=dtype)
            self.last = torch.nn.Linear(8, dim, dtype=dtype)
            self.batches = []

        def forward(self, x, t):
            assert not torch.is_grad_enabled() or x.requires_grad
            self.batches.append(len(x))
            inputs = torch.cat([x, torch.log(t)[:, None]], dim=1)
            return self.last(torch.tanh(self.first(inputs)))

    module = Network().eval()
    A, a, B, b = (p.detach().double().numpy() for p in module.parameters())

    def value(x, t):
        return B @ np.tanh(A @ np.append(x, np.log(t)) + a) + b

    def jacobian(x, t):
        slope = 1 - np.tanh(A @ np.append(x, np.log(t)) + a) ** 2
        return (
            B
            @ (slope[:, None] * A)
            @ np.vstack([np.eye(dim + 1)[:, :dim].T, np.eye(dim + 1)[dim] / t]).T
        )

    return module, value, jacobian


def test_torch_modules(torch, dtype):
    # A module in float32 for both dtypes of the points, and one in float64 for float64.
    for module_dtype in {"float32": ("float32",), "float64": ("float32", "float64")}[dtype.name]:
        module, value, jacobian = small_network(torch, getattr(torch, module_dtype))
        D = from_torch(module, 3)
        x, t = np.random.default_rng(0).standard_normal((6, 3)), np.linspace(0.2, 3, 6)
        u, sigma = jnp.asarray(x, dtype), jnp.asarray(t, dtype)
        got = jax.jit(jax.vmap(D))(u, sigma)
        assert got.dtype == dtype and module.batches == [2, 6]  # tried once with two points
        # Sums of 8 numbers of size one, twice.
        tolerance = 100 * float(jnp.finfo(module_dtype).eps)
        want = np.stack([value(*pair) for pair in zip(x, t, strict=True)])
        np.testing.assert_allclose(got, want, atol=tolerance)
        jacobians = jax.vmap(jax.jacfwd(D, argnums=(0, 1)))(u, sigma)
        want = np.stack([jacobian(*pair) for pair in zip(x, t, strict=True)])
        np.testing.assert_allclose(jacobians[0], want[:, :, :3], atol=5 * tolerance)
        np.testing.assert_allclose(jacobians[1], want[:, :, 3], atol=5 * tolerance)
        assert all(p.grad is None for p in module.parameters())


def test_torch_images_are_channels_first(torch):
    height, width, channels = 3, 4, 2
    torch.manual_seed(0)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = torch.nn.Conv2d(channels, channels, (1, 2), bias=False)

        def forward(self, x, t):
            assert x.shape[1:] == (channels, height, width) and x.is_contiguous()
            return self.mix(torch.cat([x, x[..., :1]], dim=3)) * t[:, None, None, None]

    module = Network().eval()
    kernel = module.mix.weight.detach().numpy()[:, :, 0]  # output, input, column
    images = np.random.default_rng(0).standard_normal((5, height, width, channels)).astype("f4")
    want = np.einsum("byxc,oc->byxo", images, kernel[:, :, 0])
    want += np.einsum("byxc,oc->byxo", np.roll(images, -1, axis=2), kernel[:, :, 1])
    D = from_torch(module, (height, width, channels))
    got = jax.vmap(D, (0, None))(jnp.asarray(images.reshape(5, -1)), jnp.float32(0.5))
    np.testing.assert_allclose(got, 0.5 * want.reshape(5, -1), atol=1e-6)
    samples = sj.sample(
        D, jax.random.key(0), 2, shape_or_dim=(height, width, channels), steps=3, sigma_max=0.1
    )
    assert samples.shape == (2, height, width, channels)


def test_torch_noise_prediction_at_ddpm_times(torch):
    # A table of the optimal eps for data N(0, 1), as a module that looks up its index: eps = sigma_t x_t.
    schedule = DDPMSchedule.linear(index="nearest")
    product = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    table = torch.tensor(np.sqrt(1 - product), dtype=torch.float32)[:, None]

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding.from_pretrained(table)

        def forward(self, x, t):
            assert t.dtype == torch.int64
            return self.table(t) * x

    D = from_torch(Network().eval(), 2, prediction="eps", process=schedule)
    u = jnp.array([[1.0, -2.0], [0.5, 0.25]], jnp.float32)
    for k in (0, 17, 500, 999):
        sigma = jnp.float32(np.sqrt((1 - product[k]) / product[k]))
        want = np.asarray(u) * product[k]  # 1 / (1 + sigma^2)
        # At index 999, u - sigma eps cancels to product = 4e-5: an error of eps |u|.
        np.testing.assert_allclose(jax.vmap(D, (0, None))(u, sigma), want, atol=5e-7)
    # The index has no tangent.
    slope = jax.jacfwd(D)(u[0], sigma)
    np.testing.assert_allclose(slope, np.eye(2) * product[999], atol=5e-7)


def test_torch_arrays_are_not_copied(torch):
    function = from_torch(lambda x, t: x, 3).network.function
    x = np.ones((2, 3), np.float32)
    x.flags.writeable = False
    assert np.shares_memory(function(x, np.ones(2, np.float32)), x)


def test_torch_bad_input(torch):
    with pytest.raises(ValueError, match=r"Call module.eval\(\) first"):
        from_torch(torch.nn.Linear(2, 2), 2)
    with pytest.raises(ValueError, match=r"\(height, width, channels\); got \(2, 3\)"):
        from_torch(lambda x, t: x, (2, 3))  # pyright: ignore
