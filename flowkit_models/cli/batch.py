"""Batches of files: progress, a line for each that fails, and a summary; one broken file stops no other.

for job in batch:
    with job.reported():
        ...  # read job.source, write job.targets
return batch.summary()
"""

import os
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich.console import Console
from rich.progress import TaskID

from flowkit_models.cli.errors import one_line
from flowkit_models.cli.options import FileOptions
from flowkit_models.cli.paths import Inputs, Naming, Places, plan_work
from flowkit_models.files import remove_abandoned
from flowkit_models.images.photo_file import Header, Picture, check_size, format_of, read_photo, write_photo
from flowkit_models.images.provenance import made_here, marked
from flowkit_models.terminal import first_few, make_progress, stop_if_asked


class Desk(ABC):
    """Place where jobs report. Whatever is reported is text and paths, so that it goes from process to process."""

    @abstractmethod
    def begin(self, source: Path) -> None:
        """A job has begun."""

    @abstractmethod
    def progress(self, source: Path, completed: int, total: int) -> None:
        """Parts of a job that are done."""

    @abstractmethod
    def say(self, text: str, once: str | None = None) -> None:
        """One line on standard error; with `once`, none if one under that name was said before."""

    @abstractmethod
    def result(self, text: str) -> None:
        """A line of the summary."""

    @abstractmethod
    def done(self, source: Path, written: tuple[Path, ...]) -> None:
        """A job has ended well."""

    @abstractmethod
    def fail(self, source: Path, text: str, trace: str = "") -> None:
        """A job has failed: one line why, and where in the code."""


class Batch(Desk):
    """The jobs of a command line, one after the other.

    On a terminal there are bars with the time left, on standard error; elsewhere there are lines only.

    Args:
        options: of the subcommand.
        inputs: what it reads.
        naming: of what it writes.
    """

    def __init__(self, options: FileOptions, inputs: Inputs, naming: Naming) -> None:
        self._options = options
        self._plan = plan_work(inputs, naming, options.overwrite, made_here, options.noun)
        self._foreign = inputs.foreign
        self._start = time.monotonic()
        self._failed = 0
        self._written: list[Path] = []
        self._done = 0
        self._results: list[str] = []
        self._said: set[str] = set()
        self._running: dict[Path, TaskID] = {}
        console = Console(stderr=True)
        self._bars = make_progress(console, transient=True)
        self._bars.disable = not console.is_terminal

    def __iter__(self) -> Iterator["Job"]:
        """Jobs whose results can be written, one after the other; before them, the others are reported as failed."""
        with self.underway() as (jobs, advance):
            for job in jobs:
                yield job
                stop_if_asked()
                advance()

    @contextmanager
    def underway(self) -> Iterator[tuple[list["Job"], Callable[[], None]]]:
        """The jobs whose results can be written, and what to call when one has ended; the others are reported."""
        plan = self._plan
        if self._foreign:
            ends = ", ".join(sorted({path.suffix.lower() for path in self._foreign}))
            self.say(f"left out: {first_few(self._foreign, 1)}, of formats that are not read ({ends})")
        if plan.earlier:
            count = f"{len(plan.earlier)} results" if len(plan.earlier) > 1 else "the result"
            self.say(f"left out: {plan.earlier[0]}, {count} of an earlier run")
        for places, error in plan.failed:
            self.fail(places.source, one_line(error), traced(error))
        for folder in {target.parent for places in plan.jobs for target in places.targets}:
            remove_abandoned(folder)
        with self._bars:
            bar = self._bars.add_task("files", total=len(plan.jobs), visible=len(plan.jobs) > 1)
            yield [Job(self, places) for places in plan.jobs], lambda: self._bars.advance(bar)

    def summary(self) -> int:
        """Prints how many files were done, and where the results are; returns the exit code: 0, or 1 if one failed."""
        for line in self._results:
            print(line)
        skipped = f"{len(self._plan.skipped)} skipped"
        skipped += " (results that exist; --overwrite replaces them)" if self._plan.skipped else ""
        seconds = f"{time.monotonic() - self._start:.1f} s"
        print(f"{self._done} done, {skipped}, {self._failed} failed in {seconds}{self._where()}")
        return 1 if self._failed else 0

    def _where(self) -> str:
        """Number and place of the results, as the end of a sentence."""
        if not self._written:
            return ""
        if len(self._written) == 1:
            return f": {self._written[0]}"
        folder = os.path.commonpath([path.parent for path in self._written])
        return f": {len(self._written)} files in {folder or '.'}"

    def begin(self, source: Path) -> None:
        """A bar for a job."""
        self._running[source] = self._bars.add_task(source.name, total=None)

    def progress(self, source: Path, completed: int, total: int) -> None:
        """Moves a job's bar on."""
        self._bars.update(self._running[source], completed=completed, total=total)

    def say(self, text: str, once: str | None = None) -> None:
        """One line on standard error, above the bars, whatever is in a file's name."""
        if once is not None:
            if once in self._said:
                return
            self._said.add(once)
        line = text.replace("\n", "\\n").replace("\r", "\\r")
        if self._bars.console.is_terminal:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def result(self, text: str) -> None:
        """A line that `summary` prints."""
        self._results.append(text)

    def done(self, source: Path, written: tuple[Path, ...]) -> None:
        """Counts a job as done."""
        self._end(source)
        self._done += 1
        self._written += written

    def fail(self, source: Path, text: str, trace: str = "") -> None:
        """Counts a job as failed, with a line, and where `--debug` asks for it the trace."""
        self._end(source)
        self._failed += 1
        self.say(text if text.startswith(f"{source}: ") else f"{source}: {text}")
        if self._options.debug:
            print(trace, file=sys.stderr, end="", flush=True)

    def _end(self, source: Path) -> None:
        if source in self._running:
            self._bars.remove_task(self._running.pop(source))


