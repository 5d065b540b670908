"""Gaussian denoisers in all their forms, what samplers and finite training sets make of them, and their mixtures."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats

import smoothjax as sj
from smoothjax import flows, gaussian
from smoothjax.denoisers import DualGaussianDenoiser


def eps(dtype):
    return float(jnp.finfo(dtype).eps)


def close(got, expected, atol):
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


def points_of(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * np.linspace(0.2, 2, d) + 3


# Forms


@jax.jit
def everything(D, u, sigma, vector):
    return (
        D(u, sigma),
        D.log_density(u, sigma),
        D.posterior_covariance(u, sigma),
        D.posterior_variance(u, sigma),
        D.posterior_covariance_product(u, sigma, vector),
        *D.mean_and_covariance(),
    )


@pytest.mark.parametrize(("n", "d"), [(6, 20), (20, 6), (1, 3)])
def test_dual_and_thin_forms_agree_with_inverses(x64, n, d):
    data = points_of(n, d)
    mean, centred = data.mean(0), data - data.mean(0)
    covariance = centred.T @ centred / n
    forms = sj.GaussianDenoiser.fit(data), DualGaussianDenoiser(data)
    u, vector = np.random.default_rng(1).standard_normal((2, d))
    for sigma in (0.01, 0.5, 30.0):
        noisy = covariance + sigma**2 * np.eye(d)
        inverse = np.linalg.inv(noisy)
        posterior = sigma**2 * inverse @ covariance
        normal = scipy.stats.multivariate_normal(mean, noisy)
        expected = (
            mean + covariance @ inverse @ (u - mean),
            normal.logpdf(u),
            posterior,
            np.trace(posterior),
            posterior @ vector,
            mean,
            covariance,
        )
        for form in forms:
            found = everything(form, u, sigma, vector)
            for a, b in zip(found, expected, strict=True):
                # The inverse's condition number is at most 4 / 1e-4; the density sums terms of up to 1e6.
                close(a, b, atol=1e-10 * max(1, np.max(np.abs(b))))


def test_dual_coefficients_minimise_what_they_say(x64):
    data = points_of(5, 12)
    D, sigma = DualGaussianDenoiser(data), 0.3
    u = jnp.asarray(np.random.default_rng(2).standard_normal(12) + 3)
    centred = jnp.asarray(data - data.mean(0))

    @jax.jit
    @jax.grad
    def gradient(c):
        return jnp.sum((u - data.mean(0) - c @ centred) ** 2) / sigma**2 + 5 * jnp.sum(c**2)

    found = D.coefficients(u, sigma)
    scale = float(jnp.max(jnp.abs(gradient(np.zeros(5)))))
    close(gradient(found), 0, atol=1e-12 * scale)
    close(jnp.sum(found), 0, atol=1e-12)
    close(D(u, sigma), D.mean + found @ centred, atol=1e-12)


def test_identities_of_the_dual_form(x64):
    D = DualGaussianDenoiser(points_of(4, 7))

    @jax.jit
    def both_sides(u, sigma):
        gradient, by_sigma = jax.grad(D.log_density, (0, 1))(u, sigma)
        laplacian = jnp.trace(jax.hessian(D.log_density)(u, sigma))
        covariance = D.posterior_covariance(u, sigma)
        return (
            (sj.score(D, u, sigma), gradient),
            (covariance, sigma**2 * jax.jacfwd(D)(u, sigma)),
            (by_sigma, sigma * (laplacian + gradient @ gradient)),
        )

    u = jnp.asarray(np.random.default_rng(3).standard_normal(7) + 3)
    for sigma in (0.2, 3.0):
        for one, other in both_sides(u, sigma):
            close(one, other, atol=1e-10 * float(jnp.max(jnp.abs(one))))


def test_dual_form_in_single_precision(x64):
    data = points_of(30, 100).astype(np.float32)
    exact, single = DualGaussianDenoiser(data.astype(np.float64)), DualGaussianDenoiser(data)
    largest = float(jnp.sqrt(exact.eigenvalues[-1]))
    u = data[:8] + np.random.default_rng(4).standard_normal((8, 100)).astype(np.float32)
    batch = jax.jit(jax.vmap(lambda D, u, s: D(u, s), in_axes=(None, 0, None)))
    for sigma in (0.003, 0.1, 10.0):
        size = np.linalg.norm(u, axis=1).max()
        error = np.asarray(batch(single, u, sigma)) - np.asarray(
            batch(exact, u.astype(float), sigma)
        )
        # The bound that is promised, with sums of n = 30 terms for "a few".
        assert np.max(np.abs(error)) < 30 * eps(np.float32) * size * (1 + largest / sigma)
        assert batch(single, u, sigma).dtype == jnp.float32


def test_constant_complement_agrees_with_the_dense_form(x64):
    """Probabilistic PCA: thin evaluation against the (d, d) covariance that it stands for."""
    data = points_of(40, 9)
    values, vectors = np.linalg.eigh(np.cov(data.T, bias=True))
    for rank in (0, 3):
        thin = sj.GaussianDenoiser.fit(data, rank=rank)
        kept = np.append(np.full(9 - rank, values[: 9 - rank].mean()), values[9 - rank :])
        dense = sj.GaussianDenoiser(data.mean(0), (vectors * kept) @ vectors.T)
        close(np.sort(thin.variances), np.sort(kept), atol=1e-12)
        u, vector = np.random.default_rng(rank).standard_normal((2, 9))
        for sigma in (0.05, 2.0):
            found = everything(thin, u, sigma, vector), everything(dense, u, sigma, vector)
            for a, b in zip(*found, strict=True):
                close(a, b, atol=1e-10 * max(1, np.max(np.abs(b))))


@pytest.mark.parametrize(
    ("n", "d", "offset"), [(20, 64, 0), (50, 9, 100), (2, 5, 0), (30, 1, 0), (1, 4, 0)]
)
def test_ledoit_wolf_is_that_of_scikit_learn(x64, n, d, offset):
    covariance = pytest.importorskip("sklearn.covariance")
    data = points_of(n, d) + offset
    for scale in (1.0, 1e-80):  # whose fourth powers do not exist
        fitted = sj.GaussianDenoiser.fit(scale * data, shrinkage="ledoit-wolf").covariance()
        # Not defined there for a single point.
        expected = np.zeros((d, d)) if n == 1 else covariance.ledoit_wolf(data)[0]
        # Rounding of centring, relative to the offset.
        close(fitted / scale / scale, expected, atol=1e-12 * (1 + offset))
        assert n < 9 or d == 1 or np.linalg.eigvalsh(fitted)[0] > 0


def test_ledoit_wolf_keeps_rank_and_dtype(dtype):
    data = points_of(20, 30).astype(dtype)
    full = sj.GaussianDenoiser.fit(data, shrinkage="ledoit-wolf")
    cut = sj.GaussianDenoiser.fit(data, rank=4, shrinkage="ledoit-wolf")
    close(cut.eigenvalues, full.eigenvalues[:4], atol=10 * eps(dtype) * 4)
    np.testing.assert_allclose(
        jnp.sum(cut.variances), jnp.sum(full.variances), rtol=30 * eps(dtype)
    )
    assert cut.eigenvalues.dtype == dtype
    traced = jax.jit(lambda x: sj.GaussianDenoiser.fit(x, shrinkage="ledoit-wolf").covariance())
    # Decomposed in its own precision: 30 roundings of the largest eigenvalue, 7.
    close(traced(jnp.asarray(data)), full.covariance(), atol=30 * 7 * eps(dtype))


def test_minimum_error_is_the_error_of_the_denoiser(x64):
    D = sj.GaussianDenoiser.fit(points_of(9, 6), rank=3)
    covariance = np.asarray(D.covariance())
    for sigma in (0.1, 1.0):
        gains = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(6))
        left = np.eye(6) - gains
        # |W(x + sigma z) - x|^2 in the mean.
        expected = np.trace(left @ covariance @ left.T) + sigma**2 * np.sum(gains**2)
        np.testing.assert_allclose(D.minimum_error(sigma), expected, rtol=1e-12)
    close(np.sort(D.variances), np.linalg.eigvalsh(covariance), atol=1e-12)


# Samplers


def low_rank(complement):
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 3)))[0]
    mean = np.array([0.5, -1.0, 0.2, 0.0, 2.0])
    return sj.GaussianDenoiser.low_rank(mean, basis, np.array([3.0, 0.2, 0.0]), complement)


GRIDS = {
    "EDM": (np.asarray(sj.edm_grid(18)), diffrax.Heun()),
    "DDIM": (np.asarray(sj.edm_grid(10)), diffrax.Euler()),
    "upwards": (np.array([0.3, 0.5, 2.0, 7.0]), diffrax.Heun()),
    "one step": (np.array([0.7, 0.0]), None),
}


@pytest.mark.parametrize("name", GRIDS)
def test_sampler_in_closed_form(x64, name):
    levels, solver = GRIDS[name]
    levels = levels.astype(np.float64)

    @eqx.filter_jit
    def run(D, u):
        one = lambda u: sj.flow(D, u, levels[0], levels[-1], levels=levels, solver=solver)  # noqa: E731
        ours = lambda u: flows.gaussian_sampler(D, u, levels, solver=solver)  # noqa: E731
        return jax.vmap(one)(u), jax.vmap(ours)(u)

    for complement in (0.0, 0.4):
        D = low_rank(complement)
        u = levels[0] * np.random.default_rng(1).standard_normal((1, 5))
        ends, closed = run(D, jnp.concatenate([u, np.zeros((1, 5)), np.eye(5)]))
        close(closed, ends, atol=1e-10)
        # The law of the samples, from the affine map that the sampler is.
        matrix = (ends[2:] - ends[1:2]).T
        law = flows.gaussian_sampler_law(D, levels, solver=solver)
        close(law.mean, ends[1], atol=1e-10)
        close(law.covariance(), levels[0] ** 2 * matrix @ matrix.T, atol=1e-10)


def test_discretisation_bias(x64):
    variances = jnp.array([4.0, 0.3, 1e-3])
    bias = lambda m, **kw: flows.gaussian_sampler_bias(  # noqa: E731
        variances, sj.edm_grid(m, final_zero=False), **kw
    )
    # Second and first order: what is left is of the next order in the step.
    close(bias(640) / bias(1280), 4, atol=0.1)
    euler = diffrax.Euler()
    close(bias(640, solver=euler) / bias(1280, solver=euler), 2, atol=0.1)
    # The step to zero, alone: -sigma^2 / lambda to first order, and exactly -sigma^2 / (lambda + sigma^2).
    last = flows.gaussian_sampler_bias(variances, [0.002, 0.0])
    close(last, -(0.002**2) / (np.asarray(variances) + 0.002**2), atol=1e-14)
    flat = flows.gaussian_sampler_bias(jnp.zeros(1), sj.edm_grid(18, 80.0, 0.002))
    assert flat == 0
    # Without a step to zero a mode without variance only loses noise, which every method does exactly.
    close(flows.gaussian_sampler_bias(jnp.zeros(1), [2.0, 0.1, 0.01]), 0, atol=1e-14)


def test_factors_in_single_precision(x64):
    variances = np.array([0.0, 1e-30, 1e-12, 1e-4, 1.0, 1e6, 1e30])
    for solver in (diffrax.Heun(), diffrax.Euler()):
        for levels in (sj.edm_grid(40), jnp.geomspace(1e3, 1e-25, 50)):
            levels = levels.astype(jnp.float32)
            exact = flows.gaussian_sampler_factors(
                jnp.asarray(np.float32(variances), jnp.float64),
                levels.astype(jnp.float64),
                solver=solver,
            )
            single = flows.gaussian_sampler_factors(
                jnp.asarray(variances, jnp.float32), levels, solver=solver
            )
            assert single.dtype == jnp.float32
            # Ten roundings a step; below 1e-37 float32 has none.
            np.testing.assert_allclose(single, exact, rtol=500 * eps(jnp.float32), atol=1e-36)


def test_flow_at_tiny_levels_in_compiled_code():
    flat = sj.GaussianDenoiser(jnp.zeros(1, jnp.float32), jnp.zeros((1, 1), jnp.float32))
    run = jax.jit(lambda u, start, end: sj.gaussian_flow(flat, u, start, end))
    found = run(jnp.ones(1, jnp.float32), jnp.float32(1e-25), jnp.float32(1e-28))
    # A mode without variance is multiplied by the ratio of the levels, whose squares float32 does not hold.
    np.testing.assert_allclose(found, [1e-3], rtol=10 * eps(jnp.float32))


# Finite training sets


SPECTRA = {
    "flat": np.ones(40),
    "with zeros": np.append(np.geomspace(3, 0.01, 20), np.zeros(30)),
    "steep": np.geomspace(1, 1e-12, 60),
    "one large": np.append(1.0, np.full(100, 1e-12)),
    "no variance": np.zeros(5),
    "one": np.array([2.0]),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_effective_noise_level_solves_its_equation(spectrum, dtype):
    variances = SPECTRA[spectrum].astype(dtype)
    for number in (2, 11, 21, 41, 42, 61, 62, 1000):
        n = number - 1
        for sigma in (1e-5, 0.1, 30.0):
            s = float(dtype.type(sigma)) ** 2 * number / n
            lam = variances.astype(np.float64)
            high = s + lam.sum() / n

            def equation(t, lam=lam, s=s, n=n):
                # In log kappa, and without the cancellation of kappa - s.
                k = np.exp(t)
                return s / k + np.sum(lam / (lam + k)) / n - 1

            bracket = np.log(s) - 1e-9, np.log(high) + 1e-9
            exact = np.exp(0.5 * scipy.optimize.brentq(equation, *bracket, xtol=1e-14, rtol=1e-14))
            found = gaussian.effective_noise_level(variances, sigma, number)
            assert found.dtype == dtype
            # Near n = rank the root moves by the square root of what the equation's terms are rounded by.
            k = exact**2
            slope = 1 - np.sum((lam / (lam + k)) ** 2) / n
            condition = 1 + k / (k * slope) * min(1, (lam > 0).sum() / n)
            tolerance = (20 + len(lam)) * eps(dtype) * condition + 1e-11
            np.testing.assert_allclose(found, exact, rtol=tolerance, err_msg=f"{number}, {sigma}")


def test_effective_noise_level_of_a_flat_spectrum(x64):
    """The Marchenko-Pastur law: a quadratic equation."""
    for ratio, sigma in ((0.5, 0.1), (2.0, 0.1), (2.0, 1e-7), (0.01, 3.0)):
        number = 201
        d = int(ratio * 200)
        s = sigma**2 * number / 200
        half = 0.5 * (s + d / 200 - 1)
        kappa = half + np.sqrt(half**2 + s)
        if half < 0:
            kappa = s / (np.sqrt(half**2 + s) - half)
        found = gaussian.effective_noise_level(np.ones(d), sigma, number)
        np.testing.assert_allclose(found, np.sqrt(kappa), rtol=1e-12)


def test_derivatives_of_the_effective_noise_level(x64):
    variances = jnp.geomspace(2, 0.1, 7)
    level = jax.jit(lambda v, s: gaussian.effective_noise_level(v, s, 6))
    for mode in (jax.jacrev, jax.jacfwd):
        by_variance, by_sigma = mode(level, (0, 1))(variances, 0.2)
        h = 1e-5
        central = (level(variances, 0.2 + h) - level(variances, 0.2 - h)) / (2 * h)
        close(by_sigma, central, atol=1e-8)
        step = h * jnp.eye(7)[3]
        central = (level(variances + step, 0.2) - level(variances - step, 0.2)) / (2 * h)
        close(by_variance[3], central, atol=1e-8)


def retrained(variances, sigma, number, repetitions, seed=0):
    """Residual matrices `1 - W` and the images `(1 - W) m` of the fitted means, by inverting sample covariances."""
    rng = np.random.default_rng(seed)
    d, residuals, shifts = len(variances), [], []
    for _ in range(repetitions // 500):
        x = rng.standard_normal((500, number, d)) * np.sqrt(variances)
        mean = x.mean(1)
        x -= mean[:, None]
        noisy = np.matmul(x.transpose(0, 2, 1), x) / number + sigma**2 * np.eye(d)
        residuals.append(sigma**2 * np.linalg.inv(noisy))
        shifts.append(np.einsum("bij,bj->bi", residuals[-1], mean))
    return np.concatenate(residuals), np.concatenate(shifts)


@pytest.mark.parametrize(("number", "sigma"), [(20, 0.05), (20, 0.3), (60, 0.3)])
def test_fitted_denoisers_are_those_of_the_deterministic_equivalent(x64, number, sigma):
    variances, repetitions = np.geomspace(2, 0.02, 30), 2000
    residual, shift = retrained(variances, sigma, number, repetitions)
    t = variances + sigma**2
    gains = 1 - np.einsum("bii->bi", residual)
    standard_error = gains.std(0) / np.sqrt(repetitions)
    expected = gaussian.expected_gains(variances, sigma, number)
    # The equivalent drops terms of relative order 1/N; the population's own gains are off by .09 to .7.
    assert np.all(np.abs(gains.mean(0) - expected) < 4 * standard_error + 0.5 / number)
    assert np.max(np.abs(gains.mean(0) - variances / t)) > 0.08
    # In the trace they average out: what is left is of relative order 1/N d.
    level = gaussian.effective_noise_level(variances, sigma, number)
    # For their sum the next order is known (Bai and Silverstein 2004, theorem 1.1, real case); the one after is 1/N smaller.
    trace, n, kappa = gains.sum(1), number - 1, float(level) ** 2
    degrees = np.sum(np.asarray(expected) ** 2)
    next_order = np.sum(variances**2 / (variances + kappa) ** 3) / n / (1 - degrees / n) ** 2
    next_order *= sigma**2 * number / n
    slack = 4 * trace.std() / np.sqrt(repetitions) + 4 * next_order / number
    assert abs(trace.mean() - (jnp.sum(expected) - next_order)) < slack
    np.testing.assert_allclose(expected, variances / (variances + level**2), rtol=1e-12)

    mean = residual.mean(0)
    scatter = np.einsum("bij,j->b", (residual - mean) ** 2, t) * repetitions / (repetitions - 1)
    excess = np.einsum("bij,j->b", (residual - np.diag(sigma**2 / t)) ** 2, t)
    for values, prediction in (
        (scatter + (shift**2).sum(1), gaussian.fluctuation(variances, sigma, number)),
        (excess + (shift**2).sum(1), gaussian.excess_risk(variances, sigma, number)),
    ):
        error = 4 * values.std() / np.sqrt(repetitions)
        # One over the effective dimension, tr W, is what the equivalent leaves out: 4 % here.
        assert abs(values.mean() - prediction) < error + values.mean() / trace.mean() * 0.5


def test_leading_order_of_the_excess_risk_in_one_dimension(x64):
    """Against an integral over the chi-squared law of the fitted variance; no term is small here."""
    variance, sigma = 0.7, 0.5
    noise = sigma**2
    gain = variance / (variance + noise)

    def exact(number):
        law = scipy.stats.chi2(number - 1)

        def integrand(q):
            fitted = variance * q / number
            residual = noise / (fitted + noise)
            squared = (1 - residual - gain) ** 2 * (variance + noise)
            return (squared + residual**2 * variance / number) * law.pdf(q)

        reach = 14 * np.sqrt(2.0 * number)
        ends = max(number - reach, 0), number + reach
        return scipy.integrate.quad(integrand, *ends, epsrel=1e-11, limit=200)[0]

    for prediction in (gaussian.leading_order_excess_risk, gaussian.excess_risk):
        errors = [
            float(prediction(jnp.array([variance]), sigma, number)) / exact(number) - 1
            for number in (1000, 4000)
        ]
        # The next order in 1/N: below 10/N, and four times less with four times as many points.
        assert abs(errors[0]) < 0.01
        assert 3.5 < errors[0] / errors[1] < 4.5, errors


def test_leading_order_of_the_excess_risk_in_several_dimensions(x64):
    variances, sigma, number = np.array([3.0, 1.0, 0.5, 0.1]), 0.8, 2000
    residual, shift = retrained(variances, sigma, number, 2000)
    t = variances + sigma**2
    excess = np.einsum("bij,j->b", (residual - np.diag(sigma**2 / t)) ** 2, t) + (shift**2).sum(1)
    prediction = gaussian.leading_order_excess_risk(variances, sigma, number)
    # tr W / N = 1e-3 is the size of what is left out.
    slack = 4 * excess.std() / np.sqrt(2000) + 0.005 * excess.mean()
    assert abs(excess.mean() - prediction) < slack
    # Both approach each other as the number of points grows.
    differences = [
        gaussian.excess_risk(variances, sigma, m)
        / gaussian.leading_order_excess_risk(variances, sigma, m)
        - 1
        for m in (10_000, 40_000)
    ]
    assert 3.5 < differences[0] / differences[1] < 4.5


def test_fits_to_independent_halves(x64):
    """The whole chain: fits, evaluated at fresh noisy points."""
    variances, sigma, number, pairs = np.geomspace(2, 0.02, 24), 0.3, 40, 300
    rng = np.random.default_rng(5)

    @jax.jit
    def squared(x, u):
        # Both fits in one batch: LAPACK's batched kernels in jaxlib wait for threads that others of them occupy.
        first, second = jax.vmap(lambda x: sj.GaussianDenoiser.fit(x)(u, sigma))(x)
        return jnp.sum((first - second) ** 2)

    x = rng.standard_normal((pairs, 2, number, 24)) * np.sqrt(variances)
    u = rng.standard_normal((pairs, 24)) * np.sqrt(variances + sigma**2)
    values = np.asarray(jax.vmap(squared)(x, u)) / 24
    predicted = gaussian.independent_fits_rmse(variances, sigma, number)
    # As above: half of one over the effective dimension, 14; the standard error is 3 %.
    slack = 4 * values.std() / np.sqrt(pairs) + values.mean() / 14 * 0.5
    assert abs(values.mean() - predicted**2) < slack


def test_finite_sample_theory_has_units_and_precisions(dtype):
    """Everything scales with the data, at scales whose powers the dtype does not hold."""
    powers = {
        "effective_noise_level": 1,
        "expected_gains": 0,
        "fluctuation": 2,
        "excess_risk": 2,
        "leading_order_excess_risk": 2,
        "independent_fits_rmse": 1,
    }

    @jax.jit
    def all_of_them(variances, sigma):
        return {name: getattr(gaussian, name)(variances, sigma, 20) for name in powers}

    variances = np.append(np.geomspace(2, 0.02, 30), 0.0).astype(dtype)
    sigma = dtype.type(0.1)
    plain = all_of_them(variances, sigma)
    unit = dtype.type(2.0) ** (30 if dtype == jnp.float32 else 400)
    for scale in (unit, 1 / unit):
        scaled = all_of_them(variances * scale * scale, sigma * scale)
        for name, power in powers.items():
            assert scaled[name].dtype == dtype
            # Powers of two, so all but the floors of what underflows is the same.
            np.testing.assert_allclose(
                scaled[name] / scale**power, plain[name], rtol=4 * eps(dtype), err_msg=name
            )
    if dtype == jnp.float32 and jax.config.jax_enable_x64:  # pyright: ignore
        exact = all_of_them(variances.astype(np.float64), np.float64(sigma))
        for name in powers:
            # Sums of 31 terms, times a condition number of ten at 19 degrees of freedom for 30 directions.
            np.testing.assert_allclose(plain[name], exact[name], rtol=310 * eps(dtype))


# Far field


def skewed(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.gamma(0.7, size=(n, d)) @ rng.standard_normal((d, d)) / np.sqrt(d)


@pytest.mark.parametrize("block_size", [None, 1, 7, 25])
def test_third_cumulant_norm(block_size, dtype):
    data = skewed(25, 4)
    centred = data - data.mean(0)
    tensor = np.einsum("ni,nj,nk->ijk", centred, centred, centred) / 25
    for offset in (0.0, 30.0):
        found = gaussian.third_cumulant_norm((data + offset).astype(dtype), block_size=block_size)
        assert found.dtype == dtype
        # Rounding of the data, relative to the offset, and of sums of 25 terms.
        np.testing.assert_allclose(
            found, np.linalg.norm(tensor), rtol=50 * (1 + offset) * eps(dtype)
        )
    if dtype == jnp.float32:
        huge = gaussian.third_cumulant_norm((data * 1e8).astype(dtype))
        np.testing.assert_allclose(huge, 1e24 * np.linalg.norm(tensor), rtol=50 * eps(dtype))


def test_far_field_law(x64):
    data = skewed(40, 5)
    mean, centred = data.mean(0), data - data.mean(0)
    tensor = np.einsum("ni,nj,nk->ijk", centred, centred, centred) / 40
    empirical, fitted = sj.EmpiricalDenoiser(data), sj.GaussianDenoiser.fit(data)
    z = np.random.default_rng(1).standard_normal((4000, 5))

    @jax.jit
    def gap(z, sigma):
        difference = lambda u: empirical(u, sigma) - fitted(u, sigma)  # noqa: E731
        return jax.vmap(difference)(mean[None] + sigma * z)

    pointwise = 0.5 * (np.einsum("ijk,nj,nk->ni", tensor, z, z) - np.einsum("ijj->i", tensor))
    spread = np.sqrt(np.trace(centred.T @ centred) / 40)
    gaps = [np.asarray(gap(z, sigma)) for sigma in (100 * spread, 200 * spread)]
    errors = [
        np.max(np.abs((scale * spread) ** 2 * g - pointwise))
        for scale, g in zip((100, 200), gaps, strict=True)
    ]
    # At a given point the next order is one over sigma.
    assert 1.8 < errors[0] / errors[1] < 2.2
    squares = np.mean(gaps[1] ** 2, axis=1)
    prediction = gaussian.far_field_rmse(data, 200 * spread) ** 2
    # Relative corrections are of order (spread / sigma)^2 = 3e-5, times a ratio of cumulants.
    slack = 4 * squares.std() / np.sqrt(len(z)) + 0.001 * squares.mean()
    assert abs(squares.mean() - prediction) < slack


# Distances between models


def symmetric_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def bures(mean1, covariance1, mean2, covariance2):
    root = symmetric_root(covariance1)
    cross = symmetric_root(root @ covariance2 @ root)
    square = np.sum((mean1 - mean2) ** 2)
    return np.sqrt(square + np.trace(covariance1 + covariance2 - 2 * cross))


@pytest.mark.parametrize(
    ("ranks", "complements"),
    [((2, 3), (0.3, 0.05)), ((2, 3), (0.0, 0.4)), ((7, 4), (0.2, 0.1)), ((0, 2), (0.5, 0.1))],
)
def test_wasserstein_between_models(x64, ranks, complements):
    rng = np.random.default_rng(sum(ranks))
    models = [
        sj.GaussianDenoiser.low_rank(
            rng.standard_normal(8),
            np.linalg.qr(rng.standard_normal((8, rank)))[0],
            rng.uniform(0.2, 3, rank),
            complement,
        )
        for rank, complement in zip(ranks, complements, strict=True)
    ]
    moments = [np.asarray(x) for model in models for x in model.mean_and_covariance()]
    # The roots of the reference lose half the digits of a singular covariance.
    atol = 1e-10 if min(complements) > 0 else 1e-6
    close(gaussian.wasserstein_2(*models), bures(*moments), atol=atol)
    close(gaussian.wasserstein_2(*models[::-1]), bures(*moments), atol=atol)


def test_wasserstein_between_singular_models(x64):
    basis = np.linalg.qr(np.random.default_rng(3).standard_normal((50, 4)))[0]
    build = lambda columns, values: sj.GaussianDenoiser.low_rank(  # noqa: E731
        np.zeros(50), basis[:, columns], np.asarray(values)
    )
    # In one eigenbasis, of different ranks: sum of squared differences of standard deviations.
    first, second = build([0, 1, 2], [4.0, 1.0, 0.25]), build([1, 3], [9.0, 1.0])
    close(gaussian.wasserstein_2(first, second), np.sqrt(4 + 4 + 0.25 + 1), atol=1e-12)
    close(gaussian.wasserstein_2(first, first), 0, atol=1e-13)
    # Lines at an angle: 1 + 1 - 2 cos.
    angle = 0.3
    tilted = np.cos(angle) * basis[:, :1] + np.sin(angle) * basis[:, 1:2]
    line = sj.GaussianDenoiser.low_rank(np.zeros(50), tilted, [1.0])
    expected = np.sqrt(2 - 2 * np.cos(angle))
    close(gaussian.wasserstein_2(build([0], [1.0]), line), expected, atol=1e-12)


def test_wasserstein_between_fits_is_frechet(dtype):
    first, second = points_of(12, 5, 1).astype(dtype), points_of(9, 5, 2).astype(dtype)
    fits = [sj.GaussianDenoiser.fit(x) for x in (first, second)]
    found = gaussian.wasserstein_2(*fits)
    assert found.dtype == dtype
    # Roundings of the means, 3, and of the standard deviations, 2, against a distance of one.
    np.testing.assert_allclose(found**2, sj.frechet_distance(first, second), rtol=200 * eps(dtype))


def test_wasserstein_from_a_sampler_to_the_law(x64):
    """In the basis that they share: per mode, f sigma_max against the standard deviation."""
    D, levels = low_rank(0.4), sj.edm_grid(18)
    law = flows.gaussian_sampler_law(D, levels)
    factors = 80 * flows.gaussian_sampler_factors(D.variances, levels)
    shift = law.mean - D.mean
    expected = jnp.sqrt(jnp.sum((factors - jnp.sqrt(D.variances)) ** 2) + jnp.sum(shift**2))
    close(gaussian.wasserstein_2(law, D), expected, atol=1e-12)


# Mixtures


def subspaces():
    rng = np.random.default_rng(6)
    bases = [np.linalg.qr(rng.standard_normal((6, rank)))[0] for rank in (1, 2, 2)]
    return np.array([0.2, 0.5, 0.3]), bases, [rng.uniform(0.3, 3, b.shape[1]) for b in bases]


def test_molrg_against_its_formula(x64):
    weights, bases, eigenvalues = subspaces()
    rng = np.random.default_rng(7)
    run = jax.jit(lambda D, u, sigma: (D.responsibilities(u, sigma), D(u, sigma)))
    for variances in (None, eigenvalues):
        D = sj.MixtureDenoiser.molrg(weights, bases, variances)
        values = [np.ones(b.shape[1]) for b in bases] if variances is None else variances
        for sigma in (0.3, 1.0, 4.0):
            u = rng.standard_normal(6)
            logits, means = [], []
            for weight, basis, lam in zip(weights, bases, values, strict=True):
                z = basis.T @ u
                exponent = 0.5 * np.sum(lam * z**2 / (sigma**2 * (lam + sigma**2)))
                logits.append(np.log(weight) + exponent - 0.5 * np.sum(np.log1p(lam / sigma**2)))
                means.append(basis @ (lam / (lam + sigma**2) * z))
            responsibilities = scipy.special.softmax(logits)
            found = run(D, u, sigma)
            close(found[0], responsibilities, atol=1e-12)
            close(found[1], responsibilities @ np.array(means), atol=1e-12)


def test_identities_of_molrg(x64):
    D = sj.MixtureDenoiser.molrg(*subspaces())

    @jax.jit
    def both_sides(u, sigma):
        gradient, by_sigma = jax.grad(D.log_density, (0, 1))(u, sigma)
        laplacian = jnp.trace(jax.hessian(D.log_density)(u, sigma))
        covariance = D.posterior_covariance(u, sigma)
        return (
            (D(u, sigma), u + sigma**2 * gradient),
            (covariance, sigma**2 * jax.jacfwd(D)(u, sigma)),
            (by_sigma, sigma * (laplacian + gradient @ gradient)),
        )

    u = jnp.asarray(np.random.default_rng(8).standard_normal(6))
    for sigma in (0.3, 3.0):
        for one, other in both_sides(u, sigma):
            # Differences of terms of size 1 / sigma^4.
            close(one, other, atol=1e-9 * max(1, float(jnp.max(jnp.abs(one)))))


def test_molrg_projects_on_the_nearest_subspace(dtype):
    weights, bases, _ = subspaces()
    D = sj.MixtureDenoiser.molrg(weights, [jnp.asarray(b, dtype) for b in bases])
    u = np.random.default_rng(9).standard_normal(6)
    projections = [b @ b.T @ u for b in bases]
    distances = [np.linalg.norm(u - p) for p in projections]
    nearest = projections[int(np.argmin(distances))]
    run = jax.jit(lambda D, u, s: (D(u, s), D.posterior_variance(u, s), D.responsibilities(u, s)))
    levels = (1e-3, 1e-6, 1e-15) if dtype == jnp.float32 else (1e-3, 1e-9, 1e-140)
    for sigma in levels:
        mean, variance, responsibilities = run(D, jnp.asarray(u, dtype), sigma)
        # D shrinks by 1 / (1 + sigma^2); the losing subspaces have weight exp(-1e5).
        close(mean, nearest, atol=20 * eps(dtype) + 3 * sigma**2)
        assert float(jnp.sum(responsibilities == 1)) == 1
        # Two dimensions, each with sigma^2 / (1 + sigma^2).
        close(variance, 2 * sigma**2 / (1 + sigma**2), atol=1e-4 * sigma**2 + 1e-30)
    # In two subspaces at once: the smaller one wins.
    nested = sj.MixtureDenoiser.molrg(
        np.ones(2), [jnp.eye(3, dtype=dtype)[:, :1], jnp.eye(3, dtype=dtype)[:, :2]]
    )
    found = nested.responsibilities(jnp.array([1.0, 0, 0], dtype), 1e-3)
    # 1 against sqrt(1 + 1/sigma^2): rounding of the point off the line counts for nothing.
    close(found[1], 1 / (1 + np.sqrt(1 + 1e6)), atol=1e-3 * 1e-2)


def blobs():
    rng = np.random.default_rng(10)
    means = np.array([[-4.0, 0.0, 0.0], [4.0, 1.0, 0.0]])
    factors = rng.standard_normal((2, 3, 3)) * 0.4
    labels = (rng.uniform(size=600) < 0.3).astype(int)
    noise = rng.standard_normal((600, 3))
    points = means[labels] + np.einsum("nij,nj->ni", factors[labels], noise)
    return points, labels, means, factors @ factors.transpose(0, 2, 1)


def test_mixture_by_expectation_maximisation(x64):
    pytest.importorskip("sklearn")
    points, labels, _, _ = blobs()
    by_em = sj.MixtureDenoiser.fit(points, num_components=2, method="em", seed=3)
    by_class = sj.MixtureDenoiser.fit(points, labels)
    order = np.argsort(np.asarray(by_em.components.mean)[:, 0])
    # Clusters ten standard deviations apart: EM finds the classes, but for the millionth that it adds.
    added = 1e-6 * np.mean(np.var(points, axis=0))
    close(by_em.weights[order], by_class.weights, atol=1e-6)
    close(by_em.components.mean[order], by_class.components.mean, atol=1e-5)
    for k, component in zip(order, range(2), strict=True):
        pick = lambda i, D: jax.tree.map(lambda leaf: leaf[i], D.components)  # noqa: E731
        expected = pick(component, by_class).covariance() + added * np.eye(3)
        close(pick(int(k), by_em).covariance(), expected, atol=1e-5)
    truncated = sj.MixtureDenoiser.fit(
        points, num_components=2, method="em", seed=3, rank=1, shrinkage=0.2
    )
    for k in range(2):
        full = np.linalg.eigvalsh(pick(k, by_em).covariance())
        average = full.mean()
        close(truncated.components.eigenvalues[k], [0.8 * full[2] + 0.2 * average], atol=1e-10)
        close(truncated.components.complement[k], 0.8 * full[:2].mean() + 0.2 * average, atol=1e-10)


def test_expectation_maximisation_is_a_fixed_point(x64):
    """Overlapping clusters: one more step, written out, changes the likelihood by less than the solver's tolerance."""
    pytest.importorskip("sklearn")
    points = np.random.default_rng(11).standard_normal((300, 2))
    points[:60] = 0.4 * points[:60] + 1.8
    D = sj.MixtureDenoiser.fit(points, num_components=2, method="em")
    weights, means = np.asarray(D.weights), np.asarray(D.components.mean)
    covariances = np.asarray(jax.vmap(lambda c: c.covariance())(D.components))

    def joint(weights, means, covariances):
        logs = [
            np.log(w) + scipy.stats.multivariate_normal(m, c).logpdf(points)
            for w, m, c in zip(weights, means, covariances, strict=True)
        ]
        return np.array(logs)

    before = joint(weights, means, covariances)
    r = scipy.special.softmax(before, axis=0)
    total = r.sum(1)
    new_means = r @ points / total[:, None]
    differences = points - new_means[:, None]
    new = np.einsum("kn,kni,knj->kij", r, differences, differences) / total[:, None, None]
    after = joint(total / 300, new_means, new + 1e-6 * np.mean(np.var(points, 0)) * np.eye(2))
    gain = np.mean(scipy.special.logsumexp(after, 0) - scipy.special.logsumexp(before, 0))
    # scikit-learn stops where a step gains less than 1e-3 nats a point.
    assert -1e-9 < gain < 1e-3
    # And one component in place of two is worse by more than that.
    single = scipy.stats.multivariate_normal(points.mean(0), np.cov(points.T, bias=True))
    assert np.mean(scipy.special.logsumexp(before, 0) - single.logpdf(points)) > 0.01


