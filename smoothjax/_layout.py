"""Where the channels of images stand: after rows and columns, or before them, as PyTorch has it."""

import sys
import warnings
from typing import Any, Literal

# (height, width, channels), as everywhere in this package, or (channels, height, width).
Layout = Literal["hwc", "chw"]
_NO_CALLERS = ("smoothjax", "equinox")


def require_layout(layout: Any) -> None:
    """Raise `ValueError` for what names no layout; None is left to what the shape looks like."""
    if layout not in (None, "hwc", "chw"):
        raise ValueError(f"`layout` must be 'hwc' or 'chw'; got {layout!r}.")


def channels_last(images: Any, layout: Layout | None, name: str, option: str = "") -> Any:
    """Images (n, ., ., .) of a layout as (n, height, width, channels).

    Without a layout, warns of a shape that looks like channels first, and raises `ValueError` where it surely has them.
    """
    if layout == "chw":
        return images.transpose(0, 2, 3, 1)
    first, *others = images.shape[1:]
    if layout is None and first in (1, 3, 4) and first < min(others):
        text = (
            f"{name} of shape {tuple(images.shape)} looks like channels first; expected (n, height, width, channels): "
            f"transpose(0, 2, 3, 1), or give layout='chw' (layout='hwc' if the height is {first}{option})."
        )
        if first != 4 and others[0] == others[1] > 4:
            raise ValueError(text)
        warnings.warn(text, UserWarning, stacklevel=stacklevel_of_caller())
    return images


def warn_of_channels_first(image_shape: tuple[int, int, int]) -> None:
    """Warns of what is given as (height, width, channels) and looks like (channels, height, width)."""
    first, *others = image_shape
    if first in (1, 3) and others[0] == others[1] > 4:
        warnings.warn(
            f"`image_shape` {image_shape} looks like channels first; expected (height, width, channels). For points in "
            "that order give layout='chw' besides, and layout='hwc' if the height is meant.",
            UserWarning,
            stacklevel=stacklevel_of_caller(),
        )


def stacklevel_of_caller() -> int:
    """`stacklevel` of the first frame outside of this package, as seen from the function that calls this one."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _NO_CALLERS:
            break
        frame, level = frame.f_back, level + 1
    return level
