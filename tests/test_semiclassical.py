"""Endpoints of random models, to second order: against displaced models, drawn models, and tables of the normal law."""

import functools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import smoothjax as sj
from smoothjax import variance
from smoothjax.variance._endpoint_density import orthant_covariance

# Compiles for minutes in all: not a second time in the suite at default precision.
pytestmark = pytest.mark.slow

PROCESS = sj.VariancePreserving.from_drift_rate(0.1, 20.0)
PLANE = np.array([[-1.0, 0.0], [0.0, 0.5], [1.0, 0.0]])
LINE = np.array([[-1.0], [0.0], [1.0]])


def problem(data, num, prediction="x0"):
    bumps = [variance.GaussianBumps.evenly(-1.5, 1.5, num)] * data.shape[1]
    features = variance.ProductFeatures(bumps, variance.GaussianBumps.evenly(0.05, 1.0, 3), PROCESS)
    levels = variance.UniformTimes(PROCESS, 0.05, 1.0)
    denoising = variance.DenoisingProblem(data, levels, prediction=prediction)
    return variance.LinearProblem(denoising, features, ridge=0.1)


@eqx.filter_jit
def endpoints(law, starts, high, low, rtol=1e-9):
    return jax.vmap(lambda u: variance.semiclassical(law, u, high, low, rtol=rtol))(starts)


def scaled(law, factor):
    return eqx.tree_at(lambda law: law.factor, law, factor * law.factor)


@functools.cache
def line_law():
    return variance.LinearModelLaw.fixed_design(problem(LINE, 5), 400, jax.random.key(3))


def test_semiclassical_endpoint(x64):
    """Against the endpoints of models displaced along each random direction: no Monte Carlo. Two starts, two replicas."""
    one = problem(PLANE, 3, "eps")
    law = variance.LinearModelLaw.fixed_design(one, 400, jax.random.key(3))
    # Six directions of the covariance do.
    columns = jnp.argsort(-jnp.sum(law.factor**2, axis=(0, 1)))[:6]
    law = eqx.tree_at(lambda law: law.factor, law, law.factor[..., columns])
    starts, high, low, small = jnp.array([[1.1, -0.7], [-0.4, 1.5]]), 3.0, 0.3, 1e-3
    found = endpoints(law, starts, high, low)

    @jax.jit
    def displaced(direction):
        model = one.denoiser(law.mean_weights + small * law.factor @ direction)
        return jax.vmap(lambda u: sj.flow(model, u, high, low, rtol=1e-12))(starts)

    steps = jnp.concatenate([jnp.eye(6), -jnp.eye(6), jnp.zeros((1, 6))])
    ends = np.asarray(jax.lax.map(displaced, steps))  # (13, 2 starts, d)
    ahead, back, middle = ends[:6], ends[6:12], ends[12]
    # Central differences: next terms are small^2 times higher derivatives of size one; rounding 1e-12 over a step.
    np.testing.assert_allclose(found.mean_flow, middle, atol=1e-8)
    first = np.moveaxis((ahead - back) / (2 * small), 0, -1)
    scale = np.max(np.abs(first))
    np.testing.assert_allclose(found.factor, first, atol=1e-5 * scale)
    second = np.sum((ahead - 2 * middle + back) / (2 * small**2), axis=0)
    np.testing.assert_allclose(found.shift, second, atol=1e-4 * np.max(np.abs(second)) + 1e-6)
    np.testing.assert_allclose(found.mean, middle + second, atol=1e-4 * scale)
    a, b = (jax.tree.map(lambda leaf: leaf[i], found) for i in (0, 1))  # noqa: B023
    np.testing.assert_allclose(a.covariance, first[0] @ first[0].T, atol=3e-5 * scale**2)
    np.testing.assert_allclose(a.covariance_with(b), first[0] @ first[1].T, atol=3e-5 * scale**2)
    expected = np.abs(a.shift) / np.sqrt(np.diagonal(a.covariance))
    np.testing.assert_allclose(a.chi, expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"must have shape \(2,\); got \(1,\)"):
        variance.semiclassical(law, jnp.zeros(1), high, low)
    with pytest.raises(ValueError, match="must differ"):
        variance.semiclassical(law, jnp.zeros(2), high, high)


