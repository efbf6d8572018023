"""Data sets as the papers prepare them: sub-images, CelebA faces, LR files. `flowkit prepare` is the command line.

A preparation says which files it makes of a source file, and makes their images; `prepare_all` runs it over many
sources in threads, writes what is missing, wholly or not at all, and collects what could not be read.
"""

import os
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from flowkit_models.data.image_cache import ImageFile
from flowkit_models.data.prepared import Note, digest_of
from flowkit_models.images.image_file import ImageError, write_image
from flowkit_models.images.resize import Edges, Ties, bicubic_resize

CELEBA = {"train": range(1, 162_771), "val": range(162_771, 182_638), "test": range(182_638, 202_600)}
"""CelebA's own partition: the numbers in the names of the images."""


class Preparation(ABC):
    """A kind of preparation: the files made of a source file, and their folder."""

    out: Path

    def settings(self) -> dict[str, Any]:
        """Settings that decide how its files look, as JSON holds them."""
        names = [field.name for field in fields(self) if field.name not in ("out", "root")]  # type: ignore[arg-type]
        return {"kind": type(self).__name__, **{name: getattr(self, name) for name in names}}

    def source_name(self, path: Path) -> str:
        """Name of a source file in the note."""
        return path.name

    @abstractmethod
    def origins(self, result: Path) -> list[str]:
        """Names without extension of the sources that a PNG file may have been made of, whatever the settings were."""

    @abstractmethod
    def targets(self, source: ImageFile) -> Sequence[Path]:
        """The PNG files to write; ImageError if the source is of no use."""

    @abstractmethod
    def images(self, source: ImageFile, x: Tensor) -> Sequence[Tensor]:
        """Their images, uint8 (3, H, W), made of the source's pixels x; ImageError if the source is of no use."""


@dataclass(frozen=True)
class SubImages(Preparation):
    """Squares cut out of photographs, so that training need not decode whole ones.

    Attributes:
        out: where they go: NAME_001.png and so on, in the subfolders of the source.
        root: the folder that sources are named relative to.
        size: side in pixels.
        count: squares per photograph at random positions (overlaps happen), HCFlow's and SRFlow's way with 47; they
            depend on `seed` and the photograph's name alone. None: a grid instead.
        step: of the grid, in pixels; a last row and column end at the photograph's edge.
        seed: of the random positions.
    """

    out: Path
    root: Path
    size: int = 160
    count: int | None = 47
    step: int = 80
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.size, self.step, self.count or 1, self.seed + 1) < 1 or self.count == 0:
            raise ValueError("size, step and count must be at least 1, and seed not negative")

    def settings(self) -> dict[str, Any]:
        """See `Preparation`: a grid has no seed, random squares no step."""
        unused = ("seed",) if self.count is None else ("step",)
        return {name: value for name, value in super().settings().items() if name not in unused}

    def source_name(self, path: Path) -> str:
        """See `Preparation`."""
        return path.relative_to(self.root).as_posix()

    def origins(self, result: Path) -> list[str]:
        """See `Preparation`."""
        found = re.fullmatch(r"(.+)_\d{3,}", result.relative_to(self.out).with_suffix("").as_posix(), re.DOTALL)
        return [found[1]] if found else []

    def targets(self, source: ImageFile) -> list[Path]:
        """Paths of the squares, one per position."""
        name = self.out / source.path.relative_to(self.root).with_suffix("")
        return [name.with_name(f"{name.name}_{k:03d}.png") for k in range(1, len(self._corners(source)) + 1)]

    def images(self, source: ImageFile, x: Tensor) -> list[Tensor]:
        """One square per position."""
        return [x[:, top : top + self.size, left : left + self.size] for top, left in self._corners(source)]

    def _corners(self, source: ImageFile) -> list[tuple[int, int]]:
        """Top and left of each square."""
        last = (source.height - self.size, source.width - self.size)
        if min(last) < 0:
            raise ImageError(f"{source.path}: {source.height} × {source.width} is below {self.size} pixels")
        if self.count is None:
            rows, columns = ([*range(0, end, self.step), end] for end in last)
            return [(top, left) for top in rows for left in columns]
        name = source.path.relative_to(self.root).with_suffix("").as_posix()
        random = np.random.default_rng([self.seed, zlib.crc32(os.fsencode(name))])
        corners = random.integers(last, endpoint=True, size=(self.count, 2))
        return [(int(top), int(left)) for top, left in corners]


