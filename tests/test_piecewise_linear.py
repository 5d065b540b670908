"""Piecewise-linear smoothing against 40-digit values, integration of the flow, quadrature and simulation."""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats

import smoothjax as sj
from smoothjax import smoothing

REFERENCE = json.loads((Path(__file__).parent / "score_smoothing_reference.json").read_text())
CASES = REFERENCE["cases"]
POINTS = {"n2": np.array([-1.0, 1.0]), "n4": np.linspace(-1, 1, 4)}
# Unequal gaps, in no order, and a strength for each.
UNEVEN = np.array([0.4, -1.0, 1.3, -0.2, 0.1])
KAPPAS = np.array([0.3, 0.8, 0.5, 1.1])


def close(value, expected, rtol):
    np.testing.assert_allclose(np.asarray(value), np.asarray(expected), rtol=rtol, atol=1e-300)


def denoise(D, x, sigma):
    return jax.vmap(lambda x: D(x[None], sigma)[0])(jnp.asarray(x))


def integral(function, edges):
    """Gauss-Legendre with 40 nodes on each of 50 equal parts between neighbouring edges, where `function` is smooth."""
    edges = np.sort(edges)
    parts = np.unique(np.linspace(edges[:-1], edges[1:], 51))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    half = 0.5 * np.diff(parts)
    x = parts[:-1] + half + half * nodes[:, None]
    return np.sum(np.asarray(function(x)) * weights[:, None] * half)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['name']}-{c['kappa'][0]}-{c['t0']}")
def test_reference(x64, case):
    y, kappa, sigma, x = case["points"], np.array(case["kappa"]), case["t0"] ** 0.5, case["x"]
    D = sj.PiecewiseLinearDenoiser(y, kappa)
    close(denoise(D, x, sigma), case["spl_denoiser"], 1e-12)
    close(
        jax.vmap(lambda x: sj.score(D, x[None], sigma)[0])(jnp.array(x)), case["spl_score"], 1e-12
    )
    flow = lambda a, b: sj.piecewise_linear_flow(y, kappa, np.array(x), a, b)  # noqa: E731
    for t, expected in case["flow"].items():
        close(flow(sigma, float(t) ** 0.5), expected, 1e-12)
    for t, expected in case["inverse_flow"].items():
        close(flow(float(t) ** 0.5, sigma), expected, 1e-12)
    law = lambda t: smoothing.PiecewiseLinearLaw(y, kappa, sigma, float(t) ** 0.5)  # noqa: E731
    close(law(0).plateau_masses(), case["atoms_s0"], 1e-12)
    close(law(0).gap_masses(), case["gap_mass"], 1e-12)
    close(law(case["t0"]).cdf(x), case["cdf"], 1e-12)
    for t, pairs in case["density_at_gap_points"].items():
        z, density = np.transpose(pairs)
        close(law(t).density(z), density, 1e-12)
    for t, (mean, variance) in case["mean_var"].items():
        np.testing.assert_allclose(law(t).mean(), mean, atol=1e-15)
        close(law(t).variance(), variance, 1e-12)
    for t, distance in case["dist2_nearest_tangent"].items():
        close(law(t).mean_square_distance(), distance, 1e-12)
    close(smoothing.smoothing_loss(y, kappa, sigma), case["loss"], 1e-11)
    close(smoothing.small_noise_loss(y, kappa, sigma), case["loss_asymptotic"], 1e-12)
    close(smoothing.piecewise_linear_non_smoothness(y, kappa, sigma), case["R_spl"], 1e-12)


def test_reference_of_tails(x64):
    for name, function in (
        ("F", smoothing.second_tail),
        ("G", smoothing.first_tail),
        ("F_inverse", smoothing.inverse_second_tail),
    ):
        for argument, expected in REFERENCE[name].items():
            close(function(float(argument)), expected, 1e-12)
    kappa = np.linspace(0.1, 6, 12)
    close(smoothing.inverse_first_tail(smoothing.first_tail(kappa)), kappa, 1e-12)
    assert smoothing.inverse_first_tail(0.5) < 1e-15
    # F' = -2 G.
    close(
        jax.vmap(jax.grad(smoothing.second_tail))(jnp.array(kappa)),
        -2 * smoothing.first_tail(kappa),
        1e-9,
    )


