"""What a Gaussian denoiser generates, in closed form: by its probability flow, and by samplers in discrete steps."""

from collections.abc import Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from .._checks import RealScalar, as_float_array, checked, require_finite
from .._kinds import checks_kinds
from .._levels import as_level, as_levels, as_state
from .._numerics import square_of_level
from ..denoisers import GaussianDenoiser

Levels = Float[Array, " m"] | np.ndarray | Sequence[float]


@checks_kinds
def gaussian_flow(
    denoiser: GaussianDenoiser,
    u: Float[Array, " d"],
    sigma_from: RealScalar,
    sigma_to: RealScalar,
) -> Float[Array, " d"]:
    """Exact end of the probability flow of a `GaussianDenoiser`.

    A linear flow that keeps each mode Gaussian keeps each mode's distance from the mean, in standard deviations: the mode
    of variance lambda is multiplied by `sqrt((lambda + sigma_to^2) / (lambda + sigma_from^2))`, and so is the orthogonal
    complement with its own variance.

    Args:
        denoiser: the Gaussian.
        u: state at `sigma_from`, shape (d,).
        sigma_from: positive noise level.
        sigma_to: non-negative noise level.

    Raises:
        ValueError: for a bad shape or noise level.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
        >>> print(sj.gaussian_flow(D, jnp.array([4.0]), 15**0.5, 0.0).round(5))  # 4 / sqrt(1 + 15)
        [1.]
    """
    u = _state_of(denoiser, u)
    start = as_level(sigma_from, "sigma_from", u.dtype)
    end = as_level(sigma_to, "sigma_to", u.dtype, or_zero=True)
    gains = [_flow_factor(v, start, end) for v in (denoiser.eigenvalues, denoiser.complement)]
    return (denoiser.mean + denoiser.map_modes(u - denoiser.mean, *gains)).astype(u.dtype)


@checks_kinds
def gaussian_sampler_factors(
    variances: Float[Array, "*modes"],
    levels: Levels,
    *,
    solver: diffrax.AbstractSolver | None = None,
) -> Float[Array, "*modes"]:
    """What a sampler in discrete steps multiplies each mode of a Gaussian denoiser by, exactly.

    A step from noise level s to t multiplies the distance from the mean, along a mode of variance lambda, by

        Euler  g + (t/s) (1 - g)
        Heun   g g' + (1 - g) g' / 2 + (3/2) g (1 - g') + (t/s) (1 - g) (1 - g')

    with the gains `g = lambda / (lambda + s^2)`, `g' = lambda / (lambda + t^2)`; the step to zero, a call of the denoiser,
    by g. These are sums without cancellation, correct to a few `eps` a step.

    Args:
        variances: eigenvalues of the covariance, of any shape, non-negative.
        levels: noise levels as in `flow`, strictly monotone, positive but for a final 0.
        solver: `diffrax.Heun()` (EDM's sampler, the default) or `diffrax.Euler()` (DDIM).

    Returns:
        The products over the steps, in the shape and dtype of `variances`.

    Raises:
        ValueError: for bad levels or variances, or another solver.

    Source: Karras et al. 2022, algorithm 1, applied to a linear denoiser.

    Example:
        >>> import diffrax, jax.numpy as jnp, smoothjax as sj
        >>> from smoothjax.flows import gaussian_sampler_factors
        >>> print(gaussian_sampler_factors(jnp.array([1.0, 0.0]), [1.0, 0.5, 0.0], solver=diffrax.Euler()))
        [0.6 0. ]
    """
    variances = as_float_array(variances, "variances")
    require_finite(variances, "variances")
    variances = checked(
        variances, variances < 0, "`variances` must be non-negative", f"; got {variances}"
    )
    return _sampler_factors(variances, as_levels(levels, variances.dtype), _second_order(solver))


@checks_kinds
def gaussian_sampler_bias(
    variances: Float[Array, "*modes"],
    levels: Levels,
    *,
    solver: diffrax.AbstractSolver | None = None,
) -> Float[Array, "*modes"]:
    """Relative error of the variance that a sampler generates in each mode, against the exact flow from the same start.

    `(f / f_exact)^2 - 1`, with f from `gaussian_sampler_factors` and `f_exact` from `gaussian_flow` between the first and
    the last level. A last step to zero from `sigma_min` alone leaves `-sigma_min^2 / lambda`, to first order, whatever
    the number of steps; a mode without variance is generated exactly, and has 0 there.

    Args:
        variances, levels, solver: as for `gaussian_sampler_factors`, which also says what is raised.

    Example:
        >>> import diffrax, jax.numpy as jnp, smoothjax as sj
        >>> # The step leaves half of u, so a quarter of its variance; the flow leaves half of that.
        >>> print(sj.gaussian_sampler_bias(jnp.array([1.0]), [1.0, 0.0], solver=diffrax.Euler()).round(5))
        [-0.5]
    """
    factors = gaussian_sampler_factors(variances, levels, solver=solver)
    grid = as_levels(levels, factors.dtype)
    exact = _flow_factor(jnp.asarray(variances, factors.dtype), grid[0], grid[-1])
    positive = exact > 0
    return jnp.where(positive, (factors / jnp.where(positive, exact, 1)) ** 2 - 1, 0)


