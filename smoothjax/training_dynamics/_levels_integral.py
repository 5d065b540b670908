"""Integrals over the logarithm of the noise level, running ones too, by Gauss's rule on many panels."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._jax.precision import HIGHEST

PANELS, NODES = 64, 12
_x, _w = np.polynomial.legendre.leggauss(NODES)
# Of the polynomial through the values at the nodes, the integral from the panel's start to each node: Legendre
# coefficients, and their antiderivatives.
_to_coefficients = (
    np.polynomial.legendre.legvander(_x, NODES - 1).T * _w * (np.arange(NODES)[:, None] + 0.5)
)
_antiderivatives = np.stack(
    [
        np.polynomial.legendre.legval(_x, np.polynomial.legendre.legint(row, lbnd=-1))
        for row in np.eye(NODES)
    ],
    axis=1,
)
_RUNNING = _antiderivatives @ _to_coefficients


def log_nodes(low: Array, high: Array) -> tuple[Float[Array, " nodes"], Float[Array, ""]]:
    """Nodes between two logarithms, ascending, and half the width of a panel."""
    half = (high - low) / (2 * PANELS)
    centres = low + half * jnp.asarray(2 * np.arange(PANELS) + 1, low.dtype)
    return (centres[:, None] + half * jnp.asarray(_x, low.dtype)[None]).ravel(), half


def integral(values: Float[Array, "*modes nodes"], half: Array) -> Float[Array, "*modes"]:
    weights = jnp.asarray(np.tile(_w, PANELS), values.dtype)
    return half * jnp.dot(values, weights, precision=HIGHEST)


def running_integral(
    values: Float[Array, "*modes nodes"], half: Array
) -> Float[Array, "*modes nodes"]:
    """From the lower end to each node."""
    panels = values.reshape(*values.shape[:-1], PANELS, NODES)
    whole = jnp.dot(panels, jnp.asarray(_w, values.dtype), precision=HIGHEST)
    before = jnp.cumsum(whole, axis=-1) - whole
    running = jnp.asarray(_RUNNING.T, values.dtype)
    within = jnp.dot(panels, running, precision=HIGHEST)
    return half * (before[..., None] + within).reshape(values.shape)
