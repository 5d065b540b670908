"""The exact posterior mean over a training set that does not fit in memory."""

import itertools
import os
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ..._checks import (
    RealScalar,
    as_float_array,
    as_key,
    as_positive_integer,
    is_concrete,
    require_positive,
)
from ..._jax.precision import common_dtype
from ..._kinds import checks_kinds
from ..._noise import initial_noise
from ...grids import edm_grid
from .._base import AbstractDenoiser, representable_noise_level
from .._posterior.merge import PartialPosterior, empty, merge, partial_posterior, summary
from .._posterior.point_set import PointSet
from .empirical import equal_chunks
from .row_source import RowSource


class StreamedDenoiser(AbstractDenoiser):
    """The denoiser of `EmpiricalDenoiser`, with the training set read from the disk at every call, for batches of queries.

    A call is a loop on the host: while one chunk of the training set is weighed, by one compiled function, a thread
    reads the next two. Memory is three chunks on the host, which a CPU computes with where they are, one on an
    accelerator, and what weighing one chunk takes (measured: 180 MB in all, on a CPU); with `weights`, also one number
    a training point, 1/d of the training set. The chunks' partial posteriors are merged exactly: the result and its
    accuracy are those of `EmpiricalDenoiser`, to rounding.

    Fastest is the path of a `.npy` file in C order whose dtype is that of the computation: its rows are read from the
    file straight to where they are weighed, and past the system's cache of files as long as reading is ahead of the
    device, which spares the processor nine tenths of that work. All other rows are copied there.

    Every call reads the whole training set, so that it pays to give many queries at once: `denoise` takes a batch, and
    `sample` draws one. The call of a single point and `mean_and_variance` are there for the protocol of denoisers, with
    values only: they cannot be compiled into `jax.jit`, vectorised or differentiated, and hence not be given to
    `smoothjax.sample`.

    The first call reads the training set twice more, for its mean and radius, and checks that it is finite.

    Args:
        source: training points, shape (n, d), data units: a NumPy array or memory map, the path of a `.npy` file, or
            anything with `shape`, `dtype` and slices of rows, such as an array of zarr or h5py. Floats narrower than
            float32 are computed with in float32, integers in JAX's default float dtype. Must not change.
        chunk_size: training points that are read at a time. By default, 32 MiB of them.
        progress: show a progress bar (tqdm) of the chunks that were read, on a terminal.
        weights: positive prior weights, shape (n,), normalised here, in memory. Uniform by default. Zero removes a point.

    Raises:
        ValueError: for a wrong shape, a source that is empty, not of real numbers or not a `.npy` file, a chunk size that
            is not a positive integer, weights that are negative or all zero; at the first call, for a row that is not
            finite, and for points too far apart for their dtype to square the distance; at any call, for a path that
            names another file by then, or one of another size.

    Source: Karras et al. 2022, eq. (57) (appendix B.3), for the posterior mean.

    Example:
        >>> import jax, numpy as np, smoothjax as sj
        >>> np.save("points.npy", np.random.default_rng(0).standard_normal((10_000, 16), np.float32))
        >>> D = sj.StreamedDenoiser("points.npy", chunk_size=1000)
        >>> D.denoise(np.zeros((5, 16), np.float32), 0.5).shape
        (5, 16)
        >>> D.sample(jax.random.key(0), 3, steps=8).shape
        (3, 16)
    """

    _source: RowSource = eqx.field(static=True)

    @checks_kinds
    def __init__(
        self,
        source: str | os.PathLike[str] | Any,
        chunk_size: int | None = None,
        progress: bool = False,
        weights: Any = None,
    ):
        self._source = RowSource(source, chunk_size, progress, weights)

    @property
    def dim(self) -> int:
        return self._source.dim

    @property
    def num_points(self) -> int:
        """Number n of training points."""
        return self._source.num_points

    @property
    def chunk_size(self) -> int:
        """Training points read at a time."""
        return self._source.chunk_size

    @property
    def centre(self) -> Float[np.ndarray, " d"]:
        """The mean of the training set, in float64. Read from the source once."""
        return self._source.centre_and_radius()[0]

    @property
    def radius(self) -> float:
        """The largest distance of a training point from the centre. Read from the source once."""
        return self._source.centre_and_radius()[1]

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        return self.mean_and_variance(u, sigma)[0]

    def mean_and_variance(
        self, u: Float[Array, " d"], sigma: RealScalar
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The posterior mean of one point and the trace of the posterior covariance, in one reading of the training set."""
        if not is_concrete(u, sigma):
            raise ValueError(
                "A streamed denoiser reads its training set on the host: it cannot be compiled, vectorised or "
                "differentiated by JAX. Use its method `denoise` for a batch, and its method `sample` in place of "
                "smoothjax.sample."
            )
        u, sigma = self._point(u, sigma)
        u = u.astype(common_dtype(u.dtype, self._source.dtype))
        self._source.centre_and_radius()
        with self._source.bar(1, "denoise") as bar:
            means, variances = self._moments(u[None], sigma.astype(u.dtype)[None], bar)
        return means[0], variances[0]

    def denoise(
        self, u: Float[ArrayLike, "batch d"], sigma: Float[ArrayLike, "*batch"]
    ) -> Float[Array, "batch d"]:
        """Posterior means of a batch of points, in one reading of the training set.

        Args:
            u: noisy points, shape (batch, d), data units.
            sigma: their noise levels, shape (batch,), or one for all; data units.

        Returns:
            Means, shape (batch, d), data units, in the wider of the dtypes of `u` and of the training set.

        Raises:
            ValueError: for a wrong shape, a noise level that is not positive and finite, values that are being traced; at
                the first call, for a training set that is not finite.
        """
        if not is_concrete(u, sigma):
            raise ValueError(
                "`denoise` reads its training set on the host; call it outside of JAX's transformations."
            )
        u = as_float_array(u, "u")
        if u.ndim != 2 or u.shape[0] == 0 or u.shape[1] != self.dim:
            hint = " For one point, u[None]." if u.ndim == 1 else ""
            raise ValueError(f"`u` must have shape (batch, {self.dim}); got {u.shape}.{hint}")
        sigma = require_positive(sigma, "sigma")
        if sigma.shape not in ((), (u.shape[0],)):
            raise ValueError(
                f"`sigma` must be a scalar or have shape ({u.shape[0]},), as many as points; got {sigma.shape}."
            )
        dtype = common_dtype(u.dtype, self._source.dtype)
        levels = jnp.broadcast_to(sigma.astype(dtype), u.shape[:1])
        self._source.centre_and_radius()
        with self._source.bar(1, "denoise") as bar:
            return self._denoise(u.astype(dtype), levels, bar)

    def _denoise(self, u: Array, sigma: Array, bar: Any) -> Array:
        return self._moments(u, sigma, bar)[0]

    def _moments(self, u: Array, sigma: Array, bar: Any) -> tuple[Array, Array]:
        """Means and traces of the covariances of the posteriors of a batch."""
        source = self._source
        centre, radius = (jnp.asarray(x, source.dtype) for x in source.centre_and_radius())
        state = _nothing(centre, u)
        for i, (chunk, count) in enumerate(source.chunks()):
            # No copy where the device is the CPU.
            rows = jax.device_put(chunk, may_alias=True)
            # The last chunk is filled up, with zeros of no weight: all have one shape, and one compiled function.
            state = _take(state, rows, count, source.log_weights(i), centre, radius, u, sigma)
            # What was computed from the chunk is there before the chunk is overwritten by a later one.
            jax.block_until_ready(state)
            rows.delete()
            if bar is not None:
                bar.update()
        return _mean_and_variance(state, centre, radius, u, sigma)

    def _prior_mean(self, bar: Any) -> Float[Array, " d"]:
        """The mean of the data under their prior weights."""
        source = self._source
        centre = jnp.asarray(source.centre_and_radius()[0], source.dtype)
        if not source.weighted:
            return centre
        # Noise beyond all distances, which tells nothing: the posterior is the prior, to rounding.
        radius = max(source.centre_and_radius()[1], float(jnp.finfo(source.dtype).tiny))
        level = jnp.full(1, radius / float(jnp.finfo(source.dtype).eps), source.dtype)
        return self._denoise(centre[None], level, bar)[0]

    def sample(
        self,
        key: PRNGKeyArray,
        num_samples: int,
        *,
        sigma_max: RealScalar = 80.0,
        sigma_min: RealScalar = 0.002,
        steps: int = 18,
        solver: Literal["heun", "ddim"] = "heun",
    ) -> Float[Array, "num_samples d"]:
        """Draws what a diffusion model with this denoiser generates, by EDM's sampler or by DDIM.

        The same samples, to rounding, as `smoothjax.sample(EmpiricalDenoiser(data), key, num_samples, steps=steps)`, with
        `solver=diffrax.Euler()` for DDIM: from the same noise, on the same grid, `edm_grid(steps, sigma_max, sigma_min)`.
        The start has the law's first two moments: `u = m + sigma_max z` about the mean m of the data, and half of what the
        denoiser makes of the noise is added, `u + (D(u, sigma_max) - m) / 2`.

        Args:
            key: for the initial noise; sample i depends on the key and on i only.
            num_samples: how many. All take each step together, and share every reading of the training set.
            sigma_max, sigma_min: first and last positive noise level, data units.
            steps: noise levels, the last of which a call of the denoiser ends at zero; at least two. Heun's rule reads the
                training set `2 steps` times, DDIM `steps + 1` times, and prior weights ask for one more.
            solver: `"heun"` or `"ddim"`.

        Returns:
            Samples, shape (num_samples, d), data units.

        Raises:
            ValueError: for bad sizes, noise levels or an unknown solver; as `denoise`.

        Source: Karras et al. 2022, algorithm 1.
        """
        key = as_key(key)
        if solver not in ("heun", "ddim"):
            raise ValueError(f"`solver` must be 'heun' or 'ddim'; got {solver!r}.")
        source, dtype = self._source, self._source.dtype
        num_samples = as_positive_integer(num_samples, "num_samples")
        grid = edm_grid(steps, jnp.asarray(sigma_max, dtype), jnp.asarray(sigma_min, dtype))
        noise = initial_noise(key, num_samples, self.dim, dtype=dtype)
        source.centre_and_radius()
        sweeps = (2 * steps if solver == "heun" else steps + 1) + source.weighted
        with source.bar(sweeps, "sample") as bar:
            mean = self._prior_mean(bar)
            u = mean[None] + grid[0] * noise
            u = u + 0.5 * (self._denoise(u, jnp.full(num_samples, grid[0]), bar) - mean[None])

            def velocity(u: Array, sigma: Array) -> Array:
                return (u - self._denoise(u, jnp.full(num_samples, sigma), bar)) / sigma

            for high, low in itertools.pairwise(grid[:-1]):
                first = velocity(u, high)
                there = u + (low - high) * first
                if solver == "heun":
                    there = u + (low - high) * 0.5 * (first + velocity(there, low))
                u = there
            # The step to zero ends at the posterior mean.
            return self._denoise(u, jnp.full(num_samples, grid[-2]), bar)


def _part(
    rows: Array, count: Any, log_weights: Array | None, centre: Array, radius: Array
) -> PointSet:
    """Rows of which the first `count` are points, as part of the set with that centre and radius."""
    if log_weights is None:
        log_weights = jnp.zeros(rows.shape[0], rows.dtype)
    log_weights = jnp.where(jnp.arange(rows.shape[0]) < count, log_weights, -jnp.inf)
    # In every call anew, a tenth of the time for 64 queries: kept, they would be 1/d of the training set in memory.
    half_square = 0.5 * jnp.sum((rows - centre[None]) ** 2, axis=-1)
    size = equal_chunks(rows.shape[0], rows.shape[1] * rows.dtype.itemsize, None)
    return PointSet(rows, log_weights, centre, half_square, radius, size)


def _level(u: Array, sigma: Array, centre: Array, radius: Array) -> Array:
    return representable_noise_level(radius, jnp.sum(jnp.abs(u - centre)), sigma)


@jax.jit
def _nothing(centre: Array, u: Array) -> PartialPosterior:
    def stacked(x: Array) -> Array:
        # Of a definite dtype, like what comes back: another one would compile `_take` twice.
        return jnp.broadcast_to(lax.convert_element_type(x, x.dtype), (u.shape[0], *x.shape))

    return jax.tree.map(stacked, empty(centre, u.dtype))


@jax.jit
def _take(
    state: PartialPosterior,
    rows: Array,
    count: Any,
    log_weights: Array | None,
    centre: Array,
    radius: Array,
    u: Array,
    sigma: Array,
) -> PartialPosterior:
    """The posteriors of all points so far and those of one more chunk, for a batch of queries."""
    part = _part(rows, count, log_weights, centre, radius)

    def one(state: PartialPosterior, u: Array, sigma: Array) -> PartialPosterior:
        sigma = _level(u, sigma, centre, radius)
        both = jax.tree.map(
            lambda x, y: jnp.stack([x, y.astype(x.dtype)]), state, partial_posterior(part, u, sigma)
        )
        return merge(both, u, sigma)[0]

    return jax.vmap(one)(state, u, sigma)


@jax.jit
def _mean_and_variance(
    state: PartialPosterior, centre: Array, radius: Array, u: Array, sigma: Array
) -> tuple[Array, Array]:
    def one(state: PartialPosterior, u: Array, sigma: Array) -> tuple[Array, Array]:
        whole = summary(state, centre, u, _level(u, sigma, centre, radius))
        return centre + whole.mean, whole.variance

    return jax.vmap(one)(state, u, sigma)
