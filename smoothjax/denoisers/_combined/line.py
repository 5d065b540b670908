"""Data on a line in R^d: a denoiser along the line, projection normal to it."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._calls import Denoiser
from ..._checks import RealScalar, as_float_array, is_concrete, require_finite
from ..._kinds import checks_kinds
from .._base import AbstractDenoiser, in_dtype_of, mean_and_variance
from .._compiled import one_program


class LineDenoiser(AbstractDenoiser):
    r"""Denoiser of data on the line `offset + tau direction` in R^d, from a denoiser of the coordinate `tau`.

    `D(u) = b + D_1(tau) e` with `tau = (u - b) . e`: exact for the exact denoiser, and for every smoothing along the
    line. Noise normal to the line is removed altogether, so that the flow takes the normal part of a state to zero in
    proportion to the noise level, while along the line it is the flow of `D_1`.

    Args:
        tangent_denoiser: a denoiser in one dimension, e.g. `PiecewiseLinearDenoiser(points, kappa)`.
        direction: of the line, shape (d,), any length but zero.
        offset: a point b of the line, shape (d,), where `tau = 0`; the origin by default.

    Raises:
        ValueError: for a direction or offset that is not finite or of the wrong shape, or a direction of length zero.

    Source: Chen, ICLR 2026, section 5 (data on a line in R^d).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> along = sj.PiecewiseLinearDenoiser(jnp.array([-1.0, 1.0]), kappa=0.5)
        >>> D = sj.LineDenoiser(along, direction=jnp.array([0.0, 2.0]))
        >>> print(D(jnp.array([3.0, 0.25]), 1.0))
        [0.  0.5]
    """

    tangent_denoiser: Denoiser
    direction: Float[Array, " d"]
    offset: Float[Array, " d"]

    @checks_kinds
    def __init__(self, tangent_denoiser: Denoiser, direction: Any, offset: Any = None):
        direction = in_dtype_of(tangent_denoiser, as_float_array(direction, "direction"))
        if direction.ndim != 1 or direction.shape[0] == 0:
            raise ValueError(f"`direction` must have shape (d,); got {direction.shape}.")
        require_finite(direction, "direction")
        if is_concrete(direction) and not np.any(np.asarray(direction)):
            raise ValueError("`direction` must not be zero.")
        if getattr(tangent_denoiser, "dim", 1) != 1:
            raise ValueError(
                f"`tangent_denoiser` must have one dimension; got {getattr(tangent_denoiser, 'dim')}."  # noqa: B009
            )
        # The largest entry first, so that no square over- or underflows.
        direction = direction / jnp.max(jnp.abs(direction))
        self.tangent_denoiser = tangent_denoiser
        self.direction = direction / jnp.linalg.norm(direction)
        offset = jnp.zeros_like(direction) if offset is None else as_float_array(offset, "offset")
        if offset.shape != direction.shape:
            raise ValueError(f"`offset` must have shape {direction.shape}; got {offset.shape}.")
        require_finite(offset, "offset")
        self.offset = offset.astype(direction.dtype)

    @property
    def dim(self) -> int:
        return self.direction.shape[0]

    def decompose(self, u: Float[Array, " d"]) -> tuple[Float[Array, ""], Float[Array, " d"]]:
        """Coordinate of `u` along the line, and the rest of `u - offset`, normal to it."""
        shifted = u - self.offset
        tau = jnp.dot(shifted, self.direction, precision="highest")
        return tau, shifted - tau * self.direction

    @one_program
    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        tau, _ = self.decompose(u)
        return self.offset + self.tangent_denoiser(tau[None], sigma)[0] * self.direction

    def mean_and_variance(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        u, sigma = self._point(u, sigma)
        tau, _ = self.decompose(u)
        mean, variance = mean_and_variance(self.tangent_denoiser, tau[None], sigma)
        return self.offset + mean[0] * self.direction, variance
