"""Folders of results: files written whole or not at all, by one process at a time."""

import contextlib
import errno
import io
import os
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

LOCK = ".lock"


@contextlib.contextmanager
def replacing(path: Path, name: str | None = None) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when all went well: readers never see half a file.

    By default a file that nobody else has; or one of this name, to be made by the caller.
    """
    temporary = None if name is None else path.with_name(name)
    try:
        if temporary is None:
            handle, made = tempfile.mkstemp(
                dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
            )
            temporary = Path(made)
            os.close(handle)
            # Temporary files are made private; what takes their place should be readable as any other file.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            # Of a full disk Python says no name, and of others one that is gone.
            error.filename, error.filename2 = str(path), None
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all.

    What libraries write goes by way of memory: some of them crash where the disk is full.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_bytes(path, text.encode())


def netcdf_of(results: "xarray.Dataset") -> bytes:
    """Labelled results as the content of a netCDF file."""
    buffer = io.BytesIO()
    try:
        results.to_netcdf(buffer, engine="h5netcdf")
    except (ValueError, TypeError):  # older releases of xarray write this format to paths only
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "results.nc"
            results.to_netcdf(path, engine="h5netcdf")
            return path.read_bytes()
    return buffer.getvalue()


# Beside the pictures of pages, which are always made.
FIGURE_KINDS = ("pdf", "svg")


def png_of(figure: "Figure", dpi: int) -> bytes:
    """A figure as the content of a PNG file."""
    return _content_of(figure, "png", dpi=dpi)


def write_figures(
    folder: Path, figures: "Mapping[str, Figure]", kinds: Iterable[str] = (), *, dpi: int
) -> dict[str, bytes]:
    """Writes each figure as `NAME.png`, and in each of the other kinds; returns the pictures by name."""
    pictures = {}
    for name, figure in figures.items():
        pictures[name] = png_of(figure, dpi)
        write_bytes(folder / f"{name}.png", pictures[name])
        for kind in kinds:
            write_bytes(folder / f"{name}.{kind}", _content_of(figure, kind))
    return pictures


def _content_of(figure: "Figure", kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def require_folder(path: str | os.PathLike[str], name: str = "out") -> Path:
    """The path, of a folder that is there or can be made, or `ValueError`. Makes nothing."""
    folder = Path(path)
    if "\0" in str(path):
        raise ValueError(
            f"`{name}` must be a folder; got {str(path)!r}, which holds a null character."
        )
    existing = folder.absolute()
    longest = max(existing.parts, key=lambda part: len(os.fsencode(part)))
    try:
        while True:
            try:
                mode = os.stat(existing).st_mode
                break
            except FileNotFoundError:
                existing = existing.parent
        limit = os.pathconf(existing, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
        if len(os.fsencode(longest)) > limit:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    except OSError as error:
        in_its_way = "a file is in its way" if error.errno == errno.ENOTDIR else None
        why = in_its_way or error.strerror or str(error)
        raise ValueError(
            f"`{name}` must be a folder that can be made; got '{_short(folder)}': {why}. Choose another."
        ) from error
    if not stat.S_ISDIR(mode):
        what = "it is" if existing == folder.absolute() else f"'{existing}' is"
        raise ValueError(
            f"{_short(folder)} must be a folder; {what} a file. Choose another `{name}`."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(
            f"`{name}` must be a folder that can be written to; got '{_short(folder)}': no permission in "
            f"'{_short(existing)}'. Choose another."
        )
    return folder


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) < 200 else f"{text[:150]}...{text[-30:]}"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder, made where there is none; `ValueError` where one is in it.

    A file in it names the computer and the process. What a process left that has ended is taken over.
    """
    require_folder(folder)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    handle = _take(path)
    try:
        yield
    finally:
        # Before it is let go: nobody may take a file that is about to vanish for the folder's.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # where nothing was written


def _take(path: Path) -> int:
    host, process = socket.gethostname(), os.getpid()
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            is_locked = _lock(handle)
            owner = os.read(handle, 1000).decode(errors="replace").split()
            there, number = (owner[0], owner[1]) if len(owner) == 2 else ("", "")
            if is_locked is False:
                raise _in_use(path, f"process {number} on {there}" if there else "another process")
            if there not in ("", host):
                raise _in_use(
                    path, f"process {number} on {there} (if that has ended, delete '{path}')"
                )
            if is_locked is None and _is_alive(number, process):
                raise _in_use(path, f"process {number}")
            if _is_same(handle, path):
                os.ftruncate(handle, 0)
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, f"{host} {process}\n".encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # it was removed by its holder meanwhile


def _in_use(path: Path, whose: str) -> ValueError:
    return ValueError(
        f"{path.parent} is in use by {whose}. Wait for its end, or choose another folder."
    )


def _lock(handle: int) -> bool | None:
    """Whether the file is now this process's; None where files cannot be locked."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def _is_alive(number: str, own: int) -> bool:
    if not number.isdigit() or int(number) == own:
        return False
    if os.name != "posix":  # a signal there ends the process
        return True
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
