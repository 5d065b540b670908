"""Fits on a kernel: weighted Gram matrices, and what is solved with them in float64."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ._kernel_denoiser import Kernel, kernel_column
from ._training_set import DenoisingProblem


def ridge_filter(values: np.ndarray, strength: np.ndarray) -> np.ndarray:
    return 1 / (values + strength)


Filter = Callable[[np.ndarray, np.ndarray], np.ndarray]


def solved_in_float64(spectrum: Filter, gram: Any, root: Any, targets: Any, strength: Any) -> Any:
    """Smoother, mean coefficients and how far rounding moves them, in float64 by NumPy; returned in the dtype of `gram`.

    Small eigenvalues decide where training is long: an eigendecomposition in single precision gives them to a rounding of
    the largest only. What the rounding of the kernel itself does is tried: with errors E of random signs and of a machine
    epsilon of each entry, `|S^(1/2) E S^(1/2)|`, S the filter of the Gram matrix, relative to what is fitted.
    """
    dtype = np.asarray(gram).dtype
    gram, root, targets, strength = (
        np.asarray(x, np.float64) for x in (gram, root, targets, strength)
    )
    values, vectors = np.linalg.eigh(gram)
    gains = spectrum(np.maximum(values, 0), strength)
    smoother = root[:, None] * ((vectors * gains) @ vectors.T)
    epsilon = float(np.finfo(dtype).eps)
    errors = epsilon * np.abs(gram) * np.random.default_rng(0).choice([-1.0, 1.0], gram.shape)
    half = vectors * np.sqrt(gains)
    moved = np.linalg.norm(half.T @ np.triu(errors) @ half, 2)
    ratio = epsilon * values[-1] * gains[0]
    return tuple(np.asarray(x, dtype) for x in (smoother, smoother @ targets, moved, ratio))


@eqx.filter_jit
def drawn_problem(problem: DenoisingProblem, kernel: Kernel, P: int, key: PRNGKeyArray) -> tuple:
    """Training inputs, the roots of their weights, and what there is to fit."""
    _, u, sigma = problem.draw(key, P)
    root = jax.vmap(problem.root_weight)(u, sigma)
    # Weighted on both sides: weights span many orders of magnitude, and dividing by them would lose the small ones.
    gram = weighted_gram(problem, kernel, u, sigma)
    means = jax.vmap(problem.data)(u, sigma)
    targets = jax.vmap(problem.target)(means, u, sigma)
    return u, sigma, root, gram, targets, jax.vmap(problem.target_noise)(u, sigma)


@eqx.filter_jit
def weighted_gram(
    problem: DenoisingProblem, kernel: Kernel, u: Array, sigma: Array
) -> Float[Array, "P P"]:
    root = jax.vmap(problem.root_weight)(u, sigma)
    gram = jax.vmap(lambda v, tau: kernel_column(kernel, u, sigma, v, tau))(u, sigma)
    return root[:, None] * 0.5 * (gram + gram.T) * root[None]
