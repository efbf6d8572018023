"""Batches of files: progress, a line for each that fails, and a summary; one broken file stops no other.

for job in batch:
    with job.reported():
        ...  # read job.source, write job.targets
return batch.summary()
"""

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
from flowkit_models.cli.paths import Inputs, Naming, Places, check_places, place_results
from flowkit_models.images import photo_file
from flowkit_models.images.photo_file import Header, Picture
from flowkit_models.progress import make_progress


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
        self._single = inputs.single
        self._places = place_results(inputs, naming)
        self._start = time.monotonic()
        self._counts = {"done": 0, "skipped": 0, "failed": 0}
        self._said: set[str] = set()
        console = Console(stderr=True)
        self._bars = make_progress(console, transient=True)
        self._bars.disable = not console.is_terminal

    def __iter__(self) -> Iterator["Job"]:
        """Jobs whose results can be written; the others are skipped, or reported as failed."""
        taken: set[Path] = set()
        with self._bars:
            bar = self._bars.add_task("files", total=len(self._places), visible=len(self._places) > 1)
            for places in self._places:
                try:
                    check_places(places, taken)
                    exists = self._exists(places)
                except Exception as error:
                    self._fail(places.source, error)
                else:
                    taken.update(() if exists else places.targets)
                    if exists:
                        self._counts["skipped"] += 1
                    else:
                        yield Job(self, places)
                self._bars.advance(bar)

    def summary(self) -> int:
        """Prints how many files were done; returns the exit code: 0, or 1 if a file failed."""
        done, skipped, failed = self._counts.values()
        existing = " (results that exist; --overwrite replaces them)" if skipped else ""
        print(f"{done} done, {skipped} skipped{existing}, {failed} failed in {time.monotonic() - self._start:.1f} s")
        return 1 if failed else 0

    def _exists(self, places: Places) -> bool:
        """Tells if the results are there, so that the job is skipped."""
        existing = [target for target in places.targets if target.exists()]
        if not existing or self._options.overwrite:
            return False
        if self._single or len(existing) < len(places.targets):
            raise FileExistsError(f"{existing[0]} exists: --overwrite replaces it, -o or --suffix names another")
        return True

    def _say(self, text: str) -> None:
        """One line on standard error, above the bars, whatever is in a file's name."""
        line = text.replace("\n", "\\n").replace("\r", "\\r")
        if self._bars.console.is_terminal:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _fail(self, source: Path, error: Exception) -> None:
        self._counts["failed"] += 1
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
            batch._counts["done"] += 1
        except Exception as error:  # of any kind: the other files have nothing to do with it
            batch._fail(self.source, error)
        finally:
            batch._bars.remove_task(self._bar)

    def warn(self, text: str) -> None:
        """Prints a line on standard error that names the file."""
        self._batch._say(f"{self.source}: warning: {text}")

    def warn_once(self, text: str) -> None:
        """The same for what holds of all files: said with the first of them."""
        if text not in self._batch._said:
            self._batch._said.add(text)
            self.warn(text)

    def progress(self, number: int = 0, count: int = 1) -> Callable[[int, int], None]:
        """A function that takes (done, total) of step `number`, from 0, of the job's `count` equal steps."""

        def update(done: int, total: int) -> None:
            assert self._bar is not None, "inside reported()"
            self._batch._bars.update(self._bar, completed=number * total + done, total=count * total)

        return update

    def read_picture(self, scale: int = 1) -> Picture:
        """Reads the source, says what is odd about it, and makes sure that the results' format holds it enlarged."""
        photo_file.format_of(self.targets[0])
        picture = photo_file.read(self.source)
        for line in picture.warnings:
            self.warn(line)
        height, width = (side * scale for side in picture.pixels.shape[1:])
        photo_file.check_size(self.targets[0], height, width)
        return picture

    def fit(self, header: Header) -> Header:
        """As much of a header as the results' format holds; says what it doesn't."""
        fitted, lost = header.fitted(photo_file.format_of(self.targets[0]).name)
        for line in lost:
            self.warn(line)
        return fitted

    def write_picture(self, array: NDArray[Any], header: Header, quality: int = 95, number: int = 0) -> None:
        """Writes result `number`; see `photo_file.write`."""
        photo_file.write(self.targets[number], array, header, quality)
