"""Methods of denoisers that are one program each, also where nothing around them is compiled."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import equinox as eqx
import jax

from .. import _line
from .._checks import as_float_array, is_concrete, require_finite, require_positive

_F = TypeVar("_F", bound=Callable[..., Any])
_OURS = (f"{_line.__package__}.denoisers.", _line.__name__)


def one_program(method: _F) -> _F:
    """A method `(u, sigma, ...)` of a denoiser in closed form, compiled as a whole.

    Called as it stands, or mapped by `jax.vmap` alone, each of its operations would be a program of its own: dozens for
    every new shape. Inside `jax.jit` it is traced as it would be otherwise. Known arguments are checked before.

    The denoiser's arrays are arguments of the program, so that one of another law and the same shape finds it compiled. One
    that is made of anything else, such as a user's function, which may look at known values, calls the method itself.
    """

    @functools.wraps(method)
    def called(denoiser: Any, u: Any, sigma: Any, *others: Any, **named: Any) -> Any:
        if not _is_made_of_arrays(denoiser):
            return method(denoiser, u, sigma, *others, **named)
        u, sigma = as_float_array(u, "u"), _level(sigma)
        require_finite(u, "u")
        # Lists of numbers would be part of the program.
        others = tuple(as_float_array(x, "vector") for x in others)
        named = {name: as_float_array(x, name) for name, x in named.items()}
        return _compiled(method, denoiser, u, sigma, *others, **named)

    return cast(_F, called)


def _level(sigma: Any) -> Any:
    """The noise level as an array, checked where its value is known; the method checks those that are traced."""
    if is_concrete(sigma):
        return require_positive(sigma, "sigma")
    return as_float_array(sigma, "sigma")


def _is_made_of_arrays(node: Any) -> bool:
    """Whether a denoiser is of this package, and all that it holds are JAX arrays and its modules."""
    if not isinstance(node, eqx.Module):
        return isinstance(node, jax.Array)
    return type(node).__module__.startswith(_OURS) and all(
        _is_made_of_arrays(part)
        for field in dataclasses.fields(node)
        if not field.metadata.get("static", False)
        for part in jax.tree.leaves(getattr(node, field.name), is_leaf=_is_module)
    )


def _is_module(node: Any) -> bool:
    return isinstance(node, eqx.Module)


def _run(method: Callable[..., Any], denoiser: Any, *args: Any, **named: Any) -> Any:
    return method(denoiser, *args, **named)


_compiled = eqx.filter_jit(_run, inline=True)  # pyright: ignore[reportCallIssue]
