"""Folders of images, of one size and depth: with a folder for each class, or without."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .._checks import import_optional
from .._files.npy import Unreadable, first_line, reason
from ._array_files import bad, refuse_bomb

_IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
)
_MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def read_folder(path: Path) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]:
    """Images, labels and the names of the classes."""
    visible = [entry for entry in _entries(path) if not entry.name.startswith(".")]
    here = _images_of(visible)
    classes = {entry.name: _images_of(_entries(entry)) for entry in visible if is_folder(entry)}
    classes = {name: files for name, files in classes.items() if files}
    if here and classes:
        raise bad(path, "there are images both in it and in its sub-folders")
    files = here or [file for group in classes.values() for file in group]
    if not files:
        raise bad(
            path,
            "there are no images in it or directly in its sub-folders; looked for "
            f"{', '.join(sorted(_IMAGE_SUFFIXES))}",
        )
    first = _read_image(files[0])
    images = np.empty((len(files), *first.shape), np.uint8)
    for i, file in enumerate(files):
        image = first if i == 0 else _read_image(file)
        if image.shape != first.shape:
            raise bad(
                file,
                f"(height, width, channels) is {image.shape}, but {first.shape} in "
                f"'{files[0]}'; all images of a folder must agree",
            )
        images[i] = image
    if here:
        return images, None, None
    sizes = [len(group) for group in classes.values()]
    return images, np.repeat(np.arange(len(classes)), sizes), tuple(classes)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise bad(folder, f"it cannot be opened ({reason(error)})") from error


def is_folder(entry: Path) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _images_of(entries: list[Path]) -> list[Path]:
    return [
        entry
        for entry in entries
        if entry.suffix.lower() in _IMAGE_SUFFIXES
        and not entry.name.startswith(".")
        and entry.is_file()
    ]


def _read_image(path: Path) -> np.ndarray:
    pil, ops = import_optional("PIL.Image"), import_optional("PIL.ImageOps")
    try:
        # Pillow warns of damaged notes beside the pixels, which many a camera leaves, and which are not read here.
        with warnings.catch_warnings(action="ignore"), pil.open(path) as image:
            # Before there is memory for them.
            size = image.width * image.height * len(image.getbands())
            refuse_bomb("it", size, os.path.getsize(path))
            mode, pages = image.mode, getattr(image, "n_frames", 1)
            # Cameras hide previews and depths behind the one picture of a JPEG.
            pages = 1 if image.format == "MPO" else pages
            is_deep = mode in _MODES and _is_deep(image)
            # As viewers show it: cameras store pictures lying on their side.
            ops.exif_transpose(image, in_place=True)
            pixels = np.asarray(image)
    except Unreadable as error:
        raise bad(path, str(error)) from error
    except Exception as error:
        # What Pillow raises on damaged files depends on the format and on where the damage is: OSError, SyntaxError,
        # ValueError, EOFError, DecompressionBombError, TypeError, KeyError, struct.error and more.
        raise bad(path, f"it is not an image, or damaged ({first_line(error)})") from error
    if pages > 1:
        raise bad(
            path,
            f"it holds {pages} pages; expected one image a file: save the pages of a TIFF or the "
            "frames of an animation as files of their own",
        )
    if mode not in _MODES or pixels.ndim not in (2, 3):
        # A palette index or a 16-bit value must not pass for a shade of grey.
        raise bad(
            path, f"its mode is {mode!r}; expected one of {', '.join(_MODES)} (8 bits a channel)"
        )
    if is_deep:
        raise bad(
            path,
            f"it has more than 8 bits a channel (mode {mode!r}), which would be cut to 8; save the "
            "numbers as a .npy file",
        )
    return pixels.reshape(*pixels.shape[:2], _MODES[mode])


def _is_deep(image: Any) -> bool:
    """Whether Pillow is about to cut wider channels to 8 bits."""
    if not image.tile:
        return False
    arguments = image.tile[0][3]
    raw, *more = arguments if isinstance(arguments, tuple) else (arguments,)
    if image.format == "PPM":
        return any(isinstance(largest, int) and largest > 255 for largest in more)
    # "BGR;16" is five or six bits of each of three colours.
    return ";16" in str(raw) and not str(raw).startswith("BGR")
