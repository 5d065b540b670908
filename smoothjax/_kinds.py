"""Arguments of another kind than their annotations say are refused where they enter, not where they are first used.

Only their kind: that a number is positive, or an array has the right shape, is checked by `_checks` where it is known
what they mean.
"""

import collections.abc
import dataclasses
import functools
import inspect
import os
import traceback
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import jax.core
import jax.errors
import numpy as np
from jaxtyping import AbstractArray, Key, PRNGKeyArray

from ._checks import as_integer, as_key, require_number, require_numbers, require_scalar, shown

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class _Numbers:
    """An array of numbers, or one number: only that, if it has no axes."""

    has_axes: bool = True


@dataclasses.dataclass(frozen=True)
class _OneOf:
    """One of some texts. Which, is checked where they are read."""

    choices: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _SequenceOf:
    """A list, a tuple or an array, and what it holds."""

    kinds: tuple[Any, ...] | None
    length: int | None = None


def checks_kinds(function: _F) -> _F:
    """A function that raises `ValueError` for arguments that are none of what it is annotated with.

    Annotations of numbers, arrays, keys, text, booleans, classes, callables, sequences and dictionaries are understood,
    alone, as alternatives and with `None`; all others pass.
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
        try:
            return function(*args, **kwargs)
        except _NOT_TRACED as error:
            traced = [name for name, value in given.items() if _is_traced(value)]
            if not traced or _raised_by(error) != _PACKAGE:
                raise
            raise ValueError(
                f"`{traced[0]}` of `{function.__name__}` must be known: what it computes on the host cannot be traced by "
                "`jax.jit`, `jax.vmap` or `jax.grad`. Call it outside of them."
            ) from error

    return typing.cast(_F, checked)


_NOT_TRACED = (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError)
_PACKAGE = __name__.partition(".")[0]
# In which values of tracers are asked for on behalf of who calls them.
_CALLED = {"jax", "numpy", "scipy", "equinox", "diffrax", "lineax"}


def _is_traced(value: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def _raised_by(error: BaseException) -> str:
    """The package whose code asked for what was refused: this one, or that of a user's function."""
    names = [
        frame.f_globals.get("__name__", "").partition(".")[0]
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    return next((name for name in reversed(names) if name not in _CALLED), "")


def require_kinds_of_fields(module: Any) -> None:
    """The same for the fields of a module that takes them as they come: for its `__check_init__`."""
    sizes: dict[str, int] = {}
    for field in dataclasses.fields(module):
        kind = _alternatives(field.type)
        if kind is not None and not field.name.startswith("_"):
            value = getattr(module, field.name)
            _require(value, kind, field.name)
            _require_axes(value, field.type, field.name, sizes)


def _require_axes(value: Any, annotation: Any, name: str, sizes: dict[str, int]) -> None:
    """Raise `ValueError` for an array of other axes than its annotation has, where that says how many; those of one name
    have one size."""
    if not _is_array(annotation) or annotation.dtype is Key:
        return
    axes = annotation.dim_str.split()
    if len(axes) != np.ndim(value) and not any("*" in axis or "..." in axis for axis in axes):
        shape = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
        raise ValueError(f"`{name}` must have shape {shape}; got {np.shape(value)}.")
    if len(axes) == np.ndim(value):
        for axis, size in zip(axes, np.shape(value), strict=True):
            if axis.isidentifier() and sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"`{name}` must have {sizes[axis]} as its axis {axis}, like what comes before it; got shape "
                    f"{np.shape(value)}."
                )


def _require(value: Any, kinds: tuple[Any, ...], name: str) -> None:
    is_traced = isinstance(value, jax.core.Tracer)
    if any(map(_may_be_traced, kinds)) if is_traced else _is_any(value, kinds):
        return
    # What `_checks` knows more of, it refuses itself.
    asked = [kind for kind in kinds if kind is not None]
    if len(asked) == 1 and asked[0] in _REFUSED_BY:
        _REFUSED_BY[asked[0]](value, name)
    expected = " or ".join(dict.fromkeys(map(_name, kinds)))
    raise ValueError(f"`{name}` must be {expected}; got {shown(value)}.")


# Kinds that are asked for by a check of their own.
_REFUSED_BY: dict[Any, Callable[[Any, str], Any]] = {
    int: as_integer,
    float: require_number,
    _Numbers(): require_numbers,
    _Numbers(has_axes=False): require_scalar,
    PRNGKeyArray: as_key,
}


