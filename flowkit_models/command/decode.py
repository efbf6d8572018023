"""`flowkit decode`: pictures from their latents."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .options import PictureOptions


@dataclass(frozen=True, kw_only=True)
class Decode(PictureOptions):
    """Makes pictures again from the .safetensors files of `encode`, with the same model.

    photo_lr.safetensors becomes photo_lr_decoded.png.
    """

    lr: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A small picture to use in place of the one in the file: the one that `encode` wrote, edited."""
    suffix: str = "_decoded"
    """End of the results' names, before the extension."""

    def run(self) -> int:
        """Does it; returns the exit code."""
        from .exact import decode_files  # noqa: PLC0415 - torch takes seconds, and --help needs none of it

        return decode_files(self)
