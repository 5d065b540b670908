"""Soft-max averages over all windows of a class in a set of images, as they are: a chunk at a time, nothing left out."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ..._jax.precision import HIGHEST
from .._posterior.product_logits import TRUSTED_RATIO
from .patches import add_chunk, channels_of, no_sums, over_chunks


def padded(images: Float[Array, "n h w c"]) -> Float[Array, "n padded c"]:
    """Pixels in a row, and one of zeros for what lies outside."""
    n, h, w, c = images.shape
    return jnp.pad(images.reshape(n, h * w, c), [(0, 0), (0, 1), (0, 0)])


def columns_of(
    y: Float[Array, "chunk window"], own: int, centre: Float[Array, " c"], derivative: bool
) -> Float[Array, "chunk columns"]:
    """What is averaged: the values; for a derivative also the windows, and half their squares, about the centre."""
    c = len(centre)
    value = y.reshape(len(y), -1, c)[:, own]
    if not derivative:
        return value
    y = y - jnp.tile(centre, y.shape[1] // c)[None]
    return jnp.concatenate([value, y, 0.5 * jnp.sum(y**2, -1, keepdims=True)], -1)


def average_over_class(
    windows: Int[Array, "members window"],
    chunk_size: int,
    own: int,
    pixels: Float[Array, "n padded c"],
    query: Float[Array, "padded c"],
    centre: Float[Array, " c"],
    sigma: Array,
    trusted: Bool[Array, ""],
    about: Float[Array, "members c"] | None,
) -> Float[Array, "members columns"]:
    """For every pixel of a class the soft-max average over the class, in all images."""
    members, size = windows.shape
    n, _, c = pixels.shape
    num = n * members
    chunk_size = min(chunk_size, num)
    x = query[windows].reshape(members, size * c)
    middle, inside = jnp.tile(centre, size), pixels[:, :-1]
    # What lies outside of an image is zero.
    bounds = jnp.minimum(jnp.min(inside), 0), jnp.maximum(jnp.max(inside), 0)

    def product(x, y, centre, sigma, *_):
        return _product_logits(x, y, centre, sigma)

    def body(sums, start, valid):
        index = start + jnp.arange(chunk_size)
        patches = pixels[index[:, None] // members, windows[index % members]]  # (chunk, window, c)
        y = patches.reshape(chunk_size, size * c)
        logits = lax.cond(trusted, product, _difference_logits, x, y, middle, sigma, *bounds)
        logits = jnp.where(valid, logits, -jnp.inf)
        columns = channels_of(columns_of(y, own, centre, about is not None))
        differences = []
        for k, mean in enumerate([] if about is None else about.T):
            difference = columns[k][None] - mean[:, None]
            differences += [difference, *(difference * f[None] for f in columns)]
        return add_chunk(sums, logits, [*columns, *differences], axis=-1)

    columns = jax.eval_shape(lambda: columns_of(x, own, centre, about is not None)).shape[1]
    total = columns if about is None else columns + c * (columns + 1)
    sums = over_chunks(num, chunk_size, body, no_sums((members,), total, x.dtype))
    return sums.average.T


def is_trusted(pixels: Array, centre: Array, width: int, sigma: Array) -> Bool[Array, ""]:
    """Whether exponents can be left to the matrix product.

    A query is taken to be a training window plus noise, so that a batch with one noise level has one answer.
    """
    radius = width**0.5 * jnp.max(jnp.abs(pixels[:, :-1] - centre[None, None]))
    ratio = radius * (2 * radius + width**0.5 * sigma) / sigma / sigma
    return lax.stop_gradient(ratio) <= TRUSTED_RATIO


def _product_logits(
    x: Array, y: Array, centre: Array, sigma: Array
) -> Float[Array, "members chunk"]:
    """`-|x - y|^2 / 2 sigma^2` but for a term of x alone."""
    y = y - centre[None]
    # The term of y alone as one more column: no second look at the result.
    half_square = 0.5 * jnp.sum(y**2, axis=-1, keepdims=True)
    x = jnp.concatenate([x - centre[None], -jnp.ones_like(x[:, :1])], axis=-1) / sigma / sigma
    y = jnp.concatenate([y, half_square], axis=-1)
    return jnp.dot(x, y.T, precision=HIGHEST)


@jax.custom_jvp
def _difference_logits(
    x: Array, y: Array, centre: Array, sigma: Array, low: Array, high: Array
) -> Float[Array, "members chunk"]:
    """The same from differences, but for another term of x alone: see `_patches.split`."""
    inside, y = jnp.clip(x, low, high).T, y.T
    beyond = 2 * (x.T - inside)

    # A loop, not a sum over an axis: that would be computed one number at a time.
    def add(k, squares):
        difference = inside[k][:, None] - y[k][None]
        return squares + difference * (difference + beyond[k][:, None])

    squares = jnp.zeros((x.shape[0], y.shape[1]), x.dtype)
    return lax.fori_loop(0, x.shape[1], add, squares) * (-0.5 / sigma / sigma)


@_difference_logits.defjvp
def _difference_logits_jvp(primals, tangents):
    # A derivative has no small divisor in its exponent: the product will do, and stores no differences.
    return _difference_logits(*primals), jax.jvp(_product_logits, primals[:4], tangents[:4])[1]
