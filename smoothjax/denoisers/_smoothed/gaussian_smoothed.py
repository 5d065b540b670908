"""Denoisers averaged over Gaussian perturbations of their input."""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._calls import Denoiser
from ..._checks import (
    RealScalar,
    as_float_array,
    as_key,
    as_positive_integer,
    require_positive_scalar,
)
from ..._kinds import checks_kinds
from .._base import (
    AbstractDenoiser,
    in_dtype_of,
    mean_and_variance,
)
from .._empirical.empirical import EmpiricalDenoiser
from .._posterior.concentration import barycentres
from .._posterior.following import Followed, of_some
from .._posterior.product_logits import inner_products
from .draws import NUM_NETS, Draws, draw_perturbations
from .perturbed import Perturbed, SharedProducts, perturbed_mean, shared_products
from .source import as_denoiser, dim_of

# Where the denoiser's output moved no more than this between two levels, relative to the points' radius, it is found out
# whether it will move at all.
SLOW = 0.05


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
        self.base = as_denoiser(source)
        self.smoothing = in_dtype_of(self.base, require_positive_scalar(smoothing, "smoothing"))
        num, d = as_positive_integer(num_samples, "num_samples"), dim_of(self.base, dim)
        self.draws = draws
        self.perturbations = draw_perturbations(draws, as_key(key), num, d, self.smoothing.dtype)
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
