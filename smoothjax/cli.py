"""The command line: the library's functions with files."""

import sys

import jax

from ._checks import import_optional
from ._compilation import enable_compilation_cache


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the command `smoothjax`; returns its exit status."""
    try:
        import_optional("tyro")
        from ._commands import parse

        command = parse(arguments)
        _keep_compiled()
        return command.run()
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(f"smoothjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("smoothjax: stopped; the same command goes on from here.", file=sys.stderr)
        return 130


def _keep_compiled() -> None:
    """Turns on the compilation cache; without a place for it, the command only takes longer."""
    if not jax.config.jax_enable_compilation_cache:  # pyright: ignore[reportAttributeAccessIssue]
        return
    try:
        enable_compilation_cache()
    except (ValueError, RuntimeError) as error:  # `RuntimeError`: no home directory
        print(f"smoothjax: compiled programs are not kept: {error}", file=sys.stderr)