def test_components_by_ledoit_wolf(x64):
    covariance = pytest.importorskip("sklearn.covariance")
    points, labels, _, _ = blobs()
    points, labels = points[:40], labels[:40]
    D = sj.MixtureDenoiser.fit(points, labels, shrinkage="ledoit-wolf")
    for k in range(2):
        component = jax.tree.map(lambda leaf, k=k: leaf[k], D.components)
        expected = covariance.ledoit_wolf(points[labels == k])[0]
        close(component.covariance(), expected, atol=1e-12)


# Digits: scikit-learn's over 8 minus 1, np.random.default_rng(0).permutation(1797), 1500 to train and 297 held out. Noise
# from default_rng(1): two draws of (2, 297, 64). Computed in float64 by independent NumPy code. The columns: first entries
# of D_G and D_M at the first point; RMSE between them, mean of the points' roots, mean square errors of D_G and D_M;
# linearity scores (raw D_G, raw D_M, centred D_M); mean and median effective number of neighbours, mean largest weight.
DIGITS = {
    0.02: (
        [-1.0, -0.9864328240446164, -0.742736614797729, 0.9713528557594506],
        [-1.0, -1.0, -0.5, 1.0],
        [0.2636668750337768, 0.25758321064572953, 0.0003338062187611, 0.06953057645641288],
        [0.9932218569839919, 0.8988481921035946, 0.7040240369956945],
        [1.0008958423287608, 1.0, 0.9998038929527474],
    ),
    0.05: (
        [-1.0, -0.9788692076906396, -0.7322000605804106, 0.9202928971097294],
        [-1.0, -1.0, -0.5, 1.0],
        [0.2637910676798375, 0.25795857704775754, 0.0019328356934514717, 0.06956210785956259],
        [0.9914469006740805, 0.8988365808259728, 0.7036922812344735],
        [1.0044404376314426, 1.0, 0.9985999310469226],
    ),
    0.1: (
        [-1.0, -0.9778138554445707, -0.7249275821776875, 0.8241760966505676],
        [-1.0, -1.0, -0.5, 1.0],
        [0.26357464611176357, 0.25831551610020287, 0.0069220751521631395, 0.06920505520622568],
        [0.9906267420378431, 0.8997161059234936, 0.704676814857836],
        [1.0403270260633426, 1.0, 0.9866649496383846],
    ),
    0.5: (
        [-1.0, -0.9970142729755571, -0.793924439255583, 0.33977726896005467],
        [-0.9999999999999994, -0.9999999999999879, -0.650312710773164, 0.8912716546026955],
        [0.27895659490928876, 0.27506351256454575, 0.07577220027659866, 0.07212552968446805],
        [0.9905544174738261, 0.9152205239266846, 0.7266944291429611],
        [2.586987811591079, 2.006621315490158, 0.7348119928771641],
    ),
    1.0: (
        [-1.0, -0.9995570377411713, -0.7870561764287686, 0.19695155084134558],
        [-0.9999999999999999, -0.9999849344917794, -0.6952236582475951, 0.5902555251484334],
        [0.2594295117522962, 0.25318348708028293, 0.14820942771141418, 0.10518825818181463],
        [0.9919882839088829, 0.9465931080423909, 0.7883082363675614],
        [18.028453675542636, 13.868591990364823, 0.3305640082869417],
    ),
    5.0: (
        [-1.0, -0.973036914584213, -0.4905991813138319, 0.35530321882268406],
        [-0.9999999999999999, -0.9769515368618094, -0.5070640565069486, 0.3352046984657692],
        [0.02954396015154756, 0.02639381216490079, 0.2805790922121276, 0.28028337384332447],
        [0.9985797428340246, 0.9980846245837114, 0.9788451185186839],
        [1061.6150334221238, 1073.849100829405, 0.005850686722431479],
    ),
}


