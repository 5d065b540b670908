"""Data sets: coordinates, splits, every file format there and back, and every way a file is bad."""

import gzip
import math
import os
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smoothjax import datasets
from smoothjax.datasets import Dataset, load

NAMED = ["digits", "two-points", "three-points", "segment", "polygon", "circle", "sphere"]
NAMED += ["hexagon", "line", "blend", "random"]
# For calls that the signatures forbid.
anything: Any = datasets


def eps(dtype):
    return float(jnp.finfo(dtype).eps)


def float_default():
    return jnp.dtype(jnp.result_type(float))


def draw(data, num, key=0):
    assert data.population is not None
    return data.population(jax.random.key(key), num)


# --- the container ---------------------------------------------------------------------------


def labelled(num=40, **kwargs):
    # Each row spells its own index, so that a row can be told after shuffling.
    points = np.arange(num, dtype=np.float32)[:, None] + np.array([0.0, 0.25, 0.5, 0.75])
    return Dataset("rows", points, labels=np.arange(num) * 10, image_shape=(2, 2, 1), **kwargs)


@pytest.mark.parametrize("num_train", [1, 13, 39])
@pytest.mark.parametrize("seed", [0, 7])
def test_split_follows_numpys_permutation(num_train, seed):
    data = labelled()
    train, held_out = data.split(num_train, seed=seed)
    order = np.random.default_rng(seed).permutation(40)
    original = np.asarray(data.points)
    np.testing.assert_array_equal(train.points, original[order[:num_train]])
    np.testing.assert_array_equal(held_out.points, original[order[num_train:]])
    np.testing.assert_array_equal(train.labels, 10 * order[:num_train])
    np.testing.assert_array_equal(held_out.labels, 10 * order[num_train:])


def test_split_is_disjoint_and_complete_and_repeats():
    data = labelled()
    train, held_out = data.split(25, seed=3)
    rows = [int(x) for part in (train, held_out) for x in part.points[:, 0]]
    assert len(train) == 25 and len(held_out) == 15
    assert sorted(rows) == list(range(40))
    again, _ = data.split(25, seed=3)
    np.testing.assert_array_equal(train.points, again.points)
    other, _ = data.split(25, seed=4)
    assert not np.array_equal(train.points, other.points)


def test_split_carries_everything_along():
    def population(key, num):
        return jnp.zeros((num, 4))

    data = labelled(population=population)
    for part in data.split(5):
        assert part.name == "rows" and part.image_shape == (2, 2, 1)
        assert part.population is population and part.dim == 4
        # Label and point still belong together.
        np.testing.assert_array_equal(part.labels, 10 * np.asarray(part.points[:, 0], int))
    assert datasets.two_points().split(1)[0].labels is None


@pytest.mark.parametrize("num_train", [0, -3, 40, 41])
def test_split_refuses_an_empty_part(num_train):
    message = rf"1 <= num_train < 40, the number of points of 'rows'; got {num_train}\."
    with pytest.raises(ValueError, match=message):
        labelled().split(num_train)


@pytest.mark.parametrize("num_train", [2.0, True, "2"])
def test_split_refuses_what_is_not_an_integer(num_train):
    with pytest.raises(ValueError, match=r"`num_train` must be an integer"):
        labelled().split(num_train)


@pytest.mark.parametrize("seed", [None, 0.5, -1])
def test_split_refuses_a_seed_that_would_not_repeat(seed):
    with pytest.raises(ValueError, match="`seed` must be"):
        labelled().split(5, seed=seed)


@pytest.mark.parametrize("offset", [0, 16])
def test_dataset_does_not_share_memory_with_the_users_array(offset, dtype):
    # JAX may use memory aligned to 64 bytes in place, and reads other memory when it gets to it.
    points = zeros_at((100_000, 2), dtype, offset)
    labels = zeros_at((100_000,), np.int32, offset)
    data = Dataset("mine", points, labels=labels)
    points[:], labels[:] = 1.0, 1
    assert data.points.dtype == dtype
    assert not np.any(np.asarray(data.points)) and not np.any(np.asarray(data.labels))


def zeros_at(shape, dtype, offset):
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.zeros(size + 128, np.uint8)
    start = -buffer.ctypes.data % 64 + offset
    return buffer[start : start + size].view(dtype).reshape(shape)


def test_dataset_is_a_pytree_of_its_arrays():
    data = labelled()
    assert len(jax.tree.leaves(data)) == 2
    doubled = eqx.filter_jit(lambda d: jax.tree.map(lambda x: 2 * x, d))(data)
    assert isinstance(doubled, Dataset) and doubled.image_shape == (2, 2, 1)
    np.testing.assert_array_equal(doubled.points, 2 * data.points)
    train, _ = eqx.filter_jit(lambda d: d.split(10, seed=1))(data)
    np.testing.assert_array_equal(train.points, data.split(10, seed=1)[0].points)


def test_equal_point_sets_share_one_compilation():
    traces = []

    @eqx.filter_jit
    def total(data):
        traces.append(data.name)
        return jnp.sum(data.points)

    total(datasets.polygon(5))
    total(datasets.polygon(5, rotation=0.1))
    assert len(traces) == 1


