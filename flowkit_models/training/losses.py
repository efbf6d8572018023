"""Losses of the papers' objectives."""

import torch
import torch.nn.functional as F
from torch import Tensor


def charbonnier(a: Tensor, b: Tensor) -> Tensor:
    """Σ √((a − b)² + 1e-6) over each image, mean over the batch: IRN's L1."""
    return ((a - b).square() + 1e-6).sqrt().flatten(1).sum(1).mean()


def squared(a: Tensor, b: Tensor) -> Tensor:
    """Σ (a − b)² over each image, mean over the batch: IRN's L2."""
    return (a - b).square().flatten(1).sum(1).mean()


def mean_power(latents: tuple[Tensor, ...]) -> Tensor:
    """Mean of z² over all numbers of all latents together (HCFlow for rescaling, L_z)."""
    return torch.cat([z.flatten() for z in latents]).square().mean()


def adversarial(logits: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy of a discriminator's logits against "all real" or "all generated" (eq. (8))."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))
