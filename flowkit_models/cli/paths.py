"""Resolves input paths and output paths."""

import glob
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from flowkit_models.cli.errors import UsageError
from flowkit_models.images.formats import find_files, written_format


@dataclass(frozen=True)
class Inputs:
    """The input files of a command line.

    Attributes:
        files: each with its place below the folder that was named, which its results keep.
        single: there is but one, named by itself.
        output: `-o`.
        to_file: `-o` names a file, not a folder.
    """

    files: list[tuple[Path, Path]]
    single: bool
    output: str
    to_file: bool


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
        own = source.suffix if written_format(source) else ".png"
        return self.filled(source.stem + self.suffix, self.extension or own)

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


def find_inputs(names: Collection[str], output: str, endings: Collection[str]) -> Inputs:
    """Finds the input files.

    Args:
        names: files, folders, or globs.
        output: a file, or a folder, or "": results go beside their inputs.
        endings: of the files that folders are searched for, lower case.

    Raises:
        UsageError: if nothing is named, or one file for the results of several.
        FileNotFoundError: for a folder without such files, or a glob that fits nothing.
    """
    if not names:
        raise UsageError("name pictures, folders or globs; see --help")
    files = list(dict.fromkeys(found for name in names for found in _named(name, endings)))
    single = len(names) == 1 and files == [(Path(*names), Path())]
    to_file = _names_file(output, single)
    if to_file and len(files) > 1:
        raise UsageError(f"-o {output} is one file, and there are {len(files)} inputs: name a folder")
    return Inputs(files, single, output, to_file)


def place_results(inputs: Inputs, naming: Naming) -> list[Places]:
    """Places for the results of each input; what an earlier run has left between its inputs is left out."""
    output = Path(inputs.output)
    if inputs.to_file:
        names = naming.filled(output.stem, output.suffix)
        return [Places(inputs.files[0][0], tuple(output.with_name(name) for name in names))]
    places = []
    for source, below in inputs.files:
        folder = output / below if inputs.output else source.parent
        targets = tuple(folder / name for name in naming.of(source))
        places.append(Places(source, targets, makes_folder=bool(inputs.output)))
    if inputs.single:
        return places
    results = {target.absolute() for place in places for target in place.targets}
    return [place for place in places if place.source.absolute() not in results]


def check_places(places: Places, taken: Collection[Path]) -> None:
    """Refuses places where nothing can be written, before there is work done for them.

    Raises:
        ValueError: if a result would be its own input, another file's result, or a folder; if its folder is none, or
            it can't be written there.
    """
    for target in places.targets:
        if target in taken:
            raise ValueError(f"{target} is already the result of another input")
        if _same(places.source, target):
            raise ValueError(f"{target} is the input itself: choose another -o or --suffix")
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


def _named(name: str, endings: Collection[str]) -> list[tuple[Path, Path]]:
    """The files that one argument stands for."""
    path = Path(name)
    if _is_folder(path):
        found = find_files(path, endings)
        if not found:
            raise FileNotFoundError(f"{path}: no files in it that end in {', '.join(endings)}")
        return [(file, file.parent.relative_to(path)) for file in found]
    if os.path.lexists(path) or not glob.has_magic(name):
        return [(path, Path())]
    matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207 - Path's needs a root
    files = [(file, Path()) for file in matches if not file.is_dir()]
    if not files:
        raise FileNotFoundError(f"{name}: fits no file")
    return files


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
