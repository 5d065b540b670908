"""Gaussians of factor analysis: laws that are hard for rounding against mpmath, and fits against scikit-learn's."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.stats
from zoo import exactly, gaussian

import smoothjax as sj
from smoothjax.denoisers import FactorGaussianDenoiser
from smoothjax.denoisers._gaussian import factor_gaussian

RNG = np.random.default_rng(0)
COLUMNS = RNG.standard_normal((4, 2))
# Of each, own variances and factors.
LAWS = {
    "all have their own": ([0.5, 1.0, 2.0, 0.1], COLUMNS),
    "one has none": ([0.0, 1.0, 2.0, 0.1], COLUMNS),
    "none has": ([0.0, 0.0, 0.0, 0.0], COLUMNS),
    "two that are one": ([0.0, 0.0, 1.0, 0.3], COLUMNS[[0, 0, 1, 2]]),
    "columns that are one": ([0.0, 0.2, 0.0, 1e-9], COLUMNS[:, [0, 0]]),
    "columns nearly one": ([0.0, 0.0, 1.0, 1.0], [[1, 1], [1, 1 + 1e-3], [1, -1], [0, 1]]),
    "the one that has none depends on the second factor": ([0.0, 1.0, 2.0, 0.1], np.vstack([[0, 1], COLUMNS[1:]])),
    "rows and variances of all sizes": ([1e-14, 1e-4, 0.0, 1e4], COLUMNS * [[1e-6], [1], [1], [1e3]]),
    "more factors than coordinates": ([0.0, 1.0, 0.0, 0.1], RNG.standard_normal((4, 6))),
    "factors of zeros": ([0.0, 1.0, 2.0, 1e-6], np.zeros((4, 2))),
    "no factors": ([0.0, 1.0, 2.0, 1e-6], np.zeros((4, 0))),
}  # fmt: skip
MEAN = np.array([0.0, 1.0, -1.0, 0.5])


def law_of(name, dtype):
    own, factors = LAWS[name]
    return FactorGaussianDenoiser(
        *(np.asarray(x, dtype) for x in (MEAN, own, np.reshape(factors, (4, -1))))
    )


@jax.jit
def everything(D, u, sigma):
    log_density, score = jax.value_and_grad(D.log_density)(u, sigma)
    return {
        "value": D(u, sigma),
        "Jacobian": jax.jacfwd(D)(u, sigma),
        "transposed": jax.jacrev(D)(u, sigma),
        "by level": jax.jacfwd(D, 1)(u, sigma),
        "log density": log_density,
        "score": score,
        "covariance": D.posterior_covariance(u, sigma),
        "variance": D.posterior_variance(u, sigma),
    }


def truth(mean, own, factors, u, sigma):
    """The same from the dense covariance, in mpmath."""
    d, W = len(own), mp.matrix(len(own), max(1, len(factors[0])))
    for i, row in enumerate(factors):
        for j, x in enumerate(row):
            W[i, j] = x
    covariance = mp.diag(own) + W * W.T
    value, variance, log_density = gaussian(mean, covariance.tolist(), u, sigma)
    inverse = (covariance + sigma**2 * mp.eye(d)) ** -1
    gain = covariance * inverse
    v = mp.matrix([a - b for a, b in zip(u, mean, strict=True)])
    found = {
        "value": value,
        "Jacobian": gain.tolist(),
        "transposed": gain.tolist(),
        "by level": list(-2 * sigma * (gain * inverse * v)),
        "log density": log_density,
        "score": list(-inverse * v),
        "covariance": (sigma**2 * gain).tolist(),
        "variance": variance,
    }
    return {name: np.array(x, object) for name, x in found.items()}


def allowed(numbers, true, eps):
    """How much all changes where the point, the level, each own variance or each entry of a row of W does by a rounding."""
    mean, own, factors, u, sigma = numbers
    others = [(mean, own, factors, u, sigma * (1 + eps))]
    for i in range(len(u)):
        moved = lambda x, i=i: [*x[:i], x[i] * (1 + eps), *x[i + 1 :]]  # noqa: E731
        others += [(mean, own, factors, moved(u), sigma), (mean, moved(own), factors, u, sigma)]
        others += [(moved(mean), own, factors, u, sigma)]
        for j in range(len(factors[i])):
            row = list(factors[i])
            row[j] += eps * max(map(abs, row))
            others.append((mean, own, [*factors[:i], row, *factors[i + 1 :]], u, sigma))
    found = [truth(*other) for other in others]
    return {what: sum(np.max(np.abs(other[what] - true[what])) for other in found) for what in true}


@pytest.mark.parametrize("name", LAWS)
def test_right_at_any_noise_level(name, dtype):
    """Within what a few roundings of the law's numbers change, of the point's and of the result's."""
    D, eps, rng = law_of(name, dtype), float(jnp.finfo(dtype).eps), np.random.default_rng(1)
    own, factors = np.asarray(D.diagonal, float), np.asarray(D.factors, float)
    for sigma in 10.0 ** np.linspace(-12, 12, 9):
        common = factors @ rng.standard_normal(factors.shape[1])
        drawn = common + np.sqrt(own) * rng.standard_normal(4)
        for v in (drawn + sigma * rng.standard_normal(4), rng.standard_normal(4)):
            u, level = np.asarray(MEAN + v, dtype), np.asarray(sigma, dtype)
            found = everything(D, u, level)
            with mp.workdps(120):
                numbers = tuple(
                    exactly(x) for x in (D.mean, D.diagonal, D.factors, u.tolist(), float(level))
                )
                true, slack = truth(*numbers), None
                largest = max(map(abs, numbers[3])) + 1
                units = {
                    "value": largest,
                    "Jacobian": 1,
                    "transposed": 1,
                    "by level": largest / numbers[4],
                    "log density": 4 * (1 + abs(mp.log(numbers[4]))),
                }
                for what, expected in true.items():
                    unit = max(np.max(np.abs(expected)), units.get(what, 0))
                    error = np.max(np.abs(exactly(found[what]) - expected))
                    # Sums of d + k = 10 terms at most.
                    if error < 20 * eps * unit:
                        continue
                    slack = allowed(numbers, true, eps) if slack is None else slack
                    ratio = float(error / (20 * (eps * unit + slack[what])))
                    assert ratio < 1, (what, sigma, ratio)


