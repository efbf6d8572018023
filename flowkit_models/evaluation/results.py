"""The folder of an evaluation: scores that are kept and not made twice, the table, pictures."""

import importlib.metadata
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowkit_models.evaluation.evaluator import Evaluator, Scored
from flowkit_models.evaluation.figures import Shown, draw_sheet, with_psnr
from flowkit_models.evaluation.paired_set import PairedSet
from flowkit_models.evaluation.systems import System
from flowkit_models.evaluation.tables import results_page, row_label
from flowkit_models.files import jsonable, read_text, write_text
from flowkit_models.images.image_file import check_writable, read_image, write_image


class Results:
    """Results on disk: systems/ (a file per system and set), images/, table.md, results.json, a picture of each set.

    Args:
        folder: it and those above are made when there is something to keep.
        pictures: images per set whose first draws are kept, and shown in the set's picture.
        overwrite: score anew what is scored already.

    Raises:
        OSError: if the folder can't be written to.
    """

    def __init__(self, folder: Path, pictures: int = 4, overwrite: bool = False) -> None:
        check_writable(folder / "systems", keep=False)
        self.folder, self.pictures, self.overwrite = folder, pictures, overwrite

    def kept(self, evaluator: Evaluator, system: System, data: PairedSet) -> dict[str, Any] | None:
        """The results on file of a system on a set; None if there are none, or if a metric can be had only now.

        Raises:
            ValueError: if they were made by another protocol; it names what differs.
        """
        file, identity = self._file(system, data), _identity(evaluator, system, data)
        if self.overwrite or not file.is_file():
            return None
        found: dict[str, Any] = json.loads(read_text(file))
        _check_same(found, identity, file)
        lacking = any(name in evaluator.checksums for row in found["rows"] for name in row["not_computed"])
        return None if lacking else found

    def score(
        self, evaluator: Evaluator, system: System, data: PairedSet, advance: Callable[[], object]
    ) -> dict[str, Any]:
        """Scores a system on a set, and keeps the results and the first draws of the first images.

        Args:
            evaluator: scores it.
            system: what is scored.
            data: the set.
            advance: called after each image of each of the system's rows.

        Returns:
            "system", "protocol" and "rows", as JSON keeps them.
        """
        shown = list(data.pairs)[: self.pictures]

        def keep(scored: Scored) -> None:
            advance()
            if scored.image in shown:
                path = self._picture(data, system.name, scored.temperature, scored.image)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, scored.first[0])

        file, rows = self._file(system, data), evaluator.score(system, data.pairs, keep)
        _write_json(file, _identity(evaluator, system, data) | {"rows": rows})
        saved: dict[str, Any] = json.loads(read_text(file))
        return saved

    def write(self, title: str, results: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[str]) -> str:
        """Writes table.md and results.json, see `results_page`; returns the table."""
        table = results_page(title, results, metrics)
        versions = {name: importlib.metadata.version(name) for name in ("flowkit-torch", "torch", "numpy", "pillow")}
        _write_json(self.folder / "results.json", {"versions": versions, "command": sys.argv, "sets": results})
        write_text(self.folder / "table.md", table)
        return table

    def draw(self, data: PairedSet, systems: Sequence[System], border: int, on_luma: bool = False) -> None:
        """Draws a sheet of a set, with a row per image: LR, every row of the table with its PSNR, HR."""
        rows = {}
        made = [(system.name, temperature) for system in systems for temperature in system.temperatures]
        for name, pair in list(data.pairs.items())[: self.pictures]:
            paths = {row_label(*row): self._picture(data, *row, name) for row in made}
            if not all(path.is_file() for path in paths.values()):
                continue  # one was scored before, with fewer pictures
            shown = [with_psnr(label, read_image(path)[None], pair, border, on_luma) for label, path in paths.items()]
            rows[name] = [Shown("LR", pair.lr), *shown, Shown("HR", pair.hr)]
        if rows:
            draw_sheet(rows, self.folder / f"{file_name(data.name)}.png", pair.hr.shape[-1] // pair.lr.shape[-1])

    def _file(self, system: System, data: PairedSet) -> Path:
        """Path of a system's results on a set."""
        return self.folder / "systems" / f"{file_name(system.name)}.{file_name(data.name)}.json"

    def _picture(self, data: PairedSet, system: str, temperature: float | None, image: str) -> Path:
        """Path of the first draw of a row."""
        row = file_name(row_label(system, temperature))
        return self.folder / "images" / file_name(data.name) / row / f"{image}.png"


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError if two are written to the same file, or none is there."""
    seen: dict[str, str] = {}
    for name in names:
        if file_name(name) in seen:
            other = seen[file_name(name)]
            raise ValueError(f"{other!r} and {name!r} would be one name: say NAME=PATH, or rename the folder")
        seen[file_name(name)] = name
    if not names:
        raise ValueError("nothing to score: name --systems or --results")


def file_name(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^\w.=+-]+", "_", name)


def _identity(evaluator: Evaluator, system: System, data: PairedSet) -> dict[str, Any]:
    """The system and the protocol, as JSON keeps them."""
    protocol = {**evaluator.rules.protocol(), "weights": evaluator.checksums, "set": data.about}
    about = {"system": {"name": system.name, **system.about}, "protocol": protocol}
    identity: dict[str, Any] = json.loads(json.dumps(about, default=str))
    return identity


def _check_same(found: Mapping[str, Any], now: Mapping[str, Any], file: Path) -> None:
    differing = []
    for part, values in now.items():
        old = found.get(part, {})
        for key in sorted(values.keys() | old.keys()):
            a, b = old.get(key), values.get(key)
            if key == "weights":  # those of a metric may be there at one time only
                a, b = ({name: x[name] for name in a.keys() & b.keys()} for x in (a, b))
            if a != b:
                differing.append(f"{part}: {key}")
    if differing:
        raise ValueError(f"{file}: scored in another way ({', '.join(differing)}): --overwrite, or another --out")


def _write_json(path: Path, content: Any) -> None:
    """Writes strict JSON, in a folder that is made; infinities and NaN become strings."""
    text = json.dumps(jsonable(content, str), indent=1, ensure_ascii=False, default=str, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text + "\n")
