"""Arrays on a mesh of four virtual devices give what one device gives; run by test_meshes.py in a process of its own."""

import functools
import os
import sys

# Compiling is most of the work here.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1"
)

import equinox as eqx
import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes

import smoothjax as sj

EXPLICIT = sys.argv[1:] == ["explicit"]
MESH = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Explicit if EXPLICIT else AxisType.Auto,))
ROWS = NamedSharding(MESH, PartitionSpec("x"))
rng = np.random.default_rng(0)
X, U = (rng.standard_normal((n, 3)).astype(np.float32) for n in (64, 16))
SPREAD_X, SPREAD_U = jax.device_put(X, ROWS), jax.device_put(U, ROWS)
KEY = jax.random.key(0)


def over(function, u):
    """The function of every row, as the documentation says."""
    batch = jax.vmap(function)
    if EXPLICIT and u is SPREAD_U:
        batch = auto_axes(batch, out_sharding=ROWS)
    return jax.jit(batch)(u)


def close(found, expected, name):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-4, atol=2e-5, err_msg=name)


def queries():
    E, G = sj.EmpiricalDenoiser(X), sj.GaussianDenoiser.fit(X)
    grid = {"steps": 6, "solver": sj.ExponentialMultistep(order=3)}
    denoisers = {
        "empirical": E,
        "gaussian": G,
        "mixture": sj.MixtureDenoiser.fit(X, num_components=2),
        "truncated": sj.TruncatedDenoiser(X),
        "smoothed": sj.GaussianSmoothedDenoiser(X, 0.3, 8, KEY),
        "sharded": sj.ShardedDenoiser(X, MESH),
    }
    functions = {
        **{name: lambda u, D=D: D(u, 0.5) for name, D in denoisers.items()},
        "flow": lambda u: sj.flow(G, u, 2.0, 0.1),
        "flow on a grid": lambda u: sj.flow(E, u, 2.0, 0.1, **grid),
        "likelihood": lambda u: sj.log_likelihood(G, u),
    }
    for name, function in functions.items():
        close(over(function, SPREAD_U), over(function, U), name)


def trained(x):
    architecture = sj.learning.MLPArchitecture(8, 2)
    return sj.learning.train_denoiser(x, architecture, KEY, num_steps=3, checkpoint_every=3)


def data():
    functions = {
        "empirical": lambda x: sj.EmpiricalDenoiser(x)(U[0], 0.5),
        "truncated": lambda x: sj.TruncatedDenoiser(x)(U[0], 0.5),
        "dual": lambda x: sj.DualGaussianDenoiser(x)(U[0], 0.5),
        "mixture": lambda x: sj.MixtureDenoiser.fit(x, num_components=2)(U[0], 0.5),
        "sample": lambda x: sj.sample(sj.EmpiricalDenoiser(x), KEY, 8, steps=6),
        "replay": lambda x: sj.replay(sj.TruncatedDenoiser(x), KEY, 8).points,
        "frechet": lambda x: sj.frechet_distance(U, x),
        "sliced": lambda x: sj.sliced_wasserstein(x, 2 * X, KEY).value,
        "nearest": lambda x: sj.nearest_neighbours(U, x, 2),
        "linearity": lambda x: sj.linearity_score(sj.EmpiricalDenoiser(X), x, 0.5, KEY).raw.value,
        "training": lambda x: eqx.filter(trained(x), eqx.is_inexact_array),
    }
    for name, function in functions.items():
        close(function(SPREAD_X), function(X), name)


def mapped():
    """Programs of `jax.shard_map`: each device has its own queries, or its own key."""
    rows = PartitionSpec("x")
    program = functools.partial(
        jax.shard_map, mesh=MESH, in_specs=rows, out_specs=rows, check_vma=False
    )
    E = sj.EmpiricalDenoiser(X)
    denoisers = {
        "empirical": E,
        "mixture": sj.MixtureDenoiser.fit(X, num_components=2, method="em"),
        "smoothed": sj.GaussianSmoothedDenoiser(X, 0.3, 8, KEY),
    }
    functions = {
        **{name: lambda u, D=D: D(u, 0.5) for name, D in denoisers.items()},
        "flow": lambda u: sj.flow(E, u, 2.0, 0.1),
    }
    for name, function in functions.items():
        batch = jax.vmap(function)
        close(jax.jit(program(batch))(SPREAD_U), jax.jit(batch)(U), f"{name} under shard_map")
    keys = jax.random.split(KEY, 4)
    found = jax.jit(program(lambda keys: sj.sample(E, keys[0], 2, steps=3)))(keys)
    expected = np.concatenate([sj.sample(E, key, 2, steps=3) for key in keys])
    close(found, expected, "sample under shard_map")


if __name__ == "__main__":
    if sys.argv[1:] == ["mapped"]:
        mapped()
    else:
        queries()
        data()
    print("all checks passed")
