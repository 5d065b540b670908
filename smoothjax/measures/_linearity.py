"""How nearly a denoiser acts as a linear map."""

import math
from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._calls import evaluate
from .._checks import RealScalar, as_key, as_positive_integer
from .._jax.blocks import in_batches
from .._jax.host_errors import raising_host_errors
from .._kinds import checks_kinds
from .._levels import as_level
from .._numerics import as_centre, as_data, keys_by_index, noises, norm
from ..denoisers import DualGaussianDenoiser, GaussianDenoiser
from ._estimate import Estimate, mean_estimate
from ._registry import Measure, register


class LinearityScore(eqx.Module):
    """The linearity score of a denoiser, raw and centred; see `linearity_score`.

    Attributes:
        raw: the published score, which is 1 for linear maps.
        centred: the score about the centre, which is 1 for affine maps that fix the centre.
    """

    raw: Estimate
    centred: Estimate

    def __repr__(self) -> str:
        return f"LinearityScore(raw={self.raw}, centred={self.centred})"


@checks_kinds
@raising_host_errors
def linearity_score(
    denoiser: Callable[[Array, Array], Array],
    data: Float[Array, "n d"],
    sigma: RealScalar,
    key: PRNGKeyArray,
    *,
    centre: Float[Array, " d"] | None = None,
    num_noises: int = 1,
    batch_size: int = 1024,
) -> LinearityScore:
    """Mean |cosine| between the image of a combination and the combination of the images.

    The raw score is E |cos(D(a u1 + b u2), a D(u1) + b D(u2))|, a = b = 1/sqrt(2), for u1 and u2
    independent noisy data points at one noise level; a^2 + b^2 = 1 leaves the noise in the
    combination at that level. It is 1 for a linear map, and less for one that is only affine:
    unless the data mean is zero, so is the Gaussian denoiser's.

    The centred score is the same for v -> D(v + centre) - centre at v = u - centre. It is exactly 1
    for every affine map that fixes the centre; the Gaussian denoiser fixes the data mean.

    Scores are not on the scale of the error: 1 - score is of second order in the nonlinear part.
    The modulus hides changes of sign, and gives unrelated images a positive score, of about
    sqrt(2/(pi d)). Show the score of the Gaussian and of the empirical denoiser next to a
    network's.

    In one dimension the cosine of two numbers is one whatever the denoiser does: the score is not defined there, and NaN.

    Where both vectors vanish exactly the cosine is taken as 1 (the zero map is linear), where one
    does as 0. If D(u) - centre is as small as the rounding of D(u), at noise far above the data's
    spread, the centred score is that of rounding errors.

    The data points are paired up at random, each in one pair (an odd one is left out), so that
    pairs are independent; noises of one pair are averaged before the standard error is taken. The
    pairing and the noises depend on `key` alone, so levels and denoisers are compared under common
    random numbers.

    Args:
        denoiser: callable `(u: (d,), sigma: ()) -> (d,)`.
        data: clean points, shape (n, d), n >= 4. The dtype of the computation is theirs.
        sigma: noise level, positive, in the units of the data.
        key: JAX random key.
        centre: fixed point for the centred score, shape (d,); by default the mean of `data`. For a
            denoiser fitted to other data give the mean of those.
        num_noises: independent noises for each pair.
        batch_size: pairs evaluated at a time; the result does not depend on it.

    Raises:
        ValueError: on fewer than four points, a non-positive sigma, a centre of the wrong shape, or
            a denoiser whose output does not have shape (d,).

    Source: Li, Dai and Qu 2024 (the raw score).

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> data = 1 + jax.random.normal(jax.random.key(0), (100, 3))
        >>> affine = lambda u, sigma: 1 + (u - 1) / (1 + sigma**2)
        >>> print(sj.linearity_score(affine, data, 1.0, jax.random.key(1), centre=jnp.ones(3)).centred.value.round(5))
        1.0
    """
    key = as_key(key)
    data = as_data(data, 4, "for two pairs and a standard error")
    sigma = jnp.asarray(as_level(sigma, "sigma", data.dtype))
    num_noises = as_positive_integer(num_noises, "num_noises")
    batch_size = as_positive_integer(batch_size, "batch_size")
    mu = as_centre(centre, data)
    if data.shape[1] == 1:
        evaluate(denoiser, data[0], sigma, "denoiser")
        undefined = jnp.asarray(np.nan, data.dtype)
        return LinearityScore(Estimate(undefined, undefined), Estimate(undefined, undefined))
    pairing_key, noise_key = jax.random.split(key)
    keys = keys_by_index(noise_key, data.shape[0])
    num_pairs = data.shape[0] // 2
    pairs = jax.random.permutation(pairing_key, data.shape[0])[: 2 * num_pairs].reshape(-1, 2)
    a = b = math.sqrt(0.5)

    def image(u: Array) -> Array:
        return evaluate(denoiser, u, sigma, "denoiser")

    def one_pair(p: Array) -> tuple[Array, Array]:
        x = data[pairs[p]]
        draws = jax.vmap(lambda i: noises(keys[i], num_noises, x[0]))(pairs[p])

        def at_noise(z1: Array, z2: Array) -> tuple[Array, Array]:
            u1, u2 = x[0] + sigma * z1, x[1] + sigma * z2
            image1, image2 = image(u1), image(u2)
            raw = _absolute_cosine(image(a * u1 + b * u2), a * image1 + b * image2)
            combined = image(mu + (a * (u1 - mu) + b * (u2 - mu))) - mu
            centred = _absolute_cosine(combined, a * (image1 - mu) + b * (image2 - mu))
            return raw, centred

        raw, centred = jax.vmap(at_noise)(*draws)
        return jnp.mean(raw), jnp.mean(centred)

    raw, centred = in_batches(one_pair, num_pairs, batch_size)
    return LinearityScore(mean_estimate(raw), mean_estimate(centred))


