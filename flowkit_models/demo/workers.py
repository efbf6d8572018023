"""Worker processes of the page: a call that hangs, dies or takes too much memory stops nobody else's.

A worker is started once and answers one call after another; it is killed and started anew when a call runs out of
time or memory. Calls go to it pickled by this process, answers come back as JSON: nothing that a worker sends can
run code here.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SPAWN = multiprocessing.get_context("spawn")  # threads and devices do not survive a fork

START = 300.0
"""Seconds that a worker may take to start: it imports torch, on a machine that has other things to do."""

WAITING = 16
"""Calls that may wait for a worker, of all sessions together."""

OWN = 3
"""Calls that may wait of one session."""

_STATUS = Path("/proc/self/status")


class WorkerError(ValueError):
    """A call that failed in its worker, was stopped, or found none free: one line for the page."""


def serve_calls(connection: Connection, make: Callable[[], Any], memory: float) -> None:
    """Answers calls of methods of `make()` until the other side hangs up; runs in a process of its own.

    Args:
        connection: receives (method, arguments), sends {"made": …} or {"error": …, "memory": …} as JSON, and before
            it any number of {"progress": [done, total]}.
        make: the object with the methods; their results are what JSON can hold. Its attribute `progress` is set to what
            sends progress.
        memory: bytes that calls may take, on top of what the process has before the first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the page's, which then ends its workers
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a process of its own"
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    tasks = make()
    tasks.progress = lambda *steps: connection.send_bytes(json.dumps({"progress": steps}).encode())
    limit_memory(memory)
    connection.send_bytes(b"{}")
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        connection.send_bytes(json.dumps(_answer(tasks, name, arguments)).encode())


def _end_after(parent: Any) -> None:
    """Ends this process, whatever it is doing, when the page's has ended in any way."""
    parent.join()
    os._exit(1)


def _answer(tasks: Any, name: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    try:
        return {"made": getattr(tasks, name)(*arguments)}
    except (ValueError, OSError, ImportError) as error:
        return {"error": " ".join(str(error).split()) or type(error).__name__, "memory": False}
    except Exception as error:
        from flowkit_models.inference.memory import is_out_of_memory  # noqa: PLC0415 - torch is the tasks' affair

        if is_out_of_memory(error):
            return {"error": "out of memory", "memory": True}
        traceback.print_exc()
        return {"error": f"unexpected {type(error).__name__}: {' '.join(str(error).split())}", "memory": False}


def limit_memory(more: float) -> None:
    """Bounds the data of this process to what it has now and `more` bytes (Linux; nothing happens elsewhere)."""
    if sys.platform != "linux":
        return
    import resource  # noqa: PLC0415 - not on every system

    now = next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith("VmData:"))
    limit = now * 1024 + int(more)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


