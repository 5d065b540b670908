"""One of two processes that hold a training set together; run by test_sharded.py: `sharded_process.py PORT PROCESS`."""

import os
import sys

os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1"
)

import jax
import jax.numpy as jnp
import numpy as np
from test_streamed import points_and_queries

import smoothjax as sj


def main(port, process):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    assert (jax.process_count(), len(jax.devices()), len(jax.local_devices())) == (2, 4, 2)
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    points, queries = points_and_queries(27, 150, 0.1)
    # Unequal parts, with near-duplicates across them.
    mine = points[:14] if process == 0 else points[14:]
    D = sj.ShardedDenoiser.from_process_local(mine, mesh)
    assert D.num_points == 27 and D.data.shape == (28, 150)
    assert [s.data.shape for s in D.data.addressable_shards] == [(7, 150)] * 2
    whole = sj.EmpiricalDenoiser(points)
    same = sj.ShardedDenoiser(points, mesh)  # each process gives all, and keeps its own
    run = jax.jit(jax.vmap(lambda D, u, s: D._summary(u, s), (None, 0, None)))
    for level in (1e-3, 0.1, 80.0):
        u, sigma = queries, np.float32(level)
        expected = run(whole, u, sigma)
        for denoiser in (D, same):
            result = run(denoiser, u, sigma)
            mean = np.asarray(denoiser._points.centre) + np.asarray(result.mean)
            error = np.abs(mean - np.asarray(whole._points.centre + expected.mean)).max()
            assert error <= 1e-6 * np.abs(points).max(), (level, error)
            # The product is trusted to 4096 roundings, in nats.
            np.testing.assert_allclose(
                result.log_evidence, expected.log_evidence, rtol=1e-5, atol=5e-4
            )
    print("summaries agree", flush=True)
    one = np.asarray(D(queries[0], 0.1))  # outside of jit
    assert np.abs(one - np.asarray(whole(queries[0], 0.1))).max() < 1e-5
    print("eager call agrees", flush=True)
    gradients = [
        jax.jit(jax.grad(lambda u, D: jnp.sum(D(u, 0.1) ** 2)))(queries[0], x) for x in (D, whole)
    ]
    np.testing.assert_allclose(*map(np.asarray, gradients), atol=1e-4)
    print("gradients agree", flush=True)
    samples = [
        np.asarray(sj.sample(x, jax.random.key(0), 3, sigma_min=0.05, steps=6)) for x in (D, whole)
    ]
    np.testing.assert_allclose(*samples, atol=1e-4)
    print("samples agree", flush=True)
    bad = mine.copy()
    if process == 1:
        bad[2, 5] = np.inf
    try:
        sj.ShardedDenoiser.from_process_local(bad, mesh)
    except ValueError as error:
        print("both raise:", error, flush=True)
    else:
        raise AssertionError("not raised")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