def test_repr_shows_shapes_not_numbers():
    text = repr(labelled())
    assert text == "Dataset('rows', points=f32[40,4], labels=i32[40], image_shape=(2, 2, 1))" or (
        float_default() == np.float64 and "f64[40,4]" in text
    )
    assert "UniformOnSphere(dim=2, radius=1.0)" in repr(datasets.polygon(100))
    assert len(repr(datasets.polygon(100))) < 120


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"points": [1.0, 2.0]}, r"shape \(n, d\); got \(2,\)"),
        ({"points": np.zeros((0, 3))}, r"at least one point; got shape \(0, 3\)"),
        ({"points": [[1.0], [math.nan]]}, r"finite; got nan at index \(1, 0\)"),
        ({"points": np.eye(2), "labels": [1, 2, 3]}, r"shape \(2,\).*got \(3,\)"),
        ({"points": np.eye(2), "labels": [[1], [2]]}, r"shape \(2,\).*got \(2, 1\)"),
        (
            {"points": np.eye(2), "labels": [0.5, 1.0]},
            "must be integers or names; got dtype float64",
        ),
        (
            {"points": np.eye(2), "labels": [True, False]},
            "must be integers or names; got dtype bool",
        ),
        ({"points": np.eye(2), "labels": np.array([0, 2**31])}, "0 to 2147483648"),
        ({"points": np.eye(2), "image_shape": (2, 2, 1)}, r"dimension 2.*got \(2, 2, 1\)"),
        ({"points": np.eye(2), "image_shape": (-1, -2, 1)}, r"got \(-1, -2, 1\)"),
        ({"points": np.eye(2), "image_shape": (2, 1)}, r"\(height, width, channels\); got \(2, 1"),
        ({"points": np.eye(2), "image_shape": (2.0, 1, 1)}, r"got \(2.0, 1, 1\)"),
    ],
)
def test_dataset_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Dataset("bad", **kwargs)


# --- point sets ------------------------------------------------------------------------------


def test_points_on_the_line(dtype):
    two, three = datasets.two_points(dtype=dtype), datasets.three_points(dtype=dtype)
    assert two.points.dtype == three.points.dtype == dtype
    np.testing.assert_array_equal(two.points, [[-1.0], [1.0]])
    np.testing.assert_array_equal(three.points, [[-1.0], [0.0], [1.0]])


@pytest.mark.parametrize("num", [2, 3, 8, 50])
def test_segment_is_evenly_spaced_and_symmetric(num, dtype):
    x = np.asarray(datasets.segment(num, dtype=dtype).points)
    assert x.shape == (num, 1) and x.dtype == dtype
    assert x[0, 0] == -1.0 and x[-1, 0] == 1.0
    np.testing.assert_array_equal(x, -x[::-1])
    # Each end of a gap is rounded once, to within eps / 2 of numbers of size at most 1.
    gaps = np.diff(x[:, 0].astype(np.float64))
    np.testing.assert_allclose(gaps, 2 / (num - 1), rtol=0, atol=eps(dtype))


@pytest.mark.parametrize(("num", "radius", "rotation"), [(3, 1.0, 0.0), (4, 2.5, 0.3), (7, 0.1, 5)])
def test_polygon_has_equal_radii_and_angles(num, radius, rotation, dtype):
    x = np.asarray(datasets.polygon(num, radius, rotation, dtype=dtype).points, np.float64)
    assert x.shape == (num, 2)
    z = x[:, 0] + 1j * x[:, 1]
    error = polygon_error(rotation, dtype)
    # Radii: an error of an angle moves nothing outwards.
    np.testing.assert_allclose(np.abs(z) / radius, 1.0, rtol=0, atol=2 * eps(dtype))
    # The z_k are the roots of z^n = (radius exp(i rotation))^n, whose errors are n times theirs ...
    target = np.exp(1j * num * rotation)
    np.testing.assert_allclose((z / radius) ** num, target, rtol=0, atol=2 * num * error)
    # ... all of them, counterclockwise from `rotation`.
    np.testing.assert_allclose(z[0] / radius, np.exp(1j * rotation), rtol=0, atol=error)
    turn = np.exp(2j * np.pi / num)
    np.testing.assert_allclose(z[1:] / z[:-1], turn, rtol=0, atol=2 * error)


def polygon_error(rotation, dtype):
    # The angle, computed in float64, is rounded four times; then cosine, radius and `dtype`.
    return 2 * eps(np.float64) * (abs(rotation) + 2 * np.pi) + 2 * eps(dtype)


def test_polygon_is_the_hexagon_of_the_paper(dtype):
    # Two independent ways to the same points: trigonometry, and the literals of the figure.
    literal = datasets.variance_paper_set("polygon", dtype=dtype)
    computed = datasets.polygon(6, dtype=dtype)
    np.testing.assert_allclose(
        literal.points, computed.points, rtol=0, atol=polygon_error(0.0, dtype)
    )


