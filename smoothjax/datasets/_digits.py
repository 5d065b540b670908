"""The one set of images that needs no download."""

import numpy as np
from jaxtyping import DTypeLike

from .._checks import import_optional
from .._kinds import checks_kinds
from ._dataset import Dataset, as_float_dtype


@checks_kinds
def digits(*, dtype: DTypeLike | None = None) -> Dataset:
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn installs.

    Pixel values 0..16 are scaled to [-1, 1] as `value / 8 - 1`, which is exact in either dtype.

    Args:
        dtype: float32 or float64; by default that of JAX.

    Returns:
        The data set, with `points` of shape (1797, 64), `labels` 0..9 and `image_shape` (8, 8, 1),
        in scikit-learn's order.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If `dtype` is not float32 or float64, or float64 without 64-bit mode.

    Source: Alpaydin and Kaynak 1998, the test part, as in `sklearn.datasets.load_digits`.

    Example:
        >>> from smoothjax.datasets import digits
        >>> train, held_out = digits().split(1500, seed=0)
        >>> len(train), len(held_out)
        (1500, 297)
    """
    dtype = as_float_dtype(dtype)
    pixels, labels = import_optional("sklearn.datasets").load_digits(return_X_y=True)
    points = np.asarray(pixels / 8.0 - 1.0, dtype)
    return Dataset("digits", points, labels=labels, image_shape=(8, 8, 1))
