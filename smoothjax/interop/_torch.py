"""PyTorch modules as functions of NumPy arrays."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import ArrayLike, Float

from .._checks import as_host_floats, as_positive_integer, import_optional
from .._kinds import checks_kinds
from ..parametrization import Prediction
from ..processes import AbstractProcess
from ._host import HostFunction, Refusal, described
from ._prediction import PredictionDenoiser
from ._schedule import DDPMSchedule
from ._torch_modules import (
    cut,
    floating,
    floating_dtypes,
    owners_of,
    require_module,
    require_usable,
)

Layout = Literal["chw", "hwc"]
Labels = int | Float[ArrayLike, " k"] | None


class TorchNetwork:
    """A module as a function of arrays: `network(x, t)`, and its derivative `network.jvp(x, t, dx, dt)`.

    The module stays where it is, on its device and in its dtype. Points go to it in that dtype; times in float32, or
    float64 with such a module, because half precision would round them.
    """

    argument_name = "module"

    def __init__(
        self,
        module: Callable[..., Any],
        shape_or_dim: int | tuple[int, int, int],
        *,
        layout: Layout = "chw",
        labels: Labels = None,
        label_argument: str | None = None,
        learned_variance: bool = False,
        levels: tuple[float, float] | None = None,
        is_step_function_of_sigma: bool = False,
    ):
        torch = import_optional("torch", extra="torch")
        self.image_shape = shape_or_dim if isinstance(shape_or_dim, tuple) else None
        if self.image_shape is not None and len(self.image_shape) != 3:
            raise ValueError(
                f"`shape_or_dim` must be a dimension or (height, width, channels); got {shape_or_dim}."
            )
        lengths = self.image_shape if self.image_shape is not None else (shape_or_dim,)
        self.dim = int(np.prod([as_positive_integer(n, "shape_or_dim") for n in lengths]))
        if layout not in ("chw", "hwc"):
            raise ValueError(f"`layout` must be 'chw' or 'hwc'; got {layout!r}.")
        self.module, self.layout, self.learned_variance = module, layout, learned_variance
        self.labels, self.label_argument = _as_labels(labels), label_argument
        self.levels, self.is_step_function_of_sigma = levels, is_step_function_of_sigma
        require_module(module, "module")
        self._owners = owners_of(module, torch.nn.Module)
        for owner in self._owners:
            require_usable(owner)

    def __repr__(self) -> str:
        shape = self.dim if self.image_shape is None else self.image_shape
        return f"TorchNetwork({type(self.module).__name__}, {shape})"

    @property
    def resolution(self) -> float:
        """Relative spacing of the module's numbers."""
        like = self._like()
        return 0.0 if like is None else float(import_optional("torch").finfo(like.dtype).eps)

    def __call__(self, x: np.ndarray, t: np.ndarray) -> np.ndarray:
        torch = import_optional("torch", extra="torch")
        self._check_call(t)
        like = self._like()
        points, times = self._points(x, like), self._times(t, like)
        version = points._version
        with torch.no_grad():
            value = self._run(points, times)
        if points._version != version:
            raise Refusal(
                "`module` must not change its input in place, which is memory of JAX; got one that does. "
                "Start its forward pass with x = x.clone()."
            )
        return _as_array(value)

    def jvp(self, x: np.ndarray, t: np.ndarray, dx: np.ndarray, dt: np.ndarray) -> np.ndarray:
        """`(dnetwork/dx) dx + (dnetwork/dt) dt`, by `torch.autograd.functional.jvp`."""
        torch = import_optional("torch", extra="torch")
        self._check_call(t)
        like = self._like()
        points, along, times = self._points(x, like), self._points(dx, like), self._times(t, like)
        derivative = torch.autograd.functional.jvp
        with _differentiable_attention():
            if times.is_floating_point() and np.any(dt):
                ahead = self._times(dt.astype(t.dtype), like)
                return _as_array(derivative(self._run, (points, times), (along, ahead))[1])
            return _as_array(derivative(lambda x: self._run(x, times), points, along)[1])

    def explain(self, error: Exception, x: np.ndarray, t: np.ndarray) -> str:
        """What the module was called with when it raised, and what may help."""
        like = self._like()
        images = self._images(self._points(x, like))
        labels = "" if self.labels is None else f" and labels {cut(self.labels)}"
        called = f"called once with {described((images, self._times(t, like)))}{labels}."
        dtypes = floating_dtypes(self._owners)
        text = str(error)
        if "argument" in text and isinstance(error, TypeError):
            takes = "(x, t)" if self.labels is None else "(x, t, labels)"
            advice = (
                f"It must take {takes}; for a network of classes give `labels`, for other arguments a function: "
                "lambda x, t: module(x, t, ...)."
            )
        elif "class_label" in text and self.labels is None:
            advice = "For a network of classes give `labels`."
        elif self.labels is not None and ("class" in text or isinstance(error, IndexError)):
            advice = "`labels` must be a class that the network has, or None for a network without."
        elif len(dtypes) > 1:
            advice = f"Its parameters are in {' and '.join(dtypes)}: bring them to one by module.to(dtype)."
        elif like is None and ("type" in text or "float" in text.lower()):
            advice = (
                "Its own dtype is unknown: convert x inside, or give the torch.nn.Module itself."
            )
        elif "type" in text and like is not None and like.element_size() < 4:
            advice = "t is not rounded to half precision: convert it inside, after the embedding."
        elif self.image_shape is not None:
            h, w, c = self.image_shape
            other = "hwc" if self.layout == "chw" else "chw"
            advice = (
                f"Images have height {h}, width {w} and {c} channels, by `shape_or_dim`, in the layout {self.layout!r}; "
                f"the other is layout={other!r}."
            )
        else:
            advice = (
                "It must take x and t of these shapes and return a tensor like x; for a network of images give "
                "`shape_or_dim` as (height, width, channels)."
            )
        return f"{called} {advice}"

    def _like(self) -> Any:
        """A tensor with the module's device and floating dtype, or None."""
        return next(floating(self._owners), None)

    def _check_call(self, t: np.ndarray) -> None:
        if any(owner.training for owner in self._owners):
            raise Refusal(
                "`module` must be in evaluation mode; got one in training mode. Call module.eval()."
            )
        if self.levels is not None:
            (low, high), slack = self.levels, 1e-5
            if np.any(t < low * (1 - slack)) or np.any(t > high * (1 + slack)):
                raise Refusal(
                    f"The network is for noise levels from {low:g} to {high:g}; got {np.min(t):g} to {np.max(t):g}. "
                    "Give `sigma_min` and `sigma_max` within."
                )

    def _points(self, array: np.ndarray, like: Any) -> Any:
        tensor = _as_tensor(array)
        return tensor if like is None else tensor.to(like.device, like.dtype)

    def _times(self, array: np.ndarray, like: Any) -> Any:
        torch = import_optional("torch", extra="torch")
        tensor = _as_tensor(array)
        if not tensor.is_floating_point():
            tensor = tensor.long()
        elif like is not None:
            tensor = tensor.to(torch.promote_types(torch.float32, like.dtype))
        return tensor if like is None else tensor.to(like.device)

    def _images(self, points: Any) -> Any:
        if self.image_shape is None:
            return points
        images = points.reshape(-1, *self.image_shape)
        return images.permute(0, 3, 1, 2).contiguous() if self.layout == "chw" else images

    def _run(self, points: Any, times: Any) -> Any:
        images = self._images(points)
        value = self._labelled_call(images, times)
        torch = import_optional("torch", extra="torch")
        if not isinstance(value, torch.Tensor) and torch.is_tensor(getattr(value, "sample", None)):
            value = value.sample  # an output of diffusers
        value = self._mean(value, images)
        if self.image_shape is None:
            return value
        images = value.permute(0, 2, 3, 1) if self.layout == "chw" else value
        return images.reshape(len(images), -1)

    def _labelled_call(self, images: Any, times: Any) -> Any:
        if self.labels is None:
            return self.module(images, times)
        torch = import_optional("torch", extra="torch")
        if isinstance(self.labels, int):
            labels = torch.full((len(images),), self.labels, device=images.device)
        else:
            row = torch.as_tensor(self.labels, dtype=images.dtype, device=images.device)
            labels = row.expand(len(images), -1)
        if self.label_argument is None:
            return self.module(images, times, labels)
        return self.module(images, times, **{self.label_argument: labels})

    def _mean(self, value: Any, images: Any) -> Any:
        """The output that is asked for, without a learned variance, or `Refusal`."""
        torch = import_optional("torch", extra="torch")
        expected = f"`module` must return a real tensor of shape {tuple(images.shape)}, as x"
        if not torch.is_tensor(value):
            inside = {
                tuple: " Take its entry: lambda x, t: module(x, t)[0].",
                list: " Take its entry: lambda x, t: module(x, t)[0].",
                np.ndarray: " For functions of NumPy arrays there is from_numpy.",
            }.get(type(value), " Return the tensor alone.")
            if isinstance(value, Mapping):
                inside = f" Take its entry: lambda x, t: module(x, t)[{next(iter(value), '')!r}]."
            came = "None" if value is None else type(value).__name__
            raise Refusal(f"{expected}; got {came}.{inside}")
        if not value.is_floating_point():
            raise Refusal(
                f"{expected}; got {str(value.dtype).removeprefix('torch.')}. Return a floating dtype, without a cast."
            )
        axis = 1 if self.image_shape is None or self.layout == "chw" else 3
        double = list(images.shape)
        double[axis] *= 2
        if list(value.shape) == double:
            if self.learned_variance:
                return value.narrow(axis, 0, images.shape[axis])
            raise Refusal(
                f"{expected}; got {tuple(value.shape)}, twice as many channels. If the second half is a learned variance, "
                "give learned_variance=True, which leaves it out."
            )
        if self.learned_variance:
            raise Refusal(
                f"`module` must return twice the channels of x with `learned_variance`, shape {tuple(double)}; got "
                f"{tuple(value.shape)}. Leave the option out for a network without."
            )
        if value.shape != images.shape:
            advice = (
                "Keep the batch axis, the first."
                if self.image_shape is None
                else f"The layout is {self.layout!r}, `shape_or_dim` is (height, width, channels) = {self.image_shape}."
            )
            raise Refusal(f"{expected}; got {tuple(value.shape)}. {advice}")
        return value


