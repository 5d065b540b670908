"""Spectra of drawn random features beside their limit: the largest difference of the shares below any number.

    python benchmarks/random_features.py --features 4000

Prints, for noise levels and ratios, Kolmogorov's distance between the eigenvalues of one drawn covariance of features of
tanh, its mean over the noise exact, and the limit: with weights as they are drawn, or with `--normalized` rows of the length
that they have in the limit.
"""

import argparse
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from smoothjax.training_dynamics import DrawnRandomFeatures, RandomFeatureLimit  # noqa: E402

# Points and features for each dimension; none leaves features beyond points and directions, whose eigenvalues are one.
RATIOS = ((1.0, 1.0), (4.0, 4.0))
LEVELS = (0.1, 0.3)


def distance(limit: RandomFeatureLimit, eigenvalues: np.ndarray) -> float:
    share, num = limit.cumulative(eigenvalues), len(eigenvalues)
    steps = np.arange(num)
    return float(max(np.abs(share - steps / num).max(), np.abs(share - (steps + 1) / num).max()))


def main() -> None:
    parser = argparse.ArgumentParser(description="Spectra of drawn random features.")
    parser.add_argument("--features", type=int, default=4000, help="p")
    parser.add_argument("--max-order", type=int, default=5, help="terms of the mean over the noise")
    parser.add_argument("--normalized", action="store_true", help="rows of length sqrt(d)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| noise level | n / d | p / d | p | distance | seconds |")
    print("|---:|---:|---:|---:|---:|---:|")
    for train_ratio, feature_ratio in RATIOS:
        d = round(options.features / feature_ratio)
        points = jax.random.normal(jax.random.key(options.seed), (round(train_ratio * d), d))
        for sigma in LEVELS:
            start = time.perf_counter()
            limit = RandomFeatureLimit(
                jnp.tanh, sigma, train_ratio=train_ratio, feature_ratio=feature_ratio
            )
            drawn = DrawnRandomFeatures(
                points,
                jnp.tanh,
                sigma,
                num_features=options.features,
                key=jax.random.key(options.seed + 1),
                normalized=options.normalized,
                max_order=options.max_order,
            )
            found = distance(limit, drawn.eigenvalues)
            seconds = time.perf_counter() - start
            row = f"| {sigma:g} | {train_ratio:g} | {feature_ratio:g} | {options.features} "
            print(f"{row}| {found:.4f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
