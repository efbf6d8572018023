"""Refinement of LR images at test time: small changes that make a model restore the HR image better.

Source: HCD, "Downscaled Representation Matters: Improving Image Rescaling with Collaborative Downscaled Images" (ICCV
2023): gradient descent through frozen networks, first on the HR image that is downscaled, then on the LR image.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flowkit.bases import round_straight_through

STEPS = 15
"""Steps of gradient descent, as published."""
RADIUS = 1.1
"""Grey levels rms: a change of norm 0.3 in an image of 40 × 40 pixels, the published bound."""
STEP = 0.29
"""Grey levels rms of a step: one of norm 20/255 there, as published."""

Map = Callable[[Tensor], Tensor]


@torch.inference_mode(False)  # where it is on, nothing has a gradient
@torch.no_grad()
def refined_lr(hr: Tensor, down: Map, up: Callable[[Tensor, torch.Size], Tensor], steps: int, radius: float) -> Tensor:
    """LR images from which HR images are restored with less error, not rounded.

    The paper bounds the norm of a change over the whole image. Here bound and steps are rms, that norm at its crops, so
    that an image of any size may change as much.

    Args:
        hr: (B, 3, H, W) in [0, 1].
        down: HR images to LR images.
        up: LR images and the size (H, W) to HR images, differentiable.
        steps: of gradient descent on the squared error, for each of the two changes. The best iterate counts.
        radius: of each change, rms over an image in grey levels.

    Returns:
        The LR images, in [0, 1].
    """
    hr = hr.clone() if hr.is_inference() else hr
    hr = hr.to(torch.promote_types(hr.dtype, torch.float32))  # in half precision gradients of large images vanish

    def restored(lr: Tensor) -> Tensor:
        return up(round_straight_through(lr), hr.shape[2:])

    changed = _descended(hr, lambda x: restored(down(x)), hr, steps, radius)
    return _descended(down(changed).clamp(0, 1), restored, hr, steps, radius)


def _descended(start: Tensor, restored: Map, hr: Tensor, steps: int, radius: float) -> Tensor:
    """Images near `start` whose `restored` is nearest to `hr`, of those on the way; `start` itself is the first."""
    norm = math.sqrt(start[0].numel()) / 255  # of a change of one grey level rms
    best, least = start, start.new_full((len(start), 1, 1, 1), math.inf)
    x = start
    for left in range(steps, -1, -1):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            image = restored(x)
            gradient = torch.autograd.grad(_error(image, hr).sum(), x)[0] if left else None
        error = _error(image.clamp(0, 1), hr)  # as it is shown; only without clamping has each pixel a gradient
        best, least = torch.where(error < least, x.detach(), best), torch.minimum(error, least)
        if gradient is not None:
            change = x - start - STEP * norm * gradient / _norm(gradient)
            x = (start + change * (radius * norm / _norm(change)).clamp(max=1)).clamp(0, 1)
    return best


def _error(image: Tensor, hr: Tensor) -> Tensor:
    """Mean squared errors of images, (B, 1, 1, 1)."""
    return (image - hr).square().mean((1, 2, 3), keepdim=True)


def _norm(x: Tensor) -> Tensor:
    """Norms of images, (B, 1, 1, 1), above 0."""
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