def _as_tensor(array: np.ndarray) -> Any:
    torch = import_optional("torch", extra="torch")
    try:
        return torch.from_dlpack(array)
    except BufferError:  # releases of NumPy that hand over no read-only memory
        return torch.from_numpy(np.array(array))


def _as_array(tensor: Any) -> np.ndarray:
    # NumPy has no bfloat16.
    torch = import_optional("torch", extra="torch")
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().cpu().numpy()


def _differentiable_attention() -> Any:
    """The fused kernels of attention have no second derivative, by which PyTorch computes products with Jacobians."""
    try:
        attention = import_optional("torch.nn.attention", extra="torch")
    except ImportError:
        return contextlib.nullcontext()
    return attention.sdpa_kernel(attention.SDPBackend.MATH)


def _as_labels(labels: Any) -> int | np.ndarray | None:
    if labels is None:
        return None
    if isinstance(labels, int | np.integer) and not isinstance(labels, bool) and labels >= 0:
        return int(labels)
    vector = None if isinstance(labels, bool | int | str) else as_host_floats(labels, "labels")
    if vector is None or vector.ndim != 1:
        came = f"shape {vector.shape}" if vector is not None else cut(labels)
        raise ValueError(
            f"`labels` must be one class for all points, an integer from 0 or a vector, or None; got {came}. "
            "For several classes make a denoiser for each."
        )
    return vector


