"""Least squares with a ridge and an intercept, from moments that are summed block by block, and each point's influence."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

HIGHEST = lax.Precision.HIGHEST


class Moments(NamedTuple):
    """Moments of rows (v, y): their number, means, and sums of products about the means."""

    number: Array
    mean_v: Array
    mean_y: Array
    scatter: Array
    cross: Array  # y by v

    @classmethod
    def of(cls, v: Array, y: Array, weights: Array) -> "Moments":
        number = jnp.sum(weights)
        mean_v, mean_y = (jnp.sum(weights[:, None] * rows, axis=0) / number for rows in (v, y))
        weighted = weights[:, None] * (v - mean_v[None])
        return cls(
            number,
            mean_v,
            mean_y,
            jnp.matmul(weighted.T, v - mean_v[None], precision=HIGHEST),
            jnp.matmul((y - mean_y[None]).T, weighted, precision=HIGHEST),
        )

    def merged(self, other: "Moments") -> "Moments":
        # Sums about two means become sums about the common one: no large moment about zero is ever formed.
        number = self.number + other.number
        share = other.number / number
        dv, dy = other.mean_v - self.mean_v, other.mean_y - self.mean_y
        weight = self.number * share
        return Moments(
            number,
            self.mean_v + share * dv,
            self.mean_y + share * dy,
            self.scatter + other.scatter + weight * jnp.outer(dv, dv),
            self.cross + other.cross + weight * jnp.outer(dy, dv),
        )


class Fit(NamedTuple):
    """`y_mean + slopes (v - v_mean)`; its ridge is on slopes T, the matrix that acts on u."""

    covariance: Array
    factor: Any
    slopes: Array

    @classmethod
    def of(cls, moments: Moments, whitening: Array, ridge: Array) -> "Fit":
        covariance = moments.scatter / moments.number
        square = jnp.matmul(whitening, whitening, precision=HIGHEST)
        factor = jax.scipy.linalg.cho_factor(covariance + ridge * square)
        slopes = jax.scipy.linalg.cho_solve(factor, moments.cross.T / moments.number).T
        return cls(covariance, factor, slopes)

    def influences(
        self, v: Array, residual: Array, weights: Array, whitening: Array, centre: Array
    ) -> tuple[Array, Array, Array]:
        """Of points on W and b: their sum and that of their squares; and the noise that each leaves in the fit."""
        num_noises, d = v.shape[1:]
        # What a noisy point adds to its coefficients is its residual times this.
        solved = jax.scipy.linalg.cho_solve(self.factor, v.reshape(-1, d).T).T
        on_matrix = jnp.matmul(solved, whitening, precision=HIGHEST)
        on_offset = 1 - jnp.matmul(on_matrix, centre, precision=HIGHEST)
        on_both = jnp.concatenate([on_matrix, on_offset[:, None]], axis=1)
        on_both = on_both.reshape(*v.shape[:2], d + 1)
        # The square of a mean over a point's noises is a mean over pairs of them: no (d, d) for each point.
        pairs = lambda x: (x[:, :, None] * x[:, None]).reshape(-1, x.shape[-1])  # noqa: E731
        weighted = weights[:, None, None] * residual
        sums = jnp.einsum("pka,pkb->ab", weighted, on_both, precision=HIGHEST) / num_noises
        sums_of_squares = jnp.matmul(pairs(weighted).T, pairs(on_both), precision=HIGHEST)
        solved = solved.reshape(v.shape)
        metric = jnp.matmul(solved, self.covariance, precision=HIGHEST)
        on_fit = 1 + jnp.einsum("pka,pla->pkl", metric, solved, precision=HIGHEST)
        products = jnp.einsum("pka,pla->pkl", residual, residual, precision=HIGHEST)
        noise = jnp.mean(products * on_fit, axis=(1, 2)) / d
        return sums, sums_of_squares / num_noises**2, noise
