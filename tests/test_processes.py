import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from smoothjax.grids import edm_grid, log_uniform_grid
from smoothjax.processes import (
    EDM,
    AbstractProcess,
    Brownian,
    FlowMatching,
    VarianceExploding,
    VariancePreserving,
)

mp.mp.dps = 50


class Case(NamedTuple):
    """A process, and the SDE dx = a(t) x dt + g(t) dB it should be, written out independently."""

    process: AbstractProcess
    a: Callable
    g_squared: Callable
    level: Callable  # noise level as a function of t
    initial_variance: Any
    times: tuple[float, ...]


def _preserving(process, beta_min, beta_max, halves):
    """Drift -halves beta x / 2 and squared diffusion halves beta."""
    beta_min, beta_max = mp.mpf(beta_min), mp.mpf(beta_max)

    def beta(t):
        return beta_min + t * (beta_max - beta_min)

    return Case(
        process,
        lambda t: -halves * beta(t) / 2,
        lambda t: halves * beta(t),
        lambda t: mp.sqrt(mp.expm1(halves * (beta_min * t + (beta_max - beta_min) * t**2 / 2))),
        0,
        TIMES,
    )


TIMES = (1e-12, 1e-8, 1e-4, 1e-2, 0.3, 1.0)
RATIO = mp.log(mp.mpf(50.0) / mp.mpf(0.01))
CASES = {
    "VP": _preserving(VariancePreserving(), 0.1, 20.0, 1),
    "VP constant": _preserving(VariancePreserving(5.0, 5.0), 5.0, 5.0, 1),
    "VP drift rate": _preserving(VariancePreserving.from_drift_rate(), 0.1, 20.0, 2),
    "VE": Case(
        VarianceExploding(),
        lambda t: mp.mpf(0),
        lambda t: 2 * RATIO * (mp.mpf(0.01) * mp.exp(RATIO * t)) ** 2,
        lambda t: mp.mpf(0.01) * mp.exp(RATIO * t),
        mp.mpf(0.01) ** 2,
        (0.0, *TIMES),
    ),
    "EDM": Case(EDM(), lambda t: mp.mpf(0), lambda t: 2 * t, lambda t: t, 0, (*TIMES, 80.0)),
    "Brownian": Case(Brownian(), lambda t: mp.mpf(0), lambda t: mp.mpf(1), mp.sqrt, 0, TIMES),
    "flow matching": Case(
        FlowMatching(),
        lambda t: -1 / (1 - t),
        lambda t: 2 * t / (1 - t),
        lambda t: t / (1 - t),
        0,
        (*TIMES[:-1], 0.6),
    ),
}
each_case = pytest.mark.parametrize("name", CASES)


@functools.cache
def _moments(name, t):
    """alpha_t and sigma_t from the SDE by 30-digit quadrature (variation of constants)."""
    case, t = CASES[name], mp.mpf(t)

    def propagator(s):
        return mp.exp(mp.quad(case.a, [s, t], method="gauss-legendre"))

    def source(s):
        return case.g_squared(s) * propagator(s) ** 2

    with mp.workdps(30):
        gain, error = mp.quad(source, [0, t], method="gauss-legendre", error=True)
        assert error < 1e-20 * gain or gain == 0
        alpha = propagator(mp.mpf(0))
        return alpha, mp.sqrt(case.initial_variance * alpha**2 + gain)


def _evaluate(function, *arguments):
    """The compiled function, as NumPy arrays."""
    return jax.tree.map(np.asarray, jax.jit(function)(*arguments))


def _condition(function, t):
    """|d log f / d log t|: how a relative error of the argument enters the result."""
    return abs(t * mp.diff(function, t, h=t * mp.mpf("1e-20")) / function(t)) if t else mp.mpf(0)


def _assert_close(value, exact, units, condition: Any = 0):
    """`value` is off by at most `units` rounding units of result and (conditioned) argument.

    8 units cover the operations of every formula here (about 14 roundings of half a unit in the
    longest, the time of the variance-preserving process, elementary functions counted twice).
    """
    eps = float(jnp.finfo(value.dtype).eps)
    error = abs(mp.mpf(float(value)) - exact)
    assert error <= units * eps * (1 + condition) * abs(exact), (
        f"{float(value)!r} != {mp.nstr(exact, 20)}: {float(error / abs(exact) / eps):.1f} units"
    )


