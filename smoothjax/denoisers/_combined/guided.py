"""A denoiser beyond another one, away from a third: classifier-free guidance."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._calls import Denoiser, denoised
from ..._checks import RealScalar, as_float_array, require_finite
from ..._kinds import checks_kinds
from .._base import AbstractDenoiser, in_dtype_of, mean_and_variance


class GuidedDenoiser(AbstractDenoiser):
    """`D_u + w (D_c - D_u)`: classifier-free guidance of an unconditional denoiser by a conditional one.

    With `w = 0` it is the unconditional one, with `w = 1` the conditional one, and beyond that what sets the two apart is
    exaggerated. Papers write the same as `(1 + w') D_c - w' D_u`, so that this w is their `1 + w'`: no guidance is their
    `w' = 0`. Scores and predicted noises combine with the same weight.

    But for w = 0 and 1 it is in general the posterior mean of no law. The variance of `mean_and_variance` is `sigma^2` times
    the trace of its Jacobian, that of no posterior, and may be negative; and its flow does not generate the law whose
    density is in proportion to `p_c^w p_u^(1 - w)`, though its score at each noise level is the gradient of such a product.

    For guidance at some noise levels only, make a `ScheduledDenoiser` of guided ones.

    Args:
        unconditional, conditional: denoisers of one dimension, at least one of which knows it.
        weight: w, any finite number.

    Raises:
        ValueError: for denoisers of different dimensions, or where neither knows its dimension; for a weight that is no
            finite number.

    Source: Ho and Salimans 2022, "Classifier-free diffusion guidance"; Bradley and Nakkiran 2024, "Classifier-free guidance
    is a predictor-corrector" (which law it does not sample).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> every = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
        >>> one = sj.GaussianDenoiser(jnp.ones(1), jnp.eye(1))
        >>> D = sj.GuidedDenoiser(every, one, 3.0)
        >>> print(every(jnp.zeros(1), 1.0), one(jnp.zeros(1), 1.0), D(jnp.zeros(1), 1.0))
        [0.] [0.5] [1.5]
    """

    unconditional: Denoiser
    conditional: Denoiser
    weight: Float[Array, ""]

    @checks_kinds
    def __init__(self, unconditional: Denoiser, conditional: Denoiser, weight: RealScalar):
        known = [d for d in (unconditional, conditional) if isinstance(d, AbstractDenoiser)]
        dims = {d.dim for d in known}
        if len(dims) != 1:
            raise ValueError(
                "`unconditional` and `conditional` must have one dimension, known to one of them; "
                f"got {sorted(dims)}."
            )
        weight = as_float_array(weight, "weight")
        require_finite(weight, "weight")
        self.unconditional, self.conditional = unconditional, conditional
        self.weight = in_dtype_of(known[0], weight)

    @property
    def dim(self) -> int:
        return next(
            d.dim for d in (self.unconditional, self.conditional) if isinstance(d, AbstractDenoiser)
        )

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        return self._combined(
            denoised(self.unconditional, u, sigma), denoised(self.conditional, u, sigma)
        )

    def mean_and_variance(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        u, sigma = self._point(u, sigma)
        (mean, variance), (other, other_variance) = (
            mean_and_variance(one, u, sigma) for one in (self.unconditional, self.conditional)
        )
        as_point = lambda value: jnp.asarray(value, u.dtype)  # noqa: E731
        return (
            self._combined(as_point(mean), as_point(other)),
            self._combined(as_point(variance), as_point(other_variance)),
        )

    def _combined(self, unconditional: Array, conditional: Array) -> Array:
        # By the difference, which keeps its digits where the data lie far from the origin.
        weight = self.weight.astype(unconditional.dtype)
        return unconditional + weight * (conditional - unconditional)
