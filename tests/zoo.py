"""One small denoiser of every public kind, and the same in mpmath, written from the definitions in their docstrings."""

import itertools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np

import smoothjax as sj

POINTS = np.random.default_rng(0).standard_normal((24, 4))
LINE = np.unique(POINTS[:, :1], axis=0)
QUERY, SIGMA = np.array([0.25, -0.5, 0.75, 0.125]), 0.7


def images(points):
    return points.reshape(-1, 2, 2, 1)


MAKERS = {
    "EmpiricalDenoiser": sj.EmpiricalDenoiser,
    "TruncatedDenoiser": sj.TruncatedDenoiser,
    "ShardedDenoiser": lambda x: sj.ShardedDenoiser(
        x, jax.sharding.Mesh(jax.devices()[:1], "data")
    ),
    "StreamedDenoiser": lambda x: sj.StreamedDenoiser(x, 7),
    "GaussianDenoiser": sj.GaussianDenoiser.fit,
    "DualGaussianDenoiser": sj.DualGaussianDenoiser,
    "FactorGaussianDenoiser": lambda x: sj.denoisers.FactorGaussianDenoiser.fit(x, 2),
    "MixtureDenoiser": lambda x: sj.MixtureDenoiser.fit(x, num_components=2),
    "TemperedDenoiser": lambda x: sj.TemperedDenoiser(x, 4.0),
    "WidenedDenoiser": lambda x: sj.WidenedDenoiser(x, 0.6),
    "GaussianSmoothedDenoiser": lambda x: sj.GaussianSmoothedDenoiser(x, 0.3, 8, jax.random.key(0)),
    "NoiseUnconditionedDenoiser": lambda x: sj.NoiseUnconditionedDenoiser(x, np.array([0.3, 1.0])),
    "LocalDenoiser": lambda x: sj.LocalDenoiser(images(x), 1),
    "EquivariantLocalDenoiser": lambda x: sj.EquivariantLocalDenoiser(images(x), 1),
    "PatchCompositeDenoiser": lambda x: sj.PatchCompositeDenoiser(images(x), 1),
    "WienerMaskDenoiser": lambda x: sj.WienerMaskDenoiser(images(x)),
    "SwitchedDenoiser": lambda x: sj.SwitchedDenoiser(
        sj.GaussianDenoiser.fit(x), sj.EmpiricalDenoiser(x), 1.0
    ),
    "ScheduledDenoiser": lambda x: sj.ScheduledDenoiser(
        [sj.EmpiricalDenoiser(x), sj.GaussianDenoiser.fit(x)], np.array([0.5])
    ),
    "RescaledDenoiser": lambda x: sj.RescaledDenoiser(
        sj.EmpiricalDenoiser((x - x.mean(0)) / 2), x.mean(0), 2.0
    ),
    "GuidedDenoiser": lambda x: sj.GuidedDenoiser(
        sj.GaussianDenoiser.fit(x), sj.EmpiricalDenoiser(x), 1.5
    ),
    "LineDenoiser": lambda x: sj.LineDenoiser(
        # Points along the direction, about the offset: where the data lie is the offset's.
        sj.PiecewiseLinearDenoiser(LINE[:, 0].astype(x.dtype), 0.5),
        np.eye(4)[0],
        x[0],
    ),
    # On a line.
    "PiecewiseLinearDenoiser": lambda x: sj.PiecewiseLinearDenoiser(x[:, 0], 0.5),
    "BoxSmoothedDenoiser": lambda x: sj.BoxSmoothedDenoiser(x, 0.3),
    "GaussianSmoothedLineDenoiser": lambda x: sj.GaussianSmoothedLineDenoiser(x[:, 0], 0.3),
}
ON_A_LINE = {"PiecewiseLinearDenoiser", "BoxSmoothedDenoiser", "GaussianSmoothedLineDenoiser"}


def made(name, dtype):
    points, u = (LINE, QUERY[:1]) if name in ON_A_LINE else (POINTS, QUERY)
    return MAKERS[name](points.astype(dtype)), jnp.asarray(u, dtype)


# ------------------------------------------------------------------------------ the same in mpmath


def exactly(array):
    """The numbers of an array as nested lists of mpmath's."""
    array = np.asarray(array, np.float64)
    if array.ndim == 0:
        return mp.mpf(float(array))
    return [exactly(row) for row in array]


