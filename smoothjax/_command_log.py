"""What XLA logs in a process of the command `smoothjax`; read when JAX is imported, so imported before it."""

import os
import sys
from pathlib import PurePath

# XLA's releases report, a page each, for every program that they find in their cache on the disk, that LLVM's tuning flags
# (`prefer-no-gather`) are no features of the processor. Fatal errors are still logged, and exceptions raised.
_FATAL_ONLY = "3"

if PurePath(sys.argv[0] if sys.argv else "").stem == "smoothjax" and "jax" not in sys.modules:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _FATAL_ONLY)
