"""Image metrics on the scale of 8-bit files: PSNR, SSIM, diversity, and consistency with the LR image.

Images are (B, C, H, W): uint8, used as it is, or floating point in [0, 1], taken times 255 and not rounded,
so that PSNR and SSIM are differentiable. Published numbers are those of files: call `to_uint8` first. A NaN or
an infinite value in an image is a `ValueError`, everywhere.
"""

from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from flowkit_models.images.convert import _levels, check_images, to_uint8
from flowkit_models.images.resize import bicubic_resize

Window = Literal["gaussian", "uniform"]


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


def ssim(a: Tensor, b: Tensor, crop: int = 0, window: Window = "gaussian") -> Tensor:
    """Structural similarity inside the image, mean over channels, in either of its two usual forms.

    Args:
        a: images (B, C, H, W), see the module.
        b: images of the same size.
        crop: pixels left out at every edge, before the window is laid over the image.
        window: "gaussian" is the original: 11×11, σ 1.5 (HCFlow, IRN, most tables). "uniform" is
            scikit-image's default: a mean over 7×7 pixels with sample covariances, 49/48 (SRFlow).

    Returns:
        (B,) float64, 1 where the images are equal.

    Raises:
        ValueError: if sizes differ, the window is another or does not fit into what the crop leaves.

    Source: Wang, Bovik, Sheikh & Simoncelli, Image quality assessment, 2004, with its C1 and C2.
    """
    a, b = _pair(a, b, crop)
    weight, unbias = _window(window, a)
    size = len(weight)
    if min(a.shape[2:]) < size:
        raise ValueError(f"SSIM needs {size} × {size} pixels, got {a.shape[2]} × {a.shape[3]} after cropping {crop}")

    moments = torch.stack((a, b, a * a, b * b, a * b))
    flat = moments.flatten(0, 2)[:, None]
    flat = F.conv2d(F.conv2d(flat, weight.view(1, 1, 1, size)), weight.view(1, 1, size, 1))
    mean_a, mean_b, aa, bb, ab = flat.view(*moments.shape[:3], *flat.shape[2:])
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    product, squares = mean_a * mean_b, mean_a.square() + mean_b.square()
    signal = (2 * product + c1) / (squares + c1)
    structure = (2 * unbias * (ab - product) + c2) / (unbias * (aa + bb - squares) + c2)
    similarity: Tensor = signal * structure
    return similarity.mean((1, 2, 3))


def _window(name: Window, like: Tensor) -> tuple[Tensor, float]:
    """One side of SSIM's window, summing to 1, and what makes its covariances unbiased."""
    if name == "gaussian":
        offset = torch.arange(-5, 6, dtype=like.dtype, device=like.device)
        return torch.softmax(-offset.square() / (2 * 1.5**2), 0), 1.0
    if name == "uniform":
        return torch.full((7,), 1 / 7, dtype=like.dtype, device=like.device), 49 / 48
    raise ValueError(f'SSIM\'s window is "gaussian" or "uniform", got {name!r}')


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
    check_images(sr)
    check_images(lr)
    scale = sr.shape[-1] // lr.shape[-1]
    if scale < 1 or sr.shape != (*lr.shape[:-2], scale * lr.shape[-2], scale * lr.shape[-1]):
        raise ValueError(f"SR {tuple(sr.shape)} is no whole multiple of LR {tuple(lr.shape)}: crop it")
    return psnr(bicubic_resize(to_uint8(sr), Fraction(1, scale)), to_uint8(lr))


def consistency_with_hr(sr: Tensor, hr: Tensor, scale: float) -> Tensor:
    """Consistency as HCFlow's test code has it: PSNR in dB between the shrunk `sr` and the shrunk ground truth.

    Both are shrunk by bicubic in floating point, neither rounded nor clipped, and nothing is cropped. No LR
    file takes part, so that its rounding does not count: numbers are higher than those of `consistency`.

    Args:
        sr: super-resolved images (B, C, H, W), uint8 or floating point, which is rounded to 8 bits.
        hr: the true images, of the same size.
        scale: how much they are shrunk.

    Returns:
        (B,) float64.

    Raises:
        ValueError: if sizes differ or the scale is below 1.
    """
    check_images(sr, hr)
    if scale < 1:
        raise ValueError(f"a scale is 1 or more, got {scale}")
    down = 1 / Fraction(scale).limit_denominator(10**6)
    a, b = (bicubic_resize(to_uint8(x).double() / 255, down) for x in (sr, hr))
    return psnr(a, b)


def lr_psnr(generated: Tensor, lr: Tensor) -> Tensor:
    """PSNR in dB between a generated LR image and the LR file, both of 8 bits, without a crop: (B,) float64."""
    return psnr(to_uint8(generated), to_uint8(lr))


def _pair(a: Tensor, b: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    """Grey levels of two batches of equal size, cropped."""
    check_images(a, b)
    height, width = a.shape[2:]
    if not 0 <= 2 * crop < min(height, width):
        raise ValueError(f"a crop of {crop} pixels leaves nothing of {height} × {width}")
    inside = (..., slice(crop, height - crop), slice(crop, width - crop))
    return _levels(a)[inside], _levels(b)[inside]
