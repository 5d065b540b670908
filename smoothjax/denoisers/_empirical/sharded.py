"""The exact posterior mean over a training set that is spread over several devices."""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from ..._checks import RealScalar
from ..._jax.batching import over_queries
from ..._jax.derivatives import is_zero
from ..._jax.precision import HIGHEST
from ..._kinds import checks_kinds
from ..._numerics import as_log_weights
from .._posterior.merge import merge_over_devices, partial_posterior, summary
from .._posterior.point_posterior import (
    PosteriorSummary,
    over_weighted_chunks,
    posterior_tangents,
    tangent_sums,
)
from .._posterior.point_set import PointSet
from .empirical import add_scatter
from .over_points import AbstractPointsDenoiser
from .spread_points import (
    MeshLayout,
    filled,
    host_points,
    layout_of,
    local_slots,
    on_each,
    prepared,
)


class ShardedDenoiser(AbstractPointsDenoiser):
    """The denoiser of `EmpiricalDenoiser`, with the training set spread over one axis of a device mesh.

    Each device holds n/m of the points (m devices along the axis; points of weight zero fill up), weighs them, and sends the
    others a summary: 2 d + 7 numbers a query. The summaries are merged in a fixed order, so that all devices have the same
    answer to the last bit. The result, its accuracy and its derivatives are those of `EmpiricalDenoiser` on one device, to
    rounding. It is an ordinary denoiser: `jax.jit`, `jax.vmap` (one matrix product a device and chunk), `jax.grad`, `sample`
    and all measures take it.

    Args:
        data: training points, shape (n, d), in data units. A NumPy array stays on the host but for the part that each
            device takes; with several processes, every process gives the whole array (or a memory map of it), or see
            `from_process_local`. The path of a `.npy` file is memory-mapped.
        mesh: the devices, of one process or of several.
        axis_name: the axis of the mesh over which the points are spread; may be left out if there is one axis only.
        query_axis: another axis of the mesh, over which batches of queries are spread: the batch of all nested `jax.vmap`s
            is divided evenly. A derivative is computed for the whole batch by each group along this axis.
        weights: prior weights, shape (n,), as for `EmpiricalDenoiser`.
        chunk_size: training points that a device visits at a time. Changes memory and speed only.

    Raises:
        ValueError: as `EmpiricalDenoiser`; for a path that is no `.npy` file of numbers; for an axis that the mesh does not
            have, or the same axis twice; for data that are being traced.

    Source: Karras et al. 2022, eq. (57) (appendix B.3), for the posterior mean.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> mesh = jax.sharding.Mesh(jax.devices(), ("data",))  # or several hosts' devices
        >>> D = sj.ShardedDenoiser(jnp.array([[-1.0], [1.0]]), mesh)
        >>> print(D(jnp.array([0.3]), 1.0).round(4))
        [0.2913]

        From a file, of which each process reads what its devices take:

        >>> import numpy as np
        >>> np.save("points.npy", np.random.default_rng(0).normal(size=(100, 4)))
        >>> sj.ShardedDenoiser("points.npy", mesh).dim
        4
    """

    _points: PointSet  # rows, log weights and squares are spread over the axis
    _layout: MeshLayout = eqx.field(static=True)
    _num_points: int = eqx.field(static=True)
    _is_weighted: bool = eqx.field(static=True)

    @checks_kinds
    def __init__(
        self,
        data: Any,
        mesh: Mesh,
        axis_name: str | None = None,
        query_axis: str | None = None,
        weights: Any = None,
        chunk_size: int | None = None,
    ):
        layout = layout_of(mesh, axis_name, query_axis)
        points = host_points(data)
        n = len(points)
        log_weights = None
        if weights is not None:
            log_weights = np.asarray(as_log_weights(weights, n, "point", points.dtype))
        num_rows = -(-n // layout.mesh.shape[layout.rows])

        def place(array: np.ndarray, fill: Any) -> Array:
            shape = (num_rows * layout.mesh.shape[layout.rows], *array.shape[1:])

            def part(index: Any) -> np.ndarray:
                start, stop, _ = index[0].indices(shape[0])
                return filled(np.asarray(array[start:stop]), stop - start, fill)

            sharding = NamedSharding(layout.mesh, P(layout.rows))
            return jax.make_array_from_callback(shape, sharding, part)

        prior = np.zeros(n, points.dtype) if log_weights is None else log_weights
        placed = place(points, points[0]), place(prior, -np.inf)
        self._points = prepared(layout, *placed, chunk_size)
        self._layout, self._num_points = layout, n
        self._is_weighted = log_weights is not None

    @classmethod
    @checks_kinds
    def from_process_local(
        cls,
        data: Any,
        mesh: Mesh,
        axis_name: str | None = None,
        query_axis: str | None = None,
        chunk_size: int | None = None,
    ) -> "ShardedDenoiser":
        """The union of what the processes give, each its own points: no process needs to hold them all.

        Every process must call it, with as many points as it likes, at least one. The devices of a process hold its points;
        along the axis each has as many rows as the fullest one needs. Prior weights are uniform. With one process this is
        the constructor.

        Args:
            data: this process's training points, shape (n_local, d), the same d and dtype in all processes, data units.
            mesh, axis_name, query_axis, chunk_size: as for the class, the same in all processes.

        Raises:
            ValueError: as the class, in every process for what only one of them gave; for a mesh whose `axis_name` does
                not pass each process's devices apart from the others', or that gives processes different numbers of them.

        Example:
            >>> import jax, jax.numpy as jnp, smoothjax as sj
            >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
            >>> D = sj.ShardedDenoiser.from_process_local([[-1.0], [1.0]], mesh)  # what this process has read
            >>> print(D(jnp.array([0.9]), 0.1).round(5))
            [1.]
        """
        if jax.process_count() == 1:
            return cls(data, mesh, axis_name, query_axis, chunk_size=chunk_size)
        from jax.experimental import multihost_utils

        layout = layout_of(mesh, axis_name, query_axis)
        slots = local_slots(layout)
        # What one process alone would raise, the others would wait for forever.
        try:
            points, problem = host_points(data), ""
        except ValueError as error:
            points, problem = np.zeros((0, 0), np.float32), str(error)
        mine = np.asarray([*points.shape, points.dtype.itemsize, slots], np.int32)
        all_of_them = np.asarray(multihost_utils.process_allgather(mine)).reshape(-1, 4)
        if problem:
            raise ValueError(problem)
        if np.any(all_of_them[:, 0] == 0):
            bad = int(np.argmin(all_of_them[:, 0]))
            raise ValueError(f"Process {bad} raised for its `data`; see its message.")
        same = np.all(all_of_them[:, 1:] == all_of_them[0, 1:])
        if not same or np.sum(all_of_them[:, 3]) != layout.mesh.shape[layout.rows]:
            raise ValueError(
                "All processes must give points of the same dimension and dtype, and have equally many places along axis "
                f"{layout.rows!r}, none of them in common; got (points, dimension, bytes a number, places) of "
                f"{all_of_them.tolist()}."
            )
        num_rows = -(-int(np.max(all_of_them[:, 0])) // slots)
        sharding = NamedSharding(layout.mesh, P(layout.rows))
        size = num_rows * layout.mesh.shape[layout.rows]

        def place(array: np.ndarray, fill: Any) -> Array:
            # Spread evenly over the process's devices, rather than the last ones empty.
            parts = [filled(part, num_rows, fill) for part in np.array_split(array, slots, axis=0)]
            shape = (size, *array.shape[1:])
            return jax.make_array_from_process_local_data(sharding, np.concatenate(parts), shape)

        prior = np.zeros(len(points), points.dtype)
        placed = place(points, points[0]), place(prior, -np.inf)
        self = object.__new__(cls)
        object.__setattr__(self, "_points", prepared(layout, *placed, chunk_size))
        object.__setattr__(self, "_layout", layout)
        object.__setattr__(self, "_num_points", int(np.sum(all_of_them[:, 0])))
        object.__setattr__(self, "_is_weighted", False)
        return self

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        return self._layout.mesh

    @property
    def num_points(self) -> int:
        """Number n of training points."""
        return self._num_points

    @property
    def data(self) -> Float[Array, "rows d"]:
        """The training points as they are spread, with those of weight zero that fill up."""
        return self._points.points

    @property
    def weights(self) -> Float[Array, " rows"]:
        """The prior weights, which sum to one; zero where a row only fills up."""
        log_weights = self._points.log_weights
        assert log_weights is not None
        return jnp.exp(log_weights - self._log_prior_mass)

    @property
    def _log_prior_mass(self) -> float:
        # Uniform weights are kept as ones, which rounds nothing.
        return 0.0 if self._is_weighted else math.log(self._num_points)

    def _summary_of(self, u: Array, sigma: Array) -> PosteriorSummary:
        return _posterior_summary(self._layout, self._points, u, sigma)

    def posterior_covariance(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, "d d"]:
        return _covariance(self._layout, self._points, *self._query(u, sigma))

    def mean_and_covariance(self) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        mean, covariance = _mean_and_covariance(self._layout, self._points, self._log_prior_mass)
        return self._points.centre + mean, covariance


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _posterior(points: PointSet, u: Array, sigma: Array, axis_name: str):
    """`_point_posterior._posterior` for this device's part of the points, merged with the others' over the axis."""
    whole = merge_over_devices(partial_posterior(points, u, sigma), u, sigma, axis_name)
    return summary(whole, points.centre, u, sigma), *whole


def _posterior_jvp(axis_name: str, primals, tangents):
    posterior = _posterior(*primals, axis_name)
    local = tangent_sums(posterior, primals, tangents)
    sums = jax.tree.map(lambda x: jnp.sum(lax.all_gather(x, axis_name), axis=0), local)
    return posterior, posterior_tangents(posterior, sums, primals, tangents)


_posterior.defjvp(_posterior_jvp, symbolic_zeros=True)


def _replicated(layout: MeshLayout, points: PointSet, u: Array, sigma: Array) -> PosteriorSummary:
    """The summary, with all queries on every device."""
    return on_each(layout, lambda *args: _posterior(*args, layout.rows)[0])(points, u, sigma)


@functools.partial(jax.jit, static_argnums=0)
def _posterior_summary(
    layout: MeshLayout, points: PointSet, u: Array, sigma: Array
) -> PosteriorSummary:
    if layout.queries is None:
        return _replicated(layout, points, u, sigma)
    return _divided(layout, points, u, sigma)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _divided(layout: MeshLayout, points: PointSet, u: Array, sigma: Array) -> PosteriorSummary:
    """The summary, with batches of queries spread over the query axis."""
    return _dividing(layout)(points, u, sigma)


def _divided_jvp(layout: MeshLayout, primals, tangents):
    # JAX cannot transpose a function that has its own rule for batches, so that this one has none. Only what moves is
    # differentiated: tangents of points that do not would be as large as they are.
    values, tree = jax.tree.flatten(primals)
    dots = jax.tree.leaves(tangents, is_leaf=is_zero)
    moving = [i for i, dot in enumerate(dots) if not is_zero(dot)]

    def of_moving(*moved: Array) -> PosteriorSummary:
        replaced = dict(zip(moving, moved, strict=True))
        leaves = [replaced.get(i, value) for i, value in enumerate(values)]
        return _replicated(layout, *jax.tree.unflatten(tree, leaves))

    return jax.jvp(of_moving, [values[i] for i in moving], [dots[i] for i in moving])


_divided.defjvp(_divided_jvp, symbolic_zeros=True)


@functools.cache
def _dividing(layout: MeshLayout) -> Callable[..., PosteriorSummary]:
    """The summary of one query; `vmap`, nested or not, spreads the whole batch over the query axis."""
    assert layout.queries is not None
    num_groups = layout.mesh.shape[layout.queries]

    def group(points: PointSet, u: Array, sigma: Array) -> PosteriorSummary:
        num = u.shape[0]
        # Whole groups: the last query repeats.
        taken = jnp.minimum(jnp.arange(-(-num // num_groups) * num_groups), num - 1)
        local = jax.vmap(lambda *args: _posterior(*args, layout.rows)[0], (None, 0, 0))
        result = on_each(layout, local, P(layout.queries))(points, u[taken], sigma[taken])
        return jax.tree.map(lambda x: x[:num], result)

    whole = functools.partial(_replicated, layout)
    return over_queries(group, each=whole, alone=whole)


@functools.partial(jax.jit, static_argnums=0)
def _covariance(layout: MeshLayout, points: PointSet, u: Array, sigma: Array) -> Array:
    def local(points: PointSet, u: Array, sigma: Array) -> Array:
        posterior = _posterior(points, u, sigma, layout.rows)
        init = posterior[0].mean, jnp.zeros((u.size, u.size), u.dtype)
        _, scatter = over_weighted_chunks(posterior, points, u, sigma, add_scatter, init)
        return lax.psum(scatter, layout.rows)

    return on_each(layout, local)(points, u, sigma)


@functools.partial(jax.jit, static_argnums=0)
def _mean_and_covariance(
    layout: MeshLayout, points: PointSet, log_mass: Array
) -> tuple[Array, Array]:
    """The law's mean, relative to the centre, and covariance."""

    def local(points: PointSet, log_mass: Array, _: Array) -> tuple[Array, Array]:
        assert points.log_weights is not None
        weights = jnp.exp(points.log_weights - log_mass)
        centred = points.points - points.centre[None]
        mean = lax.psum(jnp.dot(weights, centred, precision=HIGHEST), layout.rows)
        difference = centred - mean[None]
        scatter = jnp.dot((weights[:, None] * difference).T, difference, precision=HIGHEST)
        return mean, lax.psum(scatter, layout.rows)

    log_mass = jnp.asarray(log_mass, points.centre.dtype)
    return on_each(layout, local)(points, log_mass, log_mass)
