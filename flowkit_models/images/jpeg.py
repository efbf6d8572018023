"""JPEG of images in memory: a file's round trip, and a differentiable one that does what libjpeg does."""

import io
import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from flowkit.bijector import full_precision

Subsampling: TypeAlias = Literal["4:4:4", "4:2:0"]
Settle = Callable[..., Tensor]

# ITU-T T.81, Annex K, row by row: what quality 50 divides the coefficients by
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# full-range BT.601, as in JFIF
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
_OF_CHROMA = ((0.0, 1.402), (-0.344136286, -0.714136286), (1.772, 0.0))
_TIE = 0.5 - 2.0**-16  # where libjpeg rounds halves of chroma down


def jpeg_file(x: Tensor, quality: int, subsampling: Subsampling = "4:2:0") -> Tensor:
    """Images as a JPEG file gives them back: written and read by Pillow, which is libjpeg.

    Args:
        x: uint8 images ([B,] 3, H, W).
        quality: 1 to 100.
        subsampling: of chroma; "4:2:0" is the default of most programs.

    Returns:
        uint8 images of the same shape, on the device of x.

    Raises:
        ValueError: for another shape, dtype, quality or subsampling.

    Example:
        >>> jpeg_file(torch.full((3, 8, 8), 128, dtype=torch.uint8), 50).unique()
        tensor([128], dtype=torch.uint8)
    """
    _check(x, quality, subsampling, batched=False)
    if x.dtype != torch.uint8:
        raise ValueError(f"jpeg_file takes uint8 images, got {x.dtype}: to_uint8 rounds")
    if x.ndim == 4:
        return torch.stack([jpeg_file(image, quality, subsampling) for image in x])
    file = io.BytesIO()
    pixels = x.permute(1, 2, 0).contiguous().cpu().numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(quality), subsampling=subsampling)
    read = torch.from_numpy(np.array(Image.open(file, formats=["JPEG"])))
    return read.permute(2, 0, 1).contiguous().to(x.device)


def simulate_jpeg(
    x: Tensor,
    quality: int | Tensor,
    subsampling: Subsampling = "4:2:0",
    rounding: Literal["real", "smooth"] = "real",
) -> Tensor:
    """JPEG as libjpeg computes it, on any device, for a batch at once, and differentiable where it is asked for.

    Colour, subsampling, 8×8 DCT, quantisation tables of the quality, and the way back with libjpeg's smooth
    ("fancy") upsampling of chroma. Images of any size are filled up to whole blocks as libjpeg does it.

    Args:
        x: floating-point images (B, 3, H, W), RGB in [0, 1].
        quality: 1 to 100, one for all images or integers (B,).
        subsampling: of chroma.
        rounding: "real" rounds all that libjpeg rounds, the image to 8 bits first; it has no gradient. "smooth" leaves
            all else unrounded, and takes r + (c − r)³ of a coefficient c with nearest integer r: near to a file's in
            value, with a gradient.

    Returns:
        (B, 3, H, W) in [0, 1], in the dtype of x.

    Raises:
        ValueError: for another shape, dtype, quality, subsampling or rounding.

    Source:
        ITU-T T.81 and JFIF; the smooth rounding is Shin and Song's, "JPEG-resistant Adversarial Images" (2017).

    Example:
        >>> x = torch.full((2, 3, 10, 7), 0.25, requires_grad=True)
        >>> y = simulate_jpeg(x, torch.tensor([30, 90]), rounding="smooth")
        >>> y.shape, bool(y.sum().requires_grad)
        (torch.Size([2, 3, 10, 7]), True)
    """
    _check(x, quality, subsampling, batched=True)
    if not x.is_floating_point():
        raise ValueError(f"simulate_jpeg takes floating-point images in [0, 1], got {x.dtype}: to_float makes them")
    if rounding not in ("real", "smooth"):
        raise ValueError(f'rounding is "real" or "smooth", got {rounding!r}')
    real = rounding == "real"
    with full_precision(x):
        return _simulated(x, torch.as_tensor(quality, device=x.device).long().expand(len(x)), subsampling, real)


