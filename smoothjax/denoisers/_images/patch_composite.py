"""The patch-set-posterior composite: crops are denoised by themselves, and averaged where they overlap."""

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
    add_chunk,
    as_chunk_size,
    as_images,
    channels_of,
    masked,
    no_sums,
    over_chunks,
    relative_weights,
    split,
    squared_differences,
    valid_window_sums,
)


class PatchCompositeDenoiser(AbstractImageDenoiser):
    r"""Posterior means of all square crops, each averaged into the pixels it covers (PSPC, square crops).

    A crop C is one of the (h - P + 1)(w - P + 1) squares of P x P pixels inside the image. It is denoised exactly, with the
    same crop of all training images as training set; pixel p of `D(u)` is the plain average over the crops that cover it,

        D(u)_p = mean_{C covers p} sum_i w_i^C y_{i,p},    w_i^C = softmax_i( -|u_C - y_{i,C}|^2 / 2 sigma^2 ).

    `LocalDenoiser` takes from each crop its central pixel only. With P = h = w this is the exact posterior mean.

    Squared differences are summed over crops, and weights over the crops of a pixel, by adding shifted copies: two passes
    over the images, O(n d log P) a query. Nothing cancels. Memory: a few arrays of `batch x chunk_size x d`.

    Args:
        images: training images, shape (n, h, w) or (n, h, w, c). Points are such images, flat: (h w c,), row by row.
        patch_size: side P of the crops, positive, odd or even, and at most the smaller side of the images.
        chunk_size: images visited at a time. Changes memory and speed only.
        layout: "chw" for images (n, c, h, w), as PyTorch has them; "hwc" to say that they are as above. Without it, a shape
            that looks like channels first is refused, or warned of. Points are flat in the order (h w c,) in any case.

    Raises:
        ValueError: for images that are empty, not finite or of a wrong shape, or a size out of range.

    Source: Niedoba et al. 2024, "Towards a mechanistic explanation of diffusion model generalization" (PSPC-Square).

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> images = jax.random.normal(jax.random.key(0), (10, 8, 8))
        >>> sj.PatchCompositeDenoiser(images, patch_size=3)(jnp.zeros(64), 0.5).shape
        (64,)
    """

    images: Float[Array, "n h w c"]
    patch_size: int = eqx.field(static=True)
    chunk_size: int = eqx.field(static=True)

    @checks_kinds
    def __init__(
        self,
        images: Any,
        patch_size: int,
        chunk_size: int | None = None,
        *,
        layout: Layout | None = None,
    ):
        self.images = as_images(images, layout)
        self.patch_size = as_positive_integer(patch_size, "patch_size")
        h, w, _ = self.image_shape
        if self.patch_size > min(h, w):
            raise ValueError(
                f"`patch_size` must not exceed the images' sides, {h} x {w}; got {patch_size}."
            )
        self.chunk_size = as_chunk_size(chunk_size, len(self.images), self.dim)

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        return _denoise(self, *self._query(u, sigma)).reshape(-1)


@eqx.filter_jit
def _denoise(denoiser: PatchCompositeDenoiser, u: Array, sigma: Array) -> Float[Array, "h w c"]:
    images, size = denoiser.images.astype(u.dtype), denoiser.chunk_size
    side = denoiser.patch_size
    query, sigma = split(u, images, sigma)
    inverse = 0.5 / sigma / sigma

    def weigh(start, valid):
        chunk = lax.dynamic_slice_in_dim(images, start, size)
        squares = squared_differences(query, chunk)
        distances = valid_window_sums(squares, (side, side), (1, 2))
        return chunk, masked(-inverse * distances, valid)

    def first(sums, start, valid):
        return add_chunk(sums, weigh(start, valid)[1], [], axis=0)

    def over_crops(weights):
        """Sum over the crops that cover each pixel."""
        padded = jnp.pad(weights, [(0, 0), *[(side - 1, side - 1)] * 2])
        return valid_window_sums(padded, (side, side), (1, 2))

    h, w, c = u.shape
    crops = (h - side + 1, w - side + 1)
    sums = over_chunks(len(images), size, first, no_sums(crops, 0, u.dtype))
    share = 1 / sums.normaliser

    def second(total, start, valid):
        chunk, logits = weigh(start, valid)
        weights = over_crops(relative_weights(logits, sums.highest[None]) * share[None])
        return total + jnp.stack([jnp.sum(weights * y, 0) for y in channels_of(chunk)])

    total = over_chunks(len(images), size, second, jnp.zeros((c, h, w), u.dtype))
    return jnp.moveaxis(total / over_crops(jnp.ones((1, *crops), u.dtype)), 0, -1)
