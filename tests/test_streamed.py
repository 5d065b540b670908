"""Training sets that are read from the disk, and the exact merge of partial posteriors."""

import contextlib
import os
import subprocess
import sys
import types

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax.denoisers._empirical import row_file as _row_file
from smoothjax.denoisers._empirical import row_source as _row_source
from smoothjax.denoisers._empirical import streamed as _streamed
from smoothjax.denoisers._posterior import merge as _merge
from smoothjax.denoisers._posterior.point_set import PointSet

LEVELS = [1e-3, 1e-2, 0.1, 1.0, 80.0]


def points_and_queries(n, d, sigma, seed=0, num=8):
    """Points of scale one off the origin, with duplicates and near-duplicates far apart in the order, and queries."""
    rng = np.random.default_rng([n, d, seed])
    points = 1 + rng.standard_normal((n, d))
    near = min(sigma, 1.0) / np.sqrt(d)
    half, third = n // 2, n // 3
    points[half : half + 3] = points[0] + near * rng.standard_normal((3, d))
    points[-1] = points[0]
    points[third] = points[1] + 3 * near * rng.standard_normal(d)
    at = np.array([0, 0, 1, half])[np.arange(num) % 4]
    queries = (
        points[at] + sigma * rng.standard_normal((num, d)) / np.sqrt([d, 1, d, 1] * 8)[:num, None]
    )
    # Midway between points of different parts, which compete to the last bit.
    queries[-1] = 0.5 * (points[0] + points[half])
    return points.astype(np.float32), queries.astype(np.float32)


def accuracy(dtype):
    return 1e-6 if dtype == np.float32 else 1e-12


# In 150 dimensions, a quick pass and a careful one. 50 divides 100; 1000 is one chunk.
@pytest.mark.parametrize(("d", "chunk_size"), [(3, 17), (3, 50), (150, 17)])
def test_as_in_memory(dtype, d, chunk_size):
    for sigma in LEVELS:
        points, queries = points_and_queries(100, d, sigma)
        points, queries = points.astype(dtype), queries.astype(dtype)
        D = sj.StreamedDenoiser(points, chunk_size)
        expected = jax.vmap(sj.EmpiricalDenoiser(points), (0, None))(queries, sigma)
        result = D.denoise(queries, sigma)
        assert result.dtype == dtype
        scale = np.abs(points).max()
        np.testing.assert_allclose(result, expected, rtol=0, atol=accuracy(dtype) * scale)
        np.testing.assert_allclose(
            D(queries[0], sigma), expected[0], rtol=0, atol=accuracy(dtype) * scale
        )


def test_a_noise_level_for_each_query(dtype):
    points, queries = points_and_queries(50, 5, 0.3, num=5)
    points, levels = points.astype(dtype), np.asarray(LEVELS, dtype)
    D = sj.StreamedDenoiser(points, 7)
    expected = jax.vmap(sj.EmpiricalDenoiser(points))(queries.astype(dtype), levels)
    result = D.denoise(queries.astype(dtype), levels)
    np.testing.assert_allclose(result, expected, rtol=0, atol=4 * accuracy(dtype))


def test_merge_is_the_posterior_of_the_union(dtype):
    """With weights, empty parts and parts without weight; all of the summary; in any order."""

    @jax.jit
    def merged_summary(stacked, centre, u, sigma):
        merged, owner = _merge.merge(stacked, u, sigma)
        return _merge.summary(merged, centre, u, sigma), owner

    weigh = jax.jit(_merge.partial_posterior)
    for sigma in (1e-3, 0.3, 80.0):
        points, queries = points_and_queries(30, 6, sigma)
        points, u = points.astype(dtype), jnp.asarray(queries[-1], dtype)
        weights = np.random.default_rng(0).uniform(0.1, 1, 30)
        weights[10:20] = 0
        whole = sj.EmpiricalDenoiser(points, weights)
        set_, level = whole._points, jnp.asarray(sigma, dtype)
        slices = [slice(0, 10), slice(10, 20), slice(20, 30)]
        parts = [
            PointSet(
                points[s], set_.log_weights[s], set_.centre, set_.half_square[s], set_.radius, 4
            )
            for s in slices
        ]
        partial = [weigh(part, u, level) for part in parts]
        partial.append(_merge.empty(set_.centre, dtype))
        for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
            stacked = jax.tree.map(lambda *x: jnp.stack(x), *(partial[i] for i in order))
            found, owner = merged_summary(stacked, set_.centre, u, level)
            expected = whole._summary(u, level)
            # Where the product is trusted, the centre is the anchor of all parts.
            assert order[int(owner)] in (0, 2) or sigma > 1e-3
            scale = float(set_.radius) ** 2
            tolerance = 30 * float(np.finfo(dtype).eps)
            np.testing.assert_allclose(found.mean, expected.mean, atol=tolerance * scale)
            np.testing.assert_allclose(found.variance, expected.variance, atol=tolerance * scale)
            np.testing.assert_allclose(found.entropy, expected.entropy, atol=100 * tolerance)
            np.testing.assert_allclose(found.log_evidence, expected.log_evidence, rtol=tolerance)