def dense(parameters, u, sigma):
    mean, own, factors = parameters
    covariance = jnp.diag(own) + factors @ factors.T
    return mean + covariance @ jnp.linalg.solve(covariance + sigma**2 * jnp.eye(4), u - mean)


def test_derivatives_by_the_law_and_second_ones(x64):
    parameters = MEAN, *map(jnp.asarray, LAWS["all have their own"])
    of = lambda parameters, u, sigma: FactorGaussianDenoiser(*parameters)(u, sigma)  # noqa: E731
    at = parameters, jnp.asarray(RNG.standard_normal(4)), jnp.asarray(0.7)
    close = lambda a, b: jax.tree.map(  # noqa: E731
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-11), a, b
    )
    slopes = lambda of, transform: jax.jit(transform(of, (0, 1, 2)))  # noqa: E731
    forward = lambda of, every: jax.jacfwd(jax.jacfwd(of, every), every)  # noqa: E731
    backward = lambda of, every: jax.jacfwd(jax.jacrev(of, every), every)  # noqa: E731
    expected = slopes(dense, jax.jacfwd)(*at)
    close(slopes(of, jax.jacfwd)(*at), expected)
    close(slopes(of, jax.jacrev)(*at), expected)
    expected = slopes(dense, forward)(*at)
    close(slopes(of, forward)(*at), expected)
    close(slopes(of, backward)(*at), expected)