def digits():
    data = pytest.importorskip("sklearn.datasets").load_digits().data / 8 - 1
    order = np.random.default_rng(0).permutation(1797)
    return data[order[:1500]], data[order[1500:]]


def cosine(x, y):
    return np.sum(x * y, -1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)


def test_digits_reference(x64):
    train, test = digits()
    noise = np.random.default_rng(1).standard_normal((2, 2, 297, 64))
    laws = sj.GaussianDenoiser.fit(train), sj.EmpiricalDenoiser(train)
    mean = train.mean(0)

    @jax.jit
    def both(laws, u, sigma):
        return jax.vmap(lambda u: jnp.stack([D(u, sigma) for D in laws]))(u)

    @jax.jit
    def neighbours(D, u, sigma):
        # The largest weight, from the posterior itself.
        logits = -jnp.sum((u[:, None] - train[None]) ** 2, -1) / (2 * sigma**2)
        effective = jax.vmap(lambda u: sj.effective_neighbours(D, u, sigma))(u)
        return effective, jnp.max(jax.nn.softmax(logits), axis=1)

    for sigma, (first_g, first_m, differences, linearity, posterior) in DIGITS.items():
        u1 = test + sigma * noise[0]
        u2 = np.roll(test, 1, 0) + sigma * noise[1]
        combined = (u1 + u2) / np.sqrt(2)
        centred = mean + (u1 + u2 - 2 * mean) / np.sqrt(2)
        queries = np.stack([u1, u2, combined, centred])
        values = np.asarray(both(laws, queries.reshape(-1, 64), sigma))
        d1, d2, of_combined, of_centred = values.reshape(4, 2, 297, 2, 64)
        np.testing.assert_allclose(d1[0, 0, :, :4], [first_g, first_m], rtol=1e-9)

        per_point = np.mean((d1[..., 0, :] - d1[..., 1, :]) ** 2, axis=-1)
        errors = np.mean((d1 - test[:, None]) ** 2, axis=(0, 1, 3))
        found = [np.sqrt(per_point.mean()), np.mean(np.sqrt(per_point)), *errors]
        np.testing.assert_allclose(found, differences, rtol=1e-6)

        raw = np.abs(cosine(of_combined, (d1 + d2) / np.sqrt(2))).mean((0, 1))
        shifted = np.abs(cosine(of_centred - mean, (d1 + d2 - 2 * mean) / np.sqrt(2))).mean((0, 1))
        np.testing.assert_allclose([*raw, shifted[1]], linearity, rtol=1e-6)
        np.testing.assert_allclose(shifted[0], 1, atol=1e-12)

        effective, largest = neighbours(laws[1], u1.reshape(-1, 64), sigma)
        found = [np.mean(effective), np.median(effective), np.mean(largest)]
        np.testing.assert_allclose(found, posterior, rtol=1e-6)


