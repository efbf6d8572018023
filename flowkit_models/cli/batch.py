"""Going through files: progress, a line for each that fails, and a summary; one broken file stops no other."""

import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from flowkit_models.cli.errors import one_line
from flowkit_models.cli.options import FileOptions
from flowkit_models.cli.paths import IMAGES, Job, Naming, check, find, place
from flowkit_models.progress import make_progress


class Reporter:
    """What one file's work says while it goes on.

    On a terminal there is a bar with the time left, on standard error; elsewhere there are lines only.
    """

    def __init__(self, progress: Progress, source: Path, warnings: set[str]) -> None:
        self._progress = progress
        self._source = source
        self._said = warnings
        self._bar = progress.add_task(source.name, total=None)

    def warn(self, text: str) -> None:
        """A line on standard error that names the file."""
        say(self._progress, f"{self._source}: warning: {text}")

    def warn_once(self, text: str) -> None:
        """The same for what holds of all files: said with the first of them."""
        if text not in self._said:
            self._said.add(text)
            self.warn(text)

    def share(self, number: int, count: int) -> Callable[[int, int], None]:
        """What is to be called with (done, total) for share `number`, from 0, of the file's work in `count` shares."""

        def part(done: int, total: int) -> None:
            self._progress.update(self._bar, completed=number * total + done, total=count * total)

        return part

    def close(self) -> None:
        """Takes the file's bar away."""
        self._progress.remove_task(self._bar)


Work = Callable[[Job, Reporter], None]
"""Makes the results of one file."""


def go(
    options: FileOptions,
    prepare: Callable[[], tuple[Naming, Work]],
    kinds: Collection[str] = IMAGES,
) -> int:
    """Does a subcommand's work on every file that the options name.

    Args:
        options: of the subcommand.
        prepare: opens the model, before any picture is read, and returns how results are called, and what makes them.
        kinds: extensions that a folder is searched for.

    Returns:
        The exit code: 0, or 1 if a file failed.

    Raises:
        UsageError: if the options name no files, or one result for several.
        Exception: that of `prepare`.
    """
    found = find(options.inputs, options.output, kinds)
    naming, work = prepare()
    jobs = place(found, naming)
    start = time.monotonic()
    done, skipped, failed = 0, 0, 0
    taken: set[Path] = set()
    warnings: set[str] = set()
    with _progress() as progress:
        files = progress.add_task("files", total=len(jobs), visible=len(jobs) > 1)
        for job in jobs:
            try:
                check(job, taken)
                if _exists(job, options.overwrite, found.single):
                    skipped += 1
                    continue
                taken.update(job.targets)
                with _reporter(progress, job.source, warnings) as reporter:
                    _make_folder(job)
                    work(job, reporter)
                done += 1
            except Exception as error:  # of any kind: the other files have nothing to do with it
                failed += 1
                text = one_line(error)
                say(progress, text if text.startswith(f"{job.source}: ") else f"{job.source}: {text}")
                if options.debug:
                    traceback.print_exception(error)
            finally:
                progress.advance(files)
    existing = " (results that exist; --overwrite replaces them)" if skipped else ""
    print(f"{done} done, {skipped} skipped{existing}, {failed} failed in {time.monotonic() - start:.1f} s")
    return 1 if failed else 0


def say(progress: Progress, text: str) -> None:
    """One line on standard error, above the bars, whatever is in a file's name."""
    line = text.replace("\n", "\\n").replace("\r", "\\r")
    if progress.console.is_terminal:
        progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
    else:
        print(line, file=sys.stderr, flush=True)


def _exists(job: Job, overwrite: bool, single: bool) -> bool:
    """Whether to skip a job because its results are there."""
    existing = [target for target in job.targets if target.exists()]
    if not existing or overwrite:
        return False
    if single or len(existing) < len(job.targets):
        raise FileExistsError(f"{existing[0]} exists: --overwrite replaces it, -o or --suffix names another")
    return True


def _make_folder(job: Job) -> None:
    if job.makes_folder:
        job.targets[0].parent.mkdir(parents=True, exist_ok=True)


def _progress() -> Progress:
    console = Console(stderr=True)
    progress = make_progress(console, transient=True)
    progress.disable = not console.is_terminal
    return progress


@contextmanager
def _reporter(progress: Progress, source: Path, warnings: set[str]) -> Iterator[Reporter]:
    reporter = Reporter(progress, source, warnings)
    try:
        yield reporter
    finally:
        reporter.close()
