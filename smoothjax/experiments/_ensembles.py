"""What the experiments with networks share: ensembles trained in one call, exact starts, states at several noise levels."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import RealScalar
from ..denoisers import Denoiser
from ..flows import flow
from ..learning import NetworkDenoiser, TrainingRun, denoising_loss, train, weight_penalty
from ..parametrization import Prediction


@eqx.filter_jit
def train_ensemble(
    data: Float[Array, "n d"],
    key: PRNGKeyArray,
    *,
    num_seeds: int,
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    width: int,
    num_layers: int,
    batch_size: int,
    prediction: Prediction,
    penalty: RealScalar = 0.0,
    learning_rate: float = 2e-3,
) -> TrainingRun:
    """Noise-conditioned networks trained on fresh noise, with a leading axis of seeds; one compiled call."""

    def one(key: PRNGKeyArray) -> TrainingRun:
        init, fit = jax.random.split(key)
        model = NetworkDenoiser.relu(
            data.shape[1], width, num_layers, key=init, prediction=prediction
        )
        model = jax.tree.map(
            lambda x: x.astype(data.dtype) if eqx.is_inexact_array(x) else x, model
        )

        def loss(model: NetworkDenoiser, key: PRNGKeyArray) -> Array:
            value = denoising_loss(
                model,
                data,
                key,
                batch_size=batch_size,
                sigma_min=sigma_min,
                sigma_max=sigma_max,
            )
            return value + (penalty * weight_penalty(model)).astype(value.dtype)

        return train(loss, model, fit, num_steps=num_steps, learning_rate=learning_rate)

    return eqx.filter_vmap(one)(jax.random.split(key, num_seeds))


def member(ensemble: Any, i: int) -> Any:
    """One model of an ensemble."""
    return jax.tree.map(lambda x: x[i] if eqx.is_array(x) else x, ensemble)


def noisy_points(
    data: Float[Array, "n d"], sigma: float, key: PRNGKeyArray, num: int
) -> Float[Array, "num d"]:
    """Draws of the training points' own law at a noise level: where a perfect sampler would be."""
    pick, noise = jax.random.split(key)
    chosen = data[jax.random.randint(pick, (num,), 0, data.shape[0])]
    return chosen + sigma * jax.random.normal(noise, chosen.shape, data.dtype)


@eqx.filter_jit
def states_at(
    denoiser: Denoiser, starts: Float[Array, "num d"], levels: Float[Array, " levels"]
) -> Float[Array, "levels num d"]:
    """The probability flow of `starts`, which are at `levels[0]`, at every level."""

    def onwards(states: Array, pair: Array) -> tuple[Array, Array]:
        states = jax.vmap(lambda u: flow(denoiser, u, pair[0], pair[1], rtol=1e-4))(states)
        return states, states

    pairs = jnp.stack([levels[:-1], levels[1:]], axis=1)
    return jnp.concatenate([starts[None], jax.lax.scan(onwards, starts, pairs)[1]])
