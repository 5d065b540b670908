"""The law of kernel smoothers: kernel ridge regression, and gradient flow on a kernel for a finite time."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import (
    RealScalar,
    as_key,
    as_positive_integer,
    checked,
    is_concrete,
    require_positive,
)
from .._kinds import checks_kinds, require_kinds_of_fields
from .._numerics import flow_filter
from ._kernel_denoiser import Function, Initialisation, Kernel, KernelDenoiser, kernel_column
from ._kernel_fit import (
    Filter,
    drawn_problem,
    ridge_filter,
    solved_in_float64,
    weighted_gram,
)
from ._law import AbstractLaw
from ._training_set import DenoisingProblem, output_form

HIGHEST = jax.lax.Precision.HIGHEST
# Largest share of the fit that the rounding of the kernel may move; the mean itself then errs by some hundredths of it.
MOST_MOVED = 0.1


class KernelLaw(AbstractLaw):
    """Kernel smoothers given their training inputs, over the targets. Exact: a smoother is linear in its targets.

    Made by `ridge` or `gradient_flow`, the latter also over random initial functions. `sample` draws the targets anew, each
    from its posterior over the training points; the law is Gaussian only as far as sums of many of these are. One draw of
    the inputs is not the average over such draws: what it adds, estimate from the mean denoisers of several keys.

    A mean costs O(P) calls of the kernel, and so does a covariance besides O(P^2 + P d^2); the covariances between all pairs
    of G places, by nested `jax.vmap`, cost G P^2 + G^2 P d^2.

    Attributes:
        problem, kernel: as in the constructors.
        u, sigma: the training inputs z_n, shapes (P, d) and (P,).
        smoother: the coefficients of a model are `smoother @ (sqrt(w) (y - f_0))`, shape (P, P).
        mean_coefficients: of the mean model, shape (P, d).
        noise, noise_covariance: root B and covariance `B B^T` of `sqrt(w) y` given its input, both of shape (P, d, d).
        initial: what random initial functions add, if there are any.

    Source: Vastola, ICLR 2025, Proposition 5.2 (gradient flow on the neural tangent kernel), for finite P.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> variance = sj.variance
        >>> levels = variance.LogUniformLevels(10.0, 10.1)  # says little of which of both points it was
        >>> problem = variance.DenoisingProblem(jnp.array([[-1.0], [1.0]]), levels)
        >>> kernel = lambda u, s, v, t: jnp.ones(())  # constants, or `ReLUTangentKernel(2)`, a wide network's
        >>> law = variance.KernelLaw.ridge(problem, kernel, 50, jax.random.key(0), ridge=1e-4)
        >>> u = jnp.zeros(1)
        >>> round(50 * float(law.covariance(u, 1.0, u, 1.0)[0, 0]), 1)  # of a mean of 50 random signs
        1.0
        >>> law.directions(u, 1.0).shape
        (1, 50)
    """

    problem: DenoisingProblem
    kernel: Kernel
    u: Float[Array, "P d"]
    sigma: Float[Array, " P"]
    smoother: Float[Array, "P P"]
    mean_coefficients: Float[Array, "P d"]
    noise: Float[Array, "P d d"]
    noise_covariance: Float[Array, "P d d"]
    initial: Initialisation | None = None

    def __check_init__(self):
        require_kinds_of_fields(self)

    @property
    def dim(self) -> int:
        return self.u.shape[1]

    @property
    def mean_denoiser(self) -> KernelDenoiser:
        """The smoother of the mean targets: targets and initial functions are independent, and the latter have mean zero."""
        prediction = self.problem.prediction
        return KernelDenoiser(self.kernel, self.u, self.sigma, self.mean_coefficients, prediction)

    def sample(self, key: PRNGKeyArray) -> KernelDenoiser:
        """A model trained on targets drawn anew for the same inputs, from an initial function drawn anew if that is random.

        Raises:
            ValueError: where initial functions have a covariance, but nothing that draws them (`initial_model`).
        """
        key = as_key(key)
        of_targets, of_function = jax.random.split(key)
        targets = self._draw_targets(of_targets)
        initial = None
        if self.initial is not None:
            if self.initial.model is None:
                raise ValueError(
                    "Random initial functions are drawn by `initial_model`, which was not given: make the law with "
                    "`KernelLaw.gradient_flow(..., initial_covariance=..., initial_model=key -> callable)`."
                )
            initial = self.initial.model(of_function)
            root = jax.vmap(self.problem.root_weight)(self.u, self.sigma)
            targets = targets - root[:, None] * jax.vmap(initial)(self.u, self.sigma)
        coefficients = jnp.matmul(self.smoother, targets, precision=HIGHEST)
        prediction = self.problem.prediction
        return KernelDenoiser(
            self.kernel, self.u, self.sigma, coefficients, prediction, initial=initial
        )

    def coordinates(self, key: PRNGKeyArray) -> Float[Array, " r"]:
        """Of the model that `sample(key)` draws, along the `directions`: z with `D = mean_denoiser + directions z`.

        Of mean zero and covariance one, but zero where a target has no noise. Not normal: targets are few points.

        Raises:
            ValueError: for a law over random initial functions, as `directions`.
        """
        key = as_key(key)
        self._require_fixed_start()
        means = jax.vmap(lambda u, s: self.problem.target(self.problem.data(u, s), u, s))
        deviations = self._draw_targets(jax.random.split(key)[0]) - means(self.u, self.sigma)
        # The root is vectors times singular values.
        square = jnp.sum(self.noise**2, axis=1)
        along = jnp.einsum("nik,ni->nk", self.noise, deviations, precision=HIGHEST)
        return jnp.where(square <= 0, 0, along / jnp.where(square <= 0, 1, square)).ravel()

    def _draw_targets(self, key: PRNGKeyArray) -> Float[Array, "P d"]:
        points, log_prior = self.problem.data.data, jnp.log(self.problem.data.weights)

        def draw(key: PRNGKeyArray, u: Array, sigma: Array) -> Array:
            logits = log_prior - jnp.sum((points - u[None]) ** 2, axis=1) / (2 * sigma**2)
            return points[jax.random.categorical(key, logits)]

        keys = jax.random.split(key, self.u.shape[0])
        x = jax.vmap(draw)(keys, self.u, self.sigma)
        return jax.vmap(self.problem.target)(x, self.u, self.sigma)

    def _require_fixed_start(self) -> None:
        if self.initial is not None:
            raise ValueError(
                "The covariance of random initial functions has no finite factor. Make the law without "
                "`initial_covariance` (of f - f_0), or draw models: `sample`, `flow_of_models`."
            )

    def directions(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, "d r"]:
        """What each of the r = P d independent random directions of the targets does to the denoiser at `(u, sigma)`.

        The covariance between two places is `directions directions'^T`, as for `LinearModelLaw`.

        Raises:
            ValueError: for a law over random initial functions, whose covariance has no finite factor.
        """
        self._require_fixed_start()
        weights, scale = self._weights(u, sigma)
        columns = jnp.einsum("n,nik->ink", scale * weights, self.noise, precision=HIGHEST)
        return columns.reshape(self.dim, -1).astype(u.dtype)

    def covariance(
        self, u: Float[Array, " d"], sigma: RealScalar, v: Float[Array, " d"], tau: RealScalar
    ) -> Float[Array, "d d"]:
        first, scale = self._weights(u, sigma)
        second, other_scale = self._weights(v, tau)
        # In this order a grid of places multiplies (G d^2, P) by (P, G); no (G, G, P) array is formed.
        left = first[:, None, None] * self.noise_covariance
        value = jnp.einsum("nij,n->ij", left, second, precision=HIGHEST)
        if self.initial is not None:
            identity = jnp.eye(self.dim, dtype=value.dtype)
            value = value + self._initial_covariance(u, sigma, first, v, tau, second) * identity
        return scale * other_scale * value

    def _weights(self, u: Array, sigma: RealScalar) -> tuple[Float[Array, " P"], Float[Array, ""]]:
        """What each scaled target adds to the output, and the scale that turns outputs into denoisers."""
        sigma = jnp.asarray(sigma, u.dtype)
        _, scale = output_form(self.problem.prediction, u, sigma)
        column = kernel_column(self.kernel, self.u, self.sigma, u, sigma)
        return jnp.matmul(column, self.smoother, precision=HIGHEST), scale

    def _initial_covariance(
        self, u: Array, sigma: RealScalar, first: Array, v: Array, tau: RealScalar, second: Array
    ) -> Float[Array, ""]:
        """Covariance of one output of `f_0 - sum_n l_n f_0(z_n)`, what training leaves of the initial function."""
        assert self.initial is not None
        covariance, sigma, tau = (
            self.initial.covariance,
            jnp.asarray(sigma, u.dtype),
            jnp.asarray(tau, v.dtype),
        )
        root = jax.vmap(self.problem.root_weight)(self.u, self.sigma)
        column, other = (
            root * kernel_column(covariance, self.u, self.sigma, w, s)
            for w, s in ((u, sigma), (v, tau))
        )
        rest = column - jnp.matmul(first, self.initial.gram, precision=HIGHEST)
        return (
            covariance(u, sigma, v, tau)
            - jnp.dot(first, other, precision=HIGHEST)
            - jnp.dot(rest, second, precision=HIGHEST)
        )

    @classmethod
    @checks_kinds
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

        Raises:
            ValueError: for a ridge that is not positive, or not at least one sample; where the ridge is so small that the
                rounding of the kernel decides: machine epsilon times the largest eigenvalue of the Gram matrix is then not
                far below `ridge P`. (Inside `jax.jit` this raises when the function runs.)

        Example:
            >>> import jax, jax.numpy as jnp, smoothjax as sj
            >>> problem = sj.variance.DenoisingProblem(jnp.array([[3.0]]), lambda key, num: jnp.ones(num))
            >>> law = sj.KernelLaw.ridge(problem, lambda u, s, v, t: jnp.ones(()), 5, jax.random.key(0), ridge=0.5)
            >>> print(law.mean_denoiser(jnp.array([7.0]), 1.0).round(4))  # a constant f: least (3 - f)^2 + f^2 / 2
            [2.]
        """
        key = as_key(key)
        epsilon = require_positive(ridge, "ridge")
        P = as_positive_integer(num_train, "num_train")
        return _smoothed(problem, kernel, P, key, ridge_filter, epsilon * P)

    @classmethod
    @checks_kinds
    def gradient_flow(
        cls,
        problem: DenoisingProblem,
        kernel: Kernel,
        num_train: int,
        key: PRNGKeyArray,
        *,
        duration: RealScalar,
        initial_covariance: Kernel | None = None,
        initial_model: Callable[[PRNGKeyArray], Function] | None = None,
    ) -> "KernelLaw":
        """Gradient flow for a time `duration` on half the weighted mean squared error.

        A mode of eigenvalue omega is fitted to `1 - exp(-omega duration / P)`. With weights of many orders of magnitude the
        slowest modes are never reached in practice.

        Training starts from the zero function, or from random functions f_0 of mean zero, as networks do: these end as
        `f_0 + sum_n l_n (y_n - f_0(z_n))` with the smoother's weights l, and what the training inputs do not take away of
        f_0 is randomness of its own. Its covariance, the same for every output, is
        `K_0(z, z') - l^T K_0(Z, z') - K_0(z, Z) l' + l^T K_0(Z, Z) l'`.

        Args:
            problem, kernel, num_train, key: as for `ridge`.
            duration: training time, positive, in the units of `TrainedLinearDenoiser.gradient_flow`, with the weight of the
                loss here, `1 / sigma^2`.
            initial_covariance: K_0 of one output of f_0, `(u, sigma, v, tau) -> ()`; outputs are independent. For a wide
                network `ReLUTangentKernel(...).initial_covariance`. By default the predictor is `f - f_0`, without it.
            initial_model: `key -> f_0` with f_0 a callable `(u, sigma) -> (d,)`, which `sample` starts from. A Gaussian
                process has no finite draw: give a network of finite width at initialisation, or a sum of random features
                with normal weights. Its covariance is not checked against `initial_covariance`.

        Raises:
            ValueError: for a duration that is not positive, or an `initial_model` without `initial_covariance`; where
                training is so long that the rounding of the kernel decides, as for a small ridge, `P / duration` its part.

        Example:
            >>> import jax, jax.numpy as jnp, smoothjax as sj
            >>> problem = sj.variance.DenoisingProblem(jnp.array([[4.0]]), lambda key, num: jnp.ones(num))
            >>> one = lambda u, s, v, t: jnp.ones(())  # constant functions: one mode, omega = P
            >>> law = sj.KernelLaw.gradient_flow(problem, one, 5, jax.random.key(0), duration=jnp.log(2.0))
            >>> print(law.mean_denoiser(jnp.array([7.0]), 1.0).round(4))  # 4 (1 - exp(-duration))
            [2.]
        """
        key = as_key(key)
        duration = require_positive(duration, "duration")
        P = as_positive_integer(num_train, "num_train")
        if initial_covariance is None:
            if initial_model is not None:
                raise ValueError(
                    "`initial_model` needs `initial_covariance`, the covariance of what it draws."
                )
            return _smoothed(problem, kernel, P, key, flow_filter, duration / P)
        law = _smoothed(problem, kernel, P, key, flow_filter, duration / P)
        gram = weighted_gram(problem, initial_covariance, law.u, law.sigma)
        initial = Initialisation(initial_covariance, gram, initial_model)
        return eqx.tree_at(lambda law: law.initial, law, initial, is_leaf=lambda x: x is None)