class Worker:
    """A process that answers calls, one at a time.

    Args:
        make: makes the object whose methods are called; pickled.
        seconds: after which a call is stopped, counted anew from each step that it reports.
        memory: bytes that its calls may take.

    Attributes:
        owner: session that has it now; None: it is free.
        checkpoint: that it opened last.
        closed: the page has ended; a call that is stopped starts nothing anew.
    """

    def __init__(self, make: Callable[[], Any], seconds: float, memory: float) -> None:
        self.make, self.seconds, self.memory = make, seconds, memory
        self.owner: str | None = None
        self.checkpoint = ""
        self.closed = False
        self._start()

    def _start(self) -> None:
        self.connection, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=serve_calls, args=(theirs, self.make, self.memory), daemon=True)
        self.process.start()
        theirs.close()
        self.ready = False

    def run(self, name: str, arguments: tuple[Any, ...], progress: Callable[[int, int], None] | None = None) -> Any:
        """Result of a method.

        Args:
            name: of the method.
            arguments: of the method.
            progress: is called with (done, total) of each step that the method reports; each has the limit of time
                for itself.

        Raises:
            WorkerError: if it fails, ends or is stopped; after the latter two the worker starts anew.
        """
        try:
            if not self.ready:
                self._receive(START)
                self.ready = True
            self.connection.send((name, arguments))
            while "progress" in (answer := self._receive(self.seconds)):
                if progress is not None:
                    progress(*answer["progress"])
        except TimeoutError:
            message = f"stopped: it took more than {self.seconds:g} s (--time-limit)"
        except (EOFError, OSError):
            message = "stopped: its process died, of memory perhaps (--memory)"
        else:
            if "made" in answer:
                return answer["made"]
            if not answer["memory"]:
                raise WorkerError(answer["error"])
            message = f"stopped: it needs more memory than {self.memory / 1e9:g} GB, or than there is (--memory)"
        self.stop()
        if not self.closed:
            self._start()
        raise WorkerError(message)

    def _receive(self, seconds: float) -> Any:
        if not self.connection.poll(seconds):
            raise TimeoutError
        return json.loads(self.connection.recv_bytes())

    def stop(self) -> None:
        """Ends the process, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.connection.close()


class Pool:
    """Workers that calls are spread over: one at a time for each session, each with a limit of time and memory.

    Where there are several workers, one takes calls with the page's own checkpoint alone: no other checkpoint can
    keep it busy.

    Args:
        make: as for `Worker`.
        first: the page's own checkpoint.
        count: of workers.
        seconds: limit of a call, and of waiting for a free worker.
        memory: bytes that the calls of a worker may take.
    """

    def __init__(self, make: Callable[[], Any], first: str, count: int, seconds: float, memory: float) -> None:
        self.first, self.seconds = first, seconds
        self.workers = [Worker(make, seconds, memory) for _ in range(count)]
        self.waiting: list[str] = []
        self.changed = threading.Condition()

    def __enter__(self) -> "Pool":
        """The pool, whose processes end with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the processes, whatever they are doing."""
        for worker in self.workers:
            worker.closed = True
            worker.process.kill()
            worker.process.join()

    def run(
        self,
        session: str,
        checkpoint: str,
        name: str,
        *arguments: Any,
        progress: Callable[[int, int], None] | None = None,
    ) -> Any:
        """Result of a method in a free worker.

        Args:
            session: whose calls run one after another.
            checkpoint: that the call opens.
            name: of the method.
            *arguments: of the method.
            progress: see `Worker.run`.

        Raises:
            WorkerError: as `Worker.run`, or if there is no worker free in time.
        """
        with self._taken(session, checkpoint) as worker:
            return worker.run(name, arguments, progress)

    @contextlib.contextmanager
    def _taken(self, session: str, checkpoint: str) -> Iterator[Worker]:
        with self.changed:
            worker = self._free(session, checkpoint) or self._wait(session, checkpoint)
            worker.owner, worker.checkpoint = session, checkpoint
        try:
            yield worker
        finally:
            with self.changed:
                worker.owner = None
                self.changed.notify_all()

    def _free(self, session: str, checkpoint: str) -> Worker | None:
        if any(worker.owner == session for worker in self.workers):
            return None
        open_to_all = self.workers if checkpoint == self.first or len(self.workers) == 1 else self.workers[1:]
        free = [worker for worker in open_to_all if worker.owner is None]
        return min(free, key=lambda worker: worker.checkpoint != checkpoint, default=None)

    def _wait(self, session: str, checkpoint: str) -> Worker:
        if self.waiting.count(session) >= OWN:
            raise WorkerError("busy: your own earlier calls are not done yet; wait for them")
        if len(self.waiting) >= WAITING:
            raise WorkerError("busy: too many others are waiting; try again in a while")
        self.waiting.append(session)
        try:
            worker = self.changed.wait_for(lambda: self._free(session, checkpoint), self.seconds)
        finally:
            self.waiting.remove(session)
        if worker is None:
            raise WorkerError(f"busy: no worker was free for {self.seconds:g} s; try again in a while (--workers)")
        return worker
