"""The denoiser of a model that is not told the noise level."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._checks import RealScalar, as_float_array, is_concrete, require_positive
from ..._kinds import checks_kinds
from ...parametrization import Prediction, affine_form, as_prediction
from .._base import AbstractDenoiser, AbstractPosteriorDenoiser, in_dtype_of
from .._compiled import one_program
from .source import as_denoiser


class NoiseUnconditionedDenoiser(AbstractDenoiser):
    r"""What the best network learns that is not told the noise level.

    The training pair's level is drawn from `levels`; given `u` it is known only by its posterior, `pi_i p_i(u)`. The
    network's
    optimum is the mean of its target over that posterior: of the score `(x_0 - u) / sigma_i^2` (weighted by `sigma_i^2`,
    as the standard loss is), of the noise `(u - x_0) / sigma_i`, or of `x_0`, v or the velocity. What it gives is then
    read as a denoiser at the level `sigma` that the sampler believes in.

    Args:
        source: training points, shape (n, d), or a denoiser with a log density.
        levels: noise levels, shape (m,).
        probabilities: of the levels, shape (m,); equal by default.
        prediction: what the network predicts, see `parametrization.to_denoised`.

    Source: the posterior over noise levels of a blind denoiser; with `prediction="score"` and an unweighted loss it
    would be the score of the mixture of all noisy laws.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> law = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
        >>> D = sj.NoiseUnconditionedDenoiser(law, jnp.array([1.0]))
        >>> print(D(jnp.array([3.0]), 1.0).round(5))  # with a single level nothing is unknown
        [1.5]
    """

    base: AbstractPosteriorDenoiser
    levels: Float[Array, " m"]
    log_probabilities: Float[Array, " m"]
    prediction: Prediction = eqx.field(static=True)

    @checks_kinds
    def __init__(
        self,
        source: Any,
        levels: Any,
        probabilities: Float[Array, " m"] | None = None,
        *,
        prediction: Prediction = "eps",
    ):
        base = as_denoiser(source)
        if not isinstance(base, AbstractPosteriorDenoiser):
            raise ValueError("`source` must be training points, or a denoiser with a log density.")
        prediction = as_prediction(prediction)
        levels = require_positive(levels, "levels")
        if levels.ndim != 1 or levels.shape[0] == 0:
            raise ValueError(f"`levels` must have shape (m,); got {levels.shape}.")
        given = jnp.ones_like(levels) if probabilities is None else probabilities
        given = as_float_array(given, "probabilities")
        if given.shape != levels.shape or (
            is_concrete(given) and not np.all(np.asarray(given) > 0)
        ):
            raise ValueError(
                f"`probabilities` must be positive, of shape {levels.shape}; got {given}."
            )
        self.base, self.levels, self.prediction = base, in_dtype_of(base, levels), prediction
        self.log_probabilities = in_dtype_of(base, jax.nn.log_softmax(jnp.log(given)))

    @property
    def dim(self) -> int:
        return self.base.dim

    def posterior(self, u: Float[Array, " d"]) -> Float[Array, " m"]:
        """Probability of every level given `u`, as the loss weighs it."""
        u = as_float_array(u, "u")
        levels = self.levels.astype(u.dtype)
        log_density = jax.vmap(lambda s: self.base.log_density(u, s))(levels)
        weight = 2 * jnp.log(levels) if self.prediction == "score" else 0
        prior = self.log_probabilities.astype(u.dtype)
        # So far away that no log density is finite, the largest level has the largest.
        lowest = jnp.finfo(u.dtype).min * (0.5 - 0.25 * levels / jnp.max(levels))
        is_finite = log_density > -jnp.inf
        total = jnp.where(is_finite, prior + jnp.where(is_finite, log_density, 0) + weight, lowest)
        return jax.nn.softmax(total)

    @one_program
    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        weights = self.posterior(u)
        levels = self.levels.astype(u.dtype)
        means = jax.vmap(lambda s: self.base(u, s))(levels)
        skip, scale = affine_form(self.prediction, sigma)
        skips, scales = affine_form(self.prediction, levels)
        return skip * u + (weights * (scale / scales)) @ (means - skips[:, None] * u[None])
