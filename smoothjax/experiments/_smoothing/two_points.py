"""Two points on a line: the smoothed score, its flow and the law it generates, beside the exact ones."""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..._checks import import_optional, require_each, require_positive
from ..._files.store import Arrays, ResultStore
from ..._kinds import checks_kinds
from ...denoisers import EmpiricalDenoiser, PiecewiseLinearDenoiser, score
from ...flows import piecewise_linear_flow
from ...smoothing import PiecewiseLinearLaw, quantile_flow
from .._registry import experiment, settings_of
from .figures import plot_two_points

if TYPE_CHECKING:
    import xarray

POINTS = np.array([-1.0, 1.0])


@experiment(
    "two-points", "score, flow and law of the smoothed score of two points", plot_two_points
)
@checks_kinds
def two_points(
    *,
    kappas: tuple[float, ...] = (0.2, 0.5, 1.0),
    variance: float = 0.02,
    out: str | None = None,
) -> "xarray.Dataset":
    """Score, flow and end law of the piecewise-linear smoother of {-1, 1}, for several strengths, and of the exact score.

    Args:
        kappas: strengths; smaller smooths more.
        variance: `sigma^2` of the start, the paper's `t_0`.
        out: folder to keep the results in.

    Returns:
        Labelled scores over `u`, trajectories over `sigma` from starts `u0`, distribution functions and atoms.

    Source: Chen, ICLR 2026, the figures of sections 3 and 4.

    Example:
        >>> import smoothjax as sj
        >>> found = sj.experiments.two_points(kappas=(0.5,))
        >>> round(float(found.atom.sel(kappa=0.5).sum() + found.interpolated_mass.sel(kappa=0.5)), 5)
        1.0
    """
    xarray = import_optional("xarray")
    require_each(kappas, "kappas")
    require_positive(variance, "variance")
    store = ResultStore(out, settings_of("two-points", locals()))
    sigma, points = variance**0.5, jnp.asarray(POINTS)
    u = jnp.linspace(-1.5, 1.5, 601)
    starts = jnp.linspace(-1.4, 1.4, 28)
    levels = sigma * np.linspace(1, 0, 61)

    def exact() -> Arrays:
        D = EmpiricalDenoiser(points[:, None])
        trajectories = [quantile_flow(points, starts, sigma, s) for s in levels]
        return _arrays(D, PiecewiseLinearLaw(points, np.inf, sigma), trajectories)

    def smoothed(kappa: float) -> Arrays:
        D = PiecewiseLinearDenoiser(points, kappa)
        trajectories = [piecewise_linear_flow(points, kappa, starts, sigma, s) for s in levels]
        return _arrays(D, PiecewiseLinearLaw(points, kappa, sigma), trajectories)

    def _arrays(D: Any, law: PiecewiseLinearLaw, trajectories: list[Any]) -> Arrays:
        evaluate = eqx.filter_jit(lambda D, u: jax.vmap(lambda x: score(D, x[None], sigma)[0])(u))
        return {
            "score": evaluate(D, u),
            "trajectory": np.stack(trajectories),
            "cdf": law.cdf(u),
            "atom": law.plateau_masses(),
            "interpolated_mass": law.interpolated_mass(),
            "divergence_from_uniform": law.divergence_from_uniform(),
        }

    parts = [store.get("exact", exact)]
    parts += [
        store.get(f"kappa-{kappa:g}", lambda kappa=kappa: smoothed(kappa)) for kappa in kappas
    ]
    dims = {
        "score": ("u",),
        "trajectory": ("sigma", "start"),
        "cdf": ("u",),
        "atom": ("point",),
        "interpolated_mass": (),
        "divergence_from_uniform": (),
    }
    return xarray.Dataset(
        {name: (("kappa", *dim), np.stack([p[name] for p in parts])) for name, dim in dims.items()},
        coords={
            # No smoothing is a plateau that fills its gap.
            "kappa": [np.inf, *kappas],
            "u": u,
            "sigma": levels,
            "start": starts,
            "point": POINTS,
        },
        attrs={"experiment": "two-points", "sigma_from": sigma},
    )