# EDM-Heun from 80 to 0.002 on so many levels, and a last step to zero, of default_rng(2).standard_normal((256, 64)): RMS and
# largest difference to the closed form at zero.
HEUN = {
    18: (0.025380534843132158, 0.11569374524741205),
    40: (0.004503885454339898, 0.020640021599789282),
}


def test_heun_on_the_digits(x64):
    train, _ = digits()
    D = sj.GaussianDenoiser.fit(train)
    start = 80 * np.random.default_rng(2).standard_normal((256, 64))
    flow = eqx.filter_jit(jax.vmap(lambda u: sj.gaussian_flow(D, u, 80.0, 0.0)))(start)
    for steps, expected in HEUN.items():
        levels = sj.edm_grid(steps)
        run = eqx.filter_jit(jax.vmap(lambda u, g=levels: flows.gaussian_sampler(D, u, g)))
        error = np.abs(run(start) - flow)
        np.testing.assert_allclose([np.sqrt(np.mean(error**2)), error.max()], expected, rtol=1e-6)
    # With 18 steps variances above 1e-3 come out 8 to 27 % too large.
    large = D.variances[D.variances > 1e-3]
    bias = flows.gaussian_sampler_bias(large, sj.edm_grid(18))
    close([bias.min(), bias.max()], [0.08, 0.27], atol=0.005)


