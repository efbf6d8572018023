"""No-reference image quality: NIQE and BRISQUE, from the statistics of natural scenes.

Images are RGB (B, 3, H, W), uint8 or floating point in [0, 1], which is rounded to 8 bits; smaller is more
natural. Both follow the MATLAB releases of the Laboratory for Image and Video Engineering, The University of
Texas at Austin, and take their tables from there (`data_files/NOTICE.txt`): NIQE's mean and covariance of 36
features of pristine images, and BRISQUE's support-vector regression on the LIVE database. Ports of BRISQUE to
C++ and Python carry another regression, for other features; their numbers are other numbers.

In flat areas, as of synthetic or heavily compressed images, local contrast is rounding noise, and the fits
count its signs. That is so in the releases, too, so that they are not equalled to the last bit: on five images
with known values, the difference is at most 1 %. The sums here are spelled out tap by tap, which rounds alike
wherever double precision follows IEEE 754 (seen on CPUs; not tried on a GPU).
"""

from functools import cache
from importlib.resources import files
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flowkit_models.images.convert import check_images, to_uint8
from flowkit_models.images.resize import bicubic_resize

BLOCK = 96  # side of NIQE's blocks, in pixels

# Gaussian of σ 7/6 over 7 pixels: the row sums of the releases' window, which add up to 1 exactly
_SIDE = (0.012560200468474616, 0.07882796468173001, 0.2372960771171706)
_WINDOW = (*_SIDE, 0.3426315154652495, *reversed(_SIDE))
_GREY = (0.298936021293775, 0.587043074451121, 0.114020904255103)  # of MATLAB's rgb2gray