def test_parts_whose_log_evidences_say_nothing():
    """Far from the data at little noise, float32 log evidences are -2e8, with steps of 16 nats."""
    y, sigma = np.array([[1.0, 0.0], [1.0, 0.002]], np.float32), np.float32(1e-3)
    u = np.array([21.0, 0.0011], np.float32)
    weight = 1 / (1 + np.exp(-(0.002 * (0.0011 - 0.001)) / 1e-6))
    mean = sj.StreamedDenoiser(y, 1).denoise(u[None], sigma)[0]
    assert abs(float(mean[1]) / 0.002 - weight) < 1e-4
    assert (np.sum((u - y[0]) ** 2) / (2 * sigma**2)) > 1e8


def test_compiles_once(monkeypatch):
    traces, original = [], _streamed.merge
    monkeypatch.setattr(_streamed, "merge", lambda *a: traces.append(1) or original(*a))
    jax.clear_caches()
    points, queries = points_and_queries(103, 9, 0.3)
    D = sj.StreamedDenoiser(points, 10)
    D.denoise(queries, 0.3)
    D.denoise(queries + 1, np.full(len(queries), 0.1, np.float32))
    sj.StreamedDenoiser(points + 1, 10).denoise(queries, 2.0)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "dtype", [pytest.param("float32", marks=pytest.mark.exhaustive), "float64"], indirect=True
)
@pytest.mark.parametrize("solver", ["heun", pytest.param("ddim", marks=pytest.mark.exhaustive)])
def test_samples_are_those_of_the_flow(solver, dtype):
    points, _ = points_and_queries(40, 4, 0.1)
    points = points.astype(dtype)
    key = jax.random.key(3)
    D = sj.StreamedDenoiser(points, 11)
    result = D.sample(key, 6, sigma_max=20.0, sigma_min=0.05, steps=9, solver=solver)
    exact, levels = sj.EmpiricalDenoiser(points), sj.edm_grid(9, 20.0, 0.05).astype(dtype)

    def one(z):
        mean = points.mean(axis=0)
        u = mean + levels[0] * z
        u = u + (exact(u, levels[0]) - mean) / 2
        rule = diffrax.Heun() if solver == "heun" else diffrax.Euler()
        return sj.flow(exact, u, levels[0], 0.0, solver=rule, levels=levels)

    expected = jax.vmap(one)(sj.initial_noise(key, 6, 4, dtype=dtype))
    assert result.dtype == dtype
    # The flow carries rounding of the start, 20 noise levels, into the end.
    np.testing.assert_allclose(result, expected, atol=20 * accuracy(dtype))
    first = D.sample(key, 2, sigma_max=20.0, sigma_min=0.05, steps=9, solver=solver)
    np.testing.assert_allclose(first, result[:2], atol=20 * accuracy(dtype))


def test_samples_start_at_the_mean(dtype):
    """Of data far from the origin, with prior weights too: a noise level of the start is far below the distance."""
    points, _ = points_and_queries(40, 4, 0.1)
    far = np.array([1e3, -2e3, 0.0, 4e3])
    there, key = (points + far).astype(dtype), jax.random.key(3)
    for weights in (None, np.linspace(0, 3, 40)):
        settings = {"sigma_max": 40.0, "sigma_min": 0.05, "steps": 8}
        near = sj.StreamedDenoiser((there - far).astype(dtype), 11, weights=weights)
        moved = sj.StreamedDenoiser(there, 11, weights=weights).sample(key, 6, **settings)
        atol = 40 * accuracy(dtype) + 40 * 4e3 * np.finfo(dtype).eps
        np.testing.assert_allclose(
            np.asarray(moved) - far, near.sample(key, 6, **settings), atol=atol
        )


