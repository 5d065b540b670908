"""Logits from a matrix product, what rounding makes of them, and how much of it the posterior tolerates.

With `v = u - c` and `c_k = y_k - c` about the centre c, a matrix product gives `v . c_k - |c_k|^2 / 2` to an absolute error
`eps R (|v| + R)`, R the radius of the set, and the soft-max divides it by `sigma^2`. As long as
`R (|v| + R) <= TRUSTED_RATIO sigma^2` that is harmless.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array

from ..._jax.precision import HIGHEST
from .._base import length
from .point_set import Chunk, PointSet

# Logits from the product are off by about (unit roundoff) x this; see the module's text.
TRUSTED_RATIO = 4096.0


def product_logits(chunk: Chunk, v: Array, sigma: Array) -> Array:
    return (jnp.dot(chunk.centred, v, precision=HIGHEST) - chunk.half_square) / sigma**2


def product_error(points: PointSet, u: Array, sigma: Array) -> tuple[Array, Array]:
    """Typical rounding error of a logit from the product, in nats, and whether it can be left as it is."""
    ratio = points.radius * (length(u - points.centre) + points.radius) / sigma**2
    return 0.5 * jnp.finfo(u.dtype).eps * ratio, ratio <= TRUSTED_RATIO


def tolerated_log_mass(points: PointSet, u: Array, sigma: Array) -> Array:
    """Logarithm of the mass whose weights can be left as the product gives them, by that of the largest."""
    return log_tolerated(product_error(points, u, sigma)[0], u.shape[0])


def log_tolerated(error: Array, d: int) -> Array:
    """The same, for logits of which a product of d terms leaves that typical error, in nats."""
    trusted = 0.5 * jnp.finfo(error.dtype).eps * TRUSTED_RATIO
    # What is left over has logits that are off by the typical error, and a weight known to a factor e^(2 worst).
    tolerated = jnp.log(trusted) - jnp.log(error) - 2 * _worst(error, d)
    return jnp.where(error <= trusted, jnp.inf, tolerated)


def worst_product_error(points: PointSet, u: Array, sigma: Array) -> Array:
    return _worst(product_error(points, u, sigma)[0], u.shape[0])


def _worst(error: Array, d: int) -> Array:
    # With partial sums of d terms, roundings add up to about sqrt(d) of them (measured: 3.4 at d = 784), at most.
    return (8 + math.sqrt(d)) * error