@pytest.mark.exhaustive
def test_of_kernel_law(dtype):
    """A kernel of finitely many features: another factor, with P d columns, of the same law."""
    double = dtype == np.float64
    one, key = problem(LINE.astype(dtype), 3, "score" if double else "x0"), jax.random.key(1)
    kernel = lambda u, s, v, t: one.features(u, s) @ one.features(v, t)  # noqa: E731
    law = variance.KernelLaw.ridge(one.denoising, kernel, 12, key, ridge=0.1)
    starts, rtol = jnp.array([[1.1], [-0.4]], dtype), 1e-9 if double else 1e-5
    found = endpoints(law, starts, 3.0, 0.5, rtol)
    other = variance.LinearModelLaw.fixed_design(one, 12, key)
    expected = endpoints(other, starts, 3.0, 0.5, rtol)
    assert found.factor.shape == (2, 1, 12) and found.factor.dtype == dtype
    # Two integrations of responses up to 1, over some tens of steps. The condition, 22 in float32, adds less.
    np.testing.assert_allclose(found.mean_flow, expected.mean_flow, atol=100 * rtol)
    np.testing.assert_allclose(found.shift, expected.shift, atol=100 * rtol)
    both = [np.einsum("air,bjr->aibj", e.factor, e.factor) for e in (found, expected)]
    np.testing.assert_allclose(*both, atol=100 * rtol)


class Reflected(eqx.Module):
    """The same draws with the opposite sign: what is odd in the randomness cancels from a pair's mean."""

    law: variance.LinearModelLaw

    def sample(self, key):
        model = self.law.sample(key)
        weights = 2 * self.law.mean_weights - model.weights
        return eqx.tree_at(lambda model: model.weights, model, weights)


def test_against_drawn_models(x64):
    """Mean, shift, covariance between starts, and masses: within four standard errors over models."""
    law, high, low, num = scaled(line_law(), 0.5), 3.0, 0.3, 1000
    starts = jnp.linspace(-4, 4, 41)[:, None]
    weights = stats.norm.pdf(np.linspace(-4, 4, 41), scale=2.0)
    weights /= weights.sum()
    found = endpoints(law, starts, high, low)
    chi = np.asarray(jax.vmap(lambda end: end.chi[0])(found))
    assert chi.max() < 0.1
    draw = functools.partial(
        variance.flow_of_models, key=jax.random.key(5), starts=starts, sigma_from=high, sigma_to=low
    )
    ends, mirrored = (
        np.asarray(draw(law, num_models=num))[..., 0] for law in (law, Reflected(law))
    )
    mean, factor = np.asarray(found.mean)[:, 0], np.asarray(found.factor)[:, 0]
    covariance = factor @ factor.T
    spread = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(ends.mean(0) - mean) < 4 * spread / num**0.5)
    # The shift, of second order, from pairs; what follows is of fourth order: chi^2 of it.
    pairs = (ends + mirrored) / 2 - np.asarray(found.mean_flow)[:, 0]
    error, shift = pairs.std(0, ddof=1) / num**0.5, np.asarray(found.shift)[:, 0]
    assert np.max(np.abs(shift) / error) > 20
    assert np.all(np.abs(pairs.mean(0) - shift) < 4 * error + chi**2 * np.abs(shift))
    drawn = np.cov(ends.T)
    error = np.sqrt((np.outer(spread, spread) ** 2 + covariance**2) / num)
    assert np.all(np.abs(drawn - covariance) < 4 * error)

    density = variance.EndpointDensity(found, weights)
    bins = np.array([[-0.9, -0.6], [-0.3, 0.3], [0.5, 0.8], [0.8, np.inf]])
    both = jax.vmap(lambda a, b: (density.mass(a, b), density.mass_variance(a, b)))
    mass, spread = (np.asarray(x) for x in jax.jit(both)(*bins.T))
    inside = (ends[..., None] > bins[:, 0]) & (ends[..., None] <= bins[:, 1])
    shares = np.einsum("mkb,k->mb", inside, weights)
    assert np.all(np.abs(shares.mean(0) - mass) < 4 * shares.std(0, ddof=1) / num**0.5)
    gap = (shares - shares.mean(0)) ** 2
    assert np.all(np.abs(gap.sum(0) / (num - 1) - spread) < 4 * gap.std(0, ddof=1) / num**0.5)


def synthetic(mean, shift, factor):
    return variance.Semiclassical(*(jnp.asarray(x) for x in (mean, shift, factor)))


