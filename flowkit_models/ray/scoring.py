"""Scores of a model on millions of image pairs on a Ray cluster."""

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowkit_models.data.image_pair import Pair
from flowkit_models.data.pairs import PairFiles, read_pair
from flowkit_models.devices import find_device
from flowkit_models.evaluation.evaluator import Evaluator, means
from flowkit_models.evaluation.systems import System, open_system
from flowkit_models.files import jsonable, read_text, write_text
from flowkit_models.metrics.registry import Rules
from flowkit_models.ray.storage import delivered, exists, fetched, from_root, joined
from flowkit_models.ray.tasks import Row, below, each, for_all, rows_of, settle, told


@dataclass(frozen=True)
class Scoring:
    """What is the same for all pairs; arguments as for `score`."""

    root: str
    out: str
    system: str
    rules: Rules
    temperature: float
    device: str
    cpus: float


def score(
    dataset: Any,
    out: str,
    system: str = "hcflow_x4",
    *,
    rules: Rules,
    temperature: float = 0.0,
    device: str = "auto",
    root: str | None = None,
    cpus: float = 1,
    gpus: float | None = None,
    at_once: int | None = None,
) -> Any:
    """Scores a system on image pairs on a Ray cluster, each pair for itself, by the scorer of `flowkit evaluate`.

    The values of a pair are a file, its name below `out` with .json at the end, written whole or not at all: what is
    there is read, and not scored again. Draws of a pair start from the rules' seed, whatever other pairs there are.

    Args:
        dataset: a Ray data set with the column `path`, of HR images, and perhaps `lr`, of their LR images (made by
            bicubic where it is missing or empty); or folders, files or URLs of HR images.
        out: folder or URL of the values; one for a system and its rules.
        system: "bicubic", or a checkpoint of any kind that `flowkit evaluate` takes.
        rules: metrics and protocol.
        temperature: τ of a flow.
        device: of each task.
        root: what the inputs' paths have in common; None: the folder that was named.
        cpus: cores of a task.
        gpus: of a task; None: one where the cluster has any.
        at_once: tasks that run at the same time.

    Returns:
        A Ray data set, one row for each pair: `path`, `state` ("done", "was there" or "failed"), `error` (one line, or
        ""), and a column for each metric, the mean over draws; NaN where it could not be computed.

    Raises:
        FileNotFoundError: if there is no such system, or a folder holds no pictures.
        ImportError: without Ray.
        ValueError: if there is no metric of a name, or the system is none.
    """
    out, system = from_root(out), for_all(system)
    rows, root = rows_of(dataset, root)
    spec = Scoring(root, out, system, rules, temperature, device, cpus)
    open_scorer(spec)
    return each(rows, score_row, spec, cpus, gpus, at_once)


def score_row(row: Row, spec: Scoring) -> Row:
    """One pair of a data set: the row of its values."""
    path, values = row["path"], dict.fromkeys(spec.rules.metrics, math.nan)
    state, problem = "failed", ""
    output = joined(spec.out, f"{below(path, spec.root)}.json")
    try:
        if exists(output):
            with fetched(output) as file:
                values |= {name: value for name, value in json.loads(read_text(file)).items() if value is not None}
            state = "was there"
        else:
            values |= scored(path, row.get("lr") or None, spec)
            with delivered(output) as file:
                write_text(file, json.dumps(jsonable(values)))
            state = "done"
    except Exception as error:  # of any kind: the other pairs have nothing to do with it
        problem = told(error)
    return {"path": path, "state": state, "error": problem, **values}


def scored(path: str, lr: str | None, spec: Scoring) -> dict[str, float]:
    """The values of a pair by metric."""
    evaluator, system = open_scorer(spec)
    with fetched(path) as hr_file, fetched(lr or path) as lr_file:
        files = PairFiles(Path(path).stem, hr_file, lr_file if lr else None)
        pair = Pair.of(*read_pair(files, spec.rules.scale))
    (row,) = evaluator.score(system, {path: pair})
    return means(row)


@functools.lru_cache(maxsize=1)
def open_scorer(spec: Scoring) -> tuple[Evaluator, System]:
    """The scorer and the system, opened once in a process."""
    settle(spec.cpus)
    device = find_device(spec.device)
    system = open_system(spec.system, spec.rules.scale, [spec.temperature], device=device)
    return Evaluator(spec.rules, device=device), system
