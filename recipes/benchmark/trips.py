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
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Trip:
    """Where a task went.

    Attributes:
        files: with a function that was entered, in the order of their first calls.
        moves: calls from one file into another.
        depth: of the deepest call, in functions of the package.
    """

    files: tuple[str, ...]
    moves: int
    depth: int


def trip_of(task: Callable[[], Any], package: Path) -> Trip:
    """Follows a task through the files under a package.

    Bodies of modules and classes don't count: importing a file is no trip through it.
    """
    prefix = f"{package}{os.sep}"
    files: dict[str, None] = {}
    stack: list[str] = []
    moves = depth = 0

    def watch(frame: FrameType, event: str, _: Any) -> None:
        nonlocal moves, depth
        code = frame.f_code
        if not (code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.startswith(prefix)):
            return
        file = code.co_filename.removeprefix(prefix)
        if event == "call":
            files.setdefault(file)
            moves += bool(stack) and stack[-1] != file
            stack.append(file)
            depth = max(depth, len(stack))
        elif event == "return" and stack:
            stack.pop()

    sys.setprofile(watch)
    try:
        task()
    finally:
        sys.setprofile(None)
    return Trip(tuple(files), moves, depth)


def upscale_trip(package: Path) -> Trip:
    """The trip of `flowkit upscale p.png`, from the command's entry on."""
    name = "cli" if (package / "cli").is_dir() else "command"  # as it was called

    def task() -> None:
        command = importlib.import_module(f"flowkit_models.{name}")
        with contextlib.redirect_stdout(io.StringIO()):
            assert command.main(["upscale", "p.png"]) == 0

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Image.new("RGB", (24, 24), "teal").save("p.png")
        return trip_of(task, package)


def load_trip(package: Path) -> Trip:
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
        trip = follow(root / "flowkit_models")
        print(f"{name}: {len(trip.files)} files, {trip.moves} moves, {trip.depth} deep: {', '.join(trip.files)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else Path(__file__).resolve().parents[2])