@pytest.mark.exhaustive
def test_samples_of_the_digits_in_40_steps(x64):
    """The empirical denoiser's are training points, 240 different ones, and unlike the Gaussian's from the same noise."""
    train, _ = digits()
    start = 80 * np.random.default_rng(2).standard_normal((256, 64))
    levels, D = sj.edm_grid(40), sj.GaussianDenoiser.fit(train)

    @eqx.filter_jit
    def run(memory, D, u):
        of_memory = jax.vmap(lambda u: sj.flow(memory, u, 80.0, 0.0, levels=levels))(u)
        return of_memory, jax.vmap(lambda u: flows.gaussian_sampler(D, u, levels))(u)

    memorised, smooth = (np.asarray(x) for x in run(sj.EmpiricalDenoiser(train), D, start))

    def neighbours(samples):
        squares = np.sum(samples**2, 1)[:, None] - 2 * samples @ train.T + np.sum(train**2, 1)
        nearest = np.argsort(squares, axis=1)[:, :2]
        return np.linalg.norm(samples[:, None] - train[nearest], axis=-1), len(set(nearest[:, 0]))

    distances, distinct = neighbours(memorised)
    assert np.max(distances[:, 0]) < 1e-12 * 8
    assert distinct == 240
    distances, distinct = neighbours(smooth)
    assert np.mean(distances[:, 0] / distances[:, 1] < 1 / 3) == 0
    assert distinct == 216
    found = [
        np.median(distances[:, 0] / distances[:, 1]),
        np.sqrt(np.mean(distances[:, 0] ** 2) / 64),
        np.sqrt(np.mean((memorised - smooth) ** 2)),
        np.mean(cosine(memorised - train.mean(0), smooth - train.mean(0))),
    ]
    expected = [0.9767744788774555, 0.45253791795471976, 0.4780709031265988, 0.61528913780056]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sj.GaussianDenoiser.fit(np.zeros((3, 2)), shrinkage="oas"),
            "`shrinkage` must be a number in .* or \"ledoit-wolf\"; got 'oas'",
        ),
        (lambda: DualGaussianDenoiser(np.zeros(3)), r"`data` must have shape \(n, d\)"),
        (
            lambda: flows.gaussian_sampler_factors(np.ones(2), [2.0, 1.0], solver=diffrax.Tsit5()),
            r"`solver` must be diffrax.Heun\(\) or diffrax.Euler\(\); got Tsit5",
        ),
        (lambda: flows.gaussian_sampler_factors(np.ones(2), [1.0, 1.0]), "strictly monotone"),
        (lambda: flows.gaussian_sampler_factors([-1.0], [2.0, 1.0]), "`variances` must be non-neg"),
        (lambda: flows.gaussian_sampler(low_rank(0.0), np.ones(3), [1.0, 0.0]), r"shape \(5,\)"),
        (lambda: gaussian.excess_risk(np.ones((2, 2)), 1.0, 5), r"`variances` must have shape"),
        (lambda: gaussian.excess_risk([1.0, -1.0], 1.0, 5), "`variances` must be non-negative"),
        (lambda: gaussian.excess_risk([1.0], 0.0, 5), "`sigma` must be positive"),
        (
            lambda: gaussian.excess_risk([1.0], 1.0, 1),
            "`num_train` must be one finite number of at least",
        ),
        (lambda: gaussian.third_cumulant_norm(np.zeros((3, 2)), block_size=0), "`block_size`"),
        (lambda: gaussian.far_field_rmse(np.zeros((3, 2)), -1.0), "`sigma` must be positive"),
        (
            lambda: gaussian.wasserstein_2(
                sj.GaussianDenoiser(np.zeros(1), np.eye(1)),
                sj.GaussianDenoiser(np.zeros(2), np.eye(2)),
            ),
            "same dimension; got 1 and 2",
        ),
        (
            lambda: sj.MixtureDenoiser.molrg([1.0], [np.eye(2)], [[1.0, 1.0], [1.0, 1.0]]),
            "`eigenvalues` must have one entry a subspace, 1; got 2",
        ),
        (lambda: sj.MixtureDenoiser.molrg([1.0], [np.ones(2)]), r"arrays of shape \(d, d_k\)"),
        (
            lambda: sj.MixtureDenoiser.fit(np.zeros((3, 2)), num_components=1, method="vb"),
            '`method` must be "k-means" or "em"; got \'vb\'',
        ),
        (
            lambda: sj.MixtureDenoiser.fit(
                np.zeros((3, 2)), num_components=1, method="em", shrinkage="ledoit-wolf"
            ),
            "`shrinkage` must be a number",
        ),
        (
            lambda: sj.MixtureDenoiser.fit(
                np.zeros((3, 2)), num_components=1, method="em", shrinkage=2.0
            ),
            "`shrinkage` must lie in",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_leading_order_excess_risk_of_elliptical_data():
    """Gaussian vectors of two random lengths, k = 3: fits of many training sets, their excess risk in closed form."""
    rng = np.random.default_rng(5)
    variances, sigma, N, num = np.array([2.0, 0.5, 0.1]), 0.5, 2000, 1500
    lengths, chance = np.array([0.5, 5.5]), np.array([0.9, 0.1])  # squares, of mean 1
    kurtosis = chance @ lengths**2 - 1
    square = rng.choice(lengths, (num, N, 1), p=chance)
    points = rng.standard_normal((num, N, 3)) * np.sqrt(variances * square)
    mean = points.mean(axis=1)
    centred = points - mean[:, None]
    covariance = np.einsum("kni,knj->kij", centred, centred) / N
    gains = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(3))
    off = gains - np.diag(variances / (variances + sigma**2))
    shift = np.einsum("kij,kj->ki", np.eye(3) - gains, mean)
    risks = np.einsum("kij,j,kij->k", off, variances + sigma**2, off) + np.sum(shift**2, axis=1)
    risk = gaussian.leading_order_excess_risk
    expected = float(risk(variances, sigma, N, elliptical_kurtosis=kurtosis))
    # The next order is smaller by the kurtosis and the number of directions over N.
    error = 4 * risks.std(ddof=1) / np.sqrt(num) + 4 * (1 + kurtosis) * 3 / N * expected
    assert abs(risks.mean() - expected) < error
    assert abs(risks.mean() - float(risk(variances, sigma, N))) > 5 * error
    whole = gaussian.excess_risk(variances, sigma, N, elliptical_kurtosis=kurtosis)
    assert abs(risks.mean() - float(whole)) < error
    # Of two fits: their gains' and shifts' scatter about their own mean, as the same sums of differences.
    pairs = off[::2] - off[1::2], shift[::2] - shift[1::2]
    squares = np.einsum("kij,j,kij->k", pairs[0], variances + sigma**2, pairs[0])
    squares += np.sum(pairs[1] ** 2, axis=1)
    rmse = gaussian.independent_fits_rmse(variances, sigma, N, elliptical_kurtosis=kurtosis)
    found = 3 * float(rmse) ** 2
    slack = 4 * squares.std(ddof=1) / np.sqrt(num / 2) + 4 * (1 + kurtosis) * 3 / N * found
    assert abs(squares.mean() - found) < slack
    assert (
        abs(squares.mean() - 3 * float(gaussian.independent_fits_rmse(variances, sigma, N)) ** 2)
        > 5 * slack
    )
    with pytest.raises(ValueError, match="more than -1"):
        risk(variances, sigma, N, elliptical_kurtosis=-1.0)


