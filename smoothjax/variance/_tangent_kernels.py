"""Neural tangent kernels: of infinitely wide ReLU networks in closed form, and of any network as it is."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import as_positive_integer


class ReLUTangentKernel(eqx.Module):
    """Tangent kernel of a fully connected ReLU network of infinite width, and the covariance of its initial outputs.

    With weights `sqrt(2 / fan in) w` (the last layer and the first: `1 / sqrt(fan in)`) and biases `bias_scale b`, all w and
    b standard normal and trained: the parametrisation in which the kernel has a limit. The kernel falls off from `z = z'`
    like the angle between the two, which nearly parallel embeddings give to the root of the machine epsilon only.

    Args:
        num_layers: linear maps, at least 2.
        embedding: callable `(u, sigma) -> (m,)`, what the network sees; by default u with `log sigma` appended.
        bias_scale: of every layer.

    Source: Jacot, Gabriel and Hongler 2018; the arc-cosine kernels of Cho and Saul 2009.
    """

    num_layers: int = eqx.field(static=True)
    embedding: Callable[[Array, Array], Array]
    bias_scale: float

    def __init__(
        self,
        num_layers: int,
        embedding: Callable[[Array, Array], Array] | None = None,
        *,
        bias_scale: float = 1.0,
    ):
        if as_positive_integer(num_layers, "num_layers") < 2:
            raise ValueError(f"`num_layers` must be at least 2; got {num_layers}.")
        self.num_layers, self.bias_scale = num_layers, bias_scale
        self.embedding = append_log_level if embedding is None else embedding

    def __call__(
        self,
        u: Float[Array, " d"],
        sigma: Float[Array, ""],
        v: Float[Array, " d"],
        tau: Float[Array, ""],
    ) -> Float[Array, ""]:
        return self._both(u, sigma, v, tau)[1]

    def initial_covariance(
        self,
        u: Float[Array, " d"],
        sigma: Float[Array, ""],
        v: Float[Array, " d"],
        tau: Float[Array, ""],
    ) -> Float[Array, ""]:
        """Covariance of one output of the untrained network at two inputs."""
        return self._both(u, sigma, v, tau)[0]

    def _both(self, u: Any, sigma: Any, v: Any, tau: Any) -> tuple[Array, Array]:
        x, y = self.embedding(u, sigma), self.embedding(v, tau)
        bias = self.bias_scale**2
        xx, xy, yy = (jnp.sum(a * b) / x.size + bias for a, b in ((x, x), (x, y), (y, y)))
        tangent = xy
        for layer in range(2, self.num_layers + 1):
            # E relu(a) relu(b) and E step(a) step(b) of Gaussians with these covariances, twice each (He's factor), but
            # for the last layer.
            gain = 0.5 if layer == self.num_layers else 1.0
            sine = jnp.sqrt(jnp.maximum(xx * yy - xy**2, 0))
            angle = jnp.arctan2(sine, xy)
            step = gain * (1 - angle / math.pi)
            xy = gain * (sine + (math.pi - angle) * xy) / math.pi + bias
            xx, yy = gain * xx + bias, gain * yy + bias
            tangent = tangent * step + xy
        return xy, tangent


def append_log_level(u: Float[Array, " d"], sigma: Float[Array, ""]) -> Float[Array, " d+1"]:
    """u with `log sigma` appended, what the networks of `smoothjax.learning` see."""
    return jnp.append(u, jnp.log(sigma))


class EmpiricalTangentKernel(eqx.Module):
    """Tangent kernel of a network as it is: `tr(df/dtheta(z) df/dtheta(z')^T) / d` over its floating-point arrays.

    Exact for one output. With several, a finite network's kernel is a (d, d) block; this is the multiple of the identity
    closest to it, which the block tends to with the width.

    Args:
        model: callable pytree `(u, sigma) -> (d,)`, what is trained: the network's output, not the denoiser.
    """

    model: Callable[[Array, Array], Array]

    def __call__(
        self,
        u: Float[Array, " d"],
        sigma: Float[Array, ""],
        v: Float[Array, " d"],
        tau: Float[Array, ""],
    ) -> Float[Array, ""]:
        parameters, static = eqx.partition(self.model, eqx.is_inexact_array)

        def jacobian(u: Array, sigma: Array) -> Any:
            return jax.jacrev(lambda p: eqx.combine(p, static)(u, sigma))(parameters)

        first, second = jacobian(u, sigma), jacobian(v, tau)
        products = jax.tree.map(lambda a, b: jnp.sum(a * b), first, second)
        return jax.tree.reduce(jnp.add, products) / u.shape[0]
