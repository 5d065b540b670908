"""What a comparison comes to, in words, from its labelled numbers and their errors alone."""

import math
from typing import TYPE_CHECKING

import numpy as np

from .._explain.verdicts import indistinguishable

if TYPE_CHECKING:
    import xarray

# That no two mechanisms are told apart by chance, in each of the statements.
CONFIDENCE = 0.95
# What is held against what.
SMOOTHING, REFERENCES = ("smoothed", "widened"), ("gaussian", "mixture")


def conclusions(results: "xarray.Dataset") -> list[str]:
    """Which mechanisms memorise, which are likeliest, whether smoothing beats fitted Gaussians; ties are said to be ties.

    Works on the results of a folder as well as on those in memory.
    """
    return [*_memorising(results), *_likeliest(results), *_smoothing(results)]


def _memorising(r: "xarray.Dataset") -> list[str]:
    """By intervals that do not overlap, of a mechanism's samples and of held-out points."""
    if not {"memorized_interval", "memorized_null_interval"} <= set(r.variables):
        return []
    least, most = (float(x) for x in r.memorized_null_interval.values)
    null = f"{share(r.memorized_null, r.memorized_null_interval)} among held-out points"
    more, fewer, same = [], [], []
    for name in map(str, r.mechanism.values):
        one = r.sel(mechanism=name)
        low, high = (float(x) for x in one.memorized_interval.values)
        (more if low > most else fewer if high < least else same).append(name)
    said = []
    if more:
        shares = [
            f"{name} ({share(r.memorized.sel(mechanism=name), r.memorized_interval.sel(mechanism=name))})"
            for name in more
        ]
        said.append(
            f"{_and(shares)} {'memorises' if len(more) == 1 else 'memorise'}: in brackets the share of samples that are "
            f"copies of training points, which is {null}."
        )
    if fewer:
        said.append(
            f"Fewer copies than among held-out points are among the samples of {_and(fewer)} ({null})."
        )
    if same:
        beside = "" if more else f" ({null})"
        said.append(
            f"No more copies than among held-out points can be seen among the samples of {_and(same)}{beside}."
        )
    return said


def _likeliest(r: "xarray.Dataset") -> list[str]:
    """The best mean log-likelihood, and all that paired differences over points do not tell from it."""
    names, values = _likelihoods(r)
    infinite = sorted({str(name) for name in r.mechanism.values} - set(names))
    said = []
    if infinite:
        said.append(
            f"{_and(infinite)} {_has(infinite)} no finite likelihood at some held-out points."
        )
    if len(names) < 2 or values.shape[1] < 2:
        return said
    order = list(np.argsort(-values.mean(axis=1), kind="stable"))
    kept = may_be_likeliest(values)
    best = order[0]
    tied = [i for i in order[1:] if kept[i]]
    at = f"at noise level {float(r.noise_floor):.3g}, {values.shape[1]} of them"
    if tied:
        gaps = [f"{names[i]} {paired(values[i], values[best])}" for i in tied]
        said.append(
            f"Held-out points ({at}): {_and([names[i] for i in (best, *tied)])} are tied for the likeliest. Beside "
            f"{names[best]}, in nats a point: {', '.join(gaps)}."
        )
    else:
        following = order[1]
        said.append(
            f"Held-out points ({at}) are likeliest under {names[best]}: {paired(values[best], values[following])} nats a "
            f"point more than under {names[following]}, the next."
        )
    return said


def _smoothing(r: "xarray.Dataset") -> list[str]:
    """The smoothed and the widened score against the fitted Gaussian and the mixture, each pair by itself."""
    names, values = _likelihoods(r)
    pairs = [(one, ref) for one in SMOOTHING for ref in REFERENCES if one in names and ref in names]
    if not pairs or values.shape[1] < 2:
        return []
    # Over all these pairs at once.
    confidence = 1 - (1 - CONFIDENCE) / len(pairs)
    said = []
    for one in dict.fromkeys(first for first, _ in pairs):
        clauses = []
        for ref in (second for first, second in pairs if first == one):
            both = values[[names.index(one), names.index(ref)]]
            kept = may_be_likeliest(both, confidence)
            difference = paired(*both)
            verb = "is tied with" if all(kept) else "beats" if kept[0] else "does not reach"
            clauses.append(f"{verb} {ref} ({difference})")
        said.append(
            f"By the likelihood of these points {one} {' and '.join(clauses)}; in brackets the difference in nats a point."
        )
    return said


def may_be_likeliest(values: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    """Of log-likelihoods (mechanisms, points), which mechanisms may have the greatest mean: a set that holds it with
    this probability, over the draw of the points."""
    # Nothing of it depends on what all have in common at a point; the set is made for numbers that are not negative.
    return indistinguishable(values.max(axis=0, keepdims=True) - values, confidence, seed=0)


def _likelihoods(r: "xarray.Dataset") -> tuple[list[str], np.ndarray]:
    """Log-likelihoods (mechanism, point) of those that are finite, at the points that were taken for all of them."""
    if "log_likelihoods" not in r:
        return [], np.zeros((0, 0))
    values = r.log_likelihoods.transpose("mechanism", "point").values.astype(np.float64)
    finite = ~np.any(np.isinf(values), axis=1)
    names = [str(name) for name, kept in zip(r.mechanism.values, finite, strict=True) if kept]
    values = values[finite]
    return names, values[:, ~np.any(np.isnan(values), axis=0)]


def paired(first: np.ndarray, second: np.ndarray) -> str:
    """The mean of their difference with one standard error, over points."""
    difference = first - second
    return with_error(difference.mean(), difference.std(ddof=1) / math.sqrt(len(difference)))


def with_error(value: float, error: float) -> str:
    """A number with two digits of its error, and no more than anybody reads."""
    if math.isnan(value):
        return "not defined"
    digits = min(3, max(0, 1 - math.floor(math.log10(error)))) if error > 0 else 3
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def share(fraction: "xarray.DataArray", interval: "xarray.DataArray") -> str:
    """A share with the ends of its interval."""
    low, high = interval.values
    return f"{float(fraction):.2f} [{low:.2f}, {high:.2f}]"


def _and(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _has(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"
