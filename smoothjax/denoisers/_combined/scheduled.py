"""A denoiser for every range of noise levels."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._calls import Denoiser
from ..._checks import RealScalar, is_concrete, require_positive
from ..._jax.branches import chosen
from ..._kinds import checks_kinds
from .._base import AbstractDenoiser, in_dtype_of, mean_and_variance


class ScheduledDenoiser(AbstractDenoiser):
    """`denoisers[k]` for noise levels above `levels[k - 1]` and up to `levels[k]`.

    For a patch size that grows with the noise level; `calibrate_patch_size` chooses one. With two denoisers this is
    `SwitchedDenoiser`. Give a batch one noise level (`in_axes=(0, None)`): with one for each query, all denoisers are
    computed for all of them.

    Args:
        denoisers: of one dimension, at least one of which knows it, in the order of rising noise levels.
        levels: noise levels of the switches, positive and strictly increasing, one fewer than denoisers; shape (k,).

    Raises:
        ValueError: for an empty sequence, denoisers of different dimensions or none that knows it, or levels that are not as
            above.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> images = jax.random.normal(jax.random.key(0), (10, 8, 8))
        >>> sizes = [sj.LocalDenoiser(images, size) for size in (3, 5, 15)]
        >>> D = sj.ScheduledDenoiser(sizes, jnp.array([0.3, 2.0]))
        >>> bool(jnp.all(D(jnp.ones(64), 1.0) == sizes[1](jnp.ones(64), 1.0)))
        True
    """

    denoisers: tuple[Denoiser, ...]
    levels: Float[Array, " k"]

    @checks_kinds
    def __init__(self, denoisers: Sequence[Denoiser], levels: Any):
        self.denoisers = tuple(denoisers)
        if not self.denoisers or not all(map(callable, self.denoisers)):
            raise ValueError(f"`denoisers` must be one denoiser or more; got {denoisers!r}.")
        known = [d for d in self.denoisers if isinstance(d, AbstractDenoiser)]
        dims = {d.dim for d in known}
        if len(dims) != 1:
            raise ValueError(
                f"`denoisers` must have one dimension, known to one of them; got {sorted(dims)}."
            )
        levels = require_positive(levels, "levels")
        if levels.shape != (len(self.denoisers) - 1,):
            raise ValueError(
                f"`levels` must have shape ({len(self.denoisers) - 1},), one fewer than denoisers; got {levels.shape}."
            )
        if is_concrete(levels) and not np.all(np.asarray(levels[:-1] < levels[1:])):
            raise ValueError(f"`levels` must increase strictly; got {levels}.")
        self.levels = in_dtype_of(known[0], levels)

    @property
    def dim(self) -> int:
        return next(d.dim for d in self.denoisers if isinstance(d, AbstractDenoiser))

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

        index = jnp.sum(sigma > self.levels.astype(u.dtype))
        return chosen(
            index, [of(k) for k in range(len(self.denoisers))], (self.denoisers, u, sigma)
        )
