r"""Weights of exponential multistep methods on a grid of noise levels.

A step from s to t with the linear part exact is `u' = (t/s) u + (1 - t/s) mean(D)`, with the mean of `D(u(r), r)` over the
step taken with the weight `dr / r^2`. A multistep method takes D for a polynomial in some variable x(r) through the outputs
it has. For one Gaussian direction of variance l, `D = l z / sqrt(l + r^2)` along the flow, no polynomial in any one
variable; what a method gains or loses on it depends on `s^2 / l` and on the step's ratio only. On a grid with a constant
ratio, `log s` runs past `log sqrt(l)` in equal steps, so that the logarithm of the gain over the whole flow is the sum, over
a lattice, of a smooth function: it is that function's mean, but for terms that fall like `exp(-pi^2 / h)`. So a variable in
which the mean is zero makes the flow of *every* Gaussian exact to `exp(-pi^2 / h)`, whatever its covariance, with the order
of the method as it is. Powers `x = r^p` are enough; the tables below hold p by h. In the same way, the reverse SDE's
variance of every Gaussian is made exact by the share of the last increment that is taken along.

The powers are zeros of the mean log gain by bisection, with the flow's first outputs exact, over 18 log units; tests find
them again. Between the entries they are interpolated. What is left swings with `4 exp(-pi^2 / h)`.

An output is that of the predicted state, and stands for the corrected one in all steps to come: with a second call there,
methods of order three err 2.4 times less on a mixture of Gaussians at 12 to 24 levels. With an assumed derivative of D by
the state both the correction and the output are moved towards where they belong without a call, which gains some of that.
Source: ours; the methods are those of DPM-Solver++ (Lu et al. 2022) and UniPC (Zhao et al. 2023), whose variable is `log r`,
p = 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Steps in log sigma, and the power for the predictor and the corrector at each. Second order: the corrector's is 0.
_SECOND_STEPS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.25, 1.5, 1.75, 2.0)
_SECOND = (
    0.9687, 0.9387, 0.8786, 0.819, 0.7596, 0.7007, 0.6155, 0.5371, 0.4464, 0.3556, 0.2859, 0.2318, 0.1883,
)  # fmt: skip
# Third order: of the curve of pairs, the corrector in log r where steps are small, and where they are large those with the
# least that is left.
_THIRD_STEPS = (
    0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.66, 0.67, 0.68, 0.7, 0.725, 0.75, 0.8,
    0.85, 0.9, 0.963, 1.0, 1.03, 1.06, 1.12, 1.177, 1.21, 1.25, 1.29, 1.325, 1.36, 1.4, 1.43, 1.46, 1.514, 1.6, 1.7,
    1.8, 1.9, 2.0,
)  # fmt: skip
_THIRD_PREDICTOR = (
    0.2776, 0.2461, 0.2155, 0.1861, 0.1578, 0.1307, 0.105, 0.0806, 0.0576, 0.0361, 0.0161, -0.0024, -0.0194, -0.018,
    -0.016, -0.014, -0.01, -0.005, 0.0, 0.0, 0.01, 0.02, 0.04, 0.055, 0.0675, 0.08, 0.12, 0.18, 0.216, 0.26, 0.312,
    0.36, 0.416, 0.48, 0.53, 0.58, 0.63, 0.62, 0.6, 0.55, 0.5, 0.45,
)  # fmt: skip
_THIRD_CORRECTOR = (
    0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.2292, -0.2579, -0.28, -0.314, -0.3452,
    -0.3692, -0.3902, -0.4168, -0.435, -0.4544, -0.4631, -0.468, -0.4712, -0.4765, -0.4762, -0.4718, -0.4628, -0.4495,
    -0.4344, -0.4146, -0.3873, -0.3625, -0.333, -0.2859, -0.2522, -0.2145, -0.2134, -0.2176, -0.2251,
)  # fmt: skip
# The derivative of D by the state that a corrector of order three assumes, a multiple of the identity. For a Gaussian it is
# between 0 and 1 in every direction, and 1/2 where the noise level passes the direction's spread, which is where D bends.
_SLOPE = 0.5
# The share of the last increment of D, by stochasticity (rows) and step (those of the second order).
_STOCHASTICITIES = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 40.0)
_SHARES = (
    (0.4939, 0.4881, 0.4776, 0.4686, 0.4611, 0.4551, 0.4488, 0.4457, 0.4457, 0.4511, 0.4617, 0.4756, 0.4941),
    (0.4936, 0.4875, 0.4765, 0.4672, 0.4595, 0.4536, 0.4478, 0.4454, 0.4467, 0.454, 0.4667, 0.4824, 0.503),
    (0.4933, 0.4869, 0.4755, 0.4659, 0.4583, 0.4525, 0.4472, 0.4455, 0.448, 0.457, 0.4715, 0.4887, 0.511),
    (0.4927, 0.4859, 0.4739, 0.464, 0.4563, 0.4509, 0.4466, 0.4464, 0.4511, 0.4628, 0.4801, 0.4992, 0.5237),
    (0.492, 0.4845, 0.4715, 0.4613, 0.454, 0.4495, 0.4472, 0.4494, 0.4574, 0.4725, 0.4926, 0.513, 0.5387),
    (0.491, 0.4827, 0.4689, 0.4588, 0.4525, 0.4497, 0.4505, 0.4555, 0.4662, 0.4829, 0.5034, 0.5226, 0.5475),
    (0.49, 0.4811, 0.4667, 0.4576, 0.4532, 0.4523, 0.4553, 0.4613, 0.4719, 0.4873, 0.5068, 0.5248, 0.5489),
    (0.4885, 0.479, 0.4659, 0.4587, 0.4555, 0.455, 0.4577, 0.463, 0.4729, 0.4878, 0.5069, 0.5248, 0.5489),
)  # fmt: skip

EQUAL = 1.01  # steps that differ by no more are of a constant ratio
# Of the mean over a step, in log r. To rounding for steps up to a factor of a thousand.
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(24)


class GridWeights(NamedTuple):
    """Weights of past outputs in the mean of D over each step, newest first; each row sums to one."""

    predictor: Float[Array, "steps order"]
    corrector: Float[Array, "steps order+1"]
    """The first is that of the output at the step's end, the others as the predictor's."""
    slope: Float[Array, ""]
    """The derivative of D by the state along the correction; zero for none."""


def grid_weights(levels: Float[Array, " m"], order: int) -> GridWeights:
    """For the flow on given levels, by a method of order one, two or three; first steps have fewer outputs behind them."""
    levels = jnp.asarray(levels)
    starts, ends = levels[:-1], levels[1:]
    steps = jnp.arange(len(levels) - 1)
    size = jnp.abs(jnp.log(ends / starts))
    # The powers are those of equal steps; on other grids the variable is log r.
    equal = jnp.max(size) <= EQUAL * jnp.min(size)
    predictor, corrector = (jnp.where(equal, power, 0) for power in _powers(size, order))
    past = steps[:, None] - jnp.arange(order)[None]
    known = past >= 0
    nodes = levels[jnp.maximum(past, 0)]
    predicted = jax.vmap(_mean_weights)(nodes, known, starts, ends, predictor)
    nodes, known = jnp.c_[ends, nodes], jnp.c_[jnp.ones_like(steps, bool), known]
    if order == 2:
        # On grids of many step sizes a third output, far away or near, does harm.
        known = known.at[:, 2].set(known[:, 2] & equal)
    corrected = jax.vmap(_mean_weights)(nodes, known, starts, ends, corrector)
    slope = jnp.asarray(_SLOPE if order == 3 else 0.0, levels.dtype)
    return GridWeights(predicted, corrected, slope)


def increment_shares(levels: Float[Array, " m"], eta: Array) -> Float[Array, " steps"]:
    """For the reverse SDE on given levels: how much of D's last increment each step takes along; the first has none."""
    levels = jnp.asarray(levels)
    h = jnp.abs(jnp.diff(jnp.log(levels)))
    table = jnp.asarray(_SHARES, levels.dtype)
    eta, rows = jnp.asarray(eta, levels.dtype), jnp.asarray(_STOCHASTICITIES, levels.dtype)
    sizes = jnp.asarray(_SECOND_STEPS, levels.dtype)
    by_step = jax.vmap(lambda row: jnp.interp(h, sizes, row))(table)
    # In a variable that has both ends.
    part = lambda eta: eta / (1 + eta)  # noqa: E731
    share = jax.vmap(lambda column: jnp.interp(part(eta), part(rows), column), 1)(by_step)
    # An increment over another step, in proportion.
    ratio = h[1:] / h[:-1]
    return jnp.append(jnp.zeros(1, levels.dtype), share[1:] * ratio)


