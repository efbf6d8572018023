"""Resolves input paths and output paths, and refuses those that would cost a file."""

import glob
import os
import unicodedata
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path

from flowkit_models.cli.errors import UsageError
from flowkit_models.images.formats import FOREIGN_ENDINGS, find_files, left_out, result_ending, written_format


@dataclass(frozen=True)
class Inputs:
    """The input files of a command line.

    Attributes:
        files: each with its place below the folder that was named, which its results keep.
        named: those that were named themselves, and not found by searching.
        single: there is but one, named by itself.
        output: `-o`.
        to_file: `-o` names a file, not a folder.
        foreign: pictures of formats that are not read, found by searching.
    """

    files: list[tuple[Path, Path]]
    named: frozenset[Path]
    single: bool
    output: str
    to_file: bool
    foreign: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Naming:
    """Names of the results of an input.

    Attributes:
        suffix: what the stem of an input gets at its end.
        extension: of the results, with the dot; None: the input's, if it can be written, else .png.
        names: one for each result of an input, with {stem} and {extension} in it.
    """

    suffix: str
    extension: str | None = None
    names: tuple[str, ...] = ("{stem}{extension}",)

    def of(self, source: Path) -> list[str]:
        """The names of an input's results."""
        return self.filled(source.stem + self.suffix, self.extension or result_ending(source))

    def filled(self, stem: str, extension: str) -> list[str]:
        """The names for a stem and an extension."""
        return [name.format(stem=stem, extension=extension) for name in self.names]


@dataclass(frozen=True)
class Places:
    """One input and its results.

    Attributes:
        source: is read.
        targets: are written.
        makes_folder: the folder of the results is made if there is none.
    """

    source: Path
    targets: tuple[Path, ...]
    makes_folder: bool = False


@dataclass
class Plan:
    """The work of a command line, before any of it is done.

    Attributes:
        jobs: to do.
        skipped: those whose results are all there.
        failed: those that would write over an input, a stranger's file or each other's result, or where nothing can be
            written, each with the reason.
        earlier: files that were found among the inputs and are results of an earlier run.
    """

    jobs: list[Places] = field(default_factory=list)
    skipped: list[Places] = field(default_factory=list)
    failed: list[tuple[Places, Exception]] = field(default_factory=list)
    earlier: list[Path] = field(default_factory=list)


def find_inputs(
    names: Collection[str], output: str, endings: Collection[str], foreign: Collection[str] = FOREIGN_ENDINGS
) -> Inputs:
    """Finds the input files.

    Args:
        names: files, folders, or globs.
        output: a file, or a folder, or "": results go beside their inputs.
        endings: of the files that folders are searched for, lower case.
        foreign: endings of those that are left out of folders, and said to be.

    Raises:
        UsageError: if nothing is named, or one file for the results of several.
        FileNotFoundError: for a folder without such files, or a glob that fits nothing.
    """
    if not names:
        raise UsageError("name pictures, folders or globs; see --help")
    found: dict[Path, tuple[Path, Path]] = {}
    named: set[Path] = set()
    for name in names:
        matches, searched = _named(name, endings)
        for file, below in matches:
            first, _ = found.setdefault(Path(os.path.realpath(file.parent), file.name), (file, below))
            named.update(() if searched else {first})
    files = list(found.values())
    single = len(names) == 1 and files == [(Path(*names), Path())]
    to_file = _names_file(output, single)
    if to_file and len(files) > 1:
        raise UsageError(f"-o {output} is one file, and there are {len(files)} inputs: name a folder")
    passed = [file for name in names if _is_folder(Path(name)) for file in find_files(Path(name), foreign)]
    return Inputs(files, frozenset(named), single, output, to_file, tuple(passed))


