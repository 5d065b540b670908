"""Points with labels, and what is made of them: by a network of classes, and by a denoiser of each class."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from ..._calls import evaluate, takes_label
from ...datasets import Dataset
from ...denoisers import Denoiser
from ...mechanisms import Mechanism

# What labels may be besides one class for all points: each point has its own.
EACH = "each"
# A mechanism of this name and ending is made of each class's points.
BY_CLASS = "-by-class"
# Points of one class at a time, where there are several classes: few, as each is padded to as many.
POINTS_AT_A_TIME = 8

ClassNetwork = Callable[[Float[Array, " d"], Any, Any], Float[Array, " d"]]
Model = Denoiser | ClassNetwork | Mapping[int, Denoiser]


@dataclasses.dataclass(frozen=True)
class LabelledPoints:
    """Points, (n, d), and the class of each, (n,)."""

    points: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: slice) -> "LabelledPoints":
        return LabelledPoints(self.points[rows], self.labels[rows])

    def by_class(
        self, run: Callable[[int, np.ndarray, int], np.ndarray], batch_size: int
    ) -> np.ndarray:
        """`run(label, points, batch size)` of each class's points, (n, d), in the order of the points."""
        outputs = np.empty_like(self.points)
        for label, (_, size) in zip(np.unique(self.labels), self.groups(batch_size), strict=True):
            rows = self.labels == label
            outputs[rows] = run(int(label), self.points[rows], size)
        return outputs

    def groups(self, batch_size: int) -> list[tuple[int, int]]:
        """Of each class that is there, in the order of labels: how many points, and of how many a batch is."""
        counts = np.unique(self.labels, return_counts=True)[1]
        size = batch_size if len(counts) == 1 else min(batch_size, POINTS_AT_A_TIME)
        return [(int(count), size) for count in counts]


Points = np.ndarray | LabelledPoints


def points_of(u: Points) -> np.ndarray:
    """The points alone."""
    return u.points if isinstance(u, LabelledPoints) else u


def num_calls(model: Any, u: Points, batch_size: int) -> int:
    """How often `outputs_of` of such a model calls it: once for each point, the last batch filled up with more."""
    groups = [(len(u), batch_size)]
    if isinstance(u, LabelledPoints) and isinstance(model, Mapping):
        groups = u.groups(batch_size)
    return sum(-(-num // size) * size for num, size in groups)


def of_labels(data: Dataset, label: int | str | None) -> Dataset:
    """The points that are looked at: those of the class, or all of them."""
    return data.of_class(label) if isinstance(label, int) else data


def classes_of(train: Dataset, label: int | str | None) -> dict[int, Dataset]:
    """The training points of each class that is looked at."""
    if isinstance(label, int):
        return {label: train.of_class(label)}
    return {int(one): train.of_class(int(one)) for one in np.unique(np.asarray(train.labels))}


def require_labels(train: Dataset, held_out: Dataset) -> None:
    """Raises `ValueError` where a point has no label, or one that no training point has."""
    for name, data in (("train", train), ("held_out", held_out)):
        if data.labels is None:
            raise ValueError(f"`label` is for data with labels; `{name}` has none.")
    new = sorted({*np.asarray(held_out.labels).tolist()} - {*np.asarray(train.labels).tolist()})
    if new:
        raise ValueError(
            f"`held_out` must have classes of `train`; got {new[0]}, which it has not."
        )


def values_of_classes(
    mechanism: Mechanism, train: Dataset, classes: Mapping[int, Dataset]
) -> tuple[float, ...]:
    """What one strength for all classes may be, or `ValueError` where nothing suits them all."""
    strength = mechanism.strength
    assert strength is not None
    each = []
    for label, part in classes.items():
        try:
            each.append(tuple(strength.values(part)))
        except ValueError as error:
            raise ValueError(
                f"`candidates`: {mechanism.name!r} cannot be made of class {label}: {error}"
            ) from error
    if strength.is_continuous:
        return tuple(strength.values(train))
    common = tuple(value for value in each[0] if all(value in other for other in each))
    if not common:
        raise ValueError(
            f"`candidates`: {mechanism.name!r} must have a {strength.name} that suits every class; there is none."
        )
    return common


class _OfClass(eqx.Module):
    """A network of classes at one of them."""

    network: Any
    label: int = eqx.field(static=True)

    def __call__(self, u: Any, sigma: Any) -> Any:
        return self.network(u, sigma, self.label)


def network_of(network: Any, train: Dataset, label: int | str | None, name: str) -> Model:
    """A network as the job calls it: as it is, or with labels as a dictionary of denoisers or a function of three arguments.

    Raises:
        ValueError: for a network that is none of them, named by `name`.
    """
    if label is None:
        if isinstance(network, Mapping):
            raise ValueError(
                f"`{name}` must be a function (u, sigma); got a dictionary, which is for `label`."
            )
        return network
    asked = list(classes_of(train, label))
    if isinstance(network, Mapping):
        missing = [one for one in asked if one not in network]
        if missing:
            raise ValueError(
                f"`{name}` must have a denoiser of each class; there is none of {missing[0]}."
            )
        return {one: network[one] for one in asked}
    if label != EACH:
        assert isinstance(label, int)
        if not takes_label(network):
            return {label: network}
        if isinstance(network, eqx.Module):
            return {label: _OfClass(network, label)}
        return {label: lambda u, sigma: network(u, sigma, label)}
    if not takes_label(network):
        raise ValueError(
            f"`{name}` must be a function of three arguments (u, sigma, label), or a dictionary of denoisers by class, "
            f"for `label` {EACH!r}."
        )
    return network


def as_class_argument(network: Any) -> ClassNetwork:
    """`as_argument` of a function of three arguments."""
    if isinstance(network, eqx.Module):
        return network  # pyright: ignore[reportReturnType]
    return lambda u, sigma, label: network(u, sigma, label)


@eqx.filter_jit
def labelled_batch(
    network: ClassNetwork, u: Float[Array, "n d"], labels: Int[Array, " n"], sigma: Array
) -> Float[Array, "n d"]:
    """What a network of classes makes of points, each with its label."""
    return jax.vmap(lambda u, label: at_label(network, label)(u, sigma).astype(u.dtype))(u, labels)


def at_label(network: ClassNetwork, label: Any, name: str = "network") -> Denoiser:
    """The denoiser of one class."""
    return lambda u, sigma: evaluate(lambda u, s: network(u, s, label), u, sigma, name)
