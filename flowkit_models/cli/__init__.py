"""The command `flowkit`: pictures up and down with a checkpoint, and a look into one. `flowkit --help`."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: what follows `flowkit`; by default those of the process.

    Returns:
        The exit code: 0 all is well, 1 something failed, 2 the command line makes no sense, 130 stopped by Ctrl-C.
    """
    try:
        from flowkit_models.cli.dispatch import run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in ("tyro", "rich"):
            raise
        print(f'flowkit: the command needs {error.name}: pip install "flowkit-torch[cli]"', file=sys.stderr)
        return 2
    return run(arguments)