def _exact_time(name, level, start):
    """Root of noise_level(t) = level, to 50 digits."""
    level = mp.mpf(level)
    if name == "flow matching":
        return level / (1 + level)
    # The noise level is monotone: there is one root, wherever the search starts.
    ratio = mp.findroot(
        lambda ratio: mp.log(CASES[name].level(start * ratio) / level), (1, 1 + 1e-6), tol=1e-80
    )
    return start * ratio


@each_case
def test_moments_match_quadrature_of_the_sde(name, dtype):
    process = CASES[name].process
    times = jnp.asarray(CASES[name].times, jnp.float32).astype(dtype)  # the same in both precisions
    values = _evaluate(
        lambda t: (t, process.alpha(t), process.sigma(t), process.noise_level(t)), times
    )
    for t, alpha, sigma, level in zip(*values, strict=True):
        exact_t = mp.mpf(float(t))
        exact_alpha, exact_sigma = _moments(name, float(t))
        # alpha = exp(int a): a relative error of the integral enters times |log alpha|.
        _assert_close(alpha, exact_alpha, 8, abs(mp.log(exact_alpha)))
        condition = _condition(CASES[name].level, exact_t)
        _assert_close(sigma, exact_sigma, 8, 0 if name.startswith("VP") else condition)
        _assert_close(level, exact_sigma / exact_alpha, 8, condition)


@each_case
def test_drift_and_diffusion_are_those_of_the_sde(name, dtype):
    case = CASES[name]
    times = jnp.asarray(case.times, dtype)
    x = jnp.asarray([1.5, -2.0, 0.0], dtype)
    drifts, diffusions = _evaluate(
        lambda x, t: (case.process.drift(x[None], t[:, None]), case.process.diffusion(t)), x, times
    )
    assert drifts.shape == (len(times), 3)
    for t, drift, diffusion in zip(np.asarray(times), drifts, diffusions, strict=True):
        exact_t = mp.mpf(float(t))
        for got, component in zip(drift, np.asarray(x), strict=True):
            _assert_close(got, case.a(exact_t) * float(component), 8)
        condition = RATIO * exact_t if name == "VE" else 0
        _assert_close(diffusion, mp.sqrt(case.g_squared(exact_t)), 8, condition)


@each_case
def test_moments_obey_their_differential_equations(name, dtype):
    process = CASES[name].process
    times = jnp.asarray([t for t in CASES[name].times if t > 0], dtype)

    @jax.vmap
    def terms(t):
        alpha, alpha_rate = jax.value_and_grad(process.alpha)(t)
        variance, variance_rate = jax.value_and_grad(lambda t: process.sigma(t) ** 2)(t)
        a, g = process.drift(jnp.ones((), dtype), t), process.diffusion(t)
        return alpha_rate, a * alpha, variance_rate, 2 * a * variance, g**2

    alpha_rate, alpha_drift, variance_rate, decay, gain = _evaluate(terms, times)
    # Some 30 roundings on each side; the exponent B <= 20 multiplies those of exp(-B).
    bound = 600 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(alpha_rate, alpha_drift, rtol=bound)
    assert np.all(np.abs(variance_rate - (decay + gain)) <= bound * (gain - decay))


LEVELS = (1e-100, 1e-8, 1e-4, 0.03, 0.999, 1.0, 1.001, 7.0, 80.0, 152.0, 1e4, 1e8, 1e30)


@each_case
def test_noise_level_to_time_and_back(name, x64):
    process, levels = CASES[name].process, np.array(LEVELS)
    times = _evaluate(process.time, levels)
    back = _evaluate(process.noise_level, times)
    if name == "flow matching":
        # Its time cannot hold large levels: 1 - t is off by eps, so the level by eps (1 + level).
        assert times[-1] == 1.0 and back[-1] == np.inf
        bound = 1e-12 + (1 + levels[:-1]) * np.finfo(float).eps
        assert np.all(np.abs(back[:-1] / levels[:-1] - 1) <= bound)
    else:
        np.testing.assert_allclose(back, levels, rtol=1e-12)


