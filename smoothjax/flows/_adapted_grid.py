"""Noise levels that lie where a denoiser bends."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .._calls import as_argument, denoised
from .._checks import RealScalar, as_key, as_positive_integer
from .._jax.host_errors import raising_host_errors
from .._kinds import checks_kinds
from ..denoisers import Denoiser
from ..grids import log_uniform_grid
from ._exponential import History, multistep
from ._sampling import initial_state

# A pilot sees a bend that is as wide as two of its steps: a factor of two in noise.
LEVELS_PER_OCTAVE = 2.4
# No stretch of noise levels is left out, however straight it seems: the share of the most crowded.
LEAST_DENSITY = 0.05


@checks_kinds
@raising_host_errors
def adapted_grid(
    denoiser: Denoiser,
    key: PRNGKeyArray,
    num_levels: int,
    sigma_max: RealScalar = 80.0,
    sigma_min: RealScalar = 0.002,
    *,
    dim: int | None = None,
    num_pilots: int = 16,
) -> Float[Array, " num_levels"]:
    r"""Noise levels for an exponential integrator of order two, so that every step of a flow errs about equally.

    A step over h in `t = log sigma` errs by about `h^3 |D''| / 12`, with D'' the second derivative of the denoiser along the
    flow by t. Relative to the noise level, which is what decides where the flow ends, equal errors take steps in proportion
    to `(|D''| / sigma)^(-1/3)`. D'' is found by pilots, some trajectories on a grid with a constant ratio.

    Levels crowd where the denoiser makes up its mind. For a training set of images that is within two octaves, and such a
    grid needs some two thirds of the calls of one with a constant ratio for as many right endpoints.

    Args:
        denoiser: any callable `(u, sigma) -> (d,)`.
        key: of the pilots' initial noise.
        num_levels: number of levels, at least two.
        sigma_max: first level, exactly, in data units.
        sigma_min: last level, exactly; smaller.
        dim: dimension d of a bare callable.
        num_pilots: trajectories over which `|D''|^2` is averaged.

    Returns:
        The noise levels, decreasing.

    Raises:
        ValueError: as `log_uniform_grid`; for a bare callable without `dim`.

    Source: ours; the equidistribution of an error density is de Boor's, 1973.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> D = sj.EmpiricalDenoiser(jnp.array([[-1.0], [1.0]]))
        >>> levels = sj.adapted_grid(D, jax.random.key(0), 12)
        >>> int(jnp.sum((levels > 0.1) & (levels < 10))) > 6
        True
    """
    key = as_key(key)
    coarse = log_uniform_grid(num_levels, sigma_max, sigma_min)
    dim = as_positive_integer(getattr(denoiser, "dim", None) if dim is None else dim, "dim")
    num_pilots = as_positive_integer(num_pilots, "num_pilots")
    octaves = float(jnp.log2(coarse[0] / coarse[-1]))
    fine = log_uniform_grid(max(8, round(LEVELS_PER_OCTAVE * octaves)), coarse[0], coarse[-1])
    times, density = _density(as_argument(denoiser), key, fine, dim, num_pilots)
    reached = jnp.cumsum(0.5 * (density[1:] + density[:-1]) * -jnp.diff(times))
    reached = jnp.append(jnp.zeros(1, reached.dtype), reached)
    shares = jnp.linspace(0, reached[-1], num_levels)
    levels = jnp.exp(jnp.interp(shares, reached, times))
    return levels.at[0].set(coarse[0]).at[-1].set(coarse[-1])


@eqx.filter_jit
def _density(
    denoiser: Denoiser, key: PRNGKeyArray, levels: Array, dim: int, num_pilots: int
) -> tuple[Array, Array]:
    """Logarithms of the levels, and the density of steps that each asks for."""
    denoise = lambda u, sigma: jax.vmap(lambda u: denoised(denoiser, u, sigma))(u)  # noqa: E731
    noise = jax.random.normal(key, (num_pilots, dim), levels.dtype)
    u = jax.vmap(lambda z: initial_state(denoiser, z, levels[0]))(noise)
    start = denoise(u, levels[0])

    def step(carry, ends):
        u, history = carry
        from_, to = ends
        done = multistep(lambda u: (denoise(u, to), None), u, history, jnp.log(to / from_))
        return (done.corrected, done.history), done.history.slope

    init = (u, History(start, jnp.zeros_like(start)))
    _, slopes = lax.scan(step, init, (levels[:-1], levels[1:]))
    times = jnp.log(levels)
    # Differences of the slopes of two steps, at the level between; the ends take their neighbour's.
    bend = jnp.sqrt(jnp.mean(jnp.sum(jnp.diff(slopes, axis=0) ** 2, axis=-1), axis=-1))
    bend /= -0.5 * (times[2:] - times[:-2])
    relative = jnp.pad(bend / levels[1:-1], 1, mode="edge")
    density = jnp.cbrt(relative)
    least = LEAST_DENSITY * jnp.max(density)
    # A denoiser that never bends is served by a constant ratio.
    return times, jnp.where(least > 0, jnp.maximum(density, least), 1)
