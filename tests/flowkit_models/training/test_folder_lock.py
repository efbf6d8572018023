"""One run a folder: a second process is refused, a dead one's lock is taken over, another host's is named."""

import json
import multiprocessing
import os
import signal
import socket
import time

import psutil
import pytest
from support import run

from flowkit_models.training import folder_lock


def lock_of(folder, **changes):
    started = psutil.Process().create_time()
    content = {"pid": os.getpid(), "host": socket.gethostname(), "started": started, **changes}
    (folder / folder_lock.NAME).write_text(json.dumps(content))


def hold(folder, seconds):
    folder_lock.acquire(folder)
    time.sleep(seconds)


@pytest.fixture
def other(tmp_path):
    """Another process that has the lock."""
    process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path, 60))
    process.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / folder_lock.NAME).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.05)
    yield process
    process.kill()
    process.join()


def test_a_second_process_is_refused_until_the_first_is_dead(other, tmp_path) -> None:
    with pytest.raises(ValueError, match=rf"process {other.pid} trains here already; wait for it, stop it, or choose"):
        folder_lock.acquire(tmp_path)
    os.kill(other.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:  # nobody has waited for it yet
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert folder_lock.acquire(tmp_path)
    folder_lock.release(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_second_run_is_refused_before_it_touches_anything(other, tmp_path) -> None:
    with pytest.raises(ValueError, match="trains here already"):
        run(tmp_path, steps=1)
    assert [file.name for file in tmp_path.iterdir()] == [folder_lock.NAME]


def test_a_number_that_another_process_got_since_is_told(tmp_path) -> None:
    lock_of(tmp_path, started=psutil.Process().create_time() - 1000)
    assert folder_lock.acquire(tmp_path)
    folder_lock.release_all()


def test_another_host_is_named_with_the_remedy(tmp_path) -> None:
    lock_of(tmp_path, host="elsewhere", pid=7)
    with pytest.raises(ValueError, match=r"process 7 on elsewhere; wait .* if it is gone, remove .*run\.lock"):
        folder_lock.acquire(tmp_path)
    folder_lock.release(tmp_path)  # it isn't ours
    assert (tmp_path / folder_lock.NAME).exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": 1}'])
def test_a_lock_that_was_half_written_is_none(tmp_path, content) -> None:
    (tmp_path / folder_lock.NAME).write_text(content)
    assert folder_lock.acquire(tmp_path)
    assert not folder_lock.acquire(tmp_path)  # it has it already
    folder_lock.release(tmp_path)


def test_a_run_gives_the_folder_back_however_it_ends(tmp_path) -> None:
    run(tmp_path / "run", steps=1)
    with pytest.raises(ValueError, match="holds a run already"):
        run(tmp_path / "run", steps=1)
    with pytest.raises(ValueError, match="must return a"):
        run(tmp_path / "run", steps=2, resume=True, validate=lambda model, step: {})
    assert not (tmp_path / "run" / folder_lock.NAME).exists()
