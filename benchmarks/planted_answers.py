"""Planted answers: networks that are one mechanism at a strength on no grid, disturbed; does `explain` name it?

    python benchmarks/planted_answers.py --plants 20 --out runs/planted

Each network is a mechanism of the training set at a random strength within the bounds of its search, plus a random smooth
map (cosines of waves a quarter as long as noisy points are apart, so that single points are independent draws) of 3 % of the
size of the mechanism's output about the data's mean. A cell, a plant at a noise level, counts where an answer exists, which
is decided before the network is looked at, from the undisturbed mechanism alone: the nearest other candidate differs from
it by twice the disturbance at least, and an untrained network too.

Prints, for each family and over all: in how many cells the verdict contains the planted one, is it alone, and how often the
interval of its strength covers the planted value (continuous strengths).
"""

import argparse
import contextlib
import itertools
import json
import math
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import smoothjax as sj
from smoothjax._strengths.free import FreeStrength

SHARE = 0.03


@contextlib.contextmanager
def remembered_outputs():
    """What mechanisms of given strengths make of given points is the same for all plants, and is computed once.

    Only at the values that every search begins with: what it tries between them is different each time. Denoisers of these
    are built once, too.
    """
    outputs, init, known, built = FreeStrength._outputs, FreeStrength.__init__, {}, {}

    def beginning(self, owner, *rest, **others):
        init(self, owner, *rest, **others)
        self._built = built.setdefault(owner, {})

    def remembering(self, value, u, sigma, batch_size):
        if value not in self.values:
            return outputs(self, value, u, sigma, batch_size)
        key = self.name, float(value), float(sigma), u.shape, u.tobytes()
        if key not in known:
            known[key] = outputs(self, value, u, sigma, batch_size)
        return known[key]

    FreeStrength._outputs, FreeStrength.__init__ = remembering, beginning
    try:
        yield
    finally:
        FreeStrength._outputs, FreeStrength.__init__ = outputs, init


class Planted(eqx.Module):
    """A denoiser plus a smooth random map: `exp(log_sizes)` at the noise levels `exp(log_levels)`, root mean square."""

    base: eqx.Module
    waves: jax.Array
    phases: jax.Array
    out: jax.Array
    spread: jax.Array
    log_levels: jax.Array
    log_sizes: jax.Array

    def __call__(self, u, sigma):
        dim = u.shape[0]
        length = 0.25 * jnp.sqrt(dim * (self.spread**2 + sigma**2))
        waves = jnp.cos(u @ self.waves / length + self.phases) @ self.out
        return (
            self.base(u, sigma)
            + jnp.exp(jnp.interp(jnp.log(sigma), self.log_levels, self.log_sizes)) * waves
        )


def planted(base, dim, spread, levels, sizes, seed, dtype):
    """That of a seed. Its waves are a quarter as long as noisy points are apart."""
    rng = np.random.default_rng(seed)
    arrays = (
        rng.normal(size=(dim, 4 * dim)),
        rng.uniform(0, 2 * np.pi, 4 * dim),
        rng.normal(size=(4 * dim, dim)) / math.sqrt(2 * dim),
        spread,
        np.log(levels),
        np.log(sizes),
    )
    return Planted(base, *(jnp.asarray(x, dtype) for x in arrays))


def sizes_of(denoiser, held_out, levels, mean):
    """Root mean square a coordinate of the outputs about the mean, at each noise level."""
    points = held_out.points[:64]
    noise = sj.initial_noise(jax.random.key(99), len(points), held_out.dim, dtype=points.dtype)

    def at(sigma):
        outputs = jax.vmap(lambda u: denoiser(u, sigma))(points + sigma * noise)
        return jnp.sqrt(jnp.mean((outputs - mean) ** 2))

    return np.array([float(jax.jit(at)(jnp.asarray(level, points.dtype))) for level in levels])


def drawn(family, train, rng):
    """A random strength within the bounds of the search, and the denoiser of that strength."""
    strength = sj.mechanisms.get(family).strength
    make, values = strength.at(train, 0), np.array(strength.values(train))
    if not strength.is_continuous:
        value = float(rng.choice(values))
        return value, make(value)
    place = np.log(values) if strength.is_logarithmic else values
    place = rng.uniform(place[1], place[-2])
    value = float(np.exp(place) if strength.is_logarithmic else place)
    return value, make(jnp.asarray(value, train.points.dtype))


def kept(out):
    """Rows of an earlier run, and which plants they are of."""
    rows = json.loads(out.read_text()) if out.exists() else []
    return rows, {(row["family"], row["plant"]) for row in rows}