@each_case
def test_time_matches_root(name, dtype):
    levels = np.asarray(LEVELS, dtype)
    tiny, largest = float(jnp.finfo(dtype).tiny), float(jnp.finfo(dtype).max)
    for level, time in zip(levels, _evaluate(CASES[name].process.time, levels), strict=True):
        squared = float(level) ** 2
        if level == 0 or (squared < tiny and name.startswith(("VP", "Brownian"))):
            continue  # level or time is below the range of float32
        if squared > largest and name == "Brownian":
            continue
        exact = _exact_time(name, float(level), float(time))
        # For VE, time is a difference of logarithms over log(sigma_max / sigma_min).
        condition = 1 / abs(exact * RATIO) if name == "VE" else 0
        _assert_close(time, exact, 8, condition)


@pytest.mark.parametrize("offset", [0.41, 0.2, 1e-3, 1e-9, 1e-14, -1e-14, -1e-3, -0.2, -0.41])
def test_exploding_time_is_accurate_through_zero(offset, x64):
    level = 0.01 * (1 + offset)
    exact = mp.log(mp.mpf(level) / mp.mpf(0.01)) / RATIO
    _assert_close(VarianceExploding().time(level), exact, 8)


def test_edges_of_the_domains():
    preserving, exploding, matching = VariancePreserving(), VarianceExploding(), FlowMatching()
    assert matching.noise_level(1.0) == jnp.inf and matching.time(jnp.inf) == 1.0
    assert exploding.time(0.0) == -jnp.inf and exploding.noise_level(-jnp.inf) == 0.0
    assert exploding.sigma(0.0) == np.float32(0.01) or exploding.sigma(0.0) == 0.01
    for constant in (preserving, VariancePreserving(3.0, 3.0)):
        assert constant.time(jnp.inf) == jnp.inf
    for process in (preserving, matching, EDM(), Brownian()):
        assert process.alpha(0.0) == 1.0 and process.sigma(0.0) == 0.0
        assert process.noise_level(0.0) == 0.0 and process.time(0.0) == 0.0
        assert process.noise_level(process.max_time) > 100
    for process in (EDM(), Brownian()):
        assert process.noise_level(process.max_time) == process.time(jnp.inf) == jnp.inf


def test_large_noise_does_not_overflow_early(dtype):
    # exp(B) is out of range here, exp(B/2) is not.
    exponent = 150.0 if dtype == jnp.float32 else 1200.0
    process = VariancePreserving(exponent, exponent)
    level = _evaluate(process.noise_level, jnp.ones((), dtype))
    time, rate = _evaluate(jax.value_and_grad(process.time), level)
    _assert_close(level, mp.sqrt(mp.expm1(exponent)), 8, exponent)
    _assert_close(time, mp.log1p(mp.mpf(float(level)) ** 2) / exponent, 8)
    assert np.isfinite(rate)
    # Nor does level / sigma_min.
    large = jnp.asarray(float(jnp.finfo(dtype).max) / 2, dtype)
    exact = mp.log(mp.mpf(float(large)) / mp.mpf(0.01)) / RATIO
    _assert_close(_evaluate(VarianceExploding().time, large), exact, 8)


def test_factor_two_between_the_conventions():
    song, vastola = VariancePreserving(), VariancePreserving.from_drift_rate()
    rtol = 100 * float(jnp.finfo(jnp.result_type(float)).eps)
    # int_0^1 (0.1 + 19.9 t) dt = 10.05, and half of it.
    np.testing.assert_allclose(vastola.alpha(1.0), math.exp(-10.05), rtol=rtol)
    np.testing.assert_allclose(song.alpha(1.0), math.exp(-5.025), rtol=rtol)
    x = jnp.array([1.0, -3.0])
    np.testing.assert_allclose(vastola.drift(x, 0.5), -(0.1 + 19.9 * 0.5) * x, rtol=rtol)
    np.testing.assert_allclose(song.drift(x, 0.5), -(0.1 + 19.9 * 0.5) / 2 * x, rtol=rtol)
    np.testing.assert_allclose(vastola.diffusion(0.5) ** 2, 2 * (0.1 + 19.9 * 0.5), rtol=rtol)
    # Song's process with twice the numbers is Vastola's.
    twice = VariancePreserving(0.2, 40.0)
    assert twice.alpha(0.3) == vastola.alpha(0.3)
    assert twice.noise_level(0.3) == vastola.noise_level(0.3)


