"""Log of a run: a row of JSON per event in log.jsonl, and the same numbers for TensorBoard."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowkit_models.files import jsonable, named_errors, write_text
from flowkit_models.training.run_folder import RunFolder

Row = Mapping[str, Any]
"""`kind` ("train", "validation", "skipped", "failed"), `step`, and what there is to say, numbers by name."""


class Logs:
    """Appends rows; each is on its way to the disk when `write` returns.

    Args:
        folder: of the run.
        step: of the state that the run goes on from: later rows of an earlier try are dropped.
        validated: the last step whose validation belongs to that state.
        tensorboard: write event files too.

    Raises:
        ImportError: if TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: RunFolder, step: int, validated: int, tensorboard: bool) -> None:
        kept = [
            row for row in read_log(folder.log) if row["step"] <= (validated if row["kind"] == "validation" else step)
        ]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        write_text(folder.log, text)
        self._path, self._folder = folder.log, folder.tensorboard
        self._file = folder.log.open("a", buffering=1, encoding="utf-8")
        self._events: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - slow, and an extra
            except ImportError:
                raise ImportError('no tensorboard here: pip install "flowkit-torch[train]", or switch it off') from None
            self._events = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def write(self, row: Row) -> None:
        """Writes a row; numbers that are not finite become null."""
        safe = jsonable(row)
        with named_errors(self._path):
            self._file.write(json.dumps(safe) + "\n")
        if self._events is not None and row["kind"] in ("train", "validation"):
            with named_errors(self._folder):
                for name, value in safe.items():
                    if isinstance(value, float):
                        self._events.add_scalar(f"{row['kind']}/{name}", value, row["step"])

    def sync(self) -> None:
        """Syncs the rows to the disk: before a state that counts on them."""
        with named_errors(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Ends the files."""
        with named_errors(self._path):
            self._file.close()
        if self._events is not None:
            with named_errors(self._folder):
                self._events.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log.jsonl; none if there is no such file.

    What a killed process left half written ends the log: rows that belong to a saved state come before it.
    """
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        try:
            row = json.loads(line)
            rows.append({**row, "kind": row["kind"], "step": row["step"]})
        except (ValueError, KeyError, TypeError):
            break
    return rows