def test_variance_paper_sets(dtype):
    half = math.sqrt(3) / 2
    expected = {
        "polygon": [(1, 0), (0.5, half), (-0.5, half), (-1, 0), (-0.5, -half), (0.5, -half)],
        "line": [(k / 5, k / 5) for k in (-5, -3, -1, 1, 3, 5)],
        "blend": [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0.5, -1), (1, -1)],
        "random": [(-1, -1), (-0.9, 1), (-0.3, 0.2), (0.1, -0.1), (0.2, -0.1), (0.9, 0.7)],
    }
    for kind, points in expected.items():
        data = anything.variance_paper_set(kind, dtype=dtype)
        assert data.points.dtype == dtype
        np.testing.assert_array_equal(data.points, np.array(points, dtype))


def test_relative_variance_at_the_hexagons_centre():
    # By symmetry the score vanishes there and Cov(x_0 | u) = I / 2 at any noise level: tr Cov = 1.
    # A misplaced vertex changes either.
    x = np.asarray(datasets.variance_paper_set("polygon").points, np.float64)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=6 * eps(np.float32))
    np.testing.assert_allclose(x.T @ x / 6, np.eye(2) / 2, atol=6 * eps(np.float32))


@pytest.mark.parametrize("dim", [2, 10])
def test_sphere_is_uniform(dim, dtype):
    num = 4000
    x = np.asarray(datasets.sphere(num, dim, jax.random.key(dim), dtype=dtype).points, np.float64)
    assert x.shape == (num, dim)
    # A sum of `dim` squares, a root and a division, each rounded once.
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1.0, atol=(dim + 4) * eps(dtype))
    # For u uniform on the sphere and a fixed unit vector a, E (a.u) = 0, E (a.u)^2 = 1/d and
    # E (a.u)^4 = 3/(d(d+2)), so the means over the sample have these standard errors:
    fourth = 3 / (dim * (dim + 2))
    error = np.sqrt(1 / dim / num), np.sqrt((fourth - 1 / dim**2) / num)
    directions = np.concatenate([np.eye(dim), np.ones((1, dim)) / np.sqrt(dim)])
    projections = x @ directions.T
    # 5 standard errors: one of at most 11 directions is off by chance in 10^5 runs.
    np.testing.assert_allclose(projections.mean(axis=0), 0, atol=5 * error[0])
    np.testing.assert_allclose((projections**2).mean(axis=0), 1 / dim, atol=5 * error[1])


def test_circle_angles_are_uniform():
    num = 4000
    x = np.asarray(datasets.circle(num, key=jax.random.key(0)).points, np.float64)
    z = x[:, 0] + 1j * x[:, 1]
    # E exp(i m angle) = 0; the mean of num unit vectors has |.|^2 exponential with mean 1/num, so
    # it exceeds 25/num with probability exp(-25).
    for harmonic in range(1, 9):
        assert abs(np.mean(z**harmonic)) ** 2 < 25 / num


def test_random_sets_follow_the_key():
    first = datasets.circle(100, jax.random.key(1)).points
    np.testing.assert_array_equal(first, datasets.circle(100, jax.random.key(1)).points)
    assert not np.any(first == datasets.circle(100, jax.random.key(2)).points)


def test_fresh_points_from_the_same_key_are_not_the_training_points():
    data = datasets.sphere(100, 3, jax.random.key(0))
    fresh = draw(data, 100, key=0)
    distances = jnp.linalg.norm(data.points[:, None] - fresh[None], axis=-1)
    assert float(distances.min()) > 0


@pytest.mark.parametrize("name", ["two-points", "three-points", "segment"])
def test_population_of_points_on_the_line(name, dtype):
    num = 4000
    fresh = draw(load(name, dtype=dtype), num)
    assert fresh.dtype == dtype and fresh.shape == (num, 1)
    x = np.sort(np.asarray(fresh, np.float64)[:, 0])
    assert x[0] >= -1 and x[-1] <= 1
    # The ends are reached: all points miss an end by 0.01 with probability 0.995^4000 = 2e-9.
    assert x[0] < -0.99 and x[-1] > 0.99
    # Kolmogorov-Smirnov against (x + 1)/2: exceeds 2.3 / sqrt(num) with probability 5e-5.
    ranks = np.arange(1, num + 1) / num
    assert np.max(np.abs(ranks - (x + 1) / 2)) < 2.3 / np.sqrt(num)


@pytest.mark.parametrize(
    ("data", "radius"),
    [
        (lambda: datasets.polygon(4, 2.5, 0.3), 2.5),
        (lambda: load("polygon"), 1.0),
        (lambda: load("hexagon"), 1.0),
        (lambda: load("circle"), 1.0),
    ],
)
def test_population_of_points_on_a_circle(data, radius):
    num = 4000
    fresh = draw(data(), num)
    assert fresh.dtype == data().points.dtype
    z = np.asarray(fresh, np.float64) @ np.array([1, 1j])
    np.testing.assert_allclose(np.abs(z), radius, rtol=6 * eps(fresh.dtype))
    for harmonic in range(1, 7):
        assert abs(np.mean((z / radius) ** harmonic)) ** 2 < 25 / num


