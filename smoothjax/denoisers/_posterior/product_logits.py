"""Logits from a matrix product, what rounding makes of them, and how much of it the posterior tolerates.

With `v = u - c` and `c_k = y_k - c` about the centre c, a matrix product gives `v . c_k - |c_k|^2 / 2` to an absolute error
`eps R (|v| + R)`, R the radius of the set, and the soft-max divides it by `sigma^2`. As long as
`R (|v| + R) <= TRUSTED_RATIO sigma^2` that is harmless.
"""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..._jax.precision import HIGHEST
from .._base import length
from .point_set import Chunk, PointSet

# Logits from the product are off by about (unit roundoff) x this; see the module's text.
TRUSTED_RATIO = 4096.0

# The products are of points that are not centred if their centre is at most so many radii from the origin.
NEAR = 2.0


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


def products_with(points: PointSet, u: Float[Array, "q d"]) -> tuple[Array, Array]:
    """`(u - c) . y_i - |c_i|^2 / 2` up to a constant, shape (q, n), and the sizes of the first terms, shape (q,)."""
    v = u - points.centre[None]
    length = jnp.linalg.norm(v, axis=1)

    # A few columns are multiplied faster than as many rows (measured: 1.0 ms in place of 1.4 ms for 8).
    columns = lax.optimization_barrier(v.T)

    # Centring takes longer than the product. It changes a constant only, and the terms' size.
    def plain():
        size = points.radius + jnp.linalg.norm(points.centre)
        products = jnp.dot(points.points, columns, precision=HIGHEST)
        return products, (length * size).astype(u.dtype)

    def centred():
        products = jnp.dot(points.points - points.centre[None], columns, precision=HIGHEST)
        return products, length * points.radius

    products, size = lax.cond(is_near(points), plain, centred)
    products = products.T - points.half_square[None]
    if points.log_weights is not None:
        products = jnp.where(points.log_weights[None] > -jnp.inf, products, -jnp.inf)
    return products, size


def inner_products(
    rows: Float[Array, "queries d"], others: Float[Array, "n d"]
) -> Float[Array, "queries n"]:
    """`rows @ others.T`, without the transpose, which XLA would move out of a loop and store."""
    return lax.dot_general(rows, others, (((1,), (1,)), ((), ())), precision=HIGHEST)


def is_near(points: PointSet) -> Array:
    return jnp.sum(points.centre**2) <= (NEAR * points.radius) ** 2
