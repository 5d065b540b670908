"""One of several denoisers by the noise level, for batches of noise levels too."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj

N, D = 37, 3


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(0)
    points = jnp.asarray(rng.standard_normal((N, D)))
    exact = sj.EmpiricalDenoiser(points)
    return exact, sj.TemperedDenoiser(exact, 2.0), sj.GaussianDenoiser.fit(points)


def by_hand(parts, u, sigma):
    index = int(np.sum(np.asarray(sigma) > np.array([0.5, 1.0])))
    return parts[index](u, sigma)


def shapes_of(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars if hasattr(v.aval, "shape"))
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from shapes_of(inner)


def test_batches_of_levels_points_and_both(parts):
    both = sj.ScheduledDenoiser(parts, [0.5, 1.0])
    u = jax.random.normal(jax.random.key(0), (5, D))
    levels = jnp.array([0.3, 0.6, 0.5, 1.0, 2.0])
    expected = np.stack([[by_hand(parts, x, s) for x in u] for s in levels])
    over_points = jax.vmap(both, (0, None))
    over_both = jax.vmap(over_points, (None, 0))
    rtol = 16 * float(jnp.finfo(u.dtype).eps)
    np.testing.assert_allclose(jax.jit(over_both)(u, levels), expected, rtol=rtol, atol=rtol)
    pairs = jax.jit(jax.vmap(both))(u, levels)
    diagonal = expected[np.arange(5), np.arange(5)]
    np.testing.assert_allclose(pairs, diagonal, rtol=rtol, atol=rtol)
    inner_levels = jax.jit(jax.vmap(jax.vmap(both, (None, 0)), (0, None)))(u, levels)
    np.testing.assert_allclose(inner_levels, expected.swapaxes(0, 1), rtol=rtol, atol=rtol)


def test_no_training_set_for_each_level():
    """A batch of levels holds no array that its denoisers by themselves do not hold."""
    points = np.random.default_rng(1).standard_normal((N, 130))
    exact = sj.EmpiricalDenoiser(jnp.asarray(points))
    parts = exact, sj.TemperedDenoiser(exact, 2.0)
    u, levels = jnp.zeros((5, 130)), jnp.linspace(0.1, 1, 5)

    def large(denoiser):
        shapes = shapes_of(jax.make_jaxpr(jax.vmap(denoiser))(u, levels).jaxpr)
        return {shape for shape in shapes if np.prod(shape) >= N * 130}

    assert large(sj.SwitchedDenoiser(*parts, 0.5)) <= set.union(*map(large, parts))


@eqx.filter_jit
def slopes(denoiser, u, sigma):
    """By the point and by the noise level, forwards and backwards."""
    return [t(denoiser, k)(u, sigma) for t in (jax.jacfwd, jax.jacrev) for k in (0, 1)]


@eqx.filter_jit
def gradient(denoiser, u, sigma):
    """Of one coordinate, of one query or of a batch of them."""
    of = jax.grad(lambda u, s: denoiser(u, s)[0])
    return (jax.vmap(of) if u.ndim > 1 else of)(u, sigma)


def test_derivatives_are_those_of_the_chosen_one(parts, x64):
    both = sj.ScheduledDenoiser(parts, [0.5, 1.0])
    u = jax.random.normal(jax.random.key(1), (D,))
    levels = np.array([0.3, 0.7, 2.0])
    for sigma in levels:
        one = parts[int(np.sum(sigma > np.array([0.5, 1.0])))]
        for found, expected in zip(slopes(both, u, sigma), slopes(one, u, sigma), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    in_batch = gradient(both, np.stack([u] * 3), levels)
    alone = [gradient(p, u, s) for p, s in zip(parts, levels, strict=True)]
    np.testing.assert_allclose(in_batch, np.stack(alone), rtol=1e-12, atol=1e-14)
