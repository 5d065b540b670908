"""How it is told that a solver failed: by an exception where that is known, by NaN inside a transformation."""

import diffrax
import numpy as np
from jaxtyping import Array

from .._checks import is_concrete, nan_where


def raised_or_nan(result: diffrax.RESULTS, finite: Array, value: Array, message: str) -> Array:
    """`value`; `RuntimeError` where it is known that the solver failed or the value is not finite, or else NaN there.

    Errors travel as values: nothing that is compiled calls back to the host.
    """
    okay = diffrax.is_okay(result)
    if not is_concrete(okay, finite):
        return nan_where(~(okay & finite), value)
    if not okay:
        raise RuntimeError(diffrax.RESULTS[result])
    if not np.all(finite):
        raise RuntimeError(message)
    return value
