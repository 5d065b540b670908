"""The equivariant local score machine: windows are compared with windows anywhere in the training images."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from ..._checks import RealScalar, as_positive_integer, is_concrete
from ..._jax.batching import over_queries
from ..._jax.derivatives import is_zero
from ..._jax.precision import HIGHEST
from ..._kinds import checks_kinds
from ..._layout import Layout
from .dense_windows import average_over_class, columns_of, is_trusted, padded
from .distinct_windows import DistinctWindows, merge_windows
from .patches import (
    AbstractImageDenoiser,
    Boundary,
    as_boundary,
    as_images,
    reach,
    split,
    window_indices,
)
from .window_averages import Averages, averages
from .window_classes import classes_of, groups_of

# Of the range of the images' values: the largest error by windows that are left out.
TOLERANCE = 2e-6
# Numbers in a window, at most, for which windows are merged and left out.
WIDEST = 512


class CertifiedImage(NamedTuple):
    """A denoised image, and a bound for each pixel of what was left out."""

    value: Float[Array, " d"]
    """The denoised image."""
    truncation: Float[Array, " d"]
    """Bound of what the windows that were left out would change, data units."""
    visited: Int[Array, " d"]
    """Distinct windows that were weighed; zero where all windows were, unmerged."""


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

    Equal windows are merged at construction (some seconds for some million windows), and sorted into compact blocks. A query
    leaves out blocks of which it is proven that all together change a pixel by no more than 2e-6 of the range of the images'
    values; `certified` returns what is known of that for each pixel. What remains is weighed by matrix products: at most
    `2 P^2 c` operations and one exponential for each pair of a pixel of the query and a distinct window, at low noise a few
    hundredths of that. `jax.vmap` over queries, with one noise level or one each, visits every block once for the batch.
    Memory: the images, 8 bytes a distinct window, and some megabytes.

    Derivatives in the point and the noise level come from local covariances, at the cost of some evaluations whatever their
    number. Images that are traced, or exchanged in the pytree, windows of more than 512 numbers, derivatives in the images
    and second ones take the dense form: all windows, a chunk at a time, and nothing left out.

    **Accuracy.** Exponents come from a product about the mean of a block of windows, with an error of up to a few
    `eps r (r + |u_W - y|) / sigma^2`, r the block's radius, where that is at most 2e-4 nats in float32; else from
    differences. In the dense form the radius is that of all windows. Where one window has all the weight but for a rounding,
    derivatives are zero.

    Args:
        images: training images, shape (n, h, w) or (n, h, w, c). Points are such images, flat: (h w c,), row by row.
        patch_size: side P of the window, positive. An even one reaches a pixel further up and left than down and right.
            Larger than the image, it is clipped, and each pixel matched with fewer, see above.
        boundary: "clipped" or "circular", see above; the second needs P at most the smaller side.
        chunk_size: windows of the training images visited at a time by the dense form. Changes memory and speed only.
        layout: "chw" for images (n, c, h, w), as PyTorch has them; "hwc" to say that they are as above. Without it, a shape
            that looks like channels first is refused, or warned of. Points are flat in the order (h w c,) in any case.

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
    _merged: DistinctWindows | None

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
        n, h, w, _ = self.images.shape
        if n * h * w >= 2**31:
            raise ValueError(f"`images` must have fewer than 2^31 pixels; got {n} of {h} x {w}.")
        self.patch_size = as_positive_integer(patch_size, "patch_size")
        self.boundary = as_boundary(boundary, self.patch_size, self.image_shape)
        if chunk_size is not None:
            chunk_size = as_positive_integer(chunk_size, "chunk_size")
        self.chunk_size = chunk_size
        self._merged = None
        # What is being traced cannot be compared.
        if is_concrete(self.images) and self._width <= WIDEST:
            classes = classes_of((h, w), self.patch_size, self.boundary)
            self._merged = merge_windows(np.asarray(self.images), classes)

    @property
    def _width(self) -> int:
        h, w, c = self.image_shape
        (up, down), (left, right) = (reach(self.patch_size, side) for side in (h, w))
        return (up + down + 1) * (left + right + 1) * c

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        return _mean(self, *self._query(u, sigma)).reshape(-1)

    def certified(self, u: Float[Array, " d"], sigma: RealScalar) -> CertifiedImage:
        """The denoised image with bounds of what the windows that were left out would change."""
        found = _values(self, *self._query(u, sigma))
        span = jnp.max(jnp.max(self.images, (0, 1, 2)) - jnp.min(self.images, (0, 1, 2)))
        bound = found.truncation * (1 + 1e-6) * span.astype(found.sums.dtype)
        full = lambda x: jnp.broadcast_to(x, self.image_shape).reshape(-1)  # noqa: E731
        return CertifiedImage(full(found.sums), full(bound), full(found.visited))


def default_chunk_size(outputs: int) -> int:
    """Windows visited at a time by so many pixels of a query: the exponents of some queries should stay in cache.

    Measured for 16 queries of 576 pixels: 128 to 288 equally fast, 576 twice slower. Fewer would not fill the product.
    """
    return max(128, 2**16 // outputs)


def _own(denoiser: EquivariantLocalDenoiser) -> int:
    """Where a window holds its own pixel."""
    h, w, _ = denoiser.image_shape
    (up, _), (left, right) = (reach(denoiser.patch_size, side) for side in (h, w))
    return up * (left + right + 1) + left


def _centre(images: Float[Array, "n h w c"]) -> Float[Array, " c"]:
    return lax.stop_gradient(jnp.mean(images, axis=(0, 1, 2)))


def _level(denoiser: EquivariantLocalDenoiser, u: Array, sigma: Array) -> Array:
    """The noise level at which the exponents of a query do not overflow."""
    return split(u, denoiser.images.astype(u.dtype), sigma)[1]


def _distinct(
    denoiser: EquivariantLocalDenoiser, u: Array, sigma: Array, value: Array | None
) -> Averages:
    """Averages for all pixels of a batch of images, from the distinct windows; for a derivative also about the value."""
    merged = denoiser._merged
    assert merged is not None
    num, h, w, c = u.shape
    classes = classes_of((h, w), denoiser.patch_size, denoiser.boundary)
    back = np.argsort(classes.pixel)
    table, label = (jnp.asarray(x[back], jnp.int32) for x in (classes.windows, classes.label))
    images = denoiser.images.astype(u.dtype)
    pixels, own, centre = padded(images).reshape(-1, c), _own(denoiser), _centre(images)
    width = table.shape[1] * c

    def windows_of(place):
        image, pixel = place // (h * w), place % (h * w)
        # Of one flat array, and indices once, not for every number that is gathered: several times faster.
        index = lax.optimization_barrier(image[:, None] * (h * w + 1) + table[pixel])
        return pixels[index].reshape(-1, width)

    sigma = jax.vmap(_level, (None, 0, 0))(denoiser, u, sigma)
    found = averages(
        merged,
        windows_of,
        lambda y: columns_of(y, own, centre, value is not None),
        padded(u)[:, table].reshape(num * h * w, width),
        jnp.tile(label, num),
        jnp.repeat(sigma, h * w),
        TOLERANCE,
        None if value is None else value.reshape(num * h * w, c),
    )
    shaped = lambda x: x.reshape(num, h, w, -1)  # noqa: E731
    return Averages(*map(shaped, (found.sums, found.truncation, found.visited)))


def _dense(
    denoiser: EquivariantLocalDenoiser, u: Array, sigma: Array, value: Array | None = None
) -> Float[Array, "h w columns"]:
    """Averages for all pixels, from all windows as they are; for a derivative also about the value."""
    h, w, c = u.shape
    images = denoiser.images.astype(u.dtype)
    pixels, query = padded(images), padded(u[None])[0]
    centre, own = _centre(images), _own(denoiser)
    # One answer for a batch with one noise level.
    trusted = is_trusted(pixels, centre, denoiser._width, sigma)
    sigma = _level(denoiser, u, sigma)
    about = None if value is None else lax.stop_gradient(value.reshape(h * w, c))

    def average_of_class(windows: Array, at: Array, chunk_size: int) -> Float[Array, "members c"]:
        mean = None if about is None else about[at]
        return average_over_class(
            windows, chunk_size, own, pixels, query, centre, sigma, trusted, mean
        )

    num = c + denoiser._width + 1
    width = c if value is None else num + c * (num + 1)
    result = jnp.zeros((h * w + 1, width), u.dtype)
    for rows, cols in groups_of((h, w), denoiser.patch_size, denoiser.boundary):
        windows = jnp.asarray(
            window_indices((h, w), denoiser.patch_size, denoiser.boundary, rows, cols)
        )
        average = functools.partial(
            average_of_class, chunk_size=denoiser.chunk_size or default_chunk_size(rows.size)
        )
        # An axis of one class would keep the compiler from vectorising: ten times slower.
        at = jnp.asarray(rows * w + cols)
        one_class = len(windows) == 1
        averages = average(windows[0], at[0])[None] if one_class else jax.vmap(average)(windows, at)
        result = result.at[rows * w + cols].set(averages)
    return result[:-1].reshape(h, w, -1)


# ------------------------------------------------------------------------------ batches, derivatives


def _averages(derivative: bool):
    """`(denoiser, u, sigma) -> Averages` of one image; a batch of them is seen as one.

    For a derivative, u is the image and its denoised one, stacked.
    """

    def of_batch(denoiser: EquivariantLocalDenoiser, u: Array, sigma: Array) -> Averages:
        def every(u, sigma):
            if derivative:
                sums = jax.vmap(lambda u, s: _dense(denoiser, u[0], s, u[1]))(u, sigma)
            else:
                sums = jax.vmap(lambda u, s: _dense(denoiser, u, s))(u, sigma)
            nothing = jnp.zeros_like(sums[..., :1])
            return Averages(sums, nothing, nothing.astype(jnp.int32))

        def distinct(u, sigma):
            if derivative:
                return _distinct(denoiser, u[:, 0], sigma, u[:, 1])
            return _distinct(denoiser, u, sigma, None)

        if denoiser._merged is None:
            return every(u, sigma)
        # The images are leaves: others may have taken their place.
        same = jnp.all(denoiser.images == denoiser._merged.images)
        return lax.cond(same, distinct, every, u, sigma)

    # As a whole, so that a second call outside `jax.jit` finds it compiled.
    return jax.jit(over_queries(of_batch))


_values, _moments = _averages(derivative=False), _averages(derivative=True)


@jax.custom_jvp
def _mean(denoiser: EquivariantLocalDenoiser, u: Array, sigma: Array) -> Float[Array, "h w c"]:
    return _values(denoiser, u, sigma).sums


@jax.custom_jvp
def _slopes(denoiser: EquivariantLocalDenoiser, u: Array, sigma: Array, value: Array) -> Array:
    """Sums about the value, on which what is read from them does not depend."""
    return _moments(denoiser, jnp.stack([u, value]), sigma).sums


def _jvp_of_dense(value: Array | None, primals, tangents):
    """For derivatives in the images, and second ones."""
    (denoiser, u, sigma), (moved, u_dot, sigma_dot) = primals, tangents
    filled = lambda x, dot: jnp.zeros_like(x) if is_zero(dot) else dot  # noqa: E731

    def dense(images, u, sigma):
        changed = eqx.tree_at(lambda d: d.images, denoiser, images)
        return _dense(changed, u, sigma, value)

    at = denoiser.images, u, sigma
    along = tuple(map(filled, at, (moved.images, u_dot, sigma_dot)))
    return jax.jvp(dense, at, along)[1]


def _mean_jvp(primals, tangents):
    (denoiser, u, sigma), (moved, u_dot, sigma_dot) = primals, tangents
    value = _mean(denoiser, u, sigma)
    if not is_zero(moved.images):
        return value, _jvp_of_dense(None, primals, tangents)
    # With l the exponent of a window y, D' = E[(y_p - D) l'], and l' = (x' . y - 2 (sigma' / sigma) (x . y - |y|^2 / 2)) /
    # sigma^2: covariances of the value with the window and with half its square, a few numbers a pixel.
    (h, w, c), width = u.shape, denoiser._width
    level = _level(denoiser, u, sigma)
    sums, num = _slopes(denoiser, u, sigma, value), c + width + 1
    centre = _centre(denoiser.images.astype(u.dtype))
    plain, rest = sums[..., c:num], sums[..., num:].reshape(h, w, c, num + 1)
    # Covariances from differences to the value: where one window has all the weight, both terms vanish.
    slopes = rest[..., 1 + c :] - rest[..., :1] * plain[:, :, None]
    slopes = slopes / level / level
    classes = classes_of((h, w), denoiser.patch_size, denoiser.boundary)
    table = jnp.asarray(classes.windows[np.argsort(classes.pixel)])
    change = jnp.zeros_like(value)

    def along(x):
        return jnp.einsum("hwck,hwk->hwc", slopes[..., :-1], x, precision=HIGHEST)

    def windows(x):
        return padded(x[None])[0][table].reshape(h, w, width)

    if not is_zero(u_dot):
        change += along(windows(u_dot))
    if not is_zero(sigma_dot):
        middle = jnp.tile(centre, width // c)[None, None]
        # A noise level that was raised does not move.
        moves = jnp.where(level > sigma, 0, sigma_dot / level)
        change -= 2 * moves * (along(windows(u) - middle) - slopes[..., -1])
    return value, change


def _slopes_jvp(primals, tangents):
    return _slopes(*primals), _jvp_of_dense(primals[3], primals[:3], tangents[:3])


_mean.defjvp(_mean_jvp, symbolic_zeros=True)
_slopes.defjvp(_slopes_jvp, symbolic_zeros=True)
