"""Trips of a task through the package's files: `flowkit upscale p.png`, and `load` of an own file.

python recipes/benchmark/trips.py [ROOT]: of the checkout at ROOT, by default this one.
"""

import contextlib
import importlib
import inspect
import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image


def trip_of(task: Callable[[], Any], package: Path) -> list[str]:
    """The files under a package with a function that a task enters, in the order of their first calls.

    Bodies of modules and classes don't count: importing a file is no trip through it.
    """
    prefix = f"{package}{os.sep}"
    files: dict[str, None] = {}

    def watch(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.startswith(prefix):
            files.setdefault(code.co_filename.removeprefix(prefix))

    sys.setprofile(watch)
    try:
        task()
    finally:
        sys.setprofile(None)
    return list(files)


def upscale_trip(package: Path) -> list[str]:
    """The trip of `flowkit upscale p.png`, from the command's entry on."""
    name = "cli" if (package / "cli").is_dir() else "command"  # as it was called

    def task() -> None:
        command = importlib.import_module(f"flowkit_models.{name}")
        with contextlib.redirect_stdout(io.StringIO()):
            assert command.main(["upscale", "p.png"]) == 0

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Image.new("RGB", (24, 24), "teal").save("p.png")
        return trip_of(task, package)


def load_trip(package: Path) -> list[str]:
    """The trip of `flowkit_models.load` of a file that `save` wrote."""
    flowkit_models = importlib.import_module("flowkit_models")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.safetensors")
        flowkit_models.create("hcflow_sr_x4_small").save(path)
        return trip_of(lambda: flowkit_models.load(path), package)


def main(root: Path) -> None:
    """Prints both trips."""
    sys.path.insert(0, str(root))
    for name, follow in (("flowkit upscale p.png", upscale_trip), ("load", load_trip)):
        files = follow(root / "flowkit_models")
        print(f"{name}: {len(files)} files: {', '.join(files)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else Path(__file__).resolve().parents[2])
