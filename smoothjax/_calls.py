"""Calls of a denoiser that a user brings: one point in, one real point of that shape out."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._checks import as_float_array
from ._jax.blocks import in_batches
from ._numerics import keys_by_index, noises

Denoiser = Callable[[Float[Array, " d"], Any], Float[Array, " d"]]
"""Any callable `(u, sigma) -> E[x_0 | u]` for one point `u` of shape (d,) and a scalar noise level."""


def evaluate(
    denoiser: Denoiser, u: Float[Array, " d"], sigma: Any, name: str = "denoiser"
) -> Float[Array, " d"]:
    """`denoiser(u, sigma)` in its own dtype, refusing an output of another shape: it would broadcast unnoticed."""
    output = as_float_array(denoiser(u, sigma), f"{name}(u, sigma)")
    if output.shape != u.shape:
        raise ValueError(
            f"`{name}` must map one point of shape {u.shape} and a noise level to one point of shape {u.shape}; "
            f"got an output of shape {output.shape}."
        )
    return output


def denoised(denoiser: Denoiser, u: Float[Array, " d"], sigma: Any) -> Float[Array, " d"]:
    """`evaluate` in the dtype of `u`."""
    return evaluate(denoiser, u, sigma).astype(u.dtype)


def require_continuous(denoiser: Denoiser, advice: str) -> None:
    """Raises for a denoiser that jumps at many noise levels, at each of which an adaptive solver would look for the jump.

    Denoisers say so by an attribute `is_step_function_of_sigma`, and those that are made of one need not.
    """
    steps = lambda node: getattr(node, "is_step_function_of_sigma", False) is True  # noqa: E731
    if any(map(steps, jax.tree.leaves(denoiser, is_leaf=steps))):
        raise ValueError(
            "An adaptive solver needs a denoiser that is continuous in sigma; got a step function of it, such as one with "
            f"index='nearest'. {advice}"
        )


def takes_label(network: Any) -> bool:
    """Whether a network can be called as `network(u, sigma, label)`."""
    try:
        inspect.signature(network).bind(None, None, None)
    except (TypeError, ValueError):  # of two arguments, or none that could be read
        return False
    return True


def as_argument(denoiser: Denoiser) -> Denoiser:
    """The denoiser as an argument of a compiled function that outlives this call.

    Modules are pytrees: their arrays are arguments. What a bare callable reads (parameters, a model that is trained in
    place) would be remembered with it, so that it is passed as a function that no earlier call has seen.
    """
    if isinstance(denoiser, eqx.Module):
        return denoiser  # pyright: ignore[reportReturnType]
    return lambda u, sigma: denoiser(u, sigma)


def mean_over_noises(
    function: Callable[[Array], Any],
    data: Float[Array, "n d"],
    sigma: Array,
    key: PRNGKeyArray,
    num_noises: int,
    batch_size: int,
) -> Any:
    """For each data point the mean of `function(x0 + sigma z)` over its noises, leaf by leaf: leading axis n."""
    keys = keys_by_index(key, data.shape[0])

    def one_point(i: Array) -> Any:
        draws = noises(keys[i], num_noises, data[i])
        values = jax.vmap(lambda z: function(data[i] + sigma * z))(draws)
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), values)

    return in_batches(one_point, data.shape[0], batch_size)
