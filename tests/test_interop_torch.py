"""PyTorch modules, networks of diffusers and of EDM: against closed forms, and what is refused in one line."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import smoothjax as sj
from smoothjax import interop
from smoothjax.interop import DDPMSchedule, from_torch

torch = pytest.importorskip("torch")


class Shrink(torch.nn.Module):
    """The denoiser of N(0, 1), by a parameter of one."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, x, t):
        return self.scale * x / (1 + t.reshape(-1, *[1] * (x.ndim - 1)) ** 2).to(x.dtype)


class Changed(Shrink):
    """What `change` makes of the output of `Shrink`, or of its input."""

    def __init__(self, after=None, before=None):
        super().__init__()
        self.after, self.before = after, before

    def forward(self, x, t):
        x = x if self.before is None else self.before(x)
        value = super().forward(x, t)
        return value if self.after is None else self.after(value)


class Output(dict):
    """An output of diffusers: its entries are attributes too."""

    def __init__(self, sample):
        super().__init__(sample=sample)
        self.sample = sample


class Holder:
    def __init__(self, net):
        self.net = net

    def denoise(self, x, t):
        return self.net(x, t)

    __call__ = denoise


def one_line(call):
    """The text of the `ValueError` that a call raises."""
    with pytest.raises(ValueError) as caught:
        call()
    assert type(caught.value) is ValueError
    text = str(caught.value)
    assert len(text.splitlines()) == 1 and len(text) < 700
    return text


def changed(after=None, before=None):
    return Changed(after, before).eval()


def test_likelihood_of_a_module_in_closed_form():
    D = from_torch(Shrink().eval(), 2)
    u = jnp.array([0.5, -1.0])
    prior = sj.GaussianDenoiser(jnp.zeros(2), jnp.eye(2))
    got = sj.log_likelihood(D, u, sigma_min=0.1, sigma_max=20.0, prior=prior, rtol=1e-4)
    variance = 1 + 0.1**2
    want = -0.5 * np.sum(np.asarray(u) ** 2) / variance - np.log(2 * np.pi * variance)
    # A step's tolerance, times some tens of steps.
    np.testing.assert_allclose(got, want, atol=3e-3)
    np.testing.assert_allclose(sj.posterior_covariance(D, u, 1.0), np.eye(2) / 2, atol=1e-6)


def test_a_process_is_required():
    for prediction in ("eps", "v_prediction", "velocity", "score"):
        text = one_line(lambda p=prediction: from_torch(Shrink().eval(), 2, prediction=p))
        assert "`process` is needed" in text


def test_parts_in_training_mode_are_named():
    torch.manual_seed(0)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Sequential(
                torch.nn.Linear(2, 4),
                torch.nn.BatchNorm1d(4),
                torch.nn.Dropout(0.5),
                torch.nn.Linear(4, 2),
            )

        def forward(self, x, t):
            return self.body(x)

    net = Network().eval()
    for _ in range(3):  # statistics that are not those of the start
        net.train()
        net(torch.randn(16, 2), None)
    assert "the module itself is in training mode" in one_line(lambda: from_torch(net, 2))
    net.eval()
    D = from_torch(net, 2)
    u = jnp.array([0.3, -0.4])
    with torch.no_grad():
        want = net(torch.tensor([[0.3, -0.4]]), None)[0].numpy()
    np.testing.assert_allclose(D(u, 1.0), want, atol=1e-6)
    for part in ("1", "2"):
        net.eval().body[int(part)].train()
        named = lambda x, t: net(x, t)  # noqa: E731
        held = Holder(net)
        for module in (net, net.forward, functools.partial(net), named, held, held.denoise):
            text = one_line(lambda m=module: from_torch(m, 2))
            assert f"'body.{part}' (" in text and "module.eval()" in text
    # Later, too.
    net.train()
    with pytest.raises(ValueError, match=r"evaluation mode; got one in training mode"):
        D(u, 1.0)


