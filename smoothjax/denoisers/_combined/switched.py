"""One denoiser at high noise levels, another at low ones."""

from typing import Any

import jax
from jaxtyping import Array, Float

from ..._calls import Denoiser
from ..._checks import RealScalar, require_positive
from ..._jax.branches import chosen
from ..._kinds import checks_kinds
from .._base import AbstractDenoiser, in_dtype_of, mean_and_variance


class SwitchedDenoiser(AbstractDenoiser):
    """`above` where the noise level exceeds `level`, else `below`.

    To ask which noise levels a mechanism needs: smoothing, say, that sets in late. The flow is continuous, with a bend.

    Args:
        above, below: denoisers of one dimension, at least one of which knows it.
        level: noise level of the switch, positive, in data units.

    Raises:
        ValueError: for denoisers of different dimensions, or where neither knows its dimension.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> points = jnp.array([-1.0, 1.0])
        >>> smoothed = sj.PiecewiseLinearDenoiser(points, 0.5)
        >>> D = sj.SwitchedDenoiser(sj.EmpiricalDenoiser(points[:, None]), smoothed, 0.2)
        >>> D(jnp.array([0.5]), 0.1) == smoothed(jnp.array([0.5]), 0.1)
        Array([ True], dtype=bool)
    """

    above: Denoiser
    below: Denoiser
    level: Float[Array, ""]

    @checks_kinds
    def __init__(self, above: Denoiser, below: Denoiser, level: RealScalar):
        for name, given in (("above", above), ("below", below)):
            if not callable(given):
                raise ValueError(f"`{name}` must be a denoiser; got {type(given).__name__}.")
        dims = {d.dim for d in (above, below) if isinstance(d, AbstractDenoiser)}
        if len(dims) != 1:
            raise ValueError(
                f"`above` and `below` must have one dimension, known to one of them; got {sorted(dims)}."
            )
        self.above, self.below = above, below
        level = require_positive(level, "level")
        if level.shape != ():
            raise ValueError(f"`level` must be a scalar; got shape {level.shape}.")
        known = above if isinstance(above, AbstractDenoiser) else below
        self.level = in_dtype_of(known, level)

    @property
    def dim(self) -> int:
        return next(d.dim for d in (self.above, self.below) if isinstance(d, AbstractDenoiser))

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        return self._choose(lambda denoiser, u, sigma: denoiser(u, sigma), u, sigma)

    def mean_and_variance(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        return self._choose(mean_and_variance, u, sigma)

    def _choose(self, function: Any, u: Any, sigma: Any) -> Any:
        u, sigma = self._point(u, sigma)

        def of(k: int) -> Any:
            value = lambda at: function(at[0][k], *at[1:])  # noqa: E731
            return lambda at: jax.tree.map(lambda x: x.astype(u.dtype), value(at))

        index = sigma > self.level.astype(u.dtype)
        return chosen(index, [of(0), of(1)], ((self.below, self.above), u, sigma))
