"""Training: one compiled loop, vmapped over seeds, penalties and noise levels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import (
    RealScalar,
    as_float_array,
    as_key,
    as_positive_integer,
    checked,
    require_parameters,
    require_positive,
)
from .._kinds import checks_kinds
from .._line import as_gaps
from ..parametrization import Prediction
from ._losses import line_regression_loss, weight_penalty
from ._networks import NetworkDenoiser


class TrainingRun(NamedTuple):
    """A trained model, or many with leading axes.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> run = sj.learning.train(lambda x, key: x**2, jnp.array(1.0), jax.random.key(0), num_steps=20, num_records=2)
        >>> run.losses.shape, bool(run.losses[0] > run.losses[1]), bool(run.model < 1)
        ((2,), True, True)
    """

    model: Any
    losses: Float[Array, "... records"]
    """The loss at evenly spaced steps."""


def adam(learning_rate: float, num_steps: int) -> optax.GradientTransformation:
    """Adam with a learning rate that falls to zero as a cosine."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))


def step_down(
    optimizer: optax.GradientTransformation,
    loss: Callable[[Any], Float[Array, ""]],
    parameters: Any,
    state: Any,
    factor: Array | None = None,
) -> tuple[tuple[Any, Any], Float[Array, ""]]:
    """One step, times a factor if there is one: parameters and the optimizer's state after it, and the loss before."""
    value, gradient = jax.value_and_grad(loss)(parameters)
    with jax.numpy_dtype_promotion("standard"):  # optax counts steps in integers
        updates, state = optimizer.update(gradient, state, parameters)
    if factor is not None:
        updates = jax.tree.map(lambda u: factor.astype(u.dtype) * u, updates)
    return (optax.apply_updates(parameters, updates), state), value


@checks_kinds
def train(
    loss: Callable[[Any, PRNGKeyArray], Float[Array, ""]],
    model: Any,
    key: PRNGKeyArray,
    *,
    num_steps: int,
    learning_rate: RealScalar = 3e-3,
    num_records: int = 50,
) -> TrainingRun:
    """Minimises `loss(model, key)` by Adam with a cosine schedule. Pure: `jax.vmap` it over models, keys or what `loss`
    closes over.

    Args:
        loss: of a model and a key for the step's randomness; penalties belong in it, see `weight_penalty`.
        model: any pytree, e.g. a `NetworkDenoiser`; its floating-point arrays are trained.
        key: a key is folded from it for every step.
        num_steps: gradient steps. What a network has learned depends on it: record it.
        learning_rate: at the start; falls to zero as a cosine.
        num_records: of the loss, at evenly spaced steps; at most `num_steps`.

    Returns:
        The trained model and its losses, shape (num_records,).

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> loss = lambda x, key: (x - 3) ** 2
        >>> run = sj.learning.train(loss, jnp.array(0.0), jax.random.key(0), num_steps=200, learning_rate=0.1)
        >>> print(run.model.round(2))
        3.0
    """
    key = as_key(key)
    num_steps = as_positive_integer(num_steps, "num_steps")
    records = min(as_positive_integer(num_records, "num_records"), num_steps)
    optimizer = adam(1.0, num_steps)
    rate = require_positive(learning_rate, "learning_rate")
    require_parameters(model)
    parameters, static = eqx.partition(model, eqx.is_inexact_array)

    def step(carry, i):
        parameters, state = carry
        of = lambda parameters: loss(eqx.combine(parameters, static), jax.random.fold_in(key, i))  # noqa: E731
        # The rate may be traced: a factor, and no part of the schedule.
        return step_down(optimizer, of, parameters, state, rate)

    def record(carry, block):
        carry, values = jax.lax.scan(step, carry, block)
        return carry, values[-1]

    size = num_steps // records
    blocks = jnp.arange(records * size).reshape(records, size)
    carry = (parameters, optimizer.init(parameters))
    # What the blocks leave over comes first, so that the last record is the last step.
    rest = num_steps - records * size
    carry, _ = jax.lax.scan(step, carry, jnp.arange(rest))
    (parameters, _), losses = jax.lax.scan(record, carry, blocks + rest)
    return TrainingRun(eqx.combine(parameters, static), losses)


@checks_kinds
@eqx.filter_jit
def train_on_line(
    points: Float[Array, " n"],
    sigma: RealScalar,
    penalties: Float[Array, " penalties"],
    key: PRNGKeyArray,
    *,
    num_seeds: int,
    width: int = 256,
    num_layers: int = 2,
    num_steps: int = 6000,
    learning_rate: float = 3e-3,
    prediction: Prediction = "eps",
) -> TrainingRun:
    """Networks for one noise level that regress the exact score of points on a line, for all penalties and seeds at once.

    The loss is `line_regression_loss + penalty * weight_penalty`. One compiled call: `(penalties, seeds)` leading axes.

    Args:
        points: training points, shape (n,), one or more; equal ones count as often as they are there.
        sigma: noise level.
        penalties: on the squared weights, halved; shape (penalties,). Zero is allowed.
        key: seed i has the same initial weights under every penalty.
        num_seeds, width, num_layers, num_steps, learning_rate, prediction: see `NetworkDenoiser.relu` and `train`.

    Source: Chen, ICLR 2026, section 6 (weight decay and the smoothed score).

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> points, penalties = jnp.array([-1.0, 1.0]), jnp.array([0.0, 1e3])
        >>> sizes = dict(num_seeds=1, width=8, num_steps=300, learning_rate=0.03)
        >>> run = sj.learning.train_on_line(points, 0.5, penalties, jax.random.key(0), **sizes)
        >>> weights = [float(jnp.abs(run.model.network.layers[0].weight[i]).max()) for i in (0, 1)]
        >>> weights[1] < 0.1 * weights[0]  # the penalty leaves nothing of the weights
        True
    """
    key = as_key(key)
    points = as_gaps(points, 0.0).points
    penalties = as_float_array(penalties, "penalties").astype(points.dtype)
    if penalties.ndim != 1 or penalties.shape[0] == 0:
        raise ValueError(f"`penalties` must have shape (penalties,); got {penalties.shape}.")
    penalties = checked(penalties, jnp.any(penalties < 0), "`penalties` must not be negative")
    num_seeds = as_positive_integer(num_seeds, "num_seeds")

    def one(penalty: Array, key: PRNGKeyArray) -> TrainingRun:
        model = NetworkDenoiser.relu(
            1, width, num_layers, key=key, prediction=prediction, conditioned=False
        )
        model = jax.tree.map(
            lambda x: x.astype(points.dtype) if eqx.is_inexact_array(x) else x, model
        )

        def loss(model: NetworkDenoiser, _: PRNGKeyArray) -> Array:
            fit = line_regression_loss(model, points, sigma)
            return fit + penalty * weight_penalty(model).astype(fit.dtype)

        return train(loss, model, key, num_steps=num_steps, learning_rate=learning_rate)

    over_seeds = eqx.filter_vmap(one, in_axes=(None, 0))
    return eqx.filter_vmap(over_seeds, in_axes=(0, None))(
        penalties, jax.random.split(key, num_seeds)
    )
