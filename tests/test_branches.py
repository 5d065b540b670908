"""One of several denoisers by the noise level, for batches of noise levels too."""

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


def test_derivatives_are_those_of_the_chosen_one(parts, x64):
    both = sj.ScheduledDenoiser(parts, [0.5, 1.0])
    u = jax.random.normal(jax.random.key(1), (D,))
    for sigma in (0.3, 0.7, 2.0):
        one = parts[int(np.sum(sigma > np.array([0.5, 1.0])))]
        for transform in (jax.jacfwd, jax.jacrev):
            for argument in (0, 1):
                found = transform(both, argument)(u, jnp.asarray(sigma))
                expected = transform(one, argument)(u, jnp.asarray(sigma))
                np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    in_batch = jax.vmap(jax.grad(lambda u, s: both(u, s)[0]))(
        jnp.stack([u] * 3), jnp.array([0.3, 0.7, 2.0])
    )
    alone = [
        jax.grad(lambda u, p=p, s=s: p(u, s)[0])(u)
        for p, s in zip(parts, (0.3, 0.7, 2.0), strict=True)
    ]
    np.testing.assert_allclose(in_batch, np.stack(alone), rtol=1e-12, atol=1e-14)
