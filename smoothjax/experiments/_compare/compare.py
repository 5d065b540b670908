"""From a training set to what every mechanism would generate from it, measured side by side."""

import dataclasses
import functools
import hashlib
import os
import warnings
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ... import mechanisms
from ..._checks import import_optional, require_one_of, shown
from ..._files.checkpoint import refuse_training
from ..._files.store import Arrays, ResultStore
from ..._kinds import checks_kinds
from ..._progress import progress_bar
from ...datasets import Dataset
from ...denoisers import Denoiser
from .._regimes.regimes import labelled_regimes
from .columns import column_warnings
from .comparison import Comparison, label, notes, regimes_note
from .definitions import given, registered
from .effort import effort_of
from .parts import REGIMES, parts_of
from .settings import CompareSettings, require_different_points
from .strengths import HowStrong, choices_of, explained


@checks_kinds
def compare(
    denoisers: Mapping[str, Denoiser],
    train: Dataset,
    held_out: Dataset,
    *,
    settings: CompareSettings | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Comparison:
    """Samples and measures several denoisers of one training set side by side.

    Args:
        denoisers: by name; any callable `(u, sigma) -> (d,)`, a network of yours included.
        train: the training set that they stand for.
        held_out: fresh points of the same population: the null of the memorisation measure, and where denoisers are
            compared.
        settings: see `CompareSettings`.
        out: folder in which every finished part is kept. Called again with the same arguments, a job that was killed goes on
            where it was and ends with identical numbers. Bare callables are known by their name only.
        progress: show how far it is: a bar on a terminal, a line a part elsewhere.

    In more than eight dimensions, a denoiser that does not know the trace of its Jacobian (a network, a local denoiser) is
    costly. Its likelihood is taken at 64 held-out points, with Hutchinson's estimate of the trace; without `settings.steps`
    its samples come from 40 steps of EDM's Heun sampler; and it is called on small batches. `.notes` says so.

    Of a table whose columns have scales far apart, or few values, a `UserWarning` and the notes say so; see `standardized`.

    Returns:
        A `Comparison`: `.table()`, `.results`.

    Raises:
        ValueError: for data of different dimensions, fewer than two different training points or two held-out points, or an
            `out` that holds results of something else, or a training.

    Example:
        >>> import smoothjax as sj
        >>> train, held_out = sj.datasets.digits().split(1500, seed=0)
        >>> denoisers = {"gaussian": sj.GaussianDenoiser.fit(train.points)}
        >>> settings = sj.CompareSettings(num_samples=8, num_levels=2)
        >>> print(sj.compare(denoisers, train, held_out, settings=settings).table())  # doctest: +SKIP
    """
    xarray = import_optional("xarray")
    if not denoisers:
        raise ValueError("`denoisers` must hold at least one denoiser.")
    for name, denoiser in denoisers.items():
        if not callable(denoiser):
            raise ValueError(
                f"`denoisers` must map names to denoisers, callables (u, sigma); got {shown(denoiser)} for {name!r}."
            )
    if train.dim != held_out.dim:
        raise ValueError(
            f"`train` and `held_out` must have one dimension; got {train.dim} and {held_out.dim}."
        )
    if len(held_out) < 2:
        raise ValueError(f"`held_out` must hold at least two points; got {len(held_out)}.")
    settings = (CompareSettings() if settings is None else settings).scaled_to(train.points)
    of_columns = column_warnings(train)
    for text in of_columns:
        warnings.warn(text, UserWarning, stacklevel=2)
    efforts = {
        name: effort_of(denoiser, train.dim, len(held_out), settings)
        for name, denoiser in denoisers.items()
    }
    configuration = {
        **dataclasses.asdict(settings),
        "denoisers": {name: tree_fingerprint(denoiser) for name, denoiser in denoisers.items()},
        "efforts": {name: effort._asdict() for name, effort in efforts.items()},
        **of_data(train, held_out),
    }
    refuse_training(out)
    store = ResultStore(out, configuration)
    parts = parts_of(dict(denoisers), efforts, train, held_out, settings)
    todo = [name for name in parts if not store.has(name)]
    computed: dict[str, Arrays] = {}
    with progress_bar(shown=progress, total=len(parts), initial=len(parts) - len(todo)) as bar:
        for name, compute in parts.items():
            bar.set_description(name)
            new = not store.has(name)
            computed[name] = store.get(name, functools.partial(compute, computed))
            if new:
                bar.update()
    results = label(xarray, efforts, computed, train, held_out, settings)
    of_regimes = [part for name, part in computed.items() if name.startswith(REGIMES)]
    regimes = labelled_regimes(of_regimes) if of_regimes else None
    said = notes(denoisers, efforts, train, held_out, settings, results)
    return Comparison(
        *(results, train, held_out, settings, store.manifest),
        (*of_columns, *said, *([] if regimes is None else [regimes_note(regimes)])),
        regimes,
        given(denoisers),
    )


@checks_kinds
def compare_mechanisms(
    names: "tuple[str, ...] | list[str]",
    train: Dataset,
    held_out: Dataset,
    *,
    strength: HowStrong = "held-out",
    settings: CompareSettings | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Comparison:
    """`compare` for registered mechanisms, by name (`smoothjax.mechanisms.names()`).

    A mechanism whose own strength is a guess (the width of `smoothed`, a patch size; not the temperature 1 of `empirical`)
    gets one that is chosen on a part of the training points, held back for the choice only, and is then made of all of them;
    `held_out` takes no part. Table, notes, results and report say which it is, by noise level, and what the guess was. Fewer
    than 40 training points leave the guess.

    Args:
        names: of mechanisms; if empty, those of `smoothjax.mechanisms.defaults(train)`.
        train, held_out, settings, out, progress: as in `compare`. The choices are kept in a folder of `out`.
        strength: "held-out", at each noise level that of least held-out denoising loss; "likelihood", one for all, of
            greatest held-out likelihood; or "default", the guess. See `smoothjax.mechanisms.choose_strength`.

    Raises:
        ValueError: as `compare`, and for a mechanism that does not suit the data.
    """
    require_one_of(strength, (*mechanisms.CRITERIA, "default"), "strength")
    # Mechanisms would each say in words of their own that they cannot be built.
    require_different_points(train.points)
    if train.dim != held_out.dim:
        raise ValueError(
            f"`train` and `held_out` must have one dimension; got {train.dim} and {held_out.dim}."
        )
    refuse_training(out)
    chosen = [mechanisms.get(name) for name in (names or mechanisms.defaults(train))]
    filled = (CompareSettings() if settings is None else settings).scaled_to(train.points)
    assert filled.noise_floor is not None
    bar = functools.partial(progress_bar, shown=progress, what="strengths")
    data = of_data(train, held_out)
    choices = choices_of(chosen, train, strength, filled.noise_floor, filled.seed, data, out, bar)
    denoisers = {}
    with progress_bar(chosen, shown=progress, what="mechanisms") as bar:
        for one in bar:
            bar.set_description(f"building {one.name}")
            if one.name in choices:
                denoisers[one.name] = choices[one.name].denoiser(train, filled.seed)
            else:
                denoisers[one.name] = one.build(train, filled.seed)
    found = compare(denoisers, train, held_out, settings=settings, out=out, progress=progress)
    guessed = [one for one in chosen if one.strength is not None and one.strength.is_guess]
    definitions = registered(chosen, choices, train, filled.seed)
    found = dataclasses.replace(found, definitions=definitions)
    return explained(found, choices, guessed, strength)


def of_data(train: Dataset, held_out: Dataset) -> dict[str, Any]:
    """What a configuration keeps of its data."""
    return {
        "data": train.name,
        "num_train": len(train),
        "num_held_out": len(held_out),
        "dim": train.dim,
        "dtype": str(train.points.dtype),
        "train_sha256": tree_fingerprint(train.points),
        "held_out_sha256": tree_fingerprint(held_out.points),
    }


def tree_fingerprint(tree: Any) -> str:
    """SHA-256 of the arrays of a pytree and of what it is, to tell configurations apart.

    Another one than that of an array alone: folders of both kinds are there, and go on.
    """
    digest = hashlib.sha256(type(tree).__name__.encode())
    for leaf in jax.tree.leaves(tree):
        if eqx.is_array_like(leaf):
            is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
