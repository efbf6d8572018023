"""Which files a command line means, and where their results go."""

import glob
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from flowkit_models.cli.errors import UsageError

Names = Callable[[str, str], list[str]]
"""(stem, extension) to the names of the results, in one folder."""

IMAGES = frozenset((".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""What a folder is searched for; what can't be read of it fails by name."""

WRITTEN = frozenset((".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"))


@dataclass(frozen=True)
class Job:
    """One file and its results.

    Attributes:
        source: what is read.
        targets: what is written.
        makes_folder: the folder of the results is made if there is none.
    """

    source: Path
    targets: tuple[Path, ...]
    makes_folder: bool = False


@dataclass(frozen=True)
class Naming:
    """How results are called.

    Attributes:
        names: of the results of one file.
        suffix: what the stem of an input gets at its end.
        extension: of the results; None: the input's, if it can be written, else .png.
    """

    names: Names
    suffix: str
    extension: str | None = None

    def of(self, source: Path) -> list[str]:
        """The names of a file's results."""
        own = source.suffix if source.suffix.lower() in WRITTEN else ".png"
        return self.names(source.stem + self.suffix, self.extension or own)


@dataclass(frozen=True)
class Found:
    """The files that a command line means.

    Attributes:
        files: each with where it lies below its folder, which its results keep.
        single: there is but one, named by itself.
        output: what -o says.
        to_file: that is a file.
    """

    files: list[tuple[Path, Path]]
    single: bool
    output: str
    to_file: bool


def find(inputs: tuple[str, ...], output: str, kinds: Collection[str] = IMAGES) -> Found:
    """Finds files.

    Args:
        inputs: files, folders, or globs.
        output: a file, or a folder, or nothing: results go beside their inputs.
        kinds: extensions that a folder is searched for.

    Raises:
        UsageError: if nothing is named, or one file for the results of several.
        FileNotFoundError: for a folder without pictures, or a glob that fits nothing.
    """
    if not inputs:
        raise UsageError("name pictures, folders or globs; see --help")
    files = list(dict.fromkeys(found for name in inputs for found in _find(name, kinds)))
    single = len(inputs) == 1 and files == [(Path(inputs[0]), Path())]
    to_file = _is_file(output, single)
    if to_file and len(files) > 1:
        raise UsageError(f"-o {output} is one file, and there are {len(files)} inputs: name a folder")
    return Found(files, single, output, to_file)


def place(found: Found, naming: Naming) -> list[Job]:
    """The files with places for their results."""
    output = Path(found.output)
    if found.to_file:
        names = naming.names(output.stem, output.suffix)
        return [Job(found.files[0][0], tuple(output.with_name(name) for name in names))]
    jobs = []
    for source, below in found.files:
        folder = output / below if found.output else source.parent
        jobs.append(Job(source, tuple(folder / name for name in naming.of(source)), makes_folder=bool(found.output)))
    if not found.single:  # what an earlier run has left between its inputs
        results = {target.absolute() for job in jobs for target in job.targets}
        jobs = [job for job in jobs if job.source.absolute() not in results]
    return jobs


def check(job: Job, taken: Collection[Path]) -> None:
    """Refuses places where nothing can be written, before there is work done for them.

    Raises:
        ValueError: if a result would be its own input, another file's result, or a folder; if its folder is none, or
            it can't be written there.
    """
    for target in job.targets:
        if target in taken:
            raise ValueError(f"{target} is already the result of another input")
        if _same(job.source, target):
            raise ValueError(f"{target} is the input itself: choose another -o or --suffix")
        if target.is_dir():
            raise ValueError(f"{target} is a folder: name a file")
        folder = target.parent
        if not job.makes_folder and not folder.exists():
            raise ValueError(f"there is no folder {folder}")
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder")
        for place in (folder, target):
            if place.exists() and not os.access(place, os.W_OK):
                raise ValueError(f"{place} is write-protected")


def _find(name: str, kinds: Collection[str]) -> list[tuple[Path, Path]]:
    path = Path(name)
    if _is_folder(path):
        return [(file, file.parent.relative_to(path)) for file in _in_folder(path, kinds)]
    if os.path.lexists(path) or not glob.has_magic(name):
        return [(path, Path())]
    found = [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207 - Path's needs a root
    files = [(file, Path()) for file in found if not file.is_dir()]
    if not files:
        raise FileNotFoundError(f"{name}: fits no file")
    return files


def _in_folder(folder: Path, kinds: Collection[str]) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in kinds and not p.is_dir())
    found = [path for path in found if not path.name.startswith(".")]
    if not found:
        raise FileNotFoundError(f"{folder}: no files in it that end in {', '.join(sorted(kinds))}")
    return found


def _is_file(output: str, single: bool) -> bool:
    """Whether -o names a file: its end says so, and it is no folder."""
    if not output or output.endswith(("/", os.sep)) or _is_folder(Path(output)):
        return False
    suffix = Path(output).suffix.lower()
    return suffix in WRITTEN or (single and bool(suffix))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long; whoever opens it will hear so
        return False


def _same(source: Path, target: Path) -> bool:
    try:
        return source.samefile(target)
    except OSError:
        return False
