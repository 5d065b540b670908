#!/bin/bash
# Two hosts with four GPUs each: eight processes, one GPU each. For four GPUs of one host: --nodes=1.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
set -euo pipefail
export JAX_PLATFORMS=cuda                     # an error, not the CPU, where no GPU is found
export JAX_COMPILATION_CACHE_DIR="$PWD/cache" # compiled once for all jobs
srun .venv/bin/python sample.py points.npy samples.npy