def dot(a, b):
    return mp.fsum(x * y for x, y in zip(a, b, strict=True))


def square_distance(a, b):
    return mp.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def soft_max(logits):
    largest = max(logits)
    terms = [mp.exp(x - largest) for x in logits]
    total = mp.fsum(terms)
    return [x / total for x in terms], largest + mp.log(total)


def average(weights, rows):
    return [dot(weights, column) for column in zip(*rows, strict=True)]


def empirical(points, u, sigma):
    """Mean, trace of the covariance, and log density."""
    logits = [-square_distance(u, y) / (2 * sigma**2) for y in points]
    weights, log_total = soft_max(logits)
    mean = average(weights, points)
    variance = dot(weights, [square_distance(y, mean) for y in points])
    log_density = log_total - mp.log(len(points)) - len(u) * mp.log(2 * mp.pi * sigma**2) / 2
    return mean, variance, log_density


def gaussian(mean, covariance, u, sigma):
    d = len(u)
    covariance, v = mp.matrix(covariance), mp.matrix([a - b for a, b in zip(u, mean, strict=True)])
    noisy = covariance + sigma**2 * mp.eye(d)
    inverse = noisy**-1
    gain = covariance * inverse
    value = gain * v
    variance = sigma**2 * mp.fsum(gain[i, i] for i in range(d))
    square = (v.T * inverse * v)[0]
    log_density = -(square + mp.log(mp.det(noisy)) + d * mp.log(2 * mp.pi)) / 2
    return [a + b for a, b in zip(mean, value, strict=True)], variance, log_density


def moments(points):
    n, d = len(points), len(points[0])
    mean = [mp.fsum(column) / n for column in zip(*points, strict=True)]
    rows = [[a - b for a, b in zip(y, mean, strict=True)] for y in points]
    pair = lambda i, j: mp.fsum(row[i] * row[j] for row in rows) / n  # noqa: E731
    return mean, [[pair(i, j) for j in range(d)] for i in range(d)]


def _fit(D, points):
    fitted = moments(points)
    return lambda u, sigma: gaussian(*fitted, u, sigma)


def _factors(D, points):
    own, rows = exactly(D.diagonal), exactly(D.factors)
    d = len(own)
    covariance = [[dot(a, b) for b in rows] for a in rows]
    for i in range(d):
        covariance[i][i] += own[i]
    return lambda u, sigma: gaussian(exactly(D.mean), covariance, u, sigma)


def _mixture(D, points):
    log_weights = exactly(D.log_weights)
    laws = []
    for k in range(len(log_weights)):
        part = jax.tree.map(lambda x, k=k: x[k], D.components)
        basis, variances = exactly(part.basis), exactly(part.eigenvalues)
        d = len(basis)
        # Of all d columns, which are orthonormal to rounding: the nearest exact law.
        assert len(variances) == d
        q, _ = mp.qr(mp.matrix(basis))
        covariance = q * mp.diag(variances) * q.T
        laws.append((exactly(part.mean), covariance.tolist()))

    def of(u, sigma):
        parts = [gaussian(*law, u, sigma) for law in laws]
        weights, log_density = soft_max(
            [w + part[2] for w, part in zip(log_weights, parts, strict=True)]
        )
        means = [part[0] for part in parts]
        mean = average(weights, means)
        within = dot(weights, [part[1] for part in parts])
        between = dot(weights, [square_distance(m, mean) for m in means])
        return mean, within + between, log_density

    return of


def _tempered(D, points):
    temperature = exactly(D.temperature)
    return lambda u, sigma: (empirical(points, u, sigma * mp.sqrt(temperature))[0],)


def _widened(D, points):
    """A mixture of Gaussians of one width: the posterior of each, and theirs."""
    width = exactly(D.width)

    def of(u, sigma):
        d, level = len(u), mp.sqrt(width**2 + sigma**2)
        weights, log_total = soft_max([-square_distance(u, y) / (2 * level**2) for y in points])
        gain = (width / level) ** 2
        means = [[b + gain * (a - b) for a, b in zip(u, y, strict=True)] for y in points]
        mean = average(weights, means)
        between = dot(weights, [square_distance(m, mean) for m in means])
        log_density = log_total - mp.log(len(points)) - d * mp.log(2 * mp.pi * level**2) / 2
        return mean, d * gain * sigma**2 + between, log_density

    return of