def test_moments_of_one_point(dtype):
    """What its type promises: mean and variance, in float64 those of the same posterior in memory."""
    points, queries = points_and_queries(40, 4, 0.3)
    points, u = points.astype(dtype), jnp.asarray(queries[0], dtype)
    weights = np.linspace(0, 3, 40)
    streamed = sj.StreamedDenoiser(points, 11, weights=weights).mean_and_variance(u, 0.3)
    exact = sj.EmpiricalDenoiser(points, weights).mean_and_variance(u, 0.3)
    for found, expected in zip(streamed, exact, strict=True):
        np.testing.assert_allclose(found, expected, atol=accuracy(dtype))
        assert found.dtype == dtype
    assert streamed[1] > 0


def test_sources(tmp_path):
    points, queries = points_and_queries(25, 4, 0.5)
    expected = sj.StreamedDenoiser(points, 25).denoise(queries, 0.5)
    np.save(tmp_path / "points.npy", points)

    class Rows:
        """No more than what is asked of a source."""

        shape, dtype, reads = points.shape, points.dtype, 0

        def __getitem__(self, rows):
            assert isinstance(rows, slice) and rows.step is None
            Rows.reads += 1
            return points[rows]

    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    for source in (tmp_path / "points.npy", str(tmp_path / "points.npy"), mapped, Rows()):
        D = sj.StreamedDenoiser(source, 6, progress=True)
        assert (D.num_points, D.dim, D.chunk_size) == (25, 4, 6)
        np.testing.assert_allclose(D.denoise(queries, 0.5), expected, atol=1e-6)
    # The mean, the radius, one call; and one more for the next call.
    assert Rows.reads == 3 * 5
    D.denoise(queries, 0.5)
    assert Rows.reads == 4 * 5
    np.testing.assert_allclose(D.centre, points.astype(np.float64).mean(0), rtol=1e-14)
    distances = np.linalg.norm(points - points.astype(np.float64).mean(0), axis=1)
    assert abs(D.radius / distances.max() - 1) < 1e-14
    pixels = np.random.default_rng(0).integers(0, 255, (20, 3), np.uint8)
    result = sj.StreamedDenoiser(pixels, 6).denoise(np.ones((2, 3), np.float32), 30.0)
    in_memory = jax.vmap(sj.EmpiricalDenoiser(pixels.astype(np.float32)), (0, None))
    np.testing.assert_allclose(result, in_memory(np.ones((2, 3), np.float32), 30.0), rtol=1e-5)
    half = sj.StreamedDenoiser(points.astype(np.float16), 6).denoise(queries, 0.5)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, expected, atol=0.01)


def test_files_and_maps_of_all_kinds(tmp_path):
    """In place or not: other dtypes, byte orders and layouts, and maps of a part of a file."""
    points, queries = points_and_queries(40, 4, 0.5)
    path = tmp_path / "points.npy"
    for stored in (points, points.astype(np.float64), points.astype(">f4"), points.copy("F")):
        np.save(path, stored)
        mapped = np.load(path, mmap_mode="r")
        written = np.load(path, mmap_mode="c")
        written[4] += 1
        for source in (path, mapped[3:34], mapped[::-2], mapped[:, ::-1], written):
            rows = stored if source is path else np.array(source)
            expected = sj.StreamedDenoiser(rows, 6).denoise(queries, 0.5)
            # The same chunks in the same order, by the same function: the same bits.
            result = sj.StreamedDenoiser(source, 6).denoise(queries, 0.5)
            np.testing.assert_array_equal(result, expected)
        del mapped, written


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="rows are copied to other devices")
def test_rows_are_weighed_where_they_were_read(tmp_path, monkeypatch):
    """In three places that are taken in turn, in the CPU's memory without a copy."""
    points, queries = points_and_queries(80, 16, 0.5)
    np.save(tmp_path / "points.npy", points)
    D = sj.StreamedDenoiser(tmp_path / "points.npy", 10)
    D.centre  # noqa: B018
    take, places = _streamed._take, []
    monkeypatch.setattr(
        _streamed,
        "_take",
        lambda s, x, *a: places.append(x.unsafe_buffer_pointer()) or take(s, x, *a),
    )
    read, buffers = D._source._read, []
    monkeypatch.setattr(
        D._source, "_read", lambda i, b, *a: buffers.append(b.ctypes.data) or read(i, b, *a)
    )
    D.denoise(queries, 0.5)
    assert len(set(buffers)) == _row_source.BUFFERS
    assert buffers[3:] == buffers[:-3]
    # As far into a page as in the file, after its header of 128 bytes.
    in_file = [128 + 10 * 16 * points.itemsize * i for i in range(8)]
    assert places == [b + f % 4096 for b, f in zip(buffers, in_file, strict=True)]


