"""Checkpoints: a folder with a configuration and the state of a training, each file written whole or not at all."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array

from .configuration import as_read_back, require_same
from .output import replacing

CONFIGURATION, STATE = "configuration.json", "state.eqx"


def open_folder(folder: str | os.PathLike[str], configuration: dict[str, Any]) -> Path:
    """The folder, made where there is none, or `ValueError` where it holds the training of another configuration."""
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} must be a folder; it is a file.")
    if not (path / CONFIGURATION).exists():
        path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(configuration, indent=2) + "\n"
        _replace(path / CONFIGURATION, lambda file: file.write(text.encode()))
        return path
    require_same(read_configuration(path), as_read_back(configuration), path, "the training")
    return path


def read_configuration(folder: Path) -> dict[str, Any]:
    """The configuration of a folder, or an error that says what is wrong."""
    path = folder / CONFIGURATION
    if not path.exists():
        raise FileNotFoundError(f"No training in {folder}: there is no {CONFIGURATION}.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a configuration: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a configuration: it holds {type(found).__name__}.")
    return found


def save_state(folder: Path, state: Any) -> None:
    """Replaces the state of a training, in one step."""
    _replace(folder / STATE, lambda file: eqx.tree_serialise_leaves(file, state))


def load_state(folder: Path, like: Any) -> Any | None:
    """The state, of the shapes and dtypes of `like`; None where none was saved yet."""
    path = folder / STATE
    if not path.exists():
        return None
    try:
        return eqx.tree_deserialise_leaves(path, like)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as the state of this training: {error}. Delete the folder to start again."
        ) from error


def _replace(path: Path, write: Any) -> None:
    # One name: what a killed process left behind is overwritten by the next.
    with replacing(path, f".{path.name}.tmp") as temporary, open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def fingerprint(array: Array) -> str:
    """A hash of an array's shape, dtype and values."""
    values = np.ascontiguousarray(array)
    header = f"{values.dtype} {values.shape} ".encode()
    return hashlib.sha256(header + values.tobytes()).hexdigest()


def refuse_training(out: str | os.PathLike[str] | None) -> None:
    """Raises `ValueError` where `out` holds a training, whose pictures results would replace."""
    if out is not None and (Path(out) / CONFIGURATION).exists():
        raise ValueError(f"{out} holds the training of a network. Choose another folder.")
