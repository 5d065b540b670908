"""An affine denoiser at any time of its training, in closed form."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import RealScalar, as_float_array, require_finite
from .._jax.precision import HIGHEST, common_dtype
from .._kinds import checks_kinds, require_kinds_of_fields
from .._numerics import square_of_level
from ..denoisers import AbstractDenoiser, GaussianDenoiser
from ._relaxation import Relaxation, descent_of, flow_for

Weight = Callable[[Float[Array, ""]], Float[Array, ""]]


class TrainedLinearDenoiser(AbstractDenoiser):
    r"""`D(u) = W u + b` after a time of training, at each noise level for itself, in closed form.

    At the noise level sigma the weights follow the gradient of

        L(W, b) = (1/2) w(sigma) E |W (x_0 + sigma z) + b - x_0|^2,

    the squared norm summed over coordinates, and the mean exact over the noise z and over the data. Of these only the mean
    mu and the covariance Sigma matter, so `gaussian` may be a population or the fit of a finite set. L is quadratic, and
    training an exponential: with `C = Sigma + sigma^2`,

        (W, b) = (W_*, b_*) + [(W_0, b_0) - (W_*, b_*)] exp(-w M duration),    M = [[C + mu mu^T, mu], [mu^T, 1]],

    `W_* = Sigma C^-1`, `b_* = (1 - W_*) mu`; steps of gradient descent have `(1 - step_size w M)^num_steps` in place of
    the exponential, and diverge where `step_size` times an eigenvalue of `w M` exceeds 2. The mean couples the modes with
    the bias. With `centred=True` the model is `W (u - mu) + c`, whose modes are alone: the eigenvalue lambda of Sigma
    relaxes towards `lambda / (lambda + sigma^2)` at the rate `w (lambda + sigma^2)`, and c towards mu at the rate w. Where
    the mean is zero both are the same.

    Made by `gradient_flow` or `gradient_descent`. **Units of training time** are those of `KernelLaw.gradient_flow` and of
    `variance.gradient_descent`: of the flow on half the mean squared error, so that n small steps are a duration
    `step_size * n`. The loss there has the weight `1 / sigma^2`, here it is one by default: give
    `weight=lambda sigma: 1 / sigma**2` for the same.

    A model of noise, `D = u - sigma (V u + a)`, or of any other prediction `D = p u + q f` with f affine, follows the same
    flow on half the squared error of f itself: start it from the denoiser that f = 0 is, `initial_matrix=1` for noise.

    A call costs O(d r), and O(r^3) a noise level where the mean couples the modes, r the columns of the Gaussian's basis.
    The rounding of these r^3 shows in modes whose rate is below machine epsilon times the largest one.

    Attributes:
        gaussian: mean and covariance of what is trained on.
        relaxation: what training leaves of each mode.
        initial_matrix: W_0, shape (d, d), or a multiple of the identity, shape ().
        initial_bias: b_0, or c_0 of a centred model, shape (d,).
        centred: which of the two models.
        weight: w, a callable `sigma -> ()`, or None for one.

    Source: Wang and Pehlevan, arXiv 2503.03206, "An analytical theory of spectral bias in the learning dynamics of
    diffusion models" (the modes); the joint solution with the bias is a matrix exponential.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> data = sj.GaussianDenoiser(jnp.zeros(2), jnp.diag(jnp.array([3.0, 0.0])))
        >>> duration = jnp.log(2.0)  # at the noise level 1 the rates are 4 and 1
        >>> D = sj.TrainedLinearDenoiser.gradient_flow(data, duration=duration, initial_matrix=1.0)
        >>> print(D(jnp.array([16.0, 2.0]), 1.0).round(4))  # gains 3/4 + (1 - 3/4) / 2^4 and 1/2
        [12.25  1.  ]
    """

    gaussian: GaussianDenoiser
    relaxation: Relaxation
    initial_matrix: Float[Array, "..."]
    initial_bias: Float[Array, " d"]
    centred: bool = eqx.field(static=True, default=False)
    weight: Weight | None = None

    def __check_init__(self):
        require_kinds_of_fields(self)

    @classmethod
    @checks_kinds
    def gradient_flow(
        cls,
        gaussian: GaussianDenoiser,
        *,
        duration: RealScalar,
        initial_matrix: RealScalar | Float[Array, "d d"] = 0.0,
        initial_bias: Float[Array, " d"] | None = None,
        centred: bool = False,
        weight: Weight | None = None,
    ) -> "TrainedLinearDenoiser":
        """After gradient flow for a time `duration` on half the mean squared error.

        Args:
            gaussian: mean and covariance of the data, e.g. `GaussianDenoiser.fit(points)`.
            duration: training time, non-negative.
            initial_matrix: W_0, a matrix or what multiplies the identity.
            initial_bias: b_0, or c_0 of a centred model; zero by default.
            centred: whether the model is `W (u - mu) + c`, not `W u + b`.
            weight: of the loss, a callable `sigma -> ()`, positive; one by default.

        Raises:
            ValueError: for a negative duration, or a start of another shape.

        Example:
            >>> import jax.numpy as jnp, smoothjax as sj
            >>> data = sj.GaussianDenoiser.fit(jnp.array([[0.0], [2.0]]))  # mean 1, variance 1
            >>> D = sj.TrainedLinearDenoiser.gradient_flow(data, duration=jnp.log(2.0), centred=True)
            >>> print(D(jnp.array([5.0]), 1.0).round(4))  # gain (1 - 1/4) / 2 of 4, and half of the mean
            [2.]
        """
        return _trained(
            cls, gaussian, flow_for(duration), initial_matrix, initial_bias, centred, weight
        )

    @classmethod
    @checks_kinds
    def gradient_descent(
        cls,
        gaussian: GaussianDenoiser,
        *,
        step_size: RealScalar,
        num_steps: int | RealScalar,
        initial_matrix: RealScalar | Float[Array, "d d"] = 0.0,
        initial_bias: Float[Array, " d"] | None = None,
        centred: bool = False,
        weight: Weight | None = None,
    ) -> "TrainedLinearDenoiser":
        """After `num_steps` steps of gradient descent on half the mean squared error, whose mean is exact at each step.

        Args:
            step_size: positive.
            num_steps: a whole number, non-negative.
            gaussian, initial_matrix, initial_bias, centred, weight: as for `gradient_flow`.

        Raises:
            ValueError: for a step size that is not positive, a number of steps that is negative or no whole number, or a
                start of another shape.

        Example:
            >>> import jax.numpy as jnp, smoothjax as sj
            >>> data = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
            >>> D = sj.TrainedLinearDenoiser.gradient_descent(data, step_size=0.25, num_steps=2)
            >>> print(D(jnp.array([8.0]), 1.0).round(4))  # gain (1 - 1/4) / 2
            [3.]
        """
        return _trained(
            cls,
            gaussian,
            descent_of(step_size, num_steps),
            initial_matrix,
            initial_bias,
            centred,
            weight,
        )

    @property
    def dim(self) -> int:
        return self.gaussian.dim

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        return self._linear(u, jnp.ones((), u.dtype), sigma)

    def matrix_and_bias(self, sigma: RealScalar) -> tuple[Float[Array, "d d"], Float[Array, " d"]]:
        """W and b with `D(u, sigma) = W u + b`, of a centred model too."""
        _, sigma = self._point(self.gaussian.mean, sigma)
        zero, one = jnp.zeros_like(self.gaussian.mean), jnp.ones_like(sigma)
        columns = jax.vmap(lambda v: self._linear(v, 0 * one, sigma))(
            jnp.eye(self.dim, dtype=zero.dtype)
        )
        return columns.T, self._linear(zero, one, sigma)

    def loss(self, sigma: RealScalar, gaussian: GaussianDenoiser | None = None) -> Float[Array, ""]:
        """Half the mean squared error `(1/2) E |D(x_0 + sigma z) - x_0|^2`, summed over coordinates, without the weight.

        Exact: an affine denoiser sees no more of a law than its mean and covariance.

        Args:
            sigma: noise level.
            gaussian: mean and covariance of the law of x_0. By default of what was trained on, which gives the training
                loss; give the population's for its loss.
        """
        law = self.gaussian if gaussian is None else gaussian
        if law.dim != self.dim:
            raise ValueError(f"`gaussian` must have dimension {self.dim}; got {law.dim}.")
        matrix, bias = self.matrix_and_bias(sigma)
        level = as_float_array(sigma, "sigma").astype(matrix.dtype)
        rest = matrix - jnp.eye(self.dim, dtype=matrix.dtype)
        of_mean = jnp.dot(rest, law.mean, precision=HIGHEST) + bias
        spread = jnp.dot(rest, law.covariance(), precision=HIGHEST)
        return 0.5 * (
            jnp.sum(spread * rest)
            + square_of_level(level) * jnp.sum(matrix**2)
            + jnp.sum(of_mean**2)
        )

    def rate_factor(self, sigma: Float[Array, ""]) -> Float[Array, ""]:
        """The weight of the loss at a noise level, which multiplies all rates."""
        if self.weight is None:
            return jnp.ones_like(sigma)
        return weight_at(self.weight, sigma)

    def _linear(self, v: Array, t: Array, sigma: Array) -> Array:
        """`W v + t b`: the optimum of what is covered of `(v, t)`, and the start of what is left of it."""
        mean = self.gaussian.mean
        parts = self._centred_parts if self.centred else self._coupled_parts
        (covered, optimum), (left, start) = parts(v, t, sigma)
        # Centred: c_* = mu, and W acts on u - mu; else b_* = (1 - W_*) mu.
        optimal = self._optimum(covered if self.centred else covered - optimum * mean, sigma)
        initial = self.initial_matrix.astype(v.dtype)
        is_matrix = initial.ndim == 2
        started = jnp.dot(initial, left, precision=HIGHEST) if is_matrix else initial * left
        return optimal + optimum * mean + started + start * self.initial_bias

    def _optimum(self, v: Array, sigma: Array) -> Array:
        noise = square_of_level(sigma)
        data = self.gaussian
        gains = (x / (x + noise) for x in (data.eigenvalues, data.complement))
        return data.map_modes(v, *gains)

    def _centred_parts(self, v: Array, t: Array, sigma: Array) -> tuple:
        data, relaxation, factor = self.gaussian, self.relaxation, self.rate_factor(sigma)
        noise, rest = square_of_level(sigma), v - t * data.mean
        rates = [factor * (x + noise) for x in (data.eigenvalues, data.complement)]
        covered = data.map_modes(rest, *map(relaxation.covered, rates))
        left = data.map_modes(rest, *map(relaxation.remaining, rates))
        return (covered, t * relaxation.covered(factor)), (left, t * relaxation.remaining(factor))

    def _coupled_parts(self, v: Array, t: Array, sigma: Array) -> tuple:
        """`(v, t)` in the eigenvectors of M: of its modes, of the mean's part outside of these, and of the bias."""
        data, relaxation, factor = self.gaussian, self.relaxation, self.rate_factor(sigma)
        noise = square_of_level(sigma)
        modes, outside = _modes_and_rest(data, data.mean)
        length = jnp.linalg.norm(outside)
        direction = outside / jnp.where(length > 0, length, 1)
        mean = jnp.concatenate([modes, jnp.stack([length, jnp.ones_like(length)])])
        zero = jnp.zeros((1,), v.dtype)
        variances = jnp.concatenate([data.eigenvalues + noise, data.complement[None] + noise, zero])
        # Ascending, which keeps small eigenvalues beside large ones in LAPACK's reduction: at much noise the bias's.
        order = jnp.argsort(variances + mean**2)
        matrix = jnp.diag(variances[order]) + mean[order][:, None] * mean[order][None]
        rates, vectors = jnp.linalg.eigh(matrix)
        vectors = vectors[jnp.argsort(order)]
        rates = factor * jnp.maximum(rates, 0)
        inside, rest = _modes_and_rest(data, v)
        along = jnp.dot(direction, rest, precision=HIGHEST)
        coordinates = jnp.concatenate([inside, jnp.stack([along, t])])
        rest = rest - along * direction
        of_rest = factor * (data.complement + noise)

        def part(function: Callable[[Array], Array]) -> tuple[Array, Array]:
            amount = function(rates) * jnp.dot(coordinates, vectors, precision=HIGHEST)
            found = jnp.dot(vectors, amount, precision=HIGHEST)
            back = jnp.dot(data.basis, found[:-2], precision=HIGHEST) + found[-2] * direction
            return back + function(of_rest) * rest, found[-1]

        return part(relaxation.covered), part(relaxation.remaining)


