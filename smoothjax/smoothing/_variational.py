"""The smoothest score of a given loss, and the best one where roughness has a price: convex problems, solved on a grid."""

import dataclasses
import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._checks import RealScalar, as_host_floats, import_optional, require_positive
from .._kinds import checks_kinds
from .._line import as_gaps

# In noise levels: how far from a point the grid is fine. The law has 1e-15 of its mass beyond.
_REACH = 8.0
# Of a cell to the one before, farther out.
_GROWTH = 1.15
# Of the solver, relative, for numbers of size one.
_TOLERANCE = 1e-8
_TOO_SMALL = "`loss` is too small for scores that bend at the nodes of the grid only; choose a smaller `step`."


@dataclasses.dataclass(frozen=True, eq=False)
class SmoothestScore:
    """A piecewise-linear score at one noise level that solves a variational problem; arrays are NumPy's, in float64.

    Call it with states of any shape for the score there. `R` counts in inverse squared data units, as slopes of the score.

    Attributes:
        points: training points in ascending order, shape (n,).
        sigma: noise level.
        u: grid in data units, shape (m,). The score continues straight beyond its ends.
        score: on the grid, shape (m,), in inverse data units.
        loss: `L = sigma^2 E |s - s_exact|^2` of this score, by quadrature that is exact but for rounding; dimensionless.
        non_smoothness: `R = integral |s''|` of this score.
        kinks: where it bends, in ascending order, shape (k,). A bend at neighbouring nodes of the grid stands for one
            between them, and is put at their centre of mass.
        strengths: by how much its slope rises at each kink (negative: falls), shape (k,).
        slopes: `sigma^2 s'` at the training points, shape (n,). The exact score's tends to -1 as `sigma -> 0`.
        kappas: effective smoothing strength in every gap, read off the slope in its middle as by `effective_kappa`, shape
            (n - 1,); NaN where that slope is not positive.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> found = sj.smoothing.smoothest_score(jnp.array([-1.0, 1.0]), 0.1, 0.1, step=0.1)
        >>> len(found.kinks), bool(abs(found(0.0)) < 1e-3)  # one on the inner side of each point
        (2, True)
    """

    points: np.ndarray
    sigma: float
    u: np.ndarray
    score: np.ndarray
    loss: float
    non_smoothness: float
    kinks: np.ndarray
    strengths: np.ndarray
    slopes: np.ndarray
    kappas: np.ndarray

    def __call__(self, u: Any) -> np.ndarray | np.floating:
        """The score at states of any shape, in inverse data units."""
        u = as_host_floats(u, "u", np.float64)
        cell = np.clip(np.searchsorted(self.u, u) - 1, 0, len(self.u) - 2)
        slope = (np.diff(self.score) / np.diff(self.u))[cell]
        return self.score[cell] + slope * (u - self.u[cell])


@checks_kinds
def smoothest_score(
    points: Any, loss: RealScalar, sigma: RealScalar, *, step: float = 0.02
) -> SmoothestScore:
    """The score of least non-smoothness `R` among all whose loss `L` is at most `loss`, for points on a line.

    What the piecewise-linear smoother is compared with. Between two points the minimiser at small noise levels bends once
    on the inner side of each, like the smoother, but is not the same: around the points its slope is flatter than the
    exact score's, nearly `1 - sqrt(loss)` of it, and its kinks lie farther out. As `sigma -> 0` at a fixed loss the slope
    tends to that share, the kinks' distance in noise levels grows without limit, if slowly, and the smoother's `R` tends
    to `1 / (1 - sqrt(loss))` times the least.

    Args:
        points: distinct training points, shape (n,), n >= 2, in any order.
        loss: positive, less than that of the best straight line.
        sigma: noise level, data units.
        step: of the grid near the points, in noise levels.

    Raises:
        ValueError: for points, loss or noise level out of range, or a loss that no score on the grid attains.
        RuntimeError: where the solver fails.
        ImportError: without cvxpy (`pip install 'smoothjax[experiments]'`).

    **Accuracy**: the result's `loss` and `non_smoothness` are its own, without discretisation error; the solver lets the
    first exceed `loss` by 1e-6 of it at most. The second exceeds the least since kinks must lie at nodes: by `O(step^2)`,
    some 1e-5 of it for losses from 0.01 to 0.1. Kinks are right to a step.

    Source: Chen, ICLR 2026, the variational problem of Proposition 1, with `t = sigma^2`.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> points = jnp.array([-1.0, 1.0])
        >>> found = sj.smoothing.smoothest_score(points, 0.1, 0.1, step=0.1)
        >>> kappa = sj.smoothing.kappa_for_loss(points, 0.1, 0.1)
        >>> bool(found.non_smoothness < sj.smoothing.piecewise_linear_non_smoothness(points, kappa, 0.1))
        True
    """
    problem = _discretise(points, sigma, step)
    loss = _positive(loss, "loss")
    straight = _loss_of_best_line(problem)
    if not loss < straight:
        raise ValueError(
            f"`loss` must be less than {straight:.6g}, that of the best straight line, whose non-smoothness is 0; "
            f"got {loss:.6g}."
        )
    if loss <= problem.floor:
        raise ValueError(_TOO_SMALL)
    cvxpy = import_optional("cvxpy")
    unit = (loss - problem.floor) ** 0.5

    def program(residuals: Any, variation: Any) -> tuple[Any, list[Any]]:
        return variation, [cvxpy.norm(residuals / unit) <= 1]

    return _solve(cvxpy, problem, program)


