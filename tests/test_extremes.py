"""Numbers of every size: values and derivatives against mpmath, over 24 decades of noise levels and of noisy points.

An error is relative to the larger of the number and its natural unit: the size of the points for D, 1 for dD/du, that size
over sigma for dD/dsigma, its square for the variance, the number of dimensions times |log sigma| for the log density. Where
rounding the point or the noise level once changes the true number by more than what is allowed, that change is allowed.
"""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from zoo import LINE, MAKERS, ON_A_LINE, POINTS, made, reference

import smoothjax as sj

DIGITS = 160
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
# Rounding happens at more places than the inputs.
ROUNDINGS = 8


def grid(d, dtype):
    """Pairs of 14 points and 16 noise levels; the points up to 1e30."""
    direction = np.random.default_rng(1).standard_normal(d)
    sizes = np.concatenate(
        [[0], 10.0 ** np.array([-12, -9, -6, -3, -1, 0, 1, 3, 6, 9, 12, 20, 30])]
    )
    u, sigma = sizes[:, None] * direction[None], 10.0 ** np.linspace(-12, 12, 16)
    pairs = [(x, s) for x in u for s in sigma]
    return tuple(np.asarray(x, dtype) for x in zip(*pairs, strict=True))


def places(d, dtype, num=30):
    """Noise levels of any size; points as many noise levels from a training point, or of any size themselves."""
    rng = np.random.default_rng(2)
    points = (LINE if d == 1 else POINTS).astype(np.float32)
    sigma = 10.0 ** rng.uniform(-12, 12, num)
    u = points[rng.integers(0, len(points), num)] + sigma[:, None] * rng.standard_normal((num, d))
    size = 10.0 ** rng.uniform(-12, 12, (num, 1))
    size[::9] = 1e30
    u[::3] = (size * rng.standard_normal((num, d)))[::3]
    # Far away, where the points' directions compete.
    tilted = np.maximum(sigma, 1.5)[:, None] ** 2 * rng.standard_normal((num, d))
    u[1::6] = tilted[1::6]
    sigma[1::6] = np.maximum(sigma, 1.5)[1::6]
    return u.astype(dtype), sigma.astype(dtype)


def everything(D, u, sigma):
    """What a denoiser says at some places, one program."""
    if isinstance(D, sj.StreamedDenoiser):
        found = [D.mean_and_variance(x, s) for x, s in zip(u, sigma, strict=True)]
        value, variance = (np.stack(x) for x in zip(*found, strict=True))
        return {"value": value, "variance": variance}

    def at(u, sigma):
        result = {
            "value": D(u, sigma),
            "forward": jax.jacfwd(D)(u, sigma),
            "reverse": jax.jacrev(D)(u, sigma),
            "by level": jax.jacfwd(D, 1)(u, sigma),
            "variance": D.mean_and_variance(u, sigma)[1],
        }
        if isinstance(D, sj.AbstractPosteriorDenoiser):
            result["covariance"] = D.posterior_covariance(u, sigma)
            result["log density"], result["score"] = jax.value_and_grad(D.log_density)(u, sigma)
        return result

    found = jax.jit(jax.vmap(at))(jnp.asarray(u), jnp.asarray(sigma))
    return {name: np.asarray(x) for name, x in found.items()}


def _moved(x, i, step):
    return [*x[:i], x[i] + step, *x[i + 1 :]]