def test_reference_of_divergences(x64):
    for name, values in REFERENCE["KL_uniform_to_spl_endpoint"].items():
        for condition, expected in values.items():
            kappa, t = (float(part.split("=")[1]) for part in condition.split(","))
            law = smoothing.PiecewiseLinearLaw(POINTS[name], kappa, t**0.5)
            close(law.divergence_from_uniform(), expected, 1e-10)
    for name, values in REFERENCE["KL_uniform_to_early_stopped"].items():
        for t, expected in values.items():
            level = float(t) ** 0.5
            law = smoothing.PiecewiseLinearLaw(POINTS[name], 0.5, level, level)
            if not 0.5 * level < 1 / 3:
                continue
            close(law.divergence_from_uniform(), expected, 1e-10)
    # What flows only a part of the way, by quadrature of its density between its bends and jumps.
    law, points = smoothing.PiecewiseLinearLaw(UNEVEN, KAPPAS, 0.1, 0.05), np.sort(UNEVEN)
    edges = [*points, *(points[:-1] + KAPPAS * 0.05), *(points[1:] - KAPPAS * 0.05)]
    value = integral(law.log_density, [*edges, *(points[:-1] + points[1:]) / 2])
    close(law.divergence_from_uniform(), -value / 2.3 - np.log(2.3), 1e-10)
    assert smoothing.PiecewiseLinearLaw(UNEVEN, np.inf, 0.1).divergence_from_uniform() == np.inf


@pytest.mark.parametrize("points", [POINTS["n4"], UNEVEN], ids=["uniform", "uneven"])
def test_flow_is_what_integration_gives(x64, points):
    kappa, high = KAPPAS[: len(points) - 1], 0.12
    D = sj.PiecewiseLinearDenoiser(points, kappa)
    compiled = jax.jit(lambda x, sigma: denoise(D, x, sigma))
    # Beyond the ends, on plateaus, and in gaps; not on an edge, where the solver would stumble over the bend.
    x = np.linspace(points.min() - 0.5, points.max() + 0.5, 41)
    for low in (0.06, 1e-3):
        solution = scipy.integrate.solve_ivp(
            lambda s, x: (x - np.asarray(compiled(x, s))) / s,
            (high, low),
            x,
            method="DOP853",
            rtol=1e-12,
            atol=1e-12,
        ).y[:, -1]
        ends = sj.piecewise_linear_flow(points, kappa, x, high, low)
        np.testing.assert_allclose(ends, solution, atol=1e-9)
        back = sj.piecewise_linear_flow(points, kappa, ends, low, high)
        # Upwards plateaus stretch rounding errors by high / low.
        np.testing.assert_allclose(back, x, atol=1e-14 * high / low)
    onward = sj.piecewise_linear_flow(points, kappa, ends, 1e-3, 0.0)
    np.testing.assert_allclose(onward, compiled(x, high), atol=1e-14)
    assert {"plateau", "gap"} == {
        "plateau" if np.min(np.abs(z - points)) < 1e-12 else "gap" for z in np.asarray(onward)
    }


def test_a_closed_gap_empties(x64):
    # kappa sigma exceeds the half gap of 0.15 between -0.2 and 0.1: everything there goes to one of the two.
    kappa = np.array([0.3, 0.8, 0.5, 1.1])
    x = np.array([-0.06, -0.05, -0.04])
    D = sj.PiecewiseLinearDenoiser(UNEVEN, kappa)
    np.testing.assert_allclose(denoise(D, x, 0.25), [-0.2, -0.05, 0.1], atol=1e-15)
    ends = sj.piecewise_linear_flow(UNEVEN, kappa, x, 0.25, 0.0)
    np.testing.assert_allclose(ends[jnp.array([0, 2])], [-0.2, 0.1], atol=1e-15)
    law = smoothing.PiecewiseLinearLaw(UNEVEN, kappa, 0.25)
    masses = law.gap_masses()
    assert masses[1] == 0 and np.all(np.delete(masses, 1) > 0)
    assert law.density(-0.05) == 0
    np.testing.assert_allclose(law.cdf(-0.1), law.cdf(0.05), rtol=1e-14)
    with pytest.raises(ValueError, match="below its half gap"):
        sj.piecewise_linear_flow(UNEVEN, kappa, x, 0.1, 0.25)


