r"""What classifier-free guidance generates from Gaussians, in closed form: a shift, and a loss of variance.

With `tau = sigma^2` a mode of variances `c` (conditional) and `v` (unconditional) and means `m` and `k` follows

    du/dtau = (w (u - m) / (c + tau) + (1 - w) (u - k) / (v + tau)) / 2,

which is linear: what starts at tau_1 is multiplied by `((c + tau_0) / (c + tau_1))^(w/2)` times
`((v + tau_0) / (v + tau_1))^((1-w)/2)`.
"""

import jax.numpy as jnp
import numpy as np

from .._checks import RealScalar, as_float_array, require_ascending, require_finite
from .._jax.precision import common_dtype
from .._kinds import checks_kinds
from .._levels import as_level
from ..denoisers import GaussianDenoiser

# Gauss-Legendre nodes of a stretch in the logarithm of tau, and its extent: to rounding for weights up to some tens.
NODES, EXTENT = 20, 0.5


@checks_kinds
def guided_gaussian_law(
    unconditional: GaussianDenoiser,
    conditional: GaussianDenoiser,
    weight: RealScalar,
    sigma_from: RealScalar = 80.0,
    sigma_to: RealScalar = 0.002,
) -> GaussianDenoiser:
    """The law of samples under guidance `D_u + w (D_c - D_u)` of two Gaussians whose covariances share their eigenvectors.

    The probability flow of `GuidedDenoiser(unconditional, conditional, weight)` from `sigma_from` to `sigma_to`, started
    from the noisy law of the unconditional one, N(mean, covariance + sigma_from^2). Beyond w = 1 the samples' mean passes
    the conditional mean, away from the unconditional one, and their variance falls below the conditional variance c where
    that is below the unconditional variance v, and rises above it where c > v: to `c (c / v)^(w - 1)` at much noise.
    Guidance is no sampling of a sharpened law.

    Args:
        unconditional, conditional: Gaussians of one dimension with commuting covariances.
        weight: w, any finite number; 0 the unconditional law, 1 the conditional one, but for what the start leaves of both.
        sigma_from, sigma_to: noise levels, decreasing, in data units.

    Raises:
        ValueError: for Gaussians of different dimensions or covariances that do not commute; levels that are not
            positive and decreasing.

    Source: ours, of the linear flow; see Bradley and Nakkiran 2024, "Classifier-free guidance is a predictor-corrector".

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> every = sj.GaussianDenoiser(jnp.zeros(1), 4 * jnp.eye(1))
        >>> one = sj.GaussianDenoiser(jnp.ones(1), jnp.eye(1))
        >>> for weight in (0.0, 1.0, 3.0):
        ...     law = sj.gaussian.guided_gaussian_law(every, one, weight)
        ...     print(law.mean.round(1), law.variances.round(1))
        [0.] [4.]
        [1.] [1.]
        [1.5] [0.1]
    """
    if unconditional.dim != conditional.dim:
        raise ValueError(
            f"`conditional` must have dimension {unconditional.dim}, as `unconditional` has; got {conditional.dim}."
        )
    dtype = common_dtype(unconditional.mean, conditional.mean)
    weight = as_float_array(weight, "weight")
    require_finite(weight, "weight")
    if weight.ndim != 0:
        raise ValueError(f"`weight` must be a scalar; got shape {weight.shape}.")
    high, low = as_level(sigma_from, "sigma_from", dtype), as_level(sigma_to, "sigma_to", dtype)
    require_ascending(low, high, "sigma_to", "sigma_from")
    basis, own, other = _common_modes(conditional, unconditional)
    mean = np.asarray(unconditional.mean, np.float64)
    shift = basis.T @ (np.asarray(conditional.mean, np.float64) - mean)
    w, start, end = float(weight), float(high) ** 2, float(low) ** 2

    def gain(tau: np.ndarray) -> np.ndarray:
        """What a state at `tau` is multiplied by until the end, mode by mode."""
        exponent = w * np.log((own + end) / (own + tau)) + (1 - w) * np.log(
            (other + end) / (other + tau)
        )
        return np.exp(0.5 * exponent)

    # Relative to the unconditional mean the conditional one drives: du/dtau = ... - w shift / (2 (c + tau)).
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    cuts = np.linspace(np.log(end), np.log(start), 2 + int(np.log(start / end) / EXTENT))
    half = 0.5 * np.diff(cuts)[:, None]
    tau = np.exp((cuts[:-1, None] + half * (1 + nodes[None])).ravel())[:, None]
    sizes = (half * weights[None]).ravel()[:, None] * tau
    driven = np.sum(sizes * gain(tau) * 0.5 * w / (own + tau), axis=0) * shift
    variances = gain(np.asarray(start)) ** 2 * (other + start)
    return GaussianDenoiser.low_rank(
        jnp.asarray(mean + basis @ driven, dtype),
        jnp.asarray(basis, dtype),
        jnp.asarray(variances, dtype),
    )


def _common_modes(
    first: GaussianDenoiser, second: GaussianDenoiser
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvectors of both covariances and the eigenvalues of each, in float64."""
    one, two = (np.asarray(g.covariance(), np.float64) for g in (first, second))
    scale = max(np.abs(one).max(), np.abs(two).max(), np.finfo(np.float64).tiny)
    one, two = one / scale, two / scale
    # A combination in no special proportion has the eigenvectors of both where they share them.
    basis = np.linalg.eigh(one + 0.618034 * two)[1]
    values = [basis.T @ matrix @ basis for matrix in (one, two)]
    rounding = 100 * len(one) * float(jnp.finfo(first.mean.dtype).eps)
    off = max(np.abs(v - np.diag(np.diag(v))).max() for v in values)
    if off > rounding:
        raise ValueError(
            "`conditional` and `unconditional` must have covariances with the same eigenvectors; "
            f"got matrices that mix them by {off:.3g} of their size."
        )
    own, other = (scale * np.maximum(np.diag(v), 0) for v in values)
    return basis, own, other
