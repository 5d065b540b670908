"""A denoiser averaged over a box, in closed form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._checks import RealScalar, require_positive_scalar
from ..._kinds import checks_kinds
from .._base import AbstractDenoiser, AbstractPosteriorDenoiser, in_dtype_of
from .._compiled import one_program
from .._empirical.empirical import EmpiricalDenoiser
from .source import as_denoiser


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
        base = as_denoiser(source)
        if not isinstance(base, AbstractPosteriorDenoiser) or base.dim != 1:
            given = getattr(base, "dim", None)
            raise ValueError(
                "`source` must be points of shape (n, 1), or a one-dimensional denoiser with a log density; got "
                f"{type(source).__name__}{'' if given is None else f' of dimension {given}'}. "
                "For data on a line in R^d, wrap the result in LineDenoiser."
            )
        self.base, self.width = base, in_dtype_of(base, require_positive_scalar(width, "width"))

    @property
    def dim(self) -> int:
        return 1

    @one_program
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
