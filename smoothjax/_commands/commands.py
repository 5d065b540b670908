"""The commands: each a dataclass whose fields are its options, read from the command line by tyro."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from .. import datasets, measures, mechanisms, report
from .._files.checkpoint import refuse_training
from .._files.output import held, require_folder
from .._jax.precision import computing_in
from ..experiments import (
    EXPERIMENTS,
    CompareSettings,
    compare_mechanisms,
    standardized,
    train_and_held_out,
)
from .doctor import Doctor
from .experiment import RunExperiment, name_in, parse_experiment
from .explain import Explain
from .line import line_of
from .train import Train, refuse_data_in


@dataclasses.dataclass(frozen=True)
class Compare:
    """Sample and measure what models trained on a data set would generate, mechanism beside mechanism."""

    data: Positional[str] = "digits"
    """A named set (see `smoothjax list`), or a path: .npy, .npz, idx(.gz) or a folder of images."""
    out: Path = Path("runs/compare")
    """Folder for results, figures and report. A job that was killed goes on where it was."""
    denoisers: tuple[str, ...] = ()
    """Mechanisms by name (see `smoothjax list`); by default those that suit the data."""
    strength: Literal["held-out", "likelihood", "default"] = "held-out"
    """How strongly mechanisms act whose own strength is a guess: as is best for denoising points held back from the training
    set, at each noise level; as makes them likeliest, one for all; or as guessed."""
    num_train: int | None = None
    """Training points, drawn at random; the others are held out. Five sixths by default."""
    condition: int | None = None
    """A class: compare what models of that class alone would generate, of its points in the same split."""
    num_samples: int = 256
    """Samples of each mechanism."""
    seed: int = 0
    """Of the split and of every random number."""
    steps: int | None = None
    """Noise levels of EDM's Heun sampler; by default an adaptive flow, or 40 levels where calls are costly."""
    sigma_max: float | None = None
    """Initial noise level; by default EDM's, scaled to the data."""
    sigma_min: float | None = None
    """Noise level of the last denoising call; by default EDM's, scaled, or less where the data are dense."""
    noise_floor: float | None = None
    """Noise level at which log-likelihoods are meant; by default a tenth of the data's scale."""
    num_levels: int = 13
    """Noise levels of the curves."""
    measures: tuple[str, ...] = ()
    """Of each denoiser at each of these levels or of its samples, by name (see `smoothjax list`); by default cheap ones."""
    layout: Literal["hwc", "chw"] | None = None
    """Of an array with four axes: channels last (hwc, the default) or first (chw, as PyTorch has images)."""
    standardize: bool = False
    """Divide each column of a table by its standard deviation, for columns of different units; the report says so."""
    precision: Literal["float32", "float64"] = "float32"
    """Of the data and all computations."""
    figures: tuple[Literal["pdf", "svg"], ...] = ()
    """Files of each figure beside PNG."""
    quiet: bool = False
    """Say nothing of how far the job is: no bar on a terminal, no line a part elsewhere."""

    def settings(self) -> CompareSettings:
        """The part of the options that `smoothjax.compare` takes."""
        names = [field.name for field in dataclasses.fields(CompareSettings)]
        return CompareSettings(**{name: getattr(self, name) for name in names})

    def run(self) -> int:
        """Compares, saves and prints; returns the exit status."""
        # Whatever can be refused before any work is.
        self.settings()
        for name in self.denoisers:
            mechanisms.get(name)
        require_folder(self.out)
        refuse_data_in(self.data, self.out)
        refuse_training(self.out)
        with computing_in(self.precision):
            return self._run()

    def _run(self) -> int:
        dataset = datasets.load(self.data, seed=self.seed, dtype=self.precision, layout=self.layout)
        train, held_out = train_and_held_out(
            dataset, num_train=self.num_train, seed=self.seed, condition=self.condition
        )
        standardization = None
        if self.standardize:
            train, held_out, standardization = standardized(train, held_out)
        with held(self.out):
            comparison = compare_mechanisms(
                self.denoisers,
                train,
                held_out,
                strength=self.strength,
                settings=self.settings(),
                out=self.out,
                progress=not self.quiet,
            )
            if standardization is not None:
                comparison = standardization.explain(comparison)
            page = report.save(
                comparison,
                self.out,
                figures=self.figures,
                command=line_of("compare", self, ("data",)),
            )
        said = comparison.summary(), "", comparison.table(), "", *comparison.notes
        print(*said, "", f"Report: {page}", sep="\n")
        return 0


@dataclasses.dataclass(frozen=True)
class Report:
    """Put finished comparisons side by side in one page: conclusions, tables, curves, and what differs in their settings."""

    folders: Positional[tuple[Path, ...]]
    """Of finished comparisons: what `--out` was of each `smoothjax compare`. Two or more."""
    out: Path = Path("runs/report.html")
    """The page."""
    figures: tuple[Literal["png", "pdf", "svg"], ...] = ()
    """Files of each figure, beside the page."""

    def run(self) -> int:
        """Reads, writes and prints; returns the exit status."""
        line = line_of("report", self, ("folders",))
        page = report.side_by_side(self.folders, self.out, figures=self.figures, command=line)
        print(f"Report: {page}")
        return 0


@dataclasses.dataclass(frozen=True)
class List:
    """List the data sets, the mechanisms and the experiments that have a name."""

    def run(self) -> int:
        """Prints the lists; returns the exit status."""
        print("Data sets:", ", ".join(datasets.names()))
        print("Mechanisms:")
        for name in mechanisms.names():
            print(f"  {name:<23} {mechanisms.get(name).description}")
        for heading, kind in (
            ("Measures of a denoiser at a noise level:", measures.Measure),
            ("Measures of samples:", measures.SampleMeasure),
        ):
            print(heading)
            for name in measures.names():
                if isinstance(measures.get(name), kind):
                    print(f"  {name:<23} {measures.get(name).description}")
        print("Experiments:")
        for name, experiment in EXPERIMENTS.items():
            print(f"  {name:<23} {experiment.description}")
        return 0


def parse(
    arguments: list[str] | None = None,
) -> Compare | Report | Explain | RunExperiment | Train | List | Doctor:
    """The command that the arguments ask for, with its options."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["experiment"] and (name := name_in(arguments[1:])) is not None:
        return parse_experiment(name, arguments[1:])
    commands = (
        Annotated[Compare, tyro.conf.subcommand("compare", prefix_name=False)]
        | Annotated[Report, tyro.conf.subcommand("report", prefix_name=False)]
        | Annotated[Explain, tyro.conf.subcommand("explain", prefix_name=False)]
        | Annotated[RunExperiment, tyro.conf.subcommand("experiment", prefix_name=False)]
        | Annotated[Train, tyro.conf.subcommand("train", prefix_name=False)]
        | Annotated[List, tyro.conf.subcommand("list", prefix_name=False)]
        | Annotated[Doctor, tyro.conf.subcommand("doctor", prefix_name=False)]
    )
    description = "What would a diffusion model trained on a finite data set generate, and why?"
    description += " `smoothjax --version` prints the version, `smoothjax experiment NAME --help` describes an experiment."
    command = tyro.cli(commands, prog="smoothjax", description=description, args=arguments)
    named = (
        ("--denoisers", "mechanisms"),
        ("--measures", "measures"),
        ("--candidates", "mechanisms"),
    )
    for option, things in named:
        if option in arguments and not getattr(command, option[2:], True):
            raise ValueError(
                f"`{option}` must be followed by {things} by name (see `smoothjax list`); got none. Leave it out for those "
                "that suit the data."
            )
    return command
