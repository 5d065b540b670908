"""What a law of trained models generates: the flows of many models from common starts."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import RealScalar, as_float_array, as_key, as_positive_integer, shown
from .._kinds import checks_kinds
from ..flows import flow


@checks_kinds
@eqx.filter_jit
def flow_of_models(
    law: Any,
    key: PRNGKeyArray,
    starts: Float[Array, "num d"],
    sigma_from: RealScalar,
    sigma_to: RealScalar,
    *,
    num_models: int,
    rtol: float | None = None,
    levels: Float[Array, " m"] | np.ndarray | None = None,
    solver: diffrax.AbstractSolver | None = None,
) -> Float[Array, "models num d"]:
    """Endpoints of the probability flows of many trained models, all from the same starts. One compiled call.

    A trained model is frozen while it is sampled: its error at one place and time goes with that at another. Common starts
    leave the difference between models as the only noise of a comparison of models.

    Args:
        law: with `sample(key) -> denoiser`; for models that are trained anew instead of drawn from a law's approximation,
            `RetrainedLaw`.
        key: model i is drawn from `fold_in(key, i)`: more models keep the first ones as they are.
        starts: states at `sigma_from`, shape (num, d).
        sigma_from, sigma_to: noise levels, as for `flow`.
        num_models: models.
        rtol: of the adaptive solver, as for `flow`.
        levels, solver: instead, a grid of noise levels and a solver to step through it with, as for `flow`. On a grid all
            starts are at one noise level at a time, and models whose features are products share their sum over time.

    Raises:
        ValueError: for starts of a wrong shape, or not at least one model.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> law = sj.LinearModelLaw(lambda u, sigma: u, jnp.array([[0.0]]), jnp.array([[[0.5]]]))
        >>> key, grid = jax.random.key(0), dict(levels=sj.log_uniform_grid(9, 2.0, 1.0), solver=sj.ExponentialMultistep())
        >>> ends = sj.variance.flow_of_models(law, key, jnp.array([[4.0]]), 2.0, 1.0, num_models=2, **grid)
        >>> w = [law.sample(jax.random.fold_in(key, i)).weights[0, 0] for i in (0, 1)]
        >>> bool(jnp.allclose(ends[:, 0, 0], 2 * 2 ** jnp.array(w), rtol=0.01))  # where D = w u ends
        True
    """
    key = as_key(key)
    if not callable(getattr(law, "sample", None)):
        raise ValueError(f"`law` must have a method `sample(key)`; got {shown(law)}.")
    starts = as_float_array(starts, "starts")
    if starts.ndim != 2:
        raise ValueError(f"`starts` must have shape (num, d); got {starts.shape}.")

    def one(i: Array) -> Array:
        model = law.sample(_key_of_model(key, i))
        solve = lambda u: flow(  # noqa: E731
            model, u, sigma_from, sigma_to, rtol=rtol, levels=levels, solver=solver
        )
        return jax.vmap(solve)(starts)

    return jax.lax.map(one, jax.numpy.arange(as_positive_integer(num_models, "num_models")))


@eqx.filter_jit
def coordinates_of_models(
    law: Any, key: PRNGKeyArray, *, num_models: int
) -> Float[Array, "models r"]:
    """Coordinates, along the law's directions, of the models that `flow_of_models` draws with the same key."""
    key = as_key(key)
    one = lambda i: law.coordinates(_key_of_model(key, i))  # noqa: E731
    return jax.lax.map(one, jax.numpy.arange(num_models))


def _key_of_model(key: PRNGKeyArray, i: Array) -> PRNGKeyArray:
    return jax.random.fold_in(key, i)
