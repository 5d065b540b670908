"""The law of models linear in their weights: mean and covariance of the weights, by several routes to them."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import RealScalar, as_float_array, as_key, as_positive_integer
from .._kinds import checks_kinds, require_kinds_of_fields
from .._numerics import gram_factor
from ..parametrization import Prediction, as_prediction
from ._features import Features
from ._law import AbstractLaw
from ._linear import LinearDenoiser, LinearProblem, ridge_solution, train_linear
from ._training_set import output_form, spread_nodes

HIGHEST = jax.lax.Precision.HIGHEST
# Steps of the two fixed points of the deterministic equivalent; they contract, slowly near the interpolation peak.
MAX_ITERATIONS = 500


class LinearModelLaw(AbstractLaw):
    """Models `W phi` with random weights of a given mean and covariance; Gaussian, where a draw is asked for.

    Made by one of the constructors, which differ in what they average over and what they leave out:

    - `from_retraining`: of models that were trained. No approximation but the number of models.
    - `fixed_design`: given the inputs (u, sigma), over the targets. Exact at any P; one design's covariance can be far from
      another's.
    - `averaged_over_designs`: over inputs and targets, by the law of total covariance; Monte Carlo over designs.
    - `large_sample`: leading order in 1/P (a sandwich). Needs P well above tr Sigma R, in practice 40 times.
    - `deterministic_equivalent`: for P of the order of the number of features, and above.

    The weights are asymptotically Gaussian; with few samples a feature they are not.

    Attributes:
        features, prediction: as in `LinearDenoiser`.
        mean_weights: shape (d, F).
        factor: B, with `Cov(W_ia, W_jb) = sum_r B_iar B_jbr`; shape (d, F, r).

    Source: Vastola, ICLR 2025, section 5, Proposition 5.1 (`large_sample` with `noise_only`); the other routes are classical
    least squares.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> line = lambda u, sigma: u  # D = w u with w of mean 0.5 and standard deviation 0.1
        >>> law = sj.LinearModelLaw(line, jnp.array([[0.5]]), jnp.array([[[0.1]]]))
        >>> u, v = jnp.array([10.0]), jnp.array([20.0])
        >>> print(law.mean_denoiser(u, 1.0), law.covariance(u, 1.0, v, 1.0).round(5))
        [5.] [[2.]]
    """

    features: Features
    mean_weights: Float[Array, "d F"] = eqx.field(
        converter=lambda x: as_float_array(x, "mean_weights")
    )
    factor: Float[Array, "d F r"] = eqx.field(converter=lambda x: as_float_array(x, "factor"))
    prediction: Prediction = eqx.field(static=True, default="x0", converter=as_prediction)

    def __check_init__(self):
        require_kinds_of_fields(self)

    @property
    def dim(self) -> int:
        return self.mean_weights.shape[0]

    @property
    def mean_denoiser(self) -> LinearDenoiser:
        return LinearDenoiser(self.features, self.mean_weights, self.prediction)

    def sample(self, key: PRNGKeyArray) -> LinearDenoiser:
        """A model with Gaussian weights."""
        key = as_key(key)
        z = self.coordinates(key)
        weights = self.mean_weights + jnp.matmul(self.factor, z, precision=HIGHEST)
        return LinearDenoiser(self.features, weights, self.prediction)

    def coordinates(self, key: PRNGKeyArray) -> Float[Array, " r"]:
        """Of the model that `sample(key)` draws, along the `directions`: z with `D = mean_denoiser + directions z`."""
        key = as_key(key)
        return jax.random.normal(key, self.factor.shape[-1:], self.factor.dtype)

    def directions(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, "d r"]:
        """What each of the r independent random directions of the weights does to the denoiser at `(u, sigma)`."""
        sigma = jnp.asarray(sigma, u.dtype)
        _, scale = output_form(self.prediction, u, sigma)
        return scale * jnp.einsum(
            "a,iar->ir", self.features(u, sigma), self.factor, precision=HIGHEST
        )

    def covariance(
        self, u: Float[Array, " d"], sigma: RealScalar, v: Float[Array, " d"], tau: RealScalar
    ) -> Float[Array, "d d"]:
        return jnp.matmul(self.directions(u, sigma), self.directions(v, tau).T, precision=HIGHEST)

    @classmethod
    @checks_kinds
    def from_retraining(
        cls, problem: LinearProblem, num_train: int, key: PRNGKeyArray, *, num_models: int
    ) -> "LinearModelLaw":
        """Sample mean and covariance of `num_models` trained models; rank `num_models - 1`.

        Example:
            >>> import jax, jax.numpy as jnp, smoothjax as sj
            >>> levels = sj.variance.LogUniformLevels(10.0, 10.1)  # says little of which of both points it was
            >>> denoising = sj.variance.DenoisingProblem(jnp.array([[-1.0], [1.0]]), levels)
            >>> problem = sj.variance.LinearProblem(denoising, lambda u, sigma: jnp.ones(1), ridge=1e-6)
            >>> law = sj.LinearModelLaw.from_retraining(problem, 50, jax.random.key(0), num_models=200)
            >>> u = jnp.zeros(1)
            >>> bool(abs(50 * law.covariance(u, 1.0, u, 1.0)[0, 0] - 1) < 0.4)  # of a mean of 50 random signs
            True
        """
        key = as_key(key)
        num = _several(num_models, "num_models")
        keys = jax.random.split(key, num)
        weights = jax.lax.map(lambda k: train_linear(problem, num_train, k).weights, keys)
        mean = jnp.mean(weights, axis=0)
        return _law(problem, mean, jnp.moveaxis(weights - mean[None], 0, -1) / jnp.sqrt(num - 1))

    @classmethod
    @checks_kinds
    def fixed_design(
        cls, problem: LinearProblem, num_train: int, key: PRNGKeyArray
    ) -> "LinearModelLaw":
        """Given one draw of the P inputs: `Cov W = P^-2 sum_n w_n^2 Cov(y | z_n) (R phi_n)(R phi_n)^T`, exactly.

        Example:
            >>> import jax, jax.numpy as jnp, smoothjax as sj
            >>> levels = sj.variance.LogUniformLevels(10.0, 10.1)  # says little of which of both points it was
            >>> denoising = sj.variance.DenoisingProblem(jnp.array([[-1.0], [1.0]]), levels)
            >>> problem = sj.variance.LinearProblem(denoising, lambda u, sigma: jnp.ones(1), ridge=1e-6)
            >>> law = sj.LinearModelLaw.fixed_design(problem, 50, jax.random.key(0))
            >>> u = jnp.zeros(1)
            >>> round(50 * float(law.covariance(u, 1.0, u, 1.0)[0, 0]), 1)  # of a mean of 50 random signs
            1.0
        """
        key = as_key(key)
        return _law(problem, *_fixed_design(problem, _count(num_train), key))

    @classmethod
    @checks_kinds
    def averaged_over_designs(
        cls, problem: LinearProblem, num_train: int, key: PRNGKeyArray, *, num_designs: int
    ) -> "LinearModelLaw":
        """Mean of the fixed-design covariance over designs, and covariance of the fixed-design mean between them.

        Example:
            >>> import jax, jax.numpy as jnp, smoothjax as sj
            >>> levels = sj.variance.LogUniformLevels(10.0, 10.1)  # says little of which of both points it was
            >>> denoising = sj.variance.DenoisingProblem(jnp.array([[-1.0], [1.0]]), levels)
            >>> problem = sj.variance.LinearProblem(denoising, lambda u, sigma: jnp.ones(1), ridge=1e-6)
            >>> law = sj.LinearModelLaw.averaged_over_designs(problem, 50, jax.random.key(0), num_designs=20)
            >>> u = jnp.zeros(1)
            >>> round(50 * float(law.covariance(u, 1.0, u, 1.0)[0, 0]), 1)  # of a mean of 50 random signs
            1.0
        """
        key = as_key(key)
        num, P = _several(num_designs, "num_designs"), _count(num_train)
        means, factors = jax.lax.map(
            lambda k: _fixed_design(problem, P, k), jax.random.split(key, num)
        )
        mean = jnp.mean(means, axis=0)
        within = jnp.moveaxis(factors, 0, -1).reshape(*mean.shape, -1) / jnp.sqrt(num)
        between = jnp.moveaxis(means - mean[None], 0, -1) / jnp.sqrt(num - 1)
        return _law(problem, mean, _compressed(jnp.concatenate([within, between], axis=-1)))

    @classmethod
    @checks_kinds
    def large_sample(
        cls,
        problem: LinearProblem,
        num_train: int,
        key: PRNGKeyArray,
        *,
        num_nodes: int = 16_384,
        noise_only: bool = False,
    ) -> "LinearModelLaw":
        """Leading order in 1/P, with expectations over `num_nodes` inputs, quasi-random and more of them where they matter.

        The targets' noise, and what a design leaves unexplained: the residual of the best weights, which vanishes for a well
        specified model without ridge. `noise_only` leaves that out, as Proposition 5.1 does; it underestimates.

        Rare inputs contribute most: see how far two keys agree. In the setting of the variance paper's Figure 2, with 256
        features and t from 0.01, the kernel's relative error is 0.2 with 4,096 nodes and 0.05 with 16,384; of as many plain
        draws it would be 0.3.

        Example:
            >>> import jax, jax.numpy as jnp, smoothjax as sj
            >>> levels = sj.variance.LogUniformLevels(10.0, 10.1)  # says little of which of both points it was
            >>> denoising = sj.variance.DenoisingProblem(jnp.array([[-1.0], [1.0]]), levels)
            >>> problem = sj.variance.LinearProblem(denoising, lambda u, sigma: jnp.ones(1), ridge=1e-6)
            >>> law = sj.LinearModelLaw.large_sample(problem, 50, jax.random.key(0), num_nodes=64)
            >>> u = jnp.zeros(1)
            >>> round(50 * float(law.covariance(u, 1.0, u, 1.0)[0, 0]), 1)  # of a mean of 50 random signs
            1.0
        """
        key = as_key(key)
        P, nodes = _count(num_train), _Nodes.spread(problem, _count(num_nodes, "num_nodes"), key)
        root = jnp.sqrt(nodes.share)[:, None]
        regressors = root * nodes.regressors
        solve = gram_factor(regressors, problem.ridge)
        weights = ridge_solution(regressors, root * nodes.mean, problem.ridge)
        columns = jax.vmap(jnp.outer)  # (d,), (F,) -> (d, F)
        noise = jnp.einsum("nik,na->iank", nodes.noise, regressors)
        parts = [noise.reshape(*weights.shape, -1)]
        if not noise_only:
            residual = nodes.mean - jnp.matmul(nodes.regressors, weights.T, precision=HIGHEST)
            # Their mean is ridge x weights, by the normal equations.
            unexplained = columns(residual, nodes.regressors) - problem.ridge * weights[None]
            parts.append(jnp.moveaxis(root[..., None] * unexplained, 0, -1))
        scores = _compressed(jnp.concatenate(parts, axis=-1)) / jnp.sqrt(
            jnp.asarray(P * nodes.regressors.shape[0], weights.dtype)
        )
        factor = jax.vmap(lambda block: jax.scipy.linalg.cho_solve(solve, block))(scores)
        return _law(problem, weights, factor)

    @classmethod
    @checks_kinds
    def deterministic_equivalent(
        cls, problem: LinearProblem, num_train: int, key: PRNGKeyArray, *, num_nodes: int = 16_384
    ) -> "LinearModelLaw":
        """Leave-one-out equivalent, with expectations over `num_nodes` inputs, as in `large_sample`.

        A sample of leverage q counts `1 / (1 + q / P)`, and its error includes what the other samples' noise did to the
        weights: the feedback that diverges at the interpolation peak. Tends to `large_sample` as P grows.

        **Assumes** that the leverage of an input hardly differs between training sets: many features, and no few inputs that
        carry much of a feature's second moment. With few features or heavy leverage the covariance is off by more than a
        factor of two (seen for P = 20 samples of 6 features). Nothing here measures that: compare then with models fitted
        to training sets that are drawn anew.

        Source: leave-one-out (Sherman and Morrison 1950), with leverages replaced by their means; see
        e.g. Hastie et al. 2022.

        Example:
            >>> import jax, jax.numpy as jnp, smoothjax as sj
            >>> levels = sj.variance.LogUniformLevels(10.0, 10.1)  # says little of which of both points it was
            >>> denoising = sj.variance.DenoisingProblem(jnp.array([[-1.0], [1.0]]), levels)
            >>> problem = sj.variance.LinearProblem(denoising, lambda u, sigma: jnp.ones(1), ridge=1e-6)
            >>> law = sj.LinearModelLaw.deterministic_equivalent(problem, 50, jax.random.key(0), num_nodes=64)
            >>> u = jnp.zeros(1)
            >>> round(50 * float(law.covariance(u, 1.0, u, 1.0)[0, 0]), 1)  # of a mean of 50 random signs
            1.0
        """
        key = as_key(key)
        P, nodes = _count(num_train), _Nodes.spread(problem, _count(num_nodes, "num_nodes"), key)
        return _law(problem, *_leave_one_out(nodes, problem.ridge, P))


class _Nodes(eqx.Module):
    """Inputs with what is known of their targets, all scaled by the root of the weight; and their shares in a mean."""

    regressors: Float[Array, "n F"]  # sqrt(w) phi
    mean: Float[Array, "n d"]  # sqrt(w) E y
    noise: Float[Array, "n d d"]  # a root of w Cov y: `noise noise^T`
    share: Float[Array, " n"]  # of mean one

    @classmethod
    def draw(cls, problem: LinearProblem, num: int, key: PRNGKeyArray) -> "_Nodes":
        """The inputs of a training set."""
        _, u, sigma = problem.denoising.draw(key, num)
        return cls._at(problem, u, sigma, jnp.ones_like(sigma))

    @classmethod
    def spread(cls, problem: LinearProblem, num: int, key: PRNGKeyArray) -> "_Nodes":
        """Inputs for expectations."""
        return cls._at(problem, *spread_nodes(problem.denoising, key, num))

    @classmethod
    def _at(cls, problem: LinearProblem, u: Array, sigma: Array, share: Array) -> "_Nodes":
        denoising = problem.denoising

        def one(u: Array, sigma: Array) -> tuple[Array, Array, Array]:
            mean = denoising.target(denoising.data(u, sigma), u, sigma)
            return problem.regressors(u, sigma), mean, denoising.target_noise(u, sigma)

        return cls(*jax.vmap(one)(u, sigma), share)


@eqx.filter_jit
def _fixed_design(problem: LinearProblem, P: int, key: PRNGKeyArray) -> tuple[Array, Array]:
    nodes = _Nodes.draw(problem, P, key)
    weights = ridge_solution(nodes.regressors, nodes.mean, problem.ridge)
    leverage = jax.scipy.linalg.cho_solve(
        gram_factor(nodes.regressors, problem.ridge), nodes.regressors.T
    )
    factor = jnp.einsum("nik,an->iank", nodes.noise, leverage) / P
    return weights, _compressed(factor.reshape(*weights.shape, -1))


@eqx.filter_jit
def _leave_one_out(nodes: _Nodes, ridge: Array, P: int) -> tuple[Array, Array]:
    psi, share = nodes.regressors, nodes.share
    num, F = psi.shape
    identity = jnp.eye(F, dtype=psi.dtype)
    tolerance = 8 * jnp.finfo(psi.dtype).eps

    def inverse(count: Array) -> Array:
        gram = jnp.matmul((psi * (share * count)[:, None]).T, psi, precision=HIGHEST) / num
        factor = jax.scipy.linalg.cho_factor(gram + ridge * identity)
        return jax.scipy.linalg.cho_solve(factor, identity)

    def quadratic(matrix: Array) -> Array:
        return jnp.sum(jnp.matmul(psi, matrix, precision=HIGHEST) * psi, axis=1)

    def count_step(state):
        count, _, i = state
        new = 1 / (1 + quadratic(inverse(count)) / P)
        return new, jnp.max(jnp.abs(new - count)), i + 1

    def unfinished(state):
        return (state[1] > tolerance) & (state[2] < MAX_ITERATIONS)

    start = (jnp.ones(num, psi.dtype), jnp.asarray(jnp.inf, psi.dtype), 0)
    count, _, _ = jax.lax.while_loop(unfinished, count_step, start)
    R = inverse(count)
    moments = jnp.matmul((nodes.mean * (share * count)[:, None]).T, psi, precision=HIGHEST) / num
    weights = jnp.matmul(moments, R, precision=HIGHEST)
    residual = nodes.mean - jnp.matmul(psi, weights.T, precision=HIGHEST)
    noise = jnp.einsum("nik,njk->nij", nodes.noise, nodes.noise, precision=HIGHEST)
    known = noise + jnp.einsum("ni,nj->nij", residual, residual)
    bias = ridge**2 * jnp.einsum("ia,jb->ijab", weights, weights)

    def covariance(errors: Array) -> Array:
        errors = errors * (share * count**2)[:, None, None]
        moment = jnp.einsum("nij,na,nb->ijab", errors, psi, psi, precision=HIGHEST)
        return jnp.einsum("ac,ijcd,db->ijab", R, moment / num - bias, R, precision=HIGHEST) / P

    def covariance_step(state):
        value, _, i = state
        feedback = jnp.moveaxis(jax.vmap(jax.vmap(quadratic))(value), -1, 0)
        new = covariance(known + feedback)
        return new, jnp.max(jnp.abs(new - value)) / jnp.max(jnp.abs(new)), i + 1

    start = (covariance(known), jnp.asarray(jnp.inf, psi.dtype), 0)
    value, _, _ = jax.lax.while_loop(unfinished, covariance_step, start)
    d = weights.shape[0]
    matrix = value.transpose(0, 2, 1, 3).reshape(d * F, d * F)
    values, vectors = jnp.linalg.eigh(0.5 * (matrix + matrix.T))
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))[None]
    return weights, root.reshape(d, F, d * F)


def _compressed(factor: Float[Array, "d F r"]) -> Float[Array, "d F s"]:
    """A factor of the same covariance with at most d F columns. By QR: nothing is squared."""
    d, F, r = factor.shape
    if r <= d * F:
        return factor
    triangle = jnp.linalg.qr(factor.reshape(d * F, r).T, mode="r")
    return triangle.T.reshape(d, F, d * F)


def _law(problem: LinearProblem, weights: Array, factor: Array) -> LinearModelLaw:
    return LinearModelLaw(problem.features, weights, factor, problem.denoising.prediction)


def _count(value: int, name: str = "num_train") -> int:
    return as_positive_integer(value, name)


def _several(value: int, name: str) -> int:
    if as_positive_integer(value, name) < 2:
        raise ValueError(f"`{name}` must be at least 2; got {value}.")
    return value