def integrated_samples(points, kappa, sigma, num, rng):
    """Exact starts, moved by the classical Runge-Kutta method on the denoiser, in NumPy."""
    points = np.sort(points)
    half = 0.5 * np.diff(points)
    x = rng.choice(points, num) + sigma * rng.standard_normal(num)
    xp = lambda s: np.stack([points[:-1] + kappa * s, points[1:] - kappa * s], 1).ravel()  # noqa: E731
    fp = np.stack([points[:-1], points[1:]], 1).ravel()
    assert np.all(kappa * sigma < half)
    f = lambda x, s: (x - np.interp(x, xp(s), fp)) / s  # noqa: E731
    grid = sigma * np.linspace(1, 1e-3, 300)
    for s, end in itertools.pairwise(grid):
        h = end - s
        a = f(x, s)
        b = f(x + h / 2 * a, s + h / 2)
        c = f(x + h / 2 * b, s + h / 2)
        x = x + h / 6 * (a + 2 * b + 2 * c + f(x + h * c, end))
    return x, grid[-1]


@pytest.mark.parametrize(
    ("points", "kappa"), [(POINTS["n2"], [0.5]), (UNEVEN, KAPPAS)], ids=["two", "uneven"]
)
def test_law_is_what_samples_follow(x64, points, kappa):
    num, sigma = 100_000, 0.12
    rng = np.random.default_rng(0)
    x, end = integrated_samples(points, np.asarray(kappa), sigma, num, rng)
    law = smoothing.PiecewiseLinearLaw(points, np.asarray(kappa), sigma, end)

    def within(count, probability):
        # Four standard errors, and what the integration displaces: less than one sample.
        error = np.sqrt(num * probability * (1 - probability))
        assert np.all(np.abs(count - num * probability) <= 4 * error + 1), (
            count,
            num * probability,
        )

    inner = np.sort(points)
    low = np.concatenate([[-np.inf], inner[1:] - np.asarray(kappa) * end])
    high = np.concatenate([inner[:-1] + np.asarray(kappa) * end, [np.inf]])
    on_plateau = np.sum((x[:, None] >= low) & (x[:, None] <= high), axis=0)
    within(on_plateau, np.asarray(law.plateau_masses()))
    within(num - on_plateau.sum(), float(law.interpolated_mass()))
    in_gap = np.sum((x[:, None] > high[:-1]) & (x[:, None] < low[1:]), axis=0)
    within(in_gap, np.asarray(law.gap_masses()))
    q = np.array([0.01, 0.1, 0.31, 0.5, 0.77, 0.95, 0.999])
    within(np.sum(x[:, None] <= np.asarray(law.quantile(q)), axis=0), q)
    z = np.linspace(-1.5, 1.7, 33)
    within(np.sum(x[:, None] <= z, axis=0), np.asarray(law.cdf(z)))
    assert abs(x.mean() - float(law.mean())) < 4 * x.std() / np.sqrt(num)
    spread = np.std((x - x.mean()) ** 2) / np.sqrt(num)
    assert abs(x.var() - float(law.variance())) < 4 * spread
    nearest = np.min(np.abs(x[:, None] - inner), axis=1) ** 2
    error = 4 * nearest.std() / np.sqrt(num)
    assert abs(nearest.mean() - float(law.mean_square_distance())) < error
    drawn = np.asarray(law.sample(jax.random.key(0), num))
    assert scipy.stats.ks_2samp(drawn, x).pvalue > 1e-4


