"""Planted strengths: does the interval of one chosen on held-out points cover the best one as often as it says?

    python benchmarks/planted_strengths.py --draws 200 --out runs/planted-strengths.json

Centres are drawn once for a dimension, and then held-out points from Gaussian kernels of a known width around them, anew for
each draw: the posterior mean of that law is `WidenedDenoiser` of the centres at the planted width, so that this is the best
strength at every noise level and for the likelihood too. For a tempered score of the same centres no strength is exact; the
one of least loss for the law is found from two hundred thousand points.

Prints the share of draws whose 90 % interval covers the best strength, by mechanism, criterion, noise level and number of
held-out points, with what binomial counts of so many draws allow.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax.tree_util import Partial
from scipy.optimize import minimize_scalar

import smoothjax as sj
from smoothjax._strengths.free import FreeStrength
from smoothjax._strengths.likeliest import likeliest

CENTRES, WIDTH, LEVELS, COVERAGE = 40, 0.3, (0.1, 0.3, 1.0), 0.9


def drawn(rng, centres, num):
    """Points of the planted law."""
    return centres[rng.integers(len(centres), size=num)] + WIDTH * rng.normal(
        size=(num, centres.shape[1])
    )


def best_temperature(make, rng, centres, sigma, values):
    """That of least loss for the law, from many points."""
    clean = drawn(rng, centres, 200_000)
    noisy = clean + sigma * rng.normal(size=clean.shape)
    points = jnp.asarray(noisy), jnp.asarray(clean)

    @jax.jit
    def loss(t, u, clean):
        return jnp.mean((jax.vmap(lambda u: make(t)(u, sigma))(u) - clean) ** 2)

    found = minimize_scalar(
        lambda place: float(loss(np.exp(place), *points)),
        bounds=(np.log(values[0]), np.log(values[-1])),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(np.exp(found.x))


def rows(dim, num, draws):
    rng = np.random.default_rng(dim)
    centres = rng.normal(size=(CENTRES, dim))
    base = sj.EmpiricalDenoiser(jnp.asarray(centres))
    kinds = {
        "widened": (sj.WidenedDenoiser, np.geomspace(0.03, 3.0, 8)),
        "tempered": (sj.TemperedDenoiser, np.geomspace(0.1, 100.0, 10)),
    }
    for name, (kind, values) in kinds.items():
        make = Partial(kind, base)
        strength = sj.mechanisms.get(name).strength
        free = FreeStrength(name, strength, values, lambda make=make: make, base.data, 512)
        for sigma in LEVELS:
            best = (
                WIDTH if name == "widened" else best_temperature(make, rng, centres, sigma, values)
            )
            covered = 0
            for _ in range(draws):
                clean = drawn(rng, centres, num)
                u = clean + sigma * rng.normal(size=clean.shape)
                fit = free.fit(clean, u, sigma, num, COVERAGE)
                covered += fit.low <= best <= fit.high
            yield {"mechanism": name, "criterion": "denoising", "level": sigma, "best": best} | {
                "dim": dim,
                "points": num,
                "covered": covered / draws,
            }
        if name != "widened":
            continue
        sigma = LEVELS[0]
        run = jax.jit(lambda D, u: jax.vmap(lambda u: D.log_density(u, LEVELS[0]))(u))
        covered = 0
        for _ in range(draws):
            u = jnp.asarray(drawn(rng, centres, num) + sigma * rng.normal(size=(num, dim)))
            at = lambda value, u=u, free=free, run=run: np.asarray(  # noqa: E731
                run(free.denoiser(value), u)
            )
            found = likeliest(free, at, COVERAGE)
            covered += found.low <= WIDTH <= found.high
        yield {"mechanism": name, "criterion": "likelihood", "level": sigma, "best": WIDTH} | {
            "dim": dim,
            "points": num,
            "covered": covered / draws,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--dims", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--points", type=int, nargs="+", default=[96])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    low, high = scipy.stats.binom.ppf([0.005, 0.995], arguments.draws, COVERAGE) / arguments.draws
    print(f"{arguments.draws} draws; 99 % of binomial counts lie between {low:.3f} and {high:.3f}.")
    found = []
    for dim in arguments.dims:
        for num in arguments.points:
            for row in rows(dim, num, arguments.draws):
                found.append(row)
                print(
                    "{mechanism:9} {criterion:10} d = {dim:<2} {points:>4} points, noise level {level:<4}: best "
                    "{best:<6.4g} covered {covered:.3f}".format(**row),
                    flush=True,
                )
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
