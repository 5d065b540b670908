"""Releases of JAX whose compiler returns wrong numbers."""

import warnings
from importlib.metadata import version

_FAULT = "a jitted, mapped product of a matrix and a vector that is squared and summed"
FAULTY_RELEASES = {
    "0.10.2": f"{_FAULT} (jax issue 39103), and contractions of arrays of seven or more axes (39257)",
    "0.11.0": "contractions of arrays of seven or more axes (jax issue 39257)",
}
"""By release of jaxlib: what it miscompiles on the CPU."""


def warn_of_faulty_release(release: str | None = None) -> None:
    """Warns where the installed jaxlib miscompiles on the CPU; from its version alone, without starting a backend."""
    release = version("jaxlib") if release is None else release
    fault = FAULTY_RELEASES.get(release)
    if fault is not None:
        warnings.warn(
            f"jaxlib {release} computes wrong numbers on the CPU, without an error: {fault}. Log-densities of large batches "
            "can be wrong by several nats. Install another release: pip install 'jax!=0.10.2,!=0.11.0'.",
            stacklevel=3,
        )