@pytest.mark.parametrize("past_cache", [False, True])
@pytest.mark.parametrize(
    ("num", "dim", "chunk"),
    # Chunks that start where JAX can compute with them or not; at pages; less than a page; one; the last one short.
    [(1000, 24, 96), (1000, 7, 33), (992, 1, 1024), (64, 16, 3), (4096, 32, 1024), (9000, 3, 4000)],
)
def test_what_is_read(tmp_path, monkeypatch, num, dim, chunk, past_cache):
    """Both ways to read a file give its rows; past the cache whole pages are read, where the system can."""
    points = np.random.default_rng(0).standard_normal((num, dim)).astype(np.float32)
    np.save(tmp_path / "points.npy", points)
    source = sj.StreamedDenoiser(tmp_path / "points.npy", chunk)._source
    read = source._read
    monkeypatch.setattr(source, "_read", lambda i, b, file, _: read(i, b, file, past_cache))
    asked = []
    if hasattr(os, "preadv"):
        preadv = os.preadv
        monkeypatch.setattr(os, "preadv", lambda *a: asked.append(a[2]) or preadv(*a))
    found = [rows[:count].copy() for rows, count in source.chunks()]
    np.testing.assert_array_equal(np.concatenate(found), points)
    assert past_cache or not asked
    assert all(first % 4096 == 0 for first in asked)


def test_a_disk_that_reads_only_some(tmp_path, monkeypatch):
    """What is missing after a short or failed read past the cache is read through it."""
    points = np.arange(40_000, dtype=np.float32).reshape(-1, 16)
    np.save(tmp_path / "points.npy", points)
    if not hasattr(os, "preadv"):
        pytest.skip("there is one way to read only")
    preadv = os.preadv

    def some(descriptor, buffers, first):
        assert first % 4096 == 0
        most = {0: 8192, 8192: 100}.get(first)
        if most is None:
            raise OSError("cannot")
        whole = bytearray(len(buffers[0]))
        count = min(most, preadv(descriptor, [whole], first))
        buffers[0][:count] = whole[:count]
        return count

    with (tmp_path / "points.npy").open("rb", buffering=0) as file:
        for first, count in ((128, 20_000), (64, 8200), (4096 + 64, 9000), (0, 20)):
            memory = _row_file.memory_for(count)
            memory[:] = 255
            monkeypatch.setattr(os, "preadv", some)
            one = _row_file.OpenRowFile(tmp_path / "points.npy", file, file.fileno())
            one.read(first, count, memory, True)
            expected = np.fromfile(tmp_path / "points.npy", np.uint8)[first : first + count]
            place = _row_file.place_of(first)
            np.testing.assert_array_equal(memory[place : place + count], expected)


