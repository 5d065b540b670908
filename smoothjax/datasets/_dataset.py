"""The container every source of training data returns."""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray

from .._checks import as_float_array, as_host_floats, as_integer, as_points, as_seed, is_concrete
from .._kinds import checks_kinds
from .._layout import Layout, channels_last, require_layout, warn_of_channels_first

Population = Callable[[PRNGKeyArray, int], Float[Array, "num d"]]


class Dataset(eqx.Module):
    """A finite training set in data coordinates (no noise, `sigma = 0`).

    A pytree: `points` and `labels` are leaves, everything else is static.

    Attributes:
        name: What to call the set in tables and plots.
        points: The training points, one a row. Images are flattened in C order of
            (height, width, channels); those made by this package from 8-bit data are scaled to
            [-1, 1].
        labels: One class index a point (int32), or None.
        label_names: What the class indices 0, 1, ... are called, where that is known, else None.
        image_shape: (height, width, channels) where the points are images, else None.
        population: Where the points are a sample, or a regular subset, of a known distribution:
            `population(key, num)` draws `num` fresh points of it, independent of the training
            points. None where no such distribution is known. This is what a model that
            generalises ought to generate: the uniform distribution on the circle for points on a
            circle, on the segment for points on a segment.

    Args:
        name: As above.
        points: Array of shape (n, d), real and finite; integers become the default float dtype.
            A NumPy array is copied.
        labels: n integers or n names, or None: an array, a list, a tensor of PyTorch, a column of
            pandas. Names become the integers by which they are numbered in `label_names`: those
            given, else the names themselves, sorted, or pandas' categories.
        image_shape: Three positive integers whose product is d, or None. Without `layout`, those that
            look like (channels, height, width) are warned of.
        population: As above; hashable (any function is), since it is static.
        layout: "chw" if each point is given in the order (channels, height, width), as PyTorch
            has it; "hwc", the default, if as above. With either, `points` may have four axes, (n, channels, height,
            width) or (n, height, width, channels), which are then the image shape.
        label_names: As above, as many at least as the labels need; by default those in `labels`.

    Raises:
        ValueError: If `points` are not finite and of shape (n, d) with n, d >= 1, if `labels` are
            not n integers or names, or not among `label_names`, or if `image_shape` does not hold
            d numbers; for a `layout` of points that are no images.

    Example:
        >>> from smoothjax.datasets import Dataset
        >>> data = Dataset("corners", [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]], labels=[0, 1, 1])
        >>> len(data), data.dim
        (3, 2)
        >>> train, held_out = data.split(2, seed=0)

        Eight latents of four channels from PyTorch, which has the channels first:

        >>> import numpy as np
        >>> Dataset("latents", np.zeros((8, 4, 16, 16)), layout="chw").image_shape
        (16, 16, 4)
    """

    name: str = eqx.field(static=True)
    points: Float[Array, "n d"]
    labels: Int[Array, "n"] | None
    image_shape: tuple[int, int, int] | None = eqx.field(static=True)
    population: Population | None = eqx.field(static=True)
    label_names: tuple[str, ...] | None = eqx.field(static=True)

    @checks_kinds
    def __init__(
        self,
        name: str,
        points: Any,
        labels: Any = None,
        image_shape: tuple[int, int, int] | None = None,
        population: Population | None = None,
        *,
        layout: Layout | None = None,
        label_names: Sequence[str] | None = None,
    ):
        if is_concrete(points) and not isinstance(points, jax.Array):
            # Copied by NumPy: JAX reads a NumPy array some time after it is handed over (even if
            # told to copy) or uses its memory in place, so that a later write could reach us.
            given, points = points, as_host_floats(points, "points")
            if points is given or points.base is not None:
                points = points.copy()
        self.name = str(name)
        if layout is not None:
            points, image_shape = _as_rows(points, image_shape, layout)
        self.points = as_points(points, "points")
        num, dim = self.points.shape
        self.labels, self.label_names = as_named_labels(labels, num, label_names)
        self.image_shape = None if image_shape is None else _as_image_shape(image_shape, dim)
        if self.image_shape is not None and layout is None:
            warn_of_channels_first(self.image_shape)
        self.population = population

    def __len__(self) -> int:
        return self.points.shape[0]

    @property
    def dim(self) -> int:
        """The dimension d of the points."""
        return self.points.shape[1]

    def split(self, num_train: int, *, seed: int = 0) -> tuple["Dataset", "Dataset"]:
        """Split at random into a training set and the rest, which is held out.

        With `order = np.random.default_rng(seed).permutation(n)`, the points `order[:num_train]`
        are the training set and `order[num_train:]` are held out, each in that order: the same
        seed gives the same split everywhere. Labels go with their points; name, image shape and
        population are carried along.

        Args:
            num_train: Size of the training set, with 1 <= num_train < n.
            seed: A non-negative integer.

        Returns:
            The training set (`num_train` points) and the held-out set (`n - num_train` points).

        Raises:
            ValueError: If either set would be empty, or `seed` is not a non-negative integer.
        """
        num = len(self)
        num_train = as_integer(num_train, "num_train")
        if not 1 <= num_train < num:
            raise ValueError(
                f"`num_train` must satisfy 1 <= num_train < {num}, the number of points of "
                f"'{self.name}'; got {num_train}."
            )
        order = np.random.default_rng(as_seed(seed)).permutation(num)
        return self._take(order[:num_train]), self._take(order[num_train:])

    def of_class(self, label: int) -> "Dataset":
        """The points of one class, in their order, with name, labels and image shape; not the population, of all classes.

        Args:
            label: a class index, as in `labels`.

        Raises:
            ValueError: for data without labels, or without a point of that class.

        Example:
            >>> from smoothjax.datasets import Dataset
            >>> data = Dataset("corners", [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]], labels=[0, 1, 1])
            >>> data.of_class(1).points.tolist()
            [[0.0, 1.0], [1.0, 0.0]]
        """
        label = as_integer(label, "label")
        if self.labels is None:
            raise ValueError(f"`label` is for data with labels; '{self.name}' has none.")
        labels = np.asarray(self.labels)
        index = np.flatnonzero(labels == label)
        if not len(index):
            there = ", ".join(map(str, np.unique(labels)[:20].tolist()))
            raise ValueError(
                f"`label` must be a class of '{self.name}'; got {label}. There are: {there}."
            )
        # Without the population, which is of all classes.
        return self._take(index)._with(self.name, None)

    def renamed(self, name: str) -> "Dataset":
        """The same points under another name.

        Example:
            >>> import smoothjax as sj
            >>> sj.datasets.two_points().renamed("pair").name
            'pair'
        """
        return self._with(name, self.population)

    def _with(self, name: str, population: Any) -> "Dataset":
        layout = None if self.image_shape is None else "hwc"
        return Dataset(
            *(name, self.points, self.labels, self.image_shape),
            layout=layout,
            label_names=self.label_names,
            population=population,
        )

    def _take(self, index: np.ndarray) -> "Dataset":
        # Both leaves, points and labels, have one row a point, and need no second check. No index
        # is out of bounds; "clip" is the mode that compiles fastest.
        return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0, mode="clip"), self)

    def __repr__(self) -> str:
        parts = [repr(self.name), f"points={eqx.tree_pformat(self.points)}"]
        if self.labels is not None:
            parts.append(f"labels={eqx.tree_pformat(self.labels)}")
        if self.label_names is not None:
            parts.append(f"label_names={self.label_names}")
        if self.image_shape is not None:
            parts.append(f"image_shape={self.image_shape}")
        if self.population is not None:
            parts.append(f"population={self.population!r}")
        return f"Dataset({', '.join(parts)})"


