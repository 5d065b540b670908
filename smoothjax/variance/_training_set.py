"""What models are trained on to denoise: noisy points, their noise levels, and targets in the form of a prediction."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import (
    RealScalar,
    as_float_array,
    as_key,
    checked,
    is_concrete,
    require_ascending,
    require_positive,
    shown,
)
from .._kinds import checks_kinds, require_kinds_of_fields
from .._levels import as_level
from ..denoisers import EmpiricalDenoiser
from ..parametrization import Prediction, affine_form, as_prediction
from ..processes import AbstractProcess

# Noise levels drawn for each node: quantiles of so many are as good as those of their law.
LEVELS_PER_NODE = 16
# Of random numbers: exact in float32, cells' midpoints included.
BITS = 23


class UniformTimes(eqx.Module):
    """Noise levels of times drawn uniformly between two times of a forward process.

    Args:
        process: the forward process.
        low, high: times, `low < high`.

    Example:
        >>> import jax, smoothjax as sj
        >>> levels = sj.variance.UniformTimes(sj.Brownian(), 1.0, 3.0)(jax.random.key(0), 1000)
        >>> bool(abs((levels**2).mean() - 2) < 0.1)  # the square of the noise level is the time
        True
    """

    process: AbstractProcess
    low: RealScalar
    high: RealScalar

    def __check_init__(self):
        require_kinds_of_fields(self)
        for name in ("low", "high"):
            level = getattr(self, name)
            if is_concrete(level):
                as_level(level, name, float, or_zero=True)
        require_ascending(self.low, self.high, or_equal=True)

    def __call__(self, key: PRNGKeyArray, num: int) -> Float[Array, " num"]:
        low, high = as_float_array(self.low, "low"), as_float_array(self.high, "high")
        t = jax.random.uniform(key, (num,), minval=low, maxval=high)
        return self.process.noise_level(t)


class LogUniformLevels(eqx.Module):
    """Noise levels drawn log-uniformly.

    Args:
        low, high: noise levels, `low < high`.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> levels = sj.variance.LogUniformLevels(1.0, 100.0)(jax.random.key(0), 1000)
        >>> bool(levels.min() >= 1), bool(levels.max() <= 100), bool(abs(jnp.log10(levels).mean() - 1) < 0.1)
        (True, True, True)
    """

    low: RealScalar
    high: RealScalar

    def __check_init__(self):
        require_kinds_of_fields(self)
        for name in ("low", "high"):
            if is_concrete(getattr(self, name)):
                require_positive(getattr(self, name), name)
        require_ascending(self.low, self.high, or_equal=True)

    def __call__(self, key: PRNGKeyArray, num: int) -> Float[Array, " num"]:
        fraction = jax.random.uniform(key, (num,))
        low, high = as_float_array(self.low, "low"), as_float_array(self.high, "high")
        return low * (high / low) ** fraction


class TrainingSet(NamedTuple):
    """P training triples."""

    x: Float[Array, "P d"]
    u: Float[Array, "P d"]
    sigma: Float[Array, " P"]


class DenoisingProblem(eqx.Module):
    """What a model is trained on and how its output is read: all but the model.

    Triples have `x_0` from the training points, sigma from `levels`, `u = x_0 + sigma z`. A model f is read as
    `D = b + c f`: `f` (`"x0"`), `u - sigma f` (`"eps"`: f is the noise), `u + sigma^2 f` (`"score"`), or as the other
    predictions have it, see `parametrization.to_denoised`. Its loss is the mean of `|D - x_0|^2 / sigma^2`, whatever the
    prediction: a weight `w = c^2 / sigma^2` on the squared error of f. Its root is taken with the sign of c, wherever
    `sqrt(w)` stands in this module.

    The target of denoising score matching is a training point, noise around its posterior mean. Between the noise levels of
    `exact_targets` the posterior mean itself takes its place: the inputs stay the same draw by draw, the targets lose their
    noise, and what remains of the randomness of models trained on them is that of their inputs.

    Args:
        data: training points, shape (n, d), or an `EmpiricalDenoiser` with weights.
        levels: callable `(key, num) -> (num,)` that draws noise levels.
        prediction: how the output is read.
        exact_targets: noise levels `(low, high)`, `0 <= low < high`, between which (both included) a target is the posterior
            mean; `(0, inf)` for all. By default none is.

    Raises:
        ValueError: for data that are no points, an unknown prediction, or levels that do not increase.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> levels = sj.variance.LogUniformLevels(0.1, 10.0)
        >>> problem = sj.variance.DenoisingProblem(jnp.array([[-1.0], [1.0]]), levels, exact_targets=(0.0, 1.0))
        >>> print(problem.target(jnp.array([1.0]), jnp.array([0.0]), jnp.array(0.5)))  # the posterior mean is 0
        [0.]
        >>> print(problem.target(jnp.array([1.0]), jnp.array([0.0]), jnp.array(2.0)))
        [0.5]
    """

    data: EmpiricalDenoiser
    levels: Callable[[PRNGKeyArray, int], Float[Array, " num"]]
    prediction: Prediction = eqx.field(static=True)
    exact_targets: tuple[Float[Array, ""], Float[Array, ""]] | None

    @checks_kinds
    def __init__(
        self,
        data: Any,
        levels: Callable[[PRNGKeyArray, int], Float[Array, " num"]],
        *,
        prediction: Prediction = "x0",
        exact_targets: tuple[RealScalar, RealScalar] | None = None,
    ):
        self.data = data if isinstance(data, EmpiricalDenoiser) else EmpiricalDenoiser(data)
        self.levels, self.prediction = levels, as_prediction(prediction)
        self.exact_targets = None
        if exact_targets is not None:
            self.exact_targets = _as_interval(exact_targets, self.data.data.dtype)

    def draw(self, key: PRNGKeyArray, num: int) -> TrainingSet:
        """A fresh training set of `num` triples; x are training points, whatever the targets made of them."""
        key = as_key(key)
        pick, level, noise = jax.random.split(key, 3)
        data = self.data.data
        x = data[jax.random.choice(pick, data.shape[0], (num,), p=self.data.weights)]
        sigma = self.levels(level, num).astype(data.dtype)
        u = x + sigma[:, None] * jax.random.normal(noise, x.shape, data.dtype)
        return TrainingSet(x, u, sigma)

    def root_weight(self, u: Float[Array, " d"], sigma: Float[Array, ""]) -> Float[Array, ""]:
        """`sqrt(w) = c / sigma`, with the sign of c. Weights span many orders of magnitude, and their roots half as many."""
        return output_form(self.prediction, u, sigma)[1] / sigma

    def target(
        self, x: Float[Array, " d"], u: Float[Array, " d"], sigma: Float[Array, ""]
    ) -> Float[Array, " d"]:
        """`sqrt(w) y = (x - b) / sigma`, for a training point x; for its posterior mean where targets are exact."""
        if self.exact_targets is not None:
            x = jnp.where(self._is_exact(sigma), self.data(u, sigma), x)
        return (x - output_form(self.prediction, u, sigma)[0]) / sigma

    def target_noise(self, u: Float[Array, " d"], sigma: Float[Array, ""]) -> Float[Array, "d d"]:
        """A root B of the covariance of `sqrt(w) y` given the input, `B B^T = Cov(x_0 | u) / sigma^2`; 0 if exact."""
        # Singular in general: eigenvalues, not Cholesky.
        covariance = self.data.posterior_covariance(u, sigma) / sigma**2
        values, vectors = jnp.linalg.eigh(covariance)
        root = vectors * jnp.sqrt(jnp.maximum(values, 0))[None]
        if self.exact_targets is not None:
            root = jnp.where(self._is_exact(sigma), 0, root)
        return root

    def _is_exact(self, sigma: Float[Array, ""]) -> Array:
        assert self.exact_targets is not None
        low, high = self.exact_targets
        return (low <= sigma) & (sigma <= high)


class Nodes(NamedTuple):
    """Inputs for expectations over training inputs: means over nodes, weighted by `share`, which has mean one."""

    u: Float[Array, "n d"]
    sigma: Float[Array, " n"]
    share: Float[Array, " n"]


def spread_nodes(problem: DenoisingProblem, key: PRNGKeyArray, num: int) -> Nodes:
    """Nodes for expectations over the inputs that `problem.draw` draws, with smaller errors than that many draws.

    What decides a model's variance are rare inputs, of small noise level and some standard deviations from their training
    point, near the boundary to another's basin. Quantiles of the noise level are squares of uniform numbers v, and half of
    the nodes have normal numbers of variance `1 + 3 / d`; a node's share, the ratio of the densities, is at most four. Of
    v, point and normal numbers together the nodes are a Sobol sequence with a random digital shift.
    """
    key = as_key(key)
    of_levels, of_shift = jax.random.split(key)
    points, dtype = problem.data.data, problem.data.data.dtype
    dim = points.shape[1]
    uniform = _shifted_sobol(of_shift, num, dim + 2).astype(dtype)
    levels = jnp.sort(problem.levels(of_levels, LEVELS_PER_NODE * num).astype(dtype))
    v = uniform[:, 0]
    sigma = levels[jnp.minimum((v**2 * levels.size).astype(int), levels.size - 1)]
    index = jnp.searchsorted(jnp.cumsum(problem.data.weights), uniform[:, 1], side="right")
    x = points[jnp.minimum(index, points.shape[0] - 1)]
    num_wide, variance = num // 2, 1 + 3 / dim
    scale = jnp.where(jnp.arange(num) < num - num_wide, 1, variance**0.5).astype(dtype)
    z = scale[:, None] * ndtri(uniform[:, 2:])
    # Of the wide normal density to the standard one: it grows beyond all bounds far out, where the share vanishes.
    ratio = jnp.exp(0.5 * (1 - 1 / variance) * jnp.sum(z**2, axis=1)) * variance ** (-dim / 2)
    share = 2 * v / (1 + num_wide / num * (ratio - 1))
    return Nodes(x + sigma[:, None] * z, sigma, share / jnp.mean(share))


def _shifted_sobol(key: PRNGKeyArray, num: int, dim: int) -> Float[Array, "num dim"]:
    """A Sobol sequence whose digits a random number per dimension exchanges: each point is uniform in (0, 1)."""
    from scipy.stats import qmc

    # Asked for another number than a power of two at once, SciPy would warn.
    net = qmc.Sobol(dim, scramble=False, bits=30).random_base2((num - 1).bit_length())[:num]
    digits = jnp.asarray((net * 2**BITS).astype(np.uint32))
    shift = jax.random.bits(key, (dim,), jnp.uint32) >> (32 - BITS)
    return ((digits ^ shift[None]).astype(float) + 0.5) * 0.5**BITS


def _as_interval(levels: Any, dtype: Any) -> tuple[Array, Array]:
    if len(levels) != 2:
        raise ValueError(
            f"`exact_targets` must be two noise levels (low, high); got {shown(levels)}."
        )
    low, high = (as_float_array(level, "exact_targets").astype(dtype) for level in levels)
    return low, checked(
        high,
        ~((low >= 0) & (low < high)),
        "`exact_targets` must be noise levels 0 <= low < high",
        f"; got {levels}",
    )


def output_form(prediction: Prediction, u: Array, sigma: Array) -> tuple[Array, Array]:
    """`(b, c)` of `D = b + c f`."""
    skip, scale = affine_form(prediction, sigma)
    return skip * u, scale
