"""How often sweeps compile, and training sets of several sizes in one shape."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj


class Traces(list):
    """Equal to itself only, and hashable: a static field that no two sweeps share."""

    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]
    __eq__ = object.__eq__


class Counting(sj.AbstractDenoiser):
    """A denoiser that notes when it is traced."""

    base: sj.AbstractDenoiser
    traces: Traces = eqx.field(static=True)

    @property
    def dim(self):
        return self.base.dim

    def __call__(self, u, sigma):
        self.traces.append(u.shape)
        return self.base(u, sigma)


def points(n, seed, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((n, 3)).astype(dtype)


def test_samples_compile_once_for_keys_noise_levels_and_data_of_one_size():
    traces = Traces()

    def draw(seed, sigma_max, sigma_min):
        denoiser = Counting(sj.EmpiricalDenoiser(points(40, seed)), traces)
        key = jax.random.key(seed)
        return sj.sample(denoiser, key, 5, sigma_max=sigma_max, sigma_min=sigma_min, steps=6)

    first = draw(0, 80.0, 0.002)
    once = len(traces)
    assert once > 0
    others = [draw(1, 80.0, 0.002), draw(1, 20.0, 0.002), draw(1, 20.0, 0.1)]
    assert len(traces) == once
    assert len({np.asarray(x).tobytes() for x in [first, *others]}) == 4


ON_A_LINE = [
    lambda x: sj.PiecewiseLinearDenoiser(x, 0.5),
    lambda x: sj.BoxSmoothedDenoiser(x, 0.3),
    lambda x: sj.GaussianSmoothedLineDenoiser(x, 0.3),
]
IN_SPACE = [
    sj.GaussianDenoiser.fit,
    sj.DualGaussianDenoiser,
    lambda x: sj.denoisers.FactorGaussianDenoiser.fit(x, 1),
    lambda x: sj.MixtureDenoiser.fit(x, np.arange(len(x)) % 2),
    lambda x: sj.NoiseUnconditionedDenoiser(x, np.array([0.3, 1.0], x.dtype)),
]


def _called(D, u, sigma):
    return D(u[0], sigma)


def _mapped(D, u, sigma):
    return jax.vmap(D, (0, None))(u, sigma)


@pytest.mark.parametrize("dim", [1, 3])
def test_a_call_outside_of_jit_is_one_program(dim):
    names = []

    def listen(event, duration, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for make in ON_A_LINE if dim == 1 else IN_SPACE:
            first, other = (make(points(7, seed)[:, :dim]) for seed in (3, 4))
            u = points(5, 1)[:, :dim]
            for call in (_called, _mapped):
                call(first, u, 0.4)  # what JAX compiles for new shapes of arguments
                jax.clear_caches()
                names.clear()
                value = call(first, u, 0.4)
                assert names.count("jit(_run)") == 1 and len(names) <= 2, names
                names.clear()
                # Another law, and another noise level.
                assert not np.array_equal(value, call(other, u, 0.7)) and not names
                with pytest.raises(ValueError, match="`sigma` must be positive and finite; got -1"):
                    call(first, u, -1.0)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


class Sudden(sj.AbstractDenoiser):
    """What a user may write: a choice by the value of the noise level."""

    @property
    def dim(self):
        return 1

    def __call__(self, u, sigma):
        return u if sigma > 0.5 else 0 * u


def test_what_users_write_sees_known_values():
    D = sj.LineDenoiser(Sudden(), np.eye(3, dtype=np.float32)[0], np.zeros(3, np.float32))
    u = points(1, 0)[0]
    for sigma, kept in ((0.6, u[0]), (0.4, 0)):
        np.testing.assert_allclose(D(u, sigma), [kept, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("measure", [sj.denoiser_rmse, sj.linearity_score, sj.rmse_curve])
def test_a_compiled_measure_compiles_once_for_keys_noise_levels_and_data_of_one_size(measure):
    traces = Traces()
    compiled = eqx.filter_jit(measure)

    def call(seed, sigma):
        levels = jnp.asarray([sigma, 2 * sigma] if measure is sj.rmse_curve else sigma)
        denoiser = Counting(sj.EmpiricalDenoiser(points(40, seed)), traces)
        others = () if measure is sj.linearity_score else (identity,)
        return compiled(denoiser, *others, points(20, seed + 9), levels, jax.random.key(seed))

    call(0, 0.1)
    once = len(traces)
    assert once > 0
    for seed, sigma in ((0, 0.3), (1, 0.3), (1, 2.0)):
        call(seed, sigma)
    assert len(traces) == once


def identity(u, sigma):
    return u


def test_a_sweep_over_sizes_compiles_once_if_padded():
    call = eqx.filter_jit(lambda D, u, sigma: jax.vmap(D, (0, None))(u, sigma))

    def traces_of(make, sizes):
        traces = Traces()
        for n in sizes:
            call(Counting(make(points(n, n)), traces), points(5, 0), jnp.float32(0.5))
        return len(traces)

    assert traces_of(sj.EmpiricalDenoiser, (10, 23)) == 2
    assert traces_of(lambda x: sj.EmpiricalDenoiser(*sj.padded_to(x, 40)), (10, 23, 40)) == 1


@pytest.mark.parametrize("chunk_size", [None, 16])
def test_padded_training_sets_have_the_same_law(chunk_size, dtype):
    n = 7
    data = points(n, n, dtype)
    alone = sj.EmpiricalDenoiser(data, chunk_size=chunk_size)
    padded = sj.EmpiricalDenoiser(*sj.padded_to(data, 50), chunk_size=chunk_size)
    rng = np.random.default_rng(1)
    eps = float(jnp.finfo(dtype).eps)
    call = eqx.filter_jit(lambda D, u, s: jax.vmap(D, (0, None))(u, s))
    density = eqx.filter_jit(lambda D, u, s: jax.vmap(D.log_density, (0, None))(u, s))
    norms = np.linalg.norm(data - data.mean(0), axis=1)
    # The centre of the padded set lies within the hull, so that its radius is at most twice this one.
    radius, largest = 2 * norms.max(), np.linalg.norm(data, axis=1).max()
    for sigma in (1e-3, 0.05, 0.5, 5.0, 80.0):
        u = data[rng.integers(n, size=8)] + sigma * rng.standard_normal((8, 3)).astype(dtype)
        first, second = (call(D, u, jnp.asarray(sigma, dtype)) for D in (alone, padded))
        difference = np.linalg.norm(np.asarray(first - second), axis=1)
        wide, query = data.astype(np.float64), u.astype(np.float64)
        squares = np.sum((query[:, None] - wide) ** 2, axis=2)
        carries = squares - squares.min(1, keepdims=True) < 2 * sigma**2 * np.log(n / eps)
        for i in range(len(u)):
            near = wide[carries[i]]
            apart = np.linalg.norm(near[:, None] - near, axis=2)
            middle = np.linalg.norm(query[i] - 0.5 * (near[:, None] + near), axis=2)
            r = apart.max()
            # The error that `EmpiricalDenoiser` states, of each of the two.
            bound = eps * (largest + radius) + 2048 * eps * r
            bound += r * min(1, 4 * eps * np.max(middle * apart) / sigma**2)
            assert difference[i] <= 2 * bound
        log_density = [density(D, u, jnp.asarray(sigma, dtype)) for D in (alone, padded)]
        scale = squares.min(1) / sigma**2 + 3 * abs(np.log(sigma)) + 4096
        assert np.all(np.abs(np.subtract(*log_density)) <= 2 * eps * scale)
    np.testing.assert_array_equal(padded.data[:n], data)
    np.testing.assert_allclose(padded.weights[:n], alone.weights, rtol=4 * n * eps)
    assert not np.any(padded.weights[n:])


def test_padding_takes_no_fewer_points_and_no_bad_number():
    with pytest.raises(ValueError, match="at least the number of points, 3; got 2"):
        sj.padded_to(points(3, 0), 2)
    with pytest.raises(ValueError, match=r"`num` must be an integer; got 4\.0"):
        sj.padded_to(points(3, 0), 4.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="must have shape"):
        sj.padded_to(np.zeros(3), 4)


def test_training_set_in_a_users_program_is_not_worked_on_when_it_compiles():
    """XLA folds products of constants with a slow evaluator, which took minutes for ten thousand images."""
    D = sj.EmpiricalDenoiser(points(200, 0))
    covariance = jax.jit(lambda: D.mean_and_covariance()[1])
    # A product of the data with themselves is left for the time of the call.
    assert " dot(" in covariance.lower().compile().as_text()


def test_replay_compiles_once_for_all_numbers_of_levels(monkeypatch):
    traces = []
    followed = sj.TruncatedDenoiser.followed_to
    monkeypatch.setattr(
        sj.TruncatedDenoiser, "followed_to", lambda *args: traces.append(1) or followed(*args)
    )
    D = sj.TruncatedDenoiser(points(30, 0))
    calls = []
    for num in (12, 5, 29, 2):
        levels = sj.log_uniform_grid(num, 80.0, 0.01)
        found = sj.replay(D, jax.random.key(1), 4, levels=levels)
        calls.append(int(jnp.max(found.evaluations)))
        # One call a level, the first of them at the start, and one where the last step is corrected.
        assert calls[-1] <= num + 1
    assert len(traces) == 1
    assert calls[2] > calls[0] > calls[1] > calls[3]


def test_adapted_grids_of_all_sizes_take_one_pilot_program():
    traces = Traces()
    denoiser = Counting(sj.EmpiricalDenoiser(points(40, 0, float)), traces)
    grids = [sj.adapted_grid(denoiser, jax.random.key(0), num) for num in (6, 9, 40)]
    assert [len(grid) for grid in grids] == [6, 9, 40]
    # As many as for the first alone: the pilots' grid knows nothing of the one that is asked for.
    alone = Traces()
    again = Counting(sj.EmpiricalDenoiser(points(40, 0, float)), alone)
    sj.adapted_grid(again, jax.random.key(0), 6)
    assert len(traces) == len(alone) > 0