@checks_kinds
def penalised_score(
    points: Any, penalty: RealScalar, sigma: RealScalar, *, step: float = 0.02
) -> SmoothestScore:
    """The score that minimises `L + penalty sigma R` for points on a line: what a penalty on a network's weights asks for.

    That is, of a wide two-layer ReLU network `sigma * score` with `(penalty / 2) |weights|^2` in its loss; for other
    parametrisations see `effective_penalty`. The effective strengths of the result tend to `kappa_for_penalty` where
    the penalty is well below the noise level, and its kinks lie farther from the points than these. It is a straight line
    where the penalty is too large.

    Args:
        points: distinct training points, shape (n,), n >= 2, in any order.
        penalty: positive, data units.
        sigma: noise level, data units.
        step: of the grid near the points, in noise levels.

    Raises:
        ValueError: for points, penalty or noise level out of range.
        RuntimeError: where the solver fails.
        ImportError: without cvxpy (`pip install 'smoothjax[experiments]'`).

    **Accuracy**: as of `smoothest_score`, for `L + penalty sigma R`.

    Source: Chen, ICLR 2026, section 6 (regularised networks), in function space by Savarese et al. 2019.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> found = sj.smoothing.penalised_score(jnp.array([-1.0, 1.0]), 1e4, 0.1, step=0.1)
        >>> found.non_smoothness < 1e-3  # a straight line
        True
    """
    problem = _discretise(points, sigma, step)
    # R = variation / sigma^2.
    price = _positive(penalty, "penalty") / problem.sigma
    cvxpy = import_optional("cvxpy")

    def program(residuals: Any, variation: Any) -> tuple[Any, list[Any]]:
        return cvxpy.sum_squares(residuals) + price * variation, []

    return _solve(cvxpy, problem, program)


class _Discretised(NamedTuple):
    """The loss of functions that are linear between nodes: `|matrix @ g - target|^2 + floor`, g = sigma s at the nodes."""

    points: np.ndarray
    sigma: float
    centre: float
    x: np.ndarray  # nodes, in noise levels from the centre
    at_points: np.ndarray  # indices of the training points
    at_middles: np.ndarray  # and of the middles of the gaps
    matrix: Any
    target: np.ndarray
    floor: float  # what the exact score's bends between nodes cost

    def loss(self, g: np.ndarray) -> float:
        return float(np.sum((self.matrix @ g - self.target) ** 2)) + self.floor


def _discretise(points: Any, sigma: RealScalar, step: float) -> _Discretised:
    as_gaps(points, 0.0)  # raises what is wrong with them
    points = np.sort(as_host_floats(points, "points", np.float64).ravel())
    if len(points) < 2:
        raise ValueError("`points` must be at least two: one has no gap to smooth.")
    sigma = _positive(sigma, "sigma")
    if not 0 < step <= 1:
        raise ValueError(f"`step` must be positive and at most one noise level; got {step}.")
    centre = 0.5 * (points[0] + points[-1])
    data = (points - centre) / sigma
    end = _offsets(_REACH, step)
    parts, at_points, at_middles = [data[0] - end[:0:-1]], [len(end) - 1], []
    for left, right in itertools.pairwise(data):
        offsets = _offsets(0.5 * (right - left), step)
        parts += [left + offsets, right - offsets[-2:0:-1]]
        at_middles.append(at_points[-1] + len(offsets) - 1)
        at_points.append(at_middles[-1] + len(offsets) - 1)
    x = np.concatenate([*parts, data[-1] + end])
    matrix, target, floor = _least_squares(data, x)
    return _Discretised(
        points, sigma, centre, x, np.array(at_points), np.array(at_middles), matrix, target, floor
    )


def _offsets(reach: float, step: float) -> np.ndarray:
    """Nodes from 0 to `reach`: equally spaced at first, then ever farther apart."""
    fine = min(reach, _REACH)
    offsets = np.linspace(0, fine, max(int(np.ceil(fine / step)), 2) + 1)
    if reach == fine:
        return offsets
    cells = int(np.ceil(np.log1p((reach - fine) * (_GROWTH - 1) / step) / np.log(_GROWTH)))
    growing = np.cumsum(_GROWTH ** np.arange(cells))
    return np.concatenate([offsets, fine + (reach - fine) * growing / growing[-1]])