def truth(of, u, sigma):
    """The same from mpmath, by central differences much narrower than the function bends, or by quadrature."""
    if getattr(of, "has_slopes", False):
        value, slope, by_level = (np.asarray([float(x)]) for x in of(u, sigma))
        slope = slope[None]
        result = {"value": value, "forward": slope, "reverse": slope, "by level": by_level}
        return result | {"variance": float(sigma) ** 2 * slope[0, 0]}
    wide = mp.sqrt(mp.fsum(x * x for x in u)) + 10
    bend = sigma**2 / (sigma + wide)
    h = mp.mpf(10) ** -25 * bend
    value, *rest = of(u, sigma)
    columns = []
    for i in range(len(u)):
        above, below = (of(_moved(u, i, step), sigma)[0] for step in (h, -h))
        columns.append([(a - b) / (2 * h) for a, b in zip(above, below, strict=True)])
    jacobian = [list(row) for row in zip(*columns, strict=True)]
    h = mp.mpf(10) ** -25 * sigma * (bend / (sigma + wide))
    above, below = (of(u, sigma + step)[0] for step in (h, -h))
    result = {
        "value": value,
        "forward": jacobian,
        "reverse": jacobian,
        "by level": [(a - b) / (2 * h) for a, b in zip(above, below, strict=True)],
        "variance": sigma**2 * mp.fsum(jacobian[i][i] for i in range(len(u))),
    }
    if rest:
        result["variance"] = rest[0]
    if len(rest) == 2:
        result["covariance"] = [[sigma**2 * x for x in row] for row in jacobian]
        result["log density"] = rest[1]
        result["score"] = [(a - b) / sigma**2 for a, b in zip(value, u, strict=True)]
    return {name: np.array(x, object).astype(np.float64) for name, x in result.items()}


def unit(name, u, sigma, size):
    if name == "value":
        return size
    if name == "by level":
        return size / sigma
    if name in ("variance", "covariance"):
        return size**2
    if name == "score":
        return size / sigma**2
    if name == "log density":
        return len(u) * (1 + abs(np.log(sigma)))
    return 1.0


def errors(name, D, dtype, u, sigma, found):
    """The largest error of everything, relative to what is allowed; infinite where a number is not finite."""
    of = reference(name, D, dtype)
    size = float(np.max(np.linalg.norm(LINE if name in ON_A_LINE else POINTS, axis=1)))
    largest, eps = float(np.finfo(dtype).max), float(np.finfo(dtype).eps)
    worst = {}
    with mp.workdps(DIGITS):
        for k in range(len(u)):
            at = [mp.mpf(float(x)) for x in u[k]], mp.mpf(float(sigma[k]))
            true = truth(of, *at)
            sensitivity = None
            for what, rows in found.items():
                # Numbers that the dtype does not hold.
                held = np.abs(true[what]) < 0.1 * largest
                if what == "score":
                    held &= np.abs(true["log density"]) < 0.01 * largest
                level = float(sigma[k])
                scale = np.maximum(np.max(np.abs(true[what])), unit(what, u[k], level, size))
                with np.errstate(invalid="ignore"):
                    error = np.max(np.where(held, np.abs(rows[k] - true[what]), 0))
                if not np.isfinite(error):
                    error = np.inf
                relative = error / scale / TOLERANCE[dtype.name]
                if 1 < relative < np.inf:
                    if sensitivity is None:
                        sensitivity = _sensitivity(of, *at, true, eps)
                    relative = error / (
                        scale * TOLERANCE[dtype.name] + ROUNDINGS * sensitivity[what]
                    )
                if not relative <= worst.get(what, (0,))[0]:
                    worst[what] = (relative, error / scale, k)
    return worst


def _sensitivity(of, u, sigma, true, eps):
    moved = [truth(of, _moved(u, i, x * eps), sigma) for i, x in enumerate(u)]
    moved.append(truth(of, u, sigma * (1 + eps)))
    with np.errstate(invalid="ignore"):
        return {what: sum(np.max(np.abs(m[what] - true[what])) for m in moved) for what in true}


SLOW = {"GaussianSmoothedLineDenoiser": 4}  # places: mpmath integrates
# The same programs as those of others, or with few lines around them.
REPRESENTED = {
    "TruncatedDenoiser",
    "ShardedDenoiser",
    "SwitchedDenoiser",
    "ScheduledDenoiser",
    "GuidedDenoiser",
    "RescaledDenoiser",
}


def _marked(name):
    return pytest.param(name, marks=pytest.mark.exhaustive) if name in REPRESENTED else name


