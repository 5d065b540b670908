"""A command as one would type it."""

import dataclasses
import shlex
from typing import Any


def line_of(name: str, command: Any, positional: tuple[str, ...] = ()) -> str:
    """The command line that asks for a command, a dataclass of options: what differs from the defaults, `--out` always.

    Args:
        name: of the command.
        command: its options.
        positional: fields that are given without their names, in this order.
    """
    words = ["smoothjax", name]
    for field in positional:
        words += _values(getattr(command, field))
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        if field.name in positional or (value == field.default and field.name != "out"):
            continue
        option = f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(option if value else f"--no-{field.name.replace('_', '-')}")
        else:
            words += [option, *_values(value)]
    return shlex.join(words)


def _values(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, tuple) else [str(value)]
