"""Bicubic resizing that equals MATLAB's `imresize`, which is how super-resolution data is made."""

import math
from fractions import Fraction
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Edges: TypeAlias = Literal["mirror", "clamp"]
Ties: TypeAlias = Literal["even", "up"]
Scale: TypeAlias = float | Fraction


def bicubic_resize(
    x: Tensor, scale: Scale | tuple[Scale, Scale], edges: Edges = "mirror", ties: Ties = "even"
) -> Tensor:
    """Resizes images with the cubic kernel a = -0.5, widened when shrinking so that nothing aliases.

    Pixel centres lie at half integers, weights sum to 1, and each side becomes `ceil(side * scale)`.

    Args:
        x: images (..., H, W). A floating-point image is neither rounded nor clipped, and the result is
            differentiable in it. A uint8 image is rounded and clipped after each of the two passes, rows
            first, as MATLAB does.
        scale: output size over input size. A float is taken as the nearest fraction with a denominator up
            to a million, so `1 / 3` means a third; a `Fraction` says it exactly. Or two, of height and width.
        edges: what lies outside the image: its mirror image, edge pixel repeated ("mirror", as in MATLAB),
            or copies of the edge pixel ("clamp").
        ties: where a uint8 image rounds halves: to the even neighbour, as the official code of HCFlow and
            SRFlow does, or up, as MATLAB does. At 1/4, a few values in ten thousand differ, by one. The
            LR files of Set5, Set14 and BSD100 are "clamp" and "up", bit for bit.

    Returns:
        The resized images, with the dtype and on the device of `x`.

    Raises:
        ValueError: for a shape, a dtype, a scale or a rule other than these.

    >>> bicubic_resize(torch.full((3, 10, 8), 7, dtype=torch.uint8), Fraction(1, 4)).shape
    torch.Size([3, 3, 2])
    """
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise ValueError(f"bicubic_resize takes non-empty images (..., H, W), got shape {tuple(x.shape)}")
    if not (x.is_floating_point() or x.dtype == torch.uint8):
        raise ValueError(f"bicubic_resize takes uint8 or floating-point images, got {x.dtype}: convert them")
    if edges not in ("mirror", "clamp") or ties not in ("even", "up"):
        raise ValueError(f'edges is "mirror" or "clamp" and ties "even" or "up", got {edges!r}, {ties!r}')
    ratios = [_exact(one) for one in (scale if isinstance(scale, tuple) else (scale, scale))]

    stored = x.dtype == torch.uint8
    # half precision would lose bits in the sum over the taps
    y = x.double() if stored else x.to(torch.promote_types(x.dtype, torch.float32))
    for dim, ratio in zip((-2, -1), ratios, strict=True):
        y = _resize_side(y, dim, ratio, edges)
        if stored:
            y = (y.round() if ties == "even" else (y + 0.5).floor()).clamp(0, 255)
    return y.to(x.dtype)


def bicubic_to(x: Tensor, size: tuple[int, int], edges: Edges = "mirror", ties: Ties = "even") -> Tensor:
    """Resizes images to a height and a width: `bicubic_resize` by their ratios to those of the images."""
    height, width = (Fraction(new, old) for new, old in zip(size, x.shape[-2:], strict=True))
    return bicubic_resize(x, (height, width), edges, ties)


def bicubic_rows(x: Tensor, size: tuple[int, int], top: int, bottom: int) -> Tensor:
    """Rows from `top` to `bottom` of `bicubic_to(x, size)`, for floating-point images: no others are made."""
    height, width = (Fraction(new, old) for new, old in zip(size, x.shape[-2:], strict=True))
    return _resize_side(_resize_side(x, -2, height, "mirror", slice(top, bottom)), -1, width, "mirror")


def _exact(scale: Scale) -> Fraction:
    ratio = Fraction(scale).limit_denominator(10**6) if 0 < scale < math.inf else Fraction(0)
    if ratio == 0:
        raise ValueError(f"scale must be positive, finite and not below 1e-6, got {scale}")
    return ratio


def _resize_side(x: Tensor, dim: int, scale: Fraction, edges: Edges, part: slice = slice(None)) -> Tensor:
    """Resizes one dimension (-2 or -1), or makes a part of it: a weighted sum over the taps, without a dense matrix."""
    index, weight = (torch.tensor(t[:, part], device=x.device) for t in _taps(x.shape[dim], scale, edges))
    weight = weight.to(x.dtype)
    if dim == -2:
        weight = weight[..., None]
    out = x.new_zeros(())
    for i, w in zip(index, weight, strict=True):
        out = out + w * x.index_select(dim, i)
    return out


@lru_cache(maxsize=256)
def _taps(size: int, scale: Fraction, edges: Edges) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Taps of each output pixel: index and weight of input pixels, both (taps, out)."""
    p, q = scale.numerator, scale.denominator
    m = max(p, q)
    centre = q * (2 * np.arange(-(-size * p // q), dtype=np.int64) + 1)
    # Input pixel j lies at (p (2 j + 1) - centre) / 2 m on the kernel's axis: integers keep this exact.
    # The kernel is zero from 2 on, which leaves the ceil(4 m / p) pixels that start here.
    first = (centre - 4 * m - p) // (2 * p) + 1
    index = first + np.arange(-(-4 * m // p), dtype=np.int64)[:, None]
    weight = _cubic((p * (2 * index + 1) - centre) / (2 * m))
    if edges == "mirror":
        index = index % (2 * size)
        index = np.minimum(index, 2 * size - 1 - index)
    else:
        index = index.clip(0, size - 1)
    return index, weight / weight.sum(axis=0)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
