"""Rows of the suite's results: which belong together, and how they are put into words."""

from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]
OURS = "smoothjax"
CASE = ("n", "d", "batch", "noise", "samples", "draws", "models", "num_devices", "varied")
# A contestant that is this much faster than the library is said to beat it: less is within the spread of busy machines.
MARGIN = 1.05
CALLS = ("w1-images", "w1-colour")


# ------------------------------------------------------------------------------------------ selecting


def is_ours(one: Row) -> bool:
    return str(one.get("contestant", "")).startswith(OURS)


def is_bound(one: Row) -> bool:
    """Bare products and reading alone: no contestants, but what no contestant can be faster than."""
    name = str(one.get("contestant", ""))
    return "products" in name or name.startswith("disk")


def case_of(one: Row) -> tuple[Any, ...]:
    return tuple(one.get(key) for key in CASE)


def cases(rows: Iterable[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """The rows of each case, in the order of the file."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for one in rows:
        found.setdefault(case_of(one), []).append(one)
    return found


def fastest(rows: Iterable[Row]) -> Row | None:
    return min(rows, key=lambda one: one["seconds"], default=None)


def rival(rows: list[Row]) -> Row | None:
    """The fastest of the others."""
    return fastest(one for one in rows if not is_ours(one) and not is_bound(one))


def named(rows: Iterable[Row], name: str) -> Row | None:
    return next((one for one in rows if one["contestant"] == name), None)


class Results:
    """The parts of one device, by name."""

    def __init__(self, parts: list[dict[str, Any]]):
        self.parts = {part["part"]: part for part in parts}

    def rows(self, *names: str) -> list[Row]:
        return [one for name in names for one in self.parts.get(name, {}).get("rows", [])]

    def products(self, one: Row) -> float | None:
        """Seconds of the fastest bare products that were timed in turn with a row; None where there were none."""
        bare = [x for x in self.rows(one["workload"]) if is_bound(x) and case_of(x) == case_of(one)]
        return min((x["seconds"] for x in bare), default=None)


# ---------------------------------------------------------------------------------------------- words


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale or unit == "us":
            return f"{number(seconds / scale)} {unit}"
    raise AssertionError


def timing(one: Row) -> str:
    low, high = one["seconds_quartiles"]
    return f"{duration(one['seconds'])} ({duration(low)} to {duration(high)})"


def number(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def spread(values: Iterable[float], form: Callable[[float], str] = number) -> str:
    values = list(values)
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low} to {high}"


def percent(x: float) -> str:
    return f"{100 * x:.3g} %"


def scientific(x: Any) -> str:
    return "-" if x is None else f"{x:.1e}"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def short(one: Row) -> str:
    """The contestant's name without the library's."""
    return one["contestant"].removeprefix(f"{OURS} ")


def queries(batch: int) -> str:
    return "1 query" if batch == 1 else f"{batch:,} queries"


def shape(one: Row) -> str:
    return f"{one['n']:,} x {one['d']:,}"
