"""Models that are linear in their weights: what they are trained on, and training one."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import RealScalar, as_positive_integer, require_positive
from ..denoisers import AbstractDenoiser, EmpiricalDenoiser
from ..processes import AbstractProcess
from ._features import Features

Prediction = Literal["x0", "eps", "score"]


class UniformTimes(eqx.Module):
    """Noise levels of times drawn uniformly between two times of a forward process.

    Args:
        process: the forward process.
        low, high: times, `low < high`.
    """

    process: AbstractProcess
    low: float
    high: float

    def __call__(self, key: PRNGKeyArray, num: int) -> Float[Array, " num"]:
        t = jax.random.uniform(key, (num,), minval=self.low, maxval=self.high)
        return self.process.noise_level(t)


class LogUniformLevels(eqx.Module):
    """Noise levels drawn log-uniformly.

    Args:
        low, high: noise levels, `low < high`.
    """

    low: float
    high: float

    def __call__(self, key: PRNGKeyArray, num: int) -> Float[Array, " num"]:
        fraction = jax.random.uniform(key, (num,))
        return self.low * (self.high / self.low) ** fraction


class LinearDenoiser(AbstractDenoiser):
    """`D = W phi` (`"x0"`), `u + sigma W phi` (`"eps"`) or `u + sigma^2 W phi` (`"score"`).

    Args:
        features: callable `(u, sigma) -> (F,)`.
        weights: W, shape (d, F).
        prediction: what `W phi` stands for; `"eps"` is `sigma * score`, the noise up to sign.
    """

    features: Features
    weights: Float[Array, "d F"]
    prediction: Prediction = eqx.field(static=True, default="x0")

    @property
    def dim(self) -> int:
        return self.weights.shape[0]

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        base, scale = output_form(self.prediction, u, sigma)
        return base + scale * (self.weights.astype(u.dtype) @ self.features(u, sigma))


def output_form(prediction: Prediction, u: Array, sigma: Array) -> tuple[Array, Array]:
    """`(b, c)` of `D = b + c W phi`."""
    if prediction == "x0":
        return jnp.zeros_like(u), jnp.ones_like(sigma)
    return u, sigma if prediction == "eps" else sigma**2


class LinearProblem(eqx.Module):
    """All that decides a model linear in its weights, but the draw of its training set.

    Minimised is `(1/P) sum_n w_n |y_n - W phi_n|^2 + ridge |W|^2` over P triples `(x_0, u, sigma)`: `x_0` from the training
    points, sigma from `levels`, `u = x_0 + sigma z`; `y = (x_0 - b) / c` in the form of `prediction`. With the weight
    `w = c^2 / sigma^2` the loss is `|D - x_0|^2 / sigma^2`, whatever the prediction.

    Args:
        data: training points, shape (n, d), or an `EmpiricalDenoiser` with weights.
        features: callable `(u, sigma) -> (F,)`.
        levels: callable `(key, num) -> (num,)` that draws noise levels.
        ridge: epsilon, positive; relative to the mean over samples, not to their sum.
        prediction: what `W phi` stands for, see `LinearDenoiser`.

    Raises:
        ValueError: for data that are no points, a ridge that is not positive, an unknown prediction.

    Source: Vastola, ICLR 2025, section 5 and Figures 2 and 3 (prediction `"x0"`).
    """

    data: EmpiricalDenoiser
    features: Features
    levels: Callable[[PRNGKeyArray, int], Float[Array, " num"]]
    ridge: Float[Array, ""]
    prediction: Prediction = eqx.field(static=True)

    def __init__(
        self,
        data: Any,
        features: Features,
        levels: Callable[[PRNGKeyArray, int], Float[Array, " num"]],
        *,
        ridge: RealScalar,
        prediction: Prediction = "x0",
    ):
        self.data = data if isinstance(data, EmpiricalDenoiser) else EmpiricalDenoiser(data)
        if prediction not in get_args(Prediction):
            raise ValueError(
                f"`prediction` must be one of {get_args(Prediction)}; got {prediction!r}."
            )
        self.features, self.levels, self.prediction = features, levels, prediction
        self.ridge = require_positive(ridge, "ridge").astype(self.data.data.dtype)

    def draw(self, key: PRNGKeyArray, num: int) -> "TrainingSet":
        """A fresh training set of `num` triples."""
        pick, level, noise = jax.random.split(key, 3)
        data = self.data.data
        x = data[jax.random.choice(pick, data.shape[0], (num,), p=self.data.weights)]
        sigma = self.levels(level, num).astype(data.dtype)
        u = x + sigma[:, None] * jax.random.normal(noise, x.shape, data.dtype)
        return TrainingSet(x, u, sigma)

    def regressors(self, u: Array, sigma: Array) -> Float[Array, " F"]:
        """`sqrt(w) phi = c phi / sigma`. Weights span many orders of magnitude, and their roots half as many."""
        return self.features(u, sigma) * (output_form(self.prediction, u, sigma)[1] / sigma)

    def target(self, x: Array, u: Array, sigma: Array) -> Float[Array, " d"]:
        """`sqrt(w) y = (x - b) / sigma`, for a training point x or its posterior mean."""
        return (x - output_form(self.prediction, u, sigma)[0]) / sigma

    def denoiser(self, weights: Float[Array, "d F"]) -> LinearDenoiser:
        """The model with these weights."""
        return LinearDenoiser(self.features, weights, self.prediction)


class TrainingSet(NamedTuple):
    """P training triples."""

    x: Float[Array, "P d"]
    u: Float[Array, "P d"]
    sigma: Float[Array, " P"]


@eqx.filter_jit
def train_linear(problem: LinearProblem, num_train: int, key: PRNGKeyArray) -> LinearDenoiser:
    """One model trained on a fresh training set: the exact minimiser of its loss.

    Solved from the normal equations of the scaled regressors, whose condition is at most their largest square over the
    ridge: use float64 where that exceeds 1e6.

    Args:
        problem: what is trained.
        num_train: P, triples (not distinct points).
        key: of the training set. For many models, `jax.vmap` over keys.
    """
    triples = problem.draw(key, as_positive_integer(num_train, "num_train"))
    regressors = jax.vmap(problem.regressors)(triples.u, triples.sigma)
    targets = jax.vmap(problem.target)(*triples)
    return problem.denoiser(ridge_solution(regressors, targets, problem.ridge))


def gram_factor(regressors: Float[Array, "P F"], ridge: Array) -> Any:
    """Cholesky factor of `Sigma + ridge`, with Sigma the mean of `w phi phi^T`."""
    P, F = regressors.shape
    gram = jnp.matmul(regressors.T, regressors, precision="highest") / P
    return jax.scipy.linalg.cho_factor(gram + ridge * jnp.eye(F, dtype=gram.dtype))


def ridge_solution(
    regressors: Float[Array, "P F"], targets: Float[Array, "P d"], ridge: Array
) -> Float[Array, "d F"]:
    """Weights that minimise the loss."""
    moments = jnp.matmul(regressors.T, targets, precision="highest") / regressors.shape[0]
    return jax.scipy.linalg.cho_solve(gram_factor(regressors, ridge), moments).T
