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


@dataclass(frozen=True, kw_only=True)
class Decode(PictureOptions):
    """Makes pictures again from the .safetensors files of `encode`, with the same model.

    photo_lr.safetensors becomes photo_lr_decoded.png.
    """

    lr: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A small picture to use in place of the one in the file: the one that `encode` wrote, edited."""
    suffix: str = "_decoded"
    """End of the results' names, before the extension."""


@dataclass(frozen=True, kw_only=True)
class Downscale(TileOptions):
    """Makes the small pictures from which a rescaling model restores the large ones.

    photo.jpg becomes photo_lr.png: JPEG would blur what the model hides in it. A note in it names the model.
    """

    suffix: str = "_lr"
    """End of the results' names, before the extension."""


@dataclass(frozen=True, kw_only=True)
class Encode(ModelOptions):
    """Takes pictures apart: a small picture to look at, and a file of latents from which `decode` makes them again.

    photo.jpg becomes photo_lr.png and photo_lr.safetensors. That `decode` gives back every pixel is tried at once.
    """

    suffix: str = "_lr"
    """End of the results' names, before the extension."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """Tells what a checkpoint is: architecture, sizes, cost, reach, and how it was trained."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A checkpoint, flowkit's or a published one."""
    size: tuple[int, int] = (160, 160)
    """Height and width of an LR image, to state the latents for."""
    layers: bool = False
    """List every layer of the flow as well, with the shapes that it makes of an image of the least size."""
    json: bool = False
    """Print JSON, for programs."""
    quant: int | None = None
    """1/width of the dequantisation noise of a published checkpoint, which weights can't tell."""
    taps: tuple[int, ...] | None = None
    """SRFlow: indices of the stacked RRDB blocks of a published checkpoint, which weights can't tell."""


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Converts a checkpoint: a published .pth to flowkit's .safetensors, or back.

    What was written is loaded again and every tensor compared with the source's, bit for bit, before it gets its name.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """A checkpoint, flowkit's or a published one: its content tells which."""
    target: Annotated[Path, tyro.conf.Positional]
    """.safetensors: flowkit's format, with the config and the source's notes. .pth: the published names."""
    overwrite: bool = False
    """Replace the target if it is there."""
    quant: int | None = None
    """1/width of the dequantisation noise, which weights can't tell. None: what the source says, or as published."""
    taps: tuple[int, ...] | None = None
    """SRFlow: indices of the stacked RRDB blocks, which weights can't tell. None: as published for this size."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Examines a checkpoint: round trips, log-dets, scales, conditions, latents, and numbers that are not finite.

    The exit code is 1 if something is bad.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A checkpoint, flowkit's or a published one."""
    image: Annotated[Path | None, tyro.conf.Positional] = None
    """An HR image to examine it on. None: three photographs in scikit-image's wheel, or noise where it is not."""
    crop: int = 96
    """Side of the square in the middle of the image that is looked at, cut to what the model takes."""
    noise: bool = False
    """Examine it on uniform noise instead of images."""
    layers: bool = True
    """List every layer."""
    json: bool = False
    """Print JSON, for programs."""
    quant: int | None = None
    """1/width of the dequantisation noise of a published checkpoint, which weights can't tell."""
    taps: tuple[int, ...] | None = None
    """SRFlow: indices of the stacked RRDB blocks of a published checkpoint, which weights can't tell."""


@dataclass(frozen=True, kw_only=True)
class Restore(DrawOptions):
    """Downscales pictures and upscales them again, to see what a model keeps.

    photo.jpg becomes photo_restored.jpg, of the same size; in between it has 8 bits.
    """

    suffix: str = "_restored"
    """End of the results' names, before the extension."""


@dataclass(frozen=True, kw_only=True)
class Upscale(DrawOptions):
    """Enlarges pictures; what they don't show is drawn from the model.

    photo.jpg becomes photo_x4.jpg. Orientation, colour profile, EXIF, transparency and 16 bits are kept.
    """

    draws: int = 1
    """Pictures to draw of each: photo_x4_1.jpg, photo_x4_2.jpg, …"""
    suffix: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """End of the results' names, before the extension. Without it: _x4, or what the model's scale is."""
