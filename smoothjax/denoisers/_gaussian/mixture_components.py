"""The components of a mixture: found by expectation maximisation, and as one pytree."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..._checks import import_optional
from ..._keys import seed_of_32_bits
from .gaussian import GaussianDenoiser, from_sample_spectrum, require_rank_and_shrinkage


def expectation_maximisation(
    data: Array, num_components: int, rank: int | None, shrinkage: Any, seed: int
) -> tuple[Any, list[GaussianDenoiser]]:
    require_rank_and_shrinkage(rank, shrinkage, data.shape[1])
    if isinstance(shrinkage, str):
        raise ValueError(
            f'With method="em" `shrinkage` must be a number; got {shrinkage!r}, which needs the members of a cluster.'
        )
    points = np.asarray(data, np.float64)
    # In units of the data: scikit-learn's own default is an absolute variance.
    floor = 1e-6 * float(np.mean(np.var(points, axis=0)))
    mixture = import_optional("sklearn.mixture")
    em = mixture.GaussianMixture(
        num_components, reg_covar=floor, n_init=4, random_state=seed_of_32_bits(seed)
    )
    em.fit(points)
    components = []
    for mean, covariance in zip(em.means_, em.covariances_, strict=True):
        eigenvalues, basis = np.linalg.eigh(covariance)
        spectrum = np.maximum(eigenvalues[::-1], 0)
        components.append(
            from_sample_spectrum(mean, basis[:, ::-1], spectrum, rank, shrinkage, data.dtype)
        )
    return em.weights_, components


def stacked_components(components: Sequence[GaussianDenoiser]) -> GaussianDenoiser:
    """The components as one pytree with a leading axis, all brought to the largest rank among them."""
    rank = max(component.basis.shape[1] for component in components)
    return _stacked(*[_pad(component, rank) for component in components])


@jax.jit  # One program, where each field would have one of its own.
def _stacked(*components: "GaussianDenoiser") -> GaussianDenoiser:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *components)


def _pad(component: GaussianDenoiser, rank: int) -> GaussianDenoiser:
    missing = rank - component.basis.shape[1]
    if missing == 0:
        return component
    # Any orthonormal completion of the basis describes the same covariance.
    complete = np.linalg.qr(np.asarray(component.basis, np.float64), mode="complete")[0]
    extra = jnp.asarray(complete[:, rank - missing : rank], component.mean.dtype)
    return GaussianDenoiser.low_rank(
        component.mean,
        jnp.concatenate([component.basis, extra], axis=1),
        jnp.concatenate([component.eigenvalues, jnp.full(missing, component.complement)]),
        component.complement,
    )