def _powers(size: Array, order: int) -> tuple[Array, Array]:
    if order < 2:
        return jnp.zeros_like(size), jnp.zeros_like(size)
    if order == 2:
        return _interpolated(size, _SECOND_STEPS, _SECOND), jnp.zeros_like(size)
    predictor = _interpolated(size, _THIRD_STEPS, _THIRD_PREDICTOR)
    return predictor, _interpolated(size, _THIRD_STEPS, _THIRD_CORRECTOR)


def _interpolated(size: Array, steps: tuple[float, ...], values: tuple[float, ...]) -> Array:
    return jnp.interp(size, jnp.asarray(steps, size.dtype), jnp.asarray(values, size.dtype))


def _mean_weights(
    nodes: Float[Array, " k"], known: Bool[Array, " k"], start: Array, end: Array, power: Array
) -> Float[Array, " k"]:
    """Weights, at the nodes that are known, of the mean over a step of the polynomial in `r^power` through them."""

    def variable(r: Array) -> Array:
        # (r/start)^power up to a constant and a factor, with its limit log r.
        log = jnp.log(r / start)
        return jnp.where(power == 0, log, jnp.expm1(power * log) / jnp.where(power == 0, 1, power))

    step = jnp.log(end / start)
    way = 0.5 * step * (1 + jnp.asarray(_NODES, step.dtype))
    weights = jnp.asarray(_NODE_WEIGHTS, step.dtype) * jnp.exp(-way)
    weights /= jnp.sum(weights)
    at, x = variable(start * jnp.exp(way)), variable(nodes)
    others = known[None, :] & ~jnp.eye(len(nodes), dtype=bool)
    gaps = jnp.where(others, x[:, None] - x[None, :], 1)
    factors = jnp.where(others[None], (at[:, None, None] - x[None, None, :]) / gaps[None], 1)
    polynomials = jnp.where(known, jnp.prod(factors, axis=-1), 0)  # (24, k)
    # Not a product of matrices, which accelerators may round to fewer digits.
    return jnp.sum(weights[:, None] * polynomials, axis=0)