def test_dropout_and_batch_norm_in_closed_form():
    """A module that is affine in evaluation mode, `D = A u + b`: the flow is a matrix exponential."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2)
    )
    net(torch.randn(16, 2))
    net.eval()
    D = from_torch(lambda x, t: net(x), 2)
    b = np.asarray(D(jnp.zeros(2), 1.0), np.float64)
    A = np.stack([np.asarray(D(e, 1.0), np.float64) - b for e in jnp.eye(2)], axis=1)
    u, low, high = np.array([0.3, -0.4]), 0.5, 5.0
    log_ratio, rest = np.log(high / low), np.linalg.solve(np.eye(2) - A, b)
    latent = rest + scipy.linalg.expm((np.eye(2) - A) * log_ratio) @ (u - rest)
    prior = sj.GaussianDenoiser(jnp.zeros(2), jnp.eye(2))
    want = float(prior.log_density(jnp.asarray(latent), high)) + (2 - np.trace(A)) * log_ratio
    options = {"sigma_min": low, "sigma_max": high, "prior": prior, "rtol": 1e-4}
    # A step's tolerance, times some tens of steps; the entries of A are good to 1e-6.
    np.testing.assert_allclose(sj.log_likelihood(D, jnp.asarray(u), **options), want, atol=3e-3)
    end = sj.flow(D, jnp.asarray(u), low, high, rtol=1e-4)
    np.testing.assert_allclose(end, latent, atol=5e-3)
    samples = sj.sample(D, jax.random.key(0), 3, steps=3)
    assert samples.shape == (3, 2) and bool(jnp.isfinite(samples).all())


def test_outputs_are_taken_or_refused_in_one_line():
    u = jnp.array([3.0, 1.0])
    np.testing.assert_allclose(from_torch(changed(Output), 2)(u, 1.0), u / 2)
    wrong = {
        "got tuple. Take its entry: lambda x, t: module(x, t)[0]": lambda y: (y,),
        "got dict. Take its entry: lambda x, t: module(x, t)['out']": lambda y: {"out": y},
        "got None. Return": lambda y: None,
        "got ndarray. For functions of NumPy arrays there is from_numpy": lambda y: y.numpy(),
        "got (2,). Keep the batch axis": lambda y: y[:, 0],
        "got complex64": lambda y: y + 0j,
        "got int64": lambda y: y.long(),
        "twice as many channels. If the second half is a learned variance": lambda y: torch.cat(
            [y, y], 1
        ),
        "raised RuntimeError (boom) when it was called once with x (2, 2) float32, t (2,) float32": lambda y: (
            _boom()
        ),
    }
    for message, after in wrong.items():
        assert message in one_line(lambda f=after: from_torch(changed(f), 2))
    for given, message in (
        ("model.pt", "got str 'model.pt'"),
        (Shrink().state_dict(), "got OrderedDict of 1 entries"),
        (Shrink, "got the class Shrink"),
        (None, "got NoneType"),
    ):
        text = one_line(lambda m=given: from_torch(m, 2))
        assert message in text and "load_state_dict" in text


def _boom():
    raise RuntimeError("boom")


def test_modules_that_cannot_run_are_refused_in_one_line():
    with torch.device("meta"):
        meta = Shrink().eval()
    assert "'scale' on the device 'meta'" in one_line(lambda: from_torch(meta, 2))

    mixed = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).double()).eval()
    call = lambda x, t: mixed(x)  # noqa: E731
    assert "parameters are in float32 and float64" in one_line(lambda: from_torch(call, 2))
    hidden = [torch.nn.Linear(2, 2).half()]
    call = lambda x, t: hidden[0](x)  # noqa: E731
    assert "Its own dtype is unknown" in one_line(lambda: from_torch(call, 2))
    coarse = torch.nn.Linear(3, 2).bfloat16()
    call = lambda x, t: coarse.eval()(torch.cat([x, t[:, None]], 1))  # noqa: E731
    coarse.eval()
    assert "t is not rounded to half precision" in one_line(lambda: from_torch(call, 2))

    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mixed

        def forward(self, x, t):
            return self.body(x)

    assert "parameters are in float32 and float64" in one_line(
        lambda: from_torch(Mixed().eval(), 2)
    )
    with_labels = lambda x, t, y: x  # noqa: E731
    assert "for a network of classes give `labels`" in one_line(lambda: from_torch(with_labels, 2))
    in_place = changed(before=lambda x: x.mul_(2))
    assert "must not change its input in place" in one_line(lambda: from_torch(in_place, 2))
    for shape, message in (((2, 3), "got (2, 3)"), (0, "got 0"), ((2, 2, 0), "got 0")):
        assert message in one_line(lambda s=shape: from_torch(Shrink().eval(), s))
    assert "'chw' or 'hwc'; got 'nhwc'" in one_line(
        lambda: from_torch(Shrink().eval(), (2, 2, 1), layout="nhwc")  # pyright: ignore
    )


def test_layouts():
    conv = torch.nn.Conv2d(3, 3, 1, bias=False).eval()
    kernel = conv.weight.detach().numpy()[:, :, 0, 0]
    image = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
    want = np.einsum("yxc,oc->yxo", image, kernel).ravel()
    first = lambda x, t: conv(x)  # noqa: E731
    last = lambda x, t: conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # noqa: E731
    for module, layout in ((first, "chw"), (last, "hwc")):
        D = from_torch(module, (4, 5, 3), layout=layout)
        np.testing.assert_allclose(D(jnp.asarray(image.ravel()), 1.0), want, atol=1e-6)
        other = "hwc" if layout == "chw" else "chw"
        text = one_line(lambda m=module, o=other: from_torch(m, (4, 5, 3), layout=o))
        assert f"layout={layout!r}" in text and "height 4, width 5 and 3 channels" in text
    turned = lambda x, t: conv(x).permute(0, 2, 3, 1)  # noqa: E731
    text = one_line(lambda: from_torch(turned, (4, 5, 3)))
    assert "shape (2, 3, 4, 5), as x; got (2, 4, 5, 3). The layout is 'chw'" in text


def test_times_are_not_rounded_to_half_precision():
    seen = []

    class Network(Shrink):
        def forward(self, x, t):
            assert x.dtype == torch.bfloat16
            seen.append(t)
            return super().forward(x, t)

    D = from_torch(Network(torch.bfloat16).eval(), 2)
    D(jnp.ones(2), 80.3)
    assert seen[-1].dtype == torch.float32 and float(seen[-1][0]) == np.float32(80.3)
    for index, dtype in (("nearest", torch.int64), ("interpolated", torch.float32)):
        process = DDPMSchedule.linear(index=index)
        D = from_torch(Network(torch.bfloat16).eval(), 2, prediction="eps", process=process)
        D(jnp.ones(2), process.noise_level(930))
        assert seen[-1].dtype == dtype and float(seen[-1][0]) == pytest.approx(930, abs=0.05)


def test_learned_variances_are_left_out_on_demand():
    u = jnp.arange(12.0)
    for shape, layout, axis in ((12, "chw", 1), ((2, 2, 3), "chw", 1), ((2, 2, 3), "hwc", 3)):
        double = changed(lambda y, a=axis: torch.cat([y, 7 + 0 * y], dim=a))
        D = from_torch(double, shape, layout=layout, learned_variance=True)
        np.testing.assert_allclose(D(u, 1.0), u / 2)
        assert "learned_variance=True" in one_line(
            lambda m=double, s=shape, y=layout: from_torch(m, s, layout=y)
        )
    assert "Leave the option out" in one_line(
        lambda: from_torch(changed(), 2, learned_variance=True)
    )


def _no_grad(y):
    with torch.no_grad():
        return y * 1


def _inference(y):
    with torch.inference_mode():
        return y * 1


@pytest.mark.parametrize(
    "cut",
    [
        _no_grad,
        _inference,
        lambda y: y.detach(),
        lambda y: torch.from_numpy(y.detach().numpy() * 1),
    ],
    ids=["no_grad", "inference_mode", "detach", "numpy"],
)
def test_cut_derivatives_are_refused_and_values_served(cut):
    D, u = from_torch(changed(cut), 2), jnp.array([1.0, 2.0])
    prior = sj.GaussianDenoiser(jnp.zeros(2), jnp.eye(2))
    for derivative in (
        lambda: sj.log_likelihood(D, u, prior=prior),
        lambda: jax.jit(jax.jacfwd(D))(u, 1.0),
    ):
        assert "values are still served" in one_line(derivative)
    np.testing.assert_allclose(D(u, 1.0), u / 2)


def test_part_of_a_derivative_cut():
    half = changed(lambda y: y + y.detach())
    text = one_line(lambda: sj.posterior_covariance(from_torch(half, 2), jnp.ones(2), 1.0))
    assert "by x is not that of its values" in text
    in_half_precision = from_torch(Shrink(torch.bfloat16).eval(), 2)
    covariance = sj.posterior_covariance(in_half_precision, jnp.ones(2), 1.0)
    np.testing.assert_allclose(covariance, np.eye(2) / 2, atol=0.01)
    # In place, where the derivative needs what was there.
    in_place = changed(lambda y: torch.sigmoid(y).add_(1))
    D = from_torch(in_place, 2)
    text = one_line(lambda: jax.jacfwd(D)(jnp.ones(2), 1.0))
    assert "no derivative by x (RuntimeError" in text and "in place" in text

    class Rounded(Shrink):
        def forward(self, x, t):
            return super().forward(x, t.detach())

    D = from_torch(Rounded().eval(), 2)
    np.testing.assert_allclose(jax.jacfwd(D)(jnp.ones(2), 1.0), np.eye(2) / 2, atol=1e-6)
    assert "by t is not" in one_line(lambda: jax.jacfwd(D, argnums=1)(jnp.ones(2), 1.0))


class Attention(torch.nn.Module):
    """Pixels that attend to each other, as in networks with attention."""

    def __init__(self):
        super().__init__()
        self.key = torch.nn.Linear(2, 4)

    def forward(self, x, t):
        x = x.reshape(len(x), 1, 3, 2)
        key = self.key(x)
        mixed = torch.nn.functional.scaled_dot_product_attention(key, key, x.repeat(1, 1, 1, 2))
        return mixed[..., :2].reshape(len(x), 6)


def test_derivatives_through_attention():
    torch.manual_seed(0)
    module = Attention().eval()
    D, u = from_torch(module, 6), jnp.asarray(np.random.default_rng(0).standard_normal(6))
    got = np.asarray(jax.jacfwd(D)(u, 1.0))
    A, b = (p.detach().double().numpy() for p in module.key.parameters())

    def value(x):
        x = x.reshape(3, 2)
        key = x @ A.T + b
        logits = key @ key.T / 2
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (weights / weights.sum(axis=1, keepdims=True) @ x).ravel()

    x, h = np.asarray(u, np.float64), 1e-5
    want = np.stack([(value(x + h * e) - value(x - h * e)) / (2 * h) for e in np.eye(6)], axis=1)
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_labels():
    class Classes(torch.nn.Module):
        def __init__(self, table):
            super().__init__()
            self.table = torch.nn.Embedding.from_pretrained(table)

        def forward(self, x, t, y):
            assert y.shape == (len(x),) and y.dtype == torch.int64
            return self.table(y) + 0 * x

    table = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    for label in (0, np.int64(1)):
        D = from_torch(Classes(table).eval(), 2, labels=label)
        np.testing.assert_array_equal(
            jax.vmap(D, (0, None))(jnp.ones((3, 2)), 1.0)[2], table[int(label)]
        )
    by_vector = lambda x, t, y: y @ table.to(y.dtype) + 0 * x  # noqa: E731
    D = from_torch(by_vector, 2, labels=[0.5, 0.5])
    np.testing.assert_array_equal(D(jnp.ones(2), 1.0), [2.0, 3.0])
    for labels in (-1, True, "cat", [[0, 1]]):
        text = one_line(lambda y=labels: from_torch(by_vector, 2, labels=y))
        assert text.startswith("`labels` must be")
    assert "IndexError" in one_line(lambda: from_torch(Classes(table).eval(), 2, labels=5))


def test_modules_are_pickled():
    module = changed()
    D = from_torch(module, 2)
    again = pickle.loads(pickle.dumps(D))
    u = jnp.array([1.0, 3.0])
    np.testing.assert_array_equal(again(u, 1.0), D(u, 1.0))
    np.testing.assert_allclose(sj.posterior_covariance(again, u, 1.0), np.eye(2) / 2, atol=1e-6)
    assert again.network.function.module is not module


@pytest.fixture
def diffusers():
    return pytest.importorskip("diffusers")


def small_unet(diffusers, **options):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        **{"out_channels": 1, **options},
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()


def test_schedulers_of_diffusers(diffusers):
    for options in (
        {},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"rescale_betas_zero_snr": True},
    ):
        scheduler = diffusers.DDIMScheduler(**options)
        product = scheduler.alphas_cumprod.double().numpy()
        levels = np.sqrt(np.maximum(1 / np.maximum(product, 1e-300) - 1, 0))
        for schedule in (
            DDPMSchedule(scheduler),
            DDPMSchedule.from_diffusers(scheduler),
            DDPMSchedule(scheduler.config),
        ):
            got = np.asarray(jax.vmap(schedule.noise_level)(jnp.arange(1000.0)))
            # Of the scheduler's float32: products near one by 1e-7 of 1e-4, small ones by the rounding of the betas.
            np.testing.assert_allclose(got[:990], levels[:990], rtol=2e-3)
            assert np.isinf(got[999]) == bool(options.get("rescale_betas_zero_snr"))
    assert "`process` must be an AbstractProcess or a DDPMSchedule" in one_line(
        lambda: from_torch(Shrink().eval(), 2, prediction="eps", process=scheduler)
    )
    text = one_line(lambda: DDPMSchedule(diffusers.FlowMatchEulerDiscreteScheduler()))
    assert "must have betas" in text and "got FlowMatchEulerDiscreteScheduler" in text


def test_unet_of_diffusers(diffusers):
    unet = small_unet(diffusers, num_class_embeds=3)
    scheduler = diffusers.DDPMScheduler(prediction_type="v_prediction")
    D = interop.from_diffusers(unet, scheduler, labels=2)
    assert D.dim == 64 and D.prediction == "v"
    # D = alpha x_t - sigma_t v at a noise level of the schedule, by the network itself.
    product = float(scheduler.alphas_cumprod[300].double())
    u = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    x = torch.tensor(u * product**0.5)
    with torch.no_grad():
        v = unet(x, torch.tensor([300]), class_labels=torch.tensor([2])).sample
    want = product**0.5 * x - (1 - product) ** 0.5 * v
    got = D(jnp.asarray(u.ravel()), np.sqrt(1 / product - 1))
    np.testing.assert_allclose(got, want.numpy().ravel(), atol=2e-4)
    samples = sj.sample(D, jax.random.key(0), 2, shape_or_dim=(8, 8, 1), steps=3)
    assert samples.shape == (2, 8, 8, 1) and bool(jnp.isfinite(samples).all())
    # Through attention, by two probes of the trace, in few steps.
    prior = sj.GaussianDenoiser(jnp.zeros(64), jnp.eye(64))
    options = {"sigma_min": 1.0, "sigma_max": 2.0, "rtol": 0.1, "prior": prior}
    probes = {"num_probes": 2, "key": jax.random.key(0), "estimate_error": False}
    found = sj.likelihood_solution(D, jnp.zeros(64), **options, **probes)
    assert bool(jnp.isfinite(found.value)) and D.network.calls.derivative_batches > 1
    assert "UNet2DModel, (8, 8, 1)" in repr(D)
    for message, call in {
        "give `labels`": lambda: interop.from_diffusers(unet, scheduler),
        "a class that the network has": lambda: interop.from_diffusers(unet, scheduler, labels=7),
        "got str 'google/ddpm'": lambda: interop.from_diffusers("google/ddpm", scheduler),
        "pipeline.unet": lambda: interop.from_diffusers(
            diffusers.DDPMPipeline(unet, scheduler), scheduler
        ),
        "to have 1 channels": lambda: interop.from_diffusers(unet, scheduler, (8, 8, 3), labels=1),
        "`scheduler` must have betas": lambda: interop.from_diffusers(unet, None),
        "`shape_or_dim` as (height": lambda: from_torch(lambda x, t: unet(x, t, torch.ones(2)), 64),
    }.items():
        assert message in one_line(call)
    assert "training mode" in one_line(
        lambda: interop.from_diffusers(unet.train(), scheduler, labels=1)
    )
    double = small_unet(diffusers, out_channels=2)
    assert "learned_variance" in one_line(lambda: interop.from_diffusers(double, scheduler))
    D = interop.from_diffusers(double, scheduler, learned_variance=True)
    assert D(jnp.zeros(64), 1.0).shape == (64,)
    assert "sample_size" in one_line(lambda: interop.from_diffusers(Shrink().eval(), scheduler))


class EDMStyle(torch.nn.Module):
    """The denoiser of N(m, 1) for a mean m by class, in the form of EDM's networks."""

    def __init__(self, label_dim=0, steps=None):
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = 4, 3, label_dim
        self.sigma_min, self.sigma_max, self.steps = 0.01, 100.0, steps
        self.means = torch.nn.Parameter(torch.arange(max(label_dim, 1), dtype=torch.float32))

    def round_sigma(self, sigma):
        return sigma if self.steps is None else torch.round(sigma * self.steps) / self.steps

    def forward(self, x, sigma, class_labels=None):
        sigma = self.round_sigma(sigma).reshape(-1, 1, 1, 1)
        mean = 0.0 if class_labels is None else (class_labels @ self.means).reshape(-1, 1, 1, 1)
        return mean + (x - mean) / (1 + sigma**2)


