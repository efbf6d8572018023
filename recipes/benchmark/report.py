"""How results are written: tables for the terminal and in Markdown, and the protocol that belongs to them."""

import dataclasses
import datetime
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.table import Table as RichTable

from benchmark.measures import has_bf16, processor
from benchmark.stopwatch import Spread
from flowkit_models.evaluation.tables import markdown
from flowkit_models.files import write_text

LIBRARIES = ("flowkit-torch", "torch", "nflows", "normflows", "FrEIA")


@dataclass(frozen=True)
class Results:
    """A table, and the numbers that it was made of.

    Attributes:
        title: its heading.
        headings: of the columns; the first column names the row.
        rows: cells as text.
        notes: lines below it.
        numbers: for results.json.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    numbers: dict[str, Any] = field(default_factory=dict)

    def as_markdown(self) -> str:
        """For a file."""
        parts = [f"## {self.title}", markdown(self.headings, self.rows), "\n".join(f"- {note}" for note in self.notes)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def as_rich(self) -> RichTable:
        """For the terminal."""
        table = RichTable(title=self.title, caption="\n".join(self.notes), caption_justify="left")
        for i, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


def protocol(options: Any, device: torch.device | str) -> dict[str, Any]:
    """What a result has to be read with. No names of machines, users or folders.

    Args:
        options: the recipe's, a dataclass.
        device: where it ran.
    """
    cuda = torch.device(device).type == "cuda"
    private = {"out", "weights"}
    return {
        "command": type(options).__name__.lower(),
        "options": {name: value for name, value in dataclasses.asdict(options).items() if name not in private},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(device) if cuda else processor(),
        "bf16": "by the processor" if has_bf16(device) else "emulated",
        "versions": {name: version for name in LIBRARIES if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def write(folder: Path, results: Sequence[Results], about: dict[str, Any]) -> None:
    """Writes table.md and results.json, each whole or not at all."""
    said = "\n".join(f"- {key}: {value}" for key, value in about.items())
    text = "\n".join(result.as_markdown() for result in results) + f"\nProtocol:\n\n{said}\n"
    numbers = {"protocol": about, **{result.title: result.numbers for result in results}}
    write_text(folder / "table.md", text)
    content = json.dumps(numbers, indent=1, ensure_ascii=False, default=str)
    write_text(folder / "results.json", content + "\n")


def duration(seconds: float) -> str:
    """Three digits, in ms or s.

    Example:
        >>> duration(0.01234), duration(12.34)
        ('12.3 ms', '12.3 s')
    """
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def megabytes(size: float) -> str:
    """Three digits, in MB of 10⁶ bytes.

    Example:
        >>> megabytes(1.234e6), megabytes(1332e6)
        ('1.23 MB', '1332 MB')
    """
    return f"{size / 1e6:.3g} MB" if size < 999.5e6 else f"{size / 1e6:.0f} MB"


def quartiles(ratio: Spread) -> str:
    """A ratio with its quartiles.

    Example:
        >>> quartiles(Spread(1.0, 0.98, 1.03))
        '1.00 [0.98, 1.03]'
    """
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
