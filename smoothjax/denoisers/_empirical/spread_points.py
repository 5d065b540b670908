"""Points that are spread over an axis of a device mesh, and functions of each device's own."""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from ..._checks import as_host_floats, is_concrete, require_finite, require_finite_rows
from ..._files.npy import Unreadable, map_array
from ..._jax.precision import HIGHEST
from .._posterior.point_set import PointSet
from .empirical import equal_chunks

EVERYWHERE = P()


class MeshLayout(NamedTuple):
    """Which axes of which mesh hold what; hashable."""

    mesh: Mesh
    rows: str
    queries: str | None


def layout_of(mesh: Mesh, axis_name: str | None, query_axis: str | None) -> MeshLayout:
    axes = tuple(str(name) for name in mesh.axis_names)
    if axis_name is None:
        if len(axes) != 1:
            raise ValueError(f"`axis_name` is needed for a mesh of several axes: one of {axes}.")
        (axis_name,) = axes
    for name, axis in (("axis_name", axis_name), ("query_axis", query_axis)):
        if axis not in axes and not (name == "query_axis" and axis is None):
            raise ValueError(f"`{name}` must be an axis of the mesh, one of {axes}; got {axis!r}.")
    if axis_name == query_axis:
        raise ValueError(f"`axis_name` and `query_axis` must differ; both are {axis_name!r}.")
    # Its axes as automatic ones, of which arrays carry nothing in their types.
    return MeshLayout(Mesh(mesh.devices, mesh.axis_names), axis_name, query_axis)


def host_points(data: Any) -> np.ndarray:
    """`data` as a checked NumPy array of shape (n, d), without a copy where it is one already."""
    if not is_concrete(data):
        raise ValueError("`data` must be known at construction, outside of jax.jit and vmap.")
    if isinstance(data, jax.Array) and not data.is_fully_addressable:
        raise ValueError(
            "`data` must be readable in this process; give each process's rows to `from_process_local`."
        )
    if isinstance(data, str | os.PathLike):
        try:
            data = map_array(data)
        except Unreadable as error:
            raise ValueError(
                f"`data` must be a .npy file of numbers; '{data}': {error}."
            ) from error
    points = as_host_floats(data, "data")
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(
            f"`data` must have shape (n, d) and hold at least one point; got {points.shape}."
        )
    require_finite_rows(points, "data")
    return points


def filled(rows: np.ndarray, num: int, fill: Any) -> np.ndarray:
    """`rows`, followed by copies of `fill` up to `num` of them."""
    if len(rows) == num:
        return rows
    result = np.empty((num, *rows.shape[1:]), rows.dtype)
    result[: len(rows)], result[len(rows) :] = rows, fill
    return result


def local_slots(layout: MeshLayout) -> int:
    """How many places along the axis this process has a device in."""
    axis = layout.mesh.axis_names.index(layout.rows)
    devices = np.moveaxis(layout.mesh.devices, axis, 0).reshape(layout.mesh.shape[layout.rows], -1)
    mine = jax.process_index()
    return sum(any(device.process_index == mine for device in place) for place in devices)


def prepared(
    layout: MeshLayout, points: Array, log_weights: Array, chunk_size: int | None
) -> PointSet:
    row_bytes = points.shape[1] * points.dtype.itemsize
    size = equal_chunks(points.shape[0] // layout.mesh.shape[layout.rows], row_bytes, chunk_size)
    centre, half_square, radius = _centre_and_radius(layout, points, log_weights)
    require_finite(radius, "|data - mean|^2 / 2")
    return PointSet(points, log_weights, centre, half_square, radius, size)


@functools.partial(jax.jit, static_argnums=0)
def _centre_and_radius(layout: MeshLayout, points: Array, log_weights: Array):
    axis = layout.rows

    def local(points: Array, log_weights: Array):
        counts = (log_weights > -jnp.inf).astype(points.dtype)
        total = jnp.dot(counts, points, precision=HIGHEST)
        centre = lax.psum(total, axis) / lax.psum(jnp.sum(counts), axis)
        half_square = 0.5 * jnp.sum((points - centre[None]) ** 2, axis=-1)
        radius = jnp.sqrt(2 * jnp.max(half_square, where=counts > 0, initial=0))
        return centre, half_square, lax.pmax(radius, axis)

    specs = P(axis), P(axis)
    # Not to be differentiated, and diffrax's and this package's loops do not know of varying types: no check of them.
    return jax.shard_map(
        local, mesh=layout.mesh, in_specs=specs, out_specs=(P(), P(axis), P()), check_vma=False
    )(points, log_weights)


def on_each(
    layout: MeshLayout, function: Callable[..., Any], queries: P = EVERYWHERE
) -> Callable[..., Any]:
    """`function(points, u, sigma)` on each device's own points; its result is the same on all of them."""

    def run(points: PointSet, u: Array, sigma: Array) -> Any:
        rows = P(layout.rows)
        specs = jax.tree.map(lambda _: rows, points)
        specs = eqx.tree_at(lambda x: (x.centre, x.radius), specs, (P(), P()))
        return jax.shard_map(
            function,
            mesh=layout.mesh,
            in_specs=(specs, queries, queries),
            out_specs=queries,
            # The loops over chunks start from constants, which the check takes for the same on all devices.
            check_vma=False,
        )(points, u, sigma)

    return run
