"""Mean and covariance of endpoints over trained models: of drawn models, with their expansion as a control variate."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scipy import special

from .._checks import RealScalar, as_key, as_points, as_positive_integer
from .._kinds import checks_kinds
from .._ode.tolerances import tolerances
from ._dynamics import coordinates_of_models, flow_of_models
from ._kernel_law import KernelLaw
from ._linear_law import LinearModelLaw
from ._semiclassical import as_levels, expand_all, require_dim

HIGHEST = jax.lax.Precision.HIGHEST
# A control's coefficient for one part of the models is fitted to the others; of ten parts, it has nine tenths of them.
NUM_FOLDS = 10


class EndpointMoments(eqx.Module):
    """Mean and covariance of endpoints over trained models, with standard errors; see `endpoint_moments`.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> one, zero = jnp.ones((1, 1)), jnp.zeros((1, 1))  # a mean of 0 with standard error 1, without skewness
        >>> of_mean, of_covariance = (zero, one, one, zero), (one[None], one[None], one[None], zero[None])
        >>> fields = [x for pair in zip(of_mean, of_covariance) for x in pair]
        >>> ends = sj.variance.EndpointMoments(*fields, num_models=10)
        >>> print(ends.mean_interval()[0, 0].round(3))  # Student's t of 9 degrees of freedom
        [-2.262  2.262]
    """

    mean: Float[Array, "num d"]
    covariance: Float[Array, "num d d"]
    """Unbiased, and not always positive semi-definite: what the control takes away has a random size."""
    mean_error: Float[Array, "num d"]
    """Standard errors over models. The solver's error is not in them."""
    covariance_error: Float[Array, "num d d"]
    """As `mean_error`."""
    mean_reduction: Float[Array, "num d"]
    """Variance of the plain mean of the drawn models over that of `mean`: how many times the models the expansion saved.
    Large where it holds, about 1 where it does not."""
    covariance_reduction: Float[Array, "num d d"]
    """As `mean_reduction`, for the sample covariance."""
    mean_skewness: Float[Array, "num d"]
    """Skewness of what was averaged over models for `mean`."""
    covariance_skewness: Float[Array, "num d d"]
    """As `mean_skewness`."""
    num_models: int = eqx.field(static=True)

    def mean_interval(self, level: float = 0.95, *, reach: float = 0.0) -> Float[Array, "num d 2"]:
        """Both ends of a confidence interval for each component of the mean.

        Student's t of `num_models - 1` degrees of freedom, with Hall's transformation for the skewness: endpoints of few
        models that go elsewhere have an interval that is longer on that side.

        What no drawn model did is not in it. Where one model of a thousand ends in another basin, hundreds of models do not
        show it, and their intervals are too short: such starts need ten thousand. Or say how far such an endpoint can be.

        Args:
            level: of confidence, between 0 and 1.
            reach: distance from the mean, in data units, within which a model that was not drawn may end: of the size of the
                data. The interval then includes what a share of models can do that `num_models` draws miss with a
                probability of `(1 - level) / 2`, about 3.7 / num_models at 0.95.

        Raises:
            ValueError: for a level that is not between 0 and 1, or a negative reach.

        Source: Hall 1992, On the removal of skewness by transformation, J. R. Stat. Soc. B 54, 221.
        """
        found = _interval(self.mean, self.mean_error, self.mean_skewness, self.num_models, level)
        unseen = self._unseen(level, reach)
        return found + jnp.asarray([[[-unseen, unseen]]], found.dtype)

    def covariance_interval(
        self, level: float = 0.95, *, reach: float = 0.0
    ) -> Float[Array, "num d d 2"]:
        """As `mean_interval`, for each entry of the covariance; a variance's lower end is at least zero."""
        found = _interval(
            self.covariance, self.covariance_error, self.covariance_skewness, self.num_models, level
        )
        diagonal = jnp.eye(self.mean.shape[1], dtype=bool)[..., None]
        found = jnp.where(diagonal, jnp.maximum(found, 0), found)
        unseen = self._unseen(level, reach) * reach
        # Models elsewhere add to a variance.
        low = jnp.where(diagonal, 0, -unseen)[None]
        return found + jnp.concatenate([low, jnp.full_like(low, unseen)], -1).astype(found.dtype)

    def _unseen(self, level: float, reach: float) -> float:
        """The largest share of models that was likely missed, times the reach."""
        _require_level(level)
        if not reach >= 0:
            raise ValueError(f"`reach` must not be negative; got {reach}.")
        return -reach * float(np.expm1(np.log((1 - level) / 2) / self.num_models))