def _least_squares(data: np.ndarray, x: np.ndarray) -> tuple[Any, np.ndarray, float]:
    """The loss as a sum of squares: Gauss-Legendre in every cell, reduced to a triangular factor and a remainder."""
    sparse = import_optional("scipy.sparse")
    nodes, weights = np.polynomial.legendre.leggauss(16)
    share, width = 0.5 * (1 + nodes), np.diff(x)[:, None]
    law, exact = _exact(data, x[:-1, None] + share * width)
    rows = np.stack(np.broadcast_arrays(1 - share, share, exact), axis=-1)
    triangle: Any = np.linalg.qr(rows * np.sqrt(0.5 * width * weights * law)[..., None], mode="r")
    shape = (len(x) - 1, len(x))
    upper = sparse.diags_array([triangle[:, 0, 0], triangle[:, 0, 1]], offsets=[0, 1], shape=shape)
    lower = sparse.diags_array([triangle[:, 1, 1]], offsets=[1], shape=shape)
    matrix = sparse.vstack([upper, lower], format="csr")
    target = np.concatenate([triangle[:, 0, 2], triangle[:, 1, 2]])
    return matrix, target, float(np.sum(triangle[:, 2, 2] ** 2))


def _exact(data: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Density of the noisy points, and their exact score, in noise levels."""
    offsets = data - x[..., None]
    least = np.min(offsets**2, axis=-1)
    each = np.exp(-0.5 * (offsets**2 - least[..., None]))
    total = np.sum(each, axis=-1)
    law = total * np.exp(-0.5 * least) / (len(data) * np.sqrt(2 * np.pi))
    return law, np.sum(each * offsets, axis=-1) / total


def _positive(value: RealScalar, name: str) -> float:
    if require_positive(value, name).ndim != 0:
        raise ValueError(f"`{name}` must be a scalar; got {value}.")
    return float(value)


def _loss_of_best_line(problem: _Discretised) -> float:
    lines = np.stack([np.ones_like(problem.x), problem.x], axis=1)
    coefficients = np.linalg.lstsq(problem.matrix @ lines, problem.target, rcond=None)[0]
    return problem.loss(lines @ coefficients)


def _solve(cvxpy: Any, problem: _Discretised, program: Callable[[Any, Any], Any]) -> SmoothestScore:
    width = np.diff(problem.x)
    g, slope = cvxpy.Variable(len(problem.x)), cvxpy.Variable(len(width))
    # Slopes as variables of their own: second differences over cells of such different widths would be ill conditioned.
    objective, constraints = program(
        problem.matrix @ g - problem.target, cvxpy.norm1(cvxpy.diff(slope))
    )
    constraints = [*constraints, cvxpy.diff(g) == cvxpy.multiply(width, slope)]
    minimisation = cvxpy.Problem(cvxpy.Minimize(objective), constraints)
    tolerances = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), _TOLERANCE)
    with warnings.catch_warnings():
        # An inaccurate solution is an error below.
        warnings.filterwarnings("ignore", "Solution may be inaccurate", UserWarning)
        try:
            minimisation.solve(solver="CLARABEL", **tolerances)
        except cvxpy.SolverError as error:
            raise RuntimeError(f"The solver failed: {error}") from error
    if minimisation.status == "infeasible":
        raise ValueError(_TOO_SMALL)
    if minimisation.status != "optimal":
        raise RuntimeError(f"The solver stopped short of {_TOLERANCE:g}: {minimisation.status}.")
    return _result(problem, g.value)


def _result(problem: _Discretised, g: np.ndarray) -> SmoothestScore:
    sigma, x = problem.sigma, problem.x
    slope = np.diff(g) / np.diff(x)
    turns = np.diff(slope)
    kinks, strengths = _kinks(x[1:-1], turns)
    # Either side of a node, since one may be a kink.
    beside = 0.5 * (slope[:-1] + slope[1:])
    middle = beside[problem.at_middles - 1]
    rising = middle > 0
    half = 0.5 * np.diff(problem.points) / sigma
    return SmoothestScore(
        points=problem.points,
        sigma=sigma,
        u=problem.centre + sigma * x,
        score=g / sigma,
        loss=problem.loss(g),
        non_smoothness=float(np.sum(np.abs(turns))) / sigma**2,
        kinks=problem.centre + sigma * kinks,
        strengths=strengths / sigma**2,
        slopes=beside[problem.at_points - 1],
        kappas=np.where(rising, half * middle / np.where(rising, 1 + middle, 1), np.nan),
    )


def _kinks(x: np.ndarray, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kinks and their strengths from the turns at inner nodes: neighbours that turn the same way are one kink."""
    # Interior-point methods leave some of their tolerance at every node. Slopes of an exact score are of size one.
    strong = np.flatnonzero(np.abs(turns) > max(1e-4 * np.sum(np.abs(turns)), 1e-6))
    if len(strong) == 0:
        return np.zeros(0), np.zeros(0)
    apart = (np.diff(strong) > 1) | (np.diff(np.sign(turns[strong])) != 0)
    groups = np.split(strong, np.flatnonzero(apart) + 1)
    centres = np.array([np.average(x[group], weights=turns[group]) for group in groups])
    # The change of slope from one side to the other takes in what was left at the nodes around.
    nearest = np.searchsorted(0.5 * (centres[:-1] + centres[1:]), x)
    return centres, np.bincount(nearest, turns, minlength=len(groups))
