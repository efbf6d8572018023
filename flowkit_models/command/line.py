"""The command line: which subcommands there are, and how what they raise becomes a line and an exit code."""

import sys
import traceback
from collections.abc import Sequence
from typing import Any, Union

import tyro

from .decode import Decode
from .downscale import Downscale
from .encode import Encode
from .errors import UsageError, one_line
from .looks import Convert, Doctor, Info
from .restore import Restore
from .upscale import Upscale

SUBCOMMANDS: tuple[type[Any], ...] = (
    Upscale,
    Downscale,
    Restore,
    Encode,
    Decode,
    Info,
    Convert,
    Doctor,
)
"""Frozen dataclasses with `run() -> int`; a subcommand's name is that of its class."""


def run(arguments: Sequence[str] | None) -> int:
    """Parses a command line and runs it; see `flowkit_models.command.main`."""
    try:
        kinds: Any = Union[SUBCOMMANDS]  # noqa: UP007 - made of a tuple
        task = tyro.cli(
            kinds,
            args=arguments,
            prog="flowkit",
            description="Image super-resolution and rescaling with normalizing flows.",
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
        )
    except SystemExit as stop:  # help was asked for, or the line was wrong and tyro has said so
        return stop.code if isinstance(stop.code, int) else 2
    try:
        code: int = task.run()
    except KeyboardInterrupt:
        print("flowkit: stopped; nothing is half-written", file=sys.stderr)
        return 130
    except Exception as error:
        if getattr(task, "debug", False):
            traceback.print_exc()
        print(f"flowkit: {one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return code
