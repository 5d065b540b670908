"""The local score machine: each pixel is denoised by what the training images show in a window around it."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..._checks import RealScalar, as_positive_integer
from ..._kinds import checks_kinds
from ..._layout import Layout
from .patches import (
    AbstractImageDenoiser,
    Boundary,
    add_chunk,
    as_boundary,
    as_chunk_size,
    as_images,
    channels_of,
    masked,
    no_sums,
    over_chunks,
    split,
    squared_differences,
    window_sums,
)


class LocalDenoiser(AbstractImageDenoiser):
    r"""Optimal among the denoisers of which each output pixel sees only a window of the input (LS, local score).

    Pixel p of `D(u)` is `sum_i w_i y_{i,p}`, with the posterior weights of the training images `y_i` given the window of
    p alone:

        w_i = softmax_i( -|u_W - y_{i,W}|^2 / 2 sigma^2 ),    W = window of p.

    A window of P x P pixels has offsets -floor(P/2), ..., ceil(P/2) - 1 along each axis, and all channels. It is compared
    at the same place of every image. Where it covers the image, this is the exact posterior mean: for P = side with a
    circular boundary, for P >= 2 side - 1 with a clipped one.

    Squared differences are summed over windows by adding shifted copies: O(n d log P) a query, and nothing cancels, so
    that weights are as precise as the squared distances themselves (a few `eps`, relative) in either precision. Memory: a
    few arrays of `batch x chunk_size x d`. Derivatives of any order and mode; the images are leaves of the pytree.

    Args:
        images: training images, shape (n, h, w) or (n, h, w, c). Points are such images, flat: (h w c,), row by row.
        patch_size: side P of the window, positive. An even one reaches a pixel further up and left than down and right.
            Larger than the image, it is clipped; see above for where that is the exact posterior mean.
        boundary: "clipped" leaves out what lies outside the image (the same as padding both images with zeros);
            "circular" wraps around, with P at most the smaller side.
        chunk_size: images visited at a time. Changes memory and speed only.
        layout: "chw" for images (n, c, h, w), as PyTorch has them; "hwc" to say that they are as above. Without it, a shape
            that looks like channels first is refused, or warned of. Points are flat in the order (h w c,) in any case.

    Raises:
        ValueError: for images that are empty, not finite or of a wrong shape, sizes that are not positive integers, an
            unknown boundary, or a window that wraps onto itself.

    Source: Kamb and Ganguli 2025, "An analytic theory of creativity in convolutional diffusion models" (LS).

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> images = jax.random.normal(jax.random.key(0), (10, 8, 8))
        >>> D = sj.LocalDenoiser(images, patch_size=3)
        >>> D(jnp.zeros(64), 0.5).shape
        (64,)
        >>> D.image_shape
        (8, 8, 1)
    """

    images: Float[Array, "n h w c"]
    patch_size: int = eqx.field(static=True)
    boundary: Boundary = eqx.field(static=True)
    chunk_size: int = eqx.field(static=True)

    @checks_kinds
    def __init__(
        self,
        images: Any,
        patch_size: int,
        boundary: Boundary = "clipped",
        chunk_size: int | None = None,
        *,
        layout: Layout | None = None,
    ):
        self.images = as_images(images, layout)
        self.patch_size = as_positive_integer(patch_size, "patch_size")
        self.boundary = as_boundary(boundary, self.patch_size, self.image_shape)
        self.chunk_size = as_chunk_size(chunk_size, len(self.images), self.dim)

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        return _denoise(self, *self._query(u, sigma)).reshape(-1)


@eqx.filter_jit
def _denoise(denoiser: LocalDenoiser, u: Array, sigma: Array) -> Float[Array, "h w c"]:
    images, size = denoiser.images.astype(u.dtype), denoiser.chunk_size
    query, sigma = split(u, images, sigma)
    inverse = 0.5 / sigma / sigma

    def body(sums, start, valid):
        chunk = lax.dynamic_slice_in_dim(images, start, size)
        squares = squared_differences(query, chunk)
        distances = window_sums(squares, denoiser.patch_size, denoiser.boundary)
        logits = masked(-inverse * distances, valid)
        return add_chunk(sums, logits, channels_of(chunk), axis=0)

    h, w, c = u.shape
    sums = over_chunks(len(images), size, body, no_sums((h, w), c, u.dtype))
    return jnp.moveaxis(sums.average, 0, -1)
