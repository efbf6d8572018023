"""Options that the subcommands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Suffix = Literal["jpg", "png", "webp", "tif"]


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """Which files, and where results go."""

    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILES")] = ()
    """Files, folders (searched with those below them) or quoted globs."""
    input: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-i"], metavar="FILES")] = ()
    """The same, as an option."""
    output: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="PATH")] = ""
    """A file, or a folder, where the tree of an input folder is kept. Without it: beside the input."""
    overwrite: bool = False
    """Replace results that exist. Without it, a folder's are skipped, and a single one is an error."""
    debug: bool = False
    """Show where in the code an error came from."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """What was named, either way."""
        return (*self.files, *self.input)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(FileOptions):
    """Which model, and how it runs."""

    model: Annotated[Path | None, tyro.conf.arg(aliases=["-m"], metavar="FILE")] = None
    """Checkpoint: flowkit's .safetensors or a published .pth. Without it: the one that comes with the package."""
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """cpu, cuda, cuda:1, mps; auto: the GPU, if there is one."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of the networks; the invertible maps stay in float32."""


@dataclass(frozen=True, kw_only=True)
class PictureOptions(ModelOptions):
    """What the results are called, and how they are written."""

    format: Annotated[Suffix | None, tyro.conf.arg(metavar="jpg|png|webp|tif")] = None
    """Of the results. Without it: that of -o or of the input."""
    quality: int = 95
    """Of JPEG and WebP, 1 to 100; 100 is lossless WebP."""


@dataclass(frozen=True, kw_only=True)
class TileOptions(PictureOptions):
    """How large pictures fit in memory."""

    tile: Annotated[int | None, tyro.conf.arg(aliases=["-t"], metavar="PIXELS")] = None
    """Side of the tiles in low-resolution pixels; 0: the whole picture at once. Without it: as large as suits."""


@dataclass(frozen=True, kw_only=True)
class DrawOptions(TileOptions):
    """How high-resolution pictures are drawn."""

    temperature: Annotated[float | None, tyro.conf.arg(metavar="TAU")] = None
    """Standard deviation of the latents, 0 to 1: more is livelier. Without it: what the checkpoint says, or else 0.8
    for super-resolution and 1 for rescaling."""
    seed: int = 0
    """Of the draws: the same seed gives the same picture, whatever the tiles."""