def run(train, held_out, families, plants, num_plants, levels, out):
    """One row a plant and noise level."""
    mean = jnp.mean(train.points, axis=0)
    spread = float(np.sqrt(np.mean(np.var(np.asarray(train.points), axis=0))))
    settings = sj.ExplainSettings(levels=levels, candidates=families, num_samples=0)
    rows, done = kept(out)
    for family in plants:
        strength = sj.mechanisms.get(family).strength
        for plant in range(num_plants):
            if (family, plant) in done:
                continue
            seed = 1000 * families.index(family) + plant
            value, base = drawn(family, train, np.random.default_rng(seed))
            sizes = SHARE * sizes_of(base, held_out, levels, mean)
            network = planted(base, train.dim, spread, levels, sizes, seed, train.points.dtype)
            alone = sj.explain(base, train, held_out, settings, progress=False).dataset
            found = sj.explain(network, train, held_out, settings, progress=False)
            others = alone.rmse.drop_sel(candidate=family).min("candidate").values
            for i, verdict in enumerate(found.verdicts):
                exists = min(others[i], float(alone.untrained_rmse[i])) >= 2 * sizes[i]
                at = found.dataset.sel(candidate=family).isel(sigma=i)
                rows.append(
                    {
                        "family": family,
                        "plant": plant,
                        "level": float(levels[i]),
                        "value": value,
                        "exists": bool(exists),
                        "contains": verdict.best is not None
                        and family in verdict.indistinguishable,
                        "alone": verdict.best == family and verdict.indistinguishable == (family,),
                        "covers": bool(at.strength_low <= value <= at.strength_high),
                        "continuous": strength.is_continuous,
                        "fitted": [
                            float(at.strength),
                            float(at.strength_low),
                            float(at.strength_high),
                        ],
                    }
                )
            out.write_text(json.dumps(rows, indent=1))
            of_family = summary([row for row in rows if row["family"] == family])
            print(f"{time.strftime('%H:%M:%S')}  {of_family} {family}", flush=True)
    return rows


class Combined(eqx.Module):
    """`weight first + (1 - weight) second`."""

    first: eqx.Module
    second: eqx.Module
    weight: jax.Array

    def __call__(self, u, sigma):
        return self.weight * self.first(u, sigma) + (1 - self.weight) * self.second(u, sigma)


def run_pairs(train, held_out, families, plants, num_plants, levels, out):
    """Convex combinations of two families at random strengths: are both named, and is the weight within its interval?

    A cell counts where the members are ten disturbances apart: a tenth of the weight then moves the output by one.
    """
    mean = jnp.mean(train.points, axis=0)
    spread = float(np.sqrt(np.mean(np.var(np.asarray(train.points), axis=0))))
    settings = sj.ExplainSettings(levels=levels, candidates=families, num_samples=0)
    dtype, (rows, done) = train.points.dtype, kept(out)
    pairs = list(itertools.combinations(plants, 2))
    for k, pair in enumerate(pairs):
        for plant in range(num_plants):
            if (" + ".join(pair), plant) in done:
                continue
            seed, weight = 10_000 + 100 * k + plant, (0.3, 0.5)[plant % 2]
            rng = np.random.default_rng(seed)
            members = [drawn(family, train, rng)[1] for family in pair]
            base = Combined(*members, jnp.asarray(weight, dtype))
            sizes = SHARE * sizes_of(base, held_out, levels, mean)
            difference = Combined(*members, jnp.asarray(2.0, dtype))  # 2 first - second
            apart = sizes_of(
                lambda u, s, d=difference: d(u, s) - d.first(u, s) + mean, held_out, levels, mean
            )
            network = planted(base, train.dim, spread, levels, sizes, seed, dtype)
            found = sj.explain(network, train, held_out, settings, progress=False).dataset
            for i, level in enumerate(levels):
                at = found.isel(sigma=i)
                names = tuple(str(name) for name in at.combination.values)
                low, high = (float(x) for x in at.combination_weight_interval.values)
                exists = bool(apart[i] >= 10 * sizes[i])
                rows.append(
                    {
                        "family": " + ".join(pair),
                        "plant": plant,
                        "level": float(level),
                        "value": weight,
                        "exists": exists,
                        "contains": names == pair,
                        "alone": names == pair and bool(at.combination_is_nearer),
                        "covers": low <= weight <= high,
                        "continuous": exists and names == pair,
                        "fitted": [float(at.combination_weight), low, high],
                    }
                )
            out.write_text(json.dumps(rows, indent=1))
            print(summary([r for r in rows if r["family"] == " + ".join(pair)]), pair, flush=True)
    return rows


def summary(rows):
    """Counts and fractions of the cells in which an answer exists."""
    cells = [row for row in rows if row["exists"]]
    fits = [row["covers"] for row in rows if row["continuous"]]
    part = lambda name: np.mean([row[name] for row in cells]) if cells else math.nan  # noqa: E731
    covered = f"{np.mean(fits):.2f} of {len(fits)}" if fits else "-"
    return (
        f"{len(cells)} of {len(rows)} cells; contains {part('contains'):.2f}, alone {part('alone'):.2f}; "
        f"intervals cover {covered}:"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--num-train", type=int, default=1200)
    parser.add_argument("--plants", type=int, default=20)
    parser.add_argument(
        "--families", nargs="+", help="by default all candidates of an explanation of these data"
    )
    parser.add_argument("--plant", nargs="+", help="only these of the families; all compete")
    parser.add_argument("--pairs", action="store_true", help="combinations of two families")
    parser.add_argument("--out", type=Path, default=Path("runs/planted"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    train, held_out = sj.datasets.load(arguments.data).split(arguments.num_train, seed=0)
    spread = float(np.sqrt(np.mean(np.var(np.asarray(train.points), axis=0))))
    levels = tuple(float(x) for x in np.geomspace(0.05 * spread, 10 * spread, 8))
    chosen = sj.ExplainSettings(levels=levels, candidates=tuple(arguments.families or ()))
    families = chosen.suited_to(train, held_out).candidates
    plants = tuple(arguments.plant or families)
    out = arguments.out / ("pairs.json" if arguments.pairs else "planted.json")
    with remembered_outputs():
        rows = (run_pairs if arguments.pairs else run)(
            train, held_out, families, plants, arguments.plants, levels, out
        )
    print(summary(rows), "all")


if __name__ == "__main__":
    main()