@each_case
def test_derivatives_are_finite_and_reciprocal(name, dtype):
    process = CASES[name].process

    @jax.vmap
    def derivatives(s):
        t, t_rate = jax.value_and_grad(process.time)(s)
        s_rate = jax.grad(process.noise_level)(t)
        others = [
            jax.grad(method)(t) for method in (process.alpha, process.sigma, process.diffusion)
        ]
        return t_rate, s_rate, (others, jax.jacfwd(process.drift)(jnp.ones(2, dtype), t))

    levels = jnp.asarray([1e-8, 0.5, 1.0, 2.0, 80.0], dtype)
    t_rate, s_rate, others = _evaluate(derivatives, levels)
    # Each derivative inherits the conditioning of the level at the rounded time: exp(B/2) with
    # B(80) = 8.8, log(80/0.01) = 9, and twice 81 for flow matching, which has 1/(1-t)^2.
    np.testing.assert_allclose(t_rate * s_rate, 1.0, rtol=200 * float(jnp.finfo(dtype).eps))
    assert np.all(t_rate > 0)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(others))
    extremes = jnp.asarray([1e-30, 1e18, 0.0][: 2 if name == "VE" else 3], dtype)
    assert np.all(np.isfinite(_evaluate(jax.vmap(jax.grad(process.time)), extremes)))


@each_case
def test_noise_coordinates(name, dtype):
    process = CASES[name].process
    clean, noise = jnp.asarray([1.0, -2.0], dtype), jnp.asarray([0.3, 0.7], dtype)
    eps = float(jnp.finfo(dtype).eps)
    t = jnp.asarray(0.4, dtype)
    x = process.alpha(t) * clean + process.sigma(t) * noise
    u, level = _evaluate(process.to_noise_coordinates, x, t)
    np.testing.assert_allclose(u, clean + level * noise, rtol=50 * eps, atol=50 * eps)
    back, time = _evaluate(process.from_noise_coordinates, u, level)
    np.testing.assert_allclose(back, x, rtol=50 * eps)
    np.testing.assert_allclose(time, t, rtol=50 * eps)


@each_case
def test_leaving_noise_coordinates_keeps_precision_at_large_noise(name, dtype):
    # Through alpha(time(level)), flow matching would lose all but three digits in float32.
    process, level = CASES[name].process, jnp.asarray(1e4, dtype)
    x, _ = process.from_noise_coordinates(jnp.ones(1, dtype), level)
    exact = {"VP": 1 / mp.sqrt(1 + mp.mpf(10) ** 8), "fl": 1 / mp.mpf(10001)}.get(name[:2], 1)
    _assert_close(x[0], exact, 4)


def test_float32_round_trip_of_flow_matching_is_as_documented():
    matching = FlowMatching()
    levels = jnp.asarray(np.geomspace(1.0, 1e4, 300), jnp.float32)
    back = _evaluate(lambda s: matching.noise_level(matching.time(s)), levels)
    error = np.abs(back.astype(float) / np.asarray(levels) - 1) / (1 + np.asarray(levels))
    unit = 2.0**-23
    assert np.all(error <= unit)
    assert np.max(error) > 0.1 * unit  # the loss is real


@each_case
def test_dtype_follows_time_and_transformations_agree(name):
    process = CASES[name].process
    t = jnp.asarray([0.2, 0.7], jnp.float32)
    methods = ("alpha", "sigma", "noise_level", "time", "diffusion")
    compiled = jax.jit(lambda p, t: [jax.vmap(getattr(p, method))(t) for method in methods])
    for method, transformed in zip(methods, compiled(process, t), strict=True):
        value = getattr(process, method)(t)
        assert value.dtype == transformed.dtype == jnp.float32 and value.shape == (2,)
        np.testing.assert_allclose(transformed, value, rtol=4e-6)
        # Python numbers do not widen a float32 state.
        assert (getattr(process, method)(0.5) * t).dtype == jnp.float32
    for time in (1 / 2, np.float32(0.5), 0, jnp.full((2, 1), 0.5, jnp.float32)):
        drift = process.drift(jnp.ones((2, 3), jnp.float32), time)
        assert drift.dtype == jnp.float32 and drift.shape == (2, 3)


