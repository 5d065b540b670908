"""Losses of networks that learn a score, and the penalty on their weights."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import (
    RealScalar,
    as_key,
    as_points,
    as_positive_integer,
    checked,
    require_parameters,
)
from .._jax.precision import common_dtype
from .._kinds import checks_kinds
from .._levels import as_level
from .._line import as_gaps, mixture_log_density
from ..denoisers import EmpiricalDenoiser
from ._networks import NetworkDenoiser


@checks_kinds
def weight_penalty(model: Any) -> Float[Array, ""]:
    """`|weights|^2 / 2`: half the sum of squares of all arrays of two or more axes, that is, without biases.

    Times a penalty, a part of the loss. (The decoupled weight decay of AdamW is something else: it has no part in the
    gradient's normalisation, and its strength depends on the learning rate.)

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.learning.weight_penalty({"weight": jnp.full((2, 2), 3.0), "bias": jnp.ones(2)}))  # 4 * 9 / 2
        18.0
    """
    arrays = require_parameters(model)
    dtype = common_dtype(*arrays)
    squares = (jnp.sum(a**2).astype(dtype) for a in arrays if a.ndim >= 2)
    return 0.5 * sum(squares, jnp.zeros((), dtype))


@checks_kinds
def denoising_loss(
    model: NetworkDenoiser,
    data: Float[Array, "n d"],
    key: PRNGKeyArray,
    *,
    batch_size: int,
    sigma_min: RealScalar,
    sigma_max: RealScalar,
    target: Literal["denoising", "exact"] = "denoising",
) -> Float[Array, ""]:
    """Monte Carlo estimate of `E |D(u, sigma) - target|^2 / sigma^2` over fresh noise and noise levels.

    Args:
        model: the network; `NetworkDenoiser(weighted=False)` leaves out the weight.
        data: training points, shape (n, d).
        key: of the batch.
        batch_size: draws.
        sigma_min, sigma_max: levels are drawn log-uniformly between these; equal for a single level.
        target: `"denoising"`, the training point itself (denoising score matching), or `"exact"`, its posterior mean:
            the same minimiser without the target's noise.

    Source: Vincent 2011.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> zero = sj.learning.NetworkDenoiser(lambda u: 0 * u, 1, prediction="x0", conditioned=False)
        >>> draws = dict(batch_size=8, sigma_min=0.5, sigma_max=0.5)
        >>> loss = sj.learning.denoising_loss(zero, jnp.array([[-1.0], [1.0]]), jax.random.key(0), **draws)
        >>> print(loss)  # D = 0: of each point 1 / sigma^2
        4.0
    """
    key = as_key(key)
    data = as_points(data)
    if data.shape[1] != model.dim:
        raise ValueError(
            f"`data` must have dimension {model.dim}, the model's; got {data.shape[1]}."
        )
    batch_size = as_positive_integer(batch_size, "batch_size")
    if target not in ("denoising", "exact"):
        raise ValueError(f"`target` must be 'denoising' or 'exact'; got {target!r}.")
    low = as_level(sigma_min, "sigma_min", data.dtype)
    high = as_level(sigma_max, "sigma_max", data.dtype)
    given = f"; got {sigma_min} and {sigma_max}"
    low = checked(low, low > high, "`sigma_min` must not exceed `sigma_max`", given)
    pick, level, noise = jax.random.split(key, 3)
    x = data[jax.random.randint(pick, (batch_size,), 0, data.shape[0])]
    fraction = jax.random.uniform(level, (batch_size,), data.dtype)
    sigma = low * (high / low) ** fraction
    u = x + sigma[:, None] * jax.random.normal(noise, x.shape, data.dtype)
    if target == "exact":
        x = jax.vmap(EmpiricalDenoiser(data))(u, sigma)
    error = jnp.sum((jax.vmap(model.denoise)(u, sigma) - x) ** 2, axis=1)
    return jnp.mean(jax.vmap(model.loss_weight)(sigma) * error)


@checks_kinds
def line_regression_loss(
    model: NetworkDenoiser, points: Float[Array, " n"], sigma: RealScalar, *, num_nodes: int = 121
) -> Float[Array, ""]:
    """`E |D(u, sigma) - D_exact(u, sigma)|^2 / sigma^2` for points on a line at one noise level, by quadrature: no batch
    noise.

    Trapezoids within 6 noise levels of every point, `num_nodes` of them each: the standard loss less the least possible.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> exact = sj.learning.NetworkDenoiser(jnp.tanh, 1, prediction="x0", conditioned=False)
        >>> loss = sj.learning.line_regression_loss(exact, jnp.array([-1.0, 1.0]), 1.0)  # of tanh(u / sigma^2)
        >>> bool(loss < 1e-12)
        True
    """
    points = as_gaps(points, 0.0).points
    if as_positive_integer(num_nodes, "num_nodes") < 2:
        raise ValueError(f"`num_nodes` must be at least 2; got {num_nodes}.")
    level = jnp.asarray(as_level(sigma, "sigma", points.dtype))
    z = jnp.asarray(np.linspace(-6, 6, num_nodes), points.dtype)
    u = points[:, None] + (level * z)[None]
    # Each node stands for its own component of the law.
    weights = jax.scipy.stats.norm.pdf(z) * (z[1] - z[0]) / points.shape[0]
    target = jax.lax.stop_gradient(exact_on_line(points, level, u))
    error = jax.vmap(jax.vmap(lambda u: model.denoise(u[None], level)[0]))(u) - target
    return model.loss_weight(level) * jnp.sum(weights[None] * error**2)


def exact_on_line(points: Array, sigma: Array, u: Array) -> Array:
    """Posterior mean of points on a line; `u + sigma^2` times the gradient of the log density."""
    score = jax.vmap(jax.grad(lambda u: mixture_log_density(points, sigma, u)))(u.ravel())
    return u + sigma**2 * score.reshape(u.shape)