def test_density(x64):
    """Against SciPy's normal densities, a singular covariance and one of zero included, and against the masses."""
    rng = np.random.default_rng(0)
    mean, shift = rng.normal(size=(4, 3)), 0.01 * rng.normal(size=(4, 3))
    factor = rng.normal(size=(4, 3, 5)) * np.array([1, 1, 1, 0.0])[:, None, None]
    factor[1, :, 1:] = 0
    shift[3] = 0
    weights, x, width = np.array([1, 2, 3, 0.5]), rng.normal(size=3), 0.3
    found = variance.EndpointDensity(synthetic(mean, shift, factor), weights)
    expected = sum(
        w * stats.multivariate_normal.pdf(x, m + s, J @ J.T + width**2 * np.eye(3))
        for w, m, s, J in zip(weights / 6.5, mean, shift, factor, strict=True)
    )
    np.testing.assert_allclose(found.log_density(x, width), np.log(expected), rtol=1e-12)
    narrow = found.log_density(mean[3], 1e-3)
    # Of the fourth start, where no two models differ, the noise is all there is.
    np.testing.assert_allclose(
        narrow, np.log(0.5 / 6.5) - 1.5 * np.log(2 * np.pi * 1e-6), rtol=1e-4
    )
    with pytest.raises(ValueError, match="need d = 1; got d = 3"):
        found.mass(0.0, 1.0)
    with pytest.raises(ValueError, match=r"`x` must have shape \(3,\); got \(1,\)"):
        found.log_density(x[:1], width)
    with pytest.raises(ValueError, match="`bandwidth` must be positive"):
        found.log_density(x, 0.0)

    line = variance.EndpointDensity(
        synthetic([[0.0], [1.0]], [[0.02], [0.0]], [[[0.3, 0.4]], [[0.1, 0.0]]])
    )
    q = jax.jit(jax.vmap(lambda x: jnp.exp(line.log_density(x[None], 1e-5))))
    nodes = np.linspace(0.2, 1.1, 2001)
    # Simpson's error; the bandwidth adds 1e-8 of a variance.
    mass = integrate.simpson(np.asarray(q(nodes)), x=nodes)
    np.testing.assert_allclose(line.mass(0.2, 1.1), mass, rtol=1e-8)


def test_variance_of_mass(x64):
    """Of two starts, by SciPy's bivariate normal probabilities; and the limits in which it is a variance of a coin."""
    mean, factor = np.array([[0.1], [0.4]]), np.array([[[0.3, 0.4]], [[0.2, -0.05]]])
    density = variance.EndpointDensity(synthetic(mean, 0 * mean, factor), [1.0, 3.0])
    covariance = factor[:, 0] @ factor[:, 0].T
    low, high = 0.0, 0.5

    def box(i, j):
        law = stats.multivariate_normal(
            mean[[i, j], 0], covariance[np.ix_([i, j], [i, j])], allow_singular=True
        )
        return law.cdf([high, high], lower_limit=[low, low])

    one = [
        np.diff(stats.norm.cdf([low, high], mean[i, 0], covariance[i, i] ** 0.5))[0] for i in (0, 1)
    ]
    w = [0.25, 0.75]
    expected = 2 * w[0] * w[1] * (box(0, 1) - one[0] * one[1])
    expected += sum(w[i] ** 2 * one[i] * (1 - one[i]) for i in (0, 1))
    # SciPy's bivariate probabilities, to 1e-8.
    np.testing.assert_allclose(density.mass_variance(low, high), expected, atol=1e-7)
    np.testing.assert_allclose(density.mass(low, high), 0.25 * one[0] + 0.75 * one[1], rtol=1e-12)
    # What is in a half line and what is not vary together; all of the line does not vary.
    tail = density.mass_variance(0.3, np.inf)
    np.testing.assert_allclose(tail, density.mass_variance(-np.inf, 0.3), rtol=1e-12)
    np.testing.assert_allclose(density.mass_variance(-np.inf, np.inf), 0, atol=1e-15)
    # One endpoint in another's image, and one that does not move: certain to be on one side.
    same = variance.EndpointDensity(
        synthetic([[0.1], [0.1], [0.4]], np.zeros((3, 1)), [[[0.3]], [[0.3]], [[0.0]]])
    )
    p = stats.norm.cdf(0.5, 0.1, 0.3)
    np.testing.assert_allclose(same.mass_variance(-np.inf, 0.5), 4 / 9 * p * (1 - p), rtol=1e-12)
    np.testing.assert_allclose(same.mass(0.5, np.inf), 2 / 3 * (1 - p), rtol=1e-12)
    with pytest.raises(ValueError, match="`low` must lie below `high`; got 1"):
        same.mass_variance(1.0, 0.0)


