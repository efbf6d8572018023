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
from flowkit_models.images import photo_file
from flowkit_models.images.photo_file import Header, Picture
from flowkit_models.images.provenance import made_here, marked
from flowkit_models.progress import make_progress
from flowkit_models.terminal import stop_if_asked


class Batch:
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
        console = Console(stderr=True)
        self._bars = make_progress(console, transient=True)
        self._bars.disable = not console.is_terminal

    def __iter__(self) -> Iterator["Job"]:
        """Jobs whose results can be written; before them, the others are reported as failed."""
        plan = self._plan
        if self._foreign:
            more = f" and {len(self._foreign) - 1} more" if len(self._foreign) > 1 else ""
            ends = ", ".join(sorted({path.suffix.lower() for path in self._foreign}))
            self._say(f"left out: {self._foreign[0]}{more}, of formats that are not read ({ends})")
        if plan.earlier:
            count = f"{len(plan.earlier)} results" if len(plan.earlier) > 1 else "the result"
            self._say(f"left out: {plan.earlier[0]}, {count} of an earlier run")
        for places, error in plan.failed:
            self._fail(places.source, error)
        for folder in {target.parent for places in plan.jobs for target in places.targets}:
            remove_abandoned(folder)
        with self._bars:
            bar = self._bars.add_task("files", total=len(plan.jobs), visible=len(plan.jobs) > 1)
            for places in plan.jobs:
                yield Job(self, places)
                stop_if_asked()
                self._bars.advance(bar)

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

    def _say(self, text: str) -> None:
        """One line on standard error, above the bars, whatever is in a file's name."""
        line = text.replace("\n", "\\n").replace("\r", "\\r")
        if self._bars.console.is_terminal:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _fail(self, source: Path, error: Exception) -> None:
        self._failed += 1
        text = one_line(error)
        self._say(text if text.startswith(f"{source}: ") else f"{source}: {text}")
        if self._options.debug:
            traceback.print_exception(error)


class Job:
    """One file of a batch.

    Attributes:
        source: is read.
        targets: are written.
    """

    def __init__(self, batch: Batch, places: Places) -> None:
        self.source, self.targets = places.source, places.targets
        self._batch, self._places = batch, places
        self._warned: set[str] = set()
        self._bar: TaskID | None = None

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Counts what is done inside as done, or as failed, with a line; errors go no further."""
        batch = self._batch
        self._bar = batch._bars.add_task(self.source.name, total=None)
        try:
            if self._places.makes_folder:
                self.targets[0].parent.mkdir(parents=True, exist_ok=True)
            yield
            batch._done += 1
            batch._written += self.targets
        except Exception as error:  # of any kind: the other files have nothing to do with it
            batch._fail(self.source, error)
        finally:
            batch._bars.remove_task(self._bar)

    def warn(self, text: str) -> None:
        """Prints a line on standard error that names the file, once."""
        if text not in self._warned:
            self._warned.add(text)
            self._batch._say(f"{self.source}: warning: {text}")

    def report(self, text: str) -> None:
        """Adds a line to the summary, on standard output, that names the first result."""
        self._batch._results.append(f"{self.targets[0]}: {text}")

    def warn_once(self, text: str) -> None:
        """The same for what holds of all files: said with the first of them."""
        if text not in self._batch._said:
            self._batch._said.add(text)
            self.warn(text)

    def progress(self, number: int = 0, count: int = 1) -> Callable[[int, int], None]:
        """Progress callback, of (done, total), for step `number` (from 0) of the job's `count` equal steps."""

        def update(done: int, total: int) -> None:
            assert self._bar is not None, "inside reported()"
            stop_if_asked()
            self._batch._bars.update(self._bar, completed=number * total + done, total=count * total)

        return update

    def read_picture(self, result: Callable[[int, int], tuple[int, int]] = lambda *size: size) -> Picture:
        """Reads the source, says what is odd about it, and makes sure that the results' format holds what is made.

        Args:
            result: height and width of the result, of those of the source.
        """
        photo_file.format_of(self.targets[0])
        picture = photo_file.read(self.source)
        for line in picture.warnings:
            self.warn(line)
        photo_file.check_size(self.targets[0], *result(picture.pixels.shape[1], picture.pixels.shape[2]))
        return picture

    def fit(self, header: Header) -> Header:
        """Header cut to what the results' format holds; prints a warning for what it doesn't."""
        fitted, lost = header.fitted(photo_file.format_of(self.targets[0]).name)
        for line in lost:
            self.warn(line)
        return fitted

    def write_picture(self, array: NDArray[Any], header: Header, quality: int = 95, number: int = 0) -> None:
        """Writes result `number`, with the note that flowkit made it; see `photo_file.write`."""
        photo_file.write(self.targets[number], array, marked(header), quality)
