"""One denoiser at high noise levels, another at low ones."""

from jaxtyping import Array, Float

from ..._calls import Denoiser
from ..._checks import RealScalar, require_positive_scalar
from ..._kinds import checks_kinds
from .._base import AbstractDenoiser
from .scheduled import ScheduledDenoiser


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

    _schedule: ScheduledDenoiser

    @checks_kinds
    def __init__(self, above: Denoiser, below: Denoiser, level: RealScalar):
        dims = {d.dim for d in (above, below) if isinstance(d, AbstractDenoiser)}
        if len(dims) != 1:
            raise ValueError(
                f"`above` and `below` must have one dimension, known to one of them; got {sorted(dims)}."
            )
        self._schedule = ScheduledDenoiser(
            (below, above), require_positive_scalar(level, "level")[None]
        )

    @property
    def above(self) -> Denoiser:
        return self._schedule.denoisers[1]

    @property
    def below(self) -> Denoiser:
        return self._schedule.denoisers[0]

    @property
    def level(self) -> Float[Array, ""]:
        return self._schedule.levels[0]

    @property
    def dim(self) -> int:
        return self._schedule.dim

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        return self._schedule(u, sigma)

    def mean_and_variance(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        return self._schedule.mean_and_variance(u, sigma)
