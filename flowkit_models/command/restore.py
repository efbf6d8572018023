"""`flowkit restore`: pictures down and up again, which shows what a model keeps."""

from dataclasses import dataclass

from .options import DrawOptions


@dataclass(frozen=True, kw_only=True)
class Restore(DrawOptions):
    """Downscales pictures and upscales them again, to see what a model keeps.

    photo.jpg becomes photo_restored.jpg, of the same size; in between it has 8 bits.
    """

    suffix: str = "_restored"
    """End of the results' names, before the extension."""

    def run(self) -> int:
        """Does it; returns the exit code."""
        from .enlarge import restore_files  # noqa: PLC0415 - torch takes seconds, and --help needs none of it

        return restore_files(self)
