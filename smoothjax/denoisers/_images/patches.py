"""Images, their windows, sums over windows, and soft-max averages over a stream of images."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from ..._checks import as_float_array, as_positive_integer, require_finite
from ..._jax.precision import common_dtype
from ..._layout import Layout, channels_last, require_layout
from .._base import AbstractDenoiser, level_for_slopes

Boundary = Literal["clipped", "circular"]
"""What windows do at the border of an image: end there, or go on at the other side."""

# Numbers of the images that are visited at a time: half a megabyte in float32, a few times that in intermediate results.
CHUNK_ELEMENTS = 2**17


def as_images(images: Any, layout: Layout | None) -> Float[Array, "n h w c"]:
    """`images` as a finite float array of shape (n, h, w, c), or `ValueError`; (n, h, w) gets one channel."""
    require_layout(layout)
    array = as_float_array(images, "images")
    if array.ndim not in (3, 4):
        raise ValueError(
            f"`images` must have shape (n, height, width) or (n, height, width, channels); got {array.shape}."
        )
    if 0 in array.shape:
        raise ValueError(f"`images` must not be empty; got shape {array.shape}.")
    require_finite(array, "images")
    if array.ndim == 3:
        if layout is not None:
            raise ValueError(f"`layout` is for images of four axes; got shape {array.shape}.")
        return array[..., None]
    return channels_last(array, layout, "`images`")


def as_boundary(boundary: Any, patch_size: int, image_shape: tuple[int, ...]) -> Boundary:
    """A known boundary rule; a window that wraps around must not meet itself."""
    if boundary not in get_args(Boundary):
        raise ValueError(f"`boundary` must be one of {get_args(Boundary)}; got {boundary!r}.")
    if boundary == "circular" and patch_size > min(image_shape[:2]):
        raise ValueError(
            "`patch_size` must not exceed the images' sides where windows wrap around; "
            f"got {patch_size} for images of {image_shape[0]} x {image_shape[1]}."
        )
    return boundary


def reach(patch_size: int, side: int) -> tuple[int, int]:
    """How far the window of a pixel reaches down and up an axis, as far as it can meet the image."""
    return min(patch_size // 2, side - 1), min((patch_size - 1) // 2, side - 1)


def valid_window_sums(x: Array, size: tuple[int, int], axes: tuple[int, int]) -> Array:
    """Sums over all windows inside `x`: shorter by `size - 1` along each axis.

    Adds shifted copies, log2(size) times an axis. Differences of cumulative sums would cancel.
    """
    for length, axis in zip(size, axes, strict=True):
        num = x.shape[axis] - length + 1
        powers, power, total, start = x, 1, None, 0
        while power <= length:
            if length & power:
                part = lax.slice_in_dim(powers, start, start + num, axis=axis)
                total = part if total is None else total + part
                start += power
            if 2 * power <= length:
                last = powers.shape[axis]
                powers = lax.slice_in_dim(powers, 0, last - power, axis=axis) + lax.slice_in_dim(
                    powers, power, last, axis=axis
                )
            power *= 2
        assert total is not None
        x = total
    return x


def window_sums(x: Float[Array, "n h w"], patch_size: int, boundary: Boundary) -> Array:
    """Sum over the window of every pixel, shape (n, h, w): outside the image it wraps around or counts nothing."""
    reaches = [reach(patch_size, side) for side in x.shape[1:]]
    mode = "wrap" if boundary == "circular" else "constant"
    padded = jnp.pad(x, [(0, 0), *reaches], mode=mode)
    down, right = (low + high + 1 for low, high in reaches)
    return valid_window_sums(padded, (down, right), (1, 2))


class AbstractImageDenoiser(AbstractDenoiser):
    """A denoiser made from a finite set of images that compares parts of them; its points are flat, row by row."""

    images: eqx.AbstractVar[Float[Array, "n h w c"]]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images."""
        _, h, w, c = self.images.shape
        return h, w, c

    @property
    def dim(self) -> int:
        h, w, c = self.image_shape
        return h * w * c

    def _query(self, u: Any, sigma: Any) -> tuple[Float[Array, "h w c"], Float[Array, ""]]:
        """The noisy image, and a noise level whose powers are representable, in the dtype of the computation."""
        u, sigma = self._point(u, sigma)
        dtype = common_dtype(u.dtype, self.images.dtype)
        # The scale is the images' alone: what depends on the noise level only is then shared by a batch of queries.
        scale = self.dim**0.5 * jnp.max(jnp.abs(self.images)).astype(dtype)
        sigma = level_for_slopes(scale, scale, sigma.astype(dtype))
        return u.astype(dtype).reshape(self.image_shape), sigma