def test_networks_of_edm():
    u = jnp.linspace(-1, 1, 48)
    np.testing.assert_allclose(interop.from_edm(EDMStyle().eval())(u, 2.0), u / 5, atol=1e-6)
    D = interop.from_edm(EDMStyle(3).eval(), labels=2)
    np.testing.assert_allclose(D(u, 2.0), 2 + (u - 2) / 5, atol=1e-6)
    # N(2, 1) in closed form, at the noise level of the start.
    mean = jnp.full(48, 2.0)
    prior = sj.GaussianDenoiser(mean, jnp.eye(48))
    got = sj.log_likelihood(D, u, sigma_min=0.5, sigma_max=20.0, rtol=1e-3, prior=prior)
    want = sj.GaussianDenoiser(mean, jnp.eye(48)).log_density(u, 0.5)
    np.testing.assert_allclose(got, want, atol=0.05)  # nats of 90, at 1e-3 a step
    samples = sj.sample(D, jax.random.key(0), 3, sigma_max=50.0, sigma_min=0.02, mean=mean, steps=5)
    assert samples.shape == (3, 48) and abs(float(samples.mean()) - 2) < 0.5
    for sigma in (0.001, 200.0):
        with pytest.raises(ValueError, match=r"from 0\.01 to 100; got"):
            D(u, sigma)
    assert "got dict of 1 entries" in one_line(lambda: interop.from_edm({"ema": Shrink()}))
    assert "from 0 to 2; got 3" in one_line(lambda: interop.from_edm(EDMStyle(3).eval(), labels=3))
    assert "`shape` must be" in one_line(lambda: interop.from_edm(Shrink().eval()))
    np.testing.assert_allclose(interop.from_edm(Shrink().eval(), 48)(u, 1.0), u / 2)
    rounded = interop.from_edm(EDMStyle(steps=10).eval())
    assert rounded.is_step_function_of_sigma
    assert "step function" in one_line(lambda: sj.flow(rounded, u, 2.0, 1.0))
    assert "step function" in one_line(lambda: jax.jacfwd(rounded, argnums=1)(u, 1.0))
