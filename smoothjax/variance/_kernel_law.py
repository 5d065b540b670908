"""The law of kernel smoothers: kernel ridge regression, and gradient flow on a kernel for a finite time."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import RealScalar, as_positive_integer, require_positive
from ..denoisers import AbstractDenoiser
from ._law import AbstractLaw
from ._training_set import DenoisingProblem, Prediction, output_form

HIGHEST = jax.lax.Precision.HIGHEST
Kernel = Callable[[Array, Array, Array, Array], Array]
"""Any positive semi-definite `(u, sigma, v, tau) -> ()`."""


class KernelDenoiser(AbstractDenoiser):
    """`D = b + c sum_n k(z, z_n) a_n`, with b and c as in `LinearDenoiser`.

    Args:
        kernel: `(u, sigma, v, tau) -> ()`.
        inputs: the training inputs.
        coefficients: a, shape (P, d).
        prediction: what the sum stands for.
    """

    kernel: Kernel
    u: Float[Array, "P d"]
    sigma: Float[Array, " P"]
    coefficients: Float[Array, "P d"]
    prediction: Prediction = eqx.field(static=True, default="x0")

    @property
    def dim(self) -> int:
        return self.u.shape[1]

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        base, scale = output_form(self.prediction, u, sigma)
        column = _column(self.kernel, self.u, self.sigma, u, sigma)
        return base + scale * jnp.matmul(column, self.coefficients, precision=HIGHEST)


class KernelLaw(AbstractLaw):
    """Kernel smoothers given their training inputs, over the targets. Exact: a smoother is linear in its targets.

    Made by `ridge` or `gradient_flow`. `sample` draws the targets anew, each from its posterior over the training points;
    the law is Gaussian only as far as sums of many of these are.

    Source: Vastola, ICLR 2025, Proposition 5.2 (gradient flow on the neural tangent kernel), for finite P.
    """

    problem: DenoisingProblem
    kernel: Kernel
    u: Float[Array, "P d"]
    sigma: Float[Array, " P"]
    smoother: Float[Array, "P P"]  # the coefficients are smoother @ (sqrt(w) y)

    @property
    def dim(self) -> int:
        return self.u.shape[1]

    @property
    def mean_denoiser(self) -> KernelDenoiser:
        return self._trained_on(jax.vmap(self.problem.data)(self.u, self.sigma))

    def sample(self, key: PRNGKeyArray) -> KernelDenoiser:
        """A model trained on targets drawn anew for the same inputs."""
        points, log_prior = self.problem.data.data, jnp.log(self.problem.data.weights)

        def draw(key: PRNGKeyArray, u: Array, sigma: Array) -> Array:
            logits = log_prior - jnp.sum((points - u) ** 2, axis=1) / (2 * sigma**2)
            return points[jax.random.categorical(key, logits)]

        keys = jax.random.split(key, self.u.shape[0])
        return self._trained_on(jax.vmap(draw)(keys, self.u, self.sigma))

    def _trained_on(self, x: Float[Array, "P d"]) -> KernelDenoiser:
        targets = jax.vmap(self.problem.target)(x, self.u, self.sigma)
        coefficients = jnp.matmul(self.smoother, targets, precision=HIGHEST)
        prediction = self.problem.prediction
        return KernelDenoiser(self.kernel, self.u, self.sigma, coefficients, prediction)

    def covariance(
        self, u: Float[Array, " d"], sigma: RealScalar, v: Float[Array, " d"], tau: RealScalar
    ) -> Float[Array, "d d"]:
        noise = jax.vmap(self.problem.target_noise)(self.u, self.sigma)
        first, second = self._weights(u, sigma), self._weights(v, tau)
        return jnp.einsum("n,n,nik,njk->ij", first, second, noise, noise, precision=HIGHEST)

    def _weights(self, u: Array, sigma: RealScalar) -> Float[Array, " P"]:
        """What each scaled target adds to the denoiser."""
        sigma = jnp.asarray(sigma, u.dtype)
        _, scale = output_form(self.problem.prediction, u, sigma)
        column = _column(self.kernel, self.u, self.sigma, u, sigma)
        return scale * jnp.matmul(column, self.smoother, precision=HIGHEST)

    @classmethod
    def ridge(
        cls,
        problem: DenoisingProblem,
        kernel: Kernel,
        num_train: int,
        key: PRNGKeyArray,
        *,
        ridge: RealScalar,
    ) -> "KernelLaw":
        """Kernel ridge regression: the minimiser of the weighted mean squared error plus `ridge |f|^2` in the kernel's
        space.

        Args:
            problem: data, noise levels and prediction.
            kernel: `(u, sigma, v, tau) -> ()`.
            num_train: P.
            key: of the training inputs.
            ridge: epsilon, positive, relative to the mean over samples.
        """
        epsilon = require_positive(ridge, "ridge")
        P = as_positive_integer(num_train, "num_train")
        return _smoothed(problem, kernel, P, key, lambda values: 1 / (values + P * epsilon))

    @classmethod
    def gradient_flow(
        cls,
        problem: DenoisingProblem,
        kernel: Kernel,
        num_train: int,
        key: PRNGKeyArray,
        *,
        duration: RealScalar,
    ) -> "KernelLaw":
        """Gradient flow for a time `duration` on half the weighted mean squared error, from the zero function.

        A mode of eigenvalue omega is fitted to `1 - exp(-omega duration / P)`. With weights of many orders of magnitude the
        slowest modes are never reached in practice.

        Args:
            problem, kernel, num_train, key: as for `ridge`.
            duration: training time, positive.
        """
        duration = require_positive(duration, "duration")
        P = as_positive_integer(num_train, "num_train")

        def fitted(values: Array) -> Array:
            # (1 - exp(-omega tau / P)) / omega, and its limit tau / P where omega vanishes.
            time = (duration / P).astype(values.dtype)
            large = values * time > jnp.finfo(values.dtype).eps
            return jnp.where(large, -jnp.expm1(-values * time) / jnp.where(large, values, 1), time)

        return _smoothed(problem, kernel, P, key, fitted)


def _smoothed(
    problem: DenoisingProblem,
    kernel: Kernel,
    P: int,
    key: PRNGKeyArray,
    spectrum: Callable[[Array], Array],
) -> KernelLaw:
    _, u, sigma = problem.draw(key, P)
    root = jax.vmap(problem.root_weight)(u, sigma)
    gram = jax.vmap(lambda v, tau: _column(kernel, u, sigma, v, tau))(u, sigma)
    # Weighted on both sides: weights span many orders of magnitude, and dividing by them would lose the small ones.
    scaled = root[:, None] * 0.5 * (gram + gram.T) * root
    values, vectors = jnp.linalg.eigh(scaled)
    inner = jnp.matmul(vectors * spectrum(jnp.maximum(values, 0)), vectors.T, precision=HIGHEST)
    return KernelLaw(problem, kernel, u, sigma, root[:, None] * inner)


def _column(kernel: Kernel, u: Array, sigma: Array, v: Any, tau: Any) -> Float[Array, " P"]:
    return jax.vmap(lambda a, s: kernel(a, s, v, tau))(u, sigma)
