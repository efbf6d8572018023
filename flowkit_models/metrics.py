"""Image metrics on the scale of 8-bit files: PSNR, SSIM, diversity, and consistency with the LR image.

Images are (B, C, H, W): uint8, used as it is, or floating point in [0, 1], taken times 255 and not rounded,
so that PSNR and SSIM are differentiable. Published numbers are those of files: call `to_uint8` first. A NaN or
an infinite value in an image is a `ValueError`, everywhere.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from flowkit_models.bicubic import bicubic_resize

Window = Literal["gaussian", "uniform"]


def to_uint8(x: Tensor, truncate: bool = False) -> Tensor:
    """What a file would hold of an image in [0, 1]: clamped, times 255, rounded. uint8 stays as it is.

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


def diversity(samples: Tensor) -> Tensor:
    """How much samples (n, B, C, H, W) in [0, 1] differ: unbiased std over n, times 255, mean over pixels.

    Returns:
        (B,) float64, in grey levels. A ValueError says so if n < 2.
    """
    _check_samples(samples)
    _check_values(samples)
    return _levels(samples).std(0).mean((1, 2, 3))


def squared_error_map(a: Tensor, b: Tensor) -> Tensor:
    """Squared error at each pixel of images in [0, 1], mean over channels: (B, H, W) float64."""
    a, b = _pair(a, b, 0)
    return ((a - b) / 255).square().mean(1)


def diversity_score(
    samples: Tensor, hr: Tensor, error_map: Callable[[Tensor, Tensor], Tensor] = squared_error_map
) -> Tensor:
    """How much closer the best sample at each pixel comes to the truth than the best whole sample, in percent.

    With d_i(k) the error of sample i at pixel k, the global best is min_i mean_k d_i(k), the local best
    mean_k min_i d_i(k), and the score (global best − local best) / global best · 100: 0 for equal samples,
    100 if every pixel is right in one of them. It grows with n; the challenge took 10.

    Args:
        samples: (n, B, C, H, W), see the module.
        hr: the true images (B, C, H, W).
        error_map: makes an error at each pixel, (B, H, W), of two batches: `squared_error_map`, or
            `flowkit_models.perceptual.LPIPS().maps`.

    Returns:
        (B,) float64; 0 where a sample is the truth itself.

    Raises:
        ValueError: if n < 2, or a sample is not of the size of `hr`.

    Source: Lugmayr, Danelljan, Timofte et al., NTIRE 2021 Learning the Super-Resolution Space challenge.
    """
    _check_samples(samples)
    errors = (error_map(sample, hr).double() for sample in samples)  # not all at once
    local = next(errors)
    best = local.mean((1, 2))
    for error in errors:
        local, best = torch.minimum(local, error), torch.minimum(best, error.mean((1, 2)))
    return 100 * torch.where(best > 0, 1 - local.mean((1, 2)) / best.where(best > 0, 1.0), 0.0)


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


def consistency_with_hr(sr: Tensor, hr: Tensor, scale: int) -> Tensor:
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
    a, b = (bicubic_resize(to_uint8(x).double() / 255, Fraction(1, scale)) for x in (sr, hr))
    return psnr(a, b)


def lr_psnr(generated: Tensor, lr: Tensor) -> Tensor:
    """PSNR in dB between a generated LR image and the LR file, both of 8 bits, without a crop: (B,) float64."""
    return psnr(to_uint8(generated), to_uint8(lr))


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
    """Whether the values of a tensor may be looked at."""
    return not (x.is_meta or torch.compiler.is_compiling())


def _check_values(x: Tensor) -> None:
    if not (x.dtype == torch.uint8 or x.is_floating_point()):
        raise ValueError(f"images are uint8 or floating point in [0, 1], got {x.dtype}")
    if x.is_floating_point() and _looks(x) and not bool(x.isfinite().all()):
        raise ValueError(f"an image {tuple(x.shape)} holds NaN or infinite values")


def _check_samples(samples: Tensor) -> None:
    if samples.ndim != 5 or len(samples) < 2:
        raise ValueError(f"diversity takes samples (n >= 2, B, C, H, W), got {tuple(samples.shape)}")


def _levels(x: Tensor) -> Tensor:
    """Grey levels 0…255 as float64."""
    return x.double() if x.dtype == torch.uint8 else 255 * x.double()


def _pair(a: Tensor, b: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    """Grey levels of two batches of equal size, cropped."""
    check_images(a, b)
    height, width = a.shape[2:]
    if not 0 <= 2 * crop < min(height, width):
        raise ValueError(f"a crop of {crop} pixels leaves nothing of {height} × {width}")
    inside = (..., slice(crop, height - crop), slice(crop, width - crop))
    return _levels(a)[inside], _levels(b)[inside]
