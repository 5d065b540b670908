"""What is smoothed: a denoiser, or a training set."""

from typing import Any

from ..._calls import Denoiser
from ..._checks import as_points, as_positive_integer
from .._base import AbstractDenoiser
from .._empirical.empirical import EmpiricalDenoiser


def as_denoiser(source: Any) -> Denoiser:
    """A denoiser as it is; anything else as the training set of an `EmpiricalDenoiser`."""
    return source if callable(source) else EmpiricalDenoiser(as_points(source, "source"))  # pyright: ignore[reportReturnType]


def dim_of(base: Any, dim: int | None) -> int:
    if isinstance(base, AbstractDenoiser):
        if dim not in (None, base.dim):
            raise ValueError(f"`dim` must be that of the denoiser, {base.dim}; got {dim}.")
        return base.dim
    if dim is not None:
        return as_positive_integer(dim, "dim")
    raise ValueError("`dim` is needed for a denoiser that does not know its dimension.")
