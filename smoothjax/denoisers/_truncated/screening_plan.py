"""Which screens there are, and at which noise levels they are worth trying: found out on the training points themselves.

What a screen leaves over depends on the data, on the noise level and on the tolerance, in no simple way; what it costs does
not. So screens of a few widths are built, and applied to probes: training points plus noise.
"""

import itertools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._jax.largest import COLUMN
from .._posterior.leading_directions import leading_directions
from .candidates import OwnCandidates, SharedCandidates, Truncation
from .screen import build_screens

# Queries that are screened at once.
GROUP = 64
# Noise levels, relative to the data's root mean square, at which it is found out which screens pay; and queries there.
PROBED_LEVELS = np.geomspace(1e-3, 1.0, 19)
NUM_PROBES = 32
# Points that are looked at for it.
PROBED_POINTS = 65_536
# Costs in units of one of the dense denoiser's `2 n d` multiplications (measured): of looking at a bound; of a coordinate
# of a point that is weighed.
LOOK, VISIT = 45.0, 90.0
# What a point costs that is gathered and weighed for a group, in units of the dense denoiser's cost for a point.
GATHER = 1.25

Stage = OwnCandidates | SharedCandidates


def candidate_stages(points: np.ndarray, centre: np.ndarray, dtype: Any) -> tuple[Stage, ...]:
    """Attempts with screens of growing width, of numbers of that dtype, and at last with the product itself.

    All bounds are those of the same posterior.
    """
    n, d = points.shape
    num_rows = -(-n // COLUMN) * COLUMN
    if n < 4 * COLUMN:
        return ()
    # They cost as much as a twentieth of the dense denoiser, from so many points on.
    num_visits = min(max(16, n // 1000), 128, num_rows // COLUMN)
    widths = [w for w in (d // 12, d // 6, d // 3, d // 2) if w >= COLUMN]
    screens = []
    if widths:
        basis = leading_directions(points, centre, min(d, 3 * widths[-1] // 2, n))
        edges = [
            tuple(sorted({min(e, basis.shape[1]) for e in (w, 3 * w // 2, 2 * w)})) for w in widths
        ]
        screens = build_screens(points, centre, basis, edges, num_rows, dtype)
    return (
        *(OwnCandidates(screen, num_visits) for screen in screens[:3]),
        *(SharedCandidates(screen) for screen in screens[2:]),
        OwnCandidates(None, num_visits),
    )


def worth_entering(of: Truncation, stages: tuple[Stage, ...], scale: float) -> np.ndarray:
    """Which stages a query should try at each level: by what they cost, and how many points they would leave for probes.

    The probes are training points plus noise, as the states of a sampler are, half of them as if their own point were not in
    the set, as held-out ones would be: a stage must pay on average, and cost next to nothing where only these are asked for.

    Args:
        of: the training set, and what may be left out.
        stages: of `candidate_stages`, at least one.
        scale: root mean square distance of the points from their centre.

    Returns:
        Shape (2, levels, stages): first where logits from a product cannot be trusted, then where they can.
    """
    set_ = of.points
    n, d = set_.points.shape
    stride = -(-n // PROBED_POINTS)
    points, half_square = (np.asarray(x)[::stride] for x in (set_.points, set_.half_square))
    centre, dtype = np.asarray(set_.centre), points.dtype
    generator = np.random.default_rng(0)
    own = generator.integers(0, len(points), NUM_PROBES)
    held_out = np.arange(NUM_PROBES) < NUM_PROBES // 2
    noise = generator.standard_normal((len(PROBED_LEVELS), NUM_PROBES, d)).astype(dtype)
    sigmas = (PROBED_LEVELS * scale).astype(dtype)[:, None]
    v = (points[own] - centre + sigmas[:, :, None] * noise).reshape(-1, d)
    # A point matters if as many like it as there are would miss the tolerance.
    margin = math.log(2.1 * n * float(of.farthest) / float(of.tolerance))

    def bounds(stage: Stage) -> np.ndarray:
        if stage.screen is None:
            found = v @ points.T - half_square - (v @ centre)[:, None]
        else:
            columns = np.asarray(stage.screen.columns)[:, ::stride].astype(dtype)
            found = np.asarray(stage.screen.rows(jnp.asarray(v)), dtype) @ columns
        found = found.reshape(len(sigmas), NUM_PROBES, -1)
        found[:, held_out, own[held_out]] = -np.inf
        return found

    enter = np.zeros((2, len(PROBED_LEVELS), len(stages)), bool)
    certified, costs = [], []
    exact = bounds(stages[-1])
    least = np.max(exact, axis=-1) - sigmas**2 * max(margin, 0.0)
    for stage in stages:
        found = exact if stage.screen is None else bounds(stage)
        width = d if stage.screen is None else len(stage.screen.columns)
        matters = found > least[..., None]
        chance, cost = [], []
        for kind in (held_out, ~held_out):
            if isinstance(stage, OwnCandidates):
                count = stride * np.sum(matters[:, kind], axis=-1)
                chance.append(np.mean(count < stage.num_visits, axis=1))
                cost.append(VISIT * stage.num_visits / (2 * n) * np.ones(len(sigmas)))
            else:
                # At most so many in a whole group.
                union = stride * np.sum(np.any(matters[:, kind], axis=1), axis=-1)
                share = np.minimum(union * (GROUP / np.sum(kind)) / n, 1.0)
                chance.append(share < 0.25)
                cost.append(GATHER * share)
        certified.append(np.stack(chance))
        costs.append((width + LOOK) / (2 * d) + np.stack(cost))
    for trusted, i in itertools.product(range(2), range(len(PROBED_LEVELS))):
        rest = np.ones(2)
        for k, stage in reversed(list(enumerate(stages))):
            if isinstance(stage, SharedCandidates) and not trusted:
                continue
            cost = costs[k][:, i] + (1 - certified[k][:, i]) * rest
            if np.mean(cost) < 0.95 * np.mean(rest) and np.all(cost < 1.05 * rest):
                enter[trusted, i, k], rest = True, cost
    return enter