@dataclass(frozen=True)
class Faces(Preparation):
    """HR and LR faces of CelebA, as pairs that `find_pairs` reads.

    The published faces were cut out of the original photographs by their landmarks, aligned, at 640 × 640 pixels
    with a face factor of 0.6 (face over side), then reduced to 160 and to 20 by this bicubic (SRFlow). Square images,
    such as those, are taken whole here. Of CelebA's own aligned images (178 × 218) the square in the middle is taken,
    `FACE / face_factor` pixels a side. How wide a face is there was not published: FACE is chosen so that 0.6 gives
    the largest square, 178. So these faces are framed about, not exactly, as the published ones, and results on them
    cannot be compared digit by digit.

    Attributes:
        out: where HR/NAME.png and LR_bicubic/X8/NAMEx8.png go.
        size: side of HR in pixels.
        scale: HR size over LR size.
        face_factor: how much of the side the face takes, 0.6 to 1.

    Raises:
        ValueError: for a size that is no multiple of the scale, or another face factor.
    """

    FACE = 0.6 * 178

    out: Path
    size: int = 160
    scale: int = 8
    face_factor: float = 0.6

    def __post_init__(self) -> None:
        if self.size < 1 or self.scale < 1 or self.size % self.scale:
            raise ValueError(f"size {self.size} must be a multiple of scale {self.scale}")
        if not 0.6 <= self.face_factor <= 1:
            raise ValueError(f"face factor is 0.6 (the whole width) to 1, got {self.face_factor}")

    def origins(self, result: Path) -> list[str]:
        """See `Preparation`."""
        if result.parent == self.out / "HR":
            return [result.stem]
        low = result.parent.parent == self.out / "LR_bicubic"
        return [re.sub(r"x\d+$", "", result.stem)] if low else []

    def targets(self, source: ImageFile) -> list[Path]:
        """Paths of the HR face and of the LR face."""
        name = source.path.stem
        return [self.out / f"HR/{name}.png", self.out / f"LR_bicubic/X{self.scale}/{name}x{self.scale}.png"]

    def images(self, source: ImageFile, x: Tensor) -> list[Tensor]:
        """The HR and the LR face."""
        height, width = source.height, source.width
        side = height if height == width else round(self.FACE / self.face_factor)
        if height != width and (height, width) != (218, 178):
            raise ImageError(f"{source.path}: {height} × {width} is neither 218 × 178 (aligned CelebA) nor square")
        if side < self.size:
            raise ImageError(
                f"{source.path}: {side} pixels of face would be enlarged to {self.size}: lower the face factor"
            )
        top, left = (height - side) // 2, (width - side) // 2
        hr = bicubic_resize(x[:, top : top + side, left : left + side], Fraction(self.size, side))
        return [hr, bicubic_resize(hr, Fraction(1, self.scale))]


