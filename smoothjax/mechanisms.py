"""The mechanisms that can be compared by name: each says how a training set becomes a denoiser."""

import dataclasses
from collections.abc import Callable

from .datasets import Dataset
from .denoisers import Denoiser, EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """A named way from a training set to a denoiser.

    Attributes:
        name: what users type.
        description: one line for tables and reports.
        build: `build(train, seed) -> denoiser`; deterministic given both.
    """

    name: str
    description: str
    build: Callable[[Dataset, int], Denoiser]


_REGISTRY: dict[str, Mechanism] = {}


def register(mechanism: Mechanism) -> Mechanism:
    """Makes a mechanism available by name to sampling, comparison, report and command line.

    Raises:
        ValueError: where the name is taken.

    Example:
        >>> import smoothjax as sj
        >>> from smoothjax.mechanisms import Mechanism, register
        >>> shrunk = Mechanism(
        ...     "shrunk-gaussian",
        ...     "Gaussian with a tenth of its covariance made isotropic",
        ...     lambda train, seed: sj.GaussianDenoiser.fit(train.points, shrinkage=0.1),
        ... )
        >>> register(shrunk).name
        'shrunk-gaussian'
    """
    if mechanism.name in _REGISTRY:
        raise ValueError(f"A mechanism called {mechanism.name!r} is registered already.")
    _REGISTRY[mechanism.name] = mechanism
    return mechanism


def names() -> tuple[str, ...]:
    """Names of the registered mechanisms, in the order of registration."""
    return tuple(_REGISTRY)


def get(name: str) -> Mechanism:
    """The mechanism of that name, or `ValueError` with the names there are."""
    if name not in _REGISTRY:
        raise ValueError(f"There is no mechanism called {name!r}; there are: {', '.join(names())}.")
    return _REGISTRY[name]


# Beyond the first few dozen, the directions of a class of small images are noise of its small sample.
MIXTURE_RANK = 32
# A cluster needs some points for its covariance to mean anything.
POINTS_A_CLUSTER = 20


def _build_mixture(train: Dataset, seed: int) -> MixtureDenoiser:
    return MixtureDenoiser.fit(
        train.points,
        train.labels,
        num_components=max(1, min(10, len(train) // POINTS_A_CLUSTER)),
        rank=min(MIXTURE_RANK, train.dim),
        seed=seed,
    )


register(
    Mechanism(
        "empirical",
        "exact posterior mean over the training set: a perfectly learned score, which memorises",
        lambda train, seed: EmpiricalDenoiser(train.points),
    )
)
register(
    Mechanism(
        "gaussian",
        "optimal for a Gaussian with the data's mean and covariance: the hidden Gaussian structure",
        lambda train, seed: GaussianDenoiser.fit(train.points),
    )
)
register(
    Mechanism(
        "mixture",
        f"a Gaussian (rank {MIXTURE_RANK} plus a constant) for every class, or k-means cluster",
        _build_mixture,
    )
)
