"""Networks of diffusers and of EDM, which say themselves what they predict and of which images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._checks import import_optional
from .._kinds import checks_kinds
from ._prediction import PredictionDenoiser
from ._schedule import DDPMSchedule, IndexRule
from ._torch import Labels, TorchNetwork, denoiser_of
from ._torch_modules import require_module


@checks_kinds
def from_diffusers(
    unet: Any,
    scheduler: Any,
    shape: tuple[int, int, int] | None = None,
    *,
    labels: Labels = None,
    learned_variance: bool = False,
    index: IndexRule = "interpolated",
) -> PredictionDenoiser:
    """A network of diffusers, such as `UNet2DModel`, with the scheduler that it was trained with, as a denoiser.

    What the network predicts and its noise levels are those of the scheduler. Clipping and thresholding are its sampler's,
    and are left out. Everything else is as in `from_torch`.

    Args:
        unet: `unet(x, t)` or `unet(x, t, class_labels=...)`, in evaluation mode.
        scheduler: a scheduler with betas, such as `DDPMScheduler`, or its `.config`, for its `prediction_type` too.
        shape: of an image, (height, width, channels); by default the `sample_size` and `in_channels` of `unet.config`.
        labels: one class for all images, passed as `class_labels`; see `from_torch`.
        learned_variance: whether the network returns twice the channels, of which the second half is left out.
        index: the rule for noise levels between those of the scheduler, see `DDPMSchedule`.

    Raises:
        ValueError: as `from_torch` and `DDPMSchedule.from_diffusers`; and for a network without a shape.
        ImportError: where PyTorch is not installed.

    Source: diffusers (von Platen et al. 2022), `UNet2DModel`, `DDPMScheduler`.

    Example:
        >>> from diffusers import DDPMPipeline  # doctest: +SKIP
        >>> pipeline = DDPMPipeline.from_pretrained("google/ddpm-cifar10-32")  # doctest: +SKIP
        >>> D = sj.interop.from_diffusers(pipeline.unet.eval(), pipeline.scheduler)  # doctest: +SKIP
    """
    require_module(unet, "unet")
    if shape is None:
        config = getattr(unet, "config", None)
        size, channels = (getattr(config, name, None) for name in ("sample_size", "in_channels"))
        if size is None or channels is None:
            raise ValueError(
                "`shape` must be (height, width, channels) for a network whose config has no sample_size and in_channels; "
                f"got None, and a {type(unet).__name__}."
            )
        height, width = (size, size) if isinstance(size, int) else size
        shape = (height, width, channels)
    process = DDPMSchedule.from_diffusers(scheduler, index)
    config = getattr(scheduler, "config", scheduler)
    told = config if isinstance(config, Mapping) else vars(config)
    prediction = told.get(
        "prediction_type", "epsilon"
    )  # as in configurations from before it was one
    network = TorchNetwork(
        unet,
        shape,
        labels=labels,
        label_argument="class_labels",
        learned_variance=learned_variance,
    )
    return denoiser_of(network, prediction, process)


@checks_kinds
def from_edm(
    net: Any, shape: tuple[int, int, int] | int | None = None, *, labels: Labels = None
) -> PredictionDenoiser:
    """A network in the form of EDM's code, `net(x, sigma, labels)` that returns D, as a denoiser.

    Args:
        net: a module in evaluation mode, of images (batch, channels, height, width) or of points (batch, d). Where it has
            `sigma_min` and `sigma_max`, other noise levels are refused; where its `round_sigma` rounds, adaptive steps are.
        shape: of an image, (height, width, channels), or the dimension d; by default `net.img_resolution` and
            `net.img_channels`.
        labels: one class for all images: an integer, of which a network with a `label_dim` is given the one-hot vector; or
            the vector itself.

    Raises:
        ValueError: as `from_torch`; for a network without a shape, and a label that it does not have.
        ImportError: where PyTorch is not installed.

    Source: Karras et al. 2022, `networks.py` of their code (`EDMPrecond`).

    Example:
        >>> with open("edm-cifar10-32x32-cond-vp.pkl", "rb") as file:  # doctest: +SKIP
        ...     net = pickle.load(file)["ema"]
        >>> D = sj.interop.from_edm(net.eval(), labels=3)  # doctest: +SKIP
    """
    require_module(net, "net")
    if shape is None:
        size, channels = (getattr(net, name, None) for name in ("img_resolution", "img_channels"))
        if size is None or channels is None:
            raise ValueError(
                "`shape` must be (height, width, channels) or a dimension for a network without img_resolution and "
                f"img_channels; got None, and a {type(net).__name__}."
            )
        shape = (size, size, channels)
    num_labels = int(getattr(net, "label_dim", 0) or 0)
    if num_labels and isinstance(labels, int | np.integer) and not isinstance(labels, bool):
        if not 0 <= labels < num_labels:
            raise ValueError(f"`labels` must be from 0 to {num_labels - 1}; got {labels}.")
        labels = np.eye(num_labels, dtype=np.float32)[labels]
    levels = float(getattr(net, "sigma_min", 0.0)), float(getattr(net, "sigma_max", np.inf))
    network = TorchNetwork(
        net, shape, labels=labels, levels=levels, is_step_function_of_sigma=_rounds(net)
    )
    return denoiser_of(network, "x0", None)


def _rounds(net: Any) -> bool:
    """Whether the network takes the nearest of some noise levels."""
    round_sigma = getattr(net, "round_sigma", None)
    if round_sigma is None:
        return False
    torch = import_optional("torch", extra="torch")
    parameter = next(iter(net.parameters()), None)
    given = torch.tensor([1.2345], device=None if parameter is None else parameter.device)
    return bool((torch.as_tensor(round_sigma(given)) - given).abs().max() > 1e-5)