@dataclass(frozen=True)
class LowResolution(Preparation):
    """The LR file of an HR file: bicubic, after a crop at the bottom and right to multiples of the scale.

    Attributes:
        out: where NAMEx4.png (for scale 4) goes.
        scale: HR size over LR size.
        edges: of the bicubic: "mirror" as HCFlow's data, "clamp" as the usual benchmark files.
        ties: of the bicubic: "even" as HCFlow's data, "up" as the usual benchmark files.
        suffix: whether names get the x4.
    """

    out: Path
    scale: int
    edges: Edges = "mirror"
    ties: Ties = "even"
    suffix: bool = True

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ValueError(f"scale is a whole number from 1 on, got {self.scale}")

    def origins(self, result: Path) -> list[str]:
        """See `Preparation`."""
        if result.parent != self.out:
            return []
        suffixed = re.fullmatch(r"(.+)x\d+", result.stem, re.DOTALL)
        return [*([] if self.suffix else [result.stem]), *([suffixed[1]] if suffixed else [])]

    def targets(self, source: ImageFile) -> list[Path]:
        """Path of the LR file."""
        return [self.out / f"{source.path.stem}{f'x{self.scale}' if self.suffix else ''}.png"]

    def images(self, source: ImageFile, x: Tensor) -> list[Tensor]:
        """The LR image alone."""
        height, width = (side // self.scale * self.scale for side in (source.height, source.width))
        if 0 in (height, width):
            raise ImageError(f"{source.path}: {source.height} × {source.width} is below {self.scale} pixels")
        return [bicubic_resize(x[:, :height, :width], Fraction(1, self.scale), self.edges, self.ties)]


Job: TypeAlias = tuple[Preparation, Path]
"""What to make of which file."""

Outcome: TypeAlias = tuple[int, int, str | None] | str
"""Files written, files that were there, the source's digest if it was read; or what is wrong with the source."""


@dataclass
class Report:
    """Counts of `prepare_all`: files written, files that were there before, and a line for each source of no use."""

    written: int = 0
    existing: int = 0
    failed: tuple[str, ...] = ()


def prepare_all(
    jobs: Sequence[tuple[Preparation, Path]],
    workers: int | None = None,
    progress: Callable[[str | None], None] = lambda failed: None,
    notes: Mapping[Path, Note] | None = None,
    run: Callable[[Sequence[Job]], Iterable[Outcome]] | None = None,
) -> Report:
    """Runs preparations over their source files.

    A target that exists is left as it is, and a source whose targets all exist is not decoded; so an interrupted
    run goes on where it was. A source that is of no use is passed over and reported. Each folder keeps a note of its
    settings and sources (`prepared.json`), so that it never holds what two kinds of settings or sources made.

    Args:
        jobs: what to make of which file.
        workers: threads; None: Python's choice.
        progress: called after each source, in order, with None or the line that says what was wrong.
        notes: from `open_notes`; None: of these jobs, without overwriting.
        run: does jobs by `prepare_one` elsewhere, and gives their outcomes in order; None: threads.

    Raises:
        ImageError: as `open_notes` does, and as soon as a file cannot be written.
    """
    notes = open_notes(jobs) if notes is None else notes
    report = Report()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for start in range(0, len(jobs), 1000):
                part = jobs[start : start + 1000]
                for (make, path), outcome in zip(part, (run or partial(pool.map, prepare_one))(part), strict=True):
                    if isinstance(outcome, str):
                        report.failed += (outcome,)
                    else:
                        written, existing, digest = outcome
                        report.written += written
                        report.existing += existing
                        if digest is not None:
                            notes[make.out].add(make.source_name(path), path, digest)
                    progress(outcome if isinstance(outcome, str) else None)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            for note in notes.values():
                note.write()
    return report


def open_notes(
    jobs: Sequence[tuple[Preparation, Path]], overwrite: bool = False, note_of: Callable[[Path], Note] = Note
) -> dict[Path, Note]:
    """Prepared folders' notes of settings and sources: checks them against the jobs, and writes them.

    Args:
        jobs: what to make of which file.
        overwrite: remove what was made of the sources of today and of before, so that all is made anew.
        note_of: makes the note of a folder.

    Raises:
        ImageError: if a folder was prepared with other settings, of sources that are gone or were exchanged, or holds
            images and no note; or if a source would be removed.
    """
    folders: dict[Path, tuple[Preparation, dict[str, Path]]] = {}
    for make, path in jobs:
        folders.setdefault(make.out, (make, {}))[1][make.source_name(path)] = path
    notes = {}
    for out, (make, sources) in folders.items():
        note = notes[out] = note_of(out)
        there = note.read()
        if overwrite:
            made = _made(make, {**sources, **note.sources}, note)
            results = [file for files in made.values() for file in files]
            note.check_apart(results, sources)
            for file in results:
                note.remove(file)
            note.sources = {}
        elif there:
            changed = [name for name, path in sources.items() if not note.same(name, path)]
            mixed = _made(make, changed, note) if changed else {}
            note.check(make.settings(), sources, [name for name in changed if name in mixed])
            for name in changed:  # nothing is there of what it was
                note.add(name, sources[name])
        else:
            note.check_no_strangers()
        note.settings = make.settings()
    for out, (_, sources) in folders.items():  # now that all of them are fine
        for name, path in sources.items():
            if name not in notes[out].sources:
                notes[out].add(name, path, new=True)
        notes[out].write()
    return notes


def _made(make: Preparation, sources: Collection[str], note: Note) -> dict[str, list[Path]]:
    """The files that are there of each of these sources; those without any are left out."""
    called = {Path(name).with_suffix("").as_posix(): name for name in sources}
    made: dict[str, list[Path]] = {}
    for file in note.results():
        for origin in make.origins(file):
            if origin in called:
                made.setdefault(called[origin], []).append(file)
    return made


def prepare_one(
    job: Job,
    is_there: Callable[[Path], bool] = Path.is_file,
    write: Callable[[Path, Tensor], None] | None = None,
) -> Outcome:
    """Makes what is missing of a source.

    Args:
        job: what to make of which file.
        is_there: tells whether a target exists.
        write: writes an image to a target; None: a PNG file there.

    Returns:
        Files written, files that were there, and the source's digest if it was read; or what is wrong with it.

    Raises:
        ImageError: if a target can't be written.
    """
    preparation, path = job
    try:
        source = ImageFile.at(path)
        targets = preparation.targets(source)
        if any(len(os.fsencode(target.name)) > 255 for target in targets):
            raise ImageError(f"{path}: its name is too long for those of its results: shorten it")
        missing = [k for k, target in enumerate(targets) if not is_there(target)]
        digest = digest_of(path) if missing else None
        images = preparation.images(source, source.read()) if missing else []
    except ImageError as error:
        return str(error)
    for k in missing:
        (write or _write)(targets[k], images[k])
    return len(missing), len(targets) - len(missing), digest


def _write(target: Path, x: Tensor) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"{target.parent}: cannot be made ({error.strerror or error})") from None
    write_image(target, x)
