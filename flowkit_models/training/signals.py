"""Signal handlers: on Ctrl-C and SIGTERM the step is finished and the state saved before the process exits."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PATIENCE = 2.0
"""Seconds in which more signals count as the same one: launchers pass on what the terminal sends already."""


class Stopped(SystemExit):
    """A run was stopped by a signal; in training, with its state saved. Uncaught, the exit code is 130 or 143.

    Attributes:
        signal: which.
        told: it has been said already.
    """

    def __init__(self, number: signal.Signals, told: bool = False) -> None:
        super().__init__(128 + number)
        self.signal, self.told = number, told


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Inside, SIGTERM and Ctrl-C raise `Stopped` at once. The process then ends: later ones are ignored from there on.

    Only the main thread can do this; in another one signals act as they did.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number))

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    except BaseException as error:
        if isinstance(error, Stopped | KeyboardInterrupt):
            before = dict.fromkeys(SIGNALS, signal.SIG_IGN)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopSignals:
    """While entered, SIGINT and SIGTERM are remembered instead of acted on; a later SIGINT acts at once.

    Only the main thread can do this; in another one signals act as they did.

    Attributes:
        received: the first signal that came.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._since = 0.0
        self._at_once = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises `Stopped` at once: for long work that can be done again."""
        self._at_once = True
        try:
            if self.received is not None:
                raise Stopped(self.received)
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = signal.Signals(number), time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > PATIENCE:
            raise KeyboardInterrupt
        if self._at_once:
            self._at_once = False
            raise Stopped(self.received)
