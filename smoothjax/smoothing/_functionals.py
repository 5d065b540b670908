"""What smoothing costs and what it buys: the denoising loss, the non-smoothness of a score, and the strengths they imply."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from .._checks import RealScalar, as_float_array, is_concrete, require_positive
from .._kinds import checks_kinds
from .._levels import as_level
from .._line import Gaps, as_gaps, mixture_log_density
from .._numerics import bisect
from ..denoisers import Denoiser, EmpiricalDenoiser
from ..parametrization import Prediction, affine_form, as_prediction
from ._law import legendre, mean_square_error, nodes_towards_zero
from ._tails import inverse_first_tail, second_tail


@checks_kinds
def minimum_mean_square_error(points: Float[Array, " n"], sigma: RealScalar) -> Float[Array, ""]:
    """Mean posterior variance `E Var(x_0 | u)` of points on a line at a noise level: the least error of any denoiser.

    By Gauss-Legendre quadrature between all neighbours, exact but for rounding errors of the points' squared spread.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> points = jnp.array([-1.0, 1.0])
        >>> [round(float(sj.smoothing.minimum_mean_square_error(points, s)), 3) for s in (0.1, 100.0)]  # none, and all
        [0.0, 1.0]
    """
    gaps = as_gaps(points, 0.0)
    return _minimum_mean_square_error(
        gaps, jnp.asarray(as_level(sigma, "sigma", gaps.points.dtype))
    )


@eqx.filter_jit
def _minimum_mean_square_error(gaps: Gaps, sigma: Array) -> Array:
    points, half = gaps.points, gaps.half_widths[1:-1]
    empirical = EmpiricalDenoiser(points[:, None])

    def integrand(x: Array) -> Array:
        variance = jax.vmap(lambda u: empirical.posterior_variance(u[None], sigma))(x.ravel())
        return jnp.exp(mixture_log_density(points, sigma, x)) * variance.reshape(x.shape)

    # The variance is of size one within sigma^2 / 2h of the middle of a gap, and falls exponentially from there.
    total = jnp.zeros((), points.dtype)
    middle, scale = 0.5 * (points[:-1] + points[1:]), 0.5 * sigma**2 / half
    offsets, weights = nodes_towards_zero(half, scale)
    for side in (-1, 1):
        total += jnp.sum(weights * integrand(middle[None] + side * offsets))
    # Beyond the outermost points, as far as the law reaches.
    for side, end in ((-1, points[:1]), (1, points[-1:])):
        offsets, weights = legendre(jnp.full(1, 12 * sigma))
        total += jnp.sum(weights * integrand(end[None] + side * offsets))
    return total


@checks_kinds
def smoothing_loss(
    points: Float[Array, " n"], kappa: RealScalar | Float[Array, " gaps"], sigma: RealScalar
) -> Float[Array, ""]:
    """Loss `L = sigma^2 E |s(u) - s_exact(u)|^2` of the piecewise-linear score against the exact one, under the exact law.

    The same as `E |D - D_exact|^2 / sigma^2`: the mean squared error of the denoiser, in closed form, less the least
    possible one, over the squared noise level. Dimensionless. Loses digits where it is small beside that least error.

    Source: Chen, ICLR 2026, the loss `L_t` of section 3, with `t = sigma^2`.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> points = jnp.array([-1.0, 1.0])
        >>> exact = sj.smoothing.smoothing_loss(points, 1.0, 0.05)
        >>> round(float(exact / sj.smoothing.small_noise_loss(points, 1.0, 0.05)), 3)
        1.0
    """
    gaps = as_gaps(points, kappa)
    sigma = jnp.asarray(as_level(sigma, "sigma", gaps.points.dtype))
    excess = eqx.filter_jit(mean_square_error)(gaps, sigma) - _minimum_mean_square_error(
        gaps, sigma
    )
    return excess / sigma**2


@checks_kinds
def small_noise_loss(
    points: Float[Array, " n"], kappa: RealScalar | Float[Array, " gaps"], sigma: RealScalar = 0.0
) -> Float[Array, ""]:
    """`smoothing_loss` where the noise level is small: `(2 / n) sum_k F(kappa_k) / (1 - kappa_k sigma / h_k)^2`.

    Right up to terms of order `exp(-h^2 / 2 sigma^2) / sigma`, h the smallest half gap: do not use it where `sigma ~ h`.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> points = jnp.array([-1.0, 1.0])
        >>> print(sj.smoothing.small_noise_loss(points, 0.0).round(5))  # (n - 1) / n
        0.5
    """
    gaps = as_gaps(points, kappa)
    sigma = as_level(sigma, "sigma", gaps.points.dtype, or_zero=True)
    return _small_noise_loss(gaps, gaps.kappas[1:-1], sigma)


@eqx.filter_jit
def _small_noise_loss(gaps: Gaps, kappas: Array, sigma: Any) -> Array:
    half = gaps.half_widths[1:-1]
    # A closed gap has the exact score but for terms that are left out here.
    is_open = kappas * sigma < half
    kappas = jnp.where(is_open, kappas, 0)
    each = jnp.where(is_open, second_tail(kappas) / (1 - kappas * sigma / half) ** 2, 0)
    return 2 / gaps.points.shape[0] * jnp.sum(each)


@checks_kinds
def piecewise_linear_non_smoothness(
    points: Float[Array, " n"], kappa: RealScalar | Float[Array, " gaps"], sigma: RealScalar
) -> Float[Array, ""]:
    """Non-smoothness `R = integral |s''|` of the piecewise-linear score, in inverse squared data units.

    `sum_k 2 h_k / (sigma^2 (h_k - kappa_k sigma))`; infinite where a plateau fills its gap (a score that jumps). The total
    variation of the score's slope, and for two-layer ReLU networks without a skip the least weight norm (Savarese et al.
    2019).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> print(sj.smoothing.piecewise_linear_non_smoothness(jnp.array([-1.0, 1.0]), 1.0, 0.5))  # 2 / (0.25 (1 - 0.5))
        16.0
    """
    gaps = as_gaps(points, kappa)
    sigma = as_level(sigma, "sigma", gaps.points.dtype)
    ramp = gaps.ramp(slice(1, -1), sigma)
    each = 2 * ramp.slope(sigma, 0.0) / sigma**2
    return jnp.sum(jnp.where(ramp.is_open, each, jnp.inf))


@checks_kinds
def non_smoothness(
    denoiser: Denoiser, u: Float[Array, " m"], sigma: RealScalar
) -> Float[Array, ""]:
    """Non-smoothness `R` of the score of any 1-D denoiser, between the first and the last point of a grid.

    The total variation of its slope `(dD/du - 1) / sigma^2` over the grid: a lower bound of `integral |s''|`, which it
    reaches where the slope turns at most once between neighbouring points.

    Args:
        denoiser: any callable `(u, sigma) -> (1,)`.
        u: ascending grid, shape (m,), with the noise level (exact score: `sigma^2 / h`, h the half gap) well resolved.
        sigma: noise level.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.PiecewiseLinearDenoiser(jnp.array([-1.0, 1.0]), 1.0)
        >>> print(sj.smoothing.non_smoothness(D, jnp.linspace(-2.0, 2.0, 9), 0.5).round(3))  # 2 / (0.25 (1 - 0.5))
        16.0
    """
    u = as_float_array(u, "u")
    if u.ndim != 1 or u.shape[0] < 2 or (is_concrete(u) and np.any(np.diff(np.asarray(u)) <= 0)):
        raise ValueError(
            f"`u` must be an ascending grid of at least two points; got shape {u.shape}."
        )
    level = jnp.asarray(as_level(sigma, "sigma", u.dtype))
    slope = jax.vmap(jax.grad(lambda x: denoiser(x[None], level)[0]))(u)
    return jnp.sum(jnp.abs(jnp.diff(slope))) / level**2


@checks_kinds
def kappa_for_loss(
    points: Float[Array, " n"], loss: RealScalar, sigma: RealScalar = 0.0
) -> Float[Array, " gaps"]:
    """The strengths that smooth most, by `R`, at a given small-noise loss: the split of kappa over the gaps.

    At the optimum `h_k G(kappa_k)` is the same for every gap, so that wide gaps get a larger kappa, logarithmically. For
    equal
    gaps kappa is common: `2 (n - 1) / n F(kappa) = loss` as `sigma -> 0`, for two points `F(kappa) = loss (1 - kappa
        sigma / h)^2`.

    Args:
        points: distinct training points, shape (n,).
        loss: the loss to spend, positive; at most that of `kappa = 0`, `(n - 1) / n`, for which kappas are 0.
        sigma: noise level at which the loss is meant; small beside the gaps.

    Returns:
        kappa of every gap, shape (n - 1,).

    Source: Chen, ICLR 2026, section 3 (two points); the split by a Lagrange multiplier.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> points = jnp.array([-1.0, 1.0])
        >>> kappa = sj.smoothing.kappa_for_loss(points, 0.1)
        >>> round(float(sj.smoothing.small_noise_loss(points, kappa)), 5)
        0.1
    """
    gaps = as_gaps(points, 0.0)
    loss = require_positive(loss, "loss").astype(gaps.points.dtype)
    sigma = as_level(sigma, "sigma", gaps.points.dtype, or_zero=True)
    half = gaps.half_widths[1:-1]
    if half.shape[0] == 0:
        return half
    widest = jnp.max(half)

    def kappas(log_price):  # h_k G(kappa_k), for all gaps, as a fraction of the widest gap
        return inverse_first_tail(jnp.exp(log_price) * widest / half)

    # A dearer loss bends less. The cheapest price leaves tails of 1e-30.
    low, high = jnp.log(jnp.asarray(1e-30, half.dtype)), jnp.zeros((), half.dtype)
    price = bisect(lambda price: _small_noise_loss(gaps, kappas(price), sigma) < loss, low, high)
    # Bisection has no derivative; the root has that of the implicit function. Where kappas are 0 there is none.
    price = lax.stop_gradient(price)
    found, slope = jax.jvp(
        lambda price: _small_noise_loss(gaps, kappas(price), sigma),
        (price,),
        (jnp.ones_like(price),),
    )
    residual = loss - found
    residual -= lax.stop_gradient(residual)
    slope = lax.stop_gradient(slope)
    return kappas(price + jnp.where(slope > 0, residual / jnp.where(slope > 0, slope, 1), 0))


@checks_kinds
def kappa_for_penalty(points: Float[Array, " n"], penalty: RealScalar) -> Float[Array, " gaps"]:
    """Strengths that a weight penalty implies, as `sigma -> 0`: `G(kappa_k) = n penalty / (2 h_k)`.

    The minimiser of `L + penalty sigma R` bends the score at these effective kappas (read off the slope in the middle of
    each gap, see `effective_kappa`). For a network `sigma * score` with the penalty `(penalty / 2) |weights|^2` in its
    loss; for other parametrisations see `effective_penalty`. Valid for `penalty` well below `sigma`: the slope at a
    datum falls to `1 - n penalty c / (2 sigma)`, with c = 1 for the outer points and 2 for inner ones, and the network
    to zero where that is negative.

    Returns:
        kappa of every gap, shape (n - 1,); 0 where the penalty exceeds `2 h_k G(0) / n`.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> kappa = sj.smoothing.kappa_for_penalty(jnp.array([-1.0, 1.0]), 0.01)
        >>> round(float(sj.smoothing.first_tail(kappa)[0]), 5)  # n penalty / 2 h
        0.01
    """
    gaps = as_gaps(points, 0.0)
    penalty = require_positive(penalty, "penalty").astype(gaps.points.dtype)
    return inverse_first_tail(gaps.points.shape[0] * penalty / (2 * gaps.half_widths[1:-1]))


@checks_kinds
def effective_penalty(
    penalty: RealScalar, sigma: RealScalar, prediction: Prediction, *, weighted: bool = True
) -> Float[Array, ""]:
    """The penalty on a network that predicts the noise that acts like `penalty` on one that predicts something else.

    The non-smoothness R of a network's output is what the penalty acts on; it scales as the output does, whatever its sign,
    and takes no notice of a part linear in u.

    Args:
        penalty: of the squared weights, halved, in the loss.
        sigma: noise level.
        prediction: what the network predicts, see `parametrization.to_denoised`.
        weighted: whether the loss is L, the denoiser's squared error over `sigma^2`, or the plain squared error.

    Raises:
        ValueError: for a penalty or noise level that is not positive, or an unknown prediction.

    Example:
        >>> from smoothjax.smoothing import effective_penalty
        >>> [round(float(effective_penalty(1e-3, 0.1, p)), 6) for p in ("eps", "x0", "score")]
        [0.001, 0.0001, 0.01]
    """
    prediction = as_prediction(prediction)
    penalty = require_positive(penalty, "penalty")
    sigma = require_positive(sigma, "sigma").astype(penalty.dtype)
    scale = jnp.abs(affine_form(prediction, sigma)[1])
    return penalty * (sigma if weighted else 1 / sigma) / scale


@checks_kinds
def effective_kappa(
    denoiser: Denoiser, points: Float[Array, " n"], sigma: RealScalar
) -> Float[Array, " gaps"]:
    """Smoothing strength of any 1-D denoiser in every gap, read off its slope in the middle.

    With `mu = dD/du - 1` at the midpoint, `kappa = (h / sigma) mu / (1 + mu)`: what it is for `PiecewiseLinearDenoiser`.

    Args:
        denoiser: any callable `(u, sigma) -> (1,)`.
        points: distinct training points, shape (n,).
        sigma: noise level.

    Returns:
        kappa of every gap, from left to right, shape (n - 1,); NaN where the slope is not positive.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.PiecewiseLinearDenoiser(jnp.array([-1.0, 1.0]), 0.7)
        >>> print(sj.smoothing.effective_kappa(D, jnp.array([-1.0, 1.0]), 0.1).round(4))
        [0.7]
    """
    gaps = as_gaps(points, 0.0)
    level = jnp.asarray(as_level(sigma, "sigma", gaps.points.dtype))
    middle = 0.5 * (gaps.points[:-1] + gaps.points[1:])
    slope = jax.vmap(jax.grad(lambda x: denoiser(x[None], level)[0]))(middle)
    half = gaps.half_widths[1:-1]
    return jnp.where(slope > 0, half / level * (1 - 1 / jnp.where(slope > 0, slope, 1)), jnp.nan)