def test_law_is_consistent(x64):
    law = smoothing.PiecewiseLinearLaw(UNEVEN, KAPPAS, 0.1)
    atoms, points = np.asarray(law.plateau_masses()), np.sort(UNEVEN)
    close(atoms.sum() + float(law.interpolated_mass()), 1.0, 1e-14)
    # The distribution function jumps by the atoms, and grows by the density.
    tiny = 1e-13
    np.testing.assert_allclose(law.cdf(points) - law.cdf(points - tiny), atoms, atol=1e-11)
    for k, (low, high) in enumerate(itertools.pairwise(points)):
        mass = integral(law.density, [low, (low + high) / 2, high])
        close(mass, law.gap_masses()[k], 1e-10)
    for z in (-0.7, 0.2, 1.0):
        close(law.quantile(law.cdf(z)), z, 1e-10)
    # Across an atom the quantile stays.
    start = float(law.cdf(points[1] - tiny))
    np.testing.assert_allclose(
        law.quantile(start + atoms[1] * np.array([0.01, 0.5, 0.99])), points[1], atol=1e-14
    )
    np.testing.assert_allclose(law.cdf(np.array([-1.1, 1.3])), [0, 1], atol=1e-15)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.2])
def test_loss_is_its_definition(x64, sigma):
    kappa = np.minimum(KAPPAS, 0.1 / sigma)
    D, exact = sj.PiecewiseLinearDenoiser(UNEVEN, kappa), sj.EmpiricalDenoiser(UNEVEN[:, None])
    gap, points = np.diff(np.sort(UNEVEN)), np.sort(UNEVEN)

    @jax.jit
    def integrand(x):
        both = jax.vmap(lambda x: (D(x[None], sigma)[0] - exact(x[None], sigma)[0]) ** 2)(x)
        return both * jax.vmap(lambda x: jnp.exp(exact.log_density(x[None], sigma)))(x) / sigma**2

    # Between the bends of the piecewise-linear denoiser (the exact one's, within sigma^2 / 2h of the middle, take several
    # parts) Gauss-Legendre quadrature is right to rounding. The least error is right to a few roundings of the data's
    # squared range, and the loss to those over the squared noise level.
    delta = np.minimum(kappa * sigma, 0.5 * gap)
    middle = 0.5 * (points[1:] + points[:-1])
    ends = [points[0] - 10 * sigma, points[-1] + 10 * sigma]
    edges = [*ends, *points, *(points[:-1] + delta), *(points[1:] - delta), *middle]
    direct = integral(lambda x: integrand(x.ravel()).reshape(x.shape), np.unique(edges))
    rounding = 4 * 2.2e-16 * np.ptp(points) ** 2 / sigma**2
    loss = smoothing.smoothing_loss(UNEVEN, kappa, sigma)
    np.testing.assert_allclose(loss, direct, rtol=1e-12, atol=rounding)

    @jax.jit
    def variance(x):
        each = jax.vmap(lambda x: exact.posterior_variance(x[None], sigma))(x)
        return each * jax.vmap(lambda x: jnp.exp(exact.log_density(x[None], sigma)))(x)

    # Smooth: trapezoids finer than its bend by a factor of fifty converge exponentially.
    step = min(sigma**2 / gap.max(), sigma) / 50
    x = np.arange(*ends, step)
    close(smoothing.minimum_mean_square_error(UNEVEN, sigma), np.sum(variance(x)) * step, 1e-9)


def test_minimum_error_of_two_points(x64):
    for t, expected in REFERENCE["mmse_n2"].items():
        # The posterior variance is right to a rounding of the data's spread, four times 2.2e-16.
        np.testing.assert_allclose(
            smoothing.minimum_mean_square_error(POINTS["n2"], float(t) ** 0.5),
            expected,
            rtol=1e-12,
            atol=1e-15,
        )


