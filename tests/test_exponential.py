"""The exponential multistep solver: exact for constant denoisers, of second order, and with few calls."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax.flows._integration import velocity

SOLVER = sj.ExponentialMultistep()


def test_exact_where_the_denoiser_is_constant(dtype):
    point = jnp.asarray([1.0, -2.0], dtype)
    denoiser, u = sj.EmpiricalDenoiser(point[None]), jnp.asarray([50.0, 30.0], dtype)
    found = sj.flow_solution(denoiser, u, 80.0, 1e-4, solver=SOLVER)
    # Of numbers as large as u, a few roundings a step; the exponent of 13 log units has a rounding of its own.
    slack = 40 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found.value, point + 1e-4 / 80 * (u - point), rtol=slack, atol=slack)
    assert found.num_evaluations == found.num_steps + 1 < 15


def on_equal_steps(denoiser, u, high, low, num):
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        SOLVER,
        t0=np.log(high),
        t1=np.log(low),
        dt0=(np.log(low) - np.log(high)) / num,
        y0=u,
        args=denoiser,
        max_steps=num + 1,
    )
    assert solution.ys is not None
    return solution.ys[0]


@pytest.mark.parametrize("levels", [(20.0, 0.05), (0.05, 2.0)], ids=["down", "up"])
def test_second_order(levels, x64):
    gaussian = sj.GaussianDenoiser(jnp.array([1.0, 2.0]), jnp.diag(jnp.array([0.3, 2.0])))
    u = jnp.array([0.7, -1.0]) * levels[0]
    exact = sj.gaussian_flow(gaussian, u, *levels)
    errors = [
        np.max(np.abs(on_equal_steps(gaussian, u, *levels, num) - exact))
        for num in (800, 1600, 3200)
    ]
    # Factors of four, but for terms of the order of the step, which halve; those of the next order are about its square.
    first, second = np.divide(errors[:-1], errors[1:])
    assert abs(first - 4) < 0.1 and abs(2 * second - first - 4) < (first - 4) ** 2


@pytest.mark.parametrize("rtol", [1e-2, 1e-4])
def test_error_control_and_few_calls(rtol, x64):
    gaussian = sj.GaussianDenoiser.fit(sj.datasets.digits().points.astype(float))
    u = 80 * jax.random.normal(jax.random.key(0), (10, 64))
    exact = jax.vmap(lambda u: sj.gaussian_flow(gaussian, u, 80.0, 0.002))(u)

    def solve(solver, rtol):
        run = jax.jit(
            jax.vmap(lambda u: sj.flow_solution(gaussian, u, 80.0, 0.002, rtol=rtol, solver=solver))
        )
        found = run(u)
        error = np.sqrt(np.mean((found.value - exact) ** 2))
        return error, float(np.mean(found.num_evaluations))

    error, calls = solve(SOLVER, rtol)
    # Local errors of `rtol (1 + |u|)` a coordinate, |u| of 0.5 at the end, over tens of steps that contract.
    assert error < 10 * rtol
    # A Runge-Kutta method of fifth order pays for the decay of the noise whatever the tolerance; at tight ones, which hold
    # for every coordinate, order tells.
    assert calls < (0.75 if rtol > 1e-3 else 1) * solve(None, rtol)[1]


def test_samples_replay_the_training_set(x64):
    points = sj.datasets.digits().points[:200].astype(float)
    denoiser, key = sj.EmpiricalDenoiser(points), jax.random.key(0)
    sampled = sj.sample(denoiser, key, 20, solver=SOLVER, rtol=1e-2, atol=1e-2)
    converged = sj.sample(denoiser, key, 20, rtol=1e-8)
    distance, found = sj.nearest_neighbours(sampled, points, 1)
    expected = sj.nearest_neighbours(converged, points, 1)[1]
    assert np.all(distance < 1e-6) and np.mean(found == expected) >= 0.95


def test_dense_solution_and_derivatives(x64):
    gaussian = sj.GaussianDenoiser(jnp.array([1.0]), jnp.array([[0.5]]))
    u = jnp.array([2.0])
    solution = sj.flow_solution(gaussian, u, 5.0, 0.1, solver=SOLVER, rtol=1e-6, dense=True)
    exact = sj.gaussian_flow(gaussian, u, 5.0, 0.7)
    np.testing.assert_allclose(solution.evaluate(0.7), exact, atol=1e-4)
    slope = jax.grad(lambda u: sj.flow(gaussian, u, 5.0, 0.1, solver=SOLVER, rtol=1e-6)[0])(u)
    expected = jax.grad(lambda u: sj.gaussian_flow(gaussian, u, 5.0, 0.1)[0])(u)
    np.testing.assert_allclose(slope, expected, rtol=1e-4)
