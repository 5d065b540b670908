"""Results that survive a kill: every part is written whole or not at all, and read back when the job starts again."""

import io
import json
import os
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .configuration import as_read_back, require_same
from .output import require_folder, write_bytes, write_text

# Whatever NumPy can store; arrays once they are read back.
Arrays = Mapping[str, Any]
MANIFEST = "manifest.json"


class ResultStore:
    """The parts of one job's result, in memory or, given a folder, in files that a later run takes up.

    Args:
        folder: where to keep the parts and the manifest; None keeps them in memory.
        configuration: everything that decides the numbers, as JSON data.

    Raises:
        ValueError: where the folder holds the results of another configuration, those of another precision included.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, configuration: dict[str, Any]):
        self._folder = None if folder is None else Path(folder)
        self._memory: dict[str, Arrays] = {}
        # That of the computation; data may be of another dtype.
        precision = {"precision": str(jnp.result_type(float))}
        self.manifest = {
            "configuration": configuration | precision,
            "environment": environment(),
        }
        if self._folder is None:
            return
        require_folder(self._folder)
        path = self._folder / MANIFEST
        if path.exists():
            self._check_manifest(path)
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(self.manifest, indent=2) + "\n")

    def _check_manifest(self, path: Path) -> None:
        try:
            found = json.loads(path.read_text())
            before = dict(found["configuration"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a manifest of this program: {error!r}.") from error
        now = as_read_back(self.manifest["configuration"])
        before = {"precision": now["precision"], **before}  # not said in the first manifests
        require_same(before, now, path.parent, "results")
        self.manifest = found

    def get(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """The part of that name: as it was found, or computed and kept."""
        if name in self._memory:
            return self._memory[name]
        path = None if self._folder is None else self._folder / "parts" / f"{name}.npz"
        arrays = None if path is None else _read(path)
        if arrays is None:
            arrays = {key: np.asarray(value) for key, value in compute().items()}
            if path is not None:
                path.parent.mkdir(exist_ok=True)
                buffer = io.BytesIO()
                np.savez(buffer, allow_pickle=False, **arrays)
                write_bytes(path, buffer.getvalue())
        self._memory[name] = arrays
        return arrays

    def has(self, name: str) -> bool:
        """Whether the part need not be computed."""
        if name in self._memory:
            return True
        return (
            self._folder is not None and _read(self._folder / "parts" / f"{name}.npz") is not None
        )


def _read(path: Path) -> Arrays | None:
    """The arrays of a file, or None where there is none or it is damaged."""
    try:
        # Opened here, since NumPy leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except Exception:  # what NumPy and the archive raise depends on where the damage is
        return None


def environment() -> dict[str, str]:
    """Versions and device that the numbers were made with."""
    packages = ("smoothjax", "jax", "jaxlib", "equinox", "diffrax", "numpy")
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": f"{device.platform} ({device.device_kind})",
        **{name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "unknown"
