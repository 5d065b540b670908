"""Compiled programs that later processes find on the disk."""

import hashlib
import os
import platform
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from .._kinds import checks_kinds

_MIN_SECONDS = "jax_persistent_cache_min_compile_time_secs"


@checks_kinds
def enable_compilation_cache(path: str | os.PathLike[str] | None = None) -> Path:
    """Keeps what JAX compiles from here on in a folder, so that later processes need not compile it again.

    Turns on JAX's own persistent cache, for programs of any size: JAX alone would keep those that took a second or more,
    and on a CPU few do. The command line calls this. `JAX_ENABLE_COMPILATION_CACHE=0` in the environment switches the cache
    off, here and there; `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS` sets another threshold.

    Programs that call Python from within, as those of networks on the host do, are not kept. JAX never empties the folder;
    it may be deleted at any time. Its programs are run as they are: let nobody write there whom you would not let run code.
    XLA may log, for each program that it finds, that features named `prefer-no-...` are not supported: those are no features
    of the processor, and `TF_CPP_MIN_LOG_LEVEL=3` in the environment, set before JAX is imported, silences it.

    Args:
        path: local folder, made where there is none, for this user only. By default the one that JAX has been told
            (`JAX_COMPILATION_CACHE_DIR`); else one for this kind of processor in `smoothjax` under `XDG_CACHE_HOME`, or
            `~/.cache`: what was compiled for one processor need not run on another.

    Returns:
        The folder.

    Raises:
        ValueError: for a path that is not a folder, cannot be made one, or cannot be written to.

    Source: https://docs.jax.dev/en/latest/persistent_compilation_cache.html

    Example:
        >>> import smoothjax as sj
        >>> sj.enable_compilation_cache("compiled").is_dir()
        True
    """
    if path is None:
        path = jax.config.jax_compilation_cache_dir or _default_folder()  # pyright: ignore
    try:
        folder = Path(path).expanduser().absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"`path` must be a folder that can be made; got {path!r}: {error}."
        ) from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise ValueError(f"`path` must be a folder that can be written to; got {str(folder)!r}.")
    # JAX opens one folder a process, at the first compilation: a second call would change nothing.
    compilation_cache.reset_cache()
    compilation_cache.set_cache_dir(str(folder))
    if _MIN_SECONDS.upper() not in os.environ:
        jax.config.update(_MIN_SECONDS, 0.0)
    return folder


def _default_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The standard has relative paths ignored.
    folder = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return folder / "smoothjax" / f"xla-{_processor()}"


def _processor() -> str:
    """A name for this kind of processor and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        known = sorted(
            {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        )
    except OSError:
        known = []
    text = "\n".join([platform.machine(), platform.processor(), *known])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
