"""`python -m smoothjax`: the command, where scripts are not on the path."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
