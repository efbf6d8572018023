"""Lock of a run's folder: one run trains in it at a time."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

NAME = "run.lock"
"""The file: the process that trains, as JSON with its number, its host, and when it started."""

_held: set[Path] = set()


def acquire(folder: Path) -> bool:
    """Locks a folder, which is there, for this process.

    A lock that a process of this host left when it was killed is taken over. A number that another process has got
    since is told by when that one started.

    Returns:
        False if this process has the lock already.

    Raises:
        ValueError: if another process has it; names that process, and the remedy.
    """
    file = folder.resolve() / NAME
    with _one_at_a_time(folder):
        holder = _read(file)
        if holder is not None and _same(holder, _me()):
            return False
        if holder is not None and holder["host"] != socket.gethostname():
            raise ValueError(
                f"{folder}: locked by process {holder['pid']} on {holder['host']}; wait for that run, or choose "
                f"another --out; if it is gone, remove {file}"
            )
        if holder is not None and _lives(holder):
            raise ValueError(
                f"{folder}: process {holder['pid']} trains here already; wait for it, stop it, or choose another --out"
            )
        file.unlink(missing_ok=True)
        with file.open("x", encoding="utf-8") as out:
            json.dump(_me(), out)
    _held.add(file)
    return True


def release(folder: Path) -> None:
    """Unlocks a folder, if this process has locked it."""
    _release(folder.resolve() / NAME)


def release_all() -> None:
    """Unlocks all folders that this process has locked."""
    for file in list(_held):
        _release(file)


def _release(file: Path) -> None:
    _held.discard(file)
    holder = _read(file)
    if holder is not None and _same(holder, _me()):
        file.unlink(missing_ok=True)


def _me() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """True for one process: clocks that are set tell its start a little differently."""
    place = ("pid", "host")
    return all(one[key] == other[key] for key in place) and abs(one["started"] - other["started"]) < 5


def _lives(holder: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(holder["pid"])
        ended = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return not ended and _same({**holder, "started": process.create_time()}, holder)
    except psutil.NoSuchProcess:
        return False


def _read(file: Path) -> dict[str, Any] | None:
    """The holder of a lock; None if there is none, or one whose writer was killed while it wrote."""
    try:
        holder = json.loads(file.read_text(encoding="utf-8"))
        return {"pid": int(holder["pid"]), "host": str(holder["host"]), "started": float(holder["started"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Keeps other processes of this host out while one finds a stale lock and replaces it, where the system can."""
    try:
        import fcntl  # noqa: PLC0415 - not on Windows
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems can't; what is left is that the lock's file is made once
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