def test_population_of_the_line_and_of_sets_without_one():
    num = 4000
    fresh = np.asarray(draw(load("line"), num))
    np.testing.assert_array_equal(fresh[:, 0], fresh[:, 1])
    # Uniform on [-1, 1]: E x^2 = 1/3 and E x^4 = 1/5; 5 standard errors.
    assert abs(fresh[:, 0].mean()) < 5 * np.sqrt(1 / 3 / num)
    assert abs(np.mean(fresh[:, 0] ** 2) - 1 / 3) < 5 * np.sqrt((1 / 5 - 1 / 9) / num)
    for name in ("blend", "random", "digits"):
        assert load(name).population is None
    with pytest.raises(ValueError, match="`num` must be a positive integer; got 0"):
        draw(load("circle"), 0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: datasets.segment(1), "`num_points` must be at least 2; got 1"),
        (lambda: anything.segment(2.5), "`num_points` must be an integer; got 2.5"),
        (lambda: datasets.polygon(2), "`num_points` must be at least 3; got 2"),
        (lambda: datasets.polygon(4, radius=0.0), "`radius` must be positive and finite; got 0.0"),
        (lambda: datasets.polygon(4, radius=math.inf), "positive and finite; got inf"),
        (lambda: datasets.polygon(4, rotation=math.nan), "`rotation` must be finite; got nan"),
        (lambda: datasets.circle(0, jax.random.key(0)), "`num_points` must be a positive"),
        (lambda: datasets.sphere(3, 0, jax.random.key(0)), "`dim` must be a positive"),
        (lambda: anything.variance_paper_set("square"), "polygon, line, blend, random; got 'sq"),
        (lambda: datasets.two_points(dtype=jnp.int32), "float32 or float64; got int32"),
        (lambda: datasets.two_points(dtype="number"), "float32 or float64; got 'number'"),
    ],
)
def test_point_sets_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_float64_without_64_bit_mode_is_refused_not_rounded():
    if float_default() == np.float64:
        pytest.skip("64-bit mode is on")
    with pytest.raises(ValueError, match="jax_enable_x64"):
        datasets.two_points(dtype=np.float64)


# --- digits ----------------------------------------------------------------------------------


def test_digits(dtype):
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    bunch = sklearn_datasets.load_digits()
    data = datasets.digits(dtype=dtype)
    assert data.points.shape == (1797, 64) and data.points.dtype == dtype
    assert data.image_shape == (8, 8, 1) and len(data) == 1797
    # Exact: multiples of 1/8. The images are those of scikit-learn, row by row.
    images = (np.asarray(data.points).reshape(1797, 8, 8) + 1) * 8
    np.testing.assert_array_equal(images, bunch.images)
    assert float(data.points.min()) == -1.0 and float(data.points.max()) == 1.0
    np.testing.assert_array_equal(data.labels, bunch.target)
    train, held_out = datasets.digits().split(1500, seed=0)
    assert len(train) == 1500 and len(held_out) == 297
    assert train.points.dtype == float_default()


def test_digits_says_how_to_install_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"`sklearn`.*pip install 'smoothjax\[experiments\]'"):
        datasets.digits()


# --- by name ---------------------------------------------------------------------------------


def test_names_are_all_loadable(dtype):
    assert datasets.names() == tuple(NAMED)
    for name in NAMED:
        data = load(name, dtype=dtype)
        assert data.name == name and data.points.dtype == dtype


def test_load_by_name_is_the_function():
    key = jax.random.key(5)
    pairs = [
        (load("segment", num_points=4), datasets.segment(4)),
        (load("polygon", num_points=5), datasets.polygon(5)),
        (load("circle", seed=5), datasets.circle(100, key)),
        (load("sphere", num_points=9, dim=4, seed=5), datasets.sphere(9, 4, key)),
        (load("hexagon"), datasets.variance_paper_set("polygon")),
        (load("blend"), datasets.variance_paper_set("blend")),
    ]
    for loaded, built in pairs:
        np.testing.assert_array_equal(loaded.points, built.points)
        assert loaded.population == built.population
    assert not np.array_equal(load("circle", seed=1).points, load("circle", seed=2).points)


def test_load_unknown_name_lists_the_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = "no data set called 'digit', and no such path exists.*" + ", ".join(NAMED)
    with pytest.raises(ValueError, match=message):
        load("digit")
    with pytest.raises(ValueError, match="no data set called ''"):
        load("")


def test_load_missing_paths(tmp_path):
    for source in (tmp_path / "digits", str(tmp_path / "digits"), "nowhere/x", "x.npy", "x-idx1"):
        with pytest.raises(FileNotFoundError, match=re.escape(f"'{source}'")):
            load(source)


def test_load_a_file_called_like_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "circle").mkdir()
    assert load("circle").points.shape == (100, 2)
    with pytest.raises(ValueError, match="'circle': there are no images in it"):
        load(os.path.join(".", "circle"))


