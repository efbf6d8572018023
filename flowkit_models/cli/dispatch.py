"""The command line `flowkit`: a table of subcommands; arguments in, exit code out."""

import dataclasses
import importlib
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from typing import Annotated, Any, Union

from flowkit_models.cli.errors import UsageError, one_line
from flowkit_models.cli.heap import keep_freed_memory
from flowkit_models.terminal import CLOSED, empty_argument, exit_code, output_closed, program

SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "Upscale": ("upscale", "upscale_files"),
    "Downscale": ("downscale", "downscale_files"),
    "Restore": ("restore", "restore_files"),
    "Encode": ("encode", "encode_files"),
    "Decode": ("encode", "decode_files"),
    "Info": ("info", "show_info"),
    "Models": ("models", "list_models"),
    "Convert": ("convert", "convert_file"),
    "Export": ("export", "export_model"),
    "Doctor": ("doctor", "examine_file"),
    "Evaluate": ("evaluate", "evaluate_systems"),
    "Prepare": ("prepare", "prepare_dataset"),
    "Demo": ("demo", "serve_demo"),
}
"""A class in `options` and what does its work: a module beside this one, and the function in it.

All three are names, found when a command line is run, so that `--help` needs no torch. A subcommand more is a class in
`options`, a row here, and a file with a function that takes the options and returns the exit code.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line of `flowkit`.

    Args:
        arguments: what follows `flowkit`; by default those of the process.

    Returns:
        The exit code: 0 all is well, 1 something failed, 2 the command line makes no sense, 130 stopped by Ctrl-C, 143
        by SIGTERM.
    """
    if arguments is None:  # nobody else's process
        keep_freed_memory()
    with program():
        try:
            return _run(sys.argv[1:] if arguments is None else list(arguments))
        except KeyboardInterrupt as stop:
            print("flowkit: stopped; nothing is half-written", file=sys.stderr)
            return exit_code(stop)


def _run(arguments: list[str]) -> int:
    """Runs a command line; of what goes wrong, prints a line."""
    options = None
    try:
        if arguments == ["--version"]:
            print(f"flowkit {version('flowkit-torch')}", flush=True)
            return 0
        options = parse(arguments)
        code = function_of(options)(options)
        sys.stdout.flush()  # a closed output shows here at the latest, not as the interpreter ends
        return code
    except SystemExit as stop:  # help was asked for, or the line was wrong and tyro has said so
        if output_closed(stop):
            return CLOSED
        return stop.code if isinstance(stop.code, int) else 2
    except Exception as failure:
        if output_closed(failure):
            return CLOSED
        error = explained(failure)
        if getattr(options, "debug", False):
            traceback.print_exc()
        print(f"flowkit: {one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def parse(arguments: Sequence[str]) -> Any:
    """The options that a command line stands for, of a class in `options`.

    Raises:
        UsageError: if an argument is empty, or an option out of range.
        SystemExit: for `--help`, and for a line that can't be parsed.
    """
    if empty := empty_argument(arguments, may_be_empty=("--suffix",)):
        raise UsageError(empty)
    import tyro  # noqa: PLC0415 - an extra

    from flowkit_models.cli import options, prepare_options  # noqa: PLC0415 - made of tyro's marks

    _hide_defaults([*vars(options).values(), *vars(prepare_options).values()])
    kinds: Any = Union[tuple(getattr(options, name) for name in SUBCOMMANDS)]  # noqa: UP007 - made of a table
    return tyro.cli(
        kinds,
        args=arguments,
        prog="flowkit",
        description="Image super-resolution and rescaling with normalizing flows. --version prints the version.",
        config=(
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.OmitArgPrefixes,
            tyro.conf.PositionalMetavarFromFieldName,
            tyro.conf.DisallowNone,
        ),
    )


def _hide_defaults(kinds: Iterable[Any]) -> None:
    """Leaves out of the help what the texts say in words: defaults that are None, empty or switches.

    Args:
        kinds: dataclasses of options, among anything else.
    """
    import tyro  # noqa: PLC0415 - an extra

    for kind in [kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)]:
        for field in dataclasses.fields(kind):
            if field.name in kind.__annotations__ and (field.default in (None, "", ()) or field.type is bool):
                kind.__annotations__[field.name] = Annotated[field.type, tyro.conf.arg(help_behavior_hint="")]


def function_of(options: Any) -> Callable[[Any], int]:
    """The function that does what the options ask for."""
    module, name = SUBCOMMANDS[type(options).__name__]
    function: Callable[[Any], int] = getattr(importlib.import_module(f"flowkit_models.cli.{module}"), name)
    return function


def explained(error: Exception) -> Exception:
    """The error, or if it is the lack of a package that all subcommands need, one that names its extra."""
    package = str(error.name).partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package in ("tyro", "rich"):
        return UsageError(f'the command needs {package}: pip install "flowkit-torch[cli]"')
    return error
