"""The smoothest score against a minimiser with three parameters, the conditions of optimality, and Proposition 1."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats

from smoothjax import experiments, plots, smoothing
from smoothjax.smoothing import _variational

pytest.importorskip("cvxpy")

TWO = np.array([-1.0, 1.0])
UNEVEN = np.array([1.0, -1.0, -0.2])
LOSSES = (0.1, 0.03, 0.01)
VARIANCES = (1e-2, 1e-3, 1e-4, 1e-5)
# Of the grid, in noise levels, if not told otherwise.
STEP = 0.02
# What the solver leaves, for numbers of size one: a tolerance of 1e-8 on each of a few constraints that matter.
SOLVER = 1e-6


def nodes(edges):
    """Gauss-Legendre with 10 nodes on each of 150 equal parts between neighbouring edges."""
    parts = [np.linspace(a, b, 151) for a, b in itertools.pairwise(edges)]
    parts = np.unique(np.concatenate(parts))
    x, w = np.polynomial.legendre.leggauss(10)
    half = 0.5 * np.diff(parts)
    return (parts[:-1] + half + half * x[:, None]).ravel(), (half * w[:, None]).ravel()


class Minimum(NamedTuple):
    variation: float  # R sigma^2 / 2
    loss: float
    kink: float  # distance from the point, noise levels
    slope: float  # a
    middle: float  # slope between the points
    kappa: float  # effective
    price: float  # -d variation / d loss
    grid_loss: float  # the most that kinks at nodes of a grid with step 1 cost

    def costs(self, step=STEP):
        return self.grid_loss * step**2


def three_parameters(sigma, *, loss=None, penalty=None):
    """Points -1, 1: odd scores with `sigma s = b - a u` right of a kink at `u = (x - 1) / sigma = -kink`, and straight from
    there through the middle. Given the kink the loss is quadratic in (a, b), and the variation `a + middle slope` linear."""
    h = 1 / sigma

    def fit(kink):
        u, w = nodes([-min(h, 9.0), -kink, 9.0])
        ramp = (h + u) / (h - kink)
        basis = np.where(u > -kink, [-u, np.ones_like(u)], [kink * ramp, ramp])
        exact = h * np.tanh(h * (h + u)) - h - u
        # Both halves of the line are alike.
        w = w * (scipy.stats.norm.pdf(u) + scipy.stats.norm.pdf(u + 2 * h))
        M, m, k = (basis * w) @ basis.T, (basis * w) @ exact, np.sum(w * exact**2)
        c = np.array([h, 1.0]) / (h - kink)
        direction, least = np.linalg.solve(M, c), np.linalg.solve(M, m)
        floor, length = k - m @ least, c @ direction
        spent = np.sqrt(max((loss or 0) - floor, 0) / length)
        multiplier = spent if penalty is None else penalty / sigma
        a, b = least - multiplier * direction
        variation, value = c @ (a, b), floor + multiplier**2 * length
        objective = value + 2 * multiplier * variation
        if penalty is None:
            objective = variation if floor < loss else np.inf
        return objective, (a, b, variation, value, multiplier)

    best = scipy.optimize.minimize_scalar(
        lambda kink: fit(kink)[0], bounds=(0.3, 6.0), method="bounded", options={"xatol": 1e-9}
    )
    kink, (a, b, variation, value, multiplier) = best.x, fit(best.x)[1]
    middle = (b + a * kink) / (h - kink)
    # A kink that is moved to the two nodes around adds a triangle one cell wide, at most (strength step / 4) high. The loss
    # feels it, at either kink, by twice its integral with the law and the error there, of which the law changes by 20 % over
    # the largest cell used; its square is a hundredth of that.
    error, law = abs(b - (1 - a) * kink), 0.5 * scipy.stats.norm.pdf(kink)
    grid_loss = 1.2 * 2 * 2 * law * error * (a + middle) / 8
    kappa = h * middle / (1 + middle)
    return Minimum(variation, value, kink, a, middle, kappa, 0.5 / multiplier, grid_loss)


def agrees(best, expected, sigma, step=STEP):
    """Kinks, slopes and strength of a minimiser for two points with the one of three parameters."""
    assert len(best.kinks) == 2
    # Where a kink lies between two nodes, both carry it; else the nearer.
    np.testing.assert_allclose(
        best.kinks, np.array([-1, 1]) * (1 - sigma * expected.kink), atol=step * sigma
    )
    # The objective exceeds the least by no less than the mean square distance of the scores: L is a square. Around
    # the points, within at least one noise level, a slope that is off by d costs d^2 / 2.
    atol = (2 * (expected.costs(step) + SOLVER)) ** 0.5
    np.testing.assert_allclose(best.slopes, -expected.slope, atol=atol)
    # The two kinks make the whole of R.
    strengths = best.strengths * sigma**2
    np.testing.assert_allclose(strengths.sum(), 0, atol=SOLVER)
    np.testing.assert_allclose(
        np.abs(strengths).sum(), best.non_smoothness * sigma**2, rtol=0, atol=SOLVER
    )
    # The straight part moves with the kink, by as much times its slope there, less than one.
    np.testing.assert_allclose(best.kappas, expected.kappa, atol=step)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("loss", LOSSES)
def test_proposition_1(loss, variance):
    sigma = variance**0.5
    best = smoothing.smoothest_score(TWO, loss, sigma)
    np.testing.assert_allclose(best.loss, loss, rtol=SOLVER)
    kappa = float(smoothing.kappa_for_loss(TWO, loss, sigma)[0])
    # What the loss of the smoother is: two tails of the normal law, by SciPy.
    tail = scipy.integrate.quad(lambda u: (u - kappa) ** 2 * scipy.stats.norm.pdf(u), kappa, 40)[0]
    # Float32, where JAX has no more, is good to 1e-5.
    np.testing.assert_allclose(tail / (1 - kappa * sigma) ** 2, loss, rtol=1e-5)
    ratio = 2 / (variance * (1 - kappa * sigma)) / best.non_smoothness
    # That kinks must lie on the grid makes the ratio smaller, by 1e-5; it is 1.03 or more.
    assert 1.02 < ratio < 1 + 8 * loss**0.5
    expected = three_parameters(sigma, loss=loss)
    # The grid's score is admissible: not below the least, and above by what its kinks cost, at the price of loss.
    excess = best.non_smoothness * variance / 2 - expected.variation
    assert -SOLVER < excess < expected.price * expected.costs() + SOLVER
    agrees(best, expected, sigma)


def test_limit_of_small_noise():
    # A lower bound: by Stein's identity the mean of `sigma^2 s'` under the noise of either point is that of `u sigma s`,
    # which by Cauchy and Schwarz is at most -(1 - sqrt(loss)). The means of `sigma s` there are at most sqrt(loss), so that
    # its mean slope between is at least -sigma sqrt(loss). The slope thus rises by as much as these differ, and falls again.
    # An upper bound: what the limit leaves out is the slope between the points, at most sigma times the kinks' distance,
    # which is less than four.
    for loss in LOSSES:
        values = []
        for variance in VARIANCES:
            best = smoothing.smoothest_score(TWO, loss, variance**0.5)
            values.append(best.non_smoothness * variance / 2 - (1 - loss**0.5))
        assert np.all(np.diff(values) < 0)
        sigma = 1e-5**0.5
        assert -sigma * loss**0.5 < values[-1] < 4 * sigma


@pytest.mark.parametrize("step", [0.08, 0.04, 0.01])
def test_refining_the_grid(step):
    for loss, sigma in ((0.1, 0.1), (0.01, 0.01)):
        best = smoothing.smoothest_score(TWO, loss, sigma, step=step)
        expected = three_parameters(sigma, loss=loss)
        excess = best.non_smoothness * sigma**2 / 2 - expected.variation
        assert -SOLVER < excess < expected.price * expected.costs(step) + SOLVER
        agrees(best, expected, sigma, step)


@pytest.mark.parametrize(
    ("variance", "kappa", "kink"),
    # Computed on another grid, of step 0.04, where kinks and what follows from them are as uncertain.
    [(0.02, 2.675, 2.687), (0.005, 2.701, 2.733), (0.001, 2.701, 2.784), (1e-4, 2.630, 2.920)],
)
def test_penalty(variance, kappa, kink):
    penalty, sigma = 1e-3, variance**0.5
    best = smoothing.penalised_score(TWO, penalty, sigma)
    expected = three_parameters(sigma, penalty=penalty)
    value = best.loss + penalty * sigma * best.non_smoothness
    least = expected.loss + 2 * penalty / sigma * expected.variation
    assert -SOLVER < value - least < expected.costs() + SOLVER
    agrees(best, expected, sigma)
    np.testing.assert_allclose(best.kappas, kappa, atol=0.04)
    np.testing.assert_allclose((1 - best.kinks[-1]) / sigma, kink, atol=0.04)
    # Leading orders: kappa to 4 % from variances of 100 penalty^2 on, the slope to 2e-3. The kink lies farther out.
    np.testing.assert_allclose(best.kappas, smoothing.kappa_for_penalty(TWO, penalty), rtol=0.04)
    np.testing.assert_allclose(best.slopes, -(1 - penalty / sigma), atol=2e-3)
    assert np.all((1 - best.kinks[-1]) / sigma > best.kappas)


def test_a_penalty_that_is_too_large():
    best = smoothing.penalised_score(TWO, 0.03, 0.03)
    # The best straight line, -u / (1 + sigma^2): the regression on u of what is left of it.
    np.testing.assert_allclose(best.slopes, -(0.03**2) / (1 + 0.03**2), atol=SOLVER)
    np.testing.assert_allclose(best.loss, 1 / (1 + 0.03**2), atol=SOLVER)
    assert len(best.kinks) == len(best.strengths) == 0
    assert np.isnan(best.kappas).all()


def law_and_error(best, x):
    """Density at x, in noise levels, and `sigma` times how far the score is from the exact one."""
    offsets = best.points / best.sigma - x[:, None]
    exact = np.sum(scipy.special.softmax(-0.5 * offsets**2, axis=1) * offsets, axis=1)
    law = np.mean(scipy.stats.norm.pdf(offsets), axis=1)
    return law, best.sigma * best(best.sigma * x) - exact


def is_optimal(best, price=None):
    """The first-order conditions of `L + price TV`, which a convex problem's minimisers alone fulfil, in noise levels.

    The derivative of the loss towards a bend at x, `psi(x) = 2 E (u - x)_+ (g - g_exact)`, is nowhere larger than the price,
    and minus or plus the price at every bend, upwards or downwards; towards straight lines it vanishes.
    """
    dx = 2e-3
    x = np.arange(best.points[0] / best.sigma - 9, best.points[-1] / best.sigma + 9, dx)
    law, error = law_and_error(best, x)
    # Trapezoids: the square of the step, over 12, times what the integrand's second derivative is relative to it.
    np.testing.assert_allclose(np.sum(law * error**2) * dx, best.loss, rtol=1e-5)

    def beyond(f):
        return scipy.integrate.cumulative_trapezoid(f[::-1], dx=dx, initial=0)[::-1]

    density = 2 * law * error
    psi = beyond(beyond(density))
    at_kinks = np.interp(best.kinks / best.sigma, x, psi)
    if price is None:
        price = np.mean(np.abs(at_kinks))
    # The conditions hold at the nodes of the grid, to ten times the solver's tolerance. In between psi is off by what its
    # second derivative, the density, allows.
    atol = np.max(np.abs(density)) * STEP**2 / 8 + 1e-7
    assert np.max(np.abs(psi)) < price + atol
    np.testing.assert_allclose(at_kinks, -price * np.sign(best.strengths), atol=atol)
    np.testing.assert_allclose(beyond(density)[0], 0, atol=atol)
    np.testing.assert_allclose(psi[0], 0, atol=atol)
    assert len(best.kinks) >= 2


def test_loss_has_no_discretisation_error():
    # Cells that are wider than the exact score's bend, of size sigma^2 / h: what they cannot follow counts.
    best = smoothing.penalised_score(TWO, 1e-4, 0.3, step=0.7)
    x, w = nodes(best.u / best.sigma)
    law, error = law_and_error(best, x)
    np.testing.assert_allclose(best.loss, np.sum(w * law * error**2), rtol=1e-9)
    constrained = smoothing.smoothest_score(TWO, 2 * best.loss, 0.3, step=0.7)
    np.testing.assert_allclose(constrained.loss, 2 * best.loss, rtol=SOLVER)
    # R is that of the function that is returned.
    slope = np.diff(best.score) / np.diff(best.u)
    np.testing.assert_allclose(best.non_smoothness, np.sum(np.abs(np.diff(slope))), rtol=1e-12)


@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.3])
def test_uneven_points(sigma):
    best = smoothing.penalised_score(UNEVEN, 2e-3 * sigma**0.5, sigma)
    is_optimal(best, 2e-3 * sigma**0.5 / sigma)
    np.testing.assert_array_equal(best.points, np.sort(UNEVEN))
    loss = 0.03
    best = smoothing.smoothest_score(UNEVEN[:, None], loss, sigma)
    np.testing.assert_allclose(best.loss, loss, rtol=SOLVER)
    is_optimal(best)


def test_uneven_points_at_small_noise():
    penalty, sigma = 1e-3, 1e-3**0.5
    best = smoothing.penalised_score(UNEVEN, penalty, sigma)
    # Leading orders; the middle point is pulled at from both sides. The next order of the slopes is the square of this pull,
    # and that of kappa the slope in the gaps, here 0.1, times kappa's weak dependence on the penalty.
    np.testing.assert_allclose(best.kappas, smoothing.kappa_for_penalty(UNEVEN, penalty), rtol=0.03)
    pull = 3 * penalty / (2 * sigma)
    np.testing.assert_allclose(
        -best.slopes, 1 - pull * np.array([1, 2, 1]), atol=2 * (2 * pull) ** 2
    )
    assert np.all(np.sign(best.strengths) == [1, -1, 1, -1])
    # No score of the piecewise-linear family with that loss is as smooth.
    loss = smoothing.small_noise_loss(UNEVEN, smoothing.kappa_for_loss(UNEVEN, 0.05, 0.01), 0.01)
    np.testing.assert_allclose(loss, 0.05, rtol=1e-5)
    R = smoothing.piecewise_linear_non_smoothness(
        UNEVEN, smoothing.kappa_for_loss(UNEVEN, 0.05, 0.01), 0.01
    )
    assert smoothing.smoothest_score(UNEVEN, 0.05, 0.01).non_smoothness < R


def test_large_noise():
    is_optimal(smoothing.smoothest_score(TWO, 1e-3, 1.0))
    is_optimal(smoothing.penalised_score(TWO, 1e-3, 1.0), 1e-3)


def test_units_and_places():
    # Points that are moved and stretched by c: scores and slopes over c, c^2, losses as they were.
    one = smoothing.smoothest_score(UNEVEN, 0.05, 0.1)
    two = smoothing.smoothest_score(100 + 50 * UNEVEN, 0.05, 5.0)
    np.testing.assert_allclose(two.non_smoothness * 2500, one.non_smoothness, rtol=2 * SOLVER)
    np.testing.assert_allclose((two.kinks - 100) / 50, one.kinks, atol=0.1 * STEP)
    # A continuous function through its nodes, straight beyond.
    np.testing.assert_allclose(one(one.u), one.score, rtol=0, atol=1e-12 * np.ptp(one.score))
    u = np.array([[-9.0, -8.0, -7.0], [7.0, 8.0, 9.0]])
    assert one(u).shape == (2, 3)
    np.testing.assert_allclose(np.diff(one(u), 2), 0, atol=1e-10 * np.ptp(one(u)))
    assert one.u[0] < -1 - 7 * 0.1
    np.testing.assert_allclose(one(-0.9), np.interp(-0.9, one.u, one.score), rtol=1e-12)


def test_experiment(tmp_path):
    pytest.importorskip("xarray")
    run = lambda: experiments.optimality(  # noqa: E731
        losses=(0.1, 0.01), variances=(1e-2, 1e-3, 1e-4), out=str(tmp_path), progress=False
    )
    results = run()
    assert run().identical(results)
    assert np.all((results.ratio > 1.02) & (results.ratio < results.bound))
    # The ratio rises to its limit, from which the slope between the points keeps it: at most four noise levels, relative to
    # what R sigma^2 / 2 tends to.
    short = ((results.limit - results.ratio) / results.limit**2).values
    assert np.all(short > 0) and np.all(np.diff(short, axis=1) < 0)
    assert np.all(short[:, -1] < 4 * 1e-4**0.5)
    for loss in (0.1, 0.01):
        for variance in (1e-2, 1e-3, 1e-4):
            one = results.sel(loss=loss, variance=variance)
            expected = three_parameters(variance**0.5, loss=loss)
            kappa = scipy.optimize.brentq(
                lambda k, s=variance**0.5, loss=loss: (
                    ((1 + k**2) * scipy.stats.norm.sf(k) - k * scipy.stats.norm.pdf(k))
                    - loss * (1 - k * s) ** 2
                ),
                0,
                5,
            )
            ratio = 1 / (1 - kappa * variance**0.5) / expected.variation
            # The grid's cost is 1e-5, and float32 is as good.
            np.testing.assert_allclose(one.ratio, ratio, rtol=5e-5)
            np.testing.assert_allclose(one.kappa, kappa, rtol=1e-5)
            np.testing.assert_allclose(one.kink, expected.kink, atol=STEP)
            assert one.num_kinks == 2
            # Both scores are what their parameters say, on either side of the kink.
            near = results.offset > -0.8
            smoother = one.piecewise_linear_score[near]
            np.testing.assert_allclose(smoother, -results.offset[near], atol=1e-9)
            np.testing.assert_allclose(one.exact_score[near], -results.offset[near], atol=1e-9)
            slopes = np.diff(one.optimal_score[near]) / np.diff(results.offset[near])
            np.testing.assert_allclose(slopes, -expected.slope, atol=2 * expected.costs() ** 0.5)
            np.testing.assert_allclose(one.slope, -expected.slope, atol=2 * expected.costs() ** 0.5)
            turns = np.abs(np.diff(one.optimal_score.values, 2))
            at = float(results.offset[1 + np.argmax(turns)])
            np.testing.assert_allclose(at, -one.kink, atol=0.05)
    # The figure is drawn from the labelled results alone.
    plots.plot_experiment("optimality", results).savefig(tmp_path / "figure.png")


def test_bad_input(monkeypatch):
    with pytest.raises(ValueError, match="at least two"):
        smoothing.smoothest_score([0.3], 0.1, 0.1)
    with pytest.raises(ValueError, match="distinct"):
        smoothing.penalised_score([0.3, 0.3], 0.1, 0.1)
    for bad in (0.0, -0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="`loss` must be positive"):
            smoothing.smoothest_score(TWO, bad, 0.1)
        with pytest.raises(ValueError, match="`penalty` must be positive"):
            smoothing.penalised_score(TWO, bad, 0.1)
        with pytest.raises(ValueError, match="`sigma` must be positive"):
            smoothing.penalised_score(TWO, 0.1, bad)
    with pytest.raises(ValueError, match="must be a scalar"):
        smoothing.smoothest_score(TWO, [0.1, 0.2], 0.1)
    # The best line, -x / (1 + sigma^2), leaves 1 / (1 + sigma^2).
    with pytest.raises(ValueError, match=r"less than 0\.990099, that of the best straight line"):
        smoothing.smoothest_score(TWO, 1.0, 0.1)
    with pytest.raises(ValueError, match="too small"):
        smoothing.smoothest_score(TWO, 1e-12, 0.3)
    with pytest.raises(ValueError, match="at most one noise level"):
        smoothing.smoothest_score(TWO, 0.1, 0.1, step=2.0)
    monkeypatch.setattr(_variational, "_TOLERANCE", 1e-30)
    with pytest.raises(RuntimeError, match="stopped short"):
        smoothing.penalised_score(TWO, 1e-3, 0.1)
