"""The equivariant local score machine: windows are compared with windows anywhere in the training images."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._checks import RealScalar, as_positive_integer
from ._patches import (
    AbstractImageDenoiser,
    Boundary,
    add_chunk,
    as_boundary,
    as_images,
    channels_of,
    no_sums,
    over_chunks,
    reach,
    window_indices,
)
from ._point_posterior import HIGHEST, TRUSTED_RATIO


class EquivariantLocalDenoiser(AbstractImageDenoiser):
    r"""Optimal among the local denoisers that do the same at every place (ELS, equivariant local score).

    Pixel p of `D(u)` is `sum_{i,q} w_{iq} y_{i,q}` over the training images `y_i` and their pixels q, with W(p) the window
    of p (as for `LocalDenoiser`) and

        w_iq = softmax_{i,q}( -|u_{W(p)} - y_{i,W(q)}|^2 / 2 sigma^2 ).

    What happens at the border is part of the definition:

    - "circular": windows wrap around, and q runs over all pixels. Exactly equivariant under circular shifts, and the same
      as `LocalDenoiser` with all circular shifts of the images as training images.
    - "clipped": a network that pads with zeros sees the border (boundary-broken ELS). q runs over the pixels whose window
      is clipped in the same way as that of p, and only pixels inside the image are compared. So all inner pixels are
      matched with each other, a pixel near one edge with those at the same distance from it, one near a corner with the
      same pixel of other images. From `patch_size >= side` on, every pixel is clipped in its own way: this is then
      `LocalDenoiser(images, patch_size)`.

    The cost is that of a matrix product, of (queries x pixels, window) with (window, images x pixels): `2 n h^2 w^2 P^2 c`
    operations a query, and as many exponentials as there are pairs of windows. `jax.vmap` over queries makes one product
    of the batch. Memory: a few arrays of `batch x h w x chunk_size`; patches are formed a chunk at a time. Give a batch
    one noise level (`in_axes=(0, None)`): with one for each query both ways below are computed for all of them.

    **Accuracy.** With R the largest possible distance of a training window from the channels' mean values, the exponents
    come from a product, with an error of up to a few `eps R (|u_W| + R) / sigma^2`, where `R (2 R + sigma P sqrt(c)) <=
    4096 sigma^2` (2e-4 nats in float32; for images in [-1, 1] and 5 x 5 windows, noise levels above about 0.2). Below, they
    come from differences: nothing cancels, at some three times the cost.

    Args:
        images: training images, shape (n, h, w) or (n, h, w, c). Points are such images, flat: (h w c,), row by row.
        patch_size: side P of the window, positive.
        boundary: "clipped" or "circular", see above; the second needs P at most the smaller side.
        chunk_size: windows of the training images visited at a time. Changes memory and speed only.

    Raises:
        ValueError: as `LocalDenoiser`; and for 2^31 windows or more.

    Source: Kamb and Ganguli 2025, "An analytic theory of creativity in convolutional diffusion models" (ELS and
    boundary-broken ELS).

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> images = jax.random.normal(jax.random.key(0), (10, 8, 8))
        >>> D = sj.EquivariantLocalDenoiser(images, patch_size=3, boundary="circular")
        >>> u = jax.random.normal(jax.random.key(1), (8, 8))
        >>> shifted = D(jnp.roll(u, 3, axis=1).ravel(), 0.5).reshape(8, 8)
        >>> bool(jnp.allclose(shifted, jnp.roll(D(u.ravel(), 0.5).reshape(8, 8), 3, axis=1), atol=1e-5))
        True
    """

    images: Float[Array, "n h w c"]
    patch_size: int = eqx.field(static=True)
    boundary: Boundary = eqx.field(static=True)
    chunk_size: int | None = eqx.field(static=True)

    def __init__(
        self,
        images: Any,
        patch_size: int,
        boundary: Boundary = "clipped",
        chunk_size: int | None = None,
    ):
        self.images = as_images(images)
        n, h, w, _ = self.images.shape
        if n * h * w >= 2**31:
            raise ValueError(f"`images` must have fewer than 2^31 pixels; got {n} of {h} x {w}.")
        self.patch_size = as_positive_integer(patch_size, "patch_size")
        self.boundary = as_boundary(boundary, self.patch_size, self.image_shape)
        if chunk_size is not None:
            chunk_size = as_positive_integer(chunk_size, "chunk_size")
        self.chunk_size = chunk_size

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        return _denoise(self, *self._query(u, sigma)).reshape(-1)


def default_chunk_size(outputs: int) -> int:
    """Windows visited at a time by so many pixels of a query: the exponents of some queries should stay in cache.

    Measured for 16 queries of 576 pixels: 128 to 288 equally fast, 576 twice slower. Fewer would not fill the product.
    """
    return max(128, 2**16 // outputs)


def _groups(
    shape: tuple[int, int], patch_size: int, boundary: Boundary
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of all pixels, in arrays (classes, members): pixels of a class are matched with each other."""
    every = [np.arange(side) for side in shape]
    if boundary == "circular":
        inner = every
    else:
        up, down = patch_size // 2, (patch_size - 1) // 2
        inner = [x[(x >= up) & (x < len(x) - down)] for x in every]
    (rows, cols), (top, left) = inner, map(np.setdiff1d, every, inner)
    grid = lambda a, b: np.meshgrid(a, b, indexing="ij")  # noqa: E731
    # Inner pixels are one class. A row near an edge is clipped in its own way, and so is a column.
    groups = [
        [x.reshape(1, -1) for x in grid(rows, cols)],
        grid(top, cols),
        [x.T for x in grid(rows, left)],
        [x.reshape(-1, 1) for x in grid(top, left)],
    ]
    return [(r, c) for r, c in groups if r.size]