def _simulated(x: Tensor, quality: Tensor, subsampling: Subsampling, real: bool) -> Tensor:
    settle = _floor if real else _leave
    levels = 255 * x.to(torch.promote_types(x.dtype, torch.float32))
    luma, chroma = _tables(quality, levels.dtype)
    if real:
        levels = levels.clamp(0, 255).round()
    matrix = levels.new_tensor(_TO_YCC)
    ycc = torch.einsum("ij,bjhw->bihw", matrix, levels)
    y, c = settle(ycc[:, :1]), settle(ycc[:, 1:] + 128, _TIE)
    height, width = x.shape[2:]
    if subsampling == "4:2:0":
        small = _halved(c, settle)
        small = _coded(small, chroma, real, settle)[..., : -(-height // 2), : -(-width // 2)]
        c = _doubled(small, settle)[..., :height, :width]
    else:
        c = _coded(c, chroma, real, settle)
    y = _coded(y, luma, real, settle)
    rgb = y + settle(torch.einsum("ij,bjhw->bihw", levels.new_tensor(_OF_CHROMA), c - 128))
    return (rgb.clamp(0, 255) / 255).to(x.dtype)


def _check(x: Tensor, quality: int | Tensor, subsampling: str, batched: bool) -> None:
    if not isinstance(x, Tensor) or x.ndim not in ((4,) if batched else (3, 4)) or x.shape[-3] != 3 or 0 in x.shape:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"JPEG: expected images ({'B,' if batched else '[B,]'} 3, H, W), got {got}")
    if subsampling not in ("4:4:4", "4:2:0"):
        raise ValueError(f'JPEG: subsampling is "4:4:4" or "4:2:0", got {subsampling!r}')
    try:
        given = torch.as_tensor(quality)
    except (TypeError, ValueError, RuntimeError):  # no number
        given = torch.tensor(math.nan)
    whole = not given.is_floating_point() and given.dtype != torch.bool
    if not whole or given.shape not in ((), x.shape[:1] if batched else ()):
        raise ValueError(f"JPEG: quality is a whole number, or one for each image, got {quality}")
    if not bool(((given >= 1) & (given <= 100)).all()):
        raise ValueError(f"JPEG: quality is 1 to 100, got {quality}")


def _floor(x: Tensor, bias: float | Tensor = 0.5) -> Tensor:
    return (x + bias).floor()


def _leave(x: Tensor, bias: float | Tensor = 0.5) -> Tensor:
    return x


def _tables(quality: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Divisors of luma and chroma, each (B, 1, 1, 8, 1, 8): libjpeg's scaling of the standard's tables."""
    percent = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality).view(-1, 1, 1)
    tables = (torch.tensor(base, device=quality.device) for base in (_LUMA, _CHROMA))
    scaled = [((table * percent + 50) // 100).clamp(1, 255).to(dtype) for table in tables]
    return scaled[0][:, None, None, :, None], scaled[1][:, None, None, :, None]


def _coded(x: Tensor, table: Tensor, real: bool, settle: Settle) -> Tensor:
    """Channels (B, C, H, W) in 0…255 through DCT, quantisation and back.

    Between its passes libjpeg keeps two bits after the point: 4·√8 times the coefficients of rows, 4 times a column's.
    """
    height, width = x.shape[2:]
    x = _filled(x, -height % 8, -width % 8) - 128
    blocks = x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8))
    dct, root = _dct(x), math.sqrt(8)
    c = settle(torch.einsum("bchiwl,jl->bchiwj", blocks, dct) * (4 * root))
    c = settle(torch.einsum("ik,bchkwj->bchiwj", dct, c) * (root / 4)) / (8 * table)
    r = (c.detach().abs() + 0.5).floor() * c.detach().sign()
    c = (r if real else r + (c - r) ** 3) * table
    x = settle(torch.einsum("ki,bchkwj->bchiwj", dct, c) * (4 * root)) / (4 * root)
    x = torch.einsum("bchiwl,lj->bchiwj", x, dct).flatten(4, 5).flatten(2, 3)
    return settle(x[..., :height, :width] + 128).clamp(0, 255)


def _dct(like: Tensor) -> Tensor:
    """The orthonormal DCT of 8 numbers, as a matrix."""
    n = torch.arange(8, dtype=torch.float64)
    matrix = torch.cos(math.pi / 16 * n[:, None] * (2 * n + 1)) / 2
    matrix[0] *= math.sqrt(0.5)
    return matrix.to(like)


def _filled(x: Tensor, bottom: int, right: int) -> Tensor:
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def _halved(x: Tensor, settle: Settle) -> Tensor:
    """Means of 2×2 pixels. libjpeg rounds them down and up in turn, and repeats the right edge before, not after."""
    x = _filled(x, x.shape[2] % 2, -x.shape[3] % 16)
    mean = F.avg_pool2d(x, 2)
    return settle(mean, x.new_tensor([0.25, 0.5]).repeat(mean.shape[3] // 2))


def _doubled(x: Tensor, settle: Settle) -> Tensor:
    """Twice the size, weights ¾ and ¼ in each direction; pixels repeated where libjpeg finds the image too narrow."""
    if x.shape[3] <= 2:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    rows = torch.stack((3 * x + padded[..., :-2, 1:-1], 3 * x + padded[..., 2:, 1:-1]), 3).flatten(2, 3)
    padded = F.pad(rows, (1, 1, 0, 0), mode="replicate")
    pair = torch.stack((3 * rows + padded[..., :-2], 3 * rows + padded[..., 2:]), 4)
    return settle(pair / 16, x.new_tensor([8 / 16, 7 / 16])).flatten(3, 4)
