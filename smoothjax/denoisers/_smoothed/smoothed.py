"""Smoothed denoisers: tempered, averaged over a box or over Gaussian perturbations, blind to the noise level."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._calls import Denoiser
from ..._checks import (
    RealScalar,
    as_float_array,
    as_key,
    as_points,
    as_positive_integer,
    is_concrete,
    require_positive,
)
from ..._kinds import checks_kinds
from ..._line import as_gaps
from ...parametrization import Prediction, affine_form, as_prediction
from .._base import (
    AbstractDenoiser,
    AbstractPosteriorDenoiser,
    in_dtype_of,
    level_for_slopes,
    mean_and_variance,
)
from .._empirical.empirical import EmpiricalDenoiser
from .._posterior.concentration import barycentres
from .._posterior.following import Followed, of_some
from .._posterior.product_logits import inner_products
from .perturbed import Perturbed, SharedProducts, perturbed_mean, shared_products

WEIGHTS_AT_ONCE = 2**22
# Where the denoiser's output moved no more than this between two levels, relative to the points' radius, it is found out
# whether it will move at all.
SLOW = 0.05


def _as_denoiser(source: Any) -> Denoiser:
    """A denoiser as it is; anything else as the training set of an `EmpiricalDenoiser`."""
    return source if callable(source) else EmpiricalDenoiser(as_points(source, "source"))  # pyright: ignore[reportReturnType]


def _dim_of(base: Any, dim: int | None) -> int:
    if isinstance(base, AbstractDenoiser):
        if dim not in (None, base.dim):
            raise ValueError(f"`dim` must be that of the denoiser, {base.dim}; got {dim}.")
        return base.dim
    if dim is not None:
        return as_positive_integer(dim, "dim")
    raise ValueError("`dim` is needed for a denoiser that does not know its dimension.")


class TemperedDenoiser(AbstractDenoiser):
    r"""The base denoiser at another temperature: `D(u, sigma sqrt(temperature))`.

    For a training set, posterior weights `exp(-|u - y_k|^2 / 2 T sigma^2)`. The score is T times that of the higher
    noise level.
    A constant temperature only relabels time: the flow from `r` to `s` is the base's from `r sqrt(T)` to `s sqrt(T)`,
    and memorises as exactly.

    Args:
        source: training points, shape (n, d), or any denoiser.
        temperature: positive; above one smooths.
        dim: dimension of a bare callable.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.TemperedDenoiser(jnp.array([[-1.0], [1.0]]), 2.0)(jnp.array([1.0]), 1.0).round(4))  # tanh(1 / 2)
        [0.4621]
    """

    base: Denoiser
    temperature: Float[Array, ""]
    _dim: int = eqx.field(static=True)

    @checks_kinds
    def __init__(self, source: Any, temperature: RealScalar, *, dim: int | None = None):
        self.base = _as_denoiser(source)
        self.temperature = in_dtype_of(self.base, _positive_scalar(temperature, "temperature"))
        self._dim = _dim_of(self.base, dim)

    @property
    def dim(self) -> int:
        return self._dim

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        return self.base(u, sigma * jnp.sqrt(self.temperature).astype(u.dtype))

    def mean_and_variance(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        u, sigma = self._point(u, sigma)
        temperature = self.temperature.astype(u.dtype)
        mean, variance = mean_and_variance(self.base, u, sigma * jnp.sqrt(temperature))
        return mean, variance / temperature


class BoxSmoothedDenoiser(AbstractDenoiser):
    r"""The exact denoiser of a law on a line, its score averaged over `[u - width, u + width]`.

    `D = u + sigma^2 (log p(u + w) - log p(u - w)) / 2w`, exactly. Between two points at +-h it tends to `clip(h u / w,
    -h, h)` at
    small noise: the piecewise-linear denoiser with plateaus of half width `h - w`. A constant width below h memorises; a
    width `h - kappa sigma` interpolates.

    Where the box is narrower than the denoiser's own bend, `sigma^2` over the law's spread, the difference of logarithms
    would cancel, and D is averaged by Gauss-Legendre quadrature instead, to rounding.

    Args:
        source: training points, shape (n, 1), or a denoiser in one dimension that knows its log density.
        width: half width w of the box, positive, in data units.

    Source: Chen, ICLR 2026 (local averages of the score).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.BoxSmoothedDenoiser(jnp.array([[-1.0], [1.0]]), 0.5)
        >>> [round(float(D(jnp.array([u]), 0.05)[0]), 3) for u in (0.0, 0.25, 0.75)]  # clip(u / 0.5, -1, 1)
        [0.0, 0.5, 1.0]
    """

    base: AbstractPosteriorDenoiser
    width: Float[Array, ""]

    @checks_kinds
    def __init__(self, source: Any, width: RealScalar):
        base = _as_denoiser(source)
        if not isinstance(base, AbstractPosteriorDenoiser) or base.dim != 1:
            given = getattr(base, "dim", None)
            raise ValueError(
                "`source` must be points of shape (n, 1), or a one-dimensional denoiser with a log density; got "
                f"{type(source).__name__}{'' if given is None else f' of dimension {given}'}. "
                "For data on a line in R^d, wrap the result in LineDenoiser."
            )
        self.base, self.width = base, in_dtype_of(base, _positive_scalar(width, "width"))

    @property
    def dim(self) -> int:
        return 1

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        width = self.width.astype(u.dtype)
        nodes, weights = (jnp.asarray(x, u.dtype) for x in np.polynomial.legendre.leggauss(20))
        values = jax.vmap(lambda x: self.base(u + width * x, sigma))(nodes)
        # tr Cov(x_0) bounds how fast D bends: its poles are pi sigma^2 / 2h away from the line.
        mean, covariance = self.base.mean_and_covariance()
        is_narrow = width * (jnp.sqrt(jnp.trace(covariance)) / sigma) < 0.25 * sigma
        if isinstance(self.base, EmpiricalDenoiser):
            # Beyond the points there is no bend: these are halfway between two of them.
            first, last = jnp.min(self.base.data), jnp.max(self.base.data)
            is_narrow |= jnp.any(jnp.maximum(first - u, u - last) > 2 * width)
        # The box as it is rounded; another one where the difference is not taken, and could overflow.
        at = jnp.where(is_narrow, mean.astype(u.dtype), u)
        high, low = at + width, at - width
        difference = self.base.log_density(high, sigma) - self.base.log_density(low, sigma)
        by_difference = 0.5 * (high + low) + (sigma * difference) * (sigma / (high - low))
        return jnp.where(is_narrow, 0.5 * weights @ values, by_difference)


Draws = Literal["independent", "antithetic", "quasi"]
NUM_NETS = 8


class GaussianSmoothedDenoiser(AbstractDenoiser):
    r"""A denoiser averaged over Gaussian perturbations of its input: `E D(u + s e, sigma)`, as in sigma-CFDM.

    By fixed draws `e_m`, the same for every call, so that a trajectory follows one smooth field. With a finite number of
    draws and at zero noise the field is piecewise constant: trajectories end on barycentres of as many training points,
    see `barycentre`; a constant perturbation makes no continuum.

    Of an `EmpiricalDenoiser` the draws share their products, which are kept if they are no larger than the training set
    (M up to d): a query costs one product with the points, and M exponentials for each point that can matter to it, in
    place of M calls.

    Args:
        source: training points, shape (n, d), or any denoiser.
        smoothing: standard deviation s of the perturbation, a coordinate, in data units.
        num_samples: draws M.
        key: of the draws. For `"quasi"` its value must be known: not traced.
        draws: `"independent"`; `"antithetic"`, pairs `+e, -e` (an even M): exact for an affine denoiser; or `"quasi"`, eight
            independently scrambled Sobol nets of M / 8 points (best a power of two) in at most 21201 dimensions: an error
            that falls faster than `1 / sqrt(M)` where D is smooth on the scale s, in few dimensions or nearly additive.
        dim: dimension of a bare callable.

    Raises:
        ValueError: for a smoothing that is not positive; an M that does not fit the draws; `"quasi"` with a traced key or
            in too many dimensions; a bare callable without `dim`.

    Source: Scarvelis, Borde and Solomon, "Closed-form diffusion models", 2023. Scrambled nets: Owen, "Scrambled net variance
    for integrals of smooth functions", 1997.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianSmoothedDenoiser(jnp.array([[-1.0], [1.0]]), 0.5, 4, jax.random.key(0), draws="antithetic")
        >>> print(D(jnp.zeros(1), 0.1))
        [0.]
    """

    base: Denoiser
    smoothing: Float[Array, ""]
    perturbations: Float[Array, "m d"]
    """The draws `e_m`, in units of `smoothing`."""
    draws: Draws = eqx.field(static=True)
    _shared: SharedProducts | None

    @checks_kinds
    def __init__(
        self,
        source: Any,
        smoothing: RealScalar,
        num_samples: int,
        key: PRNGKeyArray,
        *,
        draws: Draws = "independent",
        dim: int | None = None,
    ):
        self.base = _as_denoiser(source)
        self.smoothing = in_dtype_of(self.base, _positive_scalar(smoothing, "smoothing"))
        num, d = as_positive_integer(num_samples, "num_samples"), _dim_of(self.base, dim)
        self.draws = draws
        self.perturbations = _perturbations(draws, as_key(key), num, d, self.smoothing.dtype)
        self._shared = None
        # As large as the points at most.
        if isinstance(self.base, EmpiricalDenoiser) and num <= d:
            moves = self.smoothing * self.perturbations
            self._shared = shared_products(self.base._points, moves)

    @property
    def dim(self) -> int:
        return self.perturbations.shape[1]

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        if isinstance(self.base, EmpiricalDenoiser):
            u, sigma = self._point(u, sigma)
            moves = (self.smoothing * self.perturbations).astype(u.dtype)
            at, levels = jax.vmap(self.base._query, (0, None))(u[None] + moves, sigma)
            u, moves, sigma = u.astype(at.dtype), moves.astype(at.dtype), jnp.max(levels)
            shared = self._shared
            # Products of narrower numbers are not precise enough, and of as many points and perturbations as there were.
            shapes = (moves.shape, self.base.data.shape[0], at.dtype)
            if shared is not None and shapes != shared.shapes:
                shared = None
            set_ = Perturbed(self.base._points, moves, shared)
            return self.base._points.centre + perturbed_mean(set_, u, sigma)
        return jnp.mean(self._each(self.base, u, sigma), axis=0)

    def mean_and_variance(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        means, variances = self._each(functools.partial(mean_and_variance, self.base), u, sigma)
        return jnp.mean(means, axis=0), jnp.mean(variances)

    def mean_and_standard_error(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """The denoiser, and its Monte Carlo standard error as an estimate of the average over all perturbations.

        From the spread of the draws; of the pairs; of the eight nets' means, with seven degrees of freedom. NaN for a single
        draw or pair.
        """
        values = self._each(self.base, u, sigma)
        if self.draws == "antithetic":
            values = jnp.mean(values.reshape(2, -1, self.dim), axis=0)
        elif self.draws == "quasi":
            values = jnp.mean(values.reshape(NUM_NETS, -1, self.dim), axis=1)
        num = values.shape[0]
        if num == 1:
            return values[0], jnp.full_like(values[0], jnp.nan)
        return jnp.mean(values, axis=0), jnp.std(values, axis=0, ddof=1) / math.sqrt(num)

    def barycentre(self, u: Float[Array, " d"]) -> tuple[Float[Array, " d"], Int[Array, " m"]]:
        """The field at zero noise: the mean of the training points nearest to the perturbed `u`, and their indices.

        Raises:
            ValueError: unless the base is an `EmpiricalDenoiser`.
        """
        if not isinstance(self.base, EmpiricalDenoiser):
            raise ValueError(
                "`barycentre` needs the training points: a base that is an EmpiricalDenoiser."
            )
        data = self.base.data
        u = as_float_array(u, "u")

        def nearest(perturbed: Array) -> Array:
            return jnp.argmin(jnp.sum((data - perturbed[None]) ** 2, axis=1))

        indices = jax.lax.map(nearest, u[None] + self.smoothing * self.perturbations)
        return jnp.mean(data[indices], axis=0), indices

    def followed_to(self, end: Array) -> Followed:
        """What `smoothjax.replay` asks of samples on their way to noise level `end`: means, and when an end is certain."""
        if not isinstance(self.base, EmpiricalDenoiser):
            raise ValueError(
                f"`denoiser` must smooth an EmpiricalDenoiser; got one of {type(self.base).__name__}."
            )
        data, set_ = self.base.data, self.base._points
        moves = (self.smoothing * self.perturbations).astype(data.dtype)
        along = inner_products(set_.points - set_.centre[None], moves)

        def call(u: Array, sigma: Array, open_: Array) -> tuple[Array, Array]:
            mean = of_some(jax.vmap(lambda u: self(u, sigma)), u, open_, jnp.zeros_like(u))
            return mean, mean

        def ends(mean: Array, u: Array, sigma: Array, previous: Array, open_: Array):
            moved = jnp.linalg.norm(mean - previous, axis=1)
            slow = open_ & (moved <= SLOW * set_.radius)
            rows = jnp.full((len(u), len(moves)), -1, jnp.int32)
            nothing = (jnp.zeros_like(open_), jnp.zeros_like(u), rows)

            def of_group(u: Array) -> tuple[Array, Array, Array]:
                found = barycentres(set_, moves, along, u, sigma, end)
                return found.stays, found.point, found.rows

            return of_some(of_group, u, slow, nothing)

        return Followed(
            call, ends, lambda points: jnp.full((len(points), len(moves)), -1, jnp.int32)
        )

    def _each(self, function: Callable[[Array, Array], Any], u: Any, sigma: Any) -> Any:
        """`function(u, sigma)` at every perturbed point."""
        u, sigma = self._point(u, sigma)
        perturbed = u[None] + (self.smoothing * self.perturbations).astype(u.dtype)
        return jax.vmap(lambda u: function(u, sigma))(perturbed)


def _perturbations(draws: Draws, key: PRNGKeyArray, num: int, d: int, dtype: Any) -> Array:
    """Standard normal draws, shape (num, d)."""
    if draws == "independent":
        return jax.random.normal(key, (num, d), dtype)
    if draws == "antithetic":
        if num % 2:
            raise ValueError(f"`num_samples` must be even for antithetic pairs; got {num}.")
        half = jax.random.normal(key, (num // 2, d), dtype)
        return jnp.concatenate([half, -half])
    if draws == "quasi":
        return jnp.asarray(_scrambled_nets(key, num, d), dtype)
    raise ValueError(f"`draws` must be one of {get_args(Draws)}; got {draws!r}.")


def _scrambled_nets(key: PRNGKeyArray, num: int, d: int) -> np.ndarray:
    """Independently scrambled Sobol nets, one after the other, taken to the normal law."""
    from scipy.special import ndtri
    from scipy.stats import qmc

    if not is_concrete(key):
        raise ValueError(
            '`key` must be concrete for draws="quasi", which SciPy makes; it is traced. Build the '
            "denoiser outside of jax.jit and jax.vmap, and pass it in."
        )
    if num % NUM_NETS:
        raise ValueError(
            f"`num_samples` must be a multiple of {NUM_NETS} for quasi-random nets; got {num}."
        )
    if d > qmc.Sobol.MAXDIM:
        raise ValueError(
            f'draws="quasi" knows Sobol points in at most {qmc.Sobol.MAXDIM} dimensions; got {d}.'
        )
    with jax.ensure_compile_time_eval():
        entropy = np.asarray(jax.random.key_data(key)).ravel().tolist()
    size, bits = num // NUM_NETS, 30
    nets = []
    for seed in np.random.SeedSequence(entropy).spawn(NUM_NETS):
        # The argument's name before SciPy 1.15, which every version takes.
        rng: Any = {"seed": np.random.default_rng(seed)}
        sobol = qmc.Sobol(d, scramble=True, bits=bits, **rng)
        # The first points of a net of 2^k; asked for another number at once, SciPy would warn.
        nets.append(sobol.random_base2((size - 1).bit_length())[:size])
    # From the lower corner of the cells of the scrambled digits to their middle: never 0, where the quantile is infinite.
    return ndtri(np.concatenate(nets) + 0.5 ** (bits + 1))


class GaussianSmoothedLineDenoiser(AbstractDenoiser):
    r"""The exact denoiser of points on a line, averaged over all Gaussian perturbations: `E D(u + s e, sigma)`, no draws.

    By Gauss-Legendre quadrature on panels graded towards the middles of the gaps; by Gauss-Hermite quadrature where D is
    smooth on the scale of the perturbation. Error in float64, measured over perturbations and unequal gaps: below 1e-12 of
    the data's range at noise levels down to 1e-4 of it, 1e-10 down to 1e-6; and a rounding of `u / s` for very small s.

    Args:
        points: distinct training points, shape (n,) or (n, 1). A call costs O(n^2): for thousands, take
            `GaussianSmoothedDenoiser`.
        smoothing: standard deviation s of the perturbation, in data units.

    Source: sigma-CFDM with infinitely many draws; for two points at small noise, `erf(u / (s sqrt(2)))`.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianSmoothedLineDenoiser(jnp.array([-1.0, 1.0]), 0.5)
        >>> print(D(jnp.array([0.5]), 1e-3).round(3))  # erf(1 / sqrt(2))
        [0.683]
    """

    points: Float[Array, " n"]
    smoothing: Float[Array, ""]

    @checks_kinds
    def __init__(self, points: Any, smoothing: RealScalar):
        self.points = as_gaps(points, 0.0).points
        smoothing = _positive_scalar(smoothing, "smoothing")
        self.smoothing = smoothing.astype(self.points.dtype)

    @property
    def dim(self) -> int:
        return 1

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        points = self.points.astype(u.dtype)
        smoothing = self.smoothing.astype(u.dtype)
        half = 0.5 * jnp.diff(points)
        if half.shape[0] == 0:
            return jnp.broadcast_to(points, u.shape)
        nodes, weights = (jnp.asarray(x, u.dtype) for x in np.polynomial.hermite_e.hermegauss(60))
        # Averaged from a training point on: weights that sum to one to rounding would move data far from the origin.
        origin = points[points.shape[0] // 2]
        reach = 2 * jnp.max(jnp.abs(u)) + 16 * smoothing
        level = level_for_slopes(points[-1] - points[0], reach + jnp.max(jnp.abs(points)), sigma)
        values = _mean_on_line(points, u + smoothing * nodes, level) - origin
        by_hermite = origin + (weights @ values / math.sqrt(2 * math.pi))[None]
        # Where no perturbation that matters reaches the points there is no bend, and no panels are needed.
        first, last = points[0] - 9 * smoothing, points[-1] + 9 * smoothing
        is_beyond = (u < first) | (u > last)
        u = jnp.clip(u, first, last)

        # The poles of D lie about pi `bend` above and below the middles of the gaps. Panels end where they are nearest, and
        # nodes crowd there: in the inner half of a gap at its middle, as narrowly as D bends; in the outer quarters, and
        # beyond the ends, at the middle of the next gap, as narrowly as that is wide.
        # Which panels they are does not change the integral: no derivatives of theirs.
        middle, noise = 0.5 * (points[1:] + points[:-1]), jax.lax.stop_gradient(sigma)
        bend = 0.5 * noise**2 / half
        # At small noise the crowd reaches over many powers of ten: two panels share them.
        between = jnp.minimum(jnp.sqrt(bend * jnp.minimum(half, smoothing)), 0.25 * half)
        offsets = jnp.stack([-half, -0.5 * half, -between, 0 * half, between, 0.5 * half], axis=1)
        edges = jnp.append((middle[:, None] + offsets).ravel(), points[-1])
        centre = _of_panels(middle, middle)
        scale = _of_panels(half, bend)
        breaks = jnp.array([-8.0, -4.0, 0.0, 4.0, 8.0], u.dtype)  # of the perturbation
        ends = u + smoothing * breaks
        ends = jnp.sort(jnp.concatenate([jnp.clip(edges, ends[0], ends[-1]), ends]))
        panel = jnp.searchsorted(edges, 0.5 * (ends[1:] + ends[:-1]))
        centre, scale = centre[panel], scale[panel]
        low, high = (jnp.arcsinh((z - centre) / scale) for z in (ends[:-1], ends[1:]))
        nodes, weights = (jnp.asarray(x, u.dtype) for x in np.polynomial.legendre.leggauss(32))
        v = (0.5 * (high + low))[None] + (0.5 * (high - low))[None] * nodes[:, None]
        z = centre[None] + scale[None] * jnp.sinh(v)
        measure = (0.5 * (high - low))[None] * weights[:, None] * scale[None] * jnp.cosh(v)
        measure *= jnp.exp(-0.5 * ((z - u[None]) / smoothing) ** 2)
        total = jnp.sum(measure)
        resolved = total > 0  # else the perturbation is below a rounding of u
        values = _mean_on_line(points, z, level) - origin
        by_panels = (origin + jnp.sum(measure * values) / jnp.where(resolved, total, 1))[None]
        is_smooth = smoothing < 0.25 * jnp.min(bend)
        return jnp.where(is_smooth | is_beyond | ~resolved, by_hermite, by_panels)


def _mean_on_line(points: Array, z: Array, sigma: Array) -> Array:
    """Posterior mean of sorted points on a line at the numbers `z`, from differences to the nearest point."""

    def at(z: Array) -> Array:
        nearest = points[jnp.searchsorted(0.5 * (points[1:] + points[:-1]), z)]
        difference = points - nearest
        logits = (z - 0.5 * (points + nearest)) * difference / sigma / sigma
        return nearest + jnp.sum(jax.nn.softmax(logits) * difference)

    # Many points have many panels: some megabytes of weights at a time.
    batch_size = max(1, WEIGHTS_AT_ONCE // points.shape[0])
    if z.size <= batch_size:
        return jax.vmap(at)(z.ravel()).reshape(z.shape)
    return jax.lax.map(at, z.ravel(), batch_size=batch_size).reshape(z.shape)


def _of_panels(outer: Array, inner: Array) -> Array:
    """What panels take from gaps: the inner half from its own, the outer quarters and the ends from the next."""
    left, right = jnp.append(outer[:1], outer[:-1]), jnp.append(outer[1:], outer[-1:])
    inside = jnp.stack([left, *4 * [inner], right], axis=1).ravel()
    return jnp.concatenate([outer[:1], inside, outer[-1:]])


class NoiseUnconditionedDenoiser(AbstractDenoiser):
    r"""What the best network learns that is not told the noise level.

    The training pair's level is drawn from `levels`; given `u` it is known only by its posterior, `pi_i p_i(u)`. The
    network's
    optimum is the mean of its target over that posterior: of the score `(x_0 - u) / sigma_i^2` (weighted by `sigma_i^2`,
    as the standard loss is), of the noise `(u - x_0) / sigma_i`, or of `x_0`, v or the velocity. What it gives is then
    read as a denoiser at the level `sigma` that the sampler believes in.

    Args:
        source: training points, shape (n, d), or a denoiser with a log density.
        levels: noise levels, shape (m,).
        probabilities: of the levels, shape (m,); equal by default.
        prediction: what the network predicts, see `parametrization.to_denoised`.

    Source: the posterior over noise levels of a blind denoiser; with `prediction="score"` and an unweighted loss it
    would be the score of the mixture of all noisy laws.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> law = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
        >>> D = sj.NoiseUnconditionedDenoiser(law, jnp.array([1.0]))
        >>> print(D(jnp.array([3.0]), 1.0).round(5))  # with a single level nothing is unknown
        [1.5]
    """

    base: AbstractPosteriorDenoiser
    levels: Float[Array, " m"]
    log_probabilities: Float[Array, " m"]
    prediction: Prediction = eqx.field(static=True)

    @checks_kinds
    def __init__(
        self,
        source: Any,
        levels: Any,
        probabilities: Float[Array, " m"] | None = None,
        *,
        prediction: Prediction = "eps",
    ):
        base = _as_denoiser(source)
        if not isinstance(base, AbstractPosteriorDenoiser):
            raise ValueError("`source` must be training points, or a denoiser with a log density.")
        prediction = as_prediction(prediction)
        levels = require_positive(levels, "levels")
        if levels.ndim != 1 or levels.shape[0] == 0:
            raise ValueError(f"`levels` must have shape (m,); got {levels.shape}.")
        given = jnp.ones_like(levels) if probabilities is None else probabilities
        given = as_float_array(given, "probabilities")
        if given.shape != levels.shape or (
            is_concrete(given) and not np.all(np.asarray(given) > 0)
        ):
            raise ValueError(
                f"`probabilities` must be positive, of shape {levels.shape}; got {given}."
            )
        self.base, self.levels, self.prediction = base, in_dtype_of(base, levels), prediction
        self.log_probabilities = in_dtype_of(base, jax.nn.log_softmax(jnp.log(given)))

    @property
    def dim(self) -> int:
        return self.base.dim

    def posterior(self, u: Float[Array, " d"]) -> Float[Array, " m"]:
        """Probability of every level given `u`, as the loss weighs it."""
        u = as_float_array(u, "u")
        levels = self.levels.astype(u.dtype)
        log_density = jax.vmap(lambda s: self.base.log_density(u, s))(levels)
        weight = 2 * jnp.log(levels) if self.prediction == "score" else 0
        prior = self.log_probabilities.astype(u.dtype)
        # So far away that no log density is finite, the largest level has the largest.
        lowest = jnp.finfo(u.dtype).min * (0.5 - 0.25 * levels / jnp.max(levels))
        is_finite = log_density > -jnp.inf
        total = jnp.where(is_finite, prior + jnp.where(is_finite, log_density, 0) + weight, lowest)
        return jax.nn.softmax(total)

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        weights = self.posterior(u)
        levels = self.levels.astype(u.dtype)
        means = jax.vmap(lambda s: self.base(u, s))(levels)
        skip, scale = affine_form(self.prediction, sigma)
        skips, scales = affine_form(self.prediction, levels)
        return skip * u + (weights * (scale / scales)) @ (means - skips[:, None] * u[None])


def _positive_scalar(value: Any, name: str) -> Array:
    value = require_positive(value, name)
    if value.shape != ():
        raise ValueError(f"`{name}` must be a scalar; got shape {value.shape}.")
    return value
