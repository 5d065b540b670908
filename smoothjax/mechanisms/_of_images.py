"""The mechanisms of images, by their patches; slower than the others."""

from collections.abc import Callable
from functools import partial

from jaxtyping import Array, Float

from ..datasets import Dataset
from ..denoisers import (
    Denoiser,
    EquivariantLocalDenoiser,
    LocalDenoiser,
    PatchCompositeDenoiser,
    WienerMaskDenoiser,
)
from ._mechanism import Mechanism, Strength, register

PATCH_SIZES = (1, 3, 5, 7, 9, 11, 15, 21, 27)
THRESHOLDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)


def _images(train: Dataset) -> Float[Array, "n H W C"]:
    if train.image_shape is None:
        raise ValueError(f"Local denoisers need images; {train.name!r} has points without shape.")
    return train.points.reshape(-1, *train.image_shape)


def _window(train: Dataset) -> int:
    """An odd number of pixels, about a third of the shorter side: for a start; `calibrate_patch_size` finds what suits."""
    images = _images(train)
    return 2 * (min(images.shape[1:3]) // 6) + 1


def _patch_sizes(train: Dataset) -> tuple[float, ...]:
    side = min(_images(train).shape[1:3])
    return tuple(size for size in PATCH_SIZES if size <= side)


def _thresholds(train: Dataset) -> tuple[float, ...]:
    _images(train)  # raises where there are none
    return THRESHOLDS


def _of_patches(kind: Callable[..., Denoiser], *, by_default: bool = True) -> Strength:
    """The patch size of a denoiser of patches."""
    make = lambda train, seed: lambda size: kind(_images(train), int(size), layout="hwc")  # noqa: E731
    return Strength(
        *("patch size", _patch_sizes, make, "pixels"),
        has_one_minimum=True,
        by_default=by_default,
        default=_window,
        meaning="the side of the window that a pixel is denoised from: the smaller, the more freely parts of different "
        "training images are put together",
        has_least=True,
    )


register(
    Mechanism(
        "local",
        "posterior mean of each pixel given its window, a third of the side; for images",
        lambda train, seed: LocalDenoiser(_images(train), _window(train), layout="hwc"),
        by_default=lambda train: False,
        strength=_of_patches(LocalDenoiser),
    )
)
register(
    Mechanism(
        "equivariant-local",
        "the same with the windows of all positions with such a border: convolutional networks' inductive bias",
        lambda train, seed: EquivariantLocalDenoiser(_images(train), _window(train), layout="hwc"),
        by_default=lambda train: False,
        strength=_of_patches(EquivariantLocalDenoiser),
    )
)
# For networks whose convolutions wrap around: twice the work, and the same far from the border.
for _name, _kind in (("local", LocalDenoiser), ("equivariant-local", EquivariantLocalDenoiser)):
    _wrapped = partial(_kind, boundary="circular")
    register(
        Mechanism(
            f"{_name}-circular",
            f"as {_name}, with windows that wrap around: for circular padding",
            lambda train, seed, make=_wrapped: make(_images(train), _window(train), layout="hwc"),
            by_default=lambda train: False,
            strength=_of_patches(_wrapped, by_default=False),
        )
    )
register(
    Mechanism(
        "patch-composite",
        "posterior means of all crops, a third of the side, averaged over those that cover a pixel; for images",
        lambda train, seed: PatchCompositeDenoiser(_images(train), _window(train), layout="hwc"),
        by_default=lambda train: False,
        strength=_of_patches(PatchCompositeDenoiser),
    )
)
register(
    Mechanism(
        "wiener-mask",
        "posterior mean of each pixel given those that the Gaussian denoiser uses for it; for images",
        lambda train, seed: WienerMaskDenoiser(_images(train), layout="hwc"),
        by_default=lambda train: False,
        strength=Strength(
            "threshold",
            _thresholds,
            lambda train, seed: (
                lambda value: WienerMaskDenoiser(_images(train), value, layout="hwc")
            ),
            meaning="the share of its largest entry that an entry of the Gaussian denoiser has at least, for its pixel to "
            "be used: the larger, the fewer pixels",
        ),
    )
)
