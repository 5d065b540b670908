"""The command line: the library's functions with files."""

import sys

from ._checks import import_optional


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the command `smoothjax`; returns its exit status."""
    try:
        import_optional("tyro")
        from ._commands import parse

        return parse(arguments).run()
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(f"smoothjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("smoothjax: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