@pytest.mark.parametrize("degrees", [np.inf, 20, 9.5])
def test_elliptical_kurtosis_of_students_t(degrees):
    """Against its closed form, with the scatter of many data sets; and the scatter against the standard error."""
    rng, num, N, dim = np.random.default_rng(0), 200, 2000, 4
    mix = rng.standard_normal((dim, dim)) * np.geomspace(1, 1e-3, dim)
    found = []
    for _ in range(num):
        length = np.sqrt(degrees / rng.chisquare(degrees, (N, 1))) if degrees < np.inf else 1.0
        found.append(
            gaussian.elliptical_kurtosis(1e2 + (rng.standard_normal((N, dim)) @ mix) * length)
        )
    value, error = np.array(found).T
    expected = 2 / (degrees - 4)
    scatter = value.std(ddof=1) / np.sqrt(num)
    # Of heavy tails the estimate is too low by some of (1 + k)^2 (d + 2) / N.
    bias = 4 * (expected > 0) * (1 + expected) ** 2 * (dim + 2) / N
    assert abs(value.mean() - expected) < 4 * scatter + bias
    # The scatter of 200 numbers is known to 5 %, and to more with heavy tails, whose errors vary as well.
    relative = 4 / np.sqrt(2 * num) if degrees > 10 else 0.6
    assert abs(np.sqrt(np.mean(error**2)) / value.std(ddof=1) - 1) < relative + bias


