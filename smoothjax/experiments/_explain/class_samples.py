"""Samples of models of classes: each from a noise of its own, with a label of its own."""

from collections.abc import Mapping

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..._calls import as_argument
from ..._jax.blocks import in_batches
from ...denoisers import Denoiser
from ...flows import flow
from ...grids import edm_grid
from .classes import ClassNetwork, LabelledPoints, Model, as_class_argument, at_label


def samples_by_class(
    model: Model, starts: LabelledPoints, high: float, low: float, steps: int, batch_size: int
) -> np.ndarray:
    """What `smoothjax.sample` makes of these states at the highest noise level by DDIM, each with its label, (n, d).

    Args:
        model: denoisers by class, or a function of three arguments.
        starts: states, (n, d), and labels.
        high, low: noise levels of the first and the last call.
        steps: calls.
        batch_size: samples at a time.
    """
    dtype = starts.points.dtype
    levels = edm_grid(steps, jnp.asarray(high, dtype), jnp.asarray(low, dtype))
    if isinstance(model, Mapping):
        return starts.by_class(
            lambda label, u, size: np.asarray(
                _follow(as_argument(model[label]), jnp.asarray(u), levels, size)
            ),
            batch_size,
        )
    network = as_class_argument(model)
    u, labels = jnp.asarray(starts.points), jnp.asarray(starts.labels)
    return np.asarray(_follow_labelled(network, u, labels, levels, batch_size))


@eqx.filter_jit
def _follow(
    denoiser: Denoiser, u: Float[Array, "n d"], levels: Float[Array, " m"], batch_size: int
) -> Float[Array, "n d"]:
    return in_batches(lambda i: _end(denoiser, u[i], levels), len(u), batch_size)


@eqx.filter_jit
def _follow_labelled(
    network: ClassNetwork,
    u: Float[Array, "n d"],
    labels: Int[Array, " n"],
    levels: Float[Array, " m"],
    batch_size: int,
) -> Float[Array, "n d"]:
    one = lambda i: _end(at_label(network, labels[i]), u[i], levels)  # noqa: E731
    return in_batches(one, len(u), batch_size)


def _end(denoiser: Denoiser, u: Float[Array, " d"], levels: Float[Array, " m"]) -> Array:
    return flow(denoiser, u, levels[0], 0.0, solver=diffrax.Euler(), levels=levels)


def drawn_labels(key: jax.Array, num: int, labels: np.ndarray) -> np.ndarray:
    """Labels of samples, in the proportions of the given ones, (num,)."""
    return np.asarray(jax.random.choice(key, jnp.asarray(labels), (num,)))
