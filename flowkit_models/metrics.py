"""Image metrics on the scale of 8-bit files: PSNR, SSIM, diversity, and consistency with the LR image.

Images are (B, C, H, W): uint8, used as it is, or floating point in [0, 1], taken times 255 and not rounded,
so that PSNR and SSIM are differentiable. Published numbers are those of files: call `to_uint8` first.
"""

from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

from flowkit_models.bicubic import bicubic_resize

WINDOW, SIGMA = 11, 1.5  # SSIM's Gaussian window


def to_uint8(x: Tensor) -> Tensor:
    """What a file would hold of an image in [0, 1]: clamped, times 255, rounded. uint8 stays as it is.

    >>> to_uint8(torch.tensor([-0.1, 0.5, 2.0]))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return x if x.dtype == torch.uint8 else (255 * x.clamp(0, 1)).round().to(torch.uint8)


def luma(x: Tensor) -> Tensor:
    """The Y channel of RGB images (B, 3, H, W), as (B, 1, H, W) float64 in [16/255, 235/255], unrounded.

    ITU-R BT.601: Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 with R, G, B and Y in 0…255. It is
    returned divided by 255, so `psnr(luma(a), luma(b))` is the PSNR-Y of the literature.

    >>> luma(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).item() * 255
    235.0...
    """
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"luma takes RGB images (B, 3, H, W), got {tuple(x.shape)}")
    weight = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=x.device)
    y = 16 + torch.einsum("bchw,c->bhw", _levels(x), weight) / 255
    return y[:, None] / 255


def psnr(a: Tensor, b: Tensor, crop: int = 0) -> Tensor:
    """Peak signal-to-noise ratio in dB over all channels jointly, without `crop` pixels on each side.

    Args:
        a: images (B, C, H, W), see the module.
        b: images of the same size.
        crop: pixels left out at every edge; super-resolution tables leave out `scale`.

    Returns:
        (B,) float64; infinite where the images are equal.

    Raises:
        ValueError: if sizes differ or nothing is left after the crop.
    """
    a, b = _pair(a, b, crop)
    return 10 * torch.log10(255**2 / (a - b).square().mean((1, 2, 3)))


def ssim(a: Tensor, b: Tensor, crop: int = 0) -> Tensor:
    """Structural similarity: 11×11 Gaussian window of σ 1.5, inside the image only, mean over channels.

    Args:
        a: images (B, C, H, W), see the module.
        b: images of the same size.
        crop: pixels left out at every edge, before the window is laid over the image.

    Returns:
        (B,) float64, 1 where the images are equal.

    Raises:
        ValueError: if sizes differ or the window does not fit into what the crop leaves.

    Source: Wang, Bovik, Sheikh & Simoncelli, Image quality assessment, 2004, with its C1 and C2.
    """
    a, b = _pair(a, b, crop)
    if min(a.shape[2:]) < WINDOW:
        raise ValueError(
            f"SSIM needs {WINDOW} × {WINDOW} pixels, got {a.shape[2]} × {a.shape[3]} after cropping {crop}"
        )
    offset = torch.arange(WINDOW, dtype=a.dtype, device=a.device) - WINDOW // 2
    gauss = torch.softmax(-offset.square() / (2 * SIGMA**2), 0).view(1, 1, 1, WINDOW)

    moments = torch.stack((a, b, a * a, b * b, a * b))
    flat = moments.flatten(0, 2)[:, None]
    flat = F.conv2d(F.conv2d(flat, gauss), gauss.mT)
    mean_a, mean_b, aa, bb, ab = flat.view(*moments.shape[:3], *flat.shape[2:])
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    product, squares = mean_a * mean_b, mean_a.square() + mean_b.square()
    signal = (2 * product + c1) / (squares + c1)
    structure = (2 * (ab - product) + c2) / (aa + bb - squares + c2)
    similarity: Tensor = signal * structure
    return similarity.mean((1, 2, 3))


def diversity(samples: Tensor) -> Tensor:
    """How much samples (n, B, C, H, W) in [0, 1] differ: unbiased std over n, times 255, mean over pixels.

    Returns:
        (B,) float64, in grey levels. A ValueError says so if n < 2.
    """
    if samples.ndim != 5 or len(samples) < 2:
        raise ValueError(f"diversity takes samples (n >= 2, B, C, H, W), got {tuple(samples.shape)}")
    return _levels(samples).std(0).mean((1, 2, 3))


def consistency(sr: Tensor, lr: Tensor) -> Tensor:
    """LR-PSNR in dB: the 8-bit `sr`, shrunk by bicubic to 8 bits, against the file `lr`, without a crop.

    Args:
        sr: super-resolved images (B, C, s·H, s·W), uint8 or floating point, which is rounded to 8 bits.
        lr: the images (B, C, H, W) that they were made from.

    Returns:
        (B,) float64. This is the measure of the papers; HCFlow's code compares with the shrunk ground truth.

    Raises:
        ValueError: if `sr` is not `lr` times one whole number on both sides.
    """
    scale = sr.shape[-1] // lr.shape[-1]
    if scale < 1 or sr.shape != (*lr.shape[:-2], scale * lr.shape[-2], scale * lr.shape[-1]):
        raise ValueError(f"SR {tuple(sr.shape)} is no whole multiple of LR {tuple(lr.shape)}: crop it")
    return psnr(bicubic_resize(to_uint8(sr), Fraction(1, scale)), to_uint8(lr))


def _levels(x: Tensor) -> Tensor:
    """Grey levels 0…255 as float64."""
    if x.dtype == torch.uint8:
        return x.double()
    if x.is_floating_point():
        return 255 * x.double()
    raise ValueError(f"images are uint8 or floating point in [0, 1], got {x.dtype}")


def _pair(a: Tensor, b: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    """Grey levels of two batches of equal size, cropped."""
    if a.ndim != 4 or a.shape != b.shape:
        raise ValueError(f"images (B, C, H, W) of one size wanted, got {tuple(a.shape)}, {tuple(b.shape)}")
    height, width = a.shape[2:]
    if not 0 <= 2 * crop < min(height, width):
        raise ValueError(f"a crop of {crop} pixels leaves nothing of {height} × {width}")
    inside = (..., slice(crop, height - crop), slice(crop, width - crop))
    return _levels(a)[inside], _levels(b)[inside]
