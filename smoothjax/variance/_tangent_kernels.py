"""Neural tangent kernels: of infinitely wide ReLU networks in closed form, and of any network as it is."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import RealScalar, as_positive_integer
from .._kinds import checks_kinds, require_kinds_of_fields
from .._numerics import norm, safe_sqrt


class ReLUTangentKernel(eqx.Module):
    """Tangent kernel of a fully connected ReLU network of infinite width, and the covariance of its initial outputs.

    With weights `sqrt(2 / fan in) w` (the last layer and the first: `1 / sqrt(fan in)`) and biases `bias_scale b`, all w and
    b standard normal and trained: the parametrisation in which the kernel has a limit. The kernel falls off from `z = z'`
    like the angle between the two, which is taken from differences: near and at `z = z'` the kernel is right to some
    roundings. There the derivative is the mean of both sides'.

    Args:
        num_layers: linear maps, at least 2.
        embedding: callable `(u, sigma) -> (m,)`, what the network sees; by default u with `log sigma` appended.
        bias_scale: of every layer.

    Source: Jacot, Gabriel and Hongler 2018; the arc-cosine kernels of Cho and Saul 2009.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> kernel = sj.variance.ReLUTangentKernel(2, lambda u, sigma: u, bias_scale=0.0)
        >>> u = jnp.array([2.0])
        >>> [round(float(kernel(u, 1.0, v, 1.0)), 5) for v in (u, -u)]  # u^2, and no unit in common
        [4.0, 0.0]
    """

    num_layers: int = eqx.field(static=True)
    embedding: Callable[[Array, Array], Array]
    bias_scale: float

    @checks_kinds
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
        sigma: RealScalar,
        v: Float[Array, " d"],
        tau: RealScalar,
    ) -> Float[Array, ""]:
        return self._both(u, sigma, v, tau)[1]

    def initial_covariance(
        self,
        u: Float[Array, " d"],
        sigma: RealScalar,
        v: Float[Array, " d"],
        tau: RealScalar,
    ) -> Float[Array, ""]:
        """Covariance of one output of the untrained network at two inputs."""
        return self._both(u, sigma, v, tau)[0]

    def _both(self, u: Any, sigma: Any, v: Any, tau: Any) -> tuple[Array, Array]:
        x, y = self.embedding(u, sigma), self.embedding(v, tau)
        bias = self.bias_scale**2
        x, y = (
            jnp.append(z / math.sqrt(z.size), jnp.asarray(self.bias_scale, z.dtype)) for z in (x, y)
        )
        lengths = norm(x), norm(y)
        xy = jnp.sum(x * y)
        # Kahan's angle, and the difference of the squared lengths: neither cancels where x and y are close.
        angle = 2 * jnp.arctan2(
            norm(lengths[1] * x - lengths[0] * y), norm(lengths[1] * x + lengths[0] * y)
        )
        difference = jnp.sum((x - y) * (x + y))
        first, second = lengths
        tangent = xy
        for layer in range(2, self.num_layers + 1):
            # E relu(a) relu(b) and E step(a) step(b) of Gaussians with these covariances, twice each (He's factor), but
            # for the last layer.
            gain = 0.5 if layer == self.num_layers else 1.0
            product, between = gain * first * second, _quotient(difference, first + second)
            # The cosine falls to (sin + (pi - angle) cos) / pi, and this is one less that.
            lost = 2 * jnp.sin(angle / 2) ** 2 - _sine_less_arc_cosine(angle) / math.pi
            tangent = tangent * (gain * (1 - angle / math.pi))
            xy = product * (1 - lost) + bias
            # The determinant of the next layer's covariance: no term is negative.
            square = product**2 * lost * (2 - lost)
            square += bias * (gain * between**2 + 2 * product * lost)
            angle = jnp.arctan2(safe_sqrt(square), xy)
            difference = gain * difference
            first, second = safe_sqrt(gain * first**2 + bias), safe_sqrt(gain * second**2 + bias)
            tangent = tangent + xy
        return xy, tangent


def _quotient(numerator: Array, denominator: Array) -> Array:
    """Zero where the denominator is."""
    return jnp.where(denominator <= 0, 0, numerator / jnp.where(denominator <= 0, 1, denominator))


def _sine_less_arc_cosine(angle: Array) -> Array:
    """`sin a - a cos a`, by its series where the two are close."""
    square = angle**2
    series = 1 / 3 - square * (1 / 30 - square * (1 / 840 - square / 45360))
    return jnp.where(angle < 0.1, angle * square * series, jnp.sin(angle) - angle * jnp.cos(angle))


def append_log_level(u: Float[Array, " d"], sigma: Float[Array, ""]) -> Float[Array, " d+1"]:
    """u with `log sigma` appended, what the networks of `smoothjax.learning` see."""
    return jnp.append(u, jnp.log(sigma))


class EmpiricalTangentKernel(eqx.Module):
    """Tangent kernel of a network as it is: `tr(df/dtheta(z) df/dtheta(z')^T) / d` over its floating-point arrays.

    Exact for one output. With several, a finite network's kernel is a (d, d) block; this is the multiple of the identity
    closest to it, which the block tends to with the width.

    Args:
        model: callable pytree `(u, sigma) -> (d,)`, what is trained: the network's output, not the denoiser.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> model = jax.tree_util.Partial(lambda w, u, sigma: w * u, jnp.array(7.0))
        >>> kernel = sj.variance.EmpiricalTangentKernel(model)
        >>> print(kernel(jnp.array([2.0]), 1.0, jnp.array([5.0]), 1.0))  # the derivatives in w are 2 and 5
        10.0
    """

    model: Callable[[Array, Array], Array]

    def __check_init__(self):
        require_kinds_of_fields(self)

    def __call__(
        self,
        u: Float[Array, " d"],
        sigma: RealScalar,
        v: Float[Array, " d"],
        tau: RealScalar,
    ) -> Float[Array, ""]:
        parameters, static = eqx.partition(self.model, eqx.is_inexact_array)

        def jacobian(u: Array, sigma: RealScalar) -> Any:
            return jax.jacrev(lambda p: eqx.combine(p, static)(u, sigma))(parameters)

        first, second = jacobian(u, sigma), jacobian(v, tau)
        products = jax.tree.map(lambda a, b: jnp.sum(a * b), first, second)
        return jax.tree.reduce(jnp.add, products) / u.shape[0]
