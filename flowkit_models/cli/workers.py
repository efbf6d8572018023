"""Jobs of a batch in several processes of one machine: same lines, same results, same end as in one."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from flowkit_models import devices
from flowkit_models.cli.batch import Batch, Desk, Job
from flowkit_models.cli.errors import one_line
from flowkit_models.cli.heap import keep_freed_memory
from flowkit_models.terminal import program, stop_if_asked

SPAWN = multiprocessing.get_context("spawn")  # threads and devices do not survive a fork

PATIENCE = 10.0
"""Seconds that a process has to end when it is told to; then it is killed."""

Do = Callable[[Job], None]
"""Does a job. What it raises is reported, and stops no other job."""

Make = Callable[[int], Do]
"""Makes it, in the process with this number, from 0 on; pickled."""


class Remote(Desk):
    """Desk in another process: what is reported is sent there."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def begin(self, source: Path) -> None:
        """See `Desk`."""
        self._connection.send(("begin", (source,)))

    def progress(self, source: Path, completed: int, total: int) -> None:
        """See `Desk`."""
        self._connection.send(("progress", (source, completed, total)))

    def say(self, text: str, once: str | None = None) -> None:
        """See `Desk`."""
        self._connection.send(("say", (text, once)))

    def result(self, text: str) -> None:
        """See `Desk`."""
        self._connection.send(("result", (text,)))

    def done(self, source: Path, written: tuple[Path, ...]) -> None:
        """See `Desk`."""
        self._connection.send(("done", (source, written)))

    def fail(self, source: Path, text: str, trace: str = "") -> None:
        """See `Desk`."""
        self._connection.send(("fail", (source, text, trace)))


def serve_jobs(connection: Connection, make: Make, number: int, threads: int, sharers: int) -> None:
    """Does the jobs that arrive, one after the other, until the other side hangs up; runs in a process of its own.

    Args:
        connection: receives `Places`; sends ("ready", ()), then the calls of a `Desk`; ("broken", (reason,)) if it
            can't start.
        make: see `Make`.
        number: of the process, from 0 on.
        threads: of torch.
        sharers: processes that share the memory.
    """
    # SIGTERM unwinds, and leaves nothing behind; Ctrl-C is the parent's, which then ends this one
    with suppress(KeyboardInterrupt, BrokenPipeError, EOFError), program():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        keep_freed_memory()
        torch.set_num_threads(threads)
        devices.SHARERS = sharers
        try:
            do = make(number)
        except Exception as error:
            connection.send(("broken", (one_line(error),)))
            return
        connection.send(("ready", ()))
        desk = Remote(connection)
        while True:
            job = Job(desk, connection.recv())
            with job.reported():
                do(job)


class Worker:
    """A process, and the job that it is at.

    Attributes:
        job: None: it waits for one, or has not started yet.
        started: it has sent something.
    """

    def __init__(self, make: Make, number: int, threads: int, sharers: int) -> None:
        self.number, self.job, self.started = number, None, False
        self.connection, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=serve_jobs, args=(theirs, make, number, threads, sharers), daemon=True)
        with _deaf():
            self.process.start()
        theirs.close()

    job: Job | None

    def fate(self) -> str:
        """How it died, for a message."""
        self.process.join()
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        hint = ", of memory perhaps: take fewer --workers or smaller tiles, -t" if code == -signal.SIGKILL else ""
        return f"its process died ({how}{hint})"


def do_in_processes(batch: Batch, make: Make, count: int) -> None:
    """Does the jobs of a batch in processes. One that dies costs the job that it was at; another takes its place.

    Raises:
        OSError: if no process can start.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when all processes have ended.
    """
    with batch.underway() as (jobs, advance):
        count = min(count, len(jobs))
        threads = max(1, torch.get_num_threads() // max(1, count))
        waiting = list(reversed(jobs))
        with _ending([Worker(make, number, threads, count) for number in range(count)]) as workers:
            while waiting or any(worker.job for worker in workers):
                if not workers:
                    raise OSError("no process could start: the line above says why, or try without --workers")
                by_connection: dict[Any, Worker] = {worker.connection: worker for worker in workers}
                for connection in wait(list(by_connection), timeout=1.0):
                    worker = by_connection[connection]
                    try:
                        what, arguments = worker.connection.recv()
                    except (EOFError, OSError):
                        workers.remove(worker)
                        if worker.job is not None:
                            batch.fail(worker.job.source, worker.fate())
                            advance()
                        elif not worker.started:
                            batch.say(f"worker {worker.number + 1}: {worker.fate()} while it started")
                        if worker.started and waiting:
                            workers.append(Worker(make, worker.number, threads, count))
                        continue
                    worker.started = True
                    if what == "broken":
                        batch.say(f"worker {worker.number + 1}: {arguments[0]}")
                        workers.remove(worker)
                    elif what != "ready":
                        getattr(batch, what)(*arguments)
                    if what in ("done", "fail"):
                        worker.job = None
                        advance()
                    if worker.job is None and what != "broken" and waiting:
                        worker.job = waiting.pop()
                        with suppress(OSError):  # it has died: the next look says so
                            worker.connection.send(worker.job.places)
                stop_if_asked()


@contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C reaches this process when the block ends, and a process that is started in it never."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _ending(workers: list[Worker]) -> Iterator[list[Worker]]:
    """Ends the processes with the block: those that wait for work hang up, the others are told to."""
    try:
        yield workers
    finally:
        for worker in workers:
            worker.connection.close()
            if worker.job is not None:
                worker.process.terminate()
        for worker in workers:
            worker.process.join(PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