def as_chunk_size(chunk_size: Any, num: int, elements: int) -> int:
    """Things visited at a time, out of `num`: equal chunks of at most `chunk_size`, by default of few numbers each."""
    if chunk_size is None:
        chunk_size = max(1, CHUNK_ELEMENTS // elements)
    num_chunks = -(-num // as_positive_integer(chunk_size, "chunk_size"))
    return -(-num // num_chunks)


class Sums(NamedTuple):
    """A soft-max average under way: what is summed carries the weights `exp(logit - highest)`."""

    highest: Float[Array, "*outputs"]
    normaliser: Float[Array, "*outputs"]
    weighted: Float[Array, "c *outputs"]

    @property
    def average(self) -> Float[Array, "c *outputs"]:
        return self.weighted / self.normaliser[None]


def no_sums(outputs: tuple[int, ...], channels: int, dtype: Any) -> Sums:
    """Before the first chunk."""
    lowest = jnp.full(outputs, jnp.finfo(dtype).min / 4, dtype)
    return Sums(lowest, jnp.zeros(outputs, dtype), jnp.zeros((channels, *outputs), dtype))


def relative_weights(logits: Array, highest: Array) -> Array:
    """`exp(logits - highest)`, at most one, and one for the largest, however large the logits are.

    Compiled code may form and round a logit in two ways, by which a large one would miss itself by many nats.
    """
    size = jnp.abs(highest)
    slack = jnp.where(size > 2.0**13, 4 * jnp.finfo(logits.dtype).eps * size, 0)
    return jnp.exp(_not_above_zero(logits - highest, lax.stop_gradient(slack)))


@jax.custom_jvp
def _not_above_zero(relative: Array, slack: Array) -> Array:
    return jnp.minimum(relative + slack, 0)


# A largest logit moves like all others.
_not_above_zero.defjvps(lambda dot, *_: dot, None)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _largest(logits: Array, axis: int) -> Array:
    return jnp.max(logits, axis)


@_largest.defjvp
def _largest_jvp(axis: int, primals, tangents):
    (logits,), (dot,) = primals, tangents
    # By its index: a number that compiled code forms in two ways may not equal itself.
    best = jnp.expand_dims(jnp.argmax(logits, axis), axis)
    here = lax.broadcasted_iota(best.dtype, logits.shape, axis % logits.ndim) == best
    return _largest(logits, axis), jnp.sum(jnp.where(here, dot, 0), axis)


def add_chunk(sums: Sums, logits: Array, values: Sequence[Array], axis: int) -> Sums:
    """Adds what lies along `axis` of the logits; `values`, one array a channel, broadcast against the logits.

    The online soft-max: what was added before is scaled to the new highest logit, so that chunking moves rounding errors
    only. One channel at a time: a broadcast axis of size one costs the compiler's vectoriser a factor of two.
    """
    # The highest logit cancels from the average. With its derivative, slopes are relative to its own: where one weight
    # outweighs the others, they would cancel to rounding otherwise.
    highest = jnp.maximum(sums.highest, _largest(logits, axis))
    keep = jnp.exp(sums.highest - highest)
    weights = relative_weights(logits, jnp.expand_dims(highest, axis))
    weighted = [
        jnp.sum(weights * lax.broadcast_to_rank(value, weights.ndim), axis) for value in values
    ]
    return Sums(
        highest,
        sums.normaliser * keep + jnp.sum(weights, axis),
        sums.weighted * keep[None] + jnp.stack(weighted) if weighted else sums.weighted,
    )


def over_chunks(num: int, chunk_size: int, body: Callable[[Any, Array, Array], Any], init: Any):
    """`body(carry, start, valid)` over chunks `start + arange(chunk_size)` of `num` things.

    The last chunk is moved back to end with the last thing, and `valid` is False for what it repeats. The backward pass of
    a derivative computes each chunk again instead of storing all of them.
    """
    num_chunks = -(-num // chunk_size)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # a loop does not need that protection
    def step(carry: Any, i: Array) -> Any:
        first = i * chunk_size
        start = jnp.minimum(first, num - chunk_size)
        return body(carry, start, start + jnp.arange(chunk_size) >= first)

    return lax.scan(lambda carry, i: (step(carry, i), None), init, jnp.arange(num_chunks))[0]


def masked(logits: Array, valid: Bool[Array, " chunk"]) -> Array:
    """`logits`, whose first axis is that of `valid`, with no weight where that is False."""
    return jnp.where(valid.reshape(-1, *(1,) * (logits.ndim - 1)), logits, -jnp.inf)


class Split(NamedTuple):
    """Numbers of a query as what lies in the range of the images' values, and twice what lies beyond it."""

    inside: Array
    beyond: Array


def split(u: Array, images: Array, sigma: Array) -> tuple[Split, Array]:
    """The query split, and the noise level at which its exponents do not overflow.

    With `a` the nearest number to u in the range, `(u - y)^2 - (u - a)^2 = (a - y) (a - y + 2 (u - a))` is the square but
    for a term that is common to all images; its factors have one sign, so that it is as precise as they are, where the
    square of a number far beyond the range would round away all that depends on y.
    """
    low, high = (f(images).astype(u.dtype) for f in (jnp.min, jnp.max))
    inside = lax.stop_gradient(jnp.clip(u, low, high))
    beyond = 2 * (u - inside)
    width = u.size**0.5 * (high - low)
    reach = u.size**0.5 * jnp.max(jnp.abs(beyond))
    return Split(inside, beyond), level_for_slopes(width, reach, sigma)


def excess(of: Split, y: Array) -> Array:
    """Squared differences to y, less those of the numbers in the range: elementwise, not negative."""
    difference = of.inside - y
    return difference * (difference + of.beyond)


def squared_differences(of: Split, images: Array) -> Float[Array, "n h w"]:
    """`excess` of every pixel over that of every image, over channels: from differences, nothing cancels."""
    inside, beyond = of
    return functools.reduce(
        operator.add,
        (
            excess(Split(inside[None, ..., c], beyond[None, ..., c]), images[..., c])
            for c in range(inside.shape[-1])
        ),
    )


def channels_of(images: Array) -> list[Array]:
    """One array for each channel, the last axis."""
    return [images[..., c] for c in range(images.shape[-1])]


def window_indices(
    shape: tuple[int, int], patch_size: int, boundary: Boundary, rows: np.ndarray, cols: np.ndarray
) -> np.ndarray:
    """Flat indices of the pixels in the windows of pixels (rows, cols): shape (*rows.shape, window).

    `h * w`, one past the last pixel, stands for a pixel outside the image.
    """
    h, w = shape
    (up, down), (left, right) = reach(patch_size, h), reach(patch_size, w)
    row = rows[..., None, None] + np.arange(-up, down + 1)[:, None]
    col = cols[..., None, None] + np.arange(-left, right + 1)
    if boundary == "circular":
        indices = (row % h) * w + col % w
    else:
        inside = (row >= 0) & (row < h) & (col >= 0) & (col < w)
        indices = np.where(inside, row * w + col, h * w)
    return indices.reshape(*rows.shape, -1)
