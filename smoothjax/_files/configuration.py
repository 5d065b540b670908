"""Configurations that folders hold: JSON data, which decide the numbers."""

import json
from pathlib import Path
from typing import Any


def as_read_back(configuration: dict[str, Any]) -> dict[str, Any]:
    """The configuration as a file of it holds it: a tuple is a list there."""
    return json.loads(json.dumps(configuration))


def require_same(before: dict[str, Any], now: dict[str, Any], folder: Path, what: str) -> None:
    """Raises `ValueError` that says in what the two differ; `what` is that which the folder holds."""
    differing = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if differing:
        changes = "; ".join(f"{k}: {before.get(k)!r} there, {now.get(k)!r} now" for k in differing)
        raise ValueError(
            f"{folder} holds {what} of another configuration ({changes}). Choose another folder, or delete that one."
        )