def test_load_refuses_options_that_do_nothing(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(3))
    with pytest.raises(ValueError, match="`num_points` is not an option of the data set 'digits'"):
        load("digits", num_points=10)
    with pytest.raises(ValueError, match=r"`dim` is not an option of the data set 'circle'.*dim=3"):
        load("circle", dim=3)
    with pytest.raises(ValueError, match=r"`num_points` is not an option of the path.*a\.npy"):
        load(tmp_path / "a.npy", num_points=2)
    with pytest.raises(ValueError, match="`source` must be text or a path; got 3"):
        anything.load(3)
    with pytest.raises(ValueError, match="`seed` must be an integer; got None"):
        anything.load("circle", seed=None)


# --- files: there and back -------------------------------------------------------------------

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (7, 4, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9, 2], np.uint8)


def assert_images(data, images, dtype=None):
    dtype = float_default() if dtype is None else dtype
    assert data.points.dtype == dtype
    height, width, channels = (*images.shape[1:], 1)[:3]
    assert data.image_shape == (height, width, channels)
    # x / 127.5 - 1 in more digits than either dtype, then rounded once: the best possible value.
    expected = (images.astype(np.longdouble) / 127.5 - 1).astype(dtype)
    flat = expected.reshape(len(images), height * width * channels)
    np.testing.assert_allclose(data.points, flat, rtol=eps(dtype) / 2, atol=0)


def idx_bytes(array, code=0x08):
    header = struct.pack(">HBB", 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 3), (5, 2, 3, 2)])
def test_npy_floats_are_kept(tmp_path, shape, dtype):
    array = np.random.default_rng(1).normal(size=shape, scale=100).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    data = load(tmp_path / "a.npy")
    assert data.points.dtype == dtype and data.name == "a.npy"
    assert data.labels is None and data.population is None
    np.testing.assert_array_equal(data.points, array.reshape(5, -1))
    assert data.image_shape == {3: (2, 3, 1), 4: (2, 3, 2)}.get(len(shape))


def test_npy_float_dtypes_and_layouts(tmp_path):
    array = np.random.default_rng(1).normal(size=(4, 3, 2))
    for name, stored in {
        "half": array.astype(np.float16),
        "big-endian": array.astype(">f4"),
        "fortran": np.asfortranarray(array),
    }.items():
        np.save(tmp_path / f"{name}.npy", stored)
        data = load(str(tmp_path / f"{name}.npy"))
        expected = jnp.float32 if stored.dtype.itemsize == 4 else float_default()
        assert data.points.dtype == expected
        np.testing.assert_array_equal(data.points, stored.astype(expected).reshape(4, 6))
    # Float64 is stored, float32 asked for.
    data = load(tmp_path / "fortran.npy", dtype=jnp.float32)
    np.testing.assert_array_equal(data.points, array.astype(np.float32).reshape(4, 6))


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_npy_images(tmp_path, images, dtype):
    np.save(tmp_path / "images.npy", images)
    assert_images(load(tmp_path / "images.npy"), images)
    assert_images(load(tmp_path / "images.npy", dtype=dtype), images, dtype)


def test_bytes_scale_to_the_whole_interval(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.arange(256, dtype=np.uint8)[None])
    x = np.asarray(load(tmp_path / "a.npy", dtype=dtype).points)[0]
    assert x[0] == -1.0 and x[255] == 1.0
    np.testing.assert_array_equal(x, -x[::-1])
    assert np.all(np.diff(x) > 0)
    assert load(tmp_path / "a.npy").image_shape is None


@pytest.mark.parametrize("points_name", ["points", "data", "images", "x", "anything"])
@pytest.mark.parametrize("labels_name", ["labels", "y", None])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, points_name, labels_name, save):
    arrays = {points_name: GREY}
    if labels_name is not None:
        arrays[labels_name] = LABELS
    save(tmp_path / "a.npz", **arrays)
    data = load(tmp_path / "a.npz")
    assert_images(data, GREY)
    if labels_name is None:
        assert data.labels is None
    else:
        assert data.labels is not None and data.labels.dtype == jnp.int32
        np.testing.assert_array_equal(data.labels, LABELS)


def test_npz_ignores_further_arrays_beside_a_named_one(tmp_path):
    np.savez(tmp_path / "a.npz", points=np.eye(3), extra=np.ones(9), note=np.array("hello"))
    np.testing.assert_array_equal(load(tmp_path / "a.npz").points, np.eye(3))


@pytest.mark.parametrize(
    ("images_name", "labels_name"),
    [
        ("t-images-idx3-ubyte", "t-labels-idx1-ubyte"),
        ("t-images-idx3-ubyte.gz", "t-labels-idx1-ubyte.gz"),
        ("t-images.idx3-ubyte", "t-labels.idx1-ubyte"),
        ("T.idx", None),
        ("t.idx3.gz", None),
    ],
)
def test_idx(tmp_path, images_name, labels_name, dtype):
    pack = gzip.compress if images_name.endswith(".gz") else bytes
    path = tmp_path / images_name
    path.write_bytes(pack(idx_bytes(GREY)))
    assert load(path).labels is None
    if labels_name is not None:
        (tmp_path / labels_name).write_bytes(pack(idx_bytes(LABELS)))
        np.testing.assert_array_equal(load(path).labels, LABELS)
    assert_images(load(path, dtype=dtype), GREY, dtype)