def _smoothed(
    problem: DenoisingProblem,
    kernel: Kernel,
    P: int,
    key: PRNGKeyArray,
    spectrum: Filter,
    strength: Array,
) -> KernelLaw:
    u, sigma, root, gram, targets, noise = drawn_problem(problem, kernel, P, key)
    given = (gram, root, targets, strength)
    solve = functools.partial(solved_in_float64, spectrum)
    if is_concrete(given):
        with jax.ensure_compile_time_eval():
            solved = [jnp.asarray(x) for x in solve(*(np.asarray(x) for x in given))]
    else:
        kinds = [jax.ShapeDtypeStruct(x.shape, gram.dtype) for x in (gram, targets)]
        kinds += 2 * [jax.ShapeDtypeStruct((), gram.dtype)]
        solved = jax.pure_callback(solve, tuple(kinds), *given, vmap_method="sequential")
    smoother, mean_coefficients, moved, ratio = solved
    message = (
        f"The kernel is too nearly singular for {gram.dtype.name}: its rounding moves what training fits by up to "
        f"{_shown(moved)} of itself, where at most {MOST_MOVED} can be had; machine epsilon times the largest eigenvalue of "
        f"the weighted Gram matrix is {_shown(ratio)} of what regularises it (`ridge * P`, or `P / duration`). Take a "
        "larger ridge or a shorter training, or float64 throughout"
    )
    smoother = checked(smoother, ~(moved <= MOST_MOVED), message)
    return KernelLaw(
        problem,
        kernel,
        u,
        sigma,
        smoother,
        mean_coefficients=mean_coefficients,
        noise=noise,
        noise_covariance=jnp.einsum("nik,njk->nij", noise, noise, precision=HIGHEST),
    )


def _shown(value: Array) -> str:
    return f"{float(value):.2g}" if is_concrete(value) else "(not known while traced)"
