"""Strengths of the mechanisms in a comparison: chosen on points held back from the training set, and what to say of them."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ... import mechanisms
from ..._files.store import Arrays, ResultStore
from ...datasets import Dataset
from ...mechanisms import Mechanism, StrengthChoice
from .comparison import Comparison
from .definitions import ends_of, or_beyond

HowStrong = Literal["held-out", "likelihood", "default"]
# A folder of the comparison's: what is chosen decides what its results are of.
FOLDER = "strengths"
# What a part keeps of a choice; the rest is known.
_KEPT = (
    *("levels", "values", "low", "high", "loss", "loss_guess", "loss_without"),
    *("gain", "gain_error", "p_value", "guess", "num_kept", "num_held_back", "coverage"),
)
_BY_LEVEL = _KEPT[1:10]


def choices_of(
    chosen: Sequence[Mechanism],
    train: Dataset,
    how: HowStrong,
    floor: float,
    seed: int,
    data: Mapping[str, Any],
    out: str | os.PathLike[str] | None,
    bar: Any,
) -> dict[str, StrengthChoice]:
    """By name, of each mechanism whose own strength is a guess; none where too few points could be held back.

    Args:
        floor: noise level at which likelihoods are meant.
        data: what tells the training set apart.
        out: the comparison's folder, which a folder with one part for each mechanism is kept in.
        bar: of tqdm's, or None.
    """
    guessed = [one for one in chosen if one.strength is not None and one.strength.is_guess]
    if how == "default" or not guessed or len(train) < mechanisms.FEWEST_TO_CHOOSE:
        return {}
    folder = None if out is None else Path(out) / FOLDER
    levels = [floor] if how == "likelihood" else _levels(train, floor)
    store = ResultStore(folder, {"strength": how, "levels": levels, "seed": seed, **data})
    found = {}
    for mechanism in bar(guessed):
        compute = functools.partial(_chosen, mechanism.name, train, how, levels, seed)
        found[mechanism.name] = _read_back(mechanism, how, store.get(mechanism.name, compute))
    return found


def _levels(train: Dataset, floor: float) -> list[float]:
    """Those of a choice by default, with the level of the likelihood, which the table shows, in place of the nearest."""
    levels = mechanisms.default_levels(train)
    if levels[0] <= floor <= levels[-1]:
        levels[np.argmin(np.abs(np.log(levels / floor)))] = floor
    return [float(level) for level in levels]


def _chosen(
    name: str, train: Dataset, how: HowStrong, levels: list[float] | None, seed: int
) -> Arrays:
    choice = mechanisms.choose_strength(
        name, train, criterion=mechanisms.CRITERIA[how], levels=levels, seed=seed
    )
    return {key: np.asarray(getattr(choice, key)) for key in _KEPT}


def _read_back(mechanism: Mechanism, how: HowStrong, part: Arrays) -> StrengthChoice:
    strength = mechanism.strength
    assert strength is not None
    numbers = {key: part[key] if part[key].ndim else part[key].item() for key in _KEPT}
    return StrengthChoice(
        mechanism=mechanism.name,
        strength=strength.name,
        unit=strength.unit,
        criterion=mechanisms.CRITERIA[how],
        **numbers,
    )


def explained(
    comparison: Comparison,
    choices: Mapping[str, StrengthChoice],
    guessed: Sequence[Mechanism],
    how: HowStrong,
) -> Comparison:
    """A comparison that says which strengths its mechanisms have, and how they were chosen: in results and notes."""
    results, notes = comparison.results, []
    if choices:
        first = next(iter(choices.values()))
        names = [str(name) for name in results.mechanism.values]
        nothing = np.full(len(first.levels), np.nan)
        table = {
            key: np.stack([getattr(choices[n], key) if n in choices else nothing for n in names])
            for key in _BY_LEVEL
        }
        dims = ("mechanism", "strength_level")
        interval = np.stack([table.pop("low"), table.pop("high")], axis=-1)
        guesses = [choices[n].guess if n in choices else np.nan for n in names]
        variables: dict[str, Any] = {
            "strength": (dims, table.pop("values")),
            "strength_interval": ((*dims, "bound"), interval),
            "strength_guess": ("mechanism", guesses),
            **{f"strength_{key}": (dims, value) for key, value in table.items()},
        }
        found = {name: _ends(choice, comparison) for name, choice in choices.items()}
        ends = np.stack([found.get(n, np.zeros(len(first.levels), np.int8)) for n in names])
        about = {"long_name": "-1 for the first, 1 for the last of the values that were tried"}
        variables["strength_end"] = (dims, ends, about)
        results = results.assign_coords(strength_level=first.levels).assign(variables)
        results["strength_level"].attrs["units"] = "data units"
        unit = "nats" if first.criterion == "likelihood" else "squared data units a coordinate"
        for key in ("loss", "loss_guess", "loss_without", "gain", "gain_error"):
            results[f"strength_{key}"].attrs["units"] = unit
        results.attrs["strength"] = how
        results.attrs["strength_names"] = "; ".join(
            f"{name}: {choice.strength} ({choice.unit})" for name, choice in choices.items()
        )
        floor = float(results.noise_floor)
        notes = [_note(choice, floor, found[name]) for name, choice in choices.items()]
    elif guessed and how != "default":
        names = ", ".join(one.name for one in guessed)
        notes = [
            f"The strength of {names} is a guess: of {len(comparison.train)} training points too few can be held back to "
            f"choose it on ({mechanisms.FEWEST_TO_CHOOSE} would do)."
        ]
    elif guessed:
        notes = [
            f"The strength of {', '.join(one.name for one in guessed)} is a guess, as asked for."
        ]
    return dataclasses.replace(comparison, results=results, notes=(*comparison.notes, *notes))


def _ends(choice: StrengthChoice, comparison: Comparison) -> np.ndarray:
    strength = mechanisms.get(choice.mechanism).strength
    assert strength is not None
    return ends_of(strength, choice, comparison.train, comparison.settings.seed)


def _note(choice: StrengthChoice, floor: float, ends: np.ndarray) -> str:
    i = int(np.argmin(np.abs(np.log(choice.levels / floor))))
    unit = "" if choice.unit == "1" else f" {choice.unit}"
    value, low, high = (f"{x[i]:.3g}" for x in (choice.values, choice.low, choice.high))
    if choice.criterion == "denoising":
        what = (
            f"at each of {len(choice.levels)} noise levels from {choice.levels[0]:.3g} to {choice.levels[-1]:.3g} that of "
            "least error of the denoised points, and in between interpolated"
        )
        of, form = "a root mean square error a coordinate of", _root
    else:
        what = "that of their greatest likelihood"
        of, form = "a log-likelihood of", _nats
    guess = "its own" if np.isnan(choice.guess) else f"{choice.guess:.3g}"
    without = ""
    if not np.isnan(choice.loss_without[i]):
        p = choice.p_value[i]
        without = f"; without it {form(choice.loss_without[i])}, " + (
            f"p {'< 0.001' if p < 0.001 else f'= {p:.2g}'}, on points that did not choose"
        )
    at = f"{choice.levels[i]:.3g}"
    shown = f"{or_beyond(f'{value}{unit}', ends[i])} ({100 * choice.coverage:.0f} % interval {low} to {high})"
    return (
        f"Strength of {choice.mechanism}: its {choice.strength}, chosen on {choice.num_held_back} training points that were "
        f"held back while it was made of the other {choice.num_kept}: {what}. It was then made of all of them; the held-out "
        f"points of this comparison took no part. At noise level {at} the {choice.strength} is {shown}, with {of} "
        f"{form(choice.loss[i])} at the points held back. The guess would have been {guess}, with "
        f"{form(choice.loss_guess[i])}{without}."
    )


def _root(loss: float) -> str:
    return f"{np.sqrt(loss):.4f}"


def _nats(loss: float) -> str:
    return f"{-loss:.1f} nats"