class LinearityComparison(eqx.Module):
    """Linearity scores of a denoiser and of the two references; see `linearity_comparison`.

    Attributes:
        denoiser: scores of the denoiser in question.
        empirical: scores of the memorizing denoiser.
        gaussian: scores of the Gaussian denoiser.
    """

    denoiser: LinearityScore
    empirical: LinearityScore
    gaussian: LinearityScore


@checks_kinds
def linearity_comparison(
    denoiser: Callable[[Array, Array], Array],
    empirical: Callable[[Array, Array], Array],
    gaussian: GaussianDenoiser | DualGaussianDenoiser,
    data: Float[Array, "n d"],
    sigma: RealScalar,
    key: PRNGKeyArray,
    *,
    num_noises: int = 1,
    batch_size: int = 1024,
) -> LinearityComparison:
    """`linearity_score` of a denoiser beside those of the memorizing and of the Gaussian one, on the same pairs and noises.

    A score by itself says little: at noise levels where both references score near 1 any sane denoiser does. All three are
    centred on the mean of the Gaussian, about which its own score is 1.

    Args:
        denoiser: callable `(u: (d,), sigma: ()) -> (d,)`.
        empirical: the memorizing reference, such as `EmpiricalDenoiser(train)`.
        gaussian: the Gaussian reference, such as `GaussianDenoiser.fit(train)`.
        data, sigma, key, num_noises, batch_size: as for `linearity_score`.

    Raises:
        ValueError: as `linearity_score` does.

    Example:
        >>> import jax, smoothjax as sj
        >>> train = jax.random.normal(jax.random.key(0), (20, 2))
        >>> memory, gaussian = sj.EmpiricalDenoiser(train), sj.GaussianDenoiser.fit(train)
        >>> found = sj.linearity_comparison(gaussian, memory, gaussian, train, 0.5, jax.random.key(1))
        >>> round(float(found.denoiser.centred.value), 5), bool(found.empirical.centred.value < 1)
        (1.0, True)
    """
    key = as_key(key)
    scores = [
        linearity_score(
            member,
            data,
            sigma,
            key,
            centre=gaussian.mean,
            num_noises=num_noises,
            batch_size=batch_size,
        )
        for member in (denoiser, empirical, gaussian)
    ]
    return LinearityComparison(*scores)


@jax.jit
def _absolute_cosine(x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
    """|cos(x, y)|: one if both vectors are zero, zero if one is."""
    length_x, length_y = norm(x), norm(y)
    unit_x = x / jnp.where(length_x > 0, length_x, 1)
    unit_y = y / jnp.where(length_y > 0, length_y, 1)
    cosine = jnp.minimum(jnp.abs(jnp.sum(unit_x * unit_y)), 1)
    return jnp.where((length_x == 0) & (length_y == 0), 1, cosine)


def _of_comparison(
    denoiser: Callable[[Array, Array], Array],
    points: Array,
    sigma: Array,
    key: PRNGKeyArray,
    *,
    centre: Array,
    batch_size: int,
) -> Mapping[str, Estimate]:
    score = linearity_score(denoiser, points, sigma, key, centre=centre, batch_size=batch_size)
    return {"linearity_centred": score.centred, "linearity": score.raw}


register(
    Measure(
        "linearity",
        "How affine each denoiser is",
        "linearity score, centred",
        "Linearity: centred score, 1 for an affine denoiser. Not defined in one dimension, where two numbers are parallel.",
        _of_comparison,
        shown="linearity_centred",
        calls=2,
        limits=(None, 1.02),
        by_default=True,
    )
)
