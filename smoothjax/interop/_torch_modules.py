"""What PyTorch modules are made of: whether they can be used, and the parts that are called."""

import contextlib
import dis
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from ._host import first_line


def require_module(module: Any, name: str) -> None:
    """Raises for what is no callable network: a path, weights, a class, a pipeline of diffusers."""
    if hasattr(module, "unet") and hasattr(module, "scheduler"):
        came, advice = (
            f"a {type(module).__name__}",
            "Give its parts: from_diffusers(pipeline.unet, pipeline.scheduler).",
        )
    elif isinstance(module, type | Mapping) or not callable(module):
        came = f"the class {module.__name__}" if isinstance(module, type) else cut(module)
        advice = "Make the module, load its weights by module.load_state_dict(...), and call module.eval()."
    else:
        return
    raise ValueError(
        f"`{name}` must be a torch.nn.Module or a callable of tensors; got {came}. {advice}"
    )


def owners_of(module: Any, kind: type) -> list[Any]:
    """The modules that are called: by themselves, a method, a partial call, or what names them or holds them."""
    while isinstance(module, functools.partial):
        module = module.func
    holder = getattr(module, "__self__", module)  # of a method
    if isinstance(holder, kind):
        return [holder]
    found = list(getattr(holder, "__dict__", {}).values())
    if hasattr(module, "__code__") and holder is module:
        for cell in module.__closure__ or ():
            with contextlib.suppress(ValueError):  # a variable that has no value yet
                found.append(cell.cell_contents)
        code = dis.get_instructions(module)
        names = [part.argval for part in code if part.opname == "LOAD_GLOBAL"]
        found += [module.__globals__.get(name) for name in names]
    return [value for value in found if isinstance(value, kind)]


def require_usable(module: Any) -> None:
    training = [name for name, part in module.named_modules() if part.training]
    if training:
        which = (
            "the module itself is"
            if training[0] == ""
            else f"{training[0]!r} ({type(module.get_submodule(training[0])).__name__}) is"
        )
        raise ValueError(
            f"`module` must be in evaluation mode with all its parts, or dropout and batch statistics make it random; "
            f"{which} in training mode. Call module.eval() first."
        )
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise ValueError(
                f"`module` must have its weights in memory; got {name!r} on the device 'meta'. "
                "Call module.to_empty(device=...) and load its weights."
            )


def floating(modules: list[Any]) -> Any:
    for module in modules:
        for tensors in (module.parameters(), module.buffers()):
            yield from (tensor for tensor in tensors if tensor.is_floating_point())


def floating_dtypes(modules: list[Any]) -> list[str]:
    return sorted({str(tensor.dtype).removeprefix("torch.") for tensor in floating(modules)})


def cut(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{type(value).__name__} of {len(value)} entries"
    if isinstance(value, str | int | float | np.ndarray):
        return f"{type(value).__name__} {first_line(repr(value))}"
    return type(value).__name__