@pytest.mark.parametrize(("code", "kind"), [(0x0D, ">f4"), (0x0E, ">f8")])
def test_idx_of_floats(tmp_path, code, kind):
    array = np.random.default_rng(2).normal(size=(3, 4)).astype(kind)
    (tmp_path / "a.idx").write_bytes(idx_bytes(array, code))
    data = load(tmp_path / "a.idx")
    expected = jnp.float32 if code == 0x0D else float_default()
    assert data.points.dtype == expected
    np.testing.assert_array_equal(data.points, array.astype(expected))


def save_image(path, pixels, **kwargs):
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(exist_ok=True, parents=True)
    image.fromarray(pixels).save(path, **kwargs)


ALPHA = RNG.integers(0, 256, (3, 4, 5, 4), dtype=np.uint8)
GREY_ALPHA = RNG.integers(0, 256, (3, 4, 5, 2), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".TIF", ".ppm"])
@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_folder_of_images(tmp_path, images, suffix, dtype):
    folder = tmp_path / "pictures"
    for i in reversed(range(len(images))):  # written last to first, read in the order of names
        save_image(folder / f"{i}{suffix}", images[i])
    (folder / "README.txt").write_text("not an image")
    (folder / f".hidden{suffix}").write_text("not an image either")
    data = load(folder, dtype=dtype)
    assert_images(data, images, dtype)
    assert data.labels is None and data.name == "pictures"


@pytest.mark.parametrize("images", [ALPHA, GREY_ALPHA], ids=["RGBA", "LA"])
def test_folder_of_images_with_alpha(tmp_path, images):
    for i, pixels in enumerate(images):
        save_image(tmp_path / f"{i}.png", pixels)
    assert_images(load(tmp_path), images)


def test_folder_of_jpegs(tmp_path):
    for i, shade in enumerate((0, 128, 255)):
        save_image(tmp_path / f"{i}.jpeg", np.full((8, 8), shade, np.uint8), quality=95)
    points = load(str(tmp_path) + os.sep).points
    # JPEG keeps a constant block to within its quantum, one or two shades of 255.
    expected = np.array([[-1.0], [128 / 127.5 - 1], [1.0]])
    np.testing.assert_allclose(points, np.repeat(expected, 64, axis=1), atol=2 / 127.5)


def test_folder_of_classes(tmp_path):
    where = ["zebra/1", "ant/1", "ant/0", "zebra/0", "Bee/0", "ant/2", "zebra/2"]
    for place, pixels in zip(where, GREY, strict=True):
        save_image(tmp_path / f"{place}.png", pixels)
    (tmp_path / "empty").mkdir()
    (tmp_path / ".cache").mkdir()
    save_image(tmp_path / ".cache" / "0.png", GREY[0])
    data = load(tmp_path)
    # Sorted by code point (capitals first), within a class by name; empty classes do not count.
    order = [4, 2, 1, 5, 3, 0, 6]
    assert_images(data, GREY[order])
    np.testing.assert_array_equal(data.labels, [0, 1, 1, 1, 2, 2, 2])


def test_loading_ten_thousand_images_is_quick(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (10_000, 28, 28), dtype=np.uint8)
    path = tmp_path / "big-images-idx3-ubyte"
    path.write_bytes(idx_bytes(images))
    times = []
    for _ in range(3):  # the first compiles, and the machine may be busy
        start = time.perf_counter()
        load(path).points.block_until_ready()
        times.append(time.perf_counter() - start)
    assert min(times) < 1.0


# --- files: what is wrong with them -----------------------------------------------------------


def check_refused(path, message):
    with pytest.raises(ValueError, match=re.escape(f"'{path}'") + ".*" + message) as info:
        load(path)
    assert str(info.value).startswith("Cannot load ")


def npy_bytes(array, tmp_path):
    np.save(tmp_path / "whole.npy", array)
    return (tmp_path / "whole.npy").read_bytes()


ARRAYS = {
    "nan": (np.array([[1.0, 2.0], [3.0, np.nan]]), r"finite; got nan at index \(1, 1\)"),
    "infinity": (np.array([[1.0, np.inf]]), r"finite; got inf at index \(0, 1\)"),
    "integers": (
        np.eye(3, dtype=np.int64),
        r"uint8 \(scaled to \[-1, 1\]\) or floating; got int64",
    ),
    "complex": (np.eye(3) * 1j, "got complex128"),
    "booleans": (np.eye(3) > 0, "got bool"),
    "text": (np.array(["a", "b"]), "got <U1"),
    "records": (np.zeros(3, [("a", float)]), "dtype must be"),
    "scalar": (np.array(1.0), r"shape must be \(n,\), .*got \(\)"),
    "five-axes": (np.zeros((2, 2, 2, 2, 2)), r"got \(2, 2, 2, 2, 2\)"),
    "no-points": (np.zeros((0, 4)), r"no points; the shape is \(0, 4\)"),
    "no-dimensions": (np.zeros((4, 0)), r"no points; the shape is \(4, 0\)"),
    "labels-only": (LABELS, r"these are labels, not points"),
    "channels-first": (np.zeros((2, 3, 8, 8)), r"looks like channels first.*transpose\(0, 2, 3"),
}


