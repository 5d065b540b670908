"""How far a long job is: a bar on a terminal, lines in a pipe, a log or a notebook."""

import sys
import time
from collections.abc import Iterable
from typing import Any

from ._checks import import_optional

# Seconds between two lines, of the parts of a job.
BETWEEN_PARTS = 1.0
# Of steps, of which there may be millions: a twentieth of the time so far, at least and at most so many seconds.
SHARE, BETWEEN_STEPS = 0.05, (1.0, 30.0)
LINE = "{desc}{n_fmt} of {total_fmt} {unit}s, {elapsed} elapsed, about {remaining} left"


def progress_bar(
    parts: Iterable[Any] | None = None,
    *,
    shown: bool = True,
    total: int | None = None,
    initial: int = 0,
    what: str = "",
    unit: str = "part",
) -> Any:
    """tqdm's bar where standard error is a terminal; elsewhere what it would show, as lines of their own.

    Args:
        parts: what is gone through; or None, and `update` is called.
        shown: or nothing is.
        total: how many there are, where `parts` does not say.
        initial: how many are done.
        what: is being done, in front of the numbers.
        unit: of the count. A line a "part", if that takes a second; of other units lines become rarer.
    """
    tqdm = import_optional("tqdm").tqdm
    more: dict[str, Any] = {
        "total": total,
        "initial": initial,
        "desc": what and f"{what}: ",
        "unit": unit,
    }
    stream = sys.stderr
    # None where a program has no console.
    if not shown or stream is None:
        return tqdm(parts, disable=True, **more)
    if stream.isatty():
        return tqdm(parts, file=stream, dynamic_ncols=True, **more)
    lines = _Lines(stream, rarely=unit != "part")
    # Parts are few and of all sizes: the mean of those so far.
    return tqdm(parts, file=lines, bar_format=LINE, smoothing=0, ascii=True, **more)


class _Lines:
    """A stream on which tqdm's bar, drawn anew again and again, becomes lines: not too many, and always the last."""

    def __init__(self, stream: Any, rarely: bool):
        self.stream, self.rarely = stream, rarely
        self.start, self.written, self.waiting, self.last = time.monotonic(), -1e9, "", ""

    def write(self, text: str) -> None:
        line = text.replace("\r", "").strip()
        if line:
            self.waiting = line
        now = time.monotonic()
        between = BETWEEN_PARTS
        if self.rarely:
            least, most = BETWEEN_STEPS
            between = min(max(SHARE * (now - self.start), least), most)
        # The bar is closed by an end of line.
        if now - self.written >= between or text == "\n":
            self._put(now)

    def _put(self, now: float) -> None:
        if self.waiting and self.waiting != self.last:
            self.stream.write(f"{self.waiting}\n")
            self.stream.flush()
            self.written, self.last = now, self.waiting

    def flush(self) -> None:
        self.stream.flush()
