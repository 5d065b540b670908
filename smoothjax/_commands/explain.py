"""The command that asks which mechanism explains a network."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from .. import datasets
from .._files.checkpoint import refuse_training
from .._files.output import held, require_folder
from .._jax.precision import computing_in
from ..experiments import ExplainSettings, explain, train_and_held_out
from .line import line_of
from .network import NetworkOptions, load_network
from .train import refuse_data_in


@dataclasses.dataclass(frozen=True)
class Explain:
    """Ask which mechanism explains a network, at each noise level, how strongly, and how sure."""

    data: Positional[str]
    """The network's data: a named set (see `smoothjax list`), or a path: .npy, .npz, idx(.gz) or a folder of images."""
    network: str
    """file.py:function or package.module:function (returns a denoiser, a PyTorch module, a NumPy function), or a folder: of
    `smoothjax train`, or of diffusers (unet, scheduler)."""
    out: Path = Path("runs/explain")
    """Folder for results, figures and report. A job that was killed goes on where it was."""
    other: str | None = None
    """A second network of the same training, from another seed, as the first is given: what distances mean."""
    prediction: Literal["x0", "eps", "v", "velocity", "score"] | None = None
    """What a function or module predicts; by default the clean point, given the noisy one and the noise level."""
    process: str | None = None
    """Its forward process: edm, variance-exploding, variance-preserving, flow-matching or brownian."""
    weights: Path | None = None
    """Of a PyTorch module: .safetensors, or .pt (only tensors are read)."""
    network_layout: Literal["chw", "hwc"] = "chw"
    """Of the images that a PyTorch module takes."""
    label: int | Literal["each"] | None = None
    """For a network of classes: one class, of which all points are then; or each, where every point has its own label."""
    num_train: int | None = None
    """Training points, drawn at random as `smoothjax train` does; the others are held out. Five sixths by default."""
    held_out: str | None = None
    """Data that the network did not see, as `data`; then all of `data` is what it was trained on."""
    candidates: tuple[str, ...] = ()
    """Mechanisms by name (see `smoothjax list`); by default all with a strength that suit the data. With the ending
    -by-class they are made of each class's points, as they all are by default with a label."""
    strengths: tuple[str, ...] = ()
    """Values of a candidate's strength in place of its own, increasing: `local=1,3,5 mixture=2,10`."""
    levels: tuple[float, ...] = ()
    """Noise levels, increasing; by default eight, from a twentieth to ten times the data's spread."""
    measures: tuple[str, ...] = ()
    """Of the network and each candidate at each noise level, by name (see `smoothjax list`): curl, degrees-of-freedom and
    effective-rank are of Jacobians. None by default."""
    num_calibration: int = 32
    """Held-out points on which strengths are fitted."""
    num_evaluation: int = 64
    """Others, on which everything is measured."""
    num_training: int = 64
    """Training points at which the network's loss is held against that at held-out points."""
    num_samples: int = 32
    """Samples of the network and of each candidate; 0 for none."""
    steps: int = 18
    """Denoiser calls of each sample."""
    sigma_max: float | None = None
    """First noise level of samples; by default ten times the highest of `levels`."""
    sigma_min: float | None = None
    """Last one; by default a hundredth of the data's spread."""
    confidence: float = 0.95
    """That the best candidate is among those that cannot be told from it."""
    coverage: float = 0.9
    """Of the intervals of strengths and weights."""
    batch_size: int = 32
    """Points at a time."""
    seed: int = 0
    """Of the split and of every random number."""
    layout: Literal["hwc", "chw"] | None = None
    """Of an array of data with four axes: channels last (hwc, the default) or first (chw)."""
    precision: Literal["float32", "float64"] = "float32"
    """Of the data and all computations."""
    quiet: bool = False
    """Say nothing of how far the job is: no bar on a terminal, no lines elsewhere."""
    figures: tuple[Literal["pdf", "svg"], ...] = ("pdf",)
    """Files of each figure beside PNG."""

    def settings(self) -> ExplainSettings:
        """The part of the options that `smoothjax.explain` takes."""
        names = [field.name for field in dataclasses.fields(ExplainSettings)]
        given: dict[str, Any] = {name: getattr(self, name) for name in names}
        given["strengths"] = _strengths(self.strengths)
        return ExplainSettings(**given)

    def run(self) -> int:
        """Explains, saves and prints; returns the exit status."""
        # Whatever can be refused before any work is.
        self.settings()
        require_folder(self.out)
        refuse_data_in(self.data, self.out)
        refuse_training(self.out)
        with computing_in(self.precision):
            return self._run()

    def _run(self) -> int:
        load = lambda data: datasets.load(  # noqa: E731
            data, seed=self.seed, dtype=self.precision, layout=self.layout
        )
        if self.held_out is None:
            train, held_out = train_and_held_out(
                load(self.data), num_train=self.num_train, seed=self.seed
            )
        elif self.num_train is None:
            train, held_out = load(self.data), load(self.held_out)
        else:
            raise ValueError(
                "`num_train` is for data that are split; with `held_out` all points of `data` are training points."
            )
        options = NetworkOptions(
            self.prediction, self.process, self.weights, self.network_layout, self.label
        )
        network = load_network(self.network, train, options)
        other = None if self.other is None else load_network(self.other, train, options)
        with held(self.out):
            explanation = explain(
                network,
                train,
                held_out,
                self.settings(),
                other=other,
                out=self.out,
                progress=not self.quiet,
            )
            page = explanation.report(
                self.out, figures=self.figures, command=line_of("explain", self, ("data",))
            )
        print(explanation, f"Report: {page}", sep="\n\n")
        return 0


def _strengths(given: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """By candidate, from `name=value,value`."""
    found: dict[str, tuple[float, ...]] = {}
    for one in given:
        name, _, values = one.partition("=")
        try:
            numbers = tuple(float(value) for value in values.split(","))
        except ValueError:
            raise ValueError(
                f"`--strengths` must be given as name=value,value; got {one!r}."
            ) from None
        if name in found:
            raise ValueError(f"`--strengths` must give each candidate once; got {name!r} again.")
        found[name] = numbers
    return found
