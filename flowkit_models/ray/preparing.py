"""Preparation of millions of photographs for training on a Ray cluster."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flowkit_models.data.prepare import Job, Outcome, Preparation, Report, open_notes, prepare_all, prepare_one
from flowkit_models.images.image_file import ImageError
from flowkit_models.ray.tasks import Row, each, library


def prepare(
    jobs: Sequence[tuple[Preparation, Path]], *, cpus: float = 1, at_once: int | None = None, overwrite: bool = False
) -> Report:
    """Runs preparations over their source files on a Ray cluster, as `flowkit prepare` does on one machine.

    All nodes have to see the files under the same paths. What is there is not made again, each file is written whole or
    not at all, and each folder keeps its note (`prepared.json`).

    Args:
        jobs: what to make of which file: `flowkit_models.data.prepare.SubImages(out, root)`, say, and a photograph.
        cpus: cores of a task.
        at_once: tasks that run at the same time.
        overwrite: as `flowkit prepare --overwrite`.

    Returns:
        Files written, files that were there, and a line for each source of no use.

    Raises:
        ImageError: if a folder was made with other settings, or a file can't be written.
        ImportError: without Ray.
    """
    ray = library()

    def on_the_cluster(part: Sequence[Job]) -> Iterable[Outcome]:
        rows = ray.data.from_items([{"at": at} for at in range(len(part))], override_num_blocks=max(1, len(part)))
        found = each(rows, prepare_row, list(part), cpus, 0.0, at_once).take_all()
        outcomes: dict[int, Outcome] = {}
        for row in found:
            if row["fatal"]:
                raise ImageError(row["fatal"])
            done = (row["written"], row["existing"], row["digest"] or None)
            outcomes[row["at"]] = row["error"] or done
        return [outcomes[at] for at in range(len(part))]

    return prepare_all(jobs, notes=open_notes(jobs, overwrite), run=on_the_cluster)


def prepare_row(row: Row, spec: Any) -> Row:
    """One job of the list `spec`: the row of its outcome."""
    found = {"at": row["at"], "written": 0, "existing": 0, "digest": "", "error": "", "fatal": ""}
    try:
        outcome = prepare_one(spec[row["at"]])
    except ImageError as error:
        return {**found, "fatal": str(error)}
    if isinstance(outcome, str):
        return {**found, "error": outcome}
    written, existing, digest = outcome
    return {**found, "written": written, "existing": existing, "digest": digest or ""}