@pytest.mark.parametrize("name", ["all have their own", "one has none", "no factors"])
def test_other_forms_and_the_heat_equation(x64, name):
    """Against the Gaussian denoiser of the dense covariance; d log p / d sigma = sigma (laplacian + |score|^2)."""
    D = law_of(name, np.dtype(float))
    mean, covariance = D.mean_and_covariance()
    other, u = sj.GaussianDenoiser(mean, covariance), jnp.asarray([0.3, -1.0, 2.0, 0.0])
    np.testing.assert_allclose(
        covariance, np.diag(D.diagonal) + np.asarray(D.factors) @ np.asarray(D.factors).T
    )

    @jax.jit
    def numbers(D, sigma):
        score, by_sigma = jax.grad(D.log_density, (0, 1))(u, sigma)
        laplacian = jnp.trace(jax.hessian(D.log_density)(u, sigma))
        product = D.posterior_covariance_product(u, sigma, jnp.arange(4.0))
        return (
            by_sigma,
            sigma * (laplacian + score @ score),
            product,
            *D.mean_and_variance(u, sigma),
        )

    for sigma in (0.05, 1.0, 30.0):
        mine, theirs = numbers(D, sigma), numbers(other, sigma)
        for a, b in zip(mine, theirs, strict=True):
            # Variances of 0.1 to 5 beside 0.0025.
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(mine[0], mine[1], rtol=1e-10)


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def test_many_points_are_two_matrix_products(dtype):
    D, num = law_of("one has none", dtype), 77
    level = jnp.asarray(0.3, dtype)
    jaxpr = jax.make_jaxpr(jax.vmap(D, (0, None)))(jnp.zeros((num, 4), dtype), level)
    of_all = [e for e in _equations(jaxpr.jaxpr) if any(num in v.aval.shape for v in e.outvars)]
    products = [e for e in of_all if e.primitive.name == "dot_general"]
    assert len(products) == 2
    assert not any(e.primitive.name in ("scan", "while", "triangular_solve") for e in of_all)


# Fits


def mean_log_likelihood(D, points):
    mean, covariance = map(np.asarray, D.mean_and_covariance())
    size = points.std(0)
    law = scipy.stats.multivariate_normal(np.zeros(len(size)), covariance / np.outer(size, size))
    return np.mean(law.logpdf((points - mean) / size)) - np.sum(np.log(size))


def drawn_points(n, d, k, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n, d)) * np.geomspace(0.3, 3, d)
    return (rng.standard_normal((n, k)) @ rng.standard_normal((k, d)) + noise) * np.geomspace(
        0.01, 100, d
    ) + 7


def fit_of_scikit_learn(points, k, max_iter):
    """Its law in standardised coordinates, as its stopping depends on units, and its mean log-likelihood."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    standard = (points - points.mean(0)) / points.std(0)
    settings = {"tol": 1e-11, "max_iter": max_iter, "svd_method": "lapack"}
    fit = decomposition.FactorAnalysis(k, **settings).fit(standard)
    return fit.get_covariance(), fit.score(standard) - np.sum(np.log(points.std(0)))


@pytest.mark.parametrize(("n", "d", "k"), [(200, 6, 1), (40, 12, 2)])
def test_fit_is_that_of_scikit_learn(x64, n, d, k):
    points = drawn_points(n, d, k)
    D = FactorGaussianDenoiser.fit(points, k)
    covariance, expected = fit_of_scikit_learn(points, k, 5000)
    # Theirs climbs in hundreds of steps of a constant ratio, the last below 1e-11.
    np.testing.assert_allclose(mean_log_likelihood(D, points), expected, rtol=0, atol=1e-9)
    size = points.std(0)
    # The likelihood is flat: of the root of that.
    np.testing.assert_allclose(
        D.mean_and_covariance()[1] / np.outer(size, size), covariance, atol=3e-5
    )


@pytest.mark.filterwarnings("ignore:FactorAnalysis did not converge")
def test_fit_is_likelier_where_a_variance_vanishes(x64):
    """There scikit-learn's takes more steps than anyone waits for."""
    points = drawn_points(300, 12, 3)
    D = FactorGaussianDenoiser.fit(points, 3)
    np.testing.assert_allclose(D.diagonal[0] / points[:, 0].var(), 1e-6, rtol=1e-3)
    _, expected = fit_of_scikit_learn(points, 3, 1000)
    assert 0 < mean_log_likelihood(D, points) - expected < 0.01


def test_fit_is_stationary_and_keeps_the_variances(x64):
    points = drawn_points(300, 8, 2)
    D, centred = FactorGaussianDenoiser.fit(points, 2), points - points.mean(0)
    sample = jnp.asarray(centred.T @ centred / 300)

    def mean_log_density(log_own, factors):
        covariance = jnp.diag(jnp.exp(log_own)) + factors @ factors.T
        quadratic = jnp.trace(jnp.linalg.solve(covariance, sample))
        return -0.5 * (jnp.linalg.slogdet(covariance)[1] + quadratic)

    at = jnp.log(D.diagonal), D.factors
    by_own, by_factors = jax.grad(mean_log_density, (0, 1))(*at)
    # As is promised, and the same of the factors in units of their coordinates.
    assert np.max(np.abs(by_own)) < factor_gaussian.GRADIENT
    assert np.max(np.abs(by_factors * points.std(0)[:, None])) < factor_gaussian.GRADIENT
    np.testing.assert_allclose(np.diag(D.mean_and_covariance()[1]), points.var(0), rtol=1e-13)
    np.testing.assert_allclose(D.mean, points.mean(0), rtol=1e-14)


