"""The command line: the library's functions with files."""

import _thread
import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator

import jax

from ._checks import import_optional
from ._command_start import STOPPED, let_interrupts_raise
from ._jax.compilation import enable_compilation_cache
from ._kinds import checks_kinds
from ._version import __version__


@checks_kinds
def main(arguments: list[str] | None = None) -> int:
    """Entry point of the command `smoothjax`; returns its exit status.

    0 where all went well, 1 where the computer could not (a full disk), 2 where what was asked for cannot be, 130 after
    Ctrl-C. Each but the first with one line of explanation.
    """
    try:
        let_interrupts_raise()
        _print_anything()
        with _warnings_in_one_line(), _no_interrupt_lost():
            return _run(sys.argv[1:] if arguments is None else list(arguments))
    except (ValueError, FileNotFoundError, ImportError) as error:
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        return _stopped(arguments)
    except BrokenPipeError:
        # Whoever read the output has enough. What is left must not be written when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        what = error.strerror or str(error).partition("\n")[0]
        place = f"'{error.filename}': " if error.filename else ""
        _complain(
            f"{place}{what}. What is finished is kept, and the same command goes on from there."
        )
        return 1
    except jax.errors.JaxRuntimeError as error:
        if "KeyboardInterrupt" not in str(error):  # raised by Python that a compiled program calls
            raise
        return _stopped(arguments)


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["--version"]:
        print(f"smoothjax {__version__}")
        return 0
    if arguments == ["doctor"]:  # has no options to parse
        from ._commands.doctor import Doctor

        command = Doctor()
    else:
        import_optional("tyro")
        from ._commands.commands import parse

        command = parse(arguments)
    _keep_compiled()
    return command.run()


def _stopped(arguments: list[str] | None) -> int:
    _complain(STOPPED)
    if arguments is None:
        # The process of a command ends here: threads of XLA may still run what was interrupted, and crash where Python takes
        # itself down under them.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(130)
    return 130


@contextlib.contextmanager
def _no_interrupt_lost() -> Iterator[None]:
    """Ctrl-C during a callback of the garbage collector, of which JAX has one, would be printed and forgotten."""
    before = sys.unraisablehook
    waiting = []

    def again(unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            # Once the callback is over: in this one it would be forgotten again.
            waiting.append(threading.Timer(0.05, _thread.interrupt_main))
            waiting[-1].daemon = True
            waiting[-1].start()
        else:
            before(unraisable)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in waiting:
            timer.cancel()


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):
        print(f"smoothjax: {text}", file=sys.stderr)


def _print_anything() -> None:
    """What the terminal's encoding has no character for is replaced: no result is lost for an accent."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """This package's warnings as users of the command line read them: no place in the code."""
    before = warnings.formatwarning

    def one_line(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if category is UserWarning:
            return f"smoothjax: {message}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = one_line
    try:
        yield
    finally:
        warnings.formatwarning = before


def _keep_compiled() -> None:
    """Turns on the compilation cache; without a place for it, the command only takes longer."""
    if not jax.config.jax_enable_compilation_cache:  # pyright: ignore[reportAttributeAccessIssue]
        return
    try:
        enable_compilation_cache()
    except (ValueError, RuntimeError) as error:  # `RuntimeError`: no home directory
        print(f"smoothjax: compiled programs are not kept: {error}", file=sys.stderr)