class Job:
    """One file of a batch.

    Attributes:
        source: is read.
        targets: are written.
        places: of both.
    """

    def __init__(self, desk: Desk, places: Places) -> None:
        self.source, self.targets, self.places = places.source, places.targets, places
        self._desk = desk
        self._warned: set[str] = set()

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Counts what is done inside as done, or as failed, with a line; errors go no further."""
        self._desk.begin(self.source)
        try:
            if self.places.makes_folder:
                self.targets[0].parent.mkdir(parents=True, exist_ok=True)
            yield
        except Exception as error:  # of any kind: the other files have nothing to do with it
            self._desk.fail(self.source, one_line(error), traced(error))
        else:
            self._desk.done(self.source, self.targets)

    def warn(self, text: str) -> None:
        """Prints a line on standard error that names the file, once."""
        if text not in self._warned:
            self._warned.add(text)
            self._desk.say(f"{self.source}: warning: {text}")

    def report(self, text: str) -> None:
        """Adds a line to the summary, on standard output, that names the first result."""
        self._desk.result(f"{self.targets[0]}: {text}")

    def warn_once(self, text: str) -> None:
        """The same for what holds of all files: said with the first of them."""
        self._desk.say(f"{self.source}: warning: {text}", once=text)

    def progress(self, number: int = 0, count: int = 1) -> Callable[[int, int], None]:
        """Progress callback, of (done, total), for step `number` (from 0) of the job's `count` equal steps."""

        def update(done: int, total: int) -> None:
            stop_if_asked()
            self._desk.progress(self.source, number * total + done, count * total)

        return update

    def read_picture(self, result: Callable[[int, int], tuple[int, int]] = lambda *size: size) -> Picture:
        """Reads the source, says what is odd about it, and makes sure that the results' format holds what is made.

        Args:
            result: height and width of the result, of those of the source.
        """
        format_of(self.targets[0])
        picture = read_photo(self.source)
        for line in picture.warnings:
            self.warn(line)
        check_size(self.targets[0], *result(picture.pixels.shape[1], picture.pixels.shape[2]))
        return picture

    def fit(self, header: Header) -> Header:
        """Header cut to what the results' format holds; prints a warning for what it doesn't."""
        fitted, lost = header.fitted(format_of(self.targets[0]).name)
        for line in lost:
            self.warn(line)
        return fitted

    def write_picture(self, array: NDArray[Any], header: Header, quality: int = 95, number: int = 0) -> None:
        """Writes result `number`, with the note that flowkit made it; see `write_photo`."""
        write_photo(self.targets[number], array, marked(header), quality)


def traced(error: BaseException) -> str:
    """The trace of an exception, as Python prints it."""
    return "".join(traceback.format_exception(error))