def as_named_labels(
    labels: Any, num: int, names: Sequence[str] | None = None
) -> tuple[Int[Array, "n"] | None, tuple[str, ...] | None]:
    """Class indices and their names, of labels in any form; `ValueError` for those without a name among `names`."""
    names = None if names is None else tuple(map(str, names))
    labels, categories = _without_categories(labels)
    texts = None if labels is None else _texts(labels)
    if texts is not None:
        labels, categories = _numbered(texts, names)
    names = categories if names is None else names
    indices = None if labels is None else as_labels(labels, num)
    if names is not None and indices is not None and is_concrete(indices):
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= len(names):
            raise ValueError(
                f"`label_names` must name every label; got {len(names)} names for labels from {low} to {high}."
            )
    return indices, names


def _texts(labels: Any) -> np.ndarray | None:
    """Labels that are names, or None for others."""
    if isinstance(labels, jax.Array) or not is_concrete(labels):
        return None
    if isinstance(labels, list | tuple) and not all(isinstance(entry, str) for entry in labels):
        return None  # NumPy would make names of the numbers among them
    array = _as_host_array(labels)
    if array.dtype.kind == "S":
        try:
            return np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"`labels` must be text in UTF-8 or integers; got {error}.") from error
    return array.astype(str) if array.dtype.kind in "UTO" else None


