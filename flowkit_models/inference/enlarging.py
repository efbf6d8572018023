"""Photographs at high resolution: what the network sees of one, and its result as a file will hold it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowkit_models.images.photo_file import Header, Picture, stored
from flowkit_models.images.resize import bicubic_rows
from flowkit_models.images.transparency import bleed, transparent
from flowkit_models.inference.latent_field import Field
from flowkit_models.inference.tiling import OVERLAP, Tiled
from flowkit_models.models.base import ImageFlow

ROWS = 256
"""Rows of a result that are made what the file holds at a time: a strip of tiles has a thousand and more."""

Rows = Callable[[int, int], Tensor]
"""(top, bottom) to these rows (4, bottom - top, W) at high resolution: alpha, and colours for where that is 0."""


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
    model: ImageFlow,
    pixels: Tensor,
    tile: int | None,
    temperature: float | None,
    under: Rows | None,
    header: Header,
    field: Field | None,
    progress: Callable[[int, int], None],
    size: tuple[int, int] | None = None,
) -> NDArray[Any]:
    """A picture at high resolution, as its file will hold it: the only thing of its size that is in memory.

    Args:
        model: on its device, in eval mode.
        pixels: (3, h, w) in [0, 1].
        tile: side of the tiles; see `in_tiles`.
        temperature: τ; None for the model's learned prior.
        under: alpha of the result and colours for where it is 0, row by row; or None.
        header: of the result, fitted to its format.
        field: the latents; None for the model's learned prior.
        progress: is called with (tiles done, tiles in all).
        size: rows and columns of the result, for a model of any scale; for others those to keep, from the top left, by
            default all.

    Returns:
        (height, width, header.channels), uint8 or uint16.

    Raises:
        ValueError: if what the model makes is not finite.
        MemoryError: if not even small tiles fit.
    """
    scale = model.scale
    height, width = size or (pixels.shape[1] * scale, pixels.shape[2] * scale)
    out = np.empty((height, width, header.channels), header.dtype)
    tiled = in_tiles(model, pixels, tile)
    target = (height, width) if model.any_scale else None
    for start, strip in tiled.strips(pixels, field, temperature, bits=32, progress=progress, size=target):
        if not bool(strip.isfinite().all()):
            raise ValueError("what the model makes of it is not finite: lower --temperature or take another checkpoint")
        for top in range(start, min(start + strip.shape[1], height), ROWS):
            bottom = min(top + ROWS, start + strip.shape[1], height)
            colours, alpha = strip[:, top - start : bottom - start, :width], None
            if under is not None:
                rows = under(top, bottom)
                alpha = rows[:1]
                colours = torch.where(transparent(alpha, 2**header.bits - 1), rows[1:], colours)
            out[top:bottom] = stored(colours, alpha, header)
    return out


def enlarged_rows(channels: Tensor, size: tuple[int, int]) -> Rows:
    """Channels (C, h, w) at high resolution, bicubic, clamped; they are enlarged strip by strip."""
    return lambda top, bottom: bicubic_rows(channels, size, top, bottom).clamp(0, 1)


def in_tiles(model: ImageFlow, pixels: Tensor, tile: int | None) -> Tiled:
    """A model in tiles that suit a picture.

    Args:
        model: on its device.
        pixels: of the picture, (3, h, w).
        tile: side of the tiles in LR pixels; 0: the whole picture; None: as large as suits.
    """
    if tile == 0:
        tile = max(2 * OVERLAP + 1, *pixels.shape[1:])
    return Tiled(model, tile, OVERLAP if tile is None else min(OVERLAP, tile // 4))
