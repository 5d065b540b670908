"""The commands: each a dataclass whose fields are its options, read from the command line by tyro."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from . import datasets, mechanisms, plots, report
from ._precision import computing_in
from ._train_command import Train
from .experiments import (
    EXPERIMENTS,
    CompareSettings,
    compare_mechanisms,
    get_experiment,
    train_and_held_out,
)
from .experiments._compare import refuse_training
from .experiments._store import replacing


@dataclasses.dataclass(frozen=True)
class Compare:
    """Sample and measure what models trained on a data set would generate, mechanism beside mechanism."""

    data: Positional[str] = "digits"
    """A named set (see `smoothjax list`), or a path: .npy, .npz, idx(.gz) or a folder of images."""
    out: Path = Path("runs/compare")
    """Folder for results, figures and report. A job that was killed goes on where it was."""
    denoisers: tuple[str, ...] = ()
    """Mechanisms by name (see `smoothjax list`); by default those that suit the data."""
    num_train: int | None = None
    """Training points, drawn at random; the others are held out. Five sixths by default."""
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
    precision: Literal["float32", "float64"] = "float32"
    """Of all computations."""

    def settings(self) -> CompareSettings:
        """The part of the options that `smoothjax.compare` takes."""
        names = [field.name for field in dataclasses.fields(CompareSettings)]
        return CompareSettings(**{name: getattr(self, name) for name in names})

    def run(self) -> int:
        """Compares, saves and prints; returns the exit status."""
        with computing_in(self.precision):
            return self._run()

    def _run(self) -> int:
        dataset = datasets.load(self.data, seed=self.seed)
        train, held_out = train_and_held_out(dataset, num_train=self.num_train, seed=self.seed)
        comparison = compare_mechanisms(
            self.denoisers, train, held_out, settings=self.settings(), out=self.out
        )
        page = report.save(comparison, self.out)
        print(comparison.table(), "", *comparison.notes, "", f"Report: {page}", sep="\n")
        return 0


@dataclasses.dataclass(frozen=True)
class RunExperiment:
    """Run a named experiment with its published settings; writes labelled results and a figure."""

    name: Positional[str]
    """See `smoothjax list`."""
    out: Path = dataclasses.field(kw_only=True)
    """Folder for the results; a stopped job goes on from what is there."""
    precision: Literal["float32", "float64"] = dataclasses.field(default="float32", kw_only=True)
    """Of all computations."""

    def run(self) -> int:
        """Runs, draws and saves; returns the exit status."""
        experiment = get_experiment(self.name)
        refuse_training(self.out)
        with computing_in(self.precision):
            results = experiment.run(out=str(self.out))
        with replacing(self.out / "results.nc") as path:
            results.to_netcdf(path, engine="h5netcdf")
        with replacing(self.out / f"{self.name}.png") as path:
            plots.plot_experiment(self.name, results).savefig(path, dpi=160)
        print(results, f"Figure: {self.out / self.name}.png", sep="\n")
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
        print("Experiments:")
        for name, experiment in EXPERIMENTS.items():
            print(f"  {name:<23} {experiment.description}")
        return 0


def parse(arguments: list[str] | None = None) -> Compare | RunExperiment | Train | List:
    """The command that the arguments ask for, with its options."""
    commands = (
        Annotated[Compare, tyro.conf.subcommand("compare", prefix_name=False)]
        | Annotated[RunExperiment, tyro.conf.subcommand("experiment", prefix_name=False)]
        | Annotated[Train, tyro.conf.subcommand("train", prefix_name=False)]
        | Annotated[List, tyro.conf.subcommand("list", prefix_name=False)]
    )
    description = "What would a diffusion model trained on a finite data set generate, and why?"
    return tyro.cli(commands, prog="smoothjax", description=description, args=arguments)
