"""Merged windows and blocks left out, against the definition as loops in float64, and the bounds in hard cases."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax.denoisers._images import distinct_windows as distinct
from smoothjax.denoisers._images import equivariant_local as equivariant_local
from smoothjax.denoisers._images import window_averages, window_classes

# Compiles for minutes in all: not a second time in the suite at default precision.
pytestmark = pytest.mark.slow


def sparse_images(num, shape, seed=0):
    """Mostly blank, with a few pixels of few values: many equal windows."""
    rng = np.random.default_rng(seed)
    images = np.full((num, *shape), -1.0)
    for image in images:
        row, col = (rng.integers(side) for side in shape[:2])
        image[row : row + 2, col : col + 2] = rng.choice([0.0, 0.5, 1.0], shape[2])
    return images


def all_windows(images, size, boundary):
    """Numbers of every window, NaN outside, and which pixels are compared: the same places outside."""
    n, h, w = images.shape[:3]
    low, high = size // 2, (size - 1) // 2
    mode = {"mode": "wrap"} if boundary == "circular" else {"constant_values": np.nan}
    padded = np.pad(images, [(0, 0), (low, high), (low, high), (0, 0)], **mode)
    places = itertools.product(range(h), range(w))
    windows = [padded[:, a : a + size, b : b + size].reshape(n, -1) for a, b in places]
    return np.stack(windows, 1).reshape(n, h * w, -1)


def definition(u, images, size, boundary, levels):
    """(levels, queries, h, w, c), in float64 and from differences."""
    n, h, w, c = images.shape
    x, y = (all_windows(a.astype(np.float64), size, boundary) for a in (u, images))
    outside = np.isnan(y[0])
    values = images.astype(np.float64).reshape(n, h * w, c)
    result = np.zeros((len(levels), len(u), h * w, c))
    for p in range(h * w):
        same = np.flatnonzero(np.all(outside == outside[p], axis=1))
        inside = ~outside[p]
        squares = np.sum((x[:, None, None, p, inside] - y[None, :, same][..., inside]) ** 2, -1)
        squares = squares.reshape(len(u), -1)
        squares -= squares.min(1, keepdims=True)
        for k, sigma in enumerate(levels):
            weights = np.exp(-squares / (2 * sigma**2))
            weights /= weights.sum(1, keepdims=True)
            result[k, :, p] = weights @ values[:, same].reshape(-1, c)
    return result.reshape(len(levels), *u.shape)


@eqx.filter_jit
def certified(denoiser, u, levels):
    flat = u.reshape(len(u), -1)
    found = jax.lax.map(lambda s: jax.vmap(denoiser.certified, (0, None))(flat, s), levels)
    return jax.tree.map(lambda x: x.reshape(len(levels), *u.shape), found)


def found(denoiser, u, levels):
    dtype = denoiser.images.dtype
    return jax.tree.map(
        np.asarray, certified(denoiser, jnp.asarray(u, dtype), jnp.asarray(levels, dtype))
    )


CASES = [
    (5, "clipped", (8, 9, 1)),
    (4, "clipped", (7, 6, 3)),
    (3, "circular", (6, 7, 3)),
    (2, "circular", (6, 6, 1)),
    (7, "clipped", (5, 4, 2)),  # 98 numbers: more than directions of the boxes
]
LEVELS = np.array([1e-4, 0.05, 0.4, 2.0, 50.0])


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(distinct, "BLOCK", 16)
    monkeypatch.setattr(window_averages, "CHUNKS", (32, 8))


@pytest.mark.parametrize("size, boundary, shape", CASES)
def test_definition(size, boundary, shape, dtype, small_blocks):
    images = sparse_images(25, shape).astype(dtype)
    rng = np.random.default_rng(1)
    # Halfway between windows and off them, so that no window is all of the weight at every level.
    u = 0.5 * (images[:2] + images[2:4]) + 0.3 * rng.standard_normal((2, *shape)).astype(dtype)
    D = sj.EquivariantLocalDenoiser(images, size, boundary)
    merged = D._merged
    assert merged is not None
    distinct_windows = np.sum(np.asarray(merged.log_count) > -1)
    assert distinct_windows < images[..., 0].size
    result = found(D, u, LEVELS)
    expected = definition(u, images, size, boundary, LEVELS.astype(dtype))
    # The bound is for what is left out; exponents are right to 2048 eps nats as the denoiser says, values within 2.
    rounding = 2 * 2048 * np.finfo(dtype).eps + 1e-12
    assert np.all(np.abs(result.value - expected) <= result.truncation + rounding)
    assert np.max(result.truncation) <= 2 * equivariant_local.TOLERANCE * 1.02
    assert np.min(result.visited[1]) < merged.place.size  # something was left out


def test_every_window_is_counted_once(dtype):
    images = sparse_images(40, (7, 8, 2)).astype(dtype)
    D = sj.EquivariantLocalDenoiser(images, 3)
    merged = D._merged
    classes = window_classes.classes_of((7, 8), 3, "clipped")
    counts = np.exp(np.asarray(merged.log_count, np.float64))
    sizes = np.bincount(classes.label) * 40
    found_sizes = np.bincount(np.asarray(merged.label), counts.sum(1))
    np.testing.assert_allclose(found_sizes, sizes, rtol=1e-5)
    windows = all_windows(images, 3, "clipped")
    labels = np.empty(56, int)
    labels[classes.pixel] = classes.label
    rows = np.concatenate([windows.reshape(40 * 56, -1), np.tile(labels, 40)[:, None]], axis=1)
    assert np.sum(counts > 0.5) == len(np.unique(np.nan_to_num(rows, nan=9.0), axis=0))


def test_equal_hashes_are_not_equal_windows(monkeypatch):
    """Windows that a broken hash confuses stay apart."""
    pixels = np.array([[[0.0], [1.0], [2.0], [1.0], [0.0]]], np.float32)
    windows = np.array([[0], [1], [2], [3]])
    unique = np.unique
    monkeypatch.setattr(np, "unique", lambda key, **options: unique(np.zeros_like(key), **options))
    place, count = distinct._merge(pixels, windows, np.arange(4))
    totals = {}
    for p, k in zip(place, count, strict=True):
        value = float(pixels[0, p, 0])
        totals[value] = totals.get(value, 0) + int(k)
    assert totals == {0.0: 1, 1.0: 2, 2.0: 1}


@pytest.mark.parametrize("tolerance", [1e-3, 0.5])
def test_bounds_hold_for_every_block(tolerance, x64, small_blocks, monkeypatch):
    """By leaving out as much as a large tolerance allows."""
    monkeypatch.setattr(equivariant_local, "TOLERANCE", tolerance)
    # What is compiled has the tolerance in it.
    jax.clear_caches()
    rng, levels = np.random.default_rng(2), np.array([0.02, 0.1, 0.3, 1.0])
    # Clusters of windows at many distances, and queries between, at and far from them.
    base = np.cumsum(rng.standard_normal((30, 9, 9, 1)), axis=1) * 0.4
    images = base + 1e-3 * rng.standard_normal((30, 9, 9, 1))
    u = np.stack([images[0], images[1] + 0.3, 10 * images[2], 0.5 * (images[3] + images[4])])
    result = found(sj.EquivariantLocalDenoiser(images, 3), u, levels)
    jax.clear_caches()
    error = np.abs(result.value - definition(u, images, 3, "clipped", levels))
    span = images.max() - images.min()
    # Exponents right to 2048 eps nats, times the spread of the values.
    assert np.all(error <= result.truncation + 4 * 2048 * np.finfo(np.float64).eps * span)
    assert np.max(result.truncation) <= 1.02 * span * tolerance
    assert np.max(error) > 1e-3 * tolerance * span  # so that the bound was put to a test


def test_one_image_and_constant_images(dtype):
    flat = np.full((3, 5, 5, 1), 0.25, dtype)
    D = sj.EquivariantLocalDenoiser(flat, 3)
    u = jnp.linspace(-1, 1, 25, dtype=dtype)
    result = found(D, u.reshape(1, 5, 5, 1), [1e-6, 0.5, 1e4])
    np.testing.assert_allclose(result.value, 0.25, rtol=1e-6)
    image = sparse_images(1, (5, 6, 2)).astype(dtype)
    levels = np.array([0.3, 3.0])
    result = found(sj.EquivariantLocalDenoiser(image, 3, "circular"), 0.5 * image, levels)
    expected = definition(0.5 * image, image, 3, "circular", levels)
    np.testing.assert_allclose(result.value, expected, rtol=0, atol=4096 * np.finfo(dtype).eps)


def test_images_that_are_replaced(x64):
    """The leaf may be exchanged, and merged windows are then those of other images."""
    images, other = (sparse_images(9, (5, 6, 1), seed) for seed in (0, 1))
    D = sj.EquivariantLocalDenoiser(images, 3)
    changed = eqx.tree_at(lambda d: d.images, D, jnp.asarray(other))
    u = 0.5 * other[:2]
    expected = definition(u, other, 3, "clipped", [0.5])
    result = found(changed, u, [0.5])
    np.testing.assert_allclose(result.value, expected, rtol=0, atol=1e-12)
    assert np.all(result.visited == 0)
    traced = jax.jit(lambda y, u: sj.EquivariantLocalDenoiser(y, 3)(u, 0.5))
    np.testing.assert_allclose(
        traced(other, jnp.asarray(u[0].ravel())), expected[0, 0].ravel(), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    "size, boundary, shape",
    [
        pytest.param(3, "clipped", (5, 4, 2), marks=pytest.mark.exhaustive),
        (2, "circular", (4, 4, 1)),
    ],
)
def test_derivatives(size, boundary, shape, x64):
    """In the point and the noise level, forward and backward, and the Jacobian, against differences of the definition."""
    images = sparse_images(12, shape)
    rng = np.random.default_rng(3)
    u, along = 0.5 * images[:1] + 0.2 * rng.standard_normal((1, *shape)), rng.standard_normal(shape)
    D, sigma = sj.EquivariantLocalDenoiser(images, size, boundary), 0.8
    flat = lambda x: jnp.asarray(x.ravel())  # noqa: E731
    _, moved = jax.jit(lambda u, t: jax.jvp(D, (u, sigma), (t, 0.3)))(flat(u), flat(along))
    step = 1e-4
    ends = [
        definition(u + s * along, images, size, boundary, [sigma + 0.3 * s])[0, 0]
        for s in (-step, step)
    ]
    difference = (ends[1] - ends[0]).ravel() / (2 * step)
    # step^2 / 6 times third derivatives; what is left out changes values by up to 4e-6 and slopes by some times as much.
    np.testing.assert_allclose(moved, difference, rtol=0, atol=1e-4)
    assert np.max(np.abs(difference)) > 0.1
    weights = flat(rng.standard_normal(shape))
    slope = jax.jit(jax.grad(lambda u: jnp.dot(weights, D(u, sigma))))(flat(u))

    @jax.jit
    def numbers(u, along):
        forward = jax.jvp(lambda u: jnp.dot(weights, D(u, sigma)), (u,), (along,))[1]
        return forward, D(u, sigma), D.mean_and_variance(u, sigma), jax.jacrev(D)(u, sigma)

    forward, alone, (value, variance), jacobian = numbers(flat(u), flat(along))
    np.testing.assert_allclose(np.dot(slope, along.ravel()), forward, rtol=0, atol=1e-10)
    np.testing.assert_allclose(value, alone, rtol=1e-12)
    np.testing.assert_allclose(variance, sigma**2 * np.trace(jacobian), rtol=1e-9)


@pytest.mark.exhaustive
def test_second_derivatives(x64):
    images = sparse_images(6, (4, 4, 1))
    D = sj.EquivariantLocalDenoiser(images, 3)
    u = jnp.asarray(np.random.default_rng(0).standard_normal(16))
    v = jnp.ones(16)
    slope = lambda u: jnp.vdot(v, jax.jvp(lambda x: D(x, 1.0), (u,), (v,))[1])  # noqa: E731
    curvature = jax.jvp(slope, (u,), (v,))[1]
    difference = (slope(u + 1e-4 * v) - slope(u - 1e-4 * v)) / 2e-4
    np.testing.assert_allclose(curvature, difference, rtol=0, atol=1e-4)


@pytest.mark.exhaustive
def test_batches_of_any_shape(x64, small_blocks):
    images = sparse_images(15, (6, 6, 1))
    D = sj.EquivariantLocalDenoiser(images, 3)
    rng = np.random.default_rng(4)
    u = jnp.asarray(0.5 * images[:6].reshape(2, 3, 36) + 0.3 * rng.standard_normal((2, 3, 36)))
    levels = jnp.array([[0.1, 0.5, 2.0], [0.02, 1.0, 30.0]])
    both = jax.jit(jax.vmap(jax.vmap(D)))(u, levels)
    for i, j in np.ndindex(2, 3):
        alone = D(u[i, j], levels[i, j])
        np.testing.assert_allclose(both[i, j], alone, rtol=0, atol=8e-6)
