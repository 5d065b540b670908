"""Arguments of another kind than their annotations say are refused where they enter, not where they are first used.

For what is no number: denoisers, laws, data sets, networks. Numbers and arrays are turned into what is computed
with by `_checks`, where their meaning is known.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import AbstractArray

_F = TypeVar("_F", bound=Callable[..., Any])
# Kinds that `_checks` knows more of.
_NUMBERS = (int, float, complex, np.ndarray, np.generic, jax.Array, AbstractArray)


def checks_kinds(function: _F) -> _F:
    """A function that raises `ValueError` for arguments that are none of what it is annotated with.

    Annotations of classes, callables, booleans and text are understood, alone, as alternatives and with `None`; all others
    pass.
    """
    signature = inspect.signature(function)
    kinds = {
        name: kind
        for name, parameter in signature.parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and (kind := _alternatives(parameter.annotation)) is not None
    }
    defaults = {name: signature.parameters[name].default for name in kinds}

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:  # says which argument is missing or unknown
            return function(*args, **kwargs)
        for name, kind in kinds.items():
            if name in given and given[name] is not defaults[name]:
                _require(given[name], kind, name)
        return function(*args, **kwargs)

    return typing.cast(_F, checked)


def require_kinds_of_fields(module: Any) -> None:
    """The same for the fields of a module that takes them as they come: for its `__check_init__`."""
    for field in dataclasses.fields(module):
        kind = _alternatives(field.type)
        if kind is not None and not field.name.startswith("_"):
            _require(getattr(module, field.name), kind, field.name)


def _require(value: Any, kinds: tuple[Any, ...], name: str) -> None:
    if not any(_is(value, kind) for kind in kinds):
        expected = " or ".join(map(_name, kinds))
        raise ValueError(
            f"`{name}` must be {expected}; got {type(value).__name__}: {_short(value)}."
        )


def _alternatives(annotation: Any) -> tuple[Any, ...] | None:
    """The kinds that an annotation allows: classes, `callable` and `None`; or None for all others."""
    if annotation is None or annotation is types.NoneType:
        return (None,)
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        parts = [_alternatives(part) for part in typing.get_args(annotation)]
        return (
            None
            if any(part is None for part in parts)
            else tuple(x for y in parts for x in y or ())
        )
    if origin is Callable or annotation is Callable:
        return (callable,)
    if annotation in (Any, object, inspect.Parameter.empty) or origin is not None:
        return None
    if not inspect.isclass(annotation) or getattr(annotation, "_is_protocol", False):
        return None
    is_number = issubclass(annotation, _NUMBERS) and annotation is not bool
    return None if is_number else (annotation,)


def _is(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if kind is callable:
        return callable(value)
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    return isinstance(value, kind)


def _name(kind: Any) -> str:
    if kind is None:
        return "None"
    if kind is callable:
        return "a callable"
    if kind is bool:
        return "True or False"
    if kind is str:
        return "text"
    package = kind.__module__.partition(".")[0]
    name = kind.__name__ if package in ("smoothjax", "builtins") else f"{package}.{kind.__name__}"
    spelled = name[:2].isupper() and name[0] in "FHLMNRSX"  # an MLP
    return f"{'an' if spelled or name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray | jax.Array):
        return f"{value.dtype} of shape {value.shape}"
    return f"{value!r:.60}".replace("\n", " ")
