"""Denoisers from elsewhere: PyTorch modules and NumPy functions on the host, and networks that predict noise or velocity."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from ._checks import (
    RealScalar,
    as_float_array,
    as_host_floats,
    as_positive_integer,
    import_optional,
    require_positive,
)
from .denoisers import AbstractDenoiser, Denoiser
from .parametrization import Prediction, as_prediction, from_denoised, to_denoised
from .processes import EDM, AbstractProcess, FlowMatching, VariancePreserving

Network = Callable[[Float[Array, " d"], Any], Float[Array, " d"]]
"""Any JAX callable `(x_t, t) -> (d,)` for one point, in the coordinates and the time of its process."""


class HostFunction(eqx.Module):
    """A NumPy function on batches as a JAX function of one point.

    `jax.vmap`, nested or not, reaches `function` once with the whole batch; so do `smoothjax.sample` and the measures. It is
    called anew whenever its values are needed: what it reads may change between calls, but it must be a pure function
    within one. Inside, do not call JAX.

    Args:
        function: `function(x, t)` of arrays of shape (batch, d) and (batch,), returning (batch, d).
        jvp: its derivative, `jvp(x, t, dx, dt)` of arrays of shape (batch, d), (batch,), (batch, d) and (batch,), returning
            `(dfunction/dx) dx + (dfunction/dt) dt`, shape (batch, d). With it, first derivatives exist in forward mode:
            `jax.jvp`, `jax.linearize`, `jax.jacfwd`, which is what likelihoods and posterior covariances take. Those in
            reverse mode (`jax.grad`) do not, and raise.

    Raises:
        ValueError: when differentiated without `jvp`. A result of another shape is an error at run time.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smoothjax.interop import HostFunction
        >>> shrink = HostFunction(lambda x, t: x / (1 + t[:, None] ** 2))
        >>> print(jax.vmap(shrink, in_axes=(0, None))(jnp.ones((2, 3)), 1.0))
        [[0.5 0.5 0.5]
         [0.5 0.5 0.5]]
    """

    function: Callable[..., Any] = eqx.field(static=True)
    jvp: Callable[..., Any] | None = eqx.field(static=True)

    def __init__(self, function: Callable[..., Any], jvp: Callable[..., Any] | None = None):
        for name, value in (("function", function), ("jvp", jvp)):
            if not callable(value) and (name == "function" or value is not None):
                raise ValueError(f"`{name}` must be callable; got {type(value).__name__}.")
        self.function, self.jvp = function, jvp

    def __call__(self, x: Float[Array, " d"], t: Real[ArrayLike, ""]) -> Float[Array, " d"]:
        x, t = as_float_array(x, "x"), jnp.asarray(t)
        if x.ndim != 1 or t.ndim != 0:
            raise ValueError(
                f"`x` must be one point of shape (d,) and `t` a scalar; got {x.shape} and {t.shape}. "
                "For a batch, use jax.vmap."
            )
        return _call(self.function, self.jvp, x, t)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _call(function: Any, jvp: Any, x: Array, t: Array) -> Array:
    return _on_host(function, x, t)


@_call.defjvp
def _call_jvp(function: Any, jvp: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    if jvp is None:
        raise ValueError(
            "This function runs on the host and cannot be differentiated by JAX; give its derivative as `jvp`."
        )
    (x, t), (dx, dt) = primals, tangents
    # The tangent of an integer, such as the index of a noise level.
    dt = jnp.zeros((), x.dtype) if dt.dtype == jax.dtypes.float0 else dt
    return _on_host(function, x, t), _on_host(jvp, x, t, dx, dt)


def _on_host(function: Callable[..., Any], x: Array, *others: Array) -> Array:
    """One call of `function` with all points there are: every argument gets one batch axis."""
    dim, dtype, ranks = x.shape[0], x.dtype, [1, *(other.ndim for other in others)]

    def call(*arguments: Any) -> np.ndarray:
        arrays = [np.asarray(argument) for argument in arguments]
        axes = [a.shape[: a.ndim - rank] for a, rank in zip(arrays, ranks, strict=True)]
        batch = np.broadcast_shapes(*axes)
        result = np.asarray(
            function(
                *(
                    np.broadcast_to(a, batch + a.shape[a.ndim - rank :]).reshape(
                        -1, *a.shape[a.ndim - rank :]
                    )
                    for a, rank in zip(arrays, ranks, strict=True)
                )
            )
        )
        num = int(np.prod(batch))
        if result.shape != (num, dim):
            raise ValueError(
                f"The function must return an array of shape {(num, dim)}, as its first argument; got {result.shape}."
            )
        return result.astype(dtype, copy=False).reshape(*batch, dim)

    shape = jax.ShapeDtypeStruct((dim,), dtype)
    return jax.pure_callback(call, shape, x, *others, vmap_method="expand_dims")


class DDPMSchedule(eqx.Module):
    """The noise levels of a discrete variance-preserving model: `alpha_k^2 = prod_{j <= k} (1 - beta_j)`, k = 0, 1, ...

    Stands in for a process where a network is told the index k. A noise level between those of the schedule has no index
    of its own. The input is scaled for the true noise level in any case, `x = u / sqrt(1 + sigma^2)`; for the index the
    rule is, as in k-diffusion's wrappers:

    - `"nearest"`: the integer whose noise level is nearest in `log sigma`;
    - `"interpolated"`: the real number that is linear in `log sigma` between the indices.

    Noise levels beyond the ends get the index of the end.

    Args:
        betas: shape (steps,), each in (0, 1).
        index: the rule.

    Source: Ho et al. 2020 (the schedule); Karras et al. 2022, appendix C.3.

    Example:
        >>> from smoothjax.interop import DDPMSchedule
        >>> schedule = DDPMSchedule.linear()
        >>> int(schedule.time(1.0))
        258
    """

    log_levels: Float[Array, " steps"]
    index: Literal["nearest", "interpolated"] = eqx.field(static=True)

    def __init__(
        self,
        betas: Float[ArrayLike, " steps"],
        index: Literal["nearest", "interpolated"] = "nearest",
    ):
        values = as_host_floats(betas, "betas", np.float64)
        if values.ndim != 1 or values.size < 2 or not np.all((values > 0) & (values < 1)):
            raise ValueError(
                f"`betas` must be at least two numbers in (0, 1); got shape {values.shape}, "
                f"from {np.min(values, initial=np.inf):g} to {np.max(values, initial=-np.inf):g}."
            )
        if index not in ("nearest", "interpolated"):
            raise ValueError(f"`index` must be 'nearest' or 'interpolated'; got {index!r}.")
        # In float64 whatever JAX's mode is: sigma^2 = 1 / prod (1 - beta) - 1 cancels at the first steps.
        log_levels = 0.5 * np.log(np.expm1(-np.cumsum(np.log1p(-values))))
        self.log_levels, self.index = jnp.asarray(log_levels, jnp.result_type(float)), index

    @classmethod
    def linear(
        cls,
        num_steps: int = 1000,
        beta_min: float = 1e-4,
        beta_max: float = 0.02,
        index: Literal["nearest", "interpolated"] = "nearest",
    ) -> "DDPMSchedule":
        """Evenly spaced betas; the defaults are those of Ho et al.

        Example:
            >>> from smoothjax.interop import DDPMSchedule
            >>> schedule = DDPMSchedule.linear(2, beta_min=0.5, beta_max=0.5)
            >>> print(schedule.noise_level(0).round(5))  # sqrt(beta / (1 - beta))
            1.0
        """
        return cls(
            np.linspace(beta_min, beta_max, as_positive_integer(num_steps, "num_steps")), index
        )

    def noise_level(self, t: Real[ArrayLike, ""]) -> Float[Array, ""]:
        """The noise level of an index, interpolated as its logarithm."""
        t = as_float_array(t, "t")
        indices = jnp.arange(self.log_levels.shape[0], dtype=t.dtype)
        return jnp.exp(jnp.interp(t, indices, self.log_levels.astype(t.dtype)))

    def time(self, noise_level: RealScalar) -> Real[Array, ""]:
        """The index of a noise level by the rule: int32 if nearest, else of the level's dtype."""
        level = require_positive(noise_level, "noise_level")
        log_levels, log_level = self.log_levels.astype(level.dtype), jnp.log(level)
        if self.index == "interpolated":
            indices = jnp.arange(log_levels.shape[0], dtype=level.dtype)
            return jnp.interp(log_level, log_levels, indices)
        middle = (log_levels[:-1] + log_levels[1:]) / 2
        return jnp.searchsorted(middle, log_level).astype(jnp.int32)

    def to_noise_coordinates(
        self, x: Float[ArrayLike, " d"], t: Real[ArrayLike, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """`(x / alpha, sigma)` of a state at an index."""
        x = as_float_array(x, "x")
        level = self.noise_level(as_float_array(t, "t").astype(x.dtype))
        return x * jnp.hypot(1, level), level

    def from_noise_coordinates(
        self, u: Float[ArrayLike, " d"], noise_level: RealScalar
    ) -> tuple[Float[Array, " d"], Real[Array, ""]]:
        """`(alpha u, index)`: alpha is that of the noise level, the index by the rule."""
        level = require_positive(noise_level, "noise_level")
        return as_float_array(u, "u") / jnp.hypot(1, level), self.time(level)


class PredictionDenoiser(AbstractDenoiser):
    r"""A network that predicts something of `x_t = alpha x_0 + sigma_t z` at time t, as a denoiser of `u = x_t / alpha`.

    | prediction   | the output o is the mean of         | D, with sigma = sigma_t / alpha | processes           |
    |--------------|-------------------------------------|---------------------------------|---------------------|
    | `"x0"`       | `x_0`                               | `o`                             | all                 |
    | `"eps"`      | `z`                                 | `u - sigma o`                   | all                 |
    | `"v"`        | `alpha z - sigma_t x_0`             | `alpha x_t - sigma_t o`         | variance preserving |
    | `"velocity"` | `z - x_0`                           | `x_t - t o`                     | flow matching       |
    | `"score"`    | `-z / sigma_t` (the score in `x_t`) | `u + (sigma_t^2 / alpha) o`     | all                 |

    Variance preserving are `VariancePreserving` and `DDPMSchedule`. The names are those of `parametrization`, which also
    has the aliases of other libraries (`"epsilon"`, `"v_prediction"`, `"sample"`, ...). EDM's D is `"x0"` with the process
    `EDM()`, the defaults.

    Args:
        network: `(x_t, t) -> (d,)` for one point, in JAX: an Equinox module, or a `HostFunction`.
        dim: dimension d of the data.
        prediction: what it predicts.
        process: of its coordinates, which maps noise levels to its times.

    Raises:
        ValueError: for a prediction that the process does not have.

    Source: Ho et al. 2020 (eps); Salimans and Ho 2022 (v); Liu et al. 2023 (velocity).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> from smoothjax.interop import PredictionDenoiser
        >>> eps = lambda x, t: t * x / (1 + t**2)  # the mean of the noise for standard normal data, with sigma = t
        >>> D = PredictionDenoiser(eps, 1, prediction="eps", process=sj.EDM())
        >>> print(D(jnp.array([3.0]), 1.0))  # u / (1 + sigma^2)
        [1.5]
    """

    network: Network
    _dim: int = eqx.field(static=True)
    prediction: Prediction = eqx.field(static=True)
    process: AbstractProcess | DDPMSchedule

    def __init__(
        self,
        network: Network,
        dim: int,
        *,
        prediction: Prediction = "x0",
        process: AbstractProcess | DDPMSchedule | None = None,
    ):
        if not callable(network):
            raise ValueError(f"`network` must be callable; got {type(network).__name__}.")
        self.network, self._dim = network, as_positive_integer(dim, "dim")
        self.process = EDM() if process is None else process
        self.prediction = _as_prediction(prediction, self.process)

    @property
    def dim(self) -> int:
        return self._dim

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        x, t = self.process.from_noise_coordinates(u, sigma)
        output = self.network(x, t)
        if output.shape != u.shape:
            raise ValueError(
                f"The network must return one point of shape {u.shape}; got {output.shape}."
            )
        output = output.astype(u.dtype)
        alpha = _alpha(self.process, sigma)
        return to_denoised(self.prediction, output, u, sigma, alpha)


def as_network(
    denoiser: Denoiser, prediction: Prediction, process: AbstractProcess | DDPMSchedule
) -> Network:
    """The network `(x_t, t) -> (d,)` that a denoiser is in another parametrisation: the inverse of `PredictionDenoiser`.

    To run an exact denoiser in somebody else's sampler, or against a network where it was trained. Everything but `"x0"`
    divides the denoiser's rounding error by `sigma` (`"score"` by `sigma^2`).

    Args:
        denoiser: any callable `(u, sigma) -> (d,)`.
        prediction, process: see `PredictionDenoiser`. Times must have a positive noise level.

    Raises:
        ValueError: for a prediction that the process does not have.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
        >>> network = sj.interop.as_network(D, "eps", sj.EDM())
        >>> print(network(jnp.array([3.0]), 1.0).round(5))  # the noise: (u - D) / sigma
        [1.5]
    """
    prediction = _as_prediction(prediction, process)

    def network(denoiser: Denoiser, process: Any, x: Array, t: Any) -> Array:
        u, sigma = process.to_noise_coordinates(x, t)
        sigma = sigma.astype(u.dtype)
        return from_denoised(prediction, denoiser(u, sigma), u, sigma, _alpha(process, sigma))

    return eqx.Partial(network, denoiser, process)


def _as_prediction(prediction: Any, process: Any) -> Prediction:
    if not isinstance(process, AbstractProcess | DDPMSchedule):
        raise ValueError(
            f"`process` must be a process or a DDPMSchedule; got {type(process).__name__}."
        )
    prediction = as_prediction(prediction)
    owners = {"v": (VariancePreserving, DDPMSchedule), "velocity": (FlowMatching,)}
    if prediction in owners and not isinstance(process, owners[prediction]):
        needed = " or ".join(owner.__name__ for owner in owners[prediction])
        raise ValueError(
            f"`prediction` {prediction!r} is for {needed}; got {type(process).__name__}."
        )
    return prediction


def _alpha(process: AbstractProcess | DDPMSchedule, sigma: Array) -> Array:
    """The factor on the data at a noise level."""
    return process.from_noise_coordinates(jnp.ones_like(sigma), sigma)[0]


def from_numpy(
    function: Callable[..., Any],
    dim: int,
    *,
    prediction: Prediction = "x0",
    process: AbstractProcess | DDPMSchedule | None = None,
    jvp: Callable[..., Any] | None = None,
) -> PredictionDenoiser:
    """A NumPy function of batches as a denoiser: `PredictionDenoiser(HostFunction(function, jvp), dim, ...)`.

    Args:
        function: `function(x, t)` of (batch, d) and (batch,), returning (batch, d); by default x is the noisy point u, t the
            noise level, and the result the denoised points.
        dim, prediction, process: see `PredictionDenoiser`.
        jvp: see `HostFunction`; needed for likelihoods.

    Example:
        >>> import jax, smoothjax as sj
        >>> from smoothjax.interop import from_numpy
        >>> D = from_numpy(lambda x, sigma: x / (1 + sigma[:, None] ** 2), 2)  # data N(0, 1)
        >>> sj.sample(D, jax.random.key(0), 100, steps=18).shape
        (100, 2)
    """
    network = HostFunction(function, jvp)
    return PredictionDenoiser(network, dim, prediction=prediction, process=process)


def from_torch(
    module: Callable[..., Any],
    shape_or_dim: int | tuple[int, int, int],
    *,
    prediction: Prediction = "x0",
    process: AbstractProcess | DDPMSchedule | None = None,
) -> PredictionDenoiser:
    """A PyTorch module as a denoiser. It stays where it is, on its device and in its dtype, and runs in batches.

    Args:
        module: `module(x, t)` of tensors of shape (batch, d), or (batch, channels, height, width), and (batch,), returning
            one like x: a `torch.nn.Module` in evaluation mode, or any callable of tensors (then on the CPU, in the caller's
            dtype). With a `DDPMSchedule` of nearest indices, t is of dtype int64.
        shape_or_dim: dimension d, or the image shape (height, width, channels) in which points are flattened here.
        prediction, process: see `PredictionDenoiser`.

    Values are computed without gradients, and arrays on the CPU are handed over by DLPack without a copy (points in float64
    to a module in float32 need one). Forward-mode derivatives, for likelihoods and covariances, are those of
    `torch.autograd.functional.jvp`, which asks of the module's operations that they can be differentiated twice.

    Raises:
        ValueError: for a module in training mode, whose dropout and batch statistics would make it random.
        ImportError: where PyTorch is not installed.

    Example:
        >>> import torch, smoothjax as sj  # doctest: +SKIP
        >>> ddpm = sj.interop.DDPMSchedule.linear()  # doctest: +SKIP
        >>> D = sj.interop.from_torch(unet.eval(), (32, 32, 3), prediction="eps", process=ddpm)  # doctest: +SKIP
    """
    torch = import_optional("torch", extra="torch")
    image_shape = shape_or_dim if isinstance(shape_or_dim, tuple) else None
    if image_shape is not None and len(image_shape) != 3:
        raise ValueError(
            f"`shape_or_dim` must be a dimension or (height, width, channels); got {shape_or_dim}."
        )
    lengths = image_shape if image_shape is not None else (shape_or_dim,)
    dim = int(np.prod([as_positive_integer(length, "shape_or_dim") for length in lengths]))
    if getattr(module, "training", False):
        raise ValueError("`module` is in training mode; call module.eval() first.")

    def as_tensor(array: np.ndarray, like: Any) -> Any:
        tensor = torch.from_dlpack(array)
        if array.dtype.kind == "i":
            tensor = tensor.long()
            return tensor if like is None else tensor.to(like.device)
        return tensor if like is None else tensor.to(like.device, like.dtype)

    def as_array(tensor: Any) -> np.ndarray:
        # NumPy has no bfloat16.
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()

    def as_images(points: Any) -> Any:
        if image_shape is None:
            return points
        return points.reshape(-1, *image_shape).permute(0, 3, 1, 2).contiguous()

    def as_points(images: Any) -> Any:
        if image_shape is None:
            return images
        return images.permute(0, 2, 3, 1).reshape(images.shape[0], -1)

    def parameter() -> Any:
        parameters = getattr(module, "parameters", None)
        return None if parameters is None else next(iter(parameters()), None)

    def run(x: Any, t: Any) -> Any:
        return as_points(module(as_images(x), t))

    def function(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        like = parameter()
        with torch.no_grad():
            return as_array(run(as_tensor(x, like), as_tensor(t, like)))

    def jvp(*arrays: np.ndarray) -> np.ndarray:
        like = parameter()
        x, t, dx, dt = (as_tensor(array, like) for array in arrays)
        if t.is_floating_point():
            return as_array(torch.autograd.functional.jvp(run, (x, t), (dx, dt))[1])
        return as_array(torch.autograd.functional.jvp(lambda x: run(x, t), x, dx)[1])

    return from_numpy(function, dim, prediction=prediction, process=process, jvp=jvp)
