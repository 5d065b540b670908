"""Samples that are the same whatever the batch size: sample i has its own key, folded from its index."""

import math
from collections.abc import Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._calls import as_argument, denoised
from .._checks import (
    RealScalar,
    as_float_array,
    as_key,
    as_positive_integer,
    checked,
    is_concrete,
    require_finite,
    require_positive,
)
from .._jax.blocks import in_batches
from .._jax.host_errors import raising_host_errors
from .._jax.precision import common_dtype
from .._kinds import checks_kinds
from .._levels import as_level, as_state, levels_between
from .._noise import noise_of
from ..denoisers import AbstractDenoiser, AbstractPosteriorDenoiser, Denoiser
from ..grids import edm_grid, log_uniform_grid
from ._exponential import ExponentialMultistep
from ._probability_flow import flow
from ._reverse_sde import reverse_sde

DEFAULT_SDE_STEPS = 256


@checks_kinds
@raising_host_errors
def initial_state(
    denoiser: Denoiser,
    z: Float[Array, " d"],
    sigma: RealScalar,
    mean: Float[Array, " d"] | None = None,
) -> Float[Array, " d"]:
    """State at the noise level where a sample of `sample` starts, from its standard normal noise.

    With `mean` given, `mean + sigma z`, the same for every denoiser. Without it, `sigma z`; or, where the denoiser is an
    exact posterior mean, a state with the mean m and the covariance C of its law: `m + sigma z + (D(m + sigma z) - m) / 2`,
    whose last term is the first, `C z / 2 sigma`, of `sqrt(C + sigma^2) z - sigma z`. What is left is of relative order
    `(C / sigma^2)^2`.

    Args:
        denoiser: any callable `(u, sigma) -> (d,)`.
        z: standard normal, shape (d,): a row of `initial_noise`. For many, `jax.vmap`.
        sigma: positive noise level, in data units.
        mean: of the data, shape (d,), for a denoiser that does not know it, or for common starts.

    Returns:
        The state, shape (d,), in data units.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> law = sj.GaussianDenoiser(jnp.array([3.0]), jnp.array([[4.0]]))
        >>> found = sj.initial_state(law, jnp.array([1.0]), 20.0)  # 3 + sqrt(4 + 400)
        >>> round(float(found[0]), 2)
        23.1
    """
    z = as_float_array(z, "z")
    if z.ndim != 1 or z.shape[0] == 0:
        raise ValueError(
            f"`z` must be one point of shape (d,); got {z.shape}. For a batch, use jax.vmap."
        )
    require_finite(z, "z")
    if is_concrete(sigma):
        require_positive(sigma, "sigma")
    level: Any = float(sigma) if isinstance(sigma, int) else sigma
    if mean is not None:
        return as_float_array(mean, "mean").astype(z.dtype) + level * z
    if not isinstance(denoiser, AbstractPosteriorDenoiser):
        return level * z
    m = denoiser.mean_and_covariance()[0].astype(z.dtype)
    u = m + level * z
    return u + 0.5 * (denoised(denoiser, u, level) - m)