@eqx.filter_jit
def _denoise(denoiser: EquivariantLocalDenoiser, u: Array, sigma: Array) -> Float[Array, "h w c"]:
    h, w, c = u.shape
    images = denoiser.images.astype(u.dtype)
    # Pixels in a row, and one of zeros for what lies outside.
    pad = lambda x: jnp.pad(x.reshape(-1, h * w, c), [(0, 0), (0, 1), (0, 0)])  # noqa: E731
    pixels, query = pad(images), pad(u)[0]
    centre = lax.stop_gradient(jnp.mean(images, axis=(0, 1, 2)))
    (up, _), (left, right) = (reach(denoiser.patch_size, side) for side in (h, w))
    own = up * (left + right + 1) + left  # where a window holds its own pixel

    def average_of_class(windows: Array, chunk_size: int) -> Float[Array, "members c"]:
        return _average_of_class(windows, chunk_size, own, pixels, query, centre, sigma)

    result = jnp.zeros_like(query)
    for rows, cols in _groups((h, w), denoiser.patch_size, denoiser.boundary):
        windows = window_indices((h, w), denoiser.patch_size, denoiser.boundary, rows, cols)
        average = functools.partial(
            average_of_class, chunk_size=denoiser.chunk_size or default_chunk_size(rows.size)
        )
        # An axis of one class would keep the compiler from vectorising: ten times slower.
        averages = average(windows[0])[None] if len(windows) == 1 else jax.vmap(average)(windows)
        result = result.at[rows * w + cols].set(averages)
    return result[:-1]


def _average_of_class(
    windows: Int[Array, "members window"],
    chunk_size: int,
    own: int,
    pixels: Float[Array, "n hw+1 c"],
    query: Float[Array, "hw+1 c"],
    centre: Float[Array, " c"],
    sigma: Array,
) -> Float[Array, "members c"]:
    """For every pixel of a class the soft-max average over the class, in all images."""
    members, size = windows.shape
    n, _, c = pixels.shape
    num = n * members
    chunk_size = min(chunk_size, num)
    x = query[windows].reshape(members, size * c)
    trusted = _is_trusted(pixels, centre, size * c, sigma)
    centre = jnp.tile(centre, size)

    def body(sums, start, valid):
        index = start + jnp.arange(chunk_size)
        patches = pixels[index[:, None] // members, windows[index % members]]  # (chunk, window, c)
        y = patches.reshape(chunk_size, size * c)
        logits = lax.cond(trusted, _product_logits, _difference_logits, x, y, centre, sigma)
        logits = jnp.where(valid, logits, -jnp.inf)
        return add_chunk(sums, logits, channels_of(patches[:, own]), axis=-1)

    sums = over_chunks(num, chunk_size, body, no_sums((members,), c, x.dtype))
    return sums.average.T


def _is_trusted(pixels: Array, centre: Array, width: int, sigma: Array) -> Bool[Array, ""]:
    """Whether exponents can be left to the matrix product.

    A query is taken to be a training window plus noise, so that a batch with one noise level has one answer.
    """
    radius = width**0.5 * jnp.max(jnp.abs(pixels[:, :-1] - centre))
    ratio = radius * (2 * radius + width**0.5 * sigma) / sigma**2
    return lax.stop_gradient(ratio) <= TRUSTED_RATIO


def _product_logits(
    x: Array, y: Array, centre: Array, sigma: Array
) -> Float[Array, "members chunk"]:
    """`-|x - y|^2 / 2 sigma^2` but for a term of x alone."""
    y = y - centre
    # The term of y alone as one more column: no second look at the result.
    half_square = 0.5 * jnp.sum(y**2, axis=-1, keepdims=True)
    x = jnp.concatenate([x - centre, -jnp.ones_like(x[:, :1])], axis=-1) / sigma**2
    y = jnp.concatenate([y, half_square], axis=-1)
    return jnp.dot(x, y.T, precision=HIGHEST)


@jax.custom_jvp
def _difference_logits(
    x: Array, y: Array, centre: Array, sigma: Array
) -> Float[Array, "members chunk"]:
    """The same from differences."""
    x, y = x.T, y.T

    # A loop, not a sum over an axis: that would be computed one number at a time.
    def add(k, squares):
        return squares + (x[k][:, None] - y[k]) ** 2

    squares = jnp.zeros((x.shape[1], y.shape[1]), x.dtype)
    return lax.fori_loop(0, x.shape[0], add, squares) * (-0.5 / sigma**2)


@_difference_logits.defjvp
def _difference_logits_jvp(primals, tangents):
    # A derivative has no small divisor in its exponent: the product will do, and stores no differences.
    return _difference_logits(*primals), jax.jvp(_product_logits, primals, tangents)[1]
