"""Detection of LR images that a rescaling model did not produce: they lack the detail that it hides in its own."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.images.photo_file import Header
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.models.base import ImageFlow

WINDOW = 96
"""Side of the part of an LR image that is looked at, its most detailed one, in pixels."""
LEAST = 16
"""Side of an LR image, in pixels, below which nothing is said."""
FLAT = 8 / 255
"""RMS of an LR image's Laplacian below which nothing is said: rounding to 8 bits alone makes 1.3 / 255."""
MARGIN = 0.97
"""The threshold is at most this times the lowest own value that was seen."""


@torch.no_grad()
def calibrate(model: ImageFlow, images: Iterable[Tensor]) -> float:
    """Threshold of `provenance_score`, below which an LR image is not one of the model's own, for `provenance_warning`.

    The model's LR images are held against bicubic, box and Lanczos ones of the same photographs. Where the two kinds
    lie apart, the threshold is the geometric mean of the lowest own and the highest foreign one; where they do not,
    a little below the lowest own one: an own image should rarely be called foreign, so more foreign ones pass.

    Args:
        model: a trained rescaling model, in eval mode.
        images: a dozen photographs or more, HR, (3, H, W) in [0, 1]; about 64 LR pixels a side are enough. Nearly
            flat or tiny ones are left out.

    Returns:
        The threshold; 0, which no image is below, if the model makes no LR images or all images were left out.
    """
    own, foreign = [], []
    for hr in images if model.makes_lr else ():
        found = provenance_score(model, model.downscale(hr[None]))
        others = [provenance_score(model, lr) for lr in _foreign(hr, model.scale)]
        if found is not None and None not in others:
            own.append(found)
            foreign += [other for other in others if other is not None]
    if not own:
        return 0.0
    return min(MARGIN * min(own), math.sqrt(min(own) * max(foreign)))


def provenance_warning(model: ImageFlow, lr: Tensor, threshold: float) -> str | None:
    """Warning, in one line, of an LR image that the rescaling model seems not to have made. It is a guess.

    Args:
        model: a trained rescaling model, in eval mode.
        lr: (1, 3, h, w) in [0, 1], as it was stored, on the model's device.
        threshold: what `calibrate` returned for this model; training notes it in a checkpoint as "own_lr".

    Returns:
        None if nothing speaks against the image: also for a tiny or a nearly flat one, and for a model that makes no
        LR images.
    """
    found = provenance_score(model, lr) if model.makes_lr else None
    if found is None or found >= threshold:
        return None
    return (
        f"this LR image looks as if {type(model).__name__} had not made it (hidden detail {found:.2f}; its own have "
        f"{threshold:.2f} and more), and a rescaling model restores only what it made itself"
    )


def jpeg_warning(model: ImageFlow, header: Header) -> str | None:
    """Warning, in one line, of a small picture that is a JPEG file, for a rescaling model that was not made for those.

    Args:
        model: any model.
        header: of the picture that it is to restore.

    Returns:
        None for a model for super-resolution, one that survives JPEG, or another format.
    """
    if model.config.purpose != "rescaling" or model.survives_jpeg or header.format != "jpeg":
        return None
    return (
        f"a JPEG file as LR image, and {type(model).__name__} never saw one: JPEG takes away what it hides there; "
        "store it as PNG, or take a SAIN model"
    )


@torch.no_grad()
def provenance_score(model: ImageFlow, lr: Tensor) -> float | None:
    """Provenance score of an LR image: its hidden detail over that of one that the model makes of the same content.

    A model hides detail in its LR images, so that they differ at their highest frequencies from bicubic ones of what
    they are decoded to. How much depends on the content. So the decoded image, shifted by half an LR pixel, is
    downscaled by the model, and the new LR image is looked at in the same way: it hides what the model always hides.
    The score of the model's own images is about 1.

    Returns:
        None if the image is tiny or nearly flat.
    """
    multiple = model.lr_multiple
    height, width = (min(side, WINDOW) // multiple * multiple for side in lr.shape[2:])
    if min(height, width) < LEAST:
        return None
    lr = _most_detailed(lr, height, width)
    if _roughness(lr) < FLAT:
        return None
    hr, found = _decoded(model, lr)
    half, rows, columns = model.scale // 2, *((side - multiple) * model.scale for side in (height, width))
    moved = hr[..., half : half + rows, half : half + columns]
    ratio = found / max(_decoded(model, model.downscale(moved.clamp(0, 1)))[1], 1e-9)
    return ratio if math.isfinite(ratio) else None


def _decoded(model: ImageFlow, lr: Tensor) -> tuple[Tensor, float]:
    """HR image at τ = 0, and hidden detail: how much of the LR image's roughness is not in the bicubic of that."""
    hr = model.decode(lr, tuple(lr.new_zeros(len(lr), *shape) for shape in model.latent_shapes(*lr.shape[2:])))
    return hr, _roughness(bicubic_resize(hr, 1 / model.scale) - lr) / max(_roughness(lr), 1e-9)


def _foreign(hr: Tensor, scale: int) -> list[Tensor]:
    """LR images as other programs make them, 8-bit: bicubic, box, Lanczos."""
    height, width = (side // scale for side in hr.shape[1:])
    stored = to_uint8(hr[:, : height * scale, : width * scale])
    image = Image.fromarray(stored.permute(1, 2, 0).cpu().numpy())
    kernels = (Image.Resampling.BOX, Image.Resampling.LANCZOS)
    shrunk = [torch.from_numpy(np.array(image.resize((width, height), kernel))).permute(2, 0, 1) for kernel in kernels]
    return [to_float(x).to(hr)[None] for x in (bicubic_resize(stored, 1 / scale), *shrunk)]


def _most_detailed(lr: Tensor, height: int, width: int) -> Tensor:
    """The part of this size whose Laplacian is strongest, of those half a part apart."""
    rows, columns = (_starts(*sides) for sides in zip(lr.shape[2:], (height, width), strict=True))
    parts = [lr[..., top : top + height, left : left + width] for top in rows for left in columns]
    return max(parts, key=_roughness)


def _starts(whole: int, part: int) -> list[int]:
    return sorted({*range(0, whole - part, max(1, part // 2)), whole - part})


def _roughness(x: Tensor) -> float:
    """RMS of the discrete Laplacian."""
    laplacian = x.diff(n=2, dim=2)[..., 1:-1] + x.diff(n=2, dim=3)[..., 1:-1, :]
    return float(laplacian.square().mean().sqrt())
