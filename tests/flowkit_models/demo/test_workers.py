"""Workers: calls that hang, die or fill the memory end alone, and others are answered meanwhile."""

import os
import signal
import sys
import threading
import time

import pytest

from flowkit_models.demo import workers
from flowkit_models.demo.workers import Pool, WorkerError

PATIENCE = 60  # seconds, on a machine that has other things to do


class Hostile:
    """Tasks of a worker, most of them bad."""

    def answer(self, value):
        return [value, os.getpid()]

    def hang(self):
        time.sleep(10 * PATIENCE)

    def step(self, count, seconds):
        for i in range(count):
            time.sleep(seconds)
            self.progress(i + 1, count)
        return count

    def die(self):
        os._exit(9)

    def fill(self):
        return len(bytearray(3_000_000_000))

    def fail(self):
        raise ValueError("bad\nfile")

    def surprise(self):
        raise KeyError("config")


@pytest.fixture
def pool():
    with Pool(Hostile, "ours", 2, PATIENCE, 1e9) as made:
        yield made


def background(pool, session, checkpoint, name):
    """Makes a call that is stopped some time; gives its error when joined."""
    said = []

    def call():
        try:
            pool.run(session, checkpoint, name)
        except WorkerError as error:
            said.append(str(error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    while not any(worker.owner == session for worker in pool.workers):
        time.sleep(0.01)
    return thread, said


def test_others_are_answered_while_calls_hang(pool):
    """Hostile checkpoints can take every worker but the first; a hostile photograph only one."""
    pool.run("warm", "ours", "answer", 0)
    first = background(pool, "mallory", "theirs", "hang")
    start = time.monotonic()
    assert pool.run("alice", "ours", "answer", 1)[0] == 1
    assert time.monotonic() - start < 5
    # a second one of theirs waits, and does not take the worker that is left
    pool.seconds = 0.2
    with pytest.raises(WorkerError, match=r"busy: no worker was free for 0\.2 s"):
        pool.run("eve", "theirs", "hang")
    # a session has one call at a time, and few that wait
    with pytest.raises(WorkerError, match="busy: no worker"):
        pool.run("mallory", "ours", "answer", 1)
    pool.waiting = ["mallory"] * workers.OWN
    with pytest.raises(WorkerError, match="busy: your own earlier calls"):
        pool.run("mallory", "ours", "answer", 1)
    pool.waiting = ["others"] * workers.WAITING
    with pytest.raises(WorkerError, match="busy: too many others"):
        pool.run("eve", "theirs", "hang")
    assert pool.run("bob", "ours", "answer", 2)[0] == 2
    pool.workers[1].process.kill()
    first[0].join(PATIENCE)
    assert "its process died" in first[1][0]


def test_the_own_checkpoint_may_have_every_worker(pool):
    background(pool, "mallory", "ours", "hang")
    assert pool.run("alice", "ours", "answer", 1)[0] == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hang", r"stopped: it took more than 0\.5 s \(--time-limit\)"),
        ("die", "its process died"),
        pytest.param(
            "fill",
            r"needs more memory than 1 GB.*\(--memory\)",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's"),
        ),
    ],
)
def test_a_worker_starts_anew(name, message):
    with Pool(Hostile, "ours", 1, PATIENCE, 1e9) as pool:
        _, before = pool.run("alice", "ours", "answer", 0)
        pool.workers[0].seconds = 0.5 if name == "hang" else PATIENCE
        with pytest.raises(WorkerError, match=message):
            pool.run("mallory", "theirs", name)
        pool.workers[0].seconds = PATIENCE
        value, after = pool.run("alice", "ours", "answer", 1)
        assert (value, before != after) == (1, True)
        with pytest.raises(ProcessLookupError):
            os.kill(before, 0)


def test_errors_are_one_line_and_keep_the_worker(pool):
    _, before = pool.run("alice", "ours", "answer", 0)
    for name, message in (("fail", "^bad file$"), ("surprise", "^unexpected KeyError: 'config'$")):
        with pytest.raises(WorkerError, match=message):
            pool.run("alice", "ours", name)
    assert pool.run("alice", "ours", "answer", 0)[1] == before


def test_workers_end_with_the_pool():
    with Pool(Hostile, "ours", 1, PATIENCE, 1e9) as pool:
        thread, said = background(pool, "mallory", "ours", "hang")
        process = pool.workers[0].process
    thread.join(PATIENCE)
    assert "its process died" in said[0]
    assert pool.workers[0].process is process  # nothing starts anew
    assert process.exitcode == -signal.SIGKILL


def test_steps_that_are_reported_have_the_limit_of_time_each():
    steps = []
    with Pool(Hostile, "ours", 1, 1.5, 1e9) as pool:
        pool.run("alice", "ours", "answer", 0)
        assert pool.run("alice", "ours", "step", 4, 0.5, progress=lambda *step: steps.append(step)) == 4
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
