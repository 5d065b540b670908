"""Checks of `ShardedDenoiser` on eight virtual devices; run by test_sharded.py in a process of its own."""

import os
import sys

# Compiling is most of the work here.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1"
)

import jax
import jax.numpy as jnp
import numpy as np
from test_streamed import points_and_queries

import smoothjax as sj

jax.config.update("jax_enable_x64", True)
LEVELS = (1e-3, 0.1, 1.0, 80.0)
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def mesh_of(*shape):
    names = ("data", "queries")[: len(shape)]
    devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
    return jax.sharding.Mesh(devices, names)


def close(result, expected, tolerance, scale=1.0):
    error = float(np.max(np.abs(np.asarray(result) - np.asarray(expected)))) / scale
    assert error <= tolerance, (error, tolerance)
    return error


@jax.jit
def values(D, u, sigma):
    # All of it from one pass, which is what is slow to compile.
    summary = jax.vmap(D._summary, (0, None))(u, sigma)
    return D._points.centre + summary.mean, summary


def as_on_one_device(n, d, mesh, dtype, weighted=False, query_axis=None, chunk_size=None):
    """The largest error of the mean, relative to the data's scale; everything else is only asserted."""
    m, worst, eps = mesh.shape["data"], 0.0, float(np.finfo(dtype).eps)
    points, _ = points_and_queries(n, d, 0.1)
    for level in LEVELS:
        near, queries = points_and_queries(n, d, level, num=6)
        points = near.astype(dtype)  # of the same shape at each level: compiled once
        weights = np.random.default_rng(1).uniform(0, 1, n) if weighted else None
        if weighted:
            weights[n // 4 : n // 2] = 0
        D = sj.ShardedDenoiser(points, mesh, "data", query_axis, weights, chunk_size)
        rows = -(-n // m)
        shards = [(s.device.id, s.data.shape) for s in D.data.addressable_shards]
        assert sorted(shards) == [(d.id, (rows, points.shape[1])) for d in mesh.devices.flat]
        assert D.num_points == n
        whole = sj.EmpiricalDenoiser(points, weights)
        u, sigma = jnp.asarray(queries, dtype), jnp.asarray(level, dtype)
        result, expected = values(D, u, sigma), values(whole, u, sigma)
        assert result[0].dtype == dtype
        first, *others = (np.asarray(s.data) for s in result[0].addressable_shards)
        if query_axis is None:
            assert len(others) == mesh.size - 1
            assert all(np.array_equal(first, other) for other in others)  # to the last bit
        scale, radius = float(np.abs(points).max()), float(whole._points.radius)
        size = radius * (radius + float(np.max(np.linalg.norm(queries - points.mean(0), axis=1))))
        worst = max(worst, close(result[0], expected[0], TOLERANCE[dtype], scale))
        result, expected = result[1], expected[1]
        close(result.variance, expected.variance, 30 * eps, size)
        evidence = float(np.abs(expected.log_evidence).max())
        close(result.log_evidence, expected.log_evidence, 4 * eps, 1000 + evidence)
        close(result.entropy, expected.entropy, 3000 * eps)
    return worst


def derivatives(dtype):
    """Forward and reverse, of first and second order, with respect to the point, the noise level and the data."""
    points, queries = points_and_queries(30, 6, 0.3)
    points, u = points.astype(dtype), jnp.asarray(queries[:3], dtype)
    sigma, tolerance = jnp.asarray(0.3, dtype), 3000 * float(np.finfo(dtype).eps)
    whole = sj.EmpiricalDenoiser(points)

    def scalar(D, u, sigma):
        summary = D._summary(u, sigma)
        return jnp.sum(jnp.sin(summary.mean)) + summary.log_evidence + summary.variance

    @jax.jit
    def first(D, u, sigma):
        gradients = jax.vmap(jax.value_and_grad(scalar, (0, 1, 2), allow_int=True), (None, 0, None))
        _, (by_data, *others) = gradients(D, u, sigma)
        product = lambda u: D.posterior_covariance_product(u, sigma, jnp.arange(6.0, dtype=u.dtype))  # noqa: E731
        return by_data.data[:, :30], others, jax.vmap(product)(u)

    @jax.jit
    def second(D, u, sigma):
        gradient = jax.grad(scalar, (1, 2))
        along = jnp.ones_like(u), jnp.ones_like(sigma)
        return jax.jvp(lambda *args: gradient(D, *args), (u, sigma), along)

    @jax.jit
    def covariance(D, u, sigma):
        return D.posterior_covariance(u, sigma), D.mean_and_covariance(), D.log_density(u, sigma)

    functions = [(first, u), (covariance, u[0]), (second, u[0])]
    for mesh, query_axis in ((mesh_of(4), None), (mesh_of(2, 2), "queries")):
        D = sj.ShardedDenoiser(points, mesh, "data", query_axis)
        close(D.weights.sum(), 1, tolerance)
        for function, at in functions:
            jax.tree.map(
                lambda x, y: close(x, y, tolerance, 1 + float(np.abs(y).max())),
                function(D, at, sigma),
                function(whole, at, sigma),
            )
        functions = functions[:1]  # the others do not depend on how queries are spread


def samples():
    points, _ = points_and_queries(21, 4, 0.3)
    key, near = jax.random.key(5), {"sigma_max": 20.0, "sigma_min": 0.05}
    whole = sj.EmpiricalDenoiser(points)
    # Six samples in batches of three, which four groups of devices do not divide.
    D = sj.ShardedDenoiser(points, mesh_of(2, 4), "data", "queries")
    result, expected = (sj.sample(x, key, 6, **near, steps=8, batch_size=3) for x in (D, whole))
    close(result, expected, 2e-5)
    D = sj.ShardedDenoiser(points, mesh_of(8), "data")
    result, expected = (sj.sample(x, key, 4, **near) for x in (D, whole))
    close(result, expected, 1e-3)  # the adaptive solver's steps follow rounding


def one_product_a_device():
    """A batch of batches of queries is one matrix product on each device, of its rows by its queries."""
    points, queries = points_and_queries(80, 6, 1.0)
    u = jnp.asarray(np.stack([queries] * 3))  # 3 x 8 queries
    for mesh, query_axis, each in ((mesh_of(4), None, 24), (mesh_of(4, 2), "queries", 12)):
        D = sj.ShardedDenoiser(points, mesh, "data", query_axis)
        run = jax.jit(jax.vmap(jax.vmap(D, (0, None)), (0, None)))
        text = run.lower(u, jnp.float32(1.0)).compile().as_text()
        # Logits; the products by the weights are 6 wide.
        shapes = {f"f32[20,{each}]", f"f32[{each},20]"}
        if query_axis is None:
            shapes |= {"f32[20,3,8]", "f32[20,8,3]", "f32[3,8,20]", "f32[8,3,20]"}
        assert any(shape in text for shape in shapes), (
            each,
            [line.split(" = ")[1][:60] for line in text.splitlines() if " dot(" in line],
        )
        assert "all-gather" in text
        close(
            run(u, jnp.float32(1.0))[1],
            jax.vmap(sj.EmpiricalDenoiser(points), (0, None))(u[1], 1.0),
            1e-5,
        )


def made_by_jax():
    """Meshes with explicit axes, data on a device, points and noise levels as users have them."""
    points, queries = points_and_queries(16, 4, 0.5)
    mesh = jax.make_mesh((8,), ("rows",))
    D = sj.ShardedDenoiser(jnp.asarray(points), mesh)
    whole = sj.EmpiricalDenoiser(points)
    close(D(queries[0], 0.5), whole(queries[0], 0.5), 1e-5)
    spread = jax.device_put(
        points, jax.sharding.NamedSharding(D.mesh, jax.sharding.PartitionSpec("rows"))
    )
    close(sj.ShardedDenoiser(spread, D.mesh)(queries[1], 0.5), whole(queries[1], 0.5), 1e-5)
    close(
        sj.ShardedDenoiser.from_process_local(points, mesh)(queries[1], 0.5),
        whole(queries[1], 0.5),
        1e-5,
    )
    close(D(queries[0].astype(np.float64), 0.5), whole(queries[0].astype(np.float64), 0.5), 1e-5)


def values_and_samples():
    for dtype in ("float32", "float64"):
        worst = max(
            # More devices than they fill: the last three have no point.
            as_on_one_device(9, 150, mesh_of(8), dtype),
            as_on_one_device(101, 5, mesh_of(2), dtype, weighted=True, chunk_size=16),
            as_on_one_device(38, 5, mesh_of(4, 2), dtype, query_axis="queries"),
        )
        print(f"{dtype}: mean as on one device to {worst:.1e}")
    samples()


def two_devices():
    worst = as_on_one_device(101, 5, mesh_of(2), "float32", weighted=True, chunk_size=16)
    print(f"mean as on one device to {worst:.1e}")


def derivatives_and_programs():
    derivatives("float64")
    one_product_a_device()
    made_by_jax()


if __name__ == "__main__":
    {
        "two": two_devices,
        "values": values_and_samples,
        "derivatives": derivatives_and_programs,
    }[sys.argv[1]]()
    print("all checks passed")