def niqe(x: Tensor) -> Tensor:
    """Natural image quality evaluator: how far the statistics of 96×96 blocks are from those of pristine images.

    Args:
        x: images, see the module. What is left over at the bottom and right after the last block is not looked at.

    Returns:
        (B,) float64; 3 to 4 for a good photograph.

    Raises:
        ValueError: for images other than these or with fewer than two blocks, or where fewer than two blocks
            have any texture.

    Source: Mittal, Soundararajan & Bovik, Making a completely blind image quality analyzer, 2013.
    """
    check_images(x, channels=3)
    rows, columns = x.shape[2] // BLOCK, x.shape[3] // BLOCK
    if rows * columns < 2:
        raise ValueError(f"NIQE needs two blocks of {BLOCK} × {BLOCK} pixels, got images {tuple(x.shape)}")
    grey = _grey(x)[..., : rows * BLOCK, : columns * BLOCK]
    features = []
    for size in (BLOCK, BLOCK // 2):
        blocks = _contrast_normalized(grey, "replicate").unfold(2, size, size).unfold(3, size, size)
        alpha, left, right, mean = _fit_asymmetric(blocks.flatten(1, 3))
        left, right = (deviation * _scale_of(alpha) for deviation in (left, right))
        features += [torch.stack((alpha, (left + right) / 2), -1)[..., 0, :]]
        features += [torch.stack((alpha, mean, left, right), -1)[..., 1:, :].flatten(-2)]
        grey = bicubic_resize(grey, 0.5)
    return torch.stack([_distance_to_pristine(blocks) for blocks in torch.cat(features, -1)])


def _distance_to_pristine(features: Tensor) -> Tensor:
    """Mahalanobis distance of one image's features (blocks, 36); flat blocks have none and do not count."""
    features = features[features.isfinite().all(1)]
    if len(features) < 2:
        raise ValueError("NIQE needs two blocks with texture, and this image is flat")
    table = _table("niqe_pristine", features.device)
    difference = table["mean"] - features.mean(0)
    inverse = torch.linalg.pinv((table["covariance"] + torch.cov(features.T)) / 2, hermitian=True)
    return (difference @ inverse @ difference).sqrt()


def brisque(x: Tensor) -> Tensor:
    """Blind/referenceless image spatial quality evaluator: what viewers of the LIVE database would say.

    Args:
        x: images, see the module.

    Returns:
        (B,) float64, about 0 (natural) to 100; not clamped.

    Raises:
        ValueError: for images other than these, sides below 14 pixels, or a flat image.

    Source: Mittal, Moorthy & Bovik, No-reference image quality assessment in the spatial domain, 2012.
    """
    check_images(x, channels=3)
    if min(x.shape[2:]) < 2 * len(_WINDOW):
        raise ValueError(
            f"BRISQUE needs 14 × 14 pixels, so that its window fits into half of that, got {tuple(x.shape)}"
        )
    grey = _grey(x)
    features = []
    for _ in range(2):
        contrast = _contrast_normalized(grey, "constant")
        alpha, left, right, mean = (fit[:, 0, 1:] for fit in _fit_asymmetric(contrast))
        variance = contrast.square().mean((1, 2, 3))
        shape = _shape_of(contrast.abs().mean((1, 2, 3)).square() / variance)
        features += [torch.stack((shape, variance), -1)]
        features += [torch.stack((alpha, mean, left.square(), right.square()), -1).flatten(1)]
        grey = bicubic_resize(grey, 0.5)
    found = torch.cat(features, -1)
    if not bool(found.isfinite().all()):
        raise ValueError("BRISQUE needs texture, and an image is flat")
    table = _table("brisque_matlab_svm", x.device)
    low, high = table["feature_range"].unbind(1)
    scaled = 2 * (found - low) / (high - low) - 1
    squares = (scaled[:, None] - table["support_vectors"]).square().sum(-1)
    return torch.exp(-table["gamma"] * squares) @ table["dual_coef"] - table["rho"]


def _grey(x: Tensor) -> Tensor:
    """Grey levels 0…255, rounded, as (B, 1, H, W) float64."""
    r, g, b = to_uint8(x).double().unbind(1)
    return (_GREY[0] * r + _GREY[1] * g + _GREY[2] * b)[:, None].round()


def _contrast_normalized(grey: Tensor, edges: Literal["constant", "replicate"]) -> Tensor:
    """Grey levels less their local mean, over their local deviation plus 1; outside is zero or the edge pixel."""
    mean = _blur(grey, edges)
    return (grey - mean) / ((_blur(grey.square(), edges) - mean.square()).abs().sqrt() + 1)


def _blur(x: Tensor, edges: str) -> Tensor:
    x = F.pad(x, (3, 3, 3, 3), mode=edges)
    for dim in (2, 3):
        size = x.shape[dim] - len(_WINDOW) + 1
        total = torch.zeros_like(x.narrow(dim, 0, size))
        for i, weight in enumerate(_WINDOW):
            total = total + weight * x.narrow(dim, i, size)  # not a convolution: see the module
        x = total
    return x


def _fit_asymmetric(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fits asymmetric generalised Gaussians to maps (B, N, H, W) and to their products with four neighbours.

    Returns:
        Shape, left deviation, right deviation and mean, each (B, N, 5); NaN where there is nothing to fit.
    """
    shifts = ((0, 1), (1, 0), (1, 1), (1, -1))  # around the edge, as in the releases
    values = torch.stack((x, *(x * x.roll(shift, (2, 3)) for shift in shifts)), 2).flatten(3)
    squares = values.square()
    left, right = (((squares * side).sum(-1) / side.sum(-1)).sqrt() for side in (values < 0, values > 0))
    ratio = left / right
    flatness = values.abs().mean(-1).square() / squares.mean(-1)
    alpha = _shape_of(flatness * (ratio**3 + 1) * (ratio + 1) / (ratio.square() + 1).square())
    mean = (right - left) * _scale_of(alpha) * (torch.lgamma(2 / alpha) - torch.lgamma(1 / alpha)).exp()
    return alpha, left, right, mean


def _shape_of(flatness: Tensor) -> Tensor:
    """The shape, of 0.2 to 10 in steps of 0.001, of the generalised Gaussian whose (E|x|)² / E x² is nearest."""
    shapes = torch.arange(200, 10001, dtype=flatness.dtype, device=flatness.device) / 1000
    known = (2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes)).exp()
    above = torch.searchsorted(known, flatness.contiguous()).clamp(1, len(known) - 1)  # known increases
    below_is_nearer = flatness - known[above - 1] <= known[above] - flatness
    return torch.where(flatness.isfinite(), shapes[above - below_is_nearer.long()], torch.nan)


def _scale_of(alpha: Tensor) -> Tensor:
    """The scale parameter of a generalised Gaussian of deviation 1."""
    return ((torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha)) / 2).exp()


@cache
def _table(name: str, device: torch.device) -> dict[str, Tensor]:
    with files("flowkit_models").joinpath(f"data_files/{name}.npz").open("rb") as file, np.load(file) as table:
        return {key: torch.from_numpy(table[key]).to(device) for key in table.files}
