"""Networks as users of the command line name them: a function in a file, a folder of weights."""

import dataclasses
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import interop, processes
from .._calls import takes_label
from .._checks import import_optional, shown
from .._files.checkpoint import CONFIGURATION
from ..datasets import Dataset
from ..denoisers import AbstractDenoiser, Denoiser
from ..learning import load_denoiser

FORMS = (
    "`file.py:function` or `package.module:function` that returns a network, a folder written by `smoothjax train`, "
    "or a folder of diffusers with `unet` and `scheduler`"
)
PROCESSES: dict[str, Callable[[], processes.AbstractProcess]] = {
    "edm": processes.EDM,
    "variance-exploding": processes.VarianceExploding,
    "variance-preserving": lambda: processes.VariancePreserving.from_drift_rate(0.1, 20.0),
    "flow-matching": processes.FlowMatching,
    "brownian": processes.Brownian,
}


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """How a network is to be understood, where it does not say so itself.

    Attributes:
        prediction: what it predicts; None for the clean point, or for what a folder says.
        process: which times it is given, one of `PROCESSES`.
        weights: a file of PyTorch's weights, .safetensors or .pt, loaded without executing anything.
        layout: of the images that it takes.
        label: class of all points, or "each", for a network of classes.
    """

    prediction: str | None = None
    process: str | None = None
    weights: Path | None = None
    layout: str = "chw"
    label: int | Literal["each"] | None = None


Network = Denoiser | dict[int, Denoiser]


def load_network(specification: str, train: Dataset, options: NetworkOptions) -> Network:
    """The denoiser that a specification names; of each class, a dictionary of them or a function of three arguments.

    Args:
        specification: see `FORMS`.
        train: its training set, for the shape of its points.
        options: what it does not say itself.

    Raises:
        ValueError: for a specification of another form, options that do not apply to it, or a network that cannot be called.
        FileNotFoundError: for a file or a folder that is not there.
    """
    path = Path(specification)
    if path.is_dir():
        return _of_folder(path, train, options)
    place, colon, name = specification.rpartition(":")
    if not colon or not name.isidentifier():
        if path.exists():
            raise ValueError(
                f"`network` must be {FORMS}; got the file '{specification}'. Name a function in it: "
                f"'{specification}:function'."
            )
        raise FileNotFoundError(f"`network` must be {FORMS}; there is no '{specification}'.")
    function = _function_in(place, name)
    try:
        found = function() if _takes_nothing(function) else function
    except Exception as error:
        raise ValueError(
            f"`{name}` of '{place}' must return a network; it raised {type(error).__name__}: {error}"
        ) from error
    return _of_object(found, train, options)


def _by_class(
    make: Callable[[int | None], Denoiser], train: Dataset, label: int | Literal["each"] | None
) -> Network:
    """`make(label)` of one class, or of each class of the training points."""
    if label != "each":
        return make(label)
    if train.labels is None:
        raise ValueError(f"`label` is for data with labels; '{train.name}' has none.")
    return {one: make(one) for one in sorted({*np.asarray(train.labels).tolist()})}


def _takes_nothing(function: Callable[..., Any]) -> bool:
    """Whether the function makes a network; else it is one: a module, or a denoiser (u, sigma)."""
    if isinstance(function, AbstractDenoiser) or _is_module(function):
        return False
    parameters = inspect.signature(function).parameters.values()
    return not any(
        p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters
    )


def _function_in(place: str, name: str) -> Callable[..., Any]:
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise FileNotFoundError(f"`network` must name a file that is there; got '{place}'.")
        description = importlib.util.spec_from_file_location(path.stem, path)
        assert description is not None and description.loader is not None
        module = importlib.util.module_from_spec(description)
        # What the file imports lies beside it, as when Python runs it.
        sys.path.insert(0, str(path.parent.resolve()))
        try:
            description.loader.exec_module(module)
        except Exception as error:
            raise ValueError(
                f"'{place}' cannot be imported: {type(error).__name__}: {error}"
            ) from error
        finally:
            sys.path.remove(str(path.parent.resolve()))
    else:
        try:
            module = importlib.import_module(place)
        except ImportError as error:
            raise ValueError(
                f"`network` must be {FORMS}; '{place}' cannot be imported: {error}."
            ) from error
    if not callable(getattr(module, name, None)):
        functions = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ValueError(
            f"'{place}' must have a function called {name!r}; it has: {', '.join(functions) or 'none'}."
        )
    return getattr(module, name)