def test_fit_does_not_depend_on_units(x64):
    points, units = drawn_points(100, 6, 2), np.geomspace(1e-6, 1e6, 6)
    one, other = (FactorGaussianDenoiser.fit(x, 2) for x in (points, points * units))
    scaled = np.asarray(other.mean_and_covariance()[1]) / np.outer(units, units)
    size = points.std(0)
    difference = (scaled - one.mean_and_covariance()[1]) / np.outer(size, size)
    assert np.max(np.abs(difference)) < 1e-4


def test_fits_at_the_edges(dtype):
    points = np.asarray(drawn_points(30, 5, 2), dtype)
    size = 30 * float(jnp.finfo(dtype).eps)
    independent = FactorGaussianDenoiser.fit(points, 0)
    np.testing.assert_allclose(independent.diagonal, points.astype(float).var(0), rtol=size)
    assert independent.factors.shape == (5, 0)
    # A coordinate that is the same in all points, and two that agree: the floor is their own.
    points[:, 1], points[:, 2] = 3, points[:, 0]
    D = FactorGaussianDenoiser.fit(points, 2, floor=1e-4)
    assert D.diagonal[1] == 0 and np.all(np.asarray(D.factors)[1] == 0) and D.mean[1] == 3
    np.testing.assert_allclose(D.diagonal[0] / points[:, 0].var(), 1e-4, rtol=1e-4)
    assert D(points[0] + 1, 0.1)[1] == 3
    # Fewer points than coordinates, as many factors; one point; equal points.
    for few, k in ((points[:3], 5), (points[:1], 2), (np.tile(points[:1], (4, 1)), 5)):
        D = FactorGaussianDenoiser.fit(few, k)
        assert D.mean.dtype == dtype and np.all(np.isfinite(D.log_density(few[0], 1.0)))
        np.testing.assert_allclose(
            np.diag(D.mean_and_covariance()[1]), few.astype(float).var(0), rtol=0.01
        )
    assert np.all(np.asarray(D(points[1], 1e-3)) == points[0])


def test_a_negative_variance_that_is_traced_is_nan(dtype):
    make = lambda own: FactorGaussianDenoiser(jnp.zeros(2, dtype), own, jnp.ones((2, 1), dtype))  # noqa: E731
    of = jax.jit(jax.vmap(lambda own: make(own)(jnp.ones(2, dtype), 1.0)))
    found = of(jnp.asarray([[1.0, -1.0], [1.0, 1.0]], dtype))
    assert np.all(np.isnan(found[0])) and np.all(np.isfinite(found[1]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: FactorGaussianDenoiser(np.zeros(3), np.ones(2), np.ones((3, 1))),
            r"`diagonal` \(d,\) and .*; got \(3,\), \(2,\) and \(3, 1\)",
        ),
        (
            lambda: FactorGaussianDenoiser(np.zeros(3), np.ones(3), np.ones(3)),
            r"`factors` \(d, k\); got \(3,\), \(3,\) and \(3,\)",
        ),
        (
            lambda: FactorGaussianDenoiser(np.zeros(()), np.ones(3), np.ones((3, 1))),
            r"`mean` must have shape \(d,\)",
        ),
        (
            lambda: FactorGaussianDenoiser(np.zeros(2), [1.0, -0.5], np.ones((2, 1))),
            "`diagonal` must be non-negative; got values down to -0.5",
        ),
        (
            lambda: FactorGaussianDenoiser(np.zeros(2), np.ones(2), [[1.0], [np.inf]]),
            "`factors` must be finite",
        ),
        (lambda: FactorGaussianDenoiser.fit(np.eye(3), 4), "must not exceed d = 3; got 4"),
        (lambda: FactorGaussianDenoiser.fit(np.eye(3), -1), "`num_factors` must be a non-neg"),
        (lambda: FactorGaussianDenoiser.fit(np.eye(3), 1, floor=1.0), "`floor` must lie below 1"),
        (lambda: FactorGaussianDenoiser.fit(np.eye(3), 1, floor=0.0), "`floor` must be positive"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