def test_parameters_can_be_traced():
    def log_alpha(beta_min, beta_max):
        return jnp.log(VariancePreserving(beta_min, beta_max).alpha(1.0))

    # log alpha_1 = -(beta_min + beta_max) / 4
    derivatives = jax.jit(jax.grad(log_alpha, argnums=(0, 1)))(0.1, 20.0)
    np.testing.assert_allclose(derivatives, (-0.25, -0.25), rtol=1e-5)
    # The last level but one of three is ((sqrt(9) + sqrt(low)) / 2)^2, so d/dlow = 1 at low = 1.
    middle = jax.jit(jax.grad(lambda low: edm_grid(3, 9.0, low, 2.0)[1]))
    np.testing.assert_allclose(middle(1.0), (3 + 1) / 2 / 2, rtol=1e-5)


def test_edm_grid_matches_formula(dtype):
    cases = ((18, 80.0, 0.002, 7.0), (256, 50.0, 0.01, 3.0), (2, 3.0, 1.0, 1.0))
    for count, high, low, rho in cases:
        grid = edm_grid(count, jnp.asarray(high, dtype), jnp.asarray(low, dtype), rho)
        top, bottom = mp.root(high, rho), mp.root(low, rho)
        exact = [
            float((top + mp.mpf(i) / (count - 1) * (bottom - top)) ** rho) for i in range(count)
        ]
        assert grid.dtype == dtype and grid.shape == (count + 1,)
        assert grid[0] == dtype.type(high) and grid[-2] == dtype.type(low) and grid[-1] == 0
        assert jnp.all(jnp.diff(grid) < 0)
        # The power multiplies the roundings of its base by rho: about 8 halves of a unit.
        bound = (4 * rho + 2) * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(grid[:-1], exact, rtol=bound)
        without = edm_grid(count, jnp.asarray(high, dtype), low, rho, final_zero=False)
        np.testing.assert_array_equal(without, grid[:-1])


def test_edm_grid_known_values():
    # sqrt-spaced between 9 and 1: 9, 4, 1. And the published default, 18 steps from 80 to 0.002.
    rtol = 40 * float(jnp.finfo(jnp.result_type(float)).eps)
    np.testing.assert_allclose(edm_grid(3, 9.0, 1.0, 2.0), [9.0, 4.0, 1.0, 0.0], rtol=rtol)
    default = edm_grid(18)
    assert default.dtype == jnp.result_type(float)
    published = [80.0, 57.586, 40.786, 28.375, 19.352, 12.910, 8.401, 5.315, 3.257, 1.923]
    np.testing.assert_allclose(default[:10], published, atol=6e-4)
    np.testing.assert_allclose(default[-3:], [0.00753, 0.002, 0.0], atol=6e-6)


def test_log_uniform_grid(dtype):
    grid = log_uniform_grid(41, jnp.asarray(80.0, dtype), jnp.asarray(0.002, dtype))
    exact = 80.0 * (0.002 / 80.0) ** (np.arange(41) / 40)
    assert grid.dtype == dtype
    assert grid[0] == dtype.type(80.0) and grid[-1] == dtype.type(0.002)
    # Exponents up to 6.2 = |log 0.002|, each with a few roundings.
    np.testing.assert_allclose(grid, exact, rtol=25 * float(jnp.finfo(dtype).eps))
    decades = log_uniform_grid(3, jnp.asarray(100.0, dtype), 0.01)
    np.testing.assert_allclose(decades, [100.0, 1.0, 0.01], rtol=10 * float(jnp.finfo(dtype).eps))