@pytest.mark.parametrize("name", [_marked(name) for name in MAKERS])
def test_right_and_finite_at_all_sizes(name, dtype):
    D, u = made(name, dtype)
    some, all_pairs = places(len(u), dtype), grid(len(u), dtype)
    found = everything(D, *(np.concatenate(x) for x in zip(some, all_pairs, strict=True)))
    num = len(some[1])
    every = {what: x[num:].reshape(len(all_pairs[1]), -1) for what, x in found.items()}
    assert_finite(*all_pairs, every)
    shown = SLOW.get(name, num)
    worst = errors(
        name, D, dtype, *(x[:shown] for x in some), {w: x[:shown] for w, x in found.items()}
    )
    assert all(ratio <= 1 for ratio, *_ in worst.values()), worst


def assert_finite(u, sigma, found):
    """All but what the dtype does not hold: a log density of 1e-40, say, or what a blind denoiser makes of far points."""
    largest = float(np.finfo(found["value"].dtype).max)
    size = 10 + np.linalg.norm(np.float64(u), axis=1)
    held = {
        "value": size * (1 + sigma.astype(float)) < 0.01 * largest,
        "log density": (size / sigma) ** 2 < 0.01 * largest,
        # The slope of a log density that is held.
        "score": (size / np.float64(sigma)) ** 2 * np.maximum(1, 1 / size) < 0.01 * largest,
    }
    for what, rows in found.items():
        bad = ~np.all(np.isfinite(rows), axis=1) & held.get(what, True)
        assert not bad.any(), (what, u[bad], sigma[bad])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name in MAKERS if name not in SLOW])
def test_right_on_the_whole_grid(name, dtype):
    D, u = made(name, dtype)
    u, sigma = grid(len(u), dtype)
    worst = errors(name, D, dtype, u, sigma, everything(D, u, sigma))
    assert all(ratio <= 1 for ratio, *_ in worst.values()), worst


def images_of(points):
    return points.reshape(len(points), 1, -1, 1)


FEW = {
    "EmpiricalDenoiser": sj.EmpiricalDenoiser,
    "GaussianDenoiser": sj.GaussianDenoiser.fit,
    "DualGaussianDenoiser": sj.DualGaussianDenoiser,
    "MixtureDenoiser": lambda x: sj.MixtureDenoiser.fit(x, np.zeros(len(x))),
    "LocalDenoiser": lambda x: sj.LocalDenoiser(images_of(x), 1),
    "EquivariantLocalDenoiser": lambda x: sj.EquivariantLocalDenoiser(images_of(x), 3),
    "PatchCompositeDenoiser": lambda x: sj.PatchCompositeDenoiser(images_of(x), 1),
    "WienerMaskDenoiser": lambda x: sj.WienerMaskDenoiser(images_of(x)),
}


@pytest.mark.parametrize(("name", "num"), [*((name, 3) for name in FEW), ("EmpiricalDenoiser", 1)])
def test_of_one_point_and_of_equal_points_nothing_else_is_left(name, num, dtype):
    """In one dimension, where windows are the image."""
    point = np.asarray([0.7], dtype)
    D = FEW[name](np.tile(point, (num, 1)))
    u, sigma = places(1, dtype)
    found = everything(D, u, sigma)
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found["value"], np.broadcast_to(point, u.shape), rtol=8 * eps)
    for what in ("forward", "reverse", "by level", "variance", "covariance"):
        assert np.all(np.abs(found.get(what, 0)) <= 8 * eps), what
    if "log density" in found:
        distance = np.float64(u[:, 0]) - np.float64(point[0])
        level = np.float64(sigma)
        true = -0.5 * (distance / level) ** 2 - np.log(level) - 0.5 * np.log(2 * np.pi)
        held = np.abs(true) < 0.1 * float(np.finfo(dtype).max)
        np.testing.assert_allclose(found["log density"][held], true[held], rtol=100 * eps)