@pytest.mark.parametrize("case", ARRAYS)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_bad_arrays(tmp_path, case, suffix):
    array, message = ARRAYS[case]
    path = tmp_path / f"bad{suffix}"
    np.save(path, array) if suffix == ".npy" else np.savez(path, points=array)
    check_refused(path, message)


def test_values_that_do_not_fit_the_dtype(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1e300]]))
    with pytest.raises(ValueError, match=r"a\.npy.*finite; got inf"):
        load(tmp_path / "a.npy", dtype=np.float32)
    with pytest.raises(ValueError, match="float32 or float64; got float16"):
        load(tmp_path / "a.npy", dtype=np.float16)


class Boom:
    """Unpickling this would leave a trace."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_pickles_are_never_loaded(tmp_path):
    trace = tmp_path / "executed"
    objects = np.array([Boom(trace), 1], object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", points=objects)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Boom(trace)))
    for name in ("a.npy", "a.npz", "b.npy"):
        check_refused(tmp_path / name, "not an array of numbers.*pickles are never loaded")
    assert not trace.exists()


@pytest.mark.parametrize("keep", [0, 5, 50, 100, -8])
def test_truncated_npy(tmp_path, keep):
    path = tmp_path / "cut.npy"
    path.write_bytes(npy_bytes(np.ones((5, 3)), tmp_path)[:keep])
    # Fewer than the six bytes of its magic string could be anything.
    check_refused(path, "not an array of numbers" if keep == 5 else "damaged or cut short")


def test_damaged_npz(tmp_path):
    np.savez(tmp_path / "whole.npz", points=np.ones((50, 3)))
    content = (tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "bad.npz"
    for damaged, message in [
        (b"", "damaged or cut short"),
        (content[:-30], "damaged or cut short"),
        (content[:600] + b"!" + content[601:], "array 'points': it is damaged.*CRC"),
        (npy_bytes(np.ones(3), tmp_path), "single array; rename it to .npy"),
        (b"hello", "not an array of numbers"),
    ]:
        path.write_bytes(damaged)
        check_refused(path, message)
    (tmp_path / "zip.npy").write_bytes(content)
    check_refused(tmp_path / "zip.npy", "it is a .npz archive; rename it")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"expected one array of points.*got \[\]"),
        ({"x_train": np.eye(2), "x_test": np.eye(2)}, r"got \['x_train', 'x_test'\]"),
        ({"points": np.eye(2), "x": np.eye(2)}, r"got \['points', 'x'\]"),
        (
            {"x": np.eye(2), "y": np.arange(2), "labels": np.arange(2)},
            r"labels in one array; got \['y', 'labels'\]",
        ),
        ({"x": np.eye(2), "y": np.arange(3)}, r"`labels` must have shape \(2,\).*got \(3,\)"),
        (
            {"x": np.eye(2), "y": np.ones(2)},
            "`labels` must be integers or names; got dtype float64",
        ),
        ({"x": np.eye(2), "y": np.array(["a", "b", "c"])}, r"`labels` must have shape \(2,\)"),
    ],
)
def test_npz_with_the_wrong_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    check_refused(tmp_path / "a.npz", message)


IDX = idx_bytes(GREY)
BAD_IDX = {
    "empty": (b"", "truncated: 0 bytes, fewer than the 4 of the magic number"),
    "header": (IDX[:9], "truncated: 9 bytes, fewer than the 16 of its header"),
    "body": (IDX[:-1], r"truncated: shape \(7, 4, 5\) needs 140 bytes after the header; got 139"),
    "longer": (IDX + b"!", r"too long: shape \(7, 4, 5\) needs 140 .*got 141"),
    "zeros": (b"\x01" + IDX[1:], "wrong magic number 0x01000803"),
    "type": (IDX[:2] + b"\x07" + IDX[3:], "wrong magic number 0x00000703"),
    "axes": (IDX[:3] + b"\x00" + IDX[4:], "wrong magic number 0x00000800"),
    "huge": (IDX[:4] + b"\xff" * 12 + IDX[16:], r"truncated: shape \(4294967295, 4294967295"),
    "none": (idx_bytes(GREY[:0]), r"no points; the shape is \(0, 4, 5\)"),
    "labels": (idx_bytes(LABELS), "these are labels, not points"),
    "int32": (idx_bytes(np.ones((2, 2), ">i4"), 0x0C), "floating; got >i4"),
    "nan": (idx_bytes(np.full((2, 2), np.nan, ">f4"), 0x0D), "finite; got nan"),
}


@pytest.mark.parametrize("case", BAD_IDX)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_bad_idx(tmp_path, case, suffix):
    content, message = BAD_IDX[case]
    path = tmp_path / f"bad-images-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    check_refused(path, message)


def test_bad_gzip(tmp_path):
    path = tmp_path / "bad-images-idx3-ubyte.gz"
    whole = gzip.compress(IDX)
    for content, message in [
        (whole[:-12], "the gzip stream is truncated"),
        (whole[:5], "the gzip stream is truncated"),
        (IDX, "not a gzip file, or damaged"),
        (whole[:-8] + b"\0\0\0\0" + whole[-4:], "not a gzip file, or damaged.*CRC"),
        # A block of the type that does not exist, right after the header of ten bytes.
        (whole[:10] + b"\x07" + whole[11:], "not a gzip file, or damaged.*invalid block type"),
    ]:
        path.write_bytes(content)
        check_refused(path, message)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (idx_bytes(LABELS[:5]), r"next to 'a-images-idx3-ubyte'.*shape \(7,\).*got \(5,\)"),
        (idx_bytes(GREY), r"shape \(7,\).*got \(7, 4, 5\)"),
        (idx_bytes(np.ones(7, ">f4"), 0x0D), "must be integers or names; got dtype >f4"),
        (idx_bytes(LABELS)[:-1], "truncated"),
    ],
)
def test_bad_labels_next_to_images(tmp_path, labels, message):
    (tmp_path / "a-images-idx3-ubyte").write_bytes(IDX)
    (tmp_path / "a-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(ValueError, match="a-labels-idx1-ubyte'.*" + message):
        load(tmp_path / "a-images-idx3-ubyte")


@pytest.mark.parametrize("name", ["a.csv", "a.png", "a.gz", "a.npy.gz", "idx3.txt", "a"])
def test_unsupported_suffix(tmp_path, name):
    (tmp_path / name).write_text("1, 2")
    check_refused(tmp_path / name, r"its suffix is not one of \.npy, \.npz, \.idx")


def test_empty_folder(tmp_path):
    check_refused(tmp_path, r"no images in it or directly in its sub-folders.*\.png")
    save_image(tmp_path / "deep" / "deeper" / "0.png", GREY[0])
    check_refused(tmp_path, "no images in it or directly in its sub-folders")


def test_folder_of_images_that_do_not_agree(tmp_path):
    save_image(tmp_path / "size" / "0.png", GREY[0])
    save_image(tmp_path / "size" / "1.png", GREY[0].T)
    with pytest.raises(ValueError, match=r"size/1.png'.*\(5, 4, 1\), but \(4, 5, 1\) in .*0.png"):
        load(tmp_path / "size")
    save_image(tmp_path / "mode" / "0.png", GREY[0])
    save_image(tmp_path / "mode" / "1.png", COLOUR[0])
    with pytest.raises(ValueError, match=r"mode/1.png'.*\(4, 5, 3\), but \(4, 5, 1\) in .*0.png"):
        load(tmp_path / "mode")


def test_folder_with_images_inside_and_below(tmp_path):
    save_image(tmp_path / "0.png", GREY[0])
    save_image(tmp_path / "class" / "0.png", GREY[0])
    check_refused(tmp_path, "images both in it and in its sub-folders")


def test_images_whose_values_are_not_shades(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(COLOUR[0]).quantize(4).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"0.png'.*mode is 'P'; expected one of L, LA, RGB, RGBA"):
        load(tmp_path)
    save_image(tmp_path / "0.png", GREY[0].astype(np.uint16) * 257)
    with pytest.raises(ValueError, match=r"0.png'.*mode is 'I;16'"):
        load(tmp_path)


def test_damaged_images(tmp_path):
    big = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for suffix in (".png", ".jpg", ".bmp", ".tif", ".ppm", ".webp"):
        folder = tmp_path / suffix[1:]
        save_image(folder / f"0{suffix}", big)
        content = (folder / f"0{suffix}").read_bytes()
        for damaged in (b"", b"hello", content[: len(content) // 2]):
            (folder / f"0{suffix}").write_bytes(damaged)
            with pytest.raises(ValueError, match=rf"0{suffix}': it is not an image, or damaged"):
                load(folder)


def test_folder_says_how_to_install_pillow(tmp_path, monkeypatch):
    save_image(tmp_path / "0.png", GREY[0])
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"`PIL`.*pip install 'smoothjax\[experiments\]'"):
        load(tmp_path)


def test_nothing_optional_is_imported_before_it_is_needed():
    code = (
        "import sys, smoothjax.datasets as d; d.load('circle'); "
        "print([m for m in ('sklearn', 'PIL') if m in sys.modules])"
    )
    root = pathlib.Path(datasets.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"


def test_the_points_of_one_class():
    data = datasets.digits()
    labels = np.asarray(data.labels)
    found = data.of_class(3)
    np.testing.assert_array_equal(found.points, np.asarray(data.points)[labels == 3])
    assert set(np.asarray(found.labels).tolist()) == {3}
    assert (found.name, found.image_shape) == (data.name, data.image_shape)
    with pytest.raises(
        ValueError, match=r"`label` must be a class of .*; got 10\. There are: 0, 1"
    ):
        data.of_class(10)
    bare = datasets.Dataset("bare", np.ones((2, 2)))
    with pytest.raises(ValueError, match="`label` is for data with labels; 'bare' has none"):
        bare.of_class(0)
