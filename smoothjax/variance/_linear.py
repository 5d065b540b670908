"""Models that are linear in their weights, and training one."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import (
    RealScalar,
    as_float_array,
    as_key,
    as_positive_integer,
    checked,
    require_positive,
)
from .._kinds import checks_kinds, require_kinds_of_fields
from .._numerics import gram_factor
from ..denoisers import AbstractDenoiser
from ..parametrization import Prediction, as_prediction
from ..processes import AbstractProcess
from ._features import Features, combine_features
from ._training_set import DenoisingProblem, UniformTimes, output_form


class LinearDenoiser(AbstractDenoiser):
    """`D = b + c W phi(u, sigma)`, with b and c of the prediction, see `DenoisingProblem`.

    Args:
        features: callable `(u, sigma) -> (F,)`.
        weights: W, shape (d, F).
        prediction: what `W phi` stands for.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> affine = lambda u, sigma: jnp.append(u, 1.0)
        >>> D = sj.variance.LinearDenoiser(affine, jnp.array([[0.5, 1.0]]))
        >>> print(D(jnp.array([4.0]), 1.0))  # u / 2 + 1
        [3.]
    """

    features: Features
    weights: Float[Array, "d F"] = eqx.field(converter=lambda x: as_float_array(x, "weights"))
    prediction: Prediction = eqx.field(static=True, default="x0", converter=as_prediction)

    def __check_init__(self):
        require_kinds_of_fields(self)

    @property
    def dim(self) -> int:
        return self.weights.shape[0]

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        base, scale = output_form(self.prediction, u, sigma)
        output = combine_features(self.features, self.weights.astype(u.dtype), u, sigma)
        return base + scale * output


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

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> levels = sj.variance.LogUniformLevels(0.1, 10.0)
        >>> denoising = sj.variance.DenoisingProblem(jnp.array([[-1.0], [1.0]]), levels)
        >>> problem = sj.variance.LinearProblem(denoising, lambda u, sigma: jnp.append(u, 1.0), ridge=0.1)
        >>> print(problem.regressors(jnp.array([4.0]), jnp.array(2.0)))  # (4, 1) times the root of the weight 1 / sigma^2
        [2.  0.5]
    """

    denoising: DenoisingProblem
    features: Features
    ridge: Float[Array, ""]

    @checks_kinds
    def __init__(self, denoising: DenoisingProblem, features: Features, *, ridge: RealScalar):
        self.denoising, self.features = denoising, features
        self.ridge = require_positive(ridge, "ridge").astype(denoising.data.data.dtype)

    def regressors(self, u: Float[Array, " d"], sigma: Float[Array, ""]) -> Float[Array, " F"]:
        """`sqrt(w) phi`."""
        return self.features(u, sigma) * self.denoising.root_weight(u, sigma)

    def denoiser(self, weights: Float[Array, "d F"]) -> LinearDenoiser:
        """The model with these weights."""
        return LinearDenoiser(self.features, weights, self.denoising.prediction)


@checks_kinds
@eqx.filter_jit
def train_linear(problem: LinearProblem, num_train: int, key: PRNGKeyArray) -> LinearDenoiser:
    """One model trained on a fresh training set: the exact minimiser of its loss.

    Solved from the normal equations of the scaled regressors, whose condition is at most their largest square over the
    ridge: use float64 where that exceeds 1e6.

    Args:
        problem: what is trained.
        num_train: P, triples (not distinct points).
        key: of the training set. For many models, `jax.vmap` over keys.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> denoising = sj.variance.DenoisingProblem(jnp.array([[3.0]]), sj.variance.LogUniformLevels(0.5, 2.0))
        >>> problem = sj.variance.LinearProblem(denoising, lambda u, sigma: jnp.ones(1), ridge=1e-6)
        >>> D = sj.variance.train_linear(problem, 20, jax.random.key(0))
        >>> round(float(D(jnp.array([5.0]), 1.0)[0]), 3)  # all there is to learn is the only training point
        3.0
    """
    key = as_key(key)
    triples = problem.denoising.draw(key, as_positive_integer(num_train, "num_train"))
    regressors = jax.vmap(problem.regressors)(triples.u, triples.sigma)
    targets = jax.vmap(problem.denoising.target)(*triples)
    return problem.denoiser(ridge_solution(regressors, targets, problem.ridge))


@checks_kinds
def fit_linear(
    features: Features,
    process: AbstractProcess,
    data: Float[Array, "n d"],
    num_train: int,
    ridge: RealScalar,
    key: PRNGKeyArray,
    *,
    cutoff: RealScalar = 0.01,
    prediction: Prediction = "x0",
) -> LinearDenoiser:
    """One retrained feature-linear model, as in the variance paper: times uniform, from `cutoff` to the process's end.

    The short form of `train_linear` with a `LinearProblem`, where the noise levels can be drawn otherwise.

    Args:
        features: callable `(u, sigma) -> (F,)`, e.g. `ProductFeatures` of the same process.
        process: forward process with an end, e.g. `VariancePreserving`.
        data: training points, shape (n, d), at the scale that the process is meant for.
        num_train: P, triples that are drawn (not distinct points).
        ridge: relative to the mean over samples, positive.
        key: of the training set.
        cutoff: smallest time, positive.
        prediction: what the model is read as, see `DenoisingProblem`.

    Raises:
        ValueError: for bad data, ridge or prediction, a process without end, or a cutoff that is not below it.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> process = sj.VariancePreserving.from_drift_rate(0.1, 20.0)
        >>> bumps = sj.variance.GaussianBumps.evenly(-1.5, 1.5, 16)
        >>> times = sj.variance.GaussianBumps.evenly(0.01, 1.0, 16)
        >>> features = sj.variance.ProductFeatures([bumps], times, process)
        >>> points = jnp.array([[-1.0], [0.0], [1.0]])
        >>> D = sj.fit_linear(features, process, points, 256, 0.1, jax.random.key(0))
        >>> D.weights.shape
        (1, 256)
    """
    key = as_key(key)
    cutoff = require_positive(cutoff, "cutoff")
    if not math.isfinite(process.max_time):
        raise ValueError(
            f"`process` must have an end, to draw times uniformly; {type(process).__name__} has none."
        )
    high = jnp.asarray(process.max_time, cutoff.dtype)
    cutoff = checked(cutoff, cutoff >= high, f"`cutoff` must lie below {process.max_time:g}")
    denoising = DenoisingProblem(data, UniformTimes(process, cutoff, high), prediction=prediction)
    return train_linear(LinearProblem(denoising, features, ridge=ridge), num_train, key)


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

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> denoising = sj.variance.DenoisingProblem(jnp.array([[3.0]]), sj.variance.LogUniformLevels(0.5, 2.0))
        >>> problem = sj.variance.LinearProblem(denoising, lambda u, sigma: jnp.ones(1), ridge=1e-6)
        >>> D = sj.variance.RetrainedLaw(problem, 20).sample(jax.random.key(0))
        >>> round(float(D(jnp.array([5.0]), 1.0)[0]), 3)  # all there is to learn is the only training point
        3.0
    """

    problem: LinearProblem
    num_train: int = eqx.field(
        static=True, converter=lambda num: as_positive_integer(num, "num_train")
    )

    def __check_init__(self):
        require_kinds_of_fields(self)

    def sample(self, key: PRNGKeyArray) -> LinearDenoiser:
        """A freshly trained model."""
        key = as_key(key)
        return train_linear(self.problem, self.num_train, key)
