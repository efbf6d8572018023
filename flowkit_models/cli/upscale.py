"""`flowkit upscale`: enlarges photographs."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowkit_models.cli.batch import Batch
from flowkit_models.cli.model import Opened, open_model
from flowkit_models.cli.options import DrawOptions, Upscale
from flowkit_models.cli.paths import Naming, find_inputs
from flowkit_models.cli.provenance import foreign_warning, signed
from flowkit_models.images.formats import endings
from flowkit_models.images.photo_file import Header, stored
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.inference.latent_field import LatentField

Rows = Callable[[int, int], Tensor]
"""(top, bottom) to these rows (1, bottom - top, W) of an alpha channel at high resolution."""


def upscale_files(options: Upscale) -> int:
    """Runs `flowkit upscale`; returns the exit code."""
    inputs = find_inputs([*options.files, *options.input], options.output, endings())
    opened = open_model(options)
    scale = opened.model.scale
    suffix = f"_x{scale}" if options.suffix is None else options.suffix
    numbers = [""] if options.draws == 1 else [f"_{draw}" for draw in range(1, options.draws + 1)]
    naming = Naming(suffix, options.extension, tuple(f"{{stem}}{number}{{extension}}" for number in numbers))

    batch = Batch(options, inputs, naming)
    for job in batch:
        with job.reported():
            picture = job.read_picture(scale)
            warning = foreign_warning(opened, picture)
            if warning:
                job.warn(warning)
            header = job.fit(signed(picture.header, None))
            alpha = enlarged_alpha(picture.alpha, scale)
            for draw in range(options.draws):
                field = LatentField(options.seed, draw)
                progress = job.progress(draw, options.draws)
                array = upscaled(opened, options, picture.pixels, alpha, header, field, progress)
                job.write_picture(array, header, options.quality, draw)
    return batch.summary()


def upscaled(
    opened: Opened,
    options: DrawOptions,
    pixels: Tensor,
    alpha: Rows | None,
    header: Header,
    field: LatentField,
    progress: Callable[[int, int], None],
    size: tuple[int, int] | None = None,
) -> NDArray[Any]:
    """A picture at high resolution, as its file will hold it: the only thing of its size that is in memory.

    Args:
        opened: the model.
        options: temperature and side of the tiles.
        pixels: (3, h, w) in [0, 1].
        alpha: of the result, row by row; or None.
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
    temperature = opened.temperature if options.temperature is None else options.temperature
    height, width = size or (pixels.shape[1] * scale, pixels.shape[2] * scale)
    out = np.empty((height, width, header.channels), header.dtype)
    tiled = opened.tiled(pixels, options.tile)
    for top, strip in tiled.strips(pixels, field, temperature, bits=32, progress=progress):
        bottom = min(top + strip.shape[1], height)
        if not bool(strip.isfinite().all()):
            raise ValueError("what the model makes of it is not finite: lower --temperature or take another checkpoint")
        if top < bottom:
            rows = None if alpha is None else alpha(top, bottom)
            out[top:bottom] = stored(strip[:, : bottom - top, :width], rows, header)
    return out


def enlarged_alpha(alpha: Tensor | None, scale: int) -> Rows | None:
    """An alpha channel (1, h, w) at high resolution, bicubic, clamped; it is enlarged strip by strip."""
    if alpha is None:
        return None
    margin = 4  # more than the kernel's reach, so that the edges of a strip inside the picture don't count

    def rows(top: int, bottom: int) -> Tensor:
        first = max(0, top // scale - margin)
        last = min(alpha.shape[1], -(-bottom // scale) + margin)
        strip = bicubic_resize(alpha[:, first:last], scale)
        return strip[:, top - first * scale : bottom - first * scale].clamp(0, 1)

    return rows
