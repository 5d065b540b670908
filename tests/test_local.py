"""Local denoisers of images against loops over pixels, against each other and against the exact posterior mean."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax.denoisers import (
    EquivariantLocalDenoiser,
    LocalDenoiser,
    PatchCompositeDenoiser,
    ScheduledDenoiser,
    WienerMaskDenoiser,
)
from smoothjax.measures import calibrate_patch_size

# Compiles for minutes in all: not a second time in the suite at default precision.
pytestmark = pytest.mark.slow

SHAPE = (5, 6, 2)
LEVELS = (0.05, 0.7, 6.0)
COUNT = 7
# Distances are sums of at most 60 squares of size 100, divided by 2 LEVELS[0]^2; a few roundings each.
EXACT = 1e-10


def problem(shape=SHAPE, num=COUNT, queries=3, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (num, *shape))
    # Near one image or between two, so that several weigh in at low noise too.
    u = 0.5 * (images[:queries] + images[1 : queries + 1]) + 0.02 * rng.standard_normal(
        (queries, *shape)
    )
    return images.astype(dtype), u.astype(dtype)


@eqx.filter_jit
def evaluate(denoiser, u, levels):
    """`D(u, sigma)` for every level and query, in one compiled call: (levels, queries, h, w, c)."""
    flat = u.reshape(len(u), -1)
    result = jax.lax.map(lambda s: jax.vmap(denoiser, (0, None))(flat, s), levels)
    return result.reshape(len(levels), *u.shape)


def found(denoiser, u, levels=LEVELS):
    return np.asarray(evaluate(denoiser, jnp.asarray(u), jnp.asarray(levels, u.dtype)))


def softmax(logits):
    weights = np.exp(logits - np.max(logits))
    return weights / np.sum(weights)


# ------------------------------------------------------------------------------- definitions, as loops


def window(p, size, shape, boundary):
    """Offsets of the window of pixel p that are compared, with where they lie."""
    result = {}
    for offset in itertools.product(range(-(size // 2), -(-size // 2)), repeat=2):
        place = tuple(a + b for a, b in zip(p, offset, strict=True))
        if boundary == "circular":
            result[offset] = tuple(a % side for a, side in zip(place, shape[:2], strict=True))
        elif all(0 <= a < side for a, side in zip(place, shape[:2], strict=True)):
            result[offset] = place
    return result


def distance(u, image, here, there):
    return sum(np.sum((u[here[k]] - image[there[k]]) ** 2) for k in here)


def local(u, images, sigma, size, boundary):
    result = np.zeros_like(u)
    for p in np.ndindex(u.shape[:2]):
        here = window(p, size, u.shape, boundary)
        logits = [-distance(u, y, here, here) / (2 * sigma**2) for y in images]
        result[p] = np.einsum("i,ic->c", softmax(np.array(logits)), images[(slice(None), *p)])
    return result


def equivariant(u, images, size, boundary, levels=LEVELS):
    result = np.zeros((len(levels), *u.shape))
    windows = {p: window(p, size, u.shape, boundary) for p in np.ndindex(u.shape[:2])}
    for p, here in windows.items():
        matches = [q for q, there in windows.items() if there.keys() == here.keys()]
        squares = np.array([distance(u, y, here, windows[q]) for y in images for q in matches])
        values = np.array([y[q] for y in images for q in matches])
        for k, sigma in enumerate(levels):
            result[k][p] = softmax(-squares / (2 * sigma**2)) @ values
    return result


def composite(u, images, sigma, size):
    total, count = np.zeros_like(u), np.zeros(u.shape)
    h, w, _ = u.shape
    for a, b in itertools.product(range(h - size + 1), range(w - size + 1)):
        crop = (slice(a, a + size), slice(b, b + size))
        logits = np.array([-np.sum((u[crop] - y[crop]) ** 2) / (2 * sigma**2) for y in images])
        total[crop] += np.einsum("i,ixyc->xyc", softmax(logits), images[(slice(None), *crop)])
        count[crop] += 1
    return total / count


def wiener(images, sigma):
    points = images.reshape(len(images), -1)
    covariance = np.cov(points.T, bias=True)
    return covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(len(covariance)))


def wiener_masked(u, images, sigma, threshold, temperature):
    points, u = images.reshape(len(images), -1), u.ravel()
    size, live = np.abs(wiener(images, sigma)), np.std(points, axis=0) > 1e-12
    result = np.zeros_like(u)
    for q in range(len(u)):
        mask = [
            n
            for n in range(len(u))
            if live[n] and size[n, q] > threshold * max(size[n]) and live[q]
        ]
        squares = np.sum((u[mask] - points[:, mask]) ** 2, axis=1)
        result[q] = softmax(-squares / (2 * sigma**2 * temperature)) @ points[:, q]
    return result.reshape(images.shape[1:])


def looped(function, u, images, *args, levels=LEVELS):
    return np.array([[function(one, images, sigma, *args) for one in u] for sigma in levels])


CASES = [
    *itertools.product([2, 5], ["circular", "clipped"]),
    *itertools.product([1, 7], ["clipped"]),
]


@pytest.mark.parametrize("size, boundary", CASES)
def test_local_against_loops(size, boundary, x64):
    images, u = problem()
    D = LocalDenoiser(images, size, boundary, chunk_size=3)
    expected = looped(local, u, images, size, boundary)
    np.testing.assert_allclose(found(D, u), expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("size, boundary", CASES)
def test_equivariant_against_loops(size, boundary, x64):
    images, u = problem(num=4, queries=1)
    D = EquivariantLocalDenoiser(images, size, boundary, chunk_size=17)
    expected = equivariant(u[0], images, size, boundary)
    np.testing.assert_allclose(found(D, u)[:, 0], expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_composite_against_loops(size, x64):
    images, u = problem()
    D = PatchCompositeDenoiser(images, size, chunk_size=3)
    expected = looped(composite, u, images, size)
    np.testing.assert_allclose(found(D, u), expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("num", [20, 90])  # fewer images than coordinates, and more
def test_wiener_mask_against_loops(num, x64):
    images, u = problem(num=num)
    images = images.cumsum(axis=1)
    images[:, 2, 3, 1] = 0.3  # in no mask
    D = WienerMaskDenoiser(images, 0.2, 1.5, chunk_size=8)
    found_masks = np.asarray(D.masks(0.7))
    size = np.abs(wiener(images, 0.7))
    # No entry is so near its threshold that rounding could decide.
    gaps = np.abs(size / np.max(size, axis=1, keepdims=True).clip(1e-12) - 0.2)
    assert np.min(gaps) > 1e-6
    dead = np.ravel_multi_index((2, 3, 1), SHAPE)
    assert not found_masks[dead].any() and not found_masks[:, dead].any()
    assert 0.05 < np.mean(found_masks) < 0.7
    assert np.any(found_masks != found_masks.T)
    expected = looped(wiener_masked, u, images, 0.2, 1.5)
    np.testing.assert_allclose(found(D, u), expected, rtol=0, atol=EXACT)
    # Where the mask is empty, the mean.
    np.testing.assert_allclose(found(D, u)[..., 2, 3, 1], 0.3, atol=1e-14)


# ------------------------------------------------------------------------------------------- identities


def test_what_sees_the_whole_image_is_the_posterior_mean(dtype):
    images, u = problem((5, 5, 2), dtype=dtype)
    exact = found(sj.EmpiricalDenoiser(images.reshape(COUNT, -1)), u)
    # Exponents up to 50 x 4 / 2 LEVELS[0]^2 = 4e4 nats, from squares with relative errors of a few roundings; what competes
    # has far smaller ones. EmpiricalDenoiser may be off by 2048 eps besides.
    tolerance = 1e4 * np.finfo(dtype).eps
    whole = [
        LocalDenoiser(images, 5, "circular"),
        LocalDenoiser(images, 9, "clipped"),
        EquivariantLocalDenoiser(images, 9, "clipped"),
        PatchCompositeDenoiser(images, 5),
        WienerMaskDenoiser(images, 0.0),
    ]
    for D in whole:
        np.testing.assert_allclose(found(D, u), exact, rtol=0, atol=tolerance)
    # A clipped window of the image's side does not.
    assert np.max(np.abs(found(LocalDenoiser(images, 5, "clipped"), u) - exact)) > 0.1


def circular_shifts(images):
    h, w = images.shape[1:3]
    return np.concatenate(
        [np.roll(images, (a, b), (1, 2)) for a, b in itertools.product(range(h), range(w))]
    )


@pytest.mark.parametrize("size", [2, 5])
def test_equivariant_is_local_on_shifted_images(size, x64):
    images, u = problem()
    D = EquivariantLocalDenoiser(images, size, "circular")
    augmented = LocalDenoiser(circular_shifts(images), size, "circular")
    np.testing.assert_allclose(found(D, u), found(augmented, u), rtol=0, atol=EXACT)


def test_equivariance_under_circular_shifts(x64):
    images, u = problem()
    D = EquivariantLocalDenoiser(images, 3, "circular")
    shift = lambda x: np.roll(x, (2, -1), (-3, -2))  # noqa: E731
    np.testing.assert_allclose(found(D, shift(u)), shift(found(D, u)), rtol=0, atol=EXACT)
    # The rule for borders breaks it.
    clipped = EquivariantLocalDenoiser(images, 3, "clipped")
    assert np.max(np.abs(found(clipped, shift(u)) - shift(found(clipped, u)))) > 0.1


@pytest.mark.parametrize("size", [6, 11])
def test_from_the_side_on_clipped_windows_tell_every_pixel_apart(size, x64):
    images, u = problem()
    same = found(LocalDenoiser(images, size), u)
    D = EquivariantLocalDenoiser(images, size)
    np.testing.assert_allclose(found(D, u), same, rtol=0, atol=EXACT)


def all_kinds(images, chunk_size=None):
    return {
        "local": LocalDenoiser(images, 3, chunk_size=chunk_size),
        "equivariant": EquivariantLocalDenoiser(images, 3, chunk_size=chunk_size),
        "circular": EquivariantLocalDenoiser(images, 2, "circular", chunk_size=chunk_size),
        "composite": PatchCompositeDenoiser(images, 3, chunk_size=chunk_size),
        "wiener": WienerMaskDenoiser(images, 0.05, chunk_size=chunk_size),
    }


KINDS = tuple(all_kinds(np.ones((1, 3, 3))))
# One shape, number of images and of noise levels, and all in one chunk, for tests that share a program of each kind.
SMALL, MANY, WHOLE = (4, 5, 1), 23, 23 * 20


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_move_rounding_errors_only(kind, dtype):
    images, u = problem(SMALL, num=MANY, dtype=dtype)
    levels = (*LEVELS, 0.2)
    whole = found(all_kinds(images, WHOLE)[kind], u, levels)
    # At LEVELS[0], exponents of 3 x 3 windows near an image are below 9 x 0.5^2 / 2 LEVELS[0]^2 < 500, each right to a
    # few roundings; images of size one.
    tolerance = 4 * 500 * np.finfo(dtype).eps
    other = found(all_kinds(images, 7)[kind], u, levels)
    np.testing.assert_allclose(other, whole, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_limits_of_the_noise_level(kind, dtype):
    """One image at vanishing noise, the mean over what is compared at large noise; no overflow in between."""
    # Few images where masks of single pixels leave others near.
    images, _ = problem(SMALL, num=6 if kind == "wiener" else MANY, dtype=dtype)
    levels = np.array([np.finfo(dtype).tiny * 2, 1e-9, 1e-3, 1e18], dtype)
    result = found(all_kinds(images, WHOLE)[kind], images[:3], levels)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(result[:3], np.broadcast_to(images[:3], result[:3].shape), atol=eps)
    mean = images.mean(0)
    if kind == "circular":
        mean = np.full_like(mean, mean.mean())
    if kind == "equivariant":
        mean[1:-1, 1:-1] = mean[1:-1, 1:-1].mean()
        for border in (0, -1):
            mean[border, 1:-1] = mean[border, 1:-1].mean()
            mean[1:-1, border] = mean[1:-1, border].mean()
    expected = np.broadcast_to(mean, result[3].shape)
    np.testing.assert_allclose(result[3], expected, atol=100 * eps)


def test_float32_of_nearly_equal_windows(x64):
    """At a noise level where a product in float32 has exponents wrong by several nats."""
    rng = np.random.default_rng(5)
    base = rng.uniform(-1, 1, (1, 8, 8, 1)) + 3.0
    images = (base + 2e-3 * rng.standard_normal((30, 8, 8, 1))).astype(np.float32)
    u = (base + 2e-3 * rng.standard_normal((2, 8, 8, 1))).astype(np.float32)
    level = (0.002,)
    for kind in ("local", "equivariant", "composite"):
        single = found(all_kinds(images)[kind], u, level)
        double = found(all_kinds(images.astype(np.float64))[kind], u.astype(np.float64), level)
        # Each difference is exact, and exponents of some tens of nats have relative errors of 20 roundings, which changes
        # averages by 2e-3 times 2e-4. Values are of size 4, and the two sums of an average round some times each: 16 eps.
        np.testing.assert_allclose(single, double, rtol=0, atol=2e-3 * 2e-4 + 4 * 16 * 1.2e-7 / 2)


def test_product_and_differences_agree(x64):
    """Either side of the noise level where `EquivariantLocalDenoiser` changes over, 0.23 for images in [-2, 2]."""
    images, u = problem((6, 6, 1), num=4, queries=1)
    images, u = 2 * images, 2 * u
    levels = np.array([0.1, 0.2, 0.25, 0.6, 2.0])
    expected = equivariant(u[0], images, 5, "clipped", levels)
    images, u = images.astype(np.float32), u.astype(np.float32)
    D = EquivariantLocalDenoiser(images, 5)
    # The promised error of an exponent, 2048 eps nats, times the spread of the values.
    result = found(D, u, levels)[:, 0]
    np.testing.assert_allclose(result, expected, rtol=0, atol=2048 * 1.2e-7 * 4)


# ---------------------------------------------------------------------------------- transformations


@pytest.mark.parametrize("kind", ["local", "circular", "composite", "wiener"])
@pytest.mark.exhaustive
def test_derivatives(kind, x64):
    """Forward and reverse mode against central differences, in the point, the noise level and the images."""
    images, u = problem((4, 4, 1), num=9)
    far = images.copy()
    far[8] = 60.0  # matters to nothing but the choice between product and differences
    D = all_kinds(jnp.asarray(images), 4)[kind]
    rng = np.random.default_rng(1)
    point = jnp.asarray(u[0].ravel())
    along = (jnp.asarray(rng.standard_normal(16)), jnp.asarray(0.7))
    cotangent = jnp.asarray(rng.standard_normal(16))
    move = 0.1 * jnp.asarray(rng.standard_normal(images.shape))

    @jax.jit
    def everything(images, sigma):
        def value(point, sigma, t):
            return eqx.tree_at(lambda d: d.images, D, images + t * move)(point, sigma)

        primals, tangents = (point, sigma, jnp.zeros(())), (*along, jnp.ones(()))
        forward = jax.jvp(value, primals, tangents)[1]
        pulled = jax.vjp(value, *primals)[1](cotangent)
        steps = 1e-5 * jnp.array([-1.0, 1.0])
        ends = jax.lax.map(lambda h: value(point + h * along[0], sigma + h * along[1], h), steps)
        backward = sum(jnp.sum(a * b) for a, b in zip(pulled, tangents, strict=True))
        return forward, backward, (ends[1] - ends[0]) / 2e-5

    for data, sigma in itertools.product((images, far), (0.2, 1.0)):
        forward, backward, difference = everything(jnp.asarray(data), jnp.asarray(sigma))
        # step^2 / 6 times third derivatives, which are of the size (3 / sigma^2)^3 = 4e5 at most.
        np.testing.assert_allclose(forward, difference, rtol=0, atol=1e-5)
        assert float(jnp.max(jnp.abs(forward))) > 0.1
        np.testing.assert_allclose(backward, jnp.sum(cotangent * forward), rtol=0, atol=1e-10)


@pytest.mark.exhaustive
def test_trace_of_the_jacobian(x64):
    images, u = problem((3, 4, 1))
    D = LocalDenoiser(images, 3)
    point = jnp.asarray(u[0].ravel())
    value, variance = D.mean_and_variance(point, 0.7)
    jacobian = jax.jacrev(D)(point, 0.7)
    np.testing.assert_allclose(value, D(point, 0.7), rtol=1e-14)
    np.testing.assert_allclose(variance, 0.49 * jnp.trace(jacobian), rtol=1e-12)
    # The output of a pixel depends on its window alone; the Jacobian of no posterior mean, it is not symmetric.
    assert jacobian[0, 2] == 0 and jacobian[0, 5] != 0
    assert float(jnp.max(jnp.abs(jacobian - jacobian.T))) > 1e-3


def test_one_noise_level_a_query(x64):
    images, u = problem(SMALL, num=MANY)
    levels = np.array([0.1, 0.9, 5.0, 0.3])
    for D in all_kinds(images, WHOLE).values():
        flat = jnp.asarray(u.reshape(3, -1))
        together = eqx.filter_jit(lambda D, u, s: jax.vmap(D)(u, s))(D, flat, levels[:3])
        apart = np.diagonal(found(D, u, levels)[:3]).transpose(3, 0, 1, 2).reshape(3, -1)
        np.testing.assert_allclose(together, apart, rtol=0, atol=EXACT)


def test_channels_and_dtype(dtype):
    images, u = problem(SMALL, num=MANY, dtype=dtype)
    colour, gray = (all_kinds(x, WHOLE).values() for x in (images, images[..., 0]))
    for D, other in zip(colour, gray, strict=True):
        assert D.image_shape == SMALL and D.dim == 20
        one, two = (found(x, u, (*LEVELS, 0.5)) for x in (D, other))
        assert one.dtype == dtype
        np.testing.assert_array_equal(one, two)


def test_the_batch_becomes_one_product():
    """(queries x pixels, window) with (window, chunk), at the highest precision."""
    images, u = problem((8, 8, 1), dtype=np.float32)
    # Traced images are not merged: the dense form.
    D = jax.jit(lambda y: EquivariantLocalDenoiser(y, 3, "circular", chunk_size=64))(images)
    batch = jax.make_jaxpr(lambda u, s: jax.vmap(D, (0, None))(u, s))
    text = str(batch(jnp.asarray(u.reshape(3, -1)), jnp.float32(1)))
    products = [line for line in text.splitlines() if "dot_general[" in line]
    assert len(products) == 1
    assert "precision=(Precision.HIGHEST, Precision.HIGHEST)" in text


def test_memory_is_that_of_a_chunk():
    images = np.zeros((500, 8, 8), np.float32)

    def temporary(chunk_size):
        D = EquivariantLocalDenoiser(images, 3, "circular", chunk_size)
        call = jax.jit(lambda D, u, s: jax.vmap(D, (0, None))(u, s))
        u = jax.ShapeDtypeStruct((4, 64), jnp.float32)
        compiled = call.lower(D, u, jax.ShapeDtypeStruct((), jnp.float32)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # Five arrays of queries x pixels x chunk, and the images with their patches.
    assert temporary(128) < 5 * 4 * 64 * 128 * 4 + 4 * images.nbytes + 9 * 128 * 4 * 8


# ---------------------------------------------------------------------------------------- schedules


def test_schedule(x64):
    images, u = problem((4, 5, 1))
    parts = [LocalDenoiser(images, size) for size in (1, 3, 9)]
    D = ScheduledDenoiser(parts, [0.3, 2.0])
    assert D.dim == 20
    levels = np.array([0.1, 0.3, 0.31, 2.0, 2.1])
    result = found(D, u, levels)
    for i, k in enumerate((0, 0, 1, 1, 2)):
        np.testing.assert_array_equal(result[i], found(parts[k], u, levels)[i])
    point = jnp.asarray(u[0].ravel())
    value, variance = D.mean_and_variance(point, 1.0)
    expected = parts[1].mean_and_variance(point, 1.0)
    np.testing.assert_allclose(value, expected[0], rtol=1e-14)
    np.testing.assert_allclose(variance, expected[1], rtol=1e-12)
    only = ScheduledDenoiser(parts[:1], [])
    np.testing.assert_array_equal(only(point, 1.0), parts[0](point, 1.0))


def test_calibration_recovers_a_schedule(x64):
    """Against a local denoiser whose patch size changes, and the errors against their definition."""
    images, _ = problem((5, 5, 1), num=12)
    build = lambda size: LocalDenoiser(images, size)  # noqa: E731
    target = ScheduledDenoiser([build(1), build(3), build(5)], [0.3, 2.0])
    levels, points = jnp.array([0.1, 0.2, 0.5, 1.5, 4.0]), jnp.asarray(images.reshape(12, 25))
    key, sizes = jax.random.key(0), [5, 1, 3]
    result = calibrate_patch_size(build, target, points, levels, sizes, key, batch_size=5)
    assert result.patch_sizes == (1, 3, 5) and result.best == (1, 1, 3, 3, 5)
    errors = np.asarray(result.errors.value)
    for i, size in enumerate(result.best):
        assert errors[i, result.patch_sizes.index(size)] == 0
    # At one level: the noise of point i comes from the key folded with i.
    z = np.array([jax.random.normal(jax.random.fold_in(key, i), (25,)) for i in range(12)])
    u = (points + 1.5 * z).reshape(12, 5, 5, 1)
    difference = found(build(1), u, [1.5])[0] - found(build(3), u, [1.5])[0]
    squares = np.mean(difference.reshape(12, -1) ** 2, axis=1)
    error = np.std(squares, ddof=1) / np.sqrt(12) / (2 * np.sqrt(np.mean(squares)))
    np.testing.assert_allclose(errors[3, 0], np.sqrt(np.mean(squares)), rtol=1e-9)
    np.testing.assert_allclose(result.errors.standard_error[3, 0], error, rtol=1e-9)

    D = result.schedule(build)
    np.testing.assert_allclose(D.levels, np.sqrt([0.2 * 0.5, 1.5 * 4.0]), rtol=1e-14)
    np.testing.assert_array_equal(found(D, u, levels), found(target, u, levels))
    one = calibrate_patch_size(build, build(3), points, levels[:1], [3], key)
    assert one.schedule(build).levels.shape == (0,)


@pytest.mark.parametrize(
    "sizes, levels, message",
    [
        ([], [1.0], "one size or more"),
        ([3, 3], [1.0], "all different"),
        ([3.0], [1.0], "`patch_sizes` must be a sequence of integers"),
        ([3], [1.0, 0.5], "`levels` must increase"),
        ([3], [-1.0], "`levels` must be positive"),
    ],
)
def test_bad_calibrations(sizes, levels, message):
    images = np.ones((2, 4, 4), np.float32)
    build = lambda size: LocalDenoiser(images, size)  # noqa: E731
    with pytest.raises(ValueError, match=message):
        points = jnp.asarray(images.reshape(2, 16))
        calibrate_patch_size(build, build(1), points, levels, sizes, jax.random.key(0))


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LocalDenoiser(np.ones((3, 4)), 3), "`images` must have shape"),
        (lambda: LocalDenoiser(np.ones((0, 4, 4)), 3), "must not be empty"),
        (lambda: LocalDenoiser(np.full((2, 4, 4), np.nan), 3), "`images` must be finite"),
        (lambda: LocalDenoiser(np.ones((2, 4, 4)), 0), "`patch_size` must be a positive integer"),
        (lambda: LocalDenoiser(np.ones((2, 4, 4)), 2.0), "`patch_size` must be an integer"),
        (lambda: LocalDenoiser(np.ones((2, 4, 4)), 3, "zero"), "`boundary` must be one of"),
        (lambda: LocalDenoiser(np.ones((2, 4, 5)), 5, "circular"), "not exceed the images' sides"),
        (lambda: LocalDenoiser(np.ones((2, 4, 5)), 5, chunk_size=0), "`chunk_size` must be"),
        (
            lambda: EquivariantLocalDenoiser(np.ones((2, 4, 5)), 5, "circular"),
            "not exceed the images' sides",
        ),
        (
            lambda: EquivariantLocalDenoiser(np.ones((2, 4, 5)), 5, chunk_size=0),
            "`chunk_size` must be",
        ),
        (lambda: PatchCompositeDenoiser(np.ones((2, 4, 5)), 5), "not exceed the images' sides"),
        (lambda: WienerMaskDenoiser(np.ones((2, 4, 5)), 1.0), r"`threshold` must lie in \[0, 1\)"),
        (lambda: WienerMaskDenoiser(np.ones((2, 4, 5)), [0.1]), "`threshold` must be a scalar"),
        (lambda: WienerMaskDenoiser(np.ones((2, 4, 5)), 0.1, 0.0), "`temperature` must be"),
        (lambda: ScheduledDenoiser([], []), "one denoiser or more"),
        (lambda: ScheduledDenoiser([lambda u, s: u], []), "known to one of them"),
        (
            lambda: ScheduledDenoiser([LocalDenoiser(np.ones((2, 4, 5)), 3)], [1.0]),
            r"must have shape \(0,\)",
        ),
        (
            lambda: ScheduledDenoiser([LocalDenoiser(np.ones((2, 4, 5)), 3)] * 3, [1.0, 1.0]),
            "must increase strictly",
        ),
        (
            lambda: ScheduledDenoiser([LocalDenoiser(np.ones((2, 4, 5)), 3)] * 2, [-1.0]),
            "`levels` must be positive",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", KINDS)
def test_bad_queries(kind):
    D = all_kinds(np.ones((2, 3, 3), np.float32))[kind]
    with pytest.raises(ValueError, match=r"`u` must have shape \(9,\)"):
        D(jnp.zeros((3, 3)), 1.0)
    with pytest.raises(ValueError, match="`sigma` must be positive"):
        D(jnp.zeros(9), 0.0)