def weight_at(weight: Weight, sigma: Float[Array, ""]) -> Float[Array, ""]:
    """The weight of the loss, or `ValueError` for what is no scalar."""
    factor = as_float_array(weight(sigma), "weight")
    if factor.shape != ():
        raise ValueError(
            f"`weight` must give a scalar at one noise level; got shape {factor.shape}."
        )
    return factor.astype(sigma.dtype)


def _modes_and_rest(data: GaussianDenoiser, vector: Array) -> tuple[Array, Array]:
    modes = jnp.dot(vector, data.basis, precision=HIGHEST)
    rest = vector - jnp.dot(data.basis, modes, precision=HIGHEST)
    return modes, rest if data.basis.shape[1] < data.dim else jnp.zeros_like(vector)


def _trained(
    cls: type[TrainedLinearDenoiser],
    gaussian: GaussianDenoiser,
    relaxation: Relaxation,
    initial_matrix: Any,
    initial_bias: Any,
    centred: bool,
    weight: Weight | None,
) -> TrainedLinearDenoiser:
    matrix, d = as_float_array(initial_matrix, "initial_matrix"), gaussian.dim
    if matrix.shape not in ((), (d, d)):
        raise ValueError(
            f"`initial_matrix` must have shape () or ({d}, {d}), like the covariance; got {matrix.shape}."
        )
    bias = gaussian.mean if initial_bias is None else as_float_array(initial_bias, "initial_bias")
    if bias.shape != (d,):
        raise ValueError(f"`initial_bias` must have shape ({d},); got {bias.shape}.")
    require_finite(matrix, "initial_matrix")
    require_finite(bias, "initial_bias")
    dtype = common_dtype(gaussian.mean)
    bias = jnp.zeros_like(bias) if initial_bias is None else bias
    return cls(
        gaussian, relaxation, matrix.astype(dtype), bias.astype(dtype), bool(centred), weight
    )