def denoiser_of(
    network: TorchNetwork,
    prediction: Prediction | str,
    process: AbstractProcess | DDPMSchedule | None,
) -> PredictionDenoiser:
    """The denoiser of a module, which is tried once."""
    host = HostFunction(network, network.jvp)
    return PredictionDenoiser(host, network.dim, prediction=prediction, process=process)


@checks_kinds
def from_torch(
    module: Any,
    shape_or_dim: int | tuple[int, int, int],
    *,
    prediction: Prediction | str = "x0",
    process: AbstractProcess | DDPMSchedule | None = None,
    layout: Layout = "chw",
    labels: Labels = None,
    learned_variance: bool = False,
) -> PredictionDenoiser:
    """A PyTorch module as a denoiser. It stays where it is, on its device and in its dtype, and runs in batches.

    Args:
        module: `module(x, t)` of tensors of shape (batch, d), or of images, and (batch,), returning one like x or an output
            of diffusers with one as `.sample`: a `torch.nn.Module` in evaluation mode, or any callable of tensors. Where the
            callable is a method, or names or holds modules, they are found; otherwise its tensors are on the CPU in the
            caller's dtype. t is in float32 whatever half precision the module has; with a `DDPMSchedule` of
            nearest indices, in int64.
        shape_or_dim: dimension d, or the image shape (height, width, channels) in which points are flattened here.
        prediction, process: see `PredictionDenoiser`; the process is needed for all predictions but `"x0"`.
        layout: of the images that the module takes and returns, (batch, channels, height, width) for `"chw"`.
        labels: one class for all points, passed as the third argument: an integer, as a tensor of shape (batch,) in int64;
            or a vector (k,), such as a one-hot one, as a tensor of shape (batch, k).
        learned_variance: whether the module returns twice the channels of x, of which the second half is left out.

    Values are computed without gradients, and arrays on the CPU are handed over by DLPack without a copy (points in float64
    to a module in float32 need one). Forward-mode derivatives, for likelihoods and covariances, are those of
    `torch.autograd.functional.jvp`, which asks of the module's operations that they can be differentiated twice; attention
    then runs in PyTorch's own operations instead of its fused kernels. `denoiser.network.calls` counts the calls.

    The module is called once with two points when the denoiser is built, and compared with a difference along one direction
    when its derivatives are first asked for. A denoiser can be pickled if its module can.

    Raises:
        ValueError: for a module with a part in training mode, whose dropout and batch statistics would make it random;
            one that fails or returns something else; one that changes its input in place; and, when derivatives are asked
            for, one that cuts them off.
        ImportError: where PyTorch is not installed.

    Example:
        >>> import torch, smoothjax as sj  # doctest: +SKIP
        >>> ddpm = sj.interop.DDPMSchedule.linear()  # doctest: +SKIP
        >>> D = sj.interop.from_torch(unet.eval(), (32, 32, 3), prediction="eps", process=ddpm)  # doctest: +SKIP
    """
    network = TorchNetwork(
        module, shape_or_dim, layout=layout, labels=labels, learned_variance=learned_variance
    )
    return denoiser_of(network, prediction, process)
