"""The outcome of a comparison: labelled numbers, a table, and what a reader of them must know."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._columns import text_table
from ..._files.store import Arrays
from ..._units import spread_of
from ...datasets import Dataset
from ...denoisers import AbstractPosteriorDenoiser, Denoiser
from ...measures import Measure, SampleMeasure, get
from .definitions import or_beyond
from .effort import Effort
from .settings import CompareSettings, curve_levels
from .summary import conclusions, share, with_error

if TYPE_CHECKING:
    import xarray


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The outcome of `compare`.

    Attributes:
        results: every number, labelled by mechanism, noise level, sample and coordinate (an `xarray.Dataset`).
        train, held_out: the data.
        settings: with all noise levels filled in.
        manifest: configuration, versions and data fingerprint.
        notes: what a reader of the numbers must know.
        regimes: at which noise levels the training set is told apart, see `memorization_regimes`; None for fewer than three
            different points.
        definitions: what each mechanism is, in plain words, with its strength.
    """

    results: "xarray.Dataset"
    train: Dataset
    held_out: Dataset
    settings: CompareSettings
    manifest: dict[str, Any]
    notes: tuple[str, ...]
    regimes: "xarray.Dataset | None" = None
    definitions: tuple[str, ...] = ()

    def summary(self) -> str:
        """What it comes to, a sentence a line: which mechanisms memorise, which make held-out points likeliest, and whether
        smoothing beats fitted Gaussians.

        That a mechanism memorises rests on intervals that do not overlap; that one is likelier than another on paired
        differences over held-out points, simultaneously at 95 %. What these do not tell apart is said to be tied.
        """
        return "\n".join(conclusions(self.results))

    def measures(self) -> tuple[Measure, ...]:
        """The measures that were taken at each noise level, as they are registered."""
        taken = map(get, self.results.attrs["measures"].split())
        return tuple(one for one in taken if isinstance(one, Measure))

    def sample_measures(self) -> tuple[SampleMeasure, ...]:
        """The measures that were taken of the samples, as they are registered."""
        taken = map(get, self.results.attrs["sample_measures"].split())
        return tuple(one for one in taken if isinstance(one, SampleMeasure))

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the summary table, as text."""
        r, taken = self.results, self.measures()
        # First whether there is more to a mechanism than copies.
        first, *others = self.sample_measures()
        level = nearest_level(r)
        header = [
            "mechanism",
            first.label,
            f"log-likelihood at {float(r.noise_floor):.3g} (nats)",
            f"entropy, bits/coordinate (noise alone {float(r.noise_entropy):.2f})",
            *(one.label for one in others),
            *(f"{one.name} at {level:.3g}" for one in taken),
            *self._strengths("strength"),
        ]
        rows = []
        for name in r.mechanism.values:
            s = r.sel(mechanism=name)
            at = s.sel(level=level)
            rows.append(
                [
                    str(name),
                    cell(s, first.shown),
                    cell(s, "log_likelihood"),
                    f"{float(s.entropy_bits):.3f}",
                    *(cell(s, one.shown) for one in others),
                    *(cell(at, one.shown) for one in taken),
                    *self._strengths(str(name)),
                ]
            )
        null = [
            "held-out data",
            cell(r, f"{first.shown}_null"),
            "",
            "",
            *(cell(r, f"{one.shown}_null") for one in others),
            *("" for _ in taken),
            *self._strengths(""),
        ]
        return header, [*rows, null]

    def _strengths(self, name: str) -> list[str]:
        """The last cell of a row, where strengths were chosen: that of a mechanism at the level of the likelihood."""
        r = self.results
        if "strength" not in r:
            return []
        if name not in r.mechanism.values:
            return [f"strength at {float(r.noise_floor):.3g} [90 %]" if name else ""]
        level = int(np.argmin(np.abs(np.log(r.strength_level.values / float(r.noise_floor)))))
        one = r.sel(mechanism=name).isel(strength_level=level)
        if math.isnan(float(one.strength)):
            return [""]
        low, high = one.strength_interval.values
        guess = float(one.strength_guess)
        instead = "" if math.isnan(guess) else f", not {guess:.3g}"
        end = float(one.strength_end) if "strength_end" in one else 0
        value = or_beyond(f"{float(one.strength):.3g}", end)
        return [f"{value} [{low:.3g}, {high:.3g}]{instead}"]

    def table(self) -> str:
        """The summary table as text, with the null of each measure in the last row."""
        return text_table(*self.rows())


def label(
    xarray: Any,
    efforts: Mapping[str, Effort],
    parts: dict[str, Arrays],
    train: Dataset,
    held_out: Dataset,
    settings: CompareSettings,
) -> "xarray.Dataset":
    """Everything as one labelled data set."""
    names = list(efforts)
    coordinates = {
        "mechanism": names,
        "other": names,
        "level": np.asarray(curve_levels(settings, train)),
        "bound": ["low", "high"],
    }
    at_levels = tuple(dict.fromkeys(one for effort in efforts.values() for one in effort.measures))
    of_samples = [one.name for one in settings.of_samples()]
    variables = {
        **_of_mechanisms(parts, efforts),
        **_of_all(parts, train, settings),
    }
    measured = {
        **_of_samples(parts, names, of_samples),
        **_at_levels(parts, names, at_levels, settings.num_levels),
    }
    for key in measured:
        if key in variables or key in coordinates:
            raise ValueError(
                f"A measure gives {key!r}, which is a name of the comparison's own; call it otherwise."
            )
    results = xarray.Dataset(
        variables | measured,
        coords=coordinates,
        attrs={
            "data": train.name,
            "num_train": len(train),
            "num_held_out": len(held_out),
            "measures": " ".join(at_levels),
            "sample_measures": " ".join(of_samples),
        },
    )
    units = {get(one).shown: get(one).unit for one in (*of_samples, *at_levels)}
    for key, unit in (_UNITS | units).items():
        results[key].attrs["units"] = unit
    results["level"].attrs["long_name"] = "noise level in data units"
    return results


_UNITS = {
    "log_likelihood": "nats",
    "entropy_bits": "bits a coordinate, of densities in data units at the noise floor",
    "noise_entropy": "bits a coordinate, of noise of the noise floor alone",
    "terminal_mismatch": "nats",
    "terminal_mismatch_bound": "nats",
    "rmse": "data units a coordinate (root mean square)",
}


def _of_mechanisms(parts: dict[str, Arrays], efforts: Mapping[str, Effort]) -> dict[str, Any]:
    """What was generated and how likely held-out points are, with what was spent on it."""
    dims = {
        "samples": ("sample", "coordinate"),
        "nearest": ("sample",),
        "nearest_distance": ("sample",),
        "log_likelihood": (),
        "log_likelihood_se": (),
        "entropy_bits": (),
        "log_likelihoods": ("point",),
    }
    merged = [{**parts[f"samples-{name}"], **parts[f"likelihood-{name}"]} for name in efforts]
    # Zero for what was not used: the exact trace has no probes, the adaptive flow no given number of steps.
    spent = {
        "likelihood_points": [effort.likelihood_points for effort in efforts.values()],
        "likelihood_probes": [effort.num_probes or 0 for effort in efforts.values()],
        "sampler_steps": [effort.steps or 0 for effort in efforts.values()],
    }
    return {
        key: (("mechanism", *dim), np.stack([one[key] for one in merged]))
        for key, dim in dims.items()
    } | {key: (("mechanism",), np.array(numbers)) for key, numbers in spent.items()}


def _of_samples(parts: dict[str, Arrays], names: list[str], taken: list[str]) -> dict[str, Any]:
    """The measures of samples: of each mechanism, and once of true points."""
    merged = [
        {key: value for one in taken for key, value in parts[f"{one}-{name}"].items()}
        for name in names
    ]
    variables: dict[str, Any] = {}
    for key, value in merged[0].items():
        dims = ("bound",) if np.ndim(value) else ()
        if key.removesuffix("_interval").removesuffix("_se").endswith("_null"):
            variables[key] = (dims, value)
        else:
            variables[key] = (("mechanism", *dims), np.stack([one[key] for one in merged]))
    return variables


def _at_levels(
    parts: dict[str, Arrays], names: list[str], taken: tuple[str, ...], num_levels: int
) -> dict[str, Any]:
    """The measures at each noise level: of each mechanism what was taken of it; NaN for what was not."""
    variables: dict[str, Any] = {}
    nothing = np.full(num_levels, np.nan)
    for measure in taken:
        found = [parts.get(f"{measure}-{name}", {}) for name in names]
        for key in dict.fromkeys(key for one in found for key in one):
            values = np.stack([one.get(key, nothing) for one in found])
            variables[key] = (("mechanism", "level"), values)
    return variables


def _of_all(parts: dict[str, Arrays], train: Dataset, settings: CompareSettings) -> dict[str, Any]:
    """What is of all mechanisms at once, or of the data alone."""
    floor = settings.noise_floor
    return {
        **{key: (("mechanism", "other", "level"), value) for key, value in parts["rmse"].items()},
        **{key: (("level",), value) for key, value in parts["neighbours"].items()},
        **{key: ((), value) for key, value in parts["terminal"].items()},
        "noise_floor": ((), np.asarray(floor)),
        "noise_entropy": ((), np.asarray(noise_entropy_bits(floor))),
        "data_scale": ((), np.asarray(spread_of(train.points))),
    }


def regimes_note(regimes: "xarray.Dataset") -> str:
    """At which noise levels the exact score commits, in words."""
    known = ""
    if "class_level" in regimes:
        known = f"; half of the class is known at {float(regimes.class_level):.3g}"
    collapse = with_error(float(regimes.collapse), float(regimes.collapse_se))
    return (
        f"Regimes of the exact score of these training points: it shows their gross structure below noise level "
        f"{float(regimes.speciation):.3g} (speciation){known}; below {collapse} "
        "(collapse) a noised point is more likely its own than all others together, and the score leads back to it."
    )


def noise_entropy_bits(sigma: Any) -> float:
    """Differential entropy of Gaussian noise, in bits a coordinate: what no law at that noise level falls below."""
    return 0.5 * math.log2(2 * math.pi * math.e * float(sigma) ** 2)


def notes(
    denoisers: Mapping[str, Denoiser],
    efforts: Mapping[str, Effort],
    train: Dataset,
    held_out: Dataset,
    settings: CompareSettings,
    results: "xarray.Dataset",
) -> tuple[str, ...]:
    sampler = (
        "the adaptive probability flow"
        if settings.steps is None
        else f"EDM-Heun, {settings.steps} steps,"
    )
    by_flow = [n for n, d in denoisers.items() if not isinstance(d, AbstractPosteriorDenoiser)]
    estimated = [name for name, effort in efforts.items() if effort.num_probes is not None]
    fixed = [name for name in estimated if settings.steps is None]
    first, *others = settings.of_samples()
    notes = [
        f"{len(train)} training points of '{train.name}' in {train.dim} dimensions; "
        f"{len(held_out)} held-out points ('{held_out.name}').",
        f"{settings.num_samples} samples of each mechanism by {sampler} from noise level {settings.sigma_max:.4g} to "
        f"{settings.sigma_min:.4g}, all from the same initial noises"
        + (
            f"; those of {', '.join(fixed)}, whose calls are costly, by EDM-Heun, {efforts[fixed[0]].steps} steps."
            if fixed
            else "."
        ),
        first.note,
        f"Log-likelihood: of held-out points plus noise of level {settings.noise_floor:.4g}, at that level, on average; "
        + (f"by the probability flow for {', '.join(by_flow)}" if by_flow else "in closed form")
        + (
            f"; for {', '.join(estimated)} at the first {efforts[estimated[0]].likelihood_points} of "
            f"{results.sizes['point']} points, with Hutchinson's estimate of the trace by "
            f"{efforts[estimated[0]].num_probes} probes a point, whose spread is part of the standard error."
            if estimated
            else "."
        ),
        "Entropy: minus that log-likelihood, in bits a coordinate: a differential entropy in data units at noise level "
        f"{settings.noise_floor:.4g}. The noise alone has {float(results.noise_entropy):.3f}, which no law can fall below "
        "on average, and data in other units have another value. It is not the bits per dimension of publications, which "
        "are of bytes, 0 to 255, without this noise: of bytes scaled to [-1, 1], those are larger by log2(127.5) = 6.99 "
        "besides. Compare mechanisms with one another, not with published numbers.",
        f"At noise level {settings.sigma_max:.4g} the log density of noisy training points is taken for that of the "
        "Gaussian with their mean and covariance where a flow gives a likelihood: the two differ by at most "
        f"{float(results.terminal_mismatch):.2g} nats at the noisy held-out points, and provably by less than "
        f"{float(results.terminal_mismatch_bound):.2g} at all but 2e-8 of the law.",
        *(one.note for one in others),
        "Measures at one noise level: at that of the curves which is nearest to the data's scale.",
        *(get(measure).note for measure in results.attrs["measures"].split()),
        *(
            f"Not taken, as they need many calls: {', '.join(skipped)} of {name}; name them in `measures` to have them."
            for name, skipped in _skipped(efforts, settings).items()
        ),
    ]
    return tuple(notes)


def _skipped(efforts: Mapping[str, Effort], settings: CompareSettings) -> dict[str, list[str]]:
    wanted = settings.at_levels()
    skipped = {
        name: [one.name for one in wanted if one.name not in effort.measures]
        for name, effort in efforts.items()
    }
    return {name: some for name, some in skipped.items() if some}


def nearest_level(results: "xarray.Dataset") -> float:
    """Of the levels of the curves, that of which tables give numbers: the nearest to the data's scale."""
    levels = results.level.values
    return float(levels[int(np.argmin(np.abs(np.log(levels / float(results.data_scale)))))])


def cell(results: "xarray.Dataset", name: str) -> str:
    """A number of the table with what is known of its error; empty where it is not there."""
    if name not in results:
        return ""
    if f"{name}_interval" in results:
        return share(results[name], results[f"{name}_interval"])
    if f"{name}_se" in results:
        return with_error(float(results[name]), float(results[f"{name}_se"]))
    return f"{float(results[name]):.3g}"