@pytest.mark.parametrize("ahead", [False, True])
def test_who_waits_decides_how_to_read(tmp_path, monkeypatch, ahead):
    """Past the cache where the reader is ahead: then it is the processor's time that counts."""

    class Thread(contextlib.nullcontext):
        """Reads when it is asked for the result, and says that it had it before, or not."""

        def __enter__(self):
            return self

        def submit(self, read, *arguments):
            done = lambda: ahead  # noqa: E731
            return types.SimpleNamespace(done=done, result=lambda: read(*arguments))

    np.save(tmp_path / "points.npy", np.ones((40, 4), np.float32))
    source = sj.StreamedDenoiser(tmp_path / "points.npy", 4)._source
    read, ways = source._read, []
    monkeypatch.setattr(_row_source, "ThreadPoolExecutor", Thread)
    monkeypatch.setattr(
        source, "_read", lambda i, b, f, past: ways.append(past) or read(i, b, f, past)
    )
    assert [rows.sum() for rows, _ in source.chunks()] == [16] * 10
    assert ways == [False] * 3 + [ahead] * 7


def test_rows_stay_until_they_are_weighed():
    """Reading is much faster than weighing 2000 queries here: it must wait."""
    rng = np.random.default_rng(0)
    points = (np.arange(4000)[:, None] % 7 + rng.standard_normal((4000, 64))).astype(np.float32)
    queries = np.repeat(points[::200], 100, 0)
    D = sj.StreamedDenoiser(points, 400)
    # Noise so low that each mean is its own point: none can be missing.
    np.testing.assert_allclose(D.denoise(queries, 0.05), queries, atol=1e-5)


def test_a_file_that_changes(tmp_path):
    points, queries = points_and_queries(40, 4, 0.5)
    path = tmp_path / "points.npy"
    np.save(path, points)
    D = sj.StreamedDenoiser(path, 6)
    D.denoise(queries, 0.5)
    np.save(tmp_path / "other.npy", points)
    (tmp_path / "other.npy").replace(path)
    with pytest.raises(ValueError, match="must not change"):
        D.denoise(queries, 0.5)
    D = sj.StreamedDenoiser(path, 6)
    D.denoise(queries, 0.5)
    with path.open("r+b") as file:
        file.truncate(500)
    with pytest.raises(ValueError, match="must not change"):
        D.denoise(queries, 0.5)
    # Shorter after it was opened.
    D._source.file.identity = _row_file._identity(path)
    with pytest.raises(ValueError, match="ends after 500 bytes"):
        D.denoise(queries, 0.5)


def error_bound(points, queries, sigma):
    """Twice the stated error of the mean in a denoiser's docstring, with no more than what the product can be off by."""
    eps = np.finfo(points.dtype).eps
    centre = points.mean(0)
    radius = np.linalg.norm(points - centre, axis=1).max()
    ratio = radius * (np.linalg.norm(queries - centre, axis=1).max() + radius) / sigma**2
    far = np.linalg.norm(centre) + radius
    return 2 * eps * (far + min(2048, 0.5 * ratio) * 2 * radius)


# Chunks that are full and not, and one of weight zero only.
@pytest.mark.parametrize(
    ("d", "chunk_size"), [pytest.param(3, 17, marks=pytest.mark.exhaustive), (150, 20)]
)
def test_weights_as_in_memory(dtype, d, chunk_size):
    for sigma in LEVELS:
        points, queries = points_and_queries(100, d, sigma)
        points, queries = points.astype(dtype), queries.astype(dtype)
        weights = np.random.default_rng(1).uniform(0.01, 5, 100) ** 3
        weights[20:52] = 0
        weights[1] = 0
        D = sj.StreamedDenoiser(points, chunk_size, weights=weights)
        expected = jax.vmap(sj.EmpiricalDenoiser(points, weights), (0, None))(queries, sigma)
        result = D.denoise(queries, sigma)
        assert result.dtype == dtype
        error = np.linalg.norm(result - expected, axis=1).max()
        assert error <= error_bound(points, queries, sigma)


def test_default_chunks_are_32_mib():
    rows = np.broadcast_to(np.zeros((), np.float32), (10**7, 784))
    assert 31 * 2**20 < sj.StreamedDenoiser(rows).chunk_size * 784 * 4 <= 32 * 2**20
    assert sj.StreamedDenoiser(rows[:100]).chunk_size == 100