@checks_kinds
def endpoint_moments(
    law: LinearModelLaw | KernelLaw,
    starts: Float[Array, "num d"],
    sigma_from: RealScalar,
    sigma_to: RealScalar,
    key: PRNGKeyArray,
    *,
    num_models: int,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 4096,
) -> EndpointMoments:
    """Mean and covariance of many endpoints over trained models, unbiased, with standard errors.

    The flows of `num_models` models are followed from all starts. The expansion of the same draws, the response J of
    `semiclassical` times the draw's coordinates z, is a control variate: J z and its products have known means, 0 and
    J J^T. What is left to average over models is small where the expansion holds. Where it does not, the coefficients tend
    to zero, and the estimates to the plain mean and covariance of the drawn models. Each coefficient is fitted, for one
    component and for a tenth of the models, to the other nine tenths (and shrunk by what chance alone would fit), so that
    neither estimate is biased by it.

    Endpoints near the boundary of a basin are multimodal: mean and covariance are right, but not the whole law
    (`DrawnEndpointDensity`). Nothing says beforehand that a start is not near one; draw some hundreds of models.

    Args:
        law: models, as for `semiclassical`.
        starts: states at `sigma_from`, shape (num, d).
        sigma_from, sigma_to: noise levels, both positive.
        key: of the drawn models, as in `flow_of_models`.
        num_models: at least 2.
        rtol, atol, max_steps: as for `semiclassical`; the drawn models' flows take `rtol`. Where the expansion's equations
            are not solved in `max_steps`, there is no control.

    Raises:
        ValueError: for bad shapes, noise levels or numbers, or a law without directions.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> # Models D = w u, with w normal around 0: from sigma 2 to 1 they take 4 to 2 * 2^w.
        >>> law = sj.LinearModelLaw(lambda u, sigma: u, jnp.array([[0.0]]), jnp.array([[[0.3]]]))
        >>> starts = jnp.array([[4.0]])
        >>> ends = sj.variance.endpoint_moments(law, starts, 2.0, 1.0, jax.random.key(0), num_models=20)
        >>> low, high = ends.mean_interval()[0, 0]
        >>> bool(low < 2 * jnp.exp((0.3 * jnp.log(2)) ** 2 / 2) < high)  # the mean of a log-normal law
        True
        >>> bool(ends.mean_reduction[0, 0] > 10)  # what is left to draw is little
        True

    Source: control variates, see e.g. Glynn and Szechtman 2002; the expansion as in `semiclassical`.
    """
    key = as_key(key)
    starts = as_points(starts, "starts")
    require_dim(law, starts[0], "starts")
    start, end = as_levels(sigma_from, sigma_to, starts.dtype)
    num = as_positive_integer(num_models, "num_models")
    if num < 2:
        raise ValueError(f"`num_models` must be at least 2; got {num_models}.")
    steps = as_positive_integer(max_steps, "max_steps")
    rtol, atol = tolerances(starts.dtype, rtol, atol)
    found = expand_all(law, starts, start, end, rtol, atol, steps)
    drawn = flow_of_models(law, key, starts, start, end, num_models=num, rtol=rtol)
    coordinates = coordinates_of_models(law, key, num_models=num)
    return controlled_moments(drawn, found.factor, coordinates)


@jax.jit
def controlled_moments(
    drawn: Float[Array, "models num d"],
    factor: Float[Array, "num d r"],
    coordinates: Float[Array, "models r"],
) -> EndpointMoments:
    """Moments of drawn endpoints, with `factor z` as a control: z of mean zero and covariance one.

    All is in units of the endpoints' standard deviations, and of the controls'.
    """
    num = drawn.shape[0]
    factor = jnp.where(jnp.all(jnp.isfinite(factor), axis=(1, 2), keepdims=True), factor, 0)
    control_scale = jnp.linalg.norm(factor, axis=2)
    rows = factor / jnp.where(control_scale > 0, control_scale, 1)[..., None]
    first = jnp.einsum("kir,mr->mki", rows, coordinates, precision=HIGHEST)
    covariance = jnp.einsum("kir,kjr->kij", rows, rows, precision=HIGHEST)
    second = _products(first) - covariance[None]

    middle, scale = jnp.mean(drawn, axis=0), jnp.std(drawn, axis=0, ddof=1)
    x = (drawn - middle[None]) / jnp.where(scale > 0, scale, 1)[None]
    fold = np.arange(num) % min(NUM_FOLDS, num)
    kept = jnp.asarray(fold != np.arange(fold.max() + 1)[:, None], x.dtype)

    def slopes(kept: Array) -> tuple[Array, Array]:
        # About the mean of these draws: one of all would depend on those that the slope is for.
        centred = x - (jnp.tensordot(kept, x, 1) / jnp.sum(kept))[None]
        return _slope(x, first, kept), _slope(_products(centred), second, kept)

    of_mean, of_products = (slope[fold] for slope in jax.lax.map(slopes, kept))
    # The mean of these is the sample covariance.
    products, own = _covariance_terms(x)
    plain_mean, plain_products = _mean(x, 0), _mean(products, own)
    mean = _mean(x - of_mean * first, 0, plain_mean[1])
    controlled = jnp.mean(products - of_products * second, axis=0)
    # About the controlled mean, for the scatter alone: the other's error is in `own`, and would count twice.
    about = _products(x - mean[0][None]) * (num / (num - 1))
    moment = _mean(about - of_products * second, own, plain_products[1])
    square = _products(scale)
    return EndpointMoments(
        middle + scale * mean[0],
        square * controlled,
        scale * mean[1],
        square * moment[1],
        _ratio(plain_mean[1], mean[1]) ** 2,
        _ratio(plain_products[1], moment[1]) ** 2,
        mean[2],
        moment[2],
        num,
    )