def _smoothed(D, points):
    # The draws as they are added, rounded to the dtype.
    moves = exactly(D.smoothing * D.perturbations)

    def of(u, sigma):
        means = [
            empirical(points, [a + b for a, b in zip(u, move, strict=True)], sigma)[0]
            for move in moves
        ]
        return (average([mp.mpf(1) / len(means)] * len(means), means),)

    return of


def _blind(D, points):
    levels, prior = exactly(D.levels), exactly(D.log_probabilities)

    def of(u, sigma):
        parts = [empirical(points, u, level) for level in levels]
        weights, _ = soft_max([p + part[2] for p, part in zip(prior, parts, strict=True)])
        noise = average(
            weights,
            [
                [(a - b) / level for a, b in zip(u, part[0], strict=True)]
                for part, level in zip(parts, levels, strict=True)
            ],
        )
        return ([a - sigma * b for a, b in zip(u, noise, strict=True)],)

    return of


def _of_windows(windows, compared):
    """Coordinate q from the points' coordinates of `windows(q)`, over what it is `compared` with: (point, coordinate)."""

    def make(D, points):
        def coordinate(u, sigma, q):
            pairs = compared(points, q)
            logits, values = [], []
            for y, at in pairs:
                theirs = windows(D, at)
                ours = windows(D, q)
                terms = ((u[a] - y[b]) ** 2 for a, b in zip(ours, theirs, strict=True))
                logits.append(-mp.fsum(terms) / (2 * sigma**2))
                values.append(y[at])
            return dot(soft_max(logits)[0], values)

        return lambda u, sigma: ([coordinate(u, sigma, q) for q in range(len(u))],)

    return make


def _alone(D, q):
    """Windows and crops of one pixel."""
    assert D.patch_size == 1
    return [q]


_local = _of_windows(_alone, lambda points, q: [(y, q) for y in points])
_equivariant = _of_windows(
    _alone, lambda points, q: [(y, r) for y in points for r in range(len(y))]
)


def _wiener(D, points):
    # Step functions of the noise level: the denoiser's own masks, compared elsewhere.
    known = {}

    def of(u, sigma):
        key = float(sigma)
        if key not in known:
            known[key] = np.asarray(D.masks(np.asarray(key, D.images.dtype)))
        masks = known[key]
        value = []
        for q in range(len(u)):
            chosen = np.flatnonzero(masks[:, q])
            logits = [
                -mp.fsum((u[n] - y[n]) ** 2 for n in chosen)
                / (2 * sigma**2 * exactly(D.temperature))
                for y in points
            ]
            value.append(dot(soft_max(logits)[0], [y[q] for y in points]))
        return (value,)

    return of


def _switched(D, points):
    fitted, level = moments(points), exactly(D.level)
    low = lambda u, sigma: empirical(points, u, sigma)[:2]  # noqa: E731
    return lambda u, sigma: gaussian(*fitted, u, sigma)[:2] if sigma > level else low(u, sigma)


def _scheduled(D, points):
    fitted, (level,) = moments(points), exactly(D.levels)
    low = lambda u, sigma: empirical(points, u, sigma)[:2]  # noqa: E731
    return lambda u, sigma: gaussian(*fitted, u, sigma)[:2] if sigma > level else low(u, sigma)


def _rescaled(D, points):
    inner, centre, scale = exactly(D.denoiser.data), exactly(D.centre), exactly(D.scale)

    def of(u, sigma):
        moved = [(a - b) / scale for a, b in zip(u, centre, strict=True)]
        mean, variance, _ = empirical(inner, moved, sigma / scale)
        return [b + scale * m for b, m in zip(centre, mean, strict=True)], scale**2 * variance

    return of


def _guided(D, points):
    fitted, weight = moments(points), exactly(D.weight)

    def of(u, sigma):
        first, second = gaussian(*fitted, u, sigma), empirical(points, u, sigma)
        mean = [(1 - weight) * a + weight * b for a, b in zip(first[0], second[0], strict=True)]
        return mean, (1 - weight) * first[1] + weight * second[1]

    return of


def piecewise_linear(points, kappa, u, sigma):
    points = sorted(points)
    if u <= points[0] or u >= points[-1]:
        return points[0] if u <= points[0] else points[-1]
    left = max(y for y in points if y <= u)
    right = min(y for y in points if y > u)
    half, middle = (right - left) / 2, (left + right) / 2
    plateau = kappa * sigma
    if plateau >= half:
        return middle if u == middle else left if u < middle else right
    return min(max(middle + (u - middle) * half / (half - plateau), left), right)


