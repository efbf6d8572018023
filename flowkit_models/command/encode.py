"""`flowkit encode`: a picture as a small picture and latents, from which it comes back exactly."""

from dataclasses import dataclass

from .options import ModelOptions


@dataclass(frozen=True, kw_only=True)
class Encode(ModelOptions):
    """Takes pictures apart: a small picture to look at, and a file of latents from which `decode` makes them again.

    photo.jpg becomes photo_lr.png and photo_lr.safetensors. That `decode` gives back every pixel is tried at once.
    """

    suffix: str = "_lr"
    """End of the results' names, before the extension."""

    def run(self) -> int:
        """Does it; returns the exit code."""
        from .exact import encode_files  # noqa: PLC0415 - torch takes seconds, and --help needs none of it

        return encode_files(self)