def _covariance_terms(x: Float[Array, "n *k d"]) -> tuple[Array, Array]:
    """What the sample covariance is the mean of; and what the mean's error adds to the square of the covariance's.

    The latter is all there is if the values are two points of equal shares. `Var s_ij = (m_iijj - c_ij^2) / n
    + (c_ii c_jj + c_ij^2) / (n (n - 1))`, with the fourth central moment.
    """
    num = x.shape[0]
    products = _products(x - jnp.mean(x, axis=0, keepdims=True)) * (num / (num - 1))
    covariance = jnp.mean(products, axis=0)
    variance = jnp.diagonal(covariance, axis1=-2, axis2=-1)
    own = _products(variance) + covariance**2
    return products, own / (num * (num - 1))


def variance_of(values: Float[Array, " n"]) -> tuple[Array, Array]:
    """Sample variance of independent values, and its standard error."""
    products, own = _covariance_terms(values[:, None])
    variance, error, _ = _mean(products, own)
    return variance[0, 0], error[0, 0]


def _products(x: Float[Array, "*n d"]) -> Float[Array, "*n d d"]:
    return x[..., :, None] * x[..., None, :]


def _slope(
    values: Float[Array, "n ..."], controls: Float[Array, "n ..."], kept: Float[Array, " n"]
) -> Float[Array, "..."]:
    """Least squares of values on controls over the kept draws, times the share of the fit that is not chance."""
    num = jnp.sum(kept)
    mean = lambda a: jnp.tensordot(kept, a, 1) / num  # noqa: E731
    values, controls = values - mean(values)[None], controls - mean(controls)[None]
    both, square = mean(values * controls), mean(controls**2)
    total = square * mean(values**2)
    # Of a fit to noise, on average 1 / (num - 1) of the variance.
    share = _ratio(both**2, total, 0)
    true = 1 - (1 - share) * (num - 1) / jnp.maximum(num - 2, 1)
    true = jnp.where(num > 2, jnp.maximum(true, 0), 0)
    return _ratio(both, square, 0) * _ratio(true, share, 0)


def _mean(values: Array, further: Array | int, plain: Array | None = None) -> tuple[Array, ...]:
    """Mean over draws, its standard error, `further` in its square, and the skewness of the draws.

    A control may fit all to rounding. Against `plain`, the error without it, rounding is left.
    """
    num = values.shape[0]
    mean = jnp.mean(values, axis=0)
    centred = values - mean[None]
    deviation = jnp.sqrt(jnp.mean(centred**2, axis=0))
    error = jnp.sqrt(deviation**2 / (num - 1) + further)
    if plain is not None:
        error = jnp.maximum(error, jnp.finfo(error.dtype).eps * plain)
    ratios = centred / jnp.where(deviation > 0, deviation, 1)[None]
    return mean, error, jnp.mean(ratios**3, axis=0)


def _ratio(numerator: Array, denominator: Array, otherwise: float = 1) -> Array:
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), otherwise)


def _interval(value: Array, error: Array, skewness: Array, num: int, level: float) -> Array:
    _require_level(level)
    quantile = float(special.stdtrit(num - 1, (1 + level) / 2))
    a = skewness / np.sqrt(num)
    bent = jnp.abs(a) > jnp.finfo(a.dtype).eps ** 0.5

    def end(t: float) -> Array:
        # Hall's cubic of the studentised mean is a t; solved for it.
        moved = t - a / 6
        cubic = (jnp.cbrt(1 + a * moved) - 1) * 3 / jnp.where(bent, a, 1)
        return value - error * jnp.where(bent, cubic, moved)

    return jnp.stack([end(quantile), end(-quantile)], axis=-1)


def _require_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1; got {level}.")