def test_kappa_for_a_loss_is_optimal(x64):
    for eps, expected in REFERENCE["F_inverse"].items():
        close(smoothing.kappa_for_loss(POINTS["n2"], float(eps)), [expected], 1e-10)
    points, loss, sigma = np.sort(UNEVEN), 0.1, 1e-4
    kappa = np.asarray(smoothing.kappa_for_loss(points, loss, sigma))
    close(smoothing.small_noise_loss(points, kappa, sigma), loss, 1e-10)
    half = 0.5 * np.diff(points)
    prices = half * smoothing.first_tail(kappa)
    close(prices, np.full(4, prices[0]), 1e-10)
    # An optimiser that knows nothing of prices finds nothing smoother, as sigma -> 0: R to first order in sigma, and F and
    # its gradient from SciPy. It stops where R changes by less than `ftol`; at the optimum R curves in kappa like
    # (1 / h) Q / G, Q the tail of the normal law.
    kappa, ftol = np.asarray(smoothing.kappa_for_loss(points, loss)), 1e-13
    tail, density = scipy.stats.norm.sf, scipy.stats.norm.pdf
    best = scipy.optimize.minimize(
        lambda k: np.sum(k / half),
        np.full(4, 1.0),
        jac=lambda k: 1 / half,
        constraints={
            "type": "eq",
            "fun": lambda k: 2 / 5 * np.sum((1 + k**2) * tail(k) - k * density(k)) - loss,
            "jac": lambda k: -4 / 5 * (density(k) - k * tail(k)),
        },
        bounds=[(0, 8)] * 4,
        method="SLSQP",
        options={"ftol": ftol},
    )
    assert best.success
    curvature = np.min(tail(kappa) / (density(kappa) - kappa * tail(kappa)) / half)
    np.testing.assert_allclose(kappa, best.x, atol=np.sqrt(2 * ftol / curvature))
    np.testing.assert_array_less(smoothing.kappa_for_loss(points, 5.0), 1e-6)


@pytest.mark.parametrize("penalty", [1e-6, 1e-3, 0.03])
def test_kappa_for_a_penalty_by_root_finding(x64, penalty):
    # G by its definition, an integral, in 30 digits; 0 where even G(0) = 0.3989 is less than n penalty / 2h.
    expected = []
    with mpmath.workdps(30):
        for h in 0.5 * np.diff(np.sort(UNEVEN)):
            value = 5 * mpmath.mpf(penalty) / (2 * mpmath.mpf(h))
            # Its logarithm, nearly a parabola, for the secant method.
            g = lambda k, value=value: mpmath.log(  # noqa: E731
                mpmath.quad(lambda x: x * mpmath.npdf(x + k), [0, 2, 5, 15]) / value
            )
            capped = value >= 1 / mpmath.sqrt(2 * mpmath.pi)
            expected.append(0.0 if capped else float(mpmath.findroot(g, (1, 3))))
    # G is right to kappa^2 roundings, or 1e-14 kappa^2, and falls by a factor e within 1 / kappa: kappa to 1e-14 kappa.
    got = smoothing.kappa_for_penalty(UNEVEN, penalty)
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-15)
    assert (np.asarray(expected) == 0).tolist() == [False, *2 * [penalty == 0.03], False]


def test_kappa_for_a_penalty(x64):
    kappa = smoothing.kappa_for_penalty(UNEVEN, 1e-3)
    half = 0.5 * np.diff(np.sort(UNEVEN))
    close(half * smoothing.first_tail(kappa), np.full(4, 5e-3 / 2), 1e-10)
    # A penalty on another parametrisation, from R of what the network computes: R[a f] = a R[f].
    for name, scale, weight in (
        ("score", 1, 1),
        ("x0", 0.01, 1),
        ("x0", 0.01, 100),
        ("eps", 0.1, 1),
        ("v", 0.1 * np.sqrt(1.01), 1),
        ("velocity", 0.1 * 1.1, 1),
    ):
        # lam R[scale f] against L / weight is lam weight scale R[f] against L, and should be lam_eff sigma R[f].
        expected = 2e-3 * weight * scale / 0.1
        found = smoothing.effective_penalty(2e-3, 0.1, name, weighted=weight == 1)
        close(found, expected, 1e-12)


