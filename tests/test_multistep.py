"""Exponential multistep methods on grids, with and without noise: weights, what Gaussians come out, calls, and order."""

import diffrax
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import smoothjax as sj
from smoothjax.flows import _multistep_weights as weights

SOLVER = sj.ExponentialMultistep()


@pytest.mark.parametrize("power", [0.0, 0.4, -0.66])
def test_weights_of_a_step_integrate_the_polynomial(power, x64):
    """Against mpmath's integral of Lagrange's polynomials in `r^p`, or `log r`, with weight `dr / r^2`."""
    nodes, start, end = [0.9, 1.7, 4.0], 0.9, 0.3
    x = (lambda r: mpmath.log(r)) if power == 0 else (lambda r: mpmath.mpf(r) ** power)

    def polynomial(r, j):
        return mpmath.fprod(
            (x(r) - x(n)) / (x(nodes[j]) - x(n)) for k, n in enumerate(nodes) if k != j
        )

    known = jnp.array([True, True, True, False])
    found = weights._mean_weights(
        jnp.array([*nodes, 1.0]), known, jnp.array(start), jnp.array(end), jnp.array(power)
    )
    with mpmath.workdps(25):
        whole = mpmath.quad(lambda r: 1 / r**2, [end, start])
        expected = [
            mpmath.quad(lambda r, j=j: polynomial(r, j) / r**2, [end, start]) / whole
            for j in range(3)
        ]
    np.testing.assert_allclose(found, [*map(float, expected), 0], rtol=1e-12, atol=1e-13)


grid_weights = jax.jit(weights.grid_weights, static_argnums=1)


def gains(h, order, phases=8, reach=9.0):
    """What the flow by equal steps in log sigma multiplies `z` by, over the exact factor, for several variances."""
    variances = np.exp(2 * h * np.arange(phases) / phases)
    count = int(np.ceil(reach / h))
    levels = np.exp(h * np.arange(count, -count - 1, -1))
    found = grid_weights(jnp.asarray(levels[: order + 2]), order)
    predictor, corrector = (np.asarray(rows)[-1] for rows in found[:2])
    gain = lambda s: variances / (variances + s**2)  # noqa: E731
    exact = [np.sqrt(variances + s**2) for s in levels[:order]]
    past = [gain(s) * u for s, u in zip(levels, exact, strict=False)][::-1]
    u, kept = exact[-1], np.exp(-h)
    for s in levels[order:]:
        ahead = kept * u + (1 - kept) * sum(w * d for w, d in zip(predictor, past, strict=True))
        latest = gain(s) * ahead
        known = [latest, *past]
        if order > 1:
            # What the corrector weighs is the output at the state that it leads to, as far as the slope tells.
            rest = kept * u + (1 - kept) * sum(
                w * d for w, d in zip(corrector[1:], past, strict=True)
            )
            share, slope = (1 - kept) * corrector[0], float(found.slope)
            u = (rest + share * (latest - slope * ahead)) / (1 - share * slope)
            known[0] = latest + slope * (u - ahead)
        past = known[:order]
    return past[0] / np.sqrt(variances)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("h", [0.1, 0.3, 0.5, 0.8, 1.2, 1.5])
def test_every_gaussian_is_exact_on_average(order, h, x64):
    """The powers' table: the mean log gain vanishes, and what is left at single variances falls like exp(-pi^2 / h)."""
    found = gains(h, order)
    # Powers of four decimals, and between two entries the table's curvature; log gains change by less than one a unit.
    steps = weights._SECOND_STEPS if order == 2 else weights._THIRD_STEPS
    slack = 1e-4 if h in steps else 3e-3
    assert abs(np.mean(np.log(found))) < slack
    # What is left is the first of a lattice sum's waves, of twice that height from end to end, and its square.
    wave = 4 * np.exp(-(np.pi**2) / h)
    assert np.max(np.abs(found - 1)) < 1.01 * wave + wave**2 + slack
    # With the powers a step off there is a bias that is seen.
    assert abs(np.mean(np.log(gains(h, 1)))) > 0.02


IMAGES = 21.24 / np.arange(1, 785.0) ** 1.35
"""Variances like those of 10,000 images of digits in [-1, 1]: the largest as theirs, and their sum within a fifth."""


@pytest.mark.parametrize(
    ("calls", "bound"), [(8, 0.036), (12, 0.015), (18, 0.001), (24, 0.0002)], ids=str
)
def test_gaussian_flow_with_few_calls(calls, bound, x64):
    """The bounds are those of the best public methods on the images themselves, or below."""
    law = sj.GaussianDenoiser(np.zeros(784), np.diag(IMAGES))
    z = jax.random.normal(jax.random.key(0), (20, 784))
    levels = jnp.append(sj.log_uniform_grid(calls, 80.0, 0.002), 0.0)
    solve = lambda u: sj.flow_solution(law, u, 80.0, 0.0, levels=levels, solver=SOLVER)  # noqa: E731
    found = jax.vmap(solve)(80 * z)
    last = jax.vmap(lambda u: sj.gaussian_flow(law, u, 80.0, 0.002))(80 * z)
    exact = jax.vmap(lambda u: law(u, 0.002))(last)
    error = np.sqrt(np.sum((found.value - exact) ** 2) / np.sum(exact**2))
    assert error < bound
    assert np.all(found.num_evaluations == calls)


