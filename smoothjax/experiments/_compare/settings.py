"""What decides the numbers of a comparison besides the data and the denoisers."""

import dataclasses
import numbers

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ... import measures
from ..._checks import as_positive_integer, require_positive
from ..._units import spread_of
from ...datasets import Dataset
from ...measures import Measure, SampleMeasure

# EDM's range 0.002 .. 80 is meant for data of this standard deviation a coordinate.
EDM_DATA_SCALE = 0.5


@dataclasses.dataclass(frozen=True)
class CompareSettings:
    """What decides the numbers of a comparison besides the data and the denoisers.

    Attributes:
        num_samples: samples of each mechanism, from one shared set of initial noises.
        seed: of every random number.
        steps: noise levels of EDM's Heun sampler; None integrates adaptively, to the solver's default tolerance, except for
            denoisers whose calls are costly, see `compare`.
        sigma_max: initial noise level. By default EDM's 80, scaled from EDM's data (0.5 a coordinate) to the data's
            standard deviation a coordinate.
        sigma_min: noise level of the last denoising call. By default EDM's 0.002 scaled likewise, or a tenth of the
            smallest distance between different training points if that is less: above the spacing of the data,
            memorisation would hide.
        noise_floor: noise level at which log-likelihoods are meant. By default a tenth of the data's standard deviation a
            coordinate.
        num_levels: noise levels of the curves.
        measures: of each denoiser at each of these levels, or of its samples, by name (`smoothjax.measures.names()`). By
            default those of `smoothjax.measures.defaults()`; of denoisers whose calls are costly, without those that take
            many. Those of `smoothjax.measures.always()`, of samples, are taken in any case.

    Example:
        >>> import smoothjax as sj
        >>> settings = sj.CompareSettings(num_samples=64, steps=18)
        >>> settings.num_levels, settings.sigma_max  # None: `compare` fills in what suits the data
        (13, None)
    """

    num_samples: int = 256
    seed: int = 0
    steps: int | None = None
    sigma_max: float | None = None
    sigma_min: float | None = None
    noise_floor: float | None = None
    num_levels: int = 13
    measures: tuple[str, ...] = ()

    def __post_init__(self):
        if isinstance(self.seed, bool) or not isinstance(self.seed, numbers.Integral):
            raise ValueError(f"`seed` must be an integer; got {self.seed!r}.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"`seed` must be non-negative and lie below 2^63; got {self.seed}.")
        for name in self.measures:
            measures.get(name)
        for name in ("num_samples", "num_levels"):
            as_positive_integer(getattr(self, name), name)
        if self.num_samples < 2 or self.num_levels < 2:
            raise ValueError(
                "`num_samples` and `num_levels` must be at least 2; "
                f"got {self.num_samples} and {self.num_levels}."
            )
        if self.steps is not None and as_positive_integer(self.steps, "steps") < 2:
            raise ValueError(f"`steps` must be at least 2; got {self.steps}.")
        for name in ("sigma_max", "sigma_min", "noise_floor"):
            if getattr(self, name) is not None:
                require_positive(getattr(self, name), name)

    def at_levels(self) -> tuple[Measure, ...]:
        """The measures at each noise level: those asked for, or else those by default."""
        chosen = map(measures.get, self.measures or measures.defaults())
        return tuple(one for one in chosen if isinstance(one, Measure))

    def of_samples(self) -> tuple[SampleMeasure, ...]:
        """The measures of samples: those of every comparison, and those asked for."""
        chosen = map(measures.get, dict.fromkeys((*measures.always(), *self.measures)))
        return tuple(one for one in chosen if isinstance(one, SampleMeasure))

    def scaled_to(self, points: Float[Array, "n d"]) -> "CompareSettings":
        """The same with every noise level filled in for a training set."""
        require_different_points(points)
        scale = spread_of(points)
        sigma_max = 80 / EDM_DATA_SCALE * scale if self.sigma_max is None else self.sigma_max
        if self.sigma_min is None:
            distinct = jnp.unique(points, axis=0)
            spacing = float(jnp.min(measures.nearest_neighbours(distinct, distinct, 2)[0][:, 1]))
            sigma_min = min(0.002 / EDM_DATA_SCALE * scale, 0.1 * spacing)
        else:
            sigma_min = self.sigma_min
        noise_floor = 0.1 * scale if self.noise_floor is None else self.noise_floor
        if not (sigma_min < sigma_max and noise_floor < sigma_max):
            raise ValueError(
                "`sigma_min` and `noise_floor` must lie below `sigma_max`; "
                f"got {sigma_min}, {noise_floor} and {sigma_max}."
            )
        return dataclasses.replace(
            self, sigma_max=sigma_max, sigma_min=sigma_min, noise_floor=noise_floor
        )


def require_different_points(points: Float[Array, "n d"]) -> None:
    """Raises `ValueError` for one training point, however often it is there: nothing has a scale."""
    values = np.asarray(points)
    # Not by their variance, which rounding leaves above zero.
    if np.all(values == values[:1]):
        what = "all are equal" if len(values) > 1 else "there is one"
        raise ValueError(
            f"A comparison needs at least two different training points; got {len(values)}, and {what}. "
            "Give data of different points."
        )


def curve_levels(settings: CompareSettings, train: Dataset) -> Float[Array, " levels"]:
    """The noise levels of the curves: from a fiftieth to forty times the data's standard deviation a coordinate."""
    scale = spread_of(train.points)
    return jnp.geomspace(scale / 50, 40 * scale, settings.num_levels).astype(train.points.dtype)
