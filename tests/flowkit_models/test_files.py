"""Atomic writes: the old file or the whole new one, whatever the writer does, under any name that a folder takes."""

import os
import stat
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from flowkit_models.files import (
    UNFINISHED,
    _lock,
    atomic_path,
    keep_copy,
    remove_abandoned,
    remove_unfinished,
    write_text,
    write_whole,
)


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path) -> None:
    path = tmp_path / "file"
    write_text(path, "older")
    reader = path.open("rb")
    write_text(path, "ö")
    assert reader.read() == b"older"  # another file took its name
    reader.close()

    def fail(file):
        file.write(b"half")
        assert path.read_bytes() == "ö".encode()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_bytes() == "ö".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_reaches_the_disk_before_its_name(tmp_path, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(os, "fsync", lambda number: seen.append((tmp_path / "file").exists()))
    write_text(tmp_path / "file", "new")
    assert seen == [False, True]  # the content, and then the folder


def test_the_longest_name_that_a_folder_takes(tmp_path) -> None:
    path = tmp_path / ("n" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    write_text(path, "new")
    assert path.read_text() == "new"


def test_permissions_are_ordinary_though_the_writer_makes_private_files(tmp_path) -> None:
    with atomic_path(tmp_path / "weights") as unfinished:
        save_file({"weight": torch.zeros(1)}, unfinished)
    (tmp_path / "ordinary").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("weights", "ordinary")]
    assert modes[0] == modes[1]


def test_two_writers_at_once_and_leftovers(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("flowkit_models.files._number", iter((0, 0, 0, 1)))  # as if they were two processes
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        assert first != second
        (tmp_path / f"{UNFINISHED}1-0").touch()
        remove_unfinished(tmp_path)
        assert not list(tmp_path.iterdir())
        for file in (first, second):
            file.write_text(file.name)
    assert (tmp_path / "a").read_text() == first.name  # the last one to end


@pytest.mark.parametrize("name", ["no/folder/file", "folder"])
def test_an_error_names_the_file(tmp_path, name) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=name):
        write_text(tmp_path / name, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_what_killed_processes_left_goes_and_what_living_ones_write_stays(tmp_path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f"{UNFINISHED}{dead.pid}-0", f"{UNFINISHED}x", f"{UNFINISHED}{2**70}-1"):
        (tmp_path / name).write_bytes(b"half")
    elsewhere = tmp_path / f"{UNFINISHED}{dead.pid}-7"  # of another machine, whose processes nobody here knows
    elsewhere.touch()
    (tmp_path / f"{UNFINISHED}1-0").touch()
    with atomic_path(tmp_path / "file") as mine:
        held = _lock(elsewhere)
        remove_abandoned(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {mine.name, elsewhere.name, f"{UNFINISHED}1-0"}
        mine.write_text("whole")
        held.close()
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"file", f"{UNFINISHED}1-0"}


@pytest.fixture
def full(tmp_path):
    """A disk that takes no more than 10 kB of a file."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_weights(path):
    with atomic_path(path) as unfinished:
        save_file({"weight": torch.zeros(10_000)}, unfinished)


def save_picture(path):
    with atomic_path(path) as unfinished:
        Image.effect_noise((300, 300), 50).save(unfinished, "PNG")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 20_000),
        lambda path: write_whole(path, lambda file: torch.save(torch.zeros(10_000), file)),
        save_weights,
        save_picture,
    ],
    ids=["text", "torch", "safetensors", "picture"],
)
def test_a_full_disk_names_the_file_and_keeps_the_old_one(tmp_path, full, write) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="File too large") as failed:
        write(tmp_path / "file")
    assert failed.value.filename == str(tmp_path / "file")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_an_error_of_another_file_keeps_its_name(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"), atomic_path(tmp_path / "file"):
        (tmp_path / "missing").read_text()


def test_a_copy_is_the_old_content_whatever_comes(tmp_path, monkeypatch) -> None:
    for links in (True, False):
        if not links:
            monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(OSError("no links here")))
        write_text(tmp_path / "file", f"old {links}")
        keep_copy(tmp_path / "file", tmp_path / "copy")
        write_text(tmp_path / "file", "new")
        assert (tmp_path / "copy").read_text() == f"old {links}"
    assert len(list(tmp_path.iterdir())) == 2
