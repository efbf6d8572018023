"""The command `flowkit`: photographs up and down with a checkpoint, and a look into one. `flowkit --help`."""

from flowkit_models.cli.dispatch import main

__all__ = ["main"]
