"""What the flow of the piecewise-linear score generates from the exact noisy law, in closed form."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jax.scipy.stats import norm
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import RealScalar, as_float_array, as_key, as_positive_integer
from .._kinds import checks_kinds
from .._levels import as_level
from .._line import Gaps, as_gaps, mixture_log_density, require_invertible, transport
from ._line_mixture import mixture_cdf, mixture_quantile

NUM_NODES = 64


class PiecewiseLinearLaw(eqx.Module):
    r"""Law at `sigma_to` of what starts exact at `sigma_from` and follows the flow of `PiecewiseLinearDenoiser`.

    The start is a training point plus noise of level `sigma_from`. At `sigma_to = 0` the law has an atom at every
    training point and a density in the gaps; at `sigma_to > 0` it is continuous, and what becomes the atoms are the
    plateaus. With `sigma_to = sigma_from` it is the noisy data themselves: what early stopping of the exact flow leaves.

    Args:
        points, kappa: as for `PiecewiseLinearDenoiser`.
        sigma_from: noise level of the start.
        sigma_to: noise level of the end, 0 by default.

    Raises:
        ValueError: as `piecewise_linear_flow`.

    Source: Chen, ICLR 2026, section 4 (two points and uniform spacing, `sigma_to = 0`); the rest by the change of variables.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> law = sj.smoothing.PiecewiseLinearLaw(jnp.array([-1.0, 1.0]), 0.5, sigma_from=0.1)
        >>> print(law.plateau_masses().round(4))  # of the two atoms
        [0.3457 0.3457]
    """

    gaps: Gaps
    sigma_from: Float[Array, ""]
    sigma_to: Float[Array, ""]

    @checks_kinds
    def __init__(
        self,
        points: Float[Array, " n"],
        kappa: RealScalar | Float[Array, " gaps"],
        sigma_from: RealScalar,
        sigma_to: RealScalar = 0.0,
    ):
        gaps = as_gaps(points, kappa)
        dtype = gaps.points.dtype
        start = as_level(sigma_from, "sigma_from", dtype)
        end = as_level(sigma_to, "sigma_to", dtype, or_zero=True)
        self.gaps = gaps
        self.sigma_from = jnp.asarray(start)
        self.sigma_to = jnp.asarray(require_invertible(gaps, start, end))

    @property
    def points(self) -> Float[Array, " n"]:
        """Training points in ascending order."""
        return self.gaps.points

    @eqx.filter_jit
    def plateau_masses(self) -> Float[Array, " n"]:
        """Mass of every plateau; at `sigma_to = 0`, of the atom at every training point."""
        return jnp.mean(self._pieces().moment(0), axis=0)[1]

    @eqx.filter_jit
    def gap_masses(self) -> Float[Array, " gaps"]:
        """Mass that lies between neighbouring points and on neither's plateau."""
        left, _, right = jnp.mean(self._pieces().moment(0), axis=0)
        return right[:-1] + left[1:]

    def interpolated_mass(self) -> Float[Array, ""]:
        """Mass of all gaps: the creative fraction."""
        return jnp.sum(self.gap_masses())

    @eqx.filter_jit
    def mean(self) -> Float[Array, ""]:
        """Mean, in data units."""
        return jnp.sum(jnp.mean(self._pieces().moment(1), axis=0))

    @eqx.filter_jit
    def variance(self) -> Float[Array, ""]:
        """Variance, in squared data units."""
        return jnp.sum(jnp.mean(self._pieces().moment(2, about=self.mean()), axis=0))

    @eqx.filter_jit
    def mean_square_distance(self) -> Float[Array, ""]:
        """Mean squared distance to the nearest training point, in squared data units."""
        return jnp.sum(jnp.mean(self._pieces().moment(2, about=self.points[None, None]), axis=0))

    @eqx.filter_jit
    def log_density(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Log density at `z`, elementwise, of the part that has one: at `sigma_to = 0`, without the atoms."""
        z = as_float_array(z, "z")
        x, slope, reached = self._origin(z)
        density = mixture_log_density(self.points, self.sigma_from, x) - jnp.log(slope)
        return jnp.where(reached & (slope > 0), density, -jnp.inf)

    def density(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Density at `z`, elementwise, of the part that has one."""
        return jnp.exp(self.log_density(z))

    @eqx.filter_jit
    def cdf(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Distribution function at `z`, elementwise; continuous from the right."""
        x, _, _ = self._origin(as_float_array(z, "z"))
        return mixture_cdf(self.points, self.sigma_from, x)

    @eqx.filter_jit
    def quantile(self, q: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Quantile function, elementwise, for `0 < q < 1`: constant across an atom."""
        x = mixture_quantile(self.points, self.sigma_from, as_float_array(q, "q"))
        return transport(self.gaps, x, self.sigma_from, self.sigma_to)

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, " num_samples"]:
        """Independent draws."""
        key = as_key(key)
        pick, noise = jax.random.split(key)
        shape = (as_positive_integer(num_samples, "num_samples"),)
        x = jax.random.choice(pick, self.points, shape)
        x += self.sigma_from * jax.random.normal(noise, shape, self.points.dtype)
        return transport(self.gaps, x, self.sigma_from, self.sigma_to)

    @eqx.filter_jit
    def divergence_from_uniform(self) -> Float[Array, ""]:
        """Kullback-Leibler divergence, in nats, of the uniform law on `[y_1, y_n]` to the density of this one.

        Infinite where a gap is empty. By Gauss-Legendre quadrature of the log density, with nodes drawn to the middle of the
        gaps, where it bends within `sigma^2 / 2h`: relative error below 1e-10 in float64.
        """
        points, r, s = self.points, self.sigma_from, self.sigma_to
        half, length = self.gaps.half_widths[1:-1], points[-1] - points[0]
        is_open, _, kappa = self.gaps.ramp(slice(1, -1), r)
        middle = 0.5 * (points[:-1] + points[1:])
        # Half gaps: z runs from the plateau's edge to the middle.
        offsets, weights = nodes_towards_zero(half - kappa * s, 0.5 * r**2 / half)
        total = jnp.zeros((), points.dtype)
        for side in (-1, 1):
            total += jnp.sum(weights * self.log_density(middle[None] + side * offsets))
        # Plateaus, which shrink to nothing at s = 0.
        offsets, weights = legendre(kappa * s)
        for sign, y in ((1, points[:-1]), (-1, points[1:])):
            values = self.log_density(y[None] + sign * offsets)
            total += jnp.sum(jnp.where(weights > 0, weights * values, 0))
        divergence = -total / length - jnp.log(length)
        return jnp.where(jnp.all(is_open), divergence, jnp.inf)

    def _pieces(self) -> "_Pieces":
        return _pieces(self.gaps, self.sigma_from, self.sigma_to)

    def _origin(self, z: Array) -> tuple[Array, Array, Array]:
        """Where at `sigma_from` the largest that flows to at most `z` lies, the map's slope there, and whether it is `z`."""
        r, s = self.sigma_from, self.sigma_to
        point, side, distance, gap = self.gaps.place(z)
        # A training point belongs to its right plateau's end, if that shrinks to it.
        on_atom = (distance == 0) & (s == 0)
        gap = jnp.where(on_atom, gap + 1, gap)
        side = jnp.where(on_atom, 1, side)
        edge, ramp = self.gaps.plateau(gap, r), self.gaps.ramp(gap, r)
        slope = ramp.slope(r, s)
        on_ramp = ramp.is_open & (distance > ramp.kappa * s)
        on_plateau = jnp.where(s > 0, distance * r / jnp.where(s > 0, s, 1), jnp.inf)
        away = jnp.where(
            on_ramp,
            edge + (distance - ramp.kappa * s) / slope,
            jnp.minimum(on_plateau, edge),
        )
        reached = on_ramp | (on_plateau <= edge)
        return point + side * away, jnp.where(on_ramp, slope, s / r), reached


class _Pieces(eqx.Module):
    """The affine pieces `z = c + B (x - c)` of the flow map: left of, on and right of every plateau, by nearest point."""

    points: Float[Array, " n"]
    sigma: Float[Array, ""]
    low: Float[Array, "3 n"]
    high: Float[Array, "3 n"]
    centre: Float[Array, "3 n"]
    slope: Float[Array, "3 n"]

    def moment(self, order: int, about: Any = 0.0) -> Float[Array, "components 3 n"]:
        """Moments of `z - about`, restricted to every piece, under every component of the start."""
        mean = self.points[:, None, None]
        low, high, centre, slope = (x[None] for x in (self.low, self.high, self.centre, self.slope))
        a, b = (low - mean) / self.sigma, (high - mean) / self.sigma
        # On the side where both are small.
        mass = jnp.where(a > 0, ndtr(-a) - ndtr(-b), ndtr(b) - ndtr(a))
        if order == 0:
            return mass
        at_mean = centre - about + slope * (mean - centre)
        scale = slope * self.sigma
        density_a, density_b = norm.pdf(a), norm.pdf(b)
        first = density_a - density_b
        if order == 1:
            return at_mean * mass + scale * first
        tails = (
            jnp.where(jnp.isinf(a), 0, a) * density_a - jnp.where(jnp.isinf(b), 0, b) * density_b
        )
        return at_mean**2 * mass + 2 * at_mean * scale * first + scale**2 * (mass + tails)


def _pieces(gaps: Gaps, start: Array, end: Array) -> _Pieces:
    n = gaps.points.shape[0]
    edges = []
    for side, gap in ((-1, slice(0, n)), (1, slice(1, n + 1))):
        slope = gaps.ramp(gap, start).slope(start, end)
        edge = gaps.points + side * gaps.plateau(gap, start)
        middle = gaps.points + side * gaps.half_widths[gap]
        # The ends have no middle, and no mass beyond their plateaus.
        centre = jnp.where(jnp.isinf(middle), gaps.points, middle)
        edges.append((edge, middle, centre, slope))
    (
        (left, left_middle, left_centre, left_slope),
        (right, right_middle, right_centre, right_slope),
    ) = edges
    return _Pieces(
        gaps.points,
        start,
        low=jnp.stack([left_middle, left, right]),
        high=jnp.stack([left, right, right_middle]),
        centre=jnp.stack([left_centre, gaps.points, right_centre]),
        slope=jnp.stack([left_slope, jnp.full(n, end / start), right_slope]),
    )


def mean_square_error(gaps: Gaps, sigma: Array) -> Float[Array, ""]:
    """`E |D(u, sigma) - x_0|^2` of the piecewise-linear denoiser under the exact law, in closed form."""
    pieces = _pieces(gaps, sigma, jnp.zeros_like(sigma))
    own = pieces.moment(2, about=gaps.points[:, None, None])
    return jnp.sum(jnp.mean(own, axis=0))


def legendre(length: Float[Array, " m"]) -> tuple[Float[Array, "nodes m"], Float[Array, "nodes m"]]:
    """Gauss-Legendre nodes and weights on `[0, length]`."""
    nodes, weights = np.polynomial.legendre.leggauss(NUM_NODES)
    nodes, weights = (jnp.asarray(x, length.dtype)[:, None] for x in (nodes, weights))
    half = 0.5 * length[None]
    return half * (1 + nodes), half * weights


def nodes_towards_zero(
    length: Float[Array, " m"], scale: Float[Array, " m"]
) -> tuple[Float[Array, "nodes m"], Float[Array, "nodes m"]]:
    """Nodes and weights on `[0, length]` for functions that bend within `scale` of 0.

    Gauss-Legendre in `asinh(x / scale)`.
    """
    v, weights = legendre(jnp.arcsinh(length / scale))
    return scale[None] * jnp.sinh(v), weights * scale[None] * jnp.cosh(v)
