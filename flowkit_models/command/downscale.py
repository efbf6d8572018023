"""`flowkit downscale`: the small pictures that a model makes, from which it can restore the large ones."""

from dataclasses import dataclass

from .options import TileOptions


@dataclass(frozen=True, kw_only=True)
class Downscale(TileOptions):
    """Makes the small pictures from which a rescaling model restores the large ones.

    photo.jpg becomes photo_lr.png: JPEG would blur what the model hides in it. A note in it names the model.
    """

    suffix: str = "_lr"
    """End of the results' names, before the extension."""

    def run(self) -> int:
        """Does it; returns the exit code."""
        from .reduce import downscale_files  # noqa: PLC0415 - torch takes seconds, and --help needs none of it

        return downscale_files(self)