def test_effective_kappa_and_non_smoothness(x64):
    D, sigma = sj.PiecewiseLinearDenoiser(UNEVEN, KAPPAS), 0.1
    close(smoothing.effective_kappa(D, UNEVEN, sigma), KAPPAS, 1e-12)
    grid = np.linspace(-2, 2, 401) + 1e-4
    expected = smoothing.piecewise_linear_non_smoothness(UNEVEN, KAPPAS, sigma)
    close(smoothing.non_smoothness(D, grid, sigma), expected, 1e-12)
    exact = sj.EmpiricalDenoiser(POINTS["n2"][:, None])
    # 2 h^2 / sigma^4 for two points, and a slope 1 / cosh(h / sigma^2)^2 = 1 - tanh(...)^2 between.
    value = smoothing.non_smoothness(exact, np.linspace(-3, 3, 601), 0.3)
    close(value, 2 / 0.3**4, 1e-12)
    assert np.isnan(smoothing.effective_kappa(lambda u, s: -u, UNEVEN, sigma)).all()


def test_quantile_flow_is_the_exact_flow(x64):
    points = np.array([-1.0, -0.2, 1.0])
    u = np.array([-2.0, -0.9, -0.5, 0.1, 0.3, 1.4])
    exact = smoothing.quantile_flow(points, u, 1.0, 0.2)
    D = sj.EmpiricalDenoiser(points[:, None])
    ends = jax.vmap(lambda u: sj.flow(D, u[None], 1.0, 0.2, rtol=1e-10, atol=1e-12)[0])(
        jnp.array(u)
    )
    np.testing.assert_allclose(ends, exact, atol=1e-8)
    np.testing.assert_allclose(smoothing.quantile_flow(points, exact, 0.2, 1.0), u, atol=1e-12)
    ends = smoothing.quantile_flow(points, u, 1.0, 0.0)
    np.testing.assert_array_equal(ends, smoothing.quantile_flow(points, u, 1.0, 0.01).round(1))
    x = np.float32([-0.5, -0.1, 0.1, 0.4])
    ends = smoothing.quantile_flow(np.float32([-1, 1]), x, np.float32(0.15), 0.0)
    np.testing.assert_array_equal(ends, [-1, -1, 1, 1])


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.2), (0.2, 1.0), (0.15, 0.1)])
def test_quantile_flow_by_root_finding(dtype, start, end):
    # P_s(z) = P_r(u) in 60 digits: also in voids, where P is k/n to all digits of a float, and states must know their side
    # and how far they are from it.
    points, u = np.array([-1.0, -0.2, 1.0]), np.array([-2.0, -0.9, -0.5, 0.1, 0.3, 0.5, 1.4])
    points, u, start, end = (np.asarray(x, dtype) for x in (points, u, start, end))
    got = smoothing.quantile_flow(points, u, start, end)
    eps = float(jnp.finfo(dtype).eps)
    with mpmath.workdps(60):
        y, r, s = ([mpmath.mpf(float(v)) for v in np.ravel(x)] for x in (points, start, end))
        r, s = r[0], s[0]
        for x, z in zip(u, got, strict=True):
            x, at = mpmath.mpf(float(x)), mpmath.mpf(float(z))
            level = sum(mpmath.ncdf((x - v) / r) for v in y)
            gap = lambda z, level=level: sum(mpmath.ncdf((z - v) / s) for v in y) - level  # noqa: E731
            bracket = {"solver": "bisect", "maxsteps": 180, "tol": 1e-50, "verify": False}
            root = mpmath.findroot(gap, (at - 0.5, at + 0.5), **bracket)
            # Masses are measured as sums of tails, each right to 4 (1 + z^2) roundings at z standard deviations: four of its
            # own, and those of its argument. Over the density they are distances.
            lost = sum(
                4 * (1 + score**2) * mpmath.ncdf(-abs(score))
                for score in [(x - v) / r for v in y] + [(root - v) / s for v in y]
            )
            density = sum(mpmath.npdf((root - v) / s) for v in y) / s
            assert abs(at - root) <= eps * (lost / density + 4 * abs(root)), (x, at, root)