def _is_module(value: Any) -> bool:
    """Whether it is a module of PyTorch, which need not be installed."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _of_object(found: Any, train: Dataset, options: NetworkOptions) -> Network:
    process = None if options.process is None else _process(options.process)
    if _is_module(found):
        if options.weights is not None:
            _load_weights(found, options.weights)
        found.eval()
        shape = train.dim if train.image_shape is None else train.image_shape
        if hasattr(found, "sigma_min") and options.prediction is None and process is None:
            return _by_class(
                lambda label: interop.from_edm(found, shape, labels=label), train, options.label
            )
        return _by_class(
            lambda label: interop.from_torch(
                found,
                shape,
                prediction=options.prediction or "x0",
                process=process,
                layout=options.layout,  # pyright: ignore[reportArgumentType]
                labels=label,
            ),
            train,
            options.label,
        )
    if options.weights is not None:
        raise ValueError(
            f"`weights` are for a module of PyTorch; got {options.weights} for a {type(found).__name__}."
        )
    is_bare = options.prediction is None and process is None
    if options.label is not None and is_bare and (isinstance(found, dict) or takes_label(found)):
        return found
    if options.label is not None:
        raise ValueError(
            "`label` is for a module of PyTorch or a folder of diffusers, a function (u, sigma, label), or a dictionary of "
            f"denoisers by class; got {options.label} for a {type(found).__name__}."
        )
    if isinstance(found, AbstractDenoiser) and options.prediction is None and process is None:
        return found
    if not callable(found):
        raise ValueError(
            "`network` must return a denoiser (u, sigma), a module of PyTorch, or a function (x, t) of NumPy arrays; "
            f"got {type(found).__name__}."
        )
    if options.prediction is None and process is None:
        return found  # pyright: ignore[reportReturnType]
    return interop.from_numpy(
        found, train.dim, prediction=options.prediction or "x0", process=process
    )


def _of_folder(folder: Path, train: Dataset, options: NetworkOptions) -> Network:
    given = [
        name for name in ("prediction", "process", "weights") if getattr(options, name) is not None
    ]
    if given:
        raise ValueError(
            f"`{given[0]}` is what the folder '{folder}' says itself; leave it out, or name a function."
        )
    if (folder / CONFIGURATION).exists():
        if options.label is not None:
            raise ValueError(
                "`label` is for networks of classes; that of `smoothjax train` has none."
            )
        return load_denoiser(folder).model
    # Pipelines of one network hold it in a folder of its own, or beside the others' files.
    for part in (folder / "unet", folder):
        if (part / "config.json").exists():
            return _of_diffusers(folder, part, train, options)
    raise ValueError(f"`network` must be {FORMS}; the folder '{folder}' is neither.")


def _of_diffusers(
    folder: Path, part: Path, train: Dataset, options: NetworkOptions
) -> dict[int, Denoiser] | Denoiser:
    """The network in `part` with the scheduler of a folder of diffusers, both what they say they are."""
    diffusers = import_optional("diffusers", extra="bench")
    kind = json.loads((part / "config.json").read_text()).get("_class_name")
    # Other networks would be taken for this one, with random weights where they differ.
    if kind != "UNet2DModel":
        raise ValueError(
            f"A folder of diffusers must hold a UNet2DModel; '{part}' holds {shown(kind)}. Name a function that loads it: "
            "'file.py:function', with `prediction` and `process`."
        )
    if not (part / WEIGHTS).exists():
        raise FileNotFoundError(
            f"'{part}' must hold {WEIGHTS}, whose reading executes nothing; it does not. Older networks get it by "
            "UNet2DModel.from_pretrained(...).save_pretrained(...)."
        )
    scheduler = _scheduler_in(folder, diffusers)
    unet, loaded = diffusers.UNet2DModel.from_pretrained(
        part,
        use_safetensors=True,
        local_files_only=True,
        low_cpu_mem_usage=False,  # else it asks for one more package
        output_loading_info=True,
    )
    wrong = [*loaded["missing_keys"], *loaded["unexpected_keys"]]
    if wrong:
        raise ValueError(
            f"The weights in '{part}' are not those of its config.json: {len(wrong)} are missing or unknown, of them "
            f"{wrong[0]!r}."
        )
    double = unet.config.out_channels == 2 * unet.config.in_channels
    shape = train.image_shape if unet.config.sample_size is None else None
    return _by_class(
        lambda label: interop.from_diffusers(
            unet.eval(), scheduler, shape, labels=label, learned_variance=double
        ),
        train,
        options.label,
    )


WEIGHTS = "diffusion_pytorch_model.safetensors"


def _scheduler_in(folder: Path, diffusers: Any) -> Any:
    """The scheduler of a folder of diffusers, for its betas and its prediction."""
    places = folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json"
    path = next((path for path in places if path.exists()), None)
    if path is None:
        raise FileNotFoundError(
            f"'{folder}' must hold scheduler/scheduler_config.json; it does not."
        )
    config = json.loads(path.read_text())
    # That of another process would be taken for one of linear betas.
    if "beta_schedule" not in config and config.get("trained_betas") is None:
        raise ValueError(
            f"A scheduler of diffusers must have betas; '{path}' has none, of {shown(config.get('_class_name'))}. Name a "
            "function that loads the network: 'file.py:function', with `prediction` and `process`."
        )
    return diffusers.DDPMScheduler.from_config(config)


def _process(name: str) -> Any:
    if name not in PROCESSES:
        raise ValueError(f"`process` must be one of {', '.join(PROCESSES)}; got {name!r}.")
    return PROCESSES[name]()


def _load_weights(module: Any, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"`weights` must be a file that is there; got '{path}'.")
    if path.suffix == ".safetensors":
        state = import_optional("safetensors.torch", extra="torch").load_file(path)
    else:
        try:
            state = import_optional("torch").load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(
                f"`weights` must hold tensors by name, as torch.save(module.state_dict(), path) writes; '{path}' cannot be "
                f"read as such: {type(error).__name__}."
            ) from error
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        what = str(error).splitlines()[:2]
        raise ValueError(
            f"`weights` in '{path}' are not the network's: {' '.join(what)}"
        ) from error
