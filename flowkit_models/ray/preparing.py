"""Preparation of millions of photographs for training on a Ray cluster."""

import dataclasses
import posixpath
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from torch import Tensor

from flowkit_models.data.prepare import (
    Job,
    Outcome,
    Preparation,
    Report,
    SubImages,
    open_notes,
    prepare_all,
    prepare_one,
)
from flowkit_models.images.image_file import ImageError, write_image
from flowkit_models.ray.folder_note import FolderNote
from flowkit_models.ray.storage import copied, delivered, exists, from_root, in_full, joined
from flowkit_models.ray.tasks import Row, below, each, library, rows_of, told


@dataclass(frozen=True)
class Preparing:
    """What is the same for all photographs.

    Attributes:
        make: its results and sources have paths below the current folder.
        out: folder or URL of the results.
        sources: path or URL of each source by its name.
    """

    make: Preparation
    out: str
    sources: dict[str, str]


def prepare(
    dataset: Any,
    out: str,
    make: Callable[..., Preparation],
    *,
    root: str | None = None,
    cpus: float = 1,
    at_once: int | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> Report:
    """Prepares photographs for training on a Ray cluster, as `flowkit prepare` does on one machine.

    What is there is not made again, each file is written whole or not at all, and the folder keeps its note
    (`prepared.json`), so that it never holds what two kinds of settings or sources made.

    Args:
        dataset: a Ray data set with the column `path`; or a folder, file or URL of any fsspec file system; or several.
        out: folder or URL of the results. All nodes have to see it, and the photographs.
        make: a class of `flowkit_models.data.prepare`: SubImages, Faces or LowResolution.
        root: what the photographs' paths have in common; None: the folder that was named, or that all are in.
        cpus: cores of a task.
        at_once: tasks that run at the same time.
        overwrite: as `flowkit prepare --overwrite`.
        **settings: of `make`, but for its `out` and `root`.

    Returns:
        Files written, files that were there, and a line for each source of no use.

    Raises:
        FileNotFoundError: if a folder holds no pictures.
        ImageError: if a folder was made with other settings, or a file can't be written.
        ImportError: without Ray.
        ValueError: if settings make no sense, two photographs would have results of one name, or results would
            become photographs of the next call.
    """
    ray = library()
    rows, found = rows_of(dataset, root)
    paths = [row["path"] for row in rows.select_columns(["path"]).take_all()]

    def on_the_cluster(rows: list[Row], spec: Preparing) -> Iterable[Row]:
        items = ray.data.from_items(rows, override_num_blocks=len(rows))
        return each(items, prepare_row, spec, cpus, 0.0, at_once).take_all()

    return prepare_by(on_the_cluster, paths, found, out, make, settings, overwrite)


def prepare_by(
    run: Callable[[list[Row], Preparing], Iterable[Row]],
    paths: Sequence[str],
    root: str,
    out: str,
    make: Callable[..., Preparation],
    settings: Mapping[str, Any],
    overwrite: bool = False,
) -> Report:
    """Prepares photographs as `prepare` does, with something else than Ray that does `prepare_row`.

    Args:
        run: gives the rows of outcomes, in any order, for rows and what is the same for them.
        paths: of the photographs.
        root: what they have in common; "": the folder that all are in.
        out: see `prepare`.
        make: see there.
        settings: of `make`.
        overwrite: see there.
    """
    out, root = from_root(out), root or folder_of_all(paths)
    if (in_full(out).rstrip("/") + "/").startswith(in_full(root).rstrip("/") + "/"):
        raise ValueError(f"out {out} lies in {root}, which is searched for images: name a folder outside it")
    preparation = make(**{"out": Path(), **({"root": Path()} if make is SubImages else {}), **settings})
    sources = named(paths, root, preparation)

    def outcomes(part: Sequence[Job]) -> list[Outcome]:
        names = [name.as_posix() for _, name in part]
        spec = Preparing(preparation, out, {name: sources[name] for name in names})
        found: dict[int, Outcome] = {}
        for row in run([{"at": at, "name": name} for at, name in enumerate(names)], spec):
            if row["fatal"]:
                raise ImageError(row["fatal"])
            done = (row["written"], row["existing"], row["digest"] or None)
            found[row["at"]] = row["error"] or done
        return [found[at] for at in range(len(part))]

    jobs = [(preparation, Path(name)) for name in sources]
    notes = open_notes(jobs, overwrite, lambda _: FolderNote(out, urls=sources))
    return prepare_all(jobs, notes=notes, run=outcomes)


def prepare_row(row: Row, spec: Preparing) -> Row:
    """One photograph: the row of its outcome."""
    found = {"at": row["at"], "written": 0, "existing": 0, "digest": "", "error": "", "fatal": ""}
    url = spec.sources[row["name"]]
    with tempfile.TemporaryDirectory() as folder:
        here, out = Path(folder, "in"), Path(folder, "out")
        source = here / row["name"]
        make = placed(spec.make, out, here)
        try:
            copied(url, source)
        except Exception as error:  # of whatever file system
            return {**found, "error": f"{url}: cannot be read ({told(error)})"}

        def place(target: Path) -> str:
            return joined(spec.out, target.relative_to(out).as_posix())

        def write(target: Path, x: Tensor) -> None:
            with delivered(place(target)) as file:
                write_image(file, x)

        try:
            outcome = prepare_one((make, source), lambda target: exists(place(target)), write)
        except Exception as error:  # nothing can be written: the others would fail as well
            return {**found, "fatal": f"{spec.out}: cannot be written ({told(error)})"}
        if isinstance(outcome, str):
            return {**found, "error": outcome.replace(str(source), url)}
    written, existing, digest = outcome
    return {**found, "written": written, "existing": existing, "digest": digest or ""}


def placed(make: Preparation, out: Path, root: Path) -> Preparation:
    """A preparation with results and sources in other folders."""
    places = {"out": out, "root": root}
    names = {field.name for field in dataclasses.fields(make)}  # type: ignore[arg-type]
    return dataclasses.replace(make, **{name: path for name, path in places.items() if name in names})  # type: ignore


def folder_of_all(paths: Sequence[str]) -> str:
    """The innermost folder that some paths or URLs are in, as all of them begin.

    >>> folder_of_all(["s3://photos/a/1.png", "s3://photos/ab/2.png"])
    's3://photos'
    """
    steps = zip(*(path.split("/")[:-1] for path in paths), strict=False)
    return "/".join(step[0] for step in takewhile(lambda step: len(set(step)) == 1, steps))


def named(paths: Sequence[str], root: str, make: Preparation) -> dict[str, str]:
    """Paths or URLs by their names below `root`.

    Raises:
        ValueError: if two would have results of one name.
    """
    sources: dict[str, str] = {}
    taken: dict[str, str] = {}
    for path in paths:
        name = below(path, root)
        other = taken.setdefault(posixpath.splitext(make.source_name(Path(name)))[0], path)
        if other != path:
            raise ValueError(f"{other} and {path} have one name: prepare them with different out")
        sources[name] = path
    return sources
