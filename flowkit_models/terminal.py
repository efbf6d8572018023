"""Terminal of a program: arguments, streams that print any name, lists and warnings in one line, signals, progress.

rich is imported when a bar is made: whoever draws nothing needs none.
"""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from types import FrameType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

PATIENCE = 2.0
"""Seconds in which more signals count as the same one: launchers pass on what the terminal sends already."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came, to be treated as Ctrl-C is."""


def first_few(names: Sequence[object], most: int = 3) -> str:
    """The first names of a list, and how many more there are.

    >>> first_few(["a", "b"]), first_few("abcde")
    ('a, b', 'a, b, c and 2 more')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def empty_argument(arguments: Sequence[str], may_be_empty: Sequence[str] = ()) -> str | None:
    """Message on an argument that is empty, as a shell makes of a variable that is not set; None: there is none.

    An empty path would stand for the current folder.

    Args:
        arguments: of a command line.
        may_be_empty: options whose value may be.
    """
    for before, argument in zip(("", *arguments), arguments, strict=False):
        option = before if before.startswith("-") and before != "--" and "=" not in before else ""
        glued = argument.startswith("--") and argument.endswith("=")
        option = argument[:-1] if glued else option
        if (glued or argument == "") and option not in may_be_empty:
            what = f"{option}: its value is" if option else "one of the arguments is"
            return f"{what} empty: is a variable not set? The current folder is called ."
    return None


_received: list[int] = []
"""Signals that have come while a `program` runs."""


def stop_if_asked() -> None:
    """Raises what a signal raises, if one has come: libraries swallow exceptions in their callbacks.

    Raises:
        KeyboardInterrupt: after Ctrl-C; `Terminated` after SIGTERM.
    """
    if _received:
        raise KeyboardInterrupt if _received[0] == signal.SIGINT else Terminated


def replace_unprintable() -> None:
    """Lets what is printed replace characters that the encoding of a stream (cp1252, ASCII) lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def program() -> Iterator[None]:
    """Conditions under which a program runs: whatever is printed gets printed, and SIGTERM is like Ctrl-C.

    What a stream's encoding lacks is replaced. Warnings are one line each, without the code that they come from. Ctrl-C
    raises KeyboardInterrupt and SIGTERM `Terminated`, once: what follows within two seconds is taken for the same.
    """
    replace_unprintable()
    form, warnings.formatwarning = warnings.formatwarning, _one_line
    since = -PATIENCE
    _received.clear()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if time.monotonic() - since < PATIENCE:
            return
        since = time.monotonic()
        _received.append(number)
        if frame is None or frame.f_globals.get("__name__") != "pyvips":  # whose callbacks print and swallow it
            stop_if_asked()

    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        warnings.formatwarning = form


def output_closed(end: BaseException) -> bool:
    """True if a program ends because nobody reads its standard output any more, as in `| head`.

    What is printed from then on goes nowhere.

    Args:
        end: what ended it.
    """
    try:
        if isinstance(end, BrokenPipeError):
            raise end
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


CLOSED = 128 + getattr(signal, "SIGPIPE", 13)
"""Exit code of a program whose output nobody reads any more, as shells have it."""


def exit_code(stop: KeyboardInterrupt) -> int:
    """Exit code of a program that a signal has stopped, as shells have it: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {' '.join(str(message).split())}\n"


class Tick(Protocol):
    """Moves a bar on."""

    def __call__(self, description: str | None = None, advance: int = 1) -> None:
        """Moves the bar on by `advance`, with what it is at, if that is new."""


def make_progress(console: "Console", *, status: bool = False, transient: bool = False) -> "Progress":
    """Bars for any number of tasks: description, bar, done and total, status where tasks have that field, time left.

    Args:
        console: where they are drawn, if it is a terminal; elsewhere each task gets its last line only.
        status: every task is added with a field `status`, a text.
        transient: the bars go away at the end.
    """
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn("{task.fields[status]}", markup=False)] if status else []
    return Progress(*columns, TimeRemainingColumn(elapsed_when_finished=True), console=console, transient=transient)


@contextmanager
def progress_bar(console: "Console", total: int, description: str = "", *, transient: bool = False) -> Iterator[Tick]:
    """Progress bar; gives the function that advances it."""
    with make_progress(console, transient=transient) as progress:
        task = progress.add_task(description, total=total)
        yield lambda description=None, advance=1: progress.update(task, advance=advance, description=description)
