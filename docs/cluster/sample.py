"""Samples from a training set spread over all GPUs of a job, one process for each: `sample.py POINTS.npy OUT.npy`."""

import sys

import jax
import numpy as np

import smoothjax as sj


def main(points: str, out: str) -> None:
    jax.distributed.initialize()  # under srun Slurm says where the others are
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    # Each process reads the rows that its device holds, and no others.
    denoiser = sj.ShardedDenoiser(points, mesh)
    samples = sj.sample(denoiser, jax.random.key(0), 64, steps=18)
    if jax.process_index() == 0:
        print(
            f"{denoiser.num_points} points on {jax.device_count()} devices: {jax.devices()[0].device_kind}"
        )
        np.save(out, np.asarray(samples))


if __name__ == "__main__":
    main(*sys.argv[1:])
