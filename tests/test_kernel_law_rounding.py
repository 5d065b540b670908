"""Kernel laws whose small eigenvalues decide, in single precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import smoothjax as sj

P = 200
PLACES = np.linspace(-2, 2, 9, dtype=np.float32)


def kernel(u, s, v, t):
    return jnp.exp(-0.5 * (jnp.sum((u - v) ** 2) + (jnp.log(s) - jnp.log(t)) ** 2))


def problem():
    levels = sj.variance.LogUniformLevels(0.3, 3.0)
    return sj.variance.DenoisingProblem(jnp.array([[-1.0], [1.0]]), levels, prediction="eps")


def wide_gram(u, s, v, t):
    u, s, v, t = (np.asarray(x, float) for x in (u, s, v, t))
    return np.exp(-0.5 * ((u[:, None] - v) ** 2 + np.log(s[:, None] / t) ** 2))


def ridge_law(strength):
    return sj.variance.KernelLaw.ridge(problem(), kernel, P, jax.random.key(0), ridge=strength)


def flow_law(strength):
    make = sj.variance.KernelLaw.gradient_flow
    return make(problem(), kernel, P, jax.random.key(0), duration=1 / strength)


def ridge_smoother(gram, strength):
    return np.linalg.inv(gram + strength * P * np.eye(P))


def flow_smoother(gram, strength):
    """The integral of exp(-K t) to the end: a block of the exponential of a larger matrix."""
    time = 1 / (strength * P)
    block = np.block([[-gram * time, time * np.eye(P)], [np.zeros((P, 2 * P))]])
    return scipy.linalg.expm(block)[:P, P:]


@pytest.mark.skipif(jax.config.jax_enable_x64, reason="of float32")
@pytest.mark.parametrize("strength", [1e-3, 1e-5, 1e-6])
@pytest.mark.parametrize("law, solve", [(ridge_law, ridge_smoother), (flow_law, flow_smoother)])
def test_mean_with_a_small_ridge_or_long_training_in_float32(law, solve, strength):
    found = law(strength)
    u, s = np.asarray(found.u[:, 0], float), np.asarray(found.sigma, float)
    smoother = solve(wide_gram(u, s, u, s), strength)
    coefficients = smoother @ ((np.tanh(u / s**2) - u) / s)
    columns = wide_gram(PLACES, np.ones(9), u, s)
    expected = PLACES + columns @ coefficients
    values = jax.vmap(found.mean_denoiser, (0, None))(jnp.asarray(PLACES[:, None]), 1.0)[:, 0]
    # Independent roundings of the Gram matrix, of an epsilon each, move the output by epsilon times |S k| |a|, those of the
    # column and of the coefficients by epsilon times the root of the sum of squares; six standard deviations of both.
    size = np.linalg.norm(columns @ smoother, axis=1) * np.linalg.norm(coefficients)
    size += np.linalg.norm(columns * coefficients, axis=1)
    bound = 6 * np.finfo(np.float32).eps * (size + 1 + np.abs(PLACES))
    assert np.all(np.abs(np.asarray(values, float) - expected) < bound), (values - expected) / bound


@pytest.mark.parametrize("law", [ridge_law, flow_law])
def test_where_the_rounding_of_the_kernel_decides_it_is_refused(law):
    epsilon = np.finfo(jnp.zeros(()).dtype).eps
    with pytest.raises(ValueError, match=r"largest eigenvalue.* is .* of what regularises it"):
        law(0.1 * epsilon)
    assert np.all(np.isnan(jax.jit(lambda s: law(s).smoother)(0.1 * epsilon)))
    np.testing.assert_allclose(
        jax.jit(lambda s: law(s).mean_coefficients)(1e-2), law(1e-2).mean_coefficients, rtol=1e-3
    )