def test_spread_along_a_line(x64):
    curves = REFERENCE["curves_d2_n4_t0_0.02"]
    levels, start = np.sqrt(curves["s"]), 0.02**0.5
    exact = smoothing.line_spread(POINTS["n4"], None, start, levels)
    close(exact.tangent, curves["tangent_dist2_esf"], 1e-10)
    close(exact.normal, curves["normal_var"], 1e-12)
    for kappa, expected in curves["spl"].items():
        spread = smoothing.line_spread(POINTS["n4"], float(kappa), start, levels)
        close(spread.tangent, expected["tangent_dist2"], 1e-10)
        law = lambda s, k=float(kappa): smoothing.PiecewiseLinearLaw(POINTS["n4"], k, start, s)  # noqa: E731
        close([law(s).variance() for s in levels], expected["tangent_total_var"], 1e-10)
    # The directions normal to a line in R^3, by simulation of the flow.
    D = sj.LineDenoiser(sj.PiecewiseLinearDenoiser(UNEVEN, 0.5), [1.0, 2.0, -1.0])
    rng = np.random.default_rng(0)
    starts = rng.choice(UNEVEN, 4000)[:, None] * np.asarray(
        D.direction
    ) + 0.1 * rng.standard_normal((4000, 3))
    ends = jax.jit(jax.vmap(lambda u: sj.flow(D, u, 0.1, 0.02, rtol=1e-5)))(jnp.asarray(starts))
    tau, normal = jax.vmap(D.decompose)(ends)
    spread = smoothing.line_spread(UNEVEN, 0.5, 0.1, np.array([0.02]))
    square = np.sum(np.asarray(normal) ** 2, axis=1) / 2
    assert abs(square.mean() - float(spread.normal[0])) < 4 * square.std() / np.sqrt(4000)
    square = np.min(np.abs(np.asarray(tau)[:, None] - UNEVEN), axis=1) ** 2
    assert abs(square.mean() - float(spread.tangent[0])) < 4 * square.std() / np.sqrt(4000)
    with pytest.raises(ValueError, match="between 0 and `sigma_from`"):
        smoothing.line_spread(UNEVEN, 0.5, 0.1, [0.2])


def test_limits(dtype):
    points = jnp.asarray(UNEVEN, dtype)
    x = jnp.linspace(-1.4, 1.6, 31, dtype=dtype)
    eps = float(jnp.finfo(dtype).eps)
    nearest = UNEVEN[np.argmin(np.abs(np.asarray(x)[:, None] - UNEVEN), axis=1)]
    unsmoothed = denoise(sj.PiecewiseLinearDenoiser(points, np.inf), x, 0.01)
    np.testing.assert_allclose(unsmoothed, nearest, atol=4 * eps)
    full = denoise(sj.PiecewiseLinearDenoiser(points, 0.0), x, 0.3)
    np.testing.assert_allclose(full, np.clip(x, -1.0, 1.3), atol=4 * eps)
    single = sj.PiecewiseLinearDenoiser(points[:1], 0.5)
    np.testing.assert_array_equal(denoise(single, x, 0.3), np.full(31, np.asarray(points)[0]))
    law = smoothing.PiecewiseLinearLaw(points[:1], 0.5, 0.3, 0.1)
    np.testing.assert_allclose([law.mean(), law.variance()], [0.4, 0.01], rtol=20 * eps)
    np.testing.assert_allclose(law.plateau_masses(), [1.0], rtol=4 * eps)
    assert law.variance().dtype == unsmoothed.dtype == dtype


