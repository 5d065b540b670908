"""Two networks of one training but for the seed: is the second ever farther from the first than a mechanism is?

    python benchmarks/equal_seeds.py --pairs 2

Each pair is two convolutional networks of the same training points and settings, from different seeds. The first is
explained with the second as `other`. At every noise level the distance of the second network is put beside that of the
nearest mechanism, with two standard errors of their difference of squares over images. Where a mechanism is nearer than
that, it describes the network better than another run of it does, and the row says so.
"""

import argparse

import jax
import numpy as np

import smoothjax as sj
from smoothjax import learning


def row(level, name, at):
    """One line: the noise level, both distances, and whether the second network is farther beyond chance."""
    nearest, other = float(at.rmse.sel(candidate=name)), float(at.other_rmse)
    errors = float(at.rmse_se.sel(candidate=name)), float(at.other_rmse_se)
    # Of squares, by the delta method; the two are positively correlated over images, so that this is no less than the error.
    spread = 2 * np.hypot(2 * nearest * errors[0], 2 * other * errors[1])
    farther = other**2 - nearest**2 > spread
    print(
        f"{level:8.3f}  {other:.4f} ± {errors[1]:.4f}  {name:<18} {nearest:.4f} ± {errors[0]:.4f}  "
        f"{'FARTHER' if farther else 'no farther'}",
        flush=True,
    )
    return farther


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--num-train", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument(
        "--candidates", nargs="+", default=["empirical", "gaussian", "mixture", "smoothed", "local"]
    )
    arguments = parser.parse_args()
    train, held_out = sj.datasets.load(arguments.data).split(arguments.num_train, seed=0)
    architecture = learning.ConvolutionalArchitecture()
    farther = total = 0
    for pair in range(arguments.pairs):
        first, second = (
            learning.train_denoiser(
                train.points,
                architecture,
                jax.random.key(2 * pair + i),
                num_steps=arguments.steps,
                image_shape=train.image_shape,
            ).model
            for i in (0, 1)
        )
        settings = sj.ExplainSettings(candidates=tuple(arguments.candidates), num_samples=0)
        found = sj.explain(first, train, held_out, settings, other=second, progress=False)
        print(f"pair {pair}: level, second network, nearest mechanism")
        for i, verdict in enumerate(found.verdicts):
            at = found.dataset.isel(sigma=i)
            name = str(at.candidate.values[int(np.argmin(at.rmse.values))])
            farther += row(verdict.sigma, name, at)
            total += 1
    print(
        f"second network farther than the nearest mechanism, beyond two standard errors: {farther} of {total} levels"
    )


if __name__ == "__main__":
    main()
