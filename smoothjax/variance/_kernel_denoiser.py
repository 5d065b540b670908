"""Kernel smoothers: denoisers that are read off kernels at training inputs."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import RealScalar, as_float_array
from .._jax.precision import HIGHEST
from .._kinds import require_kinds_of_fields
from ..denoisers import AbstractDenoiser
from ..parametrization import Prediction, as_prediction
from ._training_set import output_form

Kernel = Callable[[Array, Array, Array, Array], Array]
"""Any positive semi-definite `(u, sigma, v, tau) -> ()`."""
Function = Callable[[Array, Array], Array]
"""Any callable `(u, sigma) -> (d,)`: the output f that a prediction reads as a denoiser."""


class KernelDenoiser(AbstractDenoiser):
    """`D = b + c (f_0 + sum_n k(z, z_n) a_n)`, with b and c as in `LinearDenoiser`.

    Args:
        kernel: `(u, sigma, v, tau) -> ()`.
        u, sigma: training inputs, shapes (P, d) and (P,).
        coefficients: a, shape (P, d).
        prediction: what the sum stands for.
        initial: f_0, what training started from: callable `(u, sigma) -> (d,)`. By default zero.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> kernel = lambda u, sigma, v, tau: jnp.sum(u * v)
        >>> D = sj.variance.KernelDenoiser(kernel, jnp.array([[3.0]]), jnp.array([1.0]), jnp.array([[0.5]]))
        >>> print(D(jnp.array([2.0]), 1.0))  # 2 * 3 * 0.5
        [3.]
    """

    kernel: Kernel
    u: Float[Array, "P d"] = eqx.field(converter=lambda x: as_float_array(x, "u"))
    sigma: Float[Array, " P"] = eqx.field(converter=lambda x: as_float_array(x, "sigma"))
    coefficients: Float[Array, "P d"] = eqx.field(
        converter=lambda x: as_float_array(x, "coefficients")
    )
    prediction: Prediction = eqx.field(static=True, default="x0", converter=as_prediction)
    initial: Function | None = None

    def __check_init__(self):
        require_kinds_of_fields(self)

    @property
    def dim(self) -> int:
        return self.u.shape[1]

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        base, scale = output_form(self.prediction, u, sigma)
        column = kernel_column(self.kernel, self.u, self.sigma, u, sigma)
        output = jnp.matmul(column, self.coefficients, precision=HIGHEST)
        if self.initial is not None:
            output = output + self.initial(u, sigma)
        return base + scale * output


class Initialisation(eqx.Module):
    """Random functions that training starts from, with independent outputs of one covariance.

    Args:
        covariance: K_0 of one output, `(u, sigma, v, tau) -> ()`.
        gram: K_0 between the training inputs, times `sqrt(w_n w_m)`.
        model: `key -> f_0`, or None where nothing is drawn.
    """

    covariance: Kernel
    gram: Float[Array, "P P"]
    model: Callable[[PRNGKeyArray], Function] | None


def kernel_column(kernel: Kernel, u: Array, sigma: Array, v: Any, tau: Any) -> Float[Array, " P"]:
    return jax.vmap(lambda a, s: kernel(a, s, v, tau))(u, sigma)
