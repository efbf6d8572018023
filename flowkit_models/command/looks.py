"""`flowkit info`, `convert` and `doctor`: their options. What does the work is loaded when they run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


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

    def run(self) -> int:
        """Prints, and returns 0.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            ValueError: if it is none of a known model, or the size does not suit it.
        """
        from .info import info  # noqa: PLC0415

        return info(self)


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

    def run(self) -> int:
        """Converts, and returns 0.

        Raises:
            FileNotFoundError: if there is no source, or no folder for the target.
            FileExistsError: if the target is there and is not to be replaced.
            ValueError: if the source is no checkpoint, has no published form, or the copy differs from it.
        """
        from .convert import convert  # noqa: PLC0415

        return convert(self)


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

    def run(self) -> int:
        """Prints, and returns 1 if something is bad, else 0.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            ValueError: if it is none of a known model, or the image can't be read or is too small.
        """
        from .doctor import doctor  # noqa: PLC0415

        return doctor(self)