def test_edm_grid_tends_to_log_uniform_grid(x64):
    # sigma^(1/rho) = 1 + log(sigma)/rho + O(rho^-2); log(sigma) differs by at most
    # (log 100)^2 / (8 rho) in between.
    rho = 1e4
    first = edm_grid(30, 10.0, 0.1, rho, final_zero=False)
    difference = jnp.abs(jnp.log(first / log_uniform_grid(30, 10.0, 0.1)))
    bound = math.log(100.0) ** 2 / (8 * rho)
    assert 0.9 * bound < jnp.max(difference) < 1.01 * bound


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: VariancePreserving(0.0, 1.0), "`beta_min` must be positive"),
        (lambda: VariancePreserving(-1.0, 1.0), "`beta_min` must be positive"),
        (lambda: VariancePreserving(0.1, math.nan), "`beta_max` must be positive"),
        (lambda: VariancePreserving(0.1, math.inf), "`beta_max` must be positive"),
        (lambda: VariancePreserving(2.0, 1.0), "`beta_max` must be at least `beta_min`"),
        (lambda: VariancePreserving(np.ones(2), 3.0), r"scalar; got shape \(2,\)"),
        (lambda: VariancePreserving.from_drift_rate(2.0, 1.0), "got beta_max=1.0 and beta_min=2.0"),
        (lambda: VariancePreserving.from_drift_rate(-0.5), "got -0.5"),
        (lambda: VarianceExploding(0.0, 1.0), "`sigma_min` must be positive"),
        (lambda: VarianceExploding(1.0, 1.0), "`sigma_max` must be larger than `sigma_min`"),
        (lambda: VariancePreserving().sigma(-0.1), r"`t` must lie in \[0, inf\); got -0.1"),
        (
            lambda: VariancePreserving().noise_level(math.inf),
            r"`t` must lie in \[0, inf\); got inf",
        ),
        (lambda: VariancePreserving().alpha(math.nan), "got nan"),
        (lambda: VarianceExploding().sigma(math.nan), "got nan"),
        (lambda: EDM().sigma(jnp.array([1.0, -2.0])), r"`t` must lie in \[0, inf\]; got -2.0"),
        (lambda: Brownian().diffusion(-1), "got -1"),
        (lambda: FlowMatching().alpha(1.5), r"`t` must lie in \[0, 1\]; got 1.5"),
        (lambda: FlowMatching().drift(jnp.ones(2), 1.0), "`1 - t` must be positive"),
        (lambda: FlowMatching().diffusion(1.0), "`1 - t` must be positive"),
        (
            lambda: FlowMatching().to_noise_coordinates(jnp.ones(2), 1.0),
            r"`alpha\(t\)` must be pos",
        ),
        (lambda: VariancePreserving().from_noise_coordinates(jnp.ones(2), math.inf), "got inf"),
        *(
            (lambda process=case.process: process.time(-1.0), "`noise_level` must lie in")
            for case in CASES.values()
        ),
        (lambda: EDM().sigma("one"), "`t` must be an array of numbers"),  # pyright: ignore
        (lambda: edm_grid(1), "`num_levels` must be at least 2"),
        (lambda: edm_grid(2.5), "`num_levels` must be an integer"),  # pyright: ignore
        (lambda: edm_grid(5, 1.0, 2.0), "`sigma_max` must be larger than `sigma_min`"),
        (lambda: edm_grid(5, 1.0, 0.0), "`sigma_min` must be positive"),
        (lambda: edm_grid(5, rho=-1.0), "`rho` must be positive"),
        (lambda: log_uniform_grid(5, math.inf, 1.0), "`sigma_max` must be positive and finite"),
        (lambda: log_uniform_grid(0, 2.0, 1.0), "`num_levels` must be a positive integer"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_flow_matching_singularity_inside_jit():
    drift = eqx.filter_jit(lambda t: FlowMatching().drift(jnp.ones(2), t))
    np.testing.assert_allclose(drift(jnp.asarray(0.5)), [-2.0, -2.0])
    assert np.all(np.isnan(drift(jnp.asarray(1.0))))
    with pytest.raises(ValueError, match="`1 - t` must be positive"):
        FlowMatching().drift(np.ones(2), 1.0)