def _numbered(
    texts: np.ndarray, names: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    distinct, indices = np.unique(texts, return_inverse=True)
    found = tuple(distinct.tolist())
    if names is None:
        return indices.reshape(texts.shape), found
    for name in found:
        if name not in names:
            raise ValueError(f"`labels` must be among `label_names`, {names}; got {name!r}.")
    places = np.array([names.index(name) for name in found], np.int64)
    return places[indices.reshape(texts.shape)], names


def as_labels(labels: Any, num: int) -> Int[Array, "n"]:
    """`labels` as `num` class indices of dtype int32, or `ValueError`."""
    on_device = isinstance(labels, jax.Array) or not is_concrete(labels)
    array = jnp.asarray(labels) if on_device else _as_host_array(labels)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"`labels` must be integers or names; got dtype {array.dtype}.")
    if array.shape != (num,):
        raise ValueError(
            f"`labels` must have shape ({num},), one for each point; got {array.shape}."
        )
    if is_concrete(array):
        low, high = int(array.min()), int(array.max())
        if low < -(2**31) or high >= 2**31:
            raise ValueError(f"`labels` must fit in 32 bits; got values from {low} to {high}.")
    # NumPy's copy for the reason given for the points.
    return jnp.asarray(array.astype(np.int32))


def _as_host_array(labels: Any) -> np.ndarray:
    """Anything that NumPy can make an array of: tensors of other libraries, columns of tables."""
    try:
        array = np.asarray(labels)
    except Exception as error:  # whatever the other library raises: a tensor on a GPU, say
        raise ValueError(
            f"`labels` must be integers or names, one for each point; got {type(labels).__name__}, of which "
            f"NumPy makes no array: {' '.join(str(error).split()).rstrip('.')}."
        ) from error
    if array.dtype == object and array.size:
        if all(isinstance(entry, str) for entry in array.flat):
            return array
        if not all(isinstance(x, numbers.Integral) and not isinstance(x, bool) for x in array.flat):
            kinds = sorted({type(entry).__name__ for entry in array.flat})
            raise ValueError(
                f"`labels` must be integers or names, one for each point; got {', '.join(kinds)}."
            )
        try:
            array = array.astype(np.int64)
        except OverflowError as error:
            raise ValueError("`labels` must fit in 32 bits; got a larger integer.") from error
    return array


def _without_categories(labels: Any) -> tuple[Any, tuple[str, ...] | None]:
    """Labels as they are, or the codes and names of pandas' categories."""
    categorical = getattr(labels, "cat", labels)  # a column has them one step away
    if not (hasattr(categorical, "codes") and hasattr(categorical, "categories")):
        return labels, None
    codes = np.asarray(categorical.codes)
    if codes.size and codes.min() < 0:
        row = int(np.argmin(codes))
        raise ValueError(f"`labels` must have a category for each point; row {row} has none.")
    return codes, tuple(map(str, categorical.categories))


def _as_rows(points: Any, image_shape: Any, layout: Layout) -> tuple[Any, Any]:
    """Images in C order of (height, width, channels), and their shape."""
    require_layout(layout)
    points = as_float_array(points, "points")
    if points.ndim == 4:
        first, second, third = points.shape[1:]
        found = (second, third, first) if layout == "chw" else (first, second, third)
        if image_shape is not None and tuple(image_shape) != found:
            raise ValueError(
                f"`image_shape` (height, width, channels) must be that of the points, {found}; "
                f"got {image_shape}."
            )
        image_shape = found
    elif points.ndim != 2 or image_shape is None:
        raise ValueError(
            f"`layout` is for images: points of four axes, or (n, d) with `image_shape`; "
            f"got shape {points.shape}."
        )
    height, width, channels = _as_image_shape(image_shape, math.prod(points.shape[1:]))
    if layout == "chw":
        points = channels_last(points.reshape(-1, channels, height, width), layout, "`points`")
    return points.reshape(len(points), -1), image_shape


def as_float_dtype(dtype: DTypeLike | None) -> np.dtype:
    """`dtype` as float32 or float64, None being JAX's default, or `ValueError`."""
    default = jnp.dtype(jnp.result_type(float))
    if dtype is None:
        return default
    try:
        result = jnp.dtype(dtype)
    except TypeError as error:
        raise ValueError(f"`dtype` must be float32 or float64; got {dtype!r}.") from error
    if result not in (np.float32, np.float64):
        raise ValueError(f"`dtype` must be float32 or float64; got {result}.")
    if result == np.float64 and default != np.float64:
        raise ValueError(
            "`dtype` float64 needs 64-bit mode: jax.config.update('jax_enable_x64', True)."
        )
    return result


def _as_image_shape(image_shape: Any, dim: int) -> tuple[int, int, int]:
    try:
        height, width, channels = (as_integer(size, "image_shape") for size in image_shape)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`image_shape` must be (height, width, channels); got {image_shape!r}."
        ) from error
    shape = (height, width, channels)
    if min(shape) < 1 or math.prod(shape) != dim:
        raise ValueError(
            f"`image_shape` (height, width, channels) must multiply to the dimension {dim} of the "
            f"points; got {shape}."
        )
    return shape