# h, k, correlation, and the covariance of the two orthants by quadrature with 30 digits.
ORTHANTS = [
    (0, 0, 0.5, 0.0833333333333333333),
    (0.3, -0.8, 0.2, 0.0216021123152967093),
    (-1.5, 0.4, -0.6, -0.0317817684240254157),
    (1.0, 2.0, 0.9, 0.0188921449551982785),
    (0.7, 0.7, 0.924, 0.134693043894864507),
    (0.7, 0.69, 0.926, 0.135964894525279361),
    (-0.5, 0.5, -0.95, -0.16878686001567354),
    (1.2, 1.3, 0.99, 0.0820181805149417611),
    (-2.0, 1.9, -0.999, -0.0220850850461666484),
    (0.25, 0.2500152587890625, 0.9999999, 0.240187452483812199),
    (3.0, -3.0, 0.97, 1.82222469579880368e-6),
    (3.0, -3.0, -0.97, -0.000923581505779734156),
]


def test_orthants(dtype):
    h, k, rho, expected = np.array(ORTHANTS).T
    found = orthant_covariance(*(jnp.asarray(x.astype(dtype)) for x in (h, k, rho)))
    # The rounding of a correlation near one moves probabilities by up to its root.
    near = np.sqrt(np.finfo(dtype).eps) if dtype == np.float32 else 0
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, atol=8 * np.finfo(dtype).eps + near)


def test_orthants_of_scipy(x64):
    """All of a grid, on both sides of where the method changes; SciPy's are good to 1e-8."""
    h, k, rho = np.meshgrid(
        [-2.5, -0.3, 0.0, 1.2], [-1.1, -0.3, 0.7], [-0.999, -0.93, -0.5, 0, 0.3, 0.92, 0.93, 0.9999]
    )
    expected = [
        stats.multivariate_normal.cdf([-a, -b], cov=[[1, c], [c, 1]])
        - stats.norm.cdf(-a) * stats.norm.cdf(-b)
        for a, b, c in zip(h.ravel(), k.ravel(), rho.ravel(), strict=True)
    ]
    found = orthant_covariance(*(jnp.asarray(x.ravel()) for x in (h, k, rho)))
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.exhaustive
def test_warnings_of_large_shifts(x64):
    """Twenty-five times the covariance: at some starts the shift is not small."""
    law, high, low = scaled(line_law(), 5.0), 3.0, 0.3
    starts = jnp.linspace(-4, 4, 9)[:, None]
    direct = endpoints(law, starts, high, low)
    chi = np.asarray(jax.vmap(lambda end: end.chi[0])(direct))
    small = chi <= 0.3
    assert 0 < small.sum() < 9
    with pytest.warns(
        UserWarning, match=f"0.3 standard deviations at {np.sum(~small)} of 9 starts"
    ):
        variance.EndpointDensity(direct)
    with pytest.warns(UserWarning, match="at 1 of 1 starts"):
        variance.semiclassical(law, starts[int(np.argmax(chi))], high, low)
    kept = jax.tree.map(lambda leaf: leaf[small], direct)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        variance.EndpointDensity(kept)
        eqx.filter_jit(variance.EndpointDensity)(direct)
    with pytest.raises(ValueError, match="leading axis; got a mean flow of shape"):
        variance.EndpointDensity(jax.tree.map(lambda leaf: leaf[0], direct))


def test_chi_where_models_do_not_differ():
    zero, one = jnp.zeros(2), jnp.ones(2)
    assert np.all(variance.Semiclassical(one, zero, jnp.zeros((2, 3))).chi == 0)
    lost = variance.Semiclassical(one, one, jnp.zeros((2, 3)))
    assert np.all(lost.chi == jnp.inf)
    unknown = jax.tree.map(lambda leaf: (jnp.nan * leaf)[None], lost)
    with pytest.warns(UserWarning, match="at 1 of 1 starts"):
        variance.EndpointDensity(unknown)


def test_chi_of_each_component():
    """A wide component hides nothing of another."""
    end = synthetic([0.0, 0.0], [0.0, 0.5], [[3.0, 0.0], [0.0, 0.1]])
    np.testing.assert_allclose(end.chi, [0, 5])
