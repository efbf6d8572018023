"""Diversity of samples: standard deviation, and the diversity score of NTIRE 2021."""

from collections.abc import Callable

import torch
from torch import Tensor

from flowkit_models.images.convert import _check_values, _levels
from flowkit_models.metrics.full_reference import _pair


def diversity(samples: Tensor) -> Tensor:
    """Diversity of samples (n, B, C, H, W) in [0, 1]: unbiased std over n, times 255, mean over pixels.

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
    """NTIRE's diversity score: how much closer than the best whole sample the best one at each pixel is, in percent.

    With d_i(k) the error of sample i at pixel k, the global best is min_i mean_k d_i(k), the local best
    mean_k min_i d_i(k), and the score (global best − local best) / global best · 100: 0 for equal samples,
    100 if every pixel is right in one of them. It grows with n; the challenge took 10.

    Args:
        samples: (n, B, C, H, W), see the module.
        hr: the true images (B, C, H, W).
        error_map: makes an error at each pixel, (B, H, W), of two batches: `squared_error_map`, or
            `flowkit_models.metrics.perceptual.LPIPS().maps`.

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


def _check_samples(samples: Tensor) -> None:
    if samples.ndim != 5 or len(samples) < 2:
        raise ValueError(f"diversity takes samples (n >= 2, B, C, H, W), got {tuple(samples.shape)}")