def test_float32_down_to_small_noise(x64):
    # D to two roundings of a number of size one; a score (D - x) / sigma^2 and a slope in the gap of 1 / (1 - delta) then
    # follow. At t = 1e-6 and 0.7 sigma from a datum that is 2 eps / (0.7 sigma) = 2e-4 relative.
    for t in (1e-2, 1e-4, 1e-6):
        sigma, eps = t**0.5, float(jnp.finfo(jnp.float32).eps)
        x = np.float32([1 - 0.7 * sigma, 1 - 3 * sigma, 0.3, -1 + 2 * sigma, 1 + 0.7 * sigma])
        D = sj.PiecewiseLinearDenoiser(np.float64([-1, 1]), 0.5)
        single = sj.PiecewiseLinearDenoiser(np.float32([-1, 1]), np.float32(0.5))
        exact = denoise(D, x.astype(np.float64), float(np.float32(sigma)))
        got = denoise(single, x, np.float32(sigma))
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, exact, rtol=0, atol=2 * eps)
        level = np.float32(sigma)
        score = jax.vmap(lambda x, D=single, s=level: sj.score(D, x[None], s)[0])(x)
        expected = (np.asarray(exact) - x) / np.float32(sigma).astype(float) ** 2
        np.testing.assert_allclose(score, expected, rtol=1e-5, atol=2 * eps / t)
        ends = sj.piecewise_linear_flow(np.float32([-1, 1]), 0.5, x, np.float32(sigma), 0.0)
        np.testing.assert_allclose(ends, exact, rtol=0, atol=2 * eps)


def test_bad_input():
    build = sj.PiecewiseLinearDenoiser
    with pytest.raises(ValueError, match=r"distinct, or gaps have no width; 0\.5 occurs twice"):
        build([0.5, 1.0, 0.5], 1.0)
    with pytest.raises(ValueError, match=r"shape \(2,\); got \(3,\)"):
        build([0.0, 1.0, 2.0], [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="must not be negative"):
        build([0.0, 1.0], -1.0)
    with pytest.raises(ValueError, match="on a line"):
        build(np.zeros((3, 2)), 1.0)
    with pytest.raises(ValueError, match="finite"):
        build([0.0, np.nan], 1.0)
    with pytest.raises(ValueError, match="positive"):
        sj.piecewise_linear_flow([0.0, 1.0], 1.0, 0.3, 0.0, 0.0)
    with pytest.raises(ValueError, match="ascending"):
        smoothing.non_smoothness(lambda u, s: u, np.zeros(3), 0.1)
    with pytest.raises(ValueError, match="must be one of"):
        smoothing.effective_penalty(0.1, 0.1, "flow")


def test_strengths_are_differentiable(x64):
    """By the inverse function: `G' = -Q`, `F' = -2 G`, and for two points `F(kappa) = loss`."""
    points = jnp.array([-1.0, 1.0])
    for value in (0.05, 0.2):
        kappa = smoothing.inverse_first_tail(value)
        slope = jax.grad(smoothing.inverse_first_tail)(value)
        np.testing.assert_allclose(slope, -1 / scipy.stats.norm.sf(kappa), rtol=1e-10)
        kappa = smoothing.inverse_second_tail(value)
        expected = -1 / (2 * smoothing.first_tail(kappa))
        np.testing.assert_allclose(
            jax.grad(smoothing.inverse_second_tail)(value), expected, rtol=1e-10
        )
        slope = jax.grad(lambda loss: smoothing.kappa_for_loss(points, loss)[0])(value)
        np.testing.assert_allclose(slope, expected, rtol=1e-8)
    slope = jax.grad(lambda p: smoothing.kappa_for_penalty(points, p)[0])(0.05)
    kappa = smoothing.inverse_first_tail(0.05)
    np.testing.assert_allclose(slope, -1 / scipy.stats.norm.sf(kappa), rtol=1e-10)
    assert smoothing.inverse_first_tail(0.5) == 0 and np.isnan(smoothing.inverse_first_tail(np.nan))
    # Closed gaps cost nothing at this order.
    assert smoothing.small_noise_loss(points, np.inf, 0.1) == 0
    assert smoothing.small_noise_loss(points, 10.0, 0.1) == 0
