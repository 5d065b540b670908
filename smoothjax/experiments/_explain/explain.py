"""Which mechanism explains a network, at each noise level, how strongly, and how sure."""

import dataclasses
import inspect
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..._calls import evaluate, takes_label
from ..._checks import import_optional
from ..._files.checkpoint import refuse_training
from ..._files.store import ResultStore
from ..._jax.host_errors import raising_host_errors
from ..._kinds import checks_kinds
from ..._progress import progress_bar
from ...datasets import Dataset
from ...denoisers import Denoiser
from .._compare.compare import of_data, tree_fingerprint
from .classes import (
    at_label,
    network_of,
)
from .cost import in_words
from .explanation import Explanation
from .job import Job
from .labelled import labelled
from .settings import NETWORK, OTHER, ExplainSettings


@checks_kinds
@raising_host_errors
def explain(
    network: Denoiser | Mapping[int, Denoiser],
    train: Dataset,
    held_out: Dataset,
    settings: ExplainSettings | None = None,
    *,
    other: Denoiser | Mapping[int, Denoiser] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Explanation:
    """Asks of every mechanism, at each noise level, whether it explains a network, and at which strength.

    Args:
        network: any callable `(u, sigma) -> (d,)`: a network of this library, one of `smoothjax.interop`, a function. With
            `ExplainSettings(label="each")` a callable `(u, sigma, label) -> (d,)`, whose label is an integer of JAX's, or a
            dictionary of denoisers by class, `{c: interop.from_torch(module, shape, labels=c) for c in range(10)}`.
        train: the training set of the network.
        held_out: fresh points of the same population.
        settings: see `ExplainSettings`.
        other: a second network of the same training, from another seed, say. Candidates that are no farther from the network
            than that are said to be at the floor.
        out: folder in which every finished part is kept. Called again with the same arguments, a job that was killed goes on
            where it was and ends with identical numbers. A network is known by its arrays, and by what it makes of two
            noisy points: one call, whenever `out` is taken up again.
        progress: show how far it is (a bar on a terminal, a line a part elsewhere), and before that how often the network
            will be called; else that is logged.

    **What is computed.** At each noise level, at held-out points plus noise, each candidate's strength is fitted to the
    network's outputs on some of the points, and its distance from the network is measured on the others. The verdict names
    the nearest candidate, and all that cannot be told from it by paired differences over points, simultaneously over
    candidates. It names none where the nearest is farther from the network than the other candidates are from it, by the
    median; or farther than the network is from the clean points; or where it explains less than two thirds of the network's
    departure from an untrained one, `mean + s^2 / (s^2 + sigma^2) (u - mean)` with the data's spread s, which is what a
    preconditioned network does before it has learned anything.

    Besides: the nearest convex combination of two candidates, with strengths of its own; how much of the network's departure
    from the best affine denoiser each candidate explains; the network's denoising loss on training and held-out points, and
    what share of the training points a memoriser of as large a difference would hold; and samples from the same noises.

    Returns:
        An `Explanation`: `.verdicts`, `.dataset`, `.samples`, `.report(path)`, and a table when printed.

    Raises:
        ValueError: for data of different dimensions, too few points, a network whose outputs have another shape or are not
            finite, or an `out` that holds results of something else.

    Source: Kamb and Ganguli 2025 and Niedoba et al. 2024 (strengths calibrated against a network); Li, Dai and Qu 2024 (the
    affine reference); Buchanan et al. 2025 (memorised points by the training loss). The verdicts are this library's.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> train, held_out = sj.datasets.digits().split(1500, seed=0)
        >>> network = sj.TemperedDenoiser(train.points, 3.0)  # a memoriser in disguise
        >>> settings = sj.ExplainSettings(levels=(1.0,), candidates=("empirical", "gaussian"), num_samples=0)
        >>> verdict = sj.explain(network, train, held_out, settings, progress=False).verdicts[0]
        >>> verdict.best, round(verdict.strength, 2)
        ('empirical', 3.0)
    """
    import_optional("xarray")
    settings = ExplainSettings() if settings is None else settings
    given = {NETWORK: network} | ({} if other is None else {OTHER: other})
    if settings.label is None:
        for name, one in given.items():
            network_of(one, train, None, name)
            _require_callable_with_jax(one, train, name)
    settings = settings.suited_to(train, held_out)
    networks = {name: network_of(one, train, settings.label, name) for name, one in given.items()}
    if settings.label is not None:
        for name, one in networks.items():
            for each in one.values() if isinstance(one, Mapping) else [one]:
                _require_callable_with_jax(each, train, name, labelled=each is one)
    configuration = {
        "explain": {**dataclasses.asdict(settings)},
        NETWORK: tree_fingerprint(network),
        OTHER: None if other is None else tree_fingerprint(other),
        **of_data(train, held_out),
    }
    if settings.label is not None:
        configuration["labels"] = tree_fingerprint((train.labels, held_out.labels))
    refuse_training(out)
    store = ResultStore(out, configuration)
    job = Job(networks, train, held_out, settings, store)
    parts, calls = job.parts(), job.calls()
    said = in_words(calls, store.has)
    if progress:
        print(said, file=sys.stderr)
    else:
        logging.getLogger(__name__).info(said)
    with progress_bar(parts, shown=progress) as bar:
        for name, compute in bar:
            bar.set_description(name)
            compute()
    results = labelled(job.found(), job.candidates, train, settings)
    results.attrs["network_calls"] = sum(one.num for one in calls)
    return Explanation(
        results,
        train,
        settings,
        store.manifest,
        job.denoisers(),
    )


def _require_callable_with_jax(
    network: Any, train: Dataset, name: str, labelled: bool = False
) -> None:
    """Refuses a function of other arguments, or of NumPy arrays; what a network raises of its own is raised."""
    point = jax.ShapeDtypeStruct((train.dim,), train.points.dtype)
    level = jax.ShapeDtypeStruct((), train.points.dtype)
    if labelled:
        label = jax.ShapeDtypeStruct((), jnp.int32)
        try:
            jax.eval_shape(
                lambda u, sigma, label: at_label(network, label, name)(u, sigma),
                *(point, level, label),
            )
        except TypeError as error:  # of JAX too, of what is not known while it traces
            raise ValueError(
                f"`{name}` must be a function of JAX arrays (u, sigma, label), whose label is an integer of them; it raised "
                f"{type(error).__name__}. Where a label must be a number of Python's, give a dictionary of functions of "
                "(u, sigma) by class."
            ) from error
        return
    try:
        inspect.signature(network).bind(point, level)
    except TypeError as error:
        labels = " With labels, see `label` of `ExplainSettings`." if takes_label(network) else ""
        raise ValueError(
            f"`{name}` must be a function of two arguments (u, sigma); {error}.{labels}"
        ) from None
    except ValueError:  # no signature that could be read
        pass
    try:
        jax.eval_shape(lambda u, sigma: evaluate(network, u, sigma, name), point, level)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise ValueError(
            f"`{name}` must be a function of JAX arrays; it makes NumPy arrays or numbers of them. One of NumPy arrays "
            "(x, t) becomes such by `smoothjax.interop.from_numpy`, and with `--prediction` on the command line."
        ) from error
