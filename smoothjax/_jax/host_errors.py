"""Exceptions of functions that run on the host: raised as what they are where a public call ends."""

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

_P = ParamSpec("_P")
_R = TypeVar("_R")


class HostCallError(RuntimeError):
    """What JAX is told when a function on the host fails: one line with the cause. JAX reports it with its own stack."""


class _Record:
    """The last exception that a callback has met, in whatever thread it ran."""

    def __init__(self):
        self.lock = threading.Lock()
        self.failures = self.traces = 0
        self.last: BaseException | None = None
        self.quiet = False


_RECORD = _Record()


def record_failure(error: BaseException) -> None:
    """Keeps an exception that is about to cross a callback, where JAX would make a text of it."""
    with _RECORD.lock:
        _RECORD.failures += 1
        _RECORD.last = error


def record_trace() -> None:
    """Notes that a function on the host became part of a traced computation.

    JAX also logs the exception of a callback with its stack; what is raised says the same.
    """
    with _RECORD.lock:
        _RECORD.traces += 1
        if not _RECORD.quiet:
            logging.getLogger("jax._src.callback").addFilter(_is_not_ours)
            _RECORD.quiet = True


def _is_not_ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HostCallError))


def _failure_since(failures: int) -> BaseException | None:
    with _RECORD.lock:
        found = _RECORD.last if _RECORD.failures > failures else None
        if found is not None:
            _RECORD.last = None
        return found


def raising_host_errors(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function of denoisers that raises what a network on the host raised, `KeyboardInterrupt` too.

    Where a denoiser runs on the host, the function returns when its values are there, as JAX may report an exception only
    then. Inside somebody's `jax.jit` it cannot know of the exception, which JAX then reports as an error of its own whose
    last line has the cause.
    """

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        failures, traces = _RECORD.failures, _RECORD.traces
        try:
            result = function(*args, **kwargs)
            if _RECORD.traces > traces or _runs_on_host((args, kwargs)):
                jax.block_until_ready(result)
            return result
        except Exception:
            failure = _failure_since(failures)
            if failure is None:
                raise
        raise failure

    return wrapped


def _runs_on_host(tree: Any) -> bool:
    is_host = lambda node: getattr(type(node), "runs_on_host", False)  # noqa: E731
    return any(map(is_host, jax.tree.leaves(tree, is_leaf=is_host)))