@checks_kinds
@raising_host_errors
def sample(
    denoiser: Denoiser,
    key: PRNGKeyArray,
    num_samples: int,
    *,
    shape_or_dim: int | tuple[int, ...] | None = None,
    sigma_max: RealScalar = 80.0,
    sigma_min: RealScalar = 0.002,
    rtol: float | None = None,
    atol: float | None = None,
    solver: diffrax.AbstractSolver | None = None,
    steps: int | None = None,
    levels: Float[Array, " m"] | np.ndarray | Sequence[float] | None = None,
    stochasticity: float = 0.0,
    denoise: bool = True,
    mean: Float[Array, " d"] | None = None,
    batch_size: int | None = None,
    dtype: Any = None,
) -> Float[Array, "num_samples ..."]:
    """Draws what a diffusion model with this denoiser generates.

    Starts from `mean + sigma_max z` with z standard normal (`initial_state`), follows the probability flow (or the reverse
    SDE) to `sigma_min`, and takes a last call of the denoiser there, as EDM does. Sample i depends on the key and on i only,
    not on `num_samples` or `batch_size` (beyond rounding); its noise z is that of `initial_noise`, for every denoiser.

    Args:
        denoiser: any callable `(u, sigma) -> (d,)`.
        key: for the initial noise, and the Brownian paths if `stochasticity > 0`.
        num_samples: how many.
        shape_or_dim: dimension d, or a shape to give each sample; read off the denoiser if it is this library's.
        sigma_max: initial noise level. Where the denoiser is an exact posterior mean, the start has the mean and, by one
            more call of the denoiser, the spread of its law; otherwise, and with `mean` given, the spread is neglected, an
            error of relative order `(scale / sigma_max)^2` in the variance.
        sigma_min: noise level of the last call. Memorisation is only visible if it lies well below the spacing of the data.
        rtol, atol, solver: of the adaptive solver, see `flow_solution`.
        steps: a fixed number of noise levels instead, from `sigma_max` to `sigma_min`. With
            `solver=sj.ExponentialMultistep()` of a constant ratio and with as many calls of the denoiser; with
            `diffrax.Heun()` (the default) on EDM's grid: EDM's sampler, whose samples are too wide with few steps (5 to 16 %
            on a Gaussian with 18); with `diffrax.Euler()` DDIM. For the reverse SDE with a diffrax solver, the number of
            steps uniform in `log sigma` (default 256).
        levels: instead, the noise levels, from `sigma_max` to `sigma_min`; see `adapted_grid`.
        stochasticity: 0 for the probability flow, 1 for the reverse SDE; see `reverse_sde`, whose default solver is the one
            here.
        denoise: end with a call of the denoiser at `sigma_min`; otherwise return the noisy state there.
        mean: of the data, shape (d,), for a denoiser that does not know it, such as a network (zero by default: for data
            far from the origin give it, or a `sigma_max` that is large beside it); and for a comparison of denoisers, which
            then all start from the same states.
        batch_size: samples computed at a time (default 512).
        dtype: of the samples; by default that of the denoiser's arrays.

    Returns:
        Samples, shape (num_samples, d) or (num_samples, *shape).

    Raises:
        ValueError: for bad sizes or noise levels, or a bare callable without `shape_or_dim`.

    Source: Karras et al. 2022, algorithm 1.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> D = sj.EmpiricalDenoiser(jnp.array([[-1.0], [1.0]]))
        >>> print(jnp.unique(sj.sample(D, jax.random.key(0), 1000).round(5)))  # replays the training set
        [-1.  1.]
    """
    key = as_key(key)
    num_samples = as_positive_integer(num_samples, "num_samples")
    shape = _shape(denoiser, shape_or_dim)
    dtype = jax.dtypes.canonicalize_dtype(_dtype(denoiser) if dtype is None else dtype)
    low = as_level(sigma_min, "sigma_min", dtype)
    high = as_level(sigma_max, "sigma_max", dtype)
    given = f"; got {sigma_min} and {sigma_max}"
    low = checked(low, low >= high, "`sigma_min` must lie below `sigma_max`", given)
    eta = float(as_level(stochasticity, "stochasticity", float, or_zero=True))
    on_grid = steps is not None or levels is not None
    if (rtol is not None or atol is not None) and (eta or on_grid):
        raise ValueError(
            "`rtol` and `atol` belong to the adaptive flow; not with `steps`, `levels` or `stochasticity`."
        )
    if steps is not None and levels is not None:
        raise ValueError("Give `steps` or `levels`, not both.")
    multistep = isinstance(solver, ExponentialMultistep) or (solver is None and bool(eta))
    if steps is not None:
        steps = as_positive_integer(steps, "steps")
        if steps < 2 and not (eta and not multistep):
            raise ValueError(f"`steps` must be at least 2, one for each noise level; got {steps}.")
    elif eta and levels is None:
        steps = DEFAULT_SDE_STEPS
    if levels is not None:
        levels = levels_between(levels, high, low)
    elif steps is not None and multistep:
        levels = log_uniform_grid(steps, high, low)
    elif steps is not None and not eta:
        levels = edm_grid(steps, high, low, final_zero=False)
    if mean is not None:
        mean = as_state(mean)
        if mean.shape != (math.prod(shape),):
            raise ValueError(
                f"`mean` must have {math.prod(shape)} entries, as a sample; got shape {mean.shape}."
            )
    samples = _draw(
        as_argument(denoiser),
        key,
        high,
        low,
        num_samples=num_samples,
        dim=math.prod(shape),
        rtol=None if rtol is None else float(rtol),
        atol=None if atol is None else float(atol),
        solver=solver,
        steps=steps if levels is None else None,
        levels=levels,
        eta=eta,
        denoise=denoise,
        mean=mean,
        batch_size=batch_size,
    )
    return samples.reshape(num_samples, *shape)


# A function of the module, so that a second call, with other noise or another denoiser of this size, is compiled already.
@eqx.filter_jit
def _draw(
    denoiser,
    key,
    high,
    low,
    *,
    num_samples,
    dim,
    rtol,
    atol,
    solver,
    steps,
    levels,
    eta,
    denoise,
    mean,
    batch_size,
):
    def follow(key, u):
        if eta:
            u = reverse_sde(
                denoiser,
                key,
                u,
                high,
                low,
                steps=steps,
                levels=levels,
                stochasticity=eta,
                solver=solver,
            )
        elif levels is None:
            u = flow(denoiser, u, high, low, rtol=rtol, atol=atol, solver=solver)
        else:
            ends = jnp.append(levels, jnp.zeros((), levels.dtype)) if denoise else levels
            return flow(denoiser, u, high, 0.0 if denoise else low, solver=solver, levels=ends)
        return denoised(denoiser, u, low) if denoise else u

    def one(i):
        noise_key = jax.random.fold_in(key, i)
        z = noise_of(noise_key, dim, high.dtype)
        # The Brownian path must not repeat the initial noise.
        return follow(jax.random.fold_in(noise_key, 1), initial_state(denoiser, z, high, mean))

    return in_batches(one, num_samples, batch_size)


def _shape(denoiser: Denoiser, shape_or_dim: int | tuple[int, ...] | None) -> tuple[int, ...]:
    if shape_or_dim is None:
        if not isinstance(denoiser, AbstractDenoiser):
            raise ValueError("`shape_or_dim` is needed for a denoiser that is a bare callable.")
        return (denoiser.dim,)
    lengths = shape_or_dim if isinstance(shape_or_dim, tuple | list) else (shape_or_dim,)
    shape = tuple(as_positive_integer(length, "shape_or_dim") for length in lengths)
    if isinstance(denoiser, AbstractDenoiser) and math.prod(shape) != denoiser.dim:
        raise ValueError(
            f"`shape_or_dim` must have {denoiser.dim} entries, as the data of the denoiser; got {shape_or_dim}."
        )
    return shape


def _dtype(denoiser: Denoiser) -> Any:
    leaves = [x for x in jax.tree.leaves(denoiser) if eqx.is_inexact_array(x)]
    if isinstance(denoiser, AbstractDenoiser) and leaves:
        return common_dtype(*leaves)
    return jnp.result_type(float)