@checks_kinds
def gaussian_sampler(
    denoiser: GaussianDenoiser,
    u: Float[Array, " d"],
    levels: Levels,
    *,
    solver: diffrax.AbstractSolver | None = None,
) -> Float[Array, " d"]:
    """Where a sampler in discrete steps takes `u`, exactly: `flow(denoiser, u, ..., levels=levels, solver=solver)`.

    In closed form, O(d r) for any number of steps. A test of a sampler, and the Gaussian reference for a network's samples
    that were drawn on the same grid: with 18 steps the discretisation is visible.

    Args:
        denoiser: the Gaussian.
        u: state at the first level, shape (d,).
        levels, solver: as for `gaussian_sampler_factors`.

    Raises:
        ValueError: for a bad shape, bad levels or another solver.

    Example:
        >>> import diffrax, jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
        >>> print(sj.gaussian_sampler(D, jnp.array([2.0]), [1.0, 0.0], solver=diffrax.Euler()))  # one call of D
        [1.]
    """
    u = _state_of(denoiser, u)
    gains = _denoiser_factors(denoiser, as_levels(levels, u.dtype), solver)
    return (denoiser.mean + denoiser.map_modes(u - denoiser.mean, *gains)).astype(u.dtype)


@checks_kinds
def gaussian_sampler_law(
    denoiser: GaussianDenoiser,
    levels: Levels,
    *,
    solver: diffrax.AbstractSolver | None = None,
) -> GaussianDenoiser:
    """The law of what a sampler in discrete steps generates from noise: a Gaussian, given by its denoiser.

    Started from `N(0, sigma_max^2)`, sigma_max the first level, as samplers do: with mean zero, not the data's. A mode
    with factor f ends with variance `f^2 sigma_max^2`, and its mean is off by `-f` times the data's mean along it. At the
    last level, so with what noise is left there.

    Args:
        denoiser: the Gaussian.
        levels, solver: as for `gaussian_sampler_factors`.

    Returns:
        A `GaussianDenoiser` whose `mean`, `covariance()` and `variances` are those of the samples.

    Raises:
        ValueError: for bad levels or another solver.

    Example:
        >>> import diffrax, jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianDenoiser(jnp.array([2.0]), jnp.eye(1))
        >>> law = sj.gaussian_sampler_law(D, [1.0, 0.0], solver=diffrax.Euler())  # (u + 2) / 2 of u from N(0, 1)
        >>> print(law.mean, law.covariance().round(5))
        [1.] [[0.25]]
    """
    grid = as_levels(levels, denoiser.mean.dtype)
    modes, rest = _denoiser_factors(denoiser, grid, solver)
    return GaussianDenoiser.low_rank(
        denoiser.mean - denoiser.map_modes(denoiser.mean, modes, rest),
        denoiser.basis,
        (modes * grid[0]) ** 2,
        (rest * grid[0]) ** 2,
    )


def _state_of(denoiser: GaussianDenoiser, u: Any) -> Array:
    u = as_state(u)
    if u.shape != (denoiser.dim,):
        raise ValueError(f"`u` must have shape ({denoiser.dim},); got {u.shape}.")
    return u


def _flow_factor(variance: Array, start: Any, end: Any) -> Array:
    largest = jnp.maximum(start, end)
    # Squares relative to the largest, or float32 would lose those of tiny noise levels.
    unit = jnp.maximum(jnp.sqrt(lax.stop_gradient(variance)), lax.stop_gradient(largest))
    # Not two quotients, which a compiler would merge into one by a square that underflows.
    inverse = 1 / unit
    scaled = variance * inverse * inverse
    return jnp.sqrt((scaled + (end * inverse) ** 2) / (scaled + (start * inverse) ** 2))


def _second_order(solver: diffrax.AbstractSolver | None) -> bool:
    if solver is None or type(solver) is diffrax.Heun:
        return True
    if type(solver) is diffrax.Euler:
        return False
    raise ValueError(
        f"`solver` must be diffrax.Heun() or diffrax.Euler(); got {type(solver).__name__}."
    )


def _denoiser_factors(denoiser: GaussianDenoiser, levels: Any, solver: Any) -> tuple[Array, Array]:
    modes = jnp.append(denoiser.eigenvalues, denoiser.complement)
    factors = _sampler_factors(modes, levels, _second_order(solver))
    return factors[:-1], factors[-1]


@eqx.filter_jit
def _sampler_factors(variances: Array, levels: Array, second_order: bool) -> Array:
    def step(factors, ends):
        start, end = ends
        gain, noise = _shares(variances, start)
        euler = gain + end / start * noise
        if not second_order:
            return factors * euler, None
        # A step to zero has no second stage.
        next_gain, next_noise = _shares(variances, jnp.where(end > 0, end, start))
        heun = next_gain * (gain + 0.5 * noise) + next_noise * (1.5 * gain + end / start * noise)
        return factors * jnp.where(end > 0, heun, euler), None

    levels = jnp.asarray(levels, variances.dtype)
    return lax.scan(step, jnp.ones_like(variances), (levels[:-1], levels[1:]))[0]


def _shares(variances: Array, level: Array) -> tuple[Array, Array]:
    """`lambda / (lambda + level^2)` and one minus it, each to a few roundings."""
    noise = square_of_level(level)
    return variances / (variances + noise), noise / (variances + noise)
