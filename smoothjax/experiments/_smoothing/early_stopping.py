"""Smoothing the score against stopping its flow early, where both spread as far along the data."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ..._checks import import_optional, require_each, require_positive
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._kinds import checks_kinds
from ..._numerics import bisect
from ...datasets import segment
from ...flows import piecewise_linear_flow
from ...smoothing import line_spread
from .._registry import experiment, settings_of
from .figures import plot_early_stopping

if TYPE_CHECKING:
    import xarray

KEPT_SAMPLES = 1000


@experiment(
    "early-stopping",
    "the smoothed flow beside the exact one stopped where it spreads as far along the data",
    plot_early_stopping,
)
@checks_kinds
def early_stopping(
    *,
    num_points: int = 4,
    kappas: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
    variance: float = 0.02,
    seed: int = 0,
    out: str | None = None,
) -> "xarray.Dataset":
    """Points on a line in the plane: the smoothed flow to zero noise, beside the exact flow stopped where its tangent spread
    is the same.

    Both put mass between the training points. The smoothed flow does so on the line; the stopped one as far off the line as
    along it.

    Args:
        num_points: evenly spaced on [-1, 1].
        kappas: strengths of the piecewise-linear score, at least one.
        variance: `sigma^2` of the start.
        seed: of the samples in the picture.
        out: folder to keep the results in.

    Returns:
        Over `kappa`: `tangent`, the mean squared distance along the line from the nearest training point; `stop`, the noise
        level at which the exact flow has the same; `normal_smoothed` (zero) and `normal_stopped`, the variance normal to
        the line. `samples` (law, sample, coordinate) of both laws at the `kappa` in the middle.

    Source: Chen, ICLR 2026, sections 5 and 7 (early stopping); the exact law of noisy points.

    Example:
        >>> import smoothjax as sj
        >>> found = sj.experiments.early_stopping(kappas=(0.5,))
        >>> float(found.normal_smoothed[0]), round(float(found.normal_stopped[0] / found.stop[0] ** 2), 5)  # off the line
        (0.0, 1.0)
    """
    xarray = import_optional("xarray")
    require_each(kappas, "kappas")
    require_positive(variance, "variance")
    configuration = settings_of("early-stopping", locals())
    store = ResultStore(out, configuration)
    points = segment(num_points).points[:, 0]
    sigma = jnp.asarray(variance**0.5, points.dtype)

    def exact_tangent(level: jax.Array) -> jax.Array:
        return line_spread(points, None, sigma, level[None]).tangent[0]

    @jax.jit
    def stop_at(tangent: jax.Array) -> jax.Array:
        return bisect(lambda level: exact_tangent(level) < tangent, 1e-6 * sigma, sigma)

    def matched(kappa: float) -> Arrays:
        end = line_spread(points, kappa, sigma, jnp.zeros(1, points.dtype))
        tangent = end.tangent[0]
        if float(tangent) > float(exact_tangent(sigma)):
            raise ValueError(
                f"With kappa = {kappa:g} the smoothed law spreads farther than the start of the flow: nothing to match."
            )
        return {"tangent": tangent, "stop": stop_at(tangent), "normal_smoothed": end.normal[0]}

    parts = [store.get(f"kappa-{kappa:g}", lambda kappa=kappa: matched(kappa)) for kappa in kappas]
    results = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    shown = len(kappas) // 2

    def samples() -> Arrays:
        pick, noise = jax.random.split(key_of(seed))
        start = points[jax.random.randint(pick, (KEPT_SAMPLES,), 0, num_points)]
        z = jax.random.normal(noise, (KEPT_SAMPLES, 2), points.dtype)
        along = piecewise_linear_flow(points, kappas[shown], start + sigma * z[:, 0], sigma, 0.0)
        smoothed = jnp.stack([along, jnp.zeros_like(along)], axis=1)
        stopped = jnp.stack([start, jnp.zeros_like(start)], axis=1) + results["stop"][shown] * z
        return {"samples": jnp.stack([smoothed, stopped])}

    return xarray.Dataset(
        {name: ("kappa", value) for name, value in results.items()}
        | {
            "normal_stopped": ("kappa", results["stop"] ** 2),
            "samples": (("law", "sample", "coordinate"), store.get("samples", samples)["samples"]),
        },
        coords={"kappa": list(kappas), "law": ["smoothed", "stopped"], "point": np.asarray(points)},
        attrs=configuration | {"kappa_shown": kappas[shown]},
    )
