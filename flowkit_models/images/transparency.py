"""Colours under transparency: what nobody sees must not show at the edges of what is enlarged."""

import torch
import torch.nn.functional as F
from torch import Tensor


def over_white(pixels: Tensor, alpha: Tensor) -> Tensor:
    """Colours (3, H, W) laid over white, by an alpha channel (1, H, W); both in [0, 1]."""
    alpha = alpha.to(pixels).clamp(0, 1)
    return pixels.clamp(0, 1) * alpha + (1 - alpha)


def transparent(alpha: Tensor, levels: int = 255) -> Tensor:
    """True where an alpha channel in [0, 1] rounds to 0 of `levels`."""
    return alpha * levels < 0.5


def bleed(pixels: Tensor, alpha: Tensor) -> Tensor:
    """Colours in which the visible ones go on under the transparent pixels, the near ones first.

    A network sees more than one pixel: of a white disc on transparent black it would make a dark rim. Visible colours
    stay as they are. The others become means of visible colours, weighted by alpha, in growing neighbourhoods.

    Args:
        pixels: (3, H, W) in [0, 1].
        alpha: (1, H, W) in [0, 1].

    Returns:
        (3, H, W); the pixels themselves if all are visible, or none.
    """
    hidden = transparent(alpha)
    if not bool(hidden.any()) or bool(hidden.all()):
        return pixels
    weight = torch.where(hidden, alpha.new_zeros(()), alpha)
    sums = torch.cat((pixels * weight, weight))[None]  # multiplied by alpha, and alpha
    return torch.where(hidden, _filled(sums)[0], pixels)


def _filled(sums: Tensor) -> Tensor:
    """Colours (1, 3, H, W) of premultiplied ones and their weight (1, 4, H, W): coarser ones where that is 0."""
    height, width = sums.shape[2:]
    colours, weight = sums[:, :3], sums[:, 3:]
    known = colours / weight.clamp(min=torch.finfo(sums.dtype).tiny)
    if height == width == 1 or bool((weight > 0).all()):
        return known
    smaller = F.avg_pool2d(F.pad(sums, (0, width % 2, 0, height % 2)), 2)
    around = F.interpolate(_filled(smaller), scale_factor=2.0, mode="bilinear", align_corners=False)
    return torch.where(weight > 0, known, around[..., :height, :width])
