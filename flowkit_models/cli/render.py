"""Pictures through a model into what their files hold."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowkit_models.cli.model import Opened
from flowkit_models.images.photo_file import Header, stored
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.inference.latent_field import LatentField
from flowkit_models.inference.tiling import OVERLAP, Tiled
from flowkit_models.models.base import ImageFlow

Part = Callable[[int, int], None]
"""Is told how many parts of the work are done, of how many."""

Rows = Callable[[int, int], Tensor]
"""(top, bottom) to these rows (1, bottom - top, W) of an alpha channel at high resolution."""


def upscaled(
    opened: Opened,
    pixels: Tensor,
    alpha: Rows | None,
    header: Header,
    temperature: float,
    field: LatentField,
    tile: int | None,
    part: Part,
    size: tuple[int, int] | None = None,
) -> NDArray[Any]:
    """A picture at high resolution, as its file will hold it: the only thing of its size that is in memory.

    Args:
        opened: the model.
        pixels: (3, h, w) in [0, 1].
        alpha: of the result, row by row; or None.
        header: of the result, fitted to its format.
        temperature: of the latents.
        field: the latents.
        tile: side of the tiles in LR pixels; 0: none; None: as large as suits.
        part: is told how many tiles are done, of how many.
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
    strips = _tiled(opened.model, pixels, tile).strips(pixels, field, temperature, bits=32, progress=part)
    for top, strip in strips:
        bottom = min(top + strip.shape[1], height)
        if not bool(strip.isfinite().all()):
            raise ValueError("what the model makes of it is not finite: lower --temperature or take another checkpoint")
        if top < bottom:
            rows = None if alpha is None else alpha(top, bottom)
            out[top:bottom] = stored(strip[:, : bottom - top, :width], rows, header)
    return out


def enlarged(alpha: Tensor | None, scale: int) -> Rows | None:
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


def downscaled(
    opened: Opened, pixels: Tensor, alpha: Tensor | None, tile: int | None, part: Part | None = None
) -> tuple[Tensor, Tensor | None]:
    """A picture at low resolution: (3, ⌈H/scale⌉, ⌈W/scale⌉), rounded to 8 bits, and alpha, bicubic.

    Raises:
        ValueError: if the model makes no LR images.
        MemoryError: if not even small tiles fit.
    """
    lr = _tiled(opened.model, pixels, tile).downscale(pixels, part) / 255
    return lr, reduced(alpha, opened.model.scale)


def reduced(alpha: Tensor | None, scale: int) -> Tensor | None:
    """An alpha channel (1, H, W) at low resolution, bicubic, clamped."""
    return None if alpha is None else bicubic_resize(alpha, Fraction(1, scale)).clamp(0, 1)


def require_lr(model: ImageFlow) -> None:
    """Raises ValueError, the library's own, for a model that makes no LR image."""
    if not model.makes_lr:
        model.downscale(torch.zeros(1, 3, model.flow.stride, model.flow.stride))


def _tiled(model: ImageFlow, pixels: Tensor, tile: int | None) -> Tiled:
    if tile == 0:
        tile = max(2 * OVERLAP + 1, *pixels.shape[1:])
    return Tiled(model, tile, OVERLAP if tile is None else min(OVERLAP, tile // 4))