def plan_work(inputs: Inputs, naming: Naming, overwrite: bool, ours: Callable[[Path], bool], noun: str) -> Plan:
    """Plans what is done with each input, and refuses what would cost a file. Nothing is written.

    A file that stands where a result goes is one of these:

    - an input: a job that would write there fails, unless the file was found by searching and is `ours`. Then it is a
      result of an earlier run, and no input;
    - another file: the job is skipped. With `overwrite` it is done if the file is `ours` or empty, and fails else.

    Files are the same if the file system says so: through links, and whatever the case where it doesn't count.

    Args:
        inputs: of the command line.
        naming: of the results.
        overwrite: replace results that exist.
        ours: tells if a file that exists was made by flowkit.
        noun: for what an input is.
    """
    everything = _places(inputs, naming)
    sources = {_identity(places.source): places.source for places in everything}
    results = {
        _identity(target) for places in everything for target in places.targets if not _same(places.source, target)
    }
    plan = Plan()
    plan.earlier = [
        source for key, source in sources.items() if key in results and source not in inputs.named and ours(source)
    ]
    for source in plan.earlier:
        del sources[_identity(source)]
    taken: dict[Hashable, Path] = {}
    for places in everything:
        if places.source in plan.earlier:
            continue
        try:
            if not os.path.lexists(places.source):
                raise FileNotFoundError(f"{places.source}: no such {noun}")
            _check(places, sources, taken)
            existing = [target for target in places.targets if target.exists()]
            if existing and not overwrite:
                if inputs.single or len(existing) < len(places.targets):
                    raise FileExistsError(
                        f"{existing[0]} exists: --overwrite replaces it, -o or --suffix names another"
                    )
                plan.skipped.append(places)
                continue
            for target in existing:
                if target.stat().st_size and not ours(target):
                    raise FileExistsError(
                        f"{target} was not made by flowkit: remove it, or choose another --suffix or -o"
                    )
        except Exception as error:
            plan.failed.append((places, error))
            continue
        taken |= {_identity(target): places.source for target in places.targets}
        plan.jobs.append(places)
    return plan


def _places(inputs: Inputs, naming: Naming) -> list[Places]:
    """Places for the results of each input."""
    output = Path(inputs.output)
    if inputs.to_file:
        names = naming.filled(output.stem, output.suffix)
        return [Places(inputs.files[0][0], tuple(output.with_name(name) for name in names))]
    places = []
    for source, below in inputs.files:
        folder = output / below if inputs.output else source.parent
        targets = tuple(folder / name for name in naming.of(source))
        places.append(Places(source, targets, makes_folder=bool(inputs.output)))
    return places


def _check(places: Places, sources: dict[Hashable, Path], taken: dict[Hashable, Path]) -> None:
    """Refuses places where nothing can be written, or a file would be lost.

    Raises:
        ValueError: if a result would be its own input, another input, another file's result, or a folder; if its folder
            is none, or it can't be written there.
    """
    for target in places.targets:
        key = _identity(target)
        if key in taken:
            raise ValueError(f"{target} is already the result of another input, {taken[key]}: choose another -o")
        if key in sources:
            if sources[key] == places.source or _same(places.source, target):
                raise ValueError(f"{target} is the input itself: choose another -o or --suffix")
            raise ValueError(f"{target} is an input itself: choose another --suffix or -o")
        if target.is_dir():
            raise ValueError(f"{target} is a folder: name a file")
        folder = target.parent
        if not places.makes_folder and not folder.exists():
            raise ValueError(f"there is no folder {folder}")
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder")
        for place in (folder, target):
            if place.exists() and not os.access(place, os.W_OK):
                raise ValueError(f"{place} is write-protected")


def _identity(path: Path) -> Hashable:
    """The same for all names of a file, be it there or not yet."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        folder = os.path.realpath(path.parent)
        name = unicodedata.normalize("NFC", path.name).casefold() if _ignores_case(folder) else path.name
        return folder, name
    return status.st_dev, status.st_ino


@cache
def _ignores_case(folder: str) -> bool:
    """True if a folder takes a name in another case for the same: what is in it is asked for, else it itself."""
    path = Path(folder)
    try:
        for known in (*islice(path.iterdir(), 9), path):
            other = known.with_name(known.name.swapcase())
            if other != known:
                return other.exists() and other.samefile(known)
    except (OSError, ValueError):
        pass
    return False


def _named(name: str, endings: Collection[str]) -> tuple[Sequence[tuple[Path, Path]], bool]:
    """The files that one argument stands for, and whether they were found by searching."""
    path = Path(name)
    if _is_folder(path):
        found = find_files(path, endings)
        if not found:
            raise FileNotFoundError(f"{path}: no files in it that end in {', '.join(endings)}")
        return [(file, file.parent.relative_to(path)) for file in found], True
    if os.path.lexists(path) or not glob.has_magic(name):
        return [(path, Path())], False
    matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207 - Path's needs a root
    given, files = set(path.parts), dict[Path, Path]()
    for file in sorted(matches, key=lambda file: len(file.parts)):  # a link to a folder that is there: the same files
        if not file.is_dir() and not any(map(left_out, set(file.parts) - given)):
            files.setdefault(Path(os.path.realpath(file.parent), file.name), file)
    if not files:
        raise FileNotFoundError(f"{name}: fits no file")
    return [(file, Path()) for file in sorted(files.values())], True


def _names_file(output: str, single: bool) -> bool:
    """True if -o names a file: its end says so, and it is no folder."""
    if not output or output.endswith(("/", os.sep)) or _is_folder(Path(output)):
        return False
    path = Path(output)
    return written_format(path) is not None or (single and bool(path.suffix))


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
