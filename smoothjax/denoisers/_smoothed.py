"""Smoothed denoisers: tempered, averaged over a box or over Gaussian perturbations, blind to the noise level."""

import math
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import RealScalar, as_float_array, as_positive_integer, is_concrete, require_positive
from ._base import AbstractDenoiser, AbstractPosteriorDenoiser, Denoiser
from ._empirical import EmpiricalDenoiser
from ._piecewise_linear import as_gaps


def _as_denoiser(source: Any) -> Denoiser:
    """A denoiser as it is; anything else as the training set of an `EmpiricalDenoiser`."""
    return source if callable(source) else EmpiricalDenoiser(source)  # pyright: ignore[reportReturnType]


def _dim_of(base: Any, dim: int | None) -> int:
    if dim is not None:
        return as_positive_integer(dim, "dim")
    if isinstance(base, AbstractDenoiser):
        return base.dim
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
        >>> sj.TemperedDenoiser(jnp.array([[-1.0], [1.0]]), 2.0)(jnp.array([1.0]), 1.0)  # tanh(1 / 2)
        Array([0.46211717], dtype=float32)
    """

    base: Denoiser
    temperature: Float[Array, ""]
    _dim: int = eqx.field(static=True)

    def __init__(self, source: Any, temperature: RealScalar, *, dim: int | None = None):
        self.base = _as_denoiser(source)
        self.temperature = _positive_scalar(temperature, "temperature")
        self._dim = _dim_of(self.base, dim)

    @property
    def dim(self) -> int:
        return self._dim

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        return self.base(u, sigma * jnp.sqrt(self.temperature).astype(u.dtype))


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
    """

    base: AbstractPosteriorDenoiser
    width: Float[Array, ""]

    def __init__(self, source: Any, width: RealScalar):
        base = _as_denoiser(source)
        if not isinstance(base, AbstractPosteriorDenoiser) or base.dim != 1:
            given = getattr(base, "dim", None)
            raise ValueError(
                "`source` must be points of shape (n, 1), or a one-dimensional denoiser with a log density; got "
                f"{type(source).__name__}{'' if given is None else f' of dimension {given}'}. "
                "For data on a line in R^d, wrap the result in LineDenoiser."
            )
        self.base, self.width = base, _positive_scalar(width, "width")

    @property
    def dim(self) -> int:
        return 1

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        width = self.width.astype(u.dtype)
        difference = self.base.log_density(u + width, sigma) - self.base.log_density(
            u - width, sigma
        )
        by_difference = u + sigma**2 * difference / (2 * width)
        nodes, weights = (jnp.asarray(x, u.dtype) for x in np.polynomial.legendre.leggauss(20))
        values = jax.vmap(lambda x: self.base(u + width * x, sigma))(nodes)
        # tr Cov(x_0) bounds how fast D bends: its poles are pi sigma^2 / 2h away from the line.
        spread = jnp.sqrt(jnp.trace(self.base.mean_and_covariance()[1]))
        is_narrow = width * spread < 0.25 * sigma**2
        return jnp.where(is_narrow, 0.5 * weights @ values, by_difference)


