"""Progress bars: one for the whole of flowkit. rich is imported when a bar is made."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


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
    from rich.progress import (  # noqa: PLC0415 - whoever draws nothing needs no rich
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