def test_variance_of_stochastic_samples():
    """Twelve variances from 4 to .01, by 200,000 samples, and bounds that the best public methods miss."""
    variances = np.geomspace(4, 0.01, 12)
    law = sj.GaussianDenoiser(np.zeros(12), np.diag(variances).astype(np.float32))
    key, num = jax.random.key(0), 100_000
    for calls, bound in ((12, 0.09), (24, 0.025), (48, 0.008)):
        found = sj.sample(law, key, num, steps=calls, stochasticity=1.0, batch_size=num // 5)
        ratio = np.var(np.asarray(found, float), axis=0) / variances
        # What chance adds to the mean of absolute values, at most: 1.25 standard errors sqrt(2 / num) are 0.005.
        assert np.mean(np.abs(np.log(ratio))) < max(bound, 0.008)
    for calls in (2, 3, 6):
        for eta in (1.0, 40.0):
            few = sj.sample(law, key, 200, steps=calls, stochasticity=eta)
            assert np.all(np.std(few, axis=0) < 1.3 * np.sqrt(variances))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_order(order, x64):
    """On two points in the plane of their bisector, against a converged solution: errors fall as steps to the order."""
    denoiser, u = sj.EmpiricalDenoiser(np.array([[-1.0, 0.3], [1.0, 0.0]])), jnp.array([2.0, 4.0])
    exact = sj.flow(denoiser, u, 5.0, 0.3, rtol=1e-12)
    solver = sj.ExponentialMultistep(order=order)
    errors = [
        float(jnp.linalg.norm(sj.flow(denoiser, u, 5.0, 0.3, steps=n, solver=solver) - exact))
        for n in (40, 80, 160)
    ]
    # Asymptotically 2^order or more; the steps are up to a tenth of what D bends over.
    assert errors[2] < errors[0] / 2 ** (2 * order) * 1.5, errors


def test_upwards_and_calls():
    """Up and down again; a call a level, counted by the denoiser itself."""
    calls = []

    def counted(u, sigma):
        jax.debug.callback(lambda: calls.append(1))
        return u / (1 + sigma**2)

    u = jnp.array([0.3, -2.0])
    up = sj.flow_solution(counted, u, 0.1, 3.0, steps=40, solver=SOLVER)
    jax.effects_barrier()
    assert up.num_evaluations == len(calls) == 40
    np.testing.assert_allclose(up.value, u * np.sqrt(10 / 1.01), rtol=1e-4)
    back = sj.flow(counted, up.value, 3.0, 0.1, steps=40, solver=SOLVER)
    np.testing.assert_allclose(back, u, rtol=1e-4)
    calls.clear()
    levels = [3.0, 1.0, 0.3, 0.0]
    found = sj.flow_solution(counted, u, 3.0, 0.0, levels=levels, solver=SOLVER)
    jax.effects_barrier()
    assert found.num_evaluations == len(calls) == 3
    calls.clear()
    sj.sample(counted, jax.random.key(0), 1, shape_or_dim=2, steps=7, solver=SOLVER)
    jax.effects_barrier()
    assert len(calls) == 7


def test_samples_by_levels_are_the_flow_of_their_start(x64):
    denoiser, key = sj.EmpiricalDenoiser(np.array([[-1.0], [0.2], [1.0]])), jax.random.key(1)
    levels = sj.adapted_grid(denoiser, key, 24)
    samples = sj.sample(denoiser, key, 50, levels=levels, solver=SOLVER)
    converged = sj.sample(denoiser, key, 50)
    assert np.mean(np.abs(samples - converged) < 1e-3) >= 0.96
    # Derivatives in both modes, against differences.
    end = lambda u: sj.flow(denoiser, u, 80.0, 0.5, levels=[80.0, 5.0, 1.0, 0.5], solver=SOLVER)[0]  # noqa: E731
    u, step = jnp.array([20.0]), 1e-5
    slope = (end(u + step) - end(u - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(end)(u)[0], slope, rtol=1e-7)
    np.testing.assert_allclose(jax.jvp(end, (u,), (jnp.ones(1),))[1], slope, rtol=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, u: sj.ExponentialMultistep(order=4), "`order` must be 1, 2 or 3; got 4"),
        (lambda d, u: sj.flow(d, u, 1.0, 0.5, solver=sj.ExponentialMultistep(3)), "of order 2; got order=3"),
        (lambda d, u: sj.flow(d, u, 1.0, 0.5, steps=4, solver="heun"), "`solver` must be a diffrax.AbstractSolver"),
        (lambda d, u: sj.flow(d, u, 1.0, 0.5, solver=diffrax.ShARK()), "ordinary differential"),
        (lambda d, u: sj.flow(d, u, 1.0, 0.5, steps=4, solver=diffrax.KenCarp4()), "ordinary differential"),
        (lambda d, u: sj.flow_solution(d, u, 1.0, 0.5, steps=4, solver=SOLVER, dense=True), "no interpolant"),
        (lambda d, u: sj.sample(d, jax.random.key(0), 2, steps=4, levels=[80.0, 0.002]), "not both"),
        (lambda d, u: sj.sample(d, jax.random.key(0), 2, levels=[8.0, 0.002]), "must run from"),
        (lambda d, u: sj.sample(d, jax.random.key(0), 2, mean=[1.0]), "`mean` must have 2 entries"),
        (lambda d, u: sj.reverse_sde(d, jax.random.key(0), u, 1.0, 0.5, steps=2, solver=diffrax.Tsit5()), "stochastic"),
        (lambda d, u: sj.reverse_sde(d, jax.random.key(0), u, 1.0, 0.5), "one of them"),
    ],
)  # fmt: skip
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(sj.EmpiricalDenoiser(jnp.eye(2)), jnp.zeros(2))


