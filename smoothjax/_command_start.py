"""A process of the command `smoothjax` before JAX is imported: what XLA logs, and Ctrl-C, while nothing can be lost yet."""

import os
import signal
import sys
from pathlib import PurePath
from typing import Any

# XLA's releases report, a page each, for every program that they find in their cache on the disk, that LLVM's tuning flags
# (`prefer-no-gather`) are no features of the processor. Fatal errors are still logged, and exceptions raised.
_FATAL_ONLY = "3"
STOPPED = "stopped; the same command goes on from here."


def _stop(_signal: int, _frame: Any) -> None:
    # At once: an exception would pass through other packages' imports, some of which take it for their own.
    os.write(2, f"smoothjax: {STOPPED}\n".encode())
    os._exit(130)


def let_interrupts_raise() -> None:
    """Ctrl-C is an exception again, for what there is to finish."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if PurePath(sys.argv[0] if sys.argv else "").stem == "smoothjax" and "jax" not in sys.modules:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _FATAL_ONLY)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        signal.signal(signal.SIGINT, _stop)