def _alternatives(annotation: Any) -> tuple[Any, ...] | None:
    """The kinds that an annotation allows: keys of `_REFUSED_BY`, classes, `callable` and `None`; or None for all others."""
    if annotation is None or annotation is types.NoneType:
        return (None,)
    if annotation is PRNGKeyArray:
        return (PRNGKeyArray,)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        if any(_is_array(part) and not part.dims for part in parts):  # of which NumPy has no type
            parts = [part for part in parts if part is not np.ndarray]
        found = [_alternatives(part) for part in parts]
        if any(part is None for part in found):
            return None
        kinds = tuple(dict.fromkeys(kind for part in found for kind in part or ()))
        if PRNGKeyArray in kinds:  # of which the raw ones are arrays
            return tuple(kind for kind in kinds if kind != _Numbers())
        for numbers in (_Numbers(), _Numbers(has_axes=False)):
            if numbers in kinds:
                return tuple(kind for kind in kinds if kind not in _SOME_NUMBERS[numbers])
        return kinds
    if origin is Literal:
        return (_OneOf(parts),)
    if origin is Callable or origin is collections.abc.Callable or annotation is Callable:
        return (callable,)
    if origin in _SEQUENCES or annotation in _SEQUENCES:
        of = {_alternatives(part) for part in parts if part is not Ellipsis}
        if len(of) == 1:  # how many, says the function
            return (_SequenceOf(of.pop()),)
        return (_SequenceOf(None, len(parts) or None),)
    if origin in (dict, collections.abc.Mapping):
        return (origin,)
    if origin is os.PathLike:
        return (os.PathLike,)
    if annotation in (Any, object, inspect.Parameter.empty) or origin is not None:
        return None
    if not inspect.isclass(annotation) or getattr(annotation, "_is_protocol", False):
        return None
    if _is_array(annotation):
        if annotation.dtype is Key and annotation.dims:  # how many, says the function
            return None
        return (
            PRNGKeyArray if annotation.dtype is Key else _Numbers(has_axes=bool(annotation.dims)),
        )
    if issubclass(annotation, np.generic | complex):
        return (_Numbers(has_axes=False),)
    if issubclass(annotation, np.ndarray | jax.Array):
        return (_Numbers(),)
    return (annotation,)


def _is_array(annotation: Any) -> typing.TypeGuard[type[AbstractArray]]:
    return inspect.isclass(annotation) and issubclass(annotation, AbstractArray)


_ONE_NUMBER = (bool, int, float)
# All that an array may hold or be made of.
_SOME_NUMBERS = {
    _Numbers(): (*_ONE_NUMBER, _Numbers(has_axes=False), _SequenceOf((float,))),
    _Numbers(has_axes=False): _ONE_NUMBER,
}
_SEQUENCES = (tuple, list, collections.abc.Sequence)


def _is_any(value: Any, kinds: tuple[Any, ...]) -> bool:
    return any(_is(value, kind) for kind in kinds)


def _is(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if kind is callable:
        return callable(value)
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if isinstance(kind, _OneOf):
        return isinstance(value, str)
    if isinstance(kind, _SequenceOf):
        return (
            _is_sequence(value)
            and kind.length in (None, len(value))
            and (kind.kinds is None or all(_is_any(x, kind.kinds) for x in _entries(value)))
        )
    if kind in _REFUSED_BY:
        try:
            _REFUSED_BY[kind](value, "")
        except ValueError:
            return False
        return True
    return isinstance(value, kind)


def _may_be_traced(kind: Any) -> bool:
    """Whether an array that is being traced may stand for it: for numbers and keys, or what they are found to be later."""
    return kind is bool or kind in _REFUSED_BY or isinstance(kind, _SequenceOf)


def _is_sequence(value: Any) -> bool:
    if isinstance(value, np.ndarray | jax.Array):
        return value.ndim > 0
    known = isinstance(value, collections.abc.Collection)
    return known and not isinstance(value, str | bytes | collections.abc.Mapping)


def _entries(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, jax.Array) else value


def _name(kind: Any) -> str:
    if kind in _NAMES:
        return _NAMES[kind]
    if isinstance(kind, _OneOf):
        return " or ".join(map(repr, kind.choices))
    if isinstance(kind, _SequenceOf):
        things = "things" if kind.kinds is None else " or ".join(map(_plural, kind.kinds))
        return f"a sequence of {things if kind.length is None else f'{kind.length} {things}'}"
    package = kind.__module__.partition(".")[0]
    name = kind.__name__ if package in ("smoothjax", "builtins") else f"{package}.{kind.__name__}"
    spelled = name[:2].isupper() and name[0] in "FHLMNRSX"  # an MLP
    return f"{'an' if spelled or name[0] in 'AEIOUaeiou' else 'a'} {name}"


_NAMES = {
    None: "None",
    callable: "a callable",
    bool: "True or False",
    str: "text",
    int: "an integer",
    float: "a number",
    dict: "a dictionary",
    collections.abc.Mapping: "a dictionary",
    os.PathLike: "a path",
    _Numbers(): "an array of numbers",
    _Numbers(has_axes=False): "a number",
    PRNGKeyArray: "a JAX random key",
}


def _plural(kind: Any) -> str:
    return {
        bool: "booleans",
        str: "texts",
        int: "integers",
        float: "numbers",
        _Numbers(): "arrays",
        callable: "callables",
    }.get(kind) or f"{_name(kind).partition(' ')[2] or _name(kind)}s"
