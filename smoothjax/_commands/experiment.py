"""The command that runs an experiment: every parameter of its function is an option."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from .. import plots
from .._files.checkpoint import refuse_training
from .._files.output import held, netcdf_of, require_folder, write_bytes, write_figures
from .._jax.precision import computing_in
from ..experiments import EXPERIMENTS, Experiment, get_experiment

# What the command says itself, by options of its own.
_NOT_ASKED = ("out", "progress")


@dataclasses.dataclass(frozen=True)
class RunExperiment:
    """Run a named experiment; writes labelled results and a figure. By default with its published settings."""

    name: Positional[str]
    """See `smoothjax list`; `smoothjax experiment NAME --help` shows its settings."""
    out: Path = dataclasses.field(kw_only=True)
    """Folder for the results; a stopped job goes on from what is there."""
    precision: Literal["float32", "float64"] = dataclasses.field(default="float32", kw_only=True)
    """Of all computations."""
    figures: tuple[Literal["pdf", "svg"], ...] = dataclasses.field(default=(), kw_only=True)
    """Files of the figure beside PNG."""
    quiet: bool = dataclasses.field(default=False, kw_only=True)
    """Say nothing of how far the job is: no bar on a terminal, no line a part elsewhere."""
    settings: tyro.conf.Suppress[dict[str, Any]] = dataclasses.field(
        default_factory=dict, kw_only=True
    )

    def run(self) -> int:
        """Runs, draws and saves; returns the exit status."""
        experiment = get_experiment(self.name)
        require_folder(self.out)
        refuse_training(self.out)
        with held(self.out):
            with computing_in(self.precision):
                settings = dict(self.settings)
                # Short experiments show none.
                if "progress" in inspect.signature(experiment.run).parameters:
                    settings["progress"] = not self.quiet
                results = experiment.run(out=str(self.out), **settings)
            write_bytes(self.out / "results.nc", netcdf_of(results))
            figure = plots.plot_experiment(self.name, results)
            write_figures(self.out, {self.name: figure}, self.figures, dpi=160)
        print(results, f"Figure: {self.out / self.name}.png", sep="\n")
        return 0


def name_in(arguments: list[str]) -> str | None:
    """The experiment that the arguments after `experiment` are for; `ValueError` for a name of none."""
    known = [one for one in arguments if one in EXPERIMENTS]
    if known:
        return known[0]
    if arguments and not arguments[0].startswith("-"):
        get_experiment(arguments[0])
    return None


def parse_experiment(name: str, arguments: list[str]) -> RunExperiment:
    """The command that runs an experiment with the settings that the arguments give."""
    experiment = get_experiment(name)
    rest = list(arguments)
    rest.remove(name)
    options = tyro.cli(
        options_of(experiment),
        prog=f"smoothjax experiment {name}",
        description=description_of(experiment),
        args=rest,
    )
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    for setting, value in given.items():
        option = f"--{setting.replace('_', '-')}"
        # Not where that is the default, and was not asked for.
        if value == () and any(one in rest for one in (option, f"--{setting}")):
            raise ValueError(
                f"`{option}` must be followed by values; got none. Leave it out for its default."
            )
    own = {name: given.pop(name) for name in ("out", "precision", "figures", "quiet")}
    return RunExperiment(name, **own, settings=given)


def options_of(experiment: Experiment) -> type[Any]:
    """A dataclass with a field for each parameter of an experiment, of its type, default and meaning."""
    meanings = _meanings(inspect.getdoc(experiment.run) or "")
    fields: list[Any] = [
        (
            "out",
            _explained(Path, "folder for the results; a stopped job goes on from what is there"),
        ),
        (
            "precision",
            _explained(Literal["float32", "float64"], "of all computations"),
            dataclasses.field(default="float32"),
        ),
        (
            "figures",
            _explained(tuple[Literal["pdf", "svg"], ...], "files of the figure beside PNG"),
            dataclasses.field(default=()),
        ),
        (
            "quiet",
            _explained(bool, "say nothing of how far the job is"),
            dataclasses.field(default=False),
        ),
    ]
    for parameter in inspect.signature(experiment.run).parameters.values():
        if parameter.name not in _NOT_ASKED:
            kind = _explained(parameter.annotation, meanings.get(parameter.name, ""))
            fields.append((parameter.name, kind, dataclasses.field(default=parameter.default)))
    return dataclasses.make_dataclass("Options", fields, frozen=True)


def description_of(experiment: Experiment) -> str:
    """What an experiment computes."""
    words = (inspect.getdoc(experiment.run) or "").partition("\nArgs:")[0].strip()
    first = f"{experiment.description[0].upper()}{experiment.description[1:]}."
    function = f"smoothjax.experiments.{experiment.run.__name__}"
    return f"{first}\n\n{words}\n\nThe same in Python: {function}(...)."


def _explained(kind: Any, meaning: str) -> Any:
    return Annotated[kind, tyro.conf.arg(help=meaning)]


def _meanings(docstring: str) -> dict[str, str]:
    """What the `Args:` of a docstring say of each parameter."""
    block = re.search(r"^Args:\n((?:    .*\n|\n)+)", f"{docstring}\n", re.MULTILINE)
    found = {}
    for entry in re.split(r"\n(?=    \w)", block.group(1).rstrip() if block else ""):
        names, _, meaning = entry.partition(":")
        for name in names.split(","):
            found[name.strip()] = " ".join(meaning.split())
    return found