def test_errors(tmp_path):
    points, queries = points_and_queries(25, 4, 0.5)
    D = sj.StreamedDenoiser(points, 6)
    for source in (points[0], points[:0], points.astype(complex), [[1.0]], points.astype(str)):
        with pytest.raises(ValueError, match="`source`"):
            sj.StreamedDenoiser(source)
    for size in (0, 2.5, True):
        with pytest.raises(ValueError, match="chunk_size"):
            sj.StreamedDenoiser(points, size)
    for weights in (np.ones(24), np.zeros(25), -np.ones(25), np.full(25, np.nan)):
        with pytest.raises(ValueError, match="`weights`"):
            sj.StreamedDenoiser(points, weights=weights)
    with pytest.raises(ValueError, match=r"\(batch, 4\).*u\[None\]"):
        D.denoise(queries[0], 0.5)
    with pytest.raises(ValueError, match=r"\(batch, 4\)"):
        D.denoise(queries[:, :3], 0.5)
    with pytest.raises(ValueError, match=r"shape \(8,\)"):
        D.denoise(queries, np.ones(3, np.float32))
    with pytest.raises(ValueError, match="positive"):
        D.denoise(queries, 0.0)
    with pytest.raises(ValueError, match="`solver`"):
        D.sample(jax.random.key(0), 2, solver="euler")  # pyright: ignore
    bad = points.copy()
    bad[17, 2] = np.nan
    with pytest.raises(ValueError, match=r"nan at index \(17, 2\)"):
        sj.StreamedDenoiser(bad, 6).denoise(queries, 0.5)
    huge = np.array([[1e30, 0], [-1e30, 0]], np.float32)
    with pytest.raises(ValueError, match="must be finite in float32"):
        sj.StreamedDenoiser(huge).denoise(np.zeros((1, 2), np.float32), 0.5)
    (tmp_path / "no.npy").write_text("text")
    with pytest.raises(ValueError, match=r"\.npy file"):
        sj.StreamedDenoiser(tmp_path / "no.npy")
    np.savez(tmp_path / "two.npz", points)
    with pytest.raises(ValueError, match=r"\.npz"):
        sj.StreamedDenoiser(tmp_path / "two.npz")
    for transformed in (
        lambda: jax.jit(D)(queries[0], 0.5),
        lambda: jax.vmap(D, (0, None))(queries, 0.5),
        lambda: jax.jacfwd(D)(jnp.asarray(queries[0]), 0.5),
        lambda: sj.sample(D, jax.random.key(0), 2, steps=4),
    ):
        with pytest.raises(ValueError, match=r"`denoise`.*`sample`"):
            transformed()
    with pytest.raises(ValueError, match="outside"):
        jax.jit(lambda u: D.denoise(u, 0.5))(queries)


def test_a_source_that_fails_while_it_is_read():
    class Failing:
        shape, dtype = (100, 2), np.dtype(np.float32)

        def __getitem__(self, rows):
            if rows.start >= 40:
                raise OSError("disk")
            return np.ones((len(range(*rows.indices(100))), 2), np.float32)

    with pytest.raises(OSError, match="disk"):
        sj.StreamedDenoiser(Failing(), 10).denoise(np.ones((1, 2), np.float32), 1.0)


MEMORY = """
import resource, sys
import jax, numpy as np, smoothjax as sj
path, d = sys.argv[1], 128
u = np.ones((4, d), np.float32)
small = np.random.default_rng(0).standard_normal((1000, d)).astype(np.float32)
sj.StreamedDenoiser(small, 100).denoise(u, 1.0)  # JAX and its compiler
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
D = sj.StreamedDenoiser(path)
mean = D.denoise(u, 2.0)
# Against 1,199,998 points at zero, one at (1, ..., 1), where the queries are.
one = np.exp(d / 8)
assert np.abs(mean - one / (one + 1_199_998)).max() < 1e-4, mean
print(D.num_points * d * 4 / 2**20, peak() - before)
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is in kilobytes on Linux only")
def test_memory_is_bounded(tmp_path):
    """600 MB of training points that are mostly a hole in the file."""
    rows = np.lib.format.open_memmap(
        tmp_path / "large.npy", mode="w+", dtype=np.float32, shape=(1_200_000, 128)
    )
    rows[:2] = [[1.0], [-1.0]]
    rows.flush()
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "large.npy")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    size, growth = map(float, run.stdout.split())
    assert size > 580
    assert growth < 240, growth  # three chunks of 32 MiB, and four more to weigh one