@pytest.mark.parametrize(("mean", "scale"), [(288.0, 15.0), (101325.0, 500.0)], ids=str)
def test_data_far_from_the_origin(mean, scale):
    """The start takes the law's own mean and spread, so that neither the offset nor sigma_max shows in the samples."""
    law = sj.GaussianDenoiser(np.array([mean]), np.array([[scale**2]]))
    key, num = jax.random.key(0), 500
    settings = {"sigma_min": 1e-3 * scale, "rtol": 1e-5, "atol": 1e-4 * scale}
    samples = sj.sample(law, key, num, sigma_max=5 * scale, **settings)
    exact = np.asarray(sj.initial_noise(key, num, 1), float)
    # The same noises, which a linear flow keeps: but for (3/8) (1 / 25)^2 of the start, some tens of steps that err
    # rtol |u| + atol each and contract, and rounding of the mean.
    steps = 10 * (1e-4 + 1e-5 * (mean / scale + 4))
    rounding = 40 * np.finfo(np.float32).eps * mean / scale
    assert np.max(np.abs((samples - mean) / scale - exact)) < 4 * 6e-4 + steps + rounding
    bare = lambda u, s: law(u, s)  # noqa: E731
    settings |= {"shape_or_dim": 1, "mean": np.array([mean])}
    given = sj.sample(bare, key, num, sigma_max=160 * scale, **settings)
    assert np.max(np.abs((given - mean) / scale - exact)) < 2e-4 + steps + rounding


def test_tolerances_do_not_loosen_with_the_dimension(x64):
    """One coordinate that moves among many that rest: the tolerance holds for it."""
    found = []
    for d in (1, 784):
        variances = np.full(d, 1e-12)
        variances[0] = 1.0
        law = sj.GaussianDenoiser(np.zeros(d), np.diag(variances))
        end = sj.flow(law, np.eye(d)[0] * 80.0, 80.0, 0.002, rtol=1e-3)[0]
        found.append(float(end - 80 * np.sqrt((1 + 0.002**2) / (1 + 80**2))))
    # Steps that err 1e-3 of (1 + |u|) each, some tens of them, which the flow contracts.
    np.testing.assert_allclose(found[1], found[0], rtol=0.5)
    assert abs(found[0]) < 1e-3


def test_dense_solution_is_as_good_as_its_end(x64):
    law = sj.GaussianDenoiser.fit(sj.datasets.digits().points[:300].astype(float))
    u = 20 * jax.random.normal(jax.random.key(0), (64,))
    found = sj.flow_solution(law, u, 20.0, 0.01, dense=True)
    for level in np.geomspace(0.0101, 19.0, 40):
        exact = sj.gaussian_flow(law, u, 20.0, level)
        # 1e-7 of (1 + |u|) a step, over some hundred steps that contract.
        assert np.max(np.abs(found.evaluate(level) - exact)) < 1e-5 * (1 + level)


def test_initial_noise_in_half_precision():
    noise = sj.initial_noise(jax.random.key(0), 100, 400, dtype=jnp.bfloat16)
    assert noise.dtype == jnp.bfloat16
    values = np.asarray(noise, float)
    assert len(np.unique(values)) > 1000  # 128 where the draws themselves are rounded
    # Four standard errors of 40,000 draws; rounding is even.
    assert abs(values.mean()) < 4 / 200 and abs(values.std() - 1) < 4 / np.sqrt(2 * 40_000) + 2e-3
