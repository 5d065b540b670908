"""Which patch size makes a local denoiser most like a given one, at every noise level."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import as_key, as_positive_integer, require_each, require_positive
from .._jax.host_errors import raising_host_errors
from .._kinds import checks_kinds
from ..denoisers import Denoiser, ScheduledDenoiser
from ._denoiser_errors import rmse_curve
from ._estimate import Estimate


class PatchCalibration(eqx.Module):
    """What `calibrate_patch_size` found.

    Attributes:
        patch_sizes: the candidates, increasing.
        levels: the noise levels, increasing.
        errors: root mean square difference from the given denoiser, a coordinate, with standard errors; shape (levels,
            patch sizes). All come from the same noisy points: they are correlated, and their differences are known better
            than their standard errors say.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> errors = sj.Estimate(jnp.array([[0.2, 0.1], [0.3, 0.5]]), jnp.zeros((2, 2)))
        >>> sj.PatchCalibration((1, 3), jnp.array([0.3, 1.0]), errors).best  # at either level
        (3, 1)
    """

    patch_sizes: tuple[int, ...] = eqx.field(static=True)
    levels: Float[Array, " levels"]
    errors: Estimate

    @property
    def best(self) -> tuple[int, ...]:
        """The patch size of least error at every level, the smaller one of equals."""
        least = np.argmin(np.asarray(self.errors.value), axis=1)
        return tuple(self.patch_sizes[i] for i in least)

    def schedule(self, build: Callable[[int], Denoiser]) -> ScheduledDenoiser:
        """`build(patch_size)` for the best size at each noise level.

        It changes at the geometric mean of two levels whose best sizes differ; beyond the first and the last level their
        sizes are kept.
        """
        best, levels = self.best, np.asarray(self.levels)
        changes = [i for i in range(1, len(best)) if best[i] != best[i - 1]]
        sizes = [best[0], *(best[i] for i in changes)]
        built = {size: build(size) for size in dict.fromkeys(sizes)}
        switches = [float(np.sqrt(levels[i - 1]) * np.sqrt(levels[i])) for i in changes]
        return ScheduledDenoiser([built[size] for size in sizes], switches)

    def __repr__(self) -> str:
        return f"PatchCalibration(best={self.best}, levels={np.asarray(self.levels)})"


@checks_kinds
@raising_host_errors
def calibrate_patch_size(
    build: Callable[[int], Denoiser],
    target: Denoiser,
    data: Float[Array, "n d"],
    levels: Float[Array, " levels"],
    patch_sizes: Sequence[int],
    key: PRNGKeyArray,
    *,
    num_noises: int = 1,
    batch_size: int = 16,
) -> PatchCalibration:
    """Chooses, at every noise level, the patch size of least mean square difference from a given denoiser.

    The difference is `rmse_curve`'s: over `data` once each, plus noise, the same for all sizes and at all levels. What a
    trained network resembles is asked of held-out points; on its training points it may have memorised.

    Args:
        build: `build(patch_size)` makes a candidate, such as `lambda size: LocalDenoiser(images, size)`.
        target: the denoiser to match, any callable `(u, sigma) -> (d,)`: a trained network, say.
        data: clean evaluation points, shape (n, d), n >= 2.
        levels: noise levels, positive and strictly increasing, shape (levels,).
        patch_sizes: candidates, positive and different from each other.
        key: JAX random key of the noises.
        num_noises: independent noises for each point.
        batch_size: points evaluated at a time; memory grows with it, the result does not depend on it.

    Raises:
        ValueError: for no candidates, equal ones, or levels or data that `rmse_curve` refuses or that do not increase.

    Source: Kamb and Ganguli 2025, "An analytic theory of creativity in convolutional diffusion models" (scales calibrated
    against the network, by correlation there).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smoothjax.denoisers import LocalDenoiser
        >>> images = jax.random.normal(jax.random.key(0), (20, 6, 6))
        >>> target, build = LocalDenoiser(images, 3), lambda size: LocalDenoiser(images, size)
        >>> points, levels = images.reshape(20, 36), jnp.array([0.3, 1.0])
        >>> found = calibrate_patch_size(build, target, points, levels, [1, 3, 5], jax.random.key(1))
        >>> found.best
        (3, 3)
        >>> D = found.schedule(build)
    """
    key = as_key(key)
    sizes = tuple(sorted(as_positive_integer(size, "patch_sizes") for size in patch_sizes))
    if not sizes or len(set(sizes)) < len(sizes):
        raise ValueError(
            f"`patch_sizes` must be one size or more, all different; got {tuple(patch_sizes)}."
        )
    levels = require_positive(levels, "levels")
    require_each(levels.ravel(), "levels")
    if levels.ndim == 1 and not np.all(np.asarray(levels[:-1] < levels[1:])):
        raise ValueError(f"`levels` must increase strictly; got {levels}.")

    def errors(size: int) -> Estimate:
        return rmse_curve(
            *(build(size), target, data, levels, key), num_noises=num_noises, batch_size=batch_size
        )

    columns: list[Any] = [errors(size) for size in sizes]
    return PatchCalibration(
        sizes, levels, jax.tree.map(lambda *column: jnp.stack(column, axis=1), *columns)
    )
