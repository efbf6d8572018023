"""The command line: which subcommands there are, and how what they raise becomes a line and an exit code."""

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Union

import tyro

from flowkit_models.cli.errors import UsageError, one_line
from flowkit_models.cli.options import Convert, Decode, Doctor, Downscale, Encode, Info, Restore, Upscale

WORK: dict[type[Any], tuple[str, str]] = {
    Upscale: ("upscale", "upscale_files"),
    Downscale: ("downscale", "downscale_files"),
    Restore: ("upscale", "restore_files"),
    Encode: ("encode", "encode_files"),
    Decode: ("encode", "decode_files"),
    Info: ("info", "info"),
    Convert: ("convert", "convert"),
    Doctor: ("doctor", "doctor"),
}
"""The options of each subcommand, and the module and function that do its work: loaded when it runs."""


def work_of(task: Any) -> Callable[[Any], int]:
    """The function that does what the options ask for."""
    module, function = WORK[type(task)]
    work: Callable[[Any], int] = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    return work


def run(arguments: Sequence[str] | None) -> int:
    """Parses a command line and runs it; see `flowkit_models.cli.main`."""
    try:
        kinds: Any = Union[tuple(WORK)]  # noqa: UP007 - made of a tuple
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
        code = work_of(task)(task)
    except KeyboardInterrupt:
        print("flowkit: stopped; nothing is half-written", file=sys.stderr)
        return 130
    except Exception as error:
        if getattr(task, "debug", False):
            traceback.print_exc()
        print(f"flowkit: {one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return code
