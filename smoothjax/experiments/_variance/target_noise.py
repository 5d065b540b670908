"""Where the targets of denoising score matching are noise: maps over the plane for small point sets."""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ... import datasets
from ..._checks import as_positive_integer, import_optional, require_each, require_positive
from ..._files.store import Arrays, ResultStore
from ..._kinds import checks_kinds
from ...denoisers import EmpiricalDenoiser
from ...variance import relative_variance
from .._registry import experiment, settings_of
from .figures import plot_target_noise

if TYPE_CHECKING:
    import xarray


@experiment(
    "target-noise",
    "where the targets of denoising score matching are noise, over the plane",
    plot_target_noise,
)
@checks_kinds
def target_noise(
    *,
    sets: tuple[str, ...] = ("hexagon", "line", "blend", "random"),
    times: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 0.75),
    num_nodes: int = 201,
    extent: float = 1.6,
    out: str | None = None,
) -> "xarray.Dataset":
    """Share of noise in the denoising target, over the plane, for point sets of the variance paper.

    States `x = sqrt(1 - t) x_0 + sqrt(t) z`: the maps are over x, at the noise level `sqrt(t / (1 - t))`.

    Args:
        sets: names of data sets in the plane, see `smoothjax list`.
        times: t, between 0 and 1.
        num_nodes: of the grid, along each axis.
        extent: of the grid, from `-extent` to `extent`.
        out: folder to keep the results in.

    Returns:
        `share` (set, t, y, x): `tr C / (tr C + |s|^2)`, C the covariance of the proxy score, s its mean.

    Raises:
        ValueError: for a set that is not in the plane, or a time out of range.

    Source: Vastola, ICLR 2025, Figure 1.

    Example:
        >>> import smoothjax as sj
        >>> found = sj.experiments.target_noise(sets=("hexagon",), times=(0.5,), num_nodes=3)
        >>> float(found.share.sel(x=0, y=0).item())  # by symmetry the score vanishes: all is noise
        1.0
    """
    xarray = import_optional("xarray")
    require_each(sets, "sets")
    require_each(times, "times")
    require_positive(extent, "extent")
    as_positive_integer(num_nodes, "num_nodes")
    if not all(0 < t < 1 for t in times):
        raise ValueError(f"`times` must lie between 0 and 1; got {times}.")
    configuration = settings_of("target-noise", locals())
    store = ResultStore(out, configuration)
    axis = np.linspace(-extent, extent, num_nodes)
    x, y = np.meshgrid(axis, axis)
    points = jnp.asarray(np.stack([x.ravel(), y.ravel()], axis=1))

    @eqx.filter_jit
    def share(denoiser: EmpiricalDenoiser, t: jax.Array) -> jax.Array:
        alpha, noise = jnp.sqrt(1 - t), jnp.sqrt(t)
        evaluate = jax.vmap(lambda u: relative_variance(denoiser, u, noise / alpha))
        return jax.lax.map(lambda row: evaluate(row / alpha), points.reshape(num_nodes, -1, 2))

    def of(name: str) -> Arrays:
        data = datasets.load(name)
        if data.dim != 2:
            raise ValueError(f"`sets` must be in the plane; {name!r} has dimension {data.dim}.")
        denoiser = EmpiricalDenoiser(data.points)
        maps = [share(denoiser, jnp.asarray(t, data.points.dtype)) for t in times]
        return {"share": np.stack(maps), "points": data.points}

    parts = [store.get(f"set-{name}", lambda name=name: of(name)) for name in sets]
    return xarray.Dataset(
        {"share": (("set", "t", "y", "x"), np.stack([part["share"] for part in parts]))},
        coords={"set": list(sets), "t": list(times), "x": axis, "y": axis},
        attrs=configuration
        | {f"points {n}": p["points"].ravel() for n, p in zip(sets, parts, strict=True)},
    )
