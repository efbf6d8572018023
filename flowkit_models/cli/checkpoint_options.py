"""Options of the subcommands that look into checkpoints and convert them: a dataclass each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Taps = Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="INT ...")]


@dataclass(frozen=True, kw_only=True)
class Info:
    """Shows a checkpoint: architecture, sizes, cost, receptive field, and how it was trained."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A checkpoint, flowkit's or a published one, or a name of `flowkit models`."""
    size: tuple[int, int] = (160, 160)
    """Height and width of an LR image, to state the latents for."""
    layers: bool = False
    """List every layer of the flow as well, with the shapes that it makes of an image of the least size."""
    json: bool = False
    """Print JSON, for programs."""
    quant: int | None = None
    """1/width of the dequantisation noise of a published checkpoint, which weights can't tell."""
    taps: Taps = None
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
    """1/width of the dequantisation noise, which weights can't tell. Without it: as the source has it, or published."""
    taps: Taps = None
    """SRFlow: indices of the stacked RRDB blocks, which weights can't tell. Without it: as published for this size."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """Lists the models that come with the package, by the names that -m and Python's load take."""

    json: bool = False
    """Print JSON, for programs: also the path of each file, and whether it is for super-resolution or rescaling."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Writes a model as a program that runs without flowkit: ONNX, or one of torch.export. Pictures of any size.

    In: `lr`, (1, 3, h, w), RGB in [0, 1], and above τ = 0 standard-normal latents `z0`, `z1`, … Out: `hr`.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """A checkpoint, flowkit's or a published one, or a name that `flowkit models` lists."""
    to: Literal["onnx", "pt2"] = "onnx"
    """Format of the program; ONNX needs the extra `export`."""
    output: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="PATH")] = ""
    """The file. Without it: the checkpoint's name with the format's ending, in the current folder."""
    temperature: float = 0.0
    """τ of the program; above 0 it takes standard-normal latents as inputs."""
    half: bool = False
    """Store matrices and kernels in 16 bits, for less space; numbers are computed in float32."""
    overwrite: bool = False
    """Replace the file if it is there."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Examines a checkpoint: round trips, log-dets, scales, conditions, latents, and numbers that are not finite.

    The exit code is 1 if something is bad.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A checkpoint, flowkit's or a published one, or a name of `flowkit models`."""
    image: Annotated[Path | None, tyro.conf.Positional] = None
    """An HR image to examine it on. Without it: three photographs in scikit-image's wheel, or noise where it is not."""
    crop: int = 96
    """Side of the square in the middle of the image that is looked at, cut to what the model takes."""
    noise: bool = False
    """Examine it on uniform noise instead of images."""
    no_layers: bool = False
    """Leave out the table of layers."""
    json: bool = False
    """Print JSON, for programs."""
    quant: int | None = None
    """1/width of the dequantisation noise of a published checkpoint, which weights can't tell."""
    taps: Taps = None
    """SRFlow: indices of the stacked RRDB blocks of a published checkpoint, which weights can't tell."""