class GaussianSmoothedDenoiser(AbstractDenoiser):
    r"""A denoiser averaged over Gaussian perturbations of its input: `E D(u + s e, sigma)`, as in sigma-CFDM.

    By fixed draws `e_m`, the same for every call, so that a trajectory follows one smooth field. With a finite number of
    draws
    and at zero noise the field is piecewise constant: trajectories end on barycentres of as many training points, see
    `barycentre`; a constant perturbation makes no continuum.

    Args:
        source: training points, shape (n, d), or any denoiser.
        smoothing: standard deviation s of the perturbation, a coordinate, in data units.
        num_samples: draws M.
        key: of the draws.
        antithetic: draw pairs `+e, -e` (an even M): exact for an affine denoiser.
        dim: dimension of a bare callable.

    Source: Scarvelis, Borde and Solomon, "Closed-form diffusion models", 2023.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianSmoothedDenoiser(jnp.array([[-1.0], [1.0]]), 0.5, 4, jax.random.key(0), antithetic=True)
        >>> D(jnp.zeros(1), 0.1)
        Array([0.], dtype=float32)
    """

    base: Denoiser
    smoothing: Float[Array, ""]
    draws: Float[Array, "m d"]
    antithetic: bool = eqx.field(static=True)

    def __init__(
        self,
        source: Any,
        smoothing: RealScalar,
        num_samples: int,
        key: PRNGKeyArray,
        *,
        antithetic: bool = False,
        dim: int | None = None,
    ):
        self.base = _as_denoiser(source)
        self.smoothing = _positive_scalar(smoothing, "smoothing")
        num, d = as_positive_integer(num_samples, "num_samples"), _dim_of(self.base, dim)
        if antithetic and num % 2:
            raise ValueError(f"`num_samples` must be even for antithetic pairs; got {num}.")
        dtype = self.smoothing.dtype
        if isinstance(self.base, EmpiricalDenoiser):
            dtype = self.base.data.dtype
        draws = jax.random.normal(key, (num // 2 if antithetic else num, d), dtype)
        self.draws = jnp.concatenate([draws, -draws]) if antithetic else draws
        self.antithetic = antithetic

    @property
    def dim(self) -> int:
        return self.draws.shape[1]

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        return jnp.mean(self._each(u, sigma), axis=0)

    def mean_and_standard_error(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """The denoiser, and its Monte Carlo standard error as an estimate of the average over all perturbations.

        NaN for a single draw or pair.
        """
        values = self._each(u, sigma)
        if self.antithetic:
            values = jnp.mean(values.reshape(2, -1, self.dim), axis=0)
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
            return jnp.argmin(jnp.sum((data - perturbed) ** 2, axis=1))

        indices = jax.lax.map(nearest, u + self.smoothing * self.draws)
        return jnp.mean(data[indices], axis=0), indices

    def _each(self, u: Any, sigma: Any) -> Float[Array, "m d"]:
        u, sigma = self._point(u, sigma)
        perturbed = u + (self.smoothing * self.draws).astype(u.dtype)
        return jax.vmap(lambda u: self.base(u, sigma))(perturbed)


class GaussianSmoothedLineDenoiser(AbstractDenoiser):
    r"""The exact denoiser of points on a line, averaged over all Gaussian perturbations: `E D(u + s e, sigma)`, no draws.

    Where D bends faster than the perturbation, `D(-inf) + integral D'(z) Phi((u - z) / s) dz` is summed over the bends, by
    Gauss-Legendre quadrature towards the middle of each gap; where it is smoother, Gauss-Hermite quadrature. Error below
    1e-9 of the data's range in float64.

    Args:
        points: distinct training points, shape (n,) or (n, 1).
        smoothing: standard deviation s of the perturbation, in data units.

    Source: sigma-CFDM with infinitely many draws; for two points at small noise, `erf(u / (s sqrt(2)))`.
    """

    points: Float[Array, " n"]
    smoothing: Float[Array, ""]

    def __init__(self, points: Any, smoothing: RealScalar):
        self.points = as_gaps(points, 0.0).points
        self.smoothing = _positive_scalar(smoothing, "smoothing")

    @property
    def dim(self) -> int:
        return 1

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        base, points = EmpiricalDenoiser(self.points[:, None]), self.points.astype(u.dtype)
        smoothing = self.smoothing.astype(u.dtype)
        half = 0.5 * jnp.diff(points)
        if half.shape[0] == 0:
            return jnp.broadcast_to(points, u.shape)
        nodes, weights = (jnp.asarray(x, u.dtype) for x in np.polynomial.hermite_e.hermegauss(60))
        values = jax.vmap(lambda x: base(u + smoothing * x, sigma))(nodes)
        by_hermite = weights @ values / math.sqrt(2 * math.pi)

        # Each gap owns what lies between its points, as far as D' reaches: it falls like exp(-|z - m| / scale) from the
        # middle, or like the noise.
        scale, middle = 0.5 * sigma**2 / half, 0.5 * (points[1:] + points[:-1])
        end = jnp.full(1, 12 * sigma)
        left, right = jnp.concatenate([end, 0 * half[1:]]), jnp.concatenate([0 * half[1:], end])
        low, high = (jnp.arcsinh(jnp.minimum((half + more) / scale, 40)) for more in (left, right))
        nodes, weights = (jnp.asarray(x, u.dtype) for x in np.polynomial.legendre.leggauss(160))
        v = 0.5 * (high - low) + 0.5 * (high + low) * nodes[:, None]
        z = middle + scale * jnp.sinh(v)
        measure = 0.5 * (high + low) * weights[:, None] * scale * jnp.cosh(v)
        variance = jax.vmap(lambda z: base.posterior_variance(z[None], sigma))(z.ravel())
        slope = variance.reshape(z.shape) / sigma**2
        step = jax.scipy.special.ndtr((u - z) / smoothing)
        by_parts = points[0] + jnp.sum(measure * slope * step)[None]
        return jnp.where(smoothing * jnp.max(half) < 0.5 * sigma**2, by_hermite, by_parts)


Prediction = Literal["score", "eps", "x0"]


class NoiseUnconditionedDenoiser(AbstractDenoiser):
    r"""What the best network learns that is not told the noise level.

    The training pair's level is drawn from `levels`; given `u` it is known only by its posterior, `pi_i p_i(u)`. The
    network's
    optimum is the mean of its target over that posterior: of the score `(x_0 - u) / sigma_i^2` (weighted by `sigma_i^2`,
    as the standard loss is), of `(x_0 - u) / sigma_i`, or of `x_0`. What it gives is then read as a denoiser at the
    level `sigma` that the sampler believes in.

    Args:
        source: training points, shape (n, d), or a denoiser with a log density.
        levels: noise levels, shape (m,).
        probabilities: of the levels, shape (m,); equal by default.
        prediction: what the network predicts.

    Source: the posterior over noise levels of a blind denoiser; with `prediction="score"` and an unweighted loss it
    would be the score of the mixture of all noisy laws.
    """

    base: AbstractPosteriorDenoiser
    levels: Float[Array, " m"]
    log_probabilities: Float[Array, " m"]
    prediction: Prediction = eqx.field(static=True)

    def __init__(
        self,
        source: Any,
        levels: Float[Array, " m"],
        probabilities: Float[Array, " m"] | None = None,
        *,
        prediction: Prediction = "eps",
    ):
        base = _as_denoiser(source)
        if not isinstance(base, AbstractPosteriorDenoiser):
            raise ValueError("`source` must be training points, or a denoiser with a log density.")
        if prediction not in get_args(Prediction):
            raise ValueError(
                f"`prediction` must be one of {get_args(Prediction)}; got {prediction!r}."
            )
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
        self.base, self.levels, self.prediction = base, levels, prediction
        self.log_probabilities = jax.nn.log_softmax(jnp.log(given))

    @property
    def dim(self) -> int:
        return self.base.dim

    def posterior(self, u: Float[Array, " d"]) -> Float[Array, " m"]:
        """Probability of every level given `u`, as the loss weighs it."""
        levels = self.levels.astype(u.dtype)
        log_density = jax.vmap(lambda s: self.base.log_density(u, s))(levels)
        weight = 2 * jnp.log(levels) if self.prediction == "score" else 0
        return jax.nn.softmax(self.log_probabilities + log_density + weight)

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        weights = self.posterior(u)
        levels = self.levels.astype(u.dtype)
        means = jax.vmap(lambda s: self.base(u, s))(levels)
        power = {"x0": 0, "eps": 1, "score": 2}[self.prediction]
        if power == 0:
            return weights @ means
        return u + (weights * (sigma / levels) ** power) @ (means - u)


def _positive_scalar(value: Any, name: str) -> Array:
    value = require_positive(value, name)
    if value.shape != ():
        raise ValueError(f"`{name}` must be a scalar; got shape {value.shape}.")
    return value
