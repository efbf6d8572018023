"""`flowkit upscale`: enlarges photographs."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowkit_models.cli.batch import Batch
from flowkit_models.cli.errors import UsageError
from flowkit_models.cli.model import Opened, open_model
from flowkit_models.cli.options import DrawOptions, Upscale
from flowkit_models.cli.paths import Naming, find_inputs
from flowkit_models.cli.provenance import foreign_warning, made_by, signed
from flowkit_models.images.formats import endings
from flowkit_models.images.photo_file import Header, Picture, stored
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.images.transparency import bleed, transparent
from flowkit_models.inference.latent_field import LatentField

Rows = Callable[[int, int], Tensor]
"""(top, bottom) to these rows (4, bottom - top, W) at high resolution: alpha, and colours for where that is 0."""


def upscale_files(options: Upscale) -> int:
    """Runs `flowkit upscale`; returns the exit code."""
    inputs = find_inputs([*options.files, *options.input], options.output, endings())
    opened = open_model(options)
    scale = opened.model.scale
    suffix = f"_x{scale}" if options.suffix is None else options.suffix
    numbers = [""] if options.draws == 1 else [f"_{draw}" for draw in range(1, options.draws + 1)]
    naming = Naming(suffix, options.extension, tuple(f"{{stem}}{number}{{extension}}" for number in numbers))
    temperature = chosen_temperature(opened, options)
    if options.draws > 1 and temperature == 0:
        raise UsageError(
            f"--draws {options.draws}: this model's recommended temperature is 0, which has one result: "
            "give another --temperature or --style"
        )

    batch = Batch(options, inputs, naming)
    for job in batch:
        with job.reported():
            picture = job.read_picture(scale)
            warning = foreign_warning(opened, picture)
            if warning:
                job.warn(warning)
            header = job.fit(signed(picture.header, None))
            pixels, under = seen(picture, own=made_by(picture.header) == opened.checksum)
            rows = None if under is None else enlarged_rows(under, scale)
            for draw in range(options.draws):
                field = LatentField(options.seed, draw)
                progress = job.progress(draw, options.draws)
                array = upscaled(opened, pixels, options.tile, temperature, rows, header, field, progress)
                job.write_picture(array, header, options.quality, draw)
    return batch.summary()


def chosen_temperature(opened: Opened, options: DrawOptions) -> float:
    """The τ that the options name, or that suits the model; says so if it is outside 0 to 1."""
    if options.temperature is None:
        return opened.temperature
    if options.temperature > 1:
        print(f"warning: --temperature {options.temperature:g}: above 1 noise prevails over detail", file=sys.stderr)
    return options.temperature


def seen(picture: Picture, own: bool = False) -> tuple[Tensor, Tensor | None]:
    """Input of the network for a picture, and the channels kept aside from it.

    Colours that nobody sees would leave an outline, also where they are laid over white afterwards, so they don't reach
    the network: it sees the visible colours going on under the transparent pixels.

    Args:
        picture: to enlarge or reduce.
        own: the model itself made the picture by downscaling, and hides detail under the transparent pixels as well.

    Returns:
        Pixels (3, H, W), and alpha with the colours as they were (4, H, W); None: all is opaque.
    """
    if picture.alpha is None:
        return picture.pixels, None
    pixels = picture.pixels if own else bleed(picture.pixels, picture.alpha)
    return pixels, torch.cat((picture.alpha, picture.pixels))


def upscaled(
    opened: Opened,
    pixels: Tensor,
    tile: int | None,
    temperature: float,
    under: Rows | None,
    header: Header,
    field: LatentField,
    progress: Callable[[int, int], None],
    size: tuple[int, int] | None = None,
) -> NDArray[Any]:
    """A picture at high resolution, as its file will hold it: the only thing of its size that is in memory.

    Args:
        opened: the model.
        pixels: (3, h, w) in [0, 1].
        tile: side of the tiles; see `Opened.tiled`.
        temperature: τ.
        under: alpha of the result and colours for where it is 0, row by row; or None.
        header: of the result, fitted to its format.
        field: the latents.
        progress: is called with (tiles done, tiles in all).
        size: rows and columns to keep, from the top left; by default all.

    Returns:
        (height, width, header.channels), uint8 or uint16.

    Raises:
        ValueError: if what the model makes is not finite.
        MemoryError: if not even small tiles fit.
    """
    scale = opened.model.scale
    height, width = size or (pixels.shape[1] * scale, pixels.shape[2] * scale)
    out = np.empty((height, width, header.channels), header.dtype)
    tiled = opened.tiled(pixels, tile)
    for top, strip in tiled.strips(pixels, field, temperature, bits=32, progress=progress):
        bottom = min(top + strip.shape[1], height)
        if not bool(strip.isfinite().all()):
            raise ValueError("what the model makes of it is not finite: lower --temperature or take another checkpoint")
        if top < bottom:
            colours, alpha = strip[:, : bottom - top, :width], None
            if under is not None:
                rows = under(top, bottom)
                alpha = rows[:1]
                colours = torch.where(transparent(alpha, 2**header.bits - 1), rows[1:], colours)
            out[top:bottom] = stored(colours, alpha, header)
    return out


def enlarged_rows(channels: Tensor, scale: int) -> Rows:
    """Channels (C, h, w) at high resolution, bicubic, clamped; they are enlarged strip by strip."""
    margin = 4  # more than the kernel's reach, so that the edges of a strip inside the picture don't count

    def rows(top: int, bottom: int) -> Tensor:
        first = max(0, top // scale - margin)
        last = min(channels.shape[1], -(-bottom // scale) + margin)
        strip = bicubic_resize(channels[:, first:last], scale)
        return strip[:, top - first * scale : bottom - first * scale].clamp(0, 1)

    return rows
