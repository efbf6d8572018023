"""Images as tensors: 8 bits to floats and back, luma, and checks of shape and range."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_uint8(x: Tensor, truncate: bool = False) -> Tensor:
    """8-bit levels of an image in [0, 1]: clamped, times 255, rounded. uint8 stays as it is.

    Args:
        x: an image of any shape.
        truncate: cut the fraction off instead of rounding, as SRFlow's test script does.

    Raises:
        ValueError: for integers other than uint8, or a NaN.

    >>> to_uint8(torch.tensor([-0.1, 0.5, 2.0]))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    if x.dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        raise ValueError(f"images are uint8 or floating point in [0, 1], got {x.dtype}")
    if _looks(x) and bool(x.isnan().any()):
        raise ValueError(f"an image {tuple(x.shape)} holds NaN, which no file can")
    levels = 255 * x.clamp(0, 1)
    return (levels if truncate else levels.round()).to(torch.uint8)


def luma(x: Tensor, integer: bool = False) -> Tensor:
    """The Y channel of RGB images (B, 3, H, W), as (B, 1, H, W).

    ITU-R BT.601: Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 with R, G, B and Y in 0…255, so
    `psnr(luma(a), luma(b))` is a PSNR-Y of the literature, of which there are two. They differ by
    0.01 dB and 0.001 in SSIM for bicubic on Set5.

    Args:
        x: images, see the module.
        integer: round Y, as MATLAB's rgb2ycbcr does to uint8 images and as its tables have it.

    Returns:
        float64 in [16/255, 235/255] and unrounded, as the official code of HCFlow and IRN has it; or uint8
        in 16…235 if `integer`.

    >>> luma(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).item() * 255
    235.0...
    >>> luma(torch.full((1, 3, 1, 1), 0.5), integer=True).item()
    126
    """
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"luma takes RGB images (B, 3, H, W), got {tuple(x.shape)}")
    _check_values(x)
    weight = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=x.device)
    y = 16 + torch.einsum("bchw,c->bhw", _levels(x), weight)[:, None] / 255
    # an image outside [0, 1] has a Y outside 0…255
    return (y + 0.5).floor().clamp(0, 255).to(torch.uint8) if integer else y / 255


def check_images(*images: Tensor, channels: int | None = None) -> None:
    """Raises a ValueError, of one line, unless these are images of one size, see the module."""
    shapes = ", ".join(str(tuple(x.shape)) for x in images)
    wanted = "(B, C, H, W)" if channels is None else f"(B, {channels}, H, W)"
    if any(x.ndim != 4 or x.shape[1] != (channels or x.shape[1]) or 0 in x.shape for x in images):
        raise ValueError(f"images {wanted} wanted, got {shapes}")
    if any(x.shape != images[0].shape for x in images):
        raise ValueError(f"images {wanted} of one size wanted, got {shapes}")
    for x in images:
        _check_values(x)


def _looks(x: Tensor) -> bool:
    """False where the values of a tensor can't be looked at: on meta, and while torch compiles."""
    return not (x.is_meta or torch.compiler.is_compiling())


def _check_values(x: Tensor) -> None:
    if not (x.dtype == torch.uint8 or x.is_floating_point()):
        raise ValueError(f"images are uint8 or floating point in [0, 1], got {x.dtype}")
    if x.is_floating_point() and _looks(x) and not bool(x.isfinite().all()):
        raise ValueError(f"an image {tuple(x.shape)} holds NaN or infinite values")


def _levels(x: Tensor) -> Tensor:
    """Grey levels 0…255 as float64."""
    return x.double() if x.dtype == torch.uint8 else 255 * x.double()


def to_float(x: Tensor) -> Tensor:
    """A uint8 image as float32 in [0, 1].

    >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """
    if x.dtype != torch.uint8:
        raise ValueError(f"to_float takes uint8 images, got {x.dtype}")
    return x.float() / 255


def ycc_to_rgb(ycc: NDArray[Any]) -> NDArray[np.uint8]:
    """RGB of luma and chroma as JPEG and TIFF store them (H, W, 3), uint8: ITU-R BT.601, full range."""
    y, cb, cr = (ycc[..., channel].astype(np.float32) for channel in range(3))
    cb, cr = cb - 128, cr - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    return rgb.round().clip(0, 255).astype(np.uint8)
