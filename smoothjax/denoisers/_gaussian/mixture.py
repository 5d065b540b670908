"""Mixtures of Gaussians: between the memorising denoiser (a component a point) and the Gaussian one (one component)."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ..._checks import (
    RealScalar,
    as_float_array,
    as_integer,
    as_points,
    as_seed,
    import_optional,
    require_each,
)
from ..._jax.precision import HIGHEST
from ..._keys import seed_of_32_bits
from ..._kinds import checks_kinds
from ..._numerics import as_log_weights
from .._base import AbstractPosteriorDenoiser, as_vector
from .._compiled import one_program
from .gaussian import GaussianDenoiser, resolvent
from .mixture_components import expectation_maximisation, stacked_components


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, precision=HIGHEST)


class MixtureDenoiser(AbstractPosteriorDenoiser):
    r"""Posterior mean for data drawn from a mixture of K Gaussians: `D(u) = sum_k r_k(u) D_k(u)`.

    The responsibilities `r_k` are those of the *noisy* mixture, `r_k ~ w_k N(u; mu_k, Sigma_k + sigma^2)`. Components
    may be full or low-rank (`low_rank`), and a call costs O(K d r).

    Args:
        weights: positive, shape (K,), normalised here.
        means: shape (K, d), in data units.
        covariances: shape (K, d, d), symmetric and positive semi-definite.

    Raises:
        ValueError: for wrong shapes, values that are not finite, weights that are negative or all zero, or a covariance that
            is not symmetric positive semi-definite.

    **float32**: responsibilities are a soft-max over squared distances, each in the metric of its component. What is common
    to all components is left out: with L the largest of all variances l, errors are of the size of
    `eps |u| |mu_k - mu_j| / (L + sigma^2)` and `eps (L - l) |u - mu_k|^2 / ((L + sigma^2) (l + sigma^2))`, of the
    size of what rounding u changes. Any noise level, and |u| up to 1e30 for data of size one.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.MixtureDenoiser(jnp.ones(2), jnp.array([[-1.0], [1.0]]), jnp.zeros((2, 1, 1)))
        >>> print(D(jnp.array([0.3]), 1.0).round(4))  # two point masses: tanh(u / sigma^2)
        [0.2913]
    """

    log_weights: Float[Array, " K"]
    components: GaussianDenoiser  # with a leading axis of length K on every leaf

    @checks_kinds
    def __init__(self, weights: Any, means: Any, covariances: Any):
        means, covariances = as_points(means, "means"), as_float_array(covariances, "covariances")
        k, d = means.shape
        if covariances.shape != (k, d, d):
            raise ValueError(
                f"`covariances` must have shape ({k}, {d}, {d}), as `means` has {means.shape}; got {covariances.shape}."
            )
        self.log_weights = as_log_weights(weights, k, "component", means.dtype)
        self.components = stacked_components(
            [GaussianDenoiser(m, c) for m, c in zip(means, covariances, strict=True)]
        )

    @classmethod
    @checks_kinds
    def of(cls, weights: Any, components: Sequence[GaussianDenoiser]) -> "MixtureDenoiser":
        """A mixture of given Gaussians, which may differ in rank.

        Raises:
            ValueError: where there is no component, or their dimensions differ.

        Example:
            >>> import jax.numpy as jnp, smoothjax as sj
            >>> left, right = (sj.GaussianDenoiser(jnp.array([m]), jnp.array([[1.0]])) for m in (-20.0, 20.0))
            >>> D = sj.MixtureDenoiser.of([0.5, 0.5], [left, right])
            >>> print(D(jnp.array([22.0]), 1.0).round(5), D(jnp.array([0.0]), 1.0).round(5) + 0.0)
            [21.] [0.]
        """
        if len({c.dim for c in components}) != 1:
            raise ValueError(
                f"`components` must be Gaussians of one dimension; got dimensions {[c.dim for c in components]}."
            )
        self = object.__new__(cls)
        log_weights = as_log_weights(
            weights, len(components), "component", components[0].mean.dtype
        )
        object.__setattr__(self, "log_weights", log_weights)
        object.__setattr__(self, "components", stacked_components(components))
        return self

    @classmethod
    @checks_kinds
    def low_rank(
        cls, weights: Any, means: Any, bases: Any, eigenvalues: Any, complements: Any = 0.0
    ) -> "MixtureDenoiser":
        """Components `U_k diag(lambda_k) U_k^T + lambda_0k (1 - U_k U_k^T)`.

        Args:
            weights: shape (K,).
            means: shape (K, d).
            bases: shape (K, d, r), orthonormal columns.
            eigenvalues: shape (K, r).
            complements: shape (K,) or a scalar.

        Example:
            >>> import jax.numpy as jnp, smoothjax as sj
            >>> axes = jnp.eye(2)[:, :, None]  # one line of data along each
            >>> D = sj.MixtureDenoiser.low_rank([0.5, 0.5], jnp.zeros((2, 2)), axes, jnp.full((2, 1), 100.0))
            >>> print(D(jnp.array([20.0, 0.0]), 1.0).round(2))  # 20 * 100 / 101, on the first
            [19.8  0. ]
        """
        means = as_points(means, "means")
        k, d = means.shape
        bases, eigenvalues = (
            as_float_array(bases, "bases"),
            as_float_array(eigenvalues, "eigenvalues"),
        )
        complements = as_float_array(complements, "complements")
        if (
            eigenvalues.ndim != 2
            or bases.shape != (k, d, eigenvalues.shape[1])
            or eigenvalues.shape[0] != k
        ):
            raise ValueError(
                f"`bases` must have shape (K, d, r) and `eigenvalues` (K, r), with (K, d) = {means.shape} as in `means`; "
                f"got {bases.shape} and {eigenvalues.shape}."
            )
        if complements.shape not in ((), (k,)):
            raise ValueError(
                f"`complements` must have shape () or ({k},); got {complements.shape}."
            )
        parts = zip(means, bases, eigenvalues, jnp.broadcast_to(complements, (k,)), strict=True)
        return cls.of(weights, [GaussianDenoiser.low_rank(*part) for part in parts])

    @classmethod
    @checks_kinds
    def molrg(
        cls, weights: Any, bases: Sequence[Any], eigenvalues: Sequence[Any] | None = None
    ) -> "MixtureDenoiser":
        r"""Mixture of low-rank Gaussians (MoLRG) on linear subspaces: `x_0 = U_k a` with probability `w_k`, `a` Gaussian.

        All means are zero, and so is the variance off the subspaces, so that the law has no density without noise. With
        `lambda = 1` the denoiser is `sum_k r_k U_k U_k^T u / (1 + sigma^2)` and

            r_k ~ w_k (1 + 1/sigma^2)^(-d_k/2) exp(|U_k^T u|^2 / (2 sigma^2 (1 + sigma^2))),

        which overflows at small noise; here the exponents are the distances from the subspaces. As the noise vanishes, D
        projects on the nearest of the subspaces (on the one of least dimension, of several through the point).

        Args:
            weights: w, shape (K,), normalised here.
            bases: K arrays U_k of shape (d, d_k) with orthonormal columns; the subspaces may differ in dimension.
            eigenvalues: K arrays of shape (d_k,), the variances along the columns. Ones by default.

        Raises:
            ValueError: for wrong shapes, columns that are not orthonormal, or negative variances.

        Source: Wang et al. 2024, "Diffusion models learn low-dimensional distributions via subspace clustering".

        Example:
            >>> import jax.numpy as jnp, smoothjax as sj
            >>> D = sj.MixtureDenoiser.molrg(jnp.ones(2), [jnp.eye(2)[:, :1], jnp.eye(2)[:, 1:]])
            >>> print(D(jnp.array([2.0, 0.1]), 1e-6))  # two lines: the nearest
            [2. 0.]
        """
        require_each(bases, "bases")
        arrays = [as_float_array(basis, "bases") for basis in bases]
        if any(basis.ndim != 2 for basis in arrays):
            raise ValueError(
                f"`bases` must be arrays of shape (d, d_k); got shapes {[b.shape for b in arrays]}."
            )
        if eigenvalues is None:
            eigenvalues = [jnp.ones(basis.shape[1], basis.dtype) for basis in arrays]
        if len(eigenvalues) != len(arrays):
            raise ValueError(
                f"`eigenvalues` must have one entry a subspace, {len(arrays)}; got {len(eigenvalues)}."
            )
        components = [
            GaussianDenoiser.low_rank(jnp.zeros(basis.shape[0], basis.dtype), basis, variances)
            for basis, variances in zip(arrays, eigenvalues, strict=True)
        ]
        return cls.of(weights, components)

    @classmethod
    @checks_kinds
    def fit(
        cls,
        data: Any,
        labels: Any = None,
        *,
        num_components: int = 10,
        method: Literal["k-means", "em"] = "k-means",
        rank: int | None = None,
        shrinkage: float | Literal["ledoit-wolf"] = 0.0,
        seed: int = 0,
    ) -> "MixtureDenoiser":
        """A Gaussian for every class, or for every cluster where there are no labels.

        Args:
            data: training points, shape (n, d).
            labels: class of each point, shape (n,). Without them, scikit-learn finds `num_components` clusters.
            num_components: number of clusters, used without labels only.
            method: how clusters are found, used without labels only. "k-means" assigns every point to one of them. "em"
                maximises the likelihood of the mixture (`sklearn.mixture.GaussianMixture`, full covariances, to which a
                millionth of the data's average variance is added, or they could collapse).
            rank, shrinkage: as in `GaussianDenoiser.fit`, for each component, once the clusters are found. With "em" the
                shrinkage must be a number.
            seed: of k-means and EM.

        Raises:
            ValueError: for labels of another length, fewer points than components, or an unknown method.

        Example:
            >>> import jax.numpy as jnp, smoothjax as sj
            >>> data, labels = jnp.array([[0.0], [2.0], [40.0], [42.0]]), jnp.array([0, 0, 1, 1])
            >>> print(sj.MixtureDenoiser.fit(data, labels)(jnp.array([43.0]), 1.0).round(4))  # of N(41, 1)
            [42.]
        """
        data, seed = as_points(data), as_seed(seed)
        n, d = data.shape
        rank = None if rank is None else min(rank, d)
        if method not in ("k-means", "em"):
            raise ValueError(f'`method` must be "k-means" or "em"; got {method!r}.')
        if labels is None:
            num_components = as_integer(num_components, "num_components")
            if not 1 <= num_components <= n:
                raise ValueError(f"`num_components` must lie in 1..n = {n}; got {num_components}.")
            if method == "em":
                return cls.of(
                    *expectation_maximisation(data, num_components, rank, shrinkage, seed)
                )
            cluster = import_optional("sklearn.cluster")
            kmeans = cluster.KMeans(num_components, n_init=4, random_state=seed_of_32_bits(seed))
            labels = kmeans.fit_predict(np.asarray(data))
        labels = np.asarray(labels)
        if labels.shape != (n,):
            raise ValueError(f"`labels` must have shape ({n},), one a point; got {labels.shape}.")
        members = [np.asarray(data)[labels == label] for label in np.unique(labels)]
        components = [GaussianDenoiser.fit(m, rank, shrinkage) for m in members]
        return cls.of(np.asarray([len(m) for m in members], float), components)

    @property
    def dim(self) -> int:
        return self.components.mean.shape[1]

    @property
    def weights(self) -> Float[Array, " K"]:
        """Weights of the components, which sum to one."""
        return jnp.exp(self.log_weights)

    def _joint(self, u: Array, sigma: Array) -> tuple[Array, Array]:
        """Log densities of the components, weighted, less that of the largest; and that.

        With L the largest of all variances, `1 / (l + s^2) = 1 / (L + s^2) + (L - l) / ((L + s^2) (l + s^2))`. Of the first
        part what is common to all components is left out, and the second has one sign: nothing cancels.
        """
        components, d = self.components, self.dim
        widest = jnp.maximum(
            jnp.max(components.eigenvalues, initial=0), jnp.max(components.complement)
        )
        middle = lax.stop_gradient(jnp.mean(components.mean, axis=0))
        v, common = u - middle, resolvent(widest, sigma)
        scales = _units(v, common, components, sigma)

        def of(component: GaussianDenoiser, log_weight: Array) -> Array:
            shift = component.mean - middle
            linear = jnp.sum(_over(shift, scales) * (_over(2 * v - shift, scales) * common))
            modes, rest = component._split(v - shift)
            modes, rest = _over(modes, scales), _over(rest, scales)
            inverse, outer = component._spectrum(lambda variance: resolvent(variance, sigma))
            above, beyond = component._spectrum(lambda variance: widest - variance)
            # In this order: squares of coordinates, or of inverse variances, might be no numbers of the dtype.
            own = jnp.sum((modes * inverse) * modes * (common * above))
            own += jnp.sum((rest * outer) * rest * (common * beyond))
            missing = d - modes.shape[0]
            log_volume = jnp.sum(jnp.log1p(above * inverse)) + missing * jnp.log1p(beyond * outer)
            return 0.5 * (linear - own) + _over(
                _over(log_weight + 0.5 * log_volume, scales), scales
            )

        total = jax.vmap(of)(components, self.log_weights)
        best = jnp.argmax(total)
        below, lowest = total - total[best], 1.1 * math.log(jnp.finfo(u.dtype).tiny)
        # What has no weight has no slope: it may be larger than the dtype holds.
        negligible = below < _over(_over(jnp.asarray(lowest, u.dtype), scales), scales)
        below = jnp.where(negligible, 0, below)
        for scale in (*scales, *scales):
            below = below * scale
        highest = total[best]
        for scale in (*scales, *scales):
            highest = highest * scale
        highest += 0.5 * d * (jnp.log(common) - math.log(2 * math.pi))
        highest -= 0.5 * jnp.sum((v * jnp.sqrt(common)) ** 2)
        return jnp.where(negligible, lowest, below), highest

    @one_program
    def responsibilities(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " K"]:
        """Posterior probability of each component given the noisy point."""
        u, sigma = self._point(u, sigma)
        return jax.nn.softmax(self._joint(u, sigma)[0])

    def _posterior(self, u: Any, sigma: Any) -> tuple[Array, Array, Array, Array, Array]:
        u, sigma = self._point(u, sigma)
        weights = jax.nn.softmax(self._joint(u, sigma)[0])
        means = jax.vmap(lambda component: component(u, sigma))(self.components)
        return u, sigma, weights, means, _dot(weights, means)

    @one_program
    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        return self._posterior(u, sigma)[-1]

    @one_program
    def log_density(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        u, sigma = self._point(u, sigma)
        below, highest = self._joint(u, sigma)
        return highest + jax.nn.logsumexp(below)

    @one_program
    def posterior_covariance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, "d d"]:
        u, sigma, weights, means, mean = self._posterior(u, sigma)
        within = jax.vmap(lambda component: component.posterior_covariance(u, sigma))(
            self.components
        )
        # Roots of the weights: far away, the squares of differences of no weight overflow.
        difference = jnp.sqrt(weights)[:, None] * (means - mean[None])
        between = _dot(difference.T, difference)
        return jnp.tensordot(weights, within, 1, precision=HIGHEST) + between

    @one_program
    def posterior_variance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, ""]:
        u, sigma, weights, means, mean = self._posterior(u, sigma)
        within = jax.vmap(lambda component: component.posterior_variance(u, sigma))(self.components)
        difference = jnp.sqrt(weights)[:, None] * (means - mean[None])
        return _dot(weights, within) + jnp.sum(difference**2)

    @one_program
    def posterior_covariance_product(
        self, u: Float[Array, " d"], sigma: RealScalar, vector: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        u, sigma, weights, means, mean = self._posterior(u, sigma)
        vector = as_vector(vector, u)
        within = jax.vmap(
            lambda component: component.posterior_covariance_product(u, sigma, vector)
        )(self.components)
        difference = jnp.sqrt(weights)[:, None] * (means - mean[None])
        return _dot(weights, within) + _dot(_dot(difference, vector), difference)

    def mean_and_covariance(self) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        weights, means = self.weights, self.components.mean
        mean = _dot(weights, means)
        within = jax.vmap(lambda component: component.covariance())(self.components)
        difference = means - mean[None]
        between = _dot((weights[:, None] * difference).T, difference)
        return mean, jnp.tensordot(weights, within, 1, precision=HIGHEST) + between


def _units(
    v: Array, common: Array, components: GaussianDenoiser, sigma: Array
) -> tuple[Array, Array]:
    """Sizes of the point and of its coordinates in standard deviations, where their squares may overflow; else ones."""
    v, sigma = lax.stop_gradient((v, sigma))
    size = jnp.max(jnp.abs(v)) + jnp.max(jnp.abs(components.mean))
    inverse = jnp.maximum(
        jnp.max(resolvent(components.eigenvalues, sigma), initial=0),
        jnp.max(resolvent(components.complement, sigma)),
    )
    root = jnp.sqrt(jnp.maximum(inverse, common))
    is_large = size * root > jnp.finfo(v.dtype).max ** 0.4
    one = jnp.ones((), v.dtype)
    return lax.stop_gradient((jnp.where(is_large, size, one), jnp.where(is_large, root, one)))


def _over(value: Array, scales: tuple[Array, ...]) -> Array:
    """Divided by one after the other, whose product may overflow."""
    for scale in scales:
        value = value / scale
    return value
