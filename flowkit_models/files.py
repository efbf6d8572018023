"""Atomic writes: a path holds the old file or the whole new one, at any moment, also of a power cut. Strict JSON."""

import itertools
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".flowkit-"
"""Start of the names of files that are not whole yet."""

_number = itertools.count()


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file in the same folder, which takes the path's place when the block ends without an error.

    Its name is short, whatever the path's, and has no extension: tell the writer the format. What the block wrote
    gets ordinary permissions, and is on the disk before it gets its name.

    Raises:
        OSError: if the file can't be written, with the path's name; the old one is still there.
    """
    path = Path(path)
    unfinished = _new_file(path)
    lock = _lock(unfinished)
    try:
        with named_errors(path, unfinished):
            mode = unfinished.stat().st_mode
            yield unfinished
            unfinished.chmod(mode)  # some writers make files that only their owner can read
            with unfinished.open("r+b") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
    finally:
        if lock is not None:
            lock.close()
        unfinished.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # the new name itself must reach the disk
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def named_errors(path: str | os.PathLike[str], unfinished: Path | None = None) -> Iterator[None]:
    """Gives the path's name to an OSError without one (a full disk), and to what a library made of such an error.

    Args:
        path: what is written.
        unfinished: a temporary file, whose name nobody knows.
    """
    try:
        yield
    except Exception as error:
        number = _system_error(error, None if unfinished is None else str(unfinished))
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from None


def _system_error(error: Exception, unfinished: str | None) -> int | None:
    """The number of an error of the operating system that names no file, or that a library (torch, safetensors) hid."""
    if isinstance(error, OSError):
        return error.errno if error.filename in (None, unfinished) else None
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
        return error.__context__.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def opened_system(path: str) -> tuple[Any, str]:
    """The file system of a path or URL (s3://, gs://, hdfs://, … as fsspec knows them), and the path in it.

    Raises:
        ImportError: without the package of the protocol; names it.
        ValueError: for a protocol that nobody knows.
    """
    import fsspec  # noqa: PLC0415 - comes with torch; only for those who name files so

    system, inner = fsspec.core.url_to_fs(path)
    return system, inner


def keep_copy(path: Path, copy: Path) -> None:
    """Gives a file a second name, atomically, or copies it where a file system knows no such thing."""
    with atomic_path(copy) as unfinished:
        unfinished.unlink()
        try:
            os.link(path, unfinished)
        except OSError:
            shutil.copyfile(path, unfinished)


def write_whole(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file atomically.

    Args:
        path: the file.
        write: is given the open file.

    Raises:
        OSError: if the file can't be written; the old one is still there.
    """
    with atomic_path(path) as unfinished, unfinished.open("w+b") as file:
        write(file)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file atomically, in UTF-8 (`write_whole`); file names in it that are none, as their bytes."""
    write_whole(path, lambda file: file.write(text.encode(errors="surrogateescape")))


def read_text(path: str | os.PathLike[str]) -> str:
    """Reads a text file as `write_text` writes it, whatever the locale."""
    return Path(path).read_bytes().decode(errors="surrogateescape")


def jsonable(value: Any, infinite: Callable[[float], Any] = lambda _: None) -> Any:
    """Value as strict JSON holds it: named tuples as objects, numbers that are not finite as `infinite` makes them.

    >>> jsonable({"a": [1.5, float("nan")]}), jsonable((float("inf"),), str)
    ({'a': [1.5, None]}, ['inf'])
    """
    value = value._asdict() if hasattr(value, "_asdict") else value
    if isinstance(value, Mapping):
        return {key: jsonable(part, infinite) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part, infinite) for part in value]
    return infinite(value) if isinstance(value, float) and not math.isfinite(value) else value


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes left half written in a folder that nobody else writes to."""
    for file in folder.glob(f"{UNFINISHED}*"):
        file.unlink()


def remove_abandoned(folder: Path) -> None:
    """Removes what killed processes left half written in a folder, and nothing that a living one writes there.

    Such as SIGKILL and power cuts leave. A writer holds a lock on its file, which other machines see as well, as far as
    the file system has locks; on this machine its number tells, too.
    """
    for file in folder.glob(f"{UNFINISHED}*"):
        number = file.name.removeprefix(UNFINISHED).partition("-")[0]
        if not (number.isdecimal() and _is_running(int(number))) and not _is_locked(file):
            file.unlink(missing_ok=True)


def _is_running(number: int) -> bool:
    try:
        os.kill(number, 0)
    except PermissionError:  # another user's
        return True
    except (OSError, OverflowError):
        return False
    return True


def _lock(file: Path) -> IO[bytes] | None:
    """A handle that holds a shared lock on a file until it is closed; None where the system has no such locks."""
    if fcntl is None:
        return None
    held = file.open("rb")
    with suppress(OSError):
        fcntl.flock(held, fcntl.LOCK_SH)
    return held


def _is_locked(file: Path) -> bool:
    if fcntl is None:
        return False
    try:
        with file.open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # gone already, or not ours to read
        return not os.access(file, os.W_OK)
    return False


def _new_file(path: Path) -> Path:
    while True:
        file = path.with_name(f"{UNFINISHED}{os.getpid()}-{next(_number)}")
        try:
            file.touch(exist_ok=False)
        except FileExistsError:  # of a process that had the same number, here or on another machine
            continue
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        return file