def test_elliptical_kurtosis_is_that_of_mahalanobis_distances(dtype):
    points = np.random.default_rng(1).standard_normal((50, 3)).astype(dtype) ** 3
    centred = points.astype(float) - points.astype(float).mean(0)
    r = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(centred.T @ centred / 50), centred)
    expected = 51 / 49 * np.mean(r**2) / 15 - 1
    np.testing.assert_allclose(gaussian.elliptical_kurtosis(points).value, expected, rtol=1e-10)
    with pytest.raises(ValueError, match="more points than directions"):
        gaussian.elliptical_kurtosis(points[:3])
    with pytest.raises(ValueError, match="subspace"):
        gaussian.elliptical_kurtosis(points[:, [0, 1, 1]])


def test_dual_form_of_more_points_than_directions_at_small_noise():
    """Densities in float32 at a noise level of the smallest deviation, 1e-4 of the largest, against float64 in NumPy."""
    rng, n, d, sigma = np.random.default_rng(0), 400, 12, np.float32(1e-4)
    points = (rng.standard_normal((n, d)) * np.geomspace(1, 1e-4, d)).astype(np.float32)
    wide = points.astype(np.float64)
    covariance = np.cov(wide.T, bias=True) + float(sigma) ** 2 * np.eye(d)
    u = (wide[:5] + sigma * rng.standard_normal((5, d))).astype(np.float32)
    off = u.astype(np.float64) - wide.mean(0)
    square = np.einsum("ni,ij,nj->n", off, np.linalg.inv(covariance), off)
    expected = -0.5 * (square + np.linalg.slogdet(2 * np.pi * covariance)[1])
    denoised = wide.mean(0) + off - float(sigma) ** 2 * np.linalg.solve(covariance, off.T).T
    D = DualGaussianDenoiser(points)
    found = jax.vmap(D.log_density, (0, None))(u, sigma)
    # Coefficients off by e raise twice what they minimise by |X^T e|^2 / sigma^2 + n |e|^2, of which the first is
    # the denoiser's error, the second no more than that over the smallest eigenvalue. And roundings of numbers near 100.
    error = np.linalg.norm(np.asarray(jax.vmap(D, (0, None))(u, sigma)) - denoised, axis=1) / sigma
    smallest = np.linalg.eigvalsh(covariance)[0] - float(sigma) ** 2
    slack = 0.5 * error**2 * (1 + float(sigma) ** 2 / smallest) + 100 * d * 1.2e-7
    assert np.all(np.abs(np.asarray(found) - expected) < slack + 1e-3)
    assert np.all(slack < 5)
