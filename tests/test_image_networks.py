"""Networks told the noise level, EDM's preconditioning and loss, and training that resumes exactly."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import learning
from smoothjax.learning import _image_training

# Compiles for minutes in all: not a second time in the suite at default precision.
pytestmark = pytest.mark.slow

SMALL = learning.MLPArchitecture(width=16, num_layers=3)


def randomised(network, seed=0):
    """The network with random numbers in the layers that start at zero as well."""
    leaves, tree = jax.tree.flatten(network)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    leaves = [
        0.3 * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, leaves)


def features(noise):
    angles = noise * 2.0 ** (np.arange(8) / 2)
    return np.concatenate([np.cos(angles), np.sin(angles)])


def silu(x):
    return x / (1 + np.exp(-x))


def test_residual_mlp_written_out(x64):
    network = randomised(learning.ResidualMLP(3, 5, 4, key=jax.random.key(0)))
    x, noise = np.array([0.4, -1.0, 0.2]), -0.7
    layers = [(np.asarray(layer.weight), np.asarray(layer.bias)) for layer in network.layers]
    h = np.concatenate([x, features(noise)])
    for i, (weight, bias) in enumerate(layers[:-1]):
        new = silu(weight @ h + bias)
        h = new if i == 0 else h + new
    want = layers[-1][0] @ h + layers[-1][1]
    np.testing.assert_allclose(network(jnp.asarray(x), jnp.asarray(noise)), want, rtol=1e-12)


@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_convolutional_network_written_out(padding, x64):
    height, width, _ = shape = (4, 5, 2)
    network = randomised(
        learning.ConvolutionalNetwork(shape, 3, 4, padding=padding, key=jax.random.key(0))
    )
    x, noise = np.random.default_rng(0).standard_normal(shape), 0.3

    def convolve(h, i):
        kernel, bias = np.asarray(network.kernels[i]), np.asarray(network.biases[i])
        out = np.zeros((height, width, kernel.shape[3])) + bias
        for y in range(height):
            for z in range(width):
                for dy in (-1, 0, 1):
                    for dz in (-1, 0, 1):
                        inside = 0 <= y + dy < height and 0 <= z + dz < width
                        if inside or padding == "circular":
                            pixel = h[(y + dy) % height, (z + dz) % width]
                            out[y, z] += pixel @ kernel[dy + 1, dz + 1]
        return out

    h = x
    for i, modulation in enumerate(network.modulations):
        both = np.asarray(modulation.weight) @ features(noise) + np.asarray(modulation.bias)
        new = silu((1 + both[:3]) * convolve(h, i) + both[3:])
        h = new if i == 0 else h + new
    got = network(jnp.asarray(x.ravel()), jnp.asarray(noise))
    np.testing.assert_allclose(got, convolve(h, 3).ravel(), rtol=1e-11, atol=1e-12)

    # A cyclic shift of the image is one of the output, exactly if nothing marks the border.
    moved = network(jnp.asarray(np.roll(x, (1, 2), axis=(0, 1)).ravel()), jnp.asarray(noise))
    change = np.asarray(moved).reshape(shape) - np.roll(convolve(h, 3), (1, 2), axis=(0, 1))
    if padding == "circular":
        np.testing.assert_allclose(change, 0, atol=1e-12)
    else:
        assert np.abs(change).max() > 0.01


@pytest.mark.exhaustive
def test_receptive_field_and_batching(x64):
    network = randomised(learning.ConvolutionalNetwork((9, 9, 1), 2, 3, key=jax.random.key(0)))
    assert network.receptive_field == 7
    row = jax.grad(lambda x: network(x, jnp.asarray(0.1))[40])(jnp.ones(81))
    seen = np.abs(np.asarray(row).reshape(9, 9)) > 0
    inside = np.zeros((9, 9), bool)
    inside[1:8, 1:8] = True
    np.testing.assert_array_equal(seen, inside)
    # Under vmap, three products of the whole batch a layer, besides those of the modulations.
    jaxpr = jax.make_jaxpr(jax.vmap(network, (0, None)))(jnp.ones((6, 81)), jnp.asarray(0.1))
    products = [e.invars[0].aval for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    assert [x.shape[0] for x in products if x.ndim == 4] == [6] * 9


def test_preconditioning(x64):
    data, sigma = 0.7, np.geomspace(1e-4, 1e4, 9)
    model = learning.PreconditionedDenoiser(lambda x, noise: 2 * x + noise, 2, data)
    c = jax.vmap(model.preconditioning)(jnp.asarray(sigma))
    square = sigma**2 + data**2
    # Karras et al. 2022, table 1.
    np.testing.assert_allclose(c.c_skip, data**2 / square, rtol=1e-14)
    np.testing.assert_allclose(c.c_out, sigma * data / np.sqrt(square), rtol=1e-14)
    np.testing.assert_allclose(c.c_in, 1 / np.sqrt(square), rtol=1e-14)
    np.testing.assert_allclose(c.c_noise, np.log(sigma) / 4, rtol=1e-14)
    # What they are for, with x_0 and z of mean squares data^2 and 1: input and target of mean square one,
    skip, out = np.asarray(c.c_skip), np.asarray(c.c_out)
    np.testing.assert_allclose(np.asarray(c.c_in) ** 2 * square, 1, rtol=1e-14)
    # E |x - c u|^2 for a multiple c of u: out^2 at c = skip, and nowhere less. (1 - skip cancels below sigma = 1.)
    error = lambda c: (1 - c) ** 2 * data**2 + c**2 * sigma**2  # noqa: E731
    np.testing.assert_allclose(error(skip), out**2, rtol=1e-7)
    assert np.all(error(skip * 1.01) > out**2) and np.all(error(skip * 0.99) > out**2)
    # The denoiser is put together from them; F = 0 is the Gaussian denoiser of N(0, data^2).
    u, level = jnp.array([0.4, -1.5]), 0.3
    s = np.hypot(level, data)
    F = 2 * np.asarray(u) / s + np.log(level) / 4
    want = (data / s) ** 2 * np.asarray(u) + level * data / s * F
    np.testing.assert_allclose(model(u, level), want, rtol=1e-13)
    start = learning.ResidualMLP(2, 4, 3, key=jax.random.key(0))
    gaussian = sj.GaussianDenoiser(np.zeros(2), data**2 * np.eye(2))
    start = learning.PreconditionedDenoiser(start, 2, data)
    np.testing.assert_allclose(start(u, level), gaussian(u, level), rtol=1e-13)
    # Nothing overflows far out, and nothing is trained that is not the network's.
    far = jax.vmap(model.preconditioning)(jnp.asarray([1e-30, 1e30], jnp.float32))
    np.testing.assert_allclose(far.c_out, [1e-30, 0.7], rtol=1e-6)
    gradient = eqx.filter_grad(lambda m: jnp.sum(m.denoise(u, jnp.asarray(0.3))))(start)
    assert float(gradient.sigma_data) == 0


def test_edm_loss_is_its_expectation(x64):
    # D = k(sigma) u with F(x) = a x: E |D - x_0|^2 / d = (k - 1)^2 m + k^2 sigma^2 for points of mean square m a coordinate.
    data = 1.3 * np.random.default_rng(0).standard_normal((7, 3)) + 0.5
    m, scale, a = np.mean(data**2), 0.6, 0.4
    model = learning.PreconditionedDenoiser(lambda x, noise: a * x, 3, scale)

    def expected(sigma):
        square = sigma**2 + scale**2
        k = (scale**2 + a * sigma * scale) / square
        return ((k - 1) ** 2 * m + k**2 * sigma**2) * square / (sigma * scale) ** 2

    @jax.jit
    def losses(p_mean, p_std):
        one = lambda key: learning.edm_loss(  # noqa: E731
            model, jnp.asarray(data), key, batch_size=256, p_mean=p_mean, p_std=p_std
        )
        return jax.vmap(one)(jax.random.split(jax.random.key(0), 200))

    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    for p_mean, p_std in ((np.log(0.3), 0.0), (-0.6, 0.8), (0.4, 0.3)):
        got = np.asarray(losses(p_mean, p_std))
        want = weights @ expected(np.exp(p_mean + p_std * nodes))
        assert abs(got.mean() - want) < 4 * got.std(ddof=1) / np.sqrt(200), (p_mean, p_std)


def adam(gradient, moments, i, rate):
    """One step of Adam by its paper, i counted from zero."""
    moments[0] = 0.9 * moments[0] + 0.1 * gradient
    moments[1] = 0.999 * moments[1] + 0.001 * gradient**2
    first, second = moments[0] / (1 - 0.9 ** (i + 1)), moments[1] / (1 - 0.999 ** (i + 1))
    return -rate * first / (np.sqrt(second) + 1e-8)


def test_training_written_out(x64):
    data, key = jnp.asarray(np.random.default_rng(0).standard_normal((6, 2))), jax.random.key(3)
    num_steps, decay = (
        15,
        0.4,
    )  # the moving average's start-up, (1 + i) / (10 + i), passes 0.4 at step 5
    run = learning.train_denoiser(
        data, SMALL, key, num_steps=num_steps, batch_size=4, ema_decay=decay, learning_rate=0.01
    )
    scale = float(f"{np.sqrt(np.mean(np.asarray(data) ** 2)):.6g}")
    network = learning.ResidualMLP(2, 16, 3, key=jax.random.fold_in(key, 0))
    model = learning.PreconditionedDenoiser(network, 2, scale)
    model = jax.tree.map(lambda x: x.astype(jnp.float64) if eqx.is_array(x) else x, model)
    parameters, rebuild = jax.flatten_util.ravel_pytree(eqx.filter(model, eqx.is_array))
    static = eqx.filter(model, eqx.is_array, inverse=True)
    loss = jax.jit(
        jax.value_and_grad(
            lambda p, key: learning.edm_loss(
                eqx.combine(rebuild(p), static), data, key, batch_size=4
            )
        )
    )
    average, moments, losses = np.asarray(parameters), [0.0, 0.0], []
    for i in range(num_steps):
        step_key = jax.random.fold_in(jax.random.fold_in(key, 1), i)
        value, gradient = loss(parameters, step_key)
        rate = 0.01 * 0.5 * (1 + np.cos(np.pi * i / num_steps))
        parameters = parameters + adam(np.asarray(gradient), moments, i, rate)
        d = min(decay, (1 + i) / (10 + i))
        average = d * average + (1 - d) * np.asarray(parameters)
        losses.append(float(value))
    # Adam's quotients multiply the rounding of a gradient by at most 1e8, where gradients vanish.
    np.testing.assert_allclose(run.losses, losses, rtol=1e-8)
    got = jax.flatten_util.ravel_pytree(eqx.filter(run.model, eqx.is_array))[0]
    np.testing.assert_allclose(got, average, atol=1e-8)
    assert float(run.model.sigma_data) == scale


@pytest.mark.exhaustive
def test_training_approaches_the_exact_denoiser():
    points = jnp.asarray([[-1.0, 0.0], [0.2, 0.9], [0.8, -0.6]], jnp.float32)
    run = learning.train_denoiser(
        points,
        learning.MLPArchitecture(width=64, num_layers=4),
        jax.random.key(0),
        num_steps=2000,
        batch_size=128,
    )
    assert run.losses.shape == (2000,) and run.losses.dtype == jnp.float32

    @jax.jit
    def error(denoiser):
        pick, noise = jax.random.split(jax.random.key(1))
        x = points[jax.random.randint(pick, (2000,), 0, 3)]
        u = x + 0.5 * jax.random.normal(noise, x.shape, x.dtype)
        exact = jax.vmap(sj.EmpiricalDenoiser(points), (0, None))(u, 0.5)
        return jnp.mean((jax.vmap(denoiser, (0, None))(u, 0.5) - exact) ** 2)

    # By judgement: a fifth of the distance of the best affine denoiser (it is a tenth).
    got, affine = error(run.model), error(sj.GaussianDenoiser.fit(points))
    assert got < 0.04 * affine, (got, affine)


class Stopped(Exception):
    pass


def stop_after(monkeypatch, num):
    """Kills the training after so many checkpoints."""
    save, saved = _image_training.save_state, []

    def save_and_stop(folder, state):
        save(folder, state)
        saved.append(int(state.step))
        if len(saved) == num:
            raise Stopped

    monkeypatch.setattr(_image_training, "save_state", save_and_stop)
    return saved


def test_training_resumes_exactly(tmp_path, monkeypatch):
    data = jnp.asarray(np.random.default_rng(0).standard_normal((6, 2)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 2)
    train = lambda **options: learning.train_denoiser(  # noqa: E731
        data, SMALL, keys, num_steps=25, batch_size=4, **options
    )
    whole = train()
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        saved = stop_after(patched, 2)
        train(out=tmp_path / "a", checkpoint_every=7)
    assert saved == [7, 14]
    partial = learning.load_denoiser(tmp_path / "a")
    np.testing.assert_array_equal(partial.losses, whole.losses[:, :14])
    # What a process that was killed while it wrote may leave behind.
    (tmp_path / "a" / ".state.eqx.tmp").write_bytes(b"half a file")
    traces = []
    loss = _image_training.edm_loss
    monkeypatch.setattr(
        _image_training, "edm_loss", lambda *args, **kw: traces.append(1) or loss(*args, **kw)
    )
    resumed = train(out=tmp_path / "a", checkpoint_every=4)
    assert eqx.tree_equal(resumed, whole)
    # Blocks of 2, 4, 4 and 1 steps, and those before: one program.
    assert traces == []
    # A finished training is read back.
    monkeypatch.setattr(_image_training, "_advance", None)
    assert eqx.tree_equal(train(out=tmp_path / "a"), whole)
    assert eqx.tree_equal(learning.load_denoiser(tmp_path / "a"), whole)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["configuration.json", "state.eqx"]


def test_stopping_on_the_way(tmp_path):
    data = jnp.asarray(np.random.default_rng(0).standard_normal((6, 2)), jnp.float32)
    train = lambda **options: learning.train_denoiser(  # noqa: E731
        data, SMALL, jax.random.key(0), num_steps=9, batch_size=4, **options
    )
    whole = train()
    # The same bits as the whole training has there: its schedule, not one that ends early.
    early = train(stop=5)
    np.testing.assert_array_equal(early.losses, whole.losses[:5])
    kept = train(stop=5, out=tmp_path / "a", checkpoint_every=2)
    assert eqx.tree_equal(kept, early)
    assert eqx.tree_equal(learning.load_denoiser(tmp_path / "a"), early)
    assert not eqx.tree_equal(kept.model, whole.model)
    assert eqx.tree_equal(train(stop=9, out=tmp_path / "a"), whole)
    with pytest.raises(ValueError, match="is at step 9, past `stop`, 5"):
        train(stop=5, out=tmp_path / "a")
    for stop, message in ((0, "positive integer"), (10, "at most `num_steps`, 9; got 10")):
        with pytest.raises(ValueError, match=f"`stop` must be .*{message}"):
            train(stop=stop)


def test_checkpoints_of_something_else(tmp_path):
    data, key = jnp.ones((3, 4)), jax.random.key(0)
    train = lambda data=data, architecture=SMALL, key=key, **options: learning.train_denoiser(  # noqa: E731
        data, architecture, key, **{"num_steps": 2, "out": tmp_path / "a", **options}
    )
    train()
    conv = learning.ConvolutionalArchitecture(channels=2, num_layers=2)
    for change, message in (
        ({"num_steps": 3}, "num_steps: 2 there, 3 now"),
        ({"learning_rate": 0.1}, "learning_rate: 0.002 there, 0.1 now"),
        ({"data": 2 * data}, "data: '"),
        ({"key": jax.random.key(1)}, r"key: \[0, 0\] there, \[0, 1\] now"),
        (
            {"architecture": conv, "image_shape": (2, 2, 1)},
            "kind: 'mlp' there, 'convolutional' now",
        ),
    ):
        with pytest.raises(ValueError, match=f"another configuration .*{message}"):
            train(**change)
    (tmp_path / "a" / "state.eqx").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read as the state"):
        train()
    with pytest.raises(ValueError, match="cannot be read as the state"):
        learning.load_denoiser(tmp_path / "a")
    (tmp_path / "a" / "state.eqx").unlink()
    with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
        learning.load_denoiser(tmp_path / "a")
    (tmp_path / "a" / "configuration.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a configuration: it holds list"):
        learning.load_denoiser(tmp_path / "a")
    (tmp_path / "a" / "configuration.json").write_text('{"kind": "mlp"}')
    with pytest.raises(ValueError, match="does not hold a training of this library"):
        learning.load_denoiser(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="No training in"):
        learning.load_denoiser(tmp_path / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be a folder; it is a file"):
        train(out=tmp_path / "file")


def test_float64_needs_64_bit_mode(tmp_path, x64):
    learning.train_denoiser(
        jnp.ones((3, 2)), SMALL, jax.random.key(0), num_steps=1, out=tmp_path / "a"
    )
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(ValueError, match="in float64, which needs 64-bit mode"):
            learning.load_denoiser(tmp_path / "a")
    finally:
        jax.config.update("jax_enable_x64", True)


@pytest.mark.exhaustive
def test_ensembles_are_their_members(x64):
    data = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 16)))
    keys = jax.random.split(jax.random.key(0), 2)
    options = {"num_steps": 6, "batch_size": 4, "image_shape": (4, 4, 1), "sigma_data": 1.0}
    network = learning.ConvolutionalArchitecture(channels=3, num_layers=3)
    train = lambda data, key: learning.train_denoiser(data, network, key, **options)  # noqa: E731
    shared, own = train(data[0], keys), train(data, keys)
    for points, ensemble, i in ((data[0], shared, 1), (data[1], own, 1)):
        alone = train(points, keys[i])
        one = jax.tree.map(lambda x, i=i: x[i] if eqx.is_array(x) else x, ensemble)
        np.testing.assert_allclose(one.losses, alone.losses, rtol=1e-10)
        pairs = zip(jax.tree.leaves(one.model), jax.tree.leaves(alone.model), strict=True)
        for got, want in pairs:
            # As in the training written out: Adam's quotients, where gradients vanish.
            np.testing.assert_allclose(got, want, atol=1e-8)
    assert not np.allclose(shared.losses[1], own.losses[1])
    u = jnp.ones(16)
    values = eqx.filter_vmap(lambda D: D(u, 0.5))(own.model)
    np.testing.assert_allclose(values[1], one.model(u, 0.5), rtol=1e-12)


def test_bad_input():
    key, data = jax.random.key(0), jnp.ones((3, 2))
    options = {"num_steps": 2}
    for change, message in (
        ({"num_steps": 0}, "`num_steps` must be a positive integer"),
        ({"ema_decay": 1.0}, r"`ema_decay` must lie in \[0, 1\); got 1.0"),
        ({"p_std": -1.0}, "`p_std` must be positive"),
        ({"p_mean": np.inf}, "`p_mean` must be finite; got inf"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"checkpoint_every": 0}, "`checkpoint_every` must be a positive integer"),
        ({"data": jnp.ones((2, 3, 2))}, "as many keys as members.*with a single key"),
        ({"data": jnp.ones((2, 3, 2)), "key": jax.random.split(key, 3)}, "with 3 keys"),
        ({"key": 0}, "`key` must be a key"),
        ({"architecture": "mlp"}, "must be an MLPArchitecture or a Conv.*; got .mlp"),
        ({"architecture": learning.ConvolutionalArchitecture()}, "`image_shape` is needed"),
        (
            {"architecture": learning.ConvolutionalArchitecture(), "image_shape": (3, 3, 1)},
            r"must multiply to the dimension 2 of the data; got \(3, 3, 1\)",
        ),
    ):
        given = {"data": data, "architecture": SMALL, "key": key, **options, **change}
        with pytest.raises(ValueError, match=message):
            learning.train_denoiser(**given)
    with pytest.raises(ValueError, match="`num_layers` must be at least 2; got 1"):
        learning.ResidualMLP(2, 3, 1, key=key)
    with pytest.raises(ValueError, match=r"must be one of .*; got 'reflect'"):
        learning.ConvolutionalNetwork((3, 3, 1), 2, 2, padding="reflect", key=key)  # pyright: ignore
    with pytest.raises(ValueError, match=r"\(height, width, channels\); got \(3, 3\)"):
        learning.ConvolutionalNetwork((3, 3), 2, 2, key=key)  # pyright: ignore
    model = learning.PreconditionedDenoiser(lambda x, noise: x, 3, 1.0)
    with pytest.raises(ValueError, match="dimension 3, the model's; got 2"):
        learning.edm_loss(model, data, key, batch_size=2)
    with pytest.raises(ValueError, match="`sigma_data` must be positive"):
        learning.PreconditionedDenoiser(lambda x, noise: x, 3, 0.0)
