"""What the mechanisms of a comparison are, in plain words, with the values of their strengths."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ...datasets import Dataset
from ...denoisers import Denoiser
from ...mechanisms import Mechanism, Strength, StrengthChoice


def given(denoisers: Mapping[str, Denoiser]) -> tuple[str, ...]:
    """Of denoisers that are known by their kind alone."""
    return tuple(
        f"{name}: given to this comparison, {_kind_of(denoiser)}."
        for name, denoiser in denoisers.items()
    )


def _kind_of(denoiser: Denoiser) -> str:
    kind = type(denoiser).__name__
    return "a function" if kind == "function" else f"{_article(kind)} {kind}"


def _article(word: str) -> str:
    return "an" if word[0] in "AEIOU" else "a"


def registered(
    chosen: Sequence[Mechanism],
    choices: Mapping[str, StrengthChoice],
    train: Dataset,
    seed: int,
) -> tuple[str, ...]:
    """Of registered mechanisms: what each is, what its strength means, and which value it has here."""
    return tuple(
        f"{one.name}: {one.description}.{_strength(one, choices, train, seed)}" for one in chosen
    )


def _strength(
    mechanism: Mechanism, choices: Mapping[str, StrengthChoice], train: Dataset, seed: int
) -> str:
    strength, choice = mechanism.strength, choices.get(mechanism.name)
    if strength is None:
        return ""
    unit = "" if strength.unit == "1" else f" ({strength.unit})"
    if choice is None:
        value = math.nan if strength.default is None else float(strength.default(train))
        here = "" if math.isnan(value) else f", {value:.3g} here"
    else:
        ends = ends_of(strength, choice, train, seed)
        each = [or_beyond(f"{x:.3g}", e) for x, e in zip(choice.values, ends, strict=True)]
        levels = ", by rising noise level" if len(each) > 1 else ""
        here = f", chosen on points held back{levels}, {', '.join(each)}"
    meaning = f": {strength.meaning}" if strength.meaning else ""
    return f" Its {strength.name}{unit}{here}{meaning}."


def ends_of(strength: Strength, choice: StrengthChoice, train: Dataset, seed: int) -> np.ndarray:
    """Of each chosen value -1 if it is the first, 1 if it is the last that was tried, else 0: a better may lie beyond."""
    kept = train.split(choice.num_kept, seed=seed)[0]
    values = np.asarray(strength.values(kept), np.float64)
    if len(values) < 2:
        return np.zeros(len(choice.values), np.int8)
    place = np.log if strength.is_logarithmic and values[0] > 0 else np.asarray
    grid, found = place(values), place(np.asarray(choice.values, np.float64))
    # A search ends this near to a bound.
    near_first = found - grid[0] <= _NEAR * (grid[1] - grid[0])
    near_last = grid[-1] - found <= _NEAR * (grid[-1] - grid[-2])
    if strength.has_least:
        near_first = np.zeros_like(near_first)
    return np.where(near_last, 1, np.where(near_first, -1, 0)).astype(np.int8)


_NEAR = 0.05


def or_beyond(text: str, end: float) -> str:
    """A value, marked where it is the outermost that was tried."""
    return f"{text} or beyond" if end else text