def _piecewise(D, points):
    line = [y for (y,) in points]
    kappa = mp.mpf(1) / 2
    return lambda u, sigma: ([piecewise_linear(line, kappa, u[0], sigma)],)


def _line(D, points):
    along = exactly(D.tangent_denoiser.gaps.points)
    direction, offset = exactly(D.direction), exactly(D.offset)

    def of(u, sigma):
        tau = dot([a - b for a, b in zip(u, offset, strict=True)], direction)
        tau = piecewise_linear(along, mp.mpf(1) / 2, tau, sigma)
        return ([b + tau * e for b, e in zip(offset, direction, strict=True)],)

    return of


def _box(D, points):
    width = exactly(D.width)

    def of(u, sigma):
        above, below = (empirical(points, [u[0] + s * width], sigma)[2] for s in (1, -1))
        return ([u[0] + sigma**2 * (above - below) / (2 * width)],)

    return of


def _smoothed_line(D, points):
    smoothing = exactly(D.smoothing)
    line = sorted(y for (y,) in points)

    def slopes(u, sigma):
        """The value and its derivatives by the point and the noise level, by quadrature, to 18 digits."""

        def at(e):
            z = u[0] + smoothing * e
            squares = [(z - y) ** 2 for y in line]
            weights, _ = soft_max([-square / (2 * sigma**2) for square in squares])
            mean = dot(weights, line)
            rest = [y - mean for y in line]
            density = mp.npdf(e)
            return (
                density * mean,
                density * dot(weights, [r * r for r in rest]) / sigma**2,
                density
                * mp.fsum(w * r * s for w, r, s in zip(weights, rest, squares, strict=True))
                / sigma**3,
            )

        # Edges where D bends: the middles of the gaps, with a few widths of the bends about them.
        edges = {mp.mpf(-9), mp.mpf(9), mp.mpf(0)}
        for a, b in itertools.pairwise(line):
            middle, bend = (a + b) / 2, sigma**2 / (b - a)
            places = ((middle + k * bend - u[0]) / smoothing for k in (-40, -6, 0, 6, 40))
            edges |= {e for e in places if abs(e) < 9}
        edges = sorted(edges)
        nodes, node_weights = np.polynomial.legendre.leggauss(24)
        total = [mp.mpf(0)] * 3
        for a, b in itertools.pairwise(edges):
            for x, w in zip(nodes, node_weights, strict=True):
                found = at((a + b) / 2 + (b - a) / 2 * mp.mpf(x))
                total = [t + (b - a) / 2 * mp.mpf(w) * f for t, f in zip(total, found, strict=True)]
        return total

    slopes.has_slopes = True
    return slopes


_exact = lambda D, points: lambda u, sigma: empirical(points, u, sigma)  # noqa: E731
REFERENCES = {
    "EmpiricalDenoiser": _exact,
    "TruncatedDenoiser": _exact,
    "ShardedDenoiser": _exact,
    "StreamedDenoiser": _exact,
    "GaussianDenoiser": _fit,
    "DualGaussianDenoiser": _fit,
    "FactorGaussianDenoiser": _factors,
    "MixtureDenoiser": _mixture,
    "TemperedDenoiser": _tempered,
    "WidenedDenoiser": _widened,
    "GaussianSmoothedDenoiser": _smoothed,
    "NoiseUnconditionedDenoiser": _blind,
    "LocalDenoiser": _local,
    "EquivariantLocalDenoiser": _equivariant,
    "PatchCompositeDenoiser": _local,  # crops of one pixel
    "WienerMaskDenoiser": _wiener,
    "SwitchedDenoiser": _switched,
    "ScheduledDenoiser": _scheduled,
    "RescaledDenoiser": _rescaled,
    "GuidedDenoiser": _guided,
    "LineDenoiser": _line,
    "PiecewiseLinearDenoiser": _piecewise,
    "BoxSmoothedDenoiser": _box,
    "GaussianSmoothedLineDenoiser": _smoothed_line,
}


def reference(name, D, dtype):
    """`(u, sigma) -> (mean, variance, log density)` of mpmath's numbers, as many of the three as the docstring defines."""
    points = LINE if name in ON_A_LINE else POINTS
    return REFERENCES[name](D, exactly(points.astype(dtype)))
