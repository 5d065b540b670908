"""The parts of an explanation: what they are, in which order, and how often they call the networks."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from ..._calls import as_argument
from ..._files.store import Arrays, ResultStore
from ..._keys import key_of
from ..._noise import initial_noise
from ..._strengths.free import Fit
from ..._units import spread_of
from ...datasets import Dataset
from ...denoisers import Denoiser, EmpiricalDenoiser, GaussianDenoiser
from ...flows import sample
from .affine import affine_outputs
from .candidates import Candidate, ClassCandidate, outputs_of
from .class_samples import drawn_labels, samples_by_class
from .classes import (
    LabelledPoints,
    Model,
    Points,
    classes_of,
    num_calls,
    of_labels,
    points_of,
)
from .combinations import nearest_combination
from .cost import Calls, calls_of_samples
from .measured import measure_at_level, measured
from .settings import NETWORK, ExplainSettings, mechanism_of


class Job:
    """The parts of an explanation, each a function of its inputs alone, so that it can be kept and taken up again."""

    def __init__(
        self,
        networks: dict[str, Model],
        train: Dataset,
        held_out: Dataset,
        settings: ExplainSettings,
        store: ResultStore,
    ):
        self._networks = networks
        self._train, self._settings, self._store = train, settings, store
        held_out, known = (of_labels(data, settings.label) for data in (held_out, train))
        self._of_points, self._label = known, settings.label
        self._classes = {} if settings.label is None else classes_of(train, settings.label)
        self.candidates = [self._candidate(name) for name in settings.candidates]
        # A key for each use, so that no part's numbers depend on which parts were computed before.
        self._keys = {
            use: jax.random.fold_in(key_of(settings.seed), i) for i, use in enumerate(_USES)
        }
        num = settings.num_calibration + settings.num_evaluation
        self._held_out = held_out.points
        self._clean = np.asarray(held_out.points[:num])
        self._known = np.asarray(known.points[: settings.num_training])
        # Which training points those are.
        self._known_index = np.arange(len(self._known))
        if isinstance(self._label, int):
            of_class = np.flatnonzero(np.asarray(train.labels) == self._label)
            self._known_index = of_class[: len(self._known)]
        self._labels, self._known_labels = (
            None if self._label is None else np.asarray(data.labels) for data in (held_out, known)
        )
        dtype = train.points.dtype
        self._noise, self._known_noise = (
            np.asarray(initial_noise(self._keys[use], len(points), train.dim, dtype=dtype))
            for use, points in (("noise", self._clean), ("training noise", self._known))
        )

    def _candidate(self, name: str) -> Candidate:
        mechanism, by_class = mechanism_of(name)
        settings = self._settings
        rest = settings.seed, settings.batch_size, settings.strengths.get(name)
        if by_class:
            return ClassCandidate(mechanism, self._train, self._classes, *rest)
        return Candidate(mechanism, self._train, *rest)

    def parts(self) -> list[tuple[str, Callable[[], Any]]]:
        """Names and what computes them, in an order in which each finds what it needs."""
        levels = range(len(self._settings.levels))
        parts: list[tuple[str, Callable[[], Any]]] = []
        add = lambda name, function, *arguments: parts.append(  # noqa: E731
            (name, functools.partial(function, *arguments))
        )
        for name in self._networks:
            add(f"{name}, two points", self._recognise, name)
        for name in self._networks:
            for i in levels:
                add(f"{name}, level {i + 1}", self._network, name, i)
        for i in levels:
            add(f"reference, level {i + 1}", self._reference, i)
        for candidate in self.candidates:
            for i in levels:
                add(f"{candidate.name}, level {i + 1}", self._fit, candidate, i)
        for i in levels:
            add(f"pairs, level {i + 1}", self._pair, i)
        if self._settings.num_samples:
            for name in (*self._networks, *(candidate.name for candidate in self.candidates)):
                add(f"samples of {name}", self._samples, name)
        for measure in self._settings.measures:
            for name in (*self._networks, *(candidate.name for candidate in self.candidates)):
                add(f"{measure} of {name}", self._measured, measure, name)
        return parts

    def calls(self) -> list[Calls]:
        """Of the networks, in the order of the parts; of measures about, as they state it."""
        settings, size = self._settings, self._settings.batch_size
        starts = None
        if self._label is not None and settings.num_samples:
            starts = self._starts(np.zeros(self._train.dim), 1.0)
        calls = []
        for name, model in self._networks.items():
            noisy, known = self._noisy(0), self._known_noisy(0)
            calls.append(Calls(name, "to know it by", "", num_calls(model, noisy[:2], size)))
            for i in range(len(settings.levels)):
                part = f"{name}-{i}"
                calls += [
                    Calls(name, "at held-out points", part, num_calls(model, noisy, size)),
                    Calls(name, "at training points", part, num_calls(model, known, size)),
                ]
            num = calls_of_samples(model, settings.num_samples, settings.steps, starts, size)
            calls.append(Calls(name, "for samples", f"samples-{name}", num))
            for measure in settings.measures:
                num = (
                    measure_at_level(measure).calls * settings.num_evaluation * len(settings.levels)
                )
                calls.append(Calls(name, f"for {measure}", f"{measure}-{name}", num))
        return calls

    def found(self) -> dict[str, Any]:
        """All parts, in the order of noise levels and candidates."""
        levels = range(len(self._settings.levels))
        networks = {name: [self._network(name, i) for i in levels] for name in self._networks}
        models = (*self._networks, *(candidate.name for candidate in self.candidates))
        return {
            "clean": self._clean,
            "mean": np.mean(np.asarray(self._train.points, np.float64), axis=0),
            "spread": spread_of(self._train.points),
            "noise": self._noise,
            "known": self._known,
            "held_out": self._held_out,
            "measures": {
                measure: {name: self._measured(measure, name) for name in models}
                for measure in self._settings.measures
            },
            "labels": self._labels,
            "known_labels": self._known_labels,
            "known_index": self._known_index,
            "networks": networks,
            "references": [self._reference(i) for i in levels],
            "fits": [[self._fit(one, i) for i in levels] for one in self.candidates],
            "pairs": [self._pair(i) for i in levels],
            "sample_labels": self._starts(np.zeros(self._train.dim), 1.0).labels
            if self._label is not None and self._settings.num_samples
            else None,
            "samples": {name: self._samples(name)["samples"] for name in models}
            if self._settings.num_samples
            else {},
        }

    def denoisers(self) -> dict[str, Denoiser | dict[int, Denoiser]]:
        """Each candidate as one denoiser, at the strengths that were fitted."""
        levels = np.array(self._settings.levels)
        return {
            one.name: one.scheduled(
                levels, np.array([self._fit(one, i).value for i in range(len(levels))])
            )
            for one in self.candidates
        }

    def _noisy(self, level: int) -> Points:
        return self._with_noise(self._clean, self._noise, self._labels, level)

    def _known_noisy(self, level: int) -> Points:
        return self._with_noise(self._known, self._known_noise, self._known_labels, level)

    def _with_noise(
        self, clean: np.ndarray, noise: np.ndarray, labels: np.ndarray | None, level: int
    ) -> Points:
        noisy = clean + np.asarray(self._settings.levels[level], clean.dtype) * noise
        return noisy if labels is None else LabelledPoints(noisy, labels[: len(noisy)])

    def _recognise(self, name: str) -> None:
        """Refuses a folder of another network: a function, or a network on the host, has no arrays to be told by."""
        settings = self._settings
        level = len(settings.levels) // 2
        found = outputs_of(
            self._networks[name],
            self._noisy(level)[:2],
            settings.levels[level],
            settings.batch_size,
        )
        if not np.all(np.isfinite(found)):
            return  # refused where it is measured
        kept = self._store.get(f"probe-{name}", lambda: {"outputs": found})["outputs"]
        # Other devices and versions round differently.
        if np.max(np.abs(found - kept)) > 1e-2 * np.max(np.abs(kept)):
            raise ValueError(
                f"`out` holds results of another `{name}`: at two points this one differs from it. Choose another `out`, "
                "or remove it."
            )

    def _network(self, name: str, level: int) -> Arrays:
        def compute() -> Arrays:
            sigma, size = self._settings.levels[level], self._settings.batch_size
            found = {
                "outputs": outputs_of(self._networks[name], self._noisy(level), sigma, size),
                "training_outputs": outputs_of(
                    self._networks[name], self._known_noisy(level), sigma, size
                ),
            }
            for values in found.values():
                if not np.all(np.isfinite(values)):
                    raise ValueError(
                        f"`{name}` must be finite at the noise levels asked for; at {sigma:.4g} it is not. "
                        "Give `levels` that it was trained for."
                    )
            return found

        return self._store.get(f"{name}-{level}", compute)

    def _reference(self, level: int) -> Arrays:
        """What a memoriser and a Gaussian denoiser make of noisy points, and the best affine denoiser near the network."""

        def compute() -> Arrays:
            settings, sigma = self._settings, self._settings.levels[level]
            found = self._network(NETWORK, level)
            known, noisy = self._known_noisy(level), self._noisy(level)
            gaussian = GaussianDenoiser.fit(self._of_points.points)
            memoriser: Model = EmpiricalDenoiser(self._train.points)
            if self._label is not None:
                memoriser = {
                    label: EmpiricalDenoiser(part.points) for label, part in self._classes.items()
                }
            return {
                "training_outputs": outputs_of(memoriser, known, sigma, settings.batch_size),
                **{
                    name: outputs_of(gaussian, points_of(u), sigma, settings.batch_size)
                    for name, u in (("gaussian_training", known), ("gaussian", noisy))
                },
                "affine_outputs": affine_outputs(
                    gaussian,
                    np.concatenate([points_of(known), points_of(noisy)]),
                    np.concatenate([found["training_outputs"], found["outputs"]]),
                    sigma,
                    len(known),
                    settings.num_calibration,
                )[len(known) :],
            }

        return self._store.get(f"reference-{level}", compute)

    def _fit(self, candidate: Candidate, level: int) -> Fit:
        def compute() -> Arrays:
            near = self._fit(candidate, level - 1).value if level else None
            return candidate.fit(
                self._network(NETWORK, level)["outputs"],
                self._noisy(level),
                self._settings.levels[level],
                self._settings.num_calibration,
                self._settings.coverage,
                near,
            )._asdict()

        found = self._store.get(f"fit-{candidate.name}-{level}", compute)
        numbers = {name: float(found[name]) for name in ("value", "low", "high")}
        arrays = {name: found[name] for name in ("grid", "grid_outputs", "outputs")}
        return Fit(**numbers, **arrays)

    def _pair(self, level: int) -> Arrays:
        def compute() -> Arrays:
            found = nearest_combination(
                self.candidates,
                [self._fit(one, level) for one in self.candidates],
                self._network(NETWORK, level)["outputs"],
                self._noisy(level),
                self._settings.levels[level],
                self._settings.num_calibration,
                self._settings.coverage,
            )
            return {} if found is None else found._asdict()

        return self._store.get(f"pair-{level}", compute)

    def _measured(self, measure: str, name: str) -> Arrays:
        """A measure of a model at all noise levels, or the reason why there is none."""
        settings, networks = self._settings, self._networks

        def compute() -> Arrays:
            if name in networks:
                at_levels = [as_argument(self._of_label(networks[name]))] * len(settings.levels)
            else:
                (one,) = (one for one in self.candidates if one.name == name)
                fits = [self._fit(one, i) for i in range(len(settings.levels))]
                at_levels = [self._of_label(one.denoiser(fit.value)) for fit in fits]
            return measured(
                measure_at_level(measure),
                at_levels,
                jnp.asarray(self._clean[settings.num_calibration :]),
                settings.levels,
                self._keys["measures"],
                jnp.mean(self._train.points, axis=0),
                self._batch_size_of(name),
            )

        return self._store.get(f"{measure}-{name}", compute)

    def _batch_size_of(self, name: str) -> int:
        """Points at a time of a network, or of a candidate."""
        sizes = {one.name: one.batch_size for one in self.candidates}
        return sizes.get(name, self._settings.batch_size)

    def _of_label(self, model: Any) -> Denoiser:
        """The denoiser of the class of the whole run, where there is one."""
        return model[self._label] if isinstance(model, Mapping) else model

    def _samples(self, name: str) -> Arrays:
        settings = self._settings

        def compute() -> Arrays:
            high, low = settings.sigma_max, settings.sigma_min
            assert high is not None and low is not None
            networks = self._networks
            denoiser: Any = networks[name] if name in networks else self.denoisers()[name]
            size = self._batch_size_of(name)
            mean = jnp.mean(jnp.asarray(self._train.points), axis=0)
            if self._label is not None:
                starts = self._starts(np.asarray(mean), high)
                if not isinstance(denoiser, Mapping) and name not in networks:
                    denoiser = dict.fromkeys(self._classes, denoiser)
                return {
                    "samples": samples_by_class(denoiser, starts, high, low, settings.steps, size)
                }
            # The same starting states for all.
            drawn = sample(
                denoiser,
                self._keys["samples"],
                settings.num_samples,
                shape_or_dim=self._train.dim,
                sigma_max=high,
                sigma_min=low,
                solver=diffrax.Euler(),
                steps=settings.steps,
                mean=mean,
                batch_size=size,
                dtype=self._train.points.dtype,
            )
            return {"samples": drawn}

        return self._store.get(f"samples-{name}", compute)

    def _starts(self, mean: np.ndarray, high: float) -> LabelledPoints:
        """The states that samples start from, the same for all models, with labels as frequent as in the training set."""
        num, labels = self._settings.num_samples, np.asarray(self._of_points.labels)
        dtype = self._train.points.dtype
        noise = initial_noise(self._keys["samples"], num, self._train.dim, dtype=dtype)
        states = mean + np.asarray(high, dtype) * np.asarray(noise)
        return LabelledPoints(states, drawn_labels(self._keys["labels"], num, labels))


_USES = ("noise", "training noise", "samples", "labels", "measures")
