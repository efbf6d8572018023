"""`flowkit upscale`: pictures enlarged by drawing their details."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from .errors import UsageError
from .options import DrawOptions


@dataclass(frozen=True, kw_only=True)
class Upscale(DrawOptions):
    """Enlarges pictures; what they don't show is drawn from the model.

    photo.jpg becomes photo_x4.jpg. Orientation, colour profile, EXIF, transparency and 16 bits are kept.
    """

    draws: int = 1
    """Pictures to draw of each: photo_x4_1.jpg, photo_x4_2.jpg, …"""
    suffix: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """End of the results' names, before the extension. Without it: _x4, or what the model's scale is."""

    def run(self) -> int:
        """Does it; returns the exit code."""
        if self.draws < 1:
            raise UsageError(f"--draws {self.draws}: at least 1")
        if self.draws > 1 and self.temperature == 0:
            raise UsageError("--temperature 0 has one result: leave --draws out, or raise the temperature")
        from .enlarge import upscale_files  # noqa: PLC0415 - torch takes seconds, and --help needs none of it

        return upscale_files(self)
