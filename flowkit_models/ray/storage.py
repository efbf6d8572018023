"""Files by fsspec: paths of this machine, or URLs (s3://, gs://, hdfs://, …). What is written appears whole."""

import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowkit_models.files import opened_system
from flowkit_models.images.formats import endings, left_out


def is_local(system: Any) -> bool:
    """Tells whether files of a file system have paths of this machine."""
    return "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol)


def exists(path: str) -> bool:
    """Tells whether there is a file."""
    system, inner = opened_system(path)
    return bool(system.exists(inner))


def joined(folder: str, name: str) -> str:
    """The path of a name below a folder or URL.

    >>> joined("s3://all/", "a/b.png"), joined("hdfs:///", "b.png"), joined("/", "b.png")
    ('s3://all/a/b.png', 'hdfs:///b.png', '/b.png')
    """
    return posixpath.join(folder, name)


def in_full(path: str) -> str:
    """A path of this machine from its root on, or a URL as its file system writes it."""
    system, inner = opened_system(path)
    return str(inner if is_local(system) else system.unstrip_protocol(inner))


def from_root(path: str | os.PathLike[str]) -> str:
    """A path of this machine from its root on, for processes that work in another folder; a URL as it is."""
    system, inner = opened_system(os.fspath(path))
    return str(inner) if is_local(system) else os.fspath(path)


@contextmanager
def fetched(path: str) -> Iterator[Path]:
    """A file as one of this machine: itself, or a copy that goes away with the block."""
    system, inner = opened_system(path)
    if is_local(system):
        yield Path(inner)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / posixpath.basename(inner)
        system.get_file(inner, str(copy))
        yield copy


def copied(path: str, place: Path) -> None:
    """Makes a file of this machine, in a folder that may be new, a copy of one anywhere."""
    system, inner = opened_system(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    system.get_file(inner, str(place))


@contextmanager
def delivered(path: str) -> Iterator[Path]:
    """Place of this machine for a writer that is atomic: the path itself, or a copy that is sent when the block ends.

    An error in the block sends nothing. Other file systems show the file when all of it is there, as their
    transactions do.
    """
    system, inner = opened_system(path)
    if is_local(system):
        place = Path(inner)
        place.parent.mkdir(parents=True, exist_ok=True)
        yield place
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / posixpath.basename(inner)
        yield copy
        system.makedirs(posixpath.dirname(inner), exist_ok=True)
        with system.transaction, copy.open("rb") as source, system.open(inner, "wb") as target:
            shutil.copyfileobj(source, target, 2**20)


def listed(path: str) -> tuple[list[str], str]:
    """The picture files of a folder and below it, or one file; and the folder that names are relative to.

    Raises:
        FileNotFoundError: if there is none.
    """
    system, inner = opened_system(path)
    if system.isfile(inner):
        path = from_root(path)
        return [path], path.rpartition("/")[0]
    found = [
        file
        for file in sorted(system.find(inner))
        if file.lower().endswith(tuple(endings()))
        and not any(left_out(part) for part in file[len(inner) :].split("/") if part)
    ]
    if not found:
        raise FileNotFoundError(f"{path}: no such file, or a folder without pictures")
    root = inner if is_local(system) else system.unstrip_protocol(inner)
    return [file if is_local(system) else system.unstrip_protocol(file) for file in found], root
