"""Information, odds, classes and dimension of 10,000 images at 24 noise levels, beside the same sums in PyTorch.

    python benchmarks/regimes.py --images PATH

The PyTorch program forms what a user would: at each level the noisy points, their products with all points, a soft-max,
its entropy, the odds of the noised point, the classes' shares and entropy; and the dimension at the same points. Both take
the same draws in float32, in one process and in turn. Install `torch` for it. Prints seconds (least of the rounds, and of
the first call with compilation), their ratio, the largest differences, and the peak memory of the process after each.
"""

import argparse
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

import smoothjax as sj
from smoothjax import regimes


def ours(points, labels, levels, key, num_draws):
    """Everything the row names; arrays that are there."""
    data = sj.datasets.Dataset("images", points, labels)
    curve = regimes.information_curve(data, key, levels, num_draws=num_draws)
    dimension = regimes.dimension_of_training_points(points, levels, rows=np.arange(num_draws))
    return jax.block_until_ready((curve, dimension))


def levels_of_commitment(points, key, num_draws):
    """Collapse and speciation: three rounds of 24 levels, and an eigenvalue."""
    collapse = regimes.collapse_level(points, key, num_draws=num_draws)
    return jax.block_until_ready((collapse, regimes.speciation_level(points)))


def theirs(torch, points, labels, levels, rows, noise):
    """The same sums, dense: a product of all noisy points with all points at each level."""
    classes = torch.nn.functional.one_hot(labels).to(points.dtype)
    norms = (points**2).sum(1)
    information, odds, of_class, dimension = [], [], [], []
    for sigma in levels:
        u = points[rows] + sigma * noise
        logits = (u @ points.T - 0.5 * norms) / sigma**2
        log_weights = torch.log_softmax(logits, 1)
        weights = log_weights.exp()
        entropy = -(weights * log_weights).sum(1)
        own = log_weights.gather(1, rows[:, None])[:, 0]
        shares = weights @ classes
        information.append(np.log(len(points)) - entropy.mean())
        odds.append((own - torch.log1p(-own.exp())).mean())
        of_class.append(-(shares * shares.clamp_min(1e-30).log()).sum(1).mean())
        at = points[: len(rows)]
        squares = ((at**2).sum(1)[:, None] + norms[None] - 2 * at @ points.T).clamp_min(0)
        near = torch.softmax(-0.5 * squares / sigma**2, 1)
        dimension.append((near * squares).sum(1) / sigma**2)
    return [torch.stack(x) for x in (information, odds, of_class, dimension)]


def peak():
    """MiB that the process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="digits", help="name or path of a data set with labels")
    parser.add_argument("--draws", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    data = sj.datasets.load(arguments.images)
    points = jnp.asarray(data.points, jnp.float32)
    labels = np.zeros(len(data), int) if data.labels is None else np.asarray(data.labels)
    key, levels = jax.random.key(0), np.asarray(regimes.noise_levels(points), np.float32)
    num = min(arguments.draws, len(points))
    print(f"{len(points)} points of dimension {points.shape[1]}, {len(levels)} levels, {num} draws")

    start = time.perf_counter()
    curve, dimension = ours(points, labels, levels, key, num)
    print(f"smoothjax, first call: {time.perf_counter() - start:.2f} s, peak {peak():.0f} MiB")
    start = time.perf_counter()
    collapse, speciation = levels_of_commitment(points, key, num)
    both = time.perf_counter() - start
    print(
        f"collapse {collapse.sigma}, speciation {float(speciation):.3g}: {both:.2f} s, {peak():.0f} MiB"
    )

    try:
        import torch
    except ImportError:
        print("without PyTorch there is nothing beside it")
        return
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 1), len(points)))
    rows = torch.from_numpy(order[np.arange(num) % len(points)].astype(np.int64))
    noise = torch.from_numpy(
        np.array(sj.initial_noise(key, num, points.shape[1], dtype=jnp.float32))
    )
    given = torch.from_numpy(np.array(points)), torch.from_numpy(labels.astype(np.int64))
    times = {"smoothjax": [], "PyTorch": []}
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        ours(points, labels, levels, key, num)
        times["smoothjax"].append(time.perf_counter() - start)
        start = time.perf_counter()
        found = theirs(torch, *given, [float(x) for x in levels], rows, noise)
        times["PyTorch"].append(time.perf_counter() - start)
    least = {name: min(values) for name, values in times.items()}
    ratios = np.array(times["PyTorch"]) / np.array(times["smoothjax"])
    print(
        f"smoothjax {least['smoothjax']:.2f} s, PyTorch {least['PyTorch']:.2f} s; ratio of a round "
        f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}); peak {peak():.0f} MiB"
    )
    at = np.abs(found[0].numpy() - np.asarray(curve.information.value)).max()
    other = np.abs(found[3].numpy().T - np.asarray(dimension))
    print(f"information differs by {at:.1e} nats at most, dimension by {other.max():.1e}")


if __name__ == "__main__":
    main()
