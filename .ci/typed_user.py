"""A program of a user, for a type checker beside the installed package: one line is wrong, the only one to complain of."""

import jax
import jax.numpy as jnp

import smoothjax as sj

points = jnp.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
memorizer = sj.EmpiricalDenoiser(points)
gaussian: sj.GaussianDenoiser = sj.GaussianDenoiser.fit(points)
samples: jax.Array = sj.sample(gaussian, jax.random.key(0), 4)
shift: jax.Array = memorizer(samples[0], jnp.asarray(0.5)) - gaussian(samples[0], jnp.asarray(0.5))
rmse: sj.Estimate = sj.denoiser_rmse(memorizer, gaussian, points, 0.5, jax.random.key(1))
entries: str = sj.citation(gaussian)


def ends(denoiser: sj.AbstractDenoiser, starts: jax.Array) -> jax.Array:
    return jax.vmap(lambda u: sj.flow(denoiser, u, 80.0, 0.01))(starts)


tempered: jax.Array = ends(sj.TemperedDenoiser(gaussian, 2.0), samples)
wrong = sj.sample(gaussian, jax.random.key(0), "four")  # wrong: a number of samples
