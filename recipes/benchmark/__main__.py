"""Measures speed and memory: Glow and flows of vectors beside other libraries, models, their growth, exported models.

Everything runs in one process, in turns; ratios are taken within a round. Timings mean something on a machine that
does nothing else. Each subcommand prints its tables and writes table.md and results.json to --out.
docs/benchmarks.md explains them and shows the results.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which counts memory, else writes to the terminal

if not __package__:  # started as `python recipes/benchmark`: this folder is the package `benchmark`
    sys.path[0] = str(Path(__file__).parents[1])

import torch
import tyro
from rich.console import Console
from rich.markdown import Markdown

from benchmark.exports import Export
from benchmark.glow import Glow
from benchmark.growth import Growth
from benchmark.models import Models
from benchmark.options import Options
from benchmark.vectors import Vectors
from flowkit_models.devices import find_device
from flowkit_models.files import write_text
from flowkit_models.training.recipe import run as run_recipe

LIBRARIES = ("flowkit-torch", "torch", "nflows", "zuko", "normflows", "FrEIA", "onnxruntime")


def main(options: Export | Glow | Models | Growth | Vectors) -> None:
    """Measures, prints, writes."""
    options.prepare()
    options = options.toy() if options.quick else options
    console = Console()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the other libraries
        tables = options.measure(console)
    text = "\n".join(map(str, tables))
    console.print(Markdown(text))
    about = protocol(options)
    said = "\n".join(f"- {key}: {value}" for key, value in about.items())
    write_text(options.out / "table.md", f"{text}\nProtocol:\n\n{said}\n")
    numbers = {"protocol": about, **{table.title: table.numbers for table in tables}}
    write_text(options.out / "results.json", json.dumps(numbers, indent=1, ensure_ascii=False, default=str) + "\n")
    console.print(f"see {options.out}: table.md, results.json", highlight=False)


def protocol(options: Options) -> dict[str, Any]:
    """What a result has to be read with. No names of machines, users or folders."""
    device = find_device(options.device)
    return {
        "command": type(options).__name__.lower(),
        "options": {k: v for k, v in dataclasses.asdict(options).items() if k not in ("out", "weights")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "versions": dict(versions()),
    }


def versions() -> Iterator[tuple[str, str]]:
    """Versions of the libraries that are there."""
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


def processor() -> str:
    """The name of the processor, as far as the system tells."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    return platform.processor() or platform.machine()


def parse(arguments: list[str]) -> Export | Glow | Models | Growth | Vectors:
    """The command line: a subcommand and its options."""
    chosen: Any = Export | Glow | Models | Growth | Vectors
    options: Export | Glow | Models | Growth | Vectors = tyro.cli(chosen, args=arguments, description=__doc__)
    return options


def run(arguments: list[str]) -> int | str:
    """Runs the recipe; returns 0, or one line that says what was wrong."""
    return run_recipe(lambda: main(parse(arguments)))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
