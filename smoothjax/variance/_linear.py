"""Models that are linear in their weights, and training one."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import RealScalar, as_positive_integer, require_positive
from ..denoisers import AbstractDenoiser
from ._features import Features
from ._training_set import DenoisingProblem, Prediction, output_form


class LinearDenoiser(AbstractDenoiser):
    """`D = b + c W phi(u, sigma)`, with b and c of the prediction, see `DenoisingProblem`.

    Args:
        features: callable `(u, sigma) -> (F,)`.
        weights: W, shape (d, F).
        prediction: what `W phi` stands for.
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


class LinearProblem(eqx.Module):
    """All that decides a model linear in its weights, but the draw of its training set.

    Minimised is `(1/P) sum_n w_n |y_n - W phi_n|^2 + ridge |W|^2` over P triples.

    Args:
        denoising: data, noise levels and prediction.
        features: callable `(u, sigma) -> (F,)`.
        ridge: epsilon, positive; relative to the mean over samples, not to their sum.

    Raises:
        ValueError: for a ridge that is not positive.

    Source: Vastola, ICLR 2025, section 5 and Figures 2 and 3 (prediction `"x0"`).
    """

    denoising: DenoisingProblem
    features: Features
    ridge: Float[Array, ""]

    def __init__(self, denoising: DenoisingProblem, features: Features, *, ridge: RealScalar):
        self.denoising, self.features = denoising, features
        self.ridge = require_positive(ridge, "ridge").astype(denoising.data.data.dtype)

    def regressors(self, u: Float[Array, " d"], sigma: Float[Array, ""]) -> Float[Array, " F"]:
        """`sqrt(w) phi`."""
        return self.features(u, sigma) * self.denoising.root_weight(u, sigma)

    def denoiser(self, weights: Float[Array, "d F"]) -> LinearDenoiser:
        """The model with these weights."""
        return LinearDenoiser(self.features, weights, self.denoising.prediction)


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
    triples = problem.denoising.draw(key, as_positive_integer(num_train, "num_train"))
    regressors = jax.vmap(problem.regressors)(triples.u, triples.sigma)
    targets = jax.vmap(problem.denoising.target)(*triples)
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


class RetrainedLaw(eqx.Module):
    """The law of a linear model itself: every draw is trained on a fresh training set. Nothing is approximated.

    Its mean and covariance have no closed form: `LinearModelLaw.from_retraining` estimates them.

    Args:
        problem: what is trained.
        num_train: P, triples.
    """

    problem: LinearProblem
    num_train: int = eqx.field(static=True)

    def sample(self, key: PRNGKeyArray) -> LinearDenoiser:
        """A freshly trained model."""
        return train_linear(self.problem, self.num_train, key)
