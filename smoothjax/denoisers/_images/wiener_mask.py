"""Locality from the data's covariance: each pixel is denoised by the pixels that the Wiener filter connects it to."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ..._checks import RealScalar, as_float_array, is_concrete, require_positive
from ..._jax.precision import HIGHEST
from ..._kinds import checks_kinds
from ..._layout import Layout
from .._gaussian.gaussian import GaussianDenoiser
from .patches import (
    AbstractImageDenoiser,
    Split,
    add_chunk,
    as_chunk_size,
    as_images,
    excess,
    masked,
    no_sums,
    over_chunks,
    split,
)


class WienerMaskDenoiser(AbstractImageDenoiser):
    r"""Each coordinate q of `D(u)` averages the training images by the distance over a mask of coordinates.

    The masks come from the Wiener filter of the training set, `W = Sigma (Sigma + sigma^2)^-1` (`GaussianDenoiser`):

        A_nq = 1 where |W_nq| > threshold max_m |W_nm|, else 0,
        D(u)_q = sum_i w_i^q y_{i,q},    w_i^q = softmax_i( -sum_n A_nq (u_n - y_{i,n})^2 / 2 sigma^2 T ),

    over all d coordinates (pixels and channels). They grow with the noise level, and need not be connected. The threshold is
    relative to the largest entry of each row n of the filter: relative to the largest of all (after the rows are divided by
    their diagonal, as in released code) coordinates of little variance shrink all other masks. A coordinate that is the same
    in all training images is in no mask, and its own mask is empty; an empty mask gives equal weights. With threshold 0 and
    no zeros in the filter this is the exact posterior mean at temperature T.

    A call costs a matrix product, `2 n d^2` operations for each query, and the filter once for each noise level, `2 d^2
    min(n, d)`; give a batch one noise level. Squared differences are summed, so that nothing cancels. Memory: (d, d) and a
    few arrays of `batch x chunk_size x d`. The masks are step functions of the noise level and of the images: `D` jumps
    where an entry passes the threshold, derivatives are those between jumps, and rounding decides for an entry on it.

    Args:
        images: training images, shape (n, h, w) or (n, h, w, c). Points are such images, flat: (h w c,), row by row.
        threshold: tau in [0, 1).
        temperature: T, positive.
        chunk_size: images visited at a time. Changes memory and speed only.
        layout: "chw" for images (n, c, h, w), as PyTorch has them; "hwc" to say that they are as above. Without it, a shape
            that looks like channels first is refused, or warned of. Points are flat in the order (h w c,) in any case.

    Raises:
        ValueError: for images that are empty, not finite or of a wrong shape, a threshold or temperature out of range.

    Source: Lukoianov et al. 2025, "Locality in image diffusion models emerges from data statistics"; the threshold of each
    row is this library's.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> images = jax.random.normal(jax.random.key(0), (100, 4, 4))
        >>> D = sj.WienerMaskDenoiser(images, threshold=0.3)
        >>> D(jnp.zeros(16), 0.5).shape, D.masks(0.5).dtype
        ((16,), dtype('bool'))
    """

    images: Float[Array, "n h w c"]
    threshold: Float[Array, ""]
    temperature: Float[Array, ""]
    filter: GaussianDenoiser
    varies: Bool[Array, " d"]
    chunk_size: int = eqx.field(static=True)

    @checks_kinds
    def __init__(
        self,
        images: Any,
        threshold: RealScalar = 0.02,
        temperature: RealScalar = 1.0,
        chunk_size: int | None = None,
        *,
        layout: Layout | None = None,
    ):
        self.images = as_images(images, layout)
        threshold = as_float_array(threshold, "threshold")
        temperature = require_positive(temperature, "temperature")
        for name, value in (("threshold", threshold), ("temperature", temperature)):
            if value.shape != ():
                raise ValueError(f"`{name}` must be a scalar; got shape {value.shape}.")
        if is_concrete(threshold) and not 0 <= threshold < 1:
            raise ValueError(f"`threshold` must lie in [0, 1); got {threshold}.")
        self.threshold = threshold.astype(self.images.dtype)
        self.temperature = temperature.astype(self.images.dtype)
        points = self.images.reshape(len(self.images), -1)
        self.filter = GaussianDenoiser.fit(points)
        # Rounding leaves tiny entries in rows that ought to be zero, which their own largest would not rule out.
        self.varies = jnp.any(points != points[:1], axis=0)
        self.chunk_size = as_chunk_size(chunk_size, len(points), self.dim)

    def masks(self, sigma: RealScalar) -> Bool[Array, "d d"]:
        """`A_nq` at a noise level: column q is the mask that coordinate q is denoised with."""
        return _masks(self, self._query(jnp.zeros(self.dim, self.images.dtype), sigma)[1])

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        return _denoise(self, *self._query(u, sigma))


@eqx.filter_jit
def _masks(denoiser: WienerMaskDenoiser, sigma: Array) -> Bool[Array, "d d"]:
    fit, varies = denoiser.filter, denoiser.varies
    gains = fit.eigenvalues / (fit.eigenvalues + sigma**2)
    size = jnp.abs(jnp.dot(fit.basis * gains[None], fit.basis.T, precision=HIGHEST))
    size = jnp.where(varies[:, None] & varies[None], size, 0)
    return size > denoiser.threshold * jnp.max(size, axis=1, keepdims=True)


@eqx.filter_jit
def _denoise(denoiser: WienerMaskDenoiser, u: Array, sigma: Array) -> Float[Array, " d"]:
    u, size = u.reshape(-1), denoiser.chunk_size
    points = denoiser.images.astype(u.dtype).reshape(-1, u.shape[0])
    masks = _masks(denoiser, sigma).astype(u.dtype)
    query, sigma = split(u, points, sigma * jnp.sqrt(denoiser.temperature).astype(u.dtype))
    inside, beyond = (x[None] for x in query)
    inverse = 0.5 / sigma / sigma

    def body(sums, start, valid):
        chunk = lax.dynamic_slice_in_dim(points, start, size)
        distances = jnp.dot(excess(Split(inside, beyond), chunk), masks, precision=HIGHEST)
        return add_chunk(sums, masked(-inverse * distances, valid), [chunk], axis=0)

    return over_chunks(len(points), size, body, no_sums(u.shape, 1, u.dtype)).average[0]
